/* host_cuda.cu - CUDA as a device: kernels are linked in and found by name; one stream, and another for what is sent; a
 * list that was seen before is replayed as a graph, so that a decode step is one launch.
 *
 * Buffers that the host sees are managed memory that prefers the device: sessions hand out addresses of their spans,
 * which the host reads when it saves them. Weights are copied to the device once; where they do not fit, or the device
 * reads pageable memory as fast, they stay where they are. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

extern "C" {
#include "base/hash.h"
#include "base/mem.h"
}
#include "gpu/gpu.h"
#include "gpu/replay.h"

struct kernel_entry {
    const char *name;
    const void *fn;
    int n_params, max_threads;
    size_t record_bytes;
    kernel_entry *next;
};
static kernel_entry *kernels;

struct kernel_registration {
    kernel_entry entry;
    template <typename A, typename... P> kernel_registration(const char *name, void (*fn)(A, P...), int max_threads)
    {
        entry = kernel_entry{name, (const void *)fn, (int)sizeof...(P) + 1, max_threads, sizeof(A), kernels};
        kernels = &entry;
    }
};

#include "gpu/prelude/cuda.h"
#define EXPORT(name) static ::kernel_registration name##_registration(#name, name, name##_max_threads);
namespace k {
#include "gpu/kernels/all.k"
}
#undef device
#undef thread
#undef constant
#undef threadgroup

#define LAUNCHES_MAX 4096      /* of a list; a longer one goes in parts */
#define RECORD_BYTES_MAX 192
#define REPLAYS_MAX 8          /* lists kept as graphs: of decoding up to four, and of chunks of prefill */
#define UPLOAD_BYTES ((uint64_t)256 << 20)
#define SEND_PIECES 8          /* of pinned memory: some on their way while others are filled */
#define MARKS_MAX 8            /* kept; to wait for a later one in place of one that is gone is right as well */

struct gpu_buffer {
    char *ptr;
    uint64_t bytes;
    bool owned, registered;
    void *host; /* pinned: the pages, or a copy that is ours */
};

/* Everything that decides what a dispatch does, comparable byte by byte. */
struct launch {
    const kernel_entry *kernel;
    unsigned grid[3], n_threads;
    int n_refs;
    char record[RECORD_BYTES_MAX];
    void *refs[GPU_REFS_MAX];
};

struct replay {
    struct launch *launches;
    int n;
    uint64_t used; /* when; 0: empty */
    uint64_t digest;
    cudaGraphExec_t graph;
};

struct gpu {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    cudaDeviceProp device_properties;
    struct launch *launches; /* the list being made */
    int n;
    struct replay_seen seen;
    struct replay replays[REPLAYS_MAX];
    uint64_t clock;
    double seconds;
    cudaStream_t copies;
    cudaEvent_t marks[MARKS_MAX], pieces[SEND_PIECES], arrived;
    char *pinned;
    uint64_t piece_bytes, n_marks, n_pieces;
    char *posted; /* pinned: [GPU_POSTS_MAX][GPU_POST_BYTES] */
    cudaEvent_t posts[GPU_POSTS_MAX];
    uint64_t n_posts, n_collected;
    bool failed;
    char error[256];
};

static bool cuda_ok(struct gpu *g, cudaError_t status, const char *what)
{
    if (status == cudaSuccess) return true;
    if (!g->failed) (void)snprintf(g->error, sizeof g->error, "%s: %s", what, cudaGetErrorString(status));
    g->failed = true;
    return false;
}

static void cuda_close(struct gpu *g)
{
    for (int i = 0; i < REPLAYS_MAX; i++) {
        if (g->replays[i].graph) (void)cudaGraphExecDestroy(g->replays[i].graph);
        mem_free(g->replays[i].launches);
    }
    if (g->copies) (void)cudaStreamSynchronize(g->copies);
    for (int i = 0; i < MARKS_MAX; i++)
        if (g->marks[i]) (void)cudaEventDestroy(g->marks[i]);
    for (int i = 0; i < SEND_PIECES; i++)
        if (g->pieces[i]) (void)cudaEventDestroy(g->pieces[i]);
    for (int i = 0; i < GPU_POSTS_MAX; i++)
        if (g->posts[i]) (void)cudaEventDestroy(g->posts[i]);
    if (g->posted) (void)cudaFreeHost(g->posted);
    if (g->arrived) (void)cudaEventDestroy(g->arrived);
    if (g->pinned) (void)cudaFreeHost(g->pinned);
    if (g->copies) (void)cudaStreamDestroy(g->copies);
    if (g->begin) (void)cudaEventDestroy(g->begin);
    if (g->end) (void)cudaEventDestroy(g->end);
    if (g->stream) (void)cudaStreamDestroy(g->stream);
    mem_free(g->launches);
    mem_free(g);
}

static struct gpu *cuda_open(char *why, size_t why_size)
{
    int n_devices = 0;
    cudaError_t status = cudaGetDeviceCount(&n_devices);
    if (status != cudaSuccess || n_devices == 0) {
        (void)snprintf(why, why_size, "%s", status == cudaSuccess ? "no device" : cudaGetErrorString(status));
        return NULL;
    }
    struct gpu *g = (struct gpu *)mem_zalloc(1, sizeof *g);
    if (!g) {
        (void)snprintf(why, why_size, "no memory");
        return NULL;
    }
    g->launches = (struct launch *)mem_zalloc(LAUNCHES_MAX, sizeof *g->launches);
    if (g->launches && cuda_ok(g, cudaGetDeviceProperties(&g->device_properties, 0), "device") &&
        cuda_ok(g, cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking), "stream") &&
        cuda_ok(g, cudaEventCreate(&g->begin), "event") && cuda_ok(g, cudaEventCreate(&g->end), "event"))
        return g;
    (void)snprintf(why, why_size, "%s", g->failed ? g->error : "no memory");
    cuda_close(g);
    return NULL;
}

static const char *cuda_error_text(const struct gpu *g) { return g->error; }

/* One memory for both. A device with memory of its own beside which the host's is coherent (one table of pages for
 * both, as Grace has) still copies what is near, and reads the rest where it lies. */
static bool shares_memory(const struct gpu *g)
{
    return g->device_properties.pageableMemoryAccess && g->device_properties.integrated;
}

static void cuda_info(const struct gpu *g, struct gpu_info *out)
{
    memset(out, 0, sizeof *out);
    (void)snprintf(out->name, sizeof out->name, "%.60s", g->device_properties.name);
    int driver = 0, runtime = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    (void)snprintf(out->driver, sizeof out->driver, "compute %d.%d, driver for CUDA %d.%d, runtime %d.%d, nvcc %d.%d",
                   g->device_properties.major, g->device_properties.minor, driver / 1000, driver % 1000 / 10,
                   runtime / 1000, runtime % 1000 / 10, __CUDACC_VER_MAJOR__, __CUDACC_VER_MINOR__);
    size_t free_bytes = 0, total_bytes = 0;
    (void)cudaMemGetInfo(&free_bytes, &total_bytes);
    out->memory_bytes = g->device_properties.totalGlobalMem;
    out->free_bytes = free_bytes;
    out->own_memory = !shares_memory(g);
    out->buffer_bytes_max = UINT64_MAX;
    out->unified = true;
}

static struct gpu_buffer *make_buffer(struct gpu *g, void *ptr, uint64_t bytes, bool owned, bool registered)
{
    struct gpu_buffer *buffer = (struct gpu_buffer *)mem_zalloc(1, sizeof *buffer);
    if (!buffer) {
        (void)cuda_ok(g, cudaErrorMemoryAllocation, "a buffer");
        if (owned) (void)cudaFree(ptr);
        return NULL;
    }
    buffer->ptr = (char *)ptr;
    buffer->bytes = bytes;
    buffer->owned = owned;
    buffer->registered = registered;
    return buffer;
}

/* Managed memory stays on the device unless the host touches it. */
static void prefer_device(void *ptr, uint64_t bytes)
{
#if CUDART_VERSION >= 13000
    cudaMemLocation there = {};
    there.type = cudaMemLocationTypeDevice;
    there.id = 0;
#else
    int there = 0;
#endif
    (void)cudaMemAdvise(ptr, bytes, cudaMemAdviseSetPreferredLocation, there);
}

static struct gpu_buffer *cuda_alloc(struct gpu *g, uint64_t bytes, bool seen)
{
    void *ptr = NULL;
    if (!cuda_ok(g, seen ? cudaMallocManaged(&ptr, bytes) : cudaMalloc(&ptr, bytes), "a buffer")) return NULL;
    if (seen) prefer_device(ptr, bytes);
    if (cuda_ok(g, cudaMemsetAsync(ptr, 0, bytes, g->stream), "a buffer") &&
        cuda_ok(g, cudaStreamSynchronize(g->stream), "a buffer"))
        return make_buffer(g, ptr, bytes, true, false);
    (void)cudaFree(ptr);
    return NULL;
}

static bool upload(struct gpu *g, void *to, const void *from, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += UPLOAD_BYTES) {
        uint64_t n = bytes - at < UPLOAD_BYTES ? bytes - at : UPLOAD_BYTES;
        if (!cuda_ok(g, cudaMemcpy((char *)to + at, (const char *)from + at, n, cudaMemcpyHostToDevice), "weights"))
            return false;
    }
    return true;
}

/* Pinned memory of the host that the device reads over the bus: the file's pages, or where the system does not let
 * those be pinned a copy of them. */
static struct gpu_buffer *wrap_far(struct gpu *g, void *host, uint64_t bytes)
{
    void *ptr = NULL;
    if (cudaHostRegister(host, bytes, cudaHostRegisterMapped | cudaHostRegisterReadOnly) == cudaSuccess) {
        struct gpu_buffer *buffer = NULL;
        if (cuda_ok(g, cudaHostGetDevicePointer(&ptr, host, 0), "weights"))
            buffer = make_buffer(g, ptr, bytes, false, true);
        if (buffer) buffer->host = host;
        else (void)cudaHostUnregister(host);
        return buffer;
    }
    (void)cudaGetLastError();
    void *copy = NULL;
    if (!cuda_ok(g, cudaHostAlloc(&copy, bytes, cudaHostAllocMapped), "weights")) return NULL;
    memcpy(copy, host, bytes);
    struct gpu_buffer *buffer = NULL;
    if (cuda_ok(g, cudaHostGetDevicePointer(&ptr, copy, 0), "weights"))
        buffer = make_buffer(g, ptr, bytes, false, false);
    if (buffer) buffer->host = copy;
    else (void)cudaFreeHost(copy);
    return buffer;
}

static struct gpu_buffer *cuda_wrap(struct gpu *g, const void *memory, uint64_t bytes, bool near)
{
    void *ptr = NULL, *host = (void *)(uintptr_t)memory;
    if (shares_memory(g) || (!near && g->device_properties.pageableMemoryAccessUsesHostPageTables))
        return make_buffer(g, host, bytes, false, false);
    if (!near) return wrap_far(g, host, bytes);
    if (!cuda_ok(g, cudaMalloc(&ptr, bytes), "weights")) return NULL;
    if (upload(g, ptr, memory, bytes)) return make_buffer(g, ptr, bytes, true, false);
    (void)cudaFree(ptr);
    return NULL;
}

static bool cuda_is_copy(const struct gpu_buffer *buffer) { return buffer->owned; }

static void cuda_free(struct gpu *g, struct gpu_buffer *buffer)
{
    (void)g;
    if (!buffer) return;
    if (buffer->owned) (void)cudaFree(buffer->ptr);
    if (buffer->registered) (void)cudaHostUnregister(buffer->host);
    else if (buffer->host) (void)cudaFreeHost(buffer->host);
    mem_free(buffer);
}

static void *cuda_address(const struct gpu_buffer *buffer) { return buffer->ptr; }

static bool launch_all(struct gpu *g)
{
    for (int i = 0; i < g->n; i++) {
        struct launch *l = &g->launches[i];
        void *args[GPU_REFS_MAX + 1] = {l->record};
        for (int k = 0; k < l->n_refs; k++) args[k + 1] = &l->refs[k];
        if (!cuda_ok(g, cudaLaunchKernel(l->kernel->fn, dim3(l->grid[0], l->grid[1], l->grid[2]), dim3(l->n_threads),
                                         args, 0, g->stream), l->kernel->name))
            return false;
    }
    return true;
}

static bool same_list(const struct launch *a, int n_a, const struct launch *b, int n_b)
{
    return n_a == n_b && memcmp(a, b, (size_t)n_a * sizeof *a) == 0;
}

static struct replay *find_replay(struct gpu *g, uint64_t digest)
{
    for (int i = 0; i < REPLAYS_MAX; i++)
        if (g->replays[i].used && g->replays[i].digest == digest &&
            same_list(g->launches, g->n, g->replays[i].launches, g->replays[i].n))
            return &g->replays[i];
    return NULL;
}

/* Keeps the list as a graph in place of the one that was used longest ago. */
static struct replay *make_replay(struct gpu *g, uint64_t digest)
{
    struct replay *r = &g->replays[0];
    for (int i = 1; i < REPLAYS_MAX; i++)
        if (g->replays[i].used < r->used) r = &g->replays[i];
    if (r->graph) (void)cudaGraphExecDestroy(r->graph);
    mem_free(r->launches);
    memset(r, 0, sizeof *r);
    cudaGraph_t graph = NULL;
    if (!cuda_ok(g, cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal), "a graph")) return NULL;
    bool good = launch_all(g);
    good = cuda_ok(g, cudaStreamEndCapture(g->stream, &graph), "a graph") && good;
    good = good && cuda_ok(g, cudaGraphInstantiate(&r->graph, graph, 0), "a graph");
    if (graph) (void)cudaGraphDestroy(graph);
    r->launches = good ? (struct launch *)mem_alloc((size_t)g->n, sizeof *r->launches) : NULL;
    if (!r->launches) return NULL;
    memcpy(r->launches, g->launches, (size_t)g->n * sizeof *r->launches);
    r->n = g->n;
    r->digest = digest;
    return r;
}

static bool cuda_submit(struct gpu *g)
{
    if (g->failed) return false;
    if (g->n == 0) return true;
    uint64_t digest = hash_u64(g->launches, (size_t)g->n * sizeof *g->launches);
    struct replay *r = find_replay(g, digest);
    if (!r && replay_is_known(&g->seen, digest)) r = make_replay(g, digest);
    if (g->failed || !cuda_ok(g, cudaEventRecord(g->begin, g->stream), "event")) return false;
    if (r) {
        r->used = ++g->clock;
        (void)cuda_ok(g, cudaGraphLaunch(r->graph, g->stream), "a graph");
    } else {
        (void)launch_all(g);
    }
    g->n = 0;
    return !g->failed && cuda_ok(g, cudaEventRecord(g->end, g->stream), "event");
}

static bool cuda_wait(struct gpu *g)
{
    float ms = 0;
    if (g->failed || !cuda_ok(g, cudaStreamSynchronize(g->stream), "the device")) return false;
    if (cudaEventElapsedTime(&ms, g->begin, g->end) == cudaSuccess) g->seconds = (double)ms * 1e-3;
    else (void)cudaGetLastError(); /* nothing was submitted yet */
    return true;
}

static bool cuda_write(struct gpu *g, struct gpu_buffer *to, uint64_t offset, const void *from, uint64_t bytes)
{
    return cuda_submit(g) &&
           cuda_ok(g, cudaMemcpyAsync(to->ptr + offset, from, bytes, cudaMemcpyDefault, g->stream), "a write") &&
           cuda_ok(g, cudaStreamSynchronize(g->stream), "a write");
}

static bool cuda_read(struct gpu *g, void *to, const struct gpu_buffer *from, uint64_t offset, uint64_t bytes)
{
    return cuda_submit(g) &&
           cuda_ok(g, cudaMemcpyAsync(to, from->ptr + offset, bytes, cudaMemcpyDefault, g->stream), "a read") &&
           cuda_ok(g, cudaStreamSynchronize(g->stream), "a read");
}

static bool cuda_copy(struct gpu *g, struct gpu_ref to, struct gpu_ref from)
{
    return cuda_submit(g) && cuda_ok(g, cudaMemcpyAsync(to.buffer->ptr + to.offset, from.buffer->ptr + from.offset,
                                                        to.bytes, cudaMemcpyDefault, g->stream), "a copy");
}

static bool make_event(struct gpu *g, cudaEvent_t *event)
{
    return cuda_ok(g, cudaEventCreateWithFlags(event, cudaEventDisableTiming), "event");
}

static bool cuda_prepare_sends(struct gpu *g, uint64_t bytes)
{
    g->piece_bytes = (bytes / SEND_PIECES + 4095) / 4096 * 4096;
    for (int i = 0; i < MARKS_MAX; i++)
        if (!make_event(g, &g->marks[i])) return false;
    for (int i = 0; i < SEND_PIECES; i++)
        if (!make_event(g, &g->pieces[i])) return false;
    return make_event(g, &g->arrived) &&
           cuda_ok(g, cudaStreamCreateWithFlags(&g->copies, cudaStreamNonBlocking), "stream") &&
           cuda_ok(g, cudaHostAlloc((void **)&g->pinned, g->piece_bytes * SEND_PIECES, cudaHostAllocDefault),
                   "pinned memory");
}

static uint64_t cuda_mark(struct gpu *g)
{
    uint64_t mark = g->n_marks + 1;
    if (!cuda_submit(g) || !cuda_ok(g, cudaEventRecord(g->marks[mark % MARKS_MAX], g->stream), "event")) return 0;
    return g->n_marks = mark;
}

/* Through pieces of pinned memory in turn; one that is still on its way is waited for. */
static bool cuda_send(struct gpu *g, struct gpu_ref to, const void *from, uint64_t mark)
{
    if (g->failed || (mark && !cuda_ok(g, cudaStreamWaitEvent(g->copies, g->marks[mark % MARKS_MAX], 0), "a copy")))
        return false;
    for (uint64_t at = 0; at < to.bytes; at += g->piece_bytes) {
        uint64_t n = to.bytes - at < g->piece_bytes ? to.bytes - at : g->piece_bytes, i = g->n_pieces++ % SEND_PIECES;
        char *piece = g->pinned + i * g->piece_bytes, *target = to.buffer->ptr + to.offset + at;
        if (!cuda_ok(g, cudaEventSynchronize(g->pieces[i]), "a copy")) return false;
        memcpy(piece, (const char *)from + at, n);
        if (!cuda_ok(g, cudaMemcpyAsync(target, piece, n, cudaMemcpyDefault, g->copies), "a copy") ||
            !cuda_ok(g, cudaEventRecord(g->pieces[i], g->copies), "a copy"))
            return false;
    }
    return true;
}

static bool cuda_arrive(struct gpu *g)
{
    return cuda_submit(g) && cuda_ok(g, cudaEventRecord(g->arrived, g->copies), "a copy") &&
           cuda_ok(g, cudaStreamWaitEvent(g->stream, g->arrived, 0), "a copy");
}

static bool prepare_posts(struct gpu *g)
{
    for (int i = 0; i < GPU_POSTS_MAX; i++)
        if (!make_event(g, &g->posts[i])) return false;
    return cuda_ok(g, cudaHostAlloc((void **)&g->posted, GPU_POSTS_MAX * GPU_POST_BYTES, cudaHostAllocDefault),
                   "pinned memory");
}

static bool cuda_post(struct gpu *g, struct gpu_ref from)
{
    uint64_t i = g->n_posts % GPU_POSTS_MAX;
    if (from.bytes > GPU_POST_BYTES || g->n_posts - g->n_collected == GPU_POSTS_MAX)
        return cuda_ok(g, cudaErrorInvalidValue, "a post");
    if ((!g->posted && !prepare_posts(g)) || !cuda_submit(g)) return false;
    g->n_posts++;
    return cuda_ok(g, cudaMemcpyAsync(g->posted + i * GPU_POST_BYTES, from.buffer->ptr + from.offset, from.bytes,
                                      cudaMemcpyDefault, g->stream), "a post") &&
           cuda_ok(g, cudaEventRecord(g->posts[i], g->stream), "a post");
}

static bool cuda_collect(struct gpu *g, void *to, uint64_t bytes)
{
    uint64_t i = g->n_collected % GPU_POSTS_MAX;
    if (bytes > GPU_POST_BYTES || g->n_posts == g->n_collected)
        return cuda_ok(g, cudaErrorInvalidValue, "a post");
    if (g->failed || !cuda_ok(g, cudaEventSynchronize(g->posts[i]), "a post")) return false;
    memcpy(to, g->posted + i * GPU_POST_BYTES, bytes);
    g->n_collected++;
    return true;
}

static const struct gpu_pipe *cuda_pipe(struct gpu *g, const char *name)
{
    for (const kernel_entry *kernel = kernels; kernel; kernel = kernel->next)
        if (strcmp(kernel->name, name) == 0) return (const struct gpu_pipe *)kernel;
    (void)cuda_ok(g, cudaErrorSymbolNotFound, name);
    return NULL;
}

static bool cuda_dispatch(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                          const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads)
{
    const kernel_entry *kernel = (const kernel_entry *)pipe;
    if (record_bytes != kernel->record_bytes || record_bytes > RECORD_BYTES_MAX || n_refs + 1 != kernel->n_params ||
        (int)n_threads > kernel->max_threads)
        return cuda_ok(g, cudaErrorInvalidValue, kernel->name);
    if (g->n == LAUNCHES_MAX && !cuda_submit(g)) return false;
    struct launch *l = &g->launches[g->n++];
    memset(l, 0, sizeof *l);
    l->kernel = kernel;
    memcpy(l->grid, grid, sizeof l->grid);
    l->n_threads = n_threads;
    l->n_refs = n_refs;
    memcpy(l->record, record, record_bytes);
    for (int i = 0; i < n_refs; i++) l->refs[i] = refs[i].buffer->ptr + refs[i].offset;
    return !g->failed;
}

static void cuda_overlap(struct gpu *g, bool on)
{
    (void)g;
    (void)on; /* one stream */
}

static double cuda_seconds(const struct gpu *g) { return g->seconds; }

extern "C" const struct gpu_host gpu_host_cuda = {
    "cuda", cuda_open, cuda_close, cuda_error_text, cuda_info, cuda_alloc, cuda_wrap, cuda_is_copy,
    cuda_free, cuda_address,
    cuda_write, cuda_read, cuda_copy, cuda_prepare_sends, cuda_mark, cuda_send, cuda_arrive, cuda_post, cuda_collect,
    cuda_pipe, cuda_dispatch, cuda_overlap, cuda_submit, cuda_wait, cuda_seconds,
};
