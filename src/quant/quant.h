/* quant.h - block formats of weights: names, sizes, exact decoding, encoding. One row of formats.def per format; one
 * file per format family. Source of the layouts: the GGUF block formats as published by ggml (ids are theirs). */
#ifndef DS4_QUANT_QUANT_H
#define DS4_QUANT_QUANT_H

#include "base/err.h"

enum quant_id {
#define FORMAT(name, id, elems, bytes, scales_at, n_scales, decode, encode, weight) QUANT_##name = (id),
#include "quant/formats.def"
#undef FORMAT
};

struct quant_format {
    uint32_t id;                      /* GGUF type number */
    const char *name;
    uint32_t block_elems, block_bytes;
    uint32_t scales_at, n_scales;     /* f16 scales in a block, one behind the other */
    /* n_elems is a multiple of block_elems. NULL: known by name and size only. Bit-exact: see the format's file. */
    void (*decode)(const uint8_t *blocks, float *values, size_t n_elems);
    /* importance[n_elems] (>= 0) or NULL; n_elems a multiple of block_elems. NULL: no encoder. */
    void (*encode)(const float *values, const float *importance, uint8_t *blocks, size_t n_elems);
    bool weight;                      /* matrices of this format can be multiplied by every backend */
};

/* NULL for an id that no list names. */
const struct quant_format *quant_format(uint32_t id);
/* The list in order of its ids; NULL behind the last. */
const struct quant_format *quant_format_at(size_t i);
/* By name ("Q8_0", case ignored); NULL when unknown. */
const struct quant_format *quant_format_named(struct ds4_span name);
/* Bytes of a row of n_elems; false when n_elems is not a multiple of the block or the size overflows. */
bool quant_row_bytes(const struct quant_format *format, uint64_t n_elems, uint64_t *bytes);
/* True when every scale in the blocks is finite. */
bool quant_scales_finite(const struct quant_format *format, const uint8_t *blocks, size_t n_elems);

#endif
