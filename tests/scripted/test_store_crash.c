/* test_store_crash.c - what kills, power cuts, damage and poison may do to a store: nothing wrong is ever served. On
 * the scripted engine, whose state of a token depends on all tokens before it, so that any mix-up is seen.
 *
 *   test_store_crash          the short form
 *   test_store_crash long     the long form: minutes; "long PATTERN": of the tests whose names match
 * Numbers of kills, states and flips are printed. */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/rng.h"
#include "lib/fake/fake_store.h"
#include "lib/test.h"
#include "store/entry.h"

#define N_IDS 400u
#define TRUNK 128u /* tokens that conversations 0.. share */

static bool is_long;
static struct ds4_engine *engine;
static char base[FAKE_STORE_BASE_BYTES];
static struct rng rng;

static uint32_t below(uint32_t n) { return (uint32_t)(rng_next(&rng) % n); }

static const char *in_base(const char *name)
{
    static char paths[8][300];
    static int next;
    char *path = paths[next++ % 8];
    (void)snprintf(path, sizeof paths[0], "%s/%s", base, name);
    return path;
}

static int set_up(void **state)
{
    (void)state;
    fake_store_base("test", base);
    engine = fake_store_engine(FAKE_STORE_SCRIPT);
    rng = (struct rng){test_seed()};
    return 0;
}

static void remove_all(const char *dir)
{
    fake_store_clear(dir);
    (void)rmdir(dir);
}

static int tear_down(void **state)
{
    (void)state;
    ds4_engine_close(engine);
    static const char *const names[] = {"kill base", "kill", "power base", "power", "poison", "two", "odd"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (access(in_base(names[i]), F_OK) == 0) remove_all(in_base(names[i]));
    (void)rmdir(base);
    test_dir_remove();
    return 0;
}

static size_t visit(struct ds4_store *store, uint32_t seed, size_t n, bool save)
{
    int32_t ids[N_IDS];
    fake_store_tokens(seed, n, TRUNK, ids);
    return fake_store_visit(engine, store, ids, n, save);
}

/* ---- kill -9 -------------------------------------------------------------------------------------------------- */

static struct {
    _Atomic int64_t left; /* file operations before the kill; the one that reaches 0 dies half-way */
} death;

static bool dies(void) { return atomic_fetch_sub(&death.left, 1) == 1; }
static void die(void) { (void)kill(getpid(), SIGKILL); }

static int kill_open(const char *path, int flags, mode_t mode)
{
    if (dies()) die();
    return file_ops_system.open(path, flags, mode);
}
static ssize_t kill_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    if (dies()) {
        (void)!file_ops_system.pwrite(fd, buf, n / 2, at); /* torn */
        die();
    }
    return file_ops_system.pwrite(fd, buf, n, at);
}
static ssize_t kill_pread(int fd, void *buf, size_t n, off_t at)
{
    if (dies()) die();
    return file_ops_system.pread(fd, buf, n, at);
}
static int kill_rename(const char *from, const char *to)
{
    if (dies()) die();
    return file_ops_system.rename(from, to);
}
static int kill_unlink(const char *path)
{
    if (dies()) die();
    return file_ops_system.unlink(path);
}
static int kill_close(int fd)
{
    if (dies()) die();
    return file_ops_system.close(fd);
}
static int kill_sync(int fd)
{
    if (dies()) die();
    return file_ops_system.fdatasync(fd);
}

#define BUDGET 9000u /* room for two conversations beside the trunk: the next save evicts */

static void damage_one(const char *dir, uint32_t n);

/* What a process does: starts (temporaries are there), meets a damaged entry, saves, evicts, saves again, closes. */
static void life(const char *dir)
{
    struct ds4_store_options options = {.dir = dir, .budget_bytes = BUDGET, .write_ratio_max = 1e6};
    struct ds4_store *store = NULL;
    if (ds4_store_open(engine, &options, &store, NULL) != DS4_OK) _exit(1);
    for (uint32_t seed = 1; seed < 5; seed++) (void)visit(store, seed, 300, true);
    ds4_store_replay_put(store, SPAN("call"), SPAN("bytes"));
    ds4_store_close(store);
    _exit(0);
}

static void make_base(const char *dir)
{
    fake_store_clear(dir);
    struct ds4_store *store = fake_store_open(engine, dir, BUDGET);
    (void)visit(store, 1, 300, true);
    (void)visit(store, 2, 300, true);
    ds4_store_close(store);
    damage_one(dir, 1);
    char path[400];
    (void)snprintf(path, sizeof path, "%s/.tmp-1-1", dir);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0 && write(fd, "half", 4) == 4);
    (void)close(fd);
}

struct nth {
    const char *dir, *suffix;
    uint32_t left;
    char path[600];
};
static void find_nth(void *user, const char *name)
{
    struct nth *f = user;
    if (strncmp(name, "bad-", 4) == 0 || !strstr(name, f->suffix)) return;
    if (f->left-- == 0) (void)snprintf(f->path, sizeof f->path, "%s/%s", f->dir, name);
}

/* Flips a bit in the last byte of the n-th tip. */
static void damage_one(const char *dir, uint32_t n)
{
    struct nth f = {.dir = dir, .suffix = ".tip", .left = n};
    struct stat st;
    char byte = 0;
    assert_int_equal(file_list_dir(dir, find_nth, &f, NULL), DS4_OK);
    int fd = open(f.path, O_RDWR);
    assert_true(fd >= 0 && fstat(fd, &st) == 0 && pread(fd, &byte, 1, st.st_size - 1) == 1);
    byte ^= 16;
    assert_int_equal(pwrite(fd, &byte, 1, st.st_size - 1), 1);
    (void)close(fd);
}

/* Opens what a crash left: everything served is right (visit compares), temporaries are gone, a save works. Returns
 * the conversations that were found whole. */
static uint32_t check_after(const char *dir)
{
    uint32_t found = 0;
    uint64_t refused = fake_engine_stats()->n_restores_refused;
    struct ds4_store *store = fake_store_open(engine, dir, BUDGET);
    assert_int_equal(fake_store_count(dir, ".tmp-"), 0);
    for (uint32_t seed = 1; seed < 5; seed++) found += visit(store, seed, 300, false) == 300;
    size_t got = 0;
    for (int tries = 0; tries < 3 && got != 200; tries++) { /* rows that rotted are found by the first reading */
        (void)visit(store, 9, 200, true);
        ds4_store_flush(store);
        got = visit(store, 9, 200, false);
    }
    assert_int_equal(got, 200);
    struct ds4_store_stats stats;
    ds4_store_stats(store, &stats);
    assert_true(stats.bytes <= BUDGET);
    ds4_store_close(store);
    assert_int_equal(fake_engine_stats()->n_restores_refused, refused); /* nothing wrong even reached a session */
    return found;
}

TEST(a_kill_at_any_file_operation_leaves_a_store_that_serves_nothing_wrong)
{
    struct file_ops ops = file_ops_system;
    ops.open = kill_open, ops.pwrite = kill_pwrite, ops.pread = kill_pread, ops.rename = kill_rename;
    ops.unlink = kill_unlink, ops.close = kill_close, ops.fdatasync = kill_sync;
    const char *dir = in_base("kill");
    char from[300];
    (void)snprintf(from, sizeof from, "%s", in_base("kill base"));
    make_base(from);
    uint64_t n_kills = 0, n_found = 0, n_points = 0;
    int rounds = is_long ? 200 : 1;
    for (int64_t at = 1;; at++) {
        bool over = false;
        for (int round = 0; round < rounds; round++) {
            fake_store_copy(from, dir);
            pid_t child = fork();
            assert_true(child >= 0);
            if (child == 0) {
                atomic_store(&death.left, at);
                file_test_hook(&ops);
                life(dir);
            }
            int status;
            assert_int_equal(waitpid(child, &status, 0), child);
            over = WIFEXITED(status);
            if (over) assert_int_equal(WEXITSTATUS(status), 0);
            else n_kills++;
            n_found += check_after(dir);
        }
        n_points++;
        if (over) break;
    }
    print_message("%llu kills at %llu points; %llu conversations were found whole afterwards\n",
                  (unsigned long long)n_kills, (unsigned long long)n_points, (unsigned long long)n_found);
    assert_true(n_kills >= 100 && n_found >= n_kills / 2);
}

/* ---- power loss ----------------------------------------------------------------------------------------------- */

/* A log of what the store asked the system for. Files are told apart by the order of their creation; the directory is
 * one, flat. */
enum op_kind { OP_CREATE, OP_WRITE, OP_SYNC, OP_RENAME, OP_UNLINK, OP_SYNC_DIR };
struct op {
    enum op_kind kind;
    int file;
    char name[64], to[64];
    uint8_t *bytes;
    size_t n;
    uint64_t at;
};
#define OPS_MAX 4096
static struct op ops_log[OPS_MAX];
static size_t n_ops;
static int file_of_fd[1024], n_files;
static bool is_dir_fd[1024];

static struct op *log_op(enum op_kind kind, int file, const char *name)
{
    assert_true(n_ops < OPS_MAX);
    struct op *op = &ops_log[n_ops++];
    *op = (struct op){.kind = kind, .file = file};
    const char *slash = name ? strrchr(name, '/') : NULL;
    if (name) (void)snprintf(op->name, sizeof op->name, "%s", slash ? slash + 1 : name);
    return op;
}
static int log_open(const char *path, int flags, mode_t mode)
{
    int fd = file_ops_system.open(path, flags, mode);
    if (fd < 0 || fd >= 1024) return fd;
    is_dir_fd[fd] = flags & O_DIRECTORY;
    file_of_fd[fd] = -1;
    if (flags & O_CREAT && !strstr(path, "/lock")) {
        file_of_fd[fd] = n_files++;
        (void)log_op(OP_CREATE, file_of_fd[fd], path);
    }
    return fd;
}
static ssize_t log_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    if (file_of_fd[fd] >= 0) {
        struct op *op = log_op(OP_WRITE, file_of_fd[fd], NULL);
        op->bytes = malloc(n);
        memcpy(op->bytes, buf, n);
        op->n = n;
        op->at = (uint64_t)at;
    }
    return file_ops_system.pwrite(fd, buf, n, at);
}
static int log_sync(int fd)
{
    (void)log_op(is_dir_fd[fd] ? OP_SYNC_DIR : OP_SYNC, file_of_fd[fd], NULL);
    return 0;
}
static int log_rename(const char *from, const char *to)
{
    struct op *op = log_op(OP_RENAME, -1, from);
    (void)snprintf(op->to, sizeof op->to, "%s", strrchr(to, '/') + 1);
    return file_ops_system.rename(from, to);
}
static int log_unlink(const char *path)
{
    (void)log_op(OP_UNLINK, -1, path);
    return file_ops_system.unlink(path);
}

struct model_file {
    uint8_t bytes[8192];
    size_t len;
};
struct model_name {
    char name[64];
    int file; /* -1: none */
};
static struct model_file files[256];
static struct model_name names[256];
static size_t n_names;

static struct model_name *name_of(const char *name)
{
    for (size_t i = 0; i < n_names; i++)
        if (strcmp(names[i].name, name) == 0) return &names[i];
    assert_true(n_names < 256);
    struct model_name *made = &names[n_names++];
    (void)snprintf(made->name, sizeof made->name, "%s", name);
    made->file = -1;
    return made;
}

/* A write that was never synced: done, not done, or done in some of its sectors. */
static void apply_write(const struct op *op, bool safe)
{
    struct model_file *f = &files[op->file];
    size_t sector = below(2) ? 512 : 4096;
    uint32_t fate = safe ? 0 : below(3);
    assert_true(op->at + op->n <= sizeof f->bytes);
    if (fate == 1 && below(2)) return; /* not even the length */
    if (op->at + op->n > f->len) f->len = (size_t)(op->at + op->n);
    for (size_t i = 0; i < op->n; i++) {
        size_t here = (size_t)op->at + i;
        bool kept = fate == 0 || (fate == 2 && (here / sector * 2654435761u ^ (uint32_t)op->file * 97u) >> 7 & 1);
        if (kept) f->bytes[here] = op->bytes[i];
    }
}

/* One state that the disk may have after the first n operations: everything before a file's last sync is there, the
 * rest perhaps; of the changes of names since the directory's last sync any may be there, in any order but each
 * file's own. */
static void cut_power(size_t n, const char *dir)
{
    size_t dir_synced = 0;
    n_names = 0;
    memset(files, 0, sizeof files[0] * (size_t)n_files);
    static size_t synced[256];
    memset(synced, 0, sizeof synced);
    for (size_t i = 0; i < n; i++) {
        if (ops_log[i].kind == OP_SYNC_DIR) dir_synced = i;
        if (ops_log[i].kind == OP_SYNC && ops_log[i].file >= 0) synced[ops_log[i].file] = i;
    }
    for (size_t i = 0; i < n; i++) {
        const struct op *op = &ops_log[i];
        bool kept = i < dir_synced || below(2);
        if (op->kind == OP_WRITE) apply_write(op, i < synced[op->file]);
        if (op->kind == OP_CREATE && kept) name_of(op->name)->file = op->file;
        if (op->kind == OP_UNLINK && kept) name_of(op->name)->file = -1;
        if (op->kind == OP_RENAME && kept && name_of(op->name)->file >= 0) {
            name_of(op->to)->file = name_of(op->name)->file;
            name_of(op->name)->file = -1;
        }
    }
    fake_store_clear(dir);
    for (size_t i = 0; i < n_names; i++) {
        char path[400];
        if (names[i].file < 0) continue;
        const struct model_file *f = &files[names[i].file];
        (void)snprintf(path, sizeof path, "%.300s/%.60s", dir, names[i].name);
        int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
        assert_true(fd >= 0 && write(fd, f->bytes, f->len) == (ssize_t)f->len);
        (void)close(fd);
    }
}

TEST(a_power_cut_that_drops_reorders_and_tears_writes_leaves_nothing_wrong_to_serve)
{
    struct file_ops ops = file_ops_system;
    ops.open = log_open, ops.pwrite = log_pwrite, ops.fdatasync = log_sync, ops.rename = log_rename;
    ops.unlink = log_unlink;
    const char *dir = in_base("power");
    char from[300];
    uint64_t n_states = 0, n_found = 0;
    (void)snprintf(from, sizeof from, "%s", in_base("power base"));
    for (int no_sync = 0; no_sync < 2; no_sync++) {
        fake_store_clear(from);
        n_ops = 0, n_files = 0;
        struct ds4_store_options options = {.dir = from, .budget_bytes = BUDGET, .write_ratio_max = 1e6,
                                            .no_sync = no_sync};
        struct ds4_store *store = NULL;
        struct ds4_error error = {0};
        file_test_hook(&ops);
        assert_ok(ds4_store_open(engine, &options, &store, &error), error);
        for (uint32_t seed = 1; seed < 5; seed++) {
            (void)visit(store, seed, 300, true);
            ds4_store_flush(store); /* the log is one thread's at a time */
        }
        ds4_store_close(store);
        file_test_hook(NULL);
        assert_true(n_files < 256);
        for (size_t n = 0; n <= n_ops; n++) {
            for (int k = 0; k < (is_long ? 750 : 15); k++, n_states++) {
                cut_power(n, dir);
                n_found += check_after(dir);
            }
        }
        /* What was synced before the power went is there. */
        if (!no_sync) {
            cut_power(n_ops, dir);
            assert_true(check_after(dir) >= 1);
        }
        for (size_t i = 0; i < n_ops; i++) free(ops_log[i].bytes);
    }
    print_message("%llu states after a power cut; %llu conversations were found whole\n",
                  (unsigned long long)n_states, (unsigned long long)n_found);
    assert_true(n_found > 0);
}

/* ---- bit rot, truncation, splices ------------------------------------------------------------------------------ */

static struct ds4_text make_entry(size_t payload_len, uint32_t n_ids, char fill)
{
    struct buf out = {0};
    struct entry e = {.kind = ENTRY_TIP, .n_tokens = n_ids, .n_ids = n_ids, .tip_len = payload_len, .created = 77};
    int32_t *ids = calloc(n_ids, sizeof *ids);
    char *payload = malloc(payload_len);
    for (uint32_t i = 0; i < n_ids; i++) ids[i] = (int32_t)i * 7 + fill;
    for (size_t i = 0; i < payload_len; i++) payload[i] = (char)((i * 31 + i / 512 + (i >> 20) * 7) ^ (size_t)fill);
    e.parent = entry_root((const uint8_t *)"0123456789abcdef");
    memcpy(e.identity, "0123456789abcdef", 16);
    e.key = entry_tip_key(&e.parent, ids, n_ids);
    struct ds4_span piece = span_make(payload, payload_len);
    entry_write(&e, ids, &piece, 1, &out);
    buf_put_span(&out, piece);
    assert_false(out.failed);
    free(ids);
    free(payload);
    return out.text;
}

/* What a reader does with a file before any byte of it is used. */
static bool accepts(const uint8_t *bytes, size_t n)
{
    struct entry e;
    if (n < ENTRY_HEADER_BYTES || entry_parse_header(bytes, n, &e, NULL) != DS4_OK) return false;
    if (entry_verify_front(bytes, &e, NULL, NULL) != DS4_OK) return false;
    const uint8_t *payload = bytes + entry_front_bytes(&e);
    for (uint32_t i = 0; i < e.n_blocks; i++) {
        uint64_t from = (uint64_t)i * ENTRY_BLOCK_BYTES, rest = e.payload_len - from;
        if (!entry_block_ok(bytes, i, payload + from, rest < ENTRY_BLOCK_BYTES ? (size_t)rest : ENTRY_BLOCK_BYTES))
            return false;
    }
    return true;
}

TEST(every_flipped_bit_of_an_entry_is_noticed)
{
    struct ds4_text entry = make_entry(is_long ? 65536 - 1000 : 2048, 100, 1);
    uint8_t *bytes = (uint8_t *)entry.ptr;
    assert_true(accepts(bytes, entry.len));
    for (size_t bit = 0; bit < 8 * entry.len; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (accepts(bytes, entry.len)) fail_msg("bit %zu of byte %zu", bit % 8, bit / 8);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(accepts(bytes, entry.len));
    print_message("%zu flips\n", 8 * entry.len);
    ds4_text_free(&entry);
}

TEST(flips_anywhere_in_a_large_entry_are_noticed)
{
    struct ds4_text entry = make_entry((is_long ? 100u : 3u) << 20, 100, 1);
    uint8_t *bytes = (uint8_t *)entry.ptr;
    uint32_t n = is_long ? 10000 : 20;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bit = rng_next(&rng) % (8 * entry.len);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (accepts(bytes, entry.len)) fail_msg("bit %llu", (unsigned long long)bit);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(accepts(bytes, entry.len));
    print_message("%u flips in %zu bytes\n", n, entry.len);
    ds4_text_free(&entry);
}

TEST(every_other_length_of_an_entry_is_refused)
{
    struct ds4_text entry = make_entry(900, 30, 1);
    uint8_t *copy = calloc(entry.len + 300, 1);
    memcpy(copy, entry.ptr, entry.len);
    for (size_t n = 0; n < entry.len + 300; n++)
        if (accepts(copy, n) != (n == entry.len)) fail_msg("length %zu of %zu", n, entry.len);
    free(copy);
    ds4_text_free(&entry);
}

TEST(blocks_exchanged_within_an_entry_or_between_entries_are_refused)
{
    struct ds4_text a = make_entry(3 * ENTRY_BLOCK_BYTES + 5, 20, 1), b = make_entry(3 * ENTRY_BLOCK_BYTES + 5, 20, 2);
    size_t front = a.len - 3 * ENTRY_BLOCK_BYTES - 5;
    uint8_t *copy = malloc(a.len);
    assert_int_equal(a.len, b.len);
    for (size_t i = 0; i < 3; i++) {
        for (size_t k = 0; k < 3; k++) {
            for (int other = 0; other < 2; other++) {
                if (i == k && !other) continue;
                memcpy(copy, a.ptr, a.len);
                memcpy(copy + front + i * ENTRY_BLOCK_BYTES, (other ? b.ptr : a.ptr) + front + k * ENTRY_BLOCK_BYTES,
                       ENTRY_BLOCK_BYTES);
                assert_false(accepts(copy, a.len));
            }
        }
    }
    for (size_t cut = 8; cut < front; cut += 4) { /* the front of one, the rest of the other */
        memcpy(copy, a.ptr, a.len);
        memcpy(copy, b.ptr, cut);
        if (memcmp(copy, a.ptr, a.len) != 0) assert_false(accepts(copy, a.len));
    }
    free(copy);
    ds4_text_free(&a);
    ds4_text_free(&b);
}

/* ---- identity, poison, two processes --------------------------------------------------------------------------- */

/* Makes a file's digest right again after its header was changed: an entry from another world. */
static void reseal(struct ds4_text *bytes)
{
    uint8_t digest[16];
    struct buf front = {0};
    uint64_t n = ENTRY_HEADER_BYTES + 16ull * load_u32(bytes->ptr + 124) + 4ull * load_u32(bytes->ptr + 88);
    if (n > bytes->len) return;
    buf_put(&front, bytes->ptr, 128);
    buf_put(&front, bytes->ptr + ENTRY_HEADER_BYTES, (size_t)n - ENTRY_HEADER_BYTES);
    hash_bytes(front.text.ptr, front.text.len, digest);
    memcpy(bytes->ptr + 128, digest, 16);
    buf_deinit(&front);
}

TEST(an_entry_with_another_identity_or_shape_is_not_used)
{
    const char *dir = in_base("odd");
    static const size_t places[] = {4, 24, 31, 39, 40, 55, 56, 57, 63, 88, 89, 96, 97, 104, 105, 120, 121, 122, 124,
                                    125};
    uint32_t n_refused = 0;
    for (size_t i = 0; i < 16 + sizeof places / sizeof places[0]; i++) {
        struct nth f = {.dir = dir, .suffix = ".tip"};
        struct ds4_text bytes = {0};
        struct ds4_error error = {0};
        fake_store_clear(dir);
        struct ds4_store *store = fake_store_open(engine, dir, 0);
        (void)visit(store, 1, 300, true);
        ds4_store_close(store);
        assert_ok(file_list_dir(dir, find_nth, &f, &error), error);
        assert_ok(file_read_all(f.path, 1 << 20, &bytes, &error), error);
        bytes.ptr[i < 16 ? 8 + i : places[i - 16]] ^= 1;
        reseal(&bytes);
        int fd = open(f.path, O_WRONLY | O_TRUNC);
        assert_true(fd >= 0 && write(fd, bytes.ptr, bytes.len) == (ssize_t)bytes.len);
        (void)close(fd);
        ds4_text_free(&bytes);
        store = fake_store_open(engine, dir, 0);
        size_t got = visit(store, 1, 300, false);
        if (got != 0) fail_msg("variant %zu served %zu tokens", i, got);
        n_refused++;
        ds4_store_close(store);
        if (i < 16) assert_int_equal(access(f.path, F_OK), 0); /* perhaps good for another model: kept */
    }
    print_message("%u differences refused\n", n_refused);
}

TEST(an_entry_after_which_nothing_works_is_tried_once_and_set_aside)
{
    const char *dir = in_base("poison");
    fake_store_clear(dir);
    struct ds4_store *store = fake_store_open(engine, dir, 0);
    (void)visit(store, 1, 300, true);
    ds4_store_close(store);
    uint64_t restores = fake_engine_stats()->n_restores;
    fake_engine_fail_after_restore(true); /* sound, restored, and then the pass fails */
    store = fake_store_open(engine, dir, 0);
    assert_int_equal(visit(store, 1, 330, false), 0); /* computed without it, and right */
    assert_int_equal(fake_engine_stats()->n_restores, restores + 1);
    assert_int_equal(fake_store_count(dir, "bad-"), 1);
    assert_int_equal(visit(store, 1, 330, false), 0);
    assert_int_equal(fake_engine_stats()->n_restores, restores + 1); /* no second try */
    ds4_store_close(store);
    store = fake_store_open(engine, dir, 0);
    assert_int_equal(visit(store, 1, 330, false), 0);
    assert_int_equal(fake_engine_stats()->n_restores, restores + 1); /* nor after a restart */
    fake_engine_fail_after_restore(false);
    (void)visit(store, 1, 300, true);
    ds4_store_flush(store);
    assert_int_equal(visit(store, 1, 330, false), 300);
    /* A device that fails with and without the entry does not cost the entry. */
    ds4_store_close(store);
    struct ds4_engine *failing = fake_store_engine("{\"name\": \"first\", \"fail_prefill\": \"!\", \"sessions\": 8, "
                                                   "\"rewind\": 64, \"chunk\": 64, \"ctx\": 65536}");
    struct ds4_session *session = NULL;
    struct ds4_error error = {0};
    int32_t ids[N_IDS];
    fake_store_tokens(1, 330, TRUNK, ids);
    ids[320] = '!';
    store = fake_store_open(failing, dir, 0);
    assert_ok(ds4_session_create(failing, &session, &error), error);
    assert_status(ds4_store_sync(store, session, ids, 330, NULL, NULL, NULL, &error), DS4_ERR_DEVICE, error);
    ds4_session_destroy(session);
    ds4_store_close(store);
    ds4_engine_close(failing);
    assert_int_equal(fake_store_count(dir, "bad-"), 1);
}

TEST(two_processes_on_one_directory_serve_nothing_wrong_and_do_not_wait_for_each_other)
{
    const char *dir = in_base("two");
    uint32_t n_actions = is_long ? 10000 : 150;
    pid_t children[2];
    fake_store_clear(dir);
    for (uint32_t which = 0; which < 2; which++) {
        children[which] = fork();
        assert_true(children[which] >= 0);
        if (children[which]) continue;
        struct rng mine = {1000 + which};
        struct ds4_store *store = NULL;
        for (uint32_t i = 0; i < n_actions; i++) {
            uint64_t r = rng_next(&mine);
            if (!store) store = fake_store_open(engine, dir, 3 * BUDGET);
            (void)visit(store, (uint32_t)(r % 12), 100 + r / 16 % 200, r >> 20 & 1);
            if (r >> 21 & 1) ds4_store_flush(store);
            if ((r >> 22 & 15) == 0) {
                ds4_store_close(store);
                store = NULL;
            }
        }
        ds4_store_close(store);
        _exit(0); /* a failed assertion aborts instead */
    }
    for (int which = 0; which < 2; which++) {
        int status;
        assert_int_equal(waitpid(children[which], &status, 0), children[which]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    print_message("2 x %u actions\n", n_actions);
}

int main(int argc, char **argv)
{
    is_long = argc > 1 && strcmp(argv[1], "long") == 0;
    if (argc > 2) cmocka_set_test_filter(argv[2]);
    const struct CMUnitTest tests[] = {
        T(a_kill_at_any_file_operation_leaves_a_store_that_serves_nothing_wrong),
        T(a_power_cut_that_drops_reorders_and_tears_writes_leaves_nothing_wrong_to_serve),
        T(every_flipped_bit_of_an_entry_is_noticed),
        T(flips_anywhere_in_a_large_entry_are_noticed),
        T(every_other_length_of_an_entry_is_refused),
        T(blocks_exchanged_within_an_entry_or_between_entries_are_refused),
        T(an_entry_with_another_identity_or_shape_is_not_used),
        T(an_entry_after_which_nothing_works_is_tried_once_and_set_aside),
        T(two_processes_on_one_directory_serve_nothing_wrong_and_do_not_wait_for_each_other),
    };
    return cmocka_run_group_tests_name("crashes of the store", tests, set_up, tear_down);
}
