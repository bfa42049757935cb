/* host_cuda.c - CUDA as a device: kernels are linked in and found by name; one stream, and another for what is sent; a
 * list that was seen before is replayed as a graph, so that a decode step is one launch.
 *
 * Buffers are the device's own, and no memory is managed: what the host is to have is copied, so that nothing moves
 * behind a list's back and the driver refuses what does not fit. Weights are copied to the device once; where they do
 * not fit, or the device reads pageable memory as fast, they stay where they are.
 *
 * Launched early (`--launch early`), a kernel is on the device while the one before runs, and waits there for its end
 * (k_begin of prelude/cuda.h), so that its launch costs no time of its own. The first of a list never is: what came
 * before may be a copy or an event.
 *
 * What crosses the bus goes through pinned memory, in order with the dispatches of a stream: copies of other memory
 * may return before its bytes have arrived, and a stream of ours does not wait for those. */
#ifdef DS4_GPU_CUDA
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "gpu/cuda_kernels.h"
#include "gpu/gpu.h"
#include "gpu/replay.h"

#define LAUNCHES_MAX 4096      /* of a list; a longer one goes in parts */
#define RECORD_BYTES_MAX 192
#define REPLAYS_MAX 8          /* lists kept as graphs: of decoding up to four, and of chunks of prefill */
#define RING_PIECES 8          /* of pinned memory: some on their way while others are filled */
#define MOVES_BYTES ((uint64_t)16 << 20) /* of the ring for reads and writes, and for weights on their way */
#define MARKS_MAX 8            /* kept; to wait for a later one in place of one that is gone is right as well */

struct gpu_buffer {
    char *ptr;
    uint64_t bytes;
    bool owned, registered;
    void *host; /* pinned: the pages, or a copy that is ours */
};

/* Pinned memory that bytes cross the bus by, in pieces that are used in turn. */
struct ring {
    char *memory;
    uint64_t piece_bytes, n_taken;
    cudaEvent_t done[RING_PIECES]; /* what was begun with a piece */
};

/* Everything that decides what a dispatch does, comparable byte by byte. */
struct launch {
    const struct cuda_kernel *kernel;
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
    struct cudaDeviceProp device_properties;
    struct launch *launches; /* the list being made */
    int n;
    struct replay_seen seen;
    struct replay replays[REPLAYS_MAX];
    uint64_t clock;
    double seconds;
    bool early;
    cudaStream_t copies;
    struct ring moves, sends; /* on stream and on copies */
    cudaEvent_t marks[MARKS_MAX], arrived;
    uint64_t n_marks;
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

/* All that was given to the device is done, or lost with it. */
static void come_to_rest(struct gpu *g)
{
    if (g->stream) (void)cudaStreamSynchronize(g->stream);
    if (g->copies) (void)cudaStreamSynchronize(g->copies);
}

static bool make_event(struct gpu *g, cudaEvent_t *event)
{
    return cuda_ok(g, cudaEventCreateWithFlags(event, cudaEventDisableTiming), "event");
}

static void free_events(cudaEvent_t *events, int n)
{
    for (int i = 0; i < n; i++)
        if (events[i]) (void)cudaEventDestroy(events[i]);
}

static bool make_ring(struct gpu *g, struct ring *r, uint64_t bytes)
{
    r->piece_bytes = (bytes / RING_PIECES + 4095) / 4096 * 4096;
    for (int i = 0; i < RING_PIECES; i++)
        if (!make_event(g, &r->done[i])) return false;
    return cuda_ok(g, cudaHostAlloc((void **)&r->memory, r->piece_bytes * RING_PIECES, cudaHostAllocDefault),
                   "pinned memory");
}

static void free_ring(struct ring *r)
{
    free_events(r->done, RING_PIECES);
    if (r->memory) (void)cudaFreeHost(r->memory);
}

static void cuda_close(struct gpu *g)
{
    come_to_rest(g);
    for (int i = 0; i < REPLAYS_MAX; i++) {
        if (g->replays[i].graph) (void)cudaGraphExecDestroy(g->replays[i].graph);
        mem_free(g->replays[i].launches);
    }
    free_events(g->marks, MARKS_MAX);
    free_events(g->posts, GPU_POSTS_MAX);
    free_events(&g->arrived, 1);
    free_events(&g->begin, 1);
    free_events(&g->end, 1);
    free_ring(&g->moves);
    free_ring(&g->sends);
    if (g->posted) (void)cudaFreeHost(g->posted);
    if (g->copies) (void)cudaStreamDestroy(g->copies);
    if (g->stream) (void)cudaStreamDestroy(g->stream);
    mem_free(g->launches);
    mem_free(g);
}

static bool make_device(struct gpu *g)
{
    g->launches = mem_zalloc(LAUNCHES_MAX, sizeof *g->launches);
    return g->launches && cuda_ok(g, cudaGetDeviceProperties(&g->device_properties, 0), "device") &&
           cuda_ok(g, cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking), "stream") &&
           cuda_ok(g, cudaEventCreate(&g->begin), "event") && cuda_ok(g, cudaEventCreate(&g->end), "event") &&
           make_ring(g, &g->moves, MOVES_BYTES);
}

static struct gpu *cuda_open(char *why, size_t why_size)
{
    int n_devices = 0;
    cudaError_t status = cudaGetDeviceCount(&n_devices);
    if (status != cudaSuccess || n_devices == 0) {
        (void)snprintf(why, why_size, "%s", status == cudaSuccess ? "no device" : cudaGetErrorString(status));
        return NULL;
    }
    struct gpu *g = mem_zalloc(1, sizeof *g);
    if (!g) {
        (void)snprintf(why, why_size, "no memory");
        return NULL;
    }
    if (make_device(g)) return g;
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
    (void)snprintf(out->driver, sizeof out->driver, "compute %d.%d, driver for CUDA %d.%d, runtime %d.%d, %.24s",
                   g->device_properties.major, g->device_properties.minor, driver / 1000, driver % 1000 / 10,
                   runtime / 1000, runtime % 1000 / 10, cuda_kernels_compiler);
    size_t free_bytes = 0, total_bytes = 0;
    (void)cudaMemGetInfo(&free_bytes, &total_bytes);
    out->memory_bytes = g->device_properties.totalGlobalMem;
    out->free_bytes = free_bytes;
    out->own_memory = !shares_memory(g);
    out->buffer_bytes_max = UINT64_MAX;
}

/* Kernels of older architectures do not wait. */
static bool cuda_launch(struct gpu *g, unsigned how)
{
    if (how == GPU_LAUNCH_EARLY && (g->device_properties.major < 9 || cuda_kernels_arch < 900)) return false;
    g->early = how == GPU_LAUNCH_EARLY;
    return true;
}

static struct gpu_buffer *make_buffer(struct gpu *g, void *ptr, uint64_t bytes, bool owned, bool registered)
{
    struct gpu_buffer *buffer = mem_zalloc(1, sizeof *buffer);
    if (!buffer) {
        (void)cuda_ok(g, cudaErrorMemoryAllocation, "a buffer");
        come_to_rest(g);
        if (owned) (void)cudaFree(ptr);
        return NULL;
    }
    buffer->ptr = ptr;
    buffer->bytes = bytes;
    buffer->owned = owned;
    buffer->registered = registered;
    return buffer;
}

static struct gpu_buffer *cuda_alloc(struct gpu *g, uint64_t bytes)
{
    void *ptr = NULL;
    if (!cuda_ok(g, cudaMalloc(&ptr, bytes), "a buffer")) return NULL;
    if (cuda_ok(g, cudaMemsetAsync(ptr, 0, bytes, g->stream), "a buffer") &&
        cuda_ok(g, cudaStreamSynchronize(g->stream), "a buffer")) /* copies have a stream of their own */
        return make_buffer(g, ptr, bytes, true, false);
    come_to_rest(g);
    (void)cudaFree(ptr);
    return NULL;
}

/* The next piece, once what was begun with it before is done. */
static uint64_t take_piece(struct gpu *g, struct ring *r)
{
    uint64_t i = r->n_taken++ % RING_PIECES;
    return cuda_ok(g, cudaEventSynchronize(r->done[i]), "a copy") ? i : RING_PIECES;
}

/* After what the stream was given before; from is the caller's again on return. */
static bool to_device(struct gpu *g, struct ring *r, cudaStream_t stream, char *to, const char *from, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += r->piece_bytes) {
        uint64_t n = bytes - at < r->piece_bytes ? bytes - at : r->piece_bytes, i = take_piece(g, r);
        if (i == RING_PIECES) return false;
        memcpy(r->memory + i * r->piece_bytes, from + at, n);
        if (!cuda_ok(g, cudaMemcpyAsync(to + at, r->memory + i * r->piece_bytes, n, cudaMemcpyDefault, stream),
                     "a copy to the device") || !cuda_ok(g, cudaEventRecord(r->done[i], stream), "a copy"))
            return false;
    }
    return true;
}

/* The device fills pieces while the host empties those that came before. */
static bool from_device(struct gpu *g, struct ring *r, cudaStream_t stream, char *to, const char *from, uint64_t bytes)
{
    uint64_t pieces[RING_PIECES], step = r->piece_bytes, n_all = (bytes + step - 1) / step;
    for (uint64_t begun = 0, had = 0; had < n_all;) {
        if (begun < n_all && begun - had < RING_PIECES) {
            uint64_t at = begun * step, n = bytes - at < step ? bytes - at : step, i = take_piece(g, r);
            if (i == RING_PIECES ||
                !cuda_ok(g, cudaMemcpyAsync(r->memory + i * step, from + at, n, cudaMemcpyDefault, stream),
                         "a copy from the device") || !cuda_ok(g, cudaEventRecord(r->done[i], stream), "a copy"))
                return false;
            pieces[begun++ % RING_PIECES] = i;
        } else {
            uint64_t at = had * step, n = bytes - at < step ? bytes - at : step, i = pieces[had++ % RING_PIECES];
            if (!cuda_ok(g, cudaEventSynchronize(r->done[i]), "a copy from the device")) return false;
            memcpy(to + at, r->memory + i * step, n);
        }
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
    if (to_device(g, &g->moves, g->stream, ptr, memory, bytes)) return make_buffer(g, ptr, bytes, true, false);
    come_to_rest(g);
    (void)cudaFree(ptr);
    return NULL;
}

static bool cuda_is_copy(const struct gpu_buffer *buffer) { return buffer->owned; }

static void cuda_free(struct gpu *g, struct gpu_buffer *buffer)
{
    if (!buffer) return;
    come_to_rest(g); /* in place, too: the memory may be gone next */
    if (buffer->owned) (void)cudaFree(buffer->ptr);
    if (buffer->registered) (void)cudaHostUnregister(buffer->host);
    else if (buffer->host) (void)cudaFreeHost(buffer->host);
    mem_free(buffer);
}

static void *cuda_address(const struct gpu_buffer *buffer) { return buffer->ptr; }

static bool launch_all(struct gpu *g)
{
    cudaLaunchAttribute early = {.id = cudaLaunchAttributeProgrammaticStreamSerialization};
    early.val.programmaticStreamSerializationAllowed = 1;
    for (int i = 0; i < g->n; i++) {
        struct launch *l = &g->launches[i];
        void *args[GPU_REFS_MAX + 1] = {l->record};
        for (int k = 0; k < l->n_refs; k++) args[k + 1] = &l->refs[k];
        const cudaLaunchConfig_t config = {.gridDim = {l->grid[0], l->grid[1], l->grid[2]},
                                           .blockDim = {l->n_threads, 1, 1}, .stream = g->stream, .attrs = &early,
                                           .numAttrs = g->early && i > 0};
        if (!cuda_ok(g, cudaLaunchKernelExC(&config, l->kernel->fn, args), l->kernel->name)) return false;
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
    if (r->graph) {
        come_to_rest(g); /* it may be running */
        (void)cudaGraphExecDestroy(r->graph);
    }
    mem_free(r->launches);
    memset(r, 0, sizeof *r);
    cudaGraph_t graph = NULL;
    if (!cuda_ok(g, cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal), "a graph")) return NULL;
    bool good = launch_all(g);
    good = cuda_ok(g, cudaStreamEndCapture(g->stream, &graph), "a graph") && good;
    good = good && cuda_ok(g, cudaGraphInstantiate(&r->graph, graph, 0), "a graph");
    if (graph) (void)cudaGraphDestroy(graph);
    r->launches = good ? mem_alloc((size_t)g->n, sizeof *r->launches) : NULL;
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
    return cuda_submit(g) && to_device(g, &g->moves, g->stream, to->ptr + offset, from, bytes);
}

static bool cuda_read(struct gpu *g, void *to, const struct gpu_buffer *from, uint64_t offset, uint64_t bytes)
{
    return cuda_submit(g) && from_device(g, &g->moves, g->stream, to, from->ptr + offset, bytes);
}

static bool cuda_copy(struct gpu *g, struct gpu_ref to, struct gpu_ref from)
{
    return cuda_submit(g) && cuda_ok(g, cudaMemcpyAsync(to.buffer->ptr + to.offset, from.buffer->ptr + from.offset,
                                                        to.bytes, cudaMemcpyDefault, g->stream), "a copy");
}

static bool cuda_prepare_sends(struct gpu *g, uint64_t bytes)
{
    for (int i = 0; i < MARKS_MAX; i++)
        if (!make_event(g, &g->marks[i])) return false;
    return make_event(g, &g->arrived) &&
           cuda_ok(g, cudaStreamCreateWithFlags(&g->copies, cudaStreamNonBlocking), "stream") &&
           make_ring(g, &g->sends, bytes);
}

static uint64_t cuda_mark(struct gpu *g)
{
    uint64_t mark = g->n_marks + 1;
    if (!cuda_submit(g) || !cuda_ok(g, cudaEventRecord(g->marks[mark % MARKS_MAX], g->stream), "event")) return 0;
    return g->n_marks = mark;
}

static bool cuda_send(struct gpu *g, struct gpu_ref to, const void *from, uint64_t mark)
{
    if (g->failed || (mark && !cuda_ok(g, cudaStreamWaitEvent(g->copies, g->marks[mark % MARKS_MAX], 0), "a copy")))
        return false;
    return to_device(g, &g->sends, g->copies, to.buffer->ptr + to.offset, from, to.bytes);
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
    const struct cuda_kernel *kernel = cuda_kernel_find(name);
    if (!kernel) (void)cuda_ok(g, cudaErrorSymbolNotFound, name);
    return (const struct gpu_pipe *)(const void *)kernel;
}

static bool cuda_dispatch(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                          const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads)
{
    const struct cuda_kernel *kernel = (const void *)pipe;
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

const struct gpu_host gpu_host_cuda = {
    .name = "cuda", .open = cuda_open, .close = cuda_close, .error = cuda_error_text, .info = cuda_info,
    .launch = cuda_launch,
    .alloc = cuda_alloc, .wrap = cuda_wrap, .is_copy = cuda_is_copy, .free = cuda_free, .address = cuda_address,
    .write = cuda_write, .read = cuda_read, .copy = cuda_copy, .prepare_sends = cuda_prepare_sends, .mark = cuda_mark,
    .send = cuda_send, .arrive = cuda_arrive, .post = cuda_post, .collect = cuda_collect, .pipe = cuda_pipe,
    .dispatch = cuda_dispatch, .overlap = cuda_overlap, .submit = cuda_submit, .wait = cuda_wait,
    .seconds = cuda_seconds,
};

#endif
