/* attention.c - attention of one query row over raw and compressed rows, which serve as keys and values for all
 * heads, with a learned sink for each head that takes probability and adds nothing. Model spec 4.3(5) and 4.3(6).
 *
 * The maximum that is subtracted includes the sink, so that a large sink cannot overflow. Rows are accumulated in the
 * order raw, ascending position, then compressed, ascending number. */
#include "ops/ref/ref.h"
#include "ops/rows.h"

/* Scratch of one query: all rows that it sees, their probabilities, and one head's output. */
struct attention_scratch {
    float *rows; /* [n_attn_rows][dim] */
    double *p;   /* [n_attn_rows] */
    double *sum; /* [dim] */
};

static struct attention_scratch lay_out(const struct ref_job *job, uint32_t worker_i, uint32_t dim)
{
    struct attention_scratch s;
    s.sum = ref_scratch(job, worker_i);
    s.p = s.sum + dim;
    s.rows = (float *)(void *)(s.p + job->ref->limits.n_attn_rows);
    return s;
}

/* Unpacks what query row r sees; returns the number of rows. */
static uint32_t gather_rows(const struct attention_args *args, uint32_t r, uint32_t n_max, float *rows)
{
    const struct op_batch *batch = &args->batch;
    const struct op_seq *seq = &batch->seqs[batch->seq_i[r]];
    int32_t pos = batch->pos[r], n_past = (int32_t)args->window - 1;
    uint32_t n = 0;
    for (int32_t s = pos > n_past ? pos - n_past : 0; s <= pos; s++) {
        ensure(n < n_max);
        const uint8_t *from = ring_row(batch, seq, &args->ring, s);
        kv_row_load(from, args->ring.format, args->dim, args->n_rope, rows + (size_t)n++ * args->dim);
    }
    if (!args->ratio) return n;
    bool selected = args->sel && args->n_sel[r] >= 0;
    uint32_t n_compressed = selected ? (uint32_t)args->n_sel[r] : ((uint32_t)pos + 1) / args->ratio;
    for (uint32_t i = 0; i < n_compressed; i++) {
        ensure(n < n_max);
        uint32_t c = selected ? (uint32_t)args->sel[(size_t)r * args->top_k + i] : i;
        const uint8_t *from = span_row(batch, seq, &args->rows, c);
        kv_row_load(from, args->rows.format, args->dim, args->n_rope, rows + (size_t)n++ * args->dim);
    }
    return n;
}

static void attend(const struct attention_args *args, const struct attention_scratch *s, uint32_t n, const float *q,
                   double sink, float *o)
{
    double max = sink;
    for (uint32_t i = 0; i < n; i++) {
        const float *row = s->rows + (size_t)i * args->dim;
        double dot = 0;
        for (uint32_t d = 0; d < args->dim; d++) dot += (double)q[d] * (double)row[d];
        s->p[i] = dot * (double)args->scale;
        max = fmax(max, s->p[i]);
    }
    double total = exp(sink - max);
    for (uint32_t d = 0; d < args->dim; d++) s->sum[d] = 0;
    for (uint32_t i = 0; i < n; i++) {
        const float *row = s->rows + (size_t)i * args->dim;
        double p = exp(s->p[i] - max);
        total += p;
        for (uint32_t d = 0; d < args->dim; d++) s->sum[d] += p * (double)row[d];
    }
    for (uint32_t d = 0; d < args->dim; d++) o[d] = (float)(s->sum[d] / total);
}

static void attention_row(void *arg, uint32_t r, uint32_t worker_i)
{
    const struct ref_job *job = arg;
    const struct attention_args *args = job->args;
    struct attention_scratch scratch = lay_out(job, worker_i, args->dim);
    uint32_t n = gather_rows(args, r, job->ref->limits.n_attn_rows, scratch.rows);
    for (uint32_t h = 0; h < args->n_heads; h++) {
        size_t at = ((size_t)r * args->n_heads + h) * args->dim;
        attend(args, &scratch, n, args->q + at, (double)args->sinks[h], args->o + at);
    }
}

/* All rows of the batch are in the ring by now, so it must hold the window of the first row beside the last one. */
static bool ring_holds_windows(const struct attention_args *args, const struct op_seq *seq)
{
    if (seq->n_rows == 0) return true;
    int64_t first = args->batch.pos[seq->row_first], last = args->batch.pos[seq->row_first + seq->n_rows - 1];
    int64_t oldest = first - (int64_t)args->window + 1;
    return last - (oldest > 0 ? oldest : 0) < (int64_t)args->ring.n_slots;
}

void ref_attention(struct backend *b, const struct attention_args *args)
{
    ensure(args->dim <= ((struct backend_ref *)b)->limits.dim);
    for (uint32_t i = 0; i < args->batch.n_seqs; i++) ensure(ring_holds_windows(args, &args->batch.seqs[i]));
    ref_run(b, attention_row, args, args->batch.n_rows);
}
