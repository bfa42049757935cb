/* safetensors.h - checkpoints in the published layout: a folder of safetensors files with their index.
 *
 * Input is hostile: a tensor that is handed out is a verified range of its file, and no shard lies outside the folder.
 * Values are not looked at. Layout and checks: safetensors.c. */
#ifndef DS4_TOOLS_SAFETENSORS_H
#define DS4_TOOLS_SAFETENSORS_H

#include "base/err.h"
#include "base/span.h"

#define SAFETENSORS_DIMS_MAX 4
#define SAFETENSORS_SHARDS_MAX 512   /* the largest relative has 163; each keeps a file open */
#define SAFETENSORS_TENSORS_MAX 1000000
#define SAFETENSORS_NAME_BYTES_MAX 255
/* Most bytes of JSON. Published headers have less than 10 MB; parsing takes up to 16 times as much memory. */
#define SAFETENSORS_JSON_BYTES_MAX ((size_t)64 << 20)

/* X-macro: name as in the header, bytes of an element. */
#define SAFETENSORS_TYPES(X) \
    X(BOOL, 1) X(U8, 1) X(I8, 1) X(F8_E4M3, 1) X(F8_E5M2, 1) X(F8_E8M0, 1) X(I16, 2) X(U16, 2) X(F16, 2) X(BF16, 2) \
    X(I32, 4) X(U32, 4) X(F32, 4) X(I64, 8) X(U64, 8) X(F64, 8)
enum safetensors_type {
#define X(name, bytes) SAFETENSORS_##name,
    SAFETENSORS_TYPES(X)
#undef X
};
const char *safetensors_type_name(enum safetensors_type type);

struct safetensors_tensor {
    struct ds4_span name;
    enum safetensors_type type;
    uint32_t n_dims;                     /* 0: a scalar */
    uint64_t dims[SAFETENSORS_DIMS_MAX]; /* outermost first; missing ones are 1 */
    uint32_t shard_i;
    uint64_t file_offset, size_bytes;    /* in its shard */
};

struct safetensors; /* owns open files and the list of tensors */

/* Opens the folder: model.safetensors.index.json and its shards, or a lone model.safetensors. */
enum ds4_status safetensors_open(const char *folder, struct safetensors **out, struct ds4_error *error) DS4_MUST_CHECK;
/* One file in memory (borrows bytes), for tests and fuzzing. */
enum ds4_status safetensors_open_memory(const uint8_t *bytes, uint64_t size, struct safetensors **out,
                                        struct ds4_error *error) DS4_MUST_CHECK;
void safetensors_close(struct safetensors *s);

size_t safetensors_count(const struct safetensors *s);
const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t i); /* in order of names */
const struct safetensors_tensor *safetensors_find(const struct safetensors *s, struct ds4_span name); /* or NULL */
/* Reads n bytes at byte `at` of a tensor. Any thread. */
enum ds4_status safetensors_read(const struct safetensors *s, const struct safetensors_tensor *t, uint64_t at,
                                 void *buf, size_t n, struct ds4_error *error) DS4_MUST_CHECK;
uint64_t safetensors_bytes(const struct safetensors *s); /* of all shards */
/* Changes when a shard is written again. */
uint64_t safetensors_stamp(const struct safetensors *s);
/* Identity of what the headers say: names, types, shapes and places. Not of the values. */
void safetensors_digest(const struct safetensors *s, uint8_t digest[16]);

#endif
