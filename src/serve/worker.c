/* worker.c - see worker.h. */
#include "serve/worker.h"

#include "base/clock.h"
#include "base/mem.h"

struct worker {
    struct ds4_token_index *index; /* NULL: the vocabulary cannot be constrained */
    struct compute *compute;     /* stepped by the thread */
    pthread_t thread;
    pthread_mutex_t lock;        /* over the queue and the flag */
    pthread_cond_t filled;
    struct job *first, *last;    /* handed in */
    bool quit;
    atomic_ullong round_ns;      /* when the present round began; 0 = idle */
};

/* Takes over what was handed in; waits for it when there is nothing else to do. False: quit. */
static bool take_work(struct worker *w)
{
    bool busy = compute_is_busy(w->compute);
    (void)pthread_mutex_lock(&w->lock);
    while (!busy && !w->first && !w->quit) {
        atomic_store(&w->round_ns, 0);
        (void)pthread_cond_wait(&w->filled, &w->lock);
    }
    struct job *first = w->first;
    w->first = w->last = NULL;
    (void)pthread_mutex_unlock(&w->lock);
    compute_take(w->compute, first);
    return busy || first;
}

static void *work(void *user)
{
    struct worker *w = user;
    while (take_work(w)) {
        atomic_store(&w->round_ns, clock_ns());
        compute_step(w->compute);
    }
    return NULL;
}

static enum ds4_status open_parts(struct worker *w, const struct compute_options *options, struct ds4_error *error)
{
    enum ds4_status status = ds4_token_index_create(options->engine, &w->index, error);
    if (status == DS4_ERR_UNSUPPORTED) { /* answers in a form are refused then */
        if (error) *error = (struct ds4_error){0};
        status = DS4_OK;
    }
    TRY(status);
    TRY(compute_create(options, &w->compute, error));
    if (pthread_mutex_init(&w->lock, NULL) || pthread_cond_init(&w->filled, NULL) ||
        pthread_create(&w->thread, NULL, work, w))
        return err_set(error, DS4_ERR_NOMEM, "the worker's thread cannot be started");
    return DS4_OK;
}

enum ds4_status worker_create(const struct compute_options *options, struct worker **out, struct ds4_error *error)
{
    struct worker *w = mem_zalloc(1, sizeof *w);
    if (!w) return err_set(error, DS4_ERR_NOMEM, "no memory for the worker");
    enum ds4_status status = open_parts(w, options, error);
    if (status == DS4_OK) {
        *out = w;
        return DS4_OK;
    }
    compute_destroy(w->compute);
    ds4_token_index_destroy(w->index);
    mem_free(w);
    return status;
}

const struct ds4_token_index *worker_token_index(const struct worker *w) { return w->index; }

void worker_submit(struct worker *w, struct job *job)
{
    (void)pthread_mutex_lock(&w->lock);
    bool question = job->kind == JOB_STORED; /* costs little: before those who wait for a session */
    job->next = question ? w->first : NULL;
    if (!question && w->last) w->last->next = job;
    else w->first = job;
    if (!job->next) w->last = job;
    (void)pthread_cond_signal(&w->filled);
    (void)pthread_mutex_unlock(&w->lock);
}

void worker_drain(struct worker *w, double grace_s) { compute_drain(w->compute, grace_s); }

double worker_silence_s(const struct worker *w)
{
    uint64_t began = atomic_load(&w->round_ns);
    return began ? clock_seconds_since(began) : 0;
}

void worker_put_slots(struct worker *w, struct buf *out) { compute_put_slots(w->compute, out); }

void worker_destroy(struct worker *w)
{
    if (!w) return;
    worker_drain(w, 0);
    (void)pthread_mutex_lock(&w->lock);
    w->quit = true;
    (void)pthread_cond_signal(&w->filled);
    (void)pthread_mutex_unlock(&w->lock);
    (void)pthread_join(w->thread, NULL);
    compute_destroy(w->compute);
    (void)pthread_cond_destroy(&w->filled);
    (void)pthread_mutex_destroy(&w->lock);
    ds4_token_index_destroy(w->index);
    mem_free(w);
}
