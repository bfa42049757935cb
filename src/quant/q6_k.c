/* q6_k.c - Q6_K: 256 values in 16 sub-blocks of 16 with signed 8-bit scales; 6-bit codes.
 *
 *   OFFSET SIZE
 *   0      128  u8 ql: value 128h + 32j + l has its low four bits in ql[64h + 32 (j & 1) + l]; the high nibble from
 *               j = 2 on
 *   128    64   u8 qh: its high two bits are (qh[32h + l] >> 2j) & 3
 *   192    16   i8 sc
 *   208    2    f16 d
 *   y = d sc (code - 32). Source: GGUF block formats. */
#include "base/f16.h"
#include "quant/codecs.h"

#define BLOCK 256
#define BYTES 210

void decode_q6_k(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += BYTES) {
        const uint8_t *ql = blocks, *qh = blocks + 128, *sc = blocks + 192;
        float d = f16_to_f32(load_u16(blocks + 208));
        for (size_t i = 0; i < BLOCK; i++) {
            size_t h = i / 128, j = i % 128 / 32, l = i % 32;
            int low = (ql[64 * h + 32 * (j & 1) + l] >> (j >> 1) * 4) & 15;
            int code = (low | ((qh[32 * h + l] >> (2 * j)) & 3) << 4) - 32;
            values[at + i] = d * (float)(int8_t)sc[i / 16] * (float)code;
        }
    }
}
