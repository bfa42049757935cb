/* test_serve_guard.c - which answers are ended because they go round in a cycle, and reasoning that clients carry. */
#include <glob.h>

#include "base/file.h"
#include "base/rng.h"
#include "lib/full_vocab.h"
#include "lib/test.h"
#include "serve/api/sealed.h"
#include "serve/guard.h"
#include "text/encode.h"

static struct ds4_error error;

static int32_t token_of(uint32_t period, uint32_t i) { return (int32_t)(i % period * 7 + period); }

TEST(a_cycle_of_every_period_up_to_64_is_found_after_eight_copies_and_256_tokens_and_no_sooner)
{
    for (uint32_t period = 1; period <= GUARD_PERIOD_MAX; period++) {
        struct guard g = {0};
        uint32_t need = period * 8 < 256 ? 256 : period * 8, n = 0, found = 0;
        for (int32_t i = 0; i < 100; i++) assert_int_equal(guard_feed(&g, 1000000 + i), 0);
        while (!found && n < 2 * need) found = guard_feed(&g, token_of(period, n++));
        assert_int_equal(found, period);
        assert_int_equal(n, need);
    }
    struct guard longer = {0};
    for (uint32_t n = 0; n < 2000; n++) assert_int_equal(guard_feed(&longer, token_of(65, n)), 0);
}

TEST(seven_copies_with_a_change_between_them_are_no_cycle)
{
    struct guard g = {0};
    for (uint32_t round = 0; round < 20; round++) {
        for (uint32_t n = 0; n < 7 * 40; n++) assert_int_equal(guard_feed(&g, token_of(40, n)), 0);
        assert_int_equal(guard_feed(&g, -1), 0);
    }
}

static void add_file(const char *path, struct ds4_tokens *ids)
{
    struct ds4_text text = {0};
    assert_ok(file_read_all(path, 1u << 20, &text, &error), error);
    assert_ok(text_encode(full_vocab(), span_make(text.ptr, text.len), false, ids, &error), error);
    ds4_text_free(&text);
}

/* This project's own code and prose, without its tables of numbers, which are no writing. What was seen before a sample
 * can only add to what ends in it: one guard over all of it looks at every sample at once. */
TEST(no_sample_of_code_or_prose_is_taken_for_a_cycle)
{
    static const char *const patterns[] = {"src/*/*.c", "src/*/*/*.c", "src/*/*.h", "tests/*/*.py", "*.md",
                                           "scripts/*.py"};
    struct ds4_tokens ids = {0};
    for (size_t p = 0; p < sizeof patterns / sizeof patterns[0]; p++) {
        glob_t found;
        assert_int_equal(glob(patterns[p], 0, NULL, &found), 0);
        for (size_t i = 0; i < found.gl_pathc; i++)
            if (!strstr(found.gl_pathv[i], "table")) add_file(found.gl_pathv[i], &ids);
        globfree(&found);
    }
    assert_true(ids.n > 200000); /* 10,000 samples of 600 tokens overlap many times in them */
    struct guard g = {0};
    for (size_t i = 0; i < ids.n; i++) assert_int_equal(guard_feed(&g, ids.ids[i]), 0);
    ds4_tokens_free(&ids);
    full_vocab_release();
}

TEST(thinking_ends_at_a_sentence_near_its_budget_and_never_beyond_it)
{
    assert_false(guard_ends_thinking(800, 699, SPAN("end.")));
    assert_true(guard_ends_thinking(800, 700, SPAN("end.")));
    assert_false(guard_ends_thinking(800, 700, SPAN("end")));
    assert_false(guard_ends_thinking(800, 799, SPAN("")));
    assert_true(guard_ends_thinking(800, 800, SPAN("end")));
    assert_false(guard_ends_thinking(1000000, 1000000 - 129, SPAN(".")));
    assert_true(guard_ends_thinking(1, 1, SPAN("")));
}

TEST(sealed_reasoning_opens_as_it_was_and_not_when_a_bit_of_it_was_changed)
{
    struct arena arena;
    struct rng rng = {test_seed()};
    arena_init(&arena, 0);
    for (size_t n = 0; n < 200; n++) {
        char text[200];
        struct buf sealed = {0};
        for (size_t i = 0; i < n; i++) text[i] = (char)rng_below(&rng, 256);
        sealed_put(&sealed, span_make(text, n));
        struct ds4_span opened = sealed_open(&arena, buf_span(&sealed));
        assert_non_null(opened.ptr);
        assert_true(span_eq(opened, span_make(text, n)));
        size_t at = (size_t)rng_below(&rng, sealed.text.len - 3);
        sealed.text.ptr[at] = sealed.text.ptr[at] == 'A' ? 'B' : 'A';
        assert_null(sealed_open(&arena, buf_span(&sealed)).ptr);
        sealed.text.len -= 1;
        assert_null(sealed_open(&arena, buf_span(&sealed)).ptr);
        buf_deinit(&sealed);
    }
    static const char *const foreign[] = {"", "ENC", "====", "AAAAAAAAAAAAAAAAAAAAAAAA", "not base 64 at all, really!"};
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        assert_null(sealed_open(&arena, span_from(foreign[i])).ptr);
    arena_deinit(&arena);
}

int main(void)
{
    return RUN_TESTS(T(a_cycle_of_every_period_up_to_64_is_found_after_eight_copies_and_256_tokens_and_no_sooner),
                     T(seven_copies_with_a_change_between_them_are_no_cycle),
                     T(no_sample_of_code_or_prose_is_taken_for_a_cycle),
                     T(thinking_ends_at_a_sentence_near_its_budget_and_never_beyond_it),
                     T(sealed_reasoning_opens_as_it_was_and_not_when_a_bit_of_it_was_changed));
}
