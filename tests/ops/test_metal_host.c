/* test_metal_host.c - the Metal host file on Linux: every operation through it and the pretend Metal of
 * tests/gpu/pretend, which runs dispatches in the emulator, takes every list as concurrent and aborts on calls that
 * Metal would refuse. What is tested is the host file (bindings, barriers, residency, lifetimes), not Apple's compiler.
 *
 * Where clang cannot build Objective-C for the GNU runtime the program says so. */
#include "gpu/backend.h"
#include "gpu/kernels/records.h"
#include "lib/gpu_trials.h"
#include "lib/test.h"

#ifdef DS4_PRETEND_METAL
#include "../gpu/pretend/bridge.h"

extern int pretend_n_objects;

/* The GNU runtime keeps some of what it allocates while it loads classes, before main. Our objects are counted. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:objc_malloc\n"; }

TEST(every_operation_agrees_with_the_reference_through_the_metal_host)
{
    size_t n_compared = gpu_trial_operations(&gpu_host_metal);
    print_message("%zu comparisons, %u dispatches\n", n_compared, bridge_n_launches());
    assert_true(n_compared >= 20);
}

TEST(the_kernels_for_many_rows_go_through_the_metal_host)
{
    gpu_trial_many_rows(&gpu_host_metal);
    assert_null(bridge_error());
}

TEST(experts_in_a_pool_are_used_where_they_lie_through_the_metal_host)
{
    gpu_trial_pool(&gpu_host_metal);
    assert_null(bridge_error());
}

TEST(lists_are_given_through_the_metal_host_before_the_ones_in_front_are_done)
{
    uint32_t metal_ids[20], emu_ids[20];
    gpu_trial_choices(&gpu_host_metal, 20, metal_ids);
    gpu_trial_choices(&gpu_host_emu, 20, emu_ids);
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
    struct gpu_buffer *a = gpu_host_metal.alloc(g, 256), *b = gpu_host_metal.alloc(g, 256);
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
