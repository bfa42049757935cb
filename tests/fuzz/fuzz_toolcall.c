/* fuzz_toolcall.c - any text as the output of a model. The events must be the same for tokens of single bytes and for
 * merged tokens; nothing of the text may be lost; every text of an event is valid UTF-8; arguments are JSON and equal
 * to their fragments. First byte: options. */
#include <jansson.h>

#include "text/toolcall.h"
#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct log {
    struct buf all;     /* kinds and texts, neighbours of one kind joined */
    struct buf shown;   /* what a client sees or replays */
    struct buf args;
    int last;
    bool done;
};

static void note(void *user, const struct ds4_event *e)
{
    struct log *log = user;
    if (log->last != (int)e->kind || e->kind > DS4_EVENT_TEXT) buf_printf(&log->all, "\n%d %u ", e->kind, e->call_i);
    buf_put_span(&log->all, e->text);
    log->last = (int)e->kind;
    if (e->kind == DS4_EVENT_CALL_ARGS) log->last = -1;
    fuzz_check(utf8_valid(e->text));
    switch (e->kind) {
    case DS4_EVENT_CALL_BEGIN:
        buf_clear(&log->args);
        break;
    case DS4_EVENT_CALL_ARGS:
        buf_put_span(&log->args, e->text);
        break;
    case DS4_EVENT_CALL_END: {
        json_error_t why;
        fuzz_check(span_eq(e->text, buf_span(&log->args)));
        json_t *args = json_loadb(e->text.ptr, e->text.len, JSON_ALLOW_NUL, &why);
        fuzz_check(args || json_error_code(&why) == json_error_numeric_overflow ||
                   json_error_code(&why) == json_error_stack_overflow);
        json_decref(args);
        break;
    }
    case DS4_EVENT_CALLS_DONE:
        log->done = true;
        buf_put_span(&log->shown, e->text);
        break;
    case DS4_EVENT_STOP:
        break;
    default:
        buf_put_span(&log->shown, e->text);
    }
}

/* Arguments come in fragments of any length; they are compared as a whole, so ARGS events are left out of `all`. */
static void note_joined(void *user, const struct ds4_event *e)
{
    struct log *log = user;
    size_t before = log->all.text.len;
    note(user, e);
    if (e->kind == DS4_EVENT_CALL_ARGS) log->all.text.len = before;
}

static struct log parse(const struct ds4_parser_options *options, const struct ds4_tokens *ids)
{
    struct log log = {.last = -1};
    struct ds4_parser *p;
    fuzz_check(parser_create(fuzz_vocab(), options, &p) == DS4_OK);
    for (size_t i = 0; i < ids->n; i++) {
        fuzz_check(ds4_parser_feed(p, ids->ids[i], note_joined, &log) == DS4_OK);
        if (ds4_parser_in_syntax(p)) fuzz_check(ds4_parser_in_call(p));
    }
    fuzz_check(ds4_parser_finish(p, note_joined, &log) == DS4_OK);
    ds4_parser_destroy(p);
    return log;
}

static void log_free(struct log *log)
{
    buf_deinit(&log->all);
    buf_deinit(&log->shown);
    buf_deinit(&log->args);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > 1 << 16) return 0;
    const struct vocab *v = fuzz_vocab();
    struct ds4_parser_options options = {(data[0] & 1) != 0, (data[0] & 2) == 0, (data[0] & 4) != 0,
        (data[0] & 8) != 0};
    struct ds4_span text = span_make((const char *)data + 1, size - 1);
    struct ds4_tokens bytes = {0}, merged = {0}, special = {0};
    struct buf repaired = {0};
    text_put_repaired(&repaired, text);
    for (size_t i = 0; i < text.len; i++) {
        int32_t id = vocab_find_base(v, span_make(text.ptr + i, 1));
        fuzz_check(ds4_tokens_append(&bytes, &id, 1) == DS4_OK);
    }
    fuzz_check(text_encode(v, text, false, &merged, NULL) == DS4_OK);
    fuzz_check(text_encode(v, text, true, &special, NULL) == DS4_OK);
    struct log by_byte = parse(&options, &bytes), by_token = parse(&options, &merged), with_markers = parse(&options,
        &special);
    fuzz_check(span_eq(buf_span(&by_byte.all), buf_span(&by_token.all)));
    fuzz_check(span_starts(buf_span(&repaired), buf_span(&by_byte.shown)));
    if (!by_byte.done) fuzz_check(by_byte.shown.text.len == repaired.text.len);
    log_free(&by_byte);
    log_free(&by_token);
    log_free(&with_markers);
    ds4_tokens_free(&bytes);
    ds4_tokens_free(&merged);
    ds4_tokens_free(&special);
    buf_deinit(&repaired);
    return 0;
}
