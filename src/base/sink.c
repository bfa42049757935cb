/* sink.c - buffered output with a sticky failure. See sink.h. */
#include "base/sink.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"

#define SINK_PENDING_BYTES 65536 /* written when that much has gathered */

void sink_init_fd(struct sink *s, int fd, const char *name)
{
    *s = (struct sink){.fd = fd, .path = name};
}

enum ds4_status sink_open(struct sink *s, const char *path, struct ds4_error *error)
{
    sink_init_fd(s, STDOUT_FILENO, "standard output");
    if (strcmp(path, "-") == 0) return DS4_OK;
    s->path = path;
    TRY(file_open(path, FILE_OUTPUT, &s->fd, error));
    s->owns_fd = true;
    return DS4_OK;
}

enum ds4_status sink_flush(struct sink *s)
{
    if (s->status == DS4_OK) s->status = buf_status(&s->pending, &s->error);
    if (s->status == DS4_OK && s->pending.text.len > 0)
        s->status = file_write(s->fd, s->path, s->pending.text.ptr, s->pending.text.len, &s->error);
    buf_clear(&s->pending);
    return s->status;
}

static void flush_when_full(struct sink *s)
{
    if (s->pending.text.len >= SINK_PENDING_BYTES) (void)sink_flush(s);
}

void sink_put(struct sink *s, struct ds4_span bytes)
{
    buf_put_span(&s->pending, bytes);
    flush_when_full(s);
}

void sink_put_text(struct sink *s, const char *nul_terminated) { sink_put(s, span_from(nul_terminated)); }

void sink_printf(struct sink *s, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int wanted = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (wanted < 0 || (size_t)wanted >= sizeof text) {
        if (s->status == DS4_OK) s->status = err_set(&s->error, DS4_ERR_LIMIT, "a line of output is too long");
        return;
    }
    sink_put(s, span_make(text, (size_t)wanted));
}

void sink_put_json_string(struct sink *s, struct ds4_span text)
{
    buf_put_json_string(&s->pending, text);
    flush_when_full(s);
}

void sink_put_json_f32(struct sink *s, float value)
{
    if (isfinite(value)) sink_printf(s, "%.9g", (double)value);
    else sink_put_text(s, "null");
}

enum ds4_status sink_close(struct sink *s, struct ds4_error *error)
{
    enum ds4_status status = sink_flush(s);
    if (s->owns_fd && close(s->fd) != 0 && status == DS4_OK)
        status = err_set(&s->error, DS4_ERR_IO, "closing %s failed: the file may be incomplete", s->path);
    s->owns_fd = false;
    buf_deinit(&s->pending);
    if (status != DS4_OK) return err_set(error, status, "%s", s->error.message);
    return DS4_OK;
}
