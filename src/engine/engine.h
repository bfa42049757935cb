/* engine.h - the struct behind ds4_engine: a loaded model and everything that sessions share. */
#ifndef DS4_ENGINE_ENGINE_H
#define DS4_ENGINE_ENGINE_H

#include "gpu/backend.h"
#include "gpu/residency.h"
#include "model/experts.h"
#include "session/session.h"
#include "stream/notes.h"
#include "text/vocab.h"

#define ENGINE_CTX_DEFAULT 32768u
#define ENGINE_CHUNK_DEFAULT 512u
#define ENGINE_CHUNK_MAX 8192u
#define ENGINE_SESSIONS_MAX 1024u

/* Options with every default filled in. */
struct engine_settings {
    const struct backend_ops *backend_ops;
    const struct gpu_host *gpu_host; /* NULL: the backend is one of the host */
    struct gpu *device;              /* open, when it had to be asked; for the backend, or engine_settings_close */
    enum op_row_format row_format;
    bool round, draft;
    uint32_t ctx_tokens, chunk_tokens, n_sessions, n_threads, n_drafts;
    uint64_t expert_cache_bytes; /* as in ds4_engine_options */
    uint64_t device_bytes;       /* of a device with memory of its own that may be used; 0: there is none */
    uint64_t shared_bytes, buffer_bytes_max; /* of the machine's that a device without may use, in all and at a time */
    bool paranoid;
    const char *notes_dir;       /* as in ds4_engine_options */
};

struct ds4_engine {
    struct gguf_file *file, *mtp_file;
    struct vocab *vocab;
    struct hparams h;
    struct engine_settings settings;
    struct thread_pool *pool;
    struct backend *backend;
    struct weights *weights;
    struct expert_map *experts; /* NULL: mapped */
    struct stream *stream;
    struct notes notes;         /* rates NULL: none are kept */
    double predicted_tps, predicted_hits; /* 0: nothing to predict from */
    char notes_dir[512];
    struct state_layout layout;
    struct graph *graph;
    struct session_host host;
    struct ds4_model_info info;
    struct ds4_state_layout public_layout;
    char model_path[512], quantisation[64];
};

/* Fills settings from options and the model's numbers. has_mtp: the file has a draft block. */
enum ds4_status engine_settle(const struct ds4_engine_options *options, const struct hparams *h, bool has_mtp,
                              struct engine_settings *out, struct ds4_error *error) DS4_MUST_CHECK;
/* Closes the device, when no backend took it; also after engine_settle failed. */
void engine_settings_close(struct engine_settings *settings);
/* The ledger for these settings. Allocates and frees the map of experts when they are to be streamed. */
enum ds4_status engine_plan(const struct gguf_file *file, const struct gguf_file *mtp_file, const struct hparams *h,
                            const struct engine_settings *settings, const struct state_layout *layout,
                            uint64_t budget_bytes, struct ds4_plan *out, struct ds4_error *error) DS4_MUST_CHECK;
/* Weights of the files in their places, shard by shard. */
struct placing {
    struct residency_piece *pieces; /* owns */
    size_t n, ends[2 * GGUF_SHARDS_MAX];
    uint32_t n_shards;
    struct residency sums;
};
/* streams: experts without room on the device come from disk, through the pool. Places matrices for which so many
 * bytes are left on the device and on the host. mtp_file may be NULL; draft: its block will be used. */
enum ds4_status engine_place(const struct gguf_file *file, const struct gguf_file *mtp_file, const struct hparams *h,
                             bool draft, bool streams, uint64_t device_bytes, uint64_t host_bytes,
                             struct placing *out, struct ds4_error *error) DS4_MUST_CHECK;
/* Leaves the layers in the map whose experts have no place on the device. */
void engine_keep_streamed(const struct placing *p, struct expert_map *map);
/* Names them to the backend. */
enum ds4_status engine_hand_over(const struct placing *p, struct backend *b, struct ds4_error *error) DS4_MUST_CHECK;
/* Fills all matrices with made-up values, on a device that holds all of them. */
enum ds4_status engine_make_up(const struct ds4_engine *e, uint64_t seed, struct ds4_error *error) DS4_MUST_CHECK;
/* True for tensors that are copied into memory when a model is loaded: vectors and tables. */
bool engine_is_copied(const struct gguf_tensor *t);
/* Memory that streaming leaves to the rest of the machine. */
uint64_t engine_reserve_bytes(void);
/* Notes about the experts of map from beside the model or from the settings' notes_dir. Afterwards notes->rates is the
 * caller's to free; NULL when none are to be kept; zeros when there are none yet. */
enum ds4_status engine_read_notes(const char *model_path, const char *notes_dir, const struct expert_map *map,
                                  const struct hparams *h, struct notes *out, struct ds4_error *error) DS4_MUST_CHECK;
enum ds4_status engine_write_notes(const char *model_path, const char *notes_dir, const struct notes *notes,
                                   struct ds4_error *error) DS4_MUST_CHECK;
/* What was measured, with computing as it turned out in the last decoding. */
struct ds4_speed engine_speed(const struct notes *notes);
/* Keeps what was learned; before the pool is destroyed. */
void engine_stop_stream(struct ds4_engine *e);
/* Where the experts lie in the files. */
enum ds4_status engine_map_experts(struct ds4_engine *e, struct ds4_error *error) DS4_MUST_CHECK;
/* Makes the pool as planned and gives the weights to it. */
enum ds4_status engine_start_stream(struct ds4_engine *e, const struct ds4_plan *plan,
                                    struct ds4_error *error) DS4_MUST_CHECK;
/* Identity of what state means: the model's bytes, as far as it can be had without reading them all, its numbers, its
 * vocabulary and the layout. */
enum ds4_status engine_digest(const struct ds4_engine *e, uint8_t digest[16], struct ds4_error *error) DS4_MUST_CHECK;
/* Identity of who computes: what the backend makes of fixed inputs, to the last bit; of a GPU its name and the
 * program's version. Sessions must not be in use: it computes. */
enum ds4_status engine_arithmetic(const struct ds4_engine *e, uint8_t digest[16],
                                  struct ds4_error *error) DS4_MUST_CHECK;
/* Fills both digests in: the first alone goes into tips, both together name what stores keep. */
enum ds4_status engine_identify(struct ds4_engine *e, struct ds4_error *error) DS4_MUST_CHECK;

#endif
