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

/* The ways of computing on a GPU that this build has, best first; NULL ends the list. */
struct gpu_choice {
    const struct backend_ops *ops;
    const struct gpu_host *host;
    bool automatic; /* taken without being asked for, when there is a device */
};
const struct gpu_choice *gpu_choices(void);

#endif
