/* test_packed.c - products with weights that a device laid out anew in its own memory have the bits of those with the
 * layout of the file, for every format that is, by every kernel: one row, few, many in tiles, and routed experts. */
#include "base/mem.h"
#include "base/rng.h"
#include "gpu/backend.h"
#include "lib/test.h"
#include "quant/quant.h"

#ifdef DS4_GPU_EMU

#include "lib/tested_gpu.h"

#define N_OUT 9u
#define N_STACK 2u
#define ROWS 17u /* enough for tiles */
#define N_USED 2u

static const struct {
    uint32_t type, n_in; /* a group or two */
} formats[] = {{QUANT_Q8_0, 512}, {QUANT_Q2_K, 1024}, {QUANT_Q6_K, 2048}, {QUANT_IQ2_XXS, 2048}, {QUANT_MXFP4, 1024}};

/* What a format is tried with: n_in inputs of each row, and room for all results. */
struct trial {
    struct backend *gpu;
    struct op_weight w;
    uint8_t *mapped;
    size_t mapped_bytes;
    float *x, *y, *weights;
    int32_t *ids;
};

/* The kernels' results one behind another. */
#define N_RESULTS (2 * ROWS * N_USED * N_OUT)

static void make(struct trial *t, size_t format_i)
{
    const struct quant_format *format = quant_format(formats[format_i].type);
    struct backend_limits limits = {.n_rows = ROWS, .n_in = formats[format_i].n_in, .n_experts = N_STACK,
                                    .n_used = N_USED, .n_ff = formats[format_i].n_in};
    struct rng rng = {format_i + 1};
    struct ds4_error error = {0};
    uint32_t n_in = formats[format_i].n_in;
    *t = (struct trial){.w = {.type = format->id, .n_in = n_in, .n_out = N_OUT, .n_stack = N_STACK}};
    assert_ok(backend_gpu_create(&tested_host, NULL, &limits, &t->gpu, &error), error);
    assert_true(quant_row_bytes(format, n_in, &t->w.row_bytes));
    t->w.stack_bytes = N_OUT * t->w.row_bytes;
    t->mapped_bytes = (size_t)(N_STACK * t->w.stack_bytes + 48);
    t->mapped = mem_map(t->mapped_bytes);
    float *values = mem_alloc((size_t)ROWS * n_in, sizeof *values);
    assert_true(t->mapped && values);
    for (uint32_t o = 0; o < N_STACK * N_OUT; o++) {
        for (uint32_t i = 0; i < n_in; i++) values[i] = rng_float(&rng) - 0.5f;
        format->encode(values, NULL, t->mapped + 32 + o * t->w.row_bytes, n_in);
    }
    assert_ok(t->gpu->ops->map(t->gpu, t->mapped, t->mapped_bytes, true, &error), error);
    t->w.data = t->mapped + 32;
    for (uint32_t i = 0; i < ROWS * n_in; i++) values[i] = rng_float(&rng) - 0.5f;
    t->x = t->gpu->ops->alloc(t->gpu, ROWS * n_in * sizeof *t->x);
    t->gpu->ops->write(t->gpu, t->x, values, ROWS * n_in * sizeof *t->x);
    t->y = t->gpu->ops->alloc(t->gpu, ROWS * N_USED * N_OUT * sizeof *t->y);
    float weights[ROWS * N_USED];
    int32_t ids[ROWS * N_USED];
    for (uint32_t i = 0; i < ROWS * N_USED; i++) weights[i] = 0.5f, ids[i] = (int32_t)((i + i / 3) % N_STACK);
    t->weights = t->gpu->ops->alloc(t->gpu, sizeof weights);
    t->gpu->ops->write(t->gpu, t->weights, weights, sizeof weights);
    t->ids = t->gpu->ops->alloc(t->gpu, sizeof ids);
    t->gpu->ops->write(t->gpu, t->ids, ids, sizeof ids);
    mem_free(values);
}

static void multiply(const struct trial *t, uint32_t n_rows, float *out)
{
    struct matmul_args args = {.n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = t->x, .out = {{t->w, t->y}}};
    args.out[0].w.n_stack = 1;
    t->gpu->ops->matmul(t->gpu, &args);
    t->gpu->ops->read(t->gpu, out, t->y, n_rows * N_OUT * sizeof *out);
}

static void experts(const struct trial *t, uint32_t n_rows, float *out)
{
    struct moe_gate_up_args up = {.n_rows = n_rows, .n_used = N_USED, .limit = 10, .x = t->x, .ids = t->ids,
                                  .weights = t->weights, .gate = t->w, .up = t->w, .m = t->y};
    t->gpu->ops->moe_gate_up(t->gpu, &up);
    t->gpu->ops->read(t->gpu, out, t->y, n_rows * N_USED * N_OUT * sizeof *out);
    struct moe_down_args down = {.n_rows = n_rows / N_USED, .n_used = N_USED, .m = t->x, .ids = t->ids, .down = t->w,
                                 .y = t->y};
    if (down.n_rows == 0) return;
    t->gpu->ops->moe_down(t->gpu, &down);
    t->gpu->ops->read(t->gpu, out + n_rows * N_USED * N_OUT, t->y, down.n_rows * N_OUT * sizeof *out);
}

/* All kernels over one layout. */
struct results {
    float one[N_OUT], few[3 * N_OUT], many[ROWS * N_OUT], few_experts[N_RESULTS], many_experts[N_RESULTS];
};
static void run(const struct trial *t, struct results *r)
{
    memset(r, 0, sizeof *r);
    multiply(t, 1, r->one);
    multiply(t, 3, r->few);
    multiply(t, ROWS, r->many);
    experts(t, 2, r->few_experts);
    experts(t, ROWS, r->many_experts);
}

static uint64_t n_dispatches(struct backend *gpu, const char *ending)
{
    struct ds4_kernel_time times[64];
    size_t n = backend_gpu_times(gpu, times, 64);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        if (strstr(times[i].name, ending)) sum += times[i].n;
    return sum;
}

TEST(packed_weights_give_the_bits_of_those_of_the_file)
{
    static struct results file, packed;
    tested_own_memory(true);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        struct trial t;
        struct ds4_error error = {0};
        make(&t, i);
        run(&t, &file);
        t.gpu->ops->pack(t.gpu, &t.w);
        assert_int_equal(t.w.type, formats[i].type | OP_PACKED);
        assert_ok(backend_gpu_time(t.gpu, true, &error), error);
        run(&t, &packed);
        assert_true(n_dispatches(t.gpu, "_packed") >= 7);
        assert_ok(t.gpu->ops->finish(t.gpu, &error), error);
        if (memcmp(&file, &packed, sizeof file) != 0)
            fail_msg("other bits with packed %s", quant_format(formats[i].type)->name);
        t.gpu->ops->destroy(t.gpu);
        mem_unmap(t.mapped, t.mapped_bytes);
    }
    tested_as_ever();
}

TEST(what_is_not_a_copy_or_has_no_whole_groups_stays_as_it_is)
{
    struct trial t;
    tested_own_memory(false);
    make(&t, 0);
    t.gpu->ops->pack(t.gpu, &t.w); /* the host's memory in place */
    assert_int_equal(t.w.type, QUANT_Q8_0);
    t.gpu->ops->destroy(t.gpu);
    mem_unmap(t.mapped, t.mapped_bytes);
    tested_own_memory(true);
    make(&t, 0);
    struct op_weight w = t.w;
    w.n_in = 32;
    w.row_bytes = 34;
    w.stack_bytes = N_OUT * 34;
    t.gpu->ops->pack(t.gpu, &w);
    assert_int_equal(w.type, QUANT_Q8_0);
    t.gpu->ops->destroy(t.gpu);
    mem_unmap(t.mapped, t.mapped_bytes);
    tested_as_ever();
}

int main(void)
{
    return RUN_TESTS(T(packed_weights_give_the_bits_of_those_of_the_file),
                     T(what_is_not_a_copy_or_has_no_whole_groups_stays_as_it_is));
}

#else

TEST(this_build_has_no_emulator_that_could_pack)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_that_could_pack)); }

#endif
