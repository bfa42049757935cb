/* rows.c - rounding, packing and unpacking of rows of state. Layouts and guarantees: rows.h. The bit rules are those of
 * model spec 3.1 and 3.2: the scale of a block is the power of two at or above max|x| / (largest code), where the
 * quotient is one float32 product with the float32 reciprocal and the power is read off its bits. Division by a power
 * of two and the product back are exact. Not-a-number inputs give the largest code; nothing is undefined. */
#include "ops/rows.h"

#include <math.h>

#include "base/err.h"
#include "base/f16.h"

#define E4M3_MAX 448.0f
#define E2M1_MAX 6.0f
#define E4M3_FLOOR 1e-4f           /* least amplitude that a scale is made from */
#define E2M1_FLOOR (6.0f * 0x1p-126f)
#define SCALE_MAX 253              /* keeps the reciprocal of the scale a normal number */

static uint8_t block_scale(const float *x, uint32_t n, float floor, float code_max)
{
    float amplitude = floor, reciprocal = 1.0f / code_max;
    for (uint32_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        if (a > amplitude) amplitude = a;
    }
    uint8_t e = pow2_ceil_e8m0(amplitude * reciprocal);
    return e > SCALE_MAX ? SCALE_MAX : e;
}

/* 1 / 2^(e-127) for 1 <= e <= SCALE_MAX. */
static float scale_reciprocal(uint8_t e) { return f32_from_bits((254u - e) << 23); }

uint32_t kv_row_bytes(enum op_row_format format, uint32_t dim, uint32_t n_rope)
{
    if (format == OP_ROW_F32) return dim * (uint32_t)sizeof(float);
    uint32_t n = dim - n_rope;
    return (n + n / OP_KV_BLOCK + 2 * n_rope + 7) / 8 * 8;
}

uint32_t index_row_bytes(enum op_row_format format, uint32_t dim)
{
    if (format == OP_ROW_F32) return dim * (uint32_t)sizeof(float);
    return dim / 2 + dim / OP_INDEX_BLOCK;
}

void kv_row_round(float *row, uint32_t dim, uint32_t n_rope)
{
    for (uint32_t at = 0; at < dim - n_rope; at += OP_KV_BLOCK) {
        uint8_t e = block_scale(row + at, OP_KV_BLOCK, E4M3_FLOOR, E4M3_MAX);
        float reciprocal = scale_reciprocal(e), scale = e8m0_to_f32(e);
        for (uint32_t i = at; i < at + OP_KV_BLOCK; i++)
            row[i] = e4m3_to_f32(e4m3_from_f32(row[i] * reciprocal)) * scale;
    }
}

void index_row_round(float *row, uint32_t dim)
{
    for (uint32_t at = 0; at < dim; at += OP_INDEX_BLOCK) {
        uint8_t e = block_scale(row + at, OP_INDEX_BLOCK, E2M1_FLOOR, E2M1_MAX);
        float reciprocal = scale_reciprocal(e), scale = e8m0_to_f32(e);
        for (uint32_t i = at; i < at + OP_INDEX_BLOCK; i++)
            row[i] = e2m1_to_f32(e2m1_from_f32(row[i] * reciprocal)) * scale;
    }
}

void kv_row_pack(const float *row, uint32_t dim, uint32_t n_rope, uint8_t *packed)
{
    uint32_t n = dim - n_rope, n_blocks = n / OP_KV_BLOCK;
    uint8_t *scales = packed + n, *tail = scales + n_blocks;
    for (uint32_t block = 0; block < n_blocks; block++) {
        const float *x = row + block * OP_KV_BLOCK;
        uint8_t e = block_scale(x, OP_KV_BLOCK, E4M3_FLOOR, E4M3_MAX);
        float reciprocal = scale_reciprocal(e);
        for (uint32_t i = 0; i < OP_KV_BLOCK; i++) packed[block * OP_KV_BLOCK + i] = e4m3_from_f32(x[i] * reciprocal);
        scales[block] = e;
    }
    for (uint32_t i = 0; i < n_rope; i++) store_u16(tail + 2 * i, bf16_from_f32(row[n + i]));
    uint32_t used = n + n_blocks + 2 * n_rope;
    memset(packed + used, 0, kv_row_bytes(OP_ROW_PACKED, dim, n_rope) - used);
}

void kv_row_unpack(const uint8_t *packed, uint32_t dim, uint32_t n_rope, float *row)
{
    uint32_t n = dim - n_rope, n_blocks = n / OP_KV_BLOCK;
    const uint8_t *scales = packed + n, *tail = scales + n_blocks;
    for (uint32_t i = 0; i < n; i++) row[i] = e4m3_to_f32(packed[i]) * e8m0_to_f32(scales[i / OP_KV_BLOCK]);
    for (uint32_t i = 0; i < n_rope; i++) row[n + i] = bf16_to_f32(load_u16(tail + 2 * i));
}

void index_row_pack(const float *row, uint32_t dim, uint8_t *packed)
{
    for (uint32_t block = 0; block < dim / OP_INDEX_BLOCK; block++) {
        const float *x = row + block * OP_INDEX_BLOCK;
        uint8_t *codes = packed + block * OP_INDEX_BLOCK / 2;
        uint8_t e = block_scale(x, OP_INDEX_BLOCK, E2M1_FLOOR, E2M1_MAX);
        float reciprocal = scale_reciprocal(e);
        for (uint32_t i = 0; i < OP_INDEX_BLOCK / 2; i++) {
            uint8_t low = e2m1_from_f32(x[2 * i] * reciprocal), high = e2m1_from_f32(x[2 * i + 1] * reciprocal);
            codes[i] = (uint8_t)(low | high << 4);
        }
        packed[dim / 2 + block] = e;
    }
}

void index_row_unpack(const uint8_t *packed, uint32_t dim, float *row)
{
    for (uint32_t i = 0; i < dim; i++) {
        uint8_t code = (uint8_t)((uint32_t)packed[i / 2] >> (i % 2 * 4) & 15u);
        row[i] = e2m1_to_f32(code) * e8m0_to_f32(packed[dim / 2 + i / OP_INDEX_BLOCK]);
    }
}

void hadamard(float *x, uint32_t n)
{
    for (uint32_t stride = 1; stride < n; stride *= 2) {
        for (uint32_t at = 0; at < n; at += 2 * stride) {
            for (uint32_t i = at; i < at + stride; i++) {
                float u = x[i], v = x[i + stride];
                x[i] = u + v;
                x[i + stride] = u - v;
            }
        }
    }
    float norm = (float)(1.0 / sqrt((double)n));
    for (uint32_t i = 0; i < n; i++) x[i] *= norm;
}

void kv_row_store(float *row, uint32_t dim, uint32_t n_rope, bool round, enum op_row_format format, uint8_t *to)
{
    if (format == OP_ROW_PACKED) {
        ensure(round); /* a packed row cannot hold unrounded values */
        kv_row_pack(row, dim, n_rope, to);
        return;
    }
    if (round) kv_row_round(row, dim, n_rope);
    memcpy(to, row, dim * sizeof *row);
}

void index_row_store(float *row, uint32_t dim, bool round, enum op_row_format format, uint8_t *to)
{
    if (format == OP_ROW_PACKED) {
        ensure(round);
        index_row_pack(row, dim, to);
        return;
    }
    if (round) index_row_round(row, dim);
    memcpy(to, row, dim * sizeof *row);
}

void kv_row_load(const uint8_t *from, enum op_row_format format, uint32_t dim, uint32_t n_rope, float *row)
{
    if (format == OP_ROW_PACKED) kv_row_unpack(from, dim, n_rope, row);
    else memcpy(row, from, dim * sizeof *row);
}

void index_row_load(const uint8_t *from, enum op_row_format format, uint32_t dim, float *row)
{
    if (format == OP_ROW_PACKED) index_row_unpack(from, dim, row);
    else memcpy(row, from, dim * sizeof *row);
}
