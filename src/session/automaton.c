/* automaton.c - one byte forward. See automaton.h. Each kind of node has a function that says what the byte does to the
 * frame on top; automaton_feed carries the consequences out. */
#include "session/automaton.h"

#include "base/mem.h"
#include "session/automaton_kinds.h"

struct frame frame_at_start(const struct program *p, uint32_t node, uint32_t below, uint8_t depth, uint8_t dialect)
{
    struct frame f = {.node = node, .below = below, .depth = depth, .dialect = dialect};
    enum node_kind kind = p->nodes[node].kind;
    if (kind == NODE_LITERALS || kind == NODE_KEY) f.hi = (uint16_t)p->nodes[node].n_entries;
    return f;
}

uint8_t utf8_want(uint8_t want, unsigned char c)
{
    static const struct {
        unsigned char lo, hi;
        uint8_t next;
    } more[] = {{0, 0, 0}, {0x80, 0xBF, 0}, {0x80, 0xBF, 1}, {0x80, 0xBF, 2}, {0xA0, 0xBF, 1}, {0x80, 0x9F, 1},
                {0x90, 0xBF, 2}, {0x80, 0x8F, 2}};
    if (want) return c >= more[want].lo && c <= more[want].hi ? more[want].next : UTF8_WANT_BAD;
    if (c < 0x80) return 0;
    if (c < 0xC2 || c > 0xF4) return UTF8_WANT_BAD;
    if (c < 0xE0) return 1;
    if (c < 0xF0) return c == 0xE0 ? 4 : c == 0xED ? 5 : 2;
    return c == 0xF0 ? 6 : c == 0xF4 ? 7 : 3;
}

/* ---- sets and stacks ------------------------------------------------------------------------------------------- */

static void add(struct stands *out, const struct frame *f)
{
    for (uint32_t i = 0; i < out->n; i++)
        if (memcmp(&out->top[i], f, sizeof *f) == 0) return;
    if (out->n < STANDS_MAX) out->top[out->n++] = *f;
}

static uint32_t put_below(struct automaton *a, const struct frame *f)
{
    /* Branches of a choice leave the same frame below them: one place for both lets their stands meet again. */
    for (uint32_t i = a->n_below; i > 0 && i + 4 > a->n_below; i--)
        if (memcmp(&a->below[i - 1], f, sizeof *f) == 0) return i - 1;
    if (a->n_below == a->cap_below) {
        uint32_t cap = a->cap_below ? a->cap_below * 2 : 128;
        struct frame *grown = mem_realloc(a->below, cap, sizeof *grown);
        if (!grown) {
            a->failed = true;
            return 0;
        }
        a->below = grown;
        a->cap_below = cap;
    }
    a->below[a->n_below] = *f;
    return a->n_below++;
}

static enum move step_frame(struct step *s)
{
    switch (s->n->kind) {
    case NODE_LITERALS: return step_literals(s);
    case NODE_STRING:
    case NODE_KEY: return step_string(s);
    case NODE_PATTERN: return step_pattern(s);
    case NODE_RAW: return step_raw(s);
    case NODE_NUMBER: return step_number(s);
    case NODE_ARRAY: return step_array(s);
    case NODE_SET: return step_set(s);
    case NODE_OBJECT: return step_object(s);
    case NODE_INVOKE: return step_invoke(s);
    case NODE_CALLS: return step_calls(s);
    case NODE_TEXT: return step_text(s);
    default: return MOVE_NONE;
    }
}

static void feed_one(struct automaton *a, struct frame f, unsigned char byte, struct stands *out);

/* Branches are no choices themselves, and take the byte or refuse it: this does not go deeper. */
static void feed_branches(struct automaton *a, const struct frame *f, unsigned char byte, struct stands *out)
{
    const struct gnode *n = &a->p->nodes[f->node];
    for (uint32_t i = 0; i < n->n; i++)
        feed_one(a, frame_at_start(a->p, a->p->refs[n->first + i], f->below, f->depth, f->dialect), byte, out);
}

static struct frame behind(const struct automaton *a, const struct frame *f)
{
    if (f->below != FRAME_NONE) return a->below[f->below];
    return (struct frame){.node = G_DONE, .below = FRAME_NONE, .dialect = NO_DIALECT};
}

bool automaton_push(struct automaton *a, const struct frame *from, struct frame *child)
{
    struct frame f = *from;
    struct step s = {.a = a, .p = a->p, .n = &a->p->nodes[f.node], .f = &f, .c = 1}; /* no syntax has this byte */
    if (step_frame(&s) != MOVE_CHILD) return false;
    uint32_t below = put_below(a, &f);
    *child = frame_at_start(a->p, s.child, below, s.child_depth, f.dialect);
    return !a->failed;
}

static struct frame frame_of_name(struct automaton *a, const struct step *s)
{
    uint32_t below = put_below(a, &s->fork_below);
    struct frame key = frame_at_start(a->p, s->fork_child, below, s->f->depth, s->f->dialect);
    key.data = s->fork_below.node;
    key.hi = (uint16_t)s->n->n_entries;
    return key;
}

static void feed_fork(struct automaton *a, const struct step *s, struct stands *out)
{
    struct frame key = frame_of_name(a, s);
    if (!a->failed) feed_one(a, key, s->c, out);
}

bool automaton_begin_name(struct automaton *a, const struct frame *from, struct frame *key)
{
    struct frame f = *from;
    struct step s = {.a = a, .p = a->p, .n = &a->p->nodes[f.node], .f = &f, .c = 1};
    (void)step_frame(&s); /* whatever the byte does to declared names */
    if (s.forks) *key = frame_of_name(a, &s);
    return s.forks && !a->failed;
}

/* Follows what a byte does: it may end nodes and begin others before one takes it. */
static void feed_one(struct automaton *a, struct frame f, unsigned char byte, struct stands *out)
{
    while (!a->failed) {
        struct step s = {.a = a, .p = a->p, .n = &a->p->nodes[f.node], .f = &f, .c = byte};
        if (s.n->kind == NODE_ALT) {
            feed_branches(a, &f, byte, out);
            return;
        }
        enum move move = step_frame(&s);
        if (move == MOVE_STAY) add(out, &f);
        if (s.has_extra) add(out, &s.extra);
        if (s.forks) feed_fork(a, &s, out);
        if (move == MOVE_ENDS) {
            f = behind(a, &f);
            add(out, &f);
        }
        if (move == MOVE_PASS && f.below != FRAME_NONE) {
            f = a->below[f.below];
            continue;
        }
        if (move != MOVE_CHILD) return;
        uint32_t below = put_below(a, &f);
        f = frame_at_start(a->p, s.child, below, s.child_depth, f.dialect);
    }
}

void automaton_feed(struct automaton *a, const struct frame *from, unsigned char byte, struct stands *out)
{
    feed_one(a, *from, byte, out);
}
