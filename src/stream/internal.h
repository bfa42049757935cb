/* internal.h - the struct of the pool, for the files of this folder. Everything below `lock` belongs to its holder. */
#ifndef DS4_STREAM_INTERNAL_H
#define DS4_STREAM_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "stream/stream.h"

#define STREAM_READERS_MAX 64u
#ifdef DS4_SMALL_LIMITS
#define PIECE_BYTES 4096u
#else
#define PIECE_BYTES ((uint32_t)4 << 20) /* one read: larger ones were no faster, and four of them keep a disk busy */
#endif

/* Slots whose pieces are to be read, first come first. */
struct read_queue {
    uint32_t *items; /* [n_slots] ring */
    uint32_t head, n;
};

struct open_file {
    char *path;
    struct file_id id;
    int fd;
};

struct stream {
    struct stream_config c;
    struct stream_size size;
    struct stream_layer *layers;
    struct open_file files[STREAM_FILES_MAX];
    uint8_t *memory;       /* [n_slots][slot_bytes], then one slot of zeros */
    uint64_t memory_bytes;
    void *tables;          /* the arrays below, one block */
    const uint8_t **at;    /* [n_layers][STREAM_PARTS_MAX][n_experts] */
    uint64_t *sums;        /* [n_keys] checksums seen, 0 = none yet; paranoid only */
    uint32_t *counts;      /* [n_experts] of the batch */
    int32_t *ids;          /* [n_rows_max n_used] */
    uint32_t *n_issued;    /* [n_slots] pieces given to readers */
    pthread_t threads[STREAM_READERS_MAX];
    uint32_t n_threads;
    uint32_t n_tokens;     /* of the pass under way */
    uint64_t looked_ns;    /* when the memory of the machine was last looked at */
    _Atomic bool failed;

    pthread_mutex_t lock;
    pthread_cond_t work, done; /* something to read; something was read or failed */
    struct slots slots;
    struct read_queue demand, ahead, idle; /* idle: the hot set at the start, when there is nothing else to read */
    uint32_t n_loading, n_reading, n_waiting;
    uint64_t reading_since_ns, waiting_since_ns;
    bool stop;
    struct ds4_error error, ahead_error; /* of what was asked for; of the last read ahead that failed */
    struct stream_figures figures, before; /* before: as they were when the pass began */
    uint64_t began_ns;
};

/* One read: n bytes of the file at `at`, both ends widened to whole blocks; to is aligned and has room. */
struct piece {
    const struct open_file *file;
    uint64_t at;
    uint8_t *to;
    size_t n;
};

/* OK while the file behind fd is what was opened. */
enum ds4_status stream_compare_file(const struct open_file *file, int fd, struct ds4_error *error) DS4_MUST_CHECK;
void *stream_reader(void *stream); /* reader.c: a thread */
/* Piece i of what belongs into the slot; false past the last one. */
bool stream_piece(const struct stream *s, uint32_t slot_i, uint32_t i, struct piece *out);
/* Where a part of an expert lies in a slot. */
uint8_t *stream_part_address(const struct stream *s, uint32_t slot_i, uint32_t key, uint32_t part_i);
uint64_t stream_checksum(const struct stream *s, uint32_t slot_i, uint32_t key);
void stream_fail(struct stream *s, const struct ds4_error *error); /* lock is held */
void stream_push(const struct stream *s, struct read_queue *q, uint32_t slot_i);
void stream_pressure(struct stream *s); /* pressure.c: gives slots back, takes them again */

#endif
