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
#define DIM 96u /* heads; N is three of them */
#define N_HEADS 3u
#define N_ROPE 32u
#define N_SLOTS 24u
#define STATE_BYTES 65536u

static struct backend *gpu;
static float *x, *weight, *middle, *y, *streams;
static uint8_t *tails, *spans;
static int32_t *pos;
static uint32_t *seq_i, *span_ids;
static struct op_seq *seqs;
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

static void *numbers(const void *from, size_t bytes)
{
    void *there = gpu->ops->alloc(gpu, bytes);
    assert_non_null(there);
    gpu->ops->write(gpu, there, from, bytes);
    return there;
}

/* Two sessions, in tails and spans that have room for what is stored at these offsets. */
static void make_state(void)
{
    static const int32_t positions[ROWS] = {6, 7, 19};
    static const uint32_t of[ROWS] = {0, 0, 1}, ids[2] = {1, 0};
    static const struct op_seq two[2] = {{.tail_i = 1, .span_first = 0, .row_first = 0, .n_rows = 2},
                                         {.tail_i = 0, .span_first = 1, .row_first = 2, .n_rows = 1}};
    pos = numbers(positions, sizeof positions);
    seq_i = numbers(of, sizeof of);
    span_ids = numbers(ids, sizeof ids);
    seqs = numbers(two, sizeof two);
    tails = gpu->ops->alloc(gpu, 2 * STATE_BYTES);
    spans = gpu->ops->alloc(gpu, 2 * STATE_BYTES);
    assert_true(tails && spans);
}

static struct op_batch batch_of_two(void)
{
    return (struct op_batch){.n_rows = ROWS, .n_seqs = 2, .pos = pos, .seq_i = seq_i, .seqs = seqs, .tails = tails,
                             .tail_bytes = STATE_BYTES, .spans = spans, .span_bytes = STATE_BYTES,
                             .span_ids = span_ids};
}

static int set_up(void **state)
{
    struct ds4_error error = {0};
    struct backend_limits limits = {.n_rows = ROWS, .n_in = N * N_HC, .n_experts = N_EXPERTS, .n_used = N_USED,
                                    .n_ff = N_OUT, .n_heads = N_HEADS, .dim = DIM, .n_attn_rows = 200};
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
    make_state();
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

static void add_and_expand(void)
{
    add();
    expand();
}
/* The coefficients lie in y. */
static void mix_streams(void)
{
    struct hc_mix_args args = {.n_rows = ROWS, .n_hc = N_HC, .n_embd = N, .n_iters = 20, .hc_eps = 1e-6f,
                               .rms_eps = 1e-6f, .x = streams, .fn = mixing, .scale = weight, .base = weight + 8,
                               .pre = y, .post = y + ROWS * N_HC, .comb = y + 2 * ROWS * N_HC};
    gpu->ops->hc_mix(gpu, &args);
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
        {expand, mix_streams, "hc_dot_f32", "hc_expand"},
        {add_and_expand, mix_streams, "hc_dot_f32", "hc_expand"},
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

/* What goes before attention: q is `middle`, the row of kv is y, projections for compressors are x. */
static void norm_q(void)
{
    struct rms_norm_args args = {.n_rows = ROWS * N_HEADS, .n = DIM, .eps = 1e-6f, .x = middle, .y = middle};
    gpu->ops->rms_norm(gpu, &args);
}
static void rope_of(uint32_t n_heads, float *heads)
{
    struct rope_args args = {.n_rows = ROWS, .n_heads = n_heads, .dim = DIM, .n_rope = N_ROPE, .pos = pos,
                             .freq = weight, .x = heads};
    gpu->ops->rope(gpu, &args);
}
static void rope_q(void) { rope_of(N_HEADS, middle); }
static void norm_kv(void)
{
    struct rms_norm_args args = {.n_rows = ROWS, .n = DIM, .eps = 1e-5f, .x = y, .weight = weight, .y = y};
    gpu->ops->rms_norm(gpu, &args);
}
static void rope_kv(void) { rope_of(1, y); }
static void store_kv(void)
{
    struct kv_store_args args = {.batch = batch_of_two(), .dim = DIM, .n_rope = N_ROPE, .round = true, .kv = y,
                                 .ring = {.offset = 64, .row_bytes = 4 * DIM, .n_slots = 7, .format = OP_ROW_F32}};
    gpu->ops->kv_store(gpu, &args);
}
static void compress_with(uint32_t ratio, uint32_t width, uint32_t n_slots, uint64_t offset)
{
    struct compress_args args = {.batch = batch_of_two(), .ratio = ratio, .dim = DIM, .width = width,
                                 .n_rope = N_ROPE, .n_slots = n_slots, .rms_eps = 1e-6f,
                                 .slots_offset = offset, .k = x, .g = x + ROWS * width, .ape = x, .norm = weight,
                                 .freq = weight, .rows = {.offset = offset / 2, .row_bytes = 4 * DIM,
                                                          .rows_per_span = 16, .format = OP_ROW_F32}};
    gpu->ops->compress(gpu, &args);
}
static void compress_rows(void) { compress_with(4, 2 * DIM, N_SLOTS, 4096); }
static void compress_others(void) { compress_with(2, DIM, 5, 49152); }
static void compress_short(void) { compress_with(4, 2 * DIM, 8, 4096); }
static void query(void)
{
    struct index_query_args args = {.n_rows = ROWS, .n_heads = 1, .dim = DIM / 3 * 2, .round = true, .q = middle};
    gpu->ops->index_query(gpu, &args);
}
static void rope_query(void)
{
    struct rope_args args = {.n_rows = ROWS, .n_heads = 1, .dim = DIM / 3 * 2, .n_rope = N_ROPE, .pos = pos,
                             .freq = weight, .x = middle};
    gpu->ops->rope(gpu, &args);
}

/* Of rows in a ring that is all zero but for what store_kv puts there, and of compressed ones. */
static void attend(void)
{
    struct attention_args args = {.batch = batch_of_two(), .n_heads = N_HEADS, .dim = DIM, .n_rope = N_ROPE,
                                  .window = 5, .scale = 0.1f, .q = x, .sinks = weight,
                                  .ring = {.offset = 64, .row_bytes = 4 * DIM, .n_slots = 7, .format = OP_ROW_F32},
                                  .o = middle};
    gpu->ops->attention(gpu, &args);
}
static void rope_back(void)
{
    struct rope_args args = {.n_rows = ROWS, .n_heads = N_HEADS, .dim = DIM, .n_rope = N_ROPE, .inverse = true,
                             .pos = pos, .freq = weight, .x = middle};
    gpu->ops->rope(gpu, &args);
}

struct state {
    float middle[ROWS * N], y[ROWS * N];
    uint8_t tails[2 * STATE_BYTES], spans[2 * STATE_BYTES];
};

#define OPS_MOST 8
static void run_all(void (*const *ops)(void), bool apart, struct state *out)
{
    static struct state before;
    float one;
    for (size_t i = 0; i < ROWS * N; i++) {
        before.middle[i] = (float)(i % 97) * 0.02f - 1;
        before.y[i] = (float)(i % 89) * 0.03f - 1;
    }
    gpu->ops->write(gpu, middle, before.middle, sizeof before.middle);
    gpu->ops->write(gpu, y, before.y, sizeof before.y);
    gpu->ops->write(gpu, tails, before.tails, sizeof before.tails);
    gpu->ops->write(gpu, spans, before.spans, sizeof before.spans);
    for (size_t i = 0; i < OPS_MOST && ops[i]; i++) {
        ops[i]();
        if (apart) gpu->ops->read(gpu, &one, middle, sizeof one);
    }
    gpu->ops->read(gpu, out->middle, middle, sizeof out->middle);
    gpu->ops->read(gpu, out->y, y, sizeof out->y);
    gpu->ops->read(gpu, out->tails, tails, sizeof out->tails);
    gpu->ops->read(gpu, out->spans, spans, sizeof out->spans);
}

static uint64_t all_dispatches(void)
{
    struct ds4_kernel_time times[32];
    size_t n = backend_gpu_times(gpu, times, 32);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += times[i].n;
    return sum;
}

/* Chains that are whole, and that break off everywhere: n dispatches together. */
TEST(what_goes_before_and_after_attention_gives_the_same_bits_wherever_it_breaks_off)
{
    static const struct {
        void (*ops[OPS_MOST])(void);
        uint64_t n, n_apart;
    } chains[] = {
        {{norm_q, rope_q, norm_kv, rope_kv, store_kv, compress_rows, compress_others}, 1, 7},
        {{norm_q, rope_q, norm_kv, rope_kv, store_kv, compress_rows}, 1, 6},
        {{norm_q, rope_q, norm_kv, rope_kv, store_kv}, 1, 5},
        {{norm_q, rope_q, norm_kv, rope_kv, store_kv, compress_short}, 3, 7},
        {{compress_rows, compress_others}, 1, 2},
        {{norm_q, rope_q, norm_kv, rope_kv, add}, 3, 5},
        {{norm_q, rope_q, norm_kv, multiply}, 4, 5},
        {{norm_q, rope_q, compress_rows}, 2, 3},
        {{norm_kv, rope_kv, store_kv}, 2, 3},
        {{norm_q, rope_q, norm_kv, store_kv}, 3, 4},
        {{norm_q, norm_kv, rope_kv, rope_q}, 3, 4},
        {{norm_q, rope_q, norm_kv, rope_q, rope_kv}, 4, 5},
        {{rope_query, query}, 1, 2},
        {{store_kv, attend, rope_back, multiply}, 4, 6},
        {{store_kv, attend, rope_back, add}, 4, 5},
        {{store_kv, attend, multiply}, 5, 5},
        {{store_kv, attend, rope_q, rope_back, multiply}, 5, 7},
        {{store_kv, attend, rope_query, query}, 4, 5},
        {{rope_back, multiply}, 2, 3},
        {{rope_query, norm_kv, query}, 3, 3},
    };
    static struct state together, apart;
    struct ds4_error error = {0};
    for (size_t i = 0; i < sizeof chains / sizeof *chains; i++) {
        assert_ok(backend_gpu_time(gpu, true, &error), error);
        run_all(chains[i].ops, false, &together);
        assert_ok(gpu->ops->finish(gpu, &error), error);
        if (all_dispatches() != chains[i].n)
            fail_msg("chain %zu: %llu dispatches", i, (unsigned long long)all_dispatches());
        assert_ok(backend_gpu_time(gpu, true, &error), error);
        run_all(chains[i].ops, true, &apart);
        if (all_dispatches() != chains[i].n_apart)
            fail_msg("chain %zu apart: %llu dispatches", i, (unsigned long long)all_dispatches());
        if (memcmp(&together, &apart, sizeof apart) != 0) fail_msg("chain %zu gives other bits", i);
    }
    assert_ok(gpu->ops->finish(gpu, &error), error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_before_and_after_attention_gives_the_same_bits_wherever_it_breaks_off),
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
