/* hash.h - XXH3-128 digests: against accidents, not attackers. */
#ifndef DS4_BASE_HASH_H
#define DS4_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash; /* streaming state */

void hash_bytes(const void *bytes, size_t n, uint8_t digest[16]);
uint64_t hash_u64(const void *bytes, size_t n); /* XXH3-64, for tables */
struct hash *hash_create(void);                 /* NULL when out of memory */
void hash_update(struct hash *h, const void *bytes, size_t n);
void hash_digest(const struct hash *h, uint8_t digest[16]);
void hash_destroy(struct hash *h);

#endif
