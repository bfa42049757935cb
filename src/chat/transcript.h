/* transcript.h - what was said so far: messages with owned text, rendered anew for every turn. */
#ifndef DS4_CHAT_TRANSCRIPT_H
#define DS4_CHAT_TRANSCRIPT_H

#include "base/buf.h"

/* More messages than a person types; a loaded file with more is refused. */
#define TRANSCRIPT_MESSAGES_MAX 100000u

struct transcript_message {
    enum ds4_role role; /* system (first only), user, assistant */
    struct ds4_text text, reasoning;
};

struct transcript { /* zero-initialise; transcript_deinit releases */
    struct transcript_message *messages;
    size_t n, cap;
};

enum ds4_status transcript_add(struct transcript *t, enum ds4_role role, struct ds4_span text,
                               struct ds4_span reasoning, struct ds4_error *error) DS4_MUST_CHECK;
void transcript_pop(struct transcript *t);
/* Forgets everything but the system text. */
void transcript_reset(struct transcript *t);
void transcript_deinit(struct transcript *t);
/* Appends the tokens of the prompt for the next answer. */
enum ds4_status transcript_render(const struct transcript *t, const struct ds4_engine *engine,
                                  enum ds4_think_mode think, struct ds4_tokens *tokens,
                                  struct ds4_error *error) DS4_MUST_CHECK;

#endif
