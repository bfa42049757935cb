/* golden.c - see golden.h. */
#include "lib/golden.h"

#include <errno.h>
#include <lzma.h>
#include <stdio.h>

#include "base/mem.h"
#include "lib/test.h"

static size_t read_all(FILE *file, uint8_t **out)
{
    size_t len = 0, cap = 0;
    for (;;) {
        if (len == cap) {
            cap = cap ? 2 * cap : 65536;
            *out = mem_realloc(*out, cap + 1, 1);
            assert_non_null(*out);
        }
        size_t n = fread(*out + len, 1, cap - len, file);
        if (n == 0) return len;
        len += n;
    }
}

static size_t decompress(const uint8_t *packed, size_t n, uint8_t **out)
{
    size_t cap = n;
    for (;;) {
        uint64_t limit = UINT64_MAX;
        size_t in_pos = 0, out_pos = 0;
        cap *= 4;
        *out = mem_realloc(*out, cap + 1, 1);
        assert_non_null(*out);
        lzma_ret ret = lzma_stream_buffer_decode(&limit, 0, NULL, packed, &in_pos, n, *out, &out_pos, cap);
        if (ret == LZMA_OK) return out_pos;
        if (ret != LZMA_BUF_ERROR) fail_msg("xz says %d", (int)ret);
    }
}

char *golden_read(const char *path, size_t *len)
{
    uint8_t *bytes = NULL;
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("%s: %s", path, strerror(errno));
    *len = read_all(file, &bytes);
    (void)fclose(file);
    size_t n_path = strlen(path);
    if (n_path > 3 && strcmp(path + n_path - 3, ".xz") == 0) {
        uint8_t *plain = NULL;
        *len = decompress(bytes, *len, &plain);
        mem_free(bytes);
        bytes = plain;
    }
    bytes[*len] = 0;
    return (char *)bytes;
}

json_t *golden_json(const char *path)
{
    size_t len;
    json_error_t error;
    char *text = golden_read(path, &len);
    json_t *json = json_loadb(text, len, 0, &error);
    if (!json) fail_msg("%s: %s at line %d", path, error.text, error.line);
    mem_free(text);
    return json;
}
