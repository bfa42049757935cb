/* mtp.c - the draft block: streams of a position and the token that follows -> streams one token ahead.
 * Source: model spec 4.9. X0[j] = RMS(embed(next); e_norm) e_proj^T + RMS(X[j]; h_norm) h_proj^T, then one layer. */
#include "graph/internal.h"

/* The draft streams through the block. */
static void pass_block(struct graph *g)
{
    const struct hparams *h = g->c.h;
    const struct mtp_weights *w = &g->c.weights->mtp;
    uint32_t n_rows = g->batch.n_rows;
    RUN(g, rms_norm, .n_rows = n_rows * h->n_hc, .n = h->n_embd, .eps = h->rms_eps, .x = g->buf.x_draft,
        .weight = w->h_norm, .y = g->buf.x_draft);
    for (uint32_t j = 0; j < h->n_hc; j++) { /* n_hc slices of n_rows, so that a batch never exceeds its limit */
        size_t at = (size_t)j * n_rows * h->n_embd;
        RUN(g, matmul, .n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = g->buf.x_draft + at,
            .out = {{.w = w->h_proj, .y = g->buf.x_projected + at}});
    }
    RUN(g, embed, .n_rows = n_rows, .n_hc = 1, .n_embd = h->n_embd, .tokens = g->buf.tokens,
        .table = g->c.weights->embedding, .x = g->buf.u);
    RUN(g, rms_norm, .n_rows = n_rows, .n = h->n_embd, .eps = h->rms_eps, .x = g->buf.u, .weight = w->e_norm,
        .y = g->buf.u);
    RUN(g, matmul, .n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = g->buf.u,
        .out = {{.w = w->e_proj, .y = g->buf.y}});
    RUN(g, add_streams, .n_rows = n_rows, .n_hc = h->n_hc, .n_embd = h->n_embd, .e = g->buf.y,
        .x = g->buf.x_projected);
    graph_layer(g, &w->layer, h->n_layers, g->buf.x_projected);
    float *swap = g->buf.x_draft; /* the output becomes the draft streams */
    g->buf.x_draft = g->buf.x_projected;
    g->buf.x_projected = swap;
}

static void write_streams(struct graph *g, const float *streams)
{
    size_t n = (size_t)g->batch.n_rows * g->c.h->n_hc * g->c.h->n_embd;
    ensure(g->buf.x_draft);
    g->c.backend->ops->write(g->c.backend, g->buf.x_draft, streams, n * sizeof *streams);
}

/* The trunk's streams of the rows that row_index names. */
static void take_rows(struct graph *g)
{
    RUN(g, gather, .n_out = g->batch.n_rows, .n = g->c.h->n_hc * g->c.h->n_embd, .index = g->buf.row_index,
        .x = g->buf.x, .y = g->buf.x_draft);
}

enum ds4_status graph_mtp(struct graph *g, const struct graph_rows *rows, const float *streams,
                          const uint32_t *row_i, struct ds4_error *error)
{
    struct backend *b = g->c.backend;
    graph_set_batch(g, rows);
    TRY(graph_begin(g, 0, error));
    if (streams) {
        write_streams(g, streams);
    } else {
        b->ops->write(b, g->buf.row_index, row_i, rows->n_rows * sizeof *row_i);
        take_rows(g);
    }
    pass_block(g);
    return graph_end(g, error);
}

void graph_begin_drafts(struct graph *g, const struct graph_rows *rows, const float *streams)
{
    graph_begin_steps(g, rows);
    write_streams(g, streams);
}

void graph_draft(struct graph *g, struct backend_step *step, struct backend_choice *choices, int32_t *id)
{
    pass_block(g);
    graph_head_draft(g, g->buf.logits);
    graph_choose(g, g->buf.logits, step, choices);
    g->c.backend->ops->write(g->c.backend, id, g->buf.tokens, sizeof *id);
}

/* Uploads rows whose tokens from the first-th on are drafts, and names all of them in row_index. */
static void set_drafts(struct graph *g, const struct graph_rows *rows, const int32_t *drafts, uint32_t first)
{
    static const uint32_t order[GRAPH_CHECK_ROWS] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct backend *b = g->c.backend;
    ensure(rows->n_rows <= GRAPH_CHECK_ROWS && rows->n_rows > first);
    graph_set_batch(g, rows);
    b->ops->write(b, g->buf.tokens + first, drafts, (rows->n_rows - first) * sizeof *drafts);
    b->ops->write(b, g->buf.row_index, order, rows->n_rows * sizeof *order);
}

void graph_check(struct graph *g, const struct graph_rows *rows, const int32_t *drafts, float *logits)
{
    set_drafts(g, rows, drafts, 1);
    graph_walk(g);
    graph_head_rows(g, logits);
}

void graph_feed(struct graph *g, const struct graph_rows *rows, const int32_t *drafts)
{
    set_drafts(g, rows, drafts, 0);
    take_rows(g);
    pass_block(g);
}
