/* mem.c - heap seam: counting, failing on request, page-backed big blocks. See mem.h. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* First number in a small system file, scaled; UINT64_MAX when there is none ("max"). */
static uint64_t system_number(const char *path, const char *key)
{
    char line[256];
    FILE *file = fopen(path, "re");
    if (!file) return UINT64_MAX;
    uint64_t value = UINT64_MAX;
    while (fgets(line, sizeof line, file)) {
        if (key && strncmp(line, key, strlen(key)) != 0) continue;
        char *digits = strpbrk(line, "0123456789");
        if (digits) value = strtoull(digits, NULL, 10) * (key ? 1024 : 1);
        break;
    }
    (void)fclose(file);
    return value;
}

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

uint64_t mem_machine_bytes(void)
{
    uint64_t pages = (uint64_t)sysconf(_SC_PHYS_PAGES), page = (uint64_t)sysconf(_SC_PAGESIZE);
    return min_u64(pages * page, system_number("/sys/fs/cgroup/memory.max", NULL));
}

static uint64_t (*available_fn)(void);

void mem_test_available(uint64_t (*available)(void)) { available_fn = available; }

double mem_stall_percent(void)
{
    double percent = 0;
    FILE *file = available_fn ? NULL : fopen("/proc/pressure/memory", "re");
    if (!file) return 0;
    if (fscanf(file, "some avg10=%lf", &percent) != 1) percent = 0;
    (void)fclose(file);
    return percent;
}

uint64_t mem_available_bytes(void)
{
    if (available_fn) return available_fn();
    uint64_t machine = mem_machine_bytes();
    uint64_t there = min_u64(machine, system_number("/proc/meminfo", "MemAvailable"));
    uint64_t limit = system_number("/sys/fs/cgroup/memory.max", NULL);
    uint64_t used = system_number("/sys/fs/cgroup/memory.current", NULL);
    if (limit != UINT64_MAX && used != UINT64_MAX) there = min_u64(there, limit > used ? limit - used : 0);
    return there;
}
