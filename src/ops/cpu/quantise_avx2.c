/* quantise_avx2.c - input rows as integers; forms and their error: kernels.h. A row that holds a number that is not
 * finite gets a scale that is not a number, so that its products are not numbers either; zeros give zeros. */
#if defined(__x86_64__)
#include <math.h>

#include "ops/cpu/avx2.h"

/* Scales below this would overflow when inverted: such rows count as zero. */
#define SMALLEST 1e-30f

/* Largest magnitude of n values (n a multiple of 8), or NaN when one is not finite. */
static float amplitude(const float *x, uint32_t n)
{
    __m256 most = _mm256_setzero_ps(), finite = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
    for (uint32_t i = 0; i < n; i += 8) {
        __m256 a = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
        most = _mm256_max_ps(most, a);
        finite = _mm256_or_ps(finite, _mm256_cmp_ps(a, _mm256_set1_ps(INFINITY), _CMP_NLT_UQ));
    }
    return _mm256_movemask_ps(finite) ? NAN : max_lanes(most);
}

/* The even (odd = false) or odd entries of 16 consecutive integers, in order. */
INLINE __m256i every_second(__m256i a, __m256i b, bool odd)
{
    __m256 fa = _mm256_castsi256_ps(a), fb = _mm256_castsi256_ps(b);
    __m256 s = odd ? _mm256_shuffle_ps(fa, fb, 0xDD) : _mm256_shuffle_ps(fa, fb, 0x88);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(s), 0xD8);
}

/* Stores 32 integers as 16-bit numbers, evens first. */
INLINE void store_q16(const __m256i *q, int16_t *to)
{
    for (int odd = 0; odd < 2; odd++) {
        __m256i a = odd ? every_second(q[0], q[1], true) : every_second(q[0], q[1], false);
        __m256i b = odd ? every_second(q[2], q[3], true) : every_second(q[2], q[3], false);
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
        _mm256_storeu_si256((__m256i *)(to + 16 * odd), packed);
    }
}

static void quantise_fine(const float *x, uint32_t n_in, uint8_t *record)
{
    int16_t *q16 = (int16_t *)(void *)record;
    float *d = (float *)(void *)(q16 + n_in), *sums = d + n_in / INPUT_BLOCK + 1;
    float most = amplitude(x, n_in), scale = most / 32767.0f;
    float inverse = most >= SMALLEST ? 32767.0f / most : 0;
    if (most < SMALLEST) scale = 0;
    for (uint32_t i = 0; i <= n_in / INPUT_BLOCK; i++) d[i] = scale;
    for (uint32_t i = 0; i < n_in; i += 32) {
        __m256i q[4];
        UNROLL for (int j = 0; j < 4; j++) q[j] = _mm256_cvtps_epi32(
            _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), _mm256_set1_ps(inverse)));
        store_q16(q, q16 + i);
        __m256i sum = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
        sums[i / 32] = (float)sum_lanes_i32(sum) * scale;
    }
}

/* One 256 of the coarse form. */
static void quantise_coarse_block(const float *x, int16_t *q16, float *d, float *sums, int16_t *t, int8_t *q8)
{
    float most[INPUT_BLOCK / INPUT_MULT_BLOCK], all = amplitude(x, INPUT_BLOCK);
    bool usable = all >= SMALLEST;
    *d = usable ? all / (127.0f * 255.0f) : all < SMALLEST ? 0 : NAN;
    for (uint32_t k = 0; k < 16; k++) most[k] = usable ? amplitude(x + 16 * k, 16) : 0;
    for (uint32_t k = 0; k < 16; k += 2) {
        __m256i q[4], scaled[4];
        uint32_t at[2] = {k / 2, 8 + k / 2};
        UNROLL for (uint32_t j = 0; j < 2; j++) {
            float ratio = usable ? ceilf(most[k + j] / all * 255.0f) : 1;
            ratio = ratio < 1 ? 1 : ratio > 255 ? 255 : ratio;
            t[at[j]] = (int16_t)ratio;
            float unit = *d * ratio, inverse = usable ? 1.0f / unit : 0;
            UNROLL for (uint32_t i = 0; i < 2; i++) {
                __m256i v = _mm256_cvtps_epi32(
                    _mm256_mul_ps(_mm256_loadu_ps(x + 16 * (k + j) + 8 * i), _mm256_set1_ps(inverse)));
                v = _mm256_max_epi32(_mm256_min_epi32(v, _mm256_set1_epi32(127)), _mm256_set1_epi32(-127));
                q[2 * j + i] = v;
                scaled[2 * j + i] = _mm256_mullo_epi32(v, _mm256_set1_epi32((int32_t)ratio));
            }
            sums[at[j]] = unit * (float)sum_lanes_i32(_mm256_add_epi32(q[2 * j], q[2 * j + 1]));
        }
        store_q16(scaled, q16 + 16 * k);
        __m256i words = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        words = _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(q8 + 16 * k), words);
    }
}

static void quantise_coarse(const float *x, uint32_t n_in, uint8_t *record)
{
    int16_t *q16 = (int16_t *)(void *)record;
    float *d = (float *)(void *)(q16 + n_in), *sums = d + n_in / INPUT_BLOCK + 1;
    int16_t *t = (int16_t *)(void *)(sums + n_in / INPUT_MULT_BLOCK);
    int8_t *q8 = (int8_t *)(t + n_in / INPUT_MULT_BLOCK);
    d[n_in / INPUT_BLOCK] = 0;
    for (uint32_t i = 0; i < n_in; i += INPUT_BLOCK)
        quantise_coarse_block(x + i, q16 + i, d + i / INPUT_BLOCK, sums + i / INPUT_MULT_BLOCK,
                              t + i / INPUT_MULT_BLOCK, q8 + i);
}

void avx2_quantise(enum input_form form, const float *x, uint32_t n_in, uint8_t *record)
{
    if (form == INPUT_FINE) quantise_fine(x, n_in, record);
    else if (form == INPUT_COARSE) quantise_coarse(x, n_in, record);
}

#endif
