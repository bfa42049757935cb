/* thread_pool.c - what a parallel loop costs: `make measure` prints, for 1 to all cores, the time of a loop in which
 * all threads meet, and of loops with some 50 us of work a thread; then the same while other processes keep every core
 * busy. Best and median of the samples. A measurement, not a test: its figures belong in a report together with the
 * machine's name. */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/thread_pool.h"

#define N_LOOPS 200
#define N_SAMPLES 41

static volatile uint32_t sink;

struct meeting {
    _Atomic uint32_t n_came;
    uint32_t n_threads;
};

/* Ends when every thread has a task of this loop. */
static void meet(void *arg, uint32_t task_i, uint32_t worker_i)
{
    (void)task_i;
    (void)worker_i;
    struct meeting *m = arg;
    uint32_t ticket = atomic_fetch_add(&m->n_came, 1), wanted = (ticket / m->n_threads + 1) * m->n_threads;
    while (atomic_load(&m->n_came) < wanted)
        if (ticket % 64 == 63) (void)sched_yield();
}

static void some_work(void *arg, uint32_t task_i, uint32_t worker_i)
{
    (void)worker_i;
    uint32_t n = *(const uint32_t *)arg, x = task_i;
    for (uint32_t i = 0; i < n; i++) x = x * 1664525u + 1013904223u;
    if (x == 1) sink = x;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct figure {
    double best_us, median_us; /* of a loop */
};

static struct figure measure(struct thread_pool *pool, thread_pool_fn fn, void *arg, uint32_t n_tasks, int n_loops)
{
    double samples[N_SAMPLES];
    for (int s = 0; s < N_SAMPLES; s++) {
        uint64_t start = clock_ns();
        for (int i = 0; i < n_loops; i++) thread_pool_run(pool, fn, arg, n_tasks);
        samples[s] = clock_seconds_since(start) * 1e6 / n_loops;
    }
    qsort(samples, N_SAMPLES, sizeof samples[0], by_value);
    return (struct figure){samples[0], samples[N_SAMPLES / 2]};
}

static void report(const char *when)
{
    uint32_t n_cores = thread_cores(), n_turns = 20000;
    for (uint32_t n_threads = 1; n_threads <= n_cores; n_threads++) {
        struct thread_pool *pool;
        struct ds4_error error = {0};
        if (thread_pool_create(n_threads, &pool, &error) != DS4_OK) {
            (void)fprintf(stderr, "%s\n", error.message);
            return;
        }
        struct meeting meeting = {.n_threads = n_threads};
        uint32_t n_eighth = n_turns / 8;
        struct figure all = measure(pool, meet, &meeting, n_threads, N_LOOPS);
        struct figure one = measure(pool, some_work, &n_turns, n_threads, N_LOOPS);
        struct figure dealt = measure(pool, some_work, &n_eighth, 8 * n_threads, N_LOOPS);
        (void)printf("%s, %u threads: all meet %.2f (%.2f) us, one task a thread %.1f (%.1f) us, "
                     "the same work in 8 tasks a thread %.1f (%.1f) us\n", when, n_threads, all.best_us, all.median_us,
                     one.best_us, one.median_us, dealt.best_us, dealt.median_us);
        thread_pool_destroy(pool);
    }
}

int main(void)
{
    report("free cores");
    pid_t busy[64];
    uint32_t n_busy = thread_cores() < 64 ? thread_cores() : 64;
    for (uint32_t i = 0; i < n_busy; i++) {
        busy[i] = fork();
        if (busy[i] == 0)
            for (;;) sink = sink + 1;
    }
    report("busy cores");
    for (uint32_t i = 0; i < n_busy; i++) {
        if (busy[i] <= 0) continue;
        (void)kill(busy[i], SIGKILL);
        (void)waitpid(busy[i], NULL, 0);
    }
    return 0;
}
