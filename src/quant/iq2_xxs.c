/* iq2_xxs.c - IQ2_XXS: 256 values in 8 groups of 32; runs of 8 magnitudes come from a code book of 256 vectors, signs
 * from 7 bits (the eighth makes their number even).
 *
 *   OFFSET SIZE
 *   0      2    f16 d
 *   2      64   8 groups of two u32 (a, b), not aligned
 *   a: four code book indices, 8 bits each.  b: 31-28 scale s | 27-21 signs of run 3 | ... | 6-0 signs of run 0
 *   y[32g + 8l + j] = d (0.5 + s) / 4 * grid[index l][j] * sign
 *
 * Every product is exact in F32. Source: GGUF block formats. */
#include "base/f16.h"
#include "quant/codecs.h"
#include "quant/grids.h"

#define BLOCK 256
#define BYTES 66

void decode_iq2_xxs(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += BYTES) {
        float d = f16_to_f32(load_u16(blocks));
        for (size_t g = 0; g < 8; g++) {
            const uint8_t *index = blocks + 2 + 8 * g;
            uint32_t b = load_u32(index + 4);
            float scale = d * (0.5f + (float)(b >> 28)) * 0.25f;
            for (size_t l = 0; l < 4; l++) {
                const uint8_t *grid = quant_grid_iq2_xxs[index[l]];
                unsigned signs = quant_signs[(b >> (7 * l)) & 127];
                float *to = values + at + 32 * g + 8 * l;
                for (size_t j = 0; j < 8; j++) to[j] = scale * (float)grid[j] * ((signs >> j) & 1 ? -1.0f : 1.0f);
            }
        }
    }
}
