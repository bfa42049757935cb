/* mem.h - the only door to the heap and to anonymous memory. Every allocation may fail; tests make each fail in turn
 * through the hook. Sizes are checked with mul_ok/add_ok. Thread-safe. */
#ifndef DS4_BASE_MEM_H
#define DS4_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* For arrays on the stack that are written before they are read, in loops where filling them with zeros would show. */
#define UNINITIALISED __attribute__((uninitialized))

/* *out = a * b or a + b; false when the result does not fit. */
static inline bool mul_ok(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool add_ok(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }

/* NULL when there is no memory (or the test hook says so). count * size is checked. Zero bytes give a valid pointer. */
void *mem_alloc(size_t count, size_t size);
void *mem_zalloc(size_t count, size_t size);       /* zero-filled */
void *mem_realloc(void *ptr, size_t count, size_t size); /* ptr stays valid on failure */
void *mem_alloc_aligned(size_t align, size_t bytes);     /* align: power of two; zero-filled; mem_free releases */
void mem_free(void *ptr);                                /* NULL is fine */

/* Page-aligned, zero-filled, lazily committed memory. bytes is rounded up by the system; release with the same size. */
void *mem_map(size_t bytes);
void mem_unmap(void *ptr, size_t bytes);
/* Gives whole pages inside a mem_map back to the system; what they held is lost. */
void mem_discard(void *ptr, size_t bytes);

/* One heap for all threads, before there are any: where one thread allocates what another frees, a heap for each grows
 * for as long as their peaks do. */
void mem_share_heap(void);
/* Gives pages that hold nothing but freed memory back to the system, which the heap itself does at its end only. Takes
 * time in proportion to the heap: for the end of a peak. */
void mem_give_back(void);

/* Bytes of physical memory, or of the smallest limit of the control groups this process is in (Linux, both kinds). */
uint64_t mem_machine_bytes(void);
/* Bytes that could be used now without swapping: what is free and what holds pages of files, of the machine and of each
 * control group with a limit. */
uint64_t mem_available_bytes(void);
/* Percent of the last ten seconds in which something on the machine waited for memory (Linux's pressure stall
 * information); 0 where that is not known. */
double mem_stall_percent(void);
/* Test hooks: what mem_available_bytes answers; where /proc and /sys lie. NULL = the system's. */
void mem_test_available(uint64_t (*available)(void));
void mem_test_root(const char *root);

/* Test hook: called before each allocation with a running number; returning true makes it fail. NULL = off. */
typedef bool (*mem_fail_fn)(void *user, uint64_t number);
void mem_test_hook(mem_fail_fn fn, void *user);
uint64_t mem_count(void); /* allocations asked for since the program began */
int64_t mem_live(void);   /* blocks now held (heap and maps) */

#endif
