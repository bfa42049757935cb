/* bridge.c - see bridge.h. */
#include "bridge.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "gpu/emu/emu.h"
#include "gpu/replay.h"
#include "lib/test.h"

struct pretend_metal_options pretend_metal_now;
struct pretend_metal_counts pretend_metal_sums;

static char first_error[256];
static uint64_t list_digest, random_state = 1;
static struct replay_seen seen;

void pretend_metal(const struct pretend_metal_options *options)
{
    assert_int_equal(pretend_metal_n_alive(), 0);
    pretend_metal_now = *options;
    pretend_metal_sums = (struct pretend_metal_counts){0};
    first_error[0] = 0;
    list_digest = 0;
    seen = (struct replay_seen){0};
    random_state = (options->seed + 1) * 0x9E3779B97F4A7C15u | 1;
}

const char *pretend_metal_report(void) { return first_error[0] ? first_error : NULL; }

struct pretend_metal_counts pretend_metal_counts(void)
{
    struct pretend_metal_counts counts = pretend_metal_sums;
    uint64_t n_calls = counts.n_calls; /* goes on, for fail_at */
    pretend_metal_sums = (struct pretend_metal_counts){.n_calls = n_calls};
    return counts;
}

bool bridge_fails(void) { return ++pretend_metal_sums.n_calls == pretend_metal_now.fail_at; }

unsigned bridge_below(unsigned n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 20) % n);
}

const char *bridge_kernel(const char *name, int *max_threads)
{
    const struct emu_kernel *kernel = emu_find(name);
    if (!kernel) return NULL;
    *max_threads = kernel->max_threads;
    return kernel->name;
}

static void digest(const void *bytes, size_t n)
{
    const uint64_t h = hash_u64(bytes, n);
    pretend_metal_sums.digest = pretend_metal_sums.digest * 31 + h;
    list_digest = (list_digest * 31 + h) | 1;
}

void bridge_given(const char *name, const unsigned grid[3], const struct bridge_binding *bindings, int n)
{
    pretend_metal_sums.n_launches++;
    digest(name, strlen(name));
    digest(grid, 3 * sizeof *grid);
    digest(bindings[0].ptr, bindings[0].bytes);
    digest(bindings + 1, (size_t)(n - 1) * sizeof *bindings);
}

void bridge_committed(void)
{
    if (!list_digest) return;
    pretend_metal_sums.n_lists++;
    pretend_metal_sums.n_replayed += replay_is_known(&seen, list_digest);
    list_digest = 0;
}

const char *bridge_launch(const char *name, const unsigned grid[3], unsigned n_threads,
                          const struct bridge_binding *bindings, int n)
{
    static struct emu_report report;
    struct emu_binding bound[EMU_PARAMS_MAX];
    for (int i = 0; i < n; i++) bound[i] = (struct emu_binding){bindings[i].ptr, bindings[i].bytes};
    if (emu_launch(emu_find(name), grid, n_threads, bound, n, &report)) return NULL;
    if (!first_error[0]) (void)snprintf(first_error, sizeof first_error, "%s", report.first);
    return first_error;
}

void bridge_list(bool begin) { emu_overlap(begin); }
void bridge_barrier(void) { emu_device_barrier(); }
