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

/* Feeds the draft block of one session: pair (streams of position i, token i+1) for every position whose follower is
 * known. The pair of the last earlier token comes first, from the streams kept on the host, unless the first draft was
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
        graph_read_streams(s->host->graph, false, row_first + (uint32_t)(pos + job->n - end), session_streams(s, pos));
}

/* Index of the largest logit, ties to the lower id. */
static int32_t largest(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

/* Drafts that the backend chooses: each goes through the block before the host has read it. */
static enum ds4_status draft_there(struct session_host *host, const struct graph_rows *rows, size_t max,
                                   int32_t *drafts, size_t *n, struct ds4_error *error)
{
    struct backend *b = host->backend;
    const struct backend_step greedy = {.how = {.top_p = 1}};
    bool known = true, good = true;
    graph_begin_drafts(host->graph, rows, host->draft_streams);
    b->ops->write(b, host->steps, &greedy, sizeof greedy);
    for (size_t given = 0, had = 0; had < max && good;) {
        struct backend_choice choice;
        if (given < max && given - had < BACKEND_CHOICES) {
            graph_draft(host->graph, host->steps, host->choices);
            good = b->ops->post(b, &host->choices[given++ % BACKEND_CHOICES], sizeof choice);
        } else {
            good = b->ops->collect(b, &choice, sizeof choice);
            had++;
            known = known && good && choice.is_known;
            if (known) drafts[(*n)++] = choice.id;
        }
    }
    return good ? DS4_OK : b->ops->finish(b, error);
}

enum ds4_status ds4_session_draft(struct ds4_session *s, int32_t next, size_t max, int32_t *drafts, size_t *n,
                                  struct ds4_error *error)
{
    struct session_host *host = s->host;
    const float *last = s->tokens.n > 0 && !s->rows_to ? session_streams(s, s->tokens.n - 1) : NULL;
    *n = 0;
    if (!last || max == 0) return DS4_OK;
    s->n_drafted = 0; /* the block's rows past the end are about to be others */
    if (next < 0 || (uint32_t)next >= host->h->n_vocab)
        return err_set(error, DS4_ERR_LIMIT, "token id %d; the vocabulary has %u", next, host->h->n_vocab);
    uint32_t room = host->layout->rewind_max > 1 ? host->layout->rewind_max - 1 : 0;
    if (max > room) max = room; /* draft rows must not push committed ones out of the ring */
    if (max > SESSION_STREAMS - 1) max = SESSION_STREAMS - 1; /* so that all may be refused */
    memcpy(host->draft_streams, last, (size_t)host->h->n_hc * host->h->n_embd * sizeof(float));
    struct op_seq seq = {.tail_i = s->tail_i, .n_rows = 1};
    int32_t token = next, pos = (int32_t)s->tokens.n - 1;
    uint32_t zero = 0;
    if (s->tokens.n + max > s->n_high) s->n_high = s->tokens.n + max; /* rows of the ring that are about to go */
    struct graph_rows rows = {.tokens = &token, .pos = &pos, .seq_i = &zero, .seqs = &seq, .span_ids = host->span_ids,
                              .n_rows = 1, .n_seqs = 1};
    if (host->steps && graph_runs_ahead(host->graph)) return draft_there(host, &rows, max, drafts, n, error);
    while (*n < max) {
        TRY(graph_mtp(host->graph, &rows, host->draft_streams, NULL, error));
        TRY(graph_mtp_logits(host->graph, &zero, 1, &host->draft_logits, error));
        graph_read_streams(host->graph, true, 0, host->draft_streams);
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

enum ds4_status session_guess(struct ds4_session *s, const struct ds4_job *job, int32_t *drafts, size_t *n,
                              struct ds4_error *error)
{
    const struct session_host *host = s->host;
    size_t room = host->ctx_tokens - s->tokens.n - job->n, rows = host->chunk_tokens - job->n, max = s->n_drafts;
    if (max > room) max = room;
    if (max > rows) max = rows;
    *n = 0;
    if (job->n != 1 || job->logits || s->rows_to) return DS4_OK;
    return ds4_session_draft(s, job->tokens[0], max, drafts, n, error);
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
    s->host->figures.n_kept++;
}
