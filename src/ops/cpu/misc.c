/* misc.c - embedding, norms, rotation and the small element-wise operations. */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu.h"

#define ROPE_MAX 256u          /* rotated entries of a head */
#define ELEMENTS_PER_TASK 8192u

static void embed_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct embed_args *args = ((const struct cpu_job *)arg)->args;
    uint32_t token = (uint32_t)args->tokens[r];
    ensure(token < args->table.n_out);
    float *x = args->x + (size_t)r * args->n_hc * args->n_embd;
    quant_format(args->table.type)->decode(args->table.data + token * args->table.row_bytes, x, args->n_embd);
    for (uint32_t j = 1; j < args->n_hc; j++) memcpy(x + (size_t)j * args->n_embd, x, args->n_embd * sizeof *x);
}

void cpu_embed(struct backend *b, const struct embed_args *args)
{
    ensure(args->table.n_in == args->n_embd);
    cpu_run(cpu_of(b), embed_row, args, args->n_rows);
}

static void rms_norm_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct cpu_job *job = arg;
    const struct rms_norm_args *args = job->args;
    const float *x = args->x + (size_t)r * args->n;
    float mean = job->cpu->kernels->sum_squares(x, args->n) / (float)args->n;
    job->cpu->kernels->scale(x, args->weight, 1.0f / sqrtf(mean + args->eps), args->n, args->y + (size_t)r * args->n);
}

void cpu_rms_norm(struct backend *b, const struct rms_norm_args *args)
{
    cpu_run(cpu_of(b), rms_norm_row, args, args->n_rows);
}

/* Cosines and sines once a row, for all its heads. The angle is one float32 product; the rest is in double. */
static void rope_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct rope_args *args = ((const struct cpu_job *)arg)->args;
    float cosines[ROPE_MAX / 2], sines[ROPE_MAX / 2];
    for (uint32_t i = 0; i < args->n_rope / 2; i++) {
        float angle = (float)args->pos[r] * args->freq[i];
        cosines[i] = (float)cos((double)angle);
        sines[i] = (float)sin((double)angle) * (args->inverse ? -1.0f : 1.0f);
    }
    for (uint32_t h = 0; h < args->n_heads; h++) {
        float *x = args->x + ((size_t)r * args->n_heads + h) * args->dim + args->dim - args->n_rope;
        for (uint32_t i = 0; i < args->n_rope / 2; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = a * cosines[i] - b * sines[i];
            x[2 * i + 1] = a * sines[i] + b * cosines[i];
        }
    }
}

void cpu_rope(struct backend *b, const struct rope_args *args)
{
    ensure(args->n_rope <= ROPE_MAX);
    cpu_run(cpu_of(b), rope_row, args, args->n_rows);
}

static void swiglu_part(void *arg, uint32_t task_i, uint32_t worker_i)
{
    (void)worker_i;
    const struct cpu_job *job = arg;
    const struct swiglu_args *args = job->args;
    size_t at = (size_t)task_i * ELEMENTS_PER_TASK, n = args->n - at;
    if (n > ELEMENTS_PER_TASK) n = ELEMENTS_PER_TASK;
    job->cpu->kernels->swiglu(args->a + at, args->b + at, args->limit, 1.0f, n, args->m + at);
}

void cpu_swiglu(struct backend *b, const struct swiglu_args *args)
{
    cpu_run(cpu_of(b), swiglu_part, args, (uint32_t)((args->n + ELEMENTS_PER_TASK - 1) / ELEMENTS_PER_TASK));
}

static void add_part(void *arg, uint32_t task_i, uint32_t worker_i)
{
    (void)worker_i;
    const struct add_args *args = ((const struct cpu_job *)arg)->args;
    size_t at = (size_t)task_i * ELEMENTS_PER_TASK, end = at + ELEMENTS_PER_TASK;
    for (size_t i = at; i < args->n && i < end; i++) args->y[i] += args->x[i];
}

void cpu_add(struct backend *b, const struct add_args *args)
{
    cpu_run(cpu_of(b), add_part, args, (uint32_t)((args->n + ELEMENTS_PER_TASK - 1) / ELEMENTS_PER_TASK));
}

static void add_streams_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct add_streams_args *args = ((const struct cpu_job *)arg)->args;
    const float *e = args->e + (size_t)r * args->n_embd;
    for (uint32_t j = 0; j < args->n_hc; j++) {
        float *x = args->x + ((size_t)r * args->n_hc + j) * args->n_embd;
        for (uint32_t d = 0; d < args->n_embd; d++) x[d] += e[d];
    }
}

void cpu_add_streams(struct backend *b, const struct add_streams_args *args)
{
    cpu_run(cpu_of(b), add_streams_row, args, args->n_rows);
}

void cpu_gather(struct backend *b, const struct gather_args *args)
{
    (void)b;
    for (uint32_t i = 0; i < args->n_out; i++)
        memcpy(args->y + (size_t)i * args->n, args->x + (size_t)args->index[i] * args->n, args->n * sizeof *args->y);
}
