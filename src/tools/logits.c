/* logits.c - `ds4 logits`: what the model computes, as JSON: the raw truth for comparisons and bug reports. */
#include <stdio.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/sink.h"
#include "command/model_flags.h"
#include "tools/tools.h"

#define TOKENS_TEXT_BYTES_MAX ((size_t)64 << 20) /* a million ids take about 7 MB */

struct logits_flags {
    struct model_flags model;
    const char *tokens, *tokens_file, *prompt, *positions, *json;
    uint32_t chunk_tokens, n_top;
    bool ideal;
};

static const struct option rows[] = {
    MODEL_FLAG_ROWS(struct logits_flags, model),
    {.name = "tokens", .value = "IDS", .type = OPTION_TEXT, .offset = offsetof(struct logits_flags, tokens),
     .help = "token ids, separated by commas or white space"},
    {.name = "tokens-file", .value = "FILE", .type = OPTION_TEXT,
     .offset = offsetof(struct logits_flags, tokens_file), .help = "the same from a file; - is standard input"},
    {.letter = 'p', .name = "prompt", .value = "TEXT", .type = OPTION_TEXT,
     .offset = offsetof(struct logits_flags, prompt),
     .help = "a text instead of ids; control markers count, nothing is added"},
    {.name = "positions", .value = "LIST", .type = OPTION_TEXT, .offset = offsetof(struct logits_flags, positions),
     .help = "positions to write, from 0, separated by commas, or all; without it the last"},
    {.name = "chunk", .value = "N", .type = OPTION_U32, .offset = offsetof(struct logits_flags, chunk_tokens),
     .max = 65536, .help = "tokens in one forward pass; 0 = the engine's choice"},
    {.name = "top", .value = "K", .type = OPTION_U32, .offset = offsetof(struct logits_flags, n_top), .max = 65536,
     .help = "only the K largest, with log probabilities and bytes; 0 = all logits"},
    {.name = "ideal", .type = OPTION_FLAG, .offset = offsetof(struct logits_flags, ideal),
     .help = "no rounding of the state to FP8 and FP4, for comparison with exact computations"},
    {.name = "json", .value = "OUT", .type = OPTION_TEXT, .offset = offsetof(struct logits_flags, json),
     .required = true, .help = "file to write; - is standard output"},
};
static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct logits_flags *flags = values;
    if (!flags->tokens + !flags->tokens_file + !flags->prompt != 2)
        return err_set(error, DS4_ERR_FORMAT, "give one of --tokens, --tokens-file and --prompt, and only one");
    return model_flags_check(&flags->model, error);
}

static const struct options table = {
    .command = "logits", .summary = "logits of a model as JSON", OPTIONS_ROWS(rows), .check = check,
    .notes = "Give exactly one of --tokens, --tokens-file and -p. Output:\n"
             "{\"model\":NAME,\"n_tokens\":N,\"rows\":[{\"position\":P,\"logits\":[...]},...]} with 9 digits each;\n"
             "with --top K each row has \"top\":[{\"id\":I,\"logit\":X,\"logprob\":Y,\"bytes\":[...]},...] instead.",
};

static bool is_separator(char c) { return c == ',' || c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

/* The next number of a list; false at its end. A word that is no number up to max is an error. */
static bool next_number(struct ds4_span *list, const char *what, uint64_t max, uint64_t *out,
                        enum ds4_status *status, struct ds4_error *error)
{
    while (list->len > 0 && is_separator(list->ptr[0])) *list = span_skip(*list, 1);
    if (list->len == 0) return false;
    size_t len = 0;
    while (len < list->len && !is_separator(list->ptr[len])) len++;
    struct ds4_span word = span_make(list->ptr, len);
    *list = span_skip(*list, len);
    if (options_parse_u64(word, 0, max, out)) return true;
    *status = err_set(error, DS4_ERR_FORMAT, "%s %.*s: must be a whole number from 0 to %llu", what,
                      (int)(len < 40 ? len : 40), word.ptr, (unsigned long long)max);
    return false;
}

static enum ds4_status read_ids(struct ds4_span list, uint32_t n_vocab, struct ds4_tokens *ids,
                                struct ds4_error *error)
{
    enum ds4_status status = DS4_OK;
    uint64_t id;
    while (next_number(&list, "token id", n_vocab - 1, &id, &status, error)) {
        int32_t narrow = (int32_t)id;
        TRY(ds4_tokens_append(ids, &narrow, 1));
    }
    return status;
}

static enum ds4_status collect_tokens(const struct logits_flags *flags, const struct ds4_engine *engine,
                                      struct ds4_tokens *ids, struct ds4_error *error)
{
    const struct ds4_model_info *info = ds4_engine_info(engine);
    struct ds4_text text = {0};
    enum ds4_status status;
    if (flags->prompt) {
        status = ds4_tokenize(engine, span_from(flags->prompt), true, ids, error);
    } else if (flags->tokens) {
        status = read_ids(span_from(flags->tokens), info->n_vocab, ids, error);
    } else {
        status = file_read_all(flags->tokens_file, TOKENS_TEXT_BYTES_MAX, &text, error);
        struct ds4_span list = span_make(text.ptr ? text.ptr : "", text.len);
        if (status == DS4_OK) status = read_ids(list, info->n_vocab, ids, error);
        ds4_text_free(&text);
    }
    if (status == DS4_OK && ids->n == 0) status = err_set(error, DS4_ERR_FORMAT, "there are no tokens to evaluate");
    if (status == DS4_OK && ids->n > info->ctx_tokens)
        status = err_set(error, DS4_ERR_LIMIT, "%zu tokens, but the context holds %u: raise it with --ctx", ids->n,
                         info->ctx_tokens);
    return status;
}

/* wanted[n_tokens]: which positions are to be written. */
static enum ds4_status choose_positions(const char *list, size_t n_tokens, bool *wanted, struct ds4_error *error)
{
    enum ds4_status status = DS4_OK;
    uint64_t position;
    if (!list) {
        wanted[n_tokens - 1] = true;
        return DS4_OK;
    }
    if (strcmp(list, "all") == 0) {
        for (size_t t = 0; t < n_tokens; t++) wanted[t] = true;
        return DS4_OK;
    }
    struct ds4_span rest = span_from(list);
    while (next_number(&rest, "position", n_tokens - 1, &position, &status, error)) wanted[position] = true;
    return status;
}

struct writer {
    const struct ds4_engine *engine;
    struct sink *out;
    uint32_t n_vocab, n_top;
    int32_t *top; /* [n_top] */
    bool any;
};

static void put_row(struct writer *w, size_t position, const float *logits)
{
    sink_printf(w->out, "%s\n{\"position\":%zu,", w->any ? "," : "", position);
    w->any = true;
    if (w->n_top == 0) {
        sink_put_text(w->out, "\"logits\":[");
        for (uint32_t i = 0; i < w->n_vocab; i++) {
            if (i) sink_put_text(w->out, ",");
            sink_put_json_f32(w->out, logits[i]);
        }
        sink_put_text(w->out, "]}");
        return;
    }
    sink_put_text(w->out, "\"top\":[");
    ds4_top_logits(logits, w->n_vocab, w->n_top, w->top);
    for (uint32_t i = 0; i < w->n_top; i++) {
        struct ds4_span bytes = ds4_token_bytes(w->engine, w->top[i]);
        sink_printf(w->out, "%s{\"id\":%d,\"logit\":", i ? "," : "", (int)w->top[i]);
        sink_put_json_f32(w->out, logits[w->top[i]]);
        sink_put_text(w->out, ",\"logprob\":");
        sink_put_json_f32(w->out, ds4_logprob(logits, w->n_vocab, w->top[i]));
        sink_put_text(w->out, ",\"bytes\":[");
        for (size_t b = 0; b < bytes.len; b++) sink_printf(w->out, b ? ",%u" : "%u", (unsigned char)bytes.ptr[b]);
        sink_put_text(w->out, "]}");
    }
    sink_put_text(w->out, "]}");
}

/* Forward passes over the tokens in chunks; rows that are wanted are written as they come. */
static enum ds4_status evaluate(struct ds4_engine *engine, const struct ds4_tokens *ids, const bool *wanted,
                                struct writer *w, struct ds4_error *error)
{
    struct ds4_session *session = NULL;
    float *logits = NULL;
    size_t chunk = ds4_engine_info(engine)->chunk_tokens;
    enum ds4_status status;
    if (chunk > ids->n) chunk = ids->n;
    size_t logits_bytes = chunk * w->n_vocab * sizeof *logits;
    TRY_GOTO(ds4_session_create(engine, &session, error), out);
    logits = mem_map(logits_bytes);
    if (!logits) {
        status = err_set(error, DS4_ERR_NOMEM, "no memory for the logits of %zu tokens: lower --chunk", chunk);
        goto out;
    }
    for (size_t at = 0; at < ids->n && w->out->status == DS4_OK; at += chunk) {
        size_t n = ids->n - at < chunk ? ids->n - at : chunk;
        bool any = false;
        for (size_t t = at; t < at + n; t++) any |= wanted[t];
        struct ds4_job job = {.session = session, .tokens = ids->ids + at, .n = n, .logits = any ? logits : NULL};
        TRY_GOTO(ds4_eval(engine, &job, 1, error), out);
        for (size_t t = at; t < at + n; t++)
            if (wanted[t]) put_row(w, t, logits + (t - at) * w->n_vocab);
    }
out:
    if (logits) mem_unmap(logits, logits_bytes);
    ds4_session_destroy(session);
    return status;
}

static enum ds4_status write_all(const struct logits_flags *flags, struct ds4_engine *engine, struct ds4_error *error)
{
    const struct ds4_model_info *info = ds4_engine_info(engine);
    struct ds4_tokens ids = {0};
    struct sink out;
    struct writer w = {.engine = engine, .out = &out, .n_vocab = info->n_vocab, .n_top = flags->n_top};
    bool *wanted = NULL, is_open = false;
    enum ds4_status status;
    if (w.n_top > w.n_vocab) w.n_top = w.n_vocab;
    TRY_GOTO(collect_tokens(flags, engine, &ids, error), out);
    wanted = mem_zalloc(ids.n, sizeof *wanted);
    w.top = mem_zalloc(w.n_top ? w.n_top : 1, sizeof *w.top);
    if (!wanted || !w.top) {
        status = err_set(error, DS4_ERR_NOMEM, "no memory for %zu positions", ids.n);
        goto out;
    }
    TRY_GOTO(choose_positions(flags->positions, ids.n, wanted, error), out);
    TRY_GOTO(sink_open(&out, flags->json, error), out);
    is_open = true;
    sink_put_text(&out, "{\"model\":");
    sink_put_json_string(&out, span_from(info->name ? info->name : ""));
    sink_printf(&out, ",\"n_tokens\":%zu,\"rows\":[", ids.n);
    TRY_GOTO(evaluate(engine, &ids, wanted, &w, error), out);
    sink_put_text(&out, "\n]}\n");
out:
    if (is_open) {
        enum ds4_status close_status = sink_close(&out, error);
        if (status == DS4_OK) status = close_status;
    }
    mem_free(wanted);
    mem_free(w.top);
    ds4_tokens_free(&ids);
    return status;
}

int cmd_logits(int argc, char **argv)
{
    struct logits_flags flags;
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    struct ds4_engine_options options;
    struct ds4_engine *engine = NULL;
    enum ds4_status status;
    TRY_GOTO(model_flags_options(&flags.model, &options, &error), out);
    options.chunk_tokens = flags.chunk_tokens;
    options.ideal = flags.ideal;
    TRY_GOTO(model_flags_open(&options, &engine, &error), out);
    status = write_all(&flags, engine, &error);
out:
    ds4_engine_close(engine);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
