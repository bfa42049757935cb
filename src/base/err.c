/* err.c - statuses, first-cause messages and the broken-promise abort. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *ds4_status_text(enum ds4_status status)
{
    static const char *const texts[] = {
#define X(name, text) text,
        DS4_STATUS_MAP(X)
#undef X
    };
    size_t i = (size_t)status;
    return i < sizeof texts / sizeof texts[0] ? texts[i] : "unknown status";
}

static void set_message(struct ds4_error *error, enum ds4_status status, const char *format, va_list args)
{
    error->status = status;
    (void)vsnprintf(error->message, sizeof error->message, format, args);
}

enum ds4_status err_set(struct ds4_error *error, enum ds4_status status, const char *format, ...)
{
    if (error && error->status == DS4_OK) {
        va_list args;
        va_start(args, format);
        set_message(error, status, format, args);
        va_end(args);
    }
    return status;
}

enum ds4_status err_os(struct ds4_error *error, int number, const char *format, ...)
{
    if (error && error->status == DS4_OK) {
        va_list args;
        va_start(args, format);
        set_message(error, DS4_ERR_IO, format, args);
        va_end(args);
        size_t len = strlen(error->message);
        (void)snprintf(error->message + len, sizeof error->message - len, ": %s", strerror(number));
    }
    return DS4_ERR_IO;
}

void ensure_failed(const char *condition, const char *file, int line)
{
    (void)fprintf(stderr, "ds4: internal promise broken at %s:%d: %s\n", file, line, condition);
    abort();
}
