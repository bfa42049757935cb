/* stop.c - stop strings over streamed text: ds4_stop_* of ds4.h. The text comes in pieces of any size; the result does
 * not depend on how it was cut. */
#include "base/buf.h"
#include "base/mem.h"

struct ds4_stop {
    struct ds4_text strings[DS4_STOPS_MAX]; /* own copies */
    size_t n;
    struct buf held;   /* seen and not yet shown; the first `shown` bytes were given out by the last call */
    size_t shown;
    bool over;         /* a string matched */
};

enum ds4_status ds4_stop_create(const struct ds4_span *strings, size_t n, struct ds4_stop **out,
                                struct ds4_error *error)
{
    if (n > DS4_STOPS_MAX)
        return err_set(error, DS4_ERR_LIMIT, "%zu stop strings; at most %u", n, DS4_STOPS_MAX);
    for (size_t i = 0; i < n; i++)
        if (strings[i].len == 0 || strings[i].len > DS4_STOP_BYTES_MAX)
            return err_set(error, DS4_ERR_LIMIT, "a stop string of %zu bytes; 1 to %u", strings[i].len,
                           DS4_STOP_BYTES_MAX);
    struct ds4_stop *stop = mem_zalloc(1, sizeof *stop);
    if (!stop) return err_set(error, DS4_ERR_NOMEM, "no memory for stop strings");
    for (size_t i = 0; i < n; i++) {
        struct buf copy = {0};
        buf_put_span(&copy, strings[i]);
        stop->strings[i] = copy.text;
        stop->n = i + 1;
        if (!copy.failed) continue;
        ds4_stop_destroy(stop);
        return err_set(error, DS4_ERR_NOMEM, "no memory for stop strings");
    }
    *out = stop;
    return DS4_OK;
}

void ds4_stop_destroy(struct ds4_stop *stop)
{
    if (!stop) return;
    for (size_t i = 0; i < stop->n; i++) ds4_text_free(&stop->strings[i]);
    buf_deinit(&stop->held);
    mem_free(stop);
}

static struct ds4_span string_at(const struct ds4_stop *stop, size_t i)
{
    return span_make(stop->strings[i].ptr, stop->strings[i].len);
}

/* Length of the longest end of text that begins one of the strings without being all of it. */
static size_t undecided(const struct ds4_stop *stop, struct ds4_span text)
{
    size_t longest = 0;
    for (size_t i = 0; i < stop->n; i++) {
        struct ds4_span string = string_at(stop, i);
        size_t most = string.len - 1 < text.len ? string.len - 1 : text.len;
        for (size_t n = most; n > longest; n--)
            if (memcmp(text.ptr + text.len - n, string.ptr, n) == 0) longest = n;
    }
    return longest;
}

static void drop_shown(struct ds4_stop *stop)
{
    memmove(stop->held.text.ptr, stop->held.text.ptr + stop->shown, stop->held.text.len - stop->shown);
    stop->held.text.len -= stop->shown;
    stop->shown = 0;
}

enum ds4_status ds4_stop_feed(struct ds4_stop *stop, struct ds4_span text, struct ds4_span *out, int *hit)
{
    *hit = -1;
    *out = SPAN("");
    if (stop->over) return DS4_OK;
    if (stop->shown) drop_shown(stop);
    buf_put_span(&stop->held, text);
    TRY(buf_status(&stop->held, NULL));
    struct ds4_span all = buf_span(&stop->held);
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < stop->n; i++) {
        size_t at = span_find(all, string_at(stop, i), 0);
        if (at >= first) continue;
        first = at;
        *hit = (int)i;
    }
    stop->over = *hit >= 0;
    stop->shown = stop->over ? first : all.len - undecided(stop, all);
    *out = span_make(all.ptr, stop->shown);
    return DS4_OK;
}

struct ds4_span ds4_stop_finish(struct ds4_stop *stop)
{
    struct ds4_span rest = stop->over ? SPAN("") : span_skip(buf_span(&stop->held), stop->shown);
    stop->shown = stop->held.text.len; /* dropped by the next call */
    stop->over = false;
    return rest;
}
