/* pretok.h - cuts text into the pieces that are merged on their own ("pre-tokens").
 *
 * The rule is three regular expressions applied one after the other, each to the pieces that the one before it left;
 * matches and the gaps between them are pieces alike:
 *   1.  \p{N}{1,3}
 *   2.  [U+4E00-9FA5 U+3040-309F U+30A0-30FF]+
 *   3.  [ASCII punctuation or symbol][A-Za-z]+ | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+ | SPACE?[\p{P}\p{S}]+[\r\n]*
 *       | \s*[\r\n]+ | \s+(?!\S) | \s+
 * Here they are one pass in linear time. The concatenation of the pieces is the text. */
#ifndef DS4_TEXT_PRETOK_H
#define DS4_TEXT_PRETOK_H

#include "base/span.h"

struct pretok {
    struct ds4_span text; /* should be valid UTF-8; ill-formed bytes are taken as characters of no class */
    size_t at;            /* 0 at first */
};

/* Fills *piece with the next one (borrows from the text, never empty); false at the end. */
bool pretok_next(struct pretok *p, struct ds4_span *piece);

#endif
