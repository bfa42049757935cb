/* emu_impl.h - inside of the emulator: its one state, shared by the scheduler (emu.c) and the checks (memory.c). */
#ifndef DS4_GPU_EMU_IMPL_H
#define DS4_GPU_EMU_IMPL_H

#include "gpu/emu/emu.h"

#define EMU_STACK_BYTES (64u * 1024u)
#define EMU_THREADS_MAX 1024
#define EMU_SHARED_MAX 32u                 /* arrays of a kernel */
#define EMU_SHARED_BYTES_MAX (32u * 1024u) /* Metal's limit */
#define EMU_GUESSES 64u
#define EMU_ARENA_BYTES (128u * 1024u)     /* room for what exceeds it, and gaps between arrays */

enum emu_state { EMU_RUNNING, EMU_AT_SIMD, EMU_AT_BARRIER, EMU_DONE };
enum emu_simd_op { EMU_SHUFFLE = 1, EMU_SUM, EMU_MAX, EMU_MMA, EMU_SIMD_BARRIER };

struct emu_fiber {
    void *sp;
    uint8_t *stack;
    enum emu_state state;
    enum emu_simd_op op;
    int line;              /* of the operation waited at */
    uint32_t n_shared;     /* arrays declared so far */
    uint32_t value, from;  /* of a simd operation */
    const float *a, *b;    /* of EMU_MMA */
    float *c;
};

struct emu_array {
    uint8_t *ptr;
    size_t bytes;
    const char *name;
};

/* What is remembered of a byte: who wrote and read it last. Epochs count barriers and never repeat, so that a record
 * needs no reset; simd epochs count the simd barriers of a simdgroup in its threadgroup. */
struct emu_cell {
    uint32_t write_epoch, read_epoch;
    uint32_t write_group, read_group, several_scope; /* several_scope: the one in which several groups read it */
    uint16_t write_thread, read_thread, other_reader;
    uint16_t write_simd, read_simd, other_simd;
    bool two_readers, two_simdgroups;
};

struct emu {
    struct emu_options options;
    struct emu_fiber fibers[EMU_THREADS_MAX];
    int n_threads, current;                /* current: -1 outside of a fiber */
    uint8_t *stack;                        /* of the current fiber */
    void *main_sp;
    unsigned group[3];
    const struct emu_kernel *kernel;
    const struct emu_binding *bindings;
    int n_bindings;
    bool alone[EMU_PARAMS_MAX + 1];        /* bindings that overlap no other */
    uint8_t guesses[EMU_GUESSES];          /* bindings found for addresses, by their middle bits */
    void *args[EMU_PARAMS_MAX + 1];
    struct emu_array shared[EMU_SHARED_MAX];
    uint32_t n_shared;
    size_t arena_used, shared_bytes;
    uint32_t epoch, group_id;
    uint32_t scope_first_group, scope_id;  /* a scope: a launch, or launches that may overlap */
    bool overlapping;
    uint16_t simd_epoch[EMU_THREADS_MAX / 32];
    bool stopped;                          /* an access outside of everything ends the launch */
    uint64_t random;
    struct emu_report *report;
    uint8_t *arena, *stacks;
    struct emu_cell *arena_cells;          /* [EMU_ARENA_BYTES] */
};
extern struct emu emu_state;

void emu_error(int line, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends the launch from within a fiber. */
void emu_stop(void);
void emu_pages_release(void);
/* The bindings of a launch are known: prepares the search for the one that an address lies in. */
void emu_bind(void);

#endif
