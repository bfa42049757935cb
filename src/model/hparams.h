/* hparams.h - the numbers of a model: read from metadata, checked, never assumed.
 * Known members of the family (Flash, Pro) are compared key by key; any other configuration that is consistent in
 * itself is accepted, so fixtures of every shape can run. */
#ifndef DS4_MODEL_HPARAMS_H
#define DS4_MODEL_HPARAMS_H

#include "gguf/gguf.h"
#include "ops/args.h"

/* Bounds that keep sizes of hostile files computable; generous against every real member (Pro: 61, 128, 384). */
#define HPARAMS_LAYERS_MAX 256u
#define HPARAMS_EXPERTS_MAX 4096u
#define HPARAMS_HC_MAX 8u
#define HPARAMS_WIDTH_MAX (1u << 20)
#define HPARAMS_WINDOW_MAX (1u << 16)
#define HPARAMS_USED_MAX 64u
#define HPARAMS_NAME_BYTES 96

struct hparams {
    char name[HPARAMS_NAME_BYTES];   /* general.name, cut */
    const char *family;              /* "flash", "pro" or "custom" */
    uint32_t n_layers, n_vocab, n_embd, n_heads, head_dim, n_rope;
    uint32_t q_rank, o_groups, o_rank, window, ctx_train;
    uint32_t n_hc, hc_iters;
    float hc_eps, rms_eps;
    uint32_t index_heads, index_dim, index_top_k;
    uint32_t n_experts, n_used, n_ff, n_shared, n_hash_layers;
    float expert_scale;
    float rope_base, rope_base_compressed; /* layers without / with compression */
    float yarn_factor, yarn_beta_fast, yarn_beta_slow;
    uint32_t yarn_orig_ctx;
    uint32_t ratio[HPARAMS_LAYERS_MAX];         /* 0, 4 or 128 */
    float limit_routed[HPARAMS_LAYERS_MAX];     /* SwiGLU clamp */
    float limit_shared[HPARAMS_LAYERS_MAX];
};

/* Errors: FORMAT or UNSUPPORTED, naming the key, what stands there and what is expected. */
enum ds4_status hparams_read(const struct gguf_file *file, struct hparams *out, struct ds4_error *error) DS4_MUST_CHECK;

/* Number of hyper-connection coefficients of a sub-layer: pre + post + comb. */
static inline uint32_t hparams_n_mix(const struct hparams *h) { return h->n_hc * (2 + h->n_hc); }

#endif
