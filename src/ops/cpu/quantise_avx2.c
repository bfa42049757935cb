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

/* ---- 8 bits: LANES and OFFSET ---- */

LANE_TREE(lane_sums_i16, _mm256_add_epi16)
LANE_TREE(lane_maxima, _mm256_max_epi32) /* of floats that are not negative */
INLINE __m256i add_floats(__m256i a, __m256i b)
{
    return _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)));
}
LANE_TREE(lane_sums_f32, add_floats)

/* OFFSET: the |q| of a 16, each off by a half, have a norm of at most 275 + 2, and t times those norms, summed over a
 * 256, is at most 577000 + 16 * 255 * 2 (kernels.h). */
#define NORM_SHARE (127.0f / 275.0f)
#define BLOCK_NORMS 577000.0f

/* A row's unit d (NaN if it holds what is not finite), and what turns the need of a 16 into its multiplier. */
struct unit { float d, to_ratio; };

/* What 127 must stand for at least in eight 16s, relative to the row's largest value. *norms += those of the 16s. */
INLINE __m256 needs_of_128(const float *x, __m256 to_one, bool offset, __m256 *norms)
{
    __m256i maxima[LANES] UNINITIALISED, squares[LANES] UNINITIALISED;
    UNROLL for (uint32_t k = 0; k < LANES; k++) {
        __m256 a = _mm256_mul_ps(_mm256_loadu_ps(x + 16 * k), to_one);
        __m256 b = _mm256_mul_ps(_mm256_loadu_ps(x + 16 * k + 8), to_one), sign = _mm256_set1_ps(-0.0f);
        maxima[k] = _mm256_castps_si256(_mm256_max_ps(_mm256_andnot_ps(sign, a), _mm256_andnot_ps(sign, b)));
        if (offset) squares[k] = _mm256_castps_si256(_mm256_fmadd_ps(a, a, _mm256_mul_ps(b, b)));
    }
    __m256 need = _mm256_castsi256_ps(lane_maxima(maxima));
    if (!offset) return need;
    __m256 norm = _mm256_sqrt_ps(_mm256_castsi256_ps(lane_sums_f32(squares)));
    *norms = _mm256_add_ps(*norms, norm);
    return _mm256_max_ps(need, _mm256_mul_ps(norm, _mm256_set1_ps(NORM_SHARE)));
}

INLINE struct unit unit_of(const float *x, uint32_t n_in, bool offset, float *needs)
{
    float most = amplitude(x, n_in);
    if (most < SMALLEST) return (struct unit){0, 0};
    if (isnan(most)) return (struct unit){NAN, 0};
    const __m256 to_one = _mm256_set1_ps(1 / most);
    __m256 largest = _mm256_setzero_ps();
    float largest_block = 0;
    for (uint32_t at = 0; at < n_in; at += INPUT_BLOCK) {
        __m256 norms = _mm256_setzero_ps();
        for (uint32_t i = at; i < at + INPUT_BLOCK; i += 128) {
            __m256 need = needs_of_128(x + i, to_one, offset, &norms);
            largest = _mm256_max_ps(largest, need);
            _mm256_storeu_ps(needs + i / 16, need);
        }
        if (offset) largest_block = fmaxf(largest_block, sum_lanes(norms));
    }
    float d = fmaxf(max_lanes(largest) / (127.0f * 255.0f), largest_block / BLOCK_NORMS);
    return (struct unit){d * most, 1 / (127 * d)};
}

/* 32 values as bytes, words of the first and the second 16 in turns. */
INLINE __m256i quantise_32(const float *x, float inverse_a, float inverse_b)
{
    /* What packing 4 x 8 integers leaves, in the order of q8: their 64 bits apart, then words of a and b in turns. */
    const __m256i apart = _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7);
    const __m256i turns = twice128(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    __m256i q[4];
    UNROLL for (uint32_t j = 0; j < 4; j++) {
        __m256 inverse = _mm256_set1_ps(j < 2 ? inverse_a : inverse_b);
        q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * j), inverse));
    }
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    return _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(bytes, apart), turns);
}

/* t times the sums of 16s, divided by SUM_UNIT and rounded. */
INLINE __m256i products_in_units(__m256i t, __m256i sums)
{
    const __m256i half = _mm256_set1_epi32(SUM_UNIT / 2);
    __m256i low = _mm256_mullo_epi16(t, sums), high = _mm256_mulhi_epi16(t, sums);
    __m256i a = _mm256_srai_epi32(_mm256_add_epi32(_mm256_unpacklo_epi16(low, high), half), 5);
    __m256i b = _mm256_srai_epi32(_mm256_add_epi32(_mm256_unpackhi_epi16(low, high), half), 5);
    return _mm256_packs_epi32(a, b);
}

INLINE void quantise_lanes(const float *x, uint32_t n_in, bool offset, bool fours, uint8_t *record)
{
    const __m256i natural = twice128(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    struct input_record out = input_record_at(record, n_in);
    float *needs = out.sums;
    int8_t *turns = fours ? (int8_t *)out.q16 : out.q8;
    const struct unit unit = unit_of(x, n_in, offset, needs);
    const __m256i weight = _mm256_set1_epi8(offset ? OFFSET_MOST : 1);
    *out.d = unit.d;
    for (uint32_t at = 0; at < n_in; at += INPUT_BLOCK) {
        float inverse[16] UNINITIALISED;
        __m256i ratio[2] UNINITIALISED, sums[LANES] UNINITIALISED;
        UNROLL for (uint32_t i = 0; i < 2; i++) {
            __m256 r = _mm256_set1_ps(1);
            if (unit.d > 0) r = _mm256_mul_ps(_mm256_loadu_ps(needs + at / 16 + 8 * i), _mm256_set1_ps(unit.to_ratio));
            r = _mm256_max_ps(_mm256_min_ps(_mm256_ceil_ps(r), _mm256_set1_ps(255)), _mm256_set1_ps(1));
            ratio[i] = _mm256_cvtps_epi32(r);
            r = _mm256_div_ps(_mm256_set1_ps(1), _mm256_mul_ps(r, _mm256_set1_ps(unit.d)));
            _mm256_storeu_ps(inverse + 8 * i, unit.d > 0 ? r : _mm256_setzero_ps());
        }
        UNROLL for (uint32_t k = 0; k < LANES; k++) {
            __m256i bytes = quantise_32(x + at + 32 * k, inverse[2 * k], inverse[2 * k + 1]);
            sums[k] = _mm256_maddubs_epi16(weight, bytes);
            _mm256_storeu_si256((__m256i *)(void *)(turns + at + 32 * k), bytes);
            if (!fours) continue;
            bytes = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(bytes, natural), 0xD8);
            _mm256_storeu_si256((__m256i *)(void *)(out.q8 + at + 32 * k), bytes);
        }
        __m256i t = _mm256_permute4x64_epi64(_mm256_packs_epi32(ratio[0], ratio[1]), 0xD8), sum = lane_sums_i16(sums);
        sum = offset ? _mm256_sub_epi16(_mm256_setzero_si256(), sum) : products_in_units(t, sum);
        _mm256_storeu_si256((__m256i *)(void *)(out.t + at / 16), t);
        _mm256_storeu_si256((__m256i *)(void *)(out.t_sums + at / 16), sum);
    }
}

INLINE void quantise(enum input_form form, const float *x, uint32_t n_in, bool fours, uint8_t *record)
{
    if (form == INPUT_FINE) quantise_fine(x, n_in, record);
    else if (form == INPUT_LANES) quantise_lanes(x, n_in, false, fours, record);
    else if (form == INPUT_OFFSET) quantise_lanes(x, n_in, true, fours, record);
}
void avx2_quantise(enum input_form form, const float *x, uint32_t n_in, uint8_t *record)
{
    quantise(form, x, n_in, false, record);
}
void avx2_quantise_fours(enum input_form form, const float *x, uint32_t n_in, uint8_t *record)
{
    quantise(form, x, n_in, true, record);
}

#endif
