/* test_sample.c - the sampler and the stop strings. */
#include "lib/test.h"

#include <math.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/rng.h"
#include "session/sample.h"

#define N 8u

static struct ds4_sampling plain(void)
{
    struct ds4_sampling p = ds4_sampling_default();
    p.min_p = 0;
    p.seed = 7;
    return p;
}

static struct ds4_sampler *make(struct ds4_sampling p, uint32_t n_vocab)
{
    struct ds4_sampler *s = NULL;
    struct ds4_error error = {0};
    assert_ok(sampler_create(n_vocab, &p, &s, &error), error);
    return s;
}

static int32_t pick(struct ds4_sampler *s, const float *logits, const uint32_t *mask)
{
    int32_t id = -1;
    struct ds4_error error = {0};
    assert_ok(ds4_sampler_pick(s, logits, mask, false, &id, &error), error);
    return id;
}

/* How often each id comes out of `draws` draws. */
static void count(struct ds4_sampling p, const float *logits, int draws, int counts[N])
{
    struct ds4_sampler *s = make(p, N);
    memset(counts, 0, N * sizeof *counts);
    for (int i = 0; i < draws; i++) counts[pick(s, logits, NULL)]++;
    ds4_sampler_destroy(s);
}

TEST(greedy_takes_the_largest_and_of_equals_the_lowest_id)
{
    float logits[N] = {1, 3, 3, -2, 3, 0, 2.9f, 1};
    struct ds4_sampling p = plain();
    p.temperature = 0;
    struct ds4_sampler *s = make(p, N);
    assert_int_equal(pick(s, logits, NULL), 1);
    uint32_t mask = 0xF5; /* 1 and 3 are forbidden */
    assert_int_equal(pick(s, logits, &mask), 2);
    ds4_sampler_destroy(s);
    p.temperature = 1;
    s = make(p, N);
    int32_t id;
    struct ds4_error error = {0};
    assert_ok(ds4_sampler_pick(s, logits, NULL, true, &id, &error), error);
    assert_int_equal(id, 1);
    ds4_sampler_destroy(s);
}

/* Expected counts of a draw, within five standard deviations. */
static void assert_shares(const int counts[N], const double weights[N], int draws)
{
    double total = 0;
    for (size_t i = 0; i < N; i++) total += weights[i];
    for (size_t i = 0; i < N; i++) {
        double share = weights[i] / total, sigma = sqrt(draws * share * (1 - share));
        if (fabs(counts[i] - draws * share) > 5 * sigma + 1e-9)
            fail_msg("id %zu came %d times of %d; expected %.0f", i, counts[i], draws, draws * share);
    }
}

TEST(draws_follow_the_weights)
{
    float logits[N] = {0, 1, 2, 3, -1, 0.5f, 2.5f, -30};
    double weights[N];
    int counts[N];
    for (size_t i = 0; i < N; i++) weights[i] = exp((double)logits[i]);
    count(plain(), logits, 40000, counts);
    assert_shares(counts, weights, 40000);
    struct ds4_sampling hot = plain();
    hot.temperature = 2.5f;
    for (size_t i = 0; i < N; i++) weights[i] = exp((double)logits[i] / 2.5);
    count(hot, logits, 40000, counts);
    assert_shares(counts, weights, 40000);
}

TEST(top_k_top_p_and_min_p_cut_where_they_say)
{
    float logits[N];
    double p_of[N] = {0.4, 0.05, 0.2, 0.1, 0.15, 0.05, 0.03, 0.02};
    int counts[N];
    for (size_t i = 0; i < N; i++) logits[i] = (float)log(p_of[i]);
    struct ds4_sampling p = plain();
    p.top_k = 3;
    count(p, logits, 20000, counts);
    assert_shares(counts, (double[N]){0.4, 0, 0.2, 0, 0.15, 0, 0, 0}, 20000);
    p = plain();
    p.top_p = 0.7f; /* 0.4 + 0.2 do not reach it, with 0.15 they do */
    count(p, logits, 20000, counts);
    assert_shares(counts, (double[N]){0.4, 0, 0.2, 0, 0.15, 0, 0, 0}, 20000);
    p = plain();
    p.min_p = 0.3f; /* at least 0.12 */
    count(p, logits, 20000, counts);
    assert_shares(counts, (double[N]){0.4, 0, 0.2, 0, 0.15, 0, 0, 0}, 20000);
    p = plain();
    p.top_p = 0; /* the best always stays */
    count(p, logits, 100, counts);
    assert_int_equal(counts[0], 100);
    p = plain();
    p.top_k = 6, p.top_p = 0.95f, p.min_p = 0.3f;
    count(p, logits, 20000, counts);
    assert_shares(counts, (double[N]){0.4, 0, 0.2, 0, 0.15, 0, 0, 0}, 20000);
}

TEST(a_seed_repeats_and_another_differs)
{
    float logits[N] = {0};
    struct ds4_sampling p = plain();
    struct ds4_sampler *a = make(p, N), *b = make(p, N);
    p.seed = 8;
    struct ds4_sampler *c = make(p, N);
    int same = 0;
    for (int i = 0; i < 200; i++) {
        int32_t id = pick(a, logits, NULL);
        assert_int_equal(id, pick(b, logits, NULL));
        same += id == pick(c, logits, NULL);
    }
    assert_in_range(same, 5, 60);
    ds4_sampler_destroy(a);
    ds4_sampler_destroy(b);
    ds4_sampler_destroy(c);
}

TEST(penalties_and_bias_move_logits)
{
    float logits[N] = {1, 1.5f, 0, -1, -1, 0, 0, 0};
    struct ds4_sampling p = plain();
    struct ds4_logit_bias bias[2] = {{3, 10}, {1, -100}};
    p.temperature = 0;
    p.bias = bias, p.n_bias = 2;
    struct ds4_sampler *s = make(p, N);
    assert_int_equal(pick(s, logits, NULL), 3);
    uint32_t mask = 0xF7;
    assert_int_equal(pick(s, logits, &mask), 0);
    ds4_sampler_destroy(s);
    p = plain();
    p.temperature = 0;
    p.frequency_penalty = 0.3f;
    s = make(p, N);
    assert_int_equal(pick(s, logits, NULL), 1);
    ds4_sampler_accept(s, 1);
    assert_int_equal(pick(s, logits, NULL), 1); /* 1.2 */
    ds4_sampler_accept(s, 1);
    assert_int_equal(pick(s, logits, NULL), 0); /* 0.9 against 1 */
    ds4_sampler_destroy(s);
    p.frequency_penalty = 0, p.presence_penalty = 0.6f;
    s = make(p, N);
    ds4_sampler_accept(s, 1);
    assert_int_equal(pick(s, logits, NULL), 0);
    ds4_sampler_destroy(s);
    p.presence_penalty = 0, p.repetition_penalty = 2;
    s = make(p, N);
    ds4_sampler_accept(s, 1), ds4_sampler_accept(s, 0), ds4_sampler_accept(s, 3);
    assert_int_equal(pick(s, logits, NULL), 1); /* 0.75, 0.5, and 3 fell to -2 */
    mask = 0x18;
    assert_int_equal(pick(s, logits, &mask), 4);
    ds4_sampler_destroy(s);
}

TEST(values_that_are_no_numbers_are_never_sampled)
{
    float logits[N] = {0, 1, NAN, 2, 0, 0, 0, 0};
    struct ds4_sampler *s = make(plain(), N);
    struct ds4_error error = {0};
    int32_t id;
    assert_status(ds4_sampler_pick(s, logits, NULL, false, &id, &error), DS4_ERR_DEVICE, error);
    logits[2] = INFINITY;
    error = (struct ds4_error){0};
    assert_status(ds4_sampler_pick(s, logits, NULL, false, &id, &error), DS4_ERR_DEVICE, error);
    logits[2] = -INFINITY;
    for (int i = 0; i < 200; i++) assert_int_not_equal(pick(s, logits, NULL), 2);
    uint32_t mask = 0x4;
    error = (struct ds4_error){0};
    assert_ok(ds4_sampler_pick(s, logits, &mask, false, &id, &error), error); /* it is all that may come */
    assert_int_equal(id, 2);
    mask = 0;
    assert_status(ds4_sampler_pick(s, logits, &mask, false, &id, &error), DS4_ERR_STATE, error);
    ds4_sampler_destroy(s);
}

TEST(settings_out_of_range_are_refused_by_name)
{
    struct ds4_sampling bad[9];
    for (size_t i = 0; i < 9; i++) bad[i] = plain();
    struct ds4_logit_bias foreign = {8, 1}, infinite = {1, INFINITY};
    bad[0].top_p = 1.5f, bad[1].min_p = -0.1f, bad[2].top_k = -1, bad[3].repetition_penalty = 0;
    bad[4].temperature = NAN, bad[5].bias = &foreign, bad[5].n_bias = 1, bad[6].bias = &infinite, bad[6].n_bias = 1;
    bad[7].presence_penalty = NAN, bad[8].temperature = 1000;
    for (size_t i = 0; i < 9; i++) {
        struct ds4_sampler *s = NULL;
        struct ds4_error error = {0};
        assert_status(sampler_create(N, &bad[i], &s, &error), DS4_ERR_LIMIT, error);
        assert_null(s);
    }
}

TEST(logprobs_and_the_largest_logits_are_those_of_a_softmax)
{
    float logits[N] = {0, 1, 2, 3, 3, 0.5f, 2.5f, -30};
    int32_t ids[4];
    double sum = 0;
    for (size_t i = 0; i < N; i++) sum += exp((double)logits[i]);
    for (int32_t i = 0; i < (int32_t)N; i++)
        assert_true(fabs((double)ds4_logprob(logits, N, i) - log(exp((double)logits[i]) / sum)) < 1e-5);
    ds4_top_logits(logits, N, 4, ids);
    assert_memory_equal(ids, ((int32_t[]){3, 4, 6, 2}), sizeof ids);
    assert_true(isinf(ds4_logprob(logits, N, 99)));
}

/* ---- stop strings ------------------------------------------------------------------------------------------------ */

/* Feeds text cut into pieces whose lengths come from r (0: whole); returns what was shown. */
static int run_stop(const struct ds4_span *strings, size_t n, const char *text, struct rng *r, struct buf *shown)
{
    struct ds4_stop *stop = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_stop_create(strings, n, &stop, &error), error);
    size_t len = strlen(text);
    int hit = -1;
    for (size_t at = 0; at < len && hit < 0;) {
        size_t piece = r ? 1 + (size_t)rng_below(r, 4) : len;
        if (piece > len - at) piece = len - at;
        struct ds4_span out;
        assert_int_equal(ds4_stop_feed(stop, span_make(text + at, piece), &out, &hit), DS4_OK);
        buf_put_span(shown, out);
        at += piece;
    }
    buf_put_span(shown, ds4_stop_finish(stop));
    ds4_stop_destroy(stop);
    return hit;
}

TEST(a_stop_string_ends_the_text_wherever_it_is_cut)
{
    static const struct { const char *text, *shown; int hit; } cases[] = {
        {"one two STOP three", "one two ", 0}, {"STOP", "", 0}, {"no such thing", "no such thing", -1},
        {"SSTOSTOP", "SSTO", 0}, {"ab\n\nUser: x", "ab", 1}, {"ends in ST", "ends in ST", -1},
        {"aab", "a", 2}, {"\n\n", "\n\n", -1}, {"", "", -1},
    };
    const struct ds4_span strings[] = {SPAN("STOP"), SPAN("\n\nUser:"), SPAN("ab")};
    struct rng r = {test_seed()};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int round = 0; round < 30; round++) {
            struct buf shown = {0};
            bool last_only = strchr(cases[i].text, '\n') && cases[i].hit == 1;
            const struct ds4_span *from = strings + (last_only ? 1 : 0);
            int hit = run_stop(from, last_only ? 1 : 3, cases[i].text, round ? &r : NULL, &shown);
            assert_int_equal(hit, last_only ? 0 : cases[i].hit);
            assert_true(span_eq(buf_span(&shown), last_only ? SPAN("ab") : span_from(cases[i].shown)));
            buf_deinit(&shown);
        }
    }
}

TEST(stop_strings_have_limits)
{
    static const char long_string[1025] = {0};
    struct ds4_span many[17], empty = SPAN(""), large = {long_string, sizeof long_string};
    for (size_t i = 0; i < 17; i++) many[i] = SPAN("x");
    struct ds4_stop *stop = NULL;
    assert_int_equal(ds4_stop_create(many, 17, &stop, NULL), DS4_ERR_LIMIT);
    assert_int_equal(ds4_stop_create(&empty, 1, &stop, NULL), DS4_ERR_LIMIT);
    assert_int_equal(ds4_stop_create(&large, 1, &stop, NULL), DS4_ERR_LIMIT);
    assert_int_equal(ds4_stop_create(many, 16, &stop, NULL), DS4_OK);
    ds4_stop_destroy(stop);
}

TEST(a_stream_of_stop_strings_that_ended_forgets_what_it_saw)
{
    const struct ds4_span strings[] = {SPAN("STOP")};
    static const struct { const char *text, *rest; int hit; } before[] = {{"no S", "S", -1}, {"a STOP", "", 0}};
    for (size_t i = 0; i < sizeof before / sizeof before[0]; i++) {
        struct ds4_stop *stop = NULL;
        struct ds4_span out;
        int hit;
        assert_int_equal(ds4_stop_create(strings, 1, &stop, NULL), DS4_OK);
        assert_int_equal(ds4_stop_feed(stop, span_from(before[i].text), &out, &hit), DS4_OK);
        assert_int_equal(hit, before[i].hit);
        assert_true(span_eq(ds4_stop_finish(stop), span_from(before[i].rest)));
        assert_true(span_eq(ds4_stop_finish(stop), SPAN("")));
        assert_int_equal(ds4_stop_feed(stop, SPAN("TOP x STOP"), &out, &hit), DS4_OK);
        assert_true(hit == 0 && span_eq(out, SPAN("TOP x ")));
        ds4_stop_destroy(stop);
    }
}

/* What a GPU would hand over of these logits. */
static struct backend_candidates near_of(const float *logits, uint32_t n, float margin, float temperature)
{
    struct backend_candidates near = {0};
    float top = -INFINITY;
    double mass = 0;
    for (uint32_t i = 0; i < n; i++) top = fmaxf(top, logits[i]);
    for (uint32_t i = 0; i < n; i++) {
        mass += temperature > 0 ? exp(((double)logits[i] - (double)top) / (double)temperature) : 0;
        if (logits[i] < top - margin) continue;
        if (near.n < BACKEND_CANDIDATES_MAX) {
            near.ids[near.n] = (int32_t)i;
            near.logits[near.n] = logits[i];
        }
        near.n++;
    }
    near.mass = (float)(mass * (1 + 1e-5)); /* it is known to about that */
    return near;
}

/* Two samplers with one seed, one of which sees candidates only where they suffice; returns how often they did. */
static int compare_draws(struct ds4_sampling p, float spread, int n_draws)
{
    enum { VOCAB = 2000 };
    static float logits[VOCAB];
    struct ds4_sampler *all = make(p, VOCAB), *few = make(p, VOCAB);
    struct rng rng = {11};
    int n_near = 0;
    for (int draw = 0; draw < n_draws; draw++) {
        float margin;
        for (uint32_t i = 0; i < VOCAB; i++) logits[i] = (rng_float(&rng) + rng_float(&rng) - 1) * spread;
        int32_t want = pick(all, logits, NULL), got = -1;
        if (sampler_needs(few, false, &margin)) {
            struct backend_candidates near = near_of(logits, VOCAB, margin, p.temperature);
            if (sampler_pick_near(few, &near, false, &got)) n_near++;
        }
        if (got < 0) got = pick(few, logits, NULL);
        assert_int_equal(got, want);
    }
    ds4_sampler_destroy(all);
    ds4_sampler_destroy(few);
    return n_near;
}

TEST(candidates_of_a_margin_give_the_token_that_all_logits_give)
{
    static const struct {
        float temperature, top_p, min_p;
        int32_t top_k;
        int least; /* of 50 draws: those that candidates must suffice for */
    } cases[] = {
        {0, 1, 0, 0, 50},       {1, 1, 0.05f, 0, 50},    {0.7f, 1, 0.01f, 0, 50}, {1, 0.9f, 0, 0, 35},
        {1, 0.95f, 0.05f, 40, 50}, {0.6f, 0.95f, 0, 20, 35}, {1, 1, 0, 10, 35},      {1, 1, 0, 0, 0},
        {1, 0.999999f, 0, 0, 0}, {5, 0.9f, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ds4_sampling p = plain();
        p.temperature = cases[i].temperature;
        p.top_p = cases[i].top_p;
        p.min_p = cases[i].min_p;
        p.top_k = cases[i].top_k;
        int n_near = compare_draws(p, 40, 50);
        if (n_near < cases[i].least) fail_msg("case %zu: candidates sufficed for %d of 50 draws", i, n_near);
    }
}

TEST(a_sampler_with_penalties_or_biases_asks_for_all_logits)
{
    float margin;
    struct ds4_logit_bias bias = {1, 2};
    struct ds4_sampling p = ds4_sampling_default();
    struct ds4_sampler *s = make(p, N);
    assert_true(sampler_needs(s, false, &margin) && margin > 2.99f && margin < 3.01f);
    ds4_sampler_destroy(s);
    p.bias = &bias;
    p.n_bias = 1;
    s = make(p, N);
    assert_false(sampler_needs(s, false, &margin));
    ds4_sampler_destroy(s);
    p.n_bias = 0;
    p.presence_penalty = 1;
    s = make(p, N);
    assert_false(sampler_needs(s, true, &margin));
    ds4_sampler_destroy(s);
}

int main(void)
{
    return RUN_TESTS(T(candidates_of_a_margin_give_the_token_that_all_logits_give),
                     T(a_sampler_with_penalties_or_biases_asks_for_all_logits),
                     T(greedy_takes_the_largest_and_of_equals_the_lowest_id), T(draws_follow_the_weights),
                     T(top_k_top_p_and_min_p_cut_where_they_say), T(a_seed_repeats_and_another_differs),
                     T(penalties_and_bias_move_logits), T(values_that_are_no_numbers_are_never_sampled),
                     T(settings_out_of_range_are_refused_by_name),
                     T(logprobs_and_the_largest_logits_are_those_of_a_softmax),
                     T(a_stop_string_ends_the_text_wherever_it_is_cut), T(stop_strings_have_limits),
                     T(a_stream_of_stop_strings_that_ended_forgets_what_it_saw));
}
