/* impl.h - inside of the pretend CUDA runtime: memory (memory.c), streams (queue.c), the calls (runtime.c), and how a
 * kernel runs (kernels.c). */
#ifndef PRETEND_CUDA_IMPL_H
#define PRETEND_CUDA_IMPL_H

#include <cuda_runtime.h>

#include "gpu/cuda_kernels.h"
#include "pretend_cuda.h"

#define PARAMS_MAX 31
#define RECORD_MAX 256

enum memory_kind { MEMORY_DEVICE, MEMORY_PINNED, MEMORY_REGISTERED };
struct block {
    uint8_t *first;
    uint64_t bytes;
    enum memory_kind kind;
    bool read_only;
};

struct launch {
    const struct cuda_kernel *kernel;
    unsigned grid[3], n_threads;
    uint64_t record[RECORD_MAX / 8];
    uint8_t *refs[PARAMS_MAX];
    bool early;
};

enum op_kind { OP_COPY, OP_FILL, OP_LAUNCH, OP_MARK, OP_WAIT };
struct op {
    enum op_kind kind;
    uint8_t *to;
    const uint8_t *from;
    uint64_t n;
    struct CUstream_st *other; /* OP_WAIT: until that many of its operations are done */
    uint64_t until;
    struct launch launch;
};

struct CUstream_st {
    struct op *ops; /* [n_ops], from first on to be done */
    uint64_t n_ops, cap, first;
    uint64_t n_given, n_done;
    unsigned eager; /* of 4: how likely an operation is done before it is waited for */
    struct CUgraph_st *capturing;
    bool in_list; /* the last thing given was a launch */
    struct CUstream_st *next;
};

struct CUevent_st {
    struct CUstream_st *stream; /* NULL: never recorded */
    uint64_t at;
    bool timed;
};

/* memory.c */
uint8_t *memory_take(uint64_t bytes, enum memory_kind kind); /* NULL: there is no more */
bool memory_add(uint8_t *first, uint64_t bytes, enum memory_kind kind, bool read_only); /* false: some is there */
const struct block *memory_at(const void *at);               /* NULL: in none */
const struct block *memory_exactly(const void *first);
void memory_give(const struct block *b);
bool memory_is_address_of_device(const void *at);
uint64_t memory_device_bytes(void);
unsigned memory_n_blocks(void);
void memory_open(void); /* for what the device does */
void memory_close(void);
/* NULL when a copy may touch [at, at + n), else what is wrong. */
const char *memory_complaint(const void *at, uint64_t n, bool writes);

/* queue.c */
bool queue_done(const struct CUstream_st *s, uint64_t until);
void queue_add(struct CUstream_st *s, const struct op *op);
void queue_wait(struct CUstream_st *s, uint64_t until);
struct CUstream_st *queue_make(void);
void queue_free(struct CUstream_st *s);
bool queue_has(const struct CUstream_st *s);
bool queue_uses(const struct block *b);
void queue_drop(void);
struct CUstream_st *queue_first(void);

/* kernels.c */
bool kernel_run(struct launch *l, char *error, size_t error_size);
/* What is wrong with a launch before it runs; NULL: nothing. */
const char *kernel_complaint(const struct launch *l);

/* runtime.c */
extern struct pretend_options pretend_now;
extern struct pretend_counts pretend_sums;
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool is_lost(void);

#endif
