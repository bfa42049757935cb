/* exchange.h - one request's answer on its way from whoever makes it (any thread) to the connection (I/O thread).
 *
 * A maker either replies once, whole, or begins a stream of events and ends it. The connection sees the client's going
 * and says so by a flag that the maker reads. Both hold a reference. */
#ifndef DS4_SERVE_HTTP_EXCHANGE_H
#define DS4_SERVE_HTTP_EXCHANGE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/buf.h"

#define EXCHANGE_PENDING_BYTES_MAX (1u << 20) /* of a stream: a client that does not read is dropped */
#define EXCHANGE_NOTE_BYTES 160
#define EXCHANGE_CACHE_BYTES 128

struct exchange {
    atomic_int refs;
    atomic_bool cancelled;   /* the client is gone, or must go */
    int wake_fd;             /* of the I/O thread */
    pthread_mutex_t lock;    /* over everything below */
    int status;              /* 0 = nothing yet */
    const char *type;        /* constant */
    const char *header;      /* one more header line with its CR LF, constant; may be NULL */
    struct buf out;          /* body bytes not yet taken by the connection */
    bool wants_stream;       /* comments may be sent while nothing is said */
    bool streaming;          /* the answer is a stream; its head may be on the wire */
    bool ended;
    char cache[EXCHANGE_CACHE_BYTES]; /* value of the header x-ds4-cache; empty: none */
    char note[EXCHANGE_NOTE_BYTES]; /* for the log line; printable */
};

struct exchange *exchange_create(int wake_fd); /* NULL when out of memory; one reference */
void exchange_hold(struct exchange *x);
void exchange_release(struct exchange *x);

/* The whole answer. False when a stream has begun (nothing is done then). */
bool exchange_reply(struct exchange *x, int status, const char *type, struct ds4_span body, const char *header);
/* From now on silence is filled with comments: the answer will be a stream, unless a reply comes before the first. */
void exchange_expect_stream(struct exchange *x);
/* Bytes of a stream; whole events. Begins it. */
void exchange_put(struct exchange *x, struct ds4_span events);
void exchange_end(struct exchange *x);
/* The answer cannot be given whole: the connection is closed, so that the client knows. */
void exchange_drop(struct exchange *x);
void exchange_note(struct exchange *x, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Goes into the head when that is not on the wire yet. */
void exchange_say_cache(struct exchange *x, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool exchange_is_cancelled(const struct exchange *x);

#endif
