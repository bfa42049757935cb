/* selftest_table.h - the shapes that operations are tested with, on every backend: one row and many, odd sizes, all
 * weight formats, several sessions at different positions, rings that wrap, values that are zero, huge, tiny or tied,
 * the real shapes of V4 Flash. */
#ifndef DS4_TOOLS_SELFTEST_TABLE_H
#define DS4_TOOLS_SELFTEST_TABLE_H

#include "tools/selftest_cases.h"

#define OP_ALL_TYPES UINT32_MAX /* the case is repeated with every weight format that fits n_in */
#define OP_WEIGHT_TYPES 9

struct op_case_row {
    const char *op;
    op_case_fn fn;
    struct op_shape shape;
};
extern const struct op_case_row op_table[];
extern const size_t n_op_table;
extern const uint32_t op_weight_types[OP_WEIGHT_TYPES];

/* The i-th format of a row; false when there is none. */
bool op_row_variant(const struct op_case_row *row, size_t i, struct op_shape *shape);
/* The i-th repetition of a case; false when there is none. *name says which. */
bool op_variant(size_t case_i, size_t i, struct op_shape *shape, char *name, size_t name_size);
/* A case with fewer rows and outputs, for the emulator; sessions that would have none are left out. */
struct op_shape op_shape_smaller(struct op_shape s, const char *op);
/* Block formats need whole blocks. */
bool op_shape_fits(const struct op_shape *s);

#endif
