/* lanes_avx2.c - see lanes_impl.h: for x86 with AVX2 and FMA. */
#ifdef __AVX2__
#define LANES_TABLE ptx_lanes_avx2
#include "gpu/ptx/lanes_impl.h"
#else
typedef int lanes_avx2_is_for_x86;
#endif
