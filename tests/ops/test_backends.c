/* test_backends.c - every backend of the list against the reference, for every operation of ops.def, in many shapes:
 * one row and many, odd sizes, all weight formats, several sessions at different positions, rings that wrap, values
 * that are zero, huge, tiny or tied, the real shapes of V4 Flash. And for every backend: a row's result has the same
 * bits alone, in any batch and with any number of threads.
 *
 * Tolerances, relative to the norm of a row of the result: 5e-6 for float32 arithmetic, 1e-5 where exponentials are
 * involved, 2e-5 for attention; products with weights as op_format_tolerance says, three times that for the product of
 * two; none for copies, sums of two numbers, stored rows and index queries. Rows that are rounded after arithmetic may
 * differ by a step in 2% of the values. A backend is added by its line in tests/lib/op_backends.c. */
#include <stdio.h>

#include "lib/op_cases.h"
#include "lib/test.h"
#include "quant/quant.h"

#define ALL_TYPES UINT32_MAX /* the case is repeated with every weight format that fits n_in */

struct case_row {
    const char *op;
    op_case_fn fn;
    struct op_shape shape;
};
#define CASE(op_name, ...) {#op_name, op_case_##op_name, {__VA_ARGS__}}

/* Members that say what a shape is about come first; defaults are written out by the macros. */
#define CSA(...) .ratio = 4, .rows_per_span = 5, __VA_ARGS__
#define PACKED .format = OP_ROW_PACKED, .round = true
#define FLOATS .format = OP_ROW_F32

static const struct case_row cases[] = {
    CASE(embed, .n_rows = 40, .n_hc = 4, .n_embd = 256, .n_out = 50, .type = ALL_TYPES),
    CASE(embed, .n_rows = 1, .n_hc = 1, .n_embd = 96, .n_out = 3, .type = QUANT_Q8_0),
    CASE(embed, .n_rows = 3, .n_hc = 4, .n_embd = 4096, .n_out = 100, .type = QUANT_F16, .large = true),

    CASE(hc_mix, .n_rows = 40, .n_hc = 4, .n_embd = 256, .type = QUANT_F32),
    CASE(hc_mix, .n_rows = 37, .n_hc = 4, .n_embd = 72, .type = QUANT_F16, .skew = 4),
    CASE(hc_mix, .n_rows = 9, .n_hc = 2, .n_embd = 40, .type = QUANT_F16),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 256, .type = QUANT_F16, .fill = FILL_ZERO),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 256, .type = QUANT_F16, .fill = FILL_HUGE),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 256, .type = QUANT_F16, .fill = FILL_TINY),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 256, .type = QUANT_F16, .fill = FILL_SPIKES),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 4096, .type = QUANT_F16, .large = true),
    CASE(hc_head, .n_rows = 40, .n_hc = 4, .n_embd = 256, .type = QUANT_F32),
    CASE(hc_head, .n_rows = 11, .n_hc = 4, .n_embd = 72, .type = QUANT_F16, .fill = FILL_STAIRS),
    CASE(hc_head, .n_rows = 3, .n_hc = 4, .n_embd = 4096, .type = QUANT_F16, .large = true),
    CASE(hc_reduce, .n_rows = 40, .n_hc = 4, .n_embd = 256),
    CASE(hc_reduce, .n_rows = 13, .n_hc = 4, .n_embd = 37, .plain = true, .skew = 4),
    CASE(hc_reduce, .n_rows = 5, .n_hc = 3, .n_embd = 65, .fill = FILL_ZERO),
    CASE(hc_reduce, .n_rows = 5, .n_hc = 4, .n_embd = 256, .fill = FILL_HUGE),
    CASE(hc_reduce, .n_rows = 5, .n_hc = 4, .n_embd = 256, .fill = FILL_TINY),
    CASE(hc_reduce, .n_rows = 3, .n_hc = 4, .n_embd = 4096, .large = true),
    CASE(hc_expand, .n_rows = 40, .n_hc = 4, .n_embd = 256),
    CASE(hc_expand, .n_rows = 13, .n_hc = 4, .n_embd = 37, .skew = 4),
    CASE(hc_expand, .n_rows = 5, .n_hc = 3, .n_embd = 65, .fill = FILL_STAIRS),
    CASE(hc_expand, .n_rows = 3, .n_hc = 4, .n_embd = 4096, .large = true),

    CASE(rms_norm, .n_rows = 40, .n_in = 256),
    CASE(rms_norm, .n_rows = 17, .n_in = 33, .plain = true, .is_index = true, .skew = 4),
    CASE(rms_norm, .n_rows = 9, .n_in = 1),
    CASE(rms_norm, .n_rows = 9, .n_in = 100, .fill = FILL_ZERO),
    CASE(rms_norm, .n_rows = 9, .n_in = 100, .fill = FILL_HUGE),
    CASE(rms_norm, .n_rows = 9, .n_in = 100, .fill = FILL_TINY),
    CASE(rms_norm, .n_rows = 9, .n_in = 1024, .fill = FILL_SPIKES),
    CASE(rms_norm, .n_rows = 64, .n_in = 512, .plain = true, .large = true),
    CASE(rope, .n_rows = 40, .n_heads = 3, .dim = 192, .n_rope = 64),
    CASE(rope, .n_rows = 21, .n_heads = 1, .dim = 70, .n_rope = 6, .inverse = true, .skew = 4),
    CASE(rope, .n_rows = 40, .n_heads = 1, .dim = 64, .n_rope = 64, .start = 900000, .plain = true),
    CASE(rope, .n_rows = 5, .n_heads = 64, .dim = 512, .n_rope = 64, .start = 1048570, .large = true),

    CASE(matmul, .n_rows = 1, .n_in = 256, .n_out = 1, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES),
    CASE(matmul, .n_rows = 40, .n_in = 512, .n_out = 37, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES),
    CASE(matmul, .n_rows = 11, .n_in = 288, .n_out = 65, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES, .skew = 4),
    CASE(matmul, .n_rows = 9, .n_in = 768, .n_out = 24, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES,
         .fill = FILL_SPIKES),
    CASE(matmul, .n_rows = 9, .n_in = 768, .n_out = 24, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES,
         .fill = FILL_STAIRS),
    CASE(matmul, .n_rows = 3, .n_in = 256, .n_out = 16, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES,
         .fill = FILL_ZERO),
    CASE(matmul, .n_rows = 3, .n_in = 256, .n_out = 16, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES,
         .fill = FILL_HUGE),
    CASE(matmul, .n_rows = 3, .n_in = 256, .n_out = 16, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES,
         .fill = FILL_TINY),
    CASE(matmul, .n_rows = 205, .n_in = 256, .n_out = 50, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES),
    CASE(matmul, .n_rows = 5, .n_in = 7, .n_out = 3, .n_groups = 1, .n_outputs = 1, .type = QUANT_F32),
    CASE(matmul, .n_rows = 12, .n_in = 71, .n_out = 33, .n_groups = 1, .n_outputs = 1, .type = QUANT_F16),
    CASE(matmul, .n_rows = 35, .n_in = 256, .n_out = 96, .n_groups = 1, .n_outputs = 3, .type = QUANT_Q8_0,
         .type2 = QUANT_F16),
    CASE(matmul, .n_rows = 10, .n_in = 256, .n_out = 60, .n_groups = 1, .n_outputs = 4, .type = QUANT_Q8_0,
         .type2 = QUANT_Q8_0),
    CASE(matmul, .n_rows = 34, .n_in = 256, .n_out = 96, .n_groups = 2, .n_outputs = 1, .type = ALL_TYPES),
    CASE(matmul, .n_rows = 10, .n_in = 96, .n_out = 24, .n_groups = 8, .n_outputs = 1, .type = QUANT_Q8_0),
    CASE(matmul, .n_rows = 9, .n_in = 4096, .n_out = 128, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES,
         .large = true),
    CASE(matmul, .n_rows = 2, .n_in = 4096, .n_out = 1024, .n_groups = 1, .n_outputs = 2, .type = QUANT_Q8_0,
         .type2 = QUANT_Q8_0, .large = true),
    CASE(matmul, .n_rows = 2, .n_in = 4096, .n_out = 1024, .n_groups = 8, .n_outputs = 1, .type = QUANT_Q8_0,
         .large = true),
    CASE(matmul, .n_rows = 40, .n_in = 1024, .n_out = 512, .n_groups = 1, .n_outputs = 1, .type = QUANT_Q8_0,
         .large = true),

    CASE(kv_store, .n_rows = 40, .dim = 192, .n_rope = 64, .window = 1, .n_slots = 33, .n_seqs = 3, .start = 17,
         PACKED),
    CASE(kv_store, .n_rows = 40, .dim = 192, .n_rope = 64, .window = 1, .n_slots = 41, .n_seqs = 1, .start = 30,
         .round = true, FLOATS),
    CASE(kv_store, .n_rows = 9, .dim = 192, .n_rope = 64, .window = 1, .n_slots = 20, .n_seqs = 2, FLOATS),
    CASE(kv_store, .n_rows = 9, .dim = 128, .n_rope = 0, .window = 1, .n_slots = 20, .n_seqs = 2, PACKED),
    CASE(kv_store, .n_rows = 9, .dim = 192, .n_rope = 64, .window = 1, .n_slots = 20, .n_seqs = 2, .fill = FILL_ZERO,
         PACKED),
    CASE(kv_store, .n_rows = 9, .dim = 192, .n_rope = 64, .window = 1, .n_slots = 20, .n_seqs = 2, .fill = FILL_HUGE,
         PACKED),
    CASE(kv_store, .n_rows = 9, .dim = 192, .n_rope = 64, .window = 1, .n_slots = 20, .n_seqs = 2, .fill = FILL_TINY,
         PACKED),
    CASE(kv_store, .n_rows = 9, .dim = 192, .n_rope = 64, .window = 1, .n_slots = 20, .n_seqs = 2,
         .fill = FILL_SPIKES, PACKED),
    CASE(kv_store, .n_rows = 9, .dim = 192, .n_rope = 64, .window = 1, .n_slots = 20, .n_seqs = 9,
         .fill = FILL_INTEGERS, PACKED, .skew = 4),
    CASE(kv_store, .n_rows = 20, .dim = 512, .n_rope = 64, .window = 1, .n_slots = 128, .n_seqs = 2, .start = 120,
         PACKED, .large = true),

    CASE(compress, .n_rows = 40, .dim = 192, .n_out = 384, .n_rope = 64, .n_slots = 8, .n_seqs = 2, CSA(PACKED)),
    CASE(compress, .n_rows = 40, .dim = 192, .n_out = 384, .n_rope = 64, .n_slots = 13, .n_seqs = 3, .start = 50,
         CSA(FLOATS)),
    CASE(compress, .n_rows = 40, .dim = 192, .n_out = 384, .n_rope = 64, .n_slots = 12, .n_seqs = 1, .start = 1,
         .round = true, CSA(FLOATS)),
    CASE(compress, .n_rows = 40, .dim = 128, .n_out = 256, .n_rope = 64, .n_slots = 12, .n_seqs = 2, .start = 3,
         .is_index = true, CSA(PACKED)),
    CASE(compress, .n_rows = 40, .dim = 128, .n_out = 256, .n_rope = 64, .n_slots = 12, .n_seqs = 2, .start = 3,
         .is_index = true, CSA(FLOATS)),
    CASE(compress, .n_rows = 40, .dim = 192, .n_out = 192, .n_rope = 64, .ratio = 128, .rows_per_span = 2,
         .n_slots = 131, .n_seqs = 2, .start = 110, PACKED),
    CASE(compress, .n_rows = 40, .dim = 192, .n_out = 192, .n_rope = 64, .ratio = 128, .rows_per_span = 2,
         .n_slots = 128, .n_seqs = 1, .start = 350, FLOATS),
    CASE(compress, .n_rows = 9, .dim = 192, .n_out = 384, .n_rope = 64, .n_slots = 8, .n_seqs = 1, .start = 4,
         .fill = FILL_ZERO, CSA(PACKED)),
    CASE(compress, .n_rows = 9, .dim = 192, .n_out = 384, .n_rope = 64, .n_slots = 8, .n_seqs = 1, .start = 4,
         .fill = FILL_HUGE, CSA(FLOATS)),
    CASE(compress, .n_rows = 9, .dim = 192, .n_out = 384, .n_rope = 64, .n_slots = 8, .n_seqs = 1, .start = 4,
         .fill = FILL_SPIKES, CSA(FLOATS)),
    CASE(compress, .n_rows = 9, .dim = 512, .n_out = 1024, .n_rope = 64, .n_slots = 12, .n_seqs = 2, .start = 65500,
         .ratio = 4, .rows_per_span = 4096, PACKED, .large = true),
    CASE(compress, .n_rows = 3, .dim = 512, .n_out = 512, .n_rope = 64, .n_slots = 128, .n_seqs = 1, .start = 126,
         .ratio = 128, .rows_per_span = 4, PACKED, .large = true),

    CASE(index_query, .n_rows = 40, .n_heads = 4, .dim = 128, .round = true),
    CASE(index_query, .n_rows = 40, .n_heads = 1, .dim = 128, .round = false, .skew = 4),
    CASE(index_query, .n_rows = 9, .n_heads = 3, .dim = 64, .round = true, .fill = FILL_INTEGERS),
    CASE(index_query, .n_rows = 9, .n_heads = 3, .dim = 32, .round = true, .fill = FILL_ZERO),
    CASE(index_query, .n_rows = 9, .n_heads = 3, .dim = 128, .round = true, .fill = FILL_HUGE),
    CASE(index_query, .n_rows = 9, .n_heads = 3, .dim = 128, .round = true, .fill = FILL_TINY),
    CASE(index_query, .n_rows = 9, .n_heads = 64, .dim = 128, .round = true, .large = true),
    CASE(index_select, .n_rows = 40, .n_heads = 4, .dim = 128, .top_k = 8, .n_seqs = 3, .start = 20, .is_index = true,
         CSA(PACKED)),
    CASE(index_select, .n_rows = 40, .n_heads = 4, .dim = 128, .top_k = 8, .n_seqs = 2, .start = 500, .is_index = true,
         CSA(PACKED)),
    CASE(index_select, .n_rows = 40, .n_heads = 2, .dim = 128, .top_k = 30, .n_seqs = 2, .start = 300,
         .is_index = true, .fill = FILL_INTEGERS, CSA(PACKED)),
    CASE(index_select, .n_rows = 9, .n_heads = 1, .dim = 64, .top_k = 7, .n_seqs = 1, .start = 100, .is_index = true,
         .fill = FILL_ZERO, CSA(PACKED)),
    CASE(index_select, .n_rows = 9, .n_heads = 5, .dim = 96, .top_k = 1, .n_seqs = 1, .start = 400, .is_index = true,
         CSA(FLOATS)),
    CASE(index_select, .n_rows = 9, .n_heads = 4, .dim = 128, .top_k = 8, .n_seqs = 1, .start = 400, .is_index = true,
         .fill = FILL_HUGE, CSA(PACKED)),
    CASE(index_select, .n_rows = 40, .n_heads = 5, .dim = 128, .top_k = 9, .n_seqs = 2, .start = 500, .is_index = true,
         .inverse = true, CSA(PACKED)),
    CASE(index_select, .n_rows = 9, .n_heads = 7, .dim = 128, .top_k = 60, .n_seqs = 1, .start = 3000,
         .is_index = true, .fill = FILL_SPIKES, CSA(PACKED)),
    CASE(index_select, .n_rows = 9, .n_heads = 4, .dim = 128, .top_k = 8, .n_seqs = 1, .start = 400, .is_index = true,
         .fill = FILL_TINY, CSA(PACKED)),
    CASE(index_select, .n_rows = 1, .n_heads = 64, .dim = 128, .top_k = 512, .n_seqs = 1, .start = 20000,
         .is_index = true, .ratio = 4, .rows_per_span = 128, PACKED, .large = true),
    CASE(index_select, .n_rows = 5, .n_heads = 64, .dim = 128, .top_k = 512, .n_seqs = 2, .start = 8190,
         .is_index = true, .ratio = 4, .rows_per_span = 128, PACKED, .large = true),

    CASE(attention, .n_rows = 40, .n_heads = 3, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 75, .n_seqs = 1,
         PACKED),
    CASE(attention, .n_rows = 40, .n_heads = 8, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 47, .n_seqs = 4,
         .start = 60, CSA(PACKED)),
    CASE(attention, .n_rows = 40, .n_heads = 8, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 60, .n_seqs = 2,
         .start = 20, .top_k = 8, CSA(PACKED)),
    CASE(attention, .n_rows = 40, .n_heads = 8, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 60, .n_seqs = 2,
         .start = 1000, .top_k = 8, CSA(FLOATS)),
    CASE(attention, .n_rows = 40, .n_heads = 2, .dim = 128, .n_rope = 64, .window = 7, .n_slots = 47, .n_seqs = 1,
         .start = 600, .ratio = 128, .rows_per_span = 1, .inverse = true, PACKED),
    CASE(attention, .n_rows = 9, .n_heads = 1, .dim = 64, .n_rope = 0, .window = 1, .n_slots = 9, .n_seqs = 9,
         FLOATS),
    CASE(attention, .n_rows = 9, .n_heads = 8, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 60, .n_seqs = 2,
         .start = 100, .fill = FILL_ZERO, CSA(PACKED)),
    CASE(attention, .n_rows = 9, .n_heads = 8, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 60, .n_seqs = 2,
         .start = 100, .fill = FILL_HUGE, CSA(PACKED)),
    CASE(attention, .n_rows = 9, .n_heads = 8, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 60, .n_seqs = 2,
         .start = 100, .fill = FILL_TINY, CSA(PACKED)),
    CASE(attention, .n_rows = 9, .n_heads = 8, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 60, .n_seqs = 2,
         .start = 100, .fill = FILL_SPIKES, .skew = 4, CSA(PACKED)),
    CASE(attention, .n_rows = 3, .n_heads = 64, .dim = 512, .n_rope = 64, .window = 128, .n_slots = 160, .n_seqs = 2,
         .start = 5000, .top_k = 512, .ratio = 4, .rows_per_span = 128, PACKED, .large = true),
    CASE(attention, .n_rows = 2, .n_heads = 64, .dim = 512, .n_rope = 64, .window = 128, .n_slots = 160, .n_seqs = 1,
         .start = 60000, .ratio = 128, .rows_per_span = 16, PACKED, .large = true),

    CASE(router, .n_rows = 40, .n_stack = 16, .n_used = 4),
    CASE(router, .n_rows = 40, .n_stack = 16, .n_used = 4, .fill = FILL_INTEGERS),
    CASE(router, .n_rows = 9, .n_stack = 19, .n_used = 6, .fill = FILL_ZERO, .inverse = true),
    CASE(router, .n_rows = 9, .n_stack = 256, .n_used = 6, .fill = FILL_STAIRS),
    CASE(router, .n_rows = 9, .n_stack = 5, .n_used = 5, .skew = 4),
    CASE(router, .n_rows = 40, .n_stack = 16, .n_used = 4, .n_out = 30, .plain = true),
    CASE(router, .n_rows = 33, .n_stack = 256, .n_used = 6, .large = true),
    CASE(router, .n_rows = 33, .n_stack = 384, .n_used = 6, .large = true),
    CASE(moe_gate_up, .n_rows = 34, .n_in = 256, .n_out = 32, .n_stack = 7, .n_used = 3, .type = ALL_TYPES),
    CASE(moe_gate_up, .n_rows = 205, .n_in = 256, .n_out = 20, .n_stack = 2, .n_used = 2, .type = ALL_TYPES),
    CASE(moe_gate_up, .n_rows = 9, .n_in = 512, .n_out = 33, .n_stack = 16, .n_used = 4, .type = ALL_TYPES, .skew = 4),
    CASE(moe_gate_up, .n_rows = 9, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 1, .type = QUANT_IQ2_XXS,
         .type2 = QUANT_Q2_K),
    CASE(moe_gate_up, .n_rows = 3, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 2, .type = ALL_TYPES,
         .fill = FILL_ZERO),
    CASE(moe_gate_up, .n_rows = 3, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 2, .type = ALL_TYPES,
         .fill = FILL_TINY),
    CASE(moe_gate_up, .n_rows = 3, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 2, .type = ALL_TYPES,
         .fill = FILL_HUGE),
    CASE(moe_gate_up, .n_rows = 2, .n_in = 4096, .n_out = 256, .n_stack = 8, .n_used = 6, .type = ALL_TYPES,
         .large = true),
    CASE(moe_down, .n_rows = 34, .n_in = 256, .n_out = 40, .n_stack = 7, .n_used = 3, .type = ALL_TYPES),
    CASE(moe_down, .n_rows = 205, .n_in = 256, .n_out = 20, .n_stack = 2, .n_used = 2, .type = ALL_TYPES),
    CASE(moe_down, .n_rows = 9, .n_in = 512, .n_out = 17, .n_stack = 16, .n_used = 6, .type = ALL_TYPES, .skew = 4),
    CASE(moe_down, .n_rows = 3, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 2, .type = ALL_TYPES,
         .fill = FILL_ZERO),
    CASE(moe_down, .n_rows = 3, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 2, .type = ALL_TYPES,
         .fill = FILL_SPIKES),
    CASE(moe_down, .n_rows = 2, .n_in = 2048, .n_out = 512, .n_stack = 8, .n_used = 6, .type = ALL_TYPES,
         .large = true),

    CASE(swiglu, .n_rows = 40, .n_in = 64),
    CASE(swiglu, .n_rows = 9, .n_in = 7, .plain = true, .fill = FILL_SPIKES, .skew = 4),
    CASE(swiglu, .n_rows = 9, .n_in = 64, .fill = FILL_HUGE),
    CASE(swiglu, .n_rows = 9, .n_in = 64, .fill = FILL_TINY),
    CASE(swiglu, .n_rows = 9, .n_in = 640, .fill = FILL_STAIRS),
    CASE(add, .n_rows = 40, .n_in = 64),
    CASE(add, .n_rows = 9, .n_in = 7, .skew = 4, .fill = FILL_STAIRS),
    CASE(add_streams, .n_rows = 40, .n_hc = 4, .n_embd = 64),
    CASE(add_streams, .n_rows = 9, .n_hc = 3, .n_embd = 7, .skew = 4, .fill = FILL_STAIRS),
    CASE(gather, .n_rows = 40, .n_in = 64),
    CASE(gather, .n_rows = 9, .n_in = 7, .skew = 4),
};
#define N_CASES (sizeof cases / sizeof *cases)

static const char *const op_names[] = {
#define OP(op_name) #op_name,
#include "ops/ops.def"
#undef OP
};
#define N_OPS (sizeof op_names / sizeof *op_names)

static const uint32_t weight_types[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_K, QUANT_Q6_K,
                                        QUANT_Q2_K, QUANT_IQ2_XXS, QUANT_MXFP4};
#define N_TYPES (sizeof weight_types / sizeof *weight_types)

/* The i-th repetition of a case; false when there is none. *name says which. */
static bool variant(size_t case_i, size_t i, struct op_shape *shape, char *name, size_t name_size)
{
    const struct case_row *row = &cases[case_i];
    *shape = row->shape;
    if (shape->type != ALL_TYPES) {
        (void)snprintf(name, name_size, "%s, case %zu", row->op, case_i);
        return i == 0;
    }
    if (i >= N_TYPES) return false;
    shape->type = shape->type2 = weight_types[i];
    (void)snprintf(name, name_size, "%s, case %zu, %s", row->op, case_i, quant_format(weight_types[i])->name);
    return true;
}

/* Block formats need whole blocks. */
static bool fits(const struct op_shape *s)
{
    uint64_t bytes;
    return s->n_in == 0 || quant_row_bytes(quant_format(s->type), s->n_in, &bytes);
}

/* Largest error relative to its tolerance, of an operation and of all its runs with one weight format. */
struct margins {
    double all, by_type[N_TYPES];
};

static void note_margin(struct margins *margins, uint32_t type, double worst)
{
    if (worst > margins->all) margins->all = worst;
    for (size_t i = 0; i < N_TYPES; i++)
        if (weight_types[i] == type && worst > margins->by_type[i]) margins->by_type[i] = worst;
}

static void compare_case(size_t case_i, struct margins *margins)
{
    char name[64], what[96];
    struct op_shape shape;
    for (size_t i = 0; variant(case_i, i, &shape, name, sizeof name); i++) {
        if (!fits(&shape)) continue;
        struct op_run ref, run;
        double worst = 0;
        op_run_case(&ref, &op_backends[0], 2, name, cases[case_i].fn, &shape, NULL, 0);
        op_compare(&ref, &ref, name, &worst); /* shows that what it gives is finite and well chosen */
        for (size_t b = 1; b < n_op_backends; b++) {
            (void)snprintf(what, sizeof what, "%s on %s", name, op_backends[b].name);
            op_run_case(&run, &op_backends[b], 2, name, cases[case_i].fn, &shape, NULL, 0);
            op_compare(&run, &ref, what, &worst);
            op_run_free(&run);
        }
        note_margin(margins, shape.type, worst);
        op_run_free(&ref);
    }
}

TEST(every_backend_agrees_with_the_reference_on_every_operation_and_shape)
{
    for (size_t op = 0; op < N_OPS; op++) {
        struct margins margins = {0};
        size_t n_cases = 0;
        for (size_t i = 0; i < N_CASES; i++) {
            if (strcmp(cases[i].op, op_names[op]) != 0) continue;
            compare_case(i, &margins);
            n_cases++;
        }
        if (n_cases == 0) fail_msg("no case for operation %s", op_names[op]);
        print_message("%-12s %2zu cases, worst row %.3f of its tolerance\n", op_names[op], n_cases, margins.all);
        for (size_t i = 0; i < N_TYPES; i++)
            if (margins.by_type[i] > 0)
                print_message("    %-8s %.3f\n", quant_format(weight_types[i])->name, margins.by_type[i]);
    }
}

TEST(every_weight_format_that_can_be_multiplied_is_compared)
{
    for (size_t i = 0; quant_format_at(i); i++) {
        bool listed = false;
        for (size_t k = 0; k < N_TYPES; k++) listed |= weight_types[k] == quant_format_at(i)->id;
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
    for (size_t i = 0; variant(case_i, i, &shape, name, sizeof name); i++) {
        if (!fits(&shape) || shape.large || shape.n_rows < 9) continue;
        struct op_run whole, run;
        op_run_case(&whole, entry, 2, name, cases[case_i].fn, &shape, NULL, 0);
        size_t step = backend_i == 0 ? 5 : backend_i == 1 ? 1 : 3; /* most of them where there is most to go wrong */
#if defined(__SANITIZE_THREAD__)
        step *= 3;
#endif
        for (size_t k = 0; k < sizeof batchings / sizeof *batchings; k += step) {
            (void)snprintf(what, sizeof what, "%s on %s, batches of %u, %u threads", name, entry->name,
                           batchings[k].sizes[0], batchings[k].n_threads);
            op_run_case(&run, entry, batchings[k].n_threads, name, cases[case_i].fn, &shape, batchings[k].sizes,
                        batchings[k].n);
            op_compare_bits(&run, &whole, what);
            op_run_free(&run);
        }
        op_run_free(&whole);
    }
}

TEST(a_row_has_the_same_bits_in_every_batch_and_with_any_number_of_threads)
{
    for (size_t b = 0; b < n_op_backends; b++)
        for (size_t i = 0; i < N_CASES; i++) check_invariance(i, b);
}

int main(void)
{
    return RUN_TESTS(T(every_weight_format_that_can_be_multiplied_is_compared),
                     T(every_backend_agrees_with_the_reference_on_every_operation_and_shape),
                     T(a_row_has_the_same_bits_in_every_batch_and_with_any_number_of_threads));
}
