/* test_selftest.c - `ds4 selftest`: every operation has cases, and a kernel that gives something wrong, or breaks a
 * rule of the emulator, is named with what differs. Kernels are spoiled one after the other: each runs as it is, and
 * then one number of what it wrote is another. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/test.h"
#include "tools/selftest_table.h"
#include "tools/tools.h"

static const char *const op_names[] = {
#define OP(op_name) #op_name,
#include "ops/ops.def"
#undef OP
};
#define N_OPS (sizeof op_names / sizeof *op_names)

TEST(every_operation_has_cases_quick_ones_and_one_in_real_size_that_is_timed)
{
    for (size_t op = 0; op < N_OPS; op++) {
        size_t n = 0, n_quick = 0, n_timed = 0;
        for (size_t i = 0; i < n_op_table; i++) {
            if (strcmp(op_table[i].op, op_names[op]) != 0) continue;
            n++;
            n_quick += op_table[i].shape.quick;
            n_timed += op_table[i].shape.timed;
        }
        if (n < 2 || n_quick == 0 || n_timed == 0)
            fail_msg("%s has %zu cases, %zu quick ones, %zu timed ones", op_names[op], n, n_quick, n_timed);
    }
}

#ifdef DS4_GPU_EMU
#include "gpu/emu/emu.h"

static char text[1 << 16];

/* Runs the command; what it printed is in text. */
static int selftest(int argc, char **argv)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/report", test_dir());
    (void)fflush(stdout);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), out = dup(1);
    assert_true(file >= 0 && out >= 0 && dup2(file, 1) == 1);
    int exit_code = cmd_selftest(argc, argv);
    assert_true(dup2(out, 1) == 1);
    ssize_t n = pread(file, text, sizeof text - 1, 0);
    assert_true(n > 0);
    text[n] = 0;
    (void)close(file);
    (void)close(out);
    return exit_code;
}

static int selftest_of(const char *op)
{
    char *argv[] = {"selftest", "--backend", "emu", "--quick", "--op", (char *)(uintptr_t)op, NULL};
    return selftest(6, argv);
}

/* Kernels, the operation that runs them, which number is spoiled, and of which of the parameters that they write: so
 * many before the last; not in the first launches. */
#define S(kernel_name, op_name) {#kernel_name, #op_name, 0, 0, 0}
static const struct spoil {
    const char *kernel, *op;
    size_t at;
    int back;
    unsigned launches;
} spoils[] = {
    S(embed_q4_k, embed), {"hc_dot_f32", "hc_mix", 0, 1, 0}, {"hc_dot_mxfp4", "hc_mix", 0, 1, 0}, S(hc_mix, hc_mix),
    S(hc_head, hc_head),
    {"hc_reduce", "hc_reduce", 0, 3, 0}, {"hc_enter", "hc_mix", 0, 3, 0}, S(hc_expand, hc_expand),
    S(rms_norm, rms_norm), {"rope", "rope", 128, 0, 0}, {"matvec_f16", "matmul", 0, 4, 0}, S(matmul_bf16, matmul),
    S(quantise, matmul), {"product_mxfp4", "matmul", 0, 4, 0}, S(products_q8_0, matmul), S(tiles_q6_k, matmul),
    S(tiles_q2_k, matmul), S(kv_store, kv_store), S(compress_pool, compress), S(compress_slots, compress),
    {"norm_rope", "kv_store", 0, 2, 0}, S(norm_rope, kv_store), {"prepare", "kv_store", 0, 3, 0},
    {"prepare", "compress", 0, 1, 0}, S(index_query, index_query), S(index_top, index_select),
    {"attention_merge", "attention", 0, 3, 0}, {"attention_merge", "attention", 0, 1, 0},
    {"rope_quantise", "rope", 0, 1, 0}, {"rope_quantise", "rope", 96, 3, 0},
    {"router", "router", 0, 8, 0}, S(moe_gate_up_f32, moe_gate_up), S(moe_down_f32, moe_down),
    S(expert_down_iq2_xxs, moe_down), S(moe_sum, moe_down), S(swiglu, swiglu), S(add, add), S(add_streams, add_streams),
    S(gather, gather),
    {"rms_norm_quantise", "rms_norm", 0, 1, 0}, {"swiglu_quantise", "swiglu", 0, 1, 0},
    {"moe_expert_f16", "moe_gate_up", 0, 0, 0}, S(expert_product_q2_k_packed, moe_gate_up), S(attention, attention),
    S(attention_part, attention), S(logits_most, candidates), {"logits_near", "candidates", 0, 2, 0},
    S(logits_join, candidates), S(logits_join, choice), {"logits_choose", "choice", 0, 2, 0},
    S(logits_choose, choice), S(generate, made_up), S(repack, repack), S(moe_places, places),
    {"expert_gate_up_q8_0", "shared", 0, 0, 1}, {"expert_gate_up_q8_0", "streamed", 0, 0, 1},
    {"expert_tiles_q8_0", "streamed", 0, 0, 3},
};

#define N_SPOILS (sizeof spoils / sizeof *spoils)

/* Kernels in place of those of the same names, from when they are registered: the last is found. They do what the
 * originals do, and then, while they are the active one, something else. */
static struct stand_in {
    struct emu_kernel kernel;
    const struct emu_kernel *original;
} stand_ins[N_SPOILS + 1];
static const struct stand_in *active; /* NULL: none */
static struct spoil spoil;

static const struct stand_in *stand_in_of(void (*fn)(void))
{
    if (active && active->kernel.fn == fn) return active;
    for (size_t i = 0; i <= N_SPOILS; i++)
        if (stand_ins[i].kernel.fn == fn) return &stand_ins[i];
    return NULL;
}

static void run_spoiled(void (*fn)(void), void *const *args)
{
    const struct stand_in *stand_in = stand_in_of(fn);
    int last = stand_in->original->n_params - 1;
    stand_in->original->run(fn, args);
    if (stand_in != active || emu_thread() != 0 || emu_group(0) || emu_group(1) || emu_group(2)) return;
    if (spoil.launches > 0 && spoil.launches-- > 0) return;
    while (stand_in->original->read_only[last]) last--;
    for (int i = 0; i < spoil.back; i++)
        do last--;
        while (stand_in->original->read_only[last]);
    float *number = (float *)args[last] + spoil.at;
    *number = *number * 1.5f + 0.25f;
}

static void run_divergent(void (*fn)(void), void *const *args)
{
    const struct stand_in *stand_in = stand_in_of(fn);
    stand_in->original->run(fn, args);
    if (stand_in == active && emu_thread() == 0) (void)emu_simd_sum(1, __LINE__); /* the other lanes do not come */
}

static void stand_in(struct stand_in *s, const char *name, void (*run)(void (*fn)(void), void *const *args))
{
    s->original = emu_find(name);
    if (!s->original) fail_msg("there is no kernel %s", name);
    const struct stand_in *before = stand_in_of(s->original->fn);
    if (before && before->kernel.run == s->original->run) s->original = before->original;
    s->kernel = *s->original;
    s->kernel.run = run;
    emu_register(&s->kernel);
    active = s;
}

static void run_all(const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (selftest_of(names[i]) != 0) fail_msg("%s is wrong before anything is spoiled:\n%s", names[i], text);
}

/* Counted by the emulator. Only what is quick, which is what a first look takes. */
TEST(every_kernel_that_there_is_was_run_and_the_report_leaves_none_out)
{
    static const char *const parts[] = {"host", "streamed", "shared", "candidates", "choice", "made_up", "repack",
                                        "places"};
    size_t n = 0;
    run_all(op_names, N_OPS);
    run_all(parts, sizeof parts / sizeof *parts);
    for (const struct emu_kernel *kernel = emu_next(NULL); kernel; kernel = emu_next(kernel), n++)
        if (kernel->n_launches == 0) fail_msg("%s is run by no quick case of any operation or part", kernel->name);
    assert_true(n > 100);
}

TEST(a_kernel_that_gives_a_wrong_number_is_named_with_what_differs)
{
    for (size_t i = 0; i < N_SPOILS; i++) {
        char bad[64];
        stand_in(&stand_ins[i], spoils[i].kernel, run_spoiled);
        spoil = spoils[i];
        int exit_code = selftest_of(spoils[i].op);
        active = NULL;
        (void)snprintf(bad, sizeof bad, "BAD %s: rows ", spoils[i].op);
        const char *line = strstr(text, bad);
        if (exit_code != 1 || !line) fail_msg("%s: nothing was reported:\n%s", spoils[i].kernel, text);
        const char *end = strchr(line, '\n');
        assert_non_null(end);
        bool says_where = memmem(line, (size_t)(end - line), "[", 1) || memmem(line, (size_t)(end - line), " byte ", 6);
        bool says_what = memmem(line, (size_t)(end - line), "wanted", 6) != NULL;
        if (!says_where || !says_what) fail_msg("%s: %.*s", spoils[i].kernel, (int)(end - line), line);
        if (!strstr(text, "checks failed\n") || strstr(text, "\n0 checks failed"))
            fail_msg("%s: no line counts it:\n%s", spoils[i].kernel, text);
        const char *summary = strstr(text, "\nTo paste into a report:\n");
        (void)snprintf(bad, sizeof bad, " failed. %s, rows ", spoils[i].op);
        if (!summary || !strstr(summary, bad))
            fail_msg("%s: the summary does not name it:\n%s", spoils[i].kernel, text);
    }
}

TEST(a_kernel_that_breaks_a_rule_is_named_and_the_other_cases_run)
{
    stand_in(&stand_ins[N_SPOILS], "index_score", run_divergent);
    int exit_code = selftest_of("index_select");
    active = NULL;
    assert_int_equal(exit_code, 1);
    assert_non_null(strstr(text, "BAD index_select: rows "));
    assert_non_null(strstr(text, "kernel index_score, group "));
    assert_non_null(strstr(text, "divergent control flow"));
    assert_int_equal(selftest_of("index_select"), 0);
}

TEST(no_report_when_nothing_is_to_be_checked_and_none_of_what_does_not_exist)
{
    char *nothing[] = {"selftest", "--backend", "cpu", "--op", "repack", NULL};
    assert_int_equal(selftest(5, nothing), 1);
    assert_non_null(strstr(text, "nothing was checked"));
    char *abacus[] = {"selftest", "--backend", "abacus", "--op", "add", NULL};
    assert_int_equal(cmd_selftest(5, abacus), 2);
    char *unknown[] = {"selftest", "--backend", "emu", "--op", "multiply", NULL};
    assert_int_equal(cmd_selftest(5, unknown), 2);
}

int main(void)
{
    return RUN_TESTS(T(every_operation_has_cases_quick_ones_and_one_in_real_size_that_is_timed),
                     T(every_kernel_that_there_is_was_run_and_the_report_leaves_none_out),
                     T(a_kernel_that_gives_a_wrong_number_is_named_with_what_differs),
                     T(a_kernel_that_breaks_a_rule_is_named_and_the_other_cases_run),
                     T(no_report_when_nothing_is_to_be_checked_and_none_of_what_does_not_exist));
}

#else

int main(void) { return RUN_TESTS(T(every_operation_has_cases_quick_ones_and_one_in_real_size_that_is_timed)); }

#endif
