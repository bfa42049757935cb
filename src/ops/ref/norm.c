/* norm.c - root-mean-square norm with a plain weight (w, not 1 + w). Model spec 3.4. */
#include "ops/ref/ref.h"

void ref_rms_row(const float *x, const float *weight, uint32_t n, float eps, float *y)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) squares += (double)x[i] * (double)x[i];
    double root = sqrt(squares / n + (double)eps);
    for (uint32_t i = 0; i < n; i++) {
        double normed = (double)x[i] / root;
        y[i] = (float)(weight ? normed * (double)weight[i] : normed);
    }
}

static void rms_norm_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct rms_norm_args *args = job->args;
    ref_rms_row(args->x + (size_t)r * args->n, args->weight, args->n, args->eps, args->y + (size_t)r * args->n);
}

void ref_rms_norm(struct backend *b, const struct rms_norm_args *args)
{
    ref_run(b, rms_norm_row, args, args->n_rows);
}
