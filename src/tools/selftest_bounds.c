/* selftest_bounds.c - how far products on a GPU may be from the reference, by arithmetic. See selftest_cases.h. */
#include <math.h>
#include <string.h>

#include "quant/quant.h"
#include "tools/selftest_cases.h"

/* What rounding of the inputs can do to products with weights of a block format. Of 32 inputs the largest, M, becomes
 * the integer `most`, so each is wrong by 1/sqrt(12) of the step M/most in the root mean square, and by 2^-12 of itself
 * where integers exceed the 11 bits of a half. 32 such errors are sqrt(32/12)/most of a block whose length is M, the
 * worst there is: one large value among zeros. A product multiplies error and input alike. */
static double input_bound(double most)
{
    double step = sqrt(32.0 / 12) / most, half = most > 2048 ? 0x1p-12 : 0;
    return sqrt(step * step + half * half);
}

/* The largest integer that inputs become beside weights of these formats; 0: they stay as they are. */
static double input_most(const struct op_shape *s)
{
    static const struct {
        uint32_t type;
        double most;
    } known[] = {{QUANT_Q8_0, 2047},  {QUANT_IQ2_XXS, 4094}, {QUANT_Q2_K, 16376},
                 {QUANT_Q4_K, 16376}, {QUANT_Q6_K, 16376},   {QUANT_MXFP4, 16376}};
    double most = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        bool there = known[i].type == s->type || (s->type2 && known[i].type == s->type2);
        if (there && (most == 0 || known[i].most < most)) most = known[i].most;
    }
    return most;
}

/* The tolerances of selftest_cases.c for products are those of the CPU's kernels too. Those for float weights stay. The
 * product of two (gate and up) has the error of both. */
void op_tighten(struct op_run *ref, const char *op)
{
    const struct op_shape *s = ref->shape;
    double most = input_most(s), factor = strcmp(op, "moe_gate_up") == 0 ? sqrt(2) : 1;
    if (strcmp(op, "matmul") != 0 && strncmp(op, "moe_", 4) != 0) return;
    for (size_t i = 0; most > 0 && i < ref->n_outputs; i++)
        if (ref->outputs[i].tolerance > 2e-5)
            ref->outputs[i].tolerance = fmin(ref->outputs[i].tolerance,
                                             factor * op_chance((double)ref->outputs[i].row_n) * input_bound(most));
}
