/* layer.c - one layer: two sub-layers between hyper-connections. Source: model spec 4.1(2), 4.2.
 *   (pre, post, comb) = HC(X); u = RMS(sum_j pre_j X[j]); y = F(u); X'[k] = post_k y + sum_j comb[j,k] X[j] */
#include "graph/internal.h"

static void enter(struct graph *g, const struct hc_weights *hc, const float *norm, const float *x)
{
    const struct hparams *h = g->c.h;
    RUN(g, hc_mix, .n_rows = g->batch.n_rows, .n_hc = h->n_hc, .n_embd = h->n_embd, .n_iters = h->hc_iters,
        .hc_eps = h->hc_eps, .rms_eps = h->rms_eps, .x = x, .fn = hc->fn, .scale = hc->scale, .base = hc->base,
        .pre = g->buf.pre, .post = g->buf.post, .comb = g->buf.comb);
    RUN(g, hc_reduce, .n_rows = g->batch.n_rows, .n_hc = h->n_hc, .n_embd = h->n_embd, .rms_eps = h->rms_eps, .x = x,
        .w = g->buf.pre, .norm = norm, .u = g->buf.u);
}

static void leave(struct graph *g, float *x)
{
    const struct hparams *h = g->c.h;
    RUN(g, hc_expand, .n_rows = g->batch.n_rows, .n_hc = h->n_hc, .n_embd = h->n_embd, .x = x, .y = g->buf.y,
        .post = g->buf.post, .comb = g->buf.comb);
}

void graph_layer(struct graph *g, const struct layer_weights *w, uint32_t layer_i, float *x)
{
    enter(g, &w->hc_attn, w->attn_norm, x);
    graph_probe_at(g, DS4_PROBE_ATTN_IN, layer_i, g->buf.u, g->c.h->n_embd, false);
    graph_attention(g, w, &g->c.layout->layers[layer_i], g->buf.y);
    leave(g, x);
    enter(g, &w->hc_ffn, w->ffn_norm, x);
    graph_ffn(g, w, layer_i, g->buf.y);
    leave(g, x);
}
