/* experts.c - streaming of routed experts, as the engine sees it: the pool is made as planned, and what it learns about
 * the use of experts is kept on disk from run to run. */
#include <stdio.h>

#include "base/mem.h"
#include "engine/engine.h"

enum ds4_status engine_start_stream(struct ds4_engine *e, const struct ds4_plan *plan, struct ds4_error *error)
{
    e->experts = mem_alloc(1, sizeof *e->experts);
    if (!e->experts) return err_set(error, DS4_ERR_NOMEM, "no memory for the map of experts");
    TRY(expert_map_make(e->file, e->mtp_file, &e->h, e->experts, error));
    struct stream_config config = expert_map_config(e->experts, &e->h, e->settings.chunk_tokens);
    config.budget_bytes = plan->expert_cache_bytes;
    config.reserve_bytes = engine_reserve_bytes();
    config.paranoid = e->settings.paranoid;
    TRY(stream_create(&config, &e->stream, error));
    weights_set_stream(e->weights, e->stream, e->h.n_layers);
    return DS4_OK;
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
        .n_slots = f.n_slots, .n_slots_now = f.n_slots_now,
    };
}
