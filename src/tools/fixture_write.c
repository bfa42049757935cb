/* fixture_write.c - puts a planned model into one GGUF file or several shards.
 *
 * Each shard gets an equal share of the list of tensors; the first carries the metadata. A tensor is made in pieces of
 * whole rows by a pool of threads, each piece written where it belongs, so memory stays at a few megabytes a thread.
 * Experts without data are not written: the file has holes there. */
#include <pthread.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/span.h"
#include "base/thread_pool.h"
#include "tools/fixture_plan.h"

#define PIECE_ELEMS (512u * 1024u)

struct job { /* one tensor at a time, shared by the threads */
    const struct fixture_config *config;
    const struct fixture_tensor *tensor;
    const struct fixture_maker *maker;
    struct gguf_writer *writer;
    size_t tensor_i;                       /* in the shard */
    uint32_t experts[FIXTURE_EXPERTS_MAX]; /* matrices to write */
    uint64_t piece_rows, pieces, row_bytes;
    float **values; /* [threads] */
    uint8_t **blocks;
    pthread_mutex_t lock; /* of the two below */
    enum ds4_status status;
    struct ds4_error *error;
};

static void run_piece(void *arg, uint32_t task_i, uint32_t worker_i)
{
    struct job *job = arg;
    const struct fixture_tensor *t = job->tensor;
    uint64_t first = task_i % job->pieces * job->piece_rows, left = t->dims[1] - first;
    struct fixture_piece piece = {
        .config = job->config, .tensor = t, .expert = job->experts[task_i / job->pieces], .first_row = first,
        .n_rows = left < job->piece_rows ? left : job->piece_rows,
    };
    struct ds4_error error = {0};
    fixture_make(job->maker, &piece, job->values[worker_i], job->blocks[worker_i]);
    uint64_t at = ((uint64_t)piece.expert * t->dims[1] + first) * job->row_bytes;
    enum ds4_status status = gguf_writer_data(job->writer, job->tensor_i, at, job->blocks[worker_i],
                                              (size_t)(piece.n_rows * job->row_bytes), &error);
    if (status == DS4_OK) return;
    (void)pthread_mutex_lock(&job->lock);
    if (job->status == DS4_OK) {
        job->status = status;
        (void)err_set(job->error, status, "%s", error.message);
    }
    (void)pthread_mutex_unlock(&job->lock);
}

static enum ds4_status write_tensor(struct job *job, struct thread_pool *pool)
{
    const struct fixture_tensor *t = job->tensor;
    uint32_t n_matrices = 1;
    job->experts[0] = 0;
    if (t->official_tail[0]) n_matrices = fixture_filled(job->config, t->layer, job->experts);
    ensure(quant_row_bytes(t->format, t->dims[0], &job->row_bytes));
    job->piece_rows = t->dims[0] < PIECE_ELEMS ? PIECE_ELEMS / t->dims[0] : 1;
    job->pieces = (t->dims[1] + job->piece_rows - 1) / job->piece_rows;
    thread_pool_run(pool, run_piece, job, (uint32_t)(n_matrices * job->pieces));
    return job->status;
}

static uint64_t piece_elems_max(const struct fixture_plan *plan)
{
    uint64_t n = PIECE_ELEMS;
    for (size_t i = 0; i < plan->n_tensors; i++)
        if (plan->tensors[i].dims[0] > n) n = plan->tensors[i].dims[0];
    return n;
}

static void free_buffers(struct job *job, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (job->values) mem_free(job->values[i]);
        if (job->blocks) mem_free(job->blocks[i]);
    }
    mem_free(job->values);
    mem_free(job->blocks);
}

static enum ds4_status make_buffers(struct job *job, uint32_t n, uint64_t elems)
{
    job->values = mem_zalloc(n, sizeof *job->values);
    job->blocks = mem_zalloc(n, sizeof *job->blocks);
    bool there = job->values && job->blocks;
    for (uint32_t i = 0; there && i < n; i++) {
        job->values[i] = mem_alloc((size_t)elems, sizeof(float));
        job->blocks[i] = mem_alloc((size_t)elems, 4);
        there = job->values[i] && job->blocks[i];
    }
    return there ? DS4_OK : err_set(job->error, DS4_ERR_NOMEM, "out of memory for %u threads", n);
}

/* ---- shards ------------------------------------------------------------------------------------------------- */

/* "X.gguf" -> "X-00001-of-00003.gguf". */
static void shard_path(char *out, size_t cap, const char *path, uint32_t shard_i, uint32_t n_shards)
{
    size_t stem = strlen(path);
    if (stem > 5 && strcmp(path + stem - 5, ".gguf") == 0) stem -= 5;
    if (n_shards == 1) (void)snprintf(out, cap, "%s", path);
    else (void)snprintf(out, cap, "%.*s-%05u-of-%05u.gguf", (int)stem, path, shard_i + 1, n_shards);
}

/* Readers want these three in exactly these types. */
static void put_split(struct gguf_writer *w, uint32_t shard_i, uint32_t n_shards, size_t n_tensors)
{
    uint16_t number = (uint16_t)shard_i, count = (uint16_t)n_shards;
    int32_t total = (int32_t)n_tensors;
    struct gguf_value v = {.type = GGUF_U16, .item_type = GGUF_U16, .count = 1, .size_bytes = sizeof number,
                           .bytes = (const uint8_t *)&number};
    gguf_put_value(w, SPAN("split.no"), &v);
    v.bytes = (const uint8_t *)&count;
    gguf_put_value(w, SPAN("split.count"), &v);
    v.type = v.item_type = GGUF_I32;
    v.size_bytes = sizeof total;
    v.bytes = (const uint8_t *)&total;
    gguf_put_value(w, SPAN("split.tensors.count"), &v);
}

/* What an engine reads where it lies; the rest it copies when it loads the file. */
static bool is_matrix(const struct fixture_tensor *t)
{
    struct ds4_span name = span_from(t->name);
    return t->dims[1] > 1 && span_find(name, SPAN("tid2eid"), 0) == SIZE_MAX &&
           span_find(name, SPAN("_ape"), 0) == SIZE_MAX;
}

static enum ds4_status write_shard(const struct fixture_plan *plan, const char *path, uint32_t shard_i, struct job *job,
                                   struct thread_pool *pool)
{
    const struct fixture_config *c = &plan->config;
    struct ds4_error *error = job->error;
    size_t first = plan->n_tensors * shard_i / c->n_shards, end = plan->n_tensors * (shard_i + 1) / c->n_shards;
    enum ds4_status status;
    char name[4096];
    shard_path(name, sizeof name, path, shard_i, c->n_shards);
    TRY(gguf_writer_create(name, &job->writer, error));
    if (shard_i == 0) fixture_put_metadata(job->writer, plan);
    if (c->n_shards > 1) put_split(job->writer, shard_i, c->n_shards, plan->n_tensors);
    for (size_t i = first; i < end; i++) {
        const struct fixture_tensor *t = &plan->tensors[i];
        gguf_put_tensor(job->writer, t->name, t->format->id, t->n_dims, t->dims);
    }
    TRY_GOTO(gguf_writer_begin(job->writer, error), out);
    for (size_t i = first; i < end && !c->empty; i++) {
        job->tensor = &plan->tensors[i];
        if (c->vectors && is_matrix(job->tensor)) continue;
        job->tensor_i = i - first;
        TRY_GOTO(write_tensor(job, pool), out);
    }
    status = gguf_writer_finish(job->writer, error);
out:
    gguf_writer_destroy(job->writer);
    return status;
}

enum ds4_status fixture_write(const struct fixture_plan *plan, const char *path, uint32_t n_threads,
                              struct ds4_error *error)
{
    struct thread_pool *pool = NULL;
    struct fixture_maker *maker = NULL;
    enum ds4_status status;
    struct job job = {.config = &plan->config, .error = error, .lock = PTHREAD_MUTEX_INITIALIZER};
    TRY_GOTO(thread_pool_create(n_threads, &pool, error), out);
    TRY_GOTO(fixture_maker_create(&maker, error), out);
    job.maker = maker;
    TRY_GOTO(make_buffers(&job, thread_pool_size(pool), piece_elems_max(plan)), out);
    for (uint32_t s = 0; s < plan->config.n_shards; s++) TRY_GOTO(write_shard(plan, path, s, &job, pool), out);
out:
    if (pool) free_buffers(&job, thread_pool_size(pool));
    fixture_maker_destroy(maker);
    thread_pool_destroy(pool);
    return status;
}
