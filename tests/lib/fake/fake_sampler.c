/* fake_sampler.c - sampling for the scripted engine: the same interface, plain sorting inside. See fake_engine.h. */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"
#include "lib/fake/fake_internal.h"
#include "session/sample.h"

#define FAKE_SEED_MAX (1u << 30)

struct ds4_sampler {
    struct ds4_sampling sampling;
    struct ds4_logit_bias bias[64];
    struct rng rng;
    uint32_t seen[FAKE_N_VOCAB];
};

struct ds4_sampling ds4_sampling_default(void)
{
    return (struct ds4_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

enum ds4_status ds4_sampler_create(const struct ds4_engine *engine, const struct ds4_sampling *sampling,
                                   struct ds4_sampler **out, struct ds4_error *error)
{
    (void)engine;
    *out = NULL;
    if (sampling->n_bias > 64) return err_set(error, DS4_ERR_LIMIT, "%zu biases, at most 64", sampling->n_bias);
    struct ds4_sampler *s = mem_zalloc(1, sizeof *s);
    if (!s) return err_set(error, DS4_ERR_NOMEM, "no memory for a sampler");
    s->sampling = *sampling;
    if (sampling->n_bias) memcpy(s->bias, sampling->bias, sampling->n_bias * sizeof *sampling->bias);
    s->sampling.bias = s->bias;
    /* A larger one is of the clock, as no request named any: tests that do not care see the same each time. */
    s->rng.state = sampling->seed < FAKE_SEED_MAX ? sampling->seed : 1;
    fake_stats.n_samplers++;
    *out = s;
    return DS4_OK;
}

void ds4_sampler_destroy(struct ds4_sampler *sampler)
{
    if (!sampler) return;
    fake_stats.n_samplers--;
    mem_free(sampler);
}

/* Scores after bias, penalties and mask; -INFINITY = not allowed. False when a logit is NaN. */
static bool score(const struct ds4_sampler *s, const float *logits, const uint32_t *mask, float *out)
{
    for (int32_t id = 0; id < FAKE_N_VOCAB; id++) {
        if (isnan(logits[id])) return false;
        out[id] = logits[id] - s->sampling.frequency_penalty * (float)s->seen[id];
        if (s->seen[id]) {
            out[id] -= s->sampling.presence_penalty;
            if (s->sampling.repetition_penalty > 0)
                out[id] = out[id] > 0 ? out[id] / s->sampling.repetition_penalty
                                      : out[id] * s->sampling.repetition_penalty;
        }
    }
    for (size_t i = 0; i < s->sampling.n_bias; i++)
        if (s->bias[i].id >= 0 && s->bias[i].id < FAKE_N_VOCAB) out[s->bias[i].id] += s->bias[i].bias;
    for (int32_t id = 0; mask && id < FAKE_N_VOCAB; id++)
        if (!(mask[id / 32] >> (id % 32) & 1u)) out[id] = -INFINITY;
    return true;
}

/* Those of a pass in the order of their logits, ties by id. */
struct ranked {
    float logit;
    int32_t id;
};

static int by_logit(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;
    if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

/* Draws from the tokens in descending order of score, cut by top_k, min_p and top_p. */
static int32_t draw(struct ds4_sampler *s, const struct ranked *order, size_t n)
{
    double total = 0, kept = 0, mass[FAKE_N_VOCAB];
    if (s->sampling.top_k > 0 && (size_t)s->sampling.top_k < n) n = (size_t)s->sampling.top_k;
    for (size_t i = 0; i < n; i++) {
        mass[i] = exp(((double)order[i].logit - (double)order[0].logit) / (double)s->sampling.temperature);
        if (mass[i] < (double)s->sampling.min_p || mass[i] <= 0) n = i;
        else total += mass[i];
    }
    for (size_t i = 0; i < n; i++) {
        kept += mass[i];
        if (kept >= (double)s->sampling.top_p * total) n = i + 1;
    }
    double target = (double)rng_float(&s->rng) * kept, sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += mass[i];
        if (sum > target) return order[i].id;
    }
    return order[0].id;
}

/* The best and, unless it is all that is wanted, those whose mass is not nothing, in order; e^-746 is 0. */
static size_t rank(const struct ds4_sampler *s, const float *scores, bool greedy, struct ranked *order)
{
    struct ranked best = {scores[0], 0};
    size_t n = 0;
    for (int32_t id = 1; id < FAKE_N_VOCAB; id++)
        if (scores[id] > best.logit) best = (struct ranked){scores[id], id};
    order[0] = best;
    if (greedy) return 1;
    double mass_log_min = s->sampling.min_p > 0 ? log((double)s->sampling.min_p) - 0.01 : -746;
    float least = (float)((double)best.logit + mass_log_min * (double)s->sampling.temperature);
    for (int32_t id = 0; id < FAKE_N_VOCAB; id++)
        if (scores[id] >= least && !isinf(scores[id])) order[n++] = (struct ranked){scores[id], id};
    qsort(order, n, sizeof *order, by_logit);
    return n;
}

enum ds4_status ds4_sampler_pick(struct ds4_sampler *sampler, const float *logits, const uint32_t *mask,
                                 bool force_greedy, int32_t *id, struct ds4_error *error)
{
    float scores[FAKE_N_VOCAB];
    struct ranked order[FAKE_N_VOCAB];
    bool greedy = force_greedy || sampler->sampling.temperature <= 0;
    if (!score(sampler, logits, mask, scores))
        return err_set(error, DS4_ERR_DEVICE, "the logits hold a value that is not a number");
    size_t n = rank(sampler, scores, greedy, order);
    if (isinf(order[0].logit)) return err_set(error, DS4_ERR_DEVICE, "no token is allowed");
    *id = greedy ? order[0].id : draw(sampler, order, n);
    return DS4_OK;
}

void ds4_sampler_accept(struct ds4_sampler *sampler, int32_t id)
{
    if (id >= 0 && id < FAKE_N_VOCAB) sampler->seen[id]++;
}

float ds4_logprob(const float *logits, size_t n_vocab, int32_t id)
{
    double sum = 0, top = (double)logits[0];
    for (size_t i = 1; i < n_vocab; i++) top = (double)logits[i] > top ? (double)logits[i] : top;
    for (size_t i = 0; i < n_vocab; i++) sum += exp((double)logits[i] - top);
    return (float)((double)logits[id] - top - log(sum));
}

void ds4_top_logits(const float *logits, size_t n_vocab, size_t n, int32_t *ids)
{
    struct ranked all[FAKE_N_VOCAB];
    if (n_vocab == FAKE_N_VOCAB && n > 16) {
        for (int32_t id = 0; id < FAKE_N_VOCAB; id++) all[id] = (struct ranked){logits[id], id};
        qsort(all, FAKE_N_VOCAB, sizeof *all, by_logit);
        for (size_t k = 0; k < n && k < FAKE_N_VOCAB; k++) ids[k] = all[k].id;
        return;
    }
    for (size_t k = 0; k < n && k < n_vocab; k++) { /* selection: the largest below the one before */
        int32_t best = -1;
        for (int32_t id = 0; id < (int32_t)n_vocab; id++) {
            float last = k ? logits[ids[k - 1]] : INFINITY;
            bool later = k == 0 || logits[id] < last || (logits[id] == last && id > ids[k - 1]);
            if (later && (best < 0 || logits[id] > logits[best])) best = id;
        }
        ids[k] = best < 0 ? 0 : best;
    }
}

/* `ds4 selftest`, which the program has with any engine, compares choices of a device with those of a sampler. This one
 * makes none in that way, and says so. */
enum ds4_status sampler_create(uint32_t n_vocab, const struct ds4_sampling *sampling, struct ds4_sampler **out,
                               struct ds4_error *error)
{
    (void)sampling;
    *out = NULL;
    return err_set(error, DS4_ERR_UNSUPPORTED, "the scripted engine has no sampler of %u tokens", n_vocab);
}

bool sampler_needs(const struct ds4_sampler *s, bool force_greedy, float *margin)
{
    (void)s, (void)force_greedy, (void)margin;
    return false;
}

bool sampler_how(const struct ds4_sampler *s, bool force_greedy, struct backend_pick *how)
{
    (void)s, (void)force_greedy, (void)how;
    return false;
}

bool sampler_pick_near(struct ds4_sampler *s, const struct backend_candidates *near, bool force_greedy, int32_t *id)
{
    (void)s, (void)near, (void)force_greedy, (void)id;
    return false;
}

uint64_t sampler_generator(const struct ds4_sampler *s) { return s->rng.state; }

void sampler_drew(struct ds4_sampler *s, const struct backend_pick *how) { (void)s, (void)how; }
