/* slots.h - which expert is in which slot, and which one makes room. Pure bookkeeping: the pool (stream.c) moves the
 * bytes, the simulator of the tests moves none. */
#ifndef DS4_STREAM_SLOTS_H
#define DS4_STREAM_SLOTS_H

#include "stream/habits.h"

#define SLOT_NONE UINT32_MAX

enum slot_state {
    SLOT_EMPTY,
    SLOT_LOADING, /* its bytes are on their way */
    SLOT_READY,
    SLOT_AWAY     /* its memory was given back to the system */
};

struct slot {
    uint32_t key;     /* of the expert it holds or will hold; SLOT_NONE */
    uint32_t epoch;   /* of the last demand for it */
    uint8_t state;
    bool ahead;       /* brought before it was asked for, and not asked for since */
    bool failed;      /* a part of it could not be read */
    uint8_t n_left;   /* pieces still to be read: stream.c */
};

struct slots {
    struct habits habits;
    struct slot *slots;      /* [n_slots] */
    uint32_t *slot_of;       /* [n_keys]; SLOT_NONE */
    uint32_t n_slots, n_away, n_ahead;
    uint32_t epoch;          /* of the present demand: what was asked for in it stays */
};

/* The arrays and those of habits are the caller's and zero. */
void slots_init(struct slots *s, uint32_t n_layers, uint32_t n_experts, uint32_t n_slots);
/* A slot for key, which has none: an empty one, or that of the expert least worth keeping. What is loading, was asked
 * for in this epoch or is ahead stays; for_ahead: also what is worth more than `worth`. SLOT_NONE when none is left.
 * *evicted is the key that lost its place, or SLOT_NONE. The slot is LOADING afterwards. */
uint32_t slots_take(struct slots *s, uint32_t key, bool for_ahead, double worth, uint32_t *evicted);
/* The slot holds nothing now. */
void slots_drop(struct slots *s, uint32_t slot_i);
/* The slot whose memory to give back next: empty or least worth; SLOT_NONE when all are needed. *evicted as above. The
 * slot is AWAY afterwards. */
uint32_t slots_give(struct slots *s, uint32_t *evicted);

#endif
