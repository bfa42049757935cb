/* plain.c - F32, F16 and BF16: arrays of numbers, blocks of one. Conversions to the narrow types round to nearest even;
 * F16 overflows to infinity. Source: IEEE 754. */
#include "base/f16.h"
#include "quant/codecs.h"

void decode_f32(const uint8_t *blocks, float *values, size_t n_elems) { memcpy(values, blocks, n_elems * 4); }

void decode_f16(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t i = 0; i < n_elems; i++) values[i] = f16_to_f32(load_u16(blocks + 2 * i));
}

void decode_bf16(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t i = 0; i < n_elems; i++) values[i] = bf16_to_f32(load_u16(blocks + 2 * i));
}

void encode_f32(const float *values, const float *importance, uint8_t *blocks, size_t n_elems)
{
    (void)importance;
    memcpy(blocks, values, n_elems * 4);
}

void encode_f16(const float *values, const float *importance, uint8_t *blocks, size_t n_elems)
{
    (void)importance;
    for (size_t i = 0; i < n_elems; i++) store_u16(blocks + 2 * i, f16_from_f32(values[i]));
}

void encode_bf16(const float *values, const float *importance, uint8_t *blocks, size_t n_elems)
{
    (void)importance;
    for (size_t i = 0; i < n_elems; i++) store_u16(blocks + 2 * i, bf16_from_f32(values[i]));
}
