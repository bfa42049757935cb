/* json.h - JSON that strangers send, read strictly (RFC 8259) into a tree which keeps the sender's own bytes of every
 * value: schemas and arguments reach the renderer with their members in order and numbers as they were written.
 *
 * Refused: control bytes in strings, ill-formed UTF-8, nesting deeper than JSON_DEPTH_MAX, anything behind the value.
 * A lone surrogate escape becomes U+FFFD. Of members with the same name the last counts. No recursion. */
#ifndef DS4_SERVE_JSON_H
#define DS4_SERVE_JSON_H

#include "base/arena.h"

#define JSON_DEPTH_MAX 64
#define JSON_STRING_BYTES_MAX (16u << 20)

enum jv_kind { JV_NULL, JV_BOOL, JV_NUMBER, JV_STRING, JV_ARRAY, JV_OBJECT };

struct jv {
    enum jv_kind kind;
    bool truth;            /* JV_BOOL */
    struct ds4_span raw;   /* the sender's bytes of the value; borrows from the text */
    struct ds4_span text;  /* JV_STRING: decoded */
    struct ds4_span name;  /* decoded, of a member */
    struct jv *first, *next, *last_child, *parent; /* children in order; siblings */
    size_t n;              /* children */
};

/* Parses text into the arena; what is in *out borrows from both. FORMAT: no JSON; LIMIT: too deep, too long a string or
 * the arena is full. */
enum ds4_status jv_parse(struct arena *a, struct ds4_span text, const struct jv **out,
                         struct ds4_error *error) DS4_MUST_CHECK;

/* A member of an object; NULL when it is missing, null, or v is no object. */
const struct jv *jv_get(const struct jv *v, const char *name);
/* The same, null included. */
const struct jv *jv_member(const struct jv *v, const char *name);
/* Text of a string; empty when v is NULL or another kind. */
struct ds4_span jv_text(const struct jv *v);
bool jv_is(const struct jv *v, enum jv_kind kind); /* false for NULL */
bool jv_text_is(const struct jv *v, const char *text);
bool jv_is_true(const struct jv *v);
bool jv_is_false(const struct jv *v);
/* The number as a double; false when v is no number or out of range. */
bool jv_number(const struct jv *v, double *out);
/* The same value: members in any order, numbers by their text or value. */
bool jv_same(const struct jv *a, const struct jv *b);

#endif
