/* index_parts.h - what the files of the index share. See index.h. */
#ifndef DS4_STORE_INDEX_PARTS_H
#define DS4_STORE_INDEX_PARTS_H

#include "store/index.h"

static inline uint32_t index_place(const struct index *x, const struct index_item *item)
{
    return (uint32_t)(item - x->items);
}

/* Lists of items, linked both ways; *head is a link. */
void index_link(struct index *x, uint32_t *head, struct index_item *item);
void index_unlink(struct index *x, uint32_t *head, struct index_item *item);
/* Marks the segments on the path from a key (NULL: none) to the root, and what the key names. */
void index_mark_path(struct index *x, const struct entry_key *from, bool mark);

/* tips.c. Room is made first: adding cannot fail then. */
bool tips_make_room(struct index *x, const struct entry_key *parent, uint64_t n_tokens);
void tips_drop_room(struct index *x, const struct entry_key *parent, uint64_t n_tokens);
void tips_add(struct index *x, struct index_item *tip);
void tips_remove(struct index *x, struct index_item *tip);
void tips_deinit(struct index *x);

/* victim.c. heap_reserve: room for all tips and one more. */
bool heap_reserve(struct index *x);
void heap_add(struct index *x, struct index_item *tip);
void heap_remove(struct index *x, struct index_item *tip);
void heap_make(struct index *x);

#endif
