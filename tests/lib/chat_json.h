/* chat_json.h - a chat from the JSON of a chat-completion request, for tests of the renderer. Only what the golden
 * examples use: the product's own reading of requests lives elsewhere. */
#ifndef DS4_TESTS_CHAT_JSON_H
#define DS4_TESTS_CHAT_JSON_H

#include <jansson.h>

#include "base/arena.h"

/* Fills *chat from messages, tools (OpenAI shape, may be NULL) and a response schema (may be NULL); the strings live in
 * the arena. Developer messages in front are system messages, later ones user messages. */
void chat_from_json(struct arena *a, const json_t *messages, const json_t *tools, const json_t *schema,
                    struct ds4_chat *chat);
struct ds4_span json_span(const json_t *string); /* borrows; empty when it is no string */

#endif
