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

void op_dev_open(struct op_dev *dev, const struct op_backend_entry *entry, const struct backend_limits *limits,
                 uint32_t n_threads, size_t cap)
{
    struct ds4_error error = {0};
    memset(dev, 0, sizeof *dev);
    if (n_threads) assert_ok(thread_pool_create(n_threads, &dev->pool, &error), error);
    assert_ok(entry->create(dev->pool, limits, &dev->b, &error), error);
    dev->base = dev->b->ops->alloc(dev->b, cap);
    assert_non_null(dev->base);
    dev->cap = cap;
}

void op_dev_close(struct op_dev *dev)
{
    struct ds4_error error = {0};
    assert_ok(dev->b->ops->finish(dev->b, &error), error);
    dev->b->ops->release(dev->b, dev->base, dev->cap);
    dev->b->ops->destroy(dev->b);
    if (dev->pool) thread_pool_destroy(dev->pool);
}

void *op_put_skewed(struct op_dev *dev, const void *from, size_t bytes, size_t skew)
{
    size_t at = (dev->used + 63) / 64 * 64 + skew;
    if (at + bytes > dev->cap) fail_msg("the test's region of %zu bytes is too small", dev->cap);
    dev->used = at + bytes;
    if (from && bytes) dev->b->ops->write(dev->b, dev->base + at, from, bytes);
    return dev->base + at;
}

void *op_put(struct op_dev *dev, const void *from, size_t bytes) { return op_put_skewed(dev, from, bytes, 0); }

void op_get(struct op_dev *dev, void *to, const void *from, size_t bytes)
{
    if (bytes) dev->b->ops->read(dev->b, to, from, bytes);
}
