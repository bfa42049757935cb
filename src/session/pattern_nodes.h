/* pattern_nodes.h - a pattern before it is made deterministic: nodes with up to two ways on. Inside of pattern*.c. */
#ifndef DS4_SESSION_PATTERN_NODES_H
#define DS4_SESSION_PATTERN_NODES_H

#include "session/pattern.h"

#define NOWHERE UINT32_MAX

enum pnode_kind {
    PNODE_WAYS,   /* on to a and b, for nothing */
    PNODE_BYTES,  /* a byte of lo..hi, then a */
    PNODE_BEGIN,  /* on to a at the beginning of the text */
    PNODE_END,    /* on to a at its end */
    PNODE_FOUND   /* part a of the pattern is found */
};
struct pnode {
    uint8_t kind, lo, hi;
    bool inside;          /* BYTES: not the first byte of a character */
    uint32_t a, b;
};

struct part {
    uint32_t start;       /* before the search: it may begin anywhere */
    bool negative;        /* must not be found */
};

struct pattern_net {
    enum pattern_place place;
    struct pnode *nodes;
    uint32_t n, cap;
    struct part parts[PATTERN_PARTS_MAX];
    uint32_t n_parts;
    const char *why;
};

/* Adds the parts of a pattern. */
enum ds4_status pattern_parse(struct pattern_net *net, struct ds4_span source) DS4_MUST_CHECK;

#endif
