/* hparams.c - metadata -> numbers, with checks. Keys and values: the deepseek4.* metadata of published files; the
 * constants of Flash and Pro are those of the official configurations. */
#include "model/hparams.h"

#include <math.h>
#include <stdio.h>

#define PREFIX "deepseek4."

enum key_kind { KEY_U32, KEY_F32 };

/* One row per scalar: key, where it goes, default when optional (< 0: required), range, values of Flash and Pro
 * (0: not compared). */
struct key_row {
    const char *key;
    enum key_kind kind;
    size_t offset;
    double fallback, min, max, flash, pro;
};

#define ROW(kind, key, field, ...) {PREFIX key, kind, offsetof(struct hparams, field), __VA_ARGS__}
static const struct key_row key_rows[] = {
    ROW(KEY_U32, "block_count", n_layers, -1, 1, HPARAMS_LAYERS_MAX, 43, 61),
    ROW(KEY_U32, "embedding_length", n_embd, -1, 32, HPARAMS_WIDTH_MAX, 4096, 7168),
    ROW(KEY_U32, "context_length", ctx_train, 1048576, 1, 1 << 24, 0, 0),
    ROW(KEY_U32, "attention.head_count", n_heads, -1, 1, 4096, 64, 128),
    ROW(KEY_U32, "attention.key_length", head_dim, -1, 66, 8192, 512, 512),
    ROW(KEY_U32, "rope.dimension_count", n_rope, -1, 2, 4096, 64, 64),
    ROW(KEY_U32, "attention.q_lora_rank", q_rank, -1, 32, HPARAMS_WIDTH_MAX, 1024, 1536),
    ROW(KEY_U32, "attention.output_lora_rank", o_rank, -1, 1, HPARAMS_WIDTH_MAX, 1024, 1024),
    ROW(KEY_U32, "attention.output_group_count", o_groups, -1, 1, 4096, 8, 16),
    ROW(KEY_U32, "attention.sliding_window", window, -1, 1, HPARAMS_WINDOW_MAX, 128, 128),
    ROW(KEY_U32, "attention.indexer.head_count", index_heads, 0, 0, 4096, 64, 64),
    ROW(KEY_U32, "attention.indexer.key_length", index_dim, 0, 0, 4096, 128, 128),
    ROW(KEY_U32, "attention.indexer.top_k", index_top_k, 0, 0, 1 << 20, 512, 1024),
    ROW(KEY_U32, "expert_count", n_experts, -1, 1, HPARAMS_EXPERTS_MAX, 256, 384),
    ROW(KEY_U32, "expert_used_count", n_used, -1, 1, HPARAMS_USED_MAX, 6, 6),
    ROW(KEY_U32, "expert_shared_count", n_shared, 1, 1, 1, 1, 1),
    ROW(KEY_U32, "expert_feed_forward_length", n_ff, -1, 1, HPARAMS_WIDTH_MAX, 2048, 3072),
    ROW(KEY_U32, "hash_layer_count", n_hash_layers, 0, 0, HPARAMS_LAYERS_MAX, 3, 3),
    ROW(KEY_U32, "hyper_connection.count", n_hc, -1, 1, HPARAMS_HC_MAX, 4, 4),
    ROW(KEY_U32, "hyper_connection.sinkhorn_iterations", hc_iters, -1, 1, 1000, 20, 20),
    ROW(KEY_U32, "rope.scaling.original_context_length", yarn_orig_ctx, 65536, 1, 1 << 24, 65536, 65536),
    ROW(KEY_F32, "hyper_connection.epsilon", hc_eps, -1, 0, 1, 1e-6, 1e-6),
    ROW(KEY_F32, "attention.layer_norm_rms_epsilon", rms_eps, -1, 0, 1, 1e-6, 1e-6),
    ROW(KEY_F32, "expert_weights_scale", expert_scale, -1, 1e-6, 1e6, 1.5, 2.5),
    ROW(KEY_F32, "rope.freq_base", rope_base, 10000, 1, 1e12, 10000, 10000),
    ROW(KEY_F32, "attention.compress_rope_freq_base", rope_base_compressed, 160000, 1, 1e12, 160000, 160000),
    ROW(KEY_F32, "rope.scaling.factor", yarn_factor, 16, 1, 1e6, 16, 16),
    ROW(KEY_F32, "rope.scaling.yarn_beta_fast", yarn_beta_fast, 32, 1e-3, 1e6, 32, 32),
    ROW(KEY_F32, "rope.scaling.yarn_beta_slow", yarn_beta_slow, 1, 1e-3, 1e6, 1, 1),
};
#define N_KEY_ROWS (sizeof key_rows / sizeof key_rows[0])

static enum ds4_status read_row(const struct gguf_file *file, const struct key_row *row, struct hparams *h,
                                struct ds4_error *error)
{
    uint32_t u = 0;
    float f = 0;
    void *field = (char *)h + row->offset;
    enum ds4_status status = row->kind == KEY_U32 ? gguf_get_u32(file, row->key, &u, error)
                                                  : gguf_get_f32(file, row->key, &f, error);
    double value = row->kind == KEY_U32 ? u : (double)f;
    if (status == DS4_ERR_STATE) {
        if (row->fallback < 0)
            return err_set(error, DS4_ERR_FORMAT, "metadata lacks %s, which every deepseek4 model has", row->key);
        value = row->fallback;
    } else if (status != DS4_OK) {
        return status;
    }
    if (!(value >= row->min && value <= row->max))
        return err_set(error, DS4_ERR_FORMAT, "%s is %g; expected %g to %g", row->key, value, row->min, row->max);
    if (row->kind == KEY_U32)
        *(uint32_t *)field = (uint32_t)value;
    else
        *(float *)field = (float)value;
    return DS4_OK;
}

static enum ds4_status read_ratios(const struct gguf_file *file, struct hparams *h, struct ds4_error *error)
{
    const char *key = PREFIX "attention.compress_ratios";
    const struct gguf_value *value = gguf_find(file, key);
    if (!value) return err_set(error, DS4_ERR_FORMAT, "metadata lacks %s", key);
    if (value->count < h->n_layers)
        return err_set(error, DS4_ERR_FORMAT, "%s has %llu entries for %u layers", key,
                       (unsigned long long)value->count, h->n_layers);
    for (uint32_t l = 0; l < h->n_layers; l++) {
        int64_t ratio;
        if (gguf_item_i64(value, l, &ratio) != DS4_OK)
            return err_set(error, DS4_ERR_FORMAT, "%s does not hold integers", key);
        if (ratio != 0 && ratio != 4 && ratio != 128)
            return err_set(error, DS4_ERR_FORMAT, "%s[%u] is %lld; expected 0, 4 or 128", key, l, (long long)ratio);
        h->ratio[l] = (uint32_t)ratio;
    }
    return DS4_OK;
}

/* A clamp key may be a scalar or an array with an entry per layer; absent: fallback[l], else 10. */
static enum ds4_status read_limits(const struct gguf_file *file, const char *key, const float *fallback, float *out,
                                   uint32_t n_layers, struct ds4_error *error)
{
    const struct gguf_value *value = gguf_find(file, key);
    if (value && value->type == GGUF_ARRAY && value->count < n_layers)
        return err_set(error, DS4_ERR_FORMAT, "%s has %llu entries for %u layers", key,
                       (unsigned long long)value->count, n_layers);
    for (uint32_t l = 0; l < n_layers; l++) {
        double limit = fallback ? (double)fallback[l] : 10.0;
        if (value && (gguf_item_f64(value, value->type == GGUF_ARRAY ? l : 0, &limit) != DS4_OK || !(limit > 0) ||
                      !(limit < 1e30)))
            return err_set(error, DS4_ERR_FORMAT, "%s[%u] is not a positive number", key, l);
        out[l] = (float)limit;
    }
    return DS4_OK;
}

static enum ds4_status check_flags(const struct gguf_file *file, struct ds4_error *error)
{
    static const struct { const char *key; uint32_t expected; } numbers[] = {
        {PREFIX "attention.head_count_kv", 1}, {PREFIX "expert_gating_func", 4},
        {PREFIX "expert_group_count", 0}, {PREFIX "expert_group_used_count", 0},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        uint32_t value;
        enum ds4_status status = gguf_get_u32(file, numbers[i].key, &value, error);
        if (status == DS4_ERR_STATE) continue;
        TRY(status);
        if (value != numbers[i].expected)
            return err_set(error, DS4_ERR_UNSUPPORTED, "%s is %u; this engine computes %u only", numbers[i].key, value,
                           numbers[i].expected);
    }
    bool norm = true, pruned = false;
    enum ds4_status status = gguf_get_bool(file, PREFIX "expert_weights_norm", &norm, error);
    if (status != DS4_OK && status != DS4_ERR_STATE) return status;
    if (!norm) return err_set(error, DS4_ERR_UNSUPPORTED, PREFIX "expert_weights_norm is false; only true is known");
    if (gguf_get_bool(file, "reap.enabled", &pruned, NULL) == DS4_OK && pruned)
        return err_set(error, DS4_ERR_UNSUPPORTED, "this is a pruned (REAP) file: its expert count differs by layer");
    struct ds4_span scaling;
    status = gguf_get_string(file, PREFIX "rope.scaling.type", &scaling, error);
    if (status == DS4_ERR_STATE) return DS4_OK;
    TRY(status);
    if (!span_eq(scaling, SPAN("yarn")))
        return err_set(error, DS4_ERR_UNSUPPORTED, PREFIX "rope.scaling.type is not \"yarn\", the only one known");
    return DS4_OK;
}

static enum ds4_status bad_shape(struct ds4_error *error, const char *sentence, uint32_t a, uint32_t b)
{
    return err_set(error, DS4_ERR_FORMAT, "inconsistent model: %s (%u and %u)", sentence, a, b);
}

static enum ds4_status check_shapes(const struct hparams *h, struct ds4_error *error)
{
    bool any_csa = false;
    for (uint32_t l = 0; l < h->n_layers; l++) any_csa |= h->ratio[l] == 4;
    if (h->n_rope % 2) return bad_shape(error, "rope dimension is odd", h->n_rope, 0);
    if (h->head_dim <= h->n_rope || (h->head_dim - h->n_rope) % OP_KV_BLOCK)
        return bad_shape(error, "head size minus rope size is not a multiple of 64", h->head_dim, h->n_rope);
    if (h->n_heads % h->o_groups)
        return bad_shape(error, "heads do not divide into output groups", h->n_heads, h->o_groups);
    if (h->n_used > h->n_experts) return bad_shape(error, "more experts used than there are", h->n_used, h->n_experts);
    if (h->n_hash_layers > h->n_layers)
        return bad_shape(error, "more hash layers than layers", h->n_hash_layers, h->n_layers);
    if (!any_csa) return DS4_OK;
    if (!h->index_heads || !h->index_top_k)
        return bad_shape(error, "ratio-4 layers without an indexer", h->index_heads, h->index_top_k);
    if (h->index_dim < OP_INDEX_BLOCK || (h->index_dim & (h->index_dim - 1)))
        return bad_shape(error, "indexer dimension is not a power of two of at least 32", h->index_dim, 0);
    if (h->index_dim < h->n_rope)
        return bad_shape(error, "indexer dimension below rope dimension", h->index_dim, h->n_rope);
    return DS4_OK;
}

/* A file that has the layers and width of a known member must have all its numbers. */
static enum ds4_status check_family(struct hparams *h, struct ds4_error *error)
{
    bool flash = h->n_layers == 43 && h->n_embd == 4096, pro = h->n_layers == 61 && h->n_embd == 7168;
    h->family = flash ? "flash" : pro ? "pro" : "custom";
    if (!flash && !pro) return DS4_OK;
    for (size_t i = 0; i < N_KEY_ROWS; i++) {
        const struct key_row *row = &key_rows[i];
        double want = flash ? row->flash : row->pro;
        const void *field = (const char *)h + row->offset;
        double got = row->kind == KEY_U32 ? *(const uint32_t *)field : (double)*(const float *)field;
        if (want != 0 && fabs(got - want) > 1e-6 * fmax(1, fabs(want)))
            return err_set(error, DS4_ERR_FORMAT, "%s is %g; DeepSeek V4 %s has %g", row->key, got,
                           flash ? "Flash" : "Pro", want);
    }
    return DS4_OK;
}

static enum ds4_status read_vocab_size(const struct gguf_file *file, struct hparams *h, struct ds4_error *error)
{
    const struct gguf_value *tokens = gguf_find(file, "tokenizer.ggml.tokens");
    enum ds4_status status = gguf_get_u32(file, PREFIX "vocab_size", &h->n_vocab, error);
    if (status == DS4_ERR_STATE) {
        if (!tokens)
            return err_set(error, DS4_ERR_FORMAT, "metadata lacks " PREFIX "vocab_size and tokenizer.ggml.tokens");
        h->n_vocab = tokens->count > UINT32_MAX ? 0 : (uint32_t)tokens->count;
    } else {
        TRY(status);
    }
    if (tokens && tokens->count != h->n_vocab)
        return err_set(error, DS4_ERR_FORMAT, PREFIX "vocab_size is %u but tokenizer.ggml.tokens has %llu entries",
                       h->n_vocab, (unsigned long long)tokens->count);
    if (h->n_vocab < 1 || h->n_vocab > (1u << 24))
        return err_set(error, DS4_ERR_FORMAT, "vocabulary of %u tokens; expected 1 to 16777216", h->n_vocab);
    return DS4_OK;
}

enum ds4_status hparams_read(const struct gguf_file *file, struct hparams *out, struct ds4_error *error)
{
    *out = (struct hparams){0};
    struct ds4_span architecture, name;
    enum ds4_status status = gguf_get_string(file, "general.architecture", &architecture, error);
    if (status == DS4_ERR_STATE) return err_set(error, DS4_ERR_FORMAT, "metadata lacks general.architecture");
    TRY(status);
    if (!span_eq(architecture, SPAN("deepseek4")))
        return err_set(error, DS4_ERR_UNSUPPORTED, "architecture is \"%.*s\"; this engine runs \"deepseek4\" only",
                       (int)(architecture.len > 64 ? 64 : architecture.len), architecture.ptr);
    if (gguf_get_string(file, "general.name", &name, NULL) == DS4_OK)
        (void)snprintf(out->name, sizeof out->name, "%.*s",
                       (int)(name.len < HPARAMS_NAME_BYTES ? name.len : HPARAMS_NAME_BYTES - 1), name.ptr);
    for (size_t i = 0; i < N_KEY_ROWS; i++) TRY(read_row(file, &key_rows[i], out, error));
    /* Some converters count the draft block as a layer. */
    if (out->n_layers == 44 && gguf_tensor_find(file, SPAN("blk.43.nextn.eh_proj.weight"))) out->n_layers = 43;
    TRY(read_vocab_size(file, out, error));
    TRY(check_flags(file, error));
    TRY(read_ratios(file, out, error));
    TRY(read_limits(file, PREFIX "swiglu_clamp_exp", NULL, out->limit_routed, out->n_layers, error));
    TRY(read_limits(file, PREFIX "swiglu_clamp_shexp", out->limit_routed, out->limit_shared, out->n_layers, error));
    TRY(check_shapes(out, error));
    return check_family(out, error);
}
