/* answer.c - see answer.h. */
#include "serve/api/answer.h"

#include <stdio.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <sys/random.h>
#endif

#include "base/clock.h"
#include "base/mem.h"

void answer_make_id(char out[ANSWER_ID_BYTES], const char *prefix, size_t n_digits)
{
    unsigned char bytes[16] = {0};
    size_t n = strlen(prefix);
    ensure(n_digits <= 32 && n + n_digits < ANSWER_ID_BYTES);
    ensure(getentropy(bytes, sizeof bytes) == 0);
    memcpy(out, prefix, n);
    for (size_t i = 0; i < n_digits; i++) out[n + i] = "0123456789abcdef"[bytes[i / 2] >> 4 * (i % 2) & 15];
    out[n + n_digits] = 0;
}

enum ds4_status answer_init(struct answer *a, const struct api_request *request, struct exchange *x,
                            struct ds4_error *error)
{
    static const struct answer_writer *const writers[] = {
        [API_CHAT] = &answer_chat, [API_COMPLETIONS] = &answer_completions, [API_MESSAGES] = &answer_messages,
        [API_RESPONSES] = &answer_responses};
    static const char *const prefixes[] = {[API_CHAT] = "chatcmpl-", [API_COMPLETIONS] = "cmpl-",
                                           [API_MESSAGES] = "msg_", [API_RESPONSES] = "resp_"};
    *a = (struct answer){.request = request, .exchange = x, .writer = writers[request->dialect], .block = -1,
                         .created = clock_unix_s()};
    a->usage.source = "none";
    a->usage.mismatch = ANSWER_NO_MISMATCH;
    answer_make_id(a->id, prefixes[request->dialect], 24);
    a->calls = mem_zalloc(ANSWER_CALLS_MAX, sizeof *a->calls);
    if (!a->calls) return err_set(error, DS4_ERR_NOMEM, "no memory for an answer");
    return request->n_stops ? ds4_stop_create(request->stops, request->n_stops, &a->stop, error) : DS4_OK;
}

void answer_deinit(struct answer *a)
{
    for (size_t i = 0; a->calls && i < ANSWER_CALLS_MAX; i++) {
        buf_deinit(&a->calls[i].name);
        buf_deinit(&a->calls[i].arguments);
    }
    mem_free(a->calls);
    buf_deinit(&a->think);
    buf_deinit(&a->text);
    ds4_stop_destroy(a->stop);
    buf_deinit(&a->items);
    buf_deinit(&a->logprobs[0]);
    buf_deinit(&a->logprobs[1]);
    buf_deinit(&a->part_logprobs);
    buf_deinit(&a->out);
    *a = (struct answer){0};
}

static void show_text(struct answer *a, struct ds4_span text)
{
    if (text.len == 0) return;
    buf_put_span(&a->text, text);
    if (a->request->stream) a->writer->text(a, text);
}

void answer_begin(struct answer *a)
{
    a->begun = true;
    if (a->request->stream) a->writer->begin(a);
    if (a->request->echo) show_text(a, a->request->prompt);
    if (a->request->stream) answer_flush(a);
}

void answer_progress(struct answer *a, size_t n_read, double seconds)
{
    if (!a->request->stream || !a->request->return_progress || a->request->dialect != API_CHAT) return;
    answer_chat_progress(a, n_read, seconds);
    answer_flush(a);
}

/* Something of the answer did not fit into memory. */
static bool is_lossy(const struct answer *a)
{
    bool failed = a->out.failed || a->text.failed || a->think.failed || a->items.failed ||
                  a->logprobs[0].failed || a->logprobs[1].failed || a->part_logprobs.failed;
    for (size_t i = 0; i < a->n_calls; i++) failed |= a->calls[i].name.failed || a->calls[i].arguments.failed;
    return failed;
}

void answer_flush(struct answer *a)
{
    if (is_lossy(a)) exchange_drop(a->exchange);
    if (a->out.text.len == 0) return;
    exchange_put(a->exchange, buf_span(&a->out));
    buf_clear(&a->out);
}

static void add_text(struct answer *a, struct ds4_span text)
{
    int hit = -1;
    a->thinking_ended = true;
    if (a->stop && ds4_stop_feed(a->stop, text, &text, &hit) != DS4_OK) a->text.failed = true;
    show_text(a, text);
    if (hit < 0) return;
    a->stop_sequence = a->request->stops[hit];
    a->finish = FINISH_SEQUENCE;
    a->ended = true;
}

static void release_held(struct answer *a)
{
    if (a->stop) show_text(a, ds4_stop_finish(a->stop));
}

static void add_think(struct answer *a, struct ds4_span text)
{
    buf_put_span(&a->think, text);
    if (!a->request->stream) return;
    if (a->request->show_thinking) a->writer->think(a, text);
    else if (a->request->dialect == API_MESSAGES) a->writer->think(a, SPAN("")); /* its block carries it sealed */
}

static void begin_call(struct answer *a, const struct ds4_event *event)
{
    a->thinking_ended = true;
    if (a->n_calls == ANSWER_CALLS_MAX || (a->request->one_call && a->n_calls == 1)) {
        a->ended = true;
        a->finish = FINISH_CALLS;
        return;
    }
    release_held(a);
    struct answer_call *call = &a->calls[a->n_calls++];
    answer_make_id(call->id, a->request->dialect == API_MESSAGES ? "toolu_" : "call_", 32);
    buf_put_span(&call->name, event->text);
    if (a->request->stream && !a->hold_calls) a->writer->call_begin(a, a->n_calls - 1);
}

static void add_arguments(struct answer *a, struct ds4_span text)
{
    if (a->n_calls == 0) return;
    buf_put_span(&a->calls[a->n_calls - 1].arguments, text);
    if (a->request->stream && !a->hold_calls) a->writer->call_arguments(a, a->n_calls - 1, text);
}

static void end_call(struct answer *a)
{
    if (a->n_calls == 0) return;
    a->calls[a->n_calls - 1].ended = true;
    if (a->request->stream && !a->hold_calls) a->writer->call_end(a, a->n_calls - 1);
}

static void drop_calls(struct answer *a)
{
    for (size_t i = 0; i < a->n_calls; i++) {
        buf_clear(&a->calls[i].name);
        buf_clear(&a->calls[i].arguments);
    }
    a->n_calls = 0;
}

static void break_calls(struct answer *a, struct ds4_span raw)
{
    drop_calls(a);
    add_text(a, raw);
}

static void finish_calls(struct answer *a, struct ds4_span block)
{
    a->ended = true;
    a->finish = FINISH_CALLS;
    if (a->hold_calls && a->n_calls && a->repeats(a->sampled_user, a)) {
        drop_calls(a);
        a->finish = FINISH_LOOP;
        return;
    }
    for (size_t i = 0; a->hold_calls && a->request->stream && i < a->n_calls; i++) {
        a->writer->call_begin(a, i);
        a->writer->call_arguments(a, i, buf_span(&a->calls[i].arguments));
        a->writer->call_end(a, i);
    }
    if (a->sampled && a->n_calls) a->sampled(a->sampled_user, a, block);
}

void answer_event(void *user, const struct ds4_event *event)
{
    struct answer *a = user;
    if (a->ended) return;
    switch (event->kind) {
    case DS4_EVENT_THINK: add_think(a, event->text); break;
    case DS4_EVENT_TEXT: add_text(a, event->text); break;
    case DS4_EVENT_CALL_BEGIN: begin_call(a, event); break;
    case DS4_EVENT_CALL_ARGS: add_arguments(a, event->text); break;
    case DS4_EVENT_CALL_END: end_call(a); break;
    case DS4_EVENT_CALLS_DONE: finish_calls(a, event->text); break;
    case DS4_EVENT_CALLS_BROKEN: break_calls(a, event->text); break;
    case DS4_EVENT_STOP: break;
    }
}

static void set_finish(struct answer *a, enum answer_finish finish)
{
    if (a->ended) return;
    release_held(a);
    a->finish = finish;
}

void answer_end_choice(struct answer *a, enum answer_finish finish)
{
    set_finish(a, finish);
    answer_completions_end_choice(a);
    if (a->request->stream) answer_flush(a);
    a->before.n_prompt += a->usage.n_prompt;
    a->before.n_reused += a->usage.n_reused;
    a->before.n_out += a->usage.n_out;
    a->usage.n_out = a->usage.n_reused = 0;
    a->choice_i++;
    a->text.text.len = 0; /* not cleared: that it failed is not forgotten */
    if (a->stop) (void)ds4_stop_finish(a->stop); /* of a choice that a string ended */
    a->ended = false;
}

void answer_end(struct answer *a, enum answer_finish finish)
{
    set_finish(a, finish);
    if (a->request->stream) {
        a->writer->end(a);
        answer_flush(a);
        exchange_end(a->exchange);
        return;
    }
    a->writer->whole(a);
    if (is_lossy(a)) {
        answer_fail(a, "no memory for the answer");
        return;
    }
    (void)exchange_reply(a->exchange, 200, "application/json", buf_span(&a->out), NULL);
}

void answer_fail(struct answer *a, const char *sentence)
{
    struct buf body = {0};
    answer_put_error(&body, a->request->dialect, 500, sentence, NULL, NULL);
    if (!exchange_reply(a->exchange, 500, "application/json", buf_span(&body), NULL)) {
        a->writer->fail(a, sentence);
        answer_flush(a);
        exchange_end(a->exchange);
    }
    buf_deinit(&body);
}

bool answer_is_cut(const struct answer *a) { return a->finish == FINISH_LENGTH || a->finish == FINISH_LOOP; }

void answer_put_cache(struct buf *out, const struct answer *a)
{
    const struct answer_usage *u = &a->usage;
    buf_printf(out, "\"ds4_cache\":{\"source\":\"%s\",\"reused_tokens\":%zu,\"reused_bytes\":%zu,\"prompt_tokens\":%zu,"
               "\"first_mismatch\":", u->source, u->n_reused, u->reused_bytes, u->n_prompt);
    if (u->mismatch == ANSWER_NO_MISMATCH) buf_put_text(out, "null}");
    else buf_printf(out, "{\"token\":%zu,\"byte\":%zu}}", u->mismatch, u->mismatch_byte);
}

void answer_tell_cache(struct answer *a)
{
    const struct answer_usage *u = &a->usage;
    char mismatch[32] = "none";
    if (u->mismatch != ANSWER_NO_MISMATCH) (void)snprintf(mismatch, sizeof mismatch, "%zu", u->mismatch);
    exchange_say_cache(a->exchange, "%s; tokens=%zu/%zu; bytes=%zu; first-mismatch=%s", u->source, u->n_reused,
                       u->n_prompt, u->reused_bytes, mismatch);
}

static const char *type_of(int status, bool anthropic)
{
    static const struct {
        int status;
        const char *openai, *anthropic;
    } types[] = {{401, "authentication_error", "authentication_error"}, {403, "permission_error", "permission_error"},
                 {404, "not_found_error", "not_found_error"}, {413, "request_too_large", "request_too_large"},
                 {500, "server_error", "api_error"}, {501, "not_supported_error", "not_supported_error"},
                 {503, "unavailable_error", "overloaded_error"}, {529, "unavailable_error", "overloaded_error"}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].status == status) return anthropic ? types[i].anthropic : types[i].openai;
    return "invalid_request_error";
}

void answer_put_error(struct buf *out, enum api_dialect dialect, int status, const char *sentence, const char *param,
                      const char *code)
{
    bool anthropic = dialect == API_MESSAGES;
    buf_put_text(out, anthropic ? "{\"type\":\"error\",\"error\":{\"type\":\"" : "{\"error\":{\"type\":\"");
    buf_put_text(out, type_of(status, anthropic));
    buf_put_text(out, "\",\"message\":");
    buf_put_json_string(out, span_from(sentence));
    if (anthropic) {
        char id[ANSWER_ID_BYTES];
        answer_make_id(id, "req_", 24);
        buf_printf(out, "},\"request_id\":\"%s\"}", id);
        return;
    }
    buf_put_text(out, ",\"param\":");
    if (param) buf_put_json_string(out, span_from(param));
    else buf_put_text(out, "null");
    buf_put_text(out, ",\"code\":");
    if (status == 401) code = "invalid_api_key";
    if (code) buf_put_json_string(out, span_from(code));
    else buf_put_text(out, "null");
    buf_put_text(out, "}}");
}

void answer_put_error_event(struct buf *out, enum api_dialect dialect, struct ds4_span error_body,
                            const char *sentence)
{
    if (dialect == API_RESPONSES) {
        buf_put_text(out, "event: response.failed\ndata: {\"type\":\"response.failed\",\"sequence_number\":0,"
                     "\"response\":{\"id\":\"resp_0\",\"object\":\"response\",\"status\":\"failed\",\"output\":[],"
                     "\"error\":{\"code\":\"server_error\",\"message\":");
        buf_put_json_string(out, span_from(sentence));
        buf_put_text(out, "}}}\n\n");
        return;
    }
    buf_put_text(out, dialect == API_MESSAGES ? "event: error\ndata: " : "data: ");
    buf_put_span(out, error_body);
    buf_put_text(out, dialect == API_MESSAGES ? "\n\n" : "\n\ndata: [DONE]\n\n");
}
