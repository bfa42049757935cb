/* iq2_xxs_avx2.c - IQ2_XXS against 8-bit inputs. Block of 256 (66 bytes): d f16, then for each 32 values four indices
 * into the grid of 8 magnitudes (u8 each) and a u32 with four 7-bit sign indices and a 4-bit scale s at the top;
 * value = d (2s+1)/8 * grid * sign. Signs move to the inputs, so magnitudes stay unsigned bytes.
 * A lane's sum over 256 stays below 16 * 2 * 43 * 127 * 31 * 255 < 2^31. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"
#include "quant/grids.h"

#define BLOCK_BYTES 66

/* Eight bytes for each sign index: 1 or -1. */
static int64_t sign_bytes[128];

__attribute__((constructor)) static void fill_sign_bytes(void)
{
    for (int k = 0; k < 128; k++) {
        int8_t bytes[8];
        for (int j = 0; j < 8; j++) bytes[j] = quant_signs[k] >> j & 1 ? -1 : 1;
        memcpy(&sign_bytes[k], bytes, 8);
    }
}

INLINE __m256i four(const int64_t *table, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    __m128i low = _mm_loadl_epi64((const __m128i *)(table + a)), high = _mm_loadl_epi64((const __m128i *)(table + c));
    low = _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), (const __m64 *)(table + b)));
    high = _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(high), (const __m64 *)(table + d)));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}
INLINE __m256i magnitudes(uint32_t a)
{
    return four((const int64_t *)(const void *)quant_grid_iq2_xxs, a & 255, a >> 8 & 255, a >> 16 & 255, a >> 24);
}
INLINE __m256i signs(uint32_t b)
{
    return four(sign_bytes, b & 127, b >> 7 & 127, b >> 14 & 127, b >> 21 & 127);
}

/* The factors 2s+1 of the eight groups, as words in both halves. */
INLINE __m256i scale_words(const uint8_t *block)
{
    const __m128i tops = _mm_setr_epi8(7, -1, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m128i words = _mm_setzero_si128();
    UNROLL for (int i = 3; i >= 0; i--) {
        words = _mm_slli_si128(words, 4);
        words = _mm_or_si128(words, _mm_shuffle_epi8(load128(block + 2 + 16 * i), tops));
    }
    words = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(words, 3), _mm_set1_epi16(30)), _mm_set1_epi16(1));
    return twice128(words);
}
INLINE __m256i scale_pair(__m256i words, uint32_t i)
{
    return _mm256_shuffle_epi8(words, _mm256_set1_epi16((int16_t)(2 * i | (2 * i + 1) << 8)));
}

static void dot_row(const uint8_t *w, uint32_t n_in, const struct input *x, float *y)
{
    __m256 sum = _mm256_setzero_ps();
    for (uint32_t b = 0; b < n_in / 256; b++, w += BLOCK_BYTES) {
        const int8_t *q = x->q8 + 256 * b;
        _mm_prefetch((const char *)w + 1024, _MM_HINT_T0);
        __m256i factors = _mm256_mullo_epi16(scale_words(w), load256(x->t + 16 * b)), total = _mm256_setzero_si256();
        UNROLL for (uint32_t g = 0; g < 8; g++) {
            uint64_t group = load_u64(w + 2 + 8 * g);
            __m256i turned = _mm256_sign_epi8(load256(q + 32 * g), signs((uint32_t)(group >> 32)));
            __m256i products = _mm256_maddubs_epi16(magnitudes((uint32_t)group), turned);
            total = _mm256_add_epi32(total, _mm256_madd_epi16(products, scale_pair(factors, g)));
        }
        float d = half_at(w) * 0.125f;
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(d), sum);
    }
    *y = sum_lanes(sum) * x->d;
}

static void dot_iq2_xxs(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                        float *y)
{
    for (uint32_t r = 0; r < n_rows; r++) dot_row(w + r * row_bytes, n_in, x, y + r);
}

static void unpack_iq2_xxs(const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    int16_t *q = tile_q16(tile, row_i);
    float *d = tile_d(tile, row_i);
    for (uint32_t b = 0; b < tile->n_in / 256; b++, w += BLOCK_BYTES, q += 16 * TILE_Q16_STEP) {
        __m256i factors = scale_words(w);
        UNROLL for (uint32_t g = 0; g < 8; g++) {
            uint64_t group = load_u64(w + 2 + 8 * g);
            __m256i v = _mm256_sign_epi8(magnitudes((uint32_t)group), signs((uint32_t)(group >> 32)));
            __m256i s = scale_pair(factors, g);
            _mm256_storeu_si256((__m256i *)(q + 2 * g * TILE_Q16_STEP), _mm256_mullo_epi16(even_i8(v), s));
            _mm256_storeu_si256((__m256i *)(q + (2 * g + 1) * TILE_Q16_STEP), _mm256_mullo_epi16(odd_i8(v), s));
        }
        d[b * PANEL] = half_at(w) * 0.125f;
    }
}

const struct format_kernels avx2_iq2_xxs = {INPUT_COARSE, 256, 0, 3, dot_iq2_xxs, unpack_iq2_xxs};

#endif
