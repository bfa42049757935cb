/* grammar_schema.c - JSON schemas and tools to nodes. See grammar_nodes.h.
 *
 * In: schemas from strangers. A schema becomes a pending node with the types that its place allows, and is opened
 * later from a list, so nothing recurses; a schema that is met again with the same types is the same node, which is
 * how references to oneself end.
 *
 * What a schema accepts may be narrowed, never widened, so that whatever is written conforms:
 *  - without "type" the keywords that are there say which types are meant; without those, any;
 *  - without "additionalProperties" an object that declares members has no others (strict schemas only);
 *  - a member's name without a declaration is written without escapes;
 *  - oneOf is taken where its branches cannot overlap: other types, or a required member with other constants. */
#include "session/grammar_compiler.h"

#include "base/mem.h"
#include "session/grammar_number.h"

const char *const schema_keywords[N_KEYWORDS] = {
    "type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "properties", "required", "additionalProperties",
    "items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minProperties", "maxProperties", "pattern", "format",
    "uniqueItems"};
static const char *const annotations[] = {
    "title", "description", "default", "examples", "example", "$comment", "$schema", "$id", "$defs", "definitions",
    "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema", "strict"};

/* ---- messages -------------------------------------------------------------------------------------------------- */

static void put_printable(struct buf *out, struct ds4_span text)
{
    for (size_t i = 0; i < text.len && i < 60; i++)
        buf_put_byte(out, text.ptr[i] >= 0x20 && text.ptr[i] < 0x7F ? (unsigned char)text.ptr[i] : '?');
}

static void put_path(const struct compiler *c, uint32_t value, struct buf *out)
{
    uint32_t up[24], n = 0;
    for (; value != c->root && value != JTEXT_NONE && n < 24; value = value_at(c, value)->parent) up[n++] = value;
    buf_put_text(out, n == 24 ? "..." : "#");
    while (n-- > 0) {
        uint32_t parent = value_at(c, up[n])->parent, i = 0;
        buf_put_byte(out, '/');
        if (is_kind(c, parent, JTEXT_OBJECT)) {
            put_printable(out, jtext_key(&c->doc, up[n]));
            continue;
        }
        for (uint32_t v = value_at(c, parent)->first; v != up[n] && v != JTEXT_NONE; v = value_at(c, v)->next) i++;
        buf_printf(out, "%u", i);
    }
}

/* "response_format: <before>NAME<after> at PATH". */
enum ds4_status schema_complain(struct compiler *c, enum ds4_status status, const char *before, struct ds4_span name,
                                const char *after, uint32_t value)
{
    struct buf text = {0};
    buf_put_text(&text, before);
    put_printable(&text, name);
    buf_put_text(&text, after);
    buf_put_text(&text, " at ");
    put_path(c, value, &text);
    struct ds4_span sentence = buf_span(&text);
    (void)err_set(c->error, status, "%s: %.*s", c->what, sentence.len < 400 ? (int)sentence.len : 400, sentence.ptr);
    buf_deinit(&text);
    return status;
}

enum ds4_status schema_wrong(struct compiler *c, const char *sentence, uint32_t value)
{
    return schema_complain(c, DS4_ERR_FORMAT, sentence, SPAN(""), "", value);
}

enum ds4_status schema_unsupported(struct compiler *c, const char *keyword, uint32_t schema)
{
    return schema_complain(c, DS4_ERR_UNSUPPORTED, "the keyword \"", span_from(keyword), "\" is not supported", schema);
}

enum ds4_status schema_spend(struct compiler *c, uint64_t steps)
{
    c->work += steps;
    if (c->work <= GRAMMAR_WORK_MAX) return DS4_OK;
    return err_set(c->error, DS4_ERR_LIMIT, "%s: a schema that is too entangled", c->what);
}

/* ---- pending nodes --------------------------------------------------------------------------------------------- */

static uint64_t hash_of(uint32_t value, uint8_t types, uint8_t place)
{
    return ((uint64_t)value << 16 | (uint64_t)types << 8 | place) * 0x9E3779B97F4A7C15u >> 20;
}

static enum ds4_status grow_todo(struct compiler *c)
{
    uint32_t cap = c->cap_todo ? c->cap_todo * 2 : 64;
    struct todo *grown = mem_realloc(c->todo, cap, sizeof *grown);
    if (grown) c->todo = grown;
    uint32_t *met = grown ? mem_zalloc(2ull * cap, sizeof *met) : NULL;
    if (!met) return err_set(c->error, DS4_ERR_NOMEM, "no memory for a schema");
    mem_free(c->met);
    c->met = met;
    c->cap_todo = cap;
    c->cap_met = 2 * cap;
    for (uint32_t i = 0; i < c->n_todo; i++) {
        uint64_t slot = hash_of(grown[i].value, grown[i].types, grown[i].place);
        while (met[slot & (c->cap_met - 1)]) slot++;
        met[slot & (c->cap_met - 1)] = i + 1;
    }
    return DS4_OK;
}

/* The node of a schema at a place that allows some types. */
enum ds4_status schema_node(struct compiler *c, uint32_t value, uint8_t types, uint8_t place, uint32_t *out)
{
    if (c->n_todo == c->cap_todo) TRY(grow_todo(c));
    uint64_t slot = hash_of(value, types, place);
    for (; c->met[slot & (c->cap_met - 1)]; slot++) {
        const struct todo *t = &c->todo[c->met[slot & (c->cap_met - 1)] - 1];
        if (t->value != value || t->types != types || t->place != place) continue;
        *out = t->node;
        return DS4_OK;
    }
    TRY(program_node(c->p, NODE_PENDING, out, c->error));
    c->met[slot & (c->cap_met - 1)] = c->n_todo + 1;
    c->todo[c->n_todo++] = (struct todo){value, *out, types, place};
    return DS4_OK;
}

/* Any value of some types. */
static enum ds4_status make_any(struct compiler *c, uint32_t node, uint8_t types, uint8_t place)
{
    static const struct {
        uint8_t type;
        uint32_t node;
    } of[] = {{T_STRING, G_STRING}, {T_NUMBER, G_NUMBER}, {T_BOOL, G_BOOL}, {T_NULL, G_NULL}, {T_ARRAY, G_ARRAY},
              {T_OBJECT, G_OBJECT}};
    uint32_t integer = G_NEVER, first = c->p->n_refs;
    if (place == PLACE_RAW) {
        TRY(program_ref(c->p, types & T_STRING ? G_RAW : G_NEVER, c->error));
    } else {
        if ((types & T_INTEGER) && !(types & T_NUMBER)) TRY(program_node(c->p, NODE_NUMBER, &integer, c->error));
        c->p->nodes[integer].integer = integer != G_NEVER;
        for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
            if (types & of[i].type) TRY(program_ref(c->p, of[i].node, c->error));
        if (integer != G_NEVER) TRY(program_ref(c->p, integer, c->error));
    }
    struct gnode *n = &c->p->nodes[node];
    n->kind = NODE_ALT;
    n->first = first;
    n->n = c->p->n_refs - first;
    return DS4_OK;
}

/* ---- reading keywords ------------------------------------------------------------------------------------------ */

static uint8_t type_named(struct ds4_span name)
{
    static const struct {
        const char *name;
        uint8_t types;
    } types[] = {{"null", T_NULL}, {"boolean", T_BOOL}, {"integer", T_INTEGER}, {"number", T_INTEGER | T_NUMBER},
                 {"string", T_STRING}, {"array", T_ARRAY}, {"object", T_OBJECT}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (span_eq(name, span_from(types[i].name))) return types[i].types;
    return 0;
}

/* Types that "type" says; 0 when it is malformed. */
static uint8_t types_said(const struct compiler *c, uint32_t type)
{
    uint8_t types = 0;
    if (is_kind(c, type, JTEXT_STRING)) return type_named(source_of(c, type));
    if (!is_kind(c, type, JTEXT_ARRAY)) return 0;
    for (uint32_t v = value_at(c, type)->first; v != JTEXT_NONE; v = value_at(c, v)->next) {
        uint8_t one = is_kind(c, v, JTEXT_STRING) ? type_named(source_of(c, v)) : 0;
        if (!one) return 0;
        types |= one;
    }
    return types;
}

uint8_t schema_type_of_value(const struct compiler *c, uint32_t value)
{
    struct ds4_span text = source_of(c, value);
    switch (value_at(c, value)->kind) {
    case JTEXT_STRING: return T_STRING;
    case JTEXT_ARRAY: return T_ARRAY;
    case JTEXT_OBJECT: return T_OBJECT;
    case JTEXT_NUMBER:
        return memchr(text.ptr, '.', text.len) || memchr(text.ptr, 'e', text.len) || memchr(text.ptr, 'E', text.len)
                   ? T_NUMBER
                   : T_INTEGER;
    default: return text.ptr[0] == 'n' ? T_NULL : T_BOOL;
    }
}

/* Types that the other keywords speak of. */
static uint8_t types_meant(const struct view *v)
{
    static const uint8_t of[N_KEYWORDS] = {
        [K_PROPERTIES] = T_OBJECT, [K_REQUIRED] = T_OBJECT, [K_ADDITIONAL] = T_OBJECT, [K_ITEMS] = T_ARRAY,
        [K_PREFIX_ITEMS] = T_ARRAY, [K_MIN_ITEMS] = T_ARRAY, [K_MAX_ITEMS] = T_ARRAY, [K_MIN_LENGTH] = T_STRING,
        [K_MAX_LENGTH] = T_STRING, [K_MINIMUM] = T_INTEGER | T_NUMBER, [K_MAXIMUM] = T_INTEGER | T_NUMBER,
        [K_ABOVE] = T_INTEGER | T_NUMBER, [K_BELOW] = T_INTEGER | T_NUMBER, [K_MULTIPLE_OF] = T_INTEGER | T_NUMBER,
        [K_MIN_MEMBERS] = T_OBJECT, [K_MAX_MEMBERS] = T_OBJECT, [K_PATTERN] = T_STRING, [K_FORMAT] = T_STRING,
        [K_UNIQUE] = T_ARRAY};
    uint8_t types = 0;
    for (int i = 0; i < N_KEYWORDS; i++)
        if (v->k[i] != JTEXT_NONE) types |= of[i];
    return types ? types : T_ALL;
}

static bool is_annotation(struct ds4_span name)
{
    for (size_t i = 0; i < sizeof annotations / sizeof annotations[0]; i++)
        if (span_eq(name, span_from(annotations[i]))) return true;
    return span_starts(name, SPAN("x-"));
}

/* Values with which a keyword asks for nothing. */
static bool asks_nothing(const struct compiler *c, struct ds4_span name, uint32_t value)
{
    return (span_eq(name, SPAN("uniqueItems")) || span_eq(name, SPAN("nullable"))) && is_literal(c, value, "false");
}

enum ds4_status schema_view(struct compiler *c, const struct todo *t, struct view *v)
{
    *v = (struct view){.value = t->value, .types = t->types, .place = t->place};
    for (int i = 0; i < N_KEYWORDS; i++) v->k[i] = JTEXT_NONE;
    for (uint32_t m = value_at(c, t->value)->first; m != JTEXT_NONE; m = value_at(c, m)->next) {
        struct ds4_span name = jtext_key(&c->doc, m);
        int i = 0;
        while (i < N_KEYWORDS && !span_eq(name, span_from(schema_keywords[i]))) i++;
        if (asks_nothing(c, name, m)) continue;
        if (i < N_KEYWORDS) v->k[i] = m;
        else if (c->strict && !is_annotation(name))
            return schema_complain(c, DS4_ERR_UNSUPPORTED, "the keyword \"", name, "\" is not supported", t->value);
    }
    if (v->k[K_TYPE] == JTEXT_NONE) return DS4_OK;
    uint8_t said = types_said(c, v->k[K_TYPE]);
    if (!said) return schema_wrong(c, "\"type\" is not a JSON type or a list of them", t->value);
    v->types &= said;
    return DS4_OK;
}

/* Whether a keyword other than `own`, "type" and annotations asks for something. */
static bool has_others(const struct view *v, enum keyword own)
{
    for (int i = 0; i < N_KEYWORDS; i++)
        if (i != (int)own && i != K_TYPE && v->k[i] != JTEXT_NONE) return true;
    return false;
}

/* A whole number of 0 or more; missing leaves *out. */
enum ds4_status schema_read_count(struct compiler *c, const struct view *v, enum keyword k, uint32_t *out)
{
    if (v->k[k] == JTEXT_NONE) return DS4_OK;
    struct ds4_span text = source_of(c, v->k[k]);
    uint64_t n = 0;
    bool whole = is_kind(c, v->k[k], JTEXT_NUMBER) && text.ptr[0] != '-';
    size_t end = whole && text.len > 2 && span_eq(span_skip(text, text.len - 2), SPAN(".0")) ? text.len - 2 : text.len;
    for (size_t i = 0; whole && i < end; i++) {
        whole = text.ptr[i] >= '0' && text.ptr[i] <= '9';
        if (n < NO_LIMIT) n = n * 10 + (uint64_t)(text.ptr[i] - '0');
    }
    if (!whole) return schema_complain(c, DS4_ERR_FORMAT, "\"", span_from(schema_keywords[k]),
        "\" is no whole number", v->value);
    *out = n >= NO_LIMIT ? NO_LIMIT - 1 : (uint32_t)n;
    return DS4_OK;
}

/* ---- literals -------------------------------------------------------------------------------------------------- */

enum ds4_status schema_check_closer(struct compiler *c, uint32_t start, uint32_t value)
{
    struct ds4_span text = span_skip(buf_span(&c->p->texts), start);
    if (!c->in_call || span_find(text, SPAN("parameter>"), 0) == SIZE_MAX || span_find(text, SPAN("</"), 0) == SIZE_MAX)
        return DS4_OK;
    return schema_complain(c, DS4_ERR_UNSUPPORTED, "text that ends a parameter", SPAN(""), "", value);
}

static enum ds4_status put_literal(struct compiler *c, uint32_t node, uint32_t value, uint8_t place)
{
    struct buf *texts = &c->p->texts;
    uint32_t start = (uint32_t)texts->text.len;
    if (place == PLACE_RAW) jtext_put_decoded(&c->doc, value, texts);
    else jtext_put_styled(&c->doc, value, texts);
    TRY(schema_check_closer(c, start, value));
    TRY(program_entry(c->p, start, NODE_NONE, 0, c->error));
    if (c->p->nodes[node].n_entries++ >= GRAMMAR_ENTRIES_MAX)
        return err_set(c->error, DS4_ERR_LIMIT, "%s: more than %u values", c->what, GRAMMAR_ENTRIES_MAX);
    return DS4_OK;
}

static enum ds4_status make_literals(struct compiler *c, uint32_t node, const struct view *v)
{
    uint32_t list = v->k[K_ENUM];
    if (list != JTEXT_NONE && !is_kind(c, list, JTEXT_ARRAY)) return schema_wrong(c, "\"enum\" is no list", v->value);
    c->p->nodes[node].kind = NODE_LITERALS;
    c->p->nodes[node].entry = c->p->n_entries;
    c->p->nodes[node].raw = v->place == PLACE_RAW;
    uint32_t one = v->k[K_CONST] != JTEXT_NONE ? v->k[K_CONST] : value_at(c, list)->first;
    for (uint32_t i = one; i != JTEXT_NONE; i = v->k[K_CONST] != JTEXT_NONE ? JTEXT_NONE : value_at(c, i)->next)
        if (schema_type_of_value(c, i) & v->types) TRY(put_literal(c, node, i, v->place));
    if (c->p->nodes[node].n_entries == 0) c->p->nodes[node].kind = NODE_NEVER;
    program_sort_entries(c->p, node);
    return DS4_OK;
}

/* ---- one schema ------------------------------------------------------------------------------------------------ */

static enum ds4_status make_number(struct compiler *c, uint32_t node, const struct view *v, uint8_t type)
{
    static const enum keyword bounds[N_BOUNDS] = {K_MINIMUM, K_MAXIMUM, K_ABOVE, K_BELOW, K_MULTIPLE_OF};
    struct gnode *n = &c->p->nodes[node];
    struct ds4_span text[N_BOUNDS] = {{0}};
    for (int i = 0; i < N_BOUNDS; i++) {
        if (v->k[bounds[i]] == JTEXT_NONE) continue;
        if (!is_kind(c, v->k[bounds[i]], JTEXT_NUMBER))
            return schema_complain(c, DS4_ERR_FORMAT, "\"", span_from(schema_keywords[bounds[i]]), "\" is no number",
                v->value);
        text[i] = source_of(c, v->k[bounds[i]]);
    }
    n->kind = NODE_NUMBER;
    bool integer = !(type & T_NUMBER);
    if (number_bounds(n, integer, text)) return DS4_OK;
    if (c->strict) return schema_unsupported(c, integer ? "multipleOf (no whole number above 0)"
                                                        : "multipleOf (no multiple of 0.000001)", v->value);
    text[BOUND_MULTIPLE] = (struct ds4_span){0};
    n->bounded = false;
    (void)number_bounds(n, integer, text);
    return DS4_OK;
}

static enum ds4_status make_type(struct compiler *c, uint32_t node, const struct view *v, uint8_t type)
{
    struct gnode *n = &c->p->nodes[node];
    uint32_t min = 0, max = NO_LIMIT;
    if (type == T_OBJECT) return schema_make_members(c, node, v, false);
    if (type == T_ARRAY) return schema_make_array(c, node, v);
    if (type == T_STRING) {
        TRY(schema_read_count(c, v, K_MIN_LENGTH, &min));
        TRY(schema_read_count(c, v, K_MAX_LENGTH, &max));
        bool made;
        TRY(schema_make_pattern(c, node, v, min, max, &made));
        n = &c->p->nodes[node];
        if (made) return DS4_OK;
        n->kind = v->place == PLACE_RAW ? NODE_RAW : NODE_STRING;
        n->min = min;
        n->max = max;
        return DS4_OK;
    }
    return make_number(c, node, v, type);
}

/* A choice between the types that are allowed. */
static enum ds4_status make_types(struct compiler *c, uint32_t node, const struct view *v)
{
    static const uint8_t kinds[] = {T_STRING, T_INTEGER | T_NUMBER, T_BOOL, T_NULL, T_ARRAY, T_OBJECT};
    uint32_t made[6], n = 0;
    TRY(schema_check_format(c, v));
    for (size_t i = 0; i < 6; i++) {
        uint8_t type = v->types & kinds[i];
        if (!type || (v->place == PLACE_RAW && type != T_STRING)) continue;
        made[n] = type == T_BOOL ? G_BOOL : G_NULL;
        if (type != T_BOOL && type != T_NULL) {
            TRY(program_node(c->p, NODE_PENDING, &made[n], c->error));
            TRY(make_type(c, made[n], v, type));
        }
        n++;
    }
    struct gnode *choice = &c->p->nodes[node];
    choice->kind = NODE_ALT;
    choice->first = c->p->n_refs;
    choice->n = n;
    for (uint32_t i = 0; i < n; i++) TRY(program_ref(c->p, made[i], c->error));
    return DS4_OK;
}

/* A choice, a reference and so on stand alone: what would have to hold beside them is not supported. In a schema that
 * is not strict the rest wins if it says something about members, else the choice. */
static enum ds4_status alone(struct compiler *c, const struct view *v, enum keyword k, bool *take)
{
    *take = v->k[k] != JTEXT_NONE;
    if (!*take || !has_others(v, k)) return DS4_OK;
    if (c->strict)
        return schema_complain(c, DS4_ERR_UNSUPPORTED, "the keyword \"", span_from(schema_keywords[k]),
                        "\" beside others is not supported", v->value);
    *take = v->k[K_PROPERTIES] == JTEXT_NONE;
    return DS4_OK;
}

static enum ds4_status open_schema(struct compiler *c, const struct todo *t)
{
    struct view v;
    bool take;
    TRY(schema_spend(c, 8));
    if (is_literal(c, t->value, "true")) return make_any(c, t->node, t->types, t->place);
    if (is_literal(c, t->value, "false")) {
        c->p->nodes[t->node].kind = NODE_NEVER;
        return DS4_OK;
    }
    if (!is_kind(c, t->value, JTEXT_OBJECT)) return schema_wrong(c, "a schema is no object", t->value);
    TRY(schema_view(c, t, &v));
    TRY(alone(c, &v, K_REF, &take));
    if (take) {
        uint32_t target;
        TRY(schema_resolve(c, v.k[K_REF], t->value, &target));
        return schema_make_alias(c, t->node, target, &v);
    }
    TRY(alone(c, &v, K_ANY_OF, &take));
    if (take) return schema_make_choice(c, t->node, K_ANY_OF, &v);
    TRY(alone(c, &v, K_ONE_OF, &take));
    if (take) return schema_make_choice(c, t->node, K_ONE_OF, &v);
    TRY(alone(c, &v, K_ALL_OF, &take));
    if (take) {
        uint32_t list = v.k[K_ALL_OF], only = is_kind(c, list, JTEXT_ARRAY) ? value_at(c, list)->first : JTEXT_NONE;
        if (only != JTEXT_NONE && value_at(c, only)->next == JTEXT_NONE) return schema_make_alias(c, t->node, only, &v);
        if (c->strict) return schema_unsupported(c, "allOf (of more than one schema)", t->value);
    }
    if (v.k[K_CONST] != JTEXT_NONE || v.k[K_ENUM] != JTEXT_NONE) {
        enum keyword k = v.k[K_CONST] != JTEXT_NONE ? K_CONST : K_ENUM;
        if (c->strict) TRY(alone(c, &v, k, &take));
        return make_literals(c, t->node, &v);
    }
    if (v.k[K_TYPE] == JTEXT_NONE) v.types &= types_meant(&v);
    if (v.k[K_TYPE] == JTEXT_NONE && types_meant(&v) == T_ALL) return make_any(c, t->node, v.types, v.place);
    return make_types(c, t->node, &v);
}

enum ds4_status schema_compile_rest(struct compiler *c)
{
    for (uint32_t i = 0; i < c->n_todo; i++) {
        struct todo t = c->todo[i]; /* the list grows meanwhile */
        TRY(open_schema(c, &t));
    }
    return buf_status(&c->p->texts, c->error);
}

enum ds4_status schema_open(struct compiler *c, struct ds4_span text)
{
    TRY(jtext_parse(&c->doc, text, c->error));
    if (c->doc.n_values > GRAMMAR_SCHEMA_VALUES_MAX)
        return err_set(c->error, DS4_ERR_LIMIT, "%s: a schema of %u values; at most %u", c->what, c->doc.n_values,
                       GRAMMAR_SCHEMA_VALUES_MAX);
    return DS4_OK;
}

void schema_close(struct compiler *c)
{
    jtext_deinit(&c->doc);
    mem_free(c->todo);
    mem_free(c->met);
}

enum ds4_status schema_compile(struct program *p, struct ds4_span schema, const char *what, bool strict, uint32_t *node,
                               struct ds4_error *error)
{
    struct compiler c = {.p = p, .what = what, .strict = strict, .error = error};
    enum ds4_status status = schema_open(&c, schema);
    if (status == DS4_OK) status = schema_node(&c, 0, T_ALL, PLACE_JSON, node);
    if (status == DS4_OK) status = schema_compile_rest(&c);
    schema_close(&c);
    return status;
}
