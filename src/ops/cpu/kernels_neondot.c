/* kernels_neondot.c - the NEON variant with products of four bytes (SDOT). */
#if defined(__aarch64__)
#define NEON_TABLE cpu_kernels_neondot
#define NEON_NAME "neon-dotprod"
#define NEON_SUPPORTED neondot_supported
#include "ops/cpu/kernels_neon_impl.h"

#endif
