/* moe.c - the feed-forward sub-layer: router, routed experts, shared expert. Source: model spec 4.7. The router comes
 * first and the routed experts last, so that experts that are not in memory are read while the shared one is
 * computed; when all are, what takes the same input goes together. */
#include "graph/internal.h"

/* Asks the next layer's router about the streams as they are now, between this layer's attention and its experts: most
 * of what it names is what it will choose, and can be read while this layer's experts and the next one's attention are
 * computed. Nothing but the time of reading depends on it. */
static void guess_experts(struct graph *g, uint32_t layer_i)
{
    const struct hparams *h = g->c.h;
    const struct layer_weights *w = &g->c.weights->layers[layer_i];
    struct stream *stream = g->c.weights->stream;
    uint32_t n_rows = g->batch.n_rows;
    RUN(g, hc_mix, .n_rows = n_rows, .n_hc = h->n_hc, .n_embd = h->n_embd, .n_iters = h->hc_iters,
        .hc_eps = h->hc_eps, .rms_eps = h->rms_eps, .x = g->buf.x, .fn = w->hc_ffn.fn, .scale = w->hc_ffn.scale,
        .base = w->hc_ffn.base, .pre = g->buf.next_pre, .post = g->buf.next_post, .comb = g->buf.next_comb);
    RUN(g, hc_reduce, .n_rows = n_rows, .n_hc = h->n_hc, .n_embd = h->n_embd, .rms_eps = h->rms_eps, .x = g->buf.x,
        .w = g->buf.next_pre, .norm = w->ffn_norm, .u = g->buf.next_u);
    RUN(g, matmul, .n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = g->buf.next_u,
        .out = {{.w = w->router, .y = g->buf.route}});
    RUN(g, router, .n_rows = n_rows, .n_experts = h->n_experts, .n_used = h->n_used, .scale = h->expert_scale,
        .logits = g->buf.route, .bias = w->router_bias, .hash = NULL, .tokens = g->buf.tokens,
        .ids = g->buf.next_ids, .weights = g->buf.next_w);
    g->c.backend->ops->read(g->c.backend, stream_ids(stream), g->buf.next_ids, n_rows * h->n_used * sizeof(int32_t));
    stream_expect(stream, layer_i, n_rows * h->n_used);
}

/* Tells the pool of streamed experts what the router chose. */
static void want_experts(struct graph *g, const struct layer_weights *w, uint32_t layer_i)
{
    struct stream *stream = g->c.weights->stream;
    uint32_t n = g->batch.n_rows * g->c.h->n_used;
    if (!stream || !w->gate_exps.stacks) return; /* all of the layer are there */
    g->c.backend->ops->read(g->c.backend, stream_ids(stream), g->buf.expert_ids, n * sizeof(int32_t));
    stream_want(stream, layer_i, n);
    if (layer_i + 1 >= g->c.h->n_layers || !stream_may_miss(stream)) return;
    bool decodes = g->batch.n_rows <= GRAPH_GUESS_ROWS && !g->c.weights->layers[layer_i + 1].hash;
    if (decodes) guess_experts(g, layer_i + 1);
    else stream_guess(stream, layer_i + 1, g->batch.n_rows);
}

void graph_expect_experts(struct graph *g, const int32_t *tokens)
{
    const struct hparams *h = g->c.h;
    struct stream *stream = g->c.weights->stream;
    for (uint32_t l = 0; stream && l < h->n_hash_layers && l < h->n_layers; l++) {
        if (!g->c.weights->layers[l].gate_exps.stacks) continue;
        int32_t *ids = stream_ids(stream);
        for (uint32_t r = 0; r < g->batch.n_rows; r++)
            g->c.backend->ops->read(g->c.backend, ids + (size_t)r * h->n_used,
                                    g->c.weights->layers[l].hash + (size_t)tokens[r] * h->n_used,
                                    h->n_used * sizeof *ids);
        stream_expect(stream, l, g->batch.n_rows * h->n_used);
    }
}

void graph_ffn(struct graph *g, const struct layer_weights *w, uint32_t layer_i, float *y)
{
    const struct hparams *h = g->c.h;
    uint32_t n_rows = g->batch.n_rows, limit_i = layer_i < h->n_layers ? layer_i : 0; /* draft block: as layer 0 */
    bool streamed = w->gate_exps.stacks != NULL;
    struct matmul_args first = {.n_rows = n_rows, .n_outputs = streamed ? 1 : 3, .n_groups = 1, .x = g->buf.u,
                                .out = {{.w = w->router, .y = g->buf.route},
                                        {.w = w->gate_shared, .y = g->buf.shared_a},
                                        {.w = w->up_shared, .y = g->buf.shared_b}}};
    g->c.backend->ops->matmul(g->c.backend, &first);
    RUN(g, router, .n_rows = n_rows, .n_experts = h->n_experts, .n_used = h->n_used, .scale = h->expert_scale,
        .logits = g->buf.route, .bias = w->router_bias, .hash = w->hash, .tokens = g->buf.tokens,
        .ids = g->buf.expert_ids, .weights = g->buf.expert_w, .x = g->buf.u, .gate = &w->gate_exps, .up = &w->up_exps);
    want_experts(g, w, layer_i);
    graph_probe_at(g, DS4_PROBE_FFN_IN, layer_i, g->buf.u, h->n_embd, true);
    if (streamed)
        RUN(g, matmul, .n_rows = n_rows, .n_outputs = 2, .n_groups = 1, .x = g->buf.u,
            .out = {first.out[1], first.out[2]});
    RUN(g, swiglu, .n = (size_t)n_rows * h->n_ff, .limit = h->limit_shared[limit_i], .a = g->buf.shared_a,
        .b = g->buf.shared_b, .m = g->buf.shared_a);
    RUN(g, matmul, .n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = g->buf.shared_a,
        .out = {{.w = w->down_shared, .y = y}});
    RUN(g, moe_gate_up, .n_rows = n_rows, .n_used = h->n_used, .limit = h->limit_routed[limit_i], .x = g->buf.u,
        .ids = g->buf.expert_ids, .weights = g->buf.expert_w, .gate = w->gate_exps, .up = w->up_exps,
        .m = g->buf.mid);
    graph_probe_at(g, DS4_PROBE_EXPERT_MID, layer_i, g->buf.mid, h->n_used * h->n_ff, true);
    RUN(g, moe_down, .n_rows = n_rows, .n_used = h->n_used, .m = g->buf.mid, .ids = g->buf.expert_ids,
        .down = w->down_exps, .y = g->buf.u); /* u is free: the sub-layer's input is no longer needed */
    RUN(g, add, .n = (size_t)n_rows * h->n_embd, .x = g->buf.u, .y = y);
}
