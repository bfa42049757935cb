/* sealed.c - see sealed.h. Base64 of RFC 4648, with padding, without line breaks. */
#include "serve/api/sealed.h"

#include <string.h>

#include "base/hash.h"

#define VERSION 1
#define FRONT_BYTES 17 /* version and digest */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void sealed_put(struct buf *out, struct ds4_span text)
{
    uint8_t front[FRONT_BYTES] = {VERSION};
    hash_bytes(text.ptr, text.len, front + 1);
    size_t n = FRONT_BYTES + text.len;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t bits = 0;
        for (size_t k = i; k < i + 3; k++) {
            uint8_t byte = k >= n ? 0 : k < FRONT_BYTES ? front[k] : (uint8_t)text.ptr[k - FRONT_BYTES];
            bits = bits << 8 | byte;
        }
        for (size_t k = 0; k < 4; k++)
            buf_put_byte(out, i + k <= n ? (unsigned char)digits[bits >> (18 - 6 * k) & 63] : '=');
    }
}

static int value_of(char c)
{
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

struct ds4_span sealed_open(struct arena *arena, struct ds4_span sealed)
{
    const struct ds4_span none = {NULL, 0};
    uint8_t digest[16];
    size_t n = 0;
    if (sealed.len % 4 || sealed.len < (FRONT_BYTES + 2) / 3 * 4) return none;
    uint8_t *bytes = arena_alloc(arena, sealed.len / 4 * 3 + 1, 1);
    if (!bytes) return none;
    size_t padding = sealed.ptr[sealed.len - 1] != '=' ? 0 : sealed.ptr[sealed.len - 2] != '=' ? 1 : 2;
    for (size_t i = 0; i < sealed.len; i += 4) {
        uint32_t bits = 0;
        for (size_t k = i; k < i + 4; k++) {
            int value = k >= sealed.len - padding ? 0 : value_of(sealed.ptr[k]);
            if (value < 0) return none;
            bits = bits << 6 | (uint32_t)value;
        }
        bytes[n++] = (uint8_t)(bits >> 16);
        bytes[n++] = (uint8_t)(bits >> 8);
        bytes[n++] = (uint8_t)bits;
    }
    n -= padding;
    if (n < FRONT_BYTES || bytes[0] != VERSION) return none;
    hash_bytes(bytes + FRONT_BYTES, n - FRONT_BYTES, digest);
    if (memcmp(digest, bytes + 1, sizeof digest) != 0) return none;
    return span_make((const char *)bytes + FRONT_BYTES, n - FRONT_BYTES);
}
