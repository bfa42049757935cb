/* avx512_emulated_avx2.c - see avx512_emulated.h: the table of kernels on it, NULL where SIMDe is not installed. */
#include "lib/avx512_tables.h"

#if defined(__x86_64__)
#if __has_include(<simde/x86/avx512/add.h>)
#include "lib/avx512_emulated.h"

#define AVX512_EMULATED 1
#define AVX512_TABLE cpu_kernels_emulated
#define AVX512_NAME "avx512 emulated"
#define AVX512_SUPPORTED avx512_supported
extern const struct cpu_kernels cpu_kernels_emulated;
#include "ops/cpu/kernels_avx512_impl.h"

const struct cpu_kernels *avx512_emulated(void) { return &cpu_kernels_emulated; }
#else
const struct cpu_kernels *avx512_emulated(void) { return NULL; }
#endif
#endif
