/* q2_k.c - Q2_K: 256 values in 16 sub-blocks of 16, each with a 4-bit scale and a 4-bit minimum; 2-bit codes.
 *
 *   OFFSET SIZE
 *   0      16   u8 sc: sub-block k has scale sc[k] & 15 and minimum sc[k] >> 4
 *   16     64   u8 qs: value 128h + 32j + l has code (qs[32h + l] >> 2j) & 3
 *   80     2    f16 d
 *   82     2    f16 dmin
 *   y = (d scale) code - dmin minimum
 *
 * Every product is exact in F32 (at most 24 significant bits), so the one rounding is that of the subtraction.
 * Source: GGUF block formats. */
#include "base/f16.h"
#include "quant/codecs.h"

#define BLOCK 256
#define BYTES 84

void decode_q2_k(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += BYTES) {
        float d = f16_to_f32(load_u16(blocks + 80)), dmin = f16_to_f32(load_u16(blocks + 82));
        for (size_t k = 0; k < 16; k++) {
            size_t h = k / 8, shift = k % 8 / 2 * 2, first = k % 2 * 16;
            const uint8_t *qs = blocks + 16 + 32 * h + first;
            float scale = d * (float)(blocks[k] & 15), min = dmin * (float)(blocks[k] >> 4);
            for (size_t l = 0; l < 16; l++)
                values[at + 16 * k + l] = scale * (float)((qs[l] >> shift) & 3) - min;
        }
    }
}
