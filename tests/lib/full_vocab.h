/* full_vocab.h - the published vocabulary of 129,280 tokens, for tests. */
#ifndef DS4_TESTS_FULL_VOCAB_H
#define DS4_TESTS_FULL_VOCAB_H

#include "text/compact.h"

/* Fills *c from tests/golden/text; aborts the test program when the files are not there. compact_deinit releases. */
void full_compact(struct compact *c);
/* The vocabulary itself; one for the whole program, never destroyed by the caller. */
const struct vocab *full_vocab(void);
void full_vocab_release(void);
/* Hex digits to bytes. */
struct ds4_text from_hex(const char *hex);
/* SHA-256 of bytes as 64 hex digits and a NUL: the vectors are pinned by it. */
void sha256_hex(const void *bytes, size_t n, char out[65]);

#endif
