/* grammar_members.c - arrays, objects, and tools, whose parameters are the members of an object. See
 * grammar_schema.c. */
#include "session/grammar_compiler.h"

#include "base/mem.h"

#define MEMBERS_MAX 30000u /* of an object whose members are counted: 15 bits in a frame */

/* ---- arrays and objects ---------------------------------------------------------------------------------------- */

static enum ds4_status item_node(struct compiler *c, uint32_t schema, uint32_t *out)
{
    *out = G_ANY;
    if (schema == JTEXT_NONE || is_literal(c, schema, "true")) return DS4_OK;
    return schema_node(c, schema, T_ALL, PLACE_JSON, out);
}

enum ds4_status schema_make_array(struct compiler *c, uint32_t node, const struct view *v)
{
    uint32_t item, min = 0, max = NO_LIMIT, n = 0, prefix = v->k[K_PREFIX_ITEMS];
    if (prefix != JTEXT_NONE && !is_kind(c, prefix, JTEXT_ARRAY)) return schema_wrong(c, "\"prefixItems\" is no list",
                                                                               v->value);
    if (is_kind(c, v->k[K_ITEMS], JTEXT_ARRAY)) return schema_unsupported(c, "items (a list)", v->value);
    TRY(item_node(c, v->k[K_ITEMS], &item));
    TRY(schema_read_count(c, v, K_MIN_ITEMS, &min));
    TRY(schema_read_count(c, v, K_MAX_ITEMS, &max));
    for (uint32_t i = prefix == JTEXT_NONE ? prefix : value_at(c, prefix)->first; i != JTEXT_NONE;
         i = value_at(c, i)->next, n++)
        TRY(schema_node(c, i, T_ALL, PLACE_JSON, &(uint32_t){0})); /* refs must be neighbours: make the nodes first */
    struct gnode *a = &c->p->nodes[node];
    a->kind = NODE_ARRAY;
    a->first = c->p->n_refs;
    a->n = n;
    a->item = item;
    a->min = min;
    a->max = max;
    for (uint32_t i = prefix == JTEXT_NONE ? prefix : value_at(c, prefix)->first; i != JTEXT_NONE;
         i = value_at(c, i)->next) {
        uint32_t child;
        TRY(schema_node(c, i, T_ALL, PLACE_JSON, &child));
        TRY(program_ref(c->p, child, c->error));
    }
    uint32_t unique = v->k[K_UNIQUE];
    if (unique == JTEXT_NONE || max < 2) return DS4_OK;
    if (!is_literal(c, unique, "true")) return schema_wrong(c, "\"uniqueItems\" is not true or false", v->value);
    return schema_make_set(c, node, v);
}

/* Puts a name as it stands in a tag. */
static void put_attribute(struct buf *out, struct ds4_span name)
{
    for (size_t i = 0; i < name.len; i++) {
        char ch = name.ptr[i];
        if (ch == '&') buf_put_text(out, "&amp;");
        else if (ch == '<') buf_put_text(out, "&lt;");
        else if (ch == '>') buf_put_text(out, "&gt;");
        else if (ch == '"') buf_put_text(out, "&quot;");
        else buf_put_byte(out, (unsigned char)ch);
    }
}

/* Entries of one member: in an object its name, in a call one for raw text and one for JSON. */
static enum ds4_status put_member(struct compiler *c, uint32_t node, struct ds4_span name, uint32_t schema,
                                  uint32_t declared)
{
    struct buf *texts = &c->p->texts;
    bool call = c->p->nodes[node].kind == NODE_INVOKE;
    for (int variant = 0; variant < (call ? 2 : 1); variant++) {
        uint32_t child = !call ? G_ANY : variant ? G_ANY_BUT_STRING : G_RAW;
        if (schema != JTEXT_NONE && !call) TRY(schema_node(c, schema, T_ALL, PLACE_JSON, &child));
        if (schema != JTEXT_NONE && call)
            TRY(schema_node(c, schema, variant ? T_ALL & ~T_STRING : T_STRING, variant ? PLACE_JSON : PLACE_RAW,
                &child));
        uint32_t start = (uint32_t)texts->text.len;
        if (call) put_attribute(texts, name);
        else buf_put_json_string(texts, name);
        if (call) buf_put_text(texts, variant ? "\" string=\"false\">" : "\" string=\"true\">");
        if (call && texts->text.len - start > DSML_TAG_BYTES_MAX - DSML_TAG_TEXT_MAX)
            return err_set(c->error, DS4_ERR_LIMIT, "%s: the name of a parameter is too long", c->what);
        if (!call) TRY(schema_check_closer(c, start, schema == JTEXT_NONE ? c->root : schema));
        TRY(program_entry(c->p, start, child, declared, c->error));
        if (c->p->nodes[node].n_entries++ >= GRAMMAR_ENTRIES_MAX)
            return err_set(c->error, DS4_ERR_LIMIT, "%s: more than %u members", c->what, GRAMMAR_ENTRIES_MAX);
    }
    return DS4_OK;
}

/* Declared members in order, then the required ones that are not declared. flags: which are required. */
static enum ds4_status put_members(struct compiler *c, uint32_t node, const struct view *v, uint8_t *flags)
{
    uint32_t properties = v->k[K_PROPERTIES], list = v->k[K_REQUIRED], n = 0;
    uint32_t undeclared = v->k[K_ADDITIONAL];
    uint32_t first = properties == JTEXT_NONE ? JTEXT_NONE : value_at(c, properties)->first;
    struct buf name = {0};
    for (uint32_t m = first; m != JTEXT_NONE; m = value_at(c, m)->next, n++)
        TRY(put_member(c, node, jtext_key(&c->doc, m), m, n));
    c->p->nodes[node].n_declared = n;
    enum ds4_status status = DS4_OK;
    for (uint32_t i = list == JTEXT_NONE ? list : value_at(c, list)->first; i != JTEXT_NONE && status == DS4_OK;
         i = value_at(c, i)->next) {
        if (!is_kind(c, i, JTEXT_STRING)) {
            status = schema_wrong(c, "\"required\" is no list of names", v->value);
            break;
        }
        buf_clear(&name);
        jtext_put_decoded(&c->doc, i, &name);
        status = buf_status(&name, c->error);
        if (status != DS4_OK) break;
        uint32_t declared = 0, known = properties == JTEXT_NONE ? JTEXT_NONE
                                                                : jtext_member(&c->doc, properties, buf_span(&name));
        for (uint32_t m = first; known != JTEXT_NONE && m != known; m = value_at(c, m)->next) declared++;
        status = schema_spend(c, declared + 1);
        if (status == DS4_OK && known == JTEXT_NONE) {
            declared = n++;
            status = put_member(c, node, buf_span(&name), undeclared, declared);
        }
        if (status != DS4_OK) break;
        flags[declared] = 1;
        if (declared < 64) c->p->nodes[node].required |= 1ull << declared;
    }
    c->p->nodes[node].n_declared = n;
    buf_deinit(&name);
    return status;
}

/* Many members keep the order in which they are declared; for each, the next required one is looked up. */
static enum ds4_status put_order(struct compiler *c, uint32_t node, const uint8_t *flags)
{
    uint32_t n = c->p->nodes[node].n_declared, first = c->p->n_refs, next = n;
    if (n <= 64) return DS4_OK;
    for (uint32_t i = 0; i <= n; i++) TRY(program_ref(c->p, n, c->error));
    for (uint32_t i = n; i-- > 0;) {
        if (flags[i]) next = i;
        c->p->refs[first + i] = next;
    }
    c->p->nodes[node].order = first;
    return DS4_OK;
}

/* A name that "required" says twice without declaring it was counted twice and has one entry. */
static enum ds4_status forget_repeated(struct compiler *c, uint32_t node, uint8_t *flags)
{
    struct gnode *o = &c->p->nodes[node];
    uint8_t *present = mem_zalloc(o->n_declared + 1, 1);
    if (!present) return err_set(c->error, DS4_ERR_NOMEM, "no memory for a schema");
    for (uint32_t i = o->entry; i < o->entry + o->n_entries; i++) present[c->p->entries[i].declared] = 1;
    for (uint32_t i = 0; i < o->n_declared; i++) {
        if (present[i]) continue;
        flags[i] = 0;
        if (i < 64) o->required &= ~(1ull << i);
    }
    mem_free(present);
    return DS4_OK;
}

/* minProperties and maxProperties. Members that are not declared may have the same name, so that no more than one of
 * them is sure to count. */
static enum ds4_status count_members(struct compiler *c, uint32_t node, const struct view *v)
{
    struct gnode *o = &c->p->nodes[node];
    uint32_t min = 0, max = NO_LIMIT;
    TRY(schema_read_count(c, v, K_MIN_MEMBERS, &min));
    TRY(schema_read_count(c, v, K_MAX_MEMBERS, &max));
    bool many = o->kind == NODE_INVOKE || o->n_declared > GRAMMAR_MEMBERS_COUNTED_MAX;
    bool open = o->item != NODE_NONE && min > o->n_declared + 1;
    if (c->strict && min && (many || open))
        return schema_unsupported(c, many ? "minProperties (here)" : "minProperties (beyond the declared ones and one)",
                                  v->value);
    if (c->strict && max != NO_LIMIT && many) return schema_unsupported(c, "maxProperties (here)", v->value);
    if (many) return DS4_OK;
    o->min = open ? 0 : min;
    o->max = max == NO_LIMIT || max < MEMBERS_MAX ? max : MEMBERS_MAX;
    return DS4_OK;
}

enum ds4_status schema_make_members(struct compiler *c, uint32_t node, const struct view *v, bool call)
{
    uint32_t more = v->k[K_ADDITIONAL], properties = v->k[K_PROPERTIES], required = v->k[K_REQUIRED];
    uint32_t item = NODE_NONE, item_raw = NODE_NONE;
    if (properties != JTEXT_NONE && !is_kind(c, properties, JTEXT_OBJECT))
        return schema_wrong(c, "\"properties\" is no object", v->value);
    if (required != JTEXT_NONE && !is_kind(c, required, JTEXT_ARRAY))
        return schema_wrong(c, "\"required\" is no list of names", v->value);
    /* A schema that is not strict means what it says: what it does not forbid may be there. */
    bool open = more == JTEXT_NONE ? !c->strict || (properties == JTEXT_NONE && required == JTEXT_NONE)
                                   : !is_literal(c, more, "false");
    if (open && !call) TRY(item_node(c, more, &item));
    if (open && call) {
        item = G_ANY_BUT_STRING;
        item_raw = G_RAW;
        if (more != JTEXT_NONE) TRY(schema_node(c, more, T_ALL & ~T_STRING, PLACE_JSON, &item));
        if (more != JTEXT_NONE) TRY(schema_node(c, more, T_STRING, PLACE_RAW, &item_raw));
    }
    uint8_t *flags = mem_zalloc(n_children(c, properties) + n_children(c, required) + 1ull, 1);
    if (!flags) return err_set(c->error, DS4_ERR_NOMEM, "no memory for a schema");
    struct gnode *o = &c->p->nodes[node];
    o->kind = call ? NODE_INVOKE : NODE_OBJECT;
    o->item = item;
    o->item_raw = item_raw;
    o->entry = c->p->n_entries;
    enum ds4_status status = put_members(c, node, v, flags);
    if (status == DS4_OK) status = count_members(c, node, v);
    program_sort_entries(c->p, node);
    if (status == DS4_OK) status = forget_repeated(c, node, flags);
    if (status == DS4_OK) status = put_order(c, node, flags);
    mem_free(flags);
    return status;
}

/* ---- tools ----------------------------------------------------------------------------------------------------- */

static enum ds4_status make_invoke(struct compiler *c, uint32_t node, uint32_t parameters)
{
    struct view v = {.types = T_ALL};
    struct todo t = {.types = T_ALL};
    for (int i = 0; i < N_KEYWORDS; i++) v.k[i] = JTEXT_NONE;
    if (parameters != JTEXT_NONE) {
        c->root = parameters;
        t.value = schema_behind_refs(c, parameters);
        if (!is_kind(c, t.value, JTEXT_OBJECT)) return schema_wrong(c, "the parameters are no schema", t.value);
        TRY(schema_view(c, &t, &v));
        bool plain = v.k[K_REF] == JTEXT_NONE && v.k[K_ANY_OF] == JTEXT_NONE && v.k[K_ONE_OF] == JTEXT_NONE &&
                     v.k[K_ALL_OF] == JTEXT_NONE && v.k[K_ENUM] == JTEXT_NONE && v.k[K_CONST] == JTEXT_NONE;
        bool members = v.k[K_PROPERTIES] != JTEXT_NONE;
        if (!(v.types & T_OBJECT) || (c->strict ? !plain : !plain && !members))
            return schema_complain(c, DS4_ERR_UNSUPPORTED, "parameters that are not the members of one object",
                SPAN(""), "",
                            t.value);
    }
    TRY(schema_make_members(c, node, &v, true));
    return schema_compile_rest(c);
}

/* Any parameters. */
static enum ds4_status make_free_invoke(struct program *p, uint32_t node)
{
    struct gnode *n = &p->nodes[node];
    *n = (struct gnode){.kind = NODE_INVOKE, .entry = p->n_entries, .item = G_ANY_BUT_STRING, .item_raw = G_RAW,
                        .max = NO_LIMIT, .min_bytes = BYTES_NEVER};
    return DS4_OK;
}

static enum ds4_status compile_function(struct compiler *c, uint32_t node, struct buf *name)
{
    uint32_t called = jtext_member(&c->doc, 0, SPAN("name")), said = jtext_member(&c->doc, 0, SPAN("strict"));
    struct program *p = c->p;
    if (!is_kind(c, called, JTEXT_STRING) || source_of(c, called).len == 0)
        return err_set(c->error, DS4_ERR_FORMAT, "a tool has no name");
    jtext_put_decoded(&c->doc, called, name);
    c->strict = is_literal(c, said, "true");
    uint32_t parameters = jtext_member(&c->doc, 0, SPAN("parameters"));
    if (is_literal(c, parameters, "null")) parameters = JTEXT_NONE;
    uint32_t n_nodes = p->n_nodes, n_refs = p->n_refs, n_entries = p->n_entries;
    size_t n_texts = p->texts.text.len;
    struct ds4_error first = {0}, *kept = c->error;
    c->error = &first;
    enum ds4_status status = make_invoke(c, node, parameters);
    c->error = kept;
    if (status == DS4_OK) return DS4_OK;
    if (c->strict || status == DS4_ERR_NOMEM) return err_set(kept, status, "%s", first.message);
    p->n_nodes = n_nodes;
    p->n_refs = n_refs;
    p->n_entries = n_entries;
    p->texts.text.len = n_texts;
    return make_free_invoke(p, node);
}

enum ds4_status schema_compile_tool(struct program *p, struct ds4_span function, uint32_t *node, struct buf *name,
                                    struct ds4_error *error)
{
    struct compiler c = {.p = p, .what = "tools", .in_call = true, .error = error};
    TRY(program_node(p, NODE_PENDING, node, error));
    enum ds4_status status = schema_open(&c, function);
    if (status == DS4_OK && !is_kind(&c, 0, JTEXT_OBJECT))
        status = err_set(error, DS4_ERR_FORMAT, "a tool is no object");
    if (status == DS4_OK) status = compile_function(&c, *node, name);
    schema_close(&c);
    return status;
}
