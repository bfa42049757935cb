/* hash.c - XXH3 by the xxHash library. See hash.h. */
#include "base/hash.h"

#include <xxhash.h>

#include "base/mem.h"

struct hash {
    XXH3_state_t *state;
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
    struct hash *h = mem_zalloc(1, sizeof *h);
    if (!h) return NULL;
    h->state = XXH3_createState();
    if (!h->state) {
        mem_free(h);
        return NULL;
    }
    (void)XXH3_128bits_reset(h->state);
    return h;
}

void hash_update(struct hash *h, const void *bytes, size_t n) { (void)XXH3_128bits_update(h->state, bytes, n); }

void hash_digest(const struct hash *h, uint8_t digest[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(h->state));
    for (int i = 0; i < 16; i++) digest[i] = canonical.digest[i];
}

void hash_destroy(struct hash *h)
{
    if (!h) return;
    (void)XXH3_freeState(h->state);
    mem_free(h);
}
