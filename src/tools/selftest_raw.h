/* selftest_raw.h - a device below its backend (gpu/gpu.h): buffers and dispatches one by one, for the parts that look
 * at single kernels and at the host file. After a failure nothing more is done until it is closed. */
#ifndef DS4_TOOLS_SELFTEST_RAW_H
#define DS4_TOOLS_SELFTEST_RAW_H

#include "tools/selftest_ops.h"

#define RAW_BUFFERS_MAX 16

struct raw_device {
    struct ops_test *t;
    const struct gpu_host *host;
    struct gpu *gpu; /* NULL: there is none */
    struct gpu_buffer *buffers[RAW_BUFFERS_MAX];
    uint32_t n_buffers;
    bool failed;
    char why[512];
    const char *note; /* not failed: what is to be said; "" */
};
/* False when there is no device, as raw_why says. */
bool raw_open(struct raw_device *d, struct ops_test *t);
void raw_close(struct raw_device *d); /* with its buffers */
/* It failed for this reason, of which the first counts; returns false. */
bool raw_differs(struct raw_device *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Whether a call of the host file went well; else its error is the reason. */
bool raw_ok(struct raw_device *d, bool good, const char *what);

struct gpu_ref raw_alloc(struct raw_device *d, uint64_t bytes);
struct gpu_ref raw_wrap(struct raw_device *d, const void *memory, uint64_t bytes, bool near);
void raw_free_all(struct raw_device *d);
static inline struct gpu_ref raw_part(struct gpu_ref ref, uint64_t offset, uint64_t bytes)
{
    return (struct gpu_ref){ref.buffer, ref.offset + offset, bytes};
}
bool raw_write(struct raw_device *d, struct gpu_ref to, const void *from);
bool raw_read(struct raw_device *d, void *to, struct gpu_ref from);
bool raw_run(struct raw_device *d, const char *kernel, const void *record, size_t record_bytes,
             const struct gpu_ref *refs, int n_refs, uint32_t n_groups, uint32_t n_threads);
/* Submits, waits; seconds of the last list. */
double raw_wait(struct raw_device *d);

#endif
