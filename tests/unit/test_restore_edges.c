/* test_restore_edges.c - two hard cases of restoring from the disk, compared with a run that never stopped for the 200
 * tokens that follow: an entry of several blocks that is damaged in any of them, and a session that checked drafts,
 * some kept and some refused, before it was saved.
 *
 *   test_restore_edges          some of the blocks, 150 tokens with drafts
 *   test_restore_edges long     all of them, 450 tokens */
#include "lib/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"
#include "lib/model.h"
#include "lib/steady.h"
#include "store/entry.h"

#define AFTER 200u
#define N_MAX 660u
#define CHUNK 64u

static bool is_long;

static void begin(struct steady *w, const char *path, bool draft)
{
    struct ds4_engine_options options = {.ctx_tokens = N_MAX, .chunk_tokens = CHUNK, .n_sessions_max = 3,
                                         .n_threads = 1, .draft = draft};
    steady_begin(w, path, options, N_MAX, CHUNK);
}

static void eval_all(struct steady *w, struct ds4_session *s, size_t from, size_t to)
{
    for (size_t t = from; t < to; t += CHUNK) steady_eval(w, s, t, t + CHUNK < to ? t + CHUNK : to);
}

static void save(const struct steady *w, const struct ds4_session *s)
{
    bool saved;
    struct ds4_store *store = steady_store(w);
    ds4_store_save(store, s, DS4_SAVE_USER, &saved);
    assert_true(saved);
    ds4_store_close(store);
}

/* ---- damage in any block ---------------------------------------------------------------------------------------- */

#define N_SAVED 383u /* a full span and as many open slots as there can be */
#define FILES_MAX 8u

struct files {
    const char *dir;
    size_t n;
    struct { char name[64]; struct ds4_text bytes; } items[FILES_MAX];
};

static void path_of(const struct files *f, const char *name, char out[400])
{
    (void)snprintf(out, 400, "%s/%s", f->dir, name);
}

static void collect(void *user, const char *name)
{
    struct files *f = user;
    char path[400];
    struct ds4_error error = {0};
    if (!strstr(name, ".seg") && !strstr(name, ".tip")) return;
    assert_true(f->n < FILES_MAX);
    path_of(f, name, path);
    (void)snprintf(f->items[f->n].name, sizeof f->items[0].name, "%s", name);
    assert_ok(file_read_all(path, 1u << 28, &f->items[f->n++].bytes, &error), error);
}

static void remove_file(void *user, const char *name)
{
    char path[400];
    path_of(user, name, path);
    assert_int_equal(unlink(path), 0);
}

/* The directory as it was saved. */
static void put_back(struct files *f)
{
    struct ds4_error error = {0};
    assert_ok(file_list_dir(f->dir, remove_file, f, &error), error);
    for (size_t i = 0; i < f->n; i++) {
        char path[400];
        int fd;
        path_of(f, f->items[i].name, path);
        assert_ok(file_open(path, FILE_CREATE_NEW, &fd, &error), error);
        assert_ok(file_write_at(fd, path, 0, f->items[i].bytes.ptr, f->items[i].bytes.len, &error), error);
        file_close(fd);
    }
}

/* With one byte changed; a session that held something else goes on as if it had never seen the file. */
static unsigned check_damage(struct steady *w, struct files *f, size_t file_i, size_t at)
{
    struct ds4_error error = {0};
    struct ds4_store_report report;
    struct ds4_store_stats stats;
    static unsigned turn;
    if (!is_long && turn++ % (MODEL_STRIDE / 2 + 2) != 0) return 0;
    struct ds4_session *s = steady_session(w);
    f->items[file_i].bytes.ptr[at] ^= 0x20;
    put_back(f);
    f->items[file_i].bytes.ptr[at] ^= 0x20;
    assert_ok(ds4_session_sync(s, w->tokens + 17, 90, NULL, NULL, NULL, &error), error);
    struct ds4_store *store = steady_store(w);
    assert_ok(ds4_store_sync(store, s, w->tokens, N_SAVED, NULL, NULL, &report, &error), error);
    ds4_store_stats(store, &stats);
    assert_int_equal(stats.n_quarantined, 1);
    assert_true(report.n_reused < N_SAVED);
    assert_int_equal(steady_digest(w, ds4_session_logits(s)), w->expected[N_SAVED - 1]);
    for (size_t t = 0; t < 4; t++) steady_eval(w, s, N_SAVED + t, N_SAVED + t + 1);
    eval_all(w, s, N_SAVED + 4, N_SAVED + AFTER);
    ds4_session_destroy(s);
    ds4_store_close(store);
    return 1;
}

TEST(damage_in_any_block_of_any_entry_leaves_no_trace)
{
    struct steady w;
    struct ds4_error error = {0};
    size_t most_blocks = 0;
    unsigned n_checked = 0;
    begin(&w, model_file("blocks", "random --seed 5 --layers 5 --ratios 0,4,128,128,128 --dim 64 --heads 1 "
                                   "--head-dim 1024 --q-rank 32 --o-groups 1 --o-rank 32 --window 128 "
                                   "--index-heads 2 --index-topk 8 --experts 4 --used 2 --inner 32 --hash-layers 1 "
                                   "--vocab 400 --type Q8_0"), false);
    struct files files = {.dir = w.dir};
    struct ds4_session *s = steady_session(&w);
    eval_all(&w, s, 0, N_SAVED);
    save(&w, s);
    ds4_session_destroy(s);
    assert_ok(file_list_dir(w.dir, collect, &files, &error), error);
    for (size_t i = 0; i < files.n; i++) {
        const struct ds4_text *bytes = &files.items[i].bytes;
        struct entry e;
        assert_ok(entry_parse_header((const uint8_t *)bytes->ptr, bytes->len, &e, &error), error);
        if (e.n_blocks > most_blocks) most_blocks = e.n_blocks;
        n_checked += check_damage(&w, &files, i, (size_t)entry_front_bytes(&e) - 1); /* a token id */
        for (size_t b = 0; b < e.n_blocks; b++) {
            size_t from = (size_t)b * ENTRY_BLOCK_BYTES, left = (size_t)e.payload_len - from;
            size_t len = left < ENTRY_BLOCK_BYTES ? left : ENTRY_BLOCK_BYTES;
            n_checked += check_damage(&w, &files, i, (size_t)entry_front_bytes(&e) + from + len / 3);
        }
    }
    assert_true(most_blocks >= 3);
    print_message("%u damaged entries, %u tokens after each\n", n_checked, AFTER);
    for (size_t i = 0; i < files.n; i++) ds4_text_free(&files.items[i].bytes);
    steady_end(&w);
}

/* ---- drafts, kept and refused ----------------------------------------------------------------------------------- */

#define DRAFTS_MAX 7u

/* Checks drafts after n tokens in one pass, of which some are right. Returns the tokens that stay. */
static size_t speculate(struct steady *w, struct ds4_session *s, size_t n)
{
    struct ds4_error error = {0};
    int32_t drafts[DRAFTS_MAX + 1], rows[DRAFTS_MAX + 1];
    size_t n_drafts, k = 1 + n % DRAFTS_MAX, right = n * 5 % (k + 1);
    assert_ok(ds4_session_draft(s, w->tokens[n], k, drafts, &n_drafts, &error), error);
    assert_int_equal(n_drafts, k);
    for (size_t i = 0; i <= k; i++) rows[i] = (w->tokens[n + i] + (i > right)) % (int32_t)w->n_vocab;
    struct ds4_job job = {.session = s, .tokens = rows, .n = k + 1, .logits = w->logits};
    assert_ok(ds4_eval(w->engine, &job, 1, &error), error);
    for (size_t i = 0; i <= right; i++)
        assert_int_equal(steady_digest(w, w->logits + i * w->n_vocab), w->expected[n + i]);
    if (right < k) assert_ok(ds4_session_rewind(s, n + 1 + right, &error), error);
    return n + 1 + right;
}

static void assert_same_tip(const struct steady *w, const struct ds4_session *a, const struct ds4_session *b, size_t n)
{
    struct ds4_error error = {0};
    size_t cap = ds4_state_layout(w->engine)->tip_bytes_max, len[2];
    uint8_t *tips[2] = {calloc(cap, 1), calloc(cap, 1)};
    assert_ok(ds4_session_tip_save(a, tips[0], cap, &len[0], &error), error);
    assert_ok(ds4_session_tip_save(b, tips[1], cap, &len[1], &error), error);
    assert_int_equal(len[0], len[1]);
    for (size_t i = 0; i < len[0]; i++)
        if (tips[0][i] != tips[1][i]) fail_msg("byte %zu of %zu of the tip after %zu tokens", i, len[0], n);
    free(tips[0]);
    free(tips[1]);
}

/* Through the disk into another session: the same drafts, and the same tokens after. */
static void go_on(struct steady *w, struct ds4_session *s, struct ds4_session *plain, size_t n)
{
    struct ds4_error error = {0};
    int32_t drafts[2][DRAFTS_MAX];
    size_t n_drafts[2];
    struct ds4_store_report report;
    save(w, s);
    struct ds4_store *store = steady_store(w);
    struct ds4_session *other = steady_session(w);
    assert_ok(ds4_store_sync(store, other, w->tokens, n, NULL, NULL, &report, &error), error);
    assert_int_equal(report.n_reused, n);
    ds4_store_close(store);
    assert_ok(ds4_session_draft(other, w->tokens[n], DRAFTS_MAX, drafts[0], &n_drafts[0], &error), error);
    assert_ok(ds4_session_draft(plain, w->tokens[n], DRAFTS_MAX, drafts[1], &n_drafts[1], &error), error);
    assert_int_equal(n_drafts[0], DRAFTS_MAX);
    assert_int_equal(n_drafts[1], DRAFTS_MAX);
    assert_memory_equal(drafts[0], drafts[1], sizeof drafts[0]);
    size_t at = n;
    while (at < n + AFTER / 2) at = speculate(w, other, at);
    eval_all(w, other, at, n + AFTER);
    ds4_session_destroy(other);
}

TEST(state_saved_after_drafts_were_kept_and_refused_is_that_of_plain_decoding)
{
    struct steady w;
    unsigned seen = 0, restored = 0;
    begin(&w, model_micro(), true);
    struct ds4_session *s = steady_session(&w), *plain = steady_session(&w);
    steady_eval(&w, s, 0, 1);
    steady_eval(&w, plain, 0, 1);
    for (size_t n = 1, n_plain = 1; n < (is_long ? 450 : 150);) {
        n = speculate(&w, s, n);
        n = speculate(&w, s, n);
        steady_eval(&w, s, n, n + 1); /* a session that was rewound has no logits to save */
        n++;
        for (; n_plain < n; n_plain++) steady_eval(&w, plain, n_plain, n_plain + 1);
        assert_same_tip(&w, s, plain, n);
        seen |= 1u << n % 4;
        if (n > 40 && !(restored & 1u << n % 4)) {
            restored |= 1u << n % 4;
            go_on(&w, s, plain, n);
        }
    }
    assert_int_equal(seen, 15);
    assert_int_equal(restored, 15);
    ds4_session_destroy(s);
    ds4_session_destroy(plain);
    steady_end(&w);
}

int main(int argc, char **argv)
{
    is_long = argc > 1 && strcmp(argv[1], "long") == 0;
    return RUN_TESTS(T(damage_in_any_block_of_any_entry_leaves_no_trace),
                     T(state_saved_after_drafts_were_kept_and_refused_is_that_of_plain_decoding));
}
