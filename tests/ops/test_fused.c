/* test_fused.c - operations that a GPU does in one kernel when they follow each other give the bits that they give
 * apart, also in what lies between them. */
#include "base/mem.h"
#include "base/rng.h"
#include "gpu/backend.h"
#include "lib/test.h"
#include "quant/quant.h"

#ifdef DS4_GPU_EMU

#include "lib/tested_gpu.h"

#define ROWS 3u
#define N 288u /* not a multiple of the 256 threads that share a row */
#define N_HC 4u
#define N_MIX (N_HC * (2 + N_HC))
#define N_OUT 10u
#define N_EXPERTS 5u /* of the rows of the matrix */
#define N_USED 2u

static struct backend *gpu;
static float *x, *weight, *middle, *y, *streams;
static struct op_weight matrix, mixing;

static float *floats(struct rng *rng, size_t n)
{
    float *there = gpu->ops->alloc(gpu, n * sizeof *there), *here = mem_alloc(n, sizeof *here);
    assert_true(there && here);
    for (size_t i = 0; i < n; i++) here[i] = rng_float(rng) - 0.4f;
    gpu->ops->write(gpu, there, here, n * sizeof *there);
    mem_free(here);
    return there;
}

static int set_up(void **state)
{
    struct ds4_error error = {0};
    struct backend_limits limits = {.n_rows = ROWS, .n_in = N * N_HC, .n_experts = N_EXPERTS, .n_used = N_USED,
                                    .n_ff = N_OUT};
    struct rng rng = {5};
    const struct quant_format *format = quant_format(QUANT_Q8_0);
    static float values[N];
    static uint8_t blocks[N_OUT * N * 2];
    (void)state;
    assert_ok(backend_gpu_create(&tested_host, NULL, &limits, &gpu, &error), error);
    matrix = (struct op_weight){.type = QUANT_Q8_0, .n_in = N, .n_out = N_OUT, .n_stack = 1};
    assert_true(quant_row_bytes(format, N, &matrix.row_bytes));
    for (uint32_t o = 0; o < N_OUT; o++) {
        for (uint32_t i = 0; i < N; i++) values[i] = rng_float(&rng) - 0.5f;
        format->encode(values, NULL, blocks + o * matrix.row_bytes, N);
    }
    uint8_t *there = gpu->ops->alloc(gpu, sizeof blocks);
    gpu->ops->write(gpu, there, blocks, sizeof blocks);
    matrix.data = there;
    mixing = (struct op_weight){.type = QUANT_F32, .n_in = N * N_HC, .n_out = N_MIX, .n_stack = 1,
                                .row_bytes = N * N_HC * sizeof(float),
                                .data = (const uint8_t *)floats(&rng, N * N_HC * N_MIX)};
    x = floats(&rng, ROWS * N * N_HC);
    weight = floats(&rng, N * N_HC);
    middle = floats(&rng, ROWS * N);
    y = floats(&rng, ROWS * N);
    streams = floats(&rng, ROWS * N * N_HC);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    gpu->ops->destroy(gpu);
    return 0;
}

/* What the operations below leave in `middle`, y and the streams. */
struct outcome {
    float middle[ROWS * N], y[ROWS * N], streams[ROWS * N * N_HC];
};

static void reduce(void)
{
    struct hc_reduce_args args = {.n_rows = ROWS, .n_hc = N_HC, .n_embd = N, .rms_eps = 1e-6f, .x = x, .w = weight,
                                  .norm = weight, .u = middle};
    gpu->ops->hc_reduce(gpu, &args);
}
/* The coefficients lie in the streams. */
static void mix(void)
{
    struct hc_mix_args args = {.n_rows = ROWS, .n_hc = N_HC, .n_embd = N, .n_iters = 20, .hc_eps = 1e-6f,
                               .rms_eps = 1e-6f, .x = x, .fn = mixing, .scale = weight, .base = weight + 8,
                               .pre = streams, .post = streams + ROWS * N_HC, .comb = streams + 2 * ROWS * N_HC};
    gpu->ops->hc_mix(gpu, &args);
}
static void norm(void)
{
    struct rms_norm_args args = {.n_rows = ROWS, .n = N, .eps = 1e-6f, .x = x, .weight = weight, .y = middle};
    gpu->ops->rms_norm(gpu, &args);
}
static void swiglu(void)
{
    struct swiglu_args args = {.n = ROWS * N, .limit = 10, .a = x, .b = x + 7, .m = middle};
    gpu->ops->swiglu(gpu, &args);
}
static void add(void)
{
    struct add_args args = {.n = ROWS * N, .x = x, .y = middle};
    gpu->ops->add(gpu, &args);
}
static void multiply(void)
{
    struct matmul_args args = {.n_rows = ROWS, .n_outputs = 1, .n_groups = 1, .x = middle, .out = {{matrix, y}}};
    gpu->ops->matmul(gpu, &args);
}
static void reduce_mixed_and_multiply(void)
{
    struct hc_reduce_args args = {.n_rows = ROWS, .n_hc = N_HC, .n_embd = N, .rms_eps = 1e-6f, .x = x, .w = streams,
                                  .norm = weight, .u = middle};
    gpu->ops->hc_reduce(gpu, &args);
    multiply();
}
static void expand(void)
{
    struct hc_expand_args args = {.n_rows = ROWS, .n_hc = N_HC, .n_embd = N, .x = streams, .y = middle, .post = weight,
                                  .comb = weight + 20};
    gpu->ops->hc_expand(gpu, &args);
}

/* The experts of the rows of x; the choice lies behind the product in y. */
static struct op_weight expert(void)
{
    struct op_weight w = matrix;
    w.n_stack = N_EXPERTS;
    w.n_out = N_OUT / N_EXPERTS;
    w.stack_bytes = w.n_out * w.row_bytes;
    return w;
}
static int32_t *expert_ids(void) { return (int32_t *)(void *)(y + ROWS * N_OUT); }
static float *expert_weights(void) { return y + ROWS * (N_OUT + N_USED); }
static void route(void)
{
    struct op_weight w = expert();
    struct router_args args = {.n_rows = ROWS, .n_experts = N_EXPERTS, .n_used = N_USED, .scale = 1.5f,
                               .logits = weight, .bias = weight + 100, .ids = expert_ids(),
                               .weights = expert_weights(), .x = x, .gate = &w, .up = &w};
    gpu->ops->router(gpu, &args);
}
static void activate_and_multiply(void)
{
    struct op_weight w = expert();
    struct moe_gate_up_args args = {.n_rows = ROWS, .n_used = N_USED, .limit = 10, .x = x, .ids = expert_ids(),
                                    .weights = expert_weights(), .gate = w, .up = w, .m = streams};
    swiglu();
    multiply();
    gpu->ops->moe_gate_up(gpu, &args);
}

/* Both operations from the same memory; apart: what the first one made is looked at, and written again, before the
 * second one comes. */
static void run(void (*first)(void), void (*second)(void), bool apart, struct outcome *out)
{
    static struct outcome before;
    float one;
    for (size_t i = 0; i < ROWS * N * N_HC; i++) before.streams[i] = (float)i * 0.01f;
    for (size_t i = 0; i < ROWS * N; i++) before.middle[i] = (float)i * 0.02f - 1;
    gpu->ops->write(gpu, middle, before.middle, sizeof before.middle);
    gpu->ops->write(gpu, y, before.y, sizeof before.y);
    gpu->ops->write(gpu, streams, before.streams, sizeof before.streams);
    first();
    if (apart) {
        gpu->ops->read(gpu, &one, middle, sizeof one);
        gpu->ops->write(gpu, middle, &one, sizeof one);
    }
    second();
    gpu->ops->read(gpu, out->middle, middle, sizeof out->middle);
    gpu->ops->read(gpu, out->y, y, sizeof out->y);
    gpu->ops->read(gpu, out->streams, streams, sizeof out->streams);
}

static uint64_t n_dispatches(const char *kernel)
{
    struct ds4_kernel_time times[32];
    size_t n = backend_gpu_times(gpu, times, 32);
    for (size_t i = 0; i < n; i++)
        if (strcmp(times[i].name, kernel) == 0) return times[i].n;
    return 0;
}

TEST(operations_in_one_kernel_give_the_bits_that_they_give_apart)
{
    static const struct {
        void (*first)(void), (*second)(void);
        const char *fused, *apart;
    } pairs[] = {
        {mix, reduce_mixed_and_multiply, "hc_enter", "hc_mix"},
        {reduce, multiply, "hc_reduce", "quantise"},
        {norm, multiply, "rms_norm_quantise", "rms_norm"},
        {swiglu, multiply, "swiglu_quantise", "swiglu"},
        {add, expand, "hc_expand", "add"},
        {route, activate_and_multiply, "router", "swiglu_quantise"},
    };
    static struct outcome together, apart;
    struct ds4_error error = {0};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        assert_ok(backend_gpu_time(gpu, true, &error), error);
        run(pairs[i].first, pairs[i].second, false, &together);
        assert_int_equal(n_dispatches(pairs[i].fused), 1);
        assert_int_equal(n_dispatches(pairs[i].apart), 0);
        assert_int_equal(n_dispatches("quantise"), 0);
        run(pairs[i].first, pairs[i].second, true, &apart);
        assert_int_equal(n_dispatches(pairs[i].apart), 1);
        if (memcmp(&together, &apart, sizeof apart) != 0) fail_msg("%s gives other bits", pairs[i].fused);
    }
    assert_ok(gpu->ops->finish(gpu, &error), error);
}

/* The second operation does not take what the first one makes. */
TEST(operations_that_have_nothing_in_common_are_both_done)
{
    static struct outcome out;
    struct ds4_error error = {0};
    assert_ok(backend_gpu_time(gpu, true, &error), error);
    run(norm, expand, false, &out);
    run(add, multiply, false, &out);
    assert_int_equal(n_dispatches("rms_norm"), 1);
    assert_int_equal(n_dispatches("add"), 1);
    assert_int_equal(n_dispatches("hc_expand"), 1);
    assert_int_equal(n_dispatches("quantise"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_in_one_kernel_give_the_bits_that_they_give_apart),
        cmocka_unit_test(operations_that_have_nothing_in_common_are_both_done),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down) ? 1 : 0;
}

#else

TEST(this_build_has_no_emulator_that_could_fuse)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_that_could_fuse)); }

#endif
