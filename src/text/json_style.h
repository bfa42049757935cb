/* json_style.h - JSON text in the one style that the model was trained on: ", " and ": ", no line breaks, UTF-8 as it
 * is, numbers as the client wrote them, members in the client's order; of duplicate members the last value counts, at
 * the place of the first (as Python's json.loads and json.dumps do together).
 *
 * The input is untrusted. Reading is strict (RFC 8259) but for two things: ill-formed UTF-8 and lone surrogates become
 * U+FFFD. No recursion; time and memory are linear. */
#ifndef DS4_TEXT_JSON_STYLE_H
#define DS4_TEXT_JSON_STYLE_H

#include "base/buf.h"

#ifdef DS4_SMALL_LIMITS
#define JSON_VALUES_MAX (1u << 12)
#else
#define JSON_VALUES_MAX (1u << 20) /* 44 bytes each while a text is read; tools of agents have a few thousand */
#endif

enum json_kind { JSON_LITERAL /* true, false, null */, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };
#define JSON_NONE UINT32_MAX

struct json_value {
    enum json_kind kind;
    uint32_t parent, next, first, last; /* values, or JSON_NONE */
    size_t start, len;                  /* literal, number, or what stands between a string's quotes, in the text */
    uint32_t key, key_len;              /* of a member: decoded, in keys */
};

/* A parsed text. values[0] is the root. */
struct json_doc {
    struct ds4_span text; /* borrowed */
    struct json_value *values;
    uint32_t n_values, cap_values;
    struct buf keys;
    uint32_t *members;    /* hash table of members by (parent, key) */
    uint32_t n_members, cap_members;
};

/* Fills *doc (borrows text). FORMAT names the offset. json_deinit releases, also after an error. */
enum ds4_status json_parse(struct json_doc *doc, struct ds4_span text, struct ds4_error *error) DS4_MUST_CHECK;
void json_deinit(struct json_doc *doc);
struct ds4_span json_key(const struct json_doc *doc, uint32_t value); /* decoded; borrows */
/* Appends what a string value means. */
void json_put_decoded(const struct json_doc *doc, uint32_t value, struct buf *out);
/* Appends a value with all below it in the style above. */
void json_put_styled(const struct json_doc *doc, uint32_t value, struct buf *out);

#endif
