/* records.h - the argument records of the kernels: 32-bit fields only, so that C, Metal, CUDA and the emulator see the
 * same bytes. Buffers are parameters of their own and are not named here; an optional one that is absent is bound to
 * something unused and its flag is 0. What the operations compute is said in ops/args.h. */
#ifndef DS4_GPU_KERNELS_RECORDS_H
#define DS4_GPU_KERNELS_RECORDS_H

struct embed_record {
    uint32_t n_hc, n_embd, row_bytes;
};
#define HC_PARTS 32 /* of an input at most, whose products are summed in order; one has 256 values at least */
#define HC_ROWS 8   /* that a threadgroup of hc_dot multiplies */
#define HC_STAGE 64 /* chunks of 8 values of a row that it holds */
/* n_streams: that a part has the same `each` chunks of. aligned: of row_record. expands, has_more: as
 * hc_expand does before. */
struct hc_dot_record {
    uint32_t n_in, n_out, row_bytes, n_rows, aligned;
    uint32_t n_streams, each, expands, has_more;
};
struct hc_mix_record {
    uint32_t n_hc, n_in, n_parts, n_iters;
    float hc_eps, rms_eps;
};
struct hc_sum_record { /* reduce and expand */
    uint32_t n_hc, n_embd, has_norm, has_more;
    float rms_eps, most; /* most, in_bytes: of quantise_record */
    uint32_t in_bytes, quantises;
};
struct hc_enter_record {
    struct hc_mix_record mix;
    struct hc_sum_record sum;
};
struct rms_norm_record {
    uint32_t n, has_weight;
    float eps, most;
    uint32_t in_bytes;
};
struct rope_record {
    uint32_t n_heads, dim, n_rope, inverse;
};
struct rope_quantise_record {
    struct rope_record rope;
    uint32_t n_blocks; /* of 32, of a row */
    float most;        /* most, in_bytes: of quantise_record */
    uint32_t in_bytes;
};
struct matvec_record {
    uint32_t n_in, n_out, row_bytes, n_groups, group_out, n_rows, aligned; /* group_out: outputs of a group */
};
/* Up to MATRICES matrices with one row of input in common: matrix i has the threadgroups from first[i] on, of 8 outputs
 * each. aligned: rows of weights and of the input begin at multiples of 16 bytes and have a multiple of 8 values. */
#define MATRICES 5
struct row_record {
    uint32_t n_in, row_bytes, aligned;
    uint32_t first[MATRICES], n_out[MATRICES], group_out[MATRICES];
};
struct beside_record {
    struct row_record floats, blocks;
    uint32_t n_floats; /* threadgroups of the float matrices */
};
struct quantise_record {
    uint32_t n_blocks; /* of 32, of a row */
    float most;        /* the largest integer */
    uint32_t in_bytes; /* integers in two bytes for digits.k, not as halves */
};
struct sort_record {
    uint32_t n_pairs, n_experts, n_tiles; /* n_tiles: room in the list */
};
struct moe_record {
    uint32_t n_in, n_out, n_used, row_bytes;
    uint32_t stack_low, stack_high; /* bytes from one expert to the next, 64 bits */
    float limit;
};
struct elements_record {
    uint32_t n, n_hc, n_embd;
    float limit, most;
    uint32_t in_bytes;
};

/* struct op_seq as words. */
#define SEQ_TAIL 0
#define SEQ_SPANS 1
#define SEQ_FIRST 2
#define SEQ_ROWS 3
#define SEQ_ROWS_TO 4
#define SEQ_WORDS 5

/* Where state lies; see op_ring and op_span_rows. Rows are packed unless is_f32. */
struct ring_place {
    uint32_t tail_bytes, offset, row_bytes, n_slots, is_f32;
};
struct rows_place {
    uint32_t span_bytes, offset, row_bytes, per_span, is_f32;
};
struct kv_store_record {
    uint32_t dim, n_rope, round;
    struct ring_place ring;
};
struct compress_record {
    uint32_t ratio, dim, width, n_rope, n_slots, is_index, round;
    float rms_eps;
    uint32_t tail_bytes, slots_offset;
    struct rows_place rows;
};
/* Of n_heads + 1 heads the last one is kv. */
struct norm_rope_record {
    uint32_t n_heads, dim, n_rope, has_weight, kv_has_weight, round;
    float eps, kv_eps;
    struct ring_place ring;
};
struct prepare_record {
    struct norm_rope_record heads;
    uint32_t n_parts; /* threadgroups of a row for heads */
    struct compress_record compress[2];
};
struct index_query_record {
    uint32_t n_heads, dim, round, n_rope;
    float norm; /* fl32(dim^-1/2) */
};
struct index_record {
    uint32_t n_heads, dim, top_k, ratio, row_first; /* row_first: of this slice of the batch */
    uint32_t n_keys;                                /* a row of keys */
    uint32_t n_sg;                                  /* of a threadgroup of index_top */
    float scale;
    struct rows_place rows;
};
struct attention_record {
    uint32_t n_heads, dim, n_rope, window, ratio, top_k, has_sel, n_chunks;
    uint32_t n_sg; /* heads that share rows: 8 or 16 */
    float scale;
    struct ring_place ring;
    struct rows_place rows;
};
struct merge_record {
    struct attention_record seen;
    uint32_t n_rope, inverse; /* of the rotation that follows; n_rope 0: none */
    uint32_t quantises, in_bytes;
    float most; /* most, in_bytes: of quantise_record */
};
struct repack_record {
    uint32_t block_bytes, n_blocks; /* n_blocks: of a group */
    uint32_t from[4], bytes[4];     /* parts of a block in their order in the group */
};
struct generate_record {
    uint32_t n_blocks, block_bytes, seed;
    uint32_t n_ruled, first, step, keep, set; /* bytes first + i step become (byte & keep) | set */
    uint32_t n_halves, half_at0, half0, half_at1, half1;
};
struct sample_record {
    uint32_t n, n_groups, each, n_max;
    uint32_t has_steps; /* margin and temperature are those of the row's struct backend_step */
    float margin, inverse_temperature;
};
#define CHOICES 4 /* kept of a row: a choice is had before as many have followed it */
#define STEP_WORDS 10 /* of a struct backend_step */
#define STEP_MARGIN 0
#define STEP_TEMPERATURE 1
#define STEP_MIN_P 2
#define STEP_TOP_P 3
#define STEP_TOP_K 4
#define STEP_BELOW_MIN 5
#define STEP_GENERATOR 6
#define STEP_N 8
struct choose_record {
    uint32_t n_rows, row_first; /* of all; the first of this dispatch */
};
struct router_record {
    uint32_t n_experts, n_used, has_bias, has_hash;
    float scale;
};
struct route_record {
    struct router_record route;
    uint32_t n_rows, n_rounding; /* threadgroups: of rows, of those that round the experts' input */
    struct quantise_record round;
    struct elements_record swiglu;
    uint32_t quantises; /* the activation's result is rounded */
};

#endif
