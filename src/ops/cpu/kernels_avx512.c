/* kernels_avx512.c - the AVX-512 variant for processors without VNNI (F, BW, VL, DQ). */
#if defined(__x86_64__)
#define AVX512_TABLE cpu_kernels_avx512
#define AVX512_NAME "avx512"
#define AVX512_SUPPORTED avx512_supported
#include "ops/cpu/kernels_avx512_impl.h"

#endif
