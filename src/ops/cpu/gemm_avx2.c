/* gemm_avx2.c - unpacked weight rows times many input rows. Four weight rows by three inputs (two for groups of 32) are
 * kept in registers. A tile is a piece of the inner dimension; between pieces the 8-lane float sums of every output
 * rest in memory, so that cutting changes no sum.
 *
 * Integer groups: the products of one group of weights are summed exactly, then sum = fma(float(lanes), d_w, sum);
 * minima follow their group. The scale of the input row comes last.
 * On Zen 3 the inner loop of 4 by 3 reaches 23.7 products a cycle; one of 3 by 3 with separate rows reached 15. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"

#define STRIDE 256u      /* elements between fetches ahead */

/* Where one register block works: the panel from row on, columns from these. */
struct block {
    const struct tile *tile;
    const struct gemm_col *cols;
    uint32_t row;
    __m256 *sums; /* [PANEL][columns] */
    const char *ahead[3]; /* inputs of the next columns, which come from beyond the second-level cache: */
    size_t ahead_step;    /* bytes of each that are fetched for every STRIDE elements worked on */
};

INLINE void fetch_ahead(const struct block *k, uint32_t n_cols, uint32_t at)
{
    size_t offset = at / STRIDE * k->ahead_step;
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        _mm_prefetch(k->ahead[c] + offset, _MM_HINT_T0);
        _mm_prefetch(k->ahead[c] + offset + 64, _MM_HINT_T0);
    }
}

/* *sum += products of pairs of w and x. One statement, so that the sum stays in its register: left to itself the
 * compiler moves all products ahead of the sums and runs out of registers. */
INLINE void add_pairs(__m256i *sum, __m256i w, __m256i x)
{
    __m256i products;
    __asm__("vpmaddwd %[x], %[w], %[p]\n\tvpaddd %[p], %[s], %[s]"
            : [s] "+x"(*sum), [p] "=&x"(products) : [w] "x"(w), [x] "x"(x));
}
INLINE void add_pairs_at(__m256i *sum, __m256i w, const __m256i *x)
{
    __m256i products;
    __asm__("vpmaddwd %[x], %[w], %[p]\n\tvpaddd %[p], %[s], %[s]"
            : [s] "+x"(*sum), [p] "=&x"(products) : [w] "x"(w), [x] "m"(*x));
}
INLINE void first_pairs(__m256i *sum, __m256i x, const int16_t *w)
{
    __asm__("vpmaddwd %[w], %[x], %[s]" : [s] "=x"(*sum) : [w] "m"(*(const __m256i *)(const void *)w), [x] "x"(x));
}

/* Groups of 128 or 256. */
INLINE void block_wide(const struct block *k, uint32_t n_cols, uint32_t group, uint32_t min_group)
{
    const struct tile *tile = k->tile;
    const int16_t *w = tile_q16(tile, k->row);
    const float *scales = tile_d(tile, k->row);
    __m256 *sums = k->sums;
    for (uint32_t at = 0; at < tile->n_in; at += group, scales += PANEL) {
        __m256i total[PANEL][3];
        const int16_t *x0 = k->cols[0].x.q16 + tile->from + at, *x1 = k->cols[n_cols > 1].x.q16 + tile->from + at;
        const int16_t *x2 = k->cols[n_cols - 1].x.q16 + tile->from + at;
        if (at % STRIDE == 0) fetch_ahead(k, n_cols, at);
        __m256i start[3] = {load256(x0), load256(x1), load256(x2)};
        UNROLL for (uint32_t r = 0; r < PANEL; r++)
            UNROLL for (uint32_t c = 0; c < n_cols; c++) first_pairs(&total[r][c], start[c], w + 16 * r);
        w += TILE_Q16_STEP;
        UNROLL_5 for (uint32_t i = 16; i < group; i += 16, w += TILE_Q16_STEP) {
            __m256i v0 = load256(x0 + i), v1 = load256(x1 + i);
            UNROLL for (uint32_t r = 0; r < PANEL; r++) {
                __m256i v = load256(w + 16 * r);
                add_pairs(&total[r][0], v, v0);
                if (n_cols > 1) add_pairs(&total[r][1], v, v1);
                if (n_cols > 2) add_pairs_at(&total[r][2], v, (const __m256i *)(const void *)(x2 + i));
            }
        }
        const size_t stride = tile->mins_stride;
        const float *mins = min_group == 32 ? tile->mins + k->row * stride + at / 32 : NULL, *x_sums[3];
        const int16_t *mins16 = min_group == 16 ? tile->mins16 + k->row * stride + at / 16 : NULL, *x_t_sums[3];
        const float *d_min = min_group == 16 ? scales + (tile->d_min - tile->d) : NULL;
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            if (min_group == 32) x_sums[c] = k->cols[c].x.sums + (tile->from + at) / 32;
            if (min_group == 16) x_t_sums[c] = k->cols[c].x.t_sums + (tile->from + at) / 16;
        }
        UNROLL for (uint32_t r = 0; r < PANEL; r++) {
            __m256 d = _mm256_broadcast_ss(scales + r), min32 = d, dm = d;
            __m256i min16 = _mm256_setzero_si256();
            if (min_group == 32) min32 = _mm256_loadu_ps(mins + r * stride);
            if (min_group == 16) min16 = load256(mins16 + r * stride), dm = _mm256_broadcast_ss(d_min + r);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[r][c]), d, sums[r * n_cols + c]);
                if (min_group == 32) sum = _mm256_fnmadd_ps(min32, _mm256_loadu_ps(x_sums[c]), sum);
                if (min_group == 16) {
                    __m256i minima = _mm256_madd_epi16(min16, load256(x_t_sums[c]));
                    sum = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(minima), dm, sum);
                }
                sums[r * n_cols + c] = sum;
            }
        }
    }
}

/* Groups of 32; up to two columns. */
INLINE void block_narrow(const struct block *k, uint32_t n_cols)
{
    const struct tile *tile = k->tile;
    __m256 sum[PANEL][2];
    UNROLL for (uint32_t r = 0; r < PANEL; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = k->sums[r * n_cols + c];
    const int16_t *w = tile_q16(tile, k->row);
    const float *scales = tile_d(tile, k->row);
    const int16_t *x0 = k->cols[0].x.q16 + tile->from, *x1 = k->cols[n_cols - 1].x.q16 + tile->from;
    for (uint32_t at = 0; at < tile->n_in; at += 32, w += 2 * TILE_Q16_STEP, scales += PANEL) {
        if (at % STRIDE == 0) fetch_ahead(k, n_cols, at);
        __m256i even[2] = {load256(x0 + at), load256(x1 + at)}, odd[2] = {load256(x0 + at + 16), load256(x1 + at + 16)};
        UNROLL for (uint32_t r = 0; r < PANEL; r++) {
            __m256 scale = _mm256_broadcast_ss(scales + r);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                __m256i total = _mm256_madd_epi16(even[c], load256(w + 16 * r));
                add_pairs_at(&total, odd[c], (const __m256i *)(const void *)(w + TILE_Q16_STEP + 16 * r));
                sum[r][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), scale, sum[r][c]);
            }
        }
    }
    UNROLL for (uint32_t r = 0; r < PANEL; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) k->sums[r * n_cols + c] = sum[r][c];
}

/* Float weights. The last piece may end with fewer than 8 values: those of the input are masked. */
INLINE void block_float(const struct block *k, uint32_t n_cols)
{
    const struct tile *tile = k->tile;
    __m256 sum[PANEL][3];
    UNROLL for (uint32_t r = 0; r < PANEL; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = k->sums[r * n_cols + c];
    const float *w = tile_f32(tile, k->row);
    const float *x[3];
    UNROLL for (uint32_t c = 0; c < n_cols; c++) x[c] = k->cols[c].x.f32 + tile->from;
    uint32_t i = 0;
    for (; i + 8 <= tile->n_in; i += 8, w += TILE_F32_STEP) {
        if (i % STRIDE == 0) fetch_ahead(k, n_cols, i);
        __m256 v[3];
        UNROLL for (uint32_t c = 0; c < n_cols; c++) v[c] = _mm256_loadu_ps(x[c] + i);
        UNROLL for (uint32_t r = 0; r < PANEL; r++) {
            __m256 row = _mm256_loadu_ps(w + 8 * r);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = _mm256_fmadd_ps(row, v[c], sum[r][c]);
        }
    }
    if (i < tile->n_in) {
        __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)(tile->n_in - i)), lane);
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            __m256 v = _mm256_maskload_ps(x[c] + i, mask);
            UNROLL for (uint32_t r = 0; r < PANEL; r++)
                sum[r][c] = _mm256_fmadd_ps(_mm256_loadu_ps(w + 8 * r), v, sum[r][c]);
        }
    }
    UNROLL for (uint32_t r = 0; r < PANEL; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) k->sums[r * n_cols + c] = sum[r][c];
}

/* One function for each number of columns of a register block. */
typedef void (*block_fn)(const struct block *k);
#define BLOCK_FN(name, call) \
    static void name(const struct block *k) { call; }
BLOCK_FN(min32_1, block_wide(k, 1, 256, 32))
BLOCK_FN(min32_2, block_wide(k, 2, 256, 32))
BLOCK_FN(min32_3, block_wide(k, 3, 256, 32))
BLOCK_FN(min16_1, block_wide(k, 1, 256, 16))
BLOCK_FN(min16_2, block_wide(k, 2, 256, 16))
BLOCK_FN(min16_3, block_wide(k, 3, 256, 16))
BLOCK_FN(wide256_1, block_wide(k, 1, 256, 0))
BLOCK_FN(wide256_2, block_wide(k, 2, 256, 0))
BLOCK_FN(wide256_3, block_wide(k, 3, 256, 0))
BLOCK_FN(wide128_1, block_wide(k, 1, 128, 0))
BLOCK_FN(wide128_2, block_wide(k, 2, 128, 0))
BLOCK_FN(wide128_3, block_wide(k, 3, 128, 0))
BLOCK_FN(narrow_1, block_narrow(k, 1))
BLOCK_FN(narrow_2, block_narrow(k, 2))
BLOCK_FN(float_1, block_float(k, 1))
BLOCK_FN(float_2, block_float(k, 2))
BLOCK_FN(float_3, block_float(k, 3))

static const block_fn *block_functions(const struct format_kernels *format)
{
    static const block_fn narrow[3] = {narrow_1, narrow_2, NULL}, floats[3] = {float_1, float_2, float_3};
    static const block_fn wide128[3] = {wide128_1, wide128_2, wide128_3};
    static const block_fn wide256[3] = {wide256_1, wide256_2, wide256_3};
    static const block_fn min16[3] = {min16_1, min16_2, min16_3}, min32[3] = {min32_1, min32_2, min32_3};
    if (!format || !format->group) return floats;
    if (format->group == 32) return narrow;
    if (format->group == 128) return wide128;
    return format->min_group == 16 ? min16 : format->min_group ? min32 : wide256;
}

/* How many columns the next register block takes: never one alone where two blocks of two are possible. */
static uint32_t next_columns(uint32_t n_left, uint32_t step)
{
    if (n_left == 4 && step == 3) return 2;
    return n_left < step ? n_left : step;
}

/* Sums of the lanes of four vectors, each in the order of sum_lanes. */
INLINE __m128 sum_lanes_of_four(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m128 s[4] = {_mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)),
                   _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1)),
                   _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1)),
                   _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1))};
    __m128 ab = _mm_add_ps(_mm_unpacklo_ps(s[0], s[1]), _mm_unpackhi_ps(s[0], s[1]));
    __m128 cd = _mm_add_ps(_mm_unpacklo_ps(s[2], s[3]), _mm_unpackhi_ps(s[2], s[3]));
    return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

static void store_sums(const struct gemm_col *cols, uint32_t n_cols, uint32_t row, uint32_t n_rows, bool scaled,
                       const __m256 *sums)
{
    for (uint32_t c = 0; c < n_cols; c++) {
        const __m256 *s = sums + c;
        __m128 y = sum_lanes_of_four(s[0], s[n_cols], s[2 * n_cols], s[3 * n_cols]);
        float values[PANEL];
        if (scaled) y = _mm_mul_ps(y, _mm_set1_ps(cols[c].x.d));
        _mm_storeu_ps(n_rows == PANEL ? cols[c].y + row : values, y);
        for (uint32_t r = 0; n_rows < PANEL && r < n_rows; r++) cols[c].y[row + r] = values[r];
    }
}

/* What is fetched while panel row r of columns c is worked on: its share of the n columns from c + n on. */
static void aim_ahead(struct block *k, uint32_t n, uint32_t n_left, uint32_t n_padded)
{
    const struct tile *tile = k->tile;
    size_t bytes = (size_t)tile->n_in * (k->cols->x.f32 ? 4 : 2), share = bytes * PANEL / n_padded;
    k->ahead_step = share * STRIDE / tile->n_in;
    for (uint32_t i = 0; i < n; i++) {
        const struct input *x = &k->cols[n + i < n_left ? n + i : i].x;
        const char *from = x->f32 ? (const char *)(x->f32 + tile->from) : (const char *)(x->q16 + tile->from);
        k->ahead[i] = from + share * (k->row / PANEL);
    }
}

void avx2_gemm(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
               uint32_t n_cols, bool last)
{
    bool ints = format && format->group;
    uint32_t step = ints && format->group == 32 ? 2 : 3, n_padded = (tile->n_rows + PANEL - 1) / PANEL * PANEL;
    const block_fn *functions = block_functions(format);
    __m256 *sums = (__m256 *)(void *)tile->sums; /* of columns c .. c+n-1: [n_padded][n] from n_padded c on */
    __m256 here[PANEL * 3]; /* the sums of a block when there is one piece only */
    for (uint32_t c = 0, n; c < n_cols; c += n) {
        n = next_columns(n_cols - c, step);
        for (uint32_t r = 0; r < n_padded; r += PANEL) {
            struct block k = {.tile = tile, .cols = cols + c, .row = r};
            k.sums = last && tile->from == 0 ? here : sums + (size_t)n_padded * c + (size_t)r * n;
            for (uint32_t i = 0; i < PANEL * n && tile->from == 0; i++) k.sums[i] = _mm256_setzero_ps();
            aim_ahead(&k, n, n_cols - c, n_padded);
            functions[n - 1](&k);
            if (last) store_sums(cols + c, n, r, tile->n_rows - r < PANEL ? tile->n_rows - r : PANEL, ints, k.sums);
        }
    }
}

#endif
