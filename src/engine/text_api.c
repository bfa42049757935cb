/* text_api.c - the text functions of ds4.h on an engine's vocabulary. */
#include "engine/engine.h"
#include "text/encode.h"
#include "text/render.h"
#include "text/toolcall.h"

enum ds4_status ds4_tokenize(const struct ds4_engine *e, struct ds4_span text, bool special, struct ds4_tokens *out,
                             struct ds4_error *error)
{
    return text_encode(e->vocab, text, special, out, error);
}

struct ds4_span ds4_token_bytes(const struct ds4_engine *e, int32_t id) { return vocab_token(e->vocab, id); }
bool ds4_token_is_control(const struct ds4_engine *e, int32_t id) { return vocab_is_control(e->vocab, id); }
const struct ds4_special_ids *ds4_special(const struct ds4_engine *e) { return vocab_special(e->vocab); }

enum ds4_status ds4_render(const struct ds4_engine *e, const struct ds4_chat *chat, struct ds4_tokens *tokens,
                           struct ds4_text *text, struct ds4_error *error)
{
    return text_render(e->vocab, chat, tokens, text, error);
}

enum ds4_status ds4_parser_create(const struct ds4_engine *e, const struct ds4_parser_options *options,
                                  struct ds4_parser **out)
{
    return parser_create(e->vocab, options, out);
}
