/* matmul.c - y = x W^T with quantised W, plain and grouped. A weight is decoded exactly to float32; every product is
 * exact in double and the sum runs over ascending i, rounded once. Model spec: notation, and 4.3(8) for groups. */
#include "ops/ref/ref.h"
#include "quant/quant.h"

#define OUTPUTS_PER_TASK 32

/* Four sums advance together only so that the additions of one need not wait for each other; each keeps its order. */
static void add_products_4(const float *w, const float *x, size_t stride, uint32_t n, double *sums)
{
    const float *x1 = x + stride, *x2 = x1 + stride, *x3 = x2 + stride;
    double s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (uint32_t i = 0; i < n; i++) {
        double weight = (double)w[i];
        s0 += weight * (double)x[i];
        s1 += weight * (double)x1[i];
        s2 += weight * (double)x2[i];
        s3 += weight * (double)x3[i];
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

static void add_products(const float *w, const float *x, uint32_t n, double *sum)
{
    double s = *sum;
    for (uint32_t i = 0; i < n; i++) s += (double)w[i] * (double)x[i];
    *sum = s;
}

void ref_dot(const struct op_weight *w, uint32_t stack_i, uint32_t out_i, const float *x, size_t stride,
             uint32_t n_rows, double *sums)
{
    const struct quant_format *format = quant_format(w->type);
    ensure(format && format->decode && format->block_elems <= REF_CHUNK && w->n_in % format->block_elems == 0);
    ensure(stack_i < w->n_stack && out_i < w->n_out && n_rows <= REF_DOT_ROWS);
    const uint8_t *blocks = op_weight_stack(w, stack_i) + out_i * w->row_bytes;
    uint32_t step = REF_CHUNK / format->block_elems * format->block_elems;
    float values[REF_CHUNK];
    for (uint32_t r = 0; r < n_rows; r++) sums[r] = 0;
    for (uint32_t at = 0; at < w->n_in; at += step) {
        uint32_t n = w->n_in - at < step ? w->n_in - at : step;
        format->decode(blocks, values, n);
        blocks += (size_t)(n / format->block_elems) * format->block_bytes;
        if (n_rows == REF_DOT_ROWS) {
            add_products_4(values, x + at, stride, n, sums);
            continue;
        }
        for (uint32_t r = 0; r < n_rows; r++) add_products(values, x + r * stride + at, n, &sums[r]);
    }
}

/* The matrix of one call: args plus which of its outputs. */
struct matmul_job {
    const struct matmul_args *args;
    uint32_t output_i;
};

static void matmul_outputs(void *arg, uint32_t task_i, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct matmul_job *what = job->args;
    const struct matmul_args *args = what->args;
    const struct op_weight *w = &args->out[what->output_i].w;
    float *y = args->out[what->output_i].y;
    size_t stride = (size_t)args->n_groups * w->n_in;
    uint32_t first = task_i * OUTPUTS_PER_TASK, group_outputs = w->n_out / args->n_groups;
    for (uint32_t o = first; o < w->n_out && o < first + OUTPUTS_PER_TASK; o++) {
        const float *x = args->x + (size_t)(o / group_outputs) * w->n_in;
        for (uint32_t r = 0; r < args->n_rows; r += REF_DOT_ROWS) {
            uint32_t n = args->n_rows - r < REF_DOT_ROWS ? args->n_rows - r : REF_DOT_ROWS;
            double sums[REF_DOT_ROWS];
            ref_dot(w, 0, o, x + r * stride, stride, n, sums);
            for (uint32_t i = 0; i < n; i++) y[(size_t)(r + i) * w->n_out + o] = (float)sums[i];
        }
    }
}

void ref_matmul(struct backend *b, const struct matmul_args *args)
{
    ensure(args->n_groups >= 1 && args->n_outputs <= OPS_MATMUL_OUTPUTS_MAX);
    ensure(args->n_groups == 1 || args->n_outputs == 1);
    for (uint32_t i = 0; i < args->n_outputs; i++) {
        const struct op_weight *w = &args->out[i].w;
        ensure(w->n_out % args->n_groups == 0);
        struct matmul_job what = {args, i};
        ref_run(b, matmul_outputs, &what, (w->n_out + OUTPUTS_PER_TASK - 1) / OUTPUTS_PER_TASK);
    }
}
