/* habits.h - how much an expert is worth keeping: what is known of how often it is chosen. Pure; no files, no clock.
 *
 * Every expert of every layer is a *key*, numbered layer by layer. The probability that a token chooses it is estimated
 * by a mix of two averages of its past, both decaying exponentially with the tokens seen: a fast one (half-life FAST
 * tokens) that follows the subject, and a slow one (SLOW) that knows the habits of the model and is kept from run to
 * run. Layers come round in turn, so that of two keys equally probable the one whose layer was just visited is needed
 * later: worth is by the expected distance to the next use. The keys of best slow average are the *hot set*: pinned, so
 * that no burst drives them out. */
#ifndef DS4_STREAM_HABITS_H
#define DS4_STREAM_HABITS_H

#include <stdbool.h>
#include <stdint.h>

#define HABITS_FAST_TOKENS 1.0    /* these four are the best of a search over the traces of the simulator (tests) */
#define HABITS_SLOW_TOKENS 1024.0
#define HABITS_FAST_SHARE 0.25     /* of the fast average in the mix */
#define HABITS_PIN_SHARE 0.25      /* of the slots, for the hot set */
#define HABITS_PIN_EVERY 64u    /* tokens between two choices of the hot set */

/* Averages are kept as sums of 2^(t / half-life), so that a use costs one addition and time costs nothing; the common
 * factor is taken out before it grows too large. */
struct habits {
    uint32_t n_keys, n_layers, n_pins_max;
    uint32_t layer_i;       /* being visited; layers after it were last visited a pass ago */
    double *fast, *slow;    /* [n_keys] */
    bool *pinned;           /* [n_keys] */
    double *sorted;         /* [n_keys] scratch of habits_pin */
    double fast_unit, slow_unit; /* what a use adds now */
    double fast_unit_before;     /* what it added in the pass before */
    double tokens;               /* seen, those of earlier runs included */
    uint32_t since_pin;
};

/* All arrays are the caller's and zero. */
void habits_init(struct habits *p, uint32_t n_layers, uint32_t n_experts, uint32_t n_slots);
/* Layer layer_i is visited now. */
void habits_visit(struct habits *p, uint32_t layer_i);
/* n tokens of the batch chose key. */
void habits_use(struct habits *p, uint32_t key, uint32_t n);
/* n tokens have passed all layers. */
void habits_advance(struct habits *p, uint32_t n_tokens);
/* One over the expected number of tokens until key is used next, the layers still before it in this pass included. */
double habits_worth(const struct habits *p, uint32_t key);
/* The same from the slow average alone: what is kept on disk. */
double habits_observed(double tokens); /* tokens that the slow average is taken over, as if all counted the same */
double habits_rate(const struct habits *p, uint32_t key);
void habits_set_rate(struct habits *p, uint32_t key, double rate);
/* Chooses the hot set anew. */
void habits_pin(struct habits *p);

#endif
