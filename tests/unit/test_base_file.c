/* test_base_file.c - the file door: whole reads and writes whatever the system does with them, first causes, and what
 * it refuses to open. The faults come from a table of system calls that stands in for the real one. */
#include "lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

static char path[256], other[256];

static void use_dir(void)
{
    (void)snprintf(path, sizeof path, "%s/file", test_dir());
    (void)snprintf(other, sizeof other, "%s/other", test_dir());
    (void)unlink(path);
    (void)unlink(other);
}

/* ---- a system that moves at most two bytes a call and is interrupted every other time ---- */

static unsigned n_calls;
static bool interrupted(void)
{
    errno = EINTR;
    return n_calls++ % 2 == 0;
}
static ssize_t slow_pread(int fd, void *buf, size_t n, off_t at)
{
    return interrupted() ? -1 : pread(fd, buf, n < 2 ? n : 2, at);
}
static ssize_t slow_read(int fd, void *buf, size_t n) { return interrupted() ? -1 : read(fd, buf, n < 2 ? n : 2); }
static ssize_t slow_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    return interrupted() ? -1 : pwrite(fd, buf, n < 2 ? n : 2, at);
}
static ssize_t slow_write(int fd, const void *buf, size_t n)
{
    return interrupted() ? -1 : write(fd, buf, n < 2 ? n : 2);
}
static int slow_open(const char *name, int flags, mode_t mode) { return interrupted() ? -1 : open(name, flags, mode); }
static int slow_sync(int fd) { return interrupted() ? -1 : fdatasync(fd); }

static struct file_ops slow_system(void)
{
    struct file_ops ops = file_ops_system;
    ops.open = slow_open;
    ops.read = slow_read;
    ops.pread = slow_pread;
    ops.pwrite = slow_pwrite;
    ops.write = slow_write;
    ops.fdatasync = slow_sync;
    return ops;
}

static void write_and_read_back(void)
{
    struct ds4_error error = {0};
    int fd;
    char got[12] = {0};
    assert_ok(file_open(path, FILE_CREATE_NEW, &fd, &error), error);
    assert_ok(file_write_at(fd, path, 0, "hello ", 6, &error), error);
    assert_ok(file_write_at(fd, path, 6, "world", 5, &error), error);
    assert_ok(file_sync(fd, path, &error), error);
    assert_ok(file_read_at(fd, path, 3, got, 6, &error), error);
    assert_string_equal(got, "lo wor");
    file_close(fd);
    struct ds4_text text = {0};
    assert_ok(file_read_all(path, 11, &text, &error), error);
    assert_ok(file_read_all(path, 11, &text, &error), error);
    assert_int_equal(text.len, 22);
    assert_memory_equal(text.ptr, "hello worldhello world", 22);
    ds4_text_free(&text);
}

TEST(file_reads_back_what_was_written)
{
    use_dir();
    write_and_read_back();
}

TEST(file_survives_short_transfers_and_interruptions)
{
    use_dir();
    struct file_ops ops = slow_system();
    file_test_hook(&ops);
    write_and_read_back();
    int fd;
    struct ds4_error error = {0};
    assert_ok(file_open(other, FILE_OUTPUT, &fd, &error), error);
    assert_ok(file_write(fd, other, "stream of bytes", 15, &error), error);
    file_close(fd);
    struct ds4_text text = {0};
    assert_ok(file_read_all(other, 15, &text, &error), error);
    assert_memory_equal(text.ptr, "stream of bytes", 15);
    ds4_text_free(&text);
    file_test_hook(NULL);
}

/* ---- a system whose n-th call fails ---- */

static int countdown, fault;
static bool faulty(void)
{
    errno = fault;
    return --countdown == 0;
}
static int faulty_open(const char *name, int flags, mode_t mode) { return faulty() ? -1 : open(name, flags, mode); }
static ssize_t faulty_read(int fd, void *buf, size_t n) { return faulty() ? -1 : read(fd, buf, n); }
static ssize_t faulty_pread(int fd, void *buf, size_t n, off_t at) { return faulty() ? -1 : pread(fd, buf, n, at); }
static ssize_t faulty_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    return faulty() ? -1 : pwrite(fd, buf, n, at);
}
static int faulty_sync(int fd) { return faulty() ? -1 : fdatasync(fd); }
static int faulty_rename(const char *from, const char *to) { return faulty() ? -1 : rename(from, to); }
static int faulty_unlink(const char *name) { return faulty() ? -1 : unlink(name); }
static int faulty_size(int fd, uint64_t *size, uint64_t *mtime_ns, uint64_t *inode)
{
    return faulty() ? -1 : file_ops_system.fstat_size(fd, size, mtime_ns, inode);
}

static enum ds4_status use_every_call(int *fd, struct ds4_text *text, struct ds4_error *error)
{
    char byte;
    struct file_id id;
    TRY(file_open(path, FILE_CREATE_TRUNCATE, fd, error));
    TRY(file_write_at(*fd, path, 0, "x", 1, error));
    TRY(file_sync(*fd, path, error));
    TRY(file_read_at(*fd, path, 0, &byte, 1, error));
    TRY(file_identity(*fd, path, &id, error));
    TRY(file_read_all(path, 10, text, error));
    TRY(file_rename(path, other, error));
    return file_unlink(other, error);
}

TEST(file_reports_the_first_cause_wherever_a_call_fails)
{
    static const int faults[] = {EIO, ENOSPC, EDQUOT, EACCES, EROFS, ENFILE};
    use_dir();
    struct file_ops ops = file_ops_system;
    ops.open = faulty_open;
    ops.read = faulty_read;
    ops.pread = faulty_pread;
    ops.pwrite = faulty_pwrite;
    ops.fdatasync = faulty_sync;
    ops.rename = faulty_rename;
    ops.unlink = faulty_unlink;
    ops.fstat_size = faulty_size;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        enum ds4_status status = DS4_ERR_IO;
        for (int n = 1; status != DS4_OK; n++) {
            struct ds4_error error = {0};
            struct ds4_text text = {0};
            int fd = -1;
            int64_t live = mem_live();
            countdown = n;
            fault = faults[i];
            file_test_hook(&ops);
            status = use_every_call(&fd, &text, &error);
            file_test_hook(NULL);
            if (fd >= 0) (void)close(fd);
            ds4_text_free(&text);
            assert_int_equal(mem_live(), live);
            if (n <= 11) { /* open size pwrite sync pread size open read read rename unlink */
                assert_int_equal(status, DS4_ERR_IO);
                assert_non_null(strstr(error.message, strerror(faults[i])));
                assert_non_null(strstr(error.message, test_dir()));
            } else {
                assert_ok(status, error);
            }
        }
    }
}

static ssize_t write_nothing(int fd, const void *buf, size_t n, off_t at)
{
    (void)fd, (void)buf, (void)n, (void)at;
    return 0;
}

TEST(file_does_not_turn_for_ever_when_a_write_moves_nothing)
{
    use_dir();
    struct file_ops ops = file_ops_system;
    struct ds4_error error = {0};
    int fd;
    ops.pwrite = write_nothing;
    assert_ok(file_open(path, FILE_CREATE_NEW, &fd, &error), error);
    file_test_hook(&ops);
    enum ds4_status status = file_write_at(fd, path, 0, "x", 1, &error);
    file_test_hook(NULL);
    file_close(fd);
    assert_int_equal(status, DS4_ERR_IO);
}

/* ---- what may be opened ---- */

static void assert_refused(const char *name, enum file_mode mode, const char *why)
{
    struct ds4_error error = {0};
    int fd = 5;
    assert_int_equal(file_open(name, mode, &fd, &error), DS4_ERR_IO);
    assert_int_equal(fd, -1);
    if (!strstr(error.message, why)) fail_msg("\"%s\" does not say \"%s\"", error.message, why);
}

TEST(file_refuses_symlinks_directories_pipes_and_devices)
{
    use_dir();
    assert_int_equal(symlink("file", other), 0);
    assert_refused(other, FILE_CREATE_NEW, "cannot create");
    assert_refused(other, FILE_CREATE_TRUNCATE, "cannot create");
    assert_refused(other, FILE_READ_WRITE, "cannot open for writing");
    assert_refused(path, FILE_READ, "No such file");
    assert_refused(test_dir(), FILE_READ, "Is a directory");
    assert_refused("/dev/zero", FILE_READ, "not a regular file");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_refused(path, FILE_READ, "not a regular file");
    assert_refused(path, FILE_READ_WRITE, "not a regular file");
    assert_refused(path, FILE_CREATE_TRUNCATE, "not a regular file");
    assert_refused(path, FILE_CREATE_NEW, "File exists");
}

static void assert_no_target(const char *name, const char *why)
{
    struct ds4_error error = {0};
    assert_int_equal(file_check_target(name, &error), DS4_ERR_IO);
    if (!strstr(error.message, why)) fail_msg("\"%s\" does not say \"%s\"", error.message, why);
}

TEST(file_that_a_rename_would_put_in_place_of_something_else_is_refused_before)
{
    use_dir();
    struct ds4_error error = {0};
    assert_ok(file_check_target(path, &error), error); /* nothing is there */
    int fd;
    assert_ok(file_open(path, FILE_CREATE_NEW, &fd, &error), error);
    file_close(fd);
    assert_ok(file_check_target(path, &error), error); /* a file like the new one */
    assert_ok(file_check_target("beside", &error), error);
    assert_no_target(test_dir(), "Is a directory");
    assert_no_target("/dev/zero", "not a regular file");
    assert_int_equal(symlink("file", other), 0);
    assert_no_target(other, "a symbolic link");
    (void)unlink(other);
    assert_int_equal(mkfifo(other, 0600), 0);
    assert_no_target(other, "not a regular file");
    char below[600];
    (void)snprintf(below, sizeof below, "%s/nowhere/file", test_dir());
    assert_no_target(below, "No such file");
    (void)snprintf(below, sizeof below, "%s/below", path);
    assert_no_target(below, "Not a directory");
}

TEST(file_creates_for_the_owner_alone)
{
    use_dir();
    mode_t before = umask(0);
    struct ds4_error error = {0};
    struct stat st;
    int fd;
    assert_ok(file_open(path, FILE_CREATE_NEW, &fd, &error), error);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    file_close(fd);
    (void)umask(before);
}

/* ---- limits and ends ---- */

TEST(file_end_inside_a_read_is_a_malformed_file)
{
    use_dir();
    struct ds4_error error = {0};
    char got[8];
    int fd;
    assert_ok(file_open(path, FILE_CREATE_NEW, &fd, &error), error);
    assert_ok(file_write_at(fd, path, 0, "1234", 4, &error), error);
    assert_status(file_read_at(fd, path, 2, got, 3, &error), DS4_ERR_FORMAT, error);
    assert_non_null(strstr(error.message, "ends at byte 4, 1 bytes too early"));
    assert_status(file_read_at(fd, path, UINT64_MAX - 1, got, 1, NULL), DS4_ERR_IO, error);
    file_close(fd);
}

TEST(file_read_whole_stops_at_its_limit_and_keeps_what_was_there)
{
    use_dir();
    struct ds4_error error = {0};
    int fd;
    assert_ok(file_open(path, FILE_CREATE_NEW, &fd, &error), error);
    for (uint64_t i = 0; i < 30000; i += 10) assert_ok(file_write_at(fd, path, i, "0123456789", 10, &error), error);
    file_close(fd);
    struct buf b = {0};
    buf_put_text(&b, "before");
    assert_status(file_read_all(path, 29999, &b.text, &error), DS4_ERR_LIMIT, error);
    assert_int_equal(b.text.len, 6);
    error = (struct ds4_error){0};
    assert_ok(file_read_all(path, 30000, &b.text, &error), error);
    assert_int_equal(b.text.len, 30006);
    assert_memory_equal(b.text.ptr, "before0123456789", 16);
    assert_memory_equal(b.text.ptr + 29996, "0123456789", 10);
    buf_deinit(&b);
}

static void *feed_pipe(void *arg)
{
    int fd = open(arg, O_WRONLY);
    for (int i = 0; i < 1000; i++) (void)!write(fd, "drop by drop, ", 14);
    (void)close(fd);
    return NULL;
}

TEST(file_read_whole_takes_a_pipe_to_its_end)
{
    use_dir();
    struct ds4_error error = {0};
    struct ds4_text text = {0};
    pthread_t feeder;
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(pthread_create(&feeder, NULL, feed_pipe, path), 0);
    assert_ok(file_read_all(path, 14000, &text, &error), error);
    assert_int_equal(text.len, 14000);
    (void)pthread_join(feeder, NULL);
    ds4_text_free(&text);
}

TEST(file_map_shows_the_bytes_and_refuses_an_empty_file)
{
    use_dir();
    struct ds4_error error = {0};
    const uint8_t *map = NULL;
    int fd;
    assert_ok(file_open(path, FILE_CREATE_NEW, &fd, &error), error);
    assert_status(file_map(fd, path, 0, &map, &error), DS4_ERR_FORMAT, error);
    error = (struct ds4_error){0};
    assert_ok(file_write_at(fd, path, 5000, "end", 3, &error), error);
    assert_ok(file_map(fd, path, 5003, &map, &error), error);
    assert_memory_equal(map + 4999, "\0end", 4);
    file_unmap(map, 5003);
    file_unmap(NULL, 0);
    file_close(fd);
    file_close(-1);
}

TEST(file_identity_changes_when_the_file_does)
{
    use_dir();
    struct ds4_error error = {0};
    struct file_id a, b;
    int fd, fd_other;
    assert_ok(file_open(path, FILE_CREATE_NEW, &fd, &error), error);
    assert_ok(file_open(other, FILE_CREATE_NEW, &fd_other, &error), error);
    assert_ok(file_identity(fd, path, &a, &error), error);
    assert_ok(file_identity(fd_other, other, &b, &error), error);
    assert_true(a.inode != b.inode && a.size_bytes == 0);
    assert_ok(file_write_at(fd, path, 0, "1", 1, &error), error);
    assert_ok(file_identity(fd, path, &b, &error), error);
    assert_true(a.inode == b.inode && b.size_bytes == 1 && b.mtime_ns >= a.mtime_ns);
    file_close(fd);
    file_close(fd_other);
}

int main(void)
{
    return RUN_TESTS(T(file_reads_back_what_was_written), T(file_survives_short_transfers_and_interruptions),
                     T(file_reports_the_first_cause_wherever_a_call_fails),
                     T(file_does_not_turn_for_ever_when_a_write_moves_nothing),
                     T(file_refuses_symlinks_directories_pipes_and_devices),
                     T(file_that_a_rename_would_put_in_place_of_something_else_is_refused_before),
                     T(file_creates_for_the_owner_alone),
                     T(file_end_inside_a_read_is_a_malformed_file),
                     T(file_read_whole_stops_at_its_limit_and_keeps_what_was_there),
                     T(file_read_whole_takes_a_pipe_to_its_end), T(file_map_shows_the_bytes_and_refuses_an_empty_file),
                     T(file_identity_changes_when_the_file_does));
}
