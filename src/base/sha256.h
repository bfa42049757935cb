/* sha256.h - SHA-256 (FIPS 180-4), for digests that others compute too: a policy of content, a published file. */
#ifndef DS4_BASE_SHA256_H
#define DS4_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32

void sha256_bytes(const void *bytes, size_t n, uint8_t digest[SHA256_BYTES]);

#endif
