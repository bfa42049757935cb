/* neon.h - what the NEON files share: eight lanes as two vectors, and their sum in the one fixed order. */
#ifndef DS4_OPS_CPU_NEON_H
#define DS4_OPS_CPU_NEON_H

#include <arm_neon.h>

#include "ops/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

struct lanes { float32x4_t low, high; };

INLINE struct lanes load8(const float *p) { return (struct lanes){vld1q_f32(p), vld1q_f32(p + 4)}; }
INLINE struct lanes all8(float f) { return (struct lanes){vdupq_n_f32(f), vdupq_n_f32(f)}; }
INLINE struct lanes add_product(struct lanes sum, struct lanes a, struct lanes b)
{
    return (struct lanes){vfmaq_f32(sum.low, a.low, b.low), vfmaq_f32(sum.high, a.high, b.high)};
}
INLINE struct lanes subtract_product(struct lanes sum, struct lanes a, struct lanes b)
{
    return (struct lanes){vfmsq_f32(sum.low, a.low, b.low), vfmsq_f32(sum.high, a.high, b.high)};
}
/* ((l0+l4) + (l2+l6)) + ((l1+l5) + (l3+l7)) */
INLINE float sum_lanes(struct lanes v)
{
    float32x4_t s = vaddq_f32(v.low, v.high);
    float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}

/* The kernels of each file. */
extern const struct format_kernels neon_q8_0, neon_mxfp4, neon_q4_k, neon_q2_k, neon_iq2_xxs;
void neon_quantise(enum input_form form, const float *x, uint32_t n_in, uint8_t *record);
/* The gemm of integer groups. */
void neon_gemm_ints(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
                    uint32_t n_cols, bool last);

#endif
