/* fake_script.c - the script of the fake engine: reading it, and what it wants to be said next. See fake_engine.h. */
#include <jansson.h>
#include <stdio.h>

#include "base/mem.h"
#include "lib/fake/fake_internal.h"

#define DSML "\xEF\xBD\x9C" "DSML\xEF\xBD\x9C"

static struct ds4_span member_text(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_string(value) ? span_make(json_string_value(value), json_string_length(value)) : SPAN("");
}

static int64_t member_number(const json_t *object, const char *key, int64_t absent)
{
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? (int64_t)json_integer_value(value) : absent;
}

static void put_arguments(struct buf *out, const json_t *arguments)
{
    const char *key;
    const json_t *value;
    json_object_foreach((json_t *)(uintptr_t)arguments, key, value)
    {
        bool text = json_is_string(value);
        buf_printf(out, "<" DSML "parameter name=\"%s\" string=\"%s\">", key, text ? "true" : "false");
        if (text) {
            buf_put(out, json_string_value(value), json_string_length(value));
        } else {
            char *dumped = json_dumps(value, JSON_ENCODE_ANY | JSON_PRESERVE_ORDER);
            if (dumped) buf_put_text(out, dumped);
            json_free_t release;
            json_get_alloc_funcs(NULL, &release);
            release(dumped);
        }
        buf_put_text(out, "</" DSML "parameter>\n");
    }
    if (json_object_size(arguments) == 0) buf_put_text(out, "\n");
}

static void put_calls(struct buf *out, const json_t *calls)
{
    if (json_array_size(calls) == 0) return;
    buf_put_text(out, "\n\n<" DSML "tool_calls>\n");
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *call = json_array_get(calls, i);
        struct ds4_span name = member_text(call, "name");
        buf_printf(out, "<" DSML "invoke name=\"%.*s\">\n", (int)name.len, name.ptr);
        put_arguments(out, json_object_get(call, "arguments"));
        buf_put_text(out, "</" DSML "invoke>\n");
    }
    buf_put_text(out, "</" DSML "tool_calls>");
}

static enum ds4_status load_answer(const json_t *item, struct fake_answer *answer, struct ds4_error *error)
{
    struct buf body = {0};
    *answer = (struct fake_answer){
        .when = member_text(item, "when"), .think = member_text(item, "think"),
        .token_ms = (uint32_t)member_number(item, "token_ms", UINT32_MAX),
        .fail_after = member_number(item, "fail_after", -1), .nan_after = member_number(item, "nan_after", -1),
        .spread = member_number(item, "spread", 0), .endless = json_is_true(json_object_get(item, "endless")),
    };
    buf_put_span(&body, member_text(item, "say"));
    put_calls(&body, json_object_get(item, "calls"));
    answer->body = body.text;
    return buf_status(&body, error);
}

static void load_numbers(const json_t *root, struct ds4_engine *engine)
{
    struct ds4_span name = member_text(root, "name");
    (void)snprintf(engine->name, sizeof engine->name, "%.*s", (int)name.len, name.ptr);
    if (!name.len) (void)snprintf(engine->name, sizeof engine->name, "scripted");
    struct ds4_span hold = member_text(root, "hold");
    (void)snprintf(engine->hold, sizeof engine->hold, "%.*s", (int)hold.len, hold.ptr);
    struct ds4_span hang_disk = member_text(root, "hang_disk");
    if (hang_disk.len || json_is_true(json_object_get(root, "quick_disk"))) fake_disk_use(hang_disk);
    engine->hold_answers = json_is_true(json_object_get(root, "hold_answers"));
    engine->info.ctx_tokens = (uint32_t)member_number(root, "ctx", 4096);
    engine->info.chunk_tokens = (uint32_t)member_number(root, "chunk", 64);
    engine->info.n_sessions_max = (uint32_t)member_number(root, "sessions", 0);
    engine->rewind_tokens = (uint32_t)member_number(root, "rewind", 64);
    engine->predicted_tps = (double)member_number(root, "predicted_tps", 0);
    engine->load_ms = (uint32_t)member_number(root, "load_ms", 0);
    engine->chunk_ms = (uint32_t)member_number(root, "chunk_ms", 0);
    engine->token_ms = (uint32_t)member_number(root, "token_ms", 0);
    engine->fail_open = member_text(root, "fail_open");
    engine->fail_prefill = member_text(root, "fail_prefill");
}

enum ds4_status fake_script_load(const char *json, size_t len, struct ds4_engine *engine, struct ds4_error *error)
{
    json_error_t json_error;
    json_t *root = json_loadb(json, len, JSON_ALLOW_NUL, &json_error);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(error, DS4_ERR_FORMAT, "script, line %d: %s", json_error.line, json_error.text);
    }
    engine->script = root;
    load_numbers(root, engine);
    const json_t *answers = json_object_get(root, "answers");
    for (size_t i = 0; i < json_array_size(answers) && i < FAKE_ANSWERS_MAX; i++)
        TRY(load_answer(json_array_get(answers, i), &engine->answers[engine->n_answers++], error));
    return DS4_OK;
}

void fake_script_free(struct ds4_engine *engine)
{
    for (size_t i = 0; i < engine->n_answers; i++) ds4_text_free(&engine->answers[i].body);
    json_decref(engine->script);
}

/* Index behind the last occurrence of id before end; 0 when there is none. */
static size_t after_last(const int32_t *ids, size_t end, int32_t id)
{
    while (end > 0 && ids[end - 1] != id) end--;
    return end;
}

/* Number of tokens of want that stand at the end of have: where a scripted answer goes on, whatever stood before. */
static size_t overlap(const struct ds4_tokens *want, const int32_t *have, size_t n_have)
{
    size_t most = n_have < want->n ? n_have : want->n;
    if (n_have <= want->n && (n_have == 0 || memcmp(want->ids, have, n_have * sizeof *have) == 0)) return n_have;
    for (size_t n = most; n > 0; n--)
        if (memcmp(want->ids, have + n_have - n, n * sizeof *have) == 0) return n;
    return 0;
}

static const struct fake_answer *find_answer(const struct ds4_engine *engine, struct ds4_span turn)
{
    for (size_t i = 0; i < engine->n_answers; i++)
        if (span_find(turn, engine->answers[i].when, 0) != SIZE_MAX) return &engine->answers[i];
    return NULL;
}

static void put_turn(const int32_t *ids, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 256) buf_put_byte(out, (unsigned char)ids[i]);
        else buf_put_span(out, fake_marker(ids[i]));
    }
}

/* The whole scripted answer after an opener. */
static enum ds4_status wanted_tokens(const struct fake_answer *answer, struct ds4_span turn, bool thinking,
                                     struct ds4_tokens *want)
{
    const int32_t think_end = FAKE_THINK_END, eos = FAKE_EOS;
    if (thinking) {
        struct ds4_span think = answer ? answer->think : SPAN("Let me see.");
        TRY(fake_tokens_of(think, false, want));
        TRY(ds4_tokens_append(want, &think_end, 1));
    }
    if (answer) {
        TRY(fake_tokens_of(span_make(answer->body.ptr, answer->body.len), true, want));
    } else {
        TRY(fake_tokens_of(SPAN("You said: "), false, want));
        TRY(fake_tokens_of(turn, false, want));
    }
    return ds4_tokens_append(want, &eos, 1);
}

enum ds4_status fake_next_token(const struct ds4_engine *engine, const int32_t *ids, size_t n, struct fake_next *out)
{
    struct ds4_tokens want = {0};
    struct buf turn = {0};
    size_t opener = after_last(ids, n, FAKE_ASSISTANT), begin = opener;
    bool thinking = opener < n && ids[opener] == FAKE_THINK;
    if (opener > 0 && opener < n && (ids[opener] == FAKE_THINK || ids[opener] == FAKE_THINK_END)) begin++;
    size_t turn_end = opener ? opener - 1 : n, turn_begin = after_last(ids, turn_end, FAKE_USER);
    put_turn(ids + turn_begin, turn_end - turn_begin, &turn);
    const struct fake_answer *answer = find_answer(engine, buf_span(&turn));
    /* Thinking that was ended, by whomever, is over. */
    size_t said = begin, ended = thinking ? after_last(ids + begin, n - begin, FAKE_THINK_END) : 0;
    if (ended) said += ended;
    enum ds4_status status = wanted_tokens(answer, buf_span(&turn), thinking && !ended, &want);
    if (status == DS4_OK) status = buf_status(&turn, NULL);
    if (status == DS4_OK) {
        size_t n_said = n - begin, at = overlap(&want, ids + said, n - said);
        if (answer && answer->endless && want.n > 1) at = (n - said) % (want.n - 1);
        *out = (struct fake_next){.id = at < want.n ? want.ids[at] : FAKE_EOS, .token_ms = engine->token_ms};
        if (answer) {
            out->nan = answer->nan_after >= 0 && n_said >= (size_t)answer->nan_after;
            out->fail = answer->fail_after >= 0 && n_said >= (size_t)answer->fail_after;
            out->spread = n_said < (size_t)answer->spread;
            if (answer->token_ms != UINT32_MAX) out->token_ms = answer->token_ms;
            if (answer->spread && !out->spread) out->id = FAKE_EOS;
        }
    }
    ds4_tokens_free(&want);
    buf_deinit(&turn);
    return status;
}
