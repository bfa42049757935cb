/* live.c - sessions in memory for more conversations than there is memory for. See ds4.h.
 *
 * A prompt is served by the idle session that it continues. When it branches off a session - a side question, a title,
 * an edited turn - and there is room, that one is kept and a fork goes on: immutable spans are shared, so a fork costs
 * its ring only.
 * Room is made by moving the idle session worth least to the store. */
#include <math.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

#define HALF_LIFE_S (30.0 * 60) /* a use counts half after this long: memory is for what is going on now */
#define SESSIONS_MAX 64u

struct live_session {
    struct ds4_session *session;
    bool busy;
    uint64_t last_use_s, n_uses;
};

struct ds4_live {
    struct ds4_engine *engine;
    struct ds4_store *store; /* may be NULL */
    struct ds4_live_options options;
    struct live_session sessions[SESSIONS_MAX];
    uint32_t n;
    struct ds4_live_stats stats;
};

enum ds4_status ds4_live_create(struct ds4_engine *engine, struct ds4_store *store,
                                const struct ds4_live_options *options, struct ds4_live **out,
                                struct ds4_error *error)
{
    struct ds4_live *live = mem_zalloc(1, sizeof *live);
    if (!live) return err_set(error, DS4_ERR_NOMEM, "no memory for live sessions");
    live->engine = engine;
    live->store = store;
    live->options = *options;
    uint32_t most = ds4_engine_info(engine)->n_sessions_max;
    if (most == 0) most = 1;
    if (most > SESSIONS_MAX) most = SESSIONS_MAX;
    if (live->options.n_sessions == 0 || live->options.n_sessions > most) live->options.n_sessions = most;
    *out = live;
    return DS4_OK;
}

static void drop(struct ds4_live *live, uint32_t i)
{
    ds4_session_destroy(live->sessions[i].session);
    live->sessions[i] = live->sessions[--live->n];
}

void ds4_live_destroy(struct ds4_live *live)
{
    if (!live) return;
    while (live->n) {
        ensure(!live->sessions[live->n - 1].busy);
        ds4_store_save(live->store, live->sessions[live->n - 1].session, DS4_SAVE_SHUTDOWN, NULL);
        drop(live, live->n - 1);
    }
    mem_free(live);
}

/* Spans of session i that no session in [0, end) but itself holds. */
static size_t own_spans(const struct ds4_live *live, uint32_t i, uint32_t end)
{
    size_t n = ds4_session_spans(live->sessions[i].session), own = n;
    for (size_t k = 0; k < n; k++) {
        for (uint32_t other = 0; other < end; other++) {
            if (other == i ||
                !ds4_session_span_is_shared(live->sessions[other].session, live->sessions[i].session, k))
                continue;
            own--;
            break;
        }
    }
    return own;
}

static uint64_t bytes_of(const struct ds4_live *live, size_t n_spans)
{
    return ds4_engine_info(live->engine)->state_bytes_fixed + n_spans * ds4_state_layout(live->engine)->span_bytes;
}

/* Each span is counted with the first session that holds it. */
static uint64_t total_bytes(const struct ds4_live *live)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < live->n; i++) bytes += bytes_of(live, own_spans(live, i, i));
    return bytes;
}

/* Index of the idle session whose loss costs least per byte it frees: tokens to compute again, weighed by recency and
 * use. UINT32_MAX: none. keep: not this one. */
static uint32_t least_valuable(const struct ds4_live *live, const struct ds4_session *keep)
{
    uint32_t worst = UINT32_MAX;
    double least = 0;
    uint64_t now = clock_unix_s();
    for (uint32_t i = 0; i < live->n; i++) {
        const struct live_session *its = &live->sessions[i];
        if (its->busy || its->session == keep) continue;
        size_t own = own_spans(live, i, live->n);
        double tokens = (double)own * ds4_state_layout(live->engine)->span_tokens + 1;
        double age = now > its->last_use_s ? (double)(now - its->last_use_s) : 0;
        double value = (1.0 + (double)its->n_uses) * exp2(-age / HALF_LIFE_S) * tokens / (double)bytes_of(live, own);
        if (worst != UINT32_MAX && value >= least) continue;
        worst = i;
        least = value;
    }
    return worst;
}

static bool evict_one(struct ds4_live *live, const struct ds4_session *keep)
{
    uint32_t i = least_valuable(live, keep);
    if (i == UINT32_MAX) return false;
    ds4_store_save(live->store, live->sessions[i].session, DS4_SAVE_EVICT, NULL);
    drop(live, i);
    live->stats.n_evicted++;
    return true;
}

/* Tokens of the prompt that the session has, and that it would keep. */
static size_t usable(const struct ds4_session *session, const int32_t *ids, size_t n, bool *continues)
{
    size_t held, same = 0;
    const int32_t *own = ds4_session_tokens(session, &held);
    while (same < held && same < n && own[same] == ids[same]) same++;
    *continues = same == held;
    return same < held && same < ds4_session_rewind_min(session) ? 0 : same;
}

static void add(struct ds4_live *live, struct ds4_session *session)
{
    live->sessions[live->n++] = (struct live_session){.session = session};
}

static void take(struct ds4_live *live, uint32_t i, struct ds4_session **out)
{
    live->sessions[i].busy = true;
    live->sessions[i].last_use_s = clock_unix_s();
    live->sessions[i].n_uses++;
    *out = live->sessions[i].session;
}

static uint32_t place_of(const struct ds4_live *live, const struct ds4_session *session)
{
    uint32_t i = 0;
    while (i < live->n && live->sessions[i].session != session) i++;
    return i;
}

/* Room for one more session. */
static bool make_place(struct ds4_live *live, const struct ds4_session *keep)
{
    return live->n < live->options.n_sessions || evict_one(live, keep);
}

enum ds4_status ds4_live_acquire(struct ds4_live *live, const int32_t *tokens, size_t n, struct ds4_session **out,
                                 struct ds4_error *error)
{
    uint32_t best = UINT32_MAX;
    size_t most = 0;
    bool best_continues = false;
    *out = NULL;
    for (uint32_t i = 0; i < live->n; i++) {
        bool continues;
        size_t same = usable(live->sessions[i].session, tokens, n, &continues);
        bool better = same > most || (same == most && same > 0 && continues && !live->sessions[i].busy);
        if (!better) continue;
        best = i;
        most = same;
        best_continues = continues && !live->sessions[i].busy;
    }
    if (best_continues) {
        live->stats.n_continued++;
        take(live, best, out);
        return DS4_OK;
    }
    struct ds4_session *from = best == UINT32_MAX ? NULL : live->sessions[best].session, *made = NULL;
    if (from && !live->sessions[best].busy && live->n == live->options.n_sessions) {
        /* A branch costs at most the few tokens that a session can go back: no other conversation leaves for it. */
        ds4_store_save(live->store, from, DS4_SAVE_TURN, NULL);
        live->stats.n_continued++;
        take(live, best, out);
        return DS4_OK;
    }
    if (!make_place(live, from)) return err_set(error, DS4_ERR_LIMIT, "all %u sessions are in use", live->n);
    enum ds4_status status = from ? ds4_session_fork(from, &made, NULL) : ds4_session_create(live->engine, &made, NULL);
    while (status == DS4_ERR_LIMIT && evict_one(live, from)) /* the engine has less room than was planned */
        status = from ? ds4_session_fork(from, &made, NULL) : ds4_session_create(live->engine, &made, NULL);
    if (status != DS4_OK) return err_set(error, status, "no room for another session");
    *(from ? &live->stats.n_forked : &live->stats.n_fresh) += 1;
    add(live, made);
    take(live, live->n - 1, out);
    return DS4_OK;
}

void ds4_live_release(struct ds4_live *live, struct ds4_session *session, bool keep)
{
    uint32_t i = place_of(live, session);
    ensure(i < live->n && live->sessions[i].busy);
    live->sessions[i].busy = false;
    live->sessions[i].last_use_s = clock_unix_s();
    size_t n;
    (void)ds4_session_tokens(session, &n);
    if (!keep || n == 0) drop(live, i);
    while (live->options.budget_bytes && total_bytes(live) > live->options.budget_bytes && evict_one(live, NULL)) {
    }
}

void ds4_live_stats(const struct ds4_live *live, struct ds4_live_stats *out)
{
    *out = live->stats;
    out->n_sessions = live->n;
    out->n_busy = 0;
    for (uint32_t i = 0; i < live->n; i++) out->n_busy += live->sessions[i].busy;
    out->bytes = total_bytes(live);
}
