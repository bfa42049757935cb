/* writer.h - the thread that writes the store's files. Files are handed over whole; each is written under a temporary
 * name, synced, and renamed into place, in the order it was handed over: a tip never appears before its segments.
 * What waits is written in batches, for fewer waits on the disk.
 * A failure removes the temporary file and is counted; it never reaches the caller, who goes on. */
#ifndef DS4_STORE_WRITER_H
#define DS4_STORE_WRITER_H

#include "store/entry.h"

#define WRITER_PATH_BYTES 640

/* One file. front is owned; payload pieces were copied behind it by the caller into the same buffer. */
struct writer_job {
    struct writer_job *next;
    struct ds4_text bytes;      /* owns; freed once written */
    uint64_t n_bytes;           /* of the file */
    struct entry_key key;
    char path[WRITER_PATH_BYTES], temporary[WRITER_PATH_BYTES];
    bool failed;
    struct ds4_error error;
};

struct writer;
/* dir: to be synced after a rename. sync false: no fdatasync at all. */
enum ds4_status writer_create(const char *dir, bool sync, struct writer **out, struct ds4_error *error) DS4_MUST_CHECK;
/* Writes what is queued, then ends the thread. Jobs not yet collected are freed. */
void writer_destroy(struct writer *w);
/* Takes the job. */
void writer_push(struct writer *w, struct writer_job *job);
/* Finished jobs, oldest first, one at a time; NULL when there is none. The caller frees with writer_job_free. */
struct writer_job *writer_collect(struct writer *w);
void writer_flush(struct writer *w);
uint64_t writer_queued_bytes(struct writer *w);
void writer_job_free(struct writer_job *job);

#endif
