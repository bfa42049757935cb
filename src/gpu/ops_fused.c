/* ops_fused.c - operations whose kernel waits for the next one, with which it may become one: the coefficients of a
 * hyper-connection before the reduction that they are for, a norm, reduction or activation whose result is rounded to
 * integers next, the choice of experts with the shared expert's activation and the rounding of what they get, attention
 * that is merged from parts before it is rotated and rounded, the rotation of index queries, the sum that goes into the
 * streams next, and the expansion before the products that the next coefficients are from; what goes before attention
 * is in ops_prepare.c. One dispatch instead of two and a row that is not read again; the results are the same bits,
 * also those in between. Whatever else comes next, the kernel that waits is dispatched before it (gpu_flush). */
#include <math.h>

#include "gpu/backend_impl.h"

static struct hc_sum_record reduce_record(const struct hc_reduce_args *args, const struct gpu_input *input, float most)
{
    return (struct hc_sum_record){.n_hc = args->n_hc, .n_embd = args->n_embd, .has_norm = args->norm != NULL,
                                  .rms_eps = args->rms_eps, .most = most, .in_bytes = input && input->in_bytes,
                                  .quantises = input != NULL};
}

static void bind_input(struct gpu_call *c, const struct gpu_input *input)
{
    if (input) gpu_bind_input(c, input);
    else for (int i = 0; i < 3; i++) gpu_bind(c, NULL, 0);
}

static void bind_reduced(struct gpu_call *c, const struct hc_reduce_args *args, const struct gpu_input *input)
{
    gpu_bind_floats(c, args->norm, args->n_embd);
    gpu_bind_floats(c, args->u, (uint64_t)args->n_rows * args->n_embd);
    bind_input(c, input);
}

static void run_reduce(struct backend *b, const struct hc_reduce_args *args, const struct gpu_input *input, float most)
{
    struct gpu_call c = gpu_call_begin(b);
    struct hc_sum_record record = reduce_record(args, input, most);
    gpu_bind_floats(&c, args->x, (uint64_t)args->n_rows * args->n_hc * args->n_embd);
    gpu_bind_floats(&c, args->w, (uint64_t)args->n_rows * args->n_hc);
    bind_reduced(&c, args, input);
    gpu_run(&c, c.b->plain[PIPE_hc_reduce], &record, sizeof record, args->n_rows, 1, 1, 256);
}

/* The coefficients and the reduction. */
static void run_enter(struct backend *b, const struct hc_mix_args *mix, const struct hc_reduce_args *args,
                      const struct gpu_input *input, float most)
{
    struct gpu_call c = gpu_call_begin(b);
    struct hc_enter_record record = {gpu_hc_mix_record(mix), reduce_record(args, input, most)};
    uint32_t n = mix->n_hc, n_mix = n * (2 + n), n_rows = mix->n_rows;
    gpu_bind_floats(&c, c.b->hc_parts, (uint64_t)n_rows * HC_PARTS * (n_mix + 1));
    gpu_bind_floats(&c, mix->scale, 3);
    gpu_bind_floats(&c, mix->base, n_mix);
    gpu_bind_floats(&c, mix->pre, (uint64_t)n_rows * n);
    gpu_bind_floats(&c, mix->post, (uint64_t)n_rows * n);
    gpu_bind_floats(&c, mix->comb, (uint64_t)n_rows * n * n);
    gpu_bind_floats(&c, args->x, (uint64_t)n_rows * n * args->n_embd);
    bind_reduced(&c, args, input);
    gpu_run(&c, c.b->plain[PIPE_hc_enter], &record, sizeof record, 2, n_rows, 1, 256);
}

void gpu_run_norm(struct backend *b, const struct rms_norm_args *args, const struct gpu_input *input, float most)
{
    struct gpu_call c = gpu_call_begin(b);
    struct rms_norm_record record = {args->n, args->weight != NULL, args->eps, most, input && input->in_bytes};
    gpu_bind_floats(&c, args->x, (uint64_t)args->n_rows * args->n);
    gpu_bind_floats(&c, args->weight, args->n);
    gpu_bind_floats(&c, args->y, (uint64_t)args->n_rows * args->n);
    if (input) gpu_bind_input(&c, input);
    gpu_run(&c, c.b->plain[input ? PIPE_rms_norm_quantise : PIPE_rms_norm], &record, sizeof record, args->n_rows, 1, 1,
            256);
}

static struct elements_record swiglu_record(const struct swiglu_args *args, const struct gpu_input *input, float most)
{
    return (struct elements_record){.n = (uint32_t)args->n, .limit = args->limit, .most = most,
                                    .in_bytes = input && input->in_bytes};
}

static void run_swiglu(struct backend *b, const struct swiglu_args *args, const struct gpu_input *input, float most)
{
    struct gpu_call c = gpu_call_begin(b);
    struct elements_record record = swiglu_record(args, input, most);
    gpu_bind_floats(&c, args->a, args->n);
    gpu_bind_floats(&c, args->b, args->n);
    gpu_bind_floats(&c, args->m, args->n);
    if (input) gpu_bind_input(&c, input);
    gpu_run(&c, c.b->plain[input ? PIPE_swiglu_quantise : PIPE_swiglu], &record, sizeof record,
            gpu_groups(args->n, 256), 1, 1, 256);
}

static struct quantise_record round_record(const struct gpu_ready *ready)
{
    const struct gpu_input *input = &ready->input;
    return (struct quantise_record){input->n_rows * (input->n / 32), ready->most, input->in_bytes};
}

/* What the router's dispatch will make ready for the experts. */
static void plan_ready(struct backend_gpu *b, const struct router_args *args)
{
    uint32_t n_rows = args->n_rows;
    if (!args->x || n_rows >= TILES_FROM || args->gate->stacks) return;
    uint32_t n = args->gate->n_in;
    uint64_t n_values = (uint64_t)n_rows * n, room = (n_values * 2 + 255) / 256 * 256;
    bool bytes = gpu_takes_bytes(args->gate->type);
    if (!gpu_is_block_format(args->gate->type) || !gpu_is_block_format(args->up->type) ||
        bytes != gpu_takes_bytes(args->up->type))
        return;
    ensure(n <= gpu_ready_width(&b->limits));
    float *scales = (float *)(void *)(b->ready_room + room);
    b->ready = (struct gpu_ready){args->x, {n_rows, n, bytes, b->ready_room, scales, scales + n_values / 32},
                                  fminf(gpu_input_most(args->gate->type), gpu_input_most(args->up->type))};
}

/* The router, with what is made ready for the experts; with the activation after it when there is one, and the integers
 * of its result when there is an input. */
static void run_router(struct backend *b, const struct router_args *args, const struct swiglu_args *swiglu,
                       const struct gpu_input *input, float most)
{
    struct gpu_call c = gpu_call_begin(b);
    const struct gpu_ready *ready = c.b->ready.x ? &c.b->ready : NULL;
    struct route_record record = {
        .route = {args->n_experts, args->n_used, args->bias != NULL, args->hash != NULL, args->scale},
        .n_rows = args->n_rows, .quantises = input != NULL};
    uint32_t n_groups = args->n_rows;
    gpu_bind_floats(&c, args->logits, (uint64_t)args->n_rows * args->n_experts);
    gpu_bind_floats(&c, args->bias, args->n_experts);
    gpu_bind_rest(&c, args->hash);
    gpu_bind(&c, args->hash ? args->tokens : NULL, args->n_rows * sizeof *args->tokens);
    gpu_bind(&c, args->ids, (uint64_t)args->n_rows * args->n_used * sizeof *args->ids);
    gpu_bind_floats(&c, args->weights, (uint64_t)args->n_rows * args->n_used);
    gpu_bind_floats(&c, ready ? ready->x : NULL, ready ? (uint64_t)ready->input.n_rows * ready->input.n : 0);
    bind_input(&c, ready ? &ready->input : NULL);
    if (ready) {
        record.round = round_record(ready);
        n_groups += record.n_rounding = gpu_groups(record.round.n_blocks, 8);
    }
    gpu_bind_floats(&c, swiglu ? swiglu->a : NULL, swiglu ? swiglu->n : 0);
    gpu_bind_floats(&c, swiglu ? swiglu->b : NULL, swiglu ? swiglu->n : 0);
    gpu_bind_floats(&c, swiglu ? swiglu->m : NULL, swiglu ? swiglu->n : 0);
    bind_input(&c, input);
    if (swiglu) {
        record.swiglu = swiglu_record(swiglu, input, most);
        n_groups += gpu_groups(swiglu->n, 256);
    }
    gpu_run(&c, c.b->plain[PIPE_router], &record, sizeof record, n_groups, 1, 1, 256);
}

static void run_add(struct backend *b, const struct add_args *args)
{
    struct gpu_call c = gpu_call_begin(b);
    struct elements_record record = {.n = (uint32_t)args->n};
    gpu_bind_floats(&c, args->x, args->n);
    gpu_bind_floats(&c, args->y, args->n);
    gpu_run(&c, c.b->plain[PIPE_add], &record, sizeof record, gpu_groups(args->n, 256), 1, 1, 256);
}

static void run_rope(struct backend *b, const struct rope_args *args, const struct gpu_input *input, float most)
{
    struct gpu_call c = gpu_call_begin(b);
    uint32_t n = args->n_heads * args->dim;
    struct rope_quantise_record record = {{args->n_heads, args->dim, args->n_rope, args->inverse}, n / 32, most,
                                          input && input->in_bytes};
    gpu_bind(&c, args->pos, args->n_rows * sizeof *args->pos);
    gpu_bind_floats(&c, args->freq, args->n_rope / 2);
    gpu_bind_floats(&c, args->x, (uint64_t)args->n_rows * n);
    if (input) {
        gpu_bind_input(&c, input);
        gpu_run(&c, c.b->plain[PIPE_rope_quantise], &record, sizeof record, gpu_groups(n / 32, 8), args->n_rows, 1,
                256);
    } else {
        gpu_run(&c, c.b->plain[PIPE_rope], &record.rope, sizeof record.rope, args->n_heads, args->n_rows, 1, 32);
    }
}

static void run_expand(struct backend *b, const struct hc_expand_args *args, const float *more)
{
    struct gpu_call c = gpu_call_begin(b);
    struct hc_sum_record record = {.n_hc = args->n_hc, .n_embd = args->n_embd, .has_more = more != NULL};
    uint64_t n = (uint64_t)args->n_rows * args->n_embd;
    gpu_bind_floats(&c, args->y, n);
    gpu_bind_floats(&c, more, n);
    gpu_bind_floats(&c, args->post, (uint64_t)args->n_rows * args->n_hc);
    gpu_bind_floats(&c, args->comb, (uint64_t)args->n_rows * args->n_hc * args->n_hc);
    gpu_bind_floats(&c, args->x, n * args->n_hc);
    gpu_run(&c, c.b->plain[PIPE_hc_expand], &record, sizeof record, gpu_groups(args->n_embd, 256), args->n_rows, 1,
            256);
}

/* Dispatches what waits; with the integers of its result when there is an input. */
static void run_waiting(struct backend *b, const struct gpu_input *input, float most)
{
    const struct gpu_waiting w = gpu_of(b)->waiting;
    gpu_of(b)->waiting.kind = WAITING_NONE; /* dispatching flushes */
    switch (w.kind) {
    case WAITING_NONE: break;
    case WAITING_MIX: gpu_run_hc_mix(b, &w.mix); break;
    case WAITING_REDUCE:
        if (w.mixes) run_enter(b, &w.mix, &w.reduce, input, most);
        else run_reduce(b, &w.reduce, input, most);
        break;
    case WAITING_NORM: gpu_run_norm(b, &w.norm, input, most); break;
    case WAITING_ROUTER: run_router(b, &w.route, NULL, NULL, 0); break;
    case WAITING_SWIGLU:
        if (w.routes) run_router(b, &w.route, &w.swiglu, input, most);
        else run_swiglu(b, &w.swiglu, input, most);
        break;
    case WAITING_ADD: run_add(b, &w.add); break;
    case WAITING_EXPAND: run_expand(b, &w.expand, w.more); break;
    case WAITING_MERGE: gpu_run_merge(b, &w.attention, NULL, NULL, 0); break;
    case WAITING_ROPE:
        if (w.merges) gpu_run_merge(b, &w.attention, &w.rope, input, most);
        else run_rope(b, &w.rope, input, most);
        break;
    case WAITING_PREPARE: gpu_run_prepare(b, &w.prepare); break;
    }
}

void gpu_flush(struct backend_gpu *b)
{
    if (b->waiting.kind != WAITING_NONE) run_waiting(&b->base, NULL, 0);
}

/* Pairs are neighbours in a block of 32 values of one head. */
static bool turns_in_lanes(const struct rope_args *args) { return args->dim % 32 == 0 && args->n_rope % 2 == 0; }

static bool makes(const struct gpu_waiting *w, const float *x, uint32_t n_rows, uint32_t n)
{
    switch (w->kind) {
    case WAITING_REDUCE: return w->reduce.u == x && w->reduce.n_rows == n_rows && w->reduce.n_embd == n;
    case WAITING_NORM: return w->norm.y == x && w->norm.n_rows == n_rows && w->norm.n == n;
    case WAITING_SWIGLU: return w->swiglu.m == x && w->swiglu.n == (size_t)n_rows * n;
    case WAITING_ROPE:
        return w->rope.x == x && w->rope.n_rows == n_rows && w->rope.n_heads * w->rope.dim == n &&
               turns_in_lanes(&w->rope);
    default: return false;
    }
}

bool gpu_quantise_waiting(struct backend *b, const float *x, const struct gpu_input *input, float most)
{
    if (!makes(&gpu_of(b)->waiting, x, input->n_rows, input->n)) return false;
    run_waiting(b, input, most);
    return true;
}

/* Many rows go in turn through the room for their products; with streams that are still to be expanded all at once. */
void gpu_hc_mix(struct backend *b, const struct hc_mix_args *args)
{
    struct backend_gpu *gpu = gpu_of(b);
    const struct gpu_waiting w = gpu->waiting;
    bool expands = w.kind == WAITING_EXPAND && w.expand.x == args->x && w.expand.n_rows == args->n_rows &&
                   w.expand.n_hc == args->n_hc && w.expand.n_embd * args->n_hc == args->fn.n_in &&
                   args->n_rows <= gpu->hc_rows && gpu_hc_can_expand(args->n_hc, &args->fn);
    if (expands) gpu->waiting.kind = WAITING_NONE;
    gpu_flush(gpu);
    for (uint32_t first = 0, n; first < args->n_rows; first += n) {
        struct hc_mix_args some = *args;
        n = args->n_rows - first < gpu->hc_rows ? args->n_rows - first : gpu->hc_rows;
        some.n_rows = n;
        some.x += (size_t)first * args->fn.n_in;
        some.pre += (size_t)first * args->n_hc;
        some.post += (size_t)first * args->n_hc;
        some.comb += (size_t)first * args->n_hc * args->n_hc;
        gpu_hc_products(b, n, args->n_hc, some.x, &args->fn, expands ? &w.expand : NULL, expands ? w.more : NULL);
        if (args->n_rows <= ENTER_ROWS_MAX) gpu->waiting = (struct gpu_waiting){.kind = WAITING_MIX, .mix = *args};
        else gpu_run_hc_mix(b, &some);
    }
}

void gpu_hc_reduce(struct backend *b, const struct hc_reduce_args *args)
{
    struct gpu_waiting *w = &gpu_of(b)->waiting;
    bool mixes = w->kind == WAITING_MIX && w->mix.pre == args->w && w->mix.x == args->x &&
                 w->mix.n_rows == args->n_rows && w->mix.n_hc == args->n_hc &&
                 w->mix.fn.n_in == args->n_hc * args->n_embd;
    if (!mixes) gpu_flush(gpu_of(b));
    w->kind = WAITING_REDUCE;
    w->mixes = mixes;
    w->reduce = *args;
    if (!args->norm || args->n_embd % 32) gpu_flush(gpu_of(b));
}

void gpu_rms_norm(struct backend *b, const struct rms_norm_args *args)
{
    if (gpu_prepare_norm(&gpu_of(b)->waiting, args)) return;
    gpu_flush(gpu_of(b));
    gpu_of(b)->waiting = (struct gpu_waiting){.kind = WAITING_NORM, .norm = *args};
    if (args->n % 32) gpu_flush(gpu_of(b));
}

void gpu_rope(struct backend *b, const struct rope_args *args)
{
    struct gpu_waiting *w = &gpu_of(b)->waiting;
    if (args->n_rope == 0 || gpu_prepare_rope(w, args)) return;
    const struct attention_args *before = &w->attention;
    bool merges = w->kind == WAITING_MERGE && before->o == args->x && before->batch.n_rows == args->n_rows &&
                  before->n_heads == args->n_heads && before->dim == args->dim && before->batch.pos == args->pos &&
                  turns_in_lanes(args);
    if (!merges) gpu_flush(gpu_of(b));
    w->kind = WAITING_ROPE;
    w->merges = merges;
    w->rope = *args;
}

void gpu_index_query(struct backend *b, const struct index_query_args *args)
{
    struct gpu_waiting *w = &gpu_of(b)->waiting;
    bool rotates = w->kind == WAITING_ROPE && !w->merges && w->rope.x == args->q && w->rope.n_rows == args->n_rows &&
                   w->rope.n_heads == args->n_heads && w->rope.dim == args->dim && !w->rope.inverse;
    struct rope_args rope = {0};
    if (rotates) {
        rope = w->rope;
        w->kind = WAITING_NONE;
    }
    struct gpu_call c = gpu_call_begin(b);
    struct index_query_record record = {args->n_heads, args->dim, args->round, rope.n_rope,
                                        (float)(1.0 / sqrt((double)args->dim))};
    ensure(args->dim <= 512);
    gpu_bind(&c, rope.pos, rope.n_rows * sizeof *rope.pos);
    gpu_bind_floats(&c, rope.freq, rope.n_rope / 2);
    gpu_bind_floats(&c, args->q, (uint64_t)args->n_rows * args->n_heads * args->dim);
    gpu_run(&c, c.b->plain[PIPE_index_query], &record, sizeof record, args->n_heads, args->n_rows, 1, 32);
}

void gpu_router(struct backend *b, const struct router_args *args)
{
    ensure(args->n_experts <= 1024 && args->n_used <= 32 && args->n_used <= args->n_experts);
    gpu_flush(gpu_of(b));
    gpu_forget_choices(gpu_of(b));
    plan_ready(gpu_of(b), args);
    gpu_of(b)->waiting = (struct gpu_waiting){.kind = WAITING_ROUTER, .route = *args};
    if (args->n_rows >= TILES_FROM) gpu_flush(gpu_of(b));
}

bool gpu_take_ready(struct backend *b, const float *x, uint32_t n_rows, uint32_t n, float most, bool in_bytes,
                    struct gpu_input *input)
{
    struct gpu_ready *ready = &gpu_of(b)->ready;
    gpu_flush(gpu_of(b)); /* that may make it */
    bool same = ready->x == x && ready->input.n_rows == n_rows && ready->input.n == n && ready->most == most &&
                ready->input.in_bytes == in_bytes;
    ready->x = NULL;
    if (same) *input = ready->input;
    return same;
}

/* The router's dispatch has room for the activation beside it, whatever that is of. */
void gpu_swiglu(struct backend *b, const struct swiglu_args *args)
{
    struct gpu_waiting *w = &gpu_of(b)->waiting;
    bool routes = w->kind == WAITING_ROUTER;
    ensure(args->n <= INT32_MAX);
    if (!routes) gpu_flush(gpu_of(b));
    w->kind = WAITING_SWIGLU;
    w->routes = routes;
    w->swiglu = *args;
    if (args->n % 32) gpu_flush(gpu_of(b));
}

void gpu_add(struct backend *b, const struct add_args *args)
{
    ensure(args->n <= INT32_MAX);
    gpu_flush(gpu_of(b));
    gpu_of(b)->waiting = (struct gpu_waiting){.kind = WAITING_ADD, .add = *args};
}

void gpu_hc_expand(struct backend *b, const struct hc_expand_args *args)
{
    struct gpu_waiting *w = &gpu_of(b)->waiting;
    size_t n = (size_t)args->n_rows * args->n_embd;
    bool adds = w->kind == WAITING_ADD && w->add.y == args->y && w->add.n == n;
    const float *more = adds ? w->add.x : NULL;
    if (!adds) gpu_flush(gpu_of(b));
    *w = (struct gpu_waiting){.kind = WAITING_EXPAND, .expand = *args, .more = more};
}
