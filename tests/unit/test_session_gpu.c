/* test_session_gpu.c - the engine on a GPU backend, in the emulator: the logits are those of the CPU backend up to
 * arithmetic, a token's logits have the same bits in any chunk and company, a session saved on one backend goes on on
 * another, and drafts are the same.
 *
 * Tolerances, of the spread of the logits, root mean square over a position; what is measured is printed: 0.5% with
 * float weights, where the backends sum in different orders; 2% with block formats, for which they also round their
 * inputs differently (to 12 bits here). State that is rounded to 8 and 4 bits turns small differences into steps. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/backend.h"
#include "lib/model.h"
#include "lib/test.h"

#ifdef DS4_GPU_EMU

#include "gpu/emu/emu.h"

#define N_TOKENS 22u
#define TOLERANCE 0.005
#define BLOCK_TOLERANCE 0.02

#define MODEL "random --seed 3 --layers 3 --ratios 0,4,128 --dim 64 --heads 2 --head-dim 128 --q-rank 32 " \
    "--o-groups 2 --o-rank 16 --window 16 --index-heads 2 --index-dim 128 --index-topk 4 --experts 4 --used 2 " \
    "--inner 32 --hash-layers 1 --vocab 300 --hc 2 --context 1024"
#define BLOCK_FORMATS " --type q8_0 --experts-type mxfp4 --small f16"

static bool in_blocks;         /* which of the two models */
static uint64_t device_bytes; /* of an emulated memory of its own; 0: it has none */

static struct ds4_engine *open_on(const char *backend, bool draft)
{
    struct ds4_engine_options options = {.ctx_tokens = 256, .chunk_tokens = 32, .n_threads = 1, .n_sessions_max = 2,
                                         .backend = backend, .draft = draft, .device_memory_bytes = device_bytes};
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
    if (!(sqrt(error) <= (in_blocks ? BLOCK_TOLERANCE : TOLERANCE) * sqrt(spread)))
        fail_msg("%s: logits are off by %.2g of their spread", what, sqrt(error / spread));
}

static float *floats(size_t n) { return calloc(n, sizeof(float)); }

TEST(logits_are_those_of_the_cpu_and_the_same_bits_in_any_chunk)
{
    in_blocks = true;
    static const size_t few[] = {1, 3, 1, 2}, mixed[] = {5, 17};
    struct ds4_engine *cpu = open_on("cpu", false), *emu = open_on("emu", false);
    n_vocab = ds4_engine_info(cpu)->n_vocab;
    assert_string_equal(ds4_engine_info(emu)->backend, "emu");
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

TEST(two_sessions_in_a_batch_and_a_fork_give_the_bits_of_one_alone)
{
    in_blocks = false;
    struct ds4_engine *emu = open_on("emu", false);
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

/* The logits after 6 tokens. */
static void logits_of_six(float *logits)
{
    struct ds4_engine *emu = open_on("emu", false);
    struct ds4_error error = {0};
    struct ds4_session *s = new_session(emu);
    struct ds4_job job = {.session = s, .tokens = tokens, .n = 6};
    assert_ok(ds4_eval(emu, &job, 1, &error), error);
    memcpy(logits, ds4_session_logits(s), n_vocab * sizeof *logits);
    ds4_session_destroy(s);
    ds4_engine_close(emu);
}

/* A plan for an emulated device with so much memory. */
static struct ds4_plan plan_for(uint64_t bytes)
{
    struct ds4_plan plan;
    struct ds4_error error = {0};
    struct ds4_engine_options options = {.model_path = model_file("gpu_blocks", MODEL BLOCK_FORMATS), .backend = "emu",
                                         .ctx_tokens = 256, .chunk_tokens = 32, .n_threads = 1, .n_sessions_max = 2,
                                         .device_memory_bytes = bytes};
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
    struct ds4_engine *emu = open_on("emu", false);
    struct ds4_error error = {0};
    struct ds4_session *s = new_session(emu);
    struct ds4_job job = {.session = s, .tokens = tokens, .n = 6};
    assert_ok(ds4_eval(emu, &job, 1, &error), error);
    uint64_t first = 0, prefill = emu_dispatch_digest();
    for (size_t t = 6; t < 9; t++) { /* a window of 4 ends in between */
        struct ds4_job next = {.session = s, .tokens = tokens + t, .n = 1};
        assert_ok(ds4_eval(emu, &next, 1, &error), error);
        uint64_t digest = emu_dispatch_digest();
        if (t == 6) first = digest;
        assert_int_equal(digest, first);
    }
    assert_int_not_equal(first, prefill);
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
    const uint8_t *spans[1] = {ds4_session_span(s, 0)};
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
    free(logits);
}

TEST(a_session_saved_on_one_backend_goes_on_on_another)
{
    move_session("cpu", "emu");
    move_session("emu", "cpu");
    print_message("largest difference from the CPU, float weights: %.2g of the spread of the logits\n", worst);
}

TEST(drafts_are_those_of_the_cpu)
{
    int32_t drafts[2][3];
    for (int i = 0; i < 2; i++) {
        struct ds4_engine *e = open_on(i ? "emu" : "cpu", true);
        struct ds4_session *s = new_session(e);
        struct ds4_error error = {0};
        struct ds4_job job = {.session = s, .tokens = tokens, .n = 9};
        size_t n = 0;
        assert_true(ds4_engine_info(e)->has_mtp);
        assert_ok(ds4_eval(e, &job, 1, &error), error);
        assert_ok(ds4_session_draft(s, tokens[9], 3, drafts[i], &n, &error), error);
        assert_int_equal(n, 3);
        ds4_session_destroy(s);
        ds4_engine_close(e);
    }
    assert_memory_equal(drafts[0], drafts[1], sizeof drafts[0]);
}

int main(void)
{
    return RUN_TESTS(T(logits_are_those_of_the_cpu_and_the_same_bits_in_any_chunk),
                     T(two_sessions_in_a_batch_and_a_fork_give_the_bits_of_one_alone),
                     T(weights_split_between_a_device_and_the_machine_give_the_same_bits),
                     T(a_decode_step_is_the_same_list_of_dispatches_for_every_token),
                     T(a_session_saved_on_one_backend_goes_on_on_another), T(drafts_are_those_of_the_cpu));
}

#else

TEST(this_build_has_no_emulator_to_run_on)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_to_run_on)); }

#endif
