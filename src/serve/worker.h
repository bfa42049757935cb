/* worker.h - the thread that owns the engine's sessions. Several jobs are computed at once: each round takes one chunk
 * of one prompt, then one token of every answer in one pass, so that a long prompt silences nobody.
 *
 * A session keeps what was computed when its job ends; slots.h says which session a job gets. A job outlives its
 * connection: what its client could not see coming - a prompt at work, an answer that is not streamed - goes on for
 * grace_s after the client has left, unless its place is wanted. A client that asks again gets that very answer, or
 * goes on from what is computed. A stream that is being read ends when its reader leaves. */
#ifndef DS4_SERVE_WORKER_H
#define DS4_SERVE_WORKER_H

#include "serve/job.h"
#include "serve/recall.h"
#include "serve/slots.h"
#include "serve/trace.h"

#define WORKER_PARALLEL_MAX (SLOTS_MAX - 1)
#define WORKER_QUEUE_MAX 64

struct worker;
struct worker_options {
    struct ds4_engine *engine;
    struct ds4_store *store;     /* optional; used by the worker's thread only from now on */
    struct metrics *metrics;
    struct recall *replay;
    uint32_t n_parallel;         /* long conversations; one session more is used */
    double grace_s;
    struct trace *trace;         /* optional */
    bool dsml_entities;
    bool no_loop_guard;
};

enum ds4_status worker_create(const struct worker_options *options, struct worker **out,
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
