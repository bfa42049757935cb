/* replay.h - which lists of dispatches are worth keeping for replay: those that came before. A decoded token is several
 * lists in turn (layers, head, choice), so the one before is not enough to look at. Plain C and C++. */
#ifndef DS4_GPU_REPLAY_H
#define DS4_GPU_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#define REPLAY_SEEN_MAX 16 /* lists back */

struct replay_seen {
    uint64_t digests[REPLAY_SEEN_MAX]; /* of the last lists, in turn */
    uint32_t n;
};

/* True when such a list was among the last ones; notes it otherwise. */
static inline bool replay_is_known(struct replay_seen *seen, uint64_t digest)
{
    uint32_t most = seen->n < REPLAY_SEEN_MAX ? seen->n : REPLAY_SEEN_MAX;
    for (uint32_t i = 0; i < most; i++)
        if (seen->digests[i] == digest) return true;
    seen->digests[seen->n++ % REPLAY_SEEN_MAX] = digest;
    return false;
}

#endif
