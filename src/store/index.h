/* index.h - what is in the store's directory: one record per entry of our identity, found by key, and the rule that
 * decides what goes first when the budget is exceeded. Pure bookkeeping: no files. Worker only.
 *
 * What is done for each request - looking up, saving, evicting - looks at the prompt's own spans and at what hangs on
 * them, never at all entries: index.c has the table, tips.c the tips by what they hang on, victim.c who goes first. */
#ifndef DS4_STORE_INDEX_H
#define DS4_STORE_INDEX_H

#include "store/entry.h"
#include "store/key_pool.h"

/* One entry. Segments form a tree by parent; tips hang on it. A link is 1 + the place of an item; 0: none. */
struct index_item {
    struct entry_key key, parent;
    enum entry_kind kind;
    bool pending;            /* queued, not yet on disk */
    bool doomed;             /* chosen for eviction in this round */
    bool superseded;         /* tips: another one grew from it */
    bool marked;             /* scratch */
    uint64_t n_tokens, bytes, text_len, created, last_use;
    uint64_t row_bytes;      /* of bytes: rows of new tokens */
    uint8_t text_digest[16];
    uint32_t reason;         /* enum ds4_save_reason */
    uint32_t hits;
    uint32_t turns;          /* tips: how many tips this one grew from, one after another */
    uint32_t n_tips;         /* segments: tips that need it */
    uint32_t newer, older;   /* links of the tips of one place that none grew from, or of segments without a tip */
    uint32_t next_doomed, heap_at;
    double rank;             /* of tips: who has the least goes first */
};

struct tips_of_length;

struct index {
    struct index_item *items; /* [cap]; those with bytes are there, and stay where they are */
    size_t cap, n, n_tips;
    uint64_t bytes;           /* of all items */
    uint64_t pending_bytes, pending_row_bytes;
    uint64_t span_tokens;     /* of a segment */
    bool broken, torn;        /* counts may be off until they are made again; a segment went that tips need */
    struct key_pool entries, parents;
    struct tips_of_length *lengths;
    size_t n_lengths_ever, lengths_cap;
    uint32_t lengths_free, orphans, doomed_first, doomed_last;
    uint32_t *heap;           /* places of tips on disk, the least rank first */
    size_t n_heap, heap_cap;
    uint64_t n_looks;         /* records looked at so far, for tests */
};

void index_init(struct index *x);
void index_deinit(struct index *x);
/* NULL when absent. Valid until the next insertion. */
struct index_item *index_find(const struct index *x, const struct entry_key *key);
/* Adds a copy (bytes > 0, key not present) and counts a tip on its segments. NOMEM. */
enum ds4_status index_add(struct index *x, const struct index_item *item) DS4_MUST_CHECK;
void index_remove(struct index *x, const struct entry_key *key);
/* A pending item is on disk now. */
void index_settle(struct index *x, struct index_item *item);
/* The item's last use or hits were changed. */
void index_touch(struct index *x, struct index_item *item);
/* Recounts n_tips of every segment and ranks every tip anew: after a directory was read in any order. */
void index_count_tips(struct index *x);

/* Tells the tips that a new tip (in the table) grew from that they are superseded, and gives it their turns: a
 * conversation that went on for long is likely to go on, its former ends are not. */
void index_supersede(struct index *x, const struct entry_key *tip);
/* The longest tip on disk whose tokens ids begin with; NULL when there is none. keys[i] is the key of the first i
 * spans, for i up to n_spans, which are all on disk. */
struct index_item *index_longest_tip(struct index *x, const struct entry_key *keys, size_t n_spans, size_t span_tokens,
                                     const int32_t *ids, size_t n_ids);

/* Dooms the entry worth least and the segments only it needs: the tip of least value, or, before any tip, a segment
 * that no tip needs and that was last used more than grace_s ago. False when nothing can go. keep (may be NULL): a key
 * whose prefix must stay. */
bool index_choose_victim(struct index *x, uint64_t now, uint64_t grace_s, const struct entry_key *keep);
void index_doom(struct index *x, struct index_item *item);
/* The next of the doomed, which is no longer marked as such; NULL when there is none. Tips come before the segments
 * that were doomed with them. */
struct index_item *index_next_doomed(struct index *x);

#endif
