/* fake_text.c - text side of the scripted engine: byte tokens, a plain rendering of chats, and a parser of answers.
 * Renders and parses the same format as the real one for ordinary input; none of its corner cases. */
#include "base/mem.h"
#include "base/utf8.h"
#include "lib/fake/fake_internal.h"

#define BAR "\xEF\xBD\x9C"
#define DSML BAR "DSML" BAR
#define GAP "\xE2\x96\x81"

struct ds4_span fake_marker(int32_t id)
{
    static const char *const markers[] = {
        "<" BAR "begin" GAP "of" GAP "sentence" BAR ">", "<" BAR "end" GAP "of" GAP "sentence" BAR ">",
        "<" BAR GAP "pad" GAP BAR ">", "<" BAR "User" BAR ">", "<" BAR "Assistant" BAR ">", "<think>", "</think>",
        DSML, "<" BAR "latest_reminder" BAR ">",
    };
    return id >= FAKE_BOS && id < FAKE_N_VOCAB ? span_from(markers[id - FAKE_BOS]) : SPAN("");
}

enum ds4_status fake_tokens_of(struct ds4_span text, bool special, struct ds4_tokens *out)
{
    for (size_t i = 0; i < text.len;) {
        int32_t id = (unsigned char)text.ptr[i];
        size_t taken = 1;
        for (int32_t m = FAKE_BOS; special && m < FAKE_N_VOCAB; m++) {
            if (!span_starts(span_skip(text, i), fake_marker(m))) continue;
            id = m;
            taken = fake_marker(m).len;
        }
        TRY(ds4_tokens_append(out, &id, 1));
        i += taken;
    }
    return DS4_OK;
}

enum ds4_status ds4_tokenize(const struct ds4_engine *engine, struct ds4_span text, bool special,
                             struct ds4_tokens *out, struct ds4_error *error)
{
    struct buf clean = {0};
    (void)engine;
    for (size_t i = 0; i < text.len;) {
        size_t taken;
        if (utf8_next(text.ptr + i, text.len - i, &taken) == UTF8_BAD) buf_put_text(&clean, "\xEF\xBF\xBD");
        else buf_put(&clean, text.ptr + i, taken);
        i += taken;
    }
    enum ds4_status status = buf_status(&clean, error);
    if (status == DS4_OK) status = fake_tokens_of(buf_span(&clean), special, out);
    buf_deinit(&clean);
    return status;
}

struct ds4_span ds4_token_bytes(const struct ds4_engine *engine, int32_t id)
{
    static char bytes[256];
    (void)engine;
    if (id < 0 || id >= 256) return fake_marker(id);
    bytes[id] = (char)id;
    return span_make(&bytes[id], 1);
}

bool ds4_token_is_control(const struct ds4_engine *engine, int32_t id)
{
    (void)engine;
    return id >= FAKE_BOS && id < FAKE_N_VOCAB;
}

const struct ds4_special_ids *ds4_special(const struct ds4_engine *engine) { return &engine->special; }

/* ---- rendering ---- */

struct rendering {
    struct ds4_tokens *tokens;
    struct buf text;
    enum ds4_status status;
};

static void put_content(struct rendering *r, struct ds4_span text)
{
    buf_put_span(&r->text, text);
    if (r->status == DS4_OK && r->tokens) r->status = fake_tokens_of(text, false, r->tokens);
}

static void put_template(struct rendering *r, struct ds4_span text)
{
    buf_put_span(&r->text, text);
    if (r->status == DS4_OK && r->tokens) r->status = fake_tokens_of(text, true, r->tokens);
}

static void put_literal(struct rendering *r, const char *text) { put_template(r, span_from(text)); }

static void put_parts(struct rendering *r, const struct ds4_message *message, const char *between)
{
    for (size_t i = 0; i < message->n_parts; i++) {
        if (i) put_literal(r, between);
        put_content(r, message->parts[i]);
    }
}

static void put_user_side(struct rendering *r, const struct ds4_message *message, bool opens)
{
    if (opens) put_template(r, fake_marker(FAKE_USER));
    else put_literal(r, "\n\n");
    if (message->role == DS4_ROLE_TOOL) put_literal(r, "<tool_result>");
    put_parts(r, message, "\n\n");
    if (message->role == DS4_ROLE_TOOL) put_literal(r, "</tool_result>");
}

/* One parameter with the whole arguments: enough for prompts that nobody parses. */
static void put_calls(struct rendering *r, const struct ds4_message *message)
{
    if (message->n_calls && message->calls[0].sampled.len) {
        put_template(r, message->calls[0].sampled);
        return;
    }
    for (size_t i = 0; i < message->n_calls; i++) {
        put_literal(r, i ? "" : "\n\n<" DSML "tool_calls>\n");
        put_literal(r, "<" DSML "invoke name=\"");
        put_content(r, message->calls[i].name);
        put_literal(r, "\">\n<" DSML "parameter name=\"arguments\" string=\"false\">");
        put_content(r, message->calls[i].arguments);
        put_literal(r, "</" DSML "parameter>\n</" DSML "invoke>\n");
    }
    if (message->n_calls) put_literal(r, "</" DSML "tool_calls>");
}

static void put_assistant(struct rendering *r, const struct ds4_chat *chat, size_t i, bool keep, size_t last_user_i)
{
    const struct ds4_message *message = &chat->messages[i];
    bool thought = chat->think != DS4_THINK_NONE && (keep || i > last_user_i);
    put_template(r, fake_marker(FAKE_ASSISTANT));
    if (thought) {
        put_template(r, fake_marker(FAKE_THINK));
        put_content(r, message->reasoning);
    }
    put_template(r, fake_marker(FAKE_THINK_END));
    put_parts(r, message, "");
    put_calls(r, message);
    if (i + 1 < chat->n_messages || chat->close_last) put_template(r, fake_marker(FAKE_EOS));
}

static void put_head(struct rendering *r, const struct ds4_chat *chat, size_t *first)
{
    put_template(r, fake_marker(FAKE_BOS));
    if (chat->think == DS4_THINK_MAX) put_literal(r, "Reasoning Effort: Absolute maximum.\n\n");
    for (*first = 0; *first < chat->n_messages && chat->messages[*first].role == DS4_ROLE_SYSTEM; (*first)++) {
        if (*first) put_literal(r, "\n\n");
        put_parts(r, &chat->messages[*first], "");
    }
    if (chat->n_tools) put_literal(r, "\n\n## Tools\n\n");
    for (size_t i = 0; i < chat->n_tools; i++) {
        put_content(r, chat->tools[i]);
        put_literal(r, "\n");
    }
    if (chat->response_schema.len) {
        put_literal(r, "\n\n## Response Format:\n\n");
        put_content(r, chat->response_schema);
    }
}

enum ds4_status ds4_render(const struct ds4_engine *engine, const struct ds4_chat *chat, struct ds4_tokens *tokens,
                           struct ds4_text *text, struct ds4_error *error)
{
    struct rendering r = {.tokens = tokens};
    size_t first, last_user_i = 0;
    bool keep = chat->n_tools > 0;
    (void)engine;
    if (text) r.text.text = *text;
    put_head(&r, chat, &first);
    for (size_t i = 0; i < chat->n_messages; i++) {
        if (chat->messages[i].role != DS4_ROLE_ASSISTANT) last_user_i = i;
        keep |= chat->messages[i].n_calls > 0 || chat->messages[i].role == DS4_ROLE_TOOL;
    }
    for (size_t i = first; i < chat->n_messages; i++) {
        if (chat->messages[i].role == DS4_ROLE_ASSISTANT) put_assistant(&r, chat, i, keep, last_user_i);
        else put_user_side(&r, &chat->messages[i], i == first || chat->messages[i - 1].role == DS4_ROLE_ASSISTANT);
    }
    if (chat->n_messages == 0 || chat->messages[chat->n_messages - 1].role != DS4_ROLE_ASSISTANT) {
        put_template(&r, fake_marker(FAKE_ASSISTANT));
        put_template(&r, fake_marker(chat->think == DS4_THINK_NONE ? FAKE_THINK_END : FAKE_THINK));
    }
    if (r.status == DS4_OK) r.status = buf_status(&r.text, error);
    if (text) *text = r.text.text;
    else buf_deinit(&r.text);
    return r.status;
}

/* ---- parsing ---- */

enum place { IN_THINK, IN_TEXT, IN_CALLS, AT_END };

struct ds4_parser {
    struct ds4_parser_options options;
    enum place place;
    struct buf held;   /* an incomplete character; or the call block so far */
    struct buf json;   /* arguments of the call at hand */
    bool in_value;     /* in_call and the block ends inside a parameter's value */
    bool skip_dsml_open;
};

enum ds4_status ds4_parser_create(const struct ds4_engine *engine, const struct ds4_parser_options *options,
                                  struct ds4_parser **out)
{
    (void)engine;
    *out = mem_zalloc(1, sizeof **out);
    if (!*out) return DS4_ERR_NOMEM;
    (*out)->options = *options;
    (*out)->place = options->in_thinking ? IN_THINK : IN_TEXT;
    fake_stats.n_parsers++;
    return DS4_OK;
}

void ds4_parser_destroy(struct ds4_parser *parser)
{
    if (!parser) return;
    fake_stats.n_parsers--;
    buf_deinit(&parser->held);
    buf_deinit(&parser->json);
    mem_free(parser);
}

static void emit(ds4_event_fn fn, void *user, enum ds4_event_kind kind, uint32_t call_i, struct ds4_span text)
{
    struct ds4_event event = {.kind = kind, .call_i = call_i, .text = text};
    fn(user, &event);
}

/* How much of the end of the text could be the beginning of a block: "\n\n<" and the marker, or a part of that. */
static size_t opener_len(struct ds4_span text)
{
    static const char opener[] = "\n\n<" DSML;
    for (size_t cut = 0; cut < 3; cut++)
        for (size_t n = sizeof opener - 1 - cut; n > 0; n--)
            if (n <= text.len && memcmp(text.ptr + text.len - n, opener + cut, n) == 0) return n;
    return 0;
}

static void flush_held(struct ds4_parser *p, bool all, ds4_event_fn fn, void *user)
{
    struct ds4_span held = buf_span(&p->held);
    size_t len = all ? held.len : utf8_complete_len(held);
    size_t wait = p->options.tools_active && p->place == IN_TEXT && !all ? opener_len(held) : 0;
    if (len > held.len - wait) len = held.len - wait;
    if (len) emit(fn, user, p->place == IN_THINK ? DS4_EVENT_THINK : DS4_EVENT_TEXT, 0, span_make(held.ptr, len));
    if (len) memmove(p->held.text.ptr, p->held.text.ptr + len, held.len - len);
    p->held.text.len = held.len - len;
}

/* The text between the first before and the next after at or behind *at; moves *at behind it. */
static bool between(struct ds4_span text, const char *before, const char *after, size_t *at, struct ds4_span *out)
{
    size_t begin = span_find(text, span_from(before), *at);
    if (begin == SIZE_MAX) return false;
    begin += strlen(before);
    size_t end = span_find(text, span_from(after), begin);
    if (end == SIZE_MAX) return false;
    *out = span_make(text.ptr + begin, end - begin);
    *at = end + strlen(after);
    return true;
}

static void emit_call(struct ds4_parser *p, struct ds4_span body, struct ds4_span name, uint32_t call_i,
                      ds4_event_fn fn, void *user)
{
    struct ds4_span key, kind, value;
    size_t at = 0;
    emit(fn, user, DS4_EVENT_CALL_BEGIN, call_i, name);
    buf_clear(&p->json);
    buf_put_byte(&p->json, '{');
    while (between(body, "<" DSML "parameter name=\"", "\"", &at, &key) &&
           between(body, "string=\"", "\"", &at, &kind) &&
           between(body, ">", "</" DSML "parameter>", &at, &value)) {
        size_t before = p->json.text.len > 1 ? p->json.text.len : 0;
        if (before) buf_put_text(&p->json, ", ");
        buf_put_json_string(&p->json, key);
        buf_put_text(&p->json, ": ");
        if (span_eq(kind, SPAN("true"))) buf_put_json_string(&p->json, value);
        else buf_put_span(&p->json, value);
        emit(fn, user, DS4_EVENT_CALL_ARGS, call_i, span_skip(buf_span(&p->json), before));
    }
    size_t before = p->json.text.len;
    buf_put_byte(&p->json, '}');
    emit(fn, user, DS4_EVENT_CALL_ARGS, call_i, span_skip(buf_span(&p->json), before == 1 ? 0 : before));
    emit(fn, user, DS4_EVENT_CALL_END, call_i, buf_span(&p->json));
}

static void close_block(struct ds4_parser *p, ds4_event_fn fn, void *user)
{
    struct ds4_span block = buf_span(&p->held), name, body;
    size_t at = 0;
    uint32_t call_i = 0;
    while (between(block, "<" DSML "invoke name=\"", "\"", &at, &name) &&
           between(block, ">", "</" DSML "invoke>", &at, &body))
        emit_call(p, body, name, call_i++, fn, user);
    emit(fn, user, DS4_EVENT_CALLS_DONE, 0, block);
    buf_clear(&p->held);
    p->place = AT_END;
}

static bool ends_with(struct ds4_span text, const char *tail)
{
    size_t len = strlen(tail);
    return text.len >= len && memcmp(text.ptr + text.len - len, tail, len) == 0;
}

/* The text held ends before the marker. */
static void open_block(struct ds4_parser *p, ds4_event_fn fn, void *user)
{
    while (p->held.text.len && strchr("\n<", p->held.text.ptr[p->held.text.len - 1])) p->held.text.len--;
    flush_held(p, true, fn, user);
    buf_put_text(&p->held, "\n\n<" DSML);
    p->place = IN_CALLS;
}

enum ds4_status ds4_parser_feed(struct ds4_parser *p, int32_t id, ds4_event_fn fn, void *user)
{
    if (p->options.show_markers) {
        buf_put_span(&p->held, ds4_token_bytes(NULL, id));
        flush_held(p, false, fn, user);
        if (id == FAKE_EOS) emit(fn, user, DS4_EVENT_STOP, 0, SPAN(""));
    } else if (id == FAKE_EOS) {
        emit(fn, user, DS4_EVENT_STOP, 0, SPAN(""));
    } else if (id == FAKE_THINK_END && p->place == IN_THINK) {
        flush_held(p, true, fn, user);
        p->place = IN_TEXT;
    } else if (id == FAKE_DSML && p->options.tools_active && p->place == IN_TEXT) {
        open_block(p, fn, user);
    } else if (id < 256 || p->place == IN_CALLS) {
        buf_put_span(&p->held, ds4_token_bytes(NULL, id));
        if (p->place == IN_TEXT && p->options.tools_active && ends_with(buf_span(&p->held), "<" DSML)) {
            p->held.text.len -= strlen(DSML); /* the marker, spelled */
            open_block(p, fn, user);
        } else if (p->place != IN_CALLS) flush_held(p, false, fn, user);
        else if (ends_with(buf_span(&p->held), "</" DSML "tool_calls>")) close_block(p, fn, user);
    }
    return buf_status(&p->held, NULL);
}

enum ds4_status ds4_parser_finish(struct ds4_parser *p, ds4_event_fn fn, void *user)
{
    if (p->place == IN_CALLS) emit(fn, user, DS4_EVENT_CALLS_BROKEN, 0, buf_span(&p->held));
    else flush_held(p, true, fn, user);
    buf_clear(&p->held);
    return DS4_OK;
}

bool ds4_parser_in_call(const struct ds4_parser *p) { return p->place == IN_CALLS; }

bool ds4_parser_in_syntax(const struct ds4_parser *p)
{
    if (p->place != IN_CALLS) return false;
    struct ds4_span block = buf_span(&p->held);
    size_t open = SIZE_MAX;
    for (size_t at = 0; (at = span_find(block, SPAN("string=\"true\">"), at)) != SIZE_MAX; at++) open = at;
    return open == SIZE_MAX || span_find(block, SPAN("</" DSML "parameter"), open) != SIZE_MAX;
}
