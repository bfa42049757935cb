/* err.h - how a failure travels: a status as return value, and one sentence with the first cause.
 * Two idioms only: TRY(call) returns the status, TRY_GOTO(call, out) jumps to the clean-up. Bad input is an error; a
 * broken promise of our own is ensure(), which prints and aborts, and which no input may reach. */
#ifndef DS4_BASE_ERR_H
#define DS4_BASE_ERR_H

#include "ds4.h"

/* Sets *error (may be NULL) if it holds nothing yet, and returns status. */
enum ds4_status err_set(struct ds4_error *error, enum ds4_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* err_set for a failed system call: appends strerror(number). */
enum ds4_status err_os(struct ds4_error *error, int number, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define TRY(call) \
    do { \
        enum ds4_status try_status_ = (call); \
        if (try_status_ != DS4_OK) return try_status_; \
    } while (0)

/* Needs a local `enum ds4_status status`. */
#define TRY_GOTO(call, label) \
    do { \
        status = (call); \
        if (status != DS4_OK) goto label; \
    } while (0)

#define ensure(cond) \
    do { \
        if (!(cond)) ensure_failed(#cond, __FILE__, __LINE__); \
    } while (0)
void ensure_failed(const char *condition, const char *file, int line) __attribute__((noreturn));

#endif
