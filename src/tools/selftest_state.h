/* selftest_state.h - sessions for the tests of the operations on state: several sequences in one batch at different
 * positions; rings, compressor slots and spans that lie in no order, filled with valid rows beforehand. */
#ifndef DS4_TOOLS_SELFTEST_STATE_H
#define DS4_TOOLS_SELFTEST_STATE_H

#include "tools/selftest_run.h"

/* Layout of a tail: 64 bytes of no one's, the ring, at least 32 bytes, the slots of a compressor, 96 bytes. Of a span:
 * 128 bytes, compressed rows (8 bytes apart when packed), at least 64 bytes. What is no one's must not change. */
struct op_state {
    uint32_t n_seqs, n_tails, n_spans;
    struct op_seq *seqs;     /* of the whole batch */
    int32_t *pos;            /* [n_rows] */
    uint32_t *seq_i;         /* [n_rows] */
    uint32_t *span_ids;
    uint32_t n_span_ids;
    struct op_ring ring;
    struct op_span_rows rows;
    uint64_t slots_offset;   /* of the compressor, inside a tail */
    uint64_t tail_bytes, span_bytes;
    uint8_t *tails, *spans;  /* the backend's */
    int32_t *pos_there;
};

/* Sessions for the shape: n_rows divided among n_seqs, session i beginning at start + 37 i. */
void op_state_make(struct op_run *run, struct op_state *state);
/* The batch of the run's present turn. */
struct op_batch op_state_batch(struct op_run *run, const struct op_state *state);
/* Compressed row c of session seq_i in an image of the spans read back from the backend. */
const uint8_t *op_state_row(const struct op_state *state, const uint8_t *spans, uint32_t seq_i, uint32_t c);
/* Unpacks a row of the kind that the shape has. */
void op_state_unpack(const struct op_shape *s, const uint8_t *from, float *row);

#endif
