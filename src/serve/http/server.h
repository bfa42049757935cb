/* server.h - connections: one thread that owns every socket, and the states of a connection with a deadline each.
 *
 * A request comes whole (head, then body) before anybody sees it; the handler answers through an exchange, at once or
 * later from another thread. While the answer is being made the client's going is watched. */
#ifndef DS4_SERVE_HTTP_SERVER_H
#define DS4_SERVE_HTTP_SERVER_H

#include "serve/http/exchange.h"
#include "serve/http/gate.h"

#define SERVER_CONNECTIONS_MAX 1536 /* one that says nothing costs a place of less than a KiB */
#define SERVER_OTHER_DESCRIPTORS 256 /* files of the model and the store */
#define SERVER_BODIES_BYTES_MAX (128u << 20) /* of bodies being read, all connections together */
#define SERVER_HEAD_SECONDS 10     /* to send a whole head */
#define SERVER_BODY_SECONDS 30     /* to send a whole body, and */
#define SERVER_BODY_RATE (64u << 10) /* one second more for so many bytes */
#define SERVER_IDLE_SECONDS 60     /* between requests */
#define SERVER_STALL_SECONDS 30    /* without the client taking a byte */
#define SERVER_LINGER_SECONDS 2    /* after the last answer of a connection */
#define SERVER_SILENCE_SECONDS 5   /* of a stream before a comment is sent */

struct server;
struct server_options {
    const char *host;
    uint16_t port;               /* 0 = the system's choice */
    double time_scale;           /* deadlines are divided by it; 1 = as above */
    size_t body_bytes_max;
    /* What comes before the body is read: 0 to go on, else refused by the handler's own reply to exchange. */
    bool (*admit)(void *user, const struct http_request *request, struct exchange *x);
    /* A whole request. Takes the body's memory (body is empty afterwards). Must reply, or keep a reference and have
     * somebody reply later. */
    void (*handle)(void *user, const struct http_request *request, struct buf *body, struct exchange *x);
    /* The reply to bytes that are no request. path: what they were meant for, as far as it was read; may be empty. */
    void (*refuse)(void *user, int status, struct ds4_span path, struct exchange *x);
    /* A header line with CR LF for every answer to this request; may be NULL. */
    const char *(*header)(void *user, const struct http_request *request);
    void (*log)(void *user, const char *line);
    void *user;
};

enum ds4_status server_open(const struct server_options *options, struct server **out,
                            struct ds4_error *error) DS4_MUST_CHECK;
uint16_t server_port(const struct server *s);
int server_wake_fd(const struct server *s);
/* Serves until *stop is set and nothing is left, or grace_s later. wake with net_wake(server_wake_fd). */
void server_run(struct server *s, const atomic_int *stop, double grace_s);
void server_close(struct server *s);

#endif
