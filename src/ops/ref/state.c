/* state.c - storing raw key-value rows into the rings of their sessions. Model spec 4.3(3) and 3.1. */
#include <string.h>

#include "ops/ref/ref.h"
#include "ops/rows.h"

static void kv_store_row(void *arg, uint32_t r, uint32_t worker_i)
{
    const struct ref_job *job = arg;
    const struct kv_store_args *args = job->args;
    const struct op_batch *batch = &args->batch;
    float *row = ref_scratch(job, worker_i);
    memcpy(row, args->kv + (size_t)r * args->dim, args->dim * sizeof *row);
    uint8_t *to = ring_row(batch, &batch->seqs[batch->seq_i[r]], &args->ring, batch->pos[r]);
    kv_row_store(row, args->dim, args->n_rope, args->round, args->ring.format, to);
}

/* The rows of a session must not be more than the slots of its ring, else two of them would share one. */
void ref_kv_store(struct backend *b, const struct kv_store_args *args)
{
    const struct backend_limits *limits = &((struct backend_ref *)b)->limits;
    ensure(args->dim <= limits->dim);
    for (uint32_t i = 0; i < args->batch.n_seqs; i++) ensure(args->batch.seqs[i].n_rows <= args->ring.n_slots);
    ref_run(b, kv_store_row, args, args->batch.n_rows);
}
