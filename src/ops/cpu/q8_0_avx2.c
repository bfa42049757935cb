/* q8_0_avx2.c - Q8_0 and MXFP4: 32 signed bytes (or 4-bit floats, doubled to integers) with a scale, against 16-bit
 * inputs. Block: d f16, q i8[32]; MXFP4: e UE8M0, then codes, values 0-15 in low nibbles, 16-31 in high ones. */
#if defined(__x86_64__)
#include "base/f16.h"
#include "ops/cpu/avx2.h"

#define Q8_BYTES 34
#define MX_BYTES 17
#define DOT_COLS 6u /* up to here, reading the weights as they are is faster than unpacking them */

/* 32 codes of MXFP4 as twice their values. */
INLINE __m256i mx_values(const uint8_t *codes)
{
    const __m256i table = twice128(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    __m256i both = twice128(load128(codes));
    __m256i nibbles = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    return _mm256_shuffle_epi8(table, _mm256_and_si256(nibbles, _mm256_set1_epi8(15)));
}

INLINE __m256i block_values(bool mx, const uint8_t *block) { return mx ? mx_values(block + 1) : load256(block + 2); }
INLINE float block_scale(bool mx, const uint8_t *block) { return mx ? e8m0_to_f32(*block) * 0.5f : half_at(block); }

/* The scale in all lanes. */
INLINE __m256 block_scales(bool mx, const uint8_t *block)
{
    if (mx) return _mm256_set1_ps(block_scale(mx, block));
    return _mm256_cvtph_ps(_mm_set1_epi16((int16_t)load_u16(block)));
}

/* n_rows rows that lie `stride` bytes apart; their results lie y_step apart. */
INLINE void dot_rows(bool mx, const uint8_t *w, size_t stride, uint32_t n_rows, uint32_t n_in, const struct input *x,
                     float *y, uint32_t y_step)
{
    __m256 sum[STREAMS];
    UNROLL for (uint32_t r = 0; r < n_rows; r++) sum[r] = _mm256_setzero_ps();
    const uint32_t block_bytes = mx ? MX_BYTES : Q8_BYTES;
    for (uint32_t b = 0; b < n_in / 32; b++) {
        __m256i even = load256(x->q16 + 32 * b), odd = load256(x->q16 + 32 * b + 16);
        UNROLL for (uint32_t r = 0; r < n_rows; r++) {
            const uint8_t *block = w + r * stride + (size_t)b * block_bytes;
            __m256i v = block_values(mx, block);
            __m256i products = _mm256_add_epi32(_mm256_madd_epi16(even_i8(v), even), _mm256_madd_epi16(odd_i8(v), odd));
            sum[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), block_scales(mx, block), sum[r]);
        }
    }
    for (uint32_t r = 0; r < n_rows; r++) y[r * y_step] = sum_lanes(sum[r]) * x->d;
}

/* Four rows by two inputs: each block is widened and its scale converted once for both. Results go to row `at` and
 * those y_step apart. */
INLINE void dot_rows_2(bool mx, const uint8_t *w, size_t stride, uint32_t n_in, const struct gemm_col *cols,
                       uint32_t at, uint32_t y_step)
{
    __m256 sum[4][2];
    UNROLL for (uint32_t r = 0; r < 4; r++) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    const uint32_t block_bytes = mx ? MX_BYTES : Q8_BYTES;
    const int16_t *x0 = cols[0].x.q16, *x1 = cols[1].x.q16;
    for (uint32_t b = 0; b < n_in / 32; b++, x0 += 32, x1 += 32) {
        UNROLL for (uint32_t r = 0; r < 4; r++) {
            const uint8_t *block = w + r * stride + (size_t)b * block_bytes;
            __m256i v = block_values(mx, block), even = even_i8(v), odd = odd_i8(v);
            __m256 scale = block_scales(mx, block);
            __m256i first = _mm256_madd_epi16(even, load256(x0)), second = _mm256_madd_epi16(even, load256(x1));
            first = _mm256_add_epi32(first, _mm256_madd_epi16(odd, load256(x0 + 16)));
            second = _mm256_add_epi32(second, _mm256_madd_epi16(odd, load256(x1 + 16)));
            sum[r][0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(first), scale, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(second), scale, sum[r][1]);
        }
    }
    for (uint32_t r = 0; r < 4; r++)
        for (uint32_t c = 0; c < 2; c++) cols[c].y[at + r * y_step] = sum_lanes(sum[r][c]) * cols[c].x.d;
}

INLINE void dot_all(bool mx, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in,
                    const struct input *x, float *y)
{
    uint32_t n = n_rows / STREAMS, r = n * STREAMS;
    for (uint32_t i = 0; i < n; i++) dot_rows(mx, w + i * row_bytes, n * row_bytes, STREAMS, n_in, x, y + i, n);
    if (r + 4 <= n_rows) dot_rows(mx, w + r * row_bytes, row_bytes, 4, n_in, x, y + r, 1), r += 4;
    for (; r < n_rows; r++) dot_rows(mx, w + r * row_bytes, row_bytes, 1, n_in, x, y + r, 1);
}

INLINE void unpack_row(bool mx, const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i);
    for (uint32_t b = 0; b < tile->n_in / 32; b++, w += mx ? MX_BYTES : Q8_BYTES, q += 2 * TILE_Q16_STEP, d += PANEL) {
        __m256i v = block_values(mx, w);
        _mm256_storeu_si256((__m256i *)q, even_i8(v));
        _mm256_storeu_si256((__m256i *)(q + TILE_Q16_STEP), odd_i8(v));
        *d = block_scale(mx, w);
    }
}

INLINE void dots_all(bool mx, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in,
                     const struct gemm_col *cols, uint32_t n_cols)
{
    uint32_t n = n_rows / 4, paired = n_cols & ~1u;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *rows = w + i * row_bytes;
        for (uint32_t c = 0; c < paired; c += 2) dot_rows_2(mx, rows, n * row_bytes, n_in, cols + c, i, n);
        if (paired < n_cols)
            dot_rows(mx, rows, n * row_bytes, 4, n_in, &cols[paired].x, cols[paired].y + i, n);
    }
    for (uint32_t r = 4 * n; r < n_rows; r++)
        for (uint32_t c = 0; c < n_cols; c++)
            dot_rows(mx, w + r * row_bytes, row_bytes, 1, n_in, &cols[c].x, cols[c].y + r, 1);
}

static void dots_q8_0(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct gemm_col *cols,
                      uint32_t n_cols)
{
    dots_all(false, w, row_bytes, n_rows, n_in, cols, n_cols);
}
static void dots_mxfp4(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct gemm_col *cols,
                       uint32_t n_cols)
{
    dots_all(true, w, row_bytes, n_rows, n_in, cols, n_cols);
}
static void dot_q8_0(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                     float *y)
{
    dot_all(false, w, row_bytes, n_rows, n_in, x, y);
}
static void unpack_q8_0(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    unpack_row(false, w, tile, row_i);
}
static void dot_mxfp4(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                      float *y)
{
    dot_all(true, w, row_bytes, n_rows, n_in, x, y);
}
static void unpack_mxfp4(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    unpack_row(true, w, tile, row_i);
}

const struct format_kernels avx2_q8_0 = {INPUT_FINE, 32, 0, DOT_COLS, dot_q8_0, dots_q8_0, unpack_q8_0};
const struct format_kernels avx2_mxfp4 = {INPUT_FINE, 32, 0, DOT_COLS, dot_mxfp4, dots_mxfp4, unpack_mxfp4};

#endif
