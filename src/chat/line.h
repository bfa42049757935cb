/* line.h - a line from a person at the terminal, by libedit: editing, history of this session, pastes of several
 * lines. Signals: see chat_signals. */
#ifndef DS4_CHAT_LINE_H
#define DS4_CHAT_LINE_H

#include <signal.h>

#include "base/buf.h"

#define LINE_HISTORY_MAX 1000
#define LINE_PASTES_MAX 256
#define LINE_PASTE_BYTES_MAX ((size_t)16 << 20)

enum line_outcome { LINE_TEXT, LINE_CANCELLED, LINE_END };

struct line;

/* What signal handlers leave for the reader. */
struct line_signals {
    volatile sig_atomic_t interrupted; /* Ctrl-C */
    volatile sig_atomic_t leaving;     /* SIGTERM, SIGHUP */
    volatile sig_atomic_t continued, resized;
};

enum ds4_status line_create(struct line_signals *signals, struct line **out, struct ds4_error *error) DS4_MUST_CHECK;
void line_destroy(struct line *l);
/* Reads a line; *out is replaced by its text (UTF-8, without the line break; pastes in full). A line that ends in a
 * backslash goes on in the next one. */
enum line_outcome line_read(struct line *l, struct buf *out);

#endif
