/* store.c - a directory of state: opening it, queueing what is new, keeping within the budget. See ds4.h, entry.h. */
#include "store/store.h"

#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#define SUFFIX_LEN 4u
#define WARN_EVERY_S 60u

static const char *const suffixes[] = {[ENTRY_SEGMENT] = ".seg", [ENTRY_TIP] = ".tip"};

void store_path(const struct ds4_store *s, enum entry_kind kind, const struct entry_key *key, const char *prefix,
                char out[WRITER_PATH_BYTES])
{
    char hex[33];
    for (int i = 0; i < 16; i++) (void)snprintf(hex + 2 * i, 3, "%02x", key->bytes[i]);
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

void store_quarantine(struct ds4_store *s, const struct index_item *item, const struct ds4_error *error)
{
    char path[WRITER_PATH_BYTES], bad[WRITER_PATH_BYTES];
    struct entry_key key = item->key;
    store_path(s, item->kind, &key, "", path);
    store_path(s, item->kind, &key, "bad-", bad);
    s->stats.n_quarantined++;
    store_warn(s, "an entry is set aside", error);
    if (!s->read_only) (void)!file_rename(path, bad, NULL);
    index_remove(&s->index, &key);
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

/* Reads the fixed part of one file and adds it to the index when it is ours. */
static void scan_entry(struct ds4_store *s, enum entry_kind kind, const struct entry_key *key)
{
    char path[WRITER_PATH_BYTES];
    uint8_t header[ENTRY_HEADER_BYTES];
    struct entry e = {0};
    struct file_id id = {0};
    struct ds4_error error = {0};
    int fd;
    store_path(s, kind, key, "", path);
    if (file_open(path, FILE_READ_NOFOLLOW, &fd, &error) != DS4_OK) return;
    enum ds4_status status = file_identity(fd, path, &id, &error);
    if (status == DS4_OK && id.size_bytes < sizeof header)
        status = err_set(&error, DS4_ERR_FORMAT, "%s is cut short", path);
    if (status == DS4_OK) status = file_read_at(fd, path, 0, header, sizeof header, &error);
    if (status == DS4_OK) status = entry_parse_header(header, id.size_bytes, &e, &error);
    if (status == DS4_OK && (e.kind != kind || !entry_key_eq(&e.key, key)))
        status = err_set(&error, DS4_ERR_FORMAT, "%s holds another entry than its name says", path);
    file_close(fd);
    struct index_item item = {.key = *key, .parent = e.parent, .kind = kind, .n_tokens = e.n_tokens,
                              .bytes = id.size_bytes, .text_len = e.text_len, .last_use = e.created};
    memcpy(item.text_digest, e.text_digest, 16);
    if (status == DS4_ERR_FORMAT) store_quarantine(s, &item, &error);
    else if (status != DS4_OK) store_warn(s, "an entry cannot be read", &error);
    else if (memcmp(e.identity, s->layout->digest, 16) != 0) s->foreign_bytes += id.size_bytes;
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
    index_count_tips(&s->index);
    TRY(replay_open(s->dir, s->read_only, &s->replay, error));
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

void ds4_store_close(struct ds4_store *s)
{
    if (!s) return;
    if (s->writer) writer_flush(s->writer);
    store_collect(s);
    writer_destroy(s->writer);
    replay_close(s->replay);
    index_deinit(&s->index);
    file_close(s->lock_fd);
    mem_free(s);
}

/* Bytes of an entry that are rows of new tokens: a segment's, or the part of a tip after the last full span. */
static uint64_t row_bytes(const struct ds4_store *s, const struct index_item *item)
{
    if (item->kind == ENTRY_SEGMENT) return item->bytes;
    return item->n_tokens % s->layout->span_tokens * s->layout->span_bytes / s->layout->span_tokens;
}

/* ---- budget --------------------------------------------------------------------------------------------------- */

void store_collect(struct ds4_store *s)
{
    for (struct writer_job *job; s->writer && (job = writer_collect(s->writer)); writer_job_free(job)) {
        struct index_item *item = index_find(&s->index, &job->key);
        if (item) item->pending = false;
        if (!job->failed) {
            s->stats.bytes_written += job->bytes.len;
            if (item) s->stats.row_bytes_written += row_bytes(s, item);
            continue;
        }
        index_remove(&s->index, &job->key);
        store_warn(s, "a save failed", &job->error);
    }
}

/* Removes entries until `extra` more bytes fit. keep: a prefix that must stay. */
static bool make_room(struct ds4_store *s, uint64_t extra, const struct entry_key *keep)
{
    uint64_t now = clock_unix_s();
    while (s->index.bytes + s->foreign_bytes + extra > s->options.budget_bytes) {
        if (!index_choose_victim(&s->index, now, STORE_GRACE_S, keep) &&
            !index_choose_victim(&s->index, now, 0, keep))
            return false;
        for (size_t i = 0; i < s->index.cap; i++) {
            struct index_item *item = &s->index.items[i];
            if (!item->bytes || !item->doomed) continue;
            char path[WRITER_PATH_BYTES];
            struct entry_key key = item->key;
            store_path(s, item->kind, &key, "", path);
            (void)!file_unlink(path, NULL);
            index_remove(&s->index, &key);
            s->stats.n_evicted++;
            i = SIZE_MAX; /* the table closed a gap: look from the start */
        }
    }
    return true;
}

/* ---- saving --------------------------------------------------------------------------------------------------- */

/* Hands one entry to the writer. pieces are copied. False when there is no room or no memory. */
static bool queue_entry(struct ds4_store *s, struct entry *e, const int32_t *ids, const struct ds4_span *pieces,
                        size_t n_pieces, const struct index_item *item, const struct entry_key *keep)
{
    struct writer_job *job = mem_zalloc(1, sizeof *job);
    struct buf bytes = {0};
    if (!job) return false;
    entry_write(e, ids, pieces, n_pieces, &bytes);
    for (size_t i = 0; i < n_pieces; i++) buf_put_span(&bytes, pieces[i]);
    struct index_item record = *item;
    record.bytes = bytes.text.len;
    record.pending = true;
    record.last_use = clock_unix_s();
    if (bytes.failed || !make_room(s, record.bytes, keep) || index_add(&s->index, &record) != DS4_OK) {
        buf_deinit(&bytes);
        mem_free(job);
        return false;
    }
    job->bytes = bytes.text;
    job->key = e->key;
    store_path(s, e->kind, &e->key, "", job->path);
    (void)snprintf(job->temporary, sizeof job->temporary, "%s/.tmp-%ld-%llu", s->dir, (long)getpid(),
                   (unsigned long long)s->n_temporary++);
    writer_push(s->writer, job);
    return true;
}

static bool queue_is_full(const struct ds4_store *s)
{
    return writer_queued_bytes(s->writer) > s->options.queue_bytes;
}

/* Queues the full spans that are not stored yet. Sets *parent to the key of the last full span; false when one could
 * not be queued. */
static bool save_spans(struct ds4_store *s, const struct ds4_session *session, bool may_wait, struct entry_key *parent)
{
    size_t n, span = s->layout->span_tokens;
    const int32_t *ids = ds4_session_tokens(session, &n);
    *parent = s->root;
    for (size_t i = 0; i < n / span; i++) {
        struct entry e = {.kind = ENTRY_SEGMENT, .parent = *parent, .n_tokens = (i + 1) * span, .n_ids = (uint32_t)span,
                          .created = clock_unix_s()};
        e.key = entry_next(parent, ids + i * span, span);
        memcpy(e.identity, s->layout->digest, 16);
        struct index_item *known = index_find(&s->index, &e.key);
        if (known) {
            known->last_use = e.created;
        } else {
            if (queue_is_full(s)) {
                if (!may_wait) return false;
                writer_flush(s->writer);
            }
            struct index_item item = {.key = e.key, .parent = *parent, .kind = ENTRY_SEGMENT, .n_tokens = e.n_tokens};
            struct ds4_span rows = span_make((const char *)ds4_session_span(session, i), s->layout->span_bytes);
            if (!queue_entry(s, &e, ids + i * span, &rows, 1, &item, parent)) return false;
        }
        *parent = e.key;
    }
    return true;
}

static bool text_digest(const struct ds4_store *s, const int32_t *ids, size_t n, uint64_t *len, uint8_t digest[16])
{
    struct hash *hash = hash_create();
    if (!hash) return false;
    *len = 0;
    for (size_t i = 0; i < n; i++) {
        struct ds4_span bytes = ds4_token_bytes(s->engine, ids[i]);
        hash_update(hash, bytes.ptr, bytes.len);
        *len += bytes.len;
    }
    hash_digest(hash, digest);
    hash_destroy(hash);
    return true;
}

/* The bound on written bytes: a tip is worth its bytes only beside as many bytes of new rows. */
static bool tip_allowed(const struct ds4_store *s, enum ds4_save_reason reason, const struct index_item *tip)
{
    if (reason != DS4_SAVE_PREFIX && reason != DS4_SAVE_TURN) return true;
    uint64_t rows = s->stats.row_bytes_written + row_bytes(s, tip), all = s->stats.bytes_written + tip->bytes;
    for (size_t i = 0; i < s->index.cap; i++) {
        const struct index_item *item = &s->index.items[i];
        if (!item->bytes || !item->pending) continue;
        all += item->bytes;
        rows += row_bytes(s, item);
    }
    return (double)all <= s->options.write_ratio_max * (double)rows;
}

static bool save_tip(struct ds4_store *s, const struct ds4_session *session, enum ds4_save_reason reason,
                     const struct entry_key *parent)
{
    size_t n, span = s->layout->span_tokens;
    const int32_t *ids = ds4_session_tokens(session, &n);
    struct entry e = {.kind = ENTRY_TIP, .parent = *parent, .n_tokens = n, .n_ids = (uint32_t)(n % span),
                      .reason = (uint32_t)reason, .created = clock_unix_s()};
    e.key = entry_tip_key(parent, ids + n - e.n_ids, e.n_ids);
    memcpy(e.identity, s->layout->digest, 16);
    struct index_item *known = index_find(&s->index, &e.key);
    if (known) {
        known->last_use = e.created;
        return true;
    }
    uint8_t *tip = mem_alloc(s->layout->tip_bytes_max, 1);
    size_t tip_len = 0;
    struct ds4_error error = {0};
    bool done = false;
    if (!tip || !text_digest(s, ids, n, &e.text_len, e.text_digest)) goto out;
    if (ds4_session_tip_save(session, tip, s->layout->tip_bytes_max, &tip_len, &error) != DS4_OK) {
        store_warn(s, "a tip cannot be made", &error);
        goto out;
    }
    size_t partial = e.n_ids ? s->layout->span_bytes : 0;
    struct index_item item = {.key = e.key, .parent = *parent, .kind = ENTRY_TIP, .n_tokens = n,
                              .text_len = e.text_len, .bytes = tip_len + partial};
    memcpy(item.text_digest, e.text_digest, 16);
    if (!tip_allowed(s, reason, &item)) {
        s->stats.tips_skipped++;
        goto out;
    }
    e.tip_len = tip_len;
    struct ds4_span pieces[2] = {span_make((const char *)ds4_session_span(session, n / span), partial),
                                 span_make((const char *)tip, tip_len)};
    done = queue_entry(s, &e, ids + n - e.n_ids, pieces, 2, &item, parent);
out:
    mem_free(tip);
    return done;
}

void ds4_store_save(struct ds4_store *s, const struct ds4_session *session, enum ds4_save_reason reason, bool *saved)
{
    size_t n;
    (void)ds4_session_tokens(session, &n);
    if (saved) *saved = false;
    if (!s || s->read_only || n == 0) return;
    store_collect(s);
    struct entry_key parent;
    bool may_wait = reason != DS4_SAVE_PREFIX && reason != DS4_SAVE_TURN;
    if (!save_spans(s, session, may_wait, &parent)) return;
    bool done = ds4_session_logits(session) && save_tip(s, session, reason, &parent);
    if (saved) *saved = done;
}

/* Spans only: called while a long prompt is being computed. */
void store_save_rows(struct ds4_store *s, const struct ds4_session *session)
{
    struct entry_key parent;
    if (!s || s->read_only) return;
    store_collect(s);
    (void)save_spans(s, session, false, &parent);
}

void ds4_store_flush(struct ds4_store *s)
{
    if (!s || !s->writer) return;
    writer_flush(s->writer);
    store_collect(s);
}

/* ---- small things --------------------------------------------------------------------------------------------- */

void ds4_store_replay_put(struct ds4_store *s, struct ds4_span call_id, struct ds4_span sampled)
{
    struct ds4_error error = {0};
    if (s && replay_put(s->replay, call_id, sampled, &error) != DS4_OK)
        store_warn(s, "a tool call is not kept", &error);
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
    out->bytes = s->index.bytes + s->foreign_bytes;
    out->budget_bytes = s->options.budget_bytes;
    out->read_only = s->read_only;
}
