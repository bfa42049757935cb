/* predict.h - how fast a token should come out when experts are streamed: arithmetic on measured figures. */
#ifndef DS4_STREAM_PREDICT_H
#define DS4_STREAM_PREDICT_H

#include <stdint.h>

struct predict_input {
    uint32_t n_layers, n_used;
    double hit_rate;         /* share of the experts asked for that are in memory */
    double ahead_share;      /* of the others, those that were named to the disk a layer before */
    double expert_bytes;
    double disk_bytes_per_s;
    double wait_seconds;     /* from asking for an expert until its bytes begin to come */
    double dense_seconds;    /* computing a token, routed experts apart */
    double expert_seconds;   /* computing one expert for one token */
};
/* Seconds a token. Each layer computes its dense part, then waits for its misses while it computes what is there. Those
 * read ahead have a layer's computing for their way; what is asked for late overtakes them. The number of misses of a
 * layer, and of those among them that are read ahead, is taken as binomial. */
double predict_token_seconds(const struct predict_input *in);
/* Share of the experts asked for that n_slots hold when they hold those asked for most; counts [n_keys] of how often
 * each was asked for so far, or all 0: then every expert is as good as another. A use must not vouch for itself: it
 * counts as found only if its expert would be held without it. scratch: [n_keys]. */
double predict_hit_rate(const float *counts, uint32_t n_keys, uint32_t n_slots, float *scratch);

#endif
