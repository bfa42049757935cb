/* alloc_fail.c - the loop of alloc_fail.h. */
#include "alloc_fail.h"

#include <stdatomic.h>

#include "base/mem.h"
#include "test.h"

struct plan {
    uint64_t first;          /* number, from 1, of the first allocation that fails */
    bool for_ever;
    _Atomic uint64_t n_asked; /* allocations since the run began, of any thread */
};

static bool fail_as_planned(void *user, uint64_t number)
{
    (void)number;
    struct plan *plan = user;
    uint64_t n = atomic_fetch_add(&plan->n_asked, 1) + 1;
    return plan->for_ever ? n >= plan->first : n == plan->first;
}

/* Runs once. False when the run ended before the failure. */
static bool run_once(const char *name, alloc_fail_fn scenario, void *user, struct plan *plan)
{
    struct ds4_error error = {0};
    int64_t live_before = mem_live();
    mem_test_hook(fail_as_planned, plan);
    enum ds4_status status = scenario(user, &error);
    mem_test_hook(NULL, NULL);
    bool met = atomic_load(&plan->n_asked) >= plan->first;
    const char *how = plan->for_ever ? "from allocation" : "at allocation";
    unsigned long long at = (unsigned long long)plan->first;
    if (mem_live() != live_before)
        fail_msg("%s, failing %s %llu: %lld blocks kept", name, how, at, (long long)(mem_live() - live_before));
    if (status != DS4_OK && (status != DS4_ERR_NOMEM || !met))
        fail_msg("%s, failing %s %llu: %s (%s)", name, how, at, ds4_status_text(status), error.message);
    if (status == DS4_ERR_NOMEM && !error.message[0])
        fail_msg("%s, failing %s %llu: no message", name, how, at);
    return met;
}

uint64_t alloc_fail_loop(const char *name, alloc_fail_fn scenario, void *user, uint64_t step)
{
    struct plan plan = {.first = UINT64_MAX};
    (void)run_once(name, scenario, user, &plan);
    uint64_t n_whole = atomic_load(&plan.n_asked);
    for (int for_ever = 0; for_ever <= 1; for_ever++) {
        uint64_t n = 1;
        for (;; n += step) {
            plan = (struct plan){.first = n, .for_ever = for_ever};
            if (!run_once(name, scenario, user, &plan)) break;
        }
        if (n + step < n_whole) fail_msg("%s: ended at %llu of %llu", name, (unsigned long long)n,
                                         (unsigned long long)n_whole);
    }
    print_message("%s: %llu allocations, each failed once and for ever\n", name, (unsigned long long)n_whole);
    return n_whole;
}
