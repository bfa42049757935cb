/* conn.c - see conn.h. */
#include "serve/http/conn.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/net.h"

#define READ_BYTES 8192
#define OUT_BYTES_LOW (256u << 10) /* more is taken from an exchange below this */

static uint64_t after(const struct server_options *o, uint64_t now_ns, double seconds)
{
    return now_ns + (uint64_t)(seconds / o->time_scale * 1e9);
}

void conn_init(struct conn *c, int fd, const struct server_options *o)
{
    *c = (struct conn){.fd = fd, .state = CONN_HEAD, .began_ns = clock_ns()};
    c->deadline_ns = after(o, c->began_ns, SERVER_HEAD_SECONDS);
    c->moved_ns = c->began_ns;
}

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {{200, "OK"}, {204, "No Content"}, {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"},
                   {404, "Not Found"}, {405, "Method Not Allowed"}, {408, "Request Timeout"}, {411, "Length Required"},
                   {413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"},
                   {417, "Expectation Failed"}, {431, "Request Header Fields Too Large"},
                   {500, "Internal Server Error"}, {501, "Not Implemented"}, {503, "Service Unavailable"},
                   {505, "HTTP Version Not Supported"}, {529, "Overloaded"}};
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (reasons[i].status == status) return reasons[i].reason;
    return "Error";
}

/* One line for each request: no byte of a client but the path, whose bytes the gate has found printable. */
static void log_request(const struct conn *c, const struct server_options *o, int status)
{
    static const char *const methods[] = {"GET", "HEAD", "POST", "OPTIONS"};
    char line[512];
    const struct exchange *x = c->exchange;
    int path_len = (int)(c->request.path.len < 128 ? c->request.path.len : 128);
    if (!o->log) return;
    (void)snprintf(line, sizeof line, "%s %.*s %d %zu bytes %.1f ms%s%s%s",
                   c->refused ? "-" : methods[c->request.method], c->refused ? 1 : path_len,
                   c->refused ? "-" : c->request.path.ptr, status, c->n_body_out,
                   clock_seconds_since(c->began_ns) * 1e3, x->note[0] ? " " : "", x->note,
                   exchange_is_cancelled(x) ? " (client left)" : "");
    o->log(o->user, line);
}

void conn_deinit(struct conn *c, const struct server_options *o)
{
    if (c->exchange) {
        atomic_store(&c->exchange->cancelled, true);
        (void)pthread_mutex_lock(&c->exchange->lock);
        log_request(c, o, c->exchange->status ? c->exchange->status : 499);
        (void)pthread_mutex_unlock(&c->exchange->lock);
        exchange_release(c->exchange);
    }
    net_close(c->fd);
    buf_deinit(&c->in);
    buf_deinit(&c->head);
    buf_deinit(&c->body);
    buf_deinit(&c->out);
    *c = (struct conn){.fd = -1, .state = CONN_DEAD};
}

int conn_wants(const struct conn *c)
{
    int wants = c->out.text.len > c->out_sent ? NET_WRITE : 0;
    if (c->state != CONN_ANSWER && c->state != CONN_DEAD) wants |= NET_READ;
    /* While an answer is made the end of the client's bytes says that it left; a next request waits in `in`. */
    if (c->state == CONN_ANSWER && c->in.text.len < READ_BYTES) wants |= NET_READ;
    return wants;
}

static void begin_answer(struct conn *c, const struct server_options *o)
{
    c->state = CONN_ANSWER;
    c->moved_ns = c->spoke_ns = clock_ns();
    c->deadline_ns = UINT64_MAX;
    conn_step(c, o);
}

static bool make_exchange(struct conn *c, int wake_fd)
{
    c->exchange = exchange_create(wake_fd);
    if (!c->exchange) c->state = CONN_DEAD;
    return c->exchange != NULL;
}

static void refuse(struct conn *c, const struct server_options *o, int status, int wake_fd)
{
    c->close_after = true;
    if (!c->exchange) {
        c->refused = true;
        if (!make_exchange(c, wake_fd)) return;
    }
    o->refuse(o->user, status, c->request.path, c->exchange);
    begin_answer(c, o);
}

static void drop_front(struct buf *b, size_t n)
{
    memmove(b->text.ptr, b->text.ptr + n, b->text.len - n);
    b->text.len -= n;
}

/* A whole head is there: the request is kept, and what follows is its body. */
static void take_head(struct conn *c, const struct server_options *o, size_t head_bytes, int wake_fd, size_t held)
{
    size_t scanned = 0, again;
    buf_clear(&c->head);
    buf_put(&c->head, c->in.text.ptr, head_bytes);
    drop_front(&c->in, head_bytes);
    c->scanned = 0;
    if (c->head.failed || !make_exchange(c, wake_fd)) {
        c->state = CONN_DEAD;
        return;
    }
    ensure(gate_head(buf_span(&c->head), o->body_bytes_max, &scanned, &c->request, &again) == GATE_OK);
    c->close_after = c->request.close;
    c->header = o->header ? o->header(o->user, &c->request) : NULL;
    if (!o->admit(o->user, &c->request, c->exchange)) {
        c->close_after = c->close_after || c->request.body_bytes || c->request.chunked;
        begin_answer(c, o);
        return;
    }
    if (held + c->request.body_bytes > SERVER_BODIES_BYTES_MAX) {
        refuse(c, o, 503, wake_fd);
        return;
    }
    c->state = CONN_BODY;
    c->chunks = (struct gate_chunks){0};
    c->deadline_ns = after(o, clock_ns(), SERVER_BODY_SECONDS + (double)c->request.body_bytes / SERVER_BODY_RATE);
    if (c->request.expects_continue && c->in.text.len == 0) buf_put_text(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
}

static void step_head(struct conn *c, const struct server_options *o, int wake_fd, size_t held)
{
    size_t head_bytes;
    if (c->in.text.len == 0) return;
    if (c->state == CONN_IDLE) {
        c->state = CONN_HEAD;
        c->began_ns = clock_ns();
        c->deadline_ns = after(o, c->began_ns, SERVER_HEAD_SECONDS);
    }
    int status = gate_head(buf_span(&c->in), o->body_bytes_max, &c->scanned, &c->request, &head_bytes);
    if (status == GATE_OK) take_head(c, o, head_bytes, wake_fd, held);
    else if (status != GATE_MORE) refuse(c, o, status, wake_fd);
}

static void step_body(struct conn *c, const struct server_options *o, int wake_fd, size_t held)
{
    size_t taken = c->in.text.len;
    int status = GATE_OK;
    if (c->request.chunked) {
        status = gate_chunks_feed(&c->chunks, buf_span(&c->in), o->body_bytes_max, &c->body, &taken);
        if (held + c->body.text.len > SERVER_BODIES_BYTES_MAX) status = 503;
    } else {
        size_t left = c->request.body_bytes - c->body.text.len;
        if (taken > left) taken = left;
        buf_put(&c->body, c->in.text.ptr, taken);
        if (c->body.text.len < c->request.body_bytes) status = GATE_MORE;
    }
    drop_front(&c->in, taken);
    if (c->body.failed) status = 503;
    if (status == GATE_MORE) return;
    if (status != GATE_OK) {
        refuse(c, o, status, wake_fd);
        return;
    }
    o->handle(o->user, &c->request, &c->body, c->exchange);
    begin_answer(c, o);
}

static void step_input(struct conn *c, const struct server_options *o, int wake_fd, size_t held)
{
    enum conn_state before;
    do {
        before = c->state;
        if (c->state == CONN_IDLE || c->state == CONN_HEAD) step_head(c, o, wake_fd, held);
        if (c->state == CONN_BODY) step_body(c, o, wake_fd, held);
    } while (c->state == CONN_IDLE && before == CONN_ANSWER);
}

void conn_readable(struct conn *c, const struct server_options *o, int wake_fd, size_t held)
{
    char bytes[READ_BYTES];
    long n = net_recv(c->fd, bytes, sizeof bytes);
    if (n == 0 || n == NET_GONE) {
        conn_hangup(c);
        return;
    }
    if (c->state == CONN_LINGER) return;
    if (n > 0) buf_put(&c->in, bytes, (size_t)n);
    if (c->in.failed) c->state = CONN_DEAD;
    step_input(c, o, wake_fd, held);
}

void conn_hangup(struct conn *c)
{
    if (c->exchange) atomic_store(&c->exchange->cancelled, true);
    c->state = CONN_DEAD;
}

static void put_head(struct conn *c, size_t length)
{
    const struct exchange *x = c->exchange;
    buf_printf(&c->out, "HTTP/1.1 %d %s\r\n", x->status, reason_of(x->status));
    if (x->type) buf_printf(&c->out, "Content-Type: %s\r\n", x->type);
    bool chunks = x->streaming && !c->request.is_old; /* for 1.0 the stream ends with the connection */
    if (chunks) buf_put_text(&c->out, "Transfer-Encoding: chunked\r\n");
    else if (x->status != 204 && !x->streaming) buf_printf(&c->out, "Content-Length: %zu\r\n", length);
    buf_put_text(&c->out, "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n");
    if (x->cache[0]) buf_printf(&c->out, "x-ds4-cache: %s\r\n", x->cache);
    if (x->header) buf_put_text(&c->out, x->header);
    if (c->header) buf_put_text(&c->out, c->header);
    buf_put_text(&c->out, c->close_after ? "Connection: close\r\n\r\n" : "Connection: keep-alive\r\n\r\n");
    c->head_sent = true;
    c->chunked_out = chunks;
}

static void put_piece(struct conn *c, struct ds4_span bytes)
{
    if (bytes.len == 0) return;
    if (c->chunked_out) buf_printf(&c->out, "%zx\r\n", bytes.len);
    buf_put_span(&c->out, bytes);
    if (c->chunked_out) buf_put_text(&c->out, "\r\n");
    c->n_body_out += bytes.len;
    c->spoke_ns = clock_ns();
}

/* Moves what the exchange has into the output. Holds its lock. */
static void take_answer(struct conn *c)
{
    struct exchange *x = c->exchange;
    if (x->status == 0 || c->answered || c->out.text.len - c->out_sent > OUT_BYTES_LOW) return;
    if (x->out.failed) {
        c->state = CONN_DEAD;
        return;
    }
    if (!c->head_sent) put_head(c, x->out.text.len);
    if (x->streaming) {
        put_piece(c, buf_span(&x->out));
    } else if (c->refused || c->request.method != HTTP_HEAD) {
        buf_put_span(&c->out, buf_span(&x->out));
        c->n_body_out += x->out.text.len;
    }
    buf_clear(&x->out);
    if (x->ended && c->chunked_out) buf_put_text(&c->out, "0\r\n\r\n");
    c->answered = x->ended;
}

static void send_out(struct conn *c)
{
    while (c->out_sent < c->out.text.len && c->state != CONN_DEAD) {
        long n = net_send(c->fd, c->out.text.ptr + c->out_sent, c->out.text.len - c->out_sent);
        if (n == NET_AGAIN) return;
        if (n < 0) {
            conn_hangup(c);
            return;
        }
        c->out_sent += (size_t)n;
        c->moved_ns = clock_ns();
    }
    buf_clear(&c->out);
    c->out_sent = 0;
    c->moved_ns = clock_ns();
}

/* The answer is out: the connection is free for another request. */
static void end_answer(struct conn *c, const struct server_options *o)
{
    (void)pthread_mutex_lock(&c->exchange->lock);
    log_request(c, o, c->exchange->status);
    (void)pthread_mutex_unlock(&c->exchange->lock);
    int wake_fd = c->exchange->wake_fd;
    exchange_release(c->exchange);
    c->exchange = NULL;
    if (c->close_after) { /* what the client still sends is read and dropped, so that it can read the answer */
        net_finish(c->fd);
        c->state = CONN_LINGER;
        c->deadline_ns = after(o, clock_ns(), SERVER_LINGER_SECONDS);
        return;
    }
    c->head_sent = c->chunked_out = c->answered = c->refused = false;
    c->n_body_out = 0;
    buf_deinit(&c->body);
    c->state = CONN_IDLE;
    c->deadline_ns = after(o, clock_ns(), SERVER_IDLE_SECONDS);
    if (c->in.text.len) net_wake(wake_fd); /* the next request is already there */
}

void conn_step(struct conn *c, const struct server_options *o)
{
    if (c->state == CONN_ANSWER && c->exchange) {
        (void)pthread_mutex_lock(&c->exchange->lock);
        take_answer(c);
        (void)pthread_mutex_unlock(&c->exchange->lock);
    }
    if (c->out.failed) conn_hangup(c);
    send_out(c);
    if (c->state == CONN_ANSWER && c->answered && c->out.text.len == 0) end_answer(c, o);
}

/* Silence of a stream is filled with a comment, which begins the stream when nothing was said yet. Returns when to look
 * again: whether a stream is wanted shows only when the request was read, possibly after this. */
static uint64_t fill_silence(struct conn *c, const struct server_options *o, uint64_t now_ns)
{
    struct exchange *x = c->exchange;
    uint64_t due = after(o, c->spoke_ns, SERVER_SILENCE_SECONDS);
    (void)pthread_mutex_lock(&x->lock);
    bool may = x->wants_stream && !x->ended && x->out.text.len == 0 && (x->status == 0 || x->streaming);
    if (may && now_ns >= due) {
        if (x->status == 0) {
            x->status = 200;
            x->type = "text/event-stream";
            x->streaming = true;
        }
        if (!c->head_sent) put_head(c, 0);
        put_piece(c, SPAN(": working\n\n"));
        due = after(o, now_ns, SERVER_SILENCE_SECONDS);
    }
    (void)pthread_mutex_unlock(&x->lock);
    if (may) send_out(c);
    return may || now_ns < due ? due : UINT64_MAX;
}

uint64_t conn_tick(struct conn *c, const struct server_options *o, uint64_t now_ns)
{
    uint64_t next = c->deadline_ns;
    if (c->state == CONN_ANSWER) {
        if (exchange_is_cancelled(c->exchange)) c->state = CONN_DEAD;
        uint64_t stalled = c->out.text.len > c->out_sent ? after(o, c->moved_ns, SERVER_STALL_SECONDS) : UINT64_MAX;
        if (now_ns >= stalled) conn_hangup(c);
        uint64_t due = c->state == CONN_ANSWER ? fill_silence(c, o, now_ns) : UINT64_MAX;
        return due < stalled ? due : stalled;
    }
    if (now_ns < c->deadline_ns) return next;
    c->state = CONN_DEAD; /* a head or body that came too slowly, or nothing for too long */
    return UINT64_MAX;
}
