/* backend.c - creation of the CPU backend and its memory. See cpu.h. */
#include <string.h>

#include "base/mem.h"
#include "ops/cpu/cpu.h"

/* Sizes are sums of a few products of 32-bit limits; each product is checked, sums of checked ones stay far below 2^64
 * because every part must be below 2^48. */
#define PART_MAX ((uint64_t)1 << 48)

struct layout {
    uint64_t inputs, mix, order, first, active, scores, worker;
    bool fits;
};

static uint64_t part(struct layout *layout, uint64_t a, uint64_t b)
{
    uint64_t bytes = 0;
    if (!mul_ok(a, b, &bytes) || bytes > PART_MAX) layout->fits = false;
    return round_up(bytes & (PART_MAX * 2 - 1), 64);
}

static uint64_t largest(const uint64_t *sizes, uint32_t n)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < n; i++) most = sizes[i] > most ? sizes[i] : most;
    return most;
}

static struct layout lay_out(const struct backend_limits *limits)
{
    struct layout l = {.fits = true};
    uint32_t width = limits->n_in > limits->n_ff ? limits->n_in : limits->n_ff;
    uint64_t pairs = part(&l, limits->n_rows, limits->n_used ? limits->n_used : 1);
    uint64_t row = round_up(input_set_row_bytes(1u << INPUT_FINE, limits->n_in), 64) + CPU_GROUPS_MAX * 128;
    uint32_t forms = 1u << INPUT_FINE | 1u << INPUT_COARSE | 1u << INPUT_LANES | 1u << INPUT_OFFSET;
    uint64_t all_forms = input_set_row_bytes(forms, width) + CPU_GROUPS_MAX * 256;
    uint64_t expert_rows = part(&l, pairs, input_set_row_bytes(1u << INPUT_COARSE, limits->n_ff));
    uint64_t inputs[3] = {part(&l, limits->n_rows, row), expert_rows, round_up(all_forms, 64)};
    l.inputs = largest(inputs, 3);
    l.mix = part(&l, limits->n_rows, CPU_MIX_MAX * sizeof(float));
    l.order = part(&l, pairs, sizeof(uint32_t));
    l.first = part(&l, (uint64_t)limits->n_experts + 1, sizeof(uint32_t));
    l.active = part(&l, limits->n_experts, sizeof(uint32_t));
    l.scores = part(&l, (uint64_t)limits->n_index_rows + 8, sizeof(float));

    uint64_t heads = limits->n_heads, index_heads = limits->n_index_heads + 64;
    uint64_t outputs = (uint64_t)2 * COLS_MAX * TILE_ROWS_MAX * sizeof(float);
    uint64_t moe = part(&l, pairs, TILE_ROWS_MAX * sizeof(float)) + multiply_bytes() + outputs;
    uint64_t attention = part(&l, limits->dim, ATTENTION_BLOCK * sizeof(float)) +
                         part(&l, heads, ATTENTION_BLOCK * sizeof(float) + sizeof(struct attention_head));
    uint64_t index = l.scores + part(&l, index_heads, (uint64_t)limits->index_dim * 8 + 64) +
                     part(&l, (uint64_t)limits->index_dim + index_heads, ATTENTION_BLOCK * sizeof(float)) +
                     part(&l, index_heads, sizeof(struct gemm_col)) + TILE_ROWS * COLS_MAX * 8 * sizeof(float);
    uint64_t compress = part(&l, (uint64_t)limits->dim + limits->index_dim, sizeof(float));
    uint64_t sizes[4] = {moe, attention, index, compress};
    l.worker = round_up(largest(sizes, 4), 4096) + 4096;
    return l;
}

static uint64_t shared_bytes(const struct layout *l)
{
    return l->inputs + l->mix + l->order + l->first + l->active + l->scores;
}

static size_t cpu_scratch_bytes(const struct backend_limits *limits, uint32_t n_threads)
{
    struct layout l = lay_out(limits);
    uint64_t workers;
    if (!l.fits || !mul_ok(l.worker, n_threads, &workers)) return SIZE_MAX;
    return (size_t)(shared_bytes(&l) + workers);
}

static void *cpu_alloc(struct backend *b, size_t bytes)
{
    (void)b;
    return mem_map(bytes);
}

static void cpu_release(struct backend *b, void *ptr, size_t bytes)
{
    (void)b;
    mem_unmap(ptr, bytes);
}

static void cpu_copy(struct backend *b, void *to, const void *from, size_t bytes)
{
    (void)b;
    if (bytes) memcpy(to, from, bytes);
}

static enum ds4_status cpu_finish(struct backend *b, struct ds4_error *error)
{
    (void)b;
    (void)error;
    return DS4_OK; /* nothing that it does can fail after creation */
}

static void cpu_destroy(struct backend *b)
{
    if (!b) return;
    struct backend_cpu *cpu = cpu_of(b);
    mem_unmap(cpu->map, (size_t)cpu->map_bytes);
    mem_free(cpu);
}

void cpu_run(struct backend_cpu *cpu, thread_pool_fn fn, const void *args, uint32_t n_tasks)
{
    struct cpu_job job = {cpu, args};
    if (cpu->base.pool && n_tasks > 1) {
        thread_pool_run(cpu->base.pool, fn, &job, n_tasks);
        return;
    }
    for (uint32_t task_i = 0; task_i < n_tasks; task_i++) fn(&job, task_i, 0);
}

const struct cpu_kernels *cpu_kernels_best(void)
{
#if defined(__x86_64__)
    if (cpu_kernels_avx512vnni.supported()) return &cpu_kernels_avx512vnni;
    if (cpu_kernels_avx512.supported()) return &cpu_kernels_avx512;
    if (cpu_kernels_avx2.supported()) return &cpu_kernels_avx2;
#elif defined(__aarch64__)
    if (cpu_kernels_neoni8mm.supported()) return &cpu_kernels_neoni8mm;
    if (cpu_kernels_neondot.supported()) return &cpu_kernels_neondot;
    return &cpu_kernels_neon;
#endif
    return &cpu_kernels_scalar;
}

const struct backend_ops backend_cpu_ops = {
    .name = "cpu",
    .alloc = cpu_alloc,
    .release = cpu_release,
    .write = cpu_copy,
    .read = cpu_copy,
    .finish = cpu_finish,
    .destroy = cpu_destroy,
    .scratch_bytes = cpu_scratch_bytes,
#define OP(op_name) .op_name = cpu_##op_name,
#include "ops/ops.def"
#undef OP
};

static void place(struct backend_cpu *cpu, const struct layout *l)
{
    uint8_t *at = cpu->map;
    cpu->inputs = at;
    cpu->mix = (float *)(void *)(at += l->inputs);
    cpu->order = (uint32_t *)(void *)(at += l->mix);
    cpu->first = (uint32_t *)(void *)(at += l->order);
    cpu->active = (uint32_t *)(void *)(at += l->first);
    cpu->index_scores = (float *)(void *)(at += l->active);
    cpu->workers = at + l->scores;
}

enum ds4_status backend_cpu_create(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                                   struct ds4_error *error)
{
    *out = NULL;
    uint32_t n_threads = pool ? thread_pool_size(pool) : 1;
    struct layout l = lay_out(limits);
    size_t bytes = cpu_scratch_bytes(limits, n_threads);
    if (bytes == SIZE_MAX)
        return err_set(error, DS4_ERR_LIMIT, "the shapes asked of the CPU backend are beyond any memory");
    struct backend_cpu *cpu = mem_zalloc(1, sizeof *cpu);
    if (!cpu) return err_set(error, DS4_ERR_NOMEM, "no memory for the CPU backend");
    cpu->base.ops = &backend_cpu_ops;
    cpu->base.pool = pool;
    cpu->limits = *limits;
    cpu->kernels = cpu_kernels_best();
    cpu->n_threads = n_threads;
    cpu->input_bytes = l.inputs;
    cpu->worker_bytes = l.worker;
    cpu->map_bytes = bytes;
    cpu->map = mem_map(bytes);
    if (!cpu->map) {
        mem_free(cpu);
        return err_set(error, DS4_ERR_NOMEM, "no memory for %zu bytes of scratch of the CPU backend", bytes);
    }
    place(cpu, &l);
    *out = &cpu->base;
    return DS4_OK;
}
