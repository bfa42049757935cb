/* ops_fused.c - operations whose kernel waits for the next one, with which it may become one: a norm or an activation
 * whose result is rounded to integers next, and the sum that goes into the streams next. One dispatch instead of two
 * and a row that is not read again; the results are the same bits, also those in between. Whatever else comes next, the
 * kernel that waits is dispatched before it (gpu_flush). */
#include "gpu/backend_impl.h"

static void run_reduce(struct backend *b, const struct hc_reduce_args *args, const struct gpu_input *input, float most)
{
    struct gpu_call c = gpu_call_begin(b);
    struct hc_sum_record record = {args->n_hc, args->n_embd, args->norm != NULL, 0, args->rms_eps, most,
                                   input && input->in_bytes};
    gpu_bind_floats(&c, args->x, (uint64_t)args->n_rows * args->n_hc * args->n_embd);
    gpu_bind_floats(&c, args->w, (uint64_t)args->n_rows * args->n_hc);
    gpu_bind_floats(&c, args->norm, args->n_embd);
    gpu_bind_floats(&c, args->u, (uint64_t)args->n_rows * args->n_embd);
    if (input) gpu_bind_input(&c, input);
    gpu_run(&c, c.b->plain[input ? PIPE_hc_reduce_quantise : PIPE_hc_reduce], &record, sizeof record, args->n_rows, 1,
            1, 256);
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
    case WAITING_REDUCE: run_reduce(b, &w.reduce, input, most); break;
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

void gpu_hc_reduce(struct backend *b, const struct hc_reduce_args *args)
{
    gpu_flush(gpu_of(b));
    gpu_of(b)->waiting = (struct gpu_waiting){WAITING_REDUCE, {.reduce = *args}};
    if (!args->norm || args->n_embd % 32) gpu_flush(gpu_of(b));
}

void gpu_rms_norm(struct backend *b, const struct rms_norm_args *args)
{
    gpu_flush(gpu_of(b));
    gpu_of(b)->waiting = (struct gpu_waiting){WAITING_NORM, {.norm = *args}};
    if (args->n % 32) gpu_flush(gpu_of(b));
}

void gpu_swiglu(struct backend *b, const struct swiglu_args *args)
{
    ensure(args->n <= INT32_MAX);
    gpu_flush(gpu_of(b));
    gpu_of(b)->waiting = (struct gpu_waiting){WAITING_SWIGLU, {.swiglu = *args}};
    if (args->n % 32) gpu_flush(gpu_of(b));
}

void gpu_add(struct backend *b, const struct add_args *args)
{
    ensure(args->n <= INT32_MAX);
    gpu_flush(gpu_of(b));
    gpu_of(b)->waiting = (struct gpu_waiting){WAITING_ADD, {.add = *args}};
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
