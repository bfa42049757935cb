/* json_style.c - reads JSON into a flat array of linked values and writes it in one style. See json_style.h.
 *
 * Values are linked by index: parent, first and last child, next sibling. Reading is one loop whose only state is the
 * open container and what may come next; writing follows the links. */
#include "text/json_style.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/utf8.h"

/* What the next character that is no white space must begin. */
enum expect { WANT_VALUE, WANT_VALUE_OR_END, WANT_KEY, WANT_KEY_OR_END, WANT_COMMA_OR_END, WANT_NOTHING };

struct reader {
    struct jtext_doc *doc;
    size_t at;
    uint32_t open;   /* the innermost open container, or JTEXT_NONE */
    uint32_t member; /* the member whose value comes next, or JTEXT_NONE */
    enum expect expect;
    struct ds4_error *error;
};

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static char peek(const struct reader *r, size_t at) { return at < r->doc->text.len ? r->doc->text.ptr[at] : '\0'; }

static enum ds4_status wrong(struct reader *r, const char *expected)
{
    return err_set(r->error, DS4_ERR_FORMAT, "JSON: expected %s at byte %zu of %zu", expected, r->at, r->doc->text.len);
}

static enum ds4_status new_value(struct reader *r, uint32_t *out)
{
    struct jtext_doc *doc = r->doc;
    if (doc->n_values == doc->cap_values) {
        if (doc->n_values >= JTEXT_VALUES_MAX)
            return err_set(r->error, DS4_ERR_LIMIT, "JSON of more than %u values", JTEXT_VALUES_MAX);
        uint32_t cap = doc->cap_values ? doc->cap_values * 2 : 32;
        struct jtext_value *grown = mem_realloc(doc->values, cap, sizeof *grown);
        if (!grown) return err_set(r->error, DS4_ERR_NOMEM, "no memory for JSON of %zu bytes", doc->text.len);
        doc->values = grown;
        doc->cap_values = cap;
    }
    *out = doc->n_values++;
    doc->values[*out] = (struct jtext_value){JTEXT_LITERAL, r->open, JTEXT_NONE, JTEXT_NONE, JTEXT_NONE, 0, 0, 0, 0};
    return DS4_OK;
}

static void link_last(struct jtext_doc *doc, uint32_t parent, uint32_t value)
{
    if (parent == JTEXT_NONE) return;
    struct jtext_value *p = &doc->values[parent];
    if (p->last == JTEXT_NONE)
        p->first = value;
    else
        doc->values[p->last].next = value;
    p->last = value;
}

/* Hex digits of \uXXXX at `at`; -1 when they are not there. */
static int32_t unit_at(struct ds4_span s, size_t at)
{
    int32_t unit = 0;
    if (at + 4 > s.len) return -1;
    for (size_t i = at; i < at + 4; i++) {
        char c = s.ptr[i], low = (char)(c | 32);
        if (is_digit(c))
            unit = unit * 16 + (c - '0');
        else if (low >= 'a' && low <= 'f')
            unit = unit * 16 + (low - 'a' + 10);
        else
            return -1;
    }
    return unit;
}

/* r->at stands on the opening quote; *inside = what lies between the quotes. */
static enum ds4_status scan_string(struct reader *r, struct ds4_span *inside)
{
    struct ds4_span text = r->doc->text;
    size_t start = r->at + 1;
    for (r->at = start; r->at < text.len; r->at++) {
        unsigned char c = (unsigned char)text.ptr[r->at];
        if (c == '"') {
            *inside = span_make(text.ptr + start, r->at++ - start);
            return DS4_OK;
        }
        if (c < 0x20) return wrong(r, "no raw control character in a string");
        if (c != '\\') continue;
        char escape = peek(r, ++r->at);
        if (escape == 'u' ? unit_at(text, r->at + 1) < 0 : escape == '\0' || !strchr("\"\\/bfnrt", escape))
            return wrong(r, "an escape");
    }
    return wrong(r, "the end of a string");
}

/* Decodes the escape behind the backslash at `at`; returns the offset after it. */
static size_t put_escape(struct ds4_span s, size_t at, struct buf *out)
{
    static const char names[] = "bfnrt", means[] = "\b\f\n\r\t";
    char c = s.ptr[at + 1], bytes[4];
    const char *found = strchr(names, c);
    if (c != 'u') {
        buf_put_byte(out, (unsigned char)(found ? means[found - names] : c));
        return at + 2;
    }
    uint32_t unit = (uint32_t)unit_at(s, at + 2);
    at += 6;
    if (unit >= 0xD800 && unit < 0xDC00 && at + 6 <= s.len && s.ptr[at] == '\\' && s.ptr[at + 1] == 'u') {
        int32_t low = unit_at(s, at + 2);
        if (low >= 0xDC00 && low < 0xE000) {
            unit = 0x10000 + ((unit - 0xD800) << 10) + ((uint32_t)low - 0xDC00);
            at += 6;
        }
    }
    if (unit >= 0xD800 && unit < 0xE000) unit = 0xFFFD;
    buf_put(out, bytes, utf8_put(unit, bytes));
    return at;
}

static void put_decoded(struct ds4_span inside, struct buf *out)
{
    for (size_t at = 0; at < inside.len;) {
        if (inside.ptr[at] == '\\') {
            at = put_escape(inside, at, out);
            continue;
        }
        size_t taken;
        if (utf8_next(inside.ptr + at, inside.len - at, &taken) == UTF8_BAD)
            buf_put(out, "\xEF\xBF\xBD", 3);
        else
            buf_put(out, inside.ptr + at, taken);
        at += taken;
    }
}

static enum ds4_status scan_number(struct reader *r)
{
    if (peek(r, r->at) == '-') r->at++;
    if (peek(r, r->at) == '0') {
        r->at++;
    } else {
        if (!is_digit(peek(r, r->at))) return wrong(r, "a value");
        while (is_digit(peek(r, r->at))) r->at++;
    }
    if (peek(r, r->at) == '.') {
        if (!is_digit(peek(r, ++r->at))) return wrong(r, "a digit");
        while (is_digit(peek(r, r->at))) r->at++;
    }
    if ((peek(r, r->at) | 32) == 'e') {
        r->at++;
        if (peek(r, r->at) == '+' || peek(r, r->at) == '-') r->at++;
        if (!is_digit(peek(r, r->at))) return wrong(r, "a digit");
        while (is_digit(peek(r, r->at))) r->at++;
    }
    return DS4_OK;
}

static uint64_t member_hash(uint32_t parent, struct ds4_span key)
{
    return (hash_u64(key.ptr, key.len) ^ parent) * 0x9E3779B97F4A7C15u >> 20;
}

static enum ds4_status grow_members(struct reader *r)
{
    struct jtext_doc *doc = r->doc;
    uint32_t cap = doc->cap_members ? doc->cap_members * 2 : 64;
    uint32_t *grown = mem_alloc(cap, sizeof *grown);
    if (!grown) return err_set(r->error, DS4_ERR_NOMEM, "no memory for JSON of %zu bytes", doc->text.len);
    memset(grown, 0xFF, cap * sizeof *grown);
    for (uint32_t i = 0; i < doc->cap_members; i++) {
        uint32_t value = doc->members[i];
        if (value == JTEXT_NONE) continue;
        uint64_t slot = member_hash(doc->values[value].parent, jtext_key(doc, value));
        while (grown[slot & (cap - 1)] != JTEXT_NONE) slot++;
        grown[slot & (cap - 1)] = value;
    }
    mem_free(doc->members);
    doc->members = grown;
    doc->cap_members = cap;
    return DS4_OK;
}

/* Forgets the value of a member; its children leave the table of members, where they would pass for those to come. */
static void empty_member(struct jtext_doc *doc, uint32_t member)
{
    for (uint32_t child = doc->values[member].first; child != JTEXT_NONE; child = doc->values[child].next)
        doc->values[child].parent = JTEXT_NONE;
    doc->values[member].first = doc->values[member].last = JTEXT_NONE;
}

/* Sets r->member to the earlier member of this name, emptied, or to a new one. */
static enum ds4_status take_member(struct reader *r, struct ds4_span inside)
{
    struct jtext_doc *doc = r->doc;
    size_t start = doc->keys.text.len;
    put_decoded(inside, &doc->keys);
    TRY(buf_status(&doc->keys, r->error));
    if (doc->keys.text.len > UINT32_MAX) return err_set(r->error, DS4_ERR_LIMIT, "JSON with too long keys");
    struct ds4_span key = span_skip(buf_span(&doc->keys), start);
    if (2 * doc->n_members >= doc->cap_members) TRY(grow_members(r));
    uint64_t slot = member_hash(r->open, key);
    for (; doc->members[slot & (doc->cap_members - 1)] != JTEXT_NONE; slot++) {
        uint32_t earlier = doc->members[slot & (doc->cap_members - 1)];
        if (doc->values[earlier].parent != r->open || !span_eq(jtext_key(doc, earlier), key)) continue;
        empty_member(doc, earlier);
        doc->keys.text.len = start;
        r->member = earlier;
        return DS4_OK;
    }
    TRY(new_value(r, &r->member));
    doc->values[r->member].key = (uint32_t)start;
    doc->values[r->member].key_len = (uint32_t)key.len;
    doc->members[slot & (doc->cap_members - 1)] = r->member;
    doc->n_members++;
    link_last(doc, r->open, r->member);
    return DS4_OK;
}

static enum ds4_status read_key(struct reader *r)
{
    struct ds4_span inside;
    if (peek(r, r->at) != '"') return wrong(r, "a member's name");
    TRY(scan_string(r, &inside));
    TRY(take_member(r, inside));
    while (is_space(peek(r, r->at))) r->at++;
    if (peek(r, r->at) != ':') return wrong(r, "a colon");
    r->at++;
    r->expect = WANT_VALUE;
    return DS4_OK;
}

static enum ds4_status read_scalar(struct reader *r, struct jtext_value *v)
{
    static const struct ds4_span words[] = {{"true", 4}, {"false", 5}, {"null", 4}};
    struct ds4_span rest = span_skip(r->doc->text, r->at), inside;
    if (peek(r, r->at) == '"') {
        TRY(scan_string(r, &inside));
        v->kind = JTEXT_STRING;
        v->start = (size_t)(inside.ptr - r->doc->text.ptr);
        v->len = inside.len;
        return DS4_OK;
    }
    v->start = r->at;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (!span_starts(rest, words[i])) continue;
        v->kind = JTEXT_LITERAL;
        v->len = words[i].len;
        r->at += v->len;
        return DS4_OK;
    }
    TRY(scan_number(r));
    v->kind = JTEXT_NUMBER;
    v->len = r->at - v->start;
    return DS4_OK;
}

static enum ds4_status read_value(struct reader *r)
{
    uint32_t value = r->member;
    if (value == JTEXT_NONE) {
        TRY(new_value(r, &value));
        link_last(r->doc, r->open, value);
    }
    r->member = JTEXT_NONE;
    char c = peek(r, r->at);
    if (c == '{' || c == '[') {
        r->doc->values[value].kind = c == '{' ? JTEXT_OBJECT : JTEXT_ARRAY;
        r->open = value;
        r->expect = c == '{' ? WANT_KEY_OR_END : WANT_VALUE_OR_END;
        r->at++;
        return DS4_OK;
    }
    r->expect = r->open == JTEXT_NONE ? WANT_NOTHING : WANT_COMMA_OR_END;
    return read_scalar(r, &r->doc->values[value]);
}

static void close_container(struct reader *r)
{
    r->at++;
    r->open = r->doc->values[r->open].parent;
    r->expect = r->open == JTEXT_NONE ? WANT_NOTHING : WANT_COMMA_OR_END;
}

static enum ds4_status read_step(struct reader *r)
{
    char c = peek(r, r->at);
    bool in_object = r->open != JTEXT_NONE && r->doc->values[r->open].kind == JTEXT_OBJECT;
    bool may_end = r->expect == WANT_KEY_OR_END || r->expect == WANT_VALUE_OR_END || r->expect == WANT_COMMA_OR_END;
    if (may_end && c == (in_object ? '}' : ']')) {
        close_container(r);
        return DS4_OK;
    }
    switch (r->expect) {
    case WANT_KEY:
    case WANT_KEY_OR_END:
        return read_key(r);
    case WANT_COMMA_OR_END:
        if (c != ',') return wrong(r, in_object ? "a comma or }" : "a comma or ]");
        r->at++;
        r->expect = in_object ? WANT_KEY : WANT_VALUE;
        return DS4_OK;
    case WANT_NOTHING:
        return wrong(r, "the end");
    default:
        return read_value(r);
    }
}

enum ds4_status jtext_parse(struct jtext_doc *doc, struct ds4_span text, struct ds4_error *error)
{
    *doc = (struct jtext_doc){.text = text};
    struct reader r = {doc, 0, JTEXT_NONE, JTEXT_NONE, WANT_VALUE, error};
    for (;;) {
        while (is_space(peek(&r, r.at))) r.at++;
        if (r.at >= text.len) break;
        TRY(read_step(&r));
    }
    return r.expect == WANT_NOTHING ? DS4_OK : wrong(&r, "more");
}

void jtext_deinit(struct jtext_doc *doc)
{
    mem_free(doc->values);
    mem_free(doc->members);
    buf_deinit(&doc->keys);
    *doc = (struct jtext_doc){0};
}

struct ds4_span jtext_key(const struct jtext_doc *doc, uint32_t value)
{
    return span_make(buf_span(&doc->keys).ptr + doc->values[value].key, doc->values[value].key_len);
}

uint32_t jtext_member(const struct jtext_doc *doc, uint32_t object, struct ds4_span key)
{
    if (doc->cap_members == 0 || doc->values[object].kind != JTEXT_OBJECT) return JTEXT_NONE;
    for (uint64_t slot = member_hash(object, key);; slot++) {
        uint32_t value = doc->members[slot & (doc->cap_members - 1)];
        if (value == JTEXT_NONE) return JTEXT_NONE;
        if (doc->values[value].parent == object && span_eq(jtext_key(doc, value), key)) return value;
    }
}

void jtext_put_decoded(const struct jtext_doc *doc, uint32_t value, struct buf *out)
{
    put_decoded(span_make(doc->text.ptr + doc->values[value].start, doc->values[value].len), out);
}

static void put_opening(const struct jtext_doc *doc, uint32_t value, struct buf *scratch, struct buf *out)
{
    const struct jtext_value *v = &doc->values[value];
    switch (v->kind) {
    case JTEXT_ARRAY:
        buf_put_byte(out, '[');
        break;
    case JTEXT_OBJECT:
        buf_put_byte(out, '{');
        break;
    case JTEXT_STRING:
        buf_clear(scratch);
        jtext_put_decoded(doc, value, scratch);
        if (scratch->failed) out->failed = true;
        buf_put_json_string(out, buf_span(scratch));
        break;
    default:
        buf_put(out, doc->text.ptr + v->start, v->len);
    }
}

void jtext_put_styled(const struct jtext_doc *doc, uint32_t root, struct buf *out)
{
    struct buf scratch = {0};
    uint32_t at = root;
    const struct jtext_value *values = doc->values;
    for (;;) {
        if (at != root && values[values[at].parent].kind == JTEXT_OBJECT) {
            buf_put_json_string(out, jtext_key(doc, at));
            buf_put(out, ": ", 2);
        }
        put_opening(doc, at, &scratch, out);
        if (values[at].first != JTEXT_NONE) {
            at = values[at].first;
            continue;
        }
        if (values[at].kind == JTEXT_ARRAY || values[at].kind == JTEXT_OBJECT)
            buf_put_byte(out, values[at].kind == JTEXT_ARRAY ? ']' : '}');
        while (at != root && values[at].next == JTEXT_NONE) {
            at = values[at].parent;
            buf_put_byte(out, values[at].kind == JTEXT_ARRAY ? ']' : '}');
        }
        if (at == root) break;
        buf_put(out, ", ", 2);
        at = values[at].next;
    }
    buf_deinit(&scratch);
}
