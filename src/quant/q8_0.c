/* q8_0.c - Q8_0 and Q4_0: 32 values share one half-precision scale.
 *
 *   Q8_0  OFFSET SIZE             Q4_0  OFFSET SIZE
 *         0      2   f16 d              0      2   f16 d
 *         2      32  i8 q               2      16  u8 q: value i low nibble, value i + 16 high nibble
 *   y = d q                       y = d (q - 8)
 *
 * The encoder (block32_impl.h) takes d = max|x| / 127 and rounds half away from zero with the scale before its rounding
 * to F16, as the published files do. Source: GGUF block formats. */
#include "base/f16.h"
#include "quant/codecs.h"

#define BLOCK 32

void decode_q8_0(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += 34) {
        float d = f16_to_f32(load_u16(blocks));
        for (size_t i = 0; i < BLOCK; i++) values[at + i] = d * (float)(int8_t)blocks[2 + i];
    }
}

void decode_q4_0(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += 18) {
        float d = f16_to_f32(load_u16(blocks));
        for (size_t i = 0; i < BLOCK / 2; i++) {
            values[at + i] = d * (float)((blocks[2 + i] & 15) - 8);
            values[at + i + 16] = d * (float)((blocks[2 + i] >> 4) - 8);
        }
    }
}
