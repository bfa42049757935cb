/* file.h - the only door to the file system. Every call goes through a table that tests replace to fake errors,
 * full disks, crashes and torn writes. Paths are NUL-terminated here, at the boundary. */
#ifndef DS4_BASE_FILE_H
#define DS4_BASE_FILE_H

#include <sys/types.h>

#include "base/buf.h"

/* The seam: system calls with their POSIX meaning (-1 and errno). */
struct file_ops {
    int (*open)(const char *path, int flags, mode_t mode);
    int (*close)(int fd);
    ssize_t (*read)(int fd, void *buf, size_t n);
    ssize_t (*pread)(int fd, void *buf, size_t n, off_t at);
    ssize_t (*pwrite)(int fd, const void *buf, size_t n, off_t at);
    int (*fdatasync)(int fd);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*ftruncate)(int fd, off_t size);
    int (*fstat_size)(int fd, uint64_t *size, uint64_t *mtime_ns, uint64_t *inode);
    ssize_t (*write)(int fd, const void *buf, size_t n);
};
extern const struct file_ops file_ops_system;
void file_test_hook(const struct file_ops *ops); /* NULL = the system's */

#define FILE_BLOCK_BYTES 4096u /* alignment of reads past the page cache: a block of all common disks */

struct file_id { /* to notice that a file was replaced or changed */
    uint64_t size_bytes, mtime_ns, inode;
};

enum file_mode {
    FILE_READ,
    FILE_READ_BLOCKS,   /* for file_read_blocks: past the page cache where the file system can do that */
    FILE_READ_OWN, /* refuses a symlink, and a file of another user */
    FILE_CREATE_NEW,
    FILE_CREATE_TRUNCATE,
    FILE_READ_WRITE,
    FILE_OUTPUT /* a result the user named: truncates, write only, follows symlinks, 0666 less the umask */
};

/* Opens with O_CLOEXEC. All modes but FILE_OUTPUT refuse what is not a regular file, without waiting for it; the other
 * modes that write refuse to follow a symlink, and create with 0600. On failure *fd is -1. */
enum ds4_status file_open(const char *path, enum file_mode mode, int *fd, struct ds4_error *error) DS4_MUST_CHECK;
void file_close(int fd);
/* Tells the system that the file will be read whole soon, so that it can begin. May do nothing. */
void file_will_need(const char *path);
enum ds4_status file_identity(int fd, const char *path, struct file_id *id, struct ds4_error *error) DS4_MUST_CHECK;
/* Whole reads and writes: EINTR and short counts are handled; end of file inside the range is FORMAT. */
enum ds4_status file_read_at(int fd, const char *path, uint64_t at, void *buf, size_t n,
                             struct ds4_error *error) DS4_MUST_CHECK;
/* file_read_at for files opened with FILE_READ_BLOCKS: at and buf are multiples of FILE_BLOCK_BYTES, and buf has room
 * for n rounded up to that; bytes past n may be written. */
enum ds4_status file_read_blocks(int fd, const char *path, uint64_t at, void *buf, size_t n,
                                 struct ds4_error *error) DS4_MUST_CHECK;
enum ds4_status file_write_at(int fd, const char *path, uint64_t at, const void *buf, size_t n,
                              struct ds4_error *error) DS4_MUST_CHECK;
/* Writes all of buf at the descriptor's own place (pipes, terminals); a blocked non-blocking one is waited for. */
enum ds4_status file_write(int fd, const char *path, const void *buf, size_t n, struct ds4_error *error) DS4_MUST_CHECK;
/* Sets the length; what lies beyond the old end reads as zeros and takes no space. */
enum ds4_status file_resize(int fd, const char *path, uint64_t size, struct ds4_error *error) DS4_MUST_CHECK;
enum ds4_status file_sync(int fd, const char *path, struct ds4_error *error) DS4_MUST_CHECK;
enum ds4_status file_rename(const char *from, const char *to, struct ds4_error *error) DS4_MUST_CHECK;
/* For a file that is written under another name and then renamed to path, which a user gave, before the work is done:
 * IO when path is something other than a regular file. A directory could not be replaced at the end, and a device, a
 * pipe or a symlink would be, /dev/null for everybody. Also IO when the directory of path cannot be written to. */
enum ds4_status file_check_target(const char *path, struct ds4_error *error) DS4_MUST_CHECK;
enum ds4_status file_unlink(const char *path, struct ds4_error *error) DS4_MUST_CHECK;
/* Makes sure path is a directory of this user that nobody else can enter (0700); creates its last part if absent. */
enum ds4_status file_private_dir(const char *path, struct ds4_error *error) DS4_MUST_CHECK;
/* Creates the directories above path (0700) that are not there. */
enum ds4_status file_make_parents(const char *path, struct ds4_error *error) DS4_MUST_CHECK;
/* Calls fn with every name in a directory but . and .., in no order. */
enum ds4_status file_list_dir(const char *path, void (*fn)(void *user, const char *name), void *user,
                              struct ds4_error *error) DS4_MUST_CHECK;
/* Makes renames in a directory durable. */
enum ds4_status file_sync_dir(const char *path, struct ds4_error *error) DS4_MUST_CHECK;
/* Takes the lock file at path for this process, without waiting. *fd is -1 when another process has it. */
enum ds4_status file_lock(const char *path, int *fd, struct ds4_error *error) DS4_MUST_CHECK;
/* Reads a whole file, pipes included (or standard input for "-"), of at most limit bytes. Appends to *out; on failure
 * *out is as before. */
enum ds4_status file_read_all(const char *path, size_t limit, struct ds4_text *out,
                              struct ds4_error *error) DS4_MUST_CHECK;
/* Read-only shared mapping of a whole file. */
enum ds4_status file_map(int fd, const char *path, uint64_t size, const uint8_t **out,
                         struct ds4_error *error) DS4_MUST_CHECK;
void file_unmap(const uint8_t *map, uint64_t size);

#endif
