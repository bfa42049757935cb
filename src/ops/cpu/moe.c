/* moe.c - routed experts: the router, gate and up with their activation, and down. The (row, choice) pairs of the batch
 * are sorted by expert, so that an expert's weights are unpacked once for all rows that chose it. Scores of the router
 * are computed in double and compared after rounding to float32, ties to the lower id. Model spec 4.7. */
#include <math.h>

#include "ops/cpu/cpu.h"

#define EXPERTS_MAX 1024u

static double softplus(double z) { return z > 20 ? z : log1p(exp(z)); }
static double router_score(float logit) { return sqrt(softplus((double)logit)); }

static int32_t best_expert(const float *scores, const bool *taken, uint32_t n)
{
    int32_t best = -1;
    for (uint32_t e = 0; e < n; e++)
        if (!taken[e] && (best < 0 || scores[e] > scores[best])) best = (int32_t)e;
    return best;
}

static void router_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct router_args *args = ((const struct cpu_job *)arg)->args;
    const float *logits = args->logits + (size_t)r * args->n_experts;
    int32_t *ids = args->ids + (size_t)r * args->n_used;
    float scores[EXPERTS_MAX];
    bool taken[EXPERTS_MAX] = {false};
    for (uint32_t e = 0; e < args->n_experts && !args->hash; e++)
        scores[e] = (float)(router_score(logits[e]) + (args->bias ? (double)args->bias[e] : 0));
    double sum = 0;
    for (uint32_t i = 0; i < args->n_used; i++) {
        ids[i] = args->hash ? args->hash[(size_t)args->tokens[r] * args->n_used + i]
                            : best_expert(scores, taken, args->n_experts);
        ensure(ids[i] >= 0 && (uint32_t)ids[i] < args->n_experts);
        taken[ids[i]] = true;
        sum += router_score(logits[ids[i]]);
    }
    for (uint32_t i = 0; i < args->n_used; i++)
        args->weights[(size_t)r * args->n_used + i] = (float)((double)args->scale * router_score(logits[ids[i]]) / sum);
}

void cpu_router(struct backend *b, const struct router_args *args)
{
    ensure(args->n_used <= args->n_experts && args->n_experts <= EXPERTS_MAX);
    cpu_run(cpu_of(b), router_row, args, args->n_rows);
}

/* Fills order, first and active by counting; returns the number of active experts. */
static uint32_t sort_pairs(struct backend_cpu *cpu, const int32_t *ids, uint32_t n_pairs, uint32_t n_experts)
{
    uint32_t *first = cpu->first, n_active = 0;
    ensure(n_experts <= cpu->limits.n_experts && n_pairs <= cpu->limits.n_rows * cpu->limits.n_used);
    for (uint32_t e = 0; e <= n_experts; e++) first[e] = 0;
    for (uint32_t pair = 0; pair < n_pairs; pair++) {
        ensure(ids[pair] >= 0 && (uint32_t)ids[pair] < n_experts);
        first[ids[pair] + 1]++;
    }
    for (uint32_t e = 0; e < n_experts; e++) {
        if (first[e + 1]) cpu->active[n_active++] = e;
        first[e + 1] += first[e];
    }
    for (uint32_t pair = 0; pair < n_pairs; pair++) cpu->order[first[ids[pair]]++] = pair;
    for (uint32_t e = n_experts; e > 0; e--) first[e] = first[e - 1]; /* each start had moved to its end */
    first[0] = 0;
    return n_active;
}

/* Experts that are in memory come first, so that there is work while the others are read. */
static void there_first(struct backend_cpu *cpu, const struct op_weight *w, uint32_t n_active)
{
    if (!w->stacks) return;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_active; i++) {
        uint32_t expert = cpu->active[i];
        if (!op_weight_is_there(w, expert)) continue;
        for (uint32_t k = i; k > n; k--) cpu->active[k] = cpu->active[k - 1];
        cpu->active[n++] = expert;
    }
}

struct expert_job {
    const struct moe_gate_up_args *up;
    const struct moe_down_args *down;
    struct input_set inputs;
    uint32_t n_active, task_rows;
};

/* A task is a run of outputs of one expert, for all its pairs. */
static void gate_up_task(void *arg, uint32_t task_i, uint32_t worker_i)
{
    const struct cpu_job *job = arg;
    const struct expert_job *what = job->args;
    const struct moe_gate_up_args *args = what->up;
    const struct backend_cpu *cpu = job->cpu;
    uint32_t n_blocks = (args->gate.n_out + what->task_rows - 1) / what->task_rows;
    uint32_t expert = cpu->active[task_i / n_blocks], row = task_i % n_blocks * what->task_rows;
    uint32_t n = min_u32(what->task_rows, args->gate.n_out - row);
    float *gates = (float *)(void *)((uint8_t *)worker_scratch(cpu, worker_i) + multiply_bytes());
    float *ups = gates + COLS_MAX * TILE_ROWS_MAX;
    struct gemm_col *cols = worker_scratch(cpu, worker_i);
    for (uint32_t at = cpu->first[expert]; at < cpu->first[expert + 1]; at += COLS_MAX) {
        uint32_t n_cols = min_u32(COLS_MAX, cpu->first[expert + 1] - at);
        for (int up = 0; up < 2; up++) {
            const struct op_weight *w = up ? &args->up : &args->gate;
            for (uint32_t c = 0; c < n_cols; c++) {
                cols[c].x = input_of(&what->inputs, form_of(format_of(cpu, w)), cpu->order[at + c] / args->n_used);
                cols[c].y = (up ? ups : gates) + c * TILE_ROWS_MAX;
            }
            multiply_rows(cpu, w, expert, row, n, n_cols, cols);
        }
        for (uint32_t c = 0; c < n_cols; c++) {
            uint32_t pair = cpu->order[at + c];
            cpu->kernels->swiglu(gates + c * TILE_ROWS_MAX, ups + c * TILE_ROWS_MAX, args->limit, args->weights[pair],
                                 n, args->m + (size_t)pair * args->gate.n_out + row);
        }
    }
}

void cpu_moe_gate_up(struct backend *b, const struct moe_gate_up_args *args)
{
    struct backend_cpu *cpu = cpu_of(b);
    ensure(args->gate.n_in == args->up.n_in && args->gate.n_out == args->up.n_out);
    struct expert_job what = {.up = args};
    what.n_active = sort_pairs(cpu, args->ids, args->n_rows * args->n_used, args->gate.n_stack);
    there_first(cpu, &args->gate, what.n_active);
    const struct format_kernels *gate = format_of(cpu, &args->gate), *up = format_of(cpu, &args->up);
    what.task_rows = tile_rows_of(tile_rows_of(up) > tile_rows_of(gate) ? up : gate);
    input_set_make(cpu, &what.inputs, args->x, args->n_rows, args->gate.n_in, 1u << form_of(gate) | 1u << form_of(up));
    cpu_run(cpu, gate_up_task, &what, what.n_active * ((args->gate.n_out + what.task_rows - 1) / what.task_rows));
}

/* A task is a run of outputs for the whole batch: first the part of every pair, then their sum in order of choice. */
static void down_task(void *arg, uint32_t task_i, uint32_t worker_i)
{
    const struct cpu_job *job = arg;
    const struct expert_job *what = job->args;
    const struct moe_down_args *args = what->down;
    const struct backend_cpu *cpu = job->cpu;
    uint32_t row = task_i * what->task_rows, n = min_u32(what->task_rows, args->down.n_out - row);
    float *parts = (float *)(void *)((uint8_t *)worker_scratch(cpu, worker_i) + multiply_bytes()); /* [pair][n] */
    enum input_form form = form_of(format_of(cpu, &args->down));
    struct gemm_col *cols = worker_scratch(cpu, worker_i);
    for (uint32_t e = 0; e < what->n_active; e++) {
        uint32_t expert = cpu->active[e];
        for (uint32_t at = cpu->first[expert]; at < cpu->first[expert + 1]; at += COLS_MAX) {
            uint32_t n_cols = min_u32(COLS_MAX, cpu->first[expert + 1] - at);
            for (uint32_t c = 0; c < n_cols; c++) {
                cols[c].x = input_of(&what->inputs, form, cpu->order[at + c]);
                cols[c].y = parts + (size_t)cpu->order[at + c] * n;
            }
            multiply_rows(cpu, &args->down, expert, row, n, n_cols, cols);
        }
    }
    for (uint32_t r = 0; r < args->n_rows; r++) {
        const float *from = parts + (size_t)r * args->n_used * n;
        float *y = args->y + (size_t)r * args->down.n_out + row;
        for (uint32_t j = 0; j < n; j++) {
            float sum = 0;
            for (uint32_t i = 0; i < args->n_used; i++) sum += from[i * n + j];
            y[j] = sum;
        }
    }
}

void cpu_moe_down(struct backend *b, const struct moe_down_args *args)
{
    struct backend_cpu *cpu = cpu_of(b);
    struct expert_job what = {.down = args};
    uint32_t n_pairs = args->n_rows * args->n_used;
    what.n_active = sort_pairs(cpu, args->ids, n_pairs, args->down.n_stack);
    const struct format_kernels *format = format_of(cpu, &args->down);
    what.task_rows = tile_rows_of(format);
    input_set_make(cpu, &what.inputs, args->m, n_pairs, args->down.n_in, 1u << form_of(format));
    cpu_run(cpu, down_task, &what, (args->down.n_out + what.task_rows - 1) / what.task_rows);
}
