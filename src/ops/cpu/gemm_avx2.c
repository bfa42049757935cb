/* gemm_avx2.c - unpacked weight rows times many input rows: floats, and integers in groups of 128 and 256. Four weight
 * rows by three inputs are kept in registers. A tile is a piece of the inner dimension; between pieces the 8-lane float
 * sums of every output rest in memory, so that cutting changes no sum.
 *
 * Integer groups: the products of one group of weights are summed exactly, then sum = fma(float(lanes), d_w, sum);
 * minima follow their group. The scale of the input row comes last.
 * On Zen 3 a vpmaddwd and its vpaddd, alternating in registers, do 25.7 products a cycle (3.2 of four vector pipes);
 * the inner loop of 4 by 3 does 23.9 while its data lie in the first-level cache, whole products some 20. For floats
 * the bound is 16. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"

#define STRIDE 64u /* elements between fetches ahead */

/* Where register blocks work: all panels of a tile, some columns. */
struct block {
    const struct tile *tile;
    const struct gemm_col *cols;
    bool begins, ends; /* whether sums begin here, or end and are stored */
    __m256 *sums;      /* [panel][PANEL][columns] */
    const struct gemm_col *next; /* the columns that follow, and how many bytes of each are fetched for */
    uint32_t share;              /* every STRIDE elements of a panel (floats only) */
};

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
INLINE void panel_wide(const struct block *k, uint32_t row, __m256 *sums, uint32_t n_cols, uint32_t group,
                       bool has_mins)
{
    const struct tile *tile = k->tile;
    const int16_t *w = tile_q16(tile, row);
    const float *scales = tile_d(tile, row);
    for (uint32_t at = 0; at < tile->n_in; at += group, scales += PANEL) {
        __m256i total[PANEL][3];
        __asm__("" : "+m"(*(__m256(*)[PANEL * 3])sums)); /* else the sums are kept in a second place, too */
        const int16_t *x0 = k->cols[0].x.q16 + tile->from + at, *x1 = k->cols[n_cols > 1].x.q16 + tile->from + at;
        const int16_t *x2 = k->cols[n_cols - 1].x.q16 + tile->from + at;
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
        const float *mins = has_mins ? tile->mins + row * stride + at / 32 : NULL, *x_sums[3];
        UNROLL for (uint32_t c = 0; c < n_cols && has_mins; c++) x_sums[c] = k->cols[c].x.sums + (tile->from + at) / 32;
        UNROLL for (uint32_t r = 0; r < PANEL; r++) {
            __m256 d = _mm256_broadcast_ss(scales + r), minima = has_mins ? _mm256_loadu_ps(mins + r * stride) : d;
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[r][c]), d, sums[r * n_cols + c]);
                if (has_mins) sum = _mm256_fnmadd_ps(minima, _mm256_loadu_ps(x_sums[c]), sum);
                sums[r * n_cols + c] = sum;
            }
        }
    }
}

INLINE void float_step(__m256 (*sum)[3], const float *w, const float *const *x, uint32_t i, uint32_t n_cols)
{
    __m256 v[3];
    UNROLL for (uint32_t c = 0; c < n_cols; c++) v[c] = _mm256_loadu_ps(x[c] + i);
    UNROLL for (uint32_t r = 0; r < PANEL; r++) {
        __m256 v_w = _mm256_loadu_ps(w + 8 * r);
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = _mm256_fmadd_ps(v_w, v[c], sum[r][c]);
    }
}

/* Float weights. The last piece may end with fewer than 8 values: those of the input are masked. Inputs of the next
 * columns come from beyond the second-level cache: their share of this panel is fetched meanwhile. */
INLINE void panel_float(const struct block *k, uint32_t row, __m256 *sums, uint32_t n_cols)
{
    const struct tile *tile = k->tile;
    __m256 sum[PANEL][3];
    UNROLL for (uint32_t r = 0; r < PANEL; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = sums[r * n_cols + c];
    const float *w = tile_f32(tile, row), *x[3];
    const char *ahead[3];
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        x[c] = k->cols[c].x.f32 + tile->from;
        ahead[c] = (const char *)(k->next[c].x.f32 + tile->from) + row / PANEL * k->share * (tile->n_in / STRIDE);
    }
    uint32_t i = 0;
    for (; i + STRIDE <= tile->n_in; i += STRIDE, w += STRIDE / 8 * TILE_F32_STEP) {
        UNROLL for (uint32_t c = 0; c < n_cols; c++) _mm_prefetch(ahead[c], _MM_HINT_T0), ahead[c] += k->share;
        UNROLL for (uint32_t j = 0; j < STRIDE; j += 8) float_step(sum, w + j * PANEL, x, i + j, n_cols);
    }
    for (; i + 8 <= tile->n_in; i += 8, w += TILE_F32_STEP) float_step(sum, w, x, i, n_cols);
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
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sums[r * n_cols + c] = sum[r][c];
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

INLINE void store_sums(const struct block *k, uint32_t row, uint32_t n_cols, bool scaled, const __m256 *sums)
{
    uint32_t n_rows = k->tile->n_rows - row;
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        const __m256 *s = sums + c;
        __m128 y = sum_lanes_of_four(s[0], s[n_cols], s[2 * n_cols], s[3 * n_cols]);
        if (scaled) y = _mm_mul_ps(y, _mm_set1_ps(k->cols[c].x.d));
        float values[PANEL];
        _mm_storeu_ps(n_rows >= PANEL ? k->cols[c].y + row : values, y);
        for (uint32_t r = 0; n_rows < PANEL && r < n_rows; r++) k->cols[c].y[row + r] = values[r];
    }
}

/* One function for each number of columns of a register block. */
typedef void (*block_fn)(const struct block *k);
#define BLOCK_FN(name, n_cols, ints, call) \
    static void name(const struct block *k) \
    { \
        __m256 *sums = k->sums; \
        for (uint32_t row = 0; row < k->tile->n_rows; row += PANEL, sums += PANEL * (n_cols)) { \
            for (uint32_t i = 0; i < PANEL * (n_cols) && k->begins; i++) sums[i] = _mm256_setzero_ps(); \
            call; \
            if (k->ends) store_sums(k, row, n_cols, ints, sums); \
        } \
    }
BLOCK_FN(min32_1, 1, true, panel_wide(k, row, sums, 1, 256, true))
BLOCK_FN(min32_2, 2, true, panel_wide(k, row, sums, 2, 256, true))
BLOCK_FN(min32_3, 3, true, panel_wide(k, row, sums, 3, 256, true))
BLOCK_FN(wide256_1, 1, true, panel_wide(k, row, sums, 1, 256, false))
BLOCK_FN(wide256_2, 2, true, panel_wide(k, row, sums, 2, 256, false))
BLOCK_FN(wide256_3, 3, true, panel_wide(k, row, sums, 3, 256, false))
BLOCK_FN(wide128_1, 1, true, panel_wide(k, row, sums, 1, 128, false))
BLOCK_FN(wide128_2, 2, true, panel_wide(k, row, sums, 2, 128, false))
BLOCK_FN(wide128_3, 3, true, panel_wide(k, row, sums, 3, 128, false))
BLOCK_FN(float_1, 1, false, panel_float(k, row, sums, 1))
BLOCK_FN(float_2, 2, false, panel_float(k, row, sums, 2))
BLOCK_FN(float_3, 3, false, panel_float(k, row, sums, 3))

static const block_fn *block_functions(const struct format_kernels *format)
{
    static const block_fn floats[3] = {float_1, float_2, float_3};
    static const block_fn wide128[3] = {wide128_1, wide128_2, wide128_3};
    static const block_fn wide256[3] = {wide256_1, wide256_2, wide256_3};
    static const block_fn min32[3] = {min32_1, min32_2, min32_3};
    if (!format || !format->group) return floats;
    if (format->group == 128) return wide128;
    return format->min_group ? min32 : wide256;
}

/* How many columns the next register block takes: never one alone where two blocks of two are possible. */
static uint32_t next_columns(uint32_t n_left) { return n_left == 4 ? 2 : n_left < 3 ? n_left : 3; }

void avx2_gemm(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
               uint32_t n_cols, bool last)
{
    uint32_t n_padded = (tile->n_rows + PANEL - 1) / PANEL * PANEL;
    const block_fn *functions = block_functions(format);
    __m256 *sums = (__m256 *)(void *)tile->sums; /* of columns c .. c+n-1: [n_padded][n] from n_padded c on */
    __m256 here[TILE_ROWS * 3]; /* where sums rest that begin and end in this piece */
    for (uint32_t c = 0, n; c < n_cols; c += n) {
        n = next_columns(n_cols - c);
        struct block k = {.tile = tile, .cols = cols + c, .begins = tile->from == 0, .ends = last};
        k.next = n_cols - c >= 2 * n ? k.cols + n : k.cols;
        k.share = STRIDE * (uint32_t)sizeof(float) * PANEL / n_padded;
        k.sums = k.begins && k.ends ? here : sums + (size_t)n_padded * c;
        functions[n - 1](&k);
    }
}

#endif
