/* prepare.c - see prepare.h. */
#include "serve/prepare.h"

#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "serve/constrain.h"
#include "serve/continuation.h"

struct preparer {
    struct preparer_options o;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct job *first, *last;
    bool quit;
};

static void refuse_by(struct job *job, enum ds4_status status, const struct ds4_error *error)
{
    bool theirs = status == DS4_ERR_FORMAT || status == DS4_ERR_LIMIT || status == DS4_ERR_UNSUPPORTED;
    job_refuse(job, theirs ? 400 : 500, theirs ? error->message : "no memory for the request",
               theirs ? job->request.param : NULL, NULL);
}

static void reply(struct job *job, struct buf *body)
{
    if (body->failed) job_refuse(job, 500, "no memory for the answer", NULL, NULL);
    else (void)exchange_reply(job->exchange, 200, "application/json", buf_span(body), NULL);
    buf_deinit(body);
}

/* ---- questions about text ------------------------------------------------------------------------------------- */

static void put_piece(struct buf *out, struct ds4_span bytes)
{
    if (utf8_valid(bytes)) {
        buf_put_json_string(out, bytes);
        return;
    }
    buf_put_text(out, "[");
    for (size_t i = 0; i < bytes.len; i++) buf_printf(out, "%s%u", i ? "," : "", (unsigned)(unsigned char)bytes.ptr[i]);
    buf_put_text(out, "]");
}

static enum ds4_status tokenize(struct preparer *p, struct job *job, const struct jv *body, struct ds4_error *error)
{
    struct buf out = {0};
    bool pieces = jv_is_true(jv_get(body, "with_pieces"));
    if (!jv_is(jv_get(body, "content"), JV_STRING))
        return err_set(error, DS4_ERR_FORMAT, "content must be a string");
    if (jv_is_true(jv_get(body, "add_special")))
        TRY(ds4_tokens_append(&job->prompt, &ds4_special(p->o.engine)->bos, 1));
    TRY(ds4_tokenize(p->o.engine, jv_text(jv_get(body, "content")), !jv_is_false(jv_get(body, "parse_special")),
                     &job->prompt, error));
    buf_put_text(&out, "{\"tokens\":[");
    for (size_t i = 0; i < job->prompt.n; i++) {
        int32_t id = job->prompt.ids[i];
        buf_printf(&out, pieces ? "%s{\"id\":%d,\"piece\":" : "%s%d", i ? "," : "", id);
        if (!pieces) continue;
        put_piece(&out, ds4_token_bytes(p->o.engine, id));
        buf_put_text(&out, "}");
    }
    buf_put_text(&out, "]}");
    reply(job, &out);
    return DS4_OK;
}

static enum ds4_status detokenize(struct preparer *p, struct job *job, const struct jv *body, struct ds4_error *error)
{
    struct buf out = {0}, text = {0};
    const struct jv *list = jv_get(body, "tokens");
    if (!jv_is(list, JV_ARRAY)) return err_set(error, DS4_ERR_FORMAT, "tokens must be a list of ids");
    for (const struct jv *item = list->first; item; item = item->next) {
        double id;
        if (!jv_number(item, &id) || id < 0 || id > INT32_MAX) {
            buf_deinit(&text);
            return err_set(error, DS4_ERR_FORMAT, "tokens must be a list of ids");
        }
        buf_put_span(&text, ds4_token_bytes(p->o.engine, (int32_t)id));
    }
    buf_put_text(&out, "{\"content\":");
    buf_put_json_string(&out, buf_span(&text));
    buf_put_text(&out, "}");
    buf_deinit(&text);
    reply(job, &out);
    return DS4_OK;
}

static void answer_count(struct job *job)
{
    struct buf out = {0};
    if (job->dialect == API_MESSAGES) buf_printf(&out, "{\"input_tokens\":%zu}", job->prompt.n);
    else buf_printf(&out, "{\"object\":\"response.input_tokens\",\"input_tokens\":%zu}", job->prompt.n);
    reply(job, &out);
}

static void answer_template(struct job *job, const struct ds4_text *text)
{
    struct buf out = {0};
    buf_put_text(&out, "{\"prompt\":");
    buf_put_json_string(&out, span_make(text->ptr, text->len));
    buf_put_text(&out, ",\"tokens\":[");
    for (size_t i = 0; i < job->prompt.n; i++) buf_printf(&out, "%s%d", i ? "," : "", job->prompt.ids[i]);
    buf_put_text(&out, "]}");
    reply(job, &out);
}

/* ---- prompts -------------------------------------------------------------------------------------------------- */

/* One control token by its text. */
static enum ds4_status append_control(struct preparer *p, struct job *job, struct ds4_span text,
                                      struct ds4_error *error)
{
    size_t before = job->prompt.n;
    TRY(ds4_tokenize(p->o.engine, text, true, &job->prompt, error));
    if (job->prompt.n == before + 1 && ds4_token_is_control(p->o.engine, job->prompt.ids[before])) return DS4_OK;
    job->request.param = "suffix";
    return err_set(error, DS4_ERR_UNSUPPORTED, "suffix: this model has no tokens for filling in");
}

/* Prefix, hole, suffix; the model goes on with what belongs in the hole. */
static enum ds4_status fill_in_prompt(struct preparer *p, struct job *job, struct ds4_error *error)
{
#define FIM(word) SPAN("<\xEF\xBD\x9C" "fim\xE2\x96\x81" word "\xEF\xBD\x9C>")
    const struct api_request *r = &job->request;
    TRY(append_control(p, job, FIM("begin"), error));
    TRY(ds4_tokenize(p->o.engine, r->prompt, false, &job->prompt, error));
    TRY(append_control(p, job, FIM("hole"), error));
    TRY(ds4_tokenize(p->o.engine, r->suffix, false, &job->prompt, error));
    return append_control(p, job, FIM("end"), error);
#undef FIM
}

static enum ds4_status raw_prompt(struct preparer *p, struct job *job, struct ds4_error *error)
{
    const struct api_request *r = &job->request;
    const struct ds4_model_info *info = ds4_engine_info(p->o.engine);
    for (size_t i = 0; i < r->prompt_ids.n; i++)
        if ((uint32_t)r->prompt_ids.ids[i] >= info->n_vocab)
            return err_set(error, DS4_ERR_FORMAT, "the prompt has a token id outside the vocabulary");
    if (r->prompt_ids.n) return ds4_tokens_append(&job->prompt, r->prompt_ids.ids, r->prompt_ids.n);
    TRY(ds4_tokens_append(&job->prompt, &ds4_special(p->o.engine)->bos, 1));
    if (r->suffix.ptr) return fill_in_prompt(p, job, error);
    return ds4_tokenize(p->o.engine, r->prompt, false, &job->prompt, error);
}

/* Several prompts of one request; the first is the job's own. */
static enum ds4_status raw_prompts(struct preparer *p, struct job *job, struct ds4_error *error)
{
    struct api_request *r = &job->request;
    if (r->n_prompts == 0) return raw_prompt(p, job, error);
    job->prompts = arena_alloc(&job->arena, r->n_prompts, sizeof *job->prompts);
    if (!job->prompts) return err_set(error, DS4_ERR_NOMEM, "no memory for the prompts");
    for (; job->n_prompts < r->n_prompts; job->n_prompts++) {
        r->prompt = r->prompts[job->n_prompts];
        TRY(raw_prompt(p, job, error));
        if (job->prompt.n >= ds4_engine_info(p->o.engine)->ctx_tokens) return DS4_OK; /* refused by what follows */
        job->prompts[job->n_prompts] = job->prompt;
        job->prompt = (struct ds4_tokens){0};
    }
    r->prompt = r->prompts[0];
    job->prompt = job->prompts[0];
    job->prompts[0] = (struct ds4_tokens){0};
    return DS4_OK;
}

/* Agents compact their history when they read these words. */
static void refuse_overflow(struct preparer *p, struct job *job)
{
    static const char *const params[] = {"messages", "prompt", "messages", "input"};
    uint32_t ctx = ds4_engine_info(p->o.engine)->ctx_tokens;
    char sentence[256];
    struct buf body = {0};
    if (job->dialect == API_MESSAGES)
        (void)snprintf(sentence, sizeof sentence, "prompt is too long: %zu tokens > %u maximum", job->prompt.n, ctx);
    else
        (void)snprintf(sentence, sizeof sentence, "This model's maximum context length is %u tokens. However, your "
                       "messages resulted in %zu tokens. Please reduce the length of the messages.", ctx,
                       job->prompt.n);
    answer_put_error(&body, job->dialect, 400, sentence, params[job->dialect], "context_length_exceeded");
    struct ds4_span plain = buf_span(&body);
    size_t inner = span_find(plain, SPAN("\"error\":{"), 0) + 9; /* two more members, in front */
    struct buf out = {0};
    buf_put(&out, plain.ptr, inner);
    buf_printf(&out, "\"n_prompt_tokens\":%zu,\"n_ctx\":%u,", job->prompt.n, ctx);
    buf_put_span(&out, span_skip(plain, inner));
    (void)exchange_reply(job->exchange, 400, "application/json", buf_span(&out), NULL);
    buf_deinit(&body);
    buf_deinit(&out);
}

static void refuse_unsupported(struct job *job)
{
    char sentence[128];
    (void)snprintf(sentence, sizeof sentence, "%s: this value is not supported", job->request.unsupported);
    job_refuse(job, 400, sentence, job->request.unsupported, "unsupported_value");
}

static enum ds4_status render(struct preparer *p, struct job *job, struct ds4_text *text, bool *replied,
                              struct ds4_error *error)
{
    enum continuation continuation = CONTINUATION_NONE;
    if (job->request.raw) return raw_prompts(p, job, error);
    if (job->kind != JOB_TEMPLATE) TRY(continuation_of(p->o.engine, p->o.recall, job, &continuation, error));
    *replied = continuation == CONTINUATION_REFUSED;
    if (continuation != CONTINUATION_NONE) return DS4_OK;
    enum ds4_status status = ds4_render(p->o.engine, &job->request.chat, &job->prompt, text, error);
    if (status == DS4_ERR_FORMAT) {
        job->request.param = "messages";
        *error = (struct ds4_error){0};
        return err_set(error, status, "the conversation cannot be rendered: a tool or schema is no JSON object");
    }
    return status;
}

/* True: the job belongs to the worker now. */
static bool prepare_chat(struct preparer *p, struct job *job, struct ds4_error *error, enum ds4_status *status)
{
    struct ds4_text text = {0};
    bool goes_on = false, replied = false;
    *status = api_parse(job->dialect, &p->o.api, &job->arena, buf_span(&job->body), &job->request, error);
    if (*status == DS4_OK) *status = render(p, job, job->kind == JOB_TEMPLATE ? &text : NULL, &replied, error);
    if (replied) return false;
    if (*status == DS4_OK && job->kind == JOB_ANSWER)
        *status = constrain_job(p->o.engine, worker_token_index(p->o.worker), job, error);
    if (*status == DS4_OK) {
        if (job->kind == JOB_COUNT) answer_count(job);
        else if (job->kind == JOB_TEMPLATE) answer_template(job, &text);
        else if (job->request.unsupported) refuse_unsupported(job);
        else if (job->prompt.n >= ds4_engine_info(p->o.engine)->ctx_tokens) refuse_overflow(p, job);
        else goes_on = true;
    }
    ds4_text_free(&text);
    return goes_on;
}

static void prepare(struct preparer *p, struct job *job)
{
    struct ds4_error error = {0};
    const struct jv *body;
    enum ds4_status status;
    if (exchange_is_cancelled(job->exchange)) {
        job_destroy(job);
        return;
    }
    if (job->kind == JOB_STORED) {
        worker_submit(p->o.worker, job);
        return;
    }
    if (job->kind == JOB_TOKENIZE || job->kind == JOB_DETOKENIZE) {
        status = jv_parse(&job->arena, buf_span(&job->body), &body, &error);
        if (status == DS4_OK)
            status = job->kind == JOB_TOKENIZE ? tokenize(p, job, body, &error) : detokenize(p, job, body, &error);
    } else if (prepare_chat(p, job, &error, &status)) {
        if (job->request.stream) exchange_expect_stream(job->exchange);
        worker_submit(p->o.worker, job);
        return;
    }
    if (status != DS4_OK) refuse_by(job, status, &error);
    job_destroy(job);
}

static void *work(void *user)
{
    struct preparer *p = user;
    for (;;) {
        (void)pthread_mutex_lock(&p->lock);
        while (!p->first && !p->quit) (void)pthread_cond_wait(&p->filled, &p->lock);
        struct job *job = p->first;
        if (job) p->first = job->next;
        if (!p->first) p->last = NULL;
        (void)pthread_mutex_unlock(&p->lock);
        if (!job) return NULL;
        prepare(p, job);
    }
}

enum ds4_status preparer_create(const struct preparer_options *options, struct preparer **out, struct ds4_error *error)
{
    struct preparer *p = mem_zalloc(1, sizeof *p);
    if (!p) return err_set(error, DS4_ERR_NOMEM, "no memory for the preparer");
    p->o = *options;
    if (pthread_mutex_init(&p->lock, NULL) || pthread_cond_init(&p->filled, NULL) ||
        pthread_create(&p->thread, NULL, work, p)) {
        mem_free(p);
        return err_set(error, DS4_ERR_NOMEM, "the preparer's thread cannot be started");
    }
    *out = p;
    return DS4_OK;
}

void preparer_submit(struct preparer *p, struct job *job)
{
    (void)pthread_mutex_lock(&p->lock);
    job->next = NULL;
    if (p->last) p->last->next = job;
    else p->first = job;
    p->last = job;
    (void)pthread_cond_signal(&p->filled);
    (void)pthread_mutex_unlock(&p->lock);
}

void preparer_destroy(struct preparer *p)
{
    if (!p) return;
    (void)pthread_mutex_lock(&p->lock);
    p->quit = true;
    (void)pthread_cond_signal(&p->filled);
    (void)pthread_mutex_unlock(&p->lock);
    (void)pthread_join(p->thread, NULL);
    (void)pthread_cond_destroy(&p->filled);
    (void)pthread_mutex_destroy(&p->lock);
    mem_free(p);
}
