/* thread_pool.h - a fixed pool of threads that runs one parallel loop at a time. Workers spin briefly for the next
 * loop, then sleep. The caller takes part. How tasks are dealt out never changes what each task computes. */
#ifndef DS4_BASE_THREAD_POOL_H
#define DS4_BASE_THREAD_POOL_H

#include "base/err.h"

struct thread_pool;

/* task_i runs over 0..n_tasks-1, each exactly once; worker_i in 0..n_threads-1 names scratch memory. A task must not
 * run a loop on the same pool. */
typedef void (*thread_pool_fn)(void *arg, uint32_t task_i, uint32_t worker_i);

/* n_threads 0 = one a core that this process may use. */
enum ds4_status thread_pool_create(uint32_t n_threads, struct thread_pool **out,
                                   struct ds4_error *error) DS4_MUST_CHECK;
void thread_pool_destroy(struct thread_pool *pool);
uint32_t thread_pool_size(const struct thread_pool *pool);
/* Returns when all tasks are done. One caller at a time. */
void thread_pool_run(struct thread_pool *pool, thread_pool_fn fn, void *arg, uint32_t n_tasks);
uint32_t thread_cores(void); /* cores this process may use */

#endif
