/* test_faults_of_files.c - every allocation and every system call of the readers and writers of model files fails in
 * turn: each ends with a status and a message, and leaves nothing behind. */
#include "lib/test.h"

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "gguf/gguf.h"
#include "lib/alloc_fail.h"
#include "lib/model.h"
#include "lib/io_fail.h"
#include "text/encode.h"
#include "text/vocab.h"

static enum ds4_status open_and_close(void *path, struct ds4_error *error)
{
    struct gguf_file *file;
    TRY(gguf_open(path, &file, error));
    gguf_close(file);
    return DS4_OK;
}

TEST(opening_a_model_file_survives_every_failed_allocation)
{
    char *path = (char *)(uintptr_t)model_small();
    assert_in_range(alloc_fail_loop("gguf_open", open_and_close, path, 1), 2, 10000);
}

/* Three shards; *first is the path of the first. */
static void write_split_model(char *first, size_t cap)
{
    (void)snprintf(first, cap, "%s/split.gguf", test_dir());
    model_generate(first, MODEL_SMALL_ARGS " --split 3");
    (void)snprintf(first, cap, "%s/split-00001-of-00003.gguf", test_dir());
}

TEST(opening_a_split_model_survives_every_failed_allocation)
{
    char shard[200];
    write_split_model(shard, sizeof shard);
    assert_in_range(alloc_fail_loop("gguf_open, split", open_and_close, shard, 1), 4, 10000);
}

static enum ds4_status make_vocab(void *file, struct ds4_error *error)
{
    struct vocab *vocab;
    TRY(vocab_create_gguf(file, &vocab, error));
    vocab_destroy(vocab);
    return DS4_OK;
}

static enum ds4_status encode_and_decode(void *vocab, struct ds4_error *error)
{
    struct ds4_tokens tokens = {0};
    struct ds4_text text = {0};
    enum ds4_status status;
    TRY_GOTO(text_encode(vocab, SPAN("It was 1234 times \xE4\xBD\xA0\xE5\xA5\xBD, as ever.\n\n  \xFF Yes<x>"), true,
                         &tokens, error), out);
    TRY_GOTO(text_decode(vocab, tokens.ids, tokens.n, &text, error), out);
out:
    ds4_tokens_free(&tokens);
    ds4_text_free(&text);
    return status;
}

TEST(a_vocabulary_survives_every_failed_allocation)
{
    struct gguf_file *file;
    struct vocab *vocab;
    struct ds4_error error = {0};
    assert_ok(gguf_open(model_small(), &file, &error), error);
    assert_in_range(alloc_fail_loop("vocabulary", make_vocab, file, 1), 2, 10000);
    assert_ok(vocab_create_gguf(file, &vocab, &error), error);
    assert_in_range(alloc_fail_loop("text", encode_and_decode, vocab, 1), 2, 10000);
    vocab_destroy(vocab);
    gguf_close(file);
}

static enum ds4_status write_file(void *path, struct ds4_error *error)
{
    static const struct ds4_span words[] = {{"a", 1}, {"bc", 2}};
    static const uint64_t dims[] = {32, 2};
    float zeros[64] = {0};
    struct gguf_writer *w;
    enum ds4_status status;
    TRY(gguf_writer_create(path, &w, error));
    gguf_put_string(w, "general.architecture", SPAN("deepseek4"));
    gguf_put_array_string(w, "words", words, 2);
    for (int i = 0; i < 30; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "tensor.%d", i);
        gguf_put_tensor(w, name, 0, 2, dims);
    }
    TRY_GOTO(gguf_writer_begin(w, error), out);
    TRY_GOTO(gguf_writer_data(w, 0, 0, zeros, sizeof zeros, error), out);
    TRY_GOTO(gguf_writer_finish(w, error), out);
out:
    gguf_writer_destroy(w);
    return status;
}

static int n_files(void)
{
    int n = 0;
    DIR *dir = opendir(test_dir());
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir));) n += e->d_name[0] != '.';
    (void)closedir(dir);
    return n;
}

TEST(writing_a_model_file_leaves_no_part_of_it_behind)
{
    char path[200];
    (void)snprintf(path, sizeof path, "%s/written.gguf", test_dir());
    int n_before = n_files();
    assert_in_range(alloc_fail_loop("gguf_writer", write_file, path, 1), 2, 10000);
    assert_int_equal(n_files(), n_before + 1); /* the file of the run that ended well */
    struct ds4_error error = {0};
    assert_ok(open_and_close(path, &error), error);
}

static int n_files_before;
static void no_new_file(void *path)
{
    (void)path;
    assert_int_equal(n_files(), n_files_before);
}

static enum ds4_status write_and_remove(void *path, struct ds4_error *error)
{
    enum ds4_status status = write_file(path, error);
    (void)unlink(path);
    return status;
}

TEST(writing_a_model_file_survives_every_failed_call)
{
    char path[200];
    (void)snprintf(path, sizeof path, "%s/failed.gguf", test_dir());
    n_files_before = n_files();
    assert_in_range(io_fail_loop("gguf_writer", write_and_remove, path, no_new_file), 4, 1000);
}

TEST(opening_a_model_file_survives_every_failed_call)
{
    char shard[200];
    write_split_model(shard, sizeof shard);
    assert_in_range(io_fail_loop("gguf_open, split", open_and_close, shard, NULL), 4, 1000);
}

int main(void)
{
    return RUN_TESTS(T(opening_a_model_file_survives_every_failed_allocation),
                     T(opening_a_split_model_survives_every_failed_allocation),
                     T(a_vocabulary_survives_every_failed_allocation),
                     T(writing_a_model_file_leaves_no_part_of_it_behind),
                     T(writing_a_model_file_survives_every_failed_call),
                     T(opening_a_model_file_survives_every_failed_call));
}
