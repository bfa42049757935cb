/* key_pool.h - records of one size, each beginning with its key and found by it. A record keeps its number for as long
 * as it is there, so that records can name each other; its address is good until the next one is added. */
#ifndef DS4_STORE_KEY_POOL_H
#define DS4_STORE_KEY_POOL_H

#include "store/entry.h"

#define KEY_POOL_NONE UINT32_MAX

struct key_pool {
    unsigned char *records; /* [cap] */
    uint32_t *slots;        /* [n_slots] open addressing: 1 + the number of a record; 0: empty */
    size_t record_bytes, cap, n_slots;
    size_t n_ever, n;       /* records that were ever used; that are now */
    uint32_t free;          /* 1 + a record that is free, in whose key lies the next; 0: none */
};

void key_pool_init(struct key_pool *p, size_t record_bytes);
void key_pool_deinit(struct key_pool *p);
uint32_t key_pool_find(const struct key_pool *p, const struct entry_key *key);
/* A new record (the key is not there yet), zero behind its key; NONE without memory. */
uint32_t key_pool_add(struct key_pool *p, const struct entry_key *key);
/* The record becomes zero behind its key. */
void key_pool_remove(struct key_pool *p, uint32_t record_i);

#endif
