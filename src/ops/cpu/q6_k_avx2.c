/* q6_k_avx2.c - Q6_K against 16-bit inputs. Block of 256 (210 bytes): ql u8[128], qh u8[64], sc i8[16], d f16; value
 * 128h+32j+l has its low nibble in ql[64h + 32(j&1) + l] (high half of the byte for j >= 2) and its high two bits in
 * bits 2j of qh[32h+l]. Codes times scales reach 4096, so a lane's integer sum is taken over 128 values: at most
 * 16 * 4096 * 32767 < 2^31. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"

#define BLOCK_BYTES 210

/* Codes of 32 values, -32 .. 31. */
INLINE __m256i codes(const uint8_t *block, uint32_t h, uint32_t j)
{
    __m256i low = load256(block + 64 * h + 32 * (j & 1)), high = load256(block + 128 + 32 * h);
    if (j >= 2) low = _mm256_srli_epi16(low, 4);
    low = _mm256_and_si256(low, _mm256_set1_epi8(15));
    if (j < 2) high = _mm256_slli_epi16(high, (int)(4 - 2 * j));
    else high = _mm256_srli_epi16(high, (int)(2 * j - 4));
    high = _mm256_and_si256(high, _mm256_set1_epi8(0x30));
    return _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
}

/* Scales as 16-bit numbers: even sixteenths in the low half, odd ones in the high half. */
INLINE __m256i scale_words(const uint8_t *block)
{
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(load128(block + 192), order));
}
/* The i-th pair of scales, each over its sixteen. */
INLINE __m256i scale_pair(__m256i words, uint32_t i)
{
    return _mm256_shuffle_epi8(words, _mm256_set1_epi16((int16_t)(2 * i | (2 * i + 1) << 8)));
}

static void dot_row(const uint8_t *w, uint32_t n_in, const struct input *x, float *y)
{
    __m256 sum = _mm256_setzero_ps();
    for (uint32_t b = 0; b < n_in / 256; b++, w += BLOCK_BYTES) {
        __m256i scales = scale_words(w);
        fetch_row(w);
        fetch_row(w + 128);
        __m256 d = _mm256_set1_ps(half_at(w + 208));
        UNROLL for (uint32_t h = 0; h < 2; h++) {
            __m256i total = _mm256_setzero_si256();
            UNROLL for (uint32_t j = 0; j < 4; j++) {
                const int16_t *q = x->q16 + 256 * b + 128 * h + 32 * j;
                __m256i c = codes(w, h, j), s = scale_pair(scales, 4 * h + j);
                total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_mullo_epi16(even_i8(c), s), load256(q)));
                total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_mullo_epi16(odd_i8(c), s), load256(q + 16)));
            }
            sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), d, sum);
        }
    }
    *y = sum_lanes(sum) * x->d;
}

static void dot_q6_k(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                     float *y)
{
    for (uint32_t r = 0; r < n_rows; r++) dot_row(w + r * row_bytes, n_in, x, y + r);
}

static void unpack_q6_k(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i);
    for (uint32_t b = 0; b < tile->n_in / 256; b++, w += BLOCK_BYTES, q += 16 * TILE_Q16_STEP) {
        __m256i scales = scale_words(w);
        UNROLL for (uint32_t i = 0; i < 8; i++) {
            __m256i c = codes(w, i / 4, i % 4), s = scale_pair(scales, i);
            _mm256_storeu_si256((__m256i *)(q + 2 * i * TILE_Q16_STEP), _mm256_mullo_epi16(even_i8(c), s));
            _mm256_storeu_si256((__m256i *)(q + (2 * i + 1) * TILE_Q16_STEP), _mm256_mullo_epi16(odd_i8(c), s));
        }
        d[2 * b * PANEL] = d[(2 * b + 1) * PANEL] = half_at(w + 208);
    }
}

const struct format_kernels avx2_q6_k = {INPUT_FINE, 128, 0, 3, dot_q6_k, NULL, unpack_q6_k, NULL};

#endif
