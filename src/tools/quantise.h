/* quantise.h - what the files of `ds4 quantize` share: the list of tensors, where their values come from, how they are
 * to be stored.
 *
 * quantise_names.c knows the names of the published checkpoint, quantise_source.c reads a checkpoint or a GGUF file
 * row by row, quantise_meta.c makes the metadata, quantise_recipe.c chooses formats, quantise_calibrate.c knows
 * calibration rows, quantise_scale.c scales columns by them, quantise_run.c does the work, quantise.c is the command.
 * Only a few thousand rows, and with --gptq the products of the columns of one matrix, are in memory at any time,
 * whatever the size of the model. */
#ifndef DS4_TOOLS_QUANTISE_H
#define DS4_TOOLS_QUANTISE_H

#include "base/hash.h"
#include "base/thread_pool.h"
#include "gguf/gguf.h"
#include "quant/feedback.h"
#include "quant/quant.h"
#include "tools/imatrix_file.h"
#include "tools/rows_file.h"
#include "tools/safetensors.h"

#define QUANTISE_NAME_MAX 128
#define QUANTISE_COLS_MAX (1u << 20)  /* of a row: four times the widest of the largest relative */
#define QUANTISE_EXPERTS_MAX 4096u

/* X-macro: name, the option that sets its format. */
#define QUANTISE_FAMILIES(X) \
    X(EXPERTS, "experts") X(DOWN, "down") X(ATTN, "attn") X(SHARED, "shared") X(EMBED, "embed") X(OUTPUT, "output") \
    X(SMALL, NULL) X(VECTOR, NULL) X(TABLE, NULL) X(OTHER, NULL)
enum quantise_family {
#define X(name, option) QUANTISE_##name,
    QUANTISE_FAMILIES(X)
#undef X
    QUANTISE_N_FAMILIES
};

/* How values lie in the source. */
enum quantise_kind {
    QUANTISE_BLOCKS, /* a format of src/quant, F32 and BF16 included */
    QUANTISE_FP8,    /* E4M3 with a scale for each tile of 128 x 128 */
    QUANTISE_FP4,    /* two E2M1 in a byte with a scale for each 32 columns */
    QUANTISE_I64     /* numbers of experts */
};

struct quantise_tensor {
    char name[QUANTISE_NAME_MAX];     /* in the output */
    char official[QUANTISE_NAME_MAX]; /* in a checkpoint; for a stack of experts with a # for the number */
    enum quantise_family family;
    int32_t layer;                    /* -1: of the whole model */
    bool draft;                       /* of the draft block */
    uint32_t n_dims;
    uint64_t dims[3];                 /* dims[0] contiguous; dims[2] = number of matrices */
    enum quantise_kind kind;
    const struct quant_format *from;  /* QUANTISE_BLOCKS */
    const struct quant_format *to;
    size_t part_first;                /* checkpoint: its matrices in source->parts */
    const struct gguf_tensor *gguf;   /* GGUF */
};

struct quantise_part {
    const struct safetensors_tensor *weight, *scale;
};

struct quantise_source {
    const char *path;
    struct safetensors *checkpoint;   /* one of the two */
    struct gguf_file *gguf;
    struct quantise_tensor *tensors;  /* in the order of the output */
    size_t n_tensors;
    struct quantise_part *parts;
    size_t n_parts, n_skipped;        /* tensors of the checkpoint that have no place in the output */
    uint32_t n_experts;               /* bound on the entries of routing tables */
    uint64_t n_values;
    const struct quantise_scales *scales; /* or NULL: --awq */
};

/* ---- names ---- */
struct quantise_name {
    char name[QUANTISE_NAME_MAX], official[QUANTISE_NAME_MAX];
    enum quantise_family family;
    int32_t layer, expert; /* -1: none */
    bool draft, skip;
};
/* False for a name that no table has. */
bool quantise_name_of(struct ds4_span official, struct quantise_name *out);
/* Family and place of a tensor by its name in a GGUF file. */
void quantise_place_of(struct ds4_span name, struct quantise_name *out);

/* ---- source ---- */
/* Opens a folder or a GGUF file and lists its tensors. with_draft: those of the draft block, too. */
enum ds4_status quantise_source_open(const char *path, bool with_draft, struct quantise_source *out,
                                     struct ds4_error *error) DS4_MUST_CHECK;
void quantise_source_close(struct quantise_source *source);

struct quantise_piece { /* rows of one matrix */
    const struct quantise_tensor *tensor;
    uint32_t matrix_i;
    uint64_t row_first, n_rows;
};
struct quantise_buffers { /* of one thread; room for n_values, whole rows */
    uint8_t *raw, *scales, *out;
    float *values, *back;
    size_t n_values;
};
/* Fills b->out with the piece in the tensor's target format where that needs no rounding (the same format, FP4 to
 * MXFP4, tables); else b->values with its values, *exact false. Any thread with buffers of its own. */
enum ds4_status quantise_read(const struct quantise_source *source, const struct quantise_piece *piece,
                              struct quantise_buffers *b, bool *exact, struct ds4_error *error) DS4_MUST_CHECK;
/* b->values of the piece, whatever the target. */
enum ds4_status quantise_read_values(const struct quantise_source *source, const struct quantise_piece *piece,
                                     struct quantise_buffers *b, struct ds4_error *error) DS4_MUST_CHECK;

/* ---- recipe ---- */
enum quantise_recipe_name { QUANTISE_2BIT, QUANTISE_Q4, QUANTISE_MIXED, QUANTISE_LOSSLESS };
struct quantise_recipe {
    enum quantise_recipe_name name;
    const struct quant_format *given[QUANTISE_N_FAMILIES]; /* NULL: as the recipe says */
    uint32_t n_mixed, n_layers;                            /* mixed: so many last layers in Q4_K */
};
/* Sets the target of every tensor. */
enum ds4_status quantise_choose(const struct quantise_recipe *recipe, struct quantise_source *source,
                                struct ds4_error *error) DS4_MUST_CHECK;
const char *quantise_recipe_text(const struct quantise_recipe *recipe, char *out, size_t cap);

/* ---- metadata ---- */
/* Puts everything that a loader needs: from config.json and tokenizer.json, or as the GGUF source has it. digest:
 * identity of the source's headers and settings. */
enum ds4_status quantise_put_metadata(const struct quantise_source *source, struct gguf_writer *writer,
                                      uint8_t digest[16], struct ds4_error *error) DS4_MUST_CHECK;

/* ---- calibration rows ---- */
struct quantise_calibration {
    struct rows_file rows;
    struct feedback feedback;
    float *values;            /* rows of one expert */
    uint32_t n_matrices, n_few; /* asked for; of these without enough rows */
};
enum ds4_status quantise_calibration_open(const char *path, struct quantise_calibration *out,
                                          struct ds4_error *error) DS4_MUST_CHECK;
void quantise_calibration_close(struct quantise_calibration *c);
/* That the rows are those of a model of this shape. */
enum ds4_status quantise_calibration_check(const struct quantise_calibration *c, const struct quantise_source *source,
                                           struct ds4_error *error) DS4_MUST_CHECK;
/* *out: what is known about the inputs of a matrix, valid until the next call; NULL for a tensor or format that has no
 * such thing, or too few rows. */
enum ds4_status quantise_feedback(struct quantise_calibration *c, const struct quantise_source *source,
                                  const struct quantise_tensor *t, uint32_t matrix_i, struct thread_pool *pool,
                                  const struct feedback **out, struct ds4_error *error) DS4_MUST_CHECK;
/* Says on stderr how many matrices had too few rows. */
void quantise_calibration_report(const struct quantise_calibration *c);

/* ---- scaled columns ---- */
struct quantise_scales {
    uint32_t n_layers, n_experts, n_embd, n_ff;
    float *in;                  /* [n_layers][n_embd] factors of what reads the normed row */
    float *mid;                 /* [n_layers][n_experts][n_ff] factors of down's columns */
    double alpha_in, alpha_mid; /* means of the powers that were chosen */
};
/* The factors for the targets of the tensors. */
enum ds4_status quantise_scales_find(const struct quantise_source *source, struct quantise_calibration *calibration,
                                     struct quantise_scales *out, struct ds4_error *error) DS4_MUST_CHECK;
void quantise_scales_free(struct quantise_scales *s);
/* The factors of a matrix' columns; NULL when it has none. */
const float *quantise_scale_columns(const struct quantise_scales *s, const struct quantise_tensor *t,
                                    uint32_t matrix_i);
/* Scales the values of a piece; values NULL: says only whether it would. */
bool quantise_scale(const struct quantise_scales *s, const struct quantise_piece *p, float *values);

/* ---- work ---- */
struct quantise_run {
    struct quantise_source *source;
    const struct imatrix_file *imatrix; /* or NULL */
    struct quantise_calibration *calibration; /* or NULL */
    bool feedback;                      /* codes with error feedback; needs calibration */
    struct thread_pool *pool;
    bool strict;                        /* an expert without importance is an error */
    bool quiet;
};
/* Relative error of a tensor: sums of (x - y)^2 and x^2. */
struct quantise_error {
    double difference, norm;
};
/* Writes all tensors that were announced in the source's order. journal: path of the record of what is done; checksums
 * [n_tensors] and errors [n_tensors] are filled. */
enum ds4_status quantise_write(const struct quantise_run *run, struct gguf_writer *writer, const char *journal,
                               const uint8_t identity[16], uint64_t *checksums, struct quantise_error *errors,
                               struct ds4_error *error) DS4_MUST_CHECK;
/* Reads a finished file against the source: checksums and errors of its tensors. */
enum ds4_status quantise_verify(const struct quantise_run *run, const struct gguf_file *file, uint64_t *checksums,
                                struct quantise_error *errors, struct ds4_error *error) DS4_MUST_CHECK;

#endif
