/* index.c - choosing rows for one token: scores of all index rows of a layer and the best of them.
 *
 *   index [realtime=1]
 *
 * Shapes of V4 Flash: 64 heads of 128, a row for four tokens, the best 512. Rows are random. The last column is what
 * the 21 layers that choose rows add to a token. One thread; each figure is the median of seven. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "ops/backend.h"
#include "ops/rows.h"

#define N_HEADS 64u
#define DIM 128u
#define TOP_K 512u
#define RATIO 4u
#define TOKENS_MAX 1048576u
#define LAYERS 21
#define SAMPLES 7

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double seconds_of(struct backend *backend, const struct index_select_args *args)
{
    double seconds[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) {
        uint64_t start = clock_ns();
        backend->ops->index_select(backend, args);
        seconds[i] = clock_seconds_since(start);
    }
    qsort(seconds, SAMPLES, sizeof *seconds, by_value);
    return seconds[SAMPLES / 2];
}

static void fill(struct rng *rng, float *q, float *w, uint8_t *rows, uint32_t row_bytes)
{
    float values[DIM];
    for (uint32_t i = 0; i < N_HEADS * DIM; i++) q[i] = rng_float(rng) - 0.5f;
    for (uint32_t i = 0; i < N_HEADS; i++) w[i] = rng_float(rng) - 0.5f;
    for (uint32_t row = 0; row < TOKENS_MAX / RATIO; row++) {
        for (uint32_t i = 0; i < DIM && row < 4096; i++) values[i] = rng_float(rng) - 0.5f;
        if (row < 4096) index_row_pack(values, DIM, rows + (size_t)row * row_bytes);
        else memcpy(rows + (size_t)row * row_bytes, rows + (size_t)(row % 4093) * row_bytes, row_bytes);
    }
}

static int measure(struct backend *backend)
{
    uint32_t row_bytes = index_row_bytes(OP_ROW_PACKED, DIM), span = 0, seq_i = 0;
    size_t bytes = (size_t)row_bytes * (TOKENS_MAX / RATIO);
    uint8_t *rows = mem_map(bytes);
    float *q = mem_alloc(N_HEADS * DIM, sizeof *q), w[N_HEADS];
    int32_t sel[TOP_K], n_sel, pos, token = 0;
    if (!rows || !q) return 1;
    struct rng rng = {7};
    fill(&rng, q, w, rows, row_bytes);
    struct index_query_args query = {1, N_HEADS, DIM, true, q};
    backend->ops->index_query(backend, &query);
    struct op_seq seq = {.n_rows = 1};
    struct index_select_args args = {.n_heads = N_HEADS, .dim = DIM, .top_k = TOP_K, .ratio = RATIO, .scale = 1,
                                     .q = q, .w = w, .sel = sel, .n_sel = &n_sel};
    args.batch = (struct op_batch){.n_rows = 1, .n_seqs = 1, .tokens = &token, .pos = &pos, .seq_i = &seq_i,
                                   .seqs = &seq, .spans = rows, .span_bytes = bytes, .span_ids = &span};
    args.rows = (struct op_span_rows){0, row_bytes, TOKENS_MAX / RATIO, OP_ROW_PACKED};
    (void)printf("tokens    rows    ms a layer   GB/s   ms a token\n");
    for (uint32_t tokens = 4096; tokens <= TOKENS_MAX; tokens *= 4) {
        pos = (int32_t)tokens - 1;
        double seconds = seconds_of(backend, &args), read = (double)row_bytes * (tokens / RATIO);
        (void)printf("%7u  %6u   %10.3f   %4.1f   %10.1f\n", tokens, tokens / RATIO, seconds * 1e3,
                     read / seconds * 1e-9, seconds * 1e3 * LAYERS);
    }
    mem_free(q);
    mem_unmap(rows, bytes);
    return 0;
}

int main(int argc, char **argv)
{
    struct ds4_error error = {0};
    struct backend *backend;
    struct backend_limits limits = {.n_rows = 1, .n_in = 64, .n_heads = 1, .dim = 64, .n_attn_rows = 1,
                                    .n_index_heads = N_HEADS, .index_dim = DIM, .n_index_rows = TOKENS_MAX / RATIO,
                                    .n_experts = 2, .n_used = 1, .n_ff = 64};
    struct sched_param param = {.sched_priority = 50};
    if (argc > 1 && strcmp(argv[1], "realtime=1") == 0) (void)sched_setscheduler(0, SCHED_FIFO, &param);
    if (backend_cpu_create(NULL, &limits, &backend, &error) != DS4_OK) {
        (void)fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    int failed = measure(backend);
    backend->ops->destroy(backend);
    return failed;
}
