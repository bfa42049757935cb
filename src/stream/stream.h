/* stream.h - routed experts that do not fit in memory: a pool of slots with a budget of bytes, filled from the model
 * file by reader threads as the router names experts.
 *
 *   slot:  | part 0, at its own offset inside a page | part 1 ... | part 2 ... |     pages of 4096 bytes
 *
 * The parts of an expert (gate, up and down, or gate-and-up and down) are read with large aligned reads that bypass the
 * page cache. An address is published in a table [layer][part][expert] when the last byte is there; whoever multiplies
 * looks there and waits if need be. Between stream_begin and stream_end lies one forward pass; between two demands
 * everything that the first named stays where it is.
 *
 * Errors: a read that fails, a file that ends early or was changed or replaced, a slot that does not hold what its
 * table says: the first of them is kept, whoever waits is given zeros, and stream_end returns it. Nothing that was read
 * in doubt is published. The next pass starts anew.
 * Threads: all functions are the worker's, except stream_wait (threads of its pool) and the readers. */
#ifndef DS4_STREAM_STREAM_H
#define DS4_STREAM_STREAM_H

#include "base/file.h"
#include "stream/slots.h"

#define STREAM_PARTS_MAX 3u
#define STREAM_FILES_MAX 256u
#define STREAM_READERS_DEFAULT 8u /* reads of 2 MiB under way: 4, 8, 16 read 0.49, 0.57, 0.65 GB/s of a virtual disk */

struct stream_part {
    uint32_t file_i;
    uint64_t offset;      /* of expert 0 in the file */
    uint64_t stack_bytes; /* of one expert; experts lie one behind the other */
};
struct stream_layer {
    uint32_t n_parts; /* 0: the layer has no experts here */
    struct stream_part parts[STREAM_PARTS_MAX];
};
/* All matrices of one expert of the layer. */
static inline uint64_t stream_expert_bytes(const struct stream_layer *layer)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < layer->n_parts; i++) bytes += layer->parts[i].stack_bytes;
    return bytes;
}
struct stream_file {
    const char *path;
    struct file_id id; /* as it was when its directory was read */
};
struct stream_config {
    uint32_t n_files, n_layers, n_experts, n_used;
    const struct stream_file *files;
    const struct stream_layer *layers; /* [n_layers]; borrowed for stream_create only, as files */
    uint64_t budget_bytes;   /* of everything the pool allocates */
    uint64_t reserve_bytes;  /* memory of the machine that is to stay free: below it slots are given back; 0 = never */
    uint64_t hot_bytes;      /* pages of files that must stay: the system counts them among what is free */
    uint32_t n_rows_max;     /* of a batch */
    uint32_t n_readers;      /* 0 = STREAM_READERS_DEFAULT */
    bool paranoid;           /* checksums on every use */
};

/* What the budget buys. */
struct stream_size {
    uint32_t n_slots, n_need; /* n_need: most experts of one layer that a batch can name: fewer slots are refused */
    uint64_t slot_bytes, bytes; /* bytes: of all the pool allocates with n_slots */
    uint64_t least_bytes;       /* with n_need slots */
    uint32_t n_experts;         /* of all layers: more slots than that are not made */
};
void stream_size(const struct stream_config *c, struct stream_size *out);

struct stream;
/* Opens the files and starts the readers. LIMIT: the budget holds fewer slots than a batch may need. */
enum ds4_status stream_create(const struct stream_config *c, struct stream **out,
                              struct ds4_error *error) DS4_MUST_CHECK;
void stream_destroy(struct stream *s);

/* The memory that experts are in: slots, the last one of zeros for what cannot be had. */
struct stream_pool {
    const uint8_t *memory;
    uint64_t slot_bytes;
    uint32_t n_slots;
};
struct stream_pool stream_pool(const struct stream *s);
/* Addresses [n_experts] of a part; NULL while it is not there. Read with acquire. */
const uint8_t *const *stream_table(const struct stream *s, uint32_t layer_i, uint32_t part_i);
/* Returns when the part is there, or zeros when it cannot be had: never NULL. */
const uint8_t *stream_wait(struct stream *s, uint32_t layer_i, uint32_t part_i, uint32_t expert_i);

/* A pass over n_tokens begins: the files are checked, the memory of the machine is looked at. */
enum ds4_status stream_begin(struct stream *s, uint32_t n_tokens, struct ds4_error *error) DS4_MUST_CHECK;
/* What the router chose; room for n_rows_max * n_used. */
int32_t *stream_ids(struct stream *s);
/* The next products are with the first n of stream_ids, experts of this layer: what is missing starts to be read. */
void stream_want(struct stream *s, uint32_t layer_i, uint32_t n);
/* The same experts will be wanted in this pass: they are read when the readers have nothing else to do. */
void stream_expect(struct stream *s, uint32_t layer_i, uint32_t n);
/* Reads ahead those experts of the layer that a batch of n_rows will almost surely choose. */
void stream_guess(struct stream *s, uint32_t layer_i, uint32_t n_rows);
bool stream_may_miss(const struct stream *s); /* there are fewer slots than experts */
bool stream_failed(const struct stream *s); /* the pass cannot succeed any more */
enum ds4_status stream_end(struct stream *s, struct ds4_error *error) DS4_MUST_CHECK;

/* Statistics of earlier runs: probabilities [n_layers][n_experts] that a token chooses an expert, over so many tokens.
 * Then the hot set is brought in the background. */
void stream_set_rates(struct stream *s, const float *rates, double tokens);
void stream_get_rates(const struct stream *s, float *rates, double *tokens);
/* Waits until nothing is being read. */
void stream_settle(struct stream *s);

/* Sums over passes of one token, those before the last few dozen fading. */
struct stream_decoding {
    double n, hits, ahead, misses, reads, seconds, stall_seconds; /* n: passes; reads: of experts, in vain or not */
};
struct stream_figures {
    uint64_t n_hits, n_ahead, n_misses; /* asked for: in memory; read ahead in this pass; read while waited for */
    uint64_t n_reads; /* of experts: asked for, or ahead and begun before it was known that they are not wanted */
    struct stream_decoding decoding;
    uint64_t read_bytes;
    double read_seconds;  /* during which at least one read was under way */
    double stall_seconds; /* during which a product waited */
    uint32_t n_slots, n_slots_now;
    uint64_t bytes;       /* as stream_size says */
};
void stream_figures(struct stream *s, struct stream_figures *out);

#endif
