/* test_store.c - what the store of conversations promises, on the small model with real state. */
#include "lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "lib/model.h"
#include "store/store.h"

#define N_TOKENS 600u

static struct ds4_engine *engine;
static int32_t tokens[N_TOKENS];

static int set_up(void **state)
{
    (void)state;
    engine = model_open(model_micro(), (struct ds4_engine_options){.ctx_tokens = 1024, .n_threads = 1,
                                                                    .chunk_tokens = 64, .n_sessions_max = 3});
    for (size_t i = 0; i < N_TOKENS; i++) tokens[i] = model_token(i, ds4_engine_info(engine)->n_vocab);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ds4_engine_close(engine);
    test_dir_remove();
    return 0;
}

static void say(void *user, enum ds4_log_level level, const char *line)
{
    (void)user;
    print_message("store, level %d: %s\n", (int)level, line);
}

static struct ds4_store *open_store(const char *dir)
{
    struct ds4_store_options options = {.dir = dir, .write_ratio_max = 1000, .no_sync = true, .log = say};
    struct ds4_store *s = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_store_open(engine, &options, &s, &error), error);
    return s;
}

static const char *fresh_dir(const char *name)
{
    static char path[300];
    static char base[200];
    if (!base[0]) (void)snprintf(base, sizeof base, "%s", test_dir());
    (void)snprintf(path, sizeof path, "%s/%s", base, name);
    return path;
}

static struct ds4_session *new_session(void)
{
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_session_create(engine, &s, &error), error);
    return s;
}

static struct ds4_store_report sync_to(struct ds4_store *store, struct ds4_session *s, const int32_t *ids, size_t n)
{
    struct ds4_store_report report;
    struct ds4_error error = {0};
    assert_ok(ds4_store_sync(store, s, ids, n, NULL, NULL, &report, &error), error);
    return report;
}

/* The logits of a session equal those of a cold run, and go on equal for `more` tokens. */
static void assert_like_cold(struct ds4_session *s, const int32_t *ids, size_t n, size_t more)
{
    struct ds4_session *cold = new_session();
    struct ds4_error error = {0};
    size_t n_vocab = ds4_engine_info(engine)->n_vocab;
    assert_ok(ds4_session_sync(cold, ids, n, NULL, NULL, NULL, &error), error);
    assert_memory_equal(ds4_session_logits(s), ds4_session_logits(cold), n_vocab * sizeof(float));
    for (size_t i = 0; i < more; i++) {
        int32_t next = (int32_t)((i * 37 + n) % n_vocab);
        struct ds4_job job = {.session = s, .tokens = &next, .n = 1};
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
        job.session = cold;
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
        assert_memory_equal(ds4_session_logits(s), ds4_session_logits(cold), n_vocab * sizeof(float));
    }
    ds4_session_destroy(cold);
}

/* Saves the first n tokens in a fresh store at dir. */
static void fill(const char *dir, size_t n)
{
    struct ds4_store *store = open_store(dir);
    struct ds4_session *s = new_session();
    bool saved;
    (void)sync_to(store, s, tokens, n);
    ds4_store_save(store, s, DS4_SAVE_TURN, &saved);
    assert_true(saved);
    ds4_session_destroy(s);
    ds4_store_close(store);
}

TEST(a_conversation_goes_on_after_a_restart_without_computing_it_again)
{
    static const size_t lengths[] = {1, 3, 4, 127, 128, 255, 256, 257, 300, 512, 555};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "restart-%zu", i);
        const char *dir = fresh_dir(name);
        fill(dir, lengths[i]);
        struct ds4_store *store = open_store(dir);
        struct ds4_session *s = new_session();
        struct ds4_store_report report = sync_to(store, s, tokens, lengths[i]);
        assert_int_equal(report.source, DS4_STORE_DISK);
        assert_int_equal(report.n_reused, lengths[i]);
        assert_like_cold(s, tokens, lengths[i], 9);
        ds4_session_destroy(s);
        s = new_session();
        report = sync_to(store, s, tokens, lengths[i] + 40); /* the next turn: only what is new */
        assert_int_equal(report.n_reused, lengths[i]);
        assert_like_cold(s, tokens, lengths[i] + 40, 3);
        ds4_session_destroy(s);
        ds4_store_close(store);
    }
}

TEST(the_next_turn_writes_only_what_is_new_and_branches_share_their_trunk)
{
    const char *dir = fresh_dir("turns");
    struct ds4_store *store = open_store(dir);
    struct ds4_session *s = new_session();
    struct ds4_store_stats before, after;
    (void)sync_to(store, s, tokens, 550);
    ds4_store_save(store, s, DS4_SAVE_TURN, NULL);
    ds4_store_flush(store);
    ds4_store_stats(store, &before);
    assert_int_equal(before.n_segments, 550 / ds4_state_layout(engine)->span_tokens);
    assert_int_equal(before.n_tips, 1);
    (void)sync_to(store, s, tokens, 560);
    ds4_store_save(store, s, DS4_SAVE_TURN, NULL);
    ds4_store_flush(store);
    ds4_store_stats(store, &after);
    assert_int_equal(after.n_segments, before.n_segments);
    assert_int_equal(after.n_tips, 2);
    int32_t branch[N_TOKENS];
    memcpy(branch, tokens, sizeof branch);
    branch[552] ^= 1;
    struct ds4_store_report report = sync_to(store, s, branch, 580);
    assert_int_equal(report.n_reused, 552); /* rewound in memory */
    ds4_store_save(store, s, DS4_SAVE_TURN, NULL);
    ds4_store_flush(store);
    ds4_store_stats(store, &after);
    assert_int_equal(after.n_segments, before.n_segments);
    assert_int_equal(after.n_tips, 3);
    /* A second conversation pushes the first out of memory; both come back from disk. */
    struct ds4_session *other = new_session();
    assert_int_equal(sync_to(store, other, tokens, 560).n_reused, 560);
    assert_int_equal(sync_to(store, other, branch, 580).n_reused, 580);
    assert_like_cold(other, branch, 580, 3);
    ds4_session_destroy(other);
    ds4_session_destroy(s);
    ds4_store_close(store);
}

TEST(a_text_finds_the_tokens_it_was_made_of)
{
    const char *dir = fresh_dir("text");
    fill(dir, 300);
    struct buf text = {0};
    for (size_t i = 0; i < 300; i++) buf_put_span(&text, ds4_token_bytes(engine, tokens[i]));
    struct ds4_store *store = open_store(dir);
    struct ds4_tokens found = {0};
    struct ds4_error error = {0};
    size_t used, whole = text.text.len;
    buf_put_text(&text, "and more");
    assert_ok(ds4_store_find_text(store, buf_span(&text), &found, &used, &error), error);
    assert_int_equal(used, whole);
    assert_int_equal(found.n, 300);
    assert_memory_equal(found.ids, tokens, 300 * sizeof *tokens);
    found.n = 0;
    text.text.ptr[whole / 2] ^= 1;
    assert_ok(ds4_store_find_text(store, buf_span(&text), &found, &used, &error), error);
    assert_int_equal(used, 0);
    assert_int_equal(found.n, 0);
    assert_ok(ds4_store_find_text(store, span_make(text.text.ptr, 3), &found, &used, &error), error);
    assert_int_equal(used, 0);
    ds4_tokens_free(&found);
    buf_deinit(&text);
    ds4_store_close(store);
}

/* ---- damage --------------------------------------------------------------------------------------------------- */

struct names {
    char name[64][64];
    size_t n;
};

static void collect_name(void *user, const char *name)
{
    struct names *list = user;
    if (list->n < 64 && (strstr(name, ".seg") || strstr(name, ".tip")))
        (void)snprintf(list->name[list->n++], 64, "%s", name);
}

static struct names entries_of(const char *dir)
{
    struct names list = {.n = 0};
    struct ds4_error error = {0};
    assert_ok(file_list_dir(dir, collect_name, &list, &error), error);
    return list;
}

static struct ds4_text read_file(const char *path)
{
    struct ds4_text bytes = {0};
    struct ds4_error error = {0};
    assert_ok(file_read_all(path, 1 << 28, &bytes, &error), error);
    return bytes;
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    struct ds4_error error = {0};
    int fd;
    assert_ok(file_open(path, FILE_CREATE_TRUNCATE, &fd, &error), error);
    assert_ok(file_write_at(fd, path, 0, bytes, n, &error), error);
    file_close(fd);
}

/* Whatever is in the directory, the session ends up like a cold one. Returns the tokens that were reused. */
static size_t still_right(const char *dir, size_t n)
{
    struct ds4_store *store = open_store(dir);
    struct ds4_session *s = new_session();
    struct ds4_store_report report = sync_to(store, s, tokens, n);
    assert_like_cold(s, tokens, n, 1);
    ds4_session_destroy(s);
    ds4_store_close(store);
    return report.n_reused;
}

TEST(a_damaged_entry_is_never_served)
{
    const char *good = strdup(fresh_dir("good")), *dir = strdup(fresh_dir("damaged"));
    struct ds4_error error = {0};
    char path[400], from[400];
    fill(good, 270);
    struct names list = entries_of(good);
    assert_int_equal(list.n, 1 + 270 / ds4_state_layout(engine)->span_tokens);
    struct rng { uint64_t x; } r = {test_seed()};
    for (int round = 0; round < 12; round += (int)MODEL_STRIDE) {
        assert_ok(file_private_dir(dir, &error), error);
        struct names old = entries_of(dir);
        for (size_t i = 0; i < old.n; i++) {
            (void)snprintf(path, sizeof path, "%s/%s", dir, old.name[i]);
            (void)unlink(path);
        }
        for (size_t i = 0; i < list.n; i++) {
            (void)snprintf(from, sizeof from, "%s/%s", good, list.name[i]);
            (void)snprintf(path, sizeof path, "%s/%s", dir, list.name[i]);
            struct ds4_text bytes = read_file(from);
            r.x = r.x * 6364136223846793005u + 1442695040888963407u;
            size_t at = (size_t)(r.x >> 20) % bytes.len;
            if (round % 3 == 0) bytes.ptr[round < 6 ? at % 600 : at] ^= (char)(1 << (r.x >> 60 & 7)); /* a bit flips */
            if (round % 3 == 1 && i == (size_t)(round / 3) % list.n) bytes.len = at; /* one is cut short */
            if (round % 3 == 2 && i == 0 && bytes.len > 4096) /* two places are exchanged */
                for (size_t k = 0; k < 512; k++) {
                    char c = bytes.ptr[bytes.len - 1024 + k];
                    bytes.ptr[bytes.len - 1024 + k] = bytes.ptr[bytes.len - 512 + k];
                    bytes.ptr[bytes.len - 512 + k] = c;
                }
            write_file(path, bytes.ptr, bytes.len);
            ds4_text_free(&bytes);
        }
        size_t reused = still_right(dir, 270);
        if (round % 3 == 0) assert_int_equal(reused, 0);
    }
    free((void *)(uintptr_t)good);
    free((void *)(uintptr_t)dir);
}

TEST(another_entry_under_a_name_is_never_served)
{
    const char *dir = strdup(fresh_dir("renamed"));
    char a[400], b[400], c[400];
    fill(dir, 520);
    struct names list = entries_of(dir);
    for (size_t i = 0; i < list.n; i++) {
        for (size_t k = i + 1; k < list.n; k++) {
            (void)snprintf(a, sizeof a, "%s/%s", dir, list.name[i]);
            (void)snprintf(b, sizeof b, "%s/%s", dir, list.name[k]);
            (void)snprintf(c, sizeof c, "%s/swap", dir);
            if (rename(a, c) || rename(b, a) || rename(c, b)) fail();
            assert_true(still_right(dir, 520) < 520 / 2); /* at most what the rows of the untouched one give */
            fill(dir, 520); /* and it heals */
            assert_int_equal(still_right(dir, 520), 520);
        }
    }
    free((void *)(uintptr_t)dir);
}

TEST(what_belongs_to_another_model_is_neither_used_nor_touched)
{
    const char *dir = strdup(fresh_dir("foreign"));
    fill(dir, 300);
    struct ds4_engine_options options_ideal = {.ctx_tokens = 1024, .n_threads = 1, .ideal = true};
    struct ds4_engine *ideal = model_open(model_micro(), options_ideal);
    struct ds4_store_options options = {.dir = dir, .write_ratio_max = 1000, .no_sync = true};
    struct ds4_store *store = NULL;
    struct ds4_error error = {0};
    struct ds4_store_stats stats;
    assert_ok(ds4_store_open(ideal, &options, &store, &error), error);
    ds4_store_stats(store, &stats);
    assert_int_equal(stats.n_segments + stats.n_tips, 0);
    assert_true(stats.bytes > 0);
    ds4_store_close(store);
    ds4_engine_close(ideal);
    assert_int_equal(still_right(dir, 300), 300);
    free((void *)(uintptr_t)dir);
}

TEST(strange_things_in_the_directory_do_no_harm)
{
    const char *dir = strdup(fresh_dir("strange"));
    char path[500], target[500];
    fill(dir, 300);
    struct names list = entries_of(dir);
    for (size_t i = 0; i < list.n; i++) { /* a symlink in place of an entry */
        (void)snprintf(path, sizeof path, "%s/%s", dir, list.name[i]);
        (void)snprintf(target, sizeof target, "%s/elsewhere-%zu", dir, i);
        if (rename(path, target) || symlink(target, path)) fail();
    }
    assert_int_equal(still_right(dir, 300), 0);
    for (int i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "%s/%032d.%s", dir, i, i % 2 ? "tip" : "seg");
        if (i == 0) assert_int_equal(mkdir(path, 0700), 0);
        else if (i == 1) assert_int_equal(mkfifo(path, 0600), 0);
        else write_file(path, "", 0);
    }
    (void)snprintf(path, sizeof path, "%s/.tmp-1-1", dir);
    write_file(path, "half a file", 11);
    (void)still_right(dir, 300);
    assert_int_equal(access(path, F_OK), -1); /* temporaries go at start */
    struct stat st;
    assert_int_equal(stat(dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    free((void *)(uintptr_t)dir);
}

TEST(a_second_process_reads_and_does_not_write)
{
    const char *dir = fresh_dir("two");
    fill(dir, 300);
    struct ds4_store *first = open_store(dir), *second = open_store(dir);
    struct ds4_store_stats stats;
    ds4_store_stats(second, &stats);
    assert_true(stats.read_only);
    struct ds4_session *s = new_session();
    assert_int_equal(sync_to(second, s, tokens, 310).n_reused, 300);
    bool saved;
    ds4_store_save(second, s, DS4_SAVE_USER, &saved);
    assert_false(saved);
    ds4_session_destroy(s);
    ds4_store_close(second);
    ds4_store_close(first);
}

/* ---- failing disks -------------------------------------------------------------------------------------------- */

static struct {
    int at, number;    /* the call to fail, and errno */
    bool forever;
    _Atomic int count; /* calls of the worker and of the thread that writes */
} fault;

static bool fault_now(void)
{
    int count = ++fault.count;
    bool hit = fault.forever ? count >= fault.at : count == fault.at;
    if (hit) errno = fault.number;
    return hit;
}
static ssize_t bad_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    return fault_now() ? -1 : file_ops_system.pwrite(fd, buf, n, at);
}
static ssize_t bad_pread(int fd, void *buf, size_t n, off_t at)
{
    return fault_now() ? -1 : file_ops_system.pread(fd, buf, n, at);
}
static int bad_rename(const char *from, const char *to) { return fault_now() ? -1 : file_ops_system.rename(from, to); }
static int bad_open(const char *path, int flags, mode_t mode)
{
    return fault_now() ? -1 : file_ops_system.open(path, flags, mode);
}

TEST(any_failing_system_call_leaves_generation_as_it_was)
{
    static const int numbers[] = {EIO, ENOSPC, EDQUOT, EACCES, EROFS, ENFILE};
    const char *dir = strdup(fresh_dir("faults"));
    struct file_ops bad = file_ops_system;
    bad.pwrite = bad_pwrite, bad.pread = bad_pread, bad.rename = bad_rename, bad.open = bad_open;
    for (int round = 1; round <= 40; round += (int)MODEL_STRIDE) {
        struct ds4_store *store = open_store(dir);
        struct ds4_session *s = new_session();
        fault.at = round % 20 + 1;
        fault.forever = round > 20;
        fault.number = numbers[round % 6];
        fault.count = 0;
        file_test_hook(&bad);
        (void)sync_to(store, s, tokens, 290);
        ds4_store_save(store, s, DS4_SAVE_TURN, NULL);
        ds4_store_flush(store);
        file_test_hook(NULL);
        assert_like_cold(s, tokens, 290, 1);
        ds4_session_destroy(s);
        ds4_store_close(store);
    }
    fill(dir, 290);
    assert_int_equal(still_right(dir, 290), 290);
    free((void *)(uintptr_t)dir);
}

/* ---- policy --------------------------------------------------------------------------------------------------- */

TEST(the_directory_never_outgrows_its_budget)
{
    const char *dir = fresh_dir("budget");
    struct ds4_store_options options = {.dir = dir, .budget_bytes = 1u << 20, .write_ratio_max = 1000, .no_sync = true};
    struct ds4_store *store = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_store_open(engine, &options, &store, &error), error);
    int32_t list[N_TOKENS];
    memcpy(list, tokens, sizeof list);
    for (int32_t i = 0; i < 12; i++) {
        struct ds4_session *s = new_session();
        struct ds4_store_stats stats;
        list[2] = i;
        (void)sync_to(store, s, list, 300);
        ds4_store_save(store, s, DS4_SAVE_TURN, NULL);
        ds4_store_flush(store);
        ds4_store_stats(store, &stats);
        assert_true(stats.bytes <= options.budget_bytes);
        ds4_session_destroy(s);
    }
    struct ds4_store_stats stats;
    ds4_store_stats(store, &stats);
    assert_true(stats.n_evicted > 0);
    struct ds4_session *s = new_session();
    assert_int_equal(sync_to(store, s, list, 300).n_reused, 300); /* the last one is still there */
    ds4_session_destroy(s);
    ds4_store_close(store);
}

TEST(written_bytes_stay_within_their_ratio_to_new_rows)
{
    const char *dir = fresh_dir("ratio");
    struct ds4_store_options options = {.dir = dir, .write_ratio_max = 2, .no_sync = true};
    struct ds4_store *store = NULL;
    struct ds4_error error = {0};
    struct ds4_store_stats stats;
    assert_ok(ds4_store_open(engine, &options, &store, &error), error);
    struct ds4_session *s = new_session();
    for (size_t n = 20; n <= 580; n += 20) {
        (void)sync_to(store, s, tokens, n);
        ds4_store_save(store, s, DS4_SAVE_TURN, NULL);
        ds4_store_flush(store);
        ds4_store_stats(store, &stats);
        /* headers and tables of the files come on top */
        assert_true((double)stats.bytes_written <= 2.02 * (double)stats.row_bytes_written);
    }
    assert_true(stats.tips_skipped > 0);
    bool saved;
    ds4_store_save(store, s, DS4_SAVE_SHUTDOWN, &saved);
    assert_true(saved);
    ds4_session_destroy(s);
    ds4_store_close(store);
    store = open_store(dir);
    s = new_session();
    assert_int_equal(sync_to(store, s, tokens, 580).n_reused, 580);
    ds4_session_destroy(s);
    ds4_store_close(store);
}

TEST(a_tool_call_is_replayed_with_the_bytes_that_were_sampled)
{
    const char *dir = strdup(fresh_dir("replay"));
    struct ds4_store *store = open_store(dir);
    ds4_store_replay_put(store, SPAN("call_1"), SPAN("<first>"));
    ds4_store_replay_put(store, SPAN("call_2"), SPAN("<second>"));
    ds4_store_replay_put(store, SPAN("call_1"), SPAN("<third>"));
    ds4_store_close(store);
    char path[400];
    (void)snprintf(path, sizeof path, "%s/replay", dir);
    struct ds4_text bytes = read_file(path);
    store = open_store(dir);
    assert_true(span_eq(ds4_store_replay_get(store, SPAN("call_1")), SPAN("<third>")));
    assert_true(span_eq(ds4_store_replay_get(store, SPAN("call_2")), SPAN("<second>")));
    assert_int_equal(ds4_store_replay_get(store, SPAN("call_3")).len, 0);
    ds4_store_close(store);
    for (size_t cut = 0; cut < bytes.len; cut++) { /* a torn tail loses only what is torn */
        write_file(path, bytes.ptr, cut);
        store = open_store(dir);
        struct ds4_span first = ds4_store_replay_get(store, SPAN("call_1"));
        if (cut >= 28 + 6 + 7) assert_true(span_eq(first, SPAN("<first>")));
        else assert_int_equal(first.len, 0);
        ds4_store_close(store);
    }
    ds4_text_free(&bytes);
    free((void *)(uintptr_t)dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_conversation_goes_on_after_a_restart_without_computing_it_again),
        T(the_next_turn_writes_only_what_is_new_and_branches_share_their_trunk),
        T(a_text_finds_the_tokens_it_was_made_of),
        T(a_damaged_entry_is_never_served),
        T(another_entry_under_a_name_is_never_served),
        T(what_belongs_to_another_model_is_neither_used_nor_touched),
        T(strange_things_in_the_directory_do_no_harm),
        T(a_second_process_reads_and_does_not_write),
        T(any_failing_system_call_leaves_generation_as_it_was),
        T(the_directory_never_outgrows_its_budget),
        T(written_bytes_stay_within_their_ratio_to_new_rows),
        T(a_tool_call_is_replayed_with_the_bytes_that_were_sampled),
    };
    return cmocka_run_group_tests_name("store", tests, set_up, tear_down);
}
