/* quant.h - block formats of weights: names, sizes, exact decoding, encoding. One row of formats.def per format; one
 * file per format family. Source of the layouts: the GGUF block formats as published by ggml (ids are theirs). */
#ifndef DS4_QUANT_QUANT_H
#define DS4_QUANT_QUANT_H

#include "base/err.h"

enum quant_id {
    QUANT_F32 = 0, QUANT_F16 = 1, QUANT_Q4_0 = 2, QUANT_Q8_0 = 8, QUANT_Q2_K = 10, QUANT_Q3_K = 11, QUANT_Q4_K = 12,
    QUANT_Q5_K = 13, QUANT_Q6_K = 14, QUANT_IQ2_XXS = 16, QUANT_IQ2_XS = 17, QUANT_IQ3_XXS = 18, QUANT_I32 = 26,
    QUANT_BF16 = 30, QUANT_MXFP4 = 39, QUANT_NVFP4 = 40
};

struct quant_format {
    uint32_t id;                      /* GGUF type number */
    const char *name;
    uint32_t block_elems, block_bytes;
    /* n_elems is a multiple of block_elems. NULL: known by name and size only. Bit-exact: see the format's file. */
    void (*decode)(const uint8_t *blocks, float *values, size_t n_elems);
    /* importance[n_elems] (>= 0) or NULL; n_elems a multiple of block_elems. NULL: no encoder. */
    void (*encode)(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);
    bool weight;                      /* matrices of this format can be multiplied by every backend */
};

/* NULL for an id that no list names. */
const struct quant_format *quant_format(uint32_t id);
/* By name ("Q8_0", case ignored); NULL when unknown. */
const struct quant_format *quant_format_named(struct ds4_span name);
/* Bytes of a row of n_elems; false when n_elems is not a multiple of the block or the size overflows. */
bool quant_row_bytes(const struct quant_format *format, uint64_t n_elems, uint64_t *bytes);
/* True when every scale in the blocks is finite. */
bool quant_scales_finite(const struct quant_format *format, const uint8_t *blocks, size_t n_elems);

#endif
