/* selftest.c - `ds4 selftest`: one report on the devices of a machine, for its owner to send: the device and its
 * driver, whether all kernels build, a model end to end, what the host does for a device (selftest_host.h), every
 * operation of the forward pass against the reference (selftest_ops.h) and what else a device runs (selftest_parts.h),
 * how fast each is beside the device's own copying, and a paragraph that sums up. Nothing is kept. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "command/model_flags.h"
#include "ds4.h"
#include "ops/cpu/kernels.h"
#include "tools/selftest_host.h"
#include "tools/selftest_parts.h"
#include "tools/tools.h"

#define TOKENS 40u
/* Of the spread of the logits, for the median of half of the positions. The CPU rounds the inputs of experts in two
 * bits to 8 bits, which moves a product by 0.4% of its length; some 30 products with such errors lie one behind the
 * other, so 0.4% sqrt(30) = 2% if each passed on all errors of those before; twice that, because rounding of state to
 * 8 and 4 bits makes steps of small differences. Where two experts are as good, or a stored value lies between two
 * steps, one position may be off by much more: not half of them. */
#define MODEL_TOLERANCE 0.05

struct selftest_flags {
    struct model_flags model;
    const char *op;
    bool quick, json;
};
static const struct option rows[] = {
    MODEL_FLAG_ROW_FILE(struct selftest_flags, model),
    {.name = "backend", .value = "NAME", .type = OPTION_TEXT, .offset = offsetof(struct selftest_flags, model.backend),
     .help = "only this one: cpu, cuda, metal, emu (an emulated GPU: no times, and small shapes only)"},
    MODEL_FLAG_ROW_LAUNCH(struct selftest_flags, model),
    {.letter = 't', .name = "threads", .value = "N", .type = OPTION_U32,
     .offset = offsetof(struct selftest_flags, model.n_threads), .max = 1024,
     .help = "threads for the reference, and the CPU; 0 = one a core"},
    {.name = "op", .value = "NAME", .type = OPTION_TEXT, .offset = offsetof(struct selftest_flags, op),
     .help = "only this operation (attention, matmul, ...) or part (host, streamed, shared, candidates, choice, "
             "made_up, repack, places), and no model"},
    {.name = "quick", .type = OPTION_FLAG, .offset = offsetof(struct selftest_flags, quick),
     .help = "a few small cases of each operation, and no times"},
    {.name = "json", .type = OPTION_FLAG, .offset = offsetof(struct selftest_flags, json), .help = "as a JSON object"},
};

/* Of those in this build: the GPU's, and the CPU's. */
static enum ds4_status check_backend_name(const char *name, struct ds4_error *error)
{
    char names[64] = "";
    if (!name || strcmp(name, "cpu") == 0) return DS4_OK;
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++) {
        size_t used = strlen(names);
        if (strcmp(name, choice->ops->name) == 0) return DS4_OK;
        (void)snprintf(names + used, sizeof names - used, ", %s", choice->ops->name);
    }
    return err_set(error, DS4_ERR_FORMAT, "--backend %.80s: is not in this build, which has cpu%s", name, names);
}

static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct selftest_flags *flags = values;
    if (flags->op && !ops_test_knows(flags->op)) {
        struct buf names = {0};
        ops_test_names(&names);
        (void)err_set(error, DS4_ERR_FORMAT, "--op %.80s: must be one of %.*s", flags->op, (int)names.text.len,
                      names.text.len ? names.text.ptr : "");
        buf_deinit(&names);
        return DS4_ERR_FORMAT;
    }
    TRY(check_backend_name(flags->model.backend, error));
    return model_flags_check(&flags->model, error);
}

static const struct options table = {
    .command = "selftest", .summary = "check the GPUs and the CPU of this machine and print a report",
    OPTIONS_ROWS(rows), .check = check,
    .notes = "Without --backend every GPU that this build can use is checked, and the CPU: that its kernels\n"
             "build, a model end to end, on a GPU what the host does for it (host: memory, order, copies,\n"
             "lists), every operation of the forward pass, and the parts: experts that come from disk\n"
             "(streamed, shared), the choice of tokens (candidates, choice), made-up weights, matrices laid out\n"
             "anew (repack, places). What is wrong is named with the shape, the element, what it is and what\n"
             "was wanted. The last paragraph sums up, to be pasted into a report of a fault. Status 1 when a\n"
             "check failed, or when there was nothing to check.\n"
             "of tolerance: how much of the allowed error was used. Times are the device's own; of streamed\n"
             "experts they are the host's, copies and all.",
};

/* Logits [TOKENS][*n_vocab] of some tokens on a backend: half of them in one batch, half one by one. */
static bool model_logits(const struct selftest_flags *flags, const char *backend, float **logits, uint32_t *n_vocab,
                         struct ds4_error *error)
{
    struct ds4_engine_options options = {.model_path = flags->model.path, .backend = backend, .ctx_tokens = 256,
                                         .chunk_tokens = TOKENS, .n_threads = flags->model.n_threads,
                                         .launch = flags->model.launch};
    struct ds4_engine *e = NULL;
    struct ds4_session *s = NULL;
    int32_t tokens[TOKENS];
    if (strcmp(backend, "cpu") == 0 || strcmp(backend, "ref") == 0) options.launch = NULL;
    bool good = ds4_engine_open(&options, &e, error) == DS4_OK && ds4_session_create(e, &s, error) == DS4_OK;
    *n_vocab = good ? ds4_engine_info(e)->n_vocab : 1;
    *logits = mem_alloc((size_t)TOKENS * *n_vocab, sizeof **logits);
    good = good && *logits;
    for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = (int32_t)((i * 37 + 11) % *n_vocab);
    for (uint32_t at = 0, n = TOKENS / 2; good && at < TOKENS; at += n, n = 1) {
        struct ds4_job job = {.session = s, .tokens = tokens + at, .n = n, .logits = *logits + (size_t)at * *n_vocab};
        good = ds4_eval(e, &job, 1, error) == DS4_OK;
    }
    ds4_session_destroy(s);
    ds4_engine_close(e);
    return good;
}

/* How far logits are off, of their spread. */
static double distance_of(const float *got, const float *want, uint32_t n)
{
    double mean = 0, spread = 0, difference = 0;
    for (uint32_t v = 0; v < n; v++) mean += (double)want[v] / n;
    for (uint32_t v = 0; v < n; v++) {
        spread += ((double)want[v] - mean) * ((double)want[v] - mean);
        difference += ((double)got[v] - (double)want[v]) * ((double)got[v] - (double)want[v]);
    }
    return difference == 0 ? 0 : sqrt(difference / spread);
}

/* The median over some positions; not a number counts as far off. */
static double median_distance(const float *got, const float *want, uint32_t n_vocab, uint32_t n)
{
    double sorted[TOKENS];
    for (uint32_t t = 0; t < n; t++) {
        double off = distance_of(got + (size_t)t * n_vocab, want + (size_t)t * n_vocab, n_vocab);
        uint32_t i = t;
        if (!isfinite(off)) off = 1e30;
        for (; i > 0 && sorted[i - 1] > off; i--) sorted[i] = sorted[i - 1];
        sorted[i] = off;
    }
    return sorted[n / 2];
}

static void check_model(const struct selftest_flags *flags, const char *backend, struct report *report)
{
    float *got = NULL, *want = NULL;
    uint32_t n_vocab = 0, half = TOKENS / 2;
    struct ds4_error error = {0};
    char detail[sizeof error.message];
    bool good = model_logits(flags, backend, &got, &n_vocab, &error) &&
                model_logits(flags, "ref", &want, &n_vocab, &error);
    if (good) {
        size_t later = (size_t)half * n_vocab;
        double together = median_distance(got, want, n_vocab, half);
        double alone = median_distance(got + later, want + later, n_vocab, TOKENS - half);
        good = fmax(together, alone) <= MODEL_TOLERANCE;
        (void)snprintf(detail, sizeof detail, "logits off by %.1e of their spread in a prompt, %.1e one by one",
                       together, alone);
    } else {
        (void)snprintf(detail, sizeof detail, "%s", error.message);
    }
    report_check(report, "a model end to end", good, detail);
    mem_free(got);
    mem_free(want);
}

/* Everything about one backend whose device is open (NULL: the CPU). */
static void check_backend(const struct selftest_flags *flags, const struct gpu_choice *choice, struct gpu *device,
                          struct report *report)
{
    struct ops_test *t = mem_zalloc(1, sizeof *t);
    struct ds4_error error = {0};
    const char *backend = choice ? choice->ops->name : "cpu";
    if (!t) {
        report_check(report, "memory for the test", false, "there is none");
        if (device) choice->host->close(device);
        return;
    }
    t->choice = choice;
    t->op = flags->op;
    t->quick = flags->quick;
    t->small = choice && !choice->automatic;
    t->n_threads = flags->model.n_threads;
    t->report = report;
    bool good = ops_test_open(t, device, &error) == DS4_OK;
    report_check(report, "kernels build", good, good ? "" : error.message);
    if (good && !flags->op) check_model(flags, backend, report);
    if (good && choice && (!flags->op || strcmp(flags->op, PART_HOST) == 0)) host_checks(t);
    if (good && !t->small && !t->quick) report_copy_rate(report, ops_test_copy_rate(t), choice != NULL);
    if (good) ops_test_run(t);
    else report_nothing_run(report);
    ops_test_close(t);
    mem_free(t);
}

static void check_gpu(const struct selftest_flags *flags, const struct gpu_choice *choice, struct report *report)
{
    struct gpu_info info;
    char why[512] = "";
    struct gpu *device = choice->host->open(why, sizeof why);
    if (!device) {
        report_absent(report, choice->ops->name, why);
        return;
    }
    choice->host->info(device, &info);
    report_device(report, choice->ops->name, info.name, info.memory_bytes, info.driver);
    check_backend(flags, choice, device, report);
    report_device_end(report);
}

static void check_cpu(const struct selftest_flags *flags, struct report *report)
{
    report_device(report, "cpu", cpu_kernels_best()->name, mem_machine_bytes(), "");
    check_backend(flags, NULL, NULL, report);
    report_device_end(report);
}

int cmd_selftest(int argc, char **argv)
{
    struct selftest_flags flags;
    struct ds4_error error = {0};
    struct report report = {0};
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    if (!flags.op && model_flags_find(&flags.model, NULL, &error) != DS4_OK) return options_failed(&table, &error);
    if (sink_open(&report.out, "-", &error) != DS4_OK) return options_failed(&table, &error);
    report.json = flags.json;
    report_begin(&report);
    const char *wanted = flags.model.backend;
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        if (wanted ? strcmp(wanted, choice->ops->name) == 0 : choice->automatic) check_gpu(&flags, choice, &report);
    if ((!wanted || strcmp(wanted, "cpu") == 0) && !(flags.op && parts_need_gpu(flags.op))) check_cpu(&flags, &report);
    report_end(&report);
    if (sink_close(&report.out, &error) != DS4_OK) return options_failed(&table, &error);
    return report.n_failed || report.n_devices == 0 ? EXIT_CODE_FAILED : EXIT_CODE_OK;
}
