/* q8_0_avx2.c - Q8_0 and MXFP4: 32 signed bytes (or 4-bit floats, doubled to integers) with a scale, against 16-bit
 * inputs. Block: d f16, q i8[32]; MXFP4: e UE8M0, then codes, values 0-15 in low nibbles, 16-31 in high ones. Eight
 * rows at a time, each a lane of the result. */
#if defined(__x86_64__)
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

/* The scales of the blocks at `offset` of eight rows. MXFP4: half of 2^(e - 127), as codes are doubled. */
INLINE __m256 block_scales(bool mx, const uint8_t *const *rows, size_t offset)
{
    __m256i dwords = dwords_of(rows, offset);
    if (!mx) return low_halves(dwords);
    dwords = _mm256_slli_epi32(_mm256_and_si256(dwords, _mm256_set1_epi32(0xFF)), 23);
    dwords = _mm256_max_epi32(dwords, _mm256_set1_epi32(0x00400000)); /* 2^-127 */
    return _mm256_mul_ps(_mm256_castsi256_ps(dwords), _mm256_set1_ps(0.5f));
}

/* Eight rows by n_cols inputs, a row a lane; each block is widened and its scale converted once for all. */
INLINE void dot_rows(bool mx, const struct streams *s, uint32_t n_in, const struct gemm_col *cols, uint32_t n_cols)
{
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t offset = 0;
    for (uint32_t b = 0; b < n_in / 32; b++, offset += mx ? MX_BYTES : Q8_BYTES) {
        __m256i products[2][LANES] UNINITIALISED;
        UNROLL for (uint32_t r = 0; r < LANES; r++) {
            __m256i v = block_values(mx, s->rows[r] + offset), even = even_i8(v), odd = odd_i8(v);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                const int16_t *x = cols[c].x.q16 + 32 * b;
                products[c][r] = _mm256_add_epi32(_mm256_madd_epi16(even, load256(x)),
                                                  _mm256_madd_epi16(odd, load256(x + 16)));
            }
        }
        __m256 scales = block_scales(mx, s->rows, offset);
        UNROLL for (uint32_t c = 0; c < n_cols; c++)
            sum[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(lane_sums_i32(products[c])), scales, sum[c]);
    }
    for (uint32_t c = 0; c < n_cols; c++) streams_store(s, sum[c], cols[c].x.d, cols[c].y);
}

INLINE void dots_all(bool mx, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in,
                     const struct gemm_col *cols, uint32_t n_cols)
{
    uint32_t n = (n_rows + LANES - 1) / LANES;
    for (uint32_t i = 0; i < n; i++) {
        struct streams s = streams_at(w, row_bytes, n_rows, i, n);
        uint32_t c = 0;
        for (; c + 2 <= n_cols; c += 2) dot_rows(mx, &s, n_in, cols + c, 2);
        if (c < n_cols) dot_rows(mx, &s, n_in, cols + c, 1);
    }
}
INLINE void dot_all(bool mx, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in,
                    const struct input *x, float *y)
{
    struct gemm_col col = {*x, y};
    dots_all(mx, w, row_bytes, n_rows, n_in, &col, 1);
}

INLINE void unpack_rows(bool mx, uint32_t n_lanes, const uint8_t *const *rows, const struct tile *tile, uint32_t row_i)
{
    size_t offset = 0;
    for (uint32_t at = 0; at < tile->n_in; at += 32, offset += mx ? MX_BYTES : Q8_BYTES) {
        __m256i v[LANES] UNINITIALISED;
        UNROLL for (uint32_t r = 0; r < LANES; r++) v[r] = block_values(mx, rows[r] + offset);
        transpose_8(v);
        UNROLL for (uint32_t i = 0; i < 8; i++) {
            _mm256_storeu_si256((__m256i *)(void *)tile_q16_lanes(tile, n_lanes, at + 4 * i, 0, row_i), even_i8(v[i]));
            _mm256_storeu_si256((__m256i *)(void *)tile_q16_lanes(tile, n_lanes, at + 4 * i, 1, row_i), odd_i8(v[i]));
        }
        _mm256_storeu_ps(tile->d + (size_t)at / 32 * n_lanes + row_i, block_scales(mx, rows, offset));
    }
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
static void unpack_q8_0(const uint8_t *const *rows, const struct tile *tile, uint32_t row_i)
{
    unpack_rows(false, TILE_ROWS, rows, tile, row_i);
}
static void dot_mxfp4(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                      float *y)
{
    dot_all(true, w, row_bytes, n_rows, n_in, x, y);
}
static void unpack_mxfp4(const uint8_t *const *rows, const struct tile *tile, uint32_t row_i)
{
    unpack_rows(true, TILE_ROWS, rows, tile, row_i);
}
void avx2_unpack_q8_0_wide(const uint8_t *const *rows, const struct tile *tile, uint32_t row_i)
{
    unpack_rows(false, TILE_ROWS_MAX, rows, tile, row_i);
}
void avx2_unpack_mxfp4_wide(const uint8_t *const *rows, const struct tile *tile, uint32_t row_i)
{
    unpack_rows(true, TILE_ROWS_MAX, rows, tile, row_i);
}

static const struct lanes_kernels lanes_q8_0 = {TILE_ROWS, LANES_PIECE, unpack_q8_0, avx2_gemm_lanes_32};
static const struct lanes_kernels lanes_mxfp4 = {TILE_ROWS, LANES_PIECE, unpack_mxfp4, avx2_gemm_lanes_32};
const struct format_kernels avx2_q8_0 = {INPUT_FINE, 32, 0, DOT_COLS, dot_q8_0, dots_q8_0, NULL, &lanes_q8_0};
const struct format_kernels avx2_mxfp4 = {INPUT_FINE, 32, 0, DOT_COLS, dot_mxfp4, dots_mxfp4, NULL, &lanes_mxfp4};

#endif
