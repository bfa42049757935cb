/* mxfp4.c - MXFP4 and NVFP4: E2M1 codes with a power-of-two scale for 32 values, or an E4M3 scale for 16.
 *
 *   MXFP4 OFFSET SIZE                              NVFP4 OFFSET SIZE
 *         0      1   UE8M0 scale                         0      4   u8 d: unsigned E4M3 scale of each sub-block
 *         1      16  u8 q: value i low nibble,           4      32  u8 q: value 16k + j low nibble of q[8k + j],
 *                    value i + 16 high nibble                       value 16k + 8 + j high nibble, j < 8
 *   y = E2M1(code) 2^(e - 127)                     y = E2M1(code) d[k]
 *
 * Doubled values with the halved scale keep e = 255 (which no good file has) finite where the format can. Source: GGUF
 * block formats; OCP Microscaling v1.0. */
#include "base/f16.h"
#include "quant/codecs.h"
#include "quant/mxfp4.h"

#define BLOCK 32
#define BYTES 17

static float half_scale(uint8_t e)
{
    return f32_from_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

void decode_mxfp4(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += BYTES) {
        float scale = half_scale(blocks[0]);
        for (size_t i = 0; i < BLOCK / 2; i++) {
            values[at + i] = 2 * e2m1_to_f32(blocks[1 + i] & 15) * scale;
            values[at + i + 16] = 2 * e2m1_to_f32(blocks[1 + i] >> 4) * scale;
        }
    }
}

/* The sign bit of the scale is ignored; zero and the NaN code 0x7F give 0. */
static float unsigned_e4m3(uint8_t b)
{
    if (b == 0x7F) return 0;
    if ((b & 0x7F) == 0x7F) return 480; /* 0xFF */
    return e4m3_to_f32(b & 0x7F);
}

void decode_nvfp4(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += 64, blocks += 36) {
        for (size_t i = 0; i < 64; i++) {
            size_t k = i / 16, j = i % 16;
            uint8_t pair = blocks[4 + 8 * k + j % 8];
            values[at + i] = e2m1_to_f32(j < 8 ? pair & 15 : pair >> 4) * unsigned_e4m3(blocks[k]);
        }
    }
}

void mxfp4_repack(const uint8_t *packed, const uint8_t *scales, uint8_t *blocks, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += BYTES, packed += BLOCK / 2) {
        blocks[0] = *scales++;
        for (size_t i = 0; i < BLOCK / 2; i++) {
            unsigned shift = i % 2 * 4; /* source: element 2j low, 2j + 1 high nibble of byte j */
            unsigned low = (packed[i / 2] >> shift) & 15u, high = (packed[8 + i / 2] >> shift) & 15u;
            blocks[1 + i] = (uint8_t)(low | high << 4);
        }
    }
}
