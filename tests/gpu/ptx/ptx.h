/* ptx.h - an interpreter of PTX, the virtual instruction set that nvcc compiles kernels to, for tests on machines
 * without a GPU. It runs the text that nvcc made of src/gpu/kernels, so what stands behind src/gpu/prelude/cuda.h is
 * executed instruction by instruction as NVIDIA's "Parallel Thread Execution ISA" defines it.
 *
 * A module is text; a kernel is launched over a grid of groups of threads, 32 threads a warp. Warps run one after the
 * other, each up to a barrier; the lanes of a warp that stand at the lowest instruction run together. What stops a
 * launch, with a sentence that names kernel, instruction, thread and address: memory touched outside of the regions
 * given, outside of a declared array, or misaligned; a store to a region that is read-only; an instruction for which
 * lanes are missing (shuffle, vote, ldmatrix, mma, barrier). Shared memory that was not written is full of NaN.
 *
 * A kernel with griddepcontrol.wait may be launched while the one before it runs, so its launches also stop where a
 * thread touches the regions ahead of its wait, reads them with ld.global.nc (for memory that nobody writes while the
 * kernel is on the device), or ends without a wait: who waits for a kernel counts on all before it.
 *
 * What it is not: ptxas, which compiles PTX to the machine's own instructions, the machine's timing and its memory
 * model. ex2.approx, lg2.approx, rcp.approx, rsqrt.approx, sqrt.approx, sin.approx and cos.approx are the C library's
 * functions in float; a GPU's may differ in the last bits. All else is exact. One thread at a time may launch. */
#ifndef DS4_TESTS_GPU_PTX_H
#define DS4_TESTS_GPU_PTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ptx_module;
struct ptx_kernel;

/* Memory that a launch may read, or read and write. Addresses are those of the host. */
struct ptx_region {
    void *first;
    uint64_t bytes;
    bool writable;
};
struct ptx_memory {
    const struct ptx_region *regions;
    size_t n_regions;
};

/* NULL: the text is not a module, or uses what is not known here; error has the sentence, with the line. Keeps a copy
 * of the text. */
struct ptx_module *ptx_load(const char *text, size_t n, char *error, size_t error_size);
void ptx_free(struct ptx_module *module);

const struct ptx_kernel *ptx_kernel(const struct ptx_module *module, const char *name); /* NULL: there is none */
const struct ptx_kernel *ptx_kernel_at(const struct ptx_module *module, size_t i);      /* NULL after the last */
const char *ptx_kernel_name(const struct ptx_kernel *kernel);
size_t ptx_n_params(const struct ptx_kernel *kernel);
size_t ptx_param_bytes(const struct ptx_kernel *kernel, size_t i);
bool ptx_waits(const struct ptx_kernel *kernel);           /* it has griddepcontrol.wait */
unsigned ptx_threads_max(const struct ptx_kernel *kernel); /* of a group, as the kernel says; 1024 if it does not */

/* Runs all groups of the grid. params[i] -> the bytes of parameter i, as for cudaLaunchKernel. False: stopped. */
bool ptx_launch(const struct ptx_kernel *kernel, const unsigned grid[3], unsigned n_threads, void *const *params,
                const struct ptx_memory *memory, char *error, size_t error_size);

enum ptx_order { PTX_FORWARD, PTX_REVERSE, PTX_RANDOM }; /* of groups, and of warps between barriers */
/* How a matrix unit adds. The manual leaves the order and the rounding between terms open. */
enum ptx_sums {
    PTX_SUMS_EXACT,  /* all terms exactly, then rounded once */
    PTX_SUMS_CHOPPED /* each term cut to the 24 bits that are highest in the largest one, the sum cut once more */
};
struct ptx_options {
    enum ptx_order order;
    enum ptx_sums sums;
    uint32_t seed;
    bool plain; /* what any processor can run, also where there is AVX2 */
    uint64_t steps_max; /* instructions of a warp in one launch; 0: 2^40. More is reported as an endless loop */
};
void ptx_set_options(const struct ptx_options *options);

/* Instructions of warps since the program began. */
uint64_t ptx_steps(void);

#ifdef __cplusplus
}
#endif

#endif
