/* fuzz_gguf.c - the GGUF reader on any bytes. What it accepts is walked to the last byte of every value and tensor, so
 * that a span which leaves the input is seen; what it refuses must say where. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "gguf/gguf.h"
#include "quant/quant.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);

static volatile uint64_t sum; /* keeps the reads */

static void check(bool promise)
{
    if (!promise) abort();
}

static void walk_value(const struct gguf_file *file, const struct gguf_kv *kv)
{
    const struct gguf_value *v = &kv->value;
    uint64_t cursor = 0, n_strings = 0;
    struct ds4_span s;
    while (gguf_next_string(v, &cursor, &s)) {
        n_strings++;
        if (s.len) sum += (unsigned char)s.ptr[0] + (unsigned char)s.ptr[s.len - 1];
    }
    if (v->item_type == GGUF_STRING) check(n_strings == v->count && cursor == v->size_bytes);
    int64_t i64;
    double f64;
    for (uint64_t i = 0; i < v->count && i < 64; i++) {
        if (gguf_item_i64(v, i, &i64) == DS4_OK) sum += (uint64_t)i64;
        if (gguf_item_f64(v, i, &f64) == DS4_OK) sum += f64 > 0;
    }
    if (v->count) (void)gguf_item_i64(v, v->count - 1, &i64);
    check(gguf_item_i64(v, v->count, &i64) != DS4_OK && gguf_item_f64(v, v->count, &f64) != DS4_OK);
    if (kv->key.len < 200) {
        char key[200];
        memcpy(key, kv->key.ptr, kv->key.len);
        key[kv->key.len] = 0;
        check(gguf_find(file, key) == v);
        struct ds4_error error = {0};
        uint64_t u64;
        float f32;
        bool yes;
        if (gguf_get_u64(file, key, &u64, &error) == DS4_ERR_FORMAT) check(strstr(error.message, "byte ") != NULL);
        (void)gguf_get_f32(file, key, &f32, NULL);
        (void)gguf_get_bool(file, key, &yes, NULL);
        (void)gguf_get_string(file, key, &s, NULL);
    }
}

static void walk_tensor(const struct gguf_file *file, const struct gguf_tensor *t, const uint8_t *data, size_t size)
{
    const struct quant_format *format = quant_format(t->type);
    check(gguf_tensor_find(file, t->name) == t);
    if (!t->data) {
        check(!format);
        return;
    }
    check(t->data == data + t->file_offset && t->size_bytes <= size && t->file_offset <= size - t->size_bytes);
    check(t->size_bytes % format->block_bytes == 0);
    size_t n_elems = (size_t)t->size_bytes / format->block_bytes * format->block_elems;
    sum += t->data[0] + t->data[t->size_bytes - 1] + quant_scales_finite(format, t->data, n_elems);
    float values[256];
    if (format->decode) format->decode(t->data + t->size_bytes - format->block_bytes, values, format->block_elems);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct gguf_limits limits = {.kvs_max = 64, .tensors_max = 64, .key_bytes_max = 1000,
                                              .name_bytes_max = 100, .header_bytes_max = 1 << 20};
    struct gguf_file *file;
    struct ds4_error error = {0};
    if (gguf_open_memory(data, size, &limits, &file, &error) != DS4_OK) {
        check(!file && error.message[0] && strncmp(error.message, "memory", 6) == 0);
        return 0;
    }
    for (size_t i = 0; i < gguf_n_kvs(file); i++) walk_value(file, gguf_kv_at(file, i));
    for (size_t i = 0; i < gguf_n_tensors(file); i++) walk_tensor(file, gguf_tensor_at(file, i), data, size);
    gguf_close(file);
    return 0;
}

/* Every other mutation puts a number on the edge of something over four or eight bytes: fields are not aligned, and
 * random bytes seldom hit a length. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed)
{
    static const uint64_t edges[] = {0, 1, 2, 3, 4, 5, 8, 13, 16, 24, 31, 32, 33, 39, 64, 255, 256, 257, 4096, 65535,
                                     65536, 1ull << 31, (1ull << 31) - 1, UINT32_MAX, 1ull << 32, 1ull << 59,
                                     1ull << 61, 1ull << 62, (1ull << 63) - 1, 1ull << 63, UINT64_MAX - 31, UINT64_MAX};
    size_t n_bytes = seed & 2 ? 8 : 4;
    if (seed & 1 || size < 24) return LLVMFuzzerMutate(data, size, size_max);
    uint64_t edge = edges[(seed >> 2) % (sizeof edges / sizeof edges[0])];
    memcpy(data + (seed >> 8) % (size - n_bytes), &edge, n_bytes);
    return size;
}
