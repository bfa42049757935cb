/* windows.c - see windows.h. */
#include "tools/windows.h"

#include "base/file.h"
#include "base/span.h"

enum ds4_status windows_load(const struct ds4_engine *engine, const char *path, bool special, size_t n_window,
                             size_t limit, struct windows *out, struct ds4_error *error)
{
    struct ds4_text text = {0};
    *out = (struct windows){.n_window = n_window, .bos = ds4_special(engine)->bos};
    enum ds4_status status = file_read_all(path, WINDOWS_TEXT_BYTES_MAX, &text, error);
    struct ds4_span span = span_make(text.ptr ? text.ptr : "", text.len);
    if (status == DS4_OK) status = ds4_tokenize(engine, span, special, &out->ids, error);
    ds4_text_free(&text);
    if (status == DS4_OK && limit && out->ids.n > limit) out->ids.n = limit;
    if (status == DS4_OK && out->ids.n < 2)
        status = err_set(error, DS4_ERR_FORMAT, "%s: %zu tokens are no text to measure with",
                         strcmp(path, "-") == 0 ? "standard input" : path, out->ids.n);
    if (status != DS4_OK) windows_free(out);
    return status;
}

void windows_free(struct windows *w) { ds4_tokens_free(&w->ids); }

size_t windows_count(const struct windows *w) { return (w->ids.n + w->n_window - 1) / w->n_window; }

void windows_rows(const struct windows *w, size_t window_i, size_t row_first, size_t n_max, struct window_rows *rows)
{
    size_t first = window_i * w->n_window, left = w->ids.n - first;
    size_t n_tokens = left < w->n_window ? left : w->n_window, lead = w->bos >= 0 ? 0 : 1;
    size_t n_rows = n_tokens - lead, n = row_first < n_rows ? n_rows - row_first : 0;
    if (n > n_max) n = n_max;
    if (n > WINDOWS_BATCH_MAX) n = WINDOWS_BATCH_MAX;
    rows->n = n;
    rows->targets = w->ids.ids + first + lead + row_first;
    for (size_t i = 0; i < n; i++) {
        size_t at = row_first + i; /* of the inputs, which begin with the extra token if there is one */
        rows->inputs[i] = lead ? w->ids.ids[first + at] : at == 0 ? w->bos : w->ids.ids[first + at - 1];
    }
}
