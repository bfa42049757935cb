/* op_backends.h - the backends that the tests of operations run on, and memory on a backend. To test one more backend,
 * add its line to the list in op_backends.c. */
#ifndef DS4_TESTS_OP_BACKENDS_H
#define DS4_TESTS_OP_BACKENDS_H

#include "ops/backend.h"

struct op_backend_entry {
    const char *name;
    enum ds4_status (*create)(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                              struct ds4_error *error);
};
extern const struct op_backend_entry op_backends[]; /* the reference first */
extern const size_t n_op_backends;

/* A backend with its own pool and a region of its memory, handed out piece by piece. */
struct op_dev {
    struct backend *b;
    struct thread_pool *pool;
    uint8_t *base;
    size_t used, cap;
};
/* Fails the test when the backend cannot be made. n_threads 0: no pool. */
void op_dev_open(struct op_dev *dev, const struct op_backend_entry *entry, const struct backend_limits *limits,
                 uint32_t n_threads, size_t cap);
void op_dev_close(struct op_dev *dev);
/* Memory of the backend, 64-byte aligned plus `skew` bytes; contents: copied, or zero when from is NULL. */
void *op_put(struct op_dev *dev, const void *from, size_t bytes);
void *op_put_skewed(struct op_dev *dev, const void *from, size_t bytes, size_t skew);
void op_get(struct op_dev *dev, void *to, const void *from, size_t bytes);

#endif
