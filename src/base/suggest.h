/* suggest.h - "did you mean": the nearest of a list of words. */
#ifndef DS4_BASE_SUGGEST_H
#define DS4_BASE_SUGGEST_H

#include "base/span.h"

/* Longest word that is compared; longer ones have no neighbour. */
#define SUGGEST_WORD_MAX 48

/* Edits (insert, delete, replace, swap of neighbours; case ignored) that lead from a to b. */
size_t suggest_distance(struct ds4_span a, struct ds4_span b);

/* The name nearest to word, the first one on ties; NULL when none is near: at most a third of the longer word's
 * letters may differ, or the word is a beginning (of two letters or more) of the name. */
const char *suggest_near(struct ds4_span word, const char *const *names, size_t n_names);

#endif
