/* sample.h - the sampler behind ds4.h, for a vocabulary of a given size. */
#ifndef DS4_SESSION_SAMPLE_H
#define DS4_SESSION_SAMPLE_H

#include "ops/backend.h"

enum ds4_status sampler_create(uint32_t n_vocab, const struct ds4_sampling *sampling, struct ds4_sampler **out,
                               struct ds4_error *error) DS4_MUST_CHECK;

/* What must be known to choose as ds4_sampler_pick would, without all logits: those that are at most *margin below the
 * largest. False: all of them are needed. */
bool sampler_needs(const struct ds4_sampler *s, bool force_greedy, float *margin);
/* Chooses the token that ds4_sampler_pick would choose from all logits; false, with nothing drawn, when that cannot be
 * told from the candidates of that margin. */
bool sampler_pick_near(struct ds4_sampler *s, const struct backend_candidates *near, bool force_greedy, int32_t *id);
float sampler_temperature(const struct ds4_sampler *s);

/* How a backend may choose in place of ds4_sampler_pick without a mask; false: it must look at all logits. The state of
 * the generator is to be given with it, and sampler_drew told of every token that was chosen so. */
bool sampler_how(const struct ds4_sampler *s, bool force_greedy, struct backend_pick *how);
uint64_t sampler_generator(const struct ds4_sampler *s);
/* That state after a draw. */
uint64_t sampler_after_draw(uint64_t generator);
void sampler_drew(struct ds4_sampler *s, const struct backend_pick *how);

#endif
