/* fake_store.c - see fake_store.h. */
#include "lib/fake/fake_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "lib/model.h"
#include "lib/test.h"

struct ds4_engine *fake_store_engine(const char *script)
{
    struct ds4_engine *engine = NULL;
    struct ds4_error error = {0};
    struct ds4_engine_options options = {.model_path = "script"};
    fake_engine_script(script);
    assert_ok(ds4_engine_open(&options, &engine, &error), error);
    fake_engine_script(NULL);
    return engine;
}

int32_t fake_store_token(uint32_t seed, size_t i, size_t trunk)
{
    uint32_t x = ((i < trunk ? 0 : seed) + 1) * 2654435761u ^ (uint32_t)i * 40503u;
    x ^= x >> 13, x *= 0x5bd1e995u, x ^= x >> 15;
    return (int32_t)('a' + x % 26);
}

void fake_store_tokens(uint32_t seed, size_t n, size_t trunk, int32_t *ids)
{
    for (size_t i = 0; i < n; i++) ids[i] = fake_store_token(seed, i, trunk);
}

struct ds4_store *fake_store_open(struct ds4_engine *engine, const char *dir, uint64_t budget_bytes)
{
    struct ds4_store *store = NULL;
    struct ds4_error error = {0};
    struct ds4_store_options options = {.dir = dir, .budget_bytes = budget_bytes, .write_ratio_max = 1e6,
                                        .no_sync = true};
    assert_ok(ds4_store_open(engine, &options, &store, &error), error);
    return store;
}

size_t fake_store_visit(struct ds4_engine *engine, struct ds4_store *store, const int32_t *ids, size_t n, bool save)
{
    struct ds4_session *warm = NULL, *cold = NULL;
    struct ds4_error error = {0};
    struct ds4_store_report report;
    assert_ok(ds4_session_create(engine, &warm, &error), error);
    assert_ok(ds4_session_create(engine, &cold, &error), error);
    assert_ok(ds4_store_sync(store, warm, ids, n, NULL, NULL, &report, &error), error);
    assert_ok(ds4_session_sync(cold, ids, n, NULL, NULL, NULL, &error), error);
    assert_memory_equal(ds4_session_logits(warm), ds4_session_logits(cold), FAKE_N_VOCAB * sizeof(float));
    for (size_t i = 0; i < ds4_session_spans(cold); i++) {
        uint8_t *got = model_span(engine, warm, i), *want = model_span(engine, cold, i);
        assert_memory_equal(got, want, ds4_state_layout(engine)->span_bytes);
        free(got);
        free(want);
    }
    if (save) ds4_store_save(store, warm, DS4_SAVE_USER, NULL);
    ds4_session_destroy(cold);
    ds4_session_destroy(warm);
    return report.source == DS4_STORE_DISK ? report.n_reused : 0;
}

struct visit {
    const char *dir, *text, *to;
    size_t n;
    bool remove;
};

static void on_name(void *user, const char *name)
{
    struct visit *v = user;
    char path[600], to[600];
    struct ds4_text bytes = {0};
    struct ds4_error error = {0};
    int fd;
    (void)snprintf(path, sizeof path, "%s/%s", v->dir, name);
    if (v->text && strstr(name, v->text)) v->n++;
    if (v->remove) (void)unlink(path);
    if (!v->to) return;
    (void)snprintf(to, sizeof to, "%s/%s", v->to, name);
    assert_ok(file_read_all(path, 1u << 26, &bytes, &error), error);
    assert_ok(file_open(to, FILE_CREATE_NEW, &fd, &error), error);
    assert_ok(file_write_at(fd, to, 0, bytes.ptr, bytes.len, &error), error);
    file_close(fd);
    ds4_text_free(&bytes);
}

static size_t visit(struct visit v)
{
    struct ds4_error error = {0};
    assert_ok(file_list_dir(v.dir, on_name, &v, &error), error);
    return v.n;
}

size_t fake_store_count(const char *dir, const char *text) { return visit((struct visit){.dir = dir, .text = text}); }

void fake_store_clear(const char *dir)
{
    struct ds4_error error = {0};
    assert_ok(file_private_dir(dir, &error), error);
    (void)visit((struct visit){.dir = dir, .remove = true});
}

void fake_store_base(const char *name, char base[FAKE_STORE_BASE_BYTES])
{
    (void)snprintf(base, FAKE_STORE_BASE_BYTES, "/dev/shm/ds4-%s-%d", name, (int)getpid());
    if (mkdir(base, 0700) != 0) (void)snprintf(base, FAKE_STORE_BASE_BYTES, "%s", test_dir());
}

void fake_store_leave(const char *base, const char *dir)
{
    fake_store_clear(dir);
    (void)rmdir(dir);
    (void)rmdir(base);
    test_dir_remove();
}

void fake_store_copy(const char *from, const char *to)
{
    fake_store_clear(to);
    (void)visit((struct visit){.dir = from, .to = to});
}
