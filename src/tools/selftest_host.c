/* selftest_host.c - see selftest_host.h. All kernels are additions of whole numbers, so that every sum is exact and
 * each step left out, done twice or done too early shows in it. */
#include "tools/selftest_host.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "gpu/kernels/records.h"
#include "tools/selftest_raw.h"

#define FAR ((uint64_t)1 << 32)
#define FAR_BYTES (FAR + (1u << 20))
#define REFUSED ((uint64_t)1 << 50) /* bytes that no device has */
#define PINNED_BYTES 65536u

static bool run(struct raw_device *d, const char *kernel, struct gpu_ref from, struct gpu_ref to, uint32_t n)
{
    const struct elements_record record = {.n = n};
    const struct gpu_ref refs[2] = {raw_part(from, 0, n * sizeof(float)), raw_part(to, 0, n * sizeof(float))};
    return raw_run(d, kernel, &record, sizeof record, refs, 2, (n + 255) / 256, 256);
}

/* to += from, of n floats. */
static bool add(struct raw_device *d, struct gpu_ref from, struct gpu_ref to, uint32_t n)
{
    return run(d, "add", from, to, n);
}

static void fill(float *x, uint32_t n, float first)
{
    for (uint32_t i = 0; i < n; i++) x[i] = first + (float)(i % 7);
}

static bool expect(struct raw_device *d, const char *what, const float *got, uint32_t n, float first, float each)
{
    for (uint32_t i = 0; i < n; i++) {
        float want = first + each * (float)(i % 7);
        if (got[i] < want || got[i] > want || got[i] != got[i])
            return raw_differs(d, "%s[%u] = %.9g, wanted %.9g", what, i, (double)got[i], (double)want);
    }
    return true;
}

#define N 1500u
static float here[N];

/* Memory is filled with zeros, also where something was before. */
static void zeroed(struct raw_device *d)
{
    for (int i = 0; i < 4; i++) {
        struct gpu_ref ref = raw_alloc(d, sizeof here);
        if (!raw_read(d, here, ref) || !expect(d, "memory", here, N, 0, 0)) return;
        memset(here, 0xFF, sizeof here);
        if (!raw_write(d, ref, here)) return;
        raw_free_all(d);
    }
}

/* Writes, copies, kernels and reads, without waiting between. */
static void ordered(struct raw_device *d)
{
    struct gpu_ref x = raw_alloc(d, sizeof here), y = raw_alloc(d, sizeof here);
    struct gpu_ref z = raw_alloc(d, sizeof here), again = raw_alloc(d, sizeof here);
    fill(here, N, 1);
    if (!raw_write(d, x, here) || !add(d, x, y, N)) return;
    if (!raw_ok(d, d->host->copy(d->gpu, z, y), "a copy") || !run(d, "copy_words", z, again, N) || !add(d, x, y, N))
        return;
    fill(here, N, 100);
    if (!raw_write(d, x, here) || !add(d, x, y, N)) return;
    memset(here, 0xFF, sizeof here);
    if (raw_read(d, here, z) && expect(d, "the copy", here, N, 1, 1) && raw_read(d, here, again) &&
        expect(d, "the copy by a kernel", here, N, 1, 1) && raw_read(d, here, y))
        (void)expect(d, "the sum", here, N, 102, 3);
}

/* The backend finds a buffer by an address in it, so no two have one in common. */
static void addressed(struct raw_device *d)
{
    struct gpu_ref x = raw_alloc(d, sizeof here), y = raw_alloc(d, sizeof here);
    if (d->failed) return;
    uintptr_t a = (uintptr_t)d->host->address(x.buffer), b = (uintptr_t)d->host->address(y.buffer);
    if ((a < b ? b - a : a - b) < sizeof here) (void)raw_differs(d, "two buffers have addresses in common");
}

/* Memory of the host given to the device, near and far: kernels read it there. */
static void wrapped(struct raw_device *d)
{
    const size_t bytes = 5 * 16384;
    float *pages = mem_map(bytes);
    struct gpu_ref sum = raw_alloc(d, sizeof here);
    if (!pages) {
        (void)raw_differs(d, "no memory");
        return;
    }
    fill(pages, bytes / sizeof *pages, 3);
    for (int i = 0; i < 2; i++) {
        struct gpu_ref x = raw_wrap(d, pages, bytes, i == 0);
        if (!d->failed) (void)add(d, raw_part(x, 7 * 2048 * sizeof *pages, sizeof here), sum, N);
    }
    if (raw_read(d, here, sum)) (void)expect(d, "the sum", here, N, 6, 2);
    (void)raw_wait(d);
    raw_free_all(d);
    mem_unmap(pages, bytes);
}

/* The same list again and again, as of decoding, with other contents; between them others, more than are kept, that
 * differ in a number only. */
#define N_OTHERS 12u
static void replayed(struct raw_device *d)
{
    struct gpu_ref x = raw_alloc(d, sizeof here), y = raw_alloc(d, sizeof here);
    struct gpu_ref z = raw_alloc(d, sizeof here), few = raw_alloc(d, N_OTHERS * sizeof(float));
    float sum = 0, all = 0, wanted[N_OTHERS] = {0}, got[N_OTHERS];
    for (uint32_t round = 0; round < 3 * N_OTHERS && !d->failed; round++) {
        const uint32_t n = round < N_OTHERS ? 0 : 1 + round % N_OTHERS;
        const float first = (float)(round * round);
        fill(here, N, first);
        if (!raw_write(d, x, here) || !add(d, x, y, N) || !add(d, y, z, N) || (n && !add(d, x, few, n))) return;
        (void)raw_wait(d);
        sum += first;
        all += sum;
        for (uint32_t i = 0; i < n; i++) wanted[i] += here[i];
        if (!raw_read(d, here, z) || !expect(d, "the sum", here, N, all, (float)((round + 1) * (round + 2) / 2)))
            return;
    }
    if (raw_read(d, got, few) && memcmp(got, wanted, sizeof got) != 0)
        (void)raw_differs(d, "a list that differs in a number only: few[%u] = %g, wanted %g", N_OTHERS - 1,
                          (double)got[N_OTHERS - 1], (double)wanted[N_OTHERS - 1]);
}

/* x += y, y += x: Fibonacci's numbers, one list after the other without waiting, more than a device takes at once. */
static void in_flight(struct raw_device *d)
{
    struct gpu_ref x = raw_alloc(d, sizeof here), y = raw_alloc(d, sizeof here);
    float a = 1, b = 0;
    for (uint32_t i = 0; i < N; i++) here[i] = 1;
    if (!raw_write(d, x, here)) return;
    for (uint32_t i = 0; i < 14; i++) {
        if (!add(d, x, y, N) || !add(d, y, x, N) || !raw_ok(d, d->host->submit(d->gpu), "a list")) return;
        b += a;
        a += b;
    }
    (void)raw_wait(d);
    if (raw_read(d, here, x)) (void)expect(d, "the number", here, N, a, 0);
}

/* More dispatches than go in one piece. */
static void long_list(struct raw_device *d)
{
    const uint32_t n_times = 4500, n = 32;
    struct gpu_ref x = raw_alloc(d, n * sizeof(float)), y = raw_alloc(d, n * sizeof(float));
    fill(here, n, 1);
    if (!raw_write(d, x, here)) return;
    for (uint32_t i = 0; i < n_times; i++)
        if (!add(d, x, y, n)) return;
    if (raw_read(d, here, y)) (void)expect(d, "the sum", here, n, (float)n_times, (float)n_times);
}

/* Two halves in turn, each filled while the other is added up, and filled again only when it was. */
static void sent(struct raw_device *d)
{
    struct gpu_ref halves[2] = {raw_alloc(d, sizeof here), raw_alloc(d, sizeof here)};
    struct gpu_ref sum = raw_alloc(d, sizeof here);
    uint64_t marks[2] = {0, 0};
    float total = 0;
    const float n_rounds = 30;
    if (d->failed || !raw_ok(d, d->host->prepare_sends(d->gpu, PINNED_BYTES), "pinned memory")) return;
    for (uint32_t round = 0; (float)round < n_rounds; round++) {
        uint32_t turn = round % 2, cut = 4 * (1 + round * 997 % (N - 1)); /* in two pieces of any size */
        fill(here, N, (float)round);
        total += (float)round;
        if (!raw_ok(d, d->host->send(d->gpu, raw_part(halves[turn], 0, cut), here, marks[turn]), "a copy") ||
            !raw_ok(d, d->host->send(d->gpu, raw_part(halves[turn], cut, sizeof here - cut), (char *)here + cut,
                                     marks[turn]), "a copy"))
            return;
        memset(here, 0xFF, sizeof here);
        if (!raw_ok(d, d->host->arrive(d->gpu), "a copy")) return;
        if (!add(d, halves[turn], sum, N)) return;
        marks[turn] = d->host->mark(d->gpu);
    }
    if (raw_read(d, here, sum)) (void)expect(d, "the sum", here, N, total, n_rounds);
}

/* Four at a time on their way, while kernels go on with something else. */
static void posted(struct raw_device *d)
{
    struct gpu_ref x = raw_alloc(d, sizeof here), other = raw_alloc(d, sizeof here);
    struct gpu_ref slots = raw_alloc(d, (uint64_t)GPU_POSTS_MAX * GPU_POST_BYTES);
    const uint32_t n = GPU_POST_BYTES / sizeof(float), n_posts = 24;
    float got[GPU_POST_BYTES / sizeof(float)];
    fill(here, N, 1);
    if (!raw_write(d, x, here)) return;
    for (uint32_t i = 0; i < n_posts + GPU_POSTS_MAX && !d->failed; i++) {
        struct gpu_ref slot = raw_part(slots, i % GPU_POSTS_MAX * GPU_POST_BYTES, GPU_POST_BYTES);
        float times = (float)(i / GPU_POSTS_MAX);
        if (i >= GPU_POSTS_MAX && (!raw_ok(d, d->host->collect(d->gpu, got, sizeof got), "bytes for the host") ||
                                   !expect(d, "bytes for the host", got, n, times, times)))
            return;
        if (i >= n_posts) continue;
        if (!add(d, x, slot, n) || !raw_ok(d, d->host->post(d->gpu, slot), "bytes for the host")) return;
        for (uint32_t k = 0; k < 2; k++)
            if (!add(d, x, other, N)) return;
    }
}

/* An expert that lies so far from the first, of 8 rows of 32 weights, which are those that `here` was filled with. */
static bool far_expert(struct raw_device *d, struct gpu_ref big)
{
    const struct moe_record record = {.n_in = 32, .n_out = 8, .n_used = 1, .row_bytes = 32 * sizeof(float),
                                      .stack_low = 4096, .stack_high = FAR >> 32};
    const int32_t id = 1;
    struct gpu_ref ones = raw_alloc(d, 32 * sizeof(float)), ids = raw_alloc(d, sizeof id);
    struct gpu_ref sums = raw_alloc(d, 8 * sizeof(float)), refs[4] = {ones, ids, big, sums};
    float x[32], got[8];
    for (uint32_t i = 0; i < 32; i++) x[i] = 1;
    if (d->failed || !raw_write(d, ones, x) || !raw_write(d, ids, &id) ||
        !raw_run(d, "moe_down_f32", &record, sizeof record, refs, 4, 1, 128) || !raw_read(d, got, sums))
        return false;
    for (uint32_t o = 0; o < 8; o++) {
        float want = 0;
        for (uint32_t i = 0; i < 32; i++) want += here[o * 32 + i];
        if (got[o] < want || got[o] > want || got[o] != got[o])
            return raw_differs(d, "a far expert's product[%u] = %.9g, wanted %.9g", o, (double)got[o], (double)want);
    }
    return true;
}

/* A part of a buffer beyond what 32 bits number. */
static void far_away(struct raw_device *d)
{
    struct gpu_info info;
    d->host->info(d->gpu, &info);
    uint64_t room = info.own_memory ? info.free_bytes : info.memory_bytes / 3;
    if (room < FAR_BYTES || info.buffer_bytes_max < FAR_BYTES) {
        d->note = "left out: memory is short, or buffers are smaller";
        return;
    }
    struct gpu_ref big = raw_alloc(d, FAR_BYTES), sum = raw_alloc(d, sizeof here);
    fill(here, N, 9);
    if (d->failed || !raw_write(d, raw_part(big, FAR + 4096, sizeof here), here) || !far_expert(d, big)) return;
    if (!add(d, raw_part(big, FAR + 4096, sizeof here), sum, N) || !add(d, raw_part(big, 4096, sizeof here), sum, N))
        return;
    if (!raw_ok(d, d->host->copy(d->gpu, raw_part(big, FAR - sizeof here / 2, sizeof here), sum), "a copy") ||
        !add(d, raw_part(big, FAR - sizeof here / 2, sizeof here), sum, N))
        return;
    if (raw_read(d, here, sum)) (void)expect(d, "the sum", here, N, 18, 2);
}

/* What a device has no room for is refused, with a word on memory. */
static void refused(struct raw_device *d)
{
    struct gpu_info info;
    uint64_t bytes = REFUSED;
    d->host->info(d->gpu, &info);
    if (info.own_memory && info.free_bytes > 1u << 30) { /* the second half is more than is left of it */
        (void)raw_alloc(d, info.free_bytes / 2);
        bytes = info.free_bytes / 2 + (info.free_bytes >> 3);
    }
    if (d->failed) return;
    struct gpu_buffer *buffer = d->host->alloc(d->gpu, bytes);
    const char *why = d->host->error(d->gpu);
    if (buffer) d->host->free(d->gpu, buffer);
    if (buffer) (void)raw_differs(d, "%llu bytes were given", (unsigned long long)bytes);
    else if (!strstr(why, "memory")) (void)raw_differs(d, "the reason is \"%s\", wanted one that names memory", why);
}

static const struct check {
    const char *name;
    void (*run)(struct raw_device *d);
    bool sends; /* where the host offers it */
} checks[] = {
    {"host: zeroed memory", zeroed, false},
    {"host: order", ordered, false},
    {"host: addresses", addressed, false},
    {"host: memory of the host", wrapped, false},
    {"host: lists in flight", in_flight, false},
    {"host: a list again", replayed, false},
    {"host: a long list", long_list, false},
    {"host: bytes on their way", posted, false},
    {"host: copies beside kernels", sent, true},
    {"host: beyond 4 GiB", far_away, false},
    {"host: memory full", refused, false},
};

/* Ready for the next check. */
static void settle(struct raw_device *d, struct ops_test *t)
{
    d->note = "";
    if (d->gpu && !d->failed) (void)raw_wait(d);
    if (d->gpu && !d->failed) raw_free_all(d);
    if (!d->failed) return;
    raw_close(d);
    (void)raw_open(d, t);
}

void host_checks(struct ops_test *t)
{
    struct raw_device d;
    (void)raw_open(&d, t);
    for (size_t i = 0; i < sizeof checks / sizeof *checks && d.gpu; i++) {
        bool offered = !checks[i].sends || d.host->send;
        if (offered) checks[i].run(&d);
        if (!offered) d.note = "it has none";
        report_check(t->report, checks[i].name, !d.failed, d.failed ? d.why : d.note);
        settle(&d, t);
    }
    raw_close(&d);
    /* ... and after that it is as it was. */
    if (raw_open(&d, t)) ordered(&d);
    raw_close(&d);
    report_check(t->report, "host: opened again", !d.failed, d.failed ? d.why : "");
}
