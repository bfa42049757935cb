/* backend.h - the backend of operations on a GPU, over any host of gpu.h. One C function an operation picks kernels,
 * fills records and sizes grids; grids depend on shapes and limits only, never on positions, so the list of dispatches
 * of a decode step is the same for every token. */
#ifndef DS4_GPU_BACKEND_H
#define DS4_GPU_BACKEND_H

#include "gpu/gpu.h"
#include "ops/backend.h"

/* DS4_ERR_UNSUPPORTED with the reason when there is no device. The pool is not used. */
enum ds4_status backend_gpu_create(const struct gpu_host *host, struct thread_pool *pool,
                                   const struct backend_limits *limits, struct backend **out,
                                   struct ds4_error *error) DS4_MUST_CHECK;
/* The same on a device that is open already, which is the backend's from now on and closed when this fails. */
enum ds4_status backend_gpu_create_on(const struct gpu_host *host, struct gpu *device, struct thread_pool *pool,
                                      const struct backend_limits *limits, struct backend **out,
                                      struct ds4_error *error) DS4_MUST_CHECK;

const char *backend_gpu_device(const struct backend *b); /* name of the device; borrows */

/* Streamed experts (op_weight.stacks) are copied to the device when they are used: room for as many as one pass over
 * some rows names, of expert_bytes each (all matrices of one); on the way through pinned memory of the machine. */
uint64_t backend_gpu_stage_bytes(uint32_t n_experts, uint32_t n_used, uint32_t n_rows, uint64_t expert_bytes);
uint64_t backend_gpu_pinned_bytes(uint64_t stage_bytes);
enum ds4_status backend_gpu_stage(struct backend *b, uint32_t n_experts, uint32_t n_used, uint32_t n_rows,
                                  uint64_t expert_bytes, struct ds4_error *error) DS4_MUST_CHECK;

/* On a device that works in the machine's memory: experts are used where they lie in the pool, n_slots of slot_bytes,
 * the last of which is never an expert's. Their matrices are whole pages. n_ids: choices of a batch. */
enum ds4_status backend_gpu_share(struct backend *b, uint32_t n_experts, uint32_t n_ids, const void *pool,
                                  uint64_t slot_bytes, uint32_t n_slots, struct ds4_error *error) DS4_MUST_CHECK;

/* For measurements: from now on map() takes memory of the device without copying what is named to it, and generate
 * fills a matrix of rows of n_in there with made-up valid values of about n_in^-1/2. */
void backend_gpu_generates(struct backend *b);
enum ds4_status backend_gpu_generate(struct backend *b, const void *data, uint64_t bytes, uint32_t type, uint64_t n_in,
                                     uint32_t seed, struct ds4_error *error) DS4_MUST_CHECK;

/* Times every kernel from now on, each waited for; the figures of ds4_engine_kernel_times. */
enum ds4_status backend_gpu_time(struct backend *b, bool on, struct ds4_error *error) DS4_MUST_CHECK;
size_t backend_gpu_times(struct backend *b, struct ds4_kernel_time *out, size_t max);
/* Names of all kernels that were built; up to max. */
size_t backend_gpu_kernels(struct backend *b, struct ds4_kernel_time *out, size_t max);

/* The ways of computing on a GPU that this build has, best first; NULL ends the list. */
struct gpu_choice {
    const struct backend_ops *ops;
    const struct gpu_host *host;
    bool automatic; /* taken without being asked for, when there is a device */
};
const struct gpu_choice *gpu_choices(void);

#endif
