/* repl.h - the conversation in the terminal: reads lines, obeys slash commands, shows answers. */
#ifndef DS4_CHAT_REPL_H
#define DS4_CHAT_REPL_H

#include "chat/conversation.h"

/* Until /quit, the end of input or a signal to leave. state_dir: where /save puts names without a slash; created
 * (0700) when first needed. */
enum ds4_status repl_run(struct conversation *c, const char *state_dir, struct ds4_error *error) DS4_MUST_CHECK;

#endif
