/* test_text_vocab.c - vocabularies of any size and of any malice: small ones, random ones, every refusal with its
 * message, and the values of a GGUF file that contradict each other. */
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"
#include "lib/alloc_fail.h"
#include "lib/full_vocab.h"
#include "lib/gguf_build.h"
#include "lib/golden.h"
#include "lib/test.h"
#include "text/byte_alphabet.h"
#include "text/encode.h"

#define MAX 600

/* A vocabulary under construction; the strings live in `pool`. */
struct draft {
    struct ds4_span tokens[MAX], merges[MAX];
    int32_t types[MAX];
    size_t n_tokens, n_merges;
    char pool[64 * MAX];
    size_t used;
};

static struct ds4_span keep(struct draft *d, struct ds4_span a, const char *between, struct ds4_span b)
{
    char *start = d->pool + d->used;
    struct ds4_span parts[] = {a, span_from(between), b};
    for (int i = 0; i < 3; i++) {
        assert_true(d->used + parts[i].len < sizeof d->pool);
        if (parts[i].len) memcpy(d->pool + d->used, parts[i].ptr, parts[i].len);
        d->used += parts[i].len;
    }
    return span_make(start, (size_t)(d->pool + d->used - start));
}

static void add_token(struct draft *d, struct ds4_span text, int32_t type)
{
    assert_true(d->n_tokens < MAX);
    d->types[d->n_tokens] = type;
    d->tokens[d->n_tokens++] = keep(d, text, "", SPAN(""));
}

static void add_merge(struct draft *d, struct ds4_span left, struct ds4_span right)
{
    assert_true(d->n_merges < MAX);
    add_token(d, keep(d, left, "", right), VOCAB_NORMAL);
    d->merges[d->n_merges++] = keep(d, left, " ", right);
}

/* Three controls and the 256 bytes: ids 3..258 in order of the byte. */
static struct draft *draft_bytes(void)
{
    struct draft *d = mem_zalloc(1, sizeof *d);
    uint16_t spelled[256];
    int16_t spells[BYTE_ALPHABET_SIZE];
    assert_non_null(d);
    byte_alphabet_fill(spelled, spells);
    add_token(d, SPAN("<bos>"), VOCAB_CONTROL);
    add_token(d, SPAN("<eos>"), VOCAB_CONTROL);
    add_token(d, SPAN("<|x|>"), VOCAB_USER_DEFINED);
    for (int b = 0; b < 256; b++) {
        char text[4];
        add_token(d, span_make(text, utf8_put(spelled[b], text)), VOCAB_NORMAL);
    }
    return d;
}

static struct vocab_source source_of(const struct draft *d)
{
    return (struct vocab_source){d->tokens, d->n_tokens, d->types, d->merges, d->n_merges, 0, 1, -1};
}

static struct vocab *built(const struct draft *d)
{
    struct vocab *v;
    struct ds4_error error = {0};
    struct vocab_source source = source_of(d);
    assert_ok(vocab_create(&source, &v, &error), error);
    return v;
}

static void assert_refused(struct draft *d, enum ds4_status status, const char *message)
{
    struct vocab *v = NULL;
    struct ds4_error error = {0};
    struct vocab_source source = source_of(d);
    assert_int_equal(vocab_create(&source, &v, &error), status);
    assert_string_equal(error.message, message);
    mem_free(d);
}

static void assert_encodes(const struct vocab *v, const char *text, bool special, const int32_t *want, size_t n)
{
    struct ds4_tokens ids = {0};
    struct ds4_error error = {0};
    assert_ok(text_encode(v, span_from(text), special, &ids, &error), error);
    assert_int_equal(ids.n, n);
    assert_memory_equal(ids.ids, want, n * sizeof *want);
    ds4_tokens_free(&ids);
}

TEST(a_small_vocabulary_encodes_by_its_own_merges)
{
    struct draft *d = draft_bytes();
    add_merge(d, SPAN("b"), SPAN("c"));   /* 259 */
    add_merge(d, SPAN("a"), SPAN("b"));   /* 260 */
    add_merge(d, SPAN("a"), SPAN("bc"));  /* 261 */
    add_merge(d, SPAN("a"), SPAN("a"));   /* 262 */
    struct vocab *v = built(d);
    assert_encodes(v, "abc", false, (int32_t[]){261}, 1);
    assert_encodes(v, "ab", false, (int32_t[]){260}, 1);
    assert_encodes(v, "aab", false, (int32_t[]){3 + 'a', 260}, 2);
    assert_encodes(v, "aaa", false, (int32_t[]){262, 3 + 'a'}, 2); /* equal ranks from left to right */
    assert_encodes(v, "<bos>", true, (int32_t[]){0}, 1);
    assert_encodes(v, "a<|x|><|x|", true, (int32_t[]){3 + 'a', 2, 3 + '<', 3 + '|', 3 + 'x', 3 + '|'}, 6);
    assert_int_equal(vocab_special(v)->bos, 0); /* from metadata: the literal is another here */
    assert_int_equal(vocab_special(v)->eos, 1);
    assert_int_equal(vocab_special(v)->dsml, -1);
    assert_int_equal(vocab_special(v)->pad, -1);
    vocab_destroy(v);
    mem_free(d);
}

/* A token that its own bytes do not merge into: merging must win over looking it up. */
TEST(a_token_that_merging_does_not_reach_is_not_taken_whole)
{
    struct draft *d = draft_bytes();
    add_merge(d, SPAN("b"), SPAN("c")); /* rank 0 */
    add_merge(d, SPAN("a"), SPAN("b")); /* rank 1, never applies before c */
    add_token(d, SPAN("abc"), VOCAB_NORMAL);
    d->merges[d->n_merges++] = SPAN("ab c"); /* needs ab, but bc comes first */
    struct vocab *v = built(d);
    for (int again = 0; again < 3; again++) assert_encodes(v, "abc", false, (int32_t[]){3 + 'a', 259}, 2);
    vocab_destroy(v);
    mem_free(d);
}

TEST(the_longest_added_token_wins_at_each_place)
{
    struct draft *d = draft_bytes();
    add_token(d, SPAN("<a"), VOCAB_USER_DEFINED);    /* 259 */
    add_token(d, SPAN("<ab>"), VOCAB_CONTROL);       /* 260 */
    add_token(d, SPAN("<ab"), VOCAB_UNKNOWN);        /* 261 */
    add_token(d, SPAN("<zz>"), VOCAB_UNUSED);        /* never matched */
    struct vocab *v = built(d);
    assert_encodes(v, "<ab><abc<ac<zz>", true,
                   (int32_t[]){260, 261, 3 + 'c', 259, 3 + 'c', 3 + '<', 3 + 'z', 3 + 'z', 3 + '>'}, 9);
    assert_false(vocab_is_control(v, 262));
    vocab_destroy(v);
    mem_free(d);
}

TEST(without_types_angle_brackets_that_no_merge_makes_are_control)
{
    struct draft *d = draft_bytes();
    add_merge(d, SPAN("<"), SPAN(">"));    /* 259 */
    add_merge(d, SPAN("<"), SPAN("b>"));   /* refers to a later token: still a token */
    add_merge(d, SPAN("b"), SPAN(">"));
    add_token(d, SPAN("\xEF\xBD\x9C"), 0); /* not in the byte alphabet */
    struct vocab *v;
    struct vocab_source source = source_of(d);
    source.types = NULL;
    assert_int_equal(vocab_create(&source, &v, NULL), DS4_OK);
    assert_true(vocab_is_control(v, 0));
    assert_false(vocab_is_control(v, 260)); /* "<b>" is made */
    assert_true(vocab_is_control(v, 262));
    vocab_destroy(v);
    mem_free(d);
}

/* Random merges over random bytes; every text comes back, and the three ways of merging agree with the plain loop. */
static void merge_plainly(const struct draft *d, struct ds4_span piece, struct ds4_tokens *out)
{
    int32_t ids[256];
    size_t n = piece.len;
    for (size_t i = 0; i < n; i++) ids[i] = 3 + (unsigned char)piece.ptr[i];
    for (;;) {
        size_t best = SIZE_MAX, rank = d->n_merges;
        for (size_t r = 0; r < rank; r++) {
            for (size_t i = 0; i + 1 < n; i++) {
                struct ds4_span left = d->tokens[ids[i]], right = d->tokens[ids[i + 1]], m = d->merges[r];
                if (m.len != left.len + right.len + 1 || m.ptr[left.len] != ' ' || !span_starts(m, left) ||
                    !span_eq(span_skip(m, left.len + 1), right))
                    continue;
                best = i;
                rank = r;
                break;
            }
        }
        if (best == SIZE_MAX) break;
        ids[best] = (int32_t)(259 + rank); /* merge r made token 259 + r */
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
    assert_int_equal(ds4_tokens_append(out, ids, n), DS4_OK);
}

TEST(random_vocabularies_merge_like_the_plain_loop)
{
    struct rng rng = {test_seed()};
    for (int round = 0; round < 60; round++) {
        struct draft *d = draft_bytes();
        size_t n_wanted = rng_below(&rng, 120);
        for (size_t tries = 0; tries < 4 * n_wanted && d->n_merges < n_wanted; tries++) {
            /* Letters only, so that a text of letters is one piece. */
            size_t n_made = d->n_tokens - 259, left = rng_below(&rng, 4 + n_made), right = rng_below(&rng, 4 + n_made);
            struct ds4_span l = d->tokens[left < 4 ? 3 + 'a' + left : 255 + left];
            struct ds4_span r = d->tokens[right < 4 ? 3 + 'a' + right : 255 + right];
            struct ds4_span joined = keep(d, l, "", r);
            bool known = joined.len > 20;
            for (size_t i = 0; i < d->n_tokens; i++) known = known || span_eq(d->tokens[i], joined);
            if (!known) add_merge(d, l, r);
        }
        struct vocab *v = built(d);
        for (int texts = 0; texts < 40; texts++) {
            char text[256];
            size_t n = 1 + rng_below(&rng, texts & 1 ? 255 : 30);
            for (size_t i = 0; i < n; i++) text[i] = (char)('a' + rng_below(&rng, 4));
            struct ds4_tokens got = {0}, want = {0};
            merge_plainly(d, span_make(text, n), &want);
            assert_int_equal(text_encode(v, span_make(text, n), false, &got, NULL), DS4_OK);
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.ids, want.ids, got.n * sizeof *got.ids);
            ds4_tokens_free(&got);
            ds4_tokens_free(&want);
        }
        vocab_destroy(v);
        mem_free(d);
    }
}

TEST(a_byte_without_a_token_is_named)
{
    struct vocab *v;
    struct ds4_span tokens[] = {SPAN("a"), SPAN("b")};
    struct vocab_source source = {tokens, 2, NULL, NULL, 0, -1, -1, -1};
    assert_int_equal(vocab_create(&source, &v, NULL), DS4_OK);
    struct ds4_tokens ids = {0};
    struct ds4_error error = {0};
    assert_int_equal(text_encode(v, SPAN("abz"), false, &ids, &error), DS4_ERR_UNSUPPORTED);
    assert_string_equal(error.message, "the vocabulary of 2 tokens has none for the byte 0x7a");
    ds4_tokens_free(&ids);
    vocab_destroy(v);
}

TEST(malformed_merges_are_refused_with_their_number)
{
    static const struct {
        const char *merge, *message;
    } bad[] = {{"ab", "merge 1 (\"ab\") is not two tokens with one space between"},
               {"a b c", "merge 1 (\"a b c\") is not two tokens with one space between"},
               {"a ", "merge 1 (\"a \") is not two tokens with one space between"},
               {" a", "merge 1 (\" a\") is not two tokens with one space between"},
               {"", "merge 1 (\"\") is not two tokens with one space between"},
               {"zz a", "merge 1 (\"zz a\"): its left half is not a token"},
               {"a zz", "merge 1 (\"a zz\"): its right half is not a token"},
               {"a a", "merge 1 (\"a a\"): its result is not a token"},
               {"a b", "merge 1 (\"a b\") repeats merge 0"},
               {"a \t", "merge 1 (\"a \t\") is not in the byte alphabet"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct draft *d = draft_bytes();
        add_merge(d, SPAN("a"), SPAN("b"));
        d->merges[d->n_merges++] = span_from(bad[i].merge);
        assert_refused(d, DS4_ERR_FORMAT, bad[i].message);
    }
}

TEST(malformed_tokens_are_refused_with_their_number)
{
    struct draft *d = draft_bytes();
    add_token(d, SPAN("a"), VOCAB_NORMAL);
    assert_refused(d, DS4_ERR_FORMAT, "tokens 100 and 259 are both \"a\"");
    d = draft_bytes();
    add_token(d, SPAN("<bos>"), VOCAB_USER_DEFINED);
    assert_refused(d, DS4_ERR_FORMAT, "added tokens 0 and 259 are both \"<bos>\"");
    d = draft_bytes();
    add_token(d, SPAN(""), VOCAB_NORMAL);
    assert_refused(d, DS4_ERR_FORMAT, "token 259 is empty");
    d = draft_bytes();
    add_token(d, SPAN("a b"), VOCAB_NORMAL);
    assert_refused(d, DS4_ERR_FORMAT, "token 259 (\"a b\") is not in the byte alphabet");
    d = draft_bytes();
    add_token(d, SPAN("<0x41>"), VOCAB_BYTE);
    assert_refused(d, DS4_ERR_FORMAT, "token 259 has type 6, expected 1 to 5");
    static char huge[3 * VOCAB_TOKEN_BYTES_MAX];
    memset(huge, 'a', sizeof huge);
    d = draft_bytes();
    d->types[d->n_tokens] = VOCAB_NORMAL;
    d->tokens[d->n_tokens++] = span_make(huge, sizeof huge);
    assert_refused(d, DS4_ERR_LIMIT, "token 259 has 3072 bytes, more than 2048");
    d = draft_bytes();
    d->types[d->n_tokens] = VOCAB_CONTROL;
    d->tokens[d->n_tokens++] = span_make(huge, VOCAB_TOKEN_BYTES_MAX + 1);
    assert_refused(d, DS4_ERR_LIMIT, "token 259 has 1025 bytes, more than 1024");
    d = mem_zalloc(1, sizeof *d);
    assert_refused(d, DS4_ERR_LIMIT, "a vocabulary of 0 tokens; 1 to 1048576 are possible");
}

TEST(special_ids_out_of_range_are_refused)
{
    struct draft *d = draft_bytes();
    struct vocab *v;
    struct vocab_source source = source_of(d);
    struct ds4_error error = {0};
    source.eos_id = 259;
    assert_int_equal(vocab_create(&source, &v, &error), DS4_ERR_FORMAT);
    assert_string_equal(error.message, "eos_token_id is 259, but there are 259 tokens");
    mem_free(d);
}

TEST(digests_differ_exactly_when_vocabularies_do)
{
    uint8_t digests[5][16];
    for (int i = 0; i < 5; i++) {
        struct draft *d = draft_bytes();
        add_merge(d, SPAN("a"), SPAN("b"));
        if (i != 2) add_merge(d, SPAN("c"), SPAN("d"));
        if (i == 2) add_token(d, SPAN("cd"), VOCAB_NORMAL);
        if (i == 3) d->types[2] = VOCAB_CONTROL;
        if (i == 4) d->tokens[2] = SPAN("<|y|>");
        struct vocab *v = built(d);
        vocab_digest(v, digests[i]);
        vocab_destroy(v);
        mem_free(d);
    }
    assert_memory_equal(digests[0], digests[1], 16);
    for (int i = 2; i < 5; i++) assert_memory_not_equal(digests[0], digests[i], 16);
}

static enum ds4_status create_scenario(void *user, struct ds4_error *error)
{
    const struct vocab_source *source = user;
    struct vocab *v = NULL;
    enum ds4_status status = vocab_create(source, &v, error);
    if (status == DS4_OK) vocab_destroy(v);
    return status;
}

TEST(building_survives_each_failing_allocation)
{
    struct draft *d = draft_bytes();
    add_merge(d, SPAN("a"), SPAN("b"));
    struct vocab_source source = source_of(d);
    assert_true(alloc_fail_loop("vocabulary", create_scenario, &source, 1) >= 9);
    mem_free(d);
}

/* ---- a GGUF file ------------------------------------------------------------------------------------------------- */

enum { T_U32 = 4, T_I32 = 5, T_STRING = 8, T_ARRAY = 9 };

struct file_draft {
    const char *model, *pre;
    uint32_t vocab_size, n_rows, n_types, eos;
    bool tokens_are_numbers, no_merges;
    int32_t type_of_a;
};

static void put_strings(struct gguf_build *b, const char *key, const char *const *items, size_t n)
{
    build_key(b, key, T_ARRAY);
    build_u32(b, T_STRING);
    build_u64(b, n);
    for (size_t i = 0; i < n; i++) build_string(b, items[i]);
}

/* Four tokens a, b, ab, <s> and one merge, with the wishes of the draft. */
static void put_file(const struct file_draft *f, struct gguf_build *b)
{
    static const char *const tokens[] = {"a", "b", "ab", "<s>"}, *const merges[] = {"a b"};
    build_head(b, 1, f->no_merges ? 7 : 8);
    build_key(b, "general.architecture", T_STRING);
    build_string(b, "deepseek4");
    build_kv_u32(b, "deepseek4.vocab_size", f->vocab_size);
    build_key(b, "tokenizer.ggml.model", T_STRING);
    build_string(b, f->model);
    build_key(b, "tokenizer.ggml.pre", T_STRING);
    build_string(b, f->pre);
    if (f->tokens_are_numbers) {
        build_kv_u32(b, "tokenizer.ggml.tokens", 4);
    } else {
        put_strings(b, "tokenizer.ggml.tokens", tokens, 4);
    }
    build_key(b, "tokenizer.ggml.token_type", T_ARRAY);
    build_u32(b, T_I32);
    build_u64(b, f->n_types);
    for (uint32_t i = 0; i < f->n_types; i++) build_u32(b, i == 0 ? (uint32_t)f->type_of_a : i == 3 ? 3 : 1);
    if (!f->no_merges) put_strings(b, "tokenizer.ggml.merges", merges, 1);
    build_kv_u32(b, "tokenizer.ggml.eos_token_id", f->eos);
    uint64_t dims[] = {1, f->n_rows};
    build_tensor(b, "token_embd.weight", 0, 2, dims, 0);
    build_pad(b, 32);
    build_zeros(b, 32 * ((4 * f->n_rows + 31) / 32));
}

static enum ds4_status open_vocab(const struct file_draft *f, struct vocab **v, struct ds4_error *error)
{
    struct gguf_build b = {0};
    struct gguf_file *file = NULL;
    put_file(f, &b);
    struct ds4_error why = {0};
    assert_ok(gguf_open_memory((const uint8_t *)b.bytes.text.ptr, b.bytes.text.len, &gguf_limits_default, &file, &why),
              why);
    enum ds4_status status = vocab_create_gguf(file, v, error);
    gguf_close(file);
    buf_deinit(&b.bytes);
    return status;
}

static const struct file_draft good_file = {"gpt2", "joyai-llm", 4, 4, 4, 3, false, false, 1};

TEST(a_file_gives_its_vocabulary)
{
    struct vocab *v;
    struct ds4_error error = {0};
    assert_ok(open_vocab(&good_file, &v, &error), error);
    assert_int_equal(vocab_n_tokens(v), 4);
    assert_int_equal(vocab_special(v)->eos, 3);
    assert_int_equal(vocab_special(v)->bos, -1);
    assert_encodes(v, "ab<s>ba", true, (int32_t[]){2, 3, 1, 0}, 4);
    vocab_destroy(v);
}

TEST(a_file_that_contradicts_itself_is_refused)
{
    struct file_draft f[10];
    const char *messages[] = {
        "deepseek4.vocab_size is 5, but tokenizer.ggml.tokens has 4 items",
        "token_embd.weight has 3 rows, but tokenizer.ggml.tokens has 4 items",
        "tokenizer.ggml.token_type has 3 items, but there are 4 tokens",
        "eos_token_id is 4, but there are 4 tokens",
        "tokenizer.ggml.model is \"llama\", expected \"gpt2\"",
        "tokenizer.ggml.pre is \"qwen2\", expected \"joyai-llm\"",
        "tokenizer.ggml.tokens is not an array of strings",
        "the file has no tokenizer.ggml.merges",
        "token 0 has type 77, expected 1 to 5",
        "eos_token_id is 2147483647, but there are 4 tokens",
    };
    for (int i = 0; i < 10; i++) f[i] = good_file;
    f[0].vocab_size = 5;
    f[1].n_rows = 3;
    f[2].n_types = 3;
    f[3].eos = 4;
    f[4].model = "llama";
    f[5].pre = "qwen2";
    f[6].tokens_are_numbers = true;
    f[7].no_merges = true;
    f[8].type_of_a = 77;
    f[9].eos = UINT32_MAX;
    for (int i = 0; i < 10; i++) {
        struct vocab *v = NULL;
        struct ds4_error error = {0};
        enum ds4_status want = i == 4 || i == 5 ? DS4_ERR_UNSUPPORTED : DS4_ERR_FORMAT;
        assert_status(open_vocab(&f[i], &v, &error), want, error);
        assert_string_equal(error.message, messages[i]);
    }
}

/* ---- the compact layout ---------------------------------------------------------------------------------------- */

TEST(compact_data_that_is_damaged_is_refused)
{
    static const char table[] = "0\t3\t<a>\n1\t3\t<b>\n2\t3\t<c>\n260\t4\t<d>\n";
    unsigned char good[26] = {'D', 'S', '4', 'V', 1, 0, 0, 0, 1, 0, 0, 0, 4, 1, 0, 0, 5, 1, 0, 0, 3, 0, 0, 4, 0, 0};
    struct compact c;
    struct ds4_error error = {0};
    assert_ok(compact_init(&c, span_make((char *)good, 26), SPAN(table), &error), error);
    assert_true(span_eq(c.tokens[259], SPAN("!\""))); /* ids 3 and 4 are the bytes 33 and 34 */
    assert_true(span_eq(c.merges[0], SPAN("! \"")));
    assert_int_equal(c.types[260], VOCAB_USER_DEFINED);
    compact_deinit(&c);
    for (size_t at = 0; at < 26; at++) {
        unsigned char bad[26];
        memcpy(bad, good, 26);
        bad[at] ^= at >= 20 && at % 3 == 2 ? 0x3E : 0x80; /* ids far out of range */
        if (at >= 20 && at % 3 == 2) bad[at + 2 < 26 ? at + 2 : 25] = 0xFF;
        struct ds4_error why = {0};
        assert_int_equal(compact_init(&c, span_make((char *)bad, 26), SPAN(table), &why), DS4_ERR_FORMAT);
        assert_true(why.message[0] != 0);
        compact_deinit(&c);
    }
    for (size_t len = 0; len < 26; len++) {
        assert_int_equal(compact_init(&c, span_make((char *)good, len), SPAN(table), NULL), DS4_ERR_FORMAT);
        compact_deinit(&c);
    }
    for (size_t len = 0; len + 5 < sizeof table; len++) {
        assert_int_equal(compact_init(&c, span_make((char *)good, 26), span_make(table, len), NULL), DS4_ERR_FORMAT);
        compact_deinit(&c);
    }
}

TEST(the_golden_compact_data_has_its_published_digest)
{
    size_t len;
    char digest[65];
    char *merges = golden_read("tests/golden/text/ds4_merges.bin.xz", &len);
    assert_int_equal(len, 766466);
    sha256_hex(merges, len, digest);
    assert_string_equal(digest, "22f86893e8fba2d2ed0c698b5078de86f540c84338390078d73d2fe885cecb7a");
    mem_free(merges);
}

int main(void)
{
    return RUN_TESTS(
        T(a_small_vocabulary_encodes_by_its_own_merges), T(a_token_that_merging_does_not_reach_is_not_taken_whole),
        T(the_longest_added_token_wins_at_each_place), T(without_types_angle_brackets_that_no_merge_makes_are_control),
        T(random_vocabularies_merge_like_the_plain_loop), T(a_byte_without_a_token_is_named),
        T(malformed_merges_are_refused_with_their_number), T(malformed_tokens_are_refused_with_their_number),
        T(special_ids_out_of_range_are_refused), T(digests_differ_exactly_when_vocabularies_do),
        T(building_survives_each_failing_allocation), T(a_file_gives_its_vocabulary),
        T(a_file_that_contradicts_itself_is_refused), T(compact_data_that_is_damaged_is_refused),
        T(the_golden_compact_data_has_its_published_digest));
}
