/* adopt.c - sampled tokens in place of tokens made from their text.
 *
 * A client, or a transcript, gives a conversation back as text. Made into tokens again, the text of an answer need not
 * be the tokens that were sampled, and state belongs to tokens: one other split near the front would cost everything
 * after it. So where a stored list of tokens has the same bytes as the front of the prompt, the list is taken. Control
 * tokens must stand at the same places in both: text that only spells a marker never becomes one. */
#include "store/store.h"

/* One side of the comparison: the bytes of the current token that are still to be compared. */
struct reader {
    const struct ds4_engine *engine;
    const int32_t *ids;
    size_t n, next;
    struct ds4_span left;
};

/* Loads the next tokens with bytes. False: a control token or the end comes next. */
static bool fill(struct reader *r)
{
    while (r->left.len == 0 && r->next < r->n && !ds4_token_is_control(r->engine, r->ids[r->next]))
        r->left = ds4_token_bytes(r->engine, r->ids[r->next++]);
    return r->left.len > 0;
}

/* Tokens of the prompt whose bytes are those of all of ids; zero when there is no such number. */
static size_t same_text(const struct ds4_engine *engine, const int32_t *ids, size_t n, const struct ds4_tokens *prompt)
{
    struct reader a = {.engine = engine, .ids = ids, .n = n};
    struct reader b = {.engine = engine, .ids = prompt->ids, .n = prompt->n};
    for (;;) {
        bool more_a = fill(&a), more_b = (more_a || a.next < n) && fill(&b);
        if (!more_a && a.next == n) return b.left.len == 0 ? b.next : 0;
        if (more_a != more_b) return 0;
        if (!more_a) {
            if (b.next == b.n || a.ids[a.next] != b.ids[b.next]) return 0;
            a.next++;
            b.next++;
            continue;
        }
        size_t len = a.left.len < b.left.len ? a.left.len : b.left.len;
        if (memcmp(a.left.ptr, b.left.ptr, len) != 0) return 0;
        a.left = span_skip(a.left, len);
        b.left = span_skip(b.left, len);
    }
}

/* Puts ids before what follows them in the prompt. *n_adopted becomes n when that could be done. */
static enum ds4_status adopt(const struct ds4_engine *engine, const int32_t *ids, size_t n, struct ds4_tokens *prompt,
                             size_t *n_adopted, struct ds4_error *error)
{
    size_t covered = n > *n_adopted ? same_text(engine, ids, n, prompt) : 0;
    if (covered == 0) return DS4_OK;
    struct ds4_tokens whole = {0};
    enum ds4_status status = ds4_tokens_append(&whole, ids, n);
    if (status == DS4_OK) status = ds4_tokens_append(&whole, prompt->ids + covered, prompt->n - covered);
    if (status != DS4_OK) {
        ds4_tokens_free(&whole);
        return err_set(error, status, "no memory for a prompt of %zu tokens", n + prompt->n - covered);
    }
    ds4_tokens_free(prompt);
    *prompt = whole;
    *n_adopted = n;
    return DS4_OK;
}

enum ds4_status ds4_store_adopt(const struct ds4_engine *engine, struct ds4_store *store,
                                const struct ds4_session *session, struct ds4_tokens *prompt, size_t *n_adopted,
                                struct ds4_error *error)
{
    size_t n_held = 0, text_used = 0;
    const int32_t *held = session ? ds4_session_tokens(session, &n_held) : NULL;
    *n_adopted = 0;
    TRY(adopt(engine, held, n_held, prompt, n_adopted, error));
    if (!store) return DS4_OK;
    struct buf text = {0};
    struct ds4_tokens stored = {0};
    for (size_t i = 0; i < prompt->n; i++) buf_put_span(&text, ds4_token_bytes(engine, prompt->ids[i]));
    enum ds4_status status = buf_status(&text, error);
    if (status == DS4_OK) status = ds4_store_find_text(store, buf_span(&text), &stored, &text_used, error);
    if (status == DS4_OK && text_used) status = adopt(engine, stored.ids, stored.n, prompt, n_adopted, error);
    ds4_tokens_free(&stored);
    buf_deinit(&text);
    return status;
}
