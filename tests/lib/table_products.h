/* table_products.h - products of random weights by one table of CPU kernels: what tests that compare tables share. A
 * program includes it once. */
#ifndef DS4_TESTS_TABLE_PRODUCTS_H
#define DS4_TESTS_TABLE_PRODUCTS_H

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "lib/test.h"
#include "ops/cpu/cpu.h"

static const uint32_t formats[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_K, QUANT_Q6_K, QUANT_MXFP4,
                                   QUANT_Q2_K, QUANT_IQ2_XXS};
#define N_FORMATS (sizeof formats / sizeof *formats)

/* A backend of one table, for up to n_rows inputs. */
static struct backend *open_backend(const struct cpu_kernels *kernels, uint32_t n_rows)
{
    struct ds4_error error = {0};
    struct backend_limits limits = {.n_rows = n_rows, .n_in = 4096, .n_heads = 1, .dim = 64, .n_experts = 2,
                                    .n_used = 1, .n_ff = 64};
    struct backend *b;
    assert_ok(backend_cpu_create(NULL, &limits, &b, &error), error);
    cpu_of(b)->kernels = kernels;
    return b;
}

/* Two bits are those of an expert: a stack of more than one matrix, whose inputs are coarse. */
static struct op_weight random_weight(struct rng *rng, uint32_t type, uint32_t n_in, uint32_t n_out)
{
    const struct quant_format *format = quant_format(type);
    struct op_weight w = {.type = type, .n_in = n_in, .n_out = n_out, .n_stack = 2};
    assert_true(quant_row_bytes(format, n_in, &w.row_bytes));
    w.stack_bytes = w.row_bytes * n_out;
    size_t bytes = (size_t)w.stack_bytes;
    uint8_t *data = mem_alloc(bytes, 1);
    assert_non_null(data);
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)rng_next(rng);
    for (size_t at = 0; at < bytes; at += format->block_bytes) {
        if (type == QUANT_F32) store_f32(data + at, rng_float(rng) - 0.5f);
        if (type == QUANT_BF16) store_u16(data + at, bf16_from_f32(rng_float(rng) - 0.5f));
        if (type == QUANT_MXFP4) data[at] = (uint8_t)(120 + rng_below(rng, 8));
        for (uint32_t i = 0; i < format->n_scales; i++)
            store_u16(data + at + format->scales_at + 2 * i, f16_from_f32(rng_float(rng) - 0.5f));
    }
    w.data = data;
    return w;
}

static void multiply(struct backend *b, const struct op_weight *w, const float *x, uint32_t n_rows, float *y)
{
    struct matmul_args args = {.n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = x};
    args.out[0].w = *w;
    args.out[0].y = y;
    b->ops->matmul(b, &args);
}

#endif
