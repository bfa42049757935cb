/* ops_fused.c - operations whose kernel waits for the next one, with which it may become one: the coefficients of a
 * hyper-connection before the reduction that they are for, a norm, reduction or activation whose result is rounded to
 * integers next, and the sum that goes into the streams next. One dispatch instead of two
 * and a row that is not read again; the results are the same bits, also those in between. Whatever else comes next, the
 * kernel that waits is dispatched before it (gpu_flush). */
#include "gpu/backend_impl.h"

static struct hc_sum_record reduce_record(const struct hc_reduce_args *args, const struct gpu_input *input, float most)
{
    return (struct hc_sum_record){.n_hc = args->n_hc, .n_embd = args->n_embd, .has_norm = args->norm != NULL,
                                  .rms_eps = args->rms_eps, .most = most, .in_bytes = input && input->in_bytes,
                                  .quantises = input != NULL};
}

static void bind_reduced(struct gpu_call *c, const struct hc_reduce_args *args, const struct gpu_input *input)
{
    gpu_bind_floats(c, args->norm, args->n_embd);
    gpu_bind_floats(c, args->u, (uint64_t)args->n_rows * args->n_embd);
    if (input) gpu_bind_input(c, input);
    else for (int i = 0; i < 3; i++) gpu_bind(c, NULL, 0);
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
    struct hc_enter_record record = {{mix->n_hc, mix->fn.n_in, mix->n_iters, mix->hc_eps, mix->rms_eps},
                                     reduce_record(args, input, most)};
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

static void run_norm(struct backend *b, const struct rms_norm_args *args, const struct gpu_input *input, float most)
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

static void run_swiglu(struct backend *b, const struct swiglu_args *args, const struct gpu_input *input, float most)
{
    struct gpu_call c = gpu_call_begin(b);
    struct elements_record record = {.n = (uint32_t)args->n, .limit = args->limit, .most = most,
                                     .in_bytes = input && input->in_bytes};
    gpu_bind_floats(&c, args->a, args->n);
    gpu_bind_floats(&c, args->b, args->n);
    gpu_bind_floats(&c, args->m, args->n);
    if (input) gpu_bind_input(&c, input);
    gpu_run(&c, c.b->plain[input ? PIPE_swiglu_quantise : PIPE_swiglu], &record, sizeof record,
            gpu_groups(args->n, 256), 1, 1, 256);
}

static void run_add(struct backend *b, const struct add_args *args)
{
    struct gpu_call c = gpu_call_begin(b);
    struct elements_record record = {.n = (uint32_t)args->n};
    gpu_bind_floats(&c, args->x, args->n);
    gpu_bind_floats(&c, args->y, args->n);
    gpu_run(&c, c.b->plain[PIPE_add], &record, sizeof record, gpu_groups(args->n, 256), 1, 1, 256);
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
    case WAITING_NORM: run_norm(b, &w.norm, input, most); break;
    case WAITING_SWIGLU: run_swiglu(b, &w.swiglu, input, most); break;
    case WAITING_ADD: run_add(b, &w.add); break;
    }
}

void gpu_flush(struct backend_gpu *b)
{
    if (b->waiting.kind != WAITING_NONE) run_waiting(&b->base, NULL, 0);
}

static bool makes(const struct gpu_waiting *w, const float *x, uint32_t n_rows, uint32_t n)
{
    switch (w->kind) {
    case WAITING_REDUCE: return w->reduce.u == x && w->reduce.n_rows == n_rows && w->reduce.n_embd == n;
    case WAITING_NORM: return w->norm.y == x && w->norm.n_rows == n_rows && w->norm.n == n;
    case WAITING_SWIGLU: return w->swiglu.m == x && w->swiglu.n == (size_t)n_rows * n;
    default: return false;
    }
}

bool gpu_quantise_waiting(struct backend *b, const float *x, const struct gpu_input *input, float most)
{
    if (!makes(&gpu_of(b)->waiting, x, input->n_rows, input->n)) return false;
    run_waiting(b, input, most);
    return true;
}

/* Many rows go in turn through the room for their products. */
void gpu_hc_mix(struct backend *b, const struct hc_mix_args *args)
{
    struct backend_gpu *gpu = gpu_of(b);
    gpu_flush(gpu);
    for (uint32_t first = 0, n; first < args->n_rows; first += n) {
        struct hc_mix_args some = *args;
        n = args->n_rows - first < gpu->hc_rows ? args->n_rows - first : gpu->hc_rows;
        some.n_rows = n;
        some.x += (size_t)first * args->fn.n_in;
        some.pre += (size_t)first * args->n_hc;
        some.post += (size_t)first * args->n_hc;
        some.comb += (size_t)first * args->n_hc * args->n_hc;
        gpu_hc_products(b, n, some.x, &args->fn);
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
    gpu_flush(gpu_of(b));
    gpu_of(b)->waiting = (struct gpu_waiting){.kind = WAITING_NORM, .norm = *args};
    if (args->n % 32) gpu_flush(gpu_of(b));
}

void gpu_swiglu(struct backend *b, const struct swiglu_args *args)
{
    ensure(args->n <= INT32_MAX);
    gpu_flush(gpu_of(b));
    gpu_of(b)->waiting = (struct gpu_waiting){.kind = WAITING_SWIGLU, .swiglu = *args};
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
    if (adds) w->kind = WAITING_NONE;
    struct gpu_call c = gpu_call_begin(b);
    struct hc_sum_record record = {.n_hc = args->n_hc, .n_embd = args->n_embd, .has_more = adds};
    gpu_bind_floats(&c, args->y, n);
    gpu_bind_floats(&c, more, n);
    gpu_bind_floats(&c, args->post, (uint64_t)args->n_rows * args->n_hc);
    gpu_bind_floats(&c, args->comb, (uint64_t)args->n_rows * args->n_hc * args->n_hc);
    gpu_bind_floats(&c, args->x, (uint64_t)args->n_rows * args->n_hc * args->n_embd);
    gpu_run(&c, c.b->plain[PIPE_hc_expand], &record, sizeof record, gpu_groups(args->n_embd, 256), args->n_rows, 1,
            256);
}
