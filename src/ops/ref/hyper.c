/* hyper.c - hyper-connections: coefficients of a sub-layer, reduction of the streams to its input, expansion of its
 * output back into the streams, and the head's reduction. Model spec 4.1(2), 4.1(3) and 4.2.
 *
 * The combination matrix comb[j][k] is contracted on j, its first index; the Sinkhorn iteration ends on columns, so
 * that every column sums to one. */
#include "ops/ref/ref.h"

#define MIX_MAX (REF_HC_MAX * (2 + REF_HC_MAX))

/* m[i] = (flat . fn_i) / sqrt(mean(flat^2) + eps) */
static void mix_products(const float *flat, const struct op_weight *fn, float eps, double *m)
{
    double squares = 0;
    for (uint32_t i = 0; i < fn->n_in; i++) squares += (double)flat[i] * (double)flat[i];
    double root = sqrt(squares / fn->n_in + (double)eps);
    for (uint32_t i = 0; i < fn->n_out; i++) {
        ref_dot(fn, 0, i, flat, 0, 1, &m[i]);
        m[i] /= root;
    }
}

static void normalise_columns(double *c, uint32_t n, double eps)
{
    for (uint32_t k = 0; k < n; k++) {
        double sum = 0;
        for (uint32_t j = 0; j < n; j++) sum += c[j * n + k];
        for (uint32_t j = 0; j < n; j++) c[j * n + k] /= sum + eps;
    }
}

static void normalise_rows(double *c, uint32_t n, double eps)
{
    for (uint32_t j = 0; j < n; j++) {
        double sum = 0;
        for (uint32_t k = 0; k < n; k++) sum += c[j * n + k];
        for (uint32_t k = 0; k < n; k++) c[j * n + k] /= sum + eps;
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
    const struct ref_job *job = arg;
    const struct hc_mix_args *args = job->args;
    uint32_t n = args->n_hc;
    double m[MIX_MAX];
    mix_products(args->x + (size_t)r * args->fn.n_in, &args->fn, args->rms_eps, m);
    double scale_pre = (double)args->scale[0], scale_post = (double)args->scale[1], scale_comb = (double)args->scale[2];
    for (uint32_t j = 0; j < n; j++) {
        double pre = ref_sigmoid(m[j] * scale_pre + (double)args->base[j]) + (double)args->hc_eps;
        double post = 2.0 * ref_sigmoid(m[n + j] * scale_post + (double)args->base[n + j]);
        args->pre[(size_t)r * n + j] = (float)pre;
        args->post[(size_t)r * n + j] = (float)post;
    }
    double *comb = m + 2 * n;
    for (uint32_t i = 0; i < n * n; i++) comb[i] = comb[i] * scale_comb + (double)args->base[2 * n + i];
    sinkhorn(comb, n, args->n_iters, (double)args->hc_eps);
    for (uint32_t i = 0; i < n * n; i++) args->comb[(size_t)r * n * n + i] = (float)comb[i];
}

void ref_hc_mix(struct backend *b, const struct hc_mix_args *args)
{
    ensure(args->n_hc <= REF_HC_MAX && args->fn.n_out == args->n_hc * (2 + args->n_hc));
    ensure(args->fn.n_in == args->n_hc * args->n_embd);
    ref_run(b, hc_mix_row, args, args->n_rows);
}

static void hc_head_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct hc_head_args *args = job->args;
    double m[MIX_MAX];
    mix_products(args->x + (size_t)r * args->fn.n_in, &args->fn, args->rms_eps, m);
    for (uint32_t j = 0; j < args->n_hc; j++) {
        double w = ref_sigmoid(m[j] * (double)args->scale[0] + (double)args->base[j]) + (double)args->hc_eps;
        args->w[(size_t)r * args->n_hc + j] = (float)w;
    }
}

void ref_hc_head(struct backend *b, const struct hc_head_args *args)
{
    ensure(args->n_hc <= REF_HC_MAX && args->fn.n_out == args->n_hc && args->fn.n_in == args->n_hc * args->n_embd);
    ref_run(b, hc_head_row, args, args->n_rows);
}

/* sum_j w[j] x[j][d] */
static double stream_sum(const struct hc_reduce_args *args, uint32_t r, uint32_t d)
{
    const float *x = args->x + (size_t)r * args->n_hc * args->n_embd, *w = args->w + (size_t)r * args->n_hc;
    double sum = 0;
    for (uint32_t j = 0; j < args->n_hc; j++) sum += (double)w[j] * (double)x[(size_t)j * args->n_embd + d];
    return sum;
}

static void hc_reduce_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct hc_reduce_args *args = job->args;
    float *u = args->u + (size_t)r * args->n_embd;
    double squares = 0;
    for (uint32_t d = 0; args->norm && d < args->n_embd; d++) {
        double h = stream_sum(args, r, d);
        squares += h * h;
    }
    double root = args->norm ? sqrt(squares / args->n_embd + (double)args->rms_eps) : 1;
    for (uint32_t d = 0; d < args->n_embd; d++) {
        double h = stream_sum(args, r, d);
        u[d] = (float)(args->norm ? h / root * (double)args->norm[d] : h);
    }
}

void ref_hc_reduce(struct backend *b, const struct hc_reduce_args *args)
{
    ref_run(b, hc_reduce_row, args, args->n_rows);
}

static void hc_expand_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct hc_expand_args *args = job->args;
    uint32_t n = args->n_hc;
    float *x = args->x + (size_t)r * n * args->n_embd;
    const float *y = args->y + (size_t)r * args->n_embd, *post = args->post + (size_t)r * n;
    const float *comb = args->comb + (size_t)r * n * n;
    for (uint32_t d = 0; d < args->n_embd; d++) {
        double old[REF_HC_MAX];
        for (uint32_t j = 0; j < n; j++) old[j] = (double)x[(size_t)j * args->n_embd + d];
        for (uint32_t k = 0; k < n; k++) {
            double sum = (double)post[k] * (double)y[d];
            for (uint32_t j = 0; j < n; j++) sum += (double)comb[j * n + k] * old[j];
            x[(size_t)k * args->n_embd + d] = (float)sum;
        }
    }
}

void ref_hc_expand(struct backend *b, const struct hc_expand_args *args)
{
    ensure(args->n_hc <= REF_HC_MAX);
    ref_run(b, hc_expand_row, args, args->n_rows);
}
