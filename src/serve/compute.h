/* compute.h - jobs on the engine's sessions, one round at a time: one chunk of one prompt, then one token of every
 * answer in one pass, so that a long prompt silences nobody. One thread at a time; worker.h is that thread.
 *
 * A session keeps what was computed when its job ends; slots.h says which session a job gets. A job outlives its
 * connection: what its client could not see coming - a prompt at work, an answer that is not streamed - goes on for
 * grace_s after the client has left, unless its place is wanted. A client that asks again gets that very answer, or
 * goes on from what is computed. A stream that is being read ends when its reader leaves. */
#ifndef DS4_SERVE_COMPUTE_H
#define DS4_SERVE_COMPUTE_H

#include "serve/job.h"
#include "serve/recall.h"
#include "serve/slots.h"
#include "serve/trace.h"

struct compute;
struct compute_options {
    struct ds4_engine *engine;
    struct ds4_store *store;     /* optional; used by compute_step only from now on */
    struct metrics *metrics;
    struct recall *replay;
    uint32_t n_parallel;         /* long conversations; one session more is used */
    double grace_s;
    struct trace *trace;         /* optional */
    bool dsml_entities;
    bool no_loop_guard;
};

enum ds4_status compute_create(const struct compute_options *options, struct compute **out,
                               struct ds4_error *error) DS4_MUST_CHECK;
/* Takes prepared jobs, a list; they wait for a session. */
void compute_take(struct compute *c, struct job *first);
bool compute_is_busy(const struct compute *c);
void compute_step(struct compute *c);
/* No more jobs are begun; those in progress are ended with an error when grace_s are over. Any thread. */
void compute_drain(struct compute *c, double grace_s);
/* For /slots. Any thread. */
void compute_put_slots(struct compute *c, struct buf *out);
/* Drains at once, keeps what is computed, ends the sessions. */
void compute_destroy(struct compute *c);

#endif
