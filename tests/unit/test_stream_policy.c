/* test_stream_policy.c - what the expert cache keeps: a simulator over routing traces runs the table of slots as the
 * pool does, without bytes, against LRU and against the best that is possible when the future is known. */
#include "lib/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"
#include "lib/model.h"
#include "lib/traces.h"
#include "stream/slots.h"

struct cache {
    struct slots slots;
    uint32_t n_keys, n_slots;
};

static struct cache cache_make(uint32_t n_layers, uint32_t n_experts, uint32_t n_slots)
{
    uint32_t n_keys = n_layers * n_experts;
    struct cache c = {.n_keys = n_keys, .n_slots = n_slots};
    c.slots.slots = mem_zalloc(n_slots, sizeof *c.slots.slots);
    c.slots.slot_of = mem_zalloc(n_keys, sizeof *c.slots.slot_of);
    c.slots.habits.fast = mem_zalloc(n_keys, sizeof(double));
    c.slots.habits.slow = mem_zalloc(n_keys, sizeof(double));
    c.slots.habits.sorted = mem_zalloc(n_keys, sizeof(double));
    c.slots.habits.pinned = mem_zalloc(n_keys, sizeof(bool));
    slots_init(&c.slots, n_layers, n_experts, n_slots);
    return c;
}

static void cache_free(struct cache *c)
{
    mem_free(c->slots.slots);
    mem_free(c->slots.slot_of);
    mem_free(c->slots.habits.fast);
    mem_free(c->slots.habits.slow);
    mem_free(c->slots.habits.sorted);
    mem_free(c->slots.habits.pinned);
}

/* One layer of one token: hits. */
static uint32_t cache_ask(struct cache *c, uint32_t first_key, const uint16_t *ids, uint32_t n)
{
    uint32_t n_hits = 0, evicted;
    c->slots.epoch++;
    habits_visit(&c->slots.habits, first_key / (c->n_keys / c->slots.habits.n_layers));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = c->slots.slot_of[first_key + ids[i]];
        habits_use(&c->slots.habits, first_key + ids[i], 1);
        if (slot == SLOT_NONE) continue;
        c->slots.slots[slot].epoch = c->slots.epoch;
        n_hits++;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (c->slots.slot_of[first_key + ids[i]] != SLOT_NONE) continue;
        uint32_t slot = slots_take(&c->slots, first_key + ids[i], false, 0, &evicted);
        assert_int_not_equal(slot, SLOT_NONE);
        c->slots.slots[slot].state = SLOT_READY;
    }
    return n_hits;
}

static double share(uint64_t n_hits, const struct trace *t)
{
    return (double)n_hits / ((double)t->n_tokens * t->n_layers * t->n_used);
}

static double simulate_ours(const struct trace *t, uint32_t n_slots)
{
    struct cache c = cache_make(t->n_layers, t->n_experts, n_slots);
    uint64_t n_hits = 0;
    for (uint32_t n = 0; n < t->n_tokens; n++) {
        for (uint32_t l = 0; l < t->n_layers; l++)
            n_hits += cache_ask(&c, l * t->n_experts, t->ids + ((size_t)n * t->n_layers + l) * t->n_used, t->n_used);
        habits_advance(&c.slots.habits, 1);
    }
    cache_free(&c);
    return share(n_hits, t);
}

/* The least recently used goes; belady: the one whose next use is farthest. when[key]: time of last use, or of next. */
static double simulate_other(const struct trace *t, uint32_t n_slots, bool belady)
{
    size_t n_uses = (size_t)t->n_tokens * t->n_layers * t->n_used, n_keys = (size_t)t->n_layers * t->n_experts;
    uint32_t *next = mem_alloc(n_uses, sizeof *next), *when = mem_alloc(n_keys, sizeof *when);
    uint32_t *held = mem_alloc(n_slots, sizeof *held), n_held = 0;
    bool *inside = mem_zalloc(n_keys, sizeof *inside);
    uint64_t n_hits = 0;
    for (size_t k = 0; k < n_keys; k++) when[k] = UINT32_MAX;
    for (size_t i = n_uses; i-- > 0;) {
        size_t key = i / t->n_used % t->n_layers * t->n_experts + t->ids[i];
        next[i] = when[key];
        when[key] = (uint32_t)i;
    }
    for (size_t i = 0; i < n_uses; i++) {
        uint32_t key = (uint32_t)(i / t->n_used % t->n_layers * t->n_experts + t->ids[i]), out = 0;
        when[key] = belady ? next[i] : (uint32_t)i;
        if (inside[key]) {
            n_hits++;
            continue;
        }
        inside[key] = true;
        if (n_held < n_slots) {
            held[n_held++] = key;
            continue;
        }
        for (uint32_t s = 1; s < n_slots; s++)
            if (belady ? when[held[s]] > when[held[out]] : when[held[s]] < when[held[out]]) out = s;
        inside[held[out]] = false;
        held[out] = key;
    }
    mem_free(next);
    mem_free(when);
    mem_free(held);
    mem_free(inside);
    return share(n_hits, t);
}

static const struct trace_kind kinds[] = {
    {"habits", 0.9, 0.0, 0, 0},
    {"habits, with repeats", 0.7, 0.3, 0, 0},
    {"changing subject", 0.9, 0.2, 300, 0},
    {"bursts", 0.9, 0.1, 0, 1},
    {"weak habits", 0.4, 0.2, 1000, 1},
};

TEST(the_policy_beats_lru_on_every_synthetic_trace)
{
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct trace t = trace_make(&kinds[k], 700, 6, 64, 6, 11 + k);
        for (uint32_t part = 8; part >= 2; part /= 2) {
            uint32_t n_slots = t.n_layers * t.n_experts / part;
            double ours = simulate_ours(&t, n_slots), lru = simulate_other(&t, n_slots, false);
            double best = simulate_other(&t, n_slots, true);
            print_message("%-22s 1/%u of the experts: ours %.3f, LRU %.3f, best possible %.3f\n", t.name, part, ours,
                          lru, best);
            assert_true(ours > lru * 1.02);
            assert_true(ours <= best);
        }
        trace_free(&t);
    }
}

/* A trace of the trained model that comes with the project, over a text of this folder. */
struct recorder {
    struct trace trace;
    uint32_t n_layers, n_tokens;
};

static void record(void *user, const struct ds4_probe *probe)
{
    struct recorder *r = user;
    if (probe->point != DS4_PROBE_FFN_IN) return;
    for (uint32_t row = 0; row < probe->n_rows; row++)
        for (uint32_t i = 0; i < probe->n_used; i++)
            r->trace.ids[((size_t)(r->n_tokens + row) * r->n_layers + probe->layer_i) * probe->n_used + i] =
                (uint16_t)probe->ids[row * probe->n_used + i];
    if (probe->layer_i + 1 == r->n_layers) r->n_tokens += probe->n_rows;
}

TEST(the_policy_beats_lru_on_a_trace_of_the_trained_model)
{
    static char text[2400];
    struct ds4_error error = {0};
    struct ds4_engine *engine = model_open("models/ds4-tiny.gguf", (struct ds4_engine_options){.n_threads = 2});
    const struct ds4_model_info *info = ds4_engine_info(engine);
    struct ds4_session *session;
    struct ds4_tokens tokens = {0};
    FILE *file = fopen("CONTRIBUTING.md", "rb");
    assert_non_null(file);
    size_t n_bytes = fread(text, 1, sizeof text, file);
    (void)fclose(file);
    assert_ok(ds4_tokenize(engine, (struct ds4_span){text, n_bytes}, false, &tokens, &error), error);
    struct recorder r = {.n_layers = info->n_layers};
    r.trace = (struct trace){"recorded", (uint32_t)tokens.n, info->n_layers, info->n_experts, info->n_experts_used,
                             mem_zalloc(tokens.n * info->n_layers * info->n_experts_used, sizeof(uint16_t))};
    ds4_engine_set_probe(engine, record, &r);
    assert_ok(ds4_session_create(engine, &session, &error), error);
    assert_ok(ds4_session_sync(session, tokens.ids, tokens.n, NULL, NULL, NULL, &error), error);
    assert_int_equal(r.n_tokens, tokens.n);
    for (uint32_t part = 4; part >= 2; part /= 2) {
        uint32_t n_slots = r.n_layers * info->n_experts / part;
        double ours = simulate_ours(&r.trace, n_slots), lru = simulate_other(&r.trace, n_slots, false);
        print_message("%u tokens, %u layers of %u experts, 1/%u of them: ours %.3f, LRU %.3f, best possible %.3f\n",
                      r.n_tokens, r.n_layers, info->n_experts, part, ours, lru,
                      simulate_other(&r.trace, n_slots, true));
        assert_true(ours > lru);
    }
    mem_free(r.trace.ids);
    ds4_tokens_free(&tokens);
    ds4_session_destroy(session);
    ds4_engine_close(engine);
}

TEST(the_rate_of_a_key_is_the_share_of_tokens_that_chose_it)
{
    struct cache c = cache_make(1, 3, 2);
    struct habits *p = &c.slots.habits;
    for (uint32_t n = 0; n < 4000; n++) {
        habits_use(p, 0, 1);
        if (n % 4 == 0) habits_use(p, 1, 1);
        habits_advance(p, 1);
        if (n != 3 && n != 39 && n != 3999) continue;
        assert_true(fabs(habits_rate(p, 0) - 1) < (n == 3 ? 0.01 : 0.001));
        assert_true(fabs(habits_rate(p, 1) - 0.25) < 0.02);
        assert_true(habits_rate(p, 2) == 0);
    }
    habits_set_rate(p, 2, 0.6);
    assert_true(fabs(habits_rate(p, 2) - 0.6) < 1e-9);
    cache_free(&c);
}

TEST(the_hot_set_is_what_is_used_most_and_outlives_a_burst)
{
    struct cache c = cache_make(1, 64, 8);
    uint16_t hot[2] = {5, 9}, burst[2];
    struct rng rng = {3};
    for (uint32_t n = 0; n < 200; n++) {
        (void)cache_ask(&c, 0, hot, 2);
        habits_advance(&c.slots.habits, 1);
    }
    assert_true(c.slots.habits.pinned[5] && c.slots.habits.pinned[9] && !c.slots.habits.pinned[6]);
    for (uint32_t n = 0; n < 60; n++) {
        burst[0] = (uint16_t)(10 + rng_below(&rng, 27));
        burst[1] = (uint16_t)(37 + rng_below(&rng, 27));
        (void)cache_ask(&c, 0, burst, 2);
        habits_advance(&c.slots.habits, 1);
    }
    assert_int_equal(cache_ask(&c, 0, hot, 2), 2);
    cache_free(&c);
}

int main(void)
{
    return RUN_TESTS(T(the_policy_beats_lru_on_every_synthetic_trace),
                     T(the_policy_beats_lru_on_a_trace_of_the_trained_model),
                     T(the_rate_of_a_key_is_the_share_of_tokens_that_chose_it),
                     T(the_hot_set_is_what_is_used_most_and_outlives_a_burst));
}
