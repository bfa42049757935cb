/* store.c - a directory of state: opening it, queueing what is new, keeping within the budget. See ds4.h, entry.h. */
#include "store/store.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#define SUFFIX_LEN 4u
#define WARN_EVERY_S 60u
#define BAD "bad-" /* before the name of a damaged file */
#define CANNOT_REMOVE "an entry cannot be removed"
#define GIVE_BACK_BYTES (1u << 20) /* of a queue that has drained */
#define CALL_NOT_KEPT "a tool call is not kept"

static const char *const suffixes[] = {[ENTRY_SEGMENT] = ".seg", [ENTRY_TIP] = ".tip"};

void store_key_text(const struct entry_key *key, char out[DS4_STORE_KEY_TEXT])
{
    for (int i = 0; i < 16; i++) (void)snprintf(out + 2 * i, 3, "%02x", key->bytes[i]);
}

void store_path(const struct ds4_store *s, enum entry_kind kind, const struct entry_key *key, const char *prefix,
                char out[WRITER_PATH_BYTES])
{
    char hex[DS4_STORE_KEY_TEXT];
    store_key_text(key, hex);
    (void)snprintf(out, WRITER_PATH_BYTES, "%s/%s%s%s", s->dir, prefix, hex, suffixes[kind]);
}

void store_warn(struct ds4_store *s, const char *what, const struct ds4_error *error)
{
    char line[700];
    uint64_t now = clock_unix_s();
    s->stats.n_errors++;
    if (!s->options.log || now < s->last_warning_s + WARN_EVERY_S) return;
    s->last_warning_s = now;
    (void)snprintf(line, sizeof line, "the store of conversations: %s: %s", what, error->message);
    s->options.log(s->options.log_user, DS4_LOG_WARN, line);
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

static bool from_hex(const char *text, uint8_t out[16])
{
    for (size_t i = 0; i < 32; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) return false;
        out[i / 2] = (uint8_t)(i % 2 ? out[i / 2] << 4 | digit : digit);
    }
    return true;
}

/* e: NULL for a damaged file. */
static void add_other(struct ds4_store *s, const char *name, uint64_t bytes, const struct entry *e)
{
    s->other_bytes += bytes;
    if (s->n_others == STORE_OTHERS_MAX) return;
    if (s->n_others == s->others_cap) {
        size_t cap = s->others_cap ? 2 * s->others_cap : 64;
        struct store_other *more = mem_realloc(s->others, cap, sizeof *more);
        if (!more) return;
        s->others = more;
        s->others_cap = cap;
    }
    struct store_other *other = &s->others[s->n_others++];
    *other = (struct store_other){.bytes = bytes, .bad = !e};
    (void)snprintf(other->name, sizeof other->name, "%s", name);
    if (!e) return;
    other->kind = e->kind;
    other->created = e->created;
    other->text_len = e->text_len;
    memcpy(other->text_digest, e->text_digest, sizeof other->text_digest);
}

void store_quarantine(struct ds4_store *s, const struct index_item *item, const struct ds4_error *error)
{
    char path[WRITER_PATH_BYTES], bad[WRITER_PATH_BYTES];
    struct entry_key key = item->key;
    store_path(s, item->kind, &key, "", path);
    store_path(s, item->kind, &key, BAD, bad);
    if (error->status == DS4_ERR_IO) { /* the disk may answer another day */
        store_warn(s, "an entry cannot be read", error);
        s->other_bytes += item->bytes;
        index_remove(&s->index, &key);
        return;
    }
    s->stats.n_quarantined++;
    store_warn(s, "an entry is set aside", error);
    if (!s->read_only && file_rename(path, bad, NULL) == DS4_OK)
        add_other(s, strrchr(bad, '/') + 1, item->bytes, NULL);
    index_remove(&s->index, &key);
}

static void add_damaged(struct ds4_store *s, const char *name)
{
    char path[WRITER_PATH_BYTES];
    struct file_id id;
    int fd;
    (void)snprintf(path, sizeof path, "%s/%s", s->dir, name);
    if (file_open(path, FILE_READ_OWN, &fd, NULL) != DS4_OK) return;
    if (file_identity(fd, path, &id, NULL) == DS4_OK) add_other(s, name, id.size_bytes, NULL);
    file_close(fd);
}

/* Reads the fixed part of one file and adds it to the index when it is ours. */
static void scan_entry(struct ds4_store *s, enum entry_kind kind, const struct entry_key *key)
{
    char path[WRITER_PATH_BYTES];
    uint8_t header[ENTRY_HEADER_BYTES];
    struct entry e = {0};
    struct file_id id = {0};
    struct ds4_error error = {0};
    uint64_t now = clock_unix_s(); /* the clock may have been set back */
    int fd;
    store_path(s, kind, key, "", path);
    if (file_open(path, FILE_READ_OWN, &fd, &error) != DS4_OK) return;
    enum ds4_status status = file_identity(fd, path, &id, &error);
    if (status == DS4_OK && id.size_bytes < sizeof header)
        status = err_set(&error, DS4_ERR_FORMAT, "%s is cut short", path);
    if (status == DS4_OK) status = file_read_at(fd, path, 0, header, sizeof header, &error);
    if (status == DS4_OK) status = entry_parse_header(header, id.size_bytes, &e, &error);
    if (status == DS4_OK && (e.kind != kind || !entry_key_eq(&e.key, key)))
        status = err_set(&error, DS4_ERR_FORMAT, "%s holds another entry than its name says", path);
    file_close(fd);
    struct index_item item = {.key = *key, .parent = e.parent, .kind = kind, .n_tokens = e.n_tokens,
                              .bytes = id.size_bytes, .text_len = e.text_len, .created = e.created,
                              .last_use = e.created < now ? e.created : now, .reason = e.reason};
    memcpy(item.text_digest, e.text_digest, 16);
    if (status == DS4_ERR_FORMAT) store_quarantine(s, &item, &error);
    else if (status != DS4_OK) store_warn(s, "an entry cannot be read", &error);
    else if (memcmp(e.identity, s->layout->digest, 16) != 0) add_other(s, strrchr(path, '/') + 1, id.size_bytes, &e);
    else if (!index_find(&s->index, key) && index_add(&s->index, &item) != DS4_OK)
        store_warn(s, "an entry is left out", &(struct ds4_error){.message = "out of memory"});
}

static void scan_name(void *user, const char *name)
{
    struct ds4_store *s = user;
    struct entry_key key;
    size_t len = strlen(name);
    if (strncmp(name, ".tmp-", 5) == 0 && !s->read_only) {
        struct buf path = {0};
        buf_printf(&path, "%s/%s", s->dir, name);
        buf_put_byte(&path, 0);
        if (!path.failed) (void)!file_unlink(path.text.ptr, NULL);
        buf_deinit(&path);
    }
    if (len == 4 + 32 + SUFFIX_LEN && strncmp(name, BAD, 4) == 0) add_damaged(s, name);
    if (len != 32 + SUFFIX_LEN || !from_hex(name, key.bytes)) return;
    for (int kind = 0; kind < 2; kind++)
        if (strcmp(name + 32, suffixes[kind]) == 0) scan_entry(s, (enum entry_kind)kind, &key);
}

static enum ds4_status settle_dir(struct ds4_store *s, struct ds4_error *error)
{
    const char *given = s->options.dir;
    const struct passwd *user = given ? NULL : getpwuid(getuid());
    if (!given && (!user || !user->pw_dir))
        return err_set(error, DS4_ERR_STATE, "no home directory to keep conversations in; name a directory");
    int n = given ? snprintf(s->dir, sizeof s->dir, "%s", given)
                  : snprintf(s->dir, sizeof s->dir, "%s/.cache/ds4/kv", user->pw_dir);
    if (n < 0 || (size_t)n >= sizeof s->dir) return err_set(error, DS4_ERR_LIMIT, "the store's path is too long");
    s->options.dir = s->dir;
    TRY(file_make_parents(s->dir, error));
    return file_private_dir(s->dir, error);
}

static enum ds4_status take_lock(struct ds4_store *s, struct ds4_error *error)
{
    char path[WRITER_PATH_BYTES];
    s->read_only = s->options.read_only;
    if (s->read_only) return DS4_OK;
    (void)snprintf(path, sizeof path, "%s/lock", s->dir);
    enum ds4_status status = file_lock(path, &s->lock_fd, error);
    s->read_only = s->lock_fd < 0; /* another process writes here, or the directory cannot be written */
    if (status == DS4_OK) return DS4_OK;
    store_warn(s, "opened for reading only", error);
    if (error) *error = (struct ds4_error){0};
    return DS4_OK;
}

static enum ds4_status open_parts(struct ds4_store *s, struct ds4_error *error)
{
    TRY(settle_dir(s, error));
    TRY(take_lock(s, error));
    TRY(file_list_dir(s->dir, scan_name, s, error));
    for (size_t i = 0; i < s->index.cap; i++)
        if (s->index.items[i].bytes && s->index.items[i].kind == ENTRY_TIP)
            index_supersede(&s->index, &s->index.items[i].key);
    usage_read(s);
    index_count_tips(&s->index);
    TRY(replay_open(s->dir, s->read_only, &s->replay, error));
    if (!s->read_only) (void)store_make_room(s, 0, NULL); /* the budget may be smaller than it was */
    return s->read_only ? DS4_OK : writer_create(s->dir, !s->options.no_sync, &s->writer, error);
}

enum ds4_status ds4_store_open(const struct ds4_engine *engine, const struct ds4_store_options *options,
                               struct ds4_store **out, struct ds4_error *error)
{
    struct ds4_store *s = mem_zalloc(1, sizeof *s);
    if (!s) return err_set(error, DS4_ERR_NOMEM, "no memory for a store");
    s->engine = engine;
    s->layout = ds4_state_layout(engine);
    s->options = *options;
    s->lock_fd = -1;
    if (!s->options.budget_bytes) s->options.budget_bytes = STORE_BUDGET_DEFAULT;
    if (!s->options.queue_bytes) s->options.queue_bytes = STORE_QUEUE_DEFAULT;
    if (!(s->options.write_ratio_max > 0)) s->options.write_ratio_max = STORE_RATIO_DEFAULT;
    s->root = entry_root(s->layout->digest);
    index_init(&s->index);
    enum ds4_status status = open_parts(s, error);
    if (status != DS4_OK) {
        ds4_store_close(s);
        return status;
    }
    *out = s;
    return DS4_OK;
}

/* What the file of tool calls lacks goes to the writer. */
static enum ds4_status write_replay(struct ds4_store *s, struct ds4_error *error)
{
    struct writer_job *job = mem_zalloc(1, sizeof *job);
    if (!job) return err_set(error, DS4_ERR_NOMEM, "no memory to keep a tool call");
    enum ds4_status status = replay_take(s->replay, job, error);
    if (status == DS4_OK && job->bytes.len) writer_push(s->writer, job);
    else writer_job_free(job);
    return status;
}

void ds4_store_close(struct ds4_store *s)
{
    if (!s) return;
    if (s->writer && s->replay) (void)!write_replay(s, NULL);
    if (s->writer) writer_flush(s->writer);
    store_collect(s);
    bool late = s->writer && writer_is_late(s->writer);
    writer_destroy(s->writer);
    if (!s->read_only && s->lock_fd >= 0 && !late) usage_write(s);
    mem_free(s->others);
    replay_close(s->replay);
    index_deinit(&s->index);
    file_close(s->lock_fd);
    mem_free(s);
}

/* ---- budget --------------------------------------------------------------------------------------------------- */

void store_collect(struct ds4_store *s)
{
    for (struct writer_job *job; s->writer && (job = writer_collect(s->writer)); writer_job_free(job)) {
        if (job->dropped) {
            if (job->kind == WRITER_FILE) index_remove(&s->index, &job->key);
            continue;
        }
        if (job->kind != WRITER_FILE) {
            if (job->failed && job->kind == WRITER_REMOVE) s->other_bytes += job->n_bytes; /* still there */
            if (job->failed && job->kind == WRITER_PATCH) replay_write_all(s->replay);
            if (job->failed) store_warn(s, job->kind == WRITER_REMOVE ? CANNOT_REMOVE : CALL_NOT_KEPT, &job->error);
            continue;
        }
        struct index_item *item = index_find(&s->index, &job->key);
        if (item) index_settle(&s->index, item);
        if (!job->failed) {
            s->stats.bytes_written += job->n_bytes;
            if (item) s->stats.row_bytes_written += item->row_bytes;
            continue;
        }
        index_remove(&s->index, &job->key);
        store_warn(s, "a save failed", &job->error);
    }
    /* A disk that stood still for a moment leaves a queue of many small pieces behind, which lie between others. */
    if (s->writer && writer_was_full(s->writer, GIVE_BACK_BYTES)) mem_give_back();
}

static void remove_file(struct ds4_store *s, const char *path, uint64_t bytes)
{
    struct ds4_error error = {0};
    struct writer_job *job = s->writer ? mem_zalloc(1, sizeof *job) : NULL;
    if (job) {
        job->kind = WRITER_REMOVE;
        job->n_bytes = bytes;
        (void)snprintf(job->path, sizeof job->path, "%s", path);
        writer_push(s->writer, job);
        return;
    }
    if (file_unlink(path, &error) == DS4_OK || errno == ENOENT) return;
    s->other_bytes += bytes; /* it still takes its place */
    store_warn(s, CANNOT_REMOVE, &error);
}

uint64_t store_remove_doomed(struct ds4_store *s)
{
    uint64_t freed = 0;
    for (struct index_item *item; (item = index_next_doomed(&s->index));) {
        char path[WRITER_PATH_BYTES];
        struct entry_key key = item->key;
        freed += item->bytes;
        store_path(s, item->kind, &key, "", path);
        remove_file(s, path, item->bytes);
        index_remove(&s->index, &key);
        s->stats.n_evicted++;
    }
    return freed;
}

void store_remove_other(struct ds4_store *s, size_t i)
{
    char path[WRITER_PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s/%s", s->dir, s->others[i].name);
    s->other_bytes -= s->others[i].bytes;
    remove_file(s, path, s->others[i].bytes);
    s->others[i] = s->others[--s->n_others];
}

/* The other that goes first: damaged ones, then the oldest. SIZE_MAX: none. */
static size_t worst_other(const struct ds4_store *s, bool bad_only)
{
    size_t worst = SIZE_MAX;
    for (size_t i = 0; i < s->n_others; i++) {
        const struct store_other *other = &s->others[i];
        if (other->bad) return i;
        if (!bad_only && (worst == SIZE_MAX || other->created < s->others[worst].created)) worst = i;
    }
    return worst;
}

/* Damaged files go first. Entries of other identities are left alone while we hold more than half of the budget;
 * then the one worth least of our own goes. */
bool store_make_room(struct ds4_store *s, uint64_t extra, const struct entry_key *keep)
{
    uint64_t now = clock_unix_s();
    while (s->index.bytes + s->other_bytes + extra > s->options.budget_bytes) {
        bool modest = s->index.bytes + extra <= s->options.budget_bytes / 2;
        size_t other = worst_other(s, !modest);
        if (other == SIZE_MAX && (index_choose_victim(&s->index, now, STORE_GRACE_S, keep) ||
                                  index_choose_victim(&s->index, now, 0, keep))) {
            (void)store_remove_doomed(s);
            continue;
        }
        if (other == SIZE_MAX) other = worst_other(s, false);
        if (other == SIZE_MAX) return false;
        store_remove_other(s, other);
    }
    return true;
}

/* ---- small things --------------------------------------------------------------------------------------------- */

void ds4_store_replay_put(struct ds4_store *s, struct ds4_span call_id, struct ds4_span sampled)
{
    struct ds4_error error = {0};
    if (!s) return;
    enum ds4_status status = replay_put(s->replay, call_id, sampled, &error);
    if (status == DS4_OK && s->writer && !store_queue_is_full(s)) status = write_replay(s, &error);
    if (status != DS4_OK) store_warn(s, CALL_NOT_KEPT, &error);
}

struct ds4_span ds4_store_replay_get(const struct ds4_store *s, struct ds4_span call_id)
{
    return s ? replay_get(s->replay, call_id) : (struct ds4_span){0};
}

void ds4_store_stats(const struct ds4_store *s, struct ds4_store_stats *out)
{
    *out = s->stats;
    out->n_tips = s->index.n_tips;
    out->n_segments = s->index.n - s->index.n_tips;
    out->bytes = s->index.bytes + s->other_bytes;
    out->n_others = s->n_others;
    out->other_bytes = s->other_bytes;
    out->queued_bytes = s->writer ? writer_queued_bytes(s->writer) : 0;
    out->budget_bytes = s->options.budget_bytes;
    out->read_only = s->read_only;
}
