/* metal.m - a pretend Metal: the classes behind the declarations of include/, with dispatches run by the emulator, so
 * that host_metal.m runs on Linux. It is fussy on purpose: what Metal's validation would refuse aborts here, and every
 * list is concurrent, so that a missing barrier is reported. What a list holds is done some time between its commit and
 * the wait for it; and any call that may fail does when a test says so. See pretend_metal.h. */
#import <Metal/Metal.h>

#include <objc/runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge.h"

#define DIE(...) \
    do { \
        (void)fprintf(stderr, "pretend Metal: " __VA_ARGS__); \
        (void)fputc('\n', stderr); \
        abort(); \
    } while (0)

static int n_objects; /* alive */
int pretend_metal_n_alive(void) { return n_objects; }

@implementation NSObject
static id *pooled;
static int n_pooled, cap_pooled, marks[64], n_marks;
+ (id)alloc
{
    NSObject *o = class_createInstance(self, 0);
    o->_n_owners = 1;
    n_objects++;
    return o;
}
+ (id)new { return [[self alloc] init]; }
- (id)init { return self; }
- (id)retain
{
    _n_owners++;
    return self;
}
- (oneway void)release
{
    if (_n_owners == 0) DIE("released once too often");
    if (--_n_owners == 0) [self dealloc];
}
- (void)dealloc
{
    n_objects--;
    object_dispose(self);
}
- (id)autorelease
{
    if (n_marks == 0) DIE("autoreleased without a pool");
    if (n_pooled == cap_pooled) {
        cap_pooled = cap_pooled ? cap_pooled * 2 : 64;
        pooled = realloc(pooled, sizeof(id) * (size_t)cap_pooled);
    }
    pooled[n_pooled++] = self;
    return self;
}
@end

@implementation NSAutoreleasePool
- (id)init
{
    marks[n_marks++] = n_pooled;
    return self;
}
- (void)drain
{
    int mark = marks[--n_marks];
    while (n_pooled > mark) [pooled[--n_pooled] release];
    [self release];
}
@end

@implementation NSString
+ (NSString *)stringWithUTF8String:(const char *)text
{
    NSString *s = [NSString new];
    s->_text = strdup(text);
    return [s autorelease];
}
- (const char *)UTF8String { return _text; }
- (void)dealloc
{
    free(_text);
    [super dealloc];
}
@end

@implementation NSError
- (NSString *)localizedDescription { return [NSString stringWithUTF8String:_why]; }
@end

/* An error that is the caller's pool's. */
static NSError *error_of(const char *why)
{
    NSError *error = [NSError new];
    error->_why = why;
    return [error autorelease];
}

/* Whether a call that has a place for an error fails now. */
static BOOL fails(NSError **error, const char *why)
{
    if (!bridge_fails()) return NO;
    if (error) *error = error_of(why);
    return YES;
}

@implementation MTLCompileOptions
@synthesize mathMode;
@end
@implementation MTLResidencySetDescriptor
@synthesize initialCapacity;
@end

@interface PretendBuffer : NSObject <MTLBuffer> {
@public
    char *first;
    NSUInteger size;
    BOOL owned, resident;
}
@end
static BOOL is_used(const PretendBuffer *buffer);
@implementation PretendBuffer
- (void *)contents { return first; }
- (NSUInteger)length { return size; }
- (void)dealloc
{
    if (is_used(self)) DIE("a buffer is released while a list uses it");
    if (owned) free(first);
    [super dealloc];
}
@end

@interface PretendFunction : NSObject <MTLFunction> {
@public
    const char *name;
}
@end
@implementation PretendFunction
@end

@interface PretendPipe : NSObject <MTLComputePipelineState> {
@public
    const char *name;
    int max_threads;
}
@end
@implementation PretendPipe
- (NSUInteger)maxTotalThreadsPerThreadgroup { return bridge_fails() ? 32 : (NSUInteger)max_threads; }
- (NSUInteger)threadExecutionWidth { return bridge_fails() ? 16 : 32; }
@end

@interface PretendLibrary : NSObject <MTLLibrary>
@end
@implementation PretendLibrary
- (id<MTLFunction>)newFunctionWithName:(NSString *)name
{
    int max_threads;
    const char *known = bridge_kernel([name UTF8String], &max_threads);
    if (!known || bridge_fails()) return nil;
    PretendFunction *f = [PretendFunction new];
    f->name = known;
    return f;
}
@end

@interface PretendResidency : NSObject <MTLResidencySet> {
    PretendBuffer *waiting[256];
    int n_waiting;
}
@end
@implementation PretendResidency
- (void)addAllocation:(id<MTLAllocation>)allocation
{
    if (n_waiting == 256) DIE("too many buffers were added without a commit");
    waiting[n_waiting++] = (PretendBuffer *)allocation;
}
- (void)removeAllocation:(id<MTLAllocation>)allocation
{
    for (int i = 0; i < n_waiting; i++)
        if (waiting[i] == (PretendBuffer *)allocation) waiting[i] = waiting[--n_waiting];
    ((PretendBuffer *)allocation)->resident = NO;
}
- (void)commit
{
    for (int i = 0; i < n_waiting; i++) waiting[i]->resident = YES;
    n_waiting = 0;
}
- (void)requestResidency {}
- (void)endResidency {}
@end

/* A dispatch that was given, or a barrier. */
struct given {
    PretendPipe *pipe; /* nil: a barrier */
    unsigned grid[3], n_threads;
    int n_bindings;
    struct bridge_binding bindings[31]; /* the first is the record, a copy */
    PretendBuffer *buffers[31];
};

@interface PretendEncoder : NSObject <MTLComputeCommandEncoder> {
@public
    struct given next, *given;
    int n_given, cap;
    char record[4096];
    BOOL ended;
}
@end
@implementation PretendEncoder
- (struct given *)add
{
    if (ended) DIE("a dispatch or a barrier after endEncoding");
    if (n_given == cap) {
        cap = cap ? cap * 2 : 64;
        given = realloc(given, sizeof *given * (size_t)cap);
    }
    return &given[n_given++];
}
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state
{
    memset(&next, 0, sizeof next);
    next.pipe = (PretendPipe *)state;
}
- (void)setBuffer:(id<MTLBuffer>)made offset:(NSUInteger)offset atIndex:(NSUInteger)index
{
    PretendBuffer *buffer = (PretendBuffer *)made;
    if (index > 30) DIE("buffer index %lu", index);
    if (!buffer) DIE("no buffer at index %lu", index);
    if (offset >= buffer->size) DIE("offset %lu of a buffer of %lu bytes", offset, buffer->size);
    if (offset % 4) DIE("offset %lu is not a multiple of 4", offset);
    if (!buffer->resident) DIE("buffer %lu is not resident", index);
    next.bindings[index] = (struct bridge_binding){buffer->first + offset, buffer->size - offset};
    next.buffers[index] = buffer;
    if ((int)index >= next.n_bindings) next.n_bindings = (int)index + 1;
}
- (void)setBytes:(const void *)bytes length:(NSUInteger)length atIndex:(NSUInteger)index
{
    if (length > sizeof record) DIE("%lu bytes for setBytes", length);
    if (index != 0) DIE("a record at index %lu", index);
    memcpy(record, bytes, length);
    next.bindings[0] = (struct bridge_binding){record, length};
    if (next.n_bindings == 0) next.n_bindings = 1;
}
- (void)dispatchThreadgroups:(MTLSize)groups threadsPerThreadgroup:(MTLSize)threads
{
    if (!next.pipe) DIE("a dispatch without a pipeline");
    if (threads.height != 1 || threads.depth != 1) DIE("a threadgroup that is not one-dimensional");
    if (groups.width == 0 || groups.height == 0 || groups.depth == 0) DIE("an empty grid");
    if (next.n_bindings == 0 || !next.bindings[0].ptr) DIE("a dispatch without a record");
    next.grid[0] = (unsigned)groups.width;
    next.grid[1] = (unsigned)groups.height;
    next.grid[2] = (unsigned)groups.depth;
    next.n_threads = (unsigned)threads.width;
    bridge_given(next.pipe->name, next.grid, next.bindings, next.n_bindings);
    struct given *g = [self add];
    *g = next;
    g->bindings[0].ptr = malloc(g->bindings[0].bytes);
    memcpy(g->bindings[0].ptr, record, g->bindings[0].bytes);
}
- (void)memoryBarrierWithScope:(MTLBarrierScope)scope
{
    (void)scope;
    *[self add] = (struct given){0};
}
- (void)endEncoding
{
    if (ended) DIE("endEncoding twice");
    ended = YES;
}
/* NULL, or the rule that was broken. */
- (const char *)run
{
    const char *why = NULL;
    bridge_list(true);
    for (int i = 0; i < n_given; i++) {
        struct given *g = &given[i];
        const char *now = NULL;
        if (!g->pipe) bridge_barrier();
        else now = bridge_launch(g->pipe->name, g->grid, g->n_threads, g->bindings, g->n_bindings);
        if (!why) why = now;
    }
    bridge_list(false);
    return why;
}
- (void)dealloc
{
    for (int i = 0; i < n_given; i++) free(given[i].bindings[0].ptr);
    free(given);
    [super dealloc];
}
@end

/* Lists of a queue that were committed may all run at once, unless one waits for what the one before signals at its
 * end. */
@interface PretendQueue : NSObject <MTLCommandQueue> {
@public
    unsigned n_committed, n_completed; /* completed: so far as the host can know */
}
@end

@interface PretendEvent : NSObject <MTLEvent> {
@public
    uint64_t promised; /* by committed lists */
    unsigned by;       /* the list that brings it there */
}
@end
@implementation PretendEvent
@end

@interface PretendCommands : NSObject <MTLCommandBuffer> {
@public
    PretendCommands *other; /* that is alive */
    PretendQueue *queue;
    PretendEncoder *encoder;
    PretendEvent *signals;
    const char *why; /* it failed */
    uint64_t value;
    unsigned number, after; /* lists from 1 on: this one; that it waits for */
    BOOL committed, done;
}
@end
static PretendCommands *alive; /* the last that was made first */

/* Lists of a queue up to a number are done, in order. */
static void do_until(const PretendQueue *queue, unsigned number)
{
    for (;;) {
        PretendCommands *first = nil;
        for (PretendCommands *c = alive; c; c = c->other) {
            if (c->queue != queue || !c->committed || c->done || c->number > number) continue;
            if (!first || c->number < first->number) first = c;
        }
        if (!first) return;
        first->done = YES;
        if (!first->why && first->encoder) first->why = [first->encoder run];
    }
}

static BOOL is_used(const PretendBuffer *buffer)
{
    for (PretendCommands *c = alive; c; c = c->other) {
        if (c->number && c->number <= c->queue->n_completed) continue;
        for (int i = 0; c->encoder && i < c->encoder->n_given; i++)
            for (int k = 1; k < c->encoder->given[i].n_bindings; k++)
                if (c->encoder->given[i].buffers[k] == buffer) return YES;
    }
    return NO;
}

@implementation PretendCommands
- (id)init
{
    other = alive;
    alive = self;
    return self;
}
- (void)encodeWaitForEvent:(id<MTLEvent>)event value:(uint64_t)wanted
{
    PretendEvent *e = (PretendEvent *)event;
    if (encoder && !encoder->ended) DIE("a wait for an event with an open encoder");
    if (e->promised < wanted) DIE("a wait for what no list signals");
    if (e->promised == wanted) after = e->by;
}
- (void)encodeSignalEvent:(id<MTLEvent>)event value:(uint64_t)given
{
    if (encoder && !encoder->ended) DIE("a signal with an open encoder");
    signals = (PretendEvent *)event;
    value = given;
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:(MTLDispatchType)type
{
    if (queue->n_committed > queue->n_completed && after != queue->n_committed)
        DIE("a list that may run beside the one before");
    if (type != MTLDispatchTypeConcurrent) DIE("an encoder that is not concurrent, which nothing here needs");
    if (bridge_fails()) return nil;
    encoder = [PretendEncoder new]; /* ours as well as the caller's, until the list is released */
    return [[encoder retain] autorelease];
}
- (void)commit
{
    if (encoder && !encoder->ended) DIE("a commit with an open encoder");
    if (committed) DIE("a commit of what was committed");
    committed = YES;
    number = ++queue->n_committed;
    if (bridge_fails()) why = "the device gave up";
    bridge_committed();
    if (signals && value <= signals->promised) DIE("an event that goes back");
    if (signals) {
        signals->promised = value;
        signals->by = number;
    }
    if (pretend_metal_now.lists == PRETEND_LISTS_EARLY) do_until(queue, number);
    if (pretend_metal_now.lists == PRETEND_LISTS_RANDOM)
        do_until(queue, number - bridge_below(number < 4 ? number + 1 : 4));
}
- (void)dealloc
{
    if (committed && number > queue->n_completed) DIE("a list was released while it runs");
    if (!committed && encoder && !encoder->ended) DIE("a list was released while it is made");
    if (alive == self) alive = other;
    for (PretendCommands *c = alive; c; c = c->other)
        if (c->other == self) c->other = other;
    [encoder release];
    [super dealloc];
}
- (void)waitUntilCompleted
{
    if (!committed) DIE("a wait before the commit");
    do_until(queue, number);
    if (number <= queue->n_completed) return;
    if (number == queue->n_committed) pretend_metal_sums.n_rests++;
    queue->n_completed = number;
}
- (MTLCommandBufferStatus)status { return why ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted; }
- (NSError *)error { return why ? error_of(why) : nil; }
- (CFTimeInterval)GPUStartTime { return 0; }
- (CFTimeInterval)GPUEndTime { return 1e-3; }
@end

@implementation PretendQueue
- (id<MTLCommandBuffer>)commandBufferWithUnretainedReferences
{
    if (bridge_fails()) return nil;
    PretendCommands *commands = [PretendCommands new];
    commands->queue = self;
    return [commands autorelease];
}
- (void)addResidencySet:(id<MTLResidencySet>)set { (void)set; }
- (void)dealloc
{
    for (PretendCommands *c = alive; c; c = c->other)
        if (c->queue == self) DIE("a queue is released before its lists");
    [super dealloc];
}
@end

@interface PretendDevice : NSObject <MTLDevice>
@end
@implementation PretendDevice
- (NSString *)name { return [NSString stringWithUTF8String:"pretend Apple GPU"]; }
- (NSUInteger)maxBufferLength
{
    return pretend_metal_now.buffer_bytes_max ? pretend_metal_now.buffer_bytes_max : 256ul << 20;
}
- (uint64_t)recommendedMaxWorkingSetSize { return 1ul << 32; }
- (BOOL)hasUnifiedMemory { return YES; }
- (BOOL)supportsFamily:(MTLGPUFamily)family { return family <= MTLGPUFamilyApple9 && !bridge_fails(); }
- (id<MTLCommandQueue>)newCommandQueue { return bridge_fails() ? nil : [PretendQueue new]; }
- (id<MTLEvent>)newEvent { return bridge_fails() ? nil : [PretendEvent new]; }
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options
{
    (void)options;
    if (length == 0 || length > [self maxBufferLength] || bridge_fails()) return nil;
    PretendBuffer *buffer = [PretendBuffer new];
    buffer->first = aligned_alloc(16384, (length + 16383) / 16384 * 16384);
    memset(buffer->first, 0xFF, length);
    buffer->size = length;
    buffer->owned = YES;
    return buffer;
}
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void *)bytes
                                   length:(NSUInteger)length
                                  options:(MTLResourceOptions)options
                              deallocator:(void (^)(void *bytes, NSUInteger length))deallocator
{
    (void)options;
    (void)deallocator;
    if ((uintptr_t)bytes % 4096) DIE("memory without copy that does not begin at a page");
    if (length % 16384) DIE("memory without copy of %lu bytes, not whole pages", length);
    if (length > [self maxBufferLength] || bridge_fails()) return nil;
    PretendBuffer *buffer = [PretendBuffer new];
    buffer->first = bytes;
    buffer->size = length;
    return buffer;
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString *)source options:(MTLCompileOptions *)options error:(NSError **)error
{
    (void)options;
    if (fails(error, "program_source:1:1: error: made up")) return nil;
    return strstr([source UTF8String], "KERNEL(attention_merge") ? [PretendLibrary new] : nil;
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)function error:(NSError **)error
{
    if (fails(error, "the compiler was interrupted")) return nil;
    PretendPipe *pipe = [PretendPipe new];
    pipe->name = bridge_kernel(((PretendFunction *)function)->name, &pipe->max_threads);
    return pipe;
}
- (id<MTLResidencySet>)newResidencySetWithDescriptor:(MTLResidencySetDescriptor *)descriptor error:(NSError **)error
{
    (void)descriptor;
    if (fails(error, "residency sets are not there")) return nil;
    return [PretendResidency new];
}
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void)
{
    pretend_metal_sums.n_opened++;
    return bridge_fails() ? nil : [PretendDevice new];
}
