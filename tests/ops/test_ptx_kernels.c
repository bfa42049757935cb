/* test_ptx_kernels.c - every kernel as nvcc compiles it for CUDA, run by the interpreter of PTX (tests/gpu/ptx): all
 * operations and weight formats against the reference, in three orders of groups and warps; products of block formats
 * with the same bits alone, among many rows, in a layout of the device's own, however a matrix unit adds, and in the
 * emulator. What nvcc fuses and its fast exponential differ from the emulator in the last bits, and in nothing else
 * here: products of float formats, and what is computed with exp or long sums.
 *
 * Without nvcc there is no text of the kernels; the tests say so and are skipped. */
#include <stdio.h>

#include "gpu/backend.h"
#include "gpu/ptx/host.h"
#include "lib/gpu_trials.h"
#include "lib/op_backends.h"
#include "lib/test.h"
#include "quant/quant.h"

#define NEED_KERNELS() \
    do { \
        char why_[256]; \
        if (!ptx_are_there(why_, sizeof why_)) SKIP("%s", why_); \
    } while (0)

static enum ds4_status create_ptx(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                                  struct ds4_error *error)
{
    return backend_gpu_create(&gpu_host_ptx, pool, limits, out, error);
}
static const struct op_backend_entry compiled = {"ptx", create_ptx};

static bool is_block_format(uint32_t type)
{
    return type != QUANT_F32 && type != QUANT_F16 && type != QUANT_BF16;
}

static void same_bits_as(const struct op_trial *want, const struct ptx_options *options, size_t case_i,
                         const char *name, const struct op_shape *shape, const uint32_t *chunks, size_t n_chunks)
{
    struct op_trial got;
    ptx_set_options(options);
    op_trial_run(&got, &compiled, 0, name, op_table[case_i].fn, shape, chunks, n_chunks);
    op_compare_bits(&got, want, name);
    op_trial_free(&got);
}

/* With the reference, and a row alone or with one more, in another order of groups, with itself among all. */
static void compare(size_t case_i, size_t *n_compared, double *worst)
{
    static const uint32_t few[2] = {1, 2};
    char name[64], what[96];
    struct op_shape shape;
    for (size_t i = 0; op_variant(case_i, i, &shape, name, sizeof name); i++) {
        struct op_trial ref, run;
        if (!op_shape_fits(&shape) || shape.large) continue;
        if (op_table[case_i].shape.n_rows > 200) continue; /* many rows are many runs of the same kernels */
        shape = op_shape_smaller(shape, op_table[case_i].op);
        struct ptx_options options = {.order = (enum ptx_order)(*n_compared % 3), .seed = (uint32_t)case_i,
                                      .sums = (enum ptx_sums)(*n_compared / 3 % 2)};
        ptx_set_options(&options);
        (void)snprintf(what, sizeof what, "%s as compiled for CUDA, order %d", name, options.order);
        op_trial_run(&ref, &op_backends[0], 0, name, op_table[case_i].fn, &shape, NULL, 0);
        op_trial_run(&run, &compiled, 0, name, op_table[case_i].fn, &shape, NULL, 0);
        op_tighten(&ref.run, op_table[case_i].op);
        op_compare(&run, &ref, what, worst);
        options.order = (enum ptx_order)((*n_compared + 1) % 3);
        if (shape.n_rows > 1) same_bits_as(&run, &options, case_i, name, &shape, few, 2);
        op_trial_free(&run);
        op_trial_free(&ref);
        (*n_compared)++;
    }
}

TEST(every_operation_as_compiled_for_cuda_agrees_with_the_reference_alone_and_among_many)
{
    static const char *const op_names[] = {
#define OP(op_name) #op_name,
#include "ops/ops.def"
#undef OP
    };
    NEED_KERNELS();
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
    ptx_set_options(&(struct ptx_options){.order = PTX_FORWARD});
}

/* The cases that products are compared in with themselves: every block format with one of the operations. */
#define ROWS 18u /* enough for products in tiles, with a tail */
static bool product_case(size_t case_i, size_t i, struct op_shape *shape, char *name, size_t name_size)
{
    const struct op_case_row *row = &op_table[case_i];
    if (row->shape.type != OP_ALL_TYPES || row->shape.n_rows < 34 || row->shape.n_rows > 40) return false;
    if (strcmp(row->op, "matmul") != 0 && strncmp(row->op, "moe_", 4) != 0) return false;
    if (!op_variant(case_i, i, shape, name, name_size)) return false;
    shape->n_rows = ROWS;
    shape->n_in = 256;
    return true;
}

/* A matrix unit may add in any order and cut what lies below the 24 bits of the largest term: sums of a block are
 * integers below 2^23, so that nothing is cut. */
TEST(products_of_blocks_have_the_same_bits_alone_in_tiles_and_however_a_matrix_unit_adds)
{
    static const uint32_t batches[3][2] = {{1, ROWS - 1}, {ROWS - 1, 1}, {2, ROWS - 2}};
    static const struct ptx_options exact = {.order = PTX_FORWARD},
                                    chopped = {.order = PTX_REVERSE, .sums = PTX_SUMS_CHOPPED};
    NEED_KERNELS();
    size_t n_compared = 0;
    for (size_t case_i = 0; case_i < n_op_table; case_i++) {
        struct op_shape shape;
        char name[64];
        for (size_t i = 0; product_case(case_i, i, &shape, name, sizeof name); i++) {
            struct op_trial tiles;
            if (!is_block_format(shape.type) || (i + case_i) % 2) continue; /* every format with some operation */
            ptx_set_options(&exact);
            op_trial_run(&tiles, &compiled, 0, name, op_table[case_i].fn, &shape, NULL, 0);
            same_bits_as(&tiles, &chopped, case_i, name, &shape, NULL, 0);
            same_bits_as(&tiles, &chopped, case_i, name, &shape, batches[n_compared % 3], 2);
            op_trial_free(&tiles);
            n_compared++;
        }
    }
    ptx_set_options(&exact);
    assert_true(n_compared >= 9);
}

#ifdef DS4_GPU_EMU
static enum ds4_status create_emu(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                                  struct ds4_error *error)
{
    return backend_gpu_create(&gpu_host_emu, pool, limits, out, error);
}
static const struct op_backend_entry emulator = {"emu", create_emu};

/* Operations without exp and without long sums of floats, as the norm before some kv_store has. */
static bool is_exact(const char *op, const struct op_shape *shape)
{
    static const char *const names[] = {"embed", "add", "add_streams", "gather", "kv_store", "index_query",
                                        "index_select"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(op, names[i]) == 0) return !shape->fused || strcmp(op, "kv_store") != 0;
    return is_block_format(shape->type) && (strcmp(op, "matmul") == 0 || strcmp(op, "moe_down") == 0);
}

TEST(what_is_exact_has_the_bits_of_the_emulator)
{
    NEED_KERNELS();
    size_t n_compared = 0;
    for (size_t case_i = 0; case_i < n_op_table; case_i++) {
        struct op_shape shape;
        char name[64];
        for (size_t i = 0; op_variant(case_i, i, &shape, name, sizeof name); i++) {
            struct op_trial here, there;
            if (!op_shape_fits(&shape) || shape.large || op_table[case_i].shape.n_rows > 200) continue;
            if (!is_exact(op_table[case_i].op, &shape) || (shape.type2 && !is_block_format(shape.type2))) continue;
            shape = op_shape_smaller(shape, op_table[case_i].op);
            if (shape.n_rows > 5 && i % 3) continue; /* tiles take the emulator longest */
            op_trial_run(&here, &compiled, 0, name, op_table[case_i].fn, &shape, NULL, 0);
            op_trial_run(&there, &emulator, 0, name, op_table[case_i].fn, &shape, NULL, 0);
            op_compare_bits(&here, &there, name);
            op_trial_free(&there);
            op_trial_free(&here);
            n_compared++;
        }
    }
    assert_true(n_compared > 60);
}
#endif

/* A case with matrices that the device may lay out anew in memory of its own. */
static void packed_run(struct op_trial *trial, size_t case_i, const char *name, const struct op_shape *shape)
{
    struct op_home home;
    struct backend_limits limits = op_shape_limits(shape);
    memset(trial, 0, sizeof *trial);
    trial->run.packs = true;
    assert_true(op_room_make(&trial->room, 64u << 20));
    op_home_open(&home, &compiled, &limits, 0, 32u << 20);
    op_run_case(&trial->run, &home.dev, &trial->room, name, op_table[case_i].fn, shape, NULL, 0);
    op_home_close(&home);
    trial->run.dev = NULL;
}

static void count_packed(const char *kernel, uint64_t n, void *user)
{
    uint64_t *sum = user;
    if (strstr(kernel, "_packed")) *sum += n;
}

TEST(packed_weights_give_the_bits_of_the_files_layout_as_compiled_for_cuda)
{
    static const uint32_t rows[3] = {1, 3, ROWS};
    NEED_KERNELS();
    size_t n_compared = 0;
    for (size_t case_i = 0; case_i < n_op_table; case_i++) {
        struct op_shape shape;
        char name[64];
        for (size_t i = 0; product_case(case_i, i, &shape, name, sizeof name); i++) {
            if (shape.type == QUANT_Q4_K || !is_block_format(shape.type)) continue; /* none that is packed */
            for (size_t k = 0; k < 3; k++) {
                uint64_t before = 0, after = 0;
                struct op_trial file, packed;
                shape.n_rows = rows[k];
                shape.n_in = 2048; /* whole groups of every format */
                op_trial_run(&file, &compiled, 0, name, op_table[case_i].fn, &shape, NULL, 0);
                ptx_dispatched(count_packed, &before);
                packed_run(&packed, case_i, name, &shape);
                ptx_dispatched(count_packed, &after);
                assert_true(after > before);
                op_compare_bits(&packed, &file, name);
                op_trial_free(&packed);
                op_trial_free(&file);
                n_compared++;
            }
        }
    }
    assert_true(n_compared >= 15);
}

/* Gate and up in two formats are products apart. */
TEST(gate_and_up_in_two_formats_agree_with_the_reference_in_both_layouts)
{
    static const uint32_t pairs[][2] = {
        {QUANT_F32, QUANT_F16},   {QUANT_BF16, QUANT_F32},  {QUANT_Q8_0, QUANT_Q2_K}, {QUANT_Q4_K, QUANT_Q6_K},
        {QUANT_IQ2_XXS, QUANT_MXFP4},
    };
    NEED_KERNELS();
    size_t case_i = 0;
    double worst = 0;
    while (strcmp(op_table[case_i].op, "moe_gate_up") != 0) case_i++;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct op_shape shape;
        struct op_trial ref, file, packed;
        char name[64];
        (void)op_variant(case_i, 0, &shape, name, sizeof name);
        shape.type = pairs[i][0];
        shape.type2 = pairs[i][1];
        shape.n_rows = 3;
        shape.n_in = 2048;
        op_trial_run(&ref, &op_backends[0], 0, name, op_table[case_i].fn, &shape, NULL, 0);
        op_trial_run(&file, &compiled, 0, name, op_table[case_i].fn, &shape, NULL, 0);
        packed_run(&packed, case_i, name, &shape);
        op_compare(&file, &ref, name, &worst);
        op_compare(&packed, &ref, name, &worst);
        op_trial_free(&packed);
        op_trial_free(&file);
        op_trial_free(&ref);
    }
}

/* One row with matrices of Q8_0 and of F16. */
TEST(blocks_and_floats_in_one_kernel_agree_with_the_reference_in_both_layouts)
{
    NEED_KERNELS();
    size_t case_i = 0;
    double worst = 0;
    struct op_shape shape;
    struct op_trial ref, file, packed;
    char name[64];
    while (strcmp(op_table[case_i].op, "matmul") != 0 || op_table[case_i].shape.type2 != QUANT_F16) case_i++;
    (void)op_variant(case_i, 0, &shape, name, sizeof name);
    assert_int_equal(shape.type, QUANT_Q8_0);
    shape.n_rows = 1;
    op_trial_run(&ref, &op_backends[0], 0, name, op_table[case_i].fn, &shape, NULL, 0);
    op_trial_run(&file, &compiled, 0, name, op_table[case_i].fn, &shape, NULL, 0);
    packed_run(&packed, case_i, name, &shape);
    op_compare(&file, &ref, name, &worst);
    op_compare_bits(&packed, &file, name);
    op_trial_free(&packed);
    op_trial_free(&file);
    op_trial_free(&ref);
}

static void find_kernel(const char *kernel, uint64_t n, void *user)
{
    const char **wanted = user;
    if (n > 0 && *wanted && strcmp(kernel, *wanted) == 0) *wanted = NULL;
}

/* Run by programs of the pretend CUDA runtime (tests/ptx): test_gpu_made_up and test_fused. */
static const char *const elsewhere[] = {"generate", "hc_enter"};

/* With choices of tokens, experts in a pool, and what the tests before it ran. */
TEST(every_kernel_of_the_text_is_run_by_these_tests)
{
    uint32_t ids[8], n_missing = 0;
    char why[256];
    NEED_KERNELS();
    const struct ptx_module *module = ptx_kernels(why, sizeof why);
    assert_non_null(module);
    gpu_trial_choices(&gpu_host_ptx, 8, ids);
    gpu_trial_pool(&gpu_host_ptx);
    gpu_trial_copy(&gpu_host_ptx);
    for (size_t i = 0; ptx_kernel_at(module, i); i++) {
        const char *name = ptx_kernel_name(ptx_kernel_at(module, i)), *missing = name;
        ptx_dispatched(find_kernel, &missing);
        for (size_t k = 0; missing && k < sizeof elsewhere / sizeof *elsewhere; k++)
            if (strcmp(name, elsewhere[k]) == 0) missing = NULL;
        if (missing) print_message("%s is not run\n", name);
        n_missing += missing != NULL;
    }
    assert_int_equal(n_missing, 0);
}

/* What the others run stops where a kernel touches memory ahead of its wait. */
TEST(every_kernel_waits_for_the_one_before_it)
{
    char why[256];
    NEED_KERNELS();
    const struct ptx_module *module = ptx_kernels(why, sizeof why);
    assert_non_null(module);
    for (size_t i = 0; ptx_kernel_at(module, i); i++)
        if (!ptx_waits(ptx_kernel_at(module, i))) fail_msg("%s does not", ptx_kernel_name(ptx_kernel_at(module, i)));
    assert_non_null(ptx_kernel_at(module, 100));
}

int main(void)
{
    return RUN_TESTS(T(every_operation_as_compiled_for_cuda_agrees_with_the_reference_alone_and_among_many),
                     T(products_of_blocks_have_the_same_bits_alone_in_tiles_and_however_a_matrix_unit_adds),
#ifdef DS4_GPU_EMU
                     T(what_is_exact_has_the_bits_of_the_emulator),
#endif
                     T(packed_weights_give_the_bits_of_the_files_layout_as_compiled_for_cuda),
                     T(gate_and_up_in_two_formats_agree_with_the_reference_in_both_layouts),
                     T(blocks_and_floats_in_one_kernel_agree_with_the_reference_in_both_layouts),
                     T(every_kernel_waits_for_the_one_before_it),
                     T(every_kernel_of_the_text_is_run_by_these_tests));
}
