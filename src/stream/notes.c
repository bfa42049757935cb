/* notes.c - reading and writing notes. See notes.h. */
#include "stream/notes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#define MAGIC "ds4notes"
#define VERSION 2u
#define HEAD_BYTES 112u
#define PATH_BYTES 4200

static size_t file_bytes(const struct notes *n) { return HEAD_BYTES + (size_t)n->n_layers * n->n_experts * 4 + 8; }

static double number_at(const uint8_t *from)
{
    double value = load_f64(from);
    return isfinite(value) && value >= 0 ? value : 0;
}

static void store_f64(uint8_t *to, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    store_u64(to, bits);
}

static enum ds4_status take(const uint8_t *b, size_t n_bytes, const char *path, struct notes *n,
                            struct ds4_error *error)
{
    bool sound = n_bytes == file_bytes(n) && memcmp(b, MAGIC, 8) == 0 && load_u32(b + 8) == VERSION &&
                 load_u32(b + 12) == n->n_layers && load_u32(b + 16) == n->n_experts &&
                 memcmp(b + 24, n->digest, 16) == 0 && load_u64(b + n_bytes - 8) == hash_u64(b, n_bytes - 8);
    if (!sound) return err_set(error, DS4_ERR_FORMAT, "%s is damaged, or about another model", path);
    n->tokens = number_at(b + 40);
    n->disk_bytes_per_s = number_at(b + 48);
    n->dense_seconds = number_at(b + 56);
    n->expert_seconds = number_at(b + 64);
    n->wait_seconds = number_at(b + 72);
    n->ahead_share = number_at(b + 80);
    n->vain_share = number_at(b + 88);
    n->hit_ratio = number_at(b + 96);
    n->compute_ratio = number_at(b + 104);
    if (n->ahead_share > 1) n->ahead_share = 1;
    for (size_t i = 0; i < (size_t)n->n_layers * n->n_experts; i++) {
        float rate = load_f32(b + HEAD_BYTES + 4 * i);
        n->rates[i] = rate >= 0 && rate <= 1 ? rate : 0;
    }
    return DS4_OK;
}

enum ds4_status notes_read(const char *path, struct notes *notes, struct ds4_error *error)
{
    struct ds4_text text = {0};
    enum ds4_status status = file_read_all(path, file_bytes(notes), &text, error);
    if (status == DS4_OK) status = take((const uint8_t *)text.ptr, text.len, path, notes, error);
    ds4_text_free(&text);
    return status;
}

static enum ds4_status write_new(const char *path, const uint8_t *bytes, size_t n, struct ds4_error *error)
{
    int fd;
    TRY(file_open(path, FILE_CREATE_TRUNCATE, &fd, error));
    enum ds4_status status = file_write_at(fd, path, 0, bytes, n, error);
    if (status == DS4_OK) status = file_sync(fd, path, error);
    file_close(fd);
    return status;
}

enum ds4_status notes_write(const char *path, const struct notes *n, struct ds4_error *error)
{
    char part[PATH_BYTES];
    size_t n_bytes = file_bytes(n);
    int len = snprintf(part, sizeof part, "%s.part", path);
    if (len < 0 || (size_t)len >= sizeof part) return err_set(error, DS4_ERR_LIMIT, "a path of %d characters", len);
    uint8_t *b = mem_zalloc(n_bytes, 1);
    if (!b) return err_set(error, DS4_ERR_NOMEM, "no memory for %zu bytes of notes", n_bytes);
    memcpy(b, MAGIC, 8);
    store_u32(b + 8, VERSION);
    store_u32(b + 12, n->n_layers);
    store_u32(b + 16, n->n_experts);
    memcpy(b + 24, n->digest, 16);
    store_f64(b + 40, n->tokens);
    store_f64(b + 48, n->disk_bytes_per_s);
    store_f64(b + 56, n->dense_seconds);
    store_f64(b + 64, n->expert_seconds);
    store_f64(b + 72, n->wait_seconds);
    store_f64(b + 80, n->ahead_share);
    store_f64(b + 88, n->vain_share);
    store_f64(b + 96, n->hit_ratio);
    store_f64(b + 104, n->compute_ratio);
    for (size_t i = 0; i < (size_t)n->n_layers * n->n_experts; i++) store_f32(b + HEAD_BYTES + 4 * i, n->rates[i]);
    store_u64(b + n_bytes - 8, hash_u64(b, n_bytes - 8));
    enum ds4_status status = write_new(part, b, n_bytes, error);
    mem_free(b);
    if (status == DS4_OK) status = file_rename(part, path, error);
    if (status != DS4_OK) (void)!file_unlink(part, NULL);
    return status;
}
