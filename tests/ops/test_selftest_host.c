/* test_selftest_host.c - what `ds4 selftest` finds of a host file that does something wrong: the emulator's, with one
 * mistake after the other, as real devices allow them. Each is seen by the check that is for it. Over the pretend CUDA
 * runtime the CUDA host passes on each kind of device, in each order of streams; over the pretend Metal the Metal host,
 * whenever lists are done. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/test.h"
#include "lib/tested_gpu.h"
#include "tools/selftest_host.h"

#ifdef DS4_GPU_EMU

static char text[1 << 14];

/* Runs the checks; what they printed is in text. Returns how many failed. */
static uint32_t failures(const struct gpu_host *host)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/report", test_dir());
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct report report = {0};
    const struct gpu_choice choice = {gpu_choices()->ops, host, false};
    static struct ops_test t;
    t = (struct ops_test){.choice = &choice, .report = &report, .small = true};
    assert_true(file >= 0);
    sink_init_fd(&report.out, file, path);
    host_checks(&t);
    assert_int_equal(sink_flush(&report.out), DS4_OK);
    ssize_t n = pread(file, text, sizeof text - 1, 0);
    assert_true(n > 0);
    text[n] = 0;
    (void)close(file);
    buf_deinit(&report.out.pending);
    buf_deinit(&report.named);
    return report.n_failed;
}

static void expect_all_good(void)
{
    if (failures(&tested_host) != 0) fail_msg("%s", text);
    assert_non_null(strstr(text, "host: opened again"));
    assert_null(strstr(text, "BAD"));
}

#ifdef DS4_PRETEND_CUDA

TEST(the_cuda_host_passes_on_each_kind_of_device_in_each_order_of_streams)
{
    for (unsigned i = 0; i < PRETEND_ORDERS; i++) {
        pretend_cuda(&(struct pretend_options){.kind = (enum pretend_kind)(i % PRETEND_NONE),
                                               .order = (enum pretend_order)i, .seed = i});
        expect_all_good();
        const char *sentence = pretend_cuda_report();
        if (sentence) fail_msg("%s", sentence);
        assert_int_equal(pretend_cuda_n_alive(), 0);
    }
}

int main(void) { return RUN_TESTS(T(the_cuda_host_passes_on_each_kind_of_device_in_each_order_of_streams)); }

#elif defined DS4_PRETEND_METAL

TEST(the_metal_host_passes_whenever_lists_are_done)
{
    for (unsigned i = 0; i < PRETEND_LISTS + 2; i++) {
        enum pretend_lists lists = i < PRETEND_LISTS ? (enum pretend_lists)i : PRETEND_LISTS_RANDOM;
        pretend_metal(&(struct pretend_metal_options){.lists = lists, .seed = i});
        expect_all_good();
        const char *sentence = pretend_metal_report();
        if (sentence) fail_msg("%s", sentence);
        assert_int_equal(pretend_metal_n_alive(), 0);
    }
}

int main(void) { return RUN_TESTS(T(the_metal_host_passes_whenever_lists_are_done)); }

#else

static struct gpu_host wrong; /* the emulator's but for one function */

static void expect_bad(const char *check)
{
    char line[64];
    uint32_t n = failures(&wrong);
    (void)snprintf(line, sizeof line, "  %-28s BAD ", check);
    if (n == 0 || !strstr(text, line)) fail_msg("%s did not fail:\n%s", check, text);
    wrong = tested_host;
}

TEST(a_host_file_without_mistakes_passes) { expect_all_good(); }

static struct gpu_buffer *alloc_dirty(struct gpu *g, uint64_t bytes)
{
    const uint32_t dirt = 5;
    struct gpu_buffer *buffer = tested_host.alloc(g, bytes);
    if (buffer) (void)tested_host.write(g, buffer, 0, &dirt, sizeof dirt);
    return buffer;
}

static bool late_write_waits; /* what is written comes with the next write */
static struct {
    struct gpu_buffer *to;
    uint64_t offset, bytes;
    uint8_t from[1 << 14];
} late;

static bool write_late(struct gpu *g, struct gpu_buffer *to, uint64_t offset, const void *from, uint64_t bytes)
{
    bool good = !late_write_waits || tested_host.write(g, late.to, late.offset, late.from, late.bytes);
    late_write_waits = true;
    late.to = to;
    late.offset = offset;
    late.bytes = bytes < sizeof late.from ? bytes : sizeof late.from;
    memcpy(late.from, from, late.bytes);
    return good;
}

static void free_late(struct gpu *g, struct gpu_buffer *buffer)
{
    late_write_waits = false;
    tested_host.free(g, buffer);
}

static bool copy_nothing(struct gpu *g, struct gpu_ref to, struct gpu_ref from)
{
    (void)g, (void)to, (void)from;
    return true;
}

static struct gpu_buffer *wrap_wrong(struct gpu *g, const void *memory, uint64_t bytes, bool near)
{
    return near ? tested_host.wrap(g, memory, bytes, near) : tested_host.alloc(g, bytes);
}

static struct gpu_buffer *wrap_never(struct gpu *g, const void *memory, uint64_t bytes, bool near)
{
    return near ? tested_host.wrap(g, memory, bytes, near) : NULL;
}

static float elsewhere[1 << 14];
static void *address_wrong(const struct gpu_buffer *buffer)
{
    (void)buffer;
    return elsewhere;
}

TEST(mistakes_with_memory_are_named)
{
    wrong.alloc = alloc_dirty;
    expect_bad("host: zeroed memory");
    wrong.write = write_late;
    wrong.free = free_late;
    expect_bad("host: order");
    wrong.copy = copy_nothing;
    expect_bad("host: order");
    wrong.wrap = wrap_wrong;
    expect_bad("host: memory of the host");
    wrong.wrap = wrap_never;
    expect_bad("host: memory of the host");
    wrong.address = address_wrong;
    expect_bad("host: addresses");
}

/* Offsets of 32 bits. */
static bool dispatch_near(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                          const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads)
{
    struct gpu_ref near[GPU_REFS_MAX];
    for (int i = 0; i < n_refs; i++) {
        near[i] = refs[i];
        near[i].offset = (uint32_t)refs[i].offset;
    }
    return tested_host.dispatch(g, pipe, record, record_bytes, near, n_refs, grid, n_threads);
}

/* A list is taken for one before it that differs in a record only. */
static uint32_t stale_n;
static bool dispatch_stale(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                           const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads)
{
    uint32_t here[16];
    memcpy(here, record, record_bytes);
    if (grid[0] == 1 && !stale_n) stale_n = here[0];
    if (grid[0] == 1 && here[0] > stale_n) here[0] = stale_n;
    return tested_host.dispatch(g, pipe, here, record_bytes, refs, n_refs, grid, n_threads);
}

/* One in so many gets lost. */
static unsigned n_dispatched, n_bad;
static bool dispatch_lossy(struct gpu *g, const struct gpu_pipe *pipe, const void *record, size_t record_bytes,
                           const struct gpu_ref *refs, int n_refs, const unsigned grid[3], unsigned n_threads)
{
    if (++n_dispatched % n_bad == 0) return true;
    return tested_host.dispatch(g, pipe, record, record_bytes, refs, n_refs, grid, n_threads);
}

TEST(mistakes_with_lists_are_named)
{
    wrong.dispatch = dispatch_near;
    expect_bad("host: beyond 4 GiB");
    wrong.dispatch = dispatch_lossy;
    n_bad = 4096; /* the last of a list that went in parts */
    expect_bad("host: a long list");
    wrong.dispatch = dispatch_lossy;
    n_bad = 13;
    expect_bad("host: lists in flight");
    wrong.dispatch = dispatch_stale;
    expect_bad("host: a list again");
}

static bool send_early(struct gpu *g, struct gpu_ref to, const void *from, uint64_t mark)
{
    (void)mark;
    return tested_host.send(g, to, from, 0);
}

/* The caller's memory is read when the copy is waited for. */
static bool send_lazily(struct gpu *g, struct gpu_ref to, const void *from, uint64_t mark)
{
    struct gpu_ref half = {to.buffer, to.offset, to.bytes / 2};
    return tested_host.send(g, half, from, mark);
}

static bool arrive_never(struct gpu *g)
{
    (void)g;
    return true;
}

static bool collect_again(struct gpu *g, void *to, uint64_t bytes)
{
    static uint8_t before[GPU_POST_BYTES];
    uint8_t now[GPU_POST_BYTES];
    bool good = tested_host.collect(g, now, bytes);
    memcpy(to, before, bytes);
    memcpy(before, now, bytes);
    return good;
}

TEST(mistakes_with_what_goes_beside_kernels_are_named)
{
    wrong.send = send_early;
    expect_bad("host: copies beside kernels");
    wrong.send = send_lazily;
    expect_bad("host: copies beside kernels");
    wrong.arrive = arrive_never;
    expect_bad("host: copies beside kernels");
    wrong.collect = collect_again;
    expect_bad("host: bytes on their way");
}

static const char *error_of_nothing(const struct gpu *g)
{
    (void)g;
    return "";
}

static struct gpu_buffer *alloc_anything(struct gpu *g, uint64_t bytes)
{
    return tested_host.alloc(g, bytes >> 40 ? 4096 : bytes);
}

TEST(a_device_that_gives_more_than_it_has_or_no_reason_is_named)
{
    wrong.alloc = alloc_anything;
    expect_bad("host: memory full");
    wrong.error = error_of_nothing;
    expect_bad("host: memory full");
}

TEST(a_host_without_copies_beside_kernels_says_so_and_passes)
{
    wrong.prepare_sends = NULL;
    wrong.mark = NULL;
    wrong.send = NULL;
    wrong.arrive = NULL;
    assert_int_equal(failures(&wrong), 0);
    assert_non_null(strstr(text, "host: copies beside kernels  ok   it has none"));
    wrong = tested_host;
}

int main(void)
{
    wrong = tested_host;
    return RUN_TESTS(T(a_host_file_without_mistakes_passes), T(mistakes_with_memory_are_named),
                     T(mistakes_with_lists_are_named), T(mistakes_with_what_goes_beside_kernels_are_named),
                     T(a_device_that_gives_more_than_it_has_or_no_reason_is_named),
                     T(a_host_without_copies_beside_kernels_says_so_and_passes));
}

#endif
#else

TEST(this_build_has_no_emulator_to_make_mistakes_with)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_to_make_mistakes_with)); }

#endif
