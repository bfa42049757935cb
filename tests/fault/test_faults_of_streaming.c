/* test_faults_of_streaming.c - what goes wrong while experts are read stops the request with a sentence that says what,
 * leaves the session as it was, and is forgotten: the next request gives the bits it would have given. */
#include "lib/test.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "lib/alloc_fail.h"
#include "lib/model.h"
#include "model/experts.h"

#define N_PROMPT 24
#define N_VOCAB 512
#define FIXTURE \
    "random --layers 3 --ratios 0,4,128 --dim 64 --heads 2 --head-dim 128 --q-rank 32 --o-groups 1 --o-rank 32 " \
    "--window 16 --index-heads 2 --index-dim 128 --index-topk 8 --experts 8 --used 2 --inner 32 --hash-layers 1 " \
    "--vocab 512 --hc 2 --context 4096 --type Q8_0 --part trunk"

static const char *model_path(void) { return model_file("experts-small", FIXTURE); }

static struct ds4_engine_options options_for(const char *path)
{
    /* Eight slots of twenty-four: most of what is asked for must be read. */
    return (struct ds4_engine_options){.model_path = path, .ctx_tokens = 128, .n_threads = 2, .chunk_tokens = 8,
                                       .notes_dir = "",
                                       .expert_cache_bytes = 340000};
}

/* ---- a file system that fails ----------------------------------------------------------------------------------- */

enum fault { FAULT_NONE, FAULT_ERROR, FAULT_HALF, FAULT_ODD, FAULT_END, FAULT_BIT };
static _Atomic int fault;
static _Atomic int faults_after; /* reads of blocks that succeed before */

static ssize_t faulty_pread(int fd, void *buf, size_t n, off_t at)
{
    int now = n < FILE_BLOCK_BYTES || atomic_fetch_sub(&faults_after, 1) > 0 ? FAULT_NONE : atomic_load(&fault);
    if (now == FAULT_ERROR) {
        errno = EIO;
        return -1;
    }
    if (now == FAULT_END) return 0;
    if (now == FAULT_HALF && n > FILE_BLOCK_BYTES) n = n / 2 / FILE_BLOCK_BYTES * FILE_BLOCK_BYTES;
    ssize_t got = file_ops_system.pread(fd, buf, n, at);
    if (now == FAULT_ODD && got > (ssize_t)FILE_BLOCK_BYTES) got -= 513;
    if (now == FAULT_BIT && got > 0)
        for (ssize_t i = 0; i < got; i += 512) ((uint8_t *)buf)[i] ^= 1;
    return got;
}

static void hook(enum fault kind, int after)
{
    static struct file_ops ops;
    ops = file_ops_system;
    ops.pread = faulty_pread;
    atomic_store(&fault, kind);
    atomic_store(&faults_after, after);
    file_test_hook(&ops);
}

static void prompt(int32_t ids[N_PROMPT])
{
    for (size_t i = 0; i < N_PROMPT; i++) ids[i] = model_token(i, N_VOCAB);
}

static void wanted_logits(float out[2][N_VOCAB])
{
    struct ds4_engine_options options = options_for(model_path());
    struct ds4_session *session;
    struct ds4_error error = {0};
    int32_t ids[N_PROMPT];
    options.expert_cache_bytes = 0;
    struct ds4_engine *engine = model_open(options.model_path, options);
    prompt(ids);
    assert_ok(ds4_session_create(engine, &session, &error), error);
    for (int i = 0; i < 2; i++) {
        assert_ok(ds4_session_sync(session, ids, i ? N_PROMPT : N_PROMPT - 1, NULL, NULL, NULL, &error), error);
        memcpy(out[i], ds4_session_logits(session), sizeof out[i]);
    }
    ds4_session_destroy(session);
    ds4_engine_close(engine);
}

/* A request at which `after` reads succeed and the others meet the fault, then the same without. message: what must be
 * in the error; NULL: the fault must not be noticed. */
static bool meet(enum fault kind, int after, enum ds4_status expected, const char *message)
{
    static float wanted[2][N_VOCAB];
    struct ds4_engine *engine = model_open(model_path(), options_for(NULL));
    struct ds4_session *session;
    struct ds4_error error = {0}, none = {0};
    int32_t ids[N_PROMPT];
    size_t n;
    prompt(ids);
    wanted_logits(wanted);
    assert_ok(ds4_session_create(engine, &session, &none), none);
    assert_ok(ds4_session_sync(session, ids, 8, NULL, NULL, NULL, &none), none);
    hook(kind, after);
    struct ds4_job job = {session, ids + 8, 8, NULL};
    enum ds4_status status = ds4_eval(engine, &job, 1, &error);
    bool met = atomic_load(&faults_after) < 0;
    file_test_hook(NULL);
    /* A read that was only ahead of a need that never came may fail in silence; the first read never is. */
    if (met && message && (status != DS4_OK || after == 0)) {
        assert_int_equal(status, expected);
        assert_non_null(strstr(error.message, message));
        assert_non_null(strstr(error.message, "experts-small-"));
        (void)ds4_session_tokens(session, &n);
        assert_int_equal(n, 8);
    } else {
        assert_ok(status, error);
    }
    for (int i = 0; i < 2; i++) {
        assert_ok(ds4_session_sync(session, ids, i ? N_PROMPT : N_PROMPT - 1, NULL, NULL, NULL, &none), none);
        assert_memory_equal(ds4_session_logits(session), wanted[i], sizeof wanted[i]);
    }
    ds4_session_destroy(session);
    ds4_engine_close(engine);
    return met;
}

TEST(a_read_error_at_any_read_stops_the_request_and_nothing_else)
{
    for (int after = 0; meet(FAULT_ERROR, after, DS4_ERR_IO, "cannot read"); after += after < 6 ? 1 : 7) {}
}

TEST(a_file_that_ends_early_stops_the_request_and_nothing_else)
{
    for (int after = 0; meet(FAULT_END, after, DS4_ERR_FORMAT, "too early"); after += after < 6 ? 1 : 7) {}
}

TEST(short_reads_are_completed)
{
    assert_true(meet(FAULT_HALF, 0, DS4_OK, NULL));
    assert_true(meet(FAULT_ODD, 0, DS4_OK, NULL));
}

static void copy_file(const char *from, const char *to)
{
    struct ds4_text bytes = {0};
    struct ds4_error error = {0};
    int fd;
    assert_ok(file_read_all(from, 64u << 20, &bytes, &error), error);
    assert_ok(file_open(to, FILE_CREATE_TRUNCATE, &fd, &error), error);
    assert_ok(file_write_at(fd, to, 0, bytes.ptr, bytes.len, &error), error);
    file_close(fd);
    ds4_text_free(&bytes);
}

static void replace(const char *path)
{
    char other[256];
    struct ds4_error error = {0};
    (void)snprintf(other, sizeof other, "%s.other", path);
    copy_file(model_path(), other);
    assert_ok(file_rename(other, path, &error), error);
}

static void change(const char *path)
{
    struct ds4_error error = {0};
    struct file_id id;
    int fd;
    assert_ok(file_open(path, FILE_READ_WRITE, &fd, &error), error);
    assert_ok(file_identity(fd, path, &id, &error), error);
    assert_ok(file_write_at(fd, path, id.size_bytes - 1, "x", 1, &error), error);
    file_close(fd);
}

static void cut(const char *path)
{
    struct ds4_error error = {0};
    struct file_id id;
    int fd;
    assert_ok(file_open(path, FILE_READ_WRITE, &fd, &error), error);
    assert_ok(file_identity(fd, path, &id, &error), error);
    assert_ok(file_resize(fd, path, id.size_bytes - 8192, &error), error);
    file_close(fd);
}

static void forget(const char *path) { (void)unlink(path); }

TEST(a_file_replaced_changed_cut_or_removed_while_in_use_stops_every_request)
{
    static void (*const harms[])(const char *) = {replace, change, cut, forget};
    static const char *const words[] = {"was replaced while in use", "was changed while in use",
                                        "was changed while in use", "cannot open"};
    for (size_t i = 0; i < 4; i++) {
        char path[128];
        struct ds4_session *session;
        struct ds4_error error = {0};
        int32_t ids[N_PROMPT];
        size_t n;
        prompt(ids);
        (void)snprintf(path, sizeof path, "build/fixtures/harmed.%d.gguf", (int)getpid());
        copy_file(model_path(), path);
        struct ds4_engine *engine = model_open(path, options_for(NULL));
        assert_ok(ds4_session_create(engine, &session, &error), error);
        assert_ok(ds4_session_sync(session, ids, 8, NULL, NULL, NULL, &error), error);
        harms[i](path);
        for (int again = 0; again < 2; again++) {
            error = (struct ds4_error){0};
            struct ds4_job job = {session, ids + 8, 1, NULL};
            assert_int_not_equal(ds4_eval(engine, &job, 1, &error), DS4_OK);
            assert_non_null(strstr(error.message, words[i]));
            (void)ds4_session_tokens(session, &n);
            assert_int_equal(n, 8);
        }
        ds4_session_destroy(session);
        ds4_engine_close(engine);
        forget(path);
    }
}

/* ---- the pool alone --------------------------------------------------------------------------------------------- */

static struct stream *pool_of(struct gguf_file *file, const struct hparams *h, struct expert_map *map, bool paranoid)
{
    struct ds4_error error = {0};
    struct stream *s;
    assert_ok(expert_map_make(file, NULL, h, map, &error), error);
    struct stream_config c = expert_map_config(map, h, 4);
    c.paranoid = paranoid;
    c.budget_bytes = 340000;
    assert_ok(stream_create(&c, &s, &error), error);
    return s;
}

static enum ds4_status ask(struct stream *s, uint32_t layer_i, int32_t expert_i, struct ds4_error *error)
{
    TRY(stream_begin(s, 1, error));
    stream_ids(s)[0] = expert_i;
    stream_want(s, layer_i, 1);
    for (uint32_t p = 0; p < 3; p++) (void)stream_wait(s, layer_i, p, (uint32_t)expert_i);
    return stream_end(s, error);
}

TEST(checksums_find_a_bit_that_changed_in_memory_or_on_the_way_from_the_disk)
{
    struct ds4_error error = {0};
    struct gguf_file *file;
    struct hparams *h = mem_zalloc(1, sizeof *h);
    struct expert_map *map = mem_zalloc(1, sizeof *map);
    assert_ok(gguf_open(model_path(), &file, &error), error);
    assert_ok(hparams_read(file, h, &error), error);
    struct stream *s = pool_of(file, h, map, true);
    assert_ok(ask(s, 1, 5, &error), error);
    uint8_t *byte = (uint8_t *)(uintptr_t)stream_wait(s, 1, 2, 5) + 77;
    *byte ^= 4;
    assert_int_equal(ask(s, 1, 5, &error), DS4_ERR_FORMAT);
    assert_non_null(strstr(error.message, "expert 5 of layer 1 has changed in memory"));
    *byte ^= 4;
    error = (struct ds4_error){0};
    assert_ok(ask(s, 1, 5, &error), error);
    for (uint32_t l = 0; l < 3; l++) /* drive it out */
        for (int32_t e = 0; e < 8; e++)
            if (l != 1 || e != 5)
                for (int k = 0; k < 3; k++) assert_ok(ask(s, l, e, &error), error);
    if (!stream_table(s, 1, 0)[5]) {
        hook(FAULT_BIT, 0);
        assert_int_equal(ask(s, 1, 5, &error), DS4_ERR_FORMAT);
        file_test_hook(NULL);
        assert_non_null(strstr(error.message, "expert 5 of layer 1 reads differently"));
    } else {
        fail_msg("expert 5 of layer 1 is still there");
    }
    stream_destroy(s);
    gguf_close(file);
    mem_free(h);
    mem_free(map);
}

TEST(a_table_that_names_another_slot_is_noticed)
{
    struct ds4_error error = {0};
    struct gguf_file *file;
    struct hparams *h = mem_zalloc(1, sizeof *h);
    struct expert_map *map = mem_zalloc(1, sizeof *map);
    assert_ok(gguf_open(model_path(), &file, &error), error);
    assert_ok(hparams_read(file, h, &error), error);
    struct stream *s = pool_of(file, h, map, false);
    assert_ok(ask(s, 1, 5, &error), error);
    assert_ok(ask(s, 1, 6, &error), error);
    const uint8_t **table = (const uint8_t **)(uintptr_t)stream_table(s, 1, 0), *right = table[5];
    table[5] = table[6];
    assert_int_equal(ask(s, 1, 5, &error), DS4_ERR_STATE);
    assert_non_null(strstr(error.message, "does not hold expert 5 of layer 1"));
    table[5] = right;
    stream_destroy(s);
    gguf_close(file);
    mem_free(h);
    mem_free(map);
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static enum ds4_status open_and_ask(void *path, struct ds4_error *error)
{
    struct ds4_engine_options options = options_for(path);
    struct ds4_engine *engine;
    struct ds4_session *session;
    int32_t ids[N_PROMPT];
    prompt(ids);
    TRY(ds4_engine_open(&options, &engine, error));
    enum ds4_status status = ds4_session_create(engine, &session, error);
    if (status == DS4_OK) {
        status = ds4_session_sync(session, ids, 10, NULL, NULL, NULL, error);
        ds4_session_destroy(session);
    }
    ds4_engine_close(engine);
    return status;
}

TEST(opening_with_streamed_experts_survives_every_failed_allocation)
{
    char *path = (char *)(uintptr_t)model_path();
    assert_in_range(alloc_fail_loop("streaming", open_and_ask, path, 1), 10, 100000);
}

int main(void)
{
    return RUN_TESTS(T(a_read_error_at_any_read_stops_the_request_and_nothing_else),
                     T(a_file_that_ends_early_stops_the_request_and_nothing_else), T(short_reads_are_completed),
                     T(a_file_replaced_changed_cut_or_removed_while_in_use_stops_every_request),
                     T(checksums_find_a_bit_that_changed_in_memory_or_on_the_way_from_the_disk),
                     T(a_table_that_names_another_slot_is_noticed),
                     T(opening_with_streamed_experts_survives_every_failed_allocation));
}
