/* token_index.c - see token_index.h. */
#include "session/token_index.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"

static int by_bytes(const void *left, const void *right)
{
    const struct index_token *a = left, *b = right;
    int order = memcmp(a->ptr, b->ptr, a->len < b->len ? a->len : b->len);
    if (order != 0) return order;
    if (a->len != b->len) return a->len < b->len ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Fills what follows from the order. */
static void settle_list(struct token_list *list)
{
    uint32_t i = 0;
    for (uint32_t byte = 0; byte < 256; byte++) {
        list->first[byte] = i;
        while (i < list->n && (unsigned char)list->tokens[i].ptr[0] == byte) i++;
    }
    list->first[256] = list->n;
    for (i = 0; i < list->n; i++) {
        struct index_token *t = &list->tokens[i];
        t->same = 0;
        while (i > 0 && t->same < t->len && t->same < t[-1].len && t->ptr[t->same] == t[-1].ptr[t->same]) t->same++;
    }
}

static bool is_plain(struct ds4_span text, enum plain kind)
{
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        if (kind != PLAIN_RAW && (c < 0x20 || c == '"' || c == '\\')) return false;
        if (kind != PLAIN_JSON && c == '<') return false;
        if ((kind == PLAIN_RAW || kind == PLAIN_NAME) && c == '&') return false;
        if (kind == PLAIN_NAME && c == '>') return false;
    }
    return utf8_valid(text);
}

static enum ds4_status no_memory(struct ds4_error *error, uint32_t n)
{
    return err_set(error, DS4_ERR_NOMEM, "no memory for an index of %u tokens", n);
}

static enum ds4_status fill_all(struct ds4_token_index *x, const struct ds4_engine *engine, struct ds4_error *error)
{
    x->all.tokens = mem_alloc(x->n_vocab, sizeof *x->all.tokens);
    if (!x->all.tokens) return no_memory(error, x->n_vocab);
    for (uint32_t id = 0; id < x->n_vocab; id++) {
        struct ds4_span bytes = ds4_token_bytes(engine, (int32_t)id);
        if (bytes.len == 0 || bytes.len > INDEX_TOKEN_BYTES_MAX || ds4_token_is_control(engine, (int32_t)id)) continue;
        x->all.tokens[x->all.n++] = (struct index_token){bytes.ptr, (int32_t)id, (uint8_t)bytes.len, 0};
        if (bytes.len > x->token_bytes_max) x->token_bytes_max = (uint32_t)bytes.len;
    }
    qsort(x->all.tokens, x->all.n, sizeof *x->all.tokens, by_bytes);
    settle_list(&x->all);
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t first = x->all.first[byte];
        if (first == x->all.first[byte + 1] || x->all.tokens[first].len != 1)
            return err_set(error, DS4_ERR_UNSUPPORTED, "the vocabulary has no token for the byte %u alone", byte);
    }
    return DS4_OK;
}

static enum ds4_status fill_plain(struct ds4_token_index *x, struct ds4_error *error)
{
    x->chars = mem_zalloc(x->n_vocab, 1);
    if (!x->chars) return no_memory(error, x->n_vocab);
    for (int kind = 0; kind < N_PLAIN; kind++) {
        struct token_list *rest = &x->rest[kind];
        uint32_t n_rest = 0;
        x->plain[kind] = mem_zalloc(x->n_words, sizeof *x->plain[kind]);
        if (!x->plain[kind]) return no_memory(error, x->n_vocab);
        for (uint32_t i = 0; i < x->all.n; i++) {
            const struct index_token *t = &x->all.tokens[i];
            if (is_plain(span_make(t->ptr, t->len), (enum plain)kind)) mask_set(x->plain[kind], t->id);
            else n_rest++;
        }
        rest->tokens = mem_alloc(n_rest, sizeof *rest->tokens);
        if (!rest->tokens) return no_memory(error, x->n_vocab);
        for (uint32_t i = 0; i < x->all.n; i++)
            if (!mask_has(x->plain[kind], x->all.tokens[i].id)) rest->tokens[rest->n++] = x->all.tokens[i];
        settle_list(rest);
    }
    for (uint32_t i = 0; i < x->all.n; i++) {
        const struct index_token *t = &x->all.tokens[i];
        uint32_t chars = 0;
        for (uint32_t b = 0; b < t->len; b++) chars += ((unsigned char)t->ptr[b] & 0xC0) != 0x80;
        x->chars[t->id] = (uint8_t)chars;
    }
    return DS4_OK;
}

enum ds4_status ds4_token_index_create(const struct ds4_engine *engine, struct ds4_token_index **out,
                                       struct ds4_error *error)
{
    const struct ds4_special_ids *special = ds4_special(engine);
    uint32_t n_vocab = ds4_engine_info(engine)->n_vocab;
    if (special->eos < 0)
        return err_set(error, DS4_ERR_UNSUPPORTED, "the vocabulary has no token that ends an answer");
    struct ds4_token_index *x = mem_zalloc(1, sizeof *x);
    if (!x) return no_memory(error, n_vocab);
    x->engine = engine;
    x->n_vocab = n_vocab;
    x->n_words = (n_vocab + 31) / 32;
    x->eos = special->eos;
    x->dsml = special->dsml;
    x->think = special->think;
    x->think_end = special->think_end;
    x->dsml_text = ds4_token_bytes(engine, special->dsml);
    enum ds4_status status = fill_all(x, engine, error);
    if (status == DS4_OK) status = fill_plain(x, error);
    if (status != DS4_OK) {
        ds4_token_index_destroy(x);
        return status;
    }
    *out = x;
    return DS4_OK;
}

void ds4_token_index_destroy(struct ds4_token_index *x)
{
    if (!x) return;
    mem_free(x->all.tokens);
    for (int kind = 0; kind < N_PLAIN; kind++) {
        mem_free(x->rest[kind].tokens);
        mem_free(x->plain[kind]);
    }
    mem_free(x->chars);
    mem_free(x);
}

struct ds4_span index_bytes(const struct ds4_token_index *x, int32_t id)
{
    return ds4_token_is_control(x->engine, id) ? span_make("", 0) : ds4_token_bytes(x->engine, id);
}

int32_t index_longest(const struct ds4_token_index *x, struct ds4_span text, size_t *len)
{
    const struct index_token *tokens = x->all.tokens;
    uint32_t lo = 0, hi = x->all.n;
    int32_t best = -1;
    for (size_t at = 0; at < text.len && lo < hi; at++) {
        unsigned char c = (unsigned char)text.ptr[at];
        uint32_t a = lo, b = hi;
        while (a < b) { /* the first whose byte is not below c; the shorter ones come first */
            uint32_t middle = a + (b - a) / 2;
            bool below = tokens[middle].len <= at || (unsigned char)tokens[middle].ptr[at] < c;
            if (below) a = middle + 1;
            else b = middle;
        }
        lo = a;
        b = hi;
        while (a < b) {
            uint32_t middle = a + (b - a) / 2;
            if ((unsigned char)tokens[middle].ptr[at] <= c) a = middle + 1;
            else b = middle;
        }
        hi = a;
        if (lo < hi && tokens[lo].len == at + 1) {
            best = tokens[lo].id;
            *len = at + 1;
        }
    }
    return best;
}
