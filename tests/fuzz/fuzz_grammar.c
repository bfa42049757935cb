/* fuzz_grammar.c - any bytes as a schema (or, first byte odd, as the parameters of a tool) and, behind a zero byte, as
 * the choices of a model: each byte picks among the tokens that the mask allows. A schema is refused with a reason, or
 * every place of its grammar has a mask that is not empty, takes what the mask holds, and can be completed. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "ds4.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ds4_engine *engine;
static struct ds4_token_index *token_index;

static void check(bool promise)
{
    if (!promise) abort();
}

static void open_once(void)
{
    struct ds4_engine_options options = {.model_path = "models/ds4-tiny.gguf", .vocab_only = true};
    if (engine) return;
    check(ds4_engine_open(&options, &engine, NULL) == DS4_OK);
    check(ds4_token_index_create(engine, &token_index, NULL) == DS4_OK);
}

/* The token that a choice picks: the next allowed one from a place that it says. */
static int32_t pick(const uint32_t *mask, uint32_t choice)
{
    uint32_t n = ds4_engine_info(engine)->n_vocab, start = choice * 2654435761u % n;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = (start + i) % n;
        if (!mask || (mask[id / 32] >> (id % 32) & 1u)) return (int32_t)id;
    }
    return -1;
}

static void complete(struct ds4_grammar *g)
{
    struct ds4_tokens way = {0};
    struct ds4_grammar *fork;
    check(ds4_grammar_close(g, &way, NULL) == DS4_OK);
    check(ds4_grammar_fork(g, &fork, NULL) == DS4_OK);
    for (size_t i = 0; i < way.n; i++) check(ds4_grammar_accept(fork, way.ids[i], NULL) == DS4_OK);
    check(ds4_grammar_accept(fork, ds4_special(engine)->eos, NULL) == DS4_OK);
    ds4_grammar_destroy(fork);
    ds4_tokens_free(&way);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > 1 << 14) return 0;
    open_once();
    const uint8_t *zero = memchr(data + 1, 0, size - 1);
    size_t schema_len = zero ? (size_t)(zero - data) - 1 : size - 1;
    struct buf function = {0};
    buf_put_text(&function, "{\"name\":\"f\",\"strict\":true,\"parameters\":");
    buf_put(&function, data + 1, schema_len);
    buf_put_text(&function, "}");
    struct ds4_span tool = buf_span(&function);
    struct ds4_grammar_options options = {.schema = {(const char *)data + 1, schema_len}};
    if (data[0] & 1) options = (struct ds4_grammar_options){.tools = &tool, .n_tools = 1, .tools_required = true};
    struct ds4_grammar *g = NULL;
    struct ds4_error error = {0};
    enum ds4_status status = schema_len ? ds4_grammar_create(token_index, &options, &g, &error) : DS4_ERR_FORMAT;
    check(status == DS4_OK || status == DS4_ERR_FORMAT || status == DS4_ERR_UNSUPPORTED || status == DS4_ERR_LIMIT);
    check(status == DS4_OK || !schema_len || error.message[0]);
    for (size_t i = schema_len + 2; g && i < size && i < schema_len + 200 && !ds4_grammar_is_done(g); i++) {
        const uint32_t *mask;
        check(ds4_grammar_mask(g, &mask, NULL) == DS4_OK);
        int32_t id = pick(mask, data[i] + (uint32_t)i);
        check(id >= 0);
        check(ds4_grammar_accept(g, id, NULL) == DS4_OK);
        if (id == ds4_special(engine)->eos) break;
        complete(g);
    }
    ds4_grammar_destroy(g);
    buf_deinit(&function);
    return 0;
}
