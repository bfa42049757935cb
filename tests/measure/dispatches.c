/* dispatches.c - the dispatches of a model on a device that does nothing: what would be launched, on a machine without
 * the memory or the device for it.
 *
 *   dispatches MODEL [decode=N|prefill=N ...]
 *
 * decode=N: one token at position N; prefill=N: a chunk of N tokens at the beginning. A line for each dispatch: kernel,
 * grid, threads, record as words, bytes of each buffer. scripts/gpu-static reads it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "ds4.h"
#include "gpu/gpu.h"

#ifdef DS4_GPU_EMU

#define MEMORY_BYTES (141ull << 30)
#define CHUNK 8192u

struct gpu_buffer {
    void *ptr;
    uint64_t bytes;
    bool owned;
};
struct gpu {
    int unused;
};
static bool prints;

static struct gpu *null_open(char *why, size_t why_size)
{
    (void)why, (void)why_size;
    return mem_zalloc(1, sizeof(struct gpu));
}
static void null_close(struct gpu *g) { mem_free(g); }
static const char *null_error(const struct gpu *g)
{
    (void)g;
    return "";
}
static void null_info(const struct gpu *g, struct gpu_info *out)
{
    (void)g;
    *out = (struct gpu_info){.name = "device that does nothing", .memory_bytes = MEMORY_BYTES,
                             .free_bytes = MEMORY_BYTES, .buffer_bytes_max = UINT64_MAX, .own_memory = true};
}

static struct gpu_buffer *make(void *ptr, uint64_t bytes, bool owned)
{
    struct gpu_buffer *buffer = mem_zalloc(1, sizeof *buffer);
    if (buffer) *buffer = (struct gpu_buffer){ptr, bytes, owned};
    return buffer;
}
/* Pages that are never touched take no memory. */
static struct gpu_buffer *null_alloc(struct gpu *g, uint64_t bytes)
{
    void *ptr = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    (void)g;
    return ptr == MAP_FAILED ? NULL : make(ptr, bytes, true);
}
static struct gpu_buffer *null_wrap(struct gpu *g, const void *memory, uint64_t bytes, bool near)
{
    (void)g, (void)near;
    return make((void *)(uintptr_t)memory, bytes, false);
}
static bool null_is_copy(const struct gpu_buffer *buffer) { return buffer->owned; }
static void null_free(struct gpu *g, struct gpu_buffer *buffer)
{
    (void)g;
    if (buffer && buffer->owned) (void)munmap(buffer->ptr, (size_t)buffer->bytes);
    mem_free(buffer);
}
static void *null_address(const struct gpu_buffer *buffer) { return buffer->ptr; }
static bool null_write(struct gpu *g, struct gpu_buffer *to, uint64_t offset, const void *from, uint64_t bytes)
{
    (void)g;
    memcpy((char *)to->ptr + offset, from, (size_t)bytes);
    return true;
}
static bool null_read(struct gpu *g, void *to, const struct gpu_buffer *from, uint64_t offset, uint64_t bytes)
{
    (void)g;
    memcpy(to, (const char *)from->ptr + offset, (size_t)bytes);
    return true;
}
static bool null_copy(struct gpu *g, struct gpu_ref to, struct gpu_ref from)
{
    (void)g, (void)to, (void)from;
    return true;
}
static bool null_post(struct gpu *g, struct gpu_ref from)
{
    (void)g, (void)from;
    return true;
}
static bool null_collect(struct gpu *g, void *to, uint64_t bytes)
{
    (void)g;
    memset(to, 0, (size_t)bytes);
    return true;
}
static const struct gpu_pipe *null_pipe(struct gpu *g, const char *kernel)
{
    static char names[4096][48];
    static size_t n;
    (void)g;
    if (n == sizeof names / sizeof *names) return NULL;
    (void)snprintf(names[n], sizeof *names, "%s", kernel);
    return (const struct gpu_pipe *)(const void *)names[n++];
}
static bool null_dispatch(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                          const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads)
{
    (void)g;
    if (!prints) return true;
    printf("%s %u %u %u %u ", (const char *)(const void *)pipe, grid[0], grid[1], grid[2], n_threads);
    for (size_t i = 0; i < record_bytes / 4; i++) {
        uint32_t word;
        memcpy(&word, (const char *)record + 4 * i, sizeof word);
        printf("%s%u", i ? "," : "", word);
    }
    for (int i = 0; i < n_refs; i++) printf("%s%llu", i ? "," : " ", (unsigned long long)refs[i].bytes);
    printf("\n");
    return true;
}
static void null_overlap(struct gpu *g, bool on)
{
    (void)g;
    if (prints) printf("overlap %d\n", on);
}
static bool null_done(struct gpu *g)
{
    (void)g;
    return true;
}
static double null_seconds(const struct gpu *g)
{
    (void)g;
    return 0;
}

/* In place of the emulator. */
const struct gpu_host gpu_host_emu = {
    .name = "emu", .open = null_open, .close = null_close, .error = null_error, .info = null_info, .alloc = null_alloc,
    .wrap = null_wrap, .is_copy = null_is_copy, .free = null_free, .address = null_address, .write = null_write,
    .read = null_read, .copy = null_copy, .post = null_post, .collect = null_collect, .pipe = null_pipe,
    .dispatch = null_dispatch, .overlap = null_overlap, .submit = null_done, .wait = null_done,
    .seconds = null_seconds,
};

static bool evaluate(struct ds4_engine *e, struct ds4_session *s, uint32_t n, struct ds4_error *error)
{
    static int32_t tokens[CHUNK]; /* which they are is all the same */
    for (; n > 0; n -= n < CHUNK ? n : CHUNK) {
        struct ds4_job job = {.session = s, .tokens = tokens, .n = n < CHUNK ? n : CHUNK};
        if (ds4_eval(e, &job, 1, error) != DS4_OK) return false;
    }
    return true;
}

static bool list(struct ds4_engine *e, const char *what, struct ds4_error *error)
{
    struct ds4_session *s = NULL;
    bool decodes = strncmp(what, "decode=", 7) == 0;
    uint32_t n = (uint32_t)strtoul(strchr(what, '=') + 1, NULL, 10);
    if (ds4_session_create(e, &s, error) != DS4_OK) return false;
    bool good = !decodes || evaluate(e, s, n, error);
    prints = true;
    printf("list %s\n", what);
    good = good && evaluate(e, s, decodes ? 1 : n, error);
    prints = false;
    ds4_session_destroy(s);
    return good;
}

int main(int argc, char **argv)
{
    struct ds4_engine_options options = {.backend = "emu", .ctx_tokens = 131072 + 256, .chunk_tokens = CHUNK,
                                         .n_threads = 1, .made_up_seed = 1};
    struct ds4_engine *e = NULL;
    struct ds4_error error = {0};
    if (argc < 2) return 0; /* among all measurements there is no model to look at */
    options.model_path = argv[1];
    bool good = ds4_engine_open(&options, &e, &error) == DS4_OK;
    for (int i = 2; i < argc && good; i++) good = strchr(argv[i], '=') && list(e, argv[i], &error);
    if (!good) fprintf(stderr, "dispatches: %s\n", error.message);
    ds4_engine_close(e);
    return good ? 0 : 1;
}

#else
int main(void) { return 0; }
#endif
