/* store.c - figures of the store on state of Flash's size, without Flash: sessions are made up, their spans and tips
 * have the sizes that model/state_layout.h gives for 43 layers, their bytes are noise. `make measure` prints:
 *   bytes a token on disk; speed of saving and restoring beside that of the bare disk; bytes written in a conversation
 *   of 50 turns beside a design that rewrites everything; and what eviction by value keeps, beside least recently used.
 * Usage: store [DIR [TOKENS]]; DIR (default build) is on the disk to be measured. A measurement, not a test. */
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "model/state_layout.h"
#include "store/index.h"

#define POOL_BYTES (64u << 20)
#define N_VOCAB 129280u
#define WINDOW 128u
#define FULL_SNAPSHOT_BYTES 13800.0 /* a token in float32 rows, as engines that snapshot whole prefixes keep it */

static struct state_layout layout;
static struct ds4_state_layout public_layout = {.version = 1, .span_tokens = STATE_SPAN_TOKENS};
static struct ds4_model_info info = {.n_vocab = N_VOCAB, .chunk_tokens = 512, .n_sessions_max = 4};
static uint8_t *pool;

/* ---- a made-up engine ------------------------------------------------------------------------------------------- */

struct ds4_engine { int unused; };
struct ds4_session {
    struct ds4_tokens tokens;
    float logits;
};

static size_t tip_bytes(size_t n)
{
    size_t bytes = 40 + N_VOCAB * sizeof(float);
    for (uint32_t l = 0; l < layout.n_layers; l++) {
        const struct layer_state *state = &layout.layers[l];
        bytes += (n < WINDOW ? n : WINDOW) * state->ring.row_bytes;
        if (!state->ratio) continue;
        size_t window = n / state->ratio * state->ratio, from = state->ratio == 4 && window >= 4 ? window - 4 : window;
        bytes += 2 * (n - from) * (state->width + (state->ratio == 4 ? state->index_width : 0)) * sizeof(float);
    }
    return bytes;
}

const struct ds4_state_layout *ds4_state_layout(const struct ds4_engine *e) { (void)e; return &public_layout; }
const struct ds4_model_info *ds4_engine_info(const struct ds4_engine *e) { (void)e; return &info; }
struct ds4_span ds4_token_bytes(const struct ds4_engine *e, int32_t id)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    (void)e;
    return (struct ds4_span){letters + id % 20, 4};
}
const struct ds4_special_ids *ds4_special(const struct ds4_engine *e)
{
    static const struct ds4_special_ids none = {-1, -1, -1, -1, -1, -1, -1, -1, -1};
    (void)e;
    return &none;
}
enum ds4_status ds4_session_create(struct ds4_engine *e, struct ds4_session **out, struct ds4_error *error)
{
    (void)e, (void)error;
    *out = calloc(1, sizeof **out);
    return *out ? DS4_OK : DS4_ERR_NOMEM;
}
enum ds4_status ds4_session_fork(struct ds4_session *s, struct ds4_session **out, struct ds4_error *error)
{
    (void)s, (void)out, (void)error;
    return DS4_ERR_UNSUPPORTED;
}
void ds4_session_destroy(struct ds4_session *s)
{
    if (s) ds4_tokens_free(&s->tokens);
    free(s);
}
const int32_t *ds4_session_tokens(const struct ds4_session *s, size_t *n)
{
    *n = s->tokens.n;
    return s->tokens.ids;
}
size_t ds4_session_rows(const struct ds4_session *s) { return s->tokens.n; }
size_t ds4_session_rewind_min(const struct ds4_session *s) { return s->tokens.n > WINDOW ? s->tokens.n - WINDOW : 0; }
enum ds4_status ds4_session_rewind(struct ds4_session *s, size_t n, struct ds4_error *error)
{
    (void)error;
    s->tokens.n = n;
    return DS4_OK;
}
enum ds4_status ds4_session_sync(struct ds4_session *s, const int32_t *ids, size_t n, ds4_progress_fn progress,
                                 void *user, size_t *reused, struct ds4_error *error)
{
    (void)progress, (void)user, (void)error;
    if (reused) *reused = s->tokens.n < n ? s->tokens.n : n;
    s->tokens.n = 0;
    return ds4_tokens_append(&s->tokens, ids, n);
}
const float *ds4_session_logits(const struct ds4_session *s) { return &s->logits; }
size_t ds4_session_spans(const struct ds4_session *s)
{
    return (s->tokens.n + STATE_SPAN_TOKENS - 1) / STATE_SPAN_TOKENS;
}
enum ds4_status ds4_session_span_save(const struct ds4_session *s, size_t i, uint8_t *buf, struct ds4_error *error)
{
    (void)s, (void)error;
    memcpy(buf, pool + i * 53248 % (POOL_BYTES - (1u << 21)), public_layout.span_bytes);
    return DS4_OK;
}
bool ds4_session_span_is_shared(const struct ds4_session *a, const struct ds4_session *b, size_t i)
{
    (void)i;
    return a == b;
}
enum ds4_status ds4_session_tip_save(const struct ds4_session *s, uint8_t *buf, size_t cap, size_t *len,
                                     struct ds4_error *error)
{
    (void)cap, (void)error;
    *len = tip_bytes(s->tokens.n);
    memcpy(buf, pool, *len);
    return DS4_OK;
}
enum ds4_status ds4_session_restore_from(struct ds4_session *s, const int32_t *ids, size_t n, ds4_span_reader read,
                                         void *user, const uint8_t *tip, size_t tip_len, struct ds4_error *error)
{
    uint8_t *bounce = malloc(public_layout.span_bytes), *rows = malloc(public_layout.span_bytes);
    enum ds4_status status = bounce && rows && tip_len && tip ? DS4_OK : DS4_ERR_NOMEM;
    for (size_t i = 0; i * STATE_SPAN_TOKENS < n && status == DS4_OK; i++) {
        status = read(user, i, bounce, error);
        memcpy(rows, bounce, public_layout.span_bytes);
    }
    free(bounce);
    free(rows);
    s->tokens.n = 0;
    return status == DS4_OK ? ds4_tokens_append(&s->tokens, ids, n) : status;
}

static void make_flash(void)
{
    static struct hparams h = {.n_layers = 43, .n_vocab = N_VOCAB, .n_embd = 4096, .head_dim = 512, .n_rope = 64,
                               .window = WINDOW, .index_dim = 128, .n_hc = 4};
    struct rng rng = {1};
    for (uint32_t l = 0; l < h.n_layers; l++) h.ratio[l] = l < 2 ? 0 : l % 2 ? 128 : 4;
    state_layout_make(&h, false, OP_ROW_PACKED, info.chunk_tokens, &layout);
    public_layout.span_bytes = (size_t)layout.span_bytes;
    public_layout.tip_bytes_max = tip_bytes(WINDOW + 127);
    pool = malloc(POOL_BYTES);
    if (!pool) abort();
    for (size_t i = 0; i < POOL_BYTES; i += 8) {
        uint64_t x = rng_next(&rng);
        memcpy(pool + i, &x, 8);
    }
}

/* ---- the disk --------------------------------------------------------------------------------------------------- */

static char dir[256];

static struct ds4_store *open_store(bool no_sync)
{
    struct ds4_store_options options = {.dir = dir, .budget_bytes = 64ull << 30, .no_sync = no_sync};
    struct ds4_store *store = NULL;
    struct ds4_error error = {0};
    if (ds4_store_open(NULL, &options, &store, &error) == DS4_OK) return store;
    (void)fprintf(stderr, "%s\n", error.message);
    abort();
}

static void each_file(void (*fn)(void *, const char *)) { (void)!file_list_dir(dir, fn, NULL, NULL); }
static void remove_file(void *user, const char *name)
{
    char path[600];
    (void)user;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    (void)unlink(path);
}
static void forget_file(void *user, const char *name)
{
    char path[600];
    (void)user;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return;
    (void)fdatasync(fd);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    (void)close(fd);
}

static void raw_disk(uint64_t bytes, double *write_s, double *read_s)
{
    char path[300];
    (void)snprintf(path, sizeof path, "%s/raw", dir);
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
    if (fd < 0) abort();
    uint64_t start = clock_ns();
    for (uint64_t at = 0; at < bytes; at += 1u << 20)
        if (pwrite(fd, pool + (at >> 1) % (POOL_BYTES / 2), 1u << 20, (off_t)at) < 0) abort();
    (void)fdatasync(fd);
    *write_s = clock_seconds_since(start);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    start = clock_ns();
    uint8_t *block = malloc(1u << 20);
    for (uint64_t at = 0; block && at < bytes; at += 1u << 20)
        if (pread(fd, block, 1u << 20, (off_t)at) < 0) abort();
    *read_s = clock_seconds_since(start);
    free(block);
    (void)close(fd);
    (void)unlink(path);
}

static int32_t *make_tokens(size_t n)
{
    struct rng rng = {7};
    int32_t *ids = malloc(n * sizeof *ids);
    for (size_t i = 0; ids && i < n; i++) ids[i] = (int32_t)(rng_next(&rng) % N_VOCAB);
    return ids;
}

static atomic_ullong n_syncs;
static int counted_sync(int fd)
{
    atomic_fetch_add(&n_syncs, 1);
    return file_ops_system.fdatasync(fd);
}

static void save_and_restore(size_t n, const int32_t *ids, bool no_sync)
{
    struct ds4_store *store = open_store(no_sync);
    struct ds4_session *s = NULL;
    struct ds4_store_stats stats;
    struct ds4_store_report report;
    double write_s, read_s;
    if (ds4_session_create(NULL, &s, NULL) != DS4_OK || ds4_tokens_append(&s->tokens, ids, n) != DS4_OK) abort();
    struct file_ops ops = file_ops_system;
    ops.fdatasync = counted_sync;
    atomic_store(&n_syncs, 0);
    file_test_hook(&ops);
    uint64_t start = clock_ns();
    ds4_store_save(store, s, DS4_SAVE_USER, NULL);
    ds4_store_flush(store);
    double save_s = clock_seconds_since(start);
    file_test_hook(NULL);
    ds4_store_stats(store, &stats);
    ds4_session_destroy(s);
    ds4_store_close(store);
    each_file(forget_file);
    raw_disk(stats.bytes, &write_s, &read_s);
    start = clock_ns();
    store = open_store(no_sync);
    double open_s = clock_seconds_since(start);
    if (ds4_session_create(NULL, &s, NULL) != DS4_OK) abort();
    if (ds4_store_sync(store, s, ids, n, NULL, NULL, &report, NULL) != DS4_OK || report.n_reused != n) abort();
    double gb = (double)stats.bytes * 1e-9;
    (void)printf("%8zu  %-7s %8.0f  %9.2f %9.2f  %9.2f %9.2f  %8.2f %7.3f  %5llu\n", n, no_sync ? "no" : "yes",
                 (double)stats.bytes / (double)n, gb / save_s, gb / write_s, gb / report.restore_seconds, gb / read_s,
                 report.restore_seconds, open_s, (unsigned long long)atomic_load(&n_syncs));
    ds4_session_destroy(s);
    ds4_store_close(store);
    each_file(remove_file);
}

static void fifty_turns(const int32_t *ids)
{
    struct ds4_store *store = open_store(true);
    struct ds4_session *s = NULL;
    struct ds4_store_stats stats;
    double full = 0;
    size_t n = 8000, lost = 0, kept = 0, n_tips = 0;
    if (ds4_session_create(NULL, &s, NULL) != DS4_OK) abort();
    for (int turn = 0; turn < 50; turn++, n += 1000) {
        bool saved;
        if (ds4_store_sync(store, s, ids, n - 300, NULL, NULL, NULL, NULL) != DS4_OK) abort();
        for (size_t at = n - 300; at < n; at++) { /* the answer */
            if (ds4_tokens_append(&s->tokens, &ids[at], 1) != DS4_OK) abort();
            ds4_store_save(store, s, DS4_SAVE_PERIODIC, NULL);
        }
        ds4_store_save(store, s, DS4_SAVE_TURN, &saved);
        ds4_store_flush(store);
        if (saved) kept = n, n_tips++;
        lost += n - kept;
        full += FULL_SNAPSHOT_BYTES * (double)n;
    }
    ds4_store_save(store, s, DS4_SAVE_SHUTDOWN, NULL);
    ds4_store_flush(store);
    ds4_store_stats(store, &stats);
    (void)printf("\n50 turns of 1,000 tokens after a prompt of 7,000: %.0f MB written, %.2f times the new rows, %zu "
                 "turns with a tip,\nin the mean %.0f tokens to compute again after a kill; a full snapshot a turn "
                 "writes %.0f MB: %.1f times as much\n", (double)stats.bytes_written * 1e-6,
                 (double)stats.bytes_written / (double)stats.row_bytes_written, n_tips, (double)lost / 50, full * 1e-6,
                 full / (double)stats.bytes_written);
    ds4_session_destroy(s);
    ds4_store_close(store);
    each_file(remove_file);
}

/* ---- eviction --------------------------------------------------------------------------------------------------- */

/* Work of a coding agent: a few main conversations, worked on by turns; each turn may ask for a title (a prompt of its
 * own, never seen again) and start sub-agents (a shared system prompt, a dozen turns, then never seen again). */
#define N_MAIN 4
#define N_WORKERS 3
#define SYSTEM_TOKENS 4096u

struct chat { uint32_t id, n_tokens, left; };
struct sim {
    struct index x;
    uint64_t budget, now;
    bool lru;
    struct rng rng;
    uint64_t n_asked, n_computed, n_written_bytes;
};

static struct entry_key sim_key(uint32_t chat, uint32_t kind, uint32_t i)
{
    struct entry_key key = {{0}};
    uint32_t parts[4] = {(chat * 2654435761u) ^ (i * 40503u) ^ kind, chat, i, kind};
    memcpy(key.bytes, parts, sizeof parts);
    return key;
}
/* Segments of the system prompt belong to chat 0. */
static struct entry_key span_key(uint32_t chat, uint32_t i)
{
    return sim_key(i <= SYSTEM_TOKENS / STATE_SPAN_TOKENS ? 0 : chat, 1, i);
}

static bool lru_victim(struct index *x)
{
    struct index_item *oldest = NULL;
    for (size_t i = 0; i < x->cap; i++) {
        struct index_item *item = &x->items[i];
        if (item->bytes && item->kind == ENTRY_TIP && (!oldest || item->last_use < oldest->last_use)) oldest = item;
    }
    if (!oldest) return false;
    index_doom(x, oldest);
    for (struct index_item *s = index_find(x, &oldest->parent); s && s->n_tips <= 1; s = index_find(x, &s->parent))
        index_doom(x, s);
    return true;
}

static void sim_room(struct sim *sim, uint64_t extra, const struct entry_key *keep)
{
    while (sim->x.bytes + extra > sim->budget) {
        if (sim->lru ? !lru_victim(&sim->x) : !index_choose_victim(&sim->x, sim->now, 0, keep)) return;
        for (struct index_item *item; (item = index_next_doomed(&sim->x));) {
            struct entry_key key = item->key;
            index_remove(&sim->x, &key);
        }
    }
}

static void sim_add(struct sim *sim, struct index_item item)
{
    struct index_item *known = index_find(&sim->x, &item.key);
    if (known) {
        known->last_use = sim->now;
        index_touch(&sim->x, known);
        return;
    }
    sim_room(sim, item.bytes, &item.parent);
    item.last_use = sim->now;
    sim->n_written_bytes += item.bytes;
    if (index_add(&sim->x, &item) != DS4_OK) abort();
    if (item.kind == ENTRY_TIP && !sim->lru) index_supersede(&sim->x, &item.key);
}

/* One request: the longest tip of the chat that is still whole is used, the rest computed and saved. */
static void sim_turn(struct sim *sim, struct chat *chat, uint32_t grow)
{
    struct index_item *best = NULL;
    uint32_t whole = 0;
    while (whole < chat->n_tokens / STATE_SPAN_TOKENS) {
        struct entry_key key = span_key(chat->id, whole + 1);
        if (!index_find(&sim->x, &key)) break;
        whole++;
    }
    for (size_t i = 0; i < sim->x.cap; i++) {
        struct index_item *item = &sim->x.items[i];
        if (!item->bytes || item->kind != ENTRY_TIP || item->n_tokens > chat->n_tokens) continue;
        uint32_t owner;
        memcpy(&owner, item->key.bytes + 4, sizeof owner);
        if (owner != chat->id && owner != 0) continue;
        if (item->n_tokens / STATE_SPAN_TOKENS > whole) continue;
        if (!best || item->n_tokens > best->n_tokens) best = item;
    }
    uint32_t kept = best ? (uint32_t)best->n_tokens : 0;
    if (best) best->hits++, best->last_use = sim->now;
    chat->n_tokens += grow;
    sim->n_asked += chat->n_tokens;
    sim->n_computed += chat->n_tokens - kept;
    for (uint32_t i = 1; i <= chat->n_tokens / STATE_SPAN_TOKENS; i++) {
        struct index_item item = {.key = span_key(chat->id, i), .kind = ENTRY_SEGMENT,
                                  .bytes = public_layout.span_bytes, .n_tokens = (uint64_t)i * STATE_SPAN_TOKENS};
        if (i > 1) item.parent = span_key(chat->id, i - 1);
        sim_add(sim, item);
        if (i == SYSTEM_TOKENS / STATE_SPAN_TOKENS) { /* a stable prefix */
            struct index_item tip = {.key = sim_key(0, 2, i), .parent = item.key, .kind = ENTRY_TIP,
                                     .n_tokens = item.n_tokens, .bytes = tip_bytes(item.n_tokens)};
            sim_add(sim, tip);
        }
    }
    struct index_item tip = {.key = sim_key(chat->id, 2, chat->n_tokens), .kind = ENTRY_TIP,
                             .parent = span_key(chat->id, chat->n_tokens / STATE_SPAN_TOKENS),
                             .n_tokens = chat->n_tokens, .bytes = tip_bytes(chat->n_tokens)};
    sim_add(sim, tip);
}

static double simulate(uint64_t budget, bool lru, uint64_t seed)
{
    struct sim sim = {.budget = budget, .now = 1000000, .lru = lru, .rng = {seed}};
    struct chat mains[N_MAIN], workers[N_WORKERS] = {{0}};
    uint32_t next_id = 1;
    index_init(&sim.x);
    for (int i = 0; i < N_MAIN; i++) mains[i] = (struct chat){.id = next_id++, .n_tokens = SYSTEM_TOKENS};
    for (int step = 0; step < 400; step++) {
        uint64_t r = rng_next(&sim.rng);
        if (step % 100 == 0) sim.now += 8 * 3600; /* a night */
        struct chat *main = &mains[r % 16 < 10 ? (unsigned)step / 40 % N_MAIN : r % N_MAIN];
        if (main->n_tokens > 60000) *main = (struct chat){.id = next_id++, .n_tokens = SYSTEM_TOKENS};
        sim_turn(&sim, main, 300 + (uint32_t)(r >> 8) % 1500);
        if (r >> 32 & 1) {
            struct chat title = {.id = next_id++, .n_tokens = SYSTEM_TOKENS};
            sim_turn(&sim, &title, 500 + (uint32_t)(r >> 34) % 3000);
        }
        for (int w = 0; w < N_WORKERS; w++) {
            if (workers[w].left == 0 && rng_next(&sim.rng) % 4 == 0)
                workers[w] = (struct chat){.id = next_id++, .n_tokens = SYSTEM_TOKENS, .left = 12};
            if (workers[w].left == 0) continue;
            workers[w].left--;
            sim.now += 20;
            sim_turn(&sim, &workers[w], 400 + (uint32_t)(rng_next(&sim.rng) % 2000));
        }
        sim.now += 30 + r % 90;
    }
    index_deinit(&sim.x);
    return 100.0 * (double)sim.n_computed / (double)sim.n_asked;
}

static void eviction(void)
{
    static const uint64_t budgets_mb[] = {300, 500, 1000, 2000, 4000};
    (void)printf("\nEviction: 4 conversations, titles, sub-agents; prompt tokens computed, mean of 3 seeds\n"
                 "  budget   by value   least recently used   never stored\n");
    for (size_t i = 0; i < sizeof budgets_mb / sizeof budgets_mb[0]; i++) {
        double share[2] = {0};
        for (int lru = 0; lru < 2; lru++)
            for (uint64_t seed = 1; seed <= 3; seed++) share[lru] += simulate(budgets_mb[i] << 20, lru, seed) / 3;
        (void)printf("%5llu MB   %6.2f %%  %18.2f %%         100 %%\n", (unsigned long long)budgets_mb[i], share[0],
                     share[1]);
    }
}

int main(int argc, char **argv)
{
    struct rusage usage;
    size_t n_max = argc > 2 ? strtoull(argv[2], NULL, 10) : 100000;
    int32_t *ids = make_tokens(n_max > 100000 ? n_max : 100000);
    if (!ids) return 1;
    make_flash();
    (void)snprintf(dir, sizeof dir, "%s/measure-store-%d", argc > 1 ? argv[1] : "build", (int)getpid());
    size_t front = 144 + 16 * ((public_layout.span_bytes + (1u << 20) - 1) >> 20) + 4 * STATE_SPAN_TOKENS;
    (void)printf("Flash: a span of %u tokens has %zu bytes of rows, %.0f a token on disk; a tip %.1f to %.1f MB\n\n",
                 STATE_SPAN_TOKENS, public_layout.span_bytes,
                 (double)(public_layout.span_bytes + front) / STATE_SPAN_TOKENS, (double)tip_bytes(1024) * 1e-6,
                 (double)tip_bytes(1024 + 127) * 1e-6);
    (void)printf("  tokens  synced  bytes/token  save GB/s  disk  restore GB/s  disk  restore s  open s  syncs\n");
    for (size_t n = 32768; n <= n_max; n = n < 100000 && n_max >= 100000 ? 100000 : n * 10)
        for (int no_sync = 1; no_sync >= 0; no_sync--) save_and_restore(n, ids, no_sync);
    fifty_turns(ids);
    (void)getrusage(RUSAGE_SELF, &usage);
    (void)printf("most memory: %.0f MB, of which %u are the made-up state\n", (double)usage.ru_maxrss * 1e-3,
                 POOL_BYTES >> 20);
    eviction();
    (void)rmdir(dir);
    free(ids);
    free(pool);
    return 0;
}
