/* recall.h - which bytes the model sampled for a tool call that this server handed out, and what it thought before, so
 * that history renders to what was sampled and the state computed for it stays of use, also when the client lost the
 * thinking on the way. A ring of the latest blocks, and the store's list of those before; any thread. Of the latest
 * turns all tokens are known as well: the results of their calls may come without the conversation. */
#ifndef DS4_SERVE_RECALL_H
#define DS4_SERVE_RECALL_H

#include "serve/api/answer.h"

#define RECALL_BLOCKS_MAX 1024
#define RECALL_BLOCK_BYTES_MAX (256u << 10)
#define RECALL_TOKENS_MAX (4u << 20) /* of all turns together: four conversations of the longest kind */

struct recall;
/* store: may be NULL; its list of calls is used by this alone from now on. NULL when out of memory. */
struct recall *recall_create(struct ds4_store *store);
void recall_destroy(struct recall *r);
/* Remembers the block of an answer's calls, and the turn: n_held tokens and the last one. */
void recall_put(struct recall *r, const struct answer *a, struct ds4_span block, const int32_t *held, size_t n_held,
                int32_t last);
/* An api_replay_fn; user is the replay. Empty unless all calls are those of one block, unchanged and in order. */
struct ds4_span recall_find(void *user, struct arena *arena, const struct ds4_tool_call *calls, size_t n_calls,
                            struct ds4_span *reasoning);
/* The turn whose calls are those that the results answer, each once: its tokens are appended, its calls (id and name)
 * copied to the arena. *n_calls = 0: no such turn is known. */
enum ds4_status recall_turn(struct recall *r, struct arena *arena, const struct ds4_message *results, size_t n_results,
                            struct ds4_tokens *tokens, const struct ds4_tool_call **calls,
                            size_t *n_calls) DS4_MUST_CHECK;

#endif
