/* bpe.c - byte-pair merging of one piece. See bpe.h.
 *
 * Three ways with one result:
 *  - a piece that is a base token which merging is known to give back (vocab_tables.h) is that token: one look-up;
 *  - a short piece: ranks of all neighbours in an array, the least is searched anew after each merge;
 *  - a long piece: a linked list of symbols and a binary heap of (rank, place). A heap entry is stale when the place no
 *    longer begins a pair of that rank; a rank names its pair, so nothing more needs to be compared.
 * Equal ranks merge from left to right in all of them. */
#include "text/bpe.h"

#include "base/mem.h"
#include "text/vocab_tables.h"

#ifdef DS4_SMALL_LIMITS
enum { SHORT_BYTES = 3 };
#else
enum { SHORT_BYTES = 48 }; /* longer pieces are cheaper by heap (measured on words and on base64) */
#endif

static enum ds4_status byte_missing(const struct vocab *v, unsigned char byte, struct ds4_error *error)
{
    return err_set(error, DS4_ERR_UNSUPPORTED, "the vocabulary of %u tokens has none for the byte 0x%02x", v->n_tokens,
                   byte);
}

static size_t remove_at(uint32_t *items, size_t n, size_t at)
{
    memmove(items + at, items + at + 1, (n - at - 1) * sizeof *items);
    return n - 1;
}

static enum ds4_status merge_short(const struct vocab *v, struct ds4_span piece, struct ds4_tokens *out,
                                   struct ds4_error *error)
{
    /* ranks[i] belongs to the pair of ids i and i + 1. Clearing the arrays would take longer than most merges. */
    uint32_t ids[SHORT_BYTES] UNINITIALISED, ranks[SHORT_BYTES] UNINITIALISED;
    size_t n = piece.len, n_ranks = n - 1;
    for (size_t i = 0; i < n; i++) {
        int32_t id = v->byte_ids[(unsigned char)piece.ptr[i]];
        if (id < 0) return byte_missing(v, (unsigned char)piece.ptr[i], error);
        ids[i] = (uint32_t)id;
    }
    const unsigned char *bytes = (const unsigned char *)piece.ptr;
    for (size_t i = 0; i < n_ranks; i++) ranks[i] = v->byte_pairs[bytes[i] << 8 | bytes[i + 1]];
    for (;;) {
        size_t best = 0;
        uint32_t rank = VOCAB_NO_RANK;
        for (size_t i = 0; i < n_ranks; i++) {
            if (ranks[i] >= rank) continue;
            rank = ranks[i];
            best = i;
        }
        if (rank == VOCAB_NO_RANK) break;
        ids[best] = v->merged[rank];
        n = remove_at(ids, n, best + 1);
        n_ranks = remove_at(ranks, n_ranks, best);
        if (best > 0) ranks[best - 1] = vocab_rank(v, ids[best - 1], ids[best]);
        if (best < n_ranks) ranks[best] = vocab_rank(v, ids[best], ids[best + 1]);
    }
    return ds4_tokens_append(out, (const int32_t *)ids, n);
}

/* Symbols of a long piece; index = place of the symbol's first byte. */
struct symbol {
    uint32_t id;
    uint32_t rank; /* of the pair with the next symbol; VOCAB_NO_RANK: none, or merged away */
    uint32_t previous, next;
};

struct long_piece {
    const struct vocab *vocab;
    struct symbol *symbols;
    uint64_t *heap; /* rank << 32 | place, least first */
    size_t n_heap;
    uint32_t n;
};

static void heap_push(struct long_piece *p, uint64_t entry)
{
    size_t i = p->n_heap++;
    for (; i > 0 && p->heap[(i - 1) / 2] > entry; i = (i - 1) / 2) p->heap[i] = p->heap[(i - 1) / 2];
    p->heap[i] = entry;
}

static uint64_t heap_pop(struct long_piece *p)
{
    uint64_t top = p->heap[0], entry = p->heap[--p->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= p->n_heap) break;
        if (child + 1 < p->n_heap && p->heap[child + 1] < p->heap[child]) child++;
        if (p->heap[child] >= entry) break;
        p->heap[i] = p->heap[child];
        i = child;
    }
    p->heap[i] = entry;
    return top;
}

static void consider_pair(struct long_piece *p, uint32_t at)
{
    struct symbol *s = &p->symbols[at];
    s->rank = s->next < p->n ? vocab_rank(p->vocab, s->id, p->symbols[s->next].id) : VOCAB_NO_RANK;
    if (s->rank != VOCAB_NO_RANK) heap_push(p, (uint64_t)s->rank << 32 | at);
}

static void merge_at(struct long_piece *p, uint32_t at)
{
    struct symbol *left = &p->symbols[at], *right = &p->symbols[left->next];
    left->id = p->vocab->merged[left->rank];
    left->next = right->next;
    right->rank = VOCAB_NO_RANK;
    if (left->next < p->n) p->symbols[left->next].previous = at;
    consider_pair(p, at);
    if (left->previous != UINT32_MAX) consider_pair(p, left->previous);
}

static enum ds4_status merge_long(const struct vocab *v, struct ds4_span piece, struct ds4_tokens *out,
                                  struct ds4_error *error)
{
    enum ds4_status status = DS4_OK;
    if (piece.len > UINT32_MAX / 4)
        return err_set(error, DS4_ERR_LIMIT, "%zu bytes without a place to cut are too many to encode", piece.len);
    /* Each of the n - 1 first pairs is pushed once, each of at most n - 1 merges pushes two. */
    struct long_piece p = {v, mem_alloc(piece.len, sizeof *p.symbols), mem_alloc(3 * piece.len, sizeof *p.heap), 0,
                           (uint32_t)piece.len};
    if (!p.symbols || !p.heap) {
        status = err_set(error, DS4_ERR_NOMEM, "no memory to encode a piece of %zu bytes", piece.len);
        goto out;
    }
    for (uint32_t i = 0; i < p.n; i++) {
        int32_t id = v->byte_ids[(unsigned char)piece.ptr[i]];
        if (id < 0) {
            status = byte_missing(v, (unsigned char)piece.ptr[i], error);
            goto out;
        }
        p.symbols[i] = (struct symbol){(uint32_t)id, VOCAB_NO_RANK, i - 1, i + 1};
    }
    for (uint32_t i = 0; i < p.n; i++) consider_pair(&p, i);
    while (p.n_heap > 0) {
        uint64_t entry = heap_pop(&p);
        uint32_t at = (uint32_t)entry;
        if (p.symbols[at].rank == (uint32_t)(entry >> 32)) merge_at(&p, at);
    }
    for (uint32_t i = 0; i < p.n && status == DS4_OK; i = p.symbols[i].next) {
        int32_t id = (int32_t)p.symbols[i].id;
        status = ds4_tokens_append(out, &id, 1);
    }
out:
    mem_free(p.symbols);
    mem_free(p.heap);
    return status;
}

static enum ds4_status merge(const struct vocab *v, struct ds4_span piece, struct ds4_tokens *out,
                             struct ds4_error *error)
{
    return piece.len <= SHORT_BYTES ? merge_short(v, piece, out, error) : merge_long(v, piece, out, error);
}

enum ds4_status bpe_piece(const struct vocab *v, struct ds4_span piece, struct ds4_tokens *out,
                          struct ds4_error *error)
{
    if (piece.len == 1) {
        int32_t byte = v->byte_ids[(unsigned char)piece.ptr[0]];
        return byte < 0 ? byte_missing(v, (unsigned char)piece.ptr[0], error) : ds4_tokens_append(out, &byte, 1);
    }
    int32_t id = piece.len <= VOCAB_TOKEN_BYTES_MAX ? vocab_lookup(v, piece) : -1;
    if (id < 0) return merge(v, piece, out, error);
    uint8_t whole = atomic_load_explicit(&v->whole[id], memory_order_relaxed);
    if (whole == VOCAB_WHOLE_YES) return ds4_tokens_append(out, &id, 1);
    size_t n_before = out->n;
    TRY(merge(v, piece, out, error));
    if (whole == VOCAB_WHOLE_UNTRIED) {
        whole = out->n == n_before + 1 && out->ids[n_before] == id ? VOCAB_WHOLE_YES : VOCAB_WHOLE_NO;
        atomic_store_explicit(&v->whole[id], whole, memory_order_relaxed);
    }
    return DS4_OK;
}
