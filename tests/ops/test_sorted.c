/* test_sorted.c - the choices of many rows, sorted by expert on the GPU: once for both products of a layer, again when
 * they are others, a slice of the rows at a time; the results are the bits that few rows give, which are not sorted. */
#include "base/mem.h"
#include "base/rng.h"
#include "gpu/backend.h"
#include "lib/test.h"
#include "quant/quant.h"

#ifdef DS4_GPU_EMU

#include "lib/tested_gpu.h"

#define N_IN 32u /* a block */
#define N_OUT 32u
#define FEW 8u
#define N_EXPERTS_MOST 40u

struct layer {
    struct backend *gpu;
    struct op_weight w; /* gate, up and down are the same */
    uint32_t n_rows, n_used, n_experts;
    float *x, *weights, *m, *y;
    int32_t *ids, *ids_here;
};

static float *floats(struct layer *l, struct rng *rng, size_t n)
{
    float *there = l->gpu->ops->alloc(l->gpu, n * sizeof *there), *here = mem_alloc(n, sizeof *here);
    assert_true(there && here);
    for (size_t i = 0; i < n; i++) here[i] = rng_float(rng) - 0.4f;
    l->gpu->ops->write(l->gpu, there, here, n * sizeof *there);
    mem_free(here);
    return there;
}

/* Half of the choices are expert 1, and one expert is never chosen. */
static void choose(struct layer *l, struct rng *rng)
{
    size_t n = (size_t)l->n_rows * l->n_used;
    for (size_t i = 0; i < n; i++) {
        uint32_t e = (uint32_t)rng_below(rng, l->n_experts - 1);
        l->ids_here[i] = rng_below(rng, 2) ? 1 : (int32_t)(e == 2 ? l->n_experts - 1 : e);
    }
    l->gpu->ops->write(l->gpu, l->ids, l->ids_here, n * sizeof *l->ids);
}

/* n_ff: the widest activations that there is said to be, which take room from rows. */
static void set_up(struct layer *l, uint32_t n_rows, uint32_t n_used, uint32_t n_experts, uint32_t n_ff)
{
    struct ds4_error error = {0};
    struct backend_limits limits = {.n_rows = n_rows, .n_in = N_IN, .n_ff = n_ff, .n_experts = n_experts,
                                    .n_used = n_used};
    const struct quant_format *format = quant_format(QUANT_Q8_0);
    static uint8_t blocks[N_EXPERTS_MOST * N_OUT * 34];
    struct rng rng = {11};
    size_t n_pairs = (size_t)n_rows * n_used;
    *l = (struct layer){.n_rows = n_rows, .n_used = n_used, .n_experts = n_experts};
    assert_ok(backend_gpu_create(&tested_host, NULL, &limits, &l->gpu, &error), error);
    l->w = (struct op_weight){.type = QUANT_Q8_0, .n_in = N_IN, .n_out = N_OUT, .n_stack = n_experts,
                              .row_bytes = 34, .stack_bytes = N_OUT * 34};
    for (uint32_t o = 0; o < n_experts * N_OUT; o++) {
        float values[N_IN];
        for (uint32_t i = 0; i < N_IN; i++) values[i] = rng_float(&rng) - 0.5f;
        format->encode(values, NULL, blocks + o * 34, N_IN);
    }
    uint8_t *there = l->gpu->ops->alloc(l->gpu, sizeof blocks);
    l->gpu->ops->write(l->gpu, there, blocks, sizeof blocks);
    l->w.data = there;
    l->x = floats(l, &rng, (size_t)n_rows * N_IN);
    l->weights = floats(l, &rng, n_pairs);
    l->m = floats(l, &rng, n_pairs * N_OUT);
    l->y = floats(l, &rng, (size_t)n_rows * N_OUT);
    l->ids = l->gpu->ops->alloc(l->gpu, n_pairs * sizeof *l->ids);
    l->ids_here = mem_alloc(n_pairs, sizeof *l->ids_here);
    assert_true(l->ids && l->ids_here);
    choose(l, &rng);
}

static void tear_down(struct layer *l)
{
    struct ds4_error error = {0};
    assert_ok(l->gpu->ops->finish(l->gpu, &error), error);
    l->gpu->ops->destroy(l->gpu);
    mem_free(l->ids_here);
}

static void gate_up(const struct layer *l, uint32_t first, uint32_t n)
{
    size_t pair = (size_t)first * l->n_used;
    struct moe_gate_up_args args = {.n_rows = n, .n_used = l->n_used, .limit = 10, .x = l->x + (size_t)first * N_IN,
                                    .ids = l->ids + pair, .weights = l->weights + pair, .gate = l->w, .up = l->w,
                                    .m = l->m + pair * N_OUT};
    l->gpu->ops->moe_gate_up(l->gpu, &args);
}
static void down(const struct layer *l, uint32_t first, uint32_t n)
{
    size_t pair = (size_t)first * l->n_used;
    struct moe_down_args args = {.n_rows = n, .n_used = l->n_used, .m = l->m + pair * N_OUT, .ids = l->ids + pair,
                                 .down = l->w, .y = l->y + (size_t)first * N_OUT};
    l->gpu->ops->moe_down(l->gpu, &args);
}

static float *results(const struct layer *l)
{
    float *y = mem_alloc((size_t)l->n_rows * N_OUT, sizeof *y);
    assert_non_null(y);
    l->gpu->ops->read(l->gpu, y, l->y, (size_t)l->n_rows * N_OUT * sizeof *y);
    return y;
}

/* Of some of the rows, a few at a time. */
static void same_as_few(const struct layer *l, uint32_t every)
{
    float *many = results(l);
    for (uint32_t first = 0; first < l->n_rows; first += every) {
        uint32_t n = l->n_rows - first < FEW ? l->n_rows - first : FEW;
        gate_up(l, first, n);
        down(l, first, n);
    }
    float *few = results(l);
    assert_memory_equal(many, few, (size_t)l->n_rows * N_OUT * sizeof *many);
    mem_free(many);
    mem_free(few);
}

static uint64_t n_dispatches(const struct layer *l, const char *kernel)
{
    struct ds4_kernel_time times[32];
    size_t n = backend_gpu_times(l->gpu, times, 32);
    for (size_t i = 0; i < n; i++)
        if (strcmp(times[i].name, kernel) == 0) return times[i].n;
    return 0;
}

TEST(both_products_of_a_layer_share_one_sorting)
{
    struct layer l;
    struct ds4_error error = {0};
    struct rng rng = {3};
    set_up(&l, 150, 2, 5, N_OUT);
    assert_ok(backend_gpu_time(l.gpu, true, &error), error);
    gate_up(&l, 0, l.n_rows);
    down(&l, 0, l.n_rows);
    assert_int_equal(n_dispatches(&l, "moe_sort"), 1);
    assert_int_equal(n_dispatches(&l, "moe_count"), 1);
    same_as_few(&l, FEW);
    choose(&l, &rng);
    gate_up(&l, 0, l.n_rows);
    choose(&l, &rng); /* other experts for the second product: nobody does that, and it is not overlooked */
    down(&l, 0, l.n_rows);
    assert_int_equal(n_dispatches(&l, "moe_sort"), 3);
    down(&l, 16, l.n_rows - 16); /* a part of them is not the same batch */
    assert_int_equal(n_dispatches(&l, "moe_sort"), 4);
    gate_up(&l, 0, l.n_rows);
    down(&l, 0, l.n_rows);
    assert_int_equal(n_dispatches(&l, "moe_sort"), 5);
    same_as_few(&l, FEW);
    tear_down(&l);
}

TEST(slices_of_a_batch_are_sorted_each_once)
{
    struct layer l;
    struct ds4_error error = {0};
    set_up(&l, 150, 3, 37, 1u << 19); /* 10 MB a row */
    assert_ok(backend_gpu_time(l.gpu, true, &error), error);
    gate_up(&l, 0, l.n_rows);
    down(&l, 0, l.n_rows);
    uint64_t n = n_dispatches(&l, "moe_sort");
    assert_in_range(n, 3, 8);
    gate_up(&l, 0, l.n_rows);
    down(&l, 0, l.n_rows);
    assert_int_equal(n_dispatches(&l, "moe_sort"), n); /* nothing changed them */
    assert_int_equal(n_dispatches(&l, "expert_tiles_q8_0"), 6 * n);
    same_as_few(&l, FEW);
    tear_down(&l);
}

int main(void)
{
    return RUN_TESTS(T(both_products_of_a_layer_share_one_sorting), T(slices_of_a_batch_are_sorted_each_once));
}

#else

TEST(this_build_has_no_emulator_that_could_sort)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}

int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_that_could_sort)); }

#endif
