/* compress.c - compressors: a learned softmax over time pools the tokens of a window, channel by channel, into a row.
 * Model spec 4.4 and 4.5.
 *
 * width = dim: the window alone. width = 2 dim: the first halves (A) of the previous window and the second halves (B)
 * of this one; the first window has no previous one. A row is finished by norm, rotation at the window's first
 * position, and the rounding of its kind. Every stage rounds to float32. Slots hold k, and g with ape added, of the
 * last n_slots positions; a slot is read only after its position was written in this session, so they need no reset. */
#include "ops/ref/ref.h"
#include "ops/rows.h"

/* Weighted mean of k with weights softmax(g), for one channel over positions. */
struct pool_entry {
    const float *k, *g; /* [width] of one position, offset to the half that counts */
};

static const float *slot(const struct compress_args *args, const float *slots, uint32_t pos, bool gate)
{
    return slots + ((size_t)(gate ? args->n_slots : 0) + pos % args->n_slots) * args->width;
}

/* The i-th of the positions that are pooled into the row of the window starting at `first`. */
static struct pool_entry entry(const struct compress_args *args, const float *slots, uint32_t first, uint32_t i)
{
    bool overlap = args->width == 2 * args->dim, previous = overlap && first > 0 && i < args->ratio;
    uint32_t pos = overlap && first > 0 ? first - args->ratio + i : first + i;
    uint32_t half = overlap && !previous ? args->dim : 0;
    struct pool_entry e = {slot(args, slots, pos, false) + half, slot(args, slots, pos, true) + half};
    return e;
}

static void pool_window(const struct compress_args *args, const float *slots, uint32_t first, float *row)
{
    uint32_t n = args->width == 2 * args->dim && first > 0 ? 2 * args->ratio : args->ratio;
    for (uint32_t d = 0; d < args->dim; d++) {
        double max = -INFINITY, weights = 0, sum = 0;
        for (uint32_t i = 0; i < n; i++) max = fmax(max, (double)entry(args, slots, first, i).g[d]);
        for (uint32_t i = 0; i < n; i++) {
            struct pool_entry e = entry(args, slots, first, i);
            double w = exp((double)e.g[d] - max);
            weights += w;
            sum += w * (double)e.k[d];
        }
        row[d] = (float)(sum / weights);
    }
}

/* The window ending at pos becomes a row of the session's spans. */
static void finish_window(const struct compress_args *args, const struct op_seq *seq, const float *slots, uint32_t pos,
                          float *row)
{
    uint32_t first = pos + 1 - args->ratio;
    pool_window(args, slots, first, row);
    ref_rms_row(row, args->norm, args->dim, args->rms_eps, row);
    ref_rope_head(row + args->dim - args->n_rope, args->n_rope, args->freq, (int32_t)first, false);
    uint8_t *to = span_row(&args->batch, seq, &args->rows, pos / args->ratio);
    if (!args->is_index) {
        kv_row_store(row, args->dim, args->n_rope, args->round, args->rows.format, to);
        return;
    }
    hadamard(row, args->dim);
    index_row_store(row, args->dim, args->round, args->rows.format, to);
}

/* A task is a session: its rows are fed in order. */
static void compress_seq(void *arg, uint32_t seq_i, uint32_t worker_i)
{
    const struct ref_job *job = arg;
    const struct compress_args *args = job->args;
    const struct op_seq *seq = &args->batch.seqs[seq_i];
    float *row = ref_scratch(job, worker_i);
    float *slots = (float *)(void *)(seq_tail(&args->batch, seq) + args->slots_offset);
    for (uint32_t r = seq->row_first; r < seq->row_first + seq->n_rows; r++) {
        uint32_t pos = (uint32_t)args->batch.pos[r];
        float *k = slots + (size_t)(pos % args->n_slots) * args->width;
        float *g = k + (size_t)args->n_slots * args->width;
        const float *ape = args->ape + (size_t)(pos % args->ratio) * args->width;
        for (uint32_t d = 0; d < args->width; d++) {
            k[d] = args->k[(size_t)r * args->width + d];
            g[d] = args->g[(size_t)r * args->width + d] + ape[d];
        }
        if (pos >= seq->rows_to && (pos + 1) % args->ratio == 0)
            finish_window(args, seq, slots, pos, row);
    }
}

void ref_compress(struct backend *b, const struct compress_args *args)
{
    const struct backend_limits *limits = &((struct backend_ref *)b)->limits;
    ensure(args->dim <= (args->is_index ? limits->index_dim : limits->dim));
    ensure(args->width == args->dim || args->width == 2 * args->dim);
    ensure(args->n_slots >= args->ratio * (args->width / args->dim));
    ref_run(b, compress_seq, args, args->batch.n_seqs);
}
