/* fake_disk.c - for programs on the scripted engine: a disk that syncs at once, so that no test waits for a real one
 * that others keep busy, and one that does not answer while a file exists. */
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "lib/fake/fake_internal.h"

#define STEP_US 2000

static char while_path[512];

static void wait_while_hung(void)
{
    while (access(while_path, F_OK) == 0) (void)usleep(STEP_US);
}

static ssize_t hang_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    wait_while_hung();
    return file_ops_system.pwrite(fd, buf, n, at);
}

static int hang_sync(int fd)
{
    wait_while_hung();
    return file_ops_system.fdatasync(fd);
}

static int no_sync(int fd)
{
    (void)fd;
    return 0;
}

void fake_disk_use(struct ds4_span hang_while)
{
    static struct file_ops ops;
    (void)snprintf(while_path, sizeof while_path, "%.*s", (int)hang_while.len, hang_while.ptr);
    ops = file_ops_system;
    ops.fdatasync = no_sync;
    if (hang_while.len) {
        ops.pwrite = hang_pwrite;
        ops.fdatasync = hang_sync;
    }
    file_test_hook(&ops);
}
