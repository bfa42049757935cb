/* experts.c - the map of routed experts. Names of their tensors are the same in files of all publishers: PREFIX
 * ffn_{gate,up,down}_exps or ffn_gate_up_exps, see weights.c; PREFIX is blk.N., or mtp.0. for the draft block. */
#include "model/experts.h"

#include <stdio.h>

#include "base/hash.h"

static const char *const kinds[] = {"ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps"};

static const struct gguf_tensor *find(const struct gguf_file *file, const char *prefix, const char *kind)
{
    char name[96];
    (void)snprintf(name, sizeof name, "%s%s.weight", prefix, kind);
    const struct gguf_tensor *t = gguf_tensor_find(file, span_from(name));
    (void)snprintf(name, sizeof name, "%s%s", prefix, kind);
    return t ? t : gguf_tensor_find(file, span_from(name));
}

/* Parts in the order gate, up, down, or gate-and-up, down. */
static void add_layer(const struct gguf_file *file, uint32_t first_file, const char *prefix, const struct hparams *h,
                      struct stream_layer *out)
{
    *out = (struct stream_layer){0};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const struct gguf_tensor *t = find(file, prefix, kinds[k]);
        if (!t || t->dims[2] != h->n_experts || !t->data || out->n_parts == STREAM_PARTS_MAX) continue;
        out->parts[out->n_parts++] = (struct stream_part){first_file + t->shard_i, t->file_offset,
                                                          t->size_bytes / h->n_experts};
    }
}

static enum ds4_status add_files(const struct gguf_file *file, struct expert_map *map, struct ds4_error *error)
{
    for (uint32_t i = 0; i < gguf_n_shards(file); i++) {
        const struct file_id *id = gguf_shard_id(file, i);
        if (!id || map->n_files == STREAM_FILES_MAX)
            return err_set(error, DS4_ERR_UNSUPPORTED, "experts cannot be streamed: the model is not in 1 to %u files",
                           STREAM_FILES_MAX);
        map->files[map->n_files++] = (struct stream_file){gguf_shard_path(file, i), *id};
    }
    return DS4_OK;
}

enum ds4_status expert_map_make(const struct gguf_file *file, const struct gguf_file *mtp_file,
                                const struct hparams *h, struct expert_map *out, struct ds4_error *error)
{
    char prefix[32];
    *out = (struct expert_map){.n_layers = h->n_layers + 1};
    TRY(add_files(file, out, error));
    uint32_t first_mtp = out->n_files;
    if (mtp_file) TRY(add_files(mtp_file, out, error));
    for (uint32_t l = 0; l <= h->n_layers; l++) {
        (void)snprintf(prefix, sizeof prefix, "blk.%u.", l);
        add_layer(file, 0, prefix, h, &out->layers[l]);
    }
    struct stream_layer *draft = &out->layers[h->n_layers];
    if (draft->n_parts == 0) add_layer(file, 0, "mtp.0.", h, draft);
    if (mtp_file) {
        add_layer(mtp_file, first_mtp, "mtp.0.", h, draft);
        if (draft->n_parts == 0) add_layer(mtp_file, first_mtp, prefix, h, draft);
    }
    uint64_t sizes[4] = {h->n_layers, h->n_experts, gguf_file_bytes(file), gguf_n_tensors(file)};
    struct hash *hash = hash_create();
    if (!hash) return err_set(error, DS4_ERR_NOMEM, "no memory for a digest");
    hash_update(hash, sizes, sizeof sizes);
    for (uint32_t l = 0; l <= h->n_layers; l++)
        for (uint32_t p = 0; p < out->layers[l].n_parts; p++) {
            uint64_t at[2] = {out->layers[l].parts[p].offset, out->layers[l].parts[p].stack_bytes};
            hash_update(hash, at, sizeof at);
        }
    hash_digest(hash, out->digest);
    hash_destroy(hash);
    return DS4_OK;
}

struct stream_config expert_map_config(const struct expert_map *map, const struct hparams *h, uint32_t n_rows)
{
    return (struct stream_config){.n_files = map->n_files, .n_layers = map->n_layers, .n_experts = h->n_experts,
                                  .n_used = h->n_used, .files = map->files, .layers = map->layers,
                                  .n_rows_max = n_rows};
}
