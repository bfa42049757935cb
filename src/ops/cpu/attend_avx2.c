/* attend_avx2.c - one block of key-value rows for several heads: softmax weights relative to a running maximum, and the
 * weighted sum of the rows. Each score is one chain of 8 lanes over the dimension; each output entry is one chain over
 * the rows, rescaled when a block raises the maximum. Blocks are cut by the caller at fixed rows of the query. */
#if defined(__x86_64__)
#include <math.h>

#include "ops/cpu/avx2.h"

/* Scores of up to 4 heads and 3 rows. */
INLINE void score_block(const struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n_rows,
                        uint32_t dim, float *scores, size_t stride)
{
    __m256 sum[4][3];
    UNROLL for (uint32_t h = 0; h < n_heads; h++)
        UNROLL for (uint32_t r = 0; r < n_rows; r++) sum[h][r] = _mm256_setzero_ps();
    for (uint32_t d = 0; d < dim; d += 8) {
        __m256 v[3];
        UNROLL for (uint32_t r = 0; r < n_rows; r++) v[r] = _mm256_loadu_ps(rows + (size_t)r * dim + d);
        UNROLL for (uint32_t h = 0; h < n_heads; h++) {
            __m256 q = _mm256_loadu_ps(heads[h].q + d);
            UNROLL for (uint32_t r = 0; r < n_rows; r++) sum[h][r] = _mm256_fmadd_ps(q, v[r], sum[h][r]);
        }
    }
    UNROLL for (uint32_t h = 0; h < n_heads; h++)
        UNROLL for (uint32_t r = 0; r < n_rows; r++) scores[h * stride + r] = sum_lanes(sum[h][r]);
}

static void score_heads(const struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n,
                        uint32_t dim, float *scores, size_t stride)
{
    uint32_t h = 0, r;
    for (; h + 4 <= n_heads; h += 4) {
        for (r = 0; r + 3 <= n; r += 3)
            score_block(heads + h, 4, rows + (size_t)r * dim, 3, dim, scores + h * stride + r, stride);
        for (; r < n; r++) score_block(heads + h, 4, rows + (size_t)r * dim, 1, dim, scores + h * stride + r, stride);
    }
    for (; h < n_heads; h++) {
        for (r = 0; r + 3 <= n; r += 3)
            score_block(heads + h, 1, rows + (size_t)r * dim, 3, dim, scores + h * stride + r, stride);
        for (; r < n; r++) score_block(heads + h, 1, rows + (size_t)r * dim, 1, dim, scores + h * stride + r, stride);
    }
}

/* Scores become weights; max and total move on; returns the factor for what was summed before. */
static float weigh(struct attention_head *head, float *s, uint32_t n, float scale)
{
    __m256 max8 = _mm256_set1_ps(head->max), factor = _mm256_set1_ps(scale), total = _mm256_setzero_ps();
    uint32_t i;
    for (i = n; i % 8; i++) s[i] = -3.4e38f; /* the caller's rows are padded to a multiple of 8 */
    for (i = 0; i < n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(s + i), factor);
        _mm256_storeu_ps(s + i, v);
        max8 = _mm256_max_ps(v, max8);
    }
    for (i = n; i % 8; i++) s[i] = -INFINITY;
    float max = max_lanes(max8);
    max8 = _mm256_set1_ps(max);
    for (i = 0; i < n; i += 8) {
        __m256 p = exp_ps(_mm256_sub_ps(_mm256_loadu_ps(s + i), max8));
        _mm256_storeu_ps(s + i, p);
        total = _mm256_add_ps(total, p);
    }
    float back = _mm256_cvtss_f32(exp_ps(_mm256_set1_ps(head->max - max)));
    head->total = head->total * back + sum_lanes(total);
    head->max = max;
    return back;
}

/* Adds the rows to 8 n_vectors entries of up to 4 heads. */
INLINE void add_block(const struct attention_head *heads, uint32_t n_heads, const float *back, const float *rows,
                      uint32_t n, uint32_t dim, uint32_t at, uint32_t n_vectors, const float *p, size_t stride)
{
    __m256 sum[4][3];
    UNROLL for (uint32_t h = 0; h < n_heads; h++)
        UNROLL for (uint32_t j = 0; j < n_vectors; j++)
            sum[h][j] = _mm256_mul_ps(_mm256_loadu_ps(heads[h].o + at + 8 * j), _mm256_set1_ps(back[h]));
    for (uint32_t r = 0; r < n; r++) {
        __m256 v[3];
        UNROLL for (uint32_t j = 0; j < n_vectors; j++) v[j] = _mm256_loadu_ps(rows + (size_t)r * dim + at + 8 * j);
        UNROLL for (uint32_t h = 0; h < n_heads; h++) {
            __m256 w = _mm256_broadcast_ss(p + h * stride + r);
            UNROLL for (uint32_t j = 0; j < n_vectors; j++) sum[h][j] = _mm256_fmadd_ps(w, v[j], sum[h][j]);
        }
    }
    UNROLL for (uint32_t h = 0; h < n_heads; h++)
        UNROLL for (uint32_t j = 0; j < n_vectors; j++) _mm256_storeu_ps(heads[h].o + at + 8 * j, sum[h][j]);
}

void avx2_attend(struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n, uint32_t dim,
                 float scale, float *scores, size_t stride)
{
    score_heads(heads, n_heads, rows, n, dim, scores, stride);
    for (uint32_t h = 0; h < n_heads;) {
        uint32_t n_now = n_heads - h >= 4 ? 4 : 1, at = 0;
        float back[4];
        const float *p = scores + h * stride;
        for (uint32_t i = 0; i < n_now; i++) back[i] = weigh(&heads[h + i], scores + (h + i) * stride, n, scale);
        for (; at + 24 <= dim; at += 24) {
            if (n_now == 4) add_block(heads + h, 4, back, rows, n, dim, at, 3, p, stride);
            else add_block(heads + h, 1, back, rows, n, dim, at, 3, p, stride);
        }
        for (; at < dim; at += 8) {
            if (n_now == 4) add_block(heads + h, 4, back, rows, n, dim, at, 1, p, stride);
            else add_block(heads + h, 1, back, rows, n, dim, at, 1, p, stride);
        }
        h += n_now;
    }
}

#endif
