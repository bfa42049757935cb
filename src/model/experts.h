/* experts.h - where the routed experts of a model lie in its files, for the pool that streams them. */
#ifndef DS4_MODEL_EXPERTS_H
#define DS4_MODEL_EXPERTS_H

#include "gguf/gguf.h"
#include "model/hparams.h"
#include "stream/stream.h"

/* Large: on the heap. Borrows paths from the files. */
struct expert_map {
    struct stream_file files[STREAM_FILES_MAX];
    uint32_t n_files, n_layers; /* n_layers: of the trunk, and one for the draft block */
    struct stream_layer layers[HPARAMS_LAYERS_MAX + 1];
    uint8_t digest[16]; /* identity of the experts, for statistics about them */
};

/* From the directory alone. mtp_file may be NULL. Tensors that weights_load would refuse are left out. UNSUPPORTED when
 * there are too many files or they are not on disk. */
enum ds4_status expert_map_make(const struct gguf_file *file, const struct gguf_file *mtp_file,
                                const struct hparams *h, struct expert_map *out,
                                struct ds4_error *error) DS4_MUST_CHECK;
/* A configuration without budgets, for batches of n_rows. Borrows the map. */
struct stream_config expert_map_config(const struct expert_map *map, const struct hparams *h, uint32_t n_rows);

#endif
