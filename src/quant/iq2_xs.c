/* iq2_xs.c - IQ2_XS: like IQ2_XXS with a code book of 512 vectors and a scale for 16 values. Decoded only: files of
 * other publishers.
 *
 *   OFFSET SIZE
 *   0      2    f16 d
 *   2      64   u16 q[32]: 15-9 signs | 8-0 code book index, one for 8 values
 *   66     8    u8 sc: group g of 32 has scale sc[g] & 15 for its first 16 values, sc[g] >> 4 for the others
 *   y = d (0.5 + s) / 4 * grid * sign. Source: GGUF block formats. */
#include "base/f16.h"
#include "quant/codecs.h"
#include "quant/grids.h"

#define BLOCK 256
#define BYTES 74

void decode_iq2_xs(const uint8_t *blocks, float *values, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += BLOCK, blocks += BYTES) {
        float d = f16_to_f32(load_u16(blocks));
        for (size_t run = 0; run < 32; run++) {
            unsigned q = load_u16(blocks + 2 + 2 * run), s = (blocks[66 + run / 4] >> (run % 4 / 2 * 4)) & 15u;
            float scale = d * (0.5f + (float)s) * 0.25f;
            const uint8_t *grid = quant_grid_iq2_xs[q & 511];
            unsigned signs = quant_signs[q >> 9];
            float *to = values + at + 8 * run;
            for (size_t j = 0; j < 8; j++) to[j] = scale * (float)grid[j] * ((signs >> j) & 1 ? -1.0f : 1.0f);
        }
    }
}
