/* test_metal_host.c - the Metal host file on Linux: every operation through it and the pretend Metal of
 * tests/gpu/pretend, which runs dispatches in the emulator, takes every list as concurrent and aborts on calls that
 * Metal would refuse. What is tested is the host file (bindings, barriers, residency, lifetimes), not Apple's compiler.
 *
 * Where clang cannot build Objective-C for the GNU runtime the program says so. */
#include <stdio.h>

#include "base/mem.h"
#include "base/rng.h"
#include "gpu/backend.h"
#include "gpu/kernels/records.h"
#include "lib/op_backends.h"
#include "lib/test.h"
#include "quant/quant.h"

#ifdef DS4_PRETEND_METAL
#include "../gpu/pretend/bridge.h"

extern int pretend_n_objects;

/* The GNU runtime keeps some of what it allocates while it loads classes, before main. Our objects are counted. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:objc_malloc\n"; }

static enum ds4_status create_metal(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                                    struct ds4_error *error)
{
    return backend_gpu_create(&gpu_host_metal, pool, limits, out, error);
}
static const struct op_backend_entry metal = {"metal, pretended", create_metal};

static void compare_shape(size_t case_i, const struct op_shape *shape, const char *name)
{
    struct op_trial ref, run;
    double worst = 0;
    op_trial_run(&ref, &op_backends[0], 0, name, op_table[case_i].fn, shape, NULL, 0);
    op_trial_run(&run, &metal, 0, name, op_table[case_i].fn, shape, NULL, 0);
    op_compare(&run, &ref, name, &worst);
    op_trial_free(&run);
    op_trial_free(&ref);
}

TEST(every_operation_agrees_with_the_reference_through_the_metal_host)
{
    size_t n_compared = 0;
    for (size_t i = 0; i < n_op_table; i++) {
        struct op_shape shape;
        char name[64];
        if (i > 0 && op_table[i].fn == op_table[i - 1].fn && i % 5) continue; /* a few shapes of each operation */
        (void)op_variant(i, i % 2 ? 3 : 0, &shape, name, sizeof name);
        if (shape.large || shape.n_rows > 200 || !op_shape_fits(&shape)) continue;
        if (shape.n_rows > 3) shape.n_rows = 3;
        if (shape.n_seqs > shape.n_rows) shape.n_seqs = shape.n_rows;
        compare_shape(i, &shape, name);
        n_compared++;
    }
    print_message("%zu comparisons, %u dispatches\n", n_compared, bridge_n_launches());
    assert_true(n_compared >= 20);
}

/* Enough rows for products in tiles, with experts sorted, and for attention that is not split. */
TEST(the_kernels_for_many_rows_go_through_the_metal_host)
{
    static const struct {
        const char *op;
        uint32_t n_rows, n_in;
    } cases[] = {{"matmul", 17, 256}, {"moe_gate_up", 17, 256}, {"moe_down", 17, 256}, {"attention", 10, 0}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        size_t i = 0;
        struct op_shape shape;
        char name[64];
        while (strcmp(op_table[i].op, cases[k].op) != 0 || op_table[i].shape.n_rows < 34) i++;
        (void)op_variant(i, cases[k].n_in ? 3 : 0, &shape, name, sizeof name); /* Q8_0 */
        shape.n_rows = cases[k].n_rows;
        if (cases[k].n_in) shape.n_in = cases[k].n_in;
        compare_shape(i, &shape, name);
    }
    assert_null(bridge_error());
}

/* Experts in a pool that the device reads where it lies: slots of 16 KB, an expert in another slot than its number. */
enum { ROWS = 16, USED = 2, EXPERTS = 6, EMBD = 64, FF = 32, SLOT = 16384, GATE = FF * EMBD / 32 * 17,
       DOWN = EMBD * FF / 32 * 34 };

static uint8_t *pool;
static const uint8_t *slots[EXPERTS];

static const uint8_t *never_waits(const struct op_stacks *stacks, uint32_t e)
{
    (void)stacks;
    (void)e;
    fail();
    return NULL;
}

static void fill_pool(void)
{
    struct rng rng = {5};
    pool = mem_map((EXPERTS + 1) * SLOT);
    assert_non_null(pool);
    for (size_t e = 0; e < EXPERTS; e++) {
        uint8_t *slot = pool + (e * 5 + 1) % EXPERTS * SLOT;
        slots[e] = slot;
        for (size_t i = 0; i < 2 * GATE + DOWN; i++) slot[i] = (uint8_t)rng_next(&rng);
        for (size_t i = 0; i < 2 * GATE; i += 17) slot[i] = 124;
        for (size_t i = 2 * GATE; i < 2 * GATE + DOWN; i += 34) slot[i] = 0, slot[i + 1] = 0x20;
    }
}

struct pooled {
    struct backend *b;
    float *x, *weights, *m, *y;
    int32_t *ids;
    uint8_t *stack; /* [EXPERTS] slots in the order of experts; NULL: from the pool */
};

static void run_pooled(struct pooled *p, uint32_t n_rows, float *m, float *y)
{
    static struct op_stacks stacks[3];
    static const uint32_t offsets[3] = {0, GATE, 2 * GATE};
    struct op_weight w[3];
    struct ds4_error error = {0};
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t n_out = i == 2 ? EMBD : FF;
        stacks[i] = (struct op_stacks){.at = slots, .wait = never_waits, .offset = offsets[i]};
        w[i] = (struct op_weight){.type = i == 2 ? QUANT_Q8_0 : QUANT_MXFP4, .n_in = i == 2 ? FF : EMBD,
                                  .n_out = n_out, .row_bytes = (i == 2 ? DOWN : GATE) / n_out, .n_stack = EXPERTS,
                                  .stack_bytes = SLOT};
        if (p->stack) w[i].data = p->stack + offsets[i];
        else w[i].stacks = &stacks[i];
    }
    struct moe_gate_up_args gate_up = {.n_rows = n_rows, .n_used = USED, .limit = 7, .x = p->x, .ids = p->ids,
                                       .weights = p->weights, .gate = w[0], .up = w[1], .m = p->m};
    struct moe_down_args down = {.n_rows = n_rows, .n_used = USED, .m = p->m, .ids = p->ids, .down = w[2], .y = p->y};
    p->b->ops->moe_gate_up(p->b, &gate_up);
    p->b->ops->moe_down(p->b, &down);
    assert_ok(p->b->ops->finish(p->b, &error), error);
    p->b->ops->read(p->b, m, p->m, n_rows * USED * FF * sizeof *m);
    p->b->ops->read(p->b, y, p->y, n_rows * EMBD * sizeof *y);
}

static void *put(struct backend *b, const void *from, size_t bytes)
{
    void *there = b->ops->alloc(b, bytes);
    assert_non_null(there);
    b->ops->write(b, there, from, bytes);
    return there;
}

TEST(experts_in_a_pool_are_used_where_they_lie_through_the_metal_host)
{
    static float x[ROWS * EMBD], weights[ROWS * USED], m[2][ROWS * USED * FF], y[2][ROWS * EMBD];
    int32_t ids[ROWS * USED];
    struct backend_limits limits = {.n_rows = ROWS, .n_in = EMBD, .n_experts = EXPERTS, .n_used = USED, .n_ff = FF,
                                    .n_embd = EMBD};
    struct pooled p = {0};
    struct ds4_error error = {0};
    struct rng rng = {6};
    for (size_t i = 0; i < ROWS * EMBD; i++) x[i] = rng_float(&rng) - 0.5f;
    for (uint32_t i = 0; i < ROWS * USED; i++) weights[i] = rng_float(&rng), ids[i] = (int32_t)(i * 5 % EXPERTS);
    fill_pool();
    assert_ok(backend_gpu_create(&gpu_host_metal, NULL, &limits, &p.b, &error), error);
    assert_ok(backend_gpu_share(p.b, EXPERTS, ROWS * USED, pool, SLOT, EXPERTS + 1, &error), error);
    p.x = put(p.b, x, sizeof x);
    p.weights = put(p.b, weights, sizeof weights);
    p.ids = put(p.b, ids, sizeof ids);
    p.m = put(p.b, m, sizeof m[0]);
    p.y = put(p.b, y, sizeof y[0]);
    uint8_t *stack = p.b->ops->alloc(p.b, EXPERTS * SLOT);
    assert_non_null(stack);
    for (size_t e = 0; e < EXPERTS; e++) p.b->ops->write(p.b, stack + e * SLOT, slots[e], SLOT);
    for (uint32_t n_rows = ROWS; n_rows; n_rows = n_rows == ROWS ? 3 : 0) {
        p.stack = stack;
        run_pooled(&p, n_rows, m[0], y[0]);
        p.stack = NULL;
        run_pooled(&p, n_rows, m[1], y[1]);
        assert_memory_equal(m[1], m[0], n_rows * USED * FF * sizeof(float));
        assert_memory_equal(y[1], y[0], n_rows * EMBD * sizeof(float));
    }
    p.b->ops->destroy(p.b);
    mem_unmap(pool, (EXPERTS + 1) * SLOT);
    assert_null(bridge_error());
}

/* Twenty choices from the same row, each posted and had while the next is under way; ids: what they were. */
static void choose_in_turn(const struct gpu_host *host, uint32_t *ids)
{
    enum { N = 40 };
    static float logits[N];
    struct backend_limits limits = {.n_rows = 1, .n_in = 32, .n_vocab = N};
    struct backend_pick how = {.margin = 4, .temperature = 1, .min_p = 0.02f, .top_p = 1};
    struct backend_step step = {.generator = {77, 5}};
    struct backend_choice choice;
    struct ds4_error error = {0};
    struct backend *b;
    int32_t start[2] = {3, 9}, end[2];
    for (uint32_t i = 0; i < N; i++) logits[i] = (float)(i * 7 % N) * 0.1f;
    assert_ok(backend_gpu_create(host, NULL, &limits, &b, &error), error);
    float *row = put(b, logits, sizeof logits);
    struct backend_step *steps = put(b, &step, sizeof step);
    int32_t *token = put(b, start, sizeof start);
    for (uint32_t i = 0; i <= 20; i++) {
        if (i < 20) b->ops->choose(b, row, N, &how, steps, token, token + 1);
        if (i < 20) assert_true(b->ops->post(b, &steps->choices[i % BACKEND_CHOICES], sizeof choice));
        if (i == 0) continue;
        assert_true(b->ops->collect(b, &choice, sizeof choice));
        assert_true(choice.is_known);
        ids[i - 1] = (uint32_t)choice.id;
    }
    b->ops->read(b, end, token, sizeof end);
    assert_int_equal(end[0], ids[19]);
    assert_int_equal(end[1], 29);
    for (uint32_t i = 0; i < 3; i++) { /* some that nobody collects */
        b->ops->choose(b, row, N, &how, steps, token, token + 1);
        assert_true(b->ops->post(b, &steps->choices[i % BACKEND_CHOICES], sizeof choice));
    }
    b->ops->destroy(b);
}

TEST(lists_are_given_through_the_metal_host_before_the_ones_in_front_are_done)
{
    uint32_t metal_ids[20], emu_ids[20];
    choose_in_turn(&gpu_host_metal, metal_ids);
    choose_in_turn(&gpu_host_emu, emu_ids);
    assert_memory_equal(metal_ids, emu_ids, sizeof emu_ids);
    assert_null(bridge_error());
}

TEST(nothing_is_left_of_metals_objects_after_a_backend_is_destroyed)
{
    assert_null(bridge_error());
    assert_int_equal(pretend_n_objects, 0);
}

/* Must be the last: the pretend Metal keeps its first error. */
TEST(a_missing_barrier_between_dispatches_is_reported)
{
    char why[64];
    struct gpu *g = gpu_host_metal.open(why, sizeof why);
    const struct elements_record record = {.n = 64};
    struct gpu_buffer *a = gpu_host_metal.alloc(g, 256, true), *b = gpu_host_metal.alloc(g, 256, true);
    const struct gpu_pipe *pipe = gpu_host_metal.pipe(g, "add");
    const struct gpu_ref there[2] = {{a, 0, 256}, {b, 0, 256}}, back[2] = {{b, 0, 256}, {a, 0, 256}};
    const unsigned grid[3] = {1, 1, 1};
    gpu_host_metal.overlap(g, true);
    assert_true(gpu_host_metal.dispatch(g, pipe, &record, sizeof record, there, 2, grid, 256));
    assert_true(gpu_host_metal.dispatch(g, pipe, &record, sizeof record, back, 2, grid, 256));
    gpu_host_metal.overlap(g, false);
    assert_true(gpu_host_metal.submit(g));
    assert_false(gpu_host_metal.wait(g));
    assert_non_null(strstr(gpu_host_metal.error(g), "at the same time"));
    gpu_host_metal.free(g, a);
    gpu_host_metal.free(g, b);
    gpu_host_metal.close(g);
}

int main(void)
{
    return RUN_TESTS(T(every_operation_agrees_with_the_reference_through_the_metal_host),
                     T(the_kernels_for_many_rows_go_through_the_metal_host),
                     T(experts_in_a_pool_are_used_where_they_lie_through_the_metal_host),
                     T(lists_are_given_through_the_metal_host_before_the_ones_in_front_are_done),
                     T(nothing_is_left_of_metals_objects_after_a_backend_is_destroyed),
                     T(a_missing_barrier_between_dispatches_is_reported));
}

#else

TEST(this_build_cannot_make_the_pretend_metal) { print_message("no clang with Objective-C, or no emulator\n"); }
int main(void) { return RUN_TESTS(T(this_build_cannot_make_the_pretend_metal)); }

#endif
