/* placing.c - which tensors of a file lie on a device with memory of its own, and handing them over. The decision is
 * gpu/residency.h's; here are the pieces and what share of each a token reads. */
#include "base/mem.h"
#include "engine/engine.h"
#include "quant/quant.h"

bool engine_is_copied(const struct gguf_tensor *t)
{
    return t->dims[1] == 1 || span_find(t->name, SPAN("tid2eid"), 0) != SIZE_MAX ||
           span_find(t->name, SPAN("_ape"), 0) != SIZE_MAX;
}

static double share_of(const struct gguf_tensor *t, const struct hparams *h, bool draft)
{
    if (!draft && span_starts(t->name, SPAN("mtp."))) return 0; /* nothing reads it */
    if (t->dims[2] > 1) return (double)h->n_used / (double)t->dims[2];
    return span_starts(t->name, SPAN("token_embd")) ? 1 / (double)t->dims[1] : 1;
}

/* The number of the layer that routed experts belong to, from 1; the draft block is the last. 0: no such tensor. */
static uint32_t stack_of(const struct gguf_tensor *t, const struct hparams *h)
{
    uint32_t layer = 0;
    size_t at = 4;
    if (t->dims[2] <= 1) return 0;
    if (span_find(t->name, SPAN("blk."), 0) != 0) return h->n_layers + 1;
    for (; at < t->name.len && t->name.ptr[at] >= '0' && t->name.ptr[at] <= '9' && layer < h->n_layers; at++)
        layer = layer * 10 + (uint32_t)(t->name.ptr[at] - '0');
    return (layer < h->n_layers ? layer : h->n_layers) + 1;
}

/* The matrices of a shard in the order of their addresses. */
static void add_shard(struct placing *p, const struct gguf_file *file, uint32_t shard_i, const struct hparams *h,
                      bool draft, bool streams)
{
    size_t first = p->n;
    for (size_t i = 0; i < gguf_n_tensors(file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        if (t->shard_i != shard_i || !t->data || engine_is_copied(t)) continue;
        size_t at = p->n++;
        for (; at > first && p->pieces[at - 1].first > t->data; at--) p->pieces[at] = p->pieces[at - 1];
        p->pieces[at] = (struct residency_piece){t->data, t->size_bytes, share_of(t, h, draft), RESIDENCY_DISK,
                                                 streams ? stack_of(t, h) : 0};
    }
    p->ends[p->n_shards++] = p->n;
}

enum ds4_status engine_place(const struct gguf_file *file, const struct gguf_file *mtp_file, const struct hparams *h,
                             bool draft, bool streams, uint64_t device_bytes, uint64_t host_bytes, struct placing *out,
                             struct ds4_error *error)
{
    const struct gguf_file *files[2] = {file, draft ? mtp_file : NULL};
    *out = (struct placing){0};
    size_t n = (file ? gguf_n_tensors(file) : 0) + (files[1] ? gguf_n_tensors(files[1]) : 0);
    out->pieces = mem_zalloc(n, sizeof *out->pieces);
    if (!out->pieces) return err_set(error, DS4_ERR_NOMEM, "no memory to place weights");
    for (int f = 0; f < 2; f++)
        for (uint32_t i = 0; files[f] && i < gguf_n_shards(files[f]); i++)
            add_shard(out, files[f], i, h, draft, streams);
    residency_decide(out->pieces, out->n, device_bytes, host_bytes, &out->sums);
    return DS4_OK;
}

void engine_keep_streamed(const struct placing *p, struct expert_map *map)
{
    for (uint32_t l = 0; l < map->n_layers; l++) {
        bool streamed = false;
        for (size_t i = 0; i < p->n; i++)
            streamed |= p->pieces[i].stack == l + 1 && p->pieces[i].place == RESIDENCY_DISK;
        if (!streamed) map->layers[l].n_parts = 0;
    }
}

enum ds4_status engine_make_up(const struct ds4_engine *e, uint64_t seed, struct ds4_error *error)
{
    const struct gguf_file *files[2] = {e->file, e->settings.draft ? e->mtp_file : NULL};
    uint32_t number = 0;
    for (int f = 0; f < 2; f++) {
        for (size_t i = 0; files[f] && i < gguf_n_tensors(files[f]); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(files[f], i);
            if (!t->data || engine_is_copied(t)) continue;
            uint32_t own_seed = (uint32_t)(seed * 0x9E3779B1u) + ++number;
            TRY(backend_gpu_generate(e->backend, t->data, t->size_bytes, t->type, t->dims[0], own_seed, error));
        }
    }
    return DS4_OK;
}

enum ds4_status engine_hand_over(const struct placing *p, struct backend *b, struct ds4_error *error)
{
    for (uint32_t i = 0; i < p->n_shards; i++) {
        size_t first = i ? p->ends[i - 1] : 0, next = 0;
        struct residency_run run;
        while (residency_next_run(p->pieces + first, p->ends[i] - first, &next, &run))
            if (run.place != RESIDENCY_DISK)
                TRY(b->ops->map(b, run.first, (size_t)run.bytes, run.place == RESIDENCY_DEVICE, error));
    }
    return DS4_OK;
}
