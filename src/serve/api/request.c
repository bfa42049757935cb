/* request.c - see request.h: what all dialects share, and the choice of a dialect's reader. */
#include "serve/api/request.h"

#include <stdarg.h>
#include <stdio.h>

enum ds4_status api_refuse(struct api_builder *b, const char *param, const char *format, ...)
{
    char sentence[200];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    b->request->param = param;
    if (b->list) return err_set(b->error, DS4_ERR_FORMAT, "%s[%zu]: %s", b->list, b->item, sentence);
    return err_set(b->error, DS4_ERR_FORMAT, "%s", sentence);
}

enum ds4_status api_no_memory(struct api_builder *b)
{
    return err_set(b->error, DS4_ERR_LIMIT, "the request needs more memory than a request may have");
}

enum ds4_status api_message(struct api_builder *b, enum ds4_role role, struct ds4_message **out)
{
    if (b->n == API_MESSAGES_MAX)
        return api_refuse(b, "messages", "a conversation may have %d messages", API_MESSAGES_MAX);
    if (b->n == b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 16;
        struct ds4_message *more = arena_alloc(b->arena, cap, sizeof *more);
        if (!more) return api_no_memory(b);
        if (b->n) memcpy(more, b->messages, b->n * sizeof *more);
        b->messages = more;
        b->cap = cap;
    }
    *out = &b->messages[b->n++];
    **out = (struct ds4_message){.role = role};
    return DS4_OK;
}

enum ds4_status api_one_part(struct api_builder *b, struct ds4_message *m, struct ds4_span text)
{
    struct ds4_span *parts = arena_alloc(b->arena, m->n_parts + 1, sizeof *parts);
    if (!parts) return api_no_memory(b);
    if (m->n_parts) memcpy(parts, m->parts, m->n_parts * sizeof *parts);
    parts[m->n_parts++] = text;
    m->parts = parts;
    return DS4_OK;
}

static struct ds4_span arena_text(struct arena *a, const struct buf *b)
{
    return b->failed ? span_make(NULL, 0) : arena_copy(a, buf_span(b));
}

/* "[Unsupported image]" for what a tool returned and no text model can see. */
static enum ds4_status unsupported_part(struct api_builder *b, const struct jv *type, struct ds4_span *out)
{
    struct buf text = {0};
    buf_put_text(&text, "[Unsupported ");
    buf_put_span(&text, jv_text(type));
    buf_put_text(&text, "]");
    *out = arena_text(b->arena, &text);
    buf_deinit(&text);
    return out->ptr ? DS4_OK : api_no_memory(b);
}

enum ds4_status api_parts(struct api_builder *b, struct ds4_message *m, const struct jv *content, bool tool)
{
    const char *param = b->request->dialect == API_RESPONSES ? "input" : "messages";
    if (!content || content->kind == JV_NULL) return api_one_part(b, m, SPAN(""));
    if (content->kind == JV_STRING) return api_one_part(b, m, content->text);
    if (content->kind != JV_ARRAY) {
        if (tool) return api_one_part(b, m, content->raw);
        return api_refuse(b, param, "content must be a string or a list of parts");
    }
    struct ds4_span *parts = arena_alloc(b->arena, content->n ? content->n : 1, sizeof *parts);
    if (!parts) return api_no_memory(b);
    m->parts = parts;
    for (const struct jv *part = content->first; part; part = part->next) {
        const struct jv *text = jv_get(part, "text"), *refusal = jv_get(part, "refusal");
        if (jv_is(part, JV_STRING)) parts[m->n_parts] = part->text;
        else if (jv_is(text, JV_STRING)) parts[m->n_parts] = text->text;
        else if (jv_is(refusal, JV_STRING)) parts[m->n_parts] = refusal->text;
        else if (tool) TRY(unsupported_part(b, jv_get(part, "type"), &parts[m->n_parts]));
        else return api_refuse(b, param, "unsupported content type: this model reads text only");
        m->n_parts++;
    }
    return DS4_OK;
}

enum ds4_status api_join(struct api_builder *b, struct ds4_span *text, const char *between, struct ds4_span more)
{
    struct buf joined = {0};
    if (text->len == 0) {
        *text = more;
        return DS4_OK;
    }
    buf_put_span(&joined, *text);
    buf_put_text(&joined, between);
    buf_put_span(&joined, more);
    *text = arena_text(b->arena, &joined);
    buf_deinit(&joined);
    return text->ptr ? DS4_OK : api_no_memory(b);
}

enum ds4_status api_add_call(struct api_builder *b, struct ds4_message *m, struct ds4_span id, struct ds4_span name,
                             struct ds4_span arguments)
{
    struct ds4_tool_call *calls = arena_alloc(b->arena, m->n_calls + 1, sizeof *calls);
    if (!calls) return api_no_memory(b);
    if (m->n_calls >= API_TOOLS_MAX)
        return api_refuse(b, "messages", "a message may have %d tool calls", API_TOOLS_MAX);
    if (m->n_calls) memcpy(calls, m->calls, m->n_calls * sizeof *calls);
    calls[m->n_calls++] = (struct ds4_tool_call){.id = id, .name = name, .arguments = arguments};
    m->calls = calls;
    return DS4_OK;
}

static void put_member(struct buf *out, const char *name, struct ds4_span raw)
{
    if (out->text.len > 1) buf_put_text(out, ",");
    buf_printf(out, "\"%s\":", name);
    buf_put_span(out, raw);
}

enum ds4_status api_function_object(struct api_builder *b, struct ds4_span name, const struct jv *description,
                                    const struct jv *schema, bool strict, struct ds4_span *out)
{
    struct buf text = {0};
    buf_put_text(&text, "{\"name\":");
    buf_put_json_string(&text, name);
    if (description) put_member(&text, "description", description->raw);
    if (schema) put_member(&text, "parameters", schema->raw);
    if (strict) put_member(&text, "strict", SPAN("true"));
    buf_put_text(&text, "}");
    *out = arena_text(b->arena, &text);
    buf_deinit(&text);
    return out->ptr ? DS4_OK : api_no_memory(b);
}

enum ds4_status api_add_tool(struct api_builder *b, struct ds4_span function)
{
    struct ds4_chat *chat = &b->request->chat;
    struct ds4_span *tools = (struct ds4_span *)(uintptr_t)chat->tools;
    if (chat->n_tools >= API_TOOLS_MAX) return api_refuse(b, "tools", "a request may have %d tools", API_TOOLS_MAX);
    if (!tools) {
        tools = arena_alloc(b->arena, API_TOOLS_MAX, sizeof *tools);
        if (!tools) return api_no_memory(b);
        chat->tools = tools;
    }
    tools[chat->n_tools++] = function;
    return DS4_OK;
}

/* The prompt keeps all tools, and so its state; what may be called is a part of them. */
static enum ds4_status read_allowed(struct api_builder *b, const struct jv *choice)
{
    struct api_request *r = b->request;
    const struct jv *inner = jv_get(choice, "allowed_tools"), *list = jv_get(inner ? inner : choice, "tools");
    const struct jv *mode = jv_get(inner ? inner : choice, "mode");
    if (!jv_is(list, JV_ARRAY) || list->n == 0 || list->n > API_TOOLS_MAX)
        return api_refuse(b, "tool_choice", "allowed_tools must have a list of tools");
    if (mode && !jv_text_is(mode, "auto") && !jv_text_is(mode, "required"))
        return api_refuse(b, "tool_choice", "the mode of allowed_tools must be auto or required");
    struct ds4_span *names = arena_alloc(b->arena, list->n, sizeof *names);
    if (!names) return api_no_memory(b);
    for (const struct jv *tool = list->first; tool; tool = tool->next) {
        const struct jv *name = jv_get(jv_get(tool, "function"), "name");
        if (!name) name = jv_get(tool, "name");
        if (!jv_is(name, JV_STRING)) return api_refuse(b, "tool_choice", "a tool of allowed_tools has no name");
        names[r->n_allowed++] = name->text;
    }
    r->allowed = names;
    r->tools_required = jv_text_is(mode, "required");
    return DS4_OK;
}

enum ds4_status api_tool_choice(struct api_builder *b, const struct jv *choice)
{
    struct api_request *r = b->request;
    const struct jv *type = jv_is(choice, JV_STRING) ? choice : jv_get(choice, "type");
    const struct jv *name = jv_get(jv_get(choice, "function"), "name");
    if (!name) name = jv_get(choice, "name");
    if (!choice || jv_text_is(type, "auto")) return DS4_OK;
    if (jv_text_is(type, "allowed_tools")) return read_allowed(b, choice);
    r->tools_required = true;
    if (jv_text_is(type, "required") || jv_text_is(type, "any")) return DS4_OK;
    bool named = !type || jv_text_is(type, "function") || jv_text_is(type, "tool") || jv_text_is(type, "custom");
    if (!named || !jv_is(name, JV_STRING) || name->text.len == 0)
        return api_refuse(b, "tool_choice", "tool_choice must be auto, none, required, or name a tool");
    r->tool_name = name->text;
    return DS4_OK;
}

enum ds4_status api_top_logprobs(struct api_builder *b, const struct jv *body)
{
    double n = 0;
    const struct jv *top = jv_get(body, "top_logprobs");
    if (top && (!jv_number(top, &n) || n < 0 || n > API_TOP_LOGPROBS_MAX))
        return api_refuse(b, "top_logprobs", "top_logprobs must be a number from 0 to 20");
    b->request->top_logprobs = (uint32_t)n;
    return DS4_OK;
}

enum ds4_status api_format(struct api_builder *b, const struct jv *type, const struct jv *schema, const char *param)
{
    if (jv_text_is(type, "json_schema") && !schema) return api_refuse(b, param, "json_schema needs a schema");
    if (!jv_text_is(type, "json_schema") && !jv_text_is(type, "json_object"))
        return api_refuse(b, param, "the type of the answer's format must be text, json_object or json_schema");
    b->request->chat.response_schema = schema ? schema->raw : SPAN("{\"type\": \"object\"}");
    return DS4_OK;
}

static const struct {
    const char *word;
    enum ds4_think_mode mode;
} efforts[] = {{"none", DS4_THINK_NONE}, {"off", DS4_THINK_NONE}, {"minimal", DS4_THINK_LOW}, {"low", DS4_THINK_LOW},
               {"medium", DS4_THINK_HIGH}, {"high", DS4_THINK_HIGH}, {"xhigh", DS4_THINK_HIGH},
               {"max", DS4_THINK_MAX}, {"ultra", DS4_THINK_MAX}};

enum ds4_status api_effort(struct api_builder *b, const struct jv *effort, const char *param)
{
    if (!effort) return DS4_OK;
    for (size_t i = 0; i < sizeof efforts / sizeof efforts[0]; i++)
        if (jv_text_is(effort, efforts[i].word)) {
            b->request->chat.think = efforts[i].mode;
            return DS4_OK;
        }
    return api_refuse(b, param, "the reasoning effort must be one of none, minimal, low, medium, high, xhigh, max");
}

static void think_on(struct api_request *r, bool on)
{
    if (!on) r->chat.think = DS4_THINK_NONE;
    else if (r->chat.think == DS4_THINK_NONE) r->chat.think = DS4_THINK_LOW;
}

/* Most tokens of thinking, as the dialects call it. 0 is no thinking at all. */
static enum ds4_status read_budget(struct api_builder *b, const struct jv *body)
{
    struct api_request *r = b->request;
    const struct jv *kwargs = jv_get(body, "chat_template_kwargs");
    const struct {
        const struct jv *v;
        const char *param;
    } places[] = {{jv_get(jv_get(body, "thinking"), "budget_tokens"), "thinking"},
                  {jv_get(jv_get(body, "reasoning"), "max_tokens"), "reasoning"},
                  {jv_get(kwargs, "thinking_budget"), "chat_template_kwargs"},
                  {jv_get(body, "thinking_budget"), "thinking_budget"}};
    r->think_budget = b->options->think_budget;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        double n;
        if (!places[i].v) continue;
        if (!jv_number(places[i].v, &n)) return api_refuse(b, places[i].param, "a thinking budget must be a number");
        if (n == 0) think_on(r, false);
        r->think_budget = n <= 0 ? 0 : n > 1e9 ? 1000000000u : (uint32_t)n; /* negative: as much as it takes */
    }
    return DS4_OK;
}

static enum ds4_status read_thinking(struct api_builder *b, const struct jv *body)
{
    struct api_request *r = b->request;
    const struct jv *thinking = jv_get(body, "thinking"), *think = jv_get(body, "think");
    const struct jv *kwargs = jv_get(body, "chat_template_kwargs"), *reasoning = jv_get(body, "reasoning");
    r->chat.think = jv_text_is(jv_get(body, "model"), "deepseek-chat") ? DS4_THINK_NONE : DS4_THINK_LOW;
    TRY(api_effort(b, jv_get(kwargs, "reasoning_effort"), "chat_template_kwargs"));
    TRY(api_effort(b, jv_get(body, "reasoning_effort"), "reasoning_effort"));
    TRY(api_effort(b, jv_get(jv_get(body, "output_config"), "effort"), "output_config"));
    TRY(api_effort(b, jv_get(reasoning, "effort"), "reasoning"));
    const struct jv *switches[] = {jv_get(kwargs, "enable_thinking"), jv_get(kwargs, "thinking"),
                                   jv_get(reasoning, "enabled"), think, thinking};
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++)
        if (jv_is(switches[i], JV_BOOL)) think_on(r, switches[i]->truth);
    const struct jv *type = jv_get(thinking, "type");
    if (jv_text_is(type, "disabled")) think_on(r, false);
    if (jv_text_is(type, "enabled") || jv_text_is(type, "adaptive")) think_on(r, true);
    r->show_thinking = !jv_text_is(jv_get(thinking, "display"), "omitted");
    return read_budget(b, body);
}

/* A number within [min, max] into *out; missing leaves it as it is. */
static enum ds4_status read_number(struct api_builder *b, const struct jv *body, const char *name, double min,
                                   double max, float *out)
{
    const struct jv *v = jv_get(body, name);
    double number;
    if (!v) return DS4_OK;
    if (!jv_number(v, &number) || number < min || number > max)
        return api_refuse(b, name, "%s must be a number from %g to %g", name, min, max);
    *out = (float)number;
    return DS4_OK;
}

/* {"id": bias}, or [[id, bias], ...]; false in place of a bias is a ban. */
static enum ds4_status read_bias(struct api_builder *b, const struct jv *bias)
{
    if (!bias) return DS4_OK;
    bool list = bias->kind == JV_ARRAY;
    if ((!list && bias->kind != JV_OBJECT) || bias->n > API_BIAS_MAX)
        return api_refuse(b, "logit_bias", "logit_bias must be an object of at most 1024 token ids");
    struct ds4_logit_bias *out = arena_alloc(b->arena, bias->n + 1, sizeof *out);
    if (!out) return api_no_memory(b);
    size_t n = 0;
    for (const struct jv *item = bias->first; item; item = item->next, n++) {
        double id = -1, value = 0;
        struct jv name = {.kind = JV_NUMBER, .raw = item->name};
        const struct jv *key = !list ? &name : jv_is(item, JV_ARRAY) ? item->first : NULL;
        const struct jv *what = !list ? item : key ? key->next : NULL;
        bool ban = jv_is_false(what);
        if (!jv_number(key, &id) || id < 0 || id > INT32_MAX || (!ban && !jv_number(what, &value)) || value < -100 ||
            value > 100)
            return api_refuse(b, "logit_bias", "logit_bias maps token ids to numbers from -100 to 100");
        out[n] = (struct ds4_logit_bias){.id = (int32_t)id, .bias = ban || value <= -100 ? -1e30f : (float)value};
    }
    b->request->sampling.bias = out;
    b->request->sampling.n_bias = n;
    return DS4_OK;
}

static enum ds4_status read_sampling(struct api_builder *b, const struct jv *body)
{
    struct ds4_sampling *s = &b->request->sampling;
    float top_k = 0, seed_absent = -1;
    double seed;
    TRY(read_number(b, body, "temperature", 0, 100, &s->temperature));
    TRY(read_number(b, body, "top_p", 0, 1, &s->top_p));
    TRY(read_number(b, body, "min_p", 0, 1, &s->min_p));
    TRY(read_number(b, body, "top_k", -1, 1e9, &top_k));
    TRY(read_number(b, body, "presence_penalty", -2, 2, &s->presence_penalty));
    TRY(read_number(b, body, "frequency_penalty", -2, 2, &s->frequency_penalty));
    TRY(read_number(b, body, "repeat_penalty", 0.01, 100, &s->repetition_penalty));
    TRY(read_number(b, body, "repetition_penalty", 0.01, 100, &s->repetition_penalty));
    TRY(read_number(b, body, "seed", -1e19, 1e19, &seed_absent));
    s->top_k = top_k > 0 ? (int32_t)(top_k < 1e6f ? top_k : 1e6f) : 0;
    if (s->top_p <= 0) s->top_p = 1;
    if (jv_number(jv_get(body, "seed"), &seed)) {
        b->request->has_seed = true;
        s->seed = seed < 0 ? (uint64_t)(int64_t)(seed < -9e18 ? -9e18 : seed) : (uint64_t)seed;
    }
    return read_bias(b, jv_get(body, "logit_bias"));
}

static enum ds4_status read_limits(struct api_builder *b, const struct jv *body)
{
    static const char *const names[] = {"max_completion_tokens", "max_output_tokens", "max_tokens"};
    struct api_request *r = b->request;
    r->n_max = API_TOKENS_DEFAULT;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct jv *v = jv_get(body, names[i]);
        double number;
        if (!v) continue;
        if (!jv_number(v, &number)) return api_refuse(b, names[i], "the token limit must be a number");
        if (number < 0) continue;
        r->n_max = number > 1e9 ? 1000000000u : (uint32_t)number;
        break;
    }
    return DS4_OK;
}

static enum ds4_status read_stops(struct api_builder *b, const struct jv *stop, const char *param)
{
    struct api_request *r = b->request;
    if (!stop) return DS4_OK;
    const struct jv *item = stop->kind == JV_ARRAY ? stop->first : stop;
    for (; item; item = stop->kind == JV_ARRAY ? item->next : NULL) {
        struct ds4_span text = jv_text(item);
        if (item->kind != JV_STRING || text.len > DS4_STOP_BYTES_MAX || r->n_stops == DS4_STOPS_MAX)
            return api_refuse(b, param, "stop takes up to 16 strings of at most 1024 bytes");
        if (text.len) r->stops[r->n_stops++] = text;
    }
    return DS4_OK;
}

enum ds4_status api_common(struct api_builder *b, const struct jv *body)
{
    struct api_request *r = b->request;
    const struct jv *n = jv_get(body, "n");
    double number;
    r->model = jv_text(jv_get(body, "model"));
    r->stream = jv_is_true(jv_get(body, "stream"));
    r->include_usage = jv_is_true(jv_get(jv_get(body, "stream_options"), "include_usage"));
    r->one_call = jv_is_false(jv_get(body, "parallel_tool_calls"));
    r->no_loop_guard = jv_is_false(jv_get(body, "loop_guard"));
    if (n && (!jv_number(n, &number) || number < 1 || number > 1))
        return api_refuse(b, "n", "n must be 1: there is one answer to a prompt");
    TRY(read_thinking(b, body));
    TRY(read_sampling(b, body));
    TRY(read_limits(b, body));
    TRY(read_stops(b, jv_get(body, "stop"), "stop"));
    return read_stops(b, jv_get(body, "stop_sequences"), "stop_sequences");
}

/* Sampled bytes for calls that this server made, and the thinking before them where the client brings none or only its
 * end: the helper of an SDK keeps the last piece of a stream. */
static void attach_replays(struct api_builder *b)
{
    if (!b->options->replay) return;
    for (size_t i = 0; i < b->n; i++) {
        struct ds4_message *m = &b->messages[i];
        if (m->n_calls == 0) continue;
        struct ds4_tool_call *first = (struct ds4_tool_call *)(uintptr_t)m->calls;
        struct ds4_span reasoning = SPAN("");
        first->sampled = b->options->replay(b->options->replay_user, b->arena, m->calls, m->n_calls, &reasoning);
        if (first->sampled.len && reasoning.ptr && span_ends(reasoning, m->reasoning)) m->reasoning = reasoning;
    }
}

enum ds4_status api_parse(enum api_dialect dialect, const struct api_options *options, struct arena *arena,
                          struct ds4_span body, struct api_request *out, struct ds4_error *error)
{
    static enum ds4_status (*const readers[])(struct api_builder *, const struct jv *) = {
        [API_CHAT] = api_parse_chat, [API_COMPLETIONS] = api_parse_completions,
        [API_MESSAGES] = api_parse_messages, [API_RESPONSES] = api_parse_responses};
    const struct jv *root;
    *out = (struct api_request){.dialect = dialect, .arena = arena, .sampling = ds4_sampling_default()};
    out->sampling.min_p = options->min_p;
    struct api_builder b = {.request = out, .options = options, .arena = arena, .error = error};
    TRY(jv_parse(arena, body, &root, error));
    if (root->kind != JV_OBJECT) return api_refuse(&b, NULL, "the body must be a JSON object");
    out->body = root;
    TRY(api_common(&b, root));
    TRY(readers[dialect](&b, root));
    attach_replays(&b);
    out->chat.messages = b.messages;
    out->chat.n_messages = b.n;
    out->chat.effort_table = options->effort_table;
    out->chat.tools_first = options->tools_first;
    return DS4_OK;
}
