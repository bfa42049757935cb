/* write_responses.c - replies of /v1/responses. Output items come one after another, numbered as in the final list;
 * each event carries its place in the sequence. What a tool was called in the request - in a namespace, free-form, a
 * search for tools - its calls are called again. */
#include "serve/api/answer.h"
#include "serve/api/sealed.h"

#define ECHO_BYTES_MAX (64u << 10) /* of a member of the request that the reply repeats */

enum item { ITEM_NONE = -1, ITEM_REASONING, ITEM_MESSAGE, ITEM_CALL };
enum tool_kind { TOOL_FUNCTION, TOOL_CUSTOM, TOOL_SEARCH };

struct tool_origin {
    enum tool_kind kind;
    struct ds4_span space, name;
};

/* ---- which tool of the request a call means ------------------------------------------------------------------- */

static bool is_named(const struct jv *tool, struct ds4_span name)
{
    return span_eq(jv_text(jv_get(tool, "name")), name);
}

static bool find_in_space(const struct jv *space, struct ds4_span name, struct tool_origin *out)
{
    struct ds4_span front = jv_text(jv_get(space, "name"));
    if (front.len == 0 || !span_starts(name, front)) return false;
    struct ds4_span inner = span_skip(name, front.len);
    if (api_space_needs_mark(front)) {
        if (!span_starts(inner, SPAN("__"))) return false;
        inner = span_skip(inner, 2);
    }
    const struct jv *tools = jv_get(space, "tools");
    for (const struct jv *tool = tools ? tools->first : NULL; tool; tool = tool->next) {
        if (!is_named(tool, inner)) continue;
        bool custom = jv_text_is(jv_get(tool, "type"), "custom");
        *out = (struct tool_origin){custom ? TOOL_CUSTOM : TOOL_FUNCTION, front, inner};
        return true;
    }
    return false;
}

static struct tool_origin origin_of(const struct answer *a, size_t call_i)
{
    struct tool_origin origin = {.kind = TOOL_FUNCTION, .name = buf_span(&a->calls[call_i].name)};
    const struct jv *tools = a->request->tool_names;
    for (const struct jv *tool = tools ? tools->first : NULL; tool; tool = tool->next) {
        const struct jv *type = jv_get(tool, "type");
        if (jv_text_is(type, "namespace") && find_in_space(tool, origin.name, &origin)) return origin;
        if (jv_text_is(type, "tool_search") && span_eq(origin.name, SPAN("tool_search"))) origin.kind = TOOL_SEARCH;
        if (jv_text_is(type, "custom") && is_named(tool, origin.name)) origin.kind = TOOL_CUSTOM;
    }
    return origin;
}

/* The text of a free-form call. */
static struct ds4_span input_of(const struct answer *a, size_t call_i)
{
    struct ds4_span arguments = buf_span(&a->calls[call_i].arguments);
    const struct jv *v;
    if (jv_parse(a->request->arena, arguments, &v, NULL) != DS4_OK || !jv_is(jv_get(v, "input"), JV_STRING))
        return arguments;
    return jv_get(v, "input")->text;
}

/* ---- items ---------------------------------------------------------------------------------------------------- */

static void put_id(struct buf *out, const struct answer *a, const char *prefix)
{
    buf_printf(out, "\"%s_%s%zu\"", prefix, a->id + strlen("resp_"), a->n_blocks);
}

static void put_reasoning(struct buf *out, const struct answer *a, const char *status)
{
    buf_put_text(out, "{\"id\":");
    put_id(out, a, "rs");
    buf_printf(out, ",\"type\":\"reasoning\",\"status\":\"%s\",\"summary\":[", status);
    if (a->request->show_thinking) {
        buf_put_text(out, "{\"type\":\"summary_text\",\"text\":");
        buf_put_json_string(out, buf_span(&a->think));
        buf_put_text(out, "}");
    }
    buf_put_text(out, "]");
    if (a->request->encrypted_reasoning) {
        buf_put_text(out, ",\"encrypted_content\":\"");
        sealed_put(out, buf_span(&a->think));
        buf_put_text(out, "\"");
    }
    buf_put_text(out, "}");
}

static void put_part(struct buf *out, struct ds4_span text, struct ds4_span logprobs)
{
    buf_put_text(out, "{\"type\":\"output_text\",\"text\":");
    buf_put_json_string(out, text);
    buf_put_text(out, ",\"annotations\":[],\"logprobs\":[");
    buf_put_span(out, logprobs);
    buf_put_text(out, "]}");
}

/* Those of the tokens since the last event; from now on the open item has them. */
static void put_new_logprobs(struct answer *a)
{
    struct ds4_span fresh = buf_span(&a->logprobs[0]);
    buf_put_text(&a->out, ",\"logprobs\":[");
    buf_put_span(&a->out, fresh);
    buf_put_text(&a->out, "]");
    if (fresh.len && a->part_logprobs.text.len) buf_put_text(&a->part_logprobs, ",");
    buf_put_span(&a->part_logprobs, fresh);
    buf_clear(&a->logprobs[0]);
}

static void put_message(struct buf *out, const struct answer *a, const char *status, struct ds4_span text)
{
    buf_put_text(out, "{\"id\":");
    put_id(out, a, "msg");
    buf_printf(out, ",\"type\":\"message\",\"status\":\"%s\",\"role\":\"assistant\",\"content\":[", status);
    put_part(out, text, buf_span(a->request->stream ? &a->part_logprobs : &a->logprobs[0]));
    buf_put_text(out, "]}");
}

/* begun: with nothing of its arguments yet. */
static void put_call(struct buf *out, const struct answer *a, size_t call_i, bool begun)
{
    static const char *const types[] = {"function_call", "custom_tool_call", "tool_search_call"};
    static const char *const prefixes[] = {"fc", "ctc", "tsc"};
    struct tool_origin origin = origin_of(a, call_i);
    struct ds4_span arguments = buf_span(&a->calls[call_i].arguments);
    buf_put_text(out, "{\"id\":");
    put_id(out, a, prefixes[origin.kind]);
    buf_printf(out, ",\"type\":\"%s\",\"status\":\"%s\",\"call_id\":\"%s\"", types[origin.kind],
               begun ? "in_progress" : "completed", a->calls[call_i].id);
    if (origin.kind == TOOL_SEARCH) {
        buf_put_text(out, ",\"execution\":\"client\",\"arguments\":");
        buf_put_span(out, begun || !arguments.len ? SPAN("{}") : arguments);
        buf_put_text(out, "}");
        return;
    }
    buf_put_text(out, ",\"name\":");
    buf_put_json_string(out, origin.name);
    if (origin.space.len) {
        buf_put_text(out, ",\"namespace\":");
        buf_put_json_string(out, origin.space);
    }
    bool custom = origin.kind == TOOL_CUSTOM;
    buf_put_text(out, custom ? ",\"input\":" : ",\"arguments\":");
    if (begun) buf_put_text(out, "\"\"");
    else buf_put_json_string(out, custom ? input_of(a, call_i) : arguments);
    buf_put_text(out, "}");
}

/* The next item of the final list. */
static struct buf *new_item(struct answer *a)
{
    if (a->items.text.len) buf_put_text(&a->items, ",");
    return &a->items;
}

static bool shows_reasoning(const struct answer *a)
{
    return a->think.text.len && (a->request->show_thinking || a->request->encrypted_reasoning);
}

/* Reasoning that was cut off, as opposed to ended by the model. */
static const char *reasoning_status(const struct answer *a)
{
    return answer_is_cut(a) && !a->thinking_ended ? "incomplete" : "completed";
}

/* ---- the response as an object -------------------------------------------------------------------------------- */

static void put_echo(struct answer *a, const char *name, const char *absent)
{
    const struct jv *v = jv_get(a->request->body, name);
    buf_printf(&a->out, ",\"%s\":", name);
    if (v && v->raw.len <= ECHO_BYTES_MAX) buf_put_span(&a->out, v->raw);
    else buf_put_text(&a->out, absent);
}

static void put_usage(struct answer *a)
{
    const struct answer_usage *u = &a->usage;
    buf_printf(&a->out, ",\"usage\":{\"input_tokens\":%zu,\"input_tokens_details\":{\"cached_tokens\":%zu,"
               "\"cache_write_tokens\":%zu},\"output_tokens\":%zu,\"output_tokens_details\":{\"reasoning_tokens\":%zu},"
               "\"total_tokens\":%zu}", u->n_prompt, u->n_reused, u->n_prompt - u->n_reused, u->n_out, u->n_thinking,
               u->n_prompt + u->n_out);
}

/* failure: a constant sentence, or NULL. */
static void put_response(struct answer *a, const char *status, const char *failure)
{
    bool over = strcmp(status, "in_progress") != 0;
    buf_printf(&a->out, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%llu,\"status\":\"%s\",\"error\":",
               a->id, (unsigned long long)a->created, status);
    if (failure) {
        buf_put_text(&a->out, "{\"code\":\"server_error\",\"message\":");
        buf_put_json_string(&a->out, span_from(failure));
        buf_put_text(&a->out, "}");
    } else {
        buf_put_text(&a->out, "null");
    }
    buf_put_text(&a->out, ",\"incomplete_details\":");
    if (over && a->finish == FINISH_LENGTH) buf_put_text(&a->out, "{\"reason\":\"max_output_tokens\"}");
    else buf_put_text(&a->out, over && a->finish == FINISH_LOOP ? "{\"reason\":\"repetition\"}" : "null");
    buf_put_text(&a->out, ",\"model\":");
    buf_put_json_string(&a->out, a->request->model.len ? a->request->model : SPAN("deepseek-v4-flash"));
    buf_put_text(&a->out, ",\"output\":[");
    if (over) buf_put_span(&a->out, buf_span(&a->items));
    buf_put_text(&a->out, "],\"background\":false,\"store\":false,\"previous_response_id\":null");
    put_echo(a, "instructions", "null");
    put_echo(a, "max_output_tokens", "null");
    put_echo(a, "metadata", "{}");
    put_echo(a, "parallel_tool_calls", "true");
    put_echo(a, "reasoning", "{\"effort\":null,\"summary\":null}");
    put_echo(a, "temperature", "1");
    put_echo(a, "text", "{\"format\":{\"type\":\"text\"}}");
    put_echo(a, "tool_choice", "\"auto\"");
    put_echo(a, "tools", "[]");
    put_echo(a, "top_p", "1");
    put_echo(a, "truncation", "\"disabled\"");
    buf_put_text(&a->out, ",");
    answer_put_cache(&a->out, a);
    if (over) put_usage(a);
    else buf_put_text(&a->out, ",\"usage\":null");
    buf_put_text(&a->out, "}");
}

/* ---- events --------------------------------------------------------------------------------------------------- */

static void begin_event(struct answer *a, const char *type)
{
    buf_printf(&a->out, "event: response.%s\ndata: {\"type\":\"response.%s\",\"sequence_number\":%zu", type, type,
               a->n_events++);
}

static void end_event(struct answer *a) { buf_put_text(&a->out, "}\n\n"); }

static void response_event(struct answer *a, const char *type, const char *status, const char *failure)
{
    begin_event(a, type);
    buf_put_text(&a->out, ",\"response\":");
    put_response(a, status, failure);
    end_event(a);
}

/* An event about the open item, up to its own members. */
static void begin_item_event(struct answer *a, const char *type, const char *prefix, const char *index)
{
    begin_event(a, type);
    buf_put_text(&a->out, ",\"item_id\":");
    put_id(&a->out, a, prefix);
    buf_printf(&a->out, ",\"output_index\":%zu%s", a->n_blocks, index);
}

static void text_event(struct answer *a, const char *type, const char *prefix, const char *index, const char *member,
                       struct ds4_span text)
{
    begin_item_event(a, type, prefix, index);
    buf_printf(&a->out, ",\"%s\":", member);
    buf_put_json_string(&a->out, text);
    end_event(a);
}

static void begin_item(struct answer *a, const char *type)
{
    begin_event(a, type);
    buf_printf(&a->out, ",\"output_index\":%zu,\"item\":", a->n_blocks);
}

/* The item that the final list got last. */
static void item_done(struct answer *a, size_t from)
{
    begin_item(a, "output_item.done");
    buf_put_span(&a->out, span_skip(buf_span(&a->items), from));
    end_event(a);
    a->n_blocks++;
    a->block = ITEM_NONE;
}

#define SUMMARY ",\"summary_index\":0"
#define CONTENT ",\"content_index\":0"

static void open_reasoning(struct answer *a)
{
    a->block = ITEM_REASONING;
    a->reasoned = true;
    begin_item(a, "output_item.added");
    buf_put_text(&a->out, "{\"id\":");
    put_id(&a->out, a, "rs");
    buf_put_text(&a->out, ",\"type\":\"reasoning\",\"status\":\"in_progress\",\"summary\":[]}");
    end_event(a);
    if (!a->request->show_thinking) return;
    begin_item_event(a, "reasoning_summary_part.added", "rs", SUMMARY);
    buf_put_text(&a->out, ",\"part\":{\"type\":\"summary_text\",\"text\":\"\"}");
    end_event(a);
}

static void close_reasoning(struct answer *a)
{
    if (a->request->show_thinking) {
        text_event(a, "reasoning_summary_text.done", "rs", SUMMARY, "text", buf_span(&a->think));
        begin_item_event(a, "reasoning_summary_part.done", "rs", SUMMARY);
        buf_put_text(&a->out, ",\"part\":{\"type\":\"summary_text\",\"text\":");
        buf_put_json_string(&a->out, buf_span(&a->think));
        buf_put_text(&a->out, "}");
        end_event(a);
    }
    struct buf *items = new_item(a);
    size_t from = items->text.len;
    put_reasoning(items, a, reasoning_status(a));
    item_done(a, from);
}

/* An event with text of the message, and the logprobs of its new tokens. */
static void output_text_event(struct answer *a, const char *type, const char *member, struct ds4_span text)
{
    begin_item_event(a, type, "msg", CONTENT);
    buf_printf(&a->out, ",\"%s\":", member);
    buf_put_json_string(&a->out, text);
    put_new_logprobs(a);
    end_event(a);
}

static void close_message(struct answer *a)
{
    struct ds4_span text = span_skip(buf_span(&a->text), a->item_from);
    output_text_event(a, "output_text.done", "text", text);
    begin_item_event(a, "content_part.done", "msg", CONTENT);
    buf_put_text(&a->out, ",\"part\":");
    put_part(&a->out, text, buf_span(&a->part_logprobs));
    end_event(a);
    struct buf *items = new_item(a);
    size_t from = items->text.len;
    put_message(items, a, answer_is_cut(a) ? "incomplete" : "completed", text);
    item_done(a, from);
}

/* Ends the open item. A call that turned out to be malformed leaves its number unused: nobody may run it. */
static void settle(struct answer *a)
{
    if (!a->reasoned && shows_reasoning(a)) open_reasoning(a);
    if (a->block == ITEM_REASONING) close_reasoning(a);
    else if (a->block == ITEM_MESSAGE) close_message(a);
    else if (a->block == ITEM_CALL) a->n_blocks++;
    a->block = ITEM_NONE;
}

static void begin(struct answer *a)
{
    response_event(a, "created", "in_progress", NULL);
    response_event(a, "in_progress", "in_progress", NULL);
}

static void think(struct answer *a, struct ds4_span text)
{
    if (a->block != ITEM_REASONING) open_reasoning(a);
    text_event(a, "reasoning_summary_text.delta", "rs", SUMMARY, "delta", text);
}

static void text_delta(struct answer *a, struct ds4_span text)
{
    if (a->block != ITEM_MESSAGE) {
        settle(a);
        a->block = ITEM_MESSAGE;
        a->item_from = a->text.text.len - text.len;
        begin_item(a, "output_item.added");
        buf_put_text(&a->out, "{\"id\":");
        put_id(&a->out, a, "msg");
        buf_put_text(&a->out, ",\"type\":\"message\",\"status\":\"in_progress\",\"role\":\"assistant\","
                     "\"content\":[]}");
        end_event(a);
        begin_item_event(a, "content_part.added", "msg", CONTENT);
        buf_put_text(&a->out, ",\"part\":");
        put_part(&a->out, SPAN(""), SPAN(""));
        end_event(a);
    }
    output_text_event(a, "output_text.delta", "delta", text);
}

static void call_begin(struct answer *a, size_t call_i)
{
    settle(a);
    a->block = ITEM_CALL;
    begin_item(a, "output_item.added");
    put_call(&a->out, a, call_i, true);
    end_event(a);
}

static void call_arguments(struct answer *a, size_t call_i, struct ds4_span text)
{
    if (origin_of(a, call_i).kind == TOOL_FUNCTION)
        text_event(a, "function_call_arguments.delta", "fc", "", "delta", text);
}

static void call_end(struct answer *a, size_t call_i)
{
    struct tool_origin origin = origin_of(a, call_i);
    struct ds4_span arguments = buf_span(&a->calls[call_i].arguments);
    if (origin.kind == TOOL_CUSTOM) {
        text_event(a, "custom_tool_call_input.delta", "ctc", "", "delta", input_of(a, call_i));
        text_event(a, "custom_tool_call_input.done", "ctc", "", "input", input_of(a, call_i));
    } else if (origin.kind == TOOL_FUNCTION) {
        begin_item_event(a, "function_call_arguments.done", "fc", "");
        buf_put_text(&a->out, ",\"name\":");
        buf_put_json_string(&a->out, origin.name);
        buf_put_text(&a->out, ",\"arguments\":");
        buf_put_json_string(&a->out, arguments);
        end_event(a);
    }
    struct buf *items = new_item(a);
    size_t from = items->text.len;
    put_call(items, a, call_i, false);
    item_done(a, from);
}

static void end(struct answer *a)
{
    settle(a);
    if (answer_is_cut(a)) response_event(a, "incomplete", "incomplete", NULL);
    else response_event(a, "completed", "completed", NULL);
}

static void fail(struct answer *a, const char *sentence) { response_event(a, "failed", "failed", sentence); }

static void whole(struct answer *a)
{
    if (shows_reasoning(a)) {
        put_reasoning(new_item(a), a, reasoning_status(a));
        a->n_blocks++;
    }
    if (a->text.text.len) {
        put_message(new_item(a), a, answer_is_cut(a) ? "incomplete" : "completed", buf_span(&a->text));
        a->n_blocks++;
    }
    for (size_t i = 0; i < a->n_calls; i++) {
        put_call(new_item(a), a, i, false);
        a->n_blocks++;
    }
    put_response(a, answer_is_cut(a) ? "incomplete" : "completed", NULL);
}

const struct answer_writer answer_responses = {begin, think, text_delta, call_begin, call_arguments, call_end, end,
                                               fail, whole};
