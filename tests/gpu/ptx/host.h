/* host.h - the interpreter of PTX as a device (gpu/gpu.h), for the tests of operations and models: memory is the
 * host's, a dispatch runs when it is given and may touch what it was bound to and nothing else. */
#ifndef DS4_TESTS_GPU_PTX_HOST_H
#define DS4_TESTS_GPU_PTX_HOST_H

#include "gpu/gpu.h"
#include "gpu/ptx/ptx.h"

extern const struct gpu_host gpu_host_ptx;

/* The kernels as nvcc compiled them, which the build makes where it has nvcc; kept until the process ends. NULL: there
 * are none, why has the reason. */
const struct ptx_module *ptx_kernels(char *why, size_t why_size);
/* Calls fn with every kernel that was dispatched so far, and how often. */
void ptx_dispatched(void (*fn)(const char *kernel, uint64_t n, void *user), void *user);

#endif
