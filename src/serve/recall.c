/* recall.c - see recall.h. A block is found by the id of its first call. */
#include "serve/recall.h"

#include <pthread.h>

#include "base/mem.h"

struct entry {
    struct ds4_tool_call *calls; /* id, name, arguments: in bytes */
    size_t n_calls;
    struct buf bytes;
    size_t block_at, block_len;
};

struct recall {
    pthread_mutex_t lock;
    struct entry entries[RECALL_BLOCKS_MAX];
    size_t next;
};

struct recall *recall_create(void)
{
    struct recall *r = mem_zalloc(1, sizeof *r);
    if (r && pthread_mutex_init(&r->lock, NULL) == 0) return r;
    mem_free(r);
    return NULL;
}

static void forget(struct entry *e)
{
    mem_free(e->calls);
    buf_deinit(&e->bytes);
    *e = (struct entry){0};
}

void recall_destroy(struct recall *r)
{
    if (!r) return;
    for (size_t i = 0; i < RECALL_BLOCKS_MAX; i++) forget(&r->entries[i]);
    (void)pthread_mutex_destroy(&r->lock);
    mem_free(r);
}

/* Appends to the entry's bytes; the span's ptr is an offset until all is there. */
static struct ds4_span keep(struct entry *e, struct ds4_span text)
{
    size_t at = e->bytes.text.len;
    buf_put_span(&e->bytes, text);
    return span_make((const char *)(uintptr_t)at, text.len);
}

static void settle(const struct entry *e, struct ds4_span *s) { s->ptr = e->bytes.text.ptr + (uintptr_t)s->ptr; }

static void fill(struct entry *e, const struct answer *a, struct ds4_span block)
{
    e->n_calls = a->n_calls;
    e->block_at = 0;
    e->block_len = block.len;
    buf_put_span(&e->bytes, block);
    for (size_t i = 0; i < a->n_calls; i++)
        e->calls[i] = (struct ds4_tool_call){.id = keep(e, span_from(a->calls[i].id)),
                                             .name = keep(e, buf_span(&a->calls[i].name)),
                                             .arguments = keep(e, buf_span(&a->calls[i].arguments))};
    if (e->bytes.failed) {
        forget(e);
        return;
    }
    for (size_t i = 0; i < e->n_calls; i++) {
        settle(e, &e->calls[i].id);
        settle(e, &e->calls[i].name);
        settle(e, &e->calls[i].arguments);
    }
}

void recall_put(struct recall *r, const struct answer *a, struct ds4_span block)
{
    if (block.len > RECALL_BLOCK_BYTES_MAX || a->n_calls == 0) return;
    struct ds4_tool_call *calls = mem_zalloc(a->n_calls, sizeof *calls);
    if (!calls) return;
    (void)pthread_mutex_lock(&r->lock);
    struct entry *e = &r->entries[r->next++ % RECALL_BLOCKS_MAX];
    forget(e);
    e->calls = calls;
    fill(e, a, block);
    (void)pthread_mutex_unlock(&r->lock);
}

/* Clients write the arguments of a call back in their own spacing. */
static bool same_json(struct arena *arena, struct ds4_span a, struct ds4_span b)
{
    const struct jv *x, *y;
    if (span_eq(a, b)) return true;
    return jv_parse(arena, a, &x, NULL) == DS4_OK && jv_parse(arena, b, &y, NULL) == DS4_OK && jv_same(x, y);
}

static bool matches(const struct entry *e, struct arena *arena, const struct ds4_tool_call *calls, size_t n_calls)
{
    if (e->n_calls != n_calls) return false;
    for (size_t i = 0; i < n_calls; i++)
        if (!span_eq(e->calls[i].id, calls[i].id) || !span_eq(e->calls[i].name, calls[i].name) ||
            !same_json(arena, e->calls[i].arguments, calls[i].arguments))
            return false;
    return true;
}

struct ds4_span recall_find(void *user, struct arena *arena, const struct ds4_tool_call *calls, size_t n_calls)
{
    struct recall *r = user;
    struct ds4_span found = {"", 0};
    if (calls[0].id.len == 0) return found;
    (void)pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < RECALL_BLOCKS_MAX; i++) {
        const struct entry *e = &r->entries[i];
        if (e->n_calls == 0 || !span_eq(e->calls[0].id, calls[0].id)) continue;
        if (matches(e, arena, calls, n_calls))
            found = arena_copy(arena, span_make(e->bytes.text.ptr + e->block_at, e->block_len));
        break;
    }
    (void)pthread_mutex_unlock(&r->lock);
    return found.ptr ? found : SPAN("");
}
