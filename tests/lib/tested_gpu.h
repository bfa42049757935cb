/* tested_gpu.h - the GPU that a test program runs on: the emulator as a device, or, compiled once more, the CUDA host
 * over the pretend runtime of tests/gpu/pretend_cuda or the Metal host over tests/gpu/pretend, whose kernels run in the
 * emulator too. And what each counts; each function gives what came since its last call. */
#ifndef DS4_TESTS_TESTED_GPU_H
#define DS4_TESTS_TESTED_GPU_H

#include "gpu/backend.h"
#include "gpu/emu/emu.h"

#ifdef DS4_PRETEND_CUDA
#include "pretend_cuda.h"

#define TESTED_GPU "cuda"
#define TESTED_LAUNCH "early"
#define tested_host gpu_host_cuda
#define TESTED_COUNTS_ struct pretend_counts
#define tested_counts_now_ pretend_cuda_counts

/* The device has memory of its own, or works in the machine's. */
static inline void tested_own_memory(bool on)
{
    struct pretend_options options = {.kind = on ? PRETEND_DISCRETE : PRETEND_INTEGRATED};
    pretend_cuda(&options);
}
static inline void tested_as_ever(void) { tested_own_memory(true); }
static inline bool tested_can_own(void) { return true; }
static inline bool tested_can_send(void) { return true; }
#elif defined DS4_PRETEND_METAL
#include "pretend_metal.h"

#define TESTED_GPU "metal"
#define TESTED_LAUNCH "plain"
#define tested_host gpu_host_metal
#define TESTED_COUNTS_ struct pretend_metal_counts
#define tested_counts_now_ pretend_metal_counts

/* The GNU runtime keeps some of what it allocates while it loads classes, before main. Our objects are counted. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:objc_malloc\n"; }

/* The device works in the machine's memory, always, and nothing is sent beside the dispatches. */
static inline bool tested_can_own(void) { return false; }
static inline bool tested_can_send(void) { return false; }
static inline void tested_own_memory(bool on)
{
    if (on) fail_msg("a device of Metal has no memory of its own");
}
static inline void tested_as_ever(void) {}
#else
#define TESTED_GPU "emu"
#define TESTED_LAUNCH "plain"
#define tested_host gpu_host_emu
#define tested_digest emu_dispatch_digest
#define tested_n_rests emu_n_rests
#define tested_n_sent emu_n_sent
#define tested_n_opened emu_n_opened
#define tested_lists emu_lists
#define tested_own_memory emu_copy_weights
static inline void tested_as_ever(void) { tested_own_memory(false); }
static inline bool tested_can_own(void) { return true; }
static inline bool tested_can_send(void) { return true; }
#endif

#ifdef TESTED_COUNTS_ /* a pretend device: what it counted, kept until it is asked for */
static TESTED_COUNTS_ tested_sums_;
static inline TESTED_COUNTS_ *tested_counts_(void)
{
    TESTED_COUNTS_ more = tested_counts_now_();
    tested_sums_.n_opened += more.n_opened;
    tested_sums_.n_rests += more.n_rests;
    tested_sums_.n_sent += more.n_sent;
    tested_sums_.n_lists += more.n_lists;
    tested_sums_.n_replayed += more.n_replayed;
    if (more.n_launches) tested_sums_.digest = tested_sums_.digest * 31 + more.digest;
    return &tested_sums_;
}
#define TESTED_TAKE_(type, name, field) \
    static inline type name(void) \
    { \
        type taken = (type)tested_counts_()->field; \
        tested_sums_.field = 0; \
        return taken; \
    }
TESTED_TAKE_(uint64_t, tested_digest, digest)
TESTED_TAKE_(uint64_t, tested_n_rests, n_rests)
TESTED_TAKE_(uint64_t, tested_n_sent, n_sent)
TESTED_TAKE_(unsigned, tested_n_opened, n_opened)
static inline void tested_lists(unsigned *n, unsigned *n_new)
{
    *n = (unsigned)tested_counts_()->n_lists;
    *n_new = *n - (unsigned)tested_sums_.n_replayed;
    tested_sums_.n_lists = tested_sums_.n_replayed = 0;
}
#endif

#endif
