/* kernels_scalar.c - the portable variant: every weight is unpacked to float by its decoder and multiplied in chains of
 * eight lanes, which a compiler can map to whatever vectors there are. Also the plain version of every kernel. */
#include <math.h>
#include <string.h>

#include "ops/cpu/kernels.h"
#include "ops/rows.h"

static bool supported(void) { return true; }

static const struct format_kernels *format(uint32_t type)
{
    (void)type;
    return NULL;
}

static void quantise(enum input_form form, const float *x, uint32_t n_in, uint8_t *record)
{
    (void)form; /* only float inputs are asked for */
    (void)x;
    (void)n_in;
    (void)record;
}

static float sum_lanes(const float *l)
{
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

static float dot(const float *a, const float *b, uint32_t n)
{
    float lanes[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t j = 0; j < LANES; j++) lanes[j] += a[i + j] * b[i + j];
    for (uint32_t j = 0; i + j < n; j++) lanes[j] += a[i + j] * b[i + j];
    return sum_lanes(lanes);
}

/* Adds the products of a tile's row and a vector to the lanes of their sum; the rest of the tile's row is zero. */
static void add_products(const float *row, const float *x, uint32_t n, float *lanes)
{
    for (uint32_t i = 0; i < n; i += LANES, row += TILE_F32_STEP)
        for (uint32_t j = 0; j < LANES && i + j < n; j++) lanes[j] += row[j] * x[i + j];
}

static void gemm(const struct format_kernels *kernels, const struct tile *tile, const struct gemm_col *cols,
                 uint32_t n_cols, bool last)
{
    (void)kernels;
    for (uint32_t c = 0; c < n_cols; c++)
        for (uint32_t r = 0; r < tile->n_rows; r++) {
            float *lanes = tile->sums + ((size_t)c * TILE_ROWS + r) * LANES;
            if (tile->from == 0) memset(lanes, 0, LANES * sizeof *lanes);
            add_products(tile_f32(tile, r), cols[c].x.f32 + tile->from, tile->n_in, lanes);
            if (last) cols[c].y[r] = sum_lanes(lanes);
        }
}

static float sum_squares(const float *x, uint32_t n) { return dot(x, x, n); }

static void scale(const float *x, const float *weight, float factor, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) y[i] = weight ? x[i] * factor * weight[i] : x[i] * factor;
}

static void swiglu(const float *a, const float *b, float limit, float weight, size_t n, float *m)
{
    for (size_t i = 0; i < n; i++) {
        float gate = a[i] > limit ? limit : a[i], up = b[i] > limit ? limit : b[i] < -limit ? -limit : b[i];
        m[i] = gate / (1.0f + expf(-gate)) * up * weight;
    }
}

static void mix(const float *x, const float *w, uint32_t n_hc, uint32_t n_embd, float *u)
{
    for (uint32_t d = 0; d < n_embd; d++) u[d] = w[0] * x[d];
    for (uint32_t j = 1; j < n_hc; j++)
        for (uint32_t d = 0; d < n_embd; d++) u[d] += w[j] * x[(size_t)j * n_embd + d];
}

static void expand(float *x, const float *y, const float *post, const float *comb, uint32_t n_hc, uint32_t n_embd)
{
    for (uint32_t d = 0; d < n_embd; d++) {
        float old[16];
        for (uint32_t j = 0; j < n_hc; j++) old[j] = x[(size_t)j * n_embd + d];
        for (uint32_t k = 0; k < n_hc; k++) {
            float sum = post[k] * y[d];
            for (uint32_t j = 0; j < n_hc; j++) sum += comb[j * n_hc + k] * old[j];
            x[(size_t)k * n_embd + d] = sum;
        }
    }
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
        for (uint32_t d = 0; d < dim; d++) head->o[d] *= back;
        for (uint32_t i = 0; i < n; i++) {
            float p = expf(s[i] - max);
            head->total += p;
            for (uint32_t d = 0; d < dim; d++) head->o[d] += p * rows[(size_t)i * dim + d];
        }
    }
}

static void pool(const float *const *k, const float *const *g, uint32_t n, uint32_t dim, float *out)
{
    for (uint32_t d = 0; d < dim; d++) {
        float max = g[0][d], total = 0, sum = 0;
        for (uint32_t i = 1; i < n; i++) max = g[i][d] > max ? g[i][d] : max;
        for (uint32_t i = 0; i < n; i++) {
            float w = expf(g[i][d] - max);
            total += w;
            sum += w * k[i][d];
        }
        out[d] = sum / total;
    }
}

static bool index_prepare(const float *q, const float *w, uint32_t n_heads, uint32_t dim, uint8_t *prepared)
{
    (void)q;
    (void)w;
    (void)n_heads;
    (void)dim;
    (void)prepared;
    return false; /* floats it is */
}

static void index_scores(const uint8_t *prepared, uint32_t n_heads, uint32_t dim, const uint8_t *rows,
                         size_t row_bytes, uint32_t n, float factor, float *scores)
{
    (void)prepared;
    (void)n_heads;
    (void)dim;
    (void)rows;
    (void)row_bytes;
    (void)factor;
    memset(scores, 0, n * sizeof *scores);
}

const struct cpu_kernels cpu_kernels_scalar = {
    .name = "scalar",
    .supported = supported,
    .format = format,
    .quantise = quantise,
    .gemm = gemm,
    .sum_squares = sum_squares,
    .scale = scale,
    .swiglu = swiglu,
    .mix = mix,
    .expand = expand,
    .kv_unpack = kv_row_unpack,
    .attend = attend,
    .pool = pool,
    .hadamard = hadamard,
    .index_prepare = index_prepare,
    .index_scores = index_scores,
    .index_heads_step = 1,
};
