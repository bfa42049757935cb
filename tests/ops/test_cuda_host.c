/* test_cuda_host.c - the CUDA host over the pretend runtime of tests/gpu/pretend_cuda, on each kind of device and in
 * each order that streams may run in: operations, experts and choices as on every host; every call of the runtime fails
 * once; and the pretend runtime itself reports what it is there to report. What is tested is the host file, not the
 * kernels as nvcc compiles them. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gpu/backend.h"
#include "lib/gpu_trials.h"
#include "lib/host_trials.h"
#include "lib/model.h"
#include "lib/test.h"

#ifdef DS4_PRETEND_CUDA
#include <cuda_runtime.h>

#include "base/mem.h"
#include "gpu/cuda_kernels.h"
#include "gpu/kernels/records.h"
#include "pretend_cuda.h"

static uint64_t seed; /* of this run */

static void be(enum pretend_kind kind, enum pretend_order order, uint64_t fail_at)
{
    pretend_cuda(&(struct pretend_options){.kind = kind, .order = order, .seed = seed, .fail_at = fail_at});
}

static void assert_clean(void)
{
    const char *sentence = pretend_cuda_report();
    if (sentence) fail_msg("%s", sentence);
    assert_int_equal(pretend_cuda_n_alive(), 0);
}

TEST(every_operation_agrees_with_the_reference_through_the_cuda_host)
{
    for (enum pretend_kind kind = 0; kind < PRETEND_NONE; kind++) {
        be(kind, PRETEND_RANDOM, 0);
        assert_true(gpu_trial_operations(&gpu_host_cuda) >= 20);
        assert_true(pretend_cuda_counts().n_launches > 40);
        assert_clean();
    }
}

TEST(the_kernels_for_many_rows_go_through_the_cuda_host)
{
    be(PRETEND_DISCRETE, PRETEND_RANDOM, 0);
    gpu_trial_many_rows(&gpu_host_cuda);
    assert_clean();
}

TEST(experts_in_a_pool_are_used_where_they_lie_on_devices_that_see_the_machines_memory)
{
    for (enum pretend_order order = 0; order < PRETEND_ORDERS; order++) {
        be(order % 2 ? PRETEND_COHERENT : PRETEND_INTEGRATED, order, 0);
        gpu_trial_pool(&gpu_host_cuda);
        assert_clean();
    }
}

TEST(choices_are_those_of_the_emulator_in_every_order_of_the_device)
{
    uint32_t got[20], want[20];
    gpu_trial_choices(&gpu_host_emu, 20, want);
    for (enum pretend_order order = 0; order < PRETEND_ORDERS; order++) {
        be(PRETEND_DISCRETE, order, 0);
        gpu_trial_choices(&gpu_host_cuda, 20, got);
        assert_memory_equal(got, want, sizeof want);
        assert_true(pretend_cuda_counts().n_replayed > 10);
        assert_clean();
    }
}

enum { N = 64, BYTES = N * sizeof(float) };

static void fill_with(float *row, float value)
{
    for (int i = 0; i < N; i++) row[i] = value;
}

static bool do_all_as(unsigned how) { return host_trial_calls(&gpu_host_cuda, how); }
static bool do_all(void) { return do_all_as(GPU_LAUNCH_PLAIN); }

TEST(lists_copies_sends_and_posts_are_in_order_on_every_device_in_every_order)
{
    for (enum pretend_kind kind = 0; kind < PRETEND_NONE; kind++) {
        for (uint32_t order = 0; order < PRETEND_ORDERS + 20; order++) {
            pretend_cuda(&(struct pretend_options){.kind = kind, .order = order < PRETEND_ORDERS ? order : 0,
                                                   .seed = seed + order, .refuses_pages = order % 2});
            if (!do_all()) fail_msg("kind %d, order %u: %s", (int)kind, order, pretend_cuda_report());
            assert_clean();
        }
    }
    be(PRETEND_NONE, PRETEND_EARLY, 0);
    assert_false(do_all());
}

/* In a list all but the first, whatever came before it, and whether the list is replayed. */
TEST(kernels_are_launched_early_where_they_follow_a_kernel_and_where_that_was_asked_for)
{
    for (enum pretend_order order = 0; order < PRETEND_ORDERS; order++) {
        be(PRETEND_DISCRETE, order, 0);
        if (!do_all_as(GPU_LAUNCH_EARLY)) fail_msg("%s", pretend_cuda_report());
        struct pretend_counts counts = pretend_cuda_counts();
        assert_true(counts.n_replayed > 0);
        assert_int_equal(counts.n_early, counts.n_launches - counts.n_lists);
        assert_true(counts.n_early > 4);
        assert_clean();
        be(PRETEND_DISCRETE, order, 0);
        assert_true(do_all());
        counts = pretend_cuda_counts();
        assert_true(counts.n_early == 0 && counts.n_launches > 8);
        assert_clean();
    }
}

TEST(every_call_of_the_runtime_may_fail_and_the_host_says_so_and_leaves_nothing)
{
    uint64_t n_calls = 1, n_failed = 0;
    for (uint64_t i = 1; i <= n_calls; i++) {
        be(PRETEND_DISCRETE, (enum pretend_order)(i % PRETEND_ORDERS), i);
        if (!do_all()) n_failed++;
        if (pretend_cuda_counts().n_calls >= i) n_calls = i + 1;
        assert_clean();
    }
    print_message("%u calls, after %u of which the host failed\n", (unsigned)n_calls - 1, (unsigned)n_failed);
    /* Pages that are not pinned are copied; what is freed at last, and the end, come after the rest of two streams. */
    assert_int_equal(n_failed + 1 + 2 * (5 + 1), n_calls - 1);
    assert_true(n_calls > 100);
}

static bool run_engine_as(const char *launch, float *logits, struct ds4_error *error)
{
    return host_trial_engine("cuda", launch, logits, error);
}

static bool run_engine(float *logits, struct ds4_error *error) { return run_engine_as(NULL, logits, error); }

TEST(an_engine_whose_device_fails_says_so_and_leaves_nothing)
{
    struct ds4_error error = {0};
    float logits[HOST_TRIAL_VOCAB];
    be(PRETEND_DISCRETE, PRETEND_LATE, 0);
    if (!run_engine(logits, &error)) fail_msg("%s", error.message);
    assert_clean();
    uint64_t n_calls = pretend_cuda_counts().n_calls, n_failed = 0, n_tried = 0;
    for (uint64_t i = 1; i <= n_calls; i += 1 + n_calls / 30, n_tried++) {
        error = (struct ds4_error){0};
        be(PRETEND_DISCRETE, PRETEND_LATE, i);
        if (!run_engine(logits, &error)) {
            assert_true(strlen(error.message) > 8);
            n_failed++;
        }
        assert_clean();
    }
    print_message("%u calls; %u engines, %u failed\n", (unsigned)n_calls, (unsigned)n_tried, (unsigned)n_failed);
    assert_true(n_failed > 20);
}

TEST(an_engine_gives_the_same_bits_on_every_kind_of_device_in_every_order)
{
    struct ds4_error error = {0};
    float got[HOST_TRIAL_VOCAB], want[HOST_TRIAL_VOCAB];
    for (uint32_t i = 0; i < PRETEND_NONE * PRETEND_ORDERS; i++) {
        be((enum pretend_kind)(i / PRETEND_ORDERS), (enum pretend_order)(i % PRETEND_ORDERS), 0);
        if (!run_engine(i ? got : want, &error)) fail_msg("%s", error.message);
        if (i) assert_memory_equal(got, want, sizeof want);
        assert_clean();
    }
}

TEST(a_span_and_a_tail_are_fetched_in_one_copy_each_and_nothing_for_a_token)
{
    struct ds4_engine_options options = host_trial_options("cuda");
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    struct pretend_counts counts;
    int32_t tokens[6] = {3, 4, 5, 6, 7, 8};
    be(PRETEND_DISCRETE, PRETEND_LATE, 0);
    struct ds4_engine *e = model_open(options.model_path, options);
    const struct ds4_state_layout *layout = ds4_state_layout(e);
    uint8_t *span = malloc(layout->span_bytes), *tip = malloc(layout->tip_bytes_max);
    size_t tip_len;
    assert_ok(ds4_session_create(e, &s, &error), error);
    (void)pretend_cuda_counts();
    for (int i = 0; i < 6; i++) {
        struct ds4_job job = {.session = s, .tokens = tokens + i, .n = 1};
        assert_ok(ds4_eval(e, &job, 1, &error), error);
    }
    assert_int_equal(pretend_cuda_counts().fetched_bytes, 0);
    assert_non_null(ds4_session_logits(s));
    counts = pretend_cuda_counts();
    assert_true(counts.n_fetched == 1 && counts.fetched_bytes == HOST_TRIAL_VOCAB * sizeof(float));
    assert_ok(ds4_session_span_save(s, 0, span, &error), error);
    counts = pretend_cuda_counts();
    assert_true(counts.n_fetched == 1 && counts.fetched_bytes == layout->span_bytes);
    assert_ok(ds4_session_tip_save(s, tip, layout->tip_bytes_max, &tip_len, &error), error);
    counts = pretend_cuda_counts();
    assert_true(counts.n_fetched == 1 && counts.fetched_bytes > layout->span_bytes);
    free(span);
    free(tip);
    ds4_session_destroy(s);
    ds4_engine_close(e);
    assert_clean();
}

TEST(an_engine_launches_early_when_it_is_told_to_and_the_device_can)
{
    struct ds4_error error = {0};
    float got[HOST_TRIAL_VOCAB], want[HOST_TRIAL_VOCAB];
    be(PRETEND_DISCRETE, PRETEND_RANDOM, 0);
    if (!run_engine_as("plain", want, &error)) fail_msg("%s", error.message);
    assert_true(pretend_cuda_counts().n_early == 0);
    assert_clean();
    be(PRETEND_DISCRETE, PRETEND_RANDOM, 0);
    if (!run_engine_as("early", got, &error)) fail_msg("%s", error.message);
    struct pretend_counts counts = pretend_cuda_counts();
    assert_true(counts.n_early > counts.n_launches / 2);
    assert_memory_equal(got, want, sizeof want);
    assert_clean();
    pretend_cuda(&(struct pretend_options){.kind = PRETEND_DISCRETE, .major = 8});
    assert_false(run_engine_as("early", got, &error));
    assert_non_null(strstr(error.message, "compute capability 9.0"));
    assert_clean();
    be(PRETEND_NONE, PRETEND_EARLY, 0);
    error = (struct ds4_error){0};
    assert_false(run_engine_as("early", got, &error));
    if (!strstr(error.message, "no CUDA-capable device")) fail_msg("%s", error.message);
    error = (struct ds4_error){0};
    assert_false(run_engine_as("late", got, &error));
    assert_non_null(strstr(error.message, "--launch late: plain or early"));
    struct ds4_engine_options options = host_trial_options("cuda");
    struct ds4_engine *e = NULL;
    options.launch = "early";
    options.backend = "cpu";
    assert_int_equal(ds4_engine_open(&options, &e, &error), DS4_ERR_UNSUPPORTED);
}

/* The pretend runtime by itself. */
struct bare {
    cudaStream_t s, other;
    cudaEvent_t event;
    void *there, *pinned;
};

static struct bare begin_bare(enum pretend_order order)
{
    struct bare t;
    be(PRETEND_DISCRETE, order, 0);
    assert_int_equal(cudaStreamCreateWithFlags(&t.s, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaStreamCreateWithFlags(&t.other, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaEventCreateWithFlags(&t.event, cudaEventDisableTiming), cudaSuccess);
    assert_int_equal(cudaMalloc(&t.there, 4096), cudaSuccess);
    assert_int_equal(cudaHostAlloc(&t.pinned, 4096, 0), cudaSuccess);
    memset(t.pinned, 0, 4096);
    return t;
}

static void end_bare(struct bare *t)
{
    if (t->event) (void)cudaEventDestroy(t->event);
    if (t->there) (void)cudaFree(t->there);
    if (t->pinned) (void)cudaFreeHost(t->pinned);
    if (t->s) (void)cudaStreamDestroy(t->s);
    if (t->other) (void)cudaStreamDestroy(t->other);
    assert_clean();
}

static cudaError_t launch_add_as(cudaStream_t s, void *a, void *b, cudaLaunchAttributeID id, bool early)
{
    struct elements_record record = {.n = N};
    void *args[3] = {&record, &a, &b};
    cudaLaunchAttribute attribute = {.id = id, .val.programmaticStreamSerializationAllowed = 1};
    const cudaLaunchConfig_t config = {.gridDim = {1, 1, 1}, .blockDim = {256, 1, 1}, .stream = s,
                                       .attrs = &attribute, .numAttrs = early};
    cudaError_t status = cudaLaunchKernelExC(&config, cuda_kernel_find("add"), args);
    memset(&record, 0xFF, sizeof record); /* what was given is the launch's own */
    return status;
}

static cudaError_t launch_add(cudaStream_t s, void *a, void *b)
{
    return launch_add_as(s, a, b, cudaLaunchAttributeProgrammaticStreamSerialization, false);
}

static void early_after_a_copy(struct bare *t)
{
    (void)launch_add(t->s, t->there, t->pinned);
    (void)cudaMemcpyAsync(t->there, t->pinned, 16, cudaMemcpyDefault, t->s);
    (void)launch_add_as(t->s, t->there, t->pinned, cudaLaunchAttributeProgrammaticStreamSerialization, true);
}
static void early_first_of_a_graph(struct bare *t)
{
    cudaGraph_t graph = NULL;
    (void)launch_add(t->s, t->there, t->pinned);
    (void)cudaStreamBeginCapture(t->s, cudaStreamCaptureModeThreadLocal);
    (void)launch_add_as(t->s, t->there, t->pinned, cudaLaunchAttributeProgrammaticStreamSerialization, true);
    (void)cudaStreamEndCapture(t->s, &graph);
}
static void early_on_an_old_device(struct bare *t)
{
    pretend_cuda(&(struct pretend_options){.kind = PRETEND_DISCRETE, .order = PRETEND_LATE, .major = 8});
    (void)launch_add(t->s, t->there, t->pinned);
    (void)launch_add_as(t->s, t->there, t->pinned, cudaLaunchAttributeProgrammaticStreamSerialization, true);
}
static void another_attribute(struct bare *t)
{
    (void)launch_add_as(t->s, t->there, t->pinned, (cudaLaunchAttributeID)1, true);
}
static void copy_too_much(struct bare *t) { (void)cudaMemcpyAsync(t->there, t->pinned, 4097, cudaMemcpyDefault, t->s); }
static void copy_past_the_end(struct bare *t)
{
    (void)cudaMemcpyAsync(t->pinned, (char *)t->there + 4000, 100, cudaMemcpyDefault, t->s);
}
static void copy_pageable(struct bare *t)
{
    static char bytes[16];
    (void)cudaMemcpyAsync(t->there, bytes, 16, cudaMemcpyDefault, t->s);
}
static void copy_freed(struct bare *t)
{
    (void)cudaFree(t->there);
    (void)cudaMemcpyAsync(t->pinned, t->there, 16, cudaMemcpyDefault, t->s);
    t->there = NULL;
}
static void write_to_what_is_read_only(struct bare *t)
{
    void *page = mem_map(4096);
    (void)cudaHostRegister(page, 4096, cudaHostRegisterMapped | cudaHostRegisterReadOnly);
    (void)cudaMemcpyAsync(page, t->there, 16, cudaMemcpyDefault, t->s);
    (void)cudaHostUnregister(page);
    mem_unmap(page, 4096);
}
static void kernel_on_pageable(struct bare *t)
{
    static float row[N];
    (void)launch_add(t->s, row, t->there);
}
static void kernel_on_freed(struct bare *t)
{
    void *freed = t->there;
    (void)cudaFree(freed);
    t->there = NULL;
    (void)launch_add(t->s, t->pinned, freed);
}
static void kernel_past_the_end(struct bare *t)
{
    (void)launch_add(t->s, t->pinned, (char *)t->there + 4096 - 128);
    (void)cudaStreamSynchronize(t->s);
}
static void free_while_copied(struct bare *t)
{
    (void)cudaMemcpyAsync(t->there, t->pinned, 16, cudaMemcpyDefault, t->s);
    (void)cudaFree(t->there);
    t->there = NULL;
}
static void free_while_computed(struct bare *t)
{
    (void)launch_add(t->s, t->there, t->pinned);
    (void)cudaFreeHost(t->pinned);
    t->pinned = NULL;
}
static void free_twice(struct bare *t)
{
    (void)cudaFree(t->there);
    (void)cudaFree(t->there);
    t->there = NULL;
}
static void free_as_another_kind(struct bare *t) { (void)cudaFree(t->pinned); }
static void destroy_event(struct bare *t)
{
    (void)launch_add(t->s, t->there, t->pinned);
    (void)cudaEventRecord(t->event, t->s);
    (void)cudaEventDestroy(t->event);
    t->event = NULL;
}
static void destroy_stream(struct bare *t)
{
    (void)launch_add(t->s, t->there, t->pinned);
    (void)cudaStreamDestroy(t->s);
    t->s = NULL;
}
static void wait_in_capture(struct bare *t)
{
    cudaGraph_t graph = NULL;
    (void)cudaStreamBeginCapture(t->s, cudaStreamCaptureModeThreadLocal);
    (void)cudaStreamSynchronize(t->s);
    (void)cudaStreamEndCapture(t->s, &graph);
}
static void destroy_graph(struct bare *t)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    (void)cudaStreamBeginCapture(t->s, cudaStreamCaptureModeThreadLocal);
    (void)launch_add(t->s, t->there, t->pinned);
    (void)cudaStreamEndCapture(t->s, &graph);
    (void)cudaGraphInstantiate(&exec, graph, 0);
    (void)cudaGraphDestroy(graph);
    (void)cudaGraphLaunch(exec, t->s);
    (void)cudaGraphExecDestroy(exec);
}

TEST(what_is_wrong_is_reported_and_loses_the_device)
{
    static const struct {
        void (*wrong)(struct bare *t);
        const char *sentence;
    } cases[] = {{copy_too_much, "writes to bytes 0 to 4097 of memory of 4096"},
                 {copy_past_the_end, "reads bytes 4000 to 4100 of memory of 4096"},
                 {copy_pageable, "not pinned"}, {copy_freed, "that nobody has"},
                 {write_to_what_is_read_only, "may only read"},
                 {kernel_on_pageable, "kernel add: parameter 1 is memory of the host that the device does not see"},
                 {kernel_on_freed, "kernel add: parameter 2 is memory of the device that nobody has"},
                 {kernel_past_the_end, "kernel add, group 0.0.0"},
                 {free_while_copied, "freed, or not pinned any more, while"},
                 {free_while_computed, "freed, or not pinned any more, while"},
                 {free_twice, "is not such memory"}, {free_as_another_kind, "is not such memory"},
                 {destroy_event, "an event is destroyed before it is reached"},
                 {destroy_stream, "a stream is destroyed while it has work"},
                 {wait_in_capture, "a stream is waited for while one is captured"},
                 {destroy_graph, "a graph is destroyed while it runs"},
                 {early_after_a_copy, "launched early, and does not follow a kernel"},
                 {early_first_of_a_graph, "launched early, and does not follow a kernel"},
                 {early_on_an_old_device, "launched early on a device that cannot"},
                 {another_attribute, "an attribute that is not known here"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bare t = begin_bare(PRETEND_LATE);
        cases[i].wrong(&t);
        assert_int_equal(cudaStreamSynchronize(t.other), cudaErrorLaunchFailure);
        const char *sentence = pretend_cuda_report();
        if (!sentence || !strstr(sentence, cases[i].sentence))
            fail_msg("case %zu: \"%s\", not \"%s\"", i, sentence ? sentence : "nothing", cases[i].sentence);
        end_bare(&t);
    }
}

/* What a child process says before it ends, which must be with a failure. */
static void assert_ends(void (*what)(void), const char *sentence)
{
    char text[4096] = "";
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)dup2(ends[1], STDERR_FILENO);
        what();
        exit(0);
    }
    (void)close(ends[1]);
    for (size_t n = 0; n < sizeof text - 1;) {
        ssize_t more = read(ends[0], text + n, sizeof text - 1 - n);
        if (more <= 0) break;
        n += (size_t)more;
    }
    (void)close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    if (!strstr(text, sentence)) fail_msg("\"%s\", not \"%s\"", text, sentence);
}

static void touch_the_device(void)
{
    char *there;
    if (cudaMalloc((void **)&there, 4096) == cudaSuccess) there[77] = 1;
}
static void leave_memory(void)
{
    void *there;
    (void)cudaMalloc(&there, 4096);
}

TEST(a_host_that_touches_the_device_or_leaves_something_ends_with_a_failure)
{
    be(PRETEND_DISCRETE, PRETEND_EARLY, 0);
    assert_ends(touch_the_device, "the host touches memory of the device: byte 77 of 4096");
    assert_ends(leave_memory, "1 objects are left");
}

/* The first stream makes pinned[0..63] = 2 on the device, the second fetches it. */
static float fetched(enum pretend_order order, bool waits)
{
    struct bare t = begin_bare(order);
    float *rows = t.pinned, value;
    fill_with(rows, 2);
    fill_with(rows + N, 5);
    (void)cudaMemcpyAsync(t.there, rows, BYTES, cudaMemcpyDefault, t.s);
    (void)cudaEventRecord(t.event, t.s);
    if (waits) (void)cudaStreamWaitEvent(t.other, t.event, 0);
    (void)cudaMemcpyAsync(rows + N, t.there, BYTES, cudaMemcpyDefault, t.other);
    (void)cudaStreamSynchronize(t.other);
    value = rows[N];
    (void)cudaStreamSynchronize(t.s);
    end_bare(&t);
    return value;
}

TEST(streams_run_in_any_order_that_events_allow)
{
    for (enum pretend_order order = 0; order < PRETEND_ORDERS; order++) {
        float value = fetched(order, true);
        assert_true(value >= 2 && value <= 2);
    }
    float early = fetched(PRETEND_FIRST_EARLY, false), late = fetched(PRETEND_FIRST_LATE, false);
    assert_true(early >= 2 && early <= 2);
    assert_false(late >= 2 && late <= 2);
}

TEST(a_graph_replays_what_was_captured)
{
    struct bare t = begin_bare(PRETEND_LATE);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    float *rows = t.pinned;
    fill_with(rows, 3);
    assert_int_equal(cudaMemsetAsync(t.there, 0, 4096, t.s), cudaSuccess);
    assert_int_equal(cudaStreamBeginCapture(t.s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    assert_int_equal(launch_add(t.s, rows, t.there), cudaSuccess);
    assert_int_equal(launch_add(t.s, rows, t.there), cudaSuccess);
    assert_int_equal(cudaStreamEndCapture(t.s, &graph), cudaSuccess);
    assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    assert_int_equal(cudaGraphDestroy(graph), cudaSuccess);
    for (int i = 0; i < 5; i++) assert_int_equal(cudaGraphLaunch(exec, t.s), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(rows + N, t.there, BYTES, cudaMemcpyDefault, t.s), cudaSuccess);
    fill_with(rows, 4); /* the buffers are read when the kernels run, which is later */
    assert_int_equal(cudaStreamSynchronize(t.s), cudaSuccess);
    assert_true(rows[N] >= 40 && rows[N] <= 40);
    assert_int_equal(cudaGraphExecDestroy(exec), cudaSuccess);
    end_bare(&t);
}

int main(void)
{
    seed = test_seed();
    return RUN_TESTS(T(what_is_wrong_is_reported_and_loses_the_device),
                     T(a_host_that_touches_the_device_or_leaves_something_ends_with_a_failure),
                     T(streams_run_in_any_order_that_events_allow), T(a_graph_replays_what_was_captured),
                     T(kernels_are_launched_early_where_they_follow_a_kernel_and_where_that_was_asked_for),
                     T(an_engine_launches_early_when_it_is_told_to_and_the_device_can),
                     T(lists_copies_sends_and_posts_are_in_order_on_every_device_in_every_order),
                     T(every_call_of_the_runtime_may_fail_and_the_host_says_so_and_leaves_nothing),
                     T(an_engine_whose_device_fails_says_so_and_leaves_nothing),
                     T(an_engine_gives_the_same_bits_on_every_kind_of_device_in_every_order),
                     T(a_span_and_a_tail_are_fetched_in_one_copy_each_and_nothing_for_a_token),
                     T(every_operation_agrees_with_the_reference_through_the_cuda_host),
                     T(the_kernels_for_many_rows_go_through_the_cuda_host),
                     T(experts_in_a_pool_are_used_where_they_lie_on_devices_that_see_the_machines_memory),
                     T(choices_are_those_of_the_emulator_in_every_order_of_the_device));
}

#else

TEST(this_build_has_no_emulator_to_pretend_with) { print_message("no emulator, or the true CUDA\n"); }
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_to_pretend_with)); }

#endif
