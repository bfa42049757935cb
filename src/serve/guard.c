/* guard.c - see guard.h. The bounds of a cycle of tokens: of 10,000 samples of code and prose none may be stopped, and
 * a cycle costs at most what is spent until it is certain. */
#include "serve/guard.h"

#define SLACK_TOKENS_MAX 128

uint32_t guard_feed(struct guard *g, int32_t id)
{
    uint32_t found = 0;
    for (uint32_t p = 1; p <= GUARD_PERIOD_MAX && p <= g->n; p++) {
        if (g->last[(g->n - p) % GUARD_PERIOD_MAX] != id) {
            g->same[p] = 0;
            continue;
        }
        g->same[p]++;
        uint32_t length = g->same[p] + p;
        if (!found && length >= p * GUARD_COPIES_MIN && length >= GUARD_TOKENS_MIN) found = p;
    }
    g->last[g->n % GUARD_PERIOD_MAX] = id;
    g->n++;
    return found;
}

bool guard_ends_thinking(uint32_t budget, size_t n, struct ds4_span last)
{
    size_t slack = budget / 8 < SLACK_TOKENS_MAX ? budget / 8 : SLACK_TOKENS_MAX;
    if (n >= budget) return true;
    return n + slack >= budget && last.len && strchr(".!?\n", last.ptr[last.len - 1]);
}

/* ---- steps: the calls of an assistant message with the results that follow it ---------------------------------- */

static bool is_step(const struct ds4_message *m) { return m->role == DS4_ROLE_ASSISTANT && m->n_calls; }

/* Index of the step before position i; SIZE_MAX when there is none, or when a person spoke since. */
static size_t step_before(const struct ds4_chat *chat, size_t i)
{
    while (i > 0) {
        const struct ds4_message *m = &chat->messages[--i];
        if (is_step(m)) return i;
        if (m->role != DS4_ROLE_TOOL) return SIZE_MAX;
    }
    return SIZE_MAX;
}

static bool same_parts(const struct ds4_message *a, const struct ds4_message *b)
{
    if (a->n_parts != b->n_parts) return false;
    for (size_t i = 0; i < a->n_parts; i++)
        if (!span_eq(a->parts[i], b->parts[i])) return false;
    return true;
}

static bool same_calls(const struct ds4_message *a, const struct ds4_message *b)
{
    if (a->n_calls != b->n_calls) return false;
    for (size_t i = 0; i < a->n_calls; i++)
        if (!span_eq(a->calls[i].name, b->calls[i].name) || !span_eq(a->calls[i].arguments, b->calls[i].arguments))
            return false;
    return true;
}

/* Calls and results, one by one. */
static bool same_steps(const struct ds4_chat *chat, size_t a, size_t b)
{
    if (!same_calls(&chat->messages[a], &chat->messages[b])) return false;
    for (;;) {
        bool a_ends = ++a >= chat->n_messages || chat->messages[a].role != DS4_ROLE_TOOL;
        bool b_ends = ++b >= chat->n_messages || chat->messages[b].role != DS4_ROLE_TOOL;
        if (a_ends || b_ends) return a_ends == b_ends;
        if (!same_parts(&chat->messages[a], &chat->messages[b])) return false;
    }
}

/* Arguments come back as the client writes them: compared without white space outside strings. */
static bool same_text(struct ds4_span a, struct ds4_span b)
{
    size_t i = 0, k = 0;
    bool in_string = false;
    for (;;) {
        while (!in_string && i < a.len && (a.ptr[i] == ' ' || a.ptr[i] == '\n')) i++;
        while (!in_string && k < b.len && (b.ptr[k] == ' ' || b.ptr[k] == '\n')) k++;
        if (i == a.len || k == b.len) return i == a.len && k == b.len;
        if (a.ptr[i] != b.ptr[k]) return false;
        if (a.ptr[i] == '"') in_string = !in_string;
        if (in_string && a.ptr[i] == '\\' && i + 1 < a.len && k + 1 < b.len && a.ptr[i + 1] == b.ptr[k + 1]) i++, k++;
        i++, k++;
    }
}

static bool is_again(const struct ds4_message *m, const struct answer_call *calls, size_t n_calls)
{
    if (m->n_calls != n_calls) return false;
    for (size_t i = 0; i < n_calls; i++)
        if (!span_eq(m->calls[i].name, buf_span(&calls[i].name)) ||
            !same_text(m->calls[i].arguments, buf_span(&calls[i].arguments)))
            return false;
    return true;
}

size_t guard_step_copies(const struct ds4_chat *chat, const struct answer_call *calls, size_t n_calls)
{
    size_t steps[GUARD_STEPS_MAX * GUARD_STEP_COPIES_MIN], n = 0, most = 1;
    size_t at = chat->n_messages;
    while (n < sizeof steps / sizeof steps[0] && (at = step_before(chat, at)) != SIZE_MAX) steps[n++] = at;
    for (size_t period = 1; period <= GUARD_STEPS_MAX && period <= n; period++) {
        if (calls && !is_again(&chat->messages[steps[period - 1]], calls, n_calls)) continue;
        size_t same = 0;
        while (same + period < n && same_steps(chat, steps[same], steps[same + period])) same++;
        size_t copies = 1 + (same + period) / period;
        if (copies > most) most = copies;
    }
    return most;
}
