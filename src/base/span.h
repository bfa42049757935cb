/* span.h - bytes with a length: comparison and slicing. The struct itself is public (ds4.h). */
#ifndef DS4_BASE_SPAN_H
#define DS4_BASE_SPAN_H

#include <string.h>

#include "ds4.h"

#define SPAN(literal) ((struct ds4_span){(literal), sizeof(literal) - 1})

static inline struct ds4_span span_make(const char *ptr, size_t len)
{
    struct ds4_span s = {ptr, len};
    return s;
}
static inline struct ds4_span span_from(const char *text) { return span_make(text, text ? strlen(text) : 0); }
static inline bool span_eq(struct ds4_span a, struct ds4_span b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}
static inline bool span_starts(struct ds4_span text, struct ds4_span prefix)
{
    return text.len >= prefix.len && (prefix.len == 0 || memcmp(text.ptr, prefix.ptr, prefix.len) == 0);
}
static inline bool span_ends(struct ds4_span text, struct ds4_span tail)
{
    return text.len >= tail.len && (tail.len == 0 || memcmp(text.ptr + text.len - tail.len, tail.ptr, tail.len) == 0);
}
/* text without its first n bytes (n <= len). */
static inline struct ds4_span span_skip(struct ds4_span text, size_t n)
{
    return span_make(text.ptr + n, text.len - n);
}
/* Offset of the first occurrence of needle at or after from, or SIZE_MAX. */
size_t span_find(struct ds4_span text, struct ds4_span needle, size_t from);

#endif
