/* test_options.c - command lines by table: what is accepted, what is refused and with which words. */
#include <float.h>
#include <stdio.h>

#include "base/options.h"
#include "base/suggest.h"
#include "lib/test.h"

struct values {
    bool verbose;
    int mode, colour;
    const char *text, *file;
    struct option_list words, rest;
    uint32_t count;
    uint64_t seed, bytes;
    float temp, any;
};

static const struct option rows[] = {
    {.name = "FILE", .type = OPTION_OPERAND, .offset = offsetof(struct values, file), .help = "a file"},
    {.name = "REST", .type = OPTION_OPERANDS, .offset = offsetof(struct values, rest), .help = "more"},
    {.letter = 'v', .name = "verbose", .type = OPTION_FLAG, .offset = offsetof(struct values, verbose), .help = "talk"},
    {.name = "fast", .type = OPTION_SET, .offset = offsetof(struct values, mode), .set = 7, .help = "quick"},
    {.name = "slow", .type = OPTION_SET, .offset = offsetof(struct values, mode), .set = 9, .help = "careful"},
    {.letter = 't', .name = "text", .value = "TEXT", .type = OPTION_TEXT, .offset = offsetof(struct values, text),
     .help = "words"},
    {.name = "word", .value = "W", .type = OPTION_LIST, .offset = offsetof(struct values, words), .help = "a word"},
    {.name = "colour", .value = "red|green|blue", .type = OPTION_CHOICE, .offset = offsetof(struct values, colour),
     .preset = "green", .help = "a colour"},
    {.letter = 'n', .name = "count", .value = "N", .type = OPTION_U32, .offset = offsetof(struct values, count),
     .min = 2, .max = 10, .preset = "3", .help = "how many"},
    {.name = "seed", .value = "S", .type = OPTION_U64, .offset = offsetof(struct values, seed), .help = "a seed"},
    {.name = "bytes", .value = "B", .type = OPTION_BYTES, .offset = offsetof(struct values, bytes), .help = "a size"},
    {.name = "temp", .value = "T", .type = OPTION_F32, .offset = offsetof(struct values, temp), .max = 2,
     .preset = "0.5", .help = "heat"},
    {.name = "any", .value = "X", .type = OPTION_F32, .offset = offsetof(struct values, any), .help = "any number"},
};
static const struct options table = {.command = "try", .summary = "a trial", OPTIONS_ROWS(rows), .notes = "The end."};

#define ARGS(...) ((char *[]){"try", __VA_ARGS__}), (int)(sizeof((char *[]){"try", __VA_ARGS__}) / sizeof(char *))

static struct values parse_ok(char **argv, int argc)
{
    struct values v;
    struct ds4_error error = {0};
    bool help;
    memset(&v, 0xEE, sizeof v);
    assert_ok(options_parse(&table, argc, argv, &v, sizeof v, &help, &error), error);
    assert_false(help);
    return v;
}

static void parse_bad(const char *message, char **argv, int argc)
{
    struct values v;
    struct ds4_error error = {0};
    bool help;
    assert_int_equal(options_parse(&table, argc, argv, &v, sizeof v, &help, &error), DS4_ERR_FORMAT);
    assert_string_equal(error.message, message);
}

TEST(options_not_given_have_their_defaults)
{
    char *argv[] = {"try"};
    struct values v = parse_ok(argv, 1);
    assert_false(v.verbose);
    assert_int_equal(v.mode, 0);
    assert_int_equal(v.colour, 1);
    assert_int_equal(v.count, 3);
    assert_true(v.temp == 0.5f && v.any == 0);
    assert_null(v.text);
    assert_null(v.file);
    assert_int_equal(v.words.n + v.rest.n + v.seed + v.bytes, 0);
}

TEST(options_are_read_in_every_accepted_form)
{
    struct values v = parse_ok(ARGS("-v", "--count", "7", "--text=a=b", "file", "--fast", "--colour", "blue"));
    assert_true(v.verbose);
    assert_int_equal(v.count, 7);
    assert_string_equal(v.text, "a=b");
    assert_string_equal(v.file, "file");
    assert_int_equal(v.mode, 7);
    assert_int_equal(v.colour, 2);
    v = parse_ok(ARGS("-n9", "-t", "-v", "--any", "-1.5e2", "--", "-x", "--count"));
    assert_int_equal(v.count, 9);
    assert_string_equal(v.text, "-v");
    assert_false(v.verbose);
    assert_true(v.any == -150.0f);
    assert_string_equal(v.file, "-x");
    assert_int_equal(v.rest.n, 1);
    assert_string_equal(v.rest.items[0], "--count");
}

TEST(options_given_twice_take_the_last_and_lists_take_all)
{
    struct values v = parse_ok(ARGS("--fast", "--slow", "-n2", "-n", "4", "--word", "a", "--word=b", "-", "c", "d"));
    assert_int_equal(v.mode, 9);
    assert_int_equal(v.count, 4);
    assert_int_equal(v.words.n, 2);
    assert_string_equal(v.words.items[1], "b");
    assert_string_equal(v.file, "-");
    assert_int_equal(v.rest.n, 2);
}

TEST(numbers_are_taken_up_to_their_limits_and_not_beyond)
{
    assert_int_equal(parse_ok(ARGS("--count", "2")).count, 2);
    assert_int_equal(parse_ok(ARGS("--count", "10")).count, 10);
    parse_bad("--count 1: must be a whole number from 2 to 10", ARGS("--count", "1"));
    parse_bad("--count 11: must be a whole number from 2 to 10", ARGS("--count=11"));
    parse_bad("-n -3: must be a whole number from 2 to 10", ARGS("-n", "-3"));
    parse_bad("--count 4x: must be a whole number from 2 to 10", ARGS("--count", "4x"));
    parse_bad("--count : must be a whole number from 2 to 10", ARGS("--count="));
    assert_true(parse_ok(ARGS("--seed", "18446744073709551615")).seed == UINT64_MAX);
    parse_bad("--seed 18446744073709551616: must be a whole number from 0 to 18446744073709551615",
              ARGS("--seed", "18446744073709551616"));
    assert_true(parse_ok(ARGS("--temp", "2")).temp == 2.0f);
    parse_bad("--temp 2.01: must be a number from 0 to 2", ARGS("--temp", "2.01"));
    parse_bad("--temp nan: must be a number from 0 to 2", ARGS("--temp", "nan"));
    parse_bad("--temp 0x1: must be a number from 0 to 2", ARGS("--temp", "0x1"));
    parse_bad("--any 1e39: must be a number", ARGS("--any", "1e39"));
    parse_bad("--any inf: must be a number", ARGS("--any", "inf"));
}

TEST(sizes_take_units_of_1024_and_never_wrap)
{
    assert_true(parse_ok(ARGS("--bytes", "12")).bytes == 12);
    assert_true(parse_ok(ARGS("--bytes", "3k")).bytes == 3072);
    assert_true(parse_ok(ARGS("--bytes", "5M")).bytes == 5242880);
    assert_true(parse_ok(ARGS("--bytes", "8g")).bytes == 8589934592u);
    assert_true(parse_ok(ARGS("--bytes", "16777215t")).bytes == 16777215ull << 40);
    const char *wanted = ": must be a number of bytes such as 4096, 512m or 8g";
    static const char *const bad[] = {"16777216t", "g", "1kk", "1.5g", "-1", "12 "};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char message[128], argument[32];
        (void)snprintf(message, sizeof message, "--bytes %s%s", bad[i], wanted);
        (void)snprintf(argument, sizeof argument, "%s", bad[i]);
        parse_bad(message, ARGS("--bytes", argument));
    }
}

TEST(mistakes_are_named_with_the_nearest_option)
{
    parse_bad("unknown option --cuont; did you mean --count?", ARGS("--cuont", "3"));
    parse_bad("unknown option --see; did you mean --seed?", ARGS("--see=3"));
    parse_bad("unknown option --xyzzy", ARGS("--xyzzy"));
    parse_bad("unknown option -q", ARGS("-q"));
    parse_bad("--count needs a value: N", ARGS("--count"));
    parse_bad("--verbose takes no value, but stands as --verbose=yes", ARGS("--verbose=yes"));
    parse_bad("--help takes no value, but stands as --help=run", ARGS("--help=run"));
    parse_bad("-v takes no value, but stands as -vv", ARGS("-vv"));
    parse_bad("--colour pink: must be one of red|green|blue", ARGS("--colour", "pink"));
    parse_bad("--colour gree: must be one of red|green|blue", ARGS("--colour", "gree"));
}

TEST(a_list_refuses_the_value_that_is_one_too_many)
{
    char *argv[2 + OPTION_LIST_MAX + 1] = {"try"};
    char word[] = "--word=x";
    for (int i = 1; i <= OPTION_LIST_MAX + 1; i++) argv[i] = word;
    assert_int_equal(parse_ok(argv, OPTION_LIST_MAX + 1).words.n, OPTION_LIST_MAX);
    parse_bad("--word x: must be at most 32 of them", argv, OPTION_LIST_MAX + 2);
}

TEST(required_rows_and_surplus_operands_are_refused)
{
    static const struct option need[] = {
        {.name = "FILE", .type = OPTION_OPERAND, .offset = offsetof(struct values, file), .required = true},
        {.name = "text", .value = "T", .type = OPTION_TEXT, .offset = offsetof(struct values, text), .required = true},
    };
    static const struct options strict = {.command = "strict", OPTIONS_ROWS(need)};
    struct values v;
    bool help;
    static const struct {
        char *argv[4];
        int argc;
        const char *message;
    } cases[] = {
        {{"strict"}, 1, "FILE is missing"},
        {{"strict", "f"}, 2, "--text T is missing"},
        {{"strict", "f", "--text=x", "g"}, 4, "unexpected argument g"},
        {{"strict", "f", "--text=x"}, 3, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ds4_error error = {0};
        enum ds4_status status = options_parse(&strict, cases[i].argc, (char **)(uintptr_t)cases[i].argv, &v, sizeof v,
                                               &help, &error);
        assert_int_equal(status == DS4_OK, cases[i].message[0] == 0);
        assert_string_equal(error.message, cases[i].message);
    }
}

TEST(help_names_every_row_with_range_and_default_within_100_columns)
{
    struct buf text = {0};
    options_help(&table, &text);
    buf_put_byte(&text, 0);
    for (size_t i = 0; i < table.n_rows; i++) {
        assert_non_null(strstr(text.text.ptr, rows[i].name));
        assert_non_null(strstr(text.text.ptr, rows[i].help));
    }
    assert_non_null(strstr(text.text.ptr, "usage: ds4 try [options] [FILE] [REST...]"));
    assert_non_null(strstr(text.text.ptr, "-n, --count N"));
    assert_non_null(strstr(text.text.ptr, "(2 to 10; default 3)"));
    assert_non_null(strstr(text.text.ptr, "(0 to 2; default 0.5)"));
    assert_non_null(strstr(text.text.ptr, "The end.\n"));
    for (const char *line = text.text.ptr; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        assert_true(strcspn(line, "\n") <= 100);
    buf_deinit(&text);
}

TEST(help_is_met_wherever_it_stands_and_before_later_mistakes)
{
    struct values v;
    struct ds4_error error = {0};
    bool help;
    char *argv[] = {"try", "-v", "--help", "--nonsense"};
    assert_ok(options_parse(&table, 4, argv, &v, sizeof v, &help, &error), error);
    assert_true(help);
}

static size_t distance(const char *a, const char *b) { return suggest_distance(span_from(a), span_from(b)); }

TEST(distances_count_edits_and_swaps)
{
    assert_int_equal(distance("", ""), 0);
    assert_int_equal(distance("abc", "abc"), 0);
    assert_int_equal(distance("ABC", "abc"), 0);
    assert_int_equal(distance("", "abc"), 3);
    assert_int_equal(distance("abc", ""), 3);
    assert_int_equal(distance("ab", "ba"), 1);
    assert_int_equal(distance("kitten", "sitting"), 3);
    assert_int_equal(distance("ca", "abc"), 3); /* a swapped pair is not edited again */
    char word[SUGGEST_WORD_MAX + 2];
    memset(word, 'x', sizeof word);
    word[SUGGEST_WORD_MAX + 1] = 0;
    assert_true(distance(word, "x") == SIZE_MAX);
    word[SUGGEST_WORD_MAX] = 0;
    assert_int_equal(distance(word, "x"), SUGGEST_WORD_MAX - 1);
}

TEST(suggestions_are_near_or_absent)
{
    static const char *const names[] = {"run", "serve", "tokenize", "help"};
    assert_string_equal(suggest_near(span_from("srve"), names, 4), "serve");
    assert_string_equal(suggest_near(span_from("tok"), names, 4), "tokenize");
    assert_string_equal(suggest_near(span_from("hlep"), names, 4), "help");
    assert_null(suggest_near(span_from("t"), names, 4));
    assert_null(suggest_near(span_from("elephant"), names, 4));
    assert_null(suggest_near(span_from("run"), names, 0));
}

int main(void)
{
    return RUN_TESTS(T(options_not_given_have_their_defaults), T(options_are_read_in_every_accepted_form),
                     T(options_given_twice_take_the_last_and_lists_take_all),
                     T(numbers_are_taken_up_to_their_limits_and_not_beyond),
                     T(sizes_take_units_of_1024_and_never_wrap), T(mistakes_are_named_with_the_nearest_option),
                     T(a_list_refuses_the_value_that_is_one_too_many),
                     T(required_rows_and_surplus_operands_are_refused),
                     T(help_names_every_row_with_range_and_default_within_100_columns),
                     T(help_is_met_wherever_it_stands_and_before_later_mistakes),
                     T(distances_count_edits_and_swaps), T(suggestions_are_near_or_absent));
}
