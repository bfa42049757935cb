/* vocab_gguf.c - the vocabulary out of a GGUF file's metadata. See vocab.h.
 *
 * In: tokenizer.ggml.{model, pre, tokens, token_type, merges, bos_token_id, eos_token_id, padding_token_id},
 * <architecture>.vocab_size and the shape of token_embd.weight. A file that contradicts itself is refused. */
#include <stdio.h>

#include "base/mem.h"
#include "text/vocab.h"

struct arrays {
    struct ds4_span *tokens, *merges;
    int32_t *types;
};

/* Cuts of text that these names stand for are the one that pretok.c makes. */
static const char *const known_pre[] = {"joyai-llm", "deepseek-v3", "deepseek-v4", "deepseek4"};

static enum ds4_status check_kind(const struct gguf_file *file, struct ds4_error *error)
{
    struct ds4_span model, pre;
    enum ds4_status status = gguf_get_string(file, "tokenizer.ggml.model", &model, error);
    if (status != DS4_OK && status != DS4_ERR_STATE) return status;
    if (status == DS4_OK && !span_eq(model, SPAN("gpt2")))
        return err_set(error, DS4_ERR_UNSUPPORTED, "tokenizer.ggml.model is \"%.*s\", expected \"gpt2\"",
                       model.len < 60 ? (int)model.len : 60, model.ptr);
    status = gguf_get_string(file, "tokenizer.ggml.pre", &pre, error);
    if (status == DS4_ERR_STATE) return DS4_OK;
    if (status != DS4_OK) return status;
    for (size_t i = 0; i < sizeof known_pre / sizeof known_pre[0]; i++) {
        if (span_eq(pre, span_from(known_pre[i]))) return DS4_OK;
    }
    return err_set(error, DS4_ERR_UNSUPPORTED, "tokenizer.ggml.pre is \"%.*s\", expected \"joyai-llm\"",
                   pre.len < 60 ? (int)pre.len : 60, pre.ptr);
}

/* Fills *items with the strings of an array value (owned by the caller; the strings borrow from the file). */
static enum ds4_status read_strings(const struct gguf_file *file, const char *key, uint64_t limit,
                                    struct ds4_span **items, size_t *n, struct ds4_error *error)
{
    const struct gguf_value *value = gguf_find(file, key);
    if (!value) return err_set(error, DS4_ERR_FORMAT, "the file has no %s", key);
    if (value->type != GGUF_ARRAY || value->item_type != GGUF_STRING)
        return err_set(error, DS4_ERR_FORMAT, "%s is not an array of strings", key);
    if (value->count > limit)
        return err_set(error, DS4_ERR_LIMIT, "%s has %llu items, more than %llu", key, (unsigned long long)value->count,
                       (unsigned long long)limit);
    *items = mem_alloc((size_t)value->count, sizeof **items);
    if (!*items) return err_set(error, DS4_ERR_NOMEM, "no memory for %s", key);
    uint64_t cursor = 0;
    for (*n = 0; *n < value->count && gguf_next_string(value, &cursor, &(*items)[*n]); (*n)++) {}
    if (*n != value->count) return err_set(error, DS4_ERR_FORMAT, "%s ends early", key);
    return DS4_OK;
}

static enum ds4_status read_types(const struct gguf_file *file, size_t n_tokens, int32_t **types,
                                  struct ds4_error *error)
{
    const char *key = "tokenizer.ggml.token_type";
    const struct gguf_value *value = gguf_find(file, key);
    if (!value) return DS4_OK;
    if (value->type != GGUF_ARRAY || value->count != n_tokens)
        return err_set(error, DS4_ERR_FORMAT, "%s has %llu items, but there are %zu tokens", key,
                       (unsigned long long)value->count, n_tokens);
    *types = mem_alloc(n_tokens, sizeof **types);
    if (!*types) return err_set(error, DS4_ERR_NOMEM, "no memory for %s", key);
    for (size_t i = 0; i < n_tokens; i++) {
        int64_t type;
        if (gguf_item_i64(value, i, &type) != DS4_OK || type < INT32_MIN || type > INT32_MAX)
            return err_set(error, DS4_ERR_FORMAT, "%s: item %zu is not a type", key, i);
        (*types)[i] = (int32_t)type;
    }
    return DS4_OK;
}

static enum ds4_status check_size(const struct gguf_file *file, size_t n_tokens, struct ds4_error *error)
{
    struct ds4_span architecture;
    char key[128];
    uint64_t said = 0;
    enum ds4_status status = gguf_get_string(file, "general.architecture", &architecture, error);
    if (status == DS4_OK && architecture.len < 64) {
        (void)snprintf(key, sizeof key, "%.*s.vocab_size", (int)architecture.len, architecture.ptr);
        status = gguf_get_u64(file, key, &said, error);
        if (status == DS4_OK && said != n_tokens)
            return err_set(error, DS4_ERR_FORMAT, "%s is %llu, but tokenizer.ggml.tokens has %zu items", key,
                           (unsigned long long)said, n_tokens);
    }
    if (status != DS4_OK && status != DS4_ERR_STATE) return status;
    const struct gguf_tensor *embedding = gguf_tensor_find(file, SPAN("token_embd.weight"));
    if (embedding && embedding->dims[1] != n_tokens)
        return err_set(error, DS4_ERR_FORMAT,
            "token_embd.weight has %llu rows, but tokenizer.ggml.tokens has %zu items",
                       (unsigned long long)embedding->dims[1], n_tokens);
    return DS4_OK;
}

static enum ds4_status read_id(const struct gguf_file *file, const char *key, int64_t *id, struct ds4_error *error)
{
    uint64_t said;
    enum ds4_status status = gguf_get_u64(file, key, &said, error);
    *id = -1;
    if (status == DS4_ERR_STATE) return DS4_OK;
    if (status == DS4_OK) *id = said > INT32_MAX ? INT32_MAX : (int64_t)said;
    return status;
}

static enum ds4_status read_all(const struct gguf_file *file, struct arrays *a, struct vocab_source *source,
                                struct ds4_error *error)
{
    TRY(check_kind(file, error));
    TRY(read_strings(file, "tokenizer.ggml.tokens", VOCAB_TOKENS_MAX, &a->tokens, &source->n_tokens, error));
    TRY(check_size(file, source->n_tokens, error));
    TRY(read_types(file, source->n_tokens, &a->types, error));
    TRY(read_strings(file, "tokenizer.ggml.merges", VOCAB_MERGES_MAX, &a->merges, &source->n_merges, error));
    TRY(read_id(file, "tokenizer.ggml.bos_token_id", &source->bos_id, error));
    TRY(read_id(file, "tokenizer.ggml.eos_token_id", &source->eos_id, error));
    return read_id(file, "tokenizer.ggml.padding_token_id", &source->pad_id, error);
}

enum ds4_status vocab_create_gguf(const struct gguf_file *file, struct vocab **out, struct ds4_error *error)
{
    struct arrays a = {0};
    struct vocab_source source = {0};
    enum ds4_status status = read_all(file, &a, &source, error);
    if (status == DS4_OK) {
        source.tokens = a.tokens;
        source.types = a.types;
        source.merges = a.merges;
        status = vocab_create(&source, out, error);
    }
    mem_free(a.tokens);
    mem_free(a.types);
    mem_free(a.merges);
    return status;
}
