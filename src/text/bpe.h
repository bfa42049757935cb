/* bpe.h - merges one piece of text. */
#ifndef DS4_TEXT_BPE_H
#define DS4_TEXT_BPE_H

#include "text/vocab.h"

/* Appends the ids of a piece (not empty, any bytes). O(n log n) in its length. */
enum ds4_status bpe_piece(const struct vocab *vocab, struct ds4_span piece, struct ds4_tokens *out,
                          struct ds4_error *error) DS4_MUST_CHECK;

#endif
