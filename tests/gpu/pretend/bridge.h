/* bridge.h - from the pretend Metal, which is Objective-C, to the emulator. */
#ifndef PRETEND_BRIDGE_H
#define PRETEND_BRIDGE_H
#include <stdbool.h>
#include <stddef.h>

#include "pretend_metal.h"

extern struct pretend_metal_options pretend_metal_now;
extern struct pretend_metal_counts pretend_metal_sums;

struct bridge_binding {
    void *ptr;
    size_t bytes;
};
/* NULL when there is no such kernel. */
const char *bridge_kernel(const char *name, int *max_threads);
/* A dispatch was given, with these bindings, of which the first is the record; and the list they were given to. */
void bridge_given(const char *name, const unsigned grid[3], const struct bridge_binding *bindings, int n);
void bridge_committed(void);
/* NULL, or the rule that was broken. */
const char *bridge_launch(const char *name, const unsigned grid[3], unsigned n_threads,
                          const struct bridge_binding *bindings, int n);
/* Launches from begin to end may overlap, except across barriers. */
void bridge_list(bool begin);
void bridge_barrier(void);
/* Whether the call that is made now is to fail. */
bool bridge_fails(void);
unsigned bridge_below(unsigned n); /* by the seed */
#endif
