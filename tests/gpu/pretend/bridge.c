/* bridge.c - see bridge.h. */
#include "bridge.h"

#include <stdio.h>

#include "gpu/emu/emu.h"

static char first_error[256];
static unsigned n_launches;

const char *bridge_kernel(const char *name, int *max_threads)
{
    const struct emu_kernel *kernel = emu_find(name);
    if (!kernel) return NULL;
    *max_threads = kernel->max_threads;
    return kernel->name;
}

void bridge_launch(const char *name, const unsigned grid[3], unsigned n_threads, const struct bridge_binding *bindings,
                   int n)
{
    struct emu_binding bound[EMU_PARAMS_MAX];
    struct emu_report report;
    for (int i = 0; i < n; i++) bound[i] = (struct emu_binding){bindings[i].ptr, bindings[i].bytes};
    n_launches++;
    if (!emu_launch(emu_find(name), grid, n_threads, bound, n, &report) && !first_error[0])
        (void)snprintf(first_error, sizeof first_error, "%s", report.first);
}

void bridge_list(bool begin) { emu_overlap(begin); }
void bridge_barrier(void) { emu_device_barrier(); }
const char *bridge_error(void) { return first_error[0] ? first_error : NULL; }
unsigned bridge_n_launches(void) { return n_launches; }
