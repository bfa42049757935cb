/* test_store_rewind.c - going on from any place of what is stored: rows alone are enough, wherever tips are; and text
 * finds the tokens that were sampled. */
#include "lib/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "lib/model.h"

#define N_TOKENS 600u

static struct ds4_engine *engine;
static int32_t tokens[N_TOKENS];
static char base[200];

static int set_up(void **state)
{
    (void)state;
    engine = model_open(model_micro(), (struct ds4_engine_options){.ctx_tokens = 1024, .n_threads = 1,
                                                                    .chunk_tokens = 64, .n_sessions_max = 3});
    for (size_t i = 0; i < N_TOKENS; i++) tokens[i] = model_token(i, ds4_engine_info(engine)->n_vocab);
    (void)snprintf(base, sizeof base, "%s", test_dir());
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ds4_engine_close(engine);
    test_dir_remove();
    return 0;
}

static struct ds4_store *open_store(struct ds4_engine *e, const char *name)
{
    static char dir[300];
    (void)snprintf(dir, sizeof dir, "%s/%s", base, name);
    struct ds4_store_options options = {.dir = dir, .write_ratio_max = 1000, .no_sync = true};
    struct ds4_store *s = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_store_open(e, &options, &s, &error), error);
    return s;
}

static struct ds4_session *new_session(struct ds4_engine *e)
{
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_session_create(e, &s, &error), error);
    return s;
}

static void remove_tip(void *user, const char *name)
{
    char path[600];
    (void)snprintf(path, sizeof path, "%s/%s/%s", base, (const char *)user, name);
    if (strstr(name, ".tip")) assert_int_equal(unlink(path), 0);
}

/* Rows of N_TOKENS tokens on the disk and no tip. */
static void fill_without_tips(const char *name)
{
    char dir[300];
    struct ds4_store *store = open_store(engine, name);
    struct ds4_session *s = new_session(engine);
    struct ds4_error error = {0};
    assert_ok(ds4_store_sync(store, s, tokens, N_TOKENS, NULL, NULL, NULL, &error), error);
    ds4_store_save(store, s, DS4_SAVE_USER, NULL);
    ds4_session_destroy(s);
    ds4_store_close(store);
    (void)snprintf(dir, sizeof dir, "%s/%s", base, name);
    assert_ok(file_list_dir(dir, remove_tip, (void *)(uintptr_t)name, &error), error);
}

/* The logits of a session equal those of a cold run, and go on equal. */
static void assert_like_cold(struct ds4_session *s, const int32_t *ids, size_t n)
{
    struct ds4_session *cold = new_session(engine);
    struct ds4_error error = {0};
    size_t n_vocab = ds4_engine_info(engine)->n_vocab;
    assert_ok(ds4_session_sync(cold, ids, n, NULL, NULL, NULL, &error), error);
    for (int32_t next = 0; next < 200; next++) {
        assert_memory_equal(ds4_session_logits(s), ds4_session_logits(cold), n_vocab * sizeof(float));
        struct ds4_job job = {.session = s, .tokens = &next, .n = 1};
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
        job.session = cold;
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
    }
    ds4_session_destroy(cold);
}

static size_t full_spans(size_t n)
{
    size_t span = ds4_state_layout(engine)->span_tokens;
    return n / span * span;
}

TEST(rows_without_any_tip_cost_the_reach_of_the_windows_and_no_more)
{
    size_t reach = ds4_state_layout(engine)->reach_tokens;
    struct ds4_store_report report;
    struct ds4_error error = {0};
    fill_without_tips("no tips");
    struct ds4_store *store = open_store(engine, "no tips");
    struct ds4_session *s = new_session(engine);
    assert_ok(ds4_store_sync(store, s, tokens, N_TOKENS, NULL, NULL, &report, &error), error);
    assert_int_equal(report.source, DS4_STORE_DISK);
    assert_int_equal(report.n_reused, full_spans(N_TOKENS) - reach);
    assert_like_cold(s, tokens, N_TOKENS);
    ds4_session_destroy(s);
    ds4_store_close(store);
}

TEST(a_prompt_that_leaves_a_stored_conversation_in_its_middle_uses_the_rows_before)
{
    size_t reach = ds4_state_layout(engine)->reach_tokens;
    int32_t edited[N_TOKENS];
    struct ds4_store_report report;
    struct ds4_error error = {0};
    memcpy(edited, tokens, sizeof edited);
    edited[530] ^= 1;
    fill_without_tips("edited");
    struct ds4_store *store = open_store(engine, "edited");
    struct ds4_session *s = new_session(engine);
    assert_ok(ds4_store_sync(store, s, edited, 560, NULL, NULL, &report, &error), error);
    assert_int_equal(report.n_reused, full_spans(530) - reach);
    assert_like_cold(s, edited, 560);
    /* The session itself has more of the same conversation now than whole spans: it goes back by itself. */
    assert_ok(ds4_store_sync(store, s, edited, 560, NULL, NULL, &report, &error), error);
    edited[540] ^= 1;
    assert_ok(ds4_store_sync(store, s, edited, 550, NULL, NULL, &report, &error), error);
    assert_int_equal(report.source, DS4_STORE_RAM);
    assert_int_equal(report.n_reused, 540 - reach);
    assert_like_cold(s, edited, 550);
    ds4_session_destroy(s);
    ds4_store_close(store);
}

struct chunks {
    size_t n;
};
/* Lets one chunk pass, as a server does that turns to others in between. */
static bool one_chunk(void *user, const char *phase, uint64_t done, uint64_t total)
{
    (void)phase;
    ((struct chunks *)user)->n += done > 0;
    return done == 0 || done == total;
}

TEST(state_made_again_chunk_by_chunk_comes_to_an_end)
{
    struct ds4_error error = {0};
    struct chunks chunks = {0};
    enum ds4_status status = DS4_ERR_CANCELLED;
    fill_without_tips("chunks");
    struct ds4_store *store = open_store(engine, "chunks");
    struct ds4_session *s = new_session(engine);
    size_t n_calls = 0;
    for (; status == DS4_ERR_CANCELLED && n_calls < 100; n_calls++)
        status = ds4_store_sync(store, s, tokens, N_TOKENS, one_chunk, &chunks, NULL, &error);
    assert_int_equal(status, DS4_OK);
    assert_true(n_calls <= 3 + (ds4_state_layout(engine)->reach_tokens + N_TOKENS - full_spans(N_TOKENS)) / 64);
    assert_like_cold(s, tokens, N_TOKENS);
    ds4_session_destroy(s);
    ds4_store_close(store);
}

/* ---- text finds sampled tokens ---------------------------------------------------------------------------------- */

static void put(struct ds4_engine *e, const char *text, struct ds4_tokens *out)
{
    struct ds4_span span = {text, strlen(text)};
    struct ds4_error error = {0};
    assert_ok(ds4_tokenize(e, span, false, out, &error), error);
}

static struct ds4_tokens adopted(struct ds4_engine *e, struct ds4_store *store, const struct ds4_session *s,
                                 const struct ds4_tokens *prompt, size_t *n)
{
    struct ds4_tokens copy = {0};
    struct ds4_error error = {0};
    assert_ok(ds4_tokens_append(&copy, prompt->ids, prompt->n), error);
    assert_ok(ds4_store_adopt(e, store, s, &copy, n, &error), error);
    return copy;
}

static void assert_text_is(const struct ds4_engine *e, const struct ds4_tokens *a, const struct ds4_tokens *b)
{
    char text[2][2000] = {"", ""};
    const struct ds4_tokens *lists[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        size_t len = 0;
        for (size_t k = 0; k < lists[i]->n; k++) {
            struct ds4_span bytes = ds4_token_bytes(e, lists[i]->ids[k]);
            assert_true(len + bytes.len < sizeof text[0]);
            memcpy(text[i] + len, bytes.ptr, bytes.len);
            len += bytes.len;
        }
    }
    assert_string_equal(text[0], text[1]);
}

TEST(tokens_that_were_sampled_take_the_place_of_those_made_from_their_text)
{
    struct ds4_engine *e = model_open("models/ds4-tiny.gguf",
                                      (struct ds4_engine_options){.ctx_tokens = 512, .n_threads = 1});
    struct ds4_tokens sampled = {0}, prompt = {0}, got;
    struct ds4_error error = {0};
    size_t n;
    int32_t user = ds4_special(e)->user;
    put(e, "The do", &sampled); /* another split than that of the whole text */
    put(e, "g ran to the riv", &sampled);
    put(e, "er.", &sampled);
    assert_ok(ds4_tokens_append(&sampled, &user, 1), error);
    put(e, "Wh", &sampled);
    put(e, "y?", &sampled);
    put(e, "The dog ran to the river.", &prompt);
    assert_ok(ds4_tokens_append(&prompt, &user, 1), error);
    put(e, "Why?", &prompt);
    size_t n_same = prompt.n;
    assert_ok(ds4_tokens_append(&prompt, &user, 1), error);
    put(e, "And then?", &prompt);
    assert_true(sampled.n > n_same);

    struct ds4_store *store = open_store(e, "adopt");
    struct ds4_session *s = new_session(e);
    got = adopted(e, store, s, &prompt, &n);
    assert_int_equal(n, 0);
    assert_int_equal(got.n, prompt.n);
    ds4_tokens_free(&got);
    assert_ok(ds4_store_sync(store, s, sampled.ids, sampled.n, NULL, NULL, NULL, &error), error);
    got = adopted(e, NULL, s, &prompt, &n); /* from the session */
    assert_int_equal(n, sampled.n);
    assert_int_equal(got.n, sampled.n + prompt.n - n_same);
    assert_memory_equal(got.ids, sampled.ids, sampled.n * sizeof *got.ids);
    assert_memory_equal(got.ids + n, prompt.ids + n_same, (prompt.n - n_same) * sizeof *got.ids);
    assert_text_is(e, &got, &prompt);
    ds4_tokens_free(&got);
    ds4_store_save(store, s, DS4_SAVE_USER, NULL);
    ds4_session_destroy(s);
    ds4_store_close(store);
    store = open_store(e, "adopt");
    got = adopted(e, store, NULL, &prompt, &n); /* from the disk */
    assert_int_equal(n, sampled.n);
    assert_memory_equal(got.ids, sampled.ids, sampled.n * sizeof *got.ids);
    ds4_tokens_free(&got);
    /* A text that ends inside the last sampled token, and one that goes on in the middle of a token of the prompt. */
    prompt.n = n_same;
    put(e, "!!", &prompt);
    prompt.n = n_same - 1;
    got = adopted(e, store, NULL, &prompt, &n);
    assert_int_equal(n, 0);
    ds4_tokens_free(&got);
    ds4_store_close(store);
    ds4_tokens_free(&sampled);
    ds4_tokens_free(&prompt);
    ds4_engine_close(e);
}

TEST(text_that_spells_a_marker_is_never_made_one_by_what_is_stored)
{
    struct ds4_engine *e = model_open("models/ds4-tiny.gguf",
                                      (struct ds4_engine_options){.ctx_tokens = 512, .n_threads = 1});
    struct ds4_tokens real = {0}, forged = {0}, got;
    struct ds4_error error = {0};
    int32_t user = ds4_special(e)->user;
    size_t n;
    char text[200];
    struct ds4_span marker = ds4_token_bytes(e, user);
    put(e, "a", &real);
    assert_ok(ds4_tokens_append(&real, &user, 1), error);
    put(e, "b", &real);
    (void)snprintf(text, sizeof text, "a%.*sb", (int)marker.len, marker.ptr);
    put(e, text, &forged);
    assert_text_is(e, &real, &forged);
    struct ds4_store *store = open_store(e, "forged");
    struct ds4_session *s = new_session(e);
    for (int turn = 0; turn < 2; turn++) { /* a marker is stored, text asks; text is stored, a marker asks */
        const struct ds4_tokens *stored = turn ? &forged : &real, *asked = turn ? &real : &forged;
        assert_ok(ds4_store_sync(store, s, stored->ids, stored->n, NULL, NULL, NULL, &error), error);
        ds4_store_save(store, s, DS4_SAVE_USER, NULL);
        ds4_store_flush(store);
        got = adopted(e, NULL, s, asked, &n);
        assert_int_equal(n, 0);
        ds4_tokens_free(&got);
        got = adopted(e, store, s, asked, &n);
        assert_int_equal(got.n, asked->n);
        assert_memory_equal(got.ids, asked->ids, got.n * sizeof *got.ids);
        ds4_tokens_free(&got);
    }
    ds4_session_destroy(s);
    ds4_store_close(store);
    ds4_tokens_free(&real);
    ds4_tokens_free(&forged);
    ds4_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(rows_without_any_tip_cost_the_reach_of_the_windows_and_no_more),
        T(a_prompt_that_leaves_a_stored_conversation_in_its_middle_uses_the_rows_before),
        T(state_made_again_chunk_by_chunk_comes_to_an_end),
        T(tokens_that_were_sampled_take_the_place_of_those_made_from_their_text),
        T(text_that_spells_a_marker_is_never_made_one_by_what_is_stored),
    };
    return cmocka_run_group_tests_name("going on from anywhere", tests, set_up, tear_down);
}
