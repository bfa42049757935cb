/* bench.c - `ds4 bench`: speed of reading a prompt and of writing an answer, as the context grows.
 *
 * One session is led from frontier to frontier (512, 1024, 2048, ... tokens). Tokens go through in full chunks
 * (prefill), the last ones before each frontier one by one (decode). Tokens are pseudo-random text tokens: the time of
 * a forward pass depends on which experts they wake, but not on what they say. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/model_flags.h"
#include "base/rng.h"
#include "base/sink.h"
#include "tools/bench_ops.h"
#include "tools/tools.h"

#define CTX_DEFAULT 4096 /* frontiers go up to that without --ctx: minutes on a slow machine */

struct bench_flags {
    struct model_flags model;
    uint32_t first, n_decode, chunk_tokens;
    bool json;
};

static const struct option rows[] = {
    MODEL_FLAG_ROWS(struct bench_flags, model),
    {.name = "first", .value = "N", .type = OPTION_U32, .offset = offsetof(struct bench_flags, first), .min = 1,
     .max = 4194304, .preset = "512", .help = "first frontier; each next one is twice as far"},
    {.letter = 'n', .name = "decode", .value = "N", .type = OPTION_U32,
     .offset = offsetof(struct bench_flags, n_decode), .min = 1, .max = 65536, .preset = "32",
     .help = "tokens decoded before each frontier"},
    {.name = "chunk", .value = "N", .type = OPTION_U32, .offset = offsetof(struct bench_flags, chunk_tokens),
     .max = 65536, .help = "tokens in one forward pass of prefill; 0 = the engine's choice"},
    {.name = "json", .type = OPTION_FLAG, .offset = offsetof(struct bench_flags, json),
     .help = "as a JSON object; without it as CSV"},
};
static const struct options table = {
    .command = "bench", .summary = "speed at growing context", OPTIONS_ROWS(rows),
    .notes = "Frontiers go up to --ctx (default 4096). Columns: ctx in tokens, prefill and decode in tokens a\n"
             "second, kv_bytes the state of the session.",
};

struct bench {
    struct ds4_engine *engine;
    struct ds4_session *session;
    const struct ds4_model_info *info;
    struct rng rng;
    int32_t *chunk; /* [chunk_tokens] */
    size_t n_tokens; /* in the session */
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

static enum ds4_status measure(struct bench *b, size_t frontier, size_t n_decode, double *prefill_tps,
                               double *decode_tps, struct ds4_error *error)
{
    size_t before = b->n_tokens;
    uint64_t start_ns = clock_ns();
    while (b->n_tokens < frontier - n_decode) {
        size_t left = frontier - n_decode - b->n_tokens;
        TRY(advance(b, left < b->info->chunk_tokens ? left : b->info->chunk_tokens, error));
    }
    *prefill_tps = (double)(b->n_tokens - before) / (clock_seconds_since(start_ns) + 1e-9);
    struct ds4_expert_figures figures_before, figures;
    ds4_engine_expert_figures(b->engine, &figures_before);
    start_ns = clock_ns();
    for (size_t i = 0; i < n_decode; i++) TRY(advance(b, 1, error));
    *decode_tps = (double)n_decode / (clock_seconds_since(start_ns) + 1e-9);
    ds4_engine_expert_figures(b->engine, &figures);
    report_experts(&figures_before, &figures, n_decode, *decode_tps);
    return DS4_OK;
}

static enum ds4_status run_frontiers(struct bench *b, const struct bench_flags *flags, struct sink *out,
                                     struct ds4_error *error)
{
    size_t limit = flags->model.ctx_tokens ? b->info->ctx_tokens : CTX_DEFAULT;
    if (limit > b->info->ctx_tokens) limit = b->info->ctx_tokens;
    size_t frontier = flags->first;
    if (frontier > limit || frontier <= flags->n_decode)
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
        sink_put_text(out, "ctx,prefill_tps,decode_tps,kv_bytes\n");
    }
    for (bool first = true; frontier <= limit; frontier *= 2) {
        double prefill_tps, decode_tps;
        TRY(measure(b, frontier, flags->n_decode, &prefill_tps, &decode_tps, error));
        unsigned long long kv_bytes =
            b->info->state_bytes_fixed + b->info->state_bytes_per_token * (unsigned long long)frontier;
        if (flags->json)
            sink_printf(out, "%s\n{\"ctx\":%zu,\"prefill_tps\":%.4g,\"decode_tps\":%.4g,\"kv_bytes\":%llu}",
                        first ? "" : ",", frontier, prefill_tps, decode_tps, kv_bytes);
        else
            sink_printf(out, "%zu,%.4g,%.4g,%llu\n", frontier, prefill_tps, decode_tps, kv_bytes);
        first = false;
        if (sink_flush(out) != DS4_OK) break; /* sink_close tells */
    }
    if (flags->json) sink_put_text(out, "\n]}\n");
    return DS4_OK;
}

static enum ds4_status run_bench(struct ds4_engine *engine, const struct bench_flags *flags, struct ds4_error *error)
{
    struct bench b = {.engine = engine, .info = ds4_engine_info(engine), .rng = {1}};
    struct sink out;
    enum ds4_status status, close_status = DS4_OK;
    bool is_open = false;
    b.chunk = mem_zalloc(b.info->chunk_tokens, sizeof *b.chunk);
    if (!b.chunk) return err_set(error, DS4_ERR_NOMEM, "no memory for %u tokens", b.info->chunk_tokens);
    TRY_GOTO(ds4_session_create(engine, &b.session, error), out);
    TRY_GOTO(sink_open(&out, "-", error), out);
    is_open = true;
    TRY_GOTO(run_frontiers(&b, flags, &out, error), out);
out:
    if (is_open) close_status = sink_close(&out, error);
    ds4_session_destroy(b.session);
    mem_free(b.chunk);
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
    struct term_progress progress = {0};
    enum ds4_status status;
    TRY_GOTO(model_flags_options(&flags.model, &progress, &options, &error), out);
    options.chunk_tokens = flags.chunk_tokens;
    status = ds4_engine_open(&options, &engine, &error);
    term_progress_clear(&progress);
    if (status == DS4_OK) status = run_bench(engine, &flags, &error);
out:
    ds4_engine_close(engine);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
