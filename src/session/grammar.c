/* grammar.c - the grammars of ds4.h: a program, where an answer stands in it, and masks over the vocabulary.
 *
 * A mask is made by reading the tokens in the order of their bytes: what two neighbours share is read once, and a
 * beginning that is impossible takes all tokens with it out. Inside strings the plain tokens are known beforehand, so
 * only the rest is read. */
#include "base/mem.h"
#include "session/automaton_kinds.h"
#include "session/token_index.h"


struct ds4_grammar {
    const struct ds4_token_index *index;
    struct program *p;
    struct automaton a;
    struct stands s;
    bool thinking, finished;
    bool fresh;            /* only white space came since reasoning ended */
    bool must_answer;      /* free text will not do */
    struct stands *levels; /* [token_bytes_max + 1] where a token being read stands behind each byte */
    uint32_t *marks;       /* [token_bytes_max + 1] n_below there */
    uint32_t *mask, *scratch;
    uint32_t *remap;       /* for compaction */
    uint32_t cap_remap;
    struct buf way;
};

static enum ds4_status no_memory(struct ds4_error *error)
{
    return err_set(error, DS4_ERR_NOMEM, "no memory for a grammar");
}

/* ---- making ---------------------------------------------------------------------------------------------------- */

static enum ds4_status add_tools(struct program *p, const struct ds4_grammar_options *o, struct ds4_error *error)
{
    enum ds4_status status = DS4_OK;
    uint32_t *nodes = mem_alloc(o->n_tools, sizeof *nodes);
    struct buf *names = mem_zalloc(o->n_tools, sizeof *names);
    if (!nodes || !names) status = no_memory(error);
    for (size_t i = 0; i < o->n_tools && status == DS4_OK; i++)
        status = schema_compile_tool(p, o->tools[i], &nodes[i], &names[i], error);
    if (status == DS4_OK) status = program_node(p, NODE_CALLS, &p->calls, error);
    for (size_t i = 0; i < o->n_tools && status == DS4_OK; i++) {
        uint32_t start = (uint32_t)p->texts.text.len;
        if (o->tool_name.len && !span_eq(o->tool_name, buf_span(&names[i]))) continue;
        buf_put_span(&p->texts, buf_span(&names[i]));
        buf_put_text(&p->texts, "\">\n");
        status = program_entry(p, start, nodes[i], (uint32_t)i, error);
        if (p->nodes[p->calls].n_entries++ >= GRAMMAR_ENTRIES_MAX)
            status = err_set(error, DS4_ERR_LIMIT, "more than %u tools", GRAMMAR_ENTRIES_MAX);
    }
    if (status == DS4_OK) program_sort_entries(p, p->calls);
    if (status == DS4_OK && p->nodes[p->calls].n_entries == 0)
        status = err_set(error, DS4_ERR_FORMAT, "tool_choice names a tool that is not among the tools");
    for (size_t i = 0; names && i < o->n_tools; i++) buf_deinit(&names[i]);
    mem_free(names);
    mem_free(nodes);
    return status;
}

/* The answer: a value, a block of calls, either, or free text that may hold a block. */
static enum ds4_status make_root(struct program *p, const struct ds4_grammar_options *o, struct ds4_error *error)
{
    uint32_t value = NODE_NONE;
    if (o->n_tools) TRY(add_tools(p, o, error));
    if (o->tools_required && !o->n_tools)
        return err_set(error, DS4_ERR_FORMAT, "tool_choice asks for a call and there are no tools");
    if (o->schema.len && !o->tools_required) TRY(schema_compile(p, o->schema, "schema", true, &value, error));
    p->n_calls_max = o->one_call ? 1 : GRAMMAR_CALLS_MAX;
    if (value != NODE_NONE && p->calls == NODE_NONE) {
        p->root = value;
    } else if (value != NODE_NONE) {
        TRY(program_node(p, NODE_ALT, &p->root, error));
        p->nodes[p->root].n = 2;
        TRY(program_ref(p, value, error));
        TRY(program_ref(p, p->calls, error));
    } else if (o->tools_required) {
        p->root = p->calls;
    } else {
        TRY(program_node(p, NODE_TEXT, &p->root, error));
    }
    TRY(program_finish(p, error));
    uint32_t judged = value != NODE_NONE ? value : p->root;
    const struct gnode *root = &p->nodes[judged];
    if (root->min_bytes == BYTES_NEVER)
        return err_set(error, DS4_ERR_FORMAT, "schema: no value can satisfy it%s",
                       o->tools_required ? " (parameters of the tools)" : "");
    if (root->min_bytes > GRAMMAR_SHORTEST_BYTES_MAX)
        return err_set(error, DS4_ERR_LIMIT, "schema: its shortest value has more than %u bytes",
                       GRAMMAR_SHORTEST_BYTES_MAX);
    if (root->min_depth > GRAMMAR_DEPTH_MAX)
        return err_set(error, DS4_ERR_LIMIT, "schema: its shortest value is nested deeper than %u", GRAMMAR_DEPTH_MAX);
    return DS4_OK;
}

/* The memory of a grammar at the beginning of a program, of which it becomes a user. */
static enum ds4_status make_grammar(const struct ds4_token_index *index, struct program *p, struct ds4_grammar **out,
                                    struct ds4_error *error)
{
    struct ds4_grammar *g = mem_zalloc(1, sizeof *g);
    if (!g) return no_memory(error);
    (void)atomic_fetch_add(&p->n_users, 1);
    g->index = index;
    g->p = p;
    g->a.p = p;
    g->levels = mem_alloc(index->token_bytes_max + 1ull, sizeof *g->levels);
    g->marks = mem_alloc(index->token_bytes_max + 1ull, sizeof *g->marks);
    g->mask = mem_zalloc(index->n_words, sizeof *g->mask);
    g->scratch = mem_alloc(index->n_words, sizeof *g->scratch);
    *out = g;
    if (g->levels && g->marks && g->mask && g->scratch) return DS4_OK;
    ds4_grammar_destroy(g);
    return no_memory(error);
}

enum ds4_status ds4_grammar_create(const struct ds4_token_index *index, const struct ds4_grammar_options *o,
                                   struct ds4_grammar **out, struct ds4_error *error)
{
    struct program *p = program_create();
    struct ds4_grammar *g = NULL;
    if (!p) return no_memory(error);
    enum ds4_status status = make_root(p, o, error);
    if (status == DS4_OK) status = make_grammar(index, p, &g, error);
    program_release(p);
    if (status != DS4_OK) return status;
    g->thinking = o->in_thinking;
    g->fresh = true;
    g->must_answer = p->nodes[p->root].kind != NODE_TEXT;
    g->s.top[g->s.n++] = frame_at_start(p, p->root, FRAME_NONE, 0, NO_DIALECT);
    *out = g;
    return DS4_OK;
}

enum ds4_status ds4_grammar_fork(const struct ds4_grammar *from, struct ds4_grammar **out, struct ds4_error *error)
{
    struct ds4_grammar *g;
    TRY(make_grammar(from->index, from->p, &g, error));
    g->a.below = mem_alloc(from->a.n_below, sizeof *g->a.below);
    if (!g->a.below) {
        ds4_grammar_destroy(g);
        return no_memory(error);
    }
    if (from->a.n_below) memcpy(g->a.below, from->a.below, from->a.n_below * sizeof *g->a.below);
    g->a.n_below = g->a.cap_below = from->a.n_below;
    g->s = from->s;
    g->thinking = from->thinking;
    g->finished = from->finished;
    g->fresh = from->fresh;
    g->must_answer = from->must_answer;
    *out = g;
    return DS4_OK;
}

void ds4_grammar_destroy(struct ds4_grammar *g)
{
    if (!g) return;
    program_release(g->p);
    mem_free(g->a.below);
    mem_free(g->levels);
    mem_free(g->marks);
    mem_free(g->mask);
    mem_free(g->scratch);
    mem_free(g->remap);
    buf_deinit(&g->way);
    mem_free(g);
}

/* ---- masks ----------------------------------------------------------------------------------------------------- */

static void feed_all(struct automaton *a, const struct stands *from, unsigned char byte, struct stands *to)
{
    to->n = 0;
    for (uint32_t i = 0; i < from->n; i++) automaton_feed(a, &from->top[i], byte, to);
}

/* Sets the tokens from..to of a list that can follow a stand. */
static void add_range(struct ds4_grammar *g, const struct token_list *list, uint32_t from, uint32_t to,
                      const struct frame *stand)
{
    uint32_t alive = 0; /* levels[0..alive] belong to the bytes of the token before */
    bool dead = false;  /* ... and its next byte is impossible */
    g->levels[0].n = 1;
    g->levels[0].top[0] = *stand;
    g->marks[0] = g->a.n_below;
    for (uint32_t i = from; i < to && !g->a.failed;) {
        const struct index_token *t = &list->tokens[i];
        if (dead && t->same > alive) { /* the same impossible byte */
            i = alive == 0 ? list->first[(unsigned char)t->ptr[0] + 1] : i + 1;
            continue;
        }
        if (t->same < alive) alive = t->same;
        dead = false;
        g->a.n_below = g->marks[alive];
        while (alive < t->len && !dead) {
            feed_all(&g->a, &g->levels[alive], (unsigned char)t->ptr[alive], &g->levels[alive + 1]);
            dead = g->levels[alive + 1].n == 0;
            if (!dead) g->marks[++alive] = g->a.n_below;
        }
        if (!dead) mask_set(g->mask, t->id);
        i++;
    }
    g->a.n_below = g->marks[0];
}

/* Where a stand is in the middle of text of which most is plain; N_PLAIN elsewhere. */
static enum plain plain_at(const struct ds4_grammar *g, const struct frame *f)
{
    const struct gnode *n = &g->p->nodes[f->node];
    if (f->utf8 || f->match_escaped) return N_PLAIN;
    if (n->kind == NODE_RAW) return f->match && (n->min || n->max != NO_LIMIT) ? N_PLAIN : PLAIN_RAW;
    if (n->kind == NODE_KEY && n->raw) return PLAIN_NAME;
    if (f->state != STRING_INSIDE) return N_PLAIN;
    if (n->kind == NODE_KEY) return PLAIN_JSON_IN_CALL;
    if (n->kind != NODE_STRING) return N_PLAIN;
    return f->dialect == NO_DIALECT ? PLAIN_JSON : PLAIN_JSON_IN_CALL;
}

static void add_plain(struct ds4_grammar *g, const struct frame *f, enum plain plain)
{
    const struct ds4_token_index *x = g->index;
    uint32_t max = g->p->nodes[f->node].max, room = max == NO_LIMIT ? NO_LIMIT : max - f->count;
    uint32_t *mask = g->scratch;
    memcpy(mask, x->plain[plain], x->n_words * sizeof *mask);
    for (uint32_t id = 0; id < x->n_vocab && room < x->token_bytes_max; id++)
        if (x->chars[id] > room) mask[id / 32] &= ~(1u << id % 32);
    if (f->match) { /* a plain token may go on with the closing tag */
        unsigned char b = (unsigned char)program_tag(g->p, f->dialect, TAG_PARAMETER_END).ptr[f->match];
        for (uint32_t i = x->all.first[b]; i < x->all.first[b + 1]; i++)
            mask[x->all.tokens[i].id / 32] &= ~(1u << x->all.tokens[i].id % 32);
        add_range(g, &x->all, x->all.first[b], x->all.first[b + 1], f);
    }
    for (uint32_t i = 0; i < x->n_words; i++) g->mask[i] |= mask[i];
    add_range(g, &x->rest[plain], 0, x->rest[plain].n, f);
}

/* Inside a pattern its table alone says which tokens stay inside; those that may also end it are read. */
static void add_pattern(struct ds4_grammar *g, const struct frame *f)
{
    const struct gnode *n = &g->p->nodes[f->node];
    const struct pattern *t = g->p->patterns[n->first];
    const struct token_list *all = &g->index->all, *rest = &g->index->rest[n->raw ? PLAIN_RAW : PLAIN_JSON];
    uint32_t state[INDEX_TOKEN_BYTES_MAX + 1] = {f->count}, alive = 0; /* as in add_range */
    bool dead = false;
    for (uint32_t i = 0; i < all->n;) {
        const struct index_token *token = &all->tokens[i];
        if (dead && token->same > alive) {
            i = alive == 0 ? all->first[(unsigned char)token->ptr[0] + 1] : i + 1;
            continue;
        }
        if (token->same < alive) alive = token->same;
        dead = false;
        while (alive < token->len && !dead) {
            state[alive + 1] = pattern_step(t, state[alive], (unsigned char)token->ptr[alive]);
            dead = state[alive + 1] == PATTERN_DEAD;
            alive += !dead;
        }
        if (!dead) mask_set(g->mask, token->id);
        i++;
    }
    add_range(g, rest, 0, rest->n, f);
}

static void add_frame(struct ds4_grammar *g, const struct frame *f)
{
    const struct gnode *n = &g->p->nodes[f->node];
    enum plain plain = plain_at(g, f);
    bool inside = f->state == PATTERN_INSIDE || (n->raw && f->state == PATTERN_START);
    if (n->kind == NODE_PATTERN && inside) add_pattern(g, f);
    else if (plain == N_PLAIN) add_range(g, &g->index->all, 0, g->index->all.n, f);
    else add_plain(g, f, plain);
}

/* Where the name of a parameter begins: the declared ones, of which few tokens are a beginning, and any other name, of
 * which most are. */
static void add_names(struct ds4_grammar *g, const struct frame *f)
{
    const struct gnode *n = &g->p->nodes[f->node];
    struct frame declared = *f, key;
    declared.space = INVOKE_DECLARED_ONLY;
    for (uint32_t i = 0, before = 256; i < n->n_entries; i++) { /* in the order of their bytes */
        unsigned char b = (unsigned char)entry_text(g->p, &g->p->entries[n->entry + i]).ptr[0];
        if (b != before) add_range(g, &g->index->all, g->index->all.first[b], g->index->all.first[b + 1], &declared);
        before = b;
    }
    if (automaton_begin_name(&g->a, f, &key)) add_frame(g, &key);
}

/* A parameter whose value comes next may be raw text, of which most is plain: it is begun beforehand. */
static void add_stand(struct ds4_grammar *g, const struct frame *f)
{
    const struct program *p = g->p;
    uint32_t n_below = g->a.n_below;
    struct frame child;
    if (p->nodes[f->node].kind == NODE_INVOKE && f->state == INVOKE_NAME && f->at == 0) {
        add_names(g, f);
        g->a.n_below = n_below;
        return;
    }
    if (p->nodes[f->node].kind != NODE_INVOKE || f->state != INVOKE_VALUE || !automaton_push(&g->a, f, &child)) {
        add_frame(g, f);
        return;
    }
    const struct gnode *n = &p->nodes[child.node];
    if (n->kind != NODE_ALT) add_frame(g, &child);
    for (uint32_t i = 0; n->kind == NODE_ALT && i < n->n; i++) {
        struct frame branch = frame_at_start(p, p->refs[n->first + i], child.below, child.depth, child.dialect);
        add_frame(g, &branch);
    }
    g->a.n_below = n_below;
}

static bool read_token(struct ds4_grammar *g, const struct stands *from, struct ds4_span bytes, struct stands *to)
{
    struct stands next;
    *to = *from;
    for (size_t i = 0; i < bytes.len; i++) {
        feed_all(&g->a, to, (unsigned char)bytes.ptr[i], &next);
        to->n = next.n;
        memcpy(to->top, next.top, next.n * sizeof next.top[0]);
        if (next.n == 0) return false;
    }
    return to->n > 0;
}

/* The marker of tags is a control token: it may come where the syntax has it, not as text. */
static bool read_marker(struct ds4_grammar *g, const struct stands *from, struct stands *to)
{
    if (g->index->dsml < 0 || g->index->dsml_text.len == 0 || !read_token(g, from, g->index->dsml_text, to))
        return false;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < to->n; i++)
        if (!automaton_is_free(&g->a, &to->top[i])) to->top[kept++] = to->top[i];
    to->n = kept;
    return kept > 0;
}

static bool is_open(const struct ds4_grammar *g)
{
    return g->s.n == 1 && automaton_is_open(&g->a, &g->s.top[0]);
}

static bool may_end(const struct ds4_grammar *g)
{
    for (uint32_t i = 0; i < g->s.n; i++)
        if (automaton_may_end(&g->a, &g->s.top[i])) return true;
    return false;
}

enum ds4_status ds4_grammar_mask(struct ds4_grammar *g, const uint32_t **mask, struct ds4_error *error)
{
    struct stands behind;
    uint32_t n_below = g->a.n_below;
    *mask = NULL;
    if (!g->finished && (g->thinking ? !g->must_answer : is_open(g))) return DS4_OK;
    *mask = g->mask;
    memset(g->mask, g->thinking && !g->finished ? 0xFF : 0, g->index->n_words * sizeof *g->mask);
    if (g->finished) {
        mask_set(g->mask, g->index->eos);
    } else if (g->thinking) {
        g->mask[g->index->eos / 32] &= ~(1u << g->index->eos % 32);
    } else {
        for (uint32_t i = 0; i < g->s.n; i++) add_stand(g, &g->s.top[i]);
        if (may_end(g)) mask_set(g->mask, g->index->eos);
        if (read_marker(g, &g->s, &behind)) mask_set(g->mask, g->index->dsml);
        g->a.n_below = n_below;
    }
    return g->a.failed ? no_memory(error) : DS4_OK;
}

/* ---- going on -------------------------------------------------------------------------------------------------- */

/* Keeps of the frames below only those that a stand rests on. */
static void compact(struct ds4_grammar *g)
{
    struct automaton *a = &g->a;
    if (g->cap_remap < a->n_below) {
        uint32_t *grown = mem_realloc(g->remap, a->cap_below, sizeof *grown);
        if (!grown) return; /* it stays longer than it must */
        g->remap = grown;
        g->cap_remap = a->cap_below;
    }
    if (a->n_below) memset(g->remap, 0, a->n_below * sizeof *g->remap);
    for (uint32_t i = 0; i < g->s.n; i++)
        for (uint32_t at = g->s.top[i].below; at != FRAME_NONE && !g->remap[at]; at = a->below[at].below)
            g->remap[at] = 1;
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_below; i++) { /* what a frame rests on lies before it */
        if (!g->remap[i]) continue;
        struct frame f = a->below[i];
        if (f.below != FRAME_NONE) f.below = g->remap[f.below];
        uint32_t same = n > 16 ? n - 16 : 0;
        while (same < n && memcmp(&a->below[same], &f, sizeof f) != 0) same++;
        a->below[same] = f;
        g->remap[i] = same;
        if (same == n) n++;
    }
    for (uint32_t i = 0; i < g->s.n; i++)
        if (g->s.top[i].below != FRAME_NONE) g->s.top[i].below = g->remap[g->s.top[i].below];
    a->n_below = n;
}

/* Where the stands are behind a token; more of them than are kept may have crowded out the one that it needs. */
static bool step_over(struct ds4_grammar *g, int32_t id, struct ds4_span bytes, struct stands *to)
{
    struct stands one = {.n = 1};
    if (id == g->index->dsml) return read_marker(g, &g->s, to);
    if (read_token(g, &g->s, bytes, to)) return true;
    for (uint32_t i = 0; i < g->s.n && g->s.n > 1; i++) {
        one.top[0] = g->s.top[i];
        if (read_token(g, &one, bytes, to)) return true;
    }
    return false;
}

static struct ds4_span bytes_of(const struct ds4_grammar *g, int32_t id)
{
    return id == g->index->dsml ? g->index->dsml_text : index_bytes(g->index, id);
}

static enum ds4_status refuse(int32_t id, struct ds4_error *error)
{
    return err_set(error, DS4_ERR_STATE, "token %d is not possible here", id);
}

/* In free text nothing is refused: what a token makes impossible was no call. */
static void accept_open(struct ds4_grammar *g, int32_t id, struct ds4_span bytes)
{
    struct stands to;
    if (g->fresh && id == g->index->think) {
        g->thinking = true;
        return;
    }
    if (id == g->index->think_end || id == g->index->think) return;
    for (size_t i = 0; i < bytes.len; i++)
        if (!strchr(" \t\r\n", bytes.ptr[i]) || !bytes.ptr[i]) g->fresh = false;
    if (read_token(g, &g->s, bytes, &to)) {
        g->s = to;
        return;
    }
    g->s.n = 1;
    g->s.top[0] = frame_at_start(g->p, g->p->root, FRAME_NONE, 0, NO_DIALECT);
}

enum ds4_status ds4_grammar_accept(struct ds4_grammar *g, int32_t id, struct ds4_error *error)
{
    struct stands to;
    uint32_t n_below = g->a.n_below;
    if (id < 0 || (uint32_t)id >= g->index->n_vocab) return refuse(id, error);
    if (id == g->index->eos) {
        if (!g->finished && (g->thinking ? g->must_answer : !may_end(g))) return refuse(id, error);
        g->finished = true;
        return DS4_OK;
    }
    if (g->finished) return refuse(id, error);
    if (g->thinking) {
        if (id == g->index->think_end) g->thinking = false;
        return DS4_OK;
    }
    struct ds4_span bytes = bytes_of(g, id);
    if (is_open(g)) {
        accept_open(g, id, bytes);
    } else if (bytes.len && step_over(g, id, bytes, &to)) {
        g->s = to;
    } else {
        g->a.n_below = n_below;
        return g->a.failed ? no_memory(error) : refuse(id, error);
    }
    compact(g);
    return g->a.failed ? no_memory(error) : DS4_OK;
}

bool ds4_grammar_is_done(const struct ds4_grammar *g)
{
    if (g->finished) return true;
    for (uint32_t i = 0; i < g->s.n; i++)
        if (g->s.top[i].node != G_DONE) return false;
    return !g->thinking;
}

/* ---- completion ------------------------------------------------------------------------------------------------ */

/* Tokens of the way, appended to *tokens unless it is NULL; SIZE_MAX when memory ended. */
static size_t way_tokens(const struct ds4_grammar *g, struct ds4_tokens *tokens)
{
    struct ds4_span rest = buf_span(&g->way);
    size_t n = 0, len = 0;
    for (; rest.len > 0; n++) {
        bool marker = g->index->dsml >= 0 && g->index->dsml_text.len && span_starts(rest, g->index->dsml_text);
        int32_t id = marker ? g->index->dsml : index_longest(g->index, rest, &len);
        if (tokens && ds4_tokens_append(tokens, &id, 1) != DS4_OK) return SIZE_MAX;
        rest = span_skip(rest, marker ? g->index->dsml_text.len : len);
    }
    return n;
}

/* The completion of the fewest tokens of any stand, into way: so each token of a way leaves a way that is shorter by
 * one, also where the token fits several alternatives of a schema. */
static bool find_way(struct ds4_grammar *g, const struct stands *s)
{
    size_t best_n = SIZE_MAX;
    uint32_t best = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        buf_clear(&g->way);
        if (automaton_may_end(&g->a, &s->top[i])) return true;
        bool found = automaton_complete(&g->a, &s->top[i], 2 * GRAMMAR_SHORTEST_BYTES_MAX, &g->way);
        if (g->a.failed || g->way.failed) return false; /* the caller looks at them */
        if (!found) continue;
        if (s->n == 1) return true;
        size_t n = way_tokens(g, NULL);
        if (n >= best_n) continue;
        best_n = n;
        best = i;
    }
    if (best_n == SIZE_MAX) return false;
    buf_clear(&g->way);
    return automaton_complete(&g->a, &s->top[best], 2 * GRAMMAR_SHORTEST_BYTES_MAX, &g->way);
}

bool ds4_grammar_fits(struct ds4_grammar *g, int32_t id, size_t n)
{
    struct stands to;
    uint32_t n_below = g->a.n_below;
    bool fits;
    if (g->finished || id == g->index->eos || (!g->must_answer && g->thinking)) return true;
    if (is_open(g) && !g->thinking) {
        /* A block that begins must have room to end. */
        bool begins = read_token(g, &g->s, bytes_of(g, id), &to) && !automaton_is_open(&g->a, &to.top[0]);
        fits = !begins || (find_way(g, &to) && (g->way.text.len <= n || way_tokens(g, NULL) <= n));
    } else if (g->thinking && id != g->index->think_end) {
        fits = n > 0 && find_way(g, &g->s) && (g->way.text.len < n || way_tokens(g, NULL) < n);
    } else {
        bool read = g->thinking || step_over(g, id, bytes_of(g, id), &to);
        fits = read && find_way(g, g->thinking ? &g->s : &to) &&
               (g->way.text.len <= n || way_tokens(g, NULL) <= n);
    }
    g->a.n_below = n_below;
    return fits;
}

enum ds4_status ds4_grammar_close(struct ds4_grammar *g, struct ds4_tokens *tokens, struct ds4_error *error)
{
    if (g->finished || (!g->must_answer && (g->thinking || is_open(g)))) return DS4_OK;
    if (g->thinking) TRY(ds4_tokens_append(tokens, &g->index->think_end, 1));
    bool found = find_way(g, &g->s);
    if (g->a.failed || g->way.failed) return no_memory(error);
    if (!found) return err_set(error, DS4_ERR_LIMIT, "the answer has no short completion");
    return way_tokens(g, tokens) == SIZE_MAX ? no_memory(error) : DS4_OK;
}
