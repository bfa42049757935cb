/* supported_x86.c - whether the processor can run the AVX-512 kernels and the system saves their registers: the
 * compiler's run-time library asks CPUID and XGETBV. Compiled for any processor, unlike the kernels. */
#if defined(__x86_64__)
#include "ops/cpu/kernels.h"

bool avx512_supported(void);
bool avx512vnni_supported(void);

bool avx512_supported(void)
{
    return cpu_kernels_avx2.supported() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool avx512vnni_supported(void) { return avx512_supported() && __builtin_cpu_supports("avx512vnni"); }

#endif
