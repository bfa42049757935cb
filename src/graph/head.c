/* head.c - streams to logits. Source: model spec 4.1(3). */
#include "graph/internal.h"

static void head_slice(struct graph *g, const float *x, const struct hc_weights *hc, const float *norm,
                       const uint32_t *index, uint32_t n, float *logits)
{
    const struct hparams *h = g->c.h;
    RUN(g, gather, .n_out = n, .n = h->n_hc * h->n_embd, .index = index, .x = x, .y = g->buf.head_x);
    RUN(g, hc_head, .n_rows = n, .n_hc = h->n_hc, .n_embd = h->n_embd, .hc_eps = h->hc_eps, .rms_eps = h->rms_eps,
        .x = g->buf.head_x, .fn = hc->fn, .scale = hc->scale, .base = hc->base, .w = g->buf.head_w);
    RUN(g, hc_reduce, .n_rows = n, .n_hc = h->n_hc, .n_embd = h->n_embd, .rms_eps = h->rms_eps, .x = g->buf.head_x,
        .w = g->buf.head_w, .norm = norm, .u = g->buf.y);
    RUN(g, matmul, .n_rows = n, .n_outputs = 1, .n_groups = 1, .x = g->buf.y,
        .out = {{.w = g->c.weights->output, .y = logits}});
}

static uint32_t head_step(const struct graph *g)
{
    return g->c.n_rows_max < GRAPH_HEAD_ROWS ? g->c.n_rows_max : GRAPH_HEAD_ROWS;
}

void graph_head_rows(struct graph *g, float *logits)
{
    const struct model_weights *w = g->c.weights;
    uint32_t n = g->batch.n_rows, step = head_step(g);
    for (uint32_t done = 0; done < n; done += step)
        head_slice(g, g->buf.x, &w->hc_head, w->output_norm, g->buf.row_index + done, n - done < step ? n - done : step,
                   logits + (size_t)done * g->c.h->n_vocab);
}

void graph_head_draft(struct graph *g, float *logits)
{
    const struct mtp_weights *w = &g->c.weights->mtp;
    head_slice(g, g->buf.x_draft, &w->hc_head, w->norm, g->buf.row_index, 1, logits);
}

enum ds4_status graph_head(struct graph *g, const float *x, const struct hc_weights *hc, const float *norm,
                           const uint32_t *row_i, uint32_t n, float *const *out, struct ds4_error *error)
{
    struct backend *b = g->c.backend;
    size_t n_vocab = g->c.h->n_vocab;
    uint32_t step = head_step(g);
    for (uint32_t done = 0; done < n; done += step) {
        uint32_t now = n - done < step ? n - done : step;
        b->ops->write(b, g->buf.row_index, row_i + done, now * sizeof *row_i);
        head_slice(g, x, hc, norm, g->buf.row_index, now, g->buf.logits);
        TRY(b->ops->finish(b, error));
        for (uint32_t k = 0; k < now; k++)
            b->ops->read(b, out[done + k], g->buf.logits + k * n_vocab, n_vocab * sizeof **out);
    }
    return DS4_OK;
}

enum ds4_status graph_logits(struct graph *g, const uint32_t *row_i, uint32_t n, float *const *out,
                             struct ds4_error *error)
{
    const struct model_weights *w = g->c.weights;
    return graph_head(g, g->buf.x, &w->hc_head, w->output_norm, row_i, n, out, error);
}

enum ds4_status graph_logits_there(struct graph *g, const uint32_t *row_i, uint32_t n, float *const *there,
                                   struct ds4_error *error)
{
    const struct model_weights *w = g->c.weights;
    struct backend *b = g->c.backend;
    size_t n_vocab = g->c.h->n_vocab;
    uint32_t step = head_step(g);
    for (uint32_t done = 0; done < n; done += step) {
        uint32_t now = n - done < step ? n - done : step;
        float *logits = now == 1 ? there[done] : g->buf.logits; /* one row needs no copy */
        b->ops->write(b, g->buf.row_index, row_i + done, now * sizeof *row_i);
        head_slice(g, g->buf.x, &w->hc_head, w->output_norm, g->buf.row_index, now, logits);
        for (uint32_t k = 0; k < now && now > 1; k++)
            b->ops->write(b, there[done + k], logits + k * n_vocab, n_vocab * sizeof *logits);
    }
    return b->ops->finish(b, error);
}

enum ds4_status graph_mtp_logits(struct graph *g, const uint32_t *row_i, uint32_t n, float *const *out,
                                 struct ds4_error *error)
{
    const struct mtp_weights *w = &g->c.weights->mtp;
    return graph_head(g, g->buf.x_draft, &w->hc_head, w->norm, row_i, n, out, error);
}
