/* memory.c - kinds of memory of the pretend CUDA runtime, and who may touch which when. */
#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "impl.h"

#define BLOCKS_MAX 8192u
#define ARENA_BYTES ((uint64_t)1 << 38) /* addresses, never used twice; memory only where something is */
#define PAGE ((uint64_t)4096)
#define PATTERN 0xA5 /* what memory holds before anything is written to it */

static struct block blocks[BLOCKS_MAX]; /* by address */
static unsigned n_blocks;
static uint8_t *arena;
static uint64_t arena_used, device_bytes;
static bool is_open;
static char sentence[256];
static struct pretend_span last_mapped;

static unsigned after(const void *at) /* the first block that begins behind an address */
{
    unsigned low = 0, high = n_blocks;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (blocks[middle].first <= (const uint8_t *)at) low = middle + 1;
        else high = middle;
    }
    return low;
}

const struct block *memory_at(const void *at)
{
    unsigned i = after(at);
    if (i == 0 || (uint64_t)((const uint8_t *)at - blocks[i - 1].first) >= blocks[i - 1].bytes) return NULL;
    return &blocks[i - 1];
}

const struct block *memory_exactly(const void *first)
{
    const struct block *b = memory_at(first);
    return b && b->first == first ? b : NULL;
}

bool memory_is_address_of_device(const void *at)
{
    return arena && (const uint8_t *)at >= arena && (const uint8_t *)at < arena + ARENA_BYTES;
}

uint64_t memory_device_bytes(void) { return device_bytes; }
unsigned memory_n_blocks(void) { return n_blocks; }

static void say(const char *text) { (void)!write(STDERR_FILENO, text, strlen(text)); }

/* The host touched what only the device may. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    void *frames[24];
    (void)context;
    if (!memory_is_address_of_device(info->si_addr)) {
        (void)signal(number, SIG_DFL);
        return; /* the access is made again, and ends the program */
    }
    const struct block *b = memory_at(info->si_addr);
    if (b) (void)snprintf(sentence, sizeof sentence, "pretend CUDA: the host touches memory of the device: byte %zu of "
                          "%llu\n", (size_t)((uint8_t *)info->si_addr - b->first), (unsigned long long)b->bytes);
    else (void)snprintf(sentence, sizeof sentence, "pretend CUDA: the host touches freed memory of the device\n");
    say(sentence);
    backtrace_symbols_fd(frames, backtrace(frames, 24), STDERR_FILENO);
    _exit(1);
}

static bool reserve(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    (void)sigaction(SIGSEGV, &action, NULL); /* a test framework may have taken it back */
    if (arena) return true;
    arena = mmap(NULL, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED) arena = NULL;
    return arena != NULL;
}

void memory_open(void)
{
    if (is_open || arena_used == 0) return;
    is_open = true;
    if (mprotect(arena, arena_used, PROT_READ | PROT_WRITE) != 0) abort();
}

void memory_close(void)
{
    last_mapped = (struct pretend_span){0}; /* what the system has mapped may change */
    if (!is_open) return;
    is_open = false;
    if (mprotect(arena, arena_used, PROT_NONE) != 0) abort();
}

bool memory_add(uint8_t *first, uint64_t bytes, enum memory_kind kind, bool read_only)
{
    unsigned i = after(first + bytes - 1);
    if (n_blocks == BLOCKS_MAX || (i > 0 && blocks[i - 1].first + blocks[i - 1].bytes > first)) return false;
    memmove(&blocks[i + 1], &blocks[i], (n_blocks - i) * sizeof *blocks);
    blocks[i] = (struct block){first, bytes, kind, read_only};
    n_blocks++;
    return true;
}

/* A page that nobody has lies between any two. */
static uint8_t *take_device(uint64_t bytes)
{
    uint64_t room = (bytes + PAGE - 1) / PAGE * PAGE;
    if (!reserve() || arena_used + room + PAGE > ARENA_BYTES) return NULL;
    uint8_t *first = arena + arena_used;
    arena_used += room + PAGE;
    if (mprotect(first, room, PROT_READ | PROT_WRITE) != 0) return NULL;
    memset(first, PATTERN, bytes);
    if (!is_open && mprotect(first, room, PROT_NONE) != 0) abort();
    return first;
}

uint8_t *memory_take(uint64_t bytes, enum memory_kind kind)
{
    uint8_t *first;
    if (kind == MEMORY_DEVICE) {
        first = take_device(bytes);
    } else {
        first = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (first == MAP_FAILED) first = NULL;
        else memset(first, PATTERN, bytes);
    }
    if (!first || !memory_add(first, bytes, kind, false)) return NULL;
    if (kind == MEMORY_DEVICE) device_bytes += bytes;
    return first;
}

void memory_give(const struct block *b)
{
    uint64_t room = (b->bytes + PAGE - 1) / PAGE * PAGE;
    unsigned i = (unsigned)(b - blocks);
    if (b->kind == MEMORY_DEVICE) {
        device_bytes -= b->bytes;
        (void)madvise(b->first, room, MADV_DONTNEED);
    } else if (b->kind != MEMORY_REGISTERED) {
        (void)munmap(b->first, b->bytes);
    }
    n_blocks--;
    memmove(&blocks[i], &blocks[i + 1], (n_blocks - i) * sizeof *blocks);
}

const char *memory_complaint(const void *at, uint64_t n, bool writes)
{
    const struct block *b = memory_at(at);
    if (!b && memory_is_address_of_device(at)) return "memory of the device that nobody has";
    if (!b) return "memory of the host that is not pinned";
    uint64_t offset = (uint64_t)((const uint8_t *)at - b->first);
    if (n > b->bytes - offset) {
        (void)snprintf(sentence, sizeof sentence, "bytes %llu to %llu of memory of %llu", (unsigned long long)offset,
                       (unsigned long long)(offset + n), (unsigned long long)b->bytes);
        return sentence;
    }
    return writes && b->read_only ? "memory that the device may only read" : NULL;
}

/* Of memory that is not ours: to the end of what the system has mapped there. */
static bool mapped_span(const void *at, struct pretend_span *out)
{
    char line[512];
    if ((const uint8_t *)at >= last_mapped.first && (const uint8_t *)at < last_mapped.first + last_mapped.bytes) {
        *out = last_mapped;
        return true;
    }
    FILE *file = fopen("/proc/self/maps", "r");
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        unsigned long long first, end;
        char rights[8];
        if (sscanf(line, "%llx-%llx %7s", &first, &end, rights) != 3) continue;
        found = (uintptr_t)at >= first && (uintptr_t)at < end && rights[0] == 'r';
        if (found) *out = (struct pretend_span){(uint8_t *)(uintptr_t)first, end - first, rights[1] != 'w'};
    }
    if (file) (void)fclose(file);
    if (found) last_mapped = *out;
    return found;
}

bool pretend_cuda_span(const void *at, struct pretend_span *out)
{
    const struct block *b = memory_at(at);
    if (b) {
        *out = (struct pretend_span){b->first, b->bytes, b->read_only};
        return true;
    }
    if (memory_is_address_of_device(at)) return false;
    return (pretend_now.kind == PRETEND_INTEGRATED || pretend_now.kind == PRETEND_COHERENT) && mapped_span(at, out);
}
