/* quantise.c - `ds4 quantize`: a checkpoint as published, or a GGUF file of high precision, becomes a GGUF file of a
 * recipe. See quantise.h for the parts. */
#include "tools/quantise.h"

#include <math.h>
#include <stdio.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/sink.h"
#include "base/term.h"
#include "tools/tools.h"

#define ENCODER_VERSION 1u /* raise it when an encoder gives other bytes: an old journal is refused then */

struct flags {
    const char *in, *out, *imatrix, *rows;
    const char *formats[QUANTISE_N_FAMILIES];
    int recipe;
    uint32_t n_mixed, n_threads;
    bool dry_run, verify, resume, force, strict, no_draft, gptq, awq;
};

/* NULL when no matrix can be stored so. */
static const struct quant_format *format_of(const char *name)
{
    const struct quant_format *format = quant_format_named(span_from(name));
    return format && format->encode && format->weight ? format : NULL;
}

#define AT(field) offsetof(struct flags, field)
#define FORMAT_OF(option, family, text) \
    {.name = option, .value = "FORMAT", .type = OPTION_TEXT, .offset = AT(formats[QUANTISE_##family]), .help = text}
static const struct option rows[] = {
    {.name = "IN", .type = OPTION_OPERAND, .offset = AT(in), .required = true,
     .help = "folder with the safetensors files, config.json and tokenizer.json, or a file NAME.gguf"},
    {.name = "OUT", .type = OPTION_OPERAND, .offset = AT(out), .help = "GGUF file to write; not with --dry-run"},
    {.name = "recipe", .value = "2bit|q4|mixed|lossless", .type = OPTION_CHOICE, .offset = AT(recipe),
     .preset = "2bit", .help = "formats of all tensors: see below"},
    FORMAT_OF("experts", EXPERTS, "format of the experts' gate and up matrices instead"),
    FORMAT_OF("down", DOWN, "format of the experts' down matrices instead"),
    FORMAT_OF("attn", ATTN, "format of the attention projections instead"),
    FORMAT_OF("shared", SHARED, "format of the shared expert instead"),
    FORMAT_OF("embed", EMBED, "format of the embedding instead"),
    FORMAT_OF("output", OUTPUT, "format of the output head instead"),
    {.name = "last", .value = "N", .type = OPTION_U32, .offset = AT(n_mixed), .max = 1000, .preset = "6",
     .help = "mixed: so many last layers have their experts in Q4_K"},
    {.name = "imatrix", .value = "FILE", .type = OPTION_TEXT, .offset = AT(imatrix),
     .help = "importance of input columns, from ds4 imatrix"},
    {.name = "rows", .value = "FILE", .type = OPTION_TEXT, .offset = AT(rows),
     .help = "calibration rows, from ds4 imatrix --rows; for the next two"},
    {.name = "gptq", .type = OPTION_FLAG, .offset = AT(gptq),
     .help = "experts in IQ2_XXS, Q2_K and Q4_K: errors of columns make up for each other"},
    {.name = "awq", .type = OPTION_FLAG, .offset = AT(awq),
     .help = "experts: columns that matter are larger in the file, what makes them is smaller"},
    {.name = "strict", .type = OPTION_FLAG, .offset = AT(strict),
     .help = "routed experts that the importance file does not know are an error"},
    {.name = "no-draft", .type = OPTION_FLAG, .offset = AT(no_draft), .help = "leaves the draft block out"},
    {.letter = 't', .name = "threads", .value = "N", .type = OPTION_U32, .offset = AT(n_threads), .max = 1024,
     .help = "threads; 0 = one a core. They change no byte"},
    {.name = "dry-run", .type = OPTION_FLAG, .offset = AT(dry_run), .help = "prints the table of tensors and stops"},
    {.name = "verify", .type = OPTION_FLAG, .offset = AT(verify),
     .help = "reads the file again afterwards and compares it with IN; if OUT is there already, only that"},
    {.name = "resume", .type = OPTION_FLAG, .offset = AT(resume), .help = "continues a run that was interrupted"},
    {.name = "force", .type = OPTION_FLAG, .offset = AT(force), .help = "overwrites OUT, or an interrupted run"},
};
static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct flags *f = values;
    if (!f->out && !f->dry_run) return err_set(error, DS4_ERR_FORMAT, "OUT is missing");
    if ((f->gptq || f->awq) != (f->rows != NULL))
        return err_set(error, DS4_ERR_FORMAT, "--rows goes with --gptq or --awq");
    for (size_t i = 0; i < QUANTISE_N_FAMILIES; i++)
        if (f->formats[i] && !format_of(f->formats[i]))
            return err_set(error, DS4_ERR_FORMAT, "nothing can be stored as \"%.40s\"", f->formats[i]);
    return DS4_OK;
}

static const struct options table = {
    .command = "quantize", .summary = "write a model file of a recipe from the published checkpoint",
    OPTIONS_ROWS(rows), .check = check,
    .notes = "  recipe     gate, up  down    projections, shared  embedding  head   small matrices\n"
             "  2bit       IQ2_XXS   Q2_K    Q8_0                 F16        Q8_0   F16\n"
             "  q4         Q4_K      Q4_K    Q8_0                 F16        Q8_0   F16\n"
             "  mixed      as 2bit, the last layers as q4\n"
             "  lossless   MXFP4     MXFP4   BF16                 BF16       BF16   as they are\n"
             "\n"
             "FORMAT: F32, F16, BF16, Q8_0, Q6_K, Q4_K, Q2_K, IQ2_XXS or MXFP4. Tensors pass one by one in rows:\n"
             "memory does not grow with the model. OUT.part and OUT.part.journal hold an unfinished run. The\n"
             "recipe and a checksum of each tensor go into the metadata (quantize.*).\n"
             "\n"
             "--awq folds a factor of gate's and up's columns into ffn_norm (and undoes it in router and shared\n"
             "expert: exact up to their rounding), and a factor of down's columns into the rows of up: exact where\n"
             "the clamp of up does not act, as on the calibration rows. --verify of such a file wants --awq, too.",
};

/* ---- report ------------------------------------------------------------------------------------------------- */

static uint64_t bytes_of(const struct quantise_tensor *t)
{
    uint64_t row = 0;
    (void)quant_row_bytes(t->to, t->dims[0], &row);
    return row * t->dims[1] * t->dims[2];
}

static const char *source_type(const struct quantise_tensor *t)
{
    static const char *const names[] = {"", "FP8", "FP4", "I64"};
    return t->kind == QUANTISE_BLOCKS ? t->from->name : names[t->kind];
}

static enum ds4_status put_table(const struct quantise_source *source, const struct quantise_error *errors,
                                 struct ds4_error *error)
{
    struct sink out;
    char size[16], shape[64], relative[32] = "";
    uint64_t total = 0;
    TRY(sink_open(&out, "-", error));
    for (size_t i = 0; i < source->n_tensors; i++) {
        const struct quantise_tensor *t = &source->tensors[i];
        uint64_t bytes = bytes_of(t);
        total += (bytes + 31) / 32 * 32;
        (void)snprintf(shape, sizeof shape, "%llu x %llu x %llu", (unsigned long long)t->dims[0],
                       (unsigned long long)t->dims[1], (unsigned long long)t->dims[2]);
        if (errors && errors[i].norm > 0)
            (void)snprintf(relative, sizeof relative, "  error %.5f", sqrt(errors[i].difference / errors[i].norm));
        else
            (void)snprintf(relative, sizeof relative, "%s", !errors ? "" : errors[i].difference > 0 ? "  differs"
                                                                                                   : "  exact");
        sink_printf(&out, "%-42s %-20s %5s -> %-7s %8s%s\n", t->name, shape, source_type(t), t->to->name,
                    term_bytes(bytes, size), relative);
    }
    sink_printf(&out, "%zu tensors, %llu values, %llu bytes (%s), %.3f bits a value\n", source->n_tensors,
                (unsigned long long)source->n_values, (unsigned long long)total, term_bytes(total, size),
                8 * (double)total / (double)source->n_values);
    if (source->n_skipped) sink_printf(&out, "%zu tensors of the source are left out\n", source->n_skipped);
    return sink_close(&out, error);
}

/* ---- the file ----------------------------------------------------------------------------------------------- */

struct job {
    const struct flags *flags;
    struct quantise_recipe recipe;
    struct quantise_source source;
    struct imatrix_file *imatrix;
    struct quantise_calibration calibration;
    struct quantise_scales scales;
    struct thread_pool *pool;
    uint64_t *checksums;
    struct quantise_error *errors;
    struct ds4_error *error;
};

static struct ds4_span base_name(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t first = n;
    while (first > 0 && path[first - 1] != '/') first--;
    return span_make(path + first, n - first);
}

static void put_hex(struct gguf_writer *w, const char *key, const uint8_t digest[16])
{
    char text[33];
    for (int i = 0; i < 16; i++) (void)snprintf(text + 2 * i, 3, "%02x", digest[i]);
    gguf_put_string(w, key, span_make(text, 32));
}

/* Metadata and directory; *identity stands for everything that decides about the bytes of the output. */
static enum ds4_status put_head(const struct job *j, struct gguf_writer *w, uint8_t identity[16])
{
    char recipe[256];
    uint8_t digest[16], imatrix[16] = {0};
    struct ds4_span from = base_name(j->flags->in);
    TRY(quantise_put_metadata(&j->source, w, digest, j->error));
    (void)quantise_recipe_text(&j->recipe, recipe, sizeof recipe);
    gguf_put_string(w, "quantize.recipe", span_from(recipe));
    gguf_put_string(w, "quantize.tool", SPAN("ds4 " DS4_VERSION));
    gguf_put_string(w, "quantize.source", from);
    put_hex(w, "quantize.source.digest", digest);
    struct buf b = {0};
    if (j->imatrix) {
        struct ds4_span name = base_name(imatrix_path(j->imatrix));
        imatrix_digest(j->imatrix, imatrix);
        gguf_put_string(w, "quantize.imatrix.file", name);
        gguf_put_u64(w, "quantize.imatrix.entries_count", imatrix_count(j->imatrix));
        gguf_put_string(w, "quantize.imatrix.dataset", imatrix_dataset(j->imatrix));
        gguf_put_u64(w, "quantize.imatrix.chunks_count", imatrix_chunks(j->imatrix));
        put_hex(w, "quantize.imatrix.digest", imatrix);
        buf_put_span(&b, name);
    }
    gguf_put_array_u64(w, "quantize.checksums", j->checksums, j->source.n_tensors);
    if (j->flags->rows) {
        const uint8_t methods[] = {j->flags->gptq, j->flags->awq};
        gguf_put_string(w, "quantize.rows.file", base_name(j->flags->rows));
        gguf_put_string(w, "quantize.rows.use", methods[0] && methods[1] ? SPAN("awq, gptq")
                                                : methods[0]             ? SPAN("gptq") : SPAN("awq"));
        buf_put(&b, j->calibration.rows.digest, 16);
        buf_put(&b, methods, sizeof methods);
    }
    uint64_t stamp = j->source.checkpoint ? safetensors_stamp(j->source.checkpoint) : gguf_file_bytes(j->source.gguf);
    uint32_t version = ENCODER_VERSION;
    buf_put(&b, digest, 16);
    buf_put(&b, imatrix, 16);
    buf_put(&b, &stamp, 8);
    buf_put(&b, &version, 4);
    buf_put_text(&b, recipe);
    buf_put_span(&b, from);
    for (size_t i = 0; i < j->source.n_tensors; i++) {
        const struct quantise_tensor *t = &j->source.tensors[i];
        gguf_put_tensor(w, t->name, t->to->id, t->n_dims, t->dims);
        buf_put(&b, &t->to->id, 4);
    }
    enum ds4_status status = buf_status(&b, j->error);
    if (status == DS4_OK) hash_bytes(b.text.ptr, b.text.len, identity);
    buf_deinit(&b);
    return status;
}

static bool file_is_there(const char *path)
{
    int fd;
    if (file_open(path, FILE_READ, &fd, NULL) != DS4_OK) return false;
    file_close(fd);
    return true;
}

/* What an earlier run left must be continued on purpose, or removed on purpose. */
static enum ds4_status settle_leftovers(const struct flags *f, const char *part, const char *journal,
                                        struct ds4_error *error)
{
    if (file_is_there(f->out) && !f->force)
        return err_set(error, DS4_ERR_STATE, "%s is there already: --verify checks it, --force overwrites it", f->out);
    bool left = file_is_there(journal) || file_is_there(part);
    if (!left || (f->resume && file_is_there(journal))) return DS4_OK;
    if (file_is_there(journal) && !f->force)
        return err_set(error, DS4_ERR_STATE, "%s is that of an interrupted run: --resume continues it, --force begins "
                       "anew", part);
    if (file_is_there(part)) TRY(file_unlink(part, error));
    if (file_is_there(journal)) TRY(file_unlink(journal, error));
    return DS4_OK;
}

static enum ds4_status write_file(struct job *j)
{
    char part[4096], journal[4096];
    uint8_t identity[16];
    struct gguf_writer *w = NULL;
    struct quantise_run run = {.source = &j->source, .imatrix = j->imatrix, .pool = j->pool,
                               .calibration = &j->calibration, .feedback = j->flags->gptq,
                               .strict = j->flags->strict};
    int n = snprintf(journal, sizeof journal, "%s.part.journal", j->flags->out);
    if (n < 0 || (size_t)n >= sizeof journal) return err_set(j->error, DS4_ERR_LIMIT, "the path of OUT is too long");
    (void)snprintf(part, sizeof part, "%.*s", n - 8, journal);
    TRY(settle_leftovers(j->flags, part, journal, j->error));
    TRY(gguf_writer_resume(j->flags->out, &w, j->error));
    enum ds4_status status = put_head(j, w, identity);
    if (status == DS4_OK) status = gguf_writer_begin(w, j->error);
    if (status == DS4_OK)
        status = quantise_write(&run, w, journal, identity, j->checksums, j->errors, j->error);
    for (size_t i = 0; i < j->source.n_tensors && status == DS4_OK; i++)
        gguf_writer_patch_u64(w, "quantize.checksums", i, j->checksums[i]);
    if (status == DS4_OK) status = gguf_writer_finish(w, j->error);
    if (status == DS4_OK) status = file_unlink(journal, j->error);
    gguf_writer_destroy(w);
    return status;
}

/* Compares what the file holds with the source, and with its own checksums. */
static enum ds4_status verify_file(struct job *j)
{
    struct gguf_file *file;
    struct quantise_run run = {.source = &j->source, .pool = j->pool};
    memset(j->checksums, 0, j->source.n_tensors * sizeof *j->checksums);
    memset(j->errors, 0, j->source.n_tensors * sizeof *j->errors);
    TRY(gguf_open(j->flags->out, &file, j->error));
    enum ds4_status status = quantise_verify(&run, file, j->checksums, j->errors, j->error);
    const struct gguf_value *sums = gguf_find(file, "quantize.checksums");
    bool checked = sums && sums->item_type == GGUF_U64 && sums->count == j->source.n_tensors;
    for (size_t i = 0; checked && i < j->source.n_tensors && status == DS4_OK; i++) {
        uint64_t stored;
        memcpy(&stored, sums->bytes + 8 * i, 8);
        if (stored != j->checksums[i])
            status = err_set(j->error, DS4_ERR_FORMAT, "%s: tensor \"%s\" has not the checksum of its metadata",
                             j->flags->out, j->source.tensors[i].name);
        else if (isinf(j->errors[i].difference))
            status = err_set(j->error, DS4_ERR_FORMAT, "%s: tensor \"%s\" should be exact but differs", j->flags->out,
                             j->source.tensors[i].name);
    }
    gguf_close(file);
    if (status != DS4_OK) return status;
    TRY(put_table(&j->source, j->errors, j->error));
    (void)fprintf(stderr, checked ? "all checksums are right\n" : "the file has no checksums for these tensors\n");
    return DS4_OK;
}

/* ---- command ------------------------------------------------------------------------------------------------ */

static enum ds4_status read_recipe(struct job *j)
{
    const struct flags *f = j->flags;
    j->recipe = (struct quantise_recipe){.name = (enum quantise_recipe_name)f->recipe, .n_mixed = f->n_mixed};
    for (size_t i = 0; i < QUANTISE_N_FAMILIES; i++) {
        if (f->formats[i]) j->recipe.given[i] = format_of(f->formats[i]);
    }
    return DS4_OK;
}

static enum ds4_status open_rows(struct job *j)
{
    TRY(quantise_calibration_open(j->flags->rows, &j->calibration, j->error));
    TRY(quantise_calibration_check(&j->calibration, &j->source, j->error));
    if (!j->flags->awq || j->flags->dry_run) return DS4_OK;
    TRY(quantise_scales_find(&j->source, &j->calibration, &j->scales, j->error));
    (void)fprintf(stderr, "columns scaled by the power %.2f (gate, up) and %.2f (down) of their inputs on average\n",
                  j->scales.alpha_in, j->scales.alpha_mid);
    j->source.scales = &j->scales;
    return DS4_OK;
}

static enum ds4_status prepare(struct job *j)
{
    const struct flags *f = j->flags;
    TRY(read_recipe(j));
    TRY(quantise_source_open(f->in, !f->no_draft, &j->source, j->error));
    for (size_t i = 0; i < j->source.n_tensors; i++) {
        const struct quantise_tensor *t = &j->source.tensors[i];
        if (!t->draft && t->layer >= (int32_t)j->recipe.n_layers) j->recipe.n_layers = (uint32_t)t->layer + 1;
    }
    TRY(quantise_choose(&j->recipe, &j->source, j->error));
    if (f->imatrix) TRY(imatrix_open(f->imatrix, &j->imatrix, j->error));
    if (f->rows) TRY(open_rows(j));
    j->checksums = mem_zalloc(j->source.n_tensors, sizeof *j->checksums);
    j->errors = mem_zalloc(j->source.n_tensors, sizeof *j->errors);
    if (!j->checksums || !j->errors)
        return err_set(j->error, DS4_ERR_NOMEM, "no memory for %zu tensors", j->source.n_tensors);
    return thread_pool_create(f->n_threads, &j->pool, j->error);
}

static enum ds4_status run(struct job *j)
{
    const struct flags *f = j->flags;
    if (!f->dry_run) TRY(file_check_target(f->out, j->error));
    TRY(prepare(j));
    if (f->dry_run) return put_table(&j->source, NULL, j->error);
    if (f->verify && file_is_there(f->out) && !f->force) return verify_file(j);
    TRY(write_file(j));
    quantise_calibration_report(&j->calibration);
    return f->verify ? verify_file(j) : put_table(&j->source, j->errors, j->error);
}

int cmd_quantize(int argc, char **argv)
{
    struct flags f;
    int exit_code;
    if (!options_begin(&table, argc, argv, &f, sizeof f, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    struct job j = {.flags = &f, .error = &error, .calibration = {.rows = {.fd = -1}}};
    enum ds4_status status = run(&j);
    thread_pool_destroy(j.pool);
    imatrix_close(j.imatrix);
    quantise_calibration_close(&j.calibration);
    quantise_scales_free(&j.scales);
    quantise_source_close(&j.source);
    mem_free(j.checksums);
    mem_free(j.errors);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
