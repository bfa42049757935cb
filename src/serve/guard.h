/* guard.h - when an answer should not go on as it does: tokens or whole tool calls in a cycle, and thinking beyond its
 * budget. Worker only. */
#ifndef DS4_SERVE_GUARD_H
#define DS4_SERVE_GUARD_H

#include "serve/api/answer.h"

/* A cycle of tokens: the same up to so many, again and again, at least so often and for so long. */
#define GUARD_PERIOD_MAX 64
#define GUARD_COPIES_MIN 8
#define GUARD_TOKENS_MIN 256
/* A cycle of calls: the same up to so many steps, with the same results, at least so often. */
#define GUARD_STEPS_MAX 4
#define GUARD_STEP_COPIES_MIN 8

struct guard {
    int32_t last[GUARD_PERIOD_MAX];      /* ring of the latest tokens */
    uint32_t same[GUARD_PERIOD_MAX + 1]; /* same[p]: so many of the latest tokens equal the one p before them */
    uint32_t n;
};
/* Feeds one token. The period of the cycle that the tokens have ended in; 0 when they have not. */
uint32_t guard_feed(struct guard *g, int32_t id);

/* Whether thinking ends before its next token. n of the budget are used; last: the bytes of the last one. The end of a
 * sentence is taken as the occasion in the last eighth; the budget is never exceeded. */
bool guard_ends_thinking(uint32_t budget, size_t n, struct ds4_span last);

/* How often the conversation has gone through the cycle of tool calls that `calls`, as its next step, would continue,
 * them included; 1 when there is none. NULL: calls that continue whatever cycle there is. */
size_t guard_step_copies(const struct ds4_chat *chat, const struct answer_call *calls, size_t n_calls);

#endif
