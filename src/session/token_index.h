/* token_index.h - the tokens of a vocabulary in the order of their bytes, so that tokens with a common beginning are
 * neighbours and the automaton reads it once; and what of that order never depends on the grammar.
 *
 * Nearly all tokens are plain text in the middle of a string. Which they are is the same for every string, so four
 * sets of plain tokens are kept as masks, and the order of the rest beside each. Control tokens are in no list. */
#ifndef DS4_SESSION_TOKEN_INDEX_H
#define DS4_SESSION_TOKEN_INDEX_H

#include "base/err.h"
#include "base/span.h"

#define INDEX_TOKEN_BYTES_MAX 255u /* longer ones are never offered; the longest of V4 has 128 */

struct index_token {
    const char *ptr;   /* borrows from the engine */
    int32_t id;
    uint8_t len;
    uint8_t same;      /* bytes that it shares with the one before */
};
struct token_list {
    struct index_token *tokens;
    uint32_t n;
    uint32_t first[257]; /* tokens[first[b]..first[b + 1]) begin with byte b */
};

/* Plain in a JSON string (no quote, backslash, control byte), in one inside a call (nor "<"), in the raw text of a call
 * (no "<", no "&"), in the name of a parameter (none of all these, nor ">"): whole characters only. */
enum plain { PLAIN_JSON, PLAIN_JSON_IN_CALL, PLAIN_RAW, PLAIN_NAME, N_PLAIN };

struct ds4_token_index {
    uint32_t n_vocab, n_words;    /* n_words of 32 bits make a mask */
    uint32_t token_bytes_max;
    const struct ds4_engine *engine;
    struct token_list all;
    struct token_list rest[N_PLAIN];   /* all but the plain ones */
    uint32_t *plain[N_PLAIN];          /* masks */
    uint8_t *chars;                    /* [n_vocab] characters of a plain token */
    int32_t eos, dsml, think, think_end;
    struct ds4_span dsml_text;
};

static inline bool mask_has(const uint32_t *mask, int32_t id) { return mask[id / 32] >> (id % 32) & 1u; }
static inline void mask_set(uint32_t *mask, int32_t id) { mask[id / 32] |= 1u << (id % 32); }

/* Bytes of a token that plain text may become; empty for a control token. */
struct ds4_span index_bytes(const struct ds4_token_index *index, int32_t id);
/* The longest token that text begins with; -1 when text is empty. *len = its bytes. */
int32_t index_longest(const struct ds4_token_index *index, struct ds4_span text, size_t *len);

#endif
