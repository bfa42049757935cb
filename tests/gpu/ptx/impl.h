/* impl.h - what the parts of the interpreter share: decoded instructions and the registers of a warp.
 *
 * A register of a kernel has a place in the file of its warp: 32 lanes of 4 bytes, or of 8 for 64-bit registers; 16-bit
 * registers are kept zero-extended in 4. A predicate is one word with a bit for each lane. An operand (`ptx_ref`) is
 * the place's offset in bytes, or for a constant the complement of its offset among the constants of the kernel, which
 * lie there in the same form. */
#ifndef DS4_TESTS_GPU_PTX_IMPL_H
#define DS4_TESTS_GPU_PTX_IMPL_H

#include "gpu/ptx/ptx.h"

#define PTX_LANES 32
#define PTX_ALL 0xffffffffu
#define PTX_WARPS_MAX 32
#define PTX_PARAMS_MAX 32
#define PTX_PARAM_BYTES_MAX 4096
#define PTX_PARAM_FIRST 256      /* address of the first parameter: zero is none */
#define PTX_SHARED_MAX (48 << 10)  /* of static shared memory: what CUDA allows without asking */
#define PTX_GUARD 32             /* bytes between arrays of shared memory, which belong to nobody */
#define PTX_LOCAL_MAX 4096       /* of a thread */
#define PTX_VECTOR_MAX 14        /* operands of mma */

typedef int32_t ptx_ref;
#define PTX_NONE INT32_MIN

enum ptx_space { SPACE_GLOBAL, SPACE_SHARED, SPACE_LOCAL, SPACE_PARAM };

/* After these, the numbers of lanes.def. */
enum ptx_kind {
    KIND_BRANCH, KIND_RETURN, KIND_BARRIER, KIND_WARP_BARRIER, KIND_SHUFFLE, KIND_VOTE, KIND_LDMATRIX, KIND_MMA,
    KIND_LOAD, KIND_STORE, KIND_GRID_WAIT, KIND_GRID_LAUNCH,
    KIND_LANES, /* first of those that ptx_lanes has a function for */
    KIND_SELECT_32 = KIND_LANES, KIND_SELECT_64, KIND_PACK, KIND_UNPACK, KIND_FIELD_32, KIND_FIELD_64,
    KIND_PRED_MOV, KIND_PRED_NOT, KIND_PRED_AND, KIND_PRED_OR, KIND_PRED_XOR,
    KIND_LIST,
#define UNARY(id, ...) KIND_##id,
#define BINARY(id, ...) KIND_##id,
#define TERNARY(id, ...) KIND_##id,
#define COMPARE(id, ...) KIND_##id,
#define COMPARES_OF_BITS(T, type) KIND_setp_eq_##T, KIND_setp_ne_##T,
#define COMPARES(T, type) KIND_setp_eq_##T, KIND_setp_ne_##T, KIND_setp_lt_##T, KIND_setp_le_##T, KIND_setp_gt_##T, \
    KIND_setp_ge_##T,
    KIND_BEFORE_LIST_ = KIND_LIST - 1,
#include "gpu/ptx/lanes.def"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef COMPARE
#undef COMPARES_OF_BITS
#undef COMPARES
    N_KINDS
};

enum { SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR, SHUFFLE_INDEX };
enum { VOTE_ALL, VOTE_ANY, VOTE_BALLOT };

struct ptx_op {
    uint16_t kind;
    uint8_t guard_not;
    uint8_t mode;        /* of shuffles and votes; ldmatrix: transposed */
    uint8_t n;           /* elements of a load, a store, a pack, ldmatrix */
    uint8_t bytes;       /* of an element in memory */
    uint8_t is_signed;   /* loads extend the sign */
    uint8_t unwritten;   /* ld.global.nc: nobody writes there while the kernel is on the device */
    uint8_t space;
    uint8_t wide[4];     /* element of a load or store lies in a register of 64 bits */
    ptx_ref guard;       /* predicate or PTX_NONE */
    ptx_ref d, a, b, c, e;
    ptx_ref v[PTX_VECTOR_MAX];
    int64_t offset;      /* of the address in a, or the address when a is PTX_NONE */
    uint32_t target;     /* of a branch: index of an instruction */
    uint32_t line;       /* of the text */
};

struct ptx_array { /* of shared memory */
    uint32_t first, bytes;
};

struct ptx_kernel {
    struct ptx_kernel *next;
    const struct ptx_module *module;
    char name[96];
    uint32_t threads_max;
    bool waits; /* for the kernel before it */
    size_t n_params;
    uint32_t param_first[PTX_PARAMS_MAX], param_bytes[PTX_PARAMS_MAX], params_end;
    struct ptx_op *ops;
    size_t n_ops, ops_cap;
    size_t register_bytes; /* of the file of a warp */
    uint8_t *constants;
    size_t constant_bytes, constant_cap;
    struct ptx_array arrays[64];
    size_t n_arrays;
    uint32_t shared_bytes, local_bytes;
    ptx_ref tid, laneid, ctaid[3], nctaid[3], ntid; /* places of the special registers */
};

struct ptx_global { /* a table of the module */
    struct ptx_global *next;
    char name[160];
    uint8_t *bytes;
    uint64_t n_bytes;
};

struct ptx_module {
    char *text;
    size_t n;
    struct ptx_kernel *kernels;
    struct ptx_global *globals;
};

typedef void (*ptx_lane_fn)(const struct ptx_op *op, uint8_t *regs, const uint8_t *constants, uint32_t lanes);
/* The same functions twice: for any processor, and for x86 with AVX2 and FMA. [kind - KIND_LANES] */
struct ptx_lanes {
    ptx_lane_fn fn[N_KINDS - KIND_LANES];
    /* d [16][8] = a [16][16] x b [16][8] + c, halves as bits. */
    void (*mma)(float d[128], const uint16_t a[256], const uint16_t b[128], const float c[128], enum ptx_sums sums);
};
extern const struct ptx_lanes ptx_lanes_base, ptx_lanes_avx2;

static inline const uint8_t *ptx_place(ptx_ref ref, const uint8_t *regs, const uint8_t *constants)
{
    return ref >= 0 ? regs + ref : constants + ~ref;
}

/* decode.c: an instruction's text to an operation. */
struct ptx_operand {
    enum { OPERAND_NONE, OPERAND_REGISTER, OPERAND_NUMBER, OPERAND_LABEL, OPERAND_VECTOR, OPERAND_ADDRESS,
           OPERAND_SINK } kind;
    uint8_t bits;        /* of a register: 1, 16, 32, 64 */
    ptx_ref place, place2; /* place2: d|p */
    uint64_t number;     /* the bits of a float, the address of a symbol */
    bool is_float, is_negative;
    int64_t offset;      /* of an address; kind of its base: place, or PTX_NONE and number */
    uint8_t n;           /* of a vector */
    uint8_t v_bits[4];
    ptx_ref v[4];
    const char *label;
    size_t label_n;
};
#define PTX_OPERANDS_MAX 6
struct ptx_instruction {
    char name[64];
    uint32_t line;
    ptx_ref guard;
    bool guard_not;
    struct ptx_operand operands[PTX_OPERANDS_MAX];
    size_t n_operands;
};
/* The place of a constant: bits 1, 16, 32 or 64. False: no memory. */
bool ptx_constant(struct ptx_kernel *kernel, uint64_t value, unsigned bits, ptx_ref *out);
/* Branches keep their label for the reader to resolve. False: *why has a sentence. */
bool ptx_decode(struct ptx_kernel *kernel, const struct ptx_instruction *in, struct ptx_op *out, const char **why);

/* memory.c */
struct ptx_fault {
    bool failed;
    uint32_t lane;
    uint64_t address;
    const char *what;
};
struct ptx_room { /* where a warp finds its memory */
    const struct ptx_kernel *kernel;
    const struct ptx_memory *memory;
    uint8_t *shared, *params, *local; /* local [32 lanes][local_bytes] */
    uint8_t *owner;                    /* of each byte of shared memory: 1 + array, or 0 */
    uint32_t early;                    /* lanes that have yet to wait for the kernel before */
};
bool ptx_load_lanes(const struct ptx_room *room, const struct ptx_op *op, uint8_t *regs, uint32_t lanes,
                    struct ptx_fault *fault);
bool ptx_store_lanes(const struct ptx_room *room, const struct ptx_op *op, uint8_t *regs, uint32_t lanes,
                     struct ptx_fault *fault);
bool ptx_load_matrices(const struct ptx_room *room, const struct ptx_op *op, uint8_t *regs, struct ptx_fault *fault);

#endif
