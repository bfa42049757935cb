/* test_far_weights.c - weights that lie further from the first than 32 bits number: rows of a matrix and experts of a
 * stack beyond 4 GiB give the bits of the same weights side by side, in every format and by every kernel that reads
 * weights, and what the reference gives. The distance is a mapping of which a few pages are touched. */
#include <math.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "base/rng.h"
#include "gpu/backend.h"
#include "lib/op_backends.h"
#include "lib/test.h"
#include "quant/quant.h"

#ifdef DS4_GPU_EMU
#include "gpu/emu/emu.h"

#define N_OUT 11u
#define N_STACK 3u
#define ROWS 17u /* enough for tiles */
#define N_USED 2u
#define BEYOND ((uint64_t)1 << 32)
/* Row 10 and expert 2 begin past 4 GiB, and nothing of what is touched lies where 32 bits of their places would. */
#define ROW_STEP ((uint64_t)0x1C000400)
#define STACK_STEP ((uint64_t)0x90000800)
#define OTHER_STEP ((uint64_t)0x90400800) /* of a stack for up, where gate and up differ */
#define FAR_BYTES ((uint64_t)5 << 30)

_Static_assert((N_OUT - 1) * ROW_STEP > BEYOND && (N_STACK - 1) * STACK_STEP > BEYOND, "these are to be far");

static const struct {
    uint32_t type, n_in; /* where packed: whole groups */
    bool packs;
} formats[] = {{QUANT_F32, 72, false},    {QUANT_F16, 72, false},   {QUANT_BF16, 72, false},
               {QUANT_Q8_0, 512, true},   {QUANT_Q2_K, 1024, true}, {QUANT_Q4_K, 256, false},
               {QUANT_Q6_K, 2048, true},  {QUANT_IQ2_XXS, 2048, true}, {QUANT_MXFP4, 1024, true}};
#define N_IN_MOST 2048u

struct trial {
    struct backend *b;
    float *x, *y, *weights;
    int32_t *ids, *tokens;
};

/* The same numbers as a matrix of rows (of the first expert), and as stacks for gate and down, and for up. */
struct placed {
    struct op_weight rows, stack, other;
};

struct results {
    float embedded[2 * N_IN_MOST], one[N_OUT], few[3 * N_OUT], many[ROWS * N_OUT];
    float few_up[2 * N_USED * N_OUT], many_up[ROWS * N_USED * N_OUT];
    float few_apart[2 * N_USED * N_OUT], many_apart[ROWS * N_USED * N_OUT];
    float few_down[N_OUT], many_down[ROWS * N_OUT];
};

static void make(struct trial *t, const struct op_backend_entry *entry, uint32_t n_in)
{
    struct backend_limits limits = {.n_rows = ROWS, .n_in = n_in, .n_embd = n_in, .n_experts = N_STACK,
                                    .n_used = N_USED, .n_ff = n_in};
    struct rng rng = {5};
    struct ds4_error error = {0};
    static float x[ROWS * N_USED * N_IN_MOST];
    float weights[ROWS * N_USED];
    int32_t ids[ROWS * N_USED], tokens[2] = {(int32_t)N_OUT - 1, 0};
    for (uint32_t i = 0; i < ROWS * N_USED * n_in; i++) x[i] = rng_float(&rng) - 0.5f;
    for (uint32_t i = 0; i < ROWS * N_USED; i++) weights[i] = 0.5f, ids[i] = (int32_t)((i + 2) % N_STACK);
    assert_ok(entry->create(NULL, &limits, &t->b, &error), error);
    t->x = t->b->ops->alloc(t->b, sizeof x);
    t->y = t->b->ops->alloc(t->b, sizeof x);
    t->weights = t->b->ops->alloc(t->b, sizeof weights);
    t->ids = t->b->ops->alloc(t->b, sizeof ids);
    t->tokens = t->b->ops->alloc(t->b, sizeof tokens);
    t->b->ops->write(t->b, t->x, x, ROWS * N_USED * n_in * sizeof *x);
    t->b->ops->write(t->b, t->weights, weights, sizeof weights);
    t->b->ops->write(t->b, t->ids, ids, sizeof ids);
    t->b->ops->write(t->b, t->tokens, tokens, sizeof tokens);
}

static void multiply(const struct trial *t, const struct op_weight *w, uint32_t n_rows, float *out)
{
    struct matmul_args args = {.n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = t->x, .out = {{*w, t->y}}};
    t->b->ops->matmul(t->b, &args);
    t->b->ops->read(t->b, out, t->y, n_rows * N_OUT * sizeof *out);
}

static void gate_up(const struct trial *t, const struct op_weight *gate, const struct op_weight *up, uint32_t n_rows,
                    float *out)
{
    struct moe_gate_up_args args = {.n_rows = n_rows, .n_used = N_USED, .limit = 10, .x = t->x, .ids = t->ids,
                                    .weights = t->weights, .gate = *gate, .up = *up, .m = t->y};
    t->b->ops->moe_gate_up(t->b, &args);
    t->b->ops->read(t->b, out, t->y, n_rows * N_USED * N_OUT * sizeof *out);
}

static void down(const struct trial *t, const struct op_weight *w, uint32_t n_rows, float *out)
{
    struct moe_down_args args = {.n_rows = n_rows, .n_used = N_USED, .m = t->x, .ids = t->ids, .down = *w, .y = t->y};
    t->b->ops->moe_down(t->b, &args);
    t->b->ops->read(t->b, out, t->y, n_rows * N_OUT * sizeof *out);
}

static void run(const struct trial *t, const struct placed *p, struct results *r)
{
    struct ds4_error error = {0};
    memset(r, 0, sizeof *r);
    if (!(p->rows.type & OP_PACKED)) {
        struct embed_args args = {.n_rows = 2, .n_hc = 1, .n_embd = p->rows.n_in, .table = p->rows,
                                  .tokens = t->tokens, .x = t->y};
        t->b->ops->embed(t->b, &args);
        t->b->ops->read(t->b, r->embedded, t->y, 2 * p->rows.n_in * sizeof(float));
    }
    multiply(t, &p->rows, 1, r->one);
    multiply(t, &p->rows, 3, r->few);
    multiply(t, &p->rows, ROWS, r->many);
    gate_up(t, &p->stack, &p->stack, 2, r->few_up);
    gate_up(t, &p->stack, &p->stack, ROWS, r->many_up);
    gate_up(t, &p->stack, &p->other, 2, r->few_apart);
    gate_up(t, &p->stack, &p->other, ROWS, r->many_apart);
    down(t, &p->stack, 1, r->few_down);
    down(t, &p->stack, ROWS, r->many_down);
    assert_ok(t->b->ops->finish(t->b, &error), error);
}

/* Experts side by side. */
static struct placed place_near(const struct op_weight *w)
{
    struct placed p = {*w, *w, *w};
    p.rows.n_stack = 1;
    return p;
}

/* Where weights of `near` lie far from one another; they are copied there. */
static struct placed place_far(const struct placed *near, const uint8_t *bytes, uint8_t *far)
{
    struct placed p = *near;
    const uint64_t row = near->rows.row_bytes, expert = N_OUT * row;
    p.rows.data = far;
    p.rows.row_bytes = ROW_STEP;
    for (uint64_t o = 0; o < N_OUT; o++) memcpy(far + o * ROW_STEP, bytes + o * row, (size_t)row);
    far += 1u << 20;
    p.stack.data = far;
    p.stack.stack_bytes = STACK_STEP;
    for (uint64_t e = 0; e < N_STACK; e++) memcpy(far + e * STACK_STEP, bytes + e * expert, (size_t)expert);
    far += 1u << 20;
    p.other.data = far;
    p.other.stack_bytes = OTHER_STEP;
    for (uint64_t e = 0; e < N_STACK; e++) memcpy(far + e * OTHER_STEP, bytes + e * expert, (size_t)expert);
    return p;
}

static uint8_t *map_far(void)
{
    void *far = mmap(NULL, FAR_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(far != MAP_FAILED);
    return far;
}

/* Experts encoded one behind another, in whole pages. */
static uint8_t *make_weights(size_t format_i, struct op_weight *w, size_t *bytes)
{
    const struct quant_format *format = quant_format(formats[format_i].type);
    const uint32_t n_in = formats[format_i].n_in;
    struct rng rng = {format_i + 1};
    float values[N_IN_MOST];
    *w = (struct op_weight){.type = format->id, .n_in = n_in, .n_out = N_OUT, .n_stack = N_STACK};
    assert_true(quant_row_bytes(format, n_in, &w->row_bytes));
    w->stack_bytes = N_OUT * w->row_bytes;
    *bytes = N_STACK * w->stack_bytes;
    uint8_t *at = mem_map(*bytes);
    assert_non_null(at);
    for (uint32_t o = 0; o < N_STACK * N_OUT; o++) {
        for (uint32_t i = 0; i < n_in; i++) values[i] = rng_float(&rng) - 0.5f;
        format->encode(values, NULL, at + o * w->row_bytes, n_in);
    }
    w->data = at;
    return at;
}

static void assert_close(const float *got, const float *want, size_t n, const char *name)
{
    float most = 0;
    for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(want[i]));
    assert_true(most > 0);
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= 5e-3f * most))
            fail_msg("%s[%zu] = %.9g, wanted %.9g", name, i, (double)got[i], (double)want[i]);
}

static void assert_all_close(const struct results *got, const struct results *want)
{
#define CLOSE(part) assert_close(got->part, want->part, sizeof got->part / sizeof *got->part, #part)
    CLOSE(embedded);
    CLOSE(one);
    CLOSE(few);
    CLOSE(many);
    CLOSE(few_up);
    CLOSE(many_up);
    CLOSE(few_apart);
    CLOSE(many_apart);
    CLOSE(few_down);
    CLOSE(many_down);
#undef CLOSE
}

static enum ds4_status create_emu(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                                  struct ds4_error *error)
{
    return backend_gpu_create(&gpu_host_emu, pool, limits, out, error);
}
static const struct op_backend_entry emulated = {"emu", create_emu};

static struct results near_ones, far_ones, reference;

/* One layout: what is near, what is far, and, for the layout of files, the reference. */
static void compare(struct trial *t, const struct op_weight *w, const uint8_t *bytes, uint8_t *far)
{
    struct placed near = place_near(w), there = place_far(&near, bytes, far);
    near.other = near.stack;
    run(t, &near, &near_ones);
    run(t, &there, &far_ones);
    const float *a = (const float *)&near_ones, *b = (const float *)&far_ones;
    for (size_t i = 0; i < sizeof near_ones / sizeof *a; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0)
            fail_msg("%s%s, number %zu of the results: %.9g far away, %.9g near",
                     quant_format(w->type & ~OP_PACKED)->name, w->type & OP_PACKED ? ", packed" : "", i, (double)b[i],
                     (double)a[i]);
    if (w->type & OP_PACKED) return;
    struct trial plain;
    make(&plain, &op_backends[0], w->n_in);
    run(&plain, &there, &reference);
    assert_all_close(&far_ones, &reference);
    plain.b->ops->destroy(plain.b);
}

static void try_format(size_t i, bool packed)
{
    struct op_weight w;
    struct trial t;
    struct ds4_error error = {0};
    size_t bytes;
    uint8_t *near = make_weights(i, &w, &bytes), *far = map_far(), *as_they_lie = mem_alloc(bytes, 1);
    assert_non_null(as_they_lie);
    make(&t, &emulated, formats[i].n_in);
    emu_copy_weights(packed);
    assert_ok(t.b->ops->map(t.b, near, bytes, true, &error), error);
    emu_copy_weights(false);
    assert_ok(t.b->ops->map(t.b, far, FAR_BYTES, true, &error), error);
    if (packed) {
        t.b->ops->pack(t.b, &w);
        assert_int_equal(w.type, formats[i].type | OP_PACKED);
    }
    t.b->ops->read(t.b, as_they_lie, w.data, bytes);
    compare(&t, &w, as_they_lie, far);
    t.b->ops->destroy(t.b);
    mem_unmap(near, bytes);
    mem_free(as_they_lie);
    assert_int_equal(munmap(far, FAR_BYTES), 0);
}

TEST(rows_and_experts_beyond_4_gib_give_the_bits_of_near_ones_in_every_format)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) try_format(i, false);
}

TEST(packed_rows_and_experts_beyond_4_gib_give_the_bits_of_near_ones)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i].packs) try_format(i, true);
}

int main(void)
{
    return RUN_TESTS(T(rows_and_experts_beyond_4_gib_give_the_bits_of_near_ones_in_every_format),
                     T(packed_rows_and_experts_beyond_4_gib_give_the_bits_of_near_ones));
}

#else

TEST(this_build_has_no_emulator_of_kernels)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_of_kernels)); }

#endif
