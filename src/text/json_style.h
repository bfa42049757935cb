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
#define JTEXT_VALUES_MAX (1u << 12)
#else
#define JTEXT_VALUES_MAX (1u << 20) /* 44 bytes each while a text is read; tools of agents have a few thousand */
#endif

enum jtext_kind { JTEXT_LITERAL /* true, false, null */, JTEXT_NUMBER, JTEXT_STRING, JTEXT_ARRAY, JTEXT_OBJECT };
#define JTEXT_NONE UINT32_MAX

struct jtext_value {
    enum jtext_kind kind;
    uint32_t parent, next, first, last; /* values, or JTEXT_NONE */
    size_t start, len;                  /* literal, number, or what stands between a string's quotes, in the text */
    uint32_t key, key_len;              /* of a member: decoded, in keys */
};

/* A parsed text. values[0] is the root. */
struct jtext_doc {
    struct ds4_span text; /* borrowed */
    struct jtext_value *values;
    uint32_t n_values, cap_values;
    struct buf keys;
    uint32_t *members;    /* hash table of members by (parent, key) */
    uint32_t n_members, cap_members;
};

/* Fills *doc (borrows text). FORMAT names the offset. jtext_deinit releases, also after an error. */
enum ds4_status jtext_parse(struct jtext_doc *doc, struct ds4_span text, struct ds4_error *error) DS4_MUST_CHECK;
void jtext_deinit(struct jtext_doc *doc);
struct ds4_span jtext_key(const struct jtext_doc *doc, uint32_t value); /* decoded; borrows */
/* Member of an object by its name; JTEXT_NONE when it has none. */
uint32_t jtext_member(const struct jtext_doc *doc, uint32_t object, struct ds4_span key);
/* Appends what a string value means. */
void jtext_put_decoded(const struct jtext_doc *doc, uint32_t value, struct buf *out);
/* Appends a value with all below it in the style above. */
void jtext_put_styled(const struct jtext_doc *doc, uint32_t value, struct buf *out);

#endif
