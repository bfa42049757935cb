/* dsml.c - the scanner of tool-call markup. See dsml.h. */
#include "text/dsml.h"

#include "base/mem.h"
#include "text/json_style.h"
#include "text/markers.h"

/* What stands behind "<" or "</" in every tag, and the name of the block. The first is what the model was trained on;
 * the second and third were seen from it, the fourth lost its marker, the fifth is the name of an earlier version. */
static const struct dialect {
    struct ds4_span prefix, block;
} dialects[] = {
    {{MARK_DSML, sizeof MARK_DSML - 1}, {"tool_calls", 10}},
    {{"DSML" MARK_BAR, 4 + sizeof MARK_BAR - 1}, {"tool_calls", 10}},
    {{MARK_BAR MARK_BAR "DSML" MARK_BAR MARK_BAR, 4 + 4 * (sizeof MARK_BAR - 1)}, {"tool_calls", 10}},
    {{"", 0}, {"tool_calls", 10}},
    {{MARK_DSML, sizeof MARK_DSML - 1}, {"function_calls", 14}},
};
enum { N_DIALECTS = sizeof dialects / sizeof dialects[0] };
_Static_assert(N_DIALECTS == DSML_N_DIALECTS, "the header counts the dialects");

struct ds4_span dsml_block_name(int dialect) { return dialects[dialect].block; }

struct ds4_span dsml_tag_text(int dialect, const char *start, struct ds4_span name, const char *end,
                              char out[DSML_TAG_TEXT_MAX])
{
    struct ds4_span parts[] = {span_from(start), dialects[dialect].prefix, name, span_from(end)};
    size_t n = 0;
    for (size_t i = 0; i < 4; i++) {
        ensure(n + parts[i].len <= DSML_TAG_TEXT_MAX);
        memcpy(out + n, parts[i].ptr, parts[i].len);
        n += parts[i].len;
    }
    return span_make(out, n);
}

static enum dsml_match match(struct ds4_span candidate, struct ds4_span whole)
{
    if (candidate.len > whole.len || memcmp(candidate.ptr, whole.ptr, candidate.len) != 0) return DSML_NO_MATCH;
    return candidate.len == whole.len ? DSML_WHOLE : DSML_PREFIX;
}

enum dsml_match dsml_match_opener(struct ds4_span candidate, int *dialect)
{
    enum dsml_match best = DSML_NO_MATCH;
    for (int i = 0; i < N_DIALECTS; i++) {
        char text[DSML_TAG_TEXT_MAX];
        enum dsml_match m = match(candidate, dsml_tag_text(i, "<", dialects[i].block, ">", text));
        if (m == DSML_WHOLE) {
            *dialect = i;
            return m;
        }
        if (m == DSML_PREFIX) best = m;
    }
    return best;
}

bool dsml_is_marked(struct ds4_span candidate) { return span_starts(candidate, SPAN("<" MARK_DSML)); }

void dsml_begin(struct dsml *d, int dialect, struct dsml_sink sink, bool entities)
{
    *d = (struct dsml){.sink = sink, .entities = entities, .dialect = dialect, .state = DSML_IN_BLOCK};
}

void dsml_deinit(struct dsml *d)
{
    buf_deinit(&d->tag);
    buf_deinit(&d->held);
    buf_deinit(&d->value);
    mem_free(d->ranges);
    *d = (struct dsml){0};
}

static void put_args(struct dsml *d, const char *bytes, size_t n)
{
    if (d->sink.args && n) d->sink.args(d->sink.user, bytes, n);
}

static void put_args_buf(struct dsml *d, struct buf *b)
{
    if (b->failed) d->failed = true;
    put_args(d, buf_span(b).ptr, b->text.len);
    buf_deinit(b);
}

static void add_range(struct dsml *d, size_t start, size_t end)
{
    if (!d->wants_ranges || start == end) return;
    if (d->n_ranges == d->cap_ranges) {
        size_t cap = d->cap_ranges ? d->cap_ranges * 2 : 16;
        struct dsml_range *grown = mem_realloc(d->ranges, cap, sizeof *grown);
        if (!grown) {
            d->failed = true;
            return;
        }
        d->ranges = grown;
        d->cap_ranges = cap;
    }
    d->ranges[d->n_ranges++] = (struct dsml_range){start, end};
}

static const struct entity {
    struct ds4_span name;
    char means;
} entities[] = {{{"&amp;", 5}, '&'}, {{"&lt;", 4}, '<'}, {{"&gt;", 4}, '>'}, {{"&quot;", 6}, '"'}, {{"&apos;", 6},
    '\''}};
enum { N_ENTITIES = sizeof entities / sizeof entities[0] };

static void put_unescaped(struct ds4_span text, struct buf *out)
{
    for (size_t at = 0; at < text.len;) {
        size_t i = 0;
        while (i < N_ENTITIES && !span_starts(span_skip(text, at), entities[i].name)) i++;
        buf_put_byte(out, (unsigned char)(i < N_ENTITIES ? entities[i].means : text.ptr[at]));
        at += i < N_ENTITIES ? entities[i].name.len : 1;
    }
}

/* ---- tags --------------------------------------------------------------------------------------------------- */

struct attributes {
    struct buf name;
    bool has_name, has_string, string;
};

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
static bool is_name_char(char c) { return ((unsigned char)c | 32u) - 'a' < 26u || c == '_' || c == '-'; }

/* Reads ` name="value"`... up to the closing ">" from `at`; false when it is anything else. */
static bool read_attributes(struct dsml *d, struct ds4_span tag, size_t at, struct attributes *a)
{
    for (;;) {
        size_t before = at;
        while (is_space(tag.ptr[at])) at++;
        if (tag.ptr[at] == '>') return a->has_name;
        if (at == before) return false;
        size_t start = at;
        while (is_name_char(tag.ptr[at])) at++;
        struct ds4_span name = span_make(tag.ptr + start, at - start);
        while (is_space(tag.ptr[at])) at++;
        if (name.len == 0 || tag.ptr[at] != '=') return false;
        at++;
        while (is_space(tag.ptr[at])) at++;
        if (tag.ptr[at] != '"') return false;
        start = ++at;
        while (tag.ptr[at] != '"' && at + 1 < tag.len) at++;
        if (tag.ptr[at] != '"') return false;
        struct ds4_span value = span_make(tag.ptr + start, at - start);
        add_range(d, d->tag_start + start, d->tag_start + at);
        at++;
        if (span_eq(name, SPAN("name"))) {
            buf_clear(&a->name);
            put_unescaped(value, &a->name);
            a->has_name = true;
        } else if (span_eq(name, SPAN("string"))) {
            a->has_string = true;
            a->string = !span_eq(value, SPAN("false"));
        }
    }
}

static enum dsml_result broken(struct dsml *d, size_t at)
{
    d->broken_at = at;
    return DSML_BROKEN;
}

static enum dsml_result out_of_memory(struct dsml *d)
{
    d->failed = true;
    return broken(d, d->at);
}

static void begin_call(struct dsml *d, struct ds4_span name)
{
    d->n_calls++;
    d->depth = 1;
    d->has_member[1] = false;
    d->state = DSML_IN_INVOKE;
    if (d->sink.begin) d->sink.begin(d->sink.user, name);
    put_args(d, "{", 1);
}

static void begin_parameter(struct dsml *d, const struct attributes *a)
{
    struct buf json = {0};
    if (d->has_member[d->depth]) buf_put(&json, ", ", 2);
    d->has_member[d->depth] = true;
    buf_put_json_string(&json, buf_span(&a->name));
    buf_put(&json, ": ", 2);
    d->value_start = d->at;
    if (!a->has_string) {
        d->state = DSML_IN_UNKNOWN;
    } else if (a->string) {
        buf_put_byte(&json, '"');
        d->state = DSML_IN_STRING;
    } else {
        d->state = DSML_IN_JSON;
        d->in_json_string = d->json_escape = false;
        buf_clear(&d->value);
    }
    put_args_buf(d, &json);
}

static enum dsml_result open_tag(struct dsml *d, struct ds4_span tag, size_t name_end, bool invoke)
{
    struct attributes a = {0};
    enum dsml_result result = DSML_MORE;
    if (!read_attributes(d, tag, name_end, &a))
        result = broken(d, d->tag_start);
    else if (invoke)
        begin_call(d, buf_span(&a.name));
    else
        begin_parameter(d, &a);
    if (a.name.failed) d->failed = true;
    buf_deinit(&a.name);
    return result;
}

static enum dsml_result close_tag(struct dsml *d)
{
    if (d->outside == DSML_IN_BLOCK) return d->n_calls > 0 ? DSML_DONE : broken(d, d->tag_start);
    put_args(d, "}", 1);
    d->depth--;
    if (d->outside == DSML_IN_INVOKE) {
        d->state = DSML_IN_BLOCK;
        if (d->sink.end) d->sink.end(d->sink.user);
    } else {
        d->state = d->depth > 1 ? DSML_IN_NESTED : DSML_IN_INVOKE;
    }
    return DSML_MORE;
}

/* The tag so far must be able to become one of the two that may stand here. */
static enum dsml_result tag_byte(struct dsml *d, char byte)
{
    buf_put_byte(&d->tag, (unsigned char)byte);
    if (d->tag.failed) return out_of_memory(d);
    if (byte == '"') d->in_quotes = !d->in_quotes;
    struct ds4_span tag = buf_span(&d->tag);
    char text[DSML_TAG_TEXT_MAX];
    struct ds4_span outer = d->outside == DSML_IN_BLOCK    ? dialects[d->dialect].block
                            : d->outside == DSML_IN_INVOKE ? SPAN("invoke")
                                                           : SPAN("parameter");
    enum dsml_match closing = match(tag, dsml_tag_text(d->dialect, "</", outer, ">", text));
    if (closing == DSML_WHOLE) return close_tag(d);
    if (closing == DSML_PREFIX) return DSML_MORE;
    bool invoke = d->outside == DSML_IN_BLOCK;
    struct ds4_span opening = dsml_tag_text(d->dialect, "<", invoke ? SPAN("invoke") : SPAN("parameter"), "", text);
    if (match(tag, opening) != DSML_NO_MATCH) return DSML_MORE;
    if (!span_starts(tag, opening) || tag.len > DSML_TAG_BYTES_MAX) return broken(d, d->tag_start);
    return byte == '>' && !d->in_quotes ? open_tag(d, tag, opening.len, invoke) : DSML_MORE;
}

static void begin_tag(struct dsml *d, size_t start)
{
    d->outside = d->state;
    d->state = DSML_IN_TAG;
    d->tag_start = start;
    d->in_quotes = false;
    buf_clear(&d->tag);
}

/* ---- values -------------------------------------------------------------------------------------------------- */

static void end_value(struct dsml *d) { d->state = d->depth > 1 ? DSML_IN_NESTED : DSML_IN_INVOKE; }

static void put_json_char(struct dsml *d, char c)
{
    struct buf json = {0};
    if ((unsigned char)c >= 0x20 && c != '"' && c != '\\') {
        put_args(d, &c, 1);
        return;
    }
    buf_put_json_string(&json, span_make(&c, 1));
    if (json.failed)
        d->failed = true;
    else
        put_args(d, json.text.ptr + 1, json.text.len - 2);
    buf_deinit(&json);
}

static void put_json_chars(struct dsml *d, struct ds4_span text)
{
    for (size_t i = 0; i < text.len; i++) put_json_char(d, text.ptr[i]);
}

/* Whether `held` is, or may become, the closing tag or an escape; *means = what a whole escape stands for. */
static enum dsml_match match_string(struct dsml *d, struct ds4_span held, struct ds4_span *means,
    char text[DSML_TAG_TEXT_MAX])
{
    struct ds4_span name = SPAN("parameter");
    *means = span_make("", 0);
    enum dsml_match best = match(held, dsml_tag_text(d->dialect, "</", name, ">", text));
    if (best != DSML_NO_MATCH) return best;
    if (!d->entities) {
        best = match(held, dsml_tag_text(d->dialect, "&lt;/", name, ">", text));
        if (best == DSML_WHOLE) *means = dsml_tag_text(d->dialect, "</", name, ">", text);
        return best;
    }
    for (int i = 0; i < N_ENTITIES; i++) {
        enum dsml_match m = match(held, entities[i].name);
        if (m == DSML_WHOLE) {
            *means = span_make(&entities[i].means, 1);
            return m;
        }
        if (m == DSML_PREFIX) best = m;
    }
    return best;
}

/* False when the byte was lost. */
static bool hold(struct dsml *d, char byte)
{
    buf_put_byte(&d->held, (unsigned char)byte);
    if (d->held.failed) d->failed = true;
    return !d->held.failed;
}

static void string_byte(struct dsml *d, char byte)
{
    char text[DSML_TAG_TEXT_MAX];
    struct ds4_span means;
    if (d->held.text.len > 0 || byte == '<' || byte == '&') {
        if (!hold(d, byte)) return;
        enum dsml_match m = match_string(d, buf_span(&d->held), &means, text);
        if (m == DSML_PREFIX) return;
        if (m == DSML_WHOLE && means.len > 0) {
            put_json_chars(d, means);
            buf_clear(&d->held);
            return;
        }
        if (m == DSML_WHOLE) {
            add_range(d, d->value_start, d->at - d->held.text.len);
            buf_clear(&d->held);
            put_args(d, "\"", 1);
            end_value(d);
            return;
        }
        /* No pattern has its first character again, so only the last byte can begin another. */
        d->held.text.len--;
        put_json_chars(d, buf_span(&d->held));
        buf_clear(&d->held);
        if (byte == '<' || byte == '&') {
            buf_put_byte(&d->held, (unsigned char)byte);
            return;
        }
    }
    put_json_char(d, byte);
}

static void end_json(struct dsml *d)
{
    struct ds4_span raw = buf_span(&d->value);
    struct jtext_doc doc;
    struct buf json = {0};
    enum ds4_status status = jtext_parse(&doc, raw, NULL);
    if (status == DS4_OK)
        jtext_put_styled(&doc, 0, &json);
    else
        buf_put_json_string(&json, raw);
    if (status == DS4_ERR_NOMEM) d->failed = true;
    jtext_deinit(&doc);
    put_args_buf(d, &json);
    end_value(d);
}

static void track_json(struct dsml *d, char byte)
{
    if (d->json_escape)
        d->json_escape = false;
    else if (d->in_json_string && byte == '\\')
        d->json_escape = true;
    else if (byte == '"')
        d->in_json_string = !d->in_json_string;
}

static void json_byte(struct dsml *d, char byte)
{
    char text[DSML_TAG_TEXT_MAX];
    track_json(d, byte);
    if (d->held.text.len == 0 && byte != '<') {
        buf_put_byte(&d->value, (unsigned char)byte);
        return;
    }
    if (!hold(d, byte)) return;
    enum dsml_match m = match(buf_span(&d->held), dsml_tag_text(d->dialect, "</", SPAN("parameter"), ">", text));
    if (m == DSML_PREFIX) return;
    if (m == DSML_WHOLE) {
        add_range(d, d->value_start, d->at - d->held.text.len);
        buf_clear(&d->held);
        end_json(d);
        return;
    }
    d->held.text.len--;
    buf_put_span(&d->value, buf_span(&d->held));
    buf_clear(&d->held);
    buf_put_byte(byte == '<' ? &d->held : &d->value, (unsigned char)byte);
}

/* The value of a parameter that does not say what it is: white space, then a parameter makes it an object, anything
 * else a string that began with that white space. */
static enum dsml_result unknown_byte(struct dsml *d, char byte)
{
    char text[DSML_TAG_TEXT_MAX];
    if (!hold(d, byte)) return out_of_memory(d);
    struct ds4_span held = buf_span(&d->held), tail = held;
    while (tail.len > 0 && is_space(tail.ptr[0])) tail = span_skip(tail, 1);
    if (tail.len == 0) return DSML_MORE;
    struct ds4_span opening = dsml_tag_text(d->dialect, "<", SPAN("parameter"), "", text);
    enum dsml_match m = match(tail, opening);
    if (m == DSML_PREFIX) return DSML_MORE;
    if (m == DSML_WHOLE) {
        if (d->depth == DSML_DEPTH_MAX) return broken(d, d->at - tail.len);
        d->has_member[++d->depth] = false;
        put_args(d, "{", 1);
        d->state = DSML_IN_NESTED;
        begin_tag(d, d->at - tail.len);
        buf_put_span(&d->tag, tail);
        buf_clear(&d->held);
        return DSML_MORE;
    }
    struct buf again = d->held;
    size_t end = d->at;
    d->held = (struct buf){0};
    d->state = DSML_IN_STRING;
    put_args(d, "\"", 1);
    d->at = end - again.text.len;
    for (size_t i = 0; i < again.text.len; i++) {
        d->at++;
        string_byte(d, again.text.ptr[i]);
    }
    if (again.failed) d->failed = true;
    buf_deinit(&again);
    return DSML_MORE;
}

enum dsml_result dsml_byte(struct dsml *d, char byte)
{
    size_t at = d->at++;
    if (d->failed || d->value.failed) return out_of_memory(d);
    switch (d->state) {
    case DSML_IN_TAG:
        return tag_byte(d, byte);
    case DSML_IN_STRING:
        string_byte(d, byte);
        return DSML_MORE;
    case DSML_IN_JSON:
        json_byte(d, byte);
        return DSML_MORE;
    case DSML_IN_UNKNOWN:
        return unknown_byte(d, byte);
    default:
        if (is_space(byte)) return DSML_MORE;
        if (byte != '<') return broken(d, at);
        begin_tag(d, at);
        return tag_byte(d, byte);
    }
}

bool dsml_in_free_text(const struct dsml *d)
{
    bool inside = d->state == DSML_IN_STRING || d->state == DSML_IN_UNKNOWN ||
                  (d->state == DSML_IN_JSON && d->in_json_string);
    size_t closing = 2 + dialects[d->dialect].prefix.len; /* "</" and the marker; one more where there is none */
    return inside && d->held.text.len < (closing > 2 ? closing : 3);
}
