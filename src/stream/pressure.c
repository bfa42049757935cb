/* pressure.c - the pool gives way: when the machine runs short of memory, slots go back to the system before it swaps,
 * and they return when there is room again. */
#include "base/clock.h"
#include "base/mem.h"
#include "stream/internal.h"

#define LOOK_EVERY_NS 250000000u /* reading two small files of the system costs 20 us */
#define STALL_PERCENT_MAX 20.0   /* of the last ten seconds in which something waited for memory */

/* Gives back up to n slots, never more than the largest demand leaves. */
static void give_back(struct stream *s, uint64_t n)
{
    for (; n > 0 && s->size.n_slots - s->slots.n_away > s->size.n_need + s->slots.n_ahead; n--) {
        uint32_t evicted, slot_i = slots_give(&s->slots, &evicted);
        if (slot_i == SLOT_NONE) return;
        for (uint32_t p = 0; evicted != SLOT_NONE && p < STREAM_PARTS_MAX; p++)
            __atomic_store_n(&s->at[(evicted / s->c.n_experts * STREAM_PARTS_MAX + p) * s->c.n_experts +
                                    evicted % s->c.n_experts], NULL, __ATOMIC_RELEASE);
        mem_discard(s->memory + slot_i * s->size.slot_bytes, (size_t)s->size.slot_bytes);
    }
}

static void take_again(struct stream *s, uint64_t n)
{
    for (uint32_t i = 0; i < s->size.n_slots && n > 0; i++) {
        if (s->slots.slots[i].state != SLOT_AWAY) continue;
        s->slots.slots[i].state = SLOT_EMPTY;
        s->slots.n_away--;
        n--;
    }
}

void stream_pressure(struct stream *s)
{
    uint64_t now = clock_ns();
    if (s->c.reserve_bytes == 0 || (s->looked_ns && now - s->looked_ns < LOOK_EVERY_NS)) return;
    s->looked_ns = now;
    uint64_t there = mem_available_bytes(), hot = s->c.hot_bytes, reserve = s->c.reserve_bytes;
    there -= there < hot ? there : hot;
    bool stalls = mem_stall_percent() > STALL_PERCENT_MAX;
    pthread_mutex_lock(&s->lock);
    if (there < reserve) give_back(s, (reserve - there) / s->size.slot_bytes + 1);
    else if (stalls && there < 2 * reserve) give_back(s, s->size.n_slots / 16 + 1);
    else if (s->slots.n_away && !stalls && there > 2 * reserve)
        take_again(s, (there - 2 * reserve) / 2 / s->size.slot_bytes);
    pthread_mutex_unlock(&s->lock);
}
