/* kernels_neon.c - the table of the NEON variant: products of float tiles, norms, streams and attention in vectors of
 * four. Eight lanes are two vectors, added up in the one fixed order. Weights of formats without integer kernels
 * (formats_neon.c) are unpacked to float by their decoders; what else is not here is the portable variant's. */
#if defined(__aarch64__)
#include <math.h>

#include "ops/cpu/neon.h"
#include "quant/quant.h"

/* The n < 8 leading values, zeros after. */
INLINE struct lanes load_rest(const float *p, uint32_t n)
{
    float values[8] = {0};
    for (uint32_t i = 0; i < n; i++) values[i] = p[i];
    return load8(values);
}

static bool supported(void) { return true; } /* part of every 64-bit ARM */

static const struct format_kernels *format(uint32_t type)
{
    switch (type) {
    case QUANT_Q8_0: return &neon_q8_0;
    case QUANT_MXFP4: return &neon_mxfp4;
    case QUANT_Q4_K: return &neon_q4_k;
    case QUANT_Q2_K: return &neon_q2_k;
    case QUANT_IQ2_XXS: return &neon_iq2_xxs;
    default: return NULL; /* floats */
    }
}

/* One panel by one or two columns. */
INLINE void block(const struct tile *tile, uint32_t row, const struct gemm_col *cols, uint32_t n_cols,
                  struct lanes *const *sums)
{
    const float *w = tile_f32(tile, row), *x[2];
    struct lanes sum[PANEL][2];
    uint32_t i = 0;
    UNROLL for (uint32_t c = 0; c < n_cols; c++) {
        x[c] = cols[c].x.f32 + tile->from;
        UNROLL for (uint32_t r = 0; r < PANEL; r++) sum[r][c] = tile->from == 0 ? all8(0) : sums[c][r];
    }
    for (; i < tile->n_in; i += 8, w += TILE_F32_STEP) {
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

static void gemm(const struct format_kernels *kernels, const struct tile *tile, const struct gemm_col *cols,
                 uint32_t n_cols, bool last)
{
    if (kernels) {
        neon_gemm_ints(kernels, tile, cols, n_cols, last);
        return;
    }
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

static float dot(const float *a, const float *b, uint32_t n)
{
    struct lanes sum = all8(0);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) sum = add_product(sum, load8(a + i), load8(b + i));
    if (i < n) sum = add_product(sum, load_rest(a + i, n - i), load_rest(b + i, n - i));
    return sum_lanes(sum);
}
static float sum_squares(const float *x, uint32_t n) { return dot(x, x, n); }

/* y = y back + w x */
static void add_scaled(float *y, float back, float w, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t v = vmulq_n_f32(vld1q_f32(y + i), back);
        vst1q_f32(y + i, vfmaq_n_f32(v, vld1q_f32(x + i), w));
    }
    for (; i < n; i++) y[i] = fmaf(w, x[i], y[i] * back);
}

static void scale(const float *x, const float *weight, float factor, uint32_t n, float *y)
{
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t v = vmulq_n_f32(vld1q_f32(x + i), factor);
        vst1q_f32(y + i, weight ? vmulq_f32(v, vld1q_f32(weight + i)) : v);
    }
    for (; i < n; i++) y[i] = weight ? x[i] * factor * weight[i] : x[i] * factor;
}

static void swiglu(const float *a, const float *b, float limit, float weight, size_t n, float *m)
{
    cpu_kernels_scalar.swiglu(a, b, limit, weight, n, m);
}

static void mix(const float *x, const float *w, uint32_t n_hc, uint32_t n_embd, float *u)
{
    for (uint32_t d = 0; d < n_embd; d++) u[d] = 0;
    for (uint32_t j = 0; j < n_hc; j++) add_scaled(u, 1.0f, w[j], x + (size_t)j * n_embd, n_embd);
}

static void expand(float *x, const float *y, const float *post, const float *comb, uint32_t n_hc, uint32_t n_embd)
{
    cpu_kernels_scalar.expand(x, y, post, comb, n_hc, n_embd);
}
static void kv_unpack(const uint8_t *packed, uint32_t dim, uint32_t n_rope, float *row)
{
    cpu_kernels_scalar.kv_unpack(packed, dim, n_rope, row);
}

static void attend(struct attention_head *heads, uint32_t n_heads, const float *rows, uint32_t n, uint32_t dim,
                   float factor, float *scores, size_t stride)
{
    for (uint32_t h = 0; h < n_heads; h++) {
        struct attention_head *head = &heads[h];
        float *s = scores + h * stride, max = head->max;
        for (uint32_t i = 0; i < n; i++) {
            s[i] = dot(head->q, rows + (size_t)i * dim, dim) * factor;
            max = s[i] > max ? s[i] : max;
        }
        float back = expf(head->max - max);
        head->max = max;
        head->total *= back;
        for (uint32_t i = 0; i < n; i++, back = 1.0f) {
            float p = expf(s[i] - max);
            head->total += p;
            add_scaled(head->o, back, p, rows + (size_t)i * dim, dim);
        }
    }
}

static void pool(const float *const *k, const float *const *g, uint32_t n, uint32_t dim, float *out)
{
    cpu_kernels_scalar.pool(k, g, n, dim, out);
}
static void hadamard_of(float *x, uint32_t n) { cpu_kernels_scalar.hadamard(x, n); }
static bool index_prepare(const float *q, const float *w, uint32_t n_heads, uint32_t dim, uint8_t *prepared)
{
    return cpu_kernels_scalar.index_prepare(q, w, n_heads, dim, prepared);
}
static void index_scores(const uint8_t *prepared, uint32_t n_heads, uint32_t dim, const uint8_t *rows,
                         size_t row_bytes, uint32_t n, float factor, float *scores)
{
    cpu_kernels_scalar.index_scores(prepared, n_heads, dim, rows, row_bytes, n, factor, scores);
}

const struct cpu_kernels cpu_kernels_neon = {
    .name = "neon",
    .supported = supported,
    .format = format,
    .quantise = neon_quantise,
    .gemm = gemm,
    .sum_squares = sum_squares,
    .scale = scale,
    .swiglu = swiglu,
    .mix = mix,
    .expand = expand,
    .kv_unpack = kv_unpack,
    .attend = attend,
    .pool = pool,
    .hadamard = hadamard_of,
    .index_prepare = index_prepare,
    .index_scores = index_scores,
    .index_heads_step = 1,
};

#endif
