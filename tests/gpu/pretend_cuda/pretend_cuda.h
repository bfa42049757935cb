/* pretend_cuda.h - what tests ask of the pretend CUDA runtime. One thread calls it.
 *
 * What was given to a stream is done early, late, or at some moment in between, each stream apart, as far as events and
 * waiting allow: a wait that is missing gives other bytes under one order or another. Memory of the device cannot be
 * touched while the host runs (the program ends with a sentence), is filled with a pattern when it is taken, and its
 * addresses are not used again. Kernels run in the emulator, bound to what is left of the memory that a parameter
 * points into. One that is launched early may begin while the kernel before it runs, as far as its wait, ahead of which
 * it touches no memory; so that when it begins cannot be told, and that it waits is what is checked, by the executor
 * that has its instructions (tests/gpu/ptx).
 *
 * Reported, by a sentence: a copy beyond its memory, an asynchronous one of memory that is not pinned, or over what the
 * device may only read; a kernel that is given freed memory, or memory of the host that the device does not see, or
 * breaks a rule of the emulator; one that is launched early and does not follow a kernel in its stream (CUDA would take
 * it for a plain one), or on a device that cannot; what is freed, destroyed or unregistered while work uses it
 * (stricter than CUDA, which waits for some of it or puts it off); what is not a call of the API in its place, as
 * waiting in a capture. From then on the device is lost: each call fails, and the text of the error is the sentence.
 * What is left when the program ends is reported, and ends it with a failure. */
#ifndef PRETEND_CUDA_H
#define PRETEND_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pretend_kind {
    PRETEND_DISCRETE,   /* memory of its own, over a bus */
    PRETEND_INTEGRATED, /* one memory for both */
    PRETEND_COHERENT,   /* memory of its own, and it reads the host's as it lies (Grace) */
    PRETEND_NONE        /* no device */
};
enum pretend_order {
    PRETEND_RANDOM, /* by the seed */
    PRETEND_EARLY,  /* at once */
    PRETEND_LATE,   /* when it is waited for, and no more than that */
    PRETEND_FIRST_EARLY, /* the stream that was made first early, others late */
    PRETEND_FIRST_LATE,
    PRETEND_ORDERS
};
struct pretend_options {
    enum pretend_kind kind;
    enum pretend_order order;
    uint64_t seed;
    bool refuses_pages;    /* cudaHostRegister fails */
    uint64_t fail_at;      /* this call from now on fails, of those that may, counted from 1; 0: none */
    uint64_t memory_bytes; /* of the device; 0: 4 GiB */
    int major;             /* of its compute capability; 0: 9 */
};
void pretend_cuda(const struct pretend_options *options);
/* The first sentence, after which the device is as new; NULL: nothing was reported. */
const char *pretend_cuda_report(void);

struct pretend_counts {
    uint64_t n_calls;  /* that may fail */
    uint64_t n_opened; /* times that devices were counted */
    uint64_t n_rests;  /* waits for a stream, and n_fetched */
    uint64_t n_sent;             /* copies on streams other than the first */
    uint64_t n_fetched, fetched_bytes; /* copies to the host, of more than is posted */
    uint64_t n_lists, n_replayed; /* launches in a row, or graphs; graphs */
    uint64_t n_launches, digest;  /* kernels, and what they were given */
    uint64_t n_early;             /* of the kernels, launched early */
};
struct pretend_counts pretend_cuda_counts(void); /* since the last call */
unsigned pretend_cuda_n_alive(void);             /* streams, events, graphs and memory */

/* What a launch is; params[i] points at the bytes of parameter i. An executor fills error and returns false when a rule
 * is broken. */
struct pretend_launch {
    const char *name;
    unsigned grid[3], n_threads;
    void *const *params;
    int n_params;
    bool early;
};
typedef bool pretend_executor(const struct pretend_launch *launch, char *error, size_t error_size);
/* In place of the emulator; NULL: the emulator. */
void pretend_cuda_executor(pretend_executor *run);

/* The memory that holds an address, as kernels may use it now; false: none. */
struct pretend_span {
    uint8_t *first;
    uint64_t bytes;
    bool read_only;
};
bool pretend_cuda_span(const void *at, struct pretend_span *out);

#endif
