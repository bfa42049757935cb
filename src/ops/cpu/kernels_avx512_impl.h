/* kernels_avx512_impl.h - the table of an AVX-512 variant: matrix products here, the rest from AVX2; so are the formats
 * whose rows lie in eight lanes. Included by one file a variant, which defines AVX512_TABLE, its symbol, AVX512_NAME
 * and AVX512_SUPPORTED. */
#ifndef DS4_OPS_CPU_KERNELS_AVX512_IMPL_H
#define DS4_OPS_CPU_KERNELS_AVX512_IMPL_H

#include "ops/cpu/dots_avx512_impl.h"
#include "ops/cpu/gemm_avx512_impl.h"
#include "quant/quant.h"

static const struct format_kernels *format(uint32_t type)
{
    switch (type) {
    case QUANT_F32: return &f32;
    case QUANT_F16: return &f16;
    case QUANT_BF16: return &bf16;
    case QUANT_Q8_0: return &avx2_q8_0;
    case QUANT_Q2_K: return &avx2_q2_k;
    case QUANT_Q4_K: return &q4_k;
    case QUANT_Q6_K: return &avx2_q6_k;
    case QUANT_IQ2_XXS: return &avx2_iq2_xxs;
    case QUANT_MXFP4: return &avx2_mxfp4;
    default: return NULL;
    }
}

const struct cpu_kernels AVX512_TABLE = {
    .name = AVX512_NAME,
    .supported = AVX512_SUPPORTED,
    .format = format,
    .gemm = gemm,
    .input_panels = true,
    AVX2_BESIDE_PRODUCTS,
};

#endif
