/* test_store_live.c - live sessions above the store, and damaged stores under real state: whatever moves between memory
 * and disk, the next tokens are those of a run that never stopped. */
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "lib/model.h"
#include "lib/test.h"

#define N_TOKENS 700u

static struct ds4_engine *engine;
static int32_t ids[8][N_TOKENS]; /* conversations; the first 256 tokens of 0 to 3 are the same */
static char base[200];
static uint64_t now_s = 5000;

static uint64_t fake_now(void) { return now_s; }

static int set_up(void **state)
{
    (void)state;
    engine = model_open(model_small(), (struct ds4_engine_options){.ctx_tokens = 1024, .n_threads = 1,
                                                                  .chunk_tokens = 64, .n_sessions_max = 5});
    for (size_t c = 0; c < 8; c++)
        for (size_t i = 0; i < N_TOKENS; i++)
            ids[c][i] = model_token(i + (c < 4 && i < 256 ? 0 : 1000 * (c + 1)), ds4_engine_info(engine)->n_vocab);
    (void)snprintf(base, sizeof base, "%s", test_dir());
    clock_test_hook(NULL, fake_now);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    clock_test_hook(NULL, NULL);
    ds4_engine_close(engine);
    test_dir_remove();
    return 0;
}

static struct ds4_store *open_store(const char *name)
{
    char path[300];
    struct ds4_store *store = NULL;
    struct ds4_error error = {0};
    (void)snprintf(path, sizeof path, "%s/%s", base, name);
    struct ds4_store_options options = {.dir = path, .write_ratio_max = 1000, .no_sync = true};
    assert_ok(ds4_store_open(engine, &options, &store, &error), error);
    return store;
}

static struct ds4_live *new_live(struct ds4_store *store, uint32_t n_sessions, uint64_t budget_bytes)
{
    struct ds4_live *live = NULL;
    struct ds4_error error = {0};
    struct ds4_live_options options = {.n_sessions = n_sessions, .budget_bytes = budget_bytes};
    assert_ok(ds4_live_create(engine, store, &options, &live, &error), error);
    return live;
}

static struct ds4_live_stats stats_of(const struct ds4_live *live)
{
    struct ds4_live_stats stats;
    ds4_live_stats(live, &stats);
    return stats;
}

static void assert_like_cold(struct ds4_session *s, const int32_t *list, size_t n)
{
    struct ds4_session *cold = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_session_create(engine, &cold, &error), error);
    assert_ok(ds4_session_sync(cold, list, n, NULL, NULL, NULL, &error), error);
    assert_memory_equal(ds4_session_logits(s), ds4_session_logits(cold),
                        ds4_engine_info(engine)->n_vocab * sizeof(float));
    ds4_session_destroy(cold);
}

/* One turn: the session is left busy. */
static struct ds4_session *turn(struct ds4_live *live, struct ds4_store *store, const int32_t *list, size_t n,
                                struct ds4_store_report *report)
{
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_live_acquire(live, list, n, &s, &error), error);
    assert_ok(ds4_store_sync(store, s, list, n, NULL, NULL, report, &error), error);
    assert_like_cold(s, list, n);
    return s;
}

TEST(a_prompt_goes_on_in_the_session_that_it_continues)
{
    struct ds4_live *live = new_live(NULL, 3, 0);
    struct ds4_store_report report;
    struct ds4_session *a = turn(live, NULL, ids[0], 300, &report);
    ds4_live_release(live, a, true);
    struct ds4_session *b = turn(live, NULL, ids[4], 100, &report);
    ds4_live_release(live, b, true);
    assert_true(turn(live, NULL, ids[0], 350, &report) == a);
    assert_int_equal(report.n_reused, 300);
    assert_int_equal(report.source, DS4_STORE_RAM);
    ds4_live_release(live, a, true);
    struct ds4_live_stats stats = stats_of(live);
    assert_int_equal(stats.n_fresh, 2);
    assert_int_equal(stats.n_continued, 1);
    ds4_live_destroy(live);
}

TEST(a_busy_session_is_forked_and_what_is_shared_is_counted_once)
{
    struct ds4_live *live = new_live(NULL, 3, 0);
    struct ds4_store_report report;
    struct ds4_session *a = turn(live, NULL, ids[0], 520, &report), *b, *c = NULL;
    uint64_t alone = stats_of(live).bytes;
    b = turn(live, NULL, ids[0], 530, &report);
    assert_true(a != b);
    assert_int_equal(report.n_reused, 520);
    struct ds4_live_stats stats = stats_of(live);
    assert_int_equal(stats.n_forked, 1);
    assert_int_equal(stats.n_busy, 2);
    uint64_t span = ds4_state_layout(engine)->span_bytes;
    assert_true(stats.bytes <= alone + span + ds4_engine_info(engine)->state_bytes_fixed); /* two full spans shared */
    c = turn(live, NULL, ids[5], 10, &report);
    struct ds4_session *d = NULL;
    struct ds4_error error = {0};
    assert_status(ds4_live_acquire(live, ids[6], 10, &d, &error), DS4_ERR_LIMIT, error);
    assert_null(d);
    ds4_live_release(live, c, false); /* not to be trusted: gone */
    assert_int_equal(stats_of(live).n_sessions, 2);
    ds4_live_release(live, a, true);
    ds4_live_release(live, b, true);
    ds4_live_destroy(live);
}

TEST(the_session_worth_least_moves_to_disk_and_comes_back_equal)
{
    struct ds4_store *store = open_store("evict");
    struct ds4_live *live = new_live(store, 2, 0);
    struct ds4_store_report report;
    for (size_t round = 0; round < 3; round++) {
        for (size_t c = 0; c < 4; c++) {
            size_t n = 300 + 30 * round + 7 * c;
            struct ds4_session *s = turn(live, store, ids[c < 3 ? c : 7], n, &report);
            if (round) {
                assert_int_equal(report.n_reused, n - 30);
                assert_int_equal(report.source, DS4_STORE_DISK);
            }
            ds4_live_release(live, s, true);
            now_s += 60;
        }
    }
    assert_true(stats_of(live).n_evicted >= 8);
    ds4_live_destroy(live); /* saves what is left */
    live = new_live(store, 2, 0);
    for (size_t c = 0; c < 4; c++) {
        struct ds4_session *s = turn(live, store, ids[c < 3 ? c : 7], 380 + 7 * c, &report);
        assert_int_equal(report.n_reused, 360 + 7 * c);
        ds4_live_release(live, s, true);
    }
    ds4_live_destroy(live);
    ds4_store_close(store);
}

TEST(sessions_in_memory_stay_within_their_budget_of_bytes)
{
    struct ds4_store *store = open_store("bytes");
    uint64_t span = ds4_state_layout(engine)->span_bytes, fixed = ds4_engine_info(engine)->state_bytes_fixed;
    uint64_t budget = 3 * fixed + 5 * span;
    struct ds4_live *live = new_live(store, 4, budget);
    struct ds4_store_report report;
    for (size_t c = 4; c < 8; c++) {
        ds4_live_release(live, turn(live, store, ids[c], 300, &report), true);
        assert_true(stats_of(live).bytes <= budget);
        now_s += 60;
    }
    assert_true(stats_of(live).n_evicted > 0);
    ds4_live_destroy(live);
    ds4_store_close(store);
}

TEST(a_branch_takes_the_session_when_there_is_no_room_rather_than_drive_out_another)
{
    struct ds4_live *live = new_live(NULL, 2, 0);
    struct ds4_store_report report;
    int32_t branch[N_TOKENS];
    struct ds4_session *a = turn(live, NULL, ids[0], 300, &report);
    ds4_live_release(live, a, true);
    struct ds4_session *b = turn(live, NULL, ids[4], 300, &report);
    ds4_live_release(live, b, true);
    memcpy(branch, ids[0], sizeof branch);
    branch[295] ^= 1;
    assert_true(turn(live, NULL, branch, 310, &report) == a);
    assert_int_equal(report.n_reused, 295);
    ds4_live_release(live, a, true);
    assert_true(turn(live, NULL, ids[4], 320, &report) == b);
    assert_int_equal(report.n_reused, 300);
    ds4_live_release(live, b, true);
    assert_int_equal(stats_of(live).n_evicted, 0);
    ds4_live_destroy(live);
}

/* ---- a failed restore leaves no trace --------------------------------------------------------------------------- */

struct files {
    char name[16][64];
    size_t n;
};
static void collect(void *user, const char *name)
{
    struct files *list = user;
    if (list->n < 16 && (strstr(name, ".seg") || strstr(name, ".tip")) && strncmp(name, "bad-", 4) != 0)
        (void)snprintf(list->name[list->n++], 64, "%s", name);
}

TEST(a_restore_that_fails_at_any_entry_leaves_a_session_that_goes_on_like_a_cold_one)
{
    size_t n_vocab = ds4_engine_info(engine)->n_vocab;
    char dir[300], path[400];
    struct ds4_error error = {0};
    (void)snprintf(dir, sizeof dir, "%s/damage", base);
    for (size_t which = 0, n_entries = 3; which < n_entries; which++) {
        struct ds4_store *store = open_store("damage");
        struct ds4_session *s = NULL, *cold = NULL;
        struct ds4_store_report report;
        struct files list = {.n = 0};
        assert_ok(ds4_session_create(engine, &s, &error), error);
        assert_ok(ds4_store_sync(store, s, ids[1], 600, NULL, NULL, &report, &error), error);
        ds4_store_save(store, s, DS4_SAVE_USER, NULL);
        ds4_store_flush(store);
        assert_ok(file_list_dir(dir, collect, &list, &error), error);
        assert_true(list.n >= 3); /* full spans, whose length is a limit of the build, and a tip */
        n_entries = list.n;
        (void)snprintf(path, sizeof path, "%s/%s", dir, list.name[which]);
        struct ds4_text bytes = {0};
        int fd;
        assert_ok(file_read_all(path, 1 << 28, &bytes, &error), error);
        bytes.ptr[bytes.len - 100] ^= 1;
        assert_ok(file_open(path, FILE_READ_WRITE, &fd, &error), error);
        assert_ok(file_write_at(fd, path, 0, bytes.ptr, bytes.len, &error), error);
        file_close(fd);
        ds4_text_free(&bytes);
        /* The session holds something else before; what it ends with has no trace of that or of the damage. */
        assert_ok(ds4_store_sync(store, s, ids[6], 90, NULL, NULL, &report, &error), error);
        assert_ok(ds4_store_sync(store, s, ids[1], 600, NULL, NULL, &report, &error), error);
        assert_true(report.n_reused < 600 - ds4_state_layout(engine)->reach_tokens); /* rows before the damage */
        assert_ok(ds4_session_create(engine, &cold, &error), error);
        assert_ok(ds4_session_sync(cold, ids[1], 600, NULL, NULL, NULL, &error), error);
        for (size_t i = 0; i < 200; i++) {
            assert_memory_equal(ds4_session_logits(s), ds4_session_logits(cold), n_vocab * sizeof(float));
            int32_t next = (int32_t)((i * 37 + 5) % n_vocab);
            struct ds4_job job = {.session = s, .tokens = &next, .n = 1};
            assert_ok(ds4_eval(engine, &job, 1, &error), error);
            job.session = cold;
            assert_ok(ds4_eval(engine, &job, 1, &error), error);
        }
        ds4_session_destroy(cold);
        ds4_session_destroy(s);
        ds4_store_close(store);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_prompt_goes_on_in_the_session_that_it_continues),
        T(a_busy_session_is_forked_and_what_is_shared_is_counted_once),
        T(the_session_worth_least_moves_to_disk_and_comes_back_equal),
        T(sessions_in_memory_stay_within_their_budget_of_bytes),
        T(a_branch_takes_the_session_when_there_is_no_room_rather_than_drive_out_another),
        T(a_restore_that_fails_at_any_entry_leaves_a_session_that_goes_on_like_a_cold_one),
    };
    return cmocka_run_group_tests_name("live sessions", tests, set_up, tear_down);
}
