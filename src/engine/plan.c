/* plan.c - the ledger of bytes: what an engine with given settings takes, known before anything is allocated. The same
 * function serves `ds4 plan` and the engine, which refuses with its verdict. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/term.h"
#include "engine/engine.h"
#include "quant/quant.h"
#include "stream/habits.h"
#include "stream/predict.h"

#define GIB 1073741824.0
#define RESERVE_LEAST_BYTES ((uint64_t)512 << 20) /* what a desktop needs to stay responsive, whatever its size */

/* Where an item lies: file pages that may be dropped, memory, or the memory of a device. */
enum item_place { DROPPABLE, RESIDENT, ON_DEVICE };

static void add_item(struct ds4_plan *plan, uint64_t bytes, enum item_place place, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void add_item(struct ds4_plan *plan, uint64_t bytes, enum item_place place, const char *format, ...)
{
    ensure(plan->n_items < sizeof plan->items / sizeof plan->items[0]);
    struct ds4_plan_item *item = &plan->items[plan->n_items++];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(item->name, sizeof item->name, format, args);
    va_end(args);
    item->bytes = bytes;
    item->resident = place != DROPPABLE;
    item->on_device = place == ON_DEVICE;
    *(place == ON_DEVICE ? &plan->device_bytes : place == RESIDENT ? &plan->resident_bytes : &plan->mapped_bytes) +=
        bytes;
}

struct weight_sums {
    uint64_t expert_bytes, dense_bytes, idle_bytes, vector_bytes, per_token;
};

/* Sums over the directory. What is small or one-dimensional is copied into memory, the rest stays in the file. Idle: of
 * which a token reads one row (the embedding) or nothing (a draft block without drafting). */
static struct weight_sums sum_weights(const struct gguf_file *file, const struct hparams *h, bool drafts)
{
    struct weight_sums sums = {0};
    for (size_t i = 0; file && i < gguf_n_tensors(file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        const struct quant_format *format = quant_format(t->type);
        bool experts = t->dims[2] > 1, draft = span_find(t->name, SPAN("mtp."), 0) == 0;
        if (engine_is_copied(t)) {
            uint64_t elems = t->dims[0] * t->dims[1];
            sums.vector_bytes += elems * 4;
        } else if (experts) {
            sums.expert_bytes += t->size_bytes;
            if (!draft) sums.per_token += t->size_bytes / t->dims[2] * h->n_used;
        } else {
            bool embedding = span_find(t->name, SPAN("token_embd"), 0) == 0;
            uint64_t row = 0;
            *(embedding || (draft && !drafts) ? &sums.idle_bytes : &sums.dense_bytes) += t->size_bytes;
            if (embedding && format && quant_row_bytes(format, t->dims[0], &row)) sums.per_token += row;
            else if (!draft) sums.per_token += t->size_bytes;
        }
    }
    return sums;
}

/* With a device that has memory of its own. */
static void judge_device(struct ds4_plan *plan)
{
    double used = (double)plan->device_bytes / GIB, there = (double)plan->device_budget_bytes / GIB;
    double resident = (double)plan->resident_bytes / GIB, budget = (double)plan->budget_bytes / GIB;
    bool state_fits = plan->device_bytes <= plan->device_budget_bytes;
    bool streams = plan->n_experts != 0, enough = plan->n_expert_slots >= plan->n_expert_slots_least;
    plan->fits = state_fits && !plan->homeless_bytes && plan->resident_bytes <= plan->budget_bytes && enough;
    plan->all_in_memory = plan->fits && !streams;
    if (!state_fits)
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "does not fit: state and scratch take %.2f GiB and %.2f GiB of the device may be used; use a "
                       "smaller --ctx, fewer sessions or a smaller chunk", used, there);
    else if (streams && !plan->fits)
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "does not fit: beside the device %.2f GiB must stay in memory, of %.2f GiB, and a batch may "
                       "need %u experts of one layer; give --expert-cache at least %llu bytes, or smaller batches",
                       resident, budget, plan->n_expert_slots_least,
                       (unsigned long long)plan->expert_cache_least_bytes);
    else if (streams)
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "streams: %.2f of %.2f GiB of the device and %.2f of %.2f GiB of memory, in it %u of %u experts "
                       "that have no room on the device; the others are read from disk", used, there, resident, budget,
                       plan->n_expert_slots, plan->n_experts);
    else if (!plan->fits)
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "does not fit: %.2f GiB of weights find room neither on the device (%.2f GiB) nor in memory "
                       "(%.2f GiB); --expert-cache auto reads experts from disk",
                       (double)plan->homeless_bytes / GIB, there, budget);
    else
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "fits: %.2f of %.2f GiB of the device and %.2f of %.2f GiB of memory; a token reads %.3f GiB of "
                       "weights over the bus", used, there, resident, budget,
                       (double)plan->bus_bytes_per_token / GIB);
}

static void judge(struct ds4_plan *plan)
{
    if (plan->device_budget_bytes) {
        judge_device(plan);
        return;
    }
    double resident = (double)plan->resident_bytes / GIB, mapped = (double)plan->mapped_bytes / GIB;
    double budget = (double)plan->budget_bytes / GIB, cache = (double)plan->expert_cache_bytes / GIB;
    bool streams = plan->n_experts != 0, enough = plan->n_expert_slots >= plan->n_expert_slots_least;
    plan->fits = plan->resident_bytes <= plan->budget_bytes && enough;
    plan->all_in_memory = plan->fits && plan->mapped_bytes <= plan->budget_bytes - plan->resident_bytes &&
                          plan->n_expert_slots >= plan->n_experts;
    char have[16], need[16]; /* in fitting units: what is refused may be small */
    if (!enough)
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "does not fit: an expert cache of %s holds %u experts, and a batch may need %u of one layer; "
                       "give it at least %llu bytes, or make the batches smaller",
                       term_bytes(plan->expert_cache_bytes, have), plan->n_expert_slots, plan->n_expert_slots_least,
                       (unsigned long long)plan->expert_cache_least_bytes);
    else if (!plan->fits)
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "does not fit: %s must stay in memory and the budget is %s; use a smaller %s--ctx, fewer "
                       "sessions or a smaller chunk", term_bytes(plan->resident_bytes, need),
                       term_bytes(plan->budget_bytes, have), streams ? "--expert-cache, " : "");
    else if (streams)
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "streams: %.2f of %.2f GiB of memory, in it %u of the %u experts (%.2f GiB); the others are "
                       "read from disk when they are chosen", resident, budget, plan->n_expert_slots,
                       plan->n_experts, cache);
    else if (!plan->all_in_memory)
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "runs, but slowly: %.2f GiB of weights are read from disk as needed, %.2f GiB of memory are "
                       "left for them; --expert-cache auto does better", mapped, budget - resident);
    else
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "fits: %.2f GiB of memory and %.2f GiB of weights, of %.2f GiB", resident, mapped, budget);
}

uint64_t engine_reserve_bytes(void)
{
    uint64_t share = mem_machine_bytes() / 16;
    return share > RESERVE_LEAST_BYTES ? share : RESERVE_LEAST_BYTES;
}

/* What --expert-cache auto means: 0 when everything fits mapped, else the rest of the memory. A GPU that shares the
 * memory may use some of it only, and of the pool one buffer. */
static uint64_t choose_cache(const struct ds4_plan *plan, const struct engine_settings *settings,
                             const struct weight_sums *sums, uint64_t least)
{
    uint64_t needed = plan->resident_bytes + sums->dense_bytes;
    uint64_t there = mem_available_bytes(), reserve = engine_reserve_bytes();
    if (plan->budget_bytes < there) there = plan->budget_bytes;
    else there = there > reserve ? there - reserve : 0;
    if (settings->shared_bytes && settings->shared_bytes < there) there = settings->shared_bytes;
    if (there >= needed && there - needed >= sums->expert_bytes + sums->idle_bytes) return 0;
    uint64_t room = there > needed ? there - needed : 0;
    if (settings->shared_bytes && room > settings->buffer_bytes_max) room = settings->buffer_bytes_max;
    return room > least ? room : least;
}

/* What of the trunk's experts the slots will hold, by the notes. Slots for misses of one layer are always on loan. */
static enum ds4_status expect_hits(const struct gguf_file *file, const struct expert_map *map, const struct hparams *h,
                                   const struct engine_settings *settings, struct ds4_plan *plan,
                                   struct ds4_error *error)
{
    struct notes notes;
    uint32_t n_keys = h->n_layers * h->n_experts;
    TRY(engine_read_notes(gguf_shard_path(file, 0), settings->notes_dir, map, h, &notes, error));
    float *scratch = mem_zalloc(2 * (size_t)n_keys, sizeof *scratch);
    if (!scratch) {
        mem_free(notes.rates);
        return err_set(error, DS4_ERR_NOMEM, "no memory to plan");
    }
    uint32_t held = plan->n_expert_slots > h->n_used ? plan->n_expert_slots - h->n_used : 0;
    if (plan->n_expert_slots >= plan->n_experts) held = n_keys;
    for (uint32_t i = 0; notes.rates && i < n_keys; i++) notes.rates[i] *= (float)habits_observed(notes.tokens);
    plan->expert_hit_rate = predict_hit_rate(notes.rates ? notes.rates : scratch + n_keys, n_keys, held, scratch);
    if (notes.hit_ratio > 0 && held < n_keys) plan->expert_hit_rate *= notes.hit_ratio;
    if (plan->expert_hit_rate > 1) plan->expert_hit_rate = 1;
    plan->expert_ahead_share = notes.ahead_share;
    plan->expert_bytes += (uint64_t)((double)plan->expert_bytes * notes.vain_share);
    plan->tokens_observed = notes.tokens;
    mem_free(scratch);
    mem_free(notes.rates);
    return DS4_OK;
}

double ds4_plan_tps(const struct ds4_plan *plan, const struct ds4_speed *speed)
{
    if (!plan->fits || (!plan->n_experts && !plan->all_in_memory) || speed->dense_seconds <= 0) return 0;
    struct predict_input in = {
        .n_layers = plan->n_layers, .n_used = plan->n_experts_used,
        .hit_rate = plan->n_experts ? plan->expert_hit_rate : 1, .ahead_share = plan->expert_ahead_share,
        .expert_bytes = (double)plan->expert_bytes, .disk_bytes_per_s = speed->disk_bytes_per_s,
        .wait_seconds = speed->wait_seconds, .dense_seconds = speed->dense_seconds,
        .expert_seconds = speed->expert_seconds,
    };
    return 1 / predict_token_seconds(&in);
}

/* The pool of streamed experts, of so many bytes each, in the ledger. */
static void add_pool(const struct stream_size *size, uint64_t expert_bytes, struct ds4_plan *out)
{
    out->n_experts = size->n_experts;
    out->n_expert_slots = size->n_slots;
    out->n_expert_slots_least = size->n_need;
    out->expert_cache_bytes = size->bytes;
    out->expert_cache_least_bytes = size->least_bytes;
    out->expert_bytes = expert_bytes;
    add_item(out, size->bytes, RESIDENT, "weights: cache of %u routed experts", size->n_slots);
}

/* Decides about the pool and adds it to the ledger. */
static void add_experts(const struct expert_map *map, const struct hparams *h, const struct engine_settings *settings,
                        const struct weight_sums *sums, struct ds4_plan *out)
{
    out->n_layers = h->n_layers;
    out->n_experts_used = h->n_used;
    struct stream_size size = {0};
    struct stream_config config;
    uint64_t cache = map ? settings->expert_cache_bytes : 0;
    if (map) {
        config = expert_map_config(map, h, settings->chunk_tokens);
        config.paranoid = settings->paranoid;
        stream_size(&config, &size);
        if (cache == DS4_EXPERT_CACHE_AUTO)
            cache = choose_cache(out, settings, sums, size.least_bytes);
        config.budget_bytes = cache;
        stream_size(&config, &size);
    }
    add_item(out, sums->dense_bytes, cache ? RESIDENT : DROPPABLE, "weights: everything but routed experts");
    add_item(out, sums->idle_bytes, DROPPABLE, "weights: a row of them a token, or none");
    if (cache == 0) {
        add_item(out, sums->expert_bytes, DROPPABLE, "weights: routed experts");
        return;
    }
    out->mapped_hot_bytes = sums->dense_bytes;
    add_pool(&size, size.n_experts ? sums->expert_bytes / size.n_experts : 0, out);
}

static uint64_t rest(uint64_t of, uint64_t used) { return of > used ? of - used : 0; }

/* A GPU that shares the machine's memory reads experts in their slots, each at the same bytes of a slot. */
static enum ds4_status check_pages(const struct expert_map *map, struct ds4_error *error)
{
    for (uint32_t l = 0; l < map->n_layers; l++)
        for (uint32_t p = 0; p < map->layers[l].n_parts; p++)
            if (map->layers[l].parts[p].stack_bytes % FILE_BLOCK_BYTES)
                return err_set(error, DS4_ERR_UNSUPPORTED, "an expert cache for a GPU that shares the machine's memory "
                               "needs experts whose matrices are whole pages of %u bytes; those of layer %u have %llu "
                               "bytes", FILE_BLOCK_BYTES, l, (unsigned long long)map->layers[l].parts[p].stack_bytes);
    return DS4_OK;
}

/* The largest expert of a layer, all its matrices. */
static uint64_t largest_expert(const struct expert_map *map)
{
    uint64_t most = 0;
    for (uint32_t l = 0; l < map->n_layers; l++) {
        uint64_t bytes = stream_expert_bytes(&map->layers[l]);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* The pool for experts that have no room on the device, in what the placed weights leave of the memory. */
static void add_device_pool(struct expert_map *map, const struct hparams *h, const struct engine_settings *settings,
                            const struct placing *p, struct ds4_plan *out)
{
    struct stream_size size;
    engine_keep_streamed(p, map);
    struct stream_config config = expert_map_config(map, h, settings->chunk_tokens);
    config.paranoid = settings->paranoid;
    config.budget_bytes = settings->expert_cache_bytes;
    if (config.budget_bytes == DS4_EXPERT_CACHE_AUTO)
        config.budget_bytes = rest(out->host_room_bytes, p->sums.bytes[RESIDENCY_HOST]);
    stream_size(&config, &size);
    out->n_layers = h->n_layers;
    out->n_experts_used = h->n_used;
    add_pool(&size, largest_expert(map), out);
}

/* Weights in their places on the device and beside it: all of them; when they have no room and a map is given, experts
 * are streamed. */
static enum ds4_status add_placed(const struct gguf_file *file, const struct gguf_file *mtp_file,
                                  const struct hparams *h, const struct engine_settings *settings,
                                  struct expert_map *map, struct ds4_plan *out, struct ds4_error *error)
{
    struct placing *p = mem_alloc(1, sizeof *p);
    if (!p) return err_set(error, DS4_ERR_NOMEM, "no memory to plan");
    out->device_room_bytes = rest(out->device_budget_bytes, out->device_bytes);
    out->host_room_bytes = rest(out->budget_bytes, out->resident_bytes);
    enum ds4_status status = engine_place(file, mtp_file, h, settings->draft, false, out->device_room_bytes,
                                          out->host_room_bytes, p, error);
    bool streams = status == DS4_OK && map && p->sums.bytes[RESIDENCY_DISK];
    if (streams) {
        uint64_t staged = backend_gpu_stage_bytes(h->n_experts, h->n_used, settings->chunk_tokens, largest_expert(map));
        mem_free(p->pieces);
        add_item(out, staged, ON_DEVICE, "weights: room for experts on their way");
        add_item(out, backend_gpu_pinned_bytes(staged), RESIDENT, "pinned: experts on their way");
        out->device_room_bytes = rest(out->device_budget_bytes, out->device_bytes);
        out->host_room_bytes = rest(out->budget_bytes, out->resident_bytes);
        status = engine_place(file, mtp_file, h, settings->draft, true, out->device_room_bytes, out->host_room_bytes, p,
                              error);
    }
    if (status == DS4_OK) {
        const struct residency *sums = &p->sums;
        add_item(out, sums->bytes[RESIDENCY_DEVICE], ON_DEVICE, "weights: on the device");
        add_item(out, sums->bytes[RESIDENCY_HOST], RESIDENT, "weights: read over the bus");
        out->homeless_bytes = sums->bytes[RESIDENCY_DISK] - sums->streamed;
        if (out->homeless_bytes) add_item(out, out->homeless_bytes, DROPPABLE, "weights: without a place");
        out->bus_bytes_per_token = sums->per_token[RESIDENCY_HOST] + sums->per_token[RESIDENCY_DISK];
        if (streams) add_device_pool(map, h, settings, p, out);
    }
    mem_free(p->pieces);
    mem_free(p);
    return status;
}

enum ds4_status engine_plan(const struct gguf_file *file, const struct gguf_file *mtp_file, const struct hparams *h,
                            const struct engine_settings *settings, const struct state_layout *layout,
                            uint64_t budget_bytes, struct ds4_plan *out, struct ds4_error *error)
{
    *out = (struct ds4_plan){.memory_bytes = mem_machine_bytes()};
    out->budget_bytes = budget_bytes ? budget_bytes : out->memory_bytes;
    struct weight_sums sums = sum_weights(file, h, settings->draft), draft = sum_weights(mtp_file, h, settings->draft);
    uint64_t n = settings->n_sessions, spans = session_spans_for(settings->ctx_tokens) + 1ull;
    struct backend_limits limits = graph_backend_limits(h, settings->chunk_tokens, settings->ctx_tokens);
    struct expert_map *map = NULL;
    if (settings->expert_cache_bytes) {
        map = mem_alloc(1, sizeof *map);
        if (!map) return err_set(error, DS4_ERR_NOMEM, "no memory to plan");
        enum ds4_status status = expert_map_make(file, mtp_file, h, map, error);
        if (status == DS4_OK && settings->shared_bytes) status = check_pages(map, error);
        bool automatic = settings->expert_cache_bytes == DS4_EXPERT_CACHE_AUTO;
        if (status == DS4_ERR_UNSUPPORTED && settings->shared_bytes && automatic) {
            mem_free(map); /* mapped, then */
            map = NULL;
        } else if (status != DS4_OK) {
            mem_free(map);
            return status;
        }
    }
    enum item_place there = settings->device_bytes ? ON_DEVICE : RESIDENT;
    out->device_budget_bytes = settings->device_bytes;
    add_item(out, sums.vector_bytes + draft.vector_bytes, there, "weights: vectors and tables in F32");
    add_item(out, gguf_header_bytes(file) * 4, RESIDENT, "vocabulary and directory of the file");
    add_item(out, (uint64_t)h->n_vocab * 40, RESIDENT, "index of tokens for answers in a form");
    add_item(out, n * layout->tail_bytes, there, "state: rings of %u session(s)", settings->n_sessions);
    add_item(out, n * spans * layout->span_bytes, there, "state: rows of %u tokens each", settings->ctx_tokens);
    if (settings->backend_ops->candidates)
        add_item(out, (n * (1 + settings->n_drafts) + session_ahead_max(settings->n_sessions, settings->chunk_tokens)) *
                          h->n_vocab * sizeof(float), there, "state: logits of %u session(s)", settings->n_sessions);
    if (settings->draft)
        add_item(out, n * session_streams_bytes(h), there, "state: streams to draft from");
    add_item(out, n * session_host_bytes(h, settings->ctx_tokens, settings->n_drafts), RESIDENT,
             "state: tokens and logits");
    add_item(out, graph_scratch_bytes(h, settings->chunk_tokens, settings->draft), there, "scratch: %u rows a batch",
             settings->chunk_tokens);
    add_item(out, settings->backend_ops->scratch_bytes(&limits, settings->n_threads), there, "scratch: %s backend",
             settings->backend_ops->name);
    sums.expert_bytes += draft.expert_bytes;
    sums.dense_bytes += draft.dense_bytes;
    sums.idle_bytes += draft.idle_bytes;
    out->weight_bytes_per_token = sums.per_token;
    if (settings->device_bytes) {
        enum ds4_status status = add_placed(file, mtp_file, h, settings, map, out, error);
        if (status == DS4_OK) judge(out);
        mem_free(map);
        return status;
    }
    add_experts(map, h, settings, &sums, out);
    judge(out);
    enum ds4_status status = out->n_experts ? expect_hits(file, map, h, settings, out, error) : DS4_OK;
    mem_free(map);
    return status;
}

/* Opens the device of a host, once; false when there is none. */
static bool open_device(const struct gpu_host *host, struct engine_settings *out)
{
    char why[256];
    if (!out->device) out->device = host->open(why, sizeof why);
    return out->device != NULL;
}

void engine_settings_close(struct engine_settings *settings)
{
    if (settings->device) settings->gpu_host->close(settings->device);
    settings->device = NULL;
}

/* By name, or the best that works: a GPU that is there, else the CPU. */
static enum ds4_status choose_backend(const char *name, struct engine_settings *out, struct ds4_error *error)
{
    static const struct backend_ops *const known[] = {&backend_cpu_ops, &backend_ref_ops};
    char names[64] = "";
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++) {
        size_t used = strlen(names);
        (void)snprintf(names + used, sizeof names - used, "%s, ", choice->ops->name);
        if (name ? strcmp(name, choice->ops->name) != 0 : !choice->automatic || !open_device(choice->host, out))
            continue;
        out->backend_ops = choice->ops;
        out->gpu_host = choice->host;
        return DS4_OK;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (name && strcmp(name, known[i]->name) != 0) continue;
        out->backend_ops = known[i];
        return DS4_OK;
    }
    return err_set(error, DS4_ERR_UNSUPPORTED, "backend \"%.32s\" is not in this build; there are %scpu and ref", name,
                   names);
}

/* How much of a device's own memory may be used: as asked for, or what is free less a thirty-second for what the driver
 * and others need. */
static enum ds4_status settle_device(uint64_t asked_bytes, struct engine_settings *out, struct ds4_error *error)
{
    struct gpu_info info = {0};
    if (asked_bytes && !out->gpu_host)
        return err_set(error, DS4_ERR_UNSUPPORTED, "--device-memory is for a GPU; the backend is %s",
                       out->backend_ops->name);
    out->device_bytes = asked_bytes;
    if (asked_bytes || !out->gpu_host) return DS4_OK;
    if (!open_device(out->gpu_host, out)) return DS4_OK; /* creating the backend says so */
    out->gpu_host->info(out->device, &info);
    if (info.own_memory) out->device_bytes = rest(info.free_bytes, info.memory_bytes / 32);
    else out->shared_bytes = info.memory_bytes, out->buffer_bytes_max = info.buffer_bytes_max;
    return DS4_OK;
}

static enum ds4_status settle_launch(const char *name, struct engine_settings *out, struct ds4_error *error)
{
    if (!name || strcmp(name, "plain") == 0) return DS4_OK;
    if (strcmp(name, "early") != 0)
        return err_set(error, DS4_ERR_FORMAT, "--launch %.32s: plain or early", name);
    if (out->gpu_host && !open_device(out->gpu_host, out)) return DS4_OK; /* creating the backend says so */
    if (out->gpu_host && out->gpu_host->launch && out->gpu_host->launch(out->device, GPU_LAUNCH_EARLY)) return DS4_OK;
    return err_set(error, DS4_ERR_UNSUPPORTED, "--launch %s is for CUDA devices of compute capability 9.0 and newer",
                   name);
}

enum ds4_status engine_settle(const struct ds4_engine_options *options, const struct hparams *h, bool has_mtp,
                              struct engine_settings *out, struct ds4_error *error)
{
    *out = (struct engine_settings){.round = !options->ideal, .draft = (options->draft || options->n_drafts) && has_mtp,
                                    .n_drafts = options->n_drafts, .paranoid = options->paranoid,
                                    .expert_cache_bytes = options->expert_cache_bytes, .notes_dir = options->notes_dir};
    if (options->n_drafts > DS4_DRAFTS_MAX)
        return err_set(error, DS4_ERR_LIMIT, "%u drafts; at most %u", options->n_drafts, DS4_DRAFTS_MAX);
    if (options->n_drafts && !has_mtp)
        return err_set(error, DS4_ERR_UNSUPPORTED, "%s has no draft block (tensors mtp.0.*) to draft with",
                       options->mtp_path ? options->mtp_path : options->model_path);
    TRY(choose_backend(options->backend, out, error));
    TRY(settle_device(options->device_memory_bytes, out, error));
    TRY(settle_launch(options->launch, out, error));
    bool exact = options->ideal || out->backend_ops == &backend_ref_ops;
    out->row_format = exact ? OP_ROW_F32 : OP_ROW_PACKED;
    uint32_t fallback = h->ctx_train < ENGINE_CTX_DEFAULT ? h->ctx_train : ENGINE_CTX_DEFAULT;
    out->ctx_tokens = options->ctx_tokens ? options->ctx_tokens : fallback;
    if (out->ctx_tokens > h->ctx_train)
        return err_set(error, DS4_ERR_LIMIT, "a context of %u tokens; the model was made for %u", out->ctx_tokens,
                       h->ctx_train);
    out->chunk_tokens = options->chunk_tokens ? options->chunk_tokens : ENGINE_CHUNK_DEFAULT;
    if (out->chunk_tokens > ENGINE_CHUNK_MAX)
        return err_set(error, DS4_ERR_LIMIT, "chunks of %u tokens; at most %u", out->chunk_tokens, ENGINE_CHUNK_MAX);
    out->n_sessions = options->n_sessions_max ? options->n_sessions_max : 1;
    if (out->n_sessions > ENGINE_SESSIONS_MAX)
        return err_set(error, DS4_ERR_LIMIT, "%u sessions; at most %u", out->n_sessions, ENGINE_SESSIONS_MAX);
    if (out->chunk_tokens > out->ctx_tokens) out->chunk_tokens = out->ctx_tokens;
    if (out->chunk_tokens < out->n_sessions) out->chunk_tokens = out->n_sessions; /* one row of each session */
    out->n_threads = options->n_threads ? options->n_threads : thread_cores();
    return DS4_OK;
}

/* Too large for a stack. */
struct plan_work {
    struct hparams h;
    struct state_layout layout;
};

static enum ds4_status plan_file(const struct gguf_file *file, const struct gguf_file *mtp_file,
                                 const struct ds4_engine_options *options, struct plan_work *work,
                                 struct ds4_plan *plan, struct ds4_error *error)
{
    struct engine_settings settings = {0};
    TRY(hparams_read(file, &work->h, error));
    enum ds4_status status =
        engine_settle(options, &work->h, weights_find_mtp(file, mtp_file, &work->h), &settings, error);
    engine_settings_close(&settings);
    TRY(status);
    state_layout_make(&work->h, settings.draft, settings.row_format, settings.chunk_tokens, &work->layout);
    return engine_plan(file, mtp_file, &work->h, &settings, &work->layout, options->memory_budget_bytes, plan, error);
}

enum ds4_status ds4_plan_make(const struct ds4_engine_options *options, struct ds4_plan *plan, struct ds4_error *error)
{
    struct gguf_file *file = NULL, *mtp_file = NULL;
    struct plan_work *work = mem_zalloc(1, sizeof *work);
    if (!work) return err_set(error, DS4_ERR_NOMEM, "no memory to plan");
    enum ds4_status status = gguf_open(options->model_path, &file, error);
    if (status == DS4_OK) status = options->mtp_path ? gguf_open(options->mtp_path, &mtp_file, error) : DS4_OK;
    if (status == DS4_OK) status = plan_file(file, mtp_file, options, work, plan, error);
    gguf_close(mtp_file);
    gguf_close(file);
    mem_free(work);
    return status;
}
