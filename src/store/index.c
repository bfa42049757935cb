/* index.c - the table of entries and the choice of what to evict. See index.h. */
#include "store/index.h"

#include <math.h>

#include "base/bytes.h"
#include "base/mem.h"

/* Chosen with the simulator of tests/measure/store.c. */
#define HALF_LIFE_S 600.0 /* a use counts half after this long */
#define FORMER_END 0.1     /* a tip that another grew from: only an edited turn or a branch comes back to it */
#define TURNS_MAX 8u

void index_init(struct index *x) { *x = (struct index){0}; }

void index_deinit(struct index *x)
{
    mem_free(x->items);
    *x = (struct index){0};
}

static size_t slot_of(const struct index *x, const struct entry_key *key)
{
    size_t i = (size_t)load_u64(key->bytes) & (x->cap - 1);
    while (x->items[i].bytes && !entry_key_eq(&x->items[i].key, key)) i = (i + 1) & (x->cap - 1);
    return i;
}

struct index_item *index_find(const struct index *x, const struct entry_key *key)
{
    if (!x->cap) return NULL;
    struct index_item *item = &x->items[slot_of(x, key)];
    return item->bytes ? item : NULL;
}

static enum ds4_status grow(struct index *x)
{
    size_t cap = x->cap ? x->cap * 2 : 256;
    struct index bigger = {.items = mem_zalloc(cap, sizeof *bigger.items), .cap = cap};
    if (!bigger.items) return DS4_ERR_NOMEM;
    for (size_t i = 0; i < x->cap; i++)
        if (x->items[i].bytes) bigger.items[slot_of(&bigger, &x->items[i].key)] = x->items[i];
    mem_free(x->items);
    x->items = bigger.items;
    x->cap = cap;
    return DS4_OK;
}

/* Adds delta to the tip count of every segment from `key` up to the root. */
static void count_up(struct index *x, const struct entry_key *key, int delta)
{
    for (struct index_item *item = index_find(x, key); item && item->kind == ENTRY_SEGMENT;
         item = index_find(x, &item->parent)) {
        if (delta < 0 && item->n_tips == 0) return; /* parts of the path came later than the tip */
        item->n_tips += (uint32_t)delta;
    }
}

enum ds4_status index_add(struct index *x, const struct index_item *item)
{
    if (2 * (x->n + 1) > x->cap) TRY(grow(x));
    x->items[slot_of(x, &item->key)] = *item;
    x->n++;
    x->bytes += item->bytes;
    if (item->kind == ENTRY_SEGMENT && (!x->span_tokens || item->n_tokens < x->span_tokens))
        x->span_tokens = item->n_tokens;
    if (item->kind == ENTRY_TIP) {
        x->n_tips++;
        count_up(x, &item->parent, 1);
    }
    return DS4_OK;
}

void index_remove(struct index *x, const struct entry_key *key)
{
    struct index_item *item = index_find(x, key);
    if (!item) return;
    struct entry_key parent = item->parent;
    x->bytes -= item->bytes;
    x->n--;
    bool tip = item->kind == ENTRY_TIP;
    if (!tip && item->n_tips) x->broken = true;
    item->bytes = 0;
    /* Close the gap: whatever was pushed past this slot moves back. */
    for (size_t i = (size_t)(item - x->items);;) {
        i = (i + 1) & (x->cap - 1);
        if (!x->items[i].bytes) break;
        struct index_item moved = x->items[i];
        x->items[i].bytes = 0;
        x->items[slot_of(x, &moved.key)] = moved;
    }
    if (tip) {
        x->n_tips--;
        count_up(x, &parent, -1);
    }
}

void index_count_tips(struct index *x)
{
    for (size_t i = 0; i < x->cap; i++) x->items[i].n_tips = 0;
    for (size_t i = 0; i < x->cap; i++)
        if (x->items[i].bytes && x->items[i].kind == ENTRY_TIP) count_up(x, &x->items[i].parent, 1);
}

static void mark_path(struct index *x, const struct entry_key *from, bool mark)
{
    for (struct index_item *s = index_find(x, from); s; s = index_find(x, &s->parent)) s->marked = mark;
}

void index_supersede(struct index *x, const struct entry_key *key)
{
    struct index_item *tip = index_find(x, key);
    if (!tip) return;
    mark_path(x, &tip->parent, true);
    for (size_t i = 0; i < x->cap; i++) {
        struct index_item *other = &x->items[i];
        if (!other->bytes || other->kind != ENTRY_TIP || other->n_tokens >= tip->n_tokens) continue;
        const struct index_item *segment = index_find(x, &other->parent);
        if (!segment || !segment->marked) continue;
        other->superseded = true;
        if (other->turns + 1 > tip->turns) tip->turns = other->turns + 1;
    }
    mark_path(x, &tip->parent, false);
}

double index_value(const struct index_item *tip, uint64_t own_bytes, uint64_t own_tokens, uint64_t now)
{
    double age = now > tip->last_use ? (double)(now - tip->last_use) : 0;
    double turns = tip->turns < TURNS_MAX ? tip->turns : TURNS_MAX;
    double likely = tip->superseded && tip->hits < 2 ? FORMER_END : 1.0 + tip->hits + turns;
    double worth = likely * exp2(-age / HALF_LIFE_S);
    return worth * (double)(own_tokens + 1) / (double)own_bytes;
}

/* Bytes of a tip and of all its segments, and its tokens: shared ones too. Counting only what no other tip needs would
 * call the newest end of a long conversation nearly worthless, since a former end shares most of it (tried, and worse
 * than least recently used: 51% of tokens computed instead of 36% at 300 MB). */
static void whole_share(const struct index *x, const struct index_item *tip, uint64_t *bytes, uint64_t *tokens)
{
    const struct index_item *last = index_find(x, &tip->parent);
    *bytes = tip->bytes; /* all segments have the same size */
    if (last && x->span_tokens) *bytes += last->n_tokens / x->span_tokens * last->bytes;
    *tokens = tip->n_tokens;
}

/* Marks the segments on the path to `keep`, which must stay. */
static bool on_path(const struct index *x, const struct index_item *item, const struct entry_key *keep)
{
    for (const struct index_item *s = keep ? index_find(x, keep) : NULL; s; s = index_find(x, &s->parent))
        if (s == item) return true;
    return false;
}

static bool doom_orphan(struct index *x, uint64_t now, uint64_t grace_s, const struct entry_key *keep)
{
    struct index_item *best = NULL;
    for (size_t i = 0; i < x->cap; i++) {
        struct index_item *item = &x->items[i];
        if (!item->bytes || item->pending || item->kind != ENTRY_SEGMENT || item->n_tips) continue;
        if (item->last_use + grace_s > now || on_path(x, item, keep)) continue;
        /* The deepest first, so that what remains is still a prefix. */
        if (!best || item->n_tokens > best->n_tokens) best = item;
    }
    if (best) best->doomed = true;
    return best;
}

bool index_choose_victim(struct index *x, uint64_t now, uint64_t grace_s, const struct entry_key *keep)
{
    struct index_item *worst = NULL;
    double least = 0;
    if (x->broken) index_count_tips(x);
    if (doom_orphan(x, now, grace_s, keep)) return true;
    for (size_t i = 0; i < x->cap; i++) {
        struct index_item *item = &x->items[i];
        if (!item->bytes || item->pending || item->kind != ENTRY_TIP || on_path(x, item, keep)) continue;
        uint64_t bytes, tokens;
        whole_share(x, item, &bytes, &tokens);
        double value = index_value(item, bytes, tokens, now);
        if (worst && value >= least) continue;
        worst = item;
        least = value;
    }
    if (!worst) return false;
    worst->doomed = true;
    for (struct index_item *s = index_find(x, &worst->parent); s && s->n_tips <= 1; s = index_find(x, &s->parent)) {
        if (s->pending || on_path(x, s, keep)) break;
        s->doomed = true;
    }
    return true;
}
