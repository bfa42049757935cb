/* test_text_pretok.c - the cutting of text into pieces against PCRE2 running the three published expressions, and the
 * generated table of classes against the list it was made from. PCRE2 knows Unicode 14 and the table Unicode 16, so the
 * comparison uses characters in the same class in both; white space is spelled out, because PCRE2's \s holds U+180E. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "lib/golden.h"
#include "lib/test.h"
#include "text/pretok.h"
#include "text/unicode_table.h"

/* Class of every code point, read from the list: 0 or enum unicode_class. */
static uint8_t *listed;

static void read_list(void)
{
    size_t len;
    char *text = golden_read("tests/golden/text/unicode_classes.txt", &len), *line = text;
    uint8_t class = UNICODE_OTHER;
    listed = mem_zalloc(0x110000, 1);
    assert_non_null(listed);
    for (; *line; line = strchr(line, '\n') + 1) {
        if (*line == '#') continue;
        if (*line == '@') {
            static const char names[] = "LMPS";
            class = (uint8_t)(line[1] == 'W'   ? UNICODE_SPACE
                              : line[1] == 'N' ? UNICODE_NUMBER
                                               : (unsigned)(strchr(names, line[1]) - names) + UNICODE_LETTER);
            continue;
        }
        char *end;
        unsigned long first = strtoul(line, &end, 16), last = *end == '-' ? strtoul(end + 1, NULL, 16) : first;
        assert_true(last < 0x110000);
        memset(listed + first, class, last - first + 1);
    }
    mem_free(text);
}

TEST(table_of_classes_equals_its_list_for_every_code_point)
{
    size_t count[7] = {0};
    for (uint32_t scalar = 0; scalar < 0x110000; scalar++) {
        bool cjk = (scalar >= 0x3040 && scalar <= 0x30FF) || (scalar >= 0x4E00 && scalar <= 0x9FA5);
        if (unicode_class(scalar) != (listed[scalar] | (cjk ? UNICODE_CJK_RUN : 0))) fail_msg("U+%04X", scalar);
        count[listed[scalar]]++;
    }
    assert_int_equal(unicode_class(0x110000), UNICODE_OTHER);
    assert_int_equal(unicode_class(UINT32_MAX), UNICODE_OTHER);
    assert_int_equal(count[UNICODE_SPACE], 25); /* the 25 named in unicode_table.h */
    for (int class = 0; class < 7; class++) assert_true(count[class] > 20);
}

/* ---- the oracle -------------------------------------------------------------------------------------------------- */

#define SPACES "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
static const char *const stages[] = {
    "\\p{N}{1,3}",
    "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|[" SPACES "]*[\\r\\n]+|[" SPACES "]+(?![^" SPACES "])|[" SPACES "]+",
};
static const char class_pattern[] = "(\\p{L})|(\\p{M})|(\\p{P})|(\\p{S})|([" SPACES "])|(\\p{N})|.";
static pcre2_code *codes[3], *class_code;
static pcre2_match_data *match_data;

static pcre2_code *compile(const char *pattern)
{
    int number;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_DOTALL, &number,
                                     &offset, NULL);
    if (!code) fail_msg("PCRE2 refuses the pattern at %zu", (size_t)offset);
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    return code;
}

static bool same_class_in_pcre2(uint32_t scalar)
{
    char bytes[4];
    size_t len = utf8_put(scalar, bytes);
    int n = pcre2_match(class_code, (PCRE2_SPTR)bytes, len, 0, PCRE2_NO_UTF_CHECK, match_data, NULL);
    assert_true(n >= 1);
    return listed[scalar] == n - 1;
}

/* Ends of the pieces of text as bits: stage by stage, each splitting what the one before left. */
static void oracle(struct ds4_span text, uint8_t *is_end)
{
    memset(is_end, 0, text.len + 1);
    is_end[text.len] = 1;
    for (int stage = 0; stage < 3; stage++) {
        uint8_t before[4096];
        memcpy(before, is_end, text.len + 1);
        for (size_t start = 0, end; start < text.len; start = end) {
            end = start + 1;
            while (!before[end]) end++;
            PCRE2_SIZE *at = pcre2_get_ovector_pointer(match_data);
            for (size_t from = 0; from < end - start;) {
                int n = pcre2_match(codes[stage], (PCRE2_SPTR)text.ptr + start, end - start, from, PCRE2_NO_UTF_CHECK,
                                    match_data, NULL);
                if (n < 1) break;
                is_end[start + at[0]] = is_end[start + at[1]] = 1;
                from = at[1];
            }
        }
    }
    is_end[0] = 0;
}

static void assert_cuts(struct ds4_span text, size_t round)
{
    uint8_t wanted[4096], got[4096] = {0};
    assert_true(text.len < sizeof wanted);
    oracle(text, wanted);
    struct pretok cut = {text, 0};
    struct ds4_span piece;
    size_t at = 0;
    while (pretok_next(&cut, &piece)) {
        assert_ptr_equal(piece.ptr, text.ptr + at);
        at += piece.len;
        got[at] = 1;
    }
    assert_int_equal(at, text.len);
    wanted[0] = got[0] = 0;
    if (memcmp(wanted, got, text.len + 1) == 0) return;
    struct buf shown = {0};
    for (size_t i = 0; i < text.len; i++) {
        if (wanted[i] != got[i]) buf_put_text(&shown, wanted[i] ? "[missing cut]" : "[wrong cut]");
        buf_printf(&shown, "%02x ", (unsigned char)text.ptr[i]);
    }
    fail_msg("round %zu: %.*s", round, (int)shown.text.len, shown.text.ptr);
}

/* A character that both Unicode versions agree on, of a kind that the rules tell apart. */
static uint32_t random_scalar(struct rng *rng)
{
    static const uint32_t kinds[][2] = {
        {'a', 26},       {'A', 26},      {'0', 10},       {' ', 1},       {'\n', 1},       {'\r', 1},      {'\t', 5},
        {'!', 15},       {':', 7},       {'[', 6},        {'{', 4},       {0, 32},         {0x7F, 0x30},   {0xA0, 0x60},
        {0x300, 0x70},   {0x370, 0x200}, {0x5D0, 0x100},  {0x900, 0x100}, {0x2000, 0x70},  {0x2150, 0x40}, {0x2190,
            0x300},
        {0x3000, 0x40},  {0x3040, 0x60}, {0x30A0, 0x60},  {0x3040, 0xC0}, {0x4E00, 0x5200}, {0x9F90, 0x40}, {0xAC00,
            0x2BA4},
        {0xE000, 0x100}, {0xFE00, 0x200}, {0xFF00, 0xF0}, {0x1F300, 0x700}, {0x20000, 0x1000}, {0, 0x110000},
    };
    for (;;) {
        size_t k = rng_below(rng, sizeof kinds / sizeof kinds[0]);
        uint32_t scalar = kinds[k][0] + (uint32_t)rng_below(rng, kinds[k][1]);
        if ((scalar < 0xD800 || scalar > 0xDFFF) && same_class_in_pcre2(scalar)) return scalar;
    }
}

static void random_text(struct rng *rng, struct buf *out)
{
    uint32_t few[6]; /* few different characters meet each other often */
    size_t n_few = 2 + rng_below(rng, 5), n = rng_below(rng, 24);
    buf_clear(out);
    for (size_t i = 0; i < n_few; i++) few[i] = random_scalar(rng);
    for (size_t i = 0; i < n; i++) {
        char bytes[4];
        uint32_t scalar = rng_below(rng, 3) ? few[rng_below(rng, n_few)] : random_scalar(rng);
        buf_put(out, bytes, utf8_put(scalar, bytes));
    }
}

TEST(pieces_are_those_of_the_published_expressions)
{
    struct rng rng = {test_seed()};
    struct buf text = {0};
    for (size_t round = 0; round < 60000; round++) {
        random_text(&rng, &text);
        assert_cuts(buf_span(&text), round);
    }
    buf_deinit(&text);
}

/* Every text of up to five characters over one of each kind. */
TEST(pieces_of_all_short_texts_are_those_of_the_published_expressions)
{
    static const char *const kinds[] = {"a", "1", " ", "\n", "\t", ".", "\xCC\x81", "\x01", "\xE4\xBD\xA0",
        "\xE3\x83\xBB"};
    size_t n_kinds = sizeof kinds / sizeof kinds[0], n_texts = 1;
    for (int len = 1; len <= 5; len++) {
        n_texts *= n_kinds;
        for (size_t number = 0; number < n_texts; number++) {
            struct buf text = {0};
            size_t rest = number;
            for (int i = 0; i < len; i++, rest /= n_kinds) buf_put_text(&text, kinds[rest % n_kinds]);
            assert_cuts(buf_span(&text), number);
            buf_deinit(&text);
        }
    }
}

TEST(ill_formed_bytes_are_cut_without_losing_any)
{
    struct rng rng = {test_seed()};
    for (int round = 0; round < 20000; round++) {
        char bytes[32];
        size_t len = rng_below(&rng, sizeof bytes), sum = 0;
        for (size_t i = 0; i < len; i++) bytes[i] = (char)rng_next(&rng);
        char *exact = mem_alloc(len, 1); /* so that a sanitizer sees a read behind it */
        assert_non_null(exact);
        memcpy(exact, bytes, len);
        struct pretok cut = {span_make(exact, len), 0};
        for (struct ds4_span piece; pretok_next(&cut, &piece); sum += piece.len) assert_true(piece.len > 0);
        assert_int_equal(sum, len);
        mem_free(exact);
    }
}

int main(void)
{
    read_list();
    for (int i = 0; i < 3; i++) codes[i] = compile(stages[i]);
    class_code = compile(class_pattern);
    match_data = pcre2_match_data_create(16, NULL);
    if (!match_data) return 1;
    int result = RUN_TESTS(T(table_of_classes_equals_its_list_for_every_code_point),
                           T(pieces_are_those_of_the_published_expressions),
                           T(pieces_of_all_short_texts_are_those_of_the_published_expressions),
                           T(ill_formed_bytes_are_cut_without_losing_any));
    for (int i = 0; i < 3; i++) pcre2_code_free(codes[i]);
    pcre2_code_free(class_code);
    pcre2_match_data_free(match_data);
    mem_free(listed);
    return result;
}
