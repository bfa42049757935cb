/* json.c - see json.h. One pass, an explicit stack through the parents of the values being read. */
#include "serve/json.h"

#include "base/options.h"
#include "base/utf8.h"

#define SAME_CHILDREN_MAX 1024 /* jv_same looks members up one by one: larger values count as different */

struct reader {
    struct arena *arena;
    struct ds4_span text;
    size_t at;
    struct ds4_error *error;
};

static enum ds4_status refuse(struct reader *r, const char *what)
{
    return err_set(r->error, DS4_ERR_FORMAT, "the body is no JSON: %s at byte %zu", what, r->at);
}

static enum ds4_status full(struct reader *r)
{
    return err_set(r->error, DS4_ERR_LIMIT, "the request needs more memory than a request may have");
}

static int peek(const struct reader *r) { return r->at < r->text.len ? (unsigned char)r->text.ptr[r->at] : -1; }

static void skip_space(struct reader *r)
{
    for (int c = peek(r); c == ' ' || c == '\t' || c == '\n' || c == '\r'; c = peek(r)) r->at++;
}

static bool read_hex4(struct reader *r, uint32_t *out)
{
    if (r->text.len - r->at < 4) return false;
    uint32_t value = 0;
    for (size_t i = 0; i < 4; i++) {
        unsigned char c = (unsigned char)r->text.ptr[r->at + i];
        uint32_t digit;
        if (c >= '0' && c <= '9') digit = c - '0';
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') digit = (c | 0x20u) - 'a' + 10;
        else return false;
        value = value << 4 | digit;
    }
    r->at += 4;
    *out = value;
    return true;
}

/* Behind "\u". A high surrogate takes the low one that follows. */
static bool read_unicode(struct reader *r, uint32_t *out)
{
    uint32_t high, low;
    if (!read_hex4(r, &high)) return false;
    *out = high;
    if (high < 0xD800 || high > 0xDFFF) return true;
    *out = 0xFFFD;
    size_t before = r->at;
    if (high < 0xDC00 && r->text.len - r->at >= 6 && r->text.ptr[r->at] == '\\' && r->text.ptr[r->at + 1] == 'u') {
        r->at += 2;
        if (!read_hex4(r, &low)) return false;
        if (low >= 0xDC00 && low <= 0xDFFF) *out = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
        else r->at = before;
    }
    return true;
}

static bool read_escape(struct reader *r, char *out, size_t *n)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(r);
    if (c < 0) return false;
    r->at++;
    if (c == 'u') {
        uint32_t scalar;
        if (!read_unicode(r, &scalar)) return false;
        *n += utf8_put(scalar, out + *n);
        return true;
    }
    for (size_t i = 0; i < sizeof from - 1; i++)
        if (from[i] == c) {
            out[(*n)++] = to[i];
            return true;
        }
    return false;
}

/* Bytes up to the closing quote, which says how much room the decoded string needs at most. */
static bool string_extent(const struct reader *r, size_t *end)
{
    for (size_t i = r->at; i < r->text.len; i++) {
        unsigned char c = (unsigned char)r->text.ptr[i];
        if (c == '"') {
            *end = i;
            return true;
        }
        if (c < 0x20) return false;
        if (c == '\\') i++;
    }
    return false;
}

/* At the byte behind the opening quote. */
static enum ds4_status read_string(struct reader *r, struct ds4_span *out)
{
    size_t end, n = 0;
    if (!string_extent(r, &end)) return refuse(r, "a string that does not end or holds a control byte");
    if (end - r->at > JSON_STRING_BYTES_MAX)
        return err_set(r->error, DS4_ERR_LIMIT, "a string of the request is longer than %u bytes",
                       JSON_STRING_BYTES_MAX);
    char *room = arena_alloc(r->arena, end - r->at + 1, 1);
    if (!room) return full(r);
    while (r->at < end) {
        unsigned char c = (unsigned char)r->text.ptr[r->at];
        if (c == '\\') {
            r->at++;
            if (!read_escape(r, room, &n)) return refuse(r, "an unknown escape");
        } else if (c < 0x80) {
            room[n++] = (char)c;
            r->at++;
        } else {
            size_t taken;
            if (utf8_next(r->text.ptr + r->at, end - r->at, &taken) == UTF8_BAD) return refuse(r, "ill-formed UTF-8");
            memcpy(room + n, r->text.ptr + r->at, taken);
            n += taken;
            r->at += taken;
        }
    }
    r->at = end + 1;
    *out = span_make(room, n);
    return DS4_OK;
}

static size_t digits(struct reader *r)
{
    size_t n = 0;
    for (int c = peek(r); c >= '0' && c <= '9'; c = peek(r), n++) r->at++;
    return n;
}

static enum ds4_status read_number(struct reader *r)
{
    if (peek(r) == '-') r->at++;
    if (peek(r) == '0') r->at++;
    else if (digits(r) == 0) return refuse(r, "an unexpected byte");
    if (peek(r) == '.') {
        r->at++;
        if (digits(r) == 0) return refuse(r, "a number without digits behind the point");
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        r->at++;
        if (peek(r) == '+' || peek(r) == '-') r->at++;
        if (digits(r) == 0) return refuse(r, "a number without an exponent");
    }
    return DS4_OK;
}

static bool take_word(struct reader *r, struct ds4_span word)
{
    if (!span_starts(span_skip(r->text, r->at), word)) return false;
    r->at += word.len;
    return true;
}

/* A value that is no container; r->at behind it. */
static enum ds4_status read_scalar(struct reader *r, struct jv *v)
{
    int c = peek(r);
    if (c == '"') {
        v->kind = JV_STRING;
        r->at++;
        return read_string(r, &v->text);
    }
    if (c == 't' || c == 'f') {
        v->kind = JV_BOOL;
        v->truth = c == 't';
        return take_word(r, c == 't' ? SPAN("true") : SPAN("false")) ? DS4_OK : refuse(r, "an unknown word");
    }
    if (c == 'n') return take_word(r, SPAN("null")) ? DS4_OK : refuse(r, "an unknown word");
    v->kind = JV_NUMBER;
    return read_number(r);
}

static void append_child(struct jv *parent, struct jv *child)
{
    child->parent = parent;
    if (parent->last_child) parent->last_child->next = child;
    else parent->first = child;
    parent->last_child = child;
    parent->n++;
}

/* The name of a member and its colon. */
static enum ds4_status read_name(struct reader *r, struct jv *v)
{
    skip_space(r);
    if (peek(r) != '"') return refuse(r, "a member without a name");
    r->at++;
    TRY(read_string(r, &v->name));
    skip_space(r);
    if (peek(r) != ':') return refuse(r, "a member without a colon");
    r->at++;
    return DS4_OK;
}

/* Begins a value below parent (NULL: the whole text). *open is the container to go on in. */
static enum ds4_status read_value(struct reader *r, struct jv *parent, struct jv **made)
{
    struct jv *v = arena_alloc(r->arena, 1, sizeof *v);
    if (!v) return full(r);
    if (parent && parent->kind == JV_OBJECT) TRY(read_name(r, v));
    skip_space(r);
    size_t start = r->at;
    int c = peek(r);
    if (c == '{' || c == '[') {
        v->kind = c == '{' ? JV_OBJECT : JV_ARRAY;
        r->at++;
    } else {
        TRY(read_scalar(r, v));
    }
    v->raw = span_make(r->text.ptr + start, r->at - start);
    if (parent) append_child(parent, v);
    *made = v;
    return DS4_OK;
}

/* After a value: a comma leads on in `open`, a closer leaves it. Returns the container to go on in. */
static enum ds4_status read_on(struct reader *r, struct jv **open, size_t *depth)
{
    while (*open) {
        struct jv *v = *open;
        int closer = v->kind == JV_OBJECT ? '}' : ']';
        skip_space(r);
        int c = peek(r);
        if (c == ',' && v->n > 0) {
            r->at++;
            return DS4_OK;
        }
        if (c != closer) return v->n == 0 ? DS4_OK : refuse(r, "neither a comma nor the end of a list");
        r->at++;
        v->raw.len = (size_t)(r->text.ptr + r->at - v->raw.ptr);
        *open = v->parent;
        (*depth)--;
    }
    return DS4_OK;
}

enum ds4_status jv_parse(struct arena *a, struct ds4_span text, const struct jv **out, struct ds4_error *error)
{
    struct reader r = {.arena = a, .text = text, .error = error};
    struct jv *root = NULL, *open = NULL, *v = NULL;
    size_t depth = 0;
    do {
        TRY(read_value(&r, open, &v));
        if (!root) root = v;
        if (v->kind == JV_ARRAY || v->kind == JV_OBJECT) {
            if (++depth > JSON_DEPTH_MAX)
                return err_set(error, DS4_ERR_LIMIT, "the body nests deeper than %d", JSON_DEPTH_MAX);
            open = v;
        }
        TRY(read_on(&r, &open, &depth));
    } while (open);
    skip_space(&r);
    if (r.at != text.len) return refuse(&r, "something behind the end");
    *out = root;
    return DS4_OK;
}

const struct jv *jv_member(const struct jv *v, const char *name)
{
    const struct jv *found = NULL;
    if (!jv_is(v, JV_OBJECT)) return NULL;
    struct ds4_span wanted = span_from(name);
    for (const struct jv *child = v->first; child; child = child->next)
        if (span_eq(child->name, wanted)) found = child;
    return found;
}

const struct jv *jv_get(const struct jv *v, const char *name)
{
    const struct jv *found = jv_member(v, name);
    return found && found->kind != JV_NULL ? found : NULL;
}

struct ds4_span jv_text(const struct jv *v) { return jv_is(v, JV_STRING) ? v->text : SPAN(""); }
bool jv_is(const struct jv *v, enum jv_kind kind) { return v && v->kind == kind; }
bool jv_text_is(const struct jv *v, const char *text)
{
    return jv_is(v, JV_STRING) && span_eq(v->text, span_from(text));
}
bool jv_is_true(const struct jv *v) { return jv_is(v, JV_BOOL) && v->truth; }
bool jv_is_false(const struct jv *v) { return jv_is(v, JV_BOOL) && !v->truth; }

bool jv_number(const struct jv *v, double *out)
{
    return jv_is(v, JV_NUMBER) && options_parse_f64(v->raw, -1e308, 1e308, out);
}

static bool same_scalar(const struct jv *a, const struct jv *b)
{
    double x, y;
    if (a->kind == JV_STRING) return span_eq(a->text, b->text);
    if (a->kind == JV_BOOL) return a->truth == b->truth;
    if (a->kind == JV_NULL || span_eq(a->raw, b->raw)) return true;
    return jv_number(a, &x) && jv_number(b, &y) && x >= y && x <= y;
}

static const struct jv *counterpart(const struct jv *list, const struct jv *child, size_t i)
{
    if (list->kind == JV_OBJECT) {
        for (const struct jv *other = list->first; other; other = other->next)
            if (span_eq(other->name, child->name)) return other;
        return NULL;
    }
    const struct jv *other = list->first;
    for (; i > 0 && other; i--) other = other->next;
    return other;
}

/* The depth is bounded by JSON_DEPTH_MAX: a stack of positions, no recursion. */
bool jv_same(const struct jv *a, const struct jv *b)
{
    struct {
        const struct jv *child, *list;
        size_t i;
    } stack[JSON_DEPTH_MAX + 1];
    size_t depth = 0;
    for (;;) {
        if (!a || !b || a->kind != b->kind || a->n != b->n || a->n > SAME_CHILDREN_MAX) return false;
        if (a->kind < JV_ARRAY && !same_scalar(a, b)) return false;
        if (a->first) {
            stack[depth].child = a->first;
            stack[depth].list = b;
            stack[depth++].i = 0;
        } else {
            while (depth > 0 && !stack[depth - 1].child->next) depth--;
            if (depth == 0) return true;
            stack[depth - 1].child = stack[depth - 1].child->next;
            stack[depth - 1].i++;
        }
        a = stack[depth - 1].child;
        b = counterpart(stack[depth - 1].list, a, stack[depth - 1].i);
    }
}
