/* clock.h - the only clock. Tests may replace it. */
#ifndef DS4_BASE_CLOCK_H
#define DS4_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);      /* monotonic */
uint64_t clock_unix_s(void);  /* wall time */
static inline double clock_seconds_since(uint64_t start_ns) { return (double)(clock_ns() - start_ns) * 1e-9; }

typedef uint64_t (*clock_fn)(void);
void clock_test_hook(clock_fn monotonic_ns, clock_fn unix_s); /* NULL = the real ones */

#endif
