/* ops_sample.c - what can be chosen of a row of logits, found on the GPU, and the choice itself. */
#include <string.h>

#include "gpu/backend_impl.h"

#define GROUPS_MAX 128u /* threadgroups that share a row; logits_join has a thread for each */
#define ROWS_MAX 8u     /* at a time: scratch is for as many */

_Static_assert(offsetof(struct backend_candidates, ids) == 12 &&
                   offsetof(struct backend_candidates, logits) == 12 + 4 * BACKEND_CANDIDATES_MAX &&
                   sizeof(struct backend_candidates) == 12 + 8 * BACKEND_CANDIDATES_MAX,
               "logits_join writes words");
_Static_assert(BACKEND_CANDIDATES_MAX == 512 && BACKEND_CHOICES == CHOICES && sizeof(struct backend_choice) == 8 &&
                   sizeof(struct backend_step) == STEP_WORDS * 4 &&
                   offsetof(struct backend_step, how.margin) == STEP_MARGIN * 4 &&
                   offsetof(struct backend_step, how.temperature) == STEP_TEMPERATURE * 4 &&
                   offsetof(struct backend_step, how.min_p) == STEP_MIN_P * 4 &&
                   offsetof(struct backend_step, how.top_p) == STEP_TOP_P * 4 &&
                   offsetof(struct backend_step, how.top_k) == STEP_TOP_K * 4 &&
                   offsetof(struct backend_step, how.below_min) == STEP_BELOW_MIN * 4 &&
                   offsetof(struct backend_step, generator) == STEP_GENERATOR * 4 &&
                   offsetof(struct backend_step, n) == STEP_N * 4,
               "logits_near and logits_choose read and write words");
_Static_assert(BACKEND_CHOICES <= GPU_POSTS_MAX &&
                   BACKEND_STEPS_MAX * sizeof(struct backend_choice) <= GPU_POST_BYTES,
               "the choices of all rows are posted together");

uint64_t gpu_sample_scratch(uint32_t n_vocab, uint32_t n_rows)
{
    uint64_t row = n_vocab * 8ull + GROUPS_MAX * 16ull + sizeof(struct backend_candidates);
    return row * (n_rows < ROWS_MAX ? n_rows : ROWS_MAX);
}

static void bind_runs(struct gpu_call *c, const void *counts, const void *sums, const void *ids, const void *near,
                      uint64_t n_runs, uint64_t n)
{
    gpu_bind(c, counts, n_runs * sizeof(uint32_t));
    gpu_bind(c, sums, n_runs * sizeof(float));
    gpu_bind(c, ids, n * sizeof(uint32_t));
    gpu_bind(c, near, n * sizeof(float));
}

/* Where those of each row will be, in scratch. steps: NULL, or what is looked for in each row. */
static const struct backend_candidates *find(struct backend *b, const float *logits, uint32_t n, uint32_t n_rows,
                                             const struct backend_step *steps, float margin, float temperature)
{
    struct backend_gpu *gpu = gpu_of(b);
    struct sample_record record = {.n = n, .n_max = BACKEND_CANDIDATES_MAX, .has_steps = steps != NULL,
                                   .margin = margin};
    record.each = n > GROUPS_MAX * 256 ? gpu_groups(n, GROUPS_MAX) : 256;
    record.n_groups = gpu_groups(n, record.each);
    record.inverse_temperature = temperature > 0 ? 1 / temperature : 0;
    ensure(n > 0 && n <= gpu->limits.n_vocab && n_rows <= ROWS_MAX && n_rows <= gpu->limits.n_rows);
    gpu_scratch_begin(b);
    const uint64_t n_runs = (uint64_t)n_rows * record.n_groups, n_all = (uint64_t)n_rows * n;
    float *most = gpu_scratch(b, n_runs * 8), *sums = gpu_scratch(b, n_runs * 4);
    uint32_t *counts = gpu_scratch(b, n_runs * 4), *ids = gpu_scratch(b, n_all * 4);
    float *near = gpu_scratch(b, n_all * 4);
    struct backend_candidates *there = gpu_scratch(b, n_rows * sizeof *there);
    struct gpu_call largest = gpu_call_begin(b), select = largest, join = largest;
    gpu_bind_floats(&largest, logits, n_all);
    gpu_bind_floats(&largest, most, n_runs * 2);
    gpu_run(&largest, gpu->plain[PIPE_logits_most], &record, sizeof record, record.n_groups, n_rows, 1, 256);
    gpu_bind_floats(&select, logits, n_all);
    gpu_bind_floats(&select, most, n_runs * 2);
    gpu_bind(&select, steps, n_rows * sizeof *steps);
    bind_runs(&select, counts, sums, ids, near, n_runs, n_all);
    gpu_run(&select, gpu->plain[PIPE_logits_near], &record, sizeof record, record.n_groups, n_rows, 1, 256);
    gpu_bind_floats(&join, most, n_runs * 2);
    bind_runs(&join, counts, sums, ids, near, n_runs, n_all);
    gpu_bind(&join, there, n_rows * sizeof *there);
    gpu_run(&join, gpu->plain[PIPE_logits_join], &record, sizeof record, 1, n_rows, 1, 256);
    return there;
}

bool gpu_candidates(struct backend *b, const float *logits, uint32_t n, float margin, float temperature,
                    struct backend_candidates *out)
{
    b->ops->read(b, out, find(b, logits, n, 1, NULL, margin, temperature), sizeof *out);
    return !gpu_of(b)->failed;
}

void gpu_choose(struct backend *b, const float *logits, uint32_t n, uint32_t n_rows, struct backend_step *steps,
                struct backend_choice *choices, int32_t *tokens, int32_t *pos)
{
    ensure(n_rows <= BACKEND_STEPS_MAX);
    for (uint32_t first = 0, now; first < n_rows; first += now) {
        struct choose_record record = {.n_rows = n_rows, .row_first = first};
        now = n_rows - first < ROWS_MAX ? n_rows - first : ROWS_MAX;
        const struct backend_candidates *there = find(b, logits + (size_t)first * n, n, now, steps + first, 0, 0);
        struct gpu_call c = gpu_call_begin(b);
        gpu_bind(&c, there, now * sizeof *there);
        gpu_bind(&c, steps + first, now * sizeof *steps);
        gpu_bind(&c, choices, (uint64_t)BACKEND_CHOICES * n_rows * sizeof *choices);
        gpu_bind(&c, tokens + first, now * sizeof *tokens);
        gpu_bind(&c, pos + first, now * sizeof *pos);
        gpu_run(&c, c.b->plain[PIPE_logits_choose], &record, sizeof record, now, 1, 1, 256);
    }
}
