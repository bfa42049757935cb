/* thread_pool.c - one parallel loop at a time over a shared task counter.
 *
 * A loop is announced by raising `epoch`. Workers spin on it for a bounded number of turns, then sleep on a condition
 * variable. Tasks are claimed one by one from an atomic counter, so a thread that is delayed by another process costs
 * only its current task.
 * A worker counts itself in `n_inside` before it looks at `open`; the caller closes the loop when no task is left to
 * claim, then waits until nobody is inside. As all of these are sequentially consistent, a worker either sees the loop
 * closed or is waited for: when thread_pool_run returns, all tasks are done and nobody looks at them any more.
 * The caller's wait spins, then yields the processor, then sleeps, so it never takes a core from the worker it waits
 * for. What is written by different threads lies on different cache lines. */
#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/mem.h"

#define SPIN_TURNS 1500      /* 30 us on Zen 3 (20 ns a pause): longer than the gap between two operations of a layer */
#define YIELD_TURNS 20       /* then the processor is offered to others, before sleeping */
#define THREADS_MAX 256u     /* more cores than this help nobody here */
#define CACHE_LINE 64

struct worker {
    struct thread_pool *pool;
    pthread_t thread;
    uint32_t worker_i;
};

struct thread_pool {
    _Alignas(CACHE_LINE) _Atomic uint32_t epoch; /* raised for each loop; a worker that spins reads only this line */
    _Atomic bool stop;
    _Atomic bool open;           /* a loop may be entered */
    thread_pool_fn fn;           /* these three are written before open is set */
    void *arg;
    uint32_t n_tasks;
    _Alignas(CACHE_LINE) _Atomic uint32_t next_task;
    _Alignas(CACHE_LINE) _Atomic uint32_t n_inside; /* workers that may still touch the loop */
    _Alignas(CACHE_LINE) _Atomic uint32_t n_sleeping; /* workers waiting on wake */
    _Atomic bool caller_sleeps;  /* on left */
    pthread_mutex_t lock;        /* held only around the condition variables */
    pthread_cond_t wake, left;
    uint32_t n_threads;          /* caller included */
    struct worker workers[THREADS_MAX]; /* [0] is the caller and not used */
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
    const struct worker *worker = arg;
    struct thread_pool *pool = worker->pool;
    uint32_t seen = 0;
    for (;;) {
        seen = wait_epoch(pool, seen);
        if (atomic_load(&pool->stop)) return NULL;
        atomic_fetch_add(&pool->n_inside, 1);
        if (atomic_load(&pool->open)) take_tasks(pool, worker->worker_i);
        if (atomic_fetch_sub(&pool->n_inside, 1) != 1 || !atomic_load(&pool->caller_sleeps)) continue;
        (void)pthread_mutex_lock(&pool->lock);
        (void)pthread_cond_signal(&pool->left);
        (void)pthread_mutex_unlock(&pool->lock);
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

/* Until no worker is inside the closed loop. */
static void wait_left(struct thread_pool *pool)
{
    for (int turn = 0; turn < SPIN_TURNS; turn++) {
        if (atomic_load(&pool->n_inside) == 0) return;
        pause_turn();
    }
    for (int turn = 0; turn < YIELD_TURNS; turn++) {
        if (atomic_load(&pool->n_inside) == 0) return;
        (void)sched_yield();
    }
    (void)pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->n_inside) != 0) (void)pthread_cond_wait(&pool->left, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    (void)pthread_mutex_unlock(&pool->lock);
}

/* Starts the workers with all signals blocked but those a fault raises in its own thread: others belong to the
 * program's main thread. */
static uint32_t start_workers(struct thread_pool *pool, uint32_t n_threads)
{
    sigset_t blocked, before;
    (void)sigfillset(&blocked);
    (void)sigdelset(&blocked, SIGBUS);
    (void)sigdelset(&blocked, SIGSEGV);
    (void)sigdelset(&blocked, SIGFPE);
    (void)sigdelset(&blocked, SIGILL);
    (void)sigdelset(&blocked, SIGTRAP);
    (void)pthread_sigmask(SIG_SETMASK, &blocked, &before);
    uint32_t i = 1;
    for (; i < n_threads; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->worker_i = i;
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0) break;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return i;
}

enum ds4_status thread_pool_create(uint32_t n_threads, struct thread_pool **out, struct ds4_error *error)
{
    if (n_threads == 0) n_threads = thread_cores();
    if (n_threads > THREADS_MAX) n_threads = THREADS_MAX;
    struct thread_pool *pool = mem_alloc_aligned(CACHE_LINE, sizeof *pool);
    if (!pool) return err_set(error, DS4_ERR_NOMEM, "no memory for a thread pool");
    (void)pthread_mutex_init(&pool->lock, NULL);
    (void)pthread_cond_init(&pool->wake, NULL);
    (void)pthread_cond_init(&pool->left, NULL);
    pool->n_threads = start_workers(pool, n_threads);
    if (pool->n_threads < n_threads) {
        uint32_t n_started = pool->n_threads;
        thread_pool_destroy(pool);
        return err_set(error, DS4_ERR_NOMEM, "cannot start thread %u of %u", n_started + 1, n_threads);
    }
    *out = pool;
    return DS4_OK;
}

void thread_pool_destroy(struct thread_pool *pool)
{
    if (!pool) return;
    atomic_store(&pool->stop, true);
    announce(pool);
    for (uint32_t i = 1; i < pool->n_threads; i++) (void)pthread_join(pool->workers[i].thread, NULL);
    (void)pthread_cond_destroy(&pool->left);
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
    ensure(n_tasks <= UINT32_MAX - THREADS_MAX); /* each thread raises next_task once more than there are tasks */
    pool->fn = fn;
    pool->arg = arg;
    pool->n_tasks = n_tasks;
    atomic_store(&pool->next_task, 0);
    atomic_store(&pool->open, true);
    announce(pool);
    take_tasks(pool, 0);
    atomic_store(&pool->open, false);
    wait_left(pool);
}
