/* ops_sample.c - what can be chosen of a row of logits, found on the GPU, and the choice itself. */
#include <string.h>

#include "gpu/backend_impl.h"

#define GROUPS_MAX 128u /* threadgroups that share a row; logits_join has a thread for each */

_Static_assert(offsetof(struct backend_candidates, ids) == 12 &&
                   offsetof(struct backend_candidates, logits) == 12 + 4 * BACKEND_CANDIDATES_MAX,
               "logits_join writes words");
_Static_assert(BACKEND_CANDIDATES_MAX == 512 && BACKEND_CHOICES == CHOICES && sizeof(struct backend_step) == 16 + 32 &&
                   offsetof(struct backend_step, choices) == 16,
               "logits_choose reads and writes words");

uint64_t gpu_sample_scratch(uint32_t n_vocab) { return n_vocab * 8ull + GROUPS_MAX * 16ull; }

static void bind_runs(struct gpu_call *c, const void *counts, const void *sums, const void *ids, const void *near,
                      uint32_t n_groups, uint32_t n)
{
    gpu_bind(c, counts, n_groups * sizeof(uint32_t));
    gpu_bind(c, sums, n_groups * sizeof(float));
    gpu_bind(c, ids, n * sizeof(uint32_t));
    gpu_bind(c, near, n * sizeof(float));
}

/* Where they will be, in scratch. */
static const struct backend_candidates *find(struct backend *b, const float *logits, uint32_t n, float margin,
                                             float temperature)
{
    struct backend_gpu *gpu = gpu_of(b);
    struct sample_record record = {.n = n, .n_max = BACKEND_CANDIDATES_MAX, .margin = margin};
    record.each = n > GROUPS_MAX * 256 ? gpu_groups(n, GROUPS_MAX) : 256;
    record.n_groups = gpu_groups(n, record.each);
    record.inverse_temperature = temperature > 0 ? 1 / temperature : 0;
    ensure(n > 0 && n <= gpu->limits.n_vocab);
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
    return there;
}

bool gpu_candidates(struct backend *b, const float *logits, uint32_t n, float margin, float temperature,
                    struct backend_candidates *out)
{
    b->ops->read(b, out, find(b, logits, n, margin, temperature), sizeof *out);
    return !gpu_of(b)->failed;
}

void gpu_choose(struct backend *b, const float *logits, uint32_t n, const struct backend_pick *how,
                struct backend_step *step, int32_t *token, int32_t *pos)
{
    bool draws = how->temperature > 0;
    struct choose_record record = {.draws = draws, .keeps_head = draws && (how->top_k > 0 || how->top_p < 1),
                                   .top_k = how->top_k, .below_min = how->below_min, .temperature = how->temperature,
                                   .min_p = how->min_p, .top_p = how->top_p};
    const struct backend_candidates *there = find(b, logits, n, how->margin, how->temperature);
    struct gpu_call c = gpu_call_begin(b);
    gpu_bind(&c, there, sizeof *there);
    gpu_bind(&c, step, sizeof *step);
    gpu_bind(&c, token, sizeof *token);
    gpu_bind(&c, pos, sizeof *pos);
    gpu_run(&c, c.b->plain[PIPE_logits_choose], &record, sizeof record, 1, 1, 1, 256);
}
