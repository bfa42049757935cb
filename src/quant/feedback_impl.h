/* feedback_impl.h - the inner loops of feedback.c. Included by encode_plain.c and encode_avx2.c, which give VARIANT. */
#ifndef DS4_QUANT_FEEDBACK_IMPL_H
#define DS4_QUANT_FEEDBACK_IMPL_H

#include "quant/encode.h"
#include "quant/grids.h"
#include "quant/lanes.h"

/* n_rows (at most 4) rows and 16 columns of the product, from row i and column j on. */
LANE_FN void VARIANT(feedback_tile)(const struct feedback_product *p, size_t i, size_t j, size_t n_rows)
{
    lanes low[4], high[4];
    for (size_t r = 0; r < n_rows; r++) {
        low[r] = lanes_load(p->c + (i + r) * p->c_i + j);
        high[r] = lanes_load(p->c + (i + r) * p->c_i + j + N_LANES);
    }
    for (size_t k = 0; k < p->n_k; k++) {
        const float *b = p->b + k * p->b_k + j, *a = p->a + k * p->a_k + i * p->a_i;
        lanes b_low = lanes_load(b), b_high = lanes_load(b + N_LANES);
        for (size_t r = 0; r < n_rows; r++) {
            lanes v = lanes_of(p->sign * a[r * p->a_i]);
            low[r] += v * b_low;
            high[r] += v * b_high;
        }
    }
    for (size_t r = 0; r < n_rows; r++) {
        lanes_store(p->c + (i + r) * p->c_i + j, low[r]);
        lanes_store(p->c + (i + r) * p->c_i + j + N_LANES, high[r]);
    }
}

/* c[i][j] += sign * sum over k of a(k, i) b[k][j], in the order of k. n_j is a multiple of 16. */
void VARIANT(feedback_product)(const struct feedback_product *p)
{
    size_t i = 0;
    for (; i + 4 <= p->n_i; i += 4)
        for (size_t j = 0; j < p->n_j; j += 2 * N_LANES) VARIANT(feedback_tile)(p, i, j, 4);
    for (; i < p->n_i; i++)
        for (size_t j = 0; j < p->n_j; j += 2 * N_LANES) VARIANT(feedback_tile)(p, i, j, 1);
}

/* t[j] += e row[j] for the columns of a block from `first` on; some before it, too, which nobody looks at again. */
void VARIANT(feedback_push)(float t[256], float e, const float *row, size_t first)
{
    for (size_t j = first / N_LANES * N_LANES; j < 256; j += N_LANES)
        lanes_store(t + j, lanes_load(t + j) + lanes_of(e) * lanes_load(row + j));
}

float VARIANT(feedback_dot)(const float *x, const float *y, size_t n)
{
    lanes sum = lanes_of(0);
    float parts[N_LANES], total = 0;
    for (size_t j = 0; j < n; j += N_LANES) sum += lanes_load(x + j) * lanes_load(y + j);
    lanes_store(parts, sum);
    for (int i = 0; i < N_LANES; i++) total += parts[i];
    return total;
}

/* The cheapest vectors of the book at scale `step`, one of each eighth of it, each column by itself and with the sign
 * that it wants. */
static void VARIANT(feedback_book)(const struct feedback_run *run, int best[N_LANES])
{
    lanes least = lanes_of(INFINITY), number = lanes_of(0), current = {0, 1, 2, 3, 4, 5, 6, 7}, weight[8], pull[8];
    for (size_t j = 0; j < 8; j++) {
        float magnitude = run->t[j] < 0 ? -run->t[j] : run->t[j];
        weight[j] = lanes_of(run->d[j] * run->step * run->step);
        pull[j] = lanes_of(-2 * run->d[j] * run->step * magnitude);
    }
    for (size_t v = 0; v < 256; v += N_LANES) {
        lanes sum = lanes_of(0);
        for (size_t j = 0; j < 8; j++) {
            lanes g = lanes_load(&quant_grid_iq2_xxs_columns[j][v]);
            sum += g * (g * weight[j] + pull[j]);
        }
        lane_mask less = lanes_less(sum, least);
        least = lanes_select(less, sum, least);
        number = lanes_select(less, current, number);
        current += lanes_of(N_LANES);
    }
    for (int i = 0; i < N_LANES; i++) best[i] = (int)number[i];
}

/* The signs (1 and -1) of eight variants: those that t wants, with the four that matter least in all combinations that
 * make the number of minus signs even. */
static void VARIANT(feedback_signs)(const struct feedback_run *run, lanes sign[8])
{
    static const uint8_t even[8] = {0, 3, 5, 6, 9, 10, 12, 15}, odd[8] = {1, 2, 4, 8, 7, 11, 13, 14};
    float matter[8], signs[8][N_LANES];
    bool is_odd = false;
    for (size_t j = 0; j < 8; j++) {
        bool minus = run->t[j] < 0;
        matter[j] = run->d[j] * (minus ? -run->t[j] : run->t[j]);
        is_odd ^= minus;
        for (size_t lane = 0; lane < N_LANES; lane++) signs[j][lane] = minus ? -1 : 1;
    }
    for (size_t i = 0; i < 4; i++) {
        size_t weak = 0;
        for (size_t j = 1; j < 8; j++)
            if (matter[j] < matter[weak]) weak = j;
        matter[weak] = INFINITY;
        for (size_t lane = 0; lane < N_LANES; lane++)
            if ((is_odd ? odd : even)[lane] >> i & 1) signs[weak][lane] = -signs[weak][lane];
    }
    for (size_t j = 0; j < 8; j++) sign[j] = lanes_load(signs[j]);
}

/* The best code of a run of 8 under its full cost; fills index, signs and q. */
void VARIANT(feedback_code_run)(struct feedback_run *run)
{
    int candidates[N_LANES];
    float best = INFINITY;
    lanes sign[8];
    VARIANT(feedback_book)(run, candidates);
    VARIANT(feedback_signs)(run, sign);
    for (int i = 0; i < N_LANES; i++) {
        int v = candidates[i];
        lanes e[8], sum = lanes_of(0);
        for (size_t c = 0; c < 8; c++) {
            lanes q = sign[c] * lanes_of(run->step * (float)quant_grid_iq2_xxs[v][c]), r = lanes_of(run->t[c]) - q;
            for (size_t k = 0; k < c; k++) r += e[k] * lanes_of(run->tri[8 * k + c]);
            sum += lanes_of(run->d[c]) * r * r;
            e[c] = lanes_of(run->w[c]) - q;
        }
        int lane = lanes_argmin(sum);
        if (!(sum[lane] < best)) continue;
        best = sum[lane];
        run->index = (uint8_t)v;
        run->signs = 0;
        for (size_t c = 0; c < 8; c++) {
            run->signs = (uint8_t)(run->signs | (sign[c][lane] < 0) << c);
            run->q[c] = sign[c][lane] * (run->step * (float)quant_grid_iq2_xxs[v][c]);
        }
    }
}

#endif
