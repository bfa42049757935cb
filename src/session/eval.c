/* eval.c - one forward pass over rows of one or several sessions. See session.h and ds4_eval in ds4.h.
 *
 * A failed pass never poisons a session: its tokens are appended only after the pass succeeded, and rows of state that
 * were written for them lie past the session's end, where nothing looks. (Slots of rings that were overwritten are
 * accounted for by n_high, which is raised first.) */
#include "session/session.h"

enum ds4_status session_own_spans(struct ds4_session *s, size_t add, struct ds4_error *error)
{
    struct state_pool *pool = &s->host->pool;
    if (s->rows_to) return DS4_OK; /* nothing is written into spans */
    uint32_t first = (uint32_t)(s->tokens.n / STATE_SPAN_TOKENS), end = session_spans_for(s->tokens.n + add);
    if (first < s->n_spans && pool->span_refs[s->spans[first]] > 1) {
        uint32_t copy = pool_take_span(pool);
        if (copy == POOL_NONE) return err_set(error, DS4_ERR_LIMIT, "all %u spans of state are in use", pool->n_spans);
        pool->backend->ops->write(pool->backend, pool_span(pool, copy), pool_span(pool, s->spans[first]),
                                  (size_t)s->host->layout->span_bytes);
        pool_drop_span(pool, s->spans[first]);
        s->spans[first] = copy;
    }
    while (s->n_spans < end) {
        uint32_t fresh = pool_take_span(pool);
        if (fresh == POOL_NONE)
            return err_set(error, DS4_ERR_LIMIT, "all %u spans of state are in use", pool->n_spans);
        s->spans[s->n_spans++] = fresh;
    }
    return DS4_OK;
}

/* While the tail is being made again only the tokens that are there may follow, and their logits mean nothing. */
static enum ds4_status check_remaking(const struct ds4_job *job, struct ds4_error *error)
{
    const struct ds4_session *s = job->session;
    if (s->rows_to == 0) return DS4_OK;
    if (!job->logits && job->n <= s->rows_to - s->tokens.n &&
        memcmp(job->tokens, s->tokens.ids + s->tokens.n, job->n * sizeof *job->tokens) == 0)
        return DS4_OK;
    return err_set(error, DS4_ERR_STATE, "the session's state is being computed again up to token %zu", s->rows_to);
}

static enum ds4_status check_jobs(const struct session_host *host, const struct ds4_job *jobs, size_t n_jobs,
                                  struct ds4_error *error)
{
    size_t n_rows = 0;
    if (n_jobs == 0 || n_jobs > host->n_sessions_max)
        return err_set(error, DS4_ERR_LIMIT, "a batch of %zu sessions; 1 to %u are possible", n_jobs,
                       host->n_sessions_max);
    for (size_t i = 0; i < n_jobs; i++) {
        const struct ds4_job *job = &jobs[i];
        for (size_t k = 0; k < i; k++)
            if (jobs[k].session == job->session) return err_set(error, DS4_ERR_STATE, "one session twice in a batch");
        if (job->n == 0) return err_set(error, DS4_ERR_STATE, "a job without tokens");
        TRY(check_remaking(job, error));
        if (job->n > host->ctx_tokens - job->session->tokens.n)
            return err_set(error, DS4_ERR_LIMIT, "%zu tokens after %zu exceed the context of %u", job->n,
                           job->session->tokens.n, host->ctx_tokens);
        if (job->n > host->chunk_tokens - n_rows)
            return err_set(error, DS4_ERR_LIMIT, "a batch of more than %u rows", host->chunk_tokens);
        n_rows += job->n;
        for (size_t t = 0; t < job->n; t++)
            if (job->tokens[t] < 0 || (uint32_t)job->tokens[t] >= host->h->n_vocab)
                return err_set(error, DS4_ERR_LIMIT, "token id %d; the vocabulary has %u", job->tokens[t],
                               host->h->n_vocab);
    }
    return DS4_OK;
}

/* Fills the host's arrays with the rows of all jobs. */
static struct graph_rows gather_rows(struct session_host *host, const struct ds4_job *jobs, size_t n_jobs)
{
    struct graph_rows rows = {.tokens = host->tokens, .pos = host->pos, .seq_i = host->seq_i, .seqs = host->seqs,
                              .span_ids = host->span_ids};
    for (size_t i = 0; i < n_jobs; i++) {
        const struct ds4_session *s = jobs[i].session;
        host->seqs[i] = (struct op_seq){.tail_i = s->tail_i, .span_first = rows.n_span_ids, .row_first = rows.n_rows,
                                        .n_rows = (uint32_t)jobs[i].n, .rows_to = (uint32_t)s->rows_to};
        memcpy(host->span_ids + rows.n_span_ids, s->spans, s->n_spans * sizeof *s->spans);
        rows.n_span_ids += s->n_spans;
        for (size_t t = 0; t < jobs[i].n; t++, rows.n_rows++) {
            host->tokens[rows.n_rows] = jobs[i].tokens[t];
            host->pos[rows.n_rows] = (int32_t)(s->tokens.n + t);
            host->seq_i[rows.n_rows] = (uint32_t)i;
        }
    }
    rows.n_seqs = (uint32_t)n_jobs;
    return rows;
}

/* Rows of the batch whose logits are wanted on the host, or (there) in the backend's memory, and where each goes: into
 * host->row_i and row_out. A job that asks for all rows wants them on the host. */
static uint32_t choose_rows(struct session_host *host, const struct ds4_job *jobs, size_t n_jobs, bool there)
{
    uint32_t row_first = 0, n = 0;
    for (size_t i = 0; i < n_jobs; row_first += (uint32_t)jobs[i++].n) {
        struct ds4_session *s = jobs[i].session;
        uint32_t last = (uint32_t)jobs[i].n - 1;
        if (s->tokens.n + jobs[i].n < s->rows_to) continue; /* the tail is being made again */
        s->logits_there = !jobs[i].logits && host->logits_there;
        for (uint32_t t = jobs[i].logits ? 0 : last; t <= last && s->logits_there == there; t++) {
            host->row_i[n] = row_first + t;
            host->row_out[n++] = jobs[i].logits ? jobs[i].logits + t * host->h->n_vocab
                                 : there        ? session_logits_there(s)
                                                : s->logits;
        }
    }
    return n;
}

/* Logits of the last row of each job, or of all that it asks for, where they belong: in one go for each place. */
static enum ds4_status read_logits(struct session_host *host, const struct ds4_job *jobs, size_t n_jobs,
                                   struct ds4_error *error)
{
    size_t n_vocab = host->h->n_vocab;
    uint32_t n = choose_rows(host, jobs, n_jobs, true);
    if (n) TRY(graph_logits_there(host->graph, host->row_i, n, host->row_out, error));
    n = choose_rows(host, jobs, n_jobs, false);
    if (n) TRY(graph_logits(host->graph, host->row_i, n, host->row_out, error));
    for (size_t i = 0; i < n_jobs; i++)
        if (jobs[i].logits && !session_checks_drafts(&jobs[i]))
            memcpy(jobs[i].session->logits, jobs[i].logits + (jobs[i].n - 1) * n_vocab, n_vocab * sizeof(float));
    return DS4_OK;
}

/* The jobs that were not begun ahead. */
static enum ds4_status compute_jobs(struct session_host *host, const struct ds4_job *jobs, size_t n_jobs,
                                    struct ds4_error *error)
{
    for (size_t i = 0; i < n_jobs; i++) {
        struct ds4_session *s = jobs[i].session;
        TRY(session_own_spans(s, jobs[i].n, error));
        if (s->tokens.n + jobs[i].n > s->n_high) s->n_high = s->tokens.n + jobs[i].n;
        s->has_logits = false;
        s->n_drafted = s->logits_i = s->choices.n = 0;
        s->rows_there = false;
    }
    struct graph_rows rows = gather_rows(host, jobs, n_jobs);
    TRY(graph_forward(host->graph, &rows, error));
    TRY(read_logits(host, jobs, n_jobs, error));
    uint32_t row_first = 0;
    for (size_t i = 0; i < n_jobs; i++) {
        struct ds4_session *s = jobs[i].session;
        if (s->streams) TRY(session_feed_draft(&jobs[i], row_first, error));
        row_first += (uint32_t)jobs[i].n;
    }
    row_first = 0;
    for (size_t i = 0; i < n_jobs; i++) {
        struct ds4_session *s = jobs[i].session;
        memmove(s->tokens.ids + s->tokens.n, jobs[i].tokens, jobs[i].n * sizeof *s->tokens.ids);
        s->tokens.n += jobs[i].n;
        session_keep_streams(&jobs[i], row_first);
        row_first += (uint32_t)jobs[i].n;
        if (s->rows_to) s->restored = s->tokens.n; /* no way back into what was made from an unknown tail */
        if (s->rows_to == s->tokens.n) s->rows_to = 0;
        s->has_logits = s->rows_to == 0;
    }
    return DS4_OK;
}

/* A job that is alone: with the tokens that are guessed to follow, where the session drafts. */
static enum ds4_status compute_job(struct session_host *host, const struct ds4_job *job, struct ds4_error *error)
{
    struct ds4_session *s = job->session;
    int32_t tokens[SESSION_STREAMS] = {job->tokens[0]};
    size_t n;
    if (session_drafts_there(s, job)) return session_pass_there(s, tokens[0], error);
    TRY(session_guess(s, job, tokens + 1, &n, error));
    if (n == 0) return compute_jobs(host, job, 1, error);
    struct ds4_job all = {.session = s, .tokens = tokens, .n = 1 + n, .logits = s->logits};
    TRY(compute_jobs(host, &all, 1, error));
    session_note_pass(s, n);
    return DS4_OK;
}

/* Jobs of which some were begun ahead: the others are computed, and all are done or none. */
static enum ds4_status eval_the_rest(struct session_host *host, const struct ds4_job *jobs, size_t n_jobs,
                                     struct ds4_error *error)
{
    struct ds4_job rest[BACKEND_STEPS_MAX] = {{0}};
    size_t n = 0;
    for (size_t i = 0; i < n_jobs; i++)
        if (!session_has_begun(&jobs[i])) rest[n++] = jobs[i];
    session_take_back_but(host, jobs, n_jobs);
    enum ds4_status status = compute_jobs(host, rest, n, error);
    for (size_t i = 0; i < n_jobs && status == DS4_OK; i++)
        if (session_has_begun(&jobs[i])) session_note_begun(jobs[i].session);
    session_take_back(host);
    return status;
}

/* Jobs whose rows were given ahead are done; the others, if any, are computed after all that was given for sessions
 * that are not among those was taken back. */
enum ds4_status session_eval(struct session_host *host, const struct ds4_job *jobs, size_t n_jobs,
                             struct ds4_error *error)
{
    size_t n_begun = 0;
    TRY(check_jobs(host, jobs, n_jobs, error));
    for (size_t i = 0; i < n_jobs; i++) n_begun += session_has_begun(&jobs[i]);
    if (n_begun == 0 || n_jobs > BACKEND_STEPS_MAX) {
        session_take_back(host);
        return n_jobs == 1 ? compute_job(host, jobs, error) : compute_jobs(host, jobs, n_jobs, error);
    }
    if (n_begun < n_jobs) return eval_the_rest(host, jobs, n_jobs, error);
    for (size_t i = 0; i < n_jobs; i++) session_note_begun(jobs[i].session);
    return DS4_OK;
}
