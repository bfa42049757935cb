/* avx512.h - what the AVX-512 kernels share. They give the bits of the AVX2 kernels: a register of sixteen lanes holds
 * the eight lanes of two weight rows, which never meet, or two parts of one row's exact integers, which are added.
 *
 * The same source is compiled with VNNI, where a product of pairs and its sum are one instruction, and without. The
 * tests compile it on an emulation of the intrinsics (AVX512_EMULATED), for machines without AVX-512. */
#ifndef DS4_OPS_CPU_AVX512_H
#define DS4_OPS_CPU_AVX512_H

#include "ops/cpu/avx2.h"

/* supported_x86.c */
bool avx512_supported(void);
bool avx512vnni_supported(void);

INLINE __m512i load512(const void *p) { return _mm512_loadu_si512(p); }
INLINE __m512i join256(__m256i low, __m256i high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }
INLINE __m512 join256_ps(__m256 low, __m256 high) { return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1); }
INLINE __m512i twice256(__m256i v) { return _mm512_broadcast_i64x4(v); }
INLINE __m512 twice256_ps(__m256 v) { return _mm512_broadcast_f32x8(v); }
INLINE __m256i low256(__m512i v) { return _mm512_castsi512_si256(v); }
INLINE __m256 low256_ps(__m512 v) { return _mm512_castps512_ps256(v); }
INLINE __m256i high256(__m512i v) { return _mm512_extracti64x4_epi64(v, 1); }
INLINE __m256 high256_ps(__m512 v) { return _mm256_castsi256_ps(high256(_mm512_castps_si512(v))); }
/* The sum of the halves. */
INLINE __m256i fold(__m512i v) { return _mm256_add_epi32(low256(v), high256(v)); }

/* *sum += products of pairs of 16-bit numbers. One statement, as in gemm_avx2.c: left to itself gcc moves sixteen sums
 * between registers and memory at every step. */
INLINE void add_pairs512(__m512i *sum, __m512i a, __m512i b)
{
#if defined(AVX512_EMULATED)
    *sum = _mm512_dpwssd_epi32(*sum, a, b);
#elif defined(__AVX512VNNI__)
    __asm__("vpdpwssd %[b], %[a], %[s]" : [s] "+v"(*sum) : [a] "v"(a), [b] "v"(b));
#else
    __m512i products;
    __asm__("vpmaddwd %[b], %[a], %[p]\n\tvpaddd %[p], %[s], %[s]"
            : [s] "+v"(*sum), [p] "=&v"(products) : [a] "v"(a), [b] "v"(b));
#endif
}

/* What multiplies bytes needs VNNI. */
#if defined(AVX512_EMULATED) || defined(__AVX512VNNI__)
#define AVX512_BYTES 1
/* *sum += products of fours of unsigned and of signed bytes. */
INLINE void add_fours512(__m512i *sum, __m512i a, __m512i b)
{
#if defined(AVX512_EMULATED)
    *sum = _mm512_dpbusd_epi32(*sum, a, b);
#else
    __asm__("vpdpbusd %[b], %[a], %[s]" : [s] "+v"(*sum) : [a] "v"(a), [b] "v"(b));
#endif
}
#endif

#endif
