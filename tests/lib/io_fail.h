/* io_fail.h - makes every call to the file system of a scenario fail in turn.
 *
 * The scenario is run with the n-th call of base/file.h failing, for n = 1, 2, ... until it ends without meeting the
 * failure: once, and again with every call from the n-th on failing; and both for each of the reasons a system gives
 * (input/output error, full disk, quota, permission, read-only, too many files). After each run memory and open files
 * must be as before. A run that met the failure must return IO with a message that has the reason, or OK. */
#ifndef DS4_TESTS_IO_FAIL_H
#define DS4_TESTS_IO_FAIL_H

#include "ds4.h"

typedef enum ds4_status (*io_fail_fn)(void *user, struct ds4_error *error);

/* after (optional) checks the world after each run that met a failure; it may use the file system. Returns the number
 * of calls of a whole run. */
uint64_t io_fail_loop(const char *name, io_fail_fn scenario, void *user, void (*after)(void *user));

#endif
