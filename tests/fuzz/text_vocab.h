/* text_vocab.h - a vocabulary of a few hundred tokens for the fuzzers of text: the 256 bytes, merges that build common
 * words, and every marker of the chat format with some neighbours that share beginnings. */
#ifndef DS4_FUZZ_TEXT_VOCAB_H
#define DS4_FUZZ_TEXT_VOCAB_H

#include <stdlib.h>

#include "text/byte_alphabet.h"
#include "text/encode.h"
#include "text/markers.h"

#define FUZZ_TOKENS_MAX 1200

static void fuzz_check(bool promise)
{
    if (!promise) abort();
}

static const char *const fuzz_markers[] = {
    MARK_BOS, MARK_EOS, MARK_PAD, MARK_USER, MARK_ASSISTANT, MARK_LATEST_REMINDER, MARK_THINK, MARK_THINK_END,
        MARK_DSML,
    "<" MARK_BAR "action" MARK_BAR ">", "<" MARK_BAR "title" MARK_BAR ">", "<" MARK_BAR "query" MARK_BAR ">",
    "<" MARK_BAR "authority" MARK_BAR ">", "<" MARK_BAR "domain" MARK_BAR ">", "<" MARK_BAR "read_url" MARK_BAR ">",
    "<" MARK_BAR "extracted_url" MARK_BAR ">", "<dsml:", "</dsml:", "<|EOT|>", "<" MARK_BAR "tool" MARK_LOW "sep"
        MARK_BAR ">"};
enum { FUZZ_N_MARKERS = sizeof fuzz_markers / sizeof fuzz_markers[0] };

struct fuzz_draft {
    struct ds4_span tokens[FUZZ_TOKENS_MAX], merges[FUZZ_TOKENS_MAX];
    int32_t types[FUZZ_TOKENS_MAX];
    char pool[FUZZ_TOKENS_MAX * 64];
    size_t n_tokens, n_merges, used;
};

static struct ds4_span fuzz_keep(struct fuzz_draft *d, const char *bytes, size_t len)
{
    fuzz_check(d->used + len < sizeof d->pool);
    char *start = memcpy(d->pool + d->used, bytes, len);
    d->used += len;
    return span_make(start, len);
}

/* Adds the prefixes of a word, each made of the one before and a letter; in the byte alphabet, so a space is written
 * as U+0120. */
static void fuzz_word(struct fuzz_draft *d, const char *word, size_t first_len)
{
    for (size_t len = first_len + 1; word[len - 1]; len++) {
        struct ds4_span made = fuzz_keep(d, word, len);
        bool known = false;
        for (size_t i = 0; i < d->n_tokens; i++) known = known || span_eq(d->tokens[i], made);
        if (known) continue;
        size_t left = len == first_len + 1 ? first_len : len - 1;
        struct ds4_span merge = fuzz_keep(d, word, left);
        (void)fuzz_keep(d, " ", 1);
        (void)fuzz_keep(d, word + left, len - left);
        merge.len = len + 1;
        d->types[d->n_tokens] = VOCAB_NORMAL;
        d->tokens[d->n_tokens++] = made;
        d->merges[d->n_merges++] = merge;
    }
}

/* Built on first use; lives as long as the process. */
static const struct vocab *fuzz_vocab(void)
{
    static struct vocab *v;
    static struct fuzz_draft d;
    static const char *const words[] = {"the", "tool", "tool_calls", "invoke", "parameter", "name", "string", "true",
        "false",
                                        "think", "User", "DSML", "</", "\">", "=\"", "10", "aa", "aaaa"};
    if (v) return v;
    uint16_t spelled[256];
    int16_t spells[BYTE_ALPHABET_SIZE];
    byte_alphabet_fill(spelled, spells);
    for (int b = 0; b < 256; b++) {
        char text[4];
        d.types[d.n_tokens] = VOCAB_NORMAL;
        d.tokens[d.n_tokens++] = fuzz_keep(&d, text, utf8_put(spelled[b], text));
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) fuzz_word(&d, words[i], 1);
    fuzz_word(&d, "\xC4\xA0the", 2);
    for (size_t i = 0; i < FUZZ_N_MARKERS; i++) {
        d.types[d.n_tokens] = i < 6 ? VOCAB_CONTROL : VOCAB_USER_DEFINED;
        d.tokens[d.n_tokens++] = span_from(fuzz_markers[i]);
    }
    struct vocab_source source = {d.tokens, d.n_tokens, d.types, d.merges, d.n_merges, -1, -1, -1};
    fuzz_check(vocab_create(&source, &v, NULL) == DS4_OK);
    return v;
}

#endif
