/* utf8.c - UTF-8 by the table of well-formed byte sequences. See utf8.h. */
#include "base/utf8.h"

#include <string.h>

/* Range of the second byte for a lead byte, and the sequence's length; length 0 = not a lead. */
struct lead {
    unsigned char len, lo, hi;
};

static struct lead lead_of(unsigned char c)
{
    if (c < 0x80) return (struct lead){1, 0, 0};
    if (c >= 0xC2 && c <= 0xDF) return (struct lead){2, 0x80, 0xBF};
    if (c == 0xE0) return (struct lead){3, 0xA0, 0xBF};
    if (c == 0xED) return (struct lead){3, 0x80, 0x9F};
    if (c >= 0xE1 && c <= 0xEF) return (struct lead){3, 0x80, 0xBF};
    if (c == 0xF0) return (struct lead){4, 0x90, 0xBF};
    if (c >= 0xF1 && c <= 0xF3) return (struct lead){4, 0x80, 0xBF};
    if (c == 0xF4) return (struct lead){4, 0x80, 0x8F};
    return (struct lead){0, 0, 0};
}

uint32_t utf8_next(const char *ptr, size_t len, size_t *taken)
{
    const unsigned char *p = (const unsigned char *)ptr;
    struct lead lead = lead_of(p[0]);
    *taken = 1;
    if (lead.len == 0) return UTF8_BAD;
    if (lead.len == 1) return p[0];
    uint32_t scalar = p[0] & (0x7Fu >> lead.len);
    for (size_t i = 1; i < lead.len; i++) {
        if (i >= len) return UTF8_BAD;
        unsigned char lo = i == 1 ? lead.lo : 0x80, hi = i == 1 ? lead.hi : 0xBF;
        if (p[i] < lo || p[i] > hi) return UTF8_BAD;
        scalar = scalar << 6 | (p[i] & 0x3Fu);
        *taken = i + 1;
    }
    return scalar;
}

size_t utf8_put(uint32_t scalar, char out[4])
{
    if (scalar < 0x80) {
        out[0] = (char)scalar;
        return 1;
    }
    if (scalar < 0x800) {
        out[0] = (char)(0xC0 | scalar >> 6);
        out[1] = (char)(0x80 | (scalar & 0x3F));
        return 2;
    }
    if (scalar < 0x10000) {
        out[0] = (char)(0xE0 | scalar >> 12);
        out[1] = (char)(0x80 | (scalar >> 6 & 0x3F));
        out[2] = (char)(0x80 | (scalar & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | scalar >> 18);
    out[1] = (char)(0x80 | (scalar >> 12 & 0x3F));
    out[2] = (char)(0x80 | (scalar >> 6 & 0x3F));
    out[3] = (char)(0x80 | (scalar & 0x3F));
    return 4;
}

/* Bytes of s from `at` on that are ASCII, in words of eight. */
static size_t ascii_run(struct ds4_span s, size_t at)
{
    size_t end = at;
    for (uint64_t word; end + sizeof word <= s.len; end += sizeof word) {
        memcpy(&word, s.ptr + end, sizeof word);
        if (word & 0x8080808080808080u) break;
    }
    return end - at;
}

bool utf8_valid(struct ds4_span s)
{
    size_t taken;
    for (size_t at = 0; at < s.len; at += taken) {
        taken = ascii_run(s, at);
        if (taken == 0 && utf8_next(s.ptr + at, s.len - at, &taken) == UTF8_BAD) return false;
    }
    return true;
}

size_t utf8_complete_len(struct ds4_span s)
{
    for (size_t back = 1; back <= 3 && back <= s.len; back++) {
        unsigned char c = (unsigned char)s.ptr[s.len - back];
        if ((c & 0xC0) == 0x80) continue;
        struct lead lead = lead_of(c);
        if (lead.len <= back) return s.len;
        size_t taken;
        uint32_t scalar = utf8_next(s.ptr + s.len - back, back, &taken);
        return scalar == UTF8_BAD && taken == back ? s.len - back : s.len;
    }
    return s.len;
}
