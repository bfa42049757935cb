/* products.c - what `make check-arm` runs under qemu: the CPU backend of a 64-bit ARM build against the reference, in
 * every weight format, and the bits of a row alone against those in a batch. A program of its own without cmocka, so
 * that it links statically with nothing but the C library. Returns the number of failures. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "ops/backend.h"
#include "ops/cpu/kernels.h"
#include "quant/quant.h"

enum { N_IN = 2304, N_OUT = 29, N_ROWS = 7 };

static void fill(const struct quant_format *format, struct rng *rng, uint8_t *blocks, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) blocks[i] = (uint8_t)rng_next(rng);
    for (size_t at = 0; at < bytes; at += format->block_bytes) {
        if (format->id == QUANT_F32) store_f32(blocks + at, rng_float(rng) - 0.5f);
        if (format->id == QUANT_BF16) store_u16(blocks + at, bf16_from_f32(rng_float(rng) - 0.5f));
        if (format->id == QUANT_MXFP4) blocks[at] = (uint8_t)(120 + rng_below(rng, 8));
        for (uint32_t i = 0; i < format->n_scales; i++)
            store_u16(blocks + at + format->scales_at + 2 * i, f16_from_f32(rng_float(rng) - 0.5f));
    }
}

static void multiply(struct backend *b, const struct op_weight *w, const float *x, uint32_t n, float *y)
{
    struct matmul_args args = {.n_rows = n, .n_outputs = 1, .n_groups = 1, .x = x};
    args.out[0].w = *w;
    args.out[0].y = y;
    b->ops->matmul(b, &args);
}

static int check(struct backend *ref, struct backend *cpu, uint32_t type)
{
    static float x[N_ROWS * N_IN], want[N_ROWS * N_OUT], got[N_ROWS * N_OUT], alone[N_OUT];
    static uint8_t blocks[N_OUT * N_IN * 4];
    const struct quant_format *format = quant_format(type);
    struct rng rng = {type + 1};
    /* Two bits are those of an expert: a stack of more than one matrix, whose inputs are coarse. */
    bool coarse = type == QUANT_Q2_K || type == QUANT_IQ2_XXS;
    struct op_weight w = {.data = blocks, .type = type, .n_in = N_IN, .n_out = N_OUT, .n_stack = coarse ? 2 : 1};
    if (!quant_row_bytes(format, N_IN, &w.row_bytes)) return 1;
    w.stack_bytes = w.row_bytes * N_OUT;
    fill(format, &rng, blocks, (size_t)w.stack_bytes);
    for (size_t i = 0; i < N_ROWS * N_IN; i++) x[i] = rng_float(&rng) - 0.5f;
    multiply(ref, &w, x, N_ROWS, want);
    multiply(cpu, &w, x, N_ROWS, got);
    double error = 0, size = 0;
    int n_different = 0;
    for (size_t i = 0; i < N_ROWS * N_OUT; i++) {
        error += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        size += (double)want[i] * (double)want[i];
    }
    for (uint32_t r = 0; r < N_ROWS; r++) {
        multiply(cpu, &w, x + r * N_IN, 1, alone);
        n_different += memcmp(alone, got + r * N_OUT, sizeof alone) != 0;
    }
    bool ok = sqrt(error / size) < (coarse ? 1.5e-2 : 5e-4) && n_different == 0;
    (void)printf("%s %-8s error %.1e, %d rows differ alone\n", ok ? "ok  " : "FAIL", format->name, sqrt(error / size),
                 n_different);
    return !ok;
}

int main(void)
{
    static const uint32_t types[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_K, QUANT_Q6_K,
                                     QUANT_MXFP4, QUANT_Q2_K, QUANT_IQ2_XXS};
    struct backend_limits limits = {.n_rows = N_ROWS, .n_in = N_IN, .n_heads = 1, .dim = 64, .n_experts = 2,
                                    .n_used = 1, .n_ff = N_IN};
    struct backend *ref, *cpu;
    struct ds4_error error = {0};
    int n_failed = 0;
    if (backend_ref_create(NULL, &limits, &ref, &error) != DS4_OK) return 1;
    if (backend_cpu_create(NULL, &limits, &cpu, &error) != DS4_OK) return 1;
    (void)printf("kernels: %s\n", cpu_kernels_best()->name);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) n_failed += check(ref, cpu, types[i]);
    return n_failed;
}
