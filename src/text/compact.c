/* compact.c - rebuilds tokens and merges from the compact layout. See compact.h for the layout. */
#include "text/compact.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "text/byte_alphabet.h"

enum { HEADER_BYTES = 20, MERGE_BYTES = 6, FIRST_BYTE_ID = 3, FIRST_MERGE_ID = 259 };

static uint32_t load_u24(const char *p) { return load_u16(p) | (uint32_t)(unsigned char)p[2] << 16; }

static enum ds4_status check_header(struct compact *c, struct ds4_span merges, uint32_t *n_base,
                                    struct ds4_error *error)
{
    if (merges.len < HEADER_BYTES || memcmp(merges.ptr, "DS4V", 4) != 0 || load_u32(merges.ptr + 4) != 1)
        return err_set(error, DS4_ERR_FORMAT, "not a compact vocabulary of version 1");
    uint32_t n_merges = load_u32(merges.ptr + 8), n_tokens = load_u32(merges.ptr + 16);
    *n_base = load_u32(merges.ptr + 12);
    if (n_merges > VOCAB_MERGES_MAX || *n_base != n_merges + FIRST_MERGE_ID || n_tokens < *n_base ||
        n_tokens > VOCAB_TOKENS_MAX)
        return err_set(error, DS4_ERR_FORMAT,
            "compact vocabulary: %u merges, %u base tokens and %u tokens do not fit together",
                       n_merges, *n_base, n_tokens);
    if (merges.len != HEADER_BYTES + (uint64_t)n_merges * MERGE_BYTES)
        return err_set(error, DS4_ERR_FORMAT, "compact vocabulary: %zu bytes do not hold %u merges", merges.len,
            n_merges);
    c->n_tokens = n_tokens;
    c->n_merges = n_merges;
    return DS4_OK;
}

/* Sets the lengths of all base tokens and merges, and *total to the bytes they take. */
static enum ds4_status measure(struct compact *c, struct ds4_span merges, uint64_t *total, struct ds4_error *error)
{
    *total = 0;
    for (unsigned i = 0; i < 256; i++) {
        c->tokens[FIRST_BYTE_ID + i].len = FIRST_BYTE_ID + i < FIRST_BYTE_ID + 94 ? 1 : 2; /* 33..126 are ASCII */
        *total += c->tokens[FIRST_BYTE_ID + i].len;
    }
    for (size_t i = 0; i < c->n_merges; i++) {
        const char *item = merges.ptr + HEADER_BYTES + i * MERGE_BYTES;
        uint32_t left = load_u24(item), right = load_u24(item + 3), id = (uint32_t)(FIRST_MERGE_ID + i);
        if (left < FIRST_BYTE_ID || left >= id || right < FIRST_BYTE_ID || right >= id)
            return err_set(error, DS4_ERR_FORMAT, "compact vocabulary: merge %zu joins %u and %u", i, left, right);
        size_t len = c->tokens[left].len + c->tokens[right].len;
        if (len > 2 * VOCAB_TOKEN_BYTES_MAX)
            return err_set(error, DS4_ERR_LIMIT, "compact vocabulary: token %u has more than %u bytes", id,
                           2 * VOCAB_TOKEN_BYTES_MAX);
        c->tokens[id].len = len;
        c->merges[i].len = len + 1;
        *total += 2 * len + 1;
    }
    return DS4_OK;
}

static char *put(char *out, struct ds4_span s)
{
    memcpy(out, s.ptr, s.len);
    return out + s.len;
}

/* The bytes in the order of their code points in the byte alphabet. */
static char *write_bytes(struct compact *c, char *out)
{
    uint16_t spelled[256];
    int16_t spells[BYTE_ALPHABET_SIZE];
    byte_alphabet_fill(spelled, spells);
    uint32_t id = FIRST_BYTE_ID;
    for (uint32_t scalar = 0; scalar < BYTE_ALPHABET_SIZE; scalar++) {
        if (spells[scalar] < 0) continue;
        c->tokens[id++].ptr = out;
        out += utf8_put(scalar, out);
    }
    return out;
}

static char *write_merges(struct compact *c, struct ds4_span merges, char *out)
{
    for (size_t i = 0; i < c->n_merges; i++) {
        const char *item = merges.ptr + HEADER_BYTES + i * MERGE_BYTES;
        struct ds4_span left = c->tokens[load_u24(item)], right = c->tokens[load_u24(item + 3)];
        c->tokens[FIRST_MERGE_ID + i].ptr = out;
        out = put(put(out, left), right);
        c->merges[i].ptr = out;
        out = put(out, left);
        *out++ = ' ';
        out = put(out, right);
    }
    return out;
}

static bool take_number(struct ds4_span *text, uint32_t *out)
{
    size_t i = 0;
    for (*out = 0; i < text->len && i < 9 && text->ptr[i] >= '0' && text->ptr[i] <= '9'; i++)
        *out = *out * 10 + (uint32_t)(text->ptr[i] - '0');
    if (i == 0 || i == text->len || text->ptr[i] != '\t') return false;
    *text = span_skip(*text, i + 1);
    return true;
}

/* Every id that is no base token must have its line. */
static enum ds4_status read_added(struct compact *c, struct ds4_span table, uint32_t n_base, char *out,
                                  struct ds4_error *error)
{
    uint32_t expected = 0, line = 0;
    while (table.len > 0) {
        uint32_t id, type;
        line++;
        if (!take_number(&table, &id) || !take_number(&table, &type) || id >= c->n_tokens)
            return err_set(error, DS4_ERR_FORMAT, "added tokens, line %u: expected id TAB type TAB literal", line);
        size_t end = span_find(table, SPAN("\n"), 0);
        if (end == SIZE_MAX) end = table.len;
        if (id != expected)
            return err_set(error, DS4_ERR_FORMAT, "added tokens, line %u: id %u, expected %u", line, id, expected);
        c->tokens[id] = span_make(out, end);
        c->types[id] = (int32_t)type;
        out = put(out, span_make(table.ptr, end));
        table = span_skip(table, end < table.len ? end + 1 : end);
        expected = id + 1 == FIRST_BYTE_ID ? n_base : id + 1;
    }
    if (expected != c->n_tokens)
        return err_set(error, DS4_ERR_FORMAT, "added tokens: the table ends before id %u of %zu", expected,
            c->n_tokens);
    return DS4_OK;
}

enum ds4_status compact_init(struct compact *c, struct ds4_span merges, struct ds4_span added_table,
                             struct ds4_error *error)
{
    uint32_t n_base = 0;
    uint64_t total = 0;
    *c = (struct compact){0};
    TRY(check_header(c, merges, &n_base, error));
    c->tokens = mem_zalloc(c->n_tokens, sizeof *c->tokens);
    c->types = mem_zalloc(c->n_tokens, sizeof *c->types);
    c->merges = mem_zalloc(c->n_merges, sizeof *c->merges);
    if (!c->tokens || !c->types || !c->merges) return err_set(error, DS4_ERR_NOMEM, "no memory for %zu tokens",
        c->n_tokens);
    TRY(measure(c, merges, &total, error));
    c->pool = mem_alloc(total + added_table.len, 1);
    if (!c->pool) return err_set(error, DS4_ERR_NOMEM, "no memory for %zu tokens", c->n_tokens);
    char *out = write_merges(c, merges, write_bytes(c, c->pool));
    for (uint32_t id = FIRST_BYTE_ID; id < n_base; id++) c->types[id] = VOCAB_NORMAL;
    return read_added(c, added_table, n_base, out, error);
}

void compact_deinit(struct compact *c)
{
    mem_free(c->tokens);
    mem_free(c->types);
    mem_free(c->merges);
    mem_free(c->pool);
    *c = (struct compact){0};
}

struct vocab_source compact_source(const struct compact *c)
{
    return (struct vocab_source){c->tokens, c->n_tokens, c->types, c->merges, c->n_merges, -1, -1, -1};
}
