/* cmd_serve.c - `ds4 serve`: options, life and death of the server. See serve.h. */
#include "serve/serve.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/net.h"
#include "command/model_flags.h"
#include "serve/app.h"
#include "serve/doctor.h"

#define DRAIN_SECONDS 8 /* answers in progress may take so long after the first signal */
#define KV_FREE_BYTES (256ull << 20) /* for tips of short conversations, in the life of a server */
#define FLUSH_SECONDS 1 /* and their last bytes so much longer */
#define END_SECONDS 10  /* and the process is gone so long after the signal, whatever the disk or the engine do */
#define CLOSE_SECONDS 1 /* of them the store may still close its files in */
#define INSIST_SECONDS 0.5 /* a second signal ends the process after that */
#define EXIT_CODE_HUNG 75 /* EX_TEMPFAIL: worth starting again */

struct serve {
    const char *host, *key_file, *kv_dir, *alias, *trace_file;
    uint32_t port, n_parallel, queue_max, body_mib, think_budget;
    uint64_t kv_bytes;
    struct option_list hosts, origins;
    bool no_auth, no_page, show_stored, doctor, tools_first, dsml_entities, quiet, no_loop_guard;
    int effort_table;
    float min_p, time_scale, grace_s, watchdog_s;
    struct model_flags model;
};

static const struct option rows[] = {
    {.name = "host", .value = "ADDRESS", .type = OPTION_TEXT, .offset = offsetof(struct serve, host),
     .preset = "127.0.0.1", .help = "numeric address to listen on"},
    {.name = "port", .value = "N", .type = OPTION_U32, .offset = offsetof(struct serve, port), .max = 65535,
     .preset = "8000", .help = "port; 0 = any free one, which is then printed"},
    {.name = "api-key-file", .value = "FILE", .type = OPTION_TEXT, .offset = offsetof(struct serve, key_file),
     .help = "ask every client for one of these keys, one a line; only its owner may be able to read the file"},
    {.name = "no-auth", .type = OPTION_FLAG, .offset = offsetof(struct serve, no_auth),
     .help = "let everybody use the server who can reach an address of other machines"},
    {.name = "allow-host", .value = "NAME", .type = OPTION_LIST, .offset = offsetof(struct serve, hosts),
     .help = "another name that clients may call the server by"},
    {.name = "allow-origin", .value = "ORIGIN", .type = OPTION_LIST, .offset = offsetof(struct serve, origins),
     .help = "web pages of this origin may use the server"},
    {.name = "no-page", .type = OPTION_FLAG, .offset = offsetof(struct serve, no_page),
     .help = "show no chat page at /"},
    {.name = "parallel", .value = "N", .type = OPTION_U32, .offset = offsetof(struct serve, n_parallel), .min = 1,
     .max = WORKER_PARALLEL_MAX, .preset = "2",
     .help = "conversations held and computed at the same time; memory is planned for one session more, so that "
             "short requests beside a conversation never take its place"},
    {.name = "grace", .value = "SECONDS", .type = OPTION_F32, .offset = offsetof(struct serve, grace_s), .max = 3600,
     .preset = "30", .help = "work goes on for so long after its client has left, unless its place is wanted"},
    {.name = "max-queue", .value = "N", .type = OPTION_U32, .offset = offsetof(struct serve, queue_max), .min = 1,
     .max = WORKER_QUEUE_MAX, .preset = "64", .help = "requests that may wait; more are refused with 503"},
    {.name = "max-body-mb", .value = "N", .type = OPTION_U32, .offset = offsetof(struct serve, body_mib), .min = 1,
     .max = 64, .preset = "32", .help = "largest body in MiB"},
    {.name = "kv-dir", .value = "DIR", .type = OPTION_TEXT, .offset = offsetof(struct serve, kv_dir),
     .help = "keep computed state in this folder, so that a prompt seen before costs nothing; holds prompts in clear"},
    {.name = "kv-bytes", .value = "BYTES", .type = OPTION_BYTES, .offset = offsetof(struct serve, kv_bytes),
     .preset = "8g", .help = "most bytes of that folder"},
    {.name = "show-stored", .type = OPTION_FLAG, .offset = offsetof(struct serve, show_stored),
     .help = "let clients list and read the conversations of --kv-dir; on when an API key is asked for"},
    {.name = "alias", .value = "NAME", .type = OPTION_TEXT, .offset = offsetof(struct serve, alias),
     .preset = "deepseek-v4-flash", .help = "name of the model for clients"},
    {.name = "min-p", .value = "P", .type = OPTION_F32, .offset = offsetof(struct serve, min_p), .max = 1,
     .preset = "0.05", .help = "min_p of requests that say none"},
    {.name = "thinking-budget", .value = "N", .type = OPTION_U32, .offset = offsetof(struct serve, think_budget),
     .max = 1000000000, .preset = "0", .help = "most tokens of thinking for requests that say none; 0 = no bound"},
    {.name = "no-loop-guard", .type = OPTION_FLAG, .offset = offsetof(struct serve, no_loop_guard),
     .help = "let answers go on that repeat the same tokens or tool calls again and again"},
    {.name = "effort-table", .value = "preview|0731", .type = OPTION_CHOICE,
     .offset = offsetof(struct serve, effort_table), .preset = "preview",
     .help = "wording of the reasoning effort, by release of the model"},
    {.name = "tools-first", .type = OPTION_FLAG, .offset = offsetof(struct serve, tools_first),
     .help = "put the tools before the system text"},
    {.name = "dsml-entities", .type = OPTION_FLAG, .offset = offsetof(struct serve, dsml_entities),
     .help = "unescape XML entities in the arguments of tool calls"},
    {.name = "trace", .value = "FILE", .type = OPTION_TEXT, .offset = offsetof(struct serve, trace_file),
     .help = "write every prompt and output, as JSON lines, to this file, which only its owner can read"},
    {.name = "watchdog", .value = "SECONDS", .type = OPTION_F32, .offset = offsetof(struct serve, watchdog_s),
     .max = 1e6f, .preset = "300", .help = "end with status 75 when one step of the engine takes longer; 0 = never"},
    {.name = "time-scale", .value = "X", .type = OPTION_F32, .offset = offsetof(struct serve, time_scale), .min = 1,
     .max = 1000, .preset = "1", .help = "divide every deadline, but that of answers, by this; for tests"},
    {.name = "quiet", .type = OPTION_FLAG, .offset = offsetof(struct serve, quiet), .help = "no line for each request"},
    {.name = "doctor", .type = OPTION_FLAG, .offset = offsetof(struct serve, doctor),
     .help = "print the settings of Claude Code, Codex, opencode, Pi and the SDKs, look at what runs, and end"},
    MODEL_FLAG_ROWS(struct serve, model),
    MODEL_FLAG_ROWS_DRAFT(struct serve, model),
};
static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct serve *flags = values;
    bool printable = flags->alias[0] != 0; /* the name goes into JSON as it is */
    for (const char *c = flags->alias; *c; c++)
        printable = printable && *c > ' ' && *c < 0x7F && *c != '"' && *c != '\\';
    if (!printable) return err_set(error, DS4_ERR_FORMAT, "--alias: letters, digits and signs only");
    if (!net_is_address(flags->host))
        return err_set(error, DS4_ERR_FORMAT, "--host %.80s: must be a numeric address", flags->host);
    return model_flags_check(&flags->model, error);
}

static const struct options table = {
    .command = "serve", .summary = "answer clients of the OpenAI and Anthropic APIs over HTTP",
    OPTIONS_ROWS(rows), .check = check,
    .notes = "Paths: /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages,\n"
             "/v1/messages/count_tokens, /v1/models, /tokenize, /detokenize, /apply-template, /health,\n"
             "/metrics, /props, /slots.\n"
             "The first SIGTERM, SIGINT or SIGHUP lets answers in progress finish, the second ends at once.\n"
             "There is no TLS: put a reverse proxy in front for that.",
};

static atomic_int stop_wanted; /* how many signals have asked */

/* Runs on any thread, at any time: it counts, and drain() looks. */
static void on_stop(int number)
{
    (void)number;
    atomic_fetch_add(&stop_wanted, 1);
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_stop}, ignore = {.sa_handler = SIG_IGN};
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGHUP, &action, NULL);
    (void)sigaction(SIGPIPE, &ignore, NULL);
}

struct parts {
    struct ds4_engine *engine;
    struct ds4_store *store;
    struct recall *replay;
    struct trace *trace;
    struct app *app;
    struct server *server;
    double end_s;            /* END_SECONDS, but in tests */
    uint64_t asked_ns;       /* when the first signal came */
    atomic_bool closed;
};

static enum ds4_status open_engine(struct serve *flags, struct parts *parts, struct ds4_error *error)
{
    struct ds4_engine_options options;
    TRY(model_flags_options(&flags->model, &options, error));
    options.n_sessions_max = flags->n_parallel + 1;
    TRY(model_flags_open(&options, &parts->engine, error));
    if (!flags->kv_dir) return DS4_OK;
    struct ds4_store_options store = {.dir = flags->kv_dir, .budget_bytes = flags->kv_bytes,
                                      .write_free_bytes = KV_FREE_BYTES, .never_wait = true};
    return ds4_store_open(parts->engine, &store, &parts->store, error);
}

static enum ds4_status open_threads(struct serve *flags, struct parts *parts, struct ds4_error *error)
{
    struct app *app = parts->app;
    parts->replay = recall_create(parts->store);
    if (!parts->replay) return err_set(error, DS4_ERR_NOMEM, "no memory for the server");
    if (flags->trace_file) TRY(trace_open(flags->trace_file, &parts->trace, error));
    struct compute_options worker = {.engine = parts->engine, .store = parts->store, .metrics = &app->metrics,
                                    .replay = parts->replay, .n_parallel = flags->n_parallel,
                                    .dsml_entities = flags->dsml_entities,
                                    .grace_s = (double)flags->grace_s, .trace = parts->trace,
                                    .no_loop_guard = flags->no_loop_guard};
    TRY(worker_create(&worker, &app->worker, error));
    struct preparer_options preparer = {
        .engine = parts->engine, .worker = app->worker, .recall = parts->replay,
        .api = {.min_p = flags->min_p, .think_budget = flags->think_budget, .tools_first = flags->tools_first,
                .replay = recall_find, .replay_user = parts->replay,
                .effort_table = flags->effort_table ? DS4_EFFORT_0731 : DS4_EFFORT_PREVIEW}};
    return preparer_create(&preparer, &app->preparer, error);
}

static enum ds4_status open_server(struct serve *flags, struct parts *parts, struct ds4_error *error)
{
    struct app *app = parts->app;
    struct server_options options = {.host = flags->host, .port = (uint16_t)flags->port, .admit = app_admit,
                                     .handle = app_handle, .refuse = app_refuse, .header = app_header,
                                     .log = flags->quiet ? NULL : app_log, .user = app,
                                     .time_scale = (double)flags->time_scale,
                                     .body_bytes_max = (size_t)flags->body_mib << 20};
    app->engine = parts->engine;
    app->model_id = flags->alias;
    app->n_sessions = flags->n_parallel + 1;
    app->watchdog_s = (double)flags->watchdog_s;
    app->queue_max = flags->queue_max;
    app->created = clock_unix_s();
    app->no_page = flags->no_page;
    app->shows_stored = flags->show_stored || flags->key_file;
    TRY(page_init(&app->page, error));
    TRY(server_open(&options, &parts->server, error));
    catch_signals();
    (void)fprintf(stderr, "ds4 serve: listening on http://%s:%u\n", flags->host, (unsigned)server_port(parts->server));
    return DS4_OK;
}

/* An engine that hangs cannot be asked to end: a supervisor starts the server again. */
static void bite(const struct app *app)
{
    if (app->watchdog_s <= 0 || worker_silence_s(app->worker) <= app->watchdog_s) return;
    (void)fprintf(stderr, "ds4 serve: one step of the engine takes longer than %.0f s (--watchdog)\n", app->watchdog_s);
    _exit(EXIT_CODE_HUNG);
}

/* Ends the worker's answers while the sockets are still served, so that clients hear why. */
static void *drain(void *user)
{
    struct parts *parts = user;
    struct app *app = parts->app;
    while (atomic_load(&stop_wanted) == 0) {
        (void)usleep(20000);
        bite(app);
    }
    parts->asked_ns = clock_ns();
    atomic_store(&app->draining, true);
    net_wake(server_wake_fd(parts->server));
    worker_drain(app->worker, DRAIN_SECONDS);
    return NULL;
}

static enum ds4_status serve_until_stopped(struct parts *parts, struct ds4_error *error)
{
    pthread_t drainer;
    if (pthread_create(&drainer, NULL, drain, parts))
        return err_set(error, DS4_ERR_NOMEM, "a thread cannot be started");
    server_run(parts->server, &stop_wanted, DRAIN_SECONDS + FLUSH_SECONDS);
    (void)pthread_join(drainer, NULL);
    worker_drain(parts->app->worker, 0);
    double left_s = parts->end_s - clock_seconds_since(parts->asked_ns) - CLOSE_SECONDS * parts->end_s / END_SECONDS;
    ds4_store_hurry(parts->store, atomic_load(&stop_wanted) > 1 || left_s < 0 ? 0 : left_s);
    return DS4_OK;
}

/* Ends the process when closing takes too long: a call of the system may hang for as long as the disk does. Files are
 * written under other names until they are whole, so that nothing that is left can be taken for good. */
static void *insist(void *user)
{
    struct parts *parts = user;
    uint64_t again_ns = 0;
    for (; !atomic_load(&parts->closed); (void)usleep(10000)) {
        if (!again_ns && atomic_load(&stop_wanted) > 1) again_ns = clock_ns();
        if (again_ns && clock_seconds_since(again_ns) > INSIST_SECONDS) _exit(EXIT_CODE_OK);
        if (clock_seconds_since(parts->asked_ns) <= parts->end_s) continue;
        (void)fprintf(stderr, "ds4 serve: the disk or the engine does not answer; what was not written is lost\n");
        _exit(EXIT_CODE_OK);
    }
    return NULL;
}

/* In reverse; connections go after those who answer them, but their jobs hold what they need. */
static void close_all(struct parts *parts)
{
    struct app *app = parts->app;
    pthread_t insister;
    bool insists = parts->asked_ns && pthread_create(&insister, NULL, insist, parts) == 0;
    if (app) preparer_destroy(app->preparer);
    if (app) worker_destroy(app->worker);
    server_close(parts->server);
    if (app) page_deinit(&app->page);
    recall_destroy(parts->replay);
    trace_close(parts->trace);
    ds4_store_close(parts->store);
    ds4_engine_close(parts->engine);
    mem_free(app);
    atomic_store(&parts->closed, true);
    if (insists) (void)pthread_join(insister, NULL);
}

/* `ds4 serve --doctor`. */
static int examine(const struct serve *flags)
{
    static struct policy policy;
    struct ds4_error error = {0};
    struct buf out = {0};
    if (policy_init(&policy, flags->host, flags->key_file, true, &flags->hosts, &flags->origins, &error) != DS4_OK)
        return options_failed(&table, &error);
    struct doctor doctor = {.host = flags->host, .port = flags->port, .alias = flags->alias,
                            .ctx_tokens = flags->model.ctx_tokens, .secret = policy.n_keys ? policy.keys[0] : NULL};
    bool well = doctor_put(&out, &doctor);
    (void)fwrite(out.text.ptr, 1, out.text.len, stdout);
    buf_deinit(&out);
    return well ? EXIT_CODE_OK : EXIT_CODE_FAILED;
}

int cmd_serve(int argc, char **argv)
{
    struct serve flags;
    struct ds4_error error = {0};
    struct parts parts = {0};
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    if (flags.doctor) return examine(&flags);
    mem_share_heap();
    enum ds4_status status = DS4_OK;
    parts.end_s = END_SECONDS / (double)flags.time_scale;
    parts.app = mem_zalloc(1, sizeof *parts.app);
    if (!parts.app) status = err_set(&error, DS4_ERR_NOMEM, "no memory for the server");
    if (status == DS4_OK)
        status = policy_init(&parts.app->policy, flags.host, flags.key_file, flags.no_auth, &flags.hosts,
                             &flags.origins, &error);
    if (status == DS4_OK) status = open_engine(&flags, &parts, &error);
    if (status == DS4_OK) status = open_threads(&flags, &parts, &error);
    if (status == DS4_OK) status = open_server(&flags, &parts, &error);
    if (status == DS4_OK) status = serve_until_stopped(&parts, &error);
    close_all(&parts);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
