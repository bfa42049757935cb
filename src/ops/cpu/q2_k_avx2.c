/* q2_k_avx2.c - Q2_K against 8-bit inputs. Block of 256 (84 bytes): sc u8[16] (low nibble scale, high nibble minimum),
 * qs u8[64], d, dmin f16; value 128h+32j+l has its code in bits 2j of qs[32h+l]. The scale of a sixteenth and the
 * input's multiplier are one 16-bit factor of pairs of products. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"

#define BLOCK_BYTES 84

/* Low or high nibbles of the 16 scale bytes as words: even sixteenths in the low half, odd ones in the high half. */
struct scales { __m256i scales, mins; };
INLINE struct scales unpack_scales(const uint8_t *block)
{
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    __m256i words = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(load128(block), order));
    struct scales s = {_mm256_and_si256(words, _mm256_set1_epi16(15)), _mm256_srli_epi16(words, 4)};
    return s;
}
INLINE __m256i scale_pair(__m256i words, uint32_t i)
{
    return _mm256_shuffle_epi8(words, _mm256_set1_epi16((int16_t)(2 * i | (2 * i + 1) << 8)));
}
/* dmin times the minima, in the order of the input's sums. */
INLINE __m256 mins_low(struct scales s, __m256 dmin)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(s.mins))), dmin);
}
INLINE __m256 mins_high(struct scales s, __m256 dmin)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(_mm256_extracti128_si256(s.mins, 1))), dmin);
}

static void dot_row(const uint8_t *w, uint32_t n_in, const struct input *x, float *y)
{
    const __m256i two_bits = _mm256_set1_epi8(3);
    __m256 sum = _mm256_setzero_ps();
    for (uint32_t b = 0; b < n_in / 256; b++, w += BLOCK_BYTES) {
        const int8_t *q = x->q8 + 256 * b;
        _mm_prefetch((const char *)w + 2048, _MM_HINT_T0);
        _mm_prefetch((const char *)w + 2048 + 64, _MM_HINT_T0);
        struct scales s = unpack_scales(w);
        __m256i factors = _mm256_mullo_epi16(s.scales, load256(x->t + 16 * b)), total = _mm256_setzero_si256();
        UNROLL for (uint32_t h = 0; h < 2; h++) {
            __m256i bits = load256(w + 16 + 32 * h);
            UNROLL for (uint32_t j = 0; j < 4; j++) {
                __m256i codes = _mm256_and_si256(_mm256_srli_epi16(bits, (int)(2 * j)), two_bits);
                __m256i products = _mm256_maddubs_epi16(codes, load256(q + 128 * h + 32 * j));
                total = _mm256_add_epi32(total, _mm256_madd_epi16(products, scale_pair(factors, 4 * h + j)));
            }
        }
        float d = half_at(w + 80);
        __m256 dmin = _mm256_set1_ps(half_at(w + 82));
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(d), sum);
        sum = _mm256_fnmadd_ps(mins_low(s, dmin), _mm256_loadu_ps(x->sums + 16 * b), sum);
        sum = _mm256_fnmadd_ps(mins_high(s, dmin), _mm256_loadu_ps(x->sums + 16 * b + 8), sum);
    }
    *y = sum_lanes(sum) * x->d;
}

static void dot_q2_k(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                     float *y)
{
    for (uint32_t r = 0; r < n_rows; r++) dot_row(w + r * row_bytes, n_in, x, y + r);
}

static void unpack_q2_k(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    const __m256i two_bits = _mm256_set1_epi16(3);
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i), *mins = tile->mins + row_i * tile->mins_stride;
    for (uint32_t b = 0; b < tile->n_in / 256; b++, w += BLOCK_BYTES, q += 16 * TILE_Q16_STEP) {
        struct scales s = unpack_scales(w);
        UNROLL for (uint32_t i = 0; i < 8; i++) {
            __m256i bits = load256(w + 16 + 32 * (i / 4)), scale = scale_pair(s.scales, i);
            __m256i even = _mm256_and_si256(_mm256_srli_epi16(bits, (int)(2 * (i % 4))), two_bits);
            __m256i odd = _mm256_and_si256(_mm256_srli_epi16(bits, (int)(8 + 2 * (i % 4))), two_bits);
            _mm256_storeu_si256((__m256i *)(q + 2 * i * TILE_Q16_STEP), _mm256_mullo_epi16(even, scale));
            _mm256_storeu_si256((__m256i *)(q + (2 * i + 1) * TILE_Q16_STEP), _mm256_mullo_epi16(odd, scale));
        }
        __m256 dmin = _mm256_set1_ps(half_at(w + 82));
        d[b * PANEL] = half_at(w + 80);
        _mm256_storeu_ps(mins + 16 * b, mins_low(s, dmin));
        _mm256_storeu_ps(mins + 16 * b + 8, mins_high(s, dmin));
    }
}

const struct format_kernels avx2_q2_k = {INPUT_COARSE, 256, 16, 3, dot_q2_k, unpack_q2_k};

#endif
