/* windows.h - a text as windows of tokens that are evaluated each on its own: what perplexity and calibration share.
 * A window begins with the model's begin-of-text token, so that every token of the text has something before it. */
#ifndef DS4_TOOLS_WINDOWS_H
#define DS4_TOOLS_WINDOWS_H

#include "base/err.h"

#define WINDOWS_TEXT_BYTES_MAX ((size_t)1 << 30)
#define WINDOWS_TOKENS_DEFAULT 512u
#define WINDOWS_BATCH_MAX 512u /* rows of one forward pass: more take memory for logits and gain nothing */

struct windows {
    struct ds4_tokens ids; /* of the text */
    size_t n_window;       /* tokens of a window; the last one may be shorter */
    int32_t bos;           /* -1: none */
};

/* Reads path ("-": standard input) and cuts it up. limit: most tokens, 0 = all. */
enum ds4_status windows_load(const struct ds4_engine *engine, const char *path, bool special, size_t n_window,
                             size_t limit, struct windows *out, struct ds4_error *error) DS4_MUST_CHECK;
void windows_free(struct windows *w);
size_t windows_count(const struct windows *w);

/* Rows of a window that are evaluated: row i sees inputs[0..i] and predicts targets[i]. */
struct window_rows {
    int32_t inputs[WINDOWS_BATCH_MAX];
    const int32_t *targets;
    size_t n;
};
/* Fills the rows from row_first of window i; n is 0 behind its end. */
void windows_rows(const struct windows *w, size_t window_i, size_t row_first, size_t n_max, struct window_rows *rows);

#endif
