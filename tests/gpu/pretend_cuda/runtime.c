/* runtime.c - the calls of the pretend CUDA runtime. See pretend_cuda.h. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "gpu/gpu.h"
#include "impl.h"

struct CUgraph_st {
    struct launch *launches;
    uint64_t n, cap;
};

struct CUgraphExec_st {
    struct CUgraph_st own;
    struct CUstream_st *stream; /* where it was launched last */
    uint64_t until;
};

struct pretend_options pretend_now;
struct pretend_counts pretend_sums;
static char first_sentence[320];
static cudaError_t lost = cudaSuccess;
static unsigned n_events, n_graphs;

bool is_lost(void) { return lost != cudaSuccess; }

static void lose(cudaError_t status)
{
    if (!is_lost()) lost = status;
    queue_drop();
}

void complain(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!first_sentence[0]) {
        (void)vsnprintf(first_sentence, sizeof first_sentence, format, args);
        (void)fprintf(stderr, "pretend CUDA: %s\n", first_sentence);
    }
    va_end(args);
    lose(cudaErrorLaunchFailure);
}

void pretend_cuda(const struct pretend_options *options)
{
    pretend_now = *options;
    pretend_sums = (struct pretend_counts){0};
    lost = cudaSuccess;
}

const char *pretend_cuda_report(void)
{
    static char sentence[sizeof first_sentence];
    memcpy(sentence, first_sentence, sizeof sentence);
    first_sentence[0] = 0;
    lost = cudaSuccess;
    return sentence[0] ? sentence : NULL;
}

struct pretend_counts pretend_cuda_counts(void)
{
    struct pretend_counts counts = pretend_sums;
    pretend_sums = (struct pretend_counts){.n_calls = counts.n_calls};
    return counts;
}

unsigned pretend_cuda_n_alive(void)
{
    unsigned n = n_events + n_graphs + memory_n_blocks();
    for (const struct CUstream_st *s = queue_first(); s; s = s->next) n++;
    return n;
}

__attribute__((destructor)) static void look_at_what_is_left(void)
{
    if (first_sentence[0]) (void)fprintf(stderr, "pretend CUDA: nobody asked for what was reported: %s\n",
                                         first_sentence);
    if (pretend_cuda_n_alive()) (void)fprintf(stderr, "pretend CUDA: %u objects are left\n", pretend_cuda_n_alive());
    if (first_sentence[0] || pretend_cuda_n_alive()) _exit(1);
}

/* A call that may fail: by itself, when the device is lost, or when a test wants it to. sticky: what it does then fails
 * on the device, which is lost by it. */
static cudaError_t begin(cudaError_t fault, bool sticky)
{
    if (is_lost()) return lost;
    if (++pretend_sums.n_calls != pretend_now.fail_at) return cudaSuccess;
    if (sticky) lose(fault);
    return fault;
}
#define BEGIN(fault, sticky) \
    do { \
        cudaError_t begun = begin(fault, sticky); \
        if (begun != cudaSuccess) return begun; \
    } while (0)

/* A call is over: the device's memory is closed to the host, and the call failed if the device was lost in it. */
static cudaError_t end(void)
{
    memory_close();
    return lost;
}

/* A call that is not one in its place. */
#define REFUSE_IF(condition, ...) \
    do { \
        if (condition) { \
            complain(__VA_ARGS__); \
            return end(); \
        } \
    } while (0)

static bool in_capture(void)
{
    for (const struct CUstream_st *s = queue_first(); s; s = s->next)
        if (s->capturing) return true;
    return false;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    pretend_sums.n_opened++;
    *n = 0;
    BEGIN(cudaErrorNoDevice, false);
    if (pretend_now.kind == PRETEND_NONE) return cudaErrorNoDevice;
    *n = 1;
    return cudaSuccess;
}

static uint64_t device_bytes(void)
{
    return pretend_now.memory_bytes ? pretend_now.memory_bytes : (uint64_t)4 << 30;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device)
{
    (void)device;
    BEGIN(cudaErrorInvalidValue, false);
    memset(out, 0, sizeof *out);
    (void)snprintf(out->name, sizeof out->name, "pretended GPU");
    out->totalGlobalMem = device_bytes();
    out->major = pretend_now.major ? pretend_now.major : 9;
    out->integrated = pretend_now.kind == PRETEND_INTEGRATED;
    out->pageableMemoryAccess = pretend_now.kind == PRETEND_INTEGRATED || pretend_now.kind == PRETEND_COHERENT;
    out->pageableMemoryAccessUsesHostPageTables = out->pageableMemoryAccess;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 13000, cudaSuccess; }

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    *total_bytes = device_bytes();
    *free_bytes = *total_bytes > memory_device_bytes() ? *total_bytes - memory_device_bytes() : 0;
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorSymbolNotFound: return "named symbol not found";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorHostMemoryAlreadyRegistered: return "part or all of the memory is registered already";
    case cudaErrorNotSupported: return "operation not supported";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    default: return first_sentence[0] ? first_sentence : "unspecified launch failure";
    }
}

cudaError_t cudaGetLastError(void) { return lost; }

static cudaError_t take(void **ptr, size_t bytes, enum memory_kind kind)
{
    *ptr = NULL;
    BEGIN(cudaErrorMemoryAllocation, false);
    REFUSE_IF(in_capture(), "memory is taken while a stream is captured");
    if (bytes == 0) return cudaSuccess;
    if (kind == MEMORY_DEVICE && bytes > device_bytes() - memory_device_bytes()) return cudaErrorMemoryAllocation;
    *ptr = memory_take(bytes, kind);
    return *ptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaMalloc(void **ptr, size_t bytes) { return take(ptr, bytes, MEMORY_DEVICE); }
cudaError_t cudaHostAlloc(void **ptr, size_t bytes, unsigned flags)
{
    (void)flags;
    return take(ptr, bytes, MEMORY_PINNED);
}

static cudaError_t give(void *ptr, bool of_host, bool registered)
{
    const struct block *b = memory_exactly(ptr);
    bool right = b && (b->kind == MEMORY_PINNED) == (of_host && !registered) &&
                 (b->kind == MEMORY_REGISTERED) == registered;
    REFUSE_IF(!right, "what is freed, or not pinned any more, is not such memory");
    REFUSE_IF(in_capture(), "memory is freed while a stream is captured");
    bool used = queue_uses(b);
    memory_give(b);
    REFUSE_IF(used, "memory is freed, or not pinned any more, while the device is to use it");
    return end();
}

cudaError_t cudaFree(void *ptr) { return ptr ? give(ptr, false, false) : cudaSuccess; }
cudaError_t cudaFreeHost(void *ptr) { return ptr ? give(ptr, true, false) : cudaSuccess; }
cudaError_t cudaHostUnregister(void *ptr) { return give(ptr, true, true); }

cudaError_t cudaHostRegister(void *ptr, size_t bytes, unsigned flags)
{
    BEGIN(cudaErrorMemoryAllocation, false);
    if (pretend_now.refuses_pages) return cudaErrorNotSupported;
    if (!ptr || bytes == 0) return cudaErrorInvalidValue;
    uintptr_t first = (uintptr_t)ptr / 4096 * 4096, last = ((uintptr_t)ptr + bytes + 4095) / 4096 * 4096;
    if (first != (uintptr_t)ptr) return cudaErrorInvalidValue;
    if (!memory_add((uint8_t *)first, last - first, MEMORY_REGISTERED, flags & cudaHostRegisterReadOnly))
        return cudaErrorHostMemoryAlreadyRegistered;
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags)
{
    const struct block *b = memory_at(host);
    (void)flags;
    BEGIN(cudaErrorInvalidValue, false);
    REFUSE_IF(!b || b->kind == MEMORY_DEVICE, "memory that is not pinned is asked for its address on the device");
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    (void)flags;
    BEGIN(cudaErrorMemoryAllocation, false);
    *stream = queue_make();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    REFUSE_IF(!queue_has(s), "a stream that is not there is destroyed");
    bool busy = s->first < s->n_ops || s->capturing;
    queue_free(s);
    REFUSE_IF(busy, "a stream is destroyed while it has work");
    return end();
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    BEGIN(cudaErrorLaunchFailure, true);
    REFUSE_IF(!queue_has(s), "a stream that is not there is waited for");
    REFUSE_IF(in_capture(), "a stream is waited for while one is captured");
    pretend_sums.n_rests++;
    s->in_list = false;
    queue_wait(s, s->n_given);
    return end();
}

static cudaError_t make_event(cudaEvent_t *event, bool timed)
{
    BEGIN(cudaErrorMemoryAllocation, false);
    *event = calloc(1, sizeof **event);
    if (!*event) abort();
    (*event)->timed = timed;
    n_events++;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) { return make_event(event, true); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    return make_event(event, !(flags & cudaEventDisableTiming));
}

static bool event_done(const struct CUevent_st *e) { return !e->stream || queue_done(e->stream, e->at); }

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    bool done = event_done(e);
    free(e);
    n_events--;
    REFUSE_IF(!done, "an event is destroyed before it is reached");
    return end();
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    struct op op = {.kind = OP_MARK};
    BEGIN(cudaErrorLaunchFailure, true);
    REFUSE_IF(!queue_has(s) || s->capturing, "an event is recorded in a stream that is captured, or not there");
    e->stream = s;
    e->at = s->n_given + 1;
    s->in_list = false;
    queue_add(s, &op);
    return end();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    struct op op = {.kind = OP_WAIT, .other = e->stream, .until = e->at};
    (void)flags;
    BEGIN(cudaErrorLaunchFailure, true);
    REFUSE_IF(!queue_has(s) || s->capturing, "a stream that is captured, or not there, is to wait");
    s->in_list = false;
    if (e->stream) queue_add(s, &op);
    return end();
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    BEGIN(cudaErrorLaunchFailure, true);
    REFUSE_IF(in_capture(), "an event is waited for while a stream is captured");
    if (!event_done(e)) queue_wait(e->stream, e->at);
    return end();
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end_event)
{
    if (is_lost()) return lost;
    if (!start->stream || !end_event->stream || !start->timed || !end_event->timed)
        return cudaErrorInvalidResourceHandle;
    if (!event_done(start) || !event_done(end_event)) return cudaErrorNotReady;
    *ms = 0.001f;
    return cudaSuccess;
}

static bool is_device(const void *at)
{
    const struct block *b = memory_at(at);
    return b && b->kind == MEMORY_DEVICE;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t s)
{
    struct op op = {.kind = OP_COPY, .to = to, .from = from, .n = n};
    (void)kind;
    BEGIN(cudaErrorLaunchFailure, true);
    REFUSE_IF(!queue_has(s) || s->capturing, "a copy in a stream that is captured, or not there");
    const char *what = memory_complaint(to, n, true);
    REFUSE_IF(what, "a copy of %zu bytes writes to %s", n, what);
    what = memory_complaint(from, n, false);
    REFUSE_IF(what, "a copy of %zu bytes reads %s", n, what);
    if (is_device(from) && !is_device(to) && n > GPU_POST_BYTES) {
        pretend_sums.n_rests++;
        pretend_sums.n_fetched++;
        pretend_sums.fetched_bytes += n;
    }
    if (s != queue_first()) pretend_sums.n_sent++;
    s->in_list = false;
    queue_add(s, &op);
    return end();
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t s)
{
    struct op op = {.kind = OP_FILL, .to = to, .n = n, .until = (uint64_t)value};
    BEGIN(cudaErrorLaunchFailure, true);
    REFUSE_IF(!queue_has(s) || s->capturing, "memory is filled in a stream that is captured, or not there");
    const char *what = memory_complaint(to, n, true);
    REFUSE_IF(what, "%zu bytes are filled of %s", n, what);
    s->in_list = false;
    queue_add(s, &op);
    return end();
}

static void note_launch(struct CUstream_st *s, const struct launch *l, bool replayed)
{
    uint64_t digest = pretend_sums.digest * 31 + hash_u64(l->kernel->name, strlen(l->kernel->name));
    digest = digest * 31 + hash_u64(l->record, l->kernel->record_bytes);
    digest = digest * 31 + hash_u64(l->refs, (size_t)(l->kernel->n_params - 1) * sizeof *l->refs);
    pretend_sums.digest = digest * 31 + hash_u64(l->grid, sizeof l->grid);
    pretend_sums.n_launches++;
    pretend_sums.n_early += l->early;
    if (!replayed && !s->in_list) pretend_sums.n_lists++;
    if (!replayed) s->in_list = true;
}

static void add_to(struct CUgraph_st *graph, const struct launch *l)
{
    if (graph->n == graph->cap) {
        graph->cap = graph->cap ? graph->cap * 2 : 64;
        graph->launches = realloc(graph->launches, graph->cap * sizeof *l);
        if (!graph->launches) abort();
    }
    graph->launches[graph->n++] = *l;
}

/* NULL: the attributes of a launch are as they may be. */
static const char *read_attributes(const cudaLaunchConfig_t *config, bool follows_kernel, bool *early)
{
    for (unsigned i = 0; i < config->numAttrs; i++) {
        if (config->attrs[i].id != cudaLaunchAttributeProgrammaticStreamSerialization)
            return "an attribute that is not known here";
        *early = config->attrs[i].val.programmaticStreamSerializationAllowed != 0;
    }
    if (*early && pretend_now.major && pretend_now.major < 9) return "launched early on a device that cannot";
    return *early && !follows_kernel ? "launched early, and does not follow a kernel" : NULL;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *fn, void **args)
{
    struct op op = {.kind = OP_LAUNCH};
    struct launch *l = &op.launch;
    const dim3 grid = config->gridDim, threads = config->blockDim;
    cudaStream_t s = config->stream;
    BEGIN(cudaErrorLaunchFailure, true);
    REFUSE_IF(!queue_has(s), "a kernel in a stream that is not there");
    l->kernel = fn;
    REFUSE_IF(threads.y != 1 || threads.z != 1 || config->dynamicSmemBytes, "kernel %s: a shape that none has",
              l->kernel->name);
    const char *what = read_attributes(config, s->capturing ? s->capturing->n > 0 : s->in_list, &l->early);
    REFUSE_IF(what, "kernel %s: %s", l->kernel->name, what);
    if (threads.x == 0 || threads.x > (unsigned)l->kernel->max_threads || !grid.x || !grid.y || !grid.z ||
        grid.y > 65535 || grid.z > 65535 || grid.x > 0x7FFFFFFF)
        return cudaErrorInvalidValue;
    memcpy(l->grid, (unsigned[3]){grid.x, grid.y, grid.z}, sizeof l->grid);
    l->n_threads = threads.x;
    REFUSE_IF(l->kernel->record_bytes > sizeof l->record, "kernel %s: a record too large", l->kernel->name);
    memcpy(l->record, args[0], l->kernel->record_bytes);
    for (int i = 1; i < l->kernel->n_params; i++) memcpy(&l->refs[i - 1], args[i], sizeof l->refs[0]);
    if (s->capturing) {
        add_to(s->capturing, l);
        return end();
    }
    what = kernel_complaint(l);
    REFUSE_IF(what, "%s", what);
    note_launch(s, l, false);
    queue_add(s, &op);
    return end();
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    (void)mode;
    BEGIN(cudaErrorMemoryAllocation, false);
    REFUSE_IF(!queue_has(s) || s->capturing, "a stream that is captured, or not there, is to be captured");
    s->capturing = calloc(1, sizeof *s->capturing);
    if (!s->capturing) abort();
    n_graphs++;
    return end();
}

static void free_graph(struct CUgraph_st *graph)
{
    free(graph->launches);
    free(graph);
    n_graphs--;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    *graph = NULL;
    if (!queue_has(s) || !s->capturing) complain("the end of a capture that was not begun");
    cudaError_t status = begin(cudaErrorMemoryAllocation, false);
    if (queue_has(s) && s->capturing && status != cudaSuccess) free_graph(s->capturing);
    else if (!is_lost()) *graph = s->capturing;
    if (queue_has(s)) s->capturing = NULL;
    return status;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    BEGIN(cudaErrorMemoryAllocation, false);
    *exec = calloc(1, sizeof **exec);
    if (!*exec) abort();
    for (uint64_t i = 0; i < graph->n; i++) add_to(&(*exec)->own, &graph->launches[i]);
    n_graphs++;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    BEGIN(cudaErrorLaunchFailure, true);
    REFUSE_IF(!queue_has(s) || s->capturing, "a graph in a stream that is captured, or not there");
    for (uint64_t i = 0; i < exec->own.n; i++) {
        const char *what = kernel_complaint(&exec->own.launches[i]);
        REFUSE_IF(what, "in a graph: %s", what);
    }
    pretend_sums.n_lists++;
    pretend_sums.n_replayed++;
    s->in_list = false;
    exec->stream = s;
    exec->until = s->n_given + exec->own.n;
    for (uint64_t i = 0; i < exec->own.n && !is_lost(); i++) {
        struct op op = {.kind = OP_LAUNCH, .launch = exec->own.launches[i]};
        note_launch(s, &op.launch, true);
        queue_add(s, &op);
    }
    return end();
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    free_graph(graph);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    bool busy = exec->stream && !queue_done(exec->stream, exec->until);
    free(exec->own.launches);
    free(exec);
    n_graphs--;
    REFUSE_IF(busy, "a graph is destroyed while it runs");
    return end();
}
