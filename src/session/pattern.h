/* pattern.h - regular expressions of schemas ("pattern", "format") as tables over the bytes of a string.
 *
 * In: a pattern as ECMA-262 has it, searched for anywhere in the text unless it is anchored. Known: alternatives,
 * groups, classes, . \d \w \s and their opposites, escapes, repetitions, ^ and $, and lookahead at the beginning.
 * Unknown and refused with a reason: references to groups, \b, \p, other assertions, and what needs more than
 * PATTERN_... allow.
 * Out: a deterministic automaton. Bytes are those of the text as it is written: in a JSON string with its escapes, in a
 * call without what could be taken for a tag. States from which the text cannot be ended are not in the table, so a
 * text that has come so far can always be completed. */
#ifndef DS4_SESSION_PATTERN_H
#define DS4_SESSION_PATTERN_H

#include "base/buf.h"

#define PATTERN_DEAD 0xFFFF
#define PATTERN_NO_LIMIT UINT32_MAX

/* Limits on what strangers send. */
#define PATTERN_BYTES_MAX 4096u
#define PATTERN_GROUPS_MAX 64u         /* inside each other */
#define PATTERN_REPEAT_MAX 1000u
#define PATTERN_PARTS_MAX 8u           /* patterns that must hold together */
#define PATTERN_NODES_MAX 40000u       /* before it is made deterministic */
#define PATTERN_STATES_MAX 8000u
#define PATTERN_CELLS_MAX (1u << 19)   /* states times classes of bytes: 1 MiB */
#define PATTERN_WORK_MAX 10000000u     /* steps */

struct pattern {
    uint32_t n_states, n_classes;
    uint8_t class_of[256];
    uint16_t *next;      /* [n_states][n_classes], PATTERN_DEAD where no text goes on */
    uint8_t *way;        /* [n_states] the byte that leads to an end soonest */
    uint8_t *ends;       /* [n_states] the text may end here */
    uint32_t min_bytes;  /* of the shortest text */
};

enum pattern_place {
    PATTERN_JSON,          /* inside of a JSON string */
    PATTERN_JSON_IN_CALL,  /* the same in a parameter of a call */
    PATTERN_RAW            /* the text of a parameter */
};
struct pattern_options {
    struct ds4_span source[2];   /* all of these must be found; ptr NULL: none */
    enum pattern_place place;
    uint32_t min_chars, max_chars;
};
/* UNSUPPORTED, FORMAT and LIMIT come with words in *why (constant); the steps that it took are added to *work. */
enum ds4_status pattern_compile(const struct pattern_options *options, struct pattern **out, const char **why,
                                uint64_t *work) DS4_MUST_CHECK;
void pattern_destroy(struct pattern *p);
/* The pattern of a "format"; empty: not known. */
struct ds4_span pattern_of_format(struct ds4_span format);

static inline uint32_t pattern_step(const struct pattern *p, uint32_t state, unsigned char byte)
{
    return p->next[state * p->n_classes + p->class_of[byte]];
}

#endif
