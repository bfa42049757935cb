/* pattern_table.c - the nodes of a pattern made deterministic. See pattern.h, pattern_nodes.h.
 *
 * A state of the table is the set of nodes that the bytes read so far can have led to, and, where lengths are bounded,
 * the number of characters. Sets are sorted lists, found again by a hash. */
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "session/pattern_nodes.h"

#define FOUND_SLOTS (1u << 14)
_Static_assert(FOUND_SLOTS > 2 * PATTERN_STATES_MAX, "a hash table has room");

struct state {
    uint32_t first, n;     /* its nodes in the pool */
    uint32_t count;        /* characters, at most count_max */
    bool ends;
};

struct maker {
    struct pattern_net net;
    uint32_t min_chars, max_chars, count_max;
    struct pattern *table;
    struct state *states;
    uint32_t n_states, cap_states;
    uint32_t *pool;
    size_t n_pool, cap_pool;
    uint32_t *found;       /* hash table of state + 1 */
    uint32_t cap_found;
    uint32_t *seen;        /* [nodes] the number of the walk that met a node */
    uint32_t *stack;       /* [nodes] */
    uint32_t *set;         /* [nodes] */
    uint32_t n_set, walk;
    uint32_t parts_found;  /* bits */
    uint8_t bytes[256];    /* one byte of each class */
    uint64_t work;
};

static enum ds4_status too_large(struct maker *m)
{
    m->net.why = "too large, with the lengths asked for";
    return DS4_ERR_LIMIT;
}

static enum ds4_status no_memory(struct maker *m)
{
    m->net.why = "no memory for a pattern";
    return DS4_ERR_NOMEM;
}

/* ---- sets of nodes --------------------------------------------------------------------------------------------- */

/* Follows what costs nothing, from a node into the set at hand. */
static void follow(struct maker *m, uint32_t node, bool begin, bool end)
{
    uint32_t n = 0;
    m->stack[n++] = node;
    while (n > 0) {
        uint32_t at = m->stack[--n];
        if (at == NOWHERE || m->seen[at] == m->walk) continue;
        const struct pnode *p = &m->net.nodes[at];
        m->seen[at] = m->walk;
        m->work++;
        if (p->kind == PNODE_FOUND) m->parts_found |= 1u << p->a;
        if (p->kind == PNODE_BYTES || p->kind == PNODE_END) m->set[m->n_set++] = at;
        bool on = p->kind == PNODE_WAYS || (p->kind == PNODE_BEGIN && begin) || (p->kind == PNODE_END && end);
        if (!on) continue;
        if (p->b != NOWHERE) m->stack[n++] = p->b;
        if (p->a != NOWHERE) m->stack[n++] = p->a;
    }
}

/* Each node is met once a walk and has two ways on: the stack needs no more than twice the nodes. */
static void begin_walk(struct maker *m)
{
    m->walk++;
    m->n_set = 0;
    m->parts_found = 0;
}

/* Whether the text may end in the state at hand, with what costs nothing at the end. */
static bool may_end(struct maker *m, bool begin)
{
    uint32_t n = m->n_set, parts = m->parts_found;
    for (uint32_t i = 0; i < n; i++)
        if (m->net.nodes[m->set[i]].kind == PNODE_END) follow(m, m->net.nodes[m->set[i]].a, begin, true);
    m->n_set = n;
    uint32_t there = m->parts_found;
    m->parts_found = parts;
    for (uint32_t i = 0; i < m->net.n_parts; i++)
        if ((there >> i & 1) == m->net.parts[i].negative) return false;
    return true;
}

/* A part that must not be found and is: nothing helps any more. */
static bool is_lost(const struct maker *m)
{
    for (uint32_t i = 0; i < m->net.n_parts; i++)
        if (m->net.parts[i].negative && (m->parts_found >> i & 1)) return true;
    return false;
}

static int by_number(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return a < b ? -1 : a > b;
}

static bool grow(void **items, size_t n, size_t *cap, size_t size)
{
    if (n <= *cap) return true;
    size_t more = *cap ? *cap * 2 : 1024;
    while (more < n) more *= 2;
    void *grown = mem_realloc(*items, more, size);
    if (!grown) return false;
    *items = grown;
    *cap = more;
    return true;
}

static uint64_t hash_of(const uint32_t *nodes, uint32_t n, uint32_t count)
{
    uint64_t h = 0x9E3779B97F4A7C15u + count;
    for (uint32_t i = 0; i < n; i++) h = (h ^ nodes[i]) * 0x100000001B3u;
    return h ^ h >> 29;
}

static enum ds4_status put_state(struct maker *m, uint32_t count, bool ends, uint32_t *out)
{
    void *states = m->states, *pool = m->pool;
    size_t cap = m->cap_states;
    if (m->n_states == PATTERN_STATES_MAX || (m->n_states + 1) * m->table->n_classes > PATTERN_CELLS_MAX)
        return too_large(m);
    bool room = grow(&states, m->n_states + 1u, &cap, sizeof *m->states);
    m->states = states;
    m->cap_states = (uint32_t)cap;
    room = room && grow(&pool, m->n_pool + m->n_set, &m->cap_pool, sizeof *m->pool);
    m->pool = pool;
    if (!room) return no_memory(m);
    if (m->n_set) memcpy(m->pool + m->n_pool, m->set, m->n_set * sizeof *m->set);
    m->states[m->n_states] = (struct state){(uint32_t)m->n_pool, m->n_set, count, ends};
    m->n_pool += m->n_set;
    *out = m->n_states++;
    return DS4_OK;
}

/* The state of the set at hand; PATTERN_DEAD: there is no way on. */
static enum ds4_status find_state(struct maker *m, uint32_t count, bool begin, uint32_t *out)
{
    *out = PATTERN_DEAD;
    if (m->n_set == 0 && m->parts_found == 0) return DS4_OK;
    if (is_lost(m)) return DS4_OK;
    bool ends = may_end(m, begin) && count >= m->min_chars;
    for (uint32_t i = 0; i < m->n_set; i++) ends = ends && !m->net.nodes[m->set[i]].inside;
    qsort(m->set, m->n_set, sizeof *m->set, by_number);
    m->work += m->n_set * 8u;
    uint64_t slot = hash_of(m->set, m->n_set, count);
    for (; m->found[slot & (m->cap_found - 1)]; slot++) {
        uint32_t i = m->found[slot & (m->cap_found - 1)] - 1;
        const struct state *s = &m->states[i];
        m->work += s->n;
        if (s->n != m->n_set || s->count != count || s->ends != ends ||
            (s->n && memcmp(m->pool + s->first, m->set, s->n * sizeof *m->set) != 0))
            continue;
        *out = i;
        return DS4_OK;
    }
    TRY(put_state(m, count, ends, out));
    m->found[slot & (m->cap_found - 1)] = *out + 1;
    return DS4_OK;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static void find_classes(struct maker *m)
{
    bool edge[257] = {[0] = true};
    struct pattern *t = m->table;
    for (uint32_t i = 0; i < m->net.n; i++) {
        if (m->net.nodes[i].kind != PNODE_BYTES) continue;
        edge[m->net.nodes[i].lo] = true;
        edge[m->net.nodes[i].hi + 1] = true;
    }
    for (uint32_t c = 0; c < 256; c++) {
        if (edge[c]) m->bytes[t->n_classes++] = (uint8_t)c;
        t->class_of[c] = (uint8_t)(t->n_classes - 1);
        if (c == '0' || c == 'a') m->bytes[t->n_classes - 1] = (uint8_t)c; /* what a completion should look like */
    }
}

/* Where a state goes with the bytes of a class. */
static enum ds4_status step(struct maker *m, uint32_t from, uint32_t class, uint32_t *out)
{
    uint32_t count = m->states[from].count, byte = m->bytes[class];
    bool first = false;
    begin_walk(m);
    for (uint32_t i = 0; i < m->states[from].n; i++) {
        const struct pnode *p = &m->net.nodes[m->pool[m->states[from].first + i]];
        m->work++;
        if (p->kind != PNODE_BYTES || byte < p->lo || byte > p->hi) continue;
        first = first || !p->inside;
        follow(m, p->a, false, false);
    }
    if (m->work > PATTERN_WORK_MAX) return too_large(m);
    *out = PATTERN_DEAD;
    if (m->n_set == 0 && m->parts_found == 0) return DS4_OK;
    if (first && count == m->max_chars) return DS4_OK;
    if (first && count < m->count_max) count++;
    return find_state(m, count, false, out);
}

static enum ds4_status fill(struct maker *m)
{
    uint32_t state, n_classes = m->table->n_classes;
    size_t cap = 0;
    begin_walk(m);
    for (uint32_t i = 0; i < m->net.n_parts; i++) follow(m, m->net.parts[i].start, true, false);
    TRY(find_state(m, 0, true, &state));
    for (uint32_t i = 0; i < m->n_states; i++) {
        void *next = m->table->next;
        bool room = grow(&next, (size_t)(i + 1) * n_classes, &cap, sizeof *m->table->next);
        m->table->next = next;
        if (!room) return no_memory(m);
        for (uint32_t class = 0; class < n_classes; class++) {
            TRY(step(m, i, class, &state));
            m->table->next[i * n_classes + class] = (uint16_t)state;
        }
    }
    return DS4_OK;
}

/* Distances to an end in bytes; ways on from where there is none are taken out. */
static enum ds4_status prune(struct maker *m)
{
    struct pattern *t = m->table;
    uint32_t *far = mem_alloc(m->n_states + 1u, sizeof *far);
    t->n_states = m->n_states;
    t->way = mem_zalloc(m->n_states + 1u, 1);
    t->ends = mem_zalloc(m->n_states + 1u, 1);
    if (!far || !t->way || !t->ends) {
        mem_free(far);
        return no_memory(m);
    }
    for (uint32_t i = 0; i < m->n_states; i++) {
        t->ends[i] = m->states[i].ends;
        far[i] = t->ends[i] ? 0 : PATTERN_NO_LIMIT;
    }
    for (bool changed = true; changed && m->work <= PATTERN_WORK_MAX;) {
        changed = false;
        for (uint32_t i = m->n_states; i-- > 0;)
            for (uint32_t c = 0; c < t->n_classes; c++) {
                uint32_t next = t->next[i * t->n_classes + c];
                m->work++;
                if (next == PATTERN_DEAD || far[next] == PATTERN_NO_LIMIT || far[next] + 1 >= far[i]) continue;
                far[i] = far[next] + 1;
                t->way[i] = m->bytes[c];
                changed = true;
            }
    }
    for (uint32_t i = 0; i < m->n_states * t->n_classes; i++)
        if (t->next[i] != PATTERN_DEAD && far[t->next[i]] == PATTERN_NO_LIMIT) t->next[i] = PATTERN_DEAD;
    t->min_bytes = m->n_states ? far[0] : PATTERN_NO_LIMIT;
    mem_free(far);
    return m->work > PATTERN_WORK_MAX ? too_large(m) : DS4_OK;
}

static enum ds4_status make(struct maker *m, const struct pattern_options *o)
{
    for (int i = 0; i < 2; i++)
        if (o->source[i].ptr) TRY(pattern_parse(&m->net, o->source[i]));
    m->cap_found = FOUND_SLOTS;
    m->table = mem_zalloc(1, sizeof *m->table);
    m->found = mem_zalloc(m->cap_found, sizeof *m->found);
    m->seen = mem_zalloc(m->net.n, sizeof *m->seen);
    m->stack = mem_alloc(2ull * m->net.n + 2, sizeof *m->stack);
    m->set = mem_alloc(2ull * m->net.n + 2, sizeof *m->set);
    if (!m->table || !m->found || !m->seen || !m->stack || !m->set) return no_memory(m);
    find_classes(m);
    TRY(fill(m));
    TRY(prune(m));
    m->net.why = "no text matches it here";
    return m->table->min_bytes == PATTERN_NO_LIMIT ? DS4_ERR_UNSUPPORTED : DS4_OK;
}

enum ds4_status pattern_compile(const struct pattern_options *options, struct pattern **out, const char **why,
                                uint64_t *work)
{
    struct maker m = {.net = {.place = options->place}, .min_chars = options->min_chars,
                      .max_chars = options->max_chars};
    m.count_max = m.max_chars != PATTERN_NO_LIMIT ? m.max_chars : m.min_chars;
    enum ds4_status status = make(&m, options);
    *why = m.net.why;
    *work += m.work + m.net.n;
    if (status == DS4_OK) *out = m.table;
    else pattern_destroy(m.table);
    mem_free(m.net.nodes);
    mem_free(m.states);
    mem_free(m.pool);
    mem_free(m.found);
    mem_free(m.seen);
    mem_free(m.stack);
    mem_free(m.set);
    return status;
}

void pattern_destroy(struct pattern *p)
{
    if (!p) return;
    mem_free(p->next);
    mem_free(p->way);
    mem_free(p->ends);
    mem_free(p);
}

/* ---- formats ---------------------------------------------------------------------------------------------------- */

#define DAY "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))"
#define DATE "\\d{4}-" DAY
#define CLOCK "(?:[01]\\d|2[0-3]):[0-5]\\d"
#define TIME CLOCK ":[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-]" CLOCK ")"
#define OCTET "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
#define HOST LABEL "(?:\\." LABEL ")*"

/* What RFC 3339, 4122, 5321, 1123, 2673, 4291 and 3986 call so, narrowed where that is simpler: no 29th of February,
 * no long labels of hosts, no quoted mailboxes, no addresses with "::", no references without a scheme. */
struct ds4_span pattern_of_format(struct ds4_span format)
{
    static const struct {
        const char *name, *pattern;
    } known[] = {
        {"date", "^" DATE "$"}, {"time", "^" TIME "$"}, {"date-time", "^" DATE "T" TIME "$"},
        {"duration", "^P(?:\\d{1,9}W|(?:\\d{1,9}Y(?:\\d{1,9}M(?:\\d{1,9}D)?)?|\\d{1,9}M(?:\\d{1,9}D)?|\\d{1,9}D)"
                     "(?:T\\d{1,9}H)?|T\\d{1,9}H(?:\\d{1,9}M(?:\\d{1,9}S)?)?|T\\d{1,9}M(?:\\d{1,9}S)?|T\\d{1,9}S)$"},
        {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"},
        {"email", "^[A-Za-z0-9_+-]{1,20}(?:\\.[A-Za-z0-9_+-]{1,20}){0,2}@(?:" LABEL "\\.){1,4}[A-Za-z]{2,24}$"},
        {"hostname", "^" HOST "$"}, {"ipv4", "^" OCTET "(?:\\." OCTET "){3}$"},
        {"ipv6", "^[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){7}$"},
        {"uri", "^[A-Za-z][A-Za-z0-9+.-]*://" HOST "(?::\\d{1,5})?(?:/[A-Za-z0-9._~!$&'()*+,;=:@/-]*)?"
                "(?:\\?[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?(?:#[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?$"}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (span_eq(format, span_from(known[i].name))) return span_from(known[i].pattern);
    return (struct ds4_span){0};
}
