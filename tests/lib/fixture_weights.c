/* fixture_weights.c - see fixture_weights.h. */
#include "lib/fixture_weights.h"

#include "base/mem.h"
#include "base/rng.h"
#include "lib/test.h"

/* A size that depends on the compression ratio of the layer: rows (or columns) of the compressors are multiplied by 2
 * for ratio 4, and ape has as many rows as the ratio. */
enum { PLAIN, WIDTH_ROWS, RATIO_ROWS };
struct rule {
    const char *suffix;
    uint32_t rows, cols;
    float scale, offset;
    int kind;
};

static const struct rule block_rules[] = {
    {"hc_attn_fn", TINY_MIX, TINY_HC * TINY_EMBD, 0x1p-5f, 0, PLAIN},
    {"hc_attn_base", 1, TINY_MIX, 1, 0, PLAIN},
    {"hc_attn_scale", 1, 3, 0.25f, 0.5f, PLAIN},
    {"hc_ffn_fn", TINY_MIX, TINY_HC * TINY_EMBD, 0x1p-5f, 0, PLAIN},
    {"hc_ffn_base", 1, TINY_MIX, 1, 0, PLAIN},
    {"hc_ffn_scale", 1, 3, 0.25f, 0.5f, PLAIN},
    {"attn_norm.weight", 1, TINY_EMBD, 0.25f, 1, PLAIN},
    {"ffn_norm.weight", 1, TINY_EMBD, 0.25f, 1, PLAIN},
    {"attn.wq_a.weight", TINY_Q_RANK, TINY_EMBD, 0x1p-4f, 0, PLAIN},
    {"attn.q_norm.weight", 1, TINY_Q_RANK, 0.25f, 1, PLAIN},
    {"attn.wq_b.weight", TINY_HEADS * TINY_DIM, TINY_Q_RANK, 0x1p-4f, 0, PLAIN},
    {"attn.wkv.weight", TINY_DIM, TINY_EMBD, 0x1p-4f, 0, PLAIN},
    {"attn.kv_norm.weight", 1, TINY_DIM, 0.25f, 1, PLAIN},
    {"attn.attn_sink", 1, TINY_HEADS, 2, 0, PLAIN},
    {"attn.wo_a.weight", TINY_GROUPS * TINY_O_RANK, TINY_HEADS * TINY_DIM / TINY_GROUPS, 0x1p-4f, 0, PLAIN},
    {"attn.wo_b.weight", TINY_EMBD, TINY_GROUPS * TINY_O_RANK, 0x1p-3f, 0, PLAIN},
    {"attn.compressor.wkv.weight", TINY_DIM, TINY_EMBD, 0x1p-4f, 0, WIDTH_ROWS},
    {"attn.compressor.wgate.weight", TINY_DIM, TINY_EMBD, 0x1p-3f, 0, WIDTH_ROWS},
    {"attn.compressor.ape", 1, TINY_DIM, 1, 0, RATIO_ROWS},
    {"attn.compressor.norm.weight", 1, TINY_DIM, 0.25f, 1, PLAIN},
    {"attn.indexer.wq_b.weight", TINY_INDEX_HEADS * TINY_INDEX_DIM, TINY_Q_RANK, 0x1p-3f, 0, PLAIN},
    {"attn.indexer.weights_proj.weight", TINY_INDEX_HEADS, TINY_EMBD, 0x1p-4f, 0, PLAIN},
    {"attn.indexer.compressor.wkv.weight", TINY_INDEX_DIM, TINY_EMBD, 0x1p-4f, 0, WIDTH_ROWS},
    {"attn.indexer.compressor.wgate.weight", TINY_INDEX_DIM, TINY_EMBD, 0x1p-3f, 0, WIDTH_ROWS},
    {"attn.indexer.compressor.ape", 1, TINY_INDEX_DIM, 1, 0, RATIO_ROWS},
    {"attn.indexer.compressor.norm.weight", 1, TINY_INDEX_DIM, 0.25f, 1, PLAIN},
    {"ffn.gate.weight", TINY_EXPERTS, TINY_EMBD, 0x1p-3f, 0, PLAIN},
    {"ffn.gate.bias", 1, TINY_EXPERTS, 0.25f, 0, PLAIN},
};
static const struct rule expert_rules[] = {
    {"w1.weight", TINY_FF, TINY_EMBD, 0.5f, 0, PLAIN},
    {"w3.weight", TINY_FF, TINY_EMBD, 0.5f, 0, PLAIN},
    {"w2.weight", TINY_EMBD, TINY_FF, 0x1p-7f, 0, PLAIN},
};
static const struct rule top_rules[] = {
    {"embed.weight", TINY_VOCAB, TINY_EMBD, 1, 0, PLAIN},
    {"head.weight", TINY_VOCAB, TINY_EMBD, 0x1p-4f, 0, PLAIN},
    {"hc_head_fn", TINY_HC, TINY_HC * TINY_EMBD, 0x1p-5f, 0, PLAIN},
    {"hc_head_base", 1, TINY_HC, 1, 0, PLAIN},
    {"hc_head_scale", 1, 1, 0.25f, 0.5f, PLAIN},
    {"norm.weight", 1, TINY_EMBD, 0.25f, 1, PLAIN},
    {"mtp.0.hc_head_fn", TINY_HC, TINY_HC * TINY_EMBD, 0x1p-5f, 0, PLAIN},
    {"mtp.0.hc_head_base", 1, TINY_HC, 1, 0, PLAIN},
    {"mtp.0.hc_head_scale", 1, 1, 0.25f, 0.5f, PLAIN},
    {"mtp.0.norm.weight", 1, TINY_EMBD, 0.25f, 1, PLAIN},
    {"mtp.0.e_proj.weight", TINY_EMBD, TINY_EMBD, 0x1p-4f, 0, PLAIN},
    {"mtp.0.h_proj.weight", TINY_EMBD, TINY_EMBD, 0x1p-4f, 0, PLAIN},
    {"mtp.0.enorm.weight", 1, TINY_EMBD, 0.25f, 1, PLAIN},
    {"mtp.0.hnorm.weight", 1, TINY_EMBD, 0.25f, 1, PLAIN},
};

static bool apply(const struct rule *rules, size_t n, const char *suffix, uint32_t ratio, struct tiny_tensor *out)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(rules[i].suffix, suffix) != 0) continue;
        *out = (struct tiny_tensor){rules[i].rows, rules[i].cols, rules[i].scale, rules[i].offset};
        if (rules[i].kind == WIDTH_ROWS) out->rows *= ratio == 4 ? 2 : 1;
        if (rules[i].kind == RATIO_ROWS) {
            out->rows = ratio;
            out->cols *= ratio == 4 ? 2 : 1;
        }
        return true;
    }
    return false;
}

static bool parse_number(const char **text, uint32_t *out)
{
    const char *p = *text;
    for (*out = 0; *p >= '0' && *p <= '9'; p++) *out = *out * 10 + (uint32_t)(*p - '0');
    bool ok = p != *text && *p == '.';
    *text = p + 1;
    return ok;
}

bool tiny_tensor_find(const char *name, struct tiny_tensor *out)
{
    static const char layers[] = "layers.", mtp[] = "mtp.0.", experts[] = "ffn.experts.";
    static const char shared[] = "ffn.shared_experts.";
    uint32_t layer = 0, ratio = 0, expert;
    if (apply(top_rules, sizeof top_rules / sizeof *top_rules, name, 0, out)) return true;
    const char *rest = name;
    if (strncmp(name, mtp, sizeof mtp - 1) == 0) {
        rest += sizeof mtp - 1;
    } else {
        if (strncmp(name, layers, sizeof layers - 1) != 0) return false;
        rest += sizeof layers - 1;
        if (!parse_number(&rest, &layer) || layer >= TINY_LAYERS) return false;
        if (layer >= 2) ratio = layer % 2 ? 128 : 4;
    }
    if (strncmp(rest, experts, sizeof experts - 1) == 0) {
        rest += sizeof experts - 1;
        return parse_number(&rest, &expert) && expert < TINY_EXPERTS && apply(expert_rules, 3, rest, 0, out);
    }
    if (strncmp(rest, shared, sizeof shared - 1) == 0) return apply(expert_rules, 3, rest + sizeof shared - 1, 0, out);
    if (ratio == 0 && strstr(rest, "compressor")) return false;
    if (ratio != 4 && strstr(rest, "indexer")) return false;
    return apply(block_rules, sizeof block_rules / sizeof *block_rules, rest, ratio, out);
}

void tiny_uniform(const char *name, size_t n, float scale, float offset, float *values)
{
    struct rng rng = {fnv1a(name)};
    for (size_t i = 0; i < n; i++) {
        uint64_t z = rng_next(&rng);
        int32_t q = (int32_t)((z >> 40) % 255) - 127;
        if (i % 32 == 0) q = z >> 63 ? -127 : 127;
        values[i] = offset + (float)q * scale / 128;
    }
}

float *tiny_tensor_values(const char *name)
{
    struct tiny_tensor tensor;
    if (!tiny_tensor_find(name, &tensor)) fail_msg("ds4-tiny has no tensor %s", name);
    size_t n = (size_t)tensor.rows * tensor.cols;
    float *values = mem_alloc(n, sizeof *values);
    assert_non_null(values);
    tiny_uniform(name, n, tensor.scale, tensor.offset, values);
    return values;
}

int32_t *tiny_hash_table(uint32_t layer)
{
    char name[] = "layers.0.ffn.gate.tid2eid";
    name[7] = (char)('0' + layer);
    struct rng rng = {fnv1a(name)};
    int32_t *table = mem_alloc(TINY_VOCAB * TINY_USED, sizeof *table);
    assert_non_null(table);
    for (size_t i = 0; i < TINY_VOCAB * TINY_USED; i++) table[i] = (int32_t)(rng_next(&rng) % TINY_EXPERTS);
    for (size_t row = 0; row < TINY_VOCAB; row++) {
        int32_t *ids = table + row * TINY_USED;
        for (uint32_t i = 1; i < TINY_USED; i++) {
            for (uint32_t j = 0; j < i; j++) {
                if (ids[j] != ids[i]) continue;
                ids[i] = (ids[i] + 1) % TINY_EXPERTS; /* taken: try the next id against all before it again */
                j = UINT32_MAX;
            }
        }
    }
    return table;
}
