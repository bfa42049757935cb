/* impl.h - what the files of src/gguf share. Not for others. */
#ifndef DS4_GGUF_IMPL_H
#define DS4_GGUF_IMPL_H

#include "base/err.h"
#include "base/file.h"
#include "gguf/gguf.h"

#define GGUF_ALIGNMENT_DEFAULT 32u
#define GGUF_ALIGNMENT_MIN 8u
#define GGUF_ALIGNMENT_MAX (1u << 20)

/* Index by name: open addressing over numbers of the list that the caller keeps. */
struct gguf_names {
    uint32_t *slots; /* 0 = free, else 1 + number */
    uint64_t mask;
};
enum ds4_status gguf_names_init(struct gguf_names *names, size_t n_max) DS4_MUST_CHECK;
void gguf_names_deinit(struct gguf_names *names);
/* The slot that holds `name`, or the free one where it belongs; name_of(list, i) gives the i-th name. */
uint32_t *gguf_names_slot(const struct gguf_names *names, struct ds4_span name,
                          struct ds4_span (*name_of)(const void *list, size_t i), const void *list);
struct ds4_span gguf_kv_name(const void *kvs, size_t i);
struct ds4_span gguf_tensor_name(const void *tensors, size_t i);

/* What one file says of itself: read.c fills it from the bytes, verified. */
struct gguf_directory {
    struct gguf_kv *kvs;
    size_t n_kvs;
    struct gguf_names kv_names;
    struct gguf_tensor *tensors; /* shard_i = 0 */
    size_t n_tensors;
    struct gguf_names tensor_names;
    uint64_t alignment, data_base;
};
/* path stands in messages. On failure *directory holds nothing. */
enum ds4_status gguf_directory_read(const uint8_t *bytes, uint64_t size, const char *path,
                                    const struct gguf_limits *limits, struct gguf_directory *directory,
                                    struct ds4_error *error) DS4_MUST_CHECK;
void gguf_directory_deinit(struct gguf_directory *directory);

struct gguf_shard {
    char *path;
    int fd;
    const uint8_t *bytes;
    uint64_t size_bytes;
    struct file_id id;
    bool mapped;
};

struct gguf_file {
    struct gguf_shard shards[GGUF_SHARDS_MAX];
    uint32_t n_shards;
    struct gguf_directory directory; /* metadata of shard 1, tensors of all */
};

/* Bytes of one scalar; 0 for strings, arrays and unknown types. */
uint32_t gguf_scalar_bytes(uint32_t type);

/* A name of the file, for a message: at most 63 bytes, the unprintable ones as '?'. */
struct gguf_shown {
    char text[64];
};
struct gguf_shown gguf_show(struct ds4_span name);

#endif
