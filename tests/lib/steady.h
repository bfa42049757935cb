/* steady.h - a run that never stopped, to compare sessions with that did: digests of its logits after every token. */
#ifndef DS4_TESTS_STEADY_H
#define DS4_TESTS_STEADY_H

#include "ds4.h"

struct steady {
    struct ds4_engine *engine;
    uint32_t n_vocab;
    int32_t *tokens;      /* [n_tokens] of model.h's stream */
    uint64_t *expected;   /* [n_tokens] digest of the logits after each token, never stopped */
    float *logits;        /* [chunk_tokens][n_vocab] of the pass at hand */
    uint64_t n_compared;
    char dir[300];        /* for a store */
};

/* Opens the model (options must say chunk_tokens) and computes n_tokens of the stream in passes of `piece`. */
void steady_begin(struct steady *run, const char *path, struct ds4_engine_options options, size_t n_tokens,
                  size_t piece);
void steady_end(struct steady *run);
struct ds4_session *steady_session(const struct steady *run);
uint64_t steady_digest(const struct steady *run, const float *logits);
/* Appends tokens [from, to) in one pass and compares the logits of each. */
void steady_eval(struct steady *run, struct ds4_session *s, size_t from, size_t to);
/* A store in run->dir that keeps everything it is given. */
struct ds4_store *steady_store(const struct steady *run);

#endif
