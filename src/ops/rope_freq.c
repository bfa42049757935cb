/* rope_freq.c - plain and YaRN frequency tables; see rope_freq.h. No magnitude factor goes with them: neither cosines
 * and sines nor the softmax scale are changed by YaRN in this model. */
#include "ops/rope_freq.h"

#include <math.h>

#define TWO_PI 6.283185307179586

/* The (fractional) index of the entry that makes `turns` full turns in orig_ctx tokens. */
static double turning_index(double turns, double theta, uint32_t n_rope, double orig_ctx)
{
    return n_rope * log(orig_ctx / (turns * TWO_PI)) / (2.0 * log(theta));
}

void rope_frequencies(double theta, uint32_t n_rope, double factor, double orig_ctx, double beta_fast,
                      double beta_slow, bool yarn, float *freq)
{
    double low = 0, high = 1;
    if (yarn) {
        low = fmax(floor(turning_index(beta_fast, theta, n_rope, orig_ctx)), 0);
        high = fmin(ceil(turning_index(beta_slow, theta, n_rope, orig_ctx)), n_rope - 1.0);
    }
    for (uint32_t i = 0; i < n_rope / 2; i++) {
        double f = pow(theta, -2.0 * i / n_rope);
        double blend = fmin(fmax((i - low) / fmax(high - low, 0.001), 0), 1);
        freq[i] = (float)(yarn ? f / factor * blend + f * (1 - blend) : f);
    }
}
