/* automaton_json.c - frames of JSON values: literals, strings, numbers, arrays, objects. See automaton_kinds.h.
 *
 * White space is possible where JSON has it between tokens inside a value, in runs of at most GRAMMAR_SPACE_MAX bytes,
 * not before or behind the whole. Strings take every well-formed character and the escapes but those of surrogates. */
#include "session/automaton_kinds.h"

static bool is_space(unsigned char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static enum move take_space(struct step *s)
{
    if (s->f->space >= GRAMMAR_SPACE_MAX) return MOVE_NONE;
    s->f->space++;
    return MOVE_STAY;
}

static enum move go_to(struct step *s, uint8_t state)
{
    s->f->state = state;
    s->f->space = 0;
    return MOVE_STAY;
}

/* ---- entries --------------------------------------------------------------------------------------------------- */

/* Byte `at` of an entry, -1 behind its end: entries of a range agree on the bytes before. */
static int byte_at(const struct program *p, const struct gnode *n, uint32_t i, uint32_t at)
{
    const struct gentry *e = &p->entries[n->entry + i];
    return at < e->len ? (unsigned char)p->texts.text.ptr[e->start + at] : -1;
}

static uint32_t first_not_below(const struct program *p, const struct gnode *n, const struct frame *f, int c)
{
    uint32_t lo = f->lo, hi = f->hi;
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;
        if (byte_at(p, n, middle, f->at) < c) lo = middle + 1;
        else hi = middle;
    }
    return lo;
}

bool entries_narrow(const struct program *p, const struct gnode *n, struct frame *f, unsigned char c)
{
    uint32_t lo = first_not_below(p, n, f, c), hi = first_not_below(p, n, f, c + 1);
    if (lo == hi) return false;
    f->lo = (uint16_t)lo;
    f->hi = (uint16_t)hi;
    f->at++;
    return true;
}

bool entry_is_whole(const struct program *p, const struct gnode *n, const struct frame *f)
{
    return f->lo < f->hi && p->entries[n->entry + f->lo].len == f->at;
}

enum move step_literals(struct step *s)
{
    struct frame *f = s->f, closing = *f;
    struct ds4_span closer = s->n->raw ? program_tag(s->p, f->dialect, TAG_PARAMETER_END) : SPAN("");
    if (f->state == LITERALS_CLOSING) {
        if (s->c != (unsigned char)closer.ptr[f->at]) return MOVE_NONE;
        return ++f->at == closer.len ? MOVE_ENDS : MOVE_STAY;
    }
    bool whole = entry_is_whole(s->p, s->n, f);
    if (whole && s->n->raw && s->c == '<') {
        closing.state = LITERALS_CLOSING;
        closing.at = 1;
        closing.lo = closing.hi = 0;
        s->has_extra = true;
        s->extra = closing;
    }
    if (entries_narrow(s->p, s->n, f, s->c)) return MOVE_STAY;
    return whole && !s->n->raw ? MOVE_PASS : MOVE_NONE;
}

/* ---- strings --------------------------------------------------------------------------------------------------- */

/* The text of a parameter ends at its closing tag wherever that stands, so not in a string either. */
static bool string_closes_tag(struct step *s)
{
    struct frame *f = s->f;
    if (f->dialect == NO_DIALECT || s->n->kind == NODE_KEY) return false;
    struct ds4_span closer = program_tag(s->p, f->dialect, TAG_PARAMETER_END);
    if (s->c == (unsigned char)closer.ptr[f->match]) return (size_t)++f->match == closer.len;
    f->match = s->c == '<';
    return false;
}

static uint32_t saturated(const struct gnode *n, uint32_t count)
{
    return n->max == NO_LIMIT && count > n->min ? n->min : count;
}

static bool count_char(struct step *s)
{
    if (s->f->count >= s->n->max) return false;
    s->f->count = saturated(s->n, s->f->count + 1);
    return true;
}

static enum move step_escape(struct step *s)
{
    static const uint8_t next[] = {[STRING_U1] = STRING_U2, [STRING_U2] = STRING_U3, [STRING_U2_D] = STRING_U3,
                                   [STRING_U3] = STRING_U4, [STRING_U4] = STRING_INSIDE};
    struct frame *f = s->f;
    unsigned char c = s->c, low = c | 32;
    if (f->state == STRING_ESCAPE) {
        if (!c || !strchr("\"\\/bfnrtu", c)) return MOVE_NONE;
        f->state = c == 'u' ? STRING_U1 : STRING_INSIDE;
        return MOVE_STAY;
    }
    if (!(c >= '0' && c <= '9') && !(low >= 'a' && low <= 'f')) return MOVE_NONE;
    if (f->state == STRING_U2_D && (c < '0' || c > '7')) return MOVE_NONE; /* no halves of surrogate pairs */
    f->state = f->state == STRING_U1 && low == 'd' ? (uint8_t)STRING_U2_D : next[f->state];
    return MOVE_STAY;
}

/* Follows the declared names that an undeclared one might be; none are left once it differs. */
static void follow_names(struct step *s)
{
    const struct gnode *object = &s->p->nodes[s->f->data];
    if (s->f->lo < s->f->hi && !entries_narrow(s->p, object, s->f, s->c)) s->f->lo = s->f->hi = s->f->at = 0;
}

static enum move step_key_byte(struct step *s)
{
    struct frame *f = s->f;
    bool tag = s->n->raw;
    if (s->c == '"' && f->utf8 == 0) {
        follow_names(s);
        return f->lo < f->hi || f->count == 0 ? MOVE_NONE : MOVE_ENDS;
    }
    if (s->c < 0x20 || s->c == '\\' || s->c == '<' || (tag && (s->c == '>' || s->c == '&'))) return MOVE_NONE;
    if (f->utf8 == 0 && !count_char(s)) return MOVE_NONE;
    f->utf8 = utf8_want(f->utf8, s->c);
    if (f->utf8 == UTF8_WANT_BAD) return MOVE_NONE;
    follow_names(s);
    return MOVE_STAY;
}

enum move step_string(struct step *s)
{
    struct frame *f = s->f;
    bool key = s->n->kind == NODE_KEY;
    if (f->state == STRING_START && !(key && s->n->raw)) {
        if (s->c != '"') return MOVE_NONE;
        f->state = STRING_INSIDE;
        if (key) follow_names(s);
        return MOVE_STAY;
    }
    if (key) {
        f->state = STRING_INSIDE;
        return step_key_byte(s);
    }
    if (f->state != STRING_INSIDE) return step_escape(s);
    if (f->utf8 == 0 && s->c == '"') return f->count >= s->n->min ? MOVE_ENDS : MOVE_NONE;
    if (s->c < 0x20 || (f->utf8 == 0 && !count_char(s))) return MOVE_NONE;
    f->utf8 = utf8_want(f->utf8, s->c);
    if (f->utf8 == UTF8_WANT_BAD || string_closes_tag(s)) return MOVE_NONE;
    if (s->c == '\\') f->state = STRING_ESCAPE;
    return MOVE_STAY;
}

/* ---- patterns -------------------------------------------------------------------------------------------------- */

/* No text of a pattern has a bare quotation mark, nor, in a call, the first byte of a tag. */
enum move step_pattern(struct step *s)
{
    struct frame *f = s->f;
    const struct pattern *t = s->p->patterns[s->n->first];
    bool raw = s->n->raw, ends = t->ends[f->count] && f->state != PATTERN_CLOSING;
    if (f->state == PATTERN_START && !raw) {
        f->state = PATTERN_INSIDE;
        return s->c == '"' ? MOVE_STAY : MOVE_NONE;
    }
    if (f->state == PATTERN_CLOSING || (raw && ends && s->c == '<')) {
        struct ds4_span closer = program_tag(s->p, f->dialect, TAG_PARAMETER_END);
        if (s->c != (unsigned char)closer.ptr[f->at]) return MOVE_NONE;
        f->state = PATTERN_CLOSING;
        f->count = 0;
        return ++f->at == closer.len ? MOVE_ENDS : MOVE_STAY;
    }
    if (!raw && ends && s->c == '"') return MOVE_ENDS;
    uint32_t next = pattern_step(t, f->count, s->c);
    f->state = PATTERN_INSIDE;
    f->count = next;
    return next == PATTERN_DEAD ? MOVE_NONE : MOVE_STAY;
}

/* ---- numbers --------------------------------------------------------------------------------------------------- */

struct number_prefix number_of(const struct frame *f)
{
    return (struct number_prefix){(enum number_state)f->state, f->negative != 0, (int)f->count, f->data};
}

enum move step_number(struct step *s)
{
    struct number_prefix x = number_of(s->f), before = x;
    if (!number_step(s->n, &x, (char)s->c)) return number_is_whole(s->n, &before) ? MOVE_PASS : MOVE_NONE;
    s->f->state = (uint8_t)x.state;
    s->f->negative = x.negative;
    s->f->count = (uint32_t)x.n_digits;
    s->f->data = x.digits;
    return MOVE_STAY;
}

/* ---- arrays ---------------------------------------------------------------------------------------------------- */

uint32_t array_item(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    if (f->count >= n->max) return G_NEVER;
    uint32_t item = f->count < n->n ? a->p->refs[n->first + f->count] : n->item;
    return node_fits(a->p, item, f->depth + 1u) ? item : G_NEVER;
}

static enum move begin_item(struct step *s)
{
    struct frame *f = s->f;
    uint32_t most = s->n->min > s->n->n ? s->n->min : s->n->n;
    s->child = array_item(s->a, f);
    if (s->child == G_NEVER) return MOVE_NONE;
    s->child_depth = (uint8_t)(f->depth + 1);
    f->count++;
    if (s->n->max == NO_LIMIT && f->count > most) f->count = most;
    (void)go_to(s, ARRAY_AFTER);
    return MOVE_CHILD;
}

enum move step_array(struct step *s)
{
    struct frame *f = s->f;
    if (f->state == ARRAY_START)
        return s->c == '[' && node_fits(s->p, f->node, f->depth) ? go_to(s, ARRAY_OPEN) : MOVE_NONE;
    if (is_space(s->c)) return take_space(s);
    if (s->c == ']' && f->state != ARRAY_NEXT) return f->count >= s->n->min ? MOVE_ENDS : MOVE_NONE;
    if (f->state != ARRAY_AFTER) return begin_item(s);
    if (s->c != ',' || array_item(s->a, f) == G_NEVER) return MOVE_NONE;
    return go_to(s, ARRAY_NEXT);
}

/* ---- objects --------------------------------------------------------------------------------------------------- */

static uint32_t ones(uint64_t bits) { return (uint32_t)__builtin_popcountll(bits); }

/* Whether there is room for one more member, declared as one of these bits or (0) not, and all that must still come. */
static bool has_room(const struct gnode *n, const struct frame *f, uint64_t member)
{
    if (n->max == NO_LIMIT) return true;
    uint32_t written = (f->spare & ~MEMBERS_UNDECLARED) + 1u, missing = ones(n->required & ~f->data & ~member);
    uint32_t counted = ones(f->data | member) + (!member || f->spare & MEMBERS_UNDECLARED ? 1u : 0);
    if (counted < n->min && n->min - counted > missing) missing = n->min - counted;
    return written + missing <= n->max;
}

static bool has_enough(const struct gnode *n, const struct frame *f)
{
    return !n->min || ones(f->data) + (f->spare & MEMBERS_UNDECLARED ? 1u : 0) >= n->min;
}

bool member_allowed(const struct automaton *a, const struct frame *f, const struct gentry *e)
{
    const struct gnode *n = &a->p->nodes[f->node];
    if (!node_fits(a->p, e->node, f->depth + 1u)) return false;
    if (n->n_declared <= 64 && !has_room(n, f, 1ull << e->declared)) return false;
    if (n->n_declared <= 64) return !(f->data >> e->declared & 1);
    return e->declared >= f->data && e->declared <= a->p->refs[n->order + f->data];
}

bool members_complete(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    if (n->n_declared > 64) return a->p->refs[n->order + f->data] == n->n_declared;
    return (n->required & ~f->data) == 0 && has_enough(n, f);
}

bool any_allowed(const struct automaton *a, const struct frame *f)
{
    const struct gentry *entries = a->p->entries + a->p->nodes[f->node].entry;
    for (uint32_t i = f->lo; i < f->hi; i++)
        if (member_allowed(a, f, &entries[i])) return true;
    return false;
}

static bool undeclared_possible(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    if (!has_room(n, f, 0)) return false;
    return (n->item != NODE_NONE && node_fits(a->p, n->item, f->depth + 1u)) ||
           (n->item_raw != NODE_NONE && node_fits(a->p, n->item_raw, f->depth + 1u));
}

bool member_possible(const struct automaton *a, const struct frame *f)
{
    struct frame all = *f;
    all.lo = 0;
    all.hi = (uint16_t)a->p->nodes[f->node].n_entries;
    return undeclared_possible(a, f) || any_allowed(a, &all);
}

void member_take(const struct automaton *a, struct frame *f, const struct gentry *e)
{
    if (a->p->nodes[f->node].n_declared <= 64) f->data |= 1ull << e->declared;
    else f->data = e->declared + 1;
    f->count = e->node;
    f->lo = f->hi = f->at = 0;
    if (a->p->nodes[f->node].max != NO_LIMIT) f->spare++;
}

static enum move begin_key(struct step *s)
{
    struct frame *f = s->f;
    (void)go_to(s, OBJECT_COLON);
    s->fork_below = *f;
    s->fork_below.count = s->n->item;
    if (s->n->max != NO_LIMIT) s->fork_below.spare++;
    if (s->n->min) s->fork_below.spare |= MEMBERS_UNDECLARED;
    s->fork_child = G_KEY;
    s->forks = undeclared_possible(s->a, f);
    f->state = OBJECT_KEY;
    f->lo = f->at = 0;
    f->hi = (uint16_t)s->n->n_entries;
    return entries_narrow(s->p, s->n, f, s->c) && any_allowed(s->a, f) ? MOVE_STAY : MOVE_NONE;
}

static enum move step_member(struct step *s)
{
    struct frame *f = s->f;
    switch (f->state) {
    case OBJECT_KEY:
        if (!entries_narrow(s->p, s->n, f, s->c) || !any_allowed(s->a, f)) return MOVE_NONE;
        if (!entry_is_whole(s->p, s->n, f)) return MOVE_STAY;
        member_take(s->a, f, &s->p->entries[s->n->entry + f->lo]);
        return go_to(s, OBJECT_COLON);
    case OBJECT_COLON:
        return s->c == ':' ? go_to(s, OBJECT_VALUE) : MOVE_NONE;
    default:
        s->child = f->count;
        s->child_depth = (uint8_t)(f->depth + 1);
        f->count = 0;
        (void)go_to(s, OBJECT_AFTER);
        return MOVE_CHILD;
    }
}

enum move step_object(struct step *s)
{
    struct frame *f = s->f;
    if (f->state == OBJECT_START)
        return s->c == '{' && node_fits(s->p, f->node, f->depth) ? go_to(s, OBJECT_OPEN) : MOVE_NONE;
    if (f->state == OBJECT_KEY || f->state == OBJECT_COLON) return step_member(s);
    if (is_space(s->c)) return take_space(s);
    if (f->state == OBJECT_VALUE) return step_member(s);
    if (s->c == '}' && f->state != OBJECT_NEXT) return members_complete(s->a, f) ? MOVE_ENDS : MOVE_NONE;
    if (s->c == '"' && f->state != OBJECT_AFTER) return begin_key(s);
    if (s->c == ',' && f->state == OBJECT_AFTER && member_possible(s->a, f)) return go_to(s, OBJECT_NEXT);
    return MOVE_NONE;
}
