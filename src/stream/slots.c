/* slots.c - the table of slots. See slots.h. */
#include "stream/slots.h"

void slots_init(struct slots *s, uint32_t n_layers, uint32_t n_experts, uint32_t n_slots)
{
    habits_init(&s->habits, n_layers, n_experts, n_slots);
    s->n_slots = n_slots;
    s->n_away = s->n_ahead = 0;
    s->epoch = 1;
    for (uint32_t i = 0; i < n_slots; i++) s->slots[i] = (struct slot){.key = SLOT_NONE};
    for (uint32_t i = 0; i < s->habits.n_keys; i++) s->slot_of[i] = SLOT_NONE;
}

#define PINNED_WORTH 1e6 /* more than that of any that is not: those go only when nothing else is left */

static double worth_of(const struct slots *s, const struct slot *slot)
{
    return habits_worth(&s->habits, slot->key) + (s->habits.pinned[slot->key] ? PINNED_WORTH : 0);
}

static bool may_go(const struct slots *s, const struct slot *slot)
{
    return slot->state == SLOT_READY && slot->epoch != s->epoch && !slot->ahead;
}

static uint32_t find_victim(const struct slots *s, double below)
{
    uint32_t best = SLOT_NONE;
    double least = below;
    for (uint32_t i = 0; i < s->n_slots; i++) {
        const struct slot *slot = &s->slots[i];
        if (slot->state == SLOT_EMPTY) return i;
        if (!may_go(s, slot)) continue;
        double worth = worth_of(s, slot);
        if (worth >= least) continue;
        least = worth;
        best = i;
    }
    return best;
}

void slots_drop(struct slots *s, uint32_t slot_i)
{
    struct slot *slot = &s->slots[slot_i];
    if (slot->key != SLOT_NONE) s->slot_of[slot->key] = SLOT_NONE;
    s->n_ahead -= slot->ahead;
    *slot = (struct slot){.key = SLOT_NONE};
}

uint32_t slots_take(struct slots *s, uint32_t key, bool for_ahead, double worth, uint32_t *evicted)
{
    *evicted = SLOT_NONE;
    uint32_t found = find_victim(s, for_ahead ? worth : 1e30);
    if (found == SLOT_NONE) return SLOT_NONE;
    *evicted = s->slots[found].key;
    slots_drop(s, found);
    s->slots[found] = (struct slot){.key = key, .epoch = for_ahead ? 0 : s->epoch, .state = SLOT_LOADING,
                                    .ahead = for_ahead};
    s->n_ahead += for_ahead;
    s->slot_of[key] = found;
    return found;
}

uint32_t slots_give(struct slots *s, uint32_t *evicted)
{
    *evicted = SLOT_NONE;
    uint32_t found = find_victim(s, 1e30);
    if (found == SLOT_NONE) return SLOT_NONE;
    *evicted = s->slots[found].key;
    slots_drop(s, found);
    s->slots[found].state = SLOT_AWAY;
    s->n_away++;
    return found;
}
