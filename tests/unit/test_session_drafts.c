/* test_session_drafts.c - a session that computes drafts with its tokens, beside one that does not: the same tokens,
 * logits and state to the last bit, whichever drafts come true, and whatever is done while some are waiting. */
#include "lib/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "lib/model.h"
#include "lib/same_state.h"
#ifdef DS4_GPU_EMU
#include "lib/tested_gpu.h"
#endif

/* Two sessions with the same tokens. */
struct two {
    struct ds4_engine *engine;
    struct ds4_session *drafting, *plain;
    uint32_t n_vocab, n_drafts;
    size_t step;
    unsigned most_in_a_row, in_a_row;
};

static struct ds4_error error;

static struct ds4_session *new_session(struct two *t, uint32_t n_drafts)
{
    struct ds4_session *s = NULL;
    assert_ok(ds4_session_create(t->engine, &s, &error), error);
    assert_ok(ds4_session_set_drafts(s, n_drafts, &error), error);
    return s;
}

static void begin_with(struct two *t, const char *path, struct ds4_engine_options options)
{
    if (!options.n_sessions_max) options.n_sessions_max = 4;
    options.n_threads = 1;
    *t = (struct two){.engine = model_open(path, options), .n_drafts = options.n_drafts};
    t->n_vocab = ds4_engine_info(t->engine)->n_vocab;
    t->drafting = new_session(t, options.n_drafts);
    t->plain = new_session(t, 0);
}

static void begin(struct two *t, uint32_t n_drafts)
{
    begin_with(t, model_micro(), (struct ds4_engine_options){.ctx_tokens = 400, .n_drafts = n_drafts});
}

static void end(struct two *t)
{
    ds4_session_destroy(t->drafting);
    ds4_session_destroy(t->plain);
    ds4_engine_close(t->engine);
}

static void eval(struct two *t, struct ds4_session *s, const int32_t *ids, size_t n)
{
    struct ds4_job job = {.session = s, .tokens = ids, .n = n};
    assert_ok(ds4_eval(t->engine, &job, 1, &error), error);
}

static void assert_same_logits(const struct two *t)
{
    const float *a = ds4_session_logits(t->drafting), *b = ds4_session_logits(t->plain);
    assert_non_null(a);
    assert_non_null(b);
    assert_memory_equal(a, b, t->n_vocab * sizeof *a);
}

static bool waits(const struct two *t) { return t->drafting->n_drafted > 0; }
static int32_t waiting(const struct two *t) { return t->drafting->tokens.ids[t->drafting->tokens.n]; }

/* One more token: the draft that waits, if it shall come true, else another. */
static void go(struct two *t, bool true_one)
{
    struct ds4_draft_figures before, now;
    int32_t id = waits(t) ? (waiting(t) + !true_one) % (int32_t)t->n_vocab : model_token(t->step, t->n_vocab);
    bool kept = waits(t) && true_one;
    ds4_engine_draft_figures(t->engine, &before);
    eval(t, t->drafting, &id, 1);
    ds4_engine_draft_figures(t->engine, &now);
    assert_int_equal(now.n_kept - before.n_kept, kept);
    if (kept) assert_int_equal(now.n_passes, before.n_passes); /* nothing was computed */
    t->in_a_row = kept ? t->in_a_row + 1 : 0;
    if (t->in_a_row > t->most_in_a_row) t->most_in_a_row = t->in_a_row;
    eval(t, t->plain, &id, 1);
    assert_same_logits(t);
    t->step++;
}

/* Sometimes all drafts of a pass come true, sometimes some, sometimes none. */
static void go_on(struct two *t, size_t n)
{
    for (size_t i = 0; i < n; i++) go(t, t->step * 7 % 11 != 3 && t->step % 23 != 5);
}

static void prompt(struct two *t, size_t n)
{
    int32_t *ids = malloc(n * sizeof *ids);
    for (size_t i = 0; i < n; i++) ids[i] = model_token(1000 + i, t->n_vocab);
    assert_ok(ds4_session_sync(t->drafting, ids, n, NULL, NULL, NULL, &error), error);
    assert_ok(ds4_session_sync(t->plain, ids, n, NULL, NULL, NULL, &error), error);
    free(ids);
}

static void check_engine(const char *path, struct ds4_engine_options options, size_t n)
{
    struct two t;
    struct ds4_draft_figures f;
    begin_with(&t, path, options);
    prompt(&t, 5);
    for (size_t i = 0; i < n; i++) {
        go_on(&t, 1);
        if (i % MODEL_STRIDE == 0 && i % 3 == 0) assert_same_snapshot(t.drafting, t.plain);
    }
    uint32_t most = ds4_engine_info(t.engine)->chunk_tokens - 1;
    most = most < options.n_drafts ? most : options.n_drafts;
    ds4_engine_draft_figures(t.engine, &f);
    assert_int_equal(t.most_in_a_row, most);
    assert_true(f.n_kept > 0 && f.n_kept < f.n_drafted && f.n_drafted > f.n_passes * (most - 1));
    end(&t);
}

TEST(drafts_kept_and_refused_leave_no_trace_in_logits_or_snapshots)
{
    for (uint32_t n_drafts = 1; n_drafts <= DS4_DRAFTS_MAX; n_drafts += 3)
        check_engine(model_micro(), (struct ds4_engine_options){.ctx_tokens = 400, .n_drafts = n_drafts}, 300);
    check_engine(model_micro(), (struct ds4_engine_options){.ctx_tokens = 400, .n_drafts = 7, .chunk_tokens = 4}, 80);
    check_engine(model_micro(), (struct ds4_engine_options){.ctx_tokens = 400, .n_drafts = 3, .backend = "ref"}, 30);
}

TEST(drafts_are_checked_with_streamed_experts)
{
    struct ds4_engine_options options = {.model_path = model_small(), .ctx_tokens = 400, .n_drafts = 3,
                                         .n_sessions_max = 4, .n_threads = 1, .expert_cache_bytes = 1, .notes_dir = ""};
    struct ds4_plan plan;
    assert_ok(ds4_plan_make(&options, &plan, &error), error);
    options.expert_cache_bytes = plan.expert_cache_least_bytes;
    check_engine(model_small(), options, 60);
}

TEST(a_session_that_drafts_fills_its_context_to_the_last_token)
{
    struct two t;
    int32_t id = 1;
    begin_with(&t, model_micro(), (struct ds4_engine_options){.ctx_tokens = 40, .n_drafts = 7});
    prompt(&t, 5);
    while (t.plain->tokens.n < 40) go_on(&t, 1);
    assert_false(waits(&t));
    struct ds4_job job = {.session = t.drafting, .tokens = &id, .n = 1};
    assert_status(ds4_eval(t.engine, &job, 1, &error), DS4_ERR_LIMIT, error);
    assert_same_snapshot(t.drafting, t.plain);
    end(&t);
}

/* ---- while drafts wait ------------------------------------------------------------------------------------------ */

/* Until at least one draft waits. */
static void until_waiting(struct two *t)
{
    do go(t, true);
    while (!waits(t));
}

static void rewind_both(struct two *t, size_t n)
{
    assert_ok(ds4_session_rewind(t->drafting, n, &error), error);
    assert_ok(ds4_session_rewind(t->plain, n, &error), error);
}

static void by_rewind(struct two *t)
{
    size_t n = t->plain->tokens.n;
    rewind_both(t, n); /* nothing goes, logits stay */
    assert_same_logits(t);
    assert_same_snapshot(t->drafting, t->plain);
    rewind_both(t, n - 3);
    assert_null(ds4_session_logits(t->drafting));
}

static void exchange(struct two *t, struct ds4_session **drafting, struct ds4_session **plain)
{
    struct ds4_session *a = t->drafting, *b = t->plain;
    t->drafting = *drafting;
    t->plain = *plain;
    *drafting = a;
    *plain = b;
}

/* In turns with a fork: neither touches what the other has. */
static void by_fork(struct two *t)
{
    struct ds4_session *drafting = NULL, *plain = NULL;
    assert_ok(ds4_session_fork(t->drafting, &drafting, &error), error);
    assert_ok(ds4_session_fork(t->plain, &plain, &error), error);
    for (int turn = 0; turn < 16; turn++) {
        exchange(t, &drafting, &plain);
        if (turn < 14) go(t, true);
        else go_on(t, 8);
        assert_same_snapshot(t->drafting, t->plain);
    }
    ds4_session_destroy(drafting);
    ds4_session_destroy(plain);
}

static void by_restore(struct two *t)
{
    size_t cap = ds4_state_layout(t->engine)->tip_bytes_max, len, n = t->plain->tokens.n;
    uint8_t *tip = calloc(cap, 1), *spans[4] = {NULL};
    size_t n_spans = ds4_session_spans(t->drafting), logits = t->n_vocab * sizeof(float);
    size_t streams = (size_t)t->plain->host->h->n_hc * t->plain->host->h->n_embd * sizeof(float);
    int32_t *ids = malloc(n * sizeof *ids);
    memcpy(ids, t->plain->tokens.ids, n * sizeof *ids);
    for (size_t i = 0; i < n_spans; i++) spans[i] = model_span(t->engine, t->drafting, i);
    assert_ok(ds4_session_tip_save(t->drafting, tip, cap, &len, &error), error);
    go_on(t, 5);
    while (!t->drafting->logits_i) go(t, true);
    rewind_both(t, n);
    assert_ok(ds4_session_restore(t->drafting, ids, n, (const uint8_t *const *)spans, n_spans, tip, len, &error),
              error);
    assert_memory_equal(ds4_session_logits(t->drafting), tip + len - streams - logits, logits);
    eval(t, t->plain, &ids[0], 1);
    eval(t, t->drafting, &ids[0], 1);
    assert_same_logits(t);
    for (size_t i = 0; i < n_spans; i++) free(spans[i]);
    free(ids);
    free(tip);
}

/* The next token comes as the rest of a prompt. */
static void by_sync(struct two *t)
{
    size_t n = t->plain->tokens.n, reused;
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    memcpy(ids, t->plain->tokens.ids, n * sizeof *ids);
    ids[n] = waiting(t);
    assert_ok(ds4_session_sync(t->drafting, ids, n + 1, NULL, NULL, &reused, &error), error);
    assert_int_equal(reused, n);
    eval(t, t->plain, &ids[n], 1);
    assert_same_logits(t);
    free(ids);
}

/* Drafts asked for by hand write rows of the block that those that wait had written. */
static void by_hand(struct two *t)
{
    int32_t drafts[2][2], next[2];
    size_t n[2];
    assert_true(t->drafting->n_drafted >= 2);
    memcpy(next, &t->drafting->tokens.ids[t->drafting->tokens.n], sizeof next);
    assert_ok(ds4_session_draft(t->drafting, next[0], 2, drafts[0], &n[0], &error), error);
    assert_ok(ds4_session_draft(t->plain, next[0], 2, drafts[1], &n[1], &error), error);
    assert_int_equal(n[0], 2);
    assert_int_equal(n[1], 2);
    assert_memory_equal(drafts[0], drafts[1], sizeof drafts[0]);
    for (int i = 0; i < 2; i++) {
        eval(t, t->drafting, &next[i], 1);
        eval(t, t->plain, &next[i], 1);
    }
}

/* Several tokens at once, and the logits of each: nothing of what waits is taken for them. */
static void by_many(struct two *t)
{
    int32_t ids[2] = {waiting(t), 7};
    float *logits[2] = {calloc(2 * t->n_vocab, sizeof(float)), calloc(2 * t->n_vocab, sizeof(float))};
    struct ds4_job job = {.session = t->drafting, .tokens = ids, .n = 2, .logits = logits[0]};
    assert_ok(ds4_eval(t->engine, &job, 1, &error), error);
    job = (struct ds4_job){.session = t->plain, .tokens = ids, .n = 2, .logits = logits[1]};
    assert_ok(ds4_eval(t->engine, &job, 1, &error), error);
    assert_memory_equal(logits[0], logits[1], 2 * t->n_vocab * sizeof(float));
    assert_same_logits(t);
    free(logits[0]);
    free(logits[1]);
}

/* Beside another session in one pass, with the draft and with another token. */
static void by_batch(struct two *t)
{
    struct ds4_session *other = new_session(t, 0);
    for (int right = 1; right >= 0; right--) {
        until_waiting(t);
        int32_t ids[2] = {(waiting(t) + !right) % (int32_t)t->n_vocab, 9};
        struct ds4_draft_figures before, now;
        struct ds4_job jobs[2] = {{.session = t->drafting, .tokens = &ids[0], .n = 1},
                                  {.session = other, .tokens = &ids[1], .n = 1}};
        ds4_engine_draft_figures(t->engine, &before);
        assert_ok(ds4_eval(t->engine, jobs, 2, &error), error);
        ds4_engine_draft_figures(t->engine, &now);
        assert_int_equal(now.n_kept, before.n_kept + (unsigned)right);
        assert_int_equal(now.n_passes, before.n_passes);
        eval(t, t->plain, &ids[0], 1);
        assert_same_logits(t);
    }
    assert_int_equal(other->tokens.n, 2);
    ds4_session_destroy(other);
}

static void by_turning_it_off_and_on(struct two *t)
{
    assert_ok(ds4_session_set_drafts(t->drafting, 0, &error), error);
    while (waits(t)) go(t, true);
    go(t, true);
    assert_false(waits(t));
    assert_ok(ds4_session_set_drafts(t->drafting, t->n_drafts, &error), error);
}

static void (*const ways[])(struct two *t) = {by_rewind, by_fork, by_restore, by_sync, by_hand, by_many, by_batch,
                                              by_turning_it_off_and_on};
#define N_WAYS (sizeof ways / sizeof *ways)

static void check_way(struct two *t, size_t way, size_t place, size_t n_after)
{
    prompt(t, place - 2);
    until_waiting(t);
    if (t->plain->tokens.n < place) go(t, true);
    ways[way](t);
    go_on(t, n_after);
    assert_same_snapshot(t->drafting, t->plain);
    end(t);
}

TEST(whatever_happens_while_drafts_wait_the_session_is_that_of_one_without)
{
    struct two t;
    /* In the window, and where the drafts lie beyond a span's end. */
    static const size_t places[] = {20, 255, 256};
    for (size_t p = 0; p < sizeof places / sizeof *places; p++)
        for (size_t w = 0; w < N_WAYS; w++) {
            begin(&t, 4);
            check_way(&t, w, places[p], 12);
        }
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

/* Is told of every token of an answer. */
static void (*spy)(const struct two *t);

/* The answer of the model that ships to a rendered question, into ids; how many. */
static size_t answer(struct two *t, struct ds4_session *s, const struct ds4_sampling *how, size_t n, int32_t *ids)
{
    static const char question[] = "<\xef\xbd\x9c" "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
                                   "<\xef\xbd\x9cUser\xef\xbd\x9c>Tell me a story.<\xef\xbd\x9c"
                                   "Assistant\xef\xbd\x9c></think>";
    struct ds4_span text = {question, sizeof question - 1};
    struct ds4_tokens prompt = {0};
    struct ds4_sampler *sampler = NULL;
    assert_ok(ds4_tokenize(t->engine, text, true, &prompt, &error), error);
    assert_ok(ds4_session_sync(s, prompt.ids, prompt.n, NULL, NULL, NULL, &error), error);
    assert_ok(ds4_sampler_create(t->engine, how, &sampler, &error), error);
    size_t i = 0;
    for (; i < n && (i == 0 || ids[i - 1] != ds4_special(t->engine)->eos); i++) {
        assert_ok(ds4_session_next(s, sampler, i % 9 == 7, &ids[i], &error), error); /* some in the syntax of a call */
        ds4_sampler_accept(sampler, ids[i]);
        eval(t, s, &ids[i], 1);
        if (spy) spy(t);
    }
    ds4_sampler_destroy(sampler);
    ds4_tokens_free(&prompt);
    return i;
}

/* The same answers with and without drafts, and some drafts right, some wrong. n: most tokens. */
static void check_answers(struct two *t, const struct ds4_sampling *hows, size_t n_hows, size_t n)
{
    struct ds4_draft_figures f;
    int32_t *ids[2] = {calloc(n, sizeof(int32_t)), calloc(n, sizeof(int32_t))};
    for (size_t h = 0; h < n_hows; h++) {
        void (*of_drafting)(const struct two *) = spy;
        size_t said = answer(t, t->drafting, &hows[h], n, ids[0]);
        spy = NULL;
        assert_int_equal(said, answer(t, t->plain, &hows[h], n, ids[1]));
        spy = of_drafting;
        assert_memory_equal(ids[0], ids[1], said * sizeof(int32_t));
        assert_same_snapshot(t->drafting, t->plain);
    }
    ds4_engine_draft_figures(t->engine, &f);
    assert_true(f.n_kept > 0 && f.n_kept < f.n_drafted);
    free(ids[0]);
    free(ids[1]);
}

static struct ds4_sampling sampling(float temperature, uint64_t seed)
{
    struct ds4_sampling how = ds4_sampling_default();
    how.temperature = temperature;
    how.seed = seed;
    return how;
}

TEST(answers_are_the_same_greedy_drawn_and_with_penalties)
{
    struct two t;
    struct ds4_sampling hows[] = {sampling(0, 1), sampling(1, 2), sampling(1.5f, 3), sampling(1, 4)};
    hows[2].top_p = 0.9f;
    hows[3].repetition_penalty = 1.3f;
    hows[3].frequency_penalty = 0.4f;
    begin_with(&t, "models/ds4-tiny.gguf", (struct ds4_engine_options){.ctx_tokens = 512, .n_drafts = 2});
    check_answers(&t, hows, sizeof hows / sizeof *hows, 120);
    end(&t);
}

#ifdef DS4_GPU_EMU
static struct ds4_engine_options gpu_options(uint32_t n_drafts)
{
    return (struct ds4_engine_options){.ctx_tokens = 300, .n_drafts = n_drafts, .chunk_tokens = 16,
                                       .backend = TESTED_GPU, .device_memory_bytes = 64u << 20};
}

TEST(on_a_gpu_drafts_leave_no_trace)
{
    check_engine(model_file("gpu_blocks", MODEL_EMULATED), gpu_options(3), 12);
}

TEST(on_a_gpu_whatever_happens_while_drafts_wait_leaves_no_trace)
{
    struct two t;
    for (size_t w = 1; w <= 2; w++) { /* where streams move; the rest does nothing of its own there */
        assert_true(ways[w] == by_fork || ways[w] == by_restore);
        begin_with(&t, model_file("gpu_blocks", MODEL_EMULATED), gpu_options(4));
        check_way(&t, w, 12, 3);
    }
}

/* What the device waited for, by what the token was. */
static struct {
    unsigned n_passes, n_kept, n_kept_for_nothing;
    struct ds4_draft_figures before;
} waits_seen;

static void watch_waits(const struct two *t)
{
    struct ds4_draft_figures now;
    uint64_t n_rests = tested_n_rests();
    ds4_engine_draft_figures(t->engine, &now);
    if (now.n_kept > waits_seen.before.n_kept) {
        waits_seen.n_kept++;
        waits_seen.n_kept_for_nothing += n_rests == 0;
    } else {
        waits_seen.n_passes++;
    }
    waits_seen.before = now;
}

TEST(on_a_gpu_answers_are_the_same_and_a_draft_that_comes_true_costs_no_wait)
{
    struct two t;
    struct ds4_sampling hows[] = {sampling(0, 1), sampling(1, 2)};
    begin_with(&t, "models/ds4-tiny.gguf", gpu_options(2));
    spy = watch_waits;
    check_answers(&t, hows, 2, 11);
    print_message("%u passes, %u drafts kept, %u of them without the device resting\n", waits_seen.n_passes,
                  waits_seen.n_kept, waits_seen.n_kept_for_nothing);
    assert_true(waits_seen.n_kept_for_nothing >= waits_seen.n_kept / 2); /* not where how to choose has changed */
    spy = NULL;
    end(&t);
}
#endif

/* ---- what cannot be --------------------------------------------------------------------------------------------- */

TEST(drafts_that_cannot_be_made_are_refused_with_the_cause)
{
    struct two t;
    struct ds4_engine *engine = NULL;
    struct ds4_plan plan, without;
    char trunk[256];
    (void)snprintf(trunk, sizeof trunk, "%s", model_file("trunk", MODEL_SMALL_ARGS " --part trunk"));
    struct ds4_engine_options options = {.model_path = trunk, .ctx_tokens = 64, .n_drafts = 1, .n_threads = 1};
    error = (struct ds4_error){0};
    assert_int_equal(ds4_engine_open(&options, &engine, &error), DS4_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, trunk));
    assert_non_null(strstr(error.message, "mtp.0."));
    error = (struct ds4_error){0};
    assert_status(ds4_plan_make(&options, &plan, &error), DS4_ERR_UNSUPPORTED, error);
    options.model_path = model_small();
    options.n_drafts = DS4_DRAFTS_MAX + 1;
    assert_status(ds4_engine_open(&options, &engine, &error), DS4_ERR_LIMIT, error);
    options.n_drafts = DS4_DRAFTS_MAX; /* their logits are planned for */
    assert_ok(ds4_plan_make(&options, &plan, &error), error);
    options.n_drafts = 0;
    assert_ok(ds4_plan_make(&options, &without, &error), error);
    assert_true(plan.resident_bytes >= without.resident_bytes + DS4_DRAFTS_MAX * 512 * sizeof(float));
    begin(&t, 2);
    assert_status(ds4_session_set_drafts(t.plain, 3, &error), DS4_ERR_LIMIT, error);
    assert_ok(ds4_session_set_drafts(t.plain, 2, &error), error);
    end(&t);
}

TEST(the_draft_block_may_come_from_a_file_of_its_own)
{
    char trunk[256];
    (void)snprintf(trunk, sizeof trunk, "%s", model_file("trunk", MODEL_SMALL_ARGS " --part trunk"));
    const char *block = model_file("block", MODEL_SMALL_ARGS " --part mtp");
    check_engine(trunk, (struct ds4_engine_options){.ctx_tokens = 400, .n_drafts = 2, .mtp_path = block}, 40);
}

int main(void)
{
    return RUN_TESTS(T(drafts_kept_and_refused_leave_no_trace_in_logits_or_snapshots),
                     T(drafts_are_checked_with_streamed_experts),
                     T(a_session_that_drafts_fills_its_context_to_the_last_token),
                     T(whatever_happens_while_drafts_wait_the_session_is_that_of_one_without),
                     T(answers_are_the_same_greedy_drawn_and_with_penalties),
#ifdef DS4_GPU_EMU
                     T(on_a_gpu_drafts_leave_no_trace),
                     T(on_a_gpu_whatever_happens_while_drafts_wait_leaves_no_trace),
                     T(on_a_gpu_answers_are_the_same_and_a_draft_that_comes_true_costs_no_wait),
#endif
                     T(drafts_that_cannot_be_made_are_refused_with_the_cause),
                     T(the_draft_block_may_come_from_a_file_of_its_own));
}
