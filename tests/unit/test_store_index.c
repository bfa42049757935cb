/* test_store_index.c - the table of stored entries: it finds and chooses what going through all of them would, and
 * looks at no more of them when there are a thousand times as many. */
#include "lib/test.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "store/index.h"

#define SPAN_IDS 8u
#define N_IDS 64u

struct world {
    struct index x;
    struct rng rng;
    struct entry_key root;
};

/* Tokens of conversation `chat`: those of other conversations are the same at first. */
static void ids_of(uint32_t chat, int32_t ids[N_IDS])
{
    for (uint32_t i = 0; i < N_IDS; i++) ids[i] = i < 11 ? (int32_t)i : (int32_t)(chat >> (i % 5)) + (int32_t)i;
}

static void add(struct world *w, const struct index_item *item)
{
    if (!index_find(&w->x, &item->key)) assert_int_equal(index_add(&w->x, item), DS4_OK);
}

/* The first n tokens of a conversation, with their segments and a tip, as a save adds them. */
static struct entry_key save(struct world *w, const int32_t *ids, uint32_t n, uint64_t now, bool pending)
{
    struct entry_key at = w->root;
    for (uint32_t i = 0; i < n / SPAN_IDS; i++) {
        struct index_item item = {.parent = at, .kind = ENTRY_SEGMENT, .n_tokens = (i + 1) * SPAN_IDS, .bytes = 100,
                                  .last_use = now};
        item.key = at = entry_next(&at, ids + i * SPAN_IDS, SPAN_IDS);
        add(w, &item);
    }
    struct index_item tip = {.parent = at, .kind = ENTRY_TIP, .n_tokens = n, .bytes = 40 + n % SPAN_IDS,
                             .last_use = now, .pending = pending};
    tip.key = entry_tip_key(&at, ids + n / SPAN_IDS * SPAN_IDS, n % SPAN_IDS);
    if (index_find(&w->x, &tip.key)) return tip.key;
    add(w, &tip);
    index_supersede(&w->x, &tip.key);
    return tip.key;
}

static size_t chain_of(const struct world *w, const int32_t *ids, size_t n, struct entry_key keys[N_IDS / SPAN_IDS + 1])
{
    size_t n_stored = 0;
    keys[0] = w->root;
    for (; n_stored < n / SPAN_IDS; n_stored++) {
        keys[n_stored + 1] = entry_next(&keys[n_stored], ids + n_stored * SPAN_IDS, SPAN_IDS);
        if (!index_find(&w->x, &keys[n_stored + 1])) break;
    }
    return n_stored;
}

static struct index_item *longest(struct world *w, const int32_t *ids, size_t n)
{
    struct entry_key keys[N_IDS / SPAN_IDS + 1];
    size_t n_stored = chain_of(w, ids, n, keys);
    return index_longest_tip(&w->x, keys, n_stored, SPAN_IDS, ids, n);
}

static const struct index_item *longest_of_all(const struct world *w, const int32_t *ids, size_t n)
{
    struct entry_key keys[N_IDS / SPAN_IDS + 1];
    const struct index_item *best = NULL;
    size_t n_stored = chain_of(w, ids, n, keys);
    for (size_t i = 0; i < w->x.cap; i++) {
        const struct index_item *item = &w->x.items[i];
        size_t n_spans = (size_t)item->n_tokens / SPAN_IDS;
        if (!item->bytes || item->kind != ENTRY_TIP || item->pending || item->n_tokens > n) continue;
        if (n_spans > n_stored) continue;
        size_t rest = (size_t)item->n_tokens % SPAN_IDS;
        struct entry_key key = entry_tip_key(&keys[n_spans], ids + n_spans * SPAN_IDS, rest);
        if (entry_key_eq(&key, &item->key) && (!best || item->n_tokens > best->n_tokens)) best = item;
    }
    return best;
}

/* What a new tip grew from, by going through all; noted in a field that the index does not use. */
static void note_former(struct world *w, const struct entry_key *key)
{
    const struct index_item *tip = index_find(&w->x, key);
    for (size_t i = 0; i < w->x.cap; i++) {
        struct index_item *other = &w->x.items[i];
        if (!other->bytes || other->kind != ENTRY_TIP || other->n_tokens >= tip->n_tokens) continue;
        const struct index_item *own = index_find(&w->x, &other->parent);
        for (const struct index_item *s = index_find(&w->x, &tip->parent); s; s = index_find(&w->x, &s->parent))
            if (s == own) other->text_len = 1;
    }
}

static double value_of(const struct index *x, const struct index_item *tip, uint64_t now)
{
    const struct index_item *last = index_find(x, &tip->parent);
    double turns = tip->turns < 8 ? tip->turns : 8;
    double likely = tip->superseded && tip->hits < 2 ? 0.1 : 1.0 + tip->hits + turns;
    double bytes = (double)tip->bytes + (last ? (double)(last->n_tokens / SPAN_IDS * last->bytes) : 0);
    return likely * exp2(-(double)(now - tip->last_use) / 600) * (double)(tip->n_tokens + 1) / bytes;
}

/* What is chosen is worth no more than anything else that could go, and what goes with it is needed by nothing. */
static void evict_one(struct world *w, uint64_t now, const struct entry_key *keep)
{
    double least = INFINITY;
    for (size_t i = 0; i < w->x.cap; i++) {
        const struct index_item *item = &w->x.items[i];
        if (!item->bytes || item->pending) continue;
        if (item->kind == ENTRY_TIP && !entry_key_eq(&item->key, keep)) least = fmin(least, value_of(&w->x, item, now));
    }
    if (!index_choose_victim(&w->x, now, 0, keep)) {
        assert_true(isinf(least));
        return;
    }
    for (struct index_item *gone; (gone = index_next_doomed(&w->x));) {
        struct entry_key key = gone->key;
        if (gone->kind == ENTRY_TIP) assert_true(value_of(&w->x, gone, now) <= least * (1 + 1e-9) && !gone->pending);
        else assert_int_equal(gone->n_tips, 0);
        index_remove(&w->x, &key);
    }
}

static void check_all(const struct world *w)
{
    uint64_t bytes = 0, pending = 0;
    size_t n = 0;
    for (size_t i = 0; i < w->x.cap; i++) {
        const struct index_item *item = &w->x.items[i];
        if (!item->bytes) continue;
        assert_ptr_equal(index_find(&w->x, &item->key), item);
        bytes += item->bytes;
        pending += item->pending ? item->bytes : 0;
        n++;
        assert_int_equal(item->superseded, item->text_len);
    }
    assert_int_equal(w->x.bytes, bytes);
    assert_int_equal(w->x.pending_bytes, pending);
    assert_int_equal(w->x.n, n);
}

TEST(what_is_found_and_what_goes_is_what_going_through_all_would_give)
{
    struct world w = {.rng = {test_seed()}, .root = {{7}}};
    index_init(&w.x);
    for (uint64_t step = 0; step < 4000; step++) {
        uint64_t r = rng_next(&w.rng), now = 1000000 + 40 * step;
        int32_t ids[N_IDS];
        uint32_t n = 1 + (uint32_t)(r >> 8) % N_IDS;
        ids_of((uint32_t)r % 24, ids);
        assert_ptr_equal(longest(&w, ids, n), longest_of_all(&w, ids, n));
        size_t n_before = w.x.n_tips;
        struct entry_key key = save(&w, ids, n, now, (r >> 32) % 4 == 0);
        struct index_item *tip = index_find(&w.x, &key);
        if (w.x.n_tips > n_before) note_former(&w, &key);
        if (tip->pending && (r >> 34) % 2) index_settle(&w.x, tip);
        if ((r >> 36) % 4 == 0) {
            tip->hits++;
            tip->last_use = now;
            index_touch(&w.x, tip);
        }
        if (tip->pending && (r >> 38) % 2) index_remove(&w.x, &key); /* could not be written */
        for (uint64_t k = 0; w.x.n > 150 && k < 1 + r % 2; k++) evict_one(&w, now, &key);
        if (step % 50 == 0) check_all(&w);
    }
    index_deinit(&w.x);
}

TEST(tips_that_another_one_grew_from_are_told_so_and_their_turns_go_on)
{
    struct world w = {.root = {{7}}};
    int32_t ids[N_IDS];
    index_init(&w.x);
    ids_of(3, ids);
    struct entry_key keys[4];
    for (uint32_t i = 0; i < 4; i++) keys[i] = save(&w, ids, 10 + 15 * i, 1, false);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(index_find(&w.x, &keys[i])->superseded, i < 3);
        assert_int_equal(index_find(&w.x, &keys[i])->turns, i);
    }
    ids_of(8, ids); /* a branch of the first one only */
    const struct index_item *branch = index_find(&w.x, &(struct entry_key[]){save(&w, ids, 20, 1, false)}[0]);
    assert_int_equal(branch->turns, 1);
    assert_false(branch->superseded);
    index_deinit(&w.x);
}

/* Records looked at by a lookup, a save and an eviction, the most of some, beside n conversations. */
static uint64_t looks_beside(uint32_t n, uint32_t n_turns)
{
    struct world w = {.root = {{7}}};
    int32_t ids[N_IDS];
    uint64_t most = 0;
    index_init(&w.x);
    for (uint32_t chat = 0; chat < n; chat++) {
        for (uint32_t i = 0; i < N_IDS; i++) ids[i] = i < 11 ? (int32_t)i : (int32_t)(chat * 64 + i);
        for (uint32_t turn = 1; turn <= n_turns; turn++) (void)save(&w, ids, 5 + 10 * turn + chat % 5, chat, false);
    }
    for (uint32_t i = 0; i < 20; i++) {
        uint64_t before = w.x.n_looks;
        for (uint32_t k = 11; k < N_IDS; k++) ids[k] = -(int32_t)(i * N_IDS + k);
        (void)longest(&w, ids, N_IDS);
        struct entry_key key = save(&w, ids, 20 + i % 5, n + i, false);
        assert_true(index_choose_victim(&w.x, n + i, 0, &key));
        for (struct index_item *gone; (gone = index_next_doomed(&w.x));) {
            struct entry_key gone_key = gone->key;
            index_remove(&w.x, &gone_key);
        }
        if (w.x.n_looks - before > most) most = w.x.n_looks - before;
    }
    index_deinit(&w.x);
    return most;
}

TEST(a_request_looks_at_no_more_entries_when_there_are_a_thousand_times_as_many)
{
    uint64_t few = looks_beside(20, 3), many = looks_beside(20000, 3);
    assert_true(few > 10);
    assert_true(many < few + 60); /* the heap is ten steps deeper */
}

int main(void)
{
    return RUN_TESTS(T(what_is_found_and_what_goes_is_what_going_through_all_would_give),
                     T(tips_that_another_one_grew_from_are_told_so_and_their_turns_go_on),
                     T(a_request_looks_at_no_more_entries_when_there_are_a_thousand_times_as_many));
}
