/* kernels_neon_impl.h - the table of a NEON variant: products of integers and the scan of index rows for its
 * instructions, the rest as in the others. Included by one file a variant, which defines NEON_TABLE, its symbol,
 * NEON_NAME and NEON_SUPPORTED. Weights of other formats are unpacked to float by their decoders. */
#ifndef DS4_OPS_CPU_KERNELS_NEON_IMPL_H
#define DS4_OPS_CPU_KERNELS_NEON_IMPL_H

#include "ops/cpu/index_neon_impl.h"
#include "ops/cpu/products_neon_impl.h"
#include "quant/quant.h"

static const struct format_kernels *format(uint32_t type)
{
    switch (type) {
    case QUANT_F32: return &neon_f32;
    case QUANT_F16: return &neon_f16;
    case QUANT_BF16: return &neon_bf16;
    case QUANT_Q8_0: return &q8_0;
    case QUANT_MXFP4: return &mxfp4;
    case QUANT_Q4_K: return &q4_k;
    case QUANT_Q2_K: return &q2_k;
    case QUANT_IQ2_XXS: return &iq2_xxs;
    default: return NULL; /* floats */
    }
}

const struct cpu_kernels NEON_TABLE = {
    .name = NEON_NAME,
    .supported = NEON_SUPPORTED,
    .format = format,
    NEON_BESIDE_PRODUCTS,
    .index_prepare = index_prepare,
    .index_scores = index_scores,
    .index_heads_step = HEADS,
};

#endif
