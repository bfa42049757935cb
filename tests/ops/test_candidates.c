/* test_candidates.c - what a GPU finds of a row of logits is what the host finds by looking at all of them: which may
 * be chosen, in ascending order, how many they are when the list is too short for them, and what all weigh together. */
#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "gpu/backend.h"
#include "lib/test.h"

#ifdef DS4_GPU_EMU

#include "lib/tested_gpu.h"

#define N_VOCAB 129280u

static struct backend *gpu;
static float *there, *logits;

static int set_up(void **state)
{
    struct ds4_error error = {0};
    struct backend_limits limits = {.n_rows = 1, .n_in = 32, .n_vocab = N_VOCAB};
    (void)state;
    assert_ok(backend_gpu_create(&tested_host, NULL, &limits, &gpu, &error), error);
    there = gpu->ops->alloc(gpu, N_VOCAB * sizeof *there);
    logits = mem_alloc(N_VOCAB, sizeof *logits);
    assert_true(there && logits);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    gpu->ops->release(gpu, there, N_VOCAB * sizeof *there);
    gpu->ops->destroy(gpu);
    mem_free(logits);
    return 0;
}

static void fill(uint32_t n, float spread, uint64_t seed)
{
    struct rng rng = {seed};
    for (uint32_t i = 0; i < n; i++)
        logits[i] = (rng_float(&rng) + rng_float(&rng) + rng_float(&rng) - 1.5f) * spread;
}

static struct backend_candidates find(uint32_t n, float margin, float temperature)
{
    struct backend_candidates got = {0};
    struct ds4_error error = {0};
    gpu->ops->write(gpu, there, logits, n * sizeof *there);
    assert_true(gpu->ops->candidates(gpu, there, n, margin, temperature, &got));
    assert_ok(gpu->ops->finish(gpu, &error), error);
    return got;
}

static void check(uint32_t n, float margin, float temperature)
{
    struct backend_candidates got = find(n, margin, temperature);
    float top = -INFINITY;
    double mass = 0;
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++) top = fmaxf(top, logits[i]);
    for (uint32_t i = 0; i < n; i++) {
        if (logits[i] == -INFINITY) continue;
        mass += exp(((double)logits[i] - (double)top) / (double)temperature);
        if (logits[i] < top - margin) continue;
        if (found < BACKEND_CANDIDATES_MAX) {
            assert_int_equal(got.ids[found], i);
            assert_true(got.logits[found] >= logits[i] && got.logits[found] <= logits[i]);
        }
        found++;
    }
    assert_int_equal(got.n, found);
    assert_int_equal(got.not_numbers, 0);
    assert_true(fabs((double)got.mass - mass) <= 1e-5 * mass);
}

TEST(candidates_and_their_mass_are_those_of_the_whole_row)
{
    static const uint32_t sizes[] = {1, 31, 300, 5001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fill(sizes[i], 8, 3 + i);
        check(sizes[i], 3, 1);
        check(sizes[i], 0, 0.5f);
    }
    fill(N_VOCAB, 12, 1);
    check(N_VOCAB, 4, 0.7f);
    assert_int_not_equal(find(N_VOCAB, 4, 1).n, 0);
}

TEST(equal_logits_are_all_found_and_ruled_out_ones_are_not)
{
    fill(777, 4, 9);
    for (uint32_t i = 5; i < 777; i += 40) logits[i] = 7;
    for (uint32_t i = 0; i < 777; i += 3) logits[i] = -INFINITY;
    check(777, 0, 1);
    check(777, 2, 1);
    for (uint32_t i = 0; i < 777; i++) logits[i] = -INFINITY;
    assert_int_equal(find(777, 2, 1).n, 0);
}

TEST(more_than_fit_are_counted_and_values_that_are_no_numbers_are_reported)
{
    fill(5000, 1, 4);
    struct backend_candidates got = find(5000, 50, 1);
    assert_int_equal(got.n, 5000);
    logits[4321] = NAN;
    assert_int_equal(find(5000, 1, 1).not_numbers, 1);
    logits[4321] = INFINITY;
    assert_int_equal(find(5000, 1, 1).not_numbers, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(candidates_and_their_mass_are_those_of_the_whole_row),
        cmocka_unit_test(equal_logits_are_all_found_and_ruled_out_ones_are_not),
        cmocka_unit_test(more_than_fit_are_counted_and_values_that_are_no_numbers_are_reported),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down) ? 1 : 0;
}

#else

TEST(this_build_has_no_emulator_that_could_look)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_that_could_look)); }

#endif
