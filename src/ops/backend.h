/* backend.h - what a way of computing must offer: memory, and one function per operation of ops.def.
 *
 * A backend sees addresses, shapes and formats; never a session, a file name or a layer number. Operations run in the
 * order they are called. They cannot fail one by one: what goes wrong is reported by finish(). After create() a
 * backend allocates nothing.
 * Order of sums: each output element is summed in one order that depends on nothing but the shapes of its own row, so
 * results are the same bits for any batch, chunking and number of threads. */
#ifndef DS4_OPS_BACKEND_H
#define DS4_OPS_BACKEND_H

#include "base/err.h"
#include "base/thread_pool.h"
#include "ops/args.h"

/* Part of the identity of stored state. Raise it when the last bits of a result change where engine/arithmetic.c does
 * not look: attention over chosen rows, compressors, the indexer, hyper-connections, products of many rows. */
#define OPS_ARITHMETIC 1u

struct backend;

/* The largest shapes that will be asked for: scratch is sized from them once. */
struct backend_limits {
    uint32_t n_rows;            /* rows of a batch */
    uint32_t n_in;              /* widest input of a matmul, all groups together */
    uint32_t n_heads, dim;      /* attention */
    uint32_t n_attn_rows;       /* most rows one query attends to: window + compressed */
    uint32_t n_index_heads, index_dim, n_index_rows; /* index rows of the longest session */
    uint32_t n_experts, n_used, n_ff;
    uint32_t n_embd;            /* outputs of experts; 0: up to n_in */
    uint32_t n_vocab;           /* logits of a row */
};

/* Of a row of logits those that are at most a margin below the largest. */
#define BACKEND_CANDIDATES_MAX 512u
struct backend_candidates {
    uint32_t n;             /* how many there are; more than fit: the list is of no use */
    uint32_t not_numbers;   /* 1: a logit is not a number, or infinite */
    float mass;             /* of all logits: sum of exp((l - largest) / temperature), to about 1e-5 */
    int32_t ids[BACKEND_CANDIDATES_MAX]; /* ascending */
    float logits[BACKEND_CANDIDATES_MAX];
};

/* How a token is chosen: session/sample.c. Every member has 4 bytes. */
struct backend_pick {
    float margin; /* candidates lie at most so far below the largest logit */
    float temperature; /* 0: the largest is taken, of equal ones the first */
    float min_p, top_p;
    uint32_t top_k;
    uint32_t below_min; /* 1: with top_k or top_p, what is no candidate is below min_p */
};
/* Of a row of logits: how its tokens are chosen, and what one choice leaves to the next; in the backend's memory. */
struct backend_step {
    struct backend_pick how;
    uint32_t generator[2]; /* state of the sampler's generator, low half first */
    uint32_t n, unused;    /* choices made */
};
#define BACKEND_CHOICES 4u /* kept of a row */
#define BACKEND_STEPS_MAX 64u /* rows */
struct backend_choice {
    int32_t id;
    uint32_t is_known; /* 0: the host must look */
};

struct backend_ops {
    const char *name;
    /* Zero-filled memory of the backend, page-aligned; NULL when there is none. Release with the same size. */
    void *(*alloc)(struct backend *b, size_t bytes);
    void (*release)(struct backend *b, void *ptr, size_t bytes);
    /* Read-only memory of the host that operations will name (weights in a mapped file). NULL: any can be named.
     * near: worth the backend's own memory when it has some. */
    enum ds4_status (*map)(struct backend *b, const void *ptr, size_t bytes, bool near, struct ds4_error *error);
    /* Lets the backend lay out a matrix anew where it has a copy of its own; w->type says so then. Only products may
     * read it, through w. Once for each matrix. NULL: all stay as they are. */
    void (*pack)(struct backend *b, struct op_weight *w);
    /* In order; from: memory of the host or of the backend. */
    void (*write)(struct backend *b, void *to, const void *from, size_t bytes);
    void (*read)(struct backend *b, void *to, const void *from, size_t bytes);  /* backend -> host, waits */
    /* Waits for everything; the first error since the last call. */
    enum ds4_status (*finish)(struct backend *b, struct ds4_error *error);
    void (*destroy)(struct backend *b);
    size_t (*scratch_bytes)(const struct backend_limits *limits, uint32_t n_threads); /* for the plan */
    /* Fills *out, on the host, from logits [n] of the backend; waits. False when it failed, as finish will say. NULL:
     * the backend's memory is the host's, who can as well look at all of them. */
    bool (*candidates)(struct backend *b, const float *logits, uint32_t n, float margin, float temperature,
                       struct backend_candidates *out);
    /* For each of n_rows rows makes choice steps[r].n from logits [n_rows][n], without waiting: the token that the
     * host would choose from the candidates with a generator of that state, which then goes into tokens[r]; or, where
     * that is not beyond doubt, none, and tokens[r] and the generator stay. In either case pos[r] and steps[r].n are
     * one more. Choice i of row r goes into choices[i % BACKEND_CHOICES][r], [BACKEND_CHOICES][n_rows]. All of the
     * backend's memory; at most BACKEND_STEPS_MAX rows. NULL, all three: as for candidates. */
    void (*choose)(struct backend *b, const float *logits, uint32_t n, uint32_t n_rows, struct backend_step *steps,
                   struct backend_choice *choices, int32_t *tokens, int32_t *pos);
    /* Begins to bring a few bytes of the backend as they are after the operations so far, and starts what was given;
     * collect waits for those of the first post that was not collected, and for nothing that came after it. The bytes
     * must stay as they are until then. At most BACKEND_CHOICES at a time, each of at most a choice
     * for BACKEND_STEPS_MAX rows. False when it failed,
     * as finish will say. */
    bool (*post)(struct backend *b, const void *from, size_t bytes);
    bool (*collect)(struct backend *b, void *to, size_t bytes);
#define OP(op_name) void (*op_name)(struct backend *b, const struct op_name##_args *args);
#include "ops/ops.def"
#undef OP
};

/* The head of every backend's own struct. */
struct backend {
    const struct backend_ops *ops;
    struct thread_pool *pool; /* borrows; may be used between operations */
};

/* ref: scalar definition, float32 data, sums in double. cpu: the fast one. Borrows pool. */
enum ds4_status backend_ref_create(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                                   struct ds4_error *error) DS4_MUST_CHECK;
enum ds4_status backend_cpu_create(struct thread_pool *pool, const struct backend_limits *limits, struct backend **out,
                                   struct ds4_error *error) DS4_MUST_CHECK;
/* Times every operation of the CPU backend from now on; the figures of ds4_engine_kernel_times. */
void backend_cpu_time(struct backend *b, bool on);
size_t backend_cpu_times(struct backend *b, struct ds4_kernel_time *out, size_t max);
extern const struct backend_ops backend_ref_ops, backend_cpu_ops; /* scratch_bytes before creation */

#endif
