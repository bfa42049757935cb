/* grids.h - the code books of the IQ formats: each index names a vector of magnitudes. Generated into grids_table.c. */
#ifndef DS4_QUANT_GRIDS_H
#define DS4_QUANT_GRIDS_H

#include <stdint.h>

extern const uint8_t quant_grid_iq2_xxs[256][8]; /* 8, 25, 43 */
extern const float quant_grid_iq2_xxs_columns[8][256]; /* the same transposed, for the encoder */
extern const uint8_t quant_grid_iq2_xs[512][8];  /* 8, 25, 43 */
extern const uint8_t quant_grid_iq3_xxs[256][4]; /* 4, 12, 20, ... 52, 62 */
/* Bit j of quant_signs[k] set: value j of a run of 8 is negative. Bits 0-6 are k, bit 7 makes their number even. */
extern const uint8_t quant_signs[128];

#endif
