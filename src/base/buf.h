/* buf.h - growing byte strings (struct ds4_text, public) with a sticky failure: append freely, check once.
 * A buf that failed keeps what it had and ignores further appends. */
#ifndef DS4_BASE_BUF_H
#define DS4_BASE_BUF_H

#include "base/err.h"
#include "base/span.h"

struct buf {
    struct ds4_text text;
    size_t limit;    /* most bytes; 0 = no limit */
    bool failed;     /* out of memory or over the limit */
    bool over_limit; /* the latter */
};

/* What is appended must not lie in the buf itself: its memory may move. */

void buf_put(struct buf *b, const void *bytes, size_t n);
void buf_put_span(struct buf *b, struct ds4_span s);
void buf_put_text(struct buf *b, const char *nul_terminated);
void buf_put_byte(struct buf *b, unsigned char byte);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A JSON string with its quotes; each maximal ill-formed part of the UTF-8 becomes U+FFFD. */
void buf_put_json_string(struct buf *b, struct ds4_span s);
void buf_clear(struct buf *b);   /* keeps the memory */
void buf_deinit(struct buf *b);
struct ds4_span buf_span(const struct buf *b);
/* OK, or NOMEM/LIMIT when an append failed. */
enum ds4_status buf_status(const struct buf *b, struct ds4_error *error) DS4_MUST_CHECK;

#endif
