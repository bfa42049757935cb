/* anthropic.c - bodies of /v1/messages and /v1/messages/count_tokens to the neutral request. */
#include "serve/api/request.h"
#include "serve/api/sealed.h"

/* System blocks are joined by a line break, without those that carry a client's accounting. */
static enum ds4_status read_system(struct api_builder *b, const struct jv *system)
{
    struct ds4_span text = {"", 0};
    struct ds4_message *m;
    if (!system) return DS4_OK;
    if (system->kind == JV_STRING) {
        text = system->text;
    } else {
        for (const struct jv *block = system->first; block; block = block->next) {
            struct ds4_span part = jv_text(jv_get(block, "text"));
            if (!jv_is(jv_get(block, "text"), JV_STRING))
                return api_refuse(b, "system", "a system block is no text");
            if (span_starts(part, SPAN("x-anthropic-"))) continue;
            bool broken = text.len && text.ptr[text.len - 1] == '\n';
            TRY(api_join(b, &text, broken ? "" : "\n", part));
        }
    }
    if (text.len == 0) return DS4_OK;
    TRY(api_message(b, DS4_ROLE_SYSTEM, &m));
    return api_one_part(b, m, text);
}

static bool type_ends_in(const struct jv *block, struct ds4_span end)
{
    struct ds4_span type = jv_text(jv_get(block, "type"));
    return type.len >= end.len && span_eq(span_skip(type, type.len - end.len), end);
}

/* Thinking that the client was not shown comes back in the signature. */
static struct ds4_span thinking_of(struct api_builder *b, const struct jv *block)
{
    struct ds4_span text = jv_text(jv_get(block, "thinking"));
    struct ds4_span sealed = text.len ? SPAN("") : sealed_open(b->arena, jv_text(jv_get(block, "signature")));
    return sealed.len ? sealed : text;
}

static enum ds4_status read_result(struct api_builder *b, const struct jv *block)
{
    struct ds4_message *m;
    TRY(api_message(b, DS4_ROLE_TOOL, &m));
    m->tool_call_id = jv_text(jv_get(block, "tool_use_id"));
    return api_parts(b, m, jv_get(block, "content"), true);
}

/* A result within an answer is one of a tool that a hosted service ran: the answer goes on behind it. */
static enum ds4_status read_assistant(struct api_builder *b, const struct jv *content)
{
    struct ds4_message *m;
    TRY(api_message(b, DS4_ROLE_ASSISTANT, &m));
    if (!jv_is(content, JV_ARRAY)) return api_parts(b, m, content, false);
    for (const struct jv *block = content->first; block; block = block->next) {
        const struct jv *type = jv_get(block, "type"), *input = jv_get(block, "input");
        if (type_ends_in(block, SPAN("tool_result"))) {
            TRY(read_result(b, block));
            if (block->next && !type_ends_in(block->next, SPAN("tool_result")))
                TRY(api_message(b, DS4_ROLE_ASSISTANT, &m));
            continue;
        }
        if (jv_text_is(type, "text")) TRY(api_one_part(b, m, jv_text(jv_get(block, "text"))));
        else if (jv_text_is(type, "thinking")) TRY(api_join(b, &m->reasoning, "", thinking_of(b, block)));
        else if (type_ends_in(block, SPAN("tool_use")))
            TRY(api_add_call(b, m, jv_text(jv_get(block, "id")), jv_text(jv_get(block, "name")),
                             input ? input->raw : SPAN("{}")));
        else if (!jv_text_is(type, "redacted_thinking"))
            return api_refuse(b, "messages", "an assistant block has a type that is not supported");
    }
    return DS4_OK;
}

/* Text blocks that stand together are one message; each result is one. */
static enum ds4_status read_user(struct api_builder *b, enum ds4_role role, const struct jv *content)
{
    struct ds4_message *m;
    bool open = false;
    if (!jv_is(content, JV_ARRAY)) {
        TRY(api_message(b, role, &m));
        return api_parts(b, m, content, false);
    }
    for (const struct jv *block = content->first; block; block = block->next) {
        const struct jv *text = jv_get(block, "text");
        if (type_ends_in(block, SPAN("tool_result"))) {
            TRY(read_result(b, block));
            open = false;
        } else if (jv_is(text, JV_STRING)) {
            if (!open) TRY(api_message(b, role, &m));
            open = true;
            TRY(api_one_part(b, m, text->text));
        } else {
            return api_refuse(b, "messages", "unsupported content type: this model reads text only");
        }
    }
    return DS4_OK;
}

static enum ds4_status read_tools(struct api_builder *b, const struct jv *body)
{
    const struct jv *tools = jv_get(body, "tools"), *choice = jv_get(jv_get(body, "tool_choice"), "type");
    if (jv_text_is(choice, "none")) return DS4_OK;
    TRY(api_tool_choice(b, jv_get(body, "tool_choice")));
    if (jv_is_true(jv_get(jv_get(body, "tool_choice"), "disable_parallel_tool_use"))) b->request->one_call = true;
    if (tools && tools->kind != JV_ARRAY) return api_refuse(b, "tools", "tools must be a list");
    size_t i = 0;
    for (const struct jv *tool = tools ? tools->first : NULL; tool; tool = tool->next) {
        const struct jv *name = jv_get(tool, "name"), *schema = jv_get(tool, "input_schema");
        struct ds4_span function;
        api_at(b, "tools", i++);
        if (!jv_is(name, JV_STRING)) return api_refuse(b, "tools", "a tool has no name");
        if (!schema && jv_get(tool, "type")) continue; /* run by the hosted service */
        TRY(api_function_object(b, name->text, jv_get(tool, "description"), schema, false, &function));
        TRY(api_add_tool(b, function));
    }
    api_at(b, NULL, 0);
    return DS4_OK;
}

enum ds4_status api_parse_messages(struct api_builder *b, const struct jv *body)
{
    const struct jv *messages = jv_get(body, "messages"), *servers = jv_get(body, "mcp_servers");
    const struct jv *format = jv_get(jv_get(body, "output_config"), "format");
    TRY(read_system(b, jv_get(body, "system")));
    if (!jv_is(messages, JV_ARRAY) || messages->n == 0)
        return api_refuse(b, "messages", "messages is missing or empty");
    size_t i = 0;
    for (const struct jv *item = messages->first; item; item = item->next) {
        const struct jv *role = jv_get(item, "role"), *content = jv_get(item, "content");
        api_at(b, "messages", i++);
        if (jv_text_is(role, "user")) TRY(read_user(b, DS4_ROLE_USER, content));
        else if (jv_text_is(role, "system")) TRY(read_user(b, DS4_ROLE_SYSTEM, content));
        else if (jv_text_is(role, "assistant")) TRY(read_assistant(b, content));
        else return api_refuse(b, "messages", "a message has no known role");
    }
    api_at(b, NULL, 0);
    if (servers && servers->n) b->request->unsupported = "mcp_servers";
    if (format && !jv_text_is(jv_get(format, "type"), "text")) {
        TRY(api_format(b, jv_get(format, "type"), jv_get(format, "schema"), "output_config"));
    }
    return read_tools(b, body);
}
