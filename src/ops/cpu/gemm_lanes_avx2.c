/* gemm_lanes_avx2.c - unpacked weight rows times many input rows, where the lanes of a vector are eight weight rows: so
 * no sum over lanes is ever needed, and scales are multiplied eight at a time. A step takes the next 32 bits of all 24
 * rows (three vectors) and the same 32 bits of two inputs, broadcast; six sums stay in registers.
 *
 * Q8_0, MXFP4: pairs of 16-bit numbers, 33 operations for 8 rows by 32 values where lanes of one row need 40.
 * Q2_K: fours of bytes. A 16-bit lane sums 16 products of either 16 of a 32, at most 16 * 12 * 127 < 2^15 as codes are
 * up to four times as large (q2_k_avx2.c); it then meets its scale times the input's multiplier. 20 operations, 11 of
 * them multiplications, which two of the four vector pipes of Zen 3 do.
 * IQ2_XXS: the same with weights w + 43, which are unsigned. A 16-bit lane may overflow meanwhile, as it begins with
 * -43 times the sum of the inputs and ends with a sum that fits (OFFSET in kernels.h). With sums of 8
 * products instead, which need no such bound, it was a fifth slower.
 * Where a vpmaddwd and a vpaddd in turns in registers do 32 products, in the first-level cache of Zen 3 the former does
 * 26 and Q2_K 37. */
#if defined(__x86_64__)
#include <string.h>

#include "ops/cpu/avx2.h"

#define VECTORS (TILE_ROWS / LANES)
#define COLS 2u
#define STEP_BYTES (4u * TILE_ROWS)

/* Sums of a register block: [VECTORS][columns]. */
typedef void block_fn(const struct tile *tile, const struct gemm_col *cols, __m256 *sums);

/* Each is one statement with its sum, so that the sum stays in its register (gemm_avx2.c). */
INLINE void add_words(__m256i *sum, __m256i w, __m256i x)
{
    __m256i products;
    __asm__("vpmaddwd %[x], %[w], %[p]\n\tvpaddd %[p], %[s], %[s]"
            : [s] "+x"(*sum), [p] "=&x"(products) : [w] "x"(w), [x] "x"(x));
}
INLINE void add_bytes(__m256i *sum, __m256i w, __m256i x)
{
    __m256i products;
    __asm__("vpmaddubsw %[x], %[w], %[p]\n\tvpaddw %[p], %[s], %[s]"
            : [s] "+x"(*sum), [p] "=&x"(products) : [w] "x"(w), [x] "x"(x));
}
INLINE __m256i words_times(__m256i w, __m256i x)
{
    __m256i products;
    __asm__("vpmaddwd %[x], %[w], %[p]" : [p] "=x"(products) : [w] "x"(w), [x] "x"(x));
    return products;
}
INLINE __m256i bytes_times(__m256i w, __m256i x)
{
    __m256i products;
    __asm__("vpmaddubsw %[x], %[w], %[p]" : [p] "=x"(products) : [w] "x"(w), [x] "x"(x));
    return products;
}
/* The 32 bits at p in all lanes. */
INLINE __m256i all_lanes(const void *p) { return _mm256_set1_epi32((int32_t)load_u32(p)); }

/* Q8_0 and MXFP4: groups of 32. */
INLINE void block_32(const struct tile *tile, const struct gemm_col *cols, __m256 *sums, uint32_t n_cols)
{
    const uint8_t *w = (const uint8_t *)tile->q16;
    const float *d = tile->d;
    for (uint32_t at = 0; at < tile->n_in; at += 32, w += 16 * STEP_BYTES, d += TILE_ROWS) {
        __m256i total[VECTORS][COLS] UNINITIALISED;
        UNROLL for (uint32_t i = 0; i < 16; i++) {
            __m256i x[COLS] UNINITIALISED;
            UNROLL for (uint32_t c = 0; c < n_cols; c++)
                x[c] = all_lanes(cols[c].x.q16 + tile->from + at + i / 2 * 2 + i % 2 * 16);
            UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
                __m256i weights = load256(w + i * STEP_BYTES + 32 * v);
                UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                    if (i == 0) total[v][c] = words_times(weights, x[c]);
                    else add_words(&total[v][c], weights, x[c]);
                }
            }
        }
        UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                __m256 *sum = &sums[v * n_cols + c];
                *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[v][c]), _mm256_loadu_ps(d + LANES * v), *sum);
            }
    }
}

/* *total += 32 codes times scales times multipliers. */
INLINE void add_q2_k_32(const struct tile *tile, const struct gemm_col *cols, uint32_t n_cols, uint32_t at,
                        __m256i (*total)[COLS])
{
    const uint8_t *w = tile_q8(tile, TILE_ROWS, at, 0);
    const int16_t *scales = tile->scales16 + (size_t)at / 32 * 2 * TILE_ROWS;
    __m256i sum[VECTORS][COLS] UNINITIALISED;
    UNROLL for (uint32_t i = 0; i < 8; i++) {
        __m256i x[COLS] UNINITIALISED;
        UNROLL for (uint32_t c = 0; c < n_cols; c++) x[c] = all_lanes(cols[c].x.q8 + tile->from + at + 4 * i);
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
            __m256i weights = load256(w + i * STEP_BYTES + 32 * v);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                if (i == 0) sum[v][c] = bytes_times(weights, x[c]);
                else add_bytes(&sum[v][c], weights, x[c]);
            }
        }
    }
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        __m256i t = all_lanes(cols[c].x.t + (tile->from + at) / 16);
        UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            add_words(&total[v][c], sum[v][c], _mm256_mullo_epi16(t, load256(scales + 2 * LANES * v)));
    }
}
/* The same of IQ2_XXS: sums begin with what the offset of the weights will add, and may leave 16 bits meanwhile. */
INLINE void add_iq2_xxs_32(const struct tile *tile, const struct gemm_col *cols, uint32_t n_cols, uint32_t at,
                           __m256i (*total)[COLS])
{
    const uint8_t *w = tile_q8(tile, TILE_ROWS, at, 0);
    const int16_t *scales = tile->scales16 + (size_t)at / 32 * 2 * TILE_ROWS;
    __m256i sum[VECTORS][COLS] UNINITIALISED, start[COLS] UNINITIALISED;
    UNROLL for (uint32_t c = 0; c < n_cols; c++)
        start[c] = all_lanes(cols[c].x.t_sums + (tile->from + at) / 16);
    UNROLL for (uint32_t i = 0; i < 8; i++) {
        __m256i x[COLS] UNINITIALISED;
        UNROLL for (uint32_t c = 0; c < n_cols; c++) x[c] = all_lanes(cols[c].x.q8 + tile->from + at + 4 * i);
        UNROLL for (uint32_t v = 0; v < VECTORS; v++) {
            __m256i weights = load256(w + i * STEP_BYTES + 32 * v);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                if (i == 0) sum[v][c] = _mm256_add_epi16(start[c], bytes_times(weights, x[c]));
                else add_bytes(&sum[v][c], weights, x[c]);
            }
        }
    }
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        __m256i t = all_lanes(cols[c].x.t + (tile->from + at) / 16);
        UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            add_words(&total[v][c], sum[v][c], _mm256_mullo_epi16(t, load256(scales + 2 * LANES * v)));
    }
}
INLINE void block_iq2_xxs(const struct tile *tile, const struct gemm_col *cols, __m256 *sums, uint32_t n_cols)
{
    const float *d = tile->d;
    for (uint32_t at = 0; at < tile->n_in; at += 256, d += TILE_ROWS) {
        __m256i total[VECTORS][COLS] UNINITIALISED;
        UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            UNROLL for (uint32_t c = 0; c < n_cols; c++) total[v][c] = _mm256_setzero_si256();
        for (uint32_t i = 0; i < 256; i += 32) add_iq2_xxs_32(tile, cols, n_cols, at + i, total);
        UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                __m256 *sum = &sums[v * n_cols + c];
                *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[v][c]), _mm256_loadu_ps(d + LANES * v), *sum);
            }
    }
}
INLINE void block_q2_k(const struct tile *tile, const struct gemm_col *cols, __m256 *sums, uint32_t n_cols)
{
    const float *d = tile->d, *d_min = tile->d_min;
    for (uint32_t at = 0; at < tile->n_in; at += 256, d += TILE_ROWS, d_min += TILE_ROWS) {
        __m256i total[VECTORS][COLS] UNINITIALISED, minima[VECTORS][COLS] UNINITIALISED;
        UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            UNROLL for (uint32_t c = 0; c < n_cols; c++) total[v][c] = minima[v][c] = _mm256_setzero_si256();
        for (uint32_t i = 0; i < 256; i += 32) add_q2_k_32(tile, cols, n_cols, at + i, total);
        const int16_t *mins = tile->mins16 + (size_t)at / 32 * 2 * TILE_ROWS;
        for (uint32_t i = 0; i < 256; i += 32, mins += 2 * TILE_ROWS)
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                __m256i x = all_lanes(cols[c].x.t_sums + (tile->from + at + i) / 16);
                UNROLL for (uint32_t v = 0; v < VECTORS; v++)
                    add_words(&minima[v][c], load256(mins + 2 * LANES * v), x);
            }
        UNROLL for (uint32_t v = 0; v < VECTORS; v++)
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                __m256 sum = sums[v * n_cols + c];
                sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[v][c]), _mm256_loadu_ps(d + LANES * v), sum);
                sum = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(minima[v][c]), _mm256_loadu_ps(d_min + LANES * v), sum);
                sums[v * n_cols + c] = sum;
            }
    }
}

static void store_sums(const struct tile *tile, const struct gemm_col *cols, const __m256 *sums, uint32_t n_cols)
{
    for (uint32_t c = 0; c < n_cols; c++) {
        float values[TILE_ROWS] UNINITIALISED;
        for (uint32_t v = 0; v < VECTORS; v++)
            _mm256_storeu_ps(values + LANES * v, _mm256_mul_ps(sums[v * n_cols + c], _mm256_set1_ps(cols[c].x.d)));
        memcpy(cols[c].y, values, tile->n_rows * sizeof *values);
    }
}

/* Inputs of the next columns come from beyond the second-level cache. */
static void fetch(const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)from + i, _MM_HINT_T0);
}
static void fetch_bytes(const struct input *x, uint32_t from, uint32_t n)
{
    fetch(x->q8 + from, n);
    fetch(x->t + from / 16, n / 8);
    fetch(x->t_sums + from / 16, n / 8);
}

INLINE void gemm(block_fn *two, block_fn *one, bool bytes, const struct tile *tile, const struct gemm_col *cols,
                 uint32_t n_cols, bool last)
{
    __m256 here[VECTORS * COLS] UNINITIALISED; /* where sums rest that begin and end in this piece */
    __m256 *rest = (__m256 *)(void *)tile->sums;
    bool begins = tile->from == 0;
    for (uint32_t c = 0, n; c < n_cols; c += n) {
        n = n_cols - c < COLS ? 1 : COLS;
        __m256 *sums = begins && last ? here : rest + VECTORS * c;
        UNROLL for (uint32_t i = 0; i < VECTORS * COLS; i++)
            if (begins) sums[i] = _mm256_setzero_ps();
        for (uint32_t i = c + n; i < c + 2 * n && i < n_cols; i++)
            if (bytes) fetch_bytes(&cols[i].x, tile->from, tile->n_in);
            else fetch(cols[i].x.q16 + tile->from, 2 * (size_t)tile->n_in);
        (n == COLS ? two : one)(tile, cols + c, sums);
        if (last) store_sums(tile, cols + c, sums, n);
    }
}

#define GEMM(name, bytes) \
    static void lanes_##name##_1(const struct tile *tile, const struct gemm_col *cols, __m256 *sums) \
    { \
        block_##name(tile, cols, sums, 1); \
    } \
    static void lanes_##name##_2(const struct tile *tile, const struct gemm_col *cols, __m256 *sums) \
    { \
        block_##name(tile, cols, sums, 2); \
    } \
    void avx2_gemm_lanes_##name(const struct tile *tile, const struct gemm_col *cols, uint32_t n_cols, bool last) \
    { \
        gemm(lanes_##name##_2, lanes_##name##_1, bytes, tile, cols, n_cols, last); \
    }
GEMM(32, false)
GEMM(q2_k, true)
GEMM(iq2_xxs, true)

#endif
