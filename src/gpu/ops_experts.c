/* ops_experts.c - routed experts on the GPU. A few tokens: each choice reads its expert. Many: choices are sorted by
 * expert on the device, and a tile of an expert's weights is unpacked once for up to 64 of them. Both give the same
 * bits. */
#include <math.h>

#include "gpu/backend_impl.h"

#define OUTPUTS_PER_GROUP 8u /* of the kernels for few rows */

static struct moe_record expert_record(const struct op_weight *w, uint32_t n_used, float limit)
{
    return (struct moe_record){.n_in = w->n_in, .n_out = w->n_out, .n_used = n_used,
                               .row_bytes = (uint32_t)w->row_bytes, .stack_low = (uint32_t)w->stack_bytes,
                               .stack_high = (uint32_t)(w->stack_bytes >> 32), .limit = limit};
}

/* Choices of a slice of a batch, sorted by expert. */
struct sorted {
    uint32_t n_pairs, n_tiles;
    uint32_t *order, *tiles; /* NULL: not sorted */
};

/* Words from a multiple of 64 on. */
static uint32_t *take_words(uint8_t **room, uint64_t n)
{
    uint32_t *words = (uint32_t *)(void *)*room;
    *room += (n + 63) / 64 * 64 * sizeof *words;
    return words;
}

/* slice_i: which part of the room they go to; is_there: where they are already. */
static struct sorted sort_choices(struct backend *b, const int32_t *ids, uint32_t n_pairs, uint32_t n_experts,
                                  uint32_t slice_i, bool is_there)
{
    struct gpu_sorts *sorts = &gpu_of(b)->sorts;
    uint8_t *room = sorts->room + slice_i * sorts->slice_bytes, *end = room + sorts->slice_bytes;
    uint32_t most = n_pairs / TILE + n_experts;
    struct sorted s = {.n_pairs = n_pairs, .n_tiles = most < n_pairs ? most : n_pairs};
    struct gpu_call count = gpu_call_begin(b), sort = count;
    struct sort_record record = {n_pairs, n_experts, s.n_tiles};
    s.order = take_words(&room, n_pairs);
    s.tiles = take_words(&room, s.n_tiles * 3ull);
    uint32_t *counts = take_words(&room, n_experts);
    ensure(room <= end);
    if (is_there) return s;
    gpu_bind(&count, ids, n_pairs * sizeof *ids);
    gpu_bind(&count, counts, n_experts * sizeof *counts);
    gpu_run(&count, count.b->plain[PIPE_moe_count], &record, sizeof record, n_experts, 1, 1, 256);
    gpu_bind(&sort, ids, n_pairs * sizeof *ids);
    gpu_bind(&sort, counts, n_experts * sizeof *counts);
    gpu_bind(&sort, s.order, n_pairs * sizeof *s.order);
    gpu_bind(&sort, s.tiles, s.n_tiles * 3 * sizeof *s.tiles);
    gpu_run(&sort, sort.b->plain[PIPE_moe_sort], &record, sizeof record, n_experts, 1, 1, 256);
    return s;
}

/* A batch of choices that is to be sorted slice by slice. */
struct choices {
    const int32_t *ids;
    uint32_t n_rows, n_used, n_experts;
};

/* Those of n rows from `first` on, unless the operation before this one has sorted them. */
static struct sorted sort_slice(struct backend *b, const struct choices *all, uint32_t first, uint32_t n)
{
    struct gpu_sorts *s = &gpu_of(b)->sorts;
    bool same = s->ids == all->ids && s->n_rows == all->n_rows && s->n_used == all->n_used &&
                s->n_experts == all->n_experts;
    if (!same) {
        s->ids = all->ids;
        s->n_rows = all->n_rows;
        s->n_used = all->n_used;
        s->n_experts = all->n_experts;
        s->n_sorted = 0;
    }
    bool is_there = first + n <= s->n_sorted;
    if (!is_there) s->n_sorted = first == s->n_sorted ? first + n : 0;
    return sort_choices(b, all->ids + (size_t)first * all->n_used, n * all->n_used, all->n_experts,
                        first / gpu_of(b)->expert_rows, is_there);
}

static struct sorted sort_staged(struct backend *b, const struct gpu_staged *staged, uint32_t n_pairs)
{
    gpu_of(b)->sorts.ids = NULL; /* its room is used for others */
    struct sorted s = sort_choices(b, staged->ids, n_pairs, staged->n_experts, 0, false);
    struct sort_record record = {n_pairs, staged->n_experts, s.n_tiles};
    struct gpu_call c = gpu_call_begin(b);
    if (!staged->where) return s;
    gpu_bind(&c, staged->where, staged->n_experts * sizeof *staged->where);
    gpu_bind(&c, s.tiles, s.n_tiles * 3 * sizeof *s.tiles);
    gpu_run(&c, c.b->plain[PIPE_moe_places], &record, sizeof record, gpu_groups(s.n_tiles, 256), 1, 1, 256);
    return s;
}

/* y[pair] = the product of a pair's expert with row pair / per_row of the input. */
static void tiles_of_experts(struct backend *b, const struct sorted *s, const struct gpu_input *input,
                             const struct op_weight *w, uint32_t per_row, float *y)
{
    struct gpu_call c = gpu_call_begin(b);
    struct moe_record record = expert_record(w, per_row, 0);
    gpu_bind_input(&c, input);
    gpu_bind(&c, s->order, s->n_pairs * sizeof *s->order);
    gpu_bind(&c, s->tiles, s->n_tiles * 3 * sizeof *s->tiles);
    gpu_bind_weight(&c, w);
    gpu_bind_floats(&c, y, (uint64_t)s->n_pairs * w->n_out);
    gpu_run(&c, gpu_format_pipe(c.b, FAMILY_expert_tiles, w->type), &record, sizeof record, gpu_groups(w->n_out, TILE),
            s->n_tiles, 1, 128);
}

/* A slice of the rows of gate_up. */
struct gate_up_slice {
    const struct moe_gate_up_args *args;
    const float *x, *weights;
    const int32_t *ids;
    float *m;
    uint32_t n_rows;
    uint64_t n_pairs;
    struct gpu_input inputs[2]; /* as halves and in bytes: what the matrices take */
    struct sorted sorted;       /* when there are many rows */
};

/* How the kernel for a few choices takes its input. */
static const struct gpu_input *input_for(const struct gate_up_slice *s, const struct op_weight *w)
{
    return &s->inputs[gpu_takes_bytes(w->type)];
}

/* The product of one of the two matrices, before the activation. */
static void products_apart(struct backend *b, const struct gate_up_slice *s, const struct op_weight *w, float *y)
{
    bool blocks = gpu_is_block_format(w->type);
    if (blocks && s->sorted.order) {
        tiles_of_experts(b, &s->sorted, &s->inputs[0], w, s->args->n_used, y);
        return;
    }
    struct gpu_call c = gpu_call_begin(b);
    struct moe_record record = expert_record(w, s->args->n_used, s->args->limit);
    if (blocks) gpu_bind_input(&c, input_for(s, w));
    else gpu_bind_floats(&c, s->x, (uint64_t)s->n_rows * w->n_in);
    gpu_bind(&c, s->ids, s->n_pairs * sizeof *s->ids);
    gpu_bind_weight(&c, w);
    gpu_bind_floats(&c, y, s->n_pairs * w->n_out);
    gpu_run(&c, gpu_format_pipe(c.b, blocks ? FAMILY_expert_product : FAMILY_moe_expert, w->type), &record,
            sizeof record, gpu_groups(w->n_out, OUTPUTS_PER_GROUP), (uint32_t)s->n_pairs, 1, blocks ? 256 : 128);
}

/* The gate's products are in m. */
static void activate(struct backend *b, const struct gate_up_slice *s, const float *up)
{
    struct gpu_call c = gpu_call_begin(b);
    uint32_t n_out = s->args->gate.n_out;
    struct moe_record record = expert_record(&s->args->up, s->args->n_used, s->args->limit);
    gpu_bind_floats(&c, up, s->n_pairs * n_out);
    gpu_bind_floats(&c, s->weights, s->n_pairs);
    gpu_bind_floats(&c, s->m, s->n_pairs * n_out);
    gpu_run(&c, c.b->plain[PIPE_moe_activate], &record, sizeof record, gpu_groups(n_out, 256), (uint32_t)s->n_pairs, 1,
            256);
}

/* The gate's products in m, the up's in scratch, then both together. */
static void gate_up_apart(struct backend *b, const struct gate_up_slice *s)
{
    uint32_t n_out = s->args->gate.n_out;
    float *up = gpu_scratch(b, s->n_pairs * n_out * sizeof *up);
    products_apart(b, s, &s->args->gate, s->m);
    products_apart(b, s, &s->args->up, up);
    activate(b, s, up);
}

/* Both matrices in one kernel: few rows, one format. */
static void gate_up_together(struct backend *b, const struct gate_up_slice *s)
{
    const struct op_weight *gate = &s->args->gate, *up = &s->args->up;
    bool blocks = gpu_is_block_format(gate->type);
    struct gpu_call c = gpu_call_begin(b);
    struct moe_record record = expert_record(gate, s->args->n_used, s->args->limit);
    if (blocks) gpu_bind_input(&c, input_for(s, gate));
    else gpu_bind_floats(&c, s->x, (uint64_t)s->n_rows * gate->n_in);
    gpu_bind(&c, s->ids, s->n_pairs * sizeof *s->ids);
    gpu_bind_floats(&c, s->weights, s->n_pairs);
    gpu_bind_weight(&c, gate);
    gpu_bind_weight(&c, up);
    gpu_bind_floats(&c, s->m, s->n_pairs * gate->n_out);
    gpu_run(&c, gpu_format_pipe(c.b, blocks ? FAMILY_expert_gate_up : FAMILY_moe_gate_up, gate->type), &record,
            sizeof record, gpu_groups(gate->n_out, OUTPUTS_PER_GROUP), (uint32_t)s->n_pairs, 1, blocks ? 256 : 128);
}

/* Both matrices come to the device a group of experts at a time. */
static void gate_up_in_groups(struct backend *b, struct gate_up_slice *s)
{
    struct backend_gpu *gpu = gpu_of(b);
    uint32_t n_out = s->args->gate.n_out, next = 0;
    float *up = gpu_scratch(b, s->n_pairs * n_out * sizeof *up);
    const uint64_t used = gpu->scratch_used;
    for (;;) {
        struct op_weight gate = s->args->gate, other = s->args->up, *const weights[] = {&gate, &other};
        struct gpu_staged staged;
        if (!gpu_stage_experts(b, s->ids, (uint32_t)s->n_pairs, &next, weights, 2, &staged)) break;
        gpu->scratch_used = used;
        s->sorted = sort_staged(b, &staged, (uint32_t)s->n_pairs);
        tiles_of_experts(b, &s->sorted, &s->inputs[0], &gate, s->args->n_used, s->m);
        tiles_of_experts(b, &s->sorted, &s->inputs[0], &other, s->args->n_used, up);
    }
    activate(b, s, up);
}

static void gate_up(struct backend *b, const struct moe_gate_up_args *args)
{
    const struct op_weight *gate = &args->gate, *up = &args->up;
    uint32_t step = gpu_of(b)->expert_rows, n_used = args->n_used;
    bool blocks = gpu_is_block_format(gate->type) || gpu_is_block_format(up->type);
    float most = fminf(gpu_input_most(gate->type), gpu_input_most(up->type));
    for (uint32_t first = 0; first < args->n_rows; first += step) {
        struct gate_up_slice s = {.args = args, .x = args->x + (size_t)first * gate->n_in,
                                  .weights = args->weights + (size_t)first * n_used,
                                  .ids = args->ids + (size_t)first * n_used,
                                  .m = args->m + (size_t)first * n_used * gate->n_out};
        s.n_rows = args->n_rows - first < step ? args->n_rows - first : step;
        s.n_pairs = (uint64_t)s.n_rows * n_used;
        gpu_scratch_begin(b);
        bool tiles = gate->stacks || s.n_rows >= TILES_FROM, gate_bytes = !tiles && gpu_takes_bytes(gate->type);
        bool up_bytes = !tiles && gpu_takes_bytes(up->type);
        if (blocks && !gpu_take_ready(b, s.x, s.n_rows, gate->n_in, most, gate_bytes, &s.inputs[gate_bytes]))
            s.inputs[gate_bytes] = gpu_quantise(b, s.x, s.n_rows, gate->n_in, most, gate_bytes);
        if (blocks && up_bytes != gate_bytes)
            s.inputs[up_bytes] = gpu_quantise(b, s.x, s.n_rows, gate->n_in, most, up_bytes);
        if (gate->stacks) {
            gate_up_in_groups(b, &s);
            continue;
        }
        if (blocks && s.n_rows >= TILES_FROM)
            s.sorted = sort_slice(b, &(struct choices){args->ids, args->n_rows, n_used, gate->n_stack}, first,
                                  s.n_rows);
        if (s.sorted.order || gate->type != up->type || gate->stack_bytes != up->stack_bytes) gate_up_apart(b, &s);
        else gate_up_together(b, &s);
    }
}

/* The products of all choices, their experts coming to the device a group at a time. */
static void down_in_groups(struct backend *b, const struct op_weight *w, const struct gpu_input *input,
                           const int32_t *ids, uint32_t n_pairs, float *products)
{
    struct backend_gpu *gpu = gpu_of(b);
    const uint64_t used = gpu->scratch_used;
    uint32_t next = 0;
    for (;;) {
        struct op_weight some = *w, *const weights[] = {&some};
        struct gpu_staged staged;
        if (!gpu_stage_experts(b, ids, n_pairs, &next, weights, 1, &staged)) break;
        gpu->scratch_used = used;
        struct sorted sorted = sort_staged(b, &staged, n_pairs);
        tiles_of_experts(b, &sorted, input, &some, 1, products);
    }
}

/* n_rows of down from `first` on. */
static void down_slice(struct backend *b, const struct moe_down_args *args, uint32_t first, uint32_t n_rows)
{
    const struct op_weight *w = &args->down;
    const uint32_t n_used = args->n_used, n_pairs = n_rows * n_used;
    const float *m = args->m + (size_t)first * n_used * w->n_in;
    const int32_t *ids = args->ids + (size_t)first * n_used;
    float *y = args->y + (size_t)first * w->n_out;
    bool blocks = gpu_is_block_format(w->type), tiles = w->stacks || n_rows >= TILES_FROM;
    bool bytes = !tiles && gpu_takes_bytes(w->type);
    struct moe_record record = expert_record(w, n_used, 0);
    struct gpu_input input = {0};
    gpu_scratch_begin(b);
    if (blocks) input = gpu_quantise(b, m, n_pairs, w->n_in, gpu_input_most(w->type), bytes);
    if (blocks && tiles) {
        float *products = gpu_scratch(b, (uint64_t)n_pairs * w->n_out * sizeof *products);
        if (w->stacks) {
            down_in_groups(b, w, &input, ids, n_pairs, products);
        } else {
            struct choices all = {args->ids, args->n_rows, n_used, w->n_stack};
            struct sorted sorted = sort_slice(b, &all, first, n_rows);
            tiles_of_experts(b, &sorted, &input, w, 1, products);
        }
        struct gpu_call sum = gpu_call_begin(b);
        gpu_bind_floats(&sum, products, (uint64_t)n_pairs * w->n_out);
        gpu_bind_floats(&sum, y, (uint64_t)n_rows * w->n_out);
        gpu_run(&sum, sum.b->plain[PIPE_moe_sum], &record, sizeof record, gpu_groups(w->n_out, 256), n_rows, 1, 256);
        return;
    }
    struct gpu_call c = gpu_call_begin(b);
    if (blocks) gpu_bind_input(&c, &input);
    else gpu_bind_floats(&c, m, (uint64_t)n_pairs * w->n_in);
    gpu_bind(&c, ids, n_pairs * sizeof *ids);
    gpu_bind_weight(&c, w);
    gpu_bind_floats(&c, y, (uint64_t)n_rows * w->n_out);
    gpu_run(&c, gpu_format_pipe(c.b, blocks ? FAMILY_expert_down : FAMILY_moe_down, w->type), &record, sizeof record,
            gpu_groups(w->n_out, bytes ? 2 * OUTPUTS_PER_GROUP : OUTPUTS_PER_GROUP), n_rows, 1, blocks ? 256 : 128);
}

static void down(struct backend *b, const struct moe_down_args *args)
{
    uint32_t step = gpu_of(b)->expert_rows;
    ensure(args->n_used <= 32);
    for (uint32_t first = 0; first < args->n_rows; first += step)
        down_slice(b, args, first, args->n_rows - first < step ? args->n_rows - first : step);
}

/* Experts that are not on the device come for as many rows at a time as there is room for them; for many rows, which
 * name most of a layer, a group of experts at a time (stage.c). */
static bool rows_in_turn(const struct op_weight *a, const struct op_weight *b, uint32_t n_rows)
{
    bool blocks = gpu_is_block_format(a->type) && gpu_is_block_format(b->type);
    return a->stacks && (n_rows < TILES_FROM || !blocks);
}

void gpu_moe_gate_up(struct backend *b, const struct moe_gate_up_args *args)
{
    uint32_t n = 1;
    if (!rows_in_turn(&args->gate, &args->up, args->n_rows)) {
        gate_up(b, args);
        return;
    }
    for (uint32_t first = 0; first < args->n_rows && n > 0; first += n) {
        struct moe_gate_up_args some = *args;
        struct op_weight *const weights[] = {&some.gate, &some.up};
        some.ids += (size_t)first * args->n_used;
        n = some.n_rows = gpu_stage_rows(b, &some.ids, args->n_rows - first, args->n_used, weights, 2);
        gpu_of(b)->sorts.ids = NULL; /* other places may lie where others lay */
        some.x += (size_t)first * args->gate.n_in;
        some.weights += (size_t)first * args->n_used;
        some.m += (size_t)first * args->n_used * args->gate.n_out;
        if (n > 0) gate_up(b, &some);
    }
}

void gpu_moe_down(struct backend *b, const struct moe_down_args *args)
{
    uint32_t n = 1;
    if (!rows_in_turn(&args->down, &args->down, args->n_rows)) {
        down(b, args);
        return;
    }
    for (uint32_t first = 0; first < args->n_rows && n > 0; first += n) {
        struct moe_down_args some = *args;
        struct op_weight *const weights[] = {&some.down};
        some.ids += (size_t)first * args->n_used;
        n = some.n_rows = gpu_stage_rows(b, &some.ids, args->n_rows - first, args->n_used, weights, 1);
        gpu_of(b)->sorts.ids = NULL;
        some.m += (size_t)first * args->n_used * args->down.n_in;
        some.y += (size_t)first * args->down.n_out;
        if (n > 0) down(b, &some);
    }
}
