/* ops_state.c - operations on the state of sessions on the GPU: selecting and attending. */
#include "gpu/backend_impl.h"

_Static_assert(sizeof(struct op_seq) == SEQ_WORDS * 4 && offsetof(struct op_seq, tail_i) == SEQ_TAIL * 4 &&
                   offsetof(struct op_seq, span_first) == SEQ_SPANS * 4 &&
                   offsetof(struct op_seq, row_first) == SEQ_FIRST * 4 &&
                   offsetof(struct op_seq, n_rows) == SEQ_ROWS * 4 &&
                   offsetof(struct op_seq, rows_to) == SEQ_ROWS_TO * 4,
               "kernels read sessions as words");

uint32_t gpu_narrow(uint64_t n)
{
    ensure(n <= UINT32_MAX); /* places inside a tail or a span */
    return (uint32_t)n;
}

struct ring_place gpu_ring_place(const struct op_batch *batch, const struct op_ring *ring)
{
    return (struct ring_place){gpu_narrow(batch->tail_bytes), gpu_narrow(ring->offset), ring->row_bytes, ring->n_slots,
                               ring->format == OP_ROW_F32};
}

struct rows_place gpu_rows_place(const struct op_batch *batch, const struct op_span_rows *rows)
{
    return (struct rows_place){gpu_narrow(batch->span_bytes), gpu_narrow(rows->offset), rows->row_bytes,
                               rows->rows_per_span, rows->format == OP_ROW_F32};
}

void gpu_bind_batch(struct gpu_call *c, const struct op_batch *batch)
{
    gpu_bind(c, batch->pos, batch->n_rows * sizeof *batch->pos);
    gpu_bind(c, batch->seq_i, batch->n_rows * sizeof *batch->seq_i);
    gpu_bind(c, batch->seqs, batch->n_seqs * sizeof *batch->seqs);
}

void gpu_index_select(struct backend *b, const struct index_select_args *args)
{
    struct backend_gpu *gpu = gpu_of(b);
    const struct op_batch *batch = &args->batch;
    uint32_t n_keys = gpu->limits.n_index_rows;
    uint32_t n_sg = n_keys > 8192 ? 32 : 8;
    ensure(args->dim <= 128 && args->dim % 4 == 0);
    struct index_record record = {.n_heads = args->n_heads, .dim = args->dim, .top_k = args->top_k,
                                  .ratio = args->ratio, .n_keys = n_keys, .n_sg = n_sg, .scale = args->scale,
                                  .rows = gpu_rows_place(batch, &args->rows)};
    for (uint32_t first = 0; first < batch->n_rows; first += gpu->key_rows) {
        uint32_t n = batch->n_rows - first < gpu->key_rows ? batch->n_rows - first : gpu->key_rows;
        record.row_first = first;
        struct gpu_call score = gpu_call_begin(b);
        gpu_bind_floats(&score, args->q, (uint64_t)batch->n_rows * args->n_heads * args->dim);
        gpu_bind_floats(&score, args->w, (uint64_t)batch->n_rows * args->n_heads);
        gpu_bind_batch(&score, batch);
        gpu_bind_rest(&score, batch->span_ids);
        gpu_bind_rest(&score, batch->spans);
        gpu_bind(&score, gpu->scratch, (uint64_t)n * n_keys * sizeof(uint32_t));
        gpu_run(&score, gpu->plain[PIPE_index_score], &record, sizeof record, gpu_groups(n_keys, 32), n, 1, 128);
        struct gpu_call top = gpu_call_begin(b);
        gpu_bind(&top, gpu->scratch, (uint64_t)n * n_keys * sizeof(uint32_t));
        gpu_bind(&top, batch->pos, batch->n_rows * sizeof *batch->pos);
        gpu_bind(&top, args->sel, (uint64_t)batch->n_rows * args->top_k * sizeof *args->sel);
        gpu_bind(&top, args->n_sel, batch->n_rows * sizeof *args->n_sel);
        gpu_run(&top, gpu->plain[PIPE_index_top], &record, sizeof record, n, 1, 1, 32 * n_sg);
    }
}

static void bind_rows(struct gpu_call *c, const struct attention_args *args)
{
    const struct op_batch *batch = &args->batch;
    gpu_bind_rest(c, args->ratio ? batch->span_ids : NULL);
    gpu_bind_rest(c, batch->tails);
    gpu_bind_rest(c, args->ratio ? batch->spans : NULL);
    gpu_bind(c, args->sel, (uint64_t)batch->n_rows * args->top_k * sizeof *args->sel);
    gpu_bind(c, args->n_sel, batch->n_rows * sizeof *args->n_sel);
}

/* Rows that are packed are multiplied on matrix units. */
static bool attends_in_tiles(const struct attention_args *args)
{
    return args->ring.format == OP_ROW_PACKED && (!args->ratio || args->rows.format == OP_ROW_PACKED);
}

static struct attention_record attention_record(const struct backend_gpu *gpu, const struct attention_args *args)
{
    struct attention_record record = {.n_heads = args->n_heads, .dim = args->dim, .n_rope = args->n_rope,
                                      .window = args->window, .ratio = args->ratio, .top_k = args->top_k,
                                      .has_sel = args->sel != NULL, .n_chunks = gpu->n_chunks,
                                      .n_sg = args->n_heads > 8 ? 16 : 8, .scale = args->scale,
                                      .ring = gpu_ring_place(&args->batch, &args->ring)};
    if (args->ratio) record.rows = gpu_rows_place(&args->batch, &args->rows);
    return record;
}

/* Parts lie at the end of scratch, so that integers of the result can be made beside them. */
static uint64_t parts_bytes(const struct backend_gpu *gpu, const struct attention_args *args)
{
    return (uint64_t)args->batch.n_rows * args->n_heads * gpu->n_chunks * (args->dim + 2ull) * sizeof(float);
}
static uint8_t *parts_of(const struct backend_gpu *gpu, uint64_t bytes)
{
    return gpu->scratch + gpu->scratch_bytes - 64 - (bytes + 63) / 64 * 64;
}

/* Few rows: chunks of what each sees run side by side, then they are merged, once it is known what comes after that. */
static void attention_split(struct backend *b, const struct attention_args *args, const struct attention_record *record)
{
    bool tiles = attends_in_tiles(args);
    struct backend_gpu *gpu = gpu_of(b);
    const struct op_batch *batch = &args->batch;
    uint64_t n_parts = parts_bytes(gpu, args);
    struct gpu_call part = gpu_call_begin(b);
    gpu_bind_floats(&part, args->q, (uint64_t)batch->n_rows * args->n_heads * args->dim);
    gpu_bind_batch(&part, batch);
    bind_rows(&part, args);
    gpu_bind(&part, parts_of(gpu, n_parts), n_parts);
    gpu_run(&part, gpu->plain[tiles ? PIPE_attend_tiles_part : PIPE_attention_part], record, sizeof *record,
            gpu->n_chunks, gpu_groups(args->n_heads, tiles ? ATTENTION_TILE_HEADS : 8), batch->n_rows, 256);
    gpu->waiting = (struct gpu_waiting){.kind = WAITING_MERGE, .attention = *args};
}

void gpu_run_merge(struct backend *b, const struct attention_args *args, const struct rope_args *rope,
                   const struct gpu_input *input, float most)
{
    struct backend_gpu *gpu = gpu_of(b);
    const struct op_batch *batch = &args->batch;
    uint64_t n_parts = parts_bytes(gpu, args);
    struct merge_record record = {.seen = attention_record(gpu, args), .n_rope = rope ? rope->n_rope : 0,
                                  .inverse = rope && rope->inverse, .quantises = input != NULL,
                                  .in_bytes = input && input->in_bytes, .most = most};
    struct gpu_call c = gpu_call_begin(b);
    ensure(!input || gpu->scratch + gpu->scratch_used <= parts_of(gpu, n_parts));
    gpu_bind(&c, parts_of(gpu, n_parts), n_parts);
    gpu_bind_floats(&c, args->sinks, args->n_heads);
    gpu_bind_batch(&c, batch);
    gpu_bind(&c, args->n_sel, batch->n_rows * sizeof *args->n_sel);
    gpu_bind_floats(&c, rope ? rope->freq : NULL, record.n_rope / 2);
    gpu_bind_floats(&c, args->o, (uint64_t)batch->n_rows * args->n_heads * args->dim);
    if (input) gpu_bind_input(&c, input);
    else for (int i = 0; i < 3; i++) gpu_bind(&c, NULL, 0);
    gpu_run(&c, gpu->plain[PIPE_attention_merge], &record, sizeof record,
            gpu_groups(args->n_heads * gpu_groups(args->dim, 32), 8), batch->n_rows, 1, 256);
}

void gpu_attention(struct backend *b, const struct attention_args *args)
{
    struct backend_gpu *gpu = gpu_of(b);
    const struct op_batch *batch = &args->batch;
    const struct attention_record record = attention_record(gpu, args);
    uint64_t n_q = (uint64_t)batch->n_rows * args->n_heads * args->dim;
    ensure(args->dim <= 512 && args->dim % 4 == 0 && args->n_rope % 4 == 0);
    if (batch->n_rows <= gpu->split_rows) {
        attention_split(b, args, &record);
        return;
    }
    struct gpu_call c = gpu_call_begin(b);
    gpu_bind_floats(&c, args->q, n_q);
    gpu_bind_floats(&c, args->sinks, args->n_heads);
    gpu_bind_batch(&c, batch);
    bind_rows(&c, args);
    gpu_bind_floats(&c, args->o, n_q);
    if (attends_in_tiles(args))
        gpu_run(&c, gpu->plain[PIPE_attend_tiles], &record, sizeof record,
                gpu_groups(args->n_heads, ATTENTION_TILE_HEADS), batch->n_rows, 1, 256);
    else
        gpu_run(&c, gpu->plain[PIPE_attention], &record, sizeof record, gpu_groups(args->n_heads, record.n_sg),
                batch->n_rows, 1, 32 * record.n_sg);
}
