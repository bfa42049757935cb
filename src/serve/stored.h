/* stored.h - what the store holds, as conversations that a page can list and open: read only, by the worker's thread.
 *
 * A tip is the tokens of a conversation up to some turn; of tips that continue each other,
 * thoughts aside, the longest is shown. */
#ifndef DS4_SERVE_STORED_H
#define DS4_SERVE_STORED_H

#include "serve/job.h"

/* Replies to a job of kind JOB_STORED: the list when its key is empty, else the messages of one conversation. store may
 * be NULL. */
void stored_answer(struct ds4_store *store, const struct ds4_engine *engine, struct job *job);
/* The list of a server that shows none. */
void stored_put_unavailable(struct buf *out);

#endif
