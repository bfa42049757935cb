/* hyper.c - hyper-connections: coefficients (a product, then a small matrix normalised in double), reduction of the
 * streams and expansion back. Model spec 4.1 and 4.2; comb[j][k] is contracted on j. */
#include <math.h>

#include "ops/cpu/cpu.h"

static double sigmoid(double z) { return 1.0 / (1.0 + exp(-z)); }

/* cpu->mix[r] = x[r] fn^T */
static void products(struct backend_cpu *cpu, const float *x, uint32_t n_rows, const struct op_weight *fn)
{
    struct matmul_args product = {.n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = x};
    product.out[0].w = *fn;
    product.out[0].y = cpu->mix;
    cpu_matmul(&cpu->base, &product);
}

static double root_mean_square(const struct backend_cpu *cpu, const float *x, uint32_t n, float eps)
{
    return sqrt((double)cpu->kernels->sum_squares(x, n) / n + (double)eps);
}

static void normalise_columns(double *c, uint32_t n, double eps)
{
    for (uint32_t k = 0; k < n; k++) {
        double sum = 0;
        for (uint32_t j = 0; j < n; j++) sum += c[j * n + k];
        double factor = 1.0 / (sum + eps);
        for (uint32_t j = 0; j < n; j++) c[j * n + k] *= factor;
    }
}

static void normalise_rows(double *c, uint32_t n, double eps)
{
    for (uint32_t j = 0; j < n; j++) {
        double sum = 0;
        for (uint32_t k = 0; k < n; k++) sum += c[j * n + k];
        double factor = 1.0 / (sum + eps);
        for (uint32_t k = 0; k < n; k++) c[j * n + k] *= factor;
    }
}

/* Softmax of each row, plus eps; one division by the columns; n_iters - 1 rounds of rows, then columns. */
static void sinkhorn(double *c, uint32_t n, uint32_t n_iters, double eps)
{
    for (uint32_t j = 0; j < n; j++) {
        double *row = c + j * n, max = row[0], sum = 0;
        for (uint32_t k = 1; k < n; k++) max = fmax(max, row[k]);
        for (uint32_t k = 0; k < n; k++) sum += row[k] = exp(row[k] - max);
        for (uint32_t k = 0; k < n; k++) row[k] = row[k] / sum + eps;
    }
    normalise_columns(c, n, eps);
    for (uint32_t i = 1; i < n_iters; i++) {
        normalise_rows(c, n, eps);
        normalise_columns(c, n, eps);
    }
}

static void hc_mix_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct cpu_job *job = arg;
    const struct hc_mix_args *args = job->args;
    uint32_t n = args->n_hc, n_mix = args->fn.n_out;
    double root = root_mean_square(job->cpu, args->x + (size_t)r * args->fn.n_in, args->fn.n_in, args->rms_eps);
    double comb[CPU_HC_MAX * CPU_HC_MAX];
    const float *m = job->cpu->mix + (size_t)r * n_mix, *base = args->base;
    for (uint32_t j = 0; j < n; j++) {
        double pre = sigmoid((double)m[j] / root * (double)args->scale[0] + (double)base[j]);
        double post = sigmoid((double)m[n + j] / root * (double)args->scale[1] + (double)base[n + j]);
        args->pre[(size_t)r * n + j] = (float)(pre + (double)args->hc_eps);
        args->post[(size_t)r * n + j] = (float)(2.0 * post);
    }
    for (uint32_t i = 0; i < n * n; i++)
        comb[i] = (double)m[2 * n + i] / root * (double)args->scale[2] + (double)base[2 * n + i];
    sinkhorn(comb, n, args->n_iters, (double)args->hc_eps);
    for (uint32_t i = 0; i < n * n; i++) args->comb[(size_t)r * n * n + i] = (float)comb[i];
}

void cpu_hc_mix(struct backend *b, const struct hc_mix_args *args)
{
    struct backend_cpu *cpu = cpu_of(b);
    ensure(args->n_hc <= CPU_HC_MAX && args->fn.n_out == args->n_hc * (2 + args->n_hc));
    ensure(args->fn.n_in == args->n_hc * args->n_embd && args->n_rows <= cpu->limits.n_rows);
    products(cpu, args->x, args->n_rows, &args->fn);
    cpu_run(cpu, hc_mix_row, args, args->n_rows);
}

void cpu_hc_head(struct backend *b, const struct hc_head_args *args)
{
    struct backend_cpu *cpu = cpu_of(b);
    uint32_t n = args->n_hc;
    ensure(n <= CPU_HC_MAX && args->fn.n_out == n && args->fn.n_in == n * args->n_embd);
    ensure(args->n_rows <= cpu->limits.n_rows);
    products(cpu, args->x, args->n_rows, &args->fn);
    for (uint32_t r = 0; r < args->n_rows; r++) {
        double root = root_mean_square(cpu, args->x + (size_t)r * args->fn.n_in, args->fn.n_in, args->rms_eps);
        for (uint32_t j = 0; j < n; j++) {
            double m = (double)cpu->mix[(size_t)r * n + j] / root;
            double w = sigmoid(m * (double)args->scale[0] + (double)args->base[j]) + (double)args->hc_eps;
            args->w[(size_t)r * n + j] = (float)w;
        }
    }
}

static void hc_reduce_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct cpu_job *job = arg;
    const struct hc_reduce_args *args = job->args;
    const struct cpu_kernels *kernels = job->cpu->kernels;
    uint32_t n = args->n_embd;
    float *u = args->u + (size_t)r * n;
    kernels->mix(args->x + (size_t)r * args->n_hc * n, args->w + (size_t)r * args->n_hc, args->n_hc, n, u);
    if (!args->norm) return;
    float mean = kernels->sum_squares(u, n) / (float)n;
    kernels->scale(u, args->norm, 1.0f / sqrtf(mean + args->rms_eps), n, u);
}

void cpu_hc_reduce(struct backend *b, const struct hc_reduce_args *args)
{
    cpu_run(cpu_of(b), hc_reduce_row, args, args->n_rows);
}

static void hc_expand_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct cpu_job *job = arg;
    const struct hc_expand_args *args = job->args;
    uint32_t n = args->n_hc;
    job->cpu->kernels->expand(args->x + (size_t)r * n * args->n_embd, args->y + (size_t)r * args->n_embd,
                              args->post + (size_t)r * n, args->comb + (size_t)r * n * n, n, args->n_embd);
}

void cpu_hc_expand(struct backend *b, const struct hc_expand_args *args)
{
    ensure(args->n_hc <= CPU_HC_MAX);
    cpu_run(cpu_of(b), hc_expand_row, args, args->n_rows);
}
