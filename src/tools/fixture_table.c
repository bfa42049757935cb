/* fixture_table.c - the tensors of a generated model: names, shapes, formats, and the scale of their values.
 *
 * Order in the file as in the published one: hash tables, stacks of routed experts layer by layer, then the rest.
 * Scales are powers of two, so that a value offset + q * scale / 128 is exact in F32, F16, BF16 and Q8_0 (offset 0);
 * they are given for the row length that the small configuration has and follow the square root of the real one.
 * Source: tensor names and shapes as in the published files of DeepSeek V4 Flash. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/span.h"
#include "tools/fixture_plan.h"

struct table {
    struct fixture_plan *plan;
    const struct fixture_config *config;
    size_t cap;
    char prefix[24], official[24]; /* "blk.3." and "layers.3." */
    uint32_t layer;
    bool failed;
    struct fixture_tensor sink; /* takes what comes after a failure */
};

static struct fixture_tensor *append(struct table *t)
{
    struct fixture_plan *plan = t->plan;
    if (!t->failed && plan->n_tensors == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 256;
        void *bigger = mem_realloc(plan->tensors, cap, sizeof *plan->tensors);
        if (bigger) {
            plan->tensors = bigger;
            t->cap = cap;
        } else {
            t->failed = true;
        }
    }
    if (t->failed) return &t->sink;
    struct fixture_tensor *tensor = &plan->tensors[plan->n_tensors++];
    *tensor = (struct fixture_tensor){.dims = {1, 1, 1}, .layer = t->layer};
    return tensor;
}

/* One tensor named prefix + name, filled from prefix + official. */
static struct fixture_tensor *add(struct table *t, const char *name, const char *official, uint64_t width,
                                  uint64_t n_rows)
{
    struct fixture_tensor *tensor = append(t);
    (void)snprintf(tensor->name, sizeof tensor->name, "%s%s", t->prefix, name);
    (void)snprintf(tensor->official, sizeof tensor->official, "%s%s", t->official, official);
    tensor->n_dims = n_rows ? 2 : 1;
    tensor->dims[0] = width;
    tensor->dims[1] = n_rows ? n_rows : 1;
    tensor->format = quant_format(QUANT_F32);
    return tensor;
}

static void add_vector(struct table *t, const char *name, const char *official, uint64_t n, float scale, float offset)
{
    struct fixture_tensor *tensor = add(t, name, official, n, 0);
    tensor->scale = scale;
    tensor->offset = offset;
    if (t->config->flash_values) {
        tensor->rule = FIXTURE_NORMAL;
        tensor->scale = offset != 0 ? 0.1f : 1.0f;
    }
}

static void add_norm(struct table *t, const char *name, const char *official, uint64_t n)
{
    add_vector(t, name, official, n, 0.25f, 1.0f);
}

static void set_format(struct fixture_tensor *tensor, const struct quant_format *format)
{
    tensor->format = tensor->dims[0] % format->block_elems ? quant_format(QUANT_F16) : format;
}

/* scale belongs to rows of tiny_width values; flash_gain multiplies the unit-gain deviation of the bell-shaped rule. */
static struct fixture_tensor *add_matrix(struct table *t, const char *name, const char *official, uint64_t width,
                                         uint64_t n_rows, const struct quant_format *format, float scale,
                                         uint64_t tiny_width, float flash_gain)
{
    struct fixture_tensor *tensor = add(t, name, official, width, n_rows);
    set_format(tensor, format);
    if (t->config->flash_values) {
        tensor->rule = FIXTURE_NORMAL;
        tensor->scale = flash_gain / sqrtf((float)width);
    } else {
        double ratio = sqrt((double)tiny_width / (double)width);
        tensor->scale = scale * (float)exp2(floor(log2(ratio) + 0.5));
    }
    return tensor;
}

/* One of the three stacks of a layer; width -> n_rows per expert. */
static void add_experts(struct table *t, const char *name, const char *tail, uint64_t width, uint64_t n_rows,
                        const struct quant_format *format, float scale, float flash_gain)
{
    struct fixture_tensor *tensor =
        add_matrix(t, name, "ffn.experts.", width, n_rows, format, scale, 256, flash_gain);
    (void)snprintf(tensor->official_tail, sizeof tensor->official_tail, "%s", tail);
    tensor->n_dims = 3;
    tensor->dims[2] = t->config->n_experts;
}

static void add_expert_stacks(struct table *t)
{
    const struct fixture_config *c = t->config;
    add_experts(t, "ffn_gate_exps.weight", ".w1.weight", c->n_embd, c->n_inner, c->gate_up, 0x1p-1f, 1.0f);
    add_experts(t, "ffn_down_exps.weight", ".w2.weight", c->n_inner, c->n_embd, c->down, 0x1p-7f, 0.15f);
    add_experts(t, "ffn_up_exps.weight", ".w3.weight", c->n_embd, c->n_inner, c->gate_up, 0x1p-1f, 1.0f);
}

static void add_hash_table(struct table *t)
{
    struct fixture_tensor *tensor =
        add(t, "ffn_gate_tid2eid.weight", "ffn.gate.tid2eid", t->config->n_used, t->config->n_vocab);
    tensor->format = quant_format(QUANT_I32);
    tensor->rule = FIXTURE_HASH;
}

/* Hyper-connection triple of one site; n_mix outputs, n_scale scales. */
static void add_hyper(struct table *t, const char *stem, const char *stem_official, uint32_t n_mix, uint32_t n_scale)
{
    const struct fixture_config *c = t->config;
    char name[64], official[64];
    (void)snprintf(name, sizeof name, "%s_base.weight", stem);
    (void)snprintf(official, sizeof official, "%s_base", stem_official);
    struct fixture_tensor *base = add(t, name, official, n_mix, 0);
    base->scale = 1.0f;
    if (c->flash_values) base->rule = FIXTURE_HC_BASE;
    (void)snprintf(name, sizeof name, "%s_fn.weight", stem);
    (void)snprintf(official, sizeof official, "%s_fn", stem_official);
    (void)add_matrix(t, name, official, (uint64_t)c->n_hc * c->n_embd, n_mix, c->small, 0x1p-5f, 1024, 1.0f);
    (void)snprintf(name, sizeof name, "%s_scale.weight", stem);
    (void)snprintf(official, sizeof official, "%s_scale", stem_official);
    add_vector(t, name, official, n_scale, 0.25f, 0.5f);
    if (c->flash_values) {
        struct fixture_tensor *scale = &t->plan->tensors[t->plan->n_tensors - 1];
        scale->scale = 0.02f;
        scale->offset = 0.1f;
    }
}

/* Compressor of the attention (stem "attn_compressor") or of the indexer; width of a row. */
static void add_compressor(struct table *t, const char *stem, const char *stem_official, uint32_t ratio,
                           uint32_t width)
{
    static const struct part {
        const char *name, *official;
        float scale;
    } parts[] = {{"gate.weight", "wgate.weight", 0x1p-3f}, {"kv.weight", "wkv.weight", 0x1p-4f}};
    const struct fixture_config *c = t->config;
    char name[64], official[64];
    uint32_t n_rows = ratio == 4 ? 2 * width : width;
    (void)snprintf(name, sizeof name, "%s_ape.weight", stem);
    (void)snprintf(official, sizeof official, "%s.ape", stem_official);
    struct fixture_tensor *ape = add(t, name, official, n_rows, ratio);
    ape->format = c->small->block_elems == 1 ? c->small : quant_format(QUANT_F32);
    ape->scale = 1.0f;
    if (c->flash_values) {
        ape->rule = FIXTURE_NORMAL;
        ape->scale = 0.5f;
    }
    (void)snprintf(name, sizeof name, "%s_norm.weight", stem);
    (void)snprintf(official, sizeof official, "%s.norm.weight", stem_official);
    add_norm(t, name, official, width);
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(name, sizeof name, "%s_%s", stem, parts[i].name);
        (void)snprintf(official, sizeof official, "%s.%s", stem_official, parts[i].official);
        (void)add_matrix(t, name, official, c->n_embd, n_rows, c->small, parts[i].scale, 256, 1.0f);
    }
}

static void add_indexer(struct table *t)
{
    const struct fixture_config *c = t->config;
    add_compressor(t, "indexer_compressor", "attn.indexer.compressor", 4, c->index_dim);
    (void)add_matrix(t, "indexer.proj.weight", "attn.indexer.weights_proj.weight", c->n_embd, c->index_heads, c->small,
                     0x1p-4f, 256, 1.0f);
    (void)add_matrix(t, "indexer.attn_q_b.weight", "attn.indexer.wq_b.weight", c->q_rank,
                     (uint64_t)c->index_heads * c->index_dim, c->small, 0x1p-3f, 64, 1.0f);
}

static void add_attention(struct table *t, uint32_t ratio)
{
    const struct fixture_config *c = t->config;
    uint64_t heads_width = (uint64_t)c->n_heads * c->head_dim;
    add_vector(t, "attn_sinks.weight", "attn.attn_sink", c->n_heads, 2.0f, 0.0f);
    if (ratio) add_compressor(t, "attn_compressor", "attn.compressor", ratio, c->head_dim);
    if (ratio == 4) add_indexer(t);
    add_norm(t, "attn_kv_a_norm.weight", "attn.kv_norm.weight", c->head_dim);
    add_norm(t, "attn_q_a_norm.weight", "attn.q_norm.weight", c->q_rank);
    (void)add_matrix(t, "attn_kv.weight", "attn.wkv.weight", c->n_embd, c->head_dim, c->attention, 0x1p-4f, 256, 1.0f);
    (void)add_matrix(t, "attn_output_a.weight", "attn.wo_a.weight", heads_width / c->o_groups,
                     (uint64_t)c->o_groups * c->o_rank, c->attention, 0x1p-4f, 768, 1.0f);
    (void)add_matrix(t, "attn_output_b.weight", "attn.wo_b.weight", (uint64_t)c->o_groups * c->o_rank, c->n_embd,
                     c->attention, 0x1p-3f, 128, 0.15f);
    (void)add_matrix(t, "attn_q_a.weight", "attn.wq_a.weight", c->n_embd, c->q_rank, c->attention, 0x1p-4f, 256, 1.0f);
    (void)add_matrix(t, "attn_q_b.weight", "attn.wq_b.weight", c->q_rank, heads_width, c->attention, 0x1p-4f, 64, 1.0f);
    add_norm(t, "attn_norm.weight", "attn_norm.weight", c->n_embd);
}

static void add_ffn(struct table *t, bool learned)
{
    const struct fixture_config *c = t->config;
    if (learned) {
        struct fixture_tensor *bias = add(t, "exp_probs_b.bias", "ffn.gate.bias", c->n_experts, 0);
        bias->scale = 0.25f;
        if (c->flash_values) {
            bias->rule = FIXTURE_BIAS;
            bias->scale = 0.5f;
        }
    }
    (void)add_matrix(t, "ffn_gate_inp.weight", "ffn.gate.weight", c->n_embd, c->n_experts, c->small, 0x1p-3f, 256,
                     2.0f);
    (void)add_matrix(t, "ffn_gate_shexp.weight", "ffn.shared_experts.w1.weight", c->n_embd, c->n_inner, c->shared,
                     0x1p-1f, 256, 1.0f);
    (void)add_matrix(t, "ffn_down_shexp.weight", "ffn.shared_experts.w2.weight", c->n_inner, c->n_embd, c->shared,
                     0x1p-7f, 256, 0.3f);
    (void)add_matrix(t, "ffn_up_shexp.weight", "ffn.shared_experts.w3.weight", c->n_embd, c->n_inner, c->shared,
                     0x1p-1f, 256, 1.0f);
    add_norm(t, "ffn_norm.weight", "ffn_norm.weight", c->n_embd);
}

static void add_block(struct table *t, uint32_t ratio, bool learned)
{
    uint32_t n_mix = (2 + t->config->n_hc) * t->config->n_hc;
    add_attention(t, ratio);
    add_ffn(t, learned);
    add_hyper(t, "hc_attn", "hc_attn", n_mix, 3);
    add_hyper(t, "hc_ffn", "hc_ffn", n_mix, 3);
}

static void enter(struct table *t, const char *name, const char *official, uint32_t layer)
{
    t->layer = layer;
    (void)snprintf(t->prefix, sizeof t->prefix, "%s", name);
    (void)snprintf(t->official, sizeof t->official, "%s", official);
}

static void enter_layer(struct table *t, uint32_t layer)
{
    char name[24], official[24];
    (void)snprintf(name, sizeof name, "blk.%u.", layer);
    (void)snprintf(official, sizeof official, "layers.%u.", layer);
    enter(t, name, official, layer);
}

static void add_trunk(struct table *t)
{
    const struct fixture_config *c = t->config;
    for (uint32_t l = 0; l < c->n_hash; l++) {
        enter_layer(t, l);
        add_hash_table(t);
    }
    for (uint32_t l = 0; l < c->n_layers; l++) {
        enter_layer(t, l);
        add_expert_stacks(t);
    }
    enter(t, "", "", 0);
    struct fixture_tensor *embed =
        add_matrix(t, "token_embd.weight", "embed.weight", c->n_embd, c->n_vocab, c->embed, 1.0f, c->n_embd, 1.0f);
    if (c->flash_values) embed->scale = 1.0f;
    add_hyper(t, "output_hc", "hc_head", c->n_hc, 1);
    (void)add_matrix(t, "output.weight", "head.weight", c->n_embd, c->n_vocab, c->output, 0x1p-4f, 256, 2.0f);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        enter_layer(t, l);
        add_block(t, c->ratios[l], l >= c->n_hash);
    }
    enter(t, "", "", 0);
    add_norm(t, "output_norm.weight", "norm.weight", c->n_embd);
}

static void add_mtp(struct table *t)
{
    const struct fixture_config *c = t->config;
    enter(t, "mtp.0.", "mtp.0.", c->n_layers);
    add_expert_stacks(t);
    add_block(t, 0, true);
    add_hyper(t, "hc_head", "hc_head", c->n_hc, 1);
    add_norm(t, "norm.weight", "norm.weight", c->n_embd);
    add_norm(t, "enorm.weight", "enorm.weight", c->n_embd);
    add_norm(t, "hnorm.weight", "hnorm.weight", c->n_embd);
    (void)add_matrix(t, "e_proj.weight", "e_proj.weight", c->n_embd, c->n_embd, c->attention, 0x1p-4f, 256, 1.0f);
    (void)add_matrix(t, "h_proj.weight", "h_proj.weight", c->n_embd, c->n_embd, c->attention, 0x1p-4f, 256, 1.0f);
}

static void add_dspark(struct table *t)
{
    const struct fixture_config *c = t->config;
    char name[24];
    for (uint32_t s = 0; s < c->n_stages; s++) {
        (void)snprintf(name, sizeof name, "dspark.%u.", s);
        enter(t, name, name, c->n_layers + 1 + s);
        add_expert_stacks(t);
        add_block(t, 0, true);
    }
    enter(t, "dspark.", "dspark.0.", c->n_layers + 1);
    (void)add_matrix(t, "main_proj.weight", "main_proj.weight", (uint64_t)FIXTURE_TAPS * c->n_embd, c->n_embd,
                     c->attention, 0x1p-4f, 768, 1.0f);
    add_norm(t, "main_norm.weight", "main_norm.weight", c->n_embd);
    (void)snprintf(name, sizeof name, "dspark.%u.", c->n_stages - 1);
    enter(t, "dspark.", name, c->n_layers + c->n_stages);
    add_hyper(t, "hc_head", "hc_head", c->n_hc, 1);
    add_norm(t, "norm.weight", "norm.weight", c->n_embd);
    (void)add_matrix(t, "markov_w1.weight", "markov_head.markov_w1.weight", c->markov_rank, c->n_vocab, c->small, 1.0f,
                     c->markov_rank, 1.0f);
    (void)add_matrix(t, "markov_w2.weight", "markov_head.markov_w2.weight", c->markov_rank, c->n_vocab, c->small,
                     0x1p-3f, 32, 1.0f);
    (void)add_matrix(t, "confidence_head.weight", "confidence_head.proj.weight", c->n_embd + c->markov_rank, 1,
                     c->small, 0x1p-4f, 288, 1.0f);
}

/* ---- other spellings ---------------------------------------------------------------------------------------- */

/* Names seen in other publishers' files; the whole suffix is replaced. */
static const struct alias {
    const char *ours, *other;
} aliases[] = {
    {"output_hc_fn.weight", "hc_head_fn.weight"},
    {"output_hc_base.weight", "hc_head_base.weight"},
    {"output_hc_scale.weight", "hc_head_scale.weight"},
    {"attn_kv.weight", "attn_kv_latent.weight"},
    {"attn_output_a.weight", "attn_o_a.weight"},
    {"attn_output_b.weight", "attn_o_b.weight"},
    {"attn_compressor_kv.weight", "attn_compress_kv.weight"},
    {"attn_compressor_gate.weight", "attn_compress_gate.weight"},
    {"attn_compressor_ape.weight", "attn_compress_ape.weight"},
    {"attn_compressor_norm.weight", "attn_compress_norm.weight"},
    {"indexer_compressor_kv.weight", "indexer.compressor.wkv.weight"},
    {"indexer_compressor_gate.weight", "indexer.compressor.wgate.weight"},
    {"indexer_compressor_ape.weight", "indexer.compressor.ape.weight"},
    {"indexer_compressor_norm.weight", "indexer.compressor.norm.weight"},
    {"ffn_gate_tid2eid.weight", "ffn_gate_tid2eid"},
};

static void rename_tensor(struct fixture_tensor *tensor)
{
    size_t len = strlen(tensor->name);
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        size_t n = strlen(aliases[i].ours);
        if (n > len || strcmp(tensor->name + len - n, aliases[i].ours) != 0) continue;
        if (n < len && tensor->name[len - n - 1] != '.') continue;
        (void)snprintf(tensor->name + len - n, sizeof tensor->name - (len - n), "%s", aliases[i].other);
        return;
    }
}

enum ds4_status fixture_plan_tensors(struct fixture_plan *plan, struct ds4_error *error)
{
    struct table t = {.plan = plan, .config = &plan->config};
    if (plan->config.trunk) add_trunk(&t);
    if (plan->config.mtp) add_mtp(&t);
    if (plan->config.dspark) add_dspark(&t);
    if (t.failed) return err_set(error, DS4_ERR_NOMEM, "out of memory for the list of tensors");
    if (plan->config.names == FIXTURE_NAMES_ALIAS)
        for (size_t i = 0; i < plan->n_tensors; i++) rename_tensor(&plan->tensors[i]);
    return DS4_OK;
}

void fixture_plan_deinit(struct fixture_plan *plan)
{
    mem_free(plan->tensors);
    fixture_vocab_deinit(&plan->vocab);
    *plan = (struct fixture_plan){0};
}
