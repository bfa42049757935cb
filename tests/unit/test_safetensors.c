/* test_safetensors.c - the checkpoint reader: what it finds, and files, headers and indexes that lie. */
#include "lib/test.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "lib/alloc_fail.h"
#include "tools/safetensors.h"

/* A file with this header and so many bytes of data. */
static void build(struct buf *b, const char *header, size_t n_data)
{
    uint64_t n = strlen(header);
    buf_put(b, &n, sizeof n);
    buf_put_text(b, header);
    for (size_t i = 0; i < n_data; i++) buf_put_byte(b, (unsigned char)i);
}

static enum ds4_status open_bytes(const struct buf *b, struct safetensors **s, struct ds4_error *error)
{
    return safetensors_open_memory((const uint8_t *)b->text.ptr, b->text.len, s, error);
}

static const char good[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"b\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[16,19]},"
                           "\"a\":{\"dtype\":\"BF16\",\"shape\":[2,4],\"data_offsets\":[0,16]},"
                           "\"c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[19,20]}}   ";

TEST(safetensors_finds_every_tensor_where_the_header_says)
{
    struct buf b = {0};
    struct safetensors *s;
    struct ds4_error error = {0};
    uint8_t bytes[4];
    build(&b, good, 20);
    assert_ok(open_bytes(&b, &s, &error), error);
    assert_int_equal(safetensors_count(s), 3);
    const struct safetensors_tensor *a = safetensors_find(s, SPAN("a")), *c = safetensors_find(s, SPAN("c"));
    assert_ptr_equal(a, safetensors_at(s, 0));
    assert_true(a->type == SAFETENSORS_BF16 && a->n_dims == 2 && a->dims[0] == 2 && a->dims[1] == 4);
    assert_true(c->n_dims == 0 && c->size_bytes == 1);
    assert_null(safetensors_find(s, SPAN("__metadata__")));
    assert_ok(safetensors_read(s, safetensors_find(s, SPAN("b")), 1, bytes, 2, &error), error);
    assert_true(bytes[0] == 17 && bytes[1] == 18);
    assert_int_equal(safetensors_read(s, a, 15, bytes, 2, NULL), DS4_ERR_STATE);
    assert_int_equal(safetensors_read(s, a, UINT64_MAX, bytes, 2, NULL), DS4_ERR_STATE);
    safetensors_close(s);
    buf_deinit(&b);
}

#define T1(dtype, shape, offsets) \
    "{\"t\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

TEST(safetensors_refuses_headers_that_lie)
{
    static const struct { const char *header, *words; } lies[] = {
        {"", "no JSON"},
        {"{", "expected near end"},
        {"[]", "no object"},
        {"{\"t\":1}", "no object"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", "a name of no length"},
        {"{\"t\":{\"shape\":[4],\"data_offsets\":[0,4]}}", "dtype"},
        {T1("F7", "[4]", "[0,4]"), "dtype"},
        {T1("U8", "4", "[0,4]"), "no shape"},
        {T1("U8", "[1,1,1,1,4]", "[0,4]"), "more than four dimensions"},
        {T1("U8", "[0]", "[0,0]"), "no positive number"},
        {T1("U8", "[-4]", "[0,4]"), "no positive number"},
        {T1("U8", "[4.0]", "[0,4]"), "no positive number"},
        {T1("U8", "[\"4\"]", "[0,4]"), "no positive number"},
        {T1("U8", "[99999999999999999999]", "[0,4]"), "too big"},
        {T1("F32", "[4611686018427387904,4]", "[0,4]"), "too large"},
        {T1("U8", "[4]", "[0]"), "no pair"},
        {T1("U8", "[4]", "[0,-4]"), "no pair"},
        {T1("U8", "[4]", "[0,4,8]"), "no pair"},
        {T1("U8", "[4]", "[8,4]"), "end before they begin"},
        {T1("U8", "[4]", "[17,21]"), "beyond the end"},
        {T1("U8", "[4]", "[9223372036854775804,9223372036854775807]"), "beyond the end"},
        {T1("U8", "[5]", "[0,4]"), "differ in size"},
        {T1("F32", "[4]", "[0,4]"), "differ in size"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}", "duplicate"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"u\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}", "overlap"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct buf b = {0};
        struct safetensors *s = NULL;
        struct ds4_error error = {0};
        build(&b, lies[i].header, 20);
        assert_int_equal(open_bytes(&b, &s, &error), DS4_ERR_FORMAT);
        assert_null(s);
        if (!strstr(error.message, lies[i].words)) fail_msg("%s: \"%s\"", lies[i].header, error.message);
        buf_deinit(&b);
    }
}

TEST(safetensors_refuses_a_header_longer_than_its_file)
{
    static const uint64_t lengths[] = {13, 14, 1 << 20, UINT64_MAX, UINT64_MAX - 7, 1ull << 63};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t bytes[20] = {0};
        struct safetensors *s;
        struct ds4_error error = {0};
        memcpy(bytes, &lengths[i], 8);
        assert_int_equal(safetensors_open_memory(bytes, sizeof bytes, &s, &error), DS4_ERR_FORMAT);
        assert_non_null(strstr(error.message, "a header of"));
    }
    for (size_t n = 0; n < 8; n++) {
        uint8_t bytes[8] = {0};
        struct safetensors *s;
        assert_int_equal(safetensors_open_memory(bytes, n, &s, NULL), DS4_ERR_FORMAT);
    }
}

TEST(safetensors_refuses_every_cut_of_a_good_file)
{
    struct buf b = {0};
    struct safetensors *s;
    build(&b, good, 20);
    for (size_t n = 0; n < b.text.len; n++)
        assert_int_not_equal(safetensors_open_memory((const uint8_t *)b.text.ptr, n, &s, NULL), DS4_OK);
    buf_deinit(&b);
}

static enum ds4_status open_good(void *user, struct ds4_error *error)
{
    struct safetensors *s;
    enum ds4_status status = open_bytes(user, &s, error);
    if (status == DS4_OK) safetensors_close(s);
    return status;
}

TEST(safetensors_survives_the_failure_of_any_allocation)
{
    struct buf b = {0};
    build(&b, good, 20);
    assert_in_range(alloc_fail_loop("safetensors_open_memory", open_good, &b, 1), 3, 1000);
    buf_deinit(&b);
}

/* ---- folders */

static void write_text(const char *folder, const char *name, const char *bytes, size_t n)
{
    char path[4096];
    int fd;
    struct ds4_error error = {0};
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(file_open(path, FILE_CREATE_TRUNCATE, &fd, &error), error);
    assert_ok(file_write(fd, path, bytes, n, &error), error);
    file_close(fd);
}

static void write_shard(const char *folder, const char *name, const char *header)
{
    struct buf b = {0};
    build(&b, header, 20);
    write_text(folder, name, b.text.ptr, b.text.len);
    buf_deinit(&b);
}

TEST(a_checkpoint_is_what_its_index_promises)
{
    static const struct { const char *map; enum ds4_status status; const char *words; } cases[] = {
        {"{\"t\":\"x.safetensors\",\"u\":\"y.safetensors\"}", DS4_OK, NULL},
        {"{\"t\":\"y.safetensors\",\"u\":\"y.safetensors\"}", DS4_ERR_FORMAT, "missing there"},
        {"{\"t\":\"x.safetensors\",\"v\":\"x.safetensors\"}", DS4_ERR_FORMAT, "missing there"},
        {"{\"t\":\"x.safetensors\",\"u\":\"z.safetensors\"}", DS4_ERR_FORMAT, "is in two files"},
        {"{\"t\":\"../x.safetensors\"}", DS4_ERR_FORMAT, "no name of a shard"},
        {"{\"t\":\"/etc/x.safetensors\"}", DS4_ERR_FORMAT, "no name of a shard"},
        {"{\"t\":\"sub/x.safetensors\"}", DS4_ERR_FORMAT, "no name of a shard"},
        {"{\"t\":\"..safetensors\"}", DS4_ERR_FORMAT, "no name of a shard"},
        {"{\"t\":\"config.json\"}", DS4_ERR_FORMAT, "no name of a shard"},
        {"{\"t\":7}", DS4_ERR_FORMAT, "lies in no file"},
        {"[]", DS4_ERR_FORMAT, "no weight_map"},
        {"{\"t\":\"absent.safetensors\"}", DS4_ERR_IO, "absent.safetensors"},
        {"{\"t\":\"empty.safetensors\"}", DS4_ERR_FORMAT, "no safetensors file"},
    };
    const char *folder = test_dir();
    write_shard(folder, "x.safetensors", T1("U8", "[4]", "[0,4]"));
    write_shard(folder, "y.safetensors", "{\"u\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}");
    write_shard(folder, "z.safetensors", "{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]},"
                                         "\"u\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[8,12]}}");
    write_text(folder, "empty.safetensors", "", 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf index = {0};
        struct safetensors *s = NULL;
        struct ds4_error error = {0};
        buf_printf(&index, "{\"weight_map\":%s}", cases[i].map);
        write_text(folder, "model.safetensors.index.json", index.text.ptr, index.text.len);
        buf_deinit(&index);
        enum ds4_status status = safetensors_open(folder, &s, &error);
        if (status != cases[i].status || (cases[i].words && !strstr(error.message, cases[i].words)))
            fail_msg("%s: status %d, \"%s\"", cases[i].map, status, error.message);
        if (status == DS4_OK) {
            uint8_t byte;
            assert_ok(safetensors_read(s, safetensors_find(s, SPAN("u")), 0, &byte, 1, &error), error);
            assert_int_equal(byte, 4);
        }
        safetensors_close(s);
    }
    test_dir_remove();
}

TEST(a_lone_file_needs_no_index)
{
    struct safetensors *s;
    struct ds4_error error = {0};
    const char *folder = test_dir();
    assert_int_equal(safetensors_open(folder, &s, &error), DS4_ERR_IO);
    assert_non_null(strstr(error.message, "neither"));
    write_shard(folder, "model.safetensors", good);
    error = (struct ds4_error){0};
    assert_ok(safetensors_open(folder, &s, &error), error);
    assert_int_equal(safetensors_count(s), 3);
    safetensors_close(s);
    test_dir_remove();
}

int main(void)
{
    return RUN_TESTS(T(safetensors_finds_every_tensor_where_the_header_says),
                     T(safetensors_refuses_headers_that_lie), T(safetensors_refuses_a_header_longer_than_its_file),
                     T(safetensors_refuses_every_cut_of_a_good_file),
                     T(safetensors_survives_the_failure_of_any_allocation), T(a_checkpoint_is_what_its_index_promises),
                     T(a_lone_file_needs_no_index));
}
