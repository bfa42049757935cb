/* net.h - the only door to sockets: TCP on one address, non-blocking, and a pair to wake a poll. */
#ifndef DS4_BASE_NET_H
#define DS4_BASE_NET_H

#include "base/err.h"

#define NET_AGAIN (-1)  /* nothing now */
#define NET_GONE (-2)   /* the peer is gone */
#define NET_FULL (-3)   /* accept: no descriptors left */

/* Listens on a numeric address ("localhost" is 127.0.0.1). port 0: the system's choice, told in *bound. */
enum ds4_status net_listen(const char *host, uint16_t port, int *fd, uint16_t *bound,
                           struct ds4_error *error) DS4_MUST_CHECK;
/* Connects to a numeric address, within three seconds. */
enum ds4_status net_connect(const char *host, uint16_t port, int *fd, struct ds4_error *error) DS4_MUST_CHECK;
/* Whether host is a numeric address, or "localhost". */
bool net_is_address(const char *host);
/* Whether only this machine can reach the address. */
bool net_is_loopback(const char *host);
int net_accept(int listener);                            /* a descriptor, or NET_AGAIN, NET_FULL */
long net_recv(int fd, void *buf, size_t n);              /* bytes, 0 = the peer's end, or NET_* */
long net_send(int fd, const void *buf, size_t n);        /* bytes, or NET_*; never a signal */
void net_finish(int fd);                                 /* no more will be sent */
void net_close(int fd);

/* A pipe for waking: write one byte from any thread or signal handler; the reader drains. */
enum ds4_status net_wake_create(int fds[2], struct ds4_error *error) DS4_MUST_CHECK;
void net_wake(int fd);
void net_wake_drain(int fd);

enum net_interest { NET_READ = 1, NET_WRITE = 2, NET_HUP = 4 };
struct net_poll {
    int fd;
    int wants; /* NET_READ, NET_WRITE; the peer's going is always watched */
    int got;   /* NET_READ, NET_WRITE, NET_HUP */
};
/* Lets the process have n descriptors, or as many as the system allows it. */
void net_allow_descriptors(size_t n);
/* Waits at most timeout_ms. */
void net_poll(struct net_poll *items, size_t n, int timeout_ms);

#endif
