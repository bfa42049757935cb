/* test_emulator_faults.c - the emulator itself: kernels that break a rule must be reported, in every order of threads,
 * and kernels that keep them must not. Without this the other tests of kernels would prove little. */
#include <stdio.h>

#include "gpu/backend.h"
#include "lib/test.h"

#ifdef DS4_GPU_EMU
#include "gpu/emu/emu.h"
#include "gpu/kernels/records.h"

static const struct {
    const char *name, *report; /* NULL: nothing */
    unsigned n_groups, n_threads;
} samples[] = {
    {"divergent_simd", "simd operation in divergent control flow: 1 of 32", 1, 32},
    {"divergent_barrier", "barrier is not reached by all threads", 1, 64},
    {"two_barriers", "different barriers", 1, 64},
    {"unwritten_shared", "reads t byte 0, which nothing has written", 1, 32},
    {"race_of_lanes", "without a barrier between", 1, 32},
    {"lanes_with_barrier", NULL, 1, 32},
    {"race_of_simdgroups", "t byte", 1, 64},
    {"write_after_read", "without a barrier between", 1, 64},
    {"reads_again", NULL, 1, 32},
    {"race_of_groups", "which another threadgroup touches", 2, 32},
    {"group_reads_ahead", "which another threadgroup touches", 2, 32},
    {"groups_apart", NULL, 2, 32},
    {"shared_overrun", "outside of its arrays", 1, 32},
    {"too_much_shared", "36000 bytes of threadgroup memory; there are 32768", 1, 32},
    {"reads_past_end", "outside of everything bound; the nearest is parameter 1 of 1024 bytes, at byte 1024", 1, 32},
    {"writes_before_start", "writes 4 bytes outside of everything bound", 1, 32},
    {"misaligned", "misaligned", 1, 32},
    {"writes_through_cast", "writes read-only parameter 1", 1, 32},
    {"shuffles_too_far", "shuffles from lane 32", 1, 32},
    {"copies_structs", NULL, 1, 32},
    {"copies_struct_from_past_end", "outside of everything bound", 1, 32},
    {"tile_product", NULL, 1, 32},
    {"tile_product", "threadgroups of 48 threads", 1, 48},
};

/* What a kernel is given, with nothing beside it: just before and behind lies memory of no buffer. */
static struct {
    float before[64], x[256], between[64], y[64], behind[64];
} memory __attribute__((aligned(64)));
static float *const x = memory.x, *const y = memory.y;

static bool launch(size_t i, struct emu_report *report)
{
    struct elements_record record = {.n = 1};
    struct emu_binding bindings[3] = {{&record, sizeof record}, {x, sizeof memory.x}, {y, sizeof memory.y}};
    const unsigned grid[3] = {samples[i].n_groups, 1, 1};
    const struct emu_kernel *kernel = emu_find(samples[i].name);
    assert_non_null(kernel);
    return emu_launch(kernel, grid, samples[i].n_threads, bindings, 3, report);
}

TEST(a_broken_rule_is_reported_in_every_order_of_threads_and_a_kept_one_is_not)
{
    for (int order = 0; order < 3; order++) {
        struct emu_options options = {.order = (enum emu_order)order, .layout = (enum emu_layout)order, .seed = 5};
        emu_set_options(&options);
        for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
            struct emu_report report;
            bool clean = launch(i, &report);
            if (clean != (samples[i].report == NULL))
                fail_msg("%s, order %d: %s", samples[i].name, order, clean ? "nothing was reported" : report.first);
            if (!clean && !strstr(report.first, samples[i].report))
                fail_msg("%s, order %d: \"%s\" does not say \"%s\"", samples[i].name, order, report.first,
                         samples[i].report);
        }
    }
}

TEST(products_of_tiles_are_right_in_every_layout)
{
    for (size_t i = 0; i < 256; i++) x[i] = (float)i;
    for (int layout = 0; layout < 3; layout++) {
        struct emu_options options = {.layout = (enum emu_layout)layout};
        struct emu_report report;
        emu_set_options(&options);
        memset(y, 0, sizeof memory.y);
        assert_true(launch(sizeof samples / sizeof *samples - 2, &report));
        for (size_t i = 0; i < 64; i++) assert_true(y[i] == (float)(4 * i)); /* twice the product with 2 */
    }
}

/* Two dispatches between overlap(true) and overlap(false) run in any order: neither may write what both touch. */
TEST(dispatches_that_may_overlap_must_not_meet_in_memory)
{
    char why[64];
    for (int overlapping = 0; overlapping < 2; overlapping++) {
        struct gpu *g = gpu_host_emu.open(why, sizeof why);
        struct elements_record record = {.n = 1};
        struct gpu_buffer *a = gpu_host_emu.alloc(g, 1024), *b = gpu_host_emu.alloc(g, 256);
        const struct gpu_pipe *pipe = gpu_host_emu.pipe(g, "groups_apart");
        const struct gpu_ref there[2] = {{a, 0, 1024}, {b, 0, 256}}, back[2] = {{b, 0, 256}, {a, 0, 256}};
        const unsigned grid[3] = {2, 1, 1};
        if (overlapping) gpu_host_emu.overlap(g, true);
        assert_true(gpu_host_emu.dispatch(g, pipe, &record, sizeof record, there, 2, grid, 32));
        bool good = gpu_host_emu.dispatch(g, pipe, &record, sizeof record, back, 2, grid, 32);
        assert_int_equal(good, !overlapping);
        if (overlapping) assert_non_null(strstr(gpu_host_emu.error(g), "at the same time"));
        gpu_host_emu.free(g, a);
        gpu_host_emu.free(g, b);
        gpu_host_emu.close(g);
    }
}

/* groups_apart reads x[0] and writes y[0..63]. */
TEST(where_buffers_overlap_the_writable_one_counts)
{
    emu_overlap(false);
    for (size_t from = 0; from < 2; from++) { /* y begins at x[from] */
        struct elements_record record = {.n = 1};
        struct emu_binding bindings[3] = {
            {&record, sizeof record}, {x, sizeof memory.x}, {x + from, sizeof memory.x - from * sizeof *x}};
        const unsigned grid[3] = {2, 1, 1};
        struct emu_report report;
        bool clean = emu_launch(emu_find("groups_apart"), grid, 32, bindings, 3, &report);
        if (clean != (from == 1)) fail_msg("y at x[%zu]: %s", from, clean ? "nothing was reported" : report.first);
        if (!clean) assert_non_null(strstr(report.first, "a buffer's byte 0, which thread"));
    }
}

TEST(a_grid_that_a_device_would_refuse_is_reported)
{
    static const unsigned wrong[][3] = {{1, 65536, 1}, {1, 1, 65536}, {2147483648u, 1, 1}};
    struct elements_record record = {.n = 1};
    struct emu_binding bindings[3] = {{&record, sizeof record}, {x, sizeof memory.x}, {y, sizeof memory.y}};
    struct emu_report report;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(emu_launch(emu_find("lanes_with_barrier"), wrong[i], 32, bindings, 3, &report));
        assert_non_null(strstr(report.first, "a grid of "));
    }
}

int main(void)
{
    return RUN_TESTS(T(a_broken_rule_is_reported_in_every_order_of_threads_and_a_kept_one_is_not),
                     T(products_of_tiles_are_right_in_every_layout),
                     T(dispatches_that_may_overlap_must_not_meet_in_memory),
                     T(where_buffers_overlap_the_writable_one_counts),
                     T(a_grid_that_a_device_would_refuse_is_reported));
}

#else

TEST(this_build_has_no_emulator_to_test) { assert_null(gpu_choices()->ops); }
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_to_test)); }

#endif
