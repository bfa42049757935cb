/* backend_impl.h - inside of the GPU backend: its struct, its table of pipelines, and how an operation is encoded. */
#ifndef DS4_GPU_BACKEND_IMPL_H
#define DS4_GPU_BACKEND_IMPL_H

#include "gpu/backend.h"
#include "gpu/kernels/records.h"

#define REGIONS_MAX 1024
#define SCRATCH_PART_BYTES (384u << 20) /* what one operation may take for a slice of its rows */
#define HC_PRODUCTS_MAX (16u * 18u + 1u)
#define HC_ROW_BYTES ((uint64_t)HC_PARTS * HC_PRODUCTS_MAX * 4)
#define ATTENTION_CHUNK_ROWS 64u       /* CHUNK_ROWS of attention.k */
#define ATTENTION_TILE_HEADS 16u       /* TILE_HEADS of attend_tiles.k */
#define ENTER_ROWS_MAX 8u              /* rows up to which coefficients and reduction are one kernel */
#define SPLIT_ROWS_MAX 8u              /* rows of a batch up to which attention is split over chunks */
#define FEW_ROWS 8u                    /* that products_* takes at a time */
#define GRID_MOST 65535u               /* threadgroups of a grid in its second and third dimension, by CUDA's limit */
#define TILE 64u                       /* of products.k */
#define TILES_FROM 16u                 /* rows of a batch from which products are computed in tiles */

/* Kernels that exist once for each weight format, for float formats, for block formats, and those that exist once. */
#define ROW_KERNELS(X) X(embed) X(hc_dot)
#define FLOAT_KERNELS(X) X(matvec) X(matmul) X(moe_gate_up) X(moe_expert) X(moe_down)
#define BLOCK_KERNELS(X) \
    X(product) X(products) X(tiles) X(expert_gate_up) X(expert_product) X(expert_down) X(expert_tiles)
#define FORMAT_KERNELS(X) ROW_KERNELS(X) FLOAT_KERNELS(X) BLOCK_KERNELS(X)
#define PLAIN_KERNELS(X) \
    X(hc_mix) X(hc_head) X(hc_reduce) X(hc_enter) X(hc_expand) X(rms_norm_quantise) X(swiglu_quantise) \
    X(rope_quantise) X(rms_norm) X(rope) X(swiglu) X(add) X(add_streams) X(gather) \
    X(router) X(moe_activate) X(kv_store) X(index_query) X(compress_pool) X(compress_slots) X(norm_rope) X(prepare) \
    X(index_score) X(index_top) X(attention) X(attention_part) X(attention_merge) X(attend_tiles) \
    X(attend_tiles_part) \
    X(repack) X(generate) X(logits_most) X(logits_near) X(logits_join) X(logits_choose) \
    X(beside_q8_0) X(beside_q8_0_packed) X(quantise) X(moe_count) X(moe_sort) X(moe_places) X(moe_sum)
enum { N_WEIGHT_FORMATS = 14 }; /* the last 5: as packed.k lays them out */
#define X(name) FAMILY_##name,
enum format_family { FORMAT_KERNELS(X) N_FAMILIES };
#undef X
#define X(name) PIPE_##name,
enum plain_pipe { PLAIN_KERNELS(X) N_PLAIN };
#undef X

/* Memory that addresses are resolved in. */
struct region {
    const uint8_t *first;
    uint64_t bytes;
    struct gpu_buffer *buffer;
    bool mapped; /* memory of the host, wrapped */
};

/* What goes before attention, in the order in which it comes (ops_prepare.c): the norm and the rotation of q, those of
 * kv, its way into the ring; compressors, also without the others. */
#define COMPRESSORS_MAX 2u
struct gpu_prepare {
    enum { PREPARE_NOTHING, PREPARE_Q, PREPARE_KV_NORMED, PREPARE_KV_ROTATED, PREPARE_KV_STORED } step;
    struct rms_norm_args norm, kv_norm;
    struct rope_args rope, kv_rope;
    struct kv_store_args store;
    uint32_t n_compressors;
    struct compress_args compressors[COMPRESSORS_MAX];
};

/* An operation that waits for the next one (ops_fused.c). */
struct gpu_waiting {
    enum {
        WAITING_NONE, WAITING_MIX, WAITING_REDUCE, WAITING_NORM, WAITING_ROUTER, WAITING_SWIGLU, WAITING_ADD,
        WAITING_EXPAND, WAITING_ROPE, WAITING_MERGE, WAITING_PREPARE
    } kind;
    bool mixes;               /* the reduction waits with the coefficients before it */
    bool routes;              /* the activation waits with the router before it */
    struct hc_mix_args mix;   /* whose products are in hc_parts */
    struct router_args route;
    union {
        struct hc_reduce_args reduce;
        struct rms_norm_args norm;
        struct swiglu_args swiglu;
        struct add_args add;
        struct {
            struct hc_expand_args expand;
            const float *more; /* that its y grows by before; NULL: nothing */
        };
        struct {
            struct rope_args rope;
            bool merges; /* the rotation waits with the attention before it, whose parts are there */
            struct attention_args attention;
        };
        struct gpu_prepare prepare;
    };
};

/* Rows of n values rounded to integers (products.k). */
struct gpu_input {
    uint32_t n_rows, n;
    bool in_bytes;
    void *q;
    float *scales, *sums;
};

/* The rows that experts get next, rounded already. */
struct gpu_ready {
    const float *x; /* NULL: none are */
    struct gpu_input input;
    float most;
};

/* The choices of a batch, sorted by expert, which its two operations with experts share: those of each slice of its
 * rows in a part of the room. */
struct gpu_sorts {
    uint8_t *room;
    uint64_t slice_bytes;
    const int32_t *ids; /* NULL: none are sorted */
    uint32_t n_rows, n_used, n_experts;
    uint32_t n_sorted; /* rows from the first on */
};

struct backend_gpu {
    struct backend base;
    const struct gpu_host *host;
    struct gpu *gpu;
    struct gpu_info info;
    struct backend_limits limits;
    const struct gpu_pipe *plain[N_PLAIN], *by_format[N_FAMILIES][N_WEIGHT_FORMATS];
    struct region regions[REGIONS_MAX];
    uint32_t n_regions;
    uint8_t *scratch;
    uint64_t scratch_bytes;
    uint64_t scratch_used;
    float *hc_parts; /* products of hyper-connections: [hc_rows][HC_PARTS][HC_PRODUCTS_MAX] */
    uint32_t hc_rows;
    uint32_t key_rows, split_rows, n_chunks, input_rows, expert_rows; /* rows of a slice of each user of scratch */
    struct gpu_waiting waiting;
    struct gpu_ready ready;
    uint8_t *ready_room; /* of its input: TILES_FROM - 1 rows of limits.n_embd or n_in values */
    struct gpu_sorts sorts;
    struct gpu_stage *stage;                          /* NULL: no experts are streamed */
    struct gpu_times *times;                          /* NULL: kernels are not timed */
    bool pending;                                     /* dispatches since the last wait */
    bool generates;                                   /* mapped memory is not copied, but filled here */
    bool failed;
    char why[256];
};
static inline struct backend_gpu *gpu_of(struct backend *b) { return (struct backend_gpu *)b; }

/* An operation being encoded: buffers are bound in the order of a kernel's parameters. */
struct gpu_call {
    struct backend_gpu *b;
    struct gpu_ref refs[GPU_REFS_MAX];
    int n;
};
static inline struct gpu_call gpu_call_begin(struct backend *b) { return (struct gpu_call){.b = gpu_of(b)}; }
/* NULL or no bytes: bound to something that the kernel does not touch. */
void gpu_bind(struct gpu_call *c, const void *ptr, uint64_t bytes);
void gpu_bind_floats(struct gpu_call *c, const float *ptr, uint64_t n);
/* From ptr to the end of the memory it lies in. */
void gpu_bind_rest(struct gpu_call *c, const void *ptr);
void gpu_bind_weight(struct gpu_call *c, const struct op_weight *w);
void gpu_run(struct gpu_call *c, const struct gpu_pipe *pipe, const void *record, size_t record_bytes, uint32_t x,
             uint32_t y, uint32_t z, uint32_t n_threads);
const struct gpu_pipe *gpu_format_pipe(struct backend_gpu *b, enum format_family family, uint32_t type);
bool gpu_is_block_format(uint32_t type);
/* Kernels for few rows of weights of this format take integers in bytes. */
bool gpu_takes_bytes(uint32_t type);
/* The largest integer that an input becomes beside weights of this block format; of several the least is taken. */
float gpu_input_most(uint32_t type);
void gpu_fail(struct backend_gpu *b, const char *sentence);
void gpu_plain_name(size_t i, char *name, size_t size);
void gpu_family_name(size_t family, size_t format_i, char *name, size_t size);
/* Waits for the kernel that was just dispatched and adds what it took. */
bool gpu_note_time(struct backend_gpu *b, const struct gpu_pipe *pipe);

/* Memory until the operation ends; every operation begins with gpu_scratch_begin. */
static inline void gpu_scratch_begin(struct backend *b) { gpu_of(b)->scratch_used = 0; }
void *gpu_scratch(struct backend *b, uint64_t bytes);
/* In scratch. in_bytes: as the kernels of digits.k take them. */
struct gpu_input gpu_quantise(struct backend *b, const float *x, uint32_t n_rows, uint32_t n, float most,
                              bool in_bytes);
void gpu_bind_input(struct gpu_call *c, const struct gpu_input *input);
/* How the values of a row of streams are cut into parts: `each` chunks of 8 of every stream. */
struct gpu_hc_cut {
    uint32_t n_streams, each, n_parts;
};
struct gpu_hc_cut gpu_hc_cut(uint32_t n_hc, uint32_t n_in);
/* Products of fn with rows and their sums of squares, into hc_parts; and the coefficients from them. expand: done
 * before, with `more` added to its y, when these are not NULL; not every shape can. */
bool gpu_hc_can_expand(uint32_t n_hc, const struct op_weight *fn);
void gpu_hc_products(struct backend *b, uint32_t n_rows, uint32_t n_hc, const float *x, const struct op_weight *fn,
                     const struct hc_expand_args *expand, const float *more);
struct hc_mix_record gpu_hc_mix_record(const struct hc_mix_args *args);
void gpu_run_hc_mix(struct backend *b, const struct hc_mix_args *args);
/* Makes the integers of x together with x, when x is what an operation that waits will make. */
bool gpu_quantise_waiting(struct backend *b, const float *x, const struct gpu_input *input, float most);
void gpu_flush(struct backend_gpu *b);
/* Whether the router made the integers of x, where they stay until the next operation with experts. */
bool gpu_take_ready(struct backend *b, const float *x, uint32_t n_rows, uint32_t n, float most, bool in_bytes,
                    struct gpu_input *input);
static inline uint32_t gpu_ready_width(const struct backend_limits *limits)
{
    return limits->n_embd ? limits->n_embd : limits->n_in;
}
void gpu_run_norm(struct backend *b, const struct rms_norm_args *args, const struct gpu_input *input, float most);
/* True when what waits before attention goes on with the operation, which then waits with it. */
bool gpu_prepare_norm(struct gpu_waiting *w, const struct rms_norm_args *args);
bool gpu_prepare_rope(struct gpu_waiting *w, const struct rope_args *args);
void gpu_run_prepare(struct backend *b, const struct gpu_prepare *p);
/* The parts of attention become its result; rotated by rope and with its integers when these are not NULL. */
void gpu_run_merge(struct backend *b, const struct attention_args *args, const struct rope_args *rope,
                   const struct gpu_input *input, float most);
/* Where state lies, and pos, seq_i, seqs: the parameters that most kernels of state have in common. */
struct ring_place gpu_ring_place(const struct op_batch *batch, const struct op_ring *ring);
struct rows_place gpu_rows_place(const struct op_batch *batch, const struct op_span_rows *rows);
uint32_t gpu_narrow(uint64_t n);
void gpu_bind_batch(struct gpu_call *c, const struct op_batch *batch);
/* Memory of the device, in a region of its own; NULL when there is none. */
void *gpu_take(struct backend_gpu *b, uint64_t bytes);
/* mark, send and arrive of gpu.h; where a host has none, send writes. */
uint64_t gpu_mark(struct backend_gpu *b);
void gpu_send(struct backend_gpu *b, void *to, const void *from, uint64_t bytes, uint64_t mark);
void gpu_arrive(struct backend_gpu *b);
/* Experts that rows of ids name, brought to the device (stage.c). Takes from the front as many rows as there is room
 * for, at most n_rows, and returns how many; *ids becomes places in the stacks of the weights. 0: it failed. */
uint32_t gpu_stage_rows(struct backend *b, const int32_t **ids, uint32_t n_rows, uint32_t n_used,
                        struct op_weight *const *weights, uint32_t n_weights);
/* The same for many rows: some of the experts that they name, from number *next on. False when there are no more of
 * them, or it failed. */
struct gpu_staged {
    const int32_t *ids;   /* negative where a choice is of another expert */
    uint32_t n_experts;   /* that ids number */
    const int32_t *where; /* [n_experts] places in the stacks; NULL: as numbered */
};
bool gpu_stage_experts(struct backend *b, const int32_t *ids, uint32_t n_pairs, uint32_t *next,
                       struct op_weight *const *weights, uint32_t n_weights, struct gpu_staged *out);
/* The ids that were read last may have changed. */
void gpu_stage_forget(struct backend_gpu *b);
/* So may those that were sorted, and the rows that are ready. */
void gpu_forget_choices(struct backend_gpu *b);
void gpu_stage_free(struct backend_gpu *b);
/* The region that holds [ptr, ptr + bytes); NULL when none does. */
const struct region *gpu_region(struct backend_gpu *b, const void *ptr, uint64_t bytes);
/* Whether memory of the host that is mapped can be bound whole. */
bool gpu_fits_one_buffer(const struct backend_gpu *b, uint64_t bytes);
void gpu_pack(struct backend *b, struct op_weight *w);
/* How a matrix is made up; the kernel of generate.k follows it. */
enum ds4_status gpu_generate_rule(uint64_t bytes, uint32_t type, uint64_t n_in, uint32_t seed,
                                  struct generate_record *rule, struct ds4_error *error) DS4_MUST_CHECK;
static inline uint32_t gpu_groups(uint64_t n, uint32_t each) { return (uint32_t)((n + each - 1) / each); }

uint64_t gpu_sample_scratch(uint32_t n_vocab, uint32_t n_rows);
bool gpu_candidates(struct backend *b, const float *logits, uint32_t n, float margin, float temperature,
                    struct backend_candidates *out);
void gpu_choose(struct backend *b, const float *logits, uint32_t n, uint32_t n_rows, struct backend_step *steps,
                struct backend_choice *choices, int32_t *tokens, int32_t *pos);

#define OP(op_name) void gpu_##op_name(struct backend *b, const struct op_name##_args *args);
#include "ops/ops.def"
#undef OP

#endif
