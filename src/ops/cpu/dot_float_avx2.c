/* dot_float_avx2.c - one input row against float weights (F32, F16, BF16): one chain of 8-lane multiply-adds for each
 * output, four outputs at a time so that the chains overlap. A rest of fewer than 8 is padded with zeros. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"

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

INLINE void dot_rows(enum float_kind kind, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in,
                     const float *x, float *y)
{
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    const size_t ahead = ahead_of(row_bytes);
    uint32_t i = 0;
    for (; i + 8 <= n_in; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        UNROLL for (uint32_t r = 0; r < n_rows; r++) {
            if (i % (64 / kind_bytes(kind)) == 0) fetch(w + r * row_bytes + i * kind_bytes(kind) + ahead);
            sum[r] = _mm256_fmadd_ps(load_weights(kind, w + r * row_bytes, i), v, sum[r]);
        }
    }
    if (i < n_in) {
        float rest_x[8] = {0}, rest_w[8];
        memcpy(rest_x, x + i, (n_in - i) * sizeof *x);
        for (uint32_t r = 0; r < n_rows; r++) {
            load_rest(kind, w + r * row_bytes, n_in, rest_w);
            sum[r] = _mm256_fmadd_ps(_mm256_loadu_ps(rest_w), _mm256_loadu_ps(rest_x), sum[r]);
        }
    }
    for (uint32_t r = 0; r < n_rows; r++) y[r] = sum_lanes(sum[r]);
}

INLINE void dot_kind(enum float_kind kind, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in,
                     const struct input *x, float *y)
{
    uint32_t r = 0;
    for (; r + 4 <= n_rows; r += 4) dot_rows(kind, w + r * row_bytes, row_bytes, 4, n_in, x->f32, y + r);
    for (; r < n_rows; r++) dot_rows(kind, w + r * row_bytes, row_bytes, 1, n_in, x->f32, y + r);
}

INLINE void unpack_kind(enum float_kind kind, const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    float *to = tile_f32(tile, row_i);
    uint32_t i = 0;
    for (; i + 8 <= tile->n_in; i += 8, to += TILE_F32_STEP) _mm256_storeu_ps(to, load_weights(kind, w, i));
    if (i < tile->n_in) load_rest(kind, w, tile->n_in, to);
}

#define FLOAT_FORMAT(name, kind) \
    static void dot_##name(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x, \
                           float *y) \
    { \
        dot_kind(kind, w, row_bytes, n_rows, n_in, x, y); \
    } \
    static void unpack_##name(const uint8_t *w, const struct tile *tile, uint32_t row_i) \
    { \
        unpack_kind(kind, w, tile, row_i); \
    } \
    const struct format_kernels avx2_##name = {INPUT_FLOAT, 0, 0, 3, dot_##name, unpack_##name};

FLOAT_FORMAT(f32, KIND_F32)
FLOAT_FORMAT(f16, KIND_F16)
FLOAT_FORMAT(bf16, KIND_BF16)

#endif
