/* fuzz_tokenizer.c - any bytes as text: decoding gives the repaired text back in both modes, and plain text never
 * becomes control. With an odd first byte the rest is a vocabulary instead (lines: type digit and token, an empty line,
 * merges, an empty line, text): whatever is accepted must keep the same promises. */
#include <stdint.h>

#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const struct vocab *v, struct ds4_span text, bool special)
{
    struct ds4_tokens ids = {0};
    struct ds4_text back = {0};
    struct buf repaired = {0};
    struct ds4_error error = {0};
    enum ds4_status status = text_encode(v, text, special, &ids, &error);
    if (status != DS4_OK) {
        fuzz_check(status == DS4_ERR_UNSUPPORTED && error.message[0]); /* a byte without a token */
    } else {
        fuzz_check(text_decode(v, ids.ids, ids.n, &back, NULL) == DS4_OK);
        text_put_repaired(&repaired, text);
        fuzz_check(span_eq(buf_span(&repaired), span_make(back.ptr, back.len)));
        for (size_t i = 0; i < ids.n && !special; i++) fuzz_check(!vocab_is_control(v, ids.ids[i]));
    }
    ds4_tokens_free(&ids);
    ds4_text_free(&back);
    buf_deinit(&repaired);
}

static struct ds4_span next_line(struct ds4_span *rest)
{
    size_t end = span_find(*rest, SPAN("\n"), 0);
    if (end == SIZE_MAX) end = rest->len;
    struct ds4_span line = span_make(rest->ptr, end);
    *rest = span_skip(*rest, end < rest->len ? end + 1 : end);
    return line;
}

static void check_vocabulary(struct ds4_span data)
{
    static struct ds4_span tokens[256], merges[256];
    int32_t types[256];
    struct vocab_source source = {tokens, 0, types, merges, 0, -1, -1, -1};
    for (struct ds4_span line; source.n_tokens < 256 && (line = next_line(&data)).len > 0;) {
        types[source.n_tokens] = line.ptr[0] - '0';
        tokens[source.n_tokens++] = span_skip(line, 1);
    }
    for (struct ds4_span line; source.n_merges < 256 && (line = next_line(&data)).len > 0;)
        merges[source.n_merges++] = line;
    struct vocab *v = NULL;
    struct ds4_error error = {0};
    if (vocab_create(&source, &v, &error) != DS4_OK) {
        fuzz_check(error.message[0]);
        return;
    }
    check_text(v, data, false);
    check_text(v, data, true);
    vocab_destroy(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    struct ds4_span text = span_make((const char *)data + 1, size - 1);
    if (data[0] & 1) {
        check_vocabulary(text);
    } else {
        check_text(fuzz_vocab(), text, false);
        check_text(fuzz_vocab(), text, true);
    }
    return 0;
}
