/* traces.h - routing traces for the simulator of expert caches: who chose what, token by token. */
#ifndef DS4_TESTS_TRACES_H
#define DS4_TESTS_TRACES_H

#include <stdint.h>

struct trace {
    const char *name;
    uint32_t n_tokens, n_layers, n_experts, n_used;
    uint16_t *ids; /* [n_tokens][n_layers][n_used] */
};

/* Experts of Zipf popularity, another order in every layer. drift: tokens until half of the layer's favourites have
 * changed, 0 = never; repeat: probability that a choice is one of the token before; bursts: now and then a stretch of
 * 40 tokens chooses at random. */
struct trace_kind {
    const char *name;
    double zipf, repeat;
    uint32_t drift;
    int bursts;
};
struct trace trace_make(const struct trace_kind *kind, uint32_t n_tokens, uint32_t n_layers, uint32_t n_experts,
                        uint32_t n_used, uint64_t seed);
void trace_free(struct trace *t);

#endif
