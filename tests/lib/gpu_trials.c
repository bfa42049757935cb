/* gpu_trials.c - see gpu_trials.h. */
#include "lib/gpu_trials.h"

#include "base/mem.h"
#include "base/rng.h"
#include "gpu/kernels/records.h"
#include "lib/op_backends.h"
#include "lib/test.h"
#include "quant/quant.h"

static const struct gpu_host *tried;

static enum ds4_status create_tried(struct thread_pool *pool, const struct backend_limits *limits,
                                    struct backend **out, struct ds4_error *error)
{
    return backend_gpu_create(tried, pool, limits, out, error);
}

static void compare(size_t case_i, const struct op_shape *shape, const char *name)
{
    const struct op_backend_entry entry = {tried->name, create_tried};
    struct op_trial ref, run;
    double worst = 0;
    op_trial_run(&ref, &op_backends[0], 0, name, op_table[case_i].fn, shape, NULL, 0);
    op_trial_run(&run, &entry, 0, name, op_table[case_i].fn, shape, NULL, 0);
    op_compare(&run, &ref, name, &worst);
    op_trial_free(&run);
    op_trial_free(&ref);
}

size_t gpu_trial_operations(const struct gpu_host *host)
{
    size_t n_compared = 0;
    tried = host;
    for (size_t i = 0; i < n_op_table; i++) {
        struct op_shape shape;
        char name[64];
        if (i > 0 && op_table[i].fn == op_table[i - 1].fn && i % 5) continue;
        (void)op_variant(i, i % 2 ? 3 : 0, &shape, name, sizeof name);
        if (shape.large || shape.n_rows > 200 || !op_shape_fits(&shape)) continue;
        if (shape.n_rows > 3) shape.n_rows = 3;
        if (shape.n_seqs > shape.n_rows) shape.n_seqs = shape.n_rows;
        compare(i, &shape, name);
        n_compared++;
    }
    return n_compared;
}

void gpu_trial_many_rows(const struct gpu_host *host)
{
    static const struct {
        const char *op;
        uint32_t n_rows, n_in;
    } cases[] = {{"matmul", 17, 256}, {"moe_gate_up", 17, 256}, {"moe_down", 17, 256}, {"attention", 10, 0}};
    tried = host;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        size_t i = 0;
        struct op_shape shape;
        char name[64];
        while (strcmp(op_table[i].op, cases[k].op) != 0 || op_table[i].shape.n_rows < 34) i++;
        (void)op_variant(i, cases[k].n_in ? 3 : 0, &shape, name, sizeof name); /* Q8_0 */
        shape.n_rows = cases[k].n_rows;
        if (cases[k].n_in) shape.n_in = cases[k].n_in;
        compare(i, &shape, name);
    }
}

void *gpu_put(struct backend *b, const void *from, size_t bytes)
{
    void *there = b->ops->alloc(b, bytes);
    assert_non_null(there);
    b->ops->write(b, there, from, bytes);
    return there;
}

static void fill(uint8_t *at, size_t bytes, uint64_t seed)
{
    struct rng rng = {seed};
    for (size_t i = 0; i < bytes; i++) at[i] = (uint8_t)rng_next(&rng);
}

void gpu_fill_gates(uint8_t *at, size_t bytes, uint64_t seed)
{
    fill(at, bytes, seed);
    for (size_t i = 0; i < bytes; i += 17) at[i] = 124;
}

void gpu_fill_downs(uint8_t *at, size_t bytes, uint64_t seed)
{
    fill(at, bytes, seed);
    for (size_t i = 0; i < bytes; i += 34) at[i] = 0, at[i + 1] = 0x20;
}

void gpu_products_open(struct gpu_products *p, const struct gpu_host *host, uint32_t n_experts, uint32_t n_used,
                       uint32_t step)
{
    static float x[GPU_ROWS * GPU_EMBD], weights[GPU_ROWS * GPU_USED_MOST];
    static const struct gpu_products_result zeros;
    int32_t ids[GPU_ROWS * GPU_USED_MOST];
    struct backend_limits limits = {.n_rows = GPU_ROWS, .n_in = GPU_EMBD, .n_experts = n_experts, .n_used = n_used,
                                    .n_ff = GPU_FF, .n_embd = GPU_EMBD};
    struct ds4_error error = {0};
    struct rng rng = {4};
    for (size_t i = 0; i < GPU_ROWS * GPU_EMBD; i++) x[i] = rng_float(&rng) - 0.5f;
    for (uint32_t i = 0; i < GPU_ROWS * n_used; i++) {
        weights[i] = rng_float(&rng);
        ids[i] = (int32_t)(i * step % n_experts);
    }
    *p = (struct gpu_products){.n_experts = n_experts, .n_used = n_used};
    assert_ok(backend_gpu_create(host, NULL, &limits, &p->b, &error), error);
    p->x = gpu_put(p->b, x, sizeof x);
    p->weights = gpu_put(p->b, weights, GPU_ROWS * n_used * sizeof *weights);
    p->ids = gpu_put(p->b, ids, GPU_ROWS * n_used * sizeof *ids);
    p->m = gpu_put(p->b, zeros.m, sizeof zeros.m);
    p->y = gpu_put(p->b, zeros.y, sizeof zeros.y);
}

struct op_weight gpu_products_weight(const struct gpu_products *p, uint32_t i)
{
    uint32_t bytes = i == 2 ? GPU_DOWN_BYTES : GPU_GATE_BYTES, n_out = i == 2 ? GPU_EMBD : GPU_FF;
    return (struct op_weight){.type = i == 2 ? QUANT_Q8_0 : QUANT_MXFP4, .n_in = i == 2 ? GPU_FF : GPU_EMBD,
                              .n_out = n_out, .row_bytes = bytes / n_out, .n_stack = p->n_experts,
                              .stack_bytes = bytes};
}

void gpu_products_run(struct gpu_products *p, const struct op_weight w[3], uint32_t n_rows,
                      struct gpu_products_result *out)
{
    struct ds4_error error = {0};
    struct moe_gate_up_args gate_up = {.n_rows = n_rows, .n_used = p->n_used, .limit = 7, .x = p->x, .ids = p->ids,
                                       .weights = p->weights, .gate = w[0], .up = w[1], .m = p->m};
    struct moe_down_args down = {.n_rows = n_rows, .n_used = p->n_used, .m = p->m, .ids = p->ids, .down = w[2],
                                 .y = p->y};
    memset(out, 0, sizeof *out);
    p->b->ops->moe_gate_up(p->b, &gate_up);
    p->b->ops->moe_down(p->b, &down);
    assert_ok(p->b->ops->finish(p->b, &error), error);
    p->b->ops->read(p->b, out->m, p->m, n_rows * p->n_used * GPU_FF * sizeof *out->m);
    p->b->ops->read(p->b, out->y, p->y, n_rows * GPU_EMBD * sizeof *out->y);
    assert_ok(p->b->ops->finish(p->b, &error), error);
}

void gpu_trial_choices(const struct gpu_host *host, uint32_t n, uint32_t *ids)
{
    enum { N = 40 };
    static float logits[N];
    struct backend_limits limits = {.n_rows = 1, .n_in = 32, .n_vocab = N};
    struct backend_step step = {.how = {.margin = 4, .temperature = 1, .min_p = 0.02f, .top_p = 1},
                                .generator = {77, 5}};
    struct backend_choice choice, none[BACKEND_CHOICES] = {{0}};
    struct ds4_error error = {0};
    struct backend *b;
    int32_t start[2] = {3, 9}, end[2];
    for (uint32_t i = 0; i < N; i++) logits[i] = (float)(i * 7 % N) * 0.1f;
    assert_ok(backend_gpu_create(host, NULL, &limits, &b, &error), error);
    float *row = gpu_put(b, logits, sizeof logits);
    struct backend_step *steps = gpu_put(b, &step, sizeof step);
    struct backend_choice *choices = gpu_put(b, none, sizeof none);
    int32_t *token = gpu_put(b, start, sizeof start);
    for (uint32_t i = 0; i <= n; i++) {
        if (i < n) b->ops->choose(b, row, N, 1, steps, choices, token, token + 1);
        if (i < n) assert_true(b->ops->post(b, &choices[i % BACKEND_CHOICES], sizeof choice));
        if (i == 0) continue;
        assert_true(b->ops->collect(b, &choice, sizeof choice));
        assert_true(choice.is_known);
        ids[i - 1] = (uint32_t)choice.id;
    }
    b->ops->read(b, end, token, sizeof end);
    assert_int_equal(end[0], ids[n - 1]);
    assert_int_equal(end[1], 9 + n);
    for (uint32_t i = 0; i < 3; i++) {
        b->ops->choose(b, row, N, 1, steps, choices, token, token + 1);
        assert_true(b->ops->post(b, &choices[i % BACKEND_CHOICES], sizeof choice));
    }
    b->ops->destroy(b);
}

void gpu_trial_copy(const struct gpu_host *host)
{
    enum { N = 700 };
    static uint32_t from[N], to[N];
    const struct elements_record record = {.n = N - 1};
    const unsigned grid[3] = {3, 1, 1};
    char why[256];
    struct gpu *g = host->open(why, sizeof why);
    assert_non_null(g);
    struct gpu_buffer *a = host->alloc(g, sizeof from), *b = host->alloc(g, sizeof to);
    const struct gpu_ref refs[] = {{a, 0, sizeof from}, {b, 0, sizeof to}};
    for (uint32_t i = 0; i < N; i++) from[i] = i * 2654435761u;
    assert_true(host->write(g, a, 0, from, sizeof from));
    assert_true(host->dispatch(g, host->pipe(g, "copy_words"), &record, sizeof record, refs, 2, grid, 256));
    assert_true(host->read(g, to, b, 0, sizeof to));
    assert_memory_equal(to, from, sizeof to - 4);
    assert_int_equal(to[N - 1], 0);
    host->free(g, a);
    host->free(g, b);
    host->close(g);
}

enum { POOL_EXPERTS = 6, POOL_SLOT = 16384 };
static const uint8_t *slots[POOL_EXPERTS];

static const uint8_t *never_waits(const struct op_stacks *stacks, uint32_t e)
{
    (void)stacks;
    (void)e;
    fail();
    return NULL;
}

static uint8_t *make_pool(void)
{
    uint8_t *pool = mem_map((POOL_EXPERTS + 1) * POOL_SLOT);
    assert_non_null(pool);
    for (size_t e = 0; e < POOL_EXPERTS; e++) {
        uint8_t *slot = pool + (e * 5 + 1) % POOL_EXPERTS * POOL_SLOT;
        slots[e] = slot;
        gpu_fill_gates(slot, 2 * GPU_GATE_BYTES, e + 5);
        gpu_fill_downs(slot + 2 * GPU_GATE_BYTES, GPU_DOWN_BYTES, e + 50);
    }
    return pool;
}

void gpu_trial_pool(const struct gpu_host *host)
{
    static const uint32_t offsets[3] = {0, GPU_GATE_BYTES, 2 * GPU_GATE_BYTES};
    static struct gpu_products_result want, got;
    struct op_stacks stacks[3];
    struct op_weight stacked[3], pooled[3];
    struct gpu_products p;
    struct ds4_error error = {0};
    uint8_t *pool = make_pool();
    gpu_products_open(&p, host, POOL_EXPERTS, 2, 5);
    assert_ok(backend_gpu_share(p.b, POOL_EXPERTS, GPU_ROWS * 2, pool, POOL_SLOT, POOL_EXPERTS + 1, &error), error);
    uint8_t *stack = p.b->ops->alloc(p.b, POOL_EXPERTS * POOL_SLOT);
    assert_non_null(stack);
    for (size_t e = 0; e < POOL_EXPERTS; e++) p.b->ops->write(p.b, stack + e * POOL_SLOT, slots[e], POOL_SLOT);
    for (uint32_t i = 0; i < 3; i++) {
        stacks[i] = (struct op_stacks){.at = slots, .wait = never_waits, .offset = offsets[i]};
        pooled[i] = gpu_products_weight(&p, i);
        pooled[i].stack_bytes = POOL_SLOT;
        stacked[i] = pooled[i];
        stacked[i].data = stack + offsets[i];
        pooled[i].stacks = &stacks[i];
    }
    for (uint32_t n_rows = GPU_ROWS; n_rows; n_rows = n_rows == GPU_ROWS ? 3 : 0) {
        gpu_products_run(&p, stacked, n_rows, &want);
        gpu_products_run(&p, pooled, n_rows, &got);
        assert_memory_equal(&got, &want, sizeof got);
    }
    p.b->ops->destroy(p.b);
    mem_unmap(pool, (POOL_EXPERTS + 1) * POOL_SLOT);
}
