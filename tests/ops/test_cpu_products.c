/* test_cpu_products.c - matrix products of the CPU backend in every weight format: how far they are from exact ones,
 * and that not a bit depends on the rest of the batch, on the way a batch is cut, or on the number of threads. */
#include <math.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "lib/test.h"
#include "ops/backend.h"
#include "quant/quant.h"

#define ROWS_MAX 131

/* Errors allowed, root mean square relative to that of the outputs: 16-bit inputs for most formats, 8-bit ones with
 * a multiplier for 16 values for the two 2-bit formats of experts. */
static const struct { uint32_t type; double error; } formats[] = {
    {QUANT_F32, 1e-6}, {QUANT_F16, 1e-6}, {QUANT_BF16, 1e-6}, {QUANT_Q8_0, 5e-4}, {QUANT_Q4_K, 5e-4},
    {QUANT_Q6_K, 5e-4}, {QUANT_MXFP4, 5e-4}, {QUANT_Q2_K, 1.5e-2}, {QUANT_IQ2_XXS, 1.5e-2}};
#define N_FORMATS (sizeof formats / sizeof *formats)

static struct op_weight random_weight(struct rng *rng, uint32_t type, uint32_t n_in, uint32_t n_out, uint32_t n_stack,
                                      float scale)
{
    const struct quant_format *format = quant_format(type);
    struct op_weight w = {.type = type, .n_in = n_in, .n_out = n_out, .n_stack = n_stack};
    assert_true(quant_row_bytes(format, n_in, &w.row_bytes));
    w.stack_bytes = w.row_bytes * n_out;
    size_t bytes = (size_t)w.stack_bytes * n_stack;
    uint8_t *data = mem_alloc(bytes, 1);
    assert_non_null(data);
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)rng_next(rng);
    for (size_t at = 0; at < bytes; at += format->block_bytes) {
        if (type == QUANT_F32) store_f32(data + at, (rng_float(rng) - 0.5f) * scale);
        if (type == QUANT_BF16) store_u16(data + at, bf16_from_f32((rng_float(rng) - 0.5f) * scale));
        if (type == QUANT_MXFP4) data[at] = (uint8_t)(scale < 1 ? 118 : 126);
        for (uint32_t i = 0; i < format->n_scales; i++)
            store_u16(data + at + format->scales_at + 2 * i, f16_from_f32((rng_float(rng) - 0.5f) * scale));
    }
    w.data = data;
    return w;
}

/* Values of mixed sizes: a few much larger than the rest, as activations are. */
static float *random_values(struct rng *rng, size_t n)
{
    float *x = mem_alloc(n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) {
        x[i] = rng_float(rng) + rng_float(rng) + rng_float(rng) - 1.5f;
        if (rng_below(rng, 97) == 0) x[i] *= 12;
    }
    return x;
}

struct bench_of_two { struct thread_pool *pool; struct backend *ref, *cpu; };
static struct bench_of_two open_backends(uint32_t n_threads, uint32_t n_in)
{
    struct ds4_error error = {0};
    struct bench_of_two b;
    struct backend_limits limits = {.n_rows = ROWS_MAX, .n_in = n_in, .n_heads = 4, .dim = 64, .n_attn_rows = 16,
                                    .n_index_heads = 4, .index_dim = 32, .n_index_rows = 16, .n_experts = 8,
                                    .n_used = 3, .n_ff = 512};
    assert_ok(thread_pool_create(n_threads, &b.pool, &error), error);
    assert_ok(backend_ref_create(b.pool, &limits, &b.ref, &error), error);
    assert_ok(backend_cpu_create(b.pool, &limits, &b.cpu, &error), error);
    return b;
}
static void close_backends(struct bench_of_two *b)
{
    b->ref->ops->destroy(b->ref);
    b->cpu->ops->destroy(b->cpu);
    thread_pool_destroy(b->pool);
}

/* Sums of squares of errors and of values. */
struct distance { double error, size; };
static void measure(struct distance *d, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        d->error += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        d->size += (double)want[i] * (double)want[i];
    }
}
static double relative(const struct distance *d) { return sqrt(d->error / d->size); }

static void multiply(struct backend *b, const struct op_weight *w, uint32_t n_groups, const float *x, uint32_t n_rows,
                     float *y)
{
    struct matmul_args args = {.n_rows = n_rows, .n_outputs = 1, .n_groups = n_groups, .x = x};
    args.out[0].w = *w;
    args.out[0].y = y;
    b->ops->matmul(b, &args);
}

/* Shapes: n_in, n_out, groups. Odd widths only for formats without blocks. */
static const uint32_t shapes[][3] = {{256, 5, 1}, {2304, 50, 1}, {512, 96, 4}, {77, 9, 1}, {5, 4, 2}};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

TEST(products_are_as_close_to_exact_ones_as_promised_in_every_format)
{
    struct rng rng = {test_seed()};
    struct bench_of_two b = open_backends(2, 4096);
    float *y = mem_alloc(2 * ROWS_MAX * 128, sizeof *y);
    for (size_t f = 0; f < N_FORMATS; f++) {
        struct distance distance = {0, 0};
        for (size_t s = 0; s < N_SHAPES; s++) {
            uint32_t n_in = shapes[s][0], n_out = shapes[s][1], groups = shapes[s][2];
            if (n_in % quant_format(formats[f].type)->block_elems) continue;
            struct op_weight w = random_weight(&rng, formats[f].type, n_in, n_out, 1, 1);
            static const uint32_t row_counts[] = {1, 3, 4, 13, 130};
            for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; i++) {
                uint32_t n = row_counts[i];
                float *x = random_values(&rng, (size_t)n * groups * n_in);
                multiply(b.ref, &w, groups, x, n, y);
                multiply(b.cpu, &w, groups, x, n, y + ROWS_MAX * 128);
                measure(&distance, y + ROWS_MAX * 128, y, (size_t)n * n_out);
                mem_free(x);
            }
            mem_free((void *)(uintptr_t)w.data);
        }
        print_message("%-8s %.1e\n", quant_format(formats[f].type)->name, relative(&distance));
        assert_true(relative(&distance) <= formats[f].error);
    }
    mem_free(y);
    close_backends(&b);
}

TEST(a_product_has_the_same_bits_in_any_batch_and_with_any_number_of_threads)
{
    struct rng rng = {test_seed()};
    struct bench_of_two one = open_backends(1, 4096), three = open_backends(3, 4096);
    for (size_t f = 0; f < N_FORMATS; f++)
        for (size_t s = 0; s < N_SHAPES; s++) {
            uint32_t n_in = shapes[s][0], n_out = shapes[s][1], groups = shapes[s][2];
            if (n_in % quant_format(formats[f].type)->block_elems) continue;
            struct op_weight w = random_weight(&rng, formats[f].type, n_in, n_out, 1, 1);
            float *x = random_values(&rng, (size_t)ROWS_MAX * groups * n_in);
            float *want = mem_alloc((size_t)2 * ROWS_MAX * n_out, sizeof *want), *got = want + ROWS_MAX * n_out;
            for (uint32_t r = 0; r < ROWS_MAX; r++)
                multiply(one.cpu, &w, groups, x + (size_t)r * groups * n_in, 1, want + r * n_out);
            for (uint32_t n = 2; n <= ROWS_MAX; n = n < 17 ? n + 1 : n * 2 + 3)
                for (uint32_t r = 0; r + n <= ROWS_MAX; r += n) {
                    multiply(three.cpu, &w, groups, x + (size_t)r * groups * n_in, n, got);
                    assert_memory_equal(got, want + r * n_out, n * n_out * sizeof *got);
                }
            mem_free(want);
            mem_free(x);
            mem_free((void *)(uintptr_t)w.data);
        }
    close_backends(&one);
    close_backends(&three);
}

/* Where floats are copied for their product, there may be room for some rows at a time only. */
TEST(rows_too_wide_to_be_copied_at_once_have_the_same_bits_as_alone)
{
    enum { N_IN = 16384, N_OUT = 5 };
    struct rng rng = {test_seed()};
    struct bench_of_two b = open_backends(2, N_IN);
    struct op_weight w[2] = {random_weight(&rng, QUANT_F16, N_IN, N_OUT, 1, 1),
                             random_weight(&rng, QUANT_Q8_0, N_IN, N_OUT, 1, 1)};
    float *x = random_values(&rng, (size_t)ROWS_MAX * N_IN);
    static float all[2][ROWS_MAX * N_OUT], one[2][ROWS_MAX * N_OUT];
    for (uint32_t n = 1; n <= ROWS_MAX; n += ROWS_MAX - 1)
        for (uint32_t r = 0; r < ROWS_MAX; r += n) {
            struct matmul_args args = {.n_rows = n, .n_outputs = 2, .n_groups = 1, .x = x + (size_t)r * N_IN};
            for (uint32_t i = 0; i < 2; i++) {
                args.out[i].w = w[i];
                args.out[i].y = (n == 1 ? one : all)[i] + r * N_OUT;
            }
            b.cpu->ops->matmul(b.cpu, &args);
        }
    assert_memory_equal(all, one, sizeof all);
    for (uint32_t i = 0; i < 2; i++) mem_free((void *)(uintptr_t)w[i].data);
    mem_free(x);
    close_backends(&b);
}

struct experts {
    struct op_weight gate, up, down;
    uint32_t n_used;
};

static void run_experts(struct backend *b, const struct experts *e, const float *x, const int32_t *ids,
                        const float *weights, uint32_t n_rows, float *m, float *y)
{
    struct moe_gate_up_args up = {n_rows, e->n_used, 2.0f, x, ids, weights, e->gate, e->up, m};
    b->ops->moe_gate_up(b, &up);
    struct moe_down_args down = {n_rows, e->n_used, m, ids, e->down, y};
    b->ops->moe_down(b, &down);
}

TEST(experts_are_close_to_exact_ones_and_have_the_same_bits_in_any_batch)
{
    struct rng rng = {test_seed()};
    struct bench_of_two one = open_backends(1, 512), three = open_backends(3, 512);
    enum { N_IN = 512, N_FF = 256, USED = 3 };
    for (size_t f = 0; f < N_FORMATS; f++) {
        struct experts e = {random_weight(&rng, formats[f].type, N_IN, N_FF, 8, 0x1p-11f),
                            random_weight(&rng, formats[f].type, N_IN, N_FF, 8, 0x1p-11f),
                            random_weight(&rng, formats[(f + 1) % N_FORMATS].type, N_FF, N_IN, 8, 1), USED};
        float *x = random_values(&rng, ROWS_MAX * N_IN), *weights = random_values(&rng, ROWS_MAX * USED);
        int32_t ids[ROWS_MAX * USED];
        for (size_t i = 0; i < ROWS_MAX * USED; i++) ids[i] = (int32_t)(rng_below(&rng, i % 2 ? 8 : 2));
        float *want = mem_alloc((size_t)4 * ROWS_MAX * (N_IN + USED * N_FF), sizeof *want);
        float *m = want + ROWS_MAX * N_IN, *got = m + ROWS_MAX * USED * N_FF, *m2 = got + ROWS_MAX * N_IN;
        run_experts(one.ref, &e, x, ids, weights, ROWS_MAX, m2, got);
        run_experts(three.cpu, &e, x, ids, weights, ROWS_MAX, m, want);
        double limit = formats[f].error + formats[(f + 1) % N_FORMATS].error;
        struct distance distance = {0, 0};
        measure(&distance, want, got, ROWS_MAX * N_IN);
        print_message("%-8s %.1e\n", quant_format(formats[f].type)->name, relative(&distance));
        assert_true(relative(&distance) <= 8 * limit);
        for (uint32_t n = 1; n < ROWS_MAX; n = n * 3 + 1)
            for (uint32_t r = 0; r + n <= ROWS_MAX; r += n) {
                run_experts(one.cpu, &e, x + r * N_IN, ids + r * USED, weights + r * USED, n, m2, got);
                assert_memory_equal(m2, m + r * USED * N_FF, n * USED * N_FF * sizeof *m);
                assert_memory_equal(got, want + r * N_IN, n * N_IN * sizeof *got);
            }
        mem_free(want);
        mem_free(x);
        mem_free(weights);
        mem_free((void *)(uintptr_t)e.gate.data);
        mem_free((void *)(uintptr_t)e.up.data);
        mem_free((void *)(uintptr_t)e.down.data);
    }
    close_backends(&one);
    close_backends(&three);
}

/* Sums of integers are exact only while they fit: every code, scale and input as large as can be, 19 blocks of 256. */
TEST(the_largest_weights_and_inputs_overflow_no_sum)
{
    enum { N_IN = 19 * 256, N_OUT = 11, N = 5 };
    struct rng rng = {test_seed()};
    struct bench_of_two b = open_backends(2, N_IN);
    int32_t ids[N];
    float *x = mem_alloc((size_t)N * N_IN, sizeof *x), want[N * N_OUT], got[N * N_OUT], one[N_OUT];
    assert_non_null(x);
    for (size_t i = 0; i < N; i++) ids[i] = 1;
    for (size_t i = 0; i < (size_t)N * N_IN; i++) x[i] = i / N_IN == 1 || (i / N_IN == 2 && i / 16 % 2) ? -3 : 3;
    for (size_t f = 0; f < N_FORMATS; f++) {
        const struct quant_format *format = quant_format(formats[f].type);
        if (!format->n_scales) continue; /* floats are no integers */
        struct op_weight w = random_weight(&rng, formats[f].type, N_IN, N_OUT, 2, 1);
        uint8_t *data = (uint8_t *)(uintptr_t)w.data;
        for (size_t at = 0; at < w.stack_bytes * 2; at += format->block_bytes) {
            memset(data + at, 0x7F + (at / format->block_bytes % 3 == 0), format->block_bytes);
            if (at / format->block_bytes % 2) memset(data + at, 0xFF, format->block_bytes);
            for (uint32_t i = 0; i < format->n_scales; i++)
                store_u16(data + at + format->scales_at + 2 * i, f16_from_f32(i ? 0 : 1));
        }
        struct moe_down_args down = {N, 1, x, ids, w, want};
        b.ref->ops->moe_down(b.ref, &down);
        down.y = got;
        b.cpu->ops->moe_down(b.cpu, &down);
        struct distance distance = {0, 0};
        measure(&distance, got, want, N * N_OUT);
        assert_true(relative(&distance) <= formats[f].error);
        for (uint32_t r = 0; r < N; r++) {
            struct moe_down_args alone = {1, 1, x + (size_t)r * N_IN, ids, w, one};
            b.cpu->ops->moe_down(b.cpu, &alone);
            assert_memory_equal(one, got + r * N_OUT, sizeof one);
        }
        mem_free(data);
    }
    mem_free(x);
    close_backends(&b);
}

/* Inputs in the very shape of a vector of the grid make the largest sums: all of them, and every vector. */
TEST(vectors_of_the_grid_times_inputs_of_their_shape_overflow_no_sum)
{
    enum { N = 256, BLOCK = 66 };
    struct bench_of_two b = open_backends(2, N);
    static uint8_t blocks[2 * N * BLOCK];
    static float x[N * N], want[N * N], got[N * N], one[N];
    static int32_t ids[N];
    for (uint32_t i = 0; i < 2 * N; i++) {
        uint8_t *block = blocks + i * BLOCK;
        store_u16(block, f16_from_f32(1));
        for (uint32_t g = 0; g < 8; g++) {
            memset(block + 2 + 8 * g, (int)(i % N), 4);
            store_u32(block + 6 + 8 * g, 0xF0000000u | (i % 128) << 14 | (i % 128)); /* the largest scale */
        }
        if (i < N) quant_format(QUANT_IQ2_XXS)->decode(block, x + i * N, N);
    }
    struct op_weight w = {.data = blocks, .type = QUANT_IQ2_XXS, .n_in = N, .n_out = N, .row_bytes = BLOCK,
                          .n_stack = 2, .stack_bytes = N * BLOCK};
    struct moe_down_args down = {N < ROWS_MAX ? N : ROWS_MAX, 1, x, ids, w, want};
    for (uint32_t at = 0; at < N; at += down.n_rows) {
        down.n_rows = N - at < ROWS_MAX ? N - at : ROWS_MAX;
        down.m = x + at * N;
        down.y = want + at * N;
        b.ref->ops->moe_down(b.ref, &down);
        down.y = got + at * N;
        b.cpu->ops->moe_down(b.cpu, &down);
    }
    for (uint32_t i = 0; i < N; i++) {
        struct moe_down_args alone = {1, 1, x + i * N, ids, w, one};
        assert_true(fabsf(got[i * N + i] - want[i * N + i]) <= 0.015f * want[i * N + i]);
        b.cpu->ops->moe_down(b.cpu, &alone);
        assert_memory_equal(one, got + i * N, sizeof one);
    }
    close_backends(&b);
}

TEST(zeros_give_zeros_and_what_is_not_a_number_stays_in_its_row)
{
    struct rng rng = {test_seed()};
    struct bench_of_two b = open_backends(2, 512);
    enum { N_IN = 512, N_OUT = 7, N = 6 };
    for (size_t f = 0; f < N_FORMATS; f++) {
        struct op_weight w = random_weight(&rng, formats[f].type, N_IN, N_OUT, 1, 1);
        float *x = random_values(&rng, N * N_IN), y[N * N_OUT];
        memset(x, 0, N_IN * sizeof *x);
        x[1 * N_IN + 300] = NAN;
        x[2 * N_IN + 301] = INFINITY;
        for (uint32_t i = 0; i < N_IN; i++) x[3 * N_IN + i] = 1e-42f;
        for (uint32_t n = 1; n <= N; n += N - 1)
            for (uint32_t r = 0; r < N; r += n) {
                multiply(b.cpu, &w, 1, x + r * N_IN, n, y + r * N_OUT);
            }
        for (uint32_t i = 0; i < N_OUT; i++) {
            assert_true(y[i] == 0);
            assert_true(!isfinite(y[N_OUT + i]));
            assert_true(!isfinite(y[2 * N_OUT + i]));
            for (uint32_t r = 3; r < N; r++) assert_true(isfinite(y[r * N_OUT + i]));
        }
        mem_free(x);
        mem_free((void *)(uintptr_t)w.data);
    }
    close_backends(&b);
}

int main(void)
{
    return RUN_TESTS(T(products_are_as_close_to_exact_ones_as_promised_in_every_format),
                     T(a_product_has_the_same_bits_in_any_batch_and_with_any_number_of_threads),
                     T(rows_too_wide_to_be_copied_at_once_have_the_same_bits_as_alone),
                     T(experts_are_close_to_exact_ones_and_have_the_same_bits_in_any_batch),
                     T(the_largest_weights_and_inputs_overflow_no_sum),
                     T(vectors_of_the_grid_times_inputs_of_their_shape_overflow_no_sum),
                     T(zeros_give_zeros_and_what_is_not_a_number_stays_in_its_row));
}
