/* screen.h - an answer on its way to a person or a pipe.
 *
 * On a terminal: thinking dimmed, everything made harmless (term_put_safe). In a pipe: the answer's own bytes and
 * nothing else. Both kinds of text are kept as the model wrote them, for the transcript. */
#ifndef DS4_CHAT_SCREEN_H
#define DS4_CHAT_SCREEN_H

#include "base/sink.h"
#include "base/term.h"

struct screen {
    struct sink out;
    bool terminal;            /* out is one */
    bool raw;                 /* no line break is added */
    bool failed;              /* nobody reads any more: the answer may stop */
    struct buf text, reasoning;
    enum { SCREEN_NOTHING, SCREEN_THINKING, SCREEN_ANSWER } shown;
    bool line_open;           /* the cursor is not at the start of a line */
    struct term_progress *progress; /* cleared before the first byte */
};

void screen_init(struct screen *s, int fd, const char *name, bool raw, struct term_progress *progress);
void screen_deinit(struct screen *s);
/* Forgets the texts of the last answer. */
void screen_begin(struct screen *s);
/* A ds4_event_fn; user is the screen. */
void screen_event(void *user, const struct ds4_event *event);
/* Ends dimming and the line. */
void screen_end(struct screen *s);

#endif
