/* constrain.h - answers that cannot be malformed: a request's grammar, made when its prompt is, and its tokens. */
#ifndef DS4_SERVE_CONSTRAIN_H
#define DS4_SERVE_CONSTRAIN_H

#include "serve/job.h"

/* Gives the job a grammar when its answer has a form: a JSON answer, a call that is asked for, or tools that the model
 * may call. An answer in a form that goes on from a last assistant message counts that message as its beginning.
 * index: NULL when the vocabulary cannot be constrained; then a form that was asked for is refused. UNSUPPORTED, FORMAT
 * and LIMIT are about the request. */
enum ds4_status constrain_job(const struct ds4_engine *engine, const struct ds4_token_index *index, struct job *job,
                              struct ds4_error *error) DS4_MUST_CHECK;

enum constrain_result {
    CONSTRAIN_OK,
    CONSTRAIN_CLOSED,   /* no token: the answer is complete, or there is no room for more */
    CONSTRAIN_FAILED
};
/* Whether the answer has to be complete whatever happens: not with calls that the model may leave out, because the rest
 * of an argument cannot be made up. */
bool constrain_completes(const struct job *job);
/* Makes *id a token that the job's grammar takes: the one that was sampled, unless the answer has to be complete and
 * could then not be within the room of n_left tokens, or is to be closed; then the first of a short completion. */
enum constrain_result constrain_token(const struct job *job, size_t n_left, bool close, int32_t *id);

#endif
