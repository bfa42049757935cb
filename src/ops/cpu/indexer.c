/* indexer.c - which compressed rows a query may attend to. Model spec 3.2 and 4.6. Packed rows against E2M1 queries are
 * scored with small integers, which is exact up to the weighted sum over heads; other rows and queries with floats.
 * Equal scores: the lower row wins; -0 equals +0. The set is written in ascending order. */
#include <string.h>

#include "base/bytes.h"
#include "ops/cpu/cpu.h"
#include "ops/rows.h"

struct select_job {
    const struct index_select_args *args;
    uint32_t row;          /* the query, when chunks of one query are the tasks */
    bool exact;
    uint8_t *prepared;
    float *scores;
};

static void index_query_head(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct cpu_job *job = arg;
    const struct index_query_args *args = job->args;
    for (uint32_t h = 0; h < args->n_heads; h++) {
        float *q = args->q + ((size_t)r * args->n_heads + h) * args->dim;
        job->cpu->kernels->hadamard(q, args->dim);
        if (args->round) index_row_round(q, args->dim);
    }
}

void cpu_index_query(struct backend *b, const struct index_query_args *args)
{
    cpu_run(cpu_of(b), index_query_head, args, args->n_rows);
}

static uint32_t padded_heads(const struct backend_cpu *cpu, uint32_t n_heads)
{
    return (uint32_t)round_up(n_heads, cpu->kernels->index_heads_step);
}
static size_t prepared_bytes(const struct backend_cpu *cpu, uint32_t n_heads, uint32_t dim)
{
    return round_up((size_t)padded_heads(cpu, n_heads) * ((size_t)dim * 2 + 64), 64);
}

/* Rows [c, c + n) that lie one after the other, by floats. */
static void float_scores(const struct backend_cpu *cpu, const struct index_select_args *args, uint32_t r,
                         const uint8_t *rows, uint32_t n, float *scores, uint8_t *memory)
{
    uint32_t dim = args->dim, n_heads = args->n_heads;
    struct gemm_col *cols = (struct gemm_col *)(void *)memory;
    float *row = (float *)(void *)(memory + round_up(n_heads * sizeof *cols, 64));
    float *dots = row + dim, *sums = dots + (size_t)n_heads * TILE_ROWS;
    float *values = sums + TILE_ROWS * COLS_MAX * 8;
    const float *w = args->w + (size_t)r * n_heads;
    for (uint32_t at = 0; at < n; at += TILE_ROWS) {
        struct tile tile = {.n_rows = min_u32(TILE_ROWS, n - at), .n_in = dim, .f32 = values, .sums = sums};
        memset(values, 0, (size_t)TILE_ROWS * dim * sizeof *values);
        for (uint32_t i = 0; i < tile.n_rows; i++) {
            index_row_load(rows + (size_t)(at + i) * args->rows.row_bytes, args->rows.format, dim, row);
            for (uint32_t d = 0; d < dim; d += 8)
                memcpy(tile_f32(&tile, i) + d / 8 * TILE_F32_STEP, row + d, 8 * sizeof *row);
        }
        for (uint32_t h = 0; h < n_heads; h++)
            cols[h] = (struct gemm_col){.x.f32 = args->q + ((size_t)r * n_heads + h) * dim, .y = dots + h * TILE_ROWS};
        for (uint32_t h = 0; h < n_heads; h += COLS_MAX)
            cpu->kernels->gemm(NULL, &tile, cols + h, min_u32(COLS_MAX, n_heads - h), true);
        for (uint32_t i = 0; i < tile.n_rows; i++) {
            float sum = 0;
            for (uint32_t h = 0; h < n_heads; h++) {
                float dot = dots[h * TILE_ROWS + i];
                sum += w[h] * (dot > 0 ? dot : 0);
            }
            scores[at + i] = sum * args->scale;
        }
    }
}

/* Scores of rows [from, to) of query r; runs inside one span at a time. */
static void score_rows(const struct backend_cpu *cpu, const struct select_job *what, uint32_t r, uint32_t from,
                       uint32_t to, uint8_t *memory)
{
    const struct index_select_args *args = what->args;
    const struct op_seq *seq = &args->batch.seqs[args->batch.seq_i[r]];
    while (from < to) {
        uint32_t n = min_u32(args->rows.rows_per_span - from % args->rows.rows_per_span, to - from);
        const uint8_t *rows = span_row(&args->batch, seq, &args->rows, from);
        if (what->exact)
            cpu->kernels->index_scores(what->prepared, padded_heads(cpu, args->n_heads), args->dim, rows,
                                       args->rows.row_bytes, n, args->scale, what->scores + from);
        else float_scores(cpu, args, r, rows, n, what->scores + from, memory);
        from += n;
    }
}

/* Maps a float to an integer of the same order; both zeros to one. */
static uint32_t ordered_key(float score)
{
    uint32_t bits = score == 0 ? 0 : f32_bits(score);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The k-th largest of n > k keys, byte by byte from the top; *n_equal = how many at the cut are taken. */
static uint32_t cut_key(const uint32_t *keys, uint32_t n, uint32_t k, uint32_t *n_equal)
{
    uint32_t cut = 0, known = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint32_t count[256] = {0};
        for (uint32_t c = 0; c < n; c++)
            if ((keys[c] & known) == cut) count[keys[c] >> shift & 255]++;
        uint32_t byte = 255;
        while (count[byte] < k) k -= count[byte--];
        cut |= byte << shift;
        known |= 255u << shift;
    }
    *n_equal = k;
    return cut;
}

static void select_top(float *scores, uint32_t n, uint32_t k, int32_t *sel)
{
    uint32_t *keys = (uint32_t *)(void *)scores, n_sel = 0, n_equal = 0;
    for (uint32_t c = 0; c < n; c++) {
        uint32_t key = ordered_key(scores[c]);
        store_u32(&scores[c], key);
    }
    uint32_t cut = cut_key(keys, n, k, &n_equal);
    for (uint32_t c = 0; c < n; c++) {
        if (keys[c] < cut || (keys[c] == cut && n_equal == 0)) continue;
        if (keys[c] == cut) n_equal--;
        sel[n_sel++] = (int32_t)c;
    }
}

static uint32_t visible(const struct index_select_args *args, uint32_t r)
{
    return ((uint32_t)args->batch.pos[r] + 1) / args->ratio;
}

static bool prepare(const struct backend_cpu *cpu, const struct index_select_args *args, uint32_t r, uint8_t *prepared)
{
    if (args->rows.format != OP_ROW_PACKED || args->dim % 32) return false;
    const float *q = args->q + (size_t)r * args->n_heads * args->dim, *w = args->w + (size_t)r * args->n_heads;
    return cpu->kernels->index_prepare(q, w, args->n_heads, args->dim, prepared);
}

/* A task is a query. */
static void select_row(void *arg, uint32_t r, uint32_t worker_i)
{
    const struct cpu_job *job = arg;
    const struct index_select_args *args = job->args;
    uint32_t n = visible(args, r);
    args->n_sel[r] = n <= args->top_k ? -1 : (int32_t)args->top_k;
    if (n <= args->top_k) return;
    uint8_t *memory = worker_scratch(job->cpu, worker_i);
    struct select_job what = {.args = args, .prepared = memory};
    memory += prepared_bytes(job->cpu, args->n_heads, args->dim);
    what.scores = (float *)(void *)memory;
    memory += round_up((uint64_t)n * sizeof(float), 64);
    what.exact = prepare(job->cpu, args, r, what.prepared);
    score_rows(job->cpu, &what, r, 0, n, memory);
    select_top(what.scores, n, args->top_k, args->sel + (size_t)r * args->top_k);
}

/* A task is a chunk of the rows of one query. */
static void score_chunk(void *arg, uint32_t task_i, uint32_t worker_i)
{
    const struct cpu_job *job = arg;
    const struct select_job *what = job->args;
    uint32_t from = task_i * INDEX_CHUNK, n = visible(what->args, what->row);
    uint8_t *memory = worker_scratch(job->cpu, worker_i);
    score_rows(job->cpu, what, what->row, from, min_u32(from + INDEX_CHUNK, n),
               memory + prepared_bytes(job->cpu, what->args->n_heads, what->args->dim));
}

/* Few queries: their rows are shared out instead. */
static void select_in_chunks(struct backend_cpu *cpu, const struct index_select_args *args)
{
    for (uint32_t r = 0; r < args->batch.n_rows; r++) {
        uint32_t n = visible(args, r);
        args->n_sel[r] = n <= args->top_k ? -1 : (int32_t)args->top_k;
        if (n <= args->top_k) continue;
        struct select_job what = {.args = args, .row = r, .prepared = cpu->inputs, .scores = cpu->index_scores};
        what.exact = prepare(cpu, args, r, what.prepared);
        cpu_run(cpu, score_chunk, &what, (n + INDEX_CHUNK - 1) / INDEX_CHUNK);
        select_top(what.scores, n, args->top_k, args->sel + (size_t)r * args->top_k);
    }
}

void cpu_index_select(struct backend *b, const struct index_select_args *args)
{
    struct backend_cpu *cpu = cpu_of(b);
    ensure(args->dim <= cpu->limits.index_dim && args->n_heads <= cpu->limits.n_index_heads && args->dim % 8 == 0);
    for (uint32_t r = 0; r < args->batch.n_rows; r++) ensure(visible(args, r) <= cpu->limits.n_index_rows);
    if (args->batch.n_rows < 2 * cpu->n_threads) select_in_chunks(cpu, args);
    else cpu_run(cpu, select_row, args, args->batch.n_rows);
}
