/* test_store_hang.c - a disk that hangs. Every call of the file system waits in the thread that makes it until the test
 * lets go; calls of the thread that computes are counted instead. So it is seen, without any clock, that saving,
 * evicting and keeping tool calls leave the disk to the writer: tokens come as fast as without a store. */
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "lib/fake/fake_store.h"
#include "lib/test.h"

#define BUDGET 12000u /* two conversations and a half */
#define N_FIRST 200u
#define N_TOKENS 700u

static struct ds4_engine *engine;
static char base[FAKE_STORE_BASE_BYTES], dir[300];

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t computing;
    bool hangs;
    unsigned n_stuck, n_computing; /* calls that wait; calls of the computing thread while the disk hangs */
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void reach_disk(void)
{
    (void)pthread_mutex_lock(&disk.lock);
    if (pthread_equal(pthread_self(), disk.computing)) {
        disk.n_computing += disk.hangs;
    } else {
        disk.n_stuck++;
        (void)pthread_cond_broadcast(&disk.changed);
        while (disk.hangs) (void)pthread_cond_wait(&disk.changed, &disk.lock);
        disk.n_stuck--;
    }
    (void)pthread_mutex_unlock(&disk.lock);
}

static int hang_open(const char *path, int flags, mode_t mode)
{
    reach_disk();
    return file_ops_system.open(path, flags, mode);
}
static int hang_close(int fd)
{
    reach_disk();
    return file_ops_system.close(fd);
}
static ssize_t hang_pread(int fd, void *buf, size_t n, off_t at)
{
    reach_disk();
    return file_ops_system.pread(fd, buf, n, at);
}
static ssize_t hang_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    reach_disk();
    return file_ops_system.pwrite(fd, buf, n, at);
}
static int hang_sync(int fd)
{
    reach_disk();
    return file_ops_system.fdatasync(fd);
}
static int hang_rename(const char *from, const char *to)
{
    reach_disk();
    return file_ops_system.rename(from, to);
}
static int hang_unlink(const char *path)
{
    reach_disk();
    return file_ops_system.unlink(path);
}
static int hang_ftruncate(int fd, off_t size)
{
    reach_disk();
    return file_ops_system.ftruncate(fd, size);
}

static void hang(bool on)
{
    (void)pthread_mutex_lock(&disk.lock);
    disk.hangs = on;
    disk.computing = pthread_self();
    (void)pthread_cond_broadcast(&disk.changed);
    (void)pthread_mutex_unlock(&disk.lock);
}

/* Until the writer waits for the disk. */
static void wait_until_stuck(void)
{
    (void)pthread_mutex_lock(&disk.lock);
    while (!disk.n_stuck) (void)pthread_cond_wait(&disk.changed, &disk.lock);
    (void)pthread_mutex_unlock(&disk.lock);
}

static int set_up(void **state)
{
    (void)state;
    fake_store_base("hang", base);
    (void)snprintf(dir, sizeof dir, "%s/kv", base);
    engine = fake_store_engine(FAKE_STORE_SCRIPT);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ds4_engine_close(engine);
    fake_store_leave(base, dir);
    return 0;
}

static size_t visit(struct ds4_store *store, uint32_t seed, size_t n, bool save)
{
    int32_t ids[N_TOKENS];
    fake_store_tokens(seed, n, 0, ids);
    return fake_store_visit(engine, store, ids, n, save);
}

static struct ds4_store *open_store(uint64_t queue_bytes)
{
    struct ds4_store_options options = {.dir = dir, .budget_bytes = BUDGET, .queue_bytes = queue_bytes,
                                        .write_ratio_max = 1e6, .never_wait = true};
    struct ds4_store *store = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_store_open(engine, &options, &store, &error), error);
    for (uint32_t seed = 1; seed < 5; seed++) (void)visit(store, seed, 300, true); /* full: more must evict */
    ds4_store_flush(store);
    return store;
}

/* Tokens one by one, with every save there is after each. */
static void decode(struct ds4_store *store, struct ds4_session *s, const int32_t *ids)
{
    static const enum ds4_save_reason reasons[] = {DS4_SAVE_TURN, DS4_SAVE_PREFIX, DS4_SAVE_EVICT, DS4_SAVE_ROWS};
    struct ds4_error error = {0};
    char call[16];
    for (size_t t = N_FIRST; t < N_TOKENS; t++) {
        struct ds4_job job = {.session = s, .tokens = ids + t, .n = 1};
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
        ds4_store_save(store, s, DS4_SAVE_PERIODIC, NULL);
        ds4_store_save(store, s, reasons[t % 4], NULL);
        (void)snprintf(call, sizeof call, "call-%zu", t);
        ds4_store_replay_put(store, span_make(call, strlen(call)), SPAN("sampled"));
    }
}

static void check(uint64_t queue_bytes)
{
    int32_t ids[N_TOKENS];
    struct ds4_session *s = NULL, *other = NULL;
    struct ds4_error error = {0};
    struct ds4_store_stats before, after;
    fake_store_clear(dir);
    struct ds4_store *store = open_store(queue_bytes);
    assert_ok(ds4_session_create(engine, &s, &error), error);
    fake_store_tokens(9, N_TOKENS, 0, ids);
    assert_ok(ds4_store_sync(store, s, ids, N_FIRST, NULL, NULL, NULL, &error), error);
    ds4_store_flush(store);
    ds4_store_stats(store, &before);
    hang(true);
    ds4_store_save(store, s, DS4_SAVE_TURN, NULL);
    wait_until_stuck();
    decode(store, s, ids);
    /* A prompt that nothing is known of is computed beside it, saving on the way. */
    assert_ok(ds4_session_create(engine, &other, &error), error);
    fake_store_tokens(10, 300, 0, ids);
    assert_ok(ds4_store_sync(store, other, ids, 300, NULL, NULL, NULL, &error), error);
    assert_int_equal(disk.n_computing, 0);
    ds4_store_stats(store, &after);
    assert_true(after.n_evicted > before.n_evicted);
    assert_true(after.bytes <= BUDGET);
    assert_int_equal(after.bytes_written, before.bytes_written); /* it did hang */
    assert_true(after.queued_bytes <= queue_bytes + 2 * BUDGET); /* looked at before each, and calls are kept always */
    hang(false);
    /* And then all goes on, as if nothing had been. */
    assert_true(span_eq(ds4_store_replay_get(store, SPAN("call-699")), SPAN("sampled")));
    (void)visit(store, 20, 300, true);
    ds4_store_flush(store);
    assert_int_equal(visit(store, 20, 300, false), 300);
    ds4_store_stats(store, &after);
    assert_int_equal(after.n_errors, 0);
    ds4_session_destroy(other);
    ds4_session_destroy(s);
    ds4_store_close(store);
    store = fake_store_open(engine, dir, BUDGET);
    assert_int_equal(ds4_store_replay_get(store, SPAN("call-699")).len, 7);
    assert_int_equal(visit(store, 20, 300, false), 300);
    ds4_store_close(store);
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* Memory of this process alone. */
static size_t own_bytes(void)
{
    char line[200];
    size_t kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    assert_non_null(status);
    while (fgets(line, sizeof line, status))
        if (sscanf(line, "RssAnon: %zu", &kib) == 1) break;
    (void)fclose(status);
    return kib << 10;
}
#endif

static void hook_disk(void)
{
    static struct file_ops ops;
    ops = file_ops_system;
    ops.open = hang_open, ops.close = hang_close, ops.pread = hang_pread, ops.pwrite = hang_pwrite;
    ops.fdatasync = hang_sync, ops.rename = hang_rename, ops.unlink = hang_unlink, ops.ftruncate = hang_ftruncate;
    file_test_hook(&ops);
}

TEST(no_token_waits_for_a_disk_that_hangs)
{
    hook_disk();
    check(1 << 20); /* room for all that waits */
    check(20000);   /* the queue is soon full */
    file_test_hook(NULL);
}

/* Many small writes wait, and what is freed later lies between pieces that stay. */
TEST(the_memory_of_a_queue_is_given_back_when_the_disk_goes_on)
{
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    struct ds4_store_stats stats = {0};
    struct ds4_store_options options = {.dir = dir, .budget_bytes = 256u << 20, .queue_bytes = 64u << 20,
                                        .write_ratio_max = 1e6, .never_wait = true, .no_sync = true};
    struct ds4_store *store = NULL;
    struct ds4_error error = {0};
    hook_disk();
    fake_store_clear(dir);
    assert_ok(ds4_store_open(engine, &options, &store, &error), error);
    for (uint32_t seed = 1; seed < 20; seed++) (void)visit(store, seed, 300, true);
    ds4_store_flush(store);
    size_t before = own_bytes();
    hang(true);
    (void)visit(store, 20, 300, true);
    wait_until_stuck();
    for (uint32_t seed = 21; stats.queued_bytes < 16u << 20; seed++) {
        (void)visit(store, seed, 300, true);
        ds4_store_stats(store, &stats);
    }
    size_t full = own_bytes();
    assert_true(full >= before + (15u << 20)); /* what is said to be queued is all there is */
    assert_true(full <= before + (32u << 20));
    hang(false);
    ds4_store_flush(store);
    (void)visit(store, 20, 300, false);
    print_message("%zu KiB at first, %zu full, %zu after\n", before >> 10, full >> 10, own_bytes() >> 10);
    assert_true(own_bytes() < before + (6u << 20)); /* the index has grown */
    ds4_store_close(store);
    file_test_hook(NULL);
#endif
}

/* The test would wait for ever where anything did. */
TEST(an_end_in_a_hurry_drops_what_waits_for_a_disk_that_hangs)
{
    int32_t ids[N_TOKENS];
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    struct ds4_store_stats stats;
    bool saved = true;
    hook_disk();
    fake_store_clear(dir);
    struct ds4_store *store = open_store(1 << 20);
    assert_ok(ds4_session_create(engine, &s, &error), error);
    fake_store_tokens(9, N_TOKENS, 0, ids);
    assert_ok(ds4_store_sync(store, s, ids, N_FIRST, NULL, NULL, NULL, &error), error);
    ds4_store_flush(store);
    hang(true);
    ds4_store_save(store, s, DS4_SAVE_TURN, NULL);
    wait_until_stuck();
    decode(store, s, ids);
    ds4_store_hurry(store, 0);
    ds4_store_flush(store);
    ds4_store_save(store, s, DS4_SAVE_SHUTDOWN, &saved);
    assert_false(saved);
    ds4_store_stats(store, &stats);
    assert_true(stats.queued_bytes > 0);
    hang(false); /* the call that the writer is in comes back */
    ds4_session_destroy(s);
    ds4_store_close(store);
    assert_int_equal(fake_store_count(dir, ".tmp"), 0);
    store = fake_store_open(engine, dir, BUDGET);
    assert_true(visit(store, 9, N_TOKENS, false) < N_TOKENS);
    for (uint32_t seed = 1; seed < 5; seed++) (void)visit(store, seed, 300, false); /* nothing wrong is served */
    ds4_store_stats(store, &stats);
    assert_int_equal(stats.n_errors, 0);
    ds4_store_close(store);
    file_test_hook(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {T(no_token_waits_for_a_disk_that_hangs),
                                       T(the_memory_of_a_queue_is_given_back_when_the_disk_goes_on),
                                       T(an_end_in_a_hurry_drops_what_waits_for_a_disk_that_hangs)};
    return cmocka_run_group_tests_name("a disk that hangs", tests, set_up, tear_down);
}
