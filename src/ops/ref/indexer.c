/* indexer.c - which compressed rows a query may attend to: rounding of the index queries, scores, and the set of the
 * top_k largest. Model spec 3.2 and 4.6.
 *
 * Scores are rounded to float32 and compared as numbers (-0 equals +0); among equal scores the lower row wins. The set
 * is written in ascending row number, so that attention does not depend on how it was selected. */
#include "base/bytes.h"
#include "ops/ref/ref.h"
#include "ops/rows.h"

static void index_query_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct index_query_args *args = job->args;
    for (uint32_t h = 0; h < args->n_heads; h++) {
        float *q = args->q + ((size_t)r * args->n_heads + h) * args->dim;
        hadamard(q, args->dim);
        if (args->round) index_row_round(q, args->dim);
    }
}

void ref_index_query(struct backend *b, const struct index_query_args *args)
{
    ref_run(b, index_query_row, args, args->n_rows);
}

static float index_score(const struct index_select_args *args, const float *q, const float *w, const float *row)
{
    double score = 0;
    for (uint32_t h = 0; h < args->n_heads; h++) {
        double dot = 0;
        for (uint32_t i = 0; i < args->dim; i++) dot += (double)q[(size_t)h * args->dim + i] * (double)row[i];
        score += (double)w[h] * fmax(dot, 0);
    }
    return (float)(score * (double)args->scale);
}

/* Maps a float to an integer of the same order; both zeros to one. */
static uint32_t ordered_key(float score)
{
    uint32_t bits = score == 0 ? 0 : f32_bits(score);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static uint32_t count_at_least(const uint32_t *keys, uint32_t n, uint32_t key)
{
    uint32_t count = 0;
    for (uint32_t c = 0; c < n; c++) count += keys[c] >= key;
    return count;
}

/* The largest key that at least k of the n > k keys reach, found bit by bit from the top. */
static uint32_t cut_key(const uint32_t *keys, uint32_t n, uint32_t k)
{
    uint32_t cut = 0;
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1)
        if (count_at_least(keys, n, cut | bit) >= k) cut |= bit;
    return cut;
}

static void select_top(const uint32_t *keys, uint32_t n, uint32_t k, int32_t *sel)
{
    uint32_t cut = cut_key(keys, n, k), n_sel = 0;
    uint32_t n_above = cut == UINT32_MAX ? 0 : count_at_least(keys, n, cut + 1);
    uint32_t n_equal = k - n_above; /* how many of those at the cut are taken: the first ones */
    for (uint32_t c = 0; c < n; c++) {
        if (keys[c] < cut || (keys[c] == cut && n_equal == 0)) continue;
        if (keys[c] == cut) n_equal--;
        sel[n_sel++] = (int32_t)c;
    }
}

static void index_select_row(void *arg, uint32_t r, uint32_t worker_i)
{
    const struct ref_job *job = arg;
    const struct index_select_args *args = job->args;
    const struct op_batch *batch = &args->batch;
    const struct op_seq *seq = &batch->seqs[batch->seq_i[r]];
    uint32_t n_visible = ((uint32_t)batch->pos[r] + 1) / args->ratio;
    if (n_visible <= args->top_k) {
        args->n_sel[r] = -1;
        return;
    }
    ensure(n_visible <= job->ref->limits.n_index_rows);
    float *row = ref_scratch(job, worker_i);
    uint32_t *keys = (uint32_t *)(void *)(row + args->dim);
    const float *q = args->q + (size_t)r * args->n_heads * args->dim, *w = args->w + (size_t)r * args->n_heads;
    for (uint32_t c = 0; c < n_visible; c++) {
        index_row_load(span_row(batch, seq, &args->rows, c), args->rows.format, args->dim, row);
        keys[c] = ordered_key(index_score(args, q, w, row));
    }
    select_top(keys, n_visible, args->top_k, args->sel + (size_t)r * args->top_k);
    args->n_sel[r] = (int32_t)args->top_k;
}

void ref_index_select(struct backend *b, const struct index_select_args *args)
{
    ensure(args->dim <= ((struct backend_ref *)b)->limits.index_dim);
    ref_run(b, index_select_row, args, args->batch.n_rows);
}
