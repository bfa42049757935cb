/* gpu_trials.h - what is tried on every host of a GPU: all operations against the reference, and a set-up for products
 * with routed experts, which may lie in more than one place. */
#ifndef DS4_TESTS_GPU_TRIALS_H
#define DS4_TESTS_GPU_TRIALS_H

#include "gpu/backend.h"

/* A few shapes of each operation, of three rows at most; returns how many were compared. */
size_t gpu_trial_operations(const struct gpu_host *host);
/* Products in tiles, with experts sorted, and attention that is not split. */
void gpu_trial_many_rows(const struct gpu_host *host);

/* Memory of the backend with these bytes. */
void *gpu_put(struct backend *b, const void *from, size_t bytes);

/* Experts of three matrices: gate and up in MXFP4, down in Q8_0. */
enum { GPU_ROWS = 16, GPU_EMBD = 64, GPU_FF = 32, GPU_USED_MOST = 6, GPU_GATE_BYTES = GPU_FF * GPU_EMBD / 32 * 17,
       GPU_DOWN_BYTES = GPU_EMBD * GPU_FF / 32 * 34 };
void gpu_fill_gates(uint8_t *at, size_t bytes, uint64_t seed); /* valid blocks of small values */
void gpu_fill_downs(uint8_t *at, size_t bytes, uint64_t seed);

/* Rows that choose n_used of n_experts each: row by row, each choice `step` experts after the last. */
struct gpu_products {
    struct backend *b;
    uint32_t n_experts, n_used;
    float *x, *weights, *m, *y; /* of the backend */
    int32_t *ids;
};
void gpu_products_open(struct gpu_products *p, const struct gpu_host *host, uint32_t n_experts, uint32_t n_used,
                       uint32_t step);
/* Matrix i (gate, up, down) of all experts; where it lies is up to the caller. */
struct op_weight gpu_products_weight(const struct gpu_products *p, uint32_t i);
struct gpu_products_result {
    float m[GPU_ROWS * GPU_USED_MOST * GPU_FF], y[GPU_ROWS * GPU_EMBD];
};
void gpu_products_run(struct gpu_products *p, const struct op_weight w[3], uint32_t n_rows,
                      struct gpu_products_result *out);

/* n choices from the same row, each posted and had while the next is under way; and some that nobody asks for. */
void gpu_trial_choices(const struct gpu_host *host, uint32_t n, uint32_t *ids);
/* Words copied by the kernel that a host without copies of its own has: all but the last. */
void gpu_trial_copy(const struct gpu_host *host);
/* Experts in a pool that the device reads where it lies: slots of 16 KB, an expert in another than its number. */
void gpu_trial_pool(const struct gpu_host *host);

#endif
