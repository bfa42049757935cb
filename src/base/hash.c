/* hash.c - XXH3 by the xxHash library. See hash.h. */
#include "base/hash.h"

#define XXH_STATIC_LINKING_ONLY /* for the size of the state, so that it comes through our own door to the heap */
#include <xxhash.h>

#include "base/mem.h"

struct hash {
    XXH3_state_t state; /* aligned to 64 */
};

void hash_bytes(const void *bytes, size_t n, uint8_t digest[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, n));
    for (int i = 0; i < 16; i++) digest[i] = canonical.digest[i];
}

uint64_t hash_u64(const void *bytes, size_t n) { return XXH3_64bits(bytes, n); }

struct hash *hash_create(void)
{
    struct hash *h = mem_alloc_aligned(_Alignof(struct hash), sizeof *h);
    if (h) (void)XXH3_128bits_reset(&h->state);
    return h;
}

void hash_update(struct hash *h, const void *bytes, size_t n) { (void)XXH3_128bits_update(&h->state, bytes, n); }

void hash_digest(const struct hash *h, uint8_t digest[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&h->state));
    for (int i = 0; i < 16; i++) digest[i] = canonical.digest[i];
}

void hash_destroy(struct hash *h) { mem_free(h); }
