/* quantise_neon.c - input rows as integers; forms and their error: kernels.h. A row that holds a number that is not
 * finite gets a scale that is not a number, so that its products are not numbers either; zeros give zeros. */
#if defined(__aarch64__)
#include <math.h>

#include "ops/cpu/neon.h"

/* Scales below this would overflow when inverted: such rows count as zero. */
#define SMALLEST 1e-30f

/* Largest magnitude of n values (n a multiple of 8), or NaN when one is not finite. */
static float amplitude(const float *x, uint32_t n)
{
    uint32x4_t most = vdupq_n_u32(0); /* magnitudes are ordered as their bits; what is not finite has the largest */
    for (uint32_t i = 0; i < n; i += 4)
        most = vmaxq_u32(most, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + i))));
    float largest = vgetq_lane_f32(vreinterpretq_f32_u32(vdupq_n_u32(vmaxvq_u32(most))), 0);
    return isfinite(largest) ? largest : NAN;
}

/* 16 values times a factor, to the nearest integers. */
INLINE void round_16(const float *x, float factor, int32x4_t *q)
{
    UNROLL for (int i = 0; i < 4; i++) q[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), factor));
}

/* Stores 32 integers as 16-bit numbers, evens first. */
INLINE void store_q16(const int32x4_t *q, int16_t *to)
{
    int16x8_t words[4];
    UNROLL for (int i = 0; i < 4; i++) words[i] = vcombine_s16(vmovn_s32(q[2 * i]), vmovn_s32(q[2 * i + 1]));
    vst1q_s16(to, vuzp1q_s16(words[0], words[1]));
    vst1q_s16(to + 8, vuzp1q_s16(words[2], words[3]));
    vst1q_s16(to + 16, vuzp2q_s16(words[0], words[1]));
    vst1q_s16(to + 24, vuzp2q_s16(words[2], words[3]));
}

INLINE int32_t sum_16(const int32x4_t *q)
{
    return vaddvq_s32(vaddq_s32(vaddq_s32(q[0], q[1]), vaddq_s32(q[2], q[3])));
}

static void quantise_fine(const float *x, uint32_t n_in, uint8_t *record)
{
    struct input_record out = input_record_at(record, n_in);
    float most = amplitude(x, n_in), inverse = most >= SMALLEST ? 32767.0f / most : 0;
    *out.d = most < SMALLEST ? 0 : most / 32767.0f;
    for (uint32_t i = 0; i < n_in; i += 32) {
        int32x4_t q[8];
        round_16(x + i, inverse, q);
        round_16(x + i + 16, inverse, q + 4);
        store_q16(q, out.q16 + i);
        out.sums[i / 32] = (float)(sum_16(q) + sum_16(q + 4));
    }
}

static void quantise_coarse(const float *x, uint32_t n_in, uint8_t *record)
{
    struct input_record out = input_record_at(record, n_in);
    float most = amplitude(x, n_in), d = most < SMALLEST ? 0 : most / (127.0f * 255.0f);
    float to_ratio = most >= SMALLEST ? 255.0f / most : 0;
    *out.d = d;
    for (uint32_t i = 0; i < n_in; i += 32) {
        int32x4_t scaled[8];
        UNROLL for (uint32_t half = 0; half < 2; half++) {
            const float *from = x + i + 16 * half;
            uint32_t at = i / INPUT_BLOCK * 16 + coarse_order(i % INPUT_BLOCK / 16 + half);
            float ratio = ceilf(amplitude(from, 16) * to_ratio);
            int32_t t = ratio >= 255 ? 255 : ratio >= 1 ? (int32_t)ratio : 1;
            int32x4_t q[4];
            round_16(from, d > 0 ? 1.0f / (d * (float)t) : 0, q);
            UNROLL for (uint32_t j = 0; j < 4; j++) {
                q[j] = vmaxq_s32(vminq_s32(q[j], vdupq_n_s32(127)), vdupq_n_s32(-127));
                scaled[4 * half + j] = vmulq_n_s32(q[j], t);
            }
            out.t[at] = (int16_t)t;
            out.t_sums[at] = (int16_t)((t * sum_16(q) + SUM_UNIT / 2) >> 5);
            int16x8_t low = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
            int16x8_t high = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
            vst1q_s8(out.q8 + i + 16 * half, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        }
        store_q16(scaled, out.q16 + i);
    }
}

void neon_quantise(enum input_form form, const float *x, uint32_t n_in, uint8_t *record)
{
    if (form == INPUT_FINE) quantise_fine(x, n_in, record);
    else if (form == INPUT_COARSE) quantise_coarse(x, n_in, record);
}

#endif
