/* open.c - GGUF files on disk: mapping, split files, identity, and access to what read.c verified.
 *
 * A split file is NAME-00001-of-0000N.gguf and its N-1 brothers. Each is a complete GGUF file; the first carries the
 * metadata, all carry split.no (from 0), split.count and split.tensors.count (of all together). The descriptor of
 * each file stays open, so that a file replaced under our feet is noticed. */
#include <stdio.h>

#include "base/mem.h"
#include "gguf/impl.h"

static enum ds4_status shard_open(const char *path, struct gguf_shard *shard, struct ds4_error *error)
{
    size_t n = strlen(path) + 1;
    shard->fd = -1;
    shard->path = mem_alloc(n, 1);
    if (!shard->path) return err_set(error, DS4_ERR_NOMEM, "out of memory");
    memcpy(shard->path, path, n);
    TRY(file_open(path, FILE_READ, &shard->fd, error));
    TRY(file_identity(shard->fd, path, &shard->id, error));
    shard->size_bytes = shard->id.size_bytes;
    TRY(file_map(shard->fd, path, shard->size_bytes, &shard->bytes, error));
    shard->mapped = true;
    return DS4_OK;
}

static void shard_close(struct gguf_shard *shard)
{
    if (shard->mapped) file_unmap(shard->bytes, shard->size_bytes);
    file_close(shard->fd);
    mem_free(shard->path);
}

/* Also catches a file that changed while it was being mapped and read. */
static enum ds4_status shard_check(const struct gguf_shard *shard, struct ds4_error *error)
{
    struct file_id now;
    int fd;
    TRY(file_open(shard->path, FILE_READ, &fd, error));
    enum ds4_status status = file_identity(fd, shard->path, &now, error);
    file_close(fd);
    TRY(status);
    if (now.inode != shard->id.inode) return err_set(error, DS4_ERR_STATE, "%s was replaced while in use", shard->path);
    if (now.size_bytes != shard->id.size_bytes || now.mtime_ns != shard->id.mtime_ns)
        return err_set(error, DS4_ERR_STATE, "%s was changed while in use (%llu bytes, %llu when it was opened)",
                       shard->path, (unsigned long long)now.size_bytes, (unsigned long long)shard->id.size_bytes);
    return DS4_OK;
}

enum ds4_status gguf_check_unchanged(const struct gguf_file *file, struct ds4_error *error)
{
    for (uint32_t i = 0; i < file->n_shards; i++)
        if (file->shards[i].mapped) TRY(shard_check(&file->shards[i], error));
    return DS4_OK;
}

/* Moves the tensors of a further shard behind those that the file has. */
static enum ds4_status tensors_append(struct gguf_file *file, struct gguf_directory *more, uint32_t shard_i,
                                      struct ds4_error *error)
{
    struct gguf_directory *d = &file->directory;
    size_t n = d->n_tensors + more->n_tensors; /* each bounded by the limits */
    struct gguf_tensor *tensors = mem_realloc(d->tensors, n, sizeof *tensors);
    if (!tensors) return err_set(error, DS4_ERR_NOMEM, "out of memory for %zu tensors", n);
    d->tensors = tensors;
    if (more->n_tensors) memcpy(tensors + d->n_tensors, more->tensors, more->n_tensors * sizeof *tensors);
    for (size_t i = d->n_tensors; i < n; i++) tensors[i].shard_i = shard_i;
    struct gguf_names names;
    if (gguf_names_init(&names, n) != DS4_OK) return err_set(error, DS4_ERR_NOMEM, "out of memory");
    gguf_names_deinit(&d->tensor_names);
    d->tensor_names = names;
    d->n_tensors = n;
    for (size_t i = 0; i < n; i++) {
        uint32_t *slot = gguf_names_slot(&names, tensors[i].name, gguf_tensor_name, tensors);
        if (*slot)
            return err_set(error, DS4_ERR_FORMAT, "%s: byte %llu: tensor %s is also in %s",
                           file->shards[shard_i].path, (unsigned long long)tensors[i].file_offset,
                           gguf_show(tensors[i].name).text, file->shards[tensors[*slot - 1].shard_i].path);
        *slot = (uint32_t)i + 1;
    }
    return DS4_OK;
}

/* What a shard says of the split; count 0 = not a part of a split file. */
struct split {
    uint64_t no, count, n_tensors;
};

static enum ds4_status split_read(struct gguf_file *view, struct split *s, struct ds4_error *error)
{
    *s = (struct split){0, 0, 0};
    enum ds4_status status = gguf_get_u64(view, "split.count", &s->count, error);
    if (status == DS4_ERR_STATE || (status == DS4_OK && s->count == 0)) {
        s->count = 0;
        return DS4_OK;
    }
    TRY(status);
    if (s->count > GGUF_SHARDS_MAX)
        return err_set(error, DS4_ERR_LIMIT, "%s: byte %llu: split.count is %llu, more than %d", view->shards[0].path,
                       (unsigned long long)gguf_find(view, "split.count")->offset, (unsigned long long)s->count,
                       GGUF_SHARDS_MAX);
    static const char *const keys[] = {"split.no", "split.tensors.count"};
    uint64_t *const to[] = {&s->no, &s->n_tensors};
    for (size_t i = 0; i < 2; i++) {
        status = gguf_get_u64(view, keys[i], to[i], error);
        if (status == DS4_ERR_STATE)
            return err_set(error, DS4_ERR_FORMAT, "%s: split.count is there, but %s is not", view->shards[0].path,
                           keys[i]);
        TRY(status);
    }
    return DS4_OK;
}

/* The path of shard i of n: the name of shard 1 with its number exchanged. Caller frees. */
static enum ds4_status shard_path(const char *first, uint32_t i, uint64_t n, char **out, struct ds4_error *error)
{
    char tail[32], own[32];
    int n_tail = snprintf(tail, sizeof tail, "-%05u-of-%05u.gguf", 1u, (unsigned)n);
    (void)snprintf(own, sizeof own, "-%05u-of-%05u.gguf", i + 1, (unsigned)n);
    size_t len = strlen(first), tail_len = (size_t)n_tail;
    if (len < tail_len || strcmp(first + len - tail_len, tail) != 0)
        return err_set(error, DS4_ERR_FORMAT, "%s is the first of %llu files, but is not named ...%s", first,
                       (unsigned long long)n, tail);
    char *path = mem_alloc(len + 1, 1);
    if (!path) return err_set(error, DS4_ERR_NOMEM, "out of memory");
    memcpy(path, first, len - tail_len);
    memcpy(path + len - tail_len, own, tail_len + 1);
    *out = path;
    return DS4_OK;
}

/* Opens shard i and adds its tensors. */
static enum ds4_status shard_add(struct gguf_file *file, uint32_t i, const struct split *first, struct ds4_error *error)
{
    struct gguf_shard *shard = &file->shards[i];
    char *path;
    TRY(shard_path(file->shards[0].path, i, first->count, &path, error));
    shard->fd = -1;
    file->n_shards = i + 1;
    enum ds4_status status = shard_open(path, shard, error);
    mem_free(path);
    TRY(status);
    struct gguf_file *view = mem_zalloc(1, sizeof *view);
    if (!view) return err_set(error, DS4_ERR_NOMEM, "out of memory");
    view->shards[0].path = shard->path;
    struct split s;
    TRY_GOTO(gguf_directory_read(shard->bytes, shard->size_bytes, shard->path, &gguf_limits_default, &view->directory,
                                 error), out);
    TRY_GOTO(split_read(view, &s, error), out);
    if (s.no != i || s.count != first->count || s.n_tensors != first->n_tensors) {
        status = err_set(error, DS4_ERR_FORMAT,
                         "%s says it is part %llu of %llu with %llu tensors in all, not part %u of %llu with %llu",
                         shard->path, (unsigned long long)s.no + 1, (unsigned long long)s.count,
                         (unsigned long long)s.n_tensors, i + 1, (unsigned long long)first->count,
                         (unsigned long long)first->n_tensors);
        goto out;
    }
    status = tensors_append(file, &view->directory, i, error);
out:
    gguf_directory_deinit(&view->directory);
    mem_free(view);
    return status;
}

static enum ds4_status shards_add(struct gguf_file *file, struct ds4_error *error)
{
    struct split first;
    TRY(split_read(file, &first, error));
    if (first.count == 0) return DS4_OK;
    const char *path = file->shards[0].path;
    if (first.no != 0)
        return err_set(error, DS4_ERR_FORMAT, "%s is part %llu of %llu; open the first part", path,
                       (unsigned long long)first.no + 1, (unsigned long long)first.count);
    if (first.count > 1 && !file->shards[0].mapped)
        return err_set(error, DS4_ERR_UNSUPPORTED, "%s is one of %llu parts", path, (unsigned long long)first.count);
    for (uint32_t i = 1; i < first.count; i++) TRY(shard_add(file, i, &first, error));
    if (file->directory.n_tensors != first.n_tensors)
        return err_set(error, DS4_ERR_FORMAT, "%s: its %u parts hold %zu tensors, but split.tensors.count is %llu",
                       path, file->n_shards, file->directory.n_tensors, (unsigned long long)first.n_tensors);
    return DS4_OK;
}

enum ds4_status gguf_open(const char *path, struct gguf_file **out, struct ds4_error *error)
{
    enum ds4_status status;
    *out = NULL;
    struct gguf_file *file = mem_zalloc(1, sizeof *file);
    if (!file) return err_set(error, DS4_ERR_NOMEM, "out of memory");
    file->n_shards = 1;
    struct gguf_shard *first = &file->shards[0];
    TRY_GOTO(shard_open(path, first, error), fail);
    TRY_GOTO(gguf_directory_read(first->bytes, first->size_bytes, path, &gguf_limits_default, &file->directory, error),
             fail);
    TRY_GOTO(shards_add(file, error), fail);
    TRY_GOTO(gguf_check_unchanged(file, error), fail);
    *out = file;
    return DS4_OK;
fail:
    gguf_close(file);
    return status;
}

enum ds4_status gguf_open_memory(const uint8_t *bytes, uint64_t size, const struct gguf_limits *limits,
                                 struct gguf_file **out, struct ds4_error *error)
{
    static const char name[] = "memory";
    enum ds4_status status = DS4_ERR_NOMEM;
    *out = NULL;
    struct gguf_file *file = mem_zalloc(1, sizeof *file);
    if (!file) return err_set(error, DS4_ERR_NOMEM, "out of memory");
    file->n_shards = 1;
    struct gguf_shard *first = &file->shards[0];
    *first = (struct gguf_shard){.path = mem_alloc(sizeof name, 1), .fd = -1, .bytes = bytes, .size_bytes = size};
    if (!first->path) {
        (void)err_set(error, DS4_ERR_NOMEM, "out of memory");
        goto fail;
    }
    memcpy(first->path, name, sizeof name);
    TRY_GOTO(gguf_directory_read(bytes, size, name, limits ? limits : &gguf_limits_default, &file->directory, error),
             fail);
    TRY_GOTO(shards_add(file, error), fail);
    *out = file;
    return DS4_OK;
fail:
    gguf_close(file);
    return status;
}

void gguf_close(struct gguf_file *file)
{
    if (!file) return;
    gguf_directory_deinit(&file->directory);
    for (uint32_t i = 0; i < file->n_shards; i++) shard_close(&file->shards[i]);
    mem_free(file);
}

size_t gguf_n_kvs(const struct gguf_file *file) { return file->directory.n_kvs; }

const struct gguf_kv *gguf_kv_at(const struct gguf_file *file, size_t i)
{
    return i < file->directory.n_kvs ? &file->directory.kvs[i] : NULL;
}

const struct gguf_value *gguf_find(const struct gguf_file *file, const char *key)
{
    const struct gguf_directory *d = &file->directory;
    uint32_t number = *gguf_names_slot(&d->kv_names, span_from(key), gguf_kv_name, d->kvs);
    return number ? &d->kvs[number - 1].value : NULL;
}

size_t gguf_n_tensors(const struct gguf_file *file) { return file->directory.n_tensors; }

const struct gguf_tensor *gguf_tensor_at(const struct gguf_file *file, size_t i)
{
    return i < file->directory.n_tensors ? &file->directory.tensors[i] : NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf_file *file, struct ds4_span name)
{
    const struct gguf_directory *d = &file->directory;
    uint32_t number = *gguf_names_slot(&d->tensor_names, name, gguf_tensor_name, d->tensors);
    return number ? &d->tensors[number - 1] : NULL;
}

uint64_t gguf_file_bytes(const struct gguf_file *file)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < file->n_shards; i++) sum += file->shards[i].size_bytes;
    return sum;
}

uint64_t gguf_header_bytes(const struct gguf_file *file) { return file->directory.data_base; }
uint32_t gguf_n_shards(const struct gguf_file *file) { return file->n_shards; }

const char *gguf_shard_path(const struct gguf_file *file, uint32_t shard_i)
{
    return shard_i < file->n_shards ? file->shards[shard_i].path : NULL;
}

const uint8_t *gguf_shard_bytes(const struct gguf_file *file, uint32_t shard_i, uint64_t *size)
{
    *size = file->shards[shard_i].size_bytes;
    return file->shards[shard_i].bytes;
}

int gguf_shard_fd(const struct gguf_file *file, uint32_t shard_i)
{
    return shard_i < file->n_shards ? file->shards[shard_i].fd : -1;
}

const struct file_id *gguf_shard_id(const struct gguf_file *file, uint32_t shard_i)
{
    return file->shards[shard_i].mapped ? &file->shards[shard_i].id : NULL;
}
