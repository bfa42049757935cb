/* gguf.h - GGUF files: bytes <-> descriptors of metadata and tensors. Knows no model.
 *
 * Input is hostile: every length is checked before it is believed, every refusal names the byte offset. A tensor that
 * is handed out is a verified span inside the file. Layout table: read.c. */
#ifndef DS4_GGUF_GGUF_H
#define DS4_GGUF_GGUF_H

#include "base/err.h"
#include "base/file.h"
#include "base/span.h"

#define GGUF_DIMS_MAX 4
#define GGUF_SHARDS_MAX 256

enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64,
    GGUF_I64, GGUF_F64
};

/* One value. Scalars and array items lie in the file's bytes (little-endian, unaligned). Borrows from the file. */
struct gguf_value {
    enum gguf_type type;       /* GGUF_ARRAY: see item_type */
    enum gguf_type item_type;
    uint64_t count;            /* items of an array; 1 for a scalar */
    const uint8_t *bytes;      /* first byte of the payload (strings: the u64 length) */
    uint64_t size_bytes;       /* of the payload */
    uint64_t offset;           /* of bytes in its file, for messages */
};

struct gguf_kv {
    struct ds4_span key;
    struct gguf_value value;
};

struct gguf_tensor {
    struct ds4_span name;
    uint32_t type;             /* GGUF type number; may be unknown: then size_bytes is 0 and data NULL */
    uint32_t n_dims;
    uint64_t dims[GGUF_DIMS_MAX]; /* dims[0] contiguous; missing ones are 1 */
    uint64_t size_bytes;
    uint32_t shard_i;
    uint64_t file_offset;      /* absolute, in its shard */
    const uint8_t *data;       /* in the mapping */
};

struct gguf_file; /* owns mappings, descriptors and an index by name */

struct gguf_limits { /* so that tests can shrink them; reasons: read.c */
    uint64_t kvs_max, tensors_max, key_bytes_max, name_bytes_max;
    uint64_t header_bytes_max; /* header, metadata and tensor directory together */
};
extern const struct gguf_limits gguf_limits_default;

/* Opens and verifies a file (shard 1 of a split one: the others are found by name). */
enum ds4_status gguf_open(const char *path, struct gguf_file **out, struct ds4_error *error) DS4_MUST_CHECK;
/* The same from memory (borrows bytes; one shard only). For tests and fuzzing. */
enum ds4_status gguf_open_memory(const uint8_t *bytes, uint64_t size, const struct gguf_limits *limits,
                                 struct gguf_file **out, struct ds4_error *error) DS4_MUST_CHECK;
void gguf_close(struct gguf_file *file);

size_t gguf_n_kvs(const struct gguf_file *file);
const struct gguf_kv *gguf_kv_at(const struct gguf_file *file, size_t i);
const struct gguf_value *gguf_find(const struct gguf_file *file, const char *key); /* NULL when absent */
size_t gguf_n_tensors(const struct gguf_file *file);
const struct gguf_tensor *gguf_tensor_at(const struct gguf_file *file, size_t i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf_file *file, struct ds4_span name); /* NULL when absent */
uint64_t gguf_file_bytes(const struct gguf_file *file);  /* all shards */
uint64_t gguf_header_bytes(const struct gguf_file *file); /* before the data of shard 1 */
uint32_t gguf_n_shards(const struct gguf_file *file);
const char *gguf_shard_path(const struct gguf_file *file, uint32_t shard_i);
/* Descriptor of the open shard for positioned reads; -1 for memory files. */
int gguf_shard_fd(const struct gguf_file *file, uint32_t shard_i);
/* What the shard was when it was opened; NULL for memory files. */
const struct file_id *gguf_shard_id(const struct gguf_file *file, uint32_t shard_i);
/* The mapped bytes of a shard. */
const uint8_t *gguf_shard_bytes(const struct gguf_file *file, uint32_t shard_i, uint64_t *size);
/* Makes a SIGBUS (a mapped file was cut short or its disk failed) one line on standard error and exit 74. For the main
 * program; process-wide. */
void gguf_catch_sigbus(void);
/* OK while no shard was replaced, truncated or changed since it was opened. */
enum ds4_status gguf_check_unchanged(const struct gguf_file *file, struct ds4_error *error) DS4_MUST_CHECK;

/* Typed access. Counts accept u8..u64 and non-negative i8..i64, reals accept f32 and f64 (finite). Errors (FORMAT) name
 * the key, what was expected and what stands there. Absent: DS4_ERR_STATE without a message, so callers may default. */
enum ds4_status gguf_get_u64(const struct gguf_file *file, const char *key, uint64_t *out, struct ds4_error *error);
enum ds4_status gguf_get_u32(const struct gguf_file *file, const char *key, uint32_t *out, struct ds4_error *error);
enum ds4_status gguf_get_f32(const struct gguf_file *file, const char *key, float *out, struct ds4_error *error);
enum ds4_status gguf_get_bool(const struct gguf_file *file, const char *key, bool *out, struct ds4_error *error);
enum ds4_status gguf_get_string(const struct gguf_file *file, const char *key, struct ds4_span *out,
                                struct ds4_error *error);
/* Items of an array (or of a scalar taken as an array of one), converted by declared type. */
enum ds4_status gguf_item_i64(const struct gguf_value *value, uint64_t i, int64_t *out);
enum ds4_status gguf_item_f64(const struct gguf_value *value, uint64_t i, double *out);
/* Walks a string array: *cursor = 0 at first; false at the end. */
bool gguf_next_string(const struct gguf_value *value, uint64_t *cursor, struct ds4_span *out);
const char *gguf_type_name(enum gguf_type type);

/* ---- writing: metadata and tensor directory first, then the data in the same order --------------------------- */

struct gguf_writer;
enum ds4_status gguf_writer_create(const char *path, struct gguf_writer **out, struct ds4_error *error) DS4_MUST_CHECK;
/* The same for a file that is written with interruptions: NAME.part of an earlier run is kept and continued, and stays
 * when this run fails, too. All puts must be those of the earlier run; what was written then is the caller's to
 * know. */
enum ds4_status gguf_writer_resume(const char *path, struct gguf_writer **out, struct ds4_error *error) DS4_MUST_CHECK;
/* Closes; an unfinished file is removed. */
void gguf_writer_destroy(struct gguf_writer *writer);
void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t v);
void gguf_put_f32(struct gguf_writer *w, const char *key, float v);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_put_string(struct gguf_writer *w, const char *key, struct ds4_span v);
void gguf_put_array_u32(struct gguf_writer *w, const char *key, const uint32_t *v, size_t n);
void gguf_put_array_u64(struct gguf_writer *w, const char *key, const uint64_t *v, size_t n);
void gguf_put_array_i32(struct gguf_writer *w, const char *key, const int32_t *v, size_t n);
void gguf_put_array_f32(struct gguf_writer *w, const char *key, const float *v, size_t n);
void gguf_put_array_string(struct gguf_writer *w, const char *key, const struct ds4_span *v, size_t n);
/* Copies a value from another file under the same or a new key. */
void gguf_put_value(struct gguf_writer *w, struct ds4_span key, const struct gguf_value *value);
/* Announces a tensor; its index is the number of earlier calls. */
void gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims);
/* Writes header and directory; no put_* afterwards. Reports the first error of all puts. */
enum ds4_status gguf_writer_begin(struct gguf_writer *w, struct ds4_error *error) DS4_MUST_CHECK;
/* Replaces item i of an array of u64 that was put, for what is known after the data only: at any time before finish. */
void gguf_writer_patch_u64(struct gguf_writer *w, const char *key, size_t i, uint64_t v);
/* Reads back what gguf_writer_data wrote. */
enum ds4_status gguf_writer_read(const struct gguf_writer *w, size_t i, uint64_t at, void *bytes, size_t n,
                                 struct ds4_error *error) DS4_MUST_CHECK;
uint64_t gguf_writer_tensor_bytes(const struct gguf_writer *w, size_t i);
uint64_t gguf_writer_tensor_offset(const struct gguf_writer *w, size_t i); /* absolute, valid after begin */
/* Writes bytes of tensor i at byte `at` inside it (any order; ranges never written stay holes of zeros). */
enum ds4_status gguf_writer_data(struct gguf_writer *w, size_t i, uint64_t at, const void *bytes, size_t n,
                                 struct ds4_error *error) DS4_MUST_CHECK;
/* Sets the final length (sparse where nothing was written), syncs and renames into place. */
enum ds4_status gguf_writer_finish(struct gguf_writer *w, struct ds4_error *error) DS4_MUST_CHECK;

#endif
