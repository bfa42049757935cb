/* selftest_parts.c - see selftest_parts.h. */
#include "tools/selftest_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    void (*run)(struct ops_test *t, const char *name);
    bool on_cpu;
} parts[] = {
    {"streamed", part_streamed, true}, {"shared", part_shared, false}, {"candidates", part_candidates, false},
    {"choice", part_choice, false},    {"made_up", part_made_up, false}, {"repack", part_repack, false},
    {"places", part_places, false},
};
#define N_PARTS (sizeof parts / sizeof *parts)

bool parts_know(const char *name)
{
    if (strcmp(name, PART_HOST) == 0) return true;
    for (size_t i = 0; i < N_PARTS; i++)
        if (strcmp(parts[i].name, name) == 0) return true;
    return false;
}

void parts_names(struct buf *out)
{
    buf_put_text(out, PART_HOST);
    for (size_t i = 0; i < N_PARTS; i++) buf_printf(out, ", %s", parts[i].name);
}

bool parts_need_gpu(const char *name)
{
    for (size_t i = 0; i < N_PARTS; i++)
        if (strcmp(parts[i].name, name) == 0) return !parts[i].on_cpu;
    return strcmp(name, PART_HOST) == 0;
}

void parts_run(struct ops_test *t, const char *only)
{
    for (size_t i = 0; i < N_PARTS; i++) {
        if ((only && strcmp(parts[i].name, only) != 0) || (!t->choice && !parts[i].on_cpu)) continue;
        parts[i].run(t, parts[i].name);
        report_operation_end(t->report, parts[i].name);
    }
}

static enum ds4_status open_backend(struct part *p, const struct backend_limits *limits, struct ds4_error *error)
{
    const struct gpu_choice *choice = p->t->choice;
    if (choice) return backend_gpu_create(choice->host, p->t->pool, limits, &p->dev.b, error);
    return backend_cpu_create(p->t->pool, limits, &p->dev.b, error);
}

bool part_open(struct part *p, struct ops_test *t, const char *name, const struct backend_limits *limits,
               size_t region_bytes)
{
    struct ds4_error error = {0};
    *p = (struct part){.t = t, .c = {.op = name, .good = true}};
    bool good = open_backend(p, limits, &error) == DS4_OK;
    if (good) {
        p->dev.base = p->dev.b->ops->alloc(p->dev.b, region_bytes);
        p->dev.cap = region_bytes;
    }
    if (good && p->dev.base) return true;
    part_case(p, "a device of its own");
    (void)part_differs(p, "%s", good ? "no memory for its cases" : error.message);
    part_report(p);
    return false;
}

void part_close(struct part *p)
{
    if (p->dev.base) p->dev.b->ops->release(p->dev.b, p->dev.base, p->dev.cap);
    if (p->dev.b) p->dev.b->ops->destroy(p->dev.b);
    p->dev = (struct op_dev){0};
}

void part_case(struct part *p, const char *shape, ...)
{
    va_list args;
    p->c = (struct report_case){.op = p->c.op, .good = true};
    p->dev.used = 0;
    va_start(args, shape);
    (void)vsnprintf(p->c.shape, sizeof p->c.shape, shape, args);
    va_end(args);
}

bool part_differs(struct part *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (p->c.good) (void)vsnprintf(p->c.why, sizeof p->c.why, format, args);
    va_end(args);
    p->c.good = false;
    return false;
}

bool part_finished(struct part *p)
{
    struct ds4_error error = {0};
    if (p->dev.b->ops->finish(p->dev.b, &error) == DS4_OK) return true;
    p->lost = true;
    return part_differs(p, "%s", error.message);
}

bool part_watch(struct part *p)
{
    if (ops_test_watch(p->t, p->dev.b, true)) return true;
    return part_differs(p, "no memory for the times of kernels");
}

double part_seen(struct part *p, uint32_t n_repeats)
{
    static struct ds4_kernel_time times[SELFTEST_KERNELS_MAX];
    double seconds = 0;
    p->c.kernels = times;
    p->c.n_kernels = ops_test_kernels_seen(p->t, p->dev.b, times);
    p->c.n_repeats = n_repeats;
    for (size_t i = 0; i < p->c.n_kernels; i++) seconds += times[i].seconds / n_repeats;
    (void)ops_test_watch(p->t, p->dev.b, false);
    return seconds;
}

void part_report(struct part *p)
{
    report_case(p->t->report, &p->c);
    p->t->room.used = 0;
}
