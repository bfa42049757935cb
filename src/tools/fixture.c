/* fixture.c - `ds4 fixture KIND -o FILE [--option VALUE]...`: the kinds and the command line. */
#include "tools/fixture.h"

#include <stdio.h>

#include "base/span.h"
#include "tools/fixture_plan.h"

#define DEFAULT_MERGES "tests/golden/text/ds4_merges.bin.xz"

struct request {
    const char *kind, *path, *merges;
    uint32_t n_threads;
    struct fixture_plan plan;
};

static const struct kind {
    const char *name, *help;
} kinds[] = {
    {"tiny", "the small model of the test vectors, 8 layers of every kind (40 MB in F16)"},
    {"random", "the same with any numbers, by the options below"},
    {"flash", "DeepSeek V4 Flash in full size, mostly holes: 86.7 GB long, about 13 GB on disk"},
    {"vocab", "no tensors: the full vocabulary of 129,280 tokens"},
};

static void print_help(void)
{
    (void)printf("usage: ds4 fixture KIND -o FILE [--option VALUE]...\n\n"
                 "Writes a model file with generated weights, for tests and measurements.\n\n");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) (void)printf("  %-8s %s\n", kinds[i].name, kinds[i].help);
    (void)printf("\n  --%-16s %s\n  --%-16s %s\n  --%-16s %s\n", "dspark", "adds the block drafter's tensors (flag)",
                 "threads", "0 = one a core", "merges", "compact merge list of the full vocabulary");
    fixture_config_help();
}

static bool is_kind(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, name) == 0) return true;
    return false;
}

static enum ds4_status set_option(struct request *r, const char *key, const char *value, struct ds4_error *error)
{
    struct ds4_error reason = {0};
    if (strcmp(key, "merges") == 0) {
        r->merges = value;
    } else if (strcmp(key, "threads") == 0) {
        uint32_t n = 0;
        for (const char *c = value; *c >= '0' && *c <= '9' && n < 1000; c++) n = 10 * n + (uint32_t)(*c - '0');
        r->n_threads = n;
    } else if (!fixture_config_set(&r->plan.config, key, value, &reason)) {
        return err_set(error, DS4_ERR_FORMAT, "there is no option --%s", key);
    }
    return reason.status == DS4_OK ? DS4_OK : err_set(error, reason.status, "%s", reason.message);
}

static enum ds4_status parse(struct request *r, int argc, char **argv, struct ds4_error *error)
{
    if (argc < 2 || !is_kind(argv[1])) return err_set(error, DS4_ERR_FORMAT, "name a kind: tiny, random, flash or vocab");
    r->kind = argv[1];
    r->merges = DEFAULT_MERGES;
    bool full = strcmp(r->kind, "flash") == 0 || strcmp(r->kind, "vocab") == 0;
    r->plan.config = full ? fixture_config_flash() : fixture_config_tiny();
    for (int i = 2; i < argc; i++) {
        const char *arg = argv[i];
        if (strcmp(arg, "--dspark") == 0) {
            r->plan.config.dspark = true;
            continue;
        }
        bool path = strcmp(arg, "-o") == 0 || strcmp(arg, "--output") == 0;
        if (!path && strncmp(arg, "--", 2) != 0) return err_set(error, DS4_ERR_FORMAT, "\"%s\" is no option", arg);
        if (i + 1 == argc) return err_set(error, DS4_ERR_FORMAT, "%s needs a value", arg);
        const char *value = argv[++i];
        if (path) r->path = value;
        else TRY(set_option(r, arg + 2, value, error));
    }
    if (!r->path) return err_set(error, DS4_ERR_FORMAT, "name the file to write: -o FILE");
    return fixture_config_check(&r->plan.config, error);
}

static enum ds4_status write_vocab(const struct request *r, struct ds4_error *error)
{
    struct gguf_writer *w;
    TRY(gguf_writer_create(r->path, &w, error));
    gguf_put_string(w, "general.architecture", SPAN("deepseek4"));
    gguf_put_string(w, "general.name", SPAN("DeepSeek V4 vocabulary"));
    gguf_put_u32(w, "deepseek4.vocab_size", r->plan.vocab.n_tokens);
    fixture_put_tokenizer(w, &r->plan.vocab);
    enum ds4_status status = gguf_writer_begin(w, error);
    if (status == DS4_OK) status = gguf_writer_finish(w, error);
    gguf_writer_destroy(w);
    return status;
}

static enum ds4_status run(struct request *r, struct ds4_error *error)
{
    struct fixture_plan *plan = &r->plan;
    bool full = strcmp(r->kind, "flash") == 0 || strcmp(r->kind, "vocab") == 0;
    if (full) TRY(fixture_vocab_full(&plan->vocab, r->merges, error));
    else TRY(fixture_vocab_small(&plan->vocab, plan->config.n_vocab, error));
    if (strcmp(r->kind, "vocab") == 0) return write_vocab(r, error);
    TRY(fixture_plan_tensors(plan, error));
    return fixture_write(plan, r->path, r->n_threads, error);
}

int cmd_fixture(int argc, char **argv)
{
    struct ds4_error error = {0};
    struct request r = {0};
    if (argc < 2 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0) {
        print_help();
        return argc < 2 ? 2 : 0;
    }
    enum ds4_status status = parse(&r, argc, argv, &error);
    int code = status == DS4_OK ? 0 : 2;
    if (status == DS4_OK) {
        status = run(&r, &error);
        if (status != DS4_OK) code = 1;
    }
    if (status != DS4_OK) (void)fprintf(stderr, "ds4 fixture: %s\n", error.message);
    fixture_plan_deinit(&r.plan);
    return code;
}
