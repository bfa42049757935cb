/* vocab.h - the vocabulary: token ids <-> bytes, the merges, and the control tokens.
 *
 * Built once from untrusted arrays of a model file, immutable afterwards (any thread may use it). Tokens come in two
 * kinds: *base* tokens are byte strings that merging makes; *added* tokens are literal strings that only the splitter
 * of special mode recognises and that plain text never becomes. Nothing assumes the size or order of one model's
 * vocabulary, so a test model may have 512 tokens. */
#ifndef DS4_TEXT_VOCAB_H
#define DS4_TEXT_VOCAB_H

#include "base/err.h"
#include "base/span.h"
#include "gguf/gguf.h"

#define VOCAB_TOKENS_MAX (1u << 20)  /* an id takes 20 bits in the table of merges */
#define VOCAB_MERGES_MAX ((1u << 24) - 1) /* a rank takes 24 bits there */
#define VOCAB_TOKEN_BYTES_MAX 1024u  /* the longest of V4 has 128; a bound keeps adversarial vocabularies linear */

/* The token types of GGUF files. */
enum vocab_type { VOCAB_NORMAL = 1, VOCAB_UNKNOWN, VOCAB_CONTROL, VOCAB_USER_DEFINED, VOCAB_UNUSED, VOCAB_BYTE };

/* What a vocabulary is made of, in the form of a GGUF file: base tokens in the printable byte alphabet of GPT-2, added
 * tokens literally, merges as "left right" in order of rank. */
struct vocab_source {
    const struct ds4_span *tokens;
    size_t n_tokens;
    const int32_t *types;          /* [n_tokens], or NULL: whatever no merge makes and is no single byte is added */
    const struct ds4_span *merges;
    size_t n_merges;
    int64_t bos_id, eos_id, pad_id; /* what metadata says, -1 = nothing; used where the literal tokens are missing */
};

struct vocab;

/* Copies what it needs. FORMAT errors name the token or merge by number. */
enum ds4_status vocab_create(const struct vocab_source *source, struct vocab **out,
                             struct ds4_error *error) DS4_MUST_CHECK;
/* From the tokenizer.ggml.* values of a file, checked against its vocab_size and the rows of its embedding. */
enum ds4_status vocab_create_gguf(const struct gguf_file *file, struct vocab **out,
                                  struct ds4_error *error) DS4_MUST_CHECK;
void vocab_destroy(struct vocab *vocab);

uint32_t vocab_n_tokens(const struct vocab *vocab);
uint32_t vocab_n_merges(const struct vocab *vocab);
/* Bytes of a token: what a base token stands for, the literal text of an added one (borrows). Empty when out of range.
 * */
struct ds4_span vocab_token(const struct vocab *vocab, int32_t id);
/* True for added tokens: the ones that plain text never becomes. */
bool vocab_is_control(const struct vocab *vocab, int32_t id);
enum vocab_type vocab_token_type(const struct vocab *vocab, int32_t id); /* VOCAB_UNUSED when out of range */
const struct ds4_special_ids *vocab_special(const struct vocab *vocab);
/* Id of the base token with these bytes, or of the added token with this literal text; -1 when there is none. */
int32_t vocab_find_base(const struct vocab *vocab, struct ds4_span bytes);
int32_t vocab_find_added(const struct vocab *vocab, struct ds4_span literal);
/* Identity of tokens, types and merges, for stores of state. */
void vocab_digest(const struct vocab *vocab, uint8_t digest[16]);

#endif
