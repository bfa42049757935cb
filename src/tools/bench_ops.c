/* bench_ops.c - `ds4 bench ops`: how fast the CPU backend multiplies, format by format and batch by batch.
 *
 * Weights are random valid blocks. Products cycle through copies of the matrix that together exceed the caches, as the
 * layers of a model do; inputs are quantised inside the measured time, as in inference. A figure is the median of
 * products repeated for the given time. 2-bit formats are timed as the down projection of a routed expert. GB/s counts
 * bytes of weights, GFLOP/s two for each weight and row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/f16.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/rng.h"
#include "ops/backend.h"
#include "quant/quant.h"
#include "tools/bench_ops.h"

#define BATCH_MAX 4096u
#define SAMPLES_MAX 4096u

struct ops_flags {
    struct option_list formats, batches;
    uint32_t n_out, n_in, n_threads, set_mb, time_ms;
    bool json;
};

static const struct option rows[] = {
    {.name = "format", .value = "F", .type = OPTION_LIST, .offset = offsetof(struct ops_flags, formats),
     .help = "weight format, may be repeated; without it all that backends multiply"},
    {.name = "batch", .value = "N", .type = OPTION_LIST, .offset = offsetof(struct ops_flags, batches),
     .help = "input rows, may be repeated; without it 1, 2, 8, 12 and 512"},
    {.name = "rows", .value = "N", .type = OPTION_U32, .offset = offsetof(struct ops_flags, n_out), .min = 1,
     .max = 262144, .preset = "4096", .help = "outputs"},
    {.name = "cols", .value = "N", .type = OPTION_U32, .offset = offsetof(struct ops_flags, n_in), .min = 1,
     .max = 65536, .preset = "4096", .help = "inputs"},
    {.letter = 't', .name = "threads", .value = "N", .type = OPTION_U32,
     .offset = offsetof(struct ops_flags, n_threads), .max = 256, .preset = "0", .help = "0 = one a core"},
    {.name = "set-mb", .value = "N", .type = OPTION_U32, .offset = offsetof(struct ops_flags, set_mb), .min = 1,
     .max = 65536, .preset = "256", .help = "megabytes of weights to cycle through"},
    {.name = "time-ms", .value = "N", .type = OPTION_U32, .offset = offsetof(struct ops_flags, time_ms), .min = 1,
     .max = 600000, .preset = "500", .help = "time spent on each figure"},
    {.name = "json", .type = OPTION_FLAG, .offset = offsetof(struct ops_flags, json),
     .help = "as a JSON object a line; without it as CSV"},
};
static const struct options table = {
    .command = "bench ops", .summary = "speed of matrix products", OPTIONS_ROWS(rows),
    .notes = "Columns: format, outputs, inputs, batch, threads, median milliseconds of a product, gigabytes of\n"
             "weights a second, 1e9 multiplications and additions a second.",
};

struct ops_bench {
    const struct ops_flags *flags;
    struct thread_pool *pool;
    struct backend *backend;
    uint8_t *weights;
    size_t weights_bytes; /* [n_copies][n_out] rows */
    uint32_t n_copies, next_copy;
    float *x, *y;
    int32_t ids[BATCH_MAX]; /* all rows choose expert 0 */
    double samples[SAMPLES_MAX];
};

/* Random bytes, with scales that are small finite numbers. */
static void fill_blocks(const struct quant_format *format, uint8_t *blocks, size_t bytes)
{
    struct rng rng = {format->id};
    for (size_t i = 0; i + 8 <= bytes; i += 8) store_u64(blocks + i, rng_next(&rng));
    for (size_t at = 0; at + format->block_bytes <= bytes; at += format->block_bytes) {
        if (format->id == QUANT_F32) store_f32(blocks + at, rng_float(&rng) - 0.5f);
        if (format->id == QUANT_BF16) store_u16(blocks + at, bf16_from_f32(rng_float(&rng) - 0.5f));
        if (format->id == QUANT_MXFP4) blocks[at] = (uint8_t)(120 + rng_below(&rng, 8));
        for (uint32_t i = 0; i < format->n_scales; i++)
            store_u16(blocks + at + format->scales_at + 2 * i, f16_from_f32(rng_float(&rng) - 0.5f));
    }
}

static enum ds4_status make_weights(struct ops_bench *b, const struct quant_format *format, uint64_t row_bytes,
                                    struct ds4_error *error)
{
    uint64_t matrix = row_bytes * b->flags->n_out, set = (uint64_t)b->flags->set_mb << 20;
    b->n_copies = (uint32_t)(set / matrix + 1);
    b->next_copy = 0;
    b->weights_bytes = (size_t)(matrix * b->n_copies);
    b->weights = mem_map(b->weights_bytes);
    if (!b->weights) return err_set(error, DS4_ERR_NOMEM, "no memory for %zu bytes of weights", b->weights_bytes);
    fill_blocks(format, b->weights, (size_t)matrix);
    for (uint32_t i = 1; i < b->n_copies; i++) memcpy(b->weights + i * matrix, b->weights, (size_t)matrix);
    return DS4_OK;
}

/* Seconds of one product with the next copy. */
static double multiply_once(struct ops_bench *b, const struct quant_format *format, uint64_t row_bytes, uint32_t batch)
{
    const struct ops_flags *flags = b->flags;
    struct matmul_args args = {.n_rows = batch, .n_outputs = 1, .n_groups = 1, .x = b->x};
    uint64_t matrix = row_bytes * flags->n_out;
    args.out[0].w = (struct op_weight){.data = b->weights + b->next_copy * matrix, .type = format->id,
                                       .n_in = flags->n_in, .n_out = flags->n_out, .row_bytes = row_bytes,
                                       .n_stack = 1, .stack_bytes = matrix};
    args.out[0].y = b->y;
    struct moe_down_args expert = {batch, 1, b->x, b->ids, args.out[0].w, b->y};
    expert.down.n_stack = 2; /* more than one expert; only the first is chosen */
    b->next_copy = (b->next_copy + 1) % b->n_copies;
    uint64_t start = clock_ns();
    /* 2-bit formats are those of routed experts, which take coarser inputs than other matrices. */
    if (format->id == QUANT_Q2_K || format->id == QUANT_IQ2_XXS) b->backend->ops->moe_down(b->backend, &expert);
    else b->backend->ops->matmul(b->backend, &args);
    return clock_seconds_since(start);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void measure(struct ops_bench *b, const struct quant_format *format, uint64_t row_bytes, uint32_t batch)
{
    const struct ops_flags *flags = b->flags;
    uint32_t n = 0;
    uint64_t start = clock_ns();
    (void)multiply_once(b, format, row_bytes, batch);
    do b->samples[n++] = multiply_once(b, format, row_bytes, batch);
    while (n < SAMPLES_MAX && (n < 3 || clock_seconds_since(start) * 1e3 < flags->time_ms));
    qsort(b->samples, n, sizeof *b->samples, compare);
    double seconds = b->samples[n / 2], products = (double)flags->n_out * flags->n_in * batch;
    double gb = (double)row_bytes * flags->n_out / seconds * 1e-9, gflop = 2 * products / seconds * 1e-9;
    const char *line = flags->json ? "{\"format\": \"%s\", \"rows\": %u, \"cols\": %u, \"batch\": %u, \"threads\": %u, "
                                     "\"ms\": %.4f, \"gb_s\": %.4g, \"gflop_s\": %.4g}\n"
                                   : "%s,%u,%u,%u,%u,%.4f,%.4g,%.4g\n";
    (void)printf(line, format->name, flags->n_out, flags->n_in, batch, thread_pool_size(b->pool), seconds * 1e3, gb,
                 gflop);
    (void)fflush(stdout);
}

static enum ds4_status measure_format(struct ops_bench *b, const struct quant_format *format, const uint32_t *batches,
                                      size_t n_batches, struct ds4_error *error)
{
    uint64_t row_bytes;
    if (!quant_row_bytes(format, b->flags->n_in, &row_bytes))
        return err_set(error, DS4_ERR_FORMAT, "%u inputs are not whole blocks of %s", b->flags->n_in, format->name);
    TRY(make_weights(b, format, row_bytes, error));
    for (size_t i = 0; i < n_batches; i++) measure(b, format, row_bytes, batches[i]);
    mem_unmap(b->weights, b->weights_bytes);
    return DS4_OK;
}

static enum ds4_status read_batches(const struct option_list *list, uint32_t *batches, size_t *n,
                                    struct ds4_error *error)
{
    static const uint32_t usual[] = {1, 2, 8, 12, 512};
    *n = list->n;
    for (size_t i = 0; i < list->n; i++) {
        uint64_t value;
        struct ds4_span text = {list->items[i], strlen(list->items[i])};
        if (!options_parse_u64(text, 1, BATCH_MAX, &value))
            return err_set(error, DS4_ERR_FORMAT, "--batch %s is not a number from 1 to %u", list->items[i], BATCH_MAX);
        batches[i] = (uint32_t)value;
    }
    if (*n) return DS4_OK;
    *n = sizeof usual / sizeof *usual;
    memcpy(batches, usual, sizeof usual);
    return DS4_OK;
}

static enum ds4_status measure_all(struct ops_bench *b, const uint32_t *batches, size_t n_batches,
                                   struct ds4_error *error)
{
    const struct option_list *names = &b->flags->formats;
    if (!b->flags->json) (void)printf("format,rows,cols,batch,threads,ms,GB/s,GFLOP/s\n");
    for (size_t i = 0; i < names->n; i++) {
        struct ds4_span name = {names->items[i], strlen(names->items[i])};
        const struct quant_format *format = quant_format_named(name);
        if (!format || !format->decode)
            return err_set(error, DS4_ERR_FORMAT, "no weight format %s can be multiplied", names->items[i]);
        TRY(measure_format(b, format, batches, n_batches, error));
    }
    for (size_t i = 0; names->n == 0 && quant_format_at(i); i++)
        if (quant_format_at(i)->weight) TRY(measure_format(b, quant_format_at(i), batches, n_batches, error));
    return DS4_OK;
}

static enum ds4_status run(struct ops_bench *b, struct ds4_error *error)
{
    enum ds4_status status;
    uint32_t batches[OPTION_LIST_MAX], batch_max = 1;
    size_t n_batches;
    TRY(read_batches(&b->flags->batches, batches, &n_batches, error));
    for (size_t i = 0; i < n_batches; i++) batch_max = batches[i] > batch_max ? batches[i] : batch_max;
    struct backend_limits limits = {.n_rows = batch_max, .n_in = b->flags->n_in, .n_heads = 1, .dim = 64,
                                    .n_attn_rows = 1, .n_index_heads = 1, .index_dim = 32, .n_index_rows = 1,
                                    .n_experts = 2, .n_used = 1, .n_ff = b->flags->n_in};
    TRY_GOTO(thread_pool_create(b->flags->n_threads, &b->pool, error), out);
    TRY_GOTO(backend_cpu_create(b->pool, &limits, &b->backend, error), out);
    b->x = mem_zalloc((size_t)batch_max * b->flags->n_in, sizeof *b->x);
    b->y = mem_zalloc((size_t)batch_max * b->flags->n_out, sizeof *b->y);
    if (!b->x || !b->y) {
        status = err_set(error, DS4_ERR_NOMEM, "no memory for %u rows", batch_max);
        goto out;
    }
    struct rng rng = {1};
    for (size_t i = 0; i < (size_t)batch_max * b->flags->n_in; i++) b->x[i] = rng_float(&rng) - 0.5f;
    status = measure_all(b, batches, n_batches, error);
out:
    mem_free(b->x);
    mem_free(b->y);
    if (b->backend) b->backend->ops->destroy(b->backend);
    thread_pool_destroy(b->pool);
    return status;
}

int cmd_bench_ops(int argc, char **argv)
{
    static struct ops_bench bench;
    struct ops_flags flags;
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    bench = (struct ops_bench){.flags = &flags};
    return run(&bench, &error) == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
