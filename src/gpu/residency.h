/* residency.h - where the weights of a model lie when a device has memory of its own: there, or in the memory of the
 * machine, which the device then reads over its bus, or on disk. Pure arithmetic over sizes; whoever calls brings the
 * budgets. What a token reads whole comes first, then what it reads in part, each in the order of the file: so the
 * bytes that cross the bus for a token are few, and the choice is the same for the same file and budgets. */
#ifndef DS4_GPU_RESIDENCY_H
#define DS4_GPU_RESIDENCY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum residency_place { RESIDENCY_DEVICE, RESIDENCY_HOST, RESIDENCY_DISK, RESIDENCY_PLACES };

/* A tensor; pieces do not overlap. */
struct residency_piece {
    const uint8_t *first;
    uint64_t bytes;
    double share; /* of it that a token reads: 1; of routed experts n_used / n_experts; of an embedding a row */
    enum residency_place place; /* filled by residency_decide */
    uint32_t stack; /* not 0: experts of this layer, together on the device or in a pool that is filled from disk */
};

struct residency {
    uint64_t bytes[RESIDENCY_PLACES];     /* of weights in each place */
    uint64_t per_token[RESIDENCY_PLACES]; /* of them that a token reads */
    uint64_t streamed;                    /* of those on disk: stacks */
};

void residency_decide(struct residency_piece *pieces, size_t n, uint64_t device_bytes, uint64_t host_bytes,
                      struct residency *out);

/* Neighbours in one place, to be given to the device together. Runs on the host are whole pages and have none in
 * common, so that each can be pinned: a piece of less than a page between two of them is in the run of both. Pieces are
 * in ascending order of addresses, of one mapping; *next begins with 0; false when there are no more. */
struct residency_run {
    const uint8_t *first;
    uint64_t bytes;
    enum residency_place place;
};
bool residency_next_run(const struct residency_piece *pieces, size_t n, size_t *next, struct residency_run *run);

#endif
