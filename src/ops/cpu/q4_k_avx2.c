/* q4_k_avx2.c - Q4_K against 16-bit inputs. Block of 256 (144 bytes): d, dmin f16; eight 6-bit scales and minima in 12
 * bytes; 128 bytes of codes: values 64c .. 64c+31 in the low nibbles of bytes 32c .., 64c+32 .. in the high ones.
 * Seen as 16-bit words, the four nibbles of a word are an even and an odd value of either half: the order of q16.
 * A lane's sum over 256 stays below 32 * 15 * 63 * 32767 < 2^30. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"

#define BLOCK_BYTES 144

struct scales { __m128i scales, mins; }; /* 8 bytes each */

INLINE struct scales unpack_scales(const uint8_t *block)
{
    uint32_t a = load_u32(block + 4), b = load_u32(block + 8), c = load_u32(block + 12);
    uint64_t high_s = (c & 0x0F0F0F0Fu) | (a >> 2 & 0x30303030u);
    uint64_t high_m = (c >> 4 & 0x0F0F0F0Fu) | (b >> 2 & 0x30303030u);
    struct scales s = {_mm_cvtsi64_si128((int64_t)((a & 0x3F3F3F3Fu) | high_s << 32)),
                       _mm_cvtsi64_si128((int64_t)((b & 0x3F3F3F3Fu) | high_m << 32))};
    return s;
}

/* dmin times the minima. */
INLINE __m256 min_values(struct scales s, const uint8_t *block)
{
    __m256 m = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(s.mins));
    return _mm256_mul_ps(m, _mm256_set1_ps(half_at(block + 2)));
}

/* The four nibbles of each word: low half even, low half odd, high half even, high half odd. */
INLINE void split_words(__m256i w, __m256i *parts)
{
    const __m256i nibble = _mm256_set1_epi16(15);
    parts[0] = _mm256_and_si256(w, nibble);
    parts[1] = _mm256_and_si256(_mm256_srli_epi16(w, 8), nibble);
    parts[2] = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
    parts[3] = _mm256_srli_epi16(w, 12);
}

/* Adds one block of one row. */
INLINE __m256 add_block(const uint8_t *w, const int16_t *q, const float *x_sums, __m256 sum)
{
    int32_t scale[8];
    struct scales packed = unpack_scales(w);
    _mm256_storeu_si256((__m256i *)scale, _mm256_cvtepu8_epi32(packed.scales));
    __asm__("" : "+m"(scale)); /* broadcasts from memory are free, permutations of the register are not */
    __m256i total = _mm256_setzero_si256();
    UNROLL for (uint32_t c = 0; c < 4; c++) {
        __m256i parts[4];
        split_words(load256(w + 16 + 32 * c), parts);
        __m256i low = _mm256_madd_epi16(parts[0], load256(q + 64 * c));
        __m256i high = _mm256_madd_epi16(parts[2], load256(q + 64 * c + 32));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(parts[1], load256(q + 64 * c + 16)));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(parts[3], load256(q + 64 * c + 48)));
        total = _mm256_add_epi32(total, _mm256_mullo_epi32(low, _mm256_set1_epi32(scale[2 * c])));
        total = _mm256_add_epi32(total, _mm256_mullo_epi32(high, _mm256_set1_epi32(scale[2 * c + 1])));
    }
    /* d and d_min lie together: both are broadcast and converted at once. */
    __m256 d = _mm256_cvtph_ps(_mm_set1_epi32((int32_t)load_u32(w)));
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_moveldup_ps(d), sum);
    __m256 mins = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(packed.mins)), _mm256_movehdup_ps(d));
    return _mm256_fnmadd_ps(mins, _mm256_loadu_ps(x_sums), sum);
}

static void dot_q4_k(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                     float *y)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint8_t *block = w + r * row_bytes;
        __m256 sum = _mm256_setzero_ps();
        for (uint32_t b = 0; b < n_in / 256; b++, block += BLOCK_BYTES) {
            fetch_row(block);
            sum = add_block(block, x->q16 + 256 * b, x->sums + 8 * b, sum);
        }
        y[r] = sum_lanes(sum) * x->d;
    }
}

static void unpack_q4_k(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i), *mins = tile->mins + row_i * tile->mins_stride;
    for (uint32_t b = 0; b < tile->n_in / 256; b++, w += BLOCK_BYTES, q += 16 * TILE_Q16_STEP) {
        uint8_t scale[16];
        struct scales packed = unpack_scales(w);
        _mm_storeu_si128((__m128i *)scale, packed.scales);
        for (uint32_t c = 0; c < 4; c++) {
            __m256i parts[4];
            split_words(load256(w + 16 + 32 * c), parts);
            UNROLL for (uint32_t i = 0; i < 4; i++) {
                __m256i s = _mm256_set1_epi16(scale[2 * c + i / 2]);
                _mm256_storeu_si256((__m256i *)(q + (4 * c + i) * TILE_Q16_STEP), _mm256_mullo_epi16(parts[i], s));
            }
        }
        d[b * PANEL] = half_at(w);
        _mm256_storeu_ps(mins + 8 * b, min_values(packed, w));
    }
}

const struct format_kernels avx2_q4_k = {INPUT_FINE, 256, 32, 3, dot_q4_k, NULL, unpack_q4_k, NULL};

#endif
