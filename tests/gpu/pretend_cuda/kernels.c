/* kernels.c - how a launch of the pretend CUDA runtime is carried out: by the emulator, or by what a test put in its
 * place; and the table of kernels that host_cuda.c finds them in. */
#include <stdio.h>
#include <string.h>

#include "gpu/emu/emu.h"
#include "impl.h"

#define KERNELS_MAX 512u

const char cuda_kernels_compiler[] = "no compiler";
const int cuda_kernels_arch = 900;

/* fn of a kernel is its place in this table. */
static struct cuda_kernel table[KERNELS_MAX];
static unsigned n_kernels;
static pretend_executor *executor;

void pretend_cuda_executor(pretend_executor *run) { executor = run; }

const struct cuda_kernel *cuda_kernel_find(const char *name)
{
    for (unsigned i = 0; i < n_kernels; i++)
        if (strcmp(table[i].name, name) == 0) return &table[i];
    const struct emu_kernel *emulated = emu_find(name);
    if (!emulated || n_kernels == KERNELS_MAX) return NULL;
    struct cuda_kernel *k = &table[n_kernels++];
    *k = (struct cuda_kernel){emulated->name, k, emulated->n_params, emulated->max_threads, emulated->record_bytes};
    return k;
}

const char *kernel_complaint(const struct launch *l)
{
    static char sentence[160];
    const struct emu_kernel *emulated = emu_find(l->kernel->name);
    for (int i = 1; i < l->kernel->n_params; i++) {
        struct pretend_span span;
        const uint8_t *at = l->refs[i - 1];
        const char *what = NULL;
        if (!pretend_cuda_span(at, &span))
            what = memory_is_address_of_device(at) ? "memory of the device that nobody has"
                                                   : "memory of the host that the device does not see";
        else if (span.read_only && memory_at(at) && !emulated->read_only[i])
            what = "memory that the device may only read, to write to";
        if (!what) continue;
        (void)snprintf(sentence, sizeof sentence, "kernel %.40s: parameter %d is %s", l->kernel->name, i, what);
        return sentence;
    }
    return NULL;
}

static bool emulate(const struct pretend_launch *l, char *error, size_t error_size)
{
    const struct emu_kernel *kernel = emu_find(l->name);
    struct emu_binding bindings[PARAMS_MAX] = {{l->params[0], kernel->record_bytes}};
    struct emu_report report;
    for (int i = 1; i < l->n_params; i++) {
        struct pretend_span span;
        uint8_t *at;
        memcpy(&at, l->params[i], sizeof at);
        if (!pretend_cuda_span(at, &span)) {
            (void)snprintf(error, error_size, "kernel %s: the memory of parameter %d is gone", l->name, i);
            return false;
        }
        bindings[i] = (struct emu_binding){at, span.bytes - (uint64_t)(at - span.first)};
    }
    if (emu_launch(kernel, l->grid, l->n_threads, bindings, l->n_params, &report)) return true;
    (void)snprintf(error, error_size, "%s", report.first);
    return false;
}

bool kernel_run(struct launch *l, char *error, size_t error_size)
{
    void *params[PARAMS_MAX] = {l->record};
    for (int i = 1; i < l->kernel->n_params; i++) params[i] = &l->refs[i - 1];
    struct pretend_launch launch = {.name = l->kernel->name, .grid = {l->grid[0], l->grid[1], l->grid[2]},
                                    .n_threads = l->n_threads, .params = params, .n_params = l->kernel->n_params,
                                    .early = l->early};
    return (executor ? executor : emulate)(&launch, error, error_size);
}
