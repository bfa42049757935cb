/* gpu.h - what a device must offer to run kernels: buffers, pipelines, lists of dispatches. Plain C; a host is one
 * implementation (emulator, CUDA, Metal) as a table of functions, and a program may hold several. All calls come from
 * one thread. Functions that can fail return false or NULL, and error() has the sentence.
 *
 * Dispatches run in the order they are given; those between overlap(true) and overlap(false) may run at the same time
 * and must not depend on each other. A list begins with the first dispatch after a submit. */
#ifndef DS4_GPU_GPU_H
#define DS4_GPU_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GPU_REFS_MAX 30 /* buffers of a dispatch; the record is one more */

/* How a kernel follows the one before it in a list: it begins when that one has ended, or with GPU_LAUNCH_EARLY is on
 * the device by then and waits there. */
enum { GPU_LAUNCH_PLAIN = 0, GPU_LAUNCH_EARLY = 1 };

#define GPU_POSTS_MAX 4
#define GPU_POST_BYTES 512

struct gpu;
struct gpu_buffer;
struct gpu_pipe;

/* A part of a buffer; a kernel touches nothing outside of it. */
struct gpu_ref {
    struct gpu_buffer *buffer;
    uint64_t offset, bytes;
};

struct gpu_info {
    char name[64];
    char driver[96]; /* and whatever else its maker would ask for; "" when nothing is known */
    uint64_t memory_bytes, free_bytes, buffer_bytes_max;
    bool own_memory; /* apart from the host's, which is read over a bus */
};

struct gpu_host {
    const char *name;
    /* NULL: no device; why is filled. */
    struct gpu *(*open)(char *why, size_t why_size);
    void (*close)(struct gpu *g);
    const char *(*error)(const struct gpu *g); /* of the first failure */
    void (*info)(const struct gpu *g, struct gpu_info *out);

    /* GPU_LAUNCH_PLAIN to begin with. False: the device cannot. NULL: there is no other. */
    bool (*launch)(struct gpu *g, unsigned how);

    /* Zero-filled memory of the device; the host has its bytes by read and write. */
    struct gpu_buffer *(*alloc)(struct gpu *g, uint64_t bytes);
    /* Read-only memory of the host that outlives the buffer, page-aligned unless it is copied. A device with memory of
     * its own copies it there when near, else reads it over its bus; others use it in place. */
    struct gpu_buffer *(*wrap)(struct gpu *g, const void *memory, uint64_t bytes, bool near);
    /* True when a buffer that was wrapped is a copy of the device's own, which may be changed. NULL: none is. */
    bool (*is_copy)(const struct gpu_buffer *buffer);
    /* Waits for the lists that were submitted; one that is being made must not name the buffer. */
    void (*free)(struct gpu *g, struct gpu_buffer *buffer);
    /* Stands for the first byte, as no other address in the process does. The host may not be able to look there. */
    void *(*address)(const struct gpu_buffer *buffer);
    /* In order with dispatches. from and to of read and write are host memory. */
    bool (*write)(struct gpu *g, struct gpu_buffer *to, uint64_t offset, const void *from, uint64_t bytes);
    bool (*read)(struct gpu *g, void *to, const struct gpu_buffer *from, uint64_t offset, uint64_t bytes);
    bool (*copy)(struct gpu *g, struct gpu_ref to, struct gpu_ref from); /* to.bytes */

    /* Copies beside the dispatches, by way of memory of the host that prepare_sends takes once: the device fetches one
     * while kernels run and the host makes the next ready. A copy begins when what was dispatched before its mark is
     * done (0: at once), and from is the caller's again when send returns. What is dispatched after arrive comes after
     * all that was sent. NULL, all four: writing is as good. */
    bool (*prepare_sends)(struct gpu *g, uint64_t bytes);
    uint64_t (*mark)(struct gpu *g);
    bool (*send)(struct gpu *g, struct gpu_ref to, const void *from, uint64_t mark);
    bool (*arrive)(struct gpu *g);

    /* A few bytes on their way to the host, as they are after the dispatches so far: post submits these and does not
     * wait; collect waits for the first post that was not collected, not for what was dispatched after it. The bytes
     * must stay as they are until then. At most GPU_POSTS_MAX at a time, of GPU_POST_BYTES at most. */
    bool (*post)(struct gpu *g, struct gpu_ref from);
    bool (*collect)(struct gpu *g, void *to, uint64_t bytes);

    const struct gpu_pipe *(*pipe)(struct gpu *g, const char *kernel); /* NULL: there is none, or it does not build */
    bool (*dispatch)(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                     const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads);
    void (*overlap)(struct gpu *g, bool on);
    bool (*submit)(struct gpu *g);
    bool (*wait)(struct gpu *g); /* for everything submitted */
    double (*seconds)(const struct gpu *g); /* the device's time for the last list */
};

extern const struct gpu_host gpu_host_emu, gpu_host_cuda, gpu_host_metal; /* those in this build */

#ifdef __cplusplus
}
#endif

#endif
