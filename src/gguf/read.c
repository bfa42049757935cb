/* read.c - the directory of a GGUF file: bytes -> verified descriptors.
 *
 * Little-endian; nothing is aligned before the data.
 *   OFFSET   SIZE  DESCRIPTION
 *   0        4     "GGUF"
 *   4        4     u32 version, 3 (2 has the same layout)
 *   8        8     u64 number of tensors
 *   16       8     u64 number of key-value pairs
 *   24       ...   pairs: string key, u32 type, value
 *   ...      ...   tensors: string name, u32 n_dims, u64 dims[n_dims] (contiguous one first), u32 format,
 *                  u64 offset from the data base
 *   ...            zeros up to a multiple of general.alignment (32 when the key is absent): the data base
 *
 *   string = u64 length, bytes.   array = u32 item type, u64 count, items back to back.
 *
 * The bytes are hostile. Nothing is read before `take` has compared the wish with what is left; every sum and product
 * is checked; numbers of records are bounded by the bytes that are left before memory is asked for them. Every refusal
 * names the file and the byte. Source: the GGUF specification; the limits are ours. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "gguf/impl.h"
#include "quant/quant.h"

#define HEADER_BYTES 24
#define KV_BYTES_MIN 14      /* one-byte key, one-byte value */
#define TENSOR_BYTES_MIN 33  /* one-byte name, one dimension */

/* The Flash file has 62 pairs, 1328 tensors and a directory of 5.3 MB, most of it vocabulary. A header of 64 MiB leaves
 * room for larger vocabularies and bounds what opening a file may cost. */
const struct gguf_limits gguf_limits_default = {
    .kvs_max = 4096, .tensors_max = 16384, .key_bytes_max = 65535, .name_bytes_max = 255,
    .header_bytes_max = 64u << 20,
};

struct reader {
    const uint8_t *bytes;
    uint64_t size, pos; /* pos <= size always */
    uint64_t file_size; /* size without the cap of the limits */
    const char *path;
    const struct gguf_limits *limits;
    struct ds4_error *error;
};

__attribute__((format(printf, 4, 5)))
static enum ds4_status refuse(struct reader *r, enum ds4_status status, uint64_t at, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_set(r->error, status, "%s: byte %llu: %s", r->path, (unsigned long long)at, text);
}

/* *at = the next n bytes, which are then behind us. */
static enum ds4_status take(struct reader *r, uint64_t n, const char *what, const uint8_t **at)
{
    if (n > r->size - r->pos) {
        if (r->size < r->file_size)
            return refuse(r, DS4_ERR_LIMIT, r->pos, "%s: the directory is longer than %llu bytes", what,
                          (unsigned long long)r->size);
        return refuse(r, DS4_ERR_FORMAT, r->pos, "the file ends inside %s (%llu bytes wanted, %llu left)", what,
                      (unsigned long long)n, (unsigned long long)(r->size - r->pos));
    }
    *at = r->bytes + r->pos;
    r->pos += n;
    return DS4_OK;
}

static enum ds4_status take_u32(struct reader *r, const char *what, uint32_t *v)
{
    const uint8_t *at;
    TRY(take(r, 4, what, &at));
    *v = load_u32(at);
    return DS4_OK;
}

static enum ds4_status take_u64(struct reader *r, const char *what, uint64_t *v)
{
    const uint8_t *at;
    TRY(take(r, 8, what, &at));
    *v = load_u64(at);
    return DS4_OK;
}

static enum ds4_status take_string(struct reader *r, const char *what, struct ds4_span *s)
{
    uint64_t len;
    const uint8_t *at;
    TRY(take_u64(r, what, &len));
    TRY(take(r, len, what, &at));
    *s = span_make((const char *)at, (size_t)len);
    return DS4_OK;
}

/* A key or a tensor name: not empty, not longer than max, no NUL. */
static enum ds4_status take_name(struct reader *r, const char *what, uint64_t max, struct ds4_span *name)
{
    uint64_t at = r->pos;
    TRY(take_string(r, what, name));
    if (name->len == 0) return refuse(r, DS4_ERR_FORMAT, at, "%s is empty", what);
    if (name->len > max)
        return refuse(r, DS4_ERR_LIMIT, at, "%s has %zu bytes, more than %llu", what, name->len,
                      (unsigned long long)max);
    if (memchr(name->ptr, 0, name->len)) return refuse(r, DS4_ERR_FORMAT, at, "%s holds a NUL byte", what);
    return DS4_OK;
}

static enum ds4_status read_header(struct reader *r, uint64_t *n_tensors, uint64_t *n_kvs)
{
    const uint8_t *at;
    if (r->file_size < HEADER_BYTES)
        return refuse(r, DS4_ERR_FORMAT, r->file_size, "the file is shorter than a header of %d bytes", HEADER_BYTES);
    TRY(take(r, 4, "the magic", &at));
    if (memcmp(at, "GGUF", 4) != 0)
        return refuse(r, DS4_ERR_FORMAT, 0, "not a GGUF file: the magic is \"%s\" (%02x %02x %02x %02x)",
                      gguf_show(span_make((const char *)at, 4)).text, at[0], at[1], at[2], at[3]);
    uint32_t version;
    TRY(take_u32(r, "the version", &version));
    if ((version & 0xFFFFu) == 0 && version != 0)
        return refuse(r, DS4_ERR_UNSUPPORTED, 4, "big-endian file (version %08x); convert it to little-endian",
                      version);
    if (version != 2 && version != 3)
        return refuse(r, DS4_ERR_UNSUPPORTED, 4, "GGUF version %u; 2 and 3 are known", version);
    TRY(take_u64(r, "the number of tensors", n_tensors));
    TRY(take_u64(r, "the number of keys", n_kvs));
    uint64_t left = r->file_size - r->pos;
    if (*n_kvs > left / KV_BYTES_MIN)
        return refuse(r, DS4_ERR_FORMAT, 16, "%llu keys cannot fit into the %llu bytes that follow",
                      (unsigned long long)*n_kvs, (unsigned long long)left);
    if (*n_tensors > (left - *n_kvs * KV_BYTES_MIN) / TENSOR_BYTES_MIN)
        return refuse(r, DS4_ERR_FORMAT, 8, "%llu tensors cannot fit into the %llu bytes that follow",
                      (unsigned long long)*n_tensors, (unsigned long long)left);
    if (*n_kvs > r->limits->kvs_max)
        return refuse(r, DS4_ERR_LIMIT, 16, "%llu keys, more than %llu", (unsigned long long)*n_kvs,
                      (unsigned long long)r->limits->kvs_max);
    if (*n_tensors > r->limits->tensors_max)
        return refuse(r, DS4_ERR_LIMIT, 8, "%llu tensors, more than %llu", (unsigned long long)*n_tensors,
                      (unsigned long long)r->limits->tensors_max);
    return DS4_OK;
}

static enum ds4_status check_bools(struct reader *r, const uint8_t *at, uint64_t n, const char *key)
{
    for (uint64_t i = 0; i < n; i++)
        if (at[i] > 1)
            return refuse(r, DS4_ERR_FORMAT, (uint64_t)(at - r->bytes) + i, "key %s: a bool of value %u", key, at[i]);
    return DS4_OK;
}

static enum ds4_status read_array(struct reader *r, const char *key, struct gguf_value *v)
{
    uint64_t at = r->pos, bytes;
    uint32_t item;
    TRY(take_u32(r, "an array's item type", &item));
    if (item == GGUF_ARRAY) return refuse(r, DS4_ERR_UNSUPPORTED, at, "key %s: an array of arrays", key);
    uint32_t item_bytes = item == GGUF_STRING ? 8 : gguf_scalar_bytes(item);
    if (item_bytes == 0) return refuse(r, DS4_ERR_FORMAT, at, "key %s: unknown item type %u", key, item);
    TRY(take_u64(r, "an array's count", &v->count));
    uint64_t left = r->file_size - r->pos;
    if (!mul_ok(v->count, item_bytes, &bytes) || bytes > left)
        return refuse(r, DS4_ERR_FORMAT, at + 4, "key %s: %llu items of %u bytes or more cannot fit into %llu", key,
                      (unsigned long long)v->count, item_bytes, (unsigned long long)left);
    v->item_type = (enum gguf_type)item;
    v->offset = r->pos;
    v->bytes = r->bytes + r->pos;
    if (item == GGUF_STRING) {
        struct ds4_span s;
        for (uint64_t i = 0; i < v->count; i++) TRY(take_string(r, "a string of an array", &s));
        v->size_bytes = r->pos - v->offset;
        return DS4_OK;
    }
    v->size_bytes = bytes;
    TRY(take(r, bytes, "an array", &v->bytes));
    return item == GGUF_BOOL ? check_bools(r, v->bytes, v->count, key) : DS4_OK;
}

static enum ds4_status read_value(struct reader *r, const char *key, struct gguf_value *v)
{
    uint64_t at = r->pos;
    uint32_t type;
    TRY(take_u32(r, "a value's type", &type));
    uint32_t bytes = gguf_scalar_bytes(type);
    if (bytes == 0 && type != GGUF_STRING && type != GGUF_ARRAY)
        return refuse(r, DS4_ERR_FORMAT, at, "key %s: unknown value type %u", key, type);
    *v = (struct gguf_value){.type = (enum gguf_type)type, .item_type = (enum gguf_type)type, .count = 1};
    if (type == GGUF_ARRAY) return read_array(r, key, v);
    v->offset = r->pos;
    v->bytes = r->bytes + r->pos;
    struct ds4_span s;
    if (type == GGUF_STRING) {
        TRY(take_string(r, "a string value", &s));
        v->size_bytes = 8 + s.len;
        return DS4_OK;
    }
    v->size_bytes = bytes;
    TRY(take(r, bytes, "a value", &v->bytes));
    return type == GGUF_BOOL ? check_bools(r, v->bytes, 1, key) : DS4_OK;
}

static enum ds4_status read_kvs(struct reader *r, uint64_t n, struct gguf_directory *d)
{
    d->kvs = mem_zalloc((size_t)n, sizeof *d->kvs);
    if (!d->kvs || gguf_names_init(&d->kv_names, (size_t)n) != DS4_OK)
        return err_set(r->error, DS4_ERR_NOMEM, "%s: out of memory for %llu keys", r->path, (unsigned long long)n);
    for (size_t i = 0; i < n; i++) {
        struct gguf_kv *kv = &d->kvs[i];
        uint64_t at = r->pos;
        TRY(take_name(r, "a key", r->limits->key_bytes_max, &kv->key));
        struct gguf_shown shown = gguf_show(kv->key);
        uint32_t *slot = gguf_names_slot(&d->kv_names, kv->key, gguf_kv_name, d->kvs);
        if (*slot) return refuse(r, DS4_ERR_FORMAT, at, "key %s stands twice", shown.text);
        TRY(read_value(r, shown.text, &kv->value));
        *slot = (uint32_t)i + 1;
        d->n_kvs++;
        if (!span_eq(kv->key, SPAN("general.alignment"))) continue;
        if (kv->value.type != GGUF_U32)
            return refuse(r, DS4_ERR_FORMAT, at, "general.alignment is %s, not u32", gguf_type_name(kv->value.type));
        uint32_t a = load_u32(kv->value.bytes);
        if (a < GGUF_ALIGNMENT_MIN || a > GGUF_ALIGNMENT_MAX || (a & (a - 1)))
            return refuse(r, DS4_ERR_FORMAT, at, "general.alignment %u is not a power of two from %u to %u", a,
                          GGUF_ALIGNMENT_MIN, GGUF_ALIGNMENT_MAX);
        d->alignment = a;
    }
    return DS4_OK;
}

/* The one place that turns type and dims into bytes. */
static enum ds4_status measure(struct reader *r, uint64_t at, const char *name, struct gguf_tensor *t)
{
    uint64_t elems = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->dims[i] == 0) return refuse(r, DS4_ERR_FORMAT, at, "tensor %s: dimension %u is zero", name, i);
        if (t->dims[i] > INT64_MAX || !mul_ok(elems, t->dims[i], &elems) || elems > INT64_MAX)
            return refuse(r, DS4_ERR_FORMAT, at, "tensor %s: more than 2^63 elements", name);
    }
    const struct quant_format *format = quant_format(t->type);
    if (!format) return DS4_OK; /* never touched; who needs the tensor refuses it by name */
    if (t->dims[0] % format->block_elems)
        return refuse(r, DS4_ERR_FORMAT, at, "tensor %s: rows of %llu are not whole %s blocks of %u", name,
                      (unsigned long long)t->dims[0], format->name, format->block_elems);
    if (!mul_ok(elems / format->block_elems, format->block_bytes, &t->size_bytes) || t->size_bytes > INT64_MAX)
        return refuse(r, DS4_ERR_FORMAT, at, "tensor %s: more than 2^63 bytes", name);
    return DS4_OK;
}

/* Leaves in file_offset the offset from the data base, which is not known yet. */
static enum ds4_status read_tensor(struct reader *r, struct gguf_directory *d, struct gguf_tensor *t)
{
    uint64_t at = r->pos;
    TRY(take_name(r, "a tensor name", r->limits->name_bytes_max, &t->name));
    struct gguf_shown shown = gguf_show(t->name);
    uint32_t *slot = gguf_names_slot(&d->tensor_names, t->name, gguf_tensor_name, d->tensors);
    if (*slot) return refuse(r, DS4_ERR_FORMAT, at, "tensor %s stands twice", shown.text);
    uint64_t dims_at = r->pos;
    TRY(take_u32(r, "a tensor's number of dimensions", &t->n_dims));
    if (t->n_dims < 1 || t->n_dims > GGUF_DIMS_MAX)
        return refuse(r, DS4_ERR_FORMAT, dims_at, "tensor %s has %u dimensions, not 1 to %d", shown.text, t->n_dims,
                      GGUF_DIMS_MAX);
    for (uint32_t i = 0; i < GGUF_DIMS_MAX; i++) t->dims[i] = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) TRY(take_u64(r, "a tensor's dimensions", &t->dims[i]));
    TRY(take_u32(r, "a tensor's type", &t->type));
    TRY(measure(r, dims_at, shown.text, t));
    uint64_t offset_at = r->pos;
    TRY(take_u64(r, "a tensor's offset", &t->file_offset));
    if (t->file_offset % d->alignment)
        return refuse(r, DS4_ERR_FORMAT, offset_at, "tensor %s: offset %llu is not a multiple of %llu", shown.text,
                      (unsigned long long)t->file_offset, (unsigned long long)d->alignment);
    *slot = (uint32_t)d->n_tensors + 1;
    d->n_tensors++;
    return DS4_OK;
}

/* Offsets from the data base become places in the file, all of them inside it. */
static enum ds4_status place_tensors(struct reader *r, struct gguf_directory *d)
{
    uint64_t end_max = 0;
    size_t last = 0;
    if (d->n_tensors && d->data_base > r->file_size)
        return refuse(r, DS4_ERR_FORMAT, r->file_size, "the file ends before its tensor data, which begin at byte %llu",
                      (unsigned long long)d->data_base);
    for (size_t i = 0; i < d->n_tensors; i++) {
        struct gguf_tensor *t = &d->tensors[i];
        uint64_t end;
        if (!add_ok(t->file_offset, d->data_base, &t->file_offset) || !add_ok(t->file_offset, t->size_bytes, &end) ||
            end > INT64_MAX)
            return refuse(r, DS4_ERR_FORMAT, d->data_base, "tensor %s: its offset lies beyond 2^63 bytes",
                          gguf_show(t->name).text);
        if (end > end_max) {
            end_max = end;
            last = i;
        }
        if (end <= r->file_size && t->size_bytes) t->data = r->bytes + t->file_offset;
    }
    if (end_max > r->file_size)
        return refuse(r, DS4_ERR_FORMAT, r->file_size,
                      "the file is %llu bytes shorter than its own directory says (tensor %s ends at byte %llu): "
                      "incomplete download", (unsigned long long)(end_max - r->file_size),
                      gguf_show(d->tensors[last].name).text, (unsigned long long)end_max);
    return DS4_OK;
}

struct extent {
    uint64_t begin;
    size_t tensor_i;
};

static int extent_compare(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->tensor_i < y->tensor_i ? -1 : x->tensor_i > y->tensor_i;
}

/* Sorted by place, each tensor must end where the next one begins, padding aside. An overlap is an attack or damage; a
 * gap means that the writer used another size for the type: some programs reuse type numbers for layouts of their own,
 * and decoding those would give rubbish. */
static enum ds4_status check_extents(struct reader *r, const struct gguf_directory *d)
{
    struct extent *extents = mem_alloc(d->n_tensors, sizeof *extents);
    if (!extents) return err_set(r->error, DS4_ERR_NOMEM, "%s: out of memory", r->path);
    enum ds4_status status = DS4_OK;
    for (size_t i = 0; i < d->n_tensors; i++) extents[i] = (struct extent){d->tensors[i].file_offset, i};
    qsort(extents, d->n_tensors, sizeof *extents, extent_compare);
    for (size_t i = 0; i + 1 < d->n_tensors && status == DS4_OK; i++) {
        const struct gguf_tensor *t = &d->tensors[extents[i].tensor_i], *next = &d->tensors[extents[i + 1].tensor_i];
        if (t->size_bytes == 0) continue; /* unknown type */
        uint64_t end = t->file_offset + t->size_bytes, gap_end = (end + d->alignment - 1) & ~(d->alignment - 1);
        if (next->file_offset < end)
            status = refuse(r, DS4_ERR_FORMAT, next->file_offset, "tensor %s overlaps tensor %s",
                            gguf_show(next->name).text, gguf_show(t->name).text);
        else if (next->file_offset != gap_end)
            status = refuse(r, DS4_ERR_UNSUPPORTED, next->file_offset,
                            "unknown type geometry: tensor %s (%s) takes %llu bytes, but %llu are there",
                            gguf_show(t->name).text, quant_format(t->type)->name, (unsigned long long)t->size_bytes,
                            (unsigned long long)(next->file_offset - t->file_offset));
    }
    mem_free(extents);
    return status;
}

static enum ds4_status read_directory(struct reader *r, struct gguf_directory *d)
{
    uint64_t n_tensors, n_kvs;
    d->alignment = GGUF_ALIGNMENT_DEFAULT;
    TRY(read_header(r, &n_tensors, &n_kvs));
    TRY(read_kvs(r, n_kvs, d));
    d->tensors = mem_zalloc((size_t)n_tensors, sizeof *d->tensors);
    if (!d->tensors || gguf_names_init(&d->tensor_names, (size_t)n_tensors) != DS4_OK)
        return err_set(r->error, DS4_ERR_NOMEM, "%s: out of memory for %llu tensors", r->path,
                       (unsigned long long)n_tensors);
    for (size_t i = 0; i < n_tensors; i++) TRY(read_tensor(r, d, &d->tensors[i]));
    d->data_base = (r->pos + d->alignment - 1) & ~(d->alignment - 1);
    TRY(place_tensors(r, d));
    return check_extents(r, d);
}

enum ds4_status gguf_directory_read(const uint8_t *bytes, uint64_t size, const char *path,
                                    const struct gguf_limits *limits, struct gguf_directory *directory,
                                    struct ds4_error *error)
{
    uint64_t read_max = size < limits->header_bytes_max ? size : limits->header_bytes_max;
    struct reader r = {bytes, read_max, 0, size, path, limits, error};
    memset(directory, 0, sizeof *directory);
    enum ds4_status status = read_directory(&r, directory);
    if (status != DS4_OK) gguf_directory_deinit(directory);
    return status;
}

void gguf_directory_deinit(struct gguf_directory *directory)
{
    mem_free(directory->kvs);
    mem_free(directory->tensors);
    gguf_names_deinit(&directory->kv_names);
    gguf_names_deinit(&directory->tensor_names);
    memset(directory, 0, sizeof *directory);
}
