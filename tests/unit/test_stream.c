/* test_stream.c - streamed experts: the same bits as mapped ones whatever the budget, a ledger that is exact, a
 * pool that gives way to memory pressure. */
#include "lib/test.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "lib/model.h"

#define N_PROMPT 70
#define N_DECODE 12

static const char *model_experts(void)
{
    return model_file("experts", "random --layers 5 --ratios 0,4,128,4,0 --dim 64 --heads 2 --head-dim 128 --q-rank 32 "
                                 "--o-groups 1 --o-rank 32 --window 16 --index-heads 2 --index-dim 128 --index-topk 8 "
                                 "--experts 12 --used 3 --inner 32 --hash-layers 2 --vocab 512 --hc 2 --context 4096 "
                                 "--type Q8_0");
}

static struct ds4_engine_options options_for(uint64_t cache_bytes, uint32_t chunk)
{
    return (struct ds4_engine_options){.model_path = model_experts(), .ctx_tokens = 256,
                                       .n_threads = chunk > 1 ? 2 : 1, .notes_dir = "",
                                       .chunk_tokens = chunk, .expert_cache_bytes = cache_bytes};
}

/* All logits of a prompt in chunks, then of tokens one by one. */
static float *logits_of(const struct ds4_engine_options *options, size_t *n_bytes, struct ds4_expert_figures *figures)
{
    struct ds4_error error = {0};
    struct ds4_engine *engine = model_open(options->model_path, *options);
    struct ds4_session *session;
    assert_ok(ds4_session_create(engine, &session, &error), error);
    size_t n_vocab = ds4_engine_info(engine)->n_vocab, chunk = options->chunk_tokens;
    float *out = mem_alloc((N_PROMPT + N_DECODE) * n_vocab, sizeof *out);
    int32_t ids[N_PROMPT + N_DECODE];
    for (size_t i = 0; i < N_PROMPT + N_DECODE; i++) ids[i] = model_token(i, (uint32_t)n_vocab);
    for (size_t at = 0; at < N_PROMPT + N_DECODE;) {
        size_t n = at >= N_PROMPT ? 1 : N_PROMPT - at < chunk ? N_PROMPT - at : chunk;
        struct ds4_job job = {session, ids + at, n, out + at * n_vocab};
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
        at += n;
    }
    if (figures) ds4_engine_expert_figures(engine, figures);
    *n_bytes = (N_PROMPT + N_DECODE) * n_vocab * sizeof *out;
    ds4_session_destroy(session);
    ds4_engine_close(engine);
    return out;
}

static uint64_t least_bytes(uint32_t chunk)
{
    struct ds4_engine_options options = options_for(1, chunk);
    struct ds4_plan plan;
    struct ds4_error error = {0};
    assert_ok(ds4_plan_make(&options, &plan, &error), error);
    assert_false(plan.fits);
    return plan.expert_cache_least_bytes;
}

static void compare_with_mapped(struct ds4_engine_options options)
{
    size_t n_bytes;
    struct ds4_expert_figures f;
    uint64_t cache_bytes = options.expert_cache_bytes;
    options.expert_cache_bytes = 0;
    float *wanted = logits_of(&options, &n_bytes, &f);
    assert_int_equal(f.n_hits + f.n_ahead + f.n_misses, 0);
    options.expert_cache_bytes = cache_bytes;
    float *got = logits_of(&options, &n_bytes, &f);
    assert_true(f.n_misses > 0 && f.read_bytes > 0);
    assert_memory_equal(got, wanted, n_bytes);
    mem_free(wanted);
    mem_free(got);
}

TEST(streamed_experts_give_the_bits_of_mapped_ones_with_any_budget)
{
    static const uint32_t chunks[] = {1, 3, 32};
    for (size_t c = 0; c < 3; c++)
        for (uint64_t extra = 0; extra <= 400000; extra += extra < 40000 ? 20000 : 180000)
            compare_with_mapped(options_for(least_bytes(chunks[c]) + extra, chunks[c]));
}

TEST(streamed_experts_give_the_bits_of_mapped_ones_on_the_reference_backend_and_with_checksums)
{
    struct ds4_engine_options options = options_for(least_bytes(16), 16);
    options.paranoid = true; /* its own table of checksums comes out of the budget */
    options.expert_cache_bytes += 65536;
    compare_with_mapped(options);
    options.backend = "ref";
    compare_with_mapped(options);
}

/* Drafts are part of the state: the draft block's experts stream, too. */
TEST(drafts_are_the_same_with_streamed_experts)
{
    int32_t drafts[2][4];
    size_t n[2];
    for (int streamed = 0; streamed < 2; streamed++) {
        struct ds4_engine_options options = options_for(streamed ? least_bytes(16) : 0, 16);
        struct ds4_error error = {0};
        options.draft = true;
        struct ds4_engine *engine = model_open(options.model_path, options);
        struct ds4_session *session;
        int32_t ids[N_PROMPT];
        assert_true(ds4_engine_info(engine)->has_mtp);
        for (size_t i = 0; i < N_PROMPT; i++) ids[i] = model_token(i, 512);
        assert_ok(ds4_session_create(engine, &session, &error), error);
        assert_ok(ds4_session_sync(session, ids, N_PROMPT, NULL, NULL, NULL, &error), error);
        assert_ok(ds4_session_draft(session, 7, 4, drafts[streamed], &n[streamed], &error), error);
        ds4_session_destroy(session);
        ds4_engine_close(engine);
    }
    assert_true(n[0] > 0);
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(drafts[0], drafts[1], n[0] * sizeof **drafts);
}

/* No layer here is routed by tokens, and a batch of one names nothing that is sure: what is ahead was guessed. */
TEST(decoding_reads_the_next_layers_experts_before_they_are_asked_for)
{
    uint64_t cache_bytes = least_bytes(1) + 200000;
    struct ds4_engine_options options = options_for(0, 1);
    struct ds4_expert_figures f;
    size_t n_bytes;
    options.model_path = model_file("experts-routed", "random --layers 5 --ratios 0,4,128,4,0 --dim 64 --heads 2 "
                                    "--head-dim 128 --q-rank 32 --o-groups 1 --o-rank 32 --window 16 --index-heads 2 "
                                    "--index-dim 128 --index-topk 8 --experts 12 --used 3 --inner 32 --hash-layers 0 "
                                    "--vocab 512 --hc 2 --context 4096 --type Q8_0");
    float *wanted = logits_of(&options, &n_bytes, NULL);
    options.expert_cache_bytes = cache_bytes;
    float *got = logits_of(&options, &n_bytes, &f);
    assert_memory_equal(got, wanted, n_bytes);
    assert_true(f.n_ahead > 0 && f.n_misses > 0);
    assert_int_equal(f.n_hits + f.n_ahead + f.n_misses, (N_PROMPT + N_DECODE) * 5 * 3);
    mem_free(wanted);
    mem_free(got);
}

TEST(a_budget_below_the_need_of_one_layer_is_refused_with_the_number_needed)
{
    uint64_t least = least_bytes(32);
    struct ds4_engine_options options = options_for(least - 1, 32);
    struct ds4_engine *engine = NULL;
    struct ds4_error error = {0};
    char number[32];
    assert_int_equal(ds4_engine_open(&options, &engine, &error), DS4_ERR_LIMIT);
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)least);
    assert_non_null(strstr(error.message, number));
    assert_non_null(strstr(error.message, "12 of one layer"));
    assert_true(least_bytes(1) < least);
    options.expert_cache_bytes = least;
    error = (struct ds4_error){0};
    assert_ok(ds4_engine_open(&options, &engine, &error), error);
    ds4_engine_close(engine);
}

static uint64_t map_bytes_of(const struct ds4_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_items; i++)
        if (strstr(plan->items[i].name, "cache of")) return plan->items[i].resident ? plan->items[i].bytes : 0;
    return 0;
}

TEST(the_plan_and_the_pool_agree_on_every_byte)
{
    uint64_t least = least_bytes(8);
    for (uint64_t extra = 0; extra < 200000; extra += 7001) {
        struct ds4_engine_options options = options_for(least + extra, 8);
        struct ds4_plan plan;
        struct ds4_error error = {0};
        struct ds4_expert_figures f;
        assert_ok(ds4_plan_make(&options, &plan, &error), error);
        struct ds4_engine *engine = model_open(options.model_path, options);
        ds4_engine_expert_figures(engine, &f);
        assert_int_equal(map_bytes_of(&plan), f.cache_bytes);
        assert_int_equal(plan.expert_cache_bytes, f.cache_bytes);
        assert_int_equal(plan.n_expert_slots, f.n_slots);
        assert_true(f.cache_bytes <= least + extra);
        assert_true(plan.n_expert_slots == plan.n_experts || least + extra - f.cache_bytes < 3 * 8192 + 256);
        ds4_engine_close(engine);
    }
}

/* The pool looks at the memory a few times a second: the clock of the test moves a second a step. */
static uint64_t now_ns = 1;
static uint64_t fake_ns(void) { return now_ns; }
static uint64_t fake_unix_s(void) { return 1000000000; }

static uint64_t memory_there;
static uint64_t fake_available(void) { return memory_there; }

TEST(memory_pressure_shrinks_the_pool_and_results_stay_the_same)
{
    struct ds4_error error = {0};
    struct ds4_engine_options options = options_for(4000000, 4);
    struct ds4_expert_figures f;
    memory_there = (uint64_t)1 << 50;
    mem_test_available(fake_available);
    clock_test_hook(fake_ns, fake_unix_s);
    struct ds4_engine *engine = model_open(options.model_path, options);
    options.expert_cache_bytes = 0;
    struct ds4_engine *mapped = model_open(options.model_path, options);
    struct ds4_session *a, *b;
    assert_ok(ds4_session_create(engine, &a, &error), error);
    assert_ok(ds4_session_create(mapped, &b, &error), error);
    uint32_t least_seen = UINT32_MAX, last = 0;
    for (size_t i = 0; i < 40; i++) {
        int32_t ids[4];
        for (size_t k = 0; k < 4; k++) ids[k] = model_token(4 * i + k, 512);
        memory_there = i >= 5 && i < 20 ? 0 : (uint64_t)1 << 50;
        if (i == 30) memory_there = engine_reserve_bytes() / 2 + 1; /* free but for pages of weights */
        now_ns += 1000000000;
        struct ds4_job job = {a, ids, 4, NULL}, same = {b, ids, 4, NULL};
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
        assert_ok(ds4_eval(mapped, &same, 1, &error), error);
        assert_memory_equal(ds4_session_logits(a), ds4_session_logits(b), 512 * sizeof(float));
        ds4_engine_expert_figures(engine, &f);
        if (i == 30) assert_true(f.n_slots_now < f.n_slots);
        if (f.n_slots_now < least_seen) least_seen = f.n_slots_now;
        last = f.n_slots_now;
    }
    mem_test_available(NULL);
    clock_test_hook(NULL, NULL);
    assert_int_equal(least_seen, 12); /* what four rows of three may need of a layer */
    assert_int_equal(last, f.n_slots);
    assert_true(f.n_slots > 12);
    ds4_session_destroy(a);
    ds4_session_destroy(b);
    ds4_engine_close(engine);
    ds4_engine_close(mapped);
}

int main(void)
{
    return RUN_TESTS(T(streamed_experts_give_the_bits_of_mapped_ones_with_any_budget),
                     T(streamed_experts_give_the_bits_of_mapped_ones_on_the_reference_backend_and_with_checksums),
                     T(drafts_are_the_same_with_streamed_experts),
                     T(decoding_reads_the_next_layers_experts_before_they_are_asked_for),
                     T(a_budget_below_the_need_of_one_layer_is_refused_with_the_number_needed),
                     T(the_plan_and_the_pool_agree_on_every_byte),
                     T(memory_pressure_shrinks_the_pool_and_results_stay_the_same));
}
