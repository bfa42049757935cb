/* q2_k_avx2.c - Q2_K against 8-bit inputs. Block of 256 (84 bytes): sc u8[16] (low nibble scale, high nibble minimum),
 * qs u8[64], d, dmin f16; value 128h+32j+l has its code in bits 2j of qs[32h+l]. The scale of a sixteenth and the
 * input's multiplier are one 16-bit factor of pairs of products. Eight rows at a time, each a lane of the result.
 * Codes of odd j stay where they are, so that they count four times and need no shift; factors of even j are four times
 * as large instead, and d is a quarter. A sum of 256 stays below 4 * 256 * 3 * 127 * 15 * 255 < 2^31. */
#if defined(__x86_64__)
#include "ops/cpu/avx2.h"

#define BLOCK_BYTES 84u
#define CODES 16u  /* where they begin */
#define SCALES 80u /* d and dmin */

/* 32 bytes of codes in the order of q8 (kernels.h): words of the first and the second 16 in turns. */
INLINE __m256i in_turns(const uint8_t *codes)
{
    __m256i a = twice128(load128(codes)), b = twice128(load128(codes + 16));
    return _mm256_blend_epi32(_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b), 0xF0);
}
/* Codes j of 32 bytes, four times as large when j is odd. */
INLINE __m256i codes_of(__m256i bytes, uint32_t j)
{
    __m256i bits = j < 2 ? bytes : _mm256_srli_epi16(bytes, 4);
    return _mm256_and_si256(bits, _mm256_set1_epi8(j % 2 ? 12 : 3));
}
/* d / 4 and SUM_UNIT dmin of a block of eight rows. */
struct block_scales { __m256 d, d_min; };
INLINE struct block_scales block_scales(const uint8_t *const *rows, size_t offset)
{
    __m256i both = dwords_of(rows, offset + SCALES);
    struct block_scales s = {_mm256_mul_ps(low_halves(both), _mm256_set1_ps(0.25f)),
                             _mm256_mul_ps(low_halves(_mm256_srli_epi32(both, 16)), _mm256_set1_ps(SUM_UNIT))};
    return s;
}

/* Codes of a block of one row times inputs times factors. */
INLINE __m256i multiply_codes(const uint8_t *block, const int8_t *q, const int16_t *factors)
{
    __m256i total = _mm256_setzero_si256();
    UNROLL for (uint32_t h = 0; h < 2; h++) {
        __m256i bytes = in_turns(block + CODES + 32 * h);
        UNROLL for (uint32_t j = 0; j < 4; j++) {
            __m256i products = _mm256_maddubs_epi16(codes_of(bytes, j), load256(q + 128 * h + 32 * j));
            __m256i factor = _mm256_set1_epi32((int32_t)load_u32(factors + 2 * (4 * h + j)));
            total = _mm256_add_epi32(total, _mm256_madd_epi16(products, factor));
        }
    }
    return total;
}

#define RUN 16u /* blocks of a row that follow each other, so that memory is read in order */

/* Sums of the blocks of a run of eight rows: codes with all their factors, and minima times the sums of the inputs. */
struct run { __m256i multipliers[RUN]; int32_t codes[LANES][RUN], mins[LANES][RUN]; };

/* Up to eight blocks of a row: they are the lanes of both results. Factors are prepared before the products, so that
 * nobody waits for them. */
static void multiply_blocks(const uint8_t *w, uint32_t n, const int8_t *q, const int16_t *t_sums,
                            const __m256i *multipliers, int32_t *codes_to, int32_t *mins_to)
{
    int16_t factors[LANES][16] UNINITIALISED;
    __m256i codes[LANES] UNINITIALISED, mins[LANES] UNINITIALISED;
    for (uint32_t k = 0; k < n; k++) {
        __m256i words = _mm256_cvtepu8_epi16(load128(w + k * BLOCK_BYTES));
        __m256i scales = _mm256_and_si256(words, _mm256_set1_epi16(15));
        _mm256_storeu_si256((__m256i *)(void *)factors[k], _mm256_mullo_epi16(scales, multipliers[k]));
        mins[k] = _mm256_madd_epi16(_mm256_srli_epi16(words, 4), load256(t_sums + 16 * k));
    }
    for (uint32_t k = 0; k < n; k++, w += BLOCK_BYTES, q += 256) {
        fetch_row(w);
        codes[k] = multiply_codes(w, q, factors[k]);
    }
    for (uint32_t k = n; k < LANES; k++) codes[k] = mins[k] = _mm256_setzero_si256();
    _mm256_storeu_si256((__m256i *)(void *)codes_to, lane_sums_i32(codes));
    _mm256_storeu_si256((__m256i *)(void *)mins_to, lane_sums_i32(mins));
}

/* Adds n blocks of a run to the sums of its rows, one after the other. */
INLINE __m256 add_blocks(const struct streams *s, size_t offset, const struct run *run, uint32_t at, uint32_t n,
                         __m256 sum)
{
    __m256i codes[LANES] UNINITIALISED, mins[LANES] UNINITIALISED;
    UNROLL for (uint32_t r = 0; r < LANES; r++)
        codes[r] = load256(run->codes[r] + at), mins[r] = load256(run->mins[r] + at);
    transpose_8(codes);
    transpose_8(mins);
    for (uint32_t k = 0; k < n; k++, offset += BLOCK_BYTES) {
        struct block_scales scales = block_scales(s->rows, offset);
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(codes[k]), scales.d, sum);
        sum = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(mins[k]), scales.d_min, sum);
    }
    return sum;
}

static void dot_q2_k(const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in, const struct input *x,
                     float *y)
{
    for (uint32_t i = 0; i < n_rows; i += LANES) {
        const __m256i four_and_one = _mm256_set1_epi64x(0x0001000100040004);
        struct streams s = streams_at(w, row_bytes, n_rows, i, 1);
        __m256 sum = _mm256_setzero_ps();
        for (uint32_t b = 0, n; b < n_in / 256; b += n) {
            struct run run UNINITIALISED;
            n = n_in / 256 - b < RUN ? n_in / 256 - b : RUN;
            for (uint32_t k = 0; k < n; k++)
                run.multipliers[k] = _mm256_mullo_epi16(load256(x->t + 16 * (b + k)), four_and_one);
            for (uint32_t r = 0; r < LANES; r++)
                for (uint32_t k = 0; k < n; k += LANES) {
                    uint32_t at = b + k, n_here = n - k < LANES ? n - k : LANES;
                    multiply_blocks(s.rows[r] + (size_t)at * BLOCK_BYTES, n_here, x->q8 + 256 * at, x->t_sums + 16 * at,
                                    run.multipliers + k, run.codes[r] + k, run.mins[r] + k);
                }
            for (uint32_t k = 0; k < n; k += LANES)
                sum = add_blocks(&s, (size_t)(b + k) * BLOCK_BYTES, &run, k, n - k < LANES ? n - k : LANES, sum);
        }
        streams_store(&s, sum, x->d, y);
    }
}

INLINE __m256i two_halves(__m128i low, __m128i high)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

/* The bytes of 32 values, each four codes of one 2-bit shift, of eight rows to eight vectors: the k-th has dword k of
 * each row, or of in_turns of it. */
INLINE void gather_codes(bool turns, const uint8_t *const *rows, size_t offset, __m256i *v)
{
    if (!turns) {
        UNROLL for (uint32_t r = 0; r < LANES; r++) v[r] = load256(rows[r] + offset);
        transpose_8(v);
        return;
    }
    UNROLL for (uint32_t r = 0; r < 4; r++) {
        const uint8_t *low = rows[r] + offset, *high = rows[r + 4] + offset;
        __m256i a = two_halves(load128(low), load128(high)), b = two_halves(load128(low + 16), load128(high + 16));
        v[r] = _mm256_unpacklo_epi16(a, b), v[r + 4] = _mm256_unpackhi_epi16(a, b);
    }
    transpose_4(v);
    transpose_4(v + 4);
}

/* Factors without multipliers and minima of a block of eight rows: pairs of words of one 32 for each row. */
INLINE void unpack_scales(uint32_t n_lanes, const uint8_t *const *rows, size_t offset, int16_t *scales, int16_t *mins)
{
    __m256i m[4], v[4];
    UNROLL for (uint32_t r = 0; r < 4; r++)
        m[r] = two_halves(load128(rows[r] + offset), load128(rows[r + 4] + offset));
    __m256i a = _mm256_unpacklo_epi16(m[0], m[1]), b = _mm256_unpacklo_epi16(m[2], m[3]);
    __m256i c = _mm256_unpackhi_epi16(m[0], m[1]), d = _mm256_unpackhi_epi16(m[2], m[3]);
    v[0] = _mm256_unpacklo_epi32(a, b), v[1] = _mm256_unpackhi_epi32(a, b);
    v[2] = _mm256_unpacklo_epi32(c, d), v[3] = _mm256_unpackhi_epi32(c, d);
    UNROLL for (uint32_t i = 0; i < 8; i++) {
        __m256i both = _mm256_permute4x64_epi64(v[i / 2], 0xD8);
        __m128i half = i % 2 ? _mm256_extracti128_si256(both, 1) : _mm256_castsi256_si128(both);
        __m256i words = _mm256_cvtepu8_epi16(half);
        __m256i times = i % 2 ? words : _mm256_slli_epi16(words, 2);
        times = _mm256_and_si256(times, _mm256_set1_epi16(i % 2 ? 15 : 60));
        _mm256_storeu_si256((__m256i *)(void *)(scales + 2 * n_lanes * i), times);
        _mm256_storeu_si256((__m256i *)(void *)(mins + 2 * n_lanes * i), _mm256_srli_epi16(words, 4));
    }
}

/* turns: values in the order of LANES. */
INLINE void unpack_rows(bool turns, uint32_t n_lanes, const uint8_t *const *rows, const struct tile *tile,
                        uint32_t row_i)
{
    for (uint32_t b = 0; b < tile->n_in / 256; b++) {
        size_t offset = (size_t)b * BLOCK_BYTES, scales_at = ((size_t)8 * b * n_lanes + row_i) * 2;
        for (uint32_t h = 0; h < 2; h++) {
            __m256i v[8] UNINITIALISED;
            gather_codes(turns, rows, offset + CODES + 32 * h, v);
            UNROLL for (uint32_t j = 0; j < 4; j++)
                UNROLL for (uint32_t i = 0; i < 8; i++)
                    _mm256_storeu_si256(
                        (__m256i *)(void *)tile_q8(tile, n_lanes, 256 * b + 128 * h + 32 * j + 4 * i, row_i),
                        codes_of(v[i], j));
        }
        unpack_scales(n_lanes, rows, offset, tile->scales16 + scales_at, tile->mins16 + scales_at);
        struct block_scales scales = block_scales(rows, offset);
        _mm256_storeu_ps(tile->d + (size_t)b * n_lanes + row_i, scales.d);
        _mm256_storeu_ps(tile->d_min + (size_t)b * n_lanes + row_i, scales.d_min);
    }
}

static void unpack_q2_k(const uint8_t *const *rows, const struct tile *tile, uint32_t row_i)
{
    unpack_rows(true, TILE_ROWS, rows, tile, row_i);
}
void avx2_unpack_q2_k_wide(const uint8_t *const *rows, const struct tile *tile, uint32_t row_i)
{
    unpack_rows(false, TILE_ROWS_MAX, rows, tile, row_i);
}

static const struct lanes_kernels lanes = {TILE_ROWS, LANES_PIECE, unpack_q2_k, avx2_gemm_lanes_q2_k};
const struct format_kernels avx2_q2_k = {INPUT_LANES, 256, 16, 3, dot_q2_k, NULL, NULL, &lanes};

#endif
