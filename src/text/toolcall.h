/* toolcall.h - what the model emits, token by token, as events: reasoning, visible text, tool calls, the end.
 *
 * The functions on a parser are the public ones of ds4.h and defined here; only creating one needs a vocabulary. */
#ifndef DS4_TEXT_TOOLCALL_H
#define DS4_TEXT_TOOLCALL_H

#include "text/vocab.h"

/* ds4_parser_create with a vocabulary, which the parser borrows. NOMEM. */
enum ds4_status parser_create(const struct vocab *vocab, const struct ds4_parser_options *options,
                              struct ds4_parser **out) DS4_MUST_CHECK;

#endif
