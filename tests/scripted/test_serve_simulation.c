/* test_serve_simulation.c - the server's jobs on a simulated world: what clients ask and when they leave, when the
 * engine takes a step, what fails (passes of the engine, memory, files), and the time, are drawn from a seed. Whatever
 * happens, every job ends exactly once, nobody gets another's words, and nothing is left behind. A seed replays bit for
 * bit; one in eight has a store, whose writing thread keeps its own time.
 *
 *   test_serve_simulation                    the short form
 *   test_serve_simulation long [N [FIRST]]   N seeds (100,000), from FIRST (1) on */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "lib/fake/fake_engine.h"
#include "lib/fake/fake_store.h"
#include "lib/test.h"
#include "serve/compute.h"
#include "serve/constrain.h"

#define N_JOBS 24
#define N_ACTIONS 200
#define N_STEPS_MAX 20000 /* to the end of everything that was begun */

static const char script[] =
    "{\"ctx\":600,\"chunk\":32,\"rewind\":32,\"sessions\":4,\"fail_prefill\":\"bre~k\",\"answers\":["
    "{\"when\":\"circle\",\"say\":\"round \",\"endless\":true},"
    "{\"when\":\"lamed\",\"say\":\"abcdefgh\",\"fail_after\":4},"
    "{\"when\":\"nan\",\"say\":\"abcdefgh\",\"nan_after\":2},"
    "{\"when\":\"call\",\"think\":\"Hm.\",\"say\":\"\",\"calls\":[{\"name\":\"f\",\"arguments\":{\"a\":1}}]},"
    "{\"when\":\"letters\",\"say\":\"?\",\"spread\":9}]}";

struct world {
    struct rng rng;
    struct ds4_engine *engine;
    struct ds4_token_index *index;
    struct ds4_store *store;
    struct recall *recall;
    struct compute *compute;
    struct metrics metrics;
    struct client {
        struct exchange *x;
        struct buf got;
        char text[64];       /* what an echo must hold */
        bool stream, refused; /* refused: never became a job of the engine */
    } clients[N_JOBS];
    size_t n_clients;
    bool drained;
};

/* ---- what fails, and the time --------------------------------------------------------------------------------- */

static _Atomic uint64_t now_ns;
static uint64_t memory_from, memory_fails;
static _Atomic uint32_t disk_share; /* of 1,000 calls fail */
static _Atomic uint64_t disk_calls;
static pthread_t main_thread;
static bool memory_may_end; /* the main thread's own, as the burst is */

static uint64_t virtual_ns(void) { return now_ns; }
static uint64_t virtual_s(void) { return 1700000000u + now_ns / 1000000000u; }

/* A burst: some allocations work, the next ones fail. */
static bool memory_ends(void *user, uint64_t number)
{
    (void)user, (void)number;
    if (!pthread_equal(pthread_self(), main_thread) || !memory_may_end) return false;
    if (memory_from > 0) {
        memory_from--;
        return false;
    }
    if (memory_fails == 0) return false;
    memory_fails--;
    return true;
}

static bool disk_fails(void)
{
    struct rng rng = {.state = atomic_fetch_add(&disk_calls, 1)};
    if (rng_below(&rng, 1000) >= atomic_load(&disk_share)) return false;
    errno = rng_below(&rng, 2) ? ENOSPC : EIO;
    return true;
}

static ssize_t bad_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    return disk_fails() ? -1 : file_ops_system.pwrite(fd, buf, n, at);
}

static ssize_t bad_pread(int fd, void *buf, size_t n, off_t at)
{
    return disk_fails() ? -1 : file_ops_system.pread(fd, buf, n, at);
}

static uint32_t draw(struct world *w, uint32_t n) { return (uint32_t)rng_below(&w->rng, n); }

/* ---- clients -------------------------------------------------------------------------------------------------- */

static const char *const paths[] = {[API_CHAT] = "messages", [API_COMPLETIONS] = "prompt", [API_MESSAGES] = "messages",
                                    [API_RESPONSES] = "input"};

/* Words that the script knows, alone or behind a long prompt that is shared with others. */
static void draw_text(struct world *w, struct client *c, struct buf *out)
{
    static const char *const words[] = {"circle", "lamed", "nan", "call", "letters", "bre~k"};
    uint32_t kind = draw(w, 12);
    for (uint32_t n = draw(w, 4) ? 0 : draw(w, 400); n > 0; n--) buf_put_byte(out, 'p');
    if (kind < 6) {
        buf_put_text(out, words[kind]);
        return;
    }
    (void)snprintf(c->text, sizeof c->text, "<%u-%zu>", draw(w, 1000), w->n_clients);
    buf_put_text(out, c->text);
}

static void put_body(struct world *w, enum api_dialect dialect, struct client *c, struct buf *out)
{
    struct buf text = {0};
    draw_text(w, c, &text);
    c->stream = draw(w, 2) == 1;
    buf_printf(out, "{\"stream\":%s,\"seed\":%u,\"max_tokens\":%u,\"%s\":", c->stream ? "true" : "false",
               1 + draw(w, 1000), draw(w, 8) ? draw(w, 30) : 4000, paths[dialect]);
    if (dialect == API_CHAT || dialect == API_MESSAGES) buf_put_text(out, "[{\"role\":\"user\",\"content\":");
    buf_put_json_string(out, buf_span(&text));
    if (dialect == API_CHAT || dialect == API_MESSAGES) buf_put_text(out, "}]");
    if (draw(w, 3)) buf_put_text(out, ",\"thinking\":{\"type\":\"disabled\"}");
    if (draw(w, 4) == 0)
        buf_put_text(out, dialect == API_MESSAGES ? ",\"tools\":[{\"name\":\"f\",\"input_schema\":{}}]"
                          : dialect == API_CHAT ? ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"
                                                : "");
    if (dialect == API_CHAT && draw(w, 6) == 0) {
        buf_put_text(out, ",\"response_format\":{\"type\":\"json_object\"}");
        c->text[0] = 0; /* no echo then */
    }
    buf_put_text(out, "}");
    buf_deinit(&text);
}

/* What the preparer does (prepare.c), without its thread. */
static enum ds4_status prepare(struct world *w, struct job *job, struct ds4_error *error)
{
    struct api_options options = {.min_p = 0.05f, .replay = recall_find, .replay_user = w->recall};
    TRY(api_parse(job->dialect, &options, &job->arena, buf_span(&job->body), &job->request, error));
    if (job->request.raw) TRY(ds4_tokenize(w->engine, job->request.prompt, false, &job->prompt, error));
    else TRY(ds4_render(w->engine, &job->request.chat, &job->prompt, NULL, error));
    if (job->prompt.n == 0 || job->prompt.n >= ds4_engine_info(w->engine)->ctx_tokens)
        return err_set(error, DS4_ERR_LIMIT, "too long");
    return constrain_job(w->engine, w->index, job, error);
}

static void hand_in(struct world *w, struct client *c, enum api_dialect dialect, struct buf *body)
{
    struct ds4_error error = {0};
    struct job *job = body->failed ? NULL : job_create(JOB_ANSWER, dialect, body, c->x, &w->metrics);
    buf_deinit(body);
    c->refused = true;
    if (!job) return;
    if (prepare(w, job, &error) != DS4_OK) {
        job_refuse(job, 500, "refused", NULL, NULL);
        job_destroy(job);
        return;
    }
    c->refused = false;
    job->next = NULL;
    compute_take(w->compute, job);
}

static void arrive(struct world *w)
{
    if (w->n_clients == N_JOBS) return;
    struct client *c = &w->clients[w->n_clients];
    struct buf body = {0};
    enum api_dialect dialect = draw(w, 4);
    c->x = exchange_create(-1);
    if (!c->x) return;
    w->n_clients++;
    put_body(w, dialect, c, &body);
    hand_in(w, c, dialect, &body);
}

static void read_out(struct client *c)
{
    buf_put_span(&c->got, buf_span(&c->x->out));
    buf_clear(&c->x->out);
}

static struct client *anybody(struct world *w)
{
    return w->n_clients ? &w->clients[draw(w, (uint32_t)w->n_clients)] : NULL;
}

/* ---- one seed ------------------------------------------------------------------------------------------------- */

static void act(struct world *w)
{
    struct client *c = anybody(w);
    switch (draw(w, 16)) {
    case 0: case 1: case 2: arrive(w); break;
    case 3: if (c) atomic_store(&c->x->cancelled, true); break;
    case 4: if (c) read_out(c); break;
    case 5: now_ns += (uint64_t)draw(w, 2000) * 1000000u; break;
    case 6:
        memory_from = draw(w, 60);
        memory_fails = draw(w, 6) ? 0 : 1 + draw(w, 3);
        break;
    case 7: disk_share = draw(w, 2) ? 0 : draw(w, 500); break;
    default:
        for (uint32_t n = draw(w, 20); n > 0; n--) compute_step(w->compute);
    }
}

static size_t occurrences(struct ds4_span text, const char *what)
{
    size_t n = 0;
    for (size_t at = 0; (at = span_find(text, span_from(what), at)) != SIZE_MAX; at++) n++;
    return n;
}

/* What a client has in hand when all is over: one end, and, in an echo, its own words only. */
static void check_client(const struct world *w, size_t i, uint64_t seed)
{
    const struct client *c = &w->clients[i];
    struct ds4_span got = buf_span(&c->got);
    bool gone = exchange_is_cancelled(c->x);
    if (atomic_load(&c->x->refs) != 1) fail_msg("seed %llu, client %zu: its exchange is held",
                                                (unsigned long long)seed, i);
    if (!gone && !c->refused && !c->x->ended)
        fail_msg("seed %llu, client %zu: no end", (unsigned long long)seed, i);
    size_t ends = occurrences(got, "data: [DONE]") + occurrences(got, "\"type\":\"message_stop\"") +
                  occurrences(got, "\"type\":\"response.completed\"") +
                  occurrences(got, "\"type\":\"response.incomplete\"") +
                  occurrences(got, "\"type\":\"response.failed\"") + occurrences(got, "event: error");
    if (!gone && c->x->streaming && !c->got.failed && ends != 1)
        fail_msg("seed %llu, client %zu: %zu ends\n%.*s", (unsigned long long)seed, i, ends, (int)got.len, got.ptr);
    for (size_t k = 0; k < w->n_clients; k++)
        if (k != i && w->clients[k].text[0] && strcmp(w->clients[k].text, c->text) != 0 &&
            span_find(got, span_from(w->clients[k].text), 0) != SIZE_MAX)
            fail_msg("seed %llu: client %zu read the words of client %zu", (unsigned long long)seed, i, k);
}

static void finish(struct world *w, uint64_t seed)
{
    size_t n = 0;
    if (draw(w, 3) == 0) compute_drain(w->compute, 0.001 * draw(w, 3000));
    for (; n < N_STEPS_MAX && compute_is_busy(w->compute); n++) {
        now_ns += 5000000;
        compute_step(w->compute);
        for (size_t i = 0; i < w->n_clients; i++) read_out(&w->clients[i]);
    }
    if (n == N_STEPS_MAX) fail_msg("seed %llu: no end of work", (unsigned long long)seed);
    for (size_t i = 0; i < w->n_clients; i++) read_out(&w->clients[i]);
    assert_int_equal(atomic_load(&w->metrics.processing), 0);
    assert_int_equal(atomic_load(&w->metrics.waiting), 0);
    compute_destroy(w->compute);
    for (size_t i = 0; i < w->n_clients; i++) check_client(w, i, seed);
    for (size_t i = 0; i < w->n_clients; i++) {
        exchange_release(w->clients[i].x);
        buf_deinit(&w->clients[i].got);
    }
}

static struct ds4_engine *engine;
static struct ds4_token_index *token_index;
static char base[FAKE_STORE_BASE_BYTES], dir[300];

static void run_seed(uint64_t seed)
{
    struct world *w = mem_zalloc(1, sizeof *w);
    struct ds4_error error = {0};
    assert_non_null(w);
    int64_t before = mem_live();
    struct fake_stats stats = *fake_engine_stats();
    struct file_ops disk = file_ops_system;
    disk.pwrite = bad_pwrite;
    disk.pread = bad_pread;
    now_ns = 1000000000u;
    disk_share = 0;
    w->engine = engine;
    w->index = token_index;
    w->rng.state = seed;
    atomic_store(&disk_calls, seed << 20);
    bool with_store = seed % 8 == 0;
    struct ds4_store_options store = {.dir = dir, .budget_bytes = 30000, .write_free_bytes = 1 << 20,
                                      .no_sync = true, .never_wait = true};
    if (with_store) assert_ok(ds4_store_open(engine, &store, &w->store, &error), error);
    w->recall = recall_create(w->store);
    struct compute_options options = {.engine = engine, .store = w->store, .metrics = &w->metrics, .replay = w->recall,
                                      .n_parallel = 1 + draw(w, 3), .grace_s = (double)draw(w, 2)};
    assert_ok(compute_create(&options, &w->compute, &error), error);
    if (with_store) file_test_hook(&disk);
    memory_may_end = true;
    for (int i = 0; i < N_ACTIONS; i++) act(w);
    memory_may_end = false;
    finish(w, seed);
    recall_destroy(w->recall);
    ds4_store_close(w->store);
    file_test_hook(NULL);
    const struct fake_stats *after = fake_engine_stats();
    if (mem_live() != before || after->n_sessions != stats.n_sessions || after->n_samplers != stats.n_samplers ||
        after->n_parsers != stats.n_parsers)
        fail_msg("seed %llu: %lld blocks, %lld sessions left", (unsigned long long)seed,
                 (long long)(mem_live() - before), (long long)(after->n_sessions - stats.n_sessions));
    mem_free(w);
}

static uint64_t first_seed, n_seeds = 48;

static int set_up(void **state)
{
    struct ds4_error error = {0};
    struct ds4_engine_options options = {.model_path = "simulated", .n_sessions_max = 4};
    (void)state;
    fake_store_base("simulation", base);
    (void)snprintf(dir, sizeof dir, "%s/kv", base);
    fake_engine_script(script);
    assert_ok(ds4_engine_open(&options, &engine, &error), error);
    assert_ok(ds4_token_index_create(engine, &token_index, &error), error);
    main_thread = pthread_self();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ds4_token_index_destroy(token_index);
    ds4_engine_close(engine);
    fake_store_leave(base, dir);
    return 0;
}

TEST(every_job_ends_once_and_leaves_nothing_behind_whatever_happens)
{
    clock_test_hook(virtual_ns, virtual_s);
    mem_test_hook(memory_ends, NULL); /* before there are threads */
    for (uint64_t seed = first_seed; seed < first_seed + n_seeds; seed++) {
        run_seed(seed);
        if (seed % 8 == 0) fake_store_clear(dir);
        if ((seed + 1 - first_seed) % 10000 == 0)
            print_message("%llu seeds\n", (unsigned long long)(seed + 1 - first_seed));
    }
    mem_test_hook(NULL, NULL);
    clock_test_hook(NULL, NULL);
}

/* ---- a disk that does not answer ------------------------------------------------------------------------------ */

#define PATIENCE_MS 240000 /* after which the disk answers, and the test has failed */

static atomic_bool disk_answers, gave_up;

static int stuck_sync(int fd)
{
    for (int i = 0; !atomic_load(&disk_answers) && !atomic_load(&gave_up) && i < PATIENCE_MS; i++)
        (void)usleep(1000);
    if (!atomic_load(&disk_answers)) atomic_store(&gave_up, true);
    return file_ops_system.fdatasync(fd);
}

static struct client *ask(struct world *w, const char *text, size_t n_padding)
{
    struct client *c = &w->clients[w->n_clients++];
    struct buf body = {0};
    c->x = exchange_create(-1);
    buf_put_text(&body, "{\"thinking\":false,\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (size_t i = 0; i < n_padding; i++) buf_put_byte(&body, (unsigned char)text[0]);
    buf_put_text(&body, text);
    buf_put_text(&body, "\"}]}");
    hand_in(w, c, API_CHAT, &body);
    return c;
}

static void step(struct world *w, int n)
{
    while (n-- > 0) compute_step(w->compute);
}

TEST(a_conversation_that_leaves_keeps_no_answer_waiting_for_the_disk)
{
    struct world *w = mem_zalloc(1, sizeof *w);
    struct ds4_error error = {0};
    struct file_ops disk = file_ops_system;
    disk.fdatasync = stuck_sync;
    struct ds4_store_options store = {.dir = dir, .never_wait = true}; /* as the server opens it */
    w->engine = engine;
    w->index = token_index;
    assert_ok(ds4_store_open(engine, &store, &w->store, &error), error);
    w->recall = recall_create(w->store);
    struct compute_options options = {.engine = engine, .store = w->store, .metrics = &w->metrics, .replay = w->recall,
                                      .n_parallel = 1, .no_loop_guard = true};
    assert_ok(compute_create(&options, &w->compute, &error), error);
    file_test_hook(&disk);
    struct client *first = ask(w, "letters", 300);
    step(w, 40);
    assert_true(first->x->ended); /* and its state is on its way to the disk */
    struct client *at_work = ask(w, "circle", 0);
    step(w, 3);
    struct client *leaves = ask(w, "other", 400);
    step(w, 3);
    atomic_store(&leaves->x->cancelled, true);
    step(w, 2);
    struct client *next = ask(w, "letters", 0);
    step(w, 40);
    assert_true(next->x->ended && !at_work->x->ended);
    assert_false(atomic_load(&gave_up));
    atomic_store(&disk_answers, true);
    compute_destroy(w->compute);
    recall_destroy(w->recall);
    ds4_store_close(w->store);
    file_test_hook(NULL);
    for (size_t i = 0; i < w->n_clients; i++) exchange_release(w->clients[i].x);
    mem_free(w);
}

/* Tokens that the next round chooses ahead. */
static uint64_t ahead_in_a_step(struct world *w)
{
    uint64_t before = fake_engine_stats()->n_chosen_ahead;
    step(w, 1);
    return fake_engine_stats()->n_chosen_ahead - before;
}

TEST(answers_are_decoded_ahead_together_while_there_is_nothing_else_to_compute_and_none_is_masked)
{
    struct world *w = mem_zalloc(1, sizeof *w);
    struct ds4_error error = {0};
    w->engine = engine;
    w->index = token_index;
    w->recall = recall_create(NULL);
    struct compute_options options = {.engine = engine, .metrics = &w->metrics, .replay = w->recall, .n_parallel = 3,
                                      .no_loop_guard = true};
    assert_ok(compute_create(&options, &w->compute, &error), error);
    (void)ask(w, "circle", 0);
    step(w, 3);
    assert_int_equal(ahead_in_a_step(w), 1);
    struct client *second = ask(w, "circle", 0);
    step(w, 3);
    assert_int_equal(ahead_in_a_step(w), 2);
    struct client *third = ask(w, "circle", 200); /* its prompt takes some rounds */
    assert_int_equal(ahead_in_a_step(w), 0);
    step(w, 20);
    assert_int_equal(ahead_in_a_step(w), 3);
    atomic_store(&third->x->cancelled, true);
    step(w, 2);
    assert_int_equal(ahead_in_a_step(w), 2);
    struct client *masked = &w->clients[w->n_clients++];
    struct buf body = {0};
    masked->x = exchange_create(-1);
    buf_put_text(&body, "{\"thinking\":false,\"messages\":[{\"role\":\"user\",\"content\":\"circle\"}],"
                        "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"long\",\"schema\":"
                        "{\"type\":\"string\",\"minLength\":60}}}}"); /* it does not end in a few rounds */
    hand_in(w, masked, API_CHAT, &body);
    step(w, 3);
    assert_false(masked->x->ended);
    assert_int_equal(ahead_in_a_step(w), 0);
    atomic_store(&masked->x->cancelled, true);
    atomic_store(&second->x->cancelled, true);
    step(w, 2);
    assert_int_equal(ahead_in_a_step(w), 1);
    compute_destroy(w->compute);
    recall_destroy(w->recall);
    for (size_t i = 0; i < w->n_clients; i++) {
        buf_deinit(&w->clients[i].got);
        exchange_release(w->clients[i].x);
    }
    mem_free(w);
}

int main(int argc, char **argv)
{
    bool is_long = argc > 1 && strcmp(argv[1], "long") == 0;
    first_seed = is_long ? argc > 3 ? strtoull(argv[3], NULL, 10) : 1 : test_seed() % 1000000000u;
    if (is_long) n_seeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 100000;
    const struct CMUnitTest tests[] = {T(every_job_ends_once_and_leaves_nothing_behind_whatever_happens),
                                       T(a_conversation_that_leaves_keeps_no_answer_waiting_for_the_disk),
        T(answers_are_decoded_ahead_together_while_there_is_nothing_else_to_compute_and_none_is_masked)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
