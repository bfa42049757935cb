/* gguf_build.h - GGUF bytes by hand, right or wrong, for tests of the reader. Each function appends one piece. */
#ifndef DS4_TESTS_GGUF_BUILD_H
#define DS4_TESTS_GGUF_BUILD_H

#include "base/buf.h"

struct gguf_build {
    struct buf bytes;
    uint64_t mark; /* the byte that the reader should blame */
};

void build_u32(struct gguf_build *b, uint32_t v);
void build_u64(struct gguf_build *b, uint64_t v);
void build_string(struct gguf_build *b, const char *text);
/* Magic, version 3, counts. */
void build_head(struct gguf_build *b, uint64_t n_tensors, uint64_t n_kvs);
/* A key and the type of its value, which the caller appends. */
void build_key(struct gguf_build *b, const char *key, uint32_t type);
void build_kv_u32(struct gguf_build *b, const char *key, uint32_t v);
void build_kv_u16(struct gguf_build *b, const char *key, uint16_t v);
/* One tensor record of n_dims dimensions. */
void build_tensor(struct gguf_build *b, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                  uint64_t offset);
/* Zeros up to a multiple of n, or n zeros. */
void build_pad(struct gguf_build *b, uint64_t n);
void build_zeros(struct gguf_build *b, size_t n);
/* The next byte will be to blame. */
void build_mark(struct gguf_build *b);
/* A good small file: two keys, an F32 tensor "a" of 8 values and a Q8_0 tensor "b" of 2 x 32. */
void build_good(struct gguf_build *b);

#endif
