/* test_gpu_streamed.c - experts in three places: on a device with little memory, in a pool of the machine's memory,
 * and in the file, from which the pool is filled. Logits are the bits of those with everything on the device. And the
 * copies to the device, which run beside its kernels: the emulator makes them as late as they may come, and reports a
 * kernel that does not wait for one and one that replaces what a kernel may still read. */
#include <stdlib.h>
#include <string.h>

#include "gpu/backend.h"
#include "gpu/kernels/records.h"
#include "lib/gpu_trials.h"
#include "lib/model.h"
#include "lib/test.h"

#ifdef DS4_GPU_EMU

#include "lib/tested_gpu.h"

#define N_LAYERS 5u
#define N_EXPERTS 8u
#define MODEL "random --seed 6 --layers 5 --ratios 0,4,128,0,0 --dim 128 --heads 2 --head-dim 128 --q-rank 32 " \
    "--o-groups 2 --o-rank 16 --window 16 --index-heads 2 --index-dim 128 --index-topk 4 --experts 8 --used 2 " \
    "--inner 128 --hash-layers 1 --vocab 300 --hc 2 --context 1024 --type q8_0 --experts-type mxfp4 --small f16"
#define EXPERT_BYTES (128u * 128u / 32u * (17u + 17u + 34u)) /* down is Q8_0 */
#define LAYER_BYTES (N_EXPERTS * EXPERT_BYTES)
#define CHUNK 3u

static struct ds4_engine_options options_for(uint64_t device_bytes, uint64_t memory_bytes, uint64_t cache_bytes)
{
    return (struct ds4_engine_options){.model_path = model_file("gpu_experts_placed", MODEL), .backend = TESTED_GPU,
                                       .ctx_tokens = 256, .chunk_tokens = CHUNK, .n_threads = 1, .notes_dir = "",
                                       .device_memory_bytes = device_bytes, .memory_budget_bytes = memory_bytes,
                                       .expert_cache_bytes = cache_bytes};
}

static struct ds4_plan plan_of(const struct ds4_engine_options *options)
{
    struct ds4_plan plan;
    struct ds4_error error = {0};
    assert_ok(ds4_plan_make(options, &plan, &error), error);
    return plan;
}

/* Logits after three tokens in one pass and one more. */
static float *run(const struct ds4_engine_options *options, struct ds4_expert_figures *figures)
{
    struct ds4_error error = {0};
    struct ds4_session *s = NULL;
    int32_t tokens[4];
    struct ds4_engine *e = model_open(options->model_path, *options);
    uint32_t n_vocab = ds4_engine_info(e)->n_vocab;
    float *logits = calloc(2 * n_vocab, sizeof *logits);
    assert_ok(ds4_session_create(e, &s, &error), error);
    for (size_t t = 0; t < 4; t++) tokens[t] = model_token(t, n_vocab);
    for (size_t t = 0; t < 2; t++) {
        struct ds4_job job = {.session = s, .tokens = t ? tokens + 2 + t : tokens, .n = t ? 1 : 3};
        assert_ok(ds4_eval(e, &job, 1, &error), error);
        memcpy(logits + t * n_vocab, ds4_session_logits(s), n_vocab * sizeof *logits);
    }
    ds4_engine_expert_figures(e, figures);
    ds4_session_destroy(s);
    ds4_engine_close(e);
    return logits;
}

TEST(experts_on_a_device_in_memory_and_on_disk_give_the_bits_of_all_on_the_device)
{
    struct ds4_engine_options all = options_for(1u << 30, 0, 0);
    struct ds4_plan whole = plan_of(&all);
    uint64_t least = whole.device_budget_bytes - whole.device_room_bytes;
    uint64_t dense = whole.device_bytes - least - N_LAYERS * LAYER_BYTES;
    uint64_t staged = backend_gpu_stage_bytes(N_EXPERTS, 2, CHUNK, EXPERT_BYTES);
    uint64_t pinned = backend_gpu_pinned_bytes(staged);
    /* One layer of experts beside what must be there; 470 kB of memory for the four others, which have 1,114 */
    struct ds4_engine_options split = options_for(least + dense + staged + LAYER_BYTES + 20000,
                                                  whole.resident_bytes + pinned + 470000, DS4_EXPERT_CACHE_AUTO);
    struct ds4_plan plan = plan_of(&split);
    if (!plan.fits) fail_msg("%s", plan.verdict);
    assert_non_null(strstr(plan.verdict, "streams"));
    assert_int_equal(plan.n_experts, (N_LAYERS - 1) * N_EXPERTS);
    assert_in_range(plan.n_expert_slots, 2 * CHUNK, plan.n_experts - 1);
    assert_true(plan.device_bytes <= plan.device_budget_bytes && plan.resident_bytes <= plan.budget_bytes);
    struct ds4_expert_figures figures;
    float *want = run(&all, &figures);
    assert_int_equal(figures.n_misses, 0);
    float *got = run(&split, &figures);
    assert_true(figures.n_misses > 0 && figures.read_bytes > 0);
    assert_memory_equal(got, want, 2 * 300 * sizeof *got);
    free(want);
    free(got);
}

/* Products with experts that the device has, and the same with experts that come one by one. More of them than half a
 * room holds, and rows that name all. */
#define USED 6u
#define EXPERTS 80u

static uint8_t experts[EXPERTS * (2 * GPU_GATE_BYTES + GPU_DOWN_BYTES)];
static const uint8_t *at[3][EXPERTS];
static uint32_t n_waited;

static const uint8_t *address(uint32_t part, uint32_t e)
{
    uint32_t bytes = part == 2 ? GPU_DOWN_BYTES : GPU_GATE_BYTES;
    return experts + part * EXPERTS * GPU_GATE_BYTES + e * bytes;
}

static const uint8_t *wait_for(const struct op_stacks *stacks, uint32_t e)
{
    n_waited++;
    return address(stacks->part_i, e);
}

/* Every third expert must be waited for. */
static void fill_experts(void)
{
    gpu_fill_gates(experts, 2 * EXPERTS * GPU_GATE_BYTES, 3);
    gpu_fill_downs(experts + 2 * EXPERTS * GPU_GATE_BYTES, EXPERTS * GPU_DOWN_BYTES, 5);
    for (uint32_t p = 0; p < 3; p++)
        for (uint32_t e = 0; e < EXPERTS; e++) at[p][e] = e % 3 ? address(p, e) : NULL;
}

TEST(many_rows_bring_each_expert_once_and_few_rows_theirs_with_the_same_bits)
{
    static struct gpu_products_result want, got;
    struct op_stacks stacks[3];
    struct op_weight there[3], streamed[3];
    struct gpu_products p;
    struct ds4_error error = {0};
    fill_experts();
    gpu_products_open(&p, &tested_host, EXPERTS, USED, 7);
    assert_ok(backend_gpu_stage(p.b, EXPERTS, USED, GPU_ROWS, 2 * GPU_GATE_BYTES + GPU_DOWN_BYTES, &error), error);
    const uint8_t *all = gpu_put(p.b, experts, sizeof experts);
    for (uint32_t i = 0; i < 3; i++) {
        stacks[i] = (struct op_stacks){.at = at[i], .wait = wait_for, .part_i = i};
        there[i] = streamed[i] = gpu_products_weight(&p, i);
        there[i].data = all + (address(i, 0) - experts);
        streamed[i].stacks = &stacks[i];
    }
    for (uint32_t n_rows = GPU_ROWS; n_rows; n_rows = n_rows == GPU_ROWS ? 3 : 0) {
        gpu_products_run(&p, there, n_rows, &want);
        (void)tested_n_sent();
        n_waited = 0;
        gpu_products_run(&p, streamed, n_rows, &got);
        /* three matrices of each expert, and the places of each group: two groups of many rows */
        uint64_t n_named = n_rows == GPU_ROWS ? EXPERTS : n_rows * USED;
        if (tested_can_send()) assert_int_equal(tested_n_sent(), 3 * n_named + (n_rows == GPU_ROWS ? 4 : 2));
        assert_in_range(n_waited, n_named * 3 / 4, n_named * 3 / 2);
        assert_memory_equal(&got, &want, sizeof got);
    }
    p.b->ops->destroy(p.b);
}

/* Matrices of 17 pages. */
#define PAGES "random --seed 8 --layers 2 --ratios 0,0 --dim 256 --heads 2 --head-dim 128 --q-rank 32 " \
    "--o-groups 2 --o-rank 16 --window 16 --index-heads 2 --index-dim 128 --index-topk 4 --experts 2 --used 1 " \
    "--inner 256 --hash-layers 0 --vocab 300 --hc 2 --context 1024 --type q8_0 --small f16"
#define PAGES_ROWS 16u

/* Logits after a pass of many rows and one of one row. */
static void logits_in_pages(uint64_t cache_bytes, float *logits, struct ds4_expert_figures *figures)
{
    struct ds4_engine_options options = options_for(0, 0, cache_bytes);
    struct ds4_error error = {0};
    struct ds4_session *s = NULL;
    int32_t tokens[PAGES_ROWS + 1];
    options.model_path = model_file("gpu_experts_of_pages", PAGES);
    options.chunk_tokens = PAGES_ROWS;
    struct ds4_engine *e = model_open(options.model_path, options);
    for (size_t t = 0; t <= PAGES_ROWS; t++) tokens[t] = model_token(t, 300);
    assert_ok(ds4_session_create(e, &s, &error), error);
    struct ds4_job many = {.session = s, .tokens = tokens, .n = PAGES_ROWS};
    struct ds4_job one = {.session = s, .tokens = tokens + PAGES_ROWS, .n = 1};
    assert_ok(ds4_eval(e, &many, 1, &error), error);
    memcpy(logits, ds4_session_logits(s), 300 * sizeof *logits);
    assert_ok(ds4_eval(e, &one, 1, &error), error);
    memcpy(logits + 300, ds4_session_logits(s), 300 * sizeof *logits);
    ds4_engine_expert_figures(e, figures);
    ds4_session_destroy(s);
    ds4_engine_close(e);
}

TEST(a_gpu_in_the_machines_memory_uses_streamed_experts_in_their_slots)
{
    float want[600], got[600];
    struct ds4_expert_figures figures;
    tested_own_memory(false);
    logits_in_pages(0, want, &figures);
    assert_int_equal(figures.n_slots, 0);
    logits_in_pages(5 * 3 * (17 + 1) * 4096, got, &figures); /* three slots for four experts */
    assert_int_equal(figures.n_slots, 3);
    assert_true(figures.n_misses > 0 && figures.read_bytes > 0);
    assert_memory_equal(got, want, sizeof got);
    tested_as_ever();
}

TEST(experts_that_are_not_whole_pages_are_refused_on_a_gpu_in_the_machines_memory)
{
    struct ds4_engine_options options = options_for(0, 0, 4u << 20);
    struct ds4_plan plan;
    struct ds4_error error = {0};
    tested_own_memory(false);
    assert_int_equal(ds4_plan_make(&options, &plan, &error), DS4_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "whole pages"));
    options.expert_cache_bytes = DS4_EXPERT_CACHE_AUTO;
    assert_ok(ds4_plan_make(&options, &plan, &error), error);
    assert_int_equal(plan.n_experts, 0); /* mapped */
    tested_as_ever();
}

/* One kernel that adds a to b, on the emulated device. */
struct adding {
    struct gpu *g;
    struct gpu_ref a, b;
};

static struct adding begin_adding(void)
{
    char why[64];
    struct adding t = {.g = gpu_host_emu.open(why, sizeof why)};
    t.a = (struct gpu_ref){gpu_host_emu.alloc(t.g, 256), 0, 256};
    t.b = (struct gpu_ref){gpu_host_emu.alloc(t.g, 256), 0, 256};
    assert_true(gpu_host_emu.prepare_sends(t.g, 4096));
    return t;
}

static bool add(struct adding *t)
{
    const struct elements_record record = {.n = 64};
    const struct gpu_ref refs[2] = {t->a, t->b};
    const unsigned grid[3] = {1, 1, 1};
    return gpu_host_emu.dispatch(t->g, gpu_host_emu.pipe(t->g, "add"), &record, sizeof record, refs, 2, grid, 256);
}

static void end_adding(struct adding *t)
{
    gpu_host_emu.free(t->g, t->a.buffer);
    gpu_host_emu.free(t->g, t->b.buffer);
    gpu_host_emu.close(t->g);
}

TEST(a_copy_arrives_when_it_is_waited_for_and_after_the_kernels_before_its_mark)
{
    struct adding t = begin_adding();
    float ones[64], twos[64], sum[64];
    for (int i = 0; i < 64; i++) ones[i] = 1, twos[i] = 2;
    assert_true(gpu_host_emu.send(t.g, t.a, ones, 0));
    ones[0] = 7; /* it is the caller's again */
    assert_true(gpu_host_emu.arrive(t.g));
    assert_true(add(&t));
    uint64_t mark = gpu_host_emu.mark(t.g);
    assert_true(gpu_host_emu.send(t.g, t.a, twos, mark) && gpu_host_emu.arrive(t.g));
    assert_true(add(&t));
    assert_true(gpu_host_emu.read(t.g, sum, t.b.buffer, 0, sizeof sum));
    for (int i = 0; i < 64; i++) assert_true(sum[i] >= 3 && sum[i] <= 3);
    end_adding(&t);
}

TEST(a_kernel_that_does_not_wait_for_a_copy_is_reported)
{
    struct adding t = begin_adding();
    float ones[64] = {1};
    assert_true(gpu_host_emu.send(t.g, t.a, ones, 0));
    assert_false(add(&t));
    assert_non_null(strstr(gpu_host_emu.error(t.g), "on its way"));
    end_adding(&t);
}

TEST(a_copy_over_what_a_kernel_may_still_read_is_reported)
{
    struct adding t = begin_adding();
    float ones[64] = {1};
    uint64_t mark = gpu_host_emu.mark(t.g);
    assert_true(add(&t));
    assert_false(gpu_host_emu.send(t.g, t.a, ones, mark));
    assert_non_null(strstr(gpu_host_emu.error(t.g), "still reads"));
    end_adding(&t);
}

TEST(without_a_pool_a_plan_that_leaves_experts_homeless_is_refused)
{
    struct ds4_engine_options all = options_for(1u << 30, 0, 0);
    struct ds4_plan whole = plan_of(&all);
    struct ds4_engine_options none =
        options_for(whole.device_bytes - 2 * LAYER_BYTES, whole.resident_bytes + 100000, 0);
    struct ds4_plan plan = plan_of(&none);
    assert_false(plan.fits);
    assert_non_null(strstr(plan.verdict, "--expert-cache auto"));
}

int main(void)
{
    return RUN_TESTS(T(experts_on_a_device_in_memory_and_on_disk_give_the_bits_of_all_on_the_device),
                     T(many_rows_bring_each_expert_once_and_few_rows_theirs_with_the_same_bits),
                     T(a_gpu_in_the_machines_memory_uses_streamed_experts_in_their_slots),
                     T(experts_that_are_not_whole_pages_are_refused_on_a_gpu_in_the_machines_memory),
                     T(a_copy_arrives_when_it_is_waited_for_and_after_the_kernels_before_its_mark),
                     T(a_kernel_that_does_not_wait_for_a_copy_is_reported),
                     T(a_copy_over_what_a_kernel_may_still_read_is_reported),
                     T(without_a_pool_a_plan_that_leaves_experts_homeless_is_refused));
}

#else

TEST(this_build_has_no_emulated_device)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulated_device)); }

#endif
