/* f16.h - half, bfloat16, E4M3, E2M1 and UE8M0 numbers as bits, and the power-of-two scale rule of the state rounding.
 * Conversions to the narrow type round to nearest, ties to even. Source: IEEE 754; spec of block formats. */
#ifndef DS4_BASE_F16_H
#define DS4_BASE_F16_H

#include <math.h>

#include "base/bytes.h"

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3FFu;
    if (exponent == 31) return f32_from_bits(sign | 0x7F800000u | mantissa << 13);
    if (exponent) return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float value = (float)mantissa * 0x1p-24f;
    return sign ? -value : value;
}

static inline uint16_t f16_from_f32(float f)
{
    uint32_t bits = f32_bits(f), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return (uint16_t)(sign | 0x7E00u);
    if (magnitude >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u); /* 65520 and above round to infinity */
    if (magnitude < 0x38800000u) {                                  /* subnormal half: multiples of 2^-24 */
        float scaled = f32_from_bits(magnitude) * 0x1p24f;
        return (uint16_t)(sign | (uint32_t)lrintf(scaled));
    }
    uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

static inline float bf16_to_f32(uint16_t h) { return f32_from_bits((uint32_t)h << 16); }

static inline uint16_t bf16_from_f32(float f)
{
    uint32_t bits = f32_bits(f);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

/* UE8M0: 2^(e-127); e = 0 is the subnormal 2^-127. 255 is not a number. */
static inline float e8m0_to_f32(uint8_t e)
{
    return f32_from_bits(e ? (uint32_t)e << 23 : 0x00400000u);
}

/* E4M3FN: bias 7, subnormal step 2^-9, largest 448, 0x7F/0xFF are NaN. */
static inline float e4m3_to_f32(uint8_t b)
{
    uint32_t exponent = (b >> 3) & 15u, mantissa = b & 7u;
    float value;
    if ((b & 0x7Fu) == 0x7Fu) value = NAN;
    else if (exponent == 0) value = (float)mantissa * 0x1p-9f;
    else value = f32_from_bits((exponent + 120) << 23 | mantissa << 20);
    return b & 0x80u ? -value : value;
}

/* Nearest E4M3 code of f, clamped to +-448 (f must not be NaN). */
static inline uint8_t e4m3_from_f32(float f)
{
    uint32_t bits = f32_bits(f), sign = (bits >> 24) & 0x80u, magnitude = bits & 0x7FFFFFFFu;
    if (magnitude >= 0x43E00000u) return (uint8_t)(sign | 0x7Eu); /* 448 */
    if (magnitude < 0x3C800000u)                                  /* below 2^-6: multiples of 2^-9 */
        return (uint8_t)(sign | (uint32_t)lrintf(f32_from_bits(magnitude) * 0x1p9f));
    uint32_t rounded = magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u);
    uint32_t code = (rounded >> 20) - (120u << 3);
    return (uint8_t)(sign | (code > 0x7Eu ? 0x7Eu : code));
}

/* E2M1 codes 0..7 = 0 .5 1 1.5 2 3 4 6; bit 3 is the sign; code 8 decodes to +0. */
static inline float e2m1_to_f32(uint8_t code)
{
    static const float values[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, 0, -.5f, -1, -1.5f, -2, -3, -4, -6};
    return values[code & 15u];
}

/* Nearest E2M1 code of f, ties to the even code, clamped to +-6. -0 gives code 0. */
static inline uint8_t e2m1_from_f32(float f)
{
    float a = fabsf(f);
    uint8_t code;
    if (a <= 0.25f) code = 0;
    else if (a < 0.75f) code = 1;
    else if (a <= 1.25f) code = 2;
    else if (a < 1.75f) code = 3;
    else if (a <= 2.5f) code = 4;
    else if (a < 3.5f) code = 5;
    else if (a <= 5.0f) code = 6;
    else code = 7;
    return (uint8_t)(code && f < 0 ? code | 8u : code);
}

/* Exponent byte (UE8M0) of 2^ceil(log2(p)) by the bit rule: exponent field, plus one if the mantissa is not zero. */
static inline uint8_t pow2_ceil_e8m0(float p)
{
    uint32_t bits = f32_bits(p);
    return (uint8_t)(((bits >> 23) & 0xFFu) + ((bits & 0x7FFFFFu) != 0));
}

#endif
