/* kernels_avx2.c - the table of the AVX2 variant (AVX2, FMA, F16C). */
#if defined(__x86_64__)
#include <cpuid.h>

#include "ops/cpu/avx2.h"
#include "quant/quant.h"

static bool supported(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C)) return false;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}

static const struct format_kernels *format(uint32_t type)
{
    switch (type) {
    case QUANT_F32: return &avx2_f32;
    case QUANT_F16: return &avx2_f16;
    case QUANT_BF16: return &avx2_bf16;
    case QUANT_Q8_0: return &avx2_q8_0;
    case QUANT_Q2_K: return &avx2_q2_k;
    case QUANT_Q4_K: return &avx2_q4_k;
    case QUANT_Q6_K: return &avx2_q6_k;
    case QUANT_IQ2_XXS: return &avx2_iq2_xxs;
    case QUANT_MXFP4: return &avx2_mxfp4;
    default: return NULL;
    }
}

const struct cpu_kernels cpu_kernels_avx2 = {
    .name = "avx2",
    .supported = supported,
    .format = format,
    .quantise = avx2_quantise,
    .gemm = avx2_gemm,
    AVX2_BESIDE_PRODUCTS,
};

#endif
