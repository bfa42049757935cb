/* mxfp4.h - the lossless way from the published FP4 checkpoint to MXFP4 blocks. */
#ifndef DS4_QUANT_MXFP4_H
#define DS4_QUANT_MXFP4_H

#include <stddef.h>
#include <stdint.h>

/* A row of packed E2M1 codes (element 2j in the low nibble of byte j) with one UE8M0 scale for 32 elements becomes
 * MXFP4 blocks of the same codes and scales. n_elems is a multiple of 32. */
void mxfp4_repack(const uint8_t *packed, const uint8_t *scales, uint8_t *blocks, size_t n_elems);

#endif
