/* kernels_avx512vnni.c - the AVX-512 variant with VNNI. */
#if defined(__x86_64__)
#define AVX512_TABLE cpu_kernels_avx512vnni
#define AVX512_NAME "avx512vnni"
#define AVX512_SUPPORTED avx512vnni_supported
#include "ops/cpu/kernels_avx512_impl.h"

#endif
