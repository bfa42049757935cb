/* times.c - what each kernel takes: with timing on, every dispatch is a list of its own that is waited for. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "gpu/backend_impl.h"

struct gpu_times {
    uint32_t n;
    struct ds4_kernel_time all[N_PLAIN + N_FAMILIES * N_WEIGHT_FORMATS];
    const struct gpu_pipe *pipes[N_PLAIN + N_FAMILIES * N_WEIGHT_FORMATS];
};

enum ds4_status backend_gpu_time(struct backend *backend, bool on, struct ds4_error *error)
{
    struct backend_gpu *b = gpu_of(backend);
    mem_free(b->times);
    b->times = on ? mem_zalloc(1, sizeof *b->times) : NULL;
    if (on && !b->times) return err_set(error, DS4_ERR_NOMEM, "no memory for times of kernels");
    return DS4_OK;
}

static void name_of(const struct backend_gpu *b, const struct gpu_pipe *pipe, char *name, size_t size)
{
    for (size_t i = 0; i < N_PLAIN; i++)
        if (b->plain[i] == pipe) gpu_plain_name(i, name, size);
    for (size_t f = 0; f < N_FAMILIES; f++)
        for (size_t i = 0; i < N_WEIGHT_FORMATS; i++)
            if (b->by_format[f][i] == pipe) gpu_family_name(f, i, name, size);
}

bool gpu_note_time(struct backend_gpu *b, const struct gpu_pipe *pipe)
{
    struct gpu_times *t = b->times;
    uint32_t i = 0;
    while (i < t->n && t->pipes[i] != pipe) i++;
    if (i == t->n) {
        t->pipes[t->n++] = pipe;
        name_of(b, pipe, t->all[i].name, sizeof t->all[i].name);
    }
    if (!b->host->submit(b->gpu) || !b->host->wait(b->gpu)) return false;
    t->all[i].n++;
    t->all[i].seconds += b->host->seconds(b->gpu);
    return true;
}

size_t backend_gpu_kernels(struct backend *backend, struct ds4_kernel_time *out, size_t max)
{
    const struct backend_gpu *b = gpu_of(backend);
    size_t n = 0;
    for (size_t i = 0; i < N_PLAIN && n < max; i++) gpu_plain_name(i, out[n++].name, sizeof out->name);
    for (size_t f = 0; f < N_FAMILIES; f++)
        for (size_t i = 0; i < N_WEIGHT_FORMATS && n < max; i++)
            if (b->by_format[f][i]) gpu_family_name(f, i, out[n++].name, sizeof out->name);
    return n;
}

static int by_seconds(const void *a, const void *b)
{
    const struct ds4_kernel_time *x = a, *y = b;
    if (x->seconds < y->seconds || x->seconds > y->seconds) return x->seconds > y->seconds ? -1 : 1;
    return strcmp(x->name, y->name);
}

size_t backend_gpu_times(struct backend *backend, struct ds4_kernel_time *out, size_t max)
{
    const struct gpu_times *t = gpu_of(backend)->times;
    size_t n = t ? t->n : 0;
    if (n > max) n = max;
    if (n) memcpy(out, t->all, n * sizeof *out);
    if (n) qsort(out, n, sizeof *out, by_seconds);
    return n;
}
