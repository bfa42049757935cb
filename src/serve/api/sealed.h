/* sealed.h - reasoning that a client carries for the server from turn to turn without reading it: base64 of a version
 * byte, the XXH3-128 digest of the text, and the text. Opaque, but neither secret nor signed: a client that forges one
 * changes nothing but its own conversation. The digest finds accidents and what other servers made. */
#ifndef DS4_SERVE_API_SEALED_H
#define DS4_SERVE_API_SEALED_H

#include "base/arena.h"
#include "base/buf.h"

/* Appends the sealed text, without quotes. */
void sealed_put(struct buf *out, struct ds4_span text);
/* The text, in arena memory; ptr NULL when it was not sealed here or is damaged. */
struct ds4_span sealed_open(struct arena *arena, struct ds4_span sealed);

#endif
