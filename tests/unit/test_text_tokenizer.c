/* test_text_tokenizer.c - the published vocabulary: its hashes, all vectors in both modes, decoding, speed of loading.
 * Vectors were computed with the reference tokenizer (Hugging Face tokenizers 0.23.2); see tests/golden/text/README. */
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "lib/alloc_fail.h"
#include "lib/full_vocab.h"
#include "lib/test.h"
#include "text/encode.h"

static void assert_ids(const struct ds4_tokens *got, const json_t *want, const char *mode, json_int_t vector)
{
    bool same = got->n == json_array_size(want);
    for (size_t i = 0; same && i < got->n; i++) same = got->ids[i] == json_integer_value(json_array_get(want, i));
    if (same) return;
    print_error("vector %lld, %s mode: got", (long long)vector, mode);
    for (size_t i = 0; i < got->n; i++) print_error(" %d", got->ids[i]);
    print_error("\n");
    fail();
}

static void check_mode(struct ds4_span text, bool special, const json_t *want, json_int_t vector)
{
    struct ds4_tokens got = {0};
    struct ds4_error error = {0};
    if (text_encode(full_vocab(), text, special, &got, &error) != DS4_OK) fail_msg("%s", error.message);
    assert_ids(&got, want, special ? "special" : "plain", vector);
    ds4_tokens_free(&got);
}

static void tokenizer_gives_the_ids_of_the_reference_for_every_vector(void **state)
{
    (void)state;
    json_error_t why;
    json_t *vectors = json_load_file("tests/golden/text/tokenizer_vectors.json", JSON_ALLOW_NUL, &why);
    assert_non_null(vectors);
    assert_int_equal(json_array_size(vectors), 437);
    for (size_t i = 0; i < json_array_size(vectors); i++) {
        json_t *v = json_array_get(vectors, i), *text = json_object_get(v, "text"), *hex = json_object_get(v, "hex");
        json_t *plain = json_object_get(v, "ids"), *special = json_object_get(v, "ids_special");
        json_int_t id = json_integer_value(json_object_get(v, "id"));
        struct ds4_text raw = {0};
        if (hex) raw = from_hex(json_string_value(hex));
        struct ds4_span bytes = hex ? span_make(raw.ptr, raw.len)
                                    : span_make(json_string_value(text), json_string_length(text));
        check_mode(bytes, false, plain, id);
        check_mode(bytes, true, special ? special : plain, id);
        ds4_text_free(&raw);
    }
    json_decref(vectors);
}

static void vocabulary_has_the_published_digests(void **state)
{
    (void)state;
    const struct vocab *v = full_vocab();
    assert_int_equal(vocab_n_tokens(v), 129280);
    assert_int_equal(vocab_n_merges(v), 127741);
    struct buf table = {0};
    for (int32_t id = 3; id < 128000; id++) {
        struct ds4_span bytes = vocab_token(v, id);
        buf_put_byte(&table, (unsigned char)(bytes.len & 255));
        buf_put_byte(&table, (unsigned char)(bytes.len >> 8));
        buf_put_span(&table, bytes);
    }
    char digest[65];
    sha256_hex(table.text.ptr, table.text.len, digest);
    assert_string_equal(digest, "fe2889463a64a27d12535132e5a0ff3231623ed397edca22a308379cbc4ad8ad");
    buf_deinit(&table);
}

static void special_ids_are_found_by_their_text(void **state)
{
    (void)state;
    const struct ds4_special_ids *s = vocab_special(full_vocab());
    assert_int_equal(s->bos, 0);
    assert_int_equal(s->eos, 1);
    assert_int_equal(s->pad, 2);
    assert_int_equal(s->user, 128803);
    assert_int_equal(s->assistant, 128804);
    assert_int_equal(s->think, 128821);
    assert_int_equal(s->think_end, 128822);
    assert_int_equal(s->dsml, 128825);
    assert_int_equal(s->latest_reminder, 128828);
    uint32_t n_control = 0;
    for (int32_t id = 0; id < 129280; id++) n_control += vocab_is_control(full_vocab(), id);
    assert_int_equal(n_control, 1283);
}

static void every_added_token_is_itself_in_special_mode_and_text_in_plain_mode(void **state)
{
    (void)state;
    const struct vocab *v = full_vocab();
    for (int32_t id = 0; id < 129280; id++) {
        if (!vocab_is_control(v, id)) continue;
        struct ds4_tokens special = {0}, plain = {0};
        assert_int_equal(text_encode(v, vocab_token(v, id), true, &special, NULL), DS4_OK);
        assert_int_equal(special.n, 1);
        assert_int_equal(special.ids[0], id);
        assert_int_equal(text_encode(v, vocab_token(v, id), false, &plain, NULL), DS4_OK);
        for (size_t i = 0; i < plain.n; i++) assert_false(vocab_is_control(v, plain.ids[i]));
        ds4_tokens_free(&special);
        ds4_tokens_free(&plain);
    }
}

static void decoding_ids_out_of_range_gives_nothing(void **state)
{
    (void)state;
    const int32_t ids[] = {-1, 19923, 129280, INT32_MAX, INT32_MIN, 128821};
    struct ds4_text text = {0};
    assert_int_equal(text_decode(full_vocab(), ids, 6, &text, NULL), DS4_OK);
    assert_int_equal(text.len, 12);
    assert_memory_equal(text.ptr, "Hello<think>", 12);
    ds4_text_free(&text);
}

/* Random scalars: ASCII, the scripts around the CJK runs, anything. */
static void random_text(struct rng *rng, struct buf *out)
{
    size_t n = rng_below(rng, 60);
    buf_clear(out);
    for (size_t i = 0; i < n; i++) {
        static const uint32_t spans[][2] = {{0, 0x80},        {0x20, 0x5F},     {0x80, 0x800},   {0x2000, 0x1000},
                                            {0x3000, 0x200},  {0x4E00, 0x5300}, {0x9F90, 0x40},  {0x1F300, 0x700},
                                            {0xE000, 0x1000}, {0, 0x10FFFF},    {'a', 26},       {'0', 10}};
        size_t k = rng_below(rng, sizeof spans / sizeof spans[0]);
        uint32_t scalar = spans[k][0] + (uint32_t)rng_below(rng, spans[k][1]);
        if (scalar >= 0xD800 && scalar < 0xE000) continue;
        char bytes[4];
        size_t repeat = rng_below(rng, 20) == 0 ? rng_below(rng, 90) : 1;
        size_t len = utf8_put(scalar, bytes);
        for (size_t r = 0; r < repeat; r++) buf_put(out, bytes, len);
    }
}

static void decoding_gives_back_every_valid_text(void **state)
{
    (void)state;
    struct rng rng = {20260521};
    struct buf text = {0};
    for (int round = 0; round < 20000; round++) {
        random_text(&rng, &text);
        struct ds4_tokens ids = {0};
        struct ds4_text back = {0};
        assert_int_equal(text_encode(full_vocab(), buf_span(&text), false, &ids, NULL), DS4_OK);
        assert_int_equal(text_decode(full_vocab(), ids.ids, ids.n, &back, NULL), DS4_OK);
        if (!span_eq(buf_span(&text), span_make(back.ptr, back.len))) fail_msg("round %d: text changed", round);
        ds4_text_free(&back);
        ds4_tokens_free(&ids);
    }
    buf_deinit(&text);
}

static void no_token_is_lost_to_the_whole_piece_short_cut(void **state)
{
    (void)state;
    /* The first encoding of a token's bytes merges them, the second takes the short cut: both must agree. */
    const struct vocab *v = full_vocab();
    for (int32_t id = 3; id < 128000; id += 7) {
        struct ds4_span bytes = vocab_token(v, id);
        if (!utf8_valid(bytes)) continue;
        struct ds4_tokens first = {0}, second = {0};
        assert_int_equal(text_encode(v, bytes, false, &first, NULL), DS4_OK);
        assert_int_equal(text_encode(v, bytes, false, &second, NULL), DS4_OK);
        assert_int_equal(first.n, second.n);
        assert_memory_equal(first.ids, second.ids, first.n * sizeof *first.ids);
        ds4_tokens_free(&first);
        ds4_tokens_free(&second);
    }
}

static void a_megabyte_in_one_piece_is_encoded(void **state)
{
    (void)state;
    struct rng rng = {7};
    struct buf text = {0};
    for (int i = 0; i < 1 << 20; i++) buf_put_byte(&text, (unsigned char)('a' + rng_below(&rng, 26)));
    struct ds4_tokens ids = {0};
    struct ds4_text back = {0};
    assert_int_equal(text_encode(full_vocab(), buf_span(&text), false, &ids, NULL), DS4_OK);
    assert_int_equal(text_decode(full_vocab(), ids.ids, ids.n, &back, NULL), DS4_OK);
    assert_true(span_eq(buf_span(&text), span_make(back.ptr, back.len)));
    ds4_text_free(&back);
    ds4_tokens_free(&ids);
    buf_deinit(&text);
}

enum { N_THREADS = 4 };

static void *encode_all(void *user)
{
    struct ds4_tokens *ids = user;
    const struct vocab *v = full_vocab();
    for (int32_t id = 3; id < 128000; id += 31) {
        struct ds4_span bytes = vocab_token(v, id);
        if (utf8_valid(bytes) && text_encode(v, bytes, false, ids, NULL) != DS4_OK) return NULL;
    }
    return ids;
}

static void several_threads_may_encode_with_a_fresh_vocabulary(void **state)
{
    (void)state;
    struct ds4_tokens ids[N_THREADS] = {0};
    pthread_t threads[N_THREADS];
    full_vocab_release(); /* so that what is found out on first use is found out here */
    (void)full_vocab();
    for (int i = 0; i < N_THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, encode_all, &ids[i]), 0);
    for (int i = 0; i < N_THREADS; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_non_null(result);
        assert_int_equal(ids[i].n, ids[0].n);
        assert_memory_equal(ids[i].ids, ids[0].ids, ids[0].n * sizeof *ids[0].ids);
    }
    for (int i = 0; i < N_THREADS; i++) ds4_tokens_free(&ids[i]);
}

static enum ds4_status encode(void *user, struct ds4_error *error)
{
    const struct ds4_span *text = user;
    struct ds4_tokens ids = {0};
    enum ds4_status status = text_encode(full_vocab(), *text, true, &ids, error);
    ds4_tokens_free(&ids);
    return status;
}

static void encoding_survives_each_failing_allocation(void **state)
{
    (void)state;
    struct ds4_span text = SPAN("word \xFF aaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
                                "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbcccccc <think>");
    /* The first encoding also tries which pieces are tokens: after it, every run allocates the same. */
    assert_int_equal(encode(&text, NULL), DS4_OK);
    assert_true(alloc_fail_loop("encode", encode, &text, 1) > 2);
}

static int release(void **state)
{
    (void)state;
    full_vocab_release();
    return mem_live() == 0 ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vocabulary_has_the_published_digests),
        cmocka_unit_test(tokenizer_gives_the_ids_of_the_reference_for_every_vector),
        cmocka_unit_test(special_ids_are_found_by_their_text),
        cmocka_unit_test(every_added_token_is_itself_in_special_mode_and_text_in_plain_mode),
        cmocka_unit_test(decoding_ids_out_of_range_gives_nothing),
        cmocka_unit_test(decoding_gives_back_every_valid_text),
        cmocka_unit_test(no_token_is_lost_to_the_whole_piece_short_cut),
        cmocka_unit_test(a_megabyte_in_one_piece_is_encoded),
        cmocka_unit_test(several_threads_may_encode_with_a_fresh_vocabulary),
        cmocka_unit_test(encoding_survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, release);
}
