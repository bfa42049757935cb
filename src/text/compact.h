/* compact.h - the published vocabulary in half a megabyte, for tests, fixtures and builds without a model.
 *
 * Two inputs, both in memory: the list of merges in the layout below, and a table of the added tokens, one line each,
 * `id TAB type TAB literal` in ascending order of id. From the merges alone the base vocabulary follows: every base
 * token is one of the 256 bytes or the result of just one merge, and merge i makes token 259 + i.
 *
 *   OFFSET    SIZE  DESCRIPTION (little-endian)
 *   0         4     "DS4V"
 *   4         4     version, 1
 *   8         4     number of merges m
 *   12        4     base vocabulary, m + 259 (ids 0, 1, 2 are added tokens)
 *   16        4     full vocabulary
 *   20 + 6 i  6     merge i: left id, right id; each the low 16 bits, then the high 8 bits
 *
 * Ids 3..258 are the single bytes in the order of the byte alphabet: those that stand for themselves first. */
#ifndef DS4_TEXT_COMPACT_H
#define DS4_TEXT_COMPACT_H

#include "text/vocab.h"

/* Owns the strings. tokens, types and merges are as a GGUF file has them, ready for gguf_put_array_*. */
struct compact {
    struct ds4_span *tokens; /* [n_tokens] in the printable byte alphabet; added tokens literally */
    int32_t *types;          /* [n_tokens] enum vocab_type */
    struct ds4_span *merges; /* [n_merges] "left right" */
    size_t n_tokens, n_merges;
    char *pool;
};

/* Fills *c from the two inputs (borrowed for the call only). compact_deinit releases, also after an error. */
enum ds4_status compact_init(struct compact *c, struct ds4_span merges, struct ds4_span added_table,
                             struct ds4_error *error) DS4_MUST_CHECK;
void compact_deinit(struct compact *c);
/* The arrays as the source of a vocabulary (borrows). */
struct vocab_source compact_source(const struct compact *c);

#endif
