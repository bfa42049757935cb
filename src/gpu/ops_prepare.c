/* ops_prepare.c - what goes before attention: norm and rotation of queries and of the new key-value row, its way into
 * the ring, compressors. They have nothing in common but the row, and wait for each other in the order of the graph, so
 * that one dispatch does them (prepare). Compressors are apart when rows of the batch go into slots that windows of it
 * are pooled from; without them norm_rope does the rest. What breaks the order finds done what came before it, with the
 * same bits. */
#include "gpu/backend_impl.h"

#define HEAD_MOST 512u /* values of a head */

static bool rotates_what_is_normed(const struct rms_norm_args *norm, const struct rope_args *rope)
{
    return norm->x == norm->y && rope->x == norm->y && rope->dim == norm->n && rope->dim % 32 == 0 &&
           rope->dim <= HEAD_MOST && rope->n_rope % 2 == 0 && !rope->inverse &&
           (uint64_t)rope->n_rows * rope->n_heads == norm->n_rows;
}

bool gpu_prepare_norm(struct gpu_waiting *w, const struct rms_norm_args *args)
{
    struct gpu_prepare *p = &w->prepare;
    if (w->kind != WAITING_PREPARE || p->step != PREPARE_Q || args->x != args->y || args->x == p->norm.x ||
        args->n_rows != p->rope.n_rows || args->n != p->rope.dim)
        return false;
    p->kv_norm = *args;
    p->step = PREPARE_KV_NORMED;
    return true;
}

bool gpu_prepare_rope(struct gpu_waiting *w, const struct rope_args *args)
{
    struct gpu_prepare *p = &w->prepare;
    if (w->kind == WAITING_NORM && rotates_what_is_normed(&w->norm, args)) {
        *w = (struct gpu_waiting){.kind = WAITING_PREPARE,
                                  .prepare = {.step = PREPARE_Q, .norm = w->norm, .rope = *args}};
        return true;
    }
    if (w->kind != WAITING_PREPARE || p->step != PREPARE_KV_NORMED || !rotates_what_is_normed(&p->kv_norm, args) ||
        args->n_rope != p->rope.n_rope || args->pos != p->rope.pos || args->freq != p->rope.freq)
        return false;
    p->kv_rope = *args;
    p->step = PREPARE_KV_ROTATED;
    return true;
}

void gpu_kv_store(struct backend *b, const struct kv_store_args *args)
{
    struct gpu_waiting *w = &gpu_of(b)->waiting;
    struct gpu_prepare *p = &w->prepare;
    ensure(args->dim <= HEAD_MOST);
    if (w->kind == WAITING_PREPARE && p->step == PREPARE_KV_ROTATED && args->kv == p->kv_rope.x &&
        args->dim == p->rope.dim && args->n_rope == p->rope.n_rope && args->batch.n_rows == p->rope.n_rows &&
        args->batch.pos == p->rope.pos) {
        p->store = *args;
        p->step = PREPARE_KV_STORED;
        return;
    }
    struct gpu_call c = gpu_call_begin(b);
    struct kv_store_record record = {args->dim, args->n_rope, args->round, gpu_ring_place(&args->batch, &args->ring)};
    gpu_bind_floats(&c, args->kv, (uint64_t)args->batch.n_rows * args->dim);
    gpu_bind_batch(&c, &args->batch);
    gpu_bind_rest(&c, args->batch.tails);
    gpu_run(&c, c.b->plain[PIPE_kv_store], &record, sizeof record, args->batch.n_rows, 1, 1, 128);
}

static struct compress_record compress_record(const struct compress_args *args)
{
    ensure(args->dim <= HEAD_MOST);
    return (struct compress_record){.ratio = args->ratio, .dim = args->dim, .width = args->width,
                                    .n_rope = args->n_rope, .n_slots = args->n_slots, .is_index = args->is_index,
                                    .round = args->round, .rms_eps = args->rms_eps,
                                    .tail_bytes = gpu_narrow(args->batch.tail_bytes),
                                    .slots_offset = gpu_narrow(args->slots_offset),
                                    .rows = gpu_rows_place(&args->batch, &args->rows)};
}

/* k, g, ape. */
static void bind_projections(struct gpu_call *c, const struct compress_args *args)
{
    uint64_t n = (uint64_t)args->batch.n_rows * args->width;
    gpu_bind_floats(c, args->k, n);
    gpu_bind_floats(c, args->g, n);
    gpu_bind_floats(c, args->ape, (uint64_t)args->ratio * args->width);
}

/* Windows are pooled first, from the batch and from the slots of earlier rows, which the second kernel replaces. */
static void compress_apart(struct backend *b, const struct compress_args *args)
{
    const struct compress_record record = compress_record(args);
    struct gpu_call pool = gpu_call_begin(b), slots = gpu_call_begin(b);
    bind_projections(&pool, args);
    gpu_bind_floats(&pool, args->norm, args->dim);
    gpu_bind_floats(&pool, args->freq, args->n_rope / 2);
    gpu_bind_batch(&pool, &args->batch);
    gpu_bind_rest(&pool, args->batch.span_ids);
    gpu_bind_rest(&pool, args->batch.tails);
    gpu_bind_rest(&pool, args->batch.spans);
    gpu_run(&pool, pool.b->plain[PIPE_compress_pool], &record, sizeof record, args->batch.n_rows, 1, 1, 256);
    bind_projections(&slots, args);
    gpu_bind_batch(&slots, &args->batch);
    gpu_bind_rest(&slots, args->batch.tails);
    gpu_run(&slots, slots.b->plain[PIPE_compress_slots], &record, sizeof record, gpu_groups(args->width, 256),
            args->batch.n_rows, 1, 256);
}

/* No row of the batch goes into a slot that a window which ends in the batch is pooled from. */
static bool leaves_slots(const struct compress_args *args)
{
    uint64_t window = (uint64_t)args->ratio * (args->width == 2 * args->dim ? 2 : 1);
    return args->batch.n_rows + window - 1 <= args->n_slots;
}

static bool joins(const struct gpu_prepare *p, const struct compress_args *args)
{
    if (p->n_compressors == COMPRESSORS_MAX || (p->step != PREPARE_KV_STORED && p->step != PREPARE_NOTHING))
        return false;
    const struct op_batch *with = p->n_compressors ? &p->compressors[0].batch : &p->store.batch;
    const float *freq = p->n_compressors ? p->compressors[0].freq : p->rope.freq;
    uint32_t n_rope = p->n_compressors ? p->compressors[0].n_rope : p->rope.n_rope;
    return with->pos == args->batch.pos && with->seqs == args->batch.seqs && with->n_rows == args->batch.n_rows &&
           with->tails == args->batch.tails && freq == args->freq && n_rope == args->n_rope;
}

void gpu_compress(struct backend *b, const struct compress_args *args)
{
    struct gpu_waiting *w = &gpu_of(b)->waiting;
    if (!leaves_slots(args)) {
        compress_apart(b, args);
        return;
    }
    if (w->kind != WAITING_PREPARE || !joins(&w->prepare, args)) {
        gpu_flush(gpu_of(b));
        *w = (struct gpu_waiting){.kind = WAITING_PREPARE};
    }
    w->prepare.compressors[w->prepare.n_compressors++] = *args;
}

static struct norm_rope_record norm_rope_record(const struct gpu_prepare *p)
{
    struct norm_rope_record record = {
        .n_heads = p->rope.n_heads, .dim = p->rope.dim, .n_rope = p->rope.n_rope, .has_weight = p->norm.weight != NULL,
        .kv_has_weight = p->kv_norm.weight != NULL, .round = p->store.round, .eps = p->norm.eps,
        .kv_eps = p->kv_norm.eps,
    };
    if (p->step == PREPARE_KV_STORED) record.ring = gpu_ring_place(&p->store.batch, &p->store.ring);
    return record;
}

/* Up to where the two kernels have the same parameters. batch: NULL when nothing is stored. */
static void bind_heads(struct gpu_call *c, const struct gpu_prepare *p, const float *freq, uint32_t n_rope,
                       const struct op_batch *batch)
{
    gpu_bind_floats(c, p->rope.x, (uint64_t)p->norm.n_rows * p->norm.n);
    gpu_bind_floats(c, p->norm.weight, p->norm.n);
    gpu_bind_floats(c, freq, n_rope / 2);
    gpu_bind_floats(c, p->kv_norm.x, (uint64_t)p->kv_norm.n_rows * p->kv_norm.n);
    gpu_bind_floats(c, p->kv_norm.weight, p->kv_norm.n);
    if (batch) {
        gpu_bind_batch(c, batch);
        gpu_bind_rest(c, batch->tails);
    } else {
        gpu_bind(c, p->rope.pos, p->rope.n_rows * sizeof *p->rope.pos);
        for (int i = 0; i < 3; i++) gpu_bind(c, NULL, 0);
    }
}

static void run_norm_rope(struct backend *b, const struct gpu_prepare *p)
{
    struct gpu_call c = gpu_call_begin(b);
    struct norm_rope_record record = norm_rope_record(p);
    bool stores = p->step == PREPARE_KV_STORED;
    bind_heads(&c, p, p->rope.freq, p->rope.n_rope, stores ? &p->store.batch : NULL);
    gpu_run(&c, c.b->plain[PIPE_norm_rope], &record, sizeof record, p->rope.n_heads + stores, p->rope.n_rows, 1, 256);
}

static void run_compressors(struct backend *b, const struct gpu_prepare *p)
{
    const struct compress_args *first = &p->compressors[0];
    const struct op_batch *batch = &first->batch;
    struct prepare_record record = {.heads = norm_rope_record(p)};
    struct gpu_call c = gpu_call_begin(b);
    if (p->step == PREPARE_KV_STORED) record.n_parts = p->rope.n_heads + 1;
    bind_heads(&c, p, first->freq, first->n_rope, batch);
    gpu_bind_rest(&c, batch->span_ids);
    gpu_bind_rest(&c, batch->spans);
    for (uint32_t i = 0; i < COMPRESSORS_MAX; i++) {
        const struct compress_args *args = &p->compressors[i < p->n_compressors ? i : 0];
        record.compress[i] = compress_record(args);
        bind_projections(&c, args);
        gpu_bind_floats(&c, args->norm, args->dim);
    }
    gpu_run(&c, c.b->plain[PIPE_prepare], &record, sizeof record, record.n_parts + p->n_compressors, batch->n_rows, 1,
            256);
}

void gpu_run_prepare(struct backend *b, const struct gpu_prepare *p)
{
    const struct gpu_prepare kv = {.step = PREPARE_Q, .norm = p->kv_norm, .rope = p->kv_rope};
    if (p->n_compressors) {
        run_compressors(b, p);
        return;
    }
    run_norm_rope(b, p);
    if (p->step == PREPARE_KV_NORMED) gpu_run_norm(b, &p->kv_norm, NULL, 0);
    if (p->step == PREPARE_KV_ROTATED) run_norm_rope(b, &kv);
}
