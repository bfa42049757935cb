/* grammar_compiler.h - what the files that compile schemas share: a schema's text as values, the nodes that wait to be
 * opened, and the keywords of the schema at hand. Inside of grammar_schema.c, grammar_choice.c, grammar_members.c. */
#ifndef DS4_SESSION_GRAMMAR_COMPILER_H
#define DS4_SESSION_GRAMMAR_COMPILER_H

#include "session/grammar_nodes.h"

enum { /* types of JSON values */
    T_NULL = 1, T_BOOL = 2, T_INTEGER = 4, T_NUMBER = 8, T_STRING = 16, T_ARRAY = 32, T_OBJECT = 64, T_ALL = 127
};
enum { PLACE_JSON, PLACE_RAW }; /* a JSON value, or the raw text of a parameter */

/* Keywords: those that count, then those that say nothing about values, then those that are known and not supported. */
enum keyword {
    K_TYPE, K_ENUM, K_CONST, K_REF, K_ANY_OF, K_ONE_OF, K_ALL_OF, K_PROPERTIES, K_REQUIRED, K_ADDITIONAL, K_ITEMS,
    K_PREFIX_ITEMS, K_MIN_ITEMS, K_MAX_ITEMS, K_MIN_LENGTH, K_MAX_LENGTH, K_MINIMUM, K_MAXIMUM, K_ABOVE, K_BELOW,
    K_MULTIPLE_OF, K_MIN_MEMBERS, K_MAX_MEMBERS, K_PATTERN, K_FORMAT, K_UNIQUE, N_KEYWORDS
};
extern const char *const schema_keywords[N_KEYWORDS];

struct compiler {
    struct program *p;
    struct jtext_doc doc;
    const char *what;
    bool strict, in_call;
    uint32_t root;           /* the value that "#" means */
    struct todo {
        uint32_t value, node;
        uint8_t types, place;
    } *todo;                 /* every pending node there ever was, also the memory of what was met */
    uint32_t n_todo, cap_todo;
    uint32_t *met;           /* hash table of todo + 1 */
    uint32_t cap_met;
    uint64_t work;
    struct ds4_error *error;
};

struct view {
    uint32_t value;
    uint8_t types, place;
    uint32_t k[N_KEYWORDS];  /* value of each keyword, or JTEXT_NONE */
};

static inline const struct jtext_value *value_at(const struct compiler *c,
    uint32_t value) { return &c->doc.values[value]; }
static inline bool is_kind(const struct compiler *c, uint32_t value, enum jtext_kind kind)
{
    return value != JTEXT_NONE && value_at(c, value)->kind == kind;
}
static inline struct ds4_span source_of(const struct compiler *c, uint32_t value)
{
    const struct jtext_value *v = value_at(c, value);
    return span_make(c->doc.text.ptr + v->start, v->len);
}
static inline bool is_literal(const struct compiler *c, uint32_t value, const char *word)
{
    return is_kind(c, value, JTEXT_LITERAL) && span_eq(source_of(c, value), span_from(word));
}

static inline uint32_t n_children(const struct compiler *c, uint32_t value)
{
    uint32_t n = 0;
    for (uint32_t i = value == JTEXT_NONE ? value : value_at(c, value)->first; i != JTEXT_NONE;
         i = value_at(c, i)->next)
        n++;
    return n;
}

/* Fails with "WHAT: <before>NAME<after> at PATH". */
enum ds4_status schema_complain(struct compiler *c, enum ds4_status status, const char *before,
        struct ds4_span name, const char *after, uint32_t value);
enum ds4_status schema_wrong(struct compiler *c, const char *sentence, uint32_t value);
enum ds4_status schema_unsupported(struct compiler *c, const char *keyword, uint32_t schema);
/* Counts steps of work up to a limit. */
enum ds4_status schema_spend(struct compiler *c, uint64_t steps) DS4_MUST_CHECK;
/* The node of a schema at a place that allows some types; it is opened later. */
enum ds4_status schema_node(struct compiler *c, uint32_t value, uint8_t types, uint8_t place,
        uint32_t *out) DS4_MUST_CHECK;
/* The keywords of a schema object. In a strict one, an unknown keyword is an error. */
enum ds4_status schema_view(struct compiler *c, const struct todo *t, struct view *v) DS4_MUST_CHECK;
/* A whole number of 0 or more; missing leaves *out. */
enum ds4_status schema_read_count(struct compiler *c, const struct view *v, enum keyword k,
        uint32_t *out) DS4_MUST_CHECK;
/* Refuses, inside a call, a literal that would end a parameter. */
enum ds4_status schema_check_closer(struct compiler *c, uint32_t start, uint32_t value) DS4_MUST_CHECK;
/* T_... of a value. */
uint8_t schema_type_of_value(const struct compiler *c, uint32_t value);
/* Makes a node the same as that of a schema. */
enum ds4_status schema_make_alias(struct compiler *c, uint32_t node, uint32_t schema,
        const struct view *v) DS4_MUST_CHECK;
/* anyOf, oneOf. */
enum ds4_status schema_make_choice(struct compiler *c, uint32_t node, enum keyword k,
        const struct view *v) DS4_MUST_CHECK;
/* What a "$ref" means. */
enum ds4_status schema_resolve(struct compiler *c, uint32_t ref, uint32_t schema, uint32_t *out) DS4_MUST_CHECK;
/* The schema behind references; schema itself when there is none, or no end of them. */
uint32_t schema_behind_refs(struct compiler *c, uint32_t schema);
/* Makes a node an array, an object, or (call) the parameters of one. */
enum ds4_status schema_make_array(struct compiler *c, uint32_t node, const struct view *v) DS4_MUST_CHECK;
/* Makes an array node one whose items all differ; in a schema that is not strict it may stay as it is. */
enum ds4_status schema_make_set(struct compiler *c, uint32_t node, const struct view *v) DS4_MUST_CHECK;
enum ds4_status schema_make_members(struct compiler *c, uint32_t node, const struct view *v,
        bool call) DS4_MUST_CHECK;
/* Makes a node a string that a pattern or format describes, of min to max characters; *made says whether: there may be
 * none, or, in a schema that is not strict, one that cannot be held to. */
enum ds4_status schema_make_pattern(struct compiler *c, uint32_t node, const struct view *v, uint32_t min, uint32_t max,
        bool *made) DS4_MUST_CHECK;
/* Refuses, in a strict schema, a format that is not known. */
enum ds4_status schema_check_format(struct compiler *c, const struct view *v) DS4_MUST_CHECK;
/* Opens every pending node. */
enum ds4_status schema_compile_rest(struct compiler *c) DS4_MUST_CHECK;
enum ds4_status schema_open(struct compiler *c, struct ds4_span text) DS4_MUST_CHECK;
void schema_close(struct compiler *c);

#endif
