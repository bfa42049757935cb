/* gemm_neon.c - unpacked weight rows of integer groups times input rows: four weight rows by up to two inputs. The
 * products of a group are summed exactly in eight lanes, then sum = fma(float(lanes), d_w, sum); minima follow their
 * group; the scale of the input row comes last. Between pieces of the inner dimension the sums rest in memory. */
#if defined(__aarch64__)
#include "ops/cpu/neon.h"

struct totals { int32x4_t low, high; };

INLINE struct totals add_16(struct totals t, int16x8_t w0, int16x8_t w1, int16x8_t x0, int16x8_t x1)
{
    t.low = vmlal_s16(vmlal_s16(t.low, vget_low_s16(w0), vget_low_s16(x0)), vget_low_s16(w1), vget_low_s16(x1));
    t.high = vmlal_high_s16(vmlal_high_s16(t.high, w0, x0), w1, x1);
    return t;
}
INLINE struct lanes to_floats(struct totals t) { return (struct lanes){vcvtq_f32_s32(t.low), vcvtq_f32_s32(t.high)}; }

/* Takes off what the minima of one group, of 256, come to. */
INLINE struct lanes subtract_minima(const struct tile *tile, uint32_t row, uint32_t at, float d_min,
                                    const struct input *x, uint32_t min_group, struct lanes sum)
{
    size_t place = row * tile->mins_stride + at / min_group, from = (tile->from + at) / min_group;
    if (min_group == 32) return subtract_product(sum, load8(tile->mins + place), load8(x->sums + from));
    const int16_t *m = tile->mins16 + place, *s = x->t_sums + from;
    struct totals t = {vdupq_n_s32(0), vdupq_n_s32(0)};
    t = add_16(t, vld1q_s16(m), vld1q_s16(m + 8), vld1q_s16(s), vld1q_s16(s + 8));
    return subtract_product(sum, to_floats(t), all8(d_min));
}

/* A panel by n_cols inputs; sums [columns][TILE_ROWS]. */
INLINE void panel_ints(const struct tile *tile, uint32_t row, const struct gemm_col *cols, uint32_t n_cols,
                       struct lanes *sums, uint32_t group, uint32_t min_group)
{
    const int16_t *w = tile_q16(tile, row);
    const float *scales = tile_d(tile, row);
    struct lanes sum[PANEL][2];
    UNROLL for (uint32_t r = 0; r < PANEL; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = tile->from == 0 ? all8(0) : sums[c * TILE_ROWS + r];
    for (uint32_t at = 0; at < tile->n_in; at += group, scales += PANEL) {
        struct totals total[PANEL][2];
        UNROLL for (uint32_t r = 0; r < PANEL; r++)
            UNROLL for (uint32_t c = 0; c < n_cols; c++)
                total[r][c] = (struct totals){vdupq_n_s32(0), vdupq_n_s32(0)};
        for (uint32_t i = at; i < at + group; i += 16, w += TILE_Q16_STEP) {
            int16x8_t x[2][2];
            UNROLL for (uint32_t c = 0; c < n_cols; c++)
                UNROLL for (uint32_t h = 0; h < 2; h++) x[c][h] = vld1q_s16(cols[c].x.q16 + tile->from + i + 8 * h);
            UNROLL for (uint32_t r = 0; r < PANEL; r++) {
                int16x8_t w0 = vld1q_s16(w + 16 * r), w1 = vld1q_s16(w + 16 * r + 8);
                UNROLL for (uint32_t c = 0; c < n_cols; c++)
                    total[r][c] = add_16(total[r][c], w0, w1, x[c][0], x[c][1]);
            }
        }
        UNROLL for (uint32_t r = 0; r < PANEL; r++)
            UNROLL for (uint32_t c = 0; c < n_cols; c++) {
                sum[r][c] = add_product(sum[r][c], to_floats(total[r][c]), all8(scales[r]));
                float d_min = min_group == 16 ? scales[r + (tile->d_min - tile->d)] : 0;
                if (min_group)
                    sum[r][c] = subtract_minima(tile, row + r, at, d_min, &cols[c].x, min_group, sum[r][c]);
            }
    }
    UNROLL for (uint32_t r = 0; r < PANEL; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sums[c * TILE_ROWS + r] = sum[r][c];
}

INLINE void panel_of(const struct format_kernels *format, const struct tile *tile, uint32_t row,
                     const struct gemm_col *cols, uint32_t n_cols, struct lanes *sums)
{
    if (format->group == 32) panel_ints(tile, row, cols, n_cols, sums, 32, 0);
    else if (format->min_group == 32) panel_ints(tile, row, cols, n_cols, sums, 256, 32);
    else if (format->min_group == 16) panel_ints(tile, row, cols, n_cols, sums, 256, 16);
    else panel_ints(tile, row, cols, n_cols, sums, 256, 0);
}

void neon_gemm_ints(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
                    uint32_t n_cols, bool last)
{
    struct lanes *all = (struct lanes *)(void *)tile->sums; /* [n_cols][TILE_ROWS] */
    for (uint32_t c = 0, n; c < n_cols; c += n) {
        n = n_cols - c < 2 ? 1 : 2;
        for (uint32_t row = 0; row < tile->n_rows; row += PANEL) {
            struct lanes *sums = all + (size_t)c * TILE_ROWS + row;
            if (n == 2) panel_of(format, tile, row, cols + c, 2, sums);
            else panel_of(format, tile, row, cols + c, 1, sums);
            for (uint32_t j = 0; j < n && last; j++)
                for (uint32_t r = 0; r < PANEL && row + r < tile->n_rows; r++)
                    cols[c + j].y[row + r] = sum_lanes(sums[j * TILE_ROWS + r]) * cols[c + j].x.d;
        }
    }
}

#endif
