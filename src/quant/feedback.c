/* feedback.c - factors of the calibration rows. See feedback.h; feedback_code.c codes blocks under them. */
#include "quant/feedback.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "quant/encode.h"

#define B FEEDBACK_BLOCK
#define RUN FEEDBACK_RUN
#define TILE 64u

enum ds4_status feedback_create(size_t n, struct feedback *out, struct ds4_error *error)
{
    *out = (struct feedback){.n = n, .t = mem_alloc(n, n * sizeof(float)), .d = mem_alloc(n, sizeof(float)),
                             .m = mem_alloc(n, B * sizeof(float)), .run_d = mem_alloc(n, sizeof(float)),
                             .run_t = mem_alloc(n, RUN * sizeof(float))};
    if (out->t && out->d && out->m && out->run_d && out->run_t) return DS4_OK;
    feedback_destroy(out);
    return err_set(error, DS4_ERR_NOMEM, "no memory for products of %zu columns", n);
}

void feedback_destroy(struct feedback *f)
{
    mem_free(f->t);
    mem_free(f->d);
    mem_free(f->m);
    mem_free(f->run_d);
    mem_free(f->run_t);
    *f = (struct feedback){0};
}

/* ---- factors ------------------------------------------------------------------------------------------------ */

/* A Cholesky decomposition in tiles, but from the last column to the first, which makes R upper triangular. */
struct factoring {
    struct feedback *f;
    struct feedback_ops ops;
    const float *rows;
    size_t m_rows, at; /* at: column of the panel */
    float *panel;      /* [TILE][n] the panel transposed */
};

/* One tile row of H, from its diagonal on. */
static void multiply_rows(void *arg, uint32_t task_i, uint32_t worker_i)
{
    const struct factoring *x = arg;
    size_t n = x->f->n, i0 = (size_t)task_i * TILE;
    (void)worker_i;
    for (size_t i = i0; i < i0 + TILE; i++) memset(x->f->t + i * n + i0, 0, (n - i0) * sizeof(float));
    for (size_t j = i0; j < n; j += TILE) {
        struct feedback_product p = {.c = x->f->t + i0 * n + j, .c_i = n, .a = x->rows + i0, .a_k = n, .a_i = 1,
                                     .b = x->rows + j, .b_k = n, .n_i = TILE, .n_k = x->m_rows, .n_j = TILE, .sign = 1};
        x->ops.product(&p);
    }
}

/* R of the diagonal tile at column `at`: columns from the last to the first. False: not positive. */
static bool factor_tile(const struct factoring *x)
{
    size_t n = x->f->n;
    float *t = x->f->t;
    for (size_t c = x->at + TILE; c-- > x->at;) {
        float pivot = t[c * n + c];
        for (size_t k = c + 1; k < x->at + TILE; k++) pivot -= t[c * n + k] * t[c * n + k];
        if (!(pivot > 0) || !isfinite(pivot)) return false;
        float root = sqrtf(pivot);
        t[c * n + c] = root;
        for (size_t r = x->at; r < c; r++) {
            float v = t[r * n + c];
            for (size_t k = c + 1; k < x->at + TILE; k++) v -= t[r * n + k] * t[c * n + k];
            t[r * n + c] = v / root;
        }
    }
    return true;
}

/* Rows of one tile above the diagonal tile: solved for R, and their transposed copy. */
static void solve_panel(void *arg, uint32_t task_i, uint32_t worker_i)
{
    const struct factoring *x = arg;
    size_t n = x->f->n;
    float *t = x->f->t;
    (void)worker_i;
    for (size_t r = (size_t)task_i * TILE; r < ((size_t)task_i + 1) * TILE; r++)
        for (size_t c = x->at + TILE; c-- > x->at;) {
            float v = t[r * n + c];
            for (size_t k = c + 1; k < x->at + TILE; k++) v -= t[r * n + k] * t[c * n + k];
            t[r * n + c] = v /= t[c * n + c];
            x->panel[(c - x->at) * n + r] = v;
        }
}

/* One tile row of what is left: minus the panel's products. */
static void subtract_panel(void *arg, uint32_t task_i, uint32_t worker_i)
{
    const struct factoring *x = arg;
    size_t n = x->f->n, i0 = (size_t)task_i * TILE;
    (void)worker_i;
    struct feedback_product p = {.c = x->f->t + i0 * n + i0, .c_i = n, .a = x->panel + i0, .a_k = n, .a_i = 1,
                                 .b = x->panel + i0, .b_k = n, .n_i = TILE, .n_k = TILE, .n_j = x->at - i0, .sign = -1};
    x->ops.product(&p);
}

static bool factor(struct factoring *x, struct thread_pool *pool)
{
    for (size_t at = x->f->n; at > 0; at -= TILE) {
        x->at = at - TILE;
        if (!factor_tile(x)) return false;
        if (x->at == 0) return true;
        thread_pool_run(pool, solve_panel, x, (uint32_t)(x->at / TILE));
        thread_pool_run(pool, subtract_panel, x, (uint32_t)(x->at / TILE));
    }
    return true;
}

/* m of one block, and the factors of its runs. */
static void describe_block(void *arg, uint32_t task_i, uint32_t worker_i)
{
    const struct factoring *x = arg;
    struct feedback *f = x->f;
    size_t n = f->n, first = (size_t)task_i * B;
    float *m = f->m + (size_t)task_i * B * B, row[B];
    (void)worker_i;
    for (size_t i = 0; i < B; i++) {
        const float *ti = f->t + (first + i) * n + first;
        size_t from = i / RUN * RUN; /* what lies there below the diagonal is multiplied by zero */
        for (size_t c = 0; c < B; c++) row[c] = c < i ? 0 : f->d[first + c] * ti[c];
        for (size_t j = 0; j <= i; j++)
            m[i * B + j] = m[j * B + i] = x->ops.dot(row + from, f->t + (first + j) * n + first + from, B - from);
    }
    for (size_t r = 0; r < B; r += RUN) { /* m of the run = T D T^T, T unit upper triangular */
        float *t = f->run_t + (first + r) * RUN, *d = f->run_d + first + r;
        for (size_t c = RUN; c-- > 0;) {
            float sum = m[(r + c) * B + r + c];
            for (size_t k = c + 1; k < RUN; k++) sum -= d[k] * t[c * RUN + k] * t[c * RUN + k];
            d[c] = sum > 1e-12f ? sum : 1e-12f;
            for (size_t i = 0; i < RUN; i++) {
                float v = m[(r + i) * B + r + c];
                for (size_t k = c + 1; k < RUN; k++) v -= d[k] * t[i * RUN + k] * t[c * RUN + k];
                t[i * RUN + c] = i < c ? v / d[c] : i == c;
            }
        }
    }
}

bool feedback_prepare(struct feedback *f, const float *rows, size_t m_rows, float damp, struct thread_pool *pool)
{
    size_t n = f->n;
    struct factoring x = {.f = f, .ops = encode_feedback_ops(), .rows = rows, .m_rows = m_rows};
    thread_pool_run(pool, multiply_rows, &x, (uint32_t)(n / TILE));
    double trace = 0;
    for (size_t c = 0; c < n; c++) trace += (double)f->t[c * n + c];
    float mean = (float)(trace / (double)n);
    if (!(mean > 0) || !isfinite(mean)) return false;
    /* Products of different columns are as uncertain as rows are few: they shrink. The mean square becomes 1. */
    float shrink = (float)((double)m_rows / ((double)m_rows + 0.1 * (double)n));
    for (size_t r = 0; r < n; r++)
        for (size_t c = r; c < n; c++)
            f->t[r * n + c] = f->t[r * n + c] / mean * (r == c ? 1 : shrink) + (r == c ? damp : 0);
    x.panel = mem_alloc(n, TILE * sizeof(float));
    bool good = x.panel && factor(&x, pool);
    mem_free(x.panel);
    if (!good) return false;
    for (size_t c = 0; c < n; c++) f->d[c] = f->t[c * n + c] * f->t[c * n + c];
    for (size_t r = 0; r < n; r++)
        for (size_t c = r + 1; c < n; c++) f->t[r * n + c] /= f->t[c * n + c];
    for (size_t c = 0; c < n; c++) f->t[c * n + c] = 1;
    thread_pool_run(pool, describe_block, &x, (uint32_t)(n / B));
    return true;
}
