/* selftest_ops.h - every operation of ops.def on one backend against the reference: each case of the table whole, then
 * row by row and in small batches, which must give the same bits, with weights that the backend may lay out anew. */
#ifndef DS4_TOOLS_SELFTEST_OPS_H
#define DS4_TOOLS_SELFTEST_OPS_H

#include "gpu/backend.h"
#include "tools/selftest_report.h"
#include "tools/selftest_table.h"

#define SELFTEST_KERNELS_MAX 512u

struct ops_test {
    /* set by the caller */
    const struct gpu_choice *choice; /* NULL: the CPU */
    const char *op;                  /* NULL: all */
    bool quick;                      /* cases marked so */
    bool small;                      /* fewer rows, no real sizes, no times: an emulator */
    uint32_t n_threads;              /* for the reference, and the CPU; 0: all */
    struct report *report;
    /* the rest is its own */
    struct backend_limits limits;
    struct gpu_info info;            /* of the device */
    struct thread_pool *pool;
    struct op_dev there, here;       /* the backend in question, and the reference */
    struct op_room room;
    bool lost;                       /* the device went away */
    uint32_t n_kernels_run;
    char kernels[SELFTEST_KERNELS_MAX][48];
};

/* Opens everything; device: open already and taken, NULL for the CPU. What fails is said in the error. */
enum ds4_status ops_test_open(struct ops_test *t, struct gpu *device, struct ds4_error *error) DS4_MUST_CHECK;
void ops_test_close(struct ops_test *t);
/* Bytes a second that the device copies (the CPU: adds), read and written; 0: not to be had. */
double ops_test_copy_rate(struct ops_test *t);
void ops_test_run(struct ops_test *t);
/* True when there is such an operation, or part (selftest_parts.h). */
bool ops_test_knows(const char *op);
/* Appends the names of all, for a message. */
void ops_test_names(struct buf *out);

/* For the parts. Kernels of a backend are timed, each waited for, and noted as run. */
bool ops_test_watch(struct ops_test *t, struct backend *b, bool on);
size_t ops_test_kernels_seen(struct ops_test *t, struct backend *b, struct ds4_kernel_time *times);
void ops_test_kernel_run(struct ops_test *t, const char *kernel);
bool ops_test_was_run(const struct ops_test *t, const char *kernel);
/* Makes limits wide enough for a shape, too. */
void ops_test_widen(struct backend_limits *all, const struct op_shape *shape);

#endif
