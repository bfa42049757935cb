/* app.c - see app.h. */
#include "serve/app.h"

#include <stdio.h>

#include "base/clock.h"
#include "serve/stored.h"

#define TEXT_JOBS_MAX 64 /* that only count or render have places of their own behind a full queue of answers */
#define SILENCE_SECONDS_MAX 60 /* of a worker that has work: /health says so, and sooner with a shorter watchdog */

enum action { ACT_ROOT, ACT_HEALTH, ACT_MODELS, ACT_METRICS, ACT_PROPS, ACT_SLOTS, ACT_ANSWER, ACT_COUNT, ACT_TEMPLATE,
              ACT_TOKENIZE, ACT_DETOKENIZE, ACT_STORED, ACT_NOT_OFFERED, ACT_ONE_MODEL };

struct endpoint {
    enum http_method method;
    const char *path;
    enum action action;
    enum api_dialect dialect;
    bool is_public;
};
static const struct endpoint endpoints[] = {
#define ENDPOINT(method, path, action, dialect, is_public) \
    {HTTP_##method, path, ACT_##action, API_##dialect, is_public},
#include "serve/api/endpoints.def"
#undef ENDPOINT
};
/* Paths that go on with a name. */
static const struct endpoint named[] = {{HTTP_GET, "/v1/models/", ACT_ONE_MODEL, API_CHAT, false},
                                        {HTTP_GET, "/v1/ds4/conversations/", ACT_STORED, API_CHAT, false}};

static enum api_dialect dialect_of(struct ds4_span path)
{
    return span_starts(path, SPAN("/v1/messages")) ? API_MESSAGES : API_CHAT;
}

static bool fits(const struct endpoint *e, enum http_method method)
{
    return e->method == method || (method == HTTP_HEAD && e->method == HTTP_GET);
}

/* *other: the path exists with another method. */
static const struct endpoint *find(const struct http_request *r, const struct endpoint **other)
{
    *other = NULL;
    for (size_t i = 0; i < sizeof endpoints / sizeof endpoints[0]; i++) {
        if (!span_eq(r->path, span_from(endpoints[i].path))) continue;
        if (fits(&endpoints[i], r->method)) return &endpoints[i];
        *other = &endpoints[i];
    }
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++)
        if (span_starts(r->path, span_from(named[i].path)) && fits(&named[i], r->method)) return &named[i];
    return NULL;
}

static void refuse(struct exchange *x, enum api_dialect dialect, int status, const char *sentence, const char *header)
{
    struct buf body = {0};
    answer_put_error(&body, dialect, status, sentence, NULL, NULL);
    (void)exchange_reply(x, status, "application/json", buf_span(&body), header);
    buf_deinit(&body);
}

static void refuse_model(struct exchange *x)
{
    struct buf body = {0};
    answer_put_error(&body, API_CHAT, 404, "there is no such model", "model", "model_not_found");
    (void)exchange_reply(x, 404, "application/json", buf_span(&body), NULL);
    buf_deinit(&body);
}

bool app_admit(void *user, const struct http_request *r, struct exchange *x)
{
    struct app *app = user;
    const struct endpoint *other, *e = find(r, &other);
    struct policy_verdict verdict = policy_check(&app->policy, r, e && e->is_public);
    enum api_dialect dialect = dialect_of(r->path);
    if (verdict.status != 200) {
        refuse(x, dialect, verdict.status, verdict.sentence, NULL);
        return false;
    }
    if (r->method == HTTP_OPTIONS) {
        (void)exchange_reply(x, 204, NULL, SPAN(""), NULL);
        return false;
    }
    if (!e && other) {
        refuse(x, dialect, 405, "this path takes another method",
               other->method == HTTP_POST ? "Allow: POST, OPTIONS\r\n" : "Allow: GET, HEAD, OPTIONS\r\n");
        return false;
    }
    if (!e) {
        refuse(x, dialect, 404, "there is nothing at this path", NULL);
        return false;
    }
    return true;
}

/* ---- answered at once ----------------------------------------------------------------------------------------- */

static void put_model(struct app *app, struct buf *out)
{
    const struct ds4_model_info *info = ds4_engine_info(app->engine);
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"model\",\"type\":\"model\",\"created\":%llu,\"owned_by\":\"ds4\",",
               app->model_id, (unsigned long long)app->created);
    buf_put_text(out, "\"created_at\":\"2026-01-01T00:00:00Z\",\"name\":");
    buf_put_json_string(out, span_from(info->name));
    buf_put_text(out, ",\"display_name\":");
    buf_put_json_string(out, span_from(info->name));
    buf_printf(out, ",\"context_length\":%u,\"max_model_len\":%u,\"architecture\":{\"input_modalities\":[\"text\"],"
               "\"output_modalities\":[\"text\"]},\"meta\":{\"n_vocab\":%u,\"n_ctx_train\":%u,\"n_embd\":%u,"
               "\"n_params\":%llu,\"size\":%llu,\"n_ctx\":%u},", info->ctx_tokens, info->ctx_tokens, info->n_vocab,
               info->ctx_train_tokens, info->n_embd, (unsigned long long)info->n_params,
               (unsigned long long)info->file_bytes, info->ctx_tokens);
    uint32_t answer_max = info->ctx_tokens < API_TOKENS_DEFAULT ? info->ctx_tokens : API_TOKENS_DEFAULT;
    buf_printf(out, "\"top_provider\":{\"context_length\":%u,\"max_completion_tokens\":%u,"
               "\"is_moderated\":false},", info->ctx_tokens, answer_max);
    buf_put_text(out, "\"supported_parameters\":[\"tools\",\"tool_choice\",\"max_tokens\",\"temperature\",\"top_p\","
                 "\"top_k\",\"min_p\",\"stop\",\"seed\",\"stream\",\"reasoning_effort\",\"logit_bias\","
                 "\"presence_penalty\",\"frequency_penalty\",\"response_format\",\"logprobs\",\"top_logprobs\"]}");
}

static void put_models(struct app *app, struct buf *out)
{
    buf_put_text(out, "{\"object\":\"list\",\"data\":[");
    put_model(app, out);
    buf_printf(out, "],\"has_more\":false,\"first_id\":\"%s\",\"last_id\":\"%s\"}", app->model_id, app->model_id);
}

static void put_props(struct app *app, struct buf *out)
{
    const struct ds4_model_info *info = ds4_engine_info(app->engine);
    const char *slash = strrchr(info->model_path, '/');
    buf_printf(out, "{\"default_generation_settings\":{\"n_ctx\":%u,\"params\":{\"temperature\":1,\"top_p\":1,"
               "\"top_k\":0,\"min_p\":0.05}},\"total_slots\":%u,\"model_alias\":\"%s\",\"model_path\":",
               info->ctx_tokens, app->n_sessions, app->model_id);
    buf_put_json_string(out, span_from(slash ? slash + 1 : info->model_path));
    buf_put_text(out, ",\"chat_template\":\"built in: see /apply-template\",\"chat_template_caps\":{\"supports_tools\":"
                 "true,\"supports_parallel_tool_calls\":true,\"supports_system_role\":true,"
                 "\"supports_preserve_reasoning\":true},\"modalities\":{\"vision\":false,\"audio\":false},"
                 "\"build_info\":\"ds4 " DS4_VERSION "\",\"bos_token\":");
    buf_put_json_string(out, ds4_token_bytes(app->engine, ds4_special(app->engine)->bos));
    buf_put_text(out, ",\"eos_token\":");
    buf_put_json_string(out, ds4_token_bytes(app->engine, ds4_special(app->engine)->eos));
    buf_put_text(out, "}");
}

/* The page at `/`, or a line of text when it is not wanted. */
static void reply_root(struct app *app, struct exchange *x)
{
    static const char line[] = "ds4 " DS4_VERSION ": GET /v1/models, POST /v1/chat/completions, POST /v1/messages\n";
    if (app->no_page) (void)exchange_reply(x, 200, "text/plain; charset=utf-8", span_from(line), NULL);
    else (void)exchange_reply(x, 200, "text/html; charset=utf-8", buf_span(&app->page.html),
                              app->page.headers.text.ptr);
}

static void reply_health(struct app *app, struct exchange *x)
{
    double most = app->watchdog_s > 0 && app->watchdog_s / 5 < SILENCE_SECONDS_MAX ? app->watchdog_s / 5
                                                                                   : SILENCE_SECONDS_MAX;
    if (worker_silence_s(app->worker) > most)
        refuse(x, API_CHAT, 503, "the engine has been at one step for too long", NULL);
    else if (atomic_load(&app->draining))
        refuse(x, API_CHAT, 503, "the server is shutting down", NULL);
    else
        (void)exchange_reply(x, 200, "application/json", SPAN("{\"status\":\"ok\"}"), NULL);
}

static void reply_at_once(struct app *app, const struct endpoint *e, const struct http_request *r, struct exchange *x)
{
    struct buf out = {0};
    const char *type = "application/json";
    switch (e->action) {
    case ACT_ROOT: reply_root(app, x); break;
    case ACT_MODELS: put_models(app, &out); break;
    case ACT_METRICS:
        type = "text/plain; version=0.0.4; charset=utf-8";
        metrics_put(&out, &app->metrics);
        break;
    case ACT_PROPS: put_props(app, &out); break;
    case ACT_SLOTS: worker_put_slots(app->worker, &out); break;
    case ACT_ONE_MODEL:
        if (span_eq(span_skip(r->path, strlen(e->path)), span_from(app->model_id))) put_model(app, &out);
        else refuse_model(x);
        break;
    default: refuse(x, API_CHAT, 501, "not offered: this model makes text, no embeddings and no rankings", NULL); break;
    }
    if (out.failed) refuse(x, API_CHAT, 500, "no memory for the answer", NULL);
    else if (out.text.len) (void)exchange_reply(x, 200, type, buf_span(&out), NULL);
    buf_deinit(&out);
}

/* ---- jobs ------------------------------------------------------------------------------------------------------ */

/* The last part of the path, which the store compares with its keys and with nothing else. */
static void take_key(struct job *job, const struct endpoint *e, const struct http_request *r)
{
    struct ds4_span key = span_skip(r->path, strlen(e->path));
    if (key.len == 0) return;
    bool fits_in = key.len < sizeof job->key;
    memcpy(job->key, fits_in ? key.ptr : "-", fits_in ? key.len : 1);
}

static void reply_no_stored(struct exchange *x)
{
    struct buf out = {0};
    stored_put_unavailable(&out);
    (void)exchange_reply(x, 200, "application/json", buf_span(&out), NULL);
    buf_deinit(&out);
}

void app_handle(void *user, const struct http_request *r, struct buf *body, struct exchange *x)
{
    static const enum job_kind kinds[] = {[ACT_ANSWER] = JOB_ANSWER, [ACT_COUNT] = JOB_COUNT,
                                          [ACT_TEMPLATE] = JOB_TEMPLATE, [ACT_TOKENIZE] = JOB_TOKENIZE,
                                          [ACT_DETOKENIZE] = JOB_DETOKENIZE, [ACT_STORED] = JOB_STORED};
    struct app *app = user;
    const struct endpoint *other, *e = find(r, &other);
    if (e->action == ACT_HEALTH) {
        reply_health(app, x);
        return;
    }
    if (e->action < ACT_ANSWER || e->action > ACT_STORED) {
        reply_at_once(app, e, r, x);
        return;
    }
    if (e->action == ACT_STORED && !app->shows_stored) {
        reply_no_stored(x);
        return;
    }
    size_t places = app->queue_max + (e->action == ACT_ANSWER ? 0 : TEXT_JOBS_MAX);
    bool full = atomic_load(&app->metrics.waiting) >= (long long)places;
    if (full || atomic_load(&app->draining)) {
        metrics_add(&app->metrics.refused, 1);
        refuse(x, e->dialect, e->dialect == API_MESSAGES ? 529 : 503,
               full ? "too many requests are waiting" : "the server is shutting down", "Retry-After: 5\r\n");
        return;
    }
    struct job *job = job_create(kinds[e->action], e->dialect, body, x, &app->metrics);
    if (job && e->action == ACT_STORED) take_key(job, e, r);
    if (job) preparer_submit(app->preparer, job);
    else refuse(x, e->dialect, 503, "no memory for the request", "Retry-After: 5\r\n");
}

void app_refuse(void *user, int status, struct ds4_span path, struct exchange *x)
{
    static const struct {
        int status;
        const char *sentence;
    } sentences[] = {{400, "the bytes received are no well-formed HTTP/1.1 request"},
                     {405, "this server answers GET, HEAD, POST and OPTIONS only"},
                     {411, "the length of the body must be given"}, {413, "the body is too large"},
                     {414, "the path is too long"}, {415, "the body must not be compressed"},
                     {417, "this expectation cannot be met"},
                     {431, "the headers, or the extensions of chunks, are too large"},
                     {501, "this method or transfer coding is not known here"},
                     {503, "too much is being received"}, {505, "only HTTP/1.1 and 1.0 are spoken here"}};
    const char *sentence = "the request cannot be served";
    (void)user;
    for (size_t i = 0; i < sizeof sentences / sizeof sentences[0]; i++)
        if (sentences[i].status == status) sentence = sentences[i].sentence;
    const char *header = status == 405 ? "Allow: GET, HEAD, POST, OPTIONS\r\n"
                         : status == 503 ? "Retry-After: 5\r\n" : NULL;
    refuse(x, path.len ? dialect_of(path) : API_CHAT, status, sentence, header);
}

const char *app_header(void *user, const struct http_request *request)
{
    struct app *app = user;
    return policy_header(&app->policy, request);
}

void app_log(void *user, const char *line)
{
    (void)user;
    (void)fprintf(stderr, "%llu %s\n", (unsigned long long)clock_unix_s(), line);
}
