/* lanes_avx512_impl.h - gemm_lanes_avx2.c with registers of sixteen rows: a step takes 32 bits of 48 rows, three
 * registers, and the same 32 bits of up to eight inputs, broadcast. With VNNI bytes are added by fours, the 16 that
 * share a multiplier into one 32-bit sum, of which the lower half counts: it meets its factor as one of a pair, the
 * other of which is zero. */
#ifndef DS4_OPS_CPU_LANES_AVX512_IMPL_H
#define DS4_OPS_CPU_LANES_AVX512_IMPL_H

#include "ops/cpu/avx512.h"

#define LANES_ROWS TILE_ROWS_MAX
#define VECTORS (LANES_ROWS / 16)
#define LANES_COLS 8u
#define STEP_BYTES (4u * LANES_ROWS)
#define WORDS_PIECE (LANES_PIECE / 2) /* 24 KiB of words, as LANES_PIECE is of bytes */

/* Where register blocks work. */
struct lanes_block {
    const struct tile *tile;
    const struct gemm_col *cols, *next; /* and the inputs that follow, to be fetched */
    float *sums;                        /* [columns][LANES_ROWS] */
};
typedef void lanes_block_fn(const struct lanes_block *k);

/* The 32 bits at p in all lanes. */
INLINE __m512i all_lanes512(const void *p) { return _mm512_set1_epi32((int32_t)load_u32(p)); }

/* sums += totals of a group times the scales at d, or -= them, of one column. */
INLINE void add_group(float *sums, __m512i (*total)[LANES_COLS], const float *d, uint32_t c, bool negative)
{
    UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
        float *sum = sums + c * LANES_ROWS + 16 * v;
        __m512 value = _mm512_cvtepi32_ps(total[v][c]), scale = _mm512_loadu_ps(d + 16 * v);
        __m512 old = _mm512_loadu_ps(sum);
        _mm512_storeu_ps(sum, negative ? _mm512_fnmadd_ps(value, scale, old) : _mm512_fmadd_ps(value, scale, old));
    }
}

/* Q8_0 and MXFP4: groups of 32. */
INLINE void lanes_32(const struct lanes_block *k, uint32_t n_cols)
{
    const struct tile *tile = k->tile;
    const uint8_t *w = (const uint8_t *)tile->q16;
    const float *d = tile->d;
    const int16_t *q16[LANES_COLS];
    UNROLL for (uint32_t c = 0; c < n_cols; c++) q16[c] = k->cols[c].x.q16 + tile->from;
    for (uint32_t at = 0; at < tile->n_in; at += 32, d += LANES_ROWS) {
        __m512i total[VECTORS][LANES_COLS];
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            _mm_prefetch((const char *)(k->next[c].x.q16 + tile->from + at), _MM_HINT_T0);
            UNROLL for (uint32_t v = 0; v < VECTORS; v++) total[v][c] = _mm512_setzero_si512();
        }
        for (uint32_t i = 0; i < 16; i += 2)
            UNROLL for (uint32_t odd = 0; odd < 2; odd++, w += STEP_BYTES)
                UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                    __m512i x = all_lanes512(q16[c] + at + i + 16 * odd);
                    UNROLL for (uint32_t v = 0; v < VECTORS; v++) add_pairs512(&total[v][c], load512(w + 64 * v), x);
                }
        UNROLL for (uint32_t c = 0; c < n_cols; c++) add_group(k->sums, total, d, c, false);
    }
}

#if defined(AVX512_BYTES)
#define BYTE_COLS 4u

/* *total += the 16 values from `at` on, times their scales and multipliers. Sums of OFFSET begin with what the offset
 * of the weights will add, modulo 2^16. */
INLINE void add_16(const struct lanes_block *k, uint32_t n_cols, uint32_t at, bool offset,
                   __m512i (*total)[LANES_COLS])
{
    const uint8_t *w = tile_q8(k->tile, LANES_ROWS, at, 0);
    const int16_t *scales = k->tile->scales16 + (size_t)at / 32 * 2 * LANES_ROWS + at / 16 % 2;
    const uint32_t x_at = k->tile->from + at;
    __m512i sum[VECTORS][BYTE_COLS];
    UNROLL for (uint32_t c = 0; c < n_cols; c++)
        UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            sum[v][c] = offset ? all_lanes512(k->cols[c].x.t_sums + x_at / 16) : _mm512_setzero_si512();
    UNROLL for (uint32_t i = 0; i < 4; i++, w += STEP_BYTES)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            __m512i x = all_lanes512(k->cols[c].x.q8 + x_at + 4 * i);
            UNROLL for (uint32_t v = 0; v < VECTORS; v++) add_fours512(&sum[v][c], load512(w + 64 * v), x);
        }
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        __m512i t = all_lanes512(k->cols[c].x.t + x_at / 16);
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
            __m512i factors = _mm512_maskz_mullo_epi16(0x55555555, t, load512(scales + 32 * v));
            add_pairs512(&total[v][c], sum[v][c], factors);
        }
    }
}

/* sums -= minima of the 256 values from `at` on. */
INLINE void subtract_mins(const struct lanes_block *k, uint32_t n_cols, uint32_t at, const float *d_min)
{
    __m512i total[VECTORS][LANES_COLS];
    const int16_t *mins = k->tile->mins16 + (size_t)at / 32 * 2 * LANES_ROWS;
    UNROLL for (uint32_t c = 0; c < n_cols; c++)
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) total[v][c] = _mm512_setzero_si512();
    UNROLL for (uint32_t i = 0; i < 256; i += 32, mins += 2 * LANES_ROWS)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            __m512i x = all_lanes512(k->cols[c].x.t_sums + (k->tile->from + at + i) / 16);
            UNROLL for (uint32_t v = 0; v < VECTORS; v++) add_pairs512(&total[v][c], load512(mins + 32 * v), x);
        }
    UNROLL for (uint32_t c = 0; c < n_cols; c++) add_group(k->sums, total, d_min, c, true);
}

/* Q2_K and IQ2_XXS. */
INLINE void lanes_256(const struct lanes_block *k, uint32_t n_cols, bool offset)
{
    const struct tile *tile = k->tile;
    for (uint32_t at = 0; at < tile->n_in; at += 256) {
        __m512i total[VECTORS][LANES_COLS];
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            const struct input *next = &k->next[c].x;
            UNROLL for (uint32_t i = 0; i < 256; i += 64)
                _mm_prefetch((const char *)(next->q8 + tile->from + at + i), _MM_HINT_T0);
            _mm_prefetch((const char *)(next->t + (tile->from + at) / 16), _MM_HINT_T0);
            _mm_prefetch((const char *)(next->t_sums + (tile->from + at) / 16), _MM_HINT_T0);
            UNROLL for (uint32_t v = 0; v < VECTORS; v++) total[v][c] = _mm512_setzero_si512();
        }
        for (uint32_t i = 0; i < 256; i += 16) add_16(k, n_cols, at + i, offset, total);
        const size_t d_at = (size_t)at / 256 * LANES_ROWS;
        UNROLL for (uint32_t c = 0; c < n_cols; c++) add_group(k->sums, total, tile->d + d_at, c, false);
        if (!offset) subtract_mins(k, n_cols, at, tile->d_min + d_at);
    }
}
#endif

/* The columns in blocks of 8, 4, 2 and 1, the largest of which is 1 << log; functions[0] takes one. */
INLINE void gemm_lanes(lanes_block_fn *const *functions, uint32_t log, const struct tile *tile,
                       const struct gemm_col *cols, uint32_t n_cols, bool last)
{
    for (uint32_t c = 0, n; c < n_cols; c += n) {
        while ((n = 1u << log) > n_cols - c) log--;
        float *sums = tile->sums + (size_t)c * LANES_ROWS;
        struct lanes_block k = {tile, cols + c, cols + (n_cols - c < 2 * n ? c : c + n), sums};
        if (tile->from == 0) memset(sums, 0, n * LANES_ROWS * sizeof *sums);
        functions[log](&k);
        for (uint32_t i = 0; i < n && last; i++)
            for (uint32_t r = 0; r < tile->n_rows; r++) k.cols[i].y[r] = sums[i * LANES_ROWS + r] * k.cols[i].x.d;
    }
}

#define BLOCK(name, n_cols, call) \
    static void name##_##n_cols(const struct lanes_block *k) { call; }
#define GEMM(name, largest, ...) \
    static void gemm_##name(const struct tile *tile, const struct gemm_col *cols, uint32_t n_cols, bool last) \
    { \
        static lanes_block_fn *const functions[] = {__VA_ARGS__}; \
        gemm_lanes(functions, largest, tile, cols, n_cols, last); \
    }
BLOCK(lanes_32, 1, lanes_32(k, 1))
BLOCK(lanes_32, 2, lanes_32(k, 2))
BLOCK(lanes_32, 4, lanes_32(k, 4))
BLOCK(lanes_32, 8, lanes_32(k, 8))
GEMM(lanes_32, 3, lanes_32_1, lanes_32_2, lanes_32_4, lanes_32_8)

/* Unpacking is the AVX2 kernels', and so is what takes few inputs. */
#define LANES_32_FORMAT(name) \
    static void dot_##name(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x, \
                           float *y) \
    { \
        avx2_##name.dot(w, row_bytes, n_rows, n_in, x, y); \
    } \
    static void dots_##name(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, \
                            const struct gemm_col *cols, uint32_t n_cols) \
    { \
        avx2_##name.dots(w, row_bytes, n_rows, n_in, cols, n_cols); \
    } \
    static const struct lanes_kernels lanes_##name = {LANES_ROWS, WORDS_PIECE, avx2_unpack_##name##_wide, \
                                                      gemm_lanes_32}; \
    static const struct format_kernels name = {INPUT_FINE, 32, 0, 6, dot_##name, dots_##name, NULL, &lanes_##name};
LANES_32_FORMAT(q8_0)
LANES_32_FORMAT(mxfp4)

#if defined(AVX512_BYTES)
BLOCK(lanes_q2_k, 1, lanes_256(k, 1, false))
BLOCK(lanes_q2_k, 2, lanes_256(k, 2, false))
BLOCK(lanes_q2_k, 4, lanes_256(k, 4, false))
GEMM(lanes_q2_k, 2, lanes_q2_k_1, lanes_q2_k_2, lanes_q2_k_4)
BLOCK(lanes_iq2_xxs, 1, lanes_256(k, 1, true))
BLOCK(lanes_iq2_xxs, 2, lanes_256(k, 2, true))
BLOCK(lanes_iq2_xxs, 4, lanes_256(k, 4, true))
GEMM(lanes_iq2_xxs, 2, lanes_iq2_xxs_1, lanes_iq2_xxs_2, lanes_iq2_xxs_4)

#define LANES_256_FORMAT(name, form, min_group) \
    static void dot_##name(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x, \
                           float *y) \
    { \
        struct input turns = *x; \
        turns.q8 = (const int8_t *)x->q16; \
        avx2_##name.dot(w, row_bytes, n_rows, n_in, &turns, y); \
    } \
    static const struct lanes_kernels lanes_##name = {LANES_ROWS, LANES_PIECE, avx2_unpack_##name##_wide, \
                                                      gemm_lanes_##name}; \
    static const struct format_kernels name = {form, 256, min_group, 3, dot_##name, NULL, NULL, &lanes_##name};
LANES_256_FORMAT(q2_k, INPUT_LANES, 16)
LANES_256_FORMAT(iq2_xxs, INPUT_OFFSET, 0)
#endif
#undef BLOCK
#undef GEMM

#endif
