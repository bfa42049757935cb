/* grammar_set.c - "uniqueItems": arrays no two items of which are equal. See grammar_compiler.h.
 *
 * Exact where all that an item can be is known: at most 64 constants, numbered so that equal ones, as JSON has it (1
 * and 1.0; members in any order), have the same number. A frame then has a bit for each that was written. */
#include <stdio.h>

#include "base/mem.h"
#include "session/grammar_compiler.h"
#include "session/grammar_number.h"

struct pair {
    uint32_t a, b;
};

/* A number as its sign, its digits without zeros at the ends, and the power of ten behind them. */
static void put_canonical(struct ds4_span text, struct buf *out)
{
    int64_t power = 0, exponent = 0;
    size_t i = text.len && text.ptr[0] == '-', start = out->text.len;
    bool point = false, down = false;
    for (; i < text.len && (text.ptr[i] | 32) != 'e'; i++) {
        if (text.ptr[i] == '.') {
            point = true;
            continue;
        }
        power -= point;
        if (out->text.len > start || text.ptr[i] != '0') buf_put_byte(out, (unsigned char)text.ptr[i]);
    }
    for (i++; i < text.len; i++) {
        if (text.ptr[i] == '-') down = true;
        else if (text.ptr[i] != '+' && exponent < 1000000000) exponent = exponent * 10 + (text.ptr[i] - '0');
    }
    power += down ? -exponent : exponent;
    for (; !out->failed && out->text.len > start && out->text.ptr[out->text.len - 1] == '0'; power++) out->text.len--;
    if (out->text.len == start) return; /* zero */
    buf_printf(out, "%se%lld", text.ptr[0] == '-' ? "-" : "", (long long)power);
}

static bool same_scalar(const struct compiler *c, uint32_t a, uint32_t b, struct buf *scratch)
{
    buf_clear(scratch);
    if (is_kind(c, a, JTEXT_LITERAL)) return span_eq(source_of(c, a), source_of(c, b));
    bool string = is_kind(c, a, JTEXT_STRING);
    if (string) jtext_put_decoded(&c->doc, a, scratch);
    else put_canonical(source_of(c, a), scratch);
    size_t n = scratch->text.len;
    if (string) jtext_put_decoded(&c->doc, b, scratch);
    else put_canonical(source_of(c, b), scratch);
    struct ds4_span both = buf_span(scratch);
    return both.len == 2 * n && (n == 0 || memcmp(both.ptr, both.ptr + n, n) == 0);
}

/* Whether two constants are the same value. pairs: room for as many as the schema has values. */
static bool same_value(const struct compiler *c, uint32_t a, uint32_t b, struct pair *pairs, struct buf *scratch)
{
    size_t n = 0;
    pairs[n++] = (struct pair){a, b};
    while (n > 0) {
        struct pair p = pairs[--n];
        const struct jtext_value *x = value_at(c, p.a), *y = value_at(c, p.b);
        if (x->kind != y->kind) return false;
        if (x->kind != JTEXT_ARRAY && x->kind != JTEXT_OBJECT) {
            if (!same_scalar(c, p.a, p.b, scratch)) return false;
            continue;
        }
        if (n_children(c, p.a) != n_children(c, p.b)) return false;
        for (uint32_t i = x->first, k = y->first; i != JTEXT_NONE; i = value_at(c, i)->next) {
            uint32_t other = x->kind == JTEXT_ARRAY ? k : jtext_member(&c->doc, p.b, jtext_key(&c->doc, i));
            if (other == JTEXT_NONE) return false;
            pairs[n++] = (struct pair){i, other};
            k = value_at(c, k)->next;
        }
    }
    return true;
}

/* ---- what an item can be --------------------------------------------------------------------------------------- */

static enum ds4_status put_constant(struct compiler *c, uint32_t node, struct ds4_span text, uint32_t number)
{
    uint32_t start = (uint32_t)c->p->texts.text.len;
    buf_put_span(&c->p->texts, text);
    TRY(program_entry(c->p, start, NODE_NONE, number, c->error));
    c->p->nodes[node].n_entries++;
    return DS4_OK;
}

/* true, false and null. */
static enum ds4_status put_words(struct compiler *c, uint32_t node, uint8_t types)
{
    uint32_t n = 0;
    if (types & T_BOOL) TRY(put_constant(c, node, SPAN("false"), n++));
    if (types & T_BOOL) TRY(put_constant(c, node, SPAN("true"), n++));
    if (types & T_NULL) TRY(put_constant(c, node, SPAN("null"), n++));
    c->p->nodes[node].n_declared = n;
    return DS4_OK;
}

/* Whole numbers between bounds, if they are few; *made says whether. */
static enum ds4_status put_integers(struct compiler *c, uint32_t node, const struct view *item, bool *made)
{
    static const enum keyword bounds[N_BOUNDS] = {K_MINIMUM, K_MAXIMUM, K_ABOVE, K_BELOW, K_MULTIPLE_OF};
    struct gnode number = {.kind = NODE_NUMBER};
    struct ds4_span text[N_BOUNDS] = {{0}};
    for (int i = 0; i < N_BOUNDS; i++)
        if (is_kind(c, item->k[bounds[i]], JTEXT_NUMBER)) text[i] = source_of(c, item->k[bounds[i]]);
    bool both = (text[0].len || text[2].len) && (text[1].len || text[3].len);
    *made = both && number_bounds(&number, true, text) && number.bounded && number.lo <= number.hi &&
            (uint64_t)number.hi - (uint64_t)number.lo < GRAMMAR_SET_MAX;
    uint32_t n = 0;
    for (int64_t i = number.lo; *made && i <= number.hi; i++) {
        char digits[24];
        if (number.multiple && i % number.multiple != 0) continue;
        (void)snprintf(digits, sizeof digits, "%lld", (long long)i);
        TRY(put_constant(c, node, span_from(digits), n++));
    }
    c->p->nodes[node].n_declared = n;
    return DS4_OK;
}

static enum ds4_status put_list(struct compiler *c, uint32_t node, const struct view *item, bool *made)
{
    uint32_t only = item->k[K_CONST], n = 0, of[GRAMMAR_SET_MAX];
    struct pair *pairs = mem_alloc(c->doc.n_values, sizeof *pairs);
    struct buf scratch = {0};
    enum ds4_status status = pairs ? DS4_OK : err_set(c->error, DS4_ERR_NOMEM, "no memory for a schema");
    *made = only != JTEXT_NONE || is_kind(c, item->k[K_ENUM], JTEXT_ARRAY);
    uint32_t i = only != JTEXT_NONE || !*made ? only : value_at(c, item->k[K_ENUM])->first;
    for (; *made && i != JTEXT_NONE && status == DS4_OK; i = only != JTEXT_NONE ? JTEXT_NONE : value_at(c, i)->next) {
        uint32_t number = 0, start = (uint32_t)c->p->texts.text.len;
        if (!(schema_type_of_value(c, i) & item->types)) continue;
        status = schema_spend(c, (uint64_t)n * 8 + 8);
        while (number < n && !same_value(c, of[number], i, pairs, &scratch)) number++;
        *made = number < GRAMMAR_SET_MAX && !scratch.failed;
        if (*made && number == n) of[n++] = i;
        jtext_put_styled(&c->doc, i, &c->p->texts);
        if (status == DS4_OK) status = schema_check_closer(c, start, i);
        if (status == DS4_OK) status = program_entry(c->p, start, NODE_NONE, number, c->error);
        c->p->nodes[node].n_entries++;
    }
    if (status == DS4_OK && scratch.failed) status = err_set(c->error, DS4_ERR_NOMEM, "no memory for a schema");
    c->p->nodes[node].n_declared = n;
    buf_deinit(&scratch);
    mem_free(pairs);
    return status;
}

enum ds4_status schema_make_set(struct compiler *c, uint32_t node, const struct view *v)
{
    struct view item;
    struct gnode array = c->p->nodes[node];
    bool made = false;
    uint32_t items = v->k[K_ITEMS], schema = items == JTEXT_NONE ? items : schema_behind_refs(c, items);
    if (v->k[K_PREFIX_ITEMS] == JTEXT_NONE && is_kind(c, schema, JTEXT_OBJECT)) {
        struct todo t = {.value = schema, .types = T_ALL, .place = PLACE_JSON};
        TRY(schema_view(c, &t, &item));
        bool words = item.k[K_TYPE] != JTEXT_NONE && !(item.types & ~(T_BOOL | T_NULL));
        c->p->nodes[node] = (struct gnode){.kind = NODE_SET, .min = array.min, .max = array.max,
                                           .entry = c->p->n_entries, .min_bytes = array.min_bytes,
                                           .min_depth = array.min_depth};
        if (item.k[K_CONST] != JTEXT_NONE || item.k[K_ENUM] != JTEXT_NONE) TRY(put_list(c, node, &item, &made));
        else if (words) TRY(put_words(c, node, item.types));
        else if (item.types == T_INTEGER) TRY(put_integers(c, node, &item, &made));
        made = made || words;
    }
    if (made) {
        program_sort_entries(c->p, node);
        return DS4_OK;
    }
    c->p->nodes[node] = array;
    if (!c->strict) return DS4_OK;
    return schema_complain(c, DS4_ERR_UNSUPPORTED, "\"uniqueItems\" is supported for items that are one of at most 64 "
                           "constants, not for those", SPAN(""), "", items == JTEXT_NONE ? v->value : items);
}
