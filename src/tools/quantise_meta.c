/* quantise_meta.c - metadata of the output, from config.json and tokenizer.json of a checkpoint or the GGUF source.
 *
 * Every key that this engine or another reader of the architecture insists on is written. JSON is hostile input: sizes
 * are limited, types and ranges are checked, and what is missing is named. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/mem.h"
#include "tools/quantise.h"

#define JSON_FILE_BYTES_MAX ((size_t)64 << 20) /* the published tokenizer.json has 8 MB */
#define VOCAB_MAX 1000000u
#define LAYERS_MAX 1024u

struct meta {
    const struct quantise_source *source;
    struct gguf_writer *writer;
    struct ds4_error *error;
    struct hash *hash;
    json_t *config, *tokenizer;
    uint32_t n_layers, n_vocab;
    struct ds4_span *tokens; /* [n_vocab] */
    int32_t *types;          /* [n_vocab] 0: no token yet */
};

static enum ds4_status bad(const struct meta *m, const char *key, const char *what)
{
    return err_set(m->error, DS4_ERR_FORMAT, "%s: %.80s %s", m->source->path, key, what);
}

static enum ds4_status load(struct meta *m, const char *name, json_t **out)
{
    char path[4096];
    struct ds4_text text = {0};
    json_error_t why;
    int n = snprintf(path, sizeof path, "%s/%s", m->source->path, name);
    if (n < 0 || (size_t)n >= sizeof path) return bad(m, name, "has too long a path");
    TRY(file_read_all(path, JSON_FILE_BYTES_MAX, &text, m->error));
    hash_update(m->hash, text.ptr, text.len);
    if (text.len > 0 && !memchr(text.ptr, 0, text.len))
        *out = json_loadb(text.ptr, text.len, JSON_REJECT_DUPLICATES, &why);
    ds4_text_free(&text);
    return json_is_object(*out) ? DS4_OK : bad(m, name, "is no JSON object");
}

/* ---- config.json -------------------------------------------------------------------------------------------- */

enum value_kind { VALUE_COUNT, VALUE_REAL };
/* fallback < 0: required. A key "a/b" lies in an object of the configuration. */
static const struct row {
    const char *json, *key;
    enum value_kind kind;
    double fallback;
} rows[] = {
    {"num_hidden_layers", "deepseek4.block_count", VALUE_COUNT, -1},
    {"max_position_embeddings", "deepseek4.context_length", VALUE_COUNT, 1048576},
    {"hidden_size", "deepseek4.embedding_length", VALUE_COUNT, -1},
    {"vocab_size", "deepseek4.vocab_size", VALUE_COUNT, -1},
    {"num_attention_heads", "deepseek4.attention.head_count", VALUE_COUNT, -1},
    {"num_key_value_heads", "deepseek4.attention.head_count_kv", VALUE_COUNT, 1},
    {"head_dim", "deepseek4.attention.key_length", VALUE_COUNT, -1},
    {"head_dim", "deepseek4.attention.value_length", VALUE_COUNT, -1},
    {"qk_rope_head_dim", "deepseek4.rope.dimension_count", VALUE_COUNT, -1},
    {"q_lora_rank", "deepseek4.attention.q_lora_rank", VALUE_COUNT, -1},
    {"o_lora_rank", "deepseek4.attention.output_lora_rank", VALUE_COUNT, -1},
    {"o_groups", "deepseek4.attention.output_group_count", VALUE_COUNT, -1},
    {"sliding_window", "deepseek4.attention.sliding_window", VALUE_COUNT, -1},
    {"index_n_heads", "deepseek4.attention.indexer.head_count", VALUE_COUNT, -1},
    {"index_head_dim", "deepseek4.attention.indexer.key_length", VALUE_COUNT, -1},
    {"index_topk", "deepseek4.attention.indexer.top_k", VALUE_COUNT, -1},
    {"moe_intermediate_size", "deepseek4.expert_feed_forward_length", VALUE_COUNT, -1},
    {"n_routed_experts", "deepseek4.expert_count", VALUE_COUNT, -1},
    {"n_shared_experts", "deepseek4.expert_shared_count", VALUE_COUNT, 1},
    {"num_experts_per_tok", "deepseek4.expert_used_count", VALUE_COUNT, -1},
    {"num_hash_layers", "deepseek4.hash_layer_count", VALUE_COUNT, -1},
    {"num_nextn_predict_layers", "deepseek4.nextn_predict_layers", VALUE_COUNT, 0},
    {"hc_mult", "deepseek4.hyper_connection.count", VALUE_COUNT, -1},
    {"hc_sinkhorn_iters", "deepseek4.hyper_connection.sinkhorn_iterations", VALUE_COUNT, -1},
    {"hc_eps", "deepseek4.hyper_connection.epsilon", VALUE_REAL, -1},
    {"rms_norm_eps", "deepseek4.attention.layer_norm_rms_epsilon", VALUE_REAL, -1},
    {"routed_scaling_factor", "deepseek4.expert_weights_scale", VALUE_REAL, -1},
    {"rope_theta", "deepseek4.rope.freq_base", VALUE_REAL, 10000},
    {"compress_rope_theta", "deepseek4.attention.compress_rope_freq_base", VALUE_REAL, 160000},
    {"rope_scaling/factor", "deepseek4.rope.scaling.factor", VALUE_REAL, 16},
    {"rope_scaling/beta_fast", "deepseek4.rope.scaling.yarn_beta_fast", VALUE_REAL, 32},
    {"rope_scaling/beta_slow", "deepseek4.rope.scaling.yarn_beta_slow", VALUE_REAL, 1},
    {"rope_scaling/original_max_position_embeddings", "deepseek4.rope.scaling.original_context_length", VALUE_COUNT,
     65536},
};

static const json_t *config_at(const struct meta *m, const char *key)
{
    const char *slash = strchr(key, '/');
    char outer[32];
    if (!slash) return json_object_get(m->config, key);
    (void)snprintf(outer, sizeof outer, "%.*s", (int)(slash - key), key);
    return json_object_get(json_object_get(m->config, outer), slash + 1);
}

static enum ds4_status put_row(const struct meta *m, const struct row *row)
{
    const json_t *value = config_at(m, row->json);
    double v = row->fallback;
    if (!value && v < 0) return bad(m, row->json, "is missing in config.json");
    if (value && !json_is_number(value)) return bad(m, row->json, "is no number in config.json");
    if (value) v = json_number_value(value);
    bool fits = row->kind == VALUE_REAL ? isfinite(v) && fabs(v) < 1e30 : v >= 0 && v <= UINT32_MAX && v == floor(v);
    if (!fits) return bad(m, row->json, "is out of range in config.json");
    if (row->kind == VALUE_REAL) gguf_put_f32(m->writer, row->key, (float)v);
    else gguf_put_u32(m->writer, row->key, (uint32_t)v);
    return DS4_OK;
}

static enum ds4_status put_arrays(struct meta *m)
{
    int32_t ratios[LAYERS_MAX];
    float limits[LAYERS_MAX];
    const json_t *list = config_at(m, "compress_ratios"), *limit = config_at(m, "swiglu_limit");
    size_t n = json_array_size(list);
    if (n < m->n_layers || n > LAYERS_MAX) return bad(m, "compress_ratios", "has not one entry for each layer");
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        if (!json_is_integer(item) || json_integer_value(item) < 0 || json_integer_value(item) > 65536)
            return bad(m, "compress_ratios", "holds something that is no ratio");
        ratios[i] = (int32_t)json_integer_value(item);
    }
    double value = limit ? json_number_value(limit) : 10;
    if (!(value > 0 && value < 1e30)) return bad(m, "swiglu_limit", "is no positive number");
    for (size_t i = 0; i < m->n_layers; i++) limits[i] = (float)value;
    gguf_put_array_i32(m->writer, "deepseek4.attention.compress_ratios", ratios, n);
    gguf_put_array_f32(m->writer, "deepseek4.swiglu_clamp_exp", limits, m->n_layers);
    return DS4_OK;
}

static enum ds4_status check_text(const struct meta *m, const char *key, const char *wanted)
{
    const char *text = json_string_value(config_at(m, key));
    return !text || strcmp(text, wanted) == 0 ? DS4_OK : bad(m, key, "has a value that is not known here");
}

static enum ds4_status put_config(struct meta *m)
{
    struct gguf_writer *w = m->writer;
    char label[48];
    const json_t *layers = config_at(m, "num_hidden_layers"), *vocab = config_at(m, "vocab_size");
    json_int_t n_layers = json_integer_value(layers), n_vocab = json_integer_value(vocab);
    json_int_t n_experts = json_integer_value(config_at(m, "n_routed_experts"));
    json_int_t n_embd = json_integer_value(config_at(m, "hidden_size"));
    if (n_layers < 1 || n_layers > (json_int_t)LAYERS_MAX) return bad(m, "num_hidden_layers", "is out of range");
    if (n_vocab < 1 || n_vocab > (json_int_t)VOCAB_MAX) return bad(m, "vocab_size", "is out of range");
    m->n_layers = (uint32_t)n_layers;
    m->n_vocab = (uint32_t)n_vocab;
    TRY(check_text(m, "scoring_func", "sqrtsoftplus"));
    TRY(check_text(m, "rope_scaling/type", "yarn"));
    bool flash = n_layers == 43 && n_embd == 4096 && n_experts == 256;
    (void)snprintf(label, sizeof label, flash ? "256x8.4B" : "%lldx%lld", (long long)n_experts, (long long)n_embd);
    gguf_put_string(w, "general.architecture", SPAN("deepseek4"));
    gguf_put_string(w, "general.type", SPAN("model"));
    gguf_put_string(w, "general.name", flash ? SPAN("DeepSeek V4 Flash") : SPAN("DeepSeek V4"));
    gguf_put_string(w, "general.size_label", span_from(label));
    gguf_put_u32(w, "general.quantization_version", 2);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) TRY(put_row(m, &rows[i]));
    TRY(put_arrays(m));
    gguf_put_string(w, "deepseek4.rope.scaling.type", SPAN("yarn"));
    gguf_put_u32(w, "deepseek4.expert_gating_func", 4);
    const json_t *norm = config_at(m, "norm_topk_prob");
    gguf_put_bool(w, "deepseek4.expert_weights_norm", !norm || json_is_true(norm));
    return DS4_OK;
}

/* ---- tokenizer.json ----------------------------------------------------------------------------------------- */

static enum ds4_status put_token(struct meta *m, const json_t *id, const char *text, size_t len, int32_t type)
{
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= (json_int_t)m->n_vocab)
        return bad(m, "tokenizer.json", "has a token outside the vocabulary of config.json");
    size_t i = (size_t)json_integer_value(id);
    if (m->types[i] && !span_eq(m->tokens[i], span_make(text, len)))
        return bad(m, "tokenizer.json", "has two tokens of one id");
    m->tokens[i] = span_make(text, len);
    m->types[i] = type;
    return DS4_OK;
}

static enum ds4_status read_tokens(struct meta *m)
{
    const json_t *model = json_object_get(m->tokenizer, "model");
    json_t *vocab = json_object_get(model, "vocab"), *value;
    const json_t *added = json_object_get(m->tokenizer, "added_tokens");
    const char *text;
    if (!json_is_object(vocab)) return bad(m, "tokenizer.json", "has no model.vocab");
    json_object_foreach(vocab, text, value) TRY(put_token(m, value, text, strlen(text), 1));
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *item = json_array_get(added, i);
        const json_t *content = json_object_get(item, "content");
        if (!json_is_string(content)) return bad(m, "tokenizer.json", "has an added token without content");
        TRY(put_token(m, json_object_get(item, "id"), json_string_value(content), json_string_length(content),
                      json_is_true(json_object_get(item, "special")) ? 3 : 4));
    }
    return DS4_OK;
}

/* Merges are "left right", or pairs in newer files. */
static enum ds4_status put_merges(struct meta *m, struct arena *arena)
{
    const json_t *list = json_object_get(json_object_get(m->tokenizer, "model"), "merges");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > 4 * VOCAB_MAX) return bad(m, "tokenizer.json", "has no list of merges");
    struct ds4_span *merges = arena_alloc(arena, n + 1, sizeof *merges);
    if (!merges) return err_set(m->error, DS4_ERR_NOMEM, "no memory for %zu merges", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        const json_t *left = json_array_get(item, 0), *right = json_array_get(item, 1);
        char pair[1024];
        if (json_is_string(item)) {
            merges[i] = span_make(json_string_value(item), json_string_length(item));
            continue;
        }
        if (json_array_size(item) != 2 || !json_is_string(left) || !json_is_string(right))
            return bad(m, "tokenizer.json", "has a merge that is no pair");
        int len = snprintf(pair, sizeof pair, "%s %s", json_string_value(left), json_string_value(right));
        if (len < 0 || (size_t)len >= sizeof pair) return bad(m, "tokenizer.json", "has a merge too long");
        merges[i] = arena_copy(arena, span_make(pair, (size_t)len));
        if (!merges[i].ptr) return err_set(m->error, DS4_ERR_NOMEM, "no memory for %zu merges", n);
    }
    gguf_put_array_string(m->writer, "tokenizer.ggml.merges", merges, n);
    return DS4_OK;
}

static enum ds4_status put_id(const struct meta *m, const char *json, const char *key, uint32_t fallback)
{
    const json_t *value = config_at(m, json);
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : (json_int_t)fallback;
    if (id < 0 || id >= (json_int_t)m->n_vocab) return bad(m, json, "is no token of the vocabulary");
    gguf_put_u32(m->writer, key, (uint32_t)id);
    return DS4_OK;
}

static enum ds4_status put_tokenizer(struct meta *m, struct arena *arena)
{
    m->tokens = arena_alloc(arena, m->n_vocab, sizeof *m->tokens);
    m->types = arena_alloc(arena, m->n_vocab, sizeof *m->types);
    if (!m->tokens || !m->types) return err_set(m->error, DS4_ERR_NOMEM, "no memory for %u tokens", m->n_vocab);
    TRY(read_tokens(m));
    for (uint32_t i = 0; i < m->n_vocab; i++) { /* rows of the embedding that stand for nothing */
        char name[32];
        if (m->types[i]) continue;
        int n = snprintf(name, sizeof name, "[PAD%u]", i);
        m->tokens[i] = arena_copy(arena, span_make(name, (size_t)n));
        m->types[i] = 5;
        if (!m->tokens[i].ptr) return err_set(m->error, DS4_ERR_NOMEM, "no memory for %u tokens", m->n_vocab);
    }
    gguf_put_string(m->writer, "tokenizer.ggml.model", SPAN("gpt2"));
    gguf_put_string(m->writer, "tokenizer.ggml.pre", SPAN("joyai-llm"));
    gguf_put_array_string(m->writer, "tokenizer.ggml.tokens", m->tokens, m->n_vocab);
    gguf_put_array_i32(m->writer, "tokenizer.ggml.token_type", m->types, m->n_vocab);
    TRY(put_merges(m, arena));
    TRY(put_id(m, "bos_token_id", "tokenizer.ggml.bos_token_id", 0));
    TRY(put_id(m, "eos_token_id", "tokenizer.ggml.eos_token_id", 1));
    TRY(put_id(m, "pad_token_id", "tokenizer.ggml.padding_token_id", 1));
    gguf_put_bool(m->writer, "tokenizer.ggml.add_bos_token", false);
    gguf_put_bool(m->writer, "tokenizer.ggml.add_eos_token", false);
    return DS4_OK;
}

/* ---- both sources ------------------------------------------------------------------------------------------- */

/* Number of llama.cpp for "mostly this type", by the format of most bytes. */
static uint32_t file_type(const struct quantise_source *source)
{
    static const struct { uint32_t id, type; } known[] = {
        {QUANT_F32, 0}, {QUANT_F16, 1}, {QUANT_Q8_0, 7}, {QUANT_Q2_K, 10}, {QUANT_Q4_K, 15}, {QUANT_Q6_K, 18},
        {QUANT_IQ2_XXS, 19}, {QUANT_BF16, 32}, {QUANT_MXFP4, 38}};
    uint64_t most = 0;
    uint32_t type = 1024; /* "guessed" */
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        uint64_t n = 0;
        for (size_t i = 0; i < source->n_tensors; i++) {
            const struct quantise_tensor *t = &source->tensors[i];
            if (t->to->id == known[k].id) n += t->dims[0] * t->dims[1] * t->dims[2];
        }
        if (n > most) {
            most = n;
            type = known[k].type;
        }
    }
    return type;
}

static void copy_metadata(const struct meta *m)
{
    static const char *const dropped[] = {"general.file_type", "general.alignment", "split.", "quantize."};
    for (size_t i = 0; i < gguf_n_kvs(m->source->gguf); i++) {
        const struct gguf_kv *kv = gguf_kv_at(m->source->gguf, i);
        bool drop = false;
        hash_update(m->hash, kv->key.ptr, kv->key.len);
        hash_update(m->hash, kv->value.bytes, (size_t)kv->value.size_bytes);
        for (size_t k = 0; k < sizeof dropped / sizeof *dropped; k++)
            drop |= span_starts(kv->key, span_from(dropped[k]));
        if (!drop) gguf_put_value(m->writer, kv->key, &kv->value);
    }
}

static enum ds4_status from_checkpoint(struct meta *m)
{
    struct arena arena;
    arena_init(&arena, (size_t)1 << 30);
    enum ds4_status status = load(m, "config.json", &m->config);
    if (status == DS4_OK) status = load(m, "tokenizer.json", &m->tokenizer);
    if (status == DS4_OK) status = put_config(m);
    if (status == DS4_OK) status = put_tokenizer(m, &arena);
    json_decref(m->config);
    json_decref(m->tokenizer);
    arena_deinit(&arena);
    return status;
}

enum ds4_status quantise_put_metadata(const struct quantise_source *source, struct gguf_writer *writer,
                                      uint8_t digest[16], struct ds4_error *error)
{
    struct meta m = {.source = source, .writer = writer, .error = error, .hash = hash_create()};
    if (!m.hash) return err_set(error, DS4_ERR_NOMEM, "no memory for a digest");
    enum ds4_status status = DS4_OK;
    if (source->gguf) {
        uint64_t bytes = gguf_file_bytes(source->gguf);
        hash_update(m.hash, &bytes, sizeof bytes);
        copy_metadata(&m);
    } else {
        uint8_t headers[16];
        safetensors_digest(source->checkpoint, headers);
        hash_update(m.hash, headers, sizeof headers);
        status = from_checkpoint(&m);
    }
    gguf_put_u32(writer, "general.file_type", file_type(source));
    for (size_t i = 0; i < source->n_tensors; i++) {
        const struct quantise_tensor *t = &source->tensors[i];
        hash_update(m.hash, t->name, strlen(t->name));
        hash_update(m.hash, t->dims, sizeof t->dims);
    }
    hash_digest(m.hash, digest);
    hash_destroy(m.hash);
    return status;
}
