/* selftest_cases.h - a case function for each operation of ops.def: op_case_NAME. Which members of the shape it
 * reads is said where it is defined. */
#ifndef DS4_TOOLS_SELFTEST_CASES_H
#define DS4_TOOLS_SELFTEST_CASES_H

#include "tools/selftest_run.h"

#define OP(op_name) void op_case_##op_name(struct op_run *run, const struct op_shape *s);
#include "ops/ops.def"
#undef OP

/* Error that a product with a matrix of this format may have, relative to the norm of the result: 1e-5 for float
 * formats, 1e-3 for others, where activations may be rounded to suit the format, and 1e-2 for 2-bit formats. */
double op_format_tolerance(uint32_t type);

#endif
