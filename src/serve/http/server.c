/* server.c - see server.h: the loop over the sockets. */
#include "serve/http/server.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/net.h"
#include "serve/http/conn.h"

#define PAUSE_SECONDS 0.2 /* after running out of descriptors */
#define SAME_AGE_SECONDS 0.005
#define GO_TOGETHER 16    /* one in so many connections, at most */
#define CROWD 256         /* with more connections than that, new ones are taken in batches, so that a flood of them */
#define BATCH_SECONDS 0.005 /* does not cost a round over all for each */

struct server {
    struct server_options options;
    int listener, wake[2];
    uint16_t port;
    struct conn conns[SERVER_CONNECTIONS_MAX];
    size_t n_conns;
    uint64_t accept_after_ns;
    struct net_poll polls[SERVER_CONNECTIONS_MAX + 2]; /* of the round at hand */
};

enum ds4_status server_open(const struct server_options *options, struct server **out, struct ds4_error *error)
{
    struct server *s = mem_zalloc(1, sizeof *s);
    if (!s) return err_set(error, DS4_ERR_NOMEM, "no memory for the server");
    s->options = *options;
    net_allow_descriptors(SERVER_CONNECTIONS_MAX + SERVER_OTHER_DESCRIPTORS);
    enum ds4_status status = net_wake_create(s->wake, error);
    if (status == DS4_OK) {
        status = net_listen(options->host, options->port, &s->listener, &s->port, error);
        if (status == DS4_OK) {
            *out = s;
            return DS4_OK;
        }
        net_close(s->wake[0]);
        net_close(s->wake[1]);
    }
    mem_free(s);
    return status;
}

uint16_t server_port(const struct server *s) { return s->port; }
int server_wake_fd(const struct server *s) { return s->wake[1]; }

void server_close(struct server *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->n_conns; i++) conn_deinit(&s->conns[i], &s->options);
    if (s->listener >= 0) net_close(s->listener);
    net_close(s->wake[0]);
    net_close(s->wake[1]);
    mem_free(s);
}

static void remove_dead(struct server *s)
{
    for (size_t i = 0; i < s->n_conns;) {
        if (s->conns[i].state != CONN_DEAD) {
            i++;
            continue;
        }
        conn_deinit(&s->conns[i], &s->options);
        s->conns[i] = s->conns[--s->n_conns];
    }
}

/* When all places or descriptors are taken, the connection that has been in its head, or idle, for the longest makes
 * room, and some of those that came with it: in a flood not every one of them is worth a look at all. */
static bool make_room(struct server *s)
{
    size_t oldest = SIZE_MAX;
    for (size_t i = 0; i < s->n_conns; i++) {
        if (s->conns[i].state != CONN_HEAD && s->conns[i].state != CONN_IDLE) continue;
        if (oldest == SIZE_MAX || s->conns[i].deadline_ns < s->conns[oldest].deadline_ns) oldest = i;
    }
    if (oldest == SIZE_MAX) return false;
    uint64_t until_ns = s->conns[oldest].deadline_ns + (uint64_t)(SAME_AGE_SECONDS * 1e9);
    s->conns[oldest].state = CONN_DEAD;
    for (size_t i = 0, more = s->n_conns / GO_TOGETHER; i < s->n_conns && more > 0; i++) {
        bool waits = s->conns[i].state == CONN_HEAD || s->conns[i].state == CONN_IDLE;
        if (!waits || s->conns[i].deadline_ns > until_ns) continue;
        s->conns[i].state = CONN_DEAD;
        more--;
    }
    remove_dead(s);
    return true;
}

static void accept_all(struct server *s)
{
    for (size_t i = 0; i < SERVER_CONNECTIONS_MAX; i++) {
        int fd = net_accept(s->listener);
        if (fd == NET_FULL && make_room(s)) continue;
        double pause = fd == NET_FULL ? PAUSE_SECONDS : s->n_conns > CROWD ? BATCH_SECONDS : 0;
        if (fd < 0 && pause > 0) s->accept_after_ns = clock_ns() + (uint64_t)(pause * 1e9);
        if (fd < 0) return;
        if (s->n_conns == SERVER_CONNECTIONS_MAX && !make_room(s)) {
            net_close(fd);
            return;
        }
        conn_init(&s->conns[s->n_conns++], fd, &s->options);
    }
}

static size_t body_bytes_held(const struct server *s)
{
    size_t sum = 0;
    for (size_t i = 0; i < s->n_conns; i++)
        if (s->conns[i].state == CONN_BODY) sum += s->conns[i].request.body_bytes + s->conns[i].body.text.len;
    return sum;
}

static size_t watch(struct server *s, struct net_poll *polls, bool listening)
{
    size_t n = 0;
    polls[n++] = (struct net_poll){.fd = s->wake[0], .wants = NET_READ};
    polls[n++] = (struct net_poll){.fd = listening ? s->listener : s->wake[0], .wants = NET_READ};
    for (size_t i = 0; i < s->n_conns; i++)
        polls[n++] = (struct net_poll){.fd = s->conns[i].fd, .wants = conn_wants(&s->conns[i])};
    return n;
}

static void serve_ready(struct server *s, const struct net_poll *polls, size_t n_watched)
{
    for (size_t i = 0; i < n_watched; i++) {
        struct conn *c = &s->conns[i];
        int got = polls[i].got;
        bool unread = c->state == CONN_IDLE && c->in.text.len;
        if (got & NET_READ || unread) conn_readable(c, &s->options, s->wake[1], body_bytes_held(s));
        else if (got & NET_HUP) conn_hangup(c);
        if (c->state != CONN_DEAD) conn_step(c, &s->options);
    }
}

/* Ends what was past its deadline when the sockets were last asked, at asked_ns: what had come by then has been read,
 * so that a machine that stands still for a while does not end a client that did its part. */
static int next_timeout_ms(struct server *s, uint64_t asked_ns)
{
    uint64_t now = clock_ns(), next = now + 1000000000u;
    for (size_t i = 0; i < s->n_conns; i++) {
        uint64_t due = conn_tick(&s->conns[i], &s->options, asked_ns);
        if (due < next) next = due;
    }
    remove_dead(s);
    if (s->accept_after_ns > now && s->accept_after_ns < next) next = s->accept_after_ns;
    return next <= now ? 0 : (int)((next - now) / 1000000u) + 1;
}

static bool is_busy(const struct server *s)
{
    for (size_t i = 0; i < s->n_conns; i++)
        if (s->conns[i].state == CONN_ANSWER) return true;
    return false;
}

void server_run(struct server *s, const atomic_int *stop, double grace_s)
{
    struct net_poll *polls = s->polls;
    uint64_t stopped_ns = 0, asked_ns = clock_ns();
    for (;;) {
        int timeout_ms = next_timeout_ms(s, asked_ns);
        int wanted = atomic_load(stop);
        if (wanted && !stopped_ns) {
            stopped_ns = clock_ns();
            net_close(s->listener);
            s->listener = -1;
        }
        if (wanted > 1 || (stopped_ns && (!is_busy(s) || clock_seconds_since(stopped_ns) > grace_s))) return;
        if (stopped_ns && timeout_ms > 50) timeout_ms = 50;
        bool listening = s->listener >= 0 && clock_ns() >= s->accept_after_ns;
        size_t n = watch(s, polls, listening), n_watched = s->n_conns;
        asked_ns = clock_ns();
        net_poll(polls, n, timeout_ms);
        if (polls[0].got & NET_READ) net_wake_drain(s->wake[0]);
        serve_ready(s, polls + 2, n_watched);
        remove_dead(s);
        if (listening && polls[1].got & NET_READ) accept_all(s);
    }
}
