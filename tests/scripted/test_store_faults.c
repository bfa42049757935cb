/* test_store_faults.c - the store on disks that fail, are full or cannot be written, and the choice of what leaves it.
 * On the scripted engine; every answer is compared with a cold one.
 *
 *   test_store_faults          the short form
 *   test_store_faults long     more operations of the eviction test */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/mount.h>
#endif

#include "base/err.h"
#include "base/file.h"
#include "base/rng.h"
#include "lib/fake/fake_store.h"
#include "lib/io_fail.h"
#include "lib/test.h"
#include "store/index.h"

#define N_IDS 400u
#define TRUNK 128u
#define BUDGET 12000u
#define RATIO 1.3 /* entries are tiny here: the default of 2 would leave out nothing */

static bool is_long;
static struct ds4_engine *engine;
static char base[FAKE_STORE_BASE_BYTES], dir[300];

static int set_up(void **state)
{
    (void)state;
    fake_store_base("faults", base);
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
    int32_t ids[N_IDS];
    fake_store_tokens(seed, n, TRUNK, ids);
    return fake_store_visit(engine, store, ids, n, save);
}

/* ---- system calls that fail ------------------------------------------------------------------------------------- */

/* Restores, computes, saves, evicts, all right or the test ends. */
static enum ds4_status life(void *user, struct ds4_error *error)
{
    static uint32_t seed;
    struct ds4_store_options options = {.dir = dir, .budget_bytes = BUDGET, .write_ratio_max = 1e6};
    struct ds4_store *store = NULL;
    (void)user;
    TRY(ds4_store_open(engine, &options, &store, error));
    (void)visit(store, 1, 300, true);
    (void)visit(store, 2 + seed++ % 5, 300, true);
    ds4_store_replay_put(store, SPAN("call"), SPAN("bytes"));
    ds4_store_close(store);
    return DS4_OK;
}

/* What a failed call leaves: no half file under a good name, nothing good set aside, and a store that works. */
static void check_after(void *user)
{
    struct ds4_store_check check;
    struct ds4_store_stats stats;
    struct ds4_error error = {0};
    struct ds4_store *store = fake_store_open(engine, dir, BUDGET);
    (void)user;
    assert_int_equal(fake_store_count(dir, ".tmp-"), 0);
    assert_int_equal(fake_store_count(dir, "bad-"), 0);
    assert_ok(ds4_store_verify(store, NULL, NULL, &check, &error), error);
    assert_int_equal(check.n_bad + check.n_unreadable, 0);
    (void)visit(store, 1, 300, true);
    ds4_store_flush(store);
    assert_int_equal(visit(store, 1, 300, false), 300);
    ds4_store_stats(store, &stats);
    assert_true(stats.bytes <= BUDGET);
    ds4_store_close(store);
}

TEST(every_system_call_may_fail_for_any_reason_once_and_for_ever)
{
    fake_store_clear(dir);
    assert_true(io_fail_loop("store", life, NULL, check_after) > 30);
}

static atomic_uint n_calls;
static bool interrupted(void)
{
    if (atomic_fetch_add(&n_calls, 1) % 3) return false;
    errno = EINTR;
    return true;
}
static int poor_open(const char *path, int flags, mode_t mode)
{
    return interrupted() ? -1 : file_ops_system.open(path, flags, mode);
}
static ssize_t poor_pread(int fd, void *buf, size_t n, off_t at)
{
    return interrupted() ? -1 : file_ops_system.pread(fd, buf, n < 100 ? n : 100, at);
}
static ssize_t poor_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    return interrupted() ? -1 : file_ops_system.pwrite(fd, buf, n < 100 ? n : 100, at);
}
static ssize_t poor_read(int fd, void *buf, size_t n)
{
    return interrupted() ? -1 : file_ops_system.read(fd, buf, n < 100 ? n : 100);
}

TEST(interrupted_and_short_calls_cost_nothing)
{
    struct file_ops ops = file_ops_system;
    ops.open = poor_open, ops.pread = poor_pread, ops.pwrite = poor_pwrite, ops.read = poor_read;
    fake_store_clear(dir);
    file_test_hook(&ops);
    for (int run = 0; run < 2; run++) {
        struct ds4_store *store = fake_store_open(engine, dir, 0);
        struct ds4_store_stats stats;
        assert_int_equal(visit(store, 1, 300, true), run ? 300 : 0);
        ds4_store_flush(store);
        ds4_store_stats(store, &stats);
        assert_int_equal(stats.n_errors, 0);
        ds4_store_close(store);
    }
    file_test_hook(NULL);
}

/* ---- other people's files --------------------------------------------------------------------------------------- */

struct give_away {
    const char *suffix;
    int n;
};
static void give_away(void *user, const char *name)
{
    struct give_away *g = user;
    char path[600];
    if (!strstr(name, g->suffix)) return;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(chown(path, 65534, 65534), 0);
    g->n++;
}

TEST(a_file_of_another_user_is_neither_used_nor_touched)
{
    static const char *const suffixes[] = {".tip", ".seg", "usage", "replay"};
    if (geteuid() != 0) SKIP("only the administrator can give a file away");
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        struct give_away g = {.suffix = suffixes[i]};
        struct ds4_error error = {0};
        fake_store_clear(dir);
        struct ds4_store *store = fake_store_open(engine, dir, 0);
        (void)visit(store, 1, 300, true);
        ds4_store_replay_put(store, SPAN("call"), SPAN("bytes"));
        ds4_store_close(store);
        assert_ok(file_list_dir(dir, give_away, &g, &error), error);
        assert_true(g.n > 0);
        store = fake_store_open(engine, dir, 0);
        if (i < 2) assert_int_equal(visit(store, 1, 300, false), 0);
        if (i == 3) assert_int_equal(ds4_store_replay_get(store, SPAN("call")).len, 0);
        ds4_store_close(store);
        assert_int_equal(fake_store_count(dir, "bad-"), 0);
        if (i < 2) assert_int_equal(fake_store_count(dir, suffixes[i]), g.n);
    }
}

/* ---- real disks ------------------------------------------------------------------------------------------------- */

#ifdef __linux__
#define CANNOT 77 /* exit status of a child that is not allowed to mount */

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0) (void)close(fd);
    return done;
}

/* A view of the file system of our own, where we may mount. */
static bool own_mounts(void)
{
    char map[60];
    if (geteuid() == 0) return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    (void)snprintf(map, sizeof map, "0 %u 1", (unsigned)geteuid());
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && write_text("/proc/self/uid_map", map) &&
           mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static unsigned n_lines;
static void count_line(void *user, enum ds4_log_level level, const char *line)
{
    (void)user, (void)line;
    n_lines += level == DS4_LOG_WARN;
}

static struct ds4_store *open_logged(const char *where)
{
    struct ds4_store_options options = {.dir = where, .write_ratio_max = 1e6, .log = count_line};
    struct ds4_store *store = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_store_open(engine, &options, &store, &error), error);
    return store;
}

/* Leaves 128 KiB of the disk. */
static void put_ballast(const char *path)
{
    static const char zeros[65536];
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    for (size_t n = 0; n < (8u << 20) - (128u << 10); n += sizeof zeros)
        assert_int_equal(write(fd, zeros, sizeof zeros), sizeof zeros);
    (void)close(fd);
}

static int on_a_small_disk(const char *where)
{
    char kv[450], ballast[450];
    struct ds4_store_stats stats;
    if (!own_mounts() || mount("tmpfs", where, "tmpfs", 0, "size=8m,mode=0700") != 0) {
        print_message("cannot mount: %s\n", strerror(errno));
        return CANNOT;
    }
    (void)snprintf(kv, sizeof kv, "%s/kv", where);
    (void)snprintf(ballast, sizeof ballast, "%s/ballast", where);
    put_ballast(ballast);
    struct ds4_store *store = open_logged(kv);
    for (uint32_t seed = 1; seed < 30; seed++) (void)visit(store, seed, 300, true); /* compares with a cold run */
    ds4_store_flush(store);
    ds4_store_stats(store, &stats);
    assert_true(stats.n_errors > 5);    /* the disk was full */
    assert_int_equal(n_lines, 1);       /* and said so once a minute */
    assert_int_equal(fake_store_count(kv, ".tmp-"), 0);
    assert_int_equal(visit(store, 1, 300, false), 300); /* what was saved before is there */
    assert_int_equal(unlink(ballast), 0);
    (void)visit(store, 90, 300, true);
    ds4_store_flush(store);
    assert_int_equal(visit(store, 90, 300, false), 300); /* room again, and it saves again */
    ds4_store_close(store);
    if (mount(kv, kv, NULL, MS_BIND, NULL) != 0 || mount(NULL, kv, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) != 0) {
        print_message("cannot make it read-only: %s\n", strerror(errno));
        return CANNOT;
    }
    store = open_logged(kv);
    ds4_store_stats(store, &stats);
    assert_true(stats.read_only);
    assert_int_equal(visit(store, 90, 300, true), 300);
    assert_int_equal(visit(store, 91, 300, true), 0);
    ds4_store_flush(store);
    assert_int_equal(visit(store, 91, 300, false), 0); /* nothing was saved */
    ds4_store_close(store);
    return 0;
}

TEST(a_full_disk_and_a_read_only_one_leave_answers_as_they_are)
{
    char where[400];
    int status;
    (void)snprintf(where, sizeof where, "%s/disk", base);
    assert_int_equal(mkdir(where, 0700), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) _exit(on_a_small_disk(where));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(rmdir(where), 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT) SKIP("this user may not mount here");
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

/* ---- eviction --------------------------------------------------------------------------------------------------- */

#define N_CHATS 24u
#define SPANS_MAX 30u

struct sim {
    struct index x;
    struct rng rng;
    uint64_t now, budget, n_evicted, n_again;
};

static struct entry_key key_of(uint32_t chat, uint32_t kind, uint32_t i)
{
    struct entry_key key = {{0}};
    uint32_t parts[4] = {(chat * 2654435761u) ^ (i * 40503u) ^ kind, chat, i, kind};
    memcpy(key.bytes, parts, sizeof parts);
    return key;
}

/* As ds4_store_save does it: room first, then the entry. False: there is no room. */
static bool sim_add(struct sim *sim, struct index_item item)
{
    struct index_item *known = index_find(&sim->x, &item.key);
    if (known) {
        known->last_use = sim->now;
        index_touch(&sim->x, known);
        return true;
    }
    while (sim->x.bytes + item.bytes > sim->budget) {
        if (!index_choose_victim(&sim->x, sim->now, 0, &item.parent)) return false;
        for (struct index_item *gone; (gone = index_next_doomed(&sim->x)); sim->n_evicted++) {
            assert_true(gone->kind == ENTRY_TIP || gone->n_tips == 0); /* never below a tip that stays */
            struct entry_key key = gone->key;
            index_remove(&sim->x, &key);
        }
    }
    item.last_use = sim->now;
    assert_int_equal(index_add(&sim->x, &item), DS4_OK);
    assert_true(sim->x.bytes <= sim->budget);
    if (item.kind == ENTRY_TIP) index_supersede(&sim->x, &item.key);
    return true;
}

/* One request: conversation `chat` grows to n spans and is saved. Nothing of it may leave while it is being saved. */
static void sim_request(struct sim *sim, uint32_t chat, uint32_t n)
{
    struct index_item tip = {.key = key_of(chat, 2, n), .parent = key_of(chat, 1, n), .kind = ENTRY_TIP, .bytes = 700,
                             .n_tokens = 64ull * n + 10};
    bool room = true;
    uint32_t n_known = 0;
    for (uint32_t i = 1; i <= n && room; i++) {
        struct index_item item = {.key = key_of(chat, 1, i), .kind = ENTRY_SEGMENT, .bytes = 1000, .n_tokens = 64 * i};
        if (i > 1) item.parent = key_of(chat, 1, i - 1);
        room = sim_add(sim, item);
        n_known += room;
        struct entry_key last = key_of(chat, 1, n_known);
        const struct index_item *at = index_find(&sim->x, &last);
        for (uint32_t k = n_known; k > 0; k--, at = index_find(&sim->x, &at->parent))
            if (!at) fail_msg("span %u of %u left while its conversation was being saved", k, n_known);
    }
    if (room && sim_add(sim, tip)) {
        struct entry_key key = key_of(chat, 1, n);
        assert_non_null(index_find(&sim->x, &key));
    }
    /* A conversation that fits the budget finds its place. */
    if (1000ull * n + 700 <= sim->budget) assert_true(room);
}

TEST(eviction_keeps_the_budget_and_what_is_being_used)
{
    struct sim sim = {.rng = {test_seed()}, .now = 1000};
    uint64_t n_ops = is_long ? 1000000 : 20000;
    for (uint64_t op = 0; op < n_ops; op++) {
        uint64_t r = rng_next(&sim.rng);
        if (op % 5000 == 0) { /* another disk */
            index_deinit(&sim.x);
            index_init(&sim.x);
            sim.budget = 5000 + rng_next(&sim.rng) % 100000;
        }
        sim.now += r >> 40 & 63;
        sim_request(&sim, (uint32_t)(r % N_CHATS), 1 + (uint32_t)(r >> 8) % SPANS_MAX);
    }
    index_deinit(&sim.x);
    print_message("%llu requests, %llu entries evicted\n", (unsigned long long)n_ops,
                  (unsigned long long)sim.n_evicted);
    assert_true(sim.n_evicted > n_ops / 4);
}

TEST(a_store_in_use_keeps_its_budget_and_its_bound_on_written_bytes)
{
    struct rng rng = {test_seed() + 1};
    uint32_t n_ops = is_long ? 30000 : 400;
    struct ds4_store_options options = {.dir = dir, .budget_bytes = 40000, .write_ratio_max = RATIO,
                                        .no_sync = true};
    struct ds4_store *store = NULL;
    struct ds4_store_stats stats;
    struct ds4_error error = {0};
    int32_t ids[N_IDS];
    fake_store_clear(dir);
    assert_ok(ds4_store_open(engine, &options, &store, &error), error);
    for (uint32_t op = 0; op < n_ops; op++) {
        uint64_t r = rng_next(&rng);
        size_t n = 100 + (size_t)(r >> 8) % 300;
        struct ds4_session *s = NULL;
        struct ds4_store_report report;
        fake_store_tokens((uint32_t)(r % 12), n, TRUNK, ids);
        assert_ok(ds4_session_create(engine, &s, &error), error);
        assert_ok(ds4_store_sync(store, s, ids, n, NULL, NULL, &report, &error), error);
        ds4_store_save(store, s, DS4_SAVE_TURN, NULL);
        ds4_session_destroy(s);
        ds4_store_flush(store);
        ds4_store_stats(store, &stats);
        assert_true(stats.bytes <= options.budget_bytes);
        assert_true((double)stats.bytes_written <= RATIO * (double)stats.row_bytes_written);
        /* What this request wrote is there after it. */
        if (r >> 50 & 1 && report.n_known < n / 64 * 64) {
            assert_ok(ds4_session_create(engine, &s, &error), error);
            assert_ok(ds4_store_sync(store, s, ids, n, NULL, NULL, &report, &error), error);
            assert_int_equal(report.n_known, n / 64 * 64);
            ds4_session_destroy(s);
        }
    }
    print_message("%u requests: %llu evicted, %llu tips left out, written %.2f times the rows\n", n_ops,
                  (unsigned long long)stats.n_evicted, (unsigned long long)stats.tips_skipped,
                  (double)stats.bytes_written / (double)stats.row_bytes_written);
    assert_true(stats.n_evicted > n_ops / 8 && stats.tips_skipped > 0 && stats.n_hits > 0);
    ds4_store_close(store);
}

int main(int argc, char **argv)
{
    is_long = argc > 1 && strcmp(argv[1], "long") == 0;
    const struct CMUnitTest tests[] = {
        T(every_system_call_may_fail_for_any_reason_once_and_for_ever),
        T(interrupted_and_short_calls_cost_nothing),
        T(a_file_of_another_user_is_neither_used_nor_touched),
#ifdef __linux__
        T(a_full_disk_and_a_read_only_one_leave_answers_as_they_are),
#endif
        T(eviction_keeps_the_budget_and_what_is_being_used),
        T(a_store_in_use_keeps_its_budget_and_its_bound_on_written_bytes),
    };
    return cmocka_run_group_tests_name("faults of disks, eviction", tests, set_up, tear_down);
}
