/* worker.h - the thread that computes: it takes prepared jobs from a queue and steps compute.h while there is work. */
#ifndef DS4_SERVE_WORKER_H
#define DS4_SERVE_WORKER_H

#include "serve/compute.h"

#define WORKER_PARALLEL_MAX (SLOTS_MAX - 1)
#define WORKER_QUEUE_MAX 64

struct worker;

enum ds4_status worker_create(const struct compute_options *options, struct worker **out,
                              struct ds4_error *error) DS4_MUST_CHECK;
/* For grammars; NULL when the vocabulary cannot be constrained. Any thread. */
const struct ds4_token_index *worker_token_index(const struct worker *w);
/* Takes a prepared job. */
void worker_submit(struct worker *w, struct job *job);
/* No more jobs are begun; those in progress are ended with an error when grace_s are over. */
void worker_drain(struct worker *w, double grace_s);
/* Seconds since the worker last finished a round while it had work; 0 when idle. */
double worker_silence_s(const struct worker *w);
/* For /slots. Any thread. */
void worker_put_slots(struct worker *w, struct buf *out);
/* Ends the thread (drained first) and the sessions. */
void worker_destroy(struct worker *w);

#endif
