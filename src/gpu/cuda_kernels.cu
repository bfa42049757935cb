/* cuda_kernels.cu - all kernels for CUDA, and the table of them that the host finds them in by name. */
#include <string.h>

#include "gpu/cuda_kernels.h"

#define K_EXPORTED(name) static ::registration name##_registration(#name, name, name##_max_threads);
#include "gpu/prelude/cuda.h"

namespace {
struct entry {
    cuda_kernel kernel;
    const entry *next;
};
const entry *entries;

struct registration {
    entry own;
    template <typename A, typename... P> registration(const char *name, void (*fn)(A, P...), int max_threads)
    {
        own = entry{{name, (const void *)fn, (int)sizeof...(P) + 1, max_threads, sizeof(A)}, entries};
        entries = &own;
    }
};
}

namespace k {
#include "gpu/kernels/all.k"
}

extern "C" const struct cuda_kernel *cuda_kernel_find(const char *name)
{
    for (const entry *e = entries; e; e = e->next)
        if (strcmp(e->kernel.name, name) == 0) return &e->kernel;
    return NULL;
}

#define TEXT_OF(n) #n
#define TEXT(n) TEXT_OF(n)
extern "C" const char cuda_kernels_compiler[] = "nvcc " TEXT(__CUDACC_VER_MAJOR__) "." TEXT(__CUDACC_VER_MINOR__);

static const int archs[] = {__CUDA_ARCH_LIST__}; /* ascending */
extern "C" const int cuda_kernels_arch = archs[0];
