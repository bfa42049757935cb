/* conn.h - one connection: bytes in, an exchange, bytes out. Used by server.c only, on its thread. */
#ifndef DS4_SERVE_HTTP_CONN_H
#define DS4_SERVE_HTTP_CONN_H

#include "serve/http/server.h"

enum conn_state {
    CONN_IDLE,   /* between requests */
    CONN_HEAD,   /* a head has begun */
    CONN_BODY,
    CONN_ANSWER, /* waiting for, and sending, the answer */
    CONN_LINGER, /* the last answer is out */
    CONN_DEAD
};

struct conn {
    int fd;
    enum conn_state state;
    uint64_t deadline_ns;      /* of the state */
    uint64_t began_ns;         /* the request's first byte */
    uint64_t moved_ns;         /* last byte taken by the client, or nothing to take */
    uint64_t spoke_ns;         /* last byte put out of a stream */
    struct buf in;
    struct buf head;           /* the head's own bytes: the request borrows from them */
    struct buf body;
    struct http_request request;
    struct gate_chunks chunks;
    size_t scanned;
    struct buf out;
    size_t out_sent;
    struct exchange *exchange;
    const char *header;
    size_t n_body_out;
    bool head_sent, chunked_out, answered, close_after, refused;
};

void conn_init(struct conn *c, int fd, const struct server_options *o);
void conn_deinit(struct conn *c, const struct server_options *o);
/* What poll should watch. */
int conn_wants(const struct conn *c);
/* Reads what is there and steps the state. body_bytes_held: of all connections together. */
void conn_readable(struct conn *c, const struct server_options *o, int wake_fd, size_t body_bytes_held);
/* Takes what the exchange has, and sends. */
void conn_step(struct conn *c, const struct server_options *o);
/* The peer hung up. */
void conn_hangup(struct conn *c);
/* Enforces deadlines; returns the time of the next one. */
uint64_t conn_tick(struct conn *c, const struct server_options *o, uint64_t now_ns);

#endif
