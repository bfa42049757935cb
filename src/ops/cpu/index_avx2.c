/* index_avx2.c - scores of packed index rows with small integers. Codes of E2M1 are doubled (0 .. +-12); a row's are
 * moved to 0 .. 24 so that they multiply as unsigned bytes, and 12 times the sum of the query's is taken off again.
 * Eight heads lie in the eight 32-bit lanes: four values of a row, broadcast, meet four values of each head.
 *
 * A prepared query, for each 8 heads: for each 32 values: i8 q[8 quads][8 heads][4], i32 12 sum(q)[8], f32 unit[8];
 * then f32 w[8]. Quads take the even values of the 32 first, then the odd ones: the order of unpacked nibbles. */
#if defined(__x86_64__)
#include <math.h>

#include "ops/cpu/avx2.h"

#define HEADS 8u
#define ROWS 4u /* rows that meet a query together */
#define BLOCK_BYTES (256u + 32u + 32u)

INLINE size_t group_bytes(uint32_t dim) { return dim / 32 * BLOCK_BYTES + 32; }

/* One 32 of one head. The unit is a power of two that makes the largest magnitude at least 8 and below 16, so that
 * every E2M1 number on its scale is an integer. */
static bool prepare_block(const float *q, uint32_t head, uint8_t *block)
{
    int8_t *codes = (int8_t *)block;
    float most = 0, unit = 0;
    int32_t sum = 0;
    for (int i = 0; i < 32; i++) {
        if (!(fabsf(q[i]) < 1e30f)) return false;
        most = fmaxf(most, fabsf(q[i]));
    }
    if (most > 0 && most < 1e-30f) return false;
    if (most > 0) unit = f32_from_bits((f32_bits(most) & 0x7F800000u) - (3u << 23));
    for (int i = 0; i < 32; i++) {
        float scaled = most > 0 ? q[i] / unit : 0;
        int32_t code = (int32_t)scaled;
        if ((float)code != scaled) return false;
        int at = i / 2 + 16 * (i % 2);
        codes[at / 4 * 32 + (int)head * 4 + at % 4] = (int8_t)code;
        sum += code;
    }
    store_u32(block + 256 + 4 * head, (uint32_t)(12 * sum));
    store_f32(block + 288 + 4 * head, unit);
    return true;
}

bool avx2_index_prepare(const float *q, const float *w, uint32_t n_heads, uint32_t dim, uint8_t *prepared)
{
    uint32_t n_groups = (n_heads + HEADS - 1) / HEADS;
    memset(prepared, 0, n_groups * group_bytes(dim));
    for (uint32_t h = 0; h < n_heads; h++) {
        uint8_t *group = prepared + h / HEADS * group_bytes(dim);
        for (uint32_t b = 0; b < dim / 32; b++)
            if (!prepare_block(q + (size_t)h * dim + 32 * b, h % HEADS, group + b * BLOCK_BYTES)) return false;
        store_f32(group + dim / 32 * BLOCK_BYTES + 4 * (h % HEADS), w[h]);
    }
    return true;
}

/* Doubled codes plus 12 of 32 values: the even ones, then the odd ones. */
INLINE __m256i row_values(const uint8_t *codes)
{
    const __m256i table = twice128(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    __m256i nibbles = _mm256_srlv_epi32(twice128(load128(codes)), _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    return _mm256_shuffle_epi8(table, _mm256_and_si256(nibbles, _mm256_set1_epi8(15)));
}

/* Half of 2^(e-127): codes are doubled. */
INLINE float row_unit(uint8_t e) { return f32_from_bits(e ? (uint32_t)e << 23 : 0x00400000u) * 0.5f; }

/* *sum += products of pairs of bytes, u unsigned. One statement, so that the sum stays in its register. */
INLINE void add_bytes(__m256i *sum, __m256i u, __m256i i)
{
    __m256i products;
    __asm__("vpmaddubsw %[i], %[u], %[p]\n\tvpaddw %[p], %[s], %[s]"
            : [s] "+x"(*sum), [p] "=&x"(products) : [u] "x"(u), [i] "x"(i));
}

INLINE void score_some(const uint8_t *prepared, uint32_t n_heads, uint32_t dim, const uint8_t *rows, size_t row_bytes,
                       uint32_t n_rows, float scale, float *scores)
{
    uint8_t values[ROWS][1024] UNINITIALISED;
    float units[ROWS][32] UNINITIALISED;
    __m256 score[ROWS];
    UNROLL for (uint32_t r = 0; r < n_rows; r++) score[r] = _mm256_setzero_ps();
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t b = 0; b < dim / 32; b++) {
            _mm256_storeu_si256((__m256i *)(values[r] + 32 * b), row_values(rows + r * row_bytes + 16 * b));
            units[r][b] = row_unit(rows[r * row_bytes + dim / 2 + b]);
        }
    const uint8_t *at = prepared;
    for (uint32_t group = 0; group < n_heads / HEADS; group++, at += 32) {
        __m256 dot[ROWS];
        UNROLL for (uint32_t r = 0; r < n_rows; r++) dot[r] = _mm256_setzero_ps();
        for (uint32_t b = 0; b < dim / 32; b++, at += BLOCK_BYTES) {
            __m256i pairs[ROWS];
            UNROLL for (uint32_t r = 0; r < n_rows; r++) pairs[r] = _mm256_setzero_si256();
            UNROLL for (int quad = 0; quad < 8; quad++) {
                __m256i q = load256(at + 32 * quad);
                UNROLL for (uint32_t r = 0; r < n_rows; r++) {
                    int32_t four = (int32_t)load_u32(values[r] + 32 * b + 4 * quad);
                    add_bytes(&pairs[r], _mm256_set1_epi32(four), q);
                }
            }
            __m256 unit = _mm256_loadu_ps((const float *)(const void *)(at + 288));
            UNROLL for (uint32_t r = 0; r < n_rows; r++) {
                __m256i sum = _mm256_sub_epi32(_mm256_madd_epi16(pairs[r], _mm256_set1_epi16(1)), load256(at + 256));
                __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), unit);
                dot[r] = _mm256_fmadd_ps(part, _mm256_set1_ps(units[r][b]), dot[r]);
            }
        }
        __m256 w = _mm256_loadu_ps((const float *)(const void *)at);
        UNROLL for (uint32_t r = 0; r < n_rows; r++)
            score[r] = _mm256_fmadd_ps(_mm256_max_ps(dot[r], _mm256_setzero_ps()), w, score[r]);
    }
    for (uint32_t r = 0; r < n_rows; r++) scores[r] = sum_lanes(score[r]) * scale;
}

void avx2_index_scores(const uint8_t *prepared, uint32_t n_heads, uint32_t dim, const uint8_t *rows, size_t row_bytes,
                       uint32_t n, float scale, float *scores)
{
    uint32_t i = 0;
    for (; i + ROWS <= n; i += ROWS)
        score_some(prepared, n_heads, dim, rows + i * row_bytes, row_bytes, ROWS, scale, scores + i);
    for (; i < n; i++) score_some(prepared, n_heads, dim, rows + i * row_bytes, row_bytes, 1, scale, scores + i);
}

#endif
