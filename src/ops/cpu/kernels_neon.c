/* kernels_neon.c - the NEON variant for every 64-bit ARM. */
#if defined(__aarch64__)
#define NEON_TABLE cpu_kernels_neon
#define NEON_NAME "neon"
#define NEON_SUPPORTED neon_supported
#include "ops/cpu/kernels_neon_impl.h"

#endif
