/* dot_float_neon.c - products with float weights (F32, F16, BF16): one chain of 8-lane multiply-adds for each output,
 * whether the weights are read as they are or from a tile. A rest of fewer than 8 is padded with zeros. Products of
 * BF16 pairs in one instruction round differently and round the inputs, too, so they are not used. */
#if defined(__aarch64__)
#include "ops/cpu/neon.h"

#define ROWS 4u
#define DOT_COLS 8u /* up to here the weights are read as they are (not measured) */

enum float_kind { KIND_F32, KIND_F16, KIND_BF16 };

INLINE uint32_t kind_bytes(enum float_kind kind) { return kind == KIND_F32 ? 4 : 2; }

INLINE struct lanes load_weights(enum float_kind kind, const uint8_t *w)
{
    if (kind == KIND_F32)
        return (struct lanes){vreinterpretq_f32_u8(vld1q_u8(w)), vreinterpretq_f32_u8(vld1q_u8(w + 16))};
    uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(w));
    if (kind == KIND_F16) {
        float16x8_t halves = vreinterpretq_f16_u16(v);
        return (struct lanes){vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
    }
    return (struct lanes){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)),
                          vreinterpretq_f32_u32(vshll_high_n_u16(v, 16))};
}

/* The first n < 8 values, zeros after. */
static struct lanes load_weights_rest(enum float_kind kind, const uint8_t *w, uint32_t n)
{
    uint8_t bytes[32] = {0};
    memcpy(bytes, w, n * kind_bytes(kind));
    return load_weights(kind, bytes);
}
static struct lanes load_rest(const float *p, uint32_t n)
{
    float values[8] = {0};
    memcpy(values, p, n * sizeof *p);
    return load8(values);
}

/* Adds the products of 8 inner elements, or of n < 8, and steps on. */
INLINE void add_eight(enum float_kind kind, bool whole, uint32_t n, const uint8_t **w, uint32_t n_rows, const float **x,
                      uint32_t n_cols, struct lanes (*sum)[2])
{
    struct lanes v[2];
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        v[c] = whole ? load8(x[c]) : load_rest(x[c], n);
        x[c] += 8;
    }
    UNROLL for (uint32_t r = 0; r < n_rows; r++) {
        struct lanes weights = whole ? load_weights(kind, w[r]) : load_weights_rest(kind, w[r], n);
        w[r] += 8 * kind_bytes(kind);
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = add_product(sum[r][c], weights, v[c]);
    }
}

/* Up to 4 rows by 1 input or 2. The rows lie `stride` bytes apart, their results y_step. */
INLINE void dot_rows(enum float_kind kind, const uint8_t *w, size_t stride, uint32_t n_rows, uint32_t n_in,
                     const struct gemm_col *cols, uint32_t n_cols, uint32_t row, uint32_t y_step)
{
    struct lanes sum[ROWS][2];
    const uint8_t *rows[ROWS];
    const float *x[2];
    uint32_t i = 0;
    UNROLL for (uint32_t c = 0; c < n_cols; c++) x[c] = cols[c].x.f32;
    UNROLL for (uint32_t r = 0; r < n_rows; r++) {
        rows[r] = w + r * stride;
        UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = all8(0);
    }
    for (; i + 8 <= n_in; i += 8) add_eight(kind, true, 8, rows, n_rows, x, n_cols, sum);
    if (i < n_in) add_eight(kind, false, n_in - i, rows, n_rows, x, n_cols, sum);
    UNROLL for (uint32_t r = 0; r < n_rows; r++)
        UNROLL for (uint32_t c = 0; c < n_cols; c++) cols[c].y[row + r * y_step] = sum_lanes(sum[r][c]);
}

INLINE void dots_kind(enum float_kind kind, const uint8_t *w, size_t row_bytes, uint32_t n_rows, uint32_t n_in,
                      const struct gemm_col *cols, uint32_t n_cols)
{
    uint32_t n = n_rows / ROWS;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = 0; c < n_cols; c += 2) {
            if (c + 2 <= n_cols) dot_rows(kind, w + i * row_bytes, n * row_bytes, ROWS, n_in, cols + c, 2, i, n);
            else dot_rows(kind, w + i * row_bytes, n * row_bytes, ROWS, n_in, cols + c, 1, i, n);
        }
    for (uint32_t r = ROWS * n; r < n_rows; r++)
        for (uint32_t c = 0; c < n_cols; c++)
            dot_rows(kind, w + r * row_bytes, row_bytes, 1, n_in, cols + c, 1, r, 1);
}

INLINE void unpack_kind(enum float_kind kind, const uint8_t *w, const struct tile *tile, uint32_t row_i)
{
    float *to = tile_f32(tile, row_i);
    uint32_t n = tile->n_in;
    for (; n >= 8; n -= 8, to += TILE_F32_STEP, w += 8 * kind_bytes(kind)) store8(to, load_weights(kind, w));
    if (n) store8(to, load_weights_rest(kind, w, n));
}

#define FLOAT_FORMAT(name, kind) \
    DOT_FUNCTIONS(name, dots_kind, dots_kind, kind) \
    static void unpack_##name(const uint8_t *w, const struct tile *tile, uint32_t row_i) \
    { \
        unpack_kind(kind, w, tile, row_i); \
    } \
    const struct format_kernels neon_##name = {INPUT_FLOAT, 0, 0, DOT_COLS, dot_##name, dots_##name, unpack_##name, \
                                               NULL};

FLOAT_FORMAT(f32, KIND_F32)
FLOAT_FORMAT(f16, KIND_F16)
FLOAT_FORMAT(bf16, KIND_BF16)

/* ---- tiles ---- */

/* One panel by one or two columns. */
INLINE void block(const struct tile *tile, uint32_t row, const struct gemm_col *cols, uint32_t n_cols,
                  struct lanes *const *sums)
{
    const float *w = tile_f32(tile, row), *x[2];
    struct lanes sum[PANEL][2];
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        x[c] = cols[c].x.f32 + tile->from;
        UNROLL for (uint32_t r = 0; r < PANEL; r++) sum[r][c] = tile->from == 0 ? all8(0) : sums[c][r];
    }
    for (uint32_t i = 0; i < tile->n_in; i += 8, w += TILE_F32_STEP) {
        struct lanes v[2];
        UNROLL for (uint32_t c = 0; c < n_cols; c++)
            v[c] = i + 8 <= tile->n_in ? load8(x[c] + i) : load_rest(x[c] + i, tile->n_in - i);
        UNROLL for (uint32_t r = 0; r < PANEL; r++) {
            struct lanes weights = load8(w + 8 * r);
            UNROLL for (uint32_t c = 0; c < n_cols; c++) sum[r][c] = add_product(sum[r][c], weights, v[c]);
        }
    }
    UNROLL for (uint32_t c = 0; c < n_cols; c++)
        UNROLL for (uint32_t r = 0; r < PANEL; r++) sums[c][r] = sum[r][c];
}

void neon_gemm(const struct format_kernels *format, const struct tile *tile, const struct gemm_col *cols,
               uint32_t n_cols, bool last)
{
    (void)format; /* those of integers have rows in lanes, and their own gemm */
    struct lanes *all = (struct lanes *)(void *)tile->sums; /* [n_cols][TILE_ROWS] */
    for (uint32_t c = 0, n; c < n_cols; c += n) {
        n = n_cols - c < 2 ? 1 : 2;
        for (uint32_t row = 0; row < tile->n_rows; row += PANEL) {
            struct lanes *first = all + (size_t)c * TILE_ROWS + row;
            struct lanes *const sums[2] = {first, first + (n - 1) * TILE_ROWS};
            if (n == 2) block(tile, row, cols + c, 2, sums);
            else block(tile, row, cols + c, 1, sums);
            for (uint32_t j = 0; j < n && last; j++)
                for (uint32_t r = 0; r < PANEL && row + r < tile->n_rows; r++)
                    cols[c + j].y[row + r] = sum_lanes(sums[j][r]);
        }
    }
}

#endif
