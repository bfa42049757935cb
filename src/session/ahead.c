/* ahead.c - decoding without waiting for each token: the backend chooses, and the pass over what it chose has begun
 * before the host has read it. See ds4_session_next in ds4.h.
 *
 * Two kinds of work are given to the backend, which does them in turn: a *choice* from the session's logits, which
 * leaves the token and its position where a pass looks for them; and a *pass* over one token with the choice after it.
 * While the host waits for choice k, the pass over k and choice k + 1 are already given:
 *
 *   given      choice 0 | pass, choice 1 | pass, choice 2 | ...
 *   next()              gives ^, has 0   gives ^, has 1
 *   eval(k)    takes note that the session has token k: nothing is computed
 *
 * What a pass ahead changes: the row of its position in each ring, whose slots are one more than going back needs
 * (state_layout.c); the slots of compressors, which have as many; compressed rows past the session's end, which nothing
 * sees; and the logits, of which the session's are put aside first. So taking back means to put the logits back and to
 * forget: no state is copied, and no byte that a snapshot has is another.
 *
 * What the backend cannot decide as the host would (logits_choose in kernels/sample.k) comes as "not known": then the
 * host chooses from the logits as it always does, with a generator that nothing was drawn from. The host's sampler is
 * told of each draw, so that it is the same at any time as if it had drawn. */
#include "session/session.h"

#include <string.h>

#include "session/sample.h"

/* Where nothing has to be done on the host between layers, or kept there. */
static bool may_run_ahead(const struct ds4_session *s)
{
    const struct session_host *host = s->host;
    return host->step && !host->draft && s->has_logits && s->logits_there && s->tokens.n > 0 && !s->rows_to &&
           graph_runs_ahead(host->graph);
}

void session_take_back(struct session_host *host)
{
    struct session_ahead *a = &host->ahead;
    struct backend *b = host->backend;
    struct ds4_session *s = a->session;
    struct backend_choice unused;
    struct ds4_error ignored = {0}; /* whoever works with the backend next has it again */
    if (!s) return;
    (void)!b->ops->finish(b, &ignored);
    while (a->n_had < a->n_given && b->ops->collect(b, &unused, sizeof unused)) a->n_had++;
    a->session = NULL;
    if (!a->past) return;
    a->past = false;
    b->ops->write(b, session_logits_there(s), host->logits_before, host->h->n_vocab * sizeof(float));
    while (s->n_spans > session_spans_for(s->tokens.n)) pool_drop_span(&host->pool, s->spans[--s->n_spans]);
}

void session_rest(struct session_host *host)
{
    struct ds4_error ignored = {0};
    if (host->ahead.session) (void)!host->backend->ops->finish(host->backend, &ignored);
}

/* Gives the choice from the session's logits, as the first of a row of steps. */
static bool give_choice(struct ds4_session *s, const struct backend_pick *how, uint64_t generator)
{
    struct session_host *host = s->host;
    struct backend *b = host->backend;
    int32_t last = s->tokens.ids[s->tokens.n - 1], pos = (int32_t)s->tokens.n - 1; /* the choice adds one */
    uint32_t zero = 0;
    struct op_seq seq = {.tail_i = s->tail_i, .n_rows = 1};
    struct graph_rows rows = {.tokens = &last, .pos = &pos, .seq_i = &zero, .seqs = &seq, .span_ids = s->spans,
                              .n_rows = 1, .n_seqs = 1, .n_span_ids = s->n_spans};
    struct backend_step step = {.generator = {(uint32_t)generator, (uint32_t)(generator >> 32)}};
    host->ahead = (struct session_ahead){.session = s, .how = *how, .generator = generator, .n_given = 1};
    graph_begin_steps(host->graph, &rows);
    b->ops->write(b, host->step, &step, sizeof step);
    graph_choose(host->graph, session_logits_there(s), how, host->step);
    return b->ops->post(b, &host->step->choices[0], sizeof host->step->choices[0]);
}

/* Gives the pass over the token that the last choice left, with the choice after it. False when there is no room for
 * another token. */
static bool give_pass(struct ds4_session *s)
{
    struct session_host *host = s->host;
    struct session_ahead *a = &host->ahead;
    struct backend *b = host->backend;
    struct ds4_error ignored = {0};
    uint32_t span_i = (uint32_t)(s->tokens.n / STATE_SPAN_TOKENS);
    uint32_t before = span_i < s->n_spans ? s->spans[span_i] : POOL_NONE;
    if (s->tokens.n >= host->ctx_tokens || session_own_spans(s, 1, &ignored) != DS4_OK) return false;
    if (s->spans[span_i] != before) graph_set_span(host->graph, span_i, s->spans[span_i]);
    graph_step(host->graph, (int32_t)s->tokens.n, session_logits_there(s), host->logits_before);
    graph_choose(host->graph, session_logits_there(s), &a->how, host->step);
    a->past = true;
    return b->ops->post(b, &host->step->choices[a->n_given++ % BACKEND_CHOICES], sizeof host->step->choices[0]);
}

/* The choice that follows the session's last token. False: it is not known, or the backend failed. */
static bool choice_of(struct ds4_session *s, const struct backend_pick *how, uint64_t generator, int32_t *id)
{
    struct session_host *host = s->host;
    struct session_ahead *a = &host->ahead;
    struct backend *b = host->backend;
    struct backend_choice choice;
    if (a->session != s || a->past || memcmp(&a->how, how, sizeof *how) != 0 || a->generator != generator) {
        session_take_back(host);
        if (!give_choice(s, how, generator)) return false;
    }
    (void)give_pass(s);
    if (!b->ops->collect(b, &choice, sizeof choice)) return false;
    a->n_had++;
    *id = choice.id;
    return choice.is_known;
}

enum ds4_status ds4_session_next(struct ds4_session *s, struct ds4_sampler *sampler, bool force_greedy, int32_t *id,
                                 struct ds4_error *error)
{
    struct session_ahead *a = &s->host->ahead;
    struct backend_pick how;
    if (!may_run_ahead(s) || !sampler_how(sampler, force_greedy, &how)) {
        if (a->session == s) session_take_back(s->host);
        return ds4_session_pick(s, sampler, NULL, force_greedy, id, error);
    }
    if (!choice_of(s, &how, sampler_generator(sampler), id)) {
        TRY(s->host->backend->ops->finish(s->host->backend, error));
        session_take_back(s->host);
        return ds4_session_pick(s, sampler, NULL, force_greedy, id, error);
    }
    sampler_drew(sampler, &how);
    a->generator = sampler_generator(sampler);
    a->id = *id;
    if (!a->past) a->session = NULL;
    return DS4_OK;
}

bool session_has_begun(struct session_host *host, const struct ds4_job *jobs, size_t n_jobs)
{
    struct session_ahead *a = &host->ahead;
    struct ds4_session *s = a->session;
    if (!s || !a->past || n_jobs != 1 || jobs->session != s || jobs->n != 1 || jobs->logits ||
        jobs->tokens[0] != a->id)
        return false;
    s->tokens.ids[s->tokens.n++] = a->id;
    if (s->tokens.n > s->n_high) s->n_high = s->tokens.n;
    s->has_logits = s->logits_there = true;
    a->past = false;
    return true;
}
