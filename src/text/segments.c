/* segments.c - see segments.h. */
#include "text/segments.h"

void segments_init(struct segments *s, const struct vocab *vocab, struct ds4_tokens *tokens, struct ds4_text *text,
                   struct ds4_error *error)
{
    *s = (struct segments){.vocab = vocab, .tokens = tokens, .wants_text = text != NULL, .error = error};
    if (text) s->text.text = *text;
}

static void put_ordinary(struct segments *s, struct ds4_span text)
{
    if (s->tokens) buf_put_span(&s->run, text);
    if (s->wants_text) buf_put_span(&s->text, text);
}

static void encode_run(struct segments *s)
{
    if (s->status == DS4_OK) s->status = buf_status(&s->run, s->error);
    if (s->status == DS4_OK && s->tokens)
        s->status = text_encode(s->vocab, buf_span(&s->run), false, s->tokens, s->error);
    buf_clear(&s->run);
}

static void put_control(struct segments *s, int32_t id)
{
    encode_run(s);
    if (s->wants_text) buf_put_span(&s->text, vocab_token(s->vocab, id));
    if (s->status == DS4_OK && s->tokens && ds4_tokens_append(s->tokens, &id, 1) != DS4_OK)
        s->status = err_set(s->error, DS4_ERR_NOMEM, "no memory for tokens");
}

void segments_template(struct segments *s, struct ds4_span text)
{
    size_t from = 0;
    for (;;) {
        int32_t id;
        size_t at = text_find_added(s->vocab, text, from, &id);
        put_ordinary(s, span_make(text.ptr + from, at - from));
        if (id < 0) return;
        put_control(s, id);
        from = at + vocab_token(s->vocab, id).len;
    }
}

void segments_content(struct segments *s, struct ds4_span text)
{
    if (text.len == 0) return;
    if (s->tokens) text_put_repaired(&s->run, text);
    if (s->wants_text) text_put_repaired(&s->text, text);
}

enum ds4_status segments_finish(struct segments *s, struct ds4_text *text)
{
    encode_run(s);
    if (text) *text = s->text.text;
    if (s->status == DS4_OK) s->status = buf_status(&s->text, s->error);
    buf_deinit(&s->run);
    return s->status;
}
