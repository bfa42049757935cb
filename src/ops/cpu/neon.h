/* neon.h - what the NEON files share. Three tables run the same source: plain NEON, which every 64-bit ARM has, with
 * products of four bytes in one instruction (dotprod), and with products of two rows of eight bytes by two (i8mm). They
 * give the same bits, because sums of integers are exact and everything else is done by the same operations.
 *
 * Forms of input rows here (kernels.h; blocks of floats are the same everywhere):
 *   FINE    |q| <= 32639 = 256 h + l in two signed bytes; q16 holds them as bytes, eight h and eight l in turns.
 *   COARSE  t and t_sums in natural order; q16 is not used.
 *
 * Every output of integer products is one float chain: for each 32 weights (Q2_K: 256) the exact sum, converted, times
 * their scale, in ascending order; minima follow their scale; the scale of the input row comes last. */
#ifndef DS4_OPS_CPU_NEON_H
#define DS4_OPS_CPU_NEON_H

#include <arm_neon.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "ops/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* ---- eight lanes as two vectors ---- */

struct lanes { float32x4_t low, high; };

INLINE struct lanes load8(const float *p) { return (struct lanes){vld1q_f32(p), vld1q_f32(p + 4)}; }
INLINE void store8(float *p, struct lanes v)
{
    vst1q_f32(p, v.low);
    vst1q_f32(p + 4, v.high);
}
INLINE struct lanes all8(float f) { return (struct lanes){vdupq_n_f32(f), vdupq_n_f32(f)}; }
INLINE struct lanes add_product(struct lanes sum, struct lanes a, struct lanes b)
{
    return (struct lanes){vfmaq_f32(sum.low, a.low, b.low), vfmaq_f32(sum.high, a.high, b.high)};
}
/* ((l0+l2) + (l1+l3)) */
INLINE float sum_four(float32x4_t s)
{
    float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}
/* ((l0+l4) + (l2+l6)) + ((l1+l5) + (l3+l7)) */
INLINE float sum_lanes(struct lanes v) { return sum_four(vaddq_f32(v.low, v.high)); }

/* The first n of 4 values, zeros after. */
INLINE float32x4_t load_some(const float *p, size_t n)
{
    float values[4] = {0};
    if (n >= 4) return vld1q_f32(p);
    memcpy(values, p, n * sizeof *p);
    return vld1q_f32(values);
}
INLINE void store_some(float *p, size_t n, float32x4_t v)
{
    float values[4];
    if (n >= 4) {
        vst1q_f32(p, v);
        return;
    }
    vst1q_f32(values, v);
    memcpy(p, values, n * sizeof *p);
}

/* exp(x), relative error below 2e-7; 0 below -87.3; x above 88.7 is taken as 88.7. NaN stays NaN. */
INLINE float32x4_t exp_4(float32x4_t x)
{
    uint32x4_t low = vcltq_f32(x, vdupq_n_f32(-87.3f));
    x = vminq_f32(x, vdupq_n_f32(88.7f));
    float32x4_t n = vrndnq_f32(vmulq_n_f32(x, 1.44269504f));
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0.693359375f));
    r = vfmsq_f32(r, n, vdupq_n_f32(-2.12194440e-4f));
    float32x4_t p = vdupq_n_f32(1.0f / 5040);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 720), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 120), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 24), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 6), p, r);
    p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    /* 2^n in two steps, as n reaches 128. */
    int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1), rest = vsubq_s32(whole, half);
    int32x4_t bias = vdupq_n_s32(127);
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23)));
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23)));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), low));
}

/* supported_arm.c */
bool neon_supported(void);
bool neondot_supported(void);
bool neoni8mm_supported(void);

/* What all tables have in common. */
extern const struct format_kernels neon_f32, neon_f16, neon_bf16;
void neon_gemm(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
               uint32_t n_cols, bool last);
void neon_quantise(enum input_form form, const float *x, uint32_t n_in, uint8_t *record);
float neon_sum_squares(const float *x, uint32_t n);
void neon_scale(const float *x, const float *weight, float factor, uint32_t n, float *y);
void neon_swiglu(const float *a, const float *b, float limit, float weight, size_t n, float *m);
void neon_mix(const float *x, const float *w, uint32_t n_hc, uint32_t n_embd, float *u);
void neon_expand(float *x, const float *y, const float *post, const float *comb, uint32_t n_hc, uint32_t n_embd);
void neon_kv_unpack(const uint8_t *packed, uint32_t dim, uint32_t n_rope, float *row);
void neon_attend(struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n, uint32_t dim,
                 float scale, float *scores, size_t stride);
void neon_pool(const float *const *k, const float *const *g, uint32_t n, uint32_t dim, float *out);
void neon_hadamard(float *x, uint32_t n);

/* Members of a table of kernels: all but products of integers. */
#define NEON_BESIDE_PRODUCTS \
    .gemm = neon_gemm, \
    .quantise = neon_quantise, \
    .sum_squares = neon_sum_squares, \
    .scale = neon_scale, \
    .swiglu = neon_swiglu, \
    .mix = neon_mix, \
    .expand = neon_expand, \
    .kv_unpack = neon_kv_unpack, \
    .attend = neon_attend, \
    .pool = neon_pool, \
    .hadamard = neon_hadamard

#endif
