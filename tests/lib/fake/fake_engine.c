/* fake_engine.c - engine, sessions, state and sampling of the scripted engine. See fake_engine.h. */
#include <math.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"
#include "lib/fake/fake_internal.h"

#define SCRIPT_BYTES_MAX (16u << 20)
#define ROW_BYTES 8       /* of a token in a span: its id and the hash of all up to it */
#define TIP_BYTES 24
#define LIKELY 40.0f      /* logit of the scripted token; e^-40 is never drawn */

struct fake_stats fake_stats;
static const char *next_script;
static bool fail_after_restore;

void fake_engine_fail_after_restore(bool on) { fail_after_restore = on; }
void fake_engine_script(const char *json) { next_script = json; }
const struct fake_stats *fake_engine_stats(void) { return &fake_stats; }

static void sleep_ms(uint32_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    if (ms) (void)nanosleep(&t, NULL);
}

/* A test decides when the engine goes on: what has to be so before that does not depend on how fast the machine is. */
static void wait_while_held(const struct ds4_engine *e)
{
    while (e->hold[0] && access(e->hold, F_OK) == 0) sleep_ms(1);
}

static void fill_info(struct ds4_engine *e, const struct ds4_engine_options *options)
{
    struct ds4_model_info *info = &e->info;
    (void)snprintf(e->path, sizeof e->path, "%s", options->model_path ? options->model_path : "");
    if (options->ctx_tokens) info->ctx_tokens = options->ctx_tokens;
    if (info->n_sessions_max == 0) info->n_sessions_max = options->n_sessions_max ? options->n_sessions_max : 1;
    if (options->chunk_tokens) info->chunk_tokens = options->chunk_tokens;
    info->name = e->name;
    info->architecture = "scripted";
    info->backend = options->backend ? options->backend : "script";
    info->quantisation = "none";
    info->model_path = e->path;
    info->n_layers = 1;
    info->n_vocab = FAKE_N_VOCAB;
    info->n_embd = 64;
    info->n_heads = 1;
    info->n_experts = 1;
    info->n_experts_used = 1;
    info->window_tokens = e->rewind_tokens;
    info->ctx_train_tokens = 1 << 20;
    info->n_threads = 1;
    info->weight_bytes_per_token = 1000;
    info->state_bytes_per_token = ROW_BYTES;
    info->state_bytes_fixed = TIP_BYTES;
    hash_bytes(e->name, strlen(e->name), info->digest);
    e->special = (struct ds4_special_ids){FAKE_BOS, FAKE_EOS, FAKE_PAD, FAKE_USER, FAKE_ASSISTANT, FAKE_THINK,
                                          FAKE_THINK_END, FAKE_DSML, FAKE_LATEST_REMINDER};
    e->layout = (struct ds4_state_layout){.version = 1, .span_tokens = FAKE_SPAN_TOKENS,
                                          .span_bytes = FAKE_SPAN_TOKENS * ROW_BYTES, .tip_bytes_max = TIP_BYTES};
    memcpy(e->layout.digest, info->digest, 16);
}

enum ds4_status ds4_engine_open(const struct ds4_engine_options *options, struct ds4_engine **out,
                                struct ds4_error *error)
{
    struct ds4_text text = {0};
    *out = NULL;
    if (!next_script) TRY(file_read_all(options->model_path, SCRIPT_BYTES_MAX, &text, error));
    struct ds4_engine *e = mem_zalloc(1, sizeof *e);
    enum ds4_status status = e ? DS4_OK : err_set(error, DS4_ERR_NOMEM, "no memory for the scripted engine");
    if (e) {
        fake_stats.n_engines++;
        const char *json = next_script ? next_script : text.ptr;
        status = fake_script_load(json, next_script ? strlen(json) : text.len, e, error);
    }
    ds4_text_free(&text);
    if (status == DS4_OK && e->fail_open.len)
        status = err_set(error, DS4_ERR_FORMAT, "%.*s", (int)e->fail_open.len, e->fail_open.ptr);
    if (status != DS4_OK) {
        ds4_engine_close(e);
        return status;
    }
    fill_info(e, options);
    for (uint64_t done = 0; options->progress && done <= 10; done++) {
        sleep_ms(e->load_ms / 10);
        if (options->progress(options->progress_user, "load", done, 10)) continue;
        ds4_engine_close(e);
        return err_set(error, DS4_ERR_CANCELLED, "loading was cancelled");
    }
    *out = e;
    return DS4_OK;
}

void ds4_engine_close(struct ds4_engine *engine)
{
    if (!engine) return;
    fake_stats.n_engines--;
    fake_script_free(engine);
    mem_free(engine);
}

const struct ds4_model_info *ds4_engine_info(const struct ds4_engine *engine) { return &engine->info; }
const struct ds4_state_layout *ds4_state_layout(const struct ds4_engine *engine) { return &engine->layout; }

/* A script has no layers: nothing ever passes the probe. */
enum ds4_status ds4_speed_probe(const struct ds4_engine_options *options, double seconds, struct ds4_speed *out,
                                struct ds4_error *error)
{
    (void)options;
    (void)seconds;
    (void)error;
    *out = (struct ds4_speed){0};
    return DS4_OK;
}

double ds4_plan_tps(const struct ds4_plan *plan, const struct ds4_speed *speed)
{
    (void)plan;
    (void)speed;
    return 0;
}

void ds4_engine_expert_figures(const struct ds4_engine *engine, struct ds4_expert_figures *out)
{
    *out = (struct ds4_expert_figures){.predicted_tps = engine->predicted_tps};
}

void ds4_engine_set_probe(struct ds4_engine *engine, ds4_probe_fn fn, void *user)
{
    (void)engine;
    (void)fn;
    (void)user;
}

enum ds4_status ds4_plan_make(const struct ds4_engine_options *options, struct ds4_plan *plan, struct ds4_error *error)
{
    struct ds4_engine *e;
    TRY(ds4_engine_open(options, &e, error));
    *plan = (struct ds4_plan){.n_items = 2, .mapped_bytes = 3000, .memory_bytes = mem_machine_bytes()};
    plan->items[0] = (struct ds4_plan_item){.name = "weights: scripted", .bytes = 3000};
    plan->items[1] = (struct ds4_plan_item){.name = "state: sessions", .resident = true};
    plan->items[1].bytes = (uint64_t)e->info.ctx_tokens * ROW_BYTES;
    plan->resident_bytes = plan->items[1].bytes;
    plan->budget_bytes = options->memory_budget_bytes ? options->memory_budget_bytes : plan->memory_bytes;
    plan->weight_bytes_per_token = e->info.weight_bytes_per_token;
    plan->fits = plan->resident_bytes <= plan->budget_bytes;
    plan->all_in_memory = plan->fits;
    (void)snprintf(plan->verdict, sizeof plan->verdict, plan->fits ? "It fits." : "It does not fit.");
    ds4_engine_close(e);
    return DS4_OK;
}

/* ---- sessions ---- */

struct ds4_session {
    struct ds4_engine *engine;
    struct ds4_tokens tokens;
    struct ds4_text rows; /* whole spans: per token its id and the running hash */
    float logits[FAKE_N_VOCAB];
    bool has_logits, restored;
};

enum ds4_status ds4_session_create(struct ds4_engine *engine, struct ds4_session **out, struct ds4_error *error)
{
    *out = NULL;
    if (engine->n_sessions >= engine->info.n_sessions_max)
        return err_set(error, DS4_ERR_LIMIT, "%u sessions are open, the most planned for", engine->n_sessions);
    struct ds4_session *s = mem_zalloc(1, sizeof *s);
    if (!s) return err_set(error, DS4_ERR_NOMEM, "no memory for a session");
    s->engine = engine;
    engine->n_sessions++;
    fake_stats.n_sessions++;
    *out = s;
    return DS4_OK;
}

void ds4_session_destroy(struct ds4_session *s)
{
    if (!s) return;
    s->engine->n_sessions--;
    fake_stats.n_sessions--;
    ds4_tokens_free(&s->tokens);
    ds4_text_free(&s->rows);
    mem_free(s);
}

static uint32_t hash_next(uint32_t hash, int32_t id) { return (hash ^ (uint32_t)id) * 16777619u; }

static uint32_t hash_at(const struct ds4_session *s, size_t n)
{
    return n ? load_u32(s->rows.ptr + (n - 1) * ROW_BYTES + 4) : 2166136261u;
}

static enum ds4_status append(struct ds4_session *s, int32_t id)
{
    size_t n = s->tokens.n;
    if (n % FAKE_SPAN_TOKENS == 0 && s->rows.len < (n + 1) * ROW_BYTES) {
        struct buf rows = {.text = s->rows};
        static const char zeros[FAKE_SPAN_TOKENS * ROW_BYTES];
        buf_put(&rows, zeros, sizeof zeros);
        s->rows = rows.text;
        TRY(buf_status(&rows, NULL));
    }
    uint32_t hash = hash_next(hash_at(s, n), id);
    TRY(ds4_tokens_append(&s->tokens, &id, 1));
    store_u32(s->rows.ptr + n * ROW_BYTES, (uint32_t)id);
    store_u32(s->rows.ptr + n * ROW_BYTES + 4, hash);
    return DS4_OK;
}

static void truncate_to(struct ds4_session *s, size_t n)
{
    size_t spans = (n + FAKE_SPAN_TOKENS - 1) / FAKE_SPAN_TOKENS;
    if (n < s->tokens.n) s->has_logits = false;
    if (n == 0) s->restored = false;
    s->tokens.n = n;
    s->rows.len = spans * FAKE_SPAN_TOKENS * ROW_BYTES;
    if (s->rows.ptr && s->rows.len > n * ROW_BYTES)
        memset(s->rows.ptr + n * ROW_BYTES, 0, s->rows.len - n * ROW_BYTES);
}

static enum ds4_status compute_logits(struct ds4_session *s, float *out, struct ds4_error *error)
{
    struct fake_next next;
    TRY(fake_next_token(s->engine, s->tokens.ids, s->tokens.n, &next));
    if (next.fail) return err_set(error, DS4_ERR_DEVICE, "the scripted device failed at token %zu", s->tokens.n);
    uint32_t hash = hash_at(s, s->tokens.n);
    for (int32_t id = 0; id < FAKE_N_VOCAB; id++) {
        out[id] = (float)((hash ^ (uint32_t)id * 2654435761u) >> 22) * 0x1p-10f;
        if (next.spread && id >= 'a' && id <= 'z') out[id] = LIKELY;
        if (next.nan) out[id] = NAN;
    }
    if (!next.spread && !next.nan) out[next.id] = LIKELY;
    sleep_ms(next.token_ms);
    return DS4_OK;
}

enum ds4_status ds4_session_fork(struct ds4_session *session, struct ds4_session **out, struct ds4_error *error)
{
    TRY(ds4_session_create(session->engine, out, error));
    enum ds4_status status = DS4_OK;
    for (size_t i = 0; i < session->tokens.n && status == DS4_OK; i++) status = append(*out, session->tokens.ids[i]);
    if (status != DS4_OK) {
        ds4_session_destroy(*out);
        *out = NULL;
        return err_set(error, status, "no memory for a second session");
    }
    memcpy((*out)->logits, session->logits, sizeof session->logits);
    (*out)->has_logits = session->has_logits;
    return DS4_OK;
}

const int32_t *ds4_session_tokens(const struct ds4_session *session, size_t *n)
{
    *n = session->tokens.n;
    return session->tokens.ids;
}

size_t ds4_session_rows(const struct ds4_session *session) { return session->tokens.n; }

size_t ds4_session_rewind_min(const struct ds4_session *session)
{
    size_t back = session->engine->rewind_tokens;
    return session->tokens.n > back ? session->tokens.n - back : 0;
}

enum ds4_status ds4_session_rewind(struct ds4_session *session, size_t n, struct ds4_error *error)
{
    if (n > session->tokens.n || (n && n < ds4_session_rewind_min(session)))
        return err_set(error, DS4_ERR_STATE, "cannot go from %zu tokens to %zu", session->tokens.n, n);
    truncate_to(session, n);
    return DS4_OK;
}

/* True when the prompt holds what the script wants to fail. */
static bool prefill_fails(const struct ds4_engine *engine, const int32_t *tokens, size_t n)
{
    struct buf text = {0};
    if (!engine->fail_prefill.len) return false;
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 256) buf_put_byte(&text, (unsigned char)tokens[i]);
    bool hit = span_find(buf_span(&text), engine->fail_prefill, 0) != SIZE_MAX;
    buf_deinit(&text);
    return hit;
}

enum ds4_status ds4_session_sync(struct ds4_session *session, const int32_t *tokens, size_t n,
                                 ds4_progress_fn progress, void *user, size_t *reused, struct ds4_error *error)
{
    struct ds4_engine *e = session->engine;
    size_t common = 0;
    fake_stats.n_syncs++;
    if (n == 0) return err_set(error, DS4_ERR_STATE, "a session cannot be led to no tokens");
    if (n > e->info.ctx_tokens)
        return err_set(error, DS4_ERR_LIMIT, "%zu tokens, but the context holds %u", n, e->info.ctx_tokens);
    while (common < n && common < session->tokens.n && session->tokens.ids[common] == tokens[common]) common++;
    if (common == n && (session->tokens.n > n || !session->has_logits)) common--;
    if (common < session->tokens.n && common < ds4_session_rewind_min(session)) common = 0;
    truncate_to(session, common);
    if (reused) *reused = common;
    fake_stats.n_tokens_reused += common;
    for (size_t at = common; at < n;) {
        size_t chunk = n - at < e->info.chunk_tokens ? n - at : e->info.chunk_tokens;
        if (progress && !progress(user, "prefill", at - common, n - common))
            return err_set(error, DS4_ERR_CANCELLED, "cancelled after %zu of %zu tokens", at, n);
        sleep_ms(e->chunk_ms);
        if (!e->hold_answers) wait_while_held(e);
        if (fail_after_restore && session->restored)
            return err_set(error, DS4_ERR_DEVICE, "the scripted device failed after a restore at token %zu", at);
        if (prefill_fails(e, tokens + at, chunk))
            return err_set(error, DS4_ERR_DEVICE, "the scripted device failed in prefill at token %zu", at);
        for (size_t i = 0; i < chunk; i++) TRY(append(session, tokens[at++]));
        fake_stats.n_tokens_evaluated += chunk;
        session->has_logits = false;
    }
    if (progress && !progress(user, "prefill", n - common, n - common))
        return err_set(error, DS4_ERR_CANCELLED, "cancelled after %zu tokens", n);
    if (session->has_logits) return DS4_OK;
    TRY(compute_logits(session, session->logits, error));
    session->has_logits = true;
    return DS4_OK;
}

enum ds4_status ds4_eval(struct ds4_engine *engine, const struct ds4_job *jobs, size_t n_jobs,
                         struct ds4_error *error)
{
    size_t n_rows = 0;
    wait_while_held(engine);
    for (size_t j = 0; j < n_jobs; j++) n_rows += jobs[j].n;
    if (n_rows > engine->info.chunk_tokens)
        return err_set(error, DS4_ERR_LIMIT, "%zu rows, a pass takes %u", n_rows, engine->info.chunk_tokens);
    for (size_t j = 0; j < n_jobs; j++) {
        struct ds4_session *s = jobs[j].session;
        if (s->tokens.n + jobs[j].n > engine->info.ctx_tokens)
            return err_set(error, DS4_ERR_LIMIT, "the context of %u tokens is full", engine->info.ctx_tokens);
        for (size_t i = 0; i < jobs[j].n; i++) {
            TRY(append(s, jobs[j].tokens[i]));
            fake_stats.n_tokens_evaluated++;
            s->has_logits = false;
            if (jobs[j].logits) TRY(compute_logits(s, jobs[j].logits + i * FAKE_N_VOCAB, error));
        }
        if (jobs[j].n == 0) continue;
        TRY(compute_logits(s, s->logits, error));
        s->has_logits = true;
    }
    return DS4_OK;
}

const float *ds4_session_logits(const struct ds4_session *session)
{
    return session->has_logits ? session->logits : NULL;
}

enum ds4_status ds4_session_pick(struct ds4_session *session, struct ds4_sampler *sampler, const uint32_t *mask,
                                 bool force_greedy, int32_t *id, struct ds4_error *error)
{
    if (!session->has_logits) return err_set(error, DS4_ERR_STATE, "the session has no logits");
    return ds4_sampler_pick(sampler, session->logits, mask, force_greedy, id, error);
}

enum ds4_status ds4_session_next(struct ds4_session *session, struct ds4_sampler *sampler, bool force_greedy,
                                 int32_t *id, struct ds4_error *error)
{
    return ds4_session_pick(session, sampler, NULL, force_greedy, id, error);
}

enum ds4_status ds4_sessions_next(struct ds4_next *nexts, size_t n, struct ds4_error *error)
{
    enum ds4_status first = DS4_OK;
    for (size_t i = 0; i < n; i++) {
        struct ds4_next *next = &nexts[i];
        fake_stats.n_chosen_ahead++;
        next->status = ds4_session_pick(next->session, next->sampler, NULL, next->force_greedy, &next->id,
                                        first == DS4_OK ? error : NULL);
        if (first == DS4_OK) first = next->status;
    }
    return first;
}

enum ds4_status ds4_engine_time_kernels(struct ds4_engine *engine, bool on, struct ds4_error *error)
{
    (void)engine;
    (void)on;
    return err_set(error, DS4_ERR_UNSUPPORTED, "a script has no kernels to time");
}

size_t ds4_engine_kernel_times(const struct ds4_engine *engine, struct ds4_kernel_time *out, size_t max)
{
    (void)engine;
    (void)out;
    (void)max;
    return 0;
}

enum ds4_status ds4_session_draft(struct ds4_session *session, int32_t next, size_t max, int32_t *drafts, size_t *n,
                                  struct ds4_error *error)
{
    (void)session, (void)next, (void)max, (void)drafts, (void)error;
    *n = 0;
    return DS4_OK;
}

enum ds4_status ds4_session_set_drafts(struct ds4_session *session, uint32_t n, struct ds4_error *error)
{
    (void)session;
    return n ? err_set(error, DS4_ERR_LIMIT, "%u drafts", n) : DS4_OK;
}

void ds4_engine_draft_figures(const struct ds4_engine *engine, struct ds4_draft_figures *out)
{
    (void)engine;
    *out = (struct ds4_draft_figures){0};
}

/* ---- state: a tip is the number of tokens (u64), their hash (u32), whether there are logits (u32), XXH3-64 ---- */

size_t ds4_session_spans(const struct ds4_session *s)
{
    return (s->tokens.n + FAKE_SPAN_TOKENS - 1) / FAKE_SPAN_TOKENS;
}

enum ds4_status ds4_session_span_save(const struct ds4_session *s, size_t i, uint8_t *buf, struct ds4_error *error)
{
    (void)error;
    memcpy(buf, (const uint8_t *)s->rows.ptr + i * FAKE_SPAN_TOKENS * ROW_BYTES, FAKE_SPAN_TOKENS * ROW_BYTES);
    return DS4_OK;
}

bool ds4_session_span_is_shared(const struct ds4_session *a, const struct ds4_session *b, size_t i)
{
    (void)i;
    return a == b;
}

enum ds4_status ds4_session_tip_save(const struct ds4_session *s, uint8_t *buf, size_t cap, size_t *len,
                                     struct ds4_error *error)
{
    if (cap < TIP_BYTES) return err_set(error, DS4_ERR_LIMIT, "a tip takes %d bytes, there are %zu", TIP_BYTES, cap);
    store_u64(buf, s->tokens.n);
    store_u32(buf + 8, hash_at(s, s->tokens.n));
    store_u32(buf + 12, s->has_logits);
    store_u64(buf + 16, hash_u64(buf, 16));
    *len = TIP_BYTES;
    return DS4_OK;
}

static enum ds4_status check_state(const int32_t *tokens, size_t n, const uint8_t *const *spans, size_t n_spans,
                                   const uint8_t *tip, size_t tip_len, struct ds4_error *error)
{
    uint32_t hash = 2166136261u;
    if (tip_len != TIP_BYTES || load_u64(tip + 16) != hash_u64(tip, 16) || load_u64(tip) != n)
        return err_set(error, DS4_ERR_FORMAT, "the tip does not belong to %zu tokens", n);
    if (n_spans != (n + FAKE_SPAN_TOKENS - 1) / FAKE_SPAN_TOKENS)
        return err_set(error, DS4_ERR_FORMAT, "%zu spans for %zu tokens", n_spans, n);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *row = spans[i / FAKE_SPAN_TOKENS] + i % FAKE_SPAN_TOKENS * ROW_BYTES;
        hash = hash_next(hash, tokens[i]);
        if (load_u32(row) != (uint32_t)tokens[i] || load_u32(row + 4) != hash)
            return err_set(error, DS4_ERR_FORMAT, "span %zu does not belong to the tokens", i / FAKE_SPAN_TOKENS);
    }
    return load_u32(tip + 8) == hash ? DS4_OK : err_set(error, DS4_ERR_FORMAT, "the tip's hash is wrong");
}

enum ds4_status ds4_session_restore_from(struct ds4_session *session, const int32_t *tokens, size_t n_tokens,
                                         ds4_span_reader read, void *user, const uint8_t *tip, size_t tip_len,
                                         struct ds4_error *error)
{
    enum { BYTES = FAKE_SPAN_TOKENS * ROW_BYTES };
    size_t n = (n_tokens + FAKE_SPAN_TOKENS - 1) / FAKE_SPAN_TOKENS;
    uint8_t *bytes = mem_alloc(n, BYTES);
    const uint8_t **spans = mem_alloc(n, sizeof *spans);
    enum ds4_status status = bytes && spans ? DS4_OK : err_set(error, DS4_ERR_NOMEM, "no memory to restore");
    for (size_t i = 0; i < n && status == DS4_OK; i++) {
        spans[i] = bytes + i * BYTES;
        status = read(user, i, bytes + i * BYTES, error);
    }
    if (status == DS4_OK) status = ds4_session_restore(session, tokens, n_tokens, spans, n, tip, tip_len, error);
    else truncate_to(session, 0);
    mem_free(spans);
    mem_free(bytes);
    return status;
}

enum ds4_status ds4_session_restore(struct ds4_session *session, const int32_t *tokens, size_t n_tokens,
                                    const uint8_t *const *spans, size_t n_spans, const uint8_t *tip, size_t tip_len,
                                    struct ds4_error *error)
{
    enum ds4_status status = check_state(tokens, n_tokens, spans, n_spans, tip, tip_len, error);
    if (status == DS4_OK && n_tokens > session->engine->info.ctx_tokens)
        status = err_set(error, DS4_ERR_LIMIT, "%zu tokens, but the context holds %u", n_tokens,
                         session->engine->info.ctx_tokens);
    if (status != DS4_OK) {
        fake_stats.n_restores_refused++;
        return status;
    }
    fake_stats.n_restores++;
    truncate_to(session, 0);
    for (size_t i = 0; i < n_tokens; i++) TRY(append(session, tokens[i]));
    session->restored = true;
    session->has_logits = load_u32(tip + 12) != 0;
    if (session->has_logits) TRY(compute_logits(session, session->logits, error));
    return DS4_OK;
}
