/* writer.c - files of the store, written and removed in the background. See writer.h. */
#include "store/writer.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#define HURRY_STEP_US 2000
#define BATCH_FILES 16 /* written and synced together: 15 MB of Flash's rows */

struct writer {
    pthread_t thread;
    pthread_mutex_t lock;     /* guards all below */
    pthread_cond_t wake, idle;
    struct writer_job *first, *last;          /* waiting */
    struct writer_job *done_first, *done_last;
    uint64_t queued_bytes;    /* of memory: waiting and being written */
    uint64_t peak_bytes;      /* most of them since writer_was_full said so */
    bool busy, stop;
    atomic_ullong deadline_ns; /* nothing is begun after it; 0: there is none */
    char dir[WRITER_PATH_BYTES]; /* not changed after creation */
    bool sync;
};

void writer_job_free(struct writer_job *job)
{
    if (!job) return;
    ds4_text_free(&job->bytes);
    mem_free(job);
}

bool writer_is_late(const struct writer *w)
{
    uint64_t deadline = atomic_load(&w->deadline_ns);
    return deadline && clock_ns() >= deadline;
}

/* Writes a file under its temporary name and leaves it open; all of any other job. */
static enum ds4_status begin(struct writer_job *job, int *fd)
{
    struct ds4_error *error = &job->error;
    *fd = -1;
    switch (job->kind) {
    case WRITER_FILE:
        TRY(file_open(job->temporary, FILE_CREATE_NEW, fd, error));
        return file_write_at(*fd, job->temporary, 0, job->bytes.ptr, job->bytes.len, error);
    case WRITER_REMOVE:
        return file_unlink(job->path, error) == DS4_OK || errno == ENOENT ? DS4_OK : DS4_ERR_IO;
    case WRITER_PATCH:
        if (job->cut) TRY(file_resize(job->fd, job->path, job->at, error));
        return file_write_at(job->fd, job->path, job->at, job->bytes.ptr, job->bytes.len, error);
    }
    return DS4_OK;
}

static void finish(const struct writer *w, struct writer_job *job, int fd)
{
    ds4_text_free(&job->bytes); /* whoever collects the job may be long in coming */
    if (job->kind != WRITER_FILE) return;
    if (!job->failed && writer_is_late(w)) job->failed = job->dropped = true; /* without its sync it is no file */
    if (!job->failed && w->sync) job->failed = file_sync(fd, job->temporary, &job->error) != DS4_OK;
    file_close(fd);
}

/* All are written before the first is synced, so that the system can write them out together, and the directory is
 * synced once. Names appear in the order of the jobs; after a power cut some may be missing, which a reader notices. */
static void write_batch(const struct writer *w, struct writer_job *jobs)
{
    int fds[BATCH_FILES];
    bool any = false;
    size_t i = 0;
    for (struct writer_job *job = jobs; job; job = job->next) {
        fds[i] = -1;
        job->dropped = writer_is_late(w);
        if (job->dropped) job->temporary[0] = 0;
        job->failed = job->dropped || begin(job, &fds[i]) != DS4_OK;
        i++;
    }
    i = 0;
    for (struct writer_job *job = jobs; job; job = job->next) finish(w, job, fds[i++]);
    for (struct writer_job *job = jobs; job; job = job->next) {
        if (job->kind != WRITER_FILE) continue;
        if (!job->failed) job->failed = file_rename(job->temporary, job->path, &job->error) != DS4_OK;
        if (!job->failed) any = true;
        else if (job->temporary[0]) (void)!file_unlink(job->temporary, NULL);
    }
    struct ds4_error error = {0};
    if (!any || !w->sync || file_sync_dir(w->dir, &error) == DS4_OK) return;
    for (struct writer_job *job = jobs; job; job = job->next) {
        if (job->kind != WRITER_FILE) continue;
        if (!job->failed) job->error = error;
        job->failed = true;
    }
}

/* Takes up to BATCH_FILES jobs off the queue. Under the lock. */
static struct writer_job *take_batch(struct writer *w)
{
    struct writer_job *first = w->first, *last = first;
    for (size_t n = 1; last->next && n < BATCH_FILES; n++) last = last->next;
    w->first = last->next;
    if (!w->first) w->last = NULL;
    last->next = NULL;
    return first;
}

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    (void)pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->first && !w->stop) (void)pthread_cond_wait(&w->wake, &w->lock);
        if (!w->first) break;
        struct writer_job *jobs = take_batch(w), *last = jobs;
        w->busy = true;
        (void)pthread_mutex_unlock(&w->lock);
        write_batch(w, jobs);
        (void)pthread_mutex_lock(&w->lock);
        w->busy = false;
        for (;; last = last->next) {
            w->queued_bytes -= last->n_queued;
            if (!last->next) break;
        }
        if (w->done_last) w->done_last->next = jobs;
        else w->done_first = jobs;
        w->done_last = last;
        if (!w->first) (void)pthread_cond_broadcast(&w->idle);
    }
    (void)pthread_mutex_unlock(&w->lock);
    return NULL;
}

enum ds4_status writer_create(const char *dir, bool sync, struct writer **out, struct ds4_error *error)
{
    struct writer *w = mem_zalloc(1, sizeof *w);
    if (!w) return err_set(error, DS4_ERR_NOMEM, "no memory for the store's writer");
    size_t len = strlen(dir);
    bool fits = len < sizeof w->dir;
    if (fits) memcpy(w->dir, dir, len);
    w->sync = sync;
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->wake, NULL);
    (void)pthread_cond_init(&w->idle, NULL);
    if (!fits || pthread_create(&w->thread, NULL, writer_main, w) != 0) {
        mem_free(w);
        return err_set(error, fits ? DS4_ERR_NOMEM : DS4_ERR_LIMIT, "cannot start the store's writer for %.200s", dir);
    }
    *out = w;
    return DS4_OK;
}

void writer_destroy(struct writer *w)
{
    if (!w) return;
    (void)pthread_mutex_lock(&w->lock);
    w->stop = true;
    (void)pthread_cond_broadcast(&w->wake);
    (void)pthread_mutex_unlock(&w->lock);
    (void)pthread_join(w->thread, NULL);
    for (struct writer_job *job; (job = writer_collect(w));) writer_job_free(job);
    (void)pthread_cond_destroy(&w->wake);
    (void)pthread_cond_destroy(&w->idle);
    (void)pthread_mutex_destroy(&w->lock);
    mem_free(w);
}

void writer_push(struct writer *w, struct writer_job *job)
{
    job->next = NULL;
    (void)pthread_mutex_lock(&w->lock);
    if (w->last) w->last->next = job;
    else w->first = job;
    w->last = job;
    job->n_queued = job->bytes.len + (job->kind == WRITER_FILE ? sizeof *job : 0); /* of a small file that is most */
    w->queued_bytes += job->n_queued;
    if (w->queued_bytes > w->peak_bytes) w->peak_bytes = w->queued_bytes;
    (void)pthread_cond_signal(&w->wake);
    (void)pthread_mutex_unlock(&w->lock);
}

struct writer_job *writer_collect(struct writer *w)
{
    (void)pthread_mutex_lock(&w->lock);
    struct writer_job *job = w->done_first;
    if (job) w->done_first = job->next;
    if (!w->done_first) w->done_last = NULL;
    (void)pthread_mutex_unlock(&w->lock);
    return job;
}

void writer_flush(struct writer *w)
{
    (void)pthread_mutex_lock(&w->lock);
    while ((w->first || w->busy) && !writer_is_late(w)) {
        if (!atomic_load(&w->deadline_ns)) {
            (void)pthread_cond_wait(&w->idle, &w->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&w->lock); /* the disk may keep the thread for longer than there is time */
        (void)usleep(HURRY_STEP_US);
        (void)pthread_mutex_lock(&w->lock);
    }
    (void)pthread_mutex_unlock(&w->lock);
}

void writer_hurry(struct writer *w, double seconds)
{
    (void)pthread_mutex_lock(&w->lock);
    atomic_store(&w->deadline_ns, clock_ns() + (uint64_t)(seconds * 1e9) + 1);
    (void)pthread_cond_broadcast(&w->idle);
    (void)pthread_mutex_unlock(&w->lock);
}

bool writer_was_full(struct writer *w, uint64_t bytes)
{
    (void)pthread_mutex_lock(&w->lock);
    bool was = !w->first && !w->busy && w->peak_bytes > bytes;
    if (was) w->peak_bytes = 0;
    (void)pthread_mutex_unlock(&w->lock);
    return was;
}

uint64_t writer_queued_bytes(struct writer *w)
{
    (void)pthread_mutex_lock(&w->lock);
    uint64_t n = w->queued_bytes;
    (void)pthread_mutex_unlock(&w->lock);
    return n;
}
