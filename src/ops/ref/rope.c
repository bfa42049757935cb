/* rope.c - rotary embedding on adjacent pairs of the last n_rope entries of a head. Model spec 3.4: the angle is one
 * float32 product of position and frequency (positions below 2^24 are exact), as in the tables that the model was
 * trained with; cosine, sine and the rotation are then in double. */
#include "ops/ref/ref.h"

void ref_rope_head(float *x, uint32_t n_rope, const float *freq, int32_t pos, bool inverse)
{
    for (uint32_t i = 0; i < n_rope / 2; i++) {
        float angle = (float)pos * freq[i];
        double c = cos((double)angle), s = sin((double)angle);
        if (inverse) s = -s;
        double a = (double)x[2 * i], b = (double)x[2 * i + 1];
        x[2 * i] = (float)(a * c - b * s);
        x[2 * i + 1] = (float)(a * s + b * c);
    }
}

static void rope_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct rope_args *args = job->args;
    for (uint32_t h = 0; h < args->n_heads; h++) {
        float *head = args->x + ((size_t)r * args->n_heads + h) * args->dim;
        ref_rope_head(head + args->dim - args->n_rope, args->n_rope, args->freq, args->pos[r], args->inverse);
    }
}

void ref_rope(struct backend *b, const struct rope_args *args)
{
    ref_run(b, rope_row, args, args->n_rows);
}
