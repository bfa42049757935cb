/* test_base_thread_pool.c - every task once, nobody left behind, on few and on far too many threads. */
#include "lib/test.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "base/thread_pool.h"
#include "lib/alloc_fail.h"

#define N_TASKS_MAX 1000
#define N_WORKERS_MAX 40

struct tally {
    uint32_t n_runs[N_TASKS_MAX];          /* plain on purpose: the thread sanitizer watches */
    uint64_t n_done_by[N_WORKERS_MAX];     /* scratch of a worker, plain too */
    _Atomic bool busy[N_WORKERS_MAX];
    _Atomic bool shared_worker;
};

static void count_task(void *arg, uint32_t task_i, uint32_t worker_i)
{
    struct tally *tally = arg;
    if (atomic_exchange(&tally->busy[worker_i], true)) atomic_store(&tally->shared_worker, true);
    tally->n_runs[task_i]++;
    tally->n_done_by[worker_i]++;
    if (task_i % 97 == 5) (void)sched_yield();
    atomic_store(&tally->busy[worker_i], false);
}

/* Loops of many sizes; after each, the caller reads and writes what the tasks wrote. */
static void run_loops(uint32_t n_threads, int n_loops)
{
    static struct tally tally;
    memset(&tally, 0, sizeof tally);
    struct thread_pool *pool;
    struct ds4_error error = {0};
    assert_ok(thread_pool_create(n_threads, &pool, &error), error);
    assert_int_equal(thread_pool_size(pool), n_threads);
    uint64_t n_tasks_all = 0, n_done_all = 0;
    for (int loop = 0; loop < n_loops; loop++) {
        uint32_t n_tasks = loop % 10 == 9 ? N_TASKS_MAX : (uint32_t)loop % 7;
        thread_pool_run(pool, count_task, &tally, n_tasks);
        for (uint32_t i = 0; i < N_TASKS_MAX; i++) {
            if (tally.n_runs[i] != (i < n_tasks)) fail_msg("task %u ran %u times", i, tally.n_runs[i]);
            tally.n_runs[i] = 0;
        }
        n_tasks_all += n_tasks;
    }
    for (uint32_t i = 0; i < N_WORKERS_MAX; i++) n_done_all += tally.n_done_by[i];
    assert_int_equal(n_done_all, n_tasks_all);
    assert_false(atomic_load(&tally.shared_worker));
    thread_pool_destroy(pool);
}

TEST(pool_runs_every_task_exactly_once)
{
    run_loops(1, 200);
    run_loops(2, 3000);
    run_loops(3, 1000);
}

TEST(pool_finishes_with_many_more_threads_than_cores)
{
    run_loops(N_WORKERS_MAX, 100);
}

TEST(pool_wakes_workers_that_fell_asleep)
{
    static struct tally tally;
    struct thread_pool *pool;
    struct ds4_error error = {0};
    assert_ok(thread_pool_create(3, &pool, &error), error);
    for (int loop = 0; loop < 20; loop++) {
        struct timespec pause = {.tv_nsec = 3000000};
        (void)nanosleep(&pause, NULL);
        memset(&tally, 0, sizeof tally);
        thread_pool_run(pool, count_task, &tally, 500);
        for (uint32_t i = 0; i < 500; i++) assert_int_equal(tally.n_runs[i], 1);
    }
    thread_pool_destroy(pool);
}

static void sleep_in_first(void *arg, uint32_t task_i, uint32_t worker_i)
{
    (void)worker_i;
    if (task_i == 0) {
        struct timespec pause = {.tv_nsec = 30000000};
        (void)nanosleep(&pause, NULL);
    }
    ((uint32_t *)arg)[task_i] = task_i + 1;
}

TEST(pool_waits_for_a_task_that_is_much_longer_than_the_others)
{
    struct thread_pool *pool;
    struct ds4_error error = {0};
    assert_ok(thread_pool_create(4, &pool, &error), error);
    for (int loop = 0; loop < 5; loop++) {
        uint32_t done[50] = {0};
        thread_pool_run(pool, sleep_in_first, done, 50);
        for (uint32_t i = 0; i < 50; i++) assert_int_equal(done[i], i + 1);
    }
    thread_pool_destroy(pool);
}

static void note_mask(void *arg, uint32_t task_i, uint32_t worker_i)
{
    sigset_t mask;
    (void)task_i;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &mask);
    bool good = worker_i == 0 ? !sigismember(&mask, SIGINT) : sigismember(&mask, SIGINT) && !sigismember(&mask, SIGBUS);
    if (!good) atomic_store((_Atomic bool *)arg, true);
}

TEST(pool_leaves_signals_to_the_caller)
{
    struct thread_pool *pool;
    struct ds4_error error = {0};
    _Atomic bool wrong = false;
    assert_ok(thread_pool_create(3, &pool, &error), error);
    for (int loop = 0; loop < 50; loop++) thread_pool_run(pool, note_mask, &wrong, 200);
    thread_pool_destroy(pool);
    assert_false(atomic_load(&wrong));
}

static enum ds4_status make_pool(void *user, struct ds4_error *error)
{
    (void)user;
    struct thread_pool *pool;
    TRY(thread_pool_create(3, &pool, error));
    thread_pool_destroy(pool);
    return DS4_OK;
}

TEST(pool_comes_and_goes_without_leaving_anything)
{
    struct ds4_error error = {0};
    for (int i = 0; i < 100; i++) assert_ok(make_pool(NULL, &error), error);
    assert_in_range(alloc_fail_loop("thread pool", make_pool, NULL, 1), 1, 10);
    thread_pool_destroy(NULL);
}

TEST(pool_takes_one_thread_a_core_by_default)
{
    struct thread_pool *pool;
    struct ds4_error error = {0};
    assert_ok(thread_pool_create(0, &pool, &error), error);
    assert_int_equal(thread_pool_size(pool), thread_cores());
    thread_pool_destroy(pool);
}

int main(void)
{
    return RUN_TESTS(T(pool_runs_every_task_exactly_once), T(pool_finishes_with_many_more_threads_than_cores),
                     T(pool_wakes_workers_that_fell_asleep),
                     T(pool_waits_for_a_task_that_is_much_longer_than_the_others),
                     T(pool_leaves_signals_to_the_caller), T(pool_comes_and_goes_without_leaving_anything),
                     T(pool_takes_one_thread_a_core_by_default));
}
