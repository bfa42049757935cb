/* kv.c - `ds4 kv`: looks after the stored conversations. One table of actions; the work is done by the store (ds4.h),
 * here it is asked for and shown. */
#include <stdio.h>
#include <time.h>

#include "base/file.h"
#include "base/sink.h"
#include "base/term.h"
#include "command/model_flags.h"
#include "tools/tools.h"

#define PROMPT_BYTES_MAX ((size_t)64 << 20) /* more text than the longest context holds */
#define SECONDS_A_DAY 86400u

struct kv {
    struct model_flags model;
    const char *action, *first, *second, *dir;
    uint64_t budget_bytes, keep_bytes;
    uint32_t older_days;
    bool others, json, all;
};

static const struct option rows[] = {
    {.name = "ACTION", .type = OPTION_OPERAND, .offset = offsetof(struct kv, action), .required = true,
     .help = "list, show, explain, verify, prune, export or import"},
    {.name = "WHAT", .type = OPTION_OPERAND, .offset = offsetof(struct kv, first),
     .help = "a key, or its first digits (show, export); a file (explain, import)"},
    {.name = "FILE", .type = OPTION_OPERAND, .offset = offsetof(struct kv, second), .help = "pack to write (export)"},
    {.name = "dir", .value = "DIR", .type = OPTION_TEXT, .offset = offsetof(struct kv, dir),
     .help = "the store; without it ~/.cache/ds4/kv"},
    {.name = "budget", .value = "BYTES", .type = OPTION_BYTES, .offset = offsetof(struct kv, budget_bytes),
     .help = "import: most bytes of the store (512m, 8g); 0 = 8g"},
    {.name = "keep", .value = "BYTES", .type = OPTION_BYTES, .offset = offsetof(struct kv, keep_bytes),
     .help = "prune: remove what is worth least until so much is left; 0 = not by size, 1 = all"},
    {.name = "older", .value = "DAYS", .type = OPTION_U32, .offset = offsetof(struct kv, older_days), .max = 36500,
     .help = "prune: remove what was not used for so long"},
    {.name = "others", .type = OPTION_FLAG, .offset = offsetof(struct kv, others),
     .help = "prune: also what other models left, and damaged files"},
    {.name = "all", .type = OPTION_FLAG, .offset = offsetof(struct kv, all), .help = "list: the segments, too"},
    {.name = "json", .type = OPTION_FLAG, .offset = offsetof(struct kv, json),
     .help = "list, explain, verify: as JSON"},
    MODEL_FLAG_ROWS(struct kv, model),
};
static enum ds4_status check(const void *values, struct ds4_error *error);

static const struct options table = {
    .command = "kv", .summary = "stored conversations", OPTIONS_ROWS(rows), .check = check,
    .notes = "list              what is stored for this model\n"
             "show KEY          the text of one conversation\n"
             "explain [FILE]    why a rendered prompt (a file, or standard input) is found or not\n"
             "verify            read and check every byte; damaged entries are set aside\n"
             "prune             needs --keep, --older or --others\n"
             "export KEY FILE   one conversation as a pack, for somebody with the same model\n"
             "import FILE       take a pack; only from people you would take a model from\n"
             "Stored text is kept in the clear, readable by you alone.",
};

static const char *const reasons[] = {
    [DS4_SAVE_PREFIX] = "prefix", [DS4_SAVE_TURN] = "turn", [DS4_SAVE_EVICT] = "evicted",
    [DS4_SAVE_SHUTDOWN] = "shutdown", [DS4_SAVE_USER] = "saved", [DS4_SAVE_PERIODIC] = "periodic",
};
static const char *reason_text(enum ds4_save_reason reason)
{
    return (size_t)reason < sizeof reasons / sizeof reasons[0] ? reasons[reason] : "?";
}

struct kv_job {
    const struct kv *flags;
    struct ds4_engine *engine;
    struct ds4_store *store;
    struct sink out;
    struct ds4_error *error;
    uint64_t n_shown;
};

static void put_safe(struct sink *out, struct ds4_span text)
{
    struct buf whole = {0}, safe = {0};
    size_t from = 0;
    while (from < text.len && from < 4 && ((unsigned char)text.ptr[from] & 0xC0) == 0x80) from++; /* cut character */
    buf_put_span(&whole, span_skip(text, from));
    term_put_safe(&safe, buf_span(&whole));
    sink_put(out, buf_span(&safe));
    buf_deinit(&whole);
    buf_deinit(&safe);
}

/* ---- list, show ----------------------------------------------------------------------------------------------- */

static void put_time(struct sink *out, uint64_t unix_s)
{
    char text[32] = "?";
    time_t t = (time_t)unix_s;
    struct tm parts;
    if (gmtime_r(&t, &parts)) (void)strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts);
    sink_put_text(out, text);
}

static void put_entry(void *user, const struct ds4_store_entry *e)
{
    struct kv_job *job = user;
    struct sink *out = &job->out;
    char bytes[16];
    if (!e->is_tip && !job->flags->all) return;
    if (job->flags->json) {
        sink_printf(out, "%s\n {\"key\":\"%s\",\"kind\":\"%s\",\"tokens\":%llu,\"bytes\":%llu,\"text_bytes\":%llu,",
                    job->n_shown ? "," : "", e->key, e->is_tip ? "tip" : "segment", (unsigned long long)e->n_tokens,
                    (unsigned long long)e->bytes, (unsigned long long)e->text_len);
        sink_printf(out, "\"reason\":\"%s\",\"created\":%llu,\"last_use\":%llu,\"hits\":%u,\"whole\":%s}",
                    e->is_tip ? reason_text(e->reason) : "", (unsigned long long)e->created,
                    (unsigned long long)e->last_use, e->n_hits, e->is_whole ? "true" : "false");
    } else {
        sink_printf(out, "%.12s  %-7s %9llu tokens  %-9s  ", e->key, e->is_tip ? "tip" : "segment",
                    (unsigned long long)e->n_tokens, term_bytes(e->bytes, bytes));
        put_time(out, e->last_use);
        sink_printf(out, "  %u hits  %s%s\n", e->n_hits, e->is_tip ? reason_text(e->reason) : "",
                    e->is_whole ? "" : "  (rows are missing)");
    }
    job->n_shown++;
}

static enum ds4_status list(struct kv_job *job)
{
    struct ds4_store_stats stats;
    char bytes[16], other[16], budget[16];
    if (job->flags->json) sink_put_text(&job->out, "{\"entries\":[");
    TRY(ds4_store_list(job->store, put_entry, job, job->error));
    ds4_store_stats(job->store, &stats);
    if (job->flags->json) {
        sink_printf(&job->out, "],\n \"tips\":%llu,\"segments\":%llu,\"bytes\":%llu,\"other_entries\":%llu,",
                    (unsigned long long)stats.n_tips, (unsigned long long)stats.n_segments,
                    (unsigned long long)stats.bytes, (unsigned long long)stats.n_others);
        sink_printf(&job->out, "\"other_bytes\":%llu}\n", (unsigned long long)stats.other_bytes);
        return DS4_OK;
    }
    sink_printf(&job->out, "%llu tips on %llu segments; the directory holds %s of %s, %s of it of other models or "
                "damaged\n", (unsigned long long)stats.n_tips, (unsigned long long)stats.n_segments,
                term_bytes(stats.bytes, bytes), term_bytes(stats.budget_bytes, budget),
                term_bytes(stats.other_bytes, other));
    return DS4_OK;
}

static enum ds4_status show(struct kv_job *job)
{
    struct ds4_tokens tokens = {0};
    struct buf text = {0};
    enum ds4_status status = ds4_store_tip_tokens(job->store, job->flags->first, &tokens, job->error);
    for (size_t i = 0; i < tokens.n; i++) buf_put_span(&text, ds4_token_bytes(job->engine, tokens.ids[i]));
    if (status == DS4_OK) status = buf_status(&text, job->error);
    if (status == DS4_OK && term_is(job->out.fd)) put_safe(&job->out, buf_span(&text));
    else if (status == DS4_OK) sink_put(&job->out, buf_span(&text));
    if (status == DS4_OK && term_is(job->out.fd)) sink_put_text(&job->out, "\n");
    buf_deinit(&text);
    ds4_tokens_free(&tokens);
    return status;
}

/* ---- explain -------------------------------------------------------------------------------------------------- */

static const struct {
    const char *word, *sentence;
} causes[] = {
    [DS4_CAUSE_HIT] = {"hit", "found: what is stored is a beginning of the prompt"},
    [DS4_CAUSE_NOTHING_STORED] = {"nothing_stored", "not found: nothing is stored for this model"},
    [DS4_CAUSE_HISTORY_EDITED] = {"history_edited", "the history was edited: the texts differ in what was written"},
    [DS4_CAUSE_REASONING_DROPPED] = {"reasoning_dropped", "the prompt leaves out reasoning that the model had done"},
    [DS4_CAUSE_TOOL_SPELLING] = {"tool_spelling", "a tool call is spelled otherwise than the model had written it"},
    [DS4_CAUSE_OTHER_MODEL] = {"other_model", "stored for another model, quantisation or build"},
};

static void put_context(struct sink *out, const char *name, const char *bytes, size_t len)
{
    sink_printf(out, "  %-7s ...", name);
    put_safe(out, span_make(bytes, len));
    sink_put_text(out, "\n");
}

static void put_explanation(struct kv_job *job, const struct ds4_store_explanation *e)
{
    struct sink *out = &job->out;
    if (job->flags->json) {
        sink_printf(out, "{\"cause\":\"%s\",\"key\":\"%s\",\"stored_tokens\":%llu,\"stored_text_bytes\":%llu,",
                    causes[e->cause].word, e->key, (unsigned long long)e->n_tokens, (unsigned long long)e->text_len);
        sink_printf(out, "\"same_bytes\":%llu,\"usable_tokens\":%llu,\"stored\":", (unsigned long long)e->same_bytes,
                    (unsigned long long)e->n_usable_tokens);
        sink_put_json_string(out, span_make(e->stored, e->stored_len));
        sink_put_text(out, ",\"prompt\":");
        sink_put_json_string(out, span_make(e->prompt, e->prompt_len));
        sink_put_text(out, "}\n");
        return;
    }
    sink_printf(out, "%s\n", causes[e->cause].sentence);
    if (!e->key[0]) return;
    sink_printf(out, "nearest: %.12s, %llu tokens, %llu bytes of text; the first %llu bytes are the same\n", e->key,
                (unsigned long long)e->n_tokens, (unsigned long long)e->text_len, (unsigned long long)e->same_bytes);
    sink_printf(out, "usable for this prompt: %llu tokens\n", (unsigned long long)e->n_usable_tokens);
    if (e->cause == DS4_CAUSE_HIT) return;
    put_context(out, "stored", e->stored, e->stored_len);
    put_context(out, "prompt", e->prompt, e->prompt_len);
}

static enum ds4_status explain(struct kv_job *job)
{
    struct ds4_text text = {0};
    struct ds4_store_explanation explanation;
    enum ds4_status status = file_read_all(job->flags->first ? job->flags->first : "-", PROMPT_BYTES_MAX, &text,
                                           job->error);
    struct ds4_span prompt = span_make(text.ptr ? text.ptr : "", text.len);
    if (status == DS4_OK) status = ds4_store_explain(job->store, prompt, &explanation, job->error);
    if (status == DS4_OK) put_explanation(job, &explanation);
    ds4_text_free(&text);
    return status;
}

/* ---- verify, prune, export, import ---------------------------------------------------------------------------- */

static enum ds4_status verify(struct kv_job *job)
{
    struct ds4_store_check check;
    struct term_progress progress = {0};
    char bytes[16];
    enum ds4_status status = ds4_store_verify(job->store, term_progress, &progress, &check, job->error);
    term_progress_clear(&progress);
    TRY(status);
    if (job->flags->json)
        sink_printf(&job->out,
                    "{\"checked\":%llu,\"bytes\":%llu,\"bad\":%llu,\"unreadable\":%llu,\"incomplete\":%llu}\n",
                    (unsigned long long)check.n_checked, (unsigned long long)check.n_bytes,
                    (unsigned long long)check.n_bad, (unsigned long long)check.n_unreadable,
                    (unsigned long long)check.n_incomplete);
    else
        sink_printf(&job->out, "%llu entries, %s: %llu damaged, %llu unreadable, %llu tips without all their rows\n",
                    (unsigned long long)check.n_checked, term_bytes(check.n_bytes, bytes),
                    (unsigned long long)check.n_bad, (unsigned long long)check.n_unreadable,
                    (unsigned long long)check.n_incomplete);
    if (check.n_bad == 0 && check.n_unreadable == 0) return DS4_OK;
    return err_set(job->error, DS4_ERR_FORMAT, "%llu entries were damaged and %llu unreadable; they are not used",
                   (unsigned long long)check.n_bad, (unsigned long long)check.n_unreadable);
}

static enum ds4_status prune(struct kv_job *job)
{
    const struct kv *flags = job->flags;
    struct ds4_store_prune how = {.keep_bytes = flags->keep_bytes ? flags->keep_bytes : UINT64_MAX,
                                  .others = flags->others,
                                  .older_than_s = (uint64_t)flags->older_days * SECONDS_A_DAY};
    uint64_t freed;
    char bytes[16];
    TRY(ds4_store_prune(job->store, &how, &freed, job->error));
    sink_printf(&job->out, "freed %s\n", term_bytes(freed, bytes));
    return DS4_OK;
}

static enum ds4_status export(struct kv_job *job)
{
    uint64_t n;
    char bytes[16];
    TRY(ds4_store_export(job->store, job->flags->first, job->flags->second, &n, job->error));
    sink_printf(&job->out, "%s: %s\n", job->flags->second, term_bytes(n, bytes));
    return DS4_OK;
}

static enum ds4_status import(struct kv_job *job)
{
    uint64_t n_tokens;
    TRY(ds4_store_import(job->store, job->flags->first, &n_tokens, job->error));
    sink_printf(&job->out, "%s: %llu tokens\n", job->flags->first, (unsigned long long)n_tokens);
    return DS4_OK;
}

/* needs, takes: operands after the action. */
static const struct action {
    const char *name;
    enum ds4_status (*run)(struct kv_job *job);
    int needs, takes;
    bool writes;
} actions[] = {
    {"list", list, 0, 0, false},    {"show", show, 1, 1, false},     {"explain", explain, 0, 1, false},
    {"verify", verify, 0, 0, true}, {"prune", prune, 0, 0, true},    {"export", export, 2, 2, false},
    {"import", import, 1, 1, true},
};

static const struct action *find_action(const struct kv *flags, struct ds4_error *error)
{
    int given = (flags->first != NULL) + (flags->second != NULL);
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        const struct action *a = &actions[i];
        if (strcmp(a->name, flags->action) != 0) continue;
        if (given < a->needs || given > a->takes) {
            (void)err_set(error, DS4_ERR_FORMAT, "%s takes %d argument%s, not %d", a->name, a->needs,
                          a->needs == 1 ? "" : "s", given);
            return NULL;
        }
        if (a->run == prune && !flags->keep_bytes && !flags->older_days && !flags->others) {
            (void)err_set(error, DS4_ERR_FORMAT, "prune needs --keep, --older or --others");
            return NULL;
        }
        return a;
    }
    (void)err_set(error, DS4_ERR_FORMAT, "%.40s: not list, show, explain, verify, prune, export or import",
                  flags->action);
    return NULL;
}

static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct kv *flags = values;
    return find_action(flags, error) ? model_flags_check(&flags->model, error) : DS4_ERR_FORMAT;
}

static void log_line(void *user, enum ds4_log_level level, const char *line)
{
    (void)user;
    if (level == DS4_LOG_WARN) (void)fprintf(stderr, "ds4 kv: %s\n", line);
}

static enum ds4_status perform(const struct kv *flags, const struct action *action, struct ds4_engine *engine,
                               struct ds4_error *error)
{
    struct kv_job job = {.flags = flags, .engine = engine, .error = error};
    struct ds4_store_options options = {.dir = flags->dir, .budget_bytes = flags->budget_bytes, .log = log_line,
                                        .read_only = !action->writes};
    TRY(sink_open(&job.out, "-", error));
    enum ds4_status status = ds4_store_open(engine, &options, &job.store, error), closed;
    if (status == DS4_OK) status = action->run(&job);
    closed = sink_close(&job.out, error);
    ds4_store_close(job.store);
    return status == DS4_OK ? closed : status;
}

int cmd_kv(int argc, char **argv)
{
    struct kv flags;
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    struct ds4_engine_options options;
    struct ds4_engine *engine = NULL;
    enum ds4_status status;
    const struct action *action = find_action(&flags, NULL);
    TRY_GOTO(model_flags_options(&flags.model, &options, &error), out);
    TRY_GOTO(model_flags_open(&options, &engine, &error), out);
    status = perform(&flags, action, engine, &error);
out:
    ds4_engine_close(engine);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
