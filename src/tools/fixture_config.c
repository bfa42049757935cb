/* fixture_config.c - the numbers of a generated model: presets and checks.
 * Source: the configuration of DeepSeek-V4-Flash as published in its config.json; the small one is made so that every
 * kind of layer and every rounding block occurs at least twice. */
#include "tools/fixture_plan.h"

struct fixture_config fixture_config_tiny(void)
{
    const struct quant_format *f32 = quant_format(QUANT_F32);
    struct fixture_config c = {
        .n_vocab = 512, .n_embd = 256, .n_layers = 8, .n_heads = 8, .head_dim = 192, .rope_dim = 64, .q_rank = 64,
        .o_groups = 2, .o_rank = 64, .window = 32, .index_heads = 4, .index_dim = 128, .index_topk = 8,
        .n_experts = 16, .n_used = 4, .n_inner = 256, .n_hash = 3, .n_hc = 4, .ctx_tokens = 65536,
        .trunk = true, .mtp = true, .taps = {5, 6, 7}, .markov_rank = 32, .n_stages = 3, .draft_tokens = 5,
        .attention = f32, .shared = f32, .embed = f32, .output = f32, .small = f32, .gate_up = f32, .down = f32,
        .n_shards = 1, .name = "ds4 fixture tiny",
    };
    for (uint32_t l = 0; l < FIXTURE_LAYERS_MAX; l++) c.ratios[l] = l < 2 ? 0 : l % 2 ? 128 : 4;
    return c;
}

struct fixture_config fixture_config_flash(void)
{
    struct fixture_config c = {
        .n_vocab = 129280, .n_embd = 4096, .n_layers = 43, .n_heads = 64, .head_dim = 512, .rope_dim = 64,
        .q_rank = 1024, .o_groups = 8, .o_rank = 1024, .window = 128, .index_heads = 64, .index_dim = 128,
        .index_topk = 512, .n_experts = 256, .n_used = 6, .n_inner = 2048, .n_hash = 3, .n_hc = 4,
        .ctx_tokens = 1048576, .trunk = true, .taps = {40, 41, 42}, .markov_rank = 256, .n_stages = 3,
        .draft_tokens = 5, .attention = quant_format(QUANT_Q8_0), .shared = quant_format(QUANT_Q8_0),
        .embed = quant_format(QUANT_F16), .output = quant_format(QUANT_Q8_0), .small = quant_format(QUANT_F16),
        .gate_up = quant_format(QUANT_IQ2_XXS), .down = quant_format(QUANT_Q2_K), .flash_values = true,
        .n_filled = 13, .n_shards = 1, .name = "DeepSeek V4 Flash",
    };
    for (uint32_t l = 0; l < FIXTURE_LAYERS_MAX; l++) c.ratios[l] = l < 2 ? 0 : l % 2 ? 128 : 4;
    return c;
}

enum ds4_status fixture_config_check(const struct fixture_config *c, struct ds4_error *error)
{
    if (c->n_heads % c->o_groups)
        return err_set(error, DS4_ERR_FORMAT, "%u heads do not split into %u output groups", c->n_heads, c->o_groups);
    if (c->head_dim <= c->rope_dim || (c->head_dim - c->rope_dim) % 64)
        return err_set(error, DS4_ERR_FORMAT, "head width %u is not %u plus a multiple of 64", c->head_dim,
                       c->rope_dim);
    if (c->index_dim & (c->index_dim - 1))
        return err_set(error, DS4_ERR_FORMAT, "indexer width %u is not a power of two", c->index_dim);
    if (c->n_used > c->n_experts)
        return err_set(error, DS4_ERR_FORMAT, "%u of %u experts cannot be used", c->n_used, c->n_experts);
    if (c->flash_values && (c->n_filled < c->n_used || c->n_filled > c->n_experts || c->n_filled < 2))
        return err_set(error, DS4_ERR_FORMAT, "%u filled experts: from %u to %u are possible", c->n_filled, c->n_used,
                       c->n_experts);
    if (c->dspark)
        for (uint32_t i = 0; i < FIXTURE_TAPS; i++)
            if (c->taps[i] >= c->n_layers)
                return err_set(error, DS4_ERR_FORMAT, "the drafter taps layer %u of %u", c->taps[i], c->n_layers);
    return DS4_OK;
}
