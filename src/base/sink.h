/* sink.h - buffered output to standard output or a file that the user named. The first failure (full disk, closed
 * pipe) sticks: later writes are dropped, and sink_close tells. */
#ifndef DS4_BASE_SINK_H
#define DS4_BASE_SINK_H

#include "base/buf.h"

struct sink {
    int fd;
    const char *path;     /* borrows; for messages */
    struct buf pending;
    enum ds4_status status;
    struct ds4_error error;
    bool owns_fd;
};

/* "-" is standard output; a path is created or truncated. */
enum ds4_status sink_open(struct sink *s, const char *path, struct ds4_error *error) DS4_MUST_CHECK;
/* Any open descriptor, which stays open. */
void sink_init_fd(struct sink *s, int fd, const char *name);
void sink_put(struct sink *s, struct ds4_span bytes);
void sink_put_text(struct sink *s, const char *nul_terminated);
void sink_printf(struct sink *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sink_put_json_string(struct sink *s, struct ds4_span text);
/* Nine significant digits, which give back the same float; null for NaN and infinities, which JSON cannot say. */
void sink_put_json_f32(struct sink *s, float value);
/* Writes what is pending; the status of everything so far. */
enum ds4_status sink_flush(struct sink *s);
/* Flushes, closes what sink_open opened, and copies the first failure into *error. */
enum ds4_status sink_close(struct sink *s, struct ds4_error *error) DS4_MUST_CHECK;

#endif
