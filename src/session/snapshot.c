/* snapshot.c - the tip of a session as bytes, and a whole session from tokens, spans and a tip.
 *
 * Tip, little-endian; each part follows the one before without padding:
 *   OFFSET  SIZE  DESCRIPTION
 *   0       4     magic "DS4T"
 *   4       4     version of the state layout
 *   8       16    digest of everything that makes state valid (model, quantisation, tokenizer, layout, numeric mode)
 *   24      8     number of tokens n
 *   32      4     flags: bit 0 logits present, bit 1 streams present (drafting)
 *   36      4     zero
 *   40      ...   per layer: raw rows of positions max(0, n - window) .. n - 1, ascending; then, if it compresses, for
 *                 each compressor (attention, then index) the k and then the g rows of the positions a next window
 *                 still needs: ratio 4: from 4 (n/4) - 4, ratio 128: from 128 (n/128), up to n - 1
 *   ...     4 n_vocab        logits, if flagged
 *   ...     4 n_hc n_embd    streams of the last token, if flagged
 * The draft block's row of position n - 1 is made when the token after it is known: zeros stand for it.
 * The caller keeps the bytes whole (checksums are the store's business); every length and field is checked here all
 * the same, before the session is touched: restore is all or nothing. */
#include "session/session.h"

#include "base/bytes.h"
#include "base/mem.h"

#define TIP_HEADER_BYTES 40u
#define TIP_MAGIC "DS4T"
enum { TIP_LOGITS = 1, TIP_STREAMS = 2 };

/* First position whose compressor slot is still needed after n tokens. */
static size_t first_slot(uint32_t ratio, size_t n)
{
    size_t window = n / ratio * ratio;
    return ratio == 4 && window >= 4 ? window - 4 : window;
}

/* One direction of travel between a tail and tip bytes. */
struct travel {
    uint8_t *tail;
    uint8_t *bytes;   /* NULL: only count */
    size_t at;
    bool save;
};

static void move_row(struct travel *t, uint64_t tail_offset, size_t n)
{
    if (t->bytes) {
        uint8_t *inside = t->tail + tail_offset, *outside = t->bytes + t->at;
        if (t->save) memcpy(outside, inside, n);
        else memcpy(inside, outside, n);
    }
    t->at += n;
}

static void move_slots(struct travel *t, uint64_t offset, uint32_t n_slots, uint32_t width, size_t from, size_t to)
{
    size_t row = (size_t)width * sizeof(float);
    for (int half = 0; half < 2; half++)
        for (size_t pos = from; pos < to; pos++)
            move_row(t, offset + ((uint64_t)half * n_slots + pos % n_slots) * row, row);
}

static void move_layers(struct travel *t, const struct session_host *host, size_t n)
{
    size_t from = n > host->h->window ? n - host->h->window : 0;
    for (uint32_t l = 0; l < host->layout->n_layers; l++) {
        const struct layer_state *state = &host->layout->layers[l];
        for (size_t pos = from; pos < n; pos++)
            move_row(t, state->ring.offset + (uint64_t)(pos % state->ring.n_slots) * state->ring.row_bytes,
                     state->ring.row_bytes);
        if (l == host->h->n_layers && t->bytes && t->save && n > 0)
            memset(t->bytes + t->at - state->ring.row_bytes, 0, state->ring.row_bytes);
        if (state->ratio == 0) continue;
        size_t slot = first_slot(state->ratio, n);
        move_slots(t, state->slots_offset, state->n_slots, state->width, slot, n);
        if (state->ratio == 4)
            move_slots(t, state->index_slots_offset, state->n_slots, state->index_width, slot, n);
    }
}

static size_t logits_bytes(const struct session_host *host) { return host->h->n_vocab * sizeof(float); }
static size_t streams_bytes(const struct session_host *host)
{
    return (size_t)host->h->n_hc * host->h->n_embd * sizeof(float);
}

static size_t tip_bytes(const struct session_host *host, size_t n_tokens, uint32_t flags)
{
    struct travel count = {0};
    move_layers(&count, host, n_tokens);
    return TIP_HEADER_BYTES + count.at + (flags & TIP_LOGITS ? logits_bytes(host) : 0) +
           (flags & TIP_STREAMS ? streams_bytes(host) : 0);
}

size_t session_tip_bytes_max(const struct session_host *host)
{
    size_t full = host->h->window + 127; /* a full ring and as many slots as a window of 128 may hold open */
    while (full % 128 != 127) full++;
    return tip_bytes(host, full, TIP_LOGITS | (host->draft ? TIP_STREAMS : 0u));
}

/* A step ahead may have begun another. */
size_t ds4_session_spans(const struct ds4_session *s)
{
    uint32_t n = session_spans_for(ds4_session_rows(s));
    return s->n_spans < n ? s->n_spans : n;
}

static enum ds4_status bring(const struct session_host *host, void *to, const void *from, size_t n,
                             struct ds4_error *error)
{
    host->backend->ops->read(host->backend, to, from, n);
    return host->backend->ops->finish(host->backend, error);
}

enum ds4_status ds4_session_span_save(const struct ds4_session *s, size_t i, uint8_t *buf, struct ds4_error *error)
{
    if (i >= ds4_session_spans(s))
        return err_set(error, DS4_ERR_LIMIT, "span %zu of a session of %zu", i, ds4_session_spans(s));
    return bring(s->host, buf, pool_span(&s->host->pool, s->spans[i]), (size_t)s->host->layout->span_bytes, error);
}

bool ds4_session_span_is_shared(const struct ds4_session *a, const struct ds4_session *b, size_t i)
{
    return i < ds4_session_spans(a) && i < ds4_session_spans(b) && a->spans[i] == b->spans[i];
}

/* A tail as the host can touch it: where it lies, or memory for all of it in *copy, which is the caller's. */
static enum ds4_status tail_at_hand(const struct ds4_session *s, uint8_t **tail, uint8_t **copy,
                                    struct ds4_error *error)
{
    const struct session_host *host = s->host;
    *copy = NULL;
    *tail = pool_tail(&host->pool, s->tail_i);
    if (!host->backend->ops->candidates) return DS4_OK; /* the backend's memory is the host's */
    *tail = *copy = mem_zalloc((size_t)host->layout->tail_bytes, 1);
    if (!*copy) return err_set(error, DS4_ERR_NOMEM, "no memory for a copy of a session's state");
    return DS4_OK;
}

enum ds4_status ds4_session_tip_save(const struct ds4_session *s, uint8_t *buf, size_t cap, size_t *len,
                                     struct ds4_error *error)
{
    const struct session_host *host = s->host;
    if (host->check_model) TRY(host->check_model(host->check_user, error));
    if (s->rows_to) return err_set(error, DS4_ERR_STATE, "the session's state is being computed again");
    const float *last = s->tokens.n ? session_streams(s, s->tokens.n - 1) : NULL;
    uint32_t flags = (s->has_logits ? TIP_LOGITS : 0u) | (last ? TIP_STREAMS : 0u);
    size_t need = tip_bytes(host, s->tokens.n, flags);
    if (cap < need) return err_set(error, DS4_ERR_LIMIT, "a tip takes %zu bytes; there are %zu", need, cap);
    struct travel t = {.bytes = buf, .at = TIP_HEADER_BYTES, .save = true};
    uint8_t *copy;
    TRY(tail_at_hand(s, &t.tail, &copy, error));
    session_rest(s->host);
    enum ds4_status status = copy ? bring(host, copy, pool_tail(&host->pool, s->tail_i),
                                          (size_t)host->layout->tail_bytes, error) : DS4_OK;
    memcpy(buf, TIP_MAGIC, 4);
    store_u32(buf + 4, STATE_LAYOUT_VERSION);
    memcpy(buf + 8, host->digest, 16);
    store_u64(buf + 24, s->tokens.n);
    store_u32(buf + 32, flags);
    store_u32(buf + 36, 0);
    move_layers(&t, host, s->tokens.n);
    mem_free(copy);
    if (flags & TIP_LOGITS) memcpy(buf + t.at, ds4_session_logits(s), logits_bytes(host)), t.at += logits_bytes(host);
    if (flags & TIP_STREAMS && status == DS4_OK) status = bring(host, buf + t.at, last, streams_bytes(host), error);
    *len = t.at + (flags & TIP_STREAMS ? streams_bytes(host) : 0);
    return status;
}

static enum ds4_status check_tip(const struct session_host *host, size_t n_tokens, const uint8_t *tip, size_t tip_len,
                                 struct ds4_error *error)
{
    if (tip_len < TIP_HEADER_BYTES || memcmp(tip, TIP_MAGIC, 4) != 0)
        return err_set(error, DS4_ERR_FORMAT, "not a tip of a session (%zu bytes)", tip_len);
    if (load_u32(tip + 4) != STATE_LAYOUT_VERSION)
        return err_set(error, DS4_ERR_UNSUPPORTED, "state layout %u; this engine has %u", load_u32(tip + 4),
                       STATE_LAYOUT_VERSION);
    if (memcmp(tip + 8, host->digest, 16) != 0)
        return err_set(error, DS4_ERR_UNSUPPORTED, "the state belongs to another model, quantisation or numeric mode");
    uint32_t flags = load_u32(tip + 32);
    if (load_u64(tip + 24) != n_tokens || (flags & ~3u) || load_u32(tip + 36) != 0)
        return err_set(error, DS4_ERR_FORMAT, "the tip is of %llu tokens, the list has %zu",
                       (unsigned long long)load_u64(tip + 24), n_tokens);
    if (tip_len != tip_bytes(host, n_tokens, flags))
        return err_set(error, DS4_ERR_FORMAT, "the tip has %zu bytes; expected %zu", tip_len,
                       tip_bytes(host, n_tokens, flags));
    return DS4_OK;
}

/* Spans that lie in memory. */
struct session_given {
    const uint8_t *const *spans;
    size_t span_bytes;
};

static enum ds4_status check_restore(const struct session_host *host, const int32_t *tokens, size_t n_tokens,
                                     struct ds4_error *error)
{
    if (n_tokens > host->ctx_tokens)
        return err_set(error, DS4_ERR_LIMIT, "state of %zu tokens does not fit the context of %u", n_tokens,
                       host->ctx_tokens);
    for (size_t i = 0; i < n_tokens; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= host->h->n_vocab)
            return err_set(error, DS4_ERR_FORMAT, "token %zu has id %d; the vocabulary has %u", i, tokens[i],
                           host->h->n_vocab);
    return DS4_OK;
}

/* The part that cannot fail: tail, logits and tokens from a checked tip. The spans are in place. tail and copy: of
 * tail_at_hand. */
static void take_tip(struct ds4_session *s, const int32_t *tokens, size_t n_tokens, const uint8_t *tip, uint8_t *tail,
                     const uint8_t *copy)
{
    struct session_host *host = s->host;
    session_rest(host);
    struct travel t = {.tail = tail, .bytes = (uint8_t *)(uintptr_t)tip, .at = TIP_HEADER_BYTES, .save = false};
    move_layers(&t, host, n_tokens);
    if (copy)
        host->backend->ops->write(host->backend, pool_tail(&host->pool, s->tail_i), copy,
                                  (size_t)host->layout->tail_bytes);
    uint32_t flags = load_u32(tip + 32);
    if (flags & TIP_LOGITS) memcpy(s->logits, tip + t.at, logits_bytes(host)), t.at += logits_bytes(host);
    s->has_logits = flags & TIP_LOGITS;
    s->logits_there = false;
    s->logits_i = s->choices.n = 0;
    memmove(s->tokens.ids, tokens, n_tokens * sizeof *tokens);
    s->tokens.n = s->n_high = s->restored = s->streams_from = n_tokens;
    if (!(flags & TIP_STREAMS) || !s->streams || n_tokens == 0) return;
    s->streams_from = n_tokens - 1;
    host->backend->ops->write(host->backend, session_streams(s, n_tokens - 1), tip + t.at, streams_bytes(host));
}

/* Full spans at the front that the session holds already for these tokens. */
static uint32_t spans_held(const struct ds4_session *s, const int32_t *tokens, size_t n_tokens)
{
    size_t same = 0, held = ds4_session_rows(s), max = held < n_tokens ? held : n_tokens;
    while (same < max && s->tokens.ids[same] == tokens[same]) same++;
    return (uint32_t)(same / STATE_SPAN_TOKENS);
}

static enum ds4_status check_room(const struct ds4_session *s, size_t n_spans, uint32_t keep, struct ds4_error *error)
{
    const struct state_pool *pool = &s->host->pool;
    size_t room = pool->n_free_spans;
    for (uint32_t i = keep; i < s->n_spans; i++) room += pool->span_refs[s->spans[i]] == 1;
    if (n_spans - keep <= room) return DS4_OK;
    return err_set(error, DS4_ERR_LIMIT, "%zu spans of state do not fit beside the other sessions", n_spans);
}

enum ds4_status ds4_session_restore_from(struct ds4_session *s, const int32_t *tokens, size_t n_tokens,
                                         ds4_span_reader read, void *user, const uint8_t *tip, size_t tip_len,
                                         struct ds4_error *error)
{
    struct session_host *host = s->host;
    struct state_pool *pool = &host->pool;
    uint32_t n_spans = session_spans_for(n_tokens), keep = spans_held(s, tokens, n_tokens);
    if (host->check_model) TRY(host->check_model(host->check_user, error));
    TRY(check_restore(host, tokens, n_tokens, error));
    if (tip) TRY(check_tip(host, n_tokens, tip, tip_len, error));
    else if (n_tokens <= host->layout->reach_tokens)
        return err_set(error, DS4_ERR_STATE, "without a tip %zu tokens are computed from the start", n_tokens);
    TRY(check_room(s, n_spans, keep, error));
    uint8_t *tail, *copy, *bounce = mem_alloc((size_t)host->layout->span_bytes, 1);
    if (!bounce) return err_set(error, DS4_ERR_NOMEM, "no memory to restore a session");
    enum ds4_status status = tail_at_hand(s, &tail, &copy, error);
    if (status != DS4_OK) {
        mem_free(bounce);
        return status;
    }
    session_truncate(s, (size_t)keep * STATE_SPAN_TOKENS);
    for (uint32_t i = keep; i < n_spans && status == DS4_OK; i++) {
        status = read(user, i, bounce, error);
        if (status != DS4_OK) break;
        s->spans[i] = pool_take_span(pool);
        s->n_spans++;
        pool->backend->ops->write(pool->backend, pool_span(pool, s->spans[i]), bounce,
                                  (size_t)host->layout->span_bytes);
    }
    mem_free(bounce);
    if (status == DS4_OK && tip) {
        take_tip(s, tokens, n_tokens, tip, tail, copy);
    } else if (status == DS4_OK) {
        memmove(s->tokens.ids, tokens, n_tokens * sizeof *tokens);
        s->tokens.n = n_tokens;
        session_remake_tail(s, n_tokens);
    } else {
        session_truncate(s, 0);
    }
    mem_free(copy);
    return status;
}

static enum ds4_status read_given(void *user, size_t span_i, uint8_t *dest, struct ds4_error *error)
{
    const struct session_given *given = user;
    (void)error;
    memcpy(dest, given->spans[span_i], given->span_bytes);
    return DS4_OK;
}

enum ds4_status ds4_session_restore(struct ds4_session *s, const int32_t *tokens, size_t n_tokens,
                                    const uint8_t *const *spans, size_t n_spans, const uint8_t *tip, size_t tip_len,
                                    struct ds4_error *error)
{
    struct session_given given = {.spans = spans, .span_bytes = (size_t)s->host->layout->span_bytes};
    if (n_spans != session_spans_for(n_tokens))
        return err_set(error, DS4_ERR_FORMAT, "%zu spans for %zu tokens; expected %u", n_spans, n_tokens,
                       session_spans_for(n_tokens));
    return ds4_session_restore_from(s, tokens, n_tokens, read_given, &given, tip, tip_len, error);
}
