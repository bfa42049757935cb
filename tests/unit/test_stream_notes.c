/* test_stream_notes.c - what streaming remembers from run to run, and what it predicts from it. */
#include "lib/test.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "lib/model.h"
#include "stream/notes.h"
#include "stream/predict.h"

#define PATH "build/fixtures/notes.test"
#define N_LAYERS 3
#define N_EXPERTS 5
static float rates[N_LAYERS * N_EXPERTS];

static struct notes sample(void)
{
    for (size_t i = 0; i < N_LAYERS * N_EXPERTS; i++) rates[i] = (float)i / 16;
    return (struct notes){N_LAYERS, N_EXPERTS, {1, 2, 3}, 1234, 6e8, 0.5, 0.001, 0.002, 0.75, 0.2, 0.9, 1.3,
                          rates};
}

TEST(notes_are_read_as_they_were_written_and_refused_with_any_bit_changed)
{
    struct notes n = sample(), got = sample();
    struct ds4_error error = {0};
    struct ds4_text bytes = {0};
    float wanted[N_LAYERS * N_EXPERTS];
    memcpy(wanted, rates, sizeof wanted);
    assert_ok(notes_write(PATH, &n, &error), error);
    memset(rates, 0, sizeof rates);
    got.tokens = got.disk_bytes_per_s = got.dense_seconds = got.expert_seconds = got.wait_seconds = got.ahead_share =
        got.vain_share = got.hit_ratio = got.compute_ratio = 0;
    assert_ok(notes_read(PATH, &got, &error), error);
    assert_memory_equal(&got, &n, sizeof n);
    assert_memory_equal(rates, wanted, sizeof rates);
    assert_ok(file_read_all(PATH, 1 << 20, &bytes, &error), error);
    for (size_t bit = 0; bit < bytes.len * 8; bit++) {
        int fd;
        bytes.ptr[bit / 8] = (char)(bytes.ptr[bit / 8] ^ 1 << bit % 8);
        assert_ok(file_open(PATH, FILE_READ_WRITE, &fd, &error), error);
        assert_ok(file_write_at(fd, PATH, 0, bytes.ptr, bytes.len, &error), error);
        file_close(fd);
        assert_int_equal(notes_read(PATH, &got, NULL), DS4_ERR_FORMAT);
        bytes.ptr[bit / 8] = (char)(bytes.ptr[bit / 8] ^ 1 << bit % 8);
    }
    got.digest[0]++;
    assert_int_equal(notes_read(PATH, &got, NULL), DS4_ERR_FORMAT);
    ds4_text_free(&bytes);
    (void)unlink(PATH);
}

static int refuse_model_folder(const char *path, int flags, mode_t mode)
{
    if (strstr(path, ".gguf.experts.part")) {
        errno = EROFS;
        return -1;
    }
    return file_ops_system.open(path, flags, mode);
}

static void decode(struct ds4_engine *engine)
{
    struct ds4_session *session;
    struct ds4_error error = {0};
    assert_ok(ds4_session_create(engine, &session, &error), error);
    for (size_t i = 0; i < 40; i++) {
        int32_t id = model_token(i, 400);
        struct ds4_job job = {session, &id, 1, NULL};
        assert_ok(ds4_eval(engine, &job, 1, &error), error);
    }
    ds4_session_destroy(session);
}

static void remove_from(void *folder, const char *name)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", (const char *)folder, name);
    (void)unlink(path);
}

/* The first run learns, the second begins with the hot set and knows it; where the model's folder is read-only, too. */
TEST(what_one_run_learned_the_next_one_knows)
{
    for (int read_only = 0; read_only < 2; read_only++) {
        char path[128], notes[160], folder[] = "build/fixtures/notesXXXXXX";
        struct file_ops ops = file_ops_system;
        struct ds4_error error = {0};
        struct ds4_plan before, after;
        assert_non_null(mkdtemp(folder));
        (void)snprintf(path, sizeof path, "build/fixtures/learn.%d.gguf", (int)getpid());
        (void)snprintf(notes, sizeof notes, "%s.experts", path);
        model_generate(path, MODEL_SMALL_ARGS " --experts 24");
        struct ds4_engine_options options = {.model_path = path, .ctx_tokens = 64, .n_threads = 2, .chunk_tokens = 1,
                                             .expert_cache_bytes = 900000, .notes_dir = folder};
        assert_ok(ds4_plan_make(&options, &before, &error), error);
        assert_true(before.n_expert_slots > 3 && before.n_expert_slots < before.n_experts / 2);
        ops.open = refuse_model_folder;
        if (read_only) file_test_hook(&ops);
        struct ds4_engine *engine = model_open(path, options);
        decode(engine);
        ds4_engine_close(engine);
        file_test_hook(NULL);
        assert_int_equal(access(notes, F_OK), read_only ? -1 : 0);
        assert_ok(ds4_plan_make(&options, &after, &error), error);
        assert_true(before.tokens_observed == 0 && after.tokens_observed == 40);
        assert_true(after.expert_hit_rate > before.expert_hit_rate);
        assert_true(before.expert_ahead_share <= 0 && after.expert_ahead_share > 0);
        assert_true(after.expert_bytes >= before.expert_bytes);
        engine = model_open(path, options);
        struct ds4_expert_figures f;
        decode(engine);
        ds4_engine_expert_figures(engine, &f);
        assert_true(f.n_hits + f.n_ahead + f.n_misses == 40ull * after.n_layers * after.n_experts_used);
        ds4_engine_close(engine);
        (void)unlink(notes);
        (void)unlink(path);
        assert_ok(file_list_dir(folder, remove_from, folder, &error), error);
        assert_int_equal(rmdir(folder), 0);
    }
}

/* The expectation of the longest of reading and computing, drawn at random. */
static double drawn_seconds(const struct predict_input *in, struct rng *rng)
{
    double sum = 0, read = in->expert_bytes / in->disk_bytes_per_s;
    int n = 40000;
    for (int i = 0; i < n; i++) {
        uint32_t misses = 0, late = 0;
        for (uint32_t k = 0; k < in->n_used; k++) {
            bool missed = rng_double(rng) >= in->hit_rate;
            misses += missed;
            late += missed && rng_double(rng) >= in->ahead_share;
        }
        /* One reader and one computer: experts that are there are computed first, then each as it comes; those that
         * were asked for a layer before come after the others and have had the time of a layer. */
        double lead = in->dense_seconds / in->n_layers + in->n_used * in->expert_seconds;
        double computed = (in->n_used - misses) * in->expert_seconds;
        for (uint32_t k = 1; k <= misses; k++) {
            double there = in->wait_seconds + k * read - (k > late ? lead : 0);
            computed = (there > computed ? there : computed) + in->expert_seconds;
        }
        sum += computed;
    }
    return in->dense_seconds + sum / n * in->n_layers;
}

TEST(the_predicted_time_of_a_token_is_that_of_a_reader_and_a_computer_side_by_side)
{
    struct rng rng = {5};
    for (int i = 0; i < 30; i++) {
        double disk = 0.2e9 + rng_double(&rng) * 5e9;
        struct predict_input in = {43, 6, i % 6 * 0.2, i % 5 * 0.25, 7e6, disk, i % 4 * 1e-3, 0.3,
                                   rng_double(&rng) * 4e-3};
        double predicted = predict_token_seconds(&in), drawn = drawn_seconds(&in, &rng);
        if (fabs(predicted / drawn - 1) > 0.05) fail_msg("%d: %g s predicted, %g s drawn", i, predicted, drawn);
    }
}

/* Half of a random history chooses what is held, the other half says how often it is found. */
TEST(the_predicted_hit_rate_is_what_a_second_half_of_the_history_finds)
{
    enum { KEYS = 400, USED = 6 };
    struct rng rng = {77};
    for (int n_tokens = 20; n_tokens <= 2000; n_tokens *= 10)
        for (uint32_t n_slots = 25; n_slots <= 200; n_slots *= 2) {
            float counts[KEYS] = {0}, sorted[KEYS], scratch[KEYS];
            double found = 0, asked = 0;
            for (int half = 0; half < 2; half++) {
                if (half) memcpy(sorted, counts, sizeof sorted);
                for (int i = 0; i < n_tokens * USED; i++) {
                    uint32_t rank = (uint32_t)(rng_double(&rng) * rng_double(&rng) * KEYS), n_better = 0;
                    uint32_t key = rank * 149 % KEYS; /* numbers say nothing about popularity */
                    if (!half) counts[key]++;
                    if (!half) continue;
                    for (uint32_t k = 0; k < KEYS; k++)
                        n_better += sorted[k] > sorted[key] || (sorted[k] >= sorted[key] && k < key);
                    found += n_better < n_slots;
                    asked++;
                }
            }
            double predicted = predict_hit_rate(counts, KEYS, n_slots, scratch);
            if (fabs(predicted - found / asked) > 0.08)
                fail_msg("%d tokens, %u slots: %.3f predicted, %.3f found", n_tokens, n_slots, predicted,
                         found / asked);
        }
    float nothing[6] = {0}, scratch[6];
    assert_true(fabs(predict_hit_rate(nothing, 6, 2, scratch) - 1.0 / 3) < 1e-6);
    assert_true(fabs(predict_hit_rate(nothing, 6, 6, scratch) - 1) < 1e-6);
}

int main(void)
{
    return RUN_TESTS(T(notes_are_read_as_they_were_written_and_refused_with_any_bit_changed),
                     T(what_one_run_learned_the_next_one_knows),
                     T(the_predicted_time_of_a_token_is_that_of_a_reader_and_a_computer_side_by_side),
                     T(the_predicted_hit_rate_is_what_a_second_half_of_the_history_finds));
}
