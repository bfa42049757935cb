/* steady.c - see steady.h. */
#include "lib/steady.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "lib/model.h"
#include "lib/test.h"

struct ds4_session *steady_session(const struct steady *run)
{
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_session_create(run->engine, &s, &error), error);
    return s;
}

uint64_t steady_digest(const struct steady *run, const float *logits)
{
    return hash_u64(logits, run->n_vocab * sizeof *logits);
}

static void compute(struct steady *run, struct ds4_session *s, size_t from, size_t to)
{
    struct ds4_error error = {0};
    struct ds4_job job = {.session = s, .tokens = run->tokens + from, .n = to - from, .logits = run->logits};
    assert_ok(ds4_eval(run->engine, &job, 1, &error), error);
}

void steady_eval(struct steady *run, struct ds4_session *s, size_t from, size_t to)
{
    compute(run, s, from, to);
    for (size_t t = from; t < to; t++, run->n_compared++)
        if (steady_digest(run, run->logits + (t - from) * run->n_vocab) != run->expected[t])
            fail_msg("logits after token %zu differ, from %zu on", t, from);
}

void steady_begin(struct steady *run, const char *path, struct ds4_engine_options options, size_t n_tokens,
                  size_t piece)
{
    *run = (struct steady){.engine = model_open(path, options)};
    run->n_vocab = ds4_engine_info(run->engine)->n_vocab;
    run->tokens = malloc(n_tokens * sizeof *run->tokens);
    run->expected = malloc(n_tokens * sizeof *run->expected);
    run->logits = malloc((size_t)options.chunk_tokens * run->n_vocab * sizeof *run->logits);
    assert_true(run->tokens && run->expected && run->logits);
    (void)snprintf(run->dir, sizeof run->dir, "%s/kv", test_dir());
    for (size_t i = 0; i < n_tokens; i++) run->tokens[i] = model_token(i, run->n_vocab);
    struct ds4_session *s = steady_session(run);
    for (size_t from = 0; from < n_tokens; from += piece) {
        size_t to = from + piece < n_tokens ? from + piece : n_tokens;
        compute(run, s, from, to);
        for (size_t t = from; t < to; t++)
            run->expected[t] = steady_digest(run, run->logits + (t - from) * run->n_vocab);
    }
    ds4_session_destroy(s);
}

void steady_end(struct steady *run)
{
    free(run->tokens);
    free(run->expected);
    free(run->logits);
    ds4_engine_close(run->engine);
    test_dir_remove();
}

struct ds4_store *steady_store(const struct steady *run)
{
    struct ds4_store_options options = {.dir = run->dir, .write_ratio_max = 1e6, .no_sync = true};
    struct ds4_store *store = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_store_open(run->engine, &options, &store, &error), error);
    return store;
}
