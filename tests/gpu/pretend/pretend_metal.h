/* pretend_metal.h - what tests ask of the pretend Metal. One thread calls it.
 *
 * What a list holds is done when it is committed, when it is waited for, or at some moment in between, one list after
 * the other. What Metal's validation would refuse ends the program with a sentence, as does a buffer that is released
 * while a list uses it. A kernel that breaks a rule of the emulator makes its list fail, with the rule as the error. */
#ifndef PRETEND_METAL_H_
#define PRETEND_METAL_H_

#include <stdbool.h>
#include <stdint.h>

enum pretend_lists {
    PRETEND_LISTS_EARLY, /* done when they are committed */
    PRETEND_LISTS_LATE,  /* when they are waited for, and no more than that */
    PRETEND_LISTS_RANDOM, /* by the seed */
    PRETEND_LISTS
};
struct pretend_metal_options {
    enum pretend_lists lists;
    uint64_t seed;
    uint64_t fail_at;          /* this call fails, of those that may, counted from 1; 0: none */
    uint64_t buffer_bytes_max; /* 0: 256 MiB */
};
/* Metal as new; no object may be alive. */
void pretend_metal(const struct pretend_metal_options *options);
const char *pretend_metal_report(void); /* the first rule that a kernel broke; NULL: none */
int pretend_metal_n_alive(void);        /* objects */

struct pretend_metal_counts {
    uint64_t n_calls;             /* that may fail: objects that are made, what a pipeline can, lists */
    uint64_t n_opened;            /* devices */
    uint64_t n_rests;             /* waits for the last list that was committed */
    uint64_t n_sent;              /* none: nothing goes beside the dispatches */
    uint64_t n_lists, n_replayed; /* with dispatches; of them, such as were among the last ones */
    uint64_t n_launches, digest;  /* dispatches, and what they were given */
};
struct pretend_metal_counts pretend_metal_counts(void); /* since the last call */

#endif
