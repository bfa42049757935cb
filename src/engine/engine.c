/* engine.c - ds4.h made of the floors below: opening a model and handing out what it knows. No logic of its own. */
#include "engine/engine.h"

#include <stdio.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/mem.h"
#include "quant/quant.h"
#include "session/sample.h"

#define DIGEST_SAMPLE_BYTES 256u /* of each tensor; reading all of 81 GB would take minutes */

static void say(const struct ds4_engine_options *options, enum ds4_log_level level, const char *line)
{
    if (options->log) options->log(options->log_user, level, line);
}

/* Names the format most of the weights are in, by bytes. */
static void name_quantisation(const struct gguf_file *file, char *out, size_t cap)
{
    struct { const char *name; uint64_t bytes; } sums[2] = {{"none", 0}, {"", 0}};
    for (uint32_t id = 0; id < 64; id++) {
        const struct quant_format *format = quant_format(id);
        uint64_t bytes = 0;
        for (size_t i = 0; format && i < gguf_n_tensors(file); i++)
            if (gguf_tensor_at(file, i)->type == id) bytes += gguf_tensor_at(file, i)->size_bytes;
        if (bytes > sums[0].bytes) {
            sums[1] = sums[0];
            sums[0].name = format->name;
            sums[0].bytes = bytes;
        } else if (bytes > sums[1].bytes) {
            sums[1].name = format->name;
            sums[1].bytes = bytes;
        }
    }
    (void)snprintf(out, cap, "%s%s%s", sums[0].name, sums[1].bytes ? " + " : "", sums[1].bytes ? sums[1].name : "");
}

/* All numbers that a result depends on: a file may have the weights of another and other numbers. */
static void hash_numbers(struct hash *hash, const struct hparams *h)
{
    const uint32_t counts[] = {h->n_layers, h->n_vocab, h->n_embd, h->n_heads, h->head_dim, h->n_rope, h->q_rank,
                               h->o_groups, h->o_rank, h->window, h->n_hc, h->hc_iters, h->index_heads, h->index_dim,
                               h->index_top_k, h->n_experts, h->n_used, h->n_ff, h->n_shared, h->n_hash_layers,
                               h->yarn_orig_ctx};
    const float reals[] = {h->hc_eps, h->rms_eps, h->expert_scale, h->rope_base, h->rope_base_compressed,
                           h->yarn_factor, h->yarn_beta_fast, h->yarn_beta_slow};
    hash_update(hash, counts, sizeof counts);
    hash_update(hash, reals, sizeof reals);
    hash_update(hash, h->ratio, sizeof h->ratio);
    hash_update(hash, h->limit_routed, sizeof h->limit_routed);
    hash_update(hash, h->limit_shared, sizeof h->limit_shared);
}

enum ds4_status engine_digest(const struct ds4_engine *e, uint8_t digest[16], struct ds4_error *error)
{
    struct hash *hash = hash_create();
    if (!hash) return err_set(error, DS4_ERR_NOMEM, "no memory for a digest");
    const struct gguf_file *files[2] = {e->file, e->settings.draft ? e->mtp_file : NULL};
    for (int f = 0; f < 2; f++) {
        for (size_t i = 0; files[f] && i < gguf_n_tensors(files[f]); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(files[f], i);
            uint64_t record[4] = {t->type, t->size_bytes, t->dims[0], t->dims[1]};
            hash_update(hash, t->name.ptr, t->name.len);
            hash_update(hash, record, sizeof record);
            if (!t->data) continue;
            size_t n = t->size_bytes < DIGEST_SAMPLE_BYTES ? (size_t)t->size_bytes : DIGEST_SAMPLE_BYTES;
            hash_update(hash, t->data + (t->size_bytes - n) / 2, n);
        }
    }
    uint8_t vocab[16];
    vocab_digest(e->vocab, vocab);
    hash_update(hash, vocab, sizeof vocab);
    uint32_t mode[6] = {STATE_LAYOUT_VERSION, STATE_SPAN_TOKENS, e->layout.n_layers, e->settings.row_format,
                        e->settings.round, (uint32_t)e->layout.span_bytes};
    hash_update(hash, mode, sizeof mode);
    hash_numbers(hash, &e->h);
    hash_digest(hash, digest);
    hash_destroy(hash);
    return DS4_OK;
}

enum ds4_status engine_identify(struct ds4_engine *e, struct ds4_error *error)
{
    uint8_t both[32];
    TRY(engine_digest(e, both, error));
    TRY(engine_arithmetic(e, both + 16, error));
    memcpy(e->host.digest, both, 16);
    hash_bytes(both, sizeof both, e->public_layout.digest);
    return DS4_OK;
}

static void fill_info(struct ds4_engine *e)
{
    struct ds4_model_info *info = &e->info;
    const struct model_weights *w = e->weights ? weights_model(e->weights) : NULL;
    *info = (struct ds4_model_info){
        .name = e->h.name, .architecture = "deepseek4", .model_path = e->model_path, .quantisation = e->quantisation,
        .backend = e->backend ? e->backend->ops->name : "none", .n_layers = e->h.n_layers,
        .n_vocab = vocab_n_tokens(e->vocab), .n_embd = e->h.n_embd, .n_heads = e->h.n_heads,
        .n_experts = e->h.n_experts, .n_experts_used = e->h.n_used, .window_tokens = e->h.window,
        .ctx_train_tokens = e->h.ctx_train, .ctx_tokens = e->settings.ctx_tokens,
        .chunk_tokens = e->settings.chunk_tokens, .n_threads = e->settings.n_threads,
        .n_sessions_max = e->settings.n_sessions, .n_params = w ? w->n_params : 0,
        .n_params_active = w ? w->n_params_active : 0, .file_bytes = gguf_file_bytes(e->file),
        .weight_bytes_per_token = w ? w->bytes_per_token : 0, .state_bytes_per_token = e->layout.bytes_per_token,
        .state_bytes_fixed = e->layout.tail_bytes, .has_mtp = w && w->has_mtp,
    };
    memcpy(info->digest, e->host.digest, sizeof info->digest);
}

static enum ds4_status open_files(struct ds4_engine *e, const struct ds4_engine_options *options,
                                  struct ds4_error *error)
{
    if (!options->model_path) return err_set(error, DS4_ERR_STATE, "no model file was named");
    (void)snprintf(e->model_path, sizeof e->model_path, "%s", options->model_path);
    (void)snprintf(e->notes_dir, sizeof e->notes_dir, "%s", options->notes_dir ? options->notes_dir : "");
    TRY(gguf_open(options->model_path, &e->file, error));
    if (options->mtp_path) TRY(gguf_open(options->mtp_path, &e->mtp_file, error));
    name_quantisation(e->file, e->quantisation, sizeof e->quantisation);
    return vocab_create_gguf(e->file, &e->vocab, error);
}

static enum ds4_status check_model(void *user, struct ds4_error *error)
{
    const struct ds4_engine *e = user;
    TRY(gguf_check_unchanged(e->file, error));
    return e->mtp_file ? gguf_check_unchanged(e->mtp_file, error) : DS4_OK;
}

static enum ds4_status start_sessions(struct ds4_engine *e, struct ds4_error *error)
{
    struct session_host *host = &e->host;
    *host = (struct session_host){.h = &e->h, .layout = &e->layout, .backend = e->backend,
                                  .ctx_tokens = e->settings.ctx_tokens, .chunk_tokens = e->settings.chunk_tokens,
                                  .n_sessions_max = e->settings.n_sessions, .draft = e->settings.draft,
                                  .n_drafts = e->settings.n_drafts, .check_model = check_model, .check_user = e};
    TRY(session_host_init(host, error));
    struct graph_config config = {
        .h = &e->h, .weights = weights_model(e->weights), .layout = &e->layout, .backend = e->backend,
        .n_rows_max = e->settings.chunk_tokens, .n_seqs_max = e->settings.n_sessions,
        .n_span_ids_max = host->pool.n_spans, .round = e->settings.round, .draft = e->settings.draft,
        .tails = host->pool.tails, .spans = host->pool.spans,
    };
    TRY(graph_create(&config, &e->graph, error));
    host->graph = e->graph;
    host->tip_bytes_max = session_tip_bytes_max(host);
    e->public_layout = (struct ds4_state_layout){.version = STATE_LAYOUT_VERSION, .span_tokens = STATE_SPAN_TOKENS,
                                                 .span_bytes = (size_t)e->layout.span_bytes,
                                                 .tip_bytes_max = host->tip_bytes_max,
                                                 .reach_tokens = e->layout.reach_tokens};
    return engine_identify(e, error);
}

static enum ds4_status make_backend(struct ds4_engine *e, struct ds4_error *error)
{
    const struct engine_settings *settings = &e->settings;
    struct gpu *device = settings->device;
    struct backend_limits limits = graph_backend_limits(&e->h, settings->chunk_tokens, settings->ctx_tokens);
    e->settings.device = NULL;
    if (device)
        return backend_gpu_create_on(settings->gpu_host, device, e->pool, &limits, &e->backend, error);
    if (settings->gpu_host) return backend_gpu_create(settings->gpu_host, e->pool, &limits, &e->backend, error);
    return settings->backend_ops == &backend_ref_ops ? backend_ref_create(e->pool, &limits, &e->backend, error)
                                                     : backend_cpu_create(e->pool, &limits, &e->backend, error);
}

/* To a device with memory of its own, as planned. */
static enum ds4_status place_weights(struct ds4_engine *e, const struct ds4_plan *plan, struct ds4_error *error)
{
    struct placing *p = mem_alloc(1, sizeof *p);
    if (!p) return err_set(error, DS4_ERR_NOMEM, "no memory to place weights");
    bool streams = plan->expert_cache_bytes != 0;
    enum ds4_status status = engine_place(e->file, e->mtp_file, &e->h, e->settings.draft, streams,
                                          plan->device_room_bytes, plan->host_room_bytes, p, error);
    if (status == DS4_OK) status = engine_hand_over(p, e->backend, error);
    if (status == DS4_OK && streams) {
        status = engine_map_experts(e, error);
        if (status == DS4_OK) engine_keep_streamed(p, e->experts);
        if (status == DS4_OK)
            status = backend_gpu_stage(e->backend, e->h.n_experts, e->h.n_used, e->settings.chunk_tokens,
                                       plan->expert_bytes, error);
    }
    mem_free(p->pieces);
    mem_free(p);
    return status;
}

/* All but streamed experts, where they lie. */
static enum ds4_status share_weights(struct ds4_engine *e, struct ds4_error *error)
{
    struct placing *p = mem_alloc(1, sizeof *p);
    if (!p) return err_set(error, DS4_ERR_NOMEM, "no memory to place weights");
    enum ds4_status status =
        engine_place(e->file, e->mtp_file, &e->h, e->settings.draft, true, 0, UINT64_MAX, p, error);
    if (status == DS4_OK) status = engine_hand_over(p, e->backend, error);
    mem_free(p->pieces);
    mem_free(p);
    return status;
}

/* Tells the backend of the mapped files, whose matrices operations will name. */
static enum ds4_status give_weights(struct ds4_engine *e, const struct ds4_plan *plan, struct ds4_error *error)
{
    const struct gguf_file *files[2] = {e->file, e->settings.draft ? e->mtp_file : NULL};
    if (plan->device_budget_bytes) return place_weights(e, plan, error);
    if (plan->expert_cache_bytes && e->settings.gpu_host) return share_weights(e, error);
    for (int f = 0; e->backend->ops->map && f < 2; f++) {
        for (uint32_t i = 0; files[f] && i < gguf_n_shards(files[f]); i++) {
            uint64_t size;
            const uint8_t *bytes = gguf_shard_bytes(files[f], i, &size);
            TRY(e->backend->ops->map(e->backend, bytes, (size_t)size, true, error));
        }
    }
    return DS4_OK;
}

static enum ds4_status load_model(struct ds4_engine *e, const struct ds4_engine_options *options,
                                  struct ds4_error *error)
{
    struct ds4_plan plan;
    TRY(hparams_read(e->file, &e->h, error));
    bool has_mtp = weights_find_mtp(e->file, e->mtp_file, &e->h);
    TRY(engine_settle(options, &e->h, has_mtp, &e->settings, error));
    state_layout_make(&e->h, e->settings.draft, e->settings.row_format, e->settings.chunk_tokens, &e->layout);
    TRY(engine_plan(e->file, e->mtp_file, &e->h, &e->settings, &e->layout, options->memory_budget_bytes, &plan, error));
    if (!plan.fits) return err_set(error, DS4_ERR_LIMIT, "%s", plan.verdict);
    say(options, DS4_LOG_INFO, plan.verdict);
    TRY(thread_pool_create(e->settings.n_threads, &e->pool, error));
    if (options->made_up_seed && (!e->settings.gpu_host || plan.expert_cache_bytes))
        return err_set(error, DS4_ERR_UNSUPPORTED, "weights are made up on a GPU that holds all of them");
    TRY(make_backend(e, error));
    if (options->made_up_seed) backend_gpu_generates(e->backend);
    TRY(weights_load(e->file, e->mtp_file, &e->h, e->backend, options->check_tensors, &e->weights, error));
    TRY(give_weights(e, &plan, error));
    if (options->made_up_seed) TRY(engine_make_up(e, options->made_up_seed, error));
    weights_pack(e->weights, e->h.n_layers);
    if (e->h.n_vocab != vocab_n_tokens(e->vocab))
        return err_set(error, DS4_ERR_FORMAT, "the vocabulary has %u tokens, the embedding %u rows",
                       vocab_n_tokens(e->vocab), e->h.n_vocab);
    if (e->settings.notes_dir) e->settings.notes_dir = e->notes_dir; /* the caller's text may not live as long */
    if (plan.expert_cache_bytes) TRY(engine_start_stream(e, &plan, error));
    return start_sessions(e, error);
}

enum ds4_status ds4_engine_open(const struct ds4_engine_options *options, struct ds4_engine **out,
                                struct ds4_error *error)
{
    struct ds4_engine *e = mem_zalloc(1, sizeof *e);
    if (!e) return err_set(error, DS4_ERR_NOMEM, "no memory for an engine");
    enum ds4_status status = open_files(e, options, error);
    if (status == DS4_OK && !options->vocab_only) status = load_model(e, options, error);
    if (status != DS4_OK) {
        ds4_engine_close(e);
        return status;
    }
    fill_info(e);
    *out = e;
    return DS4_OK;
}

void ds4_engine_close(struct ds4_engine *e)
{
    if (!e) return;
    graph_destroy(e->graph);
    session_host_deinit(&e->host);
    engine_settings_close(&e->settings);
    weights_free(e->weights);
    if (e->backend) e->backend->ops->destroy(e->backend);
    engine_stop_stream(e); /* a GPU may have used its memory */
    mem_free(e->experts);
    mem_free(e->notes.rates);
    thread_pool_destroy(e->pool);
    vocab_destroy(e->vocab);
    gguf_close(e->mtp_file);
    gguf_close(e->file);
    mem_free(e);
}

const struct ds4_model_info *ds4_engine_info(const struct ds4_engine *e) { return &e->info; }
const struct ds4_state_layout *ds4_state_layout(const struct ds4_engine *e) { return &e->public_layout; }

void ds4_engine_set_probe(struct ds4_engine *e, ds4_probe_fn fn, void *user)
{
    if (e->graph) graph_set_probe(e->graph, fn, user);
}

void ds4_engine_draft_figures(const struct ds4_engine *e, struct ds4_draft_figures *out) { *out = e->host.figures; }

static bool is_cpu(const struct ds4_engine *e)
{
    return e->backend && e->backend->ops->destroy == backend_cpu_ops.destroy;
}

enum ds4_status ds4_engine_time_kernels(struct ds4_engine *e, bool on, struct ds4_error *error)
{
    if (e->backend && e->settings.gpu_host) return backend_gpu_time(e->backend, on, error);
    if (!is_cpu(e)) return err_set(error, DS4_ERR_UNSUPPORTED, "backend %s has no kernels to time", e->info.backend);
    backend_cpu_time(e->backend, on);
    return DS4_OK;
}

size_t ds4_engine_kernel_times(const struct ds4_engine *e, struct ds4_kernel_time *out, size_t max)
{
    if (e->backend && e->settings.gpu_host) return backend_gpu_times(e->backend, out, max);
    return is_cpu(e) ? backend_cpu_times(e->backend, out, max) : 0;
}

enum ds4_status ds4_session_create(struct ds4_engine *e, struct ds4_session **out, struct ds4_error *error)
{
    if (!e->graph) return err_set(error, DS4_ERR_STATE, "%s was opened for its vocabulary only", e->model_path);
    return session_create(&e->host, out, error);
}

enum ds4_status ds4_eval(struct ds4_engine *e, const struct ds4_job *jobs, size_t n_jobs, struct ds4_error *error)
{
    if (!e->graph) return err_set(error, DS4_ERR_STATE, "%s was opened for its vocabulary only", e->model_path);
    return session_eval(&e->host, jobs, n_jobs, error);
}

enum ds4_status ds4_sampler_create(const struct ds4_engine *e, const struct ds4_sampling *sampling,
                                   struct ds4_sampler **out, struct ds4_error *error)
{
    return sampler_create(e->info.n_vocab, sampling, out, error);
}
