/* rope_freq.h - the frequency tables of the rotary embedding. Pure numbers; no backend. Source: model spec 3.4. */
#ifndef DS4_OPS_ROPE_FREQ_H
#define DS4_OPS_ROPE_FREQ_H

#include <stdbool.h>
#include <stdint.h>

/* Fills freq[n_rope/2] with theta^(-2i/n_rope). With yarn, entries that turn fewer than beta_slow times in orig_ctx
 * tokens are divided by factor, those that turn more than beta_fast times are kept, and the ones between are blended
 * linearly in i. Computed in double, rounded once to float32. The remaining arguments are unused without yarn. */
void rope_frequencies(double theta, uint32_t n_rope, double factor, double orig_ctx, double beta_fast,
                      double beta_slow, bool yarn, float *freq);

#endif
