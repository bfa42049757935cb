/* utf8.h - decoding and checking of UTF-8 (Unicode 16, table 3-7). */
#ifndef DS4_BASE_UTF8_H
#define DS4_BASE_UTF8_H

#include "base/span.h"

#define UTF8_BAD 0xFFFFFFFFu

/* Decodes the scalar at ptr (len >= 1). *taken = its bytes, or, with UTF8_BAD, the bytes of the maximal ill-formed
 * subpart (what one U+FFFD replaces). */
uint32_t utf8_next(const char *ptr, size_t len, size_t *taken);
/* Writes scalar to out[4]; returns the bytes used. */
size_t utf8_put(uint32_t scalar, char out[4]);
bool utf8_valid(struct ds4_span s);
/* Length of the longest prefix of s that does not end in an incomplete but so far valid character. */
size_t utf8_complete_len(struct ds4_span s);

#endif
