/* habits.c - averages of use. See habits.h. */
#include "stream/habits.h"

#include <math.h>
#include <stdlib.h>

#define UNIT_MAX 0x1p200 /* far from the end of a double: sums of a thousand units still fit */

void habits_init(struct habits *p, uint32_t n_layers, uint32_t n_experts, uint32_t n_slots)
{
    p->n_keys = n_layers * n_experts;
    p->n_layers = n_layers;
    p->layer_i = n_layers - 1;
    p->n_pins_max = (uint32_t)(HABITS_PIN_SHARE * n_slots);
    p->fast_unit = p->slow_unit = p->fast_unit_before = 1;
    p->tokens = 0;
    p->since_pin = 0;
}

void habits_visit(struct habits *p, uint32_t layer_i) { p->layer_i = layer_i; }

void habits_use(struct habits *p, uint32_t key, uint32_t n)
{
    p->fast[key] += n * p->fast_unit;
    p->slow[key] += n * p->slow_unit;
}

/* Takes the common factor out. */
static double rescale(double *sums, uint32_t n, double *unit)
{
    double factor = *unit < UNIT_MAX ? 1 : *unit;
    for (uint32_t i = 0; i < n && factor > 1; i++) sums[i] /= factor;
    *unit /= factor;
    return factor;
}

void habits_advance(struct habits *p, uint32_t n_tokens)
{
    p->tokens += n_tokens;
    p->since_pin += n_tokens;
    p->layer_i = p->n_layers - 1;
    p->fast_unit_before = p->fast_unit;
    while (n_tokens > 0) { /* in steps, so that a long prompt cannot overflow the unit */
        uint32_t step = n_tokens < 512 ? n_tokens : 512;
        p->fast_unit *= exp2(step / HABITS_FAST_TOKENS);
        p->slow_unit *= exp2(step / HABITS_SLOW_TOKENS);
        p->fast_unit_before /= rescale(p->fast, p->n_keys, &p->fast_unit);
        (void)rescale(p->slow, p->n_keys, &p->slow_unit);
        n_tokens -= step;
    }
    if (p->since_pin < HABITS_PIN_EVERY) return;
    habits_pin(p);
}

/* A key used with probability r at every token has the sum r * half-life / ln 2 of units. While fewer tokens than that
 * were seen, the sum over them is what it is a share of. */
double habits_observed(double tokens)
{
    double seen = HABITS_SLOW_TOKENS / M_LN2 * (1 - exp2(-tokens / HABITS_SLOW_TOKENS));
    return seen > 1 ? seen : 1;
}

static double slow_weight(const struct habits *p) { return habits_observed(p->tokens); }

double habits_rate(const struct habits *p, uint32_t key) { return p->slow[key] / p->slow_unit / slow_weight(p); }

void habits_set_rate(struct habits *p, uint32_t key, double rate)
{
    p->slow[key] = rate * slow_weight(p) * p->slow_unit;
}

double habits_worth(const struct habits *p, uint32_t key)
{
    uint32_t layer_i = key / (p->n_keys / p->n_layers);
    double unit = layer_i <= p->layer_i ? p->fast_unit : p->fast_unit_before; /* as old at its next visit */
    double fast = p->fast[key] / unit * M_LN2 / HABITS_FAST_TOKENS;
    double chosen = HABITS_FAST_SHARE * fast + (1 - HABITS_FAST_SHARE) * habits_rate(p, key);
    if (chosen <= 0) return 0;
    uint32_t layers_until = (layer_i + p->n_layers - p->layer_i - 1) % p->n_layers + 1;
    double until = 1 / (chosen < 1 ? chosen : 1) - 1 + (double)layers_until / p->n_layers;
    return 1 / until;
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

void habits_pin(struct habits *p)
{
    uint32_t n = p->n_pins_max < p->n_keys ? p->n_pins_max : p->n_keys;
    p->since_pin = 0;
    for (uint32_t i = 0; i < p->n_keys; i++) {
        p->sorted[i] = p->slow[i];
        p->pinned[i] = false;
    }
    if (n == 0) return;
    qsort(p->sorted, p->n_keys, sizeof *p->sorted, descending);
    double least = p->sorted[n - 1] > 0 ? p->sorted[n - 1] : 0;
    for (uint32_t i = 0; i < p->n_keys && n > 0; i++) {
        p->pinned[i] = p->slow[i] > 0 && p->slow[i] >= least;
        n -= p->pinned[i];
    }
}
