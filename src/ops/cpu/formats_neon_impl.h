/* formats_neon_impl.h - 32 weights of each of four rows, as they lie in their blocks, to signed bytes in natural order,
 * and what they are multiplied with. Rows lie in the lanes wherever one number stands for 16 or 32 weights. The layouts
 * of blocks are drawn in the AVX2 files of the formats. Everything here is inlined with the kind of format constant. */
#ifndef DS4_OPS_CPU_FORMATS_NEON_IMPL_H
#define DS4_OPS_CPU_FORMATS_NEON_IMPL_H

#include "ops/cpu/neon.h"
#include "quant/grids.h"

enum kind { Q8_0, MXFP4, Q4_K, Q2_K, IQ2_XXS };

INLINE uint32_t block_bytes(enum kind kind)
{
    return kind == Q8_0 ? 34 : kind == MXFP4 ? 17 : kind == Q4_K ? 144 : kind == Q2_K ? 84 : 66;
}
INLINE uint32_t block_values(enum kind kind) { return kind == Q8_0 || kind == MXFP4 ? 32 : 256; }
/* Groups of 32 that one pass of a loop decodes. Where shifts depend on the group, all of a block; but not with several
 * inputs, for which registers do not suffice then: only the two groups that are nibbles of the same bytes. */
INLINE uint32_t together(enum kind kind, uint32_t n_cols)
{
    if (kind != Q4_K && kind != Q2_K) return 1;
    return n_cols <= 1 ? 8 : kind == Q4_K ? 2 : 1;
}
INLINE bool is_fine(enum kind kind) { return kind <= Q4_K; } /* else COARSE */

/* The same place in four rows. */
struct rows { const uint8_t *at[4]; };

INLINE uint32x4_t words_at(const struct rows *rows, size_t offset)
{
    uint32x4_t v = vdupq_n_u32(load_u32(rows->at[0] + offset));
    v = vsetq_lane_u32(load_u32(rows->at[1] + offset), v, 1);
    v = vsetq_lane_u32(load_u32(rows->at[2] + offset), v, 2);
    return vsetq_lane_u32(load_u32(rows->at[3] + offset), v, 3);
}
INLINE float32x4_t halves_at(const struct rows *rows, size_t offset)
{
    uint16x4_t v = vdup_n_u16(load_u16(rows->at[0] + offset));
    v = vset_lane_u16(load_u16(rows->at[1] + offset), v, 1);
    v = vset_lane_u16(load_u16(rows->at[2] + offset), v, 2);
    return vcvt_f32_f16(vreinterpret_f16_u16(vset_lane_u16(load_u16(rows->at[3] + offset), v, 3)));
}
/* Halves of 2^(e - 127), as codes of MXFP4 are doubled. */
INLINE float32x4_t powers_at(const struct rows *rows)
{
    uint32x4_t e = vdupq_n_u32(*rows->at[0]);
    e = vsetq_lane_u32(*rows->at[1], e, 1);
    e = vsetq_lane_u32(*rows->at[2], e, 2);
    e = vshlq_n_u32(vsetq_lane_u32(*rows->at[3], e, 3), 23);
    return vmulq_n_f32(vreinterpretq_f32_u32(vmaxq_u32(e, vdupq_n_u32(0x00400000))), 0.5f); /* e = 0: 2^-127 */
}
/* Byte i of each word. */
INLINE uint32x4_t byte_of(uint32x4_t words, uint32_t i)
{
    return vandq_u32(vshlq_u32(words, vdupq_n_s32(-8 * (int32_t)i)), vdupq_n_u32(0xFF));
}

/* What four blocks of 256 say once. */
struct block {
    float32x4_t d, d_min;
    uint32x4_t scales[4]; /* Q4_K: bytes of scales 0-3, 4-7, minima 0-3, 4-7. Q2_K: as they lie, minimum above scale */
};
INLINE struct block block_at(enum kind kind, const struct rows *rows)
{
    struct block block UNINITIALISED;
    if (kind == Q4_K) {
        /* Six bits each: whole in the first 8 bytes, or four of them in the last 4 and two above the former. */
        uint32x4_t a = words_at(rows, 4), b = words_at(rows, 8), c = words_at(rows, 12);
        uint32x4_t six = vdupq_n_u32(0x3F3F3F3F), four = vdupq_n_u32(0x0F0F0F0F), two = vdupq_n_u32(0x30303030);
        block.d = halves_at(rows, 0), block.d_min = halves_at(rows, 2);
        block.scales[0] = vandq_u32(a, six), block.scales[2] = vandq_u32(b, six);
        block.scales[1] = vorrq_u32(vandq_u32(c, four), vandq_u32(vshrq_n_u32(a, 2), two));
        block.scales[3] = vorrq_u32(vandq_u32(vshrq_n_u32(c, 4), four), vandq_u32(vshrq_n_u32(b, 2), two));
    } else if (kind == Q2_K) {
        UNROLL for (uint32_t i = 0; i < 4; i++) block.scales[i] = words_at(rows, 4 * i);
        block.d = halves_at(rows, 80);
        block.d_min = vmulq_n_f32(halves_at(rows, 82), SUM_UNIT);
    } else {
        block.d = kind == IQ2_XXS ? vmulq_n_f32(halves_at(rows, 0), 0.125f) : vdupq_n_f32(0);
    }
    return block;
}

/* What 32 weights are multiplied with. Scales of Q4_K and IQ2_XXS (17 and 16 bits) are exact. */
struct group {
    float32x4_t d, d_min;      /* d_min: Q4_K */
    uint32x4_t scale[2], min[2]; /* of either 16: Q2_K */
};
INLINE struct group group_at(enum kind kind, const struct rows *rows, const struct block *block, uint32_t i)
{
    struct group group UNINITIALISED;
    if (kind == Q8_0) group.d = halves_at(rows, 0);
    if (kind == MXFP4) group.d = powers_at(rows);
    if (kind == Q4_K) {
        group.d = vmulq_f32(block->d, vcvtq_f32_u32(byte_of(block->scales[i / 4], i % 4)));
        group.d_min = vmulq_f32(block->d_min, vcvtq_f32_u32(byte_of(block->scales[2 + i / 4], i % 4)));
    }
    if (kind == IQ2_XXS) {
        uint32x4_t s = vshrq_n_u32(words_at(rows, 2 + 8 * i + 4), 28);
        group.d = vmulq_f32(block->d, vcvtq_f32_u32(vorrq_u32(vaddq_u32(s, s), vdupq_n_u32(1))));
    }
    UNROLL for (uint32_t h = 0; h < 2 && kind == Q2_K; h++) {
        uint32x4_t both = byte_of(block->scales[i / 2], i % 2 * 2 + h);
        group.scale[h] = vandq_u32(both, vdupq_n_u32(15));
        group.min[h] = vshrq_n_u32(both, 4);
    }
    return group;
}

INLINE int8x16_t signed_bytes(uint8x16_t v) { return vreinterpretq_s8_u8(v); }

/* Group i of IQ2_XXS: indices into the grid of 8 magnitudes, then four 7-bit fields of signs, the eighth sign of each
 * makes the number of minuses even. */
INLINE void codes_iq2_xxs(const struct rows *rows, uint32_t i, int8x16_t *v)
{
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    const uint8x16_t spread = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
    uint32x4_t words = words_at(rows, 2 + 8 * i + 4);
    uint32x4_t fields = vandq_u32(words, vdupq_n_u32(0x7F));
    fields = vorrq_u32(fields, vandq_u32(vshlq_n_u32(words, 1), vdupq_n_u32(0x7F00)));
    fields = vorrq_u32(fields, vandq_u32(vshlq_n_u32(words, 2), vdupq_n_u32(0x7F0000)));
    fields = vorrq_u32(fields, vandq_u32(vshlq_n_u32(words, 3), vdupq_n_u32(0x7F000000)));
    uint8x16_t seven = vreinterpretq_u8_u32(fields), signs = vorrq_u8(seven, vshlq_n_u8(vcntq_u8(seven), 7));
    UNROLL for (uint32_t k = 0; k < 8; k++) {
        const uint8_t *index = rows->at[k / 2] + 2 + 8 * i + 2 * (k % 2);
        uint8x16_t size = vcombine_u8(vld1_u8(quant_grid_iq2_xxs[index[0]]), vld1_u8(quant_grid_iq2_xxs[index[1]]));
        uint8x16_t minus = vtstq_u8(vqtbl1q_u8(signs, vaddq_u8(spread, vdupq_n_u8((uint8_t)(2 * k)))), bit);
        v[k] = signed_bytes(vsubq_u8(veorq_u8(size, minus), minus));
    }
}

/* Weights 32 i .. 32 i + 31 of the blocks at rows: v[2 r] and v[2 r + 1] are those of row r. */
INLINE void codes_at(enum kind kind, const struct rows *rows, uint32_t i, int8x16_t *v)
{
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    if (kind == IQ2_XXS) {
        codes_iq2_xxs(rows, i, v);
        return;
    }
    UNROLL for (uint32_t k = 0; k < 8; k++) {
        const uint8_t *block = rows->at[k / 2];
        uint32_t half = k % 2;
        if (kind == Q8_0) v[k] = signed_bytes(vld1q_u8(block + 2 + 16 * half));
        if (kind == MXFP4) {
            uint8x16_t codes = vld1q_u8(block + 1);
            codes = half ? vshrq_n_u8(codes, 4) : vandq_u8(codes, vdupq_n_u8(15));
            v[k] = vqtbl1q_s8(vld1q_s8(doubled), codes);
        }
        if (kind == Q4_K) {
            uint8x16_t codes = vld1q_u8(block + 16 + 32 * (i / 2) + 16 * half);
            v[k] = signed_bytes(i % 2 ? vshrq_n_u8(codes, 4) : vandq_u8(codes, vdupq_n_u8(15)));
        }
        if (kind == Q2_K) {
            uint8x16_t codes = vld1q_u8(block + 16 + 32 * (i / 4) + 16 * half);
            codes = vshlq_u8(codes, vdupq_n_s8((int8_t)(-2 * (int32_t)(i % 4))));
            v[k] = signed_bytes(i % 4 == 3 ? codes : vandq_u8(codes, vdupq_n_u8(3)));
        }
    }
}

#endif
