/* state.c - storing raw rows, and the compressors that pool windows of tokens into rows. Layouts and rounding: rows.h.
 * Slots of a compressor: k of the last n_slots positions, then g with ape added; a slot is read only after its position
 * was written in this session. Model spec 4.3(3), 4.4 and 4.5. */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu.h"
#include "ops/rows.h"

#define POOL_MAX 256u /* positions pooled into one row: the ratio, or twice the ratio with overlap */

static void kv_store_row(void *arg, uint32_t r, uint32_t worker_i)
{
    const struct cpu_job *job = arg;
    const struct kv_store_args *args = job->args;
    const struct op_batch *batch = &args->batch;
    float *row = worker_scratch(job->cpu, worker_i);
    memcpy(row, args->kv + (size_t)r * args->dim, args->dim * sizeof *row);
    uint8_t *to = ring_row(batch, &batch->seqs[batch->seq_i[r]], &args->ring, batch->pos[r]);
    kv_row_store(row, args->dim, args->n_rope, args->round, args->ring.format, to);
}

/* The rows of a session must not be more than the slots of its ring, else two of them would share one. */
void cpu_kv_store(struct backend *b, const struct kv_store_args *args)
{
    ensure(args->dim <= cpu_of(b)->limits.dim);
    for (uint32_t i = 0; i < args->batch.n_seqs; i++) ensure(args->batch.seqs[i].n_rows <= args->ring.n_slots);
    cpu_run(cpu_of(b), kv_store_row, args, args->batch.n_rows);
}

/* The positions pooled into the window that starts at `first`: with overlap, the first halves of the window before it
 * (none for the first window), then the second halves of its own. */
static uint32_t window_entries(const struct compress_args *args, const float *slots, uint32_t first, const float **k,
                               const float **g)
{
    bool overlap = args->width == 2 * args->dim;
    uint32_t n = 0, start = overlap && first ? first - args->ratio : first;
    for (uint32_t pos = start; pos < first + args->ratio; pos++, n++) {
        uint32_t half = overlap && pos >= first ? args->dim : 0;
        k[n] = slots + (size_t)(pos % args->n_slots) * args->width + half;
        g[n] = k[n] + (size_t)args->n_slots * args->width;
    }
    return n;
}

static void finish_window(const struct backend_cpu *cpu, const struct compress_args *args, const struct op_seq *seq,
                          const float *slots, uint32_t first, float *row)
{
    const float *k[POOL_MAX], *g[POOL_MAX];
    uint32_t n = window_entries(args, slots, first, k, g);
    cpu->kernels->pool(k, g, n, args->dim, row);
    float mean = cpu->kernels->sum_squares(row, args->dim) / (float)args->dim;
    cpu->kernels->scale(row, args->norm, 1.0f / sqrtf(mean + args->rms_eps), args->dim, row);
    float *tail = row + args->dim - args->n_rope;
    for (uint32_t i = 0; i < args->n_rope / 2; i++) {
        float angle = (float)first * args->freq[i], a = tail[2 * i], b = tail[2 * i + 1];
        float c = (float)cos((double)angle), s = (float)sin((double)angle);
        tail[2 * i] = a * c - b * s;
        tail[2 * i + 1] = a * s + b * c;
    }
    uint8_t *to = span_row(&args->batch, seq, &args->rows, first / args->ratio);
    if (!args->is_index) {
        kv_row_store(row, args->dim, args->n_rope, args->round, args->rows.format, to);
        return;
    }
    cpu->kernels->hadamard(row, args->dim);
    index_row_store(row, args->dim, args->round, args->rows.format, to);
}

/* A task is a session: its rows are fed in order. */
static void compress_seq(void *arg, uint32_t seq_i, uint32_t worker_i)
{
    const struct cpu_job *job = arg;
    const struct compress_args *args = job->args;
    const struct op_seq *seq = &args->batch.seqs[seq_i];
    float *row = worker_scratch(job->cpu, worker_i);
    float *slots = (float *)(void *)(seq_tail(&args->batch, seq) + args->slots_offset);
    for (uint32_t r = seq->row_first; r < seq->row_first + seq->n_rows; r++) {
        uint32_t pos = (uint32_t)args->batch.pos[r];
        float *k = slots + (size_t)(pos % args->n_slots) * args->width;
        float *g = k + (size_t)args->n_slots * args->width;
        const float *ape = args->ape + (size_t)(pos % args->ratio) * args->width;
        const float *from = args->g + (size_t)r * args->width;
        memcpy(k, args->k + (size_t)r * args->width, args->width * sizeof *k);
        for (uint32_t d = 0; d < args->width; d++) g[d] = from[d] + ape[d];
        if (pos >= seq->rows_to && (pos + 1) % args->ratio == 0)
            finish_window(job->cpu, args, seq, slots, pos + 1 - args->ratio, row);
    }
}

void cpu_compress(struct backend *b, const struct compress_args *args)
{
    const struct backend_limits *limits = &cpu_of(b)->limits;
    ensure(args->dim <= (args->is_index ? limits->index_dim : limits->dim));
    ensure(args->width == args->dim || args->width == 2 * args->dim);
    ensure(args->n_slots >= args->ratio * (args->width / args->dim));
    ensure(args->ratio * (args->width / args->dim) <= POOL_MAX);
    cpu_run(cpu_of(b), compress_seq, args, args->batch.n_seqs);
}
