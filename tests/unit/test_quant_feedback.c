/* test_quant_feedback.c - that coding with feedback keeps the outputs of a matrix better than coding column by column,
 * that it says truly what error it leaves, and that its factors are those of the rows. */
#include "lib/test.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "quant/encode.h"
#include "quant/feedback.h"

#define N 512
#define N_ROWS 24       /* of the matrix */
#define N_CALIBRATION 900
#define N_HIDDEN 60     /* the rows lie near a space of so many dimensions */

static float noise(struct rng *r) { return (float)(rng_double(r) + rng_double(r) + rng_double(r) - 1.5); }

struct fixture {
    float *rows, *weights;
    struct thread_pool *pool;
    struct feedback f;
};

static struct fixture make(uint32_t n_threads)
{
    struct rng r;
    struct fixture x = {.rows = mem_zalloc(N_CALIBRATION, N * sizeof(float)),
                        .weights = mem_alloc(N_ROWS, N * sizeof(float))};
    float *mix = mem_alloc(N_HIDDEN, N * sizeof(float));
    struct ds4_error error;
    r.state = 11;
    for (size_t i = 0; i < N_HIDDEN * (size_t)N; i++) mix[i] = noise(&r);
    for (size_t m = 0; m < N_CALIBRATION; m++) {
        for (size_t h = 0; h < N_HIDDEN; h++) {
            float v = noise(&r);
            for (size_t c = 0; c < N; c++) x.rows[m * N + c] += v * mix[h * N + c];
        }
        for (size_t c = 0; c < N; c++) x.rows[m * N + c] += noise(&r);
    }
    for (size_t i = 0; i < N_ROWS * (size_t)N; i++) x.weights[i] = 0.05f * noise(&r);
    mem_free(mix);
    assert_int_equal(thread_pool_create(n_threads, &x.pool, &error), DS4_OK);
    assert_int_equal(feedback_create(N, &x.f, &error), DS4_OK);
    return x;
}

static void drop(struct fixture *x)
{
    mem_free(x->rows);
    mem_free(x->weights);
    feedback_destroy(&x->f);
    thread_pool_destroy(x->pool);
}

/* Sum over calibration rows and rows of the matrix of (E x)^2. */
static double output_error(const struct fixture *x, const float *e)
{
    double sum = 0;
    for (size_t m = 0; m < N_CALIBRATION; m++)
        for (size_t i = 0; i < N_ROWS; i++) {
            double y = 0;
            for (size_t c = 0; c < N; c++) y += (double)e[i * N + c] * (double)x->rows[m * N + c];
            sum += y * y;
        }
    return sum;
}

static void outputs_are_kept_better_than_by_coding_each_column_for_itself(void **state)
{
    static const enum quant_id ids[] = {QUANT_IQ2_XXS, QUANT_Q2_K, QUANT_Q4_K};
    struct fixture x = make(2);
    float importance[N] = {0}, *e = mem_alloc(N_ROWS, N * sizeof(float)), *plain = mem_alloc(N_ROWS, N * sizeof(float));
    uint8_t *blocks = mem_alloc(N_ROWS, N);
    (void)state;
    assert_true(feedback_prepare(&x.f, x.rows, N_CALIBRATION, 0.02f, x.pool));
    for (size_t m = 0; m < N_CALIBRATION; m++)
        for (size_t c = 0; c < N; c++) importance[c] += x.rows[m * N + c] * x.rows[m * N + c] / N_CALIBRATION;
    for (size_t k = 0; k < 3; k++) {
        const struct quant_format *format = quant_format(ids[k]);
        size_t row_bytes = N / 256 * format->block_bytes;
        for (size_t i = 0; i < N_ROWS; i++) {
            format->encode(x.weights + i * N, importance, blocks, N);
            format->decode(blocks, plain + i * N, N);
            for (size_t c = 0; c < N; c++) plain[i * N + c] = x.weights[i * N + c] - plain[i * N + c];
        }
        feedback_encode(&x.f, format, x.weights, N_ROWS, importance, blocks, e);
        for (size_t i = 0; i < N_ROWS; i++) { /* what it says about its errors is what a reader of the blocks sees */
            float y[N];
            format->decode(blocks + i * row_bytes, y, N);
            for (size_t c = 0; c < N; c++) assert_float_equal(e[i * N + c], x.weights[i * N + c] - y[c], 1e-6f);
        }
        double with = output_error(&x, e), without = output_error(&x, plain);
        print_message("%s: output error %.3f of that without feedback\n", format->name, sqrt(with / without));
        assert_true(with < 0.5 * without);
    }
    mem_free(e);
    mem_free(plain);
    mem_free(blocks);
    drop(&x);
}

static void the_factors_are_those_of_the_rows_and_do_not_depend_on_threads(void **state)
{
    struct fixture x = make(1), y = make(3);
    (void)state;
    assert_true(feedback_prepare(&x.f, x.rows, N_CALIBRATION, 0.02f, x.pool));
    assert_true(feedback_prepare(&y.f, y.rows, N_CALIBRATION, 0.02f, y.pool));
    for (size_t r = 0; r < N; r++)
        assert_memory_equal(x.f.t + r * N + r, y.f.t + r * N + r, (N - r) * sizeof(float));
    assert_memory_equal(x.f.m, y.f.m, N * 256 * sizeof(float));
    assert_memory_equal(x.f.run_t, y.f.run_t, N * 8 * sizeof(float));
    double trace = 0, shrink = N_CALIBRATION / (N_CALIBRATION + 0.1 * N);
    for (size_t i = 0; i < N_CALIBRATION * (size_t)N; i++) trace += (double)x.rows[i] * (double)x.rows[i];
    for (size_t r = 0; r < N; r += 37)
        for (size_t c = r; c < N; c += 41) {
            double h = 0, product = 0;
            for (size_t m = 0; m < N_CALIBRATION; m++)
                h += (double)x.rows[m * N + r] * (double)x.rows[m * N + c];
            h = h / trace * N * (r == c ? 1 : shrink) + (r == c ? 0.02 : 0);
            for (size_t k = c; k < N; k++)
                product += (double)x.f.t[r * N + k] * (double)x.f.d[k] * (double)x.f.t[c * N + k];
            assert_true(fabs(product - h) < 1e-3);
        }
    drop(&x);
    drop(&y);
}

static void rows_that_say_nothing_give_no_factors(void **state)
{
    struct fixture x = make(1);
    (void)state;
    memset(x.rows, 0, N_CALIBRATION * (size_t)N * sizeof(float));
    assert_false(feedback_prepare(&x.f, x.rows, N_CALIBRATION, 0.02f, x.pool));
    x.rows[3] = INFINITY;
    assert_false(feedback_prepare(&x.f, x.rows, N_CALIBRATION, 0.02f, x.pool));
    drop(&x);
}

static void rows_of_zeros_and_of_no_numbers_are_as_without_feedback(void **state)
{
    struct fixture x = make(1);
    const struct quant_format *format = quant_format(QUANT_Q2_K);
    uint8_t with[N / 256 * 84 * 3], without[N / 256 * 84]; /* three rows, one row */
    float *e = mem_alloc(3, N * sizeof(float));
    (void)state;
    assert_true(feedback_prepare(&x.f, x.rows, N_CALIBRATION, 0.02f, x.pool));
    memset(x.weights, 0, 2 * N * sizeof(float));
    x.weights[N + 300] = NAN;
    feedback_encode(&x.f, format, x.weights, 3, NULL, with, e);
    for (size_t i = 0; i < 2; i++) {
        format->encode(x.weights + i * N, NULL, without, N);
        assert_memory_equal(with + i * sizeof without, without, sizeof without);
    }
    assert_true(quant_scales_finite(format, with + 2 * sizeof without, N)); /* one row does not spoil the next */
    mem_free(e);
    drop(&x);
}

#if defined(__x86_64__)
static void both_builds_compute_the_same_bits(void **state)
{
    static float a[16 * 64], b[64 * 80], c[2][16 * 80];
    float w[8], t[8], d[8], tri[64];
    struct rng r;
    (void)state;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) return;
    r.state = 5;
    for (size_t i = 0; i < 16 * 64; i++) a[i] = noise(&r);
    for (size_t i = 0; i < 64 * 80; i++) b[i] = noise(&r);
    for (int k = 0; k < 2; k++) {
        struct feedback_product p = {.c = c[k], .c_i = 80, .a = a, .a_k = 1, .a_i = 64, .b = b, .b_k = 80, .n_i = 15,
                                     .n_k = 64, .n_j = 80, .sign = -1};
        (k ? feedback_product_avx2 : feedback_product_plain)(&p);
    }
    assert_memory_equal(c[0], c[1], sizeof c[0]);
    assert_true(feedback_dot_plain(a, b, 512) == feedback_dot_avx2(a, b, 512));
    for (int round = 0; round < 200; round++) {
        for (size_t i = 0; i < 8; i++) {
            w[i] = noise(&r);
            t[i] = w[i] + 0.3f * noise(&r);
            d[i] = 0.1f + noise(&r) * noise(&r);
        }
        for (size_t i = 0; i < 64; i++) tri[i] = noise(&r);
        struct feedback_run x = {.w = w, .t = t, .d = d, .tri = tri, .step = 0.02f}, y = x;
        feedback_code_run_plain(&x);
        feedback_code_run_avx2(&y);
        assert_memory_equal(x.q, y.q, sizeof x.q);
        assert_true(x.index == y.index && x.signs == y.signs && __builtin_popcount(x.signs) % 2 == 0);
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_are_kept_better_than_by_coding_each_column_for_itself),
        cmocka_unit_test(the_factors_are_those_of_the_rows_and_do_not_depend_on_threads),
        cmocka_unit_test(rows_that_say_nothing_give_no_factors),
        cmocka_unit_test(rows_of_zeros_and_of_no_numbers_are_as_without_feedback),
#if defined(__x86_64__)
        cmocka_unit_test(both_builds_compute_the_same_bits),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
