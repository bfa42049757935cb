/* index_neon_impl.h - scores of packed index rows with small integers. Codes of E2M1 are doubled (0 .. +-12). Four
 * heads of the query are a panel (sums_neon_impl.h), rows are its inputs: the sum over 32 values is exact, then it
 * meets the units of the head and of the row.
 *
 * A prepared query, for each 4 heads: for each 32 values: a panel as store_panel leaves it, f32 unit[4]; then f32
 * w[4]. */
#ifndef DS4_OPS_CPU_INDEX_NEON_IMPL_H
#define DS4_OPS_CPU_INDEX_NEON_IMPL_H

#include <math.h>

#include "ops/cpu/sums_neon_impl.h"

#define HEADS 4u
#define INDEX_ROWS 4u /* rows that meet a query together */
#define INDEX_DIM_MAX 1024u
#define INDEX_BLOCK_BYTES (128u + 16u)

INLINE size_t head_group_bytes(uint32_t dim) { return dim / 32 * INDEX_BLOCK_BYTES + 16; }

/* 32 values of one head as integers times a power of two that makes the largest magnitude at least 8 and below 16, so
 * that every E2M1 number on its scale is an integer. */
static bool index_integers(const float *q, int8_t *codes, float *unit)
{
    float most = 0;
    for (int i = 0; i < 32; i++) {
        if (!(fabsf(q[i]) < 1e30f)) return false;
        most = fmaxf(most, fabsf(q[i]));
    }
    if (most > 0 && most < 1e-30f) return false;
    *unit = most > 0 ? f32_from_bits((f32_bits(most) & 0x7F800000u) - (3u << 23)) : 0;
    for (int i = 0; i < 32; i++) {
        float scaled = most > 0 ? q[i] / *unit : 0;
        codes[i] = (int8_t)scaled;
        if ((float)codes[i] != scaled) return false;
    }
    return true;
}

/* Heads beyond the last are zeros. */
static bool index_prepare(const float *q, const float *w, uint32_t n_heads, uint32_t dim, uint8_t *prepared)
{
    if (dim > INDEX_DIM_MAX) return false;
    for (uint32_t head = 0; head < n_heads; head += HEADS) {
        uint32_t n = n_heads - head < HEADS ? n_heads - head : HEADS;
        float weights[HEADS] = {0};
        for (uint32_t b = 0; b < dim / 32; b++, prepared += INDEX_BLOCK_BYTES) {
            int8_t codes[HEADS * 32] = {0};
            float units[HEADS] = {0};
            for (uint32_t h = 0; h < n; h++)
                if (!index_integers(q + (size_t)(head + h) * dim + 32 * b, codes + 32 * h, &units[h])) return false;
            int8x16_t v[8], stored[8];
            for (uint32_t i = 0; i < 8; i++) v[i] = vld1q_s8(codes + 16 * i);
            store_panel(v, stored);
            for (uint32_t i = 0; i < 8; i++) vst1q_s8((int8_t *)prepared + 16 * i, stored[i]);
            memcpy(prepared + 128, units, sizeof units);
        }
        for (uint32_t h = 0; h < n; h++) weights[h] = w[head + h];
        memcpy(prepared, weights, sizeof weights);
        prepared += sizeof weights;
    }
    return true;
}

/* Doubled codes of 32 values. */
INLINE void index_row_values(const uint8_t *codes, int8_t *values)
{
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    uint8x16_t both = vld1q_u8(codes), low = vandq_u8(both, vdupq_n_u8(15)), high = vshrq_n_u8(both, 4);
    vst1q_s8(values, vqtbl1q_s8(vld1q_s8(doubled), vzip1q_u8(low, high)));
    vst1q_s8(values + 16, vqtbl1q_s8(vld1q_s8(doubled), vzip2q_u8(low, high)));
}
/* Half of 2^(e-127): codes are doubled. */
INLINE float index_row_unit(uint8_t e) { return f32_from_bits(e ? (uint32_t)e << 23 : 0x00400000u) * 0.5f; }

INLINE void score_some(const uint8_t *prepared, uint32_t n_heads, uint32_t dim, const uint8_t *rows, size_t row_bytes,
                       uint32_t n_rows, float scale, float *scores)
{
    int8_t values[INDEX_ROWS][INDEX_DIM_MAX] UNINITIALISED;
    float units[INDEX_ROWS][INDEX_DIM_MAX / 32] UNINITIALISED;
    float32x4_t score[INDEX_ROWS];
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t b = 0; b < dim / 32; b++) {
            index_row_values(rows + r * row_bytes + 16 * b, values[r] + 32 * b);
            units[r][b] = index_row_unit(rows[r * row_bytes + dim / 2 + b]);
        }
    UNROLL for (uint32_t r = 0; r < n_rows; r++) score[r] = vdupq_n_f32(0);
    for (uint32_t head = 0; head < n_heads; head += HEADS) {
        float32x4_t dot[INDEX_ROWS];
        UNROLL for (uint32_t r = 0; r < n_rows; r++) dot[r] = vdupq_n_f32(0);
        for (uint32_t b = 0; b < dim / 32; b++, prepared += INDEX_BLOCK_BYTES) {
            const int8_t *x[INDEX_ROWS] UNINITIALISED;
            int8x16_t v[8] UNINITIALISED;
            int32x4_t sums[INDEX_ROWS] UNINITIALISED;
            float32x4_t unit = vreinterpretq_f32_u8(vld1q_u8(prepared + 128));
            UNROLL for (uint32_t i = 0; i < 8; i++) v[i] = vld1q_s8((const int8_t *)prepared + 16 * i);
            UNROLL for (uint32_t r = 0; r < n_rows; r++) x[r] = values[r] + 32 * b;
            bytes_sums(STORED, v, 0, 2, x, n_rows, sums);
            UNROLL for (uint32_t r = 0; r < n_rows; r++)
                dot[r] = vfmaq_n_f32(dot[r], vmulq_f32(vcvtq_f32_s32(sums[r]), unit), units[r][b]);
        }
        float32x4_t w = vreinterpretq_f32_u8(vld1q_u8(prepared));
        UNROLL for (uint32_t r = 0; r < n_rows; r++)
            score[r] = vfmaq_f32(score[r], vmaxq_f32(dot[r], vdupq_n_f32(0)), w);
        prepared += sizeof w;
    }
    for (uint32_t r = 0; r < n_rows; r++) scores[r] = sum_four(score[r]) * scale;
}

static void index_scores(const uint8_t *prepared, uint32_t n_heads, uint32_t dim, const uint8_t *rows,
                         size_t row_bytes, uint32_t n, float scale, float *scores)
{
    uint32_t i = 0;
    for (; i + INDEX_ROWS <= n; i += INDEX_ROWS)
        score_some(prepared, n_heads, dim, rows + i * row_bytes, row_bytes, INDEX_ROWS, scale, scores + i);
    for (; i < n; i++) score_some(prepared, n_heads, dim, rows + i * row_bytes, row_bytes, 1, scale, scores + i);
}

#endif
