/* misc.c - small element-wise operations: the activation of the shared expert, sums, and picking rows. They run on the
 * calling thread. Model spec 4.7(4) for the activation, 4.9 for the sum into the streams. */
#include <string.h>

#include "ops/ref/ref.h"

void ref_swiglu(struct backend *b, const struct swiglu_args *args)
{
    (void)b;
    for (size_t i = 0; i < args->n; i++)
        args->m[i] = (float)ref_silu_product((double)args->a[i], (double)args->b[i], (double)args->limit);
}

void ref_add(struct backend *b, const struct add_args *args)
{
    (void)b;
    for (size_t i = 0; i < args->n; i++) args->y[i] += args->x[i];
}

void ref_add_streams(struct backend *b, const struct add_streams_args *args)
{
    (void)b;
    for (uint32_t r = 0; r < args->n_rows; r++) {
        const float *e = args->e + (size_t)r * args->n_embd;
        for (uint32_t j = 0; j < args->n_hc; j++) {
            float *x = args->x + ((size_t)r * args->n_hc + j) * args->n_embd;
            for (uint32_t d = 0; d < args->n_embd; d++) x[d] += e[d];
        }
    }
}

void ref_gather(struct backend *b, const struct gather_args *args)
{
    (void)b;
    for (uint32_t i = 0; i < args->n_out; i++)
        memcpy(args->y + (size_t)i * args->n, args->x + (size_t)args->index[i] * args->n, args->n * sizeof *args->y);
}
