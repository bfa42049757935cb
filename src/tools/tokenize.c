/* tokenize.c - `ds4 tokenize`: text to token ids, for scripts, tests and bug reports. Needs a vocabulary only. */
#include <jansson.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/sink.h"
#include "command/model_flags.h"
#include "tools/tools.h"

#define INPUT_BYTES_MAX ((size_t)1 << 30) /* more text than the longest context holds */

struct tokenize {
    struct model_flags model;
    bool special, chat, json, jsonl;
    const char *input;
};

static const struct option rows[] = {
    {.name = "FILE", .type = OPTION_OPERAND, .offset = offsetof(struct tokenize, input), .preset = "-",
     .help = "text to read; - is standard input"},
    MODEL_FLAG_ROW_FILE(struct tokenize, model),
    {.name = "special", .type = OPTION_FLAG, .offset = offsetof(struct tokenize, special),
     .help = "control markers in the text become control tokens"},
    {.name = "chat", .type = OPTION_FLAG, .offset = offsetof(struct tokenize, chat),
     .help = "the text is a user's message: tokens of the whole prompt, thinking off"},
    {.name = "json", .type = OPTION_FLAG, .offset = offsetof(struct tokenize, json),
     .help = "one JSON object: {\"ids\":[...],\"pieces\":[...]}"},
    {.name = "jsonl", .type = OPTION_FLAG, .offset = offsetof(struct tokenize, jsonl),
     .help = "each line of input is {\"text\":...} or {\"hex\":...}, each line of output {\"ids\":[...]}"},
};
static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct tokenize *flags = values;
    if (flags->json && flags->jsonl)
        return err_set(error, DS4_ERR_FORMAT, "--json and --jsonl exclude each other");
    return model_flags_check(&flags->model, error);
}

static const struct options table = {
    .command = "tokenize", .summary = "text to token ids", OPTIONS_ROWS(rows), .check = check,
    .notes = "Without --json or --jsonl: one token a line, id, tab, its bytes as a JSON string.\n"
             "A model file with a vocabulary and no tensors will do.",
};

static enum ds4_status ids_of(const struct tokenize *t, const struct ds4_engine *engine, struct ds4_span text,
                              struct ds4_tokens *ids, struct ds4_error *error)
{
    if (!t->chat) return ds4_tokenize(engine, text, t->special, ids, error);
    struct ds4_message message = {.role = DS4_ROLE_USER, .parts = &text, .n_parts = 1};
    struct ds4_chat chat = {.messages = &message, .n_messages = 1, .think = DS4_THINK_NONE};
    return ds4_render(engine, &chat, ids, NULL, error);
}

static void put_ids(struct sink *out, const struct ds4_tokens *ids)
{
    sink_put_text(out, "{\"ids\":[");
    for (size_t i = 0; i < ids->n; i++) sink_printf(out, i ? ",%d" : "%d", (int)ids->ids[i]);
    sink_put_text(out, "]");
}

static void put_whole(const struct tokenize *t, const struct ds4_engine *engine, const struct ds4_tokens *ids,
                      struct sink *out)
{
    if (t->json) {
        put_ids(out, ids);
        sink_put_text(out, ",\"pieces\":[");
        for (size_t i = 0; i < ids->n; i++) {
            if (i) sink_put_text(out, ",");
            sink_put_json_string(out, ds4_token_bytes(engine, ids->ids[i]));
        }
        sink_put_text(out, "]}\n");
        return;
    }
    for (size_t i = 0; i < ids->n; i++) {
        sink_printf(out, "%d\t", (int)ids->ids[i]);
        sink_put_json_string(out, ds4_token_bytes(engine, ids->ids[i]));
        sink_put_text(out, "\n");
    }
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static enum ds4_status put_hex(struct buf *out, struct ds4_span hex, size_t line, struct ds4_error *error)
{
    for (size_t i = 0; i < hex.len; i += 2) {
        int high = hex_digit(hex.ptr[i]), low = i + 1 < hex.len ? hex_digit(hex.ptr[i + 1]) : -1;
        if (high < 0 || low < 0)
            return err_set(error, DS4_ERR_FORMAT, "line %zu: \"hex\" must be pairs of hexadecimal digits", line);
        buf_put_byte(out, (unsigned char)(high << 4 | low));
    }
    return buf_status(out, error);
}

/* The text that one line of --jsonl stands for. */
static enum ds4_status line_text(struct ds4_span line, size_t number, struct buf *text, struct ds4_error *error)
{
    json_error_t json_error;
    enum ds4_status status = DS4_OK;
    json_t *root = json_loadb(line.ptr, line.len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &json_error);
    if (!root) return err_set(error, DS4_ERR_FORMAT, "line %zu is not JSON: %s", number, json_error.text);
    const json_t *plain = json_object_get(root, "text"), *hex = json_object_get(root, "hex");
    if (json_is_string(plain))
        buf_put(text, json_string_value(plain), json_string_length(plain));
    else if (json_is_string(hex))
        status = put_hex(text, span_make(json_string_value(hex), json_string_length(hex)), number, error);
    else
        status = err_set(error, DS4_ERR_FORMAT, "line %zu: expected {\"text\":\"...\"} or {\"hex\":\"...\"}", number);
    json_decref(root);
    return status == DS4_OK ? buf_status(text, error) : status;
}

static enum ds4_status put_lines(const struct tokenize *t, const struct ds4_engine *engine, struct ds4_span input,
                                 struct sink *out, struct ds4_error *error)
{
    enum ds4_status status = DS4_OK;
    struct buf text = {0};
    struct ds4_tokens ids = {0};
    for (size_t number = 1; input.len > 0; number++) {
        size_t end = span_find(input, SPAN("\n"), 0), len = end == SIZE_MAX ? input.len : end;
        struct ds4_span line = span_make(input.ptr, len);
        input = span_skip(input, end == SIZE_MAX ? len : len + 1);
        if (line.len == 0) continue;
        buf_clear(&text);
        ids.n = 0;
        TRY_GOTO(line_text(line, number, &text, error), out);
        TRY_GOTO(ids_of(t, engine, buf_span(&text), &ids, error), out);
        put_ids(out, &ids);
        sink_put_text(out, "}\n");
        if (out->status != DS4_OK) break; /* sink_close tells */
    }
out:
    ds4_tokens_free(&ids);
    buf_deinit(&text);
    return status;
}

static enum ds4_status tokenize(const struct tokenize *t, const struct ds4_engine *engine, struct ds4_error *error)
{
    enum ds4_status status, close_status;
    struct ds4_text input = {0};
    struct ds4_tokens ids = {0};
    struct sink out;
    TRY(sink_open(&out, "-", error));
    TRY_GOTO(file_read_all(t->input, INPUT_BYTES_MAX, &input, error), out);
    struct ds4_span text = span_make(input.ptr ? input.ptr : "", input.len);
    if (t->jsonl) {
        status = put_lines(t, engine, text, &out, error);
    } else {
        TRY_GOTO(ids_of(t, engine, text, &ids, error), out);
        put_whole(t, engine, &ids, &out);
    }
out:
    close_status = sink_close(&out, error);
    ds4_tokens_free(&ids);
    ds4_text_free(&input);
    return status == DS4_OK ? close_status : status;
}

int cmd_tokenize(int argc, char **argv)
{
    struct tokenize t;
    int exit_code;
    if (!options_begin(&table, argc, argv, &t, sizeof t, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    struct ds4_engine *engine = NULL;
    struct ds4_engine_options options;
    enum ds4_status status;
    TRY_GOTO(model_flags_options(&t.model, &options, &error), out);
    options.vocab_only = true;
    TRY_GOTO(ds4_engine_open(&options, &engine, &error), out);
    status = tokenize(&t, engine, &error);
out:
    ds4_engine_close(engine);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
