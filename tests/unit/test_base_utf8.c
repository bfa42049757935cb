/* test_base_utf8.c - UTF-8 decoding and encoding against the definition: the set of well-formed sequences is made by
 * encoding every scalar value arithmetically, and the longest prefix found in that set is what one must take. */
#include "lib/test.h"

#include <stdlib.h>

#include "base/utf8.h"

/* Bitmaps over the sequences of 1, 2 and 3 bytes, read as a big-endian number: is it a whole character, or the
 * beginning of a longer one? */
static unsigned char *whole[4], *begun[4];

static void set_bit(unsigned char *map, uint32_t i) { map[i >> 3] |= (unsigned char)(1u << (i & 7)); }
static bool has_bit(const unsigned char *map, uint32_t i) { return (map[i >> 3] >> (i & 7)) & 1; }

static void make_sets(void)
{
    if (whole[1]) return;
    for (int n = 1; n <= 3; n++) {
        whole[n] = calloc((size_t)1 << (8 * n - 3), 1);
        begun[n] = calloc((size_t)1 << (8 * n - 3), 1);
        assert_non_null(whole[n]);
        assert_non_null(begun[n]);
    }
    for (uint32_t scalar = 0; scalar <= 0x10FFFF; scalar++) {
        if (scalar >= 0xD800 && scalar <= 0xDFFF) continue;
        if (scalar < 128) {
            set_bit(whole[1], scalar);
        } else if (scalar < 2048) {
            set_bit(begun[1], 192 + scalar / 64);
            set_bit(whole[2], (192 + scalar / 64) * 256 + 128 + scalar % 64);
        } else if (scalar < 65536) {
            uint32_t a = 224 + scalar / 4096, b = 128 + scalar / 64 % 64, c = 128 + scalar % 64;
            set_bit(begun[1], a);
            set_bit(begun[2], a * 256 + b);
            set_bit(whole[3], (a * 256 + b) * 256 + c);
        } else {
            uint32_t a = 240 + scalar / 262144, b = 128 + scalar / 4096 % 64, c = 128 + scalar / 64 % 64;
            set_bit(begun[1], a);
            set_bit(begun[2], a * 256 + b);
            set_bit(begun[3], (a * 256 + b) * 256 + c);
        }
    }
}

/* What must be taken from p[0..n), and whether it is a whole character. */
static bool expected(const unsigned char *p, size_t n, size_t *taken)
{
    uint32_t code = 0;
    for (size_t k = 1; k <= n && k <= 3; k++) {
        code = code * 256 + p[k - 1];
        *taken = k;
        if (has_bit(whole[k], code)) return true;
        if (!has_bit(begun[k], code)) {
            *taken = k > 1 ? k - 1 : 1;
            return false;
        }
    }
    if (n >= 4 && p[3] / 64 == 2) {
        *taken = 4;
        return true;
    }
    return false;
}

static bool agrees(const unsigned char *p, size_t n)
{
    size_t taken = 99, wanted = 99;
    bool good = expected(p, n, &wanted);
    uint32_t scalar = utf8_next((const char *)p, n, &taken);
    if (taken != wanted || (scalar != UTF8_BAD) != good) {
        print_error("bytes %02x %02x %02x %02x, length %zu: took %zu instead of %zu\n", p[0], p[1], p[2], p[3], n,
                    taken, wanted);
        return false;
    }
    return true;
}

TEST(utf8_takes_exactly_the_maximal_subpart_of_every_three_bytes)
{
    make_sets();
    for (uint32_t code = 0; code < 1u << 24; code++) {
        unsigned char p[4] = {(unsigned char)(code >> 16), (unsigned char)(code >> 8), (unsigned char)code, 0x80};
        if (!agrees(p, 3)) fail();
        if ((code & 0xFF) == 0 && !agrees(p, 2)) fail();
        if ((code & 0xFFFF) == 0 && !agrees(p, 1)) fail();
    }
}

TEST(utf8_takes_exactly_the_maximal_subpart_of_four_bytes)
{
    static const unsigned char fourth[] = {0x00, 0x7F, 0x80, 0x81, 0xBE, 0xBF, 0xC0, 0xFF};
    make_sets();
    for (uint32_t code = 0xC00000; code < 1u << 24; code++) {
        unsigned char p[4] = {(unsigned char)(code >> 16), (unsigned char)(code >> 8), (unsigned char)code, 0};
        bool four = has_bit(begun[3], code);
        for (unsigned i = 0; i < (four ? 256 : sizeof fourth); i++) {
            p[3] = four ? (unsigned char)i : fourth[i];
            if (!agrees(p, 4)) fail();
        }
    }
}

TEST(utf8_decodes_what_it_encodes_for_every_scalar)
{
    make_sets();
    for (uint32_t scalar = 0; scalar <= 0x10FFFF; scalar++) {
        if (scalar >= 0xD800 && scalar <= 0xDFFF) continue;
        char out[4];
        size_t taken, n = utf8_put(scalar, out), wanted;
        assert_true(expected((const unsigned char *)out, n, &wanted));
        assert_int_equal(wanted, n);
        assert_int_equal(utf8_next(out, n, &taken), scalar);
        assert_int_equal(taken, n);
    }
}

/* Every string of four of these bytes meets every rule of the encoding. */
static const unsigned char telling[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF,
                                        0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF};
#define N_TELLING sizeof telling

TEST(utf8_holds_back_only_an_incomplete_character_at_the_end)
{
    make_sets();
    for (size_t i = 0; i < N_TELLING * N_TELLING * N_TELLING * N_TELLING; i++) {
        unsigned char s[4] = {telling[i % N_TELLING], telling[i / N_TELLING % N_TELLING],
                              telling[i / N_TELLING / N_TELLING % N_TELLING],
                              telling[i / N_TELLING / N_TELLING / N_TELLING]};
        size_t wanted = 4;
        uint32_t tail = 0;
        for (size_t back = 1; back <= 3; back++) {
            tail |= (uint32_t)s[4 - back] << (8 * (back - 1));
            if (has_bit(begun[back], tail)) wanted = 4 - back;
        }
        if (utf8_complete_len(span_make((const char *)s, 4)) != wanted)
            fail_msg("%02x %02x %02x %02x: not %zu", s[0], s[1], s[2], s[3], wanted);
    }
}

TEST(utf8_calls_text_valid_only_when_every_character_is_whole)
{
    make_sets();
    for (size_t i = 0; i < N_TELLING * N_TELLING * N_TELLING * N_TELLING; i++) {
        unsigned char s[4] = {telling[i % N_TELLING], telling[i / N_TELLING % N_TELLING],
                              telling[i / N_TELLING / N_TELLING % N_TELLING],
                              telling[i / N_TELLING / N_TELLING / N_TELLING]};
        bool wanted = true;
        for (size_t at = 0, taken; wanted && at < 4; at += taken) wanted = expected(s + at, 4 - at, &taken);
        if (utf8_valid(span_make((const char *)s, 4)) != wanted)
            fail_msg("%02x %02x %02x %02x: not %d", s[0], s[1], s[2], s[3], wanted);
    }
}

int main(void)
{
    return RUN_TESTS(T(utf8_takes_exactly_the_maximal_subpart_of_every_three_bytes),
                     T(utf8_takes_exactly_the_maximal_subpart_of_four_bytes),
                     T(utf8_decodes_what_it_encodes_for_every_scalar),
                     T(utf8_holds_back_only_an_incomplete_character_at_the_end),
                     T(utf8_calls_text_valid_only_when_every_character_is_whole));
}
