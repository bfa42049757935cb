/* continuation.h - requests that bring the results of the last turn's tool calls without the calls themselves: the
 * conversation goes on from the tokens that this server sampled, which recall.h knows. What stands before the results
 * in such a request is not read again. Ids of calls cannot be guessed, so that knowing them is the right to go on. */
#ifndef DS4_SERVE_CONTINUATION_H
#define DS4_SERVE_CONTINUATION_H

#include "serve/job.h"
#include "serve/recall.h"

enum continuation {
    CONTINUATION_NONE,    /* the request is to be rendered as it is */
    CONTINUATION_READY,   /* the job's prompt is there */
    CONTINUATION_REFUSED  /* the turn is not known, and nothing else is in the request: replied */
};
/* recall: NULL, no turn is known. */
enum ds4_status continuation_of(const struct ds4_engine *engine, struct recall *recall, struct job *job,
                                enum continuation *out, struct ds4_error *error) DS4_MUST_CHECK;

#endif
