/* attend_neon.c - one block of key-value rows for several heads: softmax weights relative to a running maximum, and the
 * weighted sum of the rows. Each score is one chain of 4 lanes over the dimension; each output entry is one chain over
 * the rows, rescaled when a block raises the maximum. Blocks are cut by the caller at fixed rows of the query. */
#if defined(__aarch64__)
#include <math.h>

#include "ops/cpu/neon.h"

/* Scores of up to 4 heads and 4 rows. */
INLINE void score_block(const struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n_rows,
                        uint32_t dim, float *scores, size_t stride)
{
    float32x4_t sum[4][4];
    UNROLL for (uint32_t h = 0; h < n_heads; h++)
        UNROLL for (uint32_t r = 0; r < n_rows; r++) sum[h][r] = vdupq_n_f32(0);
    for (uint32_t d = 0; d < dim; d += 4) {
        float32x4_t v[4];
        UNROLL for (uint32_t r = 0; r < n_rows; r++) v[r] = vld1q_f32(rows + (size_t)r * dim + d);
        UNROLL for (uint32_t h = 0; h < n_heads; h++) {
            float32x4_t q = vld1q_f32(heads[h].q + d);
            UNROLL for (uint32_t r = 0; r < n_rows; r++) sum[h][r] = vfmaq_f32(sum[h][r], q, v[r]);
        }
    }
    UNROLL for (uint32_t h = 0; h < n_heads; h++)
        UNROLL for (uint32_t r = 0; r < n_rows; r++) scores[h * stride + r] = sum_four(sum[h][r]);
}

INLINE void score_some(const struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n,
                       uint32_t dim, float *scores, size_t stride)
{
    uint32_t r = 0;
    for (; r + 4 <= n; r += 4) score_block(heads, n_heads, rows + (size_t)r * dim, 4, dim, scores + r, stride);
    for (; r < n; r++) score_block(heads, n_heads, rows + (size_t)r * dim, 1, dim, scores + r, stride);
}

/* Scores become weights; max and total move on; returns the factor for what was summed before. The caller's rows of
 * scores have room for a multiple of 4. */
static float weigh(struct attention_head *head, float *s, uint32_t n, float scale)
{
    float32x4_t max4 = vdupq_n_f32(head->max), total = vdupq_n_f32(0);
    for (uint32_t i = n; i % 4; i++) s[i] = s[n - 1];
    for (uint32_t i = 0; i < n; i += 4) {
        float32x4_t v = vmulq_n_f32(vld1q_f32(s + i), scale);
        vst1q_f32(s + i, v);
        max4 = vmaxq_f32(v, max4);
    }
    for (uint32_t i = n; i % 4; i++) s[i] = -INFINITY;
    float max = vmaxvq_f32(max4);
    max4 = vdupq_n_f32(max);
    for (uint32_t i = 0; i < n; i += 4) {
        float32x4_t p = exp_4(vsubq_f32(vld1q_f32(s + i), max4));
        vst1q_f32(s + i, p);
        total = vaddq_f32(total, p);
    }
    float back = vgetq_lane_f32(exp_4(vdupq_n_f32(head->max - max)), 0);
    head->total = head->total * back + sum_four(total);
    head->max = max;
    return back;
}

/* Adds the rows to 4 n_vectors entries of up to 4 heads. */
INLINE void add_block(const struct attention_head *heads, uint32_t n_heads, const float *back, const float *rows,
                      uint32_t n, uint32_t dim, uint32_t at, uint32_t n_vectors, const float *p, size_t stride)
{
    float32x4_t sum[4][4];
    UNROLL for (uint32_t h = 0; h < n_heads; h++)
        UNROLL for (uint32_t j = 0; j < n_vectors; j++)
            sum[h][j] = vmulq_n_f32(vld1q_f32(heads[h].o + at + 4 * j), back[h]);
    for (uint32_t r = 0; r < n; r++) {
        float32x4_t v[4];
        UNROLL for (uint32_t j = 0; j < n_vectors; j++) v[j] = vld1q_f32(rows + (size_t)r * dim + at + 4 * j);
        UNROLL for (uint32_t h = 0; h < n_heads; h++)
            UNROLL for (uint32_t j = 0; j < n_vectors; j++) sum[h][j] = vfmaq_n_f32(sum[h][j], v[j], p[h * stride + r]);
    }
    UNROLL for (uint32_t h = 0; h < n_heads; h++)
        UNROLL for (uint32_t j = 0; j < n_vectors; j++) vst1q_f32(heads[h].o + at + 4 * j, sum[h][j]);
}

INLINE void attend_some(struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n, uint32_t dim,
                        float scale, float *scores, size_t stride)
{
    float back[4];
    uint32_t at = 0;
    score_some(heads, n_heads, rows, n, dim, scores, stride);
    for (uint32_t h = 0; h < n_heads; h++) back[h] = weigh(&heads[h], scores + h * stride, n, scale);
    for (; at + 16 <= dim; at += 16) add_block(heads, n_heads, back, rows, n, dim, at, 4, scores, stride);
    for (; at < dim; at += 4) add_block(heads, n_heads, back, rows, n, dim, at, 1, scores, stride);
}

void neon_attend(struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n, uint32_t dim,
                 float scale, float *scores, size_t stride)
{
    uint32_t h = 0;
    for (; h + 4 <= n_heads; h += 4) attend_some(heads + h, 4, rows, n, dim, scale, scores + h * stride, stride);
    for (; h < n_heads; h++) attend_some(heads + h, 1, rows, n, dim, scale, scores + h * stride, stride);
}

#endif
