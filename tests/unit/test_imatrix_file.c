/* test_imatrix_file.c - importance files: what is written is read again, in the order of look-up that is promised; and
 * files that lie. */
#include "lib/test.h"

#include <math.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/file.h"
#include "gguf/gguf.h"
#include "quant/quant.h"
#include "tools/imatrix_file.h"

static void put_i32(struct buf *b, int32_t v) { buf_put(b, &v, sizeof v); }

static void put_entry(struct buf *b, const char *name, int32_t n_calls, const float *values, int32_t n)
{
    put_i32(b, (int32_t)strlen(name));
    buf_put_text(b, name);
    put_i32(b, n_calls);
    put_i32(b, n);
    buf_put(b, values, (size_t)n * sizeof *values);
}

static enum ds4_status open_bytes(const struct buf *b, struct imatrix_file **file, struct ds4_error *error)
{
    char path[4096];
    int fd;
    (void)snprintf(path, sizeof path, "%s/a.dat", test_dir());
    assert_ok(file_open(path, FILE_CREATE_TRUNCATE, &fd, error), *error);
    assert_ok(file_write(fd, path, b->text.ptr ? b->text.ptr : "", b->text.len, error), *error);
    file_close(fd);
    return imatrix_open(path, file, error);
}

static const float numbers[] = {1, 2, 3, 4, 5, 6};

static void look(const struct imatrix_file *file, const char *name, const char *official, uint32_t expert,
                 float first_wanted)
{
    struct ds4_error error = {0};
    float values[2];
    bool found;
    assert_ok(imatrix_look_up(file, name, official, expert, 3, 2, values, &found, &error), error);
    assert_int_equal(found, first_wanted != 0);
    if (found) assert_true(values[0] == first_wanted);
}

TEST(importance_is_looked_up_by_expert_then_by_stack_then_by_the_other_name)
{
    struct buf b = {0};
    struct imatrix_file *file;
    struct ds4_error error = {0};
    float values[2];
    bool found;
    put_i32(&b, 6);
    put_entry(&b, "t", 1, numbers, 6);           /* a slice for each expert */
    put_entry(&b, "t.expert.1", 2, numbers + 3, 2); /* divided by its calls */
    put_entry(&b, "t.expert_2", 0, numbers, 2);
    put_entry(&b, "one", 1, numbers + 4, 2);     /* for all experts */
    put_entry(&b, "hf", 1, numbers + 2, 2);
    put_entry(&b, "odd", 1, numbers, 5);
    put_i32(&b, 42);
    put_i32(&b, 4);
    buf_put_text(&b, "text");
    assert_ok(open_bytes(&b, &file, &error), error);
    assert_int_equal(imatrix_count(file), 6);
    assert_int_equal(imatrix_chunks(file), 42);
    assert_true(span_eq(imatrix_dataset(file), SPAN("text")));
    look(file, "t", "", 0, 1);
    look(file, "t", "", 1, 2);
    look(file, "t", "", 2, 1);
    look(file, "one", "hf", 2, 5);
    look(file, "absent", "hf", 2, 3);
    look(file, "absent", "", 2, 0);
    assert_int_equal(imatrix_look_up(file, "odd", "", 0, 3, 2, values, &found, &error), DS4_ERR_FORMAT);
    assert_non_null(strstr(error.message, "5 values for 2 columns"));
    imatrix_close(file);
    buf_deinit(&b);
    test_dir_remove();
}

TEST(importance_that_is_written_is_read_again)
{
    char path[4096];
    struct imatrix_writer w;
    struct imatrix_file *file;
    struct ds4_error error = {0};
    (void)snprintf(path, sizeof path, "%s/w.dat", test_dir());
    assert_ok(imatrix_write_begin(&w, path, 1, &error), error);
    assert_ok(imatrix_write_entry(&w, &(struct imatrix_entry){"t", numbers, 6}, &error), error);
    assert_ok(imatrix_write_end(&w, true, 7, "words", &error), error);
    assert_ok(imatrix_open(path, &file, &error), error);
    look(file, "t", "", 2, 5);
    assert_int_equal(imatrix_chunks(file), 7);
    imatrix_close(file);
    assert_ok(imatrix_write_begin(&w, path, 1, &error), error); /* given up: the earlier file stays */
    assert_ok(imatrix_write_end(&w, false, 0, "", &error), error);
    assert_ok(imatrix_open(path, &file, &error), error);
    imatrix_close(file);
    test_dir_remove();
}

static void refuse(struct buf *b, const char *words)
{
    struct imatrix_file *file = NULL;
    struct ds4_error error = {0};
    assert_int_equal(open_bytes(b, &file, &error), DS4_ERR_FORMAT);
    assert_null(file);
    if (!strstr(error.message, words)) fail_msg("\"%s\" lacks \"%s\"", error.message, words);
    buf_deinit(b);
    *b = (struct buf){0};
}

TEST(importance_files_that_lie_are_refused)
{
    static const float bad[] = {NAN, INFINITY, -1};
    struct buf b = {0};
    refuse(&b, "too early");
    put_i32(&b, 0), refuse(&b, "impossible number");
    put_i32(&b, -1), refuse(&b, "impossible number");
    put_i32(&b, INT32_MAX), refuse(&b, "impossible number");
    put_i32(&b, 50000), refuse(&b, "more entries than");
    for (int i = 0; i < 3; i++) put_i32(&b, 1), put_entry(&b, "t", 1, &bad[i], 1), refuse(&b, "not finite or is neg");
    put_i32(&b, 1), put_entry(&b, "", 1, numbers, 6), refuse(&b, "impossible length");
    put_i32(&b, 1), put_i32(&b, -5), put_entry(&b, "t", 1, numbers, 6), refuse(&b, "impossible length");
    put_i32(&b, 1), put_i32(&b, 4097), put_entry(&b, "t", 1, numbers, 6), refuse(&b, "impossible length");
    put_i32(&b, 1), put_i32(&b, 1000), put_entry(&b, "t", 1, numbers, 6), refuse(&b, "too early");
    put_i32(&b, 1), put_entry(&b, "long enough", 1, numbers, 0), refuse(&b, "without values");
    put_i32(&b, 1), put_i32(&b, 1), buf_put_text(&b, "t"), put_i32(&b, 1), put_i32(&b, INT32_MAX), put_i32(&b, 0),
        refuse(&b, "more values than");
    put_i32(&b, 2), put_entry(&b, "t", 1, numbers, 3), put_entry(&b, "t", 1, numbers, 3), refuse(&b, "twice");
    put_i32(&b, 1), put_entry(&b, "t", 1, numbers, 6), put_i32(&b, 1), put_i32(&b, 0), put_i32(&b, 0),
        refuse(&b, "behind the end");
    put_i32(&b, 1), put_entry(&b, "t", 1, numbers, 6), put_i32(&b, 1), refuse(&b, "too early");
    test_dir_remove();
}

struct sums { /* what is written of a GGUF file of importance, right unless a test changes it */
    const char *type, *counts_name;
    uint32_t counts_type;
    uint64_t n_counts;
    float value;
};

static enum ds4_status open_sums(const struct sums *s, struct imatrix_file **file, struct ds4_error *error)
{
    static const float counts[] = {2, 0, 4};
    const uint64_t dims[] = {2, 3}, count_dims[] = {1, s->n_counts};
    const struct ds4_span datasets[] = {SPAN("words"), SPAN("more")};
    float values[] = {2, 4, 6, 8, 10, s->value};
    char path[4096];
    struct gguf_writer *w;
    (void)snprintf(path, sizeof path, "%s/a.gguf", test_dir());
    assert_ok(gguf_writer_create(path, &w, error), *error);
    gguf_put_string(w, "general.type", span_from(s->type));
    gguf_put_array_string(w, "imatrix.datasets", datasets, 2);
    gguf_put_u32(w, "imatrix.chunk_count", 42);
    gguf_put_tensor(w, "t.in_sum2", QUANT_F32, 2, dims);
    gguf_put_tensor(w, s->counts_name, s->counts_type, 2, count_dims);
    assert_ok(gguf_writer_begin(w, error), *error);
    assert_ok(gguf_writer_data(w, 0, 0, values, sizeof values, error), *error);
    assert_ok(gguf_writer_data(w, 1, 0, counts, gguf_writer_tensor_bytes(w, 1) < 12 ? 4 : 12, error), *error);
    assert_ok(gguf_writer_finish(w, error), *error);
    gguf_writer_destroy(w);
    return imatrix_open(path, file, error);
}

TEST(importance_in_a_gguf_file_is_sums_over_counts)
{
    struct sums s = {"imatrix", "t.counts", QUANT_F32, 3, 12};
    struct imatrix_file *file;
    struct ds4_error error = {0};
    float values[3];
    bool found;
    assert_ok(open_sums(&s, &file, &error), error);
    assert_int_equal(imatrix_count(file), 1);
    assert_int_equal(imatrix_chunks(file), 42);
    assert_true(span_eq(imatrix_dataset(file), SPAN("words")));
    look(file, "t", "", 0, 1);
    look(file, "t", "", 1, 1); /* never seen: 6 and 8 do not count */
    look(file, "t", "", 2, 2.5F);
    look(file, "absent", "t", 2, 2.5F);
    assert_int_equal(imatrix_look_up(file, "t", "", 0, 2, 3, values, &found, &error), DS4_ERR_FORMAT);
    imatrix_close(file);
    test_dir_remove();
}

TEST(gguf_files_of_importance_that_lie_are_refused)
{
    static const struct {
        struct sums s;
        const char *words;
    } cases[] = {
        {{"model", "t.counts", QUANT_F32, 3, 12}, "not \"imatrix\""},
        {{"imatrix", "u.counts", QUANT_F32, 3, 12}, "without their counts"},
        {{"imatrix", "t.counts", QUANT_F16, 6, 12}, "must be F32"},
        {{"imatrix", "t.counts", QUANT_F32, 4, 12}, "must be F32"},
        {{"imatrix", "t.counts", QUANT_F32, 3, -1}, "not finite or is neg"},
        {{"imatrix", "t.counts", QUANT_F32, 3, NAN}, "not finite or is neg"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct imatrix_file *file = NULL;
        struct ds4_error error = {0};
        assert_int_equal(open_sums(&cases[i].s, &file, &error), DS4_ERR_FORMAT);
        assert_null(file);
        if (!strstr(error.message, cases[i].words)) fail_msg("\"%s\" lacks \"%s\"", error.message, cases[i].words);
    }
    test_dir_remove();
}

int main(void)
{
    return RUN_TESTS(T(importance_in_a_gguf_file_is_sums_over_counts),
                     T(gguf_files_of_importance_that_lie_are_refused),
                     T(importance_is_looked_up_by_expert_then_by_stack_then_by_the_other_name),
                     T(importance_that_is_written_is_read_again), T(importance_files_that_lie_are_refused));
}
