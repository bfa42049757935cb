/* pattern.c - the text of a pattern to nodes. See pattern.h, pattern_nodes.h. The nodes of a group or a repeated piece
 * are neighbours, so that a piece is repeated by copying them. No recursion: open groups are a stack. */
#include "session/pattern_nodes.h"

#include "base/mem.h"
#include "base/utf8.h"

#define CODE_MAX 0x10FFFFu
#define RANGES_MAX 512u

struct range {
    uint32_t lo, hi;
};
struct set { /* of characters: ranges in any order */
    struct range ranges[RANGES_MAX];
    uint32_t n;
};

struct group {
    uint32_t first;       /* its nodes begin here */
    uint32_t start, last_branch, end;
    uint32_t before;      /* the node that leads to it */
};

struct parser {
    struct pattern_net *net;
    struct ds4_span text;
    size_t at;
    struct group groups[PATTERN_GROUPS_MAX];
    uint32_t n_groups;
    uint32_t here;        /* the end of what was read; a leads nowhere yet */
    uint32_t atom_first, atom_start, atom_before; /* of what was read last; NOWHERE: it cannot be repeated */
    struct set set;
};

static enum ds4_status say(struct parser *p, enum ds4_status status, const char *why)
{
    p->net->why = why;
    return status;
}

static enum ds4_status add(struct parser *p, struct pnode node, uint32_t *out)
{
    struct pattern_net *net = p->net;
    if (net->n == PATTERN_NODES_MAX) return say(p, DS4_ERR_LIMIT, "too long when its repetitions are written out");
    if (net->n == net->cap) {
        uint32_t cap = net->cap ? net->cap * 2 : 256;
        struct pnode *grown = mem_realloc(net->nodes, cap, sizeof *grown);
        if (!grown) return say(p, DS4_ERR_NOMEM, "no memory for a pattern");
        net->nodes = grown;
        net->cap = cap;
    }
    net->nodes[net->n] = node;
    *out = net->n++;
    return DS4_OK;
}

static enum ds4_status add_ways(struct parser *p, uint32_t a, uint32_t b, uint32_t *out)
{
    return add(p, (struct pnode){.kind = PNODE_WAYS, .a = a, .b = b}, out);
}

/* ---- characters ------------------------------------------------------------------------------------------------ */

static enum ds4_status put_range(struct parser *p, uint32_t lo, uint32_t hi)
{
    if (p->set.n == RANGES_MAX) return say(p, DS4_ERR_LIMIT, "a class has too many ranges");
    p->set.ranges[p->set.n++] = (struct range){lo, hi};
    return DS4_OK;
}

/* All characters that are not in the set. */
static enum ds4_status negate(struct parser *p)
{
    struct set old = p->set;
    uint32_t next = 0;
    p->set.n = 0;
    while (next <= CODE_MAX) {
        uint32_t until = CODE_MAX + 1, skip = 0;
        for (uint32_t i = 0; i < old.n; i++) {
            if (old.ranges[i].lo <= next && old.ranges[i].hi >= next && old.ranges[i].hi + 1 > skip)
                skip = old.ranges[i].hi + 1;
            if (old.ranges[i].lo > next && old.ranges[i].lo < until) until = old.ranges[i].lo;
        }
        if (!skip) TRY(put_range(p, next, until - 1));
        next = skip ? skip : until;
    }
    return DS4_OK;
}

/* A sequence of byte ranges from here to `to`. */
static enum ds4_status put_bytes(struct parser *p, uint32_t from, const struct range *bytes, uint32_t n, uint32_t to)
{
    uint32_t node, first = NOWHERE, last = NOWHERE;
    for (uint32_t i = 0; i < n; i++) {
        TRY(add(p, (struct pnode){.kind = PNODE_BYTES, .lo = (uint8_t)bytes[i].lo, .hi = (uint8_t)bytes[i].hi,
                                  .inside = i > 0, .a = to, .b = NOWHERE}, &node));
        if (first == NOWHERE) first = node;
        else p->net->nodes[last].a = node;
        last = node;
    }
    /* Ways fork two by two: `from` keeps its first free one for the next sequence. */
    uint32_t fork;
    TRY(add_ways(p, first, NOWHERE, &fork));
    while (p->net->nodes[from].b != NOWHERE) from = p->net->nodes[from].b;
    p->net->nodes[from].b = fork;
    return DS4_OK;
}

/* The UTF-8 of lo..hi, of which all have n bytes: cut where not every last byte is there. */
static enum ds4_status put_utf8(struct parser *p, uint32_t from, uint32_t lo, uint32_t hi, uint32_t n, uint32_t to)
{
    static const uint8_t leads[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    while (lo <= hi) {
        uint32_t end = hi;
        for (uint32_t i = 1; i < n; i++) { /* bits that the last i bytes carry */
            uint32_t mask = (1u << 6 * i) - 1;
            if ((lo & ~mask) == (end & ~mask)) continue;
            if (lo & mask) end = lo | mask;
            else if ((end & mask) != mask) end = (end & ~mask) - 1;
        }
        struct range bytes[4];
        for (uint32_t i = 0; i < n; i++) {
            uint32_t shift = 6 * (n - 1 - i), lead = i == 0 ? leads[n] : 0x80;
            uint32_t bits = i ? 0x3F : 0xFF;
            bytes[i] = (struct range){lead | (lo >> shift & bits), lead | (end >> shift & bits)};
        }
        TRY(put_bytes(p, from, bytes, n, to));
        lo = end + 1;
    }
    return DS4_OK;
}

/* How a character below 0x80 is written, if at all: 0, 1 or 2 bytes. */
static uint32_t written(enum pattern_place place, uint32_t c, struct range bytes[2])
{
    static const char from[] = "\"\\\b\t\n\f\r", to[] = "\"\\btnfr";
    const char *special = c ? strchr(from, (int)c) : NULL;
    bytes[0] = bytes[1] = (struct range){c, c};
    if (place != PATTERN_JSON && c == '<') return 0;
    if (place == PATTERN_RAW) return c >= 0x20 || c == '\t' || c == '\n' ? 1 : 0;
    if (!special) return c >= 0x20 ? 1 : 0;
    bytes[0] = (struct range){'\\', '\\'};
    bytes[1] = (struct range){(unsigned char)to[special - from], (unsigned char)to[special - from]};
    return 2;
}

static enum ds4_status put_ascii(struct parser *p, uint32_t from, uint32_t lo, uint32_t hi, uint32_t to)
{
    struct range bytes[2];
    for (uint32_t c = lo; c <= hi; c++) {
        uint32_t n = written(p->net->place, c, bytes);
        if (n != 1) {
            if (n == 2) TRY(put_bytes(p, from, bytes, 2, to));
            continue;
        }
        uint32_t first = c;
        struct range next[2];
        while (c < hi && written(p->net->place, c + 1, next) == 1) c++;
        TRY(put_bytes(p, from, &(struct range){first, c}, 1, to));
    }
    return DS4_OK;
}

/* Goes on by one character of the set. */
static enum ds4_status put_set(struct parser *p)
{
    static const struct range lengths[] = {{0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, CODE_MAX}};
    static const uint32_t n_bytes[] = {2, 3, 3, 4};
    uint32_t start, end;
    p->atom_before = p->here;
    p->atom_first = p->net->n;
    TRY(add_ways(p, NOWHERE, NOWHERE, &start));
    TRY(add_ways(p, NOWHERE, NOWHERE, &end));
    p->net->nodes[p->here].a = p->atom_start = start;
    for (uint32_t i = 0; i < p->set.n; i++) {
        struct range r = p->set.ranges[i];
        if (r.lo < 0x80) TRY(put_ascii(p, start, r.lo, r.hi < 0x7F ? r.hi : 0x7F, end));
        for (size_t k = 0; k < 4; k++) {
            uint32_t lo = r.lo > lengths[k].lo ? r.lo : lengths[k].lo, hi = r.hi < lengths[k].hi ? r.hi : lengths[k].hi;
            if (lo <= hi) TRY(put_utf8(p, start, lo, hi, n_bytes[k], end));
        }
    }
    p->here = end;
    return DS4_OK;
}

/* ---- escapes and classes --------------------------------------------------------------------------------------- */

static int peek(const struct parser *p) { return p->at < p->text.len ? (unsigned char)p->text.ptr[p->at] : -1; }

static bool take(struct parser *p, const char *text)
{
    if (!span_starts(span_skip(p->text, p->at), span_from(text))) return false;
    p->at += strlen(text);
    return true;
}

/* One character of the text, which is valid UTF-8. */
static uint32_t take_char(struct parser *p)
{
    unsigned char c = (unsigned char)p->text.ptr[p->at++];
    uint32_t code = c < 0x80 ? c : c < 0xE0 ? c & 0x1Fu : c < 0xF0 ? c & 0xFu : c & 7u;
    while (p->at < p->text.len && ((unsigned char)p->text.ptr[p->at] & 0xC0) == 0x80)
        code = code << 6 | ((unsigned char)p->text.ptr[p->at++] & 0x3Fu);
    return code;
}

static bool take_hex(struct parser *p, uint32_t n, uint32_t *out)
{
    *out = 0;
    for (uint32_t i = 0; i < n; i++, p->at++) {
        int c = peek(p), low = c | 32;
        if (c >= '0' && c <= '9') *out = *out << 4 | (uint32_t)(c - '0');
        else if (low >= 'a' && low <= 'f') *out = *out << 4 | (uint32_t)(low - 'a' + 10);
        else return false;
    }
    return true;
}

static enum ds4_status put_class_letter(struct parser *p, int letter)
{
    static const struct range digits[] = {{'0', '9'}}, words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
        spaces[] = {{9, 13}, {32, 32}, {0xA0, 0xA0}, {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                    {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
    int low = letter | 32;
    const struct range *r = low == 'd' ? digits : low == 'w' ? words : spaces;
    size_t n = low == 'd' ? 1 : low == 'w' ? 4 : 10;
    struct set kept = p->set;
    if (letter != low) p->set.n = 0;
    for (size_t i = 0; i < n; i++) TRY(put_range(p, r[i].lo, r[i].hi));
    if (letter == low) return DS4_OK;
    TRY(negate(p));
    for (uint32_t i = 0; i < kept.n; i++) TRY(put_range(p, kept.ranges[i].lo, kept.ranges[i].hi));
    return DS4_OK;
}

/* What a backslash begins: a class, which goes into the set (*one false), or one character. */
static enum ds4_status take_escape(struct parser *p, bool in_class, bool *one, uint32_t *code)
{
    static const char letters[] = "tnvfr0", meant[] = "\t\n\v\f\r";
    int c = peek(p);
    *one = true;
    if (c <= 0) return say(p, DS4_ERR_FORMAT, "it ends in a backslash");
    const char *letter = strchr(letters, c);
    if (strchr("dDwWsS", c)) {
        *one = false;
        p->at++;
        return put_class_letter(p, c);
    }
    if (letter) {
        p->at++;
        *code = (unsigned char)meant[letter - letters];
        if (c == '0' && peek(p) >= '0' && peek(p) <= '9') return say(p, DS4_ERR_UNSUPPORTED, "octal escapes");
        return DS4_OK;
    }
    if (in_class && c == 'b') {
        p->at++;
        *code = '\b';
        return DS4_OK;
    }
    if (c == 'x' || c == 'u') {
        bool braces = ++p->at < p->text.len && c == 'u' && peek(p) == '{';
        size_t end = braces ? span_find(p->text, SPAN("}"), p->at) : 0;
        if (braces) p->at++;
        uint32_t n = c == 'x' ? 2 : 4;
        if (braces) n = end != SIZE_MAX && end - p->at <= 6 ? (uint32_t)(end - p->at) : 0;
        bool good = n > 0 && take_hex(p, n, code);
        if (braces && good) p->at++;
        if (!good || *code > CODE_MAX || (*code >= 0xD800 && *code < 0xE000))
            return say(p, DS4_ERR_UNSUPPORTED, "an escape that is no character");
        return DS4_OK;
    }
    if (c < 0x80 && ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z')))
        return say(p, DS4_ERR_UNSUPPORTED, c >= '0' && c <= '9' ? "references to groups" : "this escape");
    *code = take_char(p);
    return DS4_OK;
}

/* Behind "[". */
static enum ds4_status read_class(struct parser *p)
{
    bool negative = take(p, "^");
    p->set.n = 0;
    while (peek(p) != ']') {
        uint32_t lo, hi;
        bool one = true;
        if (peek(p) < 0) return say(p, DS4_ERR_FORMAT, "a class has no end");
        if (take(p, "\\")) TRY(take_escape(p, true, &one, &lo));
        else lo = take_char(p);
        if (!one) continue;
        hi = lo;
        if (peek(p) == '-' && p->at + 1 < p->text.len && p->text.ptr[p->at + 1] != ']') {
            p->at++;
            if (take(p, "\\")) TRY(take_escape(p, true, &one, &hi));
            else hi = take_char(p);
            if (!one || hi < lo) return say(p, DS4_ERR_FORMAT, "a class has a range that is none");
        }
        TRY(put_range(p, lo, hi));
    }
    p->at++;
    if (negative) TRY(negate(p));
    return put_set(p);
}

/* ---- groups and repetitions ------------------------------------------------------------------------------------ */

static enum ds4_status open_group(struct parser *p)
{
    struct group g = {.first = p->net->n, .before = p->here};
    if (p->n_groups == PATTERN_GROUPS_MAX) return say(p, DS4_ERR_LIMIT, "groups are too deep inside each other");
    TRY(add_ways(p, NOWHERE, NOWHERE, &g.start));
    TRY(add_ways(p, NOWHERE, NOWHERE, &g.end));
    TRY(add_ways(p, NOWHERE, NOWHERE, &p->here));
    p->net->nodes[g.start].a = p->here;
    if (g.before != NOWHERE) p->net->nodes[g.before].a = g.start;
    g.last_branch = g.start;
    p->groups[p->n_groups++] = g;
    p->atom_start = NOWHERE;
    return DS4_OK;
}

static enum ds4_status next_branch(struct parser *p)
{
    struct group *g = &p->groups[p->n_groups - 1];
    uint32_t branch;
    p->net->nodes[p->here].a = g->end;
    TRY(add_ways(p, NOWHERE, NOWHERE, &branch));
    TRY(add_ways(p, NOWHERE, NOWHERE, &p->here));
    p->net->nodes[branch].a = p->here;
    p->net->nodes[g->last_branch].b = branch;
    g->last_branch = branch;
    p->atom_start = NOWHERE;
    return DS4_OK;
}

static void close_group(struct parser *p)
{
    const struct group *g = &p->groups[--p->n_groups];
    p->net->nodes[p->here].a = g->end;
    p->here = g->end;
    p->atom_first = g->first;
    p->atom_start = g->start;
    p->atom_before = g->before;
}

/* A second piece like the nodes first..end, whose last node is `last`; *start and *out are its own. */
static enum ds4_status copy_piece(struct parser *p, uint32_t first, uint32_t end, uint32_t *start, uint32_t *last)
{
    uint32_t shift = p->net->n - first;
    for (uint32_t i = first, at; i < end; i++) {
        struct pnode node = p->net->nodes[i];
        if (node.a != NOWHERE && node.kind != PNODE_FOUND) node.a += shift;
        if (node.b != NOWHERE) node.b += shift;
        TRY(add(p, node, &at));
    }
    *start += shift;
    *last += shift;
    return DS4_OK;
}

/* The piece read last, min to max times (max PATTERN_NO_LIMIT: any number). */
static enum ds4_status repeat(struct parser *p, uint32_t min, uint32_t max)
{
    uint32_t first = p->atom_first, end = p->net->n, start0 = p->atom_start, last0 = p->here;
    uint32_t before = p->atom_before, out, n = max == PATTERN_NO_LIMIT ? (min ? min : 1) : max;
    if (start0 == NOWHERE) return say(p, DS4_ERR_FORMAT, "there is nothing to repeat");
    /* Copies first: a piece that is linked cannot be copied any more. The space for `n` copies is behind each other. */
    for (uint32_t i = 1; i < n; i++) {
        uint32_t start = start0, last = last0;
        TRY(copy_piece(p, first, end, &start, &last));
    }
    TRY(add_ways(p, NOWHERE, NOWHERE, &out));
    uint32_t size = end - first, from = before;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t start = start0 + i * size, last = last0 + i * size, fork = start;
        if (i >= min) TRY(add_ways(p, start, out, &fork));
        p->net->nodes[from].a = fork;
        from = last;
        if (i + 1 == n && max == PATTERN_NO_LIMIT) {
            TRY(add_ways(p, start, out, &fork));
            p->net->nodes[last].a = fork;
            from = NOWHERE;
        }
    }
    if (from != NOWHERE) p->net->nodes[from].a = out;
    p->here = out;
    p->atom_start = NOWHERE;
    return DS4_OK;
}

static bool take_count(struct parser *p, uint32_t *out)
{
    size_t from = p->at;
    for (*out = 0; peek(p) >= '0' && peek(p) <= '9' && p->at < from + 6; p->at++)
        *out = *out * 10 + (uint32_t)(peek(p) - '0');
    return p->at > from;
}

/* A repetition behind an atom, if there is one. */
static enum ds4_status read_repeat(struct parser *p)
{
    size_t from = p->at;
    uint32_t min = 0, max = PATTERN_NO_LIMIT;
    bool any = true;
    if (take(p, "*")) min = 0;
    else if (take(p, "+")) min = 1;
    else if (take(p, "?")) max = 1;
    else if (take(p, "{")) {
        any = take_count(p, &min);
        if (any && !take(p, ",")) max = min;
        else if (any && peek(p) != '}') any = take_count(p, &max);
        any = any && take(p, "}");
        if (any && max < min) return say(p, DS4_ERR_FORMAT, "a repetition has no number");
        if (any && (min > PATTERN_REPEAT_MAX || (max != PATTERN_NO_LIMIT && max > PATTERN_REPEAT_MAX)))
            return say(p, DS4_ERR_LIMIT, "a piece is repeated too often");
    } else {
        return DS4_OK;
    }
    if (!any) {
        p->at = from; /* a brace that is a character */
        return DS4_OK;
    }
    (void)take(p, "?"); /* says in which order to look, not what is found */
    return repeat(p, min, max);
}

/* ---- one pattern ------------------------------------------------------------------------------------------------ */

static enum ds4_status put_assertion(struct parser *p, enum pnode_kind kind)
{
    uint32_t node, next;
    TRY(add(p, (struct pnode){.kind = (uint8_t)kind, .a = NOWHERE, .b = NOWHERE}, &node));
    TRY(add_ways(p, NOWHERE, NOWHERE, &next));
    p->net->nodes[p->here].a = node;
    p->net->nodes[node].a = next;
    p->here = next;
    p->atom_start = NOWHERE;
    return DS4_OK;
}

static enum ds4_status read_group_opener(struct parser *p)
{
    if (take(p, "?")) {
        bool named = peek(p) == '<' && p->at + 1 < p->text.len && !strchr("=!", p->text.ptr[p->at + 1]);
        size_t end = named ? span_find(p->text, SPAN(">"), p->at) : SIZE_MAX;
        if (named && end != SIZE_MAX) p->at = end + 1;
        else if (!take(p, ":"))
            return say(p, DS4_ERR_UNSUPPORTED, "assertions but ^ and $, and lookahead at its beginning");
    }
    return open_group(p);
}

static enum ds4_status read_atom(struct parser *p)
{
    uint32_t code = 0;
    bool one = true;
    if (take(p, "^")) return put_assertion(p, PNODE_BEGIN);
    if (take(p, "$")) return put_assertion(p, PNODE_END);
    if (take(p, "|")) return next_branch(p);
    if (take(p, "(")) return read_group_opener(p);
    if (take(p, ")")) {
        if (p->n_groups == 1) return say(p, DS4_ERR_FORMAT, "a group ends that never began");
        close_group(p);
        return read_repeat(p);
    }
    if (peek(p) > 0 && strchr("*+?", peek(p))) return say(p, DS4_ERR_FORMAT, "there is nothing to repeat");
    p->set.n = 0;
    if (take(p, ".")) {
        TRY(put_range(p, '\n', '\n'));
        TRY(put_range(p, '\r', '\r'));
        TRY(put_range(p, 0x2028, 0x2029));
        TRY(negate(p));
        TRY(put_set(p));
    } else if (take(p, "[")) {
        TRY(read_class(p));
    } else {
        if (take(p, "\\")) TRY(take_escape(p, false, &one, &code));
        else code = take_char(p);
        if (one) TRY(put_range(p, code, code));
        TRY(put_set(p));
    }
    return read_repeat(p);
}

/* A node that goes round through any character, and on to `on`. */
static enum ds4_status put_anything(struct parser *p, uint32_t on, uint32_t *out)
{
    uint32_t loop, back;
    TRY(add_ways(p, NOWHERE, on, &loop));
    TRY(add_ways(p, NOWHERE, NOWHERE, &p->here));
    back = p->here;
    p->set.n = 0;
    TRY(put_range(p, 0, CODE_MAX));
    TRY(put_set(p));
    p->net->nodes[p->here].a = loop;
    p->net->nodes[loop].a = back;
    *out = loop;
    return DS4_OK;
}

/* One part: search, the pattern, anything behind it. anchored: it begins where the text does. */
static enum ds4_status read_part(struct pattern_net *net, struct ds4_span text, bool anchored, bool negative)
{
    struct parser *p = mem_zalloc(1, sizeof *p);
    uint32_t found, rest, number = net->n_parts;
    if (!p || net->n_parts == PATTERN_PARTS_MAX) {
        net->why = p ? "it has too many parts" : "no memory for a pattern";
        mem_free(p);
        return net->n_parts == PATTERN_PARTS_MAX ? DS4_ERR_LIMIT : DS4_ERR_NOMEM;
    }
    p->net = net;
    p->text = text;
    p->here = NOWHERE;
    enum ds4_status status = add(p, (struct pnode){.kind = PNODE_FOUND, .a = number, .b = NOWHERE}, &found);
    if (status == DS4_OK) status = put_anything(p, found, &rest);
    p->here = NOWHERE;
    if (status == DS4_OK) status = open_group(p);
    uint32_t start = p->groups[0].start;
    while (status == DS4_OK && p->at < p->text.len) status = read_atom(p);
    if (status == DS4_OK && p->n_groups != 1) status = say(p, DS4_ERR_FORMAT, "a group has no end");
    if (status == DS4_OK) {
        close_group(p);
        net->nodes[p->here].a = rest;
        net->parts[net->n_parts++] = (struct part){start, negative};
        if (!anchored) status = put_anything(p, start, &net->parts[number].start);
    }
    mem_free(p);
    return status;
}

/* Where the byte first stands outside of classes and of all groups (a bracket that closes the last of them counts as
 * outside); SIZE_MAX: nowhere. */
static size_t find_outside(struct ds4_span text, char wanted)
{
    size_t depth = 0;
    bool in_class = false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == ')') depth -= !in_class && depth > 0;
        if (c == '\\') i++;
        else if (in_class) in_class = c != ']';
        else if (c == '[') in_class = true;
        else if (c == '(') depth++;
        else if (c == wanted && depth == 0) return i;
    }
    return SIZE_MAX;
}

/* Bytes of a group from its opening bracket to the closing one; 0: it has none. */
static size_t group_len(struct ds4_span text) { return find_outside(text, ')') + 1; }

/* A bar outside of all groups: then what stands in front holds for the first alternative only. */
static bool has_branches(struct ds4_span text) { return find_outside(text, '|') != SIZE_MAX; }

enum ds4_status pattern_parse(struct pattern_net *net, struct ds4_span source)
{
    bool anchored = source.len > 0 && source.ptr[0] == '^' && !has_branches(source);
    net->why = "it is longer than a pattern may be";
    if (source.len > PATTERN_BYTES_MAX) return DS4_ERR_LIMIT;
    if (!utf8_valid(source)) return DS4_ERR_FORMAT;
    if (anchored) source = span_skip(source, 1);
    while (anchored && (span_starts(source, SPAN("(?!")) || span_starts(source, SPAN("(?=")))) {
        size_t len = group_len(source);
        net->why = "a group has no end";
        if (!len) return DS4_ERR_FORMAT;
        TRY(read_part(net, span_make(source.ptr + 3, len - 4), true, source.ptr[2] == '!'));
        source = span_skip(source, len);
    }
    return read_part(net, source, anchored, false);
}
