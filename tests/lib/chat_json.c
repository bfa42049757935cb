/* chat_json.c - see chat_json.h. */
#include "lib/chat_json.h"

#include <stdlib.h>

#include "base/err.h"

struct ds4_span json_span(const json_t *string)
{
    return json_is_string(string) ? span_make(json_string_value(string), json_string_length(string)) : span_make("", 0);
}

static struct ds4_span dumped(struct arena *a, const json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT | JSON_PRESERVE_ORDER);
    ensure(text != NULL);
    struct ds4_span copy = arena_copy(a, span_from(text));
    free(text);
    return copy;
}

static enum ds4_role role_of(struct ds4_span name, bool in_front)
{
    if (span_eq(name, SPAN("system"))) return DS4_ROLE_SYSTEM;
    if (span_eq(name, SPAN("developer"))) return in_front ? DS4_ROLE_SYSTEM : DS4_ROLE_USER;
    if (span_eq(name, SPAN("assistant"))) return DS4_ROLE_ASSISTANT;
    if (span_eq(name, SPAN("tool"))) return DS4_ROLE_TOOL;
    if (span_eq(name, SPAN("latest_reminder"))) return DS4_ROLE_LATEST_REMINDER;
    return DS4_ROLE_USER;
}

static void read_message(struct arena *a, const json_t *json, bool in_front, struct ds4_message *m)
{
    const json_t *content = json_object_get(json, "content"), *calls = json_object_get(json, "tool_calls");
    m->role = role_of(json_span(json_object_get(json, "role")), in_front);
    m->n_parts = json_is_array(content) ? json_array_size(content) : 1;
    struct ds4_span *parts = arena_alloc(a, m->n_parts, sizeof *parts);
    for (size_t i = 0; i < m->n_parts; i++)
        parts[i] = json_is_array(content) ? json_span(json_object_get(json_array_get(content, i), "text"))
                                          : json_span(content);
    m->parts = parts;
    m->reasoning = json_span(json_object_get(json, "reasoning_content"));
    m->tool_call_id = json_span(json_object_get(json, "tool_call_id"));
    m->task = json_span(json_object_get(json, "task"));
    m->n_calls = json_array_size(calls);
    struct ds4_tool_call *out = arena_alloc(a, m->n_calls, sizeof *out);
    for (size_t i = 0; i < m->n_calls; i++) {
        const json_t *call = json_array_get(calls, i), *function = json_object_get(call, "function");
        out[i].id = json_span(json_object_get(call, "id"));
        out[i].name = json_span(json_object_get(function, "name"));
        out[i].arguments = json_span(json_object_get(function, "arguments"));
    }
    m->calls = out;
}

void chat_from_json(struct arena *a, const json_t *messages, const json_t *tools, const json_t *schema,
                    struct ds4_chat *chat)
{
    *chat = (struct ds4_chat){0};
    chat->n_messages = json_array_size(messages);
    struct ds4_message *out = arena_alloc(a, chat->n_messages, sizeof *out);
    bool in_front = true;
    for (size_t i = 0; i < chat->n_messages; i++) {
        struct ds4_span role = json_span(json_object_get(json_array_get(messages, i), "role"));
        if (!span_eq(role, SPAN("system")) && !span_eq(role, SPAN("developer"))) in_front = false;
        read_message(a, json_array_get(messages, i), in_front, &out[i]);
    }
    chat->messages = out;
    chat->n_tools = json_array_size(tools);
    struct ds4_span *spans = arena_alloc(a, chat->n_tools, sizeof *spans);
    for (size_t i = 0; i < chat->n_tools; i++)
        spans[i] = dumped(a, json_object_get(json_array_get(tools, i), "function"));
    chat->tools = spans;
    if (schema) chat->response_schema = dumped(a, schema);
}
