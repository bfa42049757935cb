/* test_restore_matrix.c - restoring from the disk is bit-equal to never having stopped: at every residue mod 4 and mod
 * 128, before and after the ring is full and in several spans, after near and far rewinds, with a tip and from rows
 * alone; the 200 tokens that follow are compared. On the trained model and on one where nothing has Flash's numbers;
 * together they have layers of every ratio (0, 4, 128), hash-routed and scored experts.
 *
 *   test_restore_matrix          a few residues
 *   test_restore_matrix long     all: on the trained model at three places, on the odd one each residue and way once
 *                                ("long trained" and "long odd": one of the two) */
#include "lib/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "lib/model.h"
#include "lib/steady.h"

#define AFTER 200u     /* tokens compared after a restore */
#define N_MAX 1080u
#define N_SHORT 960u
#define CHUNK 256u

static bool is_long;
static const char *only = ""; /* a model, when not both */

struct world {
    struct steady run;
    struct ds4_session *walker, *ahead; /* long form: at the place at hand, and 250 tokens past the last one */
    uint64_t n_restores;
};

static void begin(struct world *w, const char *path)
{
    struct ds4_engine_options options = {.ctx_tokens = N_MAX, .chunk_tokens = CHUNK, .n_sessions_max = 4};
    *w = (struct world){0};
    steady_begin(&w->run, path, options, is_long ? N_MAX : N_SHORT, 60);
}

static void end(struct world *w)
{
    print_message("%llu restores, %llu tokens after them bit-equal\n", (unsigned long long)w->n_restores,
                  (unsigned long long)w->run.n_compared);
    steady_end(&w->run);
}

static void remove_entry(void *user, const char *name)
{
    char path[600];
    const char *const *what = user;
    (void)snprintf(path, sizeof path, "%s/%s", what[0], name);
    if (strstr(name, what[1])) assert_int_equal(unlink(path), 0);
}
static void remove_entries(const struct world *w, const char *suffix)
{
    const char *what[] = {w->run.dir, suffix};
    struct ds4_error error = {0};
    assert_ok(file_list_dir(w->run.dir, remove_entry, what, &error), error);
}

/* Saves the session, which holds n tokens, closes the store, and goes on from the disk in another session. */
static void through_the_disk(struct world *w, const struct ds4_session *s, size_t n, bool with_tip)
{
    struct ds4_error error = {0};
    struct ds4_store_report report;
    bool saved;
    size_t span = ds4_state_layout(w->run.engine)->span_tokens, reach = ds4_state_layout(w->run.engine)->reach_tokens;
    struct ds4_store *store = steady_store(&w->run);
    ds4_store_save(store, s, DS4_SAVE_USER, &saved);
    assert_true(saved);
    ds4_store_close(store);
    if (!with_tip) remove_entries(w, ".tip");
    store = steady_store(&w->run);
    struct ds4_session *other = steady_session(&w->run);
    assert_ok(ds4_store_sync(store, other, w->run.tokens, n, NULL, NULL, &report, &error), error);
    size_t by_rows = n / span * span > reach ? n / span * span - reach : 0;
    assert_int_equal(report.n_reused, with_tip ? n : by_rows);
    assert_int_equal(steady_digest(&w->run, ds4_session_logits(other)), w->run.expected[n - 1]);
    for (size_t t = 0; t < 8; t++) steady_eval(&w->run, other, n + t, n + t + 1); /* one by one, then at once */
    steady_eval(&w->run, other, n + 8, n + AFTER);
    w->n_restores++;
    ds4_session_destroy(other);
    ds4_store_close(store);
    remove_entries(w, ".tip"); /* the next one is to be found by itself */
}

/* A session that holds n tokens: computed, or a fork of one that does. */
static struct ds4_session *session_at(const struct world *w, struct ds4_session *from, size_t n)
{
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    size_t held;
    if (from) assert_ok(ds4_session_fork(from, &s, &error), error);
    else assert_ok(ds4_session_sync(s = steady_session(&w->run), w->run.tokens, n, NULL, NULL, NULL, &error), error);
    (void)ds4_session_tokens(s, &held);
    assert_true(held >= n);
    assert_int_equal(steady_digest(&w->run, ds4_session_logits(s)), w->run.expected[held - 1]);
    return s;
}

/* A session at exactly n tokens, having come there in the given way. */
enum way { STRAIGHT, NEAR_REWIND, FAR_REWIND };
static struct ds4_session *arrive(struct world *w, size_t n, enum way way)
{
    struct ds4_error error = {0};
    size_t reach = ds4_state_layout(w->run.engine)->reach_tokens, reused, away = 1 + n % 30;
    if (way == FAR_REWIND) {
        struct ds4_session *s = session_at(w, w->ahead, n + 250);
        assert_ok(ds4_session_sync(s, w->run.tokens, n, NULL, NULL, &reused, &error), error);
        assert_int_equal(reused, n - 1 > reach ? n - 1 - reach : 0);
        return s;
    }
    struct ds4_session *s = session_at(w, w->walker, n);
    if (way == NEAR_REWIND) { /* past the end with other tokens, back before it, on */
        int32_t wrong[30];
        for (size_t i = 0; i < away; i++) wrong[i] = (w->run.tokens[n + i] + 1) % (int32_t)w->run.n_vocab;
        struct ds4_job job = {.session = s, .tokens = wrong, .n = away};
        assert_ok(ds4_eval(w->run.engine, &job, 1, &error), error);
        assert_ok(ds4_session_rewind(s, n - 1, &error), error);
        steady_eval(&w->run, s, n - 1, n);
    }
    return s;
}

static void check_at(struct world *w, size_t n, enum way way)
{
    struct ds4_session *s = arrive(w, n, way);
    through_the_disk(w, s, n, true);
    if (way == STRAIGHT) through_the_disk(w, s, n, false);
    ds4_session_destroy(s);
}

static const size_t bases[] = {1, 256, 700};

/* From the base on every residue mod 128. share: of the three ways, which one at which residue; 3 = all. */
static void check_residues(struct world *w, size_t base, size_t share)
{
    w->walker = session_at(w, NULL, base);
    w->ahead = session_at(w, NULL, base + 127 + 250);
    for (size_t n = base; n < base + 128; n++) {
        if (n > base) steady_eval(&w->run, w->walker, n - 1, n);
        for (size_t way = STRAIGHT; way <= FAR_REWIND; way++)
            if (share == 3 || (n % 128 + way) % 3 == share) check_at(w, n, (enum way)way);
    }
    ds4_session_destroy(w->walker);
    ds4_session_destroy(w->ahead);
}

static void check(const char *path, bool everywhere)
{
    static const struct {
        size_t n;
        enum way way;
    } few[] = {{127, STRAIGHT}, {256, NEAR_REWIND}, {389, FAR_REWIND}, {703, STRAIGHT}, {702, FAR_REWIND}};
    struct world w;
    begin(&w, path);
    for (size_t b = 0; is_long && b < sizeof bases / sizeof bases[0]; b++) {
        check_residues(&w, bases[b], everywhere ? 3 : b);
        print_message("from %zu on: %llu restores so far\n", bases[b], (unsigned long long)w.n_restores);
    }
    for (size_t i = 0; !is_long && i < sizeof few / sizeof few[0]; i += MODEL_STRIDE / 2 + 1)
        check_at(&w, few[i].n, few[i].way);
    end(&w);
}

TEST(restoring_is_bit_equal_to_never_having_stopped_on_the_trained_model)
{
    if (strcmp(only, "odd") != 0) check("models/ds4-tiny.gguf", true);
}
TEST(restoring_is_bit_equal_to_never_having_stopped_on_the_odd_model)
{
    if (strcmp(only, "trained") != 0) check(model_odd(), false);
}

int main(int argc, char **argv)
{
    is_long = argc > 1 && strcmp(argv[1], "long") == 0;
    if (argc > 2) only = argv[2];
    return RUN_TESTS(T(restoring_is_bit_equal_to_never_having_stopped_on_the_trained_model),
                     T(restoring_is_bit_equal_to_never_having_stopped_on_the_odd_model));
}
