/* pool.c - tails and spans of session state. See pool.h. */
#include "session/pool.h"

#include "base/mem.h"

enum ds4_status pool_init(struct state_pool *p, struct backend *backend, const struct state_layout *layout,
                          uint32_t n_tails, uint32_t n_spans, struct ds4_error *error)
{
    *p = (struct state_pool){.backend = backend, .layout = layout, .n_tails = n_tails, .n_spans = n_spans};
    p->tails = backend->ops->alloc(backend, (size_t)layout->tail_bytes * n_tails);
    p->spans = backend->ops->alloc(backend, (size_t)layout->span_bytes * n_spans);
    p->free_tails = mem_alloc(n_tails, sizeof(uint32_t));
    p->free_spans = mem_alloc(n_spans, sizeof(uint32_t));
    p->span_refs = mem_zalloc(n_spans, sizeof(uint32_t));
    if (!p->tails || !p->spans || !p->free_tails || !p->free_spans || !p->span_refs) {
        pool_deinit(p);
        return err_set(error, DS4_ERR_NOMEM, "no memory for the state of %u sessions (%u spans of %llu bytes)", n_tails,
                       n_spans, (unsigned long long)layout->span_bytes);
    }
    while (p->n_free_tails < n_tails) p->free_tails[p->n_free_tails] = n_tails - 1 - p->n_free_tails, p->n_free_tails++;
    while (p->n_free_spans < n_spans) p->free_spans[p->n_free_spans] = n_spans - 1 - p->n_free_spans, p->n_free_spans++;
    return DS4_OK;
}

void pool_deinit(struct state_pool *p)
{
    if (!p->backend) return;
    if (p->tails) p->backend->ops->release(p->backend, p->tails, (size_t)p->layout->tail_bytes * p->n_tails);
    if (p->spans) p->backend->ops->release(p->backend, p->spans, (size_t)p->layout->span_bytes * p->n_spans);
    mem_free(p->free_tails);
    mem_free(p->free_spans);
    mem_free(p->span_refs);
    *p = (struct state_pool){0};
}

uint32_t pool_take_tail(struct state_pool *p)
{
    return p->n_free_tails ? p->free_tails[--p->n_free_tails] : POOL_NONE;
}

void pool_give_tail(struct state_pool *p, uint32_t tail_i) { p->free_tails[p->n_free_tails++] = tail_i; }

uint32_t pool_take_span(struct state_pool *p)
{
    if (!p->n_free_spans) return POOL_NONE;
    uint32_t span_i = p->free_spans[--p->n_free_spans];
    p->span_refs[span_i] = 1;
    return span_i;
}

void pool_share_span(struct state_pool *p, uint32_t span_i) { p->span_refs[span_i]++; }

void pool_drop_span(struct state_pool *p, uint32_t span_i)
{
    ensure(p->span_refs[span_i] > 0);
    if (--p->span_refs[span_i] == 0) p->free_spans[p->n_free_spans++] = span_i;
}

uint8_t *pool_tail(const struct state_pool *p, uint32_t tail_i) { return p->tails + tail_i * p->layout->tail_bytes; }
uint8_t *pool_span(const struct state_pool *p, uint32_t span_i) { return p->spans + span_i * p->layout->span_bytes; }
