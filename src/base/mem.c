/* mem.c - heap seam: counting, failing on request, page-backed big blocks. See mem.h. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

static _Atomic uint64_t n_asked;
static _Atomic int64_t n_live;
static mem_fail_fn fail_fn;
static void *fail_user;

void mem_test_hook(mem_fail_fn fn, void *user)
{
    fail_fn = fn;
    fail_user = user;
}

uint64_t mem_count(void) { return atomic_load(&n_asked); }
int64_t mem_live(void) { return atomic_load(&n_live); }

static bool denied(void)
{
    uint64_t number = atomic_fetch_add(&n_asked, 1) + 1;
    return fail_fn && fail_fn(fail_user, number);
}

static void *counted(void *ptr)
{
    if (ptr) atomic_fetch_add(&n_live, 1);
    return ptr;
}

void *mem_alloc(size_t count, size_t size)
{
    uint64_t bytes;
    if (denied() || !mul_ok(count, size, &bytes) || bytes > PTRDIFF_MAX) return NULL;
    return counted(malloc(bytes ? (size_t)bytes : 1));
}

void *mem_zalloc(size_t count, size_t size)
{
    uint64_t bytes;
    if (denied() || !mul_ok(count, size, &bytes) || bytes > PTRDIFF_MAX) return NULL;
    return counted(calloc(bytes ? (size_t)bytes : 1, 1));
}

void *mem_realloc(void *ptr, size_t count, size_t size)
{
    uint64_t bytes;
    if (denied() || !mul_ok(count, size, &bytes) || bytes > PTRDIFF_MAX) return NULL;
    void *grown = realloc(ptr, bytes ? (size_t)bytes : 1);
    if (grown && !ptr) atomic_fetch_add(&n_live, 1);
    return grown;
}

void *mem_alloc_aligned(size_t align, size_t bytes)
{
    void *ptr = NULL;
    if (denied() || bytes > PTRDIFF_MAX) return NULL;
    if (posix_memalign(&ptr, align < sizeof(void *) ? sizeof(void *) : align, bytes ? bytes : 1) != 0) return NULL;
    memset(ptr, 0, bytes);
    return counted(ptr);
}

void mem_free(void *ptr)
{
    if (!ptr) return;
    atomic_fetch_sub(&n_live, 1);
    free(ptr);
}

void *mem_map(size_t bytes)
{
    if (denied()) return NULL;
    void *ptr = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ptr == MAP_FAILED) return NULL;
    return counted(ptr);
}

void mem_unmap(void *ptr, size_t bytes)
{
    if (!ptr) return;
    atomic_fetch_sub(&n_live, 1);
    (void)munmap(ptr, bytes ? bytes : 1);
}

void mem_discard(void *ptr, size_t bytes) { (void)madvise(ptr, bytes, MADV_DONTNEED); }

void mem_share_heap(void)
{
#if defined(__GLIBC__)
    (void)mallopt(M_ARENA_MAX, 1);
#endif
}

void mem_give_back(void)
{
#if defined(__GLIBC__)
    (void)malloc_trim(0);
#endif
}
