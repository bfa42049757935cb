/* grammar_choice.c - references, and choices between schemas. See grammar_schema.c. */
#include "session/grammar_compiler.h"

#include "base/mem.h"

/* ---- references and choices ------------------------------------------------------------------------------------ */

/* One step of a JSON pointer: name with ~0 and ~1 decoded. */
static enum ds4_status child_named(const struct compiler *c, uint32_t value, struct ds4_span step, uint32_t *out)
{
    struct buf name = {0};
    uint32_t found = JTEXT_NONE;
    for (size_t i = 0; i < step.len; i++) {
        char second = step.ptr[i] == '~' && i + 1 < step.len ? step.ptr[i + 1] : 0;
        buf_put_byte(&name, (unsigned char)(second == '0' ? '~' : second == '1' ? '/' : step.ptr[i]));
        if (second == '0' || second == '1') i++;
    }
    if (is_kind(c, value, JTEXT_OBJECT)) found = jtext_member(&c->doc, value, buf_span(&name));
    if (is_kind(c, value, JTEXT_ARRAY) && step.len > 0 && step.len < 6) {
        uint32_t at = 0;
        for (size_t i = 0; i < step.len; i++) at = at * 10 + (uint32_t)(step.ptr[i] - '0');
        for (found = value_at(c, value)->first; at > 0 && found != JTEXT_NONE; at--) found = value_at(c, found)->next;
    }
    enum ds4_status status = buf_status(&name, c->error);
    buf_deinit(&name);
    *out = found;
    return status;
}

enum ds4_status schema_resolve(struct compiler *c, uint32_t ref, uint32_t schema, uint32_t *out)
{
    struct buf pointer = {0};
    if (!is_kind(c, ref, JTEXT_STRING)) return schema_wrong(c, "\"$ref\" is no string", schema);
    jtext_put_decoded(&c->doc, ref, &pointer);
    struct ds4_span rest = buf_span(&pointer);
    bool local = rest.len > 0 && rest.ptr[0] == '#' && (rest.len == 1 || rest.ptr[1] == '/') &&
                 span_find(rest, SPAN("%"), 0) == SIZE_MAX;
    uint32_t at = c->root;
    enum ds4_status status = buf_status(&pointer, c->error);
    for (size_t from = 2; local && at != JTEXT_NONE && from <= rest.len && status == DS4_OK;) {
        size_t slash = span_find(rest, SPAN("/"), from);
        size_t end = slash == SIZE_MAX ? rest.len : slash;
        status = child_named(c, at, span_make(rest.ptr + from, end - from), &at);
        from = end + 1;
    }
    if (status == DS4_OK) status = schema_spend(c, rest.len + 1);
    if (status == DS4_OK && !local)
        status = schema_complain(c, DS4_ERR_UNSUPPORTED, "\"$ref\" to \"", rest, "\" is not inside the schema", schema);
    if (status == DS4_OK && at == JTEXT_NONE)
        status = schema_complain(c, DS4_ERR_FORMAT, "\"$ref\" to \"", rest, "\" finds nothing", schema);
    buf_deinit(&pointer);
    *out = at;
    return status;
}

/* The schema behind references; schema itself when there is none, or no end of them. */
uint32_t schema_behind_refs(struct compiler *c, uint32_t schema)
{
    struct ds4_error ignored = {0}, *kept = c->error;
    c->error = &ignored;
    for (int hops = 0; hops < 16 && is_kind(c, schema, JTEXT_OBJECT); hops++) {
        uint32_t ref = jtext_member(&c->doc, schema, SPAN("$ref")), target;
        if (ref == JTEXT_NONE || schema_resolve(c, ref, schema, &target) != DS4_OK) break;
        schema = target;
    }
    c->error = kept;
    return schema;
}

enum ds4_status schema_make_alias(struct compiler *c, uint32_t node, uint32_t schema, const struct view *v)
{
    uint32_t target;
    TRY(schema_node(c, schema, v->types, v->place, &target));
    c->p->nodes[node].kind = NODE_ALIAS;
    c->p->nodes[node].first = c->p->n_refs;
    c->p->nodes[node].n = 1;
    return program_ref(c->p, target, c->error);
}

/* Whether the constants of two schemas have nothing in common; false when one has none. */
static bool other_constants(const struct compiler *c, uint32_t a, uint32_t b)
{
    uint32_t lists[2], ends[2];
    const uint32_t schemas[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        if (!is_kind(c, schemas[i], JTEXT_OBJECT)) return false;
        lists[i] = jtext_member(&c->doc, schemas[i], SPAN("const"));
        ends[i] = lists[i] == JTEXT_NONE ? JTEXT_NONE : value_at(c, lists[i])->next;
        if (lists[i] != JTEXT_NONE) continue;
        lists[i] = jtext_member(&c->doc, schemas[i], SPAN("enum"));
        if (!is_kind(c, lists[i], JTEXT_ARRAY)) return false;
        lists[i] = value_at(c, lists[i])->first;
        ends[i] = JTEXT_NONE;
    }
    for (uint32_t x = lists[0]; x != ends[0]; x = value_at(c, x)->next)
        for (uint32_t y = lists[1]; y != ends[1]; y = value_at(c, y)->next) {
            if (!is_kind(c, x, JTEXT_STRING) || !is_kind(c, y, JTEXT_STRING)) return false;
            struct ds4_span s = source_of(c, x), t = source_of(c, y);
            if (span_eq(s, t) || memchr(s.ptr, '\\', s.len) || memchr(t.ptr, '\\', t.len)) return false;
        }
    return true;
}

static bool requires(const struct compiler *c, uint32_t schema, struct ds4_span name)
{
    uint32_t list = jtext_member(&c->doc, schema, SPAN("required"));
    if (!is_kind(c, list, JTEXT_ARRAY)) return false;
    for (uint32_t i = value_at(c, list)->first; i != JTEXT_NONE; i = value_at(c, i)->next)
        if (is_kind(c, i, JTEXT_STRING) && span_eq(source_of(c, i), name)) return true;
    return false;
}

static uint8_t types_of_branch(struct compiler *c, uint32_t schema)
{
    struct view v;
    struct todo t = {.value = schema, .types = T_ALL};
    struct ds4_error ignored = {0}, *kept = c->error;
    if (!is_kind(c, schema, JTEXT_OBJECT)) return T_ALL;
    c->error = &ignored;
    enum ds4_status status = schema_view(c, &t, &v);
    c->error = kept;
    if (status != DS4_OK || v.k[K_ANY_OF] != JTEXT_NONE || v.k[K_ONE_OF] != JTEXT_NONE || v.k[K_ALL_OF] != JTEXT_NONE)
        return T_ALL;
    if (v.k[K_CONST] != JTEXT_NONE) return schema_type_of_value(c, v.k[K_CONST]);
    return v.types;
}

/* Whether no value can belong to both schemas, as far as can be seen. */
static bool disjoint(struct compiler *c, uint32_t a, uint32_t b)
{
    a = schema_behind_refs(c, a);
    b = schema_behind_refs(c, b);
    uint8_t types_a = types_of_branch(c, a), types_b = types_of_branch(c, b);
    if (types_a & T_NUMBER) types_a |= T_INTEGER; /* 1.0 is an integer */
    if (types_b & T_NUMBER) types_b |= T_INTEGER;
    if (!(types_a & types_b)) return true;
    if (!is_kind(c, a, JTEXT_OBJECT) || !is_kind(c, b, JTEXT_OBJECT)) return false;
    if (other_constants(c, a, b)) return true;
    uint32_t of_a = jtext_member(&c->doc, a, SPAN("properties")), of_b = jtext_member(&c->doc, b, SPAN("properties"));
    if (types_a != T_OBJECT || types_b != T_OBJECT || of_a == JTEXT_NONE || of_b == JTEXT_NONE) return false;
    for (uint32_t m = value_at(c, of_a)->first; m != JTEXT_NONE; m = value_at(c, m)->next) {
        struct ds4_span name = jtext_key(&c->doc, m);
        uint32_t other = jtext_member(&c->doc, of_b, name);
        if (other != JTEXT_NONE && requires(c, a, name) && requires(c, b, name) &&
            other_constants(c, schema_behind_refs(c, m), schema_behind_refs(c, other)))
            return true;
    }
    return false;
}

static enum ds4_status check_one_of(struct compiler *c, const struct view *v)
{
    uint32_t list = v->k[K_ONE_OF];
    if (!c->strict) return DS4_OK;
    for (uint32_t a = value_at(c, list)->first; a != JTEXT_NONE; a = value_at(c, a)->next)
        for (uint32_t b = value_at(c, a)->next; b != JTEXT_NONE; b = value_at(c, b)->next) {
            TRY(schema_spend(c, 1000));
            if (!disjoint(c, a, b))
                return schema_complain(c, DS4_ERR_UNSUPPORTED,
                    "\"oneOf\" with branches that may overlap is not supported",
                                SPAN(""), "", v->value);
        }
    return DS4_OK;
}

enum ds4_status schema_make_choice(struct compiler *c, uint32_t node, enum keyword k, const struct view *v)
{
    uint32_t list = v->k[k], n = n_children(c, list);
    if (!is_kind(c, list, JTEXT_ARRAY) || value_at(c, list)->first == JTEXT_NONE)
        return schema_complain(c, DS4_ERR_FORMAT, "\"", span_from(schema_keywords[k]), "\" is no list of schemas",
            v->value);
    if (k == K_ONE_OF) TRY(check_one_of(c, v));
    uint32_t *branches = mem_alloc(n, sizeof *branches), at = 0;
    enum ds4_status status = branches ? DS4_OK : err_set(c->error, DS4_ERR_NOMEM, "no memory for a schema");
    for (uint32_t i = value_at(c, list)->first; i != JTEXT_NONE && status == DS4_OK; i = value_at(c, i)->next)
        status = schema_node(c, i, v->types, v->place, &branches[at++]);
    c->p->nodes[node].kind = NODE_ALT;
    c->p->nodes[node].first = c->p->n_refs;
    c->p->nodes[node].n = n;
    for (uint32_t i = 0; i < n && status == DS4_OK; i++) status = program_ref(c->p, branches[i], c->error);
    mem_free(branches);
    return status;
}
