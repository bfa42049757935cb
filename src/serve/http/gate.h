/* gate.h - bytes of a connection to a checked request. Strict on purpose: what two readers could understand in two
 * ways is refused, and the connection is closed.
 *
 * Refused: line ends other than CR LF, control bytes, folded headers, space before a colon, none or two Hosts, two
 * lengths, a length beside a transfer coding, codings other than chunked, trailers, targets that are neither a path nor
 * an http URL, compressed bodies, HTTP versions other than 1.1 and 1.0. What speaks 1.0 (some reverse proxies) gets one
 * answer a connection, ended by its close, and may not send chunks.
 *
 * RFC 9112: the authority of a target in absolute form stands for Host, which must be there nonetheless (3.2, 3.2.2);
 * extensions of chunks are ignored, within a limit for all of a body together (7.1.1). */
#ifndef DS4_SERVE_HTTP_GATE_H
#define DS4_SERVE_HTTP_GATE_H

#include "base/buf.h"

#define GATE_HEAD_BYTES_MAX (32u << 10)
#define GATE_HEADERS_MAX 100
#define GATE_TARGET_BYTES_MAX (8u << 10)
#define GATE_BODY_BYTES_MAX (32u << 20)
#define GATE_EXTENSIONS_BYTES_MAX (32u << 10) /* of a body's chunks together, as for a head */

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_OPTIONS };

/* Spans borrow from the head's bytes; ptr is NULL for a header that is not there. */
struct http_request {
    enum http_method method;
    struct ds4_span path;            /* without the query */
    struct ds4_span authority;       /* of a target in absolute form: then host is the same */
    struct ds4_span host, origin, fetch_site, content_type, authorization, api_key, content_length;
    size_t body_bytes;               /* by Content-Length */
    size_t body_bytes_max;
    bool chunked, expects_continue, close;
    bool is_old;                     /* HTTP/1.0 */
};

#define GATE_MORE 0
#define GATE_OK 200

/* Looks for a whole head in bytes. *scanned is how far earlier calls have looked (0 at first). GATE_MORE, GATE_OK with
 * *head_bytes and *out filled, or the status to refuse with: then *out has what was read before the fault, its path for
 * one. body_max: 413 above. */
int gate_head(struct ds4_span bytes, size_t body_max, size_t *scanned, struct http_request *out, size_t *head_bytes);

/* The decoder of a chunked body. Zero-initialise. */
struct gate_chunks {
    int state;
    size_t left, n_digits, n_extension_bytes;
};
/* Decodes from bytes into body; *taken says how many were used. GATE_MORE, GATE_OK at the end, or 400, 413,
 * 431. */
int gate_chunks_feed(struct gate_chunks *c, struct ds4_span bytes, size_t body_max, struct buf *body, size_t *taken);

/* Compares with a lower-case word, ignoring case. */
bool gate_is_word(struct ds4_span text, const char *word);

#endif
