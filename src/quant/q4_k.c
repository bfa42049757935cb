/* q4_k.c - Q4_K and Q5_K: 256 values in 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum.
 *
 *   Q4_K OFFSET SIZE                          Q5_K OFFSET SIZE
 *        0      2    f16 d                         0      2    f16 d
 *        2      2    f16 dmin                      2      2    f16 dmin
 *        4      12   u8 sc, see below              4      12   u8 sc
 *        16     128  u8 qs                         16     32   u8 qh
 *                                                  48     128  u8 qs
 *   Value 64c + l (l < 32): low nibble of qs[32c + l], sub-block 2c; value 64c + 32 + l: high nibble, sub-block 2c + 1.
 *   Q5_K: bit s of qh[l] adds 16 to the code of value l of sub-block s.
 *   y = (d scale) code - dmin minimum
 *
 *   The eight scales s and minima m in twelve bytes, j = 0..3 (bits high to low):
 *     sc[j]     s[j+4] bits 5-4 | s[j]
 *     sc[j+4]   m[j+4] bits 5-4 | m[j]
 *     sc[j+8]   m[j+4] bits 3-0 | s[j+4] bits 3-0
 *
 * Every product is exact in F32, so the one rounding is that of the subtraction. Source: GGUF block formats. */
#include "base/f16.h"
#include "quant/codecs.h"

#define BLOCK 256

void q4_k_unpack_scale(const uint8_t *sc, size_t j, int *scale, int *min)
{
    if (j < 4) {
        *scale = sc[j] & 63;
        *min = sc[j + 4] & 63;
    } else {
        *scale = (sc[j + 4] & 15) | (sc[j - 4] >> 6) << 4;
        *min = (sc[j + 4] >> 4) | (sc[j] >> 6) << 4;
    }
}

/* qh NULL: no fifth bit. */
static void decode_block(const uint8_t *block, const uint8_t *qh, const uint8_t *qs, float *values)
{
    float d = f16_to_f32(load_u16(block)), dmin = f16_to_f32(load_u16(block + 2));
    for (size_t s = 0; s < 8; s++) {
        int scale_code, min_code;
        q4_k_unpack_scale(block + 4, s, &scale_code, &min_code);
        float scale = d * (float)scale_code, min = dmin * (float)min_code;
        for (size_t l = 0; l < 32; l++) {
            int code = (qs[32 * (s / 2) + l] >> (4 * (s % 2))) & 15;
            if (qh) code |= ((qh[l] >> s) & 1) << 4;
            values[32 * s + l] = scale * (float)code - min;
        }
    }
}

void decode_q4_k(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += 144) decode_block(blocks, NULL, blocks + 16, values + at);
}

void decode_q5_k(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += 176)
        decode_block(blocks, blocks + 16, blocks + 48, values + at);
}
