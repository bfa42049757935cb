/* kernels_neoni8mm.c - the NEON variant with products of two rows of eight bytes by two (SMMLA), and SDOT. */
#if defined(__aarch64__)
#define NEON_TABLE cpu_kernels_neoni8mm
#define NEON_NAME "neon-i8mm"
#define NEON_SUPPORTED neoni8mm_supported
#include "ops/cpu/kernels_neon_impl.h"

#endif
