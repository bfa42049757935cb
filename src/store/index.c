/* index.c - the table of entries. See index.h. */
#include "store/index.h"

#include "base/mem.h"
#include "store/index_parts.h"

void index_init(struct index *x)
{
    *x = (struct index){0};
    key_pool_init(&x->entries, sizeof(struct index_item));
}

void index_deinit(struct index *x)
{
    tips_deinit(x);
    key_pool_deinit(&x->entries);
    mem_free(x->heap);
    index_init(x);
}

struct index_item *index_find(const struct index *x, const struct entry_key *key)
{
    uint32_t i = key_pool_find(&x->entries, key);
    return i == KEY_POOL_NONE ? NULL : &x->items[i];
}

void index_link(struct index *x, uint32_t *head, struct index_item *item)
{
    item->newer = 0;
    item->older = *head;
    if (*head) x->items[*head - 1].newer = index_place(x, item) + 1;
    *head = index_place(x, item) + 1;
}

void index_unlink(struct index *x, uint32_t *head, struct index_item *item)
{
    if (item->newer) x->items[item->newer - 1].older = item->older;
    else *head = item->older;
    if (item->older) x->items[item->older - 1].newer = item->newer;
    item->newer = item->older = 0;
}

/* ---- counts ---------------------------------------------------------------------------------------------------- */

/* Adds delta to the tip count of every segment from `key` up to the root. */
static void count_up(struct index *x, const struct entry_key *key, int delta)
{
    for (struct index_item *item = index_find(x, key); item && item->kind == ENTRY_SEGMENT;
         item = index_find(x, &item->parent)) {
        x->n_looks++;
        if (delta < 0 && item->n_tips == 0) return; /* parts of the path came later than the tip */
        if (delta > 0 && item->n_tips == 0) index_unlink(x, &x->orphans, item);
        item->n_tips += (uint32_t)delta;
        if (item->n_tips == 0) index_link(x, &x->orphans, item);
    }
}

static void count_pending(struct index *x, const struct index_item *item, bool more)
{
    if (!item->pending) return;
    x->pending_bytes += more ? item->bytes : 0 - item->bytes;
    x->pending_row_bytes += more ? item->row_bytes : 0 - item->row_bytes;
}

enum ds4_status index_add(struct index *x, const struct index_item *item)
{
    bool tip = item->kind == ENTRY_TIP;
    if (tip && (!heap_reserve(x) || !tips_make_room(x, &item->parent, item->n_tokens))) return DS4_ERR_NOMEM;
    uint32_t place = key_pool_add(&x->entries, &item->key);
    x->items = (struct index_item *)(void *)x->entries.records;
    x->cap = x->entries.n_ever;
    if (place == KEY_POOL_NONE) {
        if (tip) tips_drop_room(x, &item->parent, item->n_tokens);
        return DS4_ERR_NOMEM;
    }
    struct index_item *added = &x->items[place];
    *added = *item;
    x->n++;
    x->bytes += item->bytes;
    count_pending(x, item, true);
    if (tip) {
        x->n_tips++;
        tips_add(x, added);
        count_up(x, &item->parent, 1);
        if (!item->pending) heap_add(x, added);
        return DS4_OK;
    }
    if (!x->span_tokens || item->n_tokens < x->span_tokens) x->span_tokens = item->n_tokens;
    index_link(x, &x->orphans, added);
    x->broken = x->broken || x->torn; /* tips may hang below it */
    return DS4_OK;
}

void index_remove(struct index *x, const struct entry_key *key)
{
    struct index_item *item = index_find(x, key);
    if (!item) return;
    struct entry_key parent = item->parent;
    bool tip = item->kind == ENTRY_TIP;
    x->bytes -= item->bytes;
    x->n--;
    count_pending(x, item, false);
    if (tip) {
        x->n_tips--;
        heap_remove(x, item);
        tips_remove(x, item);
    } else if (item->n_tips) {
        x->broken = x->torn = true;
    } else {
        index_unlink(x, &x->orphans, item);
    }
    key_pool_remove(&x->entries, index_place(x, item));
    if (tip) count_up(x, &parent, -1);
}

void index_settle(struct index *x, struct index_item *item)
{
    count_pending(x, item, false);
    item->pending = false;
    if (item->kind == ENTRY_TIP) heap_add(x, item);
}

void index_touch(struct index *x, struct index_item *item)
{
    if (!item->heap_at) return;
    heap_remove(x, item);
    heap_add(x, item);
}

void index_count_tips(struct index *x)
{
    x->orphans = 0;
    for (size_t i = 0; i < x->cap; i++) {
        struct index_item *item = &x->items[i];
        if (!item->bytes || item->kind != ENTRY_SEGMENT) continue;
        item->n_tips = 0;
        index_link(x, &x->orphans, item);
    }
    for (size_t i = 0; i < x->cap; i++)
        if (x->items[i].bytes && x->items[i].kind == ENTRY_TIP) count_up(x, &x->items[i].parent, 1);
    x->broken = false;
    heap_make(x);
}

void index_mark_path(struct index *x, const struct entry_key *from, bool mark)
{
    for (struct index_item *s = from ? index_find(x, from) : NULL; s; s = index_find(x, &s->parent)) {
        s->marked = mark;
        x->n_looks++;
    }
}

/* ---- the doomed ------------------------------------------------------------------------------------------------ */

void index_doom(struct index *x, struct index_item *item)
{
    uint32_t link = index_place(x, item) + 1;
    if (item->doomed) return;
    item->doomed = true;
    item->next_doomed = 0;
    if (x->doomed_last) x->items[x->doomed_last - 1].next_doomed = link;
    else x->doomed_first = link;
    x->doomed_last = link;
}

struct index_item *index_next_doomed(struct index *x)
{
    if (!x->doomed_first) return NULL;
    struct index_item *item = &x->items[x->doomed_first - 1];
    x->doomed_first = item->next_doomed;
    if (!x->doomed_first) x->doomed_last = 0;
    item->doomed = false;
    return item;
}
