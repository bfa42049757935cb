/* lookup.c - finding and restoring what is stored: by token ids, and by rendered text. See ds4.h, store.h. */
#include "store/store.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#define READ_AHEAD 16u /* segments: 15 MB of Flash's rows */

/* Keys of the full spans at the front of a list of tokens. */
struct chain {
    struct entry_key *keys; /* keys[i]: prefix of i spans; keys[0] is the root */
    size_t n;               /* spans */
    size_t n_stored;        /* spans whose segment is on disk, from the front */
};

static enum ds4_status chain_make(const struct ds4_store *s, const int32_t *ids, size_t n_ids, struct chain *c,
                                  struct ds4_error *error)
{
    size_t span = s->layout->span_tokens;
    *c = (struct chain){.n = n_ids / span};
    c->keys = mem_alloc(c->n + 1, sizeof *c->keys);
    if (!c->keys) return err_set(error, DS4_ERR_NOMEM, "no memory to look up %zu tokens", n_ids);
    c->keys[0] = s->root;
    bool whole = true;
    for (size_t i = 0; i < c->n; i++) {
        c->keys[i + 1] = entry_next(&c->keys[i], ids + i * span, span);
        const struct index_item *item = index_find(&s->index, &c->keys[i + 1]);
        whole = whole && item && !item->pending;
        if (whole) c->n_stored = i + 1;
    }
    return DS4_OK;
}

/* ---- restoring ------------------------------------------------------------------------------------------------ */

struct span_source {
    struct ds4_store *store;
    const struct chain *chain;
    const uint8_t *partial;     /* rows after the last full span */
    struct entry_key culprit;   /* segment that could not be read */
    bool failed;
    size_t ahead;               /* segments that the system was told of */
};

/* The disk has the next segments under way while one is verified. */
static void read_ahead(struct span_source *from, size_t span_i)
{
    char path[WRITER_PATH_BYTES];
    size_t end = span_i + READ_AHEAD < from->chain->n_stored ? span_i + READ_AHEAD : from->chain->n_stored;
    if (from->ahead < span_i) from->ahead = span_i;
    for (; from->ahead < end; from->ahead++) {
        store_path(from->store, ENTRY_SEGMENT, &from->chain->keys[from->ahead + 1], "", path);
        file_will_need(path);
    }
}

static enum ds4_status read_span(void *user, size_t span_i, uint8_t *dest, struct ds4_error *error)
{
    struct span_source *from = user;
    struct ds4_store *s = from->store;
    if (span_i >= from->chain->n_stored) {
        memcpy(dest, from->partial, s->layout->span_bytes);
        return DS4_OK;
    }
    const struct entry_key *key = &from->chain->keys[span_i + 1];
    read_ahead(from, span_i);
    struct entry entry;
    struct ds4_text front;
    int fd;
    enum ds4_status status = store_read_front(s, ENTRY_SEGMENT, key, &entry, &front, &fd, error);
    if (status == DS4_OK) {
        if (entry.payload_len != s->layout->span_bytes)
            status = err_set(error, DS4_ERR_FORMAT, "a segment of %llu bytes", (unsigned long long)entry.payload_len);
        else status = store_read_payload(s, fd, &entry, &front, dest, error);
        ds4_text_free(&front);
        file_close(fd);
    }
    if (status != DS4_OK) {
        from->culprit = *key;
        from->failed = true;
    }
    return status;
}

static enum ds4_status restore_tip(struct ds4_store *s, struct ds4_session *session, const struct index_item *tip,
                                   const struct chain *chain, const int32_t *ids, struct span_source *from,
                                   struct ds4_error *error)
{
    struct entry entry;
    struct ds4_text front;
    int fd;
    TRY(store_read_front(s, ENTRY_TIP, &tip->key, &entry, &front, &fd, error));
    uint8_t *payload = mem_alloc((size_t)entry.payload_len, 1);
    size_t partial = entry.n_ids ? s->layout->span_bytes : 0;
    enum ds4_status status = DS4_OK;
    if (!payload) status = err_set(error, DS4_ERR_NOMEM, "no memory for a tip of %llu bytes",
                                   (unsigned long long)entry.payload_len);
    else if (entry.payload_len != entry.tip_len + partial || entry.n_tokens != tip->n_tokens)
        status = err_set(error, DS4_ERR_FORMAT, "a tip whose parts do not add up");
    else status = store_read_payload(s, fd, &entry, &front, payload, error);
    file_close(fd);
    ds4_text_free(&front);
    *from = (struct span_source){.store = s, .chain = chain, .partial = payload};
    if (status == DS4_OK) {
        struct chain full = *chain;
        full.n_stored = (size_t)tip->n_tokens / s->layout->span_tokens; /* what follows is the partial span */
        from->chain = &full;
        status = ds4_session_restore_from(session, ids, (size_t)tip->n_tokens, read_span, from, payload + partial,
                                          (size_t)entry.tip_len, error);
    }
    mem_free(payload);
    return status;
}

/* Rows without a tip: of a conversation whose tip is lost, or that a prompt leaves in its middle. */
static enum ds4_status restore_rows(struct ds4_store *s, struct ds4_session *session, const struct chain *chain,
                                    const int32_t *ids, struct span_source *from, struct ds4_error *error)
{
    *from = (struct span_source){.store = s, .chain = chain};
    return ds4_session_restore_from(session, ids, chain->n_stored * s->layout->span_tokens, read_span, from, NULL, 0,
                                    error);
}

/* Tokens of the list that need not be computed when rows of n are there and no tip. */
static size_t kept_by_rows(const struct ds4_store *s, size_t n)
{
    return s->layout->reach_tokens && n > s->layout->reach_tokens ? n - s->layout->reach_tokens : 0;
}

/* Tokens of the list that the session by itself spares computing. *same (optional): tokens whose rows it has. */
static size_t session_keeps(const struct ds4_store *s, const struct ds4_session *session, const int32_t *ids, size_t n,
                            size_t *same_rows)
{
    size_t held, same = 0, rows = ds4_session_rows(session);
    const int32_t *own = ds4_session_tokens(session, &held);
    while (same < rows && same < n && own[same] == ids[same]) same++;
    if (same_rows) *same_rows = same;
    if (same == rows) return held;
    return rows > held || same < ds4_session_rewind_min(session) ? kept_by_rows(s, same) : same;
}

/* Restores what spares most computing, if that is more than the session keeps: the longest tip, or rows alone.
 * Damaged entries are set aside and the next one tried. */
static void restore_best(struct ds4_store *s, struct ds4_session *session, const int32_t *ids, size_t n,
                         struct ds4_store_report *report, struct entry_key *used)
{
    for (int tries = 0; tries < STORE_RETRIES_MAX; tries++) {
        struct chain chain;
        struct ds4_error error = {0};
        if (chain_make(s, ids, n, &chain, &error) != DS4_OK) return;
        report->n_known = chain.n_stored * s->layout->span_tokens;
        struct index_item *tip = index_longest_tip(&s->index, chain.keys, chain.n_stored, s->layout->span_tokens,
                                                   ids, n);
        size_t own = session_keeps(s, session, ids, n, NULL), by_rows = kept_by_rows(s, report->n_known);
        if (tip && tip->n_tokens < by_rows) tip = NULL;
        if (tip ? tip->n_tokens <= own : by_rows <= own) {
            mem_free(chain.keys);
            return;
        }
        struct span_source from = {0};
        uint64_t start = clock_ns();
        enum ds4_status status = tip ? restore_tip(s, session, tip, &chain, ids, &from, &error)
                                     : restore_rows(s, session, &chain, ids, &from, &error);
        struct index_item *last = tip ? tip : index_find(&s->index, &chain.keys[chain.n_stored]);
        mem_free(chain.keys);
        if (status == DS4_OK) {
            *used = last->key;
            last->hits++;
            last->last_use = clock_unix_s();
            index_touch(&s->index, last);
            s->stats.n_hits++;
            s->stats.tokens_restored += tip ? tip->n_tokens : by_rows;
            report->source = DS4_STORE_DISK;
            report->restore_seconds = clock_seconds_since(start);
            return;
        }
        if (status == DS4_ERR_LIMIT || status == DS4_ERR_NOMEM || status == DS4_ERR_STATE) {
            store_warn(s, "state cannot be restored now", &error);
            return;
        }
        struct index_item *culprit = from.failed ? index_find(&s->index, &from.culprit) : last;
        if (culprit) store_quarantine(s, culprit, &error);
    }
}

/* ---- the public calls ----------------------------------------------------------------------------------------- */

struct shifted {
    ds4_progress_fn fn;
    void *user;
    uint64_t before, total;
};

static bool shifted_progress(void *user, const char *phase, uint64_t done, uint64_t total)
{
    const struct shifted *p = user;
    (void)total;
    return !p->fn || p->fn(p->user, phase, p->before + done, p->total);
}

struct prompt {
    const int32_t *ids;
    size_t n;
    ds4_progress_fn progress;
    void *user;
};

/* Computes what the session does not hold yet, saving on the way. */
static enum ds4_status compute_rest(struct ds4_store *s, struct ds4_session *session, const struct prompt *prompt,
                                    struct ds4_store_report *r, struct ds4_error *error)
{
    size_t n = prompt->n, first, same, kept = session_keeps(s, session, prompt->ids, n, &same);
    size_t chunk = ds4_engine_info(s->engine)->chunk_tokens;
    /* Of a prompt that is all kept the last token may be computed once more, for its logits. */
    struct shifted p = {.fn = prompt->progress, .user = prompt->user, .total = kept < n ? n - kept : 1};
    if (kept == 0) s->stats.n_misses++;
    r->n_reused = kept; /* also when the work is cancelled */
    for (size_t at = kept;;) {
        size_t end = (at / chunk + 1) * chunk; /* at the ends of spans, mostly: see DS4_SAVE_PERIODIC */
        if (end <= same) end = (same / chunk + 1) * chunk; /* before there is only the tail to compute */
        if (end > n) end = n;
        p.before = at - kept;
        TRY(ds4_session_sync(session, prompt->ids, end, shifted_progress, &p, &first, error));
        if (at == kept) r->n_reused = first;
        at = end;
        if (at == n) return DS4_OK;
        ds4_store_save(s, session, DS4_SAVE_PERIODIC, NULL);
    }
}

enum ds4_status ds4_store_sync(struct ds4_store *s, struct ds4_session *session, const int32_t *tokens, size_t n,
                               ds4_progress_fn progress, void *user, struct ds4_store_report *report,
                               struct ds4_error *error)
{
    struct ds4_store_report unused, *r = report ? report : &unused;
    *r = (struct ds4_store_report){.n_tokens = n};
    if (!s) {
        enum ds4_status plain = ds4_session_sync(session, tokens, n, progress, user, &r->n_reused, error);
        r->source = r->n_reused ? DS4_STORE_RAM : DS4_STORE_NONE;
        return plain;
    }
    store_collect(s);
    struct entry_key used;
    if (session_keeps(s, session, tokens, n, NULL) < n) restore_best(s, session, tokens, n, r, &used);
    struct prompt prompt = {tokens, n, progress, user};
    enum ds4_status status = compute_rest(s, session, &prompt, r, error);
    bool suspect = status != DS4_OK && status != DS4_ERR_CANCELLED && status != DS4_ERR_NOMEM;
    if (suspect && status != DS4_ERR_LIMIT && r->source == DS4_STORE_DISK) {
        /* The entry is sound, and yet nothing follows from it: once more without it. If that works it was to blame. */
        struct ds4_error cause = error ? *error : (struct ds4_error){0}, again = {0};
        *r = (struct ds4_store_report){.n_tokens = n};
        TRY(ds4_session_rewind(session, 0, NULL));
        status = compute_rest(s, session, &prompt, r, &again);
        struct index_item *culprit = index_find(&s->index, &used);
        if (status == DS4_OK && culprit) store_quarantine(s, culprit, &cause);
        if (error) *error = again;
    }
    if (r->source == DS4_STORE_NONE && r->n_reused) r->source = DS4_STORE_RAM;
    return status;
}

static int by_text_len(const void *a, const void *b)
{
    const struct index_item *const *x = a, *const *y = b;
    return (*x)->text_len < (*y)->text_len ? -1 : (*x)->text_len > (*y)->text_len;
}

bool store_is_whole(const struct ds4_store *s, const struct index_item *tip)
{
    uint64_t left = tip->n_tokens / s->layout->span_tokens - (tip->kind == ENTRY_SEGMENT);
    struct entry_key key = tip->parent;
    for (; left > 0; left--) {
        const struct index_item *segment = index_find(&s->index, &key);
        if (!segment || segment->pending) return false;
        key = segment->parent;
    }
    return !tip->pending && entry_key_eq(&key, &s->root);
}

/* Longest tip whose text is a prefix of text: one pass of hashing, looking up at the length of each tip. */
static struct index_item *best_text(const struct ds4_store *s, struct ds4_span text, struct index_item **tips, size_t n)
{
    struct index_item *best = NULL;
    struct hash *hash = hash_create();
    uint64_t at = 0;
    uint8_t digest[16];
    for (size_t i = 0; hash && i < n && tips[i]->text_len <= text.len; i++) {
        if (tips[i]->text_len > at || i == 0) {
            hash_update(hash, text.ptr + at, (size_t)(tips[i]->text_len - at));
            at = tips[i]->text_len;
            hash_digest(hash, digest);
        }
        if (memcmp(digest, tips[i]->text_digest, 16) == 0 && store_is_whole(s, tips[i])) best = tips[i];
    }
    hash_destroy(hash);
    return best;
}

enum ds4_status ds4_store_find_text(struct ds4_store *s, struct ds4_span text, struct ds4_tokens *tokens,
                                    size_t *text_used, struct ds4_error *error)
{
    *text_used = 0;
    if (!s || s->index.n_tips == 0) return DS4_OK;
    store_collect(s);
    struct index_item **tips = mem_alloc(s->index.n_tips, sizeof *tips);
    if (!tips) return err_set(error, DS4_ERR_NOMEM, "no memory to look up a text");
    size_t n = 0, before = tokens->n;
    for (size_t i = 0; i < s->index.cap; i++)
        if (s->index.items[i].bytes && s->index.items[i].kind == ENTRY_TIP) tips[n++] = &s->index.items[i];
    qsort(tips, n, sizeof(struct index_item *), by_text_len);
    struct index_item *best = best_text(s, text, tips, n);
    mem_free(tips);
    if (!best) return DS4_OK;
    struct ds4_error damaged = {0};
    enum ds4_status status = store_read_tokens(s, best, tokens, &damaged);
    if (status == DS4_OK) {
        *text_used = (size_t)best->text_len;
        return DS4_OK;
    }
    tokens->n = before;
    if (status == DS4_ERR_NOMEM) return err_set(error, status, "%s", damaged.message);
    store_quarantine(s, best, &damaged);
    return DS4_OK;
}
