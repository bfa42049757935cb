/* test_metal_host.c - the Metal host file on Linux: every operation through it and the pretend Metal of
 * tests/gpu/pretend, which runs dispatches in the emulator, takes every list as concurrent and aborts on calls that
 * Metal would refuse. What is tested is the host file (bindings, barriers, residency, lifetimes), not Apple's compiler.
 *
 * Where clang cannot build Objective-C for the GNU runtime the program says so. */
#include <stdio.h>

#include "gpu/backend.h"
#include "lib/op_table.h"
#include "lib/test.h"

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

TEST(every_operation_agrees_with_the_reference_through_the_metal_host)
{
    size_t n_compared = 0;
    for (size_t i = 0; i < n_op_table; i++) {
        struct op_shape shape;
        char name[64];
        double worst = 0;
        if (i > 0 && op_table[i].fn == op_table[i - 1].fn && i % 5) continue; /* a few shapes of each operation */
        (void)op_variant(i, i % 2 ? 3 : 0, &shape, name, sizeof name);
        if (shape.large || shape.n_rows > 200 || !op_shape_fits(&shape)) continue;
        struct op_run ref, run;
        if (shape.n_rows > 3) shape.n_rows = 3;
        if (shape.n_seqs > shape.n_rows) shape.n_seqs = shape.n_rows;
        op_run_case(&ref, &op_backends[0], 0, name, op_table[i].fn, &shape, NULL, 0);
        op_run_case(&run, &metal, 0, name, op_table[i].fn, &shape, NULL, 0);
        op_compare(&run, &ref, name, &worst);
        op_run_free(&run);
        op_run_free(&ref);
        n_compared++;
    }
    print_message("%zu comparisons, %u dispatches\n", n_compared, bridge_n_launches());
    assert_true(n_compared >= 20);
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
    const struct { uint32_t n, n_hc, n_embd; float limit; } record = {.n = 64};
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
                     T(nothing_is_left_of_metals_objects_after_a_backend_is_destroyed),
                     T(a_missing_barrier_between_dispatches_is_reported));
}

#else

TEST(this_build_cannot_make_the_pretend_metal) { print_message("no clang with Objective-C, or no emulator\n"); }
int main(void) { return RUN_TESTS(T(this_build_cannot_make_the_pretend_metal)); }

#endif
