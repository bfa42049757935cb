/* test_scripted_engine.c - the stand-in keeps the promises of ds4.h that the tests above it rely on. */
#include <math.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/mem.h"
#include "lib/fake/fake_engine.h"
#include "lib/test.h"

static struct ds4_error error;

static struct ds4_engine *open_script(const char *script)
{
    struct ds4_engine_options options = {.model_path = "none"};
    struct ds4_engine *engine;
    error = (struct ds4_error){0};
    fake_engine_script(script);
    assert_ok(ds4_engine_open(&options, &engine, &error), error);
    return engine;
}

static struct ds4_session *new_session(struct ds4_engine *engine)
{
    struct ds4_session *session;
    assert_ok(ds4_session_create(engine, &session, &error), error);
    return session;
}

static void fill(int32_t *ids, size_t n, int32_t start)
{
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)((size_t)start + i * 31) % 256;
}

static bool stop_at(void *user, const char *phase, uint64_t done, uint64_t total)
{
    (void)total;
    assert_string_equal(phase, "prefill");
    return done < *(uint64_t *)user;
}

TEST(sync_keeps_what_can_be_kept_and_counts_it)
{
    struct ds4_engine *engine = open_script("{\"rewind\": 10, \"chunk\": 16, \"ctx\": 300}");
    struct ds4_session *session = new_session(engine);
    int32_t ids[301];
    size_t reused = 99, n;
    fill(ids, 301, 1);
    assert_ok(ds4_session_sync(session, ids, 100, NULL, NULL, &reused, &error), error);
    assert_int_equal(reused, 0);
    assert_ok(ds4_session_sync(session, ids, 120, NULL, NULL, &reused, &error), error);
    assert_int_equal(reused, 100);
    assert_ok(ds4_session_sync(session, ids, 120, NULL, NULL, &reused, &error), error);
    assert_int_equal(reused, 120);
    assert_ok(ds4_session_sync(session, ids, 115, NULL, NULL, &reused, &error), error);
    assert_int_equal(reused, 114);
    assert_int_equal(ds4_session_rewind_min(session), 105);
    assert_ok(ds4_session_sync(session, ids, 90, NULL, NULL, &reused, &error), error);
    assert_int_equal(reused, 0);
    uint64_t limit = 40;
    assert_status(ds4_session_sync(session, ids, 200, stop_at, &limit, &reused, &error), DS4_ERR_CANCELLED, error);
    (void)ds4_session_tokens(session, &n);
    assert_true(n >= 90 + 40 && n < 200);
    error = (struct ds4_error){0};
    assert_status(ds4_session_sync(session, ids, 301, NULL, NULL, NULL, &error), DS4_ERR_LIMIT, error);
    error = (struct ds4_error){0};
    assert_status(ds4_session_rewind(session, 50, &error), DS4_ERR_STATE, error);
    assert_int_equal(fake_engine_stats()->n_sessions, 1);
    ds4_session_destroy(session);
    ds4_engine_close(engine);
    assert_int_equal(fake_engine_stats()->n_sessions + fake_engine_stats()->n_engines, 0);
}

TEST(logits_are_the_same_however_the_tokens_came_in)
{
    struct ds4_engine *engine = open_script("{\"sessions\": 3}");
    struct ds4_session *one = new_session(engine), *two = new_session(engine), *three;
    int32_t ids[200];
    fill(ids, 200, 7);
    assert_ok(ds4_session_sync(one, ids, 200, NULL, NULL, NULL, &error), error);
    for (size_t i = 0; i < 200; i++) {
        struct ds4_job job = {.session = two, .tokens = &ids[i], .n = 1};
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
    }
    assert_memory_equal(ds4_session_logits(one), ds4_session_logits(two), FAKE_N_VOCAB * sizeof(float));
    assert_ok(ds4_session_fork(one, &three, &error), error);
    assert_memory_equal(ds4_session_logits(one), ds4_session_logits(three), FAKE_N_VOCAB * sizeof(float));
    struct ds4_session *four;
    assert_status(ds4_session_create(engine, &four, &error), DS4_ERR_LIMIT, error);
    assert_null(four);
    ds4_session_destroy(one);
    ds4_session_destroy(two);
    ds4_session_destroy(three);
    ds4_engine_close(engine);
}

TEST(a_restored_session_is_the_saved_one_and_foreign_state_is_refused)
{
    struct ds4_engine *engine = open_script("{\"sessions\": 2}");
    struct ds4_session *one = new_session(engine), *two = new_session(engine);
    const struct ds4_state_layout *layout = ds4_state_layout(engine);
    int32_t ids[150];
    uint8_t tip[64];
    static uint8_t rows[3][1 << 16];
    const uint8_t *spans[3];
    size_t tip_len, n;
    fill(ids, 150, 3);
    assert_ok(ds4_session_sync(one, ids, 150, NULL, NULL, NULL, &error), error);
    assert_int_equal(ds4_session_spans(one), (150 + layout->span_tokens - 1) / layout->span_tokens);
    assert_true(layout->span_bytes <= sizeof rows[0]);
    for (size_t i = 0; i < 3; i++) assert_ok(ds4_session_span_save(one, i, rows[i], &error), error);
    for (size_t i = 0; i < 3; i++) spans[i] = rows[i];
    assert_ok(ds4_session_tip_save(one, tip, sizeof tip, &tip_len, &error), error);
    assert_ok(ds4_session_restore(two, ids, 150, spans, 3, tip, tip_len, &error), error);
    assert_memory_equal(ds4_session_logits(one), ds4_session_logits(two), FAKE_N_VOCAB * sizeof(float));
    ids[70]++;
    assert_status(ds4_session_restore(two, ids, 150, spans, 3, tip, tip_len, &error), DS4_ERR_FORMAT, error);
    ids[70]--;
    error = (struct ds4_error){0};
    tip[3] ^= 1;
    assert_status(ds4_session_restore(two, ids, 150, spans, 3, tip, tip_len, &error), DS4_ERR_FORMAT, error);
    (void)ds4_session_tokens(two, &n);
    assert_int_equal(n, 150);
    ds4_session_destroy(one);
    ds4_session_destroy(two);
    ds4_engine_close(engine);
}

static void note(void *user, const struct ds4_event *event)
{
    static const char letters[] = "TXBAEDKS";
    struct buf *out = user;
    buf_printf(out, "%c%u(%.*s)", letters[event->kind], event->call_i, (int)event->text.len, event->text.ptr);
}

/* Greedy answer to one user message, as a string of events. */
static void answer_events(struct ds4_engine *engine, const char *text, const char *tool, struct buf *out)
{
    struct ds4_session *session = new_session(engine);
    struct ds4_span part = span_from(text), tools = span_from(tool);
    struct ds4_message message = {.role = DS4_ROLE_USER, .parts = &part, .n_parts = 1};
    struct ds4_chat chat = {.messages = &message, .n_messages = 1, .tools = &tools, .n_tools = tool ? 1 : 0,
                            .think = DS4_THINK_HIGH};
    struct ds4_tokens prompt = {0};
    struct ds4_parser *parser;
    struct ds4_sampler *sampler;
    struct ds4_sampling sampling = {.temperature = 0};
    struct ds4_parser_options options = {.in_thinking = true, .tools_active = tool != NULL};
    assert_ok(ds4_render(engine, &chat, &prompt, NULL, &error), error);
    assert_ok(ds4_parser_create(engine, &options, &parser), error);
    assert_ok(ds4_sampler_create(engine, &sampling, &sampler, &error), error);
    assert_ok(ds4_session_sync(session, prompt.ids, prompt.n, NULL, NULL, NULL, &error), error);
    for (int32_t id = -1; id != FAKE_EOS;) {
        assert_ok(ds4_sampler_pick(sampler, ds4_session_logits(session), NULL, true, &id, &error), error);
        assert_ok(ds4_parser_feed(parser, id, note, out), error);
        struct ds4_job job = {.session = session, .tokens = &id, .n = 1};
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
    }
    assert_ok(ds4_parser_finish(parser, note, out), error);
    buf_put_byte(out, 0);
    ds4_parser_destroy(parser);
    ds4_sampler_destroy(sampler);
    ds4_session_destroy(session);
    ds4_tokens_free(&prompt);
}

#define BAR "\xEF\xBD\x9C"
#define DSML BAR "DSML" BAR

TEST(scripted_calls_come_out_as_events)
{
    struct ds4_engine *engine = open_script(
        "{\"answers\": [{\"when\": \"weather\", \"think\": \"t\", \"say\": \"ok\", \"calls\": [{\"name\": \"get\", "
        "\"arguments\": {\"city\": \"R\\u00f3ma\", \"n\": 2}}, {\"name\": \"now\", \"arguments\": {}}]},"
        "{\"think\": \"\", \"say\": \"\\u00e8\\n\\n<b>\"}]}");
    struct buf events = {0};
    answer_events(engine, "the weather", "{}", &events);
    assert_string_equal(events.text.ptr,
        "T0(t)X0(o)X0(k)"
        "B0(get)A0({\"city\": \"R\xC3\xB3ma\")A0(, \"n\": 2)A0(})E0({\"city\": \"R\xC3\xB3ma\", \"n\": 2})"
        "B1(now)A1({})E1({})"
        "D0(\n\n<" DSML "tool_calls>\n<" DSML "invoke name=\"get\">\n<" DSML "parameter name=\"city\" string=\"true\">"
        "R\xC3\xB3ma</" DSML "parameter>\n<" DSML "parameter name=\"n\" string=\"false\">2</" DSML "parameter>\n</" DSML
        "invoke>\n<" DSML "invoke name=\"now\">\n\n</" DSML "invoke>\n</" DSML "tool_calls>)S0()");
    buf_clear(&events);
    answer_events(engine, "hello", NULL, &events);
    assert_string_equal(events.text.ptr, "X0(\xC3\xA8)X0(\n)X0(\n)X0(<)X0(b)X0(>)S0()");
    buf_deinit(&events);
    ds4_engine_close(engine);
}

TEST(sampling_follows_its_settings_where_the_script_leaves_a_choice)
{
    struct ds4_engine *engine = open_script("{\"answers\": [{\"spread\": 100000}]}");
    struct ds4_session *session = new_session(engine);
    int32_t ids[] = {FAKE_USER, 'x', FAKE_ASSISTANT, FAKE_THINK_END};
    assert_ok(ds4_session_sync(session, ids, 4, NULL, NULL, NULL, &error), error);
    const float *logits = ds4_session_logits(session);
    struct ds4_sampling sampling = ds4_sampling_default();
    uint32_t counts[FAKE_N_VOCAB] = {0}, mask[(FAKE_N_VOCAB + 31) / 32] = {0};
    struct ds4_sampler *sampler;
    int32_t id;
    sampling.seed = test_seed();
    assert_ok(ds4_sampler_create(engine, &sampling, &sampler, &error), error);
    for (int i = 0; i < 2600; i++) {
        assert_ok(ds4_sampler_pick(sampler, logits, NULL, false, &id, &error), error);
        counts[id]++;
    }
    for (int32_t c = 0; c < FAKE_N_VOCAB; c++)
        assert_true(c >= 'a' && c <= 'z' ? counts[c] > 40 && counts[c] < 200 : counts[c] == 0);
    mask['q' / 32] = 1u << ('q' % 32);
    assert_ok(ds4_sampler_pick(sampler, logits, mask, false, &id, &error), error);
    assert_int_equal(id, 'q');
    mask['q' / 32] = 0;
    assert_status(ds4_sampler_pick(sampler, logits, mask, false, &id, &error), DS4_ERR_DEVICE, error);
    assert_true(fabsf(ds4_logprob(logits, FAKE_N_VOCAB, 'c') + logf(26)) < 1e-5f);
    ds4_sampler_destroy(sampler);
    ds4_session_destroy(session);
    ds4_engine_close(engine);
}

int main(void)
{
    return RUN_TESTS(T(sync_keeps_what_can_be_kept_and_counts_it), T(logits_are_the_same_however_the_tokens_came_in),
                     T(a_restored_session_is_the_saved_one_and_foreign_state_is_refused),
                     T(scripted_calls_come_out_as_events),
                     T(sampling_follows_its_settings_where_the_script_leaves_a_choice));
}
