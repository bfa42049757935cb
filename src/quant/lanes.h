/* lanes.h - eight floats at a time, for the searches of the encoders: each lane tries another candidate.
 *
 * The same source is compiled for any machine and for AVX2 (encode_plain.c, encode_avx2.c). Every operation is one IEEE
 * operation a lane and nothing is contracted, so both give the same bytes. */
#ifndef DS4_QUANT_LANES_H
#define DS4_QUANT_LANES_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define N_LANES 8
typedef float lanes __attribute__((vector_size(32)));
typedef int32_t lane_mask __attribute__((vector_size(32)));
#define LANE_FN static inline __attribute__((always_inline))

LANE_FN lanes lanes_of(float v) { return (lanes){v, v, v, v, v, v, v, v}; }
LANE_FN lanes lanes_load(const float *p)
{
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}
LANE_FN void lanes_store(float *p, lanes v) { memcpy(p, &v, sizeof v); }

/* a < b, lane by lane. gcc 12 takes a comparison that the machine lacks apart into single numbers, so it gets
 * halves. */
LANE_FN lane_mask lanes_less(lanes a, lanes b)
{
#ifdef __AVX2__
    return a < b;
#else
    typedef float half __attribute__((vector_size(16)));
    typedef int32_t half_mask __attribute__((vector_size(16)));
    half a_low, a_high, b_low, b_high;
    memcpy(&a_low, &a, 16);
    memcpy(&a_high, (const char *)&a + 16, 16);
    memcpy(&b_low, &b, 16);
    memcpy(&b_high, (const char *)&b + 16, 16);
    half_mask low = a_low < b_low, high = a_high < b_high;
    lane_mask both;
    memcpy(&both, &low, 16);
    memcpy((char *)&both + 16, &high, 16);
    return both;
#endif
}

/* a where the mask is set, else b. */
LANE_FN lanes lanes_select(lane_mask mask, lanes a, lanes b)
{
#ifdef __AVX2__
    return (lanes)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
#else
    return (lanes)((mask & (lane_mask)a) | (~mask & (lane_mask)b));
#endif
}

LANE_FN lanes lanes_min(lanes a, lanes b)
{
#ifdef __AVX2__
    return (lanes)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return lanes_select(lanes_less(a, b), a, b);
#endif
}

LANE_FN lanes lanes_max(lanes a, lanes b)
{
#ifdef __AVX2__
    return (lanes)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return lanes_select(lanes_less(b, a), a, b);
#endif
}

/* Nearest whole number, ties to even, for |v| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction. */
LANE_FN lanes lanes_round(lanes v)
{
    const lanes magic = lanes_of(12582912.0f);
    return (v + magic) - magic;
}

/* The same for one number. */
static inline float round_even(float v)
{
    return (v + 12582912.0f) - 12582912.0f;
}

/* Number of the lane with the smallest value; ties to the lower number. */
LANE_FN int lanes_argmin(lanes v)
{
    float values[N_LANES];
    lanes_store(values, v);
    int best = 0;
    for (int i = 1; i < N_LANES; i++)
        if (values[i] < values[best]) best = i;
    return best;
}

#endif
