/* test_grammar_random.c - the worst model there is, one of random weights, writes answers to random schemas: each is
 * JSON that satisfies its schema (read by another reader and checked by another checker) and complete within its limit.
 *   build/.../test_grammar_random          60 schemas
 *   build/.../test_grammar_random long     2,000 schemas and the figures of tests/soak.md */
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "lib/model.h"
#include "lib/schema_check.h"
#include "lib/test.h"

static int n_schemas = 60;

struct tally {
    size_t n_valid, n_unsatisfiable, n_tokens, n_closed;
};

struct world {
    struct ds4_engine *engine;
    struct ds4_token_index *index;
    struct ds4_session *session;
};

/* The answer to a schema within n_max tokens, as the server makes it. */
static void answer(struct world *w, struct ds4_grammar *g, uint64_t seed, size_t n_max, struct buf *out,
                   struct tally *tally)
{
    struct ds4_error error = {0};
    struct ds4_sampling sampling = ds4_sampling_default();
    struct ds4_sampler *sampler;
    const uint32_t *mask;
    int32_t id = ds4_special(w->engine)->bos >= 0 ? ds4_special(w->engine)->bos : 0;
    sampling.seed = seed | 1;
    sampling.min_p = seed % 2 ? 0 : 0.05f;
    sampling.temperature = seed % 5 ? 1 : 0;
    assert_ok(ds4_sampler_create(w->engine, &sampling, &sampler, &error), error);
    assert_ok(ds4_session_rewind(w->session, 0, &error), error);
    bool closing = false;
    for (size_t n = 0; !ds4_grammar_is_done(g); n++) {
        struct ds4_job job = {.session = w->session, .tokens = &id, .n = 1};
        assert_true(n <= n_max);
        assert_ok(ds4_eval(w->engine, &job, 1, &error), error);
        assert_ok(ds4_grammar_mask(g, &mask, &error), error);
        assert_ok(ds4_sampler_pick(sampler, ds4_session_logits(w->session), mask, false, &id, &error), error);
        if (closing || n == n_max || !ds4_grammar_fits(g, id, n_max - n - 1)) {
            struct ds4_tokens way = {0};
            assert_ok(ds4_grammar_close(g, &way, &error), error);
            id = way.n ? way.ids[0] : ds4_special(w->engine)->eos;
            ds4_tokens_free(&way);
            tally->n_closed += !closing;
            closing = true;
        }
        assert_ok(ds4_grammar_accept(g, id, &error), error);
        if (id == ds4_special(w->engine)->eos) break;
        buf_put_span(out, ds4_token_bytes(w->engine, id));
        tally->n_tokens++;
    }
    ds4_sampler_destroy(sampler);
}

static void try_schema(struct world *w, uint64_t seed, struct tally *tally)
{
    json_t *schema = schema_random(seed);
    char *text = json_dumps(schema, JSON_COMPACT);
    struct ds4_grammar_options options = {.schema = {text, strlen(text)}};
    struct ds4_grammar *g = NULL;
    struct ds4_error error = {0};
    struct ds4_tokens way = {0};
    struct buf out = {0};
    enum ds4_status status = ds4_grammar_create(w->index, &options, &g, &error);
    bool empty = strstr(error.message, "no value can satisfy") || strstr(error.message, "no text matches");
    if (status != DS4_OK && empty) {
        tally->n_unsatisfiable++;
    } else {
        if (status != DS4_OK) fail_msg("seed %llu: %s: %s", (unsigned long long)seed, text, error.message);
        assert_ok(ds4_grammar_close(g, &way, &error), error);
        answer(w, g, seed, way.n + seed * 2654435761u % 160, &out, tally);
        json_error_t why;
        json_t *value = json_loadb(out.text.ptr, out.text.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
        if (!value || !schema_accepts(schema, schema, value))
            fail_msg("seed %llu: %s gives %.*s", (unsigned long long)seed, text, (int)out.text.len, out.text.ptr);
        json_decref(value);
        tally->n_valid++;
    }
    ds4_tokens_free(&way);
    ds4_grammar_destroy(g);
    buf_deinit(&out);
    free(text);
    json_decref(schema);
}

TEST(a_model_of_random_weights_writes_only_what_the_schema_allows)
{
    struct world w = {0};
    struct tally tally = {0};
    struct ds4_error error = {0};
    uint64_t seed = n_schemas > 60 ? 0 : test_seed();
    w.engine = model_open(model_small(), (struct ds4_engine_options){.ctx_tokens = 2048, .n_threads = 1});
    assert_ok(ds4_token_index_create(w.engine, &w.index, &error), error);
    assert_ok(ds4_session_create(w.engine, &w.session, &error), error);
    for (uint64_t i = 0; tally.n_valid < (size_t)n_schemas; i++) try_schema(&w, seed + i, &tally);
    print_message("%zu answers valid, %zu closed at their limit, %zu tokens; %zu schemas without a value\n",
                  tally.n_valid, tally.n_closed, tally.n_tokens, tally.n_unsatisfiable);
    assert_true(tally.n_unsatisfiable * 10 < (size_t)n_schemas * 3);
    ds4_session_destroy(w.session);
    ds4_token_index_destroy(w.index);
    ds4_engine_close(w.engine);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "long") == 0) n_schemas = 2000;
    return RUN_TESTS(T(a_model_of_random_weights_writes_only_what_the_schema_allows));
}
