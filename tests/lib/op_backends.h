/* op_backends.h - the backends that the tests of operations run on, and the cases of tools/selftest_table.h on them:
 * each run with a backend of its own, told the tightest limits, so that one that needs more is caught. To test one more
 * backend, add its line to the list in op_backends.c. */
#ifndef DS4_TESTS_OP_BACKENDS_H
#define DS4_TESTS_OP_BACKENDS_H

#include "tools/selftest_table.h"

struct op_backend_entry {
    const char *name;
    enum ds4_status (*create)(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                              struct ds4_error *error);
};
extern const struct op_backend_entry op_backends[]; /* the reference first */
extern const size_t n_op_backends;

/* A backend with its own pool and a region of its memory. */
struct op_home {
    struct op_dev dev;
    struct thread_pool *pool;
};
/* Fails the test when the backend cannot be made. n_threads 0: no pool. */
void op_home_open(struct op_home *home, const struct op_backend_entry *entry, const struct backend_limits *limits,
                  uint32_t n_threads, size_t cap);
void op_home_close(struct op_home *home);

/* A case on a backend. What a run gave is there until op_trial_free. */
struct op_trial {
    struct op_run run;
    struct op_room room;
};
void op_trial_run(struct op_trial *trial, const struct op_backend_entry *entry, uint32_t n_threads, const char *name,
                  op_case_fn fn, const struct op_shape *shape, const uint32_t *chunks, size_t n_chunks);
void op_trial_free(struct op_trial *trial);

/* Fail the test, naming the case, unless the outputs agree. *worst: largest error relative to its tolerance. */
void op_compare(const struct op_trial *got, const struct op_trial *ref, const char *what, double *worst);
void op_compare_bits(const struct op_trial *got, const struct op_trial *ref, const char *what);

#endif
