/* kernels_avx512_impl.h - the table of an AVX-512 variant: matrix products here, the rest from AVX2; so are the formats
 * whose rows lie in eight lanes. Included by one file a variant, which defines AVX512_TABLE, its symbol, AVX512_NAME
 * and AVX512_SUPPORTED. */
#ifndef DS4_OPS_CPU_KERNELS_AVX512_IMPL_H
#define DS4_OPS_CPU_KERNELS_AVX512_IMPL_H

#include "ops/cpu/dots_avx512_impl.h"
#include "ops/cpu/gemm_avx512_impl.h"
#include "ops/cpu/lanes_avx512_impl.h"
#include "quant/quant.h"

#if defined(AVX512_BYTES)
#define Q2_K_KERNELS q2_k
#define IQ2_XXS_KERNELS iq2_xxs
#define QUANTISE avx2_quantise_fours
#else
#define Q2_K_KERNELS avx2_q2_k
#define IQ2_XXS_KERNELS avx2_iq2_xxs
#define QUANTISE avx2_quantise
#endif

static const struct format_kernels *format(uint32_t type)
{
    switch (type) {
    case QUANT_F32: return &f32;
    case QUANT_F16: return &f16;
    case QUANT_BF16: return &bf16;
    case QUANT_Q8_0: return &q8_0;
    case QUANT_Q2_K: return &Q2_K_KERNELS;
    case QUANT_Q4_K: return &q4_k;
    case QUANT_Q6_K: return &avx2_q6_k;
    case QUANT_IQ2_XXS: return &IQ2_XXS_KERNELS;
    case QUANT_MXFP4: return &mxfp4;
    default: return NULL;
    }
}

const struct cpu_kernels AVX512_TABLE = {
    .name = AVX512_NAME,
    .supported = AVX512_SUPPORTED,
    .format = format,
    .quantise = QUANTISE,
    .gemm = gemm,
    .input_panels = true,
    AVX2_BESIDE_PRODUCTS,
};

#endif
