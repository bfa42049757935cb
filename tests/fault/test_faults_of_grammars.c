/* test_faults_of_grammars.c - every allocation fails in turn while schemas and tools are compiled, masks are made, an
 * answer is read, gone back from and completed: a status and a message, nothing left behind. */
#include "lib/test.h"

#include "base/err.h"
#include "lib/alloc_fail.h"
#include "lib/grammar_walk.h"

static const char rich[] =
    "{\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":5},"
    "\"children\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/tree\"},\"maxItems\":2}},"
    "\"required\":[\"name\"],\"additionalProperties\":false}},"
    "\"type\":\"object\",\"properties\":{\"tree\":{\"$ref\":\"#/$defs/tree\"},\"n\":{\"type\":\"integer\","
    "\"minimum\":3,\"maximum\":77},\"kind\":{\"enum\":[\"a\",\"b\",null,1.5]},\"any\":{\"anyOf\":[{\"type\":\"null\"},"
    "{\"type\":\"array\"}]},\"set\":{\"items\":{\"enum\":[1,1.0,[2],[2.0],\"a\"]},"
    "\"uniqueItems\":true}},\"required\":[\"tree\",\"n\"],\"additionalProperties\":false}";
static const char text[] = "{\"tree\": {\"name\": \"oak\", \"children\": [{\"name\": \"\"}]}, \"n\": 12, \"kin";
static const char *const functions[] = {
    "{\"name\":\"now\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{},"
    "\"additionalProperties\":false}}",
    "{\"name\":\"weather\",\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},"
    "\"days\":{\"type\":\"integer\"}},\"required\":[\"city\"]}}",
    "{\"name\":\"free\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\","
    "\"pattern\":\"^x\"}}}}"};

static const struct ds4_token_index *token_index;
static struct ds4_tokens answer;

static enum ds4_status read_answer(struct ds4_grammar *g, struct ds4_error *error)
{
    const uint32_t *mask;
    for (size_t i = 0; i < answer.n; i++) {
        TRY(ds4_grammar_mask(g, &mask, error));
        TRY(ds4_grammar_accept(g, answer.ids[i], error));
    }
    return DS4_OK;
}

static enum ds4_status complete(struct ds4_grammar *g, struct ds4_error *error)
{
    struct ds4_grammar *other = NULL;
    struct ds4_tokens way = {0};
    enum ds4_status status = ds4_grammar_fork(g, &other, error);
    if (status == DS4_OK) status = ds4_grammar_close(other, &way, error);
    for (size_t i = 0; i < way.n && status == DS4_OK; i++) status = ds4_grammar_accept(other, way.ids[i], error);
    ds4_tokens_free(&way);
    ds4_grammar_destroy(other);
    return status;
}

static enum ds4_status answer_once(void *user, struct ds4_error *error)
{
    const struct ds4_grammar_options *options = user;
    struct ds4_grammar *g;
    TRY(ds4_grammar_create(token_index, options, &g, error));
    enum ds4_status status = options->schema.len ? read_answer(g, error) : DS4_OK;
    if (status == DS4_OK) status = complete(g, error);
    ds4_grammar_destroy(g);
    return status;
}

TEST(an_answer_in_a_schema_survives_every_failed_allocation)
{
    struct ds4_error error = {0};
    const struct walker *w = walker_open();
    token_index = w->index;
    assert_ok(ds4_tokenize(w->engine, span_from(text), false, &answer, &error), error);
    struct ds4_grammar_options options = {.schema = span_from(rich)};
    assert_in_range(alloc_fail_loop("an answer in a schema", answer_once, &options, 1), 20, 100000);
    ds4_tokens_free(&answer);
}

TEST(calls_of_tools_survive_every_failed_allocation)
{
    struct ds4_span tools[3];
    token_index = walker_open()->index;
    for (int i = 0; i < 3; i++) tools[i] = span_from(functions[i]);
    struct ds4_grammar_options options = {.tools = tools, .n_tools = 3, .tools_required = true};
    assert_in_range(alloc_fail_loop("calls of tools", answer_once, &options, 1), 20, 100000);
    walker_close();
}

static enum ds4_status index_once(void *user, struct ds4_error *error)
{
    struct ds4_token_index *index;
    TRY(ds4_token_index_create(user, &index, error));
    ds4_token_index_destroy(index);
    return DS4_OK;
}

TEST(the_index_of_the_vocabulary_survives_every_failed_allocation)
{
    const struct walker *w = walker_open();
    assert_in_range(alloc_fail_loop("ds4_token_index_create", index_once, (void *)(uintptr_t)w->engine, 1), 3, 100000);
    walker_close();
}

int main(void)
{
    return RUN_TESTS(T(an_answer_in_a_schema_survives_every_failed_allocation),
                     T(calls_of_tools_survive_every_failed_allocation),
                     T(the_index_of_the_vocabulary_survives_every_failed_allocation));
}
