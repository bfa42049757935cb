/* weights.c - resolving, checking and placing every tensor of a model.
 *
 * Names. Each tensor is asked for by its name in ds4-style files; `aliases` lists what others call it. A name is tried
 * with ".weight", bare and with ".bias". Source: tensor tables of the two publishers' files. */
#include "model/weights.h"

#include <stdio.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "ops/rope_freq.h"
#include "quant/quant.h"

#define NAME_BYTES 128
#define BLOCK_BYTES ((size_t)1 << 20) /* granule of memory for small vectors */
#define BLOCKS_MAX 4096u

static const char *const aliases[][3] = {
    {"attn_kv", "attn_kv_latent", "attn_kv_a_mqa"},
    {"attn_output_a", "attn_o_a", NULL},
    {"attn_output_b", "attn_o_b", NULL},
    {"output_hc_fn", "hc_head_fn", NULL},
    {"output_hc_base", "hc_head_base", NULL},
    {"output_hc_scale", "hc_head_scale", NULL},
    {"attn_compressor_kv", "attn_compress_kv", "attn_compressor.wkv"},
    {"attn_compressor_gate", "attn_compress_gate", "attn_compressor.wgate"},
    {"attn_compressor_ape", "attn_compress_ape", "attn_compressor.ape"},
    {"attn_compressor_norm", "attn_compress_norm", "attn_compressor.norm"},
    {"indexer_compressor_kv", "indexer.compress_kv", "indexer.compressor.wkv"},
    {"indexer_compressor_gate", "indexer.compress_gate", "indexer.compressor.wgate"},
    {"indexer_compressor_ape", "indexer.compress_ape", "indexer.compressor.ape"},
    {"indexer_compressor_norm", "indexer.compress_norm", "indexer.compressor.norm"},
};

struct block {
    uint8_t *ptr;
    size_t bytes, used;
};

struct weights {
    struct model_weights model;
    struct backend *backend;
    struct block *blocks;
    uint32_t n_blocks;
    struct op_stacks stacks[HPARAMS_LAYERS_MAX + 1][STREAM_PARTS_MAX]; /* of streamed experts: gate, up, down */
};

/* What a loading function needs to know; passed down by pointer. */
struct loader {
    const struct gguf_file *file;
    const struct hparams *h;
    struct weights *w;
    bool check;
    char prefix[64];
    struct ds4_error *error;
};

/* ---- names -------------------------------------------------------------------------------------------------- */

static const struct gguf_tensor *find_spelling(const struct loader *ld, const char *name)
{
    static const char *const suffixes[] = {".weight", "", ".bias"};
    char full[NAME_BYTES];
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        int n = snprintf(full, sizeof full, "%s%s%s", ld->prefix, name, suffixes[i]);
        if (n < 0 || (size_t)n >= sizeof full) continue;
        const struct gguf_tensor *t = gguf_tensor_find(ld->file, span_make(full, (size_t)n));
        if (t) return t;
    }
    return NULL;
}

static const struct gguf_tensor *find_tensor(const struct loader *ld, const char *name)
{
    const struct gguf_tensor *t = find_spelling(ld, name);
    for (size_t i = 0; !t && i < sizeof aliases / sizeof aliases[0]; i++) {
        if (strcmp(aliases[i][0], name) != 0) continue;
        for (size_t k = 1; !t && k < 3 && aliases[i][k]; k++) t = find_spelling(ld, aliases[i][k]);
    }
    return t;
}

static void print_dims(const uint64_t *dims, uint32_t n_dims, char *out, size_t cap)
{
    size_t used = 0;
    for (uint32_t i = 0; i < n_dims && used < cap; i++) {
        int n = snprintf(out + used, cap - used, "%s%llu", i ? " x " : "", (unsigned long long)dims[i]);
        if (n < 0) break;
        used += (size_t)n;
    }
}

static enum ds4_status missing(const struct loader *ld, const char *name, const uint64_t dims[3], uint32_t n_dims)
{
    char want[96];
    print_dims(dims, n_dims, want, sizeof want);
    return err_set(ld->error, DS4_ERR_FORMAT, "tensor %s%s.weight is missing; expected %s", ld->prefix, name, want);
}

/* Finds a tensor and compares its shape; trailing dimensions of 1 do not count. */
static enum ds4_status find_shaped(const struct loader *ld, const char *name, uint64_t d0, uint64_t d1, uint64_t d2,
                                   const struct gguf_tensor **out)
{
    uint64_t want[GGUF_DIMS_MAX] = {d0, d1, d2, 1};
    uint32_t n_dims = d2 > 1 ? 3 : d1 > 1 ? 2 : 1;
    const struct gguf_tensor *t = find_tensor(ld, name);
    if (!t) return missing(ld, name, want, n_dims);
    for (uint32_t i = 0; i < GGUF_DIMS_MAX; i++) {
        if (t->dims[i] == want[i]) continue;
        char got_text[96], want_text[96];
        print_dims(t->dims, t->n_dims, got_text, sizeof got_text);
        print_dims(want, n_dims, want_text, sizeof want_text);
        return err_set(ld->error, DS4_ERR_FORMAT, "tensor %.*s is %s; expected %s", (int)t->name.len, t->name.ptr,
                       got_text, want_text);
    }
    if (!t->data)
        return err_set(ld->error, DS4_ERR_UNSUPPORTED, "tensor %.*s has type %u, which this engine does not know",
                       (int)t->name.len, t->name.ptr, t->type);
    *out = t;
    return DS4_OK;
}

/* ---- matrices ----------------------------------------------------------------------------------------------- */

static enum ds4_status matrix_of(const struct loader *ld, const struct gguf_tensor *t, struct op_weight *out)
{
    const struct quant_format *format = quant_format(t->type);
    uint64_t row_bytes;
    if (!format || !format->weight)
        return err_set(ld->error, DS4_ERR_UNSUPPORTED,
                       "tensor %.*s is %s; a matrix must be F32, F16, BF16, Q8_0, Q2_K, Q4_K, Q6_K, IQ2_XXS or MXFP4",
                       (int)t->name.len, t->name.ptr, format ? format->name : "of an unknown type");
    if (!quant_row_bytes(format, t->dims[0], &row_bytes))
        return err_set(ld->error, DS4_ERR_FORMAT, "tensor %.*s: rows of %llu do not divide into %s blocks of %u",
                       (int)t->name.len, t->name.ptr, (unsigned long long)t->dims[0], format->name,
                       format->block_elems);
    if (ld->check && !quant_scales_finite(format, t->data, (size_t)(t->dims[0] * t->dims[1] * t->dims[2])))
        return err_set(ld->error, DS4_ERR_FORMAT, "tensor %.*s has a scale that is not a finite number",
                       (int)t->name.len, t->name.ptr);
    *out = (struct op_weight){.data = t->data, .type = t->type, .n_in = (uint32_t)t->dims[0],
                              .n_out = (uint32_t)t->dims[1], .row_bytes = row_bytes, .n_stack = (uint32_t)t->dims[2],
                              .stack_bytes = row_bytes * t->dims[1]};
    return DS4_OK;
}

/* A matrix [n_stack][n_out][n_in]; its bytes are added to the sums of the plan. */
static enum ds4_status load_stack(const struct loader *ld, const char *name, uint32_t n_in, uint32_t n_out,
                                  uint32_t n_stack, struct op_weight *out)
{
    const struct gguf_tensor *t;
    TRY(find_shaped(ld, name, n_in, n_out, n_stack, &t));
    TRY(matrix_of(ld, t, out));
    struct model_weights *m = &ld->w->model;
    uint64_t elems = (uint64_t)n_in * n_out * n_stack, bytes = out->stack_bytes * n_stack;
    uint64_t used = n_stack > 1 ? ld->h->n_used : 1;
    m->n_params += elems;
    m->n_params_active += elems / n_stack * used;
    m->bytes_per_token += bytes / n_stack * used;
    if (n_stack > 1) m->expert_bytes += bytes;
    else m->dense_bytes += bytes;
    return DS4_OK;
}

static enum ds4_status load_matrix(const struct loader *ld, const char *name, uint32_t n_in, uint32_t n_out,
                                   struct op_weight *out)
{
    return load_stack(ld, name, n_in, n_out, 1, out);
}

/* ---- vectors ------------------------------------------------------------------------------------------------ */

static void *place(struct loader *ld, const void *bytes, size_t n)
{
    struct weights *w = ld->w;
    size_t need = (n + 63) & ~(size_t)63;
    struct block *last = w->n_blocks ? &w->blocks[w->n_blocks - 1] : NULL;
    if (!last || last->bytes - last->used < need) {
        if (w->n_blocks == BLOCKS_MAX) return NULL;
        size_t size = need > BLOCK_BYTES ? need : BLOCK_BYTES;
        uint8_t *ptr = w->backend->ops->alloc(w->backend, size);
        if (!ptr) return NULL;
        last = &w->blocks[w->n_blocks++];
        *last = (struct block){ptr, size, 0};
        w->model.vector_bytes += size;
    }
    void *to = last->ptr + last->used;
    last->used += need;
    w->backend->ops->write(w->backend, to, bytes, n);
    return to;
}

static enum ds4_status no_memory(const struct loader *ld, const char *name)
{
    return err_set(ld->error, DS4_ERR_NOMEM, "no memory for tensor %s%s", ld->prefix, name);
}

/* A vector (or small matrix) of any float type, as F32 in the backend's memory. */
static enum ds4_status load_vector2(struct loader *ld, const char *name, uint32_t d0, uint32_t d1, const float **out)
{
    const struct gguf_tensor *t;
    TRY(find_shaped(ld, name, d0, d1, 1, &t));
    const struct quant_format *format = quant_format(t->type);
    if (!format || !format->decode)
        return err_set(ld->error, DS4_ERR_UNSUPPORTED, "tensor %.*s is %s; expected numbers", (int)t->name.len,
                       t->name.ptr, format ? format->name : "of an unknown type");
    size_t n = (size_t)d0 * d1;
    float *values = mem_alloc(n, sizeof *values);
    if (!values) return no_memory(ld, name);
    format->decode(t->data, values, n);
    enum ds4_status status = DS4_OK;
    for (size_t i = 0; i < n && status == DS4_OK; i++)
        if (!(values[i] - values[i] == 0))
            status = err_set(ld->error, DS4_ERR_FORMAT, "tensor %.*s: element %zu is not a finite number",
                             (int)t->name.len, t->name.ptr, i);
    if (status == DS4_OK) {
        *out = place(ld, values, n * sizeof *values);
        if (!*out) status = no_memory(ld, name);
        ld->w->model.n_params += n;
        ld->w->model.n_params_active += n;
    }
    mem_free(values);
    return status;
}

static enum ds4_status load_vector(struct loader *ld, const char *name, uint32_t n, const float **out)
{
    return load_vector2(ld, name, n, 1, out);
}

/* The routing table of a hash layer: I32 or I64, every entry an expert. */
static enum ds4_status load_hash(struct loader *ld, const int32_t **out)
{
    const struct hparams *h = ld->h;
    const struct gguf_tensor *t;
    TRY(find_shaped(ld, "ffn_gate_tid2eid", h->n_used, h->n_vocab, 1, &t));
    bool wide = t->type == QUANT_I64;
    if (t->type != QUANT_I32 && !wide)
        return err_set(ld->error, DS4_ERR_FORMAT, "tensor %.*s has type %u; expected I32", (int)t->name.len,
                       t->name.ptr, t->type);
    size_t n = (size_t)h->n_used * h->n_vocab;
    int32_t *table = mem_alloc(n, sizeof *table);
    if (!table) return no_memory(ld, "ffn_gate_tid2eid");
    enum ds4_status status = DS4_OK;
    for (size_t i = 0; i < n && status == DS4_OK; i++) {
        int64_t id = wide ? (int64_t)load_u64(t->data + 8 * i) : (int32_t)load_u32(t->data + 4 * i);
        if (id < 0 || id >= h->n_experts)
            status = err_set(ld->error, DS4_ERR_FORMAT, "tensor %.*s: entry %zu names expert %lld of %u",
                             (int)t->name.len, t->name.ptr, i, (long long)id, h->n_experts);
        table[i] = (int32_t)id;
    }
    if (status == DS4_OK) {
        *out = place(ld, table, n * sizeof *table);
        if (!*out) status = no_memory(ld, "ffn_gate_tid2eid");
    }
    mem_free(table);
    return status;
}

/* ---- groups of tensors --------------------------------------------------------------------------------------- */

static enum ds4_status load_hc(struct loader *ld, const char *stem, uint32_t n_out, uint32_t n_scale,
                               struct hc_weights *out)
{
    const struct hparams *h = ld->h;
    char name[64];
    (void)snprintf(name, sizeof name, "%s_fn", stem);
    TRY(load_matrix(ld, name, h->n_hc * h->n_embd, n_out, &out->fn));
    (void)snprintf(name, sizeof name, "%s_scale", stem);
    TRY(load_vector(ld, name, n_scale, &out->scale));
    (void)snprintf(name, sizeof name, "%s_base", stem);
    return load_vector(ld, name, n_out, &out->base);
}

static enum ds4_status load_compressor(struct loader *ld, const char *stem, uint32_t ratio, uint32_t dim,
                                       struct compressor_weights *out)
{
    uint32_t width = ratio == 4 ? 2 * dim : dim;
    char name[64];
    (void)snprintf(name, sizeof name, "%s_kv", stem);
    TRY(load_matrix(ld, name, ld->h->n_embd, width, &out->kv));
    (void)snprintf(name, sizeof name, "%s_gate", stem);
    TRY(load_matrix(ld, name, ld->h->n_embd, width, &out->gate));
    (void)snprintf(name, sizeof name, "%s_ape", stem);
    TRY(load_vector2(ld, name, width, ratio, &out->ape));
    (void)snprintf(name, sizeof name, "%s_norm", stem);
    return load_vector(ld, name, dim, &out->norm);
}

static enum ds4_status load_attention(struct loader *ld, uint32_t ratio, struct layer_weights *out)
{
    const struct hparams *h = ld->h;
    uint32_t q_width = h->n_heads * h->head_dim, o_width = h->o_groups * h->o_rank;
    TRY(load_hc(ld, "hc_attn", hparams_n_mix(h), 3, &out->hc_attn));
    TRY(load_vector(ld, "attn_norm", h->n_embd, &out->attn_norm));
    TRY(load_matrix(ld, "attn_q_a", h->n_embd, h->q_rank, &out->q_a));
    TRY(load_vector(ld, "attn_q_a_norm", h->q_rank, &out->q_norm));
    TRY(load_matrix(ld, "attn_q_b", h->q_rank, q_width, &out->q_b));
    TRY(load_matrix(ld, "attn_kv", h->n_embd, h->head_dim, &out->kv));
    TRY(load_vector(ld, "attn_kv_a_norm", h->head_dim, &out->kv_norm));
    TRY(load_vector(ld, "attn_sinks", h->n_heads, &out->sinks));
    TRY(load_matrix(ld, "attn_output_a", q_width / h->o_groups, o_width, &out->o_a));
    TRY(load_matrix(ld, "attn_output_b", o_width, h->n_embd, &out->o_b));
    if (ratio == 0) return DS4_OK;
    TRY(load_compressor(ld, "attn_compressor", ratio, h->head_dim, &out->compressor));
    if (ratio != 4) return DS4_OK;
    TRY(load_matrix(ld, "indexer.attn_q_b", h->q_rank, h->index_heads * h->index_dim, &out->index_q_b));
    TRY(load_matrix(ld, "indexer.proj", h->n_embd, h->index_heads, &out->index_proj));
    return load_compressor(ld, "indexer_compressor", ratio, h->index_dim, &out->index_compressor);
}

/* Gate and up experts, apart or fused with the gate's rows first. */
static enum ds4_status load_gate_up(struct loader *ld, struct layer_weights *out)
{
    const struct hparams *h = ld->h;
    if (!find_tensor(ld, "ffn_gate_up_exps")) {
        TRY(load_stack(ld, "ffn_gate_exps", h->n_embd, h->n_ff, h->n_experts, &out->gate_exps));
        return load_stack(ld, "ffn_up_exps", h->n_embd, h->n_ff, h->n_experts, &out->up_exps);
    }
    TRY(load_stack(ld, "ffn_gate_up_exps", h->n_embd, 2 * h->n_ff, h->n_experts, &out->gate_exps));
    out->gate_exps.n_out = h->n_ff;
    out->up_exps = out->gate_exps;
    out->up_exps.data += (uint64_t)h->n_ff * out->gate_exps.row_bytes;
    return DS4_OK;
}

static enum ds4_status load_ffn(struct loader *ld, bool hash_layer, struct layer_weights *out)
{
    const struct hparams *h = ld->h;
    TRY(load_hc(ld, "hc_ffn", hparams_n_mix(h), 3, &out->hc_ffn));
    TRY(load_vector(ld, "ffn_norm", h->n_embd, &out->ffn_norm));
    TRY(load_matrix(ld, "ffn_gate_inp", h->n_embd, h->n_experts, &out->router));
    if (hash_layer) TRY(load_hash(ld, &out->hash));
    else TRY(load_vector(ld, "exp_probs_b", h->n_experts, &out->router_bias));
    TRY(load_gate_up(ld, out));
    TRY(load_stack(ld, "ffn_down_exps", h->n_ff, h->n_embd, h->n_experts, &out->down_exps));
    TRY(load_matrix(ld, "ffn_gate_shexp", h->n_embd, h->n_ff, &out->gate_shared));
    TRY(load_matrix(ld, "ffn_up_shexp", h->n_embd, h->n_ff, &out->up_shared));
    return load_matrix(ld, "ffn_down_shexp", h->n_ff, h->n_embd, &out->down_shared);
}

static enum ds4_status load_frequencies(struct loader *ld)
{
    const struct hparams *h = ld->h;
    float freq[HPARAMS_WIDTH_MAX >> 10]; /* n_rope <= 4096 is checked by hparams; half of it is used */
    size_t bytes = h->n_rope / 2 * sizeof(float);
    if (h->n_rope / 2 > sizeof freq / sizeof freq[0])
        return err_set(ld->error, DS4_ERR_LIMIT, "rope dimension %u is too large", h->n_rope);
    rope_frequencies((double)h->rope_base, h->n_rope, 1, 1, 1, 1, false, freq);
    ld->w->model.freq_plain = place(ld, freq, bytes);
    rope_frequencies((double)h->rope_base_compressed, h->n_rope, (double)h->yarn_factor, h->yarn_orig_ctx,
                     (double)h->yarn_beta_fast, (double)h->yarn_beta_slow, true, freq);
    ld->w->model.freq_compressed = place(ld, freq, bytes);
    return ld->w->model.freq_plain && ld->w->model.freq_compressed ? DS4_OK : no_memory(ld, "rope frequencies");
}

static enum ds4_status load_trunk(struct loader *ld)
{
    const struct hparams *h = ld->h;
    struct model_weights *m = &ld->w->model;
    ld->prefix[0] = 0;
    TRY(load_matrix(ld, "token_embd", h->n_embd, h->n_vocab, &m->embedding));
    m->bytes_per_token -= m->embedding.row_bytes * (h->n_vocab - 1); /* one row a token is read */
    m->n_params_active -= (uint64_t)h->n_embd * h->n_vocab;
    TRY(load_matrix(ld, "output", h->n_embd, h->n_vocab, &m->output));
    TRY(load_vector(ld, "output_norm", h->n_embd, &m->output_norm));
    TRY(load_hc(ld, "output_hc", h->n_hc, 1, &m->hc_head));
    for (uint32_t l = 0; l < h->n_layers; l++) {
        (void)snprintf(ld->prefix, sizeof ld->prefix, "blk.%u.", l);
        TRY(load_attention(ld, h->ratio[l], &m->layers[l]));
        TRY(load_ffn(ld, l < h->n_hash_layers, &m->layers[l]));
    }
    ld->prefix[0] = 0;
    return load_frequencies(ld);
}

/* ---- the draft block ------------------------------------------------------------------------------------------ */

/* Where the draft block is: its file and prefix. nextn: llama.cpp's spelling with e and h projections side by side. */
static bool find_mtp(const struct gguf_file *file, const struct gguf_file *mtp_file, const struct hparams *h,
                     const struct gguf_file **where, char prefix[64], bool *nextn)
{
    const struct gguf_file *files[2] = {mtp_file, file};
    char name[NAME_BYTES];
    for (int i = 0; i < 2; i++) {
        if (!files[i]) continue;
        *where = files[i];
        *nextn = false;
        (void)snprintf(prefix, 64, "mtp.0.");
        if (gguf_tensor_find(files[i], SPAN("mtp.0.e_proj.weight"))) return true;
        *nextn = true;
        (void)snprintf(prefix, 64, "blk.%u.", h->n_layers);
        (void)snprintf(name, sizeof name, "%snextn.eh_proj.weight", prefix);
        if (gguf_tensor_find(files[i], span_from(name))) return true;
    }
    return false;
}

bool weights_find_mtp(const struct gguf_file *file, const struct gguf_file *mtp_file, const struct hparams *h)
{
    const struct gguf_file *where;
    char prefix[64];
    bool nextn;
    return find_mtp(file, mtp_file, h, &where, prefix, &nextn);
}

static enum ds4_status load_eh_proj(struct loader *ld, struct mtp_weights *mtp)
{
    uint32_t n = ld->h->n_embd;
    TRY(load_matrix(ld, "nextn.eh_proj", 2 * n, n, &mtp->e_proj));
    uint64_t half;
    if (!quant_row_bytes(quant_format(mtp->e_proj.type), n, &half))
        return err_set(ld->error, DS4_ERR_FORMAT, "tensor %snextn.eh_proj does not divide in two", ld->prefix);
    mtp->e_proj.n_in = n;
    mtp->h_proj = mtp->e_proj;
    mtp->h_proj.data += half;
    return DS4_OK;
}

static enum ds4_status load_mtp(struct loader *ld, bool nextn)
{
    const struct hparams *h = ld->h;
    struct mtp_weights *mtp = &ld->w->model.mtp;
    uint64_t bytes_per_token = ld->w->model.bytes_per_token, n_active = ld->w->model.n_params_active;
    TRY(load_attention(ld, 0, &mtp->layer));
    TRY(load_ffn(ld, false, &mtp->layer));
    if (nextn) {
        TRY(load_eh_proj(ld, mtp));
        TRY(load_vector(ld, "nextn.enorm", h->n_embd, &mtp->e_norm));
        TRY(load_vector(ld, "nextn.hnorm", h->n_embd, &mtp->h_norm));
        TRY(load_vector(ld, "nextn.shared_head_norm", h->n_embd, &mtp->norm));
        ld->prefix[0] = 0;
        TRY(load_hc(ld, "output_hc", h->n_hc, 1, &mtp->hc_head));
    } else {
        TRY(load_matrix(ld, "e_proj", h->n_embd, h->n_embd, &mtp->e_proj));
        TRY(load_matrix(ld, "h_proj", h->n_embd, h->n_embd, &mtp->h_proj));
        TRY(load_vector(ld, "enorm", h->n_embd, &mtp->e_norm));
        TRY(load_vector(ld, "hnorm", h->n_embd, &mtp->h_norm));
        TRY(load_vector(ld, "norm", h->n_embd, &mtp->norm));
        TRY(load_hc(ld, "hc_head", h->n_hc, 1, &mtp->hc_head));
    }
    ld->w->model.bytes_per_token = bytes_per_token; /* drafting is not part of a decoded token's cost */
    ld->w->model.n_params_active = n_active;
    ld->w->model.has_mtp = true;
    return DS4_OK;
}

/* ---- streamed experts ------------------------------------------------------------------------------------------ */

static const uint8_t *wait_for_stack(const struct op_stacks *stacks, uint32_t i)
{
    return stream_wait(stacks->owner, stacks->layer_i, stacks->part_i, i);
}

static void set_stacks(struct stream *stream, uint32_t layer_i, uint32_t part_i, uint64_t offset,
                       struct op_stacks *stacks, struct op_weight *weight)
{
    *stacks = (struct op_stacks){.at = stream_table(stream, layer_i, part_i), .wait = wait_for_stack, .owner = stream,
                                 .layer_i = layer_i, .part_i = part_i, .offset = offset};
    weight->stacks = stacks;
    weight->data = NULL;
}

/* The experts of a layer are where the pool says; gate and up may share a part. */
static void stream_layer_experts(struct weights *w, struct stream *stream, uint32_t layer_i,
                                 struct layer_weights *layer)
{
    bool fused = layer->gate_exps.n_out * layer->gate_exps.row_bytes < layer->gate_exps.stack_bytes;
    struct op_stacks *stacks = w->stacks[layer_i];
    set_stacks(stream, layer_i, 0, 0, &stacks[0], &layer->gate_exps);
    set_stacks(stream, layer_i, fused ? 0 : 1, fused ? layer->gate_exps.n_out * layer->gate_exps.row_bytes : 0,
               &stacks[1], &layer->up_exps);
    set_stacks(stream, layer_i, fused ? 1 : 2, 0, &stacks[2], &layer->down_exps);
}

void weights_set_stream(struct weights *w, struct stream *stream, const struct stream_layer *layers,
                        uint32_t n_layers)
{
    w->model.stream = stream;
    for (uint32_t l = 0; l < n_layers; l++)
        if (layers[l].n_parts) stream_layer_experts(w, stream, l, &w->model.layers[l]);
    if (w->model.has_mtp && layers[n_layers].n_parts)
        stream_layer_experts(w, stream, n_layers, &w->model.mtp.layer);
}

static void pack_all(struct backend *b, struct op_weight *const *all, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (all[i]->data && !all[i]->stacks) b->ops->pack(b, all[i]);
}

static void pack_layer(struct backend *b, struct layer_weights *l)
{
    struct op_weight *const all[] = {
        &l->q_a, &l->q_b, &l->kv, &l->o_a, &l->o_b, &l->compressor.kv, &l->compressor.gate, &l->index_compressor.kv,
        &l->index_compressor.gate, &l->index_q_b, &l->index_proj, &l->router, &l->gate_exps, &l->up_exps,
        &l->down_exps, &l->gate_shared, &l->up_shared, &l->down_shared,
    };
    pack_all(b, all, sizeof all / sizeof *all);
}

void weights_pack(struct weights *w, uint32_t n_layers)
{
    struct model_weights *m = &w->model;
    struct op_weight *const all[] = {&m->output, &m->mtp.e_proj, &m->mtp.h_proj};
    bool tied = m->output.data == m->embedding.data; /* single rows of it are read, too */
    if (!w->backend->ops->pack) return;
    pack_all(w->backend, all + tied, (m->has_mtp ? 3u : 1u) - tied);
    for (uint32_t l = 0; l < n_layers; l++) pack_layer(w->backend, &m->layers[l]);
    if (m->has_mtp) pack_layer(w->backend, &m->mtp.layer);
}

/* ---- the door -------------------------------------------------------------------------------------------------- */

enum ds4_status weights_load(const struct gguf_file *file, const struct gguf_file *mtp_file, const struct hparams *h,
                             struct backend *backend, bool check, struct weights **out, struct ds4_error *error)
{
    enum ds4_status status = DS4_OK;
    struct weights *w = mem_zalloc(1, sizeof *w);
    if (!w) return err_set(error, DS4_ERR_NOMEM, "no memory for the table of weights");
    w->backend = backend;
    struct loader ld = {.file = file, .h = h, .w = w, .check = check, .error = error};
    bool nextn = false;
    w->blocks = mem_zalloc(BLOCKS_MAX, sizeof *w->blocks);
    if (!w->blocks) {
        status = err_set(error, DS4_ERR_NOMEM, "no memory for the table of weights");
        goto out;
    }
    TRY_GOTO(load_trunk(&ld), out);
    if (find_mtp(file, mtp_file, h, &ld.file, ld.prefix, &nextn)) TRY_GOTO(load_mtp(&ld, nextn), out);
    *out = w;
    return DS4_OK;
out:
    weights_free(w);
    return status;
}

const struct model_weights *weights_model(const struct weights *w) { return &w->model; }

void weights_free(struct weights *w)
{
    if (!w) return;
    for (uint32_t i = 0; i < w->n_blocks; i++)
        w->backend->ops->release(w->backend, w->blocks[i].ptr, w->blocks[i].bytes);
    mem_free(w->blocks);
    mem_free(w);
}
