/* grammar_walk.c - see grammar_walk.h. */
#include "lib/grammar_walk.h"

#include "base/buf.h"
#include "lib/model.h"
#include "lib/test.h"

static struct walker walker;
static struct ds4_engine *engine;
static struct ds4_token_index *token_index;

const struct walker *walker_open(void)
{
    struct ds4_error error = {0};
    if (engine) return &walker;
    engine = model_open("models/ds4-tiny.gguf", (struct ds4_engine_options){.vocab_only = true});
    assert_ok(ds4_token_index_create(engine, &token_index, &error), error);
    walker.engine = engine;
    walker.index = token_index;
    for (int32_t id = 0; id < (int32_t)ds4_engine_info(engine)->n_vocab; id++) {
        struct ds4_span bytes = ds4_token_bytes(engine, id);
        if (bytes.len == 1 && !ds4_token_is_control(engine, id)) walker.bytes[(unsigned char)bytes.ptr[0]] = id;
    }
    return &walker;
}

void walker_close(void)
{
    ds4_token_index_destroy(token_index);
    ds4_engine_close(engine);
    token_index = NULL;
    engine = NULL;
}

struct ds4_grammar *walker_grammar(const struct ds4_grammar_options *options)
{
    struct ds4_grammar *g = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_grammar_create(walker_open()->index, options, &g, &error), error);
    return g;
}

struct ds4_grammar *walker_schema(const char *schema)
{
    struct ds4_grammar_options options = {.schema = span_from(schema)};
    return walker_grammar(&options);
}

/* The longest token that the text begins with, found the plain way. */
static int32_t longest_token(struct ds4_span text, bool marker)
{
    int32_t best = walker.bytes[(unsigned char)text.ptr[0]];
    size_t len = 1;
    int32_t dsml = ds4_special(engine)->dsml;
    if (marker && span_starts(text, ds4_token_bytes(engine, dsml))) return dsml;
    for (int32_t id = 0; id < (int32_t)ds4_engine_info(engine)->n_vocab; id++) {
        struct ds4_span bytes = ds4_token_bytes(engine, id);
        if (bytes.len <= len || ds4_token_is_control(engine, id) || !span_starts(text, bytes)) continue;
        best = id;
        len = bytes.len;
    }
    return best;
}

static bool in_mask(struct ds4_grammar *g, int32_t id)
{
    const uint32_t *mask;
    struct ds4_error error = {0};
    assert_ok(ds4_grammar_mask(g, &mask, &error), error);
    return !mask || (mask[id / 32] >> (id % 32) & 1u);
}

enum walk walker_walk(struct ds4_grammar *g, struct ds4_span text, bool longest, bool marker)
{
    (void)walker_open();
    while (text.len > 0) {
        int32_t dsml = ds4_special(engine)->dsml;
        bool at_marker = marker && span_starts(text, ds4_token_bytes(engine, dsml));
        int32_t id = longest || at_marker ? longest_token(text, marker) : walker.bytes[(unsigned char)text.ptr[0]];
        struct ds4_error error = {0};
        bool allowed = in_mask(g, id);
        enum ds4_status status = ds4_grammar_accept(g, id, &error);
        if (allowed != (status == DS4_OK))
            fail_msg("the mask says %d and accept %s at \"%.*s\"", allowed, error.message,
                     text.len < 40 ? (int)text.len : 40, text.ptr);
        if (status != DS4_OK) return WALK_REFUSED;
        text = span_skip(text, ds4_token_bytes(engine, id).len);
    }
    return in_mask(g, ds4_special(engine)->eos) ? WALK_WHOLE : WALK_OPEN;
}

void walker_complete(struct ds4_grammar *g, struct ds4_text *out)
{
    struct ds4_tokens tokens = {0};
    struct ds4_error error = {0};
    struct ds4_grammar *fork;
    struct buf text = {.text = *out};
    assert_ok(ds4_grammar_close(g, &tokens, &error), error);
    assert_ok(ds4_grammar_fork(g, &fork, &error), error);
    for (size_t i = 0; i < tokens.n; i++) {
        buf_put_span(&text, ds4_token_bytes(engine, tokens.ids[i]));
        if (!in_mask(fork, tokens.ids[i]) || ds4_grammar_accept(fork, tokens.ids[i], &error) != DS4_OK)
            fail_msg("the completion \"%.*s\" is refused", (int)text.text.len, text.text.ptr);
    }
    if (!in_mask(fork, ds4_special(engine)->eos))
        fail_msg("\"%.*s\" is no completion", (int)text.text.len, text.text.ptr);
    ds4_grammar_destroy(fork);
    ds4_tokens_free(&tokens);
    *out = text.text;
}
