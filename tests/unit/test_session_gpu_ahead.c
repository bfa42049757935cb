/* test_session_gpu_ahead.c - a GPU that chooses and goes on before the host has read the token, in the emulator: the
 * tokens are those that the host chooses, of the same seed; wherever the answer stops, and whatever is done with the
 * session then, its state has the bits of one that never ran ahead; and no token makes the device rest or a list that
 * it was not given before. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/backend.h"
#include "lib/model.h"
#include "lib/same_state.h"
#include "lib/test.h"

#ifdef DS4_GPU_EMU

#include "lib/tested_gpu.h"

#define N_PROMPT 5u
#define N_OUT 24u

static struct ds4_engine *engine;
static uint32_t n_vocab;
static struct ds4_error error;

static bool shipped; /* the model that ships, in place of one of random weights */

static struct ds4_engine *open_on(const char *backend)
{
    struct ds4_engine_options options = {.ctx_tokens = 320, .chunk_tokens = 16, .n_threads = 1, .n_sessions_max = 2,
                                         .backend = backend, .launch = strcmp(backend, "cpu") ? TESTED_LAUNCH : NULL};
    return model_open(shipped ? "models/ds4-tiny.gguf" : model_file("gpu_blocks", MODEL_EMULATED), options);
}

static int open_engine(void **state)
{
    (void)state;
    engine = open_on(TESTED_GPU);
    n_vocab = ds4_engine_info(engine)->n_vocab;
    return 0;
}

static int close_engine(void **state)
{
    (void)state;
    ds4_engine_close(engine);
    return 0;
}

static void eval(struct ds4_session *s, const int32_t *ids, size_t n)
{
    struct ds4_job job = {.session = s, .tokens = ids, .n = n};
    assert_ok(ds4_eval(engine, &job, 1, &error), error);
}

static struct ds4_session *prompted(size_t n)
{
    struct ds4_session *s = NULL;
    int32_t ids[16];
    assert_ok(ds4_session_create(engine, &s, &error), error);
    for (size_t t = 0; t < n; t++) {
        ids[t % 16] = model_token(t, n_vocab);
        if (t + 1 == n || t % 16 == 15) eval(s, ids, t % 16 + 1);
    }
    return s;
}

/* The same for longer prompts, which the CPU computes. */
static struct ds4_session *prompted_by_cpu(size_t n)
{
    struct ds4_engine *emu = engine, *cpu = engine = open_on("cpu");
    struct ds4_session *from = NULL, *to = NULL;
    size_t cap = ds4_state_layout(cpu)->tip_bytes_max, len;
    uint8_t *tip = calloc(cap, 1);
    uint8_t *spans[4] = {NULL};
    assert_ok(ds4_session_create(cpu, &from, &error), error);
    for (size_t t = 0; t < n; t++) {
        int32_t id = model_token(t, n_vocab);
        eval(from, &id, 1);
    }
    for (size_t i = 0; i < ds4_session_spans(from); i++) spans[i] = model_span(cpu, from, i);
    assert_ok(ds4_session_tip_save(from, tip, cap, &len, &error), error);
    assert_ok(ds4_session_create(engine = emu, &to, &error), error);
    assert_ok(ds4_session_restore(to, from->tokens.ids, n, (const uint8_t *const *)spans, ds4_session_spans(from), tip,
                                  len, &error), error);
    for (size_t i = 0; i < 4; i++) free(spans[i]);
    ds4_session_destroy(from);
    ds4_engine_close(cpu);
    free(tip);
    return to;
}

static struct ds4_sampler *sampler_of(const struct ds4_sampling *p)
{
    struct ds4_sampler *sampler = NULL;
    assert_ok(ds4_sampler_create(engine, p, &sampler, &error), error);
    return sampler;
}

static struct ds4_sampling greedy(void)
{
    struct ds4_sampling p = ds4_sampling_default();
    p.temperature = 0;
    return p;
}

/* Sharp enough for a model of random weights: few of its tokens may be drawn. */
static struct ds4_sampling drawing(uint64_t seed)
{
    struct ds4_sampling p = ds4_sampling_default();
    p.temperature = 0.2f;
    p.seed = seed;
    return p;
}

/* n tokens, each chosen and evaluated. ahead: by ds4_session_next. The last one is chosen only. */
static void decode(struct ds4_session *s, struct ds4_sampler *sampler, bool ahead, int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (ahead) assert_ok(ds4_session_next(s, sampler, false, &ids[i], &error), error);
        else assert_ok(ds4_session_pick(s, sampler, NULL, false, &ids[i], &error), error);
        if (i + 1 < n) eval(s, &ids[i], 1);
    }
}

/* Both ways, with samplers of one seed. */
static void compare_tokens(struct ds4_sampling p, size_t n_prompt, size_t n)
{
    struct ds4_session *far = n_prompt > 16 ? prompted_by_cpu(n_prompt) : prompted(n_prompt);
    struct ds4_session *near = n_prompt > 16 ? prompted_by_cpu(n_prompt) : prompted(n_prompt);
    struct ds4_sampler *a = sampler_of(&p), *b = sampler_of(&p);
    int32_t got[N_OUT], want[N_OUT];
    decode(near, a, false, want, n);
    decode(far, b, true, got, n);
    assert_true(far->host->ahead.rows[0].session == far);
    assert_memory_equal(got, want, n * sizeof *got);
    assert_same_state(far, near);
    ds4_session_destroy(far);
    ds4_session_destroy(near);
    ds4_sampler_destroy(a);
    ds4_sampler_destroy(b);
}

TEST(tokens_chosen_ahead_are_those_of_the_host_and_the_state_is_the_same)
{
    compare_tokens(greedy(), N_PROMPT, N_OUT);
    compare_tokens(drawing(4), N_PROMPT, N_OUT);
    compare_tokens(drawing(5), 124, 7); /* a window of 128 is completed */
    compare_tokens(greedy(), 253, 4);   /* a span ends, and a pass ahead is in the next */
}

/* What may follow when an answer stops. */
enum after { GO_ON, GO_BACK, FORK, OTHER_TOKEN, PICK, SYNC, N_AFTER };

static struct ds4_session *stop_and(struct ds4_session *s, enum after after, struct ds4_sampler *sampler, int32_t last)
{
    struct ds4_session *fork = NULL;
    int32_t id = (last + 1) % (int32_t)n_vocab, ids[64];
    size_t n;
    switch (after) {
    case GO_ON: eval(s, &last, 1); break;
    case GO_BACK: assert_ok(ds4_session_rewind(s, ds4_session_rewind_min(s), &error), error); break;
    case FORK:
        assert_ok(ds4_session_fork(s, &fork, &error), error);
        ds4_session_destroy(s);
        return fork;
    case OTHER_TOKEN: eval(s, &id, 1); break;
    case PICK:
        assert_ok(ds4_session_pick(s, sampler, NULL, false, &id, &error), error);
        eval(s, &id, 1);
        break;
    default:
        memcpy(ids, ds4_session_tokens(s, &n), s->tokens.n * sizeof *ids);
        ids[n - 2] = id;
        assert_ok(ds4_session_sync(s, ids, n, NULL, NULL, NULL, &error), error);
    }
    return s;
}

TEST(an_answer_may_stop_at_any_token_and_anything_may_follow)
{
    for (size_t way = 0; way < 2; way++) {
        for (enum after after = 0; after < N_AFTER; after++) {
            const size_t n = way ? 7 - after : 1 + after;
            struct ds4_sampling p = drawing(n);
            struct ds4_session *far = prompted(13), *near;
            struct ds4_sampler *a = sampler_of(&p), *b = sampler_of(&p);
            int32_t got[N_OUT], want[N_OUT], next[2];
            decode(far, b, true, got, n);
            far = stop_and(far, after, b, got[n - 1]);
            near = prompted(13);
            decode(near, a, false, want, n);
            assert_memory_equal(got, want, n * sizeof *got);
            if (after == FORK) assert_same_state(far, near); /* two sessions at most */
            else near = stop_and(near, after, a, want[n - 1]);
            assert_same_state(far, near);
            eval(far, want, 3);
            eval(near, want, 3);
            assert_ok(ds4_session_next(far, b, false, &next[0], &error), error);
            assert_ok(ds4_session_pick(near, a, NULL, false, &next[1], &error), error);
            assert_int_equal(next[0], next[1]);
            assert_same_state(far, near);
            ds4_session_destroy(far);
            ds4_session_destroy(near);
            ds4_sampler_destroy(a);
            ds4_sampler_destroy(b);
        }
    }
}

/* The rings of such a session are full: a pass ahead replaces a row of each, which going back must not need. */
TEST(a_session_goes_back_as_far_as_one_that_never_ran_ahead)
{
    struct ds4_sampling p = greedy();
    struct ds4_session *far = prompted(35), *near = prompted(35);
    struct ds4_sampler *a = sampler_of(&p), *b = sampler_of(&p);
    int32_t got[2], want[2];
    decode(near, a, false, want, 2);
    decode(far, b, true, got, 2);
    assert_true(far->host->ahead.rows[0].past);
    assert_int_equal(ds4_session_rewind_min(far), 36 - 16);
    assert_ok(ds4_session_rewind(far, 36 - 16, &error), error);
    assert_ok(ds4_session_rewind(near, 36 - 16, &error), error);
    assert_same_state(far, near);
    eval(far, want, 2);
    eval(near, want, 2);
    assert_same_state(far, near);
    ds4_session_destroy(far);
    ds4_session_destroy(near);
    ds4_sampler_destroy(a);
    ds4_sampler_destroy(b);
}

TEST(other_sessions_and_other_samplers_between_the_tokens_change_nothing)
{
    struct ds4_sampling p = drawing(7), cold = greedy();
    struct ds4_session *far = prompted(N_PROMPT), *other = prompted(3);
    struct ds4_sampler *a = sampler_of(&p), *b = sampler_of(&cold), *other_sampler = sampler_of(&p);
    int32_t got[N_OUT], want[N_OUT], id;
    for (size_t i = 0; i < N_OUT; i++) {
        bool force = i % 4 == 2;
        assert_ok(ds4_session_next(far, i % 5 == 3 ? b : a, force, &got[i], &error), error);
        if (i % 3 == 0) assert_non_null(ds4_session_logits(far));
        if (i % 6 == 4) {
            assert_ok(ds4_session_next(other, other_sampler, false, &id, &error), error);
            if (i % 4) eval(other, &id, 1);
        }
        if (i % 7 == 5) free(model_span(engine, other, 0));
        eval(far, &got[i], 1);
    }
    ds4_session_destroy(other);
    struct ds4_session *near = prompted(N_PROMPT);
    struct ds4_sampler *c = sampler_of(&p);
    for (size_t i = 0; i < N_OUT; i++) {
        assert_ok(ds4_session_pick(near, i % 5 == 3 ? b : c, NULL, i % 4 == 2, &want[i], &error), error);
        eval(near, &want[i], 1);
    }
    assert_memory_equal(got, want, sizeof got);
    assert_same_state(far, near);
    ds4_session_destroy(far);
    ds4_session_destroy(near);
    ds4_sampler_destroy(a);
    ds4_sampler_destroy(b);
    ds4_sampler_destroy(c);
    ds4_sampler_destroy(other_sampler);
}

/* At temperature 3 nearly all tokens may be drawn, at 1 with min_p 0 too many: the host is asked. */
TEST(what_the_device_leaves_to_the_host_leaves_no_trace)
{
    struct ds4_sampling kinds[3] = {drawing(3), drawing(3), drawing(3)};
    static const struct ds4_logit_bias bias[] = {{5, 1}};
    kinds[0].temperature = 3;
    kinds[0].top_p = 0.9999f;
    kinds[1].min_p = 0;
    kinds[2].bias = bias;
    kinds[2].n_bias = 1;
    for (size_t k = 0; k < 3; k++) {
        struct ds4_session *far = prompted(N_PROMPT), *near = prompted(N_PROMPT);
        struct ds4_sampler *a = sampler_of(&kinds[k]), *b = sampler_of(&kinds[k]);
        int32_t got[6], want[6];
        decode(near, a, false, want, 6);
        decode(far, b, true, got, 6);
        assert_memory_equal(got, want, sizeof got);
        assert_same_state(far, near);
        ds4_session_destroy(far);
        ds4_session_destroy(near);
        ds4_sampler_destroy(a);
        ds4_sampler_destroy(b);
    }
}

TEST(no_token_makes_the_device_rest_or_is_a_list_of_its_own)
{
    struct ds4_sampling p = drawing(9);
    struct ds4_session *s = prompted_by_cpu(24); /* from where on some rows are selected */
    struct ds4_sampler *sampler = sampler_of(&p);
    uint64_t first = 0;
    unsigned n, n_new;
    for (size_t i = 0; i < 9; i++) {
        int32_t id;
        assert_ok(ds4_session_next(s, sampler, false, &id, &error), error);
        eval(s, &id, 1);
        uint64_t digest = tested_digest(), n_rests = tested_n_rests();
        tested_lists(&n, &n_new);
        if (i < 3) continue; /* restored logits are the host's; the first choice is given alone; a graph is made */
        if (i == 3) first = digest;
        assert_int_equal(digest, first);
        assert_int_equal(n_rests, 0);
        assert_int_equal(n, 1);
        assert_int_equal(n_new, 0);
    }
    ds4_session_destroy(s);
    ds4_sampler_destroy(sampler);
}

TEST(the_context_can_be_filled_to_its_end)
{
    struct ds4_sampling p = greedy();
    struct ds4_session *s = prompted_by_cpu(316);
    struct ds4_sampler *sampler = sampler_of(&p);
    int32_t id;
    for (size_t i = 0; i < 4; i++) {
        assert_ok(ds4_session_next(s, sampler, false, &id, &error), error);
        eval(s, &id, 1);
    }
    assert_int_equal(s->tokens.n, 320);
    assert_ok(ds4_session_next(s, sampler, false, &id, &error), error);
    struct ds4_job job = {.session = s, .tokens = &id, .n = 1};
    assert_int_equal(ds4_eval(engine, &job, 1, NULL), DS4_ERR_LIMIT);
    assert_int_equal(s->tokens.n, 320);
    ds4_session_destroy(s);
    ds4_sampler_destroy(sampler);
}

TEST(a_session_is_saved_in_the_middle_and_restored)
{
    struct ds4_sampling p = drawing(2);
    struct ds4_session *s = prompted(N_PROMPT), *t = prompted(2);
    struct ds4_sampler *a = sampler_of(&p), *b = sampler_of(&p);
    size_t cap = ds4_state_layout(engine)->tip_bytes_max, len;
    uint8_t *tip = calloc(cap, 1);
    int32_t ids[8], got[4], want[4];
    decode(s, a, true, ids, 8);
    decode(t, b, false, got, 0);
    assert_ok(ds4_session_tip_save(s, tip, cap, &len, &error), error);
    uint8_t *span = model_span(engine, s, 0);
    const uint8_t *spans[1] = {span};
    assert_true(s->host->ahead.rows[0].past); /* saving takes nothing back */
    assert_ok(ds4_session_restore(t, s->tokens.ids, s->tokens.n, spans, 1, tip, len, &error), error);
    assert_same_snapshot(t, s);
    eval(s, &ids[7], 1);
    eval(t, &ids[7], 1);
    struct ds4_sampling q = drawing(8);
    struct ds4_sampler *c = sampler_of(&q), *d = sampler_of(&q);
    decode(s, c, true, got, 4);
    decode(t, d, true, want, 4);
    assert_memory_equal(got, want, sizeof got);
    assert_same_snapshot(t, s);
    ds4_session_destroy(s);
    ds4_session_destroy(t);
    ds4_sampler_destroy(a);
    ds4_sampler_destroy(b);
    ds4_sampler_destroy(c);
    ds4_sampler_destroy(d);
    free(tip);
    free(span);
}

TEST(the_shipped_model_says_the_same_ahead)
{
    struct ds4_engine *other = engine;
    shipped = true;
    engine = open_on(TESTED_GPU);
    uint32_t n_vocab_before = n_vocab;
    n_vocab = ds4_engine_info(engine)->n_vocab;
    struct ds4_sampling p = ds4_sampling_default();
    p.seed = 6;
    compare_tokens(p, 17, 4);
    ds4_engine_close(engine);
    shipped = false;
    engine = other;
    n_vocab = n_vocab_before;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_chosen_ahead_are_those_of_the_host_and_the_state_is_the_same),
        cmocka_unit_test(an_answer_may_stop_at_any_token_and_anything_may_follow),
        cmocka_unit_test(a_session_goes_back_as_far_as_one_that_never_ran_ahead),
        cmocka_unit_test(other_sessions_and_other_samplers_between_the_tokens_change_nothing),
        cmocka_unit_test(what_the_device_leaves_to_the_host_leaves_no_trace),
        cmocka_unit_test(no_token_makes_the_device_rest_or_is_a_list_of_its_own),
        cmocka_unit_test(the_context_can_be_filled_to_its_end),
        cmocka_unit_test(a_session_is_saved_in_the_middle_and_restored),
        cmocka_unit_test(the_shipped_model_says_the_same_ahead),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine) ? 1 : 0;
}

#else

TEST(this_build_has_no_emulator_to_run_on)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_to_run_on)); }

#endif
