/* model.c - see model.h. */
#include "lib/model.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/rng.h"
#include "lib/test.h"
#include "tools/fixture.h"

#define ARGS_MAX 64

void model_generate(const char *path, const char *args)
{
    static char words[1024];
    char *argv[ARGS_MAX] = {(char[]){"fixture"}};
    int argc = 1;
    (void)snprintf(words, sizeof words, "%s", args);
    for (char *word = words, *next; word && argc < ARGS_MAX - 2; word = next) {
        next = strchr(word, ' ');
        if (next) *next++ = 0;
        argv[argc++] = word;
    }
    argv[argc++] = (char[]){"-o"};
    argv[argc++] = (char *)(uintptr_t)path;
    if (cmd_fixture(argc, argv) == 0) return;
    (void)fprintf(stderr, "cannot make the test model %s\n", path);
    abort();
}

/* There, and not older than the program that makes such files. */
static bool is_fresh(const char *path)
{
    struct stat file, maker;
    const char *program = getenv("DS4");
    if (stat(path, &file) != 0) return false;
    return stat(program ? program : "./ds4", &maker) != 0 || file.st_mtime >= maker.st_mtime;
}

/* Test programs run side by side: one makes the file and the others wait for it. Replaced, it would be lost to those
 * that are at work with it. */
static int lock_file(const char *path)
{
    char name[300];
    (void)snprintf(name, sizeof name, "%s.lock", path);
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || flock(fd, LOCK_EX) != 0) abort();
    return fd;
}

const char *model_file(const char *name, const char *args)
{
    static char path[256];
    char partial[300];
    (void)mkdir("build", 0755);
    (void)mkdir("build/fixtures", 0755);
    (void)snprintf(path, sizeof path, "build/fixtures/%s-%08x.gguf", name, (unsigned)hash_u64(args, strlen(args)));
    if (is_fresh(path)) return path;
    int lock = lock_file(path);
    if (!is_fresh(path)) {
        (void)snprintf(partial, sizeof partial, "build/fixtures/%s.%d.gguf", name, (int)getpid());
        model_generate(partial, args);
        if (rename(partial, path) != 0) abort();
    }
    (void)close(lock);
    return path;
}

const char *model_tiny(void) { return model_file("tiny", "tiny"); }

const char *model_tiny_q8(void) { return model_file("tiny-q8", "tiny --type Q8_0"); }

const char *model_micro(void)
{
    return model_file("micro", "random --seed 9 --layers 3 --ratios 0,4,128 --dim 64 --heads 2 --head-dim 128 "
                               "--q-rank 64 --o-groups 1 --o-rank 64 --window 32 --index-heads 2 --index-topk 8 "
                               "--experts 4 --used 2 --inner 64 --hash-layers 1 --vocab 400 --type Q8_0");
}

const char *model_odd(void)
{
    return model_file("odd", "random --seed 7 --layers 5 --ratios 0,4,128,4,4 --dim 96 --heads 12 --head-dim 128 "
                             "--q-rank 96 --o-groups 3 --o-rank 32 --window 48 --index-heads 5 --index-topk 11 "
                             "--experts 300 --used 7 --inner 288 --hash-layers 2 --vocab 1031 --type Q8_0");
}

const char *model_small(void) { return model_file("small", MODEL_SMALL_ARGS); }

struct ds4_engine *model_open(const char *path, struct ds4_engine_options options)
{
    struct ds4_engine *engine = NULL;
    struct ds4_error error = {0};
    options.model_path = path;
    if (ds4_engine_open(&options, &engine, &error) == DS4_OK) return engine;
    (void)fprintf(stderr, "cannot open %s: %s\n", path, error.message);
    abort();
}

int32_t model_token(size_t i, uint32_t n_vocab)
{
    struct rng r = {fnv1a("tokens") + i * 0x9E3779B97F4A7C15u};
    return (int32_t)(rng_next(&r) % n_vocab);
}

uint8_t *model_span(const struct ds4_engine *engine, const struct ds4_session *session, size_t i)
{
    struct ds4_error error = {0};
    uint8_t *span = malloc(ds4_state_layout(engine)->span_bytes);
    assert_non_null(span);
    assert_ok(ds4_session_span_save(session, i, span, &error), error);
    return span;
}
