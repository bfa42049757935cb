/* selftest_raw.c - see selftest_raw.h. */
#include "tools/selftest_raw.h"

#include <stdarg.h>
#include <stdio.h>

bool raw_open(struct raw_device *d, struct ops_test *t)
{
    char why[256] = "";
    *d = (struct raw_device){.t = t, .host = t->choice->host, .note = ""};
    d->gpu = d->host->open(why, sizeof why);
    return d->gpu || raw_differs(d, "the device cannot be opened again: %s", why);
}

void raw_free_all(struct raw_device *d)
{
    (void)(d->host->submit(d->gpu) && d->host->wait(d->gpu)); /* a check that failed may have left a list behind */
    for (uint32_t i = 0; i < d->n_buffers; i++) d->host->free(d->gpu, d->buffers[i]);
    d->n_buffers = 0;
}

void raw_close(struct raw_device *d)
{
    if (!d->gpu) return;
    raw_free_all(d);
    d->host->close(d->gpu);
    d->gpu = NULL;
}

bool raw_differs(struct raw_device *d, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!d->failed) (void)vsnprintf(d->why, sizeof d->why, format, args);
    va_end(args);
    d->failed = true;
    return false;
}

bool raw_ok(struct raw_device *d, bool good, const char *what)
{
    if (good) return true;
    const char *why = d->host->error(d->gpu);
    return raw_differs(d, "%s: %s", what, *why ? why : "it failed, and no reason is given");
}

static struct gpu_ref keep(struct raw_device *d, struct gpu_buffer *buffer, uint64_t bytes, const char *what)
{
    ensure(d->n_buffers < RAW_BUFFERS_MAX);
    if (raw_ok(d, buffer != NULL, what)) d->buffers[d->n_buffers++] = buffer;
    return (struct gpu_ref){buffer, 0, bytes};
}

struct gpu_ref raw_alloc(struct raw_device *d, uint64_t bytes)
{
    if (d->failed) return (struct gpu_ref){0};
    return keep(d, d->host->alloc(d->gpu, bytes), bytes, "memory");
}

struct gpu_ref raw_wrap(struct raw_device *d, const void *memory, uint64_t bytes, bool near)
{
    if (d->failed) return (struct gpu_ref){0};
    return keep(d, d->host->wrap(d->gpu, memory, bytes, near), bytes, "memory of the host");
}

bool raw_write(struct raw_device *d, struct gpu_ref to, const void *from)
{
    return !d->failed && raw_ok(d, d->host->write(d->gpu, to.buffer, to.offset, from, to.bytes), "a write");
}

bool raw_read(struct raw_device *d, void *to, struct gpu_ref from)
{
    if (d->failed || !raw_ok(d, d->host->submit(d->gpu) && d->host->wait(d->gpu), "waiting")) return false;
    return raw_ok(d, d->host->read(d->gpu, to, from.buffer, from.offset, from.bytes), "a read");
}

bool raw_run(struct raw_device *d, const char *kernel, const void *record, size_t record_bytes,
             const struct gpu_ref *refs, int n_refs, uint32_t n_groups, uint32_t n_threads)
{
    const unsigned grid[3] = {n_groups, 1, 1};
    const struct gpu_pipe *pipe = d->failed ? NULL : d->host->pipe(d->gpu, kernel);
    if (d->failed || !raw_ok(d, pipe != NULL, kernel)) return false;
    ops_test_kernel_run(d->t, kernel);
    return raw_ok(d, d->host->dispatch(d->gpu, pipe, record, record_bytes, refs, n_refs, grid, n_threads), kernel);
}

double raw_wait(struct raw_device *d)
{
    if (d->failed || !raw_ok(d, d->host->submit(d->gpu) && d->host->wait(d->gpu), "waiting")) return 0;
    return d->host->seconds(d->gpu);
}
