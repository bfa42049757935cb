/* test_candidates_chosen.c - the token that a GPU chooses is the one that the host's sampler, of the same seed, chooses
 * by looking at all logits, in thousands of rows; what the GPU leaves to the host is counted and bounded, and leaves no
 * trace. */
#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "gpu/backend.h"
#include "lib/test.h"
#include "session/sample.h"

#ifdef DS4_GPU_EMU

#include "lib/tested_gpu.h"

#define N_VOCAB 700u

static struct backend *gpu;
static float *there, logits[N_VOCAB];
static struct backend_step *step;
static struct backend_choice *choices;
static int32_t *token, *pos; /* of the backend */
static struct rng rng = {11};

static void *take(size_t bytes)
{
    void *memory = gpu->ops->alloc(gpu, bytes);
    assert_non_null(memory);
    return memory;
}

static void *put(const void *from, size_t bytes)
{
    void *to = take(bytes);
    gpu->ops->write(gpu, to, from, bytes);
    return to;
}

static int set_up(void **state)
{
    struct ds4_error error = {0};
    struct backend_limits limits = {.n_rows = 1, .n_in = 32, .n_vocab = N_VOCAB};
    (void)state;
    assert_ok(backend_gpu_create(&tested_host, NULL, &limits, &gpu, &error), error);
    there = take(sizeof logits);
    step = take(sizeof *step);
    choices = take(BACKEND_CHOICES * sizeof *choices);
    token = take(sizeof *token);
    pos = take(sizeof *pos);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    gpu->ops->release(gpu, there, sizeof logits);
    gpu->ops->release(gpu, step, sizeof *step);
    gpu->ops->release(gpu, choices, BACKEND_CHOICES * sizeof *choices);
    gpu->ops->release(gpu, token, sizeof *token);
    gpu->ops->release(gpu, pos, sizeof *pos);
    gpu->ops->destroy(gpu);
    return 0;
}

/* Rows as models make them: most far below a few, some flat, ties. */
static void fill(uint32_t n, float spread)
{
    for (uint32_t i = 0; i < n; i++) {
        float u = rng_float(&rng) + 1e-6f;
        logits[i] = -logf(u) * spread - 20 + (rng_float(&rng) - 0.5f);
        if (rng_below(&rng, 8) == 0) logits[i] = rintf(logits[i]); /* equal ones */
        if (rng_below(&rng, 50) == 0) logits[i] = -INFINITY;
    }
    logits[rng_below(&rng, n)] = 1;
}

/* What the GPU chooses of the first n logits; -1: the host must look. generator: before; it goes on. */
static int32_t choose(uint32_t n, const struct backend_pick *how, uint64_t *generator)
{
    uint32_t turn = (uint32_t)rng_below(&rng, 9);
    int32_t at = 41, got_at, got_token, none = -7;
    struct backend_step set = {.how = *how, .generator = {(uint32_t)*generator, (uint32_t)(*generator >> 32)},
                               .n = turn}, got;
    struct backend_choice choice;
    struct ds4_error error = {0};
    gpu->ops->write(gpu, there, logits, n * sizeof *logits);
    gpu->ops->write(gpu, step, &set, sizeof set);
    gpu->ops->write(gpu, token, &none, sizeof none);
    gpu->ops->write(gpu, pos, &at, sizeof at);
    gpu->ops->choose(gpu, there, n, 1, step, choices, token, pos);
    assert_true(gpu->ops->post(gpu, &choices[turn % BACKEND_CHOICES], sizeof choice));
    assert_true(gpu->ops->collect(gpu, &choice, sizeof choice));
    assert_ok(gpu->ops->finish(gpu, &error), error);
    gpu->ops->read(gpu, &got, step, sizeof got);
    gpu->ops->read(gpu, &got_at, pos, sizeof got_at);
    gpu->ops->read(gpu, &got_token, token, sizeof got_token);
    assert_int_equal(got.n, turn + 1);
    assert_int_equal(got_at, 42);
    assert_int_equal(got_token, choice.is_known ? choice.id : none);
    *generator = (uint64_t)got.generator[1] << 32 | got.generator[0];
    return choice.is_known ? choice.id : -1;
}

/* Whether the host could choose from what the GPU finds, with exact arithmetic. */
static bool host_could(uint32_t n, const struct ds4_sampling *p)
{
    struct ds4_sampler *sampler = NULL;
    struct ds4_error error = {0};
    struct backend_candidates near;
    float margin;
    int32_t id;
    assert_ok(sampler_create(n, p, &sampler, &error), error);
    assert_true(sampler_needs(sampler, false, &margin));
    assert_true(gpu->ops->candidates(gpu, there, n, margin, p->temperature, &near));
    bool could = sampler_pick_near(sampler, &near, false, &id);
    ds4_sampler_destroy(sampler);
    return could;
}

/* Rows of one kind of sampling; returns how many were left to the host; and those of them that rounding left to it. */
static size_t compare(const struct ds4_sampling *p, size_t n_rows, float spread, size_t *n_doubts)
{
    struct ds4_sampler *all = NULL, *follows = NULL;
    struct ds4_error error = {0};
    struct backend_pick how;
    size_t n_left = 0;
    const uint32_t n = 100 + (uint32_t)rng_below(&rng, N_VOCAB - 100);
    assert_ok(sampler_create(n, p, &all, &error), error);
    assert_ok(sampler_create(n, p, &follows, &error), error);
    assert_true(sampler_how(follows, false, &how));
    for (size_t i = 0; i < n_rows; i++) {
        int32_t want;
        uint64_t generator = sampler_generator(follows), before = generator;
        fill(n, spread);
        int32_t got = choose(n, &how, &generator);
        assert_ok(ds4_sampler_pick(all, logits, NULL, false, &want, &error), error);
        if (got >= 0) assert_int_equal(got, want);
        else assert_int_equal(generator, before);
        n_left += got < 0;
        if (got < 0 && host_could(n, p)) (*n_doubts)++;
        sampler_drew(follows, &how);
        assert_int_equal(sampler_generator(follows), sampler_generator(all));
        if (got >= 0) assert_int_equal(generator, sampler_generator(all));
    }
    ds4_sampler_destroy(all);
    ds4_sampler_destroy(follows);
    return n_left;
}

TEST(the_largest_is_always_known)
{
    struct ds4_sampling p = ds4_sampling_default();
    p.temperature = 0;
    size_t n_doubts = 0;
    for (size_t k = 0; k < 4; k++) assert_int_equal(compare(&p, 100, k < 2 ? 1.5f : 4, &n_doubts), 0);
}

TEST(draws_are_the_hosts_and_few_are_left_to_it)
{
    static const float temperatures[] = {0.3f, 0.7f, 1, 1.6f}, least[] = {0.05f, 0.01f, 0.2f, 0.0001f};
    size_t n_rows = 0, n_left = 0, n_doubts = 0;
    for (size_t k = 0; k < 16; k++) {
        struct ds4_sampling p = ds4_sampling_default();
        p.seed = k + 1;
        p.temperature = temperatures[k % 4];
        p.min_p = least[k / 4];
        n_left += compare(&p, 120, k % 3 ? 3 : 1, &n_doubts);
        n_rows += 120;
    }
    print_message("%zu of %zu draws were left to the host, %zu for rounding\n", n_left, n_rows, n_doubts);
    assert_true(n_doubts * 100 <= n_rows);
}

TEST(draws_from_a_head_are_the_hosts)
{
    static const float shares[] = {1, 0.95f, 0.8f, 0.3f};
    size_t n_rows = 0, n_left = 0, n_doubts = 0;
    for (size_t k = 0; k < 16; k++) {
        struct ds4_sampling p = ds4_sampling_default();
        p.seed = k + 1;
        p.top_p = shares[k % 4];
        p.top_k = k / 4 ? (int32_t)(k / 4 * k / 4 * 5) : 0;
        p.min_p = k % 2 ? 0.05f : 0;
        p.temperature = k % 5 ? 1 : 0.6f;
        if (p.top_k == 0 && !(p.top_p < 1)) p.min_p = 0.02f;
        n_left += compare(&p, 120, 3, &n_doubts);
        n_rows += 120;
    }
    print_message("%zu of %zu draws from a head were left to the host, %zu for rounding\n", n_left, n_rows, n_doubts);
    assert_true(n_doubts * 100 <= n_rows && n_left * 2 <= n_rows);
}

/* So that every thread of a group has two. */
TEST(draws_among_as_many_as_can_be_told_apart_are_the_hosts)
{
    const uint32_t n = BACKEND_CANDIDATES_MAX;
    size_t n_known[3] = {0};
    uint32_t highest = 0;
    for (uint32_t k = 0; k < 96; k++) {
        struct ds4_sampling p = ds4_sampling_default();
        struct ds4_sampler *s = NULL;
        struct ds4_error error = {0};
        struct backend_pick how;
        int32_t want;
        p.seed = k + 1;
        p.top_p = k % 3 ? 1 : 0.5f;
        p.top_k = k % 3 == 1 ? 500 : 0;
        assert_ok(sampler_create(N_VOCAB, &p, &s, &error), error);
        assert_true(sampler_how(s, false, &how));
        for (uint32_t i = 0; i < N_VOCAB; i++)
            logits[i] = i < n ? (float)(i * 77 % n) * (0.003f + 2e-5f * (float)k) : -INFINITY;
        uint64_t generator = sampler_generator(s);
        int32_t got = choose(N_VOCAB, &how, &generator);
        assert_ok(ds4_sampler_pick(s, logits, NULL, false, &want, &error), error);
        if (got >= 0) assert_int_equal(got, want);
        n_known[k % 3] += got >= 0;
        if (got >= 0 && (uint32_t)got > highest) highest = (uint32_t)got;
        ds4_sampler_destroy(s);
    }
    print_message("%zu, %zu, %zu of 32 were chosen with top_p, top_k, min_p\n", n_known[0], n_known[1], n_known[2]);
    assert_true(n_known[0] > 20 && n_known[1] > 30 && n_known[2] > 30 && highest >= 480);
}

TEST(what_cannot_be_decided_is_left_to_the_host)
{
    struct ds4_sampling p = ds4_sampling_default();
    struct ds4_sampler *s = NULL;
    struct ds4_error error = {0};
    struct backend_pick how;
    uint64_t generator = 5;
    assert_ok(sampler_create(N_VOCAB, &p, &s, &error), error);
    assert_true(sampler_how(s, false, &how));
    for (uint32_t i = 0; i < N_VOCAB; i++) logits[i] = (float)i * 1e-4f;
    assert_int_equal(choose(N_VOCAB, &how, &generator), -1); /* more than fit */
    for (uint32_t i = 0; i < N_VOCAB; i++) logits[i] = -INFINITY;
    assert_int_equal(choose(N_VOCAB, &how, &generator), -1);
    logits[3] = 1;
    logits[9] = NAN;
    assert_int_equal(choose(N_VOCAB, &how, &generator), -1);
    logits[9] = logits[3] + logf(how.min_p); /* as near to min_p as it can be */
    assert_int_equal(choose(N_VOCAB, &how, &generator), -1);
    assert_int_equal(generator, 5);
    logits[9] = 0;
    assert_int_not_equal(choose(N_VOCAB, &how, &generator), -1);
    assert_int_not_equal(generator, 5);
    ds4_sampler_destroy(s);
}

/* A generator whose next number is 2^23, one half: with two tokens of equal weight that is their boundary. */
TEST(a_draw_on_a_boundary_is_left_to_the_host)
{
    struct backend_pick how = {.margin = 3, .temperature = 1, .min_p = 0.05f, .top_p = 1};
    uint64_t inverse = 0x2545F4914F6CDD1Du, wanted = (uint64_t)1 << 63;
    for (int i = 0; i < 6; i++) inverse *= 2 - 0x2545F4914F6CDD1Du * inverse; /* Newton's, modulo 2^64 */
    uint64_t y = wanted * inverse, x = 0;
    assert_true(y * 0x2545F4914F6CDD1Du == wanted);
    for (uint64_t back = y, i = 0; i < 3; i++) back = y ^ back >> 27, x = back;
    for (uint64_t back = x, y1 = x, i = 0; i < 3; i++) back = y1 ^ back << 25, x = back;
    for (uint64_t back = x, y2 = x, i = 0; i < 6; i++) back = y2 ^ back >> 12, x = back;
    uint64_t generator = x;
    for (uint32_t i = 0; i < N_VOCAB; i++) logits[i] = -INFINITY;
    logits[5] = logits[6] = 2;
    assert_int_equal(choose(N_VOCAB, &how, &generator), -1);
    assert_true(generator == x);
    logits[7] = 2;
    assert_int_equal(choose(N_VOCAB, &how, &generator), 6);
}

/* Eleven rows, each with logits, a way of choosing and a generator of its own, at once and one by one. */
TEST(rows_are_chosen_at_once_as_each_alone)
{
    enum { N = 300, ROWS = 11 };
    struct backend_limits limits = {.n_rows = ROWS, .n_in = 32, .n_vocab = N};
    struct backend *one = gpu;
    struct backend_step steps[ROWS], after[ROWS];
    struct backend_choice zero[BACKEND_CHOICES * ROWS] = {{0}}, all[BACKEND_CHOICES * ROWS], alone[BACKEND_CHOICES];
    int32_t places[2 * ROWS] = {0}, got[2 * ROWS];
    static float rows[ROWS][N];
    struct ds4_error error = {0};
    size_t n_known = 0;
    for (uint32_t r = 0; r < ROWS; r++) {
        fill(N, 3);
        memcpy(rows[r], logits, sizeof rows[r]);
        float temperature = r % 4 ? 0.5f + 0.1f * (float)r : 0;
        steps[r] = (struct backend_step){.how = {.margin = r % 3 ? 3 : 8, .temperature = temperature,
                                                 .min_p = 0.05f, .top_p = r % 3 ? 1 : 0.7f, .below_min = 1},
                                         .generator = {r * 77 + 1, r}, .n = r};
    }
    assert_ok(backend_gpu_create(&tested_host, NULL, &limits, &gpu, &error), error);
    float *logits_there = put(rows, sizeof rows);
    struct backend_step *steps_there = put(steps, sizeof steps);
    struct backend_choice *choices_there = put(zero, sizeof zero);
    int32_t *places_there = put(places, sizeof places);
    gpu->ops->choose(gpu, logits_there, N, ROWS, steps_there, choices_there, places_there, places_there + ROWS);
    gpu->ops->read(gpu, all, choices_there, sizeof all);
    gpu->ops->read(gpu, after, steps_there, sizeof after);
    gpu->ops->read(gpu, got, places_there, sizeof got);
    for (uint32_t r = 0; r < ROWS; r++) {
        struct backend_step end;
        gpu->ops->write(gpu, steps_there, &steps[r], sizeof steps[r]);
        gpu->ops->choose(gpu, logits_there + r * N, N, 1, steps_there, choices_there, places_there, places_there + 1);
        gpu->ops->read(gpu, alone, choices_there, sizeof alone);
        gpu->ops->read(gpu, &end, steps_there, sizeof end);
        const struct backend_choice *choice = &all[r % BACKEND_CHOICES * ROWS + r];
        assert_memory_equal(choice, &alone[r % BACKEND_CHOICES], sizeof *choice);
        assert_memory_equal(&after[r], &end, sizeof end);
        assert_int_equal(got[r], choice->is_known ? choice->id : 0);
        assert_int_equal(got[ROWS + r], 1);
        n_known += choice->is_known;
    }
    assert_in_range(n_known, 8, ROWS);
    gpu->ops->destroy(gpu);
    gpu = one;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_chosen_at_once_as_each_alone),
        cmocka_unit_test(the_largest_is_always_known),
        cmocka_unit_test(draws_are_the_hosts_and_few_are_left_to_it),
        cmocka_unit_test(draws_from_a_head_are_the_hosts),
        cmocka_unit_test(draws_among_as_many_as_can_be_told_apart_are_the_hosts),
        cmocka_unit_test(what_cannot_be_decided_is_left_to_the_host),
        cmocka_unit_test(a_draw_on_a_boundary_is_left_to_the_host),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down) ? 1 : 0;
}

#else

TEST(this_build_has_no_emulator_that_could_choose)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_that_could_choose)); }

#endif
