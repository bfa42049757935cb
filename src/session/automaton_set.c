/* automaton_set.c - frames of arrays no two items of which are equal: their items are constants, written by the array
 * itself, with a bit of `data` for each that was. See automaton_kinds.h. */
#include "session/automaton_kinds.h"

static uint32_t n_written(const struct frame *f) { return (uint32_t)__builtin_popcountll(f->data); }

static bool is_left(const struct frame *f, const struct gentry *e) { return !(f->data >> e->declared & 1); }

/* The shortest of the entries lo..hi that is left; NULL: none. */
static const struct gentry *shortest_left(const struct program *p, const struct gnode *n, uint32_t lo, uint32_t hi,
                                          const struct frame *f)
{
    const struct gentry *best = NULL;
    for (uint32_t i = lo; i < hi; i++) {
        const struct gentry *e = &p->entries[n->entry + i];
        if (is_left(f, e) && (!best || e->len < best->len)) best = e;
    }
    return best;
}

static bool may_go_on(const struct gnode *n, const struct frame *f)
{
    return n_written(f) < n->max && n_written(f) < n->n_declared;
}

static enum move narrow(struct step *s)
{
    struct frame *f = s->f;
    if (!entries_narrow(s->p, s->n, f, s->c) || !shortest_left(s->p, s->n, f->lo, f->hi, f)) return MOVE_NONE;
    f->state = SET_ITEM;
    f->space = 0;
    return MOVE_STAY;
}

static enum move go_to(struct step *s, uint8_t state)
{
    s->f->state = state;
    s->f->space = 0;
    return MOVE_STAY;
}

enum move step_set(struct step *s)
{
    struct frame *f = s->f;
    bool space = s->c == ' ' || s->c == '\n' || s->c == '\t' || s->c == '\r';
    if (f->state == SET_START)
        return s->c == '[' && node_fits(s->p, f->node, f->depth) ? go_to(s, SET_OPEN) : MOVE_NONE;
    if (f->state == SET_ITEM) {
        const struct gentry *e = &s->p->entries[s->n->entry + f->lo];
        bool whole = entry_is_whole(s->p, s->n, f) && is_left(f, e);
        if (!whole || !(space || s->c == ',' || s->c == ']')) return narrow(s);
        f->data |= 1ull << e->declared;
        f->lo = f->hi = f->at = 0;
        (void)go_to(s, SET_AFTER);
    }
    if (space) {
        if (f->space >= GRAMMAR_SPACE_MAX) return MOVE_NONE;
        f->space++;
        return MOVE_STAY;
    }
    if (s->c == ']' && f->state != SET_NEXT) return n_written(f) >= s->n->min ? MOVE_ENDS : MOVE_NONE;
    if (!may_go_on(s->n, f)) return MOVE_NONE;
    if (f->state == SET_AFTER) return s->c == ',' ? go_to(s, SET_NEXT) : MOVE_NONE;
    f->hi = (uint16_t)s->n->n_entries;
    return narrow(s);
}

int next_in_set(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    bool item = f->state == SET_ITEM;
    if (f->state == SET_START) return '[';
    if (!item && f->state != SET_NEXT && n_written(f) >= n->min) return ']';
    if (f->state == SET_AFTER) return ',';
    const struct gentry *best = shortest_left(a->p, n, item ? f->lo : 0, item ? f->hi : n->n_entries, f);
    if (!best) return ']';
    if (best->len > f->at) return (unsigned char)a->p->texts.text.ptr[best->start + f->at];
    return n_written(f) + 1 >= n->min ? ']' : ',';
}
