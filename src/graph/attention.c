/* attention.c - the attention sub-layer with compressors and indexer. Source: model spec 4.3 to 4.6. */
#include "graph/internal.h"

#include <math.h>

static void rotate(struct graph *g, const float *freq, bool inverse, uint32_t n_heads, uint32_t dim, float *x)
{
    RUN(g, rope, .n_rows = g->batch.n_rows, .n_heads = n_heads, .dim = dim, .n_rope = g->c.h->n_rope,
        .inverse = inverse, .pos = g->buf.pos, .freq = freq, .x = x);
}

static void normalise(struct graph *g, uint32_t n_rows, uint32_t n, const float *weight, float *x)
{
    RUN(g, rms_norm, .n_rows = n_rows, .n = n, .eps = g->c.h->rms_eps, .x = x, .weight = weight, .y = x);
}

/* True when some row of the batch sees more index rows than are picked, so that a choice must be made. */
static bool must_select(const struct graph *g, const struct layer_state *state)
{
    return state->ratio == 4 && ((uint32_t)g->pos_max + 1) / state->ratio > g->c.h->index_top_k;
}

/* All products of the sub-layer's input u. */
static void project(struct graph *g, const struct layer_weights *w, const struct layer_state *state, bool select)
{
    struct matmul_args m = {.n_rows = g->batch.n_rows, .n_groups = 1, .x = g->buf.u};
    m.out[m.n_outputs].w = w->q_a, m.out[m.n_outputs++].y = g->buf.q_low;
    m.out[m.n_outputs].w = w->kv, m.out[m.n_outputs++].y = g->buf.kv;
    if (state->ratio) {
        m.out[m.n_outputs].w = w->compressor.kv, m.out[m.n_outputs++].y = g->buf.comp_k;
        m.out[m.n_outputs].w = w->compressor.gate, m.out[m.n_outputs++].y = g->buf.comp_g;
    }
    if (state->ratio == 4) {
        m.out[m.n_outputs].w = w->index_compressor.kv, m.out[m.n_outputs++].y = g->buf.index_k;
        m.out[m.n_outputs].w = w->index_compressor.gate, m.out[m.n_outputs++].y = g->buf.index_g;
    }
    if (select) m.out[m.n_outputs].w = w->index_proj, m.out[m.n_outputs++].y = g->buf.index_w;
    g->c.backend->ops->matmul(g->c.backend, &m);
}

static void compress(struct graph *g, const struct layer_weights *w, const struct layer_state *state)
{
    const struct hparams *h = g->c.h;
    RUN(g, compress, .batch = g->batch, .ratio = state->ratio, .dim = h->head_dim, .width = state->width,
        .n_rope = h->n_rope, .n_slots = state->n_slots, .is_index = false, .round = g->c.round, .rms_eps = h->rms_eps,
        .slots_offset = state->slots_offset, .k = g->buf.comp_k, .g = g->buf.comp_g, .ape = w->compressor.ape,
        .norm = w->compressor.norm, .freq = g->c.weights->freq_compressed, .rows = state->rows);
    if (state->ratio != 4) return;
    RUN(g, compress, .batch = g->batch, .ratio = state->ratio, .dim = h->index_dim, .width = state->index_width,
        .n_rope = h->n_rope, .n_slots = state->n_slots, .is_index = true, .round = g->c.round, .rms_eps = h->rms_eps,
        .slots_offset = state->index_slots_offset, .k = g->buf.index_k, .g = g->buf.index_g,
        .ape = w->index_compressor.ape, .norm = w->index_compressor.norm, .freq = g->c.weights->freq_compressed,
        .rows = state->index_rows);
}

static void select_rows(struct graph *g, const struct layer_weights *w, const struct layer_state *state)
{
    const struct hparams *h = g->c.h;
    RUN(g, matmul, .n_rows = g->batch.n_rows, .n_outputs = 1, .n_groups = 1, .x = g->buf.q_low,
        .out = {{.w = w->index_q_b, .y = g->buf.index_q}});
    rotate(g, g->c.weights->freq_compressed, false, h->index_heads, h->index_dim, g->buf.index_q);
    RUN(g, index_query, .n_rows = g->batch.n_rows, .n_heads = h->index_heads, .dim = h->index_dim, .round = g->c.round,
        .q = g->buf.index_q);
    RUN(g, index_select, .batch = g->batch, .n_heads = h->index_heads, .dim = h->index_dim, .top_k = h->index_top_k,
        .ratio = state->ratio, .scale = 1.0f / sqrtf((float)h->index_dim * (float)h->index_heads), .q = g->buf.index_q,
        .w = g->buf.index_w, .rows = state->index_rows, .sel = g->buf.sel, .n_sel = g->buf.n_sel);
}

void graph_attention(struct graph *g, const struct layer_weights *w, const struct layer_state *state, float *y)
{
    const struct hparams *h = g->c.h;
    uint32_t n_rows = g->batch.n_rows;
    const float *freq = state->ratio ? g->c.weights->freq_compressed : g->c.weights->freq_plain;
    bool select = must_select(g, state);
    project(g, w, state, select);
    normalise(g, n_rows, h->q_rank, w->q_norm, g->buf.q_low);
    RUN(g, matmul, .n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = g->buf.q_low,
        .out = {{.w = w->q_b, .y = g->buf.q}});
    normalise(g, n_rows * h->n_heads, h->head_dim, NULL, g->buf.q);
    rotate(g, freq, false, h->n_heads, h->head_dim, g->buf.q);
    normalise(g, n_rows, h->head_dim, w->kv_norm, g->buf.kv);
    rotate(g, freq, false, 1, h->head_dim, g->buf.kv);
    RUN(g, kv_store, .batch = g->batch, .dim = h->head_dim, .n_rope = h->n_rope, .round = g->c.round,
        .ring = state->ring, .kv = g->buf.kv);
    if (state->ratio) compress(g, w, state);
    if (select) select_rows(g, w, state);
    RUN(g, attention, .batch = g->batch, .n_heads = h->n_heads, .dim = h->head_dim, .n_rope = h->n_rope,
        .window = h->window, .ratio = state->ratio, .top_k = h->index_top_k,
        .scale = 1.0f / sqrtf((float)h->head_dim), .q = g->buf.q, .sinks = w->sinks, .ring = state->ring,
        .rows = state->rows, .sel = select ? g->buf.sel : NULL, .n_sel = select ? g->buf.n_sel : NULL, .o = g->buf.o);
    rotate(g, freq, true, h->n_heads, h->head_dim, g->buf.o);
    RUN(g, matmul, .n_rows = n_rows, .n_outputs = 1, .n_groups = h->o_groups, .x = g->buf.o,
        .out = {{.w = w->o_a, .y = g->buf.o_low}});
    RUN(g, matmul, .n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = g->buf.o_low,
        .out = {{.w = w->o_b, .y = y}});
}
