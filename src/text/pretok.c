/* pretok.c - the three regular expressions of the pre-tokeniser as one pass by hand. See pretok.h.
 *
 * Stages 1 and 2 only cut the text into *regions*: three numbers at most, a CJK run, or what lies between. Stage 3
 * works inside a region and must not look across its end. No scan for that end is needed: a character belongs to the
 * region exactly if its class, with the CJK bit flipped inside a CJK region, is one of the six low codes; so the end of
 * the region, a number and the end of the text all read as "nothing that any alternative accepts".
 *
 * Source: the published tokenizer description of DeepSeek V3 and V4 (field pre_tokenizer). */
#include "text/pretok.h"

#include "base/utf8.h"
#include "text/unicode_table.h"

enum { OUTSIDE = 15 }; /* behind the end of the text; like any code from UNICODE_NUMBER on it ends a region */

struct view {
    const char *ptr;
    size_t len;
    unsigned flip; /* UNICODE_CJK_RUN inside a CJK region, else 0 */
};

static inline bool in_region(unsigned class) { return class < UNICODE_NUMBER; }
static inline bool is_word(unsigned class) { return class == UNICODE_LETTER || class == UNICODE_MARK; }
static inline bool is_sign(unsigned class) { return class == UNICODE_PUNCTUATION || class == UNICODE_SYMBOL; }
static inline bool is_newline(char c) { return c == '\n' || c == '\r'; }
static inline bool is_ascii_letter(char c) { return ((unsigned char)c | 32u) - 'a' < 26u; }

/* Class of the character at `at`; *after = where the next one begins. */
static inline unsigned class_at(const struct view *v, size_t at, size_t *after)
{
    if (at >= v->len) {
        *after = at;
        return OUTSIDE;
    }
    unsigned char c = (unsigned char)v->ptr[at];
    if (c < 0x80) {
        *after = at + 1;
        return unicode_class(c) ^ v->flip;
    }
    size_t taken;
    uint32_t scalar = utf8_next(v->ptr + at, v->len - at, &taken);
    *after = at + taken;
    return unicode_class(scalar) ^ v->flip;
}

static size_t skip_words(const struct view *v, size_t at)
{
    for (;;) {
        while (!v->flip && at < v->len && is_ascii_letter(v->ptr[at])) at++;
        size_t after;
        if (!is_word(class_at(v, at, &after))) return at;
        at = after;
    }
}

/* [\p{P}\p{S}]+[\r\n]*, from a character that is known to fit. */
static size_t skip_signs(const struct view *v, size_t at)
{
    size_t after;
    while (is_sign(class_at(v, at, &after))) at = after;
    while (!v->flip && at < v->len && is_newline(v->ptr[at])) at++;
    return at;
}

/* The last three alternatives: up to the last newline of the run of white space; without one the whole run at the end
 * of the region, else all but its last character; at least one character. */
static size_t skip_space(const struct view *v, size_t start)
{
    size_t at = start, last = start, newline_end = start, after;
    unsigned class;
    while ((class = class_at(v, at, &after)) == UNICODE_SPACE) {
        if (is_newline(v->ptr[at])) newline_end = after;
        last = at;
        at = after;
    }
    if (newline_end > start) return newline_end;
    return in_region(class) && last > start ? last : at;
}

/* Characters that no alternative takes, up to the first that begins a match. */
static size_t skip_gap(const struct view *v, size_t at)
{
    size_t after, beyond;
    for (;;) {
        if (class_at(v, at, &after) != UNICODE_OTHER || is_word(class_at(v, after, &beyond))) return at;
        at = after;
    }
}

static size_t stage_three(const struct view *v, size_t start)
{
    size_t second, third;
    unsigned class = class_at(v, start, &second);
    unsigned next = class_at(v, second, &third);
    char c = v->ptr[start];
    switch (class) {
    case UNICODE_LETTER:
    case UNICODE_MARK:
        return skip_words(v, second);
    case UNICODE_PUNCTUATION:
    case UNICODE_SYMBOL:
        if ((unsigned char)c < 0x80 && second < v->len && is_ascii_letter(v->ptr[second])) {
            while (second < v->len && is_ascii_letter(v->ptr[second])) second++;
            return second;
        }
        return skip_signs(v, start);
    case UNICODE_SPACE:
        if (!is_newline(c) && is_word(next)) return skip_words(v, second);
        if (c == ' ' && is_sign(next)) return skip_signs(v, second);
        return skip_space(v, start);
    default:
        return is_word(next) ? skip_words(v, second) : skip_gap(v, second);
    }
}

bool pretok_next(struct pretok *p, struct ds4_span *piece)
{
    struct view v = {p->text.ptr, p->text.len, 0};
    size_t start = p->at, end;
    if (start >= v.len) return false;
    unsigned class = class_at(&v, start, &end);
    if (class == UNICODE_NUMBER) {
        size_t after;
        for (int more = 0; more < 2 && class_at(&v, end, &after) == UNICODE_NUMBER; more++) end = after;
    } else {
        v.flip = class & UNICODE_CJK_RUN;
        end = stage_three(&v, start);
    }
    *piece = span_make(v.ptr + start, end - start);
    p->at = end;
    return true;
}
