/* sample.h - the sampler behind ds4.h, for a vocabulary of a given size. */
#ifndef DS4_SESSION_SAMPLE_H
#define DS4_SESSION_SAMPLE_H

#include "base/err.h"

enum ds4_status sampler_create(uint32_t n_vocab, const struct ds4_sampling *sampling, struct ds4_sampler **out,
                               struct ds4_error *error) DS4_MUST_CHECK;

#endif
