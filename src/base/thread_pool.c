/* thread_pool.c - one parallel loop at a time over a shared task counter.
 *
 * A loop is announced by raising `epoch`. Workers spin on it for a bounded number of turns, then sleep on a condition
 * variable. Tasks are claimed from an atomic counter, so a thread that is delayed by another process costs only its
 * current task. The caller leaves when every task is finished and every worker that entered has left. */
#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/mem.h"

#define SPIN_TURNS 4000       /* about 20 us: longer than the gap between two operations of a layer */
#define THREADS_MAX 256u      /* more cores than this help nobody here */

struct thread_pool {
    uint32_t n_threads; /* caller included */
    pthread_t threads[THREADS_MAX];
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic uint32_t epoch;       /* raised for each loop */
    _Atomic uint32_t n_sleeping;  /* workers waiting on wake */
    _Atomic uint32_t n_inside;    /* workers that may still touch the loop */
    _Atomic uint32_t next_task, n_done;
    _Atomic bool open;            /* a loop may be entered */
    _Atomic bool stop;
    thread_pool_fn fn;            /* written before epoch is raised */
    void *arg;
    uint32_t n_tasks;
};

struct worker_start {
    struct thread_pool *pool;
    uint32_t worker_i;
};

static inline void pause_turn(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

uint32_t thread_cores(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        int n = CPU_COUNT(&set);
        if (n > 0) return (uint32_t)n;
    }
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

static void take_tasks(struct thread_pool *pool, uint32_t worker_i)
{
    for (;;) {
        uint32_t task_i = atomic_fetch_add(&pool->next_task, 1);
        if (task_i >= pool->n_tasks) return;
        pool->fn(pool->arg, task_i, worker_i);
        atomic_fetch_add(&pool->n_done, 1);
    }
}

/* Waits until epoch differs from seen; returns the new epoch. */
static uint32_t wait_epoch(struct thread_pool *pool, uint32_t seen)
{
    for (int turn = 0; turn < SPIN_TURNS; turn++) {
        uint32_t now = atomic_load(&pool->epoch);
        if (now != seen) return now;
        pause_turn();
    }
    (void)pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (atomic_load(&pool->epoch) == seen) (void)pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    (void)pthread_mutex_unlock(&pool->lock);
    return atomic_load(&pool->epoch);
}

static void *worker_main(void *arg)
{
    struct worker_start start = *(struct worker_start *)arg;
    mem_free(arg);
    struct thread_pool *pool = start.pool;
    uint32_t seen = 0;
    for (;;) {
        seen = wait_epoch(pool, seen);
        if (atomic_load(&pool->stop)) return NULL;
        atomic_fetch_add(&pool->n_inside, 1);
        if (atomic_load(&pool->open)) take_tasks(pool, start.worker_i);
        atomic_fetch_sub(&pool->n_inside, 1);
    }
}

static void announce(struct thread_pool *pool)
{
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->n_sleeping) == 0) return;
    (void)pthread_mutex_lock(&pool->lock);
    (void)pthread_cond_broadcast(&pool->wake);
    (void)pthread_mutex_unlock(&pool->lock);
}

enum ds4_status thread_pool_create(uint32_t n_threads, struct thread_pool **out, struct ds4_error *error)
{
    if (n_threads == 0) n_threads = thread_cores();
    if (n_threads > THREADS_MAX) n_threads = THREADS_MAX;
    struct thread_pool *pool = mem_zalloc(1, sizeof *pool);
    if (!pool) return err_set(error, DS4_ERR_NOMEM, "no memory for a thread pool");
    (void)pthread_mutex_init(&pool->lock, NULL);
    (void)pthread_cond_init(&pool->wake, NULL);
    pool->n_threads = 1;
    for (uint32_t i = 1; i < n_threads; i++) {
        struct worker_start *start = mem_zalloc(1, sizeof *start);
        if (start) *start = (struct worker_start){pool, i};
        if (!start || pthread_create(&pool->threads[i], NULL, worker_main, start) != 0) {
            mem_free(start);
            thread_pool_destroy(pool);
            return err_set(error, DS4_ERR_NOMEM, "cannot start thread %u of %u", i + 1, n_threads);
        }
        pool->n_threads++;
    }
    *out = pool;
    return DS4_OK;
}

void thread_pool_destroy(struct thread_pool *pool)
{
    if (!pool) return;
    atomic_store(&pool->stop, true);
    announce(pool);
    for (uint32_t i = 1; i < pool->n_threads; i++) (void)pthread_join(pool->threads[i], NULL);
    (void)pthread_cond_destroy(&pool->wake);
    (void)pthread_mutex_destroy(&pool->lock);
    mem_free(pool);
}

uint32_t thread_pool_size(const struct thread_pool *pool) { return pool->n_threads; }

void thread_pool_run(struct thread_pool *pool, thread_pool_fn fn, void *arg, uint32_t n_tasks)
{
    if (n_tasks <= 1 || pool->n_threads == 1) {
        for (uint32_t i = 0; i < n_tasks; i++) fn(arg, i, 0);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->n_tasks = n_tasks;
    atomic_store(&pool->next_task, 0);
    atomic_store(&pool->n_done, 0);
    atomic_store(&pool->open, true);
    announce(pool);
    take_tasks(pool, 0);
    while (atomic_load(&pool->n_done) < n_tasks) pause_turn();
    atomic_store(&pool->open, false);
    while (atomic_load(&pool->n_inside) != 0) pause_turn();
}
