/* cmd_run.c - `ds4 run`: options, and the choice between one answer and a conversation. */
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/term.h"
#include "chat/chat.h"
#include "chat/repl.h"
#include "command/model_flags.h"

#define PROMPT_BYTES_MAX ((size_t)64 << 20) /* more text than the longest context holds */
#define STATE_DIR_BYTES 4096
#define RECENT_NAME "/recent.chat"
/* Tips beyond the bound on written bytes: about twenty, so that the turns of a short conversation have theirs. */
#define KV_FREE_BYTES (256ull << 20)
#define MAX_EFFORT_CTX_TOKENS 393216u /* what the model's makers advise for the greatest effort */

struct run {
    struct model_flags model;
    const char *prompt, *prompt_file, *system, *state_dir;
    int think;
    uint32_t n_max, top_k;
    float temperature, top_p, min_p;
    uint64_t seed;
    bool raw, keep_repeating, go_on, no_kv;
    const char *kv_dir;
    uint64_t kv_bytes;
};

static const struct option rows[] = {
    {.letter = 'p', .name = "prompt", .value = "TEXT", .type = OPTION_TEXT, .offset = offsetof(struct run, prompt),
     .help = "answer this and leave; without a prompt: a conversation in the terminal"},
    {.name = "prompt-file", .value = "FILE", .type = OPTION_TEXT, .offset = offsetof(struct run, prompt_file),
     .help = "the prompt from a file; - is standard input, also used when that is not a terminal"},
    {.name = "system", .value = "TEXT", .type = OPTION_TEXT, .offset = offsetof(struct run, system),
     .help = "instructions before the conversation"},
    {.name = "think", .type = OPTION_SET, .offset = offsetof(struct run, think), .set = DS4_THINK_HIGH,
     .help = "think before answering (this is the default)"},
    {.name = "no-think", .type = OPTION_SET, .offset = offsetof(struct run, think), .set = -1,
     .help = "answer at once"},
    {.name = "think-max", .type = OPTION_SET, .offset = offsetof(struct run, think), .set = DS4_THINK_MAX,
     .help = "think with the greatest effort; wants a long context"},
    {.name = "continue", .type = OPTION_FLAG, .offset = offsetof(struct run, go_on),
     .help = "go on with the last conversation; its state comes from the disk"},
    {.letter = 'n', .name = "tokens", .value = "N", .type = OPTION_U32, .offset = offsetof(struct run, n_max),
     .help = "most tokens of an answer, thinking included; 0 = until it ends or the context is full"},
    {.name = "temp", .value = "T", .type = OPTION_F32, .offset = offsetof(struct run, temperature), .max = 100,
     .preset = "1", .help = "temperature; 0 always takes the likeliest token"},
    {.name = "top-p", .value = "P", .type = OPTION_F32, .offset = offsetof(struct run, top_p), .max = 1,
     .preset = "1", .help = "keep the likeliest tokens that together have this probability; 1 = all"},
    {.name = "min-p", .value = "P", .type = OPTION_F32, .offset = offsetof(struct run, min_p), .max = 1,
     .preset = "0.05", .help = "drop tokens less likely than P times the likeliest; 0 = none"},
    {.name = "top-k", .value = "K", .type = OPTION_U32, .offset = offsetof(struct run, top_k), .max = 1000000,
     .preset = "0", .help = "keep the K likeliest tokens; 0 = all"},
    {.name = "seed", .value = "S", .type = OPTION_U64, .offset = offsetof(struct run, seed),
     .help = "same seed, same answer; 0 = a new one each time"},
    {.name = "keep-repeating", .type = OPTION_FLAG, .offset = offsetof(struct run, keep_repeating),
     .help = "do not stop an answer that goes round in circles"},
    {.name = "raw", .type = OPTION_FLAG, .offset = offsetof(struct run, raw),
     .help = "the prompt is a rendered transcript whose control markers count; print all that the model emits"},
    {.name = "state-dir", .value = "DIR", .type = OPTION_TEXT, .offset = offsetof(struct run, state_dir),
     .help = "where the words of conversations are kept; without it ~/.ds4"},
    {.name = "kv", .value = "DIR", .type = OPTION_TEXT, .offset = offsetof(struct run, kv_dir),
     .help = "where their state is kept, see `ds4 kv`; without it ~/.cache/ds4/kv"},
    {.name = "kv-bytes", .value = "BYTES", .type = OPTION_BYTES, .offset = offsetof(struct run, kv_bytes),
     .help = "most bytes of it (512m, 8g); 0 = 8g"},
    {.name = "no-kv", .type = OPTION_FLAG, .offset = offsetof(struct run, no_kv),
     .help = "write nothing to the disk"},
    MODEL_FLAG_ROWS(struct run, model),
    MODEL_FLAG_ROWS_DRAFT(struct run, model),
};

static bool is_chat(const struct run *flags)
{
    return !flags->prompt && !flags->prompt_file && term_is(STDIN_FILENO);
}

static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct run *flags = values;
    if (flags->prompt && flags->prompt_file)
        return err_set(error, DS4_ERR_FORMAT, "--prompt and --prompt-file exclude each other");
    if (flags->prompt && !flags->prompt[0]) return err_set(error, DS4_ERR_FORMAT, "-p: the prompt is empty");
    if (flags->raw && (flags->system || flags->think))
        return err_set(error, DS4_ERR_FORMAT, "--raw: the transcript itself says what the system text is and whether "
                       "to think");
    if (flags->no_kv && (flags->go_on || flags->kv_dir))
        return err_set(error, DS4_ERR_FORMAT, "--no-kv excludes --continue and --kv");
    if (flags->go_on && (flags->raw || flags->system))
        return err_set(error, DS4_ERR_FORMAT, "--continue excludes --raw and --system: the conversation has its own");
    if (flags->raw && is_chat(flags))
        return err_set(error, DS4_ERR_FORMAT, "--raw needs a transcript: -p, --prompt-file or standard input");
    return model_flags_check(&flags->model, error);
}

static const struct options table = {
    .command = "run", .summary = "answer a prompt, or chat in the terminal", OPTIONS_ROWS(rows), .check = check,
    .notes = "Answers go to standard output, everything else to standard error. Thinking is shown, dimmed, on a\n"
             "terminal only. A conversation is kept on the disk as it goes, words and state; a single answer only\n"
             "with --kv or --continue. Exit code 1 when the answer could not be given or nobody reads it.",
};

static struct conversation_options conversation_options_of(const struct run *flags)
{
    struct ds4_sampling sampling = ds4_sampling_default();
    sampling.temperature = flags->temperature;
    sampling.top_p = flags->top_p;
    sampling.min_p = flags->min_p;
    sampling.top_k = (int32_t)flags->top_k;
    sampling.seed = flags->seed;
    enum ds4_think_mode think = flags->think < 0 ? DS4_THINK_NONE : DS4_THINK_HIGH;
    if (flags->think == DS4_THINK_MAX) think = DS4_THINK_MAX;
    return (struct conversation_options){.sampling = sampling, .n_max = flags->n_max,
                                         .keep_repeating = flags->keep_repeating, .think = think};
}

static enum ds4_status find_state_dir(const struct run *flags, char out[STATE_DIR_BYTES], struct ds4_error *error)
{
    const struct passwd *user = flags->state_dir ? NULL : getpwuid(getuid());
    int n = flags->state_dir ? snprintf(out, STATE_DIR_BYTES, "%s", flags->state_dir)
                             : snprintf(out, STATE_DIR_BYTES, "%s/.ds4", user ? user->pw_dir : ".");
    if (n <= 0 || n >= STATE_DIR_BYTES) return err_set(error, DS4_ERR_LIMIT, "--state-dir: not a usable name");
    return DS4_OK;
}

static enum ds4_status answer_once(struct conversation *c, const struct run *flags, struct ds4_error *error)
{
    struct ds4_text file = {0};
    struct ds4_span prompt = span_from(flags->prompt);
    enum ds4_status status = DS4_OK;
    if (term_is(STDOUT_FILENO)) term_undim_at_signals(STDOUT_FILENO);
    if (!flags->prompt) {
        status = file_read_all(flags->prompt_file ? flags->prompt_file : "-", PROMPT_BYTES_MAX, &file, error);
        prompt = span_make(file.ptr, file.len);
        if (status == DS4_OK && prompt.len == 0)
            status = err_set(error, DS4_ERR_FORMAT, "%s is empty: there is no prompt",
                             flags->prompt_file ? flags->prompt_file : "standard input");
    }
    if (status == DS4_OK)
        status = flags->raw ? conversation_raw(c, prompt, error) : conversation_turn(c, prompt, error);
    if (status == DS4_OK) conversation_report(c);
    ds4_text_free(&file);
    return status;
}

static bool is_kept(const struct run *flags)
{
    return !flags->no_kv && !flags->raw && (is_chat(flags) || flags->kv_dir || flags->go_on);
}

static void show_note(void *user, enum ds4_log_level level, const char *line)
{
    (void)user;
    if (level == DS4_LOG_WARN) (void)fprintf(stderr, "note: %s\n", line);
}

/* Without a store the conversation goes on all the same. */
static struct ds4_store *open_store(const struct run *flags, const struct ds4_engine *engine)
{
    struct ds4_store_options options = {.dir = flags->kv_dir, .budget_bytes = flags->kv_bytes, .log = show_note,
                                        .write_free_bytes = KV_FREE_BYTES};
    struct ds4_error error = {0};
    struct ds4_store *store = NULL;
    if (ds4_store_open(engine, &options, &store, &error) == DS4_OK) return store;
    (void)fprintf(stderr, "note: state is not kept on the disk: %s\n", error.message);
    return NULL;
}

static enum ds4_status go_on(struct conversation *c, const struct run *flags, const char *path,
                             struct ds4_error *error)
{
    struct ds4_error cause = {0};
    size_t n_tokens;
    enum ds4_status status = conversation_load(c, path, &n_tokens, &cause);
    if (status != DS4_OK) return err_set(error, status, "no conversation to go on with: %s", cause.message);
    if (flags->think) c->options.think = conversation_options_of(flags).think;
    (void)fprintf(stderr, "Going on: %zu messages, state of %zu tokens\n", c->transcript.n, n_tokens);
    return DS4_OK;
}

static enum ds4_status talk(struct conversation *c, const struct run *flags, const char *state_dir,
                            struct ds4_error *error)
{
    if (flags->system)
        TRY(transcript_add(&c->transcript, DS4_ROLE_SYSTEM, span_from(flags->system), SPAN(""), error));
    if (flags->go_on && !c->options.keep_path)
        return err_set(error, DS4_ERR_STATE, "there is no conversation to go on with");
    if (flags->go_on) TRY(go_on(c, flags, c->options.keep_path, error));
    return is_chat(flags) ? repl_run(c, state_dir, error) : answer_once(c, flags, error);
}

static enum ds4_status converse(struct run *flags, struct ds4_engine *engine, struct ds4_error *error)
{
    struct conversation_options options = conversation_options_of(flags);
    struct term_progress progress = {0};
    struct screen screen;
    struct conversation c;
    char state_dir[STATE_DIR_BYTES], recent[STATE_DIR_BYTES + sizeof RECENT_NAME];
    struct ds4_error no_dir = {0};
    enum ds4_status status;
    uint32_t ctx_tokens = ds4_engine_info(engine)->ctx_tokens;
    if (options.think == DS4_THINK_MAX && ctx_tokens < MAX_EFFORT_CTX_TOKENS)
        (void)fprintf(stderr, "note: the greatest effort is meant for a context of %u tokens or more; here it is %u\n",
                      MAX_EFFORT_CTX_TOKENS, ctx_tokens);
    TRY(find_state_dir(flags, state_dir, error));
    (void)snprintf(recent, sizeof recent, "%s%s", state_dir, RECENT_NAME);
    if (is_kept(flags)) {
        if (file_private_dir(state_dir, &no_dir) == DS4_OK) options.keep_path = recent;
        else (void)fprintf(stderr, "note: the conversation is not kept: %s\n", no_dir.message);
        options.store = open_store(flags, engine);
    }
    screen_init(&screen, STDOUT_FILENO, "standard output", flags->raw, &progress);
    TRY_GOTO(conversation_init(&c, engine, &options, &screen, &progress, error), out);
    status = talk(&c, flags, state_dir, error);
    conversation_deinit(&c);
out:
    screen_deinit(&screen);
    ds4_store_close(options.store);
    return status;
}

int cmd_run(int argc, char **argv)
{
    struct run flags;
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    struct ds4_engine_options options;
    struct ds4_engine *engine = NULL;
    enum ds4_status status;
    TRY_GOTO(model_flags_options(&flags.model, &options, &error), out);
    /* A conversation keeps a second session (answer.h) where the memory allows it. */
    options.n_sessions_max = is_chat(&flags) ? 2 : 1;
    status = model_flags_open(&options, &engine, &error);
    if (status == DS4_ERR_LIMIT && options.n_sessions_max > 1) {
        options.n_sessions_max = 1;
        error = (struct ds4_error){0};
        status = model_flags_open(&options, &engine, &error);
    }
    if (status == DS4_OK) status = converse(&flags, engine, &error);
out:
    ds4_engine_close(engine);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
