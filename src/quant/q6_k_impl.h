/* q6_k_impl.h - the search behind Q6_K: 256 values in 16 sub-blocks of 16, y = d s code, s in -128..127, code in
 * -32..31. Included by encode_plain.c and encode_avx2.c, which give VARIANT.
 *
 * Each sub-block alone: 8 scales around the one that spends all codes on its largest magnitude, on the side of the
 * code -32 or of 31, codes and their least-squares scale twice in turn. Then d from the largest scale, s by rounding,
 * and d refitted by least squares with the codes that belong to it. */
#ifndef DS4_QUANT_Q6_K_IMPL_H
#define DS4_QUANT_Q6_K_IMPL_H

#include "base/f16.h"
#include "quant/encode.h"
#include "quant/lanes.h"
#include "quant/units.h"

struct VARIANT(q6_block) {
    float x[256], w[256], unit;
    float scale[16]; /* best real scale of each sub-block */
};

/* Best scale of a sub-block whose value of largest magnitude is x_max. */
static float VARIANT(q6_fit)(const float *x, const float *w, float x_max)
{
    const lanes low = lanes_of(-32), top = lanes_of(31);
    lanes scale = lanes_of(x_max) / (lanes){-32.5f, -32.0f, -31.5f, -31.0f, 30.5f, 31.0f, 31.5f, 32.0f}, gain = scale;
    if (x_max == 0) return 0;
    for (int round = 0; round < 2; round++) {
        lanes inverse = lanes_of(1) / scale, wxl = lanes_of(0), wll = wxl;
        for (size_t i = 0; i < 16; i++) {
            lanes code = lanes_min(lanes_max(lanes_round(lanes_of(x[i]) * inverse), low), top);
            lanes wl = lanes_of(w[i]) * code;
            wxl += wl * lanes_of(x[i]);
            wll += wl * code;
        }
        scale = wxl / wll; /* the largest magnitude has a code that is not 0 */
        gain = scale * wxl;
    }
    return scale[lanes_argmin(-gain)];
}

/* Codes for s d; adds to the sums of the least-squares d. Returns the error. */
static float VARIANT(q6_code)(const struct VARIANT(q6_block) *block, size_t k, float s, float d, int8_t *codes,
                              float sums[2])
{
    float a = s * d, error = 0;
    for (size_t i = 16 * k; i < 16 * k + 16; i++) {
        float code = a != 0 ? round_even(block->x[i] / a) : 0;
        code = code < -32 ? -32 : code > 31 ? 31 : code;
        codes[i] = (int8_t)code;
        float miss = block->x[i] - a * code;
        error += block->w[i] * miss * miss;
        sums[0] += block->w[i] * block->x[i] * s * code;
        sums[1] += block->w[i] * s * code * s * code;
    }
    return error;
}

struct VARIANT(q6_state) {
    uint16_t d;
    int8_t s[16], codes[256];
    float error;
};

static void VARIANT(q6_search)(struct VARIANT(q6_block) *block, struct VARIANT(q6_state) *best)
{
    float scale_max = 0;
    for (size_t k = 0; k < 16; k++) {
        const float *x = block->x + 16 * k;
        float x_max = 0;
        for (size_t i = 0; i < 16; i++)
            if (fabsf(x[i]) > fabsf(x_max)) x_max = x[i];
        block->scale[k] = VARIANT(q6_fit)(x, block->w + 16 * k, x_max);
        scale_max = fmaxf(scale_max, fabsf(block->scale[k]));
    }
    float d = scale_max / 127;
    *best = (struct VARIANT(q6_state)){.error = INFINITY};
    for (int round = 0; round < 3; round++) {
        struct VARIANT(q6_state) state = {.d = encode_scale(d * block->unit)};
        float stored = f16_to_f32(state.d) / block->unit, sums[2] = {0, 0};
        for (size_t k = 0; k < 16; k++) {
            float s = stored > 0 ? round_even(block->scale[k] / stored) : 0;
            s = s < -128 ? -128 : s > 127 ? 127 : s;
            state.s[k] = (int8_t)s;
            state.error += VARIANT(q6_code)(block, k, s, stored, state.codes, sums);
        }
        if (state.error >= best->error) return;
        *best = state;
        if (!(sums[1] > 0) || !(sums[0] > 0)) return;
        d = sums[0] / sums[1];
    }
}

void VARIANT(encode_q6_k_block)(const float *values, const float *importance, uint8_t *out)
{
    struct VARIANT(q6_block) block;
    struct VARIANT(q6_state) best;
    float w_unit;
    if (!encode_units(values, importance, 256, &block.unit, &w_unit)) {
        encode_hopeless(block.unit, out, 210, 208);
        return;
    }
    for (size_t i = 0; i < 256; i++) {
        block.x[i] = values[i] / block.unit;
        block.w[i] = encode_weight(importance, i, w_unit);
    }
    VARIANT(q6_search)(&block, &best);
    memset(out, 0, 192);
    for (size_t i = 0; i < 256; i++) { /* see q6_k.c */
        size_t half = i / 128, j = i % 128 / 32, l = i % 32;
        unsigned code = (unsigned)(best.codes[i] + 32);
        out[64 * half + 32 * (j & 1) + l] |= (uint8_t)((code & 15u) << (j >> 1) * 4);
        out[128 + 32 * half + l] |= (uint8_t)((code >> 4) << (2 * j));
    }
    memcpy(out + 192, best.s, 16);
    store_u16(out + 208, best.d);
}

#endif
