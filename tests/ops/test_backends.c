/* test_backends.c - every backend of the list against the reference, for every operation of ops.def, in many shapes:
 * one row and many, odd sizes, all weight formats, several sessions at different positions, rings that wrap, values
 * that are zero, huge, tiny or tied, the real shapes of V4 Flash. And for every backend: a row's result has the same
 * bits alone, in any batch and with any number of threads.
 *
 * Tolerances, relative to the norm of a row of the result: 5e-6 for float32 arithmetic, 1e-5 where exponentials are
 * involved, 2e-5 for attention; products with weights as op_format_tolerance says, sqrt(2) of that for the product of
 * two; none for copies, sums of two numbers, stored rows and index queries. Rows that are rounded after arithmetic may
 * differ by a step in 2% of the values. A backend is added by its line in tests/lib/op_backends.c. */
#include <stdio.h>

#include "lib/op_backends.h"
#include "lib/test.h"
#include "quant/quant.h"

static const char *const op_names[] = {
#define OP(op_name) #op_name,
#include "ops/ops.def"
#undef OP
};
#define N_OPS (sizeof op_names / sizeof *op_names)

/* Largest error relative to its tolerance, of an operation and of all its runs with one weight format. */
struct margins {
    double all, by_type[OP_WEIGHT_TYPES];
};

static void note_margin(struct margins *margins, uint32_t type, double worst)
{
    if (worst > margins->all) margins->all = worst;
    for (size_t i = 0; i < OP_WEIGHT_TYPES; i++)
        if (op_weight_types[i] == type && worst > margins->by_type[i]) margins->by_type[i] = worst;
}

static void compare_case(size_t case_i, struct margins *margins)
{
    char name[64], what[96];
    struct op_shape shape;
    for (size_t i = 0; op_variant(case_i, i, &shape, name, sizeof name); i++) {
        if (!op_shape_fits(&shape) || shape.timed) continue;
        struct op_trial ref, run;
        double worst = 0;
        op_trial_run(&ref, &op_backends[0], 2, name, op_table[case_i].fn, &shape, NULL, 0);
        op_compare(&ref, &ref, name, &worst); /* shows that what it gives is finite and well chosen */
        for (size_t b = 1; b < n_op_backends; b++) {
            (void)snprintf(what, sizeof what, "%s on %s", name, op_backends[b].name);
            op_trial_run(&run, &op_backends[b], 2, name, op_table[case_i].fn, &shape, NULL, 0);
            op_compare(&run, &ref, what, &worst);
            op_trial_free(&run);
        }
        note_margin(margins, shape.type, worst);
        op_trial_free(&ref);
    }
}

TEST(every_backend_agrees_with_the_reference_on_every_operation_and_shape)
{
    for (size_t op = 0; op < N_OPS; op++) {
        struct margins margins = {0};
        size_t n_cases = 0;
        for (size_t i = 0; i < n_op_table; i++) {
            if (strcmp(op_table[i].op, op_names[op]) != 0) continue;
            compare_case(i, &margins);
            n_cases++;
        }
        if (n_cases == 0) fail_msg("no case for operation %s", op_names[op]);
        print_message("%-12s %2zu cases, worst row %.3f of its tolerance\n", op_names[op], n_cases, margins.all);
        for (size_t i = 0; i < OP_WEIGHT_TYPES; i++)
            if (margins.by_type[i] > 0)
                print_message("    %-8s %.3f\n", quant_format(op_weight_types[i])->name, margins.by_type[i]);
    }
}

TEST(every_weight_format_that_can_be_multiplied_is_compared)
{
    for (size_t i = 0; quant_format_at(i); i++) {
        bool listed = false;
        for (size_t k = 0; k < OP_WEIGHT_TYPES; k++) listed |= op_weight_types[k] == quant_format_at(i)->id;
        if (listed != quant_format_at(i)->weight) fail_msg("%s is not in the list", quant_format_at(i)->name);
    }
}

/* Sizes of batches, in turn: alone, 2 to 9, 33, mixed. Rows that are not a multiple end in a shorter batch. */
static const struct {
    uint32_t sizes[4];
    size_t n;
    uint32_t n_threads;
} batchings[] = {
    {{1}, 1, 1}, {{2}, 1, 2}, {{3}, 1, 3}, {{4}, 1, 1}, {{5}, 1, 2}, {{6}, 1, 3}, {{7}, 1, 1}, {{8}, 1, 2},
    {{9}, 1, 3}, {{33}, 1, 2}, {{5, 1, 9, 2}, 4, 2}, {{1}, 1, 3}, {{40}, 1, 1}, {{197}, 1, 3},
};

static void check_invariance(size_t case_i, size_t backend_i)
{
    char name[64], what[128];
    struct op_shape shape;
    const struct op_backend_entry *entry = &op_backends[backend_i];
    for (size_t i = 0; op_variant(case_i, i, &shape, name, sizeof name); i++) {
        if (!op_shape_fits(&shape) || shape.large || shape.n_rows < 9) continue;
        struct op_trial whole, run;
        op_trial_run(&whole, entry, 2, name, op_table[case_i].fn, &shape, NULL, 0);
        size_t step = backend_i == 0 ? 5 : backend_i == 1 ? 1 : 3; /* most of them where there is most to go wrong */
#if defined(__SANITIZE_THREAD__)
        step *= 3;
#endif
        for (size_t k = 0; k < sizeof batchings / sizeof *batchings; k += step) {
            (void)snprintf(what, sizeof what, "%s on %s, batches of %u, %u threads", name, entry->name,
                           batchings[k].sizes[0], batchings[k].n_threads);
            op_trial_run(&run, entry, batchings[k].n_threads, name, op_table[case_i].fn, &shape, batchings[k].sizes,
                        batchings[k].n);
            op_compare_bits(&run, &whole, what);
            op_trial_free(&run);
        }
        op_trial_free(&whole);
    }
}

TEST(a_row_has_the_same_bits_in_every_batch_and_with_any_number_of_threads)
{
    for (size_t b = 0; b < n_op_backends; b++)
        for (size_t i = 0; i < n_op_table; i++) check_invariance(i, b);
}

int main(void)
{
    return RUN_TESTS(T(every_weight_format_that_can_be_multiplied_is_compared),
                     T(every_backend_agrees_with_the_reference_on_every_operation_and_shape),
                     T(a_row_has_the_same_bits_in_every_batch_and_with_any_number_of_threads));
}
