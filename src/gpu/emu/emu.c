/* emu.c - the scheduler of the emulator: fibers, where they meet, and what simd operations compute. See emu.h. */
#include "gpu/emu/emu.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/f16.h"
#include "base/mem.h"
#include "gpu/emu/emu_impl.h"

struct emu emu_state = {.current = -1};
static struct emu *const e = &emu_state;
static struct emu_kernel *kernels;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void emu_register(struct emu_kernel *kernel)
{
    kernel->next = kernels;
    kernels = kernel;
}

const struct emu_kernel *emu_find(const char *name)
{
    for (const struct emu_kernel *kernel = kernels; kernel; kernel = kernel->next)
        if (strcmp(kernel->name, name) == 0) return kernel;
    return NULL;
}

const struct emu_kernel *emu_next(const struct emu_kernel *before) { return before ? before->next : kernels; }

static void count_launch(const struct emu_kernel *launched)
{
    for (struct emu_kernel *kernel = kernels; kernel; kernel = kernel->next) kernel->n_launches += kernel == launched;
}

void emu_set_options(const struct emu_options *options) { e->options = *options; }

void emu_error(int line, const char *format, ...)
{
    if (e->report->n_errors++) return;
    size_t size = sizeof e->report->first;
    int n = snprintf(e->report->first, size, "kernel %s, group %u.%u.%u, thread %d%s", e->kernel->name, e->group[0],
                     e->group[1], e->group[2], e->current, line ? ", line " : "");
    if (line && n > 0 && (size_t)n < size) n += snprintf(e->report->first + n, size - (size_t)n, "%d", line);
    if (n > 0 && (size_t)n < size) n += snprintf(e->report->first + n, size - (size_t)n, ": ");
    if (n <= 0 || (size_t)n >= size) return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(e->report->first + n, size - (size_t)n, format, args);
    va_end(args);
}

/* Saves what the calling convention keeps and the stack pointer in *save, and continues where `to` was saved. */
void emu_switch(void **save, void *to);
#if defined(__x86_64__)
__asm__(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
        " pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        " movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
        " popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n"
        ".size emu_switch,.-emu_switch\n");
#define SAVED_WORDS 6 /* below the return address */
static void *first_frame(uint8_t *top, void (*entry)(void))
{
    void **sp = (void **)(void *)(top - 64);
    *--sp = NULL; /* where entry would return to; it never does */
    void *address;
    memcpy(&address, &entry, sizeof address);
    *--sp = address;
    for (int i = 0; i < SAVED_WORDS; i++) *--sp = NULL;
    return sp;
}
#elif defined(__aarch64__)
__asm__(".text\n.globl emu_switch\n.type emu_switch,%function\nemu_switch:\n"
        " sub sp, sp, #160\n"
        " stp x19, x20, [sp]\n stp x21, x22, [sp, #16]\n stp x23, x24, [sp, #32]\n stp x25, x26, [sp, #48]\n"
        " stp x27, x28, [sp, #64]\n stp x29, x30, [sp, #80]\n"
        " stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n"
        " mov x9, sp\n str x9, [x0]\n mov sp, x1\n"
        " ldp x19, x20, [sp]\n ldp x21, x22, [sp, #16]\n ldp x23, x24, [sp, #32]\n ldp x25, x26, [sp, #48]\n"
        " ldp x27, x28, [sp, #64]\n ldp x29, x30, [sp, #80]\n"
        " ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n ldp d12, d13, [sp, #128]\n ldp d14, d15, [sp, #144]\n"
        " add sp, sp, #160\n ret\n"
        ".size emu_switch,.-emu_switch\n");
static void *first_frame(uint8_t *top, void (*entry)(void))
{
    void **sp = (void **)(void *)(top - 64 - 160);
    memset(sp, 0, 160);
    memcpy(&sp[11], &entry, sizeof sp[11]); /* x30: where `ret` goes */
    return sp;
}
#else
#error "the emulator has no switch of stacks for this machine"
#endif

static void to_fiber(int i)
{
    e->current = i;
    e->stack = e->fibers[i].stack;
    emu_switch(&e->main_sp, e->fibers[i].sp);
    e->current = -1;
}

static void to_scheduler(void) { emu_switch(&e->fibers[e->current].sp, e->main_sp); }

static void fiber_entry(void)
{
    e->kernel->run(e->kernel->fn, e->args);
    e->fibers[e->current].state = EMU_DONE;
    to_scheduler();
    ensure(false); /* nobody continues a fiber that is done */
}

void emu_stop(void)
{
    e->stopped = true;
    e->fibers[e->current].state = EMU_DONE;
    to_scheduler();
}

static void wait_at(enum emu_state state, enum emu_simd_op op, int line)
{
    struct emu_fiber *f = &e->fibers[e->current];
    f->state = state;
    f->op = op;
    f->line = line;
    to_scheduler();
}

static float float_of(uint32_t bits) { return f32_from_bits(bits); }

/* Sum or maximum of 32 lanes as a butterfly: the order of the xor reduction on NVIDIA. */
static void reduce(struct emu_fiber *lanes, bool sum)
{
    float v[32], next[32];
    for (unsigned l = 0; l < 32; l++) v[l] = float_of(lanes[l].value);
    for (unsigned o = 16; o; o >>= 1) {
        for (unsigned l = 0; l < 32; l++) next[l] = sum ? v[l] + v[l ^ o] : fmaxf(v[l], v[l ^ o]);
        memcpy(v, next, sizeof v);
    }
    for (unsigned l = 0; l < 32; l++) lanes[l].value = f32_bits(v[l]);
}

static void shuffle(struct emu_fiber *lanes, int first, int line)
{
    uint32_t v[32];
    for (unsigned l = 0; l < 32; l++) {
        unsigned from = lanes[l].from;
        if (from > 31) {
            e->current = first + (int)l;
            emu_error(line, "shuffles from lane %u", from);
            e->current = -1;
            from = 0;
        }
        v[l] = lanes[from].value;
    }
    for (unsigned l = 0; l < 32; l++) lanes[l].value = v[l];
}

static void multiply_tiles(struct emu_fiber *lanes)
{
    float a[16][16], b[16][16], c[16][16] = {{0}};
    for (unsigned l = 0; l < 32; l++) {
        for (unsigned i = 0; i < 8; i++) {
            unsigned row = emu_tile_row(l, i), col = emu_tile_col(l, i);
            a[row][col] = lanes[l].a[i];
            b[row][col] = lanes[l].b[i];
        }
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int col = 0; col < 16; col++) c[row][col] += a[row][k] * b[k][col];
    for (unsigned l = 0; l < 32; l++)
        for (unsigned i = 0; i < 8; i++) lanes[l].c[i] += c[emu_tile_row(l, i)][emu_tile_col(l, i)];
}

/* All 32 lanes wait at the same operation: does it and lets them go. */
static void finish_simd(int first)
{
    struct emu_fiber *lanes = &e->fibers[first];
    e->report->n_simd++;
    switch (lanes->op) {
    case EMU_SUM: reduce(lanes, true); break;
    case EMU_MAX: reduce(lanes, false); break;
    case EMU_SHUFFLE: shuffle(lanes, first, lanes->line); break;
    case EMU_MMA: multiply_tiles(lanes); break;
    case EMU_SIMD_BARRIER: e->simd_epoch[first / 32]++; break;
    }
    for (int l = 0; l < 32; l++) lanes[l].state = EMU_RUNNING;
}

static bool lanes_agree(int first)
{
    const struct emu_fiber *lanes = &e->fibers[first];
    for (int l = 0; l < 32; l++)
        if (lanes[l].state != EMU_AT_SIMD || lanes[l].op != lanes->op || lanes[l].line != lanes->line) return false;
    return true;
}

static unsigned below(unsigned n)
{
    e->random ^= e->random << 13;
    e->random ^= e->random >> 7;
    e->random ^= e->random << 17;
    return (unsigned)(e->random % n);
}

/* Runs threads until each waits or is done: simdgroup by simdgroup as far as each goes, or all in random order. Returns
 * how many ran. */
static int run_threads(int order[EMU_THREADS_MAX])
{
    int n_ran = 0, n = e->n_threads;
    if (e->options.order == EMU_RANDOM) {
        for (int i = n - 1; i > 0; i--) {
            int j = (int)below((unsigned)i + 1), swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        for (int i = 0; i < n && !e->stopped; i++)
            if (e->fibers[order[i]].state == EMU_RUNNING) to_fiber(order[i]), n_ran++;
        return n_ran;
    }
    for (int at = 0; at < n && !e->stopped; at += 32) {
        for (bool again = true; again && !e->stopped;) {
            again = false;
            for (int l = 0; l < 32 && !e->stopped; l++)
                if (e->fibers[order[at + l]].state == EMU_RUNNING) to_fiber(order[at + l]), n_ran++;
            int first = order[at] & ~31;
            if (!e->stopped && lanes_agree(first)) finish_simd(first), again = true;
        }
    }
    return n_ran;
}

/* Lets waiting simdgroups go on. False: lanes cannot meet. */
static bool meet_in_simdgroups(int *n_done, int *n_waiting, int *n_moved)
{
    for (int first = 0; first < e->n_threads; first += 32) {
        int count[4] = {0};
        for (int l = 0; l < 32; l++) count[e->fibers[first + l].state]++;
        *n_done += count[EMU_DONE];
        *n_waiting += count[EMU_AT_BARRIER];
        if (count[EMU_AT_SIMD] == 0) continue;
        int line = 0;
        for (int l = 31; l >= 0; l--)
            if (e->fibers[first + l].state == EMU_AT_SIMD) line = e->fibers[first + l].line;
        e->current = first;
        if (count[EMU_AT_SIMD] < 32) {
            emu_error(line, "a simd operation in divergent control flow: %d of 32 lanes arrived", count[EMU_AT_SIMD]);
        } else if (lanes_agree(first)) {
            e->current = -1;
            finish_simd(first);
            (*n_moved)++;
            continue;
        } else {
            emu_error(line, "lanes of a simdgroup meet at different simd operations");
        }
        e->current = -1;
        return false;
    }
    return true;
}

static bool pass_barrier(void)
{
    for (int i = 1; i < e->n_threads; i++) {
        if (e->fibers[i].line == e->fibers[0].line) continue;
        e->current = i;
        emu_error(e->fibers[i].line, "threads wait at different barriers");
        e->current = -1;
        return false;
    }
    for (int i = 0; i < e->n_threads; i++) e->fibers[i].state = EMU_RUNNING;
    e->epoch++;
    e->report->n_barriers++;
    return true;
}

static bool run_group(void)
{
    int order[EMU_THREADS_MAX];
    for (int i = 0; i < e->n_threads; i++)
        order[i] = e->options.order == EMU_REVERSE ? e->n_threads - 1 - i : i;
    for (;;) {
        int n_moved = run_threads(order), n_done = 0, n_waiting = 0;
        if (e->stopped || !meet_in_simdgroups(&n_done, &n_waiting, &n_moved)) return false;
        if (n_done == e->n_threads) return true;
        if (n_waiting == e->n_threads) {
            if (!pass_barrier()) return false;
        } else if (n_moved == 0) {
            emu_error(0, "a barrier is not reached by all threads: %d wait, %d are done", n_waiting, n_done);
            return false;
        }
    }
}

static bool take_memory(void)
{
    if (e->arena) return true;
    e->arena = mem_map(EMU_ARENA_BYTES);
    e->stacks = mem_map((size_t)EMU_STACK_BYTES * EMU_THREADS_MAX);
    e->arena_cells = mem_map(EMU_ARENA_BYTES * sizeof *e->arena_cells);
    if (!e->arena || !e->stacks || !e->arena_cells) {
        emu_release();
        return false;
    }
    for (size_t i = 0; i < EMU_THREADS_MAX; i++) e->fibers[i].stack = e->stacks + i * EMU_STACK_BYTES;
    return true;
}

void emu_release(void)
{
    mem_unmap(e->arena, EMU_ARENA_BYTES);
    mem_unmap(e->stacks, (size_t)EMU_STACK_BYTES * EMU_THREADS_MAX);
    mem_unmap(e->arena_cells, EMU_ARENA_BYTES * sizeof *e->arena_cells);
    e->arena = e->stacks = NULL;
    e->arena_cells = NULL;
    emu_pages_release();
}

static bool check_call(int n_bindings, const struct emu_binding *bindings, unsigned n_threads, const unsigned grid[3])
{
    const struct emu_kernel *kernel = e->kernel;
    if (n_bindings != kernel->n_params) {
        emu_error(0, "%d buffers are bound, the kernel has %d parameters", n_bindings, kernel->n_params);
    } else if (bindings[0].bytes != kernel->record_bytes) {
        emu_error(0, "a record of %zu bytes, the kernel's has %zu", bindings[0].bytes, kernel->record_bytes);
    } else if (n_threads % 32 || n_threads == 0 || n_threads > (unsigned)kernel->max_threads) {
        emu_error(0, "threadgroups of %u threads, at most %d", n_threads, kernel->max_threads);
    } else if (grid[0] > EMU_GRID_X_MAX || grid[1] > EMU_GRID_YZ_MAX || grid[2] > EMU_GRID_YZ_MAX) {
        emu_error(0, "a grid of %u x %u x %u threadgroups, at most %u x %u x %u", grid[0], grid[1], grid[2],
                  EMU_GRID_X_MAX, EMU_GRID_YZ_MAX, EMU_GRID_YZ_MAX);
    } else if (!take_memory()) {
        emu_error(0, "no memory for stacks");
    } else {
        return true;
    }
    return false;
}

static void start_group(unsigned x, unsigned y, unsigned z)
{
    e->group[0] = x;
    e->group[1] = y;
    e->group[2] = z;
    e->group_id++;
    e->epoch++;
    e->n_shared = 0;
    e->arena_used = e->shared_bytes = 0;
    memset(e->simd_epoch, 0, sizeof e->simd_epoch);
    for (int i = 0; i < e->n_threads; i++) {
        struct emu_fiber *f = &e->fibers[i];
        f->state = EMU_RUNNING;
        f->n_shared = 0;
        f->sp = first_frame(f->stack + EMU_STACK_BYTES, fiber_entry);
    }
}

static bool run_grid(const unsigned grid[3])
{
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                start_group(x, y, z);
                if (!run_group()) return false;
            }
    return true;
}

void emu_device_barrier(void)
{
    e->scope_id++;
    e->scope_first_group = e->group_id + 1;
}

void emu_overlap(bool on)
{
    e->overlapping = on;
    emu_device_barrier();
}

bool emu_launch(const struct emu_kernel *kernel, const unsigned grid[3], unsigned n_threads,
                const struct emu_binding *bindings, int n_bindings, struct emu_report *report)
{
    pthread_mutex_lock(&lock);
    memset(report, 0, sizeof *report);
    e->report = report;
    e->kernel = kernel;
    e->bindings = bindings;
    e->n_bindings = n_bindings;
    e->n_threads = (int)n_threads;
    e->random = (e->options.seed + 1ull) * 0x9E3779B97F4A7C15ull;
    e->stopped = false;
    count_launch(kernel);
    if (!e->overlapping) emu_device_barrier();
    ensure(e->group_id < UINT32_MAX / 2 && e->epoch < UINT32_MAX / 2); /* epochs must not repeat */
    bool good = check_call(n_bindings, bindings, n_threads, grid);
    if (good) {
        for (int i = 0; i < n_bindings; i++) e->args[i] = bindings[i].ptr;
        emu_bind();
        good = run_grid(grid);
    }
    good = good && report->n_errors == 0;
    e->current = -1;
    pthread_mutex_unlock(&lock);
    return good;
}

unsigned emu_thread(void) { return (unsigned)e->current; }
unsigned emu_lane(void) { return (unsigned)e->current & 31; }
unsigned emu_group(int axis) { return e->group[axis]; }
void emu_barrier(int line) { wait_at(EMU_AT_BARRIER, EMU_SIMD_BARRIER, line); }
void emu_simd_barrier(int line) { wait_at(EMU_AT_SIMD, EMU_SIMD_BARRIER, line); }

uint32_t emu_shuffle(uint32_t v, unsigned from, int line)
{
    struct emu_fiber *f = &e->fibers[e->current];
    f->value = v;
    f->from = from;
    wait_at(EMU_AT_SIMD, EMU_SHUFFLE, line);
    return f->value;
}

static float reduce_at(float v, enum emu_simd_op op, int line)
{
    struct emu_fiber *f = &e->fibers[e->current];
    f->value = f32_bits(v);
    wait_at(EMU_AT_SIMD, op, line);
    return float_of(f->value);
}

float emu_simd_sum(float v, int line) { return reduce_at(v, EMU_SUM, line); }
float emu_simd_max(float v, int line) { return reduce_at(v, EMU_MAX, line); }

void emu_tile_mma(float *c, const float *a, const float *b, int line)
{
    struct emu_fiber *f = &e->fibers[e->current];
    f->a = a;
    f->b = b;
    f->c = c;
    wait_at(EMU_AT_SIMD, EMU_MMA, line);
}

void emu_tile_align(const void *p, unsigned ld, int line)
{
    if ((uintptr_t)p % 16 || ld % 8)
        emu_error(line, "rows of a tile must be aligned to 16 bytes (leading dimension %u)", ld);
}

/* A layout that no machine has. */
static unsigned scrambled(unsigned lane, unsigned i) { return (lane * 8 + i) * 37 % 256; }

unsigned emu_tile_row(unsigned lane, unsigned i)
{
    switch (e->options.layout) {
    case EMU_LAYOUT_APPLE: return (i >> 2) * 8 + ((lane >> 2) & 4) + ((lane >> 1) & 3);
    case EMU_LAYOUT_NVIDIA: return (lane >> 2) + ((i >> 1) & 1) * 8;
    default: return scrambled(lane, i) / 16;
    }
}

unsigned emu_tile_col(unsigned lane, unsigned i)
{
    switch (e->options.layout) {
    case EMU_LAYOUT_APPLE: return ((i >> 1) & 1) * 8 + ((lane >> 2) & 2) * 2 + (lane & 1) * 2 + (i & 1);
    case EMU_LAYOUT_NVIDIA: return (i >> 2) * 8 + (lane & 3) * 2 + (i & 1);
    default: return scrambled(lane, i) % 16;
    }
}

uint16_t emu_f16_from_f32(float f) { return f16_from_f32(f); }
float emu_f16_to_f32(uint16_t h) { return f16_to_f32(h); }
