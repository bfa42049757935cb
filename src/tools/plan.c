/* plan.c - `ds4 plan`: what a model would take of this machine, in bytes, before anything is allocated, and how fast
 * it can be at best.
 *
 * The speed is an estimate. When all weights stay in memory, from one measured number: decoding a token reads
 * weight_bytes_per_token, so about bandwidth / that many tokens come out a second, as long as the weights are larger
 * than the caches and the cores keep up. When experts are streamed, the engine measures disk and cores and predicts
 * from the statistics of the experts (ds4_speed_probe). The probe of memory adds up 8-byte words of a block far larger
 * than the caches, on all threads. */
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/sink.h"
#include "base/term.h"
#include "base/thread_pool.h"
#include "command/model_flags.h"
#include "tools/tools.h"

#define PROBE_BYTES ((size_t)256 << 20) /* beyond every cache; a fifth of a second on a slow machine */
#define PROBE_TASKS 64
#define PROBE_ROUNDS 3

struct plan_flags {
    struct model_flags model;
    uint32_t n_sessions, probe_seconds;
    bool json, no_probe;
};

static const struct option rows[] = {
    MODEL_FLAG_ROWS(struct plan_flags, model),
    MODEL_FLAG_ROWS_DRAFT(struct plan_flags, model),
    {.name = "sessions", .value = "N", .type = OPTION_U32, .offset = offsetof(struct plan_flags, n_sessions),
     .min = 1, .max = 256, .preset = "1", .help = "conversations held at the same time"},
    {.name = "no-probe", .type = OPTION_FLAG, .offset = offsetof(struct plan_flags, no_probe),
     .help = "do not measure memory and disk; no estimate of speed"},
    {.name = "probe-seconds", .value = "N", .type = OPTION_U32, .offset = offsetof(struct plan_flags, probe_seconds),
     .min = 1, .max = 600, .preset = "5", .help = "time to measure the disk and the cores when experts are streamed"},
    {.name = "json", .type = OPTION_FLAG, .offset = offsetof(struct plan_flags, json), .help = "as a JSON object"},
};
static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct plan_flags *flags = values;
    return model_flags_check(&flags->model, error);
}

static const struct options table = {
    .command = "plan", .summary = "what a model needs of this machine, before it is loaded",
    OPTIONS_ROWS(rows), .check = check,
    .notes = "Exit code 1 when the model does not fit.",
};

struct probe {
    const uint64_t *words;
    size_t n_words;
    uint64_t sums[PROBE_TASKS];
};

static void probe_task(void *arg, uint32_t task_i, uint32_t worker_i)
{
    struct probe *p = arg;
    size_t share = p->n_words / PROBE_TASKS;
    const uint64_t *words = p->words + share * task_i;
    uint64_t sums[8] = {0};
    (void)worker_i;
    for (size_t i = 0; i + 8 <= share; i += 8)
        for (size_t j = 0; j < 8; j++) sums[j] += words[i + j];
    for (size_t j = 0; j < 8; j++) p->sums[task_i] += sums[j];
}

static void fill_task(void *arg, uint32_t task_i, uint32_t worker_i)
{
    struct probe *p = arg;
    size_t share = p->n_words / PROBE_TASKS;
    (void)worker_i;
    memset((char *)(uintptr_t)p->words + share * 8 * task_i, 1, share * 8);
}

/* Bytes a second that all threads together read; the best of a few rounds. 0 when it could not be measured. */
static double memory_bandwidth(uint32_t n_threads)
{
    struct thread_pool *pool;
    struct probe p = {.n_words = PROBE_BYTES / 8};
    double best = 0;
    if (mem_available_bytes() < 2 * PROBE_BYTES) return 0;
    if (thread_pool_create(n_threads, &pool, NULL) != DS4_OK) return 0;
    void *block = mem_map(PROBE_BYTES);
    if (block) {
        p.words = block;
        thread_pool_run(pool, fill_task, &p, PROBE_TASKS);
        for (int round = 0; round < PROBE_ROUNDS; round++) {
            uint64_t start_ns = clock_ns();
            thread_pool_run(pool, probe_task, &p, PROBE_TASKS);
            double rate = (double)PROBE_BYTES / (clock_seconds_since(start_ns) + 1e-9);
            if (rate > best) best = rate;
        }
        mem_unmap(block, PROBE_BYTES);
    }
    thread_pool_destroy(pool);
    return best;
}

/* Everything there is to say. */
struct findings {
    struct ds4_plan plan, best; /* as asked for, and as this machine does best */
    struct ds4_speed speed;     /* 0: not measured */
    double bandwidth;           /* of memory; 0: not measured */
    char command[256 + MODEL_PATH_BYTES]; /* for best */
};

/* The best is to keep everything mapped when that fits, else to stream with the room there is. */
static enum ds4_status find_best(struct ds4_engine_options options, struct findings *f, struct ds4_error *error)
{
    options.expert_cache_bytes = DS4_EXPERT_CACHE_AUTO;
    TRY(ds4_plan_make(&options, &f->best, error));
    if (!f->best.fits) return DS4_OK;
    int n = snprintf(f->command, sizeof f->command, "ds4 run -m %s", options.model_path);
    if (f->best.n_experts && n > 0 && (size_t)n < sizeof f->command)
        (void)snprintf(f->command + n, sizeof f->command - (size_t)n, " --expert-cache %llum",
                       (unsigned long long)(f->best.expert_cache_bytes >> 20) + 1);
    return DS4_OK;
}

static void put_json(const struct findings *f, const char *path, struct sink *out)
{
    const struct ds4_plan *plan = &f->plan;
    double bandwidth = f->bandwidth;
    sink_put_text(out, "{\"model\":");
    sink_put_json_string(out, span_from(path));
    sink_put_text(out, ",\"items\":[");
    for (uint32_t i = 0; i < plan->n_items; i++) {
        sink_put_text(out, i ? ",{\"name\":" : "{\"name\":");
        sink_put_json_string(out, span_from(plan->items[i].name));
        sink_printf(out, ",\"bytes\":%llu,\"resident\":%s}", (unsigned long long)plan->items[i].bytes,
                    plan->items[i].resident ? "true" : "false");
    }
    sink_printf(out, "],\"resident_bytes\":%llu,\"mapped_bytes\":%llu,\"memory_bytes\":%llu,\"budget_bytes\":%llu",
                (unsigned long long)plan->resident_bytes, (unsigned long long)plan->mapped_bytes,
                (unsigned long long)plan->memory_bytes, (unsigned long long)plan->budget_bytes);
    sink_printf(out, ",\"weight_bytes_per_token\":%llu,\"fits\":%s,\"all_in_memory\":%s",
                (unsigned long long)plan->weight_bytes_per_token, plan->fits ? "true" : "false",
                plan->all_in_memory ? "true" : "false");
    if (plan->device_budget_bytes)
        sink_printf(out, ",\"device_bytes\":%llu,\"device_budget_bytes\":%llu,\"bus_bytes_per_token\":%llu",
                    (unsigned long long)plan->device_bytes, (unsigned long long)plan->device_budget_bytes,
                    (unsigned long long)plan->bus_bytes_per_token);
    if (bandwidth > 0) {
        sink_printf(out, ",\"memory_bytes_per_s\":%.0f", bandwidth);
        if (plan->weight_bytes_per_token && plan->all_in_memory)
            sink_printf(out, ",\"decode_tps_estimate\":%.4g", bandwidth / (double)plan->weight_bytes_per_token);
    }
    if (plan->n_experts)
        sink_printf(out, ",\"expert_cache_bytes\":%llu,\"expert_slots\":%u,\"experts\":%u,\"expert_hit_rate\":%.4f,"
                    "\"tokens_observed\":%.0f", (unsigned long long)plan->expert_cache_bytes, plan->n_expert_slots,
                    plan->n_experts, plan->expert_hit_rate, plan->tokens_observed);
    if (f->speed.dense_seconds > 0)
        sink_printf(out, ",\"disk_bytes_per_s\":%.0f,\"predicted_tps\":%.4g,\"best_predicted_tps\":%.4g",
                    f->speed.disk_bytes_per_s, ds4_plan_tps(plan, &f->speed), ds4_plan_tps(&f->best, &f->speed));
    if (f->command[0]) {
        sink_put_text(out, ",\"best_command\":");
        sink_put_json_string(out, span_from(f->command));
    }
    sink_put_text(out, ",\"verdict\":");
    sink_put_json_string(out, span_from(plan->verdict));
    sink_put_text(out, "}\n");
}

/* What streaming is expected to do. */
static void put_streaming(const struct findings *f, struct sink *out)
{
    const struct ds4_plan *plan = &f->plan;
    char a[16];
    if (plan->n_experts) {
        sink_printf(out, "%9.0f%%  of the experts asked for are expected in memory: ", plan->expert_hit_rate * 100);
        if (plan->tokens_observed > 0) sink_printf(out, "%.0f tokens were observed\n", plan->tokens_observed);
        else sink_put_text(out, "each is taken to be as good as another, until the model was used here\n");
    }
    if (f->speed.dense_seconds <= 0) return;
    sink_printf(out, "%10s  read from disk a second (measured on experts); a token takes %.3f s to compute\n",
                term_bytes((uint64_t)f->speed.disk_bytes_per_s, a),
                f->speed.dense_seconds + plan->n_layers * plan->n_experts_used * f->speed.expert_seconds);
    double tps = ds4_plan_tps(plan, &f->speed);
    if (tps > 0) sink_printf(out, "%10.3g  tokens/s predicted\n", tps);
}

static void put_text(const struct findings *f, struct sink *out)
{
    const struct ds4_plan *plan = &f->plan;
    double bandwidth = f->bandwidth;
    char a[16], b[16];
    for (uint32_t i = 0; i < plan->n_items; i++)
        sink_printf(out, "%10s  %-47s %s\n", term_bytes(plan->items[i].bytes, a), plan->items[i].name,
                    plan->items[i].on_device  ? "device"
                    : plan->items[i].resident ? "memory"
                                              : "file pages, droppable");
    if (plan->device_budget_bytes)
        sink_printf(out, "%10s  on the device, of which %s may be used\n", term_bytes(plan->device_bytes, a),
                    term_bytes(plan->device_budget_bytes, b));
    sink_printf(out, "%10s  must stay in memory, of a budget of %s\n", term_bytes(plan->resident_bytes, a),
                term_bytes(plan->budget_bytes, b));
    sink_printf(out, "%10s  mapped from the file; the machine has %s\n", term_bytes(plan->mapped_bytes, a),
                term_bytes(plan->memory_bytes, b));
    sink_printf(out, "%10s  read to decode one token\n", term_bytes(plan->weight_bytes_per_token, a));
    if (plan->device_budget_bytes)
        sink_printf(out, "%10s  of them over the bus\n", term_bytes(plan->bus_bytes_per_token, a));
    else if (bandwidth > 0 && plan->weight_bytes_per_token) {
        sink_printf(out, "%10s  read from memory a second (measured)", term_bytes((uint64_t)bandwidth, a));
        if (plan->all_in_memory)
            sink_printf(out, ": about %.3g tokens/s when memory is the limit",
                        bandwidth / (double)plan->weight_bytes_per_token);
        else
            sink_put_text(out, "; the speed of the disk decides, as the weights are not all in memory");
        sink_put_text(out, "\n");
    }
    put_streaming(f, out);
    sink_printf(out, "%s\n", plan->verdict);
    if (!f->command[0]) return;
    double tps = f->speed.dense_seconds > 0 ? ds4_plan_tps(&f->best, &f->speed) : 0;
    sink_printf(out, "best here: %s", f->command);
    if (tps > 0) sink_printf(out, "   (%.3g tokens/s predicted)", tps);
    sink_put_text(out, "\n");
}

int cmd_plan(int argc, char **argv)
{
    struct plan_flags flags;
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    struct ds4_engine_options options;
    static struct findings f;
    struct sink out;
    if (model_flags_options(&flags.model, &options, &error) != DS4_OK) return options_failed(&table, &error);
    options.n_sessions_max = flags.n_sessions;
    f = (struct findings){0};
    if (ds4_plan_make(&options, &f.plan, &error) != DS4_OK) return options_failed(&table, &error);
    if (!flags.no_probe && !f.plan.device_budget_bytes) f.bandwidth = memory_bandwidth(flags.model.n_threads);
    if (!f.plan.device_budget_bytes && (f.plan.n_experts || !f.plan.all_in_memory)) {
        if (find_best(options, &f, &error) != DS4_OK) return options_failed(&table, &error);
        if (!flags.no_probe && ds4_speed_probe(&options, flags.probe_seconds, &f.speed, &error) != DS4_OK)
            return options_failed(&table, &error);
    }
    if (sink_open(&out, "-", &error) != DS4_OK) return options_failed(&table, &error);
    if (flags.json) put_json(&f, flags.model.path, &out);
    else put_text(&f, &out);
    if (sink_close(&out, &error) != DS4_OK) return options_failed(&table, &error);
    return f.plan.fits ? EXIT_CODE_OK : EXIT_CODE_FAILED;
}
