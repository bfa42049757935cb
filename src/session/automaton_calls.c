/* automaton_calls.c - frames of tool calls: raw text, one call, a block of calls, and the free text before it. See
 * automaton_kinds.h; the markup is drawn in text/dsml.h.
 *
 * The tags are written in one form, with the line breaks that the model was trained on. Which of the dialects is for
 * the opener to say; from there on the block keeps it. */
#include "session/automaton_kinds.h"

/* ---- tags ------------------------------------------------------------------------------------------------------ */

/* Takes a byte of one of several tags. Returns the meaning of the tag that is complete with it; -1: none yet; -2: it
 * belongs to none. */
static int step_tags(struct frame *f, const struct tags *tags, unsigned char c)
{
    uint32_t possible = f->at == 0 ? 7 : f->lo, left = 0;
    for (uint32_t i = 0; i < tags->n; i++)
        if ((possible >> i & 1) && f->at < tags->text[i].len && (unsigned char)tags->text[i].ptr[f->at] == c)
            left |= 1u << i;
    if (!left) return -2;
    f->at++;
    f->lo = (uint16_t)left;
    for (uint32_t i = 0; i < tags->n; i++) {
        if (!(left >> i & 1) || tags->text[i].len != f->at) continue;
        f->at = f->lo = 0;
        return tags->meaning[i];
    }
    return -1;
}

static void put_tag(struct tags *out, struct ds4_span text, uint8_t meaning)
{
    out->text[out->n] = text;
    out->meaning[out->n++] = meaning;
}

void invoke_tags(const struct automaton *a, const struct frame *f, struct tags *out)
{
    out->n = 0;
    if (members_complete(a, f)) {
        put_tag(out, program_tag(a->p, f->dialect, TAG_INVOKE_END), TAG_INVOKE_END);
        if (f->state == INVOKE_START) put_tag(out, program_tag(a->p, f->dialect, TAG_EMPTY_END), TAG_EMPTY_END);
    }
    if (member_possible(a, f)) put_tag(out, program_tag(a->p, f->dialect, TAG_PARAMETER), TAG_PARAMETER);
}

void calls_tags(const struct automaton *a, const struct frame *f, struct tags *out)
{
    out->n = 0;
    put_tag(out, program_tag(a->p, f->dialect, TAG_CALLS_END), TAG_CALLS_END);
    if (f->count < a->p->n_calls_max) put_tag(out, program_tag(a->p, f->dialect, TAG_INVOKE), TAG_INVOKE);
}

/* ---- raw text of a parameter ----------------------------------------------------------------------------------- */

uint32_t closer_chars(const struct program *p, const struct frame *f, uint32_t n)
{
    struct ds4_span closer = program_tag(p, f->dialect, TAG_PARAMETER_END);
    uint32_t chars = 0;
    for (uint32_t i = 0; i < n; i++) chars += ((unsigned char)closer.ptr[i] & 0xC0) != 0x80;
    return chars;
}

/* In text with limits the escaped closing tag does not come: it stands for fewer characters than it has. */
static bool ends_escaped(struct step *s, struct ds4_span closer)
{
    struct frame *f = s->f;
    if (s->n->min == 0 && s->n->max == NO_LIMIT) return false;
    struct ds4_span escape = SPAN("&lt;");
    char want = f->match_escaped < 4 ? escape.ptr[f->match_escaped] : closer.ptr[f->match_escaped - 3];
    if (s->c == (unsigned char)want) return (size_t)++f->match_escaped == closer.len + 3;
    f->match_escaped = s->c == '&';
    return false;
}

/* What may be the closing tag counts as text only once it proves not to be. It may begin when the text is long enough
 * to end, or while there is room to take it as text. */
enum move step_raw(struct step *s)
{
    struct frame *f = s->f;
    const struct gnode *n = s->n;
    struct ds4_span closer = program_tag(s->p, f->dialect, TAG_PARAMETER_END);
    bool starts = f->utf8 == 0;
    f->state = 1;
    f->utf8 = utf8_want(f->utf8, s->c);
    if (f->utf8 == UTF8_WANT_BAD || ends_escaped(s, closer)) return MOVE_NONE;
    if (s->c == (unsigned char)closer.ptr[f->match]) {
        uint32_t chars = closer_chars(s->p, f, ++f->match);
        if ((size_t)f->match == closer.len) return f->count >= n->min ? MOVE_ENDS : MOVE_NONE;
        return f->count >= n->min || f->count + chars <= n->max ? MOVE_STAY : MOVE_NONE;
    }
    uint32_t count = f->count + closer_chars(s->p, f, f->match);
    bool opens = s->c == '<';
    if (!opens) count += starts;
    if (count > n->max || (opens && count < n->min && count >= n->max)) return MOVE_NONE;
    f->count = n->max == NO_LIMIT && count > n->min ? n->min : count;
    f->match = opens;
    return MOVE_STAY;
}

/* ---- one call -------------------------------------------------------------------------------------------------- */

static enum move step_name(struct step *s)
{
    struct frame *f = s->f;
    if (f->at == 0) {
        s->fork_below = *f;
        s->fork_below.state = INVOKE_KIND;
        s->fork_child = G_TAG_KEY;
        s->forks = f->space != INVOKE_DECLARED_ONLY &&
                   ((s->n->item != NODE_NONE && node_fits(s->p, s->n->item, f->depth + 1u)) ||
                    (s->n->item_raw != NODE_NONE && node_fits(s->p, s->n->item_raw, f->depth + 1u)));
        f->space = 0;
        f->lo = 0;
        f->hi = (uint16_t)s->n->n_entries;
    }
    if (!entries_narrow(s->p, s->n, f, s->c) || !any_allowed(s->a, f)) return MOVE_NONE;
    if (!entry_is_whole(s->p, s->n, f)) return MOVE_STAY;
    const struct gentry *e = &s->p->entries[s->n->entry + f->lo];
    struct ds4_span text = entry_text(s->p, e);
    f->match = text.ptr[text.len - 4] == 'u'; /* true"> and not false"> */
    member_take(s->a, f, e);
    f->state = INVOKE_VALUE;
    return MOVE_STAY;
}

static enum move step_kind(struct step *s)
{
    struct frame *f = s->f;
    struct tags tags = {.n = 0};
    if (s->n->item_raw != NODE_NONE && node_fits(s->p, s->n->item_raw, f->depth + 1u))
        put_tag(&tags, SPAN(" string=\"true\">"), 1);
    if (s->n->item != NODE_NONE && node_fits(s->p, s->n->item, f->depth + 1u))
        put_tag(&tags, SPAN(" string=\"false\">"), 0);
    int raw = step_tags(f, &tags, s->c);
    if (raw < 0) return raw == -1 ? MOVE_STAY : MOVE_NONE;
    f->match = raw == 1;
    f->count = raw ? s->n->item_raw : s->n->item;
    f->state = INVOKE_VALUE;
    return MOVE_STAY;
}

enum move step_invoke(struct step *s)
{
    struct frame *f = s->f;
    struct ds4_span closer = program_tag(s->p, f->dialect, TAG_PARAMETER_END);
    struct tags tags;
    switch (f->state) {
    case INVOKE_NAME:
        return step_name(s);
    case INVOKE_KIND:
        return step_kind(s);
    case INVOKE_VALUE:
        s->child = f->count;
        s->child_depth = (uint8_t)(f->depth + 1);
        f->state = INVOKE_CLOSE;
        f->at = f->match ? (uint16_t)closer.len : 0; /* raw text takes its closing tag itself */
        f->count = f->match = 0;
        return MOVE_CHILD;
    case INVOKE_CLOSE:
        if (s->c != (f->at < closer.len ? (unsigned char)closer.ptr[f->at] : '\n')) return MOVE_NONE;
        if (f->at++ == closer.len) {
            f->state = INVOKE_OPEN;
            f->at = 0;
        }
        return MOVE_STAY;
    default:
        invoke_tags(s->a, f, &tags);
        switch (step_tags(f, &tags, s->c)) {
        case -1: return MOVE_STAY;
        case -2: return MOVE_NONE;
        case TAG_PARAMETER:
            f->state = INVOKE_NAME;
            return MOVE_STAY;
        default: return MOVE_ENDS;
        }
    }
}

/* ---- a block of calls ------------------------------------------------------------------------------------------ */

static bool a_tool_fits(const struct step *s)
{
    for (uint32_t i = s->f->lo; i < s->f->hi; i++)
        if (node_fits(s->p, s->p->entries[s->n->entry + i].node, 0)) return true;
    return false;
}

static enum move step_one_tag(struct step *s, enum grammar_tag tag, uint8_t next)
{
    struct ds4_span text = program_tag(s->p, s->f->dialect, tag);
    if (s->c != (unsigned char)text.ptr[s->f->at]) return MOVE_NONE;
    if (++s->f->at < text.len) return MOVE_STAY;
    s->f->state = next;
    s->f->at = 0;
    return MOVE_STAY;
}

enum move step_calls(struct step *s)
{
    struct frame *f = s->f;
    struct tags tags;
    switch (f->state) {
    case CALLS_LEAD:
        f->dialect = 0;
        return step_one_tag(s, TAG_LEAD, CALLS_INVOKE);
    case CALLS_INVOKE:
        return step_one_tag(s, TAG_INVOKE, CALLS_NAME);
    case CALLS_NAME:
        if (f->at == 0) {
            f->lo = 0;
            f->hi = (uint16_t)s->n->n_entries;
        }
        if (!entries_narrow(s->p, s->n, f, s->c) || !a_tool_fits(s)) return MOVE_NONE;
        if (!entry_is_whole(s->p, s->n, f)) return MOVE_STAY;
        f->inner = s->p->entries[s->n->entry + f->lo].node;
        f->lo = f->hi = f->at = 0;
        f->count++;
        f->state = CALLS_ENTER;
        return MOVE_STAY;
    case CALLS_ENTER:
        s->child = f->inner;
        f->inner = 0;
        f->state = CALLS_AFTER;
        return MOVE_CHILD;
    default:
        calls_tags(s->a, f, &tags);
        switch (step_tags(f, &tags, s->c)) {
        case -1: return MOVE_STAY;
        case -2: return MOVE_NONE;
        case TAG_INVOKE:
            f->state = CALLS_NAME;
            return MOVE_STAY;
        default: return MOVE_ENDS;
        }
    }
}

/* ---- free text ------------------------------------------------------------------------------------------------- */

/* at, lo: bytes of an opener that stand at the end, and the dialects that it may still become. Once the marker that
 * only markup has was written, the opener must be completed. */
enum move step_text(struct step *s)
{
    struct frame *f = s->f;
    uint32_t left = 0;
    for (int d = 0; d < DSML_N_DIALECTS; d++) {
        struct ds4_span opener = span_skip(program_tag(s->p, d, TAG_LEAD), 2);
        if ((f->at > 0 && !(f->lo >> d & 1)) || (unsigned char)opener.ptr[f->at] != s->c) continue;
        left |= 1u << d;
        if (f->at + 1u < opener.len) continue;
        *f = (struct frame){.node = s->p->calls, .below = f->below, .state = CALLS_INVOKE, .dialect = (uint8_t)d};
        return MOVE_STAY;
    }
    if (left) {
        f->at++;
        f->lo = (uint16_t)left;
        return MOVE_STAY;
    }
    if (!automaton_is_open(s->a, f)) return MOVE_NONE;
    f->at = s->c == '<';
    f->lo = f->at ? (1u << DSML_N_DIALECTS) - 1 : 0;
    return MOVE_STAY;
}

bool automaton_is_open(const struct automaton *a, const struct frame *f)
{
    if (a->p->nodes[f->node].kind != NODE_TEXT) return false;
    struct ds4_span opener = span_skip(program_tag(a->p, 0, TAG_LEAD), 2);
    return f->at == 0 || !dsml_is_marked(span_make(opener.ptr, f->at)) || !(f->lo & 17);
}
