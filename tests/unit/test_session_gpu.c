/* test_session_gpu.c - the engine on a GPU backend, in the emulator: the logits are those of the CPU backend up to
 * arithmetic, a token's logits have the same bits in any chunk and company, a session saved on one backend goes on on
 * another, and drafts are the same.
 *
 * Tolerances, of the spread of the logits, root mean square over a position; what is measured is printed. With float
 * weights 0.5%: only orders of sums differ. With block formats the GPU rounds inputs to 12 bits, which moves a product
 * by about 2.4e-4 of its length; some 25 products lie one behind the other, so logits move by 1.2e-3 where errors are
 * as good as independent: 0.3%, when state is not rounded. Rounding state to 8 and 4 bits turns small differences into
 * steps, four times as much at worst: 1.2%. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/backend.h"
#include "lib/model.h"
#include "lib/test.h"
#include "session/session.h"

#ifdef DS4_GPU_EMU

#include "lib/tested_gpu.h"

#define N_TOKENS 22u
#define TOLERANCE 0.005
#define IDEAL_TOLERANCE 0.003
#define BLOCK_TOLERANCE 0.012

#define MODEL "random --seed 3 --layers 3 --ratios 0,4,128 --dim 64 --heads 2 --head-dim 128 --q-rank 32 " \
    "--o-groups 2 --o-rank 16 --window 16 --index-heads 2 --index-dim 128 --index-topk 4 --experts 4 --used 2 " \
    "--inner 32 --hash-layers 1 --vocab 300 --hc 2 --context 1024"
#define WIDE_MODEL "random --seed 4 --layers 1 --ratios 0 --dim 512 --heads 2 --head-dim 128 --q-rank 32 " \
    "--o-groups 2 --o-rank 16 --window 16 --index-heads 2 --index-dim 128 --index-topk 4 --experts 4 --used 2 " \
    "--inner 32 --hash-layers 1 --vocab 300 --hc 2 --context 1024" BLOCK_FORMATS
#define BLOCK_FORMATS " --type q8_0 --experts-type mxfp4 --small f16"

static bool in_blocks;         /* which of the two models */
static bool ideal;             /* state is not rounded */
static uint64_t device_bytes; /* of an emulated memory of its own; 0: it has none */

static struct ds4_engine *open_on(const char *backend, bool draft)
{
    struct ds4_engine_options options = {.ctx_tokens = 256, .chunk_tokens = 32, .n_threads = 1, .n_sessions_max = 2,
                                         .backend = backend, .draft = draft, .device_memory_bytes = device_bytes,
                                         .ideal = ideal, .launch = strcmp(backend, "cpu") ? TESTED_LAUNCH : NULL};
    const char *path = in_blocks ? model_file("gpu_blocks", MODEL BLOCK_FORMATS) : model_file("gpu", MODEL);
    return model_open(path, options);
}

static struct ds4_session *new_session(struct ds4_engine *e)
{
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_session_create(e, &s, &error), error);
    return s;
}

static int32_t tokens[N_TOKENS + 1];
static uint32_t n_vocab;
static double worst; /* difference so far, of the spread */

/* Rows of all tokens of a session in chunks of these sizes, in turn. */
static void eval_all(struct ds4_engine *e, struct ds4_session *s, const size_t *sizes, size_t n_sizes, float *logits)
{
    struct ds4_error error = {0};
    for (size_t at = 0, i = 0; at < N_TOKENS; i++) {
        size_t n = sizes[i % n_sizes] < N_TOKENS - at ? sizes[i % n_sizes] : N_TOKENS - at;
        struct ds4_job job = {.session = s, .tokens = tokens + at, .n = n, .logits = logits + at * n_vocab};
        assert_ok(ds4_eval(e, &job, 1, &error), error);
        at += n;
    }
}

static void assert_near(const float *got, const float *want, const char *what)
{
    double mean = 0, spread = 0, error = 0;
    for (uint32_t v = 0; v < n_vocab; v++) mean += (double)want[v] / n_vocab;
    for (uint32_t v = 0; v < n_vocab; v++) {
        spread += ((double)want[v] - mean) * ((double)want[v] - mean);
        error += ((double)got[v] - (double)want[v]) * ((double)got[v] - (double)want[v]);
    }
    if (sqrt(error / spread) > worst) worst = sqrt(error / spread);
    double tolerance = ideal ? IDEAL_TOLERANCE : in_blocks ? BLOCK_TOLERANCE : TOLERANCE;
    if (!(sqrt(error) <= tolerance * sqrt(spread)))
        fail_msg("%s: logits are off by %.2g of their spread", what, sqrt(error / spread));
}

static float *floats(size_t n) { return calloc(n, sizeof(float)); }

TEST(logits_are_those_of_the_cpu_and_the_same_bits_in_any_chunk)
{
    in_blocks = true;
    static const size_t few[] = {1, 3, 1, 2}, mixed[] = {5, 17};
    struct ds4_engine *cpu = open_on("cpu", false), *emu = open_on(TESTED_GPU, false);
    n_vocab = ds4_engine_info(cpu)->n_vocab;
    assert_string_equal(ds4_engine_info(emu)->backend, TESTED_GPU);
    for (size_t t = 0; t <= N_TOKENS; t++) tokens[t] = model_token(t, n_vocab);
    float *want = floats(N_TOKENS * n_vocab), *got = floats(N_TOKENS * n_vocab), *other = floats(N_TOKENS * n_vocab);
    struct ds4_session *a = new_session(cpu), *b = new_session(emu), *c = new_session(emu);
    eval_all(cpu, a, mixed, 2, want);
    eval_all(emu, b, mixed, 2, got);
    eval_all(emu, c, few, 4, other);
    for (size_t t = 0; t < N_TOKENS; t++) assert_near(got + t * n_vocab, want + t * n_vocab, "emulator");
    assert_memory_equal(got, other, N_TOKENS * n_vocab * sizeof *got);
    print_message("largest difference from the CPU, block formats: %.2g of the spread of the logits\n", worst);
    worst = 0;
    ds4_session_destroy(a);
    ds4_session_destroy(b);
    ds4_session_destroy(c);
    ds4_engine_close(cpu);
    ds4_engine_close(emu);
    free(want);
    free(got);
    free(other);
}

TEST(without_rounding_of_state_only_what_products_round_is_left)
{
    static const size_t mixed[] = {5, 17};
    in_blocks = ideal = true;
    struct ds4_engine *cpu = open_on("cpu", false), *emu = open_on(TESTED_GPU, false);
    float *want = floats(N_TOKENS * n_vocab), *got = floats(N_TOKENS * n_vocab);
    struct ds4_session *a = new_session(cpu), *b = new_session(emu);
    eval_all(cpu, a, mixed, 2, want);
    eval_all(emu, b, mixed, 2, got);
    for (size_t t = 0; t < N_TOKENS; t++) assert_near(got + t * n_vocab, want + t * n_vocab, "without rounding");
    print_message("largest difference from the CPU, state not rounded: %.2g of the spread of the logits\n", worst);
    worst = 0;
    ideal = false;
    ds4_session_destroy(a);
    ds4_session_destroy(b);
    ds4_engine_close(cpu);
    ds4_engine_close(emu);
    free(want);
    free(got);
}

TEST(two_sessions_in_a_batch_and_a_fork_give_the_bits_of_one_alone)
{
    in_blocks = false;
    struct ds4_engine *emu = open_on(TESTED_GPU, false);
    struct ds4_error error = {0};
    struct ds4_session *a = new_session(emu), *b = new_session(emu), *fork = NULL;
    struct ds4_job jobs[2] = {{.session = a, .tokens = tokens, .n = 11}, {.session = b, .tokens = tokens, .n = 3}};
    assert_ok(ds4_eval(emu, jobs, 2, &error), error);
    for (size_t t = 3; t < 11; t++) {
        struct ds4_job job = {.session = b, .tokens = tokens + t, .n = 1};
        assert_ok(ds4_eval(emu, &job, 1, &error), error);
    }
    assert_memory_equal(ds4_session_logits(a), ds4_session_logits(b), n_vocab * sizeof(float));
    ds4_session_destroy(b);
    assert_ok(ds4_session_fork(a, &fork, &error), error);
    struct ds4_job next[2] = {{.session = a, .tokens = tokens + 11, .n = 2},
                              {.session = fork, .tokens = tokens + 11, .n = 2}};
    assert_ok(ds4_eval(emu, next, 2, &error), error);
    assert_memory_equal(ds4_session_logits(a), ds4_session_logits(fork), n_vocab * sizeof(float));
    ds4_session_destroy(a);
    ds4_session_destroy(fork);
    ds4_engine_close(emu);
}

TEST(an_engine_opens_its_device_once)
{
    in_blocks = false;
    (void)tested_n_opened();
    ds4_engine_close(open_on(TESTED_GPU, false));
    assert_int_equal(tested_n_opened(), 1);
}

/* Decodes with the session's own pick, beside a sampler of the same seed that looks at all logits. */
TEST(tokens_are_picked_from_what_a_gpu_hands_over_as_from_all_logits)
{
    in_blocks = true;
    struct ds4_engine *emu = open_on(TESTED_GPU, false);
    struct ds4_error error = {0};
    struct ds4_session *s = new_session(emu), *copy = NULL;
    struct ds4_sampling p = ds4_sampling_default();
    struct ds4_sampler *near = NULL, *all = NULL;
    p.seed = 5;
    assert_ok(ds4_sampler_create(emu, &p, &near, &error), error);
    assert_ok(ds4_sampler_create(emu, &p, &all, &error), error);
    int32_t next = tokens[0], same;
    for (size_t t = 0; t < 5; t++) {
        struct ds4_job job = {.session = s, .tokens = &next, .n = 1};
        assert_ok(ds4_eval(emu, &job, 1, &error), error);
        assert_ok(ds4_session_pick(s, near, NULL, false, &next, &error), error);
        assert_true(s->logits_there); /* they were not read */
        assert_ok(ds4_sampler_pick(all, ds4_session_logits(s), NULL, false, &same, &error), error);
        assert_int_equal(next, same);
    }
    assert_ok(ds4_session_fork(s, &copy, &error), error);
    assert_memory_equal(ds4_session_logits(copy), ds4_session_logits(s), n_vocab * sizeof(float));
    ds4_sampler_destroy(near);
    ds4_sampler_destroy(all);
    ds4_session_destroy(copy);
    ds4_session_destroy(s);
    ds4_engine_close(emu);
}

static uint64_t n_runs_of(struct ds4_engine *e, const char *kernel)
{
    struct ds4_kernel_time times[160];
    size_t n = ds4_engine_kernel_times(e, times, 160);
    for (size_t i = 0; i < n; i++)
        if (strcmp(times[i].name, kernel) == 0) return times[i].n;
    return 0;
}

TEST(the_head_is_read_once_for_all_sessions_of_a_batch_and_each_picks_from_its_own_row)
{
    in_blocks = true;
    struct ds4_engine *emu = open_on(TESTED_GPU, false);
    struct ds4_error error = {0};
    struct ds4_session *both[2] = {new_session(emu), new_session(emu)};
    struct ds4_job jobs[2] = {{.session = both[0], .tokens = tokens, .n = 3},
                              {.session = both[1], .tokens = tokens + 5, .n = 2}};
    struct ds4_sampling p = ds4_sampling_default();
    struct ds4_sampler *greedy = NULL;
    p.temperature = 0;
    int32_t picked[2], most[2];
    assert_ok(ds4_sampler_create(emu, &p, &greedy, &error), error);
    assert_ok(ds4_engine_time_kernels(emu, true, &error), error);
    assert_ok(ds4_eval(emu, jobs, 2, &error), error);
    assert_int_equal(n_runs_of(emu, "hc_head"), 1);
    for (size_t i = 0; i < 2; i++) {
        assert_true(both[i]->logits_there);
        assert_ok(ds4_session_pick(both[i], greedy, NULL, false, &picked[i], &error), error);
        assert_true(both[i]->logits_there); /* 4 KB were read, not the row */
        assert_ok(ds4_sampler_pick(greedy, ds4_session_logits(both[i]), NULL, false, &most[i], &error), error);
        assert_int_equal(picked[i], most[i]);
    }
    assert_int_not_equal(picked[0], picked[1]); /* of these tokens */
    ds4_sampler_destroy(greedy);
    ds4_session_destroy(both[0]);
    ds4_session_destroy(both[1]);
    ds4_engine_close(emu);
}

/* The logits after 6 tokens. */
static void logits_of_six(float *logits)
{
    struct ds4_engine *emu = open_on(TESTED_GPU, false);
    struct ds4_error error = {0};
    struct ds4_session *s = new_session(emu);
    struct ds4_job job = {.session = s, .tokens = tokens, .n = 6};
    assert_ok(ds4_eval(emu, &job, 1, &error), error);
    memcpy(logits, ds4_session_logits(s), n_vocab * sizeof *logits);
    ds4_session_destroy(s);
    ds4_engine_close(emu);
}

/* Logits after three tokens of a model whose rows are whole groups; packed says how often packed weights were read. */
static void logits_of_wide(float *logits, uint64_t *n_packed)
{
    struct ds4_engine_options options = {.ctx_tokens = 256, .chunk_tokens = 32, .n_threads = 1, .backend = TESTED_GPU};
    struct ds4_engine *emu = model_open(model_file("gpu_wide", WIDE_MODEL), options);
    struct ds4_kernel_time times[160];
    struct ds4_error error = {0};
    assert_ok(ds4_engine_time_kernels(emu, true, &error), error);
    struct ds4_session *s = new_session(emu);
    struct ds4_job job = {.session = s, .tokens = tokens, .n = 3};
    assert_ok(ds4_eval(emu, &job, 1, &error), error);
    memcpy(logits, ds4_session_logits(s), n_vocab * sizeof *logits);
    size_t n = ds4_engine_kernel_times(emu, times, 160);
    *n_packed = 0;
    for (size_t i = 0; i < n; i++)
        if (strstr(times[i].name, "_packed")) *n_packed += times[i].n;
    ds4_session_destroy(s);
    ds4_engine_close(emu);
}

TEST(weights_that_a_device_lays_out_anew_give_the_same_bits)
{
    if (!tested_can_own()) SKIP("this device reads weights where they lie in the machine's memory");
    float *want = floats(n_vocab), *got = floats(n_vocab);
    uint64_t n_packed;
    tested_own_memory(false);
    logits_of_wide(want, &n_packed);
    assert_int_equal(n_packed, 0);
    tested_own_memory(true);
    logits_of_wide(got, &n_packed);
    tested_as_ever();
    assert_true(n_packed >= 4);
    assert_memory_equal(got, want, n_vocab * sizeof *got);
    free(want);
    free(got);
}

/* A plan for an emulated device with so much memory. */
static struct ds4_plan plan_for(uint64_t bytes)
{
    struct ds4_plan plan;
    struct ds4_error error = {0};
    struct ds4_engine_options options = {.model_path = model_file("gpu_blocks", MODEL BLOCK_FORMATS),
                                         .backend = TESTED_GPU, .ctx_tokens = 256, .chunk_tokens = 32, .n_threads = 1,
                                         .n_sessions_max = 2, .device_memory_bytes = bytes};
    assert_ok(ds4_plan_make(&options, &plan, &error), error);
    return plan;
}

TEST(weights_split_between_a_device_and_the_machine_give_the_same_bits)
{
    float *want = floats(n_vocab), *got = floats(n_vocab);
    in_blocks = true;
    logits_of_six(want);
    struct ds4_plan all = plan_for(1u << 30);
    assert_true(all.fits && all.bus_bytes_per_token == 0);
    uint64_t least = all.device_budget_bytes - all.device_room_bytes; /* state and scratch */
    for (uint64_t share = 0; share < 4; share++) {
        device_bytes = least + (all.device_bytes - least) * share / 4;
        struct ds4_plan plan = plan_for(device_bytes);
        assert_true(plan.fits && plan.device_bytes <= device_bytes && plan.bus_bytes_per_token > 0);
        if (share != 2) continue;
        logits_of_six(got);
        assert_memory_equal(got, want, n_vocab * sizeof *got);
    }
    assert_false(plan_for(least - 1).fits);
    device_bytes = 0;
    free(want);
    free(got);
}

/* What changes from token to token is in buffers, so that a device can replay one list. */
TEST(a_decode_step_is_the_same_list_of_dispatches_for_every_token)
{
    in_blocks = true;
    struct ds4_engine *emu = open_on(TESTED_GPU, false);
    struct ds4_error error = {0};
    struct ds4_session *s = new_session(emu);
    struct ds4_job job = {.session = s, .tokens = tokens, .n = 6};
    assert_ok(ds4_eval(emu, &job, 1, &error), error);
    uint64_t first = 0, prefill = tested_digest();
    for (size_t t = 6; t < 9; t++) { /* a window of 4 ends in between */
        struct ds4_job next = {.session = s, .tokens = tokens + t, .n = 1};
        assert_ok(ds4_eval(emu, &next, 1, &error), error);
        uint64_t digest = tested_digest();
        if (t == 6) first = digest;
        assert_int_equal(digest, first);
    }
    assert_int_not_equal(first, prefill);
    ds4_session_destroy(s);
    ds4_engine_close(emu);
}

/* Layers, head and choice are three lists, which come in turn. */
TEST(every_list_of_a_decoded_token_was_given_for_the_token_before)
{
    in_blocks = true;
    struct ds4_engine *emu = open_on(TESTED_GPU, false);
    struct ds4_error error = {0};
    struct ds4_session *s = new_session(emu);
    struct ds4_sampling p = ds4_sampling_default();
    struct ds4_sampler *sampler = NULL;
    int32_t next = tokens[0];
    unsigned n, n_new;
    assert_ok(ds4_sampler_create(emu, &p, &sampler, &error), error);
    tested_lists(&n, &n_new);
    for (size_t t = 0; t < 3; t++) {
        struct ds4_job job = {.session = s, .tokens = &next, .n = 1};
        assert_ok(ds4_eval(emu, &job, 1, &error), error);
        assert_ok(ds4_session_pick(s, sampler, NULL, false, &next, &error), error);
        tested_lists(&n, &n_new);
        assert_int_equal(n, 3);
        if (t > 0) assert_int_equal(n_new, 0);
    }
    ds4_sampler_destroy(sampler);
    ds4_session_destroy(s);
    ds4_engine_close(emu);
}

/* Saves on one backend after all tokens, restores on the other, and takes one more token on both. */
static void move_session(const char *from_name, const char *to_name)
{
    in_blocks = false;
    static const size_t sizes[] = {32};
    struct ds4_engine *from = open_on(from_name, false), *to = open_on(to_name, false);
    struct ds4_error error = {0};
    struct ds4_session *s = new_session(from), *t = new_session(to);
    float *logits = floats(N_TOKENS * n_vocab);
    eval_all(from, s, sizes, 1, logits);
    size_t cap = ds4_state_layout(from)->tip_bytes_max, len;
    uint8_t *tip = calloc(cap, 1);
    uint8_t *span = model_span(from, s, 0);
    const uint8_t *spans[1] = {span};
    assert_int_equal(ds4_session_spans(s), 1);
    assert_ok(ds4_session_tip_save(s, tip, cap, &len, &error), error);
    assert_ok(ds4_session_restore(t, tokens, N_TOKENS, spans, 1, tip, len, &error), error);
    assert_memory_equal(ds4_session_logits(t), ds4_session_logits(s), n_vocab * sizeof(float));
    struct ds4_job here = {.session = s, .tokens = tokens + N_TOKENS, .n = 1};
    struct ds4_job there = {.session = t, .tokens = tokens + N_TOKENS, .n = 1};
    assert_ok(ds4_eval(from, &here, 1, &error), error);
    assert_ok(ds4_eval(to, &there, 1, &error), error);
    assert_near(ds4_session_logits(t), ds4_session_logits(s), "restored");
    ds4_session_destroy(s);
    ds4_session_destroy(t);
    ds4_engine_close(from);
    ds4_engine_close(to);
    free(tip);
    free(span);
    free(logits);
}

TEST(a_session_saved_on_one_backend_goes_on_on_another)
{
    move_session("cpu", TESTED_GPU);
    move_session(TESTED_GPU, "cpu");
    print_message("largest difference from the CPU, float weights: %.2g of the spread of the logits\n", worst);
}

#define N_DRAFTS 6u

/* What is told before the first is all that the device waits for, however many there are; the second time, when lists
 * have become graphs. */
static void count_waits(struct ds4_session *s, const int32_t *want)
{
    uint64_t n_rests[2];
    for (size_t i = 0; i < 4; i++) {
        int32_t drafts[N_DRAFTS];
        struct ds4_error error = {0};
        size_t n, most = i % 2 ? N_DRAFTS : 1;
        (void)tested_n_rests();
        assert_ok(ds4_session_draft(s, tokens[9], most, drafts, &n, &error), error);
        n_rests[i % 2] = tested_n_rests();
        assert_int_equal(n, most);
        assert_memory_equal(drafts, want, n * sizeof *drafts);
    }
    assert_int_equal(n_rests[0], n_rests[1]);
}

TEST(drafts_are_those_of_the_cpu_and_take_one_wait_together)
{
    int32_t drafts[2][N_DRAFTS];
    for (int i = 0; i < 2; i++) {
        struct ds4_engine *e = open_on(i ? TESTED_GPU : "cpu", true);
        struct ds4_session *s = new_session(e);
        struct ds4_error error = {0};
        struct ds4_job job = {.session = s, .tokens = tokens, .n = 9};
        size_t n = 0;
        assert_true(ds4_engine_info(e)->has_mtp);
        assert_ok(ds4_eval(e, &job, 1, &error), error);
        assert_ok(ds4_session_draft(s, tokens[9], N_DRAFTS, drafts[i], &n, &error), error);
        assert_int_equal(n, N_DRAFTS);
        if (i) count_waits(s, drafts[i]);
        ds4_session_destroy(s);
        ds4_engine_close(e);
    }
    assert_memory_equal(drafts[0], drafts[1], sizeof drafts[0]);
}

int main(void)
{
    return RUN_TESTS(T(logits_are_those_of_the_cpu_and_the_same_bits_in_any_chunk),
                     T(without_rounding_of_state_only_what_products_round_is_left),
                     T(two_sessions_in_a_batch_and_a_fork_give_the_bits_of_one_alone),
                     T(an_engine_opens_its_device_once),
                     T(weights_that_a_device_lays_out_anew_give_the_same_bits),
                     T(tokens_are_picked_from_what_a_gpu_hands_over_as_from_all_logits),
                     T(the_head_is_read_once_for_all_sessions_of_a_batch_and_each_picks_from_its_own_row),
                     T(weights_split_between_a_device_and_the_machine_give_the_same_bits),
                     T(a_decode_step_is_the_same_list_of_dispatches_for_every_token),
                     T(every_list_of_a_decoded_token_was_given_for_the_token_before),
                     T(a_session_saved_on_one_backend_goes_on_on_another),
                     T(drafts_are_those_of_the_cpu_and_take_one_wait_together));
}

#else

TEST(this_build_has_no_emulator_to_run_on)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_to_run_on)); }

#endif
