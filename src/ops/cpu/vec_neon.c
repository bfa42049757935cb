/* vec_neon.c - loops over rows of activations: norms, streams, the activation of the experts, pooling of compressors,
 * the Hadamard transform and rows of state. A sum runs in chains of 4 lanes; a rest of fewer is padded with zeros. */
#if defined(__aarch64__)
#include <math.h>

#include "base/f16.h"
#include "ops/cpu/neon.h"

float neon_sum_squares(const float *x, uint32_t n)
{
    float32x4_t sum[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        UNROLL for (uint32_t j = 0; j < 4; j++) {
            float32x4_t v = vld1q_f32(x + i + 4 * j);
            sum[j] = vfmaq_f32(sum[j], v, v);
        }
    for (; i < n; i += 4) {
        float32x4_t v = load_some(x + i, n - i);
        sum[0] = vfmaq_f32(sum[0], v, v);
    }
    return sum_four(vaddq_f32(vaddq_f32(sum[0], sum[1]), vaddq_f32(sum[2], sum[3])));
}

void neon_scale(const float *x, const float *weight, float factor, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i += 4) {
        float32x4_t v = vmulq_n_f32(load_some(x + i, n - i), factor);
        store_some(y + i, n - i, weight ? vmulq_f32(v, load_some(weight + i, n - i)) : v);
    }
}

void neon_swiglu(const float *a, const float *b, float limit, float weight, size_t n, float *m)
{
    float32x4_t most = vdupq_n_f32(limit), one = vdupq_n_f32(1.0f);
    for (size_t i = 0; i < n; i += 4) {
        float32x4_t gate = vminq_f32(load_some(a + i, n - i), most); /* stays what is not a number */
        float32x4_t up = vmaxq_f32(vminq_f32(load_some(b + i, n - i), most), vnegq_f32(most));
        float32x4_t silu = vdivq_f32(gate, vaddq_f32(one, exp_4(vnegq_f32(gate))));
        store_some(m + i, n - i, vmulq_n_f32(vmulq_f32(silu, up), weight));
    }
}

void neon_mix(const float *x, const float *w, uint32_t n_hc, uint32_t n_embd, float *u)
{
    for (uint32_t d = 0; d < n_embd; d += 4) {
        float32x4_t sum = vdupq_n_f32(0);
        for (uint32_t j = 0; j < n_hc; j++)
            sum = vfmaq_n_f32(sum, load_some(x + (size_t)j * n_embd + d, n_embd - d), w[j]);
        store_some(u + d, n_embd - d, sum);
    }
}

/* n_hc <= 16: the old values of 4 channels are held while the new ones are made. */
INLINE void expand_4(float *x, float32x4_t y, const float *post, const float *comb, uint32_t n_hc, uint32_t n_embd,
                     uint32_t n)
{
    float32x4_t old[16];
    for (uint32_t j = 0; j < n_hc; j++) old[j] = load_some(x + (size_t)j * n_embd, n);
    for (uint32_t k = 0; k < n_hc; k++) {
        float32x4_t sum = vmulq_n_f32(y, post[k]);
        for (uint32_t j = 0; j < n_hc; j++) sum = vfmaq_n_f32(sum, old[j], comb[j * n_hc + k]);
        store_some(x + (size_t)k * n_embd, n, sum);
    }
}

void neon_expand(float *x, const float *y, const float *post, const float *comb, uint32_t n_hc, uint32_t n_embd)
{
    for (uint32_t d = 0; d < n_embd; d += 4) {
        float32x4_t v = load_some(y + d, n_embd - d);
        if (n_hc == 4) expand_4(x + d, v, post, comb, 4, n_embd, n_embd - d);
        else expand_4(x + d, v, post, comb, n_hc, n_embd, n_embd - d);
    }
}

void neon_pool(const float *const *k, const float *const *g, uint32_t n, uint32_t dim, float *out)
{
    for (uint32_t d = 0; d < dim; d += 4) {
        float32x4_t max = vdupq_n_f32(-INFINITY), total = vdupq_n_f32(0), sum = vdupq_n_f32(0);
        for (uint32_t i = 0; i < n; i++) max = vmaxq_f32(max, load_some(g[i] + d, dim - d));
        for (uint32_t i = 0; i < n; i++) {
            float32x4_t w = exp_4(vsubq_f32(load_some(g[i] + d, dim - d), max));
            total = vaddq_f32(total, w);
            sum = vfmaq_f32(sum, w, load_some(k[i] + d, dim - d));
        }
        store_some(out + d, dim - d, vdivq_f32(sum, total));
    }
}

/* Butterflies of strides 1 and 2 inside 4 lanes: u + v where the lane's bit is clear, u - v where it is set. */
void neon_hadamard(float *x, uint32_t n)
{
    const uint32_t ones[4] = {0, UINT32_MAX, 0, UINT32_MAX}, twos[4] = {0, 0, UINT32_MAX, UINT32_MAX};
    uint32x4_t odd = vld1q_u32(ones), high = vld1q_u32(twos);
    if (n < 4) {
        cpu_kernels_scalar.hadamard(x, n);
        return;
    }
    for (uint32_t i = 0; i < n; i += 4) {
        float32x4_t v = vld1q_f32(x + i), partner = vrev64q_f32(v);
        v = vbslq_f32(odd, vsubq_f32(partner, v), vaddq_f32(partner, v));
        partner = vextq_f32(v, v, 2);
        vst1q_f32(x + i, vbslq_f32(high, vsubq_f32(partner, v), vaddq_f32(partner, v)));
    }
    for (uint32_t stride = 4; stride < n; stride *= 2)
        for (uint32_t at = 0; at < n; at += 2 * stride)
            for (uint32_t i = at; i < at + stride; i += 4) {
                float32x4_t u = vld1q_f32(x + i), v = vld1q_f32(x + i + stride);
                vst1q_f32(x + i, vaddq_f32(u, v));
                vst1q_f32(x + i + stride, vsubq_f32(u, v));
            }
    float norm = (float)(1.0 / sqrt((double)n));
    for (uint32_t i = 0; i < n; i += 4) vst1q_f32(x + i, vmulq_n_f32(vld1q_f32(x + i), norm));
}

/* An E4M3 byte, shifted into half precision and multiplied by 2^8 to correct the bias, is its value exactly, subnormals
 * included; NaN codes do not occur in rows that kv_row_pack wrote and would come out as 480. */
void neon_kv_unpack(const uint8_t *packed, uint32_t dim, uint32_t n_rope, float *row)
{
    uint32_t n = dim - n_rope, i = 0;
    const uint8_t *scales = packed + n, *tail = scales + n / 64;
    for (; i < n; i += 8) {
        uint16x8_t bytes = vmovl_u8(vld1_u8(packed + i));
        uint16x8_t sign = vshlq_n_u16(vandq_u16(bytes, vdupq_n_u16(0x80)), 8);
        uint16x8_t magnitude = vshlq_n_u16(vandq_u16(bytes, vdupq_n_u16(0x7F)), 7);
        float16x8_t halves = vreinterpretq_f16_u16(vorrq_u16(sign, magnitude));
        float scale = e8m0_to_f32(scales[i / 64]);
        vst1q_f32(row + i, vmulq_n_f32(vmulq_n_f32(vcvt_f32_f16(vget_low_f16(halves)), 256.0f), scale));
        vst1q_f32(row + i + 4, vmulq_n_f32(vmulq_n_f32(vcvt_high_f32_f16(halves), 256.0f), scale));
    }
    for (i = 0; i + 8 <= n_rope; i += 8) {
        uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(tail + 2 * i));
        vst1q_f32(row + n + i, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)));
        vst1q_f32(row + n + i + 4, vreinterpretq_f32_u32(vshll_high_n_u16(v, 16)));
    }
    for (; i < n_rope; i++) row[n + i] = bf16_to_f32(load_u16(tail + 2 * i));
}

#endif
