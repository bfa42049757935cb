/* ops_pack.c - matrices in a device's own memory laid out as its loads like them (kernels/packed.k). */
#include "gpu/backend_impl.h"
#include "quant/quant.h"

/* Groups and the parts of their blocks. Q4_K has blocks of 144 bytes that are aligned as they are. */
static const struct packing {
    uint32_t type;
    struct repack_record record;
} packings[] = {
    {QUANT_Q8_0, {34, 8, {2, 0}, {32, 2}}},
    {QUANT_Q2_K, {84, 4, {16, 0, 80}, {64, 16, 4}}},
    {QUANT_Q6_K, {210, 8, {0, 128, 192, 208}, {128, 64, 16, 2}}},
    {QUANT_IQ2_XXS, {66, 8, {2, 0}, {64, 2}}},
    {QUANT_MXFP4, {17, 16, {1, 0}, {16, 1}}},
};

static const struct packing *packing_of(uint32_t type)
{
    for (size_t i = 0; i < sizeof packings / sizeof *packings; i++)
        if (packings[i].type == type) return &packings[i];
    return NULL;
}

void gpu_pack(struct backend *b, struct op_weight *w)
{
    struct backend_gpu *gpu = gpu_of(b);
    const struct packing *packing = packing_of(w->type);
    uint64_t bytes = w->n_stack * w->stack_bytes;
    const struct region *region = packing && w->data ? gpu_region(gpu, w->data, bytes) : NULL;
    if (!region || !region->mapped || !gpu->host->is_copy || !gpu->host->is_copy(region->buffer)) return;
    uint32_t group = packing->record.block_bytes * packing->record.n_blocks;
    uint64_t n_groups = bytes / group;
    if (w->row_bytes % group || w->stack_bytes != w->n_out * w->row_bytes || n_groups > INT32_MAX ||
        (uint64_t)(w->data - region->first) % 16)
        return;
    struct gpu_call c = gpu_call_begin(b);
    gpu_bind(&c, w->data, bytes);
    gpu_run(&c, gpu->plain[PIPE_repack], &packing->record, sizeof packing->record, (uint32_t)n_groups, 1, 1, 128);
    w->type |= OP_PACKED;
}
