/* repl.c - the interactive chat. See repl.h. */
#include "chat/repl.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "chat/line.h"
#include "chat/slash.h"

#define READ_BYTES_MAX ((size_t)16 << 20) /* of /read: more than any context holds */
#define PATH_BYTES 4096
#define NAME_DEFAULT "last"

struct repl {
    struct conversation *c;
    struct line *line;
    const char *state_dir;
    bool leaving;
};

static struct line_signals signals; /* written by handlers, so it cannot be elsewhere */

static void on_signal(int number)
{
    if (number == SIGINT) signals.interrupted = 1;
    else if (number == SIGCONT) signals.continued = 1;
    else if (number == SIGWINCH) signals.resized = 1;
    else signals.leaving = signals.interrupted = 1;
}

static void catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGCONT, SIGWINCH};
    struct sigaction action = {.sa_handler = on_signal}; /* without SA_RESTART: reads end at once */
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) (void)sigaction(numbers[i], &action, NULL);
}

/* A remark of the program to the person, on standard error so that a redirected answer stays clean. */
static void say(const char *text) { (void)fprintf(stderr, "%s\n", text); }

static void complain(const struct ds4_error *error)
{
    struct buf safe = {0};
    term_put_safe(&safe, span_from(error->message));
    (void)fprintf(stderr, "%.*s\n", (int)safe.text.len, safe.text.ptr ? safe.text.ptr : "failed");
    buf_deinit(&safe);
}

static void turn(struct repl *r, struct ds4_span text)
{
    struct ds4_error error = {0};
    signals.interrupted = signals.leaving;
    if (conversation_turn(r->c, text, &error) != DS4_OK) {
        complain(&error);
        say("Your message was taken back; the conversation is as it was before.");
        if (r->c->screen->failed) r->leaving = true;
    } else {
        conversation_report(r->c);
        if (r->c->last.stop == ANSWER_CANCELLED && r->c->screen->text.text.len == 0)
            say("Stopped before the first word: your message was taken back.");
    }
    signals.interrupted = signals.leaving;
}

/* Path for /save and /load: with a slash it is one, else a plain name in the state directory. */
static enum ds4_status session_path(const struct repl *r, struct ds4_span name, char path[PATH_BYTES],
                                    struct ds4_error *error)
{
    int n;
    if (name.len == 0) name = SPAN(NAME_DEFAULT);
    if (memchr(name.ptr, '/', name.len)) {
        n = snprintf(path, PATH_BYTES, "%.*s", (int)name.len, name.ptr);
    } else {
        for (size_t i = 0; i < name.len; i++) {
            char c = name.ptr[i];
            bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                         c == '-' || (c == '.' && i > 0);
            if (!plain)
                return err_set(error, DS4_ERR_FORMAT, "a name has letters, digits, '-', '_' and '.' only; anything "
                               "else is given as a path with a slash, such as ./my file.chat");
        }
        TRY(file_private_dir(r->state_dir, error));
        n = snprintf(path, PATH_BYTES, "%s/%.*s.chat", r->state_dir, (int)name.len, name.ptr);
    }
    if (n < 0 || n >= PATH_BYTES) return err_set(error, DS4_ERR_LIMIT, "the file name is too long");
    return DS4_OK;
}

static enum ds4_status save(struct repl *r, struct ds4_span name, struct ds4_error *error)
{
    char path[PATH_BYTES];
    TRY(session_path(r, name, path, error));
    TRY(conversation_save(r->c, path, error));
    (void)fprintf(stderr, "Saved: %s\n", path);
    return DS4_OK;
}

static enum ds4_status load(struct repl *r, struct ds4_span name, struct ds4_error *error)
{
    char path[PATH_BYTES];
    size_t n_tokens;
    TRY(session_path(r, name, path, error));
    TRY(conversation_load(r->c, path, &n_tokens, error));
    (void)fprintf(stderr, "Loaded: %s, %zu messages", path, r->c->transcript.n);
    if (n_tokens > 0 || r->c->transcript.n == 0) (void)fprintf(stderr, ", state of %zu tokens\n", n_tokens);
    else if (r->c->options.store) (void)fprintf(stderr, "; its state is not stored and will be computed again\n");
    else (void)fprintf(stderr, "; its state is of another model, build or context and will be computed again\n");
    return DS4_OK;
}

static enum ds4_status read_and_send(struct repl *r, struct ds4_span name, struct ds4_error *error)
{
    char path[PATH_BYTES];
    struct ds4_text text = {0};
    int n = snprintf(path, sizeof path, "%.*s", (int)name.len, name.ptr);
    if (n < 0 || (size_t)n >= sizeof path) return err_set(error, DS4_ERR_LIMIT, "the file name is too long");
    if (strcmp(path, "-") == 0) return err_set(error, DS4_ERR_FORMAT, "/read needs the name of a file");
    enum ds4_status status = file_read_all(path, READ_BYTES_MAX, &text, error);
    if (status == DS4_OK && text.len == 0) status = err_set(error, DS4_ERR_FORMAT, "%s is empty: nothing sent", path);
    if (status == DS4_OK) {
        (void)fprintf(stderr, "%s: %zu bytes\n", path, text.len);
        turn(r, span_make(text.ptr, text.len));
    }
    ds4_text_free(&text);
    return status;
}

static void show_context(const struct repl *r)
{
    const struct ds4_model_info *info = ds4_engine_info(r->c->engine);
    size_t n_tokens;
    char bytes[16];
    (void)ds4_session_tokens(r->c->session, &n_tokens);
    uint64_t state_bytes = info->state_bytes_fixed + info->state_bytes_per_token * n_tokens;
    (void)fprintf(stderr, "%zu of %u tokens (%.0f%%), %zu messages, state %s\n", n_tokens, info->ctx_tokens,
                  100.0 * (double)n_tokens / (double)info->ctx_tokens, r->c->transcript.n,
                  term_bytes(state_bytes, bytes));
}

static void reset(struct repl *r)
{
    conversation_reset(r->c);
    say("The conversation is forgotten.");
}

static void help(void)
{
    struct buf text = {0};
    slash_help(&text);
    (void)fprintf(stderr, "%.*s", (int)text.text.len, text.text.ptr ? text.text.ptr : "");
    buf_deinit(&text);
}

static void obey(struct repl *r, struct ds4_span line)
{
    struct ds4_error error = {0};
    enum ds4_status status = DS4_OK;
    struct slash slash = slash_parse(line);
    switch (slash.id) {
    case SLASH_HELP: help(); break;
    case SLASH_THINK:
        r->c->options.think = slash.argument.len ? DS4_THINK_MAX : DS4_THINK_HIGH;
        say(slash.argument.len ? "Thinking with the greatest effort." : "Thinking before answering.");
        break;
    case SLASH_NOTHINK:
        r->c->options.think = DS4_THINK_NONE;
        say("Answering at once.");
        break;
    case SLASH_CTX: show_context(r); break;
    case SLASH_READ: status = read_and_send(r, slash.argument, &error); break;
    case SLASH_SAVE: status = save(r, slash.argument, &error); break;
    case SLASH_LOAD: status = load(r, slash.argument, &error); break;
    case SLASH_RESET: reset(r); break;
    case SLASH_QUIT: r->leaving = true; break;
    case SLASH_WRONG: say(slash.complaint); break;
    case SLASH_TEXT: turn(r, line); break;
    }
    if (status != DS4_OK) complain(&error);
}

static bool is_blank(struct ds4_span text)
{
    for (size_t i = 0; i < text.len; i++)
        if (!strchr(" \t\n", text.ptr[i]) || text.ptr[i] == 0) return false;
    return true;
}

enum ds4_status repl_run(struct conversation *c, const char *state_dir, struct ds4_error *error)
{
    struct repl r = {.c = c, .state_dir = state_dir};
    struct buf line = {0};
    TRY(line_create(&signals, &r.line, error));
    catch_signals();
    c->cancel = &signals.interrupted;
    if (c->progress) c->progress->cancel = &signals.interrupted;
    say("Type a message, /help for the commands, /quit to leave.");
    while (!r.leaving && !signals.leaving) {
        enum line_outcome outcome = line_read(r.line, &line);
        if (outcome == LINE_END) break;
        if (outcome == LINE_CANCELLED || is_blank(buf_span(&line))) continue;
        if (line.failed) say("The line is too long for the memory.");
        else obey(&r, buf_span(&line));
    }
    line_destroy(r.line);
    buf_deinit(&line);
    c->cancel = NULL;
    if (c->progress) c->progress->cancel = NULL;
    if (c->screen->failed) return err_set(error, DS4_ERR_IO, "%s", c->screen->out.error.message);
    return DS4_OK;
}
