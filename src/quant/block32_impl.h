/* block32_impl.h - the encoders of Q8_0 and MXFP4, a block of 32 values. Included by one file a build, which defines
 * VARIANT (encode_plain.c, encode_avx2.c). Layouts and rules: q8_0.c, mxfp4.c. */
#ifndef DS4_QUANT_BLOCK32_IMPL_H
#define DS4_QUANT_BLOCK32_IMPL_H

#include "base/f16.h"
#include "quant/encode.h"
#include "quant/lanes.h"
#include "quant/units.h"

#define BLOCK_32 32

void VARIANT(encode_q8_0_block)(const float *values, const float *importance, uint8_t *block)
{
    (void)importance;
    float max, w_unit;
    if (!encode_units(values, NULL, BLOCK_32, &max, &w_unit)) {
        encode_hopeless(max, block, 34, 0);
        return;
    }
    float d = max / 127, inverse = 1 / d;
    if (!(inverse < INFINITY)) inverse = 0; /* a scale so small decodes to zero anyway */
    store_u16(block, f16_from_f32(d));
    /* Half away from zero: what is just below a half, added, carries to the next whole number from a half on. */
    const lanes almost_half = lanes_of(0.49999997f), zero = lanes_of(0);
    for (size_t i = 0; i < BLOCK_32; i += N_LANES) {
        lanes v = lanes_load(values + i) * lanes_of(inverse);
        lanes up = lanes_select(lanes_less(v, zero), -almost_half, almost_half);
        lane_mask q = __builtin_convertvector(v + up, lane_mask); /* towards zero */
        for (size_t j = 0; j < N_LANES; j++) block[2 + i + j] = (uint8_t)q[j];
    }
}

/* ---- MXFP4 ---- */

#define MXFP4_UNROLL _Pragma("GCC unroll 8")
#define CANDIDATES 4 /* exponents, one a lane */
typedef double error_lanes __attribute__((vector_size(32)));

/* Codes 1 to 7: where they begin, in units of the scale, and what they stand for. A value just there belongs to the
 * even one of the two. */
static const struct { float from, value; } VARIANT(mxfp4_codes)[7] = {
    {0.25f, 0.5f}, {0.75f, 1}, {1.25f, 1.5f}, {1.75f, 2}, {2.5f, 3}, {3.5f, 4}, {5, 6}};

/* 2^(e - 127) */
LANE_FN float mxfp4_power(int e) { return f32_from_bits(e ? (uint32_t)e << 23 : 0x00400000u); }

/* Squared errors, weighted, with four scales: of two values in turn, each with all four. A code that a float cannot
 * hold is infinite. */
LANE_FN error_lanes mxfp4_errors(const float *x, const float *w, lanes scale)
{
    lanes from[7], step[7], below = lanes_of(0);
    error_lanes error = {0};
    MXFP4_UNROLL for (int k = 0; k < 7; k++) {
        lanes value = scale * lanes_of(VARIANT(mxfp4_codes)[k].value);
        from[k] = scale * lanes_of(VARIANT(mxfp4_codes)[k].from);
        step[k] = lanes_select(lanes_less(value, lanes_of(INFINITY)), value - below, lanes_of(INFINITY));
        below = value;
    }
    for (size_t i = 0; i < BLOCK_32; i += 2) {
        float a = fabsf(x[i]), b = fabsf(x[i + 1]);
        lanes size = {a, a, a, a, b, b, b, b}, decoded = lanes_of(0);
        MXFP4_UNROLL for (int k = 0; k < 7; k++) {
            lane_mask reached = k % 2 ? ~lanes_less(size, from[k]) : lanes_less(from[k], size);
            decoded += (lanes)(reached & (lane_mask)step[k]);
        }
        float codes[N_LANES];
        lanes_store(codes, decoded);
        MXFP4_UNROLL for (size_t j = 0; j < 2; j++) {
            error_lanes miss;
            float four __attribute__((vector_size(16)));
            memcpy(&four, codes + 4 * j, sizeof four);
            miss = (double)(j ? b : a) - __builtin_convertvector(four, error_lanes);
            error += (double)w[i + j] * miss * miss;
        }
    }
    return error;
}

LANE_FN void mxfp4_store(const float *x, int e, uint8_t *block)
{
    const lanes inverse = lanes_of(mxfp4_power(254 - e)), zero = lanes_of(0);
    lane_mask codes[BLOCK_32 / N_LANES];
    for (size_t i = 0; i < BLOCK_32 / N_LANES; i++) {
        lanes v = lanes_load(x + i * N_LANES) * inverse, size = lanes_max(v, -v);
        lane_mask code = {0};
        MXFP4_UNROLL for (int k = 0; k < 7; k++) {
            lanes from = lanes_of(VARIANT(mxfp4_codes)[k].from);
            code -= k % 2 ? ~lanes_less(size, from) : lanes_less(from, size);
        }
        codes[i] = code | (lanes_less(v, zero) & (code != 0) & 8);
    }
    block[0] = (uint8_t)e;
    for (size_t i = 0; i < 2; i++) {
        lane_mask pairs = codes[i] | codes[2 + i] << 4;
        for (size_t j = 0; j < N_LANES; j++) block[1 + i * N_LANES + j] = (uint8_t)pairs[j];
    }
}

/* The best of four exponents: the largest value becomes 8 to 16 (clipped to 6), 4 to 8, 2 to 4, or 1 to 2. */
void VARIANT(encode_mxfp4_block)(const float *values, const float *importance, uint8_t *block)
{
    float max, w_unit, w[BLOCK_32];
    if (!encode_units(values, importance, BLOCK_32, &max, &w_unit)) {
        memset(block, 0, 17);
        block[0] = max == 0 ? 0 : 255; /* the NaN of UE8M0 */
        return;
    }
    for (size_t i = 0; i < BLOCK_32; i += N_LANES) {
        lanes weight = lanes_of(1);
        if (w_unit > 0) weight = lanes_max(lanes_load(importance + i) / lanes_of(w_unit), lanes_of(1e-4f));
        lanes_store(w + i, weight);
    }
    int top = (int)(f32_bits(max) >> 23), e[CANDIDATES]; /* exponent bytes */
    lanes scale;
    for (int j = 0; j < CANDIDATES; j++) {
        e[j] = top - 3 + j < 0 ? 0 : top - 3 + j;
        scale[j] = scale[j + CANDIDATES] = mxfp4_power(e[j]);
    }
    error_lanes errors = mxfp4_errors(values, w, scale);
    int best = 0;
    for (int j = 1; j < CANDIDATES; j++)
        if (errors[j] < errors[best]) best = j;
    mxfp4_store(values, e[best], block);
}

#endif
