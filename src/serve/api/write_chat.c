/* write_chat.c - replies of /v1/chat/completions and /v1/completions. */
#include "serve/api/answer.h"

static bool is_chat(const struct answer *a) { return a->request->dialect == API_CHAT; }

static void put_front(struct answer *a, const char *object)
{
    buf_printf(&a->out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%llu,\"model\":", a->id, object,
               (unsigned long long)a->created);
    buf_put_json_string(&a->out, a->request->model.len ? a->request->model : SPAN("deepseek-v4-flash"));
    buf_put_text(&a->out, ",\"system_fingerprint\":\"ds4-" DS4_VERSION "\"");
}

static void begin_event(struct answer *a)
{
    buf_put_text(&a->out, "data: ");
    put_front(a, is_chat(a) ? "chat.completion.chunk" : "text_completion");
    buf_put_text(&a->out, ",\"choices\":[");
}

static void begin_delta(struct answer *a)
{
    begin_event(a);
    buf_put_text(&a->out, "{\"index\":0,\"delta\":{");
}

static void end_delta(struct answer *a)
{
    buf_put_text(&a->out, "}");
    answer_put_logprobs(a);
    buf_put_text(&a->out, ",\"finish_reason\":null}]}\n\n");
}

static void text_delta(struct answer *a, const char *member, struct ds4_span text)
{
    begin_delta(a);
    buf_printf(&a->out, "\"%s\":", member);
    buf_put_json_string(&a->out, text);
    end_delta(a);
}

static void chat_begin(struct answer *a)
{
    begin_delta(a);
    buf_put_text(&a->out, "\"role\":\"assistant\",\"content\":\"\"");
    end_delta(a);
}

/* The member and its names are those that llama.cpp's server uses. */
void answer_chat_progress(struct answer *a, size_t n_read, double seconds)
{
    begin_event(a);
    buf_printf(&a->out, "{\"index\":0,\"delta\":{},\"finish_reason\":null}],\"prompt_progress\":{\"total\":%zu,"
               "\"cache\":%zu,\"processed\":%zu,\"time_ms\":%.1f}}\n\n", a->usage.n_prompt, a->usage.n_reused,
               n_read, seconds * 1e3);
}

static void chat_think(struct answer *a, struct ds4_span text) { text_delta(a, "reasoning_content", text); }
static void chat_text(struct answer *a, struct ds4_span text) { text_delta(a, "content", text); }

static void chat_call_begin(struct answer *a, size_t call_i)
{
    begin_delta(a);
    buf_printf(&a->out, "\"tool_calls\":[{\"index\":%zu,\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":",
               call_i, a->calls[call_i].id);
    buf_put_json_string(&a->out, buf_span(&a->calls[call_i].name));
    buf_put_text(&a->out, ",\"arguments\":\"\"}}]");
    end_delta(a);
}

static void chat_call_arguments(struct answer *a, size_t call_i, struct ds4_span text)
{
    begin_delta(a);
    buf_printf(&a->out, "\"tool_calls\":[{\"index\":%zu,\"function\":{\"arguments\":", call_i);
    buf_put_json_string(&a->out, text);
    buf_put_text(&a->out, "}}]");
    end_delta(a);
}

static void chat_call_end(struct answer *a, size_t call_i)
{
    (void)a;
    (void)call_i;
}

static const char *finish_of(const struct answer *a)
{
    if (answer_is_cut(a)) return "length";
    return a->finish == FINISH_CALLS && a->n_calls ? "tool_calls" : "stop";
}

/* What "length" does not say. */
static void put_finish(struct answer *a)
{
    answer_put_logprobs(a);
    buf_printf(&a->out, ",\"finish_reason\":\"%s\"", finish_of(a));
    if (a->finish == FINISH_LOOP) buf_put_text(&a->out, ",\"finish_details\":{\"type\":\"repetition\"}");
    buf_put_text(&a->out, "}");
}

static void put_usage(struct answer *a)
{
    const struct answer_usage *u = &a->usage;
    size_t n_prompt = u->n_prompt + a->before.n_prompt, n_reused = u->n_reused + a->before.n_reused;
    size_t n_out = u->n_out + a->before.n_out, computed = n_prompt - n_reused;
    buf_printf(&a->out, "\"usage\":{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%zu,\"cache_write_tokens\":%zu},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":%zu},"
               "\"prompt_cache_hit_tokens\":%zu,\"prompt_cache_miss_tokens\":%zu}",
               n_prompt, n_out, n_prompt + n_out, n_reused, computed, u->n_thinking, n_reused, computed);
}

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

static void put_timings(struct answer *a)
{
    const struct answer_usage *u = &a->usage;
    double computed = (double)(u->n_prompt - u->n_reused), out = (double)u->n_out;
    buf_printf(&a->out, "\"timings\":{\"cache_n\":%zu,\"prompt_n\":%.0f,\"prompt_ms\":%.3f,"
               "\"prompt_per_token_ms\":%.4f,\"prompt_per_second\":%.3f,\"predicted_n\":%zu,\"predicted_ms\":%.3f,"
               "\"predicted_per_token_ms\":%.4f,\"predicted_per_second\":%.3f}",
               u->n_reused, computed, u->prefill_s * 1e3, ratio(u->prefill_s * 1e3, computed),
               ratio(computed, u->prefill_s), u->n_out, u->decode_s * 1e3, ratio(u->decode_s * 1e3, out),
               ratio(out, u->decode_s));
    buf_put_text(&a->out, ",");
    answer_put_cache(&a->out, a);
}

static void put_last_choice(struct answer *a)
{
    buf_printf(&a->out, is_chat(a) ? "{\"index\":%zu,\"delta\":{}" : "{\"index\":%zu,\"text\":\"\"", a->choice_i);
    put_finish(a);
}

/* The last two events: why it ended, and what it cost if that was asked for. */
static void end_stream(struct answer *a)
{
    begin_event(a);
    put_last_choice(a);
    buf_put_text(&a->out, "],");
    put_timings(a);
    buf_put_text(&a->out, "}\n\n");
    if (a->request->include_usage) {
        begin_event(a);
        buf_put_text(&a->out, "],");
        put_usage(a);
        buf_put_text(&a->out, "}\n\n");
    }
    buf_put_text(&a->out, "data: [DONE]\n\n");
}

static void fail_stream(struct answer *a, const char *sentence)
{
    buf_put_text(&a->out, "data: ");
    answer_put_error(&a->out, a->request->dialect, 500, sentence, NULL, NULL);
    buf_put_text(&a->out, "\n\ndata: [DONE]\n\n");
}

static void put_calls(struct answer *a)
{
    buf_put_text(&a->out, ",\"tool_calls\":[");
    for (size_t i = 0; i < a->n_calls; i++) {
        buf_printf(&a->out, "%s{\"index\":%zu,\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":",
                   i ? "," : "", i, a->calls[i].id);
        buf_put_json_string(&a->out, buf_span(&a->calls[i].name));
        buf_put_text(&a->out, ",\"arguments\":");
        buf_put_json_string(&a->out, buf_span(&a->calls[i].arguments));
        buf_put_text(&a->out, "}}");
    }
    buf_put_text(&a->out, "]");
}

static void chat_whole(struct answer *a)
{
    put_front(a, "chat.completion");
    buf_put_text(&a->out, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
    if (a->text.text.len || a->n_calls == 0) buf_put_json_string(&a->out, buf_span(&a->text));
    else buf_put_text(&a->out, "null");
    if (a->think.text.len && a->request->show_thinking) {
        buf_put_text(&a->out, ",\"reasoning_content\":");
        buf_put_json_string(&a->out, buf_span(&a->think));
    }
    if (a->n_calls) put_calls(a);
    buf_put_text(&a->out, "}");
    put_finish(a);
    buf_put_text(&a->out, "],");
    put_usage(a);
    buf_put_text(&a->out, ",");
    put_timings(a);
    buf_put_text(&a->out, "}");
}

static void raw_begin(struct answer *a) { (void)a; }

static void raw_text(struct answer *a, struct ds4_span text)
{
    begin_event(a);
    buf_printf(&a->out, "{\"index\":%zu,\"text\":", a->choice_i);
    buf_put_json_string(&a->out, text);
    answer_put_logprobs(a);
    buf_put_text(&a->out, ",\"finish_reason\":null}]}\n\n");
}

static void put_raw_choice(struct answer *a)
{
    buf_printf(&a->out, "{\"index\":%zu,\"text\":", a->choice_i);
    buf_put_json_string(&a->out, buf_span(&a->text));
    put_finish(a);
}

/* An event, or one more of the choices that the whole reply will begin with. */
void answer_completions_end_choice(struct answer *a)
{
    if (a->request->stream) {
        begin_event(a);
        put_last_choice(a);
        buf_put_text(&a->out, "]}\n\n");
        return;
    }
    put_raw_choice(a);
    buf_put_span(&a->items, buf_span(&a->out));
    buf_put_text(&a->items, ",");
    a->items.failed |= a->out.failed;
    buf_clear(&a->out);
}

static void raw_whole(struct answer *a)
{
    put_front(a, "text_completion");
    buf_put_text(&a->out, ",\"choices\":[");
    buf_put_span(&a->out, buf_span(&a->items));
    put_raw_choice(a);
    buf_put_text(&a->out, "],");
    put_usage(a);
    buf_put_text(&a->out, ",");
    put_timings(a);
    buf_put_text(&a->out, "}");
}

const struct answer_writer answer_chat = {chat_begin, chat_think, chat_text, chat_call_begin, chat_call_arguments,
                                          chat_call_end, end_stream, fail_stream, chat_whole};
const struct answer_writer answer_completions = {raw_begin, raw_text, raw_text, chat_call_begin, chat_call_arguments,
                                                 chat_call_end, end_stream, fail_stream, raw_whole};
