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

/* ---- eight rows in the lanes of a vector ---- */

/* Lane i of the result: all lanes of v[i] put together by an operation on registers, which takes 32 bits at a time or
 * numbers within them. Halves are crossed last, which only one port does. */
#define LANE_TREE(name, op) \
    INLINE __m256i name(const __m256i *v) \
    { \
        __m256i s[4], t[2]; \
        UNROLL for (int i = 0; i < 4; i++) \
            s[i] = op(_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]), _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1])); \
        UNROLL for (int i = 0; i < 2; i++) \
            t[i] = op(_mm256_unpacklo_epi64(s[2 * i], s[2 * i + 1]), _mm256_unpackhi_epi64(s[2 * i], s[2 * i + 1])); \
        return op(_mm256_blend_epi32(t[0], t[1], 0xF0), _mm256_permute2x128_si256(t[0], t[1], 0x21)); \
    }
LANE_TREE(lane_sums_i32, _mm256_add_epi32)
/* In place and within each half of the vectors: dword i of v[j] becomes dword j of v[i]. */
INLINE void transpose_4(__m256i *v)
{
    __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpacklo_epi32(v[2], v[3]);
    __m256i c = _mm256_unpackhi_epi32(v[0], v[1]), d = _mm256_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm256_unpacklo_epi64(a, b), v[1] = _mm256_unpackhi_epi64(a, b);
    v[2] = _mm256_unpacklo_epi64(c, d), v[3] = _mm256_unpackhi_epi64(c, d);
}
/* In place: dword i of v[j] becomes dword j of v[i]. */
INLINE void transpose_8(__m256i *v)
{
    UNROLL for (int i = 0; i < 4; i++) {
        __m256i a = v[i], b = v[i + 4];
        v[i] = _mm256_permute2x128_si256(a, b, 0x20), v[i + 4] = _mm256_permute2x128_si256(a, b, 0x31);
    }
    transpose_4(v);
    transpose_4(v + 4);
}
/* The 32 bits at `offset` of eight rows. Broadcasts from memory and blends, because inserts all need one port. */
INLINE __m256i dwords_of(const uint8_t *const *rows, size_t offset)
{
    __m256i v[LANES];
    UNROLL for (uint32_t r = 0; r < LANES; r++) v[r] = _mm256_set1_epi32((int32_t)load_u32(rows[r] + offset));
    __m256i a = _mm256_blend_epi32(_mm256_blend_epi32(v[0], v[1], 0x02), _mm256_blend_epi32(v[2], v[3], 0x08), 0x0C);
    __m256i b = _mm256_blend_epi32(_mm256_blend_epi32(v[4], v[5], 0x20), _mm256_blend_epi32(v[6], v[7], 0x80), 0xC0);
    return _mm256_blend_epi32(a, b, 0xF0);
}
/* Lower halves of dwords as floats: 16-bit ones converted. */
INLINE __m256 low_halves(__m256i dwords)
{
    __m256i words = _mm256_and_si256(dwords, _mm256_set1_epi32(0xFFFF));
    words = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(words));
}

/* Eight rows of a run of weight rows: first, first + step ... The last row stands for those beyond it. */
struct streams { const uint8_t *rows[LANES]; uint32_t index[LANES]; };
INLINE struct streams streams_at(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t first, uint32_t step)
{
    struct streams s UNINITIALISED;
    for (uint32_t k = 0; k < LANES; k++) {
        s.index[k] = first + k * step < n_rows ? first + k * step : n_rows - 1;
        s.rows[k] = w + s.index[k] * row_bytes;
    }
    return s;
}
INLINE void streams_store(const struct streams *s, __m256 sum, float d, float *y)
{
    float values[LANES] UNINITIALISED;
    _mm256_storeu_ps(values, _mm256_mul_ps(sum, _mm256_set1_ps(d)));
    for (uint32_t k = 0; k < LANES; k++) y[s->index[k]] = values[k];
}

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
void avx2_quantise_fours(enum input_form form, const float *x, uint32_t n_in, uint8_t *record); /* for VNNI */
void avx2_gemm(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
               uint32_t n_cols, bool last);
/* For TILE_ROWS_MAX lanes; bytes in natural order. */
unpack_lanes_fn avx2_unpack_q8_0_wide, avx2_unpack_mxfp4_wide, avx2_unpack_q2_k_wide, avx2_unpack_iq2_xxs_wide;
gemm_lanes_fn avx2_gemm_lanes_32, avx2_gemm_lanes_q2_k, avx2_gemm_lanes_iq2_xxs;
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

/* Members of a table of kernels: all but matrix products, which every variant for x86-64 shares. */
#define AVX2_BESIDE_PRODUCTS \
    .sum_squares = avx2_sum_squares, \
    .scale = avx2_scale, \
    .swiglu = avx2_swiglu, \
    .mix = avx2_mix, \
    .expand = avx2_expand, \
    .kv_unpack = avx2_kv_unpack, \
    .attend = avx2_attend, \
    .pool = avx2_pool, \
    .hadamard = avx2_hadamard, \
    .index_prepare = avx2_index_prepare, \
    .index_scores = avx2_index_scores, \
    .index_heads_step = 8

#endif
