/* cpu.h - inside of the CPU backend. Operations live in one file a family and call the leaf functions of kernels.h.
 * Memory is sized once from the limits: one shared region (quantised inputs, sorted experts, index scores) and one
 * region a worker, laid out anew by each operation. Tasks are whole output elements, so threads never change a sum. */
#ifndef DS4_OPS_CPU_CPU_H
#define DS4_OPS_CPU_CPU_H

#include "base/mem.h"
#include "ops/backend.h"
#include "ops/cpu/kernels.h"
#include "quant/quant.h"

#define CPU_HC_MAX 16u                                 /* residual streams; the model family has 4 */
#define CPU_MIX_MAX (CPU_HC_MAX * (2u + CPU_HC_MAX))   /* outputs of hc_mix */
#define CPU_GROUPS_MAX 64u                             /* groups of a matmul */
#define ATTENTION_BLOCK 64u                            /* rows unpacked at a time: 128 KiB at dim 512 */
#define INDEX_CHUNK 512u                               /* index rows a task scores */

/* What operations took (timed.c). */
#define CPU_TIMES_MAX 64u
struct cpu_times {
    uint32_t n;
    struct cpu_time {
        const char *op;
        uint32_t type;
        uint64_t n, ns;
    } all[CPU_TIMES_MAX];
};

struct backend_cpu {
    struct backend base;
    struct backend_limits limits;
    const struct cpu_kernels *kernels;
    uint32_t n_threads;
    uint64_t input_bytes, worker_bytes, map_bytes;
    uint8_t *map;         /* everything below, one block */
    uint8_t *inputs;      /* [input_bytes] records of quantised rows */
    float *mix;           /* [n_rows][CPU_MIX_MAX] products of hc_mix */
    uint32_t *order;      /* [n_rows n_used] (row, choice) pairs sorted by expert */
    uint32_t *first;      /* [n_experts + 1] where an expert's pairs start in order */
    uint32_t *active;     /* [n_experts] experts that have pairs */
    float *index_scores;  /* [n_index_rows] of one query */
    uint8_t *workers;     /* [n_threads][worker_bytes] */
    struct backend_ops timed_ops;
    struct cpu_times times;
};

/* What a task receives. */
struct cpu_job {
    struct backend_cpu *cpu;
    const void *args;
};
void cpu_run(struct backend_cpu *cpu, thread_pool_fn fn, const void *args, uint32_t n_tasks);

static inline struct backend_cpu *cpu_of(struct backend *b) { return (struct backend_cpu *)b; }
static inline void *worker_scratch(const struct backend_cpu *cpu, uint32_t worker_i)
{
    return cpu->workers + worker_i * cpu->worker_bytes;
}
static inline uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }
static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* The kernels of a weight format; NULL = unpacked to float by its decoder. Coarse inputs are for routed experts only: a
 * 2-bit matrix anywhere else is multiplied in float, because attention, shared expert and head need the precision. */
static inline const struct format_kernels *format_of(const struct backend_cpu *cpu, const struct op_weight *w)
{
    const struct format_kernels *format = cpu->kernels->format(w->type);
    return format && format->form >= INPUT_COARSE && w->n_stack == 1 ? NULL : format;
}
static inline enum input_form form_of(const struct format_kernels *format)
{
    return format ? format->form : INPUT_FLOAT;
}
/* Whether so many inputs are multiplied with weights as they lie. */
static inline bool takes_dots(const struct format_kernels *format, uint32_t n_cols)
{
    return format && n_cols <= format->dot_cols;
}

/* input.c: rows of inputs in the forms that some weights need. */
struct input_set {
    const float *x;
    uint32_t n_rows, n_in;             /* rows of n_in values, one after the other */
    uint8_t *records[INPUT_FORMS];     /* NULL: not needed */
    size_t record_bytes[INPUT_FORMS];
    float *panels; /* NULL or [n_groups][n_rows / n_groups / INPUT_PANEL, up][n_in / 8, up][INPUT_PANEL][8] */
    uint32_t n_groups;
};
/* Bytes a row takes in the forms of mask (bit = form). */
size_t input_set_row_bytes(uint32_t forms, uint32_t n_in);
/* Quantises all rows into cpu->inputs, which must have room. */
void input_set_make(struct backend_cpu *cpu, struct input_set *set, const float *x, uint32_t n_rows, uint32_t n_in,
                    uint32_t forms);
struct input input_of(const struct input_set *set, enum input_form form, uint32_t row);
/* Floats in panels, which lie after what input_set_make made: the bytes of all rows of n_groups inputs in turn, how to
 * make them, and one input. */
size_t input_panels_bytes(uint32_t n_rows, uint32_t n_in, uint32_t n_groups);
void input_panels_make(struct backend_cpu *cpu, struct input_set *set, uint32_t n_groups);
struct input input_in_panel(const struct input_set *set, uint32_t row);

/* tile.c: n_rows rows of matrix stack_i of w times some inputs: cols[c].y[i] = row (row_first + i) . cols[c].x. By dot
 * for few columns, else unpacked, tile_rows_of(format) at a time. memory: multiply_bytes() of scratch that begins with
 * the n_cols <= COLS_MAX cols, whose y may be moved. */
uint32_t tile_rows_of(const struct format_kernels *format);
void multiply_rows(const struct backend_cpu *cpu, const struct op_weight *w, uint32_t stack_i, uint32_t row_first,
                   uint32_t n_rows, uint32_t n_cols, void *memory);
uint64_t multiply_bytes(void);

#define OP(op_name) void cpu_##op_name(struct backend *b, const struct op_name##_args *args);
#include "ops/ops.def"
#undef OP

#endif
