/* fixture_checkpoint.c - the generated model in the layout of the published checkpoint: a folder of safetensors shards
 * with their index, config.json and tokenizer.json. Input for the converter's tests.
 *
 *   safetensors: u64 length of the header, JSON header padded with spaces to 8 bytes, data. The header maps a name to
 *   its dtype, shape (outermost dimension first) and offsets in the data.
 *
 * Storage as published: projections and shared experts E4M3 with a UE8M0 scale for each tile of 128 x 128; routed
 * experts two E2M1 in a byte (low nibble = even column) with a scale for each 32 columns of a row; hash tables I64;
 * hyper-connections, sinks, router bias and position embeddings F32; everything else BF16. */
#include <stdio.h>

#include "base/buf.h"
#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "tools/fixture_plan.h"

#define TILE 128u
#define GROUP 32u /* columns that share a scale of E2M1 */
#define HEADER_ALIGN 8u

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_I64, DTYPE_E4M3, DTYPE_E2M1, DTYPE_SCALE };
static const char *const dtype_names[] = {"F32", "BF16", "I64", "F8_E4M3", "I8", "F8_E8M0"};

struct entry {
    const struct fixture_tensor *tensor;
    uint32_t expert;
    enum dtype dtype, weight_dtype; /* of a scale: of the weight it belongs to */
    uint64_t rows, cols;            /* as stored */
    uint64_t bytes, offset;         /* in its shard's data */
    uint32_t shard_i;
};

struct checkpoint {
    const struct fixture_plan *plan;
    const struct fixture_maker *maker;
    const char *folder;
    struct entry *entries;
    size_t n, cap;
    float *values;              /* one matrix */
    uint8_t *codes, *scales;    /* of the same */
    const struct fixture_tensor *made;
    uint32_t made_expert;
    struct ds4_error *error;
};

static enum dtype dtype_of(const struct fixture_tensor *t)
{
    static const char *const f8[] = {"wq_a.weight", "wq_b.weight", "attn.wkv.weight", "wo_a.weight", "wo_b.weight",
                                     "e_proj.weight", "h_proj.weight"};
    static const char *const f32[] = {"_fn", "_base", "_scale", ".attn_sink", ".ape", "gate.bias"};
    bool tiled = t->dims[0] % TILE == 0 && t->dims[1] % TILE == 0;
    if (t->rule == FIXTURE_HASH) return DTYPE_I64;
    if (t->official_tail[0]) return t->dims[0] % GROUP ? DTYPE_BF16 : DTYPE_E2M1;
    for (size_t i = 0; i < sizeof f32 / sizeof *f32; i++)
        if (span_ends(span_from(t->official), span_from(f32[i]))) return DTYPE_F32;
    for (size_t i = 0; i < sizeof f8 / sizeof *f8; i++)
        if (tiled && span_ends(span_from(t->official), span_from(f8[i]))) return DTYPE_E4M3;
    return tiled && strstr(t->official, "shared_experts") ? DTYPE_E4M3 : DTYPE_BF16;
}

static void add_entry(struct checkpoint *c, struct entry e)
{
    static const uint64_t sizes[] = {4, 2, 8, 1, 1, 1};
    e.bytes = e.rows * e.cols * sizes[e.dtype];
    if (c->n < c->cap) c->entries[c->n] = e;
    c->n++;
}

/* Called twice: first with no room, to count. */
static void list_entries(struct checkpoint *c)
{
    c->n = 0;
    for (size_t i = 0; i < c->plan->n_tensors; i++) {
        const struct fixture_tensor *t = &c->plan->tensors[i];
        enum dtype dtype = dtype_of(t);
        for (uint32_t x = 0; x < t->dims[2]; x++) {
            struct entry e = {.tensor = t, .expert = x, .dtype = dtype, .rows = t->dims[1], .cols = t->dims[0]};
            if (dtype == DTYPE_E2M1) e.cols /= 2;
            add_entry(c, e);
            if (dtype != DTYPE_E4M3 && dtype != DTYPE_E2M1) continue;
            e.dtype = DTYPE_SCALE;
            e.weight_dtype = dtype;
            e.rows = dtype == DTYPE_E4M3 ? t->dims[1] / TILE : t->dims[1];
            e.cols = t->dims[0] / (dtype == DTYPE_E4M3 ? TILE : GROUP);
            add_entry(c, e);
        }
    }
}

static void put_entry_name(struct buf *b, const struct entry *e)
{
    const struct fixture_tensor *t = e->tensor;
    char name[2 * FIXTURE_NAME_MAX];
    int n = t->official_tail[0] ? snprintf(name, sizeof name, "%s%u%s", t->official, e->expert, t->official_tail)
                                : snprintf(name, sizeof name, "%s", t->official);
    if (e->dtype == DTYPE_SCALE) n -= (int)sizeof "weight" - 1; /* "X.weight" -> "X.scale" */
    buf_printf(b, "\"%.*s%s\"", n, name, e->dtype == DTYPE_SCALE ? "scale" : "");
}

/* ---- data --------------------------------------------------------------------------------------------------- */

/* Exponent of the smallest power of two that scales values of this size down to the limit of the format. */
static uint8_t scale_of(float largest, float limit)
{
    return pow2_ceil_e8m0((largest > 0x1p-100f ? largest : 0x1p-100f) * (1 / limit));
}

static void encode_e4m3(const float *values, uint64_t rows, uint64_t cols, uint8_t *codes, uint8_t *scales)
{
    for (uint64_t tile = 0; tile < rows / TILE * (cols / TILE); tile++) {
        uint64_t first = tile / (cols / TILE) * TILE * cols + tile % (cols / TILE) * TILE;
        float largest = 0;
        for (uint64_t i = 0; i < TILE * TILE; i++)
            largest = fmaxf(largest, fabsf(values[first + i / TILE * cols + i % TILE]));
        scales[tile] = scale_of(largest, 448);
        float inverse = 1 / e8m0_to_f32(scales[tile]);
        for (uint64_t i = 0; i < TILE * TILE; i++) {
            uint64_t at = first + i / TILE * cols + i % TILE;
            codes[at] = e4m3_from_f32(values[at] * inverse);
        }
    }
}

static void encode_e2m1(const float *values, uint64_t rows, uint64_t cols, uint8_t *codes, uint8_t *scales)
{
    for (uint64_t group = 0; group < rows * cols / GROUP; group++) {
        const float *v = values + group * GROUP;
        float largest = 0;
        for (uint64_t i = 0; i < GROUP; i++) largest = fmaxf(largest, fabsf(v[i]));
        scales[group] = scale_of(largest, 6);
        float inverse = 1 / e8m0_to_f32(scales[group]);
        for (uint64_t i = 0; i < GROUP; i += 2) {
            unsigned low = e2m1_from_f32(v[i] * inverse), high = e2m1_from_f32(v[i + 1] * inverse);
            codes[(group * GROUP + i) / 2] = (uint8_t)(low | high << 4);
        }
    }
}

/* Makes the matrix of an entry, unless it is the one made last. Afterwards codes and scales hold what is stored. */
static void make_matrix(struct checkpoint *c, const struct entry *e)
{
    const struct fixture_tensor *t = e->tensor;
    if (c->made == t && c->made_expert == e->expert) return;
    c->made = t;
    c->made_expert = e->expert;
    struct fixture_tensor plain = *t;
    plain.format = quant_format(t->rule == FIXTURE_HASH ? QUANT_I32 : QUANT_F32);
    struct fixture_piece piece = {.config = &c->plan->config, .tensor = &plain, .expert = e->expert,
                                  .n_rows = t->dims[1]};
    uint64_t n = t->dims[0] * t->dims[1];
    fixture_make(c->maker, &piece, c->values, c->codes);
    if (t->rule == FIXTURE_HASH) { /* from the end, as each number grows into the place of a later one */
        for (uint64_t i = n; i-- > 0;) store_u64(c->codes + 8 * i, load_u32(c->codes + 4 * i));
        return;
    }
    switch (e->dtype == DTYPE_SCALE ? e->weight_dtype : e->dtype) {
    case DTYPE_E4M3: encode_e4m3(c->values, t->dims[1], t->dims[0], c->codes, c->scales); break;
    case DTYPE_E2M1: encode_e2m1(c->values, t->dims[1], t->dims[0], c->codes, c->scales); break;
    case DTYPE_BF16:
        for (uint64_t i = 0; i < n; i++) store_u16(c->codes + 2 * i, bf16_from_f32(c->values[i]));
        break;
    default: break;
    }
}

/* ---- files -------------------------------------------------------------------------------------------------- */

static enum ds4_status write_file(struct checkpoint *c, const char *name, struct buf *content)
{
    char path[4096];
    int fd = -1;
    (void)snprintf(path, sizeof path, "%s/%s", c->folder, name);
    enum ds4_status status = buf_status(content, c->error);
    if (status == DS4_OK) status = file_open(path, FILE_CREATE_TRUNCATE, &fd, c->error);
    if (status == DS4_OK) status = file_write(fd, path, content->text.ptr, content->text.len, c->error);
    file_close(fd);
    buf_deinit(content);
    return status;
}

static void shard_name(const struct checkpoint *c, uint32_t shard_i, char *out, size_t cap)
{
    (void)snprintf(out, cap, "model-%05u-of-%05u.safetensors", shard_i + 1, c->plan->config.n_shards);
}

/* One shard in memory: the small ones of tests. */
static enum ds4_status write_shard(struct checkpoint *c, uint32_t shard_i)
{
    struct buf file = {0}, header = {0};
    uint64_t offset = 0;
    buf_put_text(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < c->n; i++) {
        struct entry *e = &c->entries[i];
        if (e->shard_i != shard_i) continue;
        bool vector = e->tensor->n_dims == 1;
        buf_put_byte(&header, ',');
        put_entry_name(&header, e);
        buf_printf(&header, ":{\"dtype\":\"%s\",\"shape\":[", dtype_names[e->dtype]);
        if (!vector) buf_printf(&header, "%llu,", (unsigned long long)e->rows);
        buf_printf(&header, "%llu],\"data_offsets\":[%llu,%llu]}", (unsigned long long)e->cols,
                   (unsigned long long)offset, (unsigned long long)(offset + e->bytes));
        offset += e->bytes;
    }
    buf_put_byte(&header, '}');
    while (header.text.len % HEADER_ALIGN) buf_put_byte(&header, ' ');
    uint64_t header_bytes = header.text.len;
    buf_put(&file, &header_bytes, sizeof header_bytes);
    buf_put_span(&file, buf_span(&header));
    buf_deinit(&header);
    for (size_t i = 0; i < c->n; i++) {
        const struct entry *e = &c->entries[i];
        if (e->shard_i != shard_i) continue;
        make_matrix(c, e);
        const void *from = e->dtype == DTYPE_F32 ? (const void *)c->values : c->codes;
        buf_put(&file, e->dtype == DTYPE_SCALE ? c->scales : from, (size_t)e->bytes);
    }
    char name[64];
    shard_name(c, shard_i, name, sizeof name);
    return write_file(c, name, &file);
}

static enum ds4_status write_index(struct checkpoint *c)
{
    struct buf b = {0};
    uint64_t total = 0;
    char name[64];
    for (size_t i = 0; i < c->n; i++) total += c->entries[i].bytes;
    buf_printf(&b, "{\"metadata\":{\"total_size\":%llu},\"weight_map\":{", (unsigned long long)total);
    for (size_t i = 0; i < c->n; i++) {
        shard_name(c, c->entries[i].shard_i, name, sizeof name);
        if (i) buf_put_byte(&b, ',');
        put_entry_name(&b, &c->entries[i]);
        buf_printf(&b, ":\"%s\"", name);
    }
    buf_put_text(&b, "}}\n");
    return write_file(c, "model.safetensors.index.json", &b);
}

static enum ds4_status write_config(struct checkpoint *c)
{
    const struct fixture_config *f = &c->plan->config;
    struct buf b = {0};
    buf_printf(&b,
               "{\"architectures\":[\"DeepseekV4ForCausalLM\"],\"model_type\":\"deepseek_v4\",\"hidden_size\":%u,"
               "\"num_hidden_layers\":%u,\"num_attention_heads\":%u,\"num_key_value_heads\":1,\"head_dim\":%u,"
               "\"qk_rope_head_dim\":%u,\"q_lora_rank\":%u,\"o_lora_rank\":%u,\"o_groups\":%u,\"sliding_window\":%u,",
               f->n_embd, f->n_layers, f->n_heads, f->head_dim, f->rope_dim, f->q_rank, f->o_rank, f->o_groups,
               f->window);
    buf_printf(&b,
               "\"moe_intermediate_size\":%u,\"n_routed_experts\":%u,\"n_shared_experts\":1,"
               "\"num_experts_per_tok\":%u,\"num_hash_layers\":%u,\"num_nextn_predict_layers\":%u,"
               "\"index_n_heads\":%u,\"index_head_dim\":%u,\"index_topk\":%u,\"hc_mult\":%u,\"hc_sinkhorn_iters\":20,"
               "\"hc_eps\":1e-06,\"rms_norm_eps\":1e-06,\"rope_theta\":10000,\"compress_rope_theta\":160000,",
               f->n_inner, f->n_experts, f->n_used, f->n_hash, f->mtp ? 1 : 0, f->index_heads, f->index_dim,
               f->index_topk, f->n_hc);
    buf_printf(&b,
               "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":16,\"beta_fast\":32,\"beta_slow\":1,"
               "\"original_max_position_embeddings\":65536},\"routed_scaling_factor\":1.5,"
               "\"scoring_func\":\"sqrtsoftplus\",\"norm_topk_prob\":true,\"topk_method\":\"noaux_tc\","
               "\"swiglu_limit\":10.0,\"hidden_act\":\"silu\",\"max_position_embeddings\":%u,\"vocab_size\":%u,"
               "\"tie_word_embeddings\":false,\"bos_token_id\":0,\"eos_token_id\":1,\"expert_dtype\":\"fp4\","
               "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"scale_fmt\":\"ue8m0\","
               "\"weight_block_size\":[128,128]},\"compress_ratios\":[",
               f->ctx_tokens, f->n_vocab);
    for (uint32_t l = 0; l < f->n_layers; l++) buf_printf(&b, "%u,", f->ratios[l]);
    buf_put_text(&b, "0]}\n");
    return write_file(c, "config.json", &b);
}

static enum ds4_status write_tokenizer(struct checkpoint *c)
{
    const struct fixture_vocab *v = &c->plan->vocab;
    struct buf b = {0};
    buf_put_text(&b, "{\"version\":\"1.0\",\"added_tokens\":[");
    bool any = false;
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        if (v->types[i] == 1) continue;
        buf_printf(&b, "%s{\"id\":%u,\"content\":", any ? "," : "", i);
        buf_put_json_string(&b, v->tokens[i]);
        buf_printf(&b, ",\"special\":%s}", v->types[i] == 3 ? "true" : "false");
        any = true;
    }
    buf_put_text(&b, "],\"model\":{\"type\":\"BPE\",\"vocab\":{");
    any = false;
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        if (v->types[i] != 1) continue;
        if (any) buf_put_byte(&b, ',');
        buf_put_json_string(&b, v->tokens[i]);
        buf_printf(&b, ":%u", i);
        any = true;
    }
    buf_put_text(&b, "},\"merges\":[");
    for (uint32_t i = 0; i < v->n_merges; i++) {
        if (i) buf_put_byte(&b, ',');
        buf_put_json_string(&b, v->merges[i]);
    }
    buf_put_text(&b, "]}}\n");
    return write_file(c, "tokenizer.json", &b);
}

/* Deals the entries to the shards in order, by bytes. A weight and its scale may part, as in the published ones. */
static uint64_t deal_shards(struct checkpoint *c)
{
    uint64_t total = 0, before = 0, largest = 0;
    for (size_t i = 0; i < c->n; i++) total += c->entries[i].bytes;
    for (size_t i = 0; i < c->n; i++) {
        struct entry *e = &c->entries[i];
        uint64_t n = e->tensor->dims[0] * e->tensor->dims[1];
        e->shard_i = (uint32_t)(before * c->plan->config.n_shards / total);
        before += e->bytes;
        if (n > largest) largest = n;
    }
    return largest;
}

enum ds4_status fixture_write_checkpoint(const struct fixture_plan *plan, const char *folder, struct ds4_error *error)
{
    struct checkpoint c = {.plan = plan, .folder = folder, .error = error};
    struct fixture_maker *maker = NULL;
    enum ds4_status status;
    list_entries(&c);
    c.cap = c.n;
    c.entries = mem_zalloc(c.cap, sizeof *c.entries);
    if (!c.entries) return err_set(error, DS4_ERR_NOMEM, "out of memory for %zu tensors", c.cap);
    list_entries(&c);
    uint64_t largest = deal_shards(&c);
    c.values = mem_alloc((size_t)largest, sizeof *c.values);
    c.codes = mem_alloc((size_t)largest, 8);
    c.scales = mem_alloc((size_t)largest, 1);
    if (!c.values || !c.codes || !c.scales) {
        status = err_set(error, DS4_ERR_NOMEM, "out of memory for a matrix of %llu values",
                         (unsigned long long)largest);
        goto out;
    }
    TRY_GOTO(fixture_maker_create(&maker, error), out);
    c.maker = maker;
    for (uint32_t s = 0; s < plan->config.n_shards; s++) TRY_GOTO(write_shard(&c, s), out);
    TRY_GOTO(write_index(&c), out);
    TRY_GOTO(write_config(&c), out);
    status = write_tokenizer(&c);
out:
    fixture_maker_destroy(maker);
    mem_free(c.entries);
    mem_free(c.values);
    mem_free(c.codes);
    mem_free(c.scales);
    return status;
}
