/* host_emu.c - the emulator as a device: memory is the host's, a dispatch runs when it is given. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "gpu/emu/emu.h"
#include "gpu/gpu.h"

#ifdef DS4_GPU_EMU

struct gpu_buffer {
    void *ptr;
    uint64_t bytes;
    bool owned;
};

struct gpu {
    bool failed;
    char error[256];
};

static void emu_fail(struct gpu *g, const char *sentence)
{
    if (!g->failed) (void)snprintf(g->error, sizeof g->error, "%s", sentence);
    g->failed = true;
}

extern const int emu_kernels_linked; /* of kernels.cpp */

static struct gpu *emu_open(char *why, size_t why_size)
{
    ensure(emu_kernels_linked);
    struct gpu *g = mem_zalloc(1, sizeof *g);
    if (!g) (void)snprintf(why, why_size, "no memory for the emulator");
    return g;
}

static void emu_close(struct gpu *g) { mem_free(g); }
static const char *emu_error_text(const struct gpu *g) { return g->error; }

static void emu_info(const struct gpu *g, struct gpu_info *out)
{
    (void)g;
    *out = (struct gpu_info){.name = "emulated GPU", .memory_bytes = mem_machine_bytes(),
                             .free_bytes = mem_available_bytes(), .buffer_bytes_max = UINT64_MAX, .unified = true};
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

static struct gpu_buffer *emu_wrap(struct gpu *g, const void *memory, uint64_t bytes, bool near)
{
    (void)near;
    return make_buffer(g, (void *)(uintptr_t)memory, bytes, false);
}

static void emu_free(struct gpu *g, struct gpu_buffer *buffer)
{
    (void)g;
    if (!buffer) return;
    if (buffer->owned) mem_unmap(buffer->ptr, (size_t)buffer->bytes);
    mem_free(buffer);
}

static void *emu_address(const struct gpu_buffer *buffer) { return buffer->ptr; }

static bool emu_write(struct gpu *g, struct gpu_buffer *to, uint64_t offset, const void *from, uint64_t bytes)
{
    (void)g;
    memcpy((uint8_t *)to->ptr + offset, from, (size_t)bytes);
    return true;
}

static bool emu_read(struct gpu *g, void *to, const struct gpu_buffer *from, uint64_t offset, uint64_t bytes)
{
    (void)g;
    memcpy(to, (const uint8_t *)from->ptr + offset, (size_t)bytes);
    return true;
}

static bool emu_copy(struct gpu *g, struct gpu_ref to, struct gpu_ref from)
{
    (void)g;
    memmove((uint8_t *)to.buffer->ptr + to.offset, (const uint8_t *)from.buffer->ptr + from.offset, (size_t)to.bytes);
    return true;
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

static void digest_bytes(const void *bytes, size_t n) { dispatch_digest = dispatch_digest * 31 + hash_u64(bytes, n); }

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
    digest_bytes(kernel->name, strlen(kernel->name));
    digest_bytes(record, record_bytes);
    digest_bytes(bindings + 1, (size_t)n_refs * sizeof *bindings);
    digest_bytes(grid, 3 * sizeof *grid);
    if (!emu_launch(kernel, grid, n_threads, bindings, n_refs + 1, &report)) emu_fail(g, report.first);
    return !g->failed;
}

static void overlap(struct gpu *g, bool on)
{
    (void)g;
    emu_overlap(on);
}

static bool emu_submit(struct gpu *g) { return !g->failed; }
static bool emu_wait(struct gpu *g) { return !g->failed; }

static double emu_seconds(const struct gpu *g)
{
    (void)g;
    return 0; /* the time of an emulation says nothing */
}

const struct gpu_host gpu_host_emu = {
    .name = "emu", .open = emu_open, .close = emu_close, .error = emu_error_text, .info = emu_info, .alloc = emu_alloc,
    .wrap = emu_wrap, .free = emu_free, .address = emu_address, .write = emu_write, .read = emu_read, .copy = emu_copy,
    .pipe = emu_pipe, .dispatch = emu_dispatch, .overlap = overlap, .submit = emu_submit, .wait = emu_wait,
    .seconds = emu_seconds,
};

#endif
