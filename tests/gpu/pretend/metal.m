/* metal.m - a pretend Metal: the classes behind the declarations of include/, with dispatches run by the emulator, so
 * that host_metal.m runs on Linux. It is fussy on purpose: what Metal's validation would refuse aborts here, and every
 * list is concurrent, so that a missing barrier is reported. */
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

int pretend_n_objects; /* alive */

@implementation NSObject
static id *pooled;
static int n_pooled, cap_pooled, marks[64], n_marks;
+ (id)alloc
{
    NSObject *o = class_createInstance(self, 0);
    o->_n_owners = 1;
    pretend_n_objects++;
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
    pretend_n_objects--;
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
- (NSString *)localizedDescription { return [NSString stringWithUTF8String:bridge_error()]; }
@end

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
@implementation PretendBuffer
- (void *)contents { return first; }
- (NSUInteger)length { return size; }
- (void)dealloc
{
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
- (NSUInteger)maxTotalThreadsPerThreadgroup { return (NSUInteger)max_threads; }
- (NSUInteger)threadExecutionWidth { return 32; }
@end

@interface PretendLibrary : NSObject <MTLLibrary>
@end
@implementation PretendLibrary
- (id<MTLFunction>)newFunctionWithName:(NSString *)name
{
    int max_threads;
    const char *known = bridge_kernel([name UTF8String], &max_threads);
    if (!known) return nil;
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

@interface PretendEncoder : NSObject <MTLComputeCommandEncoder> {
@public
    PretendPipe *pipe;
    struct bridge_binding bindings[31];
    int n_bindings;
    char record[4096];
    BOOL ended;
}
@end
@implementation PretendEncoder
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state
{
    pipe = (PretendPipe *)state;
    n_bindings = 0;
}
- (void)setBuffer:(id<MTLBuffer>)given offset:(NSUInteger)offset atIndex:(NSUInteger)index
{
    PretendBuffer *buffer = (PretendBuffer *)given;
    if (index > 30) DIE("buffer index %lu", index);
    if (!buffer) DIE("no buffer at index %lu", index);
    if (offset >= buffer->size) DIE("offset %lu of a buffer of %lu bytes", offset, buffer->size);
    if (offset % 4) DIE("offset %lu is not a multiple of 4", offset);
    if (!buffer->resident) DIE("buffer %lu is not resident", index);
    bindings[index].ptr = buffer->first + offset;
    bindings[index].bytes = buffer->size - offset;
    if ((int)index >= n_bindings) n_bindings = (int)index + 1;
}
- (void)setBytes:(const void *)bytes length:(NSUInteger)length atIndex:(NSUInteger)index
{
    if (length > sizeof record) DIE("%lu bytes for setBytes", length);
    memcpy(record, bytes, length);
    bindings[index].ptr = record;
    bindings[index].bytes = length;
    n_bindings = (int)index + 1;
}
- (void)dispatchThreadgroups:(MTLSize)groups threadsPerThreadgroup:(MTLSize)threads
{
    const unsigned grid[3] = {(unsigned)groups.width, (unsigned)groups.height, (unsigned)groups.depth};
    if (ended) DIE("a dispatch after endEncoding");
    if (!pipe) DIE("a dispatch without a pipeline");
    if (threads.height != 1 || threads.depth != 1) DIE("a threadgroup that is not one-dimensional");
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) DIE("an empty grid");
    bridge_launch(pipe->name, grid, (unsigned)threads.width, bindings, n_bindings);
}
- (void)memoryBarrierWithScope:(MTLBarrierScope)scope
{
    (void)scope;
    bridge_barrier();
}
- (void)endEncoding
{
    if (ended) DIE("endEncoding twice");
    ended = YES;
    bridge_list(false);
}
@end

/* Lists that were committed may all run at once, unless one waits for what the one before signals at its end. */
static unsigned n_committed, n_completed;

@interface PretendEvent : NSObject <MTLEvent> {
@public
    uint64_t promised; /* by committed lists */
    unsigned by;       /* the list that brings it there */
}
@end
@implementation PretendEvent
@end

@interface PretendCommands : NSObject <MTLCommandBuffer> {
    PretendEncoder *encoder;
    PretendEvent *signals;
    uint64_t value;
    unsigned number, after; /* lists from 1 on: this one; that it waits for */
    BOOL committed;
}
@end
@implementation PretendCommands
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
    if (n_committed > n_completed && after != n_committed) DIE("a list that may run beside the one before");
    if (type == MTLDispatchTypeConcurrent) bridge_list(true);
    encoder = [PretendEncoder new];
    return [encoder autorelease];
}
- (void)commit
{
    if (encoder && !encoder->ended) DIE("a commit with an open encoder");
    committed = YES;
    number = ++n_committed;
    if (!signals) return;
    if (value <= signals->promised) DIE("an event that goes back");
    signals->promised = value;
    signals->by = number;
}
- (void)dealloc
{
    if (committed && number > n_completed) DIE("a list was released while it runs");
    [super dealloc];
}
- (void)waitUntilCompleted
{
    if (!committed) DIE("a wait before the commit");
    if (number > n_completed) n_completed = number;
}
- (MTLCommandBufferStatus)status
{
    return bridge_error() ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
}
- (NSError *)error { return bridge_error() ? [[NSError new] autorelease] : nil; }
- (CFTimeInterval)GPUStartTime { return 0; }
- (CFTimeInterval)GPUEndTime { return 1e-3; }
@end

@interface PretendQueue : NSObject <MTLCommandQueue>
@end
@implementation PretendQueue
- (id<MTLCommandBuffer>)commandBufferWithUnretainedReferences { return [[PretendCommands new] autorelease]; }
- (void)addResidencySet:(id<MTLResidencySet>)set { (void)set; }
@end

@interface PretendDevice : NSObject <MTLDevice>
@end
@implementation PretendDevice
- (NSString *)name { return [NSString stringWithUTF8String:"pretend Apple GPU"]; }
- (NSUInteger)maxBufferLength { return 64ul << 20; }
- (uint64_t)recommendedMaxWorkingSetSize { return 1ul << 32; }
- (BOOL)hasUnifiedMemory { return YES; }
- (BOOL)supportsFamily:(MTLGPUFamily)family { return family <= MTLGPUFamilyApple9; }
- (id<MTLCommandQueue>)newCommandQueue { return [PretendQueue new]; }
- (id<MTLEvent>)newEvent { return [PretendEvent new]; }
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options
{
    (void)options;
    if (length == 0 || length > [self maxBufferLength]) return nil;
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
    PretendBuffer *buffer = [PretendBuffer new];
    buffer->first = bytes;
    buffer->size = length;
    return buffer;
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString *)source options:(MTLCompileOptions *)options error:(NSError **)error
{
    (void)options;
    (void)error;
    return strstr([source UTF8String], "KERNEL(attention_merge") ? [PretendLibrary new] : nil;
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)function error:(NSError **)error
{
    (void)error;
    PretendPipe *pipe = [PretendPipe new];
    pipe->name = bridge_kernel(((PretendFunction *)function)->name, &pipe->max_threads);
    return pipe;
}
- (id<MTLResidencySet>)newResidencySetWithDescriptor:(MTLResidencySetDescriptor *)descriptor error:(NSError **)error
{
    (void)descriptor;
    (void)error;
    return [PretendResidency new];
}
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void) { return [PretendDevice new]; }
