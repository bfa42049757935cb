/* usage.c - how often and when entries were used, kept across restarts. A hint only: without the file, or with a
 * damaged one, every entry counts as last used when it was made.
 *
 * File "usage-" and the identity in hexadecimal, little-endian:
 *   OFFSET  SIZE  DESCRIPTION
 *   0       4     magic "DS4U"
 *   4       4     number of records
 *   8       16    XXH3-128 of the records
 *   24      28 n  records: key 16, last use 8 (Unix seconds), hits 4 */
#include "store/store.h"

#include <stdio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"

#define HEAD_BYTES 24u
#define RECORD_BYTES 28u
#define FILE_BYTES_MAX (64u << 20)

static void usage_path(const struct ds4_store *s, char out[WRITER_PATH_BYTES])
{
    struct entry_key identity;
    char hex[DS4_STORE_KEY_TEXT];
    memcpy(identity.bytes, s->layout->digest, sizeof identity.bytes);
    store_key_text(&identity, hex);
    (void)snprintf(out, WRITER_PATH_BYTES, "%s/usage-%s", s->dir, hex);
}

static bool is_usage(const struct ds4_text *text)
{
    uint8_t digest[16];
    if (text->len < HEAD_BYTES || memcmp(text->ptr, "DS4U", 4) != 0) return false;
    if (text->len != HEAD_BYTES + (uint64_t)RECORD_BYTES * load_u32(text->ptr + 4)) return false;
    hash_bytes(text->ptr + HEAD_BYTES, text->len - HEAD_BYTES, digest);
    return memcmp(digest, text->ptr + 8, sizeof digest) == 0;
}

void usage_read(struct ds4_store *s)
{
    char path[WRITER_PATH_BYTES];
    struct ds4_text text = {0};
    uint64_t now = clock_unix_s();
    int fd;
    usage_path(s, path);
    if (file_open(path, FILE_READ_OWN, &fd, NULL) != DS4_OK) return; /* also: not a regular file */
    file_close(fd);
    if (file_read_all(path, FILE_BYTES_MAX, &text, NULL) == DS4_OK && is_usage(&text)) {
        for (size_t at = HEAD_BYTES; at < text.len; at += RECORD_BYTES) {
            struct entry_key key;
            memcpy(key.bytes, text.ptr + at, sizeof key.bytes);
            struct index_item *item = index_find(&s->index, &key);
            if (!item) continue;
            item->last_use = load_u64(text.ptr + at + 16);
            if (item->last_use > now) item->last_use = now; /* the clock was set back */
            item->hits = load_u32(text.ptr + at + 24);
        }
    }
    ds4_text_free(&text);
}

void usage_write(struct ds4_store *s)
{
    char path[WRITER_PATH_BYTES], temporary[WRITER_PATH_BYTES];
    struct buf out = {0};
    char head[HEAD_BYTES] = "DS4U";
    int fd;
    buf_put(&out, head, sizeof head);
    uint32_t n = 0;
    for (size_t i = 0; i < s->index.cap; i++) {
        const struct index_item *item = &s->index.items[i];
        char record[RECORD_BYTES];
        if (!item->bytes) continue;
        memcpy(record, item->key.bytes, 16);
        store_u64(record + 16, item->last_use);
        store_u32(record + 24, item->hits);
        buf_put(&out, record, sizeof record);
        n++;
    }
    if (!out.failed) {
        store_u32(out.text.ptr + 4, n);
        hash_bytes(out.text.ptr + HEAD_BYTES, out.text.len - HEAD_BYTES, (uint8_t *)out.text.ptr + 8);
        usage_path(s, path);
        (void)snprintf(temporary, sizeof temporary, "%s/.tmp-%ld-usage", s->dir, (long)getpid());
        if (file_open(temporary, FILE_CREATE_TRUNCATE, &fd, NULL) == DS4_OK) {
            enum ds4_status status = file_write_at(fd, temporary, 0, out.text.ptr, out.text.len, NULL);
            file_close(fd);
            if (status == DS4_OK) status = file_rename(temporary, path, NULL);
            if (status != DS4_OK) (void)!file_unlink(temporary, NULL);
        }
    }
    buf_deinit(&out);
}
