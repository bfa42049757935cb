/* model_flags.c - shared options of models. See model_flags.h. */
#include "command/model_flags.h"

#include <stdio.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#include "base/file.h"
#include "base/term.h"

/* Directory of the running program without the last slash; empty when the system does not say. */
static void program_dir(char out[MODEL_PATH_BYTES])
{
    out[0] = 0;
#ifdef __APPLE__
    uint32_t size = MODEL_PATH_BYTES;
    if (_NSGetExecutablePath(out, &size) != 0) out[0] = 0;
#else
    ssize_t n = readlink("/proc/self/exe", out, MODEL_PATH_BYTES - 1);
    out[n > 0 ? n : 0] = 0;
#endif
    char *slash = strrchr(out, '/');
    if (slash) *slash = 0;
    else out[0] = 0;
}

static bool is_there(const char *path)
{
    int fd;
    struct file_id id;
    if (file_open(path, FILE_READ, &fd, NULL) != DS4_OK) return false;
    bool there = file_identity(fd, path, &id, NULL) == DS4_OK;
    file_close(fd);
    return there;
}

enum ds4_status model_flags_find(struct model_flags *flags, bool *is_default, struct ds4_error *error)
{
    /* Beside the program first, then from the current directory, then where `make install` puts it; a trained model
     * before a random one. */
    static const struct {
        bool from_program;
        const char *path;
    } places[] = {
        {true, "models/ds4-tiny.gguf"},        {false, "models/ds4-tiny.gguf"}, {true, "../share/ds4/ds4-tiny.gguf"},
        {true, "build/fixture-tiny.gguf"},     {false, "build/fixture-tiny.gguf"},
    };
    if (is_default) *is_default = !flags->model;
    if (flags->model) {
        int n = snprintf(flags->path, sizeof flags->path, "%s", flags->model);
        if (n <= 0 || (size_t)n >= sizeof flags->path)
            return err_set(error, DS4_ERR_FORMAT, "-m: the file name is %s", n > 0 ? "too long" : "empty");
        return DS4_OK;
    }
    char program[MODEL_PATH_BYTES];
    program_dir(program);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (places[i].from_program && !program[0]) continue;
        int n = snprintf(flags->path, sizeof flags->path, "%s%s%s", places[i].from_program ? program : "",
                         places[i].from_program ? "/" : "", places[i].path);
        if (n > 0 && (size_t)n < sizeof flags->path && is_there(flags->path)) return DS4_OK;
    }
    flags->path[0] = 0;
    return err_set(error, DS4_ERR_IO, "no model: there is no models/ds4-tiny.gguf beside the program or here; give one "
                   "with -m FILE, or make a small random one: ds4 fixture tiny -o build/fixture-tiny.gguf");
}

static bool cache_of(const char *text, uint64_t *bytes)
{
    *bytes = 0;
    if (!text || strcmp(text, "off") == 0) return true;
    *bytes = DS4_EXPERT_CACHE_AUTO;
    return strcmp(text, "auto") == 0 || options_parse_bytes(span_from(text), 1, UINT64_MAX - 1, bytes);
}

enum ds4_status model_flags_check(const struct model_flags *flags, struct ds4_error *error)
{
    uint64_t bytes;
    if (flags->model && !flags->model[0]) return err_set(error, DS4_ERR_FORMAT, "-m: the file name is empty");
    if (!cache_of(flags->expert_cache, &bytes))
        return err_set(error, DS4_ERR_FORMAT, "--expert-cache %.80s: must be a number of bytes such as 512m or 8GB, "
                       "auto, or off", flags->expert_cache);
    if (flags->launch && strcmp(flags->launch, "plain") != 0 && strcmp(flags->launch, "early") != 0)
        return err_set(error, DS4_ERR_FORMAT, "--launch %.80s: must be plain or early", flags->launch);
    if (flags->mtp && !flags->n_drafts)
        return err_set(error, DS4_ERR_FORMAT, "--mtp %s: nothing uses it without --draft", flags->mtp);
    return DS4_OK;
}

enum ds4_status model_flags_options(struct model_flags *flags, struct ds4_engine_options *options,
                                    struct ds4_error *error)
{
    bool is_default;
    uint64_t cache_bytes;
    TRY(model_flags_check(flags, error)); /* again: they may have been changed, as for a second model */
    (void)cache_of(flags->expert_cache, &cache_bytes);
    TRY(model_flags_find(flags, &is_default, error));
    (void)fprintf(stderr, "model: %s%s\n", flags->path, is_default ? " (no -m given)" : "");
    *options = (struct ds4_engine_options){
        .model_path = flags->path, .backend = flags->backend, .ctx_tokens = flags->ctx_tokens,
        .n_threads = flags->n_threads, .expert_cache_bytes = cache_bytes, .paranoid = flags->paranoid,
        .mtp_path = flags->mtp, .n_drafts = flags->n_drafts,
        .memory_budget_bytes = flags->memory_bytes, .device_memory_bytes = flags->device_memory_bytes,
        .launch = flags->launch,
    };
    return DS4_OK;
}

enum ds4_status model_flags_open(const struct ds4_engine_options *options, struct ds4_engine **out,
                                 struct ds4_error *error)
{
    struct term_progress progress = {0};
    struct ds4_engine_options shown = *options;
    shown.progress = term_progress;
    shown.progress_user = &progress;
    enum ds4_status status = ds4_engine_open(&shown, out, error);
    term_progress_clear(&progress);
    return status;
}
