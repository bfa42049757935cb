/* fuzz_safetensors.c - the reader of checkpoints on any bytes: what it accepts lies inside the input and is found
 * again, what it refuses has a sentence. The input is the JSON header; length and data are put around it. */
#include <stdlib.h>
#include <string.h>

#include "tools/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DATA_BYTES 64u

static void check(bool promise)
{
    if (!promise) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *s;
    struct ds4_error error = {0};
    if (size > 1 << 16) return 0;
    size_t total = 8 + size + DATA_BYTES;
    uint8_t *bytes = calloc(1, total);
    uint64_t n = size;
    if (!bytes) return 0;
    memcpy(bytes, &n, 8);
    if (size) memcpy(bytes + 8, data, size);
    if (safetensors_open_memory(bytes, total, &s, &error) != DS4_OK) {
        check(!s && error.message[0]);
        free(bytes);
        return 0;
    }
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const struct safetensors_tensor *t = safetensors_at(s, i);
        uint8_t all[DATA_BYTES];
        check(t->file_offset >= 8 + size && t->size_bytes >= 1 && t->size_bytes <= total - t->file_offset);
        check(safetensors_find(s, t->name) == t);
        check(safetensors_read(s, t, 0, all, (size_t)t->size_bytes, NULL) == DS4_OK);
        check(safetensors_read(s, t, 1, all, (size_t)t->size_bytes, NULL) != DS4_OK);
    }
    safetensors_close(s);
    free(bytes);
    return 0;
}
