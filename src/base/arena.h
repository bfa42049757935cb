/* arena.h - memory that dies together: bump allocation in growing blocks, with a byte limit. Not thread-safe. */
#ifndef DS4_BASE_ARENA_H
#define DS4_BASE_ARENA_H

#include "base/span.h"

struct arena_block;
struct arena {
    struct arena_block *last;
    size_t used_bytes; /* asked for, padding included */
    size_t limit_bytes; /* 0 = none */
};

void arena_init(struct arena *a, size_t limit_bytes);
void arena_deinit(struct arena *a);
/* Zero-filled, 16-byte aligned; NULL when out of memory or over the limit. */
void *arena_alloc(struct arena *a, size_t count, size_t size);
/* Copy of s with a NUL behind it (not counted in len); ptr NULL on failure. */
struct ds4_span arena_copy(struct arena *a, struct ds4_span s);

#endif
