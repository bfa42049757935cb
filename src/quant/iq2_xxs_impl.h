/* iq2_xxs_impl.h - the search behind IQ2_XXS. Included by encode_plain.c and encode_avx2.c, which give VARIANT.
 *
 * A run of 8 values x with weights w is coded as t g_j (+-1) with g one of 256 vectors of the code book, where the
 * number of minus signs is even and t = d (2s + 1) / 8. With the signs of x the error is
 *     sum w x^2 - 2 t A + t^2 B,   A = sum w |x| g,   B = sum w g^2.
 * If x has an odd number of negatives one sign must be wrong, the one that costs least: A loses 2 min w |x| g. A and
 * B do not depend on t. So the best vector of the whole book for any t is that with the least t B - 2 A: no neighbour
 * lists, no rounding to the book, nothing is missed. In three steps:
 * 1. For each run, the best vectors at N_SAMPLES values of t around the likely one: all that can win near it.
 * 2. For N_TRIALS values of d, each group of 4 runs takes the s of least error among all 16 by these vectors; the best
 *    d is refitted by least squares.
 * 3. With d and s settled, each run takes the best vector of the whole book for exactly its t; d is refitted once more
 *    if that helps. */
#ifndef DS4_QUANT_IQ2_XXS_IMPL_H
#define DS4_QUANT_IQ2_XXS_IMPL_H

#include "base/f16.h"
#include "quant/encode.h"
#include "quant/grids.h"
#include "quant/lanes.h"
#include "quant/units.h"

#define IQ2_BLOCK 256
#define IQ2_RUNS 32
/* On Gaussian data, flat and weighted, more samples, more trials or wider ranges change the error by less than
 * 0.1 %. */
#define N_SAMPLES 6
#define N_TRIALS 6
#define T_MIDDLE 0.05f /* of the root mean square of a group */
#define T_LOW 0.65f
#define T_HIGH 1.45f
#define D_LOW 0.85f /* of the d that gives the largest t the largest s */
#define D_HIGH 1.15f

struct VARIANT(iq2_run) {
    float p[8], w[8]; /* w |x|, w */
    bool odd;
    uint8_t signs;
    size_t n; /* different vectors that are best at a sample of t; their A and B */
    float a[N_SAMPLES], b[N_SAMPLES];
};

struct VARIANT(iq2_block) {
    struct VARIANT(iq2_run) runs[IQ2_RUNS];
    float unit;
    float t_best[8]; /* least-squares t of each group at its best sample */
};

/* A and B of the whole code book. */
static void VARIANT(iq2_book)(const struct VARIANT(iq2_run) *run, float a_out[256], float b_out[256])
{
    for (size_t v = 0; v < 256; v += N_LANES) {
        lanes a = lanes_of(0), b = lanes_of(0), least = lanes_of(INFINITY);
        for (size_t j = 0; j < 8; j++) {
            lanes g = lanes_load(&quant_grid_iq2_xxs_columns[j][v]), pg = g * lanes_of(run->p[j]);
            a += pg;
            b += g * lanes_of(run->w[j]) * g;
            least = lanes_min(pg, least);
        }
        if (run->odd) a -= lanes_of(2) * least;
        lanes_store(a_out + v, a);
        lanes_store(b_out + v, b);
    }
}

/* Numbers of the vectors that are best at t[0..n). n is a constant where it is called. */
LANE_FN void VARIANT(iq2_best)(const float a[256], const float b[256], const float *t, size_t n, int *best)
{
    lanes value[N_SAMPLES], number[N_SAMPLES], current = {0, 1, 2, 3, 4, 5, 6, 7};
    for (size_t k = 0; k < n; k++) {
        value[k] = lanes_of(INFINITY);
        number[k] = lanes_of(0);
    }
    for (size_t v = 0; v < 256; v += N_LANES) {
        lanes av = lanes_load(a + v) * lanes_of(2), bv = lanes_load(b + v);
        for (size_t k = 0; k < n; k++) {
            lanes cost = bv * lanes_of(t[k]) - av;
            lane_mask less = lanes_less(cost, value[k]);
            value[k] = lanes_select(less, cost, value[k]);
            number[k] = lanes_select(less, current, number[k]);
        }
        current += lanes_of(N_LANES);
    }
    for (size_t k = 0; k < n; k++) best[k] = (int)number[k][lanes_argmin(value[k])];
}

/* Step 1 for group g. */
static void VARIANT(iq2_sample)(struct VARIANT(iq2_block) *block, size_t group, float t_middle)
{
    float a[256], b[256], t[N_SAMPLES], best_gain = -1, t_best = t_middle;
    float sum_a[N_SAMPLES] = {0}, sum_b[N_SAMPLES] = {0};
    for (int k = 0; k < N_SAMPLES; k++)
        t[k] = t_middle * (T_LOW + (T_HIGH - T_LOW) * (float)k / (float)(N_SAMPLES - 1));
    for (size_t r = 4 * group; r < 4 * group + 4; r++) {
        struct VARIANT(iq2_run) *run = &block->runs[r];
        int best[N_SAMPLES];
        run->n = 0;
        VARIANT(iq2_book)(run, a, b);
        VARIANT(iq2_best)(a, b, t, N_SAMPLES, best);
        for (int k = 0; k < N_SAMPLES; k++) {
            sum_a[k] += a[best[k]];
            sum_b[k] += b[best[k]];
            if (k > 0 && best[k] == best[k - 1]) continue;
            run->a[run->n] = a[best[k]];
            run->b[run->n++] = b[best[k]];
        }
    }
    for (int k = 0; k < N_SAMPLES; k++) {
        float gain = sum_a[k] * sum_a[k] / (sum_b[k] > 0 ? sum_b[k] : 1);
        if (sum_a[k] <= 0 || gain <= best_gain) continue;
        best_gain = gain;
        t_best = sum_a[k] / sum_b[k];
    }
    block->t_best[group] = t_best;
}

struct VARIANT(iq2_state) {
    float d, error;
    float sum_a, sum_b; /* of A (2s+1)/8 and B ((2s+1)/8)^2: the least-squares d is their quotient */
    uint8_t s[8];
};

/* Step 2 for one d: every group takes its best s by the sampled vectors. */
static void VARIANT(iq2_choose)(const struct VARIANT(iq2_block) *block, float d, struct VARIANT(iq2_state) *state)
{
    const lanes steps = {0.125f, 0.375f, 0.625f, 0.875f, 1.125f, 1.375f, 1.625f, 1.875f};
    *state = (struct VARIANT(iq2_state)){.d = d};
    for (size_t group = 0; group < 8; group++) {
        float best = INFINITY, best_a = 0, best_b = 0;
        for (int half = 0; half < 2; half++) {
            lanes step = steps + lanes_of(2 * (float)half), t = step * lanes_of(d);
            lanes error = lanes_of(0), a = error, b = error;
            for (size_t r = 4 * group; r < 4 * group + 4; r++) {
                const struct VARIANT(iq2_run) *run = &block->runs[r];
                lanes least = lanes_of(INFINITY), a_run = t, b_run = t;
                for (size_t k = 0; k < run->n; k++) {
                    lanes ak = lanes_of(run->a[k]), bk = lanes_of(run->b[k]), cost = t * (t * bk - lanes_of(2) * ak);
                    lane_mask less = lanes_less(cost, least);
                    least = lanes_select(less, cost, least);
                    a_run = lanes_select(less, ak, a_run);
                    b_run = lanes_select(less, bk, b_run);
                }
                error += least;
                a += a_run;
                b += b_run;
            }
            int lane = lanes_argmin(error);
            if (error[lane] >= best) continue;
            best = error[lane];
            best_a = a[lane] * step[lane];
            best_b = b[lane] * step[lane] * step[lane];
            state->s[group] = (uint8_t)(8 * half + lane);
        }
        state->error += best;
        state->sum_a += best_a;
        state->sum_b += best_b;
    }
}

static float VARIANT(iq2_stored)(const struct VARIANT(iq2_block) *block, float d)
{
    return f16_to_f32(encode_scale(d * block->unit)) / block->unit;
}

/* Step 2. */
static void VARIANT(iq2_search)(const struct VARIANT(iq2_block) *block, struct VARIANT(iq2_state) *best)
{
    struct VARIANT(iq2_state) state;
    float t_max = 0, middle;
    for (size_t group = 0; group < 8; group++)
        if (block->t_best[group] > t_max) t_max = block->t_best[group];
    middle = t_max * 8 / 31;
    *best = (struct VARIANT(iq2_state)){.error = INFINITY};
    for (int k = 0; k < N_TRIALS; k++) {
        float factor = D_LOW + (D_HIGH - D_LOW) * (float)k / (float)(N_TRIALS - 1);
        VARIANT(iq2_choose)(block, VARIANT(iq2_stored)(block, middle * factor), &state);
        if (state.error < best->error) *best = state;
    }
    for (int round = 0; round < 2 && best->sum_b > 0; round++) {
        VARIANT(iq2_choose)(block, VARIANT(iq2_stored)(block, best->sum_a / best->sum_b), &state);
        if (state.error >= best->error) break;
        *best = state;
    }
}

/* Step 3: the best vector of the book for each run; returns the least-squares d of these. */
static float VARIANT(iq2_settle)(const struct VARIANT(iq2_block) *block, const struct VARIANT(iq2_state) *state,
                                 uint8_t index[IQ2_RUNS])
{
    float a[256], b[256], sum_a = 0, sum_b = 0;
    for (size_t r = 0; r < IQ2_RUNS; r++) {
        float step = (2 * (float)state->s[r / 4] + 1) / 8, t = state->d * step;
        int best;
        VARIANT(iq2_book)(&block->runs[r], a, b);
        VARIANT(iq2_best)(a, b, &t, 1, &best);
        index[r] = (uint8_t)best;
        sum_a += a[best] * step;
        sum_b += b[best] * step * step;
    }
    return sum_b > 0 ? sum_a / sum_b : 0;
}

/* The seven sign bits of a run coded with vector g: those of x, but for the cheapest when their number is odd. */
static uint32_t VARIANT(iq2_signs)(const struct VARIANT(iq2_run) *run, const uint8_t g[8])
{
    unsigned signs = run->signs;
    if (run->odd) {
        size_t cheapest = 0;
        for (size_t j = 1; j < 8; j++)
            if (run->p[j] * (float)g[j] < run->p[cheapest] * (float)g[cheapest]) cheapest = j;
        signs ^= 1u << cheapest;
    }
    return signs & 127u;
}

static bool VARIANT(iq2_prepare)(const float *values, const float *importance, struct VARIANT(iq2_block) *block)
{
    float w_unit;
    if (!encode_units(values, importance, IQ2_BLOCK, &block->unit, &w_unit)) return false;
    for (size_t group = 0; group < 8; group++) {
        float sum_w = 0, sum_wxx = 0;
        for (size_t r = 4 * group; r < 4 * group + 4; r++) {
            struct VARIANT(iq2_run) *run = &block->runs[r];
            run->signs = 0;
            for (size_t j = 0; j < 8; j++) {
                float x = values[8 * r + j] / block->unit, w = encode_weight(importance, 8 * r + j, w_unit);
                run->signs = (uint8_t)(run->signs | (x < 0) << j);
                run->w[j] = w;
                run->p[j] = w * (x < 0 ? -x : x);
                sum_w += w;
                sum_wxx += w * x * x;
            }
            run->odd = __builtin_popcount(run->signs) % 2;
        }
        VARIANT(iq2_sample)(block, group, sqrtf(sum_wxx / sum_w) * T_MIDDLE);
    }
    return true;
}

void VARIANT(encode_iq2_xxs_block)(const float *values, const float *importance, uint8_t *out)
{
    struct VARIANT(iq2_block) block;
    struct VARIANT(iq2_state) state;
    uint8_t index[IQ2_RUNS];
    if (!VARIANT(iq2_prepare)(values, importance, &block)) {
        encode_hopeless(block.unit, out, 66, 0);
        return;
    }
    VARIANT(iq2_search)(&block, &state);
    float d = VARIANT(iq2_settle)(&block, &state, index);
    store_u16(out, encode_scale(d * block.unit));
    for (size_t group = 0; group < 8; group++) {
        uint32_t b = (uint32_t)state.s[group] << 28;
        for (size_t l = 0; l < 4; l++) {
            size_t r = 4 * group + l;
            out[2 + 8 * group + l] = index[r];
            b |= VARIANT(iq2_signs)(&block.runs[r], quant_grid_iq2_xxs[index[r]]) << (7 * l);
        }
        store_u32(out + 2 + 8 * group + 4, b);
    }
}

#endif
