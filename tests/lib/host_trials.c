/* host_trials.c - see host_trials.h. */
#include "lib/host_trials.h"

#include <stdio.h>

#include "base/mem.h"
#include "gpu/kernels/records.h"
#include "lib/model.h"

/* A kernel adds a to b. */
enum { N = 64, BYTES = N * sizeof(float), WRAPPED = 16384, LONG = 3 * 40960 + 7 };
struct adding {
    const struct gpu_host *h;
    struct gpu *g;
    struct gpu_buffer *a, *b, *near, *far, *long_one, *brief;
    const struct gpu_pipe *pipe;
};

static bool add_refs(const struct adding *t, struct gpu_ref from, struct gpu_ref to)
{
    const struct elements_record record = {.n = N};
    const struct gpu_ref refs[2] = {from, to};
    return t->h->dispatch(t->g, t->pipe, &record, sizeof record, refs, 2, (const unsigned[3]){1, 1, 1}, 256);
}

static bool add(const struct adding *t, struct gpu_buffer *from)
{
    return add_refs(t, (struct gpu_ref){from, 0, BYTES}, (struct gpu_ref){t->b, 0, BYTES});
}

static void fill_with(float *row, float value)
{
    for (int i = 0; i < N; i++) row[i] = value;
}

static bool is(float value, float wanted) { return value >= wanted && value <= wanted; }

/* Copies that go beside the dispatches, where the host has them. */
static bool send_row(const struct adding *t, float *row)
{
    const struct gpu_ref to = {t->a, 0, BYTES};
    if (!t->h->send) return t->h->write(t->g, t->a, 0, row, BYTES);
    uint64_t mark = t->h->mark(t->g);
    if (!mark || !t->h->send(t->g, to, row, mark)) return false;
    fill_with(row, 1000); /* it is the caller's again */
    return t->h->arrive(t->g);
}

/* b: 2 of each of four lists, of which the third is a replay where there are such; 10 and 1; and as much again. What is
 * posted stays as it is until it was collected. */
static bool add_in_turn(const struct adding *t, float *last)
{
    const struct gpu_host *h = t->h;
    float row[N], ones[N], first[4];
    fill_with(ones, 1);
    if (!h->write(t->g, t->a, 0, ones, sizeof ones)) return false;
    for (int i = 0; i < 4; i++)
        if (!add(t, t->a) || !add(t, t->near) || !h->submit(t->g)) return false;
    fill_with(ones, 10);
    if (!send_row(t, ones) || !add(t, t->a) || !add(t, t->far)) return false;
    if (!h->post(t->g, (struct gpu_ref){t->b, 0, 16}) ||
        !add_refs(t, (struct gpu_ref){t->a, 0, BYTES}, (struct gpu_ref){t->brief, 0, BYTES}) ||
        !h->post(t->g, (struct gpu_ref){t->brief, 16, 16}) || !h->collect(t->g, first, 16))
        return false;
    assert_true(is(first[0], 8 + 10 + 1));
    if (!h->collect(t->g, first, 16)) return false;
    assert_true(is(first[3], 10));
    if (!h->copy(t->g, (struct gpu_ref){t->a, 0, BYTES}, (struct gpu_ref){t->b, 0, BYTES}) || !add(t, t->a) ||
        !h->read(t->g, row, t->b, 0, sizeof row) || !h->wait(t->g)) return false;
    *last = row[N - 1];
    return true;
}

static bool move_long(const struct adding *t)
{
    static uint8_t from[LONG], to[LONG];
    const struct gpu_host *h = t->h;
    const struct gpu_ref there = {t->long_one, 0, LONG};
    for (size_t i = 0; i < LONG; i++) from[i] = (uint8_t)(i * 7 + i / 251);
    if (!(h->send ? h->send(t->g, there, from, 0) && h->arrive(t->g) : h->write(t->g, t->long_one, 0, from, LONG)) ||
        !h->read(t->g, to, t->long_one, 0, LONG))
        return false;
    assert_memory_equal(to, from, LONG);
    return true;
}

static bool make_buffers(struct adding *t, const float *weights)
{
    const struct gpu_host *h = t->h;
    struct gpu_info info;
    h->info(t->g, &info);
    return (t->a = h->alloc(t->g, BYTES)) && (t->b = h->alloc(t->g, BYTES)) && (t->brief = h->alloc(t->g, BYTES)) &&
           (t->long_one = h->alloc(t->g, LONG)) && (t->near = h->wrap(t->g, weights, WRAPPED, true)) &&
           (t->far = h->wrap(t->g, weights, WRAPPED, false)) &&
           (!h->send || h->prepare_sends(t->g, 65536)) && (t->pipe = h->pipe(t->g, "add"));
}

/* What is freed while lists that use it are on their way. */
static bool free_in_use(struct adding *t)
{
    const struct gpu_ref brief = {t->brief, 0, BYTES};
    float row[N];
    if (!add_refs(t, (struct gpu_ref){t->a, 0, BYTES}, brief) || !t->h->submit(t->g) ||
        !add_refs(t, brief, (struct gpu_ref){t->b, 0, BYTES}) || !t->h->submit(t->g))
        return false;
    t->h->free(t->g, t->brief);
    t->brief = NULL;
    if (!t->h->read(t->g, row, t->b, 0, sizeof row)) return false;
    assert_true(is(row[N - 1], 3 * (8 + 10 + 1) + 10));
    return true;
}

/* After a failure nothing more is done, and it is the first one that the host tells. */
static void assert_over(const struct adding *t)
{
    char first[512];
    float row[N];
    (void)snprintf(first, sizeof first, "%s", t->h->error(t->g));
    assert_true(strlen(first) > 8);
    if (t->pipe && t->a && t->b) assert_false(add(t, t->a));
    assert_false(t->h->submit(t->g));
    assert_false(t->h->wait(t->g));
    if (t->a) assert_false(t->h->read(t->g, row, t->a, 0, sizeof row));
    if (t->a) assert_false(t->h->write(t->g, t->a, 0, row, sizeof row));
    assert_string_equal(t->h->error(t->g), first);
}

bool host_trial_calls(const struct gpu_host *host, unsigned how)
{
    struct adding t = {.h = host};
    char why[256] = "";
    float last = 0, *weights = mem_map(WRAPPED);
    assert_non_null(weights);
    fill_with(weights, 1);
    t.g = host->open(why, sizeof why);
    if (!t.g) {
        assert_true(strlen(why) > 8);
        mem_unmap(weights, WRAPPED);
        return false;
    }
    if (host->launch) assert_true(host->launch(t.g, how));
    bool good = make_buffers(&t, weights) && move_long(&t) && add_in_turn(&t, &last) && free_in_use(&t);
    if (good) assert_true(is(last, 2 * (8 + 10 + 1)));
    else assert_over(&t);
    for (struct gpu_buffer **b = &t.a; b <= &t.brief; b++) host->free(t.g, *b);
    host->close(t.g);
    mem_unmap(weights, WRAPPED);
    return good;
}

bool host_trial_far(const struct gpu_host *host)
{
    const uint64_t far = (uint64_t)1 << 32, bytes = far + WRAPPED;
    struct adding t = {.h = host};
    float row[N] = {0}, *weights = mem_map(bytes);
    char why[256] = "";
    assert_non_null(weights);
    fill_with(weights, 1);
    fill_with(weights + (far + 4096) / sizeof *weights, 7);
    t.g = host->open(why, sizeof why);
    assert_non_null(t.g);
    bool good = (t.near = host->wrap(t.g, weights, bytes, false)) && (t.b = host->alloc(t.g, BYTES)) &&
                (t.pipe = host->pipe(t.g, "add")) &&
                add_refs(&t, (struct gpu_ref){t.near, far + 4096, BYTES}, (struct gpu_ref){t.b, 0, BYTES}) &&
                host->read(t.g, row, t.b, 0, sizeof row);
    if (good) assert_true(is(row[0], 7) && is(row[N - 1], 7));
    host->free(t.g, t.near);
    host->free(t.g, t.b);
    host->close(t.g);
    mem_unmap(weights, bytes);
    return good;
}

struct ds4_engine_options host_trial_options(const char *backend)
{
    return (struct ds4_engine_options){.model_path = model_small(), .backend = backend, .ctx_tokens = 64,
                                       .chunk_tokens = 4, .n_threads = 1, .n_sessions_max = 1, .notes_dir = ""};
}

bool host_trial_engine(const char *backend, const char *launch, float *logits, struct ds4_error *error)
{
    struct ds4_engine_options options = host_trial_options(backend);
    options.launch = launch;
    struct ds4_engine *e = NULL;
    struct ds4_session *s = NULL;
    int32_t tokens[2] = {3, 4};
    bool good = ds4_engine_open(&options, &e, error) == DS4_OK && ds4_session_create(e, &s, error) == DS4_OK;
    for (int i = 0; i < 2 && good; i++) {
        struct ds4_job job = {.session = s, .tokens = tokens + i, .n = 1};
        good = ds4_eval(e, &job, 1, error) == DS4_OK && ds4_session_logits(s) != NULL;
    }
    if (good) memcpy(logits, ds4_session_logits(s), HOST_TRIAL_VOCAB * sizeof *logits);
    if (s) ds4_session_destroy(s);
    if (e) ds4_engine_close(e);
    return good;
}
