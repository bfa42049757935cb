/* moe.c - mixture of experts: router, the gate and up projections of the chosen experts, and their down projection.
 * Model spec 4.7. Router scores with bias are compared after rounding to float32, ties to the lower id; weights come
 * from the scores without bias. */
#include "ops/ref/ref.h"

#define OUTPUTS_PER_TASK 64

static double softplus(double z) { return z > 20 ? z : log1p(exp(z)); }
static double router_score(float logit) { return sqrt(softplus((double)logit)); }

/* The best expert that is not among the first n_taken ids. */
static int32_t best_expert(const struct router_args *args, const float *logits, const int32_t *ids, uint32_t n_taken)
{
    int32_t best = -1;
    float best_score = 0;
    for (uint32_t e = 0; e < args->n_experts; e++) {
        bool taken = false;
        for (uint32_t i = 0; i < n_taken; i++) taken |= ids[i] == (int32_t)e;
        if (taken) continue;
        float score = (float)(router_score(logits[e]) + (args->bias ? (double)args->bias[e] : 0));
        if (best >= 0 && !(score > best_score)) continue;
        best = (int32_t)e;
        best_score = score;
    }
    return best;
}

static void router_row(void *arg, uint32_t r, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct router_args *args = job->args;
    const float *logits = args->logits + (size_t)r * args->n_experts;
    int32_t *ids = args->ids + (size_t)r * args->n_used;
    double sum = 0;
    for (uint32_t i = 0; i < args->n_used; i++) {
        if (args->hash) ids[i] = args->hash[(size_t)args->tokens[r] * args->n_used + i];
        else ids[i] = best_expert(args, logits, ids, i);
        ensure(ids[i] >= 0 && (uint32_t)ids[i] < args->n_experts);
        sum += router_score(logits[ids[i]]);
    }
    for (uint32_t i = 0; i < args->n_used; i++) {
        double weight = (double)args->scale * router_score(logits[ids[i]]) / sum;
        args->weights[(size_t)r * args->n_used + i] = (float)weight;
    }
}

void ref_router(struct backend *b, const struct router_args *args)
{
    ensure(args->n_used <= args->n_experts);
    ref_run(b, router_row, args, args->n_rows);
}

/* A task is a run of outputs of one (row, choice). */
static void gate_up_outputs(void *arg, uint32_t task_i, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct moe_gate_up_args *args = job->args;
    uint32_t n_out = args->gate.n_out, n_runs = (n_out + OUTPUTS_PER_TASK - 1) / OUTPUTS_PER_TASK;
    uint32_t pair = task_i / n_runs, first = task_i % n_runs * OUTPUTS_PER_TASK;
    const float *x = args->x + (size_t)(pair / args->n_used) * args->gate.n_in;
    float *m = args->m + (size_t)pair * n_out;
    for (uint32_t o = first; o < n_out && o < first + OUTPUTS_PER_TASK; o++) {
        double gate, up;
        ref_dot(&args->gate, (uint32_t)args->ids[pair], o, x, 0, 1, &gate);
        ref_dot(&args->up, (uint32_t)args->ids[pair], o, x, 0, 1, &up);
        m[o] = (float)((double)args->weights[pair] * ref_silu_product(gate, up, (double)args->limit));
    }
}

void ref_moe_gate_up(struct backend *b, const struct moe_gate_up_args *args)
{
    ensure(args->gate.n_in == args->up.n_in && args->gate.n_out == args->up.n_out);
    uint32_t n_runs = (args->gate.n_out + OUTPUTS_PER_TASK - 1) / OUTPUTS_PER_TASK;
    ref_run(b, gate_up_outputs, args, args->n_rows * args->n_used * n_runs);
}

/* A task is a run of outputs of one row. */
static void down_outputs(void *arg, uint32_t task_i, uint32_t worker_i)
{
    (void)worker_i;
    const struct ref_job *job = arg;
    const struct moe_down_args *args = job->args;
    uint32_t n_out = args->down.n_out, n_runs = (n_out + OUTPUTS_PER_TASK - 1) / OUTPUTS_PER_TASK;
    uint32_t r = task_i / n_runs, first = task_i % n_runs * OUTPUTS_PER_TASK;
    for (uint32_t o = first; o < n_out && o < first + OUTPUTS_PER_TASK; o++) {
        double sum = 0;
        for (uint32_t i = 0; i < args->n_used; i++) {
            size_t pair = (size_t)r * args->n_used + i;
            double part;
            ref_dot(&args->down, (uint32_t)args->ids[pair], o, args->m + pair * args->down.n_in, 0, 1, &part);
            sum += part;
        }
        args->y[(size_t)r * n_out + o] = (float)sum;
    }
}

void ref_moe_down(struct backend *b, const struct moe_down_args *args)
{
    uint32_t n_runs = (args->down.n_out + OUTPUTS_PER_TASK - 1) / OUTPUTS_PER_TASK;
    ref_run(b, down_outputs, args, args->n_rows * n_runs);
}
