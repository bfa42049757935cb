/* compute.c - see compute.h. */
#include "serve/compute.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "serve/constrain.h"
#include "serve/stored.h"

struct compute {
    struct compute_options o;
    struct job *waiting;         /* taken over, in order */
    struct slots slots;
    size_t turn;                 /* slot whose prompt goes on next */
    atomic_ullong deadline_ns;   /* of draining; 0 = not draining */
};

/* ---- the end of a job ----------------------------------------------------------------------------------------- */

static void note(const struct compute *c, struct slot *s, const char *finish)
{
    trace_put(c->o.trace, c->o.engine, s, finish);
    const struct answer_usage *u = &s->job->answer.usage;
    struct ds4_expert_figures experts;
    char predicted[48] = ""; /* when experts are streamed and the disk was measured */
    ds4_engine_expert_figures(c->o.engine, &experts);
    if (experts.predicted_tps > 0)
        (void)snprintf(predicted, sizeof predicted, " (%.2g predicted)", experts.predicted_tps);
    exchange_note(s->job->exchange, "prompt %zu+%zu out %zu%s%s %.1f t/s %.3g t/s%s %s", u->n_reused,
                  u->n_prompt - u->n_reused, u->n_out, s->job->request.chat.n_tools ? " tools" : "",
                  s->job->request.chat.think != DS4_THINK_NONE && !s->job->request.raw ? " thinking" : "",
                  u->prefill_s > 0 ? (double)(u->n_prompt - u->n_reused) / u->prefill_s : 0,
                  u->decode_s > 0 ? (double)u->n_out / u->decode_s : 0, predicted, finish);
}

static void release(struct compute *c, struct slot *s)
{
    ds4_sampler_destroy(s->sampler);
    ds4_parser_destroy(s->parser);
    s->sampler = NULL;
    s->parser = NULL;
    job_destroy(s->job);
    s->job = NULL;
    s->left_ns = 0;
    s->used_ns = clock_ns();
    metrics_add(&c->o.metrics->processing, -1);
}

static bool guards_loops(const struct compute *c, const struct slot *s)
{
    return !c->o.no_loop_guard && !s->job->request.no_loop_guard;
}

static void count(struct compute *c, struct slot *s)
{
    struct answer_usage *u = &s->job->answer.usage;
    if (s->decoding) u->decode_s = clock_seconds_since(s->phase_ns);
    u->n_out = s->n_out;
    u->n_thinking = s->n_thinking;
    metrics_add(&c->o.metrics->tokens, (long long)u->n_out);
    metrics_add(&c->o.metrics->tokens_us, (long long)(u->decode_s * 1e6));
}

static void save(const struct compute *c, const struct slot *s, enum ds4_save_reason reason)
{
    ds4_store_save(c->o.store, s->session, s->in_call ? DS4_SAVE_ROWS : reason, NULL);
}

/* Notes where the answer stopped. */
static void stop(struct slot *s)
{
    if (s->parser && s->decoding) s->in_call = ds4_parser_in_call(s->parser);
}

static void fail(struct compute *c, struct slot *s, const char *sentence)
{
    stop(s);
    count(c, s);
    note(c, s, "failed");
    metrics_add(&c->o.metrics->failed, 1);
    answer_fail(&s->job->answer, sentence);
    release(c, s);
}

/* The session's state is not to be trusted any more. */
static void fail_engine(struct compute *c, struct slot *s, const char *sentence)
{
    bool empty = ds4_session_rewind(s->session, 0, NULL) == DS4_OK;
    ensure(empty); /* going back to nothing is always possible */
    fail(c, s, sentence);
}

static void cancel(struct compute *c, struct slot *s)
{
    size_t n_reused = s->job->answer.usage.n_reused, held = slot_held(s);
    stop(s);
    if (s->began && !s->decoding && held > n_reused)
        metrics_add(&c->o.metrics->prompt_tokens, (long long)(held - n_reused));
    count(c, s);
    note(c, s, "cancelled");
    metrics_add(&c->o.metrics->cancelled, 1);
    save(c, s, DS4_SAVE_TURN);
    release(c, s);
}

/* The prompt of the slot's job is to be computed, and nothing of its answer is there. */
static void begin_prompt(struct slot *s)
{
    s->decoding = s->began = s->closing = false;
    s->n_out = s->n_thinking = 0;
    s->guard = (struct guard){0};
    s->phase_ns = clock_ns();
}

static enum ds4_status set_up_tokens(struct compute *c, struct slot *s, struct ds4_error *error)
{
    const struct api_request *r = &s->job->request;
    struct ds4_sampling sampling = r->sampling;
    if (!r->has_seed) sampling.seed = clock_ns() | 1;
    struct ds4_parser_options parser = {.in_thinking = !r->raw && r->chat.think != DS4_THINK_NONE,
                                        .tools_active = api_has_tools(r), .dsml_entities = c->o.dsml_entities};
    const struct ds4_message *last = r->chat.n_messages ? &r->chat.messages[r->chat.n_messages - 1] : NULL;
    if (last && last->role == DS4_ROLE_ASSISTANT) parser.in_thinking = false;
    s->thinking = parser.in_thinking;
    s->job->answer.usage.n_prompt = s->job->prompt.n;
    TRY(ds4_sampler_create(c->o.engine, &sampling, &s->sampler, error));
    return ds4_parser_create(c->o.engine, &parser, &s->parser);
}

/* The answer to one of several prompts has ended: the slot goes on to the next. */
static void go_on(struct compute *c, struct slot *s, enum answer_finish finish)
{
    answer_end_choice(&s->job->answer, finish);
    ds4_sampler_destroy(s->sampler);
    ds4_parser_destroy(s->parser);
    s->sampler = NULL;
    s->parser = NULL;
    begin_prompt(s);
    if (set_up_tokens(c, s, NULL) != DS4_OK) fail(c, s, "no memory for the answer");
}

static void end(struct compute *c, struct slot *s, enum answer_finish finish)
{
    static const char *const words[] = {"stop", "length", "tool_calls", "stop_sequence", "repetition"};
    struct answer *a = &s->job->answer;
    stop(s);
    if (!a->ended && ds4_parser_finish(s->parser, answer_event, a) != DS4_OK) {
        fail(c, s, "no memory for the answer");
        return;
    }
    count(c, s);
    note(c, s, words[a->ended ? a->finish : finish]);
    if (job_next_prompt(s->job)) {
        go_on(c, s, finish);
        return;
    }
    answer_end(a, finish);
    save(c, s, DS4_SAVE_TURN);
    release(c, s);
}

/* ---- from the queue to a session ------------------------------------------------------------------------------ */

static void remember(void *user, const struct answer *a, struct ds4_span block)
{
    struct compute *c = user;
    for (size_t i = 0; i < c->slots.n; i++) {
        const struct slot *s = &c->slots.items[i];
        size_t n_held;
        if (!s->job || &s->job->answer != a) continue;
        const int32_t *held = ds4_session_tokens(s->session, &n_held);
        recall_put(c->o.replay, a, block, held, n_held, s->next);
        return;
    }
}

static bool repeats(void *user, const struct answer *a)
{
    struct compute *c = user;
    if (guard_step_copies(&a->request->chat, a->calls, a->n_calls) < GUARD_STEP_COPIES_MIN) return false;
    metrics_add(&c->o.metrics->call_loops, 1);
    return true;
}

static enum ds4_status set_up(struct compute *c, struct slot *s, struct ds4_error *error)
{
    struct job *job = s->job;
    TRY(answer_init(&job->answer, &job->request, job->exchange, error));
    job->answer.sampled = remember;
    job->answer.repeats = repeats;
    job->answer.sampled_user = c;
    job->answer.hold_calls = guards_loops(c, s) &&
                             guard_step_copies(&job->request.chat, NULL, 0) >= GUARD_STEP_COPIES_MIN;
    return set_up_tokens(c, s, error);
}

/* Bytes of the first n tokens of the prompt. */
static size_t bytes_of(const struct compute *c, const struct job *job, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += ds4_token_bytes(c->o.engine, job->prompt.ids[i]).len;
    return bytes;
}

static void start(struct compute *c, struct slot *s, struct job *job)
{
    struct ds4_error error = {0};
    size_t mismatch = slots_mismatch(&c->slots, &job->prompt);
    if (s->job) cancel(c, s);
    if (slot_held(s) && slot_usable(s, &job->prompt) == 0) save(c, s, DS4_SAVE_EVICT);
    job_waits_no_more(job);
    metrics_add(&c->o.metrics->processing, 1);
    metrics_add(&c->o.metrics->requests, 1);
    s->job = job;
    s->left_ns = 0;
    begin_prompt(s);
    if (set_up(c, s, &error) == DS4_OK) {
        answer_progress(&job->answer, 0, 0);
    } else {
        if (job->answer.request) fail(c, s, "the request could not be set up: no memory, or sampling out of range");
        else release(c, s);
        return;
    }
    job->answer.usage.mismatch = mismatch;
    if (mismatch != ANSWER_NO_MISMATCH) job->answer.usage.mismatch_byte = bytes_of(c, job, mismatch);
}

static bool draining(const struct compute *c) { return atomic_load(&c->deadline_ns) != 0; }

/* Puts the client that asks again in the place of the one that left. True: the job is done with. */
static bool attach(struct compute *c, struct job *job)
{
    for (size_t i = 0; i < c->slots.n && !job->request.stream; i++) {
        struct slot *s = &c->slots.items[i];
        if (!s->left_ns || !s->decoding || s->job->dialect != job->dialect ||
            !span_eq(buf_span(&s->job->body), buf_span(&job->body)))
            continue;
        struct exchange *gone = s->job->exchange;
        s->job->exchange = s->job->answer.exchange = job->exchange;
        job->exchange = gone;
        s->left_ns = 0;
        answer_tell_cache(&s->job->answer);
        metrics_add(&c->o.metrics->attached, 1);
        job_destroy(job);
        return true;
    }
    return false;
}

/* True: the job is no longer waiting. */
static bool admit_one(struct compute *c, struct job *job)
{
    if (draining(c)) {
        job_refuse(job, 503, "the server is shutting down", NULL, NULL);
        job_destroy(job);
        return true;
    }
    if (exchange_is_cancelled(job->exchange)) {
        metrics_add(&c->o.metrics->cancelled, 1);
        job_destroy(job);
        return true;
    }
    if (job->kind == JOB_STORED) {
        stored_answer(c->o.store, c->o.engine, job);
        job_destroy(job);
        return true;
    }
    if (attach(c, job)) return true;
    struct slot *s = slots_choose(&c->slots, &job->prompt);
    if (!s) return false;
    if (s->left_ns && slot_usable(s, &job->prompt)) metrics_add(&c->o.metrics->attached, 1);
    start(c, s, job);
    return true;
}

/* Gives waiting jobs to sessions: the oldest first, but a short one need not wait for a long one's place. */
static void admit(struct compute *c)
{
    for (struct job **at = &c->waiting; *at;) {
        struct job *job = *at, *next = job->next;
        if (admit_one(c, job)) *at = next;
        else at = &job->next;
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

static void prefill_chunk(struct compute *c, struct slot *s)
{
    struct job *job = s->job;
    struct ds4_store_report report = {0};
    struct ds4_error error = {0};
    struct answer_usage *u = &job->answer.usage;
    enum ds4_status status = ds4_store_sync(c->o.store, s->session, job->prompt.ids, job->prompt.n, one_chunk, NULL,
                                            &report, &error);
    if (!s->began) {
        static const char *const sources[] = {[DS4_STORE_NONE] = "none", [DS4_STORE_RAM] = "ram",
                                              [DS4_STORE_DISK] = "disk"};
        u->n_reused = report.n_reused < job->prompt.n ? report.n_reused : job->prompt.n;
        u->reused_bytes = bytes_of(c, job, u->n_reused);
        u->source = sources[report.source];
        answer_tell_cache(&job->answer);
        s->began = true;
        s->in_call = false;
    }
    u->prefill_s = clock_seconds_since(s->phase_ns);
    if (status == DS4_OK || status == DS4_ERR_CANCELLED)
        answer_progress(&job->answer, status == DS4_OK ? job->prompt.n : slot_held(s), u->prefill_s);
    if (status == DS4_ERR_CANCELLED) return;
    metrics_add(&c->o.metrics->prompt_us, (long long)(u->prefill_s * 1e6));
    metrics_add(&c->o.metrics->prompt_tokens, (long long)(job->prompt.n - u->n_reused));
    metrics_add(&c->o.metrics->reused_tokens, (long long)u->n_reused);
    if (status != DS4_OK) {
        fail_engine(c, s, "the engine failed on the prompt");
        return;
    }
    if (job->prompt.n - u->n_reused > SLOT_SIDE_TOKENS) save(c, s, DS4_SAVE_PREFIX);
    if (s->left_ns) { /* the state is there for whoever asks again */
        cancel(c, s);
        return;
    }
    s->decoding = true;
    s->phase_ns = clock_ns();
    answer_begin(&job->answer);
    if (job->request.n_max == 0) end(c, s, FINISH_LENGTH);
}

/* Most tokens that the answer may still have, the next one included. */
static size_t room(const struct compute *c, const struct slot *s)
{
    size_t ctx = ds4_engine_info(c->o.engine)->ctx_tokens, held = slot_held(s), n_max = s->job->request.n_max;
    size_t left = n_max > s->n_out ? n_max - s->n_out : 0, there = ctx > held ? ctx - held + 1 : 1;
    return left < there ? left : there;
}

/* An answer that has a form is completed before it ends, when there is a way. */
static bool close_for(struct slot *s, enum answer_finish finish)
{
    if (!constrain_completes(s->job)) return false;
    if (s->closing) return true;
    s->closing = true;
    s->closing_for = finish;
    return true;
}

/* Holds the slot's next token to the form of the answer. False: the job has ended. */
static bool constrain(struct compute *c, struct slot *s)
{
    if (!s->job->grammar) return true;
    int32_t sampled = s->next;
    switch (constrain_token(s->job, room(c, s), s->closing, &s->next)) {
    case CONSTRAIN_OK:
        if (s->next != sampled) (void)close_for(s, FINISH_LENGTH);
        return true;
    case CONSTRAIN_CLOSED:
        end(c, s, s->closing ? s->closing_for : FINISH_LENGTH);
        return false;
    default:
        fail(c, s, "the answer could not be held to its form");
        return false;
    }
}

/* A slot whose next token is to be chosen, and how. */
struct choice {
    struct slot *slot;
    const uint32_t *mask; /* NULL: any token */
    bool greedy;
    bool ends_thinking;   /* it is the end of thinking that has gone on for too long */
};

/* False: the job has ended. */
static bool prepare_choice(struct compute *c, struct slot *s, struct choice *out)
{
    const struct api_request *r = &s->job->request;
    struct ds4_error error = {0};
    *out = (struct choice){.slot = s, .greedy = api_has_tools(r) && ds4_parser_in_syntax(s->parser)};
    if (s->job->grammar && ds4_grammar_mask(s->job->grammar, &out->mask, &error) != DS4_OK) {
        fail(c, s, "no memory for the answer");
        return false;
    }
    struct ds4_span last = s->n_thinking ? ds4_token_bytes(c->o.engine, s->next) : SPAN("");
    out->ends_thinking = s->thinking && r->think_budget && guard_ends_thinking(r->think_budget, s->n_thinking, last);
    return true;
}

/* Nothing but answers to compute, and the model says all of their next tokens: then what follows these is begun with
 * the choice, on a GPU. What a prompt's next chunk, or a token that the host chooses, would take back is not begun. */
static bool goes_ahead(const struct compute *c, const struct choice *choices, size_t n)
{
    size_t n_jobs = 0;
    for (size_t i = 0; i < c->slots.n; i++) n_jobs += c->slots.items[i].job != NULL;
    for (size_t i = 0; i < n; i++)
        if (choices[i].mask || choices[i].ends_thinking) return false;
    return n_jobs == n;
}

/* Chooses the next token of each slot; those without one have ended and leave the list. Returns how many stay. */
static size_t choose_all(struct compute *c, struct choice *choices, size_t n)
{
    struct ds4_next nexts[SLOTS_MAX];
    struct ds4_error error = {0};
    size_t n_left = 0;
    bool ahead = goes_ahead(c, choices, n);
    for (size_t i = 0; i < n; i++)
        nexts[i] = (struct ds4_next){.session = choices[i].slot->session, .sampler = choices[i].slot->sampler,
                                     .force_greedy = choices[i].greedy};
    if (ahead && ds4_sessions_next(nexts, n, &error) != DS4_OK) error = (struct ds4_error){0}; /* each has its status */
    for (size_t i = 0; i < n; i++) {
        struct slot *s = choices[i].slot;
        if (choices[i].ends_thinking) {
            metrics_add(&c->o.metrics->budgets_reached, 1);
            nexts[i].id = ds4_special(c->o.engine)->think_end;
        } else if (!ahead) {
            nexts[i].status = ds4_session_pick(s->session, s->sampler, choices[i].mask, choices[i].greedy, &nexts[i].id,
                                               &error);
        }
        s->next = nexts[i].id;
        if (nexts[i].status == DS4_OK) choices[n_left++] = choices[i];
        else fail_engine(c, s, "the engine gave no usable probabilities");
    }
    return n_left;
}

/* Holds the slot's next token to what the answer may be. False: the job has ended. */
static bool settle(struct compute *c, struct slot *s)
{
    const struct api_request *r = &s->job->request;
    if (guards_loops(c, s) && guard_feed(&s->guard, s->next)) {
        metrics_add(&c->o.metrics->loops, 1);
        s->guard = (struct guard){0};
        if (!s->thinking && !close_for(s, FINISH_LOOP)) {
            end(c, s, FINISH_LOOP);
            return false;
        }
        if (s->thinking) s->next = ds4_special(c->o.engine)->think_end;
    }
    if (!constrain(c, s)) return false;
    ds4_sampler_accept(s->sampler, s->next);
    const struct ds4_special_ids *special = ds4_special(c->o.engine);
    bool shown = s->next != special->eos && s->next != special->think_end && !ds4_parser_in_call(s->parser);
    if (r->logprobs && shown)
        answer_add_logprobs(&s->job->answer, c->o.engine, ds4_session_logits(s->session), s->next, s->thinking);
    return true;
}

/* Hands the slot's next token to the answer. False: the job has ended. */
static bool hand_over(struct compute *c, struct slot *s)
{
    struct answer *a = &s->job->answer;
    if (!settle(c, s)) return false;
    if (ds4_parser_feed(s->parser, s->next, answer_event, a) != DS4_OK) {
        fail(c, s, "no memory for the answer");
        return false;
    }
    if (a->request->stream) answer_flush(a);
    bool eos = s->next == ds4_special(c->o.engine)->eos;
    if (!eos) s->n_out++;
    if (!eos && s->thinking) s->n_thinking++;
    if (s->next == ds4_special(c->o.engine)->think_end) s->thinking = false;
    if (s->closing && a->ended && a->finish == FINISH_CALLS) a->finish = s->closing_for;
    if (eos || a->ended) {
        end(c, s, FINISH_STOP);
        return false;
    }
    if (s->job->grammar && ds4_grammar_is_done(s->job->grammar)) {
        end(c, s, s->closing ? s->closing_for : FINISH_STOP);
        return false;
    }
    if (s->n_out >= a->request->n_max || slot_held(s) >= ds4_engine_info(c->o.engine)->ctx_tokens) {
        end(c, s, FINISH_LENGTH);
        return false;
    }
    return true;
}

/* One token of every answer in one pass. */
static void decode_all(struct compute *c)
{
    struct choice choices[SLOTS_MAX];
    struct ds4_job jobs[SLOTS_MAX];
    struct slot *slots[SLOTS_MAX];
    size_t held[SLOTS_MAX];
    struct ds4_error error = {0};
    size_t n_choices = 0, n = 0, n_max = ds4_engine_info(c->o.engine)->chunk_tokens;
    for (size_t i = 0; i < c->slots.n && n_choices < n_max; i++) {
        struct slot *s = &c->slots.items[i];
        if (s->job && s->decoding) n_choices += prepare_choice(c, s, &choices[n_choices]);
    }
    n_choices = choose_all(c, choices, n_choices);
    for (size_t i = 0; i < n_choices; i++) {
        struct slot *s = choices[i].slot;
        if (!hand_over(c, s)) continue;
        jobs[n] = (struct ds4_job){.session = s->session, .tokens = &s->next, .n = 1};
        held[n] = slot_held(s);
        slots[n++] = s;
    }
    if (n == 0 || ds4_eval(c->o.engine, jobs, n, &error) == DS4_OK) return;
    for (size_t i = 0; i < n; i++) { /* whose fault it was shows when each goes alone */
        if (slot_held(slots[i]) != held[i]) fail_engine(c, slots[i], "the engine failed during the answer");
        else if (ds4_eval(c->o.engine, &jobs[i], 1, NULL) != DS4_OK)
            fail_engine(c, slots[i], "the engine failed during the answer");
    }
}

/* A stream that is being read ends with its reader; what nobody could see coming may be asked for again. */
static bool may_go_on(const struct compute *c, const struct slot *s)
{
    if (draining(c) || (s->decoding && s->job->request.stream)) return false;
    return clock_seconds_since(s->left_ns) < c->o.grace_s;
}

static void notice_lost(struct compute *c)
{
    for (size_t i = 0; i < c->slots.n; i++) {
        struct slot *s = &c->slots.items[i];
        if (s->job && !s->left_ns && exchange_is_cancelled(s->job->exchange)) s->left_ns = clock_ns();
    }
}

static void drop_lost(struct compute *c)
{
    uint64_t deadline = atomic_load(&c->deadline_ns);
    notice_lost(c);
    for (size_t i = 0; i < c->slots.n; i++) {
        struct slot *s = &c->slots.items[i];
        if (!s->job) continue;
        if (s->left_ns && !may_go_on(c, s)) cancel(c, s);
        else if (deadline && clock_ns() >= deadline) fail(c, s, "the server is shutting down");
    }
}

static void prefill_next(struct compute *c)
{
    for (size_t i = 0; i < c->slots.n; i++) {
        struct slot *s = &c->slots.items[c->turn++ % c->slots.n];
        if (!s->job || s->decoding) continue;
        prefill_chunk(c, s);
        return;
    }
}

static void publish_store(struct compute *c)
{
    struct ds4_store_stats stats;
    if (!c->o.store) return;
    ds4_store_stats(c->o.store, &stats);
    atomic_store(&c->o.metrics->stored_bytes, (long long)stats.bytes);
    atomic_store(&c->o.metrics->stored_files, (long long)(stats.n_tips + stats.n_segments + stats.n_others));
    atomic_store(&c->o.metrics->stored_waiting, (long long)stats.queued_bytes);
}

static void publish(struct compute *c)
{
    publish_store(c);
    for (size_t i = 0; i < c->slots.n; i++) {
        struct slot *s = &c->slots.items[i];
        atomic_store(&s->shown_busy, s->job != NULL);
        atomic_store(&s->shown_held, slot_held(s));
        if (s->job) atomic_store(&s->shown_reused, s->job->answer.usage.n_reused);
    }
}

void compute_step(struct compute *c)
{
    notice_lost(c);
    admit(c);
    drop_lost(c);
    prefill_next(c);
    drop_lost(c);
    decode_all(c);
    publish(c);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

enum ds4_status compute_create(const struct compute_options *options, struct compute **out, struct ds4_error *error)
{
    struct compute *c = mem_zalloc(1, sizeof *c);
    enum ds4_status status = DS4_OK;
    if (!c) return err_set(error, DS4_ERR_NOMEM, "no memory for the sessions");
    c->o = *options;
    c->slots.n = options->n_parallel + 1;
    for (size_t i = 0; i < c->slots.n && status == DS4_OK; i++)
        status = ds4_session_create(options->engine, &c->slots.items[i].session, error);
    if (status == DS4_OK) publish_store(c);
    if (status == DS4_OK) *out = c;
    else compute_destroy(c);
    return status;
}

void compute_take(struct compute *c, struct job *first)
{
    struct job **tail = &c->waiting;
    while (*tail) tail = &(*tail)->next;
    *tail = first;
}

bool compute_is_busy(const struct compute *c)
{
    if (c->waiting) return true;
    for (size_t i = 0; i < c->slots.n; i++)
        if (c->slots.items[i].job) return true;
    return false;
}

void compute_drain(struct compute *c, double grace_s)
{
    atomic_store(&c->deadline_ns, clock_ns() + (uint64_t)(grace_s * 1e9));
}

void compute_put_slots(struct compute *c, struct buf *out)
{
    slots_put(out, &c->slots, ds4_engine_info(c->o.engine)->ctx_tokens);
}

void compute_destroy(struct compute *c)
{
    if (!c) return;
    if (!draining(c)) compute_drain(c, 0);
    while (compute_is_busy(c)) compute_step(c);
    for (size_t i = 0; i < c->slots.n; i++) {
        struct ds4_session *session = c->slots.items[i].session;
        if (session && slot_held(&c->slots.items[i])) save(c, &c->slots.items[i], DS4_SAVE_SHUTDOWN);
        ds4_session_destroy(session);
    }
    mem_free(c);
}
