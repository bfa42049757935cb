/* affine_impl.h - the search behind Q2_K and Q4_K: blocks of 256 in sub-blocks, y = (d s) code - dmin m with small
 * whole numbers s and m for each sub-block. Included by encode_plain.c and encode_avx2.c, which give VARIANT.
 *
 * What is minimised is sum w (x - y)^2, w the importance. In three steps:
 * 1. Each sub-block alone: the real scale a and minimum b of its best fit. From 8 lanes of starting scales, for a few
 *    starting minima, codes and the least-squares (a, b) of these codes are found in turn.
 * 2. For several (d, dmin): every sub-block takes the (s, m) of least error among 16 around its fit, because (a, b) lie
 *    in a narrow valley: with another a goes another b. Then d and dmin are refitted by least squares to all 256
 *    values, and so on until nothing is gained.
 * 3. Codes are those nearest to the scales as stored.
 * Values are divided by the largest magnitude of the block first, so that squares cannot overflow or vanish. */
#ifndef DS4_QUANT_AFFINE_IMPL_H
#define DS4_QUANT_AFFINE_IMPL_H

#include "base/f16.h"
#include "quant/encode.h"
#include "quant/lanes.h"
#include "quant/units.h"

#define BLOCK 256
#define SUBS_MAX 16

struct affine_shape {
    size_t n_subs, n; /* sub-blocks and their length */
    float code_max, step_max; /* largest code, largest s and m */
    int n_rounds;             /* of step 2 */
    size_t n_starts;          /* of step 1 */
    struct affine_start {
        float clip, first, step; /* minimum raised by clip of the range; lane i gives the range first + i step codes */
    } starts[6];
};
static const struct affine_shape affine_q2_k = {
    16, 16, 3, 15, 4, 4, {{0, 2.1f, 0.3f}, {0.05f, 2.1f, 0.3f}, {0.1f, 2.1f, 0.3f}, {0.18f, 2.1f, 0.3f}}};
/* The last two starts are for experts that were rounded to E2M1 before: when fewer codes go to the range, steps of the
 * new grid fall on steps of the old one. They take the error on such data from 0.048 to 0.043; others do not need
 * them. */
static const struct affine_shape affine_q4_k = {
    8, 32, 15, 63, 3, 6, {{0, 13.1f, 0.6f}, {0.05f, 13.1f, 0.6f}, {0.1f, 13.1f, 0.6f}, {0.18f, 13.1f, 0.6f},
                          {0, 8, 0.8f}, {0.1f, 8, 0.8f}}};

/* What the search finds. */
struct affine_codes {
    uint16_t d, dmin; /* f16 */
    uint8_t s[SUBS_MAX], m[SUBS_MAX], codes[BLOCK];
};

/* Step 2 starts with the largest fitted a and b at the largest s and m, and at a larger and coarser scale, from which
 * fewer sub-blocks are clipped. Eight starts gain another 0.2 % of error for three times the time. */
static const float affine_seeds[] = {1.0f, 0.85f};

/* Sums over a sub-block that make any error or refit a matter of a few products. */
struct VARIANT(affine_sums) {
    lanes wl, wll, wxl; /* w code, w code^2, w x code */
};

struct VARIANT(affine_sub) {
    float x[32], w[32], wx[32];
    float sum_w, sum_wx, sum_wxx, min, max;
    float a, b, code_mean; /* best real fit */
};

struct VARIANT(affine_state) {
    float d, dmin, error;
    float s[SUBS_MAX], m[SUBS_MAX];
    float uu, uv, vv, xu, xv; /* normal equations of d and dmin */
};

struct VARIANT(affine_block) {
    struct affine_shape shape;
    struct VARIANT(affine_sub) subs[SUBS_MAX];
    float unit; /* what values were divided by */
};

LANE_FN struct VARIANT(affine_sums) VARIANT(affine_code)(const struct VARIANT(affine_sub) *sub, size_t n, lanes b,
                                                         lanes inverse, float code_max)
{
    const lanes zero = lanes_of(0), top = lanes_of(code_max);
    struct VARIANT(affine_sums) sums = {zero, zero, zero};
    for (size_t i = 0; i < n; i++) {
        lanes code = lanes_min(lanes_max(lanes_round((lanes_of(sub->x[i]) + b) * inverse), zero), top);
        lanes wl = lanes_of(sub->w[i]) * code;
        sums.wl += wl;
        sums.wll += wl * code;
        sums.wxl += lanes_of(sub->wx[i]) * code;
    }
    return sums;
}

/* sum w (x - a code + b)^2 */
LANE_FN lanes VARIANT(affine_error)(const struct VARIANT(affine_sub) *sub, const struct VARIANT(affine_sums) *sums,
                                    lanes a, lanes b)
{
    return lanes_of(sub->sum_wxx) + b * b * lanes_of(sub->sum_w) + a * a * sums->wll +
           lanes_of(2) * (b * lanes_of(sub->sum_wx) - a * (sums->wxl + b * sums->wl));
}

/* The least-squares a and b >= 0 of these codes; lanes that have none keep theirs. */
LANE_FN void VARIANT(affine_solve)(const struct VARIANT(affine_sub) *sub, const struct VARIANT(affine_sums) *sums,
                                   lanes *a, lanes *b)
{
    const lanes sw = lanes_of(sub->sum_w), swx = lanes_of(sub->sum_wx), zero = lanes_of(0);
    lanes det = sw * sums->wll - sums->wl * sums->wl;
    lane_mask good = lanes_less(lanes_of(1e-6f) * sw * sums->wll, det);
    lanes inverse = lanes_of(1) / lanes_select(good, det, lanes_of(1));
    lanes a_new = (sw * sums->wxl - swx * sums->wl) * inverse;
    lanes b_new = (sums->wl * sums->wxl - sums->wll * swx) * inverse;
    lane_mask below = lanes_less(b_new, zero);
    lanes a_alone = sums->wxl / lanes_select(lanes_less(zero, sums->wll), sums->wll, lanes_of(1));
    a_new = lanes_select(below, a_alone, a_new);
    b_new = lanes_select(below, zero, b_new);
    good &= lanes_less(zero, a_new);
    *a = lanes_select(good, a_new, *a);
    *b = lanes_select(good, b_new, *b);
}

/* Step 1. */
static void VARIANT(affine_fit)(struct VARIANT(affine_sub) *sub, const struct affine_shape *shape)
{
    const lanes lane_number = {0, 1, 2, 3, 4, 5, 6, 7};
    float low = sub->min < 0 ? sub->min : 0, range = sub->max - low;
    sub->a = sub->code_mean = 0;
    sub->b = -low;
    if (range <= 0) return; /* all values are equal and not positive */
    float best = INFINITY;
    for (size_t i = 0; i < shape->n_starts; i++) {
        const struct affine_start *start = &shape->starts[i];
        lanes b = lanes_of(low < 0 ? -(low + start->clip * range) : 0);
        lanes a = lanes_of(range) / (lanes_of(start->first) + lanes_of(start->step) * lane_number);
        struct VARIANT(affine_sums) sums;
        for (int round = 0; round < 4; round++) {
            sums = VARIANT(affine_code)(sub, shape->n, b, lanes_of(1) / a, shape->code_max);
            VARIANT(affine_solve)(sub, &sums, &a, &b);
        }
        lanes error = VARIANT(affine_error)(sub, &sums, a, b);
        int lane = lanes_argmin(error);
        if (error[lane] >= best) continue;
        best = error[lane];
        sub->a = a[lane];
        sub->b = b[lane];
        sub->code_mean = sums.wl[lane] / sub->sum_w;
    }
}

/* Step 2, one sub-block: the best of 4 scales and 4 minima each. */
static void VARIANT(affine_choose)(const struct VARIANT(affine_block) *block, size_t k,
                                   struct VARIANT(affine_state) *state)
{
    const struct affine_shape *shape = &block->shape;
    const struct VARIANT(affine_sub) *sub = &block->subs[k];
    const lanes offset_s = {0, 0, 0, 0, 1, 1, 1, 1}, offset_m = {-1, 0, 1, 2, -1, 0, 1, 2};
    const lanes zero = lanes_of(0), top = lanes_of(shape->step_max);
    float best = INFINITY;
    float s0 = floorf(state->d > 0 ? sub->a / state->d : 0);
    struct VARIANT(affine_sums) best_sums = {zero, zero, zero};
    int best_lane = 0;
    for (int half = 0; half < 2; half++) {
        lanes s = lanes_min(lanes_max(lanes_of(s0 - 1 + 2 * (float)half) + offset_s, zero), top);
        lanes a = s * lanes_of(state->d);
        lanes b_wish = lanes_of(sub->b) + lanes_of(sub->code_mean) * (a - lanes_of(sub->a));
        lanes m_wish = state->dmin > 0 ? b_wish / lanes_of(state->dmin) : zero;
        lanes m = lanes_min(lanes_max(lanes_round(m_wish - lanes_of(0.5f)) + offset_m, zero), top);
        lanes b = m * lanes_of(state->dmin);
        lane_mask some = lanes_less(zero, a);
        lanes inverse = lanes_select(some, lanes_of(1) / lanes_select(some, a, lanes_of(1)), zero);
        struct VARIANT(affine_sums) sums = VARIANT(affine_code)(sub, shape->n, b, inverse, shape->code_max);
        lanes error = VARIANT(affine_error)(sub, &sums, a, b);
        int lane = lanes_argmin(error);
        if (error[lane] >= best) continue;
        best = error[lane];
        best_lane = lane;
        best_sums = sums;
        state->s[k] = s[lane];
        state->m[k] = m[lane];
    }
    float sk = state->s[k], mk = state->m[k];
    state->error += best;
    state->uu += sk * sk * best_sums.wll[best_lane];
    state->uv -= sk * mk * best_sums.wl[best_lane];
    state->vv += mk * mk * sub->sum_w;
    state->xu += sk * best_sums.wxl[best_lane];
    state->xv -= mk * sub->sum_wx;
}

static float VARIANT(affine_stored)(const struct VARIANT(affine_block) *block, float v)
{
    return v > 0 ? f16_to_f32(encode_scale(v * block->unit)) / block->unit : 0;
}

/* Step 2, from one (d, dmin): alternates until the error stops falling. Keeps the best in *best. */
static void VARIANT(affine_descend)(const struct VARIANT(affine_block) *block, float d, float dmin, int n_rounds,
                                    struct VARIANT(affine_state) *best)
{
    float last = INFINITY;
    for (int round = 0; round < n_rounds; round++) {
        struct VARIANT(affine_state) state = {.d = VARIANT(affine_stored)(block, d),
                                              .dmin = VARIANT(affine_stored)(block, dmin)};
        for (size_t k = 0; k < block->shape.n_subs; k++) VARIANT(affine_choose)(block, k, &state);
        if (state.error < best->error) *best = state;
        if (state.error >= last) return;
        last = state.error;
        float det = state.uu * state.vv - state.uv * state.uv;
        if (det > 1e-6f * state.uu * state.vv) {
            d = (state.xu * state.vv - state.xv * state.uv) / det;
            dmin = (state.xv * state.uu - state.xu * state.uv) / det;
        } else if (state.uu > 0) {
            d = state.xu / state.uu;
        }
    }
}

/* Fills the block; false when it is all zeros or has a value that is not finite. */
static bool VARIANT(affine_prepare)(const float *values, const float *importance, struct VARIANT(affine_block) *block)
{
    size_t n = block->shape.n;
    float w_unit;
    if (!encode_units(values, importance, BLOCK, &block->unit, &w_unit)) return false;
    for (size_t k = 0; k < block->shape.n_subs; k++) {
        struct VARIANT(affine_sub) *sub = &block->subs[k];
        sub->sum_w = sub->sum_wx = sub->sum_wxx = 0;
        sub->min = INFINITY;
        sub->max = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            float x = values[k * n + i] / block->unit, w = encode_weight(importance, k * n + i, w_unit);
            sub->x[i] = x;
            sub->w[i] = w;
            sub->wx[i] = w * x;
            sub->sum_w += w;
            sub->sum_wx += w * x;
            sub->sum_wxx += w * x * x;
            if (x < sub->min) sub->min = x;
            if (x > sub->max) sub->max = x;
        }
    }
    return true;
}

static void VARIANT(affine_search)(struct VARIANT(affine_block) *block, struct VARIANT(affine_state) *best)
{
    const struct affine_shape *shape = &block->shape;
    float a_max = 0, b_max = 0;
    for (size_t k = 0; k < shape->n_subs; k++) {
        struct VARIANT(affine_sub) *sub = &block->subs[k];
        VARIANT(affine_fit)(sub, shape);
        if (sub->a > a_max) a_max = sub->a;
        if (sub->b > b_max) b_max = sub->b;
    }
    *best = (struct VARIANT(affine_state)){.error = INFINITY};
    for (size_t i = 0; i < sizeof affine_seeds / sizeof affine_seeds[0]; i++) {
        float top = shape->step_max * affine_seeds[i];
        VARIANT(affine_descend)(block, a_max / top, b_max / top, shape->n_rounds, best);
    }
}

/* All three steps; false as in encode_units. */
static bool VARIANT(affine_encode)(const struct affine_shape *shape, const float *values, const float *importance,
                                   struct affine_codes *out, float *unit)
{
    struct VARIANT(affine_block) block;
    struct VARIANT(affine_state) best;
    block.shape = *shape;
    bool good = VARIANT(affine_prepare)(values, importance, &block);
    *unit = block.unit;
    if (!good) return false;
    VARIANT(affine_search)(&block, &best);
    out->d = encode_scale(best.d * block.unit);
    out->dmin = encode_scale(best.dmin * block.unit);
    for (size_t k = 0; k < shape->n_subs; k++) {
        out->s[k] = (uint8_t)best.s[k];
        out->m[k] = (uint8_t)best.m[k];
        float a = best.d * best.s[k], b = best.dmin * best.m[k];
        for (size_t i = 0; i < shape->n; i++) {
            float code = a > 0 ? round_even((block.subs[k].x[i] + b) * (1 / a)) : 0;
            out->codes[k * shape->n + i] = (uint8_t)(code < 0 ? 0 : code > shape->code_max ? shape->code_max : code);
        }
    }
    return true;
}

void VARIANT(encode_q2_k_block)(const float *values, const float *importance, uint8_t *block)
{
    struct affine_codes found;
    float unit;
    if (!VARIANT(affine_encode)(&affine_q2_k, values, importance, &found, &unit)) {
        encode_hopeless(unit, block, 84, 80);
        return;
    }
    memset(block, 0, 84);
    for (size_t k = 0; k < 16; k++) block[k] = (uint8_t)(found.s[k] | found.m[k] << 4);
    for (size_t i = 0; i < BLOCK; i++) { /* see q2_k.c */
        size_t half = i / 128, shift = i % 128 / 32 * 2;
        block[16 + 32 * half + i % 32] |= (uint8_t)(found.codes[i] << shift);
    }
    store_u16(block + 80, found.d);
    store_u16(block + 82, found.dmin);
}

void VARIANT(encode_q4_k_block)(const float *values, const float *importance, uint8_t *block)
{
    struct affine_codes found;
    float unit;
    if (!VARIANT(affine_encode)(&affine_q4_k, values, importance, &found, &unit)) {
        encode_hopeless(unit, block, 144, 0);
        return;
    }
    store_u16(block, found.d);
    store_u16(block + 2, found.dmin);
    for (size_t j = 0; j < 4; j++) { /* see q4_k.c */
        block[4 + j] = (uint8_t)(found.s[j] | found.s[j + 4] >> 4 << 6);
        block[8 + j] = (uint8_t)(found.m[j] | found.m[j + 4] >> 4 << 6);
        block[12 + j] = (uint8_t)((found.s[j + 4] & 15) | (found.m[j + 4] & 15) << 4);
    }
    for (size_t i = 0; i < BLOCK / 2; i++) {
        size_t low = i / 32 * 64 + i % 32;
        block[16 + i] = (uint8_t)(found.codes[low] | found.codes[low + 32] << 4);
    }
}

#endif
