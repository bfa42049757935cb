/* automaton.h - where an answer stands in a grammar, byte by byte.
 *
 * A stand is a stack of frames: the node that is being written on top, below it the nodes that it is part of. Frames
 * below the top do not change, so stands share them: a frame names the one below by its place in `below`. Because
 * alternatives may begin alike, an answer has a set of stands; a byte is possible when one of them can take it.
 *
 * Every stand that is ever reached can be completed: nodes without a text and nodes too deep are not entered. So stands
 * may be dropped when there are more than STANDS_MAX (the answer is then narrower than the grammar, never wrong). */
#ifndef DS4_SESSION_AUTOMATON_H
#define DS4_SESSION_AUTOMATON_H

#include "session/grammar_nodes.h"

#ifdef DS4_SMALL_LIMITS
#define STANDS_MAX 4
#else
#define STANDS_MAX 48
#endif
#define FRAME_NONE UINT32_MAX
#define NO_DIALECT 0xFF

/* Fields that a kind of node does not name mean nothing there and are 0. No padding: frames are compared as bytes. */
struct frame {
    uint32_t node, below;
    uint8_t state;      /* of the kind; 0 = nothing written */
    uint8_t utf8;       /* STRING, KEY, RAW: what the character at hand still wants */
    uint8_t depth;      /* containers around it */
    uint8_t space;      /* bytes of white space at this place; INVOKE: only declared names, while a mask is made */
    uint8_t dialect;    /* of the block around it, or NO_DIALECT */
    uint8_t negative;   /* NUMBER */
    uint8_t match;      /* STRING, RAW: bytes of the closing tag of a parameter that stand at the end; INVOKE: the value
                           at hand is raw text */
    uint8_t match_escaped; /* RAW with limits: the same of the escaped form */
    uint16_t at;        /* bytes of the literal or tag that is being written */
    uint16_t lo, hi;    /* entries that begin so; of tags: lo = bits of those still possible */
    uint16_t spare;     /* OBJECT: members written, where they are counted */
    uint32_t count;     /* characters, items, digits, calls; OBJECT, INVOKE: the node of the value at hand; PATTERN: the
                           state of its table */
    uint32_t inner;     /* CALLS: the node of the call at hand */
    uint64_t data;      /* OBJECT, INVOKE: members written; SET: items written; NUMBER: digits; KEY: the node whose
                           entries it avoids */
};
_Static_assert(sizeof(struct frame) == 40, "a frame has no padding");

struct stands {
    struct frame top[STANDS_MAX];
    uint32_t n;
};

struct automaton {
    const struct program *p;
    struct frame *below;
    uint32_t n_below, cap_below;
    bool failed;        /* out of memory: sticky */
};

/* The stand at the beginning of a node. */
struct frame frame_at_start(const struct program *p, uint32_t node, uint32_t below, uint8_t depth, uint8_t dialect);
/* Appends to *out where `from` can stand behind the byte; no stand twice. */
void automaton_feed(struct automaton *a, const struct frame *from, unsigned char byte, struct stands *out);
/* Makes a frame that waits for a value wait below it; *child = the value at its start. False: out of memory. */
bool automaton_push(struct automaton *a, const struct frame *f, struct frame *child);
/* Where the name of a parameter begins: *key = one that is not declared, at its start. False: there is none, or no
 * memory. */
bool automaton_begin_name(struct automaton *a, const struct frame *f, struct frame *key);
/* True when the answer may end here. */
bool automaton_may_end(const struct automaton *a, const struct frame *stand);
/* True when a byte at this place is content, not syntax: inside a string or free text. */
bool automaton_is_free(const struct automaton *a, const struct frame *stand);
/* Free text in which nothing has begun that must be continued. */
bool automaton_is_open(const struct automaton *a, const struct frame *stand);
/* Appends the bytes of a short completion; false when it has more than limit bytes or memory ended. Uses `below` and
 * gives it back as it was. */
bool automaton_complete(struct automaton *a, const struct frame *stand, size_t limit, struct buf *out);

/* What UTF-8 wants next after a byte; UTF8_WANT_BAD when the byte cannot come. 0 = a character is complete. */
#define UTF8_WANT_BAD 0xFF
uint8_t utf8_want(uint8_t want, unsigned char byte);

#endif
