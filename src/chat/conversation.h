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
    struct ds4_store *store;     /* borrows; NULL: state lives in memory only */
    const char *keep_path;       /* borrows; the words are written there after each turn; NULL: they are not kept */
};

struct conversation {
    struct ds4_engine *engine;   /* borrows */
    struct ds4_session *session; /* owns */
    struct ds4_session *anchor;  /* owns; may be NULL: see answer.h */
    bool goes_on;                /* the next prompt begins with the tokens of session: the answer had no reasoning */
    bool warned;                 /* that the words cannot be kept */
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
/* Hands the state to the store first. */
void conversation_deinit(struct conversation *c);
/* Forgets what was said, but not the system text. */
void conversation_reset(struct conversation *c);
/* The session to save: its tokens begin the next prompt. */
const struct ds4_session *conversation_prefix(const struct conversation *c);

/* Writes what was said to a file: with the state, or, where there is a store, without it: then the store keeps it. */
enum ds4_status conversation_save(struct conversation *c, const char *path, struct ds4_error *error) DS4_MUST_CHECK;
/* Goes on with what a file says. Nothing is computed: *n_tokens says how much state was found, in the file or the
 * store; the next turn computes the rest. On an error nothing changes. */
enum ds4_status conversation_load(struct conversation *c, const char *path, size_t *n_tokens,
                                  struct ds4_error *error) DS4_MUST_CHECK;

/* Says text and prints the answer. When it fails, or is cancelled before any visible word, the transcript is as it was
 * before; an answer that was stopped later stays as far as it came. */
enum ds4_status conversation_turn(struct conversation *c, struct ds4_span text, struct ds4_error *error) DS4_MUST_CHECK;
/* Lets the model go on with a transcript that is already rendered (control markers count), printing all it emits. */
enum ds4_status conversation_raw(struct conversation *c, struct ds4_span text, struct ds4_error *error) DS4_MUST_CHECK;
/* Line on standard error: tokens, speed, why it stopped. */
void conversation_report(const struct conversation *c);

#endif
