/* predict.c - the arithmetic of predict.h. */
#include "stream/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double predict_token_seconds(const struct predict_input *in)
{
    double miss = 1 - in->hit_rate, layer = in->dense_seconds / in->n_layers;
    double read = in->disk_bytes_per_s > 0 ? in->expert_bytes / in->disk_bytes_per_s : 0;
    double chance = pow(in->hit_rate, in->n_used); /* of k = 0 misses; of k + 1 from that of k */
    for (uint32_t k = 0; k <= in->n_used; k++) {
        /* What is there is computed first, then each as it comes. */
        double done = (in->n_used - k) * in->expert_seconds;
        for (uint32_t i = 1; i <= k; i++) done = (i * read > done ? i * read : done) + in->expert_seconds;
        layer += chance * done;
        if (in->hit_rate <= 0) chance = k + 1 == in->n_used ? 1 : 0;
        else chance *= (double)(in->n_used - k) / (k + 1) * miss / in->hit_rate;
    }
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
