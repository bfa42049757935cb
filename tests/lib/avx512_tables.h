/* avx512_tables.h - the AVX-512 kernels as a machine without AVX-512 can run them. */
#ifndef DS4_TESTS_AVX512_TABLES_H
#define DS4_TESTS_AVX512_TABLES_H

#include "ops/cpu/kernels.h"

/* Their source on an emulation of the intrinsics, which needs AVX2; NULL when SIMDe was not there at build time. */
const struct cpu_kernels *avx512_emulated(void);

#endif
