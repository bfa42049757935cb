/* buf.c - growing byte strings, span search, and the public token list. See buf.h, span.h, ds4.h. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"

#ifdef DS4_SMALL_LIMITS
#define GROW_MIN 3u /* every text moves often */
#else
#define GROW_MIN 64u
#endif

size_t span_find(struct ds4_span text, struct ds4_span needle, size_t from)
{
    if (from > text.len || needle.len > text.len - from) return SIZE_MAX;
    if (needle.len == 0) return from;
    const char *hit = memmem(text.ptr + from, text.len - from, needle.ptr, needle.len);
    return hit ? (size_t)(hit - text.ptr) : SIZE_MAX;
}

/* The next capacity of at least need, by doubling from what is there. */
static size_t grown_cap(size_t cap, size_t need)
{
    if (cap < GROW_MIN) cap = GROW_MIN;
    while (cap < need) cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    return cap;
}

/* Room for extra bytes and slack bytes behind them; only the former count against the limit. */
static bool reserve(struct buf *b, size_t extra, size_t slack)
{
    uint64_t len, need;
    if (b->failed) return false;
    b->failed = true; /* unless we come to the end */
    if (!add_ok(b->text.len, extra, &len) || !add_ok(len, slack, &need)) return false;
    b->over_limit = b->limit && len > b->limit;
    if (b->over_limit) return false;
    if (need > b->text.cap) {
        size_t cap = grown_cap(b->text.cap, (size_t)need);
        char *grown = mem_realloc(b->text.ptr, cap, 1);
        if (!grown) return false;
        b->text.ptr = grown;
        b->text.cap = cap;
    }
    b->failed = false;
    return true;
}

void buf_put(struct buf *b, const void *bytes, size_t n)
{
    if (n == 0 || !reserve(b, n, 0)) return;
    memcpy(b->text.ptr + b->text.len, bytes, n);
    b->text.len += n;
}

void buf_put_span(struct buf *b, struct ds4_span s) { buf_put(b, s.ptr, s.len); }
void buf_put_text(struct buf *b, const char *nul_terminated) { buf_put(b, nul_terminated, strlen(nul_terminated)); }
void buf_put_byte(struct buf *b, unsigned char byte) { buf_put(b, &byte, 1); }

void buf_printf(struct buf *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int wanted = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (wanted < 0) {
        b->failed = true;
    } else if (reserve(b, (size_t)wanted, 1)) {
        (void)vsnprintf(b->text.ptr + b->text.len, (size_t)wanted + 1, format, again);
        b->text.len += (size_t)wanted;
    }
    va_end(again);
}

void buf_put_json_string(struct buf *b, struct ds4_span s)
{
    buf_put_byte(b, '"');
    for (size_t i = 0; i < s.len;) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c == '"' || c == '\\') {
            buf_put_byte(b, '\\');
            buf_put_byte(b, c);
            i++;
        } else if (c == '\n' || c == '\r' || c == '\t' || c == '\b' || c == '\f') {
            buf_put_byte(b, '\\');
            buf_put_byte(b, c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c == '\b' ? 'b' : 'f');
            i++;
        } else if (c < 0x20) {
            buf_printf(b, "\\u%04x", c);
            i++;
        } else {
            size_t taken;
            uint32_t scalar = utf8_next(s.ptr + i, s.len - i, &taken);
            if (scalar == UTF8_BAD)
                buf_put(b, "\xEF\xBF\xBD", 3);
            else
                buf_put(b, s.ptr + i, taken);
            i += taken;
        }
    }
    buf_put_byte(b, '"');
}

void buf_clear(struct buf *b)
{
    b->text.len = 0;
    b->failed = b->over_limit = false;
}

void buf_deinit(struct buf *b)
{
    ds4_text_free(&b->text);
    b->failed = b->over_limit = false;
}

struct ds4_span buf_span(const struct buf *b) { return span_make(b->text.ptr ? b->text.ptr : "", b->text.len); }

enum ds4_status buf_status(const struct buf *b, struct ds4_error *error)
{
    if (!b->failed) return DS4_OK;
    if (b->over_limit)
        return err_set(error, DS4_ERR_LIMIT, "text is longer than its limit of %zu bytes", b->limit);
    return err_set(error, DS4_ERR_NOMEM, "no memory for a text of more than %zu bytes", b->text.len);
}

void ds4_text_free(struct ds4_text *text)
{
    mem_free(text->ptr);
    *text = (struct ds4_text){0};
}

void ds4_tokens_free(struct ds4_tokens *tokens)
{
    mem_free(tokens->ids);
    *tokens = (struct ds4_tokens){0};
}

enum ds4_status ds4_tokens_append(struct ds4_tokens *tokens, const int32_t *ids, size_t n)
{
    uint64_t need;
    if (n == 0) return DS4_OK;
    if (!add_ok(tokens->n, n, &need)) return DS4_ERR_LIMIT;
    if (need > tokens->cap) {
        size_t cap = grown_cap(tokens->cap, (size_t)need);
        int32_t *grown = mem_realloc(tokens->ids, cap, sizeof *grown);
        if (!grown) return DS4_ERR_NOMEM;
        tokens->ids = grown;
        tokens->cap = cap;
    }
    memcpy(tokens->ids + tokens->n, ids, n * sizeof *ids);
    tokens->n += n;
    return DS4_OK;
}
