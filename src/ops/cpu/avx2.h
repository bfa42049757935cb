/* avx2.h - what the AVX2 files share: sums of lanes in the one fixed order, and broadcasts of narrow numbers. */
#ifndef DS4_OPS_CPU_AVX2_H
#define DS4_OPS_CPU_AVX2_H

#include <immintrin.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "ops/cpu/kernels.h"

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_5 _Pragma("clang loop unroll_count(5)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_5 _Pragma("GCC unroll 5")
#endif
#define INLINE static inline __attribute__((always_inline))

/* ((l0+l4) + (l2+l6)) + ((l1+l5) + (l3+l7)) */
INLINE float sum_lanes(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE int32_t sum_lanes_i32(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}
INLINE float max_lanes(__m256 v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
INLINE float half_at(const void *p) { return _cvtsh_ss(load_u16(p)); }
INLINE __m256i load256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE __m128i load128(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE __m256i twice128(__m128i v) { return _mm256_broadcastsi128_si256(v); }
/* Weights stream through once. Best is to read a task's rows as eight streams, each of them consecutive rows, and leave
 * fetching ahead to the hardware: on a core of Zen 3 beside a busy one Q8_0 reads 16 to 19 GB/s so, whatever its shape;
 * four neighbouring rows fetched ahead by instructions read 9.5 (1024 inputs) to 16 (8192 inputs). */
#define STREAMS 8u
/* Where one row advances at a time, 2 KiB ahead and into all caches is best. */
INLINE void fetch_row(const uint8_t *block)
{
    _mm_prefetch((const char *)block + 2048, _MM_HINT_T0);
    _mm_prefetch((const char *)block + 2048 + 64, _MM_HINT_T0);
}

/* Even and odd bytes of v as 16-bit numbers, signed. */
INLINE __m256i even_i8(__m256i v) { return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8); }
INLINE __m256i odd_i8(__m256i v) { return _mm256_srai_epi16(v, 8); }

/* exp(x), relative error below 2e-7; 0 below -87.3; x above 88.7 is taken as 88.7. NaN stays NaN. */
INLINE __m256 exp_ps(__m256 x)
{
    __m256 low = _mm256_cmp_ps(x, _mm256_set1_ps(-87.3f), _CMP_LT_OQ);
    x = _mm256_min_ps(_mm256_set1_ps(88.7f), x); /* second operand is returned for NaN */
    __m256 n = _mm256_mul_ps(x, _mm256_set1_ps(1.44269504f));
    n = _mm256_round_ps(n, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    /* 2^n in two steps, as n reaches 128. */
    __m256i half = _mm256_srai_epi32(_mm256_cvtps_epi32(n), 1), rest = _mm256_sub_epi32(_mm256_cvtps_epi32(n), half);
    __m256i bias = _mm256_set1_epi32(127);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
    return _mm256_andnot_ps(low, p);
}

/* The kernels of each file. */
extern const struct format_kernels avx2_f32, avx2_f16, avx2_bf16;
extern const struct format_kernels avx2_q8_0, avx2_q4_k, avx2_q6_k, avx2_mxfp4;
extern const struct format_kernels avx2_iq2_xxs, avx2_q2_k;
void avx2_quantise(enum input_form form, const float *x, uint32_t n_in, uint8_t *record);
void avx2_gemm(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
               uint32_t n_cols, bool last);
float avx2_sum_squares(const float *x, uint32_t n);
void avx2_scale(const float *x, const float *weight, float factor, uint32_t n, float *y);
void avx2_swiglu(const float *a, const float *b, float limit, float weight, size_t n, float *m);
void avx2_mix(const float *x, const float *w, uint32_t n_hc, uint32_t n_embd, float *u);
void avx2_expand(float *x, const float *y, const float *post, const float *comb, uint32_t n_hc, uint32_t n_embd);
void avx2_kv_unpack(const uint8_t *packed, uint32_t dim, uint32_t n_rope, float *row);
void avx2_attend(struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n, uint32_t dim,
                 float scale, float *scores, size_t stride);
void avx2_pool(const float *const *k, const float *const *g, uint32_t n, uint32_t dim, float *out);
void avx2_hadamard(float *x, uint32_t n);
bool avx2_index_prepare(const float *q, const float *w, uint32_t n_heads, uint32_t dim, uint8_t *prepared);
void avx2_index_scores(const uint8_t *prepared, uint32_t n_heads, uint32_t dim, const uint8_t *rows, size_t row_bytes,
                       uint32_t n, float scale, float *scores);

#endif
