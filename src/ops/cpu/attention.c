/* attention.c - attention of a query over raw and compressed rows with sinks. Model spec 4.3(5) and 4.3(6).
 *
 * The rows that a query sees (raw, ascending position, then compressed, ascending number) are unpacked to float in
 * blocks of 64 and added to all heads of the task; a running maximum, which starts at the sink, is rescaled from block
 * to block. Blocks are counted from the query's own first row, so other rows of the batch change nothing. Unpacking a
 * row costs 2% of using it for 64 heads; when one query is all there is, its heads are split among the threads. */
#include "ops/cpu/cpu.h"
#include "ops/rows.h"

struct attention_job {
    const struct attention_args *args;
    uint32_t n_splits, split_heads; /* heads of a task */
};

/* What query row r sees. */
struct view {
    const struct attention_args *args;
    const struct op_seq *seq;
    int32_t first_pos;
    uint32_t n_raw, n_rows;
    const int32_t *sel; /* NULL: all visible */
};

static struct view view_of(const struct attention_args *args, uint32_t r)
{
    const struct op_batch *batch = &args->batch;
    int32_t pos = batch->pos[r], past = (int32_t)args->window - 1;
    struct view v = {.args = args, .seq = &batch->seqs[batch->seq_i[r]]};
    v.first_pos = pos > past ? pos - past : 0;
    v.n_raw = v.n_rows = (uint32_t)(pos - v.first_pos + 1);
    if (!args->ratio) return v;
    bool selected = args->sel && args->n_sel[r] >= 0;
    if (selected) v.sel = args->sel + (size_t)r * args->top_k;
    v.n_rows += selected ? (uint32_t)args->n_sel[r] : ((uint32_t)pos + 1) / args->ratio;
    return v;
}

static void load_row(const struct backend_cpu *cpu, const struct view *v, uint32_t i, float *row)
{
    const struct attention_args *args = v->args;
    const uint8_t *from;
    enum op_row_format format = args->ring.format;
    if (i < v->n_raw) {
        from = ring_row(&args->batch, v->seq, &args->ring, v->first_pos + (int32_t)i);
    } else {
        uint32_t c = v->sel ? (uint32_t)v->sel[i - v->n_raw] : i - v->n_raw;
        from = span_row(&args->batch, v->seq, &args->rows, c);
        format = args->rows.format;
    }
    if (format == OP_ROW_PACKED) cpu->kernels->kv_unpack(from, args->dim, args->n_rope, row);
    else kv_row_load(from, format, args->dim, args->n_rope, row);
}

static void attention_task(void *arg, uint32_t task_i, uint32_t worker_i)
{
    const struct cpu_job *job = arg;
    const struct attention_job *what = job->args;
    const struct attention_args *args = what->args;
    uint32_t r = task_i / what->n_splits, head_first = task_i % what->n_splits * what->split_heads;
    uint32_t n_heads = min_u32(what->split_heads, args->n_heads - head_first);
    float *rows = worker_scratch(job->cpu, worker_i), *scores = rows + (size_t)ATTENTION_BLOCK * args->dim;
    struct attention_head *heads = (struct attention_head *)(void *)(scores + (size_t)n_heads * ATTENTION_BLOCK);
    for (uint32_t h = 0; h < n_heads; h++) {
        size_t at = ((size_t)r * args->n_heads + head_first + h) * args->dim;
        heads[h] = (struct attention_head){args->q + at, args->o + at, args->sinks[head_first + h], 1.0f};
        for (uint32_t d = 0; d < args->dim; d++) heads[h].o[d] = 0;
    }
    struct view v = view_of(args, r);
    for (uint32_t at = 0; at < v.n_rows; at += ATTENTION_BLOCK) {
        uint32_t n = min_u32(ATTENTION_BLOCK, v.n_rows - at);
        for (uint32_t i = 0; i < n; i++) load_row(job->cpu, &v, at + i, rows + (size_t)i * args->dim);
        job->cpu->kernels->attend(heads, n_heads, rows, n, args->dim, args->scale, scores, ATTENTION_BLOCK);
    }
    for (uint32_t h = 0; h < n_heads; h++)
        job->cpu->kernels->scale(heads[h].o, NULL, 1.0f / heads[h].total, args->dim, heads[h].o);
}

/* All rows of the batch are in the ring by now, so it must hold the window of the first row beside the last one. */
static bool ring_holds_windows(const struct attention_args *args, const struct op_seq *seq)
{
    if (seq->n_rows == 0) return true;
    int64_t first = args->batch.pos[seq->row_first], last = args->batch.pos[seq->row_first + seq->n_rows - 1];
    int64_t oldest = first - (int64_t)args->window + 1;
    return last - (oldest > 0 ? oldest : 0) < (int64_t)args->ring.n_slots;
}

void cpu_attention(struct backend *b, const struct attention_args *args)
{
    struct backend_cpu *cpu = cpu_of(b);
    ensure(args->dim <= cpu->limits.dim && args->n_heads <= cpu->limits.n_heads && args->dim % 8 == 0);
    for (uint32_t i = 0; i < args->batch.n_seqs; i++) ensure(ring_holds_windows(args, &args->batch.seqs[i]));
    struct attention_job what = {args, 1, args->n_heads};
    if (args->batch.n_rows < 2 * cpu->n_threads && args->n_heads >= 8) {
        what.split_heads = (uint32_t)round_up((args->n_heads + cpu->n_threads - 1) / cpu->n_threads, 4);
        what.n_splits = (args->n_heads + what.split_heads - 1) / what.split_heads;
    }
    cpu_run(cpu, attention_task, &what, args->batch.n_rows * what.n_splits);
}
