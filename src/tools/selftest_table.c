/* selftest_table.c - the shapes that operations are tested with. See selftest_table.h. */
#include "tools/selftest_table.h"

#include <stdio.h>
#include <string.h>

#include "quant/quant.h"

#define ALL_TYPES OP_ALL_TYPES
#define CASE(op_name, ...) {#op_name, op_case_##op_name, {__VA_ARGS__}}

/* Members that say what a shape is about come first; defaults are written out by the macros. */
#define CSA(...) .ratio = 4, .rows_per_span = 5, __VA_ARGS__
#define PACKED .format = OP_ROW_PACKED, .round = true
#define FLOATS .format = OP_ROW_F32
#define QUICK .quick = true
#define TIMED .large = true, .timed = true /* a real shape, with more weights than a cache holds where it can be */
#define PRODUCT(weights, rows, in, out, ...) \
    CASE(matmul, .n_rows = rows, .n_in = in, .n_out = out, .n_groups = 1, .n_outputs = 1, .type = QUANT_##weights, \
         __VA_ARGS__)

const struct op_case_row op_table[] = {
    CASE(embed, .n_rows = 40, .n_hc = 4, .n_embd = 256, .n_out = 50, .type = ALL_TYPES, QUICK),
    CASE(embed, .n_rows = 1, .n_hc = 1, .n_embd = 96, .n_out = 3, .type = QUANT_Q8_0),
    CASE(embed, .n_rows = 3, .n_hc = 4, .n_embd = 4096, .n_out = 100, .type = QUANT_F16, .large = true),
    CASE(embed, .n_rows = 512, .n_hc = 4, .n_embd = 4096, .n_out = 1000, .type = QUANT_F16, TIMED),

    CASE(hc_mix, .n_rows = 40, .n_hc = 4, .n_embd = 256, .type = ALL_TYPES, QUICK),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 288, .type = QUANT_F16, .fused = true, QUICK),
    CASE(hc_mix, .n_rows = 18, .n_hc = 4, .n_embd = 2048, .type = QUANT_Q8_0, .fused = true),
    CASE(hc_mix, .n_rows = 3, .n_hc = 2, .n_embd = 160, .type = QUANT_F32, .fused = true),
    CASE(hc_mix, .n_rows = 37, .n_hc = 4, .n_embd = 72, .type = QUANT_F16, .skew = 4),
    CASE(hc_mix, .n_rows = 9, .n_hc = 2, .n_embd = 40, .type = QUANT_F16),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 256, .type = QUANT_F16, .fill = FILL_ZERO),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 256, .type = QUANT_F16, .fill = FILL_HUGE),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 256, .type = QUANT_F16, .fill = FILL_TINY),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 256, .type = QUANT_F16, .fill = FILL_SPIKES),
    CASE(hc_mix, .n_rows = 5, .n_hc = 4, .n_embd = 4096, .type = QUANT_F16, .large = true),
    CASE(hc_mix, .n_rows = 1, .n_hc = 4, .n_embd = 4096, .type = QUANT_F16, TIMED),
    CASE(hc_mix, .n_rows = 128, .n_hc = 4, .n_embd = 4096, .type = QUANT_F16, TIMED),
    CASE(hc_head, .n_rows = 40, .n_hc = 4, .n_embd = 256, .type = QUANT_F32, QUICK),
    CASE(hc_head, .n_rows = 11, .n_hc = 4, .n_embd = 72, .type = QUANT_F16, .fill = FILL_STAIRS),
    CASE(hc_head, .n_rows = 3, .n_hc = 4, .n_embd = 4096, .type = QUANT_F16, .large = true),
    CASE(hc_head, .n_rows = 64, .n_hc = 4, .n_embd = 4096, .type = QUANT_F16, TIMED),
    CASE(hc_reduce, .n_rows = 40, .n_hc = 4, .n_embd = 256, QUICK),
    CASE(hc_reduce, .n_rows = 9, .n_hc = 4, .n_embd = 288, .fused = true, QUICK),
    CASE(hc_reduce, .n_rows = 13, .n_hc = 4, .n_embd = 37, .plain = true, .skew = 4),
    CASE(hc_reduce, .n_rows = 5, .n_hc = 3, .n_embd = 65, .fill = FILL_ZERO),
    CASE(hc_reduce, .n_rows = 5, .n_hc = 4, .n_embd = 256, .fill = FILL_HUGE),
    CASE(hc_reduce, .n_rows = 5, .n_hc = 4, .n_embd = 256, .fill = FILL_TINY),
    CASE(hc_reduce, .n_rows = 3, .n_hc = 4, .n_embd = 4096, .large = true),
    CASE(hc_reduce, .n_rows = 512, .n_hc = 4, .n_embd = 4096, TIMED),
    CASE(hc_expand, .n_rows = 40, .n_hc = 4, .n_embd = 256, QUICK),
    CASE(hc_expand, .n_rows = 13, .n_hc = 4, .n_embd = 37, .skew = 4),
    CASE(hc_expand, .n_rows = 5, .n_hc = 3, .n_embd = 65, .fill = FILL_STAIRS),
    CASE(hc_expand, .n_rows = 3, .n_hc = 4, .n_embd = 4096, .large = true),
    CASE(hc_expand, .n_rows = 512, .n_hc = 4, .n_embd = 4096, TIMED),

    CASE(rms_norm, .n_rows = 40, .n_in = 256, QUICK),
    CASE(rms_norm, .n_rows = 9, .n_in = 288, .fused = true, QUICK),
    CASE(rms_norm, .n_rows = 17, .n_in = 33, .plain = true, .is_index = true, .skew = 4),
    CASE(rms_norm, .n_rows = 9, .n_in = 1),
    CASE(rms_norm, .n_rows = 9, .n_in = 100, .fill = FILL_ZERO),
    CASE(rms_norm, .n_rows = 9, .n_in = 100, .fill = FILL_HUGE),
    CASE(rms_norm, .n_rows = 9, .n_in = 100, .fill = FILL_TINY),
    CASE(rms_norm, .n_rows = 9, .n_in = 1024, .fill = FILL_SPIKES),
    CASE(rms_norm, .n_rows = 64, .n_in = 512, .plain = true, .large = true),
    CASE(rms_norm, .n_rows = 2048, .n_in = 4096, TIMED),
    CASE(rope, .n_rows = 40, .n_heads = 3, .dim = 192, .n_rope = 64, QUICK),
    CASE(rope, .n_rows = 21, .n_heads = 1, .dim = 70, .n_rope = 6, .inverse = true, .skew = 4),
    CASE(rope, .n_rows = 40, .n_heads = 1, .dim = 64, .n_rope = 64, .start = 900000, .plain = true),
    CASE(rope, .n_rows = 9, .n_heads = 3, .dim = 96, .n_rope = 64, .start = 500000, .inverse = true, .fused = true,
         QUICK),
    CASE(rope, .n_rows = 9, .n_heads = 2, .dim = 160, .n_rope = 6, .fused = true, .skew = 4),
    CASE(rope, .n_rows = 5, .n_heads = 64, .dim = 512, .n_rope = 64, .start = 1048570, .large = true),
    CASE(rope, .n_rows = 256, .n_heads = 64, .dim = 512, .n_rope = 64, TIMED),

    CASE(matmul, .n_rows = 1, .n_in = 256, .n_out = 1, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES, QUICK),
    CASE(matmul, .n_rows = 40, .n_in = 512, .n_out = 37, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES, QUICK),
    CASE(matmul, .n_rows = 11, .n_in = 288, .n_out = 65, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES, .skew = 4),
    CASE(matmul, .n_rows = 9, .n_in = 768, .n_out = 24, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES,
         .fill = FILL_SPIKES, QUICK),
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
         .type2 = QUANT_F16, QUICK),
    CASE(matmul, .n_rows = 3, .n_in = 96, .n_out = 42, .n_groups = 1, .n_outputs = 4, .type = QUANT_Q8_0,
         .type2 = QUANT_F16, QUICK), /* not in whole groups of what a device lays out anew */
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
    CASE(matmul, .n_rows = 4, .n_in = 2048, .n_out = 9, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES,
         QUICK),
    CASE(matmul, .n_rows = 18, .n_in = 2048, .n_out = 17, .n_groups = 1, .n_outputs = 1, .type = ALL_TYPES,
         QUICK),
    PRODUCT(F32, 1, 4096, 8192, TIMED),
    PRODUCT(F16, 1, 4096, 16384, TIMED),
    PRODUCT(BF16, 1, 4096, 16384, TIMED),
    PRODUCT(Q8_0, 1, 4096, 32768, TIMED),
    PRODUCT(Q6_K, 1, 4096, 32768, TIMED),
    PRODUCT(Q4_K, 1, 4096, 32768, TIMED),
    PRODUCT(MXFP4, 1, 4096, 32768, TIMED),
    PRODUCT(Q8_0, 3, 4096, 32768, TIMED),
    PRODUCT(Q8_0, 96, 4096, 4096, TIMED),
    PRODUCT(Q8_0, 1, 1024, 32768, TIMED),
    PRODUCT(F16, 96, 4096, 1024, TIMED),
    CASE(matmul, .n_rows = 1, .n_in = 4096, .n_out = 8192, .n_groups = 8, .n_outputs = 1, .type = QUANT_Q8_0, TIMED),

    CASE(kv_store, .n_rows = 40, .dim = 192, .n_rope = 64, .window = 1, .n_slots = 33, .n_seqs = 3, .start = 17,
         PACKED, QUICK),
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
    CASE(kv_store, .n_rows = 5, .n_heads = 3, .dim = 192, .n_rope = 64, .window = 1, .n_slots = 20, .n_seqs = 2,
         .start = 17, PACKED, .fused = true, QUICK),
    CASE(kv_store, .n_rows = 5, .n_heads = 2, .dim = 320, .n_rope = 64, .window = 1, .n_slots = 20, .n_seqs = 2,
         .start = 900000, FLOATS, .fused = true, .skew = 4),
    CASE(kv_store, .n_rows = 5, .n_heads = 3, .dim = 192, .n_rope = 64, .n_out = 384, .window = 1, .n_slots = 20,
         .n_seqs = 2, .start = 18, CSA(PACKED), .fused = true, QUICK),
    CASE(kv_store, .n_rows = 5, .n_heads = 2, .dim = 128, .n_rope = 64, .n_out = 128, .window = 1, .n_slots = 140,
         .n_seqs = 1, .start = 253, .ratio = 128, .rows_per_span = 2, FLOATS, .fused = true, .skew = 4),
    CASE(kv_store, .n_rows = 5, .n_heads = 64, .dim = 512, .n_rope = 64, .n_out = 1024, .window = 1, .n_slots = 136,
         .n_seqs = 2, .start = 5002, CSA(PACKED), .fused = true, .large = true),
    CASE(kv_store, .n_rows = 256, .n_heads = 64, .dim = 512, .n_rope = 64, .window = 1, .n_slots = 1024, .n_seqs = 2,
         .start = 120, PACKED, .fused = true, TIMED),
    CASE(kv_store, .n_rows = 512, .dim = 512, .n_rope = 64, .window = 1, .n_slots = 1024, .n_seqs = 2, .start = 120,
         PACKED, TIMED),

    CASE(compress, .n_rows = 40, .dim = 192, .n_out = 384, .n_rope = 64, .n_slots = 8, .n_seqs = 2, CSA(PACKED),
         QUICK),
    CASE(compress, .n_rows = 40, .dim = 192, .n_out = 384, .n_rope = 64, .n_slots = 13, .n_seqs = 3, .start = 50,
         CSA(FLOATS)),
    CASE(compress, .n_rows = 40, .dim = 192, .n_out = 384, .n_rope = 64, .n_slots = 12, .n_seqs = 1, .start = 1,
         .round = true, CSA(FLOATS)),
    CASE(compress, .n_rows = 40, .dim = 128, .n_out = 256, .n_rope = 64, .n_slots = 12, .n_seqs = 2, .start = 3,
         .is_index = true, CSA(PACKED)),
    CASE(compress, .n_rows = 40, .dim = 128, .n_out = 256, .n_rope = 64, .n_slots = 12, .n_seqs = 2, .start = 3,
         .is_index = true, CSA(FLOATS)),
    CASE(compress, .n_rows = 40, .dim = 192, .n_out = 192, .n_rope = 64, .ratio = 128, .rows_per_span = 2,
         .n_slots = 131, .n_seqs = 2, .start = 110, PACKED, QUICK),
    CASE(compress, .n_rows = 40, .dim = 192, .n_out = 192, .n_rope = 64, .ratio = 128, .rows_per_span = 2,
         .n_slots = 128, .n_seqs = 1, .start = 350, FLOATS),
    CASE(compress, .n_rows = 9, .dim = 128, .n_out = 256, .n_rope = 64, .n_slots = 16, .n_seqs = 2, .start = 3,
         .is_index = true, CSA(PACKED), QUICK),
    CASE(compress, .n_rows = 9, .dim = 192, .n_out = 192, .n_rope = 64, .ratio = 128, .rows_per_span = 2,
         .n_slots = 136, .n_seqs = 2, .start = 121, PACKED),
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
    CASE(compress, .n_rows = 256, .dim = 512, .n_out = 1024, .n_rope = 64, .n_slots = 264, .n_seqs = 1, .start = 4000,
         .ratio = 4, .rows_per_span = 64, PACKED, TIMED),
    CASE(compress, .n_rows = 256, .dim = 128, .n_out = 256, .n_rope = 64, .n_slots = 264, .n_seqs = 1, .start = 4000,
         .is_index = true, .ratio = 4, .rows_per_span = 64, PACKED, TIMED),

    CASE(index_query, .n_rows = 40, .n_heads = 4, .dim = 128, .round = true, QUICK),
    CASE(index_query, .n_rows = 40, .n_heads = 3, .dim = 128, .n_rope = 64, .start = 700000, .fused = true, QUICK),
    CASE(index_query, .n_rows = 40, .n_heads = 1, .dim = 128, .round = false, .skew = 4),
    CASE(index_query, .n_rows = 9, .n_heads = 3, .dim = 64, .round = true, .fill = FILL_INTEGERS),
    CASE(index_query, .n_rows = 9, .n_heads = 3, .dim = 32, .round = true, .fill = FILL_ZERO),
    CASE(index_query, .n_rows = 9, .n_heads = 3, .dim = 128, .round = true, .fill = FILL_HUGE),
    CASE(index_query, .n_rows = 9, .n_heads = 3, .dim = 128, .round = true, .fill = FILL_TINY),
    CASE(index_query, .n_rows = 9, .n_heads = 64, .dim = 128, .round = true, .large = true),
    CASE(index_query, .n_rows = 512, .n_heads = 64, .dim = 128, .round = true, TIMED),
    CASE(index_select, .n_rows = 40, .n_heads = 4, .dim = 128, .top_k = 8, .n_seqs = 3, .start = 20, .is_index = true,
         CSA(PACKED), QUICK),
    CASE(index_select, .n_rows = 40, .n_heads = 4, .dim = 128, .top_k = 8, .n_seqs = 2, .start = 500, .is_index = true,
         CSA(PACKED)),
    CASE(index_select, .n_rows = 40, .n_heads = 2, .dim = 128, .top_k = 30, .n_seqs = 2, .start = 300,
         .is_index = true, .fill = FILL_INTEGERS, CSA(PACKED), QUICK),
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
    CASE(index_select, .n_rows = 1, .n_heads = 64, .dim = 128, .top_k = 512, .n_seqs = 1, .start = 65535,
         .is_index = true, .ratio = 4, .rows_per_span = 64, PACKED, TIMED),
    CASE(index_select, .n_rows = 32, .n_heads = 64, .dim = 128, .top_k = 512, .n_seqs = 1, .start = 8000,
         .is_index = true, .ratio = 4, .rows_per_span = 64, PACKED, TIMED),

    CASE(attention, .n_rows = 40, .n_heads = 3, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 75, .n_seqs = 1,
         PACKED, QUICK),
    CASE(attention, .n_rows = 40, .n_heads = 8, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 47, .n_seqs = 4,
         .start = 60, CSA(PACKED)),
    CASE(attention, .n_rows = 40, .n_heads = 8, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 60, .n_seqs = 2,
         .start = 20, .top_k = 8, CSA(PACKED), QUICK),
    CASE(attention, .n_rows = 40, .n_heads = 8, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 60, .n_seqs = 2,
         .start = 1000, .top_k = 8, CSA(FLOATS), QUICK),
    CASE(attention, .n_rows = 5, .n_heads = 3, .dim = 192, .n_rope = 64, .window = 32, .n_slots = 40, .n_seqs = 2,
         .start = 1200, .fused = true, CSA(PACKED), QUICK),
    CASE(attention, .n_rows = 5, .n_heads = 8, .dim = 160, .n_rope = 32, .window = 32, .n_slots = 40, .n_seqs = 1,
         .start = 600, .top_k = 70, .fused = true, CSA(FLOATS)),
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
    CASE(attention, .n_rows = 3, .n_heads = 64, .dim = 512, .n_rope = 64, .window = 128, .n_slots = 160, .n_seqs = 2,
         .start = 5000, .top_k = 512, .ratio = 4, .rows_per_span = 128, PACKED, .fused = true, .large = true),
    CASE(attention, .n_rows = 2, .n_heads = 64, .dim = 512, .n_rope = 64, .window = 128, .n_slots = 160, .n_seqs = 1,
         .start = 60000, .ratio = 128, .rows_per_span = 16, PACKED, .large = true),
    CASE(attention, .n_rows = 1, .n_heads = 64, .dim = 512, .n_rope = 64, .window = 128, .n_slots = 160, .n_seqs = 1,
         .start = 65535, .top_k = 512, .ratio = 4, .rows_per_span = 64, PACKED, TIMED),
    CASE(attention, .n_rows = 1, .n_heads = 64, .dim = 512, .n_rope = 64, .window = 128, .n_slots = 160, .n_seqs = 1,
         .start = 65535, .ratio = 128, .rows_per_span = 2, PACKED, TIMED),
    CASE(attention, .n_rows = 24, .n_heads = 64, .dim = 512, .n_rope = 64, .window = 128, .n_slots = 160, .n_seqs = 1,
         .start = 8000, .top_k = 512, .ratio = 4, .rows_per_span = 64, PACKED, TIMED),

    CASE(router, .n_rows = 40, .n_stack = 16, .n_used = 4, QUICK),
    CASE(router, .n_rows = 40, .n_stack = 16, .n_used = 4, .fill = FILL_INTEGERS),
    CASE(router, .n_rows = 9, .n_stack = 19, .n_used = 6, .fill = FILL_ZERO, .inverse = true),
    CASE(router, .n_rows = 9, .n_stack = 256, .n_used = 6, .fill = FILL_STAIRS),
    CASE(router, .n_rows = 9, .n_stack = 5, .n_used = 5, .skew = 4),
    CASE(router, .n_rows = 40, .n_stack = 16, .n_used = 4, .n_out = 30, .plain = true, QUICK),
    CASE(router, .n_rows = 33, .n_stack = 256, .n_used = 6, .large = true),
    CASE(router, .n_rows = 33, .n_stack = 384, .n_used = 6, .large = true),
    CASE(router, .n_rows = 9, .n_stack = 40, .n_used = 6, .n_in = 512, .n_embd = 20, .type = ALL_TYPES, .fused = true,
         QUICK),
    CASE(router, .n_rows = 9, .n_stack = 33, .n_used = 3, .n_in = 256, .n_embd = 16, .type = ALL_TYPES, .mixed = true,
         .plain = true, .n_out = 30, .inverse = true, .fused = true),
    CASE(router, .n_rows = 9, .n_stack = 1000, .n_used = 32, .fill = FILL_INTEGERS),
    CASE(router, .n_rows = 9, .n_stack = 256, .n_used = 8, .fill = FILL_ZERO, .inverse = true),
    CASE(router, .n_rows = 9, .n_stack = 40, .n_used = 32, .fill = FILL_HUGE, .inverse = true),
    CASE(router, .n_rows = 512, .n_stack = 256, .n_used = 6, TIMED),
    CASE(moe_gate_up, .n_rows = 34, .n_in = 256, .n_out = 32, .n_stack = 7, .n_used = 3, .type = ALL_TYPES, QUICK),
    CASE(moe_gate_up, .n_rows = 205, .n_in = 256, .n_out = 20, .n_stack = 2, .n_used = 2, .type = ALL_TYPES),
    CASE(moe_gate_up, .n_rows = 9, .n_in = 512, .n_out = 33, .n_stack = 16, .n_used = 4, .type = ALL_TYPES, .skew = 4),
    CASE(moe_gate_up, .n_rows = 9, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 1, .type = QUANT_IQ2_XXS,
         .type2 = QUANT_Q2_K),
    CASE(moe_gate_up, .n_rows = 3, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 2, .type = ALL_TYPES,
         .fill = FILL_ZERO),
    CASE(moe_gate_up, .n_rows = 3, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 2, .type = ALL_TYPES,
         .fill = FILL_TINY, QUICK),
    CASE(moe_gate_up, .n_rows = 3, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 2, .type = ALL_TYPES,
         .fill = FILL_HUGE),
    CASE(moe_gate_up, .n_rows = 2, .n_in = 4096, .n_out = 256, .n_stack = 8, .n_used = 6, .type = ALL_TYPES,
         .large = true),
    CASE(moe_gate_up, .n_rows = 18, .n_in = 2048, .n_out = 17, .n_stack = 2, .n_used = 2, .type = ALL_TYPES, QUICK),
    CASE(moe_gate_up, .n_rows = 3, .n_in = 2048, .n_out = 9, .n_stack = 3, .n_used = 2, .type = ALL_TYPES,
         .mixed = true, QUICK),
    CASE(moe_gate_up, .n_rows = 1, .n_in = 4096, .n_out = 2048, .n_stack = 16, .n_used = 6, .type = QUANT_IQ2_XXS,
         .type2 = QUANT_IQ2_XXS, TIMED),
    CASE(moe_gate_up, .n_rows = 1, .n_in = 4096, .n_out = 2048, .n_stack = 16, .n_used = 6, .type = QUANT_Q4_K,
         .type2 = QUANT_Q4_K, TIMED),
    CASE(moe_gate_up, .n_rows = 1, .n_in = 4096, .n_out = 2048, .n_stack = 16, .n_used = 6, .type = QUANT_MXFP4,
         .type2 = QUANT_MXFP4, TIMED),
    CASE(moe_gate_up, .n_rows = 8, .n_in = 4096, .n_out = 2048, .n_stack = 48, .n_used = 6, .type = QUANT_IQ2_XXS,
         .type2 = QUANT_IQ2_XXS, TIMED),
    CASE(moe_gate_up, .n_rows = 64, .n_in = 4096, .n_out = 2048, .n_stack = 16, .n_used = 2, .type = QUANT_IQ2_XXS,
         .type2 = QUANT_IQ2_XXS, TIMED),
    CASE(moe_down, .n_rows = 34, .n_in = 256, .n_out = 40, .n_stack = 7, .n_used = 3, .type = ALL_TYPES, QUICK),
    CASE(moe_down, .n_rows = 205, .n_in = 256, .n_out = 20, .n_stack = 2, .n_used = 2, .type = ALL_TYPES),
    CASE(moe_down, .n_rows = 9, .n_in = 512, .n_out = 17, .n_stack = 16, .n_used = 6, .type = ALL_TYPES, .skew = 4),
    CASE(moe_down, .n_rows = 3, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 2, .type = ALL_TYPES,
         .fill = FILL_ZERO),
    CASE(moe_down, .n_rows = 3, .n_in = 256, .n_out = 16, .n_stack = 5, .n_used = 2, .type = ALL_TYPES,
         .fill = FILL_SPIKES, QUICK),
    CASE(moe_down, .n_rows = 2, .n_in = 2048, .n_out = 512, .n_stack = 8, .n_used = 6, .type = ALL_TYPES,
         .large = true),
    CASE(moe_down, .n_rows = 18, .n_in = 2048, .n_out = 17, .n_stack = 2, .n_used = 2, .type = ALL_TYPES, QUICK),
    CASE(moe_down, .n_rows = 1, .n_in = 2048, .n_out = 4096, .n_stack = 16, .n_used = 6, .type = QUANT_Q2_K, TIMED),
    CASE(moe_down, .n_rows = 1, .n_in = 2048, .n_out = 4096, .n_stack = 16, .n_used = 6, .type = QUANT_Q4_K, TIMED),
    CASE(moe_down, .n_rows = 1, .n_in = 2048, .n_out = 4096, .n_stack = 16, .n_used = 6, .type = QUANT_MXFP4, TIMED),
    CASE(moe_down, .n_rows = 8, .n_in = 2048, .n_out = 4096, .n_stack = 48, .n_used = 6, .type = QUANT_Q2_K, TIMED),
    CASE(moe_down, .n_rows = 64, .n_in = 2048, .n_out = 4096, .n_stack = 16, .n_used = 2, .type = QUANT_Q2_K, TIMED),

    CASE(swiglu, .n_rows = 40, .n_in = 64, QUICK),
    CASE(swiglu, .n_rows = 9, .n_in = 288, .plain = true, .fused = true, QUICK),
    CASE(swiglu, .n_rows = 9, .n_in = 7, .plain = true, .fill = FILL_SPIKES, .skew = 4),
    CASE(swiglu, .n_rows = 9, .n_in = 64, .fill = FILL_HUGE),
    CASE(swiglu, .n_rows = 9, .n_in = 64, .fill = FILL_TINY),
    CASE(swiglu, .n_rows = 9, .n_in = 640, .fill = FILL_STAIRS),
    CASE(swiglu, .n_rows = 2048, .n_in = 2048, .plain = true, TIMED),
    CASE(add, .n_rows = 40, .n_in = 64, QUICK),
    CASE(add, .n_rows = 9, .n_in = 7, .skew = 4, .fill = FILL_STAIRS),
    CASE(add, .n_rows = 4096, .n_in = 4096, TIMED),
    CASE(add_streams, .n_rows = 40, .n_hc = 4, .n_embd = 64, QUICK),
    CASE(add_streams, .n_rows = 9, .n_hc = 3, .n_embd = 7, .skew = 4, .fill = FILL_STAIRS),
    CASE(add_streams, .n_rows = 512, .n_hc = 4, .n_embd = 4096, TIMED),
    CASE(gather, .n_rows = 40, .n_in = 64, QUICK),
    CASE(gather, .n_rows = 9, .n_in = 7, .skew = 4),
    CASE(gather, .n_rows = 1024, .n_in = 4096, TIMED),
};
const size_t n_op_table = sizeof op_table / sizeof *op_table;

const uint32_t op_weight_types[OP_WEIGHT_TYPES] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_K, QUANT_Q6_K,
                                                   QUANT_Q2_K, QUANT_IQ2_XXS, QUANT_MXFP4};

bool op_row_variant(const struct op_case_row *row, size_t i, struct op_shape *shape)
{
    *shape = row->shape;
    if (shape->type != ALL_TYPES) return i == 0;
    if (i >= OP_WEIGHT_TYPES) return false;
    shape->type = op_weight_types[i];
    shape->type2 = op_weight_types[(i + shape->mixed) % OP_WEIGHT_TYPES];
    return true;
}

bool op_variant(size_t case_i, size_t i, struct op_shape *shape, char *name, size_t name_size)
{
    const struct op_case_row *row = &op_table[case_i];
    bool all = row->shape.type == ALL_TYPES;
    if (!op_row_variant(row, i, shape)) return false;
    (void)snprintf(name, name_size, "%s, case %zu%s%s", row->op, case_i, all ? ", " : "",
                   all ? quant_format(shape->type)->name : "");
    return true;
}

bool op_shape_fits(const struct op_shape *s)
{
    uint64_t bytes;
    return s->n_in == 0 || quant_row_bytes(quant_format(s->type), s->n_in, &bytes);
}

#define ROWS_MAX 5u    /* of a case; emulation is slow */
#define ROWS_SPLIT 11u /* more than attention is split for */
#define ROWS_TILED 18u /* enough for products in tiles, with a tail */

struct op_shape op_shape_smaller(struct op_shape s, const char *op)
{
    bool compresses = strcmp(op, "compress") == 0;
    bool products = strcmp(op, "matmul") == 0 || strncmp(op, "moe_", 4) == 0;
    uint32_t most = compresses ? s.n_rows : ROWS_MAX;
    if (strcmp(op, "attention") == 0 && s.n_rows > 9) most = ROWS_SPLIT;
    if (products && s.n_rows == ROWS_TILED) most = ROWS_TILED; /* with whole groups of what a device lays out anew */
    if (products && s.n_rows >= 34) {
        most = ROWS_TILED;
        if (s.n_in > 256) s.n_in = 256;
    }
    if (s.n_rows > most) s.n_rows = most;
    if (s.n_seqs > s.n_rows) s.n_seqs = s.n_rows;
    return s;
}
