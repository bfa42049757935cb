/* q3_k.c - Q3_K: 256 values in 16 sub-blocks of 16 with signed 6-bit scales; 3-bit codes. Decoded only: files of other
 * publishers.
 *
 *   OFFSET SIZE
 *   0      32   u8 hmask: bit 4h + j of hmask[l] clear subtracts 4 from value 128h + 32j + l
 *   32     64   u8 qs: value 128h + 32j + l has low code (qs[32h + l] >> 2j) & 3
 *   96     12   u8 sc: scale k has low bits in a nibble of sc[k % 8] (high nibble from k = 8 on), bits 4-5 in
 *               sc[8 + k % 4] at 2 (k / 4); minus 32
 *   108    2    f16 d
 *   y = d scale code. Source: GGUF block formats. */
#include "base/f16.h"
#include "quant/codecs.h"

#define BLOCK 256
#define BYTES 110

void decode_q3_k(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += BYTES) {
        const uint8_t *sc = blocks + 96;
        float d = f16_to_f32(load_u16(blocks + 108));
        for (size_t k = 0; k < 16; k++) {
            int low = k < 8 ? sc[k] & 15 : sc[k - 8] >> 4;
            int high = (sc[8 + (k & 3)] >> (2 * (k >> 2))) & 3;
            float scale = d * (float)((low | high << 4) - 32);
            size_t h = k / 8, j = k % 8 / 2, first = k % 2 * 16;
            for (size_t l = first; l < first + 16; l++) {
                int code = ((blocks[32 + 32 * h + l] >> (2 * j)) & 3) - ((blocks[l] >> (4 * h + j)) & 1 ? 0 : 4);
                values[at + 128 * h + 32 * j + l] = scale * (float)code;
            }
        }
    }
}
