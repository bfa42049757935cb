/* rows.h - rows of session state: where they lie, how they are rounded, packed and unpacked. Shared by the backends of
 * the host, so that what one stores the other reads.
 *
 * PACKED key-value row of `dim` values, the last n_rope of them rotated:
 *   OFFSET              SIZE                 DESCRIPTION
 *   0                   dim - n_rope         E4M3 codes of values 0 .. dim - n_rope - 1
 *   dim - n_rope        (dim - n_rope) / 64  UE8M0 scales, one for 64 values
 *   after the scales    2 n_rope             BF16, little-endian
 *   then                0 .. 7               zeros, up to a multiple of 8
 * PACKED index row of `dim` values:
 *   0                   dim / 2              E2M1 codes, element 2i in the low nibble of byte i
 *   dim / 2             dim / 32             UE8M0 scales, one for 32 values
 * F32 rows of either kind: dim floats.
 *
 * Unpacking is exact, and packing an unpacked row gives the same values again (rounding is idempotent). It gives the
 * same bytes too, except that a block whose largest magnitude had rounded down to half of the code range (224 or 3)
 * comes back with half the scale and twice the codes.
 * Source: model spec 3.1 to 3.3. */
#ifndef DS4_OPS_ROWS_H
#define DS4_OPS_ROWS_H

#include "ops/args.h"

/* Bytes that a row takes. dim - n_rope is a multiple of 64, n_rope is even; dim of an index row a multiple of 32. */
uint32_t kv_row_bytes(enum op_row_format format, uint32_t dim, uint32_t n_rope);
uint32_t index_row_bytes(enum op_row_format format, uint32_t dim);

/* Rounds in place: values before the rotated tail through E4M3 with a power-of-two scale for 64 (spec 3.1); the tail
 * stays. */
void kv_row_round(float *row, uint32_t dim, uint32_t n_rope);
/* Rounds in place through E2M1 with a power-of-two scale for 32 (spec 3.2, after the Hadamard transform). */
void index_row_round(float *row, uint32_t dim);

/* Packing rounds as above, and the rotated tail through BF16. */
void kv_row_pack(const float *row, uint32_t dim, uint32_t n_rope, uint8_t *packed);
void kv_row_unpack(const uint8_t *packed, uint32_t dim, uint32_t n_rope, float *row);
void index_row_pack(const float *row, uint32_t dim, uint8_t *packed);
void index_row_unpack(const uint8_t *packed, uint32_t dim, float *row);

/* Walsh-Hadamard transform in natural (Sylvester) order times n^-1/2, in place; n is a power of two. Butterflies
 * (u, v) -> (u + v, u - v) of strides 1, 2, 4 ... in float32, then one float32 product with fl32(n^-1/2): every
 * backend that keeps this order gives the same bits, so that the rounding that follows does not flip. */
void hadamard(float *x, uint32_t n);

/* A row in its place: rounds if asked (a packed row always is), then stores in the format. row is clobbered. */
void kv_row_store(float *row, uint32_t dim, uint32_t n_rope, bool round, enum op_row_format format, uint8_t *to);
void index_row_store(float *row, uint32_t dim, bool round, enum op_row_format format, uint8_t *to);
void kv_row_load(const uint8_t *from, enum op_row_format format, uint32_t dim, uint32_t n_rope, float *row);
void index_row_load(const uint8_t *from, enum op_row_format format, uint32_t dim, float *row);

/* The tail of a session. */
static inline uint8_t *seq_tail(const struct op_batch *batch, const struct op_seq *seq)
{
    return batch->tails + seq->tail_i * batch->tail_bytes;
}
/* The raw row of position pos in a ring. */
static inline uint8_t *ring_row(const struct op_batch *batch, const struct op_seq *seq, const struct op_ring *ring,
                                int32_t pos)
{
    uint64_t slot = (uint32_t)pos % ring->n_slots;
    return seq_tail(batch, seq) + ring->offset + slot * ring->row_bytes;
}
/* Compressed row c of a session. */
static inline uint8_t *span_row(const struct op_batch *batch, const struct op_seq *seq,
                                const struct op_span_rows *rows, uint32_t c)
{
    uint32_t id = batch->span_ids[seq->span_first + c / rows->rows_per_span];
    return batch->spans + id * batch->span_bytes + rows->offset + (uint64_t)(c % rows->rows_per_span) * rows->row_bytes;
}

#endif
