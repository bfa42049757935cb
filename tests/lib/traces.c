/* traces.c - synthetic routing traces. See traces.h. */
#include "traces.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/rng.h"

struct maker {
    const struct trace_kind *kind;
    struct rng rng;
    uint32_t n_experts;
    double *cumulated; /* [n_experts] */
    uint16_t *order;   /* [n_layers][n_experts] rank -> expert */
};

static uint16_t draw(struct maker *m, const uint16_t *order, bool burst)
{
    if (burst) return (uint16_t)rng_below(&m->rng, m->n_experts);
    double x = rng_double(&m->rng) * m->cumulated[m->n_experts - 1];
    uint32_t low = 0, high = m->n_experts - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (m->cumulated[middle] > x) high = middle;
        else low = middle + 1;
    }
    return order[low];
}

static void swap_ranks(struct maker *m, uint16_t *order, uint32_t i)
{
    uint32_t j = (uint32_t)rng_below(&m->rng, m->n_experts);
    uint16_t keep = order[i];
    order[i] = order[j];
    order[j] = keep;
}

static bool is_among(const uint16_t *ids, uint32_t n, uint16_t id)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

struct trace trace_make(const struct trace_kind *kind, uint32_t n_tokens, uint32_t n_layers, uint32_t n_experts,
                        uint32_t n_used, uint64_t seed)
{
    struct trace t = {kind->name, n_tokens, n_layers, n_experts, n_used, NULL};
    struct maker m = {.kind = kind, .rng = {seed}, .n_experts = n_experts};
    size_t row = (size_t)n_layers * n_used;
    t.ids = malloc(n_tokens * row * sizeof *t.ids);
    m.cumulated = malloc(n_experts * sizeof *m.cumulated);
    m.order = malloc((size_t)n_layers * n_experts * sizeof *m.order);
    if (!t.ids || !m.cumulated || !m.order) abort();
    double sum = 0;
    for (uint32_t i = 0; i < n_experts; i++) m.cumulated[i] = sum += pow(i + 1, -kind->zipf);
    for (uint32_t l = 0; l < n_layers; l++) {
        uint16_t *order = m.order + (size_t)l * n_experts;
        for (uint32_t i = 0; i < n_experts; i++) order[i] = (uint16_t)i;
        for (uint32_t i = 0; i < n_experts; i++) swap_ranks(&m, order, i);
    }
    uint32_t burst = 0;
    for (uint32_t n = 0; n < n_tokens; n++) {
        if (burst) burst--;
        else if (kind->bursts && rng_below(&m.rng, 400) == 0) burst = 40;
        for (uint32_t l = 0; l < n_layers; l++) {
            uint16_t *ids = t.ids + n * row + (size_t)l * n_used, *order = m.order + (size_t)l * n_experts;
            if (kind->drift && rng_double(&m.rng) < n_experts / 8.0 / kind->drift)
                swap_ranks(&m, order, (uint32_t)rng_below(&m.rng, n_experts / 4));
            for (uint32_t i = 0; i < n_used; i++) {
                bool again = n > 0 && rng_double(&m.rng) < kind->repeat;
                uint16_t id = again ? ids[(size_t)i - row] : draw(&m, order, burst > 0);
                while (is_among(ids, i, id)) id = draw(&m, order, burst > 0);
                ids[i] = id;
            }
        }
    }
    free(m.order);
    free(m.cumulated);
    return t;
}

void trace_free(struct trace *t) { free(t->ids); }
