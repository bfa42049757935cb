/* full_vocab.c - reads the golden vocabulary. See full_vocab.h. */
#include "lib/full_vocab.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "lib/golden.h"

static _Noreturn void give_up(const char *what)
{
    (void)fprintf(stderr, "full_vocab: %s\n", what);
    abort();
}

void full_compact(struct compact *c)
{
    struct ds4_error error = {0};
    struct ds4_span merges, added;
    char *merges_bytes = golden_read("tests/golden/text/ds4_merges.bin.xz", &merges.len);
    char *added_bytes = golden_read("tests/golden/text/added_tokens.tsv", &added.len);
    merges.ptr = merges_bytes;
    added.ptr = added_bytes;
    if (compact_init(c, merges, added, &error) != DS4_OK) give_up(error.message);
    mem_free(merges_bytes);
    mem_free(added_bytes);
}

static struct vocab *the_vocab;

const struct vocab *full_vocab(void)
{
    if (the_vocab) return the_vocab;
    struct compact c;
    struct ds4_error error = {0};
    full_compact(&c);
    struct vocab_source source = compact_source(&c);
    if (vocab_create(&source, &the_vocab, &error) != DS4_OK) give_up(error.message);
    compact_deinit(&c);
    return the_vocab;
}

void full_vocab_release(void)
{
    vocab_destroy(the_vocab);
    the_vocab = NULL;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

struct ds4_text from_hex(const char *hex)
{
    struct buf b = {0};
    for (; nibble(hex[0]) >= 0 && nibble(hex[1]) >= 0; hex += 2)
        buf_put_byte(&b, (unsigned char)(nibble(hex[0]) * 16 + nibble(hex[1])));
    if (*hex || b.failed) give_up("bad hex digits");
    return b.text;
}

void sha256_hex(const void *bytes, size_t n, char out[65])
{
    uint8_t digest[SHA256_BYTES];
    sha256_bytes(bytes, n, digest);
    for (size_t i = 0; i < SHA256_BYTES; i++) (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
}
