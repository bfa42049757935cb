/* recall.c - see recall.h. A block is found by the id of its first call. In the store, little-endian:
 *   OFFSET  SIZE  DESCRIPTION
 *   0       4     number of calls
 *   4       ...   per call three texts, each a length (4) and its bytes: id, name, arguments
 *   ...     ...   one text: the reasoning before them
 *   ...     ...   the block, to the end */
#include "serve/recall.h"

#include <pthread.h>

#include "base/bytes.h"
#include "base/mem.h"

struct entry {
    struct ds4_tool_call *calls; /* id, name, arguments: in bytes */
    size_t n_calls;
    struct buf bytes;
    struct ds4_span reasoning;
    size_t block_len;            /* it stands first */
    int32_t *turn;               /* all tokens up to the end of the block; NULL: forgotten */
    size_t n_turn;
};

struct recall {
    pthread_mutex_t lock;
    struct ds4_store *store;
    struct entry entries[RECALL_BLOCKS_MAX];
    size_t next;
    size_t n_tokens, oldest;     /* of all turns; no turn is known of what was put before number `oldest` */
};

struct recall *recall_create(struct ds4_store *store)
{
    struct recall *r = mem_zalloc(1, sizeof *r);
    if (r) r->store = store;
    if (r && pthread_mutex_init(&r->lock, NULL) == 0) return r;
    mem_free(r);
    return NULL;
}

static void forget_turn(struct recall *r, struct entry *e)
{
    r->n_tokens -= e->n_turn;
    mem_free(e->turn);
    e->turn = NULL;
    e->n_turn = 0;
}

static void forget(struct recall *r, struct entry *e)
{
    forget_turn(r, e);
    mem_free(e->calls);
    buf_deinit(&e->bytes);
    *e = (struct entry){0};
}

void recall_destroy(struct recall *r)
{
    if (!r) return;
    for (size_t i = 0; i < RECALL_BLOCKS_MAX; i++) forget(r, &r->entries[i]);
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

static void fill(struct recall *r, struct entry *e, const struct answer *a, struct ds4_span block)
{
    e->n_calls = a->n_calls;
    e->block_len = block.len;
    buf_put_span(&e->bytes, block);
    for (size_t i = 0; i < a->n_calls; i++)
        e->calls[i] = (struct ds4_tool_call){.id = keep(e, span_from(a->calls[i].id)),
                                             .name = keep(e, buf_span(&a->calls[i].name)),
                                             .arguments = keep(e, buf_span(&a->calls[i].arguments))};
    e->reasoning = keep(e, buf_span(&a->think));
    if (e->bytes.failed) {
        forget(r, e);
        return;
    }
    settle(e, &e->reasoning);
    for (size_t i = 0; i < e->n_calls; i++) {
        settle(e, &e->calls[i].id);
        settle(e, &e->calls[i].name);
        settle(e, &e->calls[i].arguments);
    }
}

static void put_text(struct buf *out, struct ds4_span text)
{
    char len[4];
    store_u32(len, (uint32_t)text.len);
    buf_put(out, len, sizeof len);
    buf_put_span(out, text);
}

static void keep_on_disk(struct recall *r, const struct answer *a, struct ds4_span block)
{
    struct buf out = {0};
    char n[4];
    store_u32(n, (uint32_t)a->n_calls);
    buf_put(&out, n, sizeof n);
    for (size_t i = 0; i < a->n_calls; i++) {
        put_text(&out, span_from(a->calls[i].id));
        put_text(&out, buf_span(&a->calls[i].name));
        put_text(&out, buf_span(&a->calls[i].arguments));
    }
    put_text(&out, buf_span(&a->think));
    buf_put_span(&out, block);
    if (!out.failed) ds4_store_replay_put(r->store, span_from(a->calls[0].id), buf_span(&out));
    buf_deinit(&out);
}

/* A turn that finds no memory is not known. */
static void keep_turn(struct recall *r, struct entry *e, const int32_t *held, size_t n_held, int32_t last)
{
    if (n_held >= RECALL_TOKENS_MAX || e->n_calls == 0) return;
    for (; r->n_tokens + n_held + 1 > RECALL_TOKENS_MAX; r->oldest++)
        forget_turn(r, &r->entries[r->oldest % RECALL_BLOCKS_MAX]);
    e->turn = mem_alloc(n_held + 1, sizeof *e->turn);
    if (!e->turn) return;
    if (n_held) memcpy(e->turn, held, n_held * sizeof *held);
    e->turn[n_held] = last;
    e->n_turn = n_held + 1;
    r->n_tokens += e->n_turn;
}

void recall_put(struct recall *r, const struct answer *a, struct ds4_span block, const int32_t *held, size_t n_held,
                int32_t last)
{
    if (block.len + a->think.text.len > RECALL_BLOCK_BYTES_MAX || a->n_calls == 0 || a->think.failed) return;
    struct ds4_tool_call *calls = mem_zalloc(a->n_calls, sizeof *calls);
    if (!calls) return;
    (void)pthread_mutex_lock(&r->lock);
    struct entry *e = &r->entries[r->next++ % RECALL_BLOCKS_MAX];
    if (r->next > RECALL_BLOCKS_MAX && r->oldest < r->next - RECALL_BLOCKS_MAX) r->oldest = r->next - RECALL_BLOCKS_MAX;
    forget(r, e);
    e->calls = calls;
    fill(r, e, a, block);
    keep_turn(r, e, held, n_held, last);
    keep_on_disk(r, a, block);
    (void)pthread_mutex_unlock(&r->lock);
}

/* Clients write the arguments of a call back in their own spacing. */
static bool same_json(struct arena *arena, struct ds4_span a, struct ds4_span b)
{
    const struct jv *x, *y;
    if (span_eq(a, b)) return true;
    return jv_parse(arena, a, &x, NULL) == DS4_OK && jv_parse(arena, b, &y, NULL) == DS4_OK && jv_same(x, y);
}

static bool same_call(struct arena *arena, const struct ds4_tool_call *a, const struct ds4_tool_call *b)
{
    return span_eq(a->id, b->id) && span_eq(a->name, b->name) && same_json(arena, a->arguments, b->arguments);
}

static bool matches(const struct entry *e, struct arena *arena, const struct ds4_tool_call *calls, size_t n_calls)
{
    if (e->n_calls != n_calls) return false;
    for (size_t i = 0; i < n_calls; i++)
        if (!same_call(arena, &e->calls[i], &calls[i])) return false;
    return true;
}

/* False when there are not so many bytes. */
static bool take_text(struct ds4_span *rest, struct ds4_span *out)
{
    if (rest->len < 4) return false;
    size_t len = load_u32(rest->ptr);
    *rest = span_skip(*rest, 4);
    if (rest->len < len) return false;
    *out = span_make(rest->ptr, len);
    *rest = span_skip(*rest, len);
    return true;
}

/* What the store knows of these calls, as the model sampled it; empty when they were changed. */
static struct ds4_span find_on_disk(struct recall *r, struct arena *arena, const struct ds4_tool_call *calls,
                                    size_t n_calls, struct ds4_span *reasoning)
{
    struct ds4_span thought;
    struct ds4_span rest = ds4_store_replay_get(r->store, calls[0].id), none = {"", 0};
    if (rest.len < 4 || load_u32(rest.ptr) != n_calls) return none;
    rest = span_skip(rest, 4);
    for (size_t i = 0; i < n_calls; i++) {
        struct ds4_tool_call its = {0};
        if (!take_text(&rest, &its.id) || !take_text(&rest, &its.name) || !take_text(&rest, &its.arguments) ||
            !same_call(arena, &its, &calls[i]))
            return none;
    }
    if (!take_text(&rest, &thought)) return none;
    *reasoning = arena_copy(arena, thought);
    return arena_copy(arena, rest);
}

struct ds4_span recall_find(void *user, struct arena *arena, const struct ds4_tool_call *calls, size_t n_calls,
                            struct ds4_span *reasoning)
{
    struct recall *r = user;
    struct ds4_span found = {"", 0};
    bool known = false;
    if (calls[0].id.len == 0) return found;
    (void)pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < RECALL_BLOCKS_MAX; i++) {
        const struct entry *e = &r->entries[i];
        if (e->n_calls == 0 || !span_eq(e->calls[0].id, calls[0].id)) continue;
        known = true;
        if (!matches(e, arena, calls, n_calls)) break;
        found = arena_copy(arena, span_make(e->bytes.text.ptr, e->block_len));
        *reasoning = arena_copy(arena, e->reasoning);
        break;
    }
    if (!known) found = find_on_disk(r, arena, calls, n_calls, reasoning);
    (void)pthread_mutex_unlock(&r->lock);
    return found.ptr ? found : SPAN("");
}

/* ---- results without their conversation ----------------------------------------------------------------------- */

static const struct ds4_message *result_of(struct ds4_span id, const struct ds4_message *results, size_t n_results)
{
    for (size_t i = 0; i < n_results; i++)
        if (results[i].role == DS4_ROLE_TOOL && span_eq(results[i].tool_call_id, id)) return &results[i];
    return NULL;
}

static bool answers(const struct entry *e, const struct ds4_message *results, size_t n_results)
{
    size_t n = 0;
    for (size_t i = 0; i < n_results; i++) n += results[i].role == DS4_ROLE_TOOL;
    if (!e->turn || n != e->n_calls) return false;
    for (size_t i = 0; i < n; i++) /* ids differ from each other: each has one result then */
        if (!result_of(e->calls[i].id, results, n_results)) return false;
    return true;
}

static enum ds4_status take_turn(const struct entry *e, struct arena *arena, struct ds4_tokens *tokens,
                                 const struct ds4_tool_call **calls, size_t *n_calls)
{
    struct ds4_tool_call *out = arena_alloc(arena, e->n_calls, sizeof *out);
    if (!out) return DS4_ERR_NOMEM;
    for (size_t i = 0; i < e->n_calls; i++) {
        out[i] = (struct ds4_tool_call){.id = arena_copy(arena, e->calls[i].id),
                                        .name = arena_copy(arena, e->calls[i].name), .arguments = SPAN("{}")};
        if (!out[i].id.ptr || !out[i].name.ptr) return DS4_ERR_NOMEM;
    }
    *calls = out;
    *n_calls = e->n_calls;
    return ds4_tokens_append(tokens, e->turn, e->n_turn);
}

enum ds4_status recall_turn(struct recall *r, struct arena *arena, const struct ds4_message *results, size_t n_results,
                            struct ds4_tokens *tokens, const struct ds4_tool_call **calls, size_t *n_calls)
{
    enum ds4_status status = DS4_OK;
    *n_calls = 0;
    (void)pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < RECALL_BLOCKS_MAX && *n_calls == 0 && status == DS4_OK; i++)
        if (answers(&r->entries[i], results, n_results))
            status = take_turn(&r->entries[i], arena, tokens, calls, n_calls);
    (void)pthread_mutex_unlock(&r->lock);
    return status;
}
