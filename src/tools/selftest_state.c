/* selftest_state.c - see selftest_state.h. */
#include "tools/selftest_state.h"

#include <string.h>

#include "ops/rows.h"

static uint32_t row_bytes(const struct op_shape *s)
{
    return s->is_index ? index_row_bytes(s->format, s->dim) : kv_row_bytes(s->format, s->dim, s->n_rope);
}

static uint32_t round_up(uint32_t n, uint32_t step) { return (n + step - 1) / step * step; }

static void make_seqs(struct op_run *run, struct op_state *state)
{
    const struct op_shape *s = run->shape;
    uint32_t r = 0;
    state->n_seqs = s->n_seqs;
    state->n_tails = s->n_seqs + 1;
    state->seqs = op_host(run, s->n_seqs, sizeof *state->seqs);
    state->pos = op_host(run, s->n_rows, sizeof *state->pos);
    state->seq_i = op_host(run, s->n_rows, sizeof *state->seq_i);
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        uint32_t n = (s->n_rows - r) / (s->n_seqs - i); /* the last take what is left over */
        state->seqs[i] = (struct op_seq){.tail_i = s->n_seqs - i, .row_first = r, .n_rows = n};
        if (i % 2) state->seqs[i].rows_to = s->start + 37 * i + n / 2; /* going far back: some rows are there */
        for (uint32_t k = 0; k < n; k++, r++) {
            state->pos[r] = (int32_t)(s->start + 37 * i + k);
            state->seq_i[r] = i;
        }
    }
}

/* Every session gets spans for its last position; ids are dealt out backwards with gaps. */
static void make_spans(struct op_run *run, struct op_state *state)
{
    const struct op_shape *s = run->shape;
    uint32_t n_needed[64], n_ids = 0;
    ensure(s->n_seqs <= 64);
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        const struct op_seq *seq = &state->seqs[i];
        uint32_t n_rows = seq->n_rows ? ((uint32_t)state->pos[seq->row_first + seq->n_rows - 1] + 1) / s->ratio : 0;
        n_needed[i] = n_rows / s->rows_per_span + 1;
        state->seqs[i].span_first = n_ids + 1;
        n_ids += n_needed[i] + 1;
    }
    state->n_span_ids = n_ids;
    state->n_spans = n_ids + 2;
    state->span_ids = op_host(run, n_ids, sizeof *state->span_ids);
    for (uint32_t i = 0; i < n_ids; i++) state->span_ids[i] = n_ids - i;
}

static void fill_rows(struct op_run *run, float *row, uint8_t *at, uint32_t n, uint32_t bytes)
{
    const struct op_shape *s = run->shape;
    for (uint32_t i = 0; i < n; i++) {
        op_fill(run, row, s->dim, s->fill);
        if (s->is_index) index_row_store(row, s->dim, s->round, s->format, at + (size_t)i * bytes);
        else kv_row_store(row, s->dim, s->n_rope, s->round, s->format, at + (size_t)i * bytes);
    }
}

static void make_tails(struct op_run *run, struct op_state *state)
{
    const struct op_shape *s = run->shape;
    uint32_t bytes = row_bytes(s), n_ring = s->window ? s->n_slots : 0, n_floats = s->n_out * 2 * s->n_slots;
    if (s->window && !s->fused) n_floats = 0; /* a ring or compressor slots, as the operation needs */
    state->ring = (struct op_ring){64, bytes, n_ring, s->format};
    state->slots_offset = round_up(64 + n_ring * bytes + 32, 64);
    state->tail_bytes = state->slots_offset + (uint64_t)n_floats * sizeof(float) + 96;
    uint8_t *image = op_host(run, state->n_tails, (size_t)state->tail_bytes);
    float *row = op_host(run, s->dim, sizeof *row);
    for (size_t i = 0; i < state->n_tails * state->tail_bytes; i++) image[i] = (uint8_t)(i * 31 + 7);
    for (uint32_t i = 0; i < state->n_tails; i++) {
        uint8_t *tail = image + i * state->tail_bytes;
        if (n_ring) fill_rows(run, row, tail + state->ring.offset, n_ring, bytes);
        if (n_floats) op_fill(run, (float *)(void *)(tail + state->slots_offset), n_floats, s->fill);
    }
    state->tails = op_put(run->dev, image, state->n_tails * state->tail_bytes);
}

void op_state_make(struct op_run *run, struct op_state *state)
{
    const struct op_shape *s = run->shape;
    memset(state, 0, sizeof *state);
    make_seqs(run, state);
    make_tails(run, state);
    state->pos_there = op_put(run->dev, state->pos, s->n_rows * sizeof *state->pos);
    if (!s->ratio) return;
    make_spans(run, state);
    uint32_t bytes = row_bytes(s);
    if (s->format == OP_ROW_PACKED) bytes += 8;
    state->rows = (struct op_span_rows){128, bytes, s->rows_per_span, s->format};
    state->span_bytes = round_up(128 + s->rows_per_span * bytes + 64, 64);
    uint8_t *image = op_host(run, state->n_spans, (size_t)state->span_bytes);
    float *row = op_host(run, s->dim, sizeof *row);
    for (size_t i = 0; i < state->n_spans * state->span_bytes; i++) image[i] = (uint8_t)(i * 29 + 3);
    for (uint32_t i = 0; i < state->n_spans; i++)
        fill_rows(run, row, image + i * state->span_bytes + state->rows.offset, s->rows_per_span, bytes);
    state->spans = op_put(run->dev, image, state->n_spans * state->span_bytes);
}

struct op_batch op_state_batch(struct op_run *run, const struct op_state *state)
{
    struct op_batch batch = {.n_rows = run->n, .tails = state->tails, .tail_bytes = state->tail_bytes,
                             .spans = state->spans, .span_bytes = state->span_bytes};
    struct op_seq seqs[64];
    uint32_t *seq_i = op_host(run, run->n, sizeof *seq_i);
    for (uint32_t r = 0; r < run->n; r++) {
        uint32_t whole = state->seq_i[run->first + r];
        if (r == 0 || whole != state->seq_i[run->first + r - 1]) {
            seqs[batch.n_seqs] = state->seqs[whole];
            seqs[batch.n_seqs].row_first = r;
            seqs[batch.n_seqs++].n_rows = 0;
        }
        seqs[batch.n_seqs - 1].n_rows++;
        seq_i[r] = batch.n_seqs - 1;
    }
    batch.pos = state->pos_there + run->first;
    batch.seqs = op_put(run->dev, seqs, batch.n_seqs * sizeof *seqs);
    batch.seq_i = op_put(run->dev, seq_i, run->n * sizeof *seq_i);
    if (state->n_span_ids)
        batch.span_ids = op_put(run->dev, state->span_ids, state->n_span_ids * sizeof *state->span_ids);
    return batch;
}

const uint8_t *op_state_row(const struct op_state *state, const uint8_t *spans, uint32_t seq_i, uint32_t c)
{
    uint32_t id = state->span_ids[state->seqs[seq_i].span_first + c / state->rows.rows_per_span];
    return spans + id * state->span_bytes + state->rows.offset +
           (size_t)(c % state->rows.rows_per_span) * state->rows.row_bytes;
}

void op_state_unpack(const struct op_shape *s, const uint8_t *from, float *row)
{
    if (s->is_index) index_row_load(from, s->format, s->dim, row);
    else kv_row_load(from, s->format, s->dim, s->n_rope, row);
}
