/* internal.h - the graph's own struct: what it was made from, and its scratch buffers with their shapes. */
#ifndef DS4_GRAPH_INTERNAL_H
#define DS4_GRAPH_INTERNAL_H

#include "graph/graph.h"

#define GRAPH_HEAD_ROWS 8u /* rows whose logits are computed at a time: 4 MB of Flash */
#define GRAPH_GUESS_ROWS 8u /* a larger batch names so many experts that reading does not wait for computing */

/* Buffers of the backend; R = n_rows_max. */
struct graph_buffers {
    int32_t *tokens, *pos;        /* [R] */
    uint32_t *seq_i, *row_index;  /* [R] */
    struct op_seq *seqs;          /* [n_seqs_max] */
    uint32_t *span_ids;           /* [n_span_ids_max] */
    float *x;                     /* [R][n_hc][n_embd] streams of the trunk */
    float *x_draft;               /* the same of the draft block; NULL without one */
    float *x_projected;           /* and its input while it is built */
    float *pre, *post, *comb;     /* [R][n_hc], [R][n_hc], [R][n_hc][n_hc] */
    float *u, *y;                 /* [R][n_embd] input and output of a sub-layer */
    float *q_low, *q, *o;         /* [R][q_rank], [R][n_heads][head_dim] twice */
    float *kv;                    /* [R][head_dim] */
    float *o_low;                 /* [R][o_groups o_rank] */
    float *comp_k, *comp_g;       /* [R][2 head_dim] */
    float *index_k, *index_g;     /* [R][2 index_dim] */
    float *index_q, *index_w;     /* [R][index_heads][index_dim], [R][index_heads] */
    int32_t *sel, *n_sel;         /* [R][top_k], [R] */
    float *route;                 /* [R][n_experts] */
    int32_t *expert_ids;          /* [R][n_used] */
    float *expert_w;              /* [R][n_used] */
    float *next_pre, *next_post;  /* [GRAPH_GUESS_ROWS][n_hc] twice; these six for graph_guess_experts */
    float *next_comb, *next_u;    /* [GRAPH_GUESS_ROWS][n_hc][n_hc], [GRAPH_GUESS_ROWS][n_embd] */
    int32_t *next_ids;            /* [GRAPH_GUESS_ROWS][n_used] */
    float *next_w;                /* [GRAPH_GUESS_ROWS][n_used] */
    float *mid;                   /* [R][n_used][n_ff] */
    float *shared_a, *shared_b;   /* [R][n_ff] */
    float *head_w;                /* [R][n_hc] */
    float *head_x;                /* [GRAPH_HEAD_ROWS][n_hc][n_embd] */
    float *logits;                /* [GRAPH_HEAD_ROWS][n_vocab] */
};

struct graph {
    struct graph_config c;
    struct graph_buffers buf;
    uint8_t *memory;
    size_t memory_bytes;
    ds4_probe_fn probe;
    void *probe_user;
    struct op_batch batch; /* of the forward under way */
    int32_t pos_max;       /* largest position in it */
};

/* Sub-layers: u -> y for the rows of g->batch. */
void graph_attention(struct graph *g, const struct layer_weights *w, const struct layer_state *state, float *y);
void graph_ffn(struct graph *g, const struct layer_weights *w, uint32_t layer_i, float *y);
/* Names the experts of hash-routed layers, which the tokens (of the host) decide, to the pool of streamed experts. */
void graph_expect_experts(struct graph *g, const int32_t *tokens);
/* Begins and ends a pass of the pool of streamed experts, if there is one (n_tokens: that pass all
 * layers of the trunk); end also finishes the backend's work. */
enum ds4_status graph_begin(struct graph *g, uint32_t n_tokens, struct ds4_error *error) DS4_MUST_CHECK;
enum ds4_status graph_end(struct graph *g, struct ds4_error *error) DS4_MUST_CHECK;
/* Token embeddings through all layers. */
void graph_walk(struct graph *g);
/* One layer on streams x. layer_i numbers probes, limits and state; the draft block is layer n_layers. */
void graph_layer(struct graph *g, const struct layer_weights *w, uint32_t layer_i, float *x);
/* Uploads the batch; checks its numbers with ensure. */
void graph_set_batch(struct graph *g, const struct graph_rows *rows);
/* Streams -> logits with the given head, GRAPH_HEAD_ROWS at a time. */
enum ds4_status graph_head(struct graph *g, const float *x, const struct hc_weights *hc, const float *norm,
                           const uint32_t *row_i, uint32_t n, float *const *out,
                           struct ds4_error *error) DS4_MUST_CHECK;
/* The logits of the rows that row_index names, one for each of the batch, the trunk's, into memory of the backend. */
void graph_head_rows(struct graph *g, float *logits);
/* The same of the draft block, for a batch of one row. */
void graph_head_draft(struct graph *g, float *logits);
void graph_probe_at(struct graph *g, enum ds4_probe_point point, uint32_t layer_i, const float *data, uint32_t n_cols,
                    bool with_ids);

/* RUN(g, rms_norm, .n_rows = ..., ...): calls an operation with a record built in place. */
#define RUN(g, op, ...) \
    do { \
        const struct op##_args args_ = {__VA_ARGS__}; \
        (g)->c.backend->ops->op((g)->c.backend, &args_); \
    } while (0)

#endif
