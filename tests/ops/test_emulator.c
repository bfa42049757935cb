/* test_emulator.c - the kernels of the GPU backend in the emulator, against the reference: every operation, every
 * weight format, the shapes of tools/selftest_table.c with fewer rows, threads in three orders with three layouts of
 * tiles. The emulator reports what no comparison would find: races, accesses outside of what was bound, divergence.
 *
 * A build without the emulator (no C++ compiler, thread sanitizer) says so. */
#include <stdio.h>

#include "gpu/backend.h"
#include "lib/op_backends.h"
#include "lib/test.h"
#include "quant/quant.h"

#ifdef DS4_GPU_EMU
#include "gpu/emu/emu.h"

#define ROWS_TILED 18u /* enough for products in tiles, with a tail */

static enum ds4_status create_emu(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                                  struct ds4_error *error)
{
    return backend_gpu_create(&gpu_host_emu, pool, limits, out, error);
}
static const struct op_backend_entry emulator = {"emu", create_emu};

static void compare(size_t case_i, size_t *n_compared, double *worst)
{
    char name[64], what[96];
    struct op_shape shape;
    for (size_t i = 0; op_variant(case_i, i, &shape, name, sizeof name); i++) {
        struct op_trial ref, run;
        if (!op_shape_fits(&shape) || shape.large) continue;
        if (op_table[case_i].shape.n_rows > 200) continue; /* many rows are many runs of the same kernels */
        shape = op_shape_smaller(shape, op_table[case_i].op);
        struct emu_options options = {.order = (enum emu_order)(*n_compared % 3),
                                      .layout = (enum emu_layout)(*n_compared / 3 % 3), .seed = (uint32_t)case_i};
        emu_set_options(&options);
        (void)snprintf(what, sizeof what, "%s on the emulator, order %d", name, options.order);
        op_trial_run(&ref, &op_backends[0], 0, name, op_table[case_i].fn, &shape, NULL, 0);
        op_trial_run(&run, &emulator, 0, name, op_table[case_i].fn, &shape, NULL, 0);
        op_tighten(&ref.run, op_table[case_i].op);
        op_compare(&run, &ref, what, worst);
        op_trial_free(&run);
        op_trial_free(&ref);
        (*n_compared)++;
    }
}

TEST(every_kernel_agrees_with_the_reference_in_every_order_of_threads)
{
    static const char *const op_names[] = {
#define OP(op_name) #op_name,
#include "ops/ops.def"
#undef OP
    };
    size_t n_compared = 0;
    for (size_t op = 0; op < sizeof op_names / sizeof *op_names; op++) {
        size_t before = n_compared;
        double worst = 0;
        for (size_t i = 0; i < n_op_table; i++)
            if (strcmp(op_table[i].op, op_names[op]) == 0) compare(i, &n_compared, &worst);
        if (n_compared == before) fail_msg("no case for operation %s", op_names[op]);
        print_message("%-12s %3zu comparisons, worst row %.3f of its tolerance\n", op_names[op], n_compared - before,
                      worst);
    }
}

/* Rows by tiles, then the last one alone, or the first two by the kernels for few rows. */
TEST(products_in_tiles_have_the_bits_of_those_of_few_rows)
{
    static const uint32_t batches[2][2] = {{ROWS_TILED - 1, 1}, {2, ROWS_TILED - 2}};
    size_t n_compared = 0;
    for (size_t case_i = 0; case_i < n_op_table; case_i++) {
        const struct op_case_row *row = &op_table[case_i];
        struct op_shape shape;
        char name[64];
        if (row->shape.type != OP_ALL_TYPES || row->shape.n_rows < 34 || row->shape.n_rows > 40) continue;
        if (strcmp(row->op, "matmul") != 0 && strncmp(row->op, "moe_", 4) != 0) continue;
        for (size_t i = 0; op_variant(case_i, i, &shape, name, sizeof name); i++) {
            struct op_trial tiles, few;
            if (shape.type == QUANT_F32 || shape.type == QUANT_F16 || shape.type == QUANT_BF16) continue;
            if ((i + case_i) % 2) continue; /* every format with some operation */
            shape.n_rows = ROWS_TILED;
            shape.n_in = 256;
            op_trial_run(&tiles, &emulator, 0, name, row->fn, &shape, NULL, 0);
            op_trial_run(&few, &emulator, 0, name, row->fn, &shape, batches[n_compared % 2], 2);
            op_compare_bits(&few, &tiles, name);
            op_trial_free(&few);
            op_trial_free(&tiles);
            n_compared++;
        }
    }
    assert_true(n_compared >= 9);
}

int main(void)
{
    return RUN_TESTS(T(every_kernel_agrees_with_the_reference_in_every_order_of_threads),
                     T(products_in_tiles_have_the_bits_of_those_of_few_rows));
}

#else

TEST(this_build_has_no_emulator_and_says_so)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_and_says_so)); }

#endif
