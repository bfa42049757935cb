/* index.h - what is in the store's directory: one record per entry of our identity, found by key, and the rule that
 * decides what goes first when the budget is exceeded. Pure bookkeeping: no files. Worker only. */
#ifndef DS4_STORE_INDEX_H
#define DS4_STORE_INDEX_H

#include "store/entry.h"

/* One entry. Segments form a tree by parent; tips hang on it. */
struct index_item {
    struct entry_key key, parent;
    enum entry_kind kind;
    bool pending;            /* queued, not yet on disk */
    bool doomed;             /* chosen for eviction in this round */
    uint64_t n_tokens, bytes, text_len, created, last_use;
    uint8_t text_digest[16];
    uint32_t reason;         /* enum ds4_save_reason */
    uint32_t hits;
    uint32_t turns;          /* tips: how many tips this one grew from, one after another */
    bool superseded;         /* tips: another one grew from it */
    bool marked;             /* scratch */
    uint32_t n_tips;         /* segments: tips that need it */
};

struct index {
    struct index_item *items; /* open addressing by key; bytes == 0: empty */
    size_t cap, n, n_tips;
    uint64_t bytes;           /* of all items */
    uint64_t span_tokens;     /* of a segment */
    bool broken;              /* a segment went that tips need: counts may be off until they are made again */
};

void index_init(struct index *x);
void index_deinit(struct index *x);
/* NULL when absent. Valid until the next insertion. */
struct index_item *index_find(const struct index *x, const struct entry_key *key);
/* Adds a copy (bytes > 0, key not present) and counts a tip on its segments. NOMEM. */
enum ds4_status index_add(struct index *x, const struct index_item *item) DS4_MUST_CHECK;
void index_remove(struct index *x, const struct entry_key *key);
/* Recounts n_tips of every segment: after a directory was read in any order. */
void index_count_tips(struct index *x);
/* Tells the tips that a new tip (in the table) grew from that they are superseded, and gives it their turns: a
 * conversation that went on for long is likely to go on, its former ends are not. */
void index_supersede(struct index *x, const struct entry_key *tip);
/* Value of keeping a tip, per byte that goes with it: tokens that would be computed again, weighed by how recently and
 * how often it was used. now and last_use in seconds. */
double index_value(const struct index_item *tip, uint64_t own_bytes, uint64_t own_tokens, uint64_t now);
/* Marks doomed the entry worth least and the segments only it needs: the tip of least value, or, before any tip, a
 * segment that no tip needs and that was last used more than grace_s ago. False when nothing can go. keep (may be
 * NULL): a key whose prefix must stay. */
bool index_choose_victim(struct index *x, uint64_t now, uint64_t grace_s, const struct entry_key *keep);

#endif
