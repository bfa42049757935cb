/* host_cuda.cu - CUDA as a device: kernels are linked in and found by name; one stream; a list that was seen before is
 * replayed as a graph, so that a decode step is one launch.
 *
 * Buffers are managed memory that prefers the device: sessions hand out addresses of their spans, which the host reads
 * when it saves them. Weights are copied to the device once; where they do not fit, or the device reads pageable memory
 * as fast, they stay where they are. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

extern "C" {
#include "base/mem.h"
}
#include "gpu/gpu.h"

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
#define REPLAYS_MAX 4          /* lists kept as graphs */
#define UPLOAD_BYTES ((uint64_t)256 << 20)

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
    cudaGraphExec_t graph;
};

struct gpu {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    cudaDeviceProp device_properties;
    struct launch *launches, *last; /* the list being made, and the one before */
    int n, n_last;
    struct replay replays[REPLAYS_MAX];
    uint64_t clock;
    double seconds;
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
    if (g->begin) (void)cudaEventDestroy(g->begin);
    if (g->end) (void)cudaEventDestroy(g->end);
    if (g->stream) (void)cudaStreamDestroy(g->stream);
    mem_free(g->launches);
    mem_free(g->last);
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
    g->last = (struct launch *)mem_zalloc(LAUNCHES_MAX, sizeof *g->last);
    if (g->launches && g->last && cuda_ok(g, cudaGetDeviceProperties(&g->device_properties, 0), "device") &&
        cuda_ok(g, cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking), "stream") &&
        cuda_ok(g, cudaEventCreate(&g->begin), "event") && cuda_ok(g, cudaEventCreate(&g->end), "event"))
        return g;
    (void)snprintf(why, why_size, "%s", g->failed ? g->error : "no memory");
    cuda_close(g);
    return NULL;
}

static const char *cuda_error_text(const struct gpu *g) { return g->error; }

static void cuda_info(const struct gpu *g, struct gpu_info *out)
{
    memset(out, 0, sizeof *out);
    (void)snprintf(out->name, sizeof out->name, "%.60s", g->device_properties.name);
    size_t free_bytes = 0, total_bytes = 0;
    (void)cudaMemGetInfo(&free_bytes, &total_bytes);
    out->memory_bytes = g->device_properties.totalGlobalMem;
    out->free_bytes = free_bytes;
    out->own_memory = !(g->device_properties.pageableMemoryAccess && g->device_properties.integrated);
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

static struct gpu_buffer *cuda_alloc(struct gpu *g, uint64_t bytes)
{
    void *ptr = NULL;
    if (!cuda_ok(g, cudaMallocManaged(&ptr, bytes), "a buffer")) return NULL;
    prefer_device(ptr, bytes);
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
    if (g->device_properties.pageableMemoryAccess && g->device_properties.integrated)
        return make_buffer(g, host, bytes, false, false);
    if (!near) return wrap_far(g, host, bytes);
    if (!cuda_ok(g, cudaMalloc(&ptr, bytes), "weights")) return NULL;
    if (upload(g, ptr, memory, bytes)) return make_buffer(g, ptr, bytes, true, false);
    (void)cudaFree(ptr);
    return NULL;
}

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

static struct replay *find_replay(struct gpu *g)
{
    for (int i = 0; i < REPLAYS_MAX; i++)
        if (g->replays[i].used && same_list(g->launches, g->n, g->replays[i].launches, g->replays[i].n))
            return &g->replays[i];
    return NULL;
}

/* Keeps the list as a graph in place of the one that was used longest ago. */
static struct replay *make_replay(struct gpu *g)
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
    return r;
}

static bool cuda_submit(struct gpu *g)
{
    if (g->failed) return false;
    if (g->n == 0) return true;
    struct replay *r = find_replay(g);
    if (!r && same_list(g->launches, g->n, g->last, g->n_last)) r = make_replay(g);
    if (g->failed || !cuda_ok(g, cudaEventRecord(g->begin, g->stream), "event")) return false;
    if (r) {
        r->used = ++g->clock;
        (void)cuda_ok(g, cudaGraphLaunch(r->graph, g->stream), "a graph");
    } else {
        (void)launch_all(g);
    }
    struct launch *swap = g->last;
    g->last = g->launches;
    g->n_last = g->n;
    g->launches = swap;
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
    "cuda", cuda_open, cuda_close, cuda_error_text, cuda_info, cuda_alloc, cuda_wrap, cuda_free, cuda_address,
    cuda_write, cuda_read, cuda_copy, cuda_pipe, cuda_dispatch, cuda_overlap, cuda_submit, cuda_wait, cuda_seconds,
};
