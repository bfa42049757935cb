/* grammar_walk.h - texts through a grammar, for tests: whether it takes them, by whatever tokens, and whether every
 * place on the way can be completed. */
#ifndef DS4_TESTS_GRAMMAR_WALK_H
#define DS4_TESTS_GRAMMAR_WALK_H

#include "base/span.h"

struct walker {
    const struct ds4_engine *engine;
    const struct ds4_token_index *index;
    int32_t bytes[256];        /* the token of each byte */
};

/* Opens models/ds4-tiny.gguf for its vocabulary. One for the whole program; walker_close releases. */
const struct walker *walker_open(void);
void walker_close(void);
/* A grammar of these options; fails the test on an error. */
struct ds4_grammar *walker_grammar(const struct ds4_grammar_options *options);
/* One of a JSON schema. */
struct ds4_grammar *walker_schema(const char *schema);

enum walk { WALK_REFUSED, WALK_OPEN /* taken, not complete */, WALK_WHOLE };
/* Goes on with a text by the tokens of single bytes, or by the longest tokens. Fails the test when mask and accept
 * disagree. Where a control marker of tags stands in the text, its token is used when `marker` says so. */
enum walk walker_walk(struct ds4_grammar *g, struct ds4_span text, bool longest, bool marker);
/* Appends a completion as text, and fails the test when the grammar refuses it. The grammar stays where it is. */
void walker_complete(struct ds4_grammar *g, struct ds4_text *out);

#endif
