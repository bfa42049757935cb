/* selftest_parts.h - what a device computes beside the operations of ops.def: experts that come one by one, the choice
 * of a token, made-up weights, matrices laid out anew. Each part has a device of its own, so that what goes wrong in
 * one ends there, and reports cases as the operations do. */
#ifndef DS4_TOOLS_SELFTEST_PARTS_H
#define DS4_TOOLS_SELFTEST_PARTS_H

#include "tools/selftest_ops.h"

#define PART_HOST "host" /* a part that consists of checks (selftest_host.h) */
#define PART_REPEATS 10u /* of what is timed */

struct part {
    struct ops_test *t;
    struct op_dev dev;
    struct report_case c; /* at hand */
    bool lost;            /* the device is of no more use */
};
/* False: there is no device, which was reported. Closing is right in either case. */
bool part_open(struct part *p, struct ops_test *t, const char *name, const struct backend_limits *limits,
               size_t region_bytes);
void part_close(struct part *p);
/* Begins a case. */
void part_case(struct part *p, const char *shape, ...) __attribute__((format(printf, 2, 3)));
/* It is wrong for this reason, of which the first counts; returns false. */
bool part_differs(struct part *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Waits for the device; false, with the reason, when it failed. */
bool part_finished(struct part *p);
/* The kernels from watch to seen are noted, with their times; together, of one of so many repetitions. */
bool part_watch(struct part *p);
double part_seen(struct part *p, uint32_t n_repeats);
/* Ends the case, which may be wrong only if part_differs or part_finished said why. */
void part_report(struct part *p);

/* All of them; only: of this name. */
void parts_run(struct ops_test *t, const char *only);
bool parts_know(const char *name);
void parts_names(struct buf *out); /* appends them, for a message */
bool parts_need_gpu(const char *name); /* false: the CPU has it, too */

void part_streamed(struct ops_test *t, const char *name);
void part_shared(struct ops_test *t, const char *name);
void part_candidates(struct ops_test *t, const char *name);
void part_choice(struct ops_test *t, const char *name);
void part_made_up(struct ops_test *t, const char *name);
void part_repack(struct ops_test *t, const char *name);
void part_places(struct ops_test *t, const char *name);

#endif
