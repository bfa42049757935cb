/* disk.c - which way of reading a model's experts from this disk is best: threads of pread past the page cache, through
 * it, or one thread with io_uring (Linux). What streaming does is decided by these figures.
 *
 *   disk FILE [seconds=N] [rounds=N] [only=TEXT]
 *
 * Every way reads random places of the file that have bytes, for some seconds a round, turn by turn with the others.
 * Printed: median and range over the rounds in GB/s, and processor time a GB. "all": reads without end; "one" and
 * "six": as many experts of 7.1 MB at once, and the next when the last byte is there, as a layer of decoding asks. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"

#if defined(__linux__)
#include <linux/io_uring.h>
#include <sys/syscall.h>
#endif

#define DEPTH_MAX 64u
#define EXTENTS_MAX 4096u
#define ROUNDS_MAX 99u
#define EXPERT_BYTES 7077888u /* of Flash: twice 2,162,688 of IQ2_XXS and 2,752,512 of Q2_K */

enum way_kind { THREADS, CACHED, RING };
struct way {
    const char *name;
    enum way_kind kind;
    uint32_t depth, piece, batch; /* reads under way, bytes of one, bytes waited for together; 0 = without end */
    uint32_t rest_us, n_places;   /* between batches, as computing does; 0 = everywhere, else so many places again */
};

#define KB(n) ((uint32_t)(n) << 10)
#define WAY(text, by, n, bytes, together, ...) \
    {.name = text, .kind = by, .depth = n, .piece = bytes, .batch = together, __VA_ARGS__}
static const struct way ways[] = {
    WAY("all: 1 thread, 2 MB", THREADS, 1, KB(2048), 0),      WAY("all: 4 threads, 2 MB", THREADS, 4, KB(2048), 0),
    WAY("all: 8 threads, 2 MB", THREADS, 8, KB(2048), 0),     WAY("all: 16 threads, 2 MB", THREADS, 16, KB(2048), 0),
    WAY("cached: 8 threads, 2 MB", CACHED, 8, KB(2048), 0),
    WAY("all: ring of 8, 2 MB", RING, 8, KB(2048), 0),        WAY("all: ring of 16, 2 MB", RING, 16, KB(2048), 0),
    WAY("all: 16 threads, 0.5 MB", THREADS, 16, KB(512), 0),  WAY("all: ring of 32, 0.5 MB", RING, 32, KB(512), 0),
    WAY("one: 8 threads, 4 MB", THREADS, 8, KB(4096), EXPERT_BYTES),
    WAY("one: 8 threads, 2 MB", THREADS, 8, KB(2048), EXPERT_BYTES),
    WAY("one: 8 threads, 1 MB", THREADS, 8, KB(1024), EXPERT_BYTES),
    WAY("one: 8 threads, 0.5 MB", THREADS, 8, KB(512), EXPERT_BYTES),
    WAY("one: 16 threads, 0.5 MB", THREADS, 16, KB(512), EXPERT_BYTES),
    WAY("one: ring of 16, 0.5 MB", RING, 16, KB(512), EXPERT_BYTES),
    WAY("one: 8 threads, 2 MB, rests of 10 ms", THREADS, 8, KB(2048), EXPERT_BYTES, .rest_us = 10000),
    WAY("one: 8 threads, 2 MB, 500 places", THREADS, 8, KB(2048), EXPERT_BYTES, .n_places = 500),
    WAY("six: 8 threads, 2 MB", THREADS, 8, KB(2048), 6 * EXPERT_BYTES),
    WAY("six: 16 threads, 2 MB", THREADS, 16, KB(2048), 6 * EXPERT_BYTES),
    WAY("six: ring of 16, 2 MB", RING, 16, KB(2048), 6 * EXPERT_BYTES),
};
#define N_WAYS (sizeof ways / sizeof *ways)

struct extent {
    uint64_t from, bytes;
};

/* What the threads of one turn share. */
struct turn {
    const struct way *way;
    int fd;
    uint8_t *buffers; /* [DEPTH_MAX][4 MB] */
    uint64_t end_ns, bytes, at, left; /* left: bytes of the batch not yet asked for; at: where the next piece lies */
    uint32_t n_under_way;
    bool failed;
    pthread_mutex_t lock;
    pthread_cond_t done;
};

static struct extent extents[EXTENTS_MAX];
static uint32_t n_extents;
static struct rng rng = {1};

static void find_extents(int fd, uint64_t file_bytes)
{
#ifdef SEEK_DATA
    for (off_t at = 0; n_extents < EXTENTS_MAX && (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
        off_t end = lseek(fd, at, SEEK_HOLE);
        if (end < 0) break;
        if (end - at >= 2 * (off_t)EXPERT_BYTES)
            extents[n_extents++] = (struct extent){(uint64_t)at, (uint64_t)(end - at)};
        at = end;
    }
#endif
    if (n_extents == 0) extents[n_extents++] = (struct extent){0, file_bytes};
}

/* A place with bytes for one expert. */
static uint64_t random_place(uint32_t n_places)
{
    static struct rng few;
    few = (struct rng){rng_below(&rng, n_places ? n_places : 1)};
    uint64_t all = 0;
    for (uint32_t i = 0; i < n_extents; i++) all += extents[i].bytes;
    uint64_t at = rng_below(n_places ? &few : &rng, all);
    uint32_t i = 0;
    while (at >= extents[i].bytes) at -= extents[i++].bytes;
    uint64_t last = extents[i].bytes - EXPERT_BYTES;
    return (extents[i].from + (at < last ? at : last)) & ~(uint64_t)(FILE_BLOCK_BYTES - 1);
}

/* Rests of all turns are no part of their times. */
static uint64_t rested_ns;

static void rest(uint32_t us)
{
    uint64_t start = clock_ns();
    (void)usleep(us);
    rested_ns += clock_ns() - start;
}

/* The next read of the turn; 0 when its time is over or the batch has no more. */
static uint32_t next_piece(struct turn *t, uint64_t *at)
{
    const struct way *way = t->way;
    if (t->left == 0) {
        if (t->failed || clock_ns() >= t->end_ns || (way->batch && t->n_under_way)) return 0;
        if (way->rest_us && t->bytes) rest(way->rest_us);
        t->left = way->batch ? way->batch : way->piece;
    }
    uint64_t asked = (way->batch ? way->batch : way->piece) - t->left;
    if (asked % EXPERT_BYTES == 0) t->at = random_place(way->n_places);
    uint64_t rest = EXPERT_BYTES - asked % EXPERT_BYTES;
    if (rest > t->left) rest = t->left;
    uint32_t n = rest < way->piece ? (uint32_t)rest : way->piece;
    *at = t->at;
    t->at += n;
    t->left -= n;
    t->n_under_way++;
    return n;
}

static bool is_over(const struct turn *t) { return t->failed || (t->left == 0 && clock_ns() >= t->end_ns); }

struct worker {
    struct turn *turn;
    uint8_t *buffer;
    pthread_t thread;
};

static void *read_pieces(void *arg)
{
    struct worker *w = arg;
    struct turn *t = w->turn;
    pthread_mutex_lock(&t->lock);
    while (!is_over(t)) {
        uint64_t at;
        uint32_t n = next_piece(t, &at);
        if (n == 0) {
            if (t->n_under_way == 0) break;
            pthread_cond_wait(&t->done, &t->lock);
            continue;
        }
        pthread_mutex_unlock(&t->lock);
        ssize_t got = pread(t->fd, w->buffer, n, (off_t)at);
        pthread_mutex_lock(&t->lock);
        t->failed |= got != (ssize_t)n;
        t->bytes += n;
        t->n_under_way--;
        pthread_cond_broadcast(&t->done);
    }
    pthread_cond_broadcast(&t->done);
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void turn_of_threads(struct turn *t)
{
    struct worker workers[DEPTH_MAX];
    uint32_t n = 0;
    for (; n < t->way->depth; n++) {
        workers[n] = (struct worker){t, t->buffers + (size_t)n * KB(4096), 0};
        if (pthread_create(&workers[n].thread, NULL, read_pieces, &workers[n]) != 0) break;
    }
    for (uint32_t i = 0; i < n; i++) (void)pthread_join(workers[i].thread, NULL);
}

#if defined(__linux__)
struct ring {
    int fd;
    uint8_t *sq, *cq;
    size_t sq_bytes, cq_bytes, sqes_bytes;
    struct io_uring_sqe *sqes;
    struct io_uring_params p;
};

static uint32_t *word(uint8_t *base, uint32_t offset) { return (uint32_t *)(void *)(base + offset); }

static bool ring_open(struct ring *r, uint32_t depth)
{
    memset(r, 0, sizeof *r);
    r->fd = (int)syscall(__NR_io_uring_setup, depth, &r->p);
    if (r->fd < 0) return false;
    r->sq_bytes = r->p.sq_off.array + r->p.sq_entries * sizeof(uint32_t);
    r->cq_bytes = r->p.cq_off.cqes + r->p.cq_entries * sizeof(struct io_uring_cqe);
    r->sqes_bytes = r->p.sq_entries * sizeof(struct io_uring_sqe);
    int rights = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    r->sq = mmap(NULL, r->sq_bytes, rights, flags, r->fd, IORING_OFF_SQ_RING);
    r->cq = mmap(NULL, r->cq_bytes, rights, flags, r->fd, IORING_OFF_CQ_RING);
    r->sqes = mmap(NULL, r->sqes_bytes, rights, flags, r->fd, IORING_OFF_SQES);
    return r->sq != MAP_FAILED && r->cq != MAP_FAILED && (void *)r->sqes != MAP_FAILED;
}

static void ring_push(struct ring *r, int fd, uint8_t *to, uint32_t n, uint64_t at, uint32_t buffer_i)
{
    uint32_t *tail = word(r->sq, r->p.sq_off.tail), slot = *tail & *word(r->sq, r->p.sq_off.ring_mask);
    r->sqes[slot] = (struct io_uring_sqe){.opcode = IORING_OP_READ, .fd = fd, .addr = (uint64_t)(uintptr_t)to,
                                          .len = n, .off = at, .user_data = (uint64_t)buffer_i << 32 | n};
    word(r->sq, r->p.sq_off.array)[slot] = slot;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
}

static void turn_of_ring(struct turn *t)
{
    struct ring r;
    uint32_t idle[DEPTH_MAX], n_idle = t->way->depth;
    for (uint32_t i = 0; i < n_idle; i++) idle[i] = i;
    t->failed = !ring_open(&r, t->way->depth);
    for (uint32_t n_new = 0; !t->failed; n_new = 0) {
        uint64_t at;
        uint32_t n;
        while (n_idle && (n = next_piece(t, &at)) != 0) {
            uint32_t i = idle[--n_idle];
            ring_push(&r, t->fd, t->buffers + (size_t)i * KB(4096), n, at, i);
            n_new++;
        }
        if (t->n_under_way == 0) break;
        if (syscall(__NR_io_uring_enter, r.fd, n_new, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0) t->failed = true;
        uint32_t *head = word(r.cq, r.p.cq_off.head), mask = *word(r.cq, r.p.cq_off.ring_mask);
        while (*head != __atomic_load_n(word(r.cq, r.p.cq_off.tail), __ATOMIC_ACQUIRE)) {
            const struct io_uring_cqe *cqe = (const void *)(r.cq + r.p.cq_off.cqes + (*head & mask) * sizeof *cqe);
            if (cqe->res != (int32_t)(cqe->user_data & UINT32_MAX)) t->failed = true;
            t->bytes += cqe->user_data & UINT32_MAX;
            idle[n_idle++] = (uint32_t)(cqe->user_data >> 32);
            t->n_under_way--;
            __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
        }
    }
    if (r.fd < 0) return;
    (void)munmap(r.sqes, r.sqes_bytes);
    (void)munmap(r.cq, r.cq_bytes);
    (void)munmap(r.sq, r.sq_bytes);
    (void)close(r.fd);
}
#else
static void turn_of_ring(struct turn *t) { t->failed = true; }
#endif

static double cpu_seconds(void)
{
    struct rusage u;
    (void)getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Bytes a second; *cpu: seconds a GB. 0: this way does not work here. */
static double run_turn(const struct way *way, int direct, int cached, uint8_t *buffers, double seconds, double *cpu)
{
    struct turn t = {.way = way, .fd = way->kind == CACHED ? cached : direct, .buffers = buffers};
    (void)pthread_mutex_init(&t.lock, NULL);
    (void)pthread_cond_init(&t.done, NULL);
#ifdef POSIX_FADV_DONTNEED
    if (way->kind == CACHED) (void)posix_fadvise(cached, 0, 0, POSIX_FADV_DONTNEED);
#endif
    double cpu_before = cpu_seconds();
    uint64_t start = clock_ns();
    rested_ns = 0;
    t.end_ns = start + (uint64_t)(seconds * 1e9);
    if (way->kind == RING) turn_of_ring(&t);
    else turn_of_threads(&t);
    double took = clock_seconds_since(start) - (double)rested_ns * 1e-9;
    *cpu = t.bytes ? (cpu_seconds() - cpu_before) / ((double)t.bytes * 1e-9) : 0;
    return t.failed ? 0 : (double)t.bytes / took;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(int direct, int cached, uint8_t *buffers, double seconds, uint32_t n_rounds, const char *only)
{
    static double rates[N_WAYS][ROUNDS_MAX], cpus[N_WAYS][ROUNDS_MAX];
    for (uint32_t r = 0; r < n_rounds; r++)
        for (size_t w = 0; w < N_WAYS; w++)
            if (strstr(ways[w].name, only))
                rates[w][r] = run_turn(&ways[w], direct, cached, buffers, seconds, &cpus[w][r]);
    (void)printf("%-36s %8s %17s %10s\n", "way", "GB/s", "least and most", "CPU s/GB");
    for (size_t w = 0; w < N_WAYS; w++) {
        if (!strstr(ways[w].name, only)) continue;
        qsort(rates[w], n_rounds, sizeof(double), ascending);
        qsort(cpus[w], n_rounds, sizeof(double), ascending);
        (void)printf("%-36s %8.3f %8.3f %8.3f %10.3f\n", ways[w].name, rates[w][n_rounds / 2] * 1e-9,
                     rates[w][0] * 1e-9, rates[w][n_rounds - 1] * 1e-9, cpus[w][n_rounds / 2]);
    }
}

int main(int argc, char **argv)
{
    double seconds = 1;
    uint32_t n_rounds = 5;
    const char *only = "";
    for (int i = 2; i < argc; i++) {
        if (strncmp(argv[i], "seconds=", 8) == 0) seconds = strtod(argv[i] + 8, NULL);
        if (strncmp(argv[i], "rounds=", 7) == 0) n_rounds = (uint32_t)strtoul(argv[i] + 7, NULL, 10);
        if (strncmp(argv[i], "only=", 5) == 0) only = argv[i] + 5;
    }
    if (n_rounds == 0 || n_rounds > ROUNDS_MAX) n_rounds = ROUNDS_MAX;
    if (argc < 2) {
        (void)printf("disk: give a large file to read\n");
        return 0;
    }
    struct ds4_error error = {0};
    struct file_id id;
    int direct, cached;
    if (file_open(argv[1], FILE_READ_BLOCKS, &direct, &error) != DS4_OK ||
        file_open(argv[1], FILE_READ, &cached, &error) != DS4_OK ||
        file_identity(direct, argv[1], &id, &error) != DS4_OK || id.size_bytes < 2ull * EXPERT_BYTES) {
        (void)fprintf(stderr, "%s\n", error.message[0] ? error.message : "the file is too small");
        return 1;
    }
    uint8_t *buffers = mem_map((size_t)DEPTH_MAX * KB(4096));
    if (!buffers) return 1;
    find_extents(direct, id.size_bytes);
    measure(direct, cached, buffers, seconds, n_rounds, only);
    return 0;
}
