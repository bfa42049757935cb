/* answer.c - the loop that turns logits into an answer. See answer.h. */
#include "chat/answer.h"

#include "base/clock.h"

bool cycle_watch_add(struct cycle_watch *w, int32_t id)
{
    bool cycle = false;
    for (uint64_t period = 1; period <= CYCLE_TOKENS_MAX && period <= w->n; period++) {
        bool same = w->last[(w->n - period) % CYCLE_TOKENS_MAX] == id;
        w->run[period] = same ? w->run[period] + 1 : 0;
        uint64_t total = w->run[period] + period; /* the first copy counts */
        cycle |= total >= period * CYCLE_COPIES_MIN && total >= CYCLE_TOTAL_MIN;
    }
    w->last[w->n % CYCLE_TOKENS_MAX] = id;
    w->n++;
    return cycle;
}

static bool cancelled(const struct answer_request *q) { return q->cancel && *q->cancel; }

/* Appends the token to the session. */
static enum ds4_status step(const struct answer_request *q, int32_t id, struct ds4_error *error)
{
    struct ds4_job job = {.session = q->session, .tokens = &id, .n = 1};
    return ds4_eval(q->engine, &job, 1, error);
}

static enum ds4_status decode(const struct answer_request *q, struct ds4_sampler *sampler, struct ds4_parser *parser,
                              struct answer_result *result, struct ds4_error *error)
{
    struct cycle_watch watch = {0};
    const size_t ctx_tokens = ds4_engine_info(q->engine)->ctx_tokens;
    const int32_t eos = ds4_special(q->engine)->eos;
    for (;;) {
        int32_t id;
        size_t n_tokens;
        TRY(ds4_session_next(q->session, sampler, false, &id, error));
        ds4_sampler_accept(sampler, id);
        TRY(ds4_parser_feed(parser, id, q->event, q->event_user));
        (void)ds4_session_tokens(q->session, &n_tokens);
        result->stop = ANSWER_END;
        if (id == eos) return DS4_OK;
        result->n_generated++;
        if (q->quit && *q->quit) result->stop = ANSWER_OUTPUT;
        else if (cancelled(q)) result->stop = ANSWER_CANCELLED;
        else if (q->n_max && result->n_generated >= q->n_max) result->stop = ANSWER_LENGTH;
        else if (n_tokens >= ctx_tokens) result->stop = ANSWER_CONTEXT;
        else if (cycle_watch_add(&watch, id) && !q->keep_repeating) result->stop = ANSWER_REPEATS;
        if (result->stop != ANSWER_END) return DS4_OK;
        TRY(step(q, id, error));
        /* The next prompt has no reasoning: rows of it would not be read again. */
        if (!q->parser.in_thinking) ds4_store_save(q->store, q->session, DS4_SAVE_PERIODIC, NULL);
    }
}

static enum ds4_status sync_to(const struct answer_request *q, size_t n, size_t *n_reused, struct ds4_error *error)
{
    struct ds4_store_report report;
    enum ds4_status status = ds4_store_sync(q->store, q->session, q->prompt->ids, n, q->progress, q->progress_user,
                                            &report, error);
    *n_reused = report.n_reused;
    return status;
}

static enum ds4_status prefill(const struct answer_request *q, struct answer_result *result, struct ds4_error *error)
{
    uint64_t start_ns = clock_ns();
    size_t n = q->prompt->n, before_last;
    enum ds4_status status = DS4_OK;
    if ((q->anchor || q->store) && n > 1) {
        status = sync_to(q, n - 1, &result->n_reused, error);
        if (status == DS4_OK) {
            ds4_store_save(q->store, q->session, DS4_SAVE_PREFIX, NULL);
            if (q->anchor) ds4_session_destroy(*q->anchor);
            if (q->anchor && ds4_session_fork(q->session, q->anchor, NULL) != DS4_OK) *q->anchor = NULL;
            status = sync_to(q, n, &before_last, error);
        }
    } else {
        status = sync_to(q, n, &result->n_reused, error);
    }
    result->prefill_s = clock_seconds_since(start_ns);
    return status;
}

enum ds4_status answer_generate(const struct answer_request *request, struct answer_result *result,
                                struct ds4_error *error)
{
    struct ds4_sampler *sampler = NULL;
    struct ds4_parser *parser = NULL;
    struct ds4_error local = {0};
    enum ds4_status status;
    *result = (struct answer_result){.n_prompt = request->prompt->n};
    TRY_GOTO(ds4_sampler_create(request->engine, request->sampling, &sampler, &local), out);
    TRY_GOTO(ds4_parser_create(request->engine, &request->parser, &parser), out);
    TRY_GOTO(prefill(request, result, &local), out);
    if (request->prefilled) request->prefilled(request->prefilled_user);
    uint64_t start_ns = clock_ns();
    status = decode(request, sampler, parser, result, &local);
    result->decode_s = clock_seconds_since(start_ns);
    if (status == DS4_OK && !request->parser.in_thinking)
        ds4_store_save(request->store, request->session, DS4_SAVE_TURN, NULL);
    enum ds4_status finish = ds4_parser_finish(parser, request->event, request->event_user);
    if (status == DS4_OK) status = finish;
out:
    ds4_parser_destroy(parser);
    ds4_sampler_destroy(sampler);
    if (status == DS4_ERR_CANCELLED) {
        result->stop = ANSWER_CANCELLED;
        return DS4_OK;
    }
    if (status != DS4_OK)
        return err_set(error, status, "%s", local.message[0] ? local.message : ds4_status_text(status));
    return DS4_OK;
}
