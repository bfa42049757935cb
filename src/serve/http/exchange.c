/* exchange.c - see exchange.h. */
#include "serve/http/exchange.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/net.h"

struct exchange *exchange_create(int wake_fd)
{
    struct exchange *x = mem_zalloc(1, sizeof *x);
    if (!x) return NULL;
    if (pthread_mutex_init(&x->lock, NULL) != 0) {
        mem_free(x);
        return NULL;
    }
    atomic_init(&x->refs, 1);
    atomic_init(&x->cancelled, false);
    x->wake_fd = wake_fd;
    return x;
}

void exchange_hold(struct exchange *x) { atomic_fetch_add(&x->refs, 1); }

void exchange_release(struct exchange *x)
{
    if (!x || atomic_fetch_sub(&x->refs, 1) != 1) return;
    (void)pthread_mutex_destroy(&x->lock);
    buf_deinit(&x->out);
    mem_free(x);
}

bool exchange_reply(struct exchange *x, int status, const char *type, struct ds4_span body, const char *header)
{
    (void)pthread_mutex_lock(&x->lock);
    bool first = x->status == 0;
    if (first) {
        x->status = status;
        x->type = type;
        x->header = header;
        buf_put_span(&x->out, body);
        x->ended = true;
    }
    (void)pthread_mutex_unlock(&x->lock);
    net_wake(x->wake_fd);
    return first;
}

void exchange_expect_stream(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    x->wants_stream = true;
    (void)pthread_mutex_unlock(&x->lock);
}

static void begin(struct exchange *x)
{
    if (x->status) return;
    x->status = 200;
    x->type = "text/event-stream";
    x->streaming = true;
}

void exchange_put(struct exchange *x, struct ds4_span events)
{
    (void)pthread_mutex_lock(&x->lock);
    begin(x);
    buf_put_span(&x->out, events);
    if (x->out.failed || x->out.text.len > EXCHANGE_PENDING_BYTES_MAX) atomic_store(&x->cancelled, true);
    (void)pthread_mutex_unlock(&x->lock);
    net_wake(x->wake_fd);
}

void exchange_end(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    begin(x);
    x->ended = true;
    (void)pthread_mutex_unlock(&x->lock);
    net_wake(x->wake_fd);
}

void exchange_drop(struct exchange *x)
{
    atomic_store(&x->cancelled, true);
    net_wake(x->wake_fd);
}

void exchange_note(struct exchange *x, const char *format, ...)
{
    va_list args;
    (void)pthread_mutex_lock(&x->lock);
    va_start(args, format);
    (void)vsnprintf(x->note, sizeof x->note, format, args);
    va_end(args);
    (void)pthread_mutex_unlock(&x->lock);
}

void exchange_say_cache(struct exchange *x, const char *format, ...)
{
    va_list args;
    (void)pthread_mutex_lock(&x->lock);
    va_start(args, format);
    (void)vsnprintf(x->cache, sizeof x->cache, format, args);
    va_end(args);
    (void)pthread_mutex_unlock(&x->lock);
}

bool exchange_is_cancelled(const struct exchange *x) { return atomic_load(&x->cancelled); }
