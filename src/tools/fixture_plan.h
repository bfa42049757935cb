/* fixture_plan.h - what a generated model file holds: its numbers, its vocabulary, its tensors with the rule that
 * fills each. fixture_config.c and fixture_table.c make the plan, fixture_values.c knows the rules, fixture_write.c
 * writes. */
#ifndef DS4_TOOLS_FIXTURE_PLAN_H
#define DS4_TOOLS_FIXTURE_PLAN_H

#include "base/arena.h"
#include "gguf/gguf.h"
#include "quant/quant.h"
#include "text/compact.h"

#define FIXTURE_LAYERS_MAX 128u /* more than the largest relative (61) */
#define FIXTURE_EXPERTS_MAX 1024u
#define FIXTURE_USED_MAX 64u
#define FIXTURE_TAPS 3u
#define FIXTURE_NAME_MAX 96

enum fixture_names { FIXTURE_NAMES_DS4, FIXTURE_NAMES_ALIAS };

struct fixture_config {
    uint32_t n_vocab, n_embd, n_layers, n_heads, head_dim, rope_dim, q_rank, o_groups, o_rank, window;
    uint32_t ratios[FIXTURE_LAYERS_MAX];
    uint32_t index_heads, index_dim, index_topk;
    uint32_t n_experts, n_used, n_inner, n_hash;
    uint32_t n_hc;
    uint32_t ctx_tokens;
    bool trunk, mtp, dspark;              /* parts of the model that go into the file */
    uint32_t taps[FIXTURE_TAPS], markov_rank, n_stages, draft_tokens; /* DSpark */
    /* Formats by class; a matrix whose rows do not fill whole blocks of its format is stored as F16. */
    const struct quant_format *attention, *shared, *embed, *output, *small, *gate_up, *down;
    enum fixture_names names;
    bool flash_values;                    /* bell-shaped weights scaled like a trained net; holes for unused experts */
    uint32_t n_filled;                    /* experts of a layer that get data (flash_values) */
    bool empty;                           /* no data at all: the file is one hole behind its directory */
    bool vectors;                         /* data for vectors and tables only */
    uint64_t seed;                        /* 0: the stream that the test vectors are made from */
    uint32_t n_shards;
    const char *name;
};

/* How the values of a tensor are made. Everything depends only on the seed, the tensor's checkpoint name and the
 * element's number, so it can be made in any order. */
enum fixture_rule {
    FIXTURE_UNIFORM, /* offset + q * scale / 128, q in -127..127 */
    FIXTURE_NORMAL,  /* offset + scale * bell-shaped */
    FIXTURE_HASH,    /* I32 table [n_vocab][n_used]: distinct expert numbers in each row */
    FIXTURE_HC_BASE, /* near-identity mixing of the residual streams */
    FIXTURE_BIAS     /* router bias that makes experts without data unreachable */
};

struct fixture_tensor {
    char name[FIXTURE_NAME_MAX];     /* in the file */
    char official[FIXTURE_NAME_MAX]; /* in the checkpoint; for a stack of experts up to and without the number */
    char official_tail[24];          /* what follows the number of the expert; empty when it is no stack */
    const struct quant_format *format;
    uint32_t n_dims;
    uint64_t dims[3];                /* dims[0] contiguous; dims[2] = experts of a stack, else 1 */
    enum fixture_rule rule;
    float scale, offset;
    uint32_t layer;
};

struct fixture_vocab {
    struct arena arena;
    struct ds4_span *tokens; /* [n_tokens] printable alphabet of byte-level BPE */
    int32_t *types;          /* [n_tokens] 1 normal, 3 control, 4 user-defined, 5 unused */
    struct ds4_span *merges; /* [n_merges] "left right" */
    uint32_t n_tokens, n_merges;
    struct compact full;     /* owns the strings of the full one */
};

struct fixture_plan {
    struct fixture_config config;
    struct fixture_vocab vocab;
    struct fixture_tensor *tensors; /* owns */
    size_t n_tensors;
};

/* ---- config ---- */
struct fixture_config fixture_config_tiny(void);  /* the small configuration of the test vectors */
struct fixture_config fixture_config_flash(void); /* DeepSeek V4 Flash */
enum ds4_status fixture_config_check(const struct fixture_config *config, struct ds4_error *error) DS4_MUST_CHECK;

/* ---- vocabulary ---- */
/* A byte-level vocabulary of n tokens: specials, 256 bytes, merges of common English, special tokens last. */
enum ds4_status fixture_vocab_small(struct fixture_vocab *vocab, uint32_t n, struct ds4_error *error) DS4_MUST_CHECK;
/* The real one, from files with its compact merge list ("-": standard input) and its table of added tokens. */
enum ds4_status fixture_vocab_full(struct fixture_vocab *vocab, const char *merges_path, const char *added_path,
                                   struct ds4_error *error) DS4_MUST_CHECK;
void fixture_vocab_deinit(struct fixture_vocab *vocab);

/* ---- plan ---- */
enum ds4_status fixture_plan_tensors(struct fixture_plan *plan, struct ds4_error *error) DS4_MUST_CHECK;
void fixture_plan_deinit(struct fixture_plan *plan);
void fixture_put_metadata(struct gguf_writer *writer, const struct fixture_plan *plan);
void fixture_put_tokenizer(struct gguf_writer *writer, const struct fixture_vocab *vocab);
/* Writes path (or its shards). */
enum ds4_status fixture_write(const struct fixture_plan *plan, const char *path, uint32_t n_threads,
                              struct ds4_error *error) DS4_MUST_CHECK;

/* Writes the files of a checkpoint into a folder that exists (fixture_checkpoint.c). */
enum ds4_status fixture_write_checkpoint(const struct fixture_plan *plan, const char *folder,
                                         struct ds4_error *error) DS4_MUST_CHECK;

/* ---- values ---- */
/* Numbers of the experts with data, ascending; returns how many (experts has room for FIXTURE_EXPERTS_MAX). */
uint32_t fixture_filled(const struct fixture_config *config, uint32_t layer, uint32_t *experts);
/* False for a format whose blocks no rule can make. */
bool fixture_can_make(const struct quant_format *format);

struct fixture_maker; /* tables that the rules need; shared by threads once made */
enum ds4_status fixture_maker_create(struct fixture_maker **out, struct ds4_error *error) DS4_MUST_CHECK;
void fixture_maker_destroy(struct fixture_maker *maker);

struct fixture_piece { /* whole rows of one matrix of a tensor */
    const struct fixture_config *config;
    const struct fixture_tensor *tensor;
    uint32_t expert;            /* 0 when the tensor is no stack */
    uint64_t first_row, n_rows; /* within the matrix */
};
/* Fills blocks with the piece in the tensor's format; values is scratch for n_rows * dims[0] floats. */
void fixture_make(const struct fixture_maker *maker, const struct fixture_piece *piece, float *values, uint8_t *blocks);

#endif
