/* selftest_run.h - one operation, one shape, one backend: inputs from a seed (the same on every backend), the rows
 * given to the backend in batches of chosen sizes, and the outputs kept for comparison.
 *
 * A case function makes its inputs, uploads them, calls the operation for every batch (`while (op_next(run))`), reads
 * the results back and registers them. The same function so serves the comparison of backends and the check that a
 * row's result does not depend on how rows are batched or on the number of threads. The tests of the operations use all
 * of it, too. What does not fit into the memory set aside is a mistake in the table of cases: `ensure`. */
#ifndef DS4_TOOLS_SELFTEST_RUN_H
#define DS4_TOOLS_SELFTEST_RUN_H

#include "base/rng.h"
#include "ops/backend.h"

/* A backend and a region of its memory, handed out piece by piece. */
struct op_dev {
    struct backend *b;
    uint8_t *base;
    size_t used, cap;
};
/* Memory of the backend, 64-byte aligned plus `skew` bytes; contents: copied, or zero when from is NULL. */
void *op_put(struct op_dev *dev, const void *from, size_t bytes);
void *op_put_skewed(struct op_dev *dev, const void *from, size_t bytes, size_t skew);
void op_get(struct op_dev *dev, void *to, const void *from, size_t bytes);

/* Memory of the host that the cases of one run after the other live in. */
struct op_room {
    uint8_t *base;
    size_t used, cap;
};
bool op_room_make(struct op_room *room, size_t cap); /* false: no memory */
void op_room_free(struct op_room *room);

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
    bool mixed;            /* of every weight format, beside the next one */
    bool fused;            /* with operations before or after it that a GPU does in one kernel with it */
    uint32_t skew;         /* bytes by which activations are off 64-byte alignment */
    bool large;            /* the real size: compared between backends only */
    bool timed;            /* and large enough to be timed on a device */
    bool quick;            /* enough for a first look */
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
    struct op_dev *dev;
    struct op_room *room;
    size_t room_first;      /* where this run's memory begins */
    struct rng rng;
    const struct op_shape *shape;
    const uint32_t *chunks; /* sizes of batches, in turn; NULL: all rows at once */
    size_t n_chunks, chunk_i;
    uint32_t first, n;      /* the batch of this turn */
    uint32_t n_repeats, n_repeated; /* to be timed: all rows at once, so many times */
    uint64_t started_ns;    /* when the first of them began, with nothing else to do */
    bool streams;           /* experts come one by one, as from disk */
    struct op_pool {        /* and lie there then; NULL: anywhere. The last slot is no expert's */
        uint8_t *base;
        size_t slot_bytes;
        uint32_t n_slots;
    } *pool;
    size_t pool_used;       /* of a slot */
    bool packs;             /* matrices of products are given to the backend as a model's are, to be laid out anew */
    uint64_t moved_bytes;   /* that the operation reads and writes at least; 0: all that was put */
    struct op_matrix_room { /* matrices that were mapped */
        uint8_t *data;
        size_t bytes;
    } mapped[8];
    uint32_t n_mapped;
    struct op_output outputs[6];
    size_t n_outputs;
};
typedef void (*op_case_fn)(struct op_run *run, const struct op_shape *s);

/* Runs a case on rows in batches of the sizes in chunks (in turn; none: all rows at once). The members of *run that say
 * how (n_repeats, packs, streams, pool) are set beforehand, the others zero. Results stay in `room` until op_run_free;
 * runs are freed in reverse order. */
void op_run_case(struct op_run *run, struct op_dev *dev, struct op_room *room, const char *name, op_case_fn fn,
                 const struct op_shape *shape, const uint32_t *chunks, size_t n_chunks);
void op_run_free(struct op_run *run);
/* As tight as the interface of backends allows. */
struct backend_limits op_shape_limits(const struct op_shape *s);
/* "rows 2, in 4096, out 1024, Q8_0, huge": what is special about a shape. */
void op_shape_text(const struct op_shape *s, char *text, size_t size);


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
/* The same for a product, which may read it in a layout of the backend's own. */
struct op_weight op_product_matrix(struct op_run *run, uint32_t type, uint32_t n_in, uint32_t n_out, uint32_t n_stack,
                                   double *rms);
/* Registers floats as output; reads them back from the backend. */
struct op_output *op_output_floats(struct op_run *run, const char *name, const float *there, size_t n_rows,
                                   size_t row_n, double tolerance);
struct op_output *op_output_add(struct op_run *run, const char *name, enum op_output_kind kind, void *data,
                                size_t n_rows, size_t row_n);

/* How far outputs are from those of the reference: the largest of what was compared into it. */
struct op_distance {
    double error;    /* of a row, relative to its norm */
    double fraction; /* of what is allowed: up to 1 */
};
/* True when the outputs agree. Otherwise *text says which element differs, what it is and what was wanted. */
bool op_agree(const struct op_run *run, const struct op_run *ref, struct op_distance *distance, char *text,
              size_t size);
bool op_same_bits(const struct op_run *run, const struct op_run *ref, char *text, size_t size);

#endif
