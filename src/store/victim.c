/* victim.c - what goes first when the budget is exceeded. See index.h.
 *
 * The value of keeping a tip, for each byte that goes with it, is the number of tokens that would be computed again,
 * times how likely it is to be asked for, times 2^(-age / half-life). Only the age depends on the time, and it makes
 * all values smaller by the same factor, so that the order of tips, by the logarithm of what is left, changes only when
 * one of them does: it is kept as a heap. */
#include <math.h>

#include "base/mem.h"
#include "store/index_parts.h"

/* Chosen with the simulator of tests/measure/store.c. */
#define HALF_LIFE_S 600.0 /* a use counts half after this long */
#define FORMER_END 0.1     /* a tip that another grew from: only an edited turn or a branch comes back to it */
#define TURNS_MAX 8u

/* Bytes of a tip and of all its segments: shared ones too. Counting only what no other tip needs would call the newest
 * end of a long conversation nearly worthless, since a former end shares most of it (tried, and worse than least
 * recently used: 51% of tokens computed instead of 36% at 300 MB). */
static double bytes_with(const struct index *x, const struct index_item *tip)
{
    const struct index_item *last = index_find(x, &tip->parent);
    uint64_t bytes = tip->bytes; /* all segments have the same size */
    if (last && x->span_tokens) bytes += last->n_tokens / x->span_tokens * last->bytes;
    return (double)bytes;
}

static double rank_of(const struct index *x, const struct index_item *tip)
{
    double turns = tip->turns < TURNS_MAX ? tip->turns : TURNS_MAX;
    double likely = tip->superseded && tip->hits < 2 ? FORMER_END : 1.0 + tip->hits + turns;
    return log2(likely * (double)(tip->n_tokens + 1) / bytes_with(x, tip)) + (double)tip->last_use / HALF_LIFE_S;
}

/* ---- the heap -------------------------------------------------------------------------------------------------- */

bool heap_reserve(struct index *x)
{
    if (x->n_tips + 1 <= x->heap_cap) return true;
    size_t cap = x->heap_cap ? 2 * x->heap_cap : 64;
    uint32_t *more = mem_realloc(x->heap, cap, sizeof *more);
    if (!more) return false;
    x->heap = more;
    x->heap_cap = cap;
    return true;
}

static void put(struct index *x, size_t at, uint32_t place)
{
    x->heap[at] = place;
    x->items[place].heap_at = (uint32_t)at + 1;
}

static double rank_at(const struct index *x, size_t at) { return x->items[x->heap[at]].rank; }

static void sift_up(struct index *x, size_t at)
{
    uint32_t place = x->heap[at];
    for (; at > 0 && rank_at(x, (at - 1) / 2) > x->items[place].rank; at = (at - 1) / 2) {
        put(x, at, x->heap[(at - 1) / 2]);
        x->n_looks++;
    }
    put(x, at, place);
}

static void sift_down(struct index *x, size_t at)
{
    uint32_t place = x->heap[at];
    for (size_t child; (child = 2 * at + 1) < x->n_heap; at = child) {
        if (child + 1 < x->n_heap && rank_at(x, child + 1) < rank_at(x, child)) child++;
        if (rank_at(x, child) >= x->items[place].rank) break;
        put(x, at, x->heap[child]);
        x->n_looks++;
    }
    put(x, at, place);
}

void heap_add(struct index *x, struct index_item *tip)
{
    tip->rank = rank_of(x, tip);
    x->heap[x->n_heap] = index_place(x, tip);
    sift_up(x, x->n_heap++);
}

void heap_remove(struct index *x, struct index_item *tip)
{
    if (!tip->heap_at) return;
    size_t at = tip->heap_at - 1;
    tip->heap_at = 0;
    uint32_t last = x->heap[--x->n_heap];
    if (at == x->n_heap) return;
    put(x, at, last);
    sift_up(x, at);
    sift_down(x, x->items[last].heap_at - 1);
}

void heap_make(struct index *x)
{
    x->n_heap = 0;
    for (size_t i = 0; i < x->cap; i++) {
        struct index_item *item = &x->items[i];
        if (item->bytes && item->kind == ENTRY_TIP && !item->pending) heap_add(x, item);
    }
}

/* ---- the victim ------------------------------------------------------------------------------------------------ */

static bool doom_orphan(struct index *x, uint64_t now, uint64_t grace_s)
{
    struct index_item *best = NULL;
    for (uint32_t link = x->orphans; link; link = x->items[link - 1].older) {
        struct index_item *item = &x->items[link - 1];
        x->n_looks++;
        if (item->pending || item->marked || item->last_use + grace_s > now) continue;
        /* The deepest first, so that what remains is still a prefix. */
        if (!best || item->n_tokens > best->n_tokens) best = item;
    }
    if (best) index_doom(x, best);
    return best;
}

static bool doom_tip(struct index *x)
{
    /* Only one tip can be marked, the one to be kept: it is at most the first of three. */
    struct index_item *worst = NULL;
    for (size_t at = 0; at < x->n_heap && at < 3; at++) {
        struct index_item *item = &x->items[x->heap[at]];
        if (!item->marked && (!worst || item->rank < worst->rank)) worst = item;
    }
    if (!worst) return false;
    index_doom(x, worst);
    for (struct index_item *s = index_find(x, &worst->parent); s && s->n_tips <= 1; s = index_find(x, &s->parent)) {
        x->n_looks++;
        if (s->pending || s->marked) break;
        index_doom(x, s);
    }
    return true;
}

bool index_choose_victim(struct index *x, uint64_t now, uint64_t grace_s, const struct entry_key *keep)
{
    if (x->broken) index_count_tips(x);
    index_mark_path(x, keep, true);
    bool found = doom_orphan(x, now, grace_s) || doom_tip(x);
    index_mark_path(x, keep, false);
    return found;
}
