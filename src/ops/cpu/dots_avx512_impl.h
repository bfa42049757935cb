/* dots_avx512_impl.h - weights as they lie times few input rows. Floats take eight rows at a time, two a register; the
 * rest of fewer goes the AVX2 way, whose bits are the same. Blocks of 256 take one row, whose halves are added as
 * integers. The layouts of blocks are drawn in the AVX2 files of the formats. */
#ifndef DS4_OPS_CPU_DOTS_AVX512_IMPL_H
#define DS4_OPS_CPU_DOTS_AVX512_IMPL_H

#include "ops/cpu/avx512.h"

/* Kinds of floats. */
enum kind { F32, F16, BF16 };
#define ROW_PAIRS (STREAMS / 2)

/* 8 floats of either row. */
INLINE __m512 float_values(enum kind kind, const uint8_t *a, const uint8_t *b)
{
    if (kind == F32) return join256_ps(_mm256_castsi256_ps(load256(a)), _mm256_castsi256_ps(load256(b)));
    __m256i halves = _mm256_set_m128i(load128(b), load128(a));
    if (kind == F16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* Eight rows that lie `stride` bytes apart, whose results go to place `row` and those y_step apart. */
INLINE void dot_eight(enum kind kind, const uint8_t *w, size_t stride, uint32_t n_in, const struct gemm_col *cols,
                      uint32_t n_cols, uint32_t row, uint32_t y_step)
{
    __m512 sum[ROW_PAIRS][4];
    UNROLL for (uint32_t i = 0; i < ROW_PAIRS * n_cols; i++) sum[i / n_cols][i % n_cols] = _mm512_setzero_ps();
    for (uint32_t at = 0; at < n_in; at += 8, w += kind == F32 ? 32 : 16)
        UNROLL for (uint32_t p = 0; p < ROW_PAIRS; p++) {
            __m512 v = float_values(kind, w + 2 * p * stride, w + (2 * p + 1) * stride);
            UNROLL for (uint32_t c = 0; c < n_cols; c++)
                sum[p][c] = _mm512_fmadd_ps(v, twice256_ps(_mm256_loadu_ps(cols[c].x.f32 + at)), sum[p][c]);
        }
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        float *y = cols[c].y + row;
        UNROLL for (uint32_t p = 0; p < ROW_PAIRS; p++) {
            y[2 * p * y_step] = sum_lanes(low256_ps(sum[p][c]));
            y[(2 * p + 1) * y_step] = sum_lanes(high256_ps(sum[p][c]));
        }
    }
}

INLINE void dot_some(enum kind kind, const struct format_kernels *rest, const uint8_t *w, size_t row_bytes,
                     uint32_t n_rows, uint32_t n_in, const struct gemm_col *cols, uint32_t n_cols)
{
    uint32_t n = n_rows / STREAMS, done = n_in % 8 ? 0 : n * STREAMS;
    for (uint32_t i = 0; i < n && done; i++)
        for (uint32_t c = 0; c < n_cols;) {
            const uint8_t *rows = w + i * row_bytes;
            uint32_t left = n_cols - c;
            if (left >= 4) dot_eight(kind, rows, n * row_bytes, n_in, cols + c, 4, i, n), c += 4;
            else if (left >= 2) dot_eight(kind, rows, n * row_bytes, n_in, cols + c, 2, i, n), c += 2;
            else dot_eight(kind, rows, n * row_bytes, n_in, cols + c, 1, i, n), c++;
        }
    for (uint32_t c = 0; c < n_cols && done < n_rows; c++)
        rest->dot(w + done * row_bytes, row_bytes, n_rows - done, n_in, &cols[c].x, cols[c].y + done);
}

/* Unpacking is the AVX2 kernels'. */
#define ROW_PAIRS_FORMAT(name, kind, form, group, dot_cols) \
    DOT_FUNCTIONS(name, dot_some, dot_some, kind, &avx2_##name) \
    static void unpack_##name(const uint8_t *w, const struct tile *tile, uint32_t row_i) \
    { \
        avx2_##name.unpack(w, tile, row_i); \
    } \
    static const struct format_kernels name = {form, group, 0, dot_cols, dot_##name, dots_##name, unpack_##name, NULL};
ROW_PAIRS_FORMAT(f32, F32, INPUT_FLOAT, 0, 28)
ROW_PAIRS_FORMAT(f16, F16, INPUT_FLOAT, 0, 28)
ROW_PAIRS_FORMAT(bf16, BF16, INPUT_FLOAT, 0, 28)

INLINE __m256 q4_k_block(const uint8_t *w, const struct input *x, uint32_t b, __m256 sum)
{
    uint32_t first = load_u32(w + 4), second = load_u32(w + 8), third = load_u32(w + 12), scale[8];
    uint64_t scales = (uint64_t)((third & 0x0F0F0F0Fu) | (first >> 2 & 0x30303030u)) << 32 | (first & 0x3F3F3F3Fu);
    uint64_t mins = (uint64_t)((third >> 4 & 0x0F0F0F0Fu) | (second >> 2 & 0x30303030u)) << 32 | (second & 0x3F3F3F3Fu);
    __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)scales));
    _mm256_storeu_si256((__m256i *)scale, _mm256_or_si256(wide, _mm256_slli_epi32(wide, 16)));
    const __m512i low = join256(_mm256_setzero_si256(), _mm256_set1_epi16(8));
    const __m512i high = join256(_mm256_set1_epi16(4), _mm256_set1_epi16(12)), nibble = _mm512_set1_epi16(15);
    const int16_t *q = x->q16 + 256 * b;
    __m512i total = _mm512_setzero_si512();
    UNROLL for (uint32_t c = 0; c < 4; c++) {
        __m512i words = twice256(load256(w + 16 + 32 * c));
        __m512i part = _mm512_and_si512(_mm512_srlv_epi16(words, low), nibble);
        part = _mm512_mullo_epi16(part, _mm512_set1_epi32((int32_t)scale[2 * c]));
        add_pairs512(&total, part, load512(q + 64 * c));
        part = _mm512_and_si512(_mm512_srlv_epi16(words, high), nibble);
        part = _mm512_mullo_epi16(part, _mm512_set1_epi32((int32_t)scale[2 * c + 1]));
        add_pairs512(&total, part, load512(q + 64 * c + 32));
    }
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(fold(total)), _mm256_set1_ps(half_at(w)), sum);
    __m256 minima = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)mins)));
    minima = _mm256_mul_ps(minima, _mm256_set1_ps(half_at(w + 2)));
    return _mm256_fnmadd_ps(minima, _mm256_loadu_ps(x->sums + 8 * b), sum);
}

#define BLOCK_FORMAT(name, block_bytes, form, min_group, add_block) \
    static void dot_##name(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x, \
                           float *y) \
    { \
        for (uint32_t r = 0; r < n_rows; r++) { \
            const uint8_t *block = w + r * row_bytes; \
            __m256 sum = _mm256_setzero_ps(); \
            for (uint32_t b = 0; b < n_in / 256; b++, block += (block_bytes)) { \
                fetch_row(block); \
                sum = add_block(block, x, b, sum); \
            } \
            y[r] = sum_lanes(sum) * x->d; \
        } \
    } \
    static void unpack_##name(const uint8_t *w, const struct tile *tile, uint32_t row_i) \
    { \
        avx2_##name.unpack(w, tile, row_i); \
    } \
    static const struct format_kernels name = {form, 256, min_group, 3, dot_##name, NULL, unpack_##name, NULL};
BLOCK_FORMAT(q4_k, 144, INPUT_FINE, 32, q4_k_block)

#endif
