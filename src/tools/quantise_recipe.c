/* quantise_recipe.c - which format each tensor gets.
 *
 *   recipe     gate, up   down    projections, shared expert   embedding  output head   small matrices
 *   2bit       IQ2_XXS    Q2_K    Q8_0                         F16        Q8_0          F16
 *   q4         Q4_K       Q4_K    as 2bit
 *   mixed      as 2bit, the experts of the last layers as q4
 *   lossless   MXFP4      MXFP4   BF16                         BF16       BF16          as they are
 *
 * Vectors are F32, tables of experts I32. The experts of the draft block are Q4_K where others have two bits: they are
 * few, and a draft that is not believed is work for nothing. A matrix whose rows fill no whole blocks gets Q8_0, or
 * F16 (lossless: BF16). The 2-bit recipe is that of the published files. */
#include <stdio.h>

#include "tools/quantise.h"

#define Q(name) quant_format(QUANT_##name)

static const struct quant_format *by_recipe(const struct quantise_recipe *r, const struct quantise_tensor *t)
{
    bool last = t->layer >= 0 && (uint32_t)t->layer + r->n_mixed >= r->n_layers;
    bool four = r->name == QUANTISE_Q4 || t->draft || (r->name == QUANTISE_MIXED && last);
    bool lossless = r->name == QUANTISE_LOSSLESS;
    switch (t->family) {
    case QUANTISE_EXPERTS: return lossless ? Q(MXFP4) : four ? Q(Q4_K) : Q(IQ2_XXS);
    case QUANTISE_DOWN: return lossless ? Q(MXFP4) : four ? Q(Q4_K) : Q(Q2_K);
    case QUANTISE_ATTN:
    case QUANTISE_SHARED:
    case QUANTISE_OUTPUT: return lossless ? Q(BF16) : Q(Q8_0);
    case QUANTISE_EMBED: return lossless ? Q(BF16) : Q(F16);
    case QUANTISE_SMALL: return lossless ? (t->kind == QUANTISE_BLOCKS ? t->from : Q(BF16)) : Q(F16);
    case QUANTISE_VECTOR: return Q(F32);
    case QUANTISE_TABLE: return Q(I32);
    default: return t->from;
    }
}

/* Whether values of the source survive in the format without any rounding. */
static bool keeps_all(const struct quantise_tensor *t, const struct quant_format *to)
{
    if (t->kind == QUANTISE_FP4) return to->id == QUANT_MXFP4 || to->id == QUANT_BF16 || to->id == QUANT_F32;
    if (t->kind == QUANTISE_FP8) return to->id == QUANT_BF16 || to->id == QUANT_F32;
    return to == t->from || to->id == QUANT_F32;
}

static const struct quant_format *choose(const struct quantise_recipe *r, const struct quantise_tensor *t)
{
    const struct quant_format *to = r->given[t->family];
    bool given = to != NULL, lossless = r->name == QUANTISE_LOSSLESS;
    if (!to) to = by_recipe(r, t);
    if (t->kind == QUANTISE_I64 || t->family == QUANTISE_TABLE || t->family == QUANTISE_OTHER) return to;
    if (!given && lossless && !keeps_all(t, to)) to = t->kind == QUANTISE_BLOCKS ? t->from : Q(BF16);
    if (t->dims[0] % to->block_elems == 0) return to;
    if (to->block_elems > 32 && t->dims[0] % 32 == 0) return Q(Q8_0);
    return lossless ? Q(BF16) : Q(F16);
}

enum ds4_status quantise_choose(const struct quantise_recipe *recipe, struct quantise_source *source,
                                struct ds4_error *error)
{
    for (size_t i = 0; i < source->n_tensors; i++) {
        struct quantise_tensor *t = &source->tensors[i];
        t->to = choose(recipe, t);
        bool same = t->kind == QUANTISE_BLOCKS && t->to == t->from;
        if (!same && t->kind != QUANTISE_I64 && (!t->to->encode || !t->to->decode))
            return err_set(error, DS4_ERR_UNSUPPORTED, "tensor \"%s\": nothing can be stored as %s", t->name,
                           t->to->name);
        if (!same && t->kind == QUANTISE_BLOCKS && !t->from->decode)
            return err_set(error, DS4_ERR_UNSUPPORTED, "tensor \"%s\": %s cannot be decoded", t->name, t->from->name);
    }
    return DS4_OK;
}

const char *quantise_recipe_text(const struct quantise_recipe *r, char *out, size_t cap)
{
    static const char *const names[] = {"2bit", "q4", "mixed", "lossless"};
    static const char *const options[] = {
#define X(name, option) option,
        QUANTISE_FAMILIES(X)
#undef X
    };
    int n = snprintf(out, cap, "%s", names[r->name]);
    if (r->name == QUANTISE_MIXED) n += snprintf(out + n, cap - (size_t)n, " last=%u", r->n_mixed);
    for (size_t f = 0; f < QUANTISE_N_FAMILIES; f++)
        if (r->given[f] && (size_t)n < cap)
            n += snprintf(out + n, cap - (size_t)n, " %s=%s", options[f], r->given[f]->name);
    return out;
}
