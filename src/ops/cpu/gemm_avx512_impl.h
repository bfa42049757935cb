/* gemm_avx512_impl.h - unpacked weight rows times many input rows: gemm_avx2.c with registers of two rows. A panel of
 * four rows is two registers as it lies in the tile; an input is loaded into both halves. Two panels meet up to six
 * inputs at a time: 24 sums, four registers of weights and one of input, and ten loads for 24 multiplications. */
#ifndef DS4_OPS_CPU_GEMM_AVX512_IMPL_H
#define DS4_OPS_CPU_GEMM_AVX512_IMPL_H

#include "ops/cpu/avx512.h"

#define BLOCK_ROWS (2 * PANEL)
#define PAIRS (BLOCK_ROWS / 2) /* registers of two rows */
#define COLUMNS INPUT_PANEL
#define SUM_STEP 16u /* floats of a register of sums */

/* Where register blocks work: all panels of a tile, some columns. */
struct block {
    const struct tile *tile;
    const struct gemm_col *cols;
    bool begins, ends; /* whether sums begin here, or end and are stored */
    float *sums;       /* [rows / BLOCK_ROWS][PAIRS][columns][SUM_STEP] */
    const struct gemm_col *next; /* the columns that follow */
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
    const size_t panel = (size_t)PANEL * tile->n_in; /* from one to the next */
    const float *scales = tile_d(tile, row);
    UNROLL for (uint32_t c = 0; c < n_cols; c++) x[c] = k->cols[c].x.q16 + tile->from;
    for (uint32_t at = 0; at < tile->n_in; at += group, scales += PANEL) {
        __m512i total[PAIRS][COLUMNS];
        UNROLL for (uint32_t p = 0; p < PAIRS; p++)
            UNROLL for (uint32_t c = 0; c < n_cols; c++) total[p][c] = _mm512_setzero_si512();
        for (uint32_t i = at; i < at + group; i += 16, w += TILE_Q16_STEP) {
            __m512i v[PAIRS];
            UNROLL for (uint32_t p = 0; p < PAIRS; p++) v[p] = load512(w + p / 2 * panel + p % 2 * 32);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                __m512i both = twice256(load256(x[c] + i));
                UNROLL for (uint32_t p = 0; p < PAIRS; p++) add_pairs512(&total[p][c], v[p], both);
            }
        }
        UNROLL for (uint32_t p = 0; p < PAIRS; p++) {
            __m512 d = spread_pair(scales + p / 2 * (size_t)PANEL * tile->n_groups, p % 2);
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

/* sum[..][c] += eight values of the rows times those of an input. */
INLINE void add_eight(__m512 (*sum)[COLUMNS], uint32_t c, const __m512 *w, __m256 x)
{
    __m512 both = twice256_ps(x);
    UNROLL for (uint32_t p = 0; p < PAIRS; p++) sum[p][c] = _mm512_fmadd_ps(w[p], both, sum[p][c]);
}

/* Float weights. The last piece may end with fewer than 8 values: those of the input are masked. Inputs in panels come
 * from beyond the second-level cache: the three register blocks of a whole tile each fetch a third of the next ones. */
INLINE void panel_float(const struct block *k, uint32_t row, float *sums, uint32_t n_cols)
{
    const struct tile *tile = k->tile;
    const float *w = tile_f32(tile, row), *x[COLUMNS];
    const size_t panel = tile_f32_panel(tile->n_in), gap = k->cols->x.f32_gap, step = 8 + gap;
    const size_t from = tile->from / 8 * step, ahead_step = gap ? 64 : 0;
    const char *ahead = (const char *)(k->next->x.f32 + from) + row / BLOCK_ROWS * (tile->n_in / 8 * ahead_step);
    __m512 sum[PAIRS][COLUMNS], v[PAIRS];
    load_sums(sum, sums, n_cols);
    UNROLL for (uint32_t c = 0; c < n_cols; c++) x[c] = k->cols[c].x.f32 + from;
    size_t i = 0;
    for (uint32_t n = tile->n_in / 8; n; n--, i += step, w += TILE_F32_STEP, ahead += ahead_step) {
        _mm_prefetch(ahead, _MM_HINT_T0);
        UNROLL for (uint32_t p = 0; p < PAIRS; p++) v[p] = _mm512_loadu_ps(w + p / 2 * panel + p % 2 * 16);
        UNROLL for (uint32_t c = 0; c < n_cols; c++) add_eight(sum, c, v, _mm256_loadu_ps(x[c] + i));
    }
    if (tile->n_in % 8) {
        __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)(tile->n_in % 8)),
                                          _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        UNROLL for (uint32_t p = 0; p < PAIRS; p++) v[p] = _mm512_loadu_ps(w + p / 2 * panel + p % 2 * 16);
        UNROLL for (uint32_t c = 0; c < n_cols; c++) add_eight(sum, c, v, _mm256_maskload_ps(x[c] + i, mask));
    }
    keep_sums(sum, sums, n_cols);
}

INLINE void store_sums(const struct block *k, uint32_t row, uint32_t n_cols, bool scaled, const float *sums)
{
    for (uint32_t c = 0; c < n_cols; c++)
        for (uint32_t r = 0; r < BLOCK_ROWS && row + r < k->tile->n_rows; r++) {
            float y = sum_lanes(_mm256_loadu_ps(sums + (r / 2 * n_cols + c) * SUM_STEP + r % 2 * 8));
            k->cols[c].y[row + r] = scaled ? y * k->cols[c].x.d : y;
        }
}

/* One function for each number of columns of a register block: 1, 2, 4, 6. */
typedef void (*block_fn)(const struct block *k);
#define BLOCK_FN(name, n_cols, ints, call) \
    static void name(const struct block *k) \
    { \
        float *sums = k->sums; \
        for (uint32_t row = 0; row < k->tile->n_rows; row += BLOCK_ROWS, sums += PAIRS * (n_cols) * SUM_STEP) { \
            if (k->begins) memset(sums, 0, PAIRS * (n_cols) * SUM_STEP * sizeof *sums); \
            call; \
            if (k->ends) store_sums(k, row, n_cols, ints, sums); \
        } \
    }
#define BLOCK_FNS(name, ints, panel, ...) \
    BLOCK_FN(name##_1, 1, ints, panel(k, row, sums, 1 __VA_ARGS__)) \
    BLOCK_FN(name##_2, 2, ints, panel(k, row, sums, 2 __VA_ARGS__)) \
    BLOCK_FN(name##_4, 4, ints, panel(k, row, sums, 4 __VA_ARGS__)) \
    BLOCK_FN(name##_6, 6, ints, panel(k, row, sums, 6 __VA_ARGS__)) \
    static const block_fn name[4] = {name##_1, name##_2, name##_4, name##_6};
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
    static const uint32_t sizes[] = {1, 2, 4, 6};
    const block_fn *functions = block_functions(format);
    uint32_t n_padded = (tile->n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS, size = 3;
    float here[TILE_ROWS * COLUMNS * 8]; /* where sums rest that begin and end in this piece */
    for (uint32_t c = 0; c < n_cols; c += sizes[size]) {
        while (sizes[size] > n_cols - c) size--;
        struct block k = {.tile = tile, .cols = cols + c, .begins = tile->from == 0, .ends = last};
        k.next = cols + (n_cols - c > sizes[size] ? c + sizes[size] : c);
        k.sums = k.begins && k.ends ? here : tile->sums + (size_t)n_padded * c * 8;
        functions[size](&k);
    }
}

#endif
