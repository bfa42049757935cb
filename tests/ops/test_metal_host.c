/* test_metal_host.c - the Metal host file on Linux, over the pretend Metal of tests/gpu/pretend, whose lists are done
 * early or late and are taken as concurrent: operations, experts and choices as on every host; every call of Metal
 * fails once. What is tested is the host file (bindings, barriers, residency, lifetimes, errors), not Apple's compiler.
 *
 * Where clang cannot build Objective-C for the GNU runtime the program says so. */
#include "gpu/backend.h"
#include "gpu/kernels/records.h"
#include "lib/gpu_trials.h"
#include "lib/host_trials.h"
#include "lib/test.h"

#ifdef DS4_PRETEND_METAL
#include "pretend_metal.h"

/* The GNU runtime keeps some of what it allocates while it loads classes, before main. Our objects are counted. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:objc_malloc\n"; }

static uint64_t seed; /* of this run */

static void be(enum pretend_lists lists, uint64_t fail_at)
{
    pretend_metal(&(struct pretend_metal_options){.lists = lists, .seed = seed, .fail_at = fail_at});
}

static void assert_clean(void)
{
    const char *sentence = pretend_metal_report();
    if (sentence) fail_msg("%s", sentence);
    assert_int_equal(pretend_metal_n_alive(), 0);
}

TEST(every_operation_agrees_with_the_reference_through_the_metal_host)
{
    for (enum pretend_lists lists = 0; lists < PRETEND_LISTS; lists++) {
        be(lists, 0);
        assert_true(gpu_trial_operations(&gpu_host_metal) >= 20);
        assert_true(pretend_metal_counts().n_launches > 40);
        assert_clean();
    }
}

TEST(the_kernels_for_many_rows_go_through_the_metal_host)
{
    be(PRETEND_LISTS_RANDOM, 0);
    gpu_trial_many_rows(&gpu_host_metal);
    assert_clean();
}

TEST(experts_in_a_pool_are_used_where_they_lie_through_the_metal_host)
{
    for (enum pretend_lists lists = 0; lists < PRETEND_LISTS; lists++) {
        be(lists, 0);
        gpu_trial_pool(&gpu_host_metal);
        assert_clean();
    }
}

TEST(choices_are_those_of_the_emulator_whenever_lists_are_done)
{
    uint32_t got[20], want[20];
    gpu_trial_choices(&gpu_host_emu, 20, want);
    for (enum pretend_lists lists = 0; lists < PRETEND_LISTS; lists++) {
        be(lists, 0);
        gpu_trial_choices(&gpu_host_metal, 20, got);
        assert_memory_equal(got, want, sizeof want);
        assert_true(pretend_metal_counts().n_replayed > 10);
        assert_clean();
    }
}

TEST(lists_copies_and_posts_are_in_order_whenever_lists_are_done)
{
    for (uint32_t i = 0; i < PRETEND_LISTS + 40; i++) {
        enum pretend_lists lists = i < PRETEND_LISTS ? (enum pretend_lists)i : PRETEND_LISTS_RANDOM;
        pretend_metal(&(struct pretend_metal_options){.lists = lists, .seed = seed + i});
        assert_true(host_trial_calls(&gpu_host_metal, GPU_LAUNCH_PLAIN));
        assert_clean();
    }
}

TEST(every_call_of_metal_may_fail_and_the_host_says_so_and_leaves_nothing)
{
    uint64_t n_calls = 1, n_failed = 0;
    for (uint64_t i = 1; i <= n_calls; i++) {
        be((enum pretend_lists)(i % PRETEND_LISTS), i);
        if (!host_trial_calls(&gpu_host_metal, GPU_LAUNCH_PLAIN)) n_failed++;
        if (pretend_metal_counts().n_calls >= i) n_calls = i + 1;
        assert_clean();
    }
    print_message("%u calls, after %u of which the host failed\n", (unsigned)n_calls - 1, (unsigned)n_failed);
    assert_int_equal(n_failed + 1, n_calls); /* after each of them, and not in the run that met none */
    assert_true(n_calls > 50);
}

/* Each call in its turn, and what the host has to say of it. */
TEST(what_fails_is_named_with_metals_own_words_where_it_has_some)
{
    static const char *const named[] = {"no Apple GPU of the M1 or later", "program_source:1:1: error: made up",
                                        "residency sets are not there", "the compiler was interrupted",
                                        "a list failed: the device gave up", "kernel add: there is none",
                                        "kernel add: simdgroups are not of 32", "kernel add: the device runs fewer",
                                        "no memory for a buffer", "no list of commands"};
    bool found[sizeof named / sizeof *named] = {false};
    for (uint64_t i = 1; i < 40; i++) {
        char why[256] = "";
        const struct elements_record record = {.n = 64};
        be(PRETEND_LISTS_LATE, i);
        struct gpu *g = gpu_host_metal.open(why, sizeof why);
        struct gpu_buffer *a = g ? gpu_host_metal.alloc(g, 256) : NULL, *b = a ? gpu_host_metal.alloc(g, 256) : NULL;
        const struct gpu_pipe *pipe = b ? gpu_host_metal.pipe(g, "add") : NULL;
        const struct gpu_ref refs[2] = {{a, 0, 256}, {b, 0, 256}};
        const unsigned grid[3] = {1, 1, 1};
        if (pipe && gpu_host_metal.dispatch(g, pipe, &record, sizeof record, refs, 2, grid, 256))
            (void)(gpu_host_metal.submit(g) && gpu_host_metal.wait(g));
        const char *said = g ? gpu_host_metal.error(g) : why;
        for (size_t k = 0; k < sizeof named / sizeof *named; k++) found[k] = found[k] || strstr(said, named[k]);
        if (g) gpu_host_metal.free(g, a);
        if (g) gpu_host_metal.free(g, b);
        if (g) gpu_host_metal.close(g);
        assert_clean();
    }
    for (size_t k = 0; k < sizeof named / sizeof *named; k++)
        if (!found[k]) fail_msg("never said: %s", named[k]);
}

TEST(an_engine_whose_device_fails_says_so_and_leaves_nothing)
{
    struct ds4_error error = {0};
    float logits[HOST_TRIAL_VOCAB];
    be(PRETEND_LISTS_LATE, 0);
    if (!host_trial_engine("metal", NULL, logits, &error)) fail_msg("%s", error.message);
    assert_clean();
    uint64_t n_calls = pretend_metal_counts().n_calls, n_failed = 0, n_tried = 0;
    for (uint64_t i = 1; i <= n_calls; i += 1 + n_calls / 30, n_tried++) {
        error = (struct ds4_error){0};
        be(PRETEND_LISTS_LATE, i);
        if (!host_trial_engine("metal", NULL, logits, &error)) {
            assert_true(strlen(error.message) > 8);
            n_failed++;
        }
        assert_clean();
    }
    print_message("%u calls; %u engines, %u failed\n", (unsigned)n_calls, (unsigned)n_tried, (unsigned)n_failed);
    assert_true(n_failed > 20);
}

TEST(an_engine_gives_the_bits_of_the_emulator_whenever_lists_are_done)
{
    struct ds4_error error = {0};
    float got[HOST_TRIAL_VOCAB], want[HOST_TRIAL_VOCAB];
    if (!host_trial_engine("emu", NULL, want, &error)) fail_msg("%s", error.message);
    for (enum pretend_lists lists = 0; lists < PRETEND_LISTS; lists++) {
        be(lists, 0);
        if (!host_trial_engine("metal", NULL, got, &error)) fail_msg("%s", error.message);
        assert_memory_equal(got, want, sizeof want);
        assert_clean();
    }
}

TEST(parts_of_a_buffer_beyond_4_gib_are_reached_and_what_is_larger_than_a_buffer_is_refused)
{
    pretend_metal(&(struct pretend_metal_options){.buffer_bytes_max = (uint64_t)8 << 30});
    assert_true(host_trial_far(&gpu_host_metal));
    assert_clean();
    be(PRETEND_LISTS_EARLY, 0);
    assert_false(host_trial_far(&gpu_host_metal));
    assert_clean();
}

TEST(a_missing_barrier_between_dispatches_is_reported)
{
    char why[64];
    be(PRETEND_LISTS_LATE, 0);
    struct gpu *g = gpu_host_metal.open(why, sizeof why);
    const struct elements_record record = {.n = 64};
    struct gpu_buffer *a = gpu_host_metal.alloc(g, 256), *b = gpu_host_metal.alloc(g, 256);
    const struct gpu_pipe *pipe = gpu_host_metal.pipe(g, "add");
    const struct gpu_ref there[2] = {{a, 0, 256}, {b, 0, 256}}, back[2] = {{b, 0, 256}, {a, 0, 256}};
    const unsigned grid[3] = {1, 1, 1};
    gpu_host_metal.overlap(g, true);
    assert_true(gpu_host_metal.dispatch(g, pipe, &record, sizeof record, there, 2, grid, 256));
    assert_true(gpu_host_metal.dispatch(g, pipe, &record, sizeof record, back, 2, grid, 256));
    gpu_host_metal.overlap(g, false);
    assert_true(gpu_host_metal.submit(g));
    assert_false(gpu_host_metal.wait(g));
    assert_non_null(strstr(gpu_host_metal.error(g), "at the same time"));
    gpu_host_metal.free(g, a);
    gpu_host_metal.free(g, b);
    gpu_host_metal.close(g);
    assert_non_null(pretend_metal_report());
    assert_int_equal(pretend_metal_n_alive(), 0);
}

int main(void)
{
    seed = test_seed();
    return RUN_TESTS(T(a_missing_barrier_between_dispatches_is_reported),
                     T(lists_copies_and_posts_are_in_order_whenever_lists_are_done),
                     T(every_call_of_metal_may_fail_and_the_host_says_so_and_leaves_nothing),
                     T(what_fails_is_named_with_metals_own_words_where_it_has_some),
                     T(parts_of_a_buffer_beyond_4_gib_are_reached_and_what_is_larger_than_a_buffer_is_refused),
                     T(an_engine_whose_device_fails_says_so_and_leaves_nothing),
                     T(an_engine_gives_the_bits_of_the_emulator_whenever_lists_are_done),
                     T(every_operation_agrees_with_the_reference_through_the_metal_host),
                     T(the_kernels_for_many_rows_go_through_the_metal_host),
                     T(experts_in_a_pool_are_used_where_they_lie_through_the_metal_host),
                     T(choices_are_those_of_the_emulator_whenever_lists_are_done));
}

#else

TEST(this_build_cannot_make_the_pretend_metal) { print_message("no clang with Objective-C, or no emulator\n"); }
int main(void) { return RUN_TESTS(T(this_build_cannot_make_the_pretend_metal)); }

#endif
