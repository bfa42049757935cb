/* render.h - a conversation as the text and tokens that the model continues. The chat format is DeepSeek V4's: there
 * are no separators but the role tokens, one user turn holds all user texts and tool results between two answers, tools
 * are described once behind the system text, and tool calls are written in DSML. */
#ifndef DS4_TEXT_RENDER_H
#define DS4_TEXT_RENDER_H

#include "text/vocab.h"

/* ds4_render with a vocabulary: see ds4.h. A pure function of the chat. */
enum ds4_status text_render(const struct vocab *vocab, const struct ds4_chat *chat, struct ds4_tokens *tokens,
                            struct ds4_text *text, struct ds4_error *error) DS4_MUST_CHECK;

#endif
