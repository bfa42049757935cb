/* test_term.c - text made harmless for terminals, sizes for people, and buffered output with a sticky failure. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/sink.h"
#include "base/term.h"
#include "base/utf8.h"
#include "lib/test.h"

static void check_safe(const char *input, size_t len, const char *wanted)
{
    struct buf out = {0};
    term_put_safe(&out, span_make(input, len));
    buf_put_byte(&out, 0);
    assert_string_equal(out.text.ptr, wanted);
    assert_int_equal(term_is_safe(span_make(input, len)), strlen(wanted) == len && memcmp(input, wanted, len) == 0);
    buf_deinit(&out);
}

TEST(control_characters_become_pictures_of_themselves)
{
    check_safe("a\x1b[2Jb", 6, "a\xE2\x90\x9B[2Jb");
    check_safe("\x07\x08\x7f", 3, "\xE2\x90\x87\xE2\x90\x88\xE2\x90\xA1");
    check_safe("tab\tline\n", 9, "tab\tline\n");
    check_safe("dos\r\nline", 9, "dos\nline");
    check_safe("over\rwrite", 10, "over\xE2\x90\x8Dwrite");
    check_safe("\xC2\x9B" "31m", 5, "\xEF\xBF\xBD" "31m");
    check_safe("\x9B" "31m", 4, "\xEF\xBF\xBD" "31m");
    check_safe("caff\xC3\xA8 \xF0\x9F\x99\x82", 11, "caff\xC3\xA8 \xF0\x9F\x99\x82");
    check_safe("\0", 1, "\xE2\x90\x80");
}

TEST(no_byte_string_lets_a_control_character_through)
{
    struct buf out = {0};
    for (uint32_t a = 0; a < 256; a++) {
        for (uint32_t b = 0; b < 256; b++) {
            char pair[2] = {(char)a, (char)b};
            buf_clear(&out);
            term_put_safe(&out, span_make(pair, 2));
            assert_true(utf8_valid(buf_span(&out)));
            for (size_t i = 0; i < out.text.len;) {
                size_t taken;
                uint32_t scalar = utf8_next(out.text.ptr + i, out.text.len - i, &taken);
                assert_true(scalar == '\n' || scalar == '\t' || (scalar >= 0x20 && scalar < 0x7F) || scalar >= 0xA0);
                i += taken;
            }
        }
    }
    buf_deinit(&out);
}

TEST(sizes_are_shown_with_three_digits_at_most)
{
    char out[16];
    assert_string_equal(term_bytes(0, out), "0 B");
    assert_string_equal(term_bytes(999, out), "999 B");
    assert_string_equal(term_bytes(1000, out), "1.0 KiB");
    assert_string_equal(term_bytes(1536, out), "1.5 KiB");
    assert_string_equal(term_bytes(102400, out), "100 KiB");
    assert_string_equal(term_bytes(1023 * 1024, out), "1.0 MiB");
    assert_string_equal(term_bytes((uint64_t)81 << 30, out), "81.0 GiB");
    assert_string_equal(term_bytes(UINT64_MAX, out), "16.0 EiB");
}

/* ---- sink ---- */

static size_t written, room;

static ssize_t write_into_room(int fd, const void *bytes, size_t n)
{
    (void)fd, (void)bytes;
    if (room == 0) {
        errno = ENOSPC;
        return -1;
    }
    if (n > room) n = room;
    if (n > 7) n = 7; /* short writes */
    room -= n;
    written += n;
    return (ssize_t)n;
}

TEST(a_full_disk_is_noticed_wherever_it_strikes)
{
    struct file_ops ops = file_ops_system;
    ops.write = write_into_room;
    for (size_t limit = 0; limit <= 40; limit++) {
        struct sink s;
        struct ds4_error error = {0};
        file_test_hook(&ops);
        written = 0;
        room = limit;
        sink_init_fd(&s, 1, "the output");
        sink_put_text(&s, "twenty bytes of text");
        if (limit % 2) (void)sink_flush(&s);
        sink_printf(&s, "%d and %s", 12345, "ten more..");
        enum ds4_status status = sink_close(&s, &error);
        file_test_hook(NULL);
        assert_int_equal(status, limit >= 40 ? DS4_OK : DS4_ERR_IO);
        assert_int_equal(written, limit < 40 ? limit : 40);
        if (limit < 40) assert_non_null(strstr(error.message, "cannot write to the output: No space"));
    }
}

TEST(numbers_in_json_give_back_the_same_float)
{
    static const float values[] = {0, -0.0f, 1, 0.1f, 1e-45f, 3.40282347e38f, -1.17549435e-38f, 16777217.0f,
                                   0.333333343f};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct sink s;
        sink_init_fd(&s, 1, "x");
        sink_put_json_f32(&s, values[i]);
        buf_put_byte(&s.pending, 0);
        float back = 0;
        assert_int_equal(sscanf(s.pending.text.ptr, "%f", &back), 1);
        assert_same_bits(back, values[i]);
        buf_deinit(&s.pending);
    }
    struct sink s;
    sink_init_fd(&s, 1, "x");
    sink_put_json_f32(&s, NAN);
    sink_put_json_f32(&s, -INFINITY);
    assert_true(span_eq(buf_span(&s.pending), SPAN("nullnull")));
    buf_deinit(&s.pending);
}

int main(void)
{
    return RUN_TESTS(T(control_characters_become_pictures_of_themselves),
                     T(no_byte_string_lets_a_control_character_through), T(sizes_are_shown_with_three_digits_at_most),
                     T(a_full_disk_is_noticed_wherever_it_strikes), T(numbers_in_json_give_back_the_same_float));
}
