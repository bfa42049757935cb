/* test_kernels_512.c - the AVX-512 kernels give the bits of the AVX2 kernels, whose distance from exact products other
 * tests measure: their source on emulated intrinsics, and the instructions themselves where the machine has them. */
#include "lib/avx512_tables.h"
#include "lib/test.h"

#if defined(__x86_64__)
#include "lib/table_products.h"

#define ROWS_MAX 63u /* floats are unpacked from 29 on; ten times 6 rows, one of 2 and of 1; 34 end with one of 4 */
#define OUT_MAX 60u

/* Shapes: n_in, n_out. Widths that fit the format; more than one piece of a tile, and more than one tile; rows that
 * fill no eight. */
static const uint32_t shapes[][2] = {{256, 5}, {2304, 30}, {512, 60}, {77, 9}, {5, 17}};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

static void compare(const struct cpu_kernels *kernels)
{
    static float x[ROWS_MAX * 2304], want[ROWS_MAX * OUT_MAX], got[ROWS_MAX * OUT_MAX];
    struct rng rng = {test_seed()};
    struct backend *avx2 = open_backend(&cpu_kernels_avx2, ROWS_MAX), *avx512 = open_backend(kernels, ROWS_MAX);
    for (size_t i = 0; i < N_FORMATS * N_SHAPES; i++) {
        uint32_t type = formats[i / N_SHAPES], n_in = shapes[i % N_SHAPES][0], n_out = shapes[i % N_SHAPES][1];
        if (n_in % quant_format(type)->block_elems) continue;
        struct op_weight w = random_weight(&rng, type, n_in, n_out);
        for (size_t j = 0; j < ROWS_MAX * n_in; j++) x[j] = rng_float(&rng) - 0.5f;
        static const uint32_t row_counts[] = {1, 2, 3, 6, 7, 34, ROWS_MAX};
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
