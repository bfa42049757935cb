/* fixture_config.c - the numbers of a generated model: presets, options, checks.
 * Source: the configuration of DeepSeek-V4-Flash as published in its config.json; the small one is made so that every
 * kind of layer and every rounding block occurs at least twice. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/span.h"
#include "tools/fixture_plan.h"

#define VOCAB_MIN 280u /* 3 specials, 256 bytes, the named special tokens */

static const struct quant_format *named(const char *name) { return quant_format_named(span_from(name)); }

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
        .n_filled = 13, .seed = 1, .n_shards = 1, .name = "DeepSeek V4 Flash",
    };
    for (uint32_t l = 0; l < FIXTURE_LAYERS_MAX; l++) c.ratios[l] = l < 2 ? 0 : l % 2 ? 128 : 4;
    return c;
}

/* ---- options ------------------------------------------------------------------------------------------------ */

enum option_kind { OPTION_U32, OPTION_FORMAT };

static const struct option_row {
    const char *key;
    enum option_kind kind;
    size_t offset;
    uint32_t min, max;
    const char *help;
} option_rows[] = {
#define NUMBER(key, field, min, max, help) {key, OPTION_U32, offsetof(struct fixture_config, field), min, max, help}
#define FORMAT(key, field, help) {key, OPTION_FORMAT, offsetof(struct fixture_config, field), 0, 0, help}
    NUMBER("layers", n_layers, 1, FIXTURE_LAYERS_MAX, "layers"),
    NUMBER("dim", n_embd, 32, 65536, "hidden width"),
    NUMBER("heads", n_heads, 1, 1024, "query heads"),
    NUMBER("head-dim", head_dim, 128, 8192, "width of a head: 64 rotated dims and a multiple of 64"),
    NUMBER("q-rank", q_rank, 1, 65536, "low rank of the queries"),
    NUMBER("o-groups", o_groups, 1, 256, "output groups"),
    NUMBER("o-rank", o_rank, 1, 65536, "rank of an output group"),
    NUMBER("window", window, 1, 65536, "sliding window, tokens"),
    NUMBER("index-heads", index_heads, 1, 1024, "indexer heads"),
    NUMBER("index-dim", index_dim, 128, 4096, "width of an indexer head, a power of two"),
    NUMBER("index-topk", index_topk, 1, 65536, "compressed rows that the indexer keeps"),
    NUMBER("experts", n_experts, 1, FIXTURE_EXPERTS_MAX, "routed experts"),
    NUMBER("used", n_used, 1, 64, "experts used for a token"),
    NUMBER("inner", n_inner, 1, 65536, "inner width of an expert"),
    NUMBER("hash-layers", n_hash, 0, FIXTURE_LAYERS_MAX, "layers routed by token id"),
    NUMBER("vocab", n_vocab, VOCAB_MIN, 1000000, "vocabulary"),
    NUMBER("hc", n_hc, 1, 16, "residual streams"),
    NUMBER("context", ctx_tokens, 1, 1u << 30, "longest context written to the metadata"),
    NUMBER("split", n_shards, 1, 99, "number of files"),
    NUMBER("filled-experts", n_filled, 1, FIXTURE_EXPERTS_MAX, "experts of a layer that get data (flash)"),
    FORMAT("attention", attention, "format of the attention projections"),
    FORMAT("shared", shared, "format of the shared expert"),
    FORMAT("embed", embed, "format of the embedding"),
    FORMAT("output", output, "format of the output head"),
    FORMAT("small", small, "format of router, hyper-connections, compressors, indexer"),
    FORMAT("experts-type", gate_up, "format of the experts' gate and up matrices"),
    FORMAT("down", down, "format of the experts' down matrices"),
#undef NUMBER
#undef FORMAT
};

static bool parse_u64(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] == '-') return false;
    *out = v;
    return true;
}

static const struct quant_format *parse_format(const char *key, const char *value, struct ds4_error *error)
{
    const struct quant_format *format = named(value);
    if (!format || !fixture_can_make(format))
        (void)err_set(error, DS4_ERR_UNSUPPORTED, "--%s: no values can be made in a format \"%s\"", key, value);
    return format;
}

static void set_ratios(struct fixture_config *config, const char *value, struct ds4_error *error)
{
    uint32_t n = 0;
    const char *at = value;
    while (n < FIXTURE_LAYERS_MAX) {
        char *end;
        unsigned long ratio = strtoul(at, &end, 10);
        if (end == at || (*end && *end != ',') || (ratio != 0 && ratio != 4 && ratio != 128)) {
            (void)err_set(error, DS4_ERR_FORMAT, "--ratios: \"%s\" is no list of 0, 4 and 128", value);
            return;
        }
        config->ratios[n++] = (uint32_t)ratio;
        if (!*end) break;
        at = end + 1;
    }
    for (uint32_t l = n; l < FIXTURE_LAYERS_MAX; l++) config->ratios[l] = config->ratios[l % n];
}

static bool set_row(struct fixture_config *config, const struct option_row *row, const char *value,
                    struct ds4_error *error)
{
    char *field = (char *)config + row->offset;
    if (row->kind == OPTION_FORMAT) {
        const struct quant_format *format = parse_format(row->key, value, error);
        if (format) memcpy(field, &format, sizeof format);
        return true;
    }
    uint64_t number;
    if (!parse_u64(value, &number) || number < row->min || number > row->max)
        (void)err_set(error, DS4_ERR_FORMAT, "--%s: \"%s\" is not a number from %u to %u", row->key, value, row->min,
                      row->max);
    else {
        uint32_t narrow = (uint32_t)number;
        memcpy(field, &narrow, sizeof narrow);
    }
    return true;
}

bool fixture_config_set(struct fixture_config *config, const char *key, const char *value, struct ds4_error *error)
{
    for (size_t i = 0; i < sizeof option_rows / sizeof *option_rows; i++)
        if (strcmp(option_rows[i].key, key) == 0) return set_row(config, &option_rows[i], value, error);
    if (strcmp(key, "ratios") == 0) {
        set_ratios(config, value, error);
    } else if (strcmp(key, "type") == 0) {
        const struct quant_format *format = parse_format(key, value, error);
        if (format)
            config->attention = config->shared = config->embed = config->output = config->small = config->gate_up =
                config->down = format;
    } else if (strcmp(key, "seed") == 0) {
        if (!parse_u64(value, &config->seed)) (void)err_set(error, DS4_ERR_FORMAT, "--seed: \"%s\" is no number", value);
    } else if (strcmp(key, "names") == 0) {
        if (strcmp(value, "ds4") == 0) config->names = FIXTURE_NAMES_DS4;
        else if (strcmp(value, "alias") == 0) config->names = FIXTURE_NAMES_ALIAS;
        else (void)err_set(error, DS4_ERR_FORMAT, "--names: \"%s\" is neither \"ds4\" nor \"alias\"", value);
    } else if (strcmp(key, "part") == 0) {
        config->trunk = strcmp(value, "mtp") != 0;
        config->mtp = strcmp(value, "trunk") != 0;
        if (strcmp(value, "all") != 0 && config->trunk && config->mtp)
            (void)err_set(error, DS4_ERR_FORMAT, "--part: \"%s\" is none of all, trunk, mtp", value);
    } else {
        return false;
    }
    return true;
}

void fixture_config_help(void)
{
    for (size_t i = 0; i < sizeof option_rows / sizeof *option_rows; i++)
        (void)printf("  --%-16s %s\n", option_rows[i].key, option_rows[i].help);
    (void)printf("  --%-16s %s\n  --%-16s %s\n  --%-16s %s\n  --%-16s %s\n  --%-16s %s\n", "ratios",
                 "compression ratio of each layer: 0, 4 or 128, repeated as needed", "type",
                 "format of all matrices (rows that fill no whole block: F16)", "seed",
                 "number that changes every weight; 0 is the stream of the test vectors", "names",
                 "ds4, or alias: the other spellings that are in use", "part", "all, trunk or mtp");
}

/* ---- checks ------------------------------------------------------------------------------------------------- */

enum ds4_status fixture_config_check(const struct fixture_config *c, struct ds4_error *error)
{
    if (c->n_heads % c->o_groups)
        return err_set(error, DS4_ERR_FORMAT, "%u heads do not split into %u output groups", c->n_heads, c->o_groups);
    if (c->head_dim <= c->rope_dim || (c->head_dim - c->rope_dim) % 64)
        return err_set(error, DS4_ERR_FORMAT, "head width %u is not %u plus a multiple of 64", c->head_dim, c->rope_dim);
    if (c->index_dim & (c->index_dim - 1))
        return err_set(error, DS4_ERR_FORMAT, "indexer width %u is not a power of two", c->index_dim);
    if (c->n_used > c->n_experts)
        return err_set(error, DS4_ERR_FORMAT, "%u of %u experts cannot be used", c->n_used, c->n_experts);
    if (c->n_hash > c->n_layers)
        return err_set(error, DS4_ERR_FORMAT, "%u hash-routed layers of %u", c->n_hash, c->n_layers);
    if (c->flash_values && (c->n_filled < c->n_used || c->n_filled > c->n_experts || c->n_filled < 2))
        return err_set(error, DS4_ERR_FORMAT, "%u filled experts: from %u to %u are possible", c->n_filled, c->n_used,
                       c->n_experts);
    if (c->dspark)
        for (uint32_t i = 0; i < FIXTURE_TAPS; i++)
            if (c->taps[i] >= c->n_layers)
                return err_set(error, DS4_ERR_FORMAT, "the drafter taps layer %u of %u", c->taps[i], c->n_layers);
    return DS4_OK;
}
