/* alloc_fail.h - makes every allocation of a scenario fail in turn.
 *
 * The scenario is run with the n-th allocation failing, for n = 1, 2, ... until it ends without meeting the failure;
 * then all of it again with every allocation from the n-th on failing. After each run everything it allocated must be
 * released again. A run that met the failure must return NOMEM with a message, or OK (what failed was not needed). */
#ifndef DS4_TESTS_ALLOC_FAIL_H
#define DS4_TESTS_ALLOC_FAIL_H

#include "ds4.h"

/* Does the whole of something and releases it, whatever fails. */
typedef enum ds4_status (*alloc_fail_fn)(void *user, struct ds4_error *error);

/* Fails the test when the promise does not hold. Returns the number of allocations of a whole run. step > 1 tries
 * every step-th place only, beginning with the first. */
uint64_t alloc_fail_loop(const char *name, alloc_fail_fn scenario, void *user, uint64_t step);

#endif
