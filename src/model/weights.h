/* weights.h - the one door to weights: names -> (format, shape, address), checked against the model's numbers.
 *
 * Matrices stay where they are (pages of the mapped file); vectors of any float type become F32 in the backend's
 * memory. Nothing above knows which. Names: files of both publishers' families, see the table in weights.c. */
#ifndef DS4_MODEL_WEIGHTS_H
#define DS4_MODEL_WEIGHTS_H

#include "model/hparams.h"
#include "ops/backend.h"
#include "stream/stream.h"

/* Hyper-connection parameters of a sub-layer (n_mix outputs) or of a head (n_hc outputs). */
struct hc_weights {
    struct op_weight fn;       /* [n_mix or n_hc][n_hc n_embd] */
    const float *scale, *base; /* [3] and [n_mix], or [1] and [n_hc] */
};

struct compressor_weights {
    struct op_weight kv, gate; /* [width][n_embd] */
    const float *ape;          /* [ratio][width] */
    const float *norm;         /* [dim] */
};

struct layer_weights {
    struct hc_weights hc_attn, hc_ffn;
    const float *attn_norm, *ffn_norm;   /* [n_embd] */
    struct op_weight q_a;                /* [q_rank][n_embd] */
    const float *q_norm;                 /* [q_rank] */
    struct op_weight q_b;                /* [n_heads head_dim][q_rank] */
    struct op_weight kv;                 /* [head_dim][n_embd] */
    const float *kv_norm;                /* [head_dim] */
    const float *sinks;                  /* [n_heads] */
    struct op_weight o_a;                /* [o_groups o_rank][n_heads head_dim / o_groups] */
    struct op_weight o_b;                /* [n_embd][o_groups o_rank] */
    struct compressor_weights compressor, index_compressor; /* ratio != 0, ratio 4 */
    struct op_weight index_q_b;          /* [index_heads index_dim][q_rank] */
    struct op_weight index_proj;         /* [index_heads][n_embd] */
    struct op_weight router;             /* [n_experts][n_embd] */
    const float *router_bias;            /* [n_experts]; NULL in hash layers */
    const int32_t *hash;                 /* [n_vocab][n_used]; NULL elsewhere */
    struct op_weight gate_exps, up_exps; /* [n_experts][n_ff][n_embd] */
    struct op_weight down_exps;          /* [n_experts][n_embd][n_ff] */
    struct op_weight gate_shared, up_shared, down_shared;
};

struct mtp_weights { /* the draft block */
    struct layer_weights layer;
    struct op_weight e_proj, h_proj;     /* [n_embd][n_embd] */
    const float *e_norm, *h_norm, *norm; /* [n_embd] */
    struct hc_weights hc_head;
};

struct model_weights {
    struct op_weight embedding, output;  /* [n_vocab][n_embd] */
    const float *output_norm;
    struct hc_weights hc_head;
    const float *freq_plain, *freq_compressed; /* [n_rope/2] */
    struct stream *stream; /* of routed experts; NULL when they are mapped */
    bool has_mtp;
    struct mtp_weights mtp;
    struct layer_weights layers[HPARAMS_LAYERS_MAX];
    /* sums for the plan */
    uint64_t n_params, n_params_active, expert_bytes, dense_bytes, bytes_per_token, vector_bytes;
};

struct weights; /* owns the vectors' memory; borrows the files and the backend */

/* mtp_file may be NULL. Fails with FORMAT naming the tensor, what was found and what was expected. check: also look at
 * every scale of every quantised tensor. */
enum ds4_status weights_load(const struct gguf_file *file, const struct gguf_file *mtp_file, const struct hparams *h,
                             struct backend *backend, bool check, struct weights **out,
                             struct ds4_error *error) DS4_MUST_CHECK;
/* From now on routed experts are not read through the mapping but come from the pool (borrowed). */
void weights_set_stream(struct weights *w, struct stream *stream, const struct stream_layer *layers,
                        uint32_t n_layers);
/* Lets the backend lay out anew what only products read, once all is in its place. */
void weights_pack(struct weights *w, uint32_t n_layers);
const struct model_weights *weights_model(const struct weights *w);
void weights_free(struct weights *w);
/* True when the file (or mtp_file) has a draft block. */
bool weights_find_mtp(const struct gguf_file *file, const struct gguf_file *mtp_file, const struct hparams *h);

#endif
