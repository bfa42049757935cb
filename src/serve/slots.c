/* slots.c - see slots.h. */
#include "serve/slots.h"

#include "base/clock.h"

size_t slot_held(const struct slot *s)
{
    size_t n;
    (void)ds4_session_tokens(s->session, &n);
    return n;
}

static size_t shared(const struct slot *s, const struct ds4_tokens *prompt)
{
    size_t n, same = 0;
    const int32_t *held = ds4_session_tokens(s->session, &n);
    while (same < n && same < prompt->n && held[same] == prompt->ids[same]) same++;
    return same;
}

size_t slot_usable(const struct slot *s, const struct ds4_tokens *prompt)
{
    size_t same = shared(s, prompt);
    return same < slot_held(s) && same < ds4_session_rewind_min(s->session) ? 0 : same;
}

static bool is_free(const struct slot *s) { return !s->job || s->left_ns; }

/* Tokens that the slot has, or will have when its prompt is computed. */
static size_t size_of(const struct slot *s)
{
    size_t held = slot_held(s);
    return s->job && s->job->prompt.n > held ? s->job->prompt.n : held;
}

static bool is_long(const struct slot *s) { return size_of(s) > SLOT_SIDE_TOKENS; }

/* The free slot, long or short, that was used longest ago; empty ones first, those at work for nobody last. */
static struct slot *oldest(struct slots *slots, bool is_long_one)
{
    struct slot *best = NULL;
    for (size_t i = 0; i < slots->n; i++) {
        struct slot *s = &slots->items[i];
        if (!is_free(s) || is_long(s) != is_long_one) continue;
        bool empty = size_of(s) == 0, better = !best || (empty && size_of(best));
        if (best && !better && (empty || size_of(best))) /* of one kind */
            better = s->left_ns == best->left_ns ? s->used_ns < best->used_ns : s->left_ns < best->left_ns;
        if (better) best = s;
    }
    return best;
}

static size_t count_long(const struct slots *slots)
{
    size_t n = 0;
    for (size_t i = 0; i < slots->n; i++) n += is_long(&slots->items[i]);
    return n;
}

static struct slot *best_match(struct slots *slots, const struct ds4_tokens *prompt)
{
    struct slot *best = NULL;
    size_t most = 0;
    for (size_t i = 0; i < slots->n; i++) {
        struct slot *s = &slots->items[i];
        size_t n = is_free(s) ? slot_usable(s, prompt) : 0;
        if (n < most || n == 0 || (n == most && best && !best->left_ns)) continue;
        best = s;
        most = n;
    }
    return best;
}

struct slot *slots_choose(struct slots *slots, const struct ds4_tokens *prompt)
{
    bool long_prompt = prompt->n > SLOT_SIDE_TOKENS;
    size_t n_long = count_long(slots);
    struct slot *match = best_match(slots, prompt);
    if (match && (!long_prompt || is_long(match) || n_long + 1 < slots->n)) return match;
    struct slot *old_long = oldest(slots, true), *old_short = oldest(slots, false);
    if (long_prompt) return n_long + 1 < slots->n && old_short ? old_short : old_long;
    if (old_short) return old_short;
    bool forgotten = old_long && clock_seconds_since(old_long->used_ns) > SLOT_IDLE_SECONDS;
    return forgotten || n_long == slots->n ? old_long : NULL;
}

size_t slots_mismatch(const struct slots *slots, const struct ds4_tokens *prompt)
{
    size_t most = 0, at = ANSWER_NO_MISMATCH;
    bool first = true;
    for (size_t i = 0; i < slots->n; i++) {
        const struct slot *s = &slots->items[i];
        size_t same = shared(s, prompt), held = slot_held(s);
        bool leaves = same < held && same < prompt->n;
        if (held == 0 || (!first && (same < most || (same == most && leaves)))) continue;
        first = false;
        most = same;
        at = leaves ? same : ANSWER_NO_MISMATCH;
    }
    return at;
}

void slots_put(struct buf *out, struct slots *slots, uint32_t ctx_tokens)
{
    buf_put_text(out, "[");
    for (size_t i = 0; i < slots->n; i++) {
        struct slot *s = &slots->items[i];
        buf_printf(out, "%s{\"id\":%zu,\"n_ctx\":%u,\"is_processing\":%s,", i ? "," : "", i, ctx_tokens,
                   atomic_load(&s->shown_busy) ? "true" : "false");
        buf_printf(out, "\"n_past\":%zu,\"cached\":%zu}", atomic_load(&s->shown_held), atomic_load(&s->shown_reused));
    }
    buf_put_text(out, "]");
}
