/* term.h - the terminal: is it one, how wide, progress on one line, and text of strangers made harmless. */
#ifndef DS4_BASE_TERM_H
#define DS4_BASE_TERM_H

#include <signal.h>

#include "base/buf.h"

bool term_is(int fd);
size_t term_columns(int fd); /* 80 when unknown */

/* Appends text for a terminal: control characters (escape above all, C0 but line feed and tab, DEL, C1) become visible
 * pictures of themselves, so that what a model or a file says cannot move the cursor, change the title or type keys.
 * Bytes that are not UTF-8 become U+FFFD; text must hold whole characters. */
void term_put_safe(struct buf *out, struct ds4_span text);
/* Whether term_put_safe would keep text as it is. */
bool term_is_safe(struct ds4_span text);

/* A line of progress on standard error, when that is a terminal. Zero-initialise with the start time unset. */
struct term_progress {
    uint64_t started_ns, shown_ns;
    bool visible;
    const volatile sig_atomic_t *cancel; /* optional: asked at each call */
};
/* A ds4_progress_fn; user is the struct. */
bool term_progress(void *user, const char *phase, uint64_t done, uint64_t total);
/* Removes the line, if there is one. */
void term_progress_clear(struct term_progress *p);

/* Ends dimming on fd when a signal ends the program (interrupt, terminate, hang up), which it still does. One that the
 * caller chose to ignore, as nohup does, stays ignored. */
void term_undim_at_signals(int fd);

/* "1.5 GiB", "312 KiB": three digits at most before the unit. */
const char *term_bytes(uint64_t bytes, char out[16]);

#endif
