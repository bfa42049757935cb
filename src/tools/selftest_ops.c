/* selftest_ops.c - see selftest_ops.h. */
#include "tools/selftest_ops.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "gpu/emu/emu.h"
#include "tools/selftest_parts.h"

/* The largest case and its results; of the room three runs of it at a time. Memory of the host is taken as it is
 * used. */
#define REGION_BYTES ((size_t)512 << 20)
#define SMALL_REGION_BYTES ((size_t)32 << 20)
#define COPY_BYTES ((size_t)256 << 20)
#define N_COPIES 20u
#define N_REPEATS 10u

static const char *const op_names[] = {
#define OP(op_name) #op_name,
#include "ops/ops.def"
#undef OP
};
#define N_OPS (sizeof op_names / sizeof *op_names)

bool ops_test_knows(const char *op)
{
    for (size_t i = 0; i < N_OPS; i++)
        if (strcmp(op_names[i], op) == 0) return true;
    return parts_know(op);
}

void ops_test_names(struct buf *out)
{
    for (size_t i = 0; i < N_OPS; i++) buf_printf(out, "%s, ", op_names[i]);
    parts_names(out);
}

/* The i-th variant of a case as it is to be run. */
static bool take_variant(const struct ops_test *t, size_t case_i, size_t i, struct op_shape *shape, char name[64])
{
    if (!op_variant(case_i, i, shape, name, 64)) return false;
    if (t->small) *shape = op_shape_smaller(*shape, op_table[case_i].op);
    return true;
}

static bool is_wanted(const struct ops_test *t, size_t case_i, const struct op_shape *shape)
{
    if (t->op && strcmp(t->op, op_table[case_i].op) != 0) return false;
    return op_shape_fits(shape) && (!t->quick || shape->quick) && (!t->small || !shape->large);
}

static void widen(uint32_t *most, uint32_t n)
{
    if (n > *most) *most = n;
}

void ops_test_widen(struct backend_limits *all, const struct op_shape *shape)
{
    struct backend_limits one = op_shape_limits(shape);
    widen(&all->n_rows, one.n_rows);
    widen(&all->n_in, one.n_in);
    widen(&all->n_heads, one.n_heads);
    widen(&all->dim, one.dim);
    widen(&all->n_attn_rows, one.n_attn_rows);
    widen(&all->n_index_heads, one.n_index_heads);
    widen(&all->index_dim, one.index_dim);
    widen(&all->n_index_rows, one.n_index_rows);
    widen(&all->n_experts, one.n_experts);
    widen(&all->n_used, one.n_used);
    widen(&all->n_ff, one.n_ff);
}

/* What all cases need together. */
static struct backend_limits limits_of(const struct ops_test *t)
{
    struct backend_limits all = {0};
    struct op_shape shape;
    char name[64];
    for (size_t case_i = 0; case_i < n_op_table; case_i++) {
        for (size_t i = 0; take_variant(t, case_i, i, &shape, name); i++)
            if (is_wanted(t, case_i, &shape)) ops_test_widen(&all, &shape);
    }
    return all;
}

static enum ds4_status take_region(struct op_dev *dev, size_t bytes, struct ds4_error *error)
{
    dev->base = dev->b->ops->alloc(dev->b, bytes);
    dev->cap = bytes;
    if (!dev->base) return err_set(error, DS4_ERR_NOMEM, "no memory for cases of %zu bytes", bytes);
    return DS4_OK;
}

/* The emulated device is one with memory of its own here, which may lay out matrices anew. */
static void copy_weights(const struct ops_test *t, bool on)
{
#ifdef DS4_GPU_EMU
    if (t->small) emu_copy_weights(on);
#else
    (void)t, (void)on;
#endif
}

static enum ds4_status open_there(struct ops_test *t, struct gpu *device, struct ds4_error *error)
{
    size_t bytes = t->small || t->quick ? SMALL_REGION_BYTES : REGION_BYTES;
    t->there = (struct op_dev){0};
    if (t->choice)
        TRY(backend_gpu_create_on(t->choice->host, device, NULL, &t->limits, &t->there.b, error));
    else
        TRY(backend_cpu_create(t->pool, &t->limits, &t->there.b, error));
    return take_region(&t->there, bytes, error);
}

enum ds4_status ops_test_open(struct ops_test *t, struct gpu *device, struct ds4_error *error)
{
    size_t bytes = t->small || t->quick ? SMALL_REGION_BYTES : REGION_BYTES;
    t->limits = limits_of(t);
    if (device) t->choice->host->info(device, &t->info);
    enum ds4_status status = thread_pool_create(t->n_threads, &t->pool, error);
    if (status != DS4_OK && device) t->choice->host->close(device);
    TRY(status);
    TRY(open_there(t, device, error));
    TRY(backend_ref_create(t->pool, &t->limits, &t->here.b, error));
    TRY(take_region(&t->here, bytes, error));
    if (!op_room_make(&t->room, 4 * bytes))
        return err_set(error, DS4_ERR_NOMEM, "no memory for results of %zu bytes", 4 * bytes);
    return DS4_OK;
}

static void close_dev(struct op_dev *dev)
{
    if (dev->b && dev->base) dev->b->ops->release(dev->b, dev->base, dev->cap);
    if (dev->b) dev->b->ops->destroy(dev->b);
    *dev = (struct op_dev){0};
}

void ops_test_close(struct ops_test *t)
{
    close_dev(&t->there);
    close_dev(&t->here);
    op_room_free(&t->room);
    if (t->pool) thread_pool_destroy(t->pool);
}

double ops_test_copy_rate(struct ops_test *t)
{
    struct backend *b = t->there.b;
    struct ds4_error error = {0};
    uint8_t *x = b->ops->alloc(b, COPY_BYTES), *y = b->ops->alloc(b, COPY_BYTES);
    struct add_args sum = {COPY_BYTES / sizeof(float), (float *)(void *)x, (float *)(void *)y};
    bool good = x && y;
    uint64_t start = 0;
    for (uint32_t i = 0; good && i <= N_COPIES; i++) {
        if (i == 1) good = b->ops->finish(b, &error) == DS4_OK, start = clock_ns(); /* the first warms up */
        if (t->choice) b->ops->write(b, y, x, COPY_BYTES);
        else b->ops->add(b, &sum);
    }
    good = good && b->ops->finish(b, &error) == DS4_OK;
    double rate = good ? N_COPIES * (t->choice ? 2.0 : 3.0) * (double)COPY_BYTES / clock_seconds_since(start) : 0;
    b->ops->release(b, x, COPY_BYTES);
    b->ops->release(b, y, COPY_BYTES);
    return rate;
}

/* False: the backend reports an error, which is the case's. A GPU is opened anew: its backend is of no more use. */
static bool finished(struct ops_test *t, struct report_case *c)
{
    struct ds4_error error = {0};
    char why[128] = "";
    if (t->there.b->ops->finish(t->there.b, &error) == DS4_OK) return true;
    (void)snprintf(c->why, sizeof c->why, "%s", error.message);
    if (!t->choice) return false;
    t->there.base = NULL; /* goes with the backend */
    close_dev(&t->there);
    struct gpu *device = t->choice->host->open(why, sizeof why);
    t->lost = !device || open_there(t, device, &error) != DS4_OK;
    return false;
}

bool ops_test_watch(struct ops_test *t, struct backend *b, bool on)
{
    struct ds4_error error;
    if (t->choice) return backend_gpu_time(b, on, &error) == DS4_OK;
    backend_cpu_time(b, on);
    return true;
}

bool ops_test_was_run(const struct ops_test *t, const char *kernel)
{
    for (uint32_t k = 0; k < t->n_kernels_run; k++)
        if (strcmp(t->kernels[k], kernel) == 0) return true;
    return false;
}

void ops_test_kernel_run(struct ops_test *t, const char *kernel)
{
    if (ops_test_was_run(t, kernel) || t->n_kernels_run == SELFTEST_KERNELS_MAX) return;
    (void)snprintf(t->kernels[t->n_kernels_run], sizeof t->kernels[0], "%s", kernel);
    t->n_kernels_run++;
}

size_t ops_test_kernels_seen(struct ops_test *t, struct backend *b, struct ds4_kernel_time *times)
{
    size_t n = t->choice ? backend_gpu_times(b, times, SELFTEST_KERNELS_MAX)
                         : backend_cpu_times(b, times, SELFTEST_KERNELS_MAX);
    for (size_t i = 0; i < n; i++) ops_test_kernel_run(t, times[i].name);
    return n;
}

/* A case that is tried. */
struct trial {
    const struct op_case_row *row;
    const struct op_shape *shape;
    const char *name;
    struct report_case c;
};

/* On the backend, in batches of these sizes. When watched, kernels are waited for one by one, noted, and their times
 * kept until the next run. */
static bool run_there(struct ops_test *t, struct trial *trial, struct op_run *run, const uint32_t *batches,
                      size_t n_batches, bool watched)
{
    static struct ds4_kernel_time times[SELFTEST_KERNELS_MAX];
    struct report_case *c = &trial->c;
    if (watched && !ops_test_watch(t, t->there.b, true)) return false;
    op_run_case(run, &t->there, &t->room, trial->name, trial->row->fn, trial->shape, batches, n_batches);
    if (!finished(t, c)) return false;
    if (!watched) return true;
    c->kernels = times;
    c->n_kernels = ops_test_kernels_seen(t, t->there.b, times);
    (void)ops_test_watch(t, t->there.b, false);
    return true;
}

/* The case again, timed. */
static bool measure(struct ops_test *t, struct trial *trial)
{
    struct op_run run = {.packs = true, .n_repeats = N_REPEATS};
    struct report_case *c = &trial->c;
    if (!run_there(t, trial, &run, NULL, 0, true)) return false;
    c->n_repeats = N_REPEATS;
    c->moved_bytes = run.moved_bytes;
    for (size_t i = 0; i < c->n_kernels; i++) /* matrices are laid out anew before */
        if (strcmp(c->kernels[i].name, "repack") != 0) c->seconds += c->kernels[i].seconds / N_REPEATS;
    op_run_free(&run);
    return true;
}

/* All rows at once, as in a prompt; then a row, a few, and the rest, with matrices in whatever layout the backend
 * likes. A device runs the first without waiting for each kernel, so that it must keep their order. */
static bool agrees(struct ops_test *t, struct trial *trial)
{
    static const uint32_t some[] = {1, 2, UINT32_MAX}, most[] = {1, UINT32_MAX};
    const struct op_shape *shape = trial->shape;
    struct report_case *c = &trial->c;
    bool many = shape->n_rows >= 16; /* the rest must be as many as tiles are used for */
    struct op_run ref = {0}, whole = {0}, parts = {.packs = true};
    op_run_case(&ref, &t->here, &t->room, trial->name, trial->row->fn, shape, NULL, 0);
    if (t->choice) op_tighten(&ref, trial->row->op);
    if (!run_there(t, trial, &whole, NULL, 0, t->small) ||
        !op_agree(&whole, &ref, &c->distance, c->why, sizeof c->why) ||
        !run_there(t, trial, &parts, many ? most : some, many ? 2 : 3, true) ||
        !op_agree(&parts, &ref, &c->distance, c->why, sizeof c->why))
        return false;
    int n = snprintf(c->why, sizeof c->why, "not the same bits alone, or in small batches: ");
    return op_same_bits(&parts, &whole, c->why + n, sizeof c->why - (size_t)n);
}

static void try_case(struct ops_test *t, const struct op_case_row *row, const struct op_shape *shape, const char *name)
{
    struct trial trial = {row, shape, name, {.op = row->op, .why = "the numbers of outputs differ"}};
    op_shape_text(shape, trial.c.shape, sizeof trial.c.shape);
    trial.c.good = agrees(t, &trial);
    if (trial.c.good && shape->timed && !t->small) trial.c.good = measure(t, &trial);
    report_case(t->report, &trial.c);
    if (t->room.used > SMALL_REGION_BYTES) mem_discard(t->room.base, t->room.used / 16384 * 16384);
    t->room.used = 0;
}

void ops_test_run(struct ops_test *t)
{
    struct op_shape shape;
    char name[64];
    report_cases_begin(t->report);
    copy_weights(t, true);
    for (size_t op = 0; op < N_OPS && !t->lost; op++) {
        for (size_t case_i = 0; case_i < n_op_table; case_i++) {
            if (strcmp(op_table[case_i].op, op_names[op]) != 0) continue;
            for (size_t i = 0; !t->lost && take_variant(t, case_i, i, &shape, name); i++)
                if (is_wanted(t, case_i, &shape)) try_case(t, &op_table[case_i], &shape, name);
        }
        report_operation_end(t->report, op_names[op]);
    }
    copy_weights(t, false);
    if (!t->lost) parts_run(t, t->op);
    report_kernels_begin(t->report, t->n_kernels_run);
    static struct ds4_kernel_time built[SELFTEST_KERNELS_MAX];
    size_t n = t->choice && !t->lost ? backend_gpu_kernels(t->there.b, built, SELFTEST_KERNELS_MAX) : 0;
    for (size_t i = 0; i < n && !t->op; i++)
        if (!ops_test_was_run(t, built[i].name)) report_kernel_not_run(t->report, built[i].name);
    report_kernels_end(t->report);
}
