/* host_emu.c - the emulator as a device: memory is the host's, a dispatch runs when it is given. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "gpu/emu/emu.h"
#include "gpu/gpu.h"
#include "gpu/replay.h"

#ifdef DS4_GPU_EMU

struct gpu_buffer {
    void *ptr;
    uint64_t bytes;
    bool owned;
};

#define SENDS_MAX 4096 /* on their way at a time */
#define USES_MAX 16384 /* of memory by kernels that a device might still be running; more are forgotten */

/* A copy on its way: it is made when it is waited for, as late as a device may make it. */
struct emu_send {
    uint8_t *to;
    void *bytes;
    uint64_t n;
};

/* Bytes on their way to the host. */
struct emu_post {
    const uint8_t *from;
    uint8_t bytes[GPU_POST_BYTES];
    uint64_t n;
};

/* What a dispatch was bound to. */
struct emu_use {
    const uint8_t *first;
    uint64_t bytes, dispatch_i;
    const char *kernel;
};

struct gpu {
    bool failed;
    char error[256];
    struct emu_send *sends; /* NULL: none were prepared */
    struct emu_use *uses;
    uint32_t n_sends, n_uses;
    uint64_t n_dispatches;
    struct emu_post posts[GPU_POSTS_MAX];
    uint32_t n_posts, n_collected;
    uint64_t list_digest; /* of the list being made; 0: it is empty */
    struct replay_seen seen;
};

static void emu_fail(struct gpu *g, const char *sentence)
{
    if (!g->failed) (void)snprintf(g->error, sizeof g->error, "%s", sentence);
    g->failed = true;
}

extern const int emu_kernels_linked; /* of kernels.cpp */
static unsigned n_opened;

unsigned emu_n_opened(void)
{
    unsigned n = n_opened;
    n_opened = 0;
    return n;
}

static struct gpu *emu_open(char *why, size_t why_size)
{
    ensure(emu_kernels_linked);
    struct gpu *g = mem_zalloc(1, sizeof *g);
    if (!g) (void)snprintf(why, why_size, "no memory for the emulator");
    n_opened += g != NULL;
    return g;
}

static void emu_close(struct gpu *g)
{
    for (uint32_t i = 0; i < g->n_sends; i++) mem_free(g->sends[i].bytes);
    mem_free(g->sends);
    mem_free(g->uses);
    mem_free(g);
}

static const char *emu_error_text(const struct gpu *g) { return g->error; }

static void emu_info(const struct gpu *g, struct gpu_info *out)
{
    (void)g;
    *out = (struct gpu_info){.name = "emulated GPU", .driver = "compiled by " __VERSION__,
                             .memory_bytes = mem_machine_bytes(), .free_bytes = mem_available_bytes(),
                             .buffer_bytes_max = UINT64_MAX};
}

static struct gpu_buffer *make_buffer(struct gpu *g, void *ptr, uint64_t bytes, bool owned)
{
    struct gpu_buffer *buffer = ptr ? mem_zalloc(1, sizeof *buffer) : NULL;
    if (!buffer) {
        if (owned) mem_unmap(ptr, (size_t)bytes);
        emu_fail(g, "no memory for a buffer");
        return NULL;
    }
    *buffer = (struct gpu_buffer){ptr, bytes, owned};
    return buffer;
}

static struct gpu_buffer *emu_alloc(struct gpu *g, uint64_t bytes)
{
    return make_buffer(g, mem_map((size_t)bytes), bytes, true);
}

static bool copies;

void emu_copy_weights(bool on) { copies = on; }

static struct gpu_buffer *emu_wrap(struct gpu *g, const void *memory, uint64_t bytes, bool near)
{
    void *copy = copies && near ? mem_map((size_t)bytes) : NULL;
    if (copy) return make_buffer(g, memcpy(copy, memory, (size_t)bytes), bytes, true);
    return make_buffer(g, (void *)(uintptr_t)memory, bytes, false);
}

static bool emu_is_copy(const struct gpu_buffer *buffer) { return buffer->owned; }

static void emu_free(struct gpu *g, struct gpu_buffer *buffer)
{
    (void)g;
    if (!buffer) return;
    if (buffer->owned) mem_unmap(buffer->ptr, (size_t)buffer->bytes);
    mem_free(buffer);
}

static void *emu_address(const struct gpu_buffer *buffer) { return buffer->ptr; }

static bool emu_submit(struct gpu *g);

static uint64_t n_rests;

uint64_t emu_n_rests(void)
{
    uint64_t n = n_rests;
    n_rests = 0;
    return n;
}

static bool emu_write(struct gpu *g, struct gpu_buffer *to, uint64_t offset, const void *from, uint64_t bytes)
{
    n_rests++;
    (void)emu_submit(g); /* a write ends a list */
    memcpy((uint8_t *)to->ptr + offset, from, (size_t)bytes);
    return true;
}

static bool emu_read(struct gpu *g, void *to, const struct gpu_buffer *from, uint64_t offset, uint64_t bytes)
{
    (void)g;
    n_rests++;
    memcpy(to, (const uint8_t *)from->ptr + offset, (size_t)bytes);
    return true;
}

static bool emu_copy(struct gpu *g, struct gpu_ref to, struct gpu_ref from)
{
    (void)g;
    memmove((uint8_t *)to.buffer->ptr + to.offset, (const uint8_t *)from.buffer->ptr + from.offset, (size_t)to.bytes);
    return true;
}

static bool emu_prepare_sends(struct gpu *g, uint64_t bytes)
{
    (void)bytes;
    g->sends = mem_zalloc(SENDS_MAX, sizeof *g->sends);
    g->uses = mem_zalloc(USES_MAX, sizeof *g->uses);
    if (!g->sends || !g->uses) emu_fail(g, "no memory for copies");
    return !g->failed;
}

static uint64_t emu_mark(struct gpu *g) { return g->n_dispatches; }

static bool overlaps(const uint8_t *a, uint64_t n_a, const uint8_t *b, uint64_t n_b)
{
    return a < b + n_b && b < a + n_a;
}

static uint64_t n_sent;

uint64_t emu_n_sent(void)
{
    uint64_t n = n_sent;
    n_sent = 0;
    return n;
}

static bool emu_send(struct gpu *g, struct gpu_ref to, const void *from, uint64_t mark)
{
    uint8_t *target = (uint8_t *)to.buffer->ptr + to.offset;
    char sentence[160];
    for (uint32_t i = 0; i < g->n_uses && !g->failed; i++) {
        const struct emu_use *use = &g->uses[i];
        if (use->dispatch_i <= mark || !overlaps(use->first, use->bytes, target, to.bytes)) continue;
        (void)snprintf(sentence, sizeof sentence, "a copy may replace what kernel %.40s still reads", use->kernel);
        emu_fail(g, sentence);
    }
    if (!g->failed && (!g->sends || g->n_sends == SENDS_MAX)) emu_fail(g, "no room for another copy");
    void *bytes = g->failed ? NULL : mem_alloc((size_t)to.bytes, 1);
    if (!bytes) {
        emu_fail(g, "no memory for a copy");
        return false;
    }
    n_sent++;
    g->sends[g->n_sends++] = (struct emu_send){target, memcpy(bytes, from, (size_t)to.bytes), to.bytes};
    return true;
}

static bool emu_arrive(struct gpu *g)
{
    for (uint32_t i = 0; i < g->n_sends; i++) {
        memcpy(g->sends[i].to, g->sends[i].bytes, (size_t)g->sends[i].n);
        mem_free(g->sends[i].bytes);
    }
    g->n_sends = 0;
    return !g->failed;
}

/* A kernel must not touch what is on its way. */
static void note_uses(struct gpu *g, const struct emu_kernel *kernel, const struct emu_binding *bindings, int n)
{
    char sentence[160];
    g->n_dispatches++;
    for (int i = 1; i < n && g->sends; i++) {
        const uint8_t *first = bindings[i].ptr;
        for (uint32_t k = 0; k < g->n_sends; k++) {
            if (!overlaps(first, bindings[i].bytes, g->sends[k].to, g->sends[k].n)) continue;
            (void)snprintf(sentence, sizeof sentence, "kernel %.40s uses what is still on its way", kernel->name);
            emu_fail(g, sentence);
        }
        if (g->n_uses < USES_MAX)
            g->uses[g->n_uses++] = (struct emu_use){first, bindings[i].bytes, g->n_dispatches, kernel->name};
    }
}

static bool emu_post(struct gpu *g, struct gpu_ref from)
{
    if (!emu_submit(g)) return false;
    if (g->n_posts - g->n_collected == GPU_POSTS_MAX || from.bytes > GPU_POST_BYTES) {
        emu_fail(g, "too much is on its way to the host");
        return false;
    }
    struct emu_post *post = &g->posts[g->n_posts++ % GPU_POSTS_MAX];
    *post = (struct emu_post){.from = (const uint8_t *)from.buffer->ptr + from.offset, .n = from.bytes};
    memcpy(post->bytes, post->from, (size_t)from.bytes);
    return true;
}

/* A device may bring the bytes when they are posted or when they are collected. */
static bool emu_collect(struct gpu *g, void *to, uint64_t bytes)
{
    if (g->n_posts == g->n_collected) {
        emu_fail(g, "nothing is on its way to the host");
        return false;
    }
    const struct emu_post *post = &g->posts[g->n_collected++ % GPU_POSTS_MAX];
    if (bytes != post->n || memcmp(post->bytes, post->from, (size_t)bytes) != 0)
        emu_fail(g, "what is on its way to the host was changed");
    memcpy(to, post->bytes, (size_t)post->n);
    return !g->failed;
}

static const struct gpu_pipe *emu_pipe(struct gpu *g, const char *name)
{
    const struct emu_kernel *kernel = emu_find(name);
    if (!kernel) {
        char sentence[128];
        (void)snprintf(sentence, sizeof sentence, "there is no kernel %s", name);
        emu_fail(g, sentence);
    }
    return (const struct gpu_pipe *)(const void *)kernel;
}

static uint64_t dispatch_digest;

static void digest_bytes(struct gpu *g, const void *bytes, size_t n)
{
    dispatch_digest = dispatch_digest * 31 + hash_u64(bytes, n);
    g->list_digest = (g->list_digest * 31 + hash_u64(bytes, n)) | 1;
}

uint64_t emu_dispatch_digest(void)
{
    uint64_t digest = dispatch_digest;
    dispatch_digest = 0;
    return digest;
}

static bool emu_dispatch(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                         const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads)
{
    const struct emu_kernel *kernel = (const struct emu_kernel *)(const void *)pipe;
    struct emu_binding bindings[GPU_REFS_MAX + 1] = {{(void *)(uintptr_t)record, record_bytes}};
    struct emu_report report;
    if (g->failed) return false;
    for (int i = 0; i < n_refs; i++)
        bindings[i + 1] = (struct emu_binding){(uint8_t *)refs[i].buffer->ptr + refs[i].offset, (size_t)refs[i].bytes};
    note_uses(g, kernel, bindings, n_refs + 1);
    if (g->failed) return false;
    digest_bytes(g, kernel->name, strlen(kernel->name));
    digest_bytes(g, record, record_bytes);
    digest_bytes(g, bindings + 1, (size_t)n_refs * sizeof *bindings);
    digest_bytes(g, grid, 3 * sizeof *grid);
    if (!emu_launch(kernel, grid, n_threads, bindings, n_refs + 1, &report)) emu_fail(g, report.first);
    return !g->failed;
}

static void overlap(struct gpu *g, bool on)
{
    (void)g;
    emu_overlap(on);
}

static unsigned n_lists, n_new_lists;

void emu_lists(unsigned *n, unsigned *n_new)
{
    *n = n_lists;
    *n_new = n_new_lists;
    n_lists = n_new_lists = 0;
}

static bool emu_submit(struct gpu *g)
{
    if (g->list_digest) {
        n_lists++;
        n_new_lists += !replay_is_known(&g->seen, g->list_digest);
    }
    g->list_digest = 0;
    return !g->failed;
}

static bool emu_wait(struct gpu *g)
{
    n_rests++;
    g->n_uses = 0;
    return !g->failed;
}

static double emu_seconds(const struct gpu *g)
{
    (void)g;
    return 0; /* the time of an emulation says nothing */
}

const struct gpu_host gpu_host_emu = {
    .name = "emu", .open = emu_open, .close = emu_close, .error = emu_error_text, .info = emu_info, .alloc = emu_alloc,
    .wrap = emu_wrap, .is_copy = emu_is_copy, .free = emu_free, .address = emu_address, .write = emu_write,
    .read = emu_read, .copy = emu_copy, .prepare_sends = emu_prepare_sends, .mark = emu_mark, .send = emu_send,
    .arrive = emu_arrive, .post = emu_post, .collect = emu_collect,
    .pipe = emu_pipe, .dispatch = emu_dispatch, .overlap = overlap, .submit = emu_submit, .wait = emu_wait,
    .seconds = emu_seconds,
};

#endif
