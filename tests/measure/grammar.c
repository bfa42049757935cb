/* grammar.c - what a mask over the vocabulary costs at every place of answers: p50, p99, most, by kind of place.
 *   build/cc/tests/measure/grammar [MODEL]    default: vocab.gguf, which `make vocab.gguf` writes */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "ds4.h"

#define PLACES_MAX 100000
#define ROUNDS 10
#define M "\xEF\xBD\x9C" "DSML\xEF\xBD\x9C"

struct places {
    double us[PLACES_MAX];
    size_t n;
};

static const char *const tool = "{\"name\": \"write\", \"parameters\": {\"type\": \"object\", \"properties\": {"
    "\"path\": {\"type\": \"string\"}, \"text\": {\"type\": \"string\"}, \"mode\": {\"enum\": [\"new\", \"append\"]}, "
    "\"lines\": {\"type\": \"array\", \"items\": {\"type\": \"object\", \"properties\": {\"at\": {\"type\": "
    "\"integer\", "
    "\"minimum\": 1}, \"text\": {\"type\": \"string\", \"maxLength\": 200}}, \"required\": [\"at\", \"text\"]}}}, "
    "\"required\": [\"path\"]}}";

static const struct {
    const char *name, *schema, *text; /* no schema: a call of the tool */
} answers[] = {
    {"any object", "{\"type\": \"object\"}",
     "{\"title\": \"The \\\"long\\\" way home, caf\xC3\xA9 \xF0\x9F\x98\x80\", \"n\": [1, -2.5e3, true, null, "
    "{\"a\": {}}], "
     "\"more\": \"It was a bright cold day in April, and the clocks were striking thirteen.\"}"},
    {"schema", "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\", \"maxLength\": 60}, \"age\": "
     "{\"type\": \"integer\", \"minimum\": 0, \"maximum\": 150}, \"tags\": {\"type\": \"array\", \"items\": {\"type\": "
     "\"string\"}}, \"kind\": {\"anyOf\": [{\"const\": \"person\"}, {\"type\": \"null\"}]}}, \"required\": [\"name\", "
     "\"age\", \"tags\", \"kind\"], \"additionalProperties\": false}",
     "{\"name\": \"Ada Lovelace, Countess\", \"age\": 36, \"tags\": [\"mathematics\", \"poetry\"], \"kind\": "
     "\"person\"}"},
    {"patterns", "{\"type\": \"object\", \"properties\": {\"when\": {\"type\": \"string\", \"format\": \"date-time\"}, "
     "\"mail\": {\"type\": \"string\", \"format\": \"email\"}, \"code\": {\"type\": \"string\", \"pattern\": "
     "\"^[A-Z]{2,4}-[0-9]{1,6}( [a-z]+)*$\"}}, \"required\": [\"when\", \"mail\", \"code\"], "
     "\"additionalProperties\": false}",
     "{\"when\": \"2024-02-28T23:59:01Z\", \"mail\": \"ada.lovelace@example.org\", \"code\": "
     "\"ABC-2024 of some other words\"}"},
    {"call", NULL,
     "\n\n<" M "tool_calls>\n<" M "invoke name=\"write\">\n<" M "parameter name=\"path\" string=\"true\">a/b.c</" M
     "parameter>\n<" M "parameter name=\"text\" string=\"true\">int main(void)\n{\n    if (a < b && c) return 0; "
     "/* <b>caf\xC3\xA9</b> */\n}\n</" M "parameter>\n<" M "parameter name=\"lines\" string=\"false\">"
     "[{\"at\": 12, \"text\": \"a < b\"}]</" M "parameter>\n</" M "invoke>\n</" M "tool_calls>"}};

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static bool ok(enum ds4_status status, const struct ds4_error *error)
{
    if (status != DS4_OK) fprintf(stderr, "%s\n", error->message);
    return status == DS4_OK;
}

static bool walk(struct ds4_grammar *g, const struct ds4_tokens *tokens, struct places *out)
{
    struct ds4_error error = {0};
    const uint32_t *mask;
    for (size_t i = 0; i < tokens->n; i++) {
        uint64_t began = clock_ns();
        if (!ok(ds4_grammar_mask(g, &mask, &error), &error)) return false;
        if (out->n < PLACES_MAX) out->us[out->n++] = (double)(clock_ns() - began) / 1e3;
        if (!ok(ds4_grammar_accept(g, tokens->ids[i], &error), &error)) return false;
    }
    return true;
}

static bool measure(const struct ds4_engine *e, const struct ds4_token_index *index, size_t which, bool bytes)
{
    static struct places places;
    struct ds4_error error = {0};
    struct ds4_tokens tokens = {0};
    struct ds4_span function = {tool, strlen(tool)}, text = {answers[which].text, strlen(answers[which].text)};
    struct ds4_grammar_options options = {.tools = &function, .n_tools = 1, .tools_required = true};
    if (answers[which].schema)
        options = (struct ds4_grammar_options){.schema = {answers[which].schema, strlen(answers[which].schema)}};
    places.n = 0;
    for (size_t at = 0; bytes && at < text.len; at++) {
        struct ds4_span byte = {text.ptr + at, 1};
        int32_t id = -1;
        for (int32_t i = 0; i < 1000 && id < 0; i++) {
            struct ds4_span b = ds4_token_bytes(e, i);
            if (b.len == 1 && b.ptr[0] == byte.ptr[0]) id = i;
        }
        if (ds4_tokens_append(&tokens, &id, 1) != DS4_OK) return false;
    }
    if (!bytes && !ok(ds4_tokenize(e, text, true, &tokens, &error), &error)) return false;
    double create_us = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct ds4_grammar *g;
        uint64_t began = clock_ns();
        if (!ok(ds4_grammar_create(index, &options, &g, &error), &error)) return false;
        create_us += (double)(clock_ns() - began) / 1e3;
        bool walked = walk(g, &tokens, &places);
        ds4_grammar_destroy(g);
        if (!walked) return false;
    }
    qsort(places.us, places.n, sizeof places.us[0], by_size);
    printf("%-10s %-6s %4zu masks: p50 %7.1f us, p99 %7.1f us, most %7.1f us; compiled in %.0f us\n",
        answers[which].name,
           bytes ? "bytes" : "tokens", tokens.n, places.us[places.n / 2], places.us[places.n * 99 / 100],
           places.us[places.n - 1], create_us / ROUNDS);
    ds4_tokens_free(&tokens);
    return true;
}

int main(int argc, char **argv)
{
    struct ds4_engine_options options = {.model_path = argc > 1 ? argv[1] : "vocab.gguf", .vocab_only = true};
    struct ds4_error error = {0};
    struct ds4_engine *e;
    struct ds4_token_index *index;
    if (argc < 2 && access(options.model_path, R_OK) != 0) {
        printf("grammar: no vocab.gguf here; `make vocab.gguf` writes it\n");
        return 0;
    }
    if (!ok(ds4_engine_open(&options, &e, &error), &error)) return 1;
    uint64_t began = clock_ns();
    if (!ok(ds4_token_index_create(e, &index, &error), &error)) return 1;
    printf("%u tokens, index in %.0f ms\n", ds4_engine_info(e)->n_vocab, (double)(clock_ns() - began) / 1e6);
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        if (!measure(e, index, i, false) || !measure(e, index, i, true)) return 1;
    ds4_token_index_destroy(index);
    ds4_engine_close(e);
    return 0;
}
