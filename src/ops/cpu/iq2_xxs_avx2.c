/* iq2_xxs_avx2.c - IQ2_XXS against 8-bit inputs. Block of 256 (66 bytes): d f16, then for each 32 values four indices
 * into the grid of 8 magnitudes (u8 each) and a u32 with four 7-bit sign indices and a 4-bit scale s at the top;
 * value = d (2s+1)/8 * grid * sign. With one input signs move to the inputs, so magnitudes stay unsigned bytes; the sum
 * of a block is then made of the sums of its lanes, eight blocks at a time. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"
#include "quant/grids.h"

#define BLOCK_BYTES 66

/* The magnitudes of a group of 32, in turns (LANES in kernels.h) or in natural order. Two indices come in a load, and
 * the vectors of 8 are broadcast and blended, because inserts all need one port. */
INLINE __m256i magnitudes(bool turns, const uint8_t *group)
{
    const int64_t *grid = (const int64_t *)(const void *)quant_grid_iq2_xxs;
    uint32_t i = load_u16(group), j = load_u16(group + 2);
    __asm__("" : "+Q"(i), "+Q"(j)); /* else they become four loads */
    __m256i a = _mm256_set1_epi64x(grid[i & 255]), b = _mm256_set1_epi64x(grid[i >> 8]);
    __m256i c = _mm256_set1_epi64x(grid[j & 255]), d = _mm256_set1_epi64x(grid[j >> 8]);
    if (!turns) return _mm256_blend_epi32(_mm256_blend_epi32(a, b, 0x0C), _mm256_blend_epi32(c, d, 0xC0), 0xF0);
    return _mm256_unpacklo_epi16(_mm256_blend_epi32(a, b, 0xF0), _mm256_blend_epi32(c, d, 0xF0));
}

/* The sign-and-scale words of a block. */
INLINE __m256i sign_words(const uint8_t *block)
{
    __m256 first = _mm256_castsi256_ps(load256(block + 2)), second = _mm256_castsi256_ps(load256(block + 34));
    return _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xDD)), 0xD8);
}
/* Their sign bits, a byte for 8 values: the four 7-bit fields moved apart, and bit 7 that makes their number even. */
INLINE __m256i sign_bits(__m256i words)
{
    const __m128i odd = _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
    const __m256i parity = twice128(odd), nibble = _mm256_set1_epi8(15);
    __m256i halves = _mm256_or_si256(_mm256_and_si256(words, _mm256_set1_epi32(0x3FFF)),
                                     _mm256_and_si256(_mm256_slli_epi32(words, 2), _mm256_set1_epi32(0x3FFF0000)));
    __m256i bits = _mm256_or_si256(_mm256_and_si256(halves, _mm256_set1_epi16(0x7F)),
                                   _mm256_and_si256(_mm256_add_epi16(halves, halves), _mm256_set1_epi16(0x7F00)));
    __m256i low = _mm256_shuffle_epi8(parity, _mm256_and_si256(bits, nibble));
    __m256i high = _mm256_shuffle_epi8(parity, _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble));
    return _mm256_or_si256(bits, _mm256_xor_si256(low, high));
}
/* The factors 2s+1 of the eight groups, each as two 16-bit words. */
INLINE __m256i scale_words(__m256i words)
{
    const __m256i low_twice = twice128(_mm_setr_epi8(0, -1, 0, -1, 4, -1, 4, -1, 8, -1, 8, -1, 12, -1, 12, -1));
    __m256i s = _mm256_or_si256(_mm256_srli_epi32(words, 27), _mm256_set1_epi32(1));
    return _mm256_shuffle_epi8(s, low_twice);
}

/* Signs of the 8 groups of a block, four 16-bit words a group: bits 6543210 of a byte of sign_bits and a 1, then bits
 * 7654321 and a 1. Shifted left by 6, 4, 2 and 0 they begin with those of the values 0 1, 2 3, 4 5 and 6 7, and none of
 * their bytes is ever 0. */
struct signs { uint64_t words[8]; };
INLINE void prepare_signs(__m256i bits, struct signs *to)
{
    const __m256i one = _mm256_set1_epi8(1);
    __m256i even = _mm256_or_si256(_mm256_add_epi8(bits, bits), one), odd = _mm256_or_si256(bits, one);
    _mm256_storeu_si256((__m256i *)(void *)to->words, _mm256_unpacklo_epi8(even, odd));
    _mm256_storeu_si256((__m256i *)(void *)(to->words + 4), _mm256_unpackhi_epi8(even, odd));
}
/* Numbers of the signs of 32 values in the same order. */
INLINE __m256i signs(bool turns, const struct signs *s, uint32_t g)
{
    const __m256i spread =
        turns ? _mm256_setr_epi64x(0x0504010005040100, 0x0504010005040100, 0x0706030207060302, 0x0706030207060302)
              : _mm256_setr_epi64x(0x0100010001000100, 0x0302030203020302, 0x0504050405040504, 0x0706070607060706);
    const __m256i shift = twice128(turns ? _mm_setr_epi16(64, 64, 16, 16, 4, 4, 1, 1)
                                         : _mm_setr_epi16(64, 16, 4, 1, 64, 16, 4, 1));
    uint32_t at = g % 4 / 2 * 4 + g / 4 * 2 + g % 2; /* unpacking took groups 0 1 4 5 and 2 3 6 7 */
    __m256i words = _mm256_shuffle_epi8(_mm256_set1_epi64x((int64_t)s->words[at]), spread);
    return _mm256_mullo_epi16(words, shift);
}

/* Sums of up to eight blocks with all their integer factors. Signs and factors are prepared before the products, so
 * that nobody waits for them. */
INLINE __m256i multiply_blocks(const uint8_t *w, uint32_t n, const int8_t *q, const int16_t *t)
{
    struct signs prepared[LANES] UNINITIALISED;
    int16_t factors[LANES][16] UNINITIALISED;
    __m256i total[LANES] UNINITIALISED;
    for (uint32_t k = 0; k < n; k++) {
        __m256i words = sign_words(w + k * BLOCK_BYTES);
        prepare_signs(sign_bits(words), &prepared[k]);
        __m256i s = _mm256_mullo_epi16(scale_words(words), load256(t + 16 * k));
        _mm256_storeu_si256((__m256i *)(void *)factors[k], s);
    }
    for (uint32_t k = 0; k < n; k++, w += BLOCK_BYTES, q += 256) {
        total[k] = _mm256_setzero_si256();
        _mm_prefetch((const char *)w + 2048, _MM_HINT_T0);
        UNROLL for (uint32_t g = 0; g < 8; g++) {
            __m256i turned = _mm256_sign_epi8(load256(q + 32 * g), signs(true, &prepared[k], g));
            __m256i products = _mm256_maddubs_epi16(magnitudes(true, w + 2 + 8 * g), turned);
            __m256i factor = _mm256_set1_epi32((int32_t)load_u32(factors[k] + 2 * g));
            total[k] = _mm256_add_epi32(total[k], _mm256_madd_epi16(products, factor));
        }
    }
    for (uint32_t k = n; k < LANES; k++) total[k] = _mm256_setzero_si256();
    return lane_sums_i32(total);
}

/* Adds up to eight blocks to the sum of their row, one after the other. */
INLINE __m128 add_blocks(const uint8_t *w, uint32_t n, const struct input *x, uint32_t b, __m128 sum)
{
    float totals[LANES] UNINITIALISED;
    _mm256_storeu_ps(totals, _mm256_cvtepi32_ps(multiply_blocks(w, n, x->q8 + 256 * b, x->t + 16 * b)));
    UNROLL for (uint32_t k = 0; k < n; k++)
        sum = _mm_fmadd_ss(_mm_load_ss(totals + k), _mm_set_ss(half_at(w + k * BLOCK_BYTES) * 0.125f), sum);
    return sum;
}
static void dot_iq2_xxs(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                        float *y)
{
    uint32_t n_blocks = n_in / 256, rest = n_blocks % LANES, b;
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint8_t *block = w + r * row_bytes;
        __m128 sum = _mm_setzero_ps();
        for (b = 0; b < n_blocks - rest; b += LANES, block += LANES * BLOCK_BYTES)
            sum = add_blocks(block, LANES, x, b, sum);
        if (rest) sum = add_blocks(block, rest, x, b, sum);
        y[r] = _mm_cvtss_f32(sum) * x->d;
    }
}

INLINE void unpack_rows(bool turns, uint32_t n_lanes, const uint8_t *const *rows, const struct tile *tile,
                        uint32_t row_i)
{
    size_t offset = 0;
    for (uint32_t at = 0; at < tile->n_in; at += 256, offset += BLOCK_BYTES) {
        struct signs prepared[LANES] UNINITIALISED;
        __m256i v[LANES] UNINITIALISED;
        int16_t *scales = tile->scales16 + ((size_t)at / 32 * n_lanes + row_i) * 2;
        UNROLL for (uint32_t r = 0; r < LANES; r++) {
            __m256i words = sign_words(rows[r] + offset);
            prepare_signs(sign_bits(words), &prepared[r]);
            v[r] = scale_words(words);
        }
        transpose_8(v);
        UNROLL for (uint32_t g = 0; g < 8; g++)
            _mm256_storeu_si256((__m256i *)(void *)(scales + 2 * n_lanes * g), v[g]);
        for (uint32_t g = 0; g < 8; g++) {
            UNROLL for (uint32_t r = 0; r < LANES; r++) {
                v[r] = magnitudes(turns, rows[r] + offset + 2 + 8 * g);
                v[r] = _mm256_sign_epi8(v[r], signs(turns, &prepared[r], g));
                v[r] = _mm256_add_epi8(v[r], _mm256_set1_epi8(OFFSET_MOST));
            }
            transpose_8(v);
            UNROLL for (uint32_t i = 0; i < 8; i++)
                _mm256_storeu_si256((__m256i *)(void *)tile_q8(tile, n_lanes, at + 32 * g + 4 * i, row_i), v[i]);
        }
        __m256 d = _mm256_mul_ps(low_halves(dwords_of(rows, offset)), _mm256_set1_ps(0.125f));
        _mm256_storeu_ps(tile->d + (size_t)at / 256 * n_lanes + row_i, d);
    }
}

static void unpack_iq2_xxs(const uint8_t *const *rows, const struct tile *tile, uint32_t row_i)
{
    unpack_rows(true, TILE_ROWS, rows, tile, row_i);
}
void avx2_unpack_iq2_xxs_wide(const uint8_t *const *rows, const struct tile *tile, uint32_t row_i)
{
    unpack_rows(false, TILE_ROWS_MAX, rows, tile, row_i);
}

static const struct lanes_kernels lanes = {TILE_ROWS, LANES_PIECE, unpack_iq2_xxs, avx2_gemm_lanes_iq2_xxs};
const struct format_kernels avx2_iq2_xxs = {INPUT_OFFSET, 256, 0, 3, dot_iq2_xxs, NULL, NULL, &lanes};

#endif
