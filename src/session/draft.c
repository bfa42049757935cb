/* draft.c - tokens guessed by the model's draft block, and sessions that check their guesses. See ds4_session_draft and
 * ds4_session_set_drafts in ds4.h.
 *
 * A pass over one token reads almost as many weights as a pass over a few. So a session that drafts computes, with the
 * token it is given, those that the block guesses after it (eval.c). Their rows lie past the session's end, where
 * nothing looks, their ids behind its tokens, their logits behind its own. When the next token is the first of them, it
 * is a matter of taking note; when it is another, they are forgotten: rings and slots reach further back than that, and
 * what the block's own row of that position was made from is known again (session_feed_draft). A row's bits do not
 * depend on its batch, so tokens, logits and state are those of a session that never drafted. */
#include "session/session.h"

#include "session/sample.h"

/* Feeds the draft block of one session: pair (streams of position i, token i+1) for every position whose follower is
 * known. The pair of the last earlier token comes first, from the streams that were kept, unless the first draft was
 * made from it just now; where they are not known (after going back further than they reach) the block's row stays as
 * it is, and drafts are worse for a window. */
enum ds4_status session_feed_draft(const struct ds4_job *job, uint32_t row_first, struct ds4_error *error)
{
    struct ds4_session *s = job->session;
    struct session_host *host = s->host;
    const float *last =
        s->tokens.n > 0 && !session_checks_drafts(job) ? session_streams(s, s->tokens.n - 1) : NULL;
    struct op_seq seq = {.tail_i = s->tail_i, .n_rows = 1};
    struct graph_rows rows = {.tokens = job->tokens, .pos = host->pos, .seq_i = host->seq_i, .seqs = &seq,
                              .span_ids = host->span_ids, .n_rows = 1, .n_seqs = 1};
    for (size_t t = 0; t < job->n; t++) host->seq_i[t] = 0;
    if (last) {
        host->pos[0] = (int32_t)(s->tokens.n - 1);
        TRY(graph_mtp(host->graph, &rows, last, NULL, error));
    }
    if (job->n > 1) {
        rows.n_rows = seq.n_rows = (uint32_t)job->n - 1;
        rows.tokens = job->tokens + 1;
        for (uint32_t t = 0; t < rows.n_rows; t++) {
            host->pos[t] = (int32_t)(s->tokens.n + t);
            host->row_i[t] = row_first + t;
        }
        TRY(graph_mtp(host->graph, &rows, NULL, host->row_i, error));
    }
    return DS4_OK;
}

void session_keep_streams(const struct ds4_job *job, uint32_t row_first)
{
    struct ds4_session *s = job->session;
    size_t end = s->tokens.n, n = job->n < SESSION_STREAMS ? job->n : SESSION_STREAMS;
    if (!s->streams) return;
    if (s->streams_from + SESSION_STREAMS < end) s->streams_from = end - SESSION_STREAMS;
    for (size_t pos = end - n; pos < end; pos++)
        graph_keep_streams(s->host->graph, row_first + (uint32_t)(pos + job->n - end), session_streams(s, pos));
}

/* Index of the largest logit, ties to the lower id. */
static int32_t largest(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

/* Drafts that the backend chooses, each from the one before, into ids, which are its own. */
static void give_drafts(struct session_host *host, const struct graph_rows *rows, const float *streams, size_t n,
                        int32_t *ids)
{
    const struct backend_step greedy = {.how = {.top_p = 1}};
    graph_begin_drafts(host->graph, rows, streams);
    host->backend->ops->write(host->backend, host->steps, &greedy, sizeof greedy);
    for (size_t i = 0; i < n; i++) graph_draft(host->graph, host->steps, host->choices, ids + i);
}

/* Where ids lie behind n choices, to be posted together. */
static int32_t *ids_behind(const struct session_host *host, size_t n) { return (int32_t *)(void *)(host->choices + n); }

/* Most drafts at the session's end: their rows must not push committed ones out of the ring, and all may be refused. */
static size_t most_drafts(const struct ds4_session *s, size_t max)
{
    size_t room = s->host->layout->rewind_max > 1 ? s->host->layout->rewind_max - 1 : 0;
    if (max > room) max = room;
    return max < DS4_DRAFTS_MAX ? max : DS4_DRAFTS_MAX;
}

static enum ds4_status draft_there(struct session_host *host, const struct graph_rows *rows, const float *streams,
                                   size_t max, int32_t *drafts, size_t *n, struct ds4_error *error)
{
    struct backend *b = host->backend;
    int32_t *ids = ids_behind(host, BACKEND_CHOICES);
    give_drafts(host, rows, streams, max, ids);
    if (!b->ops->post(b, ids, max * sizeof *ids) || !b->ops->collect(b, drafts, max * sizeof *ids))
        return b->ops->finish(b, error);
    *n = max;
    return DS4_OK;
}

enum ds4_status ds4_session_draft(struct ds4_session *s, int32_t next, size_t max, int32_t *drafts, size_t *n,
                                  struct ds4_error *error)
{
    struct session_host *host = s->host;
    const float *streams = s->tokens.n > 0 && !s->rows_to ? session_streams(s, s->tokens.n - 1) : NULL;
    *n = 0;
    if (!streams || max == 0) return DS4_OK;
    s->n_drafted = 0; /* the block's rows past the end are about to be others */
    if (next < 0 || (uint32_t)next >= host->h->n_vocab)
        return err_set(error, DS4_ERR_LIMIT, "token id %d; the vocabulary has %u", next, host->h->n_vocab);
    max = most_drafts(s, max);
    struct op_seq seq = {.tail_i = s->tail_i, .n_rows = 1};
    int32_t token = next, pos = (int32_t)s->tokens.n - 1;
    uint32_t zero = 0;
    if (s->tokens.n + max > s->n_high) s->n_high = s->tokens.n + max; /* rows of the ring that are about to go */
    struct graph_rows rows = {.tokens = &token, .pos = &pos, .seq_i = &zero, .seqs = &seq, .span_ids = host->span_ids,
                              .n_rows = 1, .n_seqs = 1};
    if (max > 0 && host->steps && graph_runs_ahead(host->graph))
        return draft_there(host, &rows, streams, max, drafts, n, error);
    while (*n < max) {
        TRY(graph_mtp(host->graph, &rows, streams, NULL, error));
        TRY(graph_mtp_logits(host->graph, &zero, 1, &host->draft_logits, error));
        graph_read_draft(host->graph, host->draft_streams);
        streams = host->draft_streams;
        token = drafts[(*n)++] = largest(host->draft_logits, host->h->n_vocab);
        pos++;
    }
    return DS4_OK;
}

/* ---- checked with the token before them ----------------------------------------------------------------------- */

enum ds4_status ds4_session_set_drafts(struct ds4_session *s, uint32_t n, struct ds4_error *error)
{
    if (n > s->host->n_drafts)
        return err_set(error, DS4_ERR_LIMIT, "%u drafts; the engine was opened for %u", n, s->host->n_drafts);
    s->n_drafts = n;
    return DS4_OK;
}

/* Most drafts after one more token. */
static size_t drafts_now(const struct ds4_session *s)
{
    const struct session_host *host = s->host;
    size_t room = host->ctx_tokens - s->tokens.n - 1, rows = host->chunk_tokens - 1, max = s->n_drafts;
    if (max > room) max = room;
    return max < rows ? max : rows;
}

enum ds4_status session_guess(struct ds4_session *s, const struct ds4_job *job, int32_t *drafts, size_t *n,
                              struct ds4_error *error)
{
    *n = 0;
    if (job->n != 1 || job->logits || s->rows_to) return DS4_OK;
    return ds4_session_draft(s, job->tokens[0], drafts_now(s), drafts, n, error);
}

/* ---- where the backend chooses --------------------------------------------------------------------------------- */

bool session_drafts_there(const struct ds4_session *s, const struct ds4_job *job)
{
    const struct session_host *host = s->host;
    return host->steps && graph_runs_ahead(host->graph) && job->n == 1 && !job->logits && !s->rows_to &&
           s->tokens.n > 0 && session_streams(s, s->tokens.n - 1) && most_drafts(s, drafts_now(s)) > 0;
}

/* Gives the choices from the logits of the pass's n rows. */
static void give_row_choices(struct ds4_session *s, uint32_t n)
{
    struct session_host *host = s->host;
    struct session_choices *c = &s->choices;
    struct backend_step steps[SESSION_STREAMS];
    uint64_t generator = c->generator;
    for (uint32_t r = 0; r < n; r++) {
        steps[r] = (struct backend_step){.how = c->how,
                                         .generator = {(uint32_t)generator, (uint32_t)(generator >> 32)}};
        c->generators[r] = generator;
        if (c->how.temperature > 0) generator = sampler_after_draw(generator);
    }
    host->backend->ops->write(host->backend, host->steps, steps, n * sizeof *steps);
    graph_choose(host->graph, session_logits_there(s), host->steps, host->choices);
}

/* Gives all of the pass over the token and n drafts, and posts what the host wants to know of it: the choices, where
 * it is known how, and behind them the drafts. */
static bool give_pass(struct ds4_session *s, int32_t token, uint32_t n)
{
    struct session_host *host = s->host;
    size_t at = s->tokens.n;
    int32_t *ids = ids_behind(host, 1 + n);
    struct op_seq seq = {.tail_i = s->tail_i, .n_rows = 1};
    struct graph_rows rows = {.tokens = host->tokens, .pos = host->pos, .seq_i = host->seq_i, .seqs = &seq,
                              .span_ids = s->spans, .n_rows = 1, .n_seqs = 1};
    for (uint32_t r = 0; r <= n; r++) {
        host->tokens[r] = token; /* of the others the drafts take the place */
        host->pos[r] = (int32_t)(at - 1);
        host->seq_i[r] = 0;
    }
    give_drafts(host, &rows, session_streams(s, at - 1), n, ids);
    for (uint32_t r = 0; r <= n; r++) host->pos[r] = (int32_t)(at + r);
    rows.n_rows = seq.n_rows = 1 + n;
    rows.n_span_ids = s->n_spans;
    graph_check(host->graph, &rows, ids, session_logits_there(s));
    if (s->choices.is_known) give_row_choices(s, 1 + n);
    const uint8_t *told = s->choices.is_known ? (const uint8_t *)host->choices : (const uint8_t *)ids;
    bool good = host->backend->ops->post(host->backend, told, (size_t)((const uint8_t *)(ids + n) - told));
    rows.n_rows = seq.n_rows = n;
    rows.n_span_ids = 0;
    graph_feed(host->graph, &rows, ids);
    for (uint32_t r = 0; r <= n; r++)
        graph_keep_streams(host->graph, r, s->streams + (at + r) % SESSION_STREAMS * host->h->n_hc * host->h->n_embd);
    return good;
}

enum ds4_status session_pass_there(struct ds4_session *s, int32_t token, struct ds4_error *error)
{
    struct backend *b = s->host->backend;
    struct session_choices *c = &s->choices;
    uint32_t n = (uint32_t)most_drafts(s, drafts_now(s));
    size_t at = s->tokens.n, end = at + 1 + n, streams_from = s->streams_from;
    size_t n_bytes = n * sizeof(int32_t), choice_bytes = c->is_known ? (1 + n) * sizeof c->rows[0] : 0;
    uint8_t told[sizeof c->rows + DS4_DRAFTS_MAX * sizeof(int32_t)];
    TRY(session_own_spans(s, 1 + n, error));
    if (end > s->n_high) s->n_high = end;
    s->has_logits = false;
    s->n_drafted = s->logits_i = c->n = 0;
    bool given = give_pass(s, token, n);
    s->streams_from = at; /* unless it succeeds */
    if (!given || !b->ops->collect(b, told, choice_bytes + n_bytes)) {
        TRY(b->ops->finish(b, error));
        return err_set(error, DS4_ERR_DEVICE, "the device gave no tokens");
    }
    memcpy(c->rows, told, choice_bytes);
    c->n = c->is_known ? 1 + n : 0;
    s->tokens.ids[at] = token;
    memcpy(s->tokens.ids + at + 1, told + choice_bytes, n_bytes);
    s->tokens.n = end;
    s->streams_from = streams_from + SESSION_STREAMS < end ? end - SESSION_STREAMS : streams_from;
    s->has_logits = s->logits_there = s->rows_there = true;
    session_note_pass(s, n);
    return DS4_OK;
}

enum ds4_status session_pick_drafting(struct ds4_session *s, struct ds4_sampler *sampler, bool force_greedy,
                                      int32_t *id, struct ds4_error *error)
{
    struct session_choices *c = &s->choices;
    const struct backend_choice *there = s->has_logits && s->logits_i < c->n ? &c->rows[s->logits_i] : NULL;
    struct backend_pick how;
    bool is_known = s->n_drafts > 0 && sampler_how(sampler, force_greedy, &how);
    if (!is_known || memcmp(&c->how, &how, sizeof how) != 0) c->n = 0;
    if (c->n > 0 && there && there->is_known && c->generators[s->logits_i] == sampler_generator(sampler)) {
        *id = there->id;
        sampler_drew(sampler, &how);
    } else {
        TRY(ds4_session_pick(s, sampler, NULL, force_greedy, id, error));
    }
    c->is_known = is_known;
    if (is_known) c->how = how;
    c->generator = sampler_generator(sampler);
    return DS4_OK;
}

void session_note_pass(struct ds4_session *s, size_t n)
{
    struct ds4_draft_figures *f = &s->host->figures;
    s->tokens.n -= n;
    s->n_drafted = (uint32_t)n;
    f->n_passes++;
    f->n_drafted += n;
}

bool session_was_drafted(const struct ds4_job *job)
{
    const struct ds4_session *s = job->session;
    return s->n_drafted > 0 && job->n == 1 && !job->logits && job->tokens[0] == s->tokens.ids[s->tokens.n];
}

void session_keep_draft(struct ds4_session *s)
{
    s->tokens.n++;
    s->n_drafted--;
    s->logits_i++;
    s->logits_there = s->rows_there;
    s->host->figures.n_kept++;
}
