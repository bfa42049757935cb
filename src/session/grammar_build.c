/* grammar_build.c - the memory of a program, and what is done when all nodes are there: choices are flattened to
 * concrete nodes, and the shortest text of each node is found. See grammar_nodes.h.
 *
 * That every state of the automaton can be completed rests on what is computed here: a node without any text has
 * min_bytes BYTES_NEVER and is never entered, and one whose shortest text is nested deeper than the limit allows is
 * not entered there. */
#include "session/grammar_nodes.h"

#include <stdlib.h>

#include "base/mem.h"
#include "session/grammar_number.h"

static enum ds4_status no_memory(struct ds4_error *error)
{
    return err_set(error, DS4_ERR_NOMEM, "no memory for a grammar");
}

/* Makes room for one more of n items. */
static bool grow(void **items, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap) return true;
    uint32_t more = *cap ? *cap * 2 : 64;
    void *grown = mem_realloc(*items, more, size);
    if (!grown) return false;
    *items = grown;
    *cap = more;
    return true;
}

enum ds4_status program_node(struct program *p, enum node_kind kind, uint32_t *out, struct ds4_error *error)
{
    void *nodes = p->nodes;
    if (p->n_nodes >= GRAMMAR_NODES_MAX)
        return err_set(error, DS4_ERR_LIMIT, "a grammar of more than %u nodes", GRAMMAR_NODES_MAX);
    if (!grow(&nodes, p->n_nodes, &p->cap_nodes, sizeof *p->nodes)) return no_memory(error);
    p->nodes = nodes;
    *out = p->n_nodes++;
    p->nodes[*out] = (struct gnode){.kind = kind, .first = p->n_refs, .entry = p->n_entries, .item = NODE_NONE,
                                    .item_raw = NODE_NONE, .max = NO_LIMIT, .min_bytes = BYTES_NEVER};
    return DS4_OK;
}

enum ds4_status program_ref(struct program *p, uint32_t node, struct ds4_error *error)
{
    void *refs = p->refs;
    if (p->n_refs >= GRAMMAR_REFS_MAX)
        return err_set(error, DS4_ERR_LIMIT, "a grammar with more than %u choices", GRAMMAR_REFS_MAX);
    if (!grow(&refs, p->n_refs, &p->cap_refs, sizeof *p->refs)) return no_memory(error);
    p->refs = refs;
    p->refs[p->n_refs++] = node;
    return DS4_OK;
}

enum ds4_status program_entry(struct program *p, uint32_t start, uint32_t node, uint32_t declared,
                              struct ds4_error *error)
{
    void *entries = p->entries;
    TRY(buf_status(&p->texts, error));
    if (p->texts.text.len > UINT32_MAX / 2 || p->texts.text.len - start > GRAMMAR_LITERAL_BYTES_MAX)
        return err_set(error, DS4_ERR_LIMIT, "a literal of more than %u bytes", GRAMMAR_LITERAL_BYTES_MAX);
    if (!grow(&entries, p->n_entries, &p->cap_entries, sizeof *p->entries)) return no_memory(error);
    p->entries = entries;
    p->entries[p->n_entries++] = (struct gentry){start, (uint32_t)p->texts.text.len - start, node, declared};
    return DS4_OK;
}

enum ds4_status program_pattern(struct program *p, struct pattern *pattern, uint32_t *out, struct ds4_error *error)
{
    void *patterns = p->patterns;
    if (!grow(&patterns, p->n_patterns, &p->cap_patterns, sizeof *p->patterns)) {
        pattern_destroy(pattern);
        return no_memory(error);
    }
    p->patterns = patterns;
    *out = p->n_patterns;
    p->patterns[p->n_patterns++] = pattern;
    return DS4_OK;
}

struct sorted_entry {
    struct ds4_span text;
    struct gentry entry;
};

static int by_text(const void *left, const void *right)
{
    const struct sorted_entry *a = left, *b = right;
    size_t n = a->text.len < b->text.len ? a->text.len : b->text.len;
    int order = n ? memcmp(a->text.ptr, b->text.ptr, n) : 0;
    if (order != 0) return order;
    if (a->text.len != b->text.len) return a->text.len < b->text.len ? -1 : 1;
    return a->entry.declared < b->entry.declared ? -1 : a->entry.declared > b->entry.declared;
}

void program_sort_entries(struct program *p, uint32_t node)
{
    struct gnode *n = &p->nodes[node];
    struct gentry *entries = p->entries + n->entry;
    struct sorted_entry *sorted = mem_alloc(n->n_entries, sizeof *sorted);
    if (!sorted) {
        p->texts.failed = true;
        return;
    }
    for (uint32_t i = 0; i < n->n_entries; i++) sorted[i] = (struct sorted_entry){entry_text(p, &entries[i]),
                                                                                  entries[i]};
    qsort(sorted, n->n_entries, sizeof *sorted, by_text);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n->n_entries; i++)
        if (i == 0 || !span_eq(sorted[i].text, sorted[i - 1].text)) entries[kept++] = sorted[i].entry;
    n->n_entries = kept;
    mem_free(sorted);
}

/* ---- fixed nodes ---------------------------------------------------------------------------------------------- */

static enum ds4_status add_literal(struct program *p, uint32_t node, struct ds4_span text)
{
    uint32_t start = (uint32_t)p->texts.text.len;
    buf_put_span(&p->texts, text);
    TRY(program_entry(p, start, NODE_NONE, 0, NULL));
    p->nodes[node].n_entries++;
    return DS4_OK;
}

static enum ds4_status add_alt(struct program *p, uint32_t node, const uint32_t *branches, uint32_t n)
{
    p->nodes[node].first = p->n_refs;
    p->nodes[node].n = n;
    for (uint32_t i = 0; i < n; i++) TRY(program_ref(p, branches[i], NULL));
    return DS4_OK;
}

static enum ds4_status add_fixed(struct program *p)
{
    static const enum node_kind kinds[G_N_FIXED] = {
        [G_NEVER] = NODE_NEVER, [G_DONE] = NODE_DONE, [G_ANY] = NODE_ALT, [G_STRING] = NODE_STRING,
        [G_NUMBER] = NODE_NUMBER, [G_BOOL] = NODE_LITERALS, [G_NULL] = NODE_LITERALS, [G_ARRAY] = NODE_ARRAY,
        [G_OBJECT] = NODE_OBJECT, [G_KEY] = NODE_KEY, [G_TAG_KEY] = NODE_KEY, [G_RAW] = NODE_RAW,
        [G_ANY_BUT_STRING] = NODE_ALT};
    static const uint32_t any[] = {G_STRING, G_NUMBER, G_BOOL, G_NULL, G_ARRAY, G_OBJECT};
    uint32_t node;
    for (uint32_t i = 0; i < G_N_FIXED; i++) {
        TRY(program_node(p, kinds[i], &node, NULL));
        if (i == G_BOOL) TRY(add_literal(p, i, SPAN("false")));
        if (i == G_BOOL) TRY(add_literal(p, i, SPAN("true")));
        if (i == G_NULL) TRY(add_literal(p, i, SPAN("null")));
    }
    p->nodes[G_ARRAY].item = p->nodes[G_OBJECT].item = G_ANY;
    p->nodes[G_KEY].min = p->nodes[G_TAG_KEY].min = 1;
    p->nodes[G_TAG_KEY].max = 200; /* a tag may have 1024 bytes */
    p->nodes[G_TAG_KEY].raw = true;
    TRY(add_alt(p, G_ANY, any, 6));
    return add_alt(p, G_ANY_BUT_STRING, any + 1, 5);
}

static void fill_tags(struct program *p)
{
    static const struct {
        const char *start, *name, *end;
    } parts[N_TAGS] = {[TAG_LEAD] = {"\n\n<", NULL, ">"}, [TAG_INVOKE] = {"\n<", "invoke", " name=\""},
                       [TAG_CALLS_END] = {"\n</", NULL, ">"}, [TAG_PARAMETER] = {"<", "parameter", " name=\""},
                       [TAG_INVOKE_END] = {"</", "invoke", ">"}, [TAG_EMPTY_END] = {"\n</", "invoke", ">"},
                       [TAG_PARAMETER_END] = {"</", "parameter", ">"}};
    for (int d = 0; d < DSML_N_DIALECTS; d++)
        for (int t = 0; t < N_TAGS; t++) {
            struct ds4_span name = parts[t].name ? span_from(parts[t].name) : dsml_block_name(d);
            p->tag_len[d][t] = (uint8_t)dsml_tag_text(d, parts[t].start, name, parts[t].end, p->tags[d][t]).len;
        }
}

struct program *program_create(void)
{
    struct program *p = mem_zalloc(1, sizeof *p);
    if (!p) return NULL;
    atomic_init(&p->n_users, 1);
    p->calls = NODE_NONE;
    p->n_calls_max = GRAMMAR_CALLS_MAX;
    fill_tags(p);
    if (add_fixed(p) == DS4_OK) return p;
    program_release(p);
    return NULL;
}

void program_release(struct program *p)
{
    if (!p || atomic_fetch_sub(&p->n_users, 1) > 1) return;
    mem_free(p->nodes);
    mem_free(p->refs);
    mem_free(p->entries);
    buf_deinit(&p->texts);
    for (uint32_t i = 0; i < p->n_patterns; i++) pattern_destroy(p->patterns[i]);
    mem_free(p->patterns);
    mem_free(p);
}

/* ---- choices -------------------------------------------------------------------------------------------------- */

struct finisher {
    struct program *p;
    uint32_t *seen;     /* [n_nodes] the last choice that met a node */
    uint32_t *pending;  /* [n_nodes] nodes met and not yet opened */
    uint64_t work;
    struct ds4_error *error;
};

static enum ds4_status spend(struct finisher *f, uint64_t steps)
{
    f->work += steps;
    if (f->work <= GRAMMAR_WORK_MAX) return DS4_OK;
    return err_set(f->error, DS4_ERR_LIMIT, "a schema whose references are too entangled");
}

static bool is_choice(const struct gnode *n) { return n->kind == NODE_ALT || n->kind == NODE_ALIAS; }

/* Replaces what a choice refers to by the concrete nodes behind it, in order, each once. */
static enum ds4_status flatten(struct finisher *f, uint32_t choice)
{
    struct program *p = f->p;
    uint32_t n_pending = 0, first = p->n_refs, stamp = choice + 1;
    f->seen[choice] = stamp;
    f->pending[n_pending++] = choice;
    while (n_pending > 0) {
        uint32_t at = f->pending[--n_pending];
        if (!is_choice(&p->nodes[at])) {
            if (p->nodes[at].kind != NODE_NEVER) TRY(program_ref(p, at, f->error));
            continue;
        }
        uint32_t start = p->nodes[at].first, n = p->nodes[at].n;
        TRY(spend(f, n + 1));
        for (uint32_t i = n; i-- > 0;) {
            uint32_t branch = p->refs[start + i];
            if (f->seen[branch] == stamp) continue;
            f->seen[branch] = stamp;
            f->pending[n_pending++] = branch;
        }
    }
    struct gnode *n = &p->nodes[choice];
    n->kind = NODE_ALT;
    n->first = first;
    n->n = p->n_refs - first;
    return DS4_OK;
}

/* ---- shortest texts ------------------------------------------------------------------------------------------- */

/* More than any limit, and less than never. */
#define BYTES_HUGE (BYTES_NEVER - 1)

static uint32_t sum(uint64_t a, uint64_t b)
{
    if (a == BYTES_NEVER || b == BYTES_NEVER) return BYTES_NEVER;
    return a + b > BYTES_HUGE ? BYTES_HUGE : (uint32_t)(a + b);
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static bool is_required(const struct program *p, const struct gnode *n, uint32_t declared)
{
    return n->n_declared <= 64 ? n->required >> declared & 1 : p->refs[n->order + declared] == declared;
}

static uint32_t min_of_entries(const struct program *p, const struct gnode *n)
{
    uint32_t best = BYTES_NEVER;
    for (uint32_t i = n->entry; i < n->entry + n->n_entries; i++) {
        uint32_t node = p->entries[i].node;
        best = least(best, sum(p->entries[i].len, node == NODE_NONE ? 0 : p->nodes[node].min_bytes));
    }
    return best;
}

/* The entry of a member that makes the shortest text: in a tag, a member may be there twice, raw and as JSON. The two
 * are neighbours, because their texts differ behind the name only. */
static uint32_t best_entry(const struct program *p, const struct gnode *n, uint32_t at, uint32_t *bytes)
{
    uint32_t best = at, first = at > n->entry ? at - 1 : at, end = n->entry + n->n_entries;
    *bytes = BYTES_NEVER;
    for (uint32_t i = first; i < end && i <= at + 1; i++) {
        if (p->entries[i].declared != p->entries[at].declared) continue;
        uint32_t cost = sum(p->entries[i].len, p->nodes[p->entries[i].node].min_bytes);
        if (cost < *bytes) best = i;
        *bytes = least(*bytes, cost);
    }
    return best;
}

/* The cheapest members that make an object as large as it must be, beside those that are required: their bytes, and how
 * deep they are. */
static uint32_t min_of_extras(const struct program *p, const struct gnode *n, uint32_t *depth)
{
    uint32_t total = 0, n_required = (uint32_t)__builtin_popcountll(n->required);
    uint64_t taken = n->required;
    bool undeclared = n->item != NODE_NONE;
    if (n->kind != NODE_OBJECT || n->n_declared > 64) return 0;
    if (n->min > n->max || n_required > n->max) return BYTES_NEVER;
    for (uint32_t i = n_required; i < n->min; i++) {
        uint32_t best = undeclared ? sum(8, p->nodes[n->item].min_bytes) : BYTES_NEVER, node = n->item;
        uint64_t bit = 0;
        for (uint32_t k = n->entry; k < n->entry + n->n_entries; k++) {
            const struct gentry *e = &p->entries[k];
            uint32_t bytes = sum(e->len + 4u, p->nodes[e->node].min_bytes);
            if (taken >> e->declared & 1 || bytes >= best) continue;
            best = bytes;
            bit = 1ull << e->declared;
            node = e->node;
        }
        if (best == BYTES_NEVER) return BYTES_NEVER;
        total = sum(total, best);
        if (p->nodes[node].min_depth > *depth) *depth = p->nodes[node].min_depth;
        undeclared = undeclared && bit;
        taken |= bit;
    }
    return total;
}

static uint32_t min_of_members(const struct program *p, const struct gnode *n)
{
    uint32_t depth = 0, total = sum(2, min_of_extras(p, n, &depth)), each = n->kind == NODE_INVOKE ? 60 : 4;
    for (uint32_t i = n->entry; i < n->entry + n->n_entries; i++) {
        uint32_t bytes;
        if (!is_required(p, n, p->entries[i].declared)) continue;
        if (n->kind == NODE_OBJECT) bytes = sum(p->entries[i].len, p->nodes[p->entries[i].node].min_bytes);
        else if (best_entry(p, n, i, &bytes) != i) continue;
        total = sum(total, sum(bytes, each));
    }
    return total;
}

static uint32_t min_of_items(const struct program *p, const struct gnode *n)
{
    uint32_t total = 2;
    for (uint32_t i = 0; i < n->min && i < n->n; i++) total = sum(total, sum(p->nodes[p->refs[n->first + i]].min_bytes,
                                                                             2));
    if (n->min <= n->n) return total;
    uint64_t each = p->nodes[n->item].min_bytes, rest = n->min - n->n;
    if (each == BYTES_NEVER) return BYTES_NEVER;
    return each == BYTES_HUGE || rest * (each + 2) >= BYTES_HUGE ? BYTES_HUGE : sum(total, rest * (each + 2));
}

/* The shortest of different items, as many as there must be. */
static uint32_t min_of_set(const struct program *p, const struct gnode *n)
{
    uint32_t shortest[GRAMMAR_SET_MAX], total = 2;
    if (n->min > n->max || n->min > n->n_declared) return BYTES_NEVER;
    for (uint32_t i = 0; i < n->n_declared; i++) shortest[i] = BYTES_NEVER;
    for (uint32_t i = n->entry; i < n->entry + n->n_entries; i++)
        shortest[p->entries[i].declared] = least(shortest[p->entries[i].declared], p->entries[i].len);
    for (uint32_t k = 0; k < n->min; k++) {
        uint32_t best = k;
        for (uint32_t i = k; i < n->n_declared; i++)
            if (shortest[i] < shortest[best]) best = i;
        total = sum(total, sum(shortest[best], 2));
        shortest[best] = shortest[k];
    }
    return total;
}

static uint32_t min_of(const struct program *p, const struct gnode *n)
{
    uint32_t best = BYTES_NEVER;
    switch (n->kind) {
    case NODE_ALT:
        for (uint32_t i = 0; i < n->n; i++) best = least(best, p->nodes[p->refs[n->first + i]].min_bytes);
        return best;
    case NODE_LITERALS:
    case NODE_CALLS:
        return min_of_entries(p, n);
    case NODE_STRING:
    case NODE_KEY:
    case NODE_RAW:
        return n->min > n->max ? BYTES_NEVER : sum(2, n->min == NO_LIMIT ? BYTES_HUGE : n->min);
    case NODE_PATTERN:
        return sum(2, p->patterns[n->first]->min_bytes);
    case NODE_NUMBER:
        return number_has_none(n) ? BYTES_NEVER : 1;
    case NODE_ARRAY:
        return n->min > n->max ? BYTES_NEVER : min_of_items(p, n);
    case NODE_SET:
        return min_of_set(p, n);
    case NODE_OBJECT:
    case NODE_INVOKE:
        return min_of_members(p, n);
    case NODE_TEXT:
        return 1;
    default:
        return BYTES_NEVER;
    }
}

static uint64_t edges(const struct gnode *n) { return 1 + n->n + (n->kind == NODE_INVOKE ? 4ull : 1) * n->n_entries; }

/* The values only fall, from BYTES_NEVER on; passes go in both directions, because references do. */
static enum ds4_status find_shortest(struct finisher *f)
{
    struct program *p = f->p;
    bool changed = true;
    for (uint32_t pass = 0; changed; pass++) {
        changed = false;
        for (uint32_t i = 0; i < p->n_nodes; i++) {
            struct gnode *n = &p->nodes[pass % 2 ? i : p->n_nodes - 1 - i];
            uint32_t bytes = min_of(p, n);
            TRY(spend(f, edges(n)));
            if (bytes >= n->min_bytes) continue;
            n->min_bytes = bytes;
            changed = true;
        }
    }
    return DS4_OK;
}

/* ---- how deep they go ------------------------------------------------------------------------------------------ */

static void deepen(const struct program *p, uint32_t node, uint32_t *depth)
{
    if (node != NODE_NONE && p->nodes[node].min_depth > *depth) *depth = p->nodes[node].min_depth;
}

/* Of the shortest text: all that it consists of is shorter and known already. */
static uint32_t depth_of(const struct program *p, const struct gnode *n)
{
    uint32_t depth = 0, bytes;
    switch (n->kind) {
    case NODE_ALT:
        for (uint32_t i = 0; i < n->n; i++)
            if (p->nodes[p->refs[n->first + i]].min_bytes == n->min_bytes)
                return p->nodes[p->refs[n->first + i]].min_depth;
        return 0;
    case NODE_ARRAY:
        for (uint32_t i = 0; i < n->n && i < n->min; i++) deepen(p, p->refs[n->first + i], &depth);
        if (n->min > n->n) deepen(p, n->item, &depth);
        return depth + 1;
    case NODE_SET:
        return 1;
    case NODE_OBJECT:
        for (uint32_t i = n->entry; i < n->entry + n->n_entries; i++)
            if (is_required(p, n, p->entries[i].declared)) deepen(p, p->entries[i].node, &depth);
        (void)min_of_extras(p, n, &depth);
        return depth + 1;
    case NODE_INVOKE:
        for (uint32_t i = n->entry; i < n->entry + n->n_entries; i++)
            if (is_required(p, n, p->entries[i].declared) && best_entry(p, n, i, &bytes) == i)
                deepen(p, p->entries[i].node, &depth);
        return depth + 1;
    default:
        return 0;
    }
}

struct by_bytes {
    uint32_t bytes, node;
    bool choice;
};

static int order_by_bytes(const void *left, const void *right)
{
    const struct by_bytes *a = left, *b = right;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
    if (a->choice != b->choice) return a->choice ? 1 : -1;
    return a->node < b->node ? -1 : 1;
}

static enum ds4_status find_depths(struct program *p, struct ds4_error *error)
{
    struct by_bytes *order = mem_alloc(p->n_nodes, sizeof *order);
    if (!order) return no_memory(error);
    for (uint32_t i = 0; i < p->n_nodes; i++)
        order[i] = (struct by_bytes){p->nodes[i].min_bytes, i, is_choice(&p->nodes[i])};
    qsort(order, p->n_nodes, sizeof *order, order_by_bytes);
    for (uint32_t i = 0; i < p->n_nodes && order[i].bytes != BYTES_NEVER; i++)
        p->nodes[order[i].node].min_depth = depth_of(p, &p->nodes[order[i].node]);
    mem_free(order);
    return DS4_OK;
}

static enum ds4_status finish(struct finisher *f)
{
    struct program *p = f->p;
    for (uint32_t i = 0; i < p->n_nodes; i++)
        if (is_choice(&p->nodes[i])) TRY(flatten(f, i));
    TRY(find_shortest(f));
    return find_depths(p, f->error);
}

enum ds4_status program_finish(struct program *p, struct ds4_error *error)
{
    TRY(buf_status(&p->texts, error));
    struct finisher f = {.p = p, .error = error};
    f.seen = mem_zalloc(p->n_nodes, sizeof *f.seen);
    f.pending = mem_alloc(p->n_nodes, sizeof *f.pending);
    enum ds4_status status = f.seen && f.pending ? finish(&f) : no_memory(error);
    mem_free(f.seen);
    mem_free(f.pending);
    return status;
}
