/* sample.c - choosing a token from logits. Steps, in this order: mask, penalties, bias; the top_k largest; weights
 * exp((l - l_max) / temperature); down the sorted list while a weight is at least min_p of the largest and until the
 * kept mass reaches top_p of all; draw. Without top_k and top_p nothing is sorted and the draw goes in order of ids.
 * The generator is xorshift64*, one draw of 24 bits a token, so a seed repeats. Source: server spec 3.2. */
#include "session/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct candidate {
    float logit;
    int32_t id;
};

struct ds4_sampler {
    struct ds4_sampling p;
    struct ds4_logit_bias *bias; /* owned copy */
    uint32_t n_vocab;
    uint64_t rng;
    uint32_t *counts;              /* [n_vocab] how often a token was emitted; NULL without penalties */
    struct candidate *candidates;  /* [n_vocab] */
};

struct ds4_sampling ds4_sampling_default(void)
{
    return (struct ds4_sampling){.temperature = 1, .top_p = 1, .min_p = 0.05f, .repetition_penalty = 1};
}

static enum ds4_status check(const struct ds4_sampling *p, uint32_t n_vocab, struct ds4_error *error)
{
    if (!(p->temperature <= 100))
        return err_set(error, DS4_ERR_LIMIT, "temperature is %g; at most 100", (double)p->temperature);
    if (!(p->top_p >= 0 && p->top_p <= 1))
        return err_set(error, DS4_ERR_LIMIT, "top_p is %g; 0 to 1", (double)p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return err_set(error, DS4_ERR_LIMIT, "min_p is %g; 0 to 1", (double)p->min_p);
    if (p->top_k < 0) return err_set(error, DS4_ERR_LIMIT, "top_k is %d; 0 or more", p->top_k);
    if (!(fabsf(p->presence_penalty) <= 100) || !(fabsf(p->frequency_penalty) <= 100))
        return err_set(error, DS4_ERR_LIMIT, "a penalty of more than 100");
    if (!(p->repetition_penalty > 0 && p->repetition_penalty <= 100))
        return err_set(error, DS4_ERR_LIMIT, "repetition_penalty is %g; above 0, at most 100",
                       (double)p->repetition_penalty);
    for (size_t i = 0; i < p->n_bias; i++)
        if (p->bias[i].id < 0 || (uint32_t)p->bias[i].id >= n_vocab || !isfinite(p->bias[i].bias))
            return err_set(error, DS4_ERR_LIMIT, "logit bias for token %d; the vocabulary has %u", p->bias[i].id,
                           n_vocab);
    return DS4_OK;
}

enum ds4_status sampler_create(uint32_t n_vocab, const struct ds4_sampling *sampling, struct ds4_sampler **out,
                               struct ds4_error *error)
{
    TRY(check(sampling, n_vocab, error));
    struct ds4_sampler *s = mem_zalloc(1, sizeof *s);
    if (!s) return err_set(error, DS4_ERR_NOMEM, "no memory for a sampler");
    s->p = *sampling;
    s->n_vocab = n_vocab;
    s->rng = sampling->seed ? sampling->seed : 0x9E3779B97F4A7C15u;
    bool penalties = sampling->presence_penalty != 0 || sampling->frequency_penalty != 0 ||
                     sampling->repetition_penalty != 1;
    s->candidates = mem_alloc(n_vocab, sizeof *s->candidates);
    s->bias = mem_alloc(sampling->n_bias, sizeof *s->bias);
    s->counts = penalties ? mem_zalloc(n_vocab, sizeof *s->counts) : NULL;
    if (!s->candidates || !s->bias || (penalties && !s->counts)) {
        ds4_sampler_destroy(s);
        return err_set(error, DS4_ERR_NOMEM, "no memory for a sampler over %u tokens", n_vocab);
    }
    if (sampling->n_bias) memcpy(s->bias, sampling->bias, sampling->n_bias * sizeof *s->bias);
    *out = s;
    return DS4_OK;
}

void ds4_sampler_destroy(struct ds4_sampler *s)
{
    if (!s) return;
    mem_free(s->candidates);
    mem_free(s->bias);
    mem_free(s->counts);
    mem_free(s);
}

void ds4_sampler_accept(struct ds4_sampler *s, int32_t id)
{
    if (s->counts && id >= 0 && (uint32_t)id < s->n_vocab && s->counts[id] < UINT32_MAX) s->counts[id]++;
}

static float penalised(const struct ds4_sampler *s, uint32_t id, float logit)
{
    uint32_t count = s->counts[id];
    if (count == 0) return logit;
    logit = logit > 0 ? logit / s->p.repetition_penalty : logit * s->p.repetition_penalty;
    return logit - s->p.presence_penalty - s->p.frequency_penalty * (float)count;
}

/* Allowed tokens with their adjusted logits; false when a logit is not a number. */
static bool collect(struct ds4_sampler *s, const float *logits, const uint32_t *mask, size_t *n)
{
    size_t count = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        if (mask && !(mask[i / 32] >> (i % 32) & 1u)) continue;
        if (isnan(logits[i]) || logits[i] == INFINITY) return false;
        if (logits[i] == -INFINITY) continue;
        float logit = s->counts ? penalised(s, i, logits[i]) : logits[i];
        s->candidates[count++] = (struct candidate){logit, (int32_t)i};
    }
    for (size_t b = 0; b < s->p.n_bias; b++) { /* candidates are in id order: find by bisection */
        size_t lo = 0, hi = count;
        while (lo < hi) {
            size_t mid = (lo + hi) / 2;
            if (s->candidates[mid].id < s->bias[b].id) lo = mid + 1;
            else hi = mid;
        }
        if (lo < count && s->candidates[lo].id == s->bias[b].id) s->candidates[lo].logit += s->bias[b].bias;
    }
    *n = count;
    return true;
}

static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static struct candidate best_of(const struct candidate *c, size_t n)
{
    struct candidate best = c[0];
    for (size_t i = 1; i < n; i++)
        if (c[i].logit > best.logit) best = c[i];
    return best;
}

uint64_t sampler_after_draw(uint64_t x)
{
    x ^= x >> 12;
    x ^= x << 25;
    return x ^ x >> 27;
}

static double uniform(struct ds4_sampler *s)
{
    uint64_t x = s->rng = sampler_after_draw(s->rng);
    return (double)((x * 0x2545F4914F6CDD1Du) >> 40) * 0x1p-24;
}

/* Keeps, in order, the candidates whose weight is at least min_p; returns their mass. */
static double keep_by_weight(const struct ds4_sampler *s, double best, size_t *n)
{
    struct candidate *c = s->candidates;
    double total = 0;
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++) {
        double w = exp(((double)c[i].logit - best) / (double)s->p.temperature);
        if (w < (double)s->p.min_p || !(w > 0)) continue;
        c[kept++] = c[i];
        total += w;
    }
    *n = kept;
    return total;
}

/* Sorts and keeps the head that top_k, min_p and top_p leave, of candidates besides which others weigh from least to
 * most together; below_min: those are all below min_p. Returns the head's mass; negative: its end cannot be told. */
static double keep_head(const struct ds4_sampler *s, double best, size_t *n, double least, double most, bool below_min)
{
    struct candidate *c = s->candidates;
    double t = (double)s->p.temperature, total = 0, mass = 0;
    qsort(c, *n, sizeof *c, by_logit);
    if (s->p.top_k > 0 && (size_t)s->p.top_k <= *n) {
        *n = (size_t)s->p.top_k;
        least = most = 0;
    } else if (s->p.top_k > 0) {
        least = 0; /* of the others some are cut off */
    }
    for (size_t i = 0; i < *n; i++) total += exp(((double)c[i].logit - best) / t);
    for (size_t i = 0; i < *n; i++) {
        double w = exp(((double)c[i].logit - best) / t);
        if (i > 0 && (w < (double)s->p.min_p || mass >= (double)s->p.top_p * (total + most))) {
            *n = i;
            return mass;
        }
        if (i > 0 && mass >= (double)s->p.top_p * (total + least)) return -1;
        mass += w;
    }
    return most > 0 && !below_min ? -1 : mass;
}

/* Draws from the first n candidates, which weigh mass together. */
static int32_t draw_from(struct ds4_sampler *s, size_t n, struct candidate top, double mass)
{
    const struct candidate *c = s->candidates;
    double best = (double)top.logit, left = uniform(s) * mass;
    for (size_t i = 0; i < n; i++) {
        left -= exp(((double)c[i].logit - best) / (double)s->p.temperature);
        if (left < 0) return c[i].id;
    }
    return n ? c[n - 1].id : top.id; /* rounding of the sum */
}

static bool keeps_head(const struct ds4_sampler *s) { return s->p.top_k > 0 || s->p.top_p < 1; }

static int32_t draw(struct ds4_sampler *s, size_t n)
{
    const struct candidate *c = s->candidates;
    struct candidate top = best_of(c, n);
    double best = (double)top.logit;
    double mass = keeps_head(s) ? keep_head(s, best, &n, 0, 0, true) : keep_by_weight(s, best, &n);
    return draw_from(s, n, top, mass);
}
enum ds4_status ds4_sampler_pick(struct ds4_sampler *s, const float *logits, const uint32_t *mask, bool force_greedy,
                                 int32_t *id, struct ds4_error *error)
{
    size_t n;
    if (!collect(s, logits, mask, &n))
        return err_set(error, DS4_ERR_DEVICE, "the model's output holds values that are not numbers");
    if (n == 0 && mask) { /* the model rules out all that may come: then the first of it */
        for (uint32_t i = 0; i < s->n_vocab && n == 0; i++)
            if (mask[i / 32] >> (i % 32) & 1u) s->candidates[n++] = (struct candidate){0, (int32_t)i};
    }
    if (n == 0) return err_set(error, DS4_ERR_STATE, "no token is allowed here");
    *id = s->p.temperature <= 0 || force_greedy ? best_of(s->candidates, n).id : draw(s, n);
    return DS4_OK;
}

/* In units of the temperature. With top_k or top_p what lies further down counts as a sum only: each weighs less than
 * e^-8 of the largest. Without them all down to min_p may be drawn. */
#define MARGIN_OF_HEAD 8.0f
#define MARGIN_MOST 16.0f

static float margin_of_min_p(const struct ds4_sampler *s) { return s->p.min_p > 0 ? -logf(s->p.min_p) : INFINITY; }

float sampler_temperature(const struct ds4_sampler *s) { return s->p.temperature; }

bool sampler_needs(const struct ds4_sampler *s, bool force_greedy, float *margin)
{
    if (s->counts || s->p.n_bias) return false;
    *margin = 0;
    if (s->p.temperature <= 0 || force_greedy) return true;
    float below = keeps_head(s) ? MARGIN_OF_HEAD : margin_of_min_p(s);
    if (below > MARGIN_MOST) return false; /* too many may be drawn */
    *margin = below * s->p.temperature * 1.0001f + 1e-4f; /* rounding of the bound must not exclude one */
    return true;
}

bool sampler_pick_near(struct ds4_sampler *s, const struct backend_candidates *near, bool force_greedy, int32_t *id)
{
    size_t n = near->n;
    float margin;
    if (!sampler_needs(s, force_greedy, &margin) || near->not_numbers || n == 0 || n > BACKEND_CANDIDATES_MAX ||
        n > s->n_vocab)
        return false;
    for (size_t i = 0; i < n; i++) s->candidates[i] = (struct candidate){near->logits[i], near->ids[i]};
    struct candidate top = best_of(s->candidates, n);
    if (s->p.temperature <= 0 || force_greedy) {
        *id = top.id;
        return true;
    }
    double best = (double)top.logit, mass;
    if (!keeps_head(s)) {
        mass = keep_by_weight(s, best, &n);
    } else {
        double known = 0, slack = 1e-3 * (double)near->mass;
        for (size_t i = 0; i < n; i++) known += exp(((double)near->logits[i] - best) / (double)s->p.temperature);
        double others = (double)near->mass - known;
        bool below_min = margin_of_min_p(s) <= MARGIN_OF_HEAD;
        mass = keep_head(s, best, &n, others > slack ? others - slack : 0, (others > 0 ? others : 0) + slack,
                         below_min);
    }
    if (mass < 0) return false;
    *id = draw_from(s, n, top, mass);
    return true;
}

bool sampler_how(const struct ds4_sampler *s, bool force_greedy, struct backend_pick *how)
{
    *how = (struct backend_pick){.top_p = 1};
    if (!sampler_needs(s, force_greedy, &how->margin)) return false;
    if (s->p.temperature <= 0 || force_greedy) return true;
    how->temperature = s->p.temperature;
    how->min_p = s->p.min_p;
    how->top_p = s->p.top_p;
    how->top_k = (uint32_t)s->p.top_k;
    how->below_min = margin_of_min_p(s) <= MARGIN_OF_HEAD;
    return true;
}

uint64_t sampler_generator(const struct ds4_sampler *s) { return s->rng; }

void sampler_drew(struct ds4_sampler *s, const struct backend_pick *how)
{
    if (how->temperature > 0) (void)uniform(s);
}

float ds4_logprob(const float *logits, size_t n_vocab, int32_t id)
{
    if (id < 0 || (size_t)id >= n_vocab) return -INFINITY;
    double best = -INFINITY, sum = 0;
    for (size_t i = 0; i < n_vocab; i++)
        if ((double)logits[i] > best) best = (double)logits[i];
    for (size_t i = 0; i < n_vocab; i++) sum += exp((double)logits[i] - best);
    return (float)((double)logits[id] - best - log(sum));
}

void ds4_top_logits(const float *logits, size_t n_vocab, size_t n, int32_t *ids)
{
    size_t held = 0;
    for (size_t i = 0; i < n_vocab; i++) {
        if (held == n && !(logits[i] > logits[ids[held - 1]])) continue;
        size_t at = held < n ? held++ : held - 1;
        while (at > 0 && logits[i] > logits[ids[at - 1]]) {
            ids[at] = ids[at - 1];
            at--;
        }
        ids[at] = (int32_t)i;
    }
}
