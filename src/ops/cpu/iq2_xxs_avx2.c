/* iq2_xxs_avx2.c - IQ2_XXS against 8-bit inputs. Block of 256 (66 bytes): d f16, then for each 32 values four indices
 * into the grid of 8 magnitudes (u8 each) and a u32 with four 7-bit sign indices and a 4-bit scale s at the top;
 * value = d (2s+1)/8 * grid * sign. Signs move to the inputs, so magnitudes stay unsigned bytes.
 * A lane's sum over 256 stays below 16 * 2 * 43 * 127 * 31 * 255 < 2^31. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"
#include "quant/grids.h"

#define BLOCK_BYTES 66

/* The magnitudes of a group of 32. The loop is bound by loads (two a cycle): the four indices come in one, and the
 * vectors of 8 are broadcast and blended, because inserts all need one port. */
INLINE __m256i magnitudes(const uint8_t *group)
{
    const int64_t *grid = (const int64_t *)(const void *)quant_grid_iq2_xxs;
    uint32_t index = load_u32(group);
    __asm__("" : "+r"(index)); /* else it becomes four loads */
    __m256i a = _mm256_set1_epi64x(grid[index & 255]), b = _mm256_set1_epi64x(grid[index >> 8 & 255]);
    __m256i c = _mm256_set1_epi64x(grid[index >> 16 & 255]), d = _mm256_set1_epi64x(grid[index >> 24]);
    return _mm256_blend_epi32(_mm256_blend_epi32(a, b, 0x0C), _mm256_blend_epi32(c, d, 0xC0), 0xF0);
}

/* The sign-and-scale words of a block, in the order of groups 0 1 4 5 2 3 6 7. */
INLINE __m256i sign_words(const uint8_t *block)
{
    __m256 first = _mm256_castsi256_ps(load256(block + 2)), second = _mm256_castsi256_ps(load256(block + 34));
    return _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xDD));
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
/* Where group g is. */
INLINE uint32_t group_at(uint32_t g) { return coarse_order(2 * g); }

/* The factors 2s+1 of the eight groups as 16-bit words in both halves, in that order. */
INLINE __m256i scale_words(__m256i words)
{
    __m256i s = _mm256_srli_epi32(words, 28);
    s = _mm256_or_si256(_mm256_add_epi32(s, s), _mm256_set1_epi32(1));
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(s, s), 0x88);
}
/* The words of group g, each over its half; twice[] = each word doubled into 32 bits. */
struct scales { __m256i twice[2]; };
INLINE struct scales double_words(__m256i words)
{
    struct scales s = {{_mm256_unpacklo_epi16(words, words), _mm256_unpackhi_epi16(words, words)}};
    return s;
}
INLINE __m256i scales_of(const struct scales *s, uint32_t g)
{
    __m256i twice = s->twice[group_at(g) / 4];
    switch (group_at(g) % 4) {
    case 0: return _mm256_shuffle_epi32(twice, 0x00);
    case 1: return _mm256_shuffle_epi32(twice, 0x55);
    case 2: return _mm256_shuffle_epi32(twice, 0xAA);
    default: return _mm256_shuffle_epi32(twice, 0xFF);
    }
}

/* 1 or -1 for 32 values. */
INLINE __m256i signs(uint32_t bits)
{
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int32_t)bits), spread), bit);
    return _mm256_or_si256(_mm256_cmpeq_epi8(set, bit), _mm256_set1_epi8(1));
}

#define RUN 16u /* blocks whose signs and scales are prepared before their products, so that nobody waits for them */

static __m256 add_run(const uint8_t *w, uint32_t n_blocks, const int8_t *q, const int16_t *t, __m256 sum)
{
    uint32_t bits[RUN][8] UNINITIALISED;
    struct scales factors[RUN] UNINITIALISED;
    for (uint32_t b = 0; b < n_blocks; b++) {
        __m256i words = sign_words(w + b * BLOCK_BYTES);
        _mm256_storeu_si256((__m256i *)bits[b], sign_bits(words));
        factors[b] = double_words(_mm256_mullo_epi16(scale_words(words), load256(t + 16 * b)));
    }
    for (uint32_t b = 0; b < n_blocks; b++, w += BLOCK_BYTES, q += 256) {
        __m256i total = _mm256_setzero_si256();
        _mm_prefetch((const char *)w + 2048, _MM_HINT_T0);
        UNROLL for (uint32_t g = 0; g < 8; g++) {
            __m256i turned = _mm256_sign_epi8(load256(q + 32 * g), signs(bits[b][group_at(g)]));
            __m256i products = _mm256_maddubs_epi16(magnitudes(w + 2 + 8 * g), turned);
            total = _mm256_add_epi32(total, _mm256_madd_epi16(products, scales_of(&factors[b], g)));
        }
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(half_at(w) * 0.125f), sum);
    }
    return sum;
}

static void dot_iq2_xxs(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                        float *y)
{
    for (uint32_t r = 0; r < n_rows; r++, w += row_bytes) {
        __m256 sum = _mm256_setzero_ps();
        for (uint32_t b = 0, n; b < n_in / 256; b += n) {
            n = n_in / 256 - b < RUN ? n_in / 256 - b : RUN;
            sum = add_run(w + b * BLOCK_BYTES, n, x->q8 + 256 * b, x->t + 16 * b, sum);
        }
        y[r] = sum_lanes(sum) * x->d;
    }
}

static void unpack_iq2_xxs(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i);
    for (uint32_t b = 0; b < tile->n_in / 256; b++, w += BLOCK_BYTES, q += 16 * TILE_Q16_STEP) {
        uint32_t bits[8];
        __m256i words = sign_words(w);
        struct scales factors = double_words(scale_words(words));
        _mm256_storeu_si256((__m256i *)bits, sign_bits(words));
        __asm__("" : "+m"(bits)); /* broadcasts from memory are free */
        UNROLL for (uint32_t g = 0; g < 8; g++) {
            __m256i v = _mm256_sign_epi8(magnitudes(w + 2 + 8 * g), signs(bits[group_at(g)]));
            __m256i s = scales_of(&factors, g);
            _mm256_storeu_si256((__m256i *)(q + 2 * g * TILE_Q16_STEP), _mm256_mullo_epi16(even_i8(v), s));
            _mm256_storeu_si256((__m256i *)(q + (2 * g + 1) * TILE_Q16_STEP), _mm256_mullo_epi16(odd_i8(v), s));
        }
        d[b * PANEL] = half_at(w) * 0.125f;
    }
}

const struct format_kernels avx2_iq2_xxs = {INPUT_COARSE, 256, 0, 3, dot_iq2_xxs, NULL, unpack_iq2_xxs, NULL};

#endif
