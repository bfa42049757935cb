/* formats_neon.c - weight rows unpacked to 16-bit integers, for one input as for many. The layouts of blocks are drawn
 * in the AVX2 files of the formats; values 0, 2, 4 ... of each 32 come before 1, 3, 5 ..., as those of inputs do. */
#if defined(__aarch64__)
#include "base/f16.h"
#include "ops/cpu/neon.h"
#include "quant/grids.h"

/* Stores 32 small integers, values 0-15 and 16-31, times a factor for either 16. */
INLINE void store_32(int8x16_t low, int8x16_t high, int16_t low_factor, int16_t high_factor, int16_t *to)
{
    int8x16_t even = vuzp1q_s8(low, high), odd = vuzp2q_s8(low, high);
    vst1q_s16(to, vmulq_n_s16(vmovl_s8(vget_low_s8(even)), low_factor));
    vst1q_s16(to + 8, vmulq_n_s16(vmovl_high_s8(even), high_factor));
    vst1q_s16(to + TILE_Q16_STEP, vmulq_n_s16(vmovl_s8(vget_low_s8(odd)), low_factor));
    vst1q_s16(to + TILE_Q16_STEP + 8, vmulq_n_s16(vmovl_high_s8(odd), high_factor));
}
INLINE int8x16_t signed_bytes(uint8x16_t v) { return vreinterpretq_s8_u8(v); }

static void unpack_q8_0(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i);
    for (uint32_t b = 0; b < tile->n_in / 32; b++, w += 34, q += 2 * TILE_Q16_STEP, d += PANEL) {
        store_32(signed_bytes(vld1q_u8(w + 2)), signed_bytes(vld1q_u8(w + 18)), 1, 1, q);
        *d = f16_to_f32(load_u16(w));
    }
}

static void unpack_mxfp4(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    int8x16_t table = vld1q_s8(doubled);
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i);
    for (uint32_t b = 0; b < tile->n_in / 32; b++, w += 17, q += 2 * TILE_Q16_STEP, d += PANEL) {
        uint8x16_t codes = vld1q_u8(w + 1);
        store_32(vqtbl1q_s8(table, vandq_u8(codes, vdupq_n_u8(15))), vqtbl1q_s8(table, vshrq_n_u8(codes, 4)), 1, 1, q);
        *d = e8m0_to_f32(*w) * 0.5f;
    }
}

static void unpack_q4_k(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i), *mins = tile->mins + row_i * tile->mins_stride;
    for (uint32_t b = 0; b < tile->n_in / 256; b++, w += 144, mins += 8) {
        float d_min = f16_to_f32(load_u16(w + 2));
        for (uint32_t i = 0; i < 8; i++, q += 2 * TILE_Q16_STEP) {
            const uint8_t *s = w + 4 + i; /* six bits each: whole in the first 8 bytes, or four of them in the last 4 */
            uint32_t scale = i < 4 ? s[0] & 63u : (s[4] & 15u) | (s[-4] >> 6) << 4;
            uint32_t min = i < 4 ? s[4] & 63u : (uint32_t)s[4] >> 4 | (s[0] >> 6) << 4;
            uint8x16_t low = vld1q_u8(w + 16 + 32 * (i / 2)), high = vld1q_u8(w + 32 + 32 * (i / 2));
            low = i % 2 ? vshrq_n_u8(low, 4) : vandq_u8(low, vdupq_n_u8(15));
            high = i % 2 ? vshrq_n_u8(high, 4) : vandq_u8(high, vdupq_n_u8(15));
            store_32(signed_bytes(low), signed_bytes(high), (int16_t)scale, (int16_t)scale, q);
            mins[i] = d_min * (float)min;
        }
        d[b * PANEL] = f16_to_f32(load_u16(w));
    }
}

static void unpack_q2_k(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    int16_t *q = tile_q16(tile, row_i), *mins = tile->mins16 + row_i * tile->mins_stride;
    float *d = tile_d(tile, row_i);
    for (uint32_t b = 0; b < tile->n_in / 256; b++, w += 84, mins += 16) {
        for (uint32_t i = 0; i < 8; i++, q += 2 * TILE_Q16_STEP) {
            int8x16_t shift = vdupq_n_s8((int8_t)(-2 * (int)(i % 4)));
            uint8x16_t low = vshlq_u8(vld1q_u8(w + 16 + 32 * (i / 4)), shift);
            uint8x16_t high = vshlq_u8(vld1q_u8(w + 32 + 32 * (i / 4)), shift);
            low = vandq_u8(low, vdupq_n_u8(3)), high = vandq_u8(high, vdupq_n_u8(3));
            store_32(signed_bytes(low), signed_bytes(high), w[2 * i] & 15, w[2 * i + 1] & 15, q);
        }
        for (uint32_t i = 0; i < 16; i++) mins[coarse_order(i)] = w[i] >> 4;
        d[b * PANEL] = f16_to_f32(load_u16(w + 80));
        d[b * PANEL + (tile->d_min - tile->d)] = f16_to_f32(load_u16(w + 82)) * SUM_UNIT;
    }
}

/* 16 magnitudes with their signs: two indices, two 7-bit fields; the eighth sign makes the number of minuses even. */
INLINE int8x16_t iq2_xxs_values(const uint8_t *index, uint32_t fields)
{
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8_t signs[2] = {fields & 127, fields >> 7 & 127};
    UNROLL for (int i = 0; i < 2; i++) signs[i] |= (uint8_t)(__builtin_parity(signs[i]) << 7);
    uint8x16_t magnitude = vcombine_u8(vld1_u8(quant_grid_iq2_xxs[index[0]]), vld1_u8(quant_grid_iq2_xxs[index[1]]));
    uint8x16_t minus = vtstq_u8(vcombine_u8(vdup_n_u8(signs[0]), vdup_n_u8(signs[1])), vld1q_u8(bit));
    return signed_bytes(vsubq_u8(veorq_u8(magnitude, minus), minus));
}

static void unpack_iq2_xxs(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i);
    for (uint32_t b = 0; b < tile->n_in / 256; b++, w += 66) {
        for (uint32_t g = 0; g < 8; g++, q += 2 * TILE_Q16_STEP) {
            const uint8_t *index = w + 2 + 8 * g;
            uint32_t word = load_u32(index + 4);
            int16_t factor = (int16_t)(2 * (word >> 28) + 1);
            store_32(iq2_xxs_values(index, word), iq2_xxs_values(index + 2, word >> 14), factor, factor, q);
        }
        d[b * PANEL] = f16_to_f32(load_u16(w)) * 0.125f;
    }
}

/* No format is multiplied as it lies. */
const struct format_kernels neon_q8_0 = {INPUT_FINE, 32, 0, 0, NULL, NULL, unpack_q8_0, NULL};
const struct format_kernels neon_mxfp4 = {INPUT_FINE, 32, 0, 0, NULL, NULL, unpack_mxfp4, NULL};
const struct format_kernels neon_q4_k = {INPUT_FINE, 256, 32, 0, NULL, NULL, unpack_q4_k, NULL};
const struct format_kernels neon_q2_k = {INPUT_COARSE, 256, 16, 0, NULL, NULL, unpack_q2_k, NULL};
const struct format_kernels neon_iq2_xxs = {INPUT_COARSE, 256, 0, 0, NULL, NULL, unpack_iq2_xxs, NULL};

#endif
