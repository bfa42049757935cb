/* automaton_complete.c - whether an answer may end at a stand, and a short way there. See automaton.h.
 *
 * The way is found byte by byte: each kind of frame names the byte that leads to its end soonest, as far as can be seen
 * without search, and the automaton takes it. */
#include "session/automaton_kinds.h"

#define NOTHING_LEFT (-1) /* the frame is complete: the one below decides */

bool automaton_may_end(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    if (f->below != FRAME_NONE) return false;
    switch (n->kind) {
    case NODE_DONE: return true;
    case NODE_TEXT: return automaton_is_open(a, f);
    case NODE_LITERALS: return !n->raw && entry_is_whole(a->p, n, f);
    case NODE_NUMBER: {
        struct number_prefix x = number_of(f);
        return number_is_whole(n, &x);
    }
    default: return false;
    }
}

bool automaton_is_free(const struct automaton *a, const struct frame *f)
{
    switch (a->p->nodes[f->node].kind) {
    case NODE_STRING:
    case NODE_KEY: return true;
    case NODE_PATTERN: return f->state == PATTERN_INSIDE;
    case NODE_RAW: return f->match == 0;
    case NODE_TEXT: return f->at == 0;
    default: return false;
    }
}

/* ---- the next byte --------------------------------------------------------------------------------------------- */

/* A byte that goes on with a character. */
static int rest_of_character(uint8_t want)
{
    return want == 4 ? 0xA0 : want == 6 ? 0x90 : 0x80;
}

static int next_in_string(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    if (n->kind == NODE_KEY) {
        /* An undeclared name ends when it is none of the declared ones: 'x' until then. */
        const struct gnode *object = &a->p->nodes[f->data];
        struct frame closing = *f;
        if (f->utf8) return rest_of_character(f->utf8);
        if (f->state == STRING_START && !n->raw) return '"';
        bool declared = f->lo < f->hi && entries_narrow(a->p, object, &closing, '"');
        return f->count > 0 && !declared ? '"' : 'x';
    }
    if (f->state == STRING_START) return '"';
    if (f->state == STRING_ESCAPE) return 'n';
    if (f->state != STRING_INSIDE) return '0';
    if (f->utf8) return rest_of_character(f->utf8);
    return f->count >= n->min ? '"' : 'a';
}

static int next_in_raw(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    struct ds4_span closer = program_tag(a->p, f->dialect, TAG_PARAMETER_END);
    if (f->count >= n->min && (f->match > 0 || f->utf8 == 0)) return (unsigned char)closer.ptr[f->match];
    if (f->utf8) return f->match ? (unsigned char)closer.ptr[f->match] : rest_of_character(f->utf8);
    /* Too short to end here: what looked like the end is text. */
    return f->count + closer_chars(a->p, f, f->match) >= n->min ? '<' : 'a';
}

static int next_in_pattern(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    const struct pattern *t = a->p->patterns[n->first];
    if (f->state == PATTERN_START && !n->raw) return '"';
    if (f->state == PATTERN_CLOSING)
        return (unsigned char)program_tag(a->p, f->dialect, TAG_PARAMETER_END).ptr[f->at];
    return !t->ends[f->count] ? t->way[f->count] : n->raw ? '<' : '"';
}

static int next_in_literals(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    if (f->state == LITERALS_CLOSING)
        return (unsigned char)program_tag(a->p, f->dialect, TAG_PARAMETER_END).ptr[f->at];
    const struct gentry *best = &a->p->entries[n->entry + f->lo];
    for (uint32_t i = f->lo; i < f->hi; i++)
        if (a->p->entries[n->entry + i].len < best->len) best = &a->p->entries[n->entry + i];
    if (best->len == f->at) return n->raw ? '<' : NOTHING_LEFT;
    return (unsigned char)a->p->texts.text.ptr[best->start + f->at];
}

static int next_in_number(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    struct number_prefix x = number_of(f);
    if (number_is_whole(n, &x)) return NOTHING_LEFT;
    int best = NOTHING_LEFT;
    for (const char *c = "0123456789.-"; *c; c++) {
        struct number_prefix y = x;
        if (!number_step(n, &y, *c)) continue;
        if (number_is_whole(n, &y)) return *c;
        if (best == NOTHING_LEFT) best = *c;
    }
    return best;
}

/* The entry to go on with among lo..hi: a required member first, then the cheapest value. */
static const struct gentry *best_member(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    const struct gentry *best = NULL;
    uint64_t best_cost = UINT64_MAX;
    for (uint32_t i = f->lo; i < f->hi; i++) {
        const struct gentry *e = &a->p->entries[n->entry + i];
        if (!member_allowed(a, f, e)) continue;
        bool required = n->n_declared <= 64 ? n->required >> e->declared & 1
                                            : a->p->refs[n->order + e->declared] == e->declared;
        uint64_t cost = (required ? 0 : 1ull << 40) + (uint64_t)e->len + a->p->nodes[e->node].min_bytes;
        if (cost < best_cost) best = e;
        if (cost < best_cost) best_cost = cost;
    }
    return best;
}

static int next_of_member(const struct automaton *a, struct frame f)
{
    if (f.at == 0) f.lo = 0;
    if (f.at == 0) f.hi = (uint16_t)a->p->nodes[f.node].n_entries;
    const struct gentry *best = best_member(a, &f);
    if (best) return (unsigned char)a->p->texts.text.ptr[best->start + f.at];
    return a->p->nodes[f.node].kind == NODE_OBJECT ? '"' : 'x';
}

static int next_in_object(const struct automaton *a, const struct frame *f)
{
    switch (f->state) {
    case OBJECT_START: return '{';
    case OBJECT_OPEN: return members_complete(a, f) ? '}' : '"';
    case OBJECT_AFTER: return members_complete(a, f) ? '}' : ',';
    case OBJECT_COLON: return ':';
    case OBJECT_NEXT: return '"';
    default: return next_of_member(a, *f);
    }
}

static int next_in_array(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    if (f->state == ARRAY_START) return '[';
    return f->count >= n->min ? ']' : ',';
}

/* The tags are listed with the one that ends first. */
static int next_of_tags(const struct frame *f, const struct tags *tags)
{
    for (uint32_t i = 0; i < tags->n; i++)
        if (f->at == 0 || (f->lo >> i & 1)) return (unsigned char)tags->text[i].ptr[f->at];
    return NOTHING_LEFT;
}

static int next_in_invoke(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    struct ds4_span closer = program_tag(a->p, f->dialect, TAG_PARAMETER_END);
    struct tags tags = {.n = 0};
    bool raw = n->item_raw != NODE_NONE && node_fits(a->p, n->item_raw, f->depth + 1u);
    switch (f->state) {
    case INVOKE_NAME:
        return next_of_member(a, *f);
    case INVOKE_KIND:
        if (f->at > 9) raw = raw && (f->lo & 1);
        return (unsigned char)(raw ? " string=\"true\">" : " string=\"false\">")[f->at];
    case INVOKE_CLOSE:
        return f->at < closer.len ? (unsigned char)closer.ptr[f->at] : '\n';
    default:
        invoke_tags(a, f, &tags);
        return next_of_tags(f, &tags);
    }
}

static int next_in_calls(const struct automaton *a, const struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    uint32_t best = NODE_NONE;
    struct tags tags;
    switch (f->state) {
    case CALLS_LEAD:
        return (unsigned char)program_tag(a->p, 0, TAG_LEAD).ptr[f->at];
    case CALLS_INVOKE:
        return (unsigned char)program_tag(a->p, f->dialect, TAG_INVOKE).ptr[f->at];
    case CALLS_NAME:
        for (uint32_t i = f->at ? f->lo : 0; i < (f->at ? f->hi : n->n_entries); i++) {
            if (!node_fits(a->p, a->p->entries[n->entry + i].node, 0)) continue;
            if (best == NODE_NONE || a->p->nodes[a->p->entries[n->entry + i].node].min_bytes <
                                         a->p->nodes[a->p->entries[n->entry + best].node].min_bytes)
                best = i;
        }
        return best == NODE_NONE ? NOTHING_LEFT
                                 : (unsigned char)a->p->texts.text.ptr[a->p->entries[n->entry + best].start + f->at];
    default:
        calls_tags(a, f, &tags);
        return next_of_tags(f, &tags);
    }
}

static int next_in_text(const struct automaton *a, const struct frame *f)
{
    if (automaton_is_open(a, f)) return NOTHING_LEFT;
    int d = f->lo & 1 ? 0 : 4;
    return (unsigned char)program_tag(a->p, d, TAG_LEAD).ptr[f->at + 2];
}

static int next_byte(const struct automaton *a, const struct frame *f)
{
    switch (a->p->nodes[f->node].kind) {
    case NODE_LITERALS: return next_in_literals(a, f);
    case NODE_STRING:
    case NODE_KEY: return next_in_string(a, f);
    case NODE_PATTERN: return next_in_pattern(a, f);
    case NODE_RAW: return next_in_raw(a, f);
    case NODE_NUMBER: return next_in_number(a, f);
    case NODE_ARRAY: return next_in_array(a, f);
    case NODE_SET: return next_in_set(a, f);
    case NODE_OBJECT: return next_in_object(a, f);
    case NODE_INVOKE: return next_in_invoke(a, f);
    case NODE_CALLS: return next_in_calls(a, f);
    case NODE_TEXT: return next_in_text(a, f);
    default: return NOTHING_LEFT;
    }
}

/* ---- the whole way --------------------------------------------------------------------------------------------- */

static struct frame shortest_branch(const struct automaton *a, struct frame f)
{
    const struct gnode *n = &a->p->nodes[f.node];
    uint32_t best = NODE_NONE;
    if (n->kind != NODE_ALT) return f;
    for (uint32_t i = 0; i < n->n; i++) {
        uint32_t branch = a->p->refs[n->first + i];
        if (node_fits(a->p, branch, f.depth) &&
            (best == NODE_NONE || a->p->nodes[branch].min_bytes < a->p->nodes[best].min_bytes))
            best = branch;
    }
    return best == NODE_NONE ? f : frame_at_start(a->p, best, f.below, f.depth, f.dialect);
}

/* Where the value that comes next begins, when the frame waits for one; its shortest form is chosen here. */
static bool child_begins(struct automaton *a, struct frame *f)
{
    const struct gnode *n = &a->p->nodes[f->node];
    uint32_t child = G_NEVER;
    bool item = n->kind == NODE_ARRAY && ((f->state == ARRAY_OPEN && f->count < n->min) || f->state == ARRAY_NEXT);
    if (item) child = array_item(a, f);
    else if (n->kind == NODE_OBJECT && f->state == OBJECT_VALUE) child = f->count;
    else if (n->kind == NODE_INVOKE && f->state == INVOKE_VALUE) child = f->count;
    else if (n->kind == NODE_CALLS && f->state == CALLS_ENTER) child = f->inner;
    return child != G_NEVER;
}

static bool follow(struct automaton *a, struct frame *f, size_t limit, struct buf *out)
{
    struct stands next;
    while (a->p->nodes[f->node].kind != NODE_DONE) {
        *f = shortest_branch(a, *f);
        if (child_begins(a, f)) {
            /* Any byte makes the frame wait below its child; the child then begins anew, in its shortest form. */
            struct frame child;
            if (!automaton_push(a, f, &child)) return false;
            *f = child;
            continue;
        }
        int byte = next_byte(a, f);
        if (byte == NOTHING_LEFT) {
            if (f->below == FRAME_NONE) return automaton_may_end(a, f);
            *f = a->below[f->below];
            continue;
        }
        next.n = 0;
        automaton_feed(a, f, (unsigned char)byte, &next);
        buf_put_byte(out, (unsigned char)byte);
        if (a->failed || next.n == 0 || out->failed || out->text.len > limit) return false;
        *f = next.top[0];
    }
    return true;
}

bool automaton_complete(struct automaton *a, const struct frame *stand, size_t limit, struct buf *out)
{
    uint32_t n_below = a->n_below;
    struct frame f = *stand;
    bool complete = follow(a, &f, limit, out);
    a->n_below = n_below;
    return complete;
}
