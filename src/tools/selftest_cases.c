/* selftest_cases.c - cases of the operations that work row by row, and their tolerances. See
 * selftest_run.h for the scheme. */
#include "tools/selftest_cases.h"

#include <math.h>

#include "ops/rope_freq.h"
#include "quant/quant.h"

/* Float32 arithmetic with sums of a few thousand terms, in any order. */
#define TOLERANCE_FLOAT 5e-6

double op_format_tolerance(uint32_t type)
{
    switch (type) {
    case QUANT_F32:
    case QUANT_F16:
    case QUANT_BF16: return 1e-5;
    case QUANT_Q2_K:
    case QUANT_IQ2_XXS:
    case QUANT_IQ2_XS: return 1e-2;
    default: return 1e-3;
    }
}

/* n_hc n_embd type; n_out = vocabulary */
void op_case_embed(struct op_run *run, const struct op_shape *s)
{
    struct op_weight table = op_matrix(run, s->type, s->n_embd, s->n_out, 1, NULL);
    int32_t *tokens = op_host(run, s->n_rows, sizeof *tokens);
    for (uint32_t r = 0; r < s->n_rows; r++) tokens[r] = (int32_t)rng_below(&run->rng, s->n_out);
    tokens[s->n_rows - 1] = (int32_t)s->n_out - 1;
    tokens[0] = 0;
    int32_t *tokens_there = op_put(run->dev, tokens, s->n_rows * sizeof *tokens);
    float *x = op_result(run, (size_t)s->n_rows * s->n_hc * s->n_embd);
    while (op_next(run)) {
        struct embed_args args = {.n_rows = run->n, .n_hc = s->n_hc, .n_embd = s->n_embd,
                                  .tokens = tokens_there + run->first, .table = table,
                                  .x = x + (size_t)run->first * s->n_hc * s->n_embd};
        run->dev->b->ops->embed(run->dev->b, &args);
    }
    run->moved_bytes = s->n_rows * (table.row_bytes + (uint64_t)s->n_hc * s->n_embd * sizeof(float));
    op_output_floats(run, "x", x, s->n_rows, (size_t)s->n_hc * s->n_embd, 0);
}

#define AFTER_OUT 24u

struct op_after op_after_make(struct op_run *run, uint32_t n)
{
    struct op_after after = {0};
    if (!run->shape->fused) return after;
    after.w = op_product_matrix(run, QUANT_Q8_0, n, AFTER_OUT, 1, NULL);
    after.z = op_result(run, (size_t)run->shape->n_rows * AFTER_OUT);
    return after;
}

void op_after_run(struct op_run *run, const struct op_after *after, const float *y)
{
    if (!after->z) return;
    struct matmul_args args = {.n_rows = run->n, .n_outputs = 1, .n_groups = 1, .x = y,
                               .out = {{after->w, after->z + (size_t)run->first * AFTER_OUT}}};
    run->dev->b->ops->matmul(run->dev->b, &args);
}

void op_after_output(struct op_run *run, const struct op_after *after)
{
    double tolerance = op_format_tolerance(QUANT_Q8_0);
    if (after->z) op_output_floats(run, "product", after->z, run->shape->n_rows, AFTER_OUT, tolerance);
}

/* What makes the streams that coefficients are for. */
struct streams_before {
    float *y, *more, *post, *comb;
};

static struct streams_before streams_before_make(struct op_run *run)
{
    const struct op_shape *s = run->shape;
    struct streams_before before = {0};
    if (!s->fused) return before;
    before.y = op_input(run, (size_t)s->n_rows * s->n_embd, NULL);
    before.more = op_input(run, (size_t)s->n_rows * s->n_embd, NULL);
    before.post = op_parameters(run, (size_t)s->n_rows * s->n_hc, 0.3f, 1);
    before.comb = op_parameters(run, (size_t)s->n_rows * s->n_hc * s->n_hc, 0.1f, 0.25f);
    return before;
}

static void expand_streams(struct op_run *run, const struct streams_before *before, float *x)
{
    const struct op_shape *s = run->shape;
    size_t r = run->first, n = s->n_hc, at = r * s->n_embd;
    struct add_args add = {.n = (size_t)run->n * s->n_embd, .x = before->more + at, .y = before->y + at};
    struct hc_expand_args expand = {.n_rows = run->n, .n_hc = s->n_hc, .n_embd = s->n_embd, .x = x + at * n,
                                    .y = before->y + at, .post = before->post + r * n,
                                    .comb = before->comb + r * n * n};
    run->dev->b->ops->add(run->dev->b, &add);
    run->dev->b->ops->hc_expand(run->dev->b, &expand);
}

/* n_hc n_embd type; fused: with the sum and the expansion that make the streams, the reduction that it is for, and a
 * product */
void op_case_hc_mix(struct op_run *run, const struct op_shape *s)
{
    uint32_t n = s->n_hc, n_mix = n * (2 + n), flat = n * s->n_embd;
    float *x = op_input(run, (size_t)s->n_rows * flat, NULL);
    struct op_weight fn = op_matrix(run, s->type, flat, n_mix, 1, NULL);
    float *scale = op_parameters(run, 3, 0.01f, 0.02f), *base = op_parameters(run, n_mix, 1, 0);
    float *pre = op_result(run, (size_t)s->n_rows * n), *post = op_result(run, (size_t)s->n_rows * n);
    float *comb = op_result(run, (size_t)s->n_rows * n * n);
    float *norm = op_parameters(run, s->n_embd, 0.2f, 1);
    float *u = s->fused ? op_result(run, (size_t)s->n_rows * s->n_embd) : NULL;
    struct op_after after = op_after_make(run, s->n_embd);
    struct streams_before before = streams_before_make(run);
    while (op_next(run)) {
        size_t r = run->first;
        if (s->fused) expand_streams(run, &before, x);
        struct hc_mix_args args = {.n_rows = run->n, .n_hc = n, .n_embd = s->n_embd, .n_iters = 20, .hc_eps = 1e-6f,
                                   .rms_eps = 1e-6f, .x = x + r * flat, .fn = fn, .scale = scale, .base = base,
                                   .pre = pre + r * n, .post = post + r * n, .comb = comb + r * n * n};
        run->dev->b->ops->hc_mix(run->dev->b, &args);
        if (!u) continue;
        struct hc_reduce_args reduce = {.n_rows = run->n, .n_hc = n, .n_embd = s->n_embd, .rms_eps = 1e-6f, .x = args.x,
                                        .w = args.pre, .norm = norm, .u = u + r * s->n_embd};
        run->dev->b->ops->hc_reduce(run->dev->b, &reduce);
        op_after_run(run, &after, reduce.u);
    }
    double tolerance = op_format_tolerance(s->type);
    op_output_floats(run, "pre", pre, s->n_rows, n, tolerance);
    op_output_floats(run, "post", post, s->n_rows, n, tolerance);
    op_output_floats(run, "comb", comb, s->n_rows, (size_t)n * n, tolerance);
    if (u) op_output_floats(run, "u", u, s->n_rows, s->n_embd, tolerance);
    if (u) op_output_floats(run, "x", x, s->n_rows, flat, TOLERANCE_FLOAT);
    op_after_output(run, &after);
}

/* n_hc n_embd type */
void op_case_hc_head(struct op_run *run, const struct op_shape *s)
{
    uint32_t n = s->n_hc, flat = n * s->n_embd;
    float *x = op_input(run, (size_t)s->n_rows * flat, NULL);
    struct op_weight fn = op_matrix(run, s->type, flat, n, 1, NULL);
    float *scale = op_parameters(run, 1, 0.01f, 0.02f), *base = op_parameters(run, n, 1, 0);
    float *w = op_result(run, (size_t)s->n_rows * n);
    while (op_next(run)) {
        struct hc_head_args args = {.n_rows = run->n, .n_hc = n, .n_embd = s->n_embd, .hc_eps = 1e-6f,
                                    .rms_eps = 1e-6f, .x = x + (size_t)run->first * flat, .fn = fn, .scale = scale,
                                    .base = base, .w = w + (size_t)run->first * n};
        run->dev->b->ops->hc_head(run->dev->b, &args);
    }
    op_output_floats(run, "w", w, s->n_rows, n, 1e-5);
}

/* n_hc n_embd; plain: no norm; fused */
void op_case_hc_reduce(struct op_run *run, const struct op_shape *s)
{
    size_t flat = (size_t)s->n_hc * s->n_embd;
    float *x = op_input(run, s->n_rows * flat, NULL), *w = op_parameters(run, (size_t)s->n_rows * s->n_hc, 0.3f, 0.5f);
    float *norm = s->plain ? NULL : op_parameters(run, s->n_embd, 0.2f, 1);
    float *u = op_result(run, (size_t)s->n_rows * s->n_embd);
    struct op_after after = op_after_make(run, s->n_embd);
    while (op_next(run)) {
        struct hc_reduce_args args = {.n_rows = run->n, .n_hc = s->n_hc, .n_embd = s->n_embd, .rms_eps = 1e-6f,
                                      .x = x + run->first * flat, .w = w + (size_t)run->first * s->n_hc, .norm = norm,
                                      .u = u + (size_t)run->first * s->n_embd};
        run->dev->b->ops->hc_reduce(run->dev->b, &args);
        op_after_run(run, &after, args.u);
    }
    op_output_floats(run, "u", u, s->n_rows, s->n_embd, TOLERANCE_FLOAT);
    op_after_output(run, &after);
}

/* n_hc n_embd */
void op_case_hc_expand(struct op_run *run, const struct op_shape *s)
{
    size_t flat = (size_t)s->n_hc * s->n_embd, n = s->n_hc;
    float *x = op_input(run, s->n_rows * flat, NULL), *y = op_input(run, (size_t)s->n_rows * s->n_embd, NULL);
    float *post = op_parameters(run, s->n_rows * n, 0.3f, 1);
    float *comb = op_parameters(run, s->n_rows * n * n, 0.1f, 0.25f);
    while (op_next(run)) {
        size_t r = run->first;
        struct hc_expand_args args = {.n_rows = run->n, .n_hc = s->n_hc, .n_embd = s->n_embd, .x = x + r * flat,
                                      .y = y + r * s->n_embd, .post = post + r * n, .comb = comb + r * n * n};
        run->dev->b->ops->hc_expand(run->dev->b, &args);
    }
    op_output_floats(run, "x", x, s->n_rows, flat, TOLERANCE_FLOAT);
}

/* n_in; plain: no weight; is_index: in place; fused */
void op_case_rms_norm(struct op_run *run, const struct op_shape *s)
{
    float *x = op_input(run, (size_t)s->n_rows * s->n_in, NULL);
    float *weight = s->plain ? NULL : op_parameters(run, s->n_in, 0.2f, 1);
    float *y = s->is_index ? x : op_result(run, (size_t)s->n_rows * s->n_in);
    struct op_after after = op_after_make(run, s->n_in);
    while (op_next(run)) {
        size_t at = (size_t)run->first * s->n_in;
        struct rms_norm_args args = {.n_rows = run->n, .n = s->n_in, .eps = 1e-6f, .x = x + at, .weight = weight,
                                     .y = y + at};
        run->dev->b->ops->rms_norm(run->dev->b, &args);
        op_after_run(run, &after, args.y);
    }
    op_output_floats(run, "y", y, s->n_rows, s->n_in, TOLERANCE_FLOAT);
    op_after_output(run, &after);
}

float *op_frequencies(struct op_run *run, bool plain)
{
    uint32_t n_rope = run->shape->n_rope;
    float freq[256];
    rope_frequencies(plain ? 10000 : 160000, n_rope, 16, 65536, 32, 1, !plain, freq);
    return op_put(run->dev, freq, n_rope / 2 * sizeof *freq);
}

/* n_heads dim n_rope start inverse; plain: without YaRN; fused. Positions step by a large number so that all angles
 * occur. */
void op_case_rope(struct op_run *run, const struct op_shape *s)
{
    size_t row_n = (size_t)s->n_heads * s->dim;
    int32_t *pos = op_host(run, s->n_rows, sizeof *pos);
    for (uint32_t r = 0; r < s->n_rows; r++) pos[r] = (int32_t)((s->start + r * 9973u) % 1048576u);
    float *freq_there = op_frequencies(run, s->plain);
    int32_t *pos_there = op_put(run->dev, pos, s->n_rows * sizeof *pos);
    float *x = op_input(run, s->n_rows * row_n, NULL);
    struct op_after after = op_after_make(run, (uint32_t)row_n);
    while (op_next(run)) {
        struct rope_args args = {.n_rows = run->n, .n_heads = s->n_heads, .dim = s->dim, .n_rope = s->n_rope,
                                 .inverse = s->inverse, .pos = pos_there + run->first, .freq = freq_there,
                                 .x = x + run->first * row_n};
        run->dev->b->ops->rope(run->dev->b, &args);
        op_after_run(run, &after, args.x);
    }
    op_output_floats(run, "x", x, (size_t)s->n_rows * s->n_heads, s->dim, 1e-6);
    op_after_output(run, &after);
}

/* What a result that cancels to less is measured by: the expected norm of n_out values. */
static double *product_floors(struct op_run *run, const float *x, size_t n_rows, size_t n_in, size_t n_out, double rms)
{
    double *floors = op_host(run, n_rows, sizeof *floors);
    for (size_t r = 0; r < n_rows; r++) {
        double square = 0;
        for (size_t i = 0; i < n_in; i++) square += (double)x[r * n_in + i] * (double)x[r * n_in + i];
        floors[r] = sqrt(square) * rms * sqrt((double)n_out);
    }
    return floors;
}

/* n_in n_out n_groups n_outputs type; output i > 0 has n_out / (i + 1) rows and type2 */
void op_case_matmul(struct op_run *run, const struct op_shape *s)
{
    static const char *const names[] = {"y0", "y1", "y2", "y3"};
    const float *x_here;
    size_t row_n = (size_t)s->n_groups * s->n_in;
    float *x = op_input(run, s->n_rows * row_n, &x_here);
    struct matmul_args args = {.n_outputs = s->n_outputs, .n_groups = s->n_groups};
    double rms[4];
    float *y[4];
    for (uint32_t i = 0; i < s->n_outputs; i++) {
        args.out[i].w = op_product_matrix(run, i ? s->type2 : s->type, s->n_in, s->n_out / (i + 1), 1, &rms[i]);
        y[i] = op_result(run, (size_t)s->n_rows * args.out[i].w.n_out);
    }
    while (op_next(run)) {
        args.n_rows = run->n;
        args.x = x + run->first * row_n;
        for (uint32_t i = 0; i < s->n_outputs; i++) args.out[i].y = y[i] + (size_t)run->first * args.out[i].w.n_out;
        run->dev->b->ops->matmul(run->dev->b, &args);
    }
    for (uint32_t i = 0; i < s->n_outputs; i++) {
        const struct op_weight *w = &args.out[i].w;
        struct op_output *output =
            op_output_floats(run, names[i], y[i], s->n_rows, w->n_out, op_format_tolerance(w->type));
        output->floors = product_floors(run, x_here, s->n_rows, row_n, w->n_out / s->n_groups, rms[i]);
    }
}

/* n_heads dim round; fused: rotated before, n_rope start */
void op_case_index_query(struct op_run *run, const struct op_shape *s)
{
    size_t row_n = (size_t)s->n_heads * s->dim;
    float *q = op_input(run, s->n_rows * row_n, NULL);
    int32_t *pos = op_host(run, s->n_rows, sizeof *pos);
    for (uint32_t r = 0; r < s->n_rows; r++) pos[r] = (int32_t)(s->start + r * 9973u);
    float *freq_there = op_frequencies(run, false);
    int32_t *pos_there = op_put(run->dev, pos, s->n_rows * sizeof *pos);
    while (op_next(run)) {
        struct rope_args rope = {.n_rows = run->n, .n_heads = s->n_heads, .dim = s->dim, .n_rope = s->n_rope,
                                 .pos = pos_there + run->first, .freq = freq_there, .x = q + run->first * row_n};
        if (s->fused) run->dev->b->ops->rope(run->dev->b, &rope);
        struct index_query_args args = {.n_rows = run->n, .n_heads = s->n_heads, .dim = s->dim, .round = s->round,
                                        .q = q + run->first * row_n};
        run->dev->b->ops->index_query(run->dev->b, &args);
    }
    op_output_floats(run, "q", q, (size_t)s->n_rows * s->n_heads, s->dim,
                     s->fused ? 2e-6 : 0); /* the definition names every bit */
}

/* Distinct experts for each row; *n_chosen: how many there are in all. */
static int32_t *choose_experts(struct op_run *run, const struct op_shape *s, uint32_t *n_chosen)
{
    int32_t *ids = op_host(run, (size_t)s->n_rows * s->n_used, sizeof *ids);
    bool *chosen = op_host(run, s->n_stack, sizeof *chosen);
    *n_chosen = 0;
    for (uint32_t r = 0; r < s->n_rows; r++) {
        uint32_t first = (uint32_t)rng_below(&run->rng, s->n_stack), step = s->n_stack % 3 ? 3 : 1;
        for (uint32_t i = 0; i < s->n_used; i++) {
            uint32_t id = (first + i * step) % s->n_stack;
            ids[r * s->n_used + i] = (int32_t)id;
            *n_chosen += !chosen[id];
            chosen[id] = true;
        }
    }
    return op_put(run->dev, ids, (size_t)s->n_rows * s->n_used * sizeof *ids);
}

#define GATE_LIMIT 10.0
#define PAIR_WEIGHT 0.3 /* mean weight of a choice in the case */

/* What errors of rows of w silu(min(g, L)) clamp(u, L) are measured by, for g and u as good as normal with deviations
 * G and U that are wrong by e G and e U. While G and U are below L the result has the norm G U / sqrt(2) and two errors
 * of e of that: sqrt(2) e, the tolerance. Far above it results are 0 or L^2, and errors are of those that are not
 * clamped: g of 0.4 L/G of them and u of 0.8 L/U (where g is positive: half), wrong by e G L and e U L, together
 * e sqrt(0.8 G L^3) beside L^2 / sqrt(2): sqrt(1.6 G/L) e. So sqrt(2) e sqrt(1 + 0.8 G/L) covers both, as long as e G
 * is below L. Few are not clamped, 1.6 L/G of n: their error has chance of its own, unless there is none at all. Where
 * e G is more than the bend of silu is wide, about e of the results turn their sign, and one that does is wrong by all
 * that it can be. */
static double gate_up_floor(double gate, double up, double n, double e)
{
    double most = fmax(gate, up) / GATE_LIMIT, n_free = n * fmin(1, 1.6 / most);
    double norm = fmin(gate, GATE_LIMIT) * fmin(up, GATE_LIMIT) * PAIR_WEIGHT * sqrt(n / 2);
    double luck = n_free > 0.02 ? op_chance(n_free) / op_chance(n) : 1;
    double floor = norm * luck * sqrt(1 + 0.8 * fmin(most, 1e4));
    bool turns = e * fmax(gate, up) > 1 && e * n > 0.02;
    double whole = fmin(gate, GATE_LIMIT) * fmin(up, GATE_LIMIT) * PAIR_WEIGHT;
    return turns ? fmax(floor, whole / (sqrt(2) * e)) : floor;
}

/* The output of moe_gate_up for a row of x for each n_used results of width n. */
static void output_activations(struct op_run *run, const char *name, const float *x_here, const float *m, uint32_t n,
                               double rms_gate, double rms_up)
{
    const struct op_shape *s = run->shape;
    size_t n_pairs = (size_t)s->n_rows * s->n_used;
    double tolerance = fmax(op_format_tolerance(s->type), op_format_tolerance(s->type2));
    struct op_output *output = op_output_floats(run, name, m, n_pairs, n, sqrt(2) * tolerance);
    double *floors = op_host(run, n_pairs, sizeof *floors);
    for (size_t i = 0; i < n_pairs; i++) {
        const float *row = x_here + i / s->n_used * s->n_in;
        double square = 0;
        for (uint32_t d = 0; d < s->n_in; d++) square += (double)row[d] * (double)row[d];
        floors[i] = gate_up_floor(sqrt(square) * rms_gate, sqrt(square) * rms_up, n, tolerance);
    }
    output->floors = floors;
}

/* sqrt(softplus) as the specification writes it, for the check of the choice. */
static double score(double z) { return sqrt(z > 20 ? z : log1p(exp(z))); }

/* Scores with bias that the choice is checked by; hash: the order of the table is the order of the choice. */
static double *router_scores(struct op_run *run, const struct op_shape *s, const float *logits, const float *bias)
{
    double *scores = op_host(run, (size_t)s->n_rows * s->n_stack, sizeof *scores);
    for (size_t i = 0; i < (size_t)s->n_rows * s->n_stack; i++)
        scores[i] = score((double)logits[i]) + (double)bias[i % s->n_stack];
    return scores;
}

/* What a layer computes beside the choice and after it. */
struct beside {
    const float *x_here;
    float *x, *a, *b; /* x NULL: nothing */
    float *m;         /* [n_rows][n_used][n_embd] of the experts */
    double rms_gate, rms_up;
    struct op_weight gate, up;
    struct op_after after;
};

static struct beside beside_make(struct op_run *run, const struct op_shape *s)
{
    struct beside beside = {0};
    size_t n = (size_t)s->n_rows * s->n_in;
    if (!s->fused) return beside;
    beside.x = op_input(run, n, &beside.x_here);
    beside.a = op_input(run, n, NULL);
    beside.b = op_input(run, n, NULL);
    beside.gate = op_product_matrix(run, s->type, s->n_in, s->n_embd, s->n_stack, &beside.rms_gate);
    beside.up = op_product_matrix(run, s->type2, s->n_in, s->n_embd, s->n_stack, &beside.rms_up);
    beside.m = op_result(run, (size_t)s->n_rows * s->n_used * s->n_embd);
    beside.after = op_after_make(run, s->n_in);
    return beside;
}

/* The activation and its product, then the experts, for the rows at hand. */
static void beside_run(struct op_run *run, const struct beside *beside, const struct router_args *route)
{
    const struct op_shape *s = run->shape;
    if (!beside->x) return;
    float *a = beside->a + (size_t)run->first * s->n_in;
    struct swiglu_args swiglu = {(size_t)run->n * s->n_in, (float)GATE_LIMIT, a,
                                 beside->b + (size_t)run->first * s->n_in, a};
    struct moe_gate_up_args args = {.n_rows = run->n, .n_used = s->n_used, .limit = (float)GATE_LIMIT, .x = route->x,
                                    .ids = route->ids, .weights = route->weights, .gate = beside->gate,
                                    .up = beside->up,
                                    .m = beside->m + (size_t)run->first * s->n_used * s->n_embd};
    run->dev->b->ops->swiglu(run->dev->b, &swiglu);
    op_after_run(run, &beside->after, a);
    run->dev->b->ops->moe_gate_up(run->dev->b, &args);
}

static void beside_output(struct op_run *run, const struct beside *beside)
{
    const struct op_shape *s = run->shape;
    if (!beside->x) return;
    op_output_floats(run, "activation", beside->a, s->n_rows, s->n_in, TOLERANCE_FLOAT);
    op_after_output(run, &beside->after);
    output_activations(run, "m", beside->x_here, beside->m, s->n_embd, beside->rms_gate, beside->rms_up);
}

/* n_stack n_used; plain: hash-routed (n_out = vocabulary); inverse: no bias; fused: n_in n_embd type type2, an
 * activation beside it and experts n_in to n_embd after it */
void op_case_router(struct op_run *run, const struct op_shape *s)
{
    size_t n_chosen = (size_t)s->n_rows * s->n_used;
    const float *logits_here;
    float *logits = op_input(run, (size_t)s->n_rows * s->n_stack, &logits_here);
    float *bias_here = op_host(run, s->n_stack, sizeof *bias_here);
    int32_t *tokens = op_host(run, s->n_rows, sizeof *tokens), *hash = NULL, *hash_there = NULL;
    if (!s->inverse) op_fill(run, bias_here, s->n_stack, s->fill == FILL_INTEGERS ? FILL_ZERO : FILL_NORMAL);
    if (s->plain) {
        hash = op_host(run, (size_t)s->n_out * s->n_used, sizeof *hash);
        for (uint32_t i = 0; i < s->n_out * s->n_used; i++) hash[i] = (int32_t)((i * 7 + i / 5) % s->n_stack);
        hash_there = op_put(run->dev, hash, (size_t)s->n_out * s->n_used * sizeof *hash);
    }
    for (uint32_t r = 0; r < s->n_rows; r++) tokens[r] = (int32_t)rng_below(&run->rng, s->n_out ? s->n_out : 1);
    float *bias = op_put(run->dev, bias_here, s->n_stack * sizeof *bias), *weights = op_result(run, n_chosen);
    int32_t *tokens_there = op_put(run->dev, tokens, s->n_rows * sizeof *tokens);
    int32_t *ids = op_put(run->dev, NULL, n_chosen * sizeof *ids), *ids_here = op_host(run, n_chosen, sizeof *ids);
    struct beside beside = beside_make(run, s);
    while (op_next(run)) {
        struct router_args args = {.n_rows = run->n, .n_experts = s->n_stack, .n_used = s->n_used, .scale = 1.5f,
                                   .logits = logits + (size_t)run->first * s->n_stack,
                                   .bias = s->inverse || s->plain ? NULL : bias, .hash = hash_there,
                                   .tokens = tokens_there + run->first, .ids = ids + (size_t)run->first * s->n_used,
                                   .weights = weights + (size_t)run->first * s->n_used,
                                   .x = beside.x ? beside.x + (size_t)run->first * s->n_in : NULL,
                                   .gate = &beside.gate, .up = &beside.up};
        run->dev->b->ops->router(run->dev->b, &args);
        beside_run(run, &beside, &args);
    }
    op_get(run->dev, ids_here, ids, n_chosen * sizeof *ids);
    if (s->plain) {
        op_output_add(run, "ids", OUTPUT_BYTES, ids_here, 1, n_chosen * sizeof *ids);
    } else {
        struct op_output *output = op_output_add(run, "ids", OUTPUT_TOP, ids_here, s->n_rows, s->n_used);
        int32_t *counts = op_host(run, s->n_rows, sizeof *counts);
        uint32_t *n_items = op_host(run, s->n_rows, sizeof *n_items);
        for (uint32_t r = 0; r < s->n_rows; r++) {
            counts[r] = (int32_t)s->n_used;
            n_items[r] = s->n_stack;
        }
        output->scores = router_scores(run, s, logits_here, bias_here);
        output->n_scores = s->n_stack;
        output->counts = counts;
        output->n_items = n_items;
        output->tolerance = 1e-6;
    }
    /* By expert, so that two choices in another order within the slack still compare. */
    float *dense = op_host(run, (size_t)s->n_rows * s->n_stack, sizeof *dense);
    float *weights_here = op_host(run, n_chosen, sizeof *weights_here);
    op_get(run->dev, weights_here, weights, n_chosen * sizeof *weights_here);
    for (size_t i = 0; i < n_chosen; i++)
        if (ids_here[i] >= 0 && (uint32_t)ids_here[i] < s->n_stack)
            dense[i / s->n_used * s->n_stack + (size_t)ids_here[i]] = weights_here[i];
    op_output_add(run, "weights", OUTPUT_FLOAT, dense, s->n_rows, s->n_stack)->tolerance = 1e-5;
    beside_output(run, &beside);
}

/* n_in n_out n_stack n_used type type2 */
void op_case_moe_gate_up(struct op_run *run, const struct op_shape *s)
{
    size_t n_pairs = (size_t)s->n_rows * s->n_used;
    double rms_gate, rms_up;
    const float *x_here;
    float *x = op_input(run, (size_t)s->n_rows * s->n_in, &x_here);
    uint32_t n_chosen;
    int32_t *ids = choose_experts(run, s, &n_chosen);
    float *weights = op_parameters(run, n_pairs, 0.05f, (float)PAIR_WEIGHT), *m = op_result(run, n_pairs * s->n_out);
    struct op_weight gate = op_product_matrix(run, s->type, s->n_in, s->n_out, s->n_stack, &rms_gate);
    struct op_weight up = op_product_matrix(run, s->type2, s->n_in, s->n_out, s->n_stack, &rms_up);
    while (op_next(run)) {
        size_t pair = (size_t)run->first * s->n_used;
        struct moe_gate_up_args args = {.n_rows = run->n, .n_used = s->n_used, .limit = (float)GATE_LIMIT,
                                        .x = x + (size_t)run->first * s->n_in, .ids = ids + pair,
                                        .weights = weights + pair, .gate = gate, .up = up, .m = m + pair * s->n_out};
        run->dev->b->ops->moe_gate_up(run->dev->b, &args);
    }
    run->moved_bytes = n_chosen * (gate.stack_bytes + up.stack_bytes) +
                       (s->n_rows * (uint64_t)s->n_in + n_pairs * s->n_out) * sizeof(float);
    output_activations(run, "m", x_here, m, s->n_out, rms_gate, rms_up);
}

/* n_in n_out n_stack n_used type */
void op_case_moe_down(struct op_run *run, const struct op_shape *s)
{
    size_t row_n = (size_t)s->n_used * s->n_in;
    double rms;
    const float *m_here;
    float *m = op_input(run, s->n_rows * row_n, &m_here), *y = op_result(run, (size_t)s->n_rows * s->n_out);
    uint32_t n_chosen;
    int32_t *ids = choose_experts(run, s, &n_chosen);
    struct op_weight down = op_product_matrix(run, s->type, s->n_in, s->n_out, s->n_stack, &rms);
    while (op_next(run)) {
        struct moe_down_args args = {.n_rows = run->n, .n_used = s->n_used, .m = m + run->first * row_n,
                                     .ids = ids + (size_t)run->first * s->n_used, .down = down,
                                     .y = y + (size_t)run->first * s->n_out};
        run->dev->b->ops->moe_down(run->dev->b, &args);
    }
    run->moved_bytes = n_chosen * down.stack_bytes + s->n_rows * (row_n + s->n_out) * sizeof(float);
    struct op_output *output = op_output_floats(run, "y", y, s->n_rows, s->n_out, op_format_tolerance(s->type));
    output->floors = product_floors(run, m_here, s->n_rows, row_n, s->n_out, rms);
}

/* n_in; plain: m is not a; fused */
void op_case_swiglu(struct op_run *run, const struct op_shape *s)
{
    float *a = op_input(run, (size_t)s->n_rows * s->n_in, NULL), *b = op_input(run, (size_t)s->n_rows * s->n_in, NULL);
    float *m = s->plain ? op_result(run, (size_t)s->n_rows * s->n_in) : a;
    struct op_after after = op_after_make(run, s->n_in);
    while (op_next(run)) {
        size_t at = (size_t)run->first * s->n_in;
        struct swiglu_args args = {.n = (size_t)run->n * s->n_in, .limit = 10, .a = a + at, .b = b + at, .m = m + at};
        run->dev->b->ops->swiglu(run->dev->b, &args);
        op_after_run(run, &after, args.m);
    }
    op_output_floats(run, "m", m, s->n_rows, s->n_in, TOLERANCE_FLOAT);
    op_after_output(run, &after);
}

/* n_in */
void op_case_add(struct op_run *run, const struct op_shape *s)
{
    float *x = op_input(run, (size_t)s->n_rows * s->n_in, NULL), *y = op_input(run, (size_t)s->n_rows * s->n_in, NULL);
    while (op_next(run)) {
        size_t at = (size_t)run->first * s->n_in;
        struct add_args args = {.n = (size_t)run->n * s->n_in, .x = x + at, .y = y + at};
        run->dev->b->ops->add(run->dev->b, &args);
    }
    op_output_floats(run, "y", y, s->n_rows, s->n_in, 0);
}

/* n_hc n_embd */
void op_case_add_streams(struct op_run *run, const struct op_shape *s)
{
    size_t flat = (size_t)s->n_hc * s->n_embd;
    float *e = op_input(run, (size_t)s->n_rows * s->n_embd, NULL), *x = op_input(run, s->n_rows * flat, NULL);
    while (op_next(run)) {
        struct add_streams_args args = {.n_rows = run->n, .n_hc = s->n_hc, .n_embd = s->n_embd,
                                        .e = e + (size_t)run->first * s->n_embd, .x = x + run->first * flat};
        run->dev->b->ops->add_streams(run->dev->b, &args);
    }
    op_output_floats(run, "x", x, s->n_rows, flat, 0);
}

/* n_in; rows picked from 2 n_rows */
void op_case_gather(struct op_run *run, const struct op_shape *s)
{
    float *x = op_input(run, (size_t)s->n_rows * 2 * s->n_in, NULL), *y = op_result(run, (size_t)s->n_rows * s->n_in);
    uint32_t *index = op_host(run, s->n_rows, sizeof *index);
    for (uint32_t r = 0; r < s->n_rows; r++) index[r] = (uint32_t)rng_below(&run->rng, 2 * s->n_rows);
    uint32_t *index_there = op_put(run->dev, index, s->n_rows * sizeof *index);
    while (op_next(run)) {
        struct gather_args args = {.n_out = run->n, .n = s->n_in, .index = index_there + run->first, .x = x,
                                   .y = y + (size_t)run->first * s->n_in};
        run->dev->b->ops->gather(run->dev->b, &args);
    }
    run->moved_bytes = 2 * (uint64_t)s->n_rows * s->n_in * sizeof(float);
    op_output_floats(run, "y", y, s->n_rows, s->n_in, 0);
}
