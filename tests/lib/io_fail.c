/* io_fail.c - the loop of io_fail.h: a table of system calls that counts and fails as planned. */
#include "io_fail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "test.h"

static struct {
    uint64_t first;            /* number, from 1, of the first call that fails */
    bool for_ever;
    int number;                /* errno */
    _Atomic uint64_t n_calls;
    _Atomic int64_t n_open;
} plan;

static bool fails(void)
{
    uint64_t n = atomic_fetch_add(&plan.n_calls, 1) + 1;
    if (plan.for_ever ? n < plan.first : n != plan.first) return false;
    errno = plan.number;
    return true;
}

static int plan_open(const char *path, int flags, mode_t mode)
{
    int fd = fails() ? -1 : file_ops_system.open(path, flags, mode);
    if (fd >= 0) atomic_fetch_add(&plan.n_open, 1);
    return fd;
}
static int plan_close(int fd)
{
    atomic_fetch_sub(&plan.n_open, 1);
    return file_ops_system.close(fd);
}
static ssize_t plan_read(int fd, void *buf, size_t n) { return fails() ? -1 : file_ops_system.read(fd, buf, n); }
static ssize_t plan_pread(int fd, void *buf, size_t n, off_t at)
{
    return fails() ? -1 : file_ops_system.pread(fd, buf, n, at);
}
static ssize_t plan_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    return fails() ? -1 : file_ops_system.pwrite(fd, buf, n, at);
}
static ssize_t plan_write(int fd, const void *buf, size_t n)
{
    return fails() ? -1 : file_ops_system.write(fd, buf, n);
}
static int plan_sync(int fd) { return fails() ? -1 : file_ops_system.fdatasync(fd); }
static int plan_rename(const char *from, const char *to) { return fails() ? -1 : file_ops_system.rename(from, to); }
static int plan_ftruncate(int fd, off_t size) { return fails() ? -1 : file_ops_system.ftruncate(fd, size); }
static int plan_size(int fd, uint64_t *size, uint64_t *mtime_ns, uint64_t *inode)
{
    return fails() ? -1 : file_ops_system.fstat_size(fd, size, mtime_ns, inode);
}

/* Removing what was begun is allowed to work: a disk is full for writing only. */
static struct file_ops planned_system(void)
{
    struct file_ops ops = file_ops_system;
    ops.open = plan_open;
    ops.close = plan_close;
    ops.read = plan_read;
    ops.pread = plan_pread;
    ops.pwrite = plan_pwrite;
    ops.write = plan_write;
    ops.fdatasync = plan_sync;
    ops.rename = plan_rename;
    ops.ftruncate = plan_ftruncate;
    ops.fstat_size = plan_size;
    return ops;
}

/* Runs once. False when the run ended before the failure. */
static bool run_once(const char *name, io_fail_fn scenario, void *user)
{
    struct file_ops ops = planned_system();
    struct ds4_error error = {0};
    int64_t live_before = mem_live();
    atomic_store(&plan.n_calls, 0);
    atomic_store(&plan.n_open, 0);
    file_test_hook(&ops);
    enum ds4_status status = scenario(user, &error);
    file_test_hook(NULL);
    bool met = atomic_load(&plan.n_calls) >= plan.first;
    const char *how = plan.for_ever ? "from call" : "at call", *why = strerror(plan.number);
    unsigned long long at = (unsigned long long)plan.first;
    if (mem_live() != live_before) fail_msg("%s, %s %s %llu: memory kept", name, why, how, at);
    if (atomic_load(&plan.n_open) != 0) fail_msg("%s, %s %s %llu: files kept open", name, why, how, at);
    if (status != DS4_OK && (status != DS4_ERR_IO || !met || !strstr(error.message, why)))
        fail_msg("%s, %s %s %llu: %s (%s)", name, why, how, at, ds4_status_text(status), error.message);
    return met;
}

/* The next call to fail. With tiny limits a file is read three bytes at a time: then only the first calls are taken one
 * by one, and ever fewer of the rest. */
static uint64_t next_call(uint64_t call)
{
#ifdef DS4_SMALL_LIMITS
    return call + 1 + call / 16;
#else
    return call + 1;
#endif
}

uint64_t io_fail_loop(const char *name, io_fail_fn scenario, void *user, void (*after)(void *user))
{
    static const int numbers[] = {EIO, ENOSPC, EDQUOT, EACCES, EROFS, ENFILE};
    plan.first = UINT64_MAX;
    plan.for_ever = false;
    (void)run_once(name, scenario, user);
    uint64_t n_whole = atomic_load(&plan.n_calls);
    for (size_t i = 0; i < 2 * sizeof numbers / sizeof numbers[0]; i++) {
        plan.number = numbers[i / 2];
        plan.for_ever = i % 2;
        for (plan.first = 1; run_once(name, scenario, user); plan.first = next_call(plan.first))
            if (after) after(user);
    }
    print_message("%s: %llu calls, each failed for six reasons, once and for ever\n", name,
                  (unsigned long long)n_whole);
    return n_whole;
}
