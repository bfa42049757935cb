/* gemm_avx512_impl.h - unpacked weight rows times many input rows: gemm_avx2.c with registers of two rows. A panel of
 * four rows is two registers as it lies in the tile; an input is loaded into both halves. Up to eight inputs meet a
 * panel at a time: sixteen sums, enough to hide the latency of either pipe, beside two of weights and one of input. */
#ifndef DS4_OPS_CPU_GEMM_AVX512_IMPL_H
#define DS4_OPS_CPU_GEMM_AVX512_IMPL_H

#include "ops/cpu/avx512.h"

#define PAIRS (PANEL / 2) /* registers of two rows */
#define COLUMNS 8u
#define SUM_STEP 16u      /* floats of a register of sums */

/* Where register blocks work: all panels of a tile, some columns. */
struct block {
    const struct tile *tile;
    const struct gemm_col *cols;
    bool begins, ends; /* whether sums begin here, or end and are stored */
    float *sums;       /* [panel][PAIRS][columns][SUM_STEP] */
};

/* Numbers 2p and 2p+1 of four, each over its half. */
INLINE __m512 spread_pair(const float *four, uint32_t p)
{
    __m512i at = join256(_mm256_set1_epi32((int32_t)(2 * p)), _mm256_set1_epi32((int32_t)(2 * p + 1)));
    return _mm512_permutexvar_ps(at, _mm512_castps128_ps512(_mm_loadu_ps(four)));
}

/* Takes the minima of two rows off, which 32 weights share. */
INLINE __m512 subtract_minima(const struct block *k, uint32_t row, uint32_t at, uint32_t p, uint32_t c, __m512 sum)
{
    const struct tile *tile = k->tile;
    const float *m = tile->mins + at / 32 + (row + 2 * p) * tile->mins_stride;
    __m512 minima = join256_ps(_mm256_loadu_ps(m), _mm256_loadu_ps(m + tile->mins_stride));
    return _mm512_fnmadd_ps(minima, twice256_ps(_mm256_loadu_ps(k->cols[c].x.sums + (tile->from + at) / 32)), sum);
}

/* Groups of 128 or 256. */
INLINE void panel_wide(const struct block *k, uint32_t row, float *sums, uint32_t n_cols, uint32_t group,
                       bool has_mins)
{
    const struct tile *tile = k->tile;
    const int16_t *w = tile_q16(tile, row), *x[COLUMNS];
    const float *scales = tile_d(tile, row);
    UNROLL for (uint32_t c = 0; c < n_cols; c++) x[c] = k->cols[c].x.q16 + tile->from;
    for (uint32_t at = 0; at < tile->n_in; at += group, scales += PANEL) {
        __m512i total[PAIRS][COLUMNS];
        UNROLL for (uint32_t c = 0; c < n_cols; c++) total[0][c] = total[1][c] = _mm512_setzero_si512();
        for (uint32_t i = at; i < at + group; i += 16, w += TILE_Q16_STEP) {
            __m512i first = load512(w), second = load512(w + 32);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                __m512i v = twice256(load256(x[c] + i));
                add_pairs512(&total[0][c], first, v);
                add_pairs512(&total[1][c], second, v);
            }
        }
        UNROLL for (uint32_t p = 0; p < PAIRS; p++) {
            __m512 d = spread_pair(scales, p);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                float *place = sums + (p * n_cols + c) * SUM_STEP;
                __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[p][c]), d, _mm512_loadu_ps(place));
                if (has_mins) sum = subtract_minima(k, row, at, p, c, sum);
                _mm512_storeu_ps(place, sum);
            }
        }
    }
}

INLINE void load_sums(__m512 (*sum)[COLUMNS], const float *sums, uint32_t n_cols)
{
    UNROLL for (uint32_t p = 0; p < PAIRS; p++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[p][c] = _mm512_loadu_ps(sums + (p * n_cols + c) * SUM_STEP);
}
INLINE void keep_sums(__m512 (*sum)[COLUMNS], float *sums, uint32_t n_cols)
{
    UNROLL for (uint32_t p = 0; p < PAIRS; p++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) _mm512_storeu_ps(sums + (p * n_cols + c) * SUM_STEP, sum[p][c]);
}

/* Float weights. The last piece may end with fewer than 8 values: those of the input are masked. */
INLINE void panel_float(const struct block *k, uint32_t row, float *sums, uint32_t n_cols)
{
    const struct tile *tile = k->tile;
    __m512 sum[PAIRS][COLUMNS];
    load_sums(sum, sums, n_cols);
    const float *w = tile_f32(tile, row), *x[COLUMNS];
    UNROLL for (uint32_t c = 0; c < n_cols; c++) x[c] = k->cols[c].x.f32 + tile->from;
    uint32_t i = 0;
    for (; i + 8 <= tile->n_in; i += 8, w += TILE_F32_STEP) {
        __m512 first = _mm512_loadu_ps(w), second = _mm512_loadu_ps(w + 16);
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            __m512 v = twice256_ps(_mm256_loadu_ps(x[c] + i));
            sum[0][c] = _mm512_fmadd_ps(first, v, sum[0][c]);
            sum[1][c] = _mm512_fmadd_ps(second, v, sum[1][c]);
        }
    }
    if (i < tile->n_in) {
        __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)(tile->n_in - i)),
                                          _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            __m512 v = twice256_ps(_mm256_maskload_ps(x[c] + i, mask));
            sum[0][c] = _mm512_fmadd_ps(_mm512_loadu_ps(w), v, sum[0][c]);
            sum[1][c] = _mm512_fmadd_ps(_mm512_loadu_ps(w + 16), v, sum[1][c]);
        }
    }
    keep_sums(sum, sums, n_cols);
}

INLINE void store_sums(const struct block *k, uint32_t row, uint32_t n_cols, bool scaled, const float *sums)
{
    for (uint32_t c = 0; c < n_cols; c++)
        for (uint32_t r = 0; r < PANEL && row + r < k->tile->n_rows; r++) {
            float y = sum_lanes(_mm256_loadu_ps(sums + (r / 2 * n_cols + c) * SUM_STEP + r % 2 * 8));
            k->cols[c].y[row + r] = scaled ? y * k->cols[c].x.d : y;
        }
}

/* One function for each number of columns of a register block: 1, 2, 4, 8. */
typedef void (*block_fn)(const struct block *k);
#define BLOCK_FN(name, n_cols, ints, call) \
    static void name(const struct block *k) \
    { \
        float *sums = k->sums; \
        for (uint32_t row = 0; row < k->tile->n_rows; row += PANEL, sums += PAIRS * (n_cols) * SUM_STEP) { \
            if (k->begins) memset(sums, 0, PAIRS * (n_cols) * SUM_STEP * sizeof *sums); \
            call; \
            if (k->ends) store_sums(k, row, n_cols, ints, sums); \
        } \
    }
#define BLOCK_FNS(name, ints, panel, ...) \
    BLOCK_FN(name##_1, 1, ints, panel(k, row, sums, 1 __VA_ARGS__)) \
    BLOCK_FN(name##_2, 2, ints, panel(k, row, sums, 2 __VA_ARGS__)) \
    BLOCK_FN(name##_4, 4, ints, panel(k, row, sums, 4 __VA_ARGS__)) \
    BLOCK_FN(name##_8, 8, ints, panel(k, row, sums, 8 __VA_ARGS__)) \
    static const block_fn name[4] = {name##_1, name##_2, name##_4, name##_8};
#define ALSO(...) , __VA_ARGS__
BLOCK_FNS(min32, true, panel_wide, ALSO(256, true))
BLOCK_FNS(wide256, true, panel_wide, ALSO(256, false))
BLOCK_FNS(wide128, true, panel_wide, ALSO(128, false))
BLOCK_FNS(floats, false, panel_float, )

static const block_fn *block_functions(const struct format_kernels *format)
{
    if (!format || !format->group) return floats;
    if (format->group == 128) return wide128;
    return format->min_group ? min32 : wide256;
}

static void gemm(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
                 uint32_t n_cols, bool last)
{
    const block_fn *functions = block_functions(format);
    uint32_t n_padded = (tile->n_rows + PANEL - 1) / PANEL * PANEL;
    float here[TILE_ROWS * COLUMNS * 8]; /* where sums rest that begin and end in this piece */
    for (uint32_t c = 0, n; c < n_cols; c += n) {
        uint32_t log = n_cols - c >= 8 ? 3 : n_cols - c >= 4 ? 2 : n_cols - c >= 2;
        n = 1u << log;
        struct block k = {.tile = tile, .cols = cols + c, .begins = tile->from == 0, .ends = last};
        k.sums = k.begins && k.ends ? here : tile->sums + (size_t)n_padded * c * 8;
        functions[log](&k);
    }
}

#endif
