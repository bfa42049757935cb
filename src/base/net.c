/* net.c - see net.h. */
#include "base/net.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define POLL_MAX 1600
#define CONNECT_MS 3000
#define UNREAD_BYTES_MAX (128 << 10) /* kept by the system for a peer that does not read; Linux doubles it, else 4 MB */

#ifdef POLLRDHUP
#define HUP_FLAGS (POLLRDHUP | POLLHUP | POLLERR)
#define HUP_WANTED POLLRDHUP
#else
#define HUP_FLAGS (POLLHUP | POLLERR)
#define HUP_WANTED 0
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static const char *numeric(const char *host) { return strcmp(host, "localhost") == 0 ? "127.0.0.1" : host; }

static bool set_up(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

static enum ds4_status listen_on(const struct addrinfo *address, const char *host, unsigned port, int *out,
                                 struct ds4_error *error)
{
    int one = 1, fd = socket(address->ai_family, SOCK_STREAM, 0);
    if (fd < 0) return err_os(error, errno, "socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (!set_up(fd) || bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, 256) != 0) {
        enum ds4_status status = err_os(error, errno, "cannot listen on %s, port %u", host, port);
        (void)close(fd);
        return status;
    }
    *out = fd;
    return DS4_OK;
}

enum ds4_status net_listen(const char *host, uint16_t port, int *fd, uint16_t *bound, struct ds4_error *error)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *list;
    struct sockaddr_storage name;
    socklen_t len = sizeof name;
    char service[8];
    (void)snprintf(service, sizeof service, "%u", (unsigned)port);
    if (getaddrinfo(numeric(host), service, &hints, &list) != 0)
        return err_set(error, DS4_ERR_FORMAT, "--host: %s is no numeric address", host);
    enum ds4_status status = listen_on(list, host, port, fd, error);
    freeaddrinfo(list);
    TRY(status);
    *bound = port;
    if (getsockname(*fd, (struct sockaddr *)&name, &len) == 0)
        *bound = ntohs(name.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&name)->sin6_port
                                                  : ((struct sockaddr_in *)&name)->sin_port);
    return DS4_OK;
}

static enum ds4_status connect_to(const struct addrinfo *address, int *out, struct ds4_error *error)
{
    int failure = 0, fd = socket(address->ai_family, SOCK_STREAM, 0);
    socklen_t len = sizeof failure;
    if (fd < 0) return err_os(error, errno, "socket");
    bool waits = set_up(fd) && connect(fd, address->ai_addr, address->ai_addrlen) != 0;
    if (waits && errno != EINPROGRESS) failure = errno;
    if (waits && !failure) {
        struct pollfd item = {.fd = fd, .events = POLLOUT};
        if (poll(&item, 1, CONNECT_MS) != 1) failure = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &len) != 0) failure = errno;
    }
    *out = fd;
    if (!failure) return DS4_OK;
    (void)close(fd);
    return err_os(error, failure, "connecting");
}

enum ds4_status net_connect(const char *host, uint16_t port, int *fd, struct ds4_error *error)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *list;
    char service[8];
    (void)snprintf(service, sizeof service, "%u", (unsigned)port);
    if (getaddrinfo(numeric(host), service, &hints, &list) != 0)
        return err_set(error, DS4_ERR_FORMAT, "--host: %s is no numeric address", host);
    enum ds4_status status = connect_to(list, fd, error);
    freeaddrinfo(list);
    return status;
}

bool net_is_address(const char *host)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *list;
    if (getaddrinfo(numeric(host), NULL, &hints, &list) != 0) return false;
    freeaddrinfo(list);
    return true;
}

bool net_is_loopback(const char *host)
{
    unsigned a, b, c, d;
    char more;
    if (strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0) return true;
    return sscanf(host, "%3u.%3u.%3u.%3u%c", &a, &b, &c, &d, &more) == 4 && a == 127 && b < 256 && c < 256 && d < 256;
}

int net_accept(int listener)
{
    int one = 1, unread_max = UNREAD_BYTES_MAX, fd = accept(listener, NULL, NULL);
    if (fd < 0) return errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM ? NET_FULL : NET_AGAIN;
    if (!set_up(fd)) {
        (void)close(fd);
        return NET_AGAIN;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &unread_max, sizeof unread_max);
#ifdef SO_NOSIGPIPE
    (void)setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof one);
#endif
    return fd;
}

static long outcome(ssize_t n)
{
    if (n >= 0) return (long)n;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? NET_AGAIN : NET_GONE;
}

long net_recv(int fd, void *buf, size_t n) { return outcome(recv(fd, buf, n, 0)); }
long net_send(int fd, const void *buf, size_t n) { return outcome(send(fd, buf, n, MSG_NOSIGNAL)); }
void net_finish(int fd) { (void)shutdown(fd, SHUT_WR); }
void net_close(int fd) { (void)close(fd); }

enum ds4_status net_wake_create(int fds[2], struct ds4_error *error)
{
    if (pipe(fds) != 0) return err_os(error, errno, "pipe");
    if (set_up(fds[0]) && set_up(fds[1])) return DS4_OK;
    enum ds4_status status = err_os(error, errno, "pipe");
    (void)close(fds[0]);
    (void)close(fds[1]);
    return status;
}

void net_wake(int fd)
{
    int saved = errno;
    ssize_t n = write(fd, "", 1);
    (void)n; /* a full pipe wakes as well */
    errno = saved;
}

void net_wake_drain(int fd)
{
    char bytes[256];
    while (read(fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes) {}
}

void net_allow_descriptors(size_t n)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= n) return;
    limit.rlim_cur = limit.rlim_max < n ? limit.rlim_max : n;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

void net_poll(struct net_poll *items, size_t n, int timeout_ms)
{
    struct pollfd polls[POLL_MAX];
    ensure(n <= POLL_MAX);
    for (size_t i = 0; i < n; i++) {
        int events = HUP_WANTED | (items[i].wants & NET_READ ? POLLIN : 0) | (items[i].wants & NET_WRITE ? POLLOUT : 0);
        polls[i] = (struct pollfd){.fd = items[i].fd, .events = (short)events};
    }
    int ready = poll(polls, (nfds_t)n, timeout_ms);
    for (size_t i = 0; i < n; i++) {
        int got = ready > 0 ? polls[i].revents : 0;
        items[i].got = (got & POLLIN ? NET_READ : 0) | (got & POLLOUT ? NET_WRITE : 0);
        if (got & HUP_FLAGS) items[i].got |= NET_HUP;
    }
}
