/* tables.c - the NEON tables against each other: the same bits for every weight format, whatever the instructions,
 * shapes and number of rows; and the table that this processor should run. How far they are from exact products is
 * measured by tests/ops, which `make check-arm` runs, too. The first argument is the name of the table that must be
 * chosen. */
#include <math.h>

#include "lib/table_products.h"
#include "ops/rows.h"

#define ROWS_MAX 512u
#define OUT_MAX 53u

/* n_in, n_out, most rows. Widths that fit the format; several pieces of a tile; rows that fill no four. */
static const uint32_t shapes[][3] = {{32, 1, 12}, {256, 5, 40}, {2304, 30, 12}, {1024, 24, 512}, {4096, 53, 8},
                                     {77, 9, 12}, {5, 17, 12}};
#define N_SHAPES (sizeof shapes / sizeof *shapes)
static const uint32_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 32, 40, 131, 512};
#define N_COUNTS (sizeof row_counts / sizeof *row_counts)

static const struct cpu_kernels *const tables[] = {&cpu_kernels_neon, &cpu_kernels_neondot, &cpu_kernels_neoni8mm};
static const char *wanted_name;

static float x[ROWS_MAX * 1024], alone[ROWS_MAX * OUT_MAX], got[ROWS_MAX * OUT_MAX];

/* The plain table row by row is what every table gives for any number of rows. */
static void compare(struct backend *const *backends, struct rng *rng, uint32_t type, const uint32_t *shape)
{
    uint32_t n_in = shape[0], n_out = shape[1];
    struct op_weight w = random_weight(rng, type, n_in, n_out);
    for (size_t i = 0; i < (size_t)shape[2] * n_in; i++) x[i] = rng_float(rng) - 0.5f;
    for (uint32_t r = 0; r < shape[2]; r++) multiply(backends[0], &w, x + (size_t)r * n_in, 1, alone + r * n_out);
    for (size_t t = 0; t < 3; t++)
        for (size_t i = 0; i < N_COUNTS && backends[t]; i++) {
            if (row_counts[i] > shape[2]) continue;
            multiply(backends[t], &w, x, row_counts[i], got);
            if (memcmp(got, alone, row_counts[i] * n_out * sizeof *got) != 0)
                fail_msg("%s, %s: %u inputs of %u outputs of %u", tables[t]->name, quant_format(type)->name,
                         row_counts[i], n_out, n_in);
        }
    mem_free((void *)(uintptr_t)w.data);
}

TEST(tables_give_the_same_bits_for_every_format_and_number_of_rows)
{
    struct rng rng = {test_seed()};
    struct backend *backends[3] = {NULL};
    for (size_t t = 0; t < 3; t++)
        if (tables[t]->supported()) backends[t] = open_backend(tables[t], ROWS_MAX);
    for (size_t i = 0; i < N_FORMATS * N_SHAPES; i++) {
        const uint32_t *shape = shapes[i % N_SHAPES];
        if (shape[0] % quant_format(formats[i / N_SHAPES])->block_elems == 0)
            compare(backends, &rng, formats[i / N_SHAPES], shape);
    }
    for (size_t t = 0; t < 3; t++)
        if (backends[t]) backends[t]->ops->destroy(backends[t]);
}

/* Two products of -128 and -128 are more than 16 bits hold. Inputs in units of the scale that they get: one of 32639,
 * the others 128, which is 256 - 128. */
TEST(the_most_negative_bytes_overflow_no_sum)
{
    enum { N_IN = 64, N_OUT = 5, N = 9 };
    struct rng rng = {1};
    struct op_weight w = random_weight(&rng, QUANT_Q8_0, N_IN, N_OUT);
    uint8_t *data = (uint8_t *)(uintptr_t)w.data;
    memset(data, 0x80, (size_t)w.stack_bytes);
    for (size_t at = 0; at < w.stack_bytes; at += 34) store_u16(data + at, f16_from_f32(1));
    for (size_t i = 0; i < N * N_IN; i++) x[i] = i % N_IN == 0 ? 32639 : 128;
    for (size_t t = 0; t < 3; t++) {
        if (!tables[t]->supported()) continue;
        struct backend *b = open_backend(tables[t], ROWS_MAX);
        for (uint32_t n = 1; n <= N; n += 4) {
            multiply(b, &w, x, n, got);
            for (uint32_t i = 0; i < n * N_OUT; i++) assert_true(got[i] == -128.0f * (32639 + 63 * 128));
        }
        b->ops->destroy(b);
    }
    mem_free(data);
}

/* Heads and rows that fill no four; E2M1 queries as index_query rounds them; scores beside those of doubles. */
TEST(tables_score_index_rows_alike)
{
    enum { HEADS = 6, PADDED = 8, DIM = 128, ROWS = 23 };
    struct rng rng = {test_seed()};
    float q[HEADS * DIM], w[HEADS], row[DIM], want[ROWS], scores[3][ROWS];
    uint8_t rows[ROWS * (DIM / 2 + DIM / 32)], prepared[PADDED * (DIM * 2 + 64)];
    size_t row_bytes = index_row_bytes(OP_ROW_PACKED, DIM);
    for (int i = 0; i < HEADS * DIM; i++) q[i] = rng_float(&rng) - 0.5f;
    for (int h = 0; h < HEADS; h++) w[h] = rng_float(&rng) - 0.3f;
    for (int h = 0; h < HEADS; h++) index_row_round(q + h * DIM, DIM);
    for (size_t r = 0; r < ROWS; r++) {
        for (int d = 0; d < DIM; d++) row[d] = rng_float(&rng) - 0.5f;
        index_row_pack(row, DIM, rows + r * row_bytes);
        index_row_unpack(rows + r * row_bytes, DIM, row);
        double sum = 0;
        for (int h = 0; h < HEADS; h++) {
            double dot = 0;
            for (int d = 0; d < DIM; d++) dot += (double)q[h * DIM + d] * (double)row[d];
            sum += (double)w[h] * (dot > 0 ? dot : 0);
        }
        want[r] = (float)(sum * 0.25);
    }
    for (size_t t = 0; t < 3; t++) {
        if (!tables[t]->supported()) continue;
        assert_true(tables[t]->index_prepare(q, w, HEADS, DIM, prepared));
        tables[t]->index_scores(prepared, PADDED, DIM, rows, row_bytes, ROWS, 0.25f, scores[t]);
        assert_memory_equal(scores[t], scores[0], sizeof want);
        for (size_t r = 0; r < ROWS; r++) assert_true(fabsf(scores[t][r] - want[r]) < 1e-5f);
    }
}

TEST(the_best_table_of_the_processor_is_chosen)
{
    assert_non_null(wanted_name);
    print_message("chosen: %s\n", cpu_kernels_best()->name);
    assert_string_equal(cpu_kernels_best()->name, wanted_name);
}

int main(int argc, char **argv)
{
    wanted_name = argc > 1 ? argv[1] : NULL;
    return RUN_TESTS(T(the_best_table_of_the_processor_is_chosen),
                     T(tables_give_the_same_bits_for_every_format_and_number_of_rows),
                     T(the_most_negative_bytes_overflow_no_sum),
                     T(tables_score_index_rows_alike));
}
