/* transcript.c - messages of a conversation. See transcript.h. */
#include "chat/transcript.h"

#include "base/mem.h"

static bool copy_text(struct ds4_text *out, struct ds4_span text)
{
    struct buf b = {0};
    buf_put_span(&b, text);
    *out = b.text;
    return !b.failed;
}

static void free_message(struct transcript_message *message)
{
    ds4_text_free(&message->text);
    ds4_text_free(&message->reasoning);
}

enum ds4_status transcript_add(struct transcript *t, enum ds4_role role, struct ds4_span text,
                               struct ds4_span reasoning, struct ds4_error *error)
{
    struct transcript_message message = {.role = role};
    if (t->n >= TRANSCRIPT_MESSAGES_MAX)
        return err_set(error, DS4_ERR_LIMIT, "the conversation has %zu messages, the most it can hold", t->n);
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 16;
        struct transcript_message *grown = mem_realloc(t->messages, cap, sizeof *grown);
        if (!grown) return err_set(error, DS4_ERR_NOMEM, "no memory for message %zu", t->n + 1);
        t->messages = grown;
        t->cap = cap;
    }
    if (!copy_text(&message.text, text) || !copy_text(&message.reasoning, reasoning)) {
        free_message(&message);
        return err_set(error, DS4_ERR_NOMEM, "no memory for a message of %zu bytes", text.len + reasoning.len);
    }
    t->messages[t->n++] = message;
    return DS4_OK;
}

void transcript_pop(struct transcript *t)
{
    ensure(t->n > 0);
    free_message(&t->messages[--t->n]);
}

void transcript_reset(struct transcript *t)
{
    size_t keep = t->n > 0 && t->messages[0].role == DS4_ROLE_SYSTEM ? 1 : 0;
    while (t->n > keep) transcript_pop(t);
}

void transcript_deinit(struct transcript *t)
{
    while (t->n > 0) transcript_pop(t);
    mem_free(t->messages);
    *t = (struct transcript){0};
}

static struct ds4_span span_of(const struct ds4_text *text) { return span_make(text->ptr ? text->ptr : "", text->len); }

enum ds4_status transcript_render(const struct transcript *t, const struct ds4_engine *engine,
                                  enum ds4_think_mode think, struct ds4_tokens *tokens, struct ds4_error *error)
{
    struct ds4_message *messages = mem_zalloc(t->n ? t->n : 1, sizeof *messages);
    struct ds4_span *parts = mem_zalloc(t->n ? t->n : 1, sizeof *parts);
    enum ds4_status status = DS4_ERR_NOMEM;
    if (!messages || !parts) {
        (void)err_set(error, status, "no memory for %zu messages", t->n);
        goto out;
    }
    for (size_t i = 0; i < t->n; i++) {
        parts[i] = span_of(&t->messages[i].text);
        messages[i] = (struct ds4_message){.role = t->messages[i].role, .parts = &parts[i], .n_parts = 1,
                                           .reasoning = span_of(&t->messages[i].reasoning)};
    }
    const char *name = ds4_engine_info(engine)->name;
    struct ds4_chat chat = {.messages = messages, .n_messages = t->n, .think = think};
    if (name && span_find(span_from(name), SPAN("0731"), 0) != SIZE_MAX) chat.effort_table = DS4_EFFORT_0731;
    status = ds4_render(engine, &chat, tokens, NULL, error);
out:
    mem_free(messages);
    mem_free(parts);
    return status;
}
