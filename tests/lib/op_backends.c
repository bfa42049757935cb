/* op_backends.c - see op_backends.h. */
#include "lib/op_backends.h"

#include "lib/test.h"
#include "ops/cpu/cpu.h"

/* The portable kernels, which machines without the instructions of the fast ones run. */
static enum ds4_status create_cpu_scalar(struct thread_pool *pool, const struct backend_limits *limits,
                                         struct backend **out, struct ds4_error *error)
{
    TRY(backend_cpu_create(pool, limits, out, error));
    cpu_of(*out)->kernels = &cpu_kernels_scalar;
    return DS4_OK;
}

const struct op_backend_entry op_backends[] = {
    {"ref", backend_ref_create},
    {"cpu", backend_cpu_create},
    {"cpu, scalar", create_cpu_scalar},
};
const size_t n_op_backends = sizeof op_backends / sizeof *op_backends;

void op_home_open(struct op_home *home, const struct op_backend_entry *entry, const struct backend_limits *limits,
                  uint32_t n_threads, size_t cap)
{
    struct ds4_error error = {0};
    memset(home, 0, sizeof *home);
    if (n_threads) assert_ok(thread_pool_create(n_threads, &home->pool, &error), error);
    assert_ok(entry->create(home->pool, limits, &home->dev.b, &error), error);
    home->dev.base = home->dev.b->ops->alloc(home->dev.b, cap);
    assert_non_null(home->dev.base);
    home->dev.cap = cap;
}

void op_home_close(struct op_home *home)
{
    struct ds4_error error = {0};
    struct backend *b = home->dev.b;
    assert_ok(b->ops->finish(b, &error), error);
    b->ops->release(b, home->dev.base, home->dev.cap);
    b->ops->destroy(b);
    if (home->pool) thread_pool_destroy(home->pool);
}

void op_trial_run(struct op_trial *trial, const struct op_backend_entry *entry, uint32_t n_threads, const char *name,
                  op_case_fn fn, const struct op_shape *shape, const uint32_t *chunks, size_t n_chunks)
{
    struct op_home home;
    struct backend_limits limits = op_shape_limits(shape);
    size_t cap = shape->large ? 512u << 20 : 32u << 20;
    memset(trial, 0, sizeof *trial);
    assert_true(op_room_make(&trial->room, 2 * cap));
    op_home_open(&home, entry, &limits, n_threads, cap);
    op_run_case(&trial->run, &home.dev, &trial->room, name, fn, shape, chunks, n_chunks);
    op_home_close(&home);
    trial->run.dev = NULL;
}

void op_trial_free(struct op_trial *trial) { op_room_free(&trial->room); }

void op_compare(const struct op_trial *got, const struct op_trial *ref, const char *what, double *worst)
{
    char text[256] = "the numbers of outputs differ";
    struct op_distance distance = {0};
    if (!op_agree(&got->run, &ref->run, &distance, text, sizeof text)) fail_msg("%s: %s", what, text);
    if (distance.fraction > *worst) *worst = distance.fraction;
}

void op_compare_bits(const struct op_trial *got, const struct op_trial *ref, const char *what)
{
    char text[256] = "the numbers of outputs differ";
    if (!op_same_bits(&got->run, &ref->run, text, sizeof text)) fail_msg("%s: %s", what, text);
}
