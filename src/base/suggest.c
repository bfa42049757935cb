/* suggest.c - optimal string alignment distance with three rows. See suggest.h. */
#include "base/suggest.h"

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

static size_t min2(size_t a, size_t b) { return a < b ? a : b; }

size_t suggest_distance(struct ds4_span a, struct ds4_span b)
{
    size_t rows[3][SUGGEST_WORD_MAX + 1];
    if (a.len > SUGGEST_WORD_MAX || b.len > SUGGEST_WORD_MAX) return SIZE_MAX;
    for (size_t j = 0; j <= b.len; j++) rows[0][j] = j;
    for (size_t i = 1; i <= a.len; i++) {
        size_t *row = rows[i % 3];
        const size_t *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            char ca = lower(a.ptr[i - 1]), cb = lower(b.ptr[j - 1]);
            size_t best = min2(above[j - 1] + (ca != cb), min2(above[j], row[j - 1]) + 1);
            bool swapped = i > 1 && j > 1 && ca == lower(b.ptr[j - 2]) && cb == lower(a.ptr[i - 2]);
            row[j] = swapped ? min2(best, above2[j - 2] + 1) : best;
        }
    }
    return rows[a.len % 3][b.len];
}

const char *suggest_near(struct ds4_span word, const char *const *names, size_t n_names)
{
    const char *best = NULL;
    size_t best_distance = SIZE_MAX;
    for (size_t i = 0; i < n_names; i++) {
        struct ds4_span name = span_from(names[i]);
        size_t longer = word.len > name.len ? word.len : name.len;
        size_t distance = suggest_distance(word, name);
        bool near = distance <= (longer + 2) / 3;
        if (word.len >= 2 && span_starts(name, word)) {
            distance = 0;
            near = true;
        }
        if (near && distance < best_distance) {
            best = names[i];
            best_distance = distance;
        }
    }
    return best;
}
