/* memory.c - the checks of the emulator: every access of a kernel comes here through the functions that compilers call
 * for -fsanitize=thread. See emu.h for what is reported. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "gpu/emu/emu_impl.h"

static struct emu *const e = &emu_state;

/* Records of the bytes of writable buffers, in pages of 256, found by a hash table that grows. */
#define PAGE_BYTES 256u
struct page {
    uintptr_t number;
    struct emu_cell cells[PAGE_BYTES];
};
static struct page **pages;
static size_t n_slots, n_pages;
static struct page *last_page;

void emu_pages_release(void)
{
    for (size_t i = 0; i < n_slots; i++) mem_free(pages[i]);
    mem_free(pages);
    pages = NULL;
    last_page = NULL;
    n_slots = n_pages = 0;
}

static size_t slot_of(uintptr_t number, size_t n) { return (size_t)(number * 0x9E3779B97F4A7C15ull >> 20) & (n - 1); }

static void grow(void)
{
    size_t n = n_slots ? n_slots * 2 : 4096;
    struct page **wider = mem_zalloc(n, sizeof *wider);
    ensure(wider); /* the emulator cannot check without its records */
    for (size_t i = 0; i < n_slots; i++) {
        if (!pages[i]) continue;
        size_t at = slot_of(pages[i]->number, n);
        while (wider[at]) at = (at + 1) & (n - 1);
        wider[at] = pages[i];
    }
    mem_free(pages);
    pages = wider;
    n_slots = n;
}

static struct page *page_of(uintptr_t number)
{
    if (last_page && last_page->number == number) return last_page;
    if (n_pages * 2 >= n_slots) grow();
    size_t at = slot_of(number, n_slots);
    while (pages[at] && pages[at]->number != number) at = (at + 1) & (n_slots - 1);
    if (!pages[at]) {
        pages[at] = mem_zalloc(1, sizeof *pages[at]);
        ensure(pages[at]);
        pages[at]->number = number;
        n_pages++;
    }
    return last_page = pages[at];
}

/* Was the access of `thread` at simd epoch `simd` ordered before what thread t does now, in the same epoch? */
static bool ordered(unsigned thread, uint16_t simd, unsigned t)
{
    return thread == t || (thread / 32 == t / 32 && simd < e->simd_epoch[t / 32]);
}

static bool write_conflicts_with_reads(const struct emu_cell *c, unsigned t)
{
    return c->read_epoch == e->epoch && (c->two_simdgroups || !ordered(c->read_thread, c->read_simd, t) ||
                                         (c->two_readers && !ordered(c->other_reader, c->other_simd, t)));
}

/* Notes an access of the current thread to a byte. False: a race, reported. */
static bool note(struct emu_cell *c, bool write, const char *where, size_t at)
{
    unsigned t = (unsigned)e->current;
    uint16_t simd = e->simd_epoch[t / 32];
    if (c->write_epoch == e->epoch && !ordered(c->write_thread, c->write_simd, t)) {
        emu_error(0, "%s %s byte %zu, which thread %u wrote, without a barrier between", write ? "writes" : "reads",
                  where, at, c->write_thread);
        return false;
    }
    if (write) {
        if (write_conflicts_with_reads(c, t)) {
            emu_error(0, "writes %s byte %zu, which thread %u read, without a barrier between", where, at,
                      c->read_thread);
            return false;
        }
        c->write_epoch = e->epoch;
        c->write_thread = (uint16_t)t;
        c->write_simd = simd;
        return true;
    }
    if (c->read_epoch != e->epoch) {
        c->two_readers = c->two_simdgroups = false;
    } else if (c->read_thread != t) {
        c->two_readers = true;
        c->other_reader = c->read_thread;
        c->other_simd = c->read_simd;
        if (c->read_thread / 32 != t / 32) c->two_simdgroups = true;
    }
    c->read_epoch = e->epoch;
    c->read_thread = (uint16_t)t;
    c->read_simd = simd;
    return true;
}

/* Sizes are powers of two but for copies of whole structs, and a division at every access would be felt. */
static bool misaligned(uintptr_t at, unsigned n) { return n <= 16 && (n & (n - 1) ? at % n : at & (n - 1)); }

static void access_shared(uintptr_t at, unsigned n, bool write)
{
    for (uint32_t i = 0; i < e->n_shared; i++) {
        const struct emu_array *array = &e->shared[i];
        size_t offset = at - (uintptr_t)array->ptr;
        if (offset >= array->bytes || n > array->bytes - offset) continue;
        struct emu_cell *cells = e->arena_cells + (array->ptr - e->arena) + offset;
        for (unsigned k = 0; k < n; k++) {
            if (!write && cells[k].write_group != e->group_id) {
                emu_error(0, "reads %s byte %zu, which nothing has written", array->name, offset + k);
                return;
            }
            if (!note(&cells[k], write, array->name, offset + k)) return;
            if (write) cells[k].write_group = e->group_id;
        }
        if (misaligned(at, n)) emu_error(0, "accesses %u bytes of %s at byte %zu, misaligned", n, array->name, offset);
        return;
    }
    emu_error(0, "accesses threadgroup memory outside of its arrays");
    emu_stop();
}

/* No byte that one threadgroup writes may be touched by another in the same launch, or in one that may overlap it. */
static bool note_group(struct emu_cell *c, bool write)
{
    uint32_t own = e->group_id, first = e->scope_first_group;
    if (c->write_group >= first && c->write_group != own) return false;
    if (write) {
        if (c->several_scope == e->scope_id || (c->read_group >= first && c->read_group != own)) return false;
        c->write_group = own;
        return true;
    }
    if (c->read_group >= first && c->read_group != own) c->several_scope = e->scope_id;
    c->read_group = own;
    return true;
}

static void access_bound(int i, uintptr_t at, unsigned n, bool write)
{
    size_t offset = at - (uintptr_t)e->bindings[i].ptr;
    if (misaligned(at, n)) emu_error(0, "accesses %u bytes of parameter %d at byte %zu, misaligned", n, i, offset);
    if (e->kernel->read_only[i]) {
        if (write) emu_error(0, "writes read-only parameter %d at byte %zu", i, offset);
        if (write || !e->overlapping) return;
    }
    for (unsigned k = 0; k < n; k++) {
        struct emu_cell *cell = &page_of((at + k) / PAGE_BYTES)->cells[(at + k) % PAGE_BYTES];
        if (!note_group(cell, write)) {
            emu_error(0, "touches parameter %d byte %zu, which another threadgroup touches at the same time", i,
                      offset + k);
            return;
        }
        if (!note(cell, write, "a buffer's", offset + k)) return;
    }
}

/* The tables of all kernels lie in a section of their own. */
extern const char __start_emu_tables[] __attribute__((weak)), __stop_emu_tables[] __attribute__((weak));

/* Bytes from an address to the nearest byte of a buffer. */
static uintptr_t distance(const struct emu_binding *b, uintptr_t at)
{
    uintptr_t begin = (uintptr_t)b->ptr;
    if (at < begin) return begin - at;
    return at - begin < b->bytes ? 0 : at - begin - b->bytes;
}

static bool contains(int i, uintptr_t at, unsigned n)
{
    size_t offset = at - (uintptr_t)e->bindings[i].ptr;
    return offset < e->bindings[i].bytes && n <= e->bindings[i].bytes - offset;
}

void emu_bind(void)
{
    memset(e->guesses, 0, sizeof e->guesses);
    for (int i = 0; i < e->n_bindings; i++) {
        const struct emu_binding *a = &e->bindings[i];
        e->alone[i] = true;
        for (int j = 0; j < e->n_bindings; j++) {
            const struct emu_binding *b = &e->bindings[j];
            if (j != i && (uintptr_t)a->ptr < (uintptr_t)b->ptr + b->bytes &&
                (uintptr_t)b->ptr < (uintptr_t)a->ptr + a->bytes)
                e->alone[i] = false;
        }
    }
}

/* The binding that holds n bytes; where bindings overlap, the writable one. -1: none. What was found last for an
 * address nearby is tried first: this is where the emulator spends its time. */
static int binding_of(uintptr_t at, unsigned n)
{
    uint8_t *guess = &e->guesses[at / PAGE_BYTES % EMU_GUESSES];
    if (e->alone[*guess] && contains(*guess, at, n)) return *guess;
    int found = -1;
    for (int i = 0; i < e->n_bindings; i++)
        if (contains(i, at, n) && (found < 0 || e->kernel->read_only[found])) found = i;
    if (found >= 0) *guess = (uint8_t)found;
    return found;
}

static void report_outside(uintptr_t at, unsigned n, bool write)
{
    const struct emu_binding *b = e->bindings;
    int near = 0;
    for (int i = 0; i < e->n_bindings; i++)
        if (distance(&b[i], at) < distance(&b[near], at)) near = i;
    emu_error(0, "%s %u bytes outside of everything bound; the nearest is parameter %d of %zu bytes, at byte %lld",
              write ? "writes" : "reads", n, near, b[near].bytes, (long long)(at - (uintptr_t)b[near].ptr));
}

/* noinline: most accesses are to the stack, and end before what this one needs is saved. */
__attribute__((noinline)) static void check_access(uintptr_t at, unsigned n, bool write)
{
    if (!write && at - (uintptr_t)e->args < sizeof e->args) return; /* parameters on their way to the kernel */
    if (write) e->report->n_stores++;
    else e->report->n_loads++;
    if (at - (uintptr_t)e->arena < EMU_ARENA_BYTES) {
        access_shared(at, n, write);
        return;
    }
    int i = binding_of(at, n);
    if (i >= 0) {
        access_bound(i, at, n, write);
        return;
    }
    if (!write && at >= (uintptr_t)__start_emu_tables && at + n <= (uintptr_t)__stop_emu_tables) return;
    report_outside(at, n, write);
    emu_stop();
}

static inline void access_memory(uintptr_t at, unsigned n, bool write)
{
    if (e->current >= 0 && at - (uintptr_t)e->stack >= EMU_STACK_BYTES) check_access(at, n, write);
}

void *emu_shared(size_t bytes, const char *name)
{
    struct emu_fiber *f = &e->fibers[e->current];
    uint32_t i = f->n_shared++;
    if (i < e->n_shared) {
        if (e->shared[i].bytes != bytes) emu_error(0, "arrays of threadgroup memory differ between threads");
        return e->shared[i].ptr;
    }
    e->arena_used = (e->arena_used + 63) / 64 * 64 + 64; /* a gap, so that overruns are seen */
    uint8_t *ptr = e->arena + e->arena_used;
    e->arena_used += bytes;
    e->shared_bytes += (bytes + 15) / 16 * 16;
    if (e->shared_bytes > EMU_SHARED_BYTES_MAX)
        emu_error(0, "needs %zu bytes of threadgroup memory; there are %u", e->shared_bytes, EMU_SHARED_BYTES_MAX);
    if (e->arena_used > EMU_ARENA_BYTES || i >= EMU_SHARED_MAX) {
        emu_error(0, "has too many arrays of threadgroup memory");
        emu_stop();
    }
    memset(ptr, 0xFF, bytes); /* not a number, in every float format */
    e->shared[i] = (struct emu_array){ptr, bytes, name};
    e->n_shared++;
    return ptr;
}

#ifndef __SANITIZE_THREAD__
/* The names that gcc and clang call. */
#define HOOKS(n) \
    void __tsan_read##n(void *p); \
    void __tsan_write##n(void *p); \
    void __tsan_unaligned_read##n(void *p); \
    void __tsan_unaligned_write##n(void *p); \
    void __tsan_read_write##n(void *p); \
    void __tsan_unaligned_read_write##n(void *p); \
    void __tsan_read##n(void *p) { access_memory((uintptr_t)p, n, false); } \
    void __tsan_write##n(void *p) { access_memory((uintptr_t)p, n, true); } \
    void __tsan_unaligned_read##n(void *p) { access_memory((uintptr_t)p, n, false); } \
    void __tsan_unaligned_write##n(void *p) { access_memory((uintptr_t)p, n, true); } \
    void __tsan_read_write##n(void *p) { __tsan_read##n(p), __tsan_write##n(p); } \
    void __tsan_unaligned_read_write##n(void *p) { __tsan_read##n(p), __tsan_write##n(p); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void *p, unsigned long n);
void __tsan_write_range(void *p, unsigned long n);
void *__tsan_memcpy(void *to, const void *from, unsigned long n);
void *__tsan_memmove(void *to, const void *from, unsigned long n);
void *__tsan_memset(void *to, int c, unsigned long n);
void __tsan_func_entry(void *pc);
void __tsan_func_exit(void);
void __tsan_init(void);
void __tsan_read_range(void *p, unsigned long n) { access_memory((uintptr_t)p, (unsigned)n, false); }
void __tsan_write_range(void *p, unsigned long n) { access_memory((uintptr_t)p, (unsigned)n, true); }
void *__tsan_memcpy(void *to, const void *from, unsigned long n)
{
    access_memory((uintptr_t)from, (unsigned)n, false);
    access_memory((uintptr_t)to, (unsigned)n, true);
    return memcpy(to, from, n);
}
void *__tsan_memmove(void *to, const void *from, unsigned long n)
{
    access_memory((uintptr_t)from, (unsigned)n, false);
    access_memory((uintptr_t)to, (unsigned)n, true);
    return memmove(to, from, n);
}
void *__tsan_memset(void *to, int c, unsigned long n)
{
    access_memory((uintptr_t)to, (unsigned)n, true);
    return memset(to, c, n);
}
void __tsan_func_entry(void *pc) { (void)pc; }
void __tsan_func_exit(void) {}
void __tsan_init(void) {}
#endif
