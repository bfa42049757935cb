/* ops_sample.c - what can be chosen of a row of logits, found on the GPU. */
#include <string.h>

#include "gpu/backend_impl.h"

#define GROUPS_MAX 128u /* threadgroups that share a row; logits_join has a thread for each */

_Static_assert(offsetof(struct backend_candidates, ids) == 12 &&
                   offsetof(struct backend_candidates, logits) == 12 + 4 * BACKEND_CANDIDATES_MAX,
               "logits_join writes words");

uint64_t gpu_sample_scratch(uint32_t n_vocab) { return n_vocab * 8ull + GROUPS_MAX * 16ull; }

static void bind_runs(struct gpu_call *c, const void *counts, const void *sums, const void *ids, const void *near,
                      uint32_t n_groups, uint32_t n)
{
    gpu_bind(c, counts, n_groups * sizeof(uint32_t));
    gpu_bind(c, sums, n_groups * sizeof(float));
    gpu_bind(c, ids, n * sizeof(uint32_t));
    gpu_bind(c, near, n * sizeof(float));
}

bool gpu_candidates(struct backend *b, const float *logits, uint32_t n, float margin, float temperature,
                    struct backend_candidates *out)
{
    struct backend_gpu *gpu = gpu_of(b);
    struct sample_record record = {.n = n, .n_max = BACKEND_CANDIDATES_MAX, .margin = margin};
    record.each = n > GROUPS_MAX * 256 ? gpu_groups(n, GROUPS_MAX) : 256;
    record.n_groups = gpu_groups(n, record.each);
    record.inverse_temperature = temperature > 0 ? 1 / temperature : 0;
    if (n == 0 || n > gpu->limits.n_vocab) return false;
    gpu_scratch_begin(b);
    float *most = gpu_scratch(b, record.n_groups * 8ull), *sums = gpu_scratch(b, record.n_groups * 4ull);
    uint32_t *counts = gpu_scratch(b, record.n_groups * 4ull), *ids = gpu_scratch(b, n * 4ull);
    float *near = gpu_scratch(b, n * 4ull);
    struct backend_candidates *there = gpu_scratch(b, sizeof *there);
    struct gpu_call largest = gpu_call_begin(b), select = largest, join = largest;
    gpu_bind_floats(&largest, logits, n);
    gpu_bind_floats(&largest, most, record.n_groups * 2ull);
    gpu_run(&largest, gpu->plain[PIPE_logits_most], &record, sizeof record, record.n_groups, 1, 1, 256);
    gpu_bind_floats(&select, logits, n);
    gpu_bind_floats(&select, most, record.n_groups * 2ull);
    bind_runs(&select, counts, sums, ids, near, record.n_groups, n);
    gpu_run(&select, gpu->plain[PIPE_logits_near], &record, sizeof record, record.n_groups, 1, 1, 256);
    gpu_bind_floats(&join, most, record.n_groups * 2ull);
    bind_runs(&join, counts, sums, ids, near, record.n_groups, n);
    gpu_bind(&join, there, sizeof *there);
    gpu_run(&join, gpu->plain[PIPE_logits_join], &record, sizeof record, 1, 1, 1, 256);
    b->ops->read(b, out, there, sizeof *out);
    return !gpu->failed;
}
