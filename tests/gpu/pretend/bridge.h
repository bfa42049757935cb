/* bridge.h - from the pretend Metal, which is Objective-C, to the emulator. */
#ifndef PRETEND_BRIDGE_H
#define PRETEND_BRIDGE_H
#include <stdbool.h>
#include <stddef.h>

struct bridge_binding {
    void *ptr;
    size_t bytes;
};
/* NULL when there is no such kernel. */
const char *bridge_kernel(const char *name, int *max_threads);
void bridge_launch(const char *name, const unsigned grid[3], unsigned n_threads, const struct bridge_binding *bindings,
                   int n);
/* Launches from begin to end may overlap, except across barriers. */
void bridge_list(bool begin);
void bridge_barrier(void);
const char *bridge_error(void); /* NULL: none so far */
unsigned bridge_n_launches(void);
#endif
