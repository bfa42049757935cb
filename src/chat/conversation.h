/* conversation.h - a model, a session and what was said: one turn at a time. */
#ifndef DS4_CHAT_CONVERSATION_H
#define DS4_CHAT_CONVERSATION_H

#include "chat/answer.h"
#include "chat/screen.h"
#include "chat/transcript.h"

struct conversation_options {
    struct ds4_sampling sampling; /* seed 0: a new one each turn */
    uint32_t n_max;
    bool keep_repeating;
    enum ds4_think_mode think;
};

struct conversation {
    struct ds4_engine *engine;   /* borrows */
    struct ds4_session *session; /* owns */
    struct ds4_session *anchor;  /* owns; may be NULL: see answer.h */
    struct transcript transcript;
    struct conversation_options options;
    struct screen *screen;       /* borrows */
    struct term_progress *progress;
    const volatile sig_atomic_t *cancel;
    struct answer_result last;
};

enum ds4_status conversation_init(struct conversation *c, struct ds4_engine *engine,
                                  const struct conversation_options *options, struct screen *screen,
                                  struct term_progress *progress, struct ds4_error *error) DS4_MUST_CHECK;
void conversation_deinit(struct conversation *c);
/* Forgets what was said, but not the system text. */
void conversation_reset(struct conversation *c);
/* The session to save: its tokens begin the next prompt for certain. (The answer is computed again after loading: as
 * text it may be other tokens than those that were sampled, and a restored session cannot be rewound.) */
const struct ds4_session *conversation_prefix(const struct conversation *c);

/* Says text and prints the answer. When it fails, or is cancelled before any visible word, the transcript is as it was
 * before; an answer that was stopped later stays as far as it came. */
enum ds4_status conversation_turn(struct conversation *c, struct ds4_span text, struct ds4_error *error) DS4_MUST_CHECK;
/* Lets the model go on with a transcript that is already rendered (control markers count), printing all it emits. */
enum ds4_status conversation_raw(struct conversation *c, struct ds4_span text, struct ds4_error *error) DS4_MUST_CHECK;
/* Line on standard error: tokens, speed, why it stopped. */
void conversation_report(const struct conversation *c);

#endif
