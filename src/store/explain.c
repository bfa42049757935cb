/* explain.c - why a prompt finds what it finds: the stored text that shares most bytes with it, where they part, and
 * what stands there. See ds4.h. */
#include "store/store.h"

#include "base/hash.h"
#include "base/mem.h"

/* Text of tokens, up to the first byte that differs from `like` and DS4_EXPLAIN_BYTES more. Returns the bytes that
 * are the same. */
static size_t text_like(const struct ds4_store *s, const struct ds4_tokens *tokens, struct ds4_span like,
                        struct buf *out)
{
    size_t same = 0;
    buf_clear(out);
    for (size_t i = 0; i < tokens->n && out->text.len < same + DS4_EXPLAIN_BYTES; i++) {
        bool level = same == out->text.len;
        buf_put_span(out, ds4_token_bytes(s->engine, tokens->ids[i]));
        while (level && same < out->text.len && same < like.len && out->text.ptr[same] == like.ptr[same]) same++;
    }
    return same;
}

/* Last place in text[0..end) where word begins; SIZE_MAX when there is none. */
static size_t last_of(struct ds4_span text, size_t end, struct ds4_span word)
{
    if (word.len == 0) return SIZE_MAX;
    for (size_t at = end < text.len ? end : text.len; at-- > 0;)
        if (span_starts(span_skip(text, at), word)) return at;
    return SIZE_MAX;
}

static struct ds4_span marker(const struct ds4_store *s, int32_t id)
{
    return id < 0 ? (struct ds4_span){0} : ds4_token_bytes(s->engine, id);
}

/* True when the last `open` at or before `at` is younger than every `close` that ends before it. */
static bool is_inside(struct ds4_span text, size_t at, struct ds4_span open, struct ds4_span close)
{
    size_t from = last_of(text, at + 1, open), to = last_of(text, at, close);
    return from != SIZE_MAX && (to == SIZE_MAX || to < from);
}

static enum ds4_store_cause cause_of(const struct ds4_store *s, struct ds4_span stored, struct ds4_span prompt,
                                     size_t same)
{
    const struct ds4_special_ids *ids = ds4_special(s->engine);
    struct ds4_span think = marker(s, ids->think), think_end = marker(s, ids->think_end);
    struct ds4_span dsml = marker(s, ids->dsml), eos = marker(s, ids->eos);
    if (is_inside(stored, same, think, think_end)) {
        size_t from = last_of(stored, same + 1, think);
        /* The prompt closes at once what the stored text thought through. */
        bool closes = span_starts(span_skip(prompt, same), think_end) ||
                      (from <= prompt.len && span_starts(span_skip(prompt, from), think_end)) ||
                      (from + think.len <= prompt.len && span_starts(span_skip(prompt, from + think.len), think_end));
        if (closes) return DS4_CAUSE_REASONING_DROPPED;
    }
    if (is_inside(stored, same, dsml, eos)) return DS4_CAUSE_TOOL_SPELLING;
    return DS4_CAUSE_HISTORY_EDITED;
}

static void show(struct ds4_span text, uint64_t at, char out[DS4_EXPLAIN_BYTES], size_t *len)
{
    *len = text.len > at ? text.len - (size_t)at : 0;
    if (*len > DS4_EXPLAIN_BYTES) *len = DS4_EXPLAIN_BYTES;
    if (*len) memcpy(out, text.ptr + at, *len);
}

/* Longest text stored for another identity that begins the prompt. */
static uint64_t longest_other(const struct ds4_store *s, struct ds4_span prompt)
{
    uint64_t longest = 0;
    for (size_t i = 0; i < s->n_others; i++) {
        const struct store_other *other = &s->others[i];
        uint8_t digest[16];
        if (other->bad || other->kind != ENTRY_TIP || other->text_len <= longest || other->text_len > prompt.len)
            continue;
        hash_bytes(prompt.ptr, (size_t)other->text_len, digest);
        if (memcmp(digest, other->text_digest, sizeof digest) == 0) longest = other->text_len;
    }
    return longest;
}

static bool has_others(const struct ds4_store *s)
{
    for (size_t i = 0; i < s->n_others; i++)
        if (!s->others[i].bad) return true;
    return false;
}

/* Compares one tip; keeps it in *out when it shares more than what was seen before. */
static enum ds4_status compare(struct ds4_store *s, const struct index_item *tip, struct ds4_span prompt,
                               struct ds4_store_explanation *out, struct buf *best, struct ds4_error *error)
{
    struct ds4_tokens tokens = {0};
    struct buf text = {0};
    struct ds4_error damaged = {0};
    enum ds4_status status = store_read_tokens(s, tip, &tokens, &damaged);
    if (status == DS4_OK) {
        size_t same = text_like(s, &tokens, prompt, &text);
        bool whole = same == tip->text_len;
        if (whole && tip->n_tokens > out->n_usable_tokens) out->n_usable_tokens = tip->n_tokens;
        if (!out->key[0] || same > out->same_bytes || (same == out->same_bytes && whole)) {
            out->same_bytes = same;
            out->n_tokens = tip->n_tokens;
            out->text_len = tip->text_len;
            store_key_text(&tip->key, out->key);
            buf_clear(best);
            buf_put_span(best, buf_span(&text));
        }
        if (text.failed || best->failed) status = err_set(error, DS4_ERR_NOMEM, "no memory to compare texts");
    } else if (status != DS4_ERR_NOMEM) {
        status = DS4_OK; /* verify is for finding damage */
    }
    buf_deinit(&text);
    ds4_tokens_free(&tokens);
    return status;
}

enum ds4_status ds4_store_explain(struct ds4_store *s, struct ds4_span text, struct ds4_store_explanation *out,
                                  struct ds4_error *error)
{
    struct buf best = {0};
    enum ds4_status status = DS4_OK;
    *out = (struct ds4_store_explanation){.cause = DS4_CAUSE_NOTHING_STORED};
    ds4_store_flush(s);
    for (size_t i = 0; i < s->index.cap && status == DS4_OK; i++) {
        const struct index_item *item = &s->index.items[i];
        if (item->bytes && item->kind == ENTRY_TIP && store_is_whole(s, item))
            status = compare(s, item, text, out, &best, error);
    }
    if (status == DS4_OK) {
        uint64_t other = longest_other(s, text);
        if (out->key[0] && out->same_bytes == out->text_len) out->cause = DS4_CAUSE_HIT;
        else if (other > out->same_bytes || (!out->key[0] && has_others(s))) out->cause = DS4_CAUSE_OTHER_MODEL;
        else if (out->key[0]) out->cause = cause_of(s, buf_span(&best), text, (size_t)out->same_bytes);
        out->context_at = out->same_bytes > DS4_EXPLAIN_BEFORE ? out->same_bytes - DS4_EXPLAIN_BEFORE : 0;
        show(buf_span(&best), out->context_at, out->stored, &out->stored_len);
        show(text, out->context_at, out->prompt, &out->prompt_len);
    }
    buf_deinit(&best);
    return status;
}
