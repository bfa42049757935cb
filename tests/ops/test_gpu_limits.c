/* test_gpu_limits.c - what devices demand and the emulator's host file does not need: grids within CUDA's limits for
 * the longest batches, memory that is freed only when nothing is on its way, stacks that fit into one buffer. A host
 * file over the emulator's that notes dispatches and runs none of them. */
#include <stdlib.h>

#include "base/mem.h"
#include "gpu/backend.h"
#include "lib/test.h"
#include "quant/quant.h"

#ifdef DS4_GPU_EMU

#define N_ROWS 8192u /* a batch at most: engine.h */
#define N_USED 32u   /* ops_experts.c */
#define N_IN 256u
#define N_OUT 8u
#define N_STACK 40u

static struct gpu_host noting; /* the emulator's but for some */
static unsigned n_dispatches, n_busy; /* in all; since the last wait */
static unsigned largest[3];
static uint64_t buffer_bytes_max;

static bool note_dispatch(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                          const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads)
{
    (void)g, (void)pipe, (void)record, (void)record_bytes, (void)refs, (void)n_refs, (void)n_threads;
    for (int i = 0; i < 3; i++) largest[i] = grid[i] > largest[i] ? grid[i] : largest[i];
    n_dispatches++;
    n_busy++;
    return true;
}

static bool note_wait(struct gpu *g)
{
    n_busy = 0;
    return gpu_host_emu.wait(g);
}

static void note_free(struct gpu *g, struct gpu_buffer *buffer)
{
    if (n_busy > 0) fail_msg("memory is freed while %u dispatches may use it", n_busy);
    gpu_host_emu.free(g, buffer);
}

static void note_info(const struct gpu *g, struct gpu_info *out)
{
    gpu_host_emu.info(g, out);
    if (buffer_bytes_max) out->buffer_bytes_max = buffer_bytes_max;
}

static struct backend *create(void)
{
    const struct backend_limits limits = {.n_rows = N_ROWS, .n_in = N_IN, .n_experts = N_STACK, .n_used = N_USED,
                                          .n_ff = N_IN};
    struct backend *b = NULL;
    struct ds4_error error = {0};
    noting = gpu_host_emu;
    noting.dispatch = note_dispatch;
    noting.wait = note_wait;
    noting.free = note_free;
    noting.info = note_info;
    n_dispatches = n_busy = 0;
    memset(largest, 0, sizeof largest);
    assert_ok(backend_gpu_create(&noting, NULL, &limits, &b, &error), error);
    return b;
}

static void *take(struct backend *b, size_t bytes)
{
    void *memory = b->ops->alloc(b, bytes);
    assert_non_null(memory);
    return memory;
}

static void run_experts(uint32_t type, uint32_t type2)
{
    struct backend *b = create();
    const size_t n_pairs = (size_t)N_ROWS * N_USED;
    struct op_weight w[2];
    for (int i = 0; i < 2; i++) {
        w[i] = (struct op_weight){.type = i ? type2 : type, .n_in = N_IN, .n_out = N_OUT, .n_stack = N_STACK};
        assert_true(quant_row_bytes(quant_format(w[i].type), N_IN, &w[i].row_bytes));
        w[i].stack_bytes = N_OUT * w[i].row_bytes;
        w[i].data = take(b, (size_t)(N_STACK * w[i].stack_bytes));
    }
    struct moe_gate_up_args up = {.n_rows = N_ROWS, .n_used = N_USED, .limit = 10, .gate = w[0], .up = w[1]};
    up.x = take(b, (size_t)N_ROWS * N_IN * sizeof(float));
    up.ids = take(b, n_pairs * sizeof(int32_t));
    up.weights = take(b, n_pairs * sizeof(float));
    up.m = take(b, n_pairs * N_OUT * sizeof(float));
    b->ops->moe_gate_up(b, &up);
    struct moe_down_args down = {.n_rows = N_ROWS, .n_used = N_USED, .ids = up.ids, .down = w[0]};
    down.m = take(b, n_pairs * N_IN * sizeof(float));
    down.y = take(b, (size_t)N_ROWS * N_OUT * sizeof(float));
    b->ops->moe_down(b, &down);
    assert_true(n_dispatches >= 2);
    if (largest[1] > 65535 || largest[2] > 65535)
        fail_msg("grids of %u x %u x %u", largest[0], largest[1], largest[2]);
    b->ops->destroy(b);
}

TEST(the_choices_of_the_longest_batch_fit_into_the_grids_of_cuda)
{
    run_experts(QUANT_F16, QUANT_F16);
    run_experts(QUANT_F32, QUANT_F16);
    run_experts(QUANT_Q8_0, QUANT_Q8_0);
    run_experts(QUANT_Q8_0, QUANT_F16);
}

TEST(a_backend_that_goes_waits_for_what_is_on_its_way)
{
    struct backend *b = create();
    float *x = take(b, 4096), *y = take(b, 4096);
    const struct add_args add = {.n = 1024, .x = x, .y = y};
    b->ops->add(b, &add);
    b->ops->add(b, &add);
    assert_true(b->ops->post(b, y, 16)); /* submitted, and nobody waits */
    assert_true(n_busy > 0);
    b->ops->destroy(b);
    assert_int_equal(n_busy, 0);
}

TEST(a_pool_larger_than_a_buffer_is_refused_with_both_sizes)
{
    const uint64_t slot_bytes = 1u << 16;
    struct ds4_error error = {0};
    uint8_t *pool = mem_map(3 << 20);
    assert_non_null(pool);
    buffer_bytes_max = 2u << 20;
    struct backend *b = create();
    assert_int_equal(backend_gpu_share(b, N_STACK, 64, pool, slot_bytes, 48, &error), DS4_ERR_LIMIT);
    assert_non_null(strstr(error.message, "3 MiB"));
    assert_non_null(strstr(error.message, "at most 2"));
    b->ops->destroy(b);
    b = create();
    assert_ok(backend_gpu_share(b, N_STACK, 64, pool, slot_bytes, 32, &error), error);
    b->ops->destroy(b);
    buffer_bytes_max = 0;
    mem_unmap(pool, 3 << 20);
}

int main(void)
{
    return RUN_TESTS(T(the_choices_of_the_longest_batch_fit_into_the_grids_of_cuda),
                     T(a_backend_that_goes_waits_for_what_is_on_its_way),
                     T(a_pool_larger_than_a_buffer_is_refused_with_both_sizes));
}

#else

TEST(this_build_has_no_emulator_to_look_at) { assert_null(gpu_choices()->ops); }
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_to_look_at)); }

#endif
