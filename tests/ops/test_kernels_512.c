/* test_kernels_512.c - the AVX-512 kernels give the bits of the AVX2 kernels, whose distance from exact products other
 * tests measure: their source on emulated intrinsics, and the instructions themselves where the machine has them. */
#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "lib/avx512_tables.h"
#include "lib/test.h"
#include "ops/cpu/cpu.h"

#if defined(__x86_64__)
#define ROWS_MAX 63u /* floats are unpacked from 49 on; 7 of 8 rows, one of 4, of 2 and of 1 */
#define OUT_MAX 30u

static const uint32_t formats[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_K, QUANT_Q6_K, QUANT_MXFP4,
                                   QUANT_Q2_K, QUANT_IQ2_XXS};
#define N_FORMATS (sizeof formats / sizeof *formats)
/* Shapes: n_in, n_out. Widths that fit the format; more than one piece of a tile; rows that fill no eight. */
static const uint32_t shapes[][2] = {{256, 5}, {2304, 30}, {512, 24}, {77, 9}, {5, 17}};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

static struct backend *open_backend(const struct cpu_kernels *kernels)
{
    struct ds4_error error = {0};
    struct backend_limits limits = {.n_rows = ROWS_MAX, .n_in = 4096, .n_heads = 1, .dim = 64, .n_experts = 2,
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

static void compare(const struct cpu_kernels *kernels)
{
    static float x[ROWS_MAX * 2304], want[ROWS_MAX * OUT_MAX], got[ROWS_MAX * OUT_MAX];
    struct rng rng = {test_seed()};
    struct backend *avx2 = open_backend(&cpu_kernels_avx2), *avx512 = open_backend(kernels);
    for (size_t i = 0; i < N_FORMATS * N_SHAPES; i++) {
        uint32_t type = formats[i / N_SHAPES], n_in = shapes[i % N_SHAPES][0], n_out = shapes[i % N_SHAPES][1];
        if (n_in % quant_format(type)->block_elems) continue;
        struct op_weight w = random_weight(&rng, type, n_in, n_out);
        for (size_t j = 0; j < ROWS_MAX * n_in; j++) x[j] = rng_float(&rng) - 0.5f;
        static const uint32_t row_counts[] = {1, 2, 3, 6, 7, ROWS_MAX};
        for (size_t j = 0; j < sizeof row_counts / sizeof *row_counts; j++) {
            multiply(avx2, &w, x, row_counts[j], want);
            multiply(avx512, &w, x, row_counts[j], got);
            assert_memory_equal(got, want, row_counts[j] * n_out * sizeof *got);
        }
        mem_free((void *)(uintptr_t)w.data);
    }
    avx2->ops->destroy(avx2);
    avx512->ops->destroy(avx512);
}

TEST(avx512_kernels_on_emulated_intrinsics_give_the_bits_of_the_avx2_kernels)
{
    if (!cpu_kernels_avx2.supported()) SKIP("no AVX2 on this machine");
    if (!avx512_emulated()) SKIP("SIMDe was not there when this was built");
    compare(avx512_emulated());
}

TEST(avx512_instructions_give_the_bits_of_the_avx2_kernels)
{
    const struct cpu_kernels *tables[] = {&cpu_kernels_avx512, &cpu_kernels_avx512vnni};
    size_t n = 0;
    for (size_t i = 0; i < 2; i++)
        if (tables[i]->supported()) compare(tables[i]), n++;
    if (n == 0) SKIP("no AVX-512 on this machine");
}

int main(void)
{
    return RUN_TESTS(T(avx512_kernels_on_emulated_intrinsics_give_the_bits_of_the_avx2_kernels),
                     T(avx512_instructions_give_the_bits_of_the_avx2_kernels));
}
#else
TEST(avx512_kernels_give_the_bits_of_the_avx2_kernels) { SKIP("not an x86-64 machine"); }
int main(void) { return RUN_TESTS(T(avx512_kernels_give_the_bits_of_the_avx2_kernels)); }
#endif
