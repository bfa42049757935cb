/* file.c - file system seam. See file.h. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

#ifndef O_DIRECT
#define O_DIRECT 0 /* macOS says it with fcntl */
#endif

#ifdef DS4_SMALL_LIMITS
#define READ_BLOCK_BYTES 3u
#else
#define READ_BLOCK_BYTES 8192u
#endif

static int system_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

static int system_fstat_size(int fd, uint64_t *size, uint64_t *mtime_ns, uint64_t *inode)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return -1;
    if (!S_ISREG(st.st_mode)) {
        errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
        return -1;
    }
    *size = (uint64_t)st.st_size;
#ifdef __APPLE__
    *mtime_ns = (uint64_t)st.st_mtimespec.tv_sec * 1000000000u + (uint64_t)st.st_mtimespec.tv_nsec;
#else
    *mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
#endif
    *inode = (uint64_t)st.st_ino;
    return 0;
}

#ifdef __APPLE__
static int system_fdatasync(int fd) { return fcntl(fd, F_FULLFSYNC); }
#else
static int system_fdatasync(int fd) { return fdatasync(fd); }
#endif

const struct file_ops file_ops_system = {
    .open = system_open, .close = close, .read = read, .pread = pread, .pwrite = pwrite, .fdatasync = system_fdatasync,
    .rename = rename, .unlink = unlink, .ftruncate = ftruncate, .fstat_size = system_fstat_size, .write = write,
};

static const struct file_ops *ops = &file_ops_system;

void file_test_hook(const struct file_ops *replacement) { ops = replacement ? replacement : &file_ops_system; }

static int open_patiently(const char *path, int flags, mode_t mode)
{
    int fd;
    do {
        fd = ops->open(path, flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

enum ds4_status file_open(const char *path, enum file_mode mode, int *fd, struct ds4_error *error)
{
    static const int flags[] = {
        [FILE_READ] = O_RDONLY,
        [FILE_READ_BLOCKS] = O_RDONLY | O_DIRECT,
        [FILE_READ_OWN] = O_RDONLY | O_NOFOLLOW,
        [FILE_CREATE_NEW] = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW,
        [FILE_CREATE_TRUNCATE] = O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW,
        [FILE_READ_WRITE] = O_RDWR | O_NOFOLLOW,
        [FILE_OUTPUT] = O_WRONLY | O_CREAT | O_TRUNC,
    };
    static const char *const verbs[] = {"open", "open", "open", "create", "create", "open for writing", "create"};
    bool any_kind = mode == FILE_OUTPUT;
    /* O_NONBLOCK: a pipe without a writer must not hold us. It changes nothing for a regular file. */
    *fd = open_patiently(path, flags[mode] | (any_kind ? 0 : O_NONBLOCK), any_kind ? 0666 : 0600);
    if (*fd < 0 && mode == FILE_READ_BLOCKS && errno == EINVAL) /* a file system without direct reads */
        *fd = open_patiently(path, O_RDONLY | O_NONBLOCK, 0);
    if (*fd < 0) return err_os(error, errno, "cannot %s %s", verbs[mode], path);
#ifdef __APPLE__
    if (mode == FILE_READ_BLOCKS) (void)fcntl(*fd, F_NOCACHE, 1);
#endif
    struct stat st;
    if (mode == FILE_READ_OWN && fstat(*fd, &st) == 0 && st.st_uid != geteuid()) {
        file_close(*fd);
        *fd = -1;
        return err_set(error, DS4_ERR_IO, "cannot open %s: it belongs to another user", path);
    }
    struct file_id id;
    if (any_kind || ops->fstat_size(*fd, &id.size_bytes, &id.mtime_ns, &id.inode) == 0) return DS4_OK;
    int number = errno;
    file_close(*fd);
    *fd = -1;
    bool other_kind = number == EINVAL || number == EISDIR;
    if (!other_kind && (mode == FILE_CREATE_NEW || mode == FILE_CREATE_TRUNCATE)) (void)ops->unlink(path);
    if (number == EINVAL) return err_set(error, DS4_ERR_IO, "cannot %s %s: not a regular file", verbs[mode], path);
    return err_os(error, number, "cannot %s %s", verbs[mode], path);
}

void file_will_need(const char *path)
{
    int fd = open_patiently(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0) return;
#ifdef POSIX_FADV_WILLNEED
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED);
#endif
    file_close(fd);
}

void file_close(int fd)
{
    if (fd >= 0) (void)ops->close(fd);
}

enum ds4_status file_identity(int fd, const char *path, struct file_id *id, struct ds4_error *error)
{
    if (ops->fstat_size(fd, &id->size_bytes, &id->mtime_ns, &id->inode) != 0)
        return err_os(error, errno, "cannot examine %s", path);
    return DS4_OK;
}

enum ds4_status file_read_at(int fd, const char *path, uint64_t at, void *buf, size_t n, struct ds4_error *error)
{
    char *to = buf;
    while (n > 0) {
        ssize_t got = ops->pread(fd, to, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_os(error, errno, "cannot read %s at byte %llu", path, (unsigned long long)at);
        if (got == 0)
            return err_set(error, DS4_ERR_FORMAT, "%s ends at byte %llu, %zu bytes too early", path,
                           (unsigned long long)at, n);
        to += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return DS4_OK;
}

/* Only whole blocks count as read, so that the next read is aligned again; part of one is all there is at the end. */
enum ds4_status file_read_blocks(int fd, const char *path, uint64_t at, void *buf, size_t n, struct ds4_error *error)
{
    size_t room = (n + FILE_BLOCK_BYTES - 1) & ~(size_t)(FILE_BLOCK_BYTES - 1), done = 0;
    while (done < n) {
        ssize_t got = ops->pread(fd, (char *)buf + done, room - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_os(error, errno, "cannot read %s at byte %llu", path, (unsigned long long)(at + done));
        if (done + (size_t)got >= n) return DS4_OK;
        if ((size_t)got < FILE_BLOCK_BYTES)
            return err_set(error, DS4_ERR_FORMAT, "%s ends at byte %llu, %zu bytes too early", path,
                           (unsigned long long)(at + done) + (unsigned long long)got, n - done - (size_t)got);
        done += (size_t)got & ~(size_t)(FILE_BLOCK_BYTES - 1);
    }
    return DS4_OK;
}

enum ds4_status file_write_at(int fd, const char *path, uint64_t at, const void *buf, size_t n,
                              struct ds4_error *error)
{
    const char *from = buf;
    while (n > 0) {
        ssize_t put = ops->pwrite(fd, from, n, (off_t)at);
        if (put < 0 && errno == EINTR) continue;
        if (put == 0) errno = EIO; /* no progress and no reason */
        if (put <= 0) return err_os(error, errno, "cannot write %s at byte %llu", path, (unsigned long long)at);
        from += put;
        at += (uint64_t)put;
        n -= (size_t)put;
    }
    return DS4_OK;
}

enum ds4_status file_write(int fd, const char *path, const void *buf, size_t n, struct ds4_error *error)
{
    const char *from = buf;
    while (n > 0) {
        ssize_t put = ops->write(fd, from, n);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd ready = {.fd = fd, .events = POLLOUT};
            (void)poll(&ready, 1, 1000);
            continue;
        }
        if (put == 0) errno = EIO;
        if (put <= 0) return err_os(error, errno, "cannot write to %s", path);
        from += put;
        n -= (size_t)put;
    }
    return DS4_OK;
}

enum ds4_status file_resize(int fd, const char *path, uint64_t size, struct ds4_error *error)
{
    while (ops->ftruncate(fd, (off_t)size) != 0)
        if (errno != EINTR)
            return err_os(error, errno, "cannot set the length of %s to %llu bytes", path, (unsigned long long)size);
    return DS4_OK;
}

enum ds4_status file_sync(int fd, const char *path, struct ds4_error *error)
{
    int failed;
    do {
        failed = ops->fdatasync(fd);
    } while (failed && errno == EINTR);
    if (failed) return err_os(error, errno, "cannot sync %s", path);
    return DS4_OK;
}

enum ds4_status file_rename(const char *from, const char *to, struct ds4_error *error)
{
    if (ops->rename(from, to) != 0) return err_os(error, errno, "cannot rename %s to %s", from, to);
    return DS4_OK;
}

/* Whether a file can be created beside path. */
static enum ds4_status check_parent(const char *path, struct ds4_error *error)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = slash && slash > path ? (size_t)(slash - path) : 1;
    if (n >= sizeof parent) return err_set(error, DS4_ERR_LIMIT, "a path of %zu characters", strlen(path));
    memcpy(parent, slash ? path : ".", n);
    parent[n] = 0;
    return access(parent, W_OK | X_OK) == 0 ? DS4_OK : err_os(error, errno, "cannot create %s", path);
}

enum ds4_status file_check_target(const char *path, struct ds4_error *error)
{
    struct stat st;
    if (lstat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode)) return err_os(error, EISDIR, "cannot create %s", path);
        if (!S_ISREG(st.st_mode))
            return err_set(error, DS4_ERR_IO, "cannot create %s: what is there is %s", path,
                           S_ISLNK(st.st_mode) ? "a symbolic link" : "not a regular file");
    } else if (errno != ENOENT) {
        return err_os(error, errno, "cannot create %s", path);
    }
    return check_parent(path, error);
}

enum ds4_status file_unlink(const char *path, struct ds4_error *error)
{
    if (ops->unlink(path) != 0) return err_os(error, errno, "cannot remove %s", path);
    return DS4_OK;
}

enum ds4_status file_private_dir(const char *path, struct ds4_error *error)
{
    struct stat st;
    if (mkdir(path, 0700) != 0 && errno != EEXIST) return err_os(error, errno, "cannot create the directory %s", path);
    if (lstat(path, &st) != 0) return err_os(error, errno, "cannot examine %s", path);
    if (!S_ISDIR(st.st_mode)) return err_set(error, DS4_ERR_IO, "%s is not a directory", path);
    if (st.st_uid != geteuid()) return err_set(error, DS4_ERR_IO, "the directory %s belongs to another user", path);
    if ((st.st_mode & 077) != 0)
        return err_set(error, DS4_ERR_IO, "the directory %s is open to others (mode %03o): chmod 700 it", path,
                       (unsigned)(st.st_mode & 0777));
    return DS4_OK;
}

enum ds4_status file_make_parents(const char *path, struct ds4_error *error)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n >= sizeof part) return err_set(error, DS4_ERR_LIMIT, "a path of %zu characters", n);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i < n; i++) {
        if (part[i] != '/') continue;
        part[i] = 0;
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return err_os(error, errno, "cannot create the directory %s", part);
        part[i] = '/';
    }
    return DS4_OK;
}

enum ds4_status file_list_dir(const char *path, void (*fn)(void *user, const char *name), void *user,
                              struct ds4_error *error)
{
    DIR *dir = opendir(path);
    if (!dir) return err_os(error, errno, "cannot read the directory %s", path);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) fn(user, entry->d_name);
    (void)closedir(dir);
    return DS4_OK;
}

enum ds4_status file_sync_dir(const char *path, struct ds4_error *error)
{
    int fd = open_patiently(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) return err_os(error, errno, "cannot open the directory %s", path);
    enum ds4_status status = ops->fdatasync(fd) == 0 ? DS4_OK : err_os(error, errno, "cannot sync %s", path);
    file_close(fd);
    return status;
}

enum ds4_status file_lock(const char *path, int *fd, struct ds4_error *error)
{
    *fd = open_patiently(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    if (*fd < 0) return err_os(error, errno, "cannot open %s", path);
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0) return DS4_OK;
    int number = errno;
    file_close(*fd);
    *fd = -1;
    return number == EWOULDBLOCK ? DS4_OK : err_os(error, number, "cannot lock %s", path);
}

/* Appends what fd gives until its end. */
static enum ds4_status read_to_end(int fd, const char *path, size_t limit, struct buf *b, struct ds4_error *error)
{
    char block[READ_BLOCK_BYTES];
    size_t start = b->text.len;
    for (;;) {
        ssize_t got = ops->read(fd, block, sizeof block);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_os(error, errno, "cannot read %s", path);
        if (got == 0) return DS4_OK;
        if ((size_t)got > limit - (b->text.len - start))
            return err_set(error, DS4_ERR_LIMIT, "%s is longer than %zu bytes", path, limit);
        buf_put(b, block, (size_t)got);
        TRY(buf_status(b, error));
    }
}

enum ds4_status file_read_all(const char *path, size_t limit, struct ds4_text *out, struct ds4_error *error)
{
    bool standard_input = strcmp(path, "-") == 0;
    int fd = standard_input ? STDIN_FILENO : open_patiently(path, O_RDONLY, 0);
    if (fd < 0) return err_os(error, errno, "cannot open %s", path);
    struct buf b = {.text = *out};
    size_t len_before = out->len;
    enum ds4_status status = read_to_end(fd, path, limit, &b, error);
    *out = b.text;
    if (status != DS4_OK) out->len = len_before;
    if (!standard_input) file_close(fd);
    return status;
}

enum ds4_status file_map(int fd, const char *path, uint64_t size, const uint8_t **out, struct ds4_error *error)
{
    if (size == 0) return err_set(error, DS4_ERR_FORMAT, "%s is empty", path);
    void *map = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return err_os(error, errno, "cannot map %llu bytes of %s", (unsigned long long)size, path);
    *out = map;
    return DS4_OK;
}

void file_unmap(const uint8_t *map, uint64_t size)
{
    if (map) (void)munmap((void *)(uintptr_t)map, (size_t)size);
}
