/* q2_k_avx2.c - Q2_K against 8-bit inputs. Block of 256 (84 bytes): sc u8[16] (low nibble scale, high nibble minimum),
 * qs u8[64], d, dmin f16; value 128h+32j+l has its code in bits 2j of qs[32h+l]. The scale of a sixteenth and the
 * input's multiplier are one 16-bit factor of pairs of products. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"

#define BLOCK_BYTES 84

/* Low or high nibbles of the 16 scale bytes as words, in coarse_order. */
struct scales { __m256i scales, mins; };
INLINE struct scales unpack_scales(const uint8_t *block)
{
    const __m128i order = _mm_setr_epi8(0, 2, 8, 10, 4, 6, 12, 14, 1, 3, 9, 11, 5, 7, 13, 15);
    __m256i words = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(load128(block), order));
    struct scales s = {_mm256_and_si256(words, _mm256_set1_epi16(15)), _mm256_srli_epi16(words, 4)};
    return s;
}
/* The words of the i-th two sixteenths, each over its half. */
INLINE __m256i scale_pair(__m256i words, uint32_t i)
{
    uint32_t at = coarse_order(2 * i);
    return _mm256_shuffle_epi8(words, _mm256_set1_epi16((int16_t)(2 * at | (2 * at + 1) << 8)));
}

/* Adds one block of one row. */
INLINE __m256 add_block(const uint8_t *w, const struct input *x, uint32_t b, __m256 sum)
{
    const __m256i two_bits = _mm256_set1_epi8(3);
    const int8_t *q = x->q8 + 256 * b;
    struct scales s = unpack_scales(w);
    __m256i t = load256(x->t + 16 * b), factors = _mm256_mullo_epi16(s.scales, t), total = _mm256_setzero_si256();
    UNROLL for (uint32_t h = 0; h < 2; h++) {
        __m256i bits = load256(w + 16 + 32 * h);
        UNROLL for (uint32_t j = 0; j < 4; j++) {
            __m256i codes = _mm256_and_si256(_mm256_srli_epi16(bits, (int)(2 * j)), two_bits);
            __m256i products = _mm256_maddubs_epi16(codes, load256(q + 128 * h + 32 * j));
            total = _mm256_add_epi32(total, _mm256_madd_epi16(products, scale_pair(factors, 4 * h + j)));
        }
    }
    __m256i mins = _mm256_madd_epi16(s.mins, load256(x->t_sums + 16 * b));
    /* d and d_min lie together: both are broadcast and converted at once. */
    __m256 d = _mm256_cvtph_ps(_mm_set1_epi32((int32_t)load_u32(w + 80)));
    d = _mm256_mul_ps(d, _mm256_setr_ps(1, SUM_UNIT, 1, SUM_UNIT, 1, SUM_UNIT, 1, SUM_UNIT));
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_moveldup_ps(d), sum);
    return _mm256_fnmadd_ps(_mm256_cvtepi32_ps(mins), _mm256_movehdup_ps(d), sum);
}

static void dot_q2_k(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                     float *y)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint8_t *block = w + r * row_bytes;
        __m256 sum = _mm256_setzero_ps();
        for (uint32_t b = 0; b < n_in / 256; b++, block += BLOCK_BYTES) {
            fetch_row(block);
            sum = add_block(block, x, b, sum);
        }
        y[r] = sum_lanes(sum) * x->d;
    }
}

static void unpack_q2_k(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    const __m256i two_bits = _mm256_set1_epi16(3);
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i);
    int16_t *mins = tile->mins16 + row_i * tile->mins_stride;
    for (uint32_t b = 0; b < tile->n_in / 256; b++, w += BLOCK_BYTES, q += 16 * TILE_Q16_STEP) {
        struct scales s = unpack_scales(w);
        UNROLL for (uint32_t i = 0; i < 8; i++) {
            __m256i bits = load256(w + 16 + 32 * (i / 4)), scale = scale_pair(s.scales, i);
            __m256i even = _mm256_and_si256(_mm256_srli_epi16(bits, (int)(2 * (i % 4))), two_bits);
            __m256i odd = _mm256_and_si256(_mm256_srli_epi16(bits, (int)(8 + 2 * (i % 4))), two_bits);
            _mm256_storeu_si256((__m256i *)(q + 2 * i * TILE_Q16_STEP), _mm256_mullo_epi16(even, scale));
            _mm256_storeu_si256((__m256i *)(q + (2 * i + 1) * TILE_Q16_STEP), _mm256_mullo_epi16(odd, scale));
        }
        d[b * PANEL] = half_at(w + 80);
        d[b * PANEL + (tile->d_min - tile->d)] = half_at(w + 82) * SUM_UNIT;
        _mm256_storeu_si256((__m256i *)(mins + 16 * b), s.mins);
    }
}

const struct format_kernels avx2_q2_k = {INPUT_COARSE, 256, 16, 3, dot_q2_k, NULL, unpack_q2_k};

#endif
