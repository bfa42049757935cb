/* sums_neon_impl.h - the one thing in which the NEON tables differ: sums of products of signed bytes, of four rows by
 * 16 or 32 values each with one input or several. A panel is eight vectors; NATURAL: two for each row. STORED is what
 * the instructions at hand like best, made by `store_panel`:
 *   i8mm     for each 8 values: 2 rows x 8, then the next 2 rows
 *   dotprod  for each 4 values: 4 rows x 4
 *   without  as NATURAL
 * Products of bytes: at most 128 * 128 each, so that 2 of them fit 16 bits unless both are -128 * -128, and 32 of them
 * times 256 fit 32. */
#ifndef DS4_OPS_CPU_SUMS_NEON_IMPL_H
#define DS4_OPS_CPU_SUMS_NEON_IMPL_H

#include "ops/cpu/neon.h"

enum order { NATURAL, STORED };

INLINE int8x16_t pair_low(int8x16_t a, int8x16_t b)
{
    return vreinterpretq_s8_s64(vtrn1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}
INLINE int8x16_t pair_high(int8x16_t a, int8x16_t b)
{
    return vreinterpretq_s8_s64(vtrn2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

/* sum + products of 16 bytes, four in a lane or so. wide: a weight may be -128, and so may an input. */
INLINE int32x4_t add_16(int32x4_t sum, int8x16_t w, int8x16_t x, bool wide)
{
#if defined(__ARM_FEATURE_DOTPROD)
    (void)wide;
    return vdotq_s32(sum, w, x);
#else
    int16x8_t products = vmull_s8(vget_low_s8(w), vget_low_s8(x));
    if (wide) return vpadalq_s16(vpadalq_s16(sum, products), vmull_high_s8(w, x));
    return vpadalq_s16(sum, vmlal_high_s8(products, w, x));
#endif
}
INLINE int32x4_t rows_in_lanes(const int32x4_t *row)
{
    return vpaddq_s32(vpaddq_s32(row[0], row[1]), vpaddq_s32(row[2], row[3]));
}

INLINE int32x4_t fine_natural(const int8x16_t *v, const int8_t *x, bool wide)
{
    int8x16_t x0 = vld1q_s8(x), x1 = vld1q_s8(x + 16), x2 = vld1q_s8(x + 32), x3 = vld1q_s8(x + 48);
    int8x16_t high[2] = {pair_low(x0, x1), pair_low(x2, x3)}, low[2] = {pair_high(x0, x1), pair_high(x2, x3)};
    int32x4_t sum[4];
    UNROLL for (uint32_t r = 0; r < 4; r++) {
        sum[r] = add_16(add_16(vdupq_n_s32(0), v[2 * r], high[0], wide), v[2 * r + 1], high[1], wide);
        sum[r] = vshlq_n_s32(sum[r], 8);
        sum[r] = add_16(add_16(sum[r], v[2 * r], low[0], wide), v[2 * r + 1], low[1], wide);
    }
    return rows_in_lanes(sum);
}
INLINE int32x4_t bytes_natural(const int8x16_t *v, uint32_t first, uint32_t n, const int8_t *x)
{
    int32x4_t sum[4];
    UNROLL for (uint32_t r = 0; r < 4; r++) {
        sum[r] = vdupq_n_s32(0);
        UNROLL for (uint32_t h = 0; h < n; h++)
            sum[r] = add_16(sum[r], v[2 * r + first + h], vld1q_s8(x + 16 * h), false);
    }
    return rows_in_lanes(sum);
}

#if defined(__ARM_FEATURE_MATMUL_INT8)

INLINE void store_panel(const int8x16_t *v, int8x16_t *to)
{
    UNROLL for (uint32_t h = 0; h < 2; h++)
        UNROLL for (uint32_t i = 0; i < 2; i++) {
            to[4 * h + i] = pair_low(v[4 * i + h], v[4 * i + 2 + h]);
            to[4 * h + 2 + i] = pair_high(v[4 * i + h], v[4 * i + 2 + h]);
        }
}
/* [2 rows][h, l] of either half of the panel; the bytes of an input lie as two columns do. */
INLINE int32x4_t fine_stored(const int8x16_t *v, const int8_t *x, bool wide)
{
    (void)wide;
    int32x4_t a = vdupq_n_s32(0), b = vdupq_n_s32(0);
    UNROLL for (uint32_t i = 0; i < 4; i++) {
        a = vmmlaq_s32(a, v[2 * i], vld1q_s8(x + 16 * i));
        b = vmmlaq_s32(b, v[2 * i + 1], vld1q_s8(x + 16 * i));
    }
    return vaddq_s32(vshlq_n_s32(vuzp1q_s32(a, b), 8), vuzp2q_s32(a, b));
}
/* Two inputs at a time; one is taken twice. */
INLINE void bytes_stored(const int8x16_t *v, uint32_t first, uint32_t n, const int8_t *const *x, uint32_t n_cols,
                         int32x4_t *sums)
{
    UNROLL for (uint32_t c = 0; c < n_cols; c += 2) {
        const int8_t *x0 = x[c], *x1 = x[c + 1 < n_cols ? c + 1 : c];
        int32x4_t a = vdupq_n_s32(0), b = vdupq_n_s32(0);
        UNROLL for (uint32_t h = 0; h < n; h++) {
            const int8x16_t *w = v + 4 * (first + h);
            int8x16_t u0 = vld1q_s8(x0 + 16 * h), u1 = vld1q_s8(x1 + 16 * h);
            int8x16_t low = pair_low(u0, u1), high = pair_high(u0, u1);
            a = vmmlaq_s32(vmmlaq_s32(a, w[0], low), w[2], high);
            b = vmmlaq_s32(vmmlaq_s32(b, w[1], low), w[3], high);
        }
        sums[c] = vuzp1q_s32(a, b);
        if (c + 1 < n_cols) sums[c + 1] = vuzp2q_s32(a, b);
    }
}

#elif defined(__ARM_FEATURE_DOTPROD)

INLINE void store_panel(const int8x16_t *v, int8x16_t *to)
{
    UNROLL for (uint32_t h = 0; h < 2; h++) {
        int32x4_t r[4], t[4];
        UNROLL for (uint32_t i = 0; i < 4; i++) r[i] = vreinterpretq_s32_s8(v[2 * i + h]);
        t[0] = vtrn1q_s32(r[0], r[1]), t[1] = vtrn2q_s32(r[0], r[1]);
        t[2] = vtrn1q_s32(r[2], r[3]), t[3] = vtrn2q_s32(r[2], r[3]);
        UNROLL for (uint32_t i = 0; i < 2; i++) {
            to[4 * h + i] = pair_low(vreinterpretq_s8_s32(t[i]), vreinterpretq_s8_s32(t[i + 2]));
            to[4 * h + 2 + i] = pair_high(vreinterpretq_s8_s32(t[i]), vreinterpretq_s8_s32(t[i + 2]));
        }
    }
}
INLINE int32x4_t fine_stored(const int8x16_t *v, const int8_t *x, bool wide)
{
    (void)wide;
    int32x4_t high = vdupq_n_s32(0), low = vdupq_n_s32(0);
    UNROLL for (uint32_t i = 0; i < 4; i++) {
        int8x16_t u = vld1q_s8(x + 16 * i);
        high = vdotq_laneq_s32(vdotq_laneq_s32(high, v[2 * i], u, 0), v[2 * i + 1], u, 1);
        low = vdotq_laneq_s32(vdotq_laneq_s32(low, v[2 * i], u, 2), v[2 * i + 1], u, 3);
    }
    return vaddq_s32(vshlq_n_s32(high, 8), low);
}
INLINE void bytes_stored(const int8x16_t *v, uint32_t first, uint32_t n, const int8_t *const *x, uint32_t n_cols,
                         int32x4_t *sums)
{
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        sums[c] = vdupq_n_s32(0);
        UNROLL for (uint32_t h = 0; h < n; h++) {
            const int8x16_t *w = v + 4 * (first + h);
            int8x16_t u = vld1q_s8(x[c] + 16 * h);
            sums[c] = vdotq_laneq_s32(vdotq_laneq_s32(sums[c], w[0], u, 0), w[1], u, 1);
            sums[c] = vdotq_laneq_s32(vdotq_laneq_s32(sums[c], w[2], u, 2), w[3], u, 3);
        }
    }
}

#else

INLINE void store_panel(const int8x16_t *v, int8x16_t *to)
{
    UNROLL for (uint32_t i = 0; i < 8; i++) to[i] = v[i];
}
INLINE int32x4_t fine_stored(const int8x16_t *v, const int8_t *x, bool wide) { return fine_natural(v, x, wide); }
INLINE void bytes_stored(const int8x16_t *v, uint32_t first, uint32_t n, const int8_t *const *x, uint32_t n_cols,
                         int32x4_t *sums)
{
    UNROLL for (uint32_t c = 0; c < n_cols; c++) sums[c] = bytes_natural(v, first, n, x[c]);
}

#endif

/* Four rows by the 32 values of a FINE input at x; a lane a row. */
INLINE int32x4_t fine_sums(enum order order, const int8x16_t *v, const int8_t *x, bool wide)
{
    return order == STORED ? fine_stored(v, x, wide) : fine_natural(v, x, wide);
}
/* Four rows by the n 16s from the first-th of a panel; x[c]: those 16s of input c. Magnitudes of weights below 64. */
INLINE void bytes_sums(enum order order, const int8x16_t *v, uint32_t first, uint32_t n, const int8_t *const *x,
                       uint32_t n_cols, int32x4_t *sums)
{
    if (order == STORED) {
        bytes_stored(v, first, n, x, n_cols, sums);
        return;
    }
    UNROLL for (uint32_t c = 0; c < n_cols; c++) sums[c] = bytes_natural(v, first, n, x[c]);
}

/* What the weights of a block are multiplied as when they are not kept: for one input of single bytes, i8mm has nothing
 * to pair. */
INLINE enum order passing_order(bool fine, uint32_t n_cols)
{
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return fine || n_cols > 1 ? STORED : NATURAL;
#else
    (void)fine;
    (void)n_cols;
    return NATURAL;
#endif
}

#endif
