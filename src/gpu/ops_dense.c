/* ops_dense.c - operations without session state on the GPU: embedding, hyper-connections, norms, products.
 * Each function picks the kernel, fills its record, binds buffers in the order of its parameters and sizes the grid. */
#include <math.h>

#include "gpu/backend_impl.h"
#include "quant/quant.h"

#define OUTPUTS_PER_GROUP 8u /* of the kernels in matvec.k, and of those in products.k for few rows */

static bool is_aligned(const struct op_weight *w, const float *x)
{
    return (uintptr_t)w->data % 16 == 0 && w->row_bytes % 16 == 0 && (uintptr_t)x % 16 == 0 && w->n_in % 8 == 0;
}

void gpu_embed(struct backend *b, const struct embed_args *args)
{
    struct gpu_call c = gpu_call_begin(b);
    struct embed_record record = {args->n_hc, args->n_embd, (uint32_t)args->table.row_bytes};
    gpu_bind(&c, args->tokens, args->n_rows * sizeof *args->tokens);
    gpu_bind_weight(&c, &args->table);
    gpu_bind_floats(&c, args->x, (uint64_t)args->n_rows * args->n_hc * args->n_embd);
    gpu_run(&c, gpu_format_pipe(c.b, FAMILY_embed, args->table.type), &record, sizeof record, args->n_rows, 1, 1, 128);
}

struct gpu_hc_cut gpu_hc_cut(uint32_t n_hc, uint32_t n_in)
{
    uint32_t n_streams = n_in / n_hc % 8 == 0 ? n_hc : 1, n_chunks = gpu_groups(n_in / n_streams, 8);
    uint32_t least = gpu_groups(32, n_streams), each = gpu_groups(n_chunks, HC_PARTS);
    if (each < least) each = least;
    return (struct gpu_hc_cut){n_streams, each, gpu_groups(n_chunks, each)};
}

bool gpu_hc_can_expand(uint32_t n_hc, const struct op_weight *fn)
{
    struct gpu_hc_cut cut = gpu_hc_cut(n_hc, fn->n_in);
    return cut.n_streams == 4 && cut.n_streams * cut.each <= HC_STAGE && fn->n_out < 32;
}

void gpu_hc_products(struct backend *b, uint32_t n_rows, uint32_t n_hc, const float *x, const struct op_weight *fn,
                     const struct hc_expand_args *expand, const float *more)
{
    struct gpu_call c = gpu_call_begin(b);
    struct gpu_hc_cut cut = gpu_hc_cut(n_hc, fn->n_in);
    struct hc_dot_record record = {fn->n_in, fn->n_out, (uint32_t)fn->row_bytes, n_rows, is_aligned(fn, x),
                                   cut.n_streams, cut.each, expand != NULL, more != NULL};
    uint64_t n_y = expand ? (uint64_t)n_rows * expand->n_embd : 0;
    ensure(fn->n_out < HC_PRODUCTS_MAX && n_rows <= c.b->hc_rows);
    gpu_bind_floats(&c, x, (uint64_t)n_rows * fn->n_in);
    gpu_bind_weight(&c, fn);
    gpu_bind_floats(&c, c.b->hc_parts, (uint64_t)n_rows * HC_PARTS * (fn->n_out + 1));
    gpu_bind_floats(&c, expand ? expand->y : NULL, n_y);
    gpu_bind_floats(&c, more, n_y);
    gpu_bind_floats(&c, expand ? expand->post : NULL, (uint64_t)n_rows * n_hc);
    gpu_bind_floats(&c, expand ? expand->comb : NULL, (uint64_t)n_rows * n_hc * n_hc);
    gpu_run(&c, gpu_format_pipe(c.b, FAMILY_hc_dot, fn->type), &record, sizeof record, cut.n_parts,
            gpu_groups(n_rows, HC_ROWS), 1, 256);
}

struct hc_mix_record gpu_hc_mix_record(const struct hc_mix_args *args)
{
    return (struct hc_mix_record){args->n_hc, args->fn.n_in, gpu_hc_cut(args->n_hc, args->fn.n_in).n_parts,
                                  args->n_iters, args->hc_eps, args->rms_eps};
}

void gpu_run_hc_mix(struct backend *b, const struct hc_mix_args *args)
{
    uint32_t n = args->n_hc, n_mix = n * (2 + n);
    struct gpu_call c = gpu_call_begin(b);
    struct hc_mix_record record = gpu_hc_mix_record(args);
    gpu_bind_floats(&c, c.b->hc_parts, (uint64_t)args->n_rows * HC_PARTS * (n_mix + 1));
    gpu_bind_floats(&c, args->scale, 3);
    gpu_bind_floats(&c, args->base, n_mix);
    gpu_bind_floats(&c, args->pre, (uint64_t)args->n_rows * n);
    gpu_bind_floats(&c, args->post, (uint64_t)args->n_rows * n);
    gpu_bind_floats(&c, args->comb, (uint64_t)args->n_rows * n * n);
    gpu_run(&c, c.b->plain[PIPE_hc_mix], &record, sizeof record, args->n_rows, 1, 1, 32);
}

void gpu_hc_head(struct backend *b, const struct hc_head_args *args)
{
    uint32_t n = args->n_hc;
    ensure(args->n_rows <= gpu_of(b)->hc_rows); /* rows with logits */
    gpu_hc_products(b, args->n_rows, n, args->x, &args->fn, NULL, NULL);
    struct gpu_call c = gpu_call_begin(b);
    struct hc_mix_record record = {n, args->fn.n_in, gpu_hc_cut(n, args->fn.n_in).n_parts, 0, args->hc_eps,
                                   args->rms_eps};
    gpu_bind_floats(&c, c.b->hc_parts, (uint64_t)args->n_rows * HC_PARTS * (n + 1));
    gpu_bind_floats(&c, args->scale, 1);
    gpu_bind_floats(&c, args->base, n);
    gpu_bind_floats(&c, args->w, (uint64_t)args->n_rows * n);
    gpu_run(&c, c.b->plain[PIPE_hc_head], &record, sizeof record, args->n_rows, 1, 1, 32);
}

/* One row goes in bytes to the kernels that take it so. */
static bool takes_bytes(const struct op_weight *w, uint32_t n_rows) { return n_rows == 1 && gpu_takes_bytes(w->type); }

/* Rows of a product, from x on. inputs: they, rounded, as halves and in bytes, of which there is what the matrices
 * take. */
struct slice_of_rows {
    const struct matmul_args *args;
    uint32_t first, n_rows;
    struct gpu_input inputs[2];
};

static void bind_x(struct gpu_call *c, const struct slice_of_rows *s, const struct op_weight *w)
{
    uint64_t n = (uint64_t)s->args->n_groups * w->n_in;
    if (gpu_is_block_format(w->type)) gpu_bind_input(c, &s->inputs[takes_bytes(w, s->n_rows)]);
    else gpu_bind_floats(c, s->args->x + s->first * n, s->n_rows * n);
}

/* One matrix. */
static void multiply(struct backend *b, const struct slice_of_rows *s, uint32_t i)
{
    const struct matmul_args *args = s->args;
    const struct op_weight *w = &args->out[i].w;
    uint32_t n_groups = args->n_groups, group_out = w->n_out / n_groups, n_rows = s->n_rows;
    struct gpu_call c = gpu_call_begin(b);
    struct matvec_record record = {w->n_in, w->n_out, (uint32_t)w->row_bytes, n_groups, group_out, n_rows,
                                   is_aligned(w, args->x + (size_t)s->first * n_groups * w->n_in)};
    bool blocks = gpu_is_block_format(w->type);
    enum format_family family = !blocks ? FAMILY_matmul : n_rows >= TILES_FROM ? FAMILY_tiles : FAMILY_products;
    bind_x(&c, s, w);
    gpu_bind_weight(&c, w);
    gpu_bind_floats(&c, args->out[i].y + (size_t)s->first * w->n_out, (uint64_t)n_rows * w->n_out);
    const struct gpu_pipe *pipe = gpu_format_pipe(c.b, family, w->type);
    if (family == FAMILY_tiles)
        gpu_run(&c, pipe, &record, sizeof record, gpu_groups(group_out, TILE), gpu_groups(n_rows, TILE), n_groups, 128);
    else
        gpu_run(&c, pipe, &record, sizeof record, gpu_groups(w->n_out, blocks ? OUTPUTS_PER_GROUP : 16),
                gpu_groups(n_rows, FEW_ROWS), 1, blocks ? 256 : 128);
}

/* Matrix i and those after it of the same format, as many as a kernel takes, in a record and bound. done: matrices that
 * are. Returns the threadgroups that they take. */
static uint32_t take_matrices(struct gpu_call *c, const struct slice_of_rows *s, uint32_t i, bool *done,
                              struct row_record *record)
{
    const struct matmul_args *args = s->args;
    const struct op_weight *w = &args->out[i].w;
    const float *x = args->x + (size_t)s->first * args->n_groups * w->n_in;
    uint32_t n = 0, n_threadgroups = 0;
    *record = (struct row_record){.n_in = w->n_in, .row_bytes = (uint32_t)w->row_bytes, .aligned = true};
    for (; i < args->n_outputs && n < MATRICES; i++) {
        const struct op_weight *one = &args->out[i].w;
        if (done[i] || one->type != w->type || one->row_bytes != w->row_bytes) continue;
        done[i] = true;
        record->first[n] = n_threadgroups;
        record->n_out[n] = one->n_out;
        record->group_out[n++] = one->n_out / args->n_groups;
        record->aligned = record->aligned && is_aligned(one, x);
        n_threadgroups += gpu_groups(one->n_out, OUTPUTS_PER_GROUP);
        gpu_bind_weight(c, one);
        gpu_bind_floats(c, args->out[i].y + (size_t)s->first * one->n_out, one->n_out);
    }
    for (; n < MATRICES; n++) {
        record->first[n] = UINT32_MAX;
        gpu_bind(c, NULL, 0);
        gpu_bind(c, NULL, 0);
    }
    return n_threadgroups;
}

/* One row times matrix i and others of its format. */
static void multiply_row(struct backend *b, const struct slice_of_rows *s, uint32_t i, bool *done)
{
    const struct op_weight *w = &s->args->out[i].w;
    struct gpu_call c = gpu_call_begin(b);
    struct row_record record;
    bind_x(&c, s, w);
    uint32_t n_threadgroups = take_matrices(&c, s, i, done, &record);
    enum format_family family = gpu_is_block_format(w->type) ? FAMILY_product : FAMILY_matvec;
    gpu_run(&c, gpu_format_pipe(c.b, family, w->type), &record, sizeof record, n_threadgroups, 1, 1, 256);
}

/* The first matrix of a type; n_outputs: there is none. */
static uint32_t first_of(const struct matmul_args *args, uint32_t type)
{
    uint32_t i = 0;
    while (i < args->n_outputs && args->out[i].w.type != type) i++;
    return i;
}

/* Matrices of Q8_0 and of F16, where there are both, in one dispatch. */
static void multiply_row_beside(struct backend *b, const struct slice_of_rows *s, bool *done)
{
    const struct matmul_args *args = s->args;
    uint32_t packed_i = first_of(args, QUANT_Q8_0 | OP_PACKED), i = first_of(args, QUANT_Q8_0);
    uint32_t float_i = first_of(args, QUANT_F16);
    bool packed = packed_i < args->n_outputs;
    if (packed) i = packed_i;
    if (i == args->n_outputs || float_i == args->n_outputs) return;
    struct gpu_call c = gpu_call_begin(b);
    struct beside_record record = {.n_floats = 0};
    bind_x(&c, s, &args->out[i].w);
    uint32_t n = take_matrices(&c, s, i, done, &record.blocks);
    bind_x(&c, s, &args->out[float_i].w);
    record.n_floats = take_matrices(&c, s, float_i, done, &record.floats);
    gpu_run(&c, c.b->plain[packed ? PIPE_beside_q8_0_packed : PIPE_beside_q8_0], &record, sizeof record,
            record.n_floats + n, 1, 1, 256);
}

void gpu_matmul(struct backend *b, const struct matmul_args *args)
{
    struct backend_gpu *gpu = gpu_of(b);
    uint32_t n_in = args->n_groups * args->out[0].w.n_in, n_blocks = 0;
    float most = gpu_input_most(args->out[0].w.type);
    for (uint32_t i = 0; i < args->n_outputs; i++) {
        n_blocks += gpu_is_block_format(args->out[i].w.type);
        most = fminf(most, gpu_input_most(args->out[i].w.type));
    }
    uint32_t step = n_blocks ? gpu->input_rows : args->n_rows;
    if (!n_blocks) gpu_flush(gpu); /* not among those that overlap */
    for (uint32_t first = 0; first < args->n_rows; first += step) {
        struct slice_of_rows s = {args, first, args->n_rows - first < step ? args->n_rows - first : step, {{0}}};
        bool done[OPS_MATMUL_OUTPUTS_MAX] = {false};
        gpu_scratch_begin(b);
        for (uint32_t i = 0; i < args->n_outputs; i++) {
            const struct op_weight *w = &args->out[i].w;
            bool bytes = takes_bytes(w, s.n_rows);
            if (gpu_is_block_format(w->type) && !s.inputs[bytes].q)
                s.inputs[bytes] = gpu_quantise(b, args->x + (size_t)first * n_in, s.n_rows, n_in, most, bytes);
        }
        if (args->n_outputs > 1) gpu->host->overlap(gpu->gpu, true);
        if (s.n_rows == 1) multiply_row_beside(b, &s, done);
        for (uint32_t i = 0; i < args->n_outputs; i++) {
            if (s.n_rows > 1) multiply(b, &s, i);
            else if (!done[i]) multiply_row(b, &s, i, done);
        }
        if (args->n_outputs > 1) gpu->host->overlap(gpu->gpu, false);
    }
}

void gpu_add_streams(struct backend *b, const struct add_streams_args *args)
{
    struct gpu_call c = gpu_call_begin(b);
    struct elements_record record = {.n = args->n_hc * args->n_embd, .n_hc = args->n_hc, .n_embd = args->n_embd};
    gpu_bind_floats(&c, args->e, (uint64_t)args->n_rows * args->n_embd);
    gpu_bind_floats(&c, args->x, (uint64_t)args->n_rows * record.n);
    gpu_run(&c, c.b->plain[PIPE_add_streams], &record, sizeof record, gpu_groups(record.n, 256), args->n_rows, 1, 256);
}

void gpu_gather(struct backend *b, const struct gather_args *args)
{
    struct gpu_call c = gpu_call_begin(b);
    struct elements_record record = {.n = args->n};
    gpu_bind(&c, args->index, args->n_out * sizeof *args->index);
    gpu_bind_rest(&c, args->x);
    gpu_bind_floats(&c, args->y, (uint64_t)args->n_out * args->n);
    gpu_run(&c, c.b->plain[PIPE_gather], &record, sizeof record, gpu_groups(args->n, 256), args->n_out, 1, 256);
}
