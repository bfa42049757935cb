/* predict.h - how fast a token should come out when experts are streamed: arithmetic on measured figures. */
#ifndef DS4_STREAM_PREDICT_H
#define DS4_STREAM_PREDICT_H

#include <stdint.h>

struct predict_input {
    uint32_t n_layers, n_used;
    double hit_rate;         /* share of the experts asked for that are in memory */
    double expert_bytes;
    double disk_bytes_per_s;
    double dense_seconds;    /* computing a token, routed experts apart */
    double expert_seconds;   /* computing one expert for one token */
};
/* Seconds a token. Each layer computes its dense part, then waits for its misses while it computes what is there. The
 * number of misses of a layer is taken as binomial. */
double predict_token_seconds(const struct predict_input *in);
/* Share of the experts asked for that n_slots hold when they hold the most probable ones; rates [n_keys], which sum to
 * what a token asks for, or are all 0: then every expert is as good as another. scratch: [n_keys]. */
double predict_hit_rate(const float *rates, uint32_t n_keys, uint32_t n_slots, float *scratch);

#endif
