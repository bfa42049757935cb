/* iq3_xxs.c - IQ3_XXS: 256 values in 8 groups of 32; runs of 4 magnitudes from a code book of 256 vectors. Decoded
 * only: files of other publishers.
 *
 *   OFFSET SIZE
 *   0      2    f16 d
 *   2      64   u8 q: code book indices, one for 4 values
 *   66     32   u32 b[8], not aligned: 31-28 scale s | 27-21 signs of run 3 | ... | 6-0 signs of run 0 (runs of 8)
 *   y = d (0.5 + s) / 2 * grid * sign. Source: GGUF block formats. */
#include "base/f16.h"
#include "quant/codecs.h"
#include "quant/grids.h"

#define BLOCK 256
#define BYTES 98

void decode_iq3_xxs(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += BYTES) {
        float d = f16_to_f32(load_u16(blocks));
        for (size_t g = 0; g < 8; g++) {
            uint32_t b = load_u32(blocks + 66 + 4 * g);
            float scale = d * (0.5f + (float)(b >> 28)) * 0.5f;
            for (size_t l = 0; l < 4; l++) {
                const uint8_t *q = blocks + 2 + 8 * g + 2 * l;
                unsigned signs = quant_signs[(b >> (7 * l)) & 127];
                float *to = values + at + 32 * g + 8 * l;
                for (size_t j = 0; j < 8; j++)
                    to[j] = scale * (float)quant_grid_iq3_xxs[q[j / 4]][j % 4] * ((signs >> j) & 1 ? -1.0f : 1.0f);
            }
        }
    }
}
