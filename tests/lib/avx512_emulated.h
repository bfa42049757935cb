/* avx512_emulated.h - the AVX-512 intrinsics that the kernels use, made of AVX2 by SIMDe, so that a machine without
 * AVX-512 runs the kernels' own source. A file that includes this is compiled for AVX2. */
#ifndef TESTS_AVX512_EMULATED_H
#define TESTS_AVX512_EMULATED_H

#include <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512/setzero.h>
/* The above must come first: the others do not ask for what they need. */
#include <simde/x86/avx512/add.h>
#include <simde/x86/avx512/and.h>
#include <simde/x86/avx512/broadcast.h>
#include <simde/x86/avx512/cast.h>
#include <simde/x86/avx512/dpbusd.h>
#include <simde/x86/avx512/dpwssd.h>
#include <simde/x86/avx512/extract.h>
#include <simde/x86/avx512/fmadd.h>
#include <simde/x86/avx512/fnmadd.h>
#include <simde/x86/avx512/insert.h>
#include <simde/x86/avx512/loadu.h>
#include <simde/x86/avx512/madd.h>
#include <simde/x86/avx512/maddubs.h>
#include <simde/x86/avx512/mullo.h>
#include <simde/x86/avx512/or.h>
#include <simde/x86/avx512/permutexvar.h>
#include <simde/x86/avx512/set.h>
#include <simde/x86/avx512/set1.h>
#include <simde/x86/avx512/shuffle.h>
#include <simde/x86/avx512/slli.h>
#include <simde/x86/avx512/srai.h>
#include <simde/x86/avx512/srli.h>
#include <simde/x86/avx512/srlv.h>
#include <simde/x86/avx512/storeu.h>
#include <simde/x86/avx512/sub.h>

/* What it lacks: conversions, of either half. */
static inline __m512 emulated_cvtepi32_ps(__m512i v)
{
    __m256 low = _mm256_cvtepi32_ps(_mm512_castsi512_si256(v));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), _mm256_cvtepi32_ps(_mm512_extracti64x4_epi64(v, 1)), 1);
}
static inline __m512 emulated_cvtph_ps(__m256i v)
{
    __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(v));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)), 1);
}
static inline __m512i emulated_cvtepu16_epi32(__m256i v)
{
    __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(v));
    __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
static inline __m256i emulated_cvtepi32_epi16(__m512i v) /* cut off */
{
    __m256i part[2] = {_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)};
    for (int i = 0; i < 2; i++) part[i] = _mm256_and_si256(part[i], _mm256_set1_epi32(0xFFFF));
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(part[0], part[1]), 0xD8);
}
static inline __m512i emulated_even_products(__m512i a, __m512i b) /* of words; for this mask only */
{
    return _mm512_and_si512(_mm512_mullo_epi16(a, b), _mm512_set1_epi32(0xFFFF));
}
#define _mm512_maskz_mullo_epi16(mask, a, b) emulated_even_products(a, b)
/* And one it gives the wrong number of arguments. */
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 simde_mm512_madd_epi16
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtph_ps emulated_cvtph_ps
#define _mm512_cvtepu16_epi32 emulated_cvtepu16_epi32
#define _mm512_cvtepi32_epi16 emulated_cvtepi32_epi16

#endif
