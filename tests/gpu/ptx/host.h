/* host.h - the interpreter of PTX as a device (gpu/gpu.h), for the tests of operations and models: memory is the
 * host's, a dispatch runs when it is given and may touch what it was bound to and nothing else. */
#ifndef DS4_TESTS_GPU_PTX_HOST_H
#define DS4_TESTS_GPU_PTX_HOST_H

#include "gpu/gpu.h"
#include "gpu/ptx/ptx.h"

extern const struct gpu_host gpu_host_ptx;

/* False: the build had no nvcc to compile the kernels with; why has the reason. */
bool ptx_are_there(char *why, size_t why_size);
/* The kernels as nvcc compiled them; kept until the process ends. NULL: there are none, or the interpreter does not
 * know what they use; why has the sentence. */
const struct ptx_module *ptx_kernels(char *why, size_t why_size);
/* Counts a run of a kernel. */
void ptx_note(const struct ptx_kernel *kernel);
/* Calls fn with every kernel that was run so far, and how often. */
void ptx_dispatched(void (*fn)(const char *kernel, uint64_t n, void *user), void *user);

#endif
