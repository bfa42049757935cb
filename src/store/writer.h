/* writer.h - the thread that changes the store's directory, so that a disk that is slow or hangs keeps nobody waiting
 * who computes. Files are handed over whole; each is written under a temporary name, synced, and renamed into place, in
 * the order it was handed over: a tip never appears before its segments. What is removed makes room before what was
 * handed over later is written. What waits is written in batches, for fewer waits on the disk.
 * A failure removes the temporary file and is counted; it never reaches the caller, who goes on. */
#ifndef DS4_STORE_WRITER_H
#define DS4_STORE_WRITER_H

#include "store/entry.h"

#define WRITER_PATH_BYTES 640

enum writer_kind {
    WRITER_FILE,   /* bytes become the file at path, through temporary */
    WRITER_REMOVE, /* the file at path goes; one that is not there is gone already */
    WRITER_PATCH   /* bytes go into the open file fd at `at`; what is behind them goes when `cut` */
};

/* One change. All zero but what its kind needs. */
struct writer_job {
    struct writer_job *next;
    enum writer_kind kind;
    struct ds4_text bytes;      /* owns; freed once written */
    uint64_t n_queued;          /* memory that it takes, once handed over; what removes is not counted */
    uint64_t n_bytes;           /* of the file that is written or removed */
    struct entry_key key;
    char path[WRITER_PATH_BYTES], temporary[WRITER_PATH_BYTES];
    int fd;
    uint64_t at;
    bool cut;
    bool failed;
    bool dropped;               /* failed because it was too late */
    struct ds4_error error;
};

struct writer;
/* dir: to be synced after a rename. sync false: no fdatasync at all. */
enum ds4_status writer_create(const char *dir, bool sync, struct writer **out, struct ds4_error *error) DS4_MUST_CHECK;
/* Does what is queued, then ends the thread. Jobs not yet collected are freed. */
void writer_destroy(struct writer *w);
/* Takes the job. */
void writer_push(struct writer *w, struct writer_job *job);
/* Finished jobs, oldest first, one at a time; NULL when there is none. The caller frees with writer_job_free. */
struct writer_job *writer_collect(struct writer *w);
void writer_flush(struct writer *w);
/* From `seconds` from now on nothing is begun or waited for any more: what waits is dropped. */
void writer_hurry(struct writer *w, double seconds);
bool writer_is_late(const struct writer *w);
uint64_t writer_queued_bytes(struct writer *w);
/* True once after nothing is queued any more and the queue has held more than so many bytes. */
bool writer_was_full(struct writer *w, uint64_t bytes);
void writer_job_free(struct writer_job *job);

#endif
