/* test_text_json.c - JSON in the style of the prompt. The style is that of Python's json.dumps(ensure_ascii=False) with
 * numbers untouched; well-formedness is compared with jansson. */
#include <jansson.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"
#include "lib/alloc_fail.h"
#include "lib/test.h"
#include "text/json_style.h"

static bool styled(struct ds4_span in, struct buf *out)
{
    struct jtext_doc doc;
    enum ds4_status status = jtext_parse(&doc, in, NULL);
    buf_clear(out);
    if (status == DS4_OK) jtext_put_styled(&doc, 0, out);
    jtext_deinit(&doc);
    return status == DS4_OK;
}

static void assert_style(const char *in, const char *want)
{
    struct buf out = {0};
    if (!styled(span_from(in), &out)) fail_msg("%s was refused", in);
    if (!span_eq(buf_span(&out), span_from(want)))
        fail_msg("%s became %.*s, wanted %s", in, (int)out.text.len, out.text.ptr, want);
    buf_deinit(&out);
}

TEST(json_is_spaced_like_the_training_data)
{
    assert_style("{\"a\":1,\"b\":[1,2,{\"c\":null}],\"d\":{}}", "{\"a\": 1, \"b\": [1, 2, {\"c\": null}], \"d\": {}}");
    assert_style(" \n[ ]\t", "[]");
    assert_style("[[],{},[[1]],\"\"]", "[[], {}, [[1]], \"\"]");
    assert_style("true", "true");
}

TEST(numbers_and_order_are_the_clients)
{
    assert_style("{\"z\":1.50,\"a\":-0,\"m\":1E+5,\"b\":123456789012345678901234567890,\"c\":0.1e-7}",
                 "{\"z\": 1.50, \"a\": -0, \"m\": 1E+5, \"b\": 123456789012345678901234567890, \"c\": 0.1e-7}");
}

TEST(strings_are_escaped_as_little_as_possible)
{
    assert_style("\"\\u00e9\\/\\\"\\\\\\n\\r\\t\\b\\f\\u0001\\u007f\\ud83d\\ude00\"",
                 "\"\xC3\xA9/\\\"\\\\\\n\\r\\t\\b\\f\\u0001\x7F\xF0\x9F\x98\x80\"");
    assert_style("\"\\ud800\\u0041 \\udc00 \\ud800\\ud800\"",
                 "\"\xEF\xBF\xBD" "A \xEF\xBF\xBD \xEF\xBF\xBD\xEF\xBF\xBD\"");
    assert_style("\"\xFF\xE4\xBD\"", "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");
    assert_style("{\"\\u0000k\":\"\\u0000\"}", "{\"\\u0000k\": \"\\u0000\"}");
}

TEST(of_duplicate_members_the_last_counts_at_the_place_of_the_first)
{
    assert_style("{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}");
    assert_style("{\"a\":{\"x\":1,\"y\":2},\"a\":{\"y\":3,\"x\":4}}", "{\"a\": {\"y\": 3, \"x\": 4}}");
    assert_style("{\"a\":{\"x\":1},\"b\":{\"x\":2},\"a\":[],\"\\u0061\":\"last\"}",
        "{\"a\": \"last\", \"b\": {\"x\": 2}}");
    assert_style("[{\"x\":1},{\"x\":2}]", "[{\"x\": 1}, {\"x\": 2}]");
}

TEST(what_is_no_json_is_refused_with_its_place)
{
    static const struct {
        const char *text, *message;
    } bad[] = {{"", "JSON: expected more at byte 0 of 0"},
               {"{\"a\":1", "JSON: expected more at byte 6 of 6"},
               {"[1,]", "JSON: expected a value at byte 3 of 4"},
               {"{,}", "JSON: expected a member's name at byte 1 of 3"},
               {"{\"a\" 1}", "JSON: expected a colon at byte 5 of 7"},
               {"[1 2]", "JSON: expected a comma or ] at byte 3 of 5"},
               {"{\"a\":1]", "JSON: expected a comma or } at byte 6 of 7"},
               {"1 2", "JSON: expected the end at byte 2 of 3"},
               {"01", "JSON: expected the end at byte 1 of 2"},
               {"1.", "JSON: expected a digit at byte 2 of 2"},
               {"\"a", "JSON: expected the end of a string at byte 2 of 2"},
               {"\"\\x\"", "JSON: expected an escape at byte 2 of 4"},
               {"\"\\u12g4\"", "JSON: expected an escape at byte 2 of 8"},
               {"\"a\nb\"", "JSON: expected no raw control character in a string at byte 2 of 5"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct jtext_doc doc;
        struct ds4_error error = {0};
        assert_int_equal(jtext_parse(&doc, span_from(bad[i].text), &error), DS4_ERR_FORMAT);
        assert_string_equal(error.message, bad[i].message);
        jtext_deinit(&doc);
    }
}

TEST(a_million_open_brackets_are_refused_without_recursion)
{
    size_t n = JTEXT_VALUES_MAX + 1;
    char *text = mem_alloc(n, 1);
    assert_non_null(text);
    memset(text, '[', n);
    struct jtext_doc doc;
    struct ds4_error error = {0};
    assert_int_equal(jtext_parse(&doc, span_make(text, n), &error), DS4_ERR_LIMIT);
    jtext_deinit(&doc);
    memset(text + n / 2, ']', n / 2);
    n = n / 2 * 2; /* well-formed and deep */
    struct buf out = {0};
    assert_true(styled(span_make(text, n), &out));
    assert_true(span_eq(buf_span(&out), span_make(text, n)));
    buf_deinit(&out);
    mem_free(text);
}

/* Random texts near JSON: what jansson takes is taken, with the same meaning; what it refuses is refused. */
TEST(reading_agrees_with_jansson)
{
    static const char *const atoms[] = {"{", "}", "[", "]", ",", ":", "\"a\"", "\"b\"", "\"\\u00e9\"", "1", "-1.5e3",
        "0", "true",
                                        "false", "null", " ", "\"", "\\", "01", "-", ".", "e"};
    struct rng rng = {test_seed()};
    size_t n_good = 0;
    for (int round = 0; round < 200000; round++) {
        struct buf text = {0}, out = {0};
        static const char *const frames[][2] = {{"", ""}, {"[", "]"}, {"{\"k\":", "}"}, {"[1,", "]"}};
        const char *const *frame = frames[rng_below(&rng, 4)];
        buf_put_text(&text, frame[0]);
        for (size_t n = rng_below(&rng, 7); n > 0; n--)
            buf_put_text(&text, atoms[rng_below(&rng, sizeof atoms / sizeof atoms[0])]);
        buf_put_text(&text, frame[1]);
        struct ds4_span in = buf_span(&text);
        json_error_t why; /* numbers that jansson cannot hold are well-formed all the same */
        json_t *theirs = json_loadb(in.ptr, in.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
        bool ours = styled(in, &out), too_large = !theirs && json_error_code(&why) == json_error_numeric_overflow;
        if (!too_large && ours != (theirs != NULL)) fail_msg("%.*s: ours %d", (int)in.len, in.ptr, ours);
        if (theirs) {
            json_t *again = json_loadb(out.text.ptr, out.text.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
            assert_non_null(again);
            assert_true(json_equal(theirs, again));
            json_decref(again);
            n_good++;
        }
        json_decref(theirs);
        buf_deinit(&text);
        buf_deinit(&out);
    }
    assert_true(n_good > 2000);
}

static enum ds4_status scenario(void *user, struct ds4_error *error)
{
    (void)user;
    struct jtext_doc doc;
    struct buf out = {0};
    enum ds4_status status = jtext_parse(&doc, SPAN("{\"a\":[1,2,{\"b\":\"text\"}],\"a\":\"\\n\"}"), error);
    if (status == DS4_OK) {
        jtext_put_styled(&doc, 0, &out);
        status = buf_status(&out, error);
    }
    jtext_deinit(&doc);
    buf_deinit(&out);
    return status;
}

TEST(json_survives_each_failing_allocation)
{
    assert_true(alloc_fail_loop("json", scenario, NULL, 1) >= 4);
}

int main(void)
{
    return RUN_TESTS(T(json_is_spaced_like_the_training_data), T(numbers_and_order_are_the_clients),
                     T(strings_are_escaped_as_little_as_possible),
                     T(of_duplicate_members_the_last_counts_at_the_place_of_the_first),
                     T(what_is_no_json_is_refused_with_its_place),
                     T(a_million_open_brackets_are_refused_without_recursion), T(reading_agrees_with_jansson),
                     T(json_survives_each_failing_allocation));
}
