/* test_grammar_calls.c - which blocks of tool calls a grammar takes, when it leaves text and reasoning alone, and that
 * random choices among what it allows make calls that the parser reads as what they were meant to be. */
#include <jansson.h>
#include <stdlib.h>

#include "base/buf.h"
#include "lib/grammar_walk.h"
#include "lib/test.h"

#define M "\xEF\xBD\x9C" "DSML\xEF\xBD\x9C"
#define OPEN "<" M "tool_calls>\n<" M "invoke name=\"get\">\n"
#define CLOSE "</" M "invoke>\n</" M "tool_calls>"
#define STRING(name, text) "<" M "parameter name=\"" name "\" string=\"true\">" text "</" M "parameter>\n"
#define JSON(name, text) "<" M "parameter name=\"" name "\" string=\"false\">" text "</" M "parameter>\n"

static const char get[] = "{\"name\":\"get\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{"
    "\"city\":{\"type\":\"string\"},\"code\":{\"type\":\"string\",\"minLength\":2,\"maxLength\":3},"
    "\"days\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":9},\"kind\":{\"enum\":[\"a\",\"a b\",1]},"
    "\"more\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}},\"required\":[\"city\"]}}";
static const char now[] = "{\"name\":\"now\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}";

static struct ds4_grammar *of_tools(struct ds4_grammar_options o)
{
    static struct ds4_span tools[2];
    tools[0] = span_from(get);
    tools[1] = span_from(now);
    o.tools = tools;
    o.n_tools = 2;
    return walker_grammar(&o);
}

static void check(struct ds4_grammar_options options, const char *text, enum walk wanted)
{
    for (int way = 0; way < 3; way++) {
        struct ds4_grammar *g = of_tools(options);
        enum walk walk = walker_walk(g, span_from(text), way > 0, way > 1);
        if (walk != wanted) fail_msg("%d and not %d, way %d: %s", walk, wanted, way, text);
        if (walk != WALK_REFUSED) {
            struct ds4_text out = {0};
            walker_complete(g, &out);
            ds4_text_free(&out);
        }
        ds4_grammar_destroy(g);
    }
}

TEST(a_call_that_is_asked_for_has_the_form_of_the_markup_and_the_schema)
{
    static const char *const good[] = {
        "\n\n" OPEN STRING("city", "Rome") CLOSE, "\n\n" OPEN STRING("city", "") CLOSE,
        "\n\n" OPEN JSON("days", "3") STRING("city", "a < b </x> & <parameter name=\"") CLOSE,
        "\n\n" OPEN STRING("city", "x") STRING("kind", "a b") JSON("more", "[\"p\", \"</div>\"]") CLOSE,
        "\n\n" OPEN STRING("city", "x") JSON("kind", "1") STRING("code", "\xE2\x82\xAC</") CLOSE,
        "\n\n<" M "tool_calls>\n<" M "invoke name=\"now\">\n\n</" M "invoke>\n<" M "invoke name=\"get\">\n"
        STRING("city", "x") CLOSE};
    static const char *const bad[] = {
        "Hello", "\n\n" OPEN CLOSE, "\n\n<" M "tool_calls>\n<" M "invoke name=\"set\">", "\n\n" OPEN JSON("city", "1"),
        "\n\n" OPEN STRING("days", "3"), "\n\n" OPEN JSON("days", "10"), "\n\n" OPEN STRING("kind", "b"),
        "\n\n" OPEN STRING("code", "a"), "\n\n" OPEN STRING("code", "abcd"), "\n\n" OPEN STRING("other", "x"),
        "\n\n" OPEN STRING("city", "x") STRING("city", "y"), "\n\n<" M "tool_calls>\n</",
        "\n\n" OPEN STRING("city", "\xFF"), "\n\n" OPEN STRING("city", "x") CLOSE "\n"};
    struct ds4_grammar_options required = {.tools_required = true};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) check(required, good[i], WALK_WHOLE);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) check(required, bad[i], WALK_REFUSED);
}

TEST(only_the_named_tool_and_only_one_call_when_that_was_asked)
{
    struct ds4_grammar_options named = {.tools_required = true, .tool_name = SPAN("get"), .one_call = true};
    check(named, "\n\n" OPEN STRING("city", "x") CLOSE, WALK_WHOLE);
    check(named, "\n\n<" M "tool_calls>\n<" M "invoke name=\"now\">", WALK_REFUSED);
    check(named, "\n\n" OPEN STRING("city", "x") "</" M "invoke>\n<" M "invoke", WALK_REFUSED);
}

TEST(text_is_free_until_a_block_begins_in_whatever_dialect)
{
    struct ds4_grammar_options automatic = {0};
    struct ds4_error error = {0};
    const uint32_t *mask;
    check(automatic, "Any text, a < b, <tool_call> and <\xEF\xBD\x9C" "DSM", WALK_WHOLE);
    check(automatic, "Text.\n\n" OPEN STRING("city", "x") CLOSE, WALK_WHOLE);
    check(automatic, "<" M "tool", WALK_OPEN);
    check(automatic, "<" M "thing", WALK_REFUSED);
    check(automatic, "<tool_calls>\n<invoke name=\"get\">\n<parameter name=\"city\" string=\"true\">x</parameter>\n"
          "</invoke>\n</tool_calls>", WALK_WHOLE);
    check(automatic, "<tool_calls>\n<invoke name=\"set", WALK_REFUSED);
    struct ds4_grammar *g = of_tools(automatic);
    assert_ok(ds4_grammar_mask(g, &mask, &error), error);
    assert_null(mask);
    ds4_grammar_destroy(g);
}

TEST(an_answer_in_a_form_may_be_a_call_or_the_value)
{
    struct ds4_grammar_options both = {.schema = SPAN("{\"type\":\"object\",\"required\":[\"a\"]}")};
    check(both, "{\"a\": 1}", WALK_WHOLE);
    check(both, "\n\n" OPEN STRING("city", "x") CLOSE, WALK_WHOLE);
    check(both, "Hello", WALK_REFUSED);
}

TEST(reasoning_is_free_but_does_not_end_an_answer_that_must_come)
{
    const struct walker *w = walker_open();
    const struct ds4_special_ids *special = ds4_special(w->engine);
    struct ds4_error error = {0};
    const uint32_t *mask;
    struct ds4_grammar *g = of_tools((struct ds4_grammar_options){.tools_required = true, .in_thinking = true});
    assert_ok(ds4_grammar_mask(g, &mask, &error), error);
    for (int32_t id = 0; id < (int32_t)ds4_engine_info(w->engine)->n_vocab; id++)
        assert_int_equal(mask[id / 32] >> (id % 32) & 1u, id != special->eos);
    assert_int_equal(ds4_grammar_accept(g, special->eos, &error), DS4_ERR_STATE);
    assert_ok(ds4_grammar_accept(g, w->bytes['x'], &error), error);
    assert_ok(ds4_grammar_accept(g, special->think_end, &error), error);
    assert_int_equal(walker_walk(g, SPAN("x"), false, false), WALK_REFUSED);
    assert_int_equal(walker_walk(g, SPAN("\n\n<"), false, false), WALK_OPEN);
    ds4_grammar_destroy(g);
}

TEST(a_strict_tool_names_what_cannot_be_honoured_and_another_goes_without)
{
    struct ds4_error error = {0};
    struct ds4_grammar *g = NULL;
    struct ds4_span tool = SPAN("{\"name\":\"f\",\"strict\":true,"
                                "\"parameters\":{\"properties\":{\"a\":{\"pattern\":\"(x)\\\\1\"}}}}");
    struct ds4_grammar_options options = {.tools = &tool, .n_tools = 1};
    assert_status(ds4_grammar_create(walker_open()->index, &options, &g, &error), DS4_ERR_UNSUPPORTED, error);
    assert_non_null(strstr(error.message, "\"pattern\" is not supported here (references to groups) at #/"));
    tool = SPAN("{\"name\":\"f\",\"parameters\":{\"properties\":{\"a\":{\"pattern\":\"x\",\"type\":\"integer\"}}}}");
    g = walker_grammar(&options);
    assert_int_equal(walker_walk(g, SPAN("<tool_calls>\n<invoke name=\"f\">\n<parameter name=\"a\" string=\"true"),
        false,
                                 false), WALK_REFUSED);
    ds4_grammar_destroy(g);
}

/* ---- random calls through the parser --------------------------------------------------------------------------- */

struct heard {
    size_t n_calls, n_done;
    bool bad;
};

static void hear(void *user, const struct ds4_event *event)
{
    struct heard *h = user;
    json_error_t why;
    if (event->kind == DS4_EVENT_CALLS_BROKEN) h->bad = true;
    if (event->kind == DS4_EVENT_CALLS_DONE) h->n_done++;
    if (event->kind != DS4_EVENT_CALL_END) return;
    h->n_calls++;
    json_t *arguments = json_loadb(event->text.ptr, event->text.len, JSON_ALLOW_NUL, &why);
    json_t *days = json_object_get(arguments, "days"), *code = json_object_get(arguments, "code");
    if (!json_is_object(arguments)) h->bad = true;
    if (days && json_object_get(arguments, "city") &&
        (!json_is_integer(days) || json_integer_value(days) < 1 || json_integer_value(days) > 9))
        h->bad = true;
    if (code && json_object_get(arguments, "city") && !json_is_string(code)) h->bad = true;
    json_decref(arguments);
}

static int32_t random_of(const uint32_t *mask, uint32_t n_vocab, uint64_t *state)
{
    for (;;) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        int32_t id = (int32_t)((*state >> 33) % n_vocab);
        if (mask[id / 32] >> (id % 32) & 1u) return id;
    }
}

TEST(random_choices_among_what_is_allowed_are_whole_calls)
{
    const struct walker *w = walker_open();
    uint64_t random = test_seed();
    for (int round = 0; round < 20; round++) {
        struct ds4_grammar *g = of_tools((struct ds4_grammar_options){.tools_required = true});
        struct ds4_parser_options options = {.tools_active = true};
        struct ds4_parser *parser;
        struct ds4_error error = {0};
        struct heard heard = {0};
        assert_int_equal(ds4_parser_create(w->engine, &options, &parser), DS4_OK);
        for (size_t left = 300; !ds4_grammar_is_done(g); left--) {
            const uint32_t *mask;
            assert_true(left > 0);
            assert_ok(ds4_grammar_mask(g, &mask, &error), error);
            int32_t id = random_of(mask, ds4_engine_info(w->engine)->n_vocab, &random);
            if (!ds4_grammar_fits(g, id, left - 1)) {
                struct ds4_tokens way = {0};
                assert_ok(ds4_grammar_close(g, &way, &error), error);
                id = way.ids[0];
                ds4_tokens_free(&way);
            }
            assert_ok(ds4_grammar_accept(g, id, &error), error);
            assert_int_equal(ds4_parser_feed(parser, id, hear, &heard), DS4_OK);
        }
        assert_false(heard.bad);
        assert_int_equal(heard.n_done, 1);
        assert_true(heard.n_calls > 0);
        ds4_parser_destroy(parser);
        ds4_grammar_destroy(g);
    }
}

/* What the mask says at a place, of every token, is what reading the token says. */
static void compare_all(struct ds4_grammar *g, const char *place)
{
    const struct walker *w = walker_open();
    uint32_t n = ds4_engine_info(w->engine)->n_vocab, *kept = malloc((n + 31) / 32 * sizeof *kept);
    const uint32_t *mask;
    struct ds4_error error = {0};
    assert_ok(ds4_grammar_mask(g, &mask, &error), error);
    memcpy(kept, mask, (n + 31) / 32 * sizeof *kept);
    for (int32_t id = 0; id < (int32_t)n; id++) {
        struct ds4_grammar *fork;
        assert_ok(ds4_grammar_fork(g, &fork, &error), error);
        bool taken = ds4_grammar_accept(fork, id, &error) == DS4_OK;
        ds4_grammar_destroy(fork);
        if (taken != (kept[id / 32] >> (id % 32) & 1u)) {
            struct ds4_span bytes = ds4_token_bytes(w->engine, id);
            fail_msg("the mask is wrong about \"%.*s\" behind %s", (int)bytes.len, bytes.ptr, place);
        }
    }
    free(kept);
}

TEST(a_mask_at_a_name_or_in_a_pattern_says_of_every_token_what_reading_it_says)
{
    static const char open_tool[] = "{\"name\":\"get\",\"parameters\":{\"type\":\"object\",\"properties\":{"
        "\"city\":{\"type\":\"string\",\"pattern\":\"^[A-Z][a-z]*( [a-z]*)?$\"},\"c\":{\"type\":\"array\","
        "\"items\":{\"type\":\"string\",\"pattern\":\"^a.*\"}}}}}";
    static const char *const places[] = {
        OPEN "<" M "parameter name=\"", OPEN "<" M "parameter name=\"c", OPEN "<" M "parameter name=\"city",
        OPEN "<" M "parameter name=\"x\xC3", OPEN STRING("x", "y") "<" M "parameter name=\"",
        OPEN "<" M "parameter name=\"city\" string=\"true\">", OPEN "<" M "parameter name=\"city\" string=\"true\">Ro",
        OPEN JSON("c", "[\"a\"]") "<" M "parameter name=\"ci", OPEN "<" M "parameter name=\"c\" string=\"false\">[\"",
        OPEN "<" M "parameter name=\"c\" string=\"false\">[\"ab",
        OPEN "<" M "parameter name=\"c\" string=\"false\">[\"ab\\"};
    struct ds4_span tools[1] = {span_from(open_tool)};
    struct ds4_grammar_options options = {.tools = tools, .n_tools = 1, .tools_required = true};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct ds4_grammar *g = walker_grammar(&options);
        struct buf text = {0};
        buf_put_text(&text, "\n\n");
        buf_put_text(&text, places[i]);
        assert_int_equal(walker_walk(g, buf_span(&text), false, false), WALK_OPEN);
        compare_all(g, places[i]);
        buf_deinit(&text);
        ds4_grammar_destroy(g);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        T(a_call_that_is_asked_for_has_the_form_of_the_markup_and_the_schema),
        T(only_the_named_tool_and_only_one_call_when_that_was_asked),
        T(text_is_free_until_a_block_begins_in_whatever_dialect), T(an_answer_in_a_form_may_be_a_call_or_the_value),
        T(reasoning_is_free_but_does_not_end_an_answer_that_must_come),
        T(a_strict_tool_names_what_cannot_be_honoured_and_another_goes_without),
        T(random_choices_among_what_is_allowed_are_whole_calls),
        T(a_mask_at_a_name_or_in_a_pattern_says_of_every_token_what_reading_it_says)};
    int failed = run_tests_(__FILE__, tests, sizeof tests / sizeof *tests);
    walker_close();
    return failed;
}
