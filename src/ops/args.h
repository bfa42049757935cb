/* args.h - the argument records of the operations of the forward pass (one per row of ops.def).
 *
 * Pointers are addresses of the backend: the graph computes with them but never reads through them. Arrays are
 * row-major, slowest index first, float32 unless said otherwise. `n_rows` is the number of rows (tokens) of the batch.
 * What each operation computes is defined by src/ops/ref. Numbers in comments are V4 Flash's. */
#ifndef DS4_OPS_ARGS_H
#define DS4_OPS_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OPS_MATMUL_OUTPUTS_MAX 8 /* matrices that one call multiplies with the same input */

/* Where the matrices of a stack are when they come one by one: at[i] is NULL until matrix i is in memory, and wait
 * returns when it is (never NULL). What goes wrong meanwhile is reported by whoever brings them. */
struct op_stacks {
    const uint8_t *const *at;
    const uint8_t *(*wait)(const struct op_stacks *stacks, uint32_t i);
    void *owner;
    uint32_t layer_i, part_i; /* for the owner */
    uint64_t offset;          /* of the matrix behind at[i] */
};

#define OP_PACKED 0x100u /* beside a type: laid out anew by the backend, where only products read it */

/* A matrix [n_stack][n_out][n_in] of quantised rows: y = x W^T. n_stack > 1: routed experts. */
struct op_weight {
    const uint8_t *data;   /* NULL when stacks is set */
    uint32_t type;         /* quant_id; OP_PACKED */
    uint32_t n_in, n_out;
    uint64_t row_bytes;
    uint32_t n_stack;
    uint64_t stack_bytes;  /* from one expert to the next */
    const struct op_stacks *stacks; /* NULL: one behind another from data on */
};
/* True when matrix i can be had without waiting. */
static inline bool op_weight_is_there(const struct op_weight *w, uint32_t i)
{
    return !w->stacks || __atomic_load_n(&w->stacks->at[i], __ATOMIC_ACQUIRE);
}
/* First byte of matrix i; waits for it if need be. */
static inline const uint8_t *op_weight_stack(const struct op_weight *w, uint32_t i)
{
    if (!w->stacks) return w->data + i * w->stack_bytes;
    const uint8_t *at = __atomic_load_n(&w->stacks->at[i], __ATOMIC_ACQUIRE);
    return (at ? at : w->stacks->wait(w->stacks, i)) + w->stacks->offset;
}

/* How rows of state are kept.
 * PACKED key-value row of dim d: (d - n_rope) E4M3 bytes, (d - n_rope)/64 UE8M0 bytes, n_rope BF16, padded to 8.
 * PACKED index row of dim d: d/2 bytes of E2M1 (element 2i in the low nibble), d/32 UE8M0 bytes.
 * F32: d floats. */
enum op_row_format { OP_ROW_PACKED, OP_ROW_F32 };
#define OP_KV_BLOCK 64    /* values that share an E4M3 scale */
#define OP_INDEX_BLOCK 32 /* values that share an E2M1 scale */

/* The rows of a batch and the sessions they belong to. The rows of one session are consecutive and ascending.
 * State of a session: its *tail* (rings and compressor slots of all layers) and its *spans*, each holding the
 * compressed rows of all layers for an aligned run of tokens. */
struct op_seq {
    uint32_t tail_i;     /* index into tails */
    uint32_t span_first; /* the session's spans are span_ids[span_first...] */
    uint32_t row_first, n_rows;
    uint32_t rows_to;    /* compressed rows that earlier positions complete are there and are not written */
};
struct op_batch {
    uint32_t n_rows, n_seqs;
    const int32_t *tokens;      /* [n_rows] */
    const int32_t *pos;         /* [n_rows] absolute position */
    const uint32_t *seq_i;      /* [n_rows] index into seqs */
    const struct op_seq *seqs;  /* [n_seqs] */
    uint8_t *tails;
    uint64_t tail_bytes;
    uint8_t *spans;
    uint64_t span_bytes;
    const uint32_t *span_ids;
};

/* Where the compressed rows of one kind and layer lie inside a span: row c is row c % rows_per_span of span
 * c / rows_per_span. */
struct op_span_rows {
    uint64_t offset;        /* bytes inside the span */
    uint32_t row_bytes, rows_per_span;
    enum op_row_format format;
};
/* The ring of raw rows of one layer in the tail: position t is in slot t % n_slots. */
struct op_ring {
    uint64_t offset;
    uint32_t row_bytes, n_slots;
    enum op_row_format format;
};

/* x[r][j][:] = table[tokens[r]] for all streams j. */
struct embed_args {
    uint32_t n_rows, n_hc, n_embd;
    const int32_t *tokens;
    struct op_weight table;
    float *x; /* [n_rows][n_hc][n_embd] */
};

/* Hyper-connection coefficients of a sub-layer: model spec 4.2. n_mix = n_hc (2 + n_hc) = 24. */
struct hc_mix_args {
    uint32_t n_rows, n_hc, n_embd, n_iters;
    float hc_eps, rms_eps;
    const float *x;         /* [n_rows][n_hc][n_embd] */
    struct op_weight fn;    /* [n_mix][n_hc n_embd] */
    const float *scale;     /* [3] */
    const float *base;      /* [n_mix] */
    float *pre, *post;      /* [n_rows][n_hc] */
    float *comb;            /* [n_rows][n_hc][n_hc], contracted on the first index */
};
/* u[r] = RMS(sum_j w[r][j] x[r][j]; norm). norm NULL: no norm at all. */
struct hc_reduce_args {
    uint32_t n_rows, n_hc, n_embd;
    float rms_eps;
    const float *x, *w; /* [n_rows][n_hc][n_embd], [n_rows][n_hc] */
    const float *norm;  /* [n_embd] or NULL */
    float *u;           /* [n_rows][n_embd] */
};
/* x[r][k] = post[r][k] y[r] + sum_j comb[r][j][k] x[r][j], in place. */
struct hc_expand_args {
    uint32_t n_rows, n_hc, n_embd;
    float *x;
    const float *y, *post, *comb;
};
/* w[r][j] = sigmoid(scale m_j + base_j) + hc_eps with m as in hc_mix (n_hc outputs). */
struct hc_head_args {
    uint32_t n_rows, n_hc, n_embd;
    float hc_eps, rms_eps;
    const float *x;
    struct op_weight fn;       /* [n_hc][n_hc n_embd] */
    const float *scale, *base; /* [1], [n_hc] */
    float *w;                  /* [n_rows][n_hc] */
};

/* y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight; weight NULL: none. y may be x. */
struct rms_norm_args {
    uint32_t n_rows, n;
    float eps;
    const float *x, *weight;
    float *y;
};

/* Rotates the last n_rope entries of every head by pos[r] * freq (adjacent pairs), in place. inverse: by minus that.
 * The angle is one float32 product; its cosine and sine are accurate to float32 with full range reduction. */
struct rope_args {
    uint32_t n_rows, n_heads, dim, n_rope;
    bool inverse;
    const int32_t *pos;  /* [n_rows] */
    const float *freq;   /* [n_rope/2] */
    float *x;            /* [n_rows][n_heads][dim] */
};

/* y_i[r] = x[r] W_i^T for each output. With n_groups > 1 the input is [n_rows][n_groups][n_in] and output rows
 * [g n_out/n_groups, (g+1) n_out/n_groups) use group g; then n_outputs is 1. */
struct matmul_args {
    uint32_t n_rows, n_outputs, n_groups;
    const float *x; /* [n_rows][n_groups n_in] */
    struct {
        struct op_weight w;
        float *y;   /* [n_rows][n_out] */
    } out[OPS_MATMUL_OUTPUTS_MAX];
};

/* Stores kv[r] (normed and rotated) into the ring of its session. round: through E4M3 as model spec 3.1; the n_rope
 * tail goes through BF16 when the ring is packed, unchanged when it is F32. */
struct kv_store_args {
    struct op_batch batch;
    uint32_t dim, n_rope;
    bool round;
    struct op_ring ring;
    const float *kv; /* [n_rows][dim] */
};

/* Feeds the compressor of one layer (model spec 4.4, 4.5) with the rows of every session in order; each completed
 * window appends one row to the session's spans. width = dim for ratio 128, 2 dim for ratio 4.
 * Slots in the tail: n_slots x width floats of k, then the same of g (g has ape added); position t in t % n_slots.
 * is_index: the row is rotated, then Hadamard-transformed and rounded through E2M1 (spec 3.2), else rounded as
 * kv_store does. `round` false: no E4M3/E2M1 rounding (the Hadamard stays). */
struct compress_args {
    struct op_batch batch;
    uint32_t ratio, dim, width, n_rope, n_slots;
    bool is_index, round;
    float rms_eps;
    uint64_t slots_offset;      /* bytes inside the tail */
    const float *k, *g;         /* [n_rows][width] projections; ape is added here */
    const float *ape;           /* [ratio][width] */
    const float *norm;          /* [dim] */
    const float *freq;          /* [n_rope/2] */
    struct op_span_rows rows;
};

/* Index queries: Hadamard and (round) E2M1 rounding of every head, in place, after rope. */
struct index_query_args {
    uint32_t n_rows, n_heads, dim;
    bool round;
    float *q; /* [n_rows][n_heads][dim] */
};
/* sel[r] = the top_k visible rows with the largest sum_h w[r][h] * scale * max(0, q[r][h] . K_c), ascending row number,
 * ties to the lower row; n_sel[r] = their number, or -1 for "all visible" when (pos+1)/ratio <= top_k. */
struct index_select_args {
    struct op_batch batch;
    uint32_t n_heads, dim, top_k, ratio;
    float scale;
    const float *q;      /* [n_rows][n_heads][dim] */
    const float *w;      /* [n_rows][n_heads] */
    struct op_span_rows rows;
    int32_t *sel;        /* [n_rows][top_k] */
    int32_t *n_sel;      /* [n_rows] */
};

/* Attention with sinks over raw rows max(0, pos-window+1)..pos, then compressed rows (those of sel, or all visible
 * ones: c < (pos+1)/ratio), in this order, keys = values. sel NULL: all visible. ratio 0: raw rows only. */
struct attention_args {
    struct op_batch batch;
    uint32_t n_heads, dim, n_rope, window, ratio, top_k;
    float scale;
    const float *q;      /* [n_rows][n_heads][dim] */
    const float *sinks;  /* [n_heads] */
    struct op_ring ring;
    struct op_span_rows rows;
    const int32_t *sel, *n_sel;
    float *o;            /* [n_rows][n_heads][dim] */
};

/* s = sqrt(softplus(logits)); choice: hash[tokens[r]] or the n_used largest of s + bias (ties: lower id), in
 * descending order; weights = scale * s / sum of chosen s. */
struct router_args {
    uint32_t n_rows, n_experts, n_used;
    float scale;
    const float *logits;   /* [n_rows][n_experts] */
    const float *bias;     /* [n_experts] or NULL */
    const int32_t *hash;   /* [n_vocab][n_used] or NULL */
    const int32_t *tokens; /* [n_rows], used with hash */
    int32_t *ids;          /* [n_rows][n_used] */
    float *weights;        /* [n_rows][n_used] */
    /* What moe_gate_up gets next, unchanged until then, which a backend may round ahead; NULL: that is not said. */
    const float *x;
    const struct op_weight *gate, *up;
};
/* m[r][i] = weights[r][i] * silu(min(g, limit)) * clamp(u, -limit, limit), g = x W_gate^T, u = x W_up^T of expert
 * ids[r][i]. */
struct moe_gate_up_args {
    uint32_t n_rows, n_used;
    float limit;
    const float *x;        /* [n_rows][n_in] */
    const int32_t *ids;
    const float *weights;
    struct op_weight gate, up;
    float *m;              /* [n_rows][n_used][n_out] */
};
/* y[r] = sum_i m[r][i] W_down^T of expert ids[r][i], added in the order i = 0, 1, ... */
struct moe_down_args {
    uint32_t n_rows, n_used;
    const float *m;        /* [n_rows][n_used][n_in] */
    const int32_t *ids;
    struct op_weight down;
    float *y;              /* [n_rows][n_out] */
};
/* m[i] = silu(min(a[i], limit)) * clamp(b[i], -limit, limit). m may be a. */
struct swiglu_args {
    size_t n;
    float limit;
    const float *a, *b;
    float *m;
};
/* y[i] += x[i]. */
struct add_args {
    size_t n;
    const float *x;
    float *y;
};
/* x[r][j] += e[r] for all streams j. */
struct add_streams_args {
    uint32_t n_rows, n_hc, n_embd;
    const float *e;
    float *x;
};
/* y[i] = x[index[i]], rows of n floats. */
struct gather_args {
    uint32_t n_out, n;
    const uint32_t *index;
    const float *x;
    float *y;
};

#endif
