/* safetensors.c - the safetensors layout: bytes -> descriptors. Little-endian.
 *
 *   OFFSET SIZE  DESCRIPTION
 *   0      8     n, length of the header; n <= size of the file - 8
 *   8      n     JSON object: name -> {"dtype", "shape" (outermost first), "data_offsets": [begin, end)}, offsets
 *                counted from 8 + n; "__metadata__" is skipped
 *   8+n    ...   data
 *
 * Refused: what is not such an object, a name twice (in a file or in two), a type that is not known, more than four
 * dimensions or an empty one, begin > end, ranges outside the data, shape and range that disagree, ranges that
 * overlap. The index maps names to shards: a shard is a plain file name in the folder, and must hold what the index
 * promises. Source: the format's description by its authors; facts about the published checkpoint. */
#include "tools/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#define INDEX_NAME "model.safetensors.index.json"
#define PATH_BYTES 4096
#define ARENA_BYTES_MAX ((size_t)512 << 20)

struct shard {
    const char *path; /* in the arena */
    int fd;
    const uint8_t *bytes; /* of a file in memory */
    uint64_t size_bytes, mtime_ns;
};

struct safetensors {
    struct shard shards[SAFETENSORS_SHARDS_MAX];
    uint32_t n_shards;
    struct safetensors_tensor *tensors; /* by name */
    size_t n, cap;
    struct arena arena;
};

static const struct { const char *name; uint64_t bytes; } types[] = {
#define X(name, bytes) {#name, bytes},
    SAFETENSORS_TYPES(X)
#undef X
};
#define N_TYPES (sizeof types / sizeof *types)

const char *safetensors_type_name(enum safetensors_type type) { return types[type].name; }

static bool find_type(const char *name, enum safetensors_type *out)
{
    for (size_t i = 0; i < N_TYPES; i++) {
        if (strcmp(types[i].name, name) != 0) continue;
        *out = (enum safetensors_type)i;
        return true;
    }
    return false;
}

/* A name of the file for a message, harmless on a terminal. */
struct shown {
    char text[64];
};
static struct shown show(struct ds4_span name)
{
    struct shown s;
    size_t n = name.len < sizeof s.text - 1 ? name.len : sizeof s.text - 1;
    for (size_t i = 0; i < n; i++) {
        char c = name.ptr[i];
        s.text[i] = c;
        if (c < ' ' || c > '~') s.text[i] = '?';
    }
    s.text[n] = 0;
    return s;
}

static enum ds4_status bad(struct ds4_error *error, const struct shard *shard, struct ds4_span name, const char *what)
{
    return err_set(error, DS4_ERR_FORMAT, "%s: tensor \"%s\": %s", shard->path, show(name).text, what);
}

static bool read_number(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static enum ds4_status read_shape(const struct shard *shard, const json_t *shape, struct safetensors_tensor *t,
                                  uint64_t *span, struct ds4_error *error)
{
    if (!json_is_array(shape)) return bad(error, shard, t->name, "no shape");
    if (json_array_size(shape) > SAFETENSORS_DIMS_MAX) return bad(error, shard, t->name, "more than four dimensions");
    t->n_dims = (uint32_t)json_array_size(shape);
    *span = types[t->type].bytes;
    for (uint32_t i = 0; i < SAFETENSORS_DIMS_MAX; i++) {
        t->dims[i] = 1;
        if (i >= t->n_dims) continue;
        if (!read_number(json_array_get(shape, i), &t->dims[i]) || t->dims[i] == 0)
            return bad(error, shard, t->name, "a dimension that is no positive number");
        if (!mul_ok(*span, t->dims[i], span)) return bad(error, shard, t->name, "a shape too large for any file");
    }
    return DS4_OK;
}

/* What the header says of one tensor. data_at: offset of the data in the file. */
static enum ds4_status read_tensor(const struct shard *shard, uint64_t data_at, const json_t *record,
                                   struct safetensors_tensor *t, struct ds4_error *error)
{
    uint64_t span = 0, begin = 0, end = 0;
    const json_t *offsets = json_object_get(record, "data_offsets");
    const char *type = json_string_value(json_object_get(record, "dtype"));
    if (t->name.len == 0 || t->name.len > SAFETENSORS_NAME_BYTES_MAX)
        return bad(error, shard, t->name, "a name of no length, or of more than 255 bytes");
    if (!json_is_object(record)) return bad(error, shard, t->name, "described by something that is no object");
    if (!type || !find_type(type, &t->type)) return bad(error, shard, t->name, "a dtype that is not known");
    TRY(read_shape(shard, json_object_get(record, "shape"), t, &span, error));
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !read_number(json_array_get(offsets, 0), &begin) ||
        !read_number(json_array_get(offsets, 1), &end))
        return bad(error, shard, t->name, "data_offsets are no pair of numbers");
    if (begin > end) return bad(error, shard, t->name, "data end before they begin");
    if (end > shard->size_bytes - data_at) return bad(error, shard, t->name, "data beyond the end of the file");
    if (end - begin != span) return bad(error, shard, t->name, "shape and data differ in size");
    t->file_offset = data_at + begin;
    t->size_bytes = span;
    return DS4_OK;
}

static enum ds4_status add_tensor(struct safetensors *s, const struct safetensors_tensor *t, struct ds4_error *error)
{
    if (s->n == SAFETENSORS_TENSORS_MAX)
        return err_set(error, DS4_ERR_LIMIT, "more than %d tensors", SAFETENSORS_TENSORS_MAX);
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 256;
        void *bigger = mem_realloc(s->tensors, cap, sizeof *s->tensors);
        if (!bigger) return err_set(error, DS4_ERR_NOMEM, "no memory for %zu tensors", cap);
        s->tensors = bigger;
        s->cap = cap;
    }
    struct safetensors_tensor *place = &s->tensors[s->n];
    *place = *t;
    place->name = arena_copy(&s->arena, t->name);
    if (!place->name.ptr) return err_set(error, DS4_ERR_NOMEM, "no memory for the names of tensors");
    s->n++;
    return DS4_OK;
}

static enum ds4_status parse_json(const char *path, struct ds4_span text, json_t **out, struct ds4_error *error)
{
    json_error_t why;
    *out = NULL;
    if (text.len == 0 || memchr(text.ptr, 0, text.len))
        return err_set(error, DS4_ERR_FORMAT, "%s: no JSON, or a NUL in it", path);
    *out = json_loadb(text.ptr, text.len, JSON_REJECT_DUPLICATES, &why);
    if (!*out) return err_set(error, DS4_ERR_FORMAT, "%s: %.200s", path, show(span_from(why.text)).text);
    if (json_is_object(*out)) return DS4_OK;
    json_decref(*out);
    *out = NULL;
    return err_set(error, DS4_ERR_FORMAT, "%s: the JSON is no object", path);
}

static int by_place(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    return x->file_offset < y->file_offset ? -1 : x->file_offset > y->file_offset;
}

static int compare_names(struct ds4_span a, struct ds4_span b)
{
    int order = memcmp(a.ptr, b.ptr, a.len < b.len ? a.len : b.len);
    return order ? order : a.len < b.len ? -1 : a.len > b.len;
}

static int by_name(const void *a, const void *b)
{
    return compare_names(((const struct safetensors_tensor *)a)->name, ((const struct safetensors_tensor *)b)->name);
}

/* Tensors first..n lie in one file: none may share a byte with another. */
static enum ds4_status check_overlap(struct safetensors *s, size_t first, const struct shard *shard,
                                     struct ds4_error *error)
{
    if (s->n > first) qsort(s->tensors + first, s->n - first, sizeof *s->tensors, by_place);
    for (size_t i = first + 1; i < s->n; i++)
        if (s->tensors[i].file_offset < s->tensors[i - 1].file_offset + s->tensors[i - 1].size_bytes)
            return bad(error, shard, s->tensors[i].name, "data overlap those of another");
    return DS4_OK;
}

static enum ds4_status read_header(struct safetensors *s, uint32_t shard_i, struct ds4_span text,
                                   struct ds4_error *error)
{
    const struct shard *shard = &s->shards[shard_i];
    enum ds4_status status = DS4_OK;
    size_t first = s->n;
    json_t *root, *record;
    const char *name;
    TRY(parse_json(shard->path, text, &root, error));
    json_object_foreach(root, name, record) {
        struct safetensors_tensor t = {.name = span_from(name), .shard_i = shard_i};
        if (strcmp(name, "__metadata__") == 0) continue;
        TRY_GOTO(read_tensor(shard, 8 + text.len, record, &t, error), out);
        TRY_GOTO(add_tensor(s, &t, error), out);
    }
    status = check_overlap(s, first, shard, error);
out:
    json_decref(root);
    return status;
}

static enum ds4_status read_bytes(const struct shard *shard, uint64_t at, void *buf, size_t n, struct ds4_error *error)
{
    if (!shard->bytes) return file_read_at(shard->fd, shard->path, at, buf, n, error);
    memcpy(buf, shard->bytes + at, n);
    return DS4_OK;
}

static enum ds4_status read_shard(struct safetensors *s, uint32_t shard_i, struct ds4_error *error)
{
    const struct shard *shard = &s->shards[shard_i];
    uint64_t n;
    if (shard->size_bytes < 8)
        return err_set(error, DS4_ERR_FORMAT, "%s: %llu bytes are no safetensors file", shard->path,
                       (unsigned long long)shard->size_bytes);
    TRY(read_bytes(shard, 0, &n, sizeof n, error));
    if (n > shard->size_bytes - 8)
        return err_set(error, DS4_ERR_FORMAT, "%s: a header of %llu bytes in a file of %llu", shard->path,
                       (unsigned long long)n, (unsigned long long)shard->size_bytes);
    if (n > SAFETENSORS_JSON_BYTES_MAX)
        return err_set(error, DS4_ERR_LIMIT, "%s: a header of %llu bytes; at most %zu", shard->path,
                       (unsigned long long)n, SAFETENSORS_JSON_BYTES_MAX);
    char *text = mem_alloc((size_t)n, 1);
    if (!text) return err_set(error, DS4_ERR_NOMEM, "no memory for the header of %s", shard->path);
    enum ds4_status status = read_bytes(shard, 8, text, (size_t)n, error);
    if (status == DS4_OK) status = read_header(s, shard_i, span_make(text, (size_t)n), error);
    mem_free(text);
    return status;
}

/* The list in order of names, without a name twice. */
static enum ds4_status sort_names(struct safetensors *s, struct ds4_error *error)
{
    if (s->n > 1) qsort(s->tensors, s->n, sizeof *s->tensors, by_name);
    for (size_t i = 1; i < s->n; i++)
        if (span_eq(s->tensors[i].name, s->tensors[i - 1].name))
            return bad(error, &s->shards[s->tensors[i].shard_i], s->tensors[i].name, "is in two files");
    return DS4_OK;
}

/* ---- folders ------------------------------------------------------------------------------------------------ */

static bool is_plain_name(const char *name)
{
    static const char tail[] = ".safetensors";
    size_t n = strlen(name), m = sizeof tail - 1;
    return n > m && n <= SAFETENSORS_NAME_BYTES_MAX && strcmp(name + n - m, tail) == 0 && name[0] != '.' &&
           !strpbrk(name, "/\\") && !strstr(name, "..");
}

static enum ds4_status open_shard(struct safetensors *s, const char *folder, const char *name, uint32_t *shard_i,
                                  struct ds4_error *error)
{
    char path[PATH_BYTES];
    struct file_id id;
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!is_plain_name(name) || n < 0 || (size_t)n >= sizeof path)
        return err_set(error, DS4_ERR_FORMAT, "%s: \"%s\" is no name of a shard", folder, show(span_from(name)).text);
    for (*shard_i = 0; *shard_i < s->n_shards; ++*shard_i)
        if (strcmp(s->shards[*shard_i].path, path) == 0) return DS4_OK;
    if (s->n_shards == SAFETENSORS_SHARDS_MAX)
        return err_set(error, DS4_ERR_LIMIT, "%s: more than %d shards", folder, SAFETENSORS_SHARDS_MAX);
    struct shard *shard = &s->shards[s->n_shards];
    struct ds4_span copy = arena_copy(&s->arena, span_make(path, (size_t)n));
    if (!copy.ptr) return err_set(error, DS4_ERR_NOMEM, "no memory for the names of shards");
    *shard = (struct shard){.path = path, .fd = -1};
    enum ds4_status status = file_open(path, FILE_READ, &shard->fd, error);
    if (status == DS4_OK) status = file_identity(shard->fd, path, &id, error);
    shard->path = copy.ptr;
    s->n_shards++;
    TRY(status);
    shard->size_bytes = id.size_bytes;
    shard->mtime_ns = id.mtime_ns;
    return read_shard(s, *shard_i, error);
}

/* Opens what the index names, then holds it to its word. */
static enum ds4_status read_index(struct safetensors *s, const char *folder, const json_t *map,
                                  struct ds4_error *error)
{
    const char *name;
    json_t *value;
    uint32_t shard_i;
    if (!json_is_object(map)) return err_set(error, DS4_ERR_FORMAT, "%s/" INDEX_NAME ": no weight_map", folder);
    json_object_foreach((json_t *)(uintptr_t)map, name, value) {
        if (!json_is_string(value))
            return err_set(error, DS4_ERR_FORMAT, "%s/" INDEX_NAME ": \"%s\" lies in no file", folder,
                           show(span_from(name)).text);
        TRY(open_shard(s, folder, json_string_value(value), &shard_i, error));
    }
    TRY(sort_names(s, error));
    json_object_foreach((json_t *)(uintptr_t)map, name, value) {
        const struct safetensors_tensor *t = safetensors_find(s, span_from(name));
        TRY(open_shard(s, folder, json_string_value(value), &shard_i, error));
        if (!t || t->shard_i != shard_i)
            return err_set(error, DS4_ERR_FORMAT, "%s: tensor \"%s\" is missing there, but the index promises it",
                           s->shards[shard_i].path, show(span_from(name)).text);
    }
    return DS4_OK;
}

static enum ds4_status open_folder(struct safetensors *s, const char *folder, struct ds4_error *error)
{
    char path[PATH_BYTES];
    struct ds4_text text = {0};
    json_t *root = NULL;
    uint32_t shard_i;
    int n = snprintf(path, sizeof path, "%s/" INDEX_NAME, folder);
    if (n < 0 || (size_t)n >= sizeof path) return err_set(error, DS4_ERR_LIMIT, "the path of the folder is too long");
    if (file_read_all(path, SAFETENSORS_JSON_BYTES_MAX, &text, NULL) != DS4_OK) {
        struct ds4_error why = {0};
        if (open_shard(s, folder, "model.safetensors", &shard_i, &why) == DS4_OK) return sort_names(s, error);
        if (s->shards[0].fd >= 0) return err_set(error, why.status, "%s", why.message);
        return err_set(error, DS4_ERR_IO, "%s: neither " INDEX_NAME " nor model.safetensors can be read there", folder);
    }
    enum ds4_status status = parse_json(path, span_make(text.ptr ? text.ptr : "", text.len), &root, error);
    if (status == DS4_OK) status = read_index(s, folder, json_object_get(root, "weight_map"), error);
    json_decref(root);
    ds4_text_free(&text);
    return status;
}

static enum ds4_status create(struct safetensors **out, struct ds4_error *error)
{
    *out = mem_zalloc(1, sizeof **out);
    if (!*out) return err_set(error, DS4_ERR_NOMEM, "no memory to open a checkpoint");
    arena_init(&(*out)->arena, ARENA_BYTES_MAX);
    return DS4_OK;
}

enum ds4_status safetensors_open(const char *folder, struct safetensors **out, struct ds4_error *error)
{
    TRY(create(out, error));
    enum ds4_status status = open_folder(*out, folder, error);
    if (status == DS4_OK) return DS4_OK;
    safetensors_close(*out);
    *out = NULL;
    return status;
}

enum ds4_status safetensors_open_memory(const uint8_t *bytes, uint64_t size, struct safetensors **out,
                                        struct ds4_error *error)
{
    TRY(create(out, error));
    (*out)->shards[0] = (struct shard){.path = "memory", .fd = -1, .bytes = bytes, .size_bytes = size};
    (*out)->n_shards = 1;
    enum ds4_status status = read_shard(*out, 0, error);
    if (status == DS4_OK) status = sort_names(*out, error);
    if (status == DS4_OK) return DS4_OK;
    safetensors_close(*out);
    *out = NULL;
    return status;
}

void safetensors_close(struct safetensors *s)
{
    if (!s) return;
    for (uint32_t i = 0; i < s->n_shards; i++) file_close(s->shards[i].fd);
    mem_free(s->tensors);
    arena_deinit(&s->arena);
    mem_free(s);
}

size_t safetensors_count(const struct safetensors *s) { return s->n; }
const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t i) { return &s->tensors[i]; }

const struct safetensors_tensor *safetensors_find(const struct safetensors *s, struct ds4_span name)
{
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare_names(name, s->tensors[middle].name);
        if (order == 0) return &s->tensors[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

enum ds4_status safetensors_read(const struct safetensors *s, const struct safetensors_tensor *t, uint64_t at,
                                 void *buf, size_t n, struct ds4_error *error)
{
    if (at > t->size_bytes || n > t->size_bytes - at)
        return err_set(error, DS4_ERR_STATE, "tensor \"%s\": read outside its data", show(t->name).text);
    return read_bytes(&s->shards[t->shard_i], t->file_offset + at, buf, n, error);
}

uint64_t safetensors_bytes(const struct safetensors *s)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < s->n_shards; i++) sum += s->shards[i].size_bytes;
    return sum;
}

uint64_t safetensors_stamp(const struct safetensors *s)
{
    uint64_t stamp = 0;
    for (uint32_t i = 0; i < s->n_shards; i++) {
        uint64_t record[3] = {stamp, s->shards[i].size_bytes, s->shards[i].mtime_ns};
        stamp = hash_u64(record, sizeof record);
    }
    return stamp;
}

void safetensors_digest(const struct safetensors *s, uint8_t digest[16])
{
    uint8_t chain[32] = {0}; /* digest so far, digest of the next one */
    for (size_t i = 0; i < s->n; i++) {
        const struct safetensors_tensor *t = &s->tensors[i];
        uint8_t record[SAFETENSORS_NAME_BYTES_MAX + 48];
        uint64_t numbers[6] = {(uint64_t)t->type, t->dims[0], t->dims[1], t->dims[2], t->file_offset, t->size_bytes};
        memcpy(record, numbers, sizeof numbers);
        memcpy(record + sizeof numbers, t->name.ptr, t->name.len);
        hash_bytes(record, sizeof numbers + t->name.len, chain + 16);
        hash_bytes(chain, sizeof chain, chain);
    }
    memcpy(digest, chain, 16);
}
