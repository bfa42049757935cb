/* session.c - life of a session, rewinding, synchronising with a token list. See session.h, ds4.h. */
#include "session/session.h"

#include "base/mem.h"
#include "session/sample.h"

uint32_t session_spans_for(size_t n_tokens)
{
    return (uint32_t)((n_tokens + STATE_SPAN_TOKENS - 1) / STATE_SPAN_TOKENS);
}

uint64_t session_streams_bytes(const struct hparams *h)
{
    return (uint64_t)SESSION_STREAMS * h->n_hc * h->n_embd * sizeof(float);
}

size_t session_logits_stride(const struct session_host *host)
{
    return (1 + (size_t)host->n_drafts) * host->h->n_vocab;
}

float *session_streams(const struct ds4_session *s, size_t pos)
{
    if (!s->streams || pos < s->streams_from || pos >= s->tokens.n) return NULL;
    return s->streams + pos % SESSION_STREAMS * s->host->h->n_hc * s->host->h->n_embd;
}

uint64_t session_host_bytes(const struct hparams *h, uint32_t ctx_tokens, uint32_t n_drafts)
{
    return (uint64_t)ctx_tokens * sizeof(int32_t) + session_spans_for(ctx_tokens) * sizeof(uint32_t) +
           (1 + (uint64_t)n_drafts) * h->n_vocab * sizeof(float) + sizeof(struct ds4_session);
}

uint32_t session_ahead_max(uint32_t n_sessions_max, uint32_t chunk_tokens)
{
    uint32_t n = n_sessions_max < chunk_tokens ? n_sessions_max : chunk_tokens;
    return n < BACKEND_STEPS_MAX ? n : BACKEND_STEPS_MAX;
}

/* Rows that are chosen from at a time. */
static size_t n_steps(const struct session_host *host)
{
    return host->n_ahead_max > host->n_drafts ? host->n_ahead_max : 1 + host->n_drafts;
}

/* Choices of them, and room for ids of drafts behind BACKEND_CHOICES. */
static size_t n_choices(const struct session_host *host) { return BACKEND_CHOICES * (1 + n_steps(host)); }

/* What stays on a backend whose memory is not the host's. */
static void alloc_logits(struct session_host *host)
{
    struct backend *b = host->backend;
    size_t row_bytes = host->h->n_vocab * sizeof(float);
    host->n_ahead_max = session_ahead_max(host->n_sessions_max, host->chunk_tokens);
    host->logits_there = b->ops->alloc(b, host->n_sessions_max * session_logits_stride(host) * sizeof(float));
    host->logits_before = b->ops->alloc(b, host->n_ahead_max * row_bytes);
    host->steps = b->ops->alloc(b, n_steps(host) * sizeof *host->steps);
    host->choices = b->ops->alloc(b, n_choices(host) * sizeof *host->choices);
    host->logits_slot = mem_alloc(host->n_sessions_max, sizeof *host->logits_slot);
    for (uint32_t i = 0; host->logits_slot && i < host->n_sessions_max; i++) host->logits_slot[i] = i;
}

static void free_logits(struct session_host *host)
{
    struct backend *b = host->backend;
    size_t row_bytes = host->h ? host->h->n_vocab * sizeof(float) : 0, n = host->n_ahead_max;
    if (host->logits_there)
        b->ops->release(b, host->logits_there, host->n_sessions_max * session_logits_stride(host) * sizeof(float));
    if (host->logits_before) b->ops->release(b, host->logits_before, n * row_bytes);
    if (host->steps) b->ops->release(b, host->steps, n_steps(host) * sizeof *host->steps);
    if (host->choices) b->ops->release(b, host->choices, n_choices(host) * sizeof *host->choices);
    if (host->streams)
        b->ops->release(b, host->streams, host->n_sessions_max * (size_t)session_streams_bytes(host->h));
    host->streams = NULL;
    mem_free(host->logits_slot);
    host->logits_there = host->logits_before = NULL;
    host->steps = NULL;
    host->choices = NULL;
    host->logits_slot = NULL;
}

enum ds4_status session_host_init(struct session_host *host, struct ds4_error *error)
{
    uint32_t spans_each = session_spans_for(host->ctx_tokens) + 1; /* one to copy a shared span that must be written */
    TRY(pool_init(&host->pool, host->backend, host->layout, host->n_sessions_max, host->n_sessions_max * spans_each,
                  error));
    uint32_t chunk = host->chunk_tokens;
    struct backend *b = host->backend;
    if (b->ops->candidates) alloc_logits(host);
    host->tokens = mem_alloc(chunk, sizeof *host->tokens);
    host->pos = mem_alloc(chunk, sizeof *host->pos);
    host->seq_i = mem_alloc(chunk, sizeof *host->seq_i);
    host->row_i = mem_alloc(chunk, sizeof *host->row_i);
    host->row_out = mem_alloc(chunk, sizeof *host->row_out);
    host->seqs = mem_alloc(host->n_sessions_max, sizeof *host->seqs);
    host->span_ids = mem_alloc((size_t)host->n_sessions_max * spans_each, sizeof *host->span_ids);
    if (host->draft) {
        host->streams = b->ops->alloc(b, host->n_sessions_max * (size_t)session_streams_bytes(host->h));
        host->draft_streams = mem_alloc((size_t)host->h->n_hc * host->h->n_embd, sizeof(float));
        host->draft_logits = mem_alloc(host->h->n_vocab, sizeof(float));
    }
    bool there = host->logits_there && host->logits_before && host->steps && host->choices && host->logits_slot;
    if ((there || !b->ops->candidates) && host->tokens && host->pos && host->seq_i && host->row_i && host->row_out &&
        host->seqs && host->span_ids && (!host->draft || (host->streams && host->draft_streams && host->draft_logits)))
        return DS4_OK;
    session_host_deinit(host);
    return err_set(error, DS4_ERR_NOMEM, "no memory for a batch of %u rows", chunk);
}

void session_host_deinit(struct session_host *host)
{
    free_logits(host);
    pool_deinit(&host->pool);
    mem_free(host->tokens);
    mem_free(host->pos);
    mem_free(host->seq_i);
    mem_free(host->row_i);
    mem_free(host->row_out);
    mem_free(host->seqs);
    mem_free(host->span_ids);
    mem_free(host->draft_streams);
    mem_free(host->draft_logits);
    host->draft_streams = host->draft_logits = NULL;
    host->tokens = host->pos = NULL;
    host->seq_i = host->row_i = host->span_ids = NULL;
    host->row_out = NULL;
    host->seqs = NULL;
}

enum ds4_status session_create(struct session_host *host, struct ds4_session **out, struct ds4_error *error)
{
    struct ds4_session *s = mem_zalloc(1, sizeof *s);
    if (!s) return err_set(error, DS4_ERR_NOMEM, "no memory for a session");
    s->host = host;
    s->tail_i = POOL_NONE;
    s->tokens.ids = mem_alloc(host->ctx_tokens, sizeof *s->tokens.ids);
    s->tokens.cap = host->ctx_tokens;
    s->spans = mem_alloc(session_spans_for(host->ctx_tokens), sizeof *s->spans);
    s->n_drafts = host->n_drafts;
    s->logits = mem_alloc((1 + (size_t)host->n_drafts) * host->h->n_vocab, sizeof *s->logits);
    if (!s->tokens.ids || !s->spans || !s->logits) {
        ds4_session_destroy(s);
        return err_set(error, DS4_ERR_NOMEM, "no memory for a session of %u tokens", host->ctx_tokens);
    }
    s->tail_i = pool_take_tail(&host->pool);
    if (s->tail_i == POOL_NONE) {
        ds4_session_destroy(s);
        return err_set(error, DS4_ERR_LIMIT, "all %u sessions that memory was planned for are in use",
                       host->n_sessions_max);
    }
    if (host->streams) s->streams = host->streams + s->tail_i * (session_streams_bytes(host->h) / sizeof(float));
    *out = s;
    return DS4_OK;
}

void ds4_session_destroy(struct ds4_session *s)
{
    if (!s) return;
    session_truncate(s, 0);
    if (s->tail_i != POOL_NONE) pool_give_tail(&s->host->pool, s->tail_i);
    ds4_tokens_free(&s->tokens);
    mem_free(s->spans);
    mem_free(s->logits);
    mem_free(s);
}

enum ds4_status ds4_session_fork(struct ds4_session *from, struct ds4_session **out, struct ds4_error *error)
{
    struct session_host *host = from->host;
    struct ds4_session *s;
    session_take_out(from);
    session_drop_past(from); /* nobody may write into a span that is shared */
    TRY(session_create(host, &s, error));
    memcpy(s->tokens.ids, from->tokens.ids, ds4_session_rows(from) * sizeof *s->tokens.ids);
    s->tokens.n = from->tokens.n;
    s->rows_to = from->rows_to;
    s->n_drafts = from->n_drafts;
    for (uint32_t i = 0; i < from->n_spans; i++) {
        s->spans[i] = from->spans[i];
        pool_share_span(&host->pool, s->spans[i]);
    }
    s->n_spans = from->n_spans;
    host->backend->ops->write(host->backend, pool_tail(&host->pool, s->tail_i), pool_tail(&host->pool, from->tail_i),
                              (size_t)host->layout->tail_bytes);
    s->n_high = from->n_high;
    s->restored = from->restored;
    s->has_logits = from->has_logits;
    if (s->has_logits) memcpy(s->logits, ds4_session_logits(from), host->h->n_vocab * sizeof *s->logits);
    if (s->streams)
        host->backend->ops->write(host->backend, s->streams, from->streams, (size_t)session_streams_bytes(host->h));
    s->streams_from = from->streams_from;
    *out = s;
    return DS4_OK;
}

const int32_t *ds4_session_tokens(const struct ds4_session *s, size_t *n)
{
    if (n) *n = s->tokens.n;
    return s->tokens.ids;
}

size_t ds4_session_rows(const struct ds4_session *s) { return s->rows_to ? s->rows_to : s->tokens.n; }

float *session_logits_there(const struct ds4_session *s)
{
    const struct session_host *host = s->host;
    return host->logits_there ? host->logits_there + host->logits_slot[s->tail_i] * session_logits_stride(host) : NULL;
}

const float *ds4_session_logits(const struct ds4_session *s)
{
    struct backend *b = s->host->backend;
    float *here = s->logits + (size_t)s->logits_i * s->host->h->n_vocab;
    if (s->has_logits && s->logits_there) { /* what is known stays the same: it is only here as well */
        b->ops->read(b, here, session_logits_now(s), s->host->h->n_vocab * sizeof *here);
        ((struct ds4_session *)(uintptr_t)s)->logits_there = false;
    }
    return s->has_logits ? here : NULL;
}

enum ds4_status ds4_session_pick(struct ds4_session *s, struct ds4_sampler *sampler, const uint32_t *mask,
                                 bool force_greedy, int32_t *id, struct ds4_error *error)
{
    struct backend *b = s->host->backend;
    struct backend_candidates near;
    float margin;
    if (!s->has_logits) return err_set(error, DS4_ERR_STATE, "the session has no logits to go on from");
    if (s->logits_there && !mask && sampler_needs(sampler, force_greedy, &margin)) {
        if (!b->ops->candidates(b, session_logits_now(s), s->host->h->n_vocab, margin, sampler_temperature(sampler),
                                &near))
            return b->ops->finish(b, error);
        if (sampler_pick_near(sampler, &near, force_greedy, id)) return DS4_OK;
    }
    return ds4_sampler_pick(sampler, ds4_session_logits(s), mask, force_greedy, id, error);
}

size_t session_rewind_min(const struct ds4_session *s)
{
    size_t back = s->host->layout->rewind_max;
    size_t oldest = s->n_high > back ? s->n_high - back : 0;
    return oldest > s->restored ? oldest : s->restored;
}

size_t ds4_session_rewind_min(const struct ds4_session *s)
{
    size_t min = session_rewind_min(s);
    return min < s->tokens.n ? min : s->tokens.n;
}

void session_remake_tail(struct ds4_session *s, size_t n)
{
    size_t from = n - s->host->layout->reach_tokens;
    ensure(n > s->host->layout->reach_tokens);
    session_truncate(s, n);
    s->tokens.n = s->n_high = s->restored = s->streams_from = from;
    s->rows_to = n;
    s->has_logits = false;
}

void session_drop_past(struct ds4_session *s)
{
    while (s->n_spans > session_spans_for(ds4_session_rows(s))) pool_drop_span(&s->host->pool, s->spans[--s->n_spans]);
    s->n_drafted = 0;
}

void session_truncate(struct ds4_session *s, size_t n)
{
    uint32_t keep = session_spans_for(n);
    session_take_out(s);
    s->rows_to = 0;
    s->n_drafted = 0;
    while (s->n_spans > keep) pool_drop_span(&s->host->pool, s->spans[--s->n_spans]);
    if (n < s->tokens.n) s->has_logits = false;
    s->tokens.n = n;
    if (s->streams_from > n) s->streams_from = n;
    if (n == 0) s->n_high = s->restored = 0;
}

enum ds4_status ds4_session_rewind(struct ds4_session *s, size_t n, struct ds4_error *error)
{
    if (s->rows_to && n == s->tokens.n) return DS4_OK;
    if (n > s->tokens.n || (n != 0 && n < session_rewind_min(s)))
        return err_set(error, DS4_ERR_STATE, "cannot rewind to %zu: the session has %zu tokens and reaches back to %zu",
                       n, s->tokens.n, session_rewind_min(s));
    session_truncate(s, n);
    return DS4_OK;
}

static size_t common_prefix(const struct ds4_session *s, const int32_t *tokens, size_t n)
{
    size_t held = ds4_session_rows(s), max = held < n ? held : n, i = 0;
    while (i < max && s->tokens.ids[i] == tokens[i]) i++;
    return i;
}

/* Drops what does not belong to the tokens. Returns from where on they are to be evaluated. */
static size_t keep_for(struct ds4_session *s, const int32_t *tokens, size_t n)
{
    size_t keep = common_prefix(s, tokens, n);
    if (s->rows_to && keep == s->rows_to) return s->tokens.n; /* go on making the tail */
    if (keep == n && !(s->tokens.n == n && s->has_logits)) keep = n - 1; /* logits need the last token once more */
    if (s->rows_to || (keep < s->tokens.n && keep < session_rewind_min(s))) {
        if (keep > s->host->layout->reach_tokens) {
            session_remake_tail(s, keep);
            return s->tokens.n;
        }
        keep = 0;
    }
    session_truncate(s, keep);
    return keep;
}

enum ds4_status ds4_session_sync(struct ds4_session *s, const int32_t *tokens, size_t n, ds4_progress_fn progress,
                                 void *user, size_t *reused, struct ds4_error *error)
{
    if (n == 0) return err_set(error, DS4_ERR_STATE, "an empty prompt cannot be evaluated");
    if (n > s->host->ctx_tokens)
        return err_set(error, DS4_ERR_LIMIT, "prompt of %zu tokens does not fit the context of %u", n,
                       s->host->ctx_tokens);
    size_t keep = keep_for(s, tokens, n);
    if (reused) *reused = keep;
    for (size_t done = keep; done < n;) {
        if (progress && !progress(user, "prefill", done - keep, n - keep))
            return err_set(error, DS4_ERR_CANCELLED, "cancelled after %zu of %zu tokens", done, n);
        size_t end = s->rows_to ? s->rows_to : n; /* the tail is whole before anything new is written */
        size_t now = end - done < s->host->chunk_tokens ? end - done : s->host->chunk_tokens;
        struct ds4_job job = {.session = s, .tokens = tokens + done, .n = now};
        TRY(session_eval(s->host, &job, 1, error));
        done += now;
    }
    if (progress) (void)progress(user, "prefill", n - keep, n - keep);
    return DS4_OK;
}
