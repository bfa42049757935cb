/* worker.c - see worker.h. */
#include "serve/worker.h"

#include "base/clock.h"
#include "base/mem.h"
#include "serve/stored.h"

#define SHORT_PROMPT_TOKENS 1024 /* a side request, which should not evict a long conversation */

struct slot {
    struct ds4_session *session;
    struct job *job;             /* NULL = idle */
    struct ds4_sampler *sampler;
    struct ds4_parser *parser;
    bool decoding;
    bool began;                  /* the first chunk is done: n_reused is known */
    uint64_t phase_ns;           /* when prefill or decode began */
    uint64_t used_ns;
    size_t n_out, n_thinking;
    int32_t next;                /* picked, not yet evaluated */
};

struct worker {
    struct worker_options o;
    pthread_t thread;
    pthread_mutex_t lock;        /* over the queue and the flags */
    pthread_cond_t filled;
    struct job *first, *last;
    bool quit;
    atomic_ullong deadline_ns;   /* of draining; 0 = not draining */
    atomic_ullong round_ns;      /* when the present round began; 0 = idle */
    struct slot slots[WORKER_SESSIONS_MAX];
    size_t turn;                 /* slot whose prompt goes on next */
};

/* ---- the end of a job ----------------------------------------------------------------------------------------- */

static void note(struct slot *s, const char *finish)
{
    const struct answer_usage *u = &s->job->answer.usage;
    exchange_note(s->job->exchange, "prompt %zu+%zu out %zu%s%s %.1f t/s %.1f t/s %s", u->n_reused,
                  u->n_prompt - u->n_reused, u->n_out, s->job->request.chat.n_tools ? " tools" : "",
                  s->job->request.chat.think != DS4_THINK_NONE && !s->job->request.raw ? " thinking" : "",
                  u->prefill_s > 0 ? (double)(u->n_prompt - u->n_reused) / u->prefill_s : 0,
                  u->decode_s > 0 ? (double)u->n_out / u->decode_s : 0, finish);
}

static void release(struct worker *w, struct slot *s)
{
    ds4_sampler_destroy(s->sampler);
    ds4_parser_destroy(s->parser);
    s->sampler = NULL;
    s->parser = NULL;
    job_destroy(s->job);
    s->job = NULL;
    s->used_ns = clock_ns();
    metrics_add(&w->o.metrics->processing, -1);
}

static void count(struct worker *w, struct slot *s)
{
    struct answer_usage *u = &s->job->answer.usage;
    if (s->decoding) u->decode_s = clock_seconds_since(s->phase_ns);
    u->n_out = s->n_out;
    u->n_thinking = s->n_thinking;
    metrics_add(&w->o.metrics->tokens, (long long)u->n_out);
    metrics_add(&w->o.metrics->tokens_us, (long long)(u->decode_s * 1e6));
}

static void fail(struct worker *w, struct slot *s, const char *sentence)
{
    count(w, s);
    note(s, "failed");
    metrics_add(&w->o.metrics->failed, 1);
    answer_fail(&s->job->answer, sentence);
    release(w, s);
}

/* The session's state is not to be trusted any more. */
static void fail_engine(struct worker *w, struct slot *s, const char *sentence)
{
    bool empty = ds4_session_rewind(s->session, 0, NULL) == DS4_OK;
    ensure(empty); /* going back to nothing is always possible */
    fail(w, s, sentence);
}

static void cancel(struct worker *w, struct slot *s)
{
    count(w, s);
    note(s, "cancelled");
    metrics_add(&w->o.metrics->cancelled, 1);
    if (w->o.store && !(s->parser && ds4_parser_in_call(s->parser)))
        ds4_store_save(w->o.store, s->session, DS4_SAVE_TURN, NULL);
    release(w, s);
}

static void end(struct worker *w, struct slot *s, enum answer_finish finish)
{
    static const char *const words[] = {"stop", "length", "tool_calls", "stop_sequence"};
    struct answer *a = &s->job->answer;
    if (!a->ended && ds4_parser_finish(s->parser, answer_event, a) != DS4_OK) {
        fail(w, s, "no memory for the answer");
        return;
    }
    count(w, s);
    note(s, words[a->ended ? a->finish : finish]);
    answer_end(a, finish);
    if (w->o.store) ds4_store_save(w->o.store, s->session, DS4_SAVE_TURN, NULL);
    release(w, s);
}

/* ---- from the queue to a session ------------------------------------------------------------------------------ */

/* Tokens of the prompt that the session could keep. */
static size_t usable(const struct ds4_session *session, const struct ds4_tokens *prompt)
{
    size_t n, same = 0;
    const int32_t *held = ds4_session_tokens(session, &n);
    while (same < n && same < prompt->n && held[same] == prompt->ids[same]) same++;
    return same < n && same < ds4_session_rewind_min(session) ? 0 : same;
}

static size_t held_tokens(const struct slot *s)
{
    size_t n;
    (void)ds4_session_tokens(s->session, &n);
    return n;
}

/* Whether idle slot a is a better place for a prompt that neither has a part of. */
static bool cheaper(const struct slot *a, const struct slot *b, size_t n_prompt)
{
    size_t x = held_tokens(a), y = held_tokens(b);
    if (x == 0 || y == 0 || n_prompt < SHORT_PROMPT_TOKENS) return x < y;
    return a->used_ns < b->used_ns;
}

static struct slot *choose(struct worker *w, const struct ds4_tokens *prompt)
{
    struct slot *best = NULL;
    size_t best_usable = 0;
    for (size_t i = 0; i < w->o.n_sessions; i++) {
        struct slot *s = &w->slots[i];
        if (s->job) continue;
        size_t n = usable(s->session, prompt);
        if (best && (n < best_usable || (n == best_usable && !cheaper(s, best, prompt->n)))) continue;
        best = s;
        best_usable = n;
    }
    return best;
}

static void remember(void *user, const struct answer *a, struct ds4_span block)
{
    struct worker *w = user;
    recall_put(w->o.replay, a, block);
}

static enum ds4_status set_up(struct worker *w, struct slot *s, struct ds4_error *error)
{
    struct job *job = s->job;
    const struct api_request *r = &job->request;
    struct ds4_sampling sampling = r->sampling;
    if (!r->has_seed) sampling.seed = clock_ns() | 1;
    struct ds4_parser_options parser = {.in_thinking = !r->raw && r->chat.think != DS4_THINK_NONE,
                                        .tools_active = r->chat.n_tools > 0, .dsml_entities = w->o.dsml_entities};
    const struct ds4_message *last = r->chat.n_messages ? &r->chat.messages[r->chat.n_messages - 1] : NULL;
    if (last && last->role == DS4_ROLE_ASSISTANT) parser.in_thinking = false;
    TRY(answer_init(&job->answer, r, job->exchange, error));
    job->answer.sampled = remember;
    job->answer.sampled_user = w;
    job->answer.usage.n_prompt = job->prompt.n;
    TRY(ds4_sampler_create(w->o.engine, &sampling, &s->sampler, error));
    return ds4_parser_create(w->o.engine, &parser, &s->parser);
}

static void start(struct worker *w, struct slot *s, struct job *job)
{
    struct ds4_error error = {0};
    if (w->o.store && held_tokens(s) && usable(s->session, &job->prompt) == 0)
        ds4_store_save(w->o.store, s->session, DS4_SAVE_EVICT, NULL);
    job_waits_no_more(job);
    metrics_add(&w->o.metrics->processing, 1);
    metrics_add(&w->o.metrics->requests, 1);
    s->job = job;
    s->decoding = s->began = false;
    s->n_out = s->n_thinking = 0;
    s->phase_ns = clock_ns();
    if (set_up(w, s, &error) == DS4_OK) {
        answer_progress(&job->answer, 0, 0);
    } else {
        if (job->answer.request) fail(w, s, "the request could not be set up: no memory, or sampling out of range");
        else release(w, s);
    }
}

static bool draining(const struct worker *w) { return atomic_load(&w->deadline_ns) != 0; }

/* Gives waiting jobs to idle sessions, in order. */
static void admit(struct worker *w)
{
    for (;;) {
        (void)pthread_mutex_lock(&w->lock);
        struct job *job = w->first;
        struct slot *s = NULL;
        bool gone = job && (exchange_is_cancelled(job->exchange) || draining(w));
        bool question = job && !gone && job->kind == JOB_STORED;
        if (job && !gone && !question) s = choose(w, &job->prompt);
        if (gone || s || question) {
            w->first = job->next;
            if (!w->first) w->last = NULL;
        }
        (void)pthread_mutex_unlock(&w->lock);
        if (!gone && !s && !question) return;
        if (s) {
            start(w, s, job);
            continue;
        }
        if (question) stored_answer(w->o.store, w->o.engine, job);
        else if (draining(w)) job_refuse(job, 503, "the server is shutting down", NULL, NULL);
        else metrics_add(&w->o.metrics->cancelled, 1);
        job_destroy(job);
    }
}

/* ---- rounds --------------------------------------------------------------------------------------------------- */

/* Lets one chunk pass. */
static bool one_chunk(void *user, const char *phase, uint64_t done, uint64_t total)
{
    (void)user;
    (void)phase;
    return done == 0 || done == total;
}

static void prefill_chunk(struct worker *w, struct slot *s)
{
    struct job *job = s->job;
    struct ds4_store_report report = {0};
    struct ds4_error error = {0};
    struct answer_usage *u = &job->answer.usage;
    enum ds4_status status = ds4_store_sync(w->o.store, s->session, job->prompt.ids, job->prompt.n, one_chunk, NULL,
                                            &report, &error);
    if (!s->began) {
        u->n_reused = report.n_reused < job->prompt.n ? report.n_reused : job->prompt.n;
        s->began = true;
    }
    u->prefill_s = clock_seconds_since(s->phase_ns);
    if (status == DS4_OK || status == DS4_ERR_CANCELLED)
        answer_progress(&job->answer, status == DS4_OK ? job->prompt.n : held_tokens(s), u->prefill_s);
    if (status == DS4_ERR_CANCELLED) return;
    metrics_add(&w->o.metrics->prompt_us, (long long)(u->prefill_s * 1e6));
    metrics_add(&w->o.metrics->prompt_tokens, (long long)(job->prompt.n - u->n_reused));
    metrics_add(&w->o.metrics->reused_tokens, (long long)u->n_reused);
    if (status != DS4_OK) {
        fail_engine(w, s, "the engine failed on the prompt");
        return;
    }
    s->decoding = true;
    s->phase_ns = clock_ns();
    answer_begin(&job->answer);
    if (job->request.n_max == 0) end(w, s, FINISH_LENGTH);
}

/* Chooses the slot's next token and hands it to the answer. False: the job has ended. */
static bool pick(struct worker *w, struct slot *s)
{
    struct answer *a = &s->job->answer;
    struct ds4_error error = {0};
    const float *logits = ds4_session_logits(s->session);
    bool greedy = a->request->chat.n_tools > 0 && ds4_parser_in_syntax(s->parser);
    if (!logits || ds4_sampler_pick(s->sampler, logits, NULL, greedy, &s->next, &error) != DS4_OK) {
        fail_engine(w, s, "the engine gave no usable probabilities");
        return false;
    }
    ds4_sampler_accept(s->sampler, s->next);
    if (ds4_parser_feed(s->parser, s->next, answer_event, a) != DS4_OK) {
        fail(w, s, "no memory for the answer");
        return false;
    }
    if (a->request->stream) answer_flush(a);
    bool eos = s->next == ds4_special(w->o.engine)->eos;
    if (!eos) s->n_out++;
    if (!eos && !a->thinking_ended && a->request->chat.think != DS4_THINK_NONE) s->n_thinking++;
    if (eos || a->ended) {
        end(w, s, FINISH_STOP);
        return false;
    }
    if (s->n_out >= a->request->n_max || held_tokens(s) >= ds4_engine_info(w->o.engine)->ctx_tokens) {
        end(w, s, FINISH_LENGTH);
        return false;
    }
    return true;
}

/* One token of every answer in one pass. */
static void decode_all(struct worker *w)
{
    struct ds4_job jobs[WORKER_SESSIONS_MAX];
    struct slot *slots[WORKER_SESSIONS_MAX];
    size_t held[WORKER_SESSIONS_MAX];
    struct ds4_error error = {0};
    size_t n = 0, n_max = ds4_engine_info(w->o.engine)->chunk_tokens;
    for (size_t i = 0; i < w->o.n_sessions && n < n_max; i++) {
        struct slot *s = &w->slots[i];
        if (!s->job || !s->decoding || !pick(w, s)) continue;
        jobs[n] = (struct ds4_job){.session = s->session, .tokens = &s->next, .n = 1};
        held[n] = held_tokens(s);
        slots[n++] = s;
    }
    if (n == 0 || ds4_eval(w->o.engine, jobs, n, &error) == DS4_OK) return;
    for (size_t i = 0; i < n; i++) { /* whose fault it was shows when each goes alone */
        if (held_tokens(slots[i]) != held[i]) fail_engine(w, slots[i], "the engine failed during the answer");
        else if (ds4_eval(w->o.engine, &jobs[i], 1, NULL) != DS4_OK)
            fail_engine(w, slots[i], "the engine failed during the answer");
    }
}

static void drop_lost(struct worker *w)
{
    uint64_t deadline = atomic_load(&w->deadline_ns);
    for (size_t i = 0; i < w->o.n_sessions; i++) {
        struct slot *s = &w->slots[i];
        if (!s->job) continue;
        if (exchange_is_cancelled(s->job->exchange)) cancel(w, s);
        else if (deadline && clock_ns() >= deadline) fail(w, s, "the server is shutting down");
    }
}

static bool is_busy(const struct worker *w)
{
    for (size_t i = 0; i < w->o.n_sessions; i++)
        if (w->slots[i].job) return true;
    return false;
}

static void prefill_next(struct worker *w)
{
    for (size_t i = 0; i < w->o.n_sessions; i++) {
        struct slot *s = &w->slots[w->turn++ % w->o.n_sessions];
        if (!s->job || s->decoding) continue;
        prefill_chunk(w, s);
        return;
    }
}

/* Waits for work. False: quit. */
static bool wait_for_work(struct worker *w)
{
    (void)pthread_mutex_lock(&w->lock);
    while (!w->first && !w->quit) {
        atomic_store(&w->round_ns, 0);
        (void)pthread_cond_wait(&w->filled, &w->lock);
    }
    bool go_on = w->first || !w->quit;
    (void)pthread_mutex_unlock(&w->lock);
    return go_on;
}

static void *work(void *user)
{
    struct worker *w = user;
    for (;;) {
        if (!is_busy(w) && !wait_for_work(w)) return NULL;
        atomic_store(&w->round_ns, clock_ns());
        admit(w);
        drop_lost(w);
        prefill_next(w);
        drop_lost(w);
        decode_all(w);
    }
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static void destroy_sessions(struct worker *w)
{
    for (size_t i = 0; i < w->o.n_sessions; i++) {
        if (w->o.store && w->slots[i].session && held_tokens(&w->slots[i]))
            ds4_store_save(w->o.store, w->slots[i].session, DS4_SAVE_SHUTDOWN, NULL);
        ds4_session_destroy(w->slots[i].session);
    }
}

enum ds4_status worker_create(const struct worker_options *options, struct worker **out, struct ds4_error *error)
{
    struct worker *w = mem_zalloc(1, sizeof *w);
    enum ds4_status status = DS4_OK;
    if (!w) return err_set(error, DS4_ERR_NOMEM, "no memory for the worker");
    w->o = *options;
    for (size_t i = 0; i < options->n_sessions && status == DS4_OK; i++)
        status = ds4_session_create(options->engine, &w->slots[i].session, error);
    if (status == DS4_OK && (pthread_mutex_init(&w->lock, NULL) || pthread_cond_init(&w->filled, NULL) ||
                             pthread_create(&w->thread, NULL, work, w)))
        status = err_set(error, DS4_ERR_NOMEM, "the worker's thread cannot be started");
    if (status == DS4_OK) {
        *out = w;
        return DS4_OK;
    }
    for (size_t i = 0; i < options->n_sessions; i++) ds4_session_destroy(w->slots[i].session);
    mem_free(w);
    return status;
}

void worker_submit(struct worker *w, struct job *job)
{
    (void)pthread_mutex_lock(&w->lock);
    bool question = job->kind == JOB_STORED; /* costs little: before those who wait for a session */
    job->next = question ? w->first : NULL;
    if (!question && w->last) w->last->next = job;
    else w->first = job;
    if (!job->next) w->last = job;
    (void)pthread_cond_signal(&w->filled);
    (void)pthread_mutex_unlock(&w->lock);
}

void worker_drain(struct worker *w, double grace_s)
{
    atomic_store(&w->deadline_ns, clock_ns() + (uint64_t)(grace_s * 1e9));
}

double worker_silence_s(const struct worker *w)
{
    uint64_t began = atomic_load(&w->round_ns);
    return began ? clock_seconds_since(began) : 0;
}

void worker_destroy(struct worker *w)
{
    if (!w) return;
    if (!draining(w)) worker_drain(w, 0);
    (void)pthread_mutex_lock(&w->lock);
    w->quit = true;
    (void)pthread_cond_signal(&w->filled);
    (void)pthread_mutex_unlock(&w->lock);
    (void)pthread_join(w->thread, NULL);
    destroy_sessions(w);
    (void)pthread_cond_destroy(&w->filled);
    (void)pthread_mutex_destroy(&w->lock);
    mem_free(w);
}
