/* ptx_executor.c - linked into a test program of the pretend CUDA runtime, it carries out launches as nvcc compiled the
 * kernels, in the interpreter of tests/gpu/ptx, in place of the emulator. A kernel may touch what is left of the memory
 * that a parameter points into. Without the compiled kernels the program says why and is skipped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/ptx/host.h"
#include "pretend_cuda.h"

#define PARAMS_MAX 31

static bool execute(const struct pretend_launch *launch, char *error, size_t error_size)
{
    const struct ptx_module *module = ptx_kernels(error, error_size);
    const struct ptx_kernel *kernel = module ? ptx_kernel(module, launch->name) : NULL;
    struct ptx_region regions[PARAMS_MAX];
    size_t n = 0;
    if (!module) return false;
    if (!kernel || ptx_n_params(kernel) != (size_t)launch->n_params || launch->n_params > PARAMS_MAX) {
        (void)snprintf(error, error_size, "%s: no such kernel, or of other parameters", launch->name);
        return false;
    }
    if (launch->early && !ptx_waits(kernel)) {
        (void)snprintf(error, error_size, "%s: launched early, and does not wait for the kernel before", launch->name);
        return false;
    }
    for (int i = 1; i < launch->n_params; i++) {
        struct pretend_span span;
        uint8_t *at;
        memcpy(&at, launch->params[i], sizeof at);
        if (!pretend_cuda_span(at, &span)) {
            (void)snprintf(error, error_size, "%s: the memory of parameter %d is gone", launch->name, i);
            return false;
        }
        regions[n++] = (struct ptx_region){at, span.bytes - (uint64_t)(at - span.first), !span.read_only};
    }
    const struct ptx_memory memory = {regions, n};
    ptx_note(kernel);
    return ptx_launch(kernel, launch->grid, launch->n_threads, launch->params, &memory, error, error_size);
}

__attribute__((constructor)) static void take_over(void)
{
    char why[256];
    pretend_cuda_executor(execute);
    if (ptx_are_there(why, sizeof why)) return;
    printf("[ RUN      ] kernels_as_compiled_for_cuda\nSKIP %s\n[  SKIPPED ] kernels_as_compiled_for_cuda\n", why);
    exit(0);
}
