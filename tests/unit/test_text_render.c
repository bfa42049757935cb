/* test_text_render.c - conversations to text and ids: the worked examples, the reference encoder's own tests, and the
 * promises that hold for every conversation. Origin of the data: tests/golden/text/README. */
#include <stdlib.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "lib/alloc_fail.h"
#include "lib/chat_json.h"
#include "lib/full_vocab.h"
#include "lib/test.h"
#include "text/markers.h"
#include "text/render.h"

struct rendered {
    struct ds4_tokens ids;
    struct ds4_text text;
};

static struct rendered render(const struct ds4_chat *chat)
{
    struct rendered r = {0};
    struct ds4_error error = {0};
    if (text_render(full_vocab(), chat, &r.ids, &r.text, &error) != DS4_OK) fail_msg("%s", error.message);
    return r;
}

static void rendered_free(struct rendered *r)
{
    ds4_tokens_free(&r->ids);
    ds4_text_free(&r->text);
}

static struct ds4_span text_of(const struct rendered *r) { return span_make(r->text.ptr, r->text.len); }

static void assert_text(struct ds4_span got, struct ds4_span want, const char *what)
{
    size_t i = 0;
    while (i < got.len && i < want.len && got.ptr[i] == want.ptr[i]) i++;
    if (got.len == want.len && i == got.len) return;
    size_t from = i > 40 ? i - 40 : 0;
    fail_msg("%s: differs at byte %zu: got \"%.*s\", wanted \"%.*s\"", what, i, (int)(got.len - from > 120
        ? 120 : got.len - from),
             got.ptr + from, (int)(want.len - from > 120 ? 120 : want.len - from), want.ptr + from);
}

static void assert_ids(const struct ds4_tokens *got, const json_t *want, const char *what)
{
    size_t n = json_array_size(want);
    for (size_t i = 0; i < n && i < got->n; i++) {
        if (got->ids[i] != json_integer_value(json_array_get(want, i)))
            fail_msg("%s: id %zu is %d, wanted %lld", what, i, got->ids[i], json_integer_value(json_array_get(want,
                i)));
    }
    if (got->n != n) fail_msg("%s: %zu ids, wanted %zu", what, got->n, n);
}

static json_t *load(const char *path)
{
    json_error_t why;
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &why);
    if (!json) fail_msg("%s: %s", path, why.text);
    return json;
}

static void renderer_gives_the_text_and_ids_of_all_worked_examples(void **state)
{
    (void)state;
    json_t *examples = load("tests/golden/text/prompt_examples.json");
    assert_int_equal(json_array_size(examples), 24);
    for (size_t i = 0; i < 24; i++) {
        const json_t *e = json_array_get(examples, i), *request = json_object_get(e, "request");
        const char *title = json_string_value(json_object_get(e, "title"));
        const char *think = json_string_value(json_object_get(e, "thinking"));
        const json_t *format = json_object_get(json_object_get(request, "response_format"), "json_schema");
        bool no_tools = strcmp(title, "tools present but tool_choice none") == 0;
        struct arena a;
        struct ds4_chat chat;
        arena_init(&a, 0);
        chat_from_json(&a, json_object_get(request, "messages"), no_tools ? NULL : json_object_get(request, "tools"),
                       json_object_get(format, "schema"), &chat);
        chat.think = strcmp(think, "none") == 0 ? DS4_THINK_NONE : strcmp(think, "max") == 0
            ? DS4_THINK_MAX : DS4_THINK_HIGH;
        struct rendered r = render(&chat);
        assert_text(text_of(&r), json_span(json_object_get(e, "rendered")), title);
        assert_ids(&r.ids, json_object_get(e, "ids"), title);
        rendered_free(&r);
        arena_deinit(&a);
    }
    json_decref(examples);
}

static const json_t *official(json_t *all, size_t i, json_t **input)
{
    const json_t *c = json_array_get(json_object_get(all, "cases"), i), *in = json_object_get(c, "input");
    *input = json_is_string(in) ? json_loads(json_string_value(in), 0, NULL) : json_incref((json_t *)(uintptr_t)in);
    assert_non_null(*input);
    return c;
}

static void renderer_agrees_with_the_reference_encoders_own_tests(void **state)
{
    (void)state;
    json_t *all = load("tests/golden/text/official_prompt_tests.json");
    assert_int_equal(json_array_size(json_object_get(all, "cases")), 4);
    for (size_t i = 0; i < 4; i++) {
        if (i == 2) continue; /* has its own test below */
        json_t *input;
        const json_t *c = official(all, i, &input);
        struct arena a;
        struct ds4_chat chat;
        arena_init(&a, 0);
        chat_from_json(&a, json_is_array(input) ? input : json_object_get(input, "messages"),
                       json_object_get(input, "tools"), NULL, &chat);
        chat.close_last = true;
        chat.think = strcmp(json_string_value(json_object_get(c, "mode")), "chat") ? DS4_THINK_HIGH : DS4_THINK_NONE;
        struct rendered r = render(&chat);
        assert_text(text_of(&r), json_span(json_object_get(c, "gold_text")), "text");
        assert_ids(&r.ids, json_object_get(c, "ids_special_mode"), "ids");
        rendered_free(&r);
        arena_deinit(&a);
        json_decref(input);
    }
    json_decref(all);
}

/* The third one hangs the tools on a developer message, which has no place in our chats: here the block, as we render
 * it elsewhere, is put into that message's text. The bytes must agree; the ids cannot, because content is never
 * control. */
static void renderer_gives_the_text_of_the_reference_test_with_a_developer(void **state)
{
    (void)state;
    json_t *all = load("tests/golden/text/official_prompt_tests.json"), *input;
    const json_t *c = official(all, 2, &input);
    json_t *developer = json_array_get(input, 2);
    struct arena a;
    struct ds4_chat with_tools, chat;
    arena_init(&a, 0);
    json_t *nothing = json_array();
    chat_from_json(&a, nothing, json_object_get(developer, "tools"), NULL, &with_tools);
    struct rendered block = render(&with_tools);
    size_t start = strlen(MARK_BOS), end = block.text.len - strlen(MARK_ASSISTANT MARK_THINK_END);
    chat_from_json(&a, input, NULL, NULL, &chat);
    struct buf content = {0};
    buf_put_span(&content, chat.messages[2].parts[0]);
    buf_put(&content, block.text.ptr + start, end - start);
    struct ds4_span part = buf_span(&content);
    ((struct ds4_message *)(uintptr_t)&chat.messages[2])->parts = &part;
    chat.close_last = true;
    chat.think = DS4_THINK_HIGH;
    struct rendered r = render(&chat);
    assert_text(text_of(&r), json_span(json_object_get(c, "gold_text")), "text");
    rendered_free(&r);
    rendered_free(&block);
    buf_deinit(&content);
    arena_deinit(&a);
    json_decref(nothing);
    json_decref(input);
    json_decref(all);
}

/* ---- content is never control --------------------------------------------------------------------------------- */

enum { N_PLACES = 14 };

/* A conversation with `poison` in one place of it and "x" in all others. */
static struct rendered render_poisoned(struct ds4_span poison, int place)
{
    struct ds4_span at[N_PLACES];
    for (int i = 0; i < N_PLACES; i++) at[i] = i == place ? poison : SPAN("x");
    struct buf json[6] = {0};
    buf_put_text(&json[0], "{\"name\":");
    buf_put_json_string(&json[0], at[0]);
    buf_put_text(&json[0], ",\"description\":");
    buf_put_json_string(&json[0], at[1]);
    buf_put_text(&json[0], ",\"parameters\":{");
    buf_put_json_string(&json[0], at[2]);
    buf_put_text(&json[0], ":1}}");
    buf_put_text(&json[1], "{\"enum\":[");
    buf_put_json_string(&json[1], at[3]);
    buf_put_text(&json[1], "]}");
    buf_put_text(&json[2], "{");
    buf_put_json_string(&json[2], at[4]);
    buf_put_text(&json[2], ":");
    buf_put_json_string(&json[2], at[5]);
    buf_put_text(&json[2], ",\"k\":[");
    buf_put_json_string(&json[2], at[6]);
    buf_put_text(&json[2], "]}");
    struct ds4_span tool = buf_span(&json[0]);
    struct ds4_tool_call calls[] = {{SPAN("1"), at[7], buf_span(&json[2]), {NULL, 0}},
                                    {SPAN("2"), SPAN("t"), at[8], {NULL, 0}}};
    struct ds4_message m[] = {
        {.role = DS4_ROLE_SYSTEM, .parts = &at[9], .n_parts = 1},
        {.role = DS4_ROLE_LATEST_REMINDER, .parts = &at[10], .n_parts = 1},
        {.role = DS4_ROLE_USER, .parts = &at[11], .n_parts = 1},
        {.role = DS4_ROLE_ASSISTANT, .parts = &at[12], .n_parts = 1, .reasoning = at[13], .calls = calls, .n_calls = 2},
        {.role = DS4_ROLE_TOOL, .parts = &at[place == 13 ? 13 : 12], .n_parts = 1, .tool_call_id = SPAN("1")},
        {.role = DS4_ROLE_SYSTEM, .parts = &at[11], .n_parts = 1},
        {.role = DS4_ROLE_ASSISTANT, .parts = &at[12], .n_parts = 1},
    };
    struct ds4_chat chat = {.messages = m, .n_messages = 7, .tools = &tool, .n_tools = 1,
                            .response_schema = buf_span(&json[1]), .think = DS4_THINK_MAX};
    struct rendered r = render(&chat);
    for (int i = 0; i < 6; i++) buf_deinit(&json[i]);
    return r;
}

static size_t control_ids(const struct rendered *r, int32_t *out, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < r->ids.n; i++) {
        if (!vocab_is_control(full_vocab(), r->ids.ids[i])) continue;
        assert_true(n < max);
        out[n++] = r->ids.ids[i];
    }
    return n;
}

static void no_control_id_ever_comes_from_content(void **state)
{
    (void)state;
    int32_t clean[64], dirty[64];
    struct rendered r = render_poisoned(SPAN("x"), 0);
    size_t n = control_ids(&r, clean, 64);
    assert_true(n > 20);
    rendered_free(&r);
    for (int32_t id = 0; id < 129280; id++) {
        /* All specials but the placeholders, and a few of these. */
        if (!vocab_is_control(full_vocab(), id) || (id >= 128003 && id < 128800) || (id > 128850 &&
            id < 129260)) continue;
        for (int place = 0; place < N_PLACES; place++) {
            r = render_poisoned(vocab_token(full_vocab(), id), place);
            assert_int_equal(control_ids(&r, dirty, 64), n);
            assert_memory_equal(clean, dirty, n * sizeof *clean);
            rendered_free(&r);
        }
    }
}

static void halves_of_a_marker_do_not_join_into_one(void **state)
{
    (void)state;
    struct ds4_span parts[] = {SPAN("<thi"), SPAN("nk>")};
    struct ds4_message m[] = {{.role = DS4_ROLE_SYSTEM, .parts = parts, .n_parts = 2},
                              {.role = DS4_ROLE_USER, .parts = parts, .n_parts = 1}};
    struct ds4_chat chat = {.messages = m, .n_messages = 2};
    struct rendered r = render(&chat);
    int32_t control[8];
    const int32_t want[] = {0, 128803, 128804, 128822};
    assert_int_equal(control_ids(&r, control, 8), 4);
    assert_memory_equal(control, want, sizeof want);
    rendered_free(&r);
}

/* ---- the call block -------------------------------------------------------------------------------------------- */

#define CALLS_OPEN "<" MARK_DSML "tool_calls>\n"
#define CALLS_CLOSE "</" MARK_DSML "tool_calls>"

static struct rendered render_call(struct ds4_span name, struct ds4_span arguments, struct ds4_span sampled)
{
    struct ds4_span text = SPAN("Go.");
    struct ds4_tool_call call = {SPAN("1"), name, arguments, sampled};
    struct ds4_message m[] = {{.role = DS4_ROLE_USER, .parts = &text, .n_parts = 1},
                              {.role = DS4_ROLE_ASSISTANT, .parts = &text, .n_parts = 1, .calls = &call, .n_calls = 1}};
    struct ds4_chat chat = {.messages = m, .n_messages = 2, .close_last = true};
    return render(&chat);
}

static struct ds4_span between(struct ds4_span text, struct ds4_span before, struct ds4_span after)
{
    size_t start = span_find(text, before, 0);
    assert_true(start != SIZE_MAX);
    start += before.len;
    size_t end = span_find(text, after, start);
    assert_true(end != SIZE_MAX);
    return span_make(text.ptr + start, end - start);
}

static void values_that_contain_the_closing_tag_are_escaped(void **state)
{
    (void)state;
    struct rendered r = render_call(SPAN("a&b\"<>"),
                                    SPAN("{\"s\":\"1</" MARK_DSML "parameter>2\",\"j\":[\"</"
                                        MARK_DSML "parameter>\"]}"),
                                    SPAN(""));
    assert_text(between(text_of(&r), SPAN(CALLS_OPEN), SPAN(CALLS_CLOSE)),
                SPAN("<" MARK_DSML "invoke name=\"a&amp;b&quot;&lt;&gt;\">\n"
                     "<" MARK_DSML "parameter name=\"s\" string=\"true\">1&lt;/" MARK_DSML "parameter>2</" MARK_DSML
                     "parameter>\n<" MARK_DSML "parameter name=\"j\" string=\"false\">[\"\\u003c/" MARK_DSML
                     "parameter>\"]</" MARK_DSML "parameter>\n</" MARK_DSML "invoke>\n"),
                "block");
    rendered_free(&r);
}

static void sampled_bytes_are_replayed_exactly_with_control_only_in_their_syntax(void **state)
{
    (void)state;
    struct ds4_span sampled = SPAN("\n" CALLS_OPEN "  <" MARK_DSML "invoke name=\"f\"><" MARK_DSML
                                   "parameter string=\"true\"  name=\"k\">a " MARK_DSML " <think></" MARK_DSML
                                   "parameter></" MARK_DSML "invoke>" CALLS_CLOSE);
    struct rendered r = render_call(SPAN("f"), SPAN("{}"), sampled);
    assert_true(span_find(text_of(&r), sampled, 0) != SIZE_MAX);
    int32_t control[16];
    const int32_t want[] = {0, 128803, 128804, 128822, 128825, 128825, 128825, 128825, 128825, 128825, 1};
    assert_int_equal(control_ids(&r, control, 16), 11);
    assert_memory_equal(control, want, sizeof want);
    rendered_free(&r);
}

static void sampled_bytes_that_are_no_whole_block_are_rendered_anew(void **state)
{
    (void)state;
    const struct ds4_span bad[] = {
        SPAN("<" MARK_DSML "tool_calls>"),
        SPAN("hello <think>"),
        SPAN("\n\n"),
        SPAN(CALLS_OPEN "<" MARK_DSML "invoke name=\"f\">\n</" MARK_DSML "invoke>\n" CALLS_CLOSE " "),
        SPAN(CALLS_OPEN CALLS_CLOSE),
        SPAN(CALLS_OPEN "<" MARK_DSML "invoke name=\"\xFF\">\n</" MARK_DSML "invoke>\n" CALLS_CLOSE),
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct rendered r = render_call(SPAN("f"), SPAN("{}"), bad[i]);
        assert_text(between(text_of(&r), SPAN(CALLS_OPEN), SPAN(CALLS_CLOSE)),
                    SPAN("<" MARK_DSML "invoke name=\"f\">\n\n</" MARK_DSML "invoke>\n"), "block");
        rendered_free(&r);
    }
}

static void results_stand_in_the_order_of_their_calls_in_their_own_slots(void **state)
{
    (void)state;
    struct ds4_span t[] = {SPAN("u"), SPAN("third"), SPAN("first"), SPAN("stray"), SPAN("second")};
    struct ds4_tool_call calls[] = {{SPAN("a"), SPAN("f"), SPAN("{}"), SPAN("")},
                                    {SPAN("b"), SPAN("f"), SPAN("{}"), SPAN("")},
                                    {SPAN("c"), SPAN("f"), SPAN("{}"), SPAN("")}};
    struct ds4_message m[] = {{.role = DS4_ROLE_ASSISTANT, .calls = calls, .n_calls = 3},
                              {.role = DS4_ROLE_TOOL, .parts = &t[1], .n_parts = 1, .tool_call_id = SPAN("c")},
                              {.role = DS4_ROLE_USER, .parts = &t[0], .n_parts = 1},
                              {.role = DS4_ROLE_TOOL, .parts = &t[2], .n_parts = 1, .tool_call_id = SPAN("a")},
                              {.role = DS4_ROLE_TOOL, .parts = &t[3], .n_parts = 1, .tool_call_id = SPAN("?")},
                              {.role = DS4_ROLE_TOOL, .parts = &t[4], .n_parts = 1, .tool_call_id = SPAN("b")}};
    struct ds4_chat chat = {.messages = m, .n_messages = 6};
    struct rendered r = render(&chat);
    assert_text(between(text_of(&r), SPAN(MARK_USER), SPAN(MARK_ASSISTANT)),
                SPAN("<tool_result>first</tool_result>\n\nu\n\n<tool_result>stray</tool_result>\n\n"
                     "<tool_result>second</tool_result>\n\n<tool_result>third</tool_result>"),
                "turn");
    rendered_free(&r);
}

/* ---- modes, tasks, refusals ------------------------------------------------------------------------------------- */

static void effort_prefixes_have_the_token_counts_of_the_service(void **state)
{
    (void)state;
    const struct {
        enum ds4_think_mode think;
        enum ds4_effort_table table;
        size_t n_tokens, n_bytes;
    } want[] = {{DS4_THINK_NONE, DS4_EFFORT_PREVIEW, 0, 0},   {DS4_THINK_LOW, DS4_EFFORT_PREVIEW, 0, 0},
                {DS4_THINK_HIGH, DS4_EFFORT_PREVIEW, 0, 0},   {DS4_THINK_MAX, DS4_EFFORT_PREVIEW, 79, 476},
                {DS4_THINK_LOW, DS4_EFFORT_0731, 0, 0},       {DS4_THINK_HIGH, DS4_EFFORT_0731, 79, 476},
                {DS4_THINK_MAX, DS4_EFFORT_0731, 92, 528},    {DS4_THINK_NONE, DS4_EFFORT_0731, 0, 0}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        struct ds4_chat chat = {.think = want[i].think, .effort_table = want[i].table};
        struct rendered r = render(&chat);
        size_t frame = strlen(MARK_BOS MARK_ASSISTANT) + (want[i].think ? strlen(MARK_THINK) : strlen(MARK_THINK_END));
        assert_int_equal(r.ids.n, 3 + want[i].n_tokens);
        assert_int_equal(r.text.len, frame + want[i].n_bytes);
        rendered_free(&r);
    }
}

static void a_prefill_is_continued_and_thinks_only_when_it_has_reasoning(void **state)
{
    (void)state;
    struct ds4_span u = SPAN("u"), a = SPAN("a");
    static const struct {
        enum ds4_think_mode think;
        const char *reasoning, *want;
        bool close;
    } cases[] = {{DS4_THINK_NONE, "", MARK_THINK_END "a", false},
                 {DS4_THINK_NONE, "r", MARK_THINK_END "a", false},
                 {DS4_THINK_HIGH, "", MARK_THINK_END "a", false},
                 {DS4_THINK_HIGH, "r", MARK_THINK "r" MARK_THINK_END "a", false},
                 {DS4_THINK_HIGH, "", MARK_THINK MARK_THINK_END "a" MARK_EOS, true},
                 {DS4_THINK_HIGH, "r", MARK_THINK "r" MARK_THINK_END "a" MARK_EOS, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ds4_message m[] = {
            {.role = DS4_ROLE_USER, .parts = &u, .n_parts = 1},
            {.role = DS4_ROLE_ASSISTANT, .parts = &a, .n_parts = 1, .reasoning = span_from(cases[i].reasoning)}};
        struct ds4_chat chat = {.messages = m, .n_messages = 2, .think = cases[i].think, .close_last = cases[i].close};
        struct rendered r = render(&chat);
        struct ds4_span frame = SPAN(MARK_BOS MARK_USER "u" MARK_ASSISTANT);
        assert_true(span_starts(text_of(&r), frame));
        assert_text(span_skip(text_of(&r), frame.len), span_from(cases[i].want), "prefill");
        rendered_free(&r);
    }
}

static void tools_first_only_swaps_the_order(void **state)
{
    (void)state;
    struct ds4_span system = SPAN("S"), tool = SPAN("{}");
    struct ds4_message m = {.role = DS4_ROLE_SYSTEM, .parts = &system, .n_parts = 1};
    struct ds4_chat chat = {.messages = &m, .n_messages = 1, .tools = &tool, .n_tools = 1, .tools_first = true};
    struct rendered r = render(&chat);
    assert_true(span_starts(text_of(&r), SPAN(MARK_BOS "## Tools\n\n")));
    assert_true(span_find(text_of(&r), SPAN("tool calls.\n\n\nS" MARK_ASSISTANT), 0) != SIZE_MAX);
    rendered_free(&r);
}

static void tasks_put_their_token_where_the_answer_begins(void **state)
{
    (void)state;
    struct ds4_span t[] = {SPAN("u"), SPAN("http://x"), SPAN("a")};
    const struct {
        const char *task, *want;
        size_t n_parts;
    } tasks[] = {
        {"query", MARK_BOS MARK_USER "u<" MARK_BAR "query" MARK_BAR ">a" MARK_EOS, 1},
        {"read_url", MARK_BOS MARK_USER "u<" MARK_BAR "extracted_url" MARK_BAR ">http://x<" MARK_BAR "read_url"
            MARK_BAR ">a" MARK_EOS, 2},
        {"action", MARK_BOS MARK_USER "u" MARK_ASSISTANT MARK_THINK "<" MARK_BAR "action" MARK_BAR ">a" MARK_EOS, 1},
    };
    for (size_t i = 0; i < 3; i++) {
        struct ds4_message m[] = {
            {.role = DS4_ROLE_USER, .parts = t, .n_parts = tasks[i].n_parts, .task = span_from(tasks[i].task)},
            {.role = DS4_ROLE_ASSISTANT, .parts = &t[2], .n_parts = 1}};
        struct ds4_chat chat = {.messages = m, .n_messages = 2, .think = DS4_THINK_HIGH, .close_last = true};
        struct rendered r = render(&chat);
        assert_text(text_of(&r), span_from(tasks[i].want), tasks[i].task);
        rendered_free(&r);
    }
    struct ds4_message title[] = {{.role = DS4_ROLE_USER, .parts = t, .n_parts = 1},
                                  {.role = DS4_ROLE_ASSISTANT, .parts = &t[2], .n_parts = 1, .task = SPAN("title")}};
    struct ds4_chat chat = {.messages = title, .n_messages = 2, .close_last = true};
    struct rendered r = render(&chat);
    assert_text(text_of(&r), SPAN(MARK_BOS MARK_USER "u" MARK_ASSISTANT MARK_THINK_END "a" MARK_EOS "<"
        MARK_BAR "title" MARK_BAR ">"),
                "title");
    rendered_free(&r);
}

static void what_cannot_be_rendered_is_refused_with_its_place(void **state)
{
    (void)state;
    struct ds4_span tools[] = {SPAN("{}"), SPAN("{\"a\":}")}, text = SPAN("t"), list = SPAN("[1]");
    struct ds4_message wrong_task = {.role = DS4_ROLE_USER, .parts = &text, .n_parts = 1, .task = SPAN("title")};
    struct ds4_chat chats[] = {{.tools = tools, .n_tools = 2},
                               {.response_schema = list},
                               {.messages = &wrong_task, .n_messages = 1}};
    const char *want[] = {"tool 1: JSON: expected a value at byte 5 of 6", "response schema 0: not a JSON object",
                          "message 0: \"title\" is no task of a user message"};
    for (int i = 0; i < 3; i++) {
        struct ds4_tokens ids = {0};
        struct ds4_text out = {0};
        struct ds4_error error = {0};
        assert_int_equal(text_render(full_vocab(), &chats[i], &ids, &out, &error), DS4_ERR_FORMAT);
        assert_string_equal(error.message, want[i]);
        ds4_tokens_free(&ids);
        ds4_text_free(&out);
    }
}

/* ---- stability of the prefix ------------------------------------------------------------------------------------ */

/* A random conversation of whole rounds; with calls when asked. */
static void random_chat(struct rng *rng, struct arena *a, bool tools, struct ds4_chat *chat)
{
    static const char *const texts[] = {"a", "Hello there.", "", "x\n\ny", "```c\nint i;\n```\n",
        "\xE4\xBD\xA0\xE5\xA5\xBD", " end ", "12345"};
    size_t n_rounds = 1 + rng_below(rng, 4), n = 0;
    struct ds4_message *m = arena_alloc(a, n_rounds * 5, sizeof *m);
    struct ds4_span *parts = arena_alloc(a, n_rounds * 5, sizeof *parts);
    for (size_t round = 0; round < n_rounds; round++) {
        size_t n_user = 1 + rng_below(rng, 2);
        for (size_t u = 0; u < n_user; u++) m[n++].role = u ? DS4_ROLE_SYSTEM : DS4_ROLE_USER;
        bool calls = tools && rng_below(rng, 2);
        m[n].role = DS4_ROLE_ASSISTANT;
        m[n].reasoning = span_from(texts[rng_below(rng, 8)]);
        if (calls) {
            struct ds4_tool_call *call = arena_alloc(a, 1, sizeof *call);
            *call = (struct ds4_tool_call){SPAN("id"), SPAN("f"), SPAN("{\"k\":\"v\",\"n\":[1,2]}"), {NULL, 0}};
            m[n].calls = call;
            m[n].n_calls = 1;
        }
        n++;
        if (!calls) continue;
        m[n++].role = DS4_ROLE_TOOL;
        m[n++].role = DS4_ROLE_ASSISTANT;
    }
    for (size_t i = 0; i < n; i++) {
        parts[i] = span_from(texts[rng_below(rng, 8)]);
        m[i].parts = &parts[i];
        m[i].n_parts = 1;
    }
    *chat = (struct ds4_chat){.messages = m, .n_messages = n};
}

static void an_agents_prompt_only_grows_at_its_end(void **state)
{
    (void)state;
    struct rng rng = {5};
    struct ds4_span tool = SPAN("{\"name\":\"f\"}");
    for (int round = 0; round < 300; round++) {
        struct arena a;
        struct ds4_chat chat;
        arena_init(&a, 0);
        random_chat(&rng, &a, true, &chat);
        chat.tools = &tool;
        chat.n_tools = 1;
        chat.think = round & 1 ? DS4_THINK_HIGH : DS4_THINK_NONE;
        struct rendered previous = {0};
        for (size_t n = 1; n <= chat.n_messages; n++) {
            struct ds4_chat part = chat;
            part.n_messages = n;
            part.close_last = true;
            bool is_prompt = chat.messages[n - 1].role != DS4_ROLE_ASSISTANT;
            bool may_grow = !is_prompt || n == chat.n_messages || chat.messages[n].role == DS4_ROLE_ASSISTANT;
            if (!may_grow) continue;
            struct rendered r = render(&part);
            if (previous.text.len > 0) {
                assert_true(span_starts(text_of(&r), text_of(&previous)));
                assert_true(r.ids.n >= previous.ids.n);
                assert_memory_equal(r.ids.ids, previous.ids.ids, previous.ids.n * sizeof *r.ids.ids);
            }
            rendered_free(&previous);
            previous = r;
        }
        rendered_free(&previous);
        arena_deinit(&a);
    }
}

static enum ds4_status render_once(void *user, struct ds4_error *error)
{
    struct rendered r = {0};
    enum ds4_status status = text_render(full_vocab(), user, &r.ids, &r.text, error);
    rendered_free(&r);
    return status;
}

static void rendering_survives_each_failing_allocation(void **state)
{
    (void)state;
    struct ds4_span text = SPAN("t"), tool = SPAN("{\"a\":[{\"b\":1}]}");
    struct ds4_span sampled = SPAN(CALLS_OPEN "<" MARK_DSML "invoke name=\"f\"><" MARK_DSML "parameter name=\"k\">v</"
        MARK_DSML
                                   "parameter></" MARK_DSML "invoke>" CALLS_CLOSE);
    struct ds4_tool_call call = {SPAN("1"), SPAN("f"), SPAN("{\"k\":[1]}"), {NULL, 0}}, again = call;
    again.sampled = sampled;
    struct ds4_message m[] = {{.role = DS4_ROLE_USER, .parts = &text, .n_parts = 1},
                              {.role = DS4_ROLE_ASSISTANT, .calls = &call, .n_calls = 1},
                              {.role = DS4_ROLE_TOOL, .parts = &text, .n_parts = 1},
                              {.role = DS4_ROLE_ASSISTANT, .calls = &again, .n_calls = 1}};
    struct ds4_chat chat = {.messages = m, .n_messages = 4, .tools = &tool, .n_tools = 1};
    (void)full_vocab();
    assert_true(alloc_fail_loop("render", render_once, &chat, 1) > 20);
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
        cmocka_unit_test(renderer_gives_the_text_and_ids_of_all_worked_examples),
        cmocka_unit_test(renderer_agrees_with_the_reference_encoders_own_tests),
        cmocka_unit_test(renderer_gives_the_text_of_the_reference_test_with_a_developer),
        cmocka_unit_test(no_control_id_ever_comes_from_content),
        cmocka_unit_test(halves_of_a_marker_do_not_join_into_one),
        cmocka_unit_test(values_that_contain_the_closing_tag_are_escaped),
        cmocka_unit_test(sampled_bytes_are_replayed_exactly_with_control_only_in_their_syntax),
        cmocka_unit_test(sampled_bytes_that_are_no_whole_block_are_rendered_anew),
        cmocka_unit_test(results_stand_in_the_order_of_their_calls_in_their_own_slots),
        cmocka_unit_test(effort_prefixes_have_the_token_counts_of_the_service),
        cmocka_unit_test(a_prefill_is_continued_and_thinks_only_when_it_has_reasoning),
        cmocka_unit_test(tools_first_only_swaps_the_order),
        cmocka_unit_test(tasks_put_their_token_where_the_answer_begins),
        cmocka_unit_test(what_cannot_be_rendered_is_refused_with_its_place),
        cmocka_unit_test(an_agents_prompt_only_grows_at_its_end),
        cmocka_unit_test(rendering_survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, release);
}
