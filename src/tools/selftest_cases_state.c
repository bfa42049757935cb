/* selftest_cases_state.c - cases of the operations on the state of sessions. See selftest_run.h for the scheme,
 * selftest_state.h for the sessions. */
#include <math.h>
#include <string.h>

#include "tools/selftest_cases.h"
#include "tools/selftest_state.h"
#include "ops/rows.h"

static uint8_t *read_back(struct op_run *run, const uint8_t *there, uint64_t bytes)
{
    uint8_t *here = op_host(run, (size_t)bytes, 1);
    op_get(run->dev, here, there, (size_t)bytes);
    return here;
}

/* Registers all compressed rows of all spans as numbers, and the bytes between them. */
static void output_spans(struct op_run *run, const struct op_shape *s, const struct op_state *state)
{
    uint64_t bytes = state->n_spans * state->span_bytes;
    uint8_t *spans = read_back(run, state->spans, bytes);
    size_t n_rows = (size_t)state->n_spans * s->rows_per_span;
    uint32_t used = s->is_index ? index_row_bytes(s->format, s->dim) : kv_row_bytes(s->format, s->dim, s->n_rope);
    float *rows = op_host(run, n_rows * s->dim, sizeof *rows);
    for (size_t i = 0; i < n_rows; i++) {
        uint8_t *row = spans + i / s->rows_per_span * state->span_bytes + state->rows.offset +
                       i % s->rows_per_span * state->rows.row_bytes;
        op_state_unpack(s, row, rows + i * s->dim);
        memset(row, 0, used);
    }
    struct op_output *output =
        op_output_add(run, "rows", s->round ? OUTPUT_ROUNDED : OUTPUT_FLOAT, rows, n_rows, s->dim);
    output->tolerance = !s->round ? 1e-5 : s->is_index ? 0.2 : 0.02; /* a few steps of E2M1 or E4M3 among a row */
    op_output_add(run, "between rows", OUTPUT_BYTES, spans, 1, (size_t)bytes);
}

/* A compressor of the shape, if it has one. */
struct compressor {
    float *k, *g, *ape, *norm, *freq;
};

static struct compressor compressor_make(struct op_run *run)
{
    const struct op_shape *s = run->shape;
    struct compressor c = {0};
    if (!s->ratio) return c;
    c.k = op_input(run, (size_t)s->n_rows * s->n_out, NULL);
    c.g = op_input(run, (size_t)s->n_rows * s->n_out, NULL);
    c.ape = op_parameters(run, (size_t)s->ratio * s->n_out, 1, 0);
    c.norm = op_parameters(run, s->dim, 0.2f, 1);
    c.freq = op_frequencies(run, false);
    return c;
}

static void compressor_run(struct op_run *run, const struct compressor *c, const struct op_state *state,
                           const struct op_batch *batch, const float *freq)
{
    const struct op_shape *s = run->shape;
    struct compress_args args = {.batch = *batch, .ratio = s->ratio, .dim = s->dim, .width = s->n_out,
                                 .n_rope = s->n_rope, .n_slots = s->n_slots, .is_index = s->is_index,
                                 .round = s->round, .rms_eps = 1e-6f, .slots_offset = state->slots_offset,
                                 .k = c->k + (size_t)run->first * s->n_out, .g = c->g + (size_t)run->first * s->n_out,
                                 .ape = c->ape, .norm = c->norm, .freq = freq, .rows = state->rows};
    if (s->ratio) run->dev->b->ops->compress(run->dev->b, &args);
}

/* dim n_rope ratio n_out(= width) n_slots is_index format round n_seqs start rows_per_span */
void op_case_compress(struct op_run *run, const struct op_shape *s)
{
    struct op_state state;
    op_state_make(run, &state);
    struct compressor c = compressor_make(run);
    while (op_next(run)) {
        struct op_batch batch = op_state_batch(run, &state);
        compressor_run(run, &c, &state, &batch, c.freq);
    }
    uint64_t bytes = state.n_tails * state.tail_bytes;
    run->moved_bytes = 4 * (uint64_t)s->n_rows * s->n_out * sizeof(float); /* read, and written into slots */
    op_output_add(run, "tails", OUTPUT_BYTES, read_back(run, state.tails, bytes), 1, (size_t)bytes);
    output_spans(run, s, &state);
}

/* Registers the rows of the rings as numbers, and the bytes of tails between them. */
static void output_rings(struct op_run *run, const struct op_shape *s, const struct op_state *state)
{
    uint64_t bytes = state->n_tails * state->tail_bytes;
    uint8_t *tails = read_back(run, state->tails, bytes);
    size_t n_rows = (size_t)state->n_tails * s->n_slots;
    float *rows = op_host(run, n_rows * s->dim, sizeof *rows);
    for (size_t i = 0; i < n_rows; i++) {
        uint8_t *row = tails + i / s->n_slots * state->tail_bytes + state->ring.offset +
                       i % s->n_slots * state->ring.row_bytes;
        op_state_unpack(s, row, rows + i * s->dim);
        memset(row, 0, kv_row_bytes(s->format, s->dim, s->n_rope));
    }
    struct op_output *output =
        op_output_add(run, "ring", s->round ? OUTPUT_ROUNDED : OUTPUT_FLOAT, rows, n_rows, s->dim);
    output->tolerance = s->format == OP_ROW_PACKED ? 0.02 : 1e-5; /* a few steps of E4M3 among a row */
    op_output_add(run, "tails", OUTPUT_BYTES, tails, 1, (size_t)bytes);
}

/* What goes before kv_store: queries and the row itself are normed and rotated. */
struct before_store {
    float *q, *kv_norm, *freq; /* q NULL: nothing does */
};

static struct before_store before_store_make(struct op_run *run)
{
    const struct op_shape *s = run->shape;
    struct before_store before = {0};
    if (!s->fused) return before;
    before.q = op_input(run, (size_t)s->n_rows * s->n_heads * s->dim, NULL);
    before.kv_norm = op_parameters(run, s->dim, 0.2f, 1);
    before.freq = op_frequencies(run, false);
    return before;
}

static void norm_and_rotate(struct op_run *run, const struct before_store *before, float *x, uint32_t n_heads,
                            const float *weight, const int32_t *pos)
{
    const struct op_shape *s = run->shape;
    struct rms_norm_args norm = {.n_rows = run->n * n_heads, .n = s->dim, .eps = 1e-6f, .x = x, .weight = weight,
                                 .y = x};
    struct rope_args rope = {.n_rows = run->n, .n_heads = n_heads, .dim = s->dim, .n_rope = s->n_rope, .pos = pos,
                             .freq = before->freq, .x = x};
    run->dev->b->ops->rms_norm(run->dev->b, &norm);
    run->dev->b->ops->rope(run->dev->b, &rope);
}

/* dim n_rope n_slots window(=1) format round n_seqs start. Every byte of every tail is compared: what was stored, and
 * that nothing else was touched. fused: with norm and rotation of the row and of n_heads heads of queries, and with a
 * ratio a compressor; then what is stored is rounded after float arithmetic, and compared as numbers. */
void op_case_kv_store(struct op_run *run, const struct op_shape *s)
{
    struct op_state state;
    size_t n_q = (size_t)s->n_heads * s->dim;
    op_state_make(run, &state);
    float *kv = op_input(run, (size_t)s->n_rows * s->dim, NULL);
    struct before_store before = before_store_make(run);
    struct compressor c = compressor_make(run);
    while (op_next(run)) {
        struct kv_store_args args = {.batch = op_state_batch(run, &state), .dim = s->dim, .n_rope = s->n_rope,
                                     .round = s->round, .ring = state.ring, .kv = kv + (size_t)run->first * s->dim};
        float *row = kv + (size_t)run->first * s->dim;
        if (before.q) norm_and_rotate(run, &before, before.q + run->first * n_q, s->n_heads, NULL, args.batch.pos);
        if (before.q) norm_and_rotate(run, &before, row, 1, before.kv_norm, args.batch.pos);
        run->dev->b->ops->kv_store(run->dev->b, &args);
        compressor_run(run, &c, &state, &args.batch, before.freq);
    }
    uint64_t bytes = state.n_tails * state.tail_bytes;
    run->moved_bytes = s->n_rows * (s->dim * sizeof(float) + state.ring.row_bytes) +
                       2 * s->n_rows * (n_q + 2 * (uint64_t)s->n_out) * sizeof(float);
    if (!before.q) {
        op_output_add(run, "tails", OUTPUT_BYTES, read_back(run, state.tails, bytes), 1, (size_t)bytes);
        return;
    }
    op_output_floats(run, "q", before.q, (size_t)s->n_rows * s->n_heads, s->dim, 1e-5);
    output_rings(run, s, &state);
    if (s->ratio) output_spans(run, s, &state);
}

/* Scores by the definition, in double, from what lies in the spans. */
static void fill_scores(struct op_run *run, const struct op_state *state, const float *q, const float *w, float scale,
                        struct op_output *output)
{
    const struct op_shape *s = run->shape;
    uint8_t *spans = read_back(run, state->spans, state->n_spans * state->span_bytes);
    uint32_t *n_items = op_host(run, s->n_rows, sizeof *n_items);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        n_items[r] = ((uint32_t)state->pos[r] + 1) / s->ratio;
        if (n_items[r] > output->n_scores) output->n_scores = n_items[r];
    }
    double *scores = op_host(run, s->n_rows * output->n_scores + 1, sizeof *scores);
    float *row = op_host(run, s->dim, sizeof *row);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        for (uint32_t c = 0; c < n_items[r]; c++) {
            double score = 0;
            op_state_unpack(s, op_state_row(state, spans, state->seq_i[r], c), row);
            for (uint32_t h = 0; h < s->n_heads; h++) {
                double dot = 0;
                for (uint32_t i = 0; i < s->dim; i++)
                    dot += (double)q[((size_t)r * s->n_heads + h) * s->dim + i] * (double)row[i];
                score += (double)w[(size_t)r * s->n_heads + h] * fmax(dot, 0);
            }
            scores[r * output->n_scores + c] = score * (double)scale;
        }
    }
    output->scores = scores;
    output->n_items = n_items;
}

/* Queries as index_query leaves them when it rounds, or any floats. */
static float *index_queries(struct op_run *run, const struct op_shape *s, bool rounded, const float **here)
{
    size_t n = (size_t)s->n_rows * s->n_heads * s->dim;
    float *q = op_host(run, n, sizeof *q);
    op_fill(run, q, n, s->fill);
    for (size_t at = 0; rounded && at < n; at += s->dim) index_row_round(q + at, s->dim);
    *here = q;
    return op_put_skewed(run->dev, q, n * sizeof *q, s->skew);
}

/* Rows of state that the last row of every session looks at: at least so many are read. most: of compressed ones; 0:
 * all. */
static uint64_t rows_read(const struct op_shape *s, const struct op_state *state, uint32_t most)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < state->n_seqs; i++) {
        const struct op_seq *seq = &state->seqs[i];
        if (seq->n_rows == 0) continue;
        uint32_t reach = (uint32_t)state->pos[seq->row_first + seq->n_rows - 1] + 1;
        uint32_t n_visible = s->ratio ? reach / s->ratio : 0;
        n += (reach < s->window ? reach : s->window) + (most && n_visible > most ? most : n_visible);
    }
    return n;
}

/* n_heads dim top_k ratio format round n_seqs start rows_per_span; is_index true; inverse: queries not rounded */
void op_case_index_select(struct op_run *run, const struct op_shape *s)
{
    struct op_state state;
    const float *q_here, *w_here;
    size_t row_n = (size_t)s->n_heads * s->dim, n_sel_all = (size_t)s->n_rows * s->top_k;
    op_state_make(run, &state);
    float *q = index_queries(run, s, s->round && !s->inverse, &q_here);
    float *w = op_input(run, (size_t)s->n_rows * s->n_heads, &w_here);
    int32_t *sel = op_put(run->dev, NULL, n_sel_all * sizeof *sel);
    int32_t *n_sel = op_put(run->dev, NULL, s->n_rows * sizeof *n_sel);
    float scale = 0.0625f;
    while (op_next(run)) {
        struct index_select_args args = {.batch = op_state_batch(run, &state), .n_heads = s->n_heads, .dim = s->dim,
                                         .top_k = s->top_k, .ratio = s->ratio, .scale = scale,
                                         .q = q + run->first * row_n, .w = w + (size_t)run->first * s->n_heads,
                                         .rows = state.rows, .sel = sel + (size_t)run->first * s->top_k,
                                         .n_sel = n_sel + run->first};
        run->dev->b->ops->index_select(run->dev->b, &args);
    }
    run->moved_bytes = rows_read(s, &state, 0) * state.rows.row_bytes +
                       (s->n_rows * (row_n + s->n_heads) + n_sel_all) * sizeof(float);
    int32_t *sel_here = op_host(run, n_sel_all, sizeof *sel_here), *counts = op_host(run, s->n_rows, sizeof *counts);
    op_get(run->dev, counts, n_sel, s->n_rows * sizeof *counts);
    op_get(run->dev, sel_here, sel, n_sel_all * sizeof *sel_here);
    struct op_output *output = op_output_add(run, "sel", OUTPUT_TOP, sel_here, s->n_rows, s->top_k);
    output->ascending = true;
    output->counts = counts;
    output->tolerance = s->fill == FILL_INTEGERS || s->fill == FILL_ZERO ? 0 : 2e-6; /* integers: exact, so ties show */
    fill_scores(run, &state, q_here, w_here, scale, output);
    for (uint32_t r = 0; r < s->n_rows; r++)
        if (counts[r] < 0) memset(sel_here + (size_t)r * s->top_k, 0, s->top_k * sizeof *sel_here);
}

/* A choice of compressed rows for every query: some -1 (all), else top_k of the visible ones, ascending. */
static void choose_rows(struct op_run *run, const struct op_state *state, int32_t **sel_there, int32_t **n_sel_there)
{
    const struct op_shape *s = run->shape;
    int32_t *sel = op_host(run, (size_t)s->n_rows * s->top_k, sizeof *sel);
    int32_t *n_sel = op_host(run, s->n_rows, sizeof *n_sel);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        uint32_t n_visible = ((uint32_t)state->pos[r] + 1) / s->ratio, n = 0, left = s->top_k;
        n_sel[r] = n_visible <= s->top_k ? -1 : (int32_t)s->top_k;
        for (uint32_t c = 0; n_sel[r] >= 0 && c < n_visible && left > 0; c++) {
            if (rng_below(&run->rng, n_visible - c) >= left) continue;
            sel[(size_t)r * s->top_k + n++] = (int32_t)c;
            left--;
        }
    }
    *sel_there = op_put(run->dev, sel, (size_t)s->n_rows * s->top_k * sizeof *sel);
    *n_sel_there = op_put(run->dev, n_sel, s->n_rows * sizeof *n_sel);
}

/* n_heads dim n_rope window ratio top_k n_slots format round n_seqs start rows_per_span; top_k 0: no selection;
 * inverse: one sink so large that nothing else matters, and one so small that it does not; fused: rotated back, and a
 * product */
void op_case_attention(struct op_run *run, const struct op_shape *s)
{
    struct op_state state;
    size_t row_n = (size_t)s->n_heads * s->dim;
    int32_t *sel = NULL, *n_sel = NULL;
    op_state_make(run, &state);
    if (s->top_k) choose_rows(run, &state, &sel, &n_sel);
    float *q = op_input(run, s->n_rows * row_n, NULL), *o = op_result(run, s->n_rows * row_n);
    float *sinks = op_host(run, s->n_heads, sizeof *sinks);
    op_fill(run, sinks, s->n_heads, FILL_NORMAL);
    for (uint32_t h = 0; h < s->n_heads; h++) sinks[h] = 2 * sinks[h] + 3; /* a visible share among hundreds of rows */
    if (s->inverse) {
        sinks[0] = 200;
        sinks[s->n_heads - 1] = -1e30f;
    }
    float *sinks_there = op_put(run->dev, sinks, s->n_heads * sizeof *sinks);
    struct op_after after = op_after_make(run, (uint32_t)row_n);
    float *freq_there = s->fused ? op_frequencies(run, false) : NULL;
    while (op_next(run)) {
        struct attention_args args = {.batch = op_state_batch(run, &state), .n_heads = s->n_heads, .dim = s->dim,
                                      .n_rope = s->n_rope, .window = s->window, .ratio = s->ratio, .top_k = s->top_k,
                                      .scale = (float)(1 / sqrt((double)s->dim)), .q = q + run->first * row_n,
                                      .sinks = sinks_there, .ring = state.ring, .rows = state.rows,
                                      .sel = sel ? sel + (size_t)run->first * s->top_k : NULL,
                                      .n_sel = n_sel ? n_sel + run->first : NULL, .o = o + run->first * row_n};
        run->dev->b->ops->attention(run->dev->b, &args);
        struct rope_args rope = {.n_rows = run->n, .n_heads = s->n_heads, .dim = s->dim, .n_rope = s->n_rope,
                                 .inverse = true, .pos = args.batch.pos, .freq = freq_there, .x = args.o};
        if (s->fused) run->dev->b->ops->rope(run->dev->b, &rope);
        op_after_run(run, &after, args.o);
    }
    run->moved_bytes = rows_read(s, &state, s->top_k) * state.ring.row_bytes + 2 * s->n_rows * row_n * sizeof(float);
    op_output_floats(run, "o", o, (size_t)s->n_rows * s->n_heads, s->dim, 2e-5);
    op_after_output(run, &after);
}
