/* save.c - what of a session goes to disk, and when: new spans always, tips within the bound on written bytes.
 * See ds4.h, store.h. */
#include "store/store.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"

uint64_t store_row_bytes(const struct ds4_store *s, const struct index_item *item)
{
    if (item->kind == ENTRY_SEGMENT) return item->bytes;
    return item->n_tokens % s->layout->span_tokens * s->layout->span_bytes / s->layout->span_tokens;
}

bool store_queue_file(struct ds4_store *s, struct ds4_text *bytes, const struct index_item *item,
                      const struct entry_key *keep)
{
    struct writer_job *job = mem_zalloc(1, sizeof *job);
    struct index_item record = *item;
    record.bytes = bytes->len;
    record.pending = true;
    record.row_bytes = store_row_bytes(s, &record);
    if (!job || !store_make_room(s, record.bytes, keep) || index_add(&s->index, &record) != DS4_OK) {
        mem_free(job);
        ds4_text_free(bytes);
        return false;
    }
    job->bytes = *bytes;
    job->n_bytes = bytes->len;
    *bytes = (struct ds4_text){0};
    job->key = record.key;
    store_path(s, record.kind, &record.key, "", job->path);
    (void)snprintf(job->temporary, sizeof job->temporary, "%s/.tmp-%ld-%llu", s->dir, (long)getpid(),
                   (unsigned long long)s->n_temporary++);
    writer_push(s->writer, job);
    if (record.kind == ENTRY_TIP) index_supersede(&s->index, &record.key);
    s->n_segments_since_tip = record.kind == ENTRY_TIP ? 0 : s->n_segments_since_tip + 1;
    return true;
}

/* Hands one entry to the writer. pieces are copied. False when there is no room or no memory. */
static bool queue_entry(struct ds4_store *s, struct entry *e, const int32_t *ids, const struct ds4_span *pieces,
                        size_t n_pieces, const struct index_item *item, const struct entry_key *keep)
{
    struct buf bytes = {0};
    entry_write(e, ids, pieces, n_pieces, &bytes);
    for (size_t i = 0; i < n_pieces; i++) buf_put_span(&bytes, pieces[i]);
    if (bytes.failed) {
        buf_deinit(&bytes);
        return false;
    }
    struct index_item record = *item;
    record.created = record.last_use = e->created;
    return store_queue_file(s, &bytes.text, &record, keep);
}

bool store_queue_is_full(const struct ds4_store *s)
{
    return writer_queued_bytes(s->writer) > s->options.queue_bytes;
}

/* Whether a full queue is waited for. A server has others to serve meanwhile. */
static bool may_wait(const struct ds4_store *s, enum ds4_save_reason reason)
{
    if (reason == DS4_SAVE_EVICT) return !s->options.never_wait;
    return reason == DS4_SAVE_SHUTDOWN || reason == DS4_SAVE_USER;
}

static bool bring_span(struct ds4_store *s, const struct ds4_session *session, size_t i, uint8_t *rows)
{
    struct ds4_error error = {0};
    if (ds4_session_span_save(session, i, rows, &error) == DS4_OK) return true;
    store_warn(s, "rows of a session cannot be had", &error);
    return false;
}

static bool queue_span(struct ds4_store *s, const struct ds4_session *session, size_t i, struct entry *e,
                       const int32_t *ids, const struct index_item *item, const struct entry_key *keep)
{
    uint8_t *rows = mem_alloc(s->layout->span_bytes, 1);
    struct ds4_span piece = span_make((const char *)rows, s->layout->span_bytes);
    bool done = rows && bring_span(s, session, i, rows) && queue_entry(s, e, ids, &piece, 1, item, keep);
    mem_free(rows);
    return done;
}

/* Queues the full spans that are not stored yet. Sets *parent to the key of the last full span; false when one could
 * not be queued. */
static bool save_spans(struct ds4_store *s, const struct ds4_session *session, bool wait, struct entry_key *parent)
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
            if (store_queue_is_full(s)) {
                if (!wait) return false;
                writer_flush(s->writer);
            }
            struct index_item item = {.key = e.key, .parent = *parent, .kind = ENTRY_SEGMENT, .n_tokens = e.n_tokens};
            if (!queue_span(s, session, i, &e, ids + i * span, &item, parent)) return false;
        }
        *parent = e.key;
    }
    return true;
}

bool store_text_digest(const struct ds4_store *s, const int32_t *ids, size_t n, uint64_t *len, uint8_t digest[16])
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

static bool is_bounded(enum ds4_save_reason reason)
{
    return reason == DS4_SAVE_PREFIX || reason == DS4_SAVE_TURN || reason == DS4_SAVE_PERIODIC;
}

/* The bound on written bytes: a tip is worth its bytes only beside as many bytes of new rows. Periodic tips leave a
 * part of what is allowed to the ends of turns, which are more likely to be gone on from. */
static bool tip_allowed(const struct ds4_store *s, enum ds4_save_reason reason, const struct index_item *tip)
{
    if (!is_bounded(reason)) return true;
    double ratio = s->options.write_ratio_max;
    if (reason == DS4_SAVE_PERIODIC) ratio = 1 + (ratio - 1) * STORE_PERIODIC_SHARE;
    uint64_t rows = s->stats.row_bytes_written + store_row_bytes(s, tip), all = s->stats.bytes_written + tip->bytes;
    all += s->index.pending_bytes;
    rows += s->index.pending_row_bytes;
    return (double)all <= ratio * (double)rows + (double)s->options.write_free_bytes;
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
        index_touch(&s->index, known);
        return true;
    }
    uint8_t *tip = mem_alloc(s->layout->tip_bytes_max + s->layout->span_bytes, 1); /* and rows of a part of a span */
    size_t tip_len = 0;
    struct ds4_error error = {0};
    bool done = false;
    if (!tip || !store_text_digest(s, ids, n, &e.text_len, e.text_digest)) goto out;
    if (ds4_session_tip_save(session, tip, s->layout->tip_bytes_max, &tip_len, &error) != DS4_OK) {
        store_warn(s, "a tip cannot be made", &error);
        goto out;
    }
    size_t partial = e.n_ids ? s->layout->span_bytes : 0;
    struct index_item item = {.key = e.key, .parent = *parent, .kind = ENTRY_TIP, .n_tokens = n,
                              .text_len = e.text_len, .bytes = tip_len + partial, .reason = e.reason};
    memcpy(item.text_digest, e.text_digest, 16);
    e.payload_len = item.bytes;
    e.n_blocks = (uint32_t)((e.payload_len + ENTRY_BLOCK_BYTES - 1) / ENTRY_BLOCK_BYTES);
    item.bytes = entry_file_bytes(&e);
    if (!tip_allowed(s, reason, &item)) {
        s->stats.tips_skipped++;
        goto out;
    }
    e.tip_len = tip_len;
    uint8_t *rows = tip + tip_len;
    if (partial && !bring_span(s, session, n / span, rows)) goto out;
    struct ds4_span pieces[2] = {span_make((const char *)rows, partial), span_make((const char *)tip, tip_len)};
    done = queue_entry(s, &e, ids + n - e.n_ids, pieces, 2, &item, parent);
out:
    mem_free(tip);
    return done;
}

static bool save_all(struct ds4_store *s, const struct ds4_session *session, enum ds4_save_reason reason)
{
    struct entry_key parent;
    if (!save_spans(s, session, may_wait(s, reason), &parent) || reason == DS4_SAVE_ROWS) return false;
    if (reason == DS4_SAVE_PERIODIC && s->n_segments_since_tip < STORE_PERIOD_SEGMENTS) return false;
    return ds4_session_logits(session) && save_tip(s, session, reason, &parent);
}

void ds4_store_save(struct ds4_store *s, const struct ds4_session *session, enum ds4_save_reason reason, bool *saved)
{
    size_t n;
    (void)ds4_session_tokens(session, &n);
    if (saved) *saved = false;
    if (!s || s->read_only || n == 0 || (s->writer && writer_is_late(s->writer))) return;
    store_collect(s);
    if (reason == DS4_SAVE_PERIODIC && n % s->layout->span_tokens != 0) return;
    bool done = save_all(s, session, reason);
    if (!done && may_wait(s, reason)) { /* what is being written cannot make room */
        ds4_store_flush(s);
        done = save_all(s, session, reason);
    }
    if (saved) *saved = done;
}

void ds4_store_hurry(struct ds4_store *s, double seconds)
{
    if (s && s->writer) writer_hurry(s->writer, seconds);
}

void ds4_store_flush(struct ds4_store *s)
{
    if (!s || !s->writer) return;
    writer_flush(s->writer);
    store_collect(s);
}
