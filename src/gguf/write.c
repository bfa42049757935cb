/* write.c - writing GGUF files: descriptors -> bytes. The layout is that of read.c, version 3.
 *
 * Metadata and tensor descriptors are collected in memory; `begin` writes them; tensor data may then come in any order.
 * What is never written stays a hole, so a fixture of the full model's shape costs no disk. The file is built under
 * NAME.part and appears under its name when it is complete. Mistakes of the caller (bad dims, a key twice) are errors
 * of FORMAT that stick until `begin` reports the first. */
#include "base/buf.h"
#include "base/bytes.h"
#include "base/file.h"
#include "base/mem.h"
#include "gguf/gguf.h"
#include "quant/quant.h"

#define ALIGNMENT_DEFAULT 32u
#define HEAD_BYTES 24u /* magic, version, counts */

struct record { /* place of a key or name in a buf, and what it describes */
    size_t name_at, name_len;
    uint64_t size_bytes, offset; /* tensors: offset from the data base */
};

struct records {
    struct record *items;
    size_t n, cap;
};

struct gguf_writer {
    char *path, *part_path;
    int fd;
    bool begun, finished, keep, patched;
    struct buf kvs, infos;
    struct records keys, tensors;
    uint64_t alignment, data_base, data_bytes;
    enum ds4_status status; /* of the puts */
    struct ds4_error error;
};

static char *text_join(const char *a, const char *b)
{
    size_t n_a = strlen(a), n_b = strlen(b);
    char *out = mem_alloc(n_a + n_b + 1, 1);
    if (!out) return NULL;
    memcpy(out, a, n_a);
    memcpy(out + n_a, b, n_b + 1);
    return out;
}

static enum ds4_status writer_open(const char *path, bool keep, struct gguf_writer **out, struct ds4_error *error)
{
    enum ds4_status status = DS4_ERR_NOMEM;
    *out = NULL;
    struct gguf_writer *w = mem_zalloc(1, sizeof *w);
    if (!w) return err_set(error, DS4_ERR_NOMEM, "out of memory");
    w->fd = -1;
    w->alignment = ALIGNMENT_DEFAULT;
    w->path = text_join(path, "");
    w->part_path = text_join(path, ".part");
    if (!w->path || !w->part_path) {
        (void)err_set(error, DS4_ERR_NOMEM, "out of memory");
        goto fail;
    }
    TRY_GOTO(file_check_target(path, error), fail);
    w->keep = keep;
    if (keep && file_open(w->part_path, FILE_READ_WRITE, &w->fd, NULL) == DS4_OK) {
        *out = w;
        return DS4_OK;
    }
    TRY_GOTO(file_open(w->part_path, keep ? FILE_CREATE_NEW : FILE_CREATE_TRUNCATE, &w->fd, error), fail);
    *out = w;
    return DS4_OK;
fail:
    gguf_writer_destroy(w);
    return status;
}

enum ds4_status gguf_writer_create(const char *path, struct gguf_writer **out, struct ds4_error *error)
{
    return writer_open(path, false, out, error);
}

enum ds4_status gguf_writer_resume(const char *path, struct gguf_writer **out, struct ds4_error *error)
{
    return writer_open(path, true, out, error);
}

void gguf_writer_destroy(struct gguf_writer *w)
{
    if (!w) return;
    file_close(w->fd);
    if (w->fd >= 0 && !w->finished && !w->keep) (void)!file_unlink(w->part_path, NULL);
    buf_deinit(&w->kvs);
    buf_deinit(&w->infos);
    mem_free(w->keys.items);
    mem_free(w->tensors.items);
    mem_free(w->path);
    mem_free(w->part_path);
    mem_free(w);
}

static void put_failed(struct gguf_writer *w, enum ds4_status status, const char *what, struct ds4_span name)
{
    if (w->status != DS4_OK) return;
    w->status = status;
    int shown = name.len < 80 ? (int)name.len : 80;
    (void)err_set(&w->error, status, "%s: %s \"%.*s\"", w->path, what, shown, name.ptr);
}

static void put_u32(struct buf *b, uint32_t v) { buf_put(b, &v, sizeof v); }
static void put_u64(struct buf *b, uint64_t v) { buf_put(b, &v, sizeof v); }
static void put_text(struct buf *b, struct ds4_span s)
{
    put_u64(b, s.len);
    buf_put(b, s.ptr, s.len);
}

/* Appends name to b and to the list; refuses a second of the same name. */
static struct record *put_name(struct gguf_writer *w, struct records *list, struct buf *b, struct ds4_span name)
{
    if (w->begun) put_failed(w, DS4_ERR_STATE, "too late to add", name);
    if (name.len == 0) put_failed(w, DS4_ERR_FORMAT, "empty name", name);
    for (size_t i = 0; i < list->n; i++) {
        struct record *r = &list->items[i];
        struct ds4_span earlier = span_make(b->text.ptr + r->name_at, r->name_len);
        if (span_eq(name, earlier)) put_failed(w, DS4_ERR_FORMAT, "twice", name);
    }
    if (w->status != DS4_OK) return NULL;
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 64;
        struct record *items = mem_realloc(list->items, cap, sizeof *items);
        if (!items) {
            put_failed(w, DS4_ERR_NOMEM, "out of memory at", name);
            return NULL;
        }
        list->items = items;
        list->cap = cap;
    }
    struct record *r = &list->items[list->n];
    *r = (struct record){.name_at = b->text.len + 8, .name_len = name.len};
    put_text(b, name);
    if (b->failed) {
        put_failed(w, DS4_ERR_NOMEM, "out of memory at", name);
        return NULL;
    }
    list->n++;
    return r;
}

static bool put_key(struct gguf_writer *w, struct ds4_span key, enum gguf_type type)
{
    if (!put_name(w, &w->keys, &w->kvs, key)) return false;
    put_u32(&w->kvs, type);
    return true;
}

static void put_scalar(struct gguf_writer *w, const char *key, enum gguf_type type, const void *bytes, size_t n)
{
    if (put_key(w, span_from(key), type)) buf_put(&w->kvs, bytes, n);
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    if (strcmp(key, "general.alignment") == 0) {
        if (v < 8 || v > 1u << 20 || (v & (v - 1))) put_failed(w, DS4_ERR_FORMAT, "bad alignment in", span_from(key));
        w->alignment = v;
    }
    put_scalar(w, key, GGUF_U32, &v, sizeof v);
}

void gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t v) { put_scalar(w, key, GGUF_U64, &v, sizeof v); }
void gguf_put_f32(struct gguf_writer *w, const char *key, float v) { put_scalar(w, key, GGUF_F32, &v, sizeof v); }

void gguf_put_bool(struct gguf_writer *w, const char *key, bool v)
{
    uint8_t byte = v;
    put_scalar(w, key, GGUF_BOOL, &byte, 1);
}

void gguf_put_string(struct gguf_writer *w, const char *key, struct ds4_span v)
{
    if (put_key(w, span_from(key), GGUF_STRING)) put_text(&w->kvs, v);
}

static void put_items(struct gguf_writer *w, const char *key, enum gguf_type item, const void *bytes, size_t n,
                      size_t item_bytes)
{
    if (!put_key(w, span_from(key), GGUF_ARRAY)) return;
    put_u32(&w->kvs, item);
    put_u64(&w->kvs, n);
    buf_put(&w->kvs, bytes, n * item_bytes);
}

static void put_array(struct gguf_writer *w, const char *key, enum gguf_type item, const void *bytes, size_t n)
{
    put_items(w, key, item, bytes, n, 4);
}

void gguf_put_array_u64(struct gguf_writer *w, const char *key, const uint64_t *v, size_t n)
{
    put_items(w, key, GGUF_U64, v, n, 8);
}

void gguf_writer_patch_u64(struct gguf_writer *w, const char *key, size_t i, uint64_t v)
{
    if (w->kvs.failed) return;
    for (size_t k = 0; k < w->keys.n; k++) {
        const struct record *r = &w->keys.items[k];
        struct ds4_span name = span_make(w->kvs.text.ptr + r->name_at, r->name_len);
        if (!span_eq(name, span_from(key))) continue;
        char *head = w->kvs.text.ptr + r->name_at + r->name_len; /* u32 type, u32 item type, u64 count, items */
        ensure(load_u32(head) == GGUF_ARRAY && load_u32(head + 4) == GGUF_U64 && i < load_u64(head + 8));
        store_u64(head + 16 + 8 * i, v);
        w->patched = true;
    }
}

void gguf_put_array_u32(struct gguf_writer *w, const char *key, const uint32_t *v, size_t n)
{
    put_array(w, key, GGUF_U32, v, n);
}

void gguf_put_array_i32(struct gguf_writer *w, const char *key, const int32_t *v, size_t n)
{
    put_array(w, key, GGUF_I32, v, n);
}

void gguf_put_array_f32(struct gguf_writer *w, const char *key, const float *v, size_t n)
{
    put_array(w, key, GGUF_F32, v, n);
}

void gguf_put_array_string(struct gguf_writer *w, const char *key, const struct ds4_span *v, size_t n)
{
    put_array(w, key, GGUF_STRING, NULL, 0);
    if (w->status != DS4_OK || w->kvs.failed) return;
    store_u64(w->kvs.text.ptr + w->kvs.text.len - 8, n);
    for (size_t i = 0; i < n; i++) put_text(&w->kvs, v[i]);
}

void gguf_put_value(struct gguf_writer *w, struct ds4_span key, const struct gguf_value *value)
{
    if (span_eq(key, SPAN("general.alignment"))) { /* belongs to this file's layout */
        gguf_put_u32(w, "general.alignment", load_u32(value->bytes));
        return;
    }
    if (!put_key(w, key, value->type)) return;
    if (value->type == GGUF_ARRAY) {
        put_u32(&w->kvs, value->item_type);
        put_u64(&w->kvs, value->count);
    }
    buf_put(&w->kvs, value->bytes, value->size_bytes);
}

/* *bytes of a tensor; false for a shape that no reader accepts. */
static bool tensor_bytes(uint32_t type, uint32_t n_dims, const uint64_t *dims, uint64_t *bytes)
{
    const struct quant_format *format = quant_format(type);
    if (!format || n_dims < 1 || n_dims > GGUF_DIMS_MAX || dims[0] == 0) return false;
    if (!quant_row_bytes(format, dims[0], bytes)) return false;
    for (uint32_t i = 1; i < n_dims; i++)
        if (dims[i] == 0 || !mul_ok(*bytes, dims[i], bytes)) return false;
    return *bytes <= INT64_MAX;
}

void gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims)
{
    uint64_t bytes = 0;
    if (!tensor_bytes(type, n_dims, dims, &bytes))
        put_failed(w, DS4_ERR_FORMAT, "bad type or shape of", span_from(name));
    struct record *r = put_name(w, &w->tensors, &w->infos, span_from(name));
    if (!r) return;
    r->size_bytes = bytes;
    put_u32(&w->infos, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) put_u64(&w->infos, dims[i]);
    put_u32(&w->infos, type);
    put_u64(&w->infos, 0); /* the offset: set by begin, when the alignment is known */
}

static uint64_t align_up(uint64_t at, uint64_t alignment) { return (at + alignment - 1) & ~(alignment - 1); }

/* Lays the tensors one behind the other and writes their offsets into the directory. */
static enum ds4_status place_tensors(struct gguf_writer *w, struct ds4_error *error)
{
    uint64_t at = 0;
    for (size_t i = 0; i < w->tensors.n; i++) {
        struct record *r = &w->tensors.items[i];
        size_t end = i + 1 < w->tensors.n ? w->tensors.items[i + 1].name_at - 8 : w->infos.text.len;
        r->offset = at;
        store_u64(w->infos.text.ptr + end - 8, at);
        if (!add_ok(at, r->size_bytes, &at) || at > INT64_MAX / 2)
            return err_set(error, DS4_ERR_LIMIT, "%s: tensors larger than a file can be", w->path);
        at = align_up(at, w->alignment);
    }
    w->data_bytes = at;
    return DS4_OK;
}

enum ds4_status gguf_writer_begin(struct gguf_writer *w, struct ds4_error *error)
{
    if (w->status != DS4_OK) return err_set(error, w->status, "%s", w->error.message);
    if (w->begun) return err_set(error, DS4_ERR_STATE, "%s: begun twice", w->path);
    TRY(buf_status(&w->kvs, error));
    TRY(buf_status(&w->infos, error));
    TRY(place_tensors(w, error));
    struct buf head = {0};
    buf_put(&head, "GGUF", 4);
    put_u32(&head, 3);
    put_u64(&head, w->tensors.n);
    put_u64(&head, w->keys.n);
    enum ds4_status status = buf_status(&head, error);
    uint64_t infos_at = HEAD_BYTES + w->kvs.text.len;
    if (status == DS4_OK) status = file_write_at(w->fd, w->part_path, 0, head.text.ptr, head.text.len, error);
    if (status == DS4_OK)
        status = file_write_at(w->fd, w->part_path, head.text.len, w->kvs.text.ptr, w->kvs.text.len, error);
    if (status == DS4_OK)
        status = file_write_at(w->fd, w->part_path, infos_at, w->infos.text.ptr, w->infos.text.len, error);
    buf_deinit(&head);
    TRY(status);
    w->data_base = align_up(infos_at + w->infos.text.len, w->alignment);
    w->begun = true;
    return DS4_OK;
}

uint64_t gguf_writer_tensor_bytes(const struct gguf_writer *w, size_t i)
{
    ensure(i < w->tensors.n);
    return w->tensors.items[i].size_bytes;
}

uint64_t gguf_writer_tensor_offset(const struct gguf_writer *w, size_t i)
{
    ensure(w->begun && i < w->tensors.n);
    return w->data_base + w->tensors.items[i].offset;
}

enum ds4_status gguf_writer_data(struct gguf_writer *w, size_t i, uint64_t at, const void *bytes, size_t n,
                                 struct ds4_error *error)
{
    uint64_t end;
    if (!w->begun || w->finished) return err_set(error, DS4_ERR_STATE, "%s: not ready for tensor data", w->path);
    if (i >= w->tensors.n || !add_ok(at, n, &end) || end > w->tensors.items[i].size_bytes)
        return err_set(error, DS4_ERR_STATE, "%s: %zu bytes at %llu lie outside tensor %zu", w->path, n,
                       (unsigned long long)at, i);
    return file_write_at(w->fd, w->part_path, gguf_writer_tensor_offset(w, i) + at, bytes, n, error);
}

enum ds4_status gguf_writer_read(const struct gguf_writer *w, size_t i, uint64_t at, void *bytes, size_t n,
                                 struct ds4_error *error)
{
    uint64_t end;
    if (!w->begun || i >= w->tensors.n || !add_ok(at, n, &end) || end > w->tensors.items[i].size_bytes)
        return err_set(error, DS4_ERR_STATE, "%s: %zu bytes at %llu lie outside tensor %zu", w->path, n,
                       (unsigned long long)at, i);
    return file_read_at(w->fd, w->part_path, gguf_writer_tensor_offset(w, i) + at, bytes, n, error);
}

enum ds4_status gguf_writer_finish(struct gguf_writer *w, struct ds4_error *error)
{
    if (!w->begun || w->finished) return err_set(error, DS4_ERR_STATE, "%s: nothing to finish", w->path);
    if (w->patched) TRY(file_write_at(w->fd, w->part_path, HEAD_BYTES, w->kvs.text.ptr, w->kvs.text.len, error));
    TRY(file_resize(w->fd, w->part_path, w->data_base + w->data_bytes, error));
    TRY(file_sync(w->fd, w->part_path, error));
    TRY(file_rename(w->part_path, w->path, error));
    w->finished = true;
    return DS4_OK;
}
