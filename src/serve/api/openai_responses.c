/* openai_responses.c - bodies of /v1/responses to the neutral request. */
#include "serve/api/request.h"
#include "serve/api/sealed.h"

bool api_space_needs_mark(struct ds4_span space)
{
    char last = space.ptr[space.len - 1];
    return (last >= '0' && last <= '9') || ((last | 0x20) >= 'a' && (last | 0x20) <= 'z');
}

enum ds4_status api_namespaced(struct api_builder *b, struct ds4_span space, struct ds4_span name,
                               struct ds4_span *out)
{
    *out = name;
    if (space.len == 0) return DS4_OK;
    *out = space;
    return api_join(b, out, api_space_needs_mark(space) ? "__" : "", name);
}

/* The assistant message that an item belongs to: the last message, or a new one. */
static enum ds4_status assistant_of(struct api_builder *b, bool needs_no_text, struct ds4_message **out)
{
    struct ds4_message *last = b->n ? &b->messages[b->n - 1] : NULL;
    if (last && last->role == DS4_ROLE_ASSISTANT &&
        (!needs_no_text || (last->n_parts == 0 && last->n_calls == 0))) {
        *out = last;
        return DS4_OK;
    }
    return api_message(b, DS4_ROLE_ASSISTANT, out);
}

/* What this server sealed is the reasoning as it was; else its summary has to do. */
static enum ds4_status read_reasoning(struct api_builder *b, const struct jv *item)
{
    static const char *const lists[] = {"summary", "content"};
    struct ds4_span sealed = sealed_open(b->arena, jv_text(jv_get(item, "encrypted_content")));
    struct ds4_message *m;
    TRY(assistant_of(b, true, &m));
    if (sealed.ptr) return api_join(b, &m->reasoning, "\n", sealed);
    for (size_t i = 0; i < 2; i++) {
        const struct jv *list = jv_get(item, lists[i]);
        for (const struct jv *part = jv_is(list, JV_ARRAY) ? list->first : NULL; part; part = part->next)
            TRY(api_join(b, &m->reasoning, "\n", jv_text(jv_get(part, "text"))));
    }
    return DS4_OK;
}

static enum ds4_status read_message_item(struct api_builder *b, const struct jv *item)
{
    const struct jv *role = jv_get(item, "role");
    struct ds4_message *m;
    if (jv_text_is(role, "assistant")) {
        TRY(assistant_of(b, true, &m));
        return api_parts(b, m, jv_get(item, "content"), false);
    }
    bool system = jv_text_is(role, "system") || jv_text_is(role, "developer");
    if (!system && !jv_text_is(role, "user")) return api_refuse(b, "input", "an item has no known role");
    TRY(api_message(b, system ? DS4_ROLE_SYSTEM : DS4_ROLE_USER, &m));
    return api_parts(b, m, jv_get(item, "content"), false);
}

static enum ds4_status read_call(struct api_builder *b, const struct jv *item, bool custom)
{
    struct ds4_message *m;
    struct ds4_span name;
    struct ds4_span arguments = jv_text(jv_get(item, "arguments"));
    if (custom) {
        struct buf text = {0};
        buf_put_text(&text, "{\"input\":");
        buf_put_json_string(&text, jv_text(jv_get(item, "input")));
        buf_put_text(&text, "}");
        arguments = text.failed ? span_make(NULL, 0) : arena_copy(b->arena, buf_span(&text));
        buf_deinit(&text);
        if (!arguments.ptr) return api_no_memory(b);
    }
    if (!jv_is(jv_get(item, "name"), JV_STRING)) return api_refuse(b, "input", "a call has no name");
    TRY(api_namespaced(b, jv_text(jv_get(item, "namespace")), jv_text(jv_get(item, "name")), &name));
    TRY(assistant_of(b, false, &m));
    return api_add_call(b, m, jv_text(jv_get(item, "call_id")), name, arguments);
}

/* Calls of hosted tools in the history: shown to the model as calls of a tool of that name. */
static enum ds4_status read_hosted_call(struct api_builder *b, const struct jv *item, const char *name)
{
    const struct jv *arguments = jv_get(item, "arguments"), *id = jv_get(item, "call_id");
    struct ds4_message *m;
    if (!arguments) arguments = jv_get(item, "action");
    TRY(assistant_of(b, false, &m));
    struct ds4_span text = jv_is(arguments, JV_STRING) ? arguments->text : arguments ? arguments->raw : SPAN("{}");
    return api_add_call(b, m, jv_text(id ? id : jv_get(item, "id")), span_from(name), text);
}

static enum ds4_status read_output(struct api_builder *b, const struct jv *item)
{
    struct ds4_message *m;
    TRY(api_message(b, DS4_ROLE_TOOL, &m));
    m->tool_call_id = jv_text(jv_get(item, "call_id"));
    return api_parts(b, m, jv_get(item, "output"), true);
}

static enum ds4_status read_tool_list(struct api_builder *b, const struct jv *tools);

/* The tools that a search found are tools of the request from now on. */
static enum ds4_status read_found_tools(struct api_builder *b, const struct jv *item)
{
    struct ds4_message *m;
    TRY(read_tool_list(b, jv_get(item, "tools")));
    TRY(api_message(b, DS4_ROLE_TOOL, &m));
    m->tool_call_id = jv_text(jv_get(item, "call_id"));
    return api_one_part(b, m, SPAN("The tools found were added to the available tools."));
}

/* An item without a place of its own in the chat format. */
static enum ds4_status read_other_item(struct api_builder *b, const struct jv *item, const struct jv *type)
{
    static const char *const calls[] = {"web_search_call", "image_generation_call", "file_search_call",
                                        "code_interpreter_call"};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        if (jv_text_is(type, calls[i])) return read_hosted_call(b, item, calls[i]);
    if (jv_text_is(type, "local_shell_call")) return read_hosted_call(b, item, "local_shell");
    if (jv_text_is(type, "tool_search_call")) return read_hosted_call(b, item, "tool_search");
    if (jv_text_is(type, "tool_search_output")) return read_found_tools(b, item);
    if (jv_text_is(type, "compaction") || jv_text_is(type, "context_compaction")) return DS4_OK;
    return api_refuse(b, "input", "an item has a type that is not supported");
}

static enum ds4_status read_item(struct api_builder *b, const struct jv *item)
{
    const struct jv *type = jv_get(item, "type");
    if (jv_text_is(jv_get(item, "status"), "in_progress"))
        return api_refuse(b, "input", "an item is still in progress");
    if (!type || jv_text_is(type, "message")) return read_message_item(b, item);
    if (jv_text_is(type, "reasoning")) return read_reasoning(b, item);
    if (jv_text_is(type, "function_call")) return read_call(b, item, false);
    if (jv_text_is(type, "custom_tool_call")) return read_call(b, item, true);
    if (jv_text_is(type, "function_call_output") || jv_text_is(type, "custom_tool_call_output") ||
        jv_text_is(type, "local_shell_call_output"))
        return read_output(b, item);
    return read_other_item(b, item, type);
}

static enum ds4_status read_tool(struct api_builder *b, const struct jv *tool, struct ds4_span space)
{
    const struct jv *type = jv_get(tool, "type"), *name = jv_get(tool, "name");
    struct ds4_span function, full;
    bool search = jv_text_is(type, "tool_search");
    if (!search && !jv_text_is(type, "function") && !jv_text_is(type, "custom"))
        return DS4_OK; /* run by the hosted service */
    if (!search && !jv_is(name, JV_STRING)) return api_refuse(b, "tools", "a tool has no name");
    TRY(api_namespaced(b, space, search ? SPAN("tool_search") : name->text, &full));
    static const char input[] = "{\"type\":\"object\",\"properties\":{\"input\":{\"type\":\"string\"}},"
                                "\"required\":[\"input\"]}";
    struct jv free_form = {.kind = JV_OBJECT, .raw = {input, sizeof input - 1}};
    const struct jv *schema = jv_text_is(type, "custom") ? &free_form : jv_get(tool, "parameters");
    TRY(api_function_object(b, full, jv_get(tool, "description"), schema, jv_is_true(jv_get(tool, "strict")),
                            &function));
    return api_add_tool(b, function);
}

static enum ds4_status read_tool_list(struct api_builder *b, const struct jv *tools)
{
    if (tools && tools->kind != JV_ARRAY) return api_refuse(b, "tools", "tools must be a list");
    size_t i = 0;
    for (const struct jv *tool = tools ? tools->first : NULL; tool; tool = tool->next) {
        const struct jv *inner = jv_get(tool, "tools");
        api_at(b, "tools", i++);
        if (!jv_text_is(jv_get(tool, "type"), "namespace")) {
            TRY(read_tool(b, tool, SPAN("")));
            continue;
        }
        for (const struct jv *item = inner ? inner->first : NULL; item; item = item->next)
            TRY(read_tool(b, item, jv_text(jv_get(tool, "name"))));
    }
    api_at(b, NULL, 0);
    return DS4_OK;
}

static enum ds4_status read_tools(struct api_builder *b, const struct jv *body)
{
    const struct jv *tools = jv_get(body, "tools"), *choice = jv_get(body, "tool_choice");
    if (jv_text_is(choice, "none")) return DS4_OK;
    TRY(api_tool_choice(b, choice));
    b->request->tool_names = tools;
    return read_tool_list(b, tools);
}

static enum ds4_status read_format(struct api_builder *b, const struct jv *format)
{
    if (!format || jv_text_is(jv_get(format, "type"), "text")) return DS4_OK;
    return api_format(b, jv_get(format, "type"), jv_get(format, "schema"), "text");
}

enum ds4_status api_parse_responses(struct api_builder *b, const struct jv *body)
{
    const struct jv *input = jv_get(body, "input"), *instructions = jv_get(body, "instructions");
    const struct jv *summary = jv_get(jv_get(body, "reasoning"), "summary");
    struct ds4_message *m;
    const struct jv *include = jv_get(body, "include");
    b->request->show_thinking = jv_is(summary, JV_STRING) && !jv_text_is(summary, "none");
    for (const struct jv *item = jv_is(include, JV_ARRAY) ? include->first : NULL; item; item = item->next) {
        b->request->encrypted_reasoning |= jv_text_is(item, "reasoning.encrypted_content");
        b->request->logprobs |= jv_text_is(item, "message.output_text.logprobs");
    }
    TRY(api_top_logprobs(b, body));
    if (jv_get(body, "previous_response_id") || jv_get(body, "conversation"))
        return api_refuse(b, "previous_response_id",
                          "previous_response_id and conversation are not supported; replay full input instead");
    if (jv_is_true(jv_get(body, "background"))) b->request->unsupported = "background";
    if (jv_is(instructions, JV_STRING)) {
        TRY(api_message(b, DS4_ROLE_SYSTEM, &m));
        TRY(api_one_part(b, m, instructions->text));
    }
    if (jv_is(input, JV_STRING)) {
        TRY(api_message(b, DS4_ROLE_USER, &m));
        TRY(api_one_part(b, m, input->text));
    } else if (jv_is(input, JV_ARRAY) && input->n) {
        size_t i = 0;
        for (const struct jv *item = input->first; item; item = item->next) {
            api_at(b, "input", i++);
            TRY(read_item(b, item));
        }
        api_at(b, NULL, 0);
    } else {
        return api_refuse(b, "input", "input is missing or empty");
    }
    TRY(read_tools(b, body));
    return read_format(b, jv_get(jv_get(body, "text"), "format"));
}
