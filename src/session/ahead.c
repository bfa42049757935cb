/* ahead.c - decoding without waiting for each token: the backend chooses, and the pass over what it chose has begun
 * before the host has read it. See ds4_sessions_next in ds4.h.
 *
 * Two kinds of work are given to the backend, which does them in turn: a *choice* from the logits of each session,
 * which leaves tokens and their positions where a pass looks for them; and a *pass* over one token of each with the
 * choice after it. While the host waits for choice k, the pass over k and choice k + 1 are already given:
 *
 *   given      choice 0 | pass, choice 1 | pass, choice 2 | ...
 *   next()              gives ^, has 0   gives ^, has 1
 *   eval(k)    takes note that the sessions have token k: nothing is computed
 *
 * The sessions are the rows of a step. Their logits lie one behind another from the first slot on, so that the list of
 * dispatches depends on nothing but their number.
 *
 * What a pass ahead changes: the row of its position in each ring, whose slots are one more than going back needs
 * (state_layout.c); the slots of compressors, which have as many; compressed rows past the session's end, which nothing
 * sees; and the logits, of which the session's are put aside first. So taking back means to put the logits back and to
 * forget: no state is copied, and no byte that a snapshot has is another. It is done for each row apart: the pass over
 * the others is as good, because no row's bits depend on what else is in its batch.
 *
 * What the backend cannot decide as the host would (logits_choose in kernels/sample.k) comes as "not known": then the
 * host chooses from the logits as it always does, with a generator that nothing was drawn from. The host's sampler is
 * told of each draw, so that it is the same at any time as if it had drawn. */
#include "session/session.h"

#include <string.h>

#include "session/sample.h"

static struct session_ahead_row *row_of(const struct ds4_session *s)
{
    struct session_ahead *a = &s->host->ahead;
    for (uint32_t r = 0; r < a->n; r++)
        if (a->rows[r].session == s) return &a->rows[r];
    return NULL;
}

const float *session_logits_now(const struct ds4_session *s)
{
    const struct session_ahead_row *row = row_of(s);
    if (!row || !row->past) return session_logits_there(s) + (size_t)s->logits_i * s->host->h->n_vocab;
    return s->host->logits_before + (size_t)(row - s->host->ahead.rows) * s->host->h->n_vocab;
}

/* ---- taking back ---------------------------------------------------------------------------------------------- */

/* Puts back what the last pass did to a session that it is past. */
static void put_back(struct session_host *host, struct session_ahead_row *row)
{
    struct ds4_session *s = row->session;
    if (!s || !row->past) return;
    host->backend->ops->write(host->backend, session_logits_there(s), session_logits_now(s),
                              host->h->n_vocab * sizeof(float));
    row->past = false;
    session_drop_past(s);
}

void session_take_back_but(struct session_host *host, const struct ds4_job *jobs, size_t n_jobs)
{
    struct session_ahead *a = &host->ahead;
    struct backend *b = host->backend;
    struct backend_choice unused[BACKEND_STEPS_MAX];
    struct ds4_error ignored = {0}; /* whoever works with the backend next has it again */
    if (a->n == 0) return;
    (void)!b->ops->finish(b, &ignored);
    while (a->n_had < a->n_given && b->ops->collect(b, unused, a->n * sizeof *unused)) a->n_had++;
    for (uint32_t r = 0; r < a->n; r++) {
        bool stays = false;
        for (size_t i = 0; i < n_jobs; i++)
            stays = stays || (jobs[i].session == a->rows[r].session && session_has_begun(&jobs[i]));
        if (!stays) put_back(host, &a->rows[r]);
    }
}

void session_take_back(struct session_host *host)
{
    session_take_back_but(host, NULL, 0);
    host->ahead.n = 0;
}

void session_take_out(struct ds4_session *s)
{
    struct session_ahead *a = &s->host->ahead;
    struct session_ahead_row *row = row_of(s);
    if (!row) return;
    put_back(s->host, row);
    row->session = NULL;
    for (uint32_t r = 0; r < a->n; r++)
        if (a->rows[r].session) return;
    session_take_back(s->host); /* nobody is left */
}

void session_rest(struct session_host *host)
{
    struct ds4_error ignored = {0};
    if (host->ahead.n > 0) (void)!host->backend->ops->finish(host->backend, &ignored);
}

/* ---- giving --------------------------------------------------------------------------------------------------- */

/* Where nothing has to be done on the host between layers, or kept there. */
static bool may_run_ahead(const struct ds4_session *s)
{
    const struct session_host *host = s->host;
    return host->steps && !host->draft && s->has_logits && s->logits_there && s->tokens.n > 0 && !s->rows_to &&
           graph_runs_ahead(host->graph);
}

static bool all_may_run_ahead(struct ds4_next *nexts, size_t n, struct backend_pick *hows)
{
    const struct session_host *host = nexts[0].session->host;
    if (n > host->n_ahead_max) return false;
    for (size_t i = 0; i < n; i++) {
        if (nexts[i].session->host != host || !may_run_ahead(nexts[i].session) ||
            !sampler_how(nexts[i].sampler, nexts[i].force_greedy, &hows[i]))
            return false;
        for (size_t k = 0; k < i; k++)
            if (nexts[k].session == nexts[i].session || nexts[k].sampler == nexts[i].sampler) return false;
    }
    return true;
}

/* Exchanges the rows of logits of what has slots a and b; row 0 of those put aside is free. */
static void exchange_slots(struct session_host *host, uint32_t a, uint32_t b)
{
    struct backend *backend = host->backend;
    size_t n = host->h->n_vocab;
    float *x = host->logits_there + a * n, *y = host->logits_there + b * n;
    backend->ops->write(backend, host->logits_before, x, n * sizeof *x);
    backend->ops->write(backend, x, y, n * sizeof *x);
    backend->ops->write(backend, y, host->logits_before, n * sizeof *x);
    for (uint32_t i = 0; i < host->n_sessions_max; i++) {
        uint32_t slot = host->logits_slot[i];
        if (slot == a || slot == b) host->logits_slot[i] = a + b - slot;
    }
}

/* Entries of the batch's list of spans that a row has, whether they are used or not: so each keeps its place. */
static uint32_t spans_each(const struct session_host *host) { return session_spans_for(host->ctx_tokens); }

/* Row r of the batch is the session's last token: the choice adds one to its position. */
static void fill_row(struct session_host *host, const struct ds4_session *s, uint32_t r)
{
    uint32_t span_first = r * spans_each(host);
    host->tokens[r] = s->tokens.ids[s->tokens.n - 1];
    host->pos[r] = (int32_t)s->tokens.n - 1;
    host->seq_i[r] = r;
    host->seqs[r] = (struct op_seq){.tail_i = s->tail_i, .span_first = span_first, .row_first = r, .n_rows = 1};
    memset(host->span_ids + span_first, 0, spans_each(host) * sizeof *host->span_ids);
    memcpy(host->span_ids + span_first, s->spans, s->n_spans * sizeof *s->spans);
}

/* Posts the last choice that was given. */
static bool post_choice(struct session_host *host)
{
    struct session_ahead *a = &host->ahead;
    const struct backend_choice *choices = host->choices + (size_t)(a->n_given % BACKEND_CHOICES) * a->n;
    if (!host->backend->ops->post(host->backend, choices, a->n * sizeof *choices)) return false;
    a->n_given++;
    return true;
}

/* Gives the choices from the logits of all rows, as the first of a row of steps. */
static bool give_choices(struct session_host *host)
{
    struct session_ahead *a = &host->ahead;
    struct backend_step steps[BACKEND_STEPS_MAX];
    for (uint32_t r = 0; r < a->n; r++) {
        const struct session_ahead_row *row = &a->rows[r];
        uint32_t slot = host->logits_slot[row->session->tail_i];
        if (slot != r) exchange_slots(host, slot, r);
        fill_row(host, row->session, r);
        steps[r] = (struct backend_step){.how = row->how, .generator = {(uint32_t)row->generator,
                                                                        (uint32_t)(row->generator >> 32)}};
    }
    struct graph_rows rows = {.tokens = host->tokens, .pos = host->pos, .seq_i = host->seq_i, .seqs = host->seqs,
                              .span_ids = host->span_ids, .n_rows = a->n, .n_seqs = a->n,
                              .n_span_ids = a->n * spans_each(host)};
    graph_begin_steps(host->graph, &rows);
    host->backend->ops->write(host->backend, host->steps, steps, a->n * sizeof *steps);
    graph_choose(host->graph, host->logits_there, host->steps, host->choices);
    return post_choice(host);
}

/* Gives the pass over the tokens that the last choice left, with the choice after it. False when one of the sessions
 * has no room for another token. */
static bool give_pass(struct session_host *host)
{
    struct session_ahead *a = &host->ahead;
    struct ds4_error ignored = {0};
    int32_t last = 0;
    for (uint32_t r = 0; r < a->n; r++) {
        struct ds4_session *s = a->rows[r].session;
        uint32_t span_i = (uint32_t)(s->tokens.n / STATE_SPAN_TOKENS);
        uint32_t before = span_i < s->n_spans ? s->spans[span_i] : POOL_NONE;
        if (s->tokens.n >= host->ctx_tokens || session_own_spans(s, 1, &ignored) != DS4_OK) {
            for (uint32_t k = 0; k < r; k++) session_drop_past(a->rows[k].session);
            return false;
        }
        if (s->spans[span_i] != before)
            graph_set_span(host->graph, r * spans_each(host) + span_i, s->spans[span_i]);
        if ((int32_t)s->tokens.n > last) last = (int32_t)s->tokens.n;
    }
    graph_step(host->graph, last, host->logits_there, host->logits_before);
    graph_choose(host->graph, host->logits_there, host->steps, host->choices);
    for (uint32_t r = 0; r < a->n; r++) a->rows[r].past = true;
    return post_choice(host);
}

/* ---- the next tokens ------------------------------------------------------------------------------------------ */

/* Whether what was given ahead is what these need. */
static bool is_given(const struct session_ahead *a, struct ds4_next *nexts, size_t n,
                     const struct backend_pick *hows)
{
    if (a->n != n) return false;
    for (size_t r = 0; r < n; r++) {
        const struct session_ahead_row *row = &a->rows[r];
        if (row->session != nexts[r].session || row->past || memcmp(&row->how, &hows[r], sizeof row->how) != 0 ||
            row->generator != sampler_generator(nexts[r].sampler))
            return false;
    }
    return true;
}

/* Chooses for all; false when the backend failed. choices: what it made of each. */
static bool choose_all(struct session_host *host, struct ds4_next *nexts, size_t n,
                       const struct backend_pick *hows, struct backend_choice *choices)
{
    struct session_ahead *a = &host->ahead;
    if (!is_given(a, nexts, n, hows)) {
        session_take_back(host);
        *a = (struct session_ahead){.n = (uint32_t)n};
        for (size_t r = 0; r < n; r++)
            a->rows[r] = (struct session_ahead_row){.session = nexts[r].session, .how = hows[r],
                                                    .generator = sampler_generator(nexts[r].sampler)};
        if (!give_choices(host)) return false;
    }
    bool goes_on = give_pass(host);
    if (!host->backend->ops->collect(host->backend, choices, n * sizeof *choices)) return false;
    a->n_had++;
    if (!goes_on) session_take_back(host);
    return true;
}

static enum ds4_status pick(struct ds4_next *next, struct ds4_error *error)
{
    return session_pick_drafting(next->session, next->sampler, next->force_greedy, &next->id, error);
}

/* Hands out a choice; where it is not known, the host makes it, and the session is not ahead any more. */
static enum ds4_status take_choice(struct ds4_next *next, const struct backend_choice *choice,
                                   const struct backend_pick *how, struct ds4_error *error)
{
    struct session_ahead_row *row = row_of(next->session);
    if (!choice->is_known) {
        session_take_out(next->session);
        return pick(next, error);
    }
    sampler_drew(next->sampler, how);
    next->id = choice->id;
    if (!row) return DS4_OK;
    row->generator = sampler_generator(next->sampler);
    row->id = choice->id;
    return DS4_OK;
}

enum ds4_status ds4_sessions_next(struct ds4_next *nexts, size_t n, struct ds4_error *error)
{
    struct backend_pick hows[BACKEND_STEPS_MAX];
    struct backend_choice choices[BACKEND_STEPS_MAX];
    struct ds4_error ignored = {0};
    enum ds4_status first = DS4_OK, status = DS4_OK;
    struct session_host *host = n ? nexts[0].session->host : NULL;
    bool ahead = n > 0 && all_may_run_ahead(nexts, n, hows);
    for (size_t i = 0; i < n && !ahead; i++) session_take_out(nexts[i].session);
    if (ahead && !choose_all(host, nexts, n, hows, choices)) {
        status = host->backend->ops->finish(host->backend, error);
        session_take_back(host);
        if (status == DS4_OK) status = err_set(error, DS4_ERR_DEVICE, "the device gave no tokens");
    }
    for (size_t i = 0; i < n; i++) {
        struct ds4_error *to = first == DS4_OK ? error : &ignored;
        if (status != DS4_OK) nexts[i].status = status;
        else nexts[i].status = ahead ? take_choice(&nexts[i], &choices[i], &hows[i], to) : pick(&nexts[i], to);
        if (first == DS4_OK) first = nexts[i].status;
    }
    return first;
}

enum ds4_status ds4_session_next(struct ds4_session *s, struct ds4_sampler *sampler, bool force_greedy, int32_t *id,
                                 struct ds4_error *error)
{
    struct ds4_next next = {.session = s, .sampler = sampler, .force_greedy = force_greedy};
    TRY(ds4_sessions_next(&next, 1, error));
    *id = next.id;
    return DS4_OK;
}

bool session_has_begun(const struct ds4_job *job)
{
    const struct session_ahead_row *row = row_of(job->session);
    if (session_was_drafted(job)) return true;
    return row && row->past && job->n == 1 && !job->logits && job->tokens[0] == row->id;
}

void session_note_begun(struct ds4_session *s)
{
    struct session_ahead_row *row = row_of(s);
    if (s->n_drafted > 0) {
        session_keep_draft(s);
        return;
    }
    row->past = false;
    s->tokens.ids[s->tokens.n++] = row->id;
    if (s->tokens.n > s->n_high) s->n_high = s->tokens.n;
    s->has_logits = s->logits_there = true;
}
