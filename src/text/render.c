/* render.c - the chat format. See render.h; the writer below is segments.h.
 *
 *   BOS [effort] [system text] [tools] [response format]
 *   <User> texts and tool results, joined by empty lines <Assistant> (<think> | </think>) ... EOS
 *   ...
 *   <Assistant> (<think> | </think>)          <- the model goes on here
 *
 * Source: the reference encoder published with the DeepSeek V4 checkpoints, and what its tokens cost at DeepSeek's own
 * service. Ours differs in three ways: a literal </tool_result> inside a result is escaped, developer messages in front
 * are system text, and later system messages are text of the user turn, so that nothing that comes later changes the
 * beginning of a prompt. */
#include "text/render.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/dsml.h"
#include "text/json_style.h"
#include "text/markers.h"
#include "text/segments.h"

#define DSML(name) "<" MARK_DSML name
#define DSML_END(name) "</" MARK_DSML name ">"

/* These four texts are part of what the model was trained on: not a byte may change. */
static const char tools_before[] =
    "## Tools\n\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \""
    DSML("tool_calls>") "\" block like the following:\n\n"
    DSML("tool_calls>") "\n"
    DSML("invoke name=\"$TOOL_NAME\">") "\n"
    DSML("parameter name=\"$PARAMETER_NAME\" string=\"true|false\">") "$PARAMETER_VALUE" DSML_END("parameter") "\n"
    "...\n"
    DSML_END("invoke") "\n"
    DSML("invoke name=\"$TOOL_NAME2\">") "\n"
    "...\n"
    DSML_END("invoke") "\n"
    DSML_END("tool_calls") "\n\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, "
    "arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n\n"
    "If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside "
    "<think>...</think> BEFORE any tool calls or final response.\n\n"
    "Otherwise, output directly after </think> with tool calls or final response.\n\n"
    "### Available Tool Schemas\n\n";
static const char tools_after[] =
    "\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";
static const char effort_absolute[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n";
static const char effort_beyond[] =
    "Reasoning Effort: Beyond maximum \xE2\x80\x94 exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the "
    "problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying "
    "cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles and are certain "
    "that no assumption remains unchecked and no error remains undiscovered.\n\n";
static const char response_before[] =
    "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

struct renderer {
    struct segments out;
    const struct ds4_chat *chat;
    struct ds4_error *error;
    bool thinks;         /* this request */
    bool keeps;          /* reasoning of all turns, not only of those behind the last user turn */
    size_t last_user;    /* index of the last message of a user turn; SIZE_MAX: none */
    bool turn_is_open;   /* the opener of the next answer stands already */
    bool task_is_open;   /* the next assistant message answers a task: no opener, no reasoning */
};

#define TEMPLATE(r, literal) segments_template(&(r)->out, SPAN(literal))

static bool is_user_side(const struct ds4_message *m)
{
    return m->role == DS4_ROLE_USER || m->role == DS4_ROLE_TOOL || m->role == DS4_ROLE_SYSTEM;
}

static void put_parts(struct renderer *r, const struct ds4_message *m)
{
    for (size_t i = 0; i < m->n_parts; i++) segments_content(&r->out, m->parts[i]);
}

static bool is_empty(const struct ds4_message *m)
{
    for (size_t i = 0; i < m->n_parts; i++) {
        if (m->parts[i].len > 0) return false;
    }
    return true;
}

/* ---- before the first turn ----------------------------------------------------------------------------------- */

static void put_effort(struct renderer *r)
{
    bool later = r->chat->effort_table == DS4_EFFORT_0731;
    enum ds4_think_mode think = r->chat->think;
    if (think == DS4_THINK_MAX && later)
        TEMPLATE(r, effort_beyond);
    else if (think == DS4_THINK_MAX || (think == DS4_THINK_HIGH && later))
        TEMPLATE(r, effort_absolute);
}

/* Appends client JSON in the trained style, as content. */
static enum ds4_status put_json(struct renderer *r, struct ds4_span text, const char *what, size_t number)
{
    struct jtext_doc doc;
    struct buf json = {0};
    struct ds4_error why = {0};
    enum ds4_status status = jtext_parse(&doc, text, &why);
    if (status == DS4_OK && doc.values[0].kind != JTEXT_OBJECT)
        status = err_set(&why, DS4_ERR_FORMAT, "not a JSON object");
    if (status == DS4_OK) {
        jtext_put_styled(&doc, 0, &json);
        status = buf_status(&json, &why);
    }
    if (status == DS4_OK)
        segments_content(&r->out, buf_span(&json));
    else
        (void)err_set(r->error, status, "%s %zu: %s", what, number, why.message);
    buf_deinit(&json);
    jtext_deinit(&doc);
    return status;
}

static enum ds4_status put_tools(struct renderer *r)
{
    TEMPLATE(r, tools_before);
    for (size_t i = 0; i < r->chat->n_tools; i++) {
        TRY(put_json(r, r->chat->tools[i], "tool", i));
        TEMPLATE(r, "\n");
    }
    TEMPLATE(r, tools_after);
    return DS4_OK;
}

/* The system messages before any other turn, as one text. */
static bool put_system(struct renderer *r, const char *before, size_t *n_leading)
{
    bool any = false;
    size_t i = 0;
    for (; i < r->chat->n_messages; i++) {
        const struct ds4_message *m = &r->chat->messages[i];
        if (m->role == DS4_ROLE_LATEST_REMINDER) continue;
        if (m->role != DS4_ROLE_SYSTEM) break;
        if (is_empty(m)) continue;
        segments_template(&r->out, span_from(any ? "\n\n" : before));
        put_parts(r, m);
        any = true;
    }
    *n_leading = i;
    return any;
}

static enum ds4_status put_head(struct renderer *r, size_t *n_leading)
{
    const struct ds4_chat *chat = r->chat;
    TEMPLATE(r, MARK_BOS);
    put_effort(r);
    if (chat->n_tools > 0 && chat->tools_first) {
        TRY(put_tools(r));
        (void)put_system(r, "\n\n", n_leading);
    } else {
        (void)put_system(r, "", n_leading);
        if (chat->n_tools > 0) {
            TEMPLATE(r, "\n\n");
            TRY(put_tools(r));
        }
    }
    if (chat->response_schema.len > 0) {
        TEMPLATE(r, response_before);
        TRY(put_json(r, chat->response_schema, "response schema", 0));
    }
    return DS4_OK;
}

/* ---- the user's side ------------------------------------------------------------------------------------------ */

static void put_escaped(struct renderer *r, struct ds4_span text, struct ds4_span find, struct ds4_span replacement)
{
    size_t from = 0;
    for (size_t at; (at = span_find(text, find, from)) != SIZE_MAX; from = at + find.len) {
        segments_content(&r->out, span_make(text.ptr + from, at - from));
        segments_content(&r->out, replacement);
    }
    segments_content(&r->out, span_skip(text, from));
}

static void put_result(struct renderer *r, const struct ds4_message *m)
{
    TEMPLATE(r, "<tool_result>");
    for (size_t i = 0; i < m->n_parts; i++) {
        if (i > 0) TEMPLATE(r, "\n\n");
        put_escaped(r, m->parts[i], SPAN("</tool_result>"), SPAN("&lt;/tool_result>"));
    }
    TEMPLATE(r, "</tool_result>");
}

/* Rank of a result: the place of its call in the answer before the turn; unknown ids come first. */
static size_t call_rank(const struct ds4_message *answer, const struct ds4_message *result)
{
    for (size_t i = 0; answer && i < answer->n_calls; i++) {
        if (result->tool_call_id.len > 0 && span_eq(answer->calls[i].id, result->tool_call_id)) return i;
    }
    return 0;
}

struct ranked {
    size_t rank, message;
};

static int rank_order(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    return a->message < b->message ? -1 : a->message > b->message;
}

/* The results of messages [start, end) in the order of their calls; n of them (owned by the caller). */
static enum ds4_status sort_results(struct renderer *r, size_t start, size_t end, struct ranked **out)
{
    const struct ds4_message *messages = r->chat->messages, *answer = NULL;
    for (size_t i = start; i > 0 && !answer; i--) {
        if (messages[i - 1].role == DS4_ROLE_ASSISTANT) answer = &messages[i - 1];
    }
    struct ranked *results = mem_alloc(end - start, sizeof *results);
    if (!results) return err_set(r->error, DS4_ERR_NOMEM, "no memory for %zu messages", end - start);
    size_t n = 0;
    for (size_t i = start; i < end; i++) {
        if (messages[i].role == DS4_ROLE_TOOL) results[n++] = (struct ranked){call_rank(answer, &messages[i]), i};
    }
    qsort(results, n, sizeof *results, rank_order);
    *out = results;
    return DS4_OK;
}

/* One part of a user's message is a block of its own; a system message is one block. */
static void put_user_blocks(struct renderer *r, const struct ds4_message *m, bool *any)
{
    bool urls = span_eq(m->task, SPAN("read_url"));
    size_t n_blocks = m->role == DS4_ROLE_SYSTEM || (urls && m->n_parts > 0) ? 1 : m->n_parts;
    for (size_t i = 0; i < n_blocks; i++) {
        if (*any) TEMPLATE(r, "\n\n");
        *any = true;
        if (m->role == DS4_ROLE_SYSTEM)
            put_parts(r, m);
        else
            segments_content(&r->out, m->parts[i]);
    }
    for (size_t i = 1; urls && i < m->n_parts; i++) {
        TEMPLATE(r, "<" MARK_BAR "extracted_url" MARK_BAR ">");
        segments_content(&r->out, m->parts[i]);
    }
}

static void open_turn(struct renderer *r, bool think)
{
    TEMPLATE(r, MARK_ASSISTANT);
    if (think)
        TEMPLATE(r, MARK_THINK);
    else
        TEMPLATE(r, MARK_THINK_END);
}

static enum ds4_status put_user_task(struct renderer *r, const struct ds4_message *m, size_t i)
{
    static const struct {
        struct ds4_span name;
        const char *marker;
    } tasks[] = {{{"query", 5}, "<" MARK_BAR "query" MARK_BAR ">"},
                 {{"authority", 9}, "<" MARK_BAR "authority" MARK_BAR ">"},
                 {{"domain", 6}, "<" MARK_BAR "domain" MARK_BAR ">"},
                 {{"read_url", 8}, "<" MARK_BAR "read_url" MARK_BAR ">"},
                 {{"action", 6}, "<" MARK_BAR "action" MARK_BAR ">"}};
    if (m->task.len == 0) return DS4_OK;
    for (size_t t = 0; t < sizeof tasks / sizeof tasks[0]; t++) {
        if (!span_eq(m->task, tasks[t].name)) continue;
        if (t == 4) open_turn(r, r->thinks);
        segments_template(&r->out, span_from(tasks[t].marker));
        r->task_is_open = true;
        return DS4_OK;
    }
    return err_set(r->error, DS4_ERR_FORMAT, "message %zu: \"%.*s\" is no task of a user message", i,
                   m->task.len < 40 ? (int)m->task.len : 40, m->task.ptr);
}

/* Messages from `start` to the next that is no user's; *end = that one. */
static enum ds4_status put_user_turn(struct renderer *r, size_t start, size_t *end)
{
    const struct ds4_message *messages = r->chat->messages;
    struct ranked *results;
    bool any = false;
    for (*end = start; *end < r->chat->n_messages && is_user_side(&messages[*end]); (*end)++) {
        if (messages[*end].task.len > 0 && *end + 1 < r->chat->n_messages && is_user_side(&messages[*end + 1]))
            return err_set(r->error, DS4_ERR_FORMAT, "message %zu has a task but does not end its turn", *end);
    }
    TRY(sort_results(r, start, *end, &results));
    TEMPLATE(r, MARK_USER);
    for (size_t i = start, n = 0; i < *end; i++) {
        if (messages[i].role != DS4_ROLE_TOOL) {
            put_user_blocks(r, &messages[i], &any);
            continue;
        }
        if (any) TEMPLATE(r, "\n\n");
        any = true;
        put_result(r, &messages[results[n++].message]);
    }
    mem_free(results);
    r->turn_is_open = r->task_is_open = false;
    return put_user_task(r, &messages[*end - 1], *end - 1);
}

/* ---- the model's side ------------------------------------------------------------------------------------------ */

static void put_attribute(struct renderer *r, struct ds4_span text)
{
    for (size_t from = 0, at = 0; at <= text.len; at++) {
        const char *entity = at == text.len       ? ""
                             : text.ptr[at] == '&' ? "&amp;"
                             : text.ptr[at] == '<' ? "&lt;"
                             : text.ptr[at] == '>' ? "&gt;"
                             : text.ptr[at] == '"' ? "&quot;"
                                                   : NULL;
        if (!entity) continue;
        segments_content(&r->out, span_make(text.ptr + from, at - from));
        segments_content(&r->out, span_from(entity));
        from = at + 1;
    }
}

static void put_parameter(struct renderer *r, struct ds4_span key, struct ds4_span value, bool string)
{
    TEMPLATE(r, DSML("parameter name=\""));
    put_attribute(r, key);
    segments_template(&r->out, string ? SPAN("\" string=\"true\">") : SPAN("\" string=\"false\">"));
    put_escaped(r, value, SPAN(DSML_END("parameter")),
                string ? SPAN("&lt;/" MARK_DSML "parameter>") : SPAN("\\u003c/" MARK_DSML "parameter>"));
    TEMPLATE(r, DSML_END("parameter") "\n");
}

/* The members of an arguments object as parameters; STATE when the text is no object. */
static enum ds4_status put_members(struct renderer *r, struct ds4_span arguments)
{
    struct jtext_doc doc;
    struct buf value = {0};
    enum ds4_status status = jtext_parse(&doc, arguments, NULL);
    if (status != DS4_ERR_NOMEM && (status != DS4_OK || doc.values[0].kind != JTEXT_OBJECT)) status = DS4_ERR_STATE;
    if (status == DS4_OK && doc.values[0].first == JTEXT_NONE) TEMPLATE(r, "\n");
    for (uint32_t i = status == DS4_OK ? doc.values[0].first : JTEXT_NONE; i != JTEXT_NONE && status == DS4_OK;
         i = doc.values[i].next) {
        bool string = doc.values[i].kind == JTEXT_STRING;
        buf_clear(&value);
        if (string)
            jtext_put_decoded(&doc, i, &value);
        else
            jtext_put_styled(&doc, i, &value);
        status = buf_status(&value, r->error);
        if (status == DS4_OK) put_parameter(r, jtext_key(&doc, i), buf_span(&value), string);
    }
    if (status == DS4_ERR_NOMEM) (void)err_set(r->error, status, "no memory for the arguments of a tool call");
    buf_deinit(&value);
    jtext_deinit(&doc);
    return status;
}

static enum ds4_status put_calls(struct renderer *r, const struct ds4_message *m)
{
    TEMPLATE(r, "\n\n" DSML("tool_calls>") "\n");
    for (size_t i = 0; i < m->n_calls; i++) {
        TEMPLATE(r, DSML("invoke name=\""));
        put_attribute(r, m->calls[i].name);
        TEMPLATE(r, "\">\n");
        enum ds4_status status = put_members(r, m->calls[i].arguments);
        if (status == DS4_ERR_STATE)
            put_parameter(r, SPAN("arguments"), m->calls[i].arguments, true);
        else
            TRY(status);
        TEMPLATE(r, DSML_END("invoke") "\n");
    }
    TEMPLATE(r, DSML_END("tool_calls"));
    return DS4_OK;
}

static void put_ranges(struct renderer *r, struct ds4_span block, size_t opener_end, const struct dsml *d)
{
    size_t from = 0;
    for (size_t i = 0; i < d->n_ranges; i++) {
        size_t start = opener_end + d->ranges[i].start, end = opener_end + d->ranges[i].end;
        segments_template(&r->out, span_make(block.ptr + from, start - from));
        segments_content(&r->out, span_make(block.ptr + start, end - start));
        from = end;
    }
    segments_template(&r->out, span_skip(block, from));
}

/* A block as the model wrote it: its syntax is template, its names and values are content. STATE when the bytes are not
 * one whole block, or not valid UTF-8. */
static enum ds4_status put_sampled(struct renderer *r, struct ds4_span block)
{
    size_t at = 0, opener = 0;
    int dialect = 0;
    enum dsml_match match = DSML_NO_MATCH;
    while (opener < block.len && strchr(" \t\r\n", block.ptr[opener]) && block.ptr[opener]) opener++;
    for (at = opener; at < block.len; at++) {
        match = dsml_match_opener(span_make(block.ptr + opener, at + 1 - opener), &dialect);
        if (match != DSML_PREFIX) break;
    }
    if (match != DSML_WHOLE || !utf8_valid(block)) return DS4_ERR_STATE;
    struct dsml d;
    enum dsml_result result = DSML_MORE;
    size_t opener_end = ++at;
    dsml_begin(&d, dialect, (struct dsml_sink){0}, false);
    d.wants_ranges = true;
    while (at < block.len && result == DSML_MORE) result = dsml_byte(&d, block.ptr[at++]);
    enum ds4_status status = d.failed ? DS4_ERR_NOMEM : DS4_ERR_STATE;
    if (result == DSML_DONE && at == block.len && !d.failed) {
        put_ranges(r, block, opener_end, &d);
        status = DS4_OK;
    }
    if (d.failed) (void)err_set(r->error, status, "no memory for a block of tool calls");
    dsml_deinit(&d);
    return status;
}

static bool shows_reasoning(const struct renderer *r, size_t i)
{
    return r->thinks && (r->keeps || r->last_user == SIZE_MAX || i > r->last_user);
}

static void put_answer_opener(struct renderer *r, const struct ds4_message *m, size_t i, bool prefill)
{
    bool think = shows_reasoning(r, i) && !(prefill && m->reasoning.len == 0);
    if (!r->turn_is_open) open_turn(r, think);
    if (!think) return;
    segments_content(&r->out, m->reasoning);
    TEMPLATE(r, MARK_THINK_END);
}

static enum ds4_status put_answer(struct renderer *r, size_t i)
{
    const struct ds4_message *m = &r->chat->messages[i];
    bool last = i + 1 == r->chat->n_messages, prefill = last && !r->chat->close_last;
    if (!r->task_is_open) put_answer_opener(r, m, i, prefill);
    r->turn_is_open = r->task_is_open = false;
    put_parts(r, m);
    if (m->n_calls > 0) {
        enum ds4_status status = m->calls[0].sampled.len > 0 ? put_sampled(r, m->calls[0].sampled) : DS4_ERR_STATE;
        if (status == DS4_ERR_STATE) status = put_calls(r, m);
        TRY(status);
    }
    if (!prefill) TEMPLATE(r, MARK_EOS);
    if (m->task.len == 0) return DS4_OK;
    if (prefill || !span_eq(m->task, SPAN("title")))
        return err_set(r->error, DS4_ERR_FORMAT, "message %zu: \"%.*s\" is no task of a finished assistant message", i,
                       m->task.len < 40 ? (int)m->task.len : 40, m->task.ptr);
    TEMPLATE(r, "<" MARK_BAR "title" MARK_BAR ">");
    r->task_is_open = true;
    return DS4_OK;
}

/* Behind a user turn the answer's opener comes first, as the reference has it. */
static void put_reminder(struct renderer *r, size_t i, bool behind_user)
{
    if (behind_user && !r->task_is_open) {
        open_turn(r, shows_reasoning(r, i));
        r->turn_is_open = true;
    }
    TEMPLATE(r, MARK_LATEST_REMINDER);
    put_parts(r, &r->chat->messages[i]);
}

static enum ds4_status put_turns(struct renderer *r, size_t n_leading)
{
    const struct ds4_chat *chat = r->chat;
    bool user_was_last = false, answer_was_last = false;
    for (size_t i = 0; i < n_leading; i++) {
        if (chat->messages[i].role == DS4_ROLE_LATEST_REMINDER) put_reminder(r, i, false);
    }
    for (size_t i = n_leading; i < chat->n_messages;) {
        const struct ds4_message *m = &chat->messages[i];
        if (is_user_side(m)) {
            TRY(put_user_turn(r, i, &i));
            user_was_last = true;
            answer_was_last = false;
            continue;
        }
        if (m->role == DS4_ROLE_LATEST_REMINDER) {
            put_reminder(r, i, user_was_last);
            answer_was_last = false;
        } else {
            TRY(put_answer(r, i));
            answer_was_last = true;
        }
        user_was_last = false;
        i++;
    }
    if (!answer_was_last && !r->turn_is_open && !r->task_is_open) open_turn(r, r->thinks);
    return DS4_OK;
}

static void look_ahead(struct renderer *r)
{
    r->thinks = r->chat->think != DS4_THINK_NONE;
    r->keeps = r->chat->n_tools > 0;
    r->last_user = SIZE_MAX;
    bool in_front = true; /* system messages here are no user turn */
    for (size_t i = 0; i < r->chat->n_messages; i++) {
        const struct ds4_message *m = &r->chat->messages[i];
        if (m->role == DS4_ROLE_TOOL || m->n_calls > 0) r->keeps = true;
        if (m->role != DS4_ROLE_SYSTEM && m->role != DS4_ROLE_LATEST_REMINDER) in_front = false;
        if (is_user_side(m) && !in_front) r->last_user = i;
    }
}

enum ds4_status text_render(const struct vocab *vocab, const struct ds4_chat *chat, struct ds4_tokens *tokens,
                            struct ds4_text *text, struct ds4_error *error)
{
    struct renderer r = {.chat = chat, .error = error};
    size_t n_leading = 0;
    segments_init(&r.out, vocab, tokens, text, error);
    look_ahead(&r);
    enum ds4_status status = put_head(&r, &n_leading);
    if (status == DS4_OK) status = put_turns(&r, n_leading);
    enum ds4_status written = segments_finish(&r.out, text);
    return status != DS4_OK ? status : written;
}
