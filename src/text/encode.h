/* encode.h - text to token ids and back. Byte-level BPE: text is cut into pieces (pretok.h), each piece starts as
 * single bytes, and the adjacent pair with the lowest rank is merged until none is left. Any thread. */
#ifndef DS4_TEXT_ENCODE_H
#define DS4_TEXT_ENCODE_H

#include "base/buf.h"
#include "text/vocab.h"

/* Appends the ids of text to *out. special: added tokens in the text become themselves (at each place the longest), the
 * spans between them are encoded as plain text; otherwise no added token ever comes out. Invalid UTF-8 is replaced by
 * U+FFFD, one for each maximal subpart. On an error *out may hold a part. UNSUPPORTED: a byte that no token stands for.
 * */
enum ds4_status text_encode(const struct vocab *vocab, struct ds4_span text, bool special, struct ds4_tokens *out,
                            struct ds4_error *error) DS4_MUST_CHECK;
/* Offset of the next added token in text at or after from, the longest at its place, and its id; text.len and -1 when
 * there is none. */
size_t text_find_added(const struct vocab *vocab, struct ds4_span text, size_t from, int32_t *id);
/* Appends text with its invalid UTF-8 replaced as text_encode does. */
void text_put_repaired(struct buf *out, struct ds4_span text);
/* Appends the bytes of ids; ids out of range stand for nothing. */
enum ds4_status text_decode(const struct vocab *vocab, const int32_t *ids, size_t n, struct ds4_text *out,
                            struct ds4_error *error) DS4_MUST_CHECK;

#endif
