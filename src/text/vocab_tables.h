/* vocab_tables.h - the inside of struct vocab, for the encoder's inner loops. Not for other modules.
 *
 * Both hash tables use open addressing with linear probing and are at most half full. Most look-ups find nothing and
 * the tables do not fit the inner caches; therefore a bit for each hash value (four to a slot), small enough for them,
 * is asked first. */
#ifndef DS4_TEXT_VOCAB_TABLES_H
#define DS4_TEXT_VOCAB_TABLES_H

#include <stdatomic.h>

#include "base/hash.h"
#include "text/vocab.h"

#define VOCAB_NO_RANK UINT32_MAX
#define VOCAB_EMPTY UINT64_MAX

/* Whether the merges turn the bytes of a base token into just this token: then a piece equal to it needs no merging.
 * It holds for nearly all tokens, but not by construction, so each is tried once, when first met. */
enum { VOCAB_WHOLE_UNTRIED, VOCAB_WHOLE_YES, VOCAB_WHOLE_NO };

struct vocab {
    uint32_t n_tokens, n_merges, n_added;
    char *pool;                /* bytes of all tokens, in order of id */
    uint32_t *offsets;         /* [n_tokens + 1] into the pool */
    uint8_t *types;            /* [n_tokens] enum vocab_type */
    _Atomic uint8_t *whole;    /* [n_tokens] */
    int32_t byte_ids[256];     /* -1: the vocabulary has no token for this byte */
    uint64_t *base_slots;      /* upper half of the hash of the bytes << 32 | id */
    uint64_t base_mask;
    uint64_t *pair_slots;      /* left id << 44 | right id << 24 | rank */
    uint64_t pair_mask;
    uint64_t *base_filter;     /* [(base_mask + 1) * 4 bits] set = perhaps there; by the low bits of the hash */
    uint64_t *pair_filter;     /* the same of pair_slots */
    uint32_t *byte_pairs;      /* [256][256] rank of the merge of two bytes */
    uint32_t *merged;          /* [n_merges] id that the merge of this rank makes */
    uint32_t *added;           /* [n_added] ids in byte order of their literals */
    uint16_t added_len_max;
    uint32_t added_first[257]; /* added[added_first[b]..added_first[b+1]) begin with byte b */
    struct ds4_special_ids special;
};

static inline struct ds4_span vocab_bytes(const struct vocab *v, uint32_t id)
{
    return span_make(v->pool + v->offsets[id], v->offsets[id + 1] - v->offsets[id]);
}

static inline bool vocab_may_hold(const uint64_t *filter, uint64_t mask, uint64_t hash)
{
    uint64_t bit = hash & (mask << 2 | 3);
    return filter[bit >> 6] >> (bit & 63) & 1;
}

static inline void vocab_filter_set(uint64_t *filter, uint64_t mask, uint64_t hash)
{
    uint64_t bit = hash & (mask << 2 | 3);
    filter[bit >> 6] |= 1ull << (bit & 63);
}

static inline uint64_t vocab_pair_key(uint32_t left, uint32_t right) { return (uint64_t)left << 20 | right; }
static inline uint64_t vocab_pair_hash(uint64_t key) { return (key * 0x9E3779B97F4A7C15u) >> 24; }

/* Rank of the merge of two ids, or VOCAB_NO_RANK. */
static inline uint32_t vocab_rank(const struct vocab *v, uint32_t left, uint32_t right)
{
    uint64_t key = vocab_pair_key(left, right), hash = vocab_pair_hash(key);
    if (!vocab_may_hold(v->pair_filter, v->pair_mask, hash)) return VOCAB_NO_RANK;
    for (uint64_t i = hash;; i++) {
        uint64_t slot = v->pair_slots[i & v->pair_mask];
        if (slot == VOCAB_EMPTY) return VOCAB_NO_RANK;
        if (slot >> 24 == key) return (uint32_t)(slot & 0xFFFFFF);
    }
}

static inline int32_t vocab_lookup(const struct vocab *v, struct ds4_span bytes)
{
    uint64_t hash = hash_u64(bytes.ptr, bytes.len);
    if (!vocab_may_hold(v->base_filter, v->base_mask, hash)) return -1;
    for (uint64_t i = hash;; i++) {
        uint64_t slot = v->base_slots[i & v->base_mask];
        if (slot == VOCAB_EMPTY) return -1;
        if (slot >> 32 != hash >> 32) continue;
        uint32_t id = (uint32_t)slot;
        if (span_eq(vocab_bytes(v, id), bytes)) return (int32_t)id;
    }
}

#endif
