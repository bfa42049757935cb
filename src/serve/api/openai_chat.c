/* openai_chat.c - bodies of /v1/chat/completions and /v1/completions to the neutral request. */
#include "serve/api/request.h"

static bool role_of(const struct jv *role, enum ds4_role *out)
{
    static const struct {
        const char *word;
        enum ds4_role role;
    } roles[] = {{"system", DS4_ROLE_SYSTEM}, {"developer", DS4_ROLE_SYSTEM}, {"user", DS4_ROLE_USER},
                 {"assistant", DS4_ROLE_ASSISTANT}, {"tool", DS4_ROLE_TOOL}, {"function", DS4_ROLE_TOOL},
                 {"latest_reminder", DS4_ROLE_LATEST_REMINDER}};
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (jv_text_is(role, roles[i].word)) {
            *out = roles[i].role;
            return true;
        }
    return false;
}

static enum ds4_status read_calls(struct api_builder *b, struct ds4_message *m, const struct jv *calls)
{
    if (!calls) return DS4_OK;
    if (calls->kind != JV_ARRAY) return api_refuse(b, "messages", "tool_calls must be a list");
    for (const struct jv *call = calls->first; call; call = call->next) {
        const struct jv *function = jv_get(call, "function"), *arguments = jv_get(function, "arguments");
        struct ds4_span text = jv_is(arguments, JV_STRING) ? arguments->text : arguments ? arguments->raw : SPAN("{}");
        if (!jv_is(jv_get(function, "name"), JV_STRING))
            return api_refuse(b, "messages", "a tool call has no function name");
        TRY(api_add_call(b, m, jv_text(jv_get(call, "id")), jv_text(jv_get(function, "name")), text));
    }
    return DS4_OK;
}

/* As clients from before tool_calls write it: one call, without an id, whose result is a message of role "function". */
static enum ds4_status read_old_call(struct api_builder *b, struct ds4_message *m, const struct jv *function)
{
    const struct jv *arguments = jv_get(function, "arguments");
    if (!function) return DS4_OK;
    if (!jv_is(jv_get(function, "name"), JV_STRING))
        return api_refuse(b, "messages", "a function_call has no name");
    return api_add_call(b, m, SPAN(""), jv_text(jv_get(function, "name")),
                        jv_is(arguments, JV_STRING) ? arguments->text : arguments ? arguments->raw : SPAN("{}"));
}

/* The names under which servers send the thinking of an answer, and clients send it back. */
static enum ds4_status read_reasoning(struct api_builder *b, struct ds4_message *m, const struct jv *item)
{
    const struct jv *text = jv_get(item, "reasoning_content"), *details = jv_get(item, "reasoning_details");
    if (!text) text = jv_get(item, "reasoning");
    m->reasoning = jv_text(text);
    if (m->reasoning.len || !jv_is(details, JV_ARRAY)) return DS4_OK;
    for (const struct jv *detail = details->first; detail; detail = detail->next) {
        const struct jv *part = jv_get(detail, "text");
        TRY(api_join(b, &m->reasoning, "", jv_text(part ? part : jv_get(detail, "summary"))));
    }
    return DS4_OK;
}

static enum ds4_status read_message(struct api_builder *b, const struct jv *item)
{
    struct ds4_message *m;
    enum ds4_role role;
    if (!role_of(jv_get(item, "role"), &role)) return api_refuse(b, "messages", "a message has no known role");
    TRY(api_message(b, role, &m));
    TRY(api_parts(b, m, jv_get(item, "content"), role == DS4_ROLE_TOOL));
    m->tool_call_id = jv_text(jv_get(item, "tool_call_id"));
    if (role != DS4_ROLE_ASSISTANT) return DS4_OK;
    TRY(read_reasoning(b, m, item));
    TRY(read_old_call(b, m, jv_get(item, "function_call")));
    return read_calls(b, m, jv_get(item, "tool_calls"));
}

static enum ds4_status read_tools(struct api_builder *b, const struct jv *body)
{
    const struct jv *tools = jv_get(body, "tools"), *functions = jv_get(body, "functions");
    const struct jv *choice = jv_get(body, "tool_choice");
    if (!choice) choice = jv_get(body, "function_call");
    if (jv_text_is(choice, "none")) return DS4_OK;
    TRY(api_tool_choice(b, choice));
    if ((tools && tools->kind != JV_ARRAY) || (functions && functions->kind != JV_ARRAY))
        return api_refuse(b, "tools", "tools must be a list");
    size_t i = 0;
    for (const struct jv *tool = tools ? tools->first : NULL; tool; tool = tool->next) {
        const struct jv *function = jv_get(tool, "function");
        api_at(b, "tools", i++);
        if (!jv_is(function, JV_OBJECT)) return api_refuse(b, "tools", "a tool is no function");
        TRY(api_add_tool(b, function->raw));
    }
    api_at(b, NULL, 0);
    for (const struct jv *function = functions ? functions->first : NULL; function; function = function->next)
        TRY(api_add_tool(b, function->raw));
    return DS4_OK;
}

static enum ds4_status read_format(struct api_builder *b, const struct jv *format)
{
    const struct jv *type = jv_get(format, "type");
    if (!format || jv_text_is(type, "text")) return DS4_OK;
    const struct jv *schema = jv_get(jv_get(format, "json_schema"), "schema");
    return api_format(b, type, schema ? schema : jv_get(format, "schema"), "response_format");
}

enum ds4_status api_parse_chat(struct api_builder *b, const struct jv *body)
{
    const struct jv *messages = jv_get(body, "messages");
    if (!jv_is(messages, JV_ARRAY) || messages->n == 0)
        return api_refuse(b, "messages", "messages is missing or empty");
    size_t i = 0;
    for (const struct jv *item = messages->first; item; item = item->next) {
        api_at(b, "messages", i++);
        TRY(read_message(b, item));
    }
    api_at(b, NULL, 0);
    TRY(read_tools(b, body));
    TRY(api_top_logprobs(b, body));
    b->request->logprobs = jv_is_true(jv_get(body, "logprobs"));
    b->request->return_progress = jv_is_true(jv_get(body, "return_progress"));
    for (const struct jv *m = jv_get(body, "modalities") ? jv_get(body, "modalities")->first : NULL; m; m = m->next)
        if (!jv_text_is(m, "text")) return api_refuse(b, "modalities", "this model answers in text only");
    return read_format(b, jv_get(body, "response_format"));
}

static enum ds4_status read_ids(struct api_builder *b, const struct jv *list)
{
    struct ds4_tokens *ids = &b->request->prompt_ids;
    ids->ids = arena_alloc(b->arena, list->n, sizeof *ids->ids);
    if (!ids->ids) return api_no_memory(b);
    for (const struct jv *item = list->first; item; item = item->next) {
        double id;
        if (!jv_number(item, &id) || id < 0 || id > INT32_MAX)
            return api_refuse(b, "prompt", "a list as prompt must hold token ids only");
        ids->ids[ids->n++] = (int32_t)id;
    }
    return DS4_OK;
}

/* Several texts, each with an answer of its own. */
static enum ds4_status read_prompts(struct api_builder *b, const struct jv *list)
{
    if (list->n > API_PROMPTS_MAX) return api_refuse(b, "prompt", "prompt may have at most 64 texts");
    struct ds4_span *prompts = arena_alloc(b->arena, list->n, sizeof *prompts);
    if (!prompts) return api_no_memory(b);
    for (const struct jv *item = list->first; item; item = item->next) {
        if (!jv_is(item, JV_STRING)) return api_refuse(b, "prompt", "prompt must be texts, or a list of token ids");
        prompts[b->request->n_prompts++] = item->text;
    }
    b->request->prompts = prompts;
    b->request->prompt = prompts[0];
    return DS4_OK;
}

enum ds4_status api_parse_completions(struct api_builder *b, const struct jv *body)
{
    struct api_request *r = b->request;
    const struct jv *prompt = jv_get(body, "prompt");
    double best = 1;
    r->raw = true;
    const struct jv *suffix = jv_get(body, "suffix"), *logprobs = jv_get(body, "logprobs");
    double n_top = 0;
    if (jv_is(suffix, JV_STRING) && suffix->text.len) r->suffix = suffix->text;
    r->echo = jv_is_true(jv_get(body, "echo"));
    if (logprobs && (!jv_number(logprobs, &n_top) || n_top < 0 || n_top > API_TOP_LOGPROBS_MAX))
        return api_refuse(b, "logprobs", "logprobs must be a number from 0 to 20");
    r->logprobs = logprobs != NULL;
    r->top_logprobs = (uint32_t)n_top;
    if (jv_number(jv_get(body, "best_of"), &best) && best > 1) r->unsupported = "best_of";
    if (jv_is(prompt, JV_ARRAY) && prompt->n == 1 && jv_is(prompt->first, JV_STRING)) prompt = prompt->first;
    if (jv_is(prompt, JV_STRING)) {
        r->prompt = prompt->text;
        return DS4_OK;
    }
    if (jv_is(prompt, JV_ARRAY) && prompt->n && jv_is(prompt->first, JV_STRING)) return read_prompts(b, prompt);
    if (jv_is(prompt, JV_ARRAY) && prompt->n && jv_is(prompt->first, JV_NUMBER)) {
        if (r->echo) r->unsupported = "echo";
        if (r->suffix.ptr) r->unsupported = "suffix";
        return read_ids(b, prompt);
    }
    return api_refuse(b, "prompt", "prompt must be a string, a list of strings, or a list of token ids");
}
