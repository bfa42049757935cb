/* clock.c - monotonic and wall clock with a test hook. */
#include "base/clock.h"

#include <time.h>

static clock_fn test_monotonic, test_unix;

void clock_test_hook(clock_fn monotonic_ns, clock_fn unix_s)
{
    test_monotonic = monotonic_ns;
    test_unix = unix_s;
}

uint64_t clock_ns(void)
{
    if (test_monotonic) return test_monotonic();
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_unix_s(void)
{
    if (test_unix) return test_unix();
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec;
}
