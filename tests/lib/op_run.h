/* op_run.h - one operation, one shape, one backend: inputs from a seed (the same on every backend), the rows given to
 * the backend in batches of chosen sizes, and the outputs kept for comparison.
 *
 * A case function makes its inputs, uploads them, calls the operation for every batch (`while (op_next(run))`), reads
 * the results back and registers them. The same function so serves the comparison of backends and the check that a
 * row's result does not depend on how rows are batched or on the number of threads. */
#ifndef DS4_TESTS_OP_RUN_H
#define DS4_TESTS_OP_RUN_H

#include "base/rng.h"
#include "lib/op_backends.h"

/* What the inputs look like. */
enum op_fill {
    FILL_NORMAL,   /* bell-shaped, unit variance */
    FILL_ZERO,
    FILL_HUGE,     /* times 2^40 */
    FILL_TINY,     /* times 2^-40 */
    FILL_INTEGERS, /* -2 .. 2: sums are exact in any order, ties are frequent */
    FILL_SPIKES,   /* small, with one value in 37 a thousand times larger */
    FILL_STAIRS    /* rows of 64 values scaled by 2^-12 .. 2^12 */
};

struct op_shape {
    uint32_t n_rows, n_hc, n_embd, n_heads, dim, n_rope, n_in, n_out, n_groups, n_outputs, n_stack, n_used;
    uint32_t type, type2;  /* quant_id */
    uint32_t n_seqs, start, window, ratio, top_k, rows_per_span, n_slots;
    enum op_row_format format;
    enum op_fill fill;
    bool round, is_index, inverse, plain; /* plain: without what the operation may leave out */
    uint32_t skew;         /* bytes by which activations are off 64-byte alignment */
    bool large;            /* compared between backends only */
};

enum op_output_kind {
    OUTPUT_FLOAT,   /* |a - b| / max(|b|, floor) of a row, 2-norm: tolerance in the mean square, 1.5 of it for any */
    OUTPUT_ROUNDED, /* the same, but up to 2% of the values may be a rounding step away (tolerance for a row then) */
    OUTPUT_BYTES,   /* equal */
    OUTPUT_TOP      /* int32 [n_rows][row_n], the best of `scores`, see check_top */
};
struct op_output {
    const char *name;
    enum op_output_kind kind;
    size_t n_rows, row_n;  /* elements; bytes for OUTPUT_BYTES */
    double tolerance;
    const double *floors;  /* [n_rows] or NULL */
    void *data;
    /* OUTPUT_TOP */
    const double *scores;  /* [n_rows][n_scores] */
    const int32_t *counts; /* chosen of each row; -1: choice skipped */
    const uint32_t *n_items; /* candidates of each row */
    size_t n_scores;
    bool ascending;        /* ids ascend; else scores descend */
};

struct op_run {
    struct op_dev dev;
    struct rng rng;
    const struct op_shape *shape;
    const uint32_t *chunks; /* sizes of batches, in turn; NULL: all rows at once */
    size_t n_chunks, chunk_i;
    uint32_t first, n;      /* the batch of this turn */
    struct op_output outputs[4];
    size_t n_outputs;
    struct op_host_block *hosts; /* freed with the run */
};
typedef void (*op_case_fn)(struct op_run *run, const struct op_shape *s);

void op_run_case(struct op_run *run, const struct op_backend_entry *entry, uint32_t n_threads, const char *name,
                 op_case_fn fn, const struct op_shape *shape, const uint32_t *chunks, size_t n_chunks);
void op_run_free(struct op_run *run);

/* The next batch of rows; false when all were given. */
bool op_next(struct op_run *run);
/* Host memory that lives as long as the run. */
void *op_host(struct op_run *run, size_t count, size_t size);
void op_fill(struct op_run *run, float *x, size_t n, enum op_fill fill);
/* Filled by the shape's rule and uploaded with the shape's skew; *host (may be NULL) borrows the host's copy. */
float *op_input(struct op_run *run, size_t n, const float **host);
/* Bell-shaped parameters: scale g + offset. */
float *op_parameters(struct op_run *run, size_t n, float scale, float offset);
float *op_result(struct op_run *run, size_t n); /* memory of the backend for a result */
/* A random matrix of a format; *rms (may be NULL) is the root mean square of its weights. */
struct op_weight op_matrix(struct op_run *run, uint32_t type, uint32_t n_in, uint32_t n_out, uint32_t n_stack,
                           double *rms);
/* Registers floats as output; reads them back from the backend. */
struct op_output *op_output_floats(struct op_run *run, const char *name, const float *there, size_t n_rows,
                                   size_t row_n, double tolerance);
struct op_output *op_output_add(struct op_run *run, const char *name, enum op_output_kind kind, void *data,
                                size_t n_rows, size_t row_n);

/* Fail the test, naming the case, unless the outputs agree. *worst: largest error relative to its tolerance. */
void op_compare(const struct op_run *run, const struct op_run *ref, const char *what, double *worst);
void op_compare_bits(const struct op_run *run, const struct op_run *ref, const char *what);

#endif
