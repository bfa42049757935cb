/* gguf_build.c - GGUF bytes by hand. See gguf_build.h. */
#include "lib/gguf_build.h"

#include "gguf/gguf.h"

void build_u32(struct gguf_build *b, uint32_t v) { buf_put(&b->bytes, &v, sizeof v); }
void build_u64(struct gguf_build *b, uint64_t v) { buf_put(&b->bytes, &v, sizeof v); }

void build_string(struct gguf_build *b, const char *text)
{
    build_u64(b, strlen(text));
    buf_put_text(&b->bytes, text);
}

void build_head(struct gguf_build *b, uint64_t n_tensors, uint64_t n_kvs)
{
    buf_put(&b->bytes, "GGUF", 4);
    build_u32(b, 3);
    build_u64(b, n_tensors);
    build_u64(b, n_kvs);
}

void build_key(struct gguf_build *b, const char *key, uint32_t type)
{
    build_string(b, key);
    build_u32(b, type);
}

void build_kv_u32(struct gguf_build *b, const char *key, uint32_t v)
{
    build_key(b, key, GGUF_U32);
    build_u32(b, v);
}

void build_kv_u16(struct gguf_build *b, const char *key, uint16_t v)
{
    build_key(b, key, GGUF_U16);
    buf_put(&b->bytes, &v, sizeof v);
}

void build_tensor(struct gguf_build *b, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                  uint64_t offset)
{
    build_string(b, name);
    build_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) build_u64(b, dims[i]);
    build_u32(b, type);
    build_u64(b, offset);
}

void build_zeros(struct gguf_build *b, size_t n)
{
    for (size_t i = 0; i < n; i++) buf_put_byte(&b->bytes, 0);
}

void build_pad(struct gguf_build *b, uint64_t n)
{
    while (b->bytes.text.len % n) buf_put_byte(&b->bytes, 0);
}

void build_mark(struct gguf_build *b) { b->mark = b->bytes.text.len; }

void build_good(struct gguf_build *b)
{
    build_head(b, 2, 2);
    build_key(b, "general.name", GGUF_STRING);
    build_string(b, "good");
    build_kv_u32(b, "answer", 42);
    build_tensor(b, "a", 0, 1, (uint64_t[]){8}, 0);
    build_tensor(b, "b", 8, 2, (uint64_t[]){32, 2}, 32);
    build_pad(b, 32);
    build_zeros(b, 32 + 68);
}
