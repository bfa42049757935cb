/* test_session_gpu_together.c - several conversations that a GPU decodes together and ahead of the host, in the
 * emulator: each has the tokens and the bits that it has when it is alone on another engine and the host chooses,
 * whoever comes, goes, stops, goes back, forks or is looked at meanwhile; while the same ones stay, no token makes the
 * device rest, and the list of a token depends on nothing but how many they are. A device that fails at any call leaves
 * sessions as they were. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "gpu/backend.h"
#include "lib/model.h"
#include "lib/same_state.h"
#include "lib/test.h"
#include "session/sample.h"

#ifdef DS4_GPU_EMU

#include "lib/tested_gpu.h"

#define N_TALKS 4u

/* A conversation: far is decoded ahead, near has the host's choices on an engine of its own. */
struct talk {
    struct ds4_session *far, *near;
    struct ds4_sampler *a, *b;
    struct ds4_sampling sampling;
    bool force, left_out;
    int32_t id;
};

static struct ds4_engine *engine, *apart;
static uint32_t n_vocab;
static struct ds4_error error;
static struct rng rng = {1};
static size_t n_prompts;

static struct ds4_engine *open_one(void)
{
    struct ds4_engine_options options = {.ctx_tokens = 320, .chunk_tokens = 16, .n_threads = 1,
                                         .n_sessions_max = N_TALKS + 1, .backend = TESTED_GPU};
    return model_open(model_file("gpu_blocks", MODEL_EMULATED), options);
}

static int open_engines(void **state)
{
    (void)state;
    engine = open_one();
    apart = open_one();
    n_vocab = ds4_engine_info(engine)->n_vocab;
    return 0;
}

static int close_engines(void **state)
{
    (void)state;
    ds4_engine_close(engine);
    ds4_engine_close(apart);
    return 0;
}

static void eval(struct ds4_engine *e, struct ds4_session *s, const int32_t *ids, size_t n)
{
    struct ds4_job job = {.session = s, .tokens = ids, .n = n};
    assert_ok(ds4_eval(e, &job, 1, &error), error);
}

/* Of both sessions; the tokens are others each time. */
static void prompt(struct talk *t, size_t n)
{
    int32_t ids[16];
    while (n > 0) {
        size_t now = n < 16 ? n : 16;
        for (size_t i = 0; i < now; i++) ids[i] = model_token(n_prompts++, n_vocab);
        eval(engine, t->far, ids, now);
        eval(apart, t->near, ids, now);
        n -= now;
    }
}

static struct ds4_sampling sampling_of(size_t i)
{
    struct ds4_sampling p = ds4_sampling_default();
    p.temperature = i % 4 == 0 ? 0 : 0.2f; /* sharp enough for random weights */
    p.top_k = i % 4 == 2 ? 7 : 0;
    p.top_p = i % 4 == 3 ? 0.5f : 1;
    p.seed = i + 1;
    return p;
}

static void begin(struct talk *t, size_t n, struct ds4_sampling p)
{
    *t = (struct talk){.sampling = p};
    assert_ok(ds4_session_create(engine, &t->far, &error), error);
    assert_ok(ds4_session_create(apart, &t->near, &error), error);
    assert_ok(ds4_sampler_create(engine, &p, &t->a, &error), error);
    assert_ok(ds4_sampler_create(apart, &p, &t->b, &error), error);
    prompt(t, n);
}

static void end(struct talk *t)
{
    ds4_session_destroy(t->far);
    ds4_session_destroy(t->near);
    ds4_sampler_destroy(t->a);
    ds4_sampler_destroy(t->b);
}

static void choose(struct talk *const *talks, size_t n)
{
    struct ds4_next nexts[N_TALKS];
    for (size_t i = 0; i < n; i++)
        nexts[i] = (struct ds4_next){.session = talks[i]->far, .sampler = talks[i]->a, .force_greedy = talks[i]->force,
                                     .status = DS4_ERR_STATE};
    assert_ok(ds4_sessions_next(nexts, n, &error), error);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(nexts[i].status, DS4_OK);
        assert_ok(ds4_session_pick(talks[i]->near, talks[i]->b, NULL, talks[i]->force, &talks[i]->id, &error), error);
        assert_int_equal(nexts[i].id, talks[i]->id);
        talks[i]->left_out = false;
    }
}

/* The tokens that were chosen, of those that are not left out. */
static void advance(struct talk *const *talks, size_t n)
{
    struct ds4_job far[N_TALKS], near[N_TALKS];
    size_t n_jobs = 0;
    for (size_t i = 0; i < n; i++) {
        if (talks[i]->left_out) continue;
        far[n_jobs] = (struct ds4_job){.session = talks[i]->far, .tokens = &talks[i]->id, .n = 1};
        near[n_jobs++] = (struct ds4_job){.session = talks[i]->near, .tokens = &talks[i]->id, .n = 1};
    }
    if (n_jobs == 0) return;
    assert_ok(ds4_eval(engine, far, n_jobs, &error), error);
    assert_ok(ds4_eval(apart, near, n_jobs, &error), error);
}

static void assert_same(struct talk *const *talks, size_t n)
{
    for (size_t i = 0; i < n; i++) assert_same_state(talks[i]->far, talks[i]->near);
}

/* As many conversations of prompts from n_tokens on. */
static void begin_all(struct talk *talks, struct talk **list, size_t n, size_t n_tokens)
{
    for (size_t i = 0; i < n; i++) {
        begin(&talks[i], n_tokens + 3 * i, sampling_of(i));
        list[i] = &talks[i];
    }
}

static void end_all(struct talk *talks, size_t n)
{
    for (size_t i = 0; i < n; i++) end(&talks[i]);
}

static const struct session_ahead *ahead_of(const struct talk *t) { return &t->far->host->ahead; }

TEST(tokens_and_bits_of_several_are_those_of_each_alone)
{
    struct talk talks[N_TALKS], *list[N_TALKS];
    begin_all(talks, list, N_TALKS, 4);
    for (size_t i = 0; i < 8; i++) {
        choose(list, N_TALKS);
        assert_int_equal(ahead_of(&talks[0])->n, N_TALKS);
        for (size_t r = 0; r < N_TALKS; r++) assert_true(ahead_of(&talks[0])->rows[r].past);
        if (i % 3 == 2) assert_same(list, N_TALKS); /* with a pass ahead of all */
        advance(list, N_TALKS);
        for (size_t r = 0; r < N_TALKS; r++) assert_false(ahead_of(&talks[0])->rows[r].past);
    }
    assert_same(list, N_TALKS);
    end_all(talks, N_TALKS);
}

/* Tokens of the conversations, and the list of each but the first few after they are put together. */
static uint64_t list_of(struct talk *const *talks, size_t n, size_t n_tokens)
{
    uint64_t first = 0;
    unsigned n_lists, n_new;
    for (size_t i = 0; i < n_tokens + 2; i++) {
        struct ds4_next nexts[N_TALKS];
        struct ds4_job jobs[N_TALKS];
        for (size_t k = 0; k < n; k++) {
            nexts[k] = (struct ds4_next){.session = talks[k]->far, .sampler = talks[k]->a};
            jobs[k] = (struct ds4_job){.session = talks[k]->far, .tokens = &nexts[k].id, .n = 1};
        }
        assert_ok(ds4_sessions_next(nexts, n, &error), error);
        assert_ok(ds4_eval(engine, jobs, n, &error), error);
        uint64_t digest = tested_digest(), n_rests = tested_n_rests();
        tested_lists(&n_lists, &n_new);
        if (i < 2) continue; /* the first choices are given alone; then a graph is made */
        if (i == 2) first = digest;
        assert_int_equal(digest, first);
        assert_int_equal(n_rests, 0);
        assert_int_equal(n_lists, 1);
        assert_int_equal(n_new, 0);
    }
    assert_true(first != 0);
    return first;
}

TEST(the_device_never_rests_and_its_list_depends_on_how_many_there_are)
{
    struct talk talks[N_TALKS], *list[N_TALKS];
    begin_all(talks, list, N_TALKS, 24); /* from where on some rows are selected */
    uint64_t three = list_of(list, 3, 3), two = list_of(list + 1, 2, 2), other_three = list_of(list + 1, 3, 2);
    assert_true(three != two);
    assert_true(three == other_three);
    struct talk *turned[3] = {list[3], list[0], list[2]};
    assert_true(three == list_of(turned, 3, 2));
    end_all(talks, N_TALKS);
}

static void fork_far(struct talk *t)
{
    struct ds4_session *fork = NULL;
    assert_ok(ds4_session_fork(t->far, &fork, &error), error);
    ds4_session_destroy(t->far);
    t->far = fork;
    assert_ok(ds4_session_fork(t->near, &fork, &error), error);
    ds4_session_destroy(t->near);
    t->near = fork;
}

static void go_back(struct talk *t)
{
    size_t least = ds4_session_rewind_min(t->far), n = t->far->tokens.n > least + 3 ? t->far->tokens.n - 3 : least;
    assert_int_equal(least, ds4_session_rewind_min(t->near));
    assert_ok(ds4_session_rewind(t->far, n, &error), error);
    assert_ok(ds4_session_rewind(t->near, n, &error), error);
}

/* What one conversation does after its token was chosen; the others keep theirs. */
static void do_something(struct talk *t)
{
    switch (rng_below(&rng, 14)) {
    case 0: t->id = (t->id + 1) % (int32_t)n_vocab; break; /* another token than what was chosen */
    case 1: t->left_out = true; break;
    case 2:
        go_back(t); /* and another prompt comes */
        prompt(t, 2);
        t->left_out = true;
        break;
    case 3: fork_far(t); break;
    case 4:
        assert_memory_equal(ds4_session_logits(t->far), ds4_session_logits(t->near), n_vocab * sizeof(float));
        break;
    case 5: assert_same_snapshot(t->far, t->near); break;
    case 6:
        end(t); /* somebody else comes */
        begin(t, 1 + rng_below(&rng, 5), sampling_of((size_t)rng_below(&rng, 8)));
        t->left_out = true;
        break;
    case 7: t->force = !t->force; break;
    default: break;
    }
}

TEST(whoever_comes_goes_or_changes_the_others_go_on_and_all_have_their_bits)
{
    struct talk talks[N_TALKS], *list[N_TALKS];
    unsigned n_together = 0;
    begin_all(talks, list, N_TALKS, 4);
    for (size_t turn = 0; turn < 36; turn++) {
        size_t n = rng_below(&rng, 4) ? N_TALKS - 1 : 1 + (size_t)rng_below(&rng, N_TALKS);
        if (rng_below(&rng, 5) == 0) { /* in another order */
            size_t x = (size_t)rng_below(&rng, N_TALKS), y = (size_t)rng_below(&rng, N_TALKS);
            struct talk *swap = list[x];
            list[x] = list[y];
            list[y] = swap;
        }
        choose(list, n);
        n_together += ahead_of(list[0])->n > 1;
        for (size_t i = 0; i < n; i++)
            if (rng_below(&rng, 3) == 0) do_something(list[i]);
        advance(list, n);
        if (turn % 6 == 5) assert_same(list, N_TALKS);
    }
    assert_in_range(n_together, 12, 36);
    assert_same(list, N_TALKS);
    end_all(talks, N_TALKS);
}

/* The device cannot tell what the tokens of a head weigh that it does not look at; a bias is the host's affair. */
TEST(what_the_device_leaves_to_the_host_of_one_conversation_is_no_matter_of_the_others)
{
    static const struct ds4_logit_bias bias[] = {{5, 1}};
    for (size_t k = 0; k < 2; k++) {
        struct talk talks[3], *list[3] = {&talks[0], &talks[1], &talks[2]};
        struct ds4_sampling odd = sampling_of(1);
        if (k == 0) odd.top_k = 299, odd.min_p = 0;
        else odd.bias = bias, odd.n_bias = 1;
        for (size_t i = 0; i < 3; i++) begin(&talks[i], 4 + i, i == 1 ? odd : sampling_of(i));
        for (size_t i = 0; i < 4; i++) {
            choose(list, 3);
            assert_int_equal(ahead_of(&talks[0])->n, k == 0 ? 3 : 0);
            if (k == 0) assert_true(ahead_of(&talks[0])->rows[0].past && ahead_of(&talks[0])->rows[2].past);
            if (k == 0) assert_null(ahead_of(&talks[0])->rows[1].session);
            advance(list, 3);
        }
        assert_same(list, 3);
        end_all(talks, 3);
    }
}

TEST(a_session_whose_logits_are_no_numbers_fails_alone)
{
    struct talk talks[3], *list[3];
    begin_all(talks, list, 3, 4);
    float nan = NAN;
    struct backend *b = talks[1].far->host->backend;
    b->ops->write(b, session_logits_there(talks[1].far) + 7, &nan, sizeof nan);
    struct ds4_next nexts[3];
    for (size_t i = 0; i < 3; i++) nexts[i] = (struct ds4_next){.session = talks[i].far, .sampler = talks[i].a};
    assert_status(ds4_sessions_next(nexts, 3, &error), DS4_ERR_DEVICE, error);
    for (size_t i = 0; i < 3; i++) assert_int_equal(nexts[i].status, i == 1 ? DS4_ERR_DEVICE : DS4_OK);
    for (size_t i = 0; i < 3; i += 2) {
        assert_ok(ds4_session_pick(talks[i].near, talks[i].b, NULL, false, &talks[i].id, &error), error);
        assert_int_equal(talks[i].id, nexts[i].id);
    }
    talks[1].left_out = true;
    advance(list, 3);
    assert_same_state(talks[0].far, talks[0].near);
    assert_same_state(talks[2].far, talks[2].near);
    end_all(talks, 3);
}

TEST(a_pass_that_has_no_room_for_one_session_is_given_for_none)
{
    struct talk talks[2], *list[2] = {&talks[0], &talks[1]};
    struct ds4_engine_options options = {.ctx_tokens = 10, .chunk_tokens = 16, .n_threads = 1, .n_sessions_max = 2,
                                         .backend = TESTED_GPU};
    struct ds4_engine *before = engine;
    engine = model_open(model_file("gpu_blocks", MODEL_EMULATED), options);
    begin(&talks[0], 8, sampling_of(1));
    begin(&talks[1], 4, sampling_of(2));
    for (size_t i = 0; i < 2; i++) {
        choose(list, 2);
        assert_int_equal(ahead_of(&talks[0])->n, 2);
        advance(list, 2);
    }
    choose(list, 2);
    assert_int_equal(ahead_of(&talks[0])->n, 0);
    assert_int_equal(talks[1].far->n_spans, 1);
    struct ds4_job full = {.session = talks[0].far, .tokens = &talks[0].id, .n = 1};
    assert_status(ds4_eval(engine, &full, 1, &error), DS4_ERR_LIMIT, error);
    advance(list + 1, 1);
    assert_same_state(talks[1].far, talks[1].near);
    end_all(talks, 2);
    ds4_engine_close(engine);
    engine = before;
}

/* ---- a device that fails ---------------------------------------------------------------------------------------- */

static const struct backend_ops *real;
static unsigned calls_left;
static size_t posted[BACKEND_CHOICES]; /* bytes of what is on its way */
static unsigned n_posted, n_collected;

/* True from the call on that fails. */
static bool fails(void)
{
    if (calls_left > 0) calls_left--;
    return calls_left == 0;
}

static void failing_write(struct backend *b, void *to, const void *from, size_t n)
{
    if (!fails()) real->write(b, to, from, n);
}
static void failing_read(struct backend *b, void *to, const void *from, size_t n)
{
    if (!fails()) real->read(b, to, from, n);
}
static bool failing_post(struct backend *b, const void *from, size_t n)
{
    if (fails() || !real->post(b, from, n)) return false;
    posted[n_posted++ % BACKEND_CHOICES] = n;
    return true;
}
static bool failing_collect(struct backend *b, void *to, size_t n)
{
    if (fails() || !real->collect(b, to, n)) return false;
    n_collected++;
    return true;
}
static bool failing_candidates(struct backend *b, const float *logits, uint32_t n, float margin, float temperature,
                               struct backend_candidates *out)
{
    return !fails() && real->candidates(b, logits, n, margin, temperature, out);
}
static enum ds4_status failing_finish(struct backend *b, struct ds4_error *why)
{
    return fails() ? err_set(why, DS4_ERR_DEVICE, "it fails") : real->finish(b, why);
}

/* Some tokens of two conversations, of which one goes another way at its second; stops at the first error. */
static enum ds4_status live(struct ds4_session *const *s, struct ds4_sampler *const *samplers)
{
    for (size_t i = 0; i < 3; i++) {
        struct ds4_next nexts[2] = {{.session = s[0], .sampler = samplers[0]},
                                    {.session = s[1], .sampler = samplers[1]}};
        size_t held = s[0]->tokens.n;
        TRY(ds4_sessions_next(nexts, 2, &error));
        struct ds4_job jobs[2] = {{.session = s[0], .tokens = &nexts[0].id, .n = 1},
                                  {.session = s[1], .tokens = &nexts[1].id, .n = 1}};
        if (i == 1) nexts[1].id = (nexts[1].id + 1) % (int32_t)n_vocab;
        enum ds4_status status = ds4_eval(engine, jobs, 2, &error);
        for (size_t k = 0; k < 2; k++) assert_int_equal(s[k]->tokens.n, held + (status == DS4_OK)); /* all or none */
        TRY(status);
    }
    return DS4_OK;
}

/* Both conversations once more, with a device whose call of this number fails and all after it. */
static enum ds4_status live_until(unsigned call)
{
    struct ds4_session *s[2];
    struct ds4_sampler *samplers[2];
    for (size_t i = 0; i < 2; i++) {
        struct ds4_sampling p = sampling_of(i);
        int32_t ids[2];
        assert_ok(ds4_session_create(engine, &s[i], &error), error);
        assert_ok(ds4_sampler_create(engine, &p, &samplers[i], &error), error);
        for (size_t k = 0; k < 2; k++) ids[k] = model_token(i + k, n_vocab);
        eval(engine, s[i], ids, 2);
    }
    struct backend *b = s[0]->host->backend;
    struct backend_ops failing = *(real = b->ops);
    uint8_t unused[BACKEND_STEPS_MAX * sizeof(struct backend_choice)];
    failing.write = failing_write, failing.read = failing_read, failing.post = failing_post;
    failing.collect = failing_collect, failing.candidates = failing_candidates, failing.finish = failing_finish;
    calls_left = call + 1;
    b->ops = &failing;
    enum ds4_status status = live(s, samplers);
    const struct session_ahead *ahead = &s[0]->host->ahead;
    for (size_t i = 0; i < 2; i++) {
        ds4_session_destroy(s[i]);
        ds4_sampler_destroy(samplers[i]);
    }
    assert_int_equal(ahead->n, 0);
    b->ops = real;
    for (; n_collected < n_posted; n_collected++)
        assert_true(real->collect(b, unused, posted[n_collected % BACKEND_CHOICES]));
    return status;
}

TEST(a_device_that_fails_at_any_call_leaves_all_sessions_as_they_were)
{
    unsigned n_failed = 0;
    while (live_until(n_failed) == DS4_ERR_DEVICE) n_failed++;
    print_message("%u calls failed in turn\n", n_failed);
    assert_int_equal(live_until(n_failed + 1), DS4_OK);
    assert_in_range(n_failed, 30, 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_and_bits_of_several_are_those_of_each_alone),
        cmocka_unit_test(the_device_never_rests_and_its_list_depends_on_how_many_there_are),
        cmocka_unit_test(whoever_comes_goes_or_changes_the_others_go_on_and_all_have_their_bits),
        cmocka_unit_test(what_the_device_leaves_to_the_host_of_one_conversation_is_no_matter_of_the_others),
        cmocka_unit_test(a_session_whose_logits_are_no_numbers_fails_alone),
        cmocka_unit_test(a_pass_that_has_no_room_for_one_session_is_given_for_none),
        cmocka_unit_test(a_device_that_fails_at_any_call_leaves_all_sessions_as_they_were),
    };
    return cmocka_run_group_tests(tests, open_engines, close_engines) ? 1 : 0;
}

#else

TEST(this_build_has_no_emulator_to_run_on)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_to_run_on)); }

#endif
