/* encode.c - plain and special encoding, and decoding. See encode.h. */
#include "text/encode.h"

#include "base/buf.h"
#include "base/utf8.h"
#include "text/bpe.h"
#include "text/pretok.h"
#include "text/vocab_tables.h"

static enum ds4_status encode_plain(const struct vocab *v, struct ds4_span text, struct ds4_tokens *out,
                                    struct ds4_error *error)
{
    struct pretok cut = {text, 0};
    struct ds4_span piece;
    while (pretok_next(&cut, &piece)) {
        enum ds4_status status = bpe_piece(v, piece, out, error);
        if (status != DS4_OK) return err_set(error, status, "no memory for the tokens of a text of %zu bytes",
            text.len);
    }
    return DS4_OK;
}

/* First of the sorted literals [low, high), all longer than depth, whose byte at depth is at least `byte`. */
static uint32_t first_from(const struct vocab *v, uint32_t low, uint32_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((unsigned char)vocab_bytes(v, v->added[middle]).ptr[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest added token at the beginning of text, or -1. The candidates are a range of the sorted literals that
 * shrinks with each byte. */
static int32_t added_at(const struct vocab *v, struct ds4_span text)
{
    uint32_t low = v->added_first[(unsigned char)text.ptr[0]], high = v->added_first[(unsigned char)text.ptr[0] + 1];
    int32_t best = -1;
    for (size_t depth = 1; low < high; depth++) {
        /* All candidates share the first depth bytes; one of just that length comes first. */
        if (vocab_bytes(v, v->added[low]).len == depth) best = (int32_t)v->added[low++];
        if (depth == text.len) break;
        unsigned byte = (unsigned char)text.ptr[depth];
        low = first_from(v, low, high, depth, byte);
        high = first_from(v, low, high, depth, byte + 1);
    }
    return best;
}

size_t text_find_added(const struct vocab *v, struct ds4_span text, size_t from, int32_t *id)
{
    for (size_t at = from; at < text.len; at++) {
        unsigned char byte = (unsigned char)text.ptr[at];
        if (v->added_first[byte] == v->added_first[byte + 1]) continue;
        *id = added_at(v, span_skip(text, at));
        if (*id >= 0) return at;
    }
    *id = -1;
    return text.len;
}

static enum ds4_status encode_special(const struct vocab *v, struct ds4_span text, struct ds4_tokens *out,
                                      struct ds4_error *error)
{
    size_t from = 0;
    for (;;) {
        int32_t id;
        size_t at = text_find_added(v, text, from, &id);
        TRY(encode_plain(v, span_make(text.ptr + from, at - from), out, error));
        if (id < 0) return DS4_OK;
        if (ds4_tokens_append(out, &id, 1) != DS4_OK) return err_set(error, DS4_ERR_NOMEM, "no memory for tokens");
        from = at + vocab_bytes(v, (uint32_t)id).len;
    }
}

void text_put_repaired(struct buf *out, struct ds4_span text)
{
    size_t from = 0, taken;
    for (size_t at = 0; at < text.len; at += taken) {
        if (utf8_next(text.ptr + at, text.len - at, &taken) != UTF8_BAD) continue;
        buf_put(out, text.ptr + from, at - from);
        buf_put(out, "\xEF\xBF\xBD", 3);
        from = at + taken;
    }
    buf_put(out, text.ptr + from, text.len - from);
}

enum ds4_status text_encode(const struct vocab *v, struct ds4_span text, bool special, struct ds4_tokens *out,
                            struct ds4_error *error)
{
    struct buf repaired = {0};
    if (text.len == 0) return DS4_OK;
    if (!utf8_valid(text)) {
        text_put_repaired(&repaired, text);
        text = buf_span(&repaired);
    }
    enum ds4_status status = buf_status(&repaired, error);
    if (status == DS4_OK)
        status = special ? encode_special(v, text, out, error) : encode_plain(v, text, out, error);
    buf_deinit(&repaired);
    return status;
}

enum ds4_status text_decode(const struct vocab *v, const int32_t *ids, size_t n, struct ds4_text *out,
                            struct ds4_error *error)
{
    struct buf bytes = {.text = *out};
    for (size_t i = 0; i < n; i++) buf_put_span(&bytes, vocab_token(v, ids[i]));
    *out = bytes.text;
    return buf_status(&bytes, error);
}
