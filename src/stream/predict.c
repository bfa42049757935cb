/* predict.c - the arithmetic of predict.h. */
#include "stream/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Computing the experts of a layer of which n_late and n_ahead have to come from disk. */
static double layer_seconds(const struct predict_input *in, uint32_t n_late, uint32_t n_ahead)
{
    double read = in->disk_bytes_per_s > 0 ? in->expert_bytes / in->disk_bytes_per_s : 0;
    double lead = in->dense_seconds / in->n_layers + in->n_used * in->expert_seconds;
    double done = (in->n_used - n_late - n_ahead) * in->expert_seconds; /* what is there first, then each as it comes */
    for (uint32_t i = 1; i <= n_late + n_ahead; i++) {
        double there = in->wait_seconds + i * read - (i <= n_late ? 0 : lead);
        done = (there > done ? there : done) + in->expert_seconds;
    }
    return done;
}

/* Chance of k successes in n. */
static double binomial(uint32_t n, uint32_t k, double p)
{
    double ways = 1;
    for (uint32_t i = 0; i < k; i++) ways *= (double)(n - i) / (i + 1);
    return ways * pow(p, k) * pow(1 - p, n - k);
}

double predict_token_seconds(const struct predict_input *in)
{
    double layer = in->dense_seconds / in->n_layers;
    for (uint32_t k = 0; k <= in->n_used; k++)
        for (uint32_t a = 0; a <= k; a++)
            layer += binomial(in->n_used, k, 1 - in->hit_rate) * binomial(k, a, in->ahead_share) *
                     layer_seconds(in, k - a, a);
    return layer * in->n_layers;
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* How many of the descending counts are larger than limit. */
static uint32_t n_above(const float *counts, uint32_t n_keys, double limit)
{
    uint32_t low = 0, high = n_keys;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((double)counts[middle] > limit) low = middle + 1;
        else high = middle;
    }
    return low;
}

double predict_hit_rate(const float *counts, uint32_t n_keys, uint32_t n_slots, float *scratch)
{
    double held = 0, all = 0;
    if (n_slots >= n_keys) return 1;
    memcpy(scratch, counts, n_keys * sizeof *scratch);
    qsort(scratch, n_keys, sizeof *scratch, descending);
    for (uint32_t i = 0; i < n_keys && scratch[i] > 0; i++) {
        /* Without this use its expert would stand behind `better` others and share the next places with `equal`. */
        double count = (double)scratch[i], rest = count > 1 ? count - 1 : 0;
        uint32_t better = n_above(scratch, n_keys, rest + 0.5);
        uint32_t equal = n_above(scratch, n_keys, rest - 0.5) - better + 1;
        if (better) better--; /* itself, with this use */
        double places = n_slots > better ? (double)(n_slots - better) / equal : 0;
        held += count * (places < 1 ? places : 1);
        all += count;
    }
    return all > 0 ? held / all : (double)n_slots / n_keys;
}
