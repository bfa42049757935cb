/* key_pool.c - see key_pool.h. */
#include "store/key_pool.h"

#include "base/bytes.h"
#include "base/mem.h"

#define SLOTS_LEAST 256u

void key_pool_init(struct key_pool *p, size_t record_bytes) { *p = (struct key_pool){.record_bytes = record_bytes}; }

void key_pool_deinit(struct key_pool *p)
{
    mem_free(p->records);
    mem_free(p->slots);
    *p = (struct key_pool){.record_bytes = p->record_bytes};
}

static unsigned char *record_at(const struct key_pool *p, uint32_t i) { return p->records + i * p->record_bytes; }

static size_t slot_of(const struct key_pool *p, const void *key)
{
    size_t i = (size_t)load_u64(key) & (p->n_slots - 1);
    while (p->slots[i] && memcmp(record_at(p, p->slots[i] - 1), key, sizeof(struct entry_key)) != 0)
        i = (i + 1) & (p->n_slots - 1);
    return i;
}

uint32_t key_pool_find(const struct key_pool *p, const struct entry_key *key)
{
    return p->n_slots ? p->slots[slot_of(p, key)] - 1 : KEY_POOL_NONE; /* 0 - 1 is NONE */
}

/* Room for one more record, and at least as many empty slots as taken ones. */
static bool grow(struct key_pool *p)
{
    if (!p->free && p->n_ever == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : SLOTS_LEAST / 2;
        unsigned char *records = cap < KEY_POOL_NONE ? mem_realloc(p->records, cap, p->record_bytes) : NULL;
        if (!records) return false;
        p->records = records;
        p->cap = cap;
    }
    if (2 * (p->n + 1) <= p->n_slots) return true;
    size_t n_slots = p->n_slots ? p->n_slots * 2 : SLOTS_LEAST;
    struct key_pool wider = *p;
    wider.slots = mem_zalloc(n_slots, sizeof *wider.slots);
    wider.n_slots = n_slots;
    if (!wider.slots) return false;
    for (size_t i = 0; i < p->n_slots; i++)
        if (p->slots[i]) wider.slots[slot_of(&wider, record_at(p, p->slots[i] - 1))] = p->slots[i];
    mem_free(p->slots);
    *p = wider;
    return true;
}

uint32_t key_pool_add(struct key_pool *p, const struct entry_key *key)
{
    if (!grow(p)) return KEY_POOL_NONE;
    uint32_t i = p->free ? p->free - 1 : (uint32_t)p->n_ever++;
    unsigned char *record = record_at(p, i);
    if (p->free) p->free = load_u32(record);
    memset(record, 0, p->record_bytes);
    memcpy(record, key->bytes, sizeof key->bytes);
    p->slots[slot_of(p, key)] = i + 1;
    p->n++;
    return i;
}

void key_pool_remove(struct key_pool *p, uint32_t record_i)
{
    unsigned char *record = record_at(p, record_i);
    size_t gap = slot_of(p, record);
    p->slots[gap] = 0;
    /* Close the gap: whatever was pushed past this slot moves back. */
    for (size_t i = gap;;) {
        i = (i + 1) & (p->n_slots - 1);
        uint32_t moved = p->slots[i];
        if (!moved) break;
        p->slots[i] = 0;
        p->slots[slot_of(p, record_at(p, moved - 1))] = moved;
    }
    memset(record, 0, p->record_bytes);
    store_u32(record, p->free);
    p->free = record_i + 1;
    p->n--;
}
