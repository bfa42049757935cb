/* imatrix_file.c - the importance file in the layout that other quantisers read. Little-endian.
 *
 *   OFFSET SIZE  DESCRIPTION
 *   0      4     i32 n: entries
 *   then n times:
 *          4     i32 length of the name, 1 to 4096
 *          ...   name: of the GGUF tensor
 *          4     i32 calls: a positive number divides the values
 *          4     i32 m: values, 1 or more; columns, or columns times experts
 *          4 m   f32 values
 *   and, optionally:
 *          4     i32 chunks of the calibration text
 *          4     i32 length of its name
 *          ...   name
 *
 * Refused: counts beyond what the file can hold, a name twice, values that are not finite or negative, bytes that are
 * left over.
 *
 * Also read: the newer kind, a GGUF file of general.type "imatrix" with two F32 tensors for each weight,
 * "NAME.in_sum2" [experts][columns], sums of squares, and "NAME.counts" [experts][1], what divides them (0: never
 * seen, all columns count the same). */
#include "tools/imatrix_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "gguf/gguf.h"
#include "quant/quant.h"

#define BLOCK_FLOATS 65536u
#define SUMS SPAN(".in_sum2")

struct entry {
    struct ds4_span name;
    uint64_t at;
    uint32_t n_values;
    int32_t n_calls;
    uint32_t n_counts; /* of a GGUF file: counts of as many equal parts of the values, at counts_at */
    uint64_t counts_at;
};

struct imatrix_file {
    char path[4096];
    int fd;
    uint64_t size_bytes;
    struct entry *entries; /* by name */
    uint32_t n;
    uint32_t n_chunks;
    struct ds4_span dataset;
    uint8_t digest[16];
    struct arena arena;
};

struct reader {
    struct imatrix_file *file;
    uint64_t at;
    struct ds4_error *error;
    float *block; /* [BLOCK_FLOATS] */
    struct hash *hash;
};

static enum ds4_status bad(const struct reader *r, const char *what)
{
    return err_set(r->error, DS4_ERR_FORMAT, "%s: byte %llu: %s", r->file->path, (unsigned long long)r->at, what);
}

static enum ds4_status take(struct reader *r, void *bytes, uint64_t n)
{
    if (n > r->file->size_bytes - r->at) return bad(r, "the file ends too early");
    TRY(file_read_at(r->file->fd, r->file->path, r->at, bytes, (size_t)n, r->error));
    hash_update(r->hash, bytes, (size_t)n);
    r->at += n;
    return DS4_OK;
}

static enum ds4_status take_text(struct reader *r, uint32_t n_min, uint32_t n_max, struct ds4_span *out)
{
    char text[IMATRIX_NAME_BYTES_MAX];
    int32_t n;
    TRY(take(r, &n, 4));
    if (n < (int32_t)n_min || n > (int32_t)n_max) return bad(r, "a name of impossible length");
    TRY(take(r, text, (uint64_t)n));
    if (memchr(text, 0, (size_t)n)) return bad(r, "a NUL in a name");
    *out = arena_copy(&r->file->arena, span_make(text, (size_t)n));
    return out->ptr ? DS4_OK : err_set(r->error, DS4_ERR_NOMEM, "no memory for the entries of %s", r->file->path);
}

static enum ds4_status check_values(struct reader *r, uint64_t n)
{
    while (n > 0) {
        uint64_t part = n < BLOCK_FLOATS ? n : BLOCK_FLOATS;
        TRY(take(r, r->block, part * sizeof(float)));
        for (uint64_t i = 0; i < part; i++)
            if (!isfinite(r->block[i]) || r->block[i] < 0) return bad(r, "a value that is not finite or is negative");
        n -= part;
    }
    return DS4_OK;
}

static enum ds4_status read_entry(struct reader *r, struct entry *e)
{
    int32_t numbers[2];
    TRY(take_text(r, 1, IMATRIX_NAME_BYTES_MAX, &e->name));
    TRY(take(r, numbers, sizeof numbers));
    e->n_calls = numbers[0];
    e->at = r->at;
    if (numbers[1] < 1) return bad(r, "an entry without values");
    e->n_values = (uint32_t)numbers[1];
    if ((uint64_t)e->n_values * 4 > r->file->size_bytes - r->at) return bad(r, "more values than the file holds");
    return check_values(r, e->n_values);
}

static int by_name(const void *a, const void *b)
{
    struct ds4_span x = ((const struct entry *)a)->name, y = ((const struct entry *)b)->name;
    int order = memcmp(x.ptr, y.ptr, x.len < y.len ? x.len : y.len);
    return order ? order : x.len < y.len ? -1 : x.len > y.len;
}

static enum ds4_status sort_entries(const struct reader *r)
{
    const struct imatrix_file *f = r->file;
    qsort(f->entries, f->n, sizeof *f->entries, by_name);
    for (uint32_t i = 1; i < f->n; i++)
        if (span_eq(f->entries[i].name, f->entries[i - 1].name)) return bad(r, "an entry is there twice");
    return DS4_OK;
}

/* ---- GGUF --------------------------------------------------------------------------------------------------- */

static enum ds4_status add_sums(struct reader *r, const struct gguf_file *gguf, const struct gguf_tensor *sums)
{
    struct imatrix_file *f = r->file;
    struct entry *e = &f->entries[f->n];
    char name[IMATRIX_NAME_BYTES_MAX];
    size_t len = sums->name.len - SUMS.len;
    r->at = sums->file_offset;
    int n = snprintf(name, sizeof name, "%.*s.counts", (int)len, sums->name.ptr);
    if (len == 0 || n < 0 || (size_t)n >= sizeof name) return bad(r, "a name of impossible length");
    const struct gguf_tensor *counts = gguf_tensor_find(gguf, span_from(name));
    if (!counts) return bad(r, "sums without their counts");
    uint64_t n_values = sums->dims[0] * sums->dims[1];
    if (sums->type != QUANT_F32 || counts->type != QUANT_F32 || sums->dims[2] * sums->dims[3] != 1 ||
        sums->shard_i != 0 || counts->shard_i != 0 || n_values < 1 || n_values > UINT32_MAX || counts->dims[0] != 1 ||
        counts->dims[1] != sums->dims[1] || counts->dims[2] * counts->dims[3] != 1)
        return bad(r, "sums and counts must be F32, [experts][columns] and [experts][1]");
    *e = (struct entry){.name = arena_copy(&f->arena, span_make(name, len)), .at = sums->file_offset,
                        .n_values = (uint32_t)n_values, .n_counts = (uint32_t)counts->dims[1],
                        .counts_at = counts->file_offset};
    if (!e->name.ptr) return err_set(r->error, DS4_ERR_NOMEM, "no memory for the entries of %s", f->path);
    f->n++;
    hash_update(r->hash, name, len);
    TRY(check_values(r, n_values));
    r->at = counts->file_offset;
    return check_values(r, e->n_counts);
}

static enum ds4_status read_sums(struct reader *r, const struct gguf_file *gguf)
{
    struct imatrix_file *f = r->file;
    struct ds4_span text;
    const struct gguf_value *names = gguf_find(gguf, "imatrix.datasets");
    size_t n = gguf_n_tensors(gguf);
    uint64_t cursor = 0;
    if (n > 2 * (size_t)IMATRIX_ENTRIES_MAX) return bad(r, "no importance file: impossible number of entries");
    if (gguf_get_string(gguf, "general.type", &text, NULL) != DS4_OK || !span_eq(text, SPAN("imatrix")))
        return err_set(r->error, DS4_ERR_FORMAT, "%s is a GGUF file, but its general.type is not \"imatrix\"", f->path);
    f->entries = mem_zalloc(n + 1, sizeof *f->entries);
    if (!f->entries) return err_set(r->error, DS4_ERR_NOMEM, "no memory for the entries of %s", f->path);
    for (size_t i = 0; i < n; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(gguf, i);
        if (span_ends(t->name, SUMS)) TRY(add_sums(r, gguf, t));
    }
    if (f->n == 0) return bad(r, "no sums of any weight");
    if (gguf_get_u32(gguf, "imatrix.chunk_count", &f->n_chunks, NULL) != DS4_OK) f->n_chunks = 0;
    if (!names || names->item_type != GGUF_STRING || !gguf_next_string(names, &cursor, &text)) text = SPAN("");
    f->dataset = arena_copy(&f->arena, text);
    if (!f->dataset.ptr) return err_set(r->error, DS4_ERR_NOMEM, "no memory for the entries of %s", f->path);
    return sort_entries(r);
}

static enum ds4_status read_gguf(struct reader *r)
{
    struct gguf_file *gguf = NULL;
    enum ds4_status status = gguf_open(r->file->path, &gguf, r->error);
    if (status == DS4_OK) status = read_sums(r, gguf);
    gguf_close(gguf);
    return status;
}

/* ---- the older kind ----------------------------------------------------------------------------------------- */

static enum ds4_status read_all(struct reader *r)
{
    struct imatrix_file *f = r->file;
    int32_t n;
    TRY(take(r, &n, 4));
    if (memcmp(&n, "GGUF", 4) == 0) return read_gguf(r);
    if (n < 1 || (uint32_t)n > IMATRIX_ENTRIES_MAX) return bad(r, "no importance file: impossible number of entries");
    if ((uint64_t)n * 17 > f->size_bytes - r->at) return bad(r, "more entries than the file holds");
    f->entries = mem_zalloc((size_t)n, sizeof *f->entries);
    if (!f->entries) return err_set(r->error, DS4_ERR_NOMEM, "no memory for the entries of %s", f->path);
    for (f->n = 0; f->n < (uint32_t)n; f->n++) TRY(read_entry(r, &f->entries[f->n]));
    TRY(sort_entries(r));
    if (r->at == f->size_bytes) return DS4_OK;
    TRY(take(r, &n, 4));
    f->n_chunks = n > 0 ? (uint32_t)n : 0;
    TRY(take_text(r, 0, IMATRIX_TAIL_BYTES_MAX, &f->dataset));
    return r->at == f->size_bytes ? DS4_OK : bad(r, "bytes behind the end");
}

enum ds4_status imatrix_open(const char *path, struct imatrix_file **out, struct ds4_error *error)
{
    struct imatrix_file *f = mem_zalloc(1, sizeof *f);
    struct file_id id;
    enum ds4_status status;
    *out = NULL;
    if (!f) return err_set(error, DS4_ERR_NOMEM, "no memory to open %s", path);
    struct reader r = {.file = f, .error = error};
    (void)snprintf(f->path, sizeof f->path, "%s", path);
    arena_init(&f->arena, 0);
    f->fd = -1;
    r.block = mem_alloc(BLOCK_FLOATS, sizeof *r.block);
    r.hash = hash_create();
    if (!r.block || !r.hash) {
        status = err_set(error, DS4_ERR_NOMEM, "no memory to open %s", path);
        goto out;
    }
    TRY_GOTO(file_open(path, FILE_READ, &f->fd, error), out);
    TRY_GOTO(file_identity(f->fd, path, &id, error), out);
    f->size_bytes = id.size_bytes;
    TRY_GOTO(read_all(&r), out);
    hash_digest(r.hash, f->digest);
    *out = f;
out:
    mem_free(r.block);
    hash_destroy(r.hash);
    if (status != DS4_OK) imatrix_close(f);
    return status;
}

void imatrix_close(struct imatrix_file *f)
{
    if (!f) return;
    file_close(f->fd);
    mem_free(f->entries);
    arena_deinit(&f->arena);
    mem_free(f);
}

size_t imatrix_count(const struct imatrix_file *f) { return f->n; }
uint64_t imatrix_chunks(const struct imatrix_file *f) { return f->n_chunks; }
struct ds4_span imatrix_dataset(const struct imatrix_file *f) { return f->dataset; }
const char *imatrix_path(const struct imatrix_file *f) { return f->path; }
void imatrix_digest(const struct imatrix_file *f, uint8_t digest[16]) { memcpy(digest, f->digest, 16); }

/* ---- looking up --------------------------------------------------------------------------------------------- */

static const struct entry *find(const struct imatrix_file *f, const char *name)
{
    struct entry key = {.name = span_from(name)};
    return bsearch(&key, f->entries, f->n, sizeof *f->entries, by_name);
}

static enum ds4_status read_values(const struct imatrix_file *f, const struct entry *e, uint64_t first, uint64_t n,
                                   float *values, struct ds4_error *error)
{
    float divisor = (float)e->n_calls;
    TRY(file_read_at(f->fd, f->path, e->at + first * 4, values, (size_t)n * 4, error));
    if (e->n_counts) {
        uint64_t part = first / (e->n_values / e->n_counts);
        TRY(file_read_at(f->fd, f->path, e->counts_at + part * 4, &divisor, 4, error));
    }
    for (uint64_t i = 0; i < n; i++) {
        if (!isfinite(values[i]) || values[i] < 0 || !isfinite(divisor))
            return err_set(error, DS4_ERR_FORMAT, "%s changed while it was read", f->path);
        if (divisor > 0) values[i] /= divisor;
        else if (e->n_counts) values[i] = 1;
    }
    return DS4_OK;
}

enum ds4_status imatrix_look_up(const struct imatrix_file *f, const char *name, const char *official,
                                uint32_t matrix_i, uint32_t n_matrices, uint64_t n_cols, float *values, bool *found,
                                struct ds4_error *error)
{
    const char *const names[] = {name, official};
    char wanted[512];
    *found = false;
    for (size_t k = 0; k < 6; k++) {
        size_t pattern = k % 3;
        if (names[k / 3][0] == 0 || (n_matrices == 1 && pattern < 2)) continue;
        (void)(pattern == 0   ? snprintf(wanted, sizeof wanted, "%s.expert.%u", names[k / 3], matrix_i)
               : pattern == 1 ? snprintf(wanted, sizeof wanted, "%s.expert_%u", names[k / 3], matrix_i)
                              : snprintf(wanted, sizeof wanted, "%s", names[k / 3]));
        const struct entry *e = find(f, wanted);
        if (!e) continue;
        bool whole = pattern == 2 && n_matrices > 1 && e->n_values == n_cols * n_matrices;
        bool parts = e->n_counts < 2 || (whole && e->n_counts == n_matrices);
        if ((e->n_values != n_cols && !whole) || !parts)
            return err_set(error, DS4_ERR_FORMAT, "%s: entry \"%.100s\" has %u values for %llu columns", f->path,
                           wanted, e->n_values, (unsigned long long)n_cols);
        *found = true;
        return read_values(f, e, whole ? matrix_i * n_cols : 0, n_cols, values, error);
    }
    return DS4_OK;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

static enum ds4_status put(struct imatrix_writer *w, const void *bytes, size_t n, struct ds4_error *error)
{
    TRY(file_write_at(w->fd, w->part, w->at, bytes, n, error));
    w->at += n;
    return DS4_OK;
}

static enum ds4_status put_i32(struct imatrix_writer *w, uint32_t v, struct ds4_error *error)
{
    return put(w, &v, sizeof v, error);
}

enum ds4_status imatrix_write_begin(struct imatrix_writer *w, const char *path, uint32_t n_entries,
                                    struct ds4_error *error)
{
    *w = (struct imatrix_writer){.path = path, .fd = -1};
    int n = snprintf(w->part, sizeof w->part, "%s.part", path);
    if (n < 0 || (size_t)n >= sizeof w->part) return err_set(error, DS4_ERR_LIMIT, "the path of OUT is too long");
    TRY(file_open(w->part, FILE_CREATE_TRUNCATE, &w->fd, error));
    return put_i32(w, n_entries, error);
}

enum ds4_status imatrix_write_entry(struct imatrix_writer *w, const struct imatrix_entry *e, struct ds4_error *error)
{
    uint32_t length = (uint32_t)strlen(e->name);
    TRY(put_i32(w, length, error));
    TRY(put(w, e->name, length, error));
    TRY(put_i32(w, 1, error));
    TRY(put_i32(w, e->n, error));
    return put(w, e->values, (size_t)e->n * sizeof(float), error);
}

static enum ds4_status finish(struct imatrix_writer *w, uint32_t n_chunks, const char *dataset,
                              struct ds4_error *error)
{
    uint32_t length = (uint32_t)strnlen(dataset, IMATRIX_TAIL_BYTES_MAX);
    TRY(put_i32(w, n_chunks, error));
    TRY(put_i32(w, length, error));
    TRY(put(w, dataset, length, error));
    TRY(file_sync(w->fd, w->part, error));
    return file_rename(w->part, w->path, error);
}

enum ds4_status imatrix_write_end(struct imatrix_writer *w, bool keep, uint32_t n_chunks, const char *dataset,
                                  struct ds4_error *error)
{
    if (w->fd < 0) return DS4_OK;
    enum ds4_status status = keep ? finish(w, n_chunks, dataset, error) : DS4_OK;
    file_close(w->fd);
    if (!keep || status != DS4_OK) (void)!file_unlink(w->part, NULL);
    w->fd = -1;
    return status;
}
