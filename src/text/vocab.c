/* vocab.c - builds and answers for the vocabulary. See vocab.h; layout of the tables in vocab_tables.h.
 *
 * In: arrays from a file, not trusted. Checked here: sizes, token lengths, spelling, duplicates, types, each merge (one
 * space, both halves and the result known, not said twice), special ids in range. */
#include "text/vocab.h"

#include <stdlib.h>

#include "base/mem.h"
#include "text/byte_alphabet.h"
#include "text/markers.h"
#include "text/vocab_tables.h"

struct builder {
    const struct vocab_source *source;
    struct vocab *vocab;
    uint16_t spelled[256];
    int16_t spells[BYTE_ALPHABET_SIZE];
    struct ds4_error *error;
};

/* Longest part of a hostile string that goes into a message. */
static int shown(struct ds4_span s) { return s.len < 60 ? (int)s.len : 60; }

static uint64_t slots_for(uint64_t n)
{
    uint64_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

static enum ds4_status allocate(struct builder *b)
{
    const struct vocab_source *source = b->source;
    struct vocab *v = b->vocab;
    uint64_t pool_bytes = 0;
    for (size_t i = 0; i < source->n_tokens; i++) {
        if (source->tokens[i].len > 2 * VOCAB_TOKEN_BYTES_MAX)
            return err_set(b->error, DS4_ERR_LIMIT, "token %zu has %zu bytes, more than %u", i, source->tokens[i].len,
                           2 * VOCAB_TOKEN_BYTES_MAX);
        pool_bytes += source->tokens[i].len;
    }
    uint64_t base_slots = slots_for(source->n_tokens), pair_slots = slots_for(source->n_merges);
    v->n_tokens = (uint32_t)source->n_tokens;
    v->n_merges = (uint32_t)source->n_merges;
    v->base_mask = base_slots - 1;
    v->pair_mask = pair_slots - 1;
    v->pool = mem_alloc(pool_bytes, 1);
    v->offsets = mem_zalloc((size_t)v->n_tokens + 1, sizeof *v->offsets);
    v->types = mem_zalloc(v->n_tokens, sizeof *v->types);
    v->whole = mem_zalloc(v->n_tokens, sizeof *v->whole);
    v->base_slots = mem_alloc(base_slots, sizeof *v->base_slots);
    v->pair_slots = mem_alloc(pair_slots, sizeof *v->pair_slots);
    v->merged = mem_zalloc(v->n_merges, sizeof *v->merged);
    v->base_filter = mem_zalloc(base_slots / 16, sizeof *v->base_filter); /* at least 16 slots, 64 bits */
    v->pair_filter = mem_zalloc(pair_slots / 16, sizeof *v->pair_filter);
    v->byte_pairs = mem_alloc(256 * 256, sizeof *v->byte_pairs);
    if (!v->pool || !v->offsets || !v->types || !v->whole || !v->base_slots || !v->pair_slots || !v->merged ||
        !v->base_filter || !v->pair_filter || !v->byte_pairs)
        return err_set(b->error, DS4_ERR_NOMEM, "no memory for a vocabulary of %u tokens", v->n_tokens);
    memset(v->base_slots, 0xFF, base_slots * sizeof *v->base_slots);
    memset(v->pair_slots, 0xFF, pair_slots * sizeof *v->pair_slots);
    for (int i = 0; i < 256; i++) v->byte_ids[i] = -1;
    return DS4_OK;
}

/* Bytes that a string in the byte alphabet spells; SIZE_MAX when it holds anything else. out has room for text.len. */
static size_t spell(const struct builder *b, struct ds4_span text, char *out)
{
    size_t n = 0, taken;
    for (size_t at = 0; at < text.len; at += taken) {
        uint32_t scalar = utf8_next(text.ptr + at, text.len - at, &taken);
        if (scalar >= BYTE_ALPHABET_SIZE || b->spells[scalar] < 0) return SIZE_MAX;
        out[n++] = (char)b->spells[scalar];
    }
    return n;
}

static enum ds4_status index_base(struct builder *b, uint32_t id)
{
    struct vocab *v = b->vocab;
    struct ds4_span bytes = vocab_bytes(v, id);
    uint64_t hash = hash_u64(bytes.ptr, bytes.len), i = hash;
    for (;; i++) {
        uint64_t slot = v->base_slots[i & v->base_mask];
        if (slot == VOCAB_EMPTY) break;
        if (slot >> 32 == hash >> 32 && span_eq(vocab_bytes(v, (uint32_t)slot), bytes))
            return err_set(b->error, DS4_ERR_FORMAT, "tokens %u and %u are both \"%.*s\"", (uint32_t)slot, id,
                           shown(b->source->tokens[id]), b->source->tokens[id].ptr);
    }
    v->base_slots[i & v->base_mask] = (hash >> 32) << 32 | id;
    vocab_filter_set(v->base_filter, v->base_mask, hash);
    if (bytes.len == 1) v->byte_ids[(unsigned char)bytes.ptr[0]] = (int32_t)id;
    return DS4_OK;
}

static enum ds4_status add_token(struct builder *b, uint32_t id)
{
    struct vocab *v = b->vocab;
    struct ds4_span text = b->source->tokens[id];
    int32_t type = b->source->types ? b->source->types[id] : VOCAB_NORMAL;
    char *out = v->pool + v->offsets[id];
    if (type < VOCAB_NORMAL || type > VOCAB_UNUSED)
        return err_set(b->error, DS4_ERR_FORMAT, "token %u has type %d, expected 1 to 5", id, type);
    if (text.len == 0 && type != VOCAB_UNUSED) return err_set(b->error, DS4_ERR_FORMAT, "token %u is empty", id);
    size_t len = text.len;
    if (type == VOCAB_NORMAL) {
        len = spell(b, text, out);
        if (len == SIZE_MAX && b->source->types)
            return err_set(b->error, DS4_ERR_FORMAT, "token %u (\"%.*s\") is not in the byte alphabet", id, shown(text),
                           text.ptr);
        if (len == SIZE_MAX) type = VOCAB_USER_DEFINED;
    }
    if (type != VOCAB_NORMAL) {
        len = text.len;
        if (len) memcpy(out, text.ptr, len);
    }
    if (len > VOCAB_TOKEN_BYTES_MAX)
        return err_set(b->error, DS4_ERR_LIMIT, "token %u has %zu bytes, more than %u", id, len, VOCAB_TOKEN_BYTES_MAX);
    v->types[id] = (uint8_t)type;
    v->offsets[id + 1] = v->offsets[id] + (uint32_t)len;
    return type == VOCAB_NORMAL ? index_base(b, id) : DS4_OK;
}

static enum ds4_status add_merge(struct builder *b, uint32_t rank)
{
    struct vocab *v = b->vocab;
    struct ds4_span text = b->source->merges[rank];
    char joined[4 * VOCAB_TOKEN_BYTES_MAX];
    size_t space = span_find(text, SPAN(" "), 0);
    if (space == SIZE_MAX || space == 0 || space + 1 == text.len || span_find(text, SPAN(" "), space + 1) != SIZE_MAX)
        return err_set(b->error, DS4_ERR_FORMAT, "merge %u (\"%.*s\") is not two tokens with one space between", rank,
                       shown(text), text.ptr);
    if (text.len > sizeof joined)
        return err_set(b->error, DS4_ERR_LIMIT, "merge %u has %zu bytes, more than %zu", rank, text.len, sizeof joined);
    size_t left_len = spell(b, span_make(text.ptr, space), joined);
    size_t right_len = left_len == SIZE_MAX ? SIZE_MAX : spell(b, span_skip(text, space + 1), joined + left_len);
    if (right_len == SIZE_MAX)
        return err_set(b->error, DS4_ERR_FORMAT, "merge %u (\"%.*s\") is not in the byte alphabet", rank, shown(text),
                       text.ptr);
    int32_t left = vocab_lookup(v, span_make(joined, left_len));
    int32_t right = vocab_lookup(v, span_make(joined + left_len, right_len));
    int32_t result = vocab_lookup(v, span_make(joined, left_len + right_len));
    if (left < 0 || right < 0 || result < 0)
        return err_set(b->error, DS4_ERR_FORMAT, "merge %u (\"%.*s\"): its %s is not a token", rank, shown(text),
            text.ptr,
                       left < 0 ? "left half" : right < 0 ? "right half" : "result");
    uint64_t key = vocab_pair_key((uint32_t)left, (uint32_t)right), i = vocab_pair_hash(key);
    for (; v->pair_slots[i & v->pair_mask] != VOCAB_EMPTY; i++) {
        if (v->pair_slots[i & v->pair_mask] >> 24 == key)
            return err_set(b->error, DS4_ERR_FORMAT, "merge %u (\"%.*s\") repeats merge %u", rank, shown(text),
                text.ptr,
                           (uint32_t)(v->pair_slots[i & v->pair_mask] & 0xFFFFFF));
    }
    v->pair_slots[i & v->pair_mask] = key << 24 | rank;
    vocab_filter_set(v->pair_filter, v->pair_mask, vocab_pair_hash(key));
    v->merged[rank] = (uint32_t)result;
    return DS4_OK;
}

/* Without declared types an ASCII "<...>" that no merge makes is a control token. */
static enum ds4_status infer_types(struct builder *b)
{
    struct vocab *v = b->vocab;
    uint8_t *made = mem_zalloc(v->n_tokens, 1);
    if (!made) return err_set(b->error, DS4_ERR_NOMEM, "no memory for a vocabulary of %u tokens", v->n_tokens);
    for (uint32_t rank = 0; rank < v->n_merges; rank++) made[v->merged[rank]] = 1;
    for (uint32_t id = 0; id < v->n_tokens; id++) {
        struct ds4_span bytes = vocab_bytes(v, id);
        if (made[id] || bytes.len < 3 || bytes.ptr[0] != '<' || bytes.ptr[bytes.len - 1] != '>') continue;
        if (span_eq(bytes, b->source->tokens[id])) v->types[id] = VOCAB_USER_DEFINED;
    }
    mem_free(made);
    return DS4_OK;
}

static bool is_added(const struct vocab *v, uint32_t id)
{
    return v->types[id] == VOCAB_CONTROL || v->types[id] == VOCAB_USER_DEFINED || v->types[id] == VOCAB_UNKNOWN;
}

struct added_item {
    struct ds4_span literal;
    uint32_t id;
};

static int span_order(struct ds4_span a, struct ds4_span b)
{
    int order = memcmp(a.ptr, b.ptr, a.len < b.len ? a.len : b.len);
    if (order != 0) return order;
    return a.len < b.len ? -1 : a.len > b.len;
}

static int added_order(const void *left, const void *right)
{
    const struct added_item *a = left, *b = right;
    return span_order(a->literal, b->literal);
}

static enum ds4_status index_added(struct builder *b)
{
    struct vocab *v = b->vocab;
    for (uint32_t id = 0; id < v->n_tokens; id++) v->n_added += is_added(v, id);
    struct added_item *items = mem_zalloc(v->n_added, sizeof *items);
    v->added = mem_zalloc(v->n_added, sizeof *v->added);
    if (!items || !v->added) {
        mem_free(items);
        return err_set(b->error, DS4_ERR_NOMEM, "no memory for %u added tokens", v->n_added);
    }
    uint32_t n = 0;
    for (uint32_t id = 0; id < v->n_tokens; id++) {
        if (is_added(v, id)) items[n++] = (struct added_item){vocab_bytes(v, id), id};
    }
    qsort(items, n, sizeof *items, added_order);
    enum ds4_status status = DS4_OK;
    for (uint32_t i = 0; i < n; i++) {
        v->added[i] = items[i].id;
        v->added_first[(unsigned char)items[i].literal.ptr[0] + 1]++;
        if (items[i].literal.len > v->added_len_max) v->added_len_max = (uint16_t)items[i].literal.len;
        if (i > 0 && status == DS4_OK && span_eq(items[i - 1].literal, items[i].literal))
            status = err_set(b->error, DS4_ERR_FORMAT, "added tokens %u and %u are both \"%.*s\"", items[i - 1].id,
                             items[i].id, shown(items[i].literal), items[i].literal.ptr);
    }
    for (int byte = 0; byte < 256; byte++) v->added_first[byte + 1] += v->added_first[byte];
    mem_free(items);
    return status;
}

static int32_t special_id(const struct vocab *v, struct ds4_span literal, int64_t otherwise)
{
    int32_t id = vocab_find_added(v, literal);
    return id >= 0 ? id : (int32_t)otherwise;
}

static enum ds4_status find_special(struct builder *b)
{
    const struct vocab_source *source = b->source;
    struct vocab *v = b->vocab;
    const int64_t said[] = {source->bos_id, source->eos_id, source->pad_id};
    static const char *const names[] = {"bos", "eos", "padding"};
    for (int i = 0; i < 3; i++) {
        if (said[i] < -1 || said[i] >= v->n_tokens)
            return err_set(b->error, DS4_ERR_FORMAT, "%s_token_id is %lld, but there are %u tokens", names[i],
                           (long long)said[i], v->n_tokens);
    }
    v->special.bos = special_id(v, SPAN(MARK_BOS), source->bos_id);
    v->special.eos = special_id(v, SPAN(MARK_EOS), source->eos_id);
    v->special.pad = special_id(v, SPAN(MARK_PAD), source->pad_id);
    v->special.user = special_id(v, SPAN(MARK_USER), -1);
    v->special.assistant = special_id(v, SPAN(MARK_ASSISTANT), -1);
    v->special.think = special_id(v, SPAN(MARK_THINK), -1);
    v->special.think_end = special_id(v, SPAN(MARK_THINK_END), -1);
    v->special.dsml = special_id(v, SPAN(MARK_DSML), -1);
    v->special.latest_reminder = special_id(v, SPAN(MARK_LATEST_REMINDER), -1);
    return DS4_OK;
}

static void rank_byte_pairs(struct vocab *v)
{
    for (uint32_t i = 0; i < 256 * 256; i++) {
        int32_t left = v->byte_ids[i >> 8], right = v->byte_ids[i & 255];
        v->byte_pairs[i] = left < 0 || right < 0 ? VOCAB_NO_RANK : vocab_rank(v, (uint32_t)left, (uint32_t)right);
    }
}

static enum ds4_status build(struct builder *b)
{
    TRY(allocate(b));
    for (uint32_t id = 0; id < b->vocab->n_tokens; id++) TRY(add_token(b, id));
    for (uint32_t rank = 0; rank < b->vocab->n_merges; rank++) TRY(add_merge(b, rank));
    rank_byte_pairs(b->vocab);
    if (!b->source->types) TRY(infer_types(b));
    TRY(index_added(b));
    return find_special(b);
}

enum ds4_status vocab_create(const struct vocab_source *source, struct vocab **out, struct ds4_error *error)
{
    if (source->n_tokens == 0 || source->n_tokens > VOCAB_TOKENS_MAX)
        return err_set(error, DS4_ERR_LIMIT, "a vocabulary of %zu tokens; 1 to %u are possible", source->n_tokens,
                       VOCAB_TOKENS_MAX);
    if (source->n_merges > VOCAB_MERGES_MAX)
        return err_set(error, DS4_ERR_LIMIT, "%zu merges; at most %u are possible", source->n_merges, VOCAB_MERGES_MAX);
    struct builder b = {.source = source, .error = error};
    byte_alphabet_fill(b.spelled, b.spells);
    b.vocab = mem_zalloc(1, sizeof *b.vocab);
    if (!b.vocab) return err_set(error, DS4_ERR_NOMEM, "no memory for a vocabulary");
    enum ds4_status status = build(&b);
    if (status != DS4_OK) {
        vocab_destroy(b.vocab);
        return status;
    }
    *out = b.vocab;
    return DS4_OK;
}

void vocab_destroy(struct vocab *v)
{
    if (!v) return;
    mem_free(v->pool);
    mem_free(v->offsets);
    mem_free(v->types);
    mem_free((void *)v->whole);
    mem_free(v->base_slots);
    mem_free(v->pair_slots);
    mem_free(v->base_filter);
    mem_free(v->pair_filter);
    mem_free(v->byte_pairs);
    mem_free(v->merged);
    mem_free(v->added);
    mem_free(v);
}

uint32_t vocab_n_tokens(const struct vocab *v) { return v->n_tokens; }
uint32_t vocab_n_merges(const struct vocab *v) { return v->n_merges; }
const struct ds4_special_ids *vocab_special(const struct vocab *v) { return &v->special; }

static bool in_range(const struct vocab *v, int32_t id) { return id >= 0 && (uint32_t)id < v->n_tokens; }

struct ds4_span vocab_token(const struct vocab *v, int32_t id)
{
    return in_range(v, id) ? vocab_bytes(v, (uint32_t)id) : span_make("", 0);
}

bool vocab_is_control(const struct vocab *v, int32_t id) { return in_range(v, id) && is_added(v, (uint32_t)id); }

enum vocab_type vocab_token_type(const struct vocab *v, int32_t id)
{
    return in_range(v, id) ? (enum vocab_type)v->types[id] : VOCAB_UNUSED;
}

int32_t vocab_find_base(const struct vocab *v, struct ds4_span bytes) { return vocab_lookup(v, bytes); }

int32_t vocab_find_added(const struct vocab *v, struct ds4_span literal)
{
    uint32_t low = 0, high = v->n_added;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = span_order(vocab_bytes(v, v->added[middle]), literal);
        if (order == 0) return (int32_t)v->added[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

void vocab_digest(const struct vocab *v, uint8_t digest[16])
{
    uint8_t parts[5][16];
    hash_bytes(v->pool, v->offsets[v->n_tokens], parts[0]);
    hash_bytes(v->offsets, ((size_t)v->n_tokens + 1) * sizeof *v->offsets, parts[1]);
    hash_bytes(v->types, v->n_tokens, parts[2]);
    hash_bytes(v->pair_slots, (v->pair_mask + 1) * sizeof *v->pair_slots, parts[3]);
    hash_bytes(v->merged, v->n_merges * sizeof *v->merged, parts[4]);
    hash_bytes(parts, sizeof parts, digest);
}
