/* gemm_avx2.c - unpacked weight rows times many input rows. Three weight rows by three inputs (float: by four) are
 * kept in registers; the inner dimension is cut into pieces whose rows fit the first-level cache. Between pieces the
 * 8-lane float sums of every output rest in memory, so that cutting changes no sum.
 *
 * Integer groups: the products of one group of weights are summed exactly, then sum = fma(float(lanes), d_w d_x, sum);
 * groups of 32 leave d_x to the end, as it is one for the whole row. Minima follow their group. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"

#define ROWS 3
#define PIECE 2048u /* inner elements at a time: a multiple of 256 */

/* Where one register block works: rows and columns from these, inner elements [from, to). */
struct block {
    const struct format_kernels *format;
    const struct tile *tile;
    const struct gemm_col *cols;
    uint32_t row, from, to;
    __m256 *sums; /* [rows][columns] */
};

/* Groups of 128 or 256. */
INLINE void block_wide(const struct block *k, uint32_t n_rows, uint32_t n_cols, uint32_t group, uint32_t min_group)
{
    const struct tile *tile = k->tile;
    for (uint32_t at = k->from; at < k->to; at += group) {
        __m256i total[ROWS][3];
        UNROLL for (uint32_t r = 0; r < n_rows; r++)
            UNROLL for (uint32_t c = 0; c < n_cols; c++) total[r][c] = _mm256_setzero_si256();
        const int16_t *w = tile->q16 + (size_t)k->row * tile->n_in + at;
        for (uint32_t i = 0; i < group; i += 16) {
            __m256i x[3];
            UNROLL for (uint32_t c = 0; c < n_cols; c++) x[c] = load256(k->cols[c].x.q16 + at + i);
            UNROLL for (uint32_t r = 0; r < n_rows; r++) {
                __m256i v = load256(w + r * (size_t)tile->n_in + i);
                UNROLL for (uint32_t c = 0; c < n_cols; c++)
                    total[r][c] = _mm256_add_epi32(total[r][c], _mm256_madd_epi16(v, x[c]));
            }
        }
        UNROLL for (uint32_t r = 0; r < n_rows; r++) {
            float d = tile->d[(k->row + r) * tile->d_stride + at / group];
            const float *mins = tile->mins + (k->row + r) * tile->mins_stride;
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                const struct input *x = &k->cols[c].x;
                __m256 sum = k->sums[r * n_cols + c];
                sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[r][c]), _mm256_set1_ps(d * x->d[at / 256]), sum);
                if (min_group) {
                    UNROLL for (uint32_t i = 0; i < 256 / min_group; i += 8) {
                        size_t m = at / min_group + i;
                        sum = _mm256_fnmadd_ps(_mm256_loadu_ps(mins + m), _mm256_loadu_ps(x->sums + m), sum);
                    }
                }
                k->sums[r * n_cols + c] = sum;
            }
        }
    }
}

/* Groups of 32. */
INLINE void block_narrow(const struct block *k, uint32_t n_rows, uint32_t n_cols)
{
    const struct tile *tile = k->tile;
    __m256 sum[ROWS][3];
    UNROLL for (uint32_t r = 0; r < n_rows; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = k->sums[r * n_cols + c];
    const int16_t *w = tile->q16 + (size_t)k->row * tile->n_in;
    const float *d = tile->d + k->row * tile->d_stride;
    for (uint32_t at = k->from; at < k->to; at += 32) {
        UNROLL for (uint32_t r = 0; r < n_rows; r++) {
            __m256i even = load256(w + r * (size_t)tile->n_in + at), odd = load256(w + r * (size_t)tile->n_in + at + 16);
            __m256 scale = _mm256_broadcast_ss(d + r * tile->d_stride + at / 32);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                const int16_t *x = k->cols[c].x.q16 + at;
                __m256i total = _mm256_add_epi32(_mm256_madd_epi16(even, load256(x)),
                                                 _mm256_madd_epi16(odd, load256(x + 16)));
                sum[r][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), scale, sum[r][c]);
            }
        }
    }
    UNROLL for (uint32_t r = 0; r < n_rows; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) k->sums[r * n_cols + c] = sum[r][c];
}

/* Float weights. The last piece may end with fewer than 8 values: those of the input are masked. */
INLINE void block_float(const struct block *k, uint32_t n_rows, uint32_t n_cols)
{
    const struct tile *tile = k->tile;
    __m256 sum[ROWS][4];
    UNROLL for (uint32_t r = 0; r < n_rows; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = k->sums[r * n_cols + c];
    const float *w = tile->f32 + k->row * tile->f32_stride;
    uint32_t i = k->from;
    for (; i + 8 <= k->to; i += 8) {
        __m256 v[ROWS];
        UNROLL for (uint32_t r = 0; r < n_rows; r++) v[r] = _mm256_loadu_ps(w + r * tile->f32_stride + i);
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            __m256 x = _mm256_loadu_ps(k->cols[c].x.f32 + i);
            UNROLL for (uint32_t r = 0; r < n_rows; r++) sum[r][c] = _mm256_fmadd_ps(v[r], x, sum[r][c]);
        }
    }
    if (i < k->to) {
        __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)(k->to - i)), lane);
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            __m256 x = _mm256_maskload_ps(k->cols[c].x.f32 + i, mask);
            UNROLL for (uint32_t r = 0; r < n_rows; r++)
                sum[r][c] = _mm256_fmadd_ps(_mm256_loadu_ps(w + r * tile->f32_stride + i), x, sum[r][c]);
        }
    }
    UNROLL for (uint32_t r = 0; r < n_rows; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) k->sums[r * n_cols + c] = sum[r][c];
}

/* One function for each number of rows and columns of a register block. */
typedef void (*block_fn)(const struct block *k);
#define BLOCK_FN(name, call) \
    static void name(const struct block *k) { call; }
#define BLOCKS(kind, call) \
    BLOCK_FN(kind##_11, call(1, 1)) BLOCK_FN(kind##_12, call(1, 2)) BLOCK_FN(kind##_13, call(1, 3)) \
    BLOCK_FN(kind##_21, call(2, 1)) BLOCK_FN(kind##_22, call(2, 2)) BLOCK_FN(kind##_23, call(2, 3)) \
    BLOCK_FN(kind##_31, call(3, 1)) BLOCK_FN(kind##_32, call(3, 2)) BLOCK_FN(kind##_33, call(3, 3))
#define CALL_Q4(r, c) block_wide(k, r, c, 256, 32)
#define CALL_Q2(r, c) block_wide(k, r, c, 256, 16)
#define CALL_IQ(r, c) block_wide(k, r, c, 256, 0)
#define CALL_Q6(r, c) block_wide(k, r, c, 128, 0)
#define CALL_Q8(r, c) block_narrow(k, r, c)
#define CALL_F(r, c) block_float(k, r, c)
BLOCKS(q4, CALL_Q4)
BLOCKS(q2, CALL_Q2)
BLOCKS(iq, CALL_IQ)
BLOCKS(q6, CALL_Q6)
BLOCKS(q8, CALL_Q8)
BLOCKS(fl, CALL_F)
BLOCK_FN(fl_14, CALL_F(1, 4))
BLOCK_FN(fl_24, CALL_F(2, 4))
BLOCK_FN(fl_34, CALL_F(3, 4))
#define TABLE(kind) \
    {{kind##_11, kind##_12, kind##_13, NULL}, {kind##_21, kind##_22, kind##_23, NULL}, \
     {kind##_31, kind##_32, kind##_33, NULL}}

static block_fn block_function(const struct format_kernels *format, uint32_t n_rows, uint32_t n_cols)
{
    static const block_fn narrow[3][4] = TABLE(q8), wide128[3][4] = TABLE(q6), wide[3][4] = TABLE(iq);
    static const block_fn min16[3][4] = TABLE(q2), min32[3][4] = TABLE(q4);
    static const block_fn floats[3][4] = {{fl_11, fl_12, fl_13, fl_14}, {fl_21, fl_22, fl_23, fl_24},
                                          {fl_31, fl_32, fl_33, fl_34}};
    const block_fn(*table)[4] = floats;
    if (format && format->group == 32) table = narrow;
    else if (format && format->group == 128) table = wide128;
    else if (format && format->group) table = format->min_group == 16 ? min16 : format->min_group ? min32 : wide;
    return table[n_rows - 1][n_cols - 1];
}

static void store_sums(const struct format_kernels *format, const struct gemm_col *cols, uint32_t n_cols, uint32_t n_rows,
                       uint32_t row, const __m256 *sums)
{
    for (uint32_t c = 0; c < n_cols; c++)
        for (uint32_t r = 0; r < n_rows; r++) {
            float y = sum_lanes(sums[r * n_cols + c]);
            cols[c].y[row + r] = format && format->group == 32 ? y * cols[c].x.d[0] : y;
        }
}

void avx2_gemm(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
               uint32_t n_cols)
{
    uint32_t step = format && format->group ? 3 : 4;
    __m256 sums[TILE_ROWS_MAX / ROWS][ROWS * 4];
    for (uint32_t c = 0; c < n_cols;) {
        uint32_t n = n_cols - c < step ? n_cols - c : step;
        if (n_cols - c == step + 1) n = (step + 1) / 2; /* two even halves rather than one column alone */
        for (uint32_t r = 0; r < tile->n_rows; r += ROWS) memset(sums[r / ROWS], 0, sizeof sums[0]);
        for (uint32_t from = 0; from < tile->n_in; from += PIECE) {
            uint32_t to = tile->n_in - from < PIECE ? tile->n_in : from + PIECE;
            for (uint32_t r = 0; r < tile->n_rows; r += ROWS) {
                uint32_t n_rows = tile->n_rows - r < ROWS ? tile->n_rows - r : ROWS;
                struct block k = {format, tile, cols + c, r, from, to, sums[r / ROWS]};
                block_function(format, n_rows, n)(&k);
            }
        }
        for (uint32_t r = 0; r < tile->n_rows; r += ROWS)
            store_sums(format, cols + c, n, tile->n_rows - r < ROWS ? tile->n_rows - r : ROWS, r, sums[r / ROWS]);
        c += n;
    }
}

#endif
