/* test_base_small.c - the small modules of the base floor: digests, errors, clock, bytes. */
#include "lib/test.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"
#include "lib/alloc_fail.h"

/* ---- hash ---- */

/* XXH3 of nothing with seed 0, as published by its author; the canonical form is big-endian. */
TEST(hash_of_nothing_is_the_published_one)
{
    static const uint8_t wanted[16] = {0x99, 0xAA, 0x06, 0xD3, 0x01, 0x47, 0x98, 0xD8,
                                       0x60, 0x01, 0xC3, 0x24, 0x46, 0x8D, 0x49, 0x7F};
    uint8_t digest[16];
    hash_bytes("", 0, digest);
    assert_memory_equal(digest, wanted, 16);
    assert_true(hash_u64("", 0) == 0x2D06800538D394C2u);
}

TEST(hash_does_not_depend_on_how_bytes_are_split)
{
    struct rng r = {test_seed()};
    static uint8_t data[5000];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)rng_next(&r);
    for (int k = 0; k < 300; k++) {
        size_t n = (size_t)rng_below(&r, k < 100 ? 300 : sizeof data);
        uint8_t whole[16], pieces[16];
        hash_bytes(data, n, whole);
        struct hash *h = hash_create();
        for (size_t at = 0; at < n;) {
            size_t piece = 1 + (size_t)rng_below(&r, n - at < 400 ? n - at : 400);
            hash_update(h, data + at, piece);
            at += piece;
        }
        hash_digest(h, pieces);
        hash_destroy(h);
        assert_memory_equal(whole, pieces, 16);
    }
}

TEST(hash_notices_every_flipped_bit)
{
    uint8_t data[300] = {0}, before[16], after[16];
    hash_bytes(data, sizeof data, before);
    for (size_t i = 0; i < sizeof data * 8; i++) {
        data[i / 8] ^= (uint8_t)(1u << (i % 8));
        hash_bytes(data, sizeof data, after);
        assert_memory_not_equal(before, after, 16);
        data[i / 8] ^= (uint8_t)(1u << (i % 8));
    }
}

static enum ds4_status make_hash(void *user, struct ds4_error *error)
{
    (void)user;
    struct hash *h = hash_create();
    if (!h) return err_set(error, DS4_ERR_NOMEM, "hash");
    hash_destroy(h);
    return DS4_OK;
}

TEST(hash_takes_its_memory_through_the_one_door)
{
    assert_int_equal(alloc_fail_loop("hash", make_hash, NULL, 1), 1);
}

/* ---- errors ---- */

TEST(error_keeps_the_first_cause)
{
    struct ds4_error error = {0};
    assert_int_equal(err_set(&error, DS4_ERR_LIMIT, "first %d", 1), DS4_ERR_LIMIT);
    assert_int_equal(err_set(&error, DS4_ERR_IO, "second"), DS4_ERR_IO);
    assert_int_equal(err_os(&error, ENOENT, "third"), DS4_ERR_IO);
    assert_int_equal(error.status, DS4_ERR_LIMIT);
    assert_string_equal(error.message, "first 1");
    assert_int_equal(err_set(NULL, DS4_ERR_NOMEM, "nobody listens"), DS4_ERR_NOMEM);
    assert_int_equal(err_os(NULL, ENOENT, "nobody listens"), DS4_ERR_IO);
}

TEST(error_of_the_system_says_the_reason)
{
    struct ds4_error error = {0};
    (void)err_os(&error, ENOENT, "cannot open %s", "/x");
    assert_string_equal(error.message, "cannot open /x: No such file or directory");
    char longer[2000];
    memset(longer, 'y', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    error = (struct ds4_error){0};
    (void)err_os(&error, ENOENT, "%s", longer);
    assert_int_equal(strlen(error.message), sizeof error.message - 1);
}

TEST(every_status_has_a_text_of_its_own)
{
    for (int a = DS4_OK; a <= DS4_ERR_UNSUPPORTED; a++)
        for (int b = DS4_OK; b < a; b++)
            assert_string_not_equal(ds4_status_text((enum ds4_status)a), ds4_status_text((enum ds4_status)b));
    assert_string_equal(ds4_status_text((enum ds4_status)99), "unknown status");
    assert_string_equal(ds4_status_text((enum ds4_status)-1), "unknown status");
}

/* ---- clock and bytes ---- */

static uint64_t fake_ns(void) { return 42; }
static uint64_t fake_s(void) { return 43; }

TEST(clock_never_goes_back_and_can_be_replaced)
{
    uint64_t last = clock_ns();
    for (int i = 0; i < 10000; i++) {
        uint64_t now = clock_ns();
        assert_true(now >= last);
        last = now;
    }
    assert_true(clock_unix_s() > 1600000000u);
    clock_test_hook(fake_ns, fake_s);
    assert_int_equal(clock_ns(), 42);
    assert_int_equal(clock_unix_s(), 43);
    clock_test_hook(NULL, NULL);
    assert_true(clock_ns() >= last);
}

TEST(bytes_are_little_endian_at_any_alignment)
{
    uint8_t p[16] = {0};
    store_u32(p + 1, 0x04030201);
    store_u64(p + 5, 0x0C0B0A0908070605u);
    for (uint8_t i = 1; i <= 12; i++) assert_int_equal(p[i], i);
    assert_int_equal(load_u16(p + 3), 0x0403);
    assert_int_equal(load_u32(p + 3), 0x06050403);
    assert_true(load_u64(p + 3) == 0x0A09080706050403u);
    store_f32(p + 7, -1.5f);
    assert_int_equal(load_u32(p + 7), 0xBFC00000);
    assert_true(load_f32(p + 7) == -1.5f);
    store_u16(p, 0x1234);
    assert_true(p[0] == 0x34 && p[1] == 0x12);
    double d = 0.1;
    memcpy(p + 3, &d, sizeof d);
    assert_true(load_f64(p + 3) == 0.1);
}

int main(void)
{
    return RUN_TESTS(T(hash_of_nothing_is_the_published_one), T(hash_does_not_depend_on_how_bytes_are_split),
                     T(hash_notices_every_flipped_bit), T(hash_takes_its_memory_through_the_one_door),
                     T(error_keeps_the_first_cause), T(error_of_the_system_says_the_reason),
                     T(every_status_has_a_text_of_its_own), T(clock_never_goes_back_and_can_be_replaced),
                     T(bytes_are_little_endian_at_any_alignment));
}
