/* backend.c - the reference backend: ordinary memory, work done when called. Scratch of each worker is sized once from
 * the limits: attention needs the rows of one query unpacked and their weights, the indexer one key a row. */
#include "ops/ref/ref.h"

#include <string.h>

#include "base/mem.h"

/* Rounded up so that arrays of doubles can follow each other. */
static uint64_t align_bytes(uint64_t bytes) { return (bytes + 63) / 64 * 64; }

/* false: the limits are beyond any address space. */
static bool worker_scratch_bytes(const struct backend_limits *limits, uint64_t *out)
{
    uint64_t rows, attention, index;
    if (!mul_ok((uint64_t)limits->n_attn_rows * limits->dim, sizeof(float), &rows)) return false;
    if (!add_ok(rows, (uint64_t)limits->n_attn_rows * sizeof(double), &attention)) return false;
    if (!add_ok(attention, (uint64_t)limits->dim * sizeof(double), &attention)) return false;
    index = (uint64_t)limits->n_index_rows * sizeof(uint32_t) + (uint64_t)limits->index_dim * sizeof(float);
    uint64_t compress = ((uint64_t)limits->dim + limits->index_dim) * sizeof(float);
    uint64_t most = attention > index ? attention : index;
    if (compress > most) most = compress;
    *out = align_bytes(most) + 256; /* room for the alignment of each part */
    return true;
}

static size_t ref_scratch_bytes(const struct backend_limits *limits, uint32_t n_threads)
{
    uint64_t worker, all;
    if (!worker_scratch_bytes(limits, &worker) || !mul_ok(worker, n_threads, &all)) return SIZE_MAX;
    return (size_t)all;
}

void ref_run(struct backend *b, thread_pool_fn fn, const void *args, uint32_t n_tasks)
{
    struct ref_job job = {(struct backend_ref *)b, args};
    if (b->pool && n_tasks > 1) {
        thread_pool_run(b->pool, fn, &job, n_tasks);
        return;
    }
    for (uint32_t task_i = 0; task_i < n_tasks; task_i++) fn(&job, task_i, 0);
}

static void *ref_alloc(struct backend *b, size_t bytes)
{
    (void)b;
    return mem_map(bytes);
}

static void ref_release(struct backend *b, void *ptr, size_t bytes)
{
    (void)b;
    mem_unmap(ptr, bytes);
}

static void ref_copy(struct backend *b, void *to, const void *from, size_t bytes)
{
    (void)b;
    if (bytes) memcpy(to, from, bytes);
}

static enum ds4_status ref_finish(struct backend *b, struct ds4_error *error)
{
    (void)b;
    (void)error;
    return DS4_OK; /* nothing that it does can fail after creation */
}

static void ref_destroy(struct backend *b)
{
    struct backend_ref *ref = (struct backend_ref *)b;
    if (!ref) return;
    mem_unmap(ref->scratch, (size_t)ref->scratch_bytes);
    mem_free(ref);
}

const struct backend_ops backend_ref_ops = {
    .name = "ref",
    .alloc = ref_alloc,
    .release = ref_release,
    .write = ref_copy,
    .read = ref_copy,
    .finish = ref_finish,
    .destroy = ref_destroy,
    .scratch_bytes = ref_scratch_bytes,
#define OP(op_name) .op_name = ref_##op_name,
#include "ops/ops.def"
#undef OP
};

enum ds4_status backend_ref_create(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                                   struct ds4_error *error)
{
    enum ds4_status status;
    *out = NULL;
    uint32_t n_threads = pool ? thread_pool_size(pool) : 1;
    struct backend_ref *ref = mem_zalloc(1, sizeof *ref);
    if (!ref) return err_set(error, DS4_ERR_NOMEM, "no memory for the reference backend");
    ref->base.ops = &backend_ref_ops;
    ref->base.pool = pool;
    ref->limits = *limits;
    ref->n_threads = n_threads;
    if (!worker_scratch_bytes(limits, &ref->worker_bytes) ||
        !mul_ok(ref->worker_bytes, n_threads, &ref->scratch_bytes)) {
        status = err_set(error, DS4_ERR_LIMIT, "the shapes asked of the reference backend overflow");
        goto fail;
    }
    ref->scratch = mem_map((size_t)ref->scratch_bytes);
    if (!ref->scratch) {
        status = err_set(error, DS4_ERR_NOMEM, "no memory for %llu bytes of scratch of the reference backend",
                         (unsigned long long)ref->scratch_bytes);
        goto fail;
    }
    *out = &ref->base;
    return DS4_OK;
fail:
    mem_free(ref);
    return status;
}
