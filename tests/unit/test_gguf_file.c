/* test_gguf_file.c - files on disk: what the writer writes is what the reader reads; holes, parts, changes underfoot,
 * memory that ends. */
#include "lib/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/mem.h"
#include "gguf/gguf.h"
#include "lib/gguf_build.h"
#include "quant/quant.h"

#define FLASH_FILE_BYTES 86720111488ull

static const char *path_in_dir(char path[512], const char *name)
{
    (void)snprintf(path, 512, "%s/%s", test_dir(), name);
    return path;
}

static void write_bytes(const char *path, const struct gguf_build *b)
{
    int fd;
    struct ds4_error error = {0};
    assert_ok(file_open(path, FILE_CREATE_TRUNCATE, &fd, &error), error);
    assert_ok(file_write_at(fd, path, 0, b->bytes.text.ptr, b->bytes.text.len, &error), error);
    file_close(fd);
}

static const uint64_t dims_a[] = {64, 3}, dims_b[] = {5};

/* A file with a value of every kind the writer knows, tensors a (Q8_0 [3][64]) and b (F32 [5]). */
static enum ds4_status write_all_kinds(const char *path, struct ds4_error *error)
{
    static const uint32_t u32s[] = {1, UINT32_MAX};
    static const int32_t i32s[] = {-1, 0, INT32_MIN};
    static const float f32s[] = {1.5f, -0.0f};
    static const struct ds4_span strings[] = {{"one", 3}, {"", 0}, {"a\0b", 3}};
    struct gguf_writer *w;
    TRY(gguf_writer_create(path, &w, error));
    gguf_put_u32(w, "u32", 7);
    gguf_put_u64(w, "u64", UINT64_MAX);
    gguf_put_f32(w, "f32", 0.1f);
    gguf_put_bool(w, "yes", true);
    gguf_put_string(w, "string", SPAN("text"));
    gguf_put_array_u32(w, "u32s", u32s, 2);
    gguf_put_array_i32(w, "i32s", i32s, 3);
    gguf_put_array_f32(w, "f32s", f32s, 2);
    gguf_put_array_string(w, "strings", strings, 3);
    gguf_put_array_string(w, "none", NULL, 0);
    gguf_put_u32(w, "general.alignment", 64);
    gguf_put_tensor(w, "a", QUANT_Q8_0, 2, dims_a);
    gguf_put_tensor(w, "b", QUANT_F32, 1, dims_b);
    enum ds4_status status;
    TRY_GOTO(gguf_writer_begin(w, error), out);
    TRY_GOTO(gguf_writer_data(w, 1, 4, "abcdefgh", 8, error), out);
    TRY_GOTO(gguf_writer_data(w, 0, 34 * 5, "last block", 10, error), out);
    TRY_GOTO(gguf_writer_finish(w, error), out);
out:
    gguf_writer_destroy(w);
    return status;
}

static void check_all_kinds(const struct gguf_file *file)
{
    struct ds4_error error = {0};
    uint64_t u64, cursor = 0;
    uint32_t u32;
    float f32;
    bool yes;
    struct ds4_span s;
    int64_t i64;
    double f64;
    assert_int_equal(gguf_n_kvs(file), 11);
    assert_ok(gguf_get_u32(file, "u32", &u32, &error), error);
    assert_int_equal(u32, 7);
    assert_ok(gguf_get_u64(file, "u64", &u64, &error), error);
    assert_true(u64 == UINT64_MAX);
    assert_ok(gguf_get_f32(file, "f32", &f32, &error), error);
    assert_same_bits(f32, 0.1f);
    assert_ok(gguf_get_bool(file, "yes", &yes, &error), error);
    assert_true(yes);
    assert_ok(gguf_get_string(file, "string", &s, &error), error);
    assert_true(span_eq(s, SPAN("text")));
    assert_ok(gguf_item_i64(gguf_find(file, "u32s"), 1, &i64), error);
    assert_int_equal(i64, UINT32_MAX);
    assert_ok(gguf_item_i64(gguf_find(file, "i32s"), 2, &i64), error);
    assert_int_equal(i64, INT32_MIN);
    assert_ok(gguf_item_f64(gguf_find(file, "f32s"), 0, &f64), error);
    assert_true(f64 == 1.5);
    const struct gguf_value *strings = gguf_find(file, "strings");
    assert_int_equal(strings->count, 3);
    assert_true(gguf_next_string(strings, &cursor, &s) && span_eq(s, SPAN("one")));
    assert_true(gguf_next_string(strings, &cursor, &s) && s.len == 0);
    assert_true(gguf_next_string(strings, &cursor, &s) && span_eq(s, SPAN("a\0b")));
    assert_false(gguf_next_string(strings, &cursor, &s));
    cursor = 0;
    assert_false(gguf_next_string(gguf_find(file, "none"), &cursor, &s));
}

static void check_tensors(const struct gguf_file *file)
{
    assert_int_equal(gguf_n_tensors(file), 2);
    const struct gguf_tensor *a = gguf_tensor_find(file, SPAN("a")), *b = gguf_tensor_find(file, SPAN("b"));
    assert_ptr_equal(a, gguf_tensor_at(file, 0));
    assert_int_equal(a->size_bytes, 34 * 6);
    assert_int_equal(a->file_offset % 64, 0);
    assert_int_equal(b->file_offset, a->file_offset + 256);
    assert_int_equal(b->dims[0], 5);
    assert_int_equal(b->dims[3], 1);
    assert_memory_equal(b->data, "\0\0\0\0abcdefgh\0\0\0\0\0\0\0\0", 20);
    assert_memory_equal(a->data + 34 * 5, "last block\0\0", 12);
}

TEST(gguf_reads_back_every_kind_of_value_that_was_written)
{
    char path[512], copy_path[512];
    struct gguf_file *file, *copy;
    struct ds4_error error = {0};
    assert_ok(write_all_kinds(path_in_dir(path, "all.gguf"), &error), error);
    assert_ok(gguf_open(path, &file, &error), error);
    check_all_kinds(file);
    check_tensors(file);

    struct gguf_writer *w; /* and again through gguf_put_value */
    assert_ok(gguf_writer_create(path_in_dir(copy_path, "copy.gguf"), &w, &error), error);
    for (size_t i = 0; i < gguf_n_kvs(file); i++)
        gguf_put_value(w, gguf_kv_at(file, i)->key, &gguf_kv_at(file, i)->value);
    for (size_t i = 0; i < 2; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        gguf_put_tensor(w, i ? "b" : "a", t->type, t->n_dims, t->dims);
    }
    assert_ok(gguf_writer_begin(w, &error), error);
    for (size_t i = 0; i < 2; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        assert_int_equal(gguf_writer_tensor_bytes(w, i), t->size_bytes);
        assert_int_equal(gguf_writer_tensor_offset(w, i), t->file_offset);
        assert_ok(gguf_writer_data(w, i, 0, t->data, t->size_bytes, &error), error);
    }
    assert_ok(gguf_writer_finish(w, &error), error);
    gguf_writer_destroy(w);
    assert_ok(gguf_open(copy_path, &copy, &error), error);
    check_all_kinds(copy);
    assert_int_equal(gguf_file_bytes(copy), gguf_file_bytes(file));
    const struct gguf_tensor *first = gguf_tensor_at(file, 0), *again = gguf_tensor_at(copy, 0);
    assert_memory_equal(first->data - first->file_offset, again->data - again->file_offset, gguf_file_bytes(file));
    gguf_close(copy);
    gguf_close(file);
    test_dir_remove();
}

TEST(gguf_values_are_refused_by_key_when_their_type_or_range_is_wrong)
{
    struct gguf_build b = {0};
    struct gguf_file *file;
    struct ds4_error error = {0};
    build_head(&b, 0, 6);
    build_key(&b, "negative", GGUF_I32);
    build_u32(&b, (uint32_t)-5);
    build_key(&b, "wide", GGUF_U64);
    build_u64(&b, 1ull << 32);
    build_key(&b, "nan", GGUF_F32);
    build_u32(&b, 0x7FC00000);
    build_key(&b, "huge", GGUF_F64);
    build_u64(&b, 0x7FE0000000000000);
    build_key(&b, "array", GGUF_ARRAY);
    build_u32(&b, GGUF_U8);
    build_u64(&b, 2);
    buf_put(&b.bytes, "\1\2", 2);
    build_key(&b, "text", GGUF_STRING);
    build_string(&b, "12");
    assert_ok(gguf_open_memory((uint8_t *)b.bytes.text.ptr, b.bytes.text.len, NULL, &file, &error), error);
    uint64_t u64;
    uint32_t u32;
    float f32;
    bool yes;
    struct ds4_span s;
    int64_t i64;
    double f64;
#define REFUSED(call, words) \
    do { \
        error = (struct ds4_error){0}; \
        assert_status(call, DS4_ERR_FORMAT, error); \
        if (!strstr(error.message, words)) fail_msg("\"%s\" lacks \"%s\"", error.message, words); \
    } while (0)
    REFUSED(gguf_get_u64(file, "negative", &u64, &error), "byte 44: key negative: the value is not zero or more");
    REFUSED(gguf_get_u32(file, "wide", &u32, &error), "key wide: the value is not below 2^32");
    REFUSED(gguf_get_f32(file, "nan", &f32, &error), "key nan: the value is not a finite f32");
    REFUSED(gguf_get_f32(file, "huge", &f32, &error), "key huge: the value is not a finite f32");
    REFUSED(gguf_get_f32(file, "wide", &f32, &error), "key wide is u64, expected a real number");
    REFUSED(gguf_get_u32(file, "array", &u32, &error), "key array is an array of u8, expected a whole number");
    REFUSED(gguf_get_string(file, "array", &s, &error), "key array is an array of u8, expected a string");
    REFUSED(gguf_get_u64(file, "text", &u64, &error), "key text is string, expected a whole number");
    REFUSED(gguf_get_bool(file, "wide", &yes, &error), "key wide is u64, expected a bool");
#undef REFUSED
    error = (struct ds4_error){0};
    assert_int_equal(gguf_get_u32(file, "absent", &u32, &error), DS4_ERR_STATE);
    assert_int_equal(error.message[0], 0);
    assert_ok(gguf_item_i64(gguf_find(file, "array"), 1, &i64), error); /* one byte an item, as declared */
    assert_int_equal(i64, 2);
    assert_int_equal(gguf_item_i64(gguf_find(file, "array"), 2, &i64), DS4_ERR_FORMAT);
    assert_int_equal(gguf_item_i64(gguf_find(file, "text"), 0, &i64), DS4_ERR_FORMAT);
    assert_int_equal(gguf_item_f64(gguf_find(file, "array"), 0, &f64), DS4_ERR_FORMAT);
    gguf_close(file);
    buf_deinit(&b.bytes);
}

TEST(gguf_converts_numbers_by_the_type_that_is_declared)
{
    static const struct { uint32_t type; size_t n_bytes; uint64_t bits; int64_t wanted; } cases[] = {
        {GGUF_U8, 1, 0xFF, 255}, {GGUF_I8, 1, 0xFF, -1}, {GGUF_U16, 2, 0xFFFE, 65534}, {GGUF_I16, 2, 0xFFFE, -2},
        {GGUF_U32, 4, 0xFFFFFFFD, 4294967293}, {GGUF_I32, 4, 0xFFFFFFFD, -3}, {GGUF_I64, 8, UINT64_MAX, -1},
        {GGUF_U64, 8, INT64_MAX, INT64_MAX}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gguf_build b = {0};
        struct gguf_file *file;
        struct ds4_error error = {0};
        int64_t got;
        uint64_t u64;
        build_head(&b, 0, 2);
        build_key(&b, "scalar", cases[i].type);
        buf_put(&b.bytes, &cases[i].bits, cases[i].n_bytes);
        build_key(&b, "array", GGUF_ARRAY); /* the second of two items, so that the stride counts */
        build_u32(&b, cases[i].type);
        build_u64(&b, 2);
        build_zeros(&b, cases[i].n_bytes);
        buf_put(&b.bytes, &cases[i].bits, cases[i].n_bytes);
        assert_ok(gguf_open_memory((uint8_t *)b.bytes.text.ptr, b.bytes.text.len, NULL, &file, &error), error);
        assert_ok(gguf_item_i64(gguf_find(file, "array"), 1, &got), error);
        assert_true(got == cases[i].wanted);
        assert_int_equal(gguf_get_u64(file, "scalar", &u64, NULL), cases[i].wanted < 0 ? DS4_ERR_FORMAT : DS4_OK);
        if (cases[i].wanted >= 0) assert_true(u64 == (uint64_t)cases[i].wanted);
        gguf_close(file);
        buf_deinit(&b.bytes);
    }
    uint64_t too_large = UINT64_MAX;
    const struct gguf_value v = {GGUF_U64, GGUF_U64, 1, (const uint8_t *)&too_large, 8, 0};
    int64_t got;
    assert_int_equal(gguf_item_i64(&v, 0, &got), DS4_ERR_FORMAT);
    assert_string_equal(gguf_type_name(GGUF_I16), "i16");
    assert_string_equal(gguf_type_name((enum gguf_type)13), "unknown");
}

TEST(gguf_holes_take_no_space_even_in_a_file_of_80_gib)
{
    static const uint64_t experts[] = {4096, 2048, 256}, embedding[] = {4096, 129280};
    char path[512], name[32];
    struct gguf_writer *w;
    struct gguf_file *file;
    struct ds4_error error = {0};
    struct stat st;
    assert_ok(gguf_writer_create(path_in_dir(path, "big.gguf"), &w, &error), error);
    gguf_put_tensor(w, "token_embd.weight", QUANT_F16, 2, embedding);
    for (int i = 0; i < 155; i++) {
        (void)snprintf(name, sizeof name, "blk.%d.ffn_up_exps.weight", i);
        gguf_put_tensor(w, name, QUANT_IQ2_XXS, 3, experts);
    }
    assert_ok(gguf_writer_begin(w, &error), error);
    uint64_t last = gguf_writer_tensor_bytes(w, 155) - 4;
    assert_ok(gguf_writer_data(w, 155, last, "tail", 4, &error), error);
    assert_ok(gguf_writer_finish(w, &error), error);
    gguf_writer_destroy(w);
    assert_int_equal(stat(path, &st), 0);
    assert_true((uint64_t)st.st_size > 80ull << 30 && (uint64_t)st.st_size < FLASH_FILE_BYTES + (8ull << 30));
    assert_true(st.st_blocks * 512 < 1 << 20);
    assert_ok(gguf_open(path, &file, &error), error);
    const struct gguf_tensor *t = gguf_tensor_find(file, SPAN("blk.154.ffn_up_exps.weight"));
    assert_int_equal(t->size_bytes, 256ull * 2048 * 4096 / 256 * 66);
    assert_memory_equal(t->data + last - 4, "\0\0\0\0tail", 8);
    gguf_close(file);
    test_dir_remove();
}

TEST(gguf_an_unfinished_file_leaves_nothing_behind)
{
    char path[512], part[512];
    struct gguf_writer *w;
    struct ds4_error error = {0};
    assert_ok(gguf_writer_create(path_in_dir(path, "x.gguf"), &w, &error), error);
    path_in_dir(part, "x.gguf.part");
    assert_int_equal(access(part, F_OK), 0);
    gguf_put_u32(w, "k", 1);
    assert_ok(gguf_writer_begin(w, &error), error);
    assert_int_not_equal(access(path, F_OK), 0);
    gguf_writer_destroy(w);
    assert_int_not_equal(access(part, F_OK), 0);
    assert_int_not_equal(access(path, F_OK), 0);
    test_dir_remove();
}

/* One mistake, then a put that is right: begin must still report the mistake. */
#define MISTAKE(words, put) \
    do { \
        struct gguf_writer *w; \
        struct ds4_error error = {0}; \
        assert_ok(gguf_writer_create(path, &w, &error), error); \
        gguf_put_u32(w, "k", 1); \
        put; \
        gguf_put_u32(w, "later", 1); \
        assert_int_not_equal(gguf_writer_begin(w, &error), DS4_OK); \
        if (!strstr(error.message, words)) fail_msg("\"%s\" lacks \"%s\"", error.message, words); \
        gguf_writer_destroy(w); \
    } while (0)

TEST(gguf_writer_remembers_the_first_mistake)
{
    char path[512];
    path_in_dir(path, "x.gguf");
    MISTAKE("twice \"k\"", gguf_put_bool(w, "k", true));
    MISTAKE("empty name", gguf_put_u64(w, "", 1));
    MISTAKE("bad alignment", gguf_put_u32(w, "general.alignment", 48));
    MISTAKE("shape of \"t\"", gguf_put_tensor(w, "t", QUANT_Q8_0, 1, (const uint64_t[]){31}));
    MISTAKE("shape of \"t\"", gguf_put_tensor(w, "t", 4, 1, (const uint64_t[]){32}));
    MISTAKE("shape of \"t\"", gguf_put_tensor(w, "t", QUANT_F32, 2, (const uint64_t[]){1ull << 40, 1ull << 40}));
    MISTAKE("shape of \"t\"", gguf_put_tensor(w, "t", QUANT_F32, 0, NULL));
    MISTAKE("larger than a file", for (int i = 0; i < 4; i++)
            gguf_put_tensor(w, (const char *[]){"a", "b", "c", "d"}[i], QUANT_F32, 1, (const uint64_t[]){1ull << 60}));
    test_dir_remove();
}

TEST(gguf_writer_takes_data_only_inside_a_tensor)
{
    char path[512];
    struct gguf_writer *w;
    struct ds4_error error = {0};
    assert_ok(gguf_writer_create(path_in_dir(path, "x.gguf"), &w, &error), error);
    gguf_put_tensor(w, "b", QUANT_F32, 1, dims_b);
    assert_int_equal(gguf_writer_data(w, 0, 0, "abcd", 4, NULL), DS4_ERR_STATE);
    assert_int_equal(gguf_writer_finish(w, NULL), DS4_ERR_STATE);
    assert_ok(gguf_writer_begin(w, &error), error);
    assert_int_equal(gguf_writer_begin(w, NULL), DS4_ERR_STATE);
    assert_ok(gguf_writer_data(w, 0, 16, "abcd", 4, &error), error);
    assert_int_equal(gguf_writer_data(w, 0, 17, "abcd", 4, NULL), DS4_ERR_STATE);
    assert_int_equal(gguf_writer_data(w, 0, UINT64_MAX - 1, "abcd", 4, NULL), DS4_ERR_STATE);
    assert_int_equal(gguf_writer_data(w, 1, 0, "abcd", 4, NULL), DS4_ERR_STATE);
    assert_ok(gguf_writer_finish(w, &error), error);
    assert_int_equal(gguf_writer_data(w, 0, 0, "abcd", 4, NULL), DS4_ERR_STATE);
    gguf_writer_destroy(w);
    assert_int_equal(access(path, F_OK), 0);
    test_dir_remove();
}

/* ---- split files */

struct part {
    uint16_t no, count;
    uint32_t n_tensors;
    const char *tensor;
};

static void write_part(const char *name, const struct part *p)
{
    char path[512];
    struct gguf_build b = {0};
    build_head(&b, p->tensor ? 1 : 0, 3);
    build_kv_u16(&b, "split.no", p->no);
    build_kv_u16(&b, "split.count", p->count);
    build_key(&b, "split.tensors.count", GGUF_I32);
    build_u32(&b, p->n_tensors);
    if (p->tensor) {
        build_tensor(&b, p->tensor, QUANT_F32, 1, (const uint64_t[]){8}, 0);
        build_pad(&b, 32);
        for (uint32_t i = 0; i < 8; i++) build_u32(&b, p->no);
    }
    write_bytes(path_in_dir(path, name), &b);
    buf_deinit(&b.bytes);
}

static void expect_split(const struct part parts[3], enum ds4_status wanted, const char *words)
{
    char path[512];
    struct gguf_file *file;
    struct ds4_error error = {0};
    write_part("m-00001-of-00003.gguf", &parts[0]);
    write_part("m-00002-of-00003.gguf", &parts[1]);
    write_part("m-00003-of-00003.gguf", &parts[2]);
    assert_status(gguf_open(path_in_dir(path, "m-00001-of-00003.gguf"), &file, &error), wanted, error);
    if (wanted != DS4_OK) {
        if (!strstr(error.message, words)) fail_msg("\"%s\" lacks \"%s\"", error.message, words);
        test_dir_remove();
        return;
    }
    assert_int_equal(gguf_n_shards(file), 3);
    assert_int_equal(gguf_n_tensors(file), 2);
    for (uint32_t i = 1; i < 3; i++) {
        const struct gguf_tensor *t = gguf_tensor_find(file, i == 1 ? SPAN("a") : SPAN("b"));
        uint8_t from_disk[32];
        assert_int_equal(t->shard_i, i);
        assert_int_equal(load_u32(t->data), i);
        assert_ok(file_read_at(gguf_shard_fd(file, i), gguf_shard_path(file, i), t->file_offset, from_disk, 32, &error),
                  error);
        assert_memory_equal(from_disk, t->data, 32);
    }
    gguf_close(file);
    test_dir_remove();
}

TEST(gguf_joins_the_parts_of_a_split_file)
{
    expect_split((const struct part[]){{0, 3, 2, NULL}, {1, 3, 2, "a"}, {2, 3, 2, "b"}}, DS4_OK, "");
}

TEST(gguf_refuses_parts_that_do_not_belong_together)
{
    expect_split((const struct part[]){{0, 3, 2, NULL}, {2, 3, 2, "a"}, {1, 3, 2, "b"}}, DS4_ERR_FORMAT,
                 "says it is part 3 of 3 with 2 tensors in all, not part 2 of 3");
    expect_split((const struct part[]){{0, 3, 2, NULL}, {1, 4, 2, "a"}, {2, 3, 2, "b"}}, DS4_ERR_FORMAT, "part 2 of 4");
    expect_split((const struct part[]){{0, 3, 2, NULL}, {1, 3, 2, "a"}, {2, 3, 2, "a"}}, DS4_ERR_FORMAT,
                 "tensor a is also in");
    expect_split((const struct part[]){{0, 3, 3, NULL}, {1, 3, 3, "a"}, {2, 3, 3, "b"}}, DS4_ERR_FORMAT,
                 "hold 2 tensors, but split.tensors.count is 3");
    expect_split((const struct part[]){{1, 3, 2, NULL}, {1, 3, 2, "a"}, {2, 3, 2, "b"}}, DS4_ERR_FORMAT,
                 "is part 2 of 3; open the first part");
    expect_split((const struct part[]){{0, 300, 2, NULL}, {1, 3, 2, "a"}, {2, 3, 2, "b"}}, DS4_ERR_LIMIT,
                 "split.count is 300, more than 256");
    expect_split((const struct part[]){{0, 2, 2, NULL}, {1, 3, 2, "a"}, {2, 3, 2, "b"}}, DS4_ERR_FORMAT,
                 "not named ...-00001-of-00002.gguf");
}

TEST(gguf_names_the_part_that_is_missing)
{
    char path[512];
    struct gguf_file *file;
    struct ds4_error error = {0};
    write_part("m-00001-of-00002.gguf", &(const struct part){0, 2, 1, NULL});
    assert_status(gguf_open(path_in_dir(path, "m-00001-of-00002.gguf"), &file, &error), DS4_ERR_IO, error);
    assert_non_null(strstr(error.message, "m-00002-of-00002.gguf"));
    test_dir_remove();
}

/* ---- files that change underfoot (row 30) */

TEST(gguf_notices_files_that_are_cut_touched_or_replaced)
{
    char path[512], other[512];
    struct gguf_file *file;
    struct gguf_build b = {0};
    struct ds4_error error = {0};
    build_good(&b);
    for (int change = 0; change < 4; change++) {
        write_bytes(path_in_dir(path, "m.gguf"), &b);
        write_bytes(path_in_dir(other, "other.gguf"), &b);
        error = (struct ds4_error){0};
        assert_ok(gguf_open(path, &file, &error), error);
        assert_ok(gguf_check_unchanged(file, &error), error);
        const struct timespec times[2] = {{1, 0}, {1, 0}};
        if (change == 0) assert_int_equal(truncate(path, 100), 0);
        else if (change == 1) assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
        else if (change == 2) assert_int_equal(rename(other, path), 0);
        else assert_int_equal(unlink(path), 0);
        assert_status(gguf_check_unchanged(file, &error), change == 3 ? DS4_ERR_IO : DS4_ERR_STATE, error);
        assert_non_null(strstr(error.message, "m.gguf"));
        gguf_close(file);
    }
    buf_deinit(&b.bytes);
    test_dir_remove();
}

TEST(gguf_a_file_cut_short_under_its_mapping_ends_the_program_with_74)
{
    char path[512], said[256] = "";
    int pipes[2], child_status;
    struct gguf_build b = {0};
    build_good(&b);
    build_zeros(&b, 64 << 10);
    write_bytes(path_in_dir(path, "m.gguf"), &b);
    buf_deinit(&b.bytes);
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        struct gguf_file *file;
        (void)dup2(pipes[1], STDERR_FILENO);
        if (gguf_open(path, &file, NULL) != DS4_OK) _exit(1);
        gguf_catch_sigbus();
        if (truncate(path, 0) != 0) _exit(2);
        volatile uint8_t byte = *gguf_tensor_at(file, 0)->data;
        _exit(byte ? 3 : 4);
    }
    (void)close(pipes[1]);
    assert_int_equal(waitpid(child, &child_status, 0), child);
    assert_true(read(pipes[0], said, sizeof said - 1) > 0);
    (void)close(pipes[0]);
    assert_true(WIFEXITED(child_status));
    assert_int_equal(WEXITSTATUS(child_status), 74);
    assert_non_null(strstr(said, "cut short"));
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
    test_dir_remove();
}

TEST(gguf_names_a_path_that_cannot_be_opened)
{
    char path[512];
    struct gguf_file *file;
    struct ds4_error error = {0};
    assert_status(gguf_open(path_in_dir(path, "none.gguf"), &file, &error), DS4_ERR_IO, error);
    assert_non_null(strstr(error.message, "none.gguf"));
    error = (struct ds4_error){0};
    assert_status(gguf_open(test_dir(), &file, &error), DS4_ERR_IO, error);
    error = (struct ds4_error){0};
    write_bytes(path_in_dir(path, "empty.gguf"), &(struct gguf_build){0});
    assert_status(gguf_open(path, &file, &error), DS4_ERR_FORMAT, error);
    assert_non_null(strstr(error.message, "empty"));
    test_dir_remove();
}

/* ---- memory that ends */

static bool fail_nth(void *user, uint64_t number)
{
    (void)number;
    uint64_t *left = user;
    return *left > 0 && --*left == 0;
}

TEST(gguf_survives_every_allocation_that_fails)
{
    char path[512];
    path_in_dir(path, "all.gguf");
    const char *first = "m-00001-of-00003.gguf";
    write_part(first, &(const struct part){0, 3, 2, NULL});
    write_part("m-00002-of-00003.gguf", &(const struct part){1, 3, 2, "a"});
    write_part("m-00003-of-00003.gguf", &(const struct part){2, 3, 2, "b"});
    char split_path[512];
    path_in_dir(split_path, first);
    int64_t live = mem_live();
    for (int scenario = 0; scenario < 3; scenario++) {
        enum ds4_status status = DS4_ERR_NOMEM;
        uint64_t n = 0;
        while (status != DS4_OK) {
            uint64_t left = ++n;
            struct gguf_file *file = NULL;
            struct ds4_error error = {0};
            mem_test_hook(fail_nth, &left);
            if (scenario == 0) status = write_all_kinds(path, &error);
            else status = gguf_open(scenario == 1 ? path : split_path, &file, &error);
            mem_test_hook(NULL, NULL);
            if (status != DS4_OK) {
                assert_status(status, DS4_ERR_NOMEM, error);
                assert_int_not_equal(error.message[0], 0);
            }
            gguf_close(file);
            assert_int_equal(mem_live(), live);
            assert_true(n < 200);
        }
        assert_true(n > 4);
    }
    test_dir_remove();
}

int main(void)
{
    return RUN_TESTS(T(gguf_reads_back_every_kind_of_value_that_was_written),
                     T(gguf_values_are_refused_by_key_when_their_type_or_range_is_wrong),
                     T(gguf_converts_numbers_by_the_type_that_is_declared),
                     T(gguf_holes_take_no_space_even_in_a_file_of_80_gib),
                     T(gguf_an_unfinished_file_leaves_nothing_behind), T(gguf_writer_remembers_the_first_mistake),
                     T(gguf_writer_takes_data_only_inside_a_tensor), T(gguf_joins_the_parts_of_a_split_file),
                     T(gguf_refuses_parts_that_do_not_belong_together), T(gguf_names_the_part_that_is_missing),
                     T(gguf_notices_files_that_are_cut_touched_or_replaced),
                     T(gguf_a_file_cut_short_under_its_mapping_ends_the_program_with_74),
                     T(gguf_names_a_path_that_cannot_be_opened), T(gguf_survives_every_allocation_that_fails));
}
