/* arena.c - bump allocator in blocks. See arena.h. */
#include "base/arena.h"

#include "base/mem.h"

#ifdef DS4_SMALL_LIMITS
#define ARENA_BLOCK_BYTES ((size_t)32)
#else
#define ARENA_BLOCK_BYTES ((size_t)64 * 1024) /* smallest block; large requests get one of their own */
#endif

struct arena_block {
    struct arena_block *previous;
    size_t cap, used;
    _Alignas(16) unsigned char bytes[];
};

void arena_init(struct arena *a, size_t limit_bytes) { *a = (struct arena){.limit_bytes = limit_bytes}; }

void arena_deinit(struct arena *a)
{
    for (struct arena_block *b = a->last; b;) {
        struct arena_block *previous = b->previous;
        mem_free(b);
        b = previous;
    }
    a->last = NULL;
    a->used_bytes = 0;
}

void *arena_alloc(struct arena *a, size_t count, size_t size)
{
    uint64_t bytes, total, block_bytes;
    if (!mul_ok(count, size, &bytes) || !add_ok(bytes, 15, &bytes)) return NULL;
    bytes &= ~(uint64_t)15;
    if (!add_ok(a->used_bytes, bytes, &total) || (a->limit_bytes && total > a->limit_bytes)) return NULL;
    struct arena_block *b = a->last;
    if (!b || b->cap - b->used < bytes) {
        size_t cap = bytes > ARENA_BLOCK_BYTES ? (size_t)bytes : ARENA_BLOCK_BYTES;
        if (!add_ok(cap, sizeof *b, &block_bytes)) return NULL;
        b = mem_zalloc(1, (size_t)block_bytes);
        if (!b) return NULL;
        b->cap = cap;
        b->previous = a->last;
        a->last = b;
    }
    void *ptr = b->bytes + b->used;
    b->used += (size_t)bytes;
    a->used_bytes = (size_t)total;
    return ptr;
}

struct ds4_span arena_copy(struct arena *a, struct ds4_span s)
{
    char *ptr = s.len < SIZE_MAX ? arena_alloc(a, s.len + 1, 1) : NULL;
    if (!ptr) return (struct ds4_span){0};
    if (s.len) memcpy(ptr, s.ptr, s.len);
    return span_make(ptr, s.len);
}
