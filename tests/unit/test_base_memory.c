/* test_base_memory.c - the heap door with its hook and its counts, arenas, growing texts and token lists, spans. */
#include "lib/test.h"

#include <stdio.h>

#include <jansson.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "lib/alloc_fail.h"

static bool fail_all(void *user, uint64_t number)
{
    if (user) *(uint64_t *)user = number;
    return true;
}

TEST(mem_refuses_sizes_that_do_not_fit)
{
    int64_t live = mem_live();
    assert_null(mem_alloc(SIZE_MAX, 2));
    assert_null(mem_alloc(SIZE_MAX / 2 + 1, 2));
    assert_null(mem_alloc(SIZE_MAX, 1));
    assert_null(mem_zalloc(SIZE_MAX / 2 + 1, 2));
    assert_null(mem_realloc(NULL, SIZE_MAX / 4 + 1, 4));
    assert_null(mem_alloc_aligned(64, SIZE_MAX - 64));
    assert_int_equal(mem_live(), live);
}

TEST(mem_gives_a_pointer_for_zero_bytes)
{
    int64_t live = mem_live();
    void *a = mem_alloc(0, 8), *b = mem_zalloc(8, 0), *c = mem_realloc(NULL, 0, 0), *d = mem_alloc_aligned(64, 0);
    assert_true(a && b && c && d);
    assert_int_equal(mem_live(), live + 4);
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(d);
    mem_free(NULL);
    assert_int_equal(mem_live(), live);
}

TEST(mem_keeps_the_old_block_when_growing_fails)
{
    char *p = mem_alloc(4, 1);
    memcpy(p, "abc", 4);
    mem_test_hook(fail_all, NULL);
    assert_null(mem_realloc(p, 1000, 1));
    mem_test_hook(NULL, NULL);
    assert_null(mem_realloc(p, SIZE_MAX, SIZE_MAX));
    assert_string_equal(p, "abc");
    mem_free(p);
}

TEST(mem_aligns_and_clears_what_it_promises_to)
{
    for (size_t align = 1; align <= 65536; align *= 2) {
        unsigned char *p = mem_alloc_aligned(align, 1000);
        assert_int_equal((uintptr_t)p % align, 0);
        for (int i = 0; i < 1000; i++) assert_int_equal(p[i], 0);
        mem_free(p);
    }
    unsigned char *map = mem_map(100000);
    assert_int_equal((uintptr_t)map % 4096, 0);
    for (int i = 0; i < 100000; i++) assert_int_equal(map[i], 0);
    mem_unmap(map, 100000);
}

TEST(mem_lets_the_hook_refuse_every_kind_of_allocation)
{
    uint64_t number = 0, count = mem_count();
    int64_t live = mem_live();
    mem_test_hook(fail_all, &number);
    assert_null(mem_alloc(1, 1));
    assert_null(mem_zalloc(1, 1));
    assert_null(mem_realloc(NULL, 1, 1));
    assert_null(mem_alloc_aligned(64, 1));
    assert_null(mem_map(1));
    mem_test_hook(NULL, NULL);
    assert_int_equal(mem_count(), count + 5);
    assert_int_equal(number, count + 5);
    assert_int_equal(mem_live(), live);
}

TEST(mem_knows_the_memory_of_the_machine)
{
    assert_true(mem_machine_bytes() >= 1u << 26);
    assert_true(mem_available_bytes() > 0);
    assert_true(mem_available_bytes() <= mem_machine_bytes());
}

/* A machine of 16 GiB with nothing but these files, in a folder. */
static void put_file(const char *root, const char *path, const char *text)
{
    char full[256];
    struct ds4_error error = {0};
    int fd;
    (void)snprintf(full, sizeof full, "%s%s", root, path);
    assert_ok(file_make_parents(full, &error), error);
    assert_ok(file_open(full, FILE_CREATE_TRUNCATE, &fd, &error), error);
    assert_ok(file_write_at(fd, full, 0, text, strlen(text), &error), error);
    file_close(fd);
}

#define MIB ((uint64_t)1 << 20)

TEST(mem_knows_the_limits_of_control_groups_of_both_versions_and_what_they_leave)
{
    const char *root = test_dir();
    put_file(root, "/proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n");
    put_file(root, "/proc/self/cgroup", "0::/\n");
    mem_test_root(root);
    uint64_t all = mem_machine_bytes();
    assert_int_equal(mem_available_bytes(), 8192 * MIB);
    /* Version 2: the limit of an ancestor counts, "max" does not, and pages of files are there for the taking. */
    put_file(root, "/proc/self/cgroup", "0::/user/ds4.scope\n");
    put_file(root, "/sys/fs/cgroup/user/ds4.scope/memory.max", "max\n");
    put_file(root, "/sys/fs/cgroup/user/memory.max", "52428800\n");
    put_file(root, "/sys/fs/cgroup/user/memory.current", "41943040\n");
    put_file(root, "/sys/fs/cgroup/user/memory.stat", "anon 9\ninactive_file 10485760\nactive_file 5242880\n");
    assert_int_equal(mem_machine_bytes(), 50 * MIB);
    assert_int_equal(mem_available_bytes(), 25 * MIB);
    put_file(root, "/sys/fs/cgroup/user/ds4.scope/memory.high", "31457280\n");
    put_file(root, "/sys/fs/cgroup/user/ds4.scope/memory.current", "41943040\n");
    assert_int_equal(mem_machine_bytes(), 30 * MIB);
    assert_int_equal(mem_available_bytes(), 0);
    /* Version 1, in a container: only the host has the path. */
    put_file(root, "/proc/self/cgroup", "3:cpu:/user\n5:memory:/docker/12\n0::/x\n");
    put_file(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "41943040\n");
    put_file(root, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "31457280\n");
    put_file(root, "/sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_active_file 1048576\n");
    assert_int_equal(mem_machine_bytes(), 40 * MIB);
    assert_int_equal(mem_available_bytes(), 11 * MIB);
    put_file(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    assert_int_equal(mem_machine_bytes(), all);
    mem_test_root(NULL);
}

TEST(arena_gives_aligned_zeroed_pieces_that_do_not_overlap)
{
    struct arena a;
    arena_init(&a, 0);
    struct rng r = {test_seed()};
    unsigned char *pieces[500];
    size_t sizes[500];
    for (int i = 0; i < 500; i++) {
        sizes[i] = rng_below(&r, i % 50 ? 700 : 200000);
        pieces[i] = arena_alloc(&a, sizes[i], 1);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(pieces[i][k], 0);
        memset(pieces[i], i & 0xFF, sizes[i]);
    }
    for (int i = 0; i < 500; i++)
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(pieces[i][k], i & 0xFF);
    arena_deinit(&a);
}

TEST(arena_stops_at_its_limit_and_at_sizes_that_do_not_fit)
{
    struct arena a;
    arena_init(&a, 64);
    assert_non_null(arena_alloc(&a, 1, 48));
    assert_null(arena_alloc(&a, 1, 17));
    assert_non_null(arena_alloc(&a, 1, 16));
    assert_null(arena_alloc(&a, 1, 1));
    arena_deinit(&a);
    arena_init(&a, 0);
    assert_null(arena_alloc(&a, SIZE_MAX, 2));
    assert_null(arena_alloc(&a, SIZE_MAX - 8, 1));
    assert_null(arena_alloc(&a, SIZE_MAX / 2, 1));
    assert_null(arena_copy(&a, span_make("", SIZE_MAX)).ptr);
    struct ds4_span copy = arena_copy(&a, SPAN("a\0b"));
    assert_memory_equal(copy.ptr, "a\0b", 4);
    assert_int_equal(copy.len, 3);
    arena_deinit(&a);
}

static enum ds4_status fill_arena(void *user, struct ds4_error *error)
{
    (void)user;
    struct arena a;
    arena_init(&a, 0);
    enum ds4_status status = DS4_OK;
    for (size_t i = 0; i < 8 && status == DS4_OK; i++)
        if (!arena_alloc(&a, 20000, i + 1)) status = err_set(error, DS4_ERR_NOMEM, "arena");
    arena_deinit(&a);
    return status;
}

TEST(arena_releases_all_when_any_block_is_refused)
{
    assert_in_range(alloc_fail_loop("arena", fill_arena, NULL, 1), 2, 100);
}

TEST(buf_holds_what_was_put_in_order)
{
    struct buf b = {0};
    struct ds4_error error = {0};
    for (int i = 0; i < 3000; i++) buf_printf(&b, "%d,", i);
    buf_put(&b, "\0x", 2);
    buf_put_span(&b, SPAN("span"));
    buf_put_text(&b, "text");
    buf_put_byte(&b, 0xFF);
    assert_ok(buf_status(&b, &error), error);
    size_t at = 0;
    for (int i = 0; i < 3000; i++) {
        char number[16];
        int n = snprintf(number, sizeof number, "%d,", i);
        assert_memory_equal(b.text.ptr + at, number, (size_t)n);
        at += (size_t)n;
    }
    assert_int_equal(b.text.len, at + 11);
    assert_memory_equal(b.text.ptr + at, "\0xspantext\xFF", 11);
    buf_clear(&b);
    assert_int_equal(buf_span(&b).len, 0);
    buf_deinit(&b);
    assert_string_equal(buf_span(&b).ptr, "");
}

TEST(buf_takes_exactly_its_limit_and_not_a_byte_more)
{
    for (int printed = 0; printed <= 1; printed++) {
        struct buf b = {.limit = 10};
        struct ds4_error error = {0};
        if (printed) buf_printf(&b, "%s", "0123456789");
        else buf_put(&b, "0123456789", 10);
        assert_ok(buf_status(&b, &error), error);
        if (printed) buf_printf(&b, "%s", "x");
        else buf_put(&b, "x", 1);
        assert_status(buf_status(&b, &error), DS4_ERR_LIMIT, error);
        assert_memory_equal(b.text.ptr, "0123456789", 10);
        assert_int_equal(b.text.len, 10);
        buf_clear(&b);
        assert_ok(buf_status(&b, NULL), error);
        buf_put(&b, "more than ten", 13);
        assert_int_equal(b.text.len, 0);
        assert_int_equal(buf_status(&b, NULL), DS4_ERR_LIMIT);
        buf_deinit(&b);
    }
}

TEST(buf_keeps_what_it_had_when_memory_ends)
{
    struct buf b = {.limit = 1000000};
    struct ds4_error error = {0};
    buf_put_text(&b, "kept");
    static char big[5000];
    mem_test_hook(fail_all, NULL);
    buf_put(&b, big, sizeof big);
    mem_test_hook(NULL, NULL);
    buf_put_text(&b, "ignored");
    assert_status(buf_status(&b, &error), DS4_ERR_NOMEM, error);
    assert_int_equal(b.text.len, 4);
    assert_memory_equal(b.text.ptr, "kept", 4);
    buf_deinit(&b);
}

/* What a JSON string holds, read back by a library; ill-formed bytes are expected as U+FFFD. */
static void check_json_string(struct ds4_span s)
{
    struct buf b = {0}, wanted = {0};
    buf_put_byte(&b, '[');
    buf_put_json_string(&b, s);
    buf_put_byte(&b, ']');
    for (size_t i = 0, taken; i < s.len; i += taken) {
        if (utf8_next(s.ptr + i, s.len - i, &taken) == UTF8_BAD) buf_put_text(&wanted, "\xEF\xBF\xBD");
        else buf_put(&wanted, s.ptr + i, taken);
    }
    json_error_t json_error;
    json_t *root = json_loadb(b.text.ptr, b.text.len, JSON_ALLOW_NUL, &json_error);
    if (!root) fail_msg("%s", json_error.text);
    const json_t *item = json_array_get(root, 0);
    assert_int_equal(json_string_length(item), wanted.text.len);
    if (wanted.text.len) assert_memory_equal(json_string_value(item), wanted.text.ptr, wanted.text.len);
    json_decref(root);
    buf_deinit(&b);
    buf_deinit(&wanted);
}

TEST(buf_writes_json_strings_that_another_reader_reads_back)
{
    check_json_string(SPAN(""));
    check_json_string(SPAN("plain \xC3\xA9 \xF0\x9F\x98\x80 \xE2\x80\xA8"));
    char all[256];
    for (int i = 0; i < 256; i++) all[i] = (char)i;
    check_json_string(span_make(all, 256));
    struct rng r = {test_seed()};
    for (int k = 0; k < 2000; k++) {
        for (int i = 0; i < 40; i++) all[i] = (char)rng_next(&r);
        check_json_string(span_make(all, 40));
    }
}

TEST(tokens_grow_and_say_when_memory_ends)
{
    struct ds4_tokens tokens = {0};
    int32_t ids[100];
    for (int32_t i = 0; i < 100; i++) ids[i] = i;
    for (int k = 0; k < 50; k++) assert_int_equal(ds4_tokens_append(&tokens, ids, 100), DS4_OK);
    assert_int_equal(tokens.n, 5000);
    mem_test_hook(fail_all, NULL);
    enum ds4_status status = DS4_OK;
    while (status == DS4_OK && tokens.n < 100000) status = ds4_tokens_append(&tokens, ids, 100);
    mem_test_hook(NULL, NULL);
    assert_int_equal(status, DS4_ERR_NOMEM);
    for (size_t i = 0; i < tokens.n; i++) assert_int_equal(tokens.ids[i], i % 100);
    assert_int_equal(ds4_tokens_append(&tokens, NULL, 0), DS4_OK);
    ds4_tokens_free(&tokens);
    assert_true(tokens.ids == NULL && tokens.n == 0 && tokens.cap == 0);
}

TEST(spans_compare_and_search_by_bytes)
{
    struct ds4_span text = SPAN("ab\0abc");
    assert_int_equal(span_find(text, SPAN("abc"), 0), 3);
    assert_int_equal(span_find(text, SPAN("ab"), 1), 3);
    assert_int_equal(span_find(text, SPAN("abcd"), 0), SIZE_MAX);
    assert_int_equal(span_find(text, SPAN(""), 6), 6);
    assert_int_equal(span_find(text, SPAN(""), 7), SIZE_MAX);
    assert_int_equal(span_find(text, SPAN("c"), SIZE_MAX), SIZE_MAX);
    assert_true(span_eq(span_skip(text, 3), SPAN("abc")));
    assert_false(span_eq(SPAN("a"), SPAN("b")));
    assert_true(span_eq(span_make(NULL, 0), SPAN("")));
    assert_true(span_starts(text, SPAN("ab\0")) && !span_starts(SPAN("a"), SPAN("ab")));
    assert_true(span_starts(text, span_make(NULL, 0)));
    assert_int_equal(span_from(NULL).len, 0);
}

int main(void)
{
    return RUN_TESTS(T(mem_refuses_sizes_that_do_not_fit), T(mem_gives_a_pointer_for_zero_bytes),
                     T(mem_keeps_the_old_block_when_growing_fails), T(mem_aligns_and_clears_what_it_promises_to),
                     T(mem_lets_the_hook_refuse_every_kind_of_allocation), T(mem_knows_the_memory_of_the_machine),
                     T(mem_knows_the_limits_of_control_groups_of_both_versions_and_what_they_leave),
                     T(arena_gives_aligned_zeroed_pieces_that_do_not_overlap),
                     T(arena_stops_at_its_limit_and_at_sizes_that_do_not_fit),
                     T(arena_releases_all_when_any_block_is_refused), T(buf_holds_what_was_put_in_order),
                     T(buf_takes_exactly_its_limit_and_not_a_byte_more), T(buf_keeps_what_it_had_when_memory_ends),
                     T(buf_writes_json_strings_that_another_reader_reads_back),
                     T(tokens_grow_and_say_when_memory_ends), T(spans_compare_and_search_by_bytes));
}
