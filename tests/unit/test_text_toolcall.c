/* test_text_toolcall.c - emitted tokens to events: thinking, visible text, calls in every dialect, malformed and
 * unterminated blocks, characters cut by tokens. Every case is fed whole, byte by byte and cut at every place, with the
 * same result. Texts are written with ASCII bars and turned into the real ones: | is U+FF5C in front of and behind
 * DSML. */
#include <jansson.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "lib/alloc_fail.h"
#include "lib/full_vocab.h"
#include "lib/test.h"
#include "text/encode.h"
#include "text/json_style.h"
#include "text/markers.h"
#include "text/render.h"
#include "text/toolcall.h"

/* Events as text, neighbours of one kind joined: T<text> R<reasoning> B0<name> A0<args> E0<args> D<raw> X<raw> S. */
struct log {
    struct buf text;
    int last_kind;
    uint32_t last_call;
    struct buf args;      /* fragments of the running call */
    bool args_differ, splits_character;
    struct buf visible;   /* everything a client would show or replay, for the property of losing nothing */
};

static void note(void *user, const struct ds4_event *e)
{
    static const char letters[] = "RTBAEDXS";
    struct log *log = user;
    bool joins = (e->kind == DS4_EVENT_TEXT || e->kind == DS4_EVENT_THINK || e->kind == DS4_EVENT_CALL_ARGS) &&
                 log->last_kind == (int)e->kind;
    if (!joins) {
        if (log->text.text.len > 0) buf_put_byte(&log->text, '|');
        buf_put_byte(&log->text, (unsigned char)letters[e->kind]);
        if (e->kind == DS4_EVENT_CALL_BEGIN || e->kind == DS4_EVENT_CALL_END) buf_printf(&log->text, "%u", e->call_i);
    }
    buf_put_span(&log->text, e->text);
    if (!utf8_valid(e->text)) log->splits_character = true;
    if (e->kind == DS4_EVENT_CALL_BEGIN) buf_clear(&log->args);
    if (e->kind == DS4_EVENT_CALL_ARGS) buf_put_span(&log->args, e->text);
    if (e->kind == DS4_EVENT_CALL_END && !span_eq(buf_span(&log->args), e->text)) log->args_differ = true;
    if (e->kind == DS4_EVENT_TEXT || e->kind == DS4_EVENT_CALLS_DONE || e->kind == DS4_EVENT_CALLS_BROKEN)
        buf_put_span(&log->visible, e->text);
    log->last_kind = (int)e->kind;
    log->last_call = e->call_i;
}

static void log_free(struct log *log)
{
    buf_deinit(&log->text);
    buf_deinit(&log->args);
    buf_deinit(&log->visible);
}

/* |DSML| with ASCII bars to the real marker; || likewise, a bar before DSML or behind it. */
static struct ds4_text real(struct ds4_span s)
{
    struct buf out = {0};
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '|')
            buf_put_text(&out, MARK_BAR);
        else
            buf_put_byte(&out, (unsigned char)s.ptr[i]);
    }
    return out.text;
}

static const struct ds4_parser_options with_tools = {.tools_active = true};

/* Feeds the bytes cut before each of cuts (ascending). A piece is encoded as plain text, or, when it is not valid UTF-8
 * by itself, byte by byte with the tokens of single bytes; special: markers in a piece become their tokens. */
static void feed_piece(struct ds4_parser *p, struct ds4_span piece, bool special, struct log *log)
{
    struct ds4_tokens ids = {0};
    if (utf8_valid(piece)) {
        assert_int_equal(text_encode(full_vocab(), piece, special, &ids, NULL), DS4_OK);
    } else {
        for (size_t i = 0; i < piece.len; i++) {
            int32_t id = vocab_find_base(full_vocab(), span_make(piece.ptr + i, 1));
            assert_int_equal(ds4_tokens_append(&ids, &id, 1), DS4_OK);
        }
    }
    for (size_t i = 0; i < ids.n; i++) assert_int_equal(ds4_parser_feed(p, ids.ids[i], note, log), DS4_OK);
    ds4_tokens_free(&ids);
}

static struct log parse_cut(struct ds4_span text, const struct ds4_parser_options *options, bool special, size_t cut,
                            size_t every)
{
    struct ds4_parser *p;
    struct log log = {.last_kind = -1};
    assert_int_equal(parser_create(full_vocab(), options, &p), DS4_OK);
    for (size_t at = 0; at < text.len;) {
        size_t end = every ? at + every : at < cut ? cut : text.len;
        if (end > text.len) end = text.len;
        feed_piece(p, span_make(text.ptr + at, end - at), special, &log);
        at = end;
    }
    assert_int_equal(ds4_parser_finish(p, note, &log), DS4_OK);
    ds4_parser_destroy(p);
    assert_false(log.args_differ);
    assert_false(log.splits_character);
    return log;
}

static void assert_log(const struct log *log, struct ds4_span want, const char *how, size_t cut)
{
    if (span_eq(buf_span(&log->text), want)) return;
    fail_msg("%s %zu: got\n  %.*s\nwanted\n  %.*s", how, cut, (int)log->text.text.len, log->text.text.ptr,
        (int)want.len,
             want.ptr);
}

static void check(const char *input, const char *want, const struct ds4_parser_options *options)
{
    struct ds4_text text = real(span_from(input)), expected = real(span_from(want));
    /* In the expectation the separator between events is written ^, so that | can mean a bar. */
    for (size_t i = 0; i < expected.len; i++) {
        if (expected.ptr[i] == '^') expected.ptr[i] = '|';
    }
    struct ds4_span bytes = span_make(text.ptr, text.len), events = span_make(expected.ptr, expected.len);
    struct log log = parse_cut(bytes, options, true, 0, 0);
    assert_log(&log, events, "special tokens, whole", 0);
    log_free(&log);
    for (size_t cut = 0; cut <= bytes.len; cut++) {
        log = parse_cut(bytes, options, false, cut, 0);
        assert_log(&log, events, "plain tokens, cut at", cut);
        log_free(&log);
    }
    for (size_t every = 1; every < 6; every++) {
        log = parse_cut(bytes, options, false, 0, every);
        assert_log(&log, events, "pieces of", every);
        log_free(&log);
    }
    ds4_text_free(&text);
    ds4_text_free(&expected);
}

#define CALL(args) "<|DSML|tool_calls>\n<|DSML|invoke name=\"f\">\n" args "</|DSML|invoke>\n</|DSML|tool_calls>"
#define PARAM(attributes, value) "<|DSML|parameter " attributes ">" value "</|DSML|parameter>\n"
#define DONE(raw, json) "B0f^A" json "^E0" json "^D" raw

static void text_without_a_block_is_text(void **state)
{
    (void)state;
    check("Hello there.\n\nBye \n", "THello there.\n\nBye \n", &with_tools);
    check("a < b && <b>bold</b> <tool <tool_calls", "Ta < b && <b>bold</b> <tool <tool_calls", &with_tools);
    check("<|DSML|tool_call_s> </|DSML|tool_calls>", "T<|DSML|tool_call_s> </|DSML|tool_calls>", &with_tools);
    check("", "", &with_tools);
    check("\n\n", "T\n\n", &with_tools);
}

static void without_active_tools_a_block_is_text(void **state)
{
    (void)state;
    struct ds4_parser_options none = {0};
    check("x\n\n" CALL(""), "Tx\n\n" CALL(""), &none);
}

static void a_canonical_block_gives_calls_and_its_exact_bytes(void **state)
{
    (void)state;
    check("Go.\n\n" CALL(PARAM("name=\"k\" string=\"true\"", "v") PARAM("name=\"n\" string=\"false\"",
        "{\"a\":[1,2]}")),
          "TGo.^" DONE("\n\n" CALL(PARAM("name=\"k\" string=\"true\"", "v") PARAM("name=\"n\" string=\"false\"",
              "{\"a\":[1,2]}")),
                       "{\"k\": \"v\", \"n\": {\"a\": [1, 2]}}"),
          &with_tools);
    check(CALL(""), DONE(CALL(""), "{}"), &with_tools);
    check(CALL("\n"), DONE(CALL("\n"), "{}"), &with_tools);
}

static void parallel_calls_are_counted(void **state)
{
    (void)state;
#define TWO "<|DSML|tool_calls><|DSML|invoke name=\"a\">" PARAM("name=\"x\" string=\"false\"", "1") "</|DSML|invoke>" \
            "<|DSML|invoke name=\"b\"></|DSML|invoke></|DSML|tool_calls>"
    check(TWO, "B0a^A{\"x\": 1}^E0{\"x\": 1}^B1b^A{}^E1{}^D" TWO, &with_tools);
}

static void text_behind_the_block_is_ignored(void **state)
{
    (void)state;
    check(CALL("") "\nmore <|DSML|tool_calls> text", DONE(CALL(""), "{}"), &with_tools);
}

static void every_dialect_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *prefix, *block;
    } dialects[] = {{"|DSML|", "tool_calls"}, {"DSML|", "tool_calls"}, {"||DSML||", "tool_calls"}, {"", "tool_calls"},
                    {"|DSML|", "function_calls"}};
    for (size_t i = 0; i < 5; i++) {
        struct buf in = {0}, want = {0};
        const char *p = dialects[i].prefix, *b = dialects[i].block;
        buf_printf(&in,
                   "\n\n<%s%s>\n<%sinvoke name=\"f\">\n<%sparameter name=\"k\" string=\"true\">v</p> </%sinvoke>"
                   "</%sparameter>\n</%sinvoke>\n</%s%s>", p, b, p, p, p, p, p, p, b);
        buf_printf(&want, "TText^B0f^A{\"k\": \"v</p> </%sinvoke>\"}^E0{\"k\": \"v</p> </%sinvoke>\"}^D%.*s", p, p,
                   (int)in.text.len, in.text.ptr);
        buf_put_byte(&want, 0);
        struct buf all = {0};
        buf_put_text(&all, "Text");
        buf_put_span(&all, buf_span(&in));
        buf_put_byte(&all, 0);
        check(all.text.ptr, want.text.ptr, &with_tools);
        buf_deinit(&all);
        buf_deinit(&in);
        buf_deinit(&want);
    }
}

static void the_dialect_must_not_change_inside_a_block(void **state)
{
    (void)state;
    check("<|DSML|tool_calls>\n<invoke name=\"f\">", "X<|DSML|tool_calls>\n^T<invoke name=\"f\">", &with_tools);
}

static void strings_keep_every_byte_but_the_escaped_closing_tag(void **state)
{
    (void)state;
    check(CALL(PARAM("name=\"k\" string=\"true\"", "\n a\\b\"c\"\t&amp; &lt;b> <c> </d>\n\n")),
          DONE(CALL(PARAM("name=\"k\" string=\"true\"", "\n a\\b\"c\"\t&amp; &lt;b> <c> </d>\n\n")),
               "{\"k\": \"\\n a\\\\b\\\"c\\\"\\t&amp; &lt;b> <c> </d>\\n\\n\"}"),
          &with_tools);
    check(CALL(PARAM("name=\"k\" string=\"true\"", "1&lt;/|DSML|parameter>2&lt;/|DSML|x<</|DSML|")),
          DONE(CALL(PARAM("name=\"k\" string=\"true\"", "1&lt;/|DSML|parameter>2&lt;/|DSML|x<</|DSML|")),
               "{\"k\": \"1</|DSML|parameter>2&lt;/|DSML|x<</|DSML|\"}"),
          &with_tools);
    check(CALL(PARAM("name=\"k\" string=\"true\"", "\x01\x7F\xE4\xBD\xA0")),
          DONE(CALL(PARAM("name=\"k\" string=\"true\"", "\x01\x7F\xE4\xBD\xA0")),
              "{\"k\": \"\\u0001\x7F\xE4\xBD\xA0\"}"),
          &with_tools);
}

static void all_entities_are_unescaped_only_when_asked(void **state)
{
    (void)state;
    struct ds4_parser_options entities = {.tools_active = true, .dsml_entities = true};
#define ESCAPED CALL(PARAM("name=\"k\" string=\"true\"", "&amp;lt; &lt;/|DSML|parameter> &quot;&apos;&gt;& &am &amp;"))
    check(ESCAPED, DONE(ESCAPED, "{\"k\": \"&lt; </|DSML|parameter> \\\"'>& &am &\"}"), &entities);
}

static void attributes_are_unescaped_and_may_come_in_any_order(void **state)
{
    (void)state;
#define ATTRIBUTES "<|DSML|tool_calls><|DSML|invoke  name = \"a&amp;&quot;b>\" >" \
                   "<|DSML|parameter\nstring=\"true\" name=\"&lt;k\">v" \
                   "</|DSML|parameter></|DSML|invoke></|DSML|tool_calls>"
    check(ATTRIBUTES, "B0a&\"b>^A{\"<k\": \"v\"}^E0{\"<k\": \"v\"}^D" ATTRIBUTES, &with_tools);
}

static void json_that_is_none_becomes_a_string(void **state)
{
    (void)state;
    check(CALL(PARAM("name=\"k\" string=\"false\"", " [1, ")), DONE(CALL(PARAM("name=\"k\" string=\"false\"",
        " [1, ")), "{\"k\": \" [1, \"}"),
          &with_tools);
    check(CALL(PARAM("name=\"k\" string=\"false\"", "")), DONE(CALL(PARAM("name=\"k\" string=\"false\"", "")),
        "{\"k\": \"\"}"),
          &with_tools);
    check(CALL(PARAM("name=\"k\" string=\"false\"", "\n\"\\u003c/x>\" ")),
          DONE(CALL(PARAM("name=\"k\" string=\"false\"", "\n\"\\u003c/x>\" ")), "{\"k\": \"</x>\"}"), &with_tools);
}

static void a_missing_string_attribute_means_a_string_or_an_object(void **state)
{
    (void)state;
    check(CALL(PARAM("name=\"k\"", " 12 ")), DONE(CALL(PARAM("name=\"k\"", " 12 ")), "{\"k\": \" 12 \"}"), &with_tools);
    check(CALL(PARAM("name=\"k\"", "")), DONE(CALL(PARAM("name=\"k\"", "")), "{\"k\": \"\"}"), &with_tools);
#define NESTED CALL(PARAM("name=\"o\"", "\n" PARAM("name=\"a\" string=\"true\"", "1") PARAM("name=\"b\"", \
    PARAM("name=\"c\"", "<|DSML|par") ) "\n") \
                    PARAM("name=\"z\" string=\"false\"", "0"))
    check(NESTED, DONE(NESTED, "{\"o\": {\"a\": \"1\", \"b\": {\"c\": \"<|DSML|par\"}}, \"z\": 0}"), &with_tools);
}

static void a_name_that_comes_twice_keeps_both_so_that_the_last_wins(void **state)
{
    (void)state;
#define TWICE CALL(PARAM("name=\"k\" string=\"false\"", "1") PARAM("name=\"k\" string=\"false\"", "2"))
    check(TWICE, DONE(TWICE, "{\"k\": 1, \"k\": 2}"), &with_tools);
}

static void malformed_blocks_come_back_as_they_were(void **state)
{
    (void)state;
    check("a\n<|DSML|tool_calls>\nno", "Ta^X\n<|DSML|tool_calls>\n^Tno", &with_tools);
    check("<|DSML|tool_calls></|DSML|tool_calls>", "X<|DSML|tool_calls>^T</|DSML|tool_calls>", &with_tools);
    check("<|DSML|tool_calls><|DSML|invoke>x", "X<|DSML|tool_calls>^T<|DSML|invoke>x", &with_tools);
    check("<|DSML|tool_calls><|DSML|invoke name=f>x", "X<|DSML|tool_calls>^T<|DSML|invoke name=f>x", &with_tools);
    check("<|DSML|tool_calls><|DSML|invoke name=\"f\" name>x", "X<|DSML|tool_calls>^T<|DSML|invoke name=\"f\" name>x",
        &with_tools);
    check("<|DSML|tool_calls><|DSML|invoke name=\"f\">oops",
        "B0f^A{^X<|DSML|tool_calls><|DSML|invoke name=\"f\">^Toops", &with_tools);
}

static void a_mentioned_tag_does_not_hide_a_real_block(void **state)
{
    (void)state;
    check("Use `<tool_calls>` or <tool_calls>:\n\n" CALL(""),
          "TUse `^X<tool_calls>^T` or^X <tool_calls>^T:^" DONE("\n\n" CALL(""), "{}"), &with_tools);
    check("<tool_calls>" CALL(""), "X<tool_calls>^" DONE(CALL(""), "{}"), &with_tools);
}

static void after_a_begun_call_nothing_more_is_recognised(void **state)
{
    (void)state;
    check("<|DSML|tool_calls><|DSML|invoke name=\"f\"> x " CALL(""),
          "B0f^A{^X<|DSML|tool_calls><|DSML|invoke name=\"f\"> ^Tx " CALL(""), &with_tools);
}

static void unterminated_blocks_come_back_whole(void **state)
{
    (void)state;
    struct ds4_text whole = real(SPAN("Go\n\n" CALL(PARAM("name=\"k\" string=\"true\"", "v&lt;") PARAM("name=\"n\"",
        " <"))));
    for (size_t len = 0; len < whole.len; len++) {
        struct log log = parse_cut(span_make(whole.ptr, len), &with_tools, false, 0, 0);
        /* Nothing is lost: what is shown is what was written (cut characters excepted), and no block is done. */
        if (utf8_valid(span_make(whole.ptr, len)))
            assert_true(span_eq(buf_span(&log.visible), span_make(whole.ptr, len)));
        assert_true(log.last_kind != DS4_EVENT_CALLS_DONE);
        log_free(&log);
    }
    ds4_text_free(&whole);
}

/* ---- thinking: by token ids ------------------------------------------------------------------------------------- */

static struct log parse_ids(const int32_t *ids, size_t n, const struct ds4_parser_options *options)
{
    struct ds4_parser *p;
    struct log log = {.last_kind = -1};
    assert_int_equal(parser_create(full_vocab(), options, &p), DS4_OK);
    for (size_t i = 0; i < n; i++) assert_int_equal(ds4_parser_feed(p, ids[i], note, &log), DS4_OK);
    assert_int_equal(ds4_parser_finish(p, note, &log), DS4_OK);
    ds4_parser_destroy(p);
    return log;
}

/* Text with markers to tokens in special mode, parsed with the options. */
static void check_special(const char *input, const char *want, const struct ds4_parser_options *options)
{
    struct ds4_text text = real(span_from(input)), expected = real(span_from(want));
    struct ds4_tokens ids = {0};
    for (size_t i = 0; i < expected.len; i++) {
        if (expected.ptr[i] == '^') expected.ptr[i] = '|';
    }
    assert_int_equal(text_encode(full_vocab(), span_make(text.ptr, text.len), true, &ids, NULL), DS4_OK);
    struct log log = parse_ids(ids.ids, ids.n, options);
    assert_log(&log, span_make(expected.ptr, expected.len), "special tokens", 0);
    log_free(&log);
    ds4_tokens_free(&ids);
    ds4_text_free(&text);
    ds4_text_free(&expected);
}

static const struct ds4_parser_options thinking = {.in_thinking = true, .tools_active = true};
#define EOS "<|end\xE2\x96\x81of\xE2\x96\x81sentence|>"

static void thinking_ends_at_its_token(void **state)
{
    (void)state;
    check_special("I see.</think>Yes." EOS, "RI see.^TYes.^S", &thinking);
    check_special("<think>I see.</think>\n\nYes." EOS, "RI see.^T\n\nYes.^S", &thinking);
    check_special("</think>Yes." EOS "behind" EOS, "TYes.^S", &thinking);
    check_special("never ends", "Rnever ends", &thinking);
    check_special("never ends" EOS, "Rnever ends^S", &thinking);
    check_special("a<think>b</think>c", "Ra<think>b^Tc", &thinking);
}

static void a_marker_spelled_in_plain_tokens_does_not_end_thinking(void **state)
{
    (void)state;
    const int32_t ids[] = {19923, 1718, 37947, 32, 19923, 128822, 19923}; /* Hello </think> Hello, then the real one */
    struct log log = parse_ids(ids, 7, &thinking);
    assert_log(&log, SPAN("RHello</think>Hello|THello"), "ids", 0);
    log_free(&log);
}

static void blocks_in_reasoning_are_never_calls(void **state)
{
    (void)state;
    check_special("I could write " CALL("") "</think>Done." EOS, "RI could write " CALL("") "^TDone.^S", &thinking);
    check_special("plan " CALL("") "</think>\n\n" CALL("") EOS, "Rplan " CALL("") "^" DONE("\n\n" CALL(""), "{}") "^S",
        &thinking);
}

static void think_markers_around_the_visible_text_are_handled(void **state)
{
    (void)state;
    check_special("</think>Yes.", "TYes.", &with_tools);                       /* repeated by the model */
    check_special("<think>hm</think>Yes.", "Rhm^TYes.", &with_tools);          /* thinks although it should not */
    check_special("a </think> b <think> c", "Ta </think> b <think> c", &with_tools);
    check_special("\n</think>Yes.", "T\nYes.", &with_tools);
}

static void markers_inside_a_value_are_text(void **state)
{
    (void)state;
#define MARKED CALL(PARAM("name=\"k\" string=\"true\"", "<think>|DSML|</think><|User|>"))
    check_special(MARKED, DONE(MARKED, "{\"k\": \"<think>|DSML|</think><|User|>\"}"), &with_tools);
}

static void control_tokens_in_visible_text_are_dropped_unless_markers_are_shown(void **state)
{
    (void)state;
    struct ds4_parser_options raw = {.in_thinking = true, .tools_active = true, .show_markers = true};
    check_special("a<|User|>b", "Tab", &with_tools);
    check_special("r</think>a<|User|>" CALL("") EOS, "Tr</think>a<|User|>" CALL("") EOS "^S", &raw);
}

static void an_end_inside_a_block_breaks_it(void **state)
{
    (void)state;
    check_special("x <|DSML|tool_calls>" EOS, "Tx^X <|DSML|tool_calls>^S", &with_tools);
}

/* ---- characters -------------------------------------------------------------------------------------------------- */

static void cut_characters_are_held_and_bad_ones_replaced_at_once(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *want;
    } cases[] = {{"a\xF0\x9F\x98\x80" "b", "Ta\xF0\x9F\x98\x80" "b"},
                 {"\xE4\xBD", "T\xEF\xBF\xBD"},
                 {"\xE4\xBD" "a", "T\xEF\xBF\xBD" "a"},
                 {"\xE4\xE4\xBD\xA0", "T\xEF\xBF\xBD\xE4\xBD\xA0"},
                 {"\xFF\xC0\x80", "T\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
                 {"\xE0\x80\x80", "T\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
                 {"\xF4\x90\x80\x80x", "T\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDx"},
                 {"\xF0\x9F\x98", "T\xEF\xBF\xBD"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct log log = parse_cut(span_from(cases[i].bytes), &with_tools, false, 0, 1);
        assert_log(&log, span_from(cases[i].want), "byte by byte, case", i);
        log_free(&log);
    }
    /* Nothing of half a character may be seen before its rest. */
    struct ds4_parser *p;
    struct log log = {.last_kind = -1};
    assert_int_equal(parser_create(full_vocab(), &with_tools, &p), DS4_OK);
    feed_piece(p, SPAN("\xF0\x9F\x98"), false, &log);
    assert_int_equal(log.text.text.len, 0);
    feed_piece(p, SPAN("\x80"), false, &log);
    assert_log(&log, SPAN("T\xF0\x9F\x98\x80"), "joined", 0);
    ds4_parser_destroy(p);
    log_free(&log);
}

/* ---- where sampling is greedy ---------------------------------------------------------------------------------- */

static void syntax_is_told_from_free_text(void **state)
{
    (void)state;
    /* g: syntax, f: free text, '.': outside; one letter after each byte of the ASCII rendering. */
    static const struct {
        const char *piece;
        bool call, syntax;
    } steps[] = {{"Go.\n\n", false, false},
                 {"<|DSML|", true, true},
                 {"tool_calls>\n", true, true},
                 {"<|DSML|invoke name=\"f\">\n", true, true},
                 {"<|DSML|parameter name=\"k\" string=\"true\">", true, false},
                 {"some <b>text", true, false},
                 {"</", true, false},
                 {"|DSML|", true, true},
                 {"parameter>\n", true, true},
                 {"<|DSML|parameter name=\"j\" string=\"false\">", true, true},
                 {"{\"a", true, false},
                 {"\\\"b", true, false},
                 {"\": 1}", true, true},
                 {"</|DSML|parameter></|DSML|invoke>", true, true},
                 {"</|DSML|tool_calls>", false, false}};
    struct ds4_parser *p;
    struct log log = {.last_kind = -1};
    assert_int_equal(parser_create(full_vocab(), &with_tools, &p), DS4_OK);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct ds4_text piece = real(span_from(steps[i].piece));
        feed_piece(p, span_make(piece.ptr, piece.len), true, &log);
        if (ds4_parser_in_call(p) != steps[i].call || ds4_parser_in_syntax(p) != steps[i].syntax)
            fail_msg("after \"%s\": in call %d, in syntax %d", steps[i].piece, ds4_parser_in_call(p),
                ds4_parser_in_syntax(p));
        ds4_text_free(&piece);
    }
    ds4_parser_destroy(p);
    log_free(&log);
}

/* ---- properties over random markup ----------------------------------------------------------------------------- */

static void random_markup(struct rng *rng, struct buf *out)
{
    static const char *const atoms[] = {"<|DSML|tool_calls>", "\n", "<|DSML|invoke name=\"f\">", "</|DSML|invoke>",
                                        "</|DSML|tool_calls>", "<|DSML|parameter name=\"k\" string=\"true\">",
                                        "<|DSML|parameter name=\"k\" string=\"false\">", "<|DSML|parameter name=\"k\">",
                                        "</|DSML|parameter>", "{\"a\": 1}", "text", " ", "<", "&lt;",
                                            "&lt;/|DSML|parameter>", "\"",
                                        "<tool_calls>", "<invoke name=\"g\">", "</invoke>", "</tool_calls>", "|",
                                            "\xE4\xBD\xA0", "\\"};
    size_t n = rng_below(rng, 16);
    buf_clear(out);
    /* Half of them begin well, half of these with a value, and half end well, so that deep states are reached. */
    if (rng_below(rng, 2)) buf_put_text(out, "<|DSML|tool_calls><|DSML|invoke name=\"f\">");
    if (rng_below(rng, 2)) buf_put_text(out, atoms[5 + rng_below(rng, 3)]);
    for (size_t i = 0; i < n; i++) buf_put_text(out, atoms[rng_below(rng, sizeof atoms / sizeof atoms[0])]);
    if (rng_below(rng, 2)) buf_put_text(out, "</|DSML|parameter></|DSML|invoke></|DSML|tool_calls>");
}

static void events_do_not_depend_on_the_cuts_and_lose_nothing(void **state)
{
    (void)state;
    struct rng rng = {99};
    struct buf markup = {0};
    size_t n_calls = 0;
    for (int round = 0; round < 20000; round++) {
        random_markup(&rng, &markup);
        struct ds4_text text = real(buf_span(&markup));
        struct ds4_span bytes = span_make(text.ptr ? text.ptr : "", text.len);
        struct ds4_parser_options options = {.tools_active = true, .dsml_entities = rng_below(&rng, 2) == 1};
        struct log whole = parse_cut(bytes, &options, true, 0, 0);
        struct log pieces = parse_cut(bytes, &options, false, 0, 1 + rng_below(&rng, 5));
        assert_log(&pieces, buf_span(&whole.text), "round", (size_t)round);
        bool done = span_find(buf_span(&whole.text), SPAN("|D"), 0) != SIZE_MAX;
        if (!done && !span_eq(buf_span(&whole.visible), bytes)) fail_msg("round %d: text was lost", round);
        if (done && !span_starts(bytes, buf_span(&whole.visible))) fail_msg("round %d: text was changed", round);
        if (whole.args.text.len > 0 && done) {
            struct jtext_doc doc; /* the arguments of the last call are JSON */
            assert_int_equal(jtext_parse(&doc, buf_span(&whole.args), NULL), DS4_OK);
            jtext_deinit(&doc);
            n_calls++;
        }
        log_free(&whole);
        log_free(&pieces);
        ds4_text_free(&text);
    }
    assert_true(n_calls > 100);
    buf_deinit(&markup);
}

/* A random JSON object of strings with dangerous parts and of other values. */
static void random_object(struct rng *rng, struct buf *out)
{
    static const char *const parts[] = {"a", "</|DSML|parameter>", "<|DSML|invoke name=\"x\">", "\n", "\"", "\\",
        "&amp;",
                                        "&lt;", "<think>", "\xE4\xBD\xA0", " ", "{\"k\": 1}", "</|DSML|"};
    static const char *const values[] = {"1", "-2.50", "null", "true", "[]", "{}",
        "[1,{\"a\":\"</|DSML|parameter>\"}]"};
    size_t n = rng_below(rng, 5);
    buf_clear(out);
    buf_put_byte(out, '{');
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "%s\"k%zu&<\\\">\":", i ? "," : "", i);
        if (rng_below(rng, 3) == 0) {
            struct ds4_text value = real(span_from(values[rng_below(rng, 7)]));
            buf_put_span(out, span_make(value.ptr, value.len));
            ds4_text_free(&value);
            continue;
        }
        struct buf string = {0};
        for (size_t k = rng_below(rng, 5); k > 0; k--) buf_put_text(&string, parts[rng_below(rng, 13)]);
        struct ds4_text text = real(buf_span(&string));
        buf_put_json_string(out, span_make(text.ptr ? text.ptr : "", text.len));
        ds4_text_free(&text);
        buf_deinit(&string);
    }
    buf_put_byte(out, '}');
}

static struct ds4_text rendered_answer(struct ds4_tool_call *call, struct ds4_tokens *ids)
{
    struct ds4_text text = {0};
    struct ds4_error error = {0};
    struct ds4_message m = {.role = DS4_ROLE_ASSISTANT, .calls = call, .n_calls = 1};
    struct ds4_chat chat = {.messages = &m, .n_messages = 1, .close_last = true};
    assert_ok(text_render(full_vocab(), &chat, ids, &text, &error), error);
    return text;
}

static void what_was_rendered_is_parsed_back_and_replayed(void **state)
{
    (void)state;
    struct rng rng = {test_seed()};
    struct buf arguments = {0}, name = {0};
    for (int round = 0; round < 3000; round++) {
        random_object(&rng, &arguments);
        buf_clear(&name);
        buf_put_text(&name, rng_below(&rng, 2) ? "tool" : "a\"&<b>");
        struct ds4_tool_call call = {SPAN("1"), buf_span(&name), buf_span(&arguments), {NULL, 0}};
        struct ds4_tokens ids = {0}, ids_again = {0};
        struct ds4_text text = rendered_answer(&call, &ids);
        /* The first three tokens open the turn; the last is the end of sequence. */
        struct log log = parse_ids(ids.ids + 3, ids.n - 3, &with_tools);
        struct buf begin = {0};
        buf_printf(&begin, "B0%.*s|A{", (int)name.text.len, name.text.ptr);
        assert_true(span_starts(buf_span(&log.text), buf_span(&begin)));
        assert_int_equal(log.last_kind, DS4_EVENT_STOP);
        json_t *sent = json_loadb(arguments.text.ptr, arguments.text.len, 0, NULL);
        json_t *got = json_loadb(log.args.text.ptr, log.args.text.len, 0, NULL);
        assert_non_null(sent);
        if (!json_equal(sent, got))
            fail_msg("%.*s came back as %.*s", (int)arguments.text.len, arguments.text.ptr, (int)log.args.text.len,
                     log.args.text.ptr);
        call.sampled = buf_span(&log.visible);
        struct ds4_text again = rendered_answer(&call, &ids_again);
        assert_true(span_eq(span_make(text.ptr, text.len), span_make(again.ptr, again.len)));
        assert_int_equal(ids.n, ids_again.n);
        assert_memory_equal(ids.ids, ids_again.ids, ids.n * sizeof *ids.ids);
        json_decref(sent);
        json_decref(got);
        buf_deinit(&begin);
        ds4_text_free(&text);
        ds4_text_free(&again);
        ds4_tokens_free(&ids);
        ds4_tokens_free(&ids_again);
        log_free(&log);
    }
    buf_deinit(&arguments);
    buf_deinit(&name);
}

static enum ds4_status parse_once(void *user, struct ds4_error *error)
{
    const struct ds4_tokens *ids = user;
    struct ds4_parser *p = NULL;
    enum ds4_status status = parser_create(full_vocab(), &with_tools, &p);
    for (size_t i = 0; i < ids->n && status == DS4_OK; i++) status = ds4_parser_feed(p, ids->ids[i], NULL, NULL);
    if (status == DS4_OK) status = ds4_parser_finish(p, NULL, NULL);
    ds4_parser_destroy(p);
    return status == DS4_OK ? status : err_set(error, status, "the parser has no memory");
}

static void parsing_survives_each_failing_allocation(void **state)
{
    (void)state;
    struct ds4_text text = real(SPAN("Go\n\n" CALL(PARAM("name=\"k\" string=\"true\"",
        "v&lt;") PARAM("name=\"n\" string=\"false\"", "[1]") PARAM("name=\"n\"", " <"))));
    struct ds4_tokens ids = {0};
    assert_int_equal(text_encode(full_vocab(), span_make(text.ptr, text.len), true, &ids, NULL), DS4_OK);
    assert_true(alloc_fail_loop("parse", parse_once, &ids, 1) > 10);
    ds4_tokens_free(&ids);
    ds4_text_free(&text);
}

static void ids_out_of_range_are_no_text(void **state)
{
    (void)state;
    const int32_t ids[] = {-1, 19923, 129280, INT32_MAX, INT32_MIN};
    struct log log = parse_ids(ids, 5, &with_tools);
    assert_log(&log, SPAN("THello"), "ids", 0);
    log_free(&log);
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
        cmocka_unit_test(text_without_a_block_is_text),
        cmocka_unit_test(without_active_tools_a_block_is_text),
        cmocka_unit_test(a_canonical_block_gives_calls_and_its_exact_bytes),
        cmocka_unit_test(parallel_calls_are_counted),
        cmocka_unit_test(text_behind_the_block_is_ignored),
        cmocka_unit_test(every_dialect_is_read),
        cmocka_unit_test(the_dialect_must_not_change_inside_a_block),
        cmocka_unit_test(strings_keep_every_byte_but_the_escaped_closing_tag),
        cmocka_unit_test(all_entities_are_unescaped_only_when_asked),
        cmocka_unit_test(attributes_are_unescaped_and_may_come_in_any_order),
        cmocka_unit_test(json_that_is_none_becomes_a_string),
        cmocka_unit_test(a_missing_string_attribute_means_a_string_or_an_object),
        cmocka_unit_test(a_name_that_comes_twice_keeps_both_so_that_the_last_wins),
        cmocka_unit_test(malformed_blocks_come_back_as_they_were),
        cmocka_unit_test(a_mentioned_tag_does_not_hide_a_real_block),
        cmocka_unit_test(after_a_begun_call_nothing_more_is_recognised),
        cmocka_unit_test(unterminated_blocks_come_back_whole),
        cmocka_unit_test(thinking_ends_at_its_token),
        cmocka_unit_test(a_marker_spelled_in_plain_tokens_does_not_end_thinking),
        cmocka_unit_test(blocks_in_reasoning_are_never_calls),
        cmocka_unit_test(think_markers_around_the_visible_text_are_handled),
        cmocka_unit_test(markers_inside_a_value_are_text),
        cmocka_unit_test(control_tokens_in_visible_text_are_dropped_unless_markers_are_shown),
        cmocka_unit_test(an_end_inside_a_block_breaks_it),
        cmocka_unit_test(cut_characters_are_held_and_bad_ones_replaced_at_once),
        cmocka_unit_test(syntax_is_told_from_free_text),
        cmocka_unit_test(events_do_not_depend_on_the_cuts_and_lose_nothing),
        cmocka_unit_test(what_was_rendered_is_parsed_back_and_replayed),
        cmocka_unit_test(parsing_survives_each_failing_allocation),
        cmocka_unit_test(ids_out_of_range_are_no_text),
    };
    return cmocka_run_group_tests(tests, NULL, release);
}
