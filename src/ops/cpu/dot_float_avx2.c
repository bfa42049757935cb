/* dot_float_avx2.c - one input row against float weights (F32, F16, BF16): one chain of 8-lane multiply-adds for each
 * output, eight or four outputs at a time so that the chains overlap. A rest of fewer than 8 is padded with zeros. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"

#define DOT_COLS 48u /* up to here, reading the weights as they are is faster than unpacking them */

enum float_kind { KIND_F32, KIND_F16, KIND_BF16 };

INLINE uint32_t kind_bytes(enum float_kind kind) { return kind == KIND_F32 ? 4 : 2; }

INLINE __m256 load_weights(enum float_kind kind, const uint8_t *w, size_t i)
{
    if (kind == KIND_F32) return _mm256_loadu_ps((const float *)(const void *)(w + 4 * i));
    if (kind == KIND_F16) return _mm256_cvtph_ps(load128(w + 2 * i));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(w + 2 * i)), 16));
}

/* The last n_in % 8 values, zero-padded. */
static void load_rest(enum float_kind kind, const uint8_t *w, uint32_t n_in, float *values)
{
    uint8_t bytes[32] = {0};
    uint32_t at = n_in & ~7u;
    memcpy(bytes, w + (size_t)at * kind_bytes(kind), (n_in - at) * kind_bytes(kind));
    _mm256_storeu_ps(values, load_weights(kind, bytes, 0));
}

/* Up to 8 rows by 1 input or 4 rows by 3. The rows lie `stride` bytes apart, their results y_step. */
INLINE void dot_rows(enum float_kind kind, const uint8_t *w, size_t stride, uint32_t n_rows, uint32_t n_in,
                     const float *const *x, float *const *y, uint32_t n_cols, uint32_t y_step)
{
    __m256 sum[STREAMS][3];
    UNROLL for (uint32_t r = 0; r < n_rows; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = _mm256_setzero_ps();
    uint32_t i = 0;
    for (; i + 8 <= n_in; i += 8) {
        __m256 v[3];
        UNROLL for (uint32_t c = 0; c < n_cols; c++) v[c] = _mm256_loadu_ps(x[c] + i);
        UNROLL for (uint32_t r = 0; r < n_rows; r++) {
            __m256 row = load_weights(kind, w + r * stride, i);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = _mm256_fmadd_ps(row, v[c], sum[r][c]);
        }
    }
    if (i < n_in) {
        float rest_x[3][8] = {{0}}, rest_w[8];
        for (uint32_t c = 0; c < n_cols; c++) memcpy(rest_x[c], x[c] + i, (n_in - i) * sizeof(float));
        UNROLL for (uint32_t r = 0; r < n_rows; r++) {
            load_rest(kind, w + r * stride, n_in, rest_w);
            UNROLL for (uint32_t c = 0; c < n_cols; c++)
                sum[r][c] = _mm256_fmadd_ps(_mm256_loadu_ps(rest_w), _mm256_loadu_ps(rest_x[c]), sum[r][c]);
        }
    }
    UNROLL for (uint32_t r = 0; r < n_rows; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) y[c][r * y_step] = sum_lanes(sum[r][c]);
}

/* `side` rows by all inputs. */
INLINE void dot_side(enum float_kind kind, const uint8_t *w, size_t stride, uint32_t side, uint32_t n_in,
                     const struct gemm_col *cols, uint32_t n_cols, uint32_t at, uint32_t y_step)
{
    for (uint32_t c = 0; c < n_cols; c += 3) {
        const float *x[3];
        float *y[3];
        uint32_t m = n_cols - c < 3 ? n_cols - c : 3;
        for (uint32_t i = 0; i < m; i++) x[i] = cols[c + i].x.f32, y[i] = cols[c + i].y + at;
        if (m == 3) dot_rows(kind, w, stride, side, n_in, x, y, 3, y_step);
        else if (m == 2) dot_rows(kind, w, stride, side, n_in, x, y, 2, y_step);
        else dot_rows(kind, w, stride, side, n_in, x, y, 1, y_step);
    }
}

INLINE void dots_kind(enum float_kind kind, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in,
                      const struct gemm_col *cols, uint32_t n_cols)
{
    uint32_t r = 0, n = n_cols == 1 ? n_rows / STREAMS : 0;
    for (uint32_t i = 0; i < n; i++)
        dot_rows(kind, w + i * row_bytes, n * row_bytes, STREAMS, n_in, &cols->x.f32, (float *[]){cols->y + i}, 1, n);
    r = n * STREAMS;
    n = (n_rows - r) / 4;
    for (uint32_t i = r; i < r + n; i++)
        dot_side(kind, w + i * row_bytes, n * row_bytes, 4, n_in, cols, n_cols, i, n);
    for (r += 4 * n; r < n_rows; r++) dot_side(kind, w + r * row_bytes, row_bytes, 1, n_in, cols, n_cols, r, 1);
}

INLINE void unpack_kind(enum float_kind kind, const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    float *to = tile_f32(tile, row_i);
    uint32_t i = 0;
    for (; i + 8 <= tile->n_in; i += 8, to += TILE_F32_STEP) _mm256_storeu_ps(to, load_weights(kind, w, i));
    if (i < tile->n_in) load_rest(kind, w, tile->n_in, to);
}

#define FLOAT_FORMAT(name, kind, dot_cols) \
    DOT_FUNCTIONS(name, dots_kind, dots_kind, kind) \
    static void unpack_##name(const uint8_t *w, const struct tile *tile, uint32_t row_i) \
    { \
        unpack_kind(kind, w, tile, row_i); \
    } \
    const struct format_kernels avx2_##name = {INPUT_FLOAT, 0, 0, dot_cols, dot_##name, dots_##name, \
                                                   unpack_##name, NULL};

FLOAT_FORMAT(f32, KIND_F32, DOT_COLS)
FLOAT_FORMAT(f16, KIND_F16, DOT_COLS)
FLOAT_FORMAT(bf16, KIND_BF16, DOT_COLS)

#endif
