/* test_faults_of_the_store.c - every allocation of the store fails in turn, in the worker and in the thread that
 * writes: answers stay the same bit for bit, whatever the failed runs left on disk, and nothing is left in memory. */
#include "lib/test.h"

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "lib/alloc_fail.h"
#include "lib/model.h"

#define N_PROMPT 262 /* a full span and a part of the next */

struct world {
    struct ds4_engine *engine;
    char dir[160];
    int32_t ids[N_PROMPT];
    float *cold;             /* logits after the prompt, computed without a store */
    size_t logits_bytes;
    bool wrong;              /* some run gave other logits */
    size_t n_reused;         /* of the last run */
};

static enum ds4_status use_session(struct world *w, struct ds4_store *store, struct ds4_error *error)
{
    struct ds4_session *session;
    struct ds4_store_report report = {0};
    TRY(ds4_session_create(w->engine, &session, error));
    enum ds4_status status = ds4_store_sync(store, session, w->ids, N_PROMPT, NULL, NULL, &report, error);
    if (status == DS4_OK && memcmp(ds4_session_logits(session), w->cold, w->logits_bytes) != 0) w->wrong = true;
    if (status == DS4_OK) ds4_store_save(store, session, DS4_SAVE_USER, NULL);
    ds4_store_flush(store);
    ds4_session_destroy(session);
    w->n_reused = report.n_reused;
    return status;
}

/* Opens, computes or restores, saves, closes. */
static enum ds4_status use_store(void *user, struct ds4_error *error)
{
    struct world *w = user;
    struct ds4_store_options options = {.dir = w->dir, .no_sync = true};
    struct ds4_store *store;
    TRY(ds4_store_open(w->engine, &options, &store, error));
    enum ds4_status status = use_session(w, store, error);
    ds4_store_close(store);
    return status;
}

static void empty_dir(const char *path)
{
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && (e = readdir(dir));) (void)unlinkat(dirfd(dir), e->d_name, 0);
    if (dir) (void)closedir(dir);
}

/* The same, beginning without any checkpoint. */
static enum ds4_status use_empty_store(void *user, struct ds4_error *error)
{
    empty_dir(((struct world *)user)->dir);
    return use_store(user, error);
}

static struct world make_world(void)
{
    struct world w = {0};
    struct ds4_error error = {0};
    struct ds4_session *session;
    w.engine = model_open(model_small(), (struct ds4_engine_options){.ctx_tokens = 512, .n_threads = 2,
                                                                     .chunk_tokens = 64});
    (void)snprintf(w.dir, sizeof w.dir, "%s/kv", test_dir());
    for (size_t i = 0; i < N_PROMPT; i++) w.ids[i] = model_token(i, ds4_engine_info(w.engine)->n_vocab);
    w.logits_bytes = ds4_engine_info(w.engine)->n_vocab * sizeof(float);
    w.cold = mem_alloc(w.logits_bytes, 1);
    assert_ok(ds4_session_create(w.engine, &session, &error), error);
    assert_ok(ds4_session_sync(session, w.ids, N_PROMPT, NULL, NULL, NULL, &error), error);
    memcpy(w.cold, ds4_session_logits(session), w.logits_bytes);
    ds4_session_destroy(session);
    return w;
}

static void end_world(struct world *w)
{
    mem_free(w->cold);
    ds4_engine_close(w->engine);
    empty_dir(w->dir);
    (void)rmdir(w->dir);
}

TEST(saving_to_a_store_survives_every_failed_allocation)
{
    struct world w = make_world();
    assert_in_range(alloc_fail_loop("store, saving", use_empty_store, &w, 1), 10, 10000);
    assert_false(w.wrong);
    end_world(&w);
}

TEST(restoring_from_a_store_survives_every_failed_allocation)
{
    struct world w = make_world();
    struct ds4_error error = {0};
    assert_ok(use_store(&w, &error), error);
    assert_int_equal(w.n_reused, 0);
    assert_in_range(alloc_fail_loop("store, restoring", use_store, &w, 1), 10, 10000);
    assert_false(w.wrong);
    assert_ok(use_store(&w, &error), error);
    assert_int_equal(w.n_reused, N_PROMPT);
    end_world(&w);
}

int main(void)
{
    return RUN_TESTS(T(saving_to_a_store_survives_every_failed_allocation),
                     T(restoring_from_a_store_survives_every_failed_allocation));
}
