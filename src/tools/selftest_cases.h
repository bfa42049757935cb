/* selftest_cases.h - a case function for each operation of ops.def: op_case_NAME. Which members of the shape it
 * reads is said where it is defined. */
#ifndef DS4_TOOLS_SELFTEST_CASES_H
#define DS4_TOOLS_SELFTEST_CASES_H

#include <math.h>

#include "tools/selftest_run.h"

#define OP(op_name) void op_case_##op_name(struct op_run *run, const struct op_shape *s);
#include "ops/ops.def"
#undef OP

/* The product of what an operation gives, n values a row, with a matrix of Q8_0, where the shape is fused. run: of the
 * rows at hand; y: their result. */
struct op_after {
    struct op_weight w;
    float *z; /* NULL: none */
};
struct op_after op_after_make(struct op_run *run, uint32_t n);
void op_after_run(struct op_run *run, const struct op_after *after, const float *y);
void op_after_output(struct op_run *run, const struct op_after *after);

/* Frequencies of the shape's rotated pairs, on the device; plain: without YaRN. */
float *op_frequencies(struct op_run *run, bool plain);

/* Error that a product with a matrix of this format may have, relative to the norm of the result: 1e-5 for float
 * formats, 1e-3 for others, where activations may be rounded to suit the format, and 1e-2 for 2-bit formats. */
double op_format_tolerance(uint32_t type);
/* Errors of n outputs, as good as normal: their root mean square is above this many times its expectation once in a
 * hundred thousand times (by the quantiles of chi squared: 4.4 for one output, 1.6 for 24, 1.3 for 100). Thousands of
 * rows are compared. */
static inline double op_chance(double n) { return 1 + 3.3 / sqrt(n); }
/* Where the GPU's kernels are nearer than that: their tolerances for the results of a run of the reference. */
void op_tighten(struct op_run *ref, const char *op);

#endif
