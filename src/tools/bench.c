/* bench.c - `ds4 bench`: speed of reading a prompt and of writing an answer, as the context grows.
 *
 * One session is led from frontier to frontier (512, 1024, 2048, ... tokens). Tokens go through in full chunks
 * (prefill), the last ones before each frontier one by one (decode). Tokens are pseudo-random text tokens: the time of
 * a forward pass depends on which experts they wake, but not on what they say. With --greedy the decoded ones are the
 * likeliest instead, as in an answer: then a GPU chooses them and does not wait for the host. With --together, copies
 * of the session go on beside it, each from a token of its own. With --draft, the likeliest are decoded twice: plainly,
 * and by a copy of the session that drafts.
 *
 * With --repeat, only the first tokens are computed. Copies of their rows (bytes of their own, so that caches hold no
 * more than in truth) stand for all that follow; decoding begins at the last multiple of 256 before each frontier. */
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/sink.h"
#include "command/model_flags.h"
#include "tools/bench_ops.h"
#include "tools/tools.h"

#define CTX_DEFAULT 4096 /* frontiers go up to that without --ctx: minutes on a slow machine */
#define TOGETHER_MAX 16u

struct bench_flags {
    struct model_flags model;
    uint32_t first, growth, n_decode, chunk_tokens, n_repeat, n_rounds, made_up_seed, n_together;
    bool json, kernels, greedy;
};

static const struct option rows[] = {
    MODEL_FLAG_ROWS(struct bench_flags, model),
    MODEL_FLAG_ROWS_DRAFT(struct bench_flags, model),
    {.name = "first", .value = "N", .type = OPTION_U32, .offset = offsetof(struct bench_flags, first), .min = 1,
     .max = 4194304, .preset = "512", .help = "first frontier"},
    {.name = "growth", .value = "N", .type = OPTION_U32, .offset = offsetof(struct bench_flags, growth), .min = 2,
     .max = 4194304, .preset = "2", .help = "each next frontier is N times as far"},
    {.letter = 'n', .name = "decode", .value = "N", .type = OPTION_U32,
     .offset = offsetof(struct bench_flags, n_decode), .min = 1, .max = 65536, .preset = "32",
     .help = "tokens decoded before each frontier"},
    {.name = "chunk", .value = "N", .type = OPTION_U32, .offset = offsetof(struct bench_flags, chunk_tokens),
     .max = 65536, .help = "tokens in one forward pass of prefill; 0 = the engine's choice"},
    {.name = "repeat", .value = "N", .type = OPTION_U32, .offset = offsetof(struct bench_flags, n_repeat),
     .max = 4194304, .help = "compute only the first N tokens, a multiple of 256; copies of their state stand for the "
     "rest, so that decoding far into a conversation is measured at once"},
    {.name = "made-up", .value = "SEED", .type = OPTION_U32, .offset = offsetof(struct bench_flags, made_up_seed),
     .max = UINT32_MAX, .help = "on a GPU that holds all weights: makes them up there, and reads none of the file's"},
    {.name = "rounds", .value = "N", .type = OPTION_U32, .offset = offsetof(struct bench_flags, n_rounds), .min = 1,
     .max = 1000, .preset = "1", .help = "with --repeat: go through the frontiers N times"},
    {.name = "greedy", .type = OPTION_FLAG, .offset = offsetof(struct bench_flags, greedy),
     .help = "decode the model's likeliest tokens, not pseudo-random ones: a GPU chooses them itself, and goes on "
     "without waiting for the host"},
    {.name = "together", .value = "N", .type = OPTION_U32, .offset = offsetof(struct bench_flags, n_together), .min = 1,
     .max = TOGETHER_MAX, .preset = "1", .help = "decode N conversations of that length together, a token of each in "
     "one pass; decode is of all of them"},
    {.name = "json", .type = OPTION_FLAG, .offset = offsetof(struct bench_flags, json),
     .help = "as a JSON object; without it as CSV"},
    {.name = "kernels", .type = OPTION_FLAG, .offset = offsetof(struct bench_flags, kernels),
     .help = "what each operation (on a GPU: each kernel) took before each frontier, on standard error"},
};
static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct bench_flags *flags = values;
    if (flags->model.n_drafts && flags->n_together > 1)
        return err_set(error, DS4_ERR_FORMAT, "--draft and --together exclude each other: who decodes with others does "
                       "not draft");
    if (flags->n_rounds > 1 && !flags->n_repeat)
        return err_set(error, DS4_ERR_FORMAT, "--rounds goes back to the first frontier, which needs --repeat");
    return model_flags_check(&flags->model, error);
}

static const struct options table = {
    .command = "bench", .summary = "speed at growing context", OPTIONS_ROWS(rows), .check = check,
    .notes = "Frontiers go up to --ctx (default 4096). Columns: ctx in tokens, prefill and decode in tokens a\n"
             "second (0: not measured, with --repeat), kv_bytes the state of the session; with --draft, which\n"
             "implies --greedy, the same answer once more with drafts: tokens a second, and tokens a pass of\n"
             "N + 1 at most. After pseudo-random tokens guesses are right less often than in real text.\n"
             "ds4 bench ops times matrix products alone: ds4 help bench ops.",
};

/* What stands for the state of later tokens. */
struct stand_in {
    uint8_t *spans; /* [n_spans][span_bytes] */
    size_t n_spans, span_bytes;
    uint8_t *tip;
    size_t tip_bytes;
};

struct bench {
    struct ds4_engine *engine;
    struct ds4_session *session;
    const struct ds4_model_info *info;
    struct rng rng;
    int32_t *chunk; /* [chunk_tokens] */
    size_t n_tokens; /* in the session */
    struct ds4_next nexts[TOGETHER_MAX]; /* of decoding: session, then its copies, while there are any; a sampler of
                                            each, NULL where tokens are pseudo-random */
    uint32_t n_together, n_drafts;
    struct ds4_session *drafting; /* a copy of session that drafts, while it is wanted */
    struct stand_in stand_in;
};

struct speeds {
    double prefill_tps, decode_tps, draft_tps, tokens_per_pass;
};

static int32_t next_token(struct bench *b)
{
    for (;;) {
        int32_t id = (int32_t)(rng_next(&b->rng) % b->info->n_vocab);
        if (!ds4_token_is_control(b->engine, id)) return id;
    }
}

static enum ds4_status advance(struct bench *b, size_t n, struct ds4_error *error)
{
    for (size_t i = 0; i < n; i++) b->chunk[i] = next_token(b);
    struct ds4_job job = {.session = b->session, .tokens = b->chunk, .n = n};
    TRY(ds4_eval(b->engine, &job, 1, error));
    b->n_tokens += n;
    return DS4_OK;
}

static void end_copies(struct bench *b)
{
    for (uint32_t i = 1; i < b->n_together; i++) {
        ds4_session_destroy(b->nexts[i].session);
        b->nexts[i].session = NULL;
    }
    ds4_session_destroy(b->drafting);
    b->drafting = NULL;
}

static enum ds4_status make_copies(struct bench *b, struct ds4_error *error)
{
    b->nexts[0].session = b->session;
    for (uint32_t i = 1; i < b->n_together; i++) TRY(ds4_session_fork(b->session, &b->nexts[i].session, error));
    if (!b->n_drafts) return DS4_OK;
    TRY(ds4_session_fork(b->session, &b->drafting, error));
    return ds4_session_set_drafts(b->drafting, b->n_drafts, error);
}

/* A token at a time, of all of them; all is computed when it returns. */
static enum ds4_status decode(struct bench *b, size_t n, struct ds4_error *error)
{
    struct ds4_job jobs[TOGETHER_MAX];
    bool greedy = b->nexts[0].sampler;
    for (uint32_t k = 0; k < b->n_together; k++)
        jobs[k] = (struct ds4_job){.session = b->nexts[k].session, .tokens = &b->nexts[k].id, .n = 1};
    for (size_t i = 0; i < n; i++) {
        if (greedy && (i > 0 || b->n_together == 1)) TRY(ds4_sessions_next(b->nexts, b->n_together, error));
        else
            for (uint32_t k = 0; k < b->n_together; k++) b->nexts[k].id = next_token(b);
        TRY(ds4_eval(b->engine, jobs, b->n_together, error));
        b->n_tokens++;
    }
    if (greedy && n > 0) (void)ds4_session_logits(b->nexts[0].session); /* of a pass that may be under way */
    return DS4_OK;
}

/* What streaming did while the answer was written: on standard error, beside what was predicted. */
static void report_experts(const struct ds4_expert_figures *before, const struct ds4_expert_figures *now,
                           size_t n_tokens, double tps)
{
    double hits = (double)(now->n_hits - before->n_hits), ahead = (double)(now->n_ahead - before->n_ahead);
    double asked = hits + ahead + (double)(now->n_misses - before->n_misses);
    double read_s = now->read_seconds - before->read_seconds, stall_s = now->stall_seconds - before->stall_seconds;
    double bytes = (double)(now->read_bytes - before->read_bytes);
    if (asked <= 0) return;
    (void)fprintf(stderr, "experts: %.1f%% in memory, %.1f%% read ahead, %.1f%% waited for; %.3f GB read a token at "
                  "%.3f GB/s; %.0f%% of the time spent waiting; %u of %u slots; %.3g tokens/s", 100 * hits / asked,
                  100 * ahead / asked, 100 * (asked - hits - ahead) / asked, bytes / (double)n_tokens * 1e-9,
                  bytes / (read_s + 1e-9) * 1e-9, 100 * stall_s * tps / (double)n_tokens, now->n_slots_now,
                  now->n_slots, tps);
    if (now->predicted_tps > 0) (void)fprintf(stderr, ", %.3g predicted", now->predicted_tps);
    (void)fputc('\n', stderr);
}

static enum ds4_status prefill(struct bench *b, size_t n, struct ds4_error *error)
{
    while (b->n_tokens < n) {
        size_t left = n - b->n_tokens;
        TRY(advance(b, left < b->info->chunk_tokens ? left : b->info->chunk_tokens, error));
    }
    return DS4_OK;
}

static enum ds4_status read_stand_in(void *user, size_t span_i, uint8_t *dest, struct ds4_error *error)
{
    const struct stand_in *from = user;
    (void)error;
    memcpy(dest, from->spans + span_i % from->n_spans * from->span_bytes, from->span_bytes);
    return DS4_OK;
}

/* Computes the first n tokens and keeps what stands for the rest. */
static enum ds4_status stand_in_make(struct bench *b, size_t n, struct ds4_error *error)
{
    const struct ds4_state_layout *layout = ds4_state_layout(b->engine);
    struct stand_in *to = &b->stand_in;
    if (n % layout->span_tokens)
        return err_set(error, DS4_ERR_FORMAT, "--repeat %zu is not a multiple of %u", n, layout->span_tokens);
    TRY(prefill(b, n, error));
    to->n_spans = ds4_session_spans(b->session);
    to->span_bytes = layout->span_bytes;
    to->spans = mem_alloc(to->n_spans, to->span_bytes);
    to->tip = mem_alloc(layout->tip_bytes_max, 1);
    if (!to->spans || !to->tip)
        return err_set(error, DS4_ERR_NOMEM, "no memory for %zu spans of state", to->n_spans);
    for (size_t i = 0; i < to->n_spans; i++)
        TRY(ds4_session_span_save(b->session, i, to->spans + i * to->span_bytes, error));
    return ds4_session_tip_save(b->session, to->tip, layout->tip_bytes_max, &to->tip_bytes, error);
}

/* Moves the session to n tokens, a multiple of a span as those that were computed: their spans over and over, and the
 * tip, whose parts are as long at every such position and which says at byte 24 where it belongs. */
static enum ds4_status stand_in_use(struct bench *b, size_t n, struct ds4_error *error)
{
    struct stand_in *from = &b->stand_in;
    int32_t *tokens = mem_alloc(n, sizeof *tokens);
    if (!tokens) return err_set(error, DS4_ERR_NOMEM, "no memory for %zu tokens", n);
    for (size_t i = 0; i < n; i++) tokens[i] = next_token(b);
    store_u64(from->tip + 24, n);
    enum ds4_status status =
        ds4_session_restore_from(b->session, tokens, n, read_stand_in, from, from->tip, from->tip_bytes, error);
    mem_free(tokens);
    if (status == DS4_OK) b->n_tokens = n;
    return status;
}

/* The tokens that the session decoded, once more with drafts. */
static enum ds4_status measure_drafts(struct bench *b, size_t n, struct speeds *out, struct ds4_error *error)
{
    struct ds4_draft_figures before, figures;
    ds4_engine_draft_figures(b->engine, &before);
    b->nexts[0].session = b->drafting;
    uint64_t start_ns = clock_ns();
    TRY(decode(b, n, error));
    out->draft_tps = (double)n / (clock_seconds_since(start_ns) + 1e-9);
    b->n_tokens -= n;
    ds4_engine_draft_figures(b->engine, &figures);
    uint64_t n_kept = figures.n_kept - before.n_kept;
    out->tokens_per_pass = (double)n / (double)(n - n_kept);
    return DS4_OK;
}

static enum ds4_status measure(struct bench *b, size_t frontier, size_t n_decode, struct speeds *out,
                               struct ds4_error *error)
{
    size_t before = b->n_tokens, span_tokens = ds4_state_layout(b->engine)->span_tokens;
    uint64_t start_ns = clock_ns();
    if (b->stand_in.n_spans) {
        TRY(stand_in_use(b, (frontier - n_decode) / span_tokens * span_tokens, error));
        out->prefill_tps = 0;
    } else {
        TRY(prefill(b, frontier - n_decode, error));
        out->prefill_tps = (double)(b->n_tokens - before) / (clock_seconds_since(start_ns) + 1e-9);
    }
    struct ds4_expert_figures figures_before, figures;
    TRY(make_copies(b, error));
    ds4_engine_expert_figures(b->engine, &figures_before);
    start_ns = clock_ns();
    TRY(decode(b, n_decode, error));
    out->decode_tps = (double)n_decode * b->n_together / (clock_seconds_since(start_ns) + 1e-9);
    ds4_engine_expert_figures(b->engine, &figures);
    report_experts(&figures_before, &figures, n_decode * b->n_together, out->decode_tps);
    if (b->drafting) TRY(measure_drafts(b, n_decode, out, error));
    end_copies(b);
    return DS4_OK;
}

#define KERNELS_MAX 160
#define PICKS 16

/* Seconds of choosing a token as when a client is silent, mean of some. */
static enum ds4_status time_picks(struct bench *b, double *seconds, struct ds4_error *error)
{
    struct ds4_sampling sampling = ds4_sampling_default();
    struct ds4_sampler *sampler = NULL;
    TRY(ds4_sampler_create(b->engine, &sampling, &sampler, error));
    enum ds4_status status = DS4_OK;
    uint64_t start_ns = clock_ns();
    for (int i = 0; i < PICKS && status == DS4_OK; i++) {
        int32_t id;
        status = ds4_session_pick(b->session, sampler, NULL, false, &id, error);
    }
    *seconds = clock_seconds_since(start_ns) / PICKS;
    ds4_sampler_destroy(sampler);
    return status;
}

/* What was computed since the last frontier: calls, milliseconds and shares. */
static enum ds4_status report_kernels(struct bench *b, struct ds4_error *error)
{
    static struct ds4_kernel_time times[KERNELS_MAX]; /* too large for a stack */
    size_t n = ds4_engine_kernel_times(b->engine, times, KERNELS_MAX);
    double total = 0, pick = 0;
    TRY(time_picks(b, &pick, error));
    for (size_t i = 0; i < n; i++) total += times[i].seconds;
    for (size_t i = 0; i < n; i++)
        (void)fprintf(stderr, "%-28s %8llu calls %10.3f ms %5.1f%%\n", times[i].name, (unsigned long long)times[i].n,
                      times[i].seconds * 1e3, total > 0 ? 100 * times[i].seconds / total : 0);
    (void)fprintf(stderr, "%-28s %8u calls %10.3f ms, not in the above\n", "choosing a token", 1u, pick * 1e3);
    return DS4_OK;
}

/* One line of the table. */
static enum ds4_status run_frontier(struct bench *b, const struct bench_flags *flags, size_t frontier, bool is_first,
                                    struct sink *out, struct ds4_error *error)
{
    struct speeds s = {0};
    if (flags->kernels) TRY(ds4_engine_time_kernels(b->engine, true, error));
    TRY(measure(b, frontier, flags->n_decode, &s, error));
    if (flags->kernels) TRY(report_kernels(b, error));
    unsigned long long kv_bytes =
        b->info->state_bytes_fixed + b->info->state_bytes_per_token * (unsigned long long)b->n_tokens;
    if (flags->json)
        sink_printf(out, "%s\n{\"ctx\":%zu,\"prefill_tps\":%.4g,\"decode_tps\":%.4g,\"kv_bytes\":%llu",
                    is_first ? "" : ",", b->n_tokens, s.prefill_tps, s.decode_tps, kv_bytes);
    else
        sink_printf(out, "%zu,%.4g,%.4g,%llu", b->n_tokens, s.prefill_tps, s.decode_tps, kv_bytes);
    if (b->n_drafts)
        sink_printf(out, flags->json ? ",\"draft_tps\":%.4g,\"tokens_per_pass\":%.4g" : ",%.4g,%.4g", s.draft_tps,
                    s.tokens_per_pass);
    sink_put_text(out, flags->json ? "}" : "\n");
    return DS4_OK;
}

static enum ds4_status run_frontiers(struct bench *b, const struct bench_flags *flags, struct sink *out,
                                     struct ds4_error *error)
{
    size_t limit = flags->model.ctx_tokens ? b->info->ctx_tokens : CTX_DEFAULT;
    if (limit > b->info->ctx_tokens) limit = b->info->ctx_tokens;
    size_t frontier = flags->first, least = flags->n_repeat ? ds4_state_layout(b->engine)->span_tokens : 1;
    if (frontier > limit || frontier < flags->n_decode + least)
        return err_set(error, DS4_ERR_LIMIT, "the first frontier of %zu tokens must lie above the %u decoded ones and "
                       "within the context of %zu: see --first, --decode, --ctx", frontier, flags->n_decode, limit);
    if (flags->json) {
        sink_put_text(out, "{\"model\":");
        sink_put_json_string(out, span_from(b->info->name ? b->info->name : ""));
        sink_put_text(out, ",\"backend\":");
        sink_put_json_string(out, span_from(b->info->backend ? b->info->backend : ""));
        sink_printf(out, ",\"n_threads\":%u,\"chunk_tokens\":%u,\"rows\":[", b->info->n_threads,
                    b->info->chunk_tokens);
    } else {
        sink_printf(out, "ctx,prefill_tps,decode_tps,kv_bytes%s\n", b->n_drafts ? ",draft_tps,tokens_per_pass" : "");
    }
    if (flags->n_repeat) TRY(stand_in_make(b, flags->n_repeat, error));
    bool is_first = true;
    for (uint32_t i = 0; i < flags->n_rounds; i++)
        for (size_t at = frontier; at <= limit; at *= flags->growth, is_first = false) {
            TRY(run_frontier(b, flags, at, is_first, out, error));
            if (sink_flush(out) != DS4_OK) return DS4_OK; /* sink_close tells */
        }
    if (flags->json) sink_put_text(out, "\n]}\n");
    return DS4_OK;
}

static enum ds4_status run_bench(struct ds4_engine *engine, const struct bench_flags *flags, struct ds4_error *error)
{
    struct bench b = {.engine = engine, .info = ds4_engine_info(engine), .rng = {1}, .n_together = flags->n_together,
                      .n_drafts = flags->model.n_drafts};
    struct sink out;
    enum ds4_status status, close_status = DS4_OK;
    bool is_open = false;
    b.chunk = mem_zalloc(b.info->chunk_tokens, sizeof *b.chunk);
    if (!b.chunk) return err_set(error, DS4_ERR_NOMEM, "no memory for %u tokens", b.info->chunk_tokens);
    struct ds4_sampling greedy = ds4_sampling_default();
    greedy.temperature = 0;
    TRY_GOTO(ds4_session_create(engine, &b.session, error), out);
    TRY_GOTO(ds4_session_set_drafts(b.session, 0, error), out);
    for (uint32_t i = 0; i < b.n_together && (flags->greedy || b.n_drafts); i++)
        TRY_GOTO(ds4_sampler_create(engine, &greedy, &b.nexts[i].sampler, error), out);
    TRY_GOTO(sink_open(&out, "-", error), out);
    is_open = true;
    TRY_GOTO(run_frontiers(&b, flags, &out, error), out);
out:
    if (is_open) close_status = sink_close(&out, error);
    end_copies(&b);
    ds4_session_destroy(b.session);
    for (uint32_t i = 0; i < b.n_together; i++) ds4_sampler_destroy(b.nexts[i].sampler);
    mem_free(b.chunk);
    mem_free(b.stand_in.spans);
    mem_free(b.stand_in.tip);
    return status == DS4_OK ? close_status : status;
}

int cmd_bench(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "ops") == 0) return cmd_bench_ops(argc - 1, argv + 1);
    struct bench_flags flags;
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    struct ds4_engine_options options;
    struct ds4_engine *engine = NULL;
    enum ds4_status status;
    TRY_GOTO(model_flags_options(&flags.model, &options, &error), out);
    options.chunk_tokens = flags.chunk_tokens;
    options.made_up_seed = flags.made_up_seed;
    options.n_sessions_max = flags.n_together;
    if (options.n_drafts) options.n_sessions_max = 2;
    TRY_GOTO(model_flags_open(&options, &engine, &error), out);
    status = run_bench(engine, &flags, &error);
out:
    ds4_engine_close(engine);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
