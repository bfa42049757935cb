/* test_chat.c - slash commands, the watch for cycles, and single answers, on the scripted engine. */
#include <stdio.h>

#include "base/buf.h"
#include "base/mem.h"
#include "chat/answer.h"
#include "chat/slash.h"
#include "chat/transcript.h"
#include "lib/fake/fake_engine.h"
#include "lib/test.h"

static struct slash parse(const char *line) { return slash_parse(span_from(line)); }

TEST(lines_are_messages_unless_they_begin_with_a_slash)
{
    static const char *const messages[] = {"", "hello", " /quit", "a /quit", "\\/quit"};
    for (size_t i = 0; i < sizeof messages / sizeof messages[0]; i++)
        assert_int_equal(parse(messages[i]).id, SLASH_TEXT);
    assert_int_equal(parse("/quit").id, SLASH_QUIT);
    assert_int_equal(parse("/quit  ").id, SLASH_QUIT);
    assert_int_equal(parse("/think max").id, SLASH_THINK);
    struct slash s = parse("/read  my file.txt ");
    assert_int_equal(s.id, SLASH_READ);
    assert_true(span_eq(s.argument, SPAN("my file.txt")));
}

TEST(no_mistyped_command_becomes_a_message_or_another_command)
{
    static const char *const names[] = {
#define X(id, name, argument, help) name,
        SLASH_MAP(X)
#undef X
    };
    const size_t n_names = sizeof names / sizeof names[0];
    for (size_t i = 0; i < n_names; i++) {
        size_t len = strlen(names[i]);
        for (size_t at = 0; at < len; at++) {
            for (int change = 0; change < 28; change++) { /* letter replaced, doubled, left out */
                char line[32] = "/", *word = line + 1;
                memcpy(word, names[i], len + 1);
                if (change < 26) word[at] = (char)('a' + change);
                else if (change == 26) memmove(word + at, word + at + 1, len - at);
                else memmove(word + at + 1, word + at, len - at + 1);
                bool is_name = false;
                for (size_t j = 0; j < n_names; j++) is_name |= strcmp(word, names[j]) == 0;
                if (!is_name) assert_int_equal(parse(line).id, SLASH_WRONG);
            }
        }
    }
    assert_int_equal(parse("/").id, SLASH_WRONG);
    assert_int_equal(parse("/QUIT").id, SLASH_WRONG);
    assert_non_null(strstr(parse("/sav").complaint, "did you mean /save?"));
    assert_null(strstr(parse("/\x1b[31m").complaint, "\x1b"));
}

/* Straight from the definition: some period p repeats over the last max(256, 8p) tokens. */
static bool is_cycle(const int32_t *ids, size_t n)
{
    for (size_t p = 1; p <= CYCLE_TOKENS_MAX; p++) {
        size_t need = p * CYCLE_COPIES_MIN < CYCLE_TOTAL_MIN ? CYCLE_TOTAL_MIN : p * CYCLE_COPIES_MIN, i = p;
        if (n < need) continue;
        const int32_t *last = ids + n - need;
        while (i < need && last[i] == last[i - p]) i++;
        if (i == need) return true;
    }
    return false;
}

TEST(cycles_are_found_exactly_when_the_definition_says)
{
    static int32_t ids[1400];
    for (size_t period = 1; period <= 70; period++) {
        struct cycle_watch watch = {0};
        for (size_t i = 0; i < 1400; i++) {
            ids[i] = i < 300 ? (int32_t)(i * 7919 % 1000) : (int32_t)(i % period == 0 ? 5 : i % period);
            if (i == 1000) ids[i] = 4321; /* an interruption starts the count again */
            bool wanted = is_cycle(ids, i + 1);
            assert_int_equal(cycle_watch_add(&watch, ids[i]), wanted);
            if (period > CYCLE_TOKENS_MAX) assert_false(wanted);
        }
    }
}

struct heard {
    struct buf text, think;
    size_t n_stops;
    volatile sig_atomic_t cancel;
    size_t cancel_at;
    bool quit;
};

static void hear(void *user, const struct ds4_event *event)
{
    struct heard *h = user;
    if (event->kind == DS4_EVENT_THINK) buf_put_span(&h->think, event->text);
    if (event->kind == DS4_EVENT_TEXT) buf_put_span(&h->text, event->text);
    if (event->kind == DS4_EVENT_STOP) h->n_stops++;
    if (h->cancel_at && h->text.text.len >= h->cancel_at) h->cancel = 1;
}

struct try {
    struct heard heard;
    struct answer_result result;
    struct ds4_error error;
    enum ds4_status status;
};

/* One answer to "question" by the script. */
static void answer(struct try *t, const char *script, enum ds4_think_mode think, struct answer_request *request)
{
    struct ds4_engine_options options = {.model_path = "none"};
    struct ds4_engine *engine;
    struct ds4_session *session;
    struct transcript transcript = {0};
    struct ds4_tokens prompt = {0};
    struct ds4_sampling sampling = ds4_sampling_default();
    fake_engine_script(script);
    assert_ok(ds4_engine_open(&options, &engine, &t->error), t->error);
    assert_ok(ds4_session_create(engine, &session, &t->error), t->error);
    assert_ok(transcript_add(&transcript, DS4_ROLE_USER, SPAN("question"), SPAN(""), &t->error), t->error);
    assert_ok(transcript_render(&transcript, engine, think, &prompt, &t->error), t->error);
    request->engine = engine;
    request->session = session;
    request->prompt = &prompt;
    request->sampling = &sampling;
    request->parser.in_thinking = think != DS4_THINK_NONE;
    request->cancel = &t->heard.cancel;
    request->quit = &t->heard.quit;
    request->event = hear;
    request->event_user = &t->heard;
    t->status = answer_generate(request, &t->result, &t->error);
    transcript_deinit(&transcript);
    ds4_tokens_free(&prompt);
    ds4_session_destroy(session);
    ds4_engine_close(engine);
    const struct fake_stats *stats = fake_engine_stats();
    assert_int_equal(stats->n_sessions + stats->n_samplers + stats->n_parsers + stats->n_engines, 0);
}

static void forget(struct try *t)
{
    buf_deinit(&t->heard.text);
    buf_deinit(&t->heard.think);
}

TEST(an_answer_has_thinking_then_text_then_an_end)
{
    struct try t = {0};
    answer(&t, "{\"answers\": [{\"think\": \"hm\", \"say\": \"caff\\u00e8\"}]}", DS4_THINK_HIGH,
           &(struct answer_request){0});
    assert_ok(t.status, t.error);
    assert_int_equal(t.result.stop, ANSWER_END);
    assert_true(span_eq(buf_span(&t.heard.think), SPAN("hm")));
    assert_true(span_eq(buf_span(&t.heard.text), SPAN("caff\xC3\xA8")));
    assert_int_equal(t.heard.n_stops, 1);
    assert_int_equal(t.result.n_generated, 2 + 1 + 6);
    forget(&t);
}

TEST(an_answer_stops_at_its_limits_and_says_which)
{
    static const char endless[] = "{\"ctx\": 50, \"answers\": [{\"say\": \"abcdefghij\", \"endless\": true}]}";
    static const char wide[] = "{\"ctx\": 9000, \"answers\": [{\"say\": \"abcdefghij\", \"endless\": true}]}";
    struct try t = {0};
    answer(&t, endless, DS4_THINK_NONE, &(struct answer_request){.n_max = 7});
    assert_int_equal(t.result.stop, ANSWER_LENGTH);
    assert_int_equal(t.result.n_generated, 7);
    assert_true(span_eq(buf_span(&t.heard.text), SPAN("abcdefg")));
    forget(&t);
    t = (struct try){0};
    answer(&t, endless, DS4_THINK_NONE, &(struct answer_request){0});
    assert_int_equal(t.result.stop, ANSWER_CONTEXT);
    assert_int_equal(t.result.n_prompt + t.result.n_generated, 50 + 1); /* the last one was not put in any more */
    forget(&t);
    t = (struct try){0};
    answer(&t, wide, DS4_THINK_NONE, &(struct answer_request){0});
    assert_int_equal(t.result.stop, ANSWER_REPEATS);
    assert_int_equal(t.result.n_generated, CYCLE_TOTAL_MIN);
    forget(&t);
    t = (struct try){0};
    answer(&t, wide, DS4_THINK_NONE, &(struct answer_request){.keep_repeating = true, .n_max = 3000});
    assert_int_equal(t.result.stop, ANSWER_LENGTH);
    forget(&t);
}

TEST(an_answer_is_cancelled_between_two_tokens)
{
    struct try t = {.heard.cancel_at = 3};
    answer(&t, "{\"answers\": [{\"say\": \"abcdefgh\"}]}", DS4_THINK_NONE, &(struct answer_request){0});
    assert_ok(t.status, t.error);
    assert_int_equal(t.result.stop, ANSWER_CANCELLED);
    assert_true(span_eq(buf_span(&t.heard.text), SPAN("abc")));
    forget(&t);
}

TEST(failures_of_the_engine_are_passed_on_with_their_sentence)
{
    struct try t = {0};
    answer(&t, "{\"answers\": [{\"say\": \"abcdefgh\", \"nan_after\": 2}]}", DS4_THINK_NONE,
           &(struct answer_request){0});
    assert_int_equal(t.status, DS4_ERR_DEVICE);
    assert_non_null(strstr(t.error.message, "not a number"));
    assert_true(span_eq(buf_span(&t.heard.text), SPAN("ab")));
    forget(&t);
    t = (struct try){0};
    answer(&t, "{\"fail_prefill\": \"quest\"}", DS4_THINK_NONE, &(struct answer_request){0});
    assert_int_equal(t.status, DS4_ERR_DEVICE);
    assert_non_null(strstr(t.error.message, "failed in prefill"));
    forget(&t);
}

static uint64_t allocations_left;
static bool fail_allocation(void *user, uint64_t number)
{
    (void)user, (void)number;
    return allocations_left-- == 0;
}

TEST(a_transcript_survives_every_failed_allocation)
{
    for (uint64_t at = 0;; at++) {
        struct transcript t = {0};
        struct ds4_error error = {0};
        int64_t live = mem_live();
        enum ds4_status status = DS4_OK;
        allocations_left = at;
        mem_test_hook(fail_allocation, NULL);
        size_t n = 0;
        for (; n < 20 && status == DS4_OK; n++)
            status = transcript_add(&t, DS4_ROLE_USER, SPAN("some words"), SPAN("a thought"), &error);
        mem_test_hook(NULL, NULL);
        assert_int_equal(t.n, status == DS4_OK ? 20 : n - 1);
        transcript_deinit(&t);
        assert_int_equal(mem_live(), live);
        if (status == DS4_OK) break;
        assert_int_equal(status, DS4_ERR_NOMEM);
    }
}

int main(void)
{
    return RUN_TESTS(T(lines_are_messages_unless_they_begin_with_a_slash),
                     T(no_mistyped_command_becomes_a_message_or_another_command),
                     T(cycles_are_found_exactly_when_the_definition_says),
                     T(an_answer_has_thinking_then_text_then_an_end), T(an_answer_stops_at_its_limits_and_says_which),
                     T(an_answer_is_cancelled_between_two_tokens),
                     T(failures_of_the_engine_are_passed_on_with_their_sentence),
                     T(a_transcript_survives_every_failed_allocation));
}
