/* graph.c - scratch memory of the forward pass, the batch, and the walk over the layers. Source: model spec 4.1. */
#include "graph/internal.h"

#include "base/mem.h"

/* Lays buffers out one behind another; with base NULL it only counts. */
struct layout {
    uint8_t *base;
    uint64_t used;
};

static void *take(struct layout *l, uint64_t count, uint64_t size)
{
    uint64_t at = l->used;
    l->used = (l->used + count * size + 63) & ~(uint64_t)63;
    return l->base ? l->base + at : NULL;
}

static float *take_floats(struct layout *l, uint64_t rows, uint64_t cols)
{
    return take(l, rows * cols, sizeof(float));
}

static void lay_out(const struct hparams *h, uint32_t n_rows, uint32_t n_seqs, uint32_t n_span_ids, bool has_mtp,
                    struct layout *l, struct graph_buffers *b)
{
    uint64_t streams = (uint64_t)h->n_hc * h->n_embd, heads = (uint64_t)h->n_heads * h->head_dim;
    b->tokens = take(l, n_rows, sizeof(int32_t));
    b->pos = take(l, n_rows, sizeof(int32_t));
    b->seq_i = take(l, n_rows, sizeof(uint32_t));
    b->row_index = take(l, n_rows, sizeof(uint32_t));
    b->seqs = take(l, n_seqs, sizeof(struct op_seq));
    b->span_ids = take(l, n_span_ids, sizeof(uint32_t));
    b->x = take_floats(l, n_rows, streams);
    b->x_draft = has_mtp ? take_floats(l, n_rows, streams) : NULL;
    b->x_projected = has_mtp ? take_floats(l, n_rows, streams) : NULL;
    b->pre = take_floats(l, n_rows, h->n_hc);
    b->post = take_floats(l, n_rows, h->n_hc);
    b->comb = take_floats(l, n_rows, (uint64_t)h->n_hc * h->n_hc);
    b->u = take_floats(l, n_rows, h->n_embd);
    b->y = take_floats(l, n_rows, h->n_embd);
    b->q_low = take_floats(l, n_rows, h->q_rank);
    b->q = take_floats(l, n_rows, heads);
    b->o = take_floats(l, n_rows, heads);
    b->kv = take_floats(l, n_rows, h->head_dim);
    b->o_low = take_floats(l, n_rows, (uint64_t)h->o_groups * h->o_rank);
    b->comp_k = take_floats(l, n_rows, 2ull * h->head_dim);
    b->comp_g = take_floats(l, n_rows, 2ull * h->head_dim);
    b->index_k = take_floats(l, n_rows, 2ull * h->index_dim);
    b->index_g = take_floats(l, n_rows, 2ull * h->index_dim);
    b->index_q = take_floats(l, n_rows, (uint64_t)h->index_heads * h->index_dim);
    b->index_w = take_floats(l, n_rows, h->index_heads);
    b->sel = take(l, (uint64_t)n_rows * h->index_top_k, sizeof(int32_t));
    b->n_sel = take(l, n_rows, sizeof(int32_t));
    b->route = take_floats(l, n_rows, h->n_experts);
    b->expert_ids = take(l, (uint64_t)n_rows * h->n_used, sizeof(int32_t));
    b->expert_w = take_floats(l, n_rows, h->n_used);
    b->next_pre = take_floats(l, GRAPH_GUESS_ROWS, h->n_hc);
    b->next_post = take_floats(l, GRAPH_GUESS_ROWS, h->n_hc);
    b->next_comb = take_floats(l, GRAPH_GUESS_ROWS, (uint64_t)h->n_hc * h->n_hc);
    b->next_u = take_floats(l, GRAPH_GUESS_ROWS, h->n_embd);
    b->next_ids = take(l, (uint64_t)GRAPH_GUESS_ROWS * h->n_used, sizeof(int32_t));
    b->next_w = take_floats(l, GRAPH_GUESS_ROWS, h->n_used);
    b->mid = take_floats(l, n_rows, (uint64_t)h->n_used * h->n_ff);
    b->shared_a = take_floats(l, n_rows, h->n_ff);
    b->shared_b = take_floats(l, n_rows, h->n_ff);
    b->head_w = take_floats(l, GRAPH_HEAD_ROWS, h->n_hc);
    b->head_x = take_floats(l, GRAPH_HEAD_ROWS, streams);
    b->logits = take_floats(l, GRAPH_HEAD_ROWS, h->n_vocab);
}

uint64_t graph_scratch_bytes(const struct hparams *h, uint32_t n_rows_max, bool has_mtp)
{
    struct layout l = {0};
    struct graph_buffers buffers;
    lay_out(h, n_rows_max, n_rows_max, 0, has_mtp, &l, &buffers);
    return l.used;
}

static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

struct backend_limits graph_backend_limits(const struct hparams *h, uint32_t n_rows_max, uint32_t ctx_tokens)
{
    uint32_t heads = h->n_heads * h->head_dim;
    uint32_t n_in = max_u32(h->n_hc * h->n_embd, max_u32(heads, max_u32(h->o_groups * h->o_rank, h->n_ff)));
    uint32_t index_rows = ctx_tokens / 4 + 1, dense_rows = ctx_tokens / 128 + 1;
    uint32_t picked = h->index_top_k < index_rows ? h->index_top_k : index_rows;
    return (struct backend_limits){
        .n_rows = n_rows_max,
        .n_in = max_u32(n_in, h->q_rank),
        .n_heads = h->n_heads,
        .dim = h->head_dim,
        .n_attn_rows = h->window + max_u32(picked, dense_rows),
        .n_index_heads = h->index_heads,
        .index_dim = h->index_dim,
        .n_index_rows = index_rows,
        .n_experts = h->n_experts,
        .n_used = h->n_used,
        .n_ff = h->n_ff,
        .n_embd = h->n_embd,
        .n_vocab = h->n_vocab,
    };
}

enum ds4_status graph_create(const struct graph_config *config, struct graph **out, struct ds4_error *error)
{
    struct graph *g = mem_zalloc(1, sizeof *g);
    if (!g) return err_set(error, DS4_ERR_NOMEM, "no memory for the graph");
    g->c = *config;
    struct layout l = {0};
    lay_out(config->h, config->n_rows_max, config->n_seqs_max, config->n_span_ids_max, config->draft, &l,
            &g->buf);
    g->memory_bytes = (size_t)l.used;
    g->memory = config->backend->ops->alloc(config->backend, g->memory_bytes);
    if (!g->memory) {
        mem_free(g);
        return err_set(error, DS4_ERR_NOMEM, "no memory for %llu bytes of scratch", (unsigned long long)l.used);
    }
    l = (struct layout){.base = g->memory};
    lay_out(config->h, config->n_rows_max, config->n_seqs_max, config->n_span_ids_max, config->draft, &l,
            &g->buf);
    *out = g;
    return DS4_OK;
}

void graph_destroy(struct graph *g)
{
    if (!g) return;
    g->c.backend->ops->release(g->c.backend, g->memory, g->memory_bytes);
    mem_free(g);
}

void graph_set_probe(struct graph *g, ds4_probe_fn fn, void *user)
{
    g->probe = fn;
    g->probe_user = user;
}

void graph_probe_at(struct graph *g, enum ds4_probe_point point, uint32_t layer_i, const float *data, uint32_t n_cols,
                    bool with_ids)
{
    if (!g->probe) return;
    struct ds4_error ignored = {0};
    if (g->c.backend->ops->finish(g->c.backend, &ignored) != DS4_OK) return; /* the forward pass reports it again */
    struct ds4_probe probe = {.point = point, .layer_i = layer_i, .n_rows = g->batch.n_rows, .n_cols = n_cols,
                                .data = data, .ids = with_ids ? g->buf.expert_ids : NULL, .n_used = g->c.h->n_used};
    g->probe(g->probe_user, &probe);
}

void graph_set_batch(struct graph *g, const struct graph_rows *rows)
{
    struct backend *b = g->c.backend;
    ensure(rows->n_rows >= 1 && rows->n_rows <= g->c.n_rows_max);
    ensure(rows->n_seqs >= 1 && rows->n_seqs <= g->c.n_seqs_max && rows->n_span_ids <= g->c.n_span_ids_max);
    b->ops->write(b, g->buf.tokens, rows->tokens, rows->n_rows * sizeof(int32_t));
    b->ops->write(b, g->buf.pos, rows->pos, rows->n_rows * sizeof(int32_t));
    b->ops->write(b, g->buf.seq_i, rows->seq_i, rows->n_rows * sizeof(uint32_t));
    b->ops->write(b, g->buf.seqs, rows->seqs, rows->n_seqs * sizeof(struct op_seq));
    if (rows->n_span_ids) b->ops->write(b, g->buf.span_ids, rows->span_ids, rows->n_span_ids * sizeof(uint32_t));
    g->batch = (struct op_batch){
        .n_rows = rows->n_rows, .n_seqs = rows->n_seqs, .tokens = g->buf.tokens, .pos = g->buf.pos,
        .seq_i = g->buf.seq_i, .seqs = g->buf.seqs, .tails = g->c.tails, .tail_bytes = g->c.layout->tail_bytes,
        .spans = g->c.spans, .span_bytes = g->c.layout->span_bytes, .span_ids = g->buf.span_ids,
    };
    g->pos_max = 0;
    for (uint32_t r = 0; r < rows->n_rows; r++)
        if (rows->pos[r] > g->pos_max) g->pos_max = rows->pos[r];
}

enum ds4_status graph_begin(struct graph *g, uint32_t n_tokens, struct ds4_error *error)
{
    struct stream *stream = g->c.weights->stream;
    return stream ? stream_begin(stream, n_tokens, error) : DS4_OK;
}

enum ds4_status graph_end(struct graph *g, struct ds4_error *error)
{
    enum ds4_status status = g->c.backend->ops->finish(g->c.backend, error), stream_status = DS4_OK;
    if (g->c.weights->stream) stream_status = stream_end(g->c.weights->stream, error);
    return status == DS4_OK ? stream_status : status;
}

void graph_walk(struct graph *g)
{
    const struct hparams *h = g->c.h;
    const struct stream *stream = g->c.weights->stream;
    RUN(g, embed, .n_rows = g->batch.n_rows, .n_hc = h->n_hc, .n_embd = h->n_embd, .tokens = g->buf.tokens,
        .table = g->c.weights->embedding, .x = g->buf.x);
    for (uint32_t l = 0; l < h->n_layers && !(stream && stream_failed(stream)); l++) {
        graph_layer(g, &g->c.weights->layers[l], l, g->buf.x);
        graph_probe_at(g, DS4_PROBE_LAYER_OUT, l, g->buf.x, h->n_hc * h->n_embd, false);
    }
}

enum ds4_status graph_forward(struct graph *g, const struct graph_rows *rows, struct ds4_error *error)
{
    graph_set_batch(g, rows);
    TRY(graph_begin(g, rows->n_rows, error));
    graph_expect_experts(g, rows->tokens);
    graph_walk(g);
    return graph_end(g, error);
}

bool graph_runs_ahead(const struct graph *g) { return !g->c.weights->stream && !g->probe; }

void graph_begin_steps(struct graph *g, const struct graph_rows *rows)
{
    ensure(rows->n_rows == rows->n_seqs);
    graph_set_batch(g, rows);
    g->c.backend->ops->write(g->c.backend, g->buf.row_index, rows->seq_i, rows->n_rows * sizeof *rows->seq_i);
}

void graph_set_span(struct graph *g, uint32_t i, uint32_t span_id)
{
    ensure(i < g->c.n_span_ids_max);
    g->c.backend->ops->write(g->c.backend, g->buf.span_ids + i, &span_id, sizeof span_id);
}

void graph_step(struct graph *g, int32_t pos, float *logits, float *before)
{
    g->pos_max = pos;
    RUN(g, gather, .n_out = g->batch.n_rows, .n = g->c.h->n_vocab, .index = g->buf.row_index, .x = logits,
        .y = before);
    graph_walk(g);
    graph_head_rows(g, logits);
}

void graph_choose(struct graph *g, const float *logits, struct backend_step *steps, struct backend_choice *choices)
{
    struct backend *b = g->c.backend;
    b->ops->choose(b, logits, g->c.h->n_vocab, g->batch.n_rows, steps, choices, g->buf.tokens, g->buf.pos);
}

static size_t streams_bytes(const struct graph *g) { return (size_t)g->c.h->n_hc * g->c.h->n_embd * sizeof(float); }

void graph_keep_streams(struct graph *g, uint32_t row_i, float *out)
{
    size_t n = streams_bytes(g) / sizeof *out;
    g->c.backend->ops->write(g->c.backend, out, g->buf.x + row_i * n, streams_bytes(g));
}

void graph_read_draft(struct graph *g, float *out)
{
    g->c.backend->ops->read(g->c.backend, out, g->buf.x_draft, streams_bytes(g));
}
