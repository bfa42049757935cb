/* recall.h - which bytes the model sampled for a tool call that this server handed out, and what it thought before, so
 * that history renders to what was sampled and the state computed for it stays of use, also when the client lost the
 * thinking on the way. A ring of the latest blocks, and the store's list of those before; any thread. */
#ifndef DS4_SERVE_RECALL_H
#define DS4_SERVE_RECALL_H

#include "serve/api/answer.h"

#define RECALL_BLOCKS_MAX 1024
#define RECALL_BLOCK_BYTES_MAX (256u << 10)

struct recall;
/* store: may be NULL; its list of calls is used by this alone from now on. NULL when out of memory. */
struct recall *recall_create(struct ds4_store *store);
void recall_destroy(struct recall *r);
/* Remembers the block of an answer's calls. */
void recall_put(struct recall *r, const struct answer *a, struct ds4_span block);
/* An api_replay_fn; user is the replay. Empty unless all calls are those of one block, unchanged and in order. */
struct ds4_span recall_find(void *user, struct arena *arena, const struct ds4_tool_call *calls, size_t n_calls,
                            struct ds4_span *reasoning);

#endif
