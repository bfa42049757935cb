/* ref.h - inside of the reference backend: the scalar definition of every operation.
 *
 * Data goes in and out as float32. Inside an operation everything is computed in double and rounded once, when the
 * result is stored; products of two floats are exact in double. Sums run in ascending index order in one accumulator.
 * The exceptions are part of the definitions: the angle of a rotation is one float32 product, the Hadamard transform
 * is done in float32 (rows.h), rows of state are rounded as rows.h says, index scores and router scores are compared
 * after rounding to float32, and the stages of compress (pooling, norm, rotation) each round.
 * Tasks given to the pool are whole output elements, so threads cannot change a result. */
#ifndef DS4_OPS_REF_REF_H
#define DS4_OPS_REF_REF_H

#include <math.h>

#include "ops/backend.h"

#define REF_HC_MAX 16    /* residual streams; the model family has 4 */
#define REF_CHUNK 256    /* weights decoded at a time: a multiple of every block size */
#define REF_DOT_ROWS 4   /* input rows that one decoding serves */

struct backend_ref {
    struct backend base;
    struct backend_limits limits;
    uint32_t n_threads;
    uint64_t worker_bytes;  /* scratch of one worker */
    uint64_t scratch_bytes; /* of all */
    uint8_t *scratch;
};

/* What a task receives: args points to the argument record of the operation. */
struct ref_job {
    struct backend_ref *ref;
    const void *args;
};
/* Runs fn(job, task_i, worker_i) for all tasks, on the pool if there is one. */
void ref_run(struct backend *b, thread_pool_fn fn, const void *args, uint32_t n_tasks);
/* Scratch of a worker, laid out anew by each operation. */
static inline void *ref_scratch(const struct ref_job *job, uint32_t worker_i)
{
    return job->ref->scratch + worker_i * job->ref->worker_bytes;
}

/* sums[r] = sum over i of w[i] x[r stride + i], i ascending; w is output row `out_i` of matrix stack_i;
 * n_rows <= REF_DOT_ROWS. */
void ref_dot(const struct op_weight *w, uint32_t stack_i, uint32_t out_i, const float *x, size_t stride,
             uint32_t n_rows, double *sums);

/* One row of rms_norm; y may be x, weight may be NULL. */
void ref_rms_row(const float *x, const float *weight, uint32_t n, float eps, float *y);
/* One head of rope: rotates x[n_rope], the rotary part alone. */
void ref_rope_head(float *x, uint32_t n_rope, const float *freq, int32_t pos, bool inverse);

static inline double ref_sigmoid(double z) { return 1.0 / (1.0 + exp(-z)); }

/* silu(min(gate, limit)) * clamp(up, -limit, limit): the clamp is before the activation. */
static inline double ref_silu_product(double gate, double up, double limit)
{
    double a = fmin(gate, limit);
    return a * ref_sigmoid(a) * fmax(fmin(up, limit), -limit);
}

#define OP(op_name) void ref_##op_name(struct backend *b, const struct op_name##_args *args);
#include "ops/ops.def"
#undef OP

#endif
