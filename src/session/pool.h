/* pool.h - memory of all sessions' state: a fixed number of tails and of spans, counted by reference.
 * A full span is shared by every session that has the same history; see model/state_layout.h. Worker only. */
#ifndef DS4_SESSION_POOL_H
#define DS4_SESSION_POOL_H

#include "model/state_layout.h"
#include "ops/backend.h"

#define POOL_NONE UINT32_MAX

struct state_pool {
    struct backend *backend;
    const struct state_layout *layout;
    uint8_t *tails, *spans;       /* backend memory */
    uint32_t n_tails, n_spans;
    uint32_t *free_tails, *free_spans; /* stacks */
    uint32_t n_free_tails, n_free_spans;
    uint32_t *span_refs;          /* [n_spans] sessions that hold the span */
};

enum ds4_status pool_init(struct state_pool *p, struct backend *backend, const struct state_layout *layout,
                          uint32_t n_tails, uint32_t n_spans, struct ds4_error *error) DS4_MUST_CHECK;
void pool_deinit(struct state_pool *p);
uint32_t pool_take_tail(struct state_pool *p);            /* zeroed; POOL_NONE when all are in use */
void pool_give_tail(struct state_pool *p, uint32_t tail_i);
uint32_t pool_take_span(struct state_pool *p);            /* one reference; POOL_NONE when all are in use */
void pool_share_span(struct state_pool *p, uint32_t span_i);
void pool_drop_span(struct state_pool *p, uint32_t span_i);
uint8_t *pool_tail(const struct state_pool *p, uint32_t tail_i);
uint8_t *pool_span(const struct state_pool *p, uint32_t span_i);

#endif
