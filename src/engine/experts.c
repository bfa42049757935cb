/* experts.c - streaming of routed experts, as the engine sees it: the pool is made as planned, and what it learns about
 * the use of experts is kept on disk from run to run. */
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/engine.h"

#define NOTES_PATH_BYTES 4200
#define TOKENS_LEAST 8 /* to learn from */

/* ---- notes -------------------------------------------------------------------------------------------------- */

/* Place 0: beside the model; place 1: in the given or the usual folder. False when there is no such place. */
static bool notes_place(int place, const char *model_path, const char *notes_dir, const uint8_t digest[16],
                        char out[NOTES_PATH_BYTES])
{
    if (notes_dir && !notes_dir[0]) return false;
    if (place == 0) return snprintf(out, NOTES_PATH_BYTES, "%s.experts", model_path) < NOTES_PATH_BYTES;
    const struct passwd *user = notes_dir ? NULL : getpwuid(getuid());
    if (!notes_dir && (!user || !user->pw_dir)) return false;
    int n = snprintf(out, NOTES_PATH_BYTES, "%s%s/", notes_dir ? notes_dir : user->pw_dir,
                     notes_dir ? "" : "/.cache/ds4");
    for (int i = 0; i < 16 && n > 0 && n < NOTES_PATH_BYTES; i++)
        n += snprintf(out + n, (size_t)(NOTES_PATH_BYTES - n), "%02x%s", digest[i], i == 15 ? ".experts" : "");
    return n > 0 && n < NOTES_PATH_BYTES;
}

enum ds4_status engine_read_notes(const char *model_path, const char *notes_dir, const struct expert_map *map,
                                  const struct hparams *h, struct notes *out, struct ds4_error *error)
{
    char path[NOTES_PATH_BYTES];
    *out = (struct notes){.n_layers = map->n_layers, .n_experts = h->n_experts};
    memcpy(out->digest, map->digest, sizeof out->digest);
    if (notes_dir && !notes_dir[0]) return DS4_OK;
    out->rates = mem_zalloc((size_t)out->n_layers * out->n_experts, sizeof *out->rates);
    if (!out->rates) return err_set(error, DS4_ERR_NOMEM, "no memory for notes about experts");
    for (int place = 0; place < 2; place++) {
        struct ds4_error ignored = {0};
        if (!notes_place(place, model_path, notes_dir, out->digest, path)) continue;
        enum ds4_status status = notes_read(path, out, &ignored);
        if (status == DS4_OK) return DS4_OK;
        if (status == DS4_ERR_NOMEM) return err_set(error, status, "no memory for notes about experts");
    }
    return DS4_OK;
}

enum ds4_status engine_write_notes(const char *model_path, const char *notes_dir, const struct notes *notes,
                                   struct ds4_error *error)
{
    char path[NOTES_PATH_BYTES];
    if (notes_place(0, model_path, notes_dir, notes->digest, path) && notes_write(path, notes, NULL) == DS4_OK)
        return DS4_OK;
    if (!notes_place(1, model_path, notes_dir, notes->digest, path)) return DS4_OK;
    TRY(file_make_parents(path, error));
    return notes_write(path, notes, error);
}

/* ---- the pool ----------------------------------------------------------------------------------------------- */

struct ds4_speed engine_speed(const struct notes *notes)
{
    double ratio = notes->compute_ratio > 0 ? notes->compute_ratio : 1;
    return (struct ds4_speed){notes->disk_bytes_per_s, notes->dense_seconds * ratio, notes->expert_seconds * ratio,
                              notes->wait_seconds};
}

static double predict(const struct ds4_engine *e, const struct ds4_plan *plan)
{
    struct ds4_speed speed = engine_speed(&e->notes);
    return ds4_plan_tps(plan, &speed);
}

enum ds4_status engine_map_experts(struct ds4_engine *e, struct ds4_error *error)
{
    e->experts = mem_alloc(1, sizeof *e->experts);
    if (!e->experts) return err_set(error, DS4_ERR_NOMEM, "no memory for the map of experts");
    return expert_map_make(e->file, e->mtp_file, &e->h, e->experts, error);
}

enum ds4_status engine_start_stream(struct ds4_engine *e, const struct ds4_plan *plan, struct ds4_error *error)
{
    if (!e->experts) TRY(engine_map_experts(e, error)); /* else some layers are on a device */
    struct stream_config config = expert_map_config(e->experts, &e->h, e->settings.chunk_tokens);
    config.budget_bytes = plan->expert_cache_bytes;
    config.reserve_bytes = engine_reserve_bytes() / 2; /* auto leaves all of it */
    config.hot_bytes = plan->mapped_hot_bytes;
    config.paranoid = e->settings.paranoid;
    TRY(stream_create(&config, &e->stream, error));
    if (e->settings.gpu_host && !e->settings.device_bytes) {
        struct stream_pool pool = stream_pool(e->stream);
        TRY(backend_gpu_share(e->backend, e->h.n_experts, e->settings.chunk_tokens * e->h.n_used, pool.memory,
                              pool.slot_bytes, pool.n_slots, error));
    }
    weights_set_stream(e->weights, e->stream, e->experts->layers, e->h.n_layers);
    TRY(engine_read_notes(e->model_path, e->settings.notes_dir, e->experts, &e->h, &e->notes, error));
    if (e->notes.tokens > 0) stream_set_rates(e->stream, e->notes.rates, e->notes.tokens);
    e->predicted_tps = predict(e, plan);
    if (e->notes.tokens >= TOKENS_LEAST) e->predicted_hits = plan->expert_hit_rate;
    return DS4_OK;
}

static double within(double value, double least, double most)
{
    return value < least ? least : value > most ? most : value;
}

/* How the last tokens came out, beside what was expected of them: the next prediction begins with that. */
static void learn(struct ds4_engine *e)
{
    struct stream_figures f;
    stream_figures(e->stream, &f);
    const struct stream_decoding *d = &f.decoding;
    struct notes *notes = &e->notes;
    double missed = d->ahead + d->misses, asked = d->hits + missed;
    double computing = notes->dense_seconds + e->h.n_layers * e->h.n_used * notes->expert_seconds;
    if (d->n < TOKENS_LEAST) return;
    if (missed > 0) notes->ahead_share = d->ahead / missed;
    if (missed > 0) notes->vain_share = within(d->reads / missed - 1, 0, 4);
    if (e->predicted_hits > 0) {
        double before = notes->hit_ratio > 0 ? notes->hit_ratio : 1;
        notes->hit_ratio = within(d->hits / asked / e->predicted_hits * before, 0.5, 1.5);
    }
    if (computing > 0) notes->compute_ratio = within((d->seconds - d->stall_seconds) / d->n / computing, 0.5, 4);
}

void engine_stop_stream(struct ds4_engine *e)
{
    double before = e->notes.tokens;
    if (e->stream && e->notes.rates) {
        learn(e);
        stream_get_rates(e->stream, e->notes.rates, &e->notes.tokens);
        if (e->notes.tokens > before) /* when it cannot be kept, the next run learns it again */
            (void)!engine_write_notes(e->model_path, e->settings.notes_dir, &e->notes, NULL);
    }
    stream_destroy(e->stream);
    e->stream = NULL;
}

void ds4_engine_expert_figures(const struct ds4_engine *e, struct ds4_expert_figures *out)
{
    struct stream_figures f;
    *out = (struct ds4_expert_figures){0};
    if (!e->stream) return;
    stream_figures(e->stream, &f);
    *out = (struct ds4_expert_figures){
        .n_hits = f.n_hits, .n_ahead = f.n_ahead, .n_misses = f.n_misses, .read_bytes = f.read_bytes,
        .cache_bytes = f.bytes, .read_seconds = f.read_seconds, .stall_seconds = f.stall_seconds,
        .n_slots = f.n_slots, .n_slots_now = f.n_slots_now, .predicted_tps = e->predicted_tps,
    };
}
