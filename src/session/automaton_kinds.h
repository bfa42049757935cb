/* automaton_kinds.h - what a byte does to a frame of each kind. Inside of the automaton. */
#ifndef DS4_SESSION_AUTOMATON_KINDS_H
#define DS4_SESSION_AUTOMATON_KINDS_H

#include "session/automaton.h"
#include "session/grammar_number.h"

enum move {
    MOVE_NONE,    /* the byte is not possible */
    MOVE_STAY,    /* taken; the frame was changed */
    MOVE_ENDS,    /* taken, and the node is complete with it */
    MOVE_PASS,    /* the node was complete before it: the byte is for the frame below */
    MOVE_CHILD    /* the byte begins step.child; the frame was changed to wait for its end */
};

struct step {
    struct automaton *a;
    const struct program *p;
    const struct gnode *n;  /* of the frame */
    struct frame *f;
    unsigned char c;
    uint32_t child;
    uint8_t child_depth;
    bool has_extra;         /* besides, the byte leads here */
    struct frame extra;
    bool forks;             /* besides, it begins an undeclared name, with this frame below */
    struct frame fork_below;
    uint32_t fork_child;
};

enum string_state { STRING_START, STRING_INSIDE, STRING_ESCAPE, STRING_U1, STRING_U2, STRING_U2_D, STRING_U3,
                    STRING_U4 };
enum array_state { ARRAY_START, ARRAY_OPEN, ARRAY_NEXT, ARRAY_AFTER };
enum set_state { SET_START, SET_OPEN, SET_NEXT, SET_ITEM, SET_AFTER };
enum object_state { OBJECT_START, OBJECT_OPEN, OBJECT_NEXT, OBJECT_KEY, OBJECT_COLON, OBJECT_VALUE, OBJECT_AFTER };
enum pattern_state { PATTERN_START, PATTERN_INSIDE, PATTERN_CLOSING };
enum literals_state { LITERALS_INSIDE, LITERALS_CLOSING };
enum invoke_state { INVOKE_START, INVOKE_OPEN, INVOKE_NAME, INVOKE_KIND, INVOKE_VALUE, INVOKE_CLOSE };
#define INVOKE_DECLARED_ONLY 1u /* in space, before the first byte of a name */
enum calls_state { CALLS_LEAD, CALLS_INVOKE, CALLS_NAME, CALLS_ENTER, CALLS_AFTER };

enum move step_literals(struct step *s);
enum move step_string(struct step *s);
enum move step_pattern(struct step *s);
enum move step_number(struct step *s);
enum move step_array(struct step *s);
enum move step_set(struct step *s);
enum move step_object(struct step *s);
enum move step_raw(struct step *s);
enum move step_invoke(struct step *s);
enum move step_calls(struct step *s);
enum move step_text(struct step *s);

/* Literals of a tag of which one must be written. */
struct tags {
    struct ds4_span text[3];
    uint8_t meaning[3];
    uint32_t n;
};
/* Those that may stand where an INVOKE frame or a CALLS frame behind a call is; shortest completion first. */
void invoke_tags(const struct automaton *a, const struct frame *f, struct tags *out);
void calls_tags(const struct automaton *a, const struct frame *f, struct tags *out);

/* Whether a node may begin inside so many containers. */
static inline bool node_fits(const struct program *p, uint32_t node, uint32_t depth)
{
    return p->nodes[node].min_bytes <= GRAMMAR_SHORTEST_BYTES_MAX &&
        depth + p->nodes[node].min_depth <= GRAMMAR_DEPTH_MAX;
}

/* Leaves in lo..hi the entries whose next byte is c. */
bool entries_narrow(const struct program *p, const struct gnode *n, struct frame *f, unsigned char c);
bool entry_is_whole(const struct program *p, const struct gnode *n, const struct frame *f);
/* Members of an OBJECT or INVOKE frame. Where their number is bounded, `spare` counts them; those that are not declared
 * may all have one name, so that no more than one of them counts towards the least number. */
#define MEMBERS_UNDECLARED 0x8000u /* in spare: there is one */
bool member_allowed(const struct automaton *a, const struct frame *f, const struct gentry *e);
bool members_complete(const struct automaton *a, const struct frame *f);
bool member_possible(const struct automaton *a, const struct frame *f); /* one more, declared or not */
bool any_allowed(const struct automaton *a, const struct frame *f); /* of the entries lo..hi */
void member_take(const struct automaton *a, struct frame *f, const struct gentry *e);

/* The byte that leads a SET frame to its end soonest. */
int next_in_set(const struct automaton *a, const struct frame *f);
/* The node of the item at hand of an ARRAY frame, or G_NEVER. */
uint32_t array_item(const struct automaton *a, const struct frame *f);
struct number_prefix number_of(const struct frame *f);
/* Characters in the first n bytes of the closing tag of a parameter. */
uint32_t closer_chars(const struct program *p, const struct frame *f, uint32_t n);

#endif
