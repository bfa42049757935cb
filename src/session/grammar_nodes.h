/* grammar_nodes.h - a compiled grammar: what an answer may be, as a flat array of nodes that refer to each other by
 * number. Made by grammar_schema.c and grammar_build.c, read by automaton.c, immutable in between.
 *
 * A node is a set of texts: a JSON value of one type, a choice between nodes, a set of literals, the call of a tool, a
 * block of calls, or free text in which a block may begin. Entries are the literals of a node in byte order, so the
 * literals that begin with the bytes read so far are a range of neighbours. */
#ifndef DS4_SESSION_GRAMMAR_NODES_H
#define DS4_SESSION_GRAMMAR_NODES_H

#include <stdatomic.h>

#include "base/buf.h"
#include "session/pattern.h"
#include "text/dsml.h"
#include "text/json_style.h"

#define NODE_NONE UINT32_MAX
#define NO_LIMIT UINT32_MAX      /* of items or characters */
#define BYTES_NEVER UINT32_MAX   /* min_bytes of a node that has no text */

/* Limits on what strangers send. */
#ifdef DS4_SMALL_LIMITS
#define GRAMMAR_SPACE_MAX 3u     /* bytes of white space at one place of a JSON value */
#else
#define GRAMMAR_SPACE_MAX 32u    /* a line break and an indent; without a bound white space may go on for ever */
#endif
#define GRAMMAR_DEPTH_MAX 64u          /* arrays and objects inside each other; the server reads no deeper */
#define GRAMMAR_SCHEMA_VALUES_MAX 10000u /* JSON values of one schema */
#define GRAMMAR_NODES_MAX 65536u
#define GRAMMAR_REFS_MAX (1u << 20)
#define GRAMMAR_MEMBERS_COUNTED_MAX 64u /* minProperties and maxProperties beside so many declared members */
#define GRAMMAR_SET_MAX 64u            /* different items of an array whose items differ: bits of a frame */
#define GRAMMAR_ENTRIES_MAX 65535u     /* literals of one node: 16 bits in a frame */
#define GRAMMAR_LITERAL_BYTES_MAX 65535u
#define GRAMMAR_SHORTEST_BYTES_MAX (1u << 20) /* the shortest text that a grammar may ask for */
#define GRAMMAR_CALLS_MAX 128u         /* calls of one block */
#define GRAMMAR_WORK_MAX 20000000u     /* steps of compiling; above it references are hopelessly entangled */

enum node_kind {
    NODE_PENDING, /* while compiling */
    NODE_ALIAS,   /* the same as refs[first] */
    NODE_ALT,     /* one of refs[first..first+n); none of them ALIAS, ALT or NEVER once built */
    NODE_NEVER,   /* no text at all */
    NODE_LITERALS, /* one of the entries, byte for byte */
    NODE_STRING,  /* JSON string of min..max characters */
    NODE_KEY,     /* name of a member that is not declared: no escapes, no declared name */
    NODE_PATTERN, /* JSON string or (raw) text of a parameter that patterns[first] describes */
    NODE_RAW,     /* text of a parameter up to its closing tag, min..max characters */
    NODE_NUMBER,
    NODE_ARRAY,   /* refs[first..first+n) are the first items, item the others */
    NODE_SET,     /* JSON array of min..max of the entries, n_declared different ones, none of them twice */
    NODE_OBJECT,  /* entries are names with quotes; item the value of other members, or NODE_NONE */
    NODE_INVOKE,  /* one call from behind its opening tag; entries `NAME" string="true">` */
    NODE_CALLS,   /* a block of calls; entries `NAME">` and a line break, nodes INVOKE */
    NODE_TEXT,    /* free text with at most one block of calls */
    NODE_DONE     /* nothing may follow */
};

struct gnode {
    enum node_kind kind;
    uint32_t first, n;        /* refs of ALT, ALIAS and ARRAY */
    uint32_t entry, n_entries;
    uint32_t item, item_raw;  /* item_raw: INVOKE, value of an undeclared parameter given as raw text */
    uint32_t min, max;        /* characters, items, or members */
    uint32_t n_declared;      /* members that are declared */
    uint32_t order;           /* of more than 64 members: refs[order + i] = first required one from i on, i <= n */
    uint64_t required;        /* bits of declared members, up to 64 */
    bool integer, bounded;    /* NUMBER */
    int64_t lo, hi;           /* bounded: units of 1 (integer) or 10^-6 */
    int64_t multiple;         /* the same: what the number is a multiple of; 0 = of anything */
    bool raw;                 /* LITERALS, KEY and PATTERN inside a tag or raw text */
    uint32_t min_bytes;       /* of the shortest text, about; BYTES_NEVER = there is none */
    uint32_t min_depth;       /* containers inside each other in that text */
};

struct gentry {
    uint32_t start, len;      /* in texts */
    uint32_t node;            /* of the value that follows */
    uint32_t declared;        /* which member, or which of a set's items: equal ones have the same number */
};

/* Nodes that every grammar has, by number. */
enum {
    G_NEVER, G_DONE, G_ANY, G_STRING, G_NUMBER, G_BOOL, G_NULL, G_ARRAY, G_OBJECT, G_KEY, G_TAG_KEY, G_RAW,
    G_ANY_BUT_STRING, G_N_FIXED
};

enum grammar_tag { TAG_LEAD, TAG_INVOKE, TAG_CALLS_END, TAG_PARAMETER, TAG_INVOKE_END, TAG_EMPTY_END,
                   TAG_PARAMETER_END, N_TAGS };

struct program {
    atomic_uint n_users;
    struct gnode *nodes;
    uint32_t n_nodes, cap_nodes;
    uint32_t *refs;
    uint32_t n_refs, cap_refs;
    struct gentry *entries;
    uint32_t n_entries, cap_entries;
    struct buf texts;
    struct pattern **patterns;
    uint32_t n_patterns, cap_patterns;
    char tags[DSML_N_DIALECTS][N_TAGS][DSML_TAG_TEXT_MAX];
    uint8_t tag_len[DSML_N_DIALECTS][N_TAGS];
    uint32_t calls;           /* the node of a block, or NODE_NONE */
    uint32_t n_calls_max;
    uint32_t root;
};

static inline struct ds4_span program_tag(const struct program *p, int dialect, enum grammar_tag tag)
{
    return span_make(p->tags[dialect][tag], p->tag_len[dialect][tag]);
}

static inline struct ds4_span entry_text(const struct program *p, const struct gentry *e)
{
    return span_make(p->texts.text.ptr + e->start, e->len);
}

/* ---- building (grammar_build.c) ------------------------------------------------------------------------------- */

/* A program with the fixed nodes. NULL: out of memory. */
struct program *program_create(void);
void program_release(struct program *p); /* destroys with the last user */
enum ds4_status program_node(struct program *p, enum node_kind kind, uint32_t *out,
                             struct ds4_error *error) DS4_MUST_CHECK;
enum ds4_status program_ref(struct program *p, uint32_t node, struct ds4_error *error) DS4_MUST_CHECK;
/* Appends an entry whose text was put into p->texts from `start` on. */
enum ds4_status program_entry(struct program *p, uint32_t start, uint32_t node, uint32_t declared,
                              struct ds4_error *error) DS4_MUST_CHECK;
/* Takes a pattern; *out is its number. It is destroyed when this fails. */
enum ds4_status program_pattern(struct program *p, struct pattern *pattern, uint32_t *out,
                                struct ds4_error *error) DS4_MUST_CHECK;
/* Brings the entries of a node into byte order. */
void program_sort_entries(struct program *p, uint32_t node);
/* Resolves aliases and choices, finds shortest texts. The nodes are final then. */
enum ds4_status program_finish(struct program *p, struct ds4_error *error) DS4_MUST_CHECK;

/* ---- schemas (grammar_schema.c) ------------------------------------------------------------------------------- */

/* Compiles a JSON schema to the node of a JSON value. what: how messages call it. strict: a keyword that is not
 * supported is an error which names it and its path; else it is as if it were not there. */
enum ds4_status schema_compile(struct program *p, struct ds4_span schema, const char *what, bool strict, uint32_t *node,
                               struct ds4_error *error) DS4_MUST_CHECK;
/* Compiles a function object (name, parameters, strict) to an INVOKE node and appends its name to *name. A tool that is
 * not strict and whose parameters cannot be expressed takes any parameters. */
enum ds4_status schema_compile_tool(struct program *p, struct ds4_span function, uint32_t *node, struct buf *name,
                                    struct ds4_error *error) DS4_MUST_CHECK;

#endif
