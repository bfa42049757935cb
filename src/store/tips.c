/* tips.c - tips by the segment they hang on and by their length: the longest one of a prompt, and those that a new one
 * grew from, are found without a look at the others. See index.h. */
#include "base/mem.h"
#include "store/index_parts.h"

/* Tips of one length on one segment. */
struct tips_of_length {
    uint64_t n_tokens;
    uint32_t shorter;   /* link to the next of this segment, or of those that are free */
    uint32_t n_tips;
    uint32_t current;   /* those that none grew from */
    uint32_t turns_max; /* of all that were here */
};

/* Tips on one segment, or on the root. */
struct tips_of_parent {
    struct entry_key parent;
    uint32_t longest, n_current, turns_max;
};

void tips_deinit(struct index *x)
{
    key_pool_deinit(&x->parents);
    mem_free(x->lengths);
}

static struct tips_of_parent *parent_of(const struct index *x, const struct entry_key *key)
{
    uint32_t i = key_pool_find(&x->parents, key);
    return i == KEY_POOL_NONE ? NULL : (struct tips_of_parent *)(void *)x->parents.records + i;
}

/* The link of a parent's tips of a length, or of those that are shorter. */
static uint32_t *link_of(struct index *x, struct tips_of_parent *p, uint64_t n_tokens)
{
    uint32_t *link = &p->longest;
    for (; *link && x->lengths[*link - 1].n_tokens > n_tokens; link = &x->lengths[*link - 1].shorter) x->n_looks++;
    return link;
}

static bool is_length(const struct index *x, uint32_t link, uint64_t n_tokens)
{
    return link && x->lengths[link - 1].n_tokens == n_tokens;
}

/* A link to a new record; 0 without memory. */
static uint32_t new_length(struct index *x)
{
    uint32_t link = x->lengths_free;
    if (link) {
        x->lengths_free = x->lengths[link - 1].shorter;
        return link;
    }
    if (x->n_lengths_ever == x->lengths_cap) {
        size_t cap = x->lengths_cap ? 2 * x->lengths_cap : 64;
        struct tips_of_length *more = cap < UINT32_MAX ? mem_realloc(x->lengths, cap, sizeof *more) : NULL;
        if (!more) return 0;
        x->lengths = more;
        x->lengths_cap = cap;
    }
    return (uint32_t)++x->n_lengths_ever;
}

static void drop_if_empty(struct index *x, struct tips_of_parent *p, uint32_t *link)
{
    if (link && *link && x->lengths[*link - 1].n_tips == 0) {
        uint32_t gone = *link;
        *link = x->lengths[gone - 1].shorter;
        x->lengths[gone - 1].shorter = x->lengths_free;
        x->lengths_free = gone;
    }
    if (!p->longest) key_pool_remove(&x->parents, (uint32_t)(p - (struct tips_of_parent *)(void *)x->parents.records));
}

bool tips_make_room(struct index *x, const struct entry_key *parent, uint64_t n_tokens)
{
    if (!x->parents.record_bytes) key_pool_init(&x->parents, sizeof(struct tips_of_parent));
    if (!parent_of(x, parent) && key_pool_add(&x->parents, parent) == KEY_POOL_NONE) return false;
    struct tips_of_parent *p = parent_of(x, parent);
    if (is_length(x, *link_of(x, p, n_tokens), n_tokens)) return true;
    uint32_t made = new_length(x);
    if (!made) {
        drop_if_empty(x, p, NULL);
        return false;
    }
    uint32_t *link = link_of(x, p, n_tokens); /* only now: the records may have moved */
    x->lengths[made - 1] = (struct tips_of_length){.n_tokens = n_tokens, .shorter = *link};
    *link = made;
    return true;
}

void tips_drop_room(struct index *x, const struct entry_key *parent, uint64_t n_tokens)
{
    struct tips_of_parent *p = parent_of(x, parent);
    drop_if_empty(x, p, link_of(x, p, n_tokens));
}

static void note_turns(struct tips_of_parent *p, struct tips_of_length *length, uint32_t turns)
{
    if (turns > length->turns_max) length->turns_max = turns;
    if (turns > p->turns_max) p->turns_max = turns;
}

void tips_add(struct index *x, struct index_item *tip)
{
    struct tips_of_parent *p = parent_of(x, &tip->parent);
    struct tips_of_length *length = &x->lengths[*link_of(x, p, tip->n_tokens) - 1];
    length->n_tips++;
    note_turns(p, length, tip->turns);
    if (tip->superseded) return;
    p->n_current++;
    index_link(x, &length->current, tip);
}

void tips_remove(struct index *x, struct index_item *tip)
{
    struct tips_of_parent *p = parent_of(x, &tip->parent);
    uint32_t *link = link_of(x, p, tip->n_tokens);
    struct tips_of_length *length = &x->lengths[*link - 1];
    length->n_tips--;
    if (!tip->superseded) {
        p->n_current--;
        index_unlink(x, &length->current, tip);
    }
    drop_if_empty(x, p, link);
}

/* Supersedes the tips of a parent that are shorter than tip; each is looked at once, for it is then no longer current.
 * Returns the most turns of any that was ever there. */
static uint32_t supersede_on(struct index *x, struct tips_of_parent *p, const struct index_item *tip)
{
    uint32_t turns = 0;
    bool own = entry_key_eq(&p->parent, &tip->parent); /* else all of them are shorter */
    if (!own && p->n_current == 0) return p->turns_max + 1;
    for (uint32_t link = p->longest; link; link = x->lengths[link - 1].shorter) {
        struct tips_of_length *length = &x->lengths[link - 1];
        x->n_looks++;
        if (length->n_tokens >= tip->n_tokens) continue;
        if (length->turns_max + 1 > turns) turns = length->turns_max + 1;
        while (length->current) {
            struct index_item *former = &x->items[length->current - 1];
            x->n_looks++;
            index_unlink(x, &length->current, former);
            former->superseded = true;
            p->n_current--;
            index_touch(x, former);
        }
    }
    return turns;
}

void index_supersede(struct index *x, const struct entry_key *key)
{
    struct index_item *tip = index_find(x, key);
    if (!tip) return;
    for (const struct index_item *s = index_find(x, &tip->parent); s; s = index_find(x, &s->parent)) {
        struct tips_of_parent *p = parent_of(x, &s->key);
        x->n_looks++;
        uint32_t turns = p ? supersede_on(x, p, tip) : 0;
        if (turns > tip->turns) tip->turns = turns;
    }
    struct tips_of_parent *p = parent_of(x, &tip->parent);
    note_turns(p, &x->lengths[*link_of(x, p, tip->n_tokens) - 1], tip->turns);
    index_touch(x, tip);
}

struct index_item *index_longest_tip(struct index *x, const struct entry_key *keys, size_t n_spans, size_t span_tokens,
                                     const int32_t *ids, size_t n_ids)
{
    for (size_t n = n_spans + 1; n-- > 0;) {
        const struct tips_of_parent *p = parent_of(x, &keys[n]);
        x->n_looks++;
        for (uint32_t link = p ? p->longest : 0; link; link = x->lengths[link - 1].shorter) {
            uint64_t n_tokens = x->lengths[link - 1].n_tokens;
            x->n_looks++;
            if (n_tokens > n_ids || n_tokens / span_tokens != n) continue;
            struct entry_key key = entry_tip_key(&keys[n], ids + n * span_tokens, (size_t)n_tokens % span_tokens);
            struct index_item *item = index_find(x, &key);
            if (item && item->kind == ENTRY_TIP && !item->pending) return item;
        }
    }
    return NULL;
}
