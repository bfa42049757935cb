/* selftest_report.h - what `ds4 selftest` prints: lines for people as they come, or one JSON object. */
#ifndef DS4_TOOLS_SELFTEST_REPORT_H
#define DS4_TOOLS_SELFTEST_REPORT_H

#include "base/sink.h"
#include "tools/selftest_run.h"

#define REPORT_FAULTS_MAX 5u /* of an operation that are told in full */

struct report {
    struct sink out;
    bool json;
    uint32_t n_failed, n_devices;
    struct buf summary, absent; /* a paragraph on all devices; those that are not there, as JSON */
    struct buf named;           /* faults of the device at hand, of which n_named there are */
    uint32_t n_named, n_failed_before, n_device_cases, n_device_kernels;
    bool later;         /* a device, check or case was printed before, in the list at hand */
    double copy_rate;   /* of the device, bytes a second; 0: not measured */
    /* of the operation at hand */
    uint32_t n_cases, n_faults;
    struct op_distance distance;
};

/* One case of one operation. */
struct report_case {
    const char *op;
    char shape[160];
    bool good;
    struct op_distance distance;
    char why[512];        /* not good: what differs */
    double seconds;       /* by the device's clock; 0: not timed */
    uint64_t moved_bytes; /* at least */
    const struct ds4_kernel_time *kernels; /* [n_kernels] of n_repeats */
    size_t n_kernels;
    uint32_t n_repeats;
};

void report_begin(struct report *r);
void report_device(struct report *r, const char *backend, const char *name, uint64_t memory_bytes, const char *driver);
/* In place of a device. */
void report_absent(struct report *r, const char *backend, const char *why);
/* A check beside the operations. */
void report_check(struct report *r, const char *what, bool good, const char *detail);
/* by_copies: else by additions. */
void report_copy_rate(struct report *r, double bytes_per_second, bool by_copies);
void report_cases_begin(struct report *r);
void report_case(struct report *r, const struct report_case *c);
void report_operation_end(struct report *r, const char *op);
/* Ends the cases; then the kernels of the device that none of them has run. */
void report_kernels_begin(struct report *r, uint32_t n_run);
void report_kernel_not_run(struct report *r, const char *kernel);
void report_kernels_end(struct report *r);
/* In place of all cases. */
void report_nothing_run(struct report *r);
void report_device_end(struct report *r);
/* How many checks failed, and the paragraph that says in short what was checked, and what was wrong. */
void report_end(struct report *r);

#endif
