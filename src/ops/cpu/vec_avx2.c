/* vec_avx2.c - loops over rows of activations: norms, streams, the activation of the experts, pooling of compressors
 * and the Hadamard transform. A sum runs in one chain of 8 lanes; a rest of fewer than 8 is padded with zeros. */
#if defined(__x86_64__)
#include <math.h>

#include "base/f16.h"
#include "ops/cpu/avx2.h"

/* n < 8 leading values, zeros after. */
INLINE __m256i rest_mask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

float avx2_sum_squares(const float *x, uint32_t n)
{
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    uint32_t i = 0;
    for (; i + 32 <= n; i += 32)
        UNROLL for (int j = 0; j < 4; j++) {
            __m256 v = _mm256_loadu_ps(x + i + 8 * j);
            sum[j] = _mm256_fmadd_ps(v, v, sum[j]);
        }
    for (; i < n; i += 8) {
        __m256 v = i + 8 <= n ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, rest_mask(n - i));
        sum[0] = _mm256_fmadd_ps(v, v, sum[0]);
    }
    return sum_lanes(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
}

void avx2_scale(const float *x, const float *weight, float factor, uint32_t n, float *y)
{
    __m256 f = _mm256_set1_ps(factor);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), f);
        _mm256_storeu_ps(y + i, weight ? _mm256_mul_ps(v, _mm256_loadu_ps(weight + i)) : v);
    }
    for (; i < n; i++) y[i] = weight ? x[i] * factor * weight[i] : x[i] * factor;
}

INLINE __m256 swiglu8(__m256 a, __m256 b, __m256 limit, __m256 weight)
{
    __m256 minus = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    a = _mm256_min_ps(limit, a); /* the second operand is returned for NaN */
    b = _mm256_max_ps(_mm256_xor_ps(limit, minus), _mm256_min_ps(limit, b));
    __m256 silu = _mm256_div_ps(a, _mm256_add_ps(one, exp_ps(_mm256_xor_ps(a, minus))));
    return _mm256_mul_ps(_mm256_mul_ps(silu, b), weight);
}

void avx2_swiglu(const float *a, const float *b, float limit, float weight, size_t n, float *m)
{
    __m256 l = _mm256_set1_ps(limit), w = _mm256_set1_ps(weight);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(m + i, swiglu8(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), l, w));
    if (i < n) {
        __m256i mask = rest_mask(n - i);
        __m256 v = swiglu8(_mm256_maskload_ps(a + i, mask), _mm256_maskload_ps(b + i, mask), l, w);
        _mm256_maskstore_ps(m + i, mask, v);
    }
}

void avx2_mix(const float *x, const float *w, uint32_t n_hc, uint32_t n_embd, float *u)
{
    for (uint32_t d = 0; d < n_embd; d += 8) {
        __m256i mask = rest_mask(n_embd - d);
        __m256 sum = _mm256_setzero_ps();
        for (uint32_t j = 0; j < n_hc; j++) {
            const float *from = x + (size_t)j * n_embd + d;
            __m256 v = d + 8 <= n_embd ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, mask);
            sum = _mm256_fmadd_ps(_mm256_set1_ps(w[j]), v, sum);
        }
        if (d + 8 <= n_embd) _mm256_storeu_ps(u + d, sum);
        else _mm256_maskstore_ps(u + d, mask, sum);
    }
}

/* n_hc <= 16: the old values of 8 channels are held while the new ones are made. */
INLINE void expand8(float *x, __m256 y, const float *post, const float *comb, uint32_t n_hc, size_t stride, bool whole,
                    __m256i mask)
{
    __m256 old[16];
    for (uint32_t j = 0; j < n_hc; j++)
        old[j] = whole ? _mm256_loadu_ps(x + j * stride) : _mm256_maskload_ps(x + j * stride, mask);
    for (uint32_t k = 0; k < n_hc; k++) {
        __m256 sum = _mm256_mul_ps(_mm256_set1_ps(post[k]), y);
        for (uint32_t j = 0; j < n_hc; j++) sum = _mm256_fmadd_ps(_mm256_set1_ps(comb[j * n_hc + k]), old[j], sum);
        if (whole) _mm256_storeu_ps(x + k * stride, sum);
        else _mm256_maskstore_ps(x + k * stride, mask, sum);
    }
}

void avx2_expand(float *x, const float *y, const float *post, const float *comb, uint32_t n_hc, uint32_t n_embd)
{
    uint32_t d = 0;
    for (; d + 8 <= n_embd; d += 8) {
        __m256 v = _mm256_loadu_ps(y + d);
        if (n_hc == 4) expand8(x + d, v, post, comb, 4, n_embd, true, _mm256_setzero_si256());
        else expand8(x + d, v, post, comb, n_hc, n_embd, true, _mm256_setzero_si256());
    }
    if (d == n_embd) return;
    __m256i mask = rest_mask(n_embd - d);
    expand8(x + d, _mm256_maskload_ps(y + d, mask), post, comb, n_hc, n_embd, false, mask);
}

void avx2_pool(const float *const *k, const float *const *g, uint32_t n, uint32_t dim, float *out)
{
    for (uint32_t d = 0; d < dim; d += 8) {
        __m256i mask = rest_mask(dim - d);
        __m256 max = _mm256_set1_ps(-INFINITY), total = _mm256_setzero_ps(), sum = _mm256_setzero_ps();
        for (uint32_t i = 0; i < n; i++) max = _mm256_max_ps(max, _mm256_maskload_ps(g[i] + d, mask));
        for (uint32_t i = 0; i < n; i++) {
            __m256 w = exp_ps(_mm256_sub_ps(_mm256_maskload_ps(g[i] + d, mask), max));
            total = _mm256_add_ps(total, w);
            sum = _mm256_fmadd_ps(w, _mm256_maskload_ps(k[i] + d, mask), sum);
        }
        _mm256_maskstore_ps(out + d, mask, _mm256_div_ps(sum, total));
    }
}

/* Butterflies of strides 1, 2 and 4 inside 8 lanes: u + v where the lane's bit is clear, u - v where it is set. */
INLINE __m256 butterfly(__m256 x, __m256 partner, int set)
{
    __m256 sum = _mm256_add_ps(x, partner), difference = _mm256_sub_ps(partner, x);
    return set == 1 ? _mm256_blend_ps(sum, difference, 0xAA)
                    : set == 2 ? _mm256_blend_ps(sum, difference, 0xCC) : _mm256_blend_ps(sum, difference, 0xF0);
}

void avx2_hadamard(float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        v = butterfly(v, _mm256_permute_ps(v, 0xB1), 1);
        v = butterfly(v, _mm256_permute_ps(v, 0x4E), 2);
        v = butterfly(v, _mm256_permute2f128_ps(v, v, 1), 4);
        _mm256_storeu_ps(x + i, v);
    }
    for (uint32_t stride = 8; stride < n; stride *= 2)
        for (uint32_t at = 0; at < n; at += 2 * stride)
            for (uint32_t i = at; i < at + stride; i += 8) {
                __m256 u = _mm256_loadu_ps(x + i), v = _mm256_loadu_ps(x + i + stride);
                _mm256_storeu_ps(x + i, _mm256_add_ps(u, v));
                _mm256_storeu_ps(x + i + stride, _mm256_sub_ps(u, v));
            }
    __m256 norm = _mm256_set1_ps((float)(1.0 / sqrt((double)n)));
    for (uint32_t i = 0; i < n; i += 8) _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), norm));
}

/* An E4M3 byte, shifted into half precision and multiplied by 2^8 to correct the bias, is its value exactly, subnormals
 * included; NaN codes do not occur in rows that kv_row_pack wrote and would come out as 480. */
void avx2_kv_unpack(const uint8_t *packed, uint32_t dim, uint32_t n_rope, float *row)
{
    uint32_t n = dim - n_rope, n_blocks = n / 64;
    const uint8_t *scales = packed + n, *tail = scales + n_blocks;
    for (uint32_t i = 0; i < n; i += 8) {
        __m128i bytes = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(packed + i)));
        __m128i sign = _mm_slli_epi16(_mm_and_si128(bytes, _mm_set1_epi16(0x80)), 8);
        __m128i magnitude = _mm_slli_epi16(_mm_and_si128(bytes, _mm_set1_epi16(0x7F)), 7);
        __m256 v = _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(sign, magnitude)), _mm256_set1_ps(256.0f));
        _mm256_storeu_ps(row + i, _mm256_mul_ps(v, _mm256_set1_ps(e8m0_to_f32(scales[i / 64]))));
    }
    uint32_t i = 0;
    for (; i + 8 <= n_rope; i += 8) {
        __m256i v = _mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(tail + 2 * i)), 16);
        _mm256_storeu_ps(row + n + i, _mm256_castsi256_ps(v));
    }
    for (; i < n_rope; i++) row[n + i] = bf16_to_f32(load_u16(tail + 2 * i));
}

#endif
