/* fuzz_config.c - config.json and tokenizer.json of a checkpoint, of any content: they become metadata that the reader
 * of GGUF accepts, or are refused with a sentence. Input: config.json, a NUL, tokenizer.json. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "tools/quantise.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[64], config[96], tokenizer[96], out[96];
static struct safetensors *checkpoint; /* of one small tensor */

static void check(bool promise)
{
    if (!promise) abort();
}

static void clean_up(void)
{
    safetensors_close(checkpoint);
    (void)unlink(config);
    (void)unlink(tokenizer);
    (void)unlink(out);
    (void)rmdir(folder);
}

static void set_up(void)
{
    static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    static uint8_t bytes[8 + sizeof header - 1 + 4];
    uint64_t n = sizeof header - 1;
    (void)snprintf(folder, sizeof folder, "/tmp/ds4-fuzz-config.XXXXXX");
    check(mkdtemp(folder) != NULL);
    (void)snprintf(config, sizeof config, "%s/config.json", folder);
    (void)snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", folder);
    (void)snprintf(out, sizeof out, "%s/out.gguf", folder);
    memcpy(bytes, &n, 8);
    memcpy(bytes + 8, header, n);
    check(safetensors_open_memory(bytes, sizeof bytes, &checkpoint, NULL) == DS4_OK);
    check(atexit(clean_up) == 0);
}

static void put_file(const char *path, const uint8_t *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    check(f && fwrite(data, 1, n, f) == n);
    check(fclose(f) == 0);
}

static void read_again(struct gguf_writer *w)
{
    struct gguf_file *file;
    struct ds4_error error = {0};
    enum ds4_status status = gguf_writer_begin(w, &error);
    if (status == DS4_OK) status = gguf_writer_finish(w, &error);
    if (status != DS4_OK) {
        check(error.message[0]);
        return;
    }
    check(gguf_open(out, &file, &error) == DS4_OK);
    check(gguf_find(file, "deepseek4.block_count") && gguf_find(file, "tokenizer.ggml.tokens"));
    gguf_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct quantise_source source = {.path = folder};
    struct gguf_writer *w;
    struct ds4_error error = {0};
    uint8_t digest[16];
    const uint8_t *cut = size ? memchr(data, 0, size) : NULL;
    if (!cut || size > 1 << 16) return 0;
    if (!checkpoint) set_up();
    source.checkpoint = checkpoint;
    put_file(config, data, (size_t)(cut - data));
    put_file(tokenizer, cut + 1, size - (size_t)(cut + 1 - data));
    check(gguf_writer_create(out, &w, &error) == DS4_OK);
    if (quantise_put_metadata(&source, w, digest, &error) == DS4_OK) read_again(w);
    else check(error.message[0]);
    gguf_writer_destroy(w);
    return 0;
}
