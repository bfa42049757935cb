/* quantise_names.c - names of tensors: those of the published checkpoint, those of a GGUF file, and what each is.
 * Source: tensor tables of the published files. */
#include <stdio.h>
#include <stdlib.h>

#include "tools/quantise.h"

struct row {
    const char *official, *name;
    enum quantise_family family;
};

/* Of a layer: behind "layers.N." and "blk.N.", or "mtp.N." in both. */
static const struct row layer_rows[] = {
    {"attn_norm.weight", "attn_norm.weight", QUANTISE_VECTOR},
    {"ffn_norm.weight", "ffn_norm.weight", QUANTISE_VECTOR},
    {"hc_attn_fn", "hc_attn_fn.weight", QUANTISE_SMALL},
    {"hc_attn_base", "hc_attn_base.weight", QUANTISE_VECTOR},
    {"hc_attn_scale", "hc_attn_scale.weight", QUANTISE_VECTOR},
    {"hc_ffn_fn", "hc_ffn_fn.weight", QUANTISE_SMALL},
    {"hc_ffn_base", "hc_ffn_base.weight", QUANTISE_VECTOR},
    {"hc_ffn_scale", "hc_ffn_scale.weight", QUANTISE_VECTOR},
    {"attn.attn_sink", "attn_sinks.weight", QUANTISE_VECTOR},
    {"attn.wq_a.weight", "attn_q_a.weight", QUANTISE_ATTN},
    {"attn.wq_b.weight", "attn_q_b.weight", QUANTISE_ATTN},
    {"attn.q_norm.weight", "attn_q_a_norm.weight", QUANTISE_VECTOR},
    {"attn.kv_norm.weight", "attn_kv_a_norm.weight", QUANTISE_VECTOR},
    {"attn.wkv.weight", "attn_kv.weight", QUANTISE_ATTN},
    {"attn.wo_a.weight", "attn_output_a.weight", QUANTISE_ATTN},
    {"attn.wo_b.weight", "attn_output_b.weight", QUANTISE_ATTN},
    {"attn.compressor.ape", "attn_compressor_ape.weight", QUANTISE_SMALL},
    {"attn.compressor.wkv.weight", "attn_compressor_kv.weight", QUANTISE_SMALL},
    {"attn.compressor.wgate.weight", "attn_compressor_gate.weight", QUANTISE_SMALL},
    {"attn.compressor.norm.weight", "attn_compressor_norm.weight", QUANTISE_VECTOR},
    {"attn.indexer.wq_b.weight", "indexer.attn_q_b.weight", QUANTISE_SMALL},
    {"attn.indexer.weights_proj.weight", "indexer.proj.weight", QUANTISE_SMALL},
    {"attn.indexer.compressor.ape", "indexer_compressor_ape.weight", QUANTISE_SMALL},
    {"attn.indexer.compressor.wkv.weight", "indexer_compressor_kv.weight", QUANTISE_SMALL},
    {"attn.indexer.compressor.wgate.weight", "indexer_compressor_gate.weight", QUANTISE_SMALL},
    {"attn.indexer.compressor.norm.weight", "indexer_compressor_norm.weight", QUANTISE_VECTOR},
    {"ffn.gate.weight", "ffn_gate_inp.weight", QUANTISE_SMALL},
    {"ffn.gate.bias", "exp_probs_b.bias", QUANTISE_VECTOR},
    {"ffn.gate.tid2eid", "ffn_gate_tid2eid.weight", QUANTISE_TABLE},
    {"ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight", QUANTISE_SHARED},
    {"ffn.shared_experts.w3.weight", "ffn_up_shexp.weight", QUANTISE_SHARED},
    {"ffn.shared_experts.w2.weight", "ffn_down_shexp.weight", QUANTISE_SHARED},
    {"ffn.experts.#.w1.weight", "ffn_gate_exps.weight", QUANTISE_EXPERTS},
    {"ffn.experts.#.w3.weight", "ffn_up_exps.weight", QUANTISE_EXPERTS},
    {"ffn.experts.#.w2.weight", "ffn_down_exps.weight", QUANTISE_DOWN},
    {"e_proj.weight", "e_proj.weight", QUANTISE_ATTN}, /* from here on: of the draft block */
    {"h_proj.weight", "h_proj.weight", QUANTISE_ATTN},
    {"enorm.weight", "enorm.weight", QUANTISE_VECTOR},
    {"hnorm.weight", "hnorm.weight", QUANTISE_VECTOR},
    {"norm.weight", "norm.weight", QUANTISE_VECTOR},
    {"hc_head_fn", "hc_head_fn.weight", QUANTISE_SMALL},
    {"hc_head_base", "hc_head_base.weight", QUANTISE_VECTOR},
    {"hc_head_scale", "hc_head_scale.weight", QUANTISE_VECTOR},
};
static const struct row model_rows[] = {
    {"embed.weight", "token_embd.weight", QUANTISE_EMBED},
    {"norm.weight", "output_norm.weight", QUANTISE_VECTOR},
    {"head.weight", "output.weight", QUANTISE_OUTPUT},
    {"hc_head_fn", "output_hc_fn.weight", QUANTISE_SMALL},
    {"hc_head_base", "output_hc_base.weight", QUANTISE_VECTOR},
    {"hc_head_scale", "output_hc_scale.weight", QUANTISE_VECTOR},
};
#define N_LAYER_ROWS (sizeof layer_rows / sizeof *layer_rows)
#define N_MODEL_ROWS (sizeof model_rows / sizeof *model_rows)

/* Takes "N." off the front of text; false when there is no number below limit. */
static bool take_number(struct ds4_span *text, uint32_t limit, int32_t *out)
{
    uint32_t n = 0;
    size_t i = 0;
    for (; i < text->len && i < 6 && text->ptr[i] >= '0' && text->ptr[i] <= '9'; i++)
        n = n * 10 + (uint32_t)(text->ptr[i] - '0');
    if (i == 0 || i >= text->len || text->ptr[i] != '.' || n >= limit || (i > 1 && text->ptr[0] == '0')) return false;
    *text = span_skip(*text, i + 1);
    *out = (int32_t)n;
    return true;
}

static bool take_prefix(struct ds4_span *text, struct ds4_span prefix)
{
    if (!span_starts(*text, prefix)) return false;
    *text = span_skip(*text, prefix.len);
    return true;
}

/* text as the pattern, whose # stands for the number of an expert. */
static bool matches(struct ds4_span text, const char *pattern, int32_t *expert)
{
    const char *hash = strchr(pattern, '#');
    *expert = -1;
    if (!hash) return span_eq(text, span_from(pattern));
    return take_prefix(&text, span_make(pattern, (size_t)(hash - pattern))) &&
           take_number(&text, QUANTISE_EXPERTS_MAX, expert) && span_eq(text, span_from(hash + 2));
}

bool quantise_name_of(struct ds4_span official, struct quantise_name *out)
{
    struct ds4_span text = official;
    *out = (struct quantise_name){.layer = -1, .expert = -1};
    (void)take_prefix(&text, SPAN("model."));
    if (take_prefix(&text, SPAN("mtp."))) {
        out->draft = true;
        if (!take_number(&text, 1000, &out->layer)) return false;
        /* Copies of the main tables, and what belongs to other drafters than this block. */
        out->skip = out->layer > 0 || span_find(text, SPAN("emb"), 0) != SIZE_MAX ||
                    span_ends(text, SPAN("head.weight")) || span_starts(text, SPAN("main_")) ||
                    span_starts(text, SPAN("markov")) || span_starts(text, SPAN("confidence"));
        if (out->skip) return true;
    } else if (take_prefix(&text, SPAN("layers."))) {
        if (!take_number(&text, 1000, &out->layer)) return false;
    } else {
        for (size_t i = 0; i < N_MODEL_ROWS; i++) {
            if (!span_eq(text, span_from(model_rows[i].official))) continue;
            out->family = model_rows[i].family;
            (void)snprintf(out->name, sizeof out->name, "%s", model_rows[i].name);
            (void)snprintf(out->official, sizeof out->official, "%s", model_rows[i].official);
            return true;
        }
        return false;
    }
    for (size_t i = 0; i < N_LAYER_ROWS; i++) {
        const struct row *row = &layer_rows[i];
        if (!matches(text, row->official, &out->expert)) continue;
        out->family = row->family;
        (void)snprintf(out->name, sizeof out->name, "%s.%d.%s", out->draft ? "mtp" : "blk", out->layer, row->name);
        (void)snprintf(out->official, sizeof out->official, "%s.%d.%s", out->draft ? "mtp" : "layers", out->layer,
                       row->official);
        return true;
    }
    return false;
}

void quantise_place_of(struct ds4_span name, struct quantise_name *out)
{
    struct ds4_span text = name;
    *out = (struct quantise_name){.layer = -1, .expert = -1, .family = QUANTISE_OTHER};
    bool layer = take_prefix(&text, SPAN("blk."));
    if (!layer && take_prefix(&text, SPAN("mtp."))) layer = out->draft = true;
    if (layer && !take_number(&text, 1000, &out->layer)) return;
    const struct row *table = layer ? layer_rows : model_rows;
    for (size_t i = 0; i < (layer ? N_LAYER_ROWS : N_MODEL_ROWS); i++)
        if (span_eq(text, span_from(table[i].name))) {
            out->family = table[i].family;
            return;
        }
}
