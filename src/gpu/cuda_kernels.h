/* cuda_kernels.h - the kernels for CUDA as the host of plain C sees them: a table of names, made by the one file that
 * needs nvcc (cuda_kernels.cu). */
#ifndef DS4_GPU_CUDA_KERNELS_H
#define DS4_GPU_CUDA_KERNELS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_kernel {
    const char *name;
    const void *fn;   /* for cudaLaunchKernel */
    int n_params;     /* the record, then pointers */
    int max_threads;  /* of a threadgroup */
    size_t record_bytes;
};
const struct cuda_kernel *cuda_kernel_find(const char *name); /* NULL: there is none */
extern const char cuda_kernels_compiler[];                    /* for a report: its name and version */
extern const int cuda_kernels_arch; /* the oldest architecture that they were compiled for, as __CUDA_ARCH__ has it */

#ifdef __cplusplus
}
#endif

#endif
