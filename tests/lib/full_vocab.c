/* full_vocab.c - reads the golden vocabulary. See full_vocab.h. */
#include "lib/full_vocab.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/mem.h"
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

/* SHA-256 as in FIPS 180-4, section 6.2; the constants are computed from their definition (fractional parts of cube and
 * square roots of primes) by integer search, so no table can be mistyped. */
static uint32_t root_fraction(uint32_t prime, int power)
{
    /* Largest r with r^power <= prime * 2^(32 power), as 128-bit integers; its low 32 bits are the fraction. */
    uint64_t low = 0, high = (uint64_t)1 << 37;
    while (high - low > 1) {
        uint64_t r = low + (high - low) / 2;
        unsigned __int128 square = (unsigned __int128)r * r;
        bool fits;
        if (power == 2) {
            fits = square <= (unsigned __int128)prime << 64;
        } else {
            /* r^3 <= p 2^96 exactly if floor(r^2 / 2^48) r <= p 2^48 up to rounding; split r^2 to stay exact. */
            unsigned __int128 top = (square >> 64) * r, bottom = (square & UINT64_MAX) * r;
            top += bottom >> 64;
            unsigned __int128 limit = (unsigned __int128)prime << 32; /* p 2^96 / 2^64 */
            fits = top < limit || (top == limit && (uint64_t)bottom == 0);
        }
        if (fits)
            low = r;
        else
            high = r;
    }
    return (uint32_t)low;
}

static uint32_t turn(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256_block(uint32_t h[8], const uint32_t k[64], const unsigned char *p)
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t b = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t t1 = s[7] + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
        uint32_t t2 = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
}

void sha256_hex(const void *bytes, size_t n, char out[65])
{
    uint32_t h[8], k[64];
    int found = 0;
    for (uint32_t p = 2; found < 64; p++) {
        bool prime = true;
        for (uint32_t d = 2; d * d <= p; d++) prime = prime && p % d != 0;
        if (!prime) continue;
        if (found < 8) h[found] = root_fraction(p, 2);
        k[found++] = root_fraction(p, 3);
    }
    const unsigned char *p = bytes;
    size_t whole = n / 64 * 64, rest = n - whole;
    for (size_t i = 0; i < whole; i += 64) sha256_block(h, k, p + i);
    unsigned char tail[128] = {0};
    if (rest) memcpy(tail, p + whole, rest);
    tail[rest] = 0x80;
    size_t tail_len = rest < 56 ? 64 : 128;
    for (int i = 0; i < 8; i++) tail[tail_len - 1 - (size_t)i] = (unsigned char)((uint64_t)n * 8 >> 8 * i);
    for (size_t i = 0; i < tail_len; i += 64) sha256_block(h, k, tail + i);
    for (int i = 0; i < 8; i++) (void)snprintf(out + 8 * i, 9, "%08x", h[i]);
}
