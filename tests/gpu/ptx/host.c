/* host.c - see host.h. */
#include "gpu/ptx/host.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#ifndef PTX_FILE
#define PTX_FILE "build/ptx/kernels.ptx"
#endif
#define WHY_FILE PTX_FILE ".why" /* why that is empty */
#define TEXT_BYTES_MAX (64u << 20)
#define KERNELS_MAX 512

struct gpu_buffer {
    void *ptr;
    uint64_t bytes;
    bool owned;
};

struct post {
    uint8_t bytes[GPU_POST_BYTES];
    uint64_t n;
};

struct gpu {
    const struct ptx_module *module;
    bool failed;
    char error[512];
    struct post posts[GPU_POSTS_MAX];
    uint32_t n_posts, n_collected;
};

static struct {
    const struct ptx_kernel *kernel;
    uint64_t n;
} noted[KERNELS_MAX];

static char *file_text(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    char *text = file ? mem_alloc(TEXT_BYTES_MAX, 1) : NULL;
    *n = text ? fread(text, 1, TEXT_BYTES_MAX - 1, file) : 0;
    if (text) text[*n] = 0;
    if (file) (void)fclose(file);
    return text;
}

bool ptx_are_there(char *why, size_t why_size)
{
    size_t n = 0, n_why = 0;
    char *text = file_text(PTX_FILE, &n), *reason = n ? NULL : file_text(WHY_FILE, &n_why);
    if (n_why) (void)snprintf(why, why_size, "%.*s", (int)strcspn(reason, "\n"), reason);
    else if (!n) (void)snprintf(why, why_size, "%s is missing", PTX_FILE);
    mem_free(reason);
    mem_free(text);
    return n > 0;
}

const struct ptx_module *ptx_kernels(char *why, size_t why_size)
{
    static struct ptx_module *module;
    size_t n = 0;
    if (module) return module;
    char *text = file_text(PTX_FILE, &n);
    module = ptx_load(text, n, why, why_size);
    mem_free(text);
    return module;
}

void ptx_dispatched(void (*fn)(const char *kernel, uint64_t n, void *user), void *user)
{
    for (size_t i = 0; i < KERNELS_MAX && noted[i].kernel; i++)
        fn(ptx_kernel_name(noted[i].kernel), noted[i].n, user);
}

void ptx_note(const struct ptx_kernel *kernel)
{
    size_t i = 0;
    while (i < KERNELS_MAX - 1 && noted[i].kernel && noted[i].kernel != kernel) i++;
    noted[i].kernel = kernel;
    noted[i].n++;
}

static void host_fail(struct gpu *g, const char *sentence)
{
    if (!g->failed) (void)snprintf(g->error, sizeof g->error, "%s", sentence);
    g->failed = true;
}

static struct gpu *host_open(char *why, size_t why_size)
{
    const struct ptx_module *module = ptx_kernels(why, why_size);
    struct gpu *g = module ? mem_zalloc(1, sizeof *g) : NULL;
    if (module && !g) (void)snprintf(why, why_size, "no memory");
    if (g) g->module = module;
    return g;
}

static void host_close(struct gpu *g) { mem_free(g); }
static const char *host_error(const struct gpu *g) { return g->error; }

static void host_info(const struct gpu *g, struct gpu_info *out)
{
    (void)g;
    *out = (struct gpu_info){.name = "interpreter of PTX", .memory_bytes = mem_machine_bytes(),
                             .free_bytes = mem_available_bytes(), .buffer_bytes_max = UINT64_MAX};
}

static struct gpu_buffer *make_buffer(struct gpu *g, void *ptr, uint64_t bytes, bool owned)
{
    struct gpu_buffer *buffer = ptr ? mem_zalloc(1, sizeof *buffer) : NULL;
    if (!buffer) {
        if (owned && ptr) mem_unmap(ptr, (size_t)bytes);
        host_fail(g, "no memory for a buffer");
        return NULL;
    }
    *buffer = (struct gpu_buffer){ptr, bytes, owned};
    return buffer;
}

static struct gpu_buffer *host_alloc(struct gpu *g, uint64_t bytes)
{
    return make_buffer(g, mem_map((size_t)bytes), bytes, true);
}

/* As by a device with memory of its own: what is near is a copy, which may be laid out anew. */
static struct gpu_buffer *host_wrap(struct gpu *g, const void *memory, uint64_t bytes, bool near)
{
    void *copy = near ? mem_map((size_t)bytes) : NULL;
    if (copy) return make_buffer(g, memcpy(copy, memory, (size_t)bytes), bytes, true);
    return make_buffer(g, (void *)(uintptr_t)memory, bytes, false);
}

static bool host_is_copy(const struct gpu_buffer *buffer) { return buffer->owned; }

static void host_free(struct gpu *g, struct gpu_buffer *buffer)
{
    (void)g;
    if (buffer && buffer->owned) mem_unmap(buffer->ptr, (size_t)buffer->bytes);
    mem_free(buffer);
}

static void *host_address(const struct gpu_buffer *buffer) { return buffer->ptr; }

static bool host_write(struct gpu *g, struct gpu_buffer *to, uint64_t offset, const void *from, uint64_t bytes)
{
    memcpy((uint8_t *)to->ptr + offset, from, (size_t)bytes);
    return !g->failed;
}

static bool host_read(struct gpu *g, void *to, const struct gpu_buffer *from, uint64_t offset, uint64_t bytes)
{
    memcpy(to, (const uint8_t *)from->ptr + offset, (size_t)bytes);
    return !g->failed;
}

static bool host_copy(struct gpu *g, struct gpu_ref to, struct gpu_ref from)
{
    memmove((uint8_t *)to.buffer->ptr + to.offset, (const uint8_t *)from.buffer->ptr + from.offset, (size_t)to.bytes);
    return !g->failed;
}

static bool host_post(struct gpu *g, struct gpu_ref from)
{
    if (from.bytes > GPU_POST_BYTES || g->n_posts - g->n_collected == GPU_POSTS_MAX) {
        host_fail(g, "too much is on its way to the host");
        return false;
    }
    struct post *post = &g->posts[g->n_posts++ % GPU_POSTS_MAX];
    post->n = from.bytes;
    memcpy(post->bytes, (const uint8_t *)from.buffer->ptr + from.offset, (size_t)from.bytes);
    return !g->failed;
}

static bool host_collect(struct gpu *g, void *to, uint64_t bytes)
{
    if (g->n_posts == g->n_collected || g->posts[g->n_collected % GPU_POSTS_MAX].n != bytes) {
        host_fail(g, "nothing like that is on its way to the host");
        return false;
    }
    memcpy(to, g->posts[g->n_collected++ % GPU_POSTS_MAX].bytes, (size_t)bytes);
    return !g->failed;
}

static const struct gpu_pipe *host_pipe(struct gpu *g, const char *name)
{
    const struct ptx_kernel *kernel = ptx_kernel(g->module, name);
    char sentence[128];
    (void)snprintf(sentence, sizeof sentence, "there is no kernel %.60s", name);
    if (!kernel) host_fail(g, sentence);
    return (const struct gpu_pipe *)(const void *)kernel;
}

static bool host_dispatch(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                          const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads)
{
    const struct ptx_kernel *kernel = (const struct ptx_kernel *)(const void *)pipe;
    struct ptx_region regions[GPU_REFS_MAX];
    void *pointers[GPU_REFS_MAX], *params[GPU_REFS_MAX + 1] = {(void *)(uintptr_t)record};
    if (g->failed) return false;
    if (ptx_n_params(kernel) != (size_t)n_refs + 1 || ptx_param_bytes(kernel, 0) != record_bytes) {
        host_fail(g, "a kernel has other parameters than its dispatch");
        return false;
    }
    for (int i = 0; i < n_refs; i++) {
        pointers[i] = (uint8_t *)refs[i].buffer->ptr + refs[i].offset;
        params[i + 1] = &pointers[i];
        regions[i] = (struct ptx_region){pointers[i], refs[i].bytes, refs[i].buffer->owned};
    }
    const struct ptx_memory memory = {regions, (size_t)n_refs};
    ptx_note(kernel);
    if (!ptx_launch(kernel, grid, n_threads, params, &memory, g->error, sizeof g->error)) g->failed = true;
    return !g->failed;
}

static void host_overlap(struct gpu *g, bool on)
{
    (void)g;
    (void)on;
}

static bool host_submit(struct gpu *g) { return !g->failed; }

static double host_seconds(const struct gpu *g)
{
    (void)g;
    return 0; /* the time of an interpreter says nothing */
}

const struct gpu_host gpu_host_ptx = {
    .name = "ptx", .open = host_open, .close = host_close, .error = host_error, .info = host_info, .alloc = host_alloc,
    .wrap = host_wrap, .is_copy = host_is_copy, .free = host_free, .address = host_address, .write = host_write,
    .read = host_read, .copy = host_copy, .post = host_post, .collect = host_collect, .pipe = host_pipe,
    .dispatch = host_dispatch, .overlap = host_overlap, .submit = host_submit, .wait = host_submit,
    .seconds = host_seconds,
};
