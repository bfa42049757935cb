/* test_gguf_malformed.c - the reader against files that lie. One row a lie: a builder, the status, words of the
 * message. Where the builder marks a byte, the message must name it. The known holes of other readers are among the
 * rows: CVE-2024-21802, -21825, -21836, -23496, -23605, CVE-2025-53630, CVE-2026-7482, -27940, -33298. */
#include "lib/test.h"

#include <stdio.h>

#include "base/bytes.h"
#include "gguf/gguf.h"
#include "lib/gguf_build.h"

#define NO_MARK UINT64_MAX

static void expect_refusal(void (*build)(struct gguf_build *), enum ds4_status wanted, const char *words)
{
    struct gguf_build b = {.mark = NO_MARK};
    struct gguf_file *file = NULL;
    struct ds4_error error = {0};
    char place[40];
    build(&b);
    assert_false(b.bytes.failed);
    const uint8_t *bytes = (const uint8_t *)b.bytes.text.ptr;
    enum ds4_status status = gguf_open_memory(bytes, b.bytes.text.len, NULL, &file, &error);
    assert_null(file);
    assert_int_equal(error.status, status);
    if (status != wanted || !strstr(error.message, words))
        fail_msg("status %d, message \"%s\"; want %d, \"%s\"", status, error.message, wanted, words);
    (void)snprintf(place, sizeof place, "byte %llu:", (unsigned long long)b.mark);
    if (b.mark != NO_MARK && !strstr(error.message, place))
        fail_msg("\"%s\" does not say \"%s\"", error.message, place);
    assert_non_null(strstr(error.message, "byte "));
    buf_deinit(&b.bytes);
}

#define ROW(name, status_wanted, words) \
    static void build_##name(struct gguf_build *b); \
    static void name(__attribute__((unused)) void **state) { expect_refusal(build_##name, status_wanted, words); } \
    static void build_##name(struct gguf_build *b)

static const uint64_t one_row[] = {32};

/* One tensor and the data it asks for. */
static void put_file_with_tensor(struct gguf_build *b, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                                 uint64_t offset)
{
    build_head(b, 1, 0);
    build_tensor(b, "t", type, n_dims, dims, offset);
    build_pad(b, 32);
    build_zeros(b, 4096);
}

#define TENSOR_AT 24ull          /* of the record in put_file_with_tensor */
#define N_DIMS_AT (TENSOR_AT + 9) /* behind a name of one byte */

/* ---- rows 1-5: header, counts, truncation */

ROW(gguf_refuses_a_file_shorter_than_its_header, DS4_ERR_FORMAT, "shorter than a header")
{
    build_head(b, 0, 0);
    b->bytes.text.len = 23;
    b->mark = 23;
}

ROW(gguf_names_a_foreign_magic, DS4_ERR_FORMAT, "\"GGJT\"")
{
    build_head(b, 0, 0);
    memcpy(b->bytes.text.ptr, "GGJT", 4);
    b->mark = 0;
}

static void put_version(struct gguf_build *b, uint32_t version)
{
    build_good(b);
    store_u32(b->bytes.text.ptr + 4, version);
    b->mark = 4;
}
ROW(gguf_refuses_version_0, DS4_ERR_UNSUPPORTED, "version 0") { put_version(b, 0); }
ROW(gguf_refuses_version_1, DS4_ERR_UNSUPPORTED, "version 1") { put_version(b, 1); }
ROW(gguf_refuses_version_4, DS4_ERR_UNSUPPORTED, "version 4") { put_version(b, 4); }
ROW(gguf_says_that_a_file_is_big_endian, DS4_ERR_UNSUPPORTED, "big-endian") { put_version(b, 3u << 24); }

static void put_counts(struct gguf_build *b, uint64_t n_tensors, uint64_t n_kvs, size_t n_more)
{
    build_head(b, n_tensors, n_kvs);
    build_zeros(b, n_more);
    b->mark = n_kvs ? 16 : 8;
}
ROW(gguf_refuses_2_to_the_64_keys, DS4_ERR_FORMAT, "cannot fit") { put_counts(b, 0, UINT64_MAX, 100); }
ROW(gguf_refuses_one_key_more_than_fits, DS4_ERR_FORMAT, "cannot fit") { put_counts(b, 0, 8, 111); }
ROW(gguf_refuses_2_to_the_64_tensors, DS4_ERR_FORMAT, "cannot fit") { put_counts(b, UINT64_MAX, 0, 100); }
ROW(gguf_refuses_a_count_of_tensors_that_wraps, DS4_ERR_FORMAT, "cannot fit") { put_counts(b, 1ull << 59, 0, 100); }
ROW(gguf_refuses_4097_keys, DS4_ERR_LIMIT, "4097 keys, more than 4096") { put_counts(b, 0, 4097, 4097 * 14); }
ROW(gguf_refuses_16385_tensors, DS4_ERR_LIMIT, "16385 tensors") { put_counts(b, 16385, 0, 16385 * 33); }

TEST(gguf_refuses_every_prefix_of_a_good_file)
{
    struct gguf_build b = {0};
    build_good(&b);
    for (size_t n = 0; n <= b.bytes.text.len; n++) {
        struct gguf_file *file;
        struct ds4_error error = {0};
        uint8_t *copy = test_malloc(n + 1); /* its own block, so that a sanitizer sees a read behind the end */
        memcpy(copy, b.bytes.text.ptr, n);
        enum ds4_status status = gguf_open_memory(copy, n, NULL, &file, &error);
        if (n == b.bytes.text.len) assert_int_equal(status, DS4_OK);
        else assert_int_equal(status, DS4_ERR_FORMAT);
        if (n < b.bytes.text.len) assert_non_null(strstr(error.message, "byte "));
        gguf_close(file);
        test_free(copy);
    }
    buf_deinit(&b.bytes);
}

/* ---- rows 6-8: strings and keys */

ROW(gguf_refuses_a_key_longer_than_the_file, DS4_ERR_FORMAT, "ends inside a key")
{
    build_head(b, 0, 1);
    build_u64(b, 1000);
    build_mark(b);
    build_zeros(b, 20);
}

ROW(gguf_refuses_a_string_length_that_wraps, DS4_ERR_FORMAT, "ends inside a string value")
{
    build_head(b, 0, 1);
    build_key(b, "k", GGUF_STRING);
    build_u64(b, UINT64_MAX);
    build_mark(b);
    build_zeros(b, 20);
}

static void put_long_name(struct gguf_build *b, size_t n)
{
    build_mark(b);
    build_u64(b, n);
    for (size_t i = 0; i < n; i++) buf_put_byte(&b->bytes, 'k');
    build_zeros(b, 64);
}
ROW(gguf_refuses_a_key_of_65536_bytes, DS4_ERR_LIMIT, "more than 65535")
{
    build_head(b, 0, 1);
    put_long_name(b, 65536);
}
ROW(gguf_refuses_a_tensor_name_of_256_bytes, DS4_ERR_LIMIT, "more than 255")
{
    build_head(b, 1, 0);
    put_long_name(b, 256);
}

ROW(gguf_refuses_an_empty_key, DS4_ERR_FORMAT, "a key is empty")
{
    build_head(b, 0, 1);
    build_mark(b);
    build_kv_u32(b, "", 1);
}

ROW(gguf_refuses_a_key_with_a_nul, DS4_ERR_FORMAT, "a key holds a NUL")
{
    build_head(b, 0, 1);
    build_mark(b);
    build_kv_u32(b, "a_b", 1);
    b->bytes.text.ptr[b->mark + 9] = 0;
}

ROW(gguf_refuses_a_key_that_stands_twice, DS4_ERR_FORMAT, "key same stands twice")
{
    build_head(b, 0, 2);
    build_kv_u32(b, "same", 1);
    build_mark(b);
    build_kv_u32(b, "same", 1);
}

ROW(gguf_shows_hostile_names_without_their_control_bytes, DS4_ERR_FORMAT, "key ?[31mred stands twice")
{
    build_head(b, 0, 2);
    build_kv_u32(b, "\033[31mred", 1);
    build_mark(b);
    build_kv_u32(b, "\033[31mred", 1);
}

/* ---- rows 9-12: values and arrays */

static void put_value_type(struct gguf_build *b, uint32_t type)
{
    build_head(b, 0, 1);
    build_string(b, "k");
    build_mark(b);
    build_u32(b, type);
    build_zeros(b, 64);
}
ROW(gguf_refuses_value_type_13, DS4_ERR_FORMAT, "unknown value type 13") { put_value_type(b, 13); }
ROW(gguf_refuses_a_negative_value_type, DS4_ERR_FORMAT, "unknown value type") { put_value_type(b, UINT32_MAX); }

static void put_array(struct gguf_build *b, uint32_t item, uint64_t count, bool blame_count)
{
    build_head(b, 0, 1);
    build_key(b, "k", GGUF_ARRAY);
    b->mark = b->bytes.text.len + (blame_count ? 4 : 0);
    build_u32(b, item);
    build_u64(b, count);
    build_zeros(b, 64);
}
ROW(gguf_refuses_an_unknown_item_type, DS4_ERR_FORMAT, "unknown item type 77") { put_array(b, 77, 1, false); }
ROW(gguf_refuses_an_array_that_wraps, DS4_ERR_FORMAT, "cannot fit") { put_array(b, GGUF_U64, 1ull << 61, true); }
ROW(gguf_refuses_an_array_longer_than_the_file, DS4_ERR_FORMAT, "cannot fit") { put_array(b, GGUF_U32, 17, true); }
ROW(gguf_refuses_strings_that_cannot_fit, DS4_ERR_FORMAT, "cannot fit") { put_array(b, GGUF_STRING, 9, true); }
ROW(gguf_refuses_2_to_the_63_strings, DS4_ERR_FORMAT, "cannot fit") { put_array(b, GGUF_STRING, 1ull << 63, true); }
ROW(gguf_refuses_arrays_of_arrays, DS4_ERR_UNSUPPORTED, "array of arrays") { put_array(b, GGUF_ARRAY, 1, false); }

ROW(gguf_refuses_a_string_in_an_array_that_is_too_long, DS4_ERR_FORMAT, "ends inside a string of an array")
{
    put_array(b, GGUF_STRING, 2, false);
    store_u64(b->bytes.text.ptr + b->bytes.text.len - 56, 49);
    b->mark = b->bytes.text.len - 48;
}

ROW(gguf_refuses_a_bool_of_2, DS4_ERR_FORMAT, "a bool of value 2")
{
    build_head(b, 0, 1);
    build_key(b, "k", GGUF_BOOL);
    build_mark(b);
    buf_put_byte(&b->bytes, 2);
}

ROW(gguf_refuses_a_bool_of_255_in_an_array, DS4_ERR_FORMAT, "a bool of value 255")
{
    put_array(b, GGUF_BOOL, 3, false);
    b->mark += 12 + 2;
    b->bytes.text.ptr[b->mark] = (char)255;
}

/* ---- row 14: alignment */

static void put_alignment(struct gguf_build *b, uint32_t alignment)
{
    build_head(b, 0, 1);
    build_mark(b);
    build_kv_u32(b, "general.alignment", alignment);
}
ROW(gguf_refuses_alignment_0, DS4_ERR_FORMAT, "alignment 0 is not") { put_alignment(b, 0); }
ROW(gguf_refuses_alignment_4, DS4_ERR_FORMAT, "alignment 4 is not") { put_alignment(b, 4); }
ROW(gguf_refuses_alignment_24, DS4_ERR_FORMAT, "alignment 24 is not") { put_alignment(b, 24); }
ROW(gguf_refuses_alignment_2_mib, DS4_ERR_FORMAT, "2097152 is not") { put_alignment(b, 2u << 20); }
ROW(gguf_refuses_alignment_2_gib, DS4_ERR_FORMAT, "2147483648 is not") { put_alignment(b, 1u << 31); }
ROW(gguf_refuses_an_alignment_that_is_no_u32, DS4_ERR_FORMAT, "alignment is u64, not u32")
{
    build_head(b, 0, 1);
    build_mark(b);
    build_key(b, "general.alignment", GGUF_U64);
    build_u64(b, 32);
}

/* ---- rows 16-24: tensor records */

#define DIMS(...) (const uint64_t[]){__VA_ARGS__}

ROW(gguf_refuses_a_tensor_without_dimensions, DS4_ERR_FORMAT, "0 dimensions")
{
    put_file_with_tensor(b, 0, 0, NULL, 0);
    b->mark = N_DIMS_AT;
}
ROW(gguf_refuses_a_tensor_of_5_dimensions, DS4_ERR_FORMAT, "5 dimensions")
{
    put_file_with_tensor(b, 0, 5, DIMS(1, 1, 1, 1, 1), 0);
    b->mark = N_DIMS_AT;
}
ROW(gguf_refuses_a_tensor_of_2_to_the_32_dimensions, DS4_ERR_FORMAT, "dimensions")
{
    put_file_with_tensor(b, 0, 1, one_row, 0);
    store_u32(b->bytes.text.ptr + N_DIMS_AT, UINT32_MAX);
    b->mark = N_DIMS_AT;
}
ROW(gguf_refuses_a_dimension_of_0, DS4_ERR_FORMAT, "dimension 1 is zero")
{
    put_file_with_tensor(b, 0, 3, DIMS(8, 0, 8), 0);
    b->mark = N_DIMS_AT;
}
ROW(gguf_refuses_a_dimension_of_2_to_the_63, DS4_ERR_FORMAT, "more than 2^63 elements")
{
    put_file_with_tensor(b, 0, 1, DIMS(1ull << 63), 0);
    b->mark = N_DIMS_AT;
}
ROW(gguf_refuses_a_product_of_dimensions_that_wraps, DS4_ERR_FORMAT, "more than 2^63 elements")
{
    put_file_with_tensor(b, 0, 4, DIMS(1ull << 32, 1ull << 31, 2, 1), 0);
    b->mark = N_DIMS_AT;
}
ROW(gguf_refuses_a_size_in_bytes_that_wraps, DS4_ERR_FORMAT, "more than 2^63 bytes")
{
    put_file_with_tensor(b, 0, 2, DIMS(1ull << 31, 1ull << 31), 0);
    b->mark = N_DIMS_AT;
}
ROW(gguf_refuses_rows_of_partial_blocks, DS4_ERR_FORMAT, "rows of 33 are not whole Q8_0 blocks of 32")
{
    put_file_with_tensor(b, 8, 2, DIMS(33, 32), 0);
    b->mark = N_DIMS_AT;
}
ROW(gguf_refuses_an_empty_tensor_name, DS4_ERR_FORMAT, "a tensor name is empty")
{
    build_head(b, 1, 0);
    build_mark(b);
    build_tensor(b, "", 0, 1, one_row, 0);
    build_pad(b, 32);
    build_zeros(b, 128);
}
ROW(gguf_refuses_a_tensor_name_with_a_nul, DS4_ERR_FORMAT, "a tensor name holds a NUL")
{
    put_file_with_tensor(b, 0, 1, one_row, 0);
    b->bytes.text.ptr[TENSOR_AT + 8] = 0;
    b->mark = TENSOR_AT;
}
ROW(gguf_refuses_two_tensors_of_one_name, DS4_ERR_FORMAT, "tensor t stands twice")
{
    build_head(b, 2, 0);
    build_tensor(b, "t", 0, 1, one_row, 0);
    build_mark(b);
    build_tensor(b, "t", 0, 1, one_row, 128);
    build_pad(b, 32);
    build_zeros(b, 256);
}
ROW(gguf_refuses_an_offset_off_the_alignment, DS4_ERR_FORMAT, "offset 16 is not a multiple of 32")
{
    put_file_with_tensor(b, 0, 1, one_row, 16);
    b->mark = N_DIMS_AT + 4 + 8 + 4;
}

/* ---- rows 25-28, 37: places in the file */

ROW(gguf_refuses_an_offset_that_wraps, DS4_ERR_FORMAT, "beyond 2^63")
{
    put_file_with_tensor(b, 0, 1, one_row, UINT64_MAX - 31);
    b->mark = 64;
}
ROW(gguf_refuses_an_end_that_wraps, DS4_ERR_FORMAT, "beyond 2^63")
{
    put_file_with_tensor(b, 24, 1, DIMS(1ull << 62), 1ull << 62);
    b->mark = 64;
}
ROW(gguf_says_how_much_of_a_download_is_missing, DS4_ERR_FORMAT,
    "3 bytes shorter than its own directory says (tensor b")
{
    build_good(b);
    b->bytes.text.len -= 3;
    build_mark(b);
}
ROW(gguf_refuses_a_tensor_behind_the_end, DS4_ERR_FORMAT, "incomplete download")
{
    put_file_with_tensor(b, 0, 1, DIMS(1024 + 32), 0);
    build_mark(b);
}
ROW(gguf_refuses_a_file_that_ends_before_its_data, DS4_ERR_FORMAT, "ends before its tensor data")
{
    build_head(b, 1, 0);
    build_tensor(b, "t", 0, 1, one_row, 0);
    build_mark(b);
    assert_int_not_equal(b->mark % 32, 0);
}
ROW(gguf_refuses_tensors_that_overlap, DS4_ERR_FORMAT, "tensor b overlaps tensor a")
{
    build_head(b, 2, 0);
    build_tensor(b, "a", 0, 1, DIMS(16), 0);
    build_tensor(b, "b", 0, 1, DIMS(16), 32);
    build_pad(b, 32);
    build_zeros(b, 32);
    build_mark(b);
    build_zeros(b, 256);
}
ROW(gguf_refuses_two_tensors_at_one_place, DS4_ERR_FORMAT, "tensor b overlaps tensor a")
{
    build_head(b, 2, 0);
    build_tensor(b, "a", 0, 1, DIMS(16), 0);
    build_tensor(b, "b", 0, 1, DIMS(16), 0);
    build_pad(b, 32);
    build_mark(b);
    build_zeros(b, 256);
}
ROW(gguf_refuses_types_whose_size_is_not_ours, DS4_ERR_UNSUPPORTED, "unknown type geometry: tensor a (MXFP4)")
{
    build_head(b, 2, 0); /* 64 values as 8.25-bit planes take 66 bytes, as MXFP4 blocks 34 */
    build_tensor(b, "a", 39, 1, DIMS(64), 0);
    build_tensor(b, "b", 0, 1, DIMS(8), 96);
    build_pad(b, 32);
    build_zeros(b, 96);
    build_mark(b);
    build_zeros(b, 32);
}

/* ---- what must be accepted */

static struct gguf_file *open_good(struct gguf_build *b)
{
    struct gguf_file *file;
    struct ds4_error error = {0};
    assert_ok(gguf_open_memory((const uint8_t *)b->bytes.text.ptr, b->bytes.text.len, NULL, &file, &error), error);
    return file;
}

static void done(struct gguf_file *file, struct gguf_build *b)
{
    gguf_close(file);
    buf_deinit(&b->bytes);
}

TEST(gguf_accepts_version_2)
{
    struct gguf_build b = {0};
    build_good(&b);
    store_u32(b.bytes.text.ptr + 4, 2);
    struct gguf_file *file = open_good(&b);
    assert_int_equal(gguf_n_tensors(file), 2);
    done(file, &b);
}

TEST(gguf_accepts_trailing_bytes_and_metadata_alone)
{
    struct gguf_build b = {0};
    build_good(&b);
    build_zeros(&b, 77);
    done(open_good(&b), &b);
    b = (struct gguf_build){0};
    build_head(&b, 0, 1); /* no tensors: the padding may be missing */
    build_kv_u32(&b, "k", 1);
    struct gguf_file *file = open_good(&b);
    assert_int_equal(gguf_n_kvs(file), 1);
    done(file, &b);
}

TEST(gguf_accepts_tensors_in_any_order_of_place)
{
    struct gguf_build b = {0};
    build_head(&b, 3, 0);
    build_tensor(&b, "a", 0, 1, DIMS(8), 96);
    build_tensor(&b, "b", 0, 1, DIMS(9), 0);
    build_tensor(&b, "c", 0, 1, DIMS(1), 64);
    build_pad(&b, 32);
    build_zeros(&b, 128);
    struct gguf_file *file = open_good(&b);
    const struct gguf_tensor *t = gguf_tensor_find(file, SPAN("c"));
    assert_non_null(t);
    assert_int_equal(t->file_offset, gguf_header_bytes(file) + 64);
    assert_ptr_equal(t->data, b.bytes.text.ptr + t->file_offset);
    done(file, &b);
}

TEST(gguf_hands_out_no_data_of_an_unknown_type)
{
    struct gguf_build b = {0};
    build_head(&b, 2, 0);
    build_tensor(&b, "odd", 4, 2, DIMS(33, 7), 0);
    build_tensor(&b, "a", 0, 1, DIMS(8), 1024);
    build_pad(&b, 32);
    build_zeros(&b, 1024 + 32);
    struct gguf_file *file = open_good(&b);
    const struct gguf_tensor *t = gguf_tensor_find(file, SPAN("odd"));
    assert_int_equal(t->type, 4);
    assert_int_equal(t->size_bytes, 0);
    assert_null(t->data);
    done(file, &b);
}

TEST(gguf_accepts_names_at_their_limits_and_not_beyond)
{
    const struct gguf_limits limits = {.kvs_max = 1, .tensors_max = 1, .key_bytes_max = 3, .name_bytes_max = 4,
                                       .header_bytes_max = 1000};
    static const struct { const char *key, *name; uint64_t n_kvs, n_tensors; enum ds4_status wanted; } cases[] = {
        {"abc", "abcd", 1, 1, DS4_OK}, {"abcd", "abcd", 1, 1, DS4_ERR_LIMIT}, {"abc", "abcde", 1, 1, DS4_ERR_LIMIT},
        {"abc", "abcd", 2, 1, DS4_ERR_LIMIT}, {"abc", "abcd", 1, 2, DS4_ERR_LIMIT}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gguf_build b = {0};
        struct gguf_file *file;
        build_head(&b, cases[i].n_tensors, cases[i].n_kvs);
        build_kv_u32(&b, cases[i].key, 1);
        build_tensor(&b, cases[i].name, 0, 1, DIMS(8), 0);
        build_pad(&b, 32);
        build_zeros(&b, 320);
        assert_int_equal(gguf_open_memory((uint8_t *)b.bytes.text.ptr, b.bytes.text.len, &limits, &file, NULL),
                         cases[i].wanted);
        done(file, &b);
    }
}

TEST(gguf_reads_no_directory_beyond_the_limit_of_its_bytes)
{
    struct gguf_limits limits = gguf_limits_default;
    struct gguf_build b = {0};
    struct gguf_file *file;
    struct ds4_error error = {0};
    build_head(&b, 0, 1);
    build_key(&b, "k", GGUF_STRING);
    build_u64(&b, 500);
    build_zeros(&b, 500);
    limits.header_bytes_max = b.bytes.text.len - 1;
    assert_status(gguf_open_memory((uint8_t *)b.bytes.text.ptr, b.bytes.text.len, &limits, &file, &error),
                  DS4_ERR_LIMIT, error);
    assert_non_null(strstr(error.message, "byte 45: a string value: the directory is longer than 544 bytes"));
    limits.header_bytes_max++;
    error = (struct ds4_error){0};
    assert_ok(gguf_open_memory((uint8_t *)b.bytes.text.ptr, b.bytes.text.len, &limits, &file, &error), error);
    done(file, &b);
}

int main(void)
{
    return RUN_TESTS(
        T(gguf_refuses_a_file_shorter_than_its_header), T(gguf_names_a_foreign_magic), T(gguf_refuses_version_0),
        T(gguf_refuses_version_1), T(gguf_refuses_version_4), T(gguf_says_that_a_file_is_big_endian),
        T(gguf_refuses_2_to_the_64_keys), T(gguf_refuses_one_key_more_than_fits), T(gguf_refuses_2_to_the_64_tensors),
        T(gguf_refuses_a_count_of_tensors_that_wraps), T(gguf_refuses_4097_keys), T(gguf_refuses_16385_tensors),
        T(gguf_refuses_every_prefix_of_a_good_file), T(gguf_refuses_a_key_longer_than_the_file),
        T(gguf_refuses_a_string_length_that_wraps), T(gguf_refuses_a_key_of_65536_bytes),
        T(gguf_refuses_a_tensor_name_of_256_bytes), T(gguf_refuses_an_empty_key), T(gguf_refuses_a_key_with_a_nul),
        T(gguf_refuses_a_key_that_stands_twice), T(gguf_shows_hostile_names_without_their_control_bytes),
        T(gguf_refuses_value_type_13), T(gguf_refuses_a_negative_value_type), T(gguf_refuses_an_unknown_item_type),
        T(gguf_refuses_an_array_that_wraps), T(gguf_refuses_an_array_longer_than_the_file),
        T(gguf_refuses_strings_that_cannot_fit), T(gguf_refuses_2_to_the_63_strings), T(gguf_refuses_arrays_of_arrays),
        T(gguf_refuses_a_string_in_an_array_that_is_too_long), T(gguf_refuses_a_bool_of_2),
        T(gguf_refuses_a_bool_of_255_in_an_array), T(gguf_refuses_alignment_0), T(gguf_refuses_alignment_4),
        T(gguf_refuses_alignment_24), T(gguf_refuses_alignment_2_mib), T(gguf_refuses_alignment_2_gib),
        T(gguf_refuses_an_alignment_that_is_no_u32), T(gguf_refuses_a_tensor_without_dimensions),
        T(gguf_refuses_a_tensor_of_5_dimensions), T(gguf_refuses_a_tensor_of_2_to_the_32_dimensions),
        T(gguf_refuses_a_dimension_of_0), T(gguf_refuses_a_dimension_of_2_to_the_63),
        T(gguf_refuses_a_product_of_dimensions_that_wraps), T(gguf_refuses_a_size_in_bytes_that_wraps),
        T(gguf_refuses_rows_of_partial_blocks), T(gguf_refuses_an_empty_tensor_name),
        T(gguf_refuses_a_tensor_name_with_a_nul), T(gguf_refuses_two_tensors_of_one_name),
        T(gguf_refuses_an_offset_off_the_alignment), T(gguf_refuses_an_offset_that_wraps),
        T(gguf_refuses_an_end_that_wraps), T(gguf_says_how_much_of_a_download_is_missing),
        T(gguf_refuses_a_tensor_behind_the_end), T(gguf_refuses_a_file_that_ends_before_its_data),
        T(gguf_refuses_tensors_that_overlap), T(gguf_refuses_two_tensors_at_one_place),
        T(gguf_refuses_types_whose_size_is_not_ours), T(gguf_accepts_version_2),
        T(gguf_accepts_trailing_bytes_and_metadata_alone), T(gguf_accepts_tensors_in_any_order_of_place),
        T(gguf_hands_out_no_data_of_an_unknown_type), T(gguf_accepts_names_at_their_limits_and_not_beyond),
        T(gguf_reads_no_directory_beyond_the_limit_of_its_bytes));
}
