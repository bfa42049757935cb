/* products_neon_impl.h - products of integer formats: four weight rows by one input, two or four at a time, decoded
 * from their blocks on the way (few inputs) or once into a tile (many). Order of sums: neon.h.
 *
 * Q2_K over 256 weights stays below 3 * 15 * 127 * 255 * 256 < 2^29; 32 weights of IQ2_XXS below 43 * 127 * 255 * 32 <
 * 2^26, of Q8_0 below 128 * 32639 * 32 < 2^27.
 *
 * A tile: bytes [panel][n_in / 32][128], each as store_panel leaves it; d and d_min [n_groups][TILE_ROWS]; scales and
 * minima of Q2_K [n_in / 16][TILE_ROWS]; sums [columns][TILE_ROWS]. */
#ifndef DS4_OPS_CPU_PRODUCTS_NEON_IMPL_H
#define DS4_OPS_CPU_PRODUCTS_NEON_IMPL_H

#include "ops/cpu/formats_neon_impl.h"
#include "ops/cpu/sums_neon_impl.h"

#define COLS 4u
#define PANEL_BYTES 128u /* 4 rows by 32 */

/* Sums of four rows and one input. */
struct sums {
    float32x4_t sum;
    int32x4_t total, minima; /* Q2_K, within a block */
};
INLINE struct sums sums_from(float32x4_t sum)
{
    return (struct sums){sum, vdupq_n_s32(0), vdupq_n_s32(0)};
}

/* Adds a panel, whose first weight is inner element `at`. */
INLINE void add_panel(enum kind kind, enum order order, const int8x16_t *v, const struct group *group,
                      const struct gemm_col *cols, uint32_t n_cols, uint32_t at, struct sums *sums)
{
    if (is_fine(kind)) {
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            const struct input *x = &cols[c].x;
            int32x4_t total = fine_sums(order, v, (const int8_t *)x->q16 + 2 * (size_t)at, kind == Q8_0);
            sums[c].sum = vfmaq_f32(sums[c].sum, vcvtq_f32_s32(total), group->d);
            if (kind == Q4_K) sums[c].sum = vfmsq_n_f32(sums[c].sum, group->d_min, x->sums[at / 32]);
        }
        return;
    }
    int32x4_t parts[COLS] UNINITIALISED, total[COLS] UNINITIALISED;
    UNROLL for (uint32_t h = 0; h < 2; h++) {
        const int8_t *x[COLS] UNINITIALISED;
        UNROLL for (uint32_t c = 0; c < n_cols; c++) x[c] = cols[c].x.q8 + at + 16 * h;
        bytes_sums(order, v, h, 1, x, n_cols, parts);
        UNROLL for (uint32_t c = 0; c < n_cols; c++) {
            int32_t t = cols[c].x.t[at / 16 + h], t_sum = cols[c].x.t_sums[at / 16 + h];
            if (kind == IQ2_XXS) {
                total[c] = h == 0 ? vmulq_n_s32(parts[c], t) : vmlaq_n_s32(total[c], parts[c], t);
                continue;
            }
            int32x4_t scale = vreinterpretq_s32_u32(group->scale[h]), min = vreinterpretq_s32_u32(group->min[h]);
            sums[c].total = vmlaq_s32(sums[c].total, parts[c], vmulq_n_s32(scale, t));
            sums[c].minima = vmlaq_n_s32(sums[c].minima, min, t_sum);
        }
    }
    UNROLL for (uint32_t c = 0; c < n_cols && kind == IQ2_XXS; c++)
        sums[c].sum = vfmaq_f32(sums[c].sum, vcvtq_f32_s32(total[c]), group->d);
}

/* The end of a block of Q2_K. */
INLINE void add_block(float32x4_t d, float32x4_t d_min, uint32_t n_cols, struct sums *sums)
{
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        float32x4_t sum = vfmaq_f32(sums[c].sum, vcvtq_f32_s32(sums[c].total), d);
        sums[c] = sums_from(vfmsq_f32(sum, vcvtq_f32_s32(sums[c].minima), d_min));
    }
}

/* One of the groups of 32 of the blocks at rows. */
INLINE void dot_group(enum kind kind, const struct rows *rows, const struct block *block, uint32_t i,
                      const struct gemm_col *cols, uint32_t n_cols, uint32_t at, struct sums *sums)
{
    int8x16_t v[8] UNINITIALISED, stored[8] UNINITIALISED;
    enum order order = passing_order(is_fine(kind), n_cols);
    struct group group = group_at(kind, rows, block, i);
    codes_at(kind, rows, i, v);
    if (order == STORED) store_panel(v, stored);
    add_panel(kind, order, order == STORED ? stored : v, &group, cols, n_cols, at, sums);
}

/* Four rows as they lie. */
INLINE void dot_four(enum kind kind, struct rows rows, uint32_t n_in, const struct gemm_col *cols, uint32_t n_cols,
                     float32x4_t *results)
{
    struct sums sums[COLS] UNINITIALISED;
    UNROLL for (uint32_t c = 0; c < n_cols; c++) sums[c] = sums_from(vdupq_n_f32(0));
    for (uint32_t at = 0; at < n_in; at += block_values(kind)) {
        struct block block = block_at(kind, &rows);
        for (uint32_t i = 0; i < block_values(kind) / 32; i += together(kind, n_cols))
            UNROLL for (uint32_t j = 0; j < together(kind, n_cols); j++)
                dot_group(kind, &rows, &block, i + j, cols, n_cols, at + 32 * (i + j), sums);
        if (kind == Q2_K) add_block(block.d, block.d_min, n_cols, sums);
        UNROLL for (uint32_t r = 0; r < 4; r++) rows.at[r] += block_bytes(kind);
    }
    UNROLL for (uint32_t c = 0; c < n_cols; c++) results[c] = vmulq_n_f32(sums[c].sum, cols[c].x.d);
}

/* Rows are read as four streams, each of them consecutive rows; the last row stands for those beyond it. */
INLINE void dots_some(enum kind kind, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in,
                      const struct gemm_col *cols, uint32_t n_cols)
{
    uint32_t n = (n_rows + 3) / 4;
    for (uint32_t i = 0; i < n; i++) {
        float32x4_t results[COLS] UNINITIALISED;
        struct rows rows UNINITIALISED;
        uint32_t index[4];
        for (uint32_t r = 0; r < 4; r++) {
            index[r] = i + r * n < n_rows ? i + r * n : n_rows - 1;
            rows.at[r] = w + index[r] * row_bytes;
        }
        dot_four(kind, rows, n_in, cols, n_cols, results);
        for (uint32_t c = 0; c < n_cols; c++) {
            float values[4];
            vst1q_f32(values, results[c]);
            for (uint32_t r = 0; r < 4; r++) cols[c].y[index[r]] = values[r];
        }
    }
}
INLINE void dots_kind(enum kind kind, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in,
                      const struct gemm_col *cols, uint32_t n_cols)
{
    for (; n_cols >= 4; cols += 4, n_cols -= 4) dots_some(kind, w, row_bytes, n_rows, n_in, cols, 4);
    if (n_cols >= 2) dots_some(kind, w, row_bytes, n_rows, n_in, cols, 2);
    if (n_cols % 2) dots_some(kind, w, row_bytes, n_rows, n_in, cols + n_cols - 1, 1);
}

/* Weights [at, at + 32) of a panel and what they are multiplied with, into the tile. */
INLINE void unpack_group(enum kind kind, const struct rows *rows, const struct block *block, uint32_t i,
                         const struct tile *tile, uint32_t at, uint32_t row)
{
    int8x16_t v[8] UNINITIALISED, stored[8] UNINITIALISED;
    int8_t *to = (int8_t *)tile->q8 + (size_t)row * tile->n_in + at / 32 * PANEL_BYTES;
    struct group group = group_at(kind, rows, block, i);
    codes_at(kind, rows, i, v);
    store_panel(v, stored);
    UNROLL for (uint32_t k = 0; k < 8; k++) vst1q_s8(to + 16 * k, stored[k]);
    if (kind != Q2_K) vst1q_f32(tile->d + at / 32 * TILE_ROWS + row, group.d);
    if (kind == Q4_K) vst1q_f32(tile->d_min + at / 32 * TILE_ROWS + row, group.d_min);
    UNROLL for (uint32_t h = 0; h < 2 && kind == Q2_K; h++) {
        size_t place = (at / 16 + h) * TILE_ROWS + row;
        vst1_s16(tile->scales16 + place, vreinterpret_s16_u16(vmovn_u32(group.scale[h])));
        vst1_s16(tile->mins16 + place, vreinterpret_s16_u16(vmovn_u32(group.min[h])));
    }
}
INLINE void unpack_kind(enum kind kind, const uint8_t *const *from, const struct tile *tile, uint32_t row_i)
{
    for (uint32_t row = row_i; row < row_i + LANES; row += PANEL, from += PANEL) {
        struct rows rows = {{from[0], from[1], from[2], from[3]}};
        for (uint32_t at = 0; at < tile->n_in; at += block_values(kind)) {
            struct block block = block_at(kind, &rows);
            for (uint32_t i = 0; i < block_values(kind) / 32; i += together(kind, 0))
                UNROLL for (uint32_t j = 0; j < together(kind, 0); j++)
                    unpack_group(kind, &rows, &block, i + j, tile, at + 32 * (i + j), row);
            if (kind == Q2_K) {
                vst1q_f32(tile->d + at / 256 * TILE_ROWS + row, block.d);
                vst1q_f32(tile->d_min + at / 256 * TILE_ROWS + row, block.d_min);
            }
            UNROLL for (uint32_t r = 0; r < 4; r++) rows.at[r] += block_bytes(kind);
        }
    }
}

INLINE void gemm_group(enum kind kind, const struct tile *tile, uint32_t row, uint32_t at, const struct gemm_col *cols,
                       uint32_t n_cols, struct sums *sums)
{
    const int8_t *from = (const int8_t *)tile->q8 + (size_t)row * tile->n_in + at / 32 * PANEL_BYTES;
    int8x16_t v[8] UNINITIALISED;
    struct group group UNINITIALISED;
    UNROLL for (uint32_t k = 0; k < 8; k++) v[k] = vld1q_s8(from + 16 * k);
    if (kind != Q2_K) group.d = vld1q_f32(tile->d + at / 32 * TILE_ROWS + row);
    if (kind == Q4_K) group.d_min = vld1q_f32(tile->d_min + at / 32 * TILE_ROWS + row);
    UNROLL for (uint32_t h = 0; h < 2 && kind == Q2_K; h++) {
        size_t place = (at / 16 + h) * TILE_ROWS + row;
        group.scale[h] = vreinterpretq_u32_s32(vmovl_s16(vld1_s16(tile->scales16 + place)));
        group.min[h] = vreinterpretq_u32_s32(vmovl_s16(vld1_s16(tile->mins16 + place)));
    }
    add_panel(kind, STORED, v, &group, cols, n_cols, tile->from + at, sums);
}

/* One panel by n_cols inputs. */
INLINE void gemm_panel(enum kind kind, const struct tile *tile, uint32_t row, const struct gemm_col *cols,
                       uint32_t n_cols, float *rest, bool last)
{
    struct sums sums[COLS] UNINITIALISED;
    UNROLL for (uint32_t c = 0; c < n_cols; c++)
        sums[c] = sums_from(tile->from == 0 ? vdupq_n_f32(0) : vld1q_f32(rest + c * TILE_ROWS + row));
    for (uint32_t at = 0; at < tile->n_in; at += 32) {
        gemm_group(kind, tile, row, at, cols, n_cols, sums);
        if (kind == Q2_K && at % 256 == 224) {
            size_t place = at / 256 * TILE_ROWS + row;
            add_block(vld1q_f32(tile->d + place), vld1q_f32(tile->d_min + place), n_cols, sums);
        }
    }
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        if (last) store_some(cols[c].y + row, tile->n_rows - row, vmulq_n_f32(sums[c].sum, cols[c].x.d));
        else vst1q_f32(rest + c * TILE_ROWS + row, sums[c].sum);
    }
}
INLINE void gemm_kind(enum kind kind, const struct tile *tile, const struct gemm_col *cols, uint32_t n_cols, bool last)
{
    for (uint32_t c = 0, n; c < n_cols; c += n) {
        float *rest = tile->sums + (size_t)c * TILE_ROWS;
        n = n_cols - c < COLS ? n_cols - c < 2 ? 1 : 2 : COLS;
        for (uint32_t row = 0; row < tile->n_rows; row += PANEL) {
            if (n == COLS) gemm_panel(kind, tile, row, cols + c, COLS, rest, last);
            else if (n == 2) gemm_panel(kind, tile, row, cols + c, 2, rest, last);
            else gemm_panel(kind, tile, row, cols + c, 1, rest, last);
        }
    }
}

/* Up to dot_cols inputs weights are decoded anew for every four: twice at most, where that is next to nothing. */
#define INTEGER_FORMAT(name, kind, form, group, min_group, dot_cols) \
    DOT_FUNCTIONS(name, dots_kind, dots_some, kind) \
    static void unpack_##name(const uint8_t *const *rows, const struct tile *tile, uint32_t row_i) \
    { \
        unpack_kind(kind, rows, tile, row_i); \
    } \
    static void gemm_##name(const struct tile *tile, const struct gemm_col *cols, uint32_t n_cols, bool last) \
    { \
        gemm_kind(kind, tile, cols, n_cols, last); \
    } \
    static const struct lanes_kernels lanes_##name = {TILE_ROWS, LANES_PIECE, unpack_##name, \
                                                      gemm_##name}; \
    static const struct format_kernels name = {form, group, min_group, dot_cols, dot_##name, dots_##name, NULL, \
                                               &lanes_##name};

INTEGER_FORMAT(q8_0, Q8_0, INPUT_FINE, 32, 0, 8)
INTEGER_FORMAT(mxfp4, MXFP4, INPUT_FINE, 32, 0, 4)
INTEGER_FORMAT(q4_k, Q4_K, INPUT_FINE, 32, 32, 4)
INTEGER_FORMAT(q2_k, Q2_K, INPUT_COARSE, 256, 16, 4)
INTEGER_FORMAT(iq2_xxs, IQ2_XXS, INPUT_COARSE, 32, 0, 4)

#endif
