/* model_flags.h - the options that every command with a model shares, which file is meant without -m, and how it is
 * opened. */
#ifndef DS4_COMMAND_MODEL_FLAGS_H
#define DS4_COMMAND_MODEL_FLAGS_H

#include "base/options.h"

#define MODEL_PATH_BYTES 4096

struct model_flags {
    const char *model, *backend;
    uint32_t ctx_tokens, n_threads;
    uint64_t memory_bytes, device_memory_bytes;
    const char *expert_cache, *launch;
    bool paranoid;
    const char *mtp;       /* of commands that write answers, as n_drafts */
    uint32_t n_drafts;
    char path[MODEL_PATH_BYTES];
};

/* Rows for the table of a command whose values struct `values` has a `struct model_flags field`. */
#define MODEL_FLAG_ROW_FILE(values, field) \
    {.letter = 'm', .name = "model", .value = "FILE", .type = OPTION_TEXT, .offset = offsetof(values, field.model), \
     .help = "GGUF file of the model; without it the one that comes with the program"}
#define MODEL_FLAG_ROW_LAUNCH(values, field) \
    {.name = "launch", .value = "plain|early", .type = OPTION_TEXT, .offset = offsetof(values, field.launch), \
     .help = "early: kernels of a CUDA device (9.0 and newer) are launched while the one before runs; " \
             "tried on no GPU yet"}
#define MODEL_FLAG_ROWS(values, field) \
    MODEL_FLAG_ROW_FILE(values, field), \
    {.name = "ctx", .value = "N", .type = OPTION_U32, .offset = offsetof(values, field.ctx_tokens), \
     .max = 4194304, .help = "longest conversation in tokens; 0 = 32768, or the model's maximum if that is less"}, \
    {.letter = 't', .name = "threads", .value = "N", .type = OPTION_U32, .offset = offsetof(values, field.n_threads), \
     .max = 1024, .help = "threads for computing; 0 = one a core"}, \
    {.name = "backend", .value = "NAME", .type = OPTION_TEXT, .offset = offsetof(values, field.backend), \
     .help = "how to compute: cpu, cuda, metal; emu (an emulated GPU) and ref (the definition) are slow; " \
             "without it the best that works"}, \
    {.name = "memory", .value = "BYTES", .type = OPTION_BYTES, .offset = offsetof(values, field.memory_bytes), \
     .help = "refuse to use more memory than that (4096, 512m, 8g); 0 = what the machine has"}, \
    {.name = "device-memory", .value = "BYTES", .type = OPTION_BYTES, \
     .offset = offsetof(values, field.device_memory_bytes), \
     .help = "most to use of a GPU's memory; weights that do not fit are read from the machine's; 0 = what is free"}, \
    MODEL_FLAG_ROW_LAUNCH(values, field), \
    {.name = "expert-cache", .value = "BYTES|auto|off", .type = OPTION_TEXT, \
     .offset = offsetof(values, field.expert_cache), \
     .help = "read experts from disk as needed and keep so many bytes of them (8GB); auto: what there is room for"}, \
    {.name = "paranoid", .type = OPTION_FLAG, .offset = offsetof(values, field.paranoid), \
     .help = "with --expert-cache: checksums of experts at every use"}

/* And of a command that writes answers. */
#define MODEL_FLAG_ROWS_DRAFT(values, field) \
    {.name = "draft", .value = "N", .type = OPTION_U32, .offset = offsetof(values, field.n_drafts), \
     .max = DS4_DRAFTS_MAX, .preset = "0", \
     .help = "guess N tokens with the model's draft block and compute them with the one before: the same answer; a " \
             "gain only where a few tokens cost little more than one, seldom on a CPU; 0 = none"}, \
    {.name = "mtp", .value = "FILE", .type = OPTION_TEXT, .offset = offsetof(values, field.mtp), \
     .help = "with --draft: GGUF file with the draft block, where the model's own has none"}

/* For struct options.check: words that no type of a row knows, and --mtp without --draft. */
enum ds4_status model_flags_check(const struct model_flags *flags, struct ds4_error *error) DS4_MUST_CHECK;
/* Finds the file (given, or the default) and fills path. *is_default (optional) says that it was not given. Nothing
 * found: IO with a sentence saying how to get one. */
enum ds4_status model_flags_find(struct model_flags *flags, bool *is_default, struct ds4_error *error) DS4_MUST_CHECK;
/* model_flags_find, a line on standard error with the file used, and *options set from the flags; options->model_path
 * borrows from flags. */
enum ds4_status model_flags_options(struct model_flags *flags, struct ds4_engine_options *options,
                                    struct ds4_error *error) DS4_MUST_CHECK;
/* ds4_engine_open with the progress of the load on the terminal. */
enum ds4_status model_flags_open(const struct ds4_engine_options *options, struct ds4_engine **out,
                                 struct ds4_error *error) DS4_MUST_CHECK;

#endif
