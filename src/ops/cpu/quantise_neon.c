/* quantise_neon.c - input rows as integers; forms and their error: kernels.h, their bytes: neon.h. A row that holds a
 * number that is not finite gets a scale that is not a number, so that its products are not numbers either; zeros give
 * zeros. */
#if defined(__aarch64__)
#include <math.h>

#include "ops/cpu/neon.h"

/* Scales below this would overflow when inverted: such rows count as zero. */
#define SMALLEST 1e-30f
#define FINE_MAX 32639.0f /* 256 * 127 + 127: both bytes signed */

/* Largest magnitude of n values (n a multiple of 4), or NaN when one is not finite. */
static float amplitude(const float *x, uint32_t n)
{
    uint32x4_t most = vdupq_n_u32(0); /* magnitudes are ordered as their bits; what is not finite has the largest */
    for (uint32_t i = 0; i < n; i += 4)
        most = vmaxq_u32(most, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + i))));
    float largest = f32_from_bits(vmaxvq_u32(most));
    return isfinite(largest) ? largest : NAN;
}

/* 8 values times a factor, to the nearest integers. */
INLINE int16x8_t round_8(const float *x, float factor)
{
    int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), factor));
    int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), factor));
    return vcombine_s16(vqmovn_s32(low), vqmovn_s32(high));
}

/* The nearest 256 h leaves l from -128 to 127, the low byte as it is. */
static void quantise_fine(const float *x, uint32_t n_in, uint8_t *record)
{
    struct input_record out = input_record_at(record, n_in);
    float most = amplitude(x, n_in), inverse = most >= SMALLEST ? FINE_MAX / most : 0;
    int8_t *bytes = (int8_t *)out.q16;
    *out.d = most < SMALLEST ? 0 : most / FINE_MAX;
    for (uint32_t i = 0; i < n_in; i += 32) {
        int32x4_t sum = vdupq_n_s32(0);
        UNROLL for (uint32_t j = 0; j < 32; j += 8) {
            int16x8_t q = round_8(x + i + j, inverse);
            q = vmaxq_s16(vminq_s16(q, vdupq_n_s16((int16_t)FINE_MAX)), vdupq_n_s16(-(int16_t)FINE_MAX));
            vst1q_s8(bytes + 2 * (i + j), vcombine_s8(vrshrn_n_s16(q, 8), vmovn_s16(q)));
            sum = vpadalq_s16(sum, q);
        }
        out.sums[i / 32] = (float)vaddvq_s32(sum);
    }
}

static void quantise_coarse(const float *x, uint32_t n_in, uint8_t *record)
{
    struct input_record out = input_record_at(record, n_in);
    float most = amplitude(x, n_in), d = most < SMALLEST ? 0 : most / (127.0f * 255.0f);
    float to_ratio = most >= SMALLEST ? 255.0f / most : 0;
    *out.d = d;
    for (uint32_t i = 0; i < n_in; i += 16) {
        float ratio = ceilf(amplitude(x + i, 16) * to_ratio);
        int32_t t = ratio >= 255 ? 255 : ratio >= 1 ? (int32_t)ratio : 1;
        float inverse = d > 0 ? 1.0f / (d * (float)t) : 0;
        int16x8_t low = round_8(x + i, inverse), high = round_8(x + i + 8, inverse);
        low = vmaxq_s16(vminq_s16(low, vdupq_n_s16(127)), vdupq_n_s16(-127));
        high = vmaxq_s16(vminq_s16(high, vdupq_n_s16(127)), vdupq_n_s16(-127));
        vst1q_s8(out.q8 + i, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        out.t[i / 16] = (int16_t)t;
        out.t_sums[i / 16] = (int16_t)((t * vaddlvq_s16(vaddq_s16(low, high)) + SUM_UNIT / 2) >> 5);
    }
}

void neon_quantise(enum input_form form, const float *x, uint32_t n_in, uint8_t *record)
{
    if (form == INPUT_FINE) quantise_fine(x, n_in, record);
    else if (form == INPUT_COARSE) quantise_coarse(x, n_in, record);
}

#endif
