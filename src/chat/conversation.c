/* conversation.c - turns of a conversation. See conversation.h. */
#include "chat/conversation.h"

#include <stdio.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/random.h>
#endif

#include "chat/session_file.h"

enum ds4_status conversation_init(struct conversation *c, struct ds4_engine *engine,
                                  const struct conversation_options *options, struct screen *screen,
                                  struct term_progress *progress, struct ds4_error *error)
{
    *c = (struct conversation){.engine = engine, .options = *options, .screen = screen, .progress = progress};
    return ds4_session_create(engine, &c->session, error);
}

void conversation_deinit(struct conversation *c)
{
    ds4_store_save(c->options.store, conversation_prefix(c), DS4_SAVE_SHUTDOWN, NULL);
    ds4_session_destroy(c->anchor);
    ds4_session_destroy(c->session);
    transcript_deinit(&c->transcript);
}

static void drop_state(struct conversation *c)
{
    ds4_session_destroy(c->anchor);
    c->anchor = NULL;
    (void)!ds4_session_rewind(c->session, 0, NULL);
}

void conversation_reset(struct conversation *c)
{
    transcript_reset(&c->transcript);
    drop_state(c);
}

const struct ds4_session *conversation_prefix(const struct conversation *c)
{
    return c->anchor && !c->goes_on ? c->anchor : c->session;
}

/* Tokens of the session that ds4_session_sync to the prompt would keep. */
static size_t n_usable(const struct ds4_session *session, const struct ds4_tokens *prompt)
{
    size_t n, common = 0;
    const int32_t *ids = ds4_session_tokens(session, &n);
    while (common < n && common < prompt->n && ids[common] == prompt->ids[common]) common++;
    return common < n && common < ds4_session_rewind_min(session) ? 0 : common;
}

/* Goes on from the anchor when more of it can be used. */
static void choose_session(struct conversation *c, const struct ds4_tokens *prompt)
{
    if (!c->anchor || n_usable(c->anchor, prompt) <= n_usable(c->session, prompt)) return;
    ds4_session_destroy(c->session);
    c->session = c->anchor;
    c->anchor = NULL;
}

static enum ds4_status check_room(const struct conversation *c, size_t n_tokens, struct ds4_error *error)
{
    uint32_t ctx_tokens = ds4_engine_info(c->engine)->ctx_tokens;
    if (n_tokens == 0) return err_set(error, DS4_ERR_STATE, "the prompt is empty");
    if (n_tokens < ctx_tokens) return DS4_OK;
    return err_set(error, DS4_ERR_LIMIT, "the prompt takes %zu tokens and the context holds %u: shorten it, forget "
                   "earlier turns with /reset, or start with a larger --ctx", n_tokens, ctx_tokens);
}

static enum ds4_status generate(struct conversation *c, struct ds4_tokens *prompt,
                                const struct ds4_parser_options *parser, struct ds4_error *error)
{
    struct ds4_sampling sampling = c->options.sampling;
    size_t n_adopted;
    TRY(ds4_store_adopt(c->engine, c->options.store, c->session, prompt, &n_adopted, error));
    TRY(check_room(c, prompt->n, error));
    choose_session(c, prompt);
    c->goes_on = !parser->in_thinking;
    if (sampling.seed == 0 && getentropy(&sampling.seed, sizeof sampling.seed) != 0) sampling.seed = 1;
    struct answer_request request = {
        .engine = c->engine, .session = c->session, .store = c->options.store, .prompt = prompt,
        .sampling = &sampling, .parser = *parser, .n_max = c->options.n_max,
        .keep_repeating = c->options.keep_repeating, .cancel = c->cancel,
        .quit = &c->screen->failed, .event = screen_event, .event_user = c->screen,
        .progress = c->progress ? term_progress : NULL, .progress_user = c->progress,
    };
    if (ds4_engine_info(c->engine)->n_sessions_max > 1) request.anchor = &c->anchor;
    screen_begin(c->screen);
    enum ds4_status status = answer_generate(&request, &c->last, error);
    screen_end(c->screen);
    if (status == DS4_OK && c->screen->failed) return err_set(error, DS4_ERR_IO, "%s", c->screen->out.error.message);
    /* After a failure nothing of the state is trusted: the next turn computes it again. */
    if (status != DS4_OK) drop_state(c);
    return status;
}

/* ---- across runs ---------------------------------------------------------------------------------------------- */

enum ds4_status conversation_save(struct conversation *c, const char *path, struct ds4_error *error)
{
    const struct ds4_session *prefix = conversation_prefix(c);
    TRY(session_file_save(path, &c->transcript, c->options.think, c->engine, c->options.store ? NULL : prefix, error));
    ds4_store_save(c->options.store, prefix, DS4_SAVE_USER, NULL);
    ds4_store_flush(c->options.store);
    return DS4_OK;
}

/* The words after each turn; the answer itself says to the store what to keep. */
static void keep(struct conversation *c)
{
    struct ds4_error error = {0};
    if (!c->options.keep_path ||
        session_file_save(c->options.keep_path, &c->transcript, c->options.think, c->engine, NULL, &error) == DS4_OK)
        return;
    if (!c->warned) (void)fprintf(stderr, "note: the conversation is not kept: %s\n", error.message);
    c->warned = true;
}

static bool nothing_to_compute(void *user, const char *phase, uint64_t done, uint64_t total)
{
    (void)user;
    (void)phase;
    return done == total;
}

/* The longest stored beginning of the transcript, into the session. */
static enum ds4_status find_state(struct conversation *c)
{
    struct ds4_tokens prompt = {0};
    size_t n = 0;
    enum ds4_status status = DS4_OK;
    if (c->transcript.n == 0) return DS4_OK;
    TRY_GOTO(transcript_render(&c->transcript, c->engine, c->options.think, &prompt, NULL), out);
    TRY_GOTO(ds4_store_adopt(c->engine, c->options.store, NULL, &prompt, &n, NULL), out);
    if (n > 0 && n <= ds4_engine_info(c->engine)->ctx_tokens)
        status = ds4_store_sync(c->options.store, c->session, prompt.ids, n, nothing_to_compute, NULL, NULL, NULL);
    if (status == DS4_ERR_CANCELLED) status = DS4_OK; /* what was found was damaged */
out:
    ds4_tokens_free(&prompt);
    return status;
}

enum ds4_status conversation_load(struct conversation *c, const char *path, size_t *n_tokens, struct ds4_error *error)
{
    bool with_state;
    ds4_store_save(c->options.store, conversation_prefix(c), DS4_SAVE_EVICT, NULL);
    TRY(session_file_load(path, &c->transcript, &c->options.think, c->engine, c->session, &with_state, error));
    ds4_session_destroy(c->anchor);
    c->anchor = NULL;
    if (!with_state) drop_state(c);
    if (!with_state && c->options.store && find_state(c) != DS4_OK) drop_state(c); /* the words are there */
    (void)ds4_session_tokens(c->session, n_tokens);
    return DS4_OK;
}

/* ---- turns ---------------------------------------------------------------------------------------------------- */

enum ds4_status conversation_turn(struct conversation *c, struct ds4_span text, struct ds4_error *error)
{
    struct ds4_tokens prompt = {0};
    struct ds4_parser_options parser = {.in_thinking = c->options.think != DS4_THINK_NONE};
    enum ds4_status status = transcript_add(&c->transcript, DS4_ROLE_USER, text, SPAN(""), error);
    if (status != DS4_OK) return status;
    TRY_GOTO(transcript_render(&c->transcript, c->engine, c->options.think, &prompt, error), out);
    TRY_GOTO(generate(c, &prompt, &parser, error), out);
    bool nothing = c->screen->text.text.len == 0 && c->last.stop == ANSWER_CANCELLED;
    if (nothing) transcript_pop(&c->transcript);
    else status = transcript_add(&c->transcript, DS4_ROLE_ASSISTANT, buf_span(&c->screen->text),
                                 buf_span(&c->screen->reasoning), error);
out:
    if (status != DS4_OK) transcript_pop(&c->transcript);
    else keep(c);
    ds4_tokens_free(&prompt);
    return status;
}

enum ds4_status conversation_raw(struct conversation *c, struct ds4_span text, struct ds4_error *error)
{
    struct ds4_tokens prompt = {0};
    struct ds4_parser_options parser = {.show_markers = true};
    enum ds4_status status = ds4_tokenize(c->engine, text, true, &prompt, error);
    if (status == DS4_OK) status = generate(c, &prompt, &parser, error);
    ds4_tokens_free(&prompt);
    return status;
}

void conversation_report(const struct conversation *c)
{
    static const char *const reasons[] = {
        [ANSWER_END] = "", [ANSWER_LENGTH] = "; stopped: as many tokens as asked for with -n",
        [ANSWER_CONTEXT] = "; stopped: the context is full (--ctx)", [ANSWER_CANCELLED] = "; stopped by you",
        [ANSWER_REPEATS] = "; stopped: it was going round in circles (--keep-repeating lets it)",
        [ANSWER_OUTPUT] = "; stopped: nobody reads the output",
    };
    const struct answer_result *r = &c->last;
    size_t n_computed = r->n_prompt > r->n_reused ? r->n_prompt - r->n_reused : 0, n_tokens;
    (void)ds4_session_tokens(c->session, &n_tokens);
    const char *dim = term_is(STDERR_FILENO) ? "\x1b[2m" : "", *plain = dim[0] ? "\x1b[0m" : "";
    struct ds4_expert_figures experts;
    struct ds4_draft_figures drafts;
    char streaming[96] = "", drafting[64] = "";
    ds4_engine_expert_figures(c->engine, &experts);
    ds4_engine_draft_figures(c->engine, &drafts);
    double asked = (double)(experts.n_hits + experts.n_ahead + experts.n_misses);
    int n = 0;
    if (experts.predicted_tps > 0)
        n = snprintf(streaming, sizeof streaming, " (%.2g/s predicted)", experts.predicted_tps);
    if (asked > 0)
        (void)snprintf(streaming + n, sizeof streaming - (size_t)n, "; %.0f%% of experts found in memory",
                       100 * (double)(experts.n_hits + experts.n_ahead) / asked);
    if (drafts.n_drafted > 0)
        (void)snprintf(drafting, sizeof drafting, "; %.0f%% of drafts kept, %.2f tokens a pass",
                       100 * (double)drafts.n_kept / (double)drafts.n_drafted,
                       1 + (double)drafts.n_kept / (double)drafts.n_passes);
    (void)fprintf(stderr, "%s[prompt %zu tokens, %zu computed at %.1f/s; answer %zu tokens at %.1f/s%s%s; "
                  "context %zu of %u%s]%s\n", dim, r->n_prompt, n_computed,
                  r->prefill_s > 0 ? (double)n_computed / r->prefill_s : 0, r->n_generated,
                  r->decode_s > 0 ? (double)r->n_generated / r->decode_s : 0, streaming, drafting, n_tokens,
                  ds4_engine_info(c->engine)->ctx_tokens, reasons[r->stop], plain);
}
