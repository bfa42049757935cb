/* test_faults_of_sessions.c - every allocation on the way from a model file to a sampled token fails in turn: each call
 * ends with a status and a message, nothing is left behind, and what comes after a failure is as if it had not been.
 * Also: after warm-up, a token allocates nothing. */
#include "lib/test.h"

#include "base/err.h"
#include "base/mem.h"
#include "lib/alloc_fail.h"
#include "lib/model.h"

#define N_PROMPT 300 /* passes the window of the model, completes compressed rows and a span */

static struct ds4_engine_options options_for(const char *path)
{
    return (struct ds4_engine_options){.model_path = path, .ctx_tokens = 700, .n_sessions_max = 2, .n_threads = 2,
                                       .chunk_tokens = 64};
}

static void prompt(int32_t ids[N_PROMPT])
{
    for (int32_t i = 0; i < N_PROMPT; i++) ids[i] = 3 + i * 7 % 400;
}

static struct ds4_engine *open_engine(uint32_t n_drafts)
{
    struct ds4_engine_options options = options_for(NULL);
    options.n_drafts = n_drafts;
    return model_open(model_small(), options);
}

static enum ds4_status open_and_close(void *path, struct ds4_error *error)
{
    struct ds4_engine_options options = options_for(path);
    struct ds4_engine *engine;
    options.n_drafts = 2;
    TRY(ds4_engine_open(&options, &engine, error));
    ds4_engine_close(engine);
    return DS4_OK;
}

TEST(opening_an_engine_survives_every_failed_allocation)
{
    char *path = (char *)(uintptr_t)model_small();
    assert_in_range(alloc_fail_loop("ds4_engine_open", open_and_close, path, 1), 10, 100000);
}

/* A whole life: prompt, a few tokens, a fork, a saved and restored tip, a sampled token, a rewind. */
struct life {
    struct ds4_session *session, *fork;
    struct ds4_sampler *sampler;
    uint8_t *tip, *spans;
};

static enum ds4_status live(struct ds4_engine *engine, struct life *l, struct ds4_error *error)
{
    int32_t ids[N_PROMPT + 8], next;
    struct ds4_sampling sampling = ds4_sampling_default();
    const struct ds4_state_layout *layout = ds4_state_layout(engine);
    size_t tip_len, n;
    prompt(ids);
    TRY(ds4_session_create(engine, &l->session, error));
    TRY(ds4_session_sync(l->session, ids, N_PROMPT, NULL, NULL, NULL, error));
    TRY(ds4_sampler_create(engine, &sampling, &l->sampler, error));
    for (int i = 0; i < 4; i++) {
        TRY(ds4_sampler_pick(l->sampler, ds4_session_logits(l->session), NULL, true, &next, error));
        ds4_sampler_accept(l->sampler, next);
        struct ds4_job job = {.session = l->session, .tokens = &next, .n = 1};
        TRY(ds4_eval(engine, &job, 1, error));
    }
    TRY(ds4_session_fork(l->session, &l->fork, error));
    l->tip = mem_alloc(layout->tip_bytes_max, 1);
    if (!l->tip) return err_set(error, DS4_ERR_NOMEM, "tip");
    TRY(ds4_session_tip_save(l->session, l->tip, layout->tip_bytes_max, &tip_len, error));
    const int32_t *tokens = ds4_session_tokens(l->session, &n);
    const uint8_t *spans[8];
    size_t n_spans = ds4_session_spans(l->session);
    l->spans = mem_alloc(n_spans, layout->span_bytes);
    if (!l->spans) return err_set(error, DS4_ERR_NOMEM, "spans");
    for (size_t i = 0; i < n_spans; i++) {
        spans[i] = l->spans + i * layout->span_bytes;
        TRY(ds4_session_span_save(l->session, i, l->spans + i * layout->span_bytes, error));
    }
    TRY(ds4_session_restore(l->fork, tokens, n, spans, n_spans, l->tip, tip_len, error));
    return ds4_session_rewind(l->session, n - 2, error);
}

static enum ds4_status live_once(void *engine, struct ds4_error *error)
{
    struct life l = {0};
    enum ds4_status status = live(engine, &l, error);
    mem_free(l.tip);
    mem_free(l.spans);
    ds4_sampler_destroy(l.sampler);
    ds4_session_destroy(l.fork);
    ds4_session_destroy(l.session);
    return status;
}

TEST(a_session_survives_every_failed_allocation)
{
    for (uint32_t n_drafts = 0; n_drafts <= 2; n_drafts += 2) {
        struct ds4_engine *engine = open_engine(n_drafts);
        assert_in_range(alloc_fail_loop("session", live_once, engine, 1), 5, 100000);
        ds4_engine_close(engine);
    }
}

/* Logits after the prompt, in a new session. */
static void logits_of_prompt(struct ds4_engine *engine, float *out)
{
    struct ds4_session *session;
    struct ds4_error error = {0};
    int32_t ids[N_PROMPT];
    prompt(ids);
    assert_ok(ds4_session_create(engine, &session, &error), error);
    assert_ok(ds4_session_sync(session, ids, N_PROMPT, NULL, NULL, NULL, &error), error);
    memcpy(out, ds4_session_logits(session), ds4_engine_info(engine)->n_vocab * sizeof *out);
    ds4_session_destroy(session);
}

static bool deny(void *user, uint64_t number)
{
    (void)number;
    return --*(int *)user == 0;
}

TEST(a_failed_step_never_changes_a_later_answer)
{
    struct ds4_engine *engine = open_engine(0);
    size_t bytes = ds4_engine_info(engine)->n_vocab * sizeof(float);
    float *wanted = mem_alloc(bytes, 1), *got = mem_alloc(bytes, 1);
    logits_of_prompt(engine, wanted);
    for (int n = 1; n < 40; n++) {
        struct ds4_error error = {0};
        int countdown = n;
        mem_test_hook(deny, &countdown);
        enum ds4_status status = live_once(engine, &error);
        mem_test_hook(NULL, NULL);
        assert_true(status == DS4_OK || status == DS4_ERR_NOMEM);
        logits_of_prompt(engine, got);
        assert_memory_equal(got, wanted, bytes);
    }
    mem_free(wanted);
    mem_free(got);
    ds4_engine_close(engine);
}

static void count_allocations(uint32_t n_drafts)
{
    struct ds4_engine *engine = open_engine(n_drafts);
    struct ds4_session *session;
    struct ds4_sampler *sampler;
    struct ds4_error error = {0};
    struct ds4_sampling sampling = ds4_sampling_default();
    int32_t ids[N_PROMPT], next;
    prompt(ids);
    assert_ok(ds4_session_create(engine, &session, &error), error);
    assert_ok(ds4_sampler_create(engine, &sampling, &sampler, &error), error);
    assert_ok(ds4_session_sync(session, ids, N_PROMPT, NULL, NULL, NULL, &error), error);
    uint64_t count = 0;
    for (int i = 0; i < 300; i++) {
        if (i == 2) count = mem_count();
        assert_ok(ds4_sampler_pick(sampler, ds4_session_logits(session), NULL, false, &next, &error), error);
        ds4_sampler_accept(sampler, next);
        struct ds4_job job = {.session = session, .tokens = &next, .n = 1};
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
    }
    assert_int_equal(mem_count(), count);
    ds4_sampler_destroy(sampler);
    ds4_session_destroy(session);
    ds4_engine_close(engine);
}

TEST(a_token_allocates_nothing_after_warm_up)
{
    count_allocations(0);
    count_allocations(2);
}

int main(void)
{
    return RUN_TESTS(T(opening_an_engine_survives_every_failed_allocation),
                     T(a_session_survives_every_failed_allocation), T(a_failed_step_never_changes_a_later_answer),
                     T(a_token_allocates_nothing_after_warm_up));
}
