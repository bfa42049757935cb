/* test_session.c - what a session promises: the same bits for any chunking, batch company, number of threads, and
 * after rewinding, forking and restoring. Zero tolerance; the reference is one token at a time. */
#include "lib/test.h"

#include <stdlib.h>
#include <string.h>

#include "lib/model.h"

#define N_TOKENS 300u

struct world {
    const char *path;
    uint32_t n_vocab;
    size_t n;           /* tokens */
    int32_t *tokens;
    float *expected;    /* [n][n_vocab]: one token at a time on one thread */
};

static struct ds4_engine *open_with(const struct world *w, uint32_t chunk, uint32_t threads, uint32_t sessions)
{
    struct ds4_engine_options options = {.ctx_tokens = 1024, .chunk_tokens = chunk, .n_threads = threads,
                                         .n_sessions_max = sessions};
    return model_open(w->path, options);
}

static struct ds4_session *new_session(struct ds4_engine *e)
{
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    if (ds4_session_create(e, &s, &error) != DS4_OK) fail_msg("%s", error.message);
    return s;
}

/* Appends tokens [from, to) in one forward pass and compares the logits of every row. */
static void eval_and_compare(const struct world *w, struct ds4_engine *e, struct ds4_session *s, size_t from, size_t to)
{
    struct ds4_error error = {0};
    float *logits = malloc((to - from) * w->n_vocab * sizeof *logits);
    struct ds4_job job = {.session = s, .tokens = w->tokens + from, .n = to - from, .logits = logits};
    if (ds4_eval(e, &job, 1, &error) != DS4_OK) fail_msg("%s", error.message);
    for (size_t t = from; t < to; t++)
        if (memcmp(logits + (t - from) * w->n_vocab, w->expected + t * w->n_vocab, w->n_vocab * sizeof *logits) != 0)
            fail_msg("logits of position %zu differ in a chunk from %zu to %zu", t, from, to);
    assert_memory_equal(ds4_session_logits(s), w->expected + (to - 1) * w->n_vocab, w->n_vocab * sizeof *logits);
    free(logits);
}

static struct world make_world(const char *path, size_t n)
{
    struct world w = {.path = path, .n = n};
    struct ds4_engine *e = open_with(&w, 1, 1, 1);
    w.n_vocab = ds4_engine_info(e)->n_vocab;
    w.tokens = malloc(n * sizeof *w.tokens);
    w.expected = malloc(n * w.n_vocab * sizeof *w.expected);
    struct ds4_session *s = new_session(e);
    struct ds4_error error = {0};
    for (size_t t = 0; t < n; t++) {
        w.tokens[t] = model_token(t, w.n_vocab);
        struct ds4_job job = {.session = s, .tokens = w.tokens + t, .n = 1};
        if (ds4_eval(e, &job, 1, &error) != DS4_OK) fail_msg("%s", error.message);
        memcpy(w.expected + t * w.n_vocab, ds4_session_logits(s), w.n_vocab * sizeof *w.expected);
    }
    ds4_session_destroy(s);
    ds4_engine_close(e);
    return w;
}

static struct world tiny, odd;

static int set_up(void **state)
{
    (void)state;
    tiny = make_world(strdup(model_tiny_q8()), N_TOKENS);
    odd = make_world(strdup(model_odd()), N_TOKENS);
    return 0;
}

static void check_chunks(const struct world *w)
{
    static const uint32_t chunks[] = {2, 3, 4, 5, 6, 7, 8, 9, 31, 33, 127, 128, 129, 130, N_TOKENS};
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i += MODEL_STRIDE) {
        struct ds4_engine *e = open_with(w, chunks[i], 1 + (uint32_t)i % 3, 1);
        struct ds4_session *s = new_session(e);
        for (size_t t = 0; t < w->n; t += chunks[i])
            eval_and_compare(w, e, s, t, t + chunks[i] < w->n ? t + chunks[i] : w->n);
        ds4_session_destroy(s);
        ds4_engine_close(e);
    }
}

TEST(logits_do_not_depend_on_chunks_or_threads)
{
    check_chunks(&tiny);
    check_chunks(&odd);
}

TEST(logits_do_not_depend_on_the_company_in_a_batch)
{
    struct ds4_engine *e = open_with(&tiny, 64, 2, 3);
    struct ds4_session *s[3];
    size_t at[3] = {0}, step[3] = {1, 5, 17};
    struct ds4_error error = {0};
    for (int i = 0; i < 3; i++) s[i] = new_session(e);
    while (at[0] < 60) {
        struct ds4_job jobs[3];
        for (int i = 0; i < 3; i++) {
            if (at[i] + step[i] > tiny.n) ds4_session_destroy(s[i]), s[i] = new_session(e), at[i] = 0;
            jobs[i] = (struct ds4_job){.session = s[i], .tokens = tiny.tokens + at[i], .n = step[i]};
        }
        if (ds4_eval(e, jobs, 3, &error) != DS4_OK) fail_msg("%s", error.message);
        for (int i = 0; i < 3; i++) {
            at[i] += step[i];
            assert_memory_equal(ds4_session_logits(s[i]), tiny.expected + (at[i] - 1) * tiny.n_vocab,
                                tiny.n_vocab * sizeof(float));
        }
    }
    for (int i = 0; i < 3; i++) ds4_session_destroy(s[i]);
    ds4_engine_close(e);
}

struct saved {
    uint8_t *tip;
    size_t tip_len, n_spans;
    uint8_t *spans;
};

static struct saved save(struct ds4_engine *e, const struct ds4_session *s)
{
    const struct ds4_state_layout *layout = ds4_state_layout(e);
    struct saved out = {.tip = malloc(layout->tip_bytes_max), .n_spans = ds4_session_spans(s)};
    struct ds4_error error = {0};
    if (ds4_session_tip_save(s, out.tip, layout->tip_bytes_max, &out.tip_len, &error) != DS4_OK)
        fail_msg("%s", error.message);
    out.spans = malloc(out.n_spans * layout->span_bytes + 1);
    for (size_t i = 0; i < out.n_spans; i++)
        assert_ok(ds4_session_span_save(s, i, out.spans + i * layout->span_bytes, &error), error);
    assert_status(ds4_session_span_save(s, out.n_spans, out.spans, &error), DS4_ERR_LIMIT, error);
    return out;
}

static enum ds4_status restore(struct ds4_engine *e, struct ds4_session *s, const struct world *w, size_t n,
                               const struct saved *saved, struct ds4_error *error)
{
    const uint8_t *spans[64];
    for (size_t i = 0; i < saved->n_spans; i++) spans[i] = saved->spans + i * ds4_state_layout(e)->span_bytes;
    return ds4_session_restore(s, w->tokens, n, spans, saved->n_spans, saved->tip, saved->tip_len, error);
}

static void forget(struct saved *saved)
{
    free(saved->tip);
    free(saved->spans);
}

/* At every position of two windows of 128, so at every residue mod 4 and mod 128: save, restore elsewhere, go on. */
static void check_restore(const struct world *w)
{
    struct ds4_engine *e = open_with(w, 16, 2, 2);
    struct ds4_session *s = new_session(e), *other = new_session(e);
    struct ds4_error error = {0};
    eval_and_compare(w, e, other, 0, 9); /* so that the tail is not fresh */
    for (size_t n = 1; n + 9 < w->n && n < 265; n += MODEL_STRIDE) {
        size_t held;
        (void)ds4_session_tokens(s, &held);
        eval_and_compare(w, e, s, held, n);
        struct saved saved = save(e, s);
        if (restore(e, other, w, n, &saved, &error) != DS4_OK) fail_msg("at %zu: %s", n, error.message);
        assert_memory_equal(ds4_session_logits(other), ds4_session_logits(s), w->n_vocab * sizeof(float));
        eval_and_compare(w, e, other, n, n + 9);
        forget(&saved);
    }
    ds4_session_destroy(s);
    ds4_session_destroy(other);
    ds4_engine_close(e);
}

TEST(a_restored_session_goes_on_bit_for_bit_at_every_position)
{
    check_restore(&tiny);
    check_restore(&odd);
}

TEST(a_rewound_session_goes_on_bit_for_bit)
{
    struct ds4_engine *e = open_with(&odd, 64, 2, 1);
    struct ds4_session *s = new_session(e);
    struct ds4_error error = {0};
    int32_t wrong[40];
    for (size_t i = 0; i < 40; i++) wrong[i] = (int32_t)(i * 5);
    for (size_t n = 1; n < 250; n += 3) {
        size_t held;
        (void)ds4_session_tokens(s, &held);
        while (held < n) eval_and_compare(&odd, e, s, held, held + 1), held++;
        size_t away = 1 + n % 40; /* tokens that did not happen */
        struct ds4_job job = {.session = s, .tokens = wrong, .n = away};
        if (ds4_eval(e, &job, 1, &error) != DS4_OK) fail_msg("%s", error.message);
        size_t back = n > 20 ? n - n % 8 : n;
        if (ds4_session_rewind(s, back, &error) != DS4_OK) fail_msg("%s", error.message);
        assert_null(ds4_session_logits(s));
        eval_and_compare(&odd, e, s, back, n + 2);
    }
    assert_int_equal(ds4_session_rewind(s, 1, &error), DS4_ERR_STATE);
    assert_int_equal(ds4_session_rewind(s, 0, &error), DS4_OK);
    eval_and_compare(&odd, e, s, 0, 33);
    ds4_session_destroy(s);
    ds4_engine_close(e);
}

/* Going back further than the tail reaches, to every residue mod 4 and 128 and across spans: the tail is made again. */
static void check_far_back(const struct world *w)
{
    struct ds4_engine *e = open_with(w, 48, 2, 2);
    struct ds4_session *s = new_session(e), *fork = NULL;
    struct ds4_error error = {0};
    size_t reach = ds4_state_layout(e)->reach_tokens, reused, n_far = 0;
    for (size_t n = reach + 1; n < w->n; n += 7) {
        assert_int_equal(ds4_session_sync(s, w->tokens, w->n, NULL, NULL, NULL, &error), DS4_OK);
        if (ds4_session_rewind_min(s) <= n) break;
        n_far++;
        if (n % 3 == 0 && ds4_session_fork(s, &fork, &error) != DS4_OK) fail_msg("%s", error.message);
        assert_int_equal(ds4_session_sync(fork ? fork : s, w->tokens, n, NULL, NULL, &reused, &error), DS4_OK);
        assert_int_equal(reused, n - 1 > reach ? n - 1 - reach : 0); /* logits need the last token once more */
        assert_memory_equal(ds4_session_logits(fork ? fork : s), w->expected + (n - 1) * w->n_vocab,
                            w->n_vocab * sizeof(float));
        eval_and_compare(w, e, fork ? fork : s, n, n + 5);
        ds4_session_destroy(fork);
        fork = NULL;
    }
    assert_true(n_far > 8);
    ds4_session_destroy(s);
    ds4_engine_close(e);
}

TEST(a_session_goes_back_anywhere_bit_for_bit)
{
    struct world micro = make_world(model_micro(), N_TOKENS);
    check_far_back(&micro);
    free(micro.tokens);
    free(micro.expected);
}

struct stops {
    int calls;
};
static bool stop_at_the_third(void *user, const char *phase, uint64_t done, uint64_t total)
{
    struct stops *stops = user;
    (void)phase, (void)done, (void)total;
    return ++stops->calls % 3 != 0;
}

TEST(going_far_back_can_be_cancelled_and_gone_on_with_or_given_up)
{
    struct world micro = make_world(model_micro(), N_TOKENS);
    struct ds4_engine *e = open_with(&micro, 16, 2, 1);
    struct ds4_session *s = new_session(e);
    struct ds4_error error = {0};
    struct stops stops = {0};
    size_t n_cancelled = 0, held;
    uint8_t tip[64];
    assert_int_equal(ds4_session_sync(s, micro.tokens, 290, NULL, NULL, NULL, &error), DS4_OK);
    enum ds4_status status;
    while ((status = ds4_session_sync(s, micro.tokens, 250, stop_at_the_third, &stops, NULL, NULL)) != DS4_OK) {
        assert_int_equal(status, DS4_ERR_CANCELLED);
        (void)ds4_session_tokens(s, &held);
        assert_int_equal(ds4_session_rows(s), 249);
        n_cancelled++;
        if (held == 249) continue; /* whole, and one token to go */
        assert_null(ds4_session_logits(s)); /* nothing that could be taken for exact */
        assert_int_equal(ds4_session_tip_save(s, tip, sizeof tip, &held, &error), DS4_ERR_STATE);
        int32_t wrong = 1;
        struct ds4_job job = {.session = s, .tokens = &wrong, .n = 1};
        assert_int_equal(ds4_eval(e, &job, 1, NULL), DS4_ERR_STATE);
    }
    assert_true(n_cancelled > 1);
    eval_and_compare(&micro, e, s, 250, 265);
    /* Given up for a shorter prompt, then for another one. */
    assert_int_equal(ds4_session_sync(s, micro.tokens, 290, NULL, NULL, NULL, &error), DS4_OK);
    stops.calls = 1;
    assert_int_equal(ds4_session_sync(s, micro.tokens, 250, stop_at_the_third, &stops, NULL, NULL), DS4_ERR_CANCELLED);
    assert_int_equal(ds4_session_sync(s, micro.tokens, 220, NULL, NULL, NULL, &error), DS4_OK);
    assert_memory_equal(ds4_session_logits(s), micro.expected + 219 * micro.n_vocab, micro.n_vocab * sizeof(float));
    for (size_t at = 220; at < 290; at += 10) eval_and_compare(&micro, e, s, at, at + 10);
    stops.calls = 1;
    assert_int_equal(ds4_session_sync(s, micro.tokens, 250, stop_at_the_third, &stops, NULL, NULL), DS4_ERR_CANCELLED);
    assert_int_equal(ds4_session_sync(s, micro.tokens, 60, NULL, NULL, NULL, &error), DS4_OK);
    eval_and_compare(&micro, e, s, 60, 70);
    ds4_session_destroy(s);
    ds4_engine_close(e);
    free(micro.tokens);
    free(micro.expected);
}

TEST(a_fork_shares_history_and_goes_its_own_way)
{
    struct ds4_engine *e = open_with(&tiny, 64, 2, 2);
    struct ds4_session *s = new_session(e), *fork = NULL;
    struct ds4_error error = {0};
    for (size_t t = 0; t < 270; t += 54) eval_and_compare(&tiny, e, s, t, t + 54);
    if (ds4_session_fork(s, &fork, &error) != DS4_OK) fail_msg("%s", error.message);
    assert_true(ds4_session_span_is_shared(s, fork, 0));
    int32_t wrong[6] = {1, 2, 3, 4, 5, 6};
    struct ds4_job job = {.session = fork, .tokens = wrong, .n = 6};
    if (ds4_eval(e, &job, 1, &error) != DS4_OK) fail_msg("%s", error.message);
    size_t last = ds4_session_spans(s) - 1;
    assert_false(ds4_session_span_is_shared(s, fork, last));
    eval_and_compare(&tiny, e, s, 270, 290);
    if (ds4_session_rewind(fork, 270, &error) != DS4_OK) fail_msg("%s", error.message);
    eval_and_compare(&tiny, e, fork, 270, 300);
    ds4_session_destroy(s);
    ds4_session_destroy(fork);
    ds4_engine_close(e);
}

TEST(a_refused_restore_leaves_the_session_as_it_was)
{
    struct ds4_engine *e = open_with(&tiny, 64, 2, 2), *ideal;
    struct ds4_session *s = new_session(e), *other = new_session(e);
    eval_and_compare(&tiny, e, s, 0, 40);
    eval_and_compare(&tiny, e, other, 0, 50);
    struct saved saved = save(e, s);
    for (size_t field = 0; field < 40; field++) { /* every byte of the header decides something */
        struct ds4_error error = {0};
        saved.tip[field] ^= 0xFF;
        assert_int_not_equal(restore(e, other, &tiny, 40, &saved, &error), DS4_OK);
        assert_true(error.message[0]);
        saved.tip[field] ^= 0xFF;
    }
    for (size_t cut = 0; cut < saved.tip_len; cut += 1 + saved.tip_len / 50) {
        struct ds4_error error = {0};
        struct saved shorter = saved;
        shorter.tip_len = cut;
        assert_int_not_equal(restore(e, other, &tiny, 40, &shorter, &error), DS4_OK);
    }
    struct ds4_error error = {0};
    assert_int_not_equal(restore(e, other, &tiny, 41, &saved, &error), DS4_OK);
    eval_and_compare(&tiny, e, other, 50, 60);
    ideal = model_open(tiny.path, (struct ds4_engine_options){.ideal = true});
    struct ds4_session *foreign = new_session(ideal);
    error = (struct ds4_error){0};
    assert_int_equal(restore(ideal, foreign, &tiny, 40, &saved, &error), DS4_ERR_UNSUPPORTED);
    ds4_session_destroy(foreign);
    ds4_engine_close(ideal);
    forget(&saved);
    ds4_session_destroy(s);
    ds4_session_destroy(other);
    ds4_engine_close(e);
}

TEST(a_sync_keeps_the_common_prefix)
{
    struct ds4_engine *e = open_with(&tiny, 37, 2, 1);
    struct ds4_session *s = new_session(e);
    struct ds4_error error = {0};
    size_t reused;
    int32_t list[N_TOKENS];
    memcpy(list, tiny.tokens, sizeof list);
    assert_int_equal(ds4_session_sync(s, list, 200, NULL, NULL, &reused, &error), DS4_OK);
    assert_int_equal(reused, 0);
    assert_int_equal(ds4_session_sync(s, list, 200, NULL, NULL, &reused, &error), DS4_OK);
    assert_int_equal(reused, 200);
    assert_int_equal(ds4_session_sync(s, list, 220, NULL, NULL, &reused, &error), DS4_OK);
    assert_int_equal(reused, 200);
    list[210] ^= 1;
    assert_int_equal(ds4_session_sync(s, list, 215, NULL, NULL, &reused, &error), DS4_OK);
    assert_int_equal(reused, 210);
    list[210] ^= 1;
    assert_int_equal(ds4_session_sync(s, list, 210, NULL, NULL, &reused, &error), DS4_OK); /* fewer than are held */
    assert_int_equal(reused, 209);
    assert_memory_equal(ds4_session_logits(s), tiny.expected + 209 * tiny.n_vocab, tiny.n_vocab * sizeof(float));
    list[3] ^= 1; /* too far back: from the start */
    assert_int_equal(ds4_session_sync(s, list, 50, NULL, NULL, &reused, &error), DS4_OK);
    assert_int_equal(reused, 0);
    assert_int_equal(ds4_session_sync(s, list, 0, NULL, NULL, &reused, &error), DS4_ERR_STATE);
    ds4_session_destroy(s);
    ds4_engine_close(e);
}

TEST(bad_requests_change_nothing)
{
    struct ds4_engine *e = open_with(&tiny, 32, 1, 2);
    struct ds4_session *s = new_session(e), *other = new_session(e), *third = NULL;
    struct ds4_error error = {0};
    eval_and_compare(&tiny, e, s, 0, 20);
    int32_t bad[] = {3, 512}, negative[] = {-1};
    struct ds4_job jobs[2] = {{.session = s, .tokens = bad, .n = 2}};
    assert_int_equal(ds4_eval(e, jobs, 1, &error), DS4_ERR_LIMIT);
    jobs[0].tokens = negative, jobs[0].n = 1;
    assert_int_equal(ds4_eval(e, jobs, 1, NULL), DS4_ERR_LIMIT);
    jobs[0].tokens = tiny.tokens, jobs[0].n = 33;
    assert_int_equal(ds4_eval(e, jobs, 1, NULL), DS4_ERR_LIMIT);
    jobs[0].n = 0;
    assert_int_equal(ds4_eval(e, jobs, 1, NULL), DS4_ERR_STATE);
    jobs[0].n = 1, jobs[1] = jobs[0];
    assert_int_equal(ds4_eval(e, jobs, 2, NULL), DS4_ERR_STATE);
    assert_int_equal(ds4_session_create(e, &third, NULL), DS4_ERR_LIMIT);
    eval_and_compare(&tiny, e, s, 20, 40);
    ds4_session_destroy(s);
    ds4_session_destroy(other);
    ds4_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(logits_do_not_depend_on_chunks_or_threads),
        T(logits_do_not_depend_on_the_company_in_a_batch),
        T(a_restored_session_goes_on_bit_for_bit_at_every_position),
        T(a_rewound_session_goes_on_bit_for_bit),
        T(a_session_goes_back_anywhere_bit_for_bit),
        T(going_far_back_can_be_cancelled_and_gone_on_with_or_given_up),
        T(a_fork_shares_history_and_goes_its_own_way),
        T(a_refused_restore_leaves_the_session_as_it_was),
        T(a_sync_keeps_the_common_prefix),
        T(bad_requests_change_nothing),
    };
    return cmocka_run_group_tests_name("session", tests, set_up, NULL);
}
