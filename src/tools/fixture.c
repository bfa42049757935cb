/* fixture.c - `ds4 fixture KIND -o FILE`: the kinds and the command line. */
#include "tools/fixture.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/options.h"
#include "base/span.h"
#include "tools/fixture_plan.h"

struct request {
    struct fixture_config config; /* numbers given; 0 = as the kind has it */
    int kind, part;
    const char *path, *merges, *added, *ratios;
    const char *type, *attention, *shared, *embed, *output, *small, *experts, *down;
    int names;
    uint32_t n_threads;
};

enum kind { KIND_TINY, KIND_RANDOM, KIND_CHECKPOINT, KIND_FLASH, KIND_VOCAB };
static const char *const kind_names[] = {"tiny", "random", "checkpoint", "flash", "vocab"};
#define N_KINDS (int)(sizeof kind_names / sizeof *kind_names)

struct values {
    struct request r;
    const char *kind;
};

#define R(field) offsetof(struct values, r.field)
#define NUMBER(name, field, min, max, help) \
    {0, name, "N", OPTION_U32, R(config.field), min, max, 0, false, NULL, help}
#define TEXT(name, value, field, help) {0, name, value, OPTION_TEXT, R(field), 0, 0, 0, false, NULL, help}

static const struct option rows[] = {
    {0, "KIND", NULL, OPTION_OPERAND, offsetof(struct values, kind), 0, 0, 0, true, NULL,
     "tiny, random, checkpoint, flash or vocab: see below"},
    {'o', "output", "FILE", OPTION_TEXT, R(path), 0, 0, 0, true, NULL,
     "file to write; checkpoint: a folder that exists"},
    {0, "seed", "N", OPTION_U64, R(config.seed), 0, 0, 0, false, "0",
     "changes every weight; 0 is the stream of the test vectors"},
    TEXT("type", "FORMAT", type, "format of all matrices; rows that fill no whole block are stored as F16"),
    TEXT("attention", "FORMAT", attention, "format of the attention projections"),
    TEXT("shared", "FORMAT", shared, "format of the shared expert"),
    TEXT("embed", "FORMAT", embed, "format of the embedding"),
    TEXT("head", "FORMAT", output, "format of the output head"),
    TEXT("small", "FORMAT", small, "format of router, hyper-connections, compressors and indexer"),
    TEXT("experts-type", "FORMAT", experts, "format of the experts' gate and up matrices"),
    TEXT("down", "FORMAT", down, "format of the experts' down matrices"),
    NUMBER("layers", n_layers, 1, FIXTURE_LAYERS_MAX, "layers"),
    TEXT("ratios", "LIST", ratios, "compression ratio of each layer: 0, 4 or 128, repeated as needed"),
    NUMBER("dim", n_embd, 32, 65536, "hidden width"),
    NUMBER("heads", n_heads, 1, 1024, "query heads"),
    NUMBER("head-dim", head_dim, 128, 8192, "width of a head: 64 rotated and a multiple of 64"),
    NUMBER("q-rank", q_rank, 1, 65536, "low rank of the queries"),
    NUMBER("o-groups", o_groups, 1, 256, "output groups"),
    NUMBER("o-rank", o_rank, 1, 65536, "rank of an output group"),
    NUMBER("window", window, 1, 65536, "tokens of the sliding window"),
    NUMBER("index-heads", index_heads, 1, 1024, "indexer heads"),
    NUMBER("index-dim", index_dim, 128, 4096, "width of an indexer head, a power of two"),
    NUMBER("index-topk", index_topk, 1, 65536, "compressed rows that the indexer keeps"),
    NUMBER("experts", n_experts, 1, FIXTURE_EXPERTS_MAX, "routed experts"),
    NUMBER("used", n_used, 1, FIXTURE_USED_MAX, "experts used for a token"),
    NUMBER("inner", n_inner, 1, 65536, "inner width of an expert"),
    {0, "hash-layers", "N", OPTION_U32, R(config.n_hash), 0, FIXTURE_LAYERS_MAX, 0, false, "3",
     "layers routed by token id, if there are so many"},
    NUMBER("vocab", n_vocab, 1, 1000000, "tokens of the vocabulary"),
    NUMBER("hc", n_hc, 1, 16, "residual streams"),
    NUMBER("context", ctx_tokens, 1, 1u << 30, "longest context written to the metadata"),
    {0, "part", "all|trunk|mtp", OPTION_CHOICE, R(part), 0, 0, 0, false, "all", "what goes into the file"},
    {0, "dspark", NULL, OPTION_FLAG, R(config.dspark), 0, 0, 0, false, NULL, "adds the tensors of the block drafter"},
    {0, "names", "ds4|alias", OPTION_CHOICE, R(names), 0, 0, 0, false, "ds4",
     "spelling of tensor names; alias: as other publishers do"},
    {0, "empty", NULL, OPTION_FLAG, R(config.empty), 0, 0, 0, false, NULL,
     "no data: a hole of the right length behind the directory"},
    {0, "vectors", NULL, OPTION_FLAG, R(config.vectors), 0, 0, 0, false, NULL,
     "data for vectors and tables only, holes for matrices (`ds4 bench --made-up` fills those on a GPU)"},
    NUMBER("split", n_shards, 1, 99, "number of files"),
    NUMBER("filled-experts", n_filled, 2, FIXTURE_EXPERTS_MAX, "flash: experts of a layer that get data"),
    {0, "merges", "FILE", OPTION_TEXT, R(merges), 0, 0, 0, false, "-",
     "flash, vocab: compact merge list of the full vocabulary, uncompressed; - is standard input"},
    {0, "added", "FILE", OPTION_TEXT, R(added), 0, 0, 0, false, "tests/golden/text/added_tokens.tsv",
     "flash, vocab: table of its added tokens"},
    {0, "threads", "N", OPTION_U32, R(n_threads), 0, 256, 0, false, "0", "0 = one a core"},
};

static const struct options table = {
    .command = "fixture",
    .summary = "write a model file with generated weights, for tests and measurements",
    OPTIONS_ROWS(rows),
    .notes = "  tiny        the small model of the test vectors: 8 layers of every kind\n"
             "  random      the same, meant for any other numbers\n"
             "  checkpoint  a folder as published: safetensors in FP8 and FP4, config.json, tokenizer.json\n"
             "  flash       DeepSeek V4 Flash in full size: 86.7 GB long, mostly holes, about 13 GB on disk\n"
             "  vocab       no tensors, the full vocabulary of 129,280 tokens\n"
             "\nThe last two read the vocabulary, as in\n"
             "  xz -dc tests/golden/text/ds4_merges.bin.xz | ds4 fixture vocab -o vocab.gguf\n",
};

/* ---- from the command line to a plan ------------------------------------------------------------------------ */

static enum ds4_status set_format(const struct quant_format **format, const char *name, struct ds4_error *error)
{
    if (!name) return DS4_OK;
    const struct quant_format *found = quant_format_named(span_from(name));
    if (!found || !fixture_can_make(found))
        return err_set(error, DS4_ERR_UNSUPPORTED, "no values can be made in a format \"%s\"", name);
    *format = found;
    return DS4_OK;
}

static enum ds4_status set_formats(struct fixture_config *c, const struct request *r, struct ds4_error *error)
{
    const struct quant_format *all = NULL;
    TRY(set_format(&all, r->type, error));
    if (all) c->attention = c->shared = c->embed = c->output = c->small = c->gate_up = c->down = all;
    TRY(set_format(&c->attention, r->attention, error));
    TRY(set_format(&c->shared, r->shared, error));
    TRY(set_format(&c->embed, r->embed, error));
    TRY(set_format(&c->output, r->output, error));
    TRY(set_format(&c->small, r->small, error));
    TRY(set_format(&c->gate_up, r->experts, error));
    return set_format(&c->down, r->down, error);
}

static enum ds4_status set_ratios(struct fixture_config *config, const char *list, struct ds4_error *error)
{
    uint32_t n = 0;
    for (const char *at = list; n < FIXTURE_LAYERS_MAX;) {
        char *end;
        unsigned long ratio = strtoul(at, &end, 10);
        if (end == at || (*end && *end != ',') || (ratio != 0 && ratio != 4 && ratio != 128))
            return err_set(error, DS4_ERR_FORMAT, "--ratios: \"%s\" is no list of 0, 4 and 128", list);
        config->ratios[n++] = (uint32_t)ratio;
        if (!*end) break;
        at = end + 1;
    }
    for (uint32_t l = n; l < FIXTURE_LAYERS_MAX; l++) config->ratios[l] = config->ratios[l % n];
    return DS4_OK;
}

/* Numbers that were given replace those of the preset. */
static void take_numbers(struct fixture_config *config, const struct fixture_config *given)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t at = rows[i].offset - R(config);
        uint32_t number;
        if (rows[i].type != OPTION_U32 || rows[i].offset >= R(config) + sizeof *given) continue;
        memcpy(&number, (const char *)given + at, sizeof number);
        if (number) memcpy((char *)config + at, &number, sizeof number);
    }
    config->n_hash = given->n_hash < config->n_layers ? given->n_hash : config->n_layers;
    config->seed = given->seed;
    config->dspark = given->dspark;
    config->empty = given->empty;
    config->vectors = given->vectors;
}

static enum ds4_status make_config(struct fixture_config *config, const struct request *r, struct ds4_error *error)
{
    *config = r->kind >= KIND_FLASH ? fixture_config_flash() : fixture_config_tiny();
    if (r->kind == KIND_CHECKPOINT) { /* so that all projections fill tiles of 128 x 128 */
        config->head_dim = 256;
        config->q_rank = 128;
        config->n_shards = 3;
    }
    take_numbers(config, &r->config);
    if (r->ratios) TRY(set_ratios(config, r->ratios, error));
    TRY(set_formats(config, r, error));
    config->names = r->names ? FIXTURE_NAMES_ALIAS : FIXTURE_NAMES_DS4;
    config->trunk = r->part != 2;
    config->mtp = r->part == 2 || (r->part == 0 && r->kind < KIND_FLASH);
    if (r->kind == KIND_RANDOM) config->name = "ds4 fixture random";
    return fixture_config_check(config, error);
}

static enum ds4_status write_vocab(const struct fixture_vocab *vocab, const char *path, struct ds4_error *error)
{
    struct gguf_writer *w;
    TRY(gguf_writer_create(path, &w, error));
    gguf_put_string(w, "general.architecture", SPAN("deepseek4"));
    gguf_put_string(w, "general.name", SPAN("DeepSeek V4 vocabulary"));
    gguf_put_u32(w, "deepseek4.vocab_size", vocab->n_tokens);
    fixture_put_tokenizer(w, vocab);
    enum ds4_status status = gguf_writer_begin(w, error);
    if (status == DS4_OK) status = gguf_writer_finish(w, error);
    gguf_writer_destroy(w);
    return status;
}

static enum ds4_status write_model(const struct request *r, struct fixture_plan *plan, struct ds4_error *error)
{
    if (r->kind >= KIND_FLASH) TRY(fixture_vocab_full(&plan->vocab, r->merges, r->added, error));
    else TRY(fixture_vocab_small(&plan->vocab, plan->config.n_vocab, error));
    if (r->kind == KIND_VOCAB) return write_vocab(&plan->vocab, r->path, error);
    if (plan->vocab.n_tokens != plan->config.n_vocab)
        return err_set(error, DS4_ERR_FORMAT, "%s gives %u tokens, not %u", r->merges, plan->vocab.n_tokens,
                       plan->config.n_vocab);
    TRY(fixture_plan_tensors(plan, error));
    if (r->kind == KIND_CHECKPOINT) return fixture_write_checkpoint(plan, r->path, error);
    return fixture_write(plan, r->path, r->n_threads, error);
}

int cmd_fixture(int argc, char **argv)
{
    struct values v;
    struct ds4_error error = {0};
    int code;
    if (!options_begin(&table, argc, argv, &v, sizeof v, &code)) return code;
    v.r.kind = -1;
    for (int i = 0; i < N_KINDS; i++)
        if (strcmp(v.kind, kind_names[i]) == 0) v.r.kind = i;
    struct fixture_plan plan = {0};
    enum ds4_status status =
        v.r.kind < 0 ? err_set(&error, DS4_ERR_FORMAT, "there is no kind \"%.40s\" (ds4 fixture --help)", v.kind)
                     : make_config(&plan.config, &v.r, &error);
    code = status == DS4_OK ? EXIT_CODE_FAILED : EXIT_CODE_USAGE;
    if (status == DS4_OK) status = write_model(&v.r, &plan, &error);
    if (status != DS4_OK) (void)fprintf(stderr, "ds4 fixture: %s\n", error.message);
    fixture_plan_deinit(&plan);
    return status == DS4_OK ? EXIT_CODE_OK : code;
}
