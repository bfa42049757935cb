/* host_metal.m - Metal as a device. Shared storage without hazard tracking, one concurrent encoder a list with explicit
 * barriers, lists that wait for one another by an event, one residency set that holds all buffers; weights are used
 * where the mapped file lies. Needs macOS 15 and an M1 or later. Objects are retained and released by hand: they are
 * few, and the file then also runs on the GNU runtime against the pretend Metal of tests/gpu/pretend. */
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/mem.h"
#include "gpu/gpu.h"
#include "gpu/kernels/records.h"

extern const char gpu_kernel_text[]; /* prelude/metal.h and all kernels, joined by the build */

#define PIPES_MAX 160
#define LISTS_MAX 8   /* submitted and not waited for; a further one waits for the first of them */
#define PAGE ((uint64_t)16384)
#define LIST_MAX 4096 /* dispatches; a longer list goes in parts, because the system stops very long ones */

struct gpu_pipe {
    char name[48];
    id<MTLComputePipelineState> state;
};

struct gpu_buffer {
    id<MTLBuffer> buffer;
    uint64_t skip; /* bytes of the first page of wrapped memory that come before it */
};

struct metal_post {
    const char *from;
    uint64_t bytes, list; /* list: that must be done */
};

struct gpu {
    id<MTLDevice> device;
    id<MTLCommandQueue> queue;
    id<MTLLibrary> library;
    id<MTLResidencySet> resident;
    id<MTLEvent> order; /* its value: lists that are done */
    id<MTLCommandBuffer> commands;
    id<MTLComputeCommandEncoder> encoder; /* of the list being made; nil: there is none */
    id<MTLCommandBuffer> running[LISTS_MAX]; /* the first submitted first; the last is list n_lists */
    uint64_t n_lists;
    struct metal_post posts[GPU_POSTS_MAX];
    unsigned n_posts, n_collected;
    struct gpu_pipe pipes[PIPES_MAX];
    int n_pipes, n_dispatches, n_running;
    bool overlapping, resident_changed, failed;
    double seconds;
    char error[512];
};

static bool metal_fail(struct gpu *g, const char *what, NSError *error)
{
    const char *why = error ? [[error localizedDescription] UTF8String] : "";
    if (!g->failed) (void)snprintf(g->error, sizeof g->error, "%s%s%s", what, error ? ": " : "", why);
    g->failed = true;
    return false;
}

static bool metal_submit(struct gpu *g);
static bool metal_wait(struct gpu *g);

static void metal_close(struct gpu *g)
{
    (void)metal_submit(g);
    (void)metal_wait(g); /* whatever failed: lists that run are waited for and released */
    [g->order release];
    for (int i = 0; i < g->n_pipes; i++) [g->pipes[i].state release];
    [g->resident endResidency];
    [g->resident release];
    [g->library release];
    [g->queue release];
    [g->device release];
    mem_free(g);
}

static bool metal_set_up(struct gpu *g)
{
    NSError *error = nil;
    g->device = MTLCreateSystemDefaultDevice();
    if (!g->device || ![g->device supportsFamily:MTLGPUFamilyApple7])
        return metal_fail(g, "no Apple GPU of the M1 or later", nil);
    g->queue = [g->device newCommandQueue];
    MTLCompileOptions *options = [MTLCompileOptions new];
    options.mathMode = MTLMathModeSafe;
    g->library = [g->device newLibraryWithSource:[NSString stringWithUTF8String:gpu_kernel_text]
                                         options:options
                                           error:&error];
    [options release];
    if (!g->library) return metal_fail(g, "the kernels do not compile", error);
    MTLResidencySetDescriptor *descriptor = [MTLResidencySetDescriptor new];
    descriptor.initialCapacity = 64;
    g->resident = [g->device newResidencySetWithDescriptor:descriptor error:&error];
    [descriptor release];
    g->order = [g->device newEvent];
    if (!g->queue || !g->resident || !g->order) return metal_fail(g, "no queue, residency set or event", error);
    [g->queue addResidencySet:g->resident];
    return true;
}

static struct gpu *metal_open(char *why, size_t why_size)
{
    struct gpu *g = mem_zalloc(1, sizeof *g);
    if (!g) {
        (void)snprintf(why, why_size, "no memory");
        return NULL;
    }
    NSAutoreleasePool *pool = [NSAutoreleasePool new];
    bool good = metal_set_up(g);
    if (!good) {
        (void)snprintf(why, why_size, "%s", g->error);
        metal_close(g);
    }
    [pool drain];
    return good ? g : NULL;
}

static const char *metal_error_text(const struct gpu *g) { return g->error; }

static void metal_info(const struct gpu *g, struct gpu_info *out)
{
    NSAutoreleasePool *pool = [NSAutoreleasePool new];
    memset(out, 0, sizeof *out);
    (void)snprintf(out->name, sizeof out->name, "%.60s", [g->device.name UTF8String]);
    struct utsname system;
    if (uname(&system) >= 0)
        (void)snprintf(out->driver, sizeof out->driver, "%.20s %.30s %.20s", system.sysname, system.release,
                       system.machine);
    out->memory_bytes = g->device.recommendedMaxWorkingSetSize;
    out->buffer_bytes_max = g->device.maxBufferLength - PAGE; /* what is wrapped may begin in a page */
    [pool drain];
}

static struct gpu_buffer *make_buffer(struct gpu *g, id<MTLBuffer> made, uint64_t skip)
{
    struct gpu_buffer *buffer = made ? mem_zalloc(1, sizeof *buffer) : NULL;
    if (!buffer) {
        [made release];
        (void)metal_fail(g, "no memory for a buffer", nil);
        return NULL;
    }
    buffer->buffer = made;
    buffer->skip = skip;
    [g->resident addAllocation:made];
    g->resident_changed = true;
    return buffer;
}

static struct gpu_buffer *metal_alloc(struct gpu *g, uint64_t bytes)
{
    MTLResourceOptions options = MTLResourceStorageModeShared | MTLResourceHazardTrackingModeUntracked;
    id<MTLBuffer> made = [g->device newBufferWithLength:bytes options:options];
    if (made) memset([made contents], 0, bytes);
    return make_buffer(g, made, 0);
}

static struct gpu_buffer *metal_wrap(struct gpu *g, const void *memory, uint64_t bytes, bool near)
{
    (void)near;
    MTLResourceOptions options = MTLResourceStorageModeShared | MTLResourceHazardTrackingModeUntracked;
    /* Whole pages: the rest of the first and of the last one belong to the mapping. */
    const uint64_t skip = (uintptr_t)memory % PAGE, whole = (skip + bytes + PAGE - 1) / PAGE * PAGE;
    if (whole > g->device.maxBufferLength) {
        (void)metal_fail(g, "a part of the weights is larger than the largest buffer", nil);
        return NULL;
    }
    id<MTLBuffer> made = [g->device newBufferWithBytesNoCopy:(void *)((uintptr_t)memory - skip)
                                                      length:whole
                                                     options:options
                                                 deallocator:nil];
    return make_buffer(g, made, skip);
}

static void metal_free(struct gpu *g, struct gpu_buffer *buffer)
{
    if (!buffer) return;
    if (g->failed) (void)metal_submit(g); /* which drops the list */
    (void)metal_wait(g);                  /* lists do not retain what they use */
    [g->resident removeAllocation:buffer->buffer];
    g->resident_changed = true;
    [buffer->buffer release];
    mem_free(buffer);
}

static char *first_byte(const struct gpu_buffer *buffer) { return (char *)[buffer->buffer contents] + buffer->skip; }

static void *metal_address(const struct gpu_buffer *buffer) { return first_byte(buffer); }

/* Waits for lists up to a number. */
static bool metal_wait_for(struct gpu *g, uint64_t list)
{
    NSAutoreleasePool *pool = [NSAutoreleasePool new];
    int n_done = 0;
    while (n_done < g->n_running && g->n_lists - (uint64_t)(g->n_running - 1 - n_done) <= list) {
        id<MTLCommandBuffer> commands = g->running[n_done++];
        [commands waitUntilCompleted];
        if (commands.status != MTLCommandBufferStatusCompleted) (void)metal_fail(g, "a list failed", commands.error);
        g->seconds = commands.GPUEndTime - commands.GPUStartTime;
        [commands release];
    }
    g->n_running -= n_done;
    for (int i = 0; i < g->n_running; i++) g->running[i] = g->running[i + n_done];
    [pool drain];
    return !g->failed;
}

static bool metal_wait(struct gpu *g) { return metal_wait_for(g, g->n_lists); }

/* A buffer may have been made since the list was begun. */
static void make_resident(struct gpu *g)
{
    if (!g->resident_changed) return;
    [g->resident commit];
    [g->resident requestResidency];
    g->resident_changed = false;
}

static bool metal_begin(struct gpu *g)
{
    NSAutoreleasePool *pool = [NSAutoreleasePool new];
    g->commands = [[g->queue commandBufferWithUnretainedReferences] retain];
    if (g->n_running) [g->commands encodeWaitForEvent:g->order value:g->n_lists];
    g->encoder = [[g->commands computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent] retain];
    [pool drain];
    g->n_dispatches = 0;
    if (g->encoder) return true;
    [g->commands release];
    return metal_fail(g, "no list of commands, or no encoder for it", nil);
}

static bool metal_submit(struct gpu *g)
{
    if (!g->encoder) return !g->failed;
    [g->encoder endEncoding];
    [g->encoder release];
    g->encoder = nil;
    if (g->failed) { /* a list that is not whole is not run */
        [g->commands release];
        return false;
    }
    if (g->n_running == LISTS_MAX) (void)metal_wait_for(g, g->n_lists - (LISTS_MAX - 1));
    [g->commands encodeSignalEvent:g->order value:++g->n_lists];
    [g->commands commit];
    g->running[g->n_running++] = g->commands;
    return !g->failed;
}

static bool metal_settle(struct gpu *g) { return metal_submit(g) && metal_wait(g); }

static bool metal_write(struct gpu *g, struct gpu_buffer *to, uint64_t offset, const void *from, uint64_t bytes)
{
    if (!metal_settle(g)) return false;
    memcpy(first_byte(to) + offset, from, bytes);
    return true;
}

static bool metal_read(struct gpu *g, void *to, const struct gpu_buffer *from, uint64_t offset, uint64_t bytes)
{
    if (!metal_settle(g)) return false;
    memcpy(to, first_byte(from) + offset, bytes);
    return true;
}

static bool metal_post(struct gpu *g, struct gpu_ref from)
{
    if (from.bytes > GPU_POST_BYTES || g->n_posts - g->n_collected == GPU_POSTS_MAX)
        return metal_fail(g, "too much is on its way to the host", nil);
    if (!metal_submit(g)) return false;
    g->posts[g->n_posts++ % GPU_POSTS_MAX] =
        (struct metal_post){first_byte(from.buffer) + from.offset, from.bytes, g->n_lists};
    return true;
}

static bool metal_collect(struct gpu *g, void *to, uint64_t bytes)
{
    const struct metal_post *post = &g->posts[g->n_collected % GPU_POSTS_MAX];
    if (g->n_posts == g->n_collected || bytes > post->bytes)
        return metal_fail(g, "nothing is on its way to the host", nil);
    if (!metal_wait_for(g, post->list)) return false;
    memcpy(to, post->from, bytes);
    g->n_collected++;
    return true;
}

static bool kernel_failed(struct gpu *g, const char *name, const char *why, NSError *error)
{
    char what[128];
    (void)snprintf(what, sizeof what, "kernel %.48s: %s", name, why);
    return metal_fail(g, what, error);
}

static const struct gpu_pipe *metal_pipe(struct gpu *g, const char *name)
{
    for (int i = 0; i < g->n_pipes; i++)
        if (strcmp(g->pipes[i].name, name) == 0) return &g->pipes[i];
    if (g->n_pipes == PIPES_MAX) {
        (void)kernel_failed(g, name, "too many kernels", nil);
        return NULL;
    }
    NSAutoreleasePool *pool = [NSAutoreleasePool new];
    NSError *error = nil;
    struct gpu_pipe *pipe = NULL;
    id<MTLFunction> function = [g->library newFunctionWithName:[NSString stringWithUTF8String:name]];
    id<MTLComputePipelineState> state =
        function ? [g->device newComputePipelineStateWithFunction:function error:&error] : nil;
    if (!state) {
        (void)kernel_failed(g, name, function ? "no pipeline" : "there is none", error);
    } else if (state.threadExecutionWidth != 32) {
        (void)kernel_failed(g, name, "simdgroups are not of 32 threads", nil);
        [state release];
    } else {
        pipe = &g->pipes[g->n_pipes++];
        (void)snprintf(pipe->name, sizeof pipe->name, "%s", name);
        pipe->state = state;
    }
    [function release];
    [pool drain];
    return pipe;
}

static bool metal_dispatch(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                           const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads)
{
    if (g->failed) return false;
    if (g->encoder && g->n_dispatches == LIST_MAX && !g->overlapping && !metal_submit(g)) return false;
    if (!g->encoder && !metal_begin(g)) return false;
    if (n_threads > pipe->state.maxTotalThreadsPerThreadgroup)
        return kernel_failed(g, pipe->name, "the device runs fewer threads of it than a threadgroup has", nil);
    make_resident(g);
    [g->encoder setComputePipelineState:pipe->state];
    [g->encoder setBytes:record length:record_bytes atIndex:0];
    for (int i = 0; i < n_refs; i++)
        [g->encoder setBuffer:refs[i].buffer->buffer
                       offset:refs[i].buffer->skip + refs[i].offset
                      atIndex:(NSUInteger)i + 1];
    [g->encoder dispatchThreadgroups:MTLSizeMake(grid[0], grid[1], grid[2])
               threadsPerThreadgroup:MTLSizeMake(n_threads, 1, 1)];
    if (!g->overlapping) [g->encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
    g->n_dispatches++;
    return true;
}

/* A dispatch among others: the host need not wait, and an encoder for copies would end the one for kernels. */
static bool metal_copy(struct gpu *g, struct gpu_ref to, struct gpu_ref from)
{
    struct elements_record record = {.n = (uint32_t)(to.bytes / 4)};
    const struct gpu_pipe *pipe = metal_pipe(g, "copy_words");
    const struct gpu_ref refs[] = {{from.buffer, from.offset, to.bytes}, to};
    const unsigned grid[] = {(record.n + 255) / 256, 1, 1};
    if ((to.bytes | to.offset | from.offset) % 4 || to.bytes / 4 > UINT32_MAX - 255)
        return metal_fail(g, "a copy of what is no words, or too many", nil);
    return pipe && (!record.n || metal_dispatch(g, pipe, &record, sizeof record, refs, 2, grid, 256));
}

static void metal_overlap(struct gpu *g, bool on)
{
    if (!on && g->overlapping && g->encoder) [g->encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
    g->overlapping = on;
}

static double metal_seconds(const struct gpu *g) { return g->seconds; }

const struct gpu_host gpu_host_metal = {
    .name = "metal", .open = metal_open, .close = metal_close, .error = metal_error_text, .info = metal_info,
    .alloc = metal_alloc, .wrap = metal_wrap, .free = metal_free, .address = metal_address, .write = metal_write,
    .read = metal_read, .copy = metal_copy, .post = metal_post,
    .collect = metal_collect, .pipe = metal_pipe, .dispatch = metal_dispatch, .overlap = metal_overlap,
    .submit = metal_submit, .wait = metal_wait, .seconds = metal_seconds,
};
