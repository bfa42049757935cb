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
    struct input_record out = input_record_at(record, n_in);
    float most = amplitude(x, n_in), inverse = most >= SMALLEST ? 32767.0f / most : 0;
    *out.d = most < SMALLEST ? 0 : most / 32767.0f;
    for (uint32_t i = 0; i < n_in; i += 32) {
        __m256i q[4];
        UNROLL for (int j = 0; j < 4; j++) q[j] = _mm256_cvtps_epi32(
            _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), _mm256_set1_ps(inverse)));
        store_q16(q, out.q16 + i);
        __m256i sum = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
        out.sums[i / 32] = (float)sum_lanes_i32(sum);
    }
}

/* One 16 of the forms of 8 bits: its multiplier, its values as integers (q) and times the multiplier (scaled). */
INLINE int32_t quantise_16(const float *x, float to_ratio, float d, __m256i *q, __m256i *scaled)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v[2] = {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)};
    float most = max_lanes(_mm256_max_ps(_mm256_andnot_ps(sign, v[0]), _mm256_andnot_ps(sign, v[1])));
    int32_t ratio = _mm_cvtss_si32(_mm_ceil_ss(_mm_setzero_ps(), _mm_set_ss(most * to_ratio)));
    ratio = ratio < 1 ? 1 : ratio > 255 ? 255 : ratio;
    __m256 inverse = _mm256_set1_ps(d > 0 ? 1.0f / (d * (float)ratio) : 0);
    UNROLL for (int i = 0; i < 2; i++) {
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        q[i] = _mm256_max_epi32(_mm256_min_epi32(q[i], _mm256_set1_epi32(127)), _mm256_set1_epi32(-127));
        scaled[i] = _mm256_mullo_epi32(q[i], _mm256_set1_epi32(ratio));
    }
    return ratio;
}

/* The unit of all values of a row in 8 bits, and what turns the amplitude of a 16 into its multiplier. */
struct unit { float d, to_ratio; };
INLINE struct unit unit_of(const float *x, uint32_t n_in)
{
    float most = amplitude(x, n_in);
    if (most < SMALLEST) return (struct unit){0, 0};
    return (struct unit){most / (127.0f * 255.0f), 255.0f / most};
}

/* 32 values as bytes, in the order that packing four vectors leaves, and times their multipliers (scaled). The
 * multipliers of its 16s go to t[0] and t[second], their sums likewise to t_sums. */
INLINE __m256i quantise_32(const float *x, struct unit unit, int16_t *t, int16_t *t_sums, uint32_t second,
                           __m256i *scaled)
{
    __m256i q[4];
    UNROLL for (uint32_t half = 0; half < 2; half++) {
        int32_t ratio = quantise_16(x + 16 * half, unit.to_ratio, unit.d, q + 2 * half, scaled + 2 * half);
        int32_t sum = sum_lanes_i32(_mm256_add_epi32(q[2 * half], q[2 * half + 1]));
        t[half * second] = (int16_t)ratio;
        t_sums[half * second] = (int16_t)((ratio * sum + SUM_UNIT / 2) >> 5);
    }
    return _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
}

static void quantise_coarse(const float *x, uint32_t n_in, uint8_t *record)
{
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    struct input_record out = input_record_at(record, n_in);
    struct unit unit = unit_of(x, n_in);
    *out.d = unit.d;
    for (uint32_t i = 0; i < n_in; i += 32) {
        __m256i scaled[4];
        uint32_t at = i / INPUT_BLOCK * 16 + coarse_order(i % INPUT_BLOCK / 16); /* and 8 behind it, the odd one */
        __m256i bytes = quantise_32(x + i, unit, out.t + at, out.t_sums + at, 8, scaled);
        store_q16(scaled, out.q16 + i);
        _mm256_storeu_si256((__m256i *)(void *)(out.q8 + i), _mm256_permutevar8x32_epi32(bytes, in_order));
    }
}

static void quantise_lanes(const float *x, uint32_t n_in, uint8_t *record)
{
    /* What packing 4 x 8 integers leaves, in the order of q8: their 64 bits apart, then words of a and b in turns. */
    const __m256i apart = _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7);
    const __m256i turns = twice128(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    struct input_record out = input_record_at(record, n_in);
    struct unit unit = unit_of(x, n_in);
    *out.d = unit.d;
    for (uint32_t i = 0; i < n_in; i += 32) {
        __m256i scaled[4];
        __m256i bytes = quantise_32(x + i, unit, out.t + i / 16, out.t_sums + i / 16, 1, scaled);
        bytes = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(bytes, apart), turns);
        _mm256_storeu_si256((__m256i *)(void *)(out.q8 + i), bytes);
    }
}

void avx2_quantise(enum input_form form, const float *x, uint32_t n_in, uint8_t *record)
{
    if (form == INPUT_FINE) quantise_fine(x, n_in, record);
    else if (form == INPUT_COARSE) quantise_coarse(x, n_in, record);
    else if (form == INPUT_LANES) quantise_lanes(x, n_in, record);
}

#endif
